//! The runtime that models compiled by Kiln link against.

pub mod threads;
