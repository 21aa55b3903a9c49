//! Claims about the whole of Kiln live in the test targets of this crate.
