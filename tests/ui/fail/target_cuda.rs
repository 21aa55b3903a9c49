kiln::model! { struct M = "../../../../tests/models/mlp.onnx"; target { cuda } }

fn main() {}
