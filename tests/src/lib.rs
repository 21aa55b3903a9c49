//! Claims about the whole of Kiln live in the test targets of this crate; what they share lives here.
//!
//! An array of the right size runs:
//!
//! ```
//! kiln::model! { struct Convnet = "models/convnet.onnx"; }
//! # fn main() {
//! let mut net = Convnet::new().unwrap();
//! net.run(&[0f32; 969]).unwrap();
//! # }
//! ```
//!
//! One of another size does not compile:
//!
//! ```compile_fail,E0277
//! kiln::model! { struct Convnet = "models/convnet.onnx"; }
//! # fn main() {
//! let mut net = Convnet::new().unwrap();
//! net.run(&[0f32; 968]).unwrap();
//! # }
//! ```

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

pub mod causal;
pub mod compiled;
pub mod detector;
pub mod experts;
pub mod hostile;
pub mod models;
pub mod plans;
pub mod random;
pub mod samples;
pub mod transformers;
pub mod writer;
pub use kiln_cli::suite;

/// The command `kiln`, built beside the test that asks for it.
pub fn command() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let test = std::env::current_exe().unwrap();
        let profile = test.ancestors().nth(2).unwrap();
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--offline", "--package", "kiln-cli", "--target-dir"]).arg(profile.parent().unwrap());
        if profile.ends_with("release") {
            build.arg("--release");
        }
        assert!(build.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).status().unwrap().success());
        profile.join("kiln")
    })
}
