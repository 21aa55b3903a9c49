kiln::model! { struct M = "ui/mlp.onnx"; target { tpu } }

fn main() {}
