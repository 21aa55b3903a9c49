//! Micro-kernels in portable Rust: 2x16, which fills the sixteen 128-bit registers of x86-64's baseline.

use super::kernel::{Kernel, Tile, Width, tile};
use crate::simd::Lanes;

#[inline(never)]
unsafe fn entry<const MR: usize, const NV: usize>(t: &Tile) {
    // SAFETY: passed on from the caller.
    unsafe { tile::<Lanes, MR, NV>(t) }
}

#[cfg(not(target_arch = "aarch64"))]
const ONE: &[Kernel] = &[entry::<1, 2>, entry::<2, 2>];
#[cfg(target_arch = "aarch64")]
const ONE: &[Kernel] = &[entry::<1, 2>, entry::<2, 2>, entry::<3, 2>, entry::<4, 2>, entry::<5, 2>];

/// By panels, the widest first.
pub(crate) const WIDTHS: &[Width] = &[Width { panels: 1, rows: ONE }];
