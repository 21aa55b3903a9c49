//! The runtime that models compiled by Kiln link against.

mod error;
mod frame;
#[cfg(feature = "harness")]
#[doc(hidden)]
pub mod harness;
mod instance;
mod memory;
mod model;
mod options;
mod spec;
pub mod threads;

pub use error::{Error, Result};
pub use instance::Instance;
pub use kiln_kernels::dtype::{DType, bf16, f16};
pub use kiln_kernels::isa::Isa;
pub use kiln_kernels::value::{Tensor, Value};
pub use model::Model;
pub use options::{Options, Weights};
pub use spec::{Port, PortDim, PortKind};
pub use threads::Threads;

#[doc(hidden)]
pub mod rt;
