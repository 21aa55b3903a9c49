//! The runtime that models compiled by Kiln link against.

mod error;
mod frame;
mod instance;
mod memory;
mod model;
mod options;
mod spec;
pub mod threads;
mod view;

pub use error::{Error, Result};
pub use instance::{DeviceInfo, Instance};
pub use kiln_kernels::dtype::{DType, bf16, f16};
pub use kiln_kernels::isa::Isa;
pub use kiln_kernels::value::{Tensor, Value};
pub use model::Model;
pub use options::{Options, Weights};
pub use spec::{Port, PortDim, PortKind};
pub use threads::Threads;
pub use view::{Closed, Open, Scalar, View};

#[doc(hidden)]
pub mod rt;
