//! Kernel sources of the Kiln compiler: every family in a folder of its own, over plain slices.

extern crate alloc;

pub mod attention;
pub mod conv;
pub mod copy;
pub mod cuda;
pub mod depthwise;
pub mod dtype;
pub mod entry;
pub mod fault;
pub mod gather;
pub mod gemm;
pub mod host;
pub mod igemm;
pub mod index;
pub mod isa;
pub mod linalg;
pub mod narrow;
pub mod norm;
pub mod num;
pub mod peak;
pub mod plain;
pub mod pool;
pub mod quantize;
pub mod reduce;
pub mod resize;
pub mod rnn;
pub mod rotary;
pub mod rows;
pub mod sample;
pub mod scan;
pub mod scatter;
mod simd;
pub mod softmax;
pub mod sort;
pub mod strips;
pub mod support;
pub mod svm;
#[cfg(target_arch = "x86_64")]
mod tiles;
pub mod transpose;
pub mod trees;
pub mod value;
pub mod winograd;
pub mod wire;
