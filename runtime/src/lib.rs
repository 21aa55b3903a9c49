//! The runtime that models compiled by Kiln link against, and with the feature `macros` the macro that compiles them.
//!
//! ```ignore
//! kiln::model!("models/resnet50.onnx");
//!
//! let mut net = Resnet50::new()?;
//! let out = net.run(&image)?;
//! ```
//!
//! The long form chooses names, dimensions and where the weights go:
//!
//! ```ignore
//! kiln::model! {
//!     pub struct Bert = "models/bert.onnx";
//!     dims    { batch = 1, seq in 1..=512 }
//!     inputs  { ids = "input_ids", mask = "attention_mask", types = "token_type_ids" }
//!     weights embedded
//! }
//! ```

mod cuda;
mod error;
mod frame;
#[cfg(feature = "harness")]
#[doc(hidden)]
pub mod harness;
mod instance;
mod loaded;
mod memory;
mod model;
mod options;
mod profile;
mod resident;
mod spec;
mod state;
pub mod threads;
mod view;

pub use cuda::DeviceTime;
pub use error::{Error, Result};
pub use instance::{DeviceInfo, Instance};
pub use kiln_kernels::dtype::{DType, bf16, f16};
pub use kiln_kernels::isa::Isa;
pub use kiln_kernels::value::{Tensor, Value};
#[cfg(feature = "macros")]
pub use kiln_macros::model;
pub use model::Model;
pub use options::{Device, Options, Weights};
pub use profile::{Event, Profile, Share};
pub use resident::{DeviceTensor, Source};
pub use spec::{Port, PortDim, PortKind, Work};
pub use state::{State, StateMut};
pub use threads::Threads;
pub use view::{Closed, Open, Scalar, View};

#[doc(hidden)]
pub mod rt;

/// Includes a model that the build script compiled: the name is the stem of its file.
#[macro_export]
macro_rules! include_model {
    ($stem:literal) => {
        include!(concat!(env!("OUT_DIR"), "/", $stem, ".rs"));
    };
}
