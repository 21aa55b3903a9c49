//! Few rows by weights of 16 or 24 bits, widened in registers: each element the multiply-adds of a panel of f32, in their order.

use super::{Coding, Gemm, Part, pack};
use crate::dtype::{bf16, f16};
use crate::gemm::kernel::prefetch;
use crate::gemm::{PANEL, finish_some};
use crate::isa::Isa;
#[cfg(target_arch = "x86_64")]
use crate::simd::{Avx2, Avx512};
use crate::simd::{Lanes, Products};
#[cfg(target_arch = "x86_64")]
use core::arch::x86_64::*;

/// Bytes of a panel that are asked for in advance.
const AHEAD: usize = 1536;

/// Panels that one row meets side by side.
const WIDE: usize = 4;

/// How a row of a panel, sixteen weights, is stored.
trait Stored {
    /// What [`Coding`] says of it.
    const CODING: Coding;
    /// Bytes of a row.
    const ROW: usize = pack::row_len(Self::CODING);
    /// Bytes of a panel before its first row.
    const HEAD: usize = pack::head_len(Self::CODING);
}

/// 16-bit floats of IEEE 754.
struct F16;
/// The upper halves of f32.
struct Bf16;
/// Integers of 24 bits, the upper two bytes of all before the lowest ones.
struct Fixed;

impl Stored for F16 {
    const CODING: Coding = Coding::F16;
}
impl Stored for Bf16 {
    const CODING: Coding = Coding::Bf16;
}
impl Stored for Fixed {
    const CODING: Coding = Coding::Fixed;
}

/// Vectors that stored weights are widened to.
trait Widen<C>: Products {
    /// A vector of weights, of a row from column `first` on; integers before they are scaled.
    ///
    /// # Safety
    /// The row lies at `row`, and the instruction set is available.
    unsafe fn widen(row: *const u8, first: usize) -> Self::V;
}

impl Widen<F16> for Lanes {
    #[inline(always)]
    unsafe fn widen(row: *const u8, first: usize) -> [f32; 8] {
        // SAFETY: passed on from the caller.
        unsafe { row.cast::<u16>().add(first).cast::<[u16; 8]>().read_unaligned() }.map(|x| f16(x).to_f32())
    }
}

impl Widen<Bf16> for Lanes {
    #[inline(always)]
    unsafe fn widen(row: *const u8, first: usize) -> [f32; 8] {
        // SAFETY: passed on from the caller.
        unsafe { row.cast::<u16>().add(first).cast::<[u16; 8]>().read_unaligned() }.map(|x| bf16(x).to_f32())
    }
}

impl Widen<Fixed> for Lanes {
    #[inline(always)]
    unsafe fn widen(row: *const u8, first: usize) -> [f32; 8] {
        // SAFETY: passed on from the caller; the lowest bytes lie behind two for each column.
        let (upper, low) = unsafe {
            let upper = row.cast::<i16>().add(first).cast::<[i16; 8]>().read_unaligned();
            (upper, row.add(2 * PANEL + first).cast::<[u8; 8]>().read_unaligned())
        };
        core::array::from_fn(|i| (i32::from(upper[i]) << 8 | i32::from(low[i])) as f32)
    }
}

#[cfg(target_arch = "x86_64")]
impl Widen<F16> for Avx2 {
    #[inline(always)]
    unsafe fn widen(row: *const u8, first: usize) -> __m256 {
        // SAFETY: passed on from the caller; used inside of entry points that enable AVX2 and F16C.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(row.add(2 * first).cast())) }
    }
}

#[cfg(target_arch = "x86_64")]
impl Widen<Bf16> for Avx2 {
    #[inline(always)]
    unsafe fn widen(row: *const u8, first: usize) -> __m256 {
        // SAFETY: passed on from the caller; used inside of entry points that enable AVX2.
        unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(row.add(2 * first).cast())))) }
    }
}

#[cfg(target_arch = "x86_64")]
impl Widen<Fixed> for Avx2 {
    #[inline(always)]
    unsafe fn widen(row: *const u8, first: usize) -> __m256 {
        // SAFETY: passed on from the caller; used inside of entry points that enable AVX2.
        unsafe {
            let upper = _mm256_slli_epi32::<8>(_mm256_cvtepi16_epi32(_mm_loadu_si128(row.add(2 * first).cast())));
            let low = _mm256_cvtepu8_epi32(_mm_loadl_epi64(row.add(2 * PANEL + first).cast()));
            _mm256_cvtepi32_ps(_mm256_or_si256(upper, low))
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl Widen<F16> for Avx512 {
    #[inline(always)]
    unsafe fn widen(row: *const u8, first: usize) -> __m512 {
        // SAFETY: passed on from the caller; used inside of entry points that enable AVX-512.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(row.add(2 * first).cast())) }
    }
}

#[cfg(target_arch = "x86_64")]
impl Widen<Bf16> for Avx512 {
    #[inline(always)]
    unsafe fn widen(row: *const u8, first: usize) -> __m512 {
        // SAFETY: passed on from the caller; used inside of entry points that enable AVX-512.
        unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(row.add(2 * first).cast())))) }
    }
}

#[cfg(target_arch = "x86_64")]
impl Widen<Fixed> for Avx512 {
    #[inline(always)]
    unsafe fn widen(row: *const u8, first: usize) -> __m512 {
        // SAFETY: passed on from the caller; used inside of entry points that enable AVX-512.
        unsafe {
            let upper = _mm512_slli_epi32::<8>(_mm512_cvtepi16_epi32(_mm256_loadu_si256(row.add(2 * first).cast())));
            let low = _mm512_cvtepu8_epi32(_mm_loadu_si128(row.add(2 * PANEL + first).cast()));
            _mm512_cvtepi32_ps(_mm512_or_si512(upper, low))
        }
    }
}

/// `R` rows from `row` on, and `NV` vectors of columns from `col` on.
///
/// # Safety
/// The part has such rows and panels, and the instruction set of `S` is available.
#[inline(always)]
unsafe fn strip<S: Widen<C>, C: Stored, const R: usize, const NV: usize>(g: &Gemm, part: &Part, row: usize, col: usize) {
    let per = PANEL / S::W;
    let panel = pack::panel_len(g.k, C::CODING);
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
        let weights = part.weights.codes.add(col / PANEL * panel);
        let a = part.a.add(row * g.a_row);
        let mut scales = [S::zero(); NV];
        for (j, scale) in scales.iter_mut().enumerate().filter(|_| C::HEAD > 0) {
            *scale = S::load(weights.add(j / per * panel).cast::<f32>().add(j % per * S::W));
        }
        for p in 0..g.k {
            let mut w = [S::zero(); NV];
            for (j, w) in w.iter_mut().enumerate() {
                let at = weights.add(j / per * panel + C::HEAD + p * C::ROW);
                *w = S::widen(at, j % per * S::W);
                // Before they are summed: sums of whole numbers would overflow where those of weights do not.
                if C::HEAD > 0 {
                    *w = S::mul_add(*w, scales[j], S::zero());
                }
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
                let at = col + j * S::W;
                if at < part.cols {
                    let to = part.out.add((row + r) * g.ldc + at);
                    finish_some::<S>(*sum, (part.cols - at).min(S::W), part.finish.at(part.row + row + r, part.col + at), to);
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
unsafe fn rows<S: Widen<C>, C: Stored, const NV: usize, const WIDER: usize>(g: &Gemm, part: &Part) {
    let panels = part.cols.div_ceil(PANEL);
    let mut panel = 0;
    while panel < panels {
        let wide = if panels - panel >= WIDE { WIDE } else { 1 };
        let mut row = 0;
        while row < part.rows {
            let (left, col) = (part.rows - row, panel * PANEL);
            macro_rules! strips {
                ($rows:literal by $vectors:ident) => {{
                    strip::<S, C, $rows, $vectors>(g, part, row, col);
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

/// Widens a panel of `k` rows, integers to what they stand for.
///
/// # Safety
/// `to` holds `k` rows of sixteen floats, and the instruction set is available.
#[inline(always)]
unsafe fn widen_all<S: Widen<C>, C: Stored>(k: usize, panel: *const u8, to: *mut f32) {
    for first in (0..PANEL).step_by(S::W) {
        // SAFETY: passed on from the caller.
        unsafe {
            let scale = if C::HEAD > 0 { S::load(panel.cast::<f32>().add(first)) } else { S::zero() };
            for p in 0..k {
                let w = S::widen(panel.add(C::HEAD + p * C::ROW), first);
                S::store(to.add(p * PANEL + first), if C::HEAD > 0 { S::mul_add(w, scale, S::zero()) } else { w });
            }
        }
    }
}

/// What an instruction set does with weights stored in one way.
macro_rules! entries {
    ($module:ident, $simd:ident, [$one:literal, $wide:literal] $(, $feature:literal)?) => {
        mod $module {
            use super::*;

            $(#[target_feature(enable = $feature)])?
            unsafe fn rows_of<C: Stored>(g: &Gemm, part: &Part)
            where
                $simd: Widen<C>,
            {
                // SAFETY: passed on from the caller.
                unsafe { rows::<$simd, C, $one, $wide>(g, part) }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn widen_of<C: Stored>(k: usize, panel: *const u8, to: *mut f32)
            where
                $simd: Widen<C>,
            {
                // SAFETY: passed on from the caller.
                unsafe { widen_all::<$simd, C>(k, panel, to) }
            }
            /// # Safety
            /// As [`multiply`](super::multiply), and the machine has the instructions.
            pub(super) unsafe fn multiply(g: &Gemm, coding: Coding, part: &Part) {
                // SAFETY: passed on from the caller.
                unsafe {
                    match coding {
                        Coding::F16 => rows_of::<F16>(g, part),
                        Coding::Bf16 => rows_of::<Bf16>(g, part),
                        Coding::Fixed => rows_of::<Fixed>(g, part),
                        Coding::Blocks { .. } => unreachable!("integers in blocks have kernels of their own; this is a bug")
                    }
                }
            }
            /// # Safety
            /// As [`widen`](super::widen), and the machine has the instructions.
            pub(super) unsafe fn widen(coding: Coding, k: usize, panel: *const u8, to: *mut f32) {
                // SAFETY: passed on from the caller.
                unsafe {
                    match coding {
                        Coding::F16 => widen_of::<F16>(k, panel, to),
                        Coding::Bf16 => widen_of::<Bf16>(k, panel, to),
                        Coding::Fixed => widen_of::<Fixed>(k, panel, to),
                        Coding::Blocks { .. } => unreachable!("integers in blocks have kernels of their own; this is a bug")
                    }
                }
            }
        }
    };
}
entries!(portable, Lanes, [2, 8]);
#[cfg(target_arch = "x86_64")]
entries!(avx2, Avx2, [2, 8], "avx2,fma,f16c");
#[cfg(target_arch = "x86_64")]
entries!(avx512, Avx512, [1, 4], "avx512f,avx512bw,avx512dq,avx512vl");

/// Computes a part with weights of 16 or 24 bits, without what follows.
///
/// # Safety
/// The part is inside of the product, whose rows of A have neighbours as columns, and the machine has `isa`.
pub(super) unsafe fn multiply(isa: Isa, g: &Gemm, coding: Coding, part: &Part) {
    // SAFETY: passed on from the caller.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Amx => avx512::multiply(g, coding, part),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::multiply(g, coding, part),
            _ => portable::multiply(g, coding, part),
        }
    }
}

/// Widens a panel of `k` rows of 16 or 24 bits.
///
/// # Safety
/// It is one of that coding, `to` holds `k` rows of sixteen floats, and the machine has `isa`.
pub(super) unsafe fn widen(isa: Isa, coding: Coding, k: usize, panel: *const u8, to: *mut f32) {
    // SAFETY: passed on from the caller.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Amx => avx512::widen(coding, k, panel, to),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::widen(coding, k, panel, to),
            _ => portable::widen(coding, k, panel, to),
        }
    }
}
