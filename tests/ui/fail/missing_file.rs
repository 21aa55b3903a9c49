kiln::model! { struct M = "nowhere.onnx"; }

fn main() {}
