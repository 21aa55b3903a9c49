//! Few rows by weights of 16-bit floats, widened in registers: each element the multiply-adds of a panel of f32, in their order.

use super::{Gemm, Part};
use crate::dtype::{bf16, f16};
use crate::gemm::kernel::prefetch;
use crate::gemm::{PANEL, finish_some};
use crate::isa::Isa;
#[cfg(target_arch = "x86_64")]
use crate::simd::{Avx2, Avx512};
use crate::simd::{Lanes, Products};
#[cfg(target_arch = "x86_64")]
use core::arch::x86_64::*;

/// Elements of a panel that are asked for in advance.
const AHEAD: usize = 48 * PANEL;

/// Panels that one row meets side by side.
const WIDE: usize = 4;

/// Vectors that 16-bit floats are widened to.
trait Widen: Products {
    /// As many floats as a vector has, of f16 or, where `SHORT`, of bf16.
    ///
    /// # Safety
    /// They lie at `p`, and the instruction set is available.
    unsafe fn widen<const SHORT: bool>(p: *const u16) -> Self::V;
}

impl Widen for Lanes {
    #[inline(always)]
    unsafe fn widen<const SHORT: bool>(p: *const u16) -> [f32; 8] {
        // SAFETY: passed on from the caller.
        unsafe { p.cast::<[u16; 8]>().read_unaligned() }.map(|x| if SHORT { bf16(x).to_f32() } else { f16(x).to_f32() })
    }
}

#[cfg(target_arch = "x86_64")]
impl Widen for Avx2 {
    #[inline(always)]
    unsafe fn widen<const SHORT: bool>(p: *const u16) -> __m256 {
        // SAFETY: passed on from the caller; used inside of entry points that enable AVX2 and F16C.
        unsafe {
            let x = _mm_loadu_si128(p.cast());
            match SHORT {
                true => _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(x))),
                false => _mm256_cvtph_ps(x),
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl Widen for Avx512 {
    #[inline(always)]
    unsafe fn widen<const SHORT: bool>(p: *const u16) -> __m512 {
        // SAFETY: passed on from the caller; used inside of entry points that enable AVX-512.
        unsafe {
            let x = _mm256_loadu_si256(p.cast());
            match SHORT {
                true => _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(x))),
                false => _mm512_cvtph_ps(x),
            }
        }
    }
}

/// `R` rows from `row` on, and `NV` vectors of columns from `col` on.
///
/// # Safety
/// The part has such rows and panels, and the instruction set of `S` is available.
#[inline(always)]
unsafe fn strip<S: Widen, const SHORT: bool, const R: usize, const NV: usize>(g: &Gemm, part: &Part, row: usize, col: usize) {
    let per = PANEL / S::W;
    // SAFETY: rows and panels are inside of the part that the caller vouches for.
    unsafe {
        let mut sums = [[S::zero(); NV]; R];
        if !part.bias.is_null() {
            for j in 0..NV {
                let bias = S::start(part.bias.add(col + j * S::W));
                for row in &mut sums {
                    row[j] = bias;
                }
            }
        }
        let weights = part.weights.codes.cast::<u16>().add(col * g.k);
        let a = part.a.add(row * g.a_row);
        for p in 0..g.k {
            let mut w = [S::zero(); NV];
            for (j, w) in w.iter_mut().enumerate() {
                let at = weights.add((j / per * g.k + p) * PANEL + j % per * S::W);
                *w = S::widen::<SHORT>(at);
                if j % per == 0 {
                    prefetch(at.wrapping_add(AHEAD).cast());
                }
            }
            for (r, row) in sums.iter_mut().enumerate() {
                let x = S::repeat(a.add(r * g.a_row + p));
                for (sum, w) in row.iter_mut().zip(&w) {
                    *sum = S::mul_add(x, *w, *sum);
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            for (j, sum) in sums.iter().enumerate() {
                let col = col + j * S::W;
                if col < part.cols {
                    let to = part.out.add((row + r) * g.ldc + col);
                    finish_some::<S>(*sum, (part.cols - col).min(S::W), part.finish.at(part.row + row + r, part.col + col), to);
                }
            }
        }
    }
}

/// All of a part, by vectors of `S`, `NV` of which make a panel and `WIDER` make [`WIDE`].
///
/// # Safety
/// As [`multiply`].
#[inline(always)]
unsafe fn rows<S: Widen, const SHORT: bool, const NV: usize, const WIDER: usize>(g: &Gemm, part: &Part) {
    let panels = part.cols.div_ceil(PANEL);
    let mut panel = 0;
    while panel < panels {
        let wide = if panels - panel >= WIDE { WIDE } else { 1 };
        let mut row = 0;
        while row < part.rows {
            let (left, col) = (part.rows - row, panel * PANEL);
            macro_rules! strips {
                ($rows:literal by $vectors:ident) => {{
                    strip::<S, SHORT, $rows, $vectors>(g, part, row, col);
                    $rows
                }};
            }
            // SAFETY: passed on from the caller; there are as many rows and panels left.
            row += unsafe {
                match (left, wide) {
                    (4.., 1) => strips!(4 by NV),
                    (2.., 1) => strips!(2 by NV),
                    (_, 1) => strips!(1 by NV),
                    (4.., _) if S::W == PANEL => strips!(4 by WIDER),
                    (2.., _) if S::W == PANEL => strips!(2 by WIDER),
                    _ => strips!(1 by WIDER),
                }
            };
        }
        panel += wide;
    }
}

#[inline(never)]
unsafe fn portable<const SHORT: bool>(g: &Gemm, part: &Part) {
    // SAFETY: passed on from the caller.
    unsafe { rows::<Lanes, SHORT, 2, 8>(g, part) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn avx2<const SHORT: bool>(g: &Gemm, part: &Part) {
    // SAFETY: passed on from the caller.
    unsafe { rows::<Avx2, SHORT, 2, 8>(g, part) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn avx512<const SHORT: bool>(g: &Gemm, part: &Part) {
    // SAFETY: passed on from the caller.
    unsafe { rows::<Avx512, SHORT, 1, 4>(g, part) }
}

/// Computes a part with weights of f16 or, where `short`, of bf16, without what follows.
///
/// # Safety
/// The part is inside of the product, whose rows of A have neighbours as columns, and the machine has `isa`.
pub(super) unsafe fn multiply(isa: Isa, g: &Gemm, short: bool, part: &Part) {
    // SAFETY: passed on from the caller.
    unsafe {
        match (isa, short) {
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512 | Isa::Amx, true) => avx512::<true>(g, part),
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512 | Isa::Amx, false) => avx512::<false>(g, part),
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx2, true) => avx2::<true>(g, part),
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx2, false) => avx2::<false>(g, part),
            (_, true) => portable::<true>(g, part),
            (_, false) => portable::<false>(g, part),
        }
    }
}

/// Widens `n` vectors of sixteen floats.
///
/// # Safety
/// Both hold as many, and the instruction set is available.
#[inline(always)]
unsafe fn widen_all<S: Widen, const SHORT: bool>(n: usize, from: *const u16, to: *mut f32) {
    for i in (0..n * PANEL).step_by(S::W) {
        // SAFETY: passed on from the caller.
        unsafe { S::store(to.add(i), S::widen::<SHORT>(from.add(i))) }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn widen_avx2<const SHORT: bool>(n: usize, from: *const u16, to: *mut f32) {
    // SAFETY: passed on from the caller.
    unsafe { widen_all::<Avx2, SHORT>(n, from, to) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn widen_avx512<const SHORT: bool>(n: usize, from: *const u16, to: *mut f32) {
    // SAFETY: passed on from the caller.
    unsafe { widen_all::<Avx512, SHORT>(n, from, to) }
}

/// Widens a panel of `k` rows.
///
/// # Safety
/// Both hold as many, and the machine has `isa`.
pub(super) unsafe fn widen(isa: Isa, short: bool, k: usize, from: *const u16, to: *mut f32) {
    // SAFETY: passed on from the caller.
    unsafe {
        match (isa, short) {
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512 | Isa::Amx, true) => widen_avx512::<true>(k, from, to),
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512 | Isa::Amx, false) => widen_avx512::<false>(k, from, to),
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx2, true) => widen_avx2::<true>(k, from, to),
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx2, false) => widen_avx2::<false>(k, from, to),
            (_, true) => widen_all::<Lanes, true>(k, from, to),
            (_, false) => widen_all::<Lanes, false>(k, from, to),
        }
    }
}
