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
mod reduce;
mod roofline;
pub mod suite;
mod svg;
mod verbs;

pub use args::main;

use kiln_kernels::value::Value;

/// Compiles cases, many to a crate, builds and runs them; `each` hears in their order what each gave for its data sets, or why it gave
/// nothing. The calling program is started again as `modules`, and hands that to [`main`].
///
/// # Errors
/// A tool is missing, or no file can be written.
pub fn run_cases(cases: &[suite::Case], each: &mut dyn FnMut(usize, Result<Vec<Vec<Value>>, String>)) -> Result<(), String> {
    batch::run(cases, &[], each).map_err(|e| format!("{e:?}"))
}
