//! Micro-kernels for AVX-512: 14x32 (28 accumulators, two of B, one broadcast), and wider ones for few rows.

use super::kernel::{Simd, Tile, Width, tile};
use core::arch::x86_64::*;

#[derive(Copy, Clone)]
struct Avx512;

impl Simd for Avx512 {
    type V = __m512;
    const W: usize = 16;
    #[inline(always)]
    unsafe fn zero() -> __m512 {
        // SAFETY: used inside of entry points that enable AVX-512; so below.
        unsafe { _mm512_setzero_ps() }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> __m512 {
        // SAFETY: the caller vouches for sixteen floats at `p`.
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: __m512) {
        // SAFETY: the caller vouches for sixteen floats at `p`.
        unsafe { _mm512_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> __m512 {
        // SAFETY: as in `zero`.
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn mul_add(a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: as in `zero`.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
}

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
