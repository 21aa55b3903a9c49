//! Models on NVIDIA GPUs: the driver, loaded at run time, and what an instance has on a device.

mod clock;
mod driver;
mod machine;
mod memory;
mod ranges;
mod shared;

pub use clock::DeviceTime;
pub(crate) use machine::{Given, Machine};
pub(crate) use shared::{Shared, Wanted};

use crate::spec::Spec;

/// Rows of elements of 16 bits in memory of the device, as the tensor memory accelerator brings them to kernels: in boxes of 128 bytes of
/// some rows. They begin at multiples of 16 bytes; what lies outside of them is zero.
#[derive(Clone, Copy, Debug)]
pub struct Rows {
    /// The address of the first one.
    pub at: u64,
    /// How many there are.
    pub rows: usize,
    /// Elements of a row.
    pub depth: usize,
    /// Elements from row to row.
    pub pitch: usize,
    /// Rows of a box.
    pub of_box: usize,
}

impl Rows {
    /// Bytes of a row of a box.
    const BOX: usize = 128;
}

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
    /// Which inputs the CPU reads, or hands out.
    pub reads_here: &'static [bool],
    /// Whether every run launches the same, so that one can be recorded and launched again as a whole.
    pub replays: bool,
    /// Symbols that change from run to run. What kernels take of them they read from memory, and grids have room for the most they can be, so
    /// that one recording serves all their values.
    pub lengths: &'static [usize],
    /// How many numbers kernels read there, and what they are for symbols that the inputs have bound.
    pub words: usize,
    /// Writes them.
    pub live: fn(&[i64], &mut [i64]),
}
