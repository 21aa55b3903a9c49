kiln::model! { struct M = "ui/mlp.onnx"; colour blue }

fn main() {}
