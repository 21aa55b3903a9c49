kiln::model! { struct M = "ui/mlp.onnx"; target { cuda } }

fn main() {}
