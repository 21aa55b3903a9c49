kiln::model! { struct Convnet = "../../../../tests/models/convnet.onnx"; }

fn main() {
    let mut net = Convnet::new().unwrap();
    net.run(&[0f32; 968]).unwrap();
}
