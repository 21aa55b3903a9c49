//! Compiles the model before the crate that includes it.

use kiln_compiler::Build;

fn main() {
    let built = Build::new("bert.onnx")
        .dim_in("batch", 1..=8)
        .dim_in("seq", 1..=64)
        .field("ids", "input_ids")
        .field("mask", "attention_mask")
        .field("types", "token_type_ids")
        .compile();
    if let Err(e) = built {
        eprintln!("{e}");
        std::process::exit(1);
    }
}
