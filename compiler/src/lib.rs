//! The Kiln compiler: reads an ONNX model and leaves specialised Rust source.

pub mod diagnostics;
pub mod onnx;
