//! Micro-kernels for AVX2 with FMA: 6x16 (twelve accumulators, two of B, one broadcast), and wider ones for few rows.

use super::kernel::{Simd, Tile, Width, tile};
use core::arch::x86_64::*;

#[derive(Copy, Clone)]
struct Avx2;

impl Simd for Avx2 {
    type V = __m256;
    const W: usize = 8;
    #[inline(always)]
    unsafe fn zero() -> __m256 {
        // SAFETY: used inside of entry points that enable AVX2 and FMA; so below.
        unsafe { _mm256_setzero_ps() }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> __m256 {
        // SAFETY: the caller vouches for eight floats at `p`.
        unsafe { _mm256_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: __m256) {
        // SAFETY: the caller vouches for eight floats at `p`.
        unsafe { _mm256_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> __m256 {
        // SAFETY: as in `zero`.
        unsafe { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn mul_add(a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: as in `zero`.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
}

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
