//! What a caller may choose when a model is made.

use crate::profile::Profile;
use crate::threads::Threads;
use kiln_kernels::isa::Isa;
use std::path::PathBuf;

/// Choices for [`Model::with`](crate::Model::with); the default suits most.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Options {
    /// The threads to run on; by default the pool of the process.
    pub threads: Option<Threads>,
    /// Where the weights are.
    pub weights: Weights,
    /// The best instruction set to use; by default the best the machine has.
    pub isa: Option<Isa>,
    /// Where runs are recorded, step by step; by default they are not.
    pub profile: Option<Profile>,
    /// Where those of its plan for a GPU are, which are packed otherwise.
    pub device_weights: Weights,
    /// What the model runs on.
    pub device: Device,
    /// Whether a kernel of a GPU begins while the one before it ends (programmatic dependent launch, from sm_90 on). What it computes is the
    /// same; how much time that saves has not been measured, so it is off by default.
    pub overlap: bool,
}

/// What a model runs on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Device {
    /// The first GPU where the model was compiled for one and there is one, else the CPU. [`Instance::device`](crate::Instance::device)
    /// says which it is, and why.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU of that number, as `CUDA_VISIBLE_DEVICES` leaves them; an error where it cannot be used.
    Cuda(usize),
    /// The GPU, or the slice of one (MIG), of that UUID.
    CudaUuid([u8; 16]),
}

/// Where the weights of a model are.
#[derive(Clone, Debug, Default)]
pub enum Weights {
    /// Where the compiler put them: in the binary.
    #[default]
    Default,
    /// In a file the compiler wrote.
    File(PathBuf),
    /// In bytes the compiler wrote; copied.
    Bytes(std::sync::Arc<[u8]>),
}

impl Options {
    /// Runs on these threads.
    pub fn threads(mut self, threads: Threads) -> Self {
        self.threads = Some(threads);
        self
    }
    /// Uses these weights.
    pub fn weights(mut self, weights: Weights) -> Self {
        self.weights = weights;
        self
    }
    /// Uses these on a GPU.
    pub fn device_weights(mut self, weights: Weights) -> Self {
        self.device_weights = weights;
        self
    }
    /// Uses no better instruction set than this.
    pub fn isa(mut self, isa: Isa) -> Self {
        self.isa = Some(isa);
        self
    }
    /// Runs on this device.
    pub fn device(mut self, device: Device) -> Self {
        self.device = device;
        self
    }
    /// Lets kernels of a GPU overlap.
    pub fn overlap(mut self, overlap: bool) -> Self {
        self.overlap = overlap;
        self
    }
    /// Records runs there, also those of forks.
    pub fn profile(mut self, profile: Profile) -> Self {
        self.profile = Some(profile);
        self
    }
}
