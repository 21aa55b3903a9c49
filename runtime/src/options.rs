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
    /// Uses no better instruction set than this.
    pub fn isa(mut self, isa: Isa) -> Self {
        self.isa = Some(isa);
        self
    }
    /// Records runs there, also those of forks.
    pub fn profile(mut self, profile: Profile) -> Self {
        self.profile = Some(profile);
        self
    }
}
