//! What several kernel families share.

pub mod math;

pub(crate) mod copy;
#[cfg(test)]
pub(crate) mod testing;
