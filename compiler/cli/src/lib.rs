//! The command `kiln`: a file a verb, and what verbs share.

mod alone;
mod args;
mod batch;
mod cache;
mod cargo;
mod chance;
mod children;
mod crates;
mod data;
mod difference;
mod failure;
mod job;
mod model;
mod npy;
mod package;
mod roofline;
pub mod suite;
mod svg;
mod verbs;

pub use args::main;
