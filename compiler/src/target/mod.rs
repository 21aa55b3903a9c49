//! Machines that kernels are chosen for, and how near to the direct sums they must stay.

pub mod cpu;
pub mod cuda;
mod tuning;

pub use cuda::{Cuda, Element, Precision};
pub use tuning::{Choice, Gpu, METHODS, Tune, Tuning, name as method_name};

/// Which algorithms may compute a result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Accuracy {
    /// Direct ones, in a fixed order.
    Exact,
    /// Also those whose error stays near that of direct f32: convolutions by Winograd's minimal filtering, products by
    /// the digits of their operands on machines that multiply bytes faster.
    #[default]
    Standard,
    /// As the standard, and reduced precision where it pays: constants rounded to bf16, by 2^-9 of each at most, in products of up to eight
    /// rows, which read them once.
    Fast,
}

impl Accuracy {
    /// Their names, as options have them.
    pub const NAMES: [&'static str; 3] = ["exact", "standard", "fast"];

    /// The level of that name.
    pub fn from_name(name: &str) -> Option<Accuracy> {
        let at = Accuracy::NAMES.iter().position(|n| *n == name)?;
        Some(Accuracy::LEVELS[at])
    }
    const LEVELS: [Accuracy; 3] = [Accuracy::Exact, Accuracy::Standard, Accuracy::Fast];

    /// The name of the level.
    pub fn name(self) -> &'static str {
        let at = Accuracy::LEVELS.iter().position(|l| *l == self);
        Accuracy::NAMES[at.unwrap_or(0)]
    }
}
