//! What several kernel families share.

pub mod math;
