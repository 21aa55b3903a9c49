//! Kernel sources of the Kiln compiler: every family in a folder of its own, over plain slices.

extern crate alloc;

pub mod dtype;
pub mod gemm;
pub mod isa;
pub mod support;
pub mod value;
