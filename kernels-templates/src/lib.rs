//! Kernel sources of the Kiln compiler: every family in a folder of its own, over plain slices.

extern crate alloc;

pub mod conv;
pub mod depthwise;
pub mod dtype;
pub mod gemm;
pub mod isa;
pub mod norm;
pub mod pool;
mod simd;
pub mod softmax;
pub mod support;
pub mod transpose;
pub mod value;
