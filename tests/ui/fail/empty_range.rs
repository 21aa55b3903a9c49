kiln::model! { struct M = "../../../../tests/models/mlp.onnx"; dims { batch in 8..=1 } }

fn main() {}
