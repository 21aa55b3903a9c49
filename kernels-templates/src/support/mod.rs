//! What several kernel families share.

pub mod math;
pub mod scalar;

pub(crate) mod copy;
pub(crate) mod lanes;
#[cfg(test)]
pub(crate) mod testing;
