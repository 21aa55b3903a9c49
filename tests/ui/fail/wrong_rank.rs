kiln::model! { struct M = "../../../../tests/models/mlp.onnx"; inputs { rows = "x" as [1, 2, 3] } }

fn main() {}
