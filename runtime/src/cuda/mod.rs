//! Models on NVIDIA GPUs: the driver, loaded at run time, and what an instance has on a device.

mod clock;
mod driver;
mod machine;
mod shared;

pub use clock::DeviceTime;
pub(crate) use machine::Machine;
pub(crate) use shared::{Shared, Wanted};

use crate::spec::Spec;

/// What generated code says of a model for a GPU.
#[derive(Clone, Copy, Debug)]
pub struct DeviceSpec {
    /// Its ports, memory and steps, which are others than those for the CPU.
    pub spec: &'static Spec,
    /// The compiled kernels, and their bytes.
    pub image: fn() -> (*const u8, usize),
    /// The names of the kernels, which launches number.
    pub kernels: &'static [&'static str],
    /// Bytes of memory that kernels share from launch to launch; the first ones are zero between launches.
    pub scratch: usize,
    /// Which inputs kernels read.
    pub uploads: &'static [bool],
    /// Whether every run launches the same, so that one can be recorded and launched again as a whole.
    pub replays: bool,
}
