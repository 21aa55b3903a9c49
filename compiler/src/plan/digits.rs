//! Which packed matrices machines with matrix registers write in digits when they load a model: those that many rows meet.

use super::{Blob, Plan};
use crate::ir::ValueId;
use crate::kernel::{Kernel, Method, Packed};
use kiln_kernels::gemm::{DIGIT_LEAST, PANEL};

/// A packed matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digits {
    /// Where it begins among the weights, in bytes.
    pub at: usize,
    /// Its rows.
    pub k: usize,
    /// Its panels.
    pub panels: usize,
}

/// Elements of the matrix that pay for the digits of the other operand: with 64 columns, 160 rows.
const ELEMENTS: usize = 64 * 160;

impl Plan {
    /// The blob of a packed constant.
    pub fn blob(&self, p: &Packed) -> Option<&Blob> {
        let constant = |v: ValueId| self.graph[v].constant.as_ref().map(|t| t.bytes());
        let same = |b: &&Blob| b.packed.recipe == p.recipe && (b.packed.value == p.value || constant(b.packed.value) == constant(p.value));
        self.weights.blobs.iter().find(same)
    }
    /// Finds what is written in digits.
    pub(super) fn choose_digits(&mut self) {
        if self.exact {
            return;
        }
        let mut found: Vec<Digits> = Vec::new();
        for kernel in self.kernels().into_iter().flat_map(|step| step.kernel.parts()) {
            // Rows of the product where they are known, and the columns, rows and groups of the matrix.
            let (rows, n, k, groups, packed) = match kernel {
                Kernel::Gemm { m, n, k, b, .. } => (m.as_int(), *n, *k, 1, b),
                Kernel::Conv { window, k, groups, method: Method::Direct, weights, .. } => {
                    let (Some(c), taps) = (window.c.as_int(), window.kernel.iter().product::<usize>()) else { continue };
                    let pixels = window.out_dims.iter().map(|d| d.as_int()).product();
                    (pixels, k / groups, taps * c as usize / groups, *groups, weights)
                }
                _ => continue,
            };
            if rows.is_some_and(|r| r < DIGIT_LEAST[0] as i64) || n < DIGIT_LEAST[1] || n * k < ELEMENTS {
                continue;
            }
            let Some(at) = self.blob(packed).map(|b| b.offset) else { continue };
            if found.iter().all(|d| d.at != at) {
                found.push(Digits { at, k, panels: groups * n.div_ceil(PANEL) });
            }
        }
        self.digits = found;
    }
}
