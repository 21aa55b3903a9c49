kiln::model! { struct M = "../../../../tests/models/mlp.onnx"; dims { sequence = 3 } }

fn main() {}
