kiln::model! { struct M = "ui/mlp.onnx"; inputs { rows = "x" as [1, 2, 3] } }

fn main() {}
