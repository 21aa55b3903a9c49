//! Generates.
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let t = std::time::Instant::now();
    let o = kiln_compiler::compile(&kiln_compiler::Options { model: (&a[1]).into(), ..Default::default() });
    let o = match o {
        Ok(o) => o,
        Err(e) => {
            eprintln!("{e}");
            std::process::exit(1)
        }
    };
    eprintln!("{:#?} {:?}", o.report, t.elapsed());
    let n =
        kiln_compiler::emit::Names::new("Net", kiln_compiler::emit::WeightsAt::Embedded(format!("{:?}", format!("{}/weights.bin", a[2]))));
    std::fs::write(format!("{}/src/net.rs", a[2]), o.rust(&n).unwrap()).unwrap();
    let mut w = std::io::BufWriter::new(std::fs::File::create(format!("{}/weights.bin", a[2])).unwrap());
    o.write_weights(&mut w).unwrap();
    eprintln!("{:?}", t.elapsed());
}
