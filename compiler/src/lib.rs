//! The Kiln compiler: reads an ONNX model and leaves specialised Rust source.

pub mod artifact;
mod builder;
pub mod compile;
pub mod diagnostics;
pub mod emit;
pub mod eval;
pub mod explain;
pub mod fusion;
pub mod import;
pub mod ir;
pub mod kernel;
mod key;
pub mod layout;
pub mod onnx;
pub mod ops;
pub mod pipeline;
pub mod plan;
pub mod rewrite;
pub mod state;
pub mod target;

pub use builder::{Build, names_of};
pub use compile::{Options, Output, compile};
pub use state::Pairing;
pub use target::{Accuracy, Cuda, Precision, Tune};
