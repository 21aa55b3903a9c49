//! Kernel sources of the Kiln compiler: every family in a folder of its own, over plain slices.

extern crate alloc;

pub mod copy;
pub mod dtype;
pub mod entry;
pub mod fault;
pub mod gather;
pub mod host;
pub mod index;
pub mod num;
pub mod plain;
pub mod reduce;
pub mod resize;
pub mod rows;
pub mod scan;
pub mod scatter;
pub mod sort;
pub mod value;
