kiln::model! { struct M = "../../../../tests/models/mlp.onnx"; colour blue }

fn main() {}
