//! A model that does not compile gives one error, whatever is done with its types.

kiln::model! {
    pub struct Net = "models/there_is_none.onnx";
}

struct Server {
    net: Net,
}

fn largest(out: &NetOutputs<'_>) -> f32 {
    out.logits.iter().copied().fold(0.0, f32::max)
}

fn main() {
    let mut net = Net::new().unwrap();
    println!("{:?} {:?} {}", Net::ARENA_BYTES, Net::INPUTS, Net::MODEL_HASH);
    let ids = [1i64; 4];
    let out = net.run(NetInputs { ids: (&ids).into(), mask: (&ids).into() }).unwrap();
    println!("{:?} {}", out.logits.shape(), largest(&out));
    net.input_mut().unwrap().ids[0] = 3;
    let mut server = Server { net: net.fork().unwrap() };
    let mut buffers = NetBuffers::default();
    let thread = std::thread::spawn(move || server.net.run_into(&ids, &mut buffers));
    thread.join().unwrap().unwrap();
}
