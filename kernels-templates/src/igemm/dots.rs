//! Register tiles of integer sums: each element of a vector stands for four bytes, of activations, weights, or one i32 sum.
//!
//! The tile is that of float products (`gemm/kernel.rs`), with words of four bytes for floats: fourteen rows of two vectors
//! with AVX512-VNNI, two of two with AVX2, where bytes are widened to 16 bits first, since the products of bytes saturate.

use crate::gemm::{Tile, Width, tile};
use crate::isa::Isa;
use crate::simd::Products;
#[cfg(target_arch = "x86_64")]
use core::arch::x86_64::*;

/// Eight sums of any machine.
#[derive(Copy, Clone)]
struct Plain;

impl Products for Plain {
    type V = [u32; 8];
    const W: usize = 8;
    #[inline(always)]
    unsafe fn zero() -> [u32; 8] {
        [0; 8]
    }
    #[inline(always)]
    unsafe fn start(p: *const f32) -> [u32; 8] {
        // SAFETY: the caller vouches for eight words at `p`; so below.
        unsafe { p.cast::<[u32; 8]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> [u32; 8] {
        // SAFETY: as in `start`.
        unsafe { p.cast::<[u32; 8]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn repeat(p: *const f32) -> [u32; 8] {
        // SAFETY: the caller vouches for a word at `p`.
        [unsafe { p.cast::<u32>().read_unaligned() }; 8]
    }
    #[inline(always)]
    unsafe fn mul_add(a: [u32; 8], b: [u32; 8], c: [u32; 8]) -> [u32; 8] {
        let mut r = c;
        let a = a[0].to_ne_bytes().map(i32::from);
        for i in 0..8 {
            let b = b[i].to_ne_bytes().map(|x| i32::from(x as i8));
            let sum = a[0] * b[0] + a[1] * b[1] + a[2] * b[2] + a[3] * b[3];
            r[i] = r[i].wrapping_add(sum as u32);
        }
        r
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: [u32; 8]) {
        // SAFETY: as in `start`.
        unsafe { p.cast::<[u32; 8]>().write_unaligned(v) }
    }
}

/// Eight columns in two registers: four each, a column's sums of its first and of its last two bytes beside each other.
#[cfg(target_arch = "x86_64")]
#[derive(Copy, Clone)]
struct Pairs;

#[cfg(target_arch = "x86_64")]
impl Products for Pairs {
    type V = [__m256i; 2];
    const W: usize = 8;
    #[inline(always)]
    unsafe fn zero() -> [__m256i; 2] {
        // SAFETY: used inside of entry points that enable AVX2; so below.
        unsafe { [_mm256_setzero_si256(); 2] }
    }
    #[inline(always)]
    unsafe fn start(p: *const f32) -> [__m256i; 2] {
        // SAFETY: the caller vouches for eight words at `p`.
        unsafe {
            let (low, high) = (_mm_loadu_si128(p.cast()), _mm_loadu_si128(p.add(4).cast()));
            [_mm256_cvtepu32_epi64(low), _mm256_cvtepu32_epi64(high)]
        }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> [__m256i; 2] {
        // SAFETY: as in `start`.
        unsafe {
            let (low, high) = (_mm_loadu_si128(p.cast()), _mm_loadu_si128(p.add(4).cast()));
            [_mm256_cvtepi8_epi16(low), _mm256_cvtepi8_epi16(high)]
        }
    }
    #[inline(always)]
    unsafe fn repeat(p: *const f32) -> [__m256i; 2] {
        // SAFETY: the caller vouches for a word at `p`.
        unsafe { [_mm256_cvtepu8_epi16(_mm_set1_epi32(p.cast::<i32>().read_unaligned())); 2] }
    }
    #[inline(always)]
    unsafe fn mul_add(a: [__m256i; 2], b: [__m256i; 2], c: [__m256i; 2]) -> [__m256i; 2] {
        // SAFETY: as in `zero`. Two products of 255 and -128 are far inside of 32 bits.
        unsafe {
            let (low, high) = (_mm256_madd_epi16(a[0], b[0]), _mm256_madd_epi16(a[1], b[1]));
            [_mm256_add_epi32(c[0], low), _mm256_add_epi32(c[1], high)]
        }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: [__m256i; 2]) {
        // SAFETY: the caller vouches for eight words at `p`.
        unsafe { _mm256_storeu_si256(p.cast(), _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_hadd_epi32(v[0], v[1]))) }
    }
}

/// Sixteen columns in a register.
#[cfg(target_arch = "x86_64")]
#[derive(Copy, Clone)]
struct Vnni;

#[cfg(target_arch = "x86_64")]
impl Products for Vnni {
    type V = __m512i;
    const W: usize = 16;
    #[inline(always)]
    unsafe fn zero() -> __m512i {
        // SAFETY: used inside of entry points that enable AVX-512 with VNNI; so below.
        unsafe { _mm512_setzero_si512() }
    }
    #[inline(always)]
    unsafe fn start(p: *const f32) -> __m512i {
        // SAFETY: the caller vouches for sixteen words at `p`.
        unsafe { _mm512_loadu_si512(p.cast()) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> __m512i {
        // SAFETY: as in `start`.
        unsafe { _mm512_loadu_si512(p.cast()) }
    }
    #[inline(always)]
    unsafe fn repeat(p: *const f32) -> __m512i {
        // SAFETY: the caller vouches for a word at `p`.
        unsafe { _mm512_set1_epi32(p.cast::<i32>().read_unaligned()) }
    }
    #[inline(always)]
    unsafe fn mul_add(a: __m512i, b: __m512i, c: __m512i) -> __m512i {
        // SAFETY: as in `zero`. The form that does not saturate.
        unsafe { _mm512_dpbusd_epi32(c, a, b) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: __m512i) {
        // SAFETY: as in `start`.
        unsafe { _mm512_storeu_si512(p.cast(), v) }
    }
}

#[inline(never)]
unsafe fn plain<const MR: usize, const NV: usize>(t: &Tile) {
    // SAFETY: passed on from the caller.
    unsafe { tile::<Plain, MR, NV>(t) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn pairs<const MR: usize, const NV: usize>(t: &Tile) {
    // SAFETY: passed on from the caller.
    unsafe { tile::<Pairs, MR, NV>(t) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn vnni<const MR: usize, const NV: usize>(t: &Tile) {
    // SAFETY: passed on from the caller.
    unsafe { tile::<Vnni, MR, NV>(t) }
}

const PLAIN: &[Width] = &[Width { panels: 1, rows: &[plain::<1, 2>, plain::<2, 2>] }];

#[cfg(target_arch = "x86_64")]
const PAIRS: &[Width] = &[Width { panels: 2, rows: &[pairs::<1, 4>] }, Width { panels: 1, rows: &[pairs::<1, 2>, pairs::<2, 2>] }];

#[cfg(target_arch = "x86_64")]
macro_rules! rows {
    ($nv:literal: $($mr:literal)*) => { Width { panels: $nv, rows: &[$(vnni::<$mr, $nv>),*] } };
}

#[cfg(target_arch = "x86_64")]
const VNNI: &[Width] =
    &[rows!(8: 1 2 3), rows!(4: 1 2 3 4 5 6), rows!(2: 1 2 3 4 5 6 7 8 9 10 11 12 13 14), rows!(1: 1 2 3 4 5 6 7 8 9 10 11 12 13 14)];

/// The micro-kernels of this machine under an instruction set, by panels, the widest first.
pub(super) fn widths(isa: Isa) -> &'static [Width] {
    #[cfg(target_arch = "x86_64")]
    {
        if isa.adds_fours() {
            return VNNI;
        }
        if isa >= Isa::Avx2 {
            return PAIRS;
        }
    }
    let _ = isa;
    PLAIN
}
