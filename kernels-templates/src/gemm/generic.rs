//! Micro-kernels in portable Rust: 2x16, which fills the sixteen 128-bit registers of x86-64's baseline.

use super::kernel::{Kernel, Simd, Tile, Width, tile};

#[derive(Copy, Clone)]
struct Lanes;

impl Simd for Lanes {
    type V = [f32; 8];
    const W: usize = 8;
    #[inline(always)]
    unsafe fn zero() -> [f32; 8] {
        [0.0; 8]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> [f32; 8] {
        // SAFETY: the caller vouches for eight floats at `p`.
        unsafe { p.cast::<[f32; 8]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: [f32; 8]) {
        // SAFETY: the caller vouches for eight floats at `p`.
        unsafe { p.cast::<[f32; 8]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> [f32; 8] {
        [x; 8]
    }
    #[inline(always)]
    unsafe fn mul_add(a: [f32; 8], b: [f32; 8], c: [f32; 8]) -> [f32; 8] {
        use crate::isa::{Arith, Portable};
        let mut r = c;
        for i in 0..8 {
            r[i] = Portable::mul_add(a[i], b[i], c[i]);
        }
        r
    }
}

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
