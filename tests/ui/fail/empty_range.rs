kiln::model! { struct M = "ui/mlp.onnx"; dims { batch in 8..=1 } }

fn main() {}
