//! NVIDIA GPUs: which kernels of a plan they compute, and in which precision.

mod attention;
mod element;
mod form;
pub mod image;
mod select;
mod tile;
pub mod toolchain;

use attention::choose as attention_of;
pub use attention::{Attention, Heads};
pub use element::Element;
pub use form::{Decision, Form, Forms, Wanted};
pub use select::{pack, refusal};
pub use tile::{COUNTERS, PROCESSORS, Product, Supply, Tile};

use super::Accuracy;
use kiln_kernels::dtype::{DType, bf16, f16};

/// In what products of floats are computed, and values between kernels are stored.
///
/// Sums are kept in f32 in every case, and pointwise parts are computed in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Precision {
    /// Multiply-adds of f32.
    #[default]
    F32,
    /// Products of f32 rounded to 10 bits of mantissa, by matrix units; values are stored as f32.
    Tf32,
    /// Products and values of f16.
    F16,
    /// Products and values of bf16.
    Bf16,
}

impl Precision {
    /// Their names, as options have them.
    pub const NAMES: [&'static str; 4] = ["f32", "tf32", "f16", "bf16"];
    const ALL: [Precision; 4] = [Precision::F32, Precision::Tf32, Precision::F16, Precision::Bf16];

    /// The precision of that name.
    pub fn from_name(name: &str) -> Option<Precision> {
        let at = Precision::NAMES.iter().position(|n| *n == name)?;
        Some(Precision::ALL[at])
    }
    /// What a level of accuracy asks for where no precision is named.
    pub fn of(accuracy: Accuracy) -> Precision {
        if accuracy == Accuracy::Fast { Precision::F16 } else { Precision::F32 }
    }
    /// Its name.
    pub fn name(self) -> &'static str {
        let at = Precision::ALL.iter().position(|p| *p == self);
        Precision::NAMES[at.unwrap_or(0)]
    }
    /// The type that stores a value of f32 between kernels.
    pub fn stored(self) -> DType {
        match self {
            Precision::F32 | Precision::Tf32 => DType::F32,
            Precision::F16 => DType::F16,
            Precision::Bf16 => DType::Bf16,
        }
    }
    /// The word for elements of products in templates.
    pub fn element(self) -> &'static str {
        match self {
            Precision::F32 => "float",
            Precision::Tf32 => "tf32",
            Precision::F16 => "half",
            Precision::Bf16 => "bf16",
        }
    }
    /// Bytes of an element of products.
    pub fn bytes(self) -> usize {
        self.stored().size()
    }
    /// Writes an element as products read it, rounded to the nearest.
    pub fn write(self, x: f32, out: &mut [u8]) {
        match self {
            Precision::F32 => out.copy_from_slice(&x.to_le_bytes()),
            // To the nearest of 10 bits, ties away from zero, as `cvt.rna.tf32.f32` has it.
            Precision::Tf32 => {
                let bits = if x.is_nan() { x.to_bits() } else { x.to_bits().wrapping_add(0x1000) & 0xffff_e000 };
                out.copy_from_slice(&bits.to_le_bytes());
            }
            Precision::F16 => out.copy_from_slice(&f16::from_f32(x).0.to_le_bytes()),
            Precision::Bf16 => out.copy_from_slice(&bf16::from_f32(x).0.to_le_bytes()),
        }
    }
}

/// What a model is compiled for beside the CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cuda {
    /// The precision of its products and values.
    pub precision: Precision,
    /// Whether a step that the GPU has no kernel for is an error, rather than run by the CPU with copies around it.
    pub strict: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tf32_is_rounded_to_the_nearest_of_ten_bits() {
        let of = |x: f32| {
            let mut b = [0; 4];
            Precision::Tf32.write(x, &mut b);
            f32::from_le_bytes(b)
        };
        let step = 2f32.powi(-10);
        assert_eq!(
            [1.0, 1.0 + step, 1.0 + step * 0.49, 1.0 + step * 0.5, -1.0 - step * 0.75].map(of),
            [1.0, 1.0 + step, 1.0, 1.0 + step, -1.0 - step]
        );
        assert!(of(f32::NAN).is_nan() && of(f32::INFINITY) == f32::INFINITY && of(-0.0).to_bits() == (-0f32).to_bits());
    }
}
