//! The Kiln compiler: reads an ONNX model and leaves specialised Rust source.

pub mod diagnostics;
pub mod eval;
pub mod import;
pub mod ir;
pub mod kernel;
pub mod onnx;
pub mod ops;
pub mod pipeline;
pub mod rewrite;
