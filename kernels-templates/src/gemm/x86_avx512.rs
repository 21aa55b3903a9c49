//! Micro-kernels for AVX-512: 14x32 (28 accumulators, two of B, one broadcast), and wider ones for few rows.

use super::kernel::{Tile, Width, tile};
use crate::simd::Avx512;

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn entry<const MR: usize, const NV: usize>(t: &Tile) {
    // SAFETY: passed on from the caller.
    unsafe { tile::<Avx512, MR, NV>(t) }
}

macro_rules! rows {
    ($nv:literal: $($mr:literal)*) => { Width { panels: $nv, rows: &[$(entry::<$mr, $nv>),*] } };
}

/// By panels, the widest first.
pub(crate) const WIDTHS: &[Width] = &[
    rows!(8: 1 2 3),
    rows!(4: 1 2 3 4 5 6),
    rows!(3: 1 2 3 4 5 6 7 8 9),
    rows!(2: 1 2 3 4 5 6 7 8 9 10 11 12 13 14),
    rows!(1: 1 2 3 4 5 6 7 8 9 10 11 12 13 14),
];
