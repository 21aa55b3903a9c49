//! Claims about the whole of Kiln live in the test targets of this crate; what they share lives here.

pub mod hostile;
pub mod models;
pub mod samples;
pub use kiln_cli::suite;
