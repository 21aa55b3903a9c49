kiln::model! { struct M = "ui/mlp.onnx"; dims { sequence = 3 } }

fn main() {}
