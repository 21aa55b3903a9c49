//! Micro-kernels for AVX2 with FMA: 6x16 (twelve accumulators, two of B, one broadcast), and wider ones for few rows.

use super::kernel::{Tile, Width, tile};
use crate::simd::Avx2;

#[target_feature(enable = "avx2,fma")]
unsafe fn entry<const MR: usize, const NV: usize>(t: &Tile) {
    // SAFETY: passed on from the caller.
    unsafe { tile::<Avx2, MR, NV>(t) }
}

/// By panels, the widest first.
pub(crate) const WIDTHS: &[Width] = &[
    Width { panels: 4, rows: &[entry::<1, 8>] },
    Width { panels: 2, rows: &[entry::<1, 4>, entry::<2, 4>] },
    Width { panels: 1, rows: &[entry::<1, 2>, entry::<2, 2>, entry::<3, 2>, entry::<4, 2>, entry::<5, 2>, entry::<6, 2>] },
];
