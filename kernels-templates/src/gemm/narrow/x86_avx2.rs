//! Products of digits with integers of few bits by AVX2: one row by eight columns at a time, products of bytes in pairs of 16 bits.
//!
//! Integers of eight bits are taken as two of four, so that pairs never saturate: eight sums of two products of 15 and -128 stay above
//! -2^15.

use super::digits::{DIGITS, step};
use super::pack::{FOUR, UNIT, blocks, panel_len};
use super::{Coding, Gemm, Part, Zeros};
use crate::gemm::{PANEL, finish_some};
use crate::simd::Avx2;
use core::arch::x86_64::*;

/// Columns of a vector.
const WIDE: usize = 8;
/// Steps of four rows whose sums fit 16 bits.
const SHORT: usize = 8;
/// Bytes of codes that are asked for in advance.
const AHEAD: usize = 24 * UNIT;

/// The integers at place `i` of a unit's bytes, of four bits at most.
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
unsafe fn place<const BITS: usize>(unit: __m256i, i: usize) -> __m256i {
    // SAFETY: used inside of entry points that enable AVX2.
    unsafe {
        let mask = _mm256_set1_epi8(if BITS == 2 { 3 } else { 15 });
        let moved = match i * if BITS == 2 { 2 } else { 4 } {
            0 => unit,
            2 => _mm256_srli_epi16::<2>(unit),
            4 => _mm256_srli_epi16::<4>(unit),
            _ => _mm256_srli_epi16::<6>(unit),
        };
        _mm256_and_si256(moved, mask)
    }
}

/// The sums of a block's products for eight columns: those of each digit, from `start` on.
///
/// # Safety
/// `codes` are those of the columns, in units [`UNIT`] apart, `digits` those of the block, and the machine has AVX2.
#[inline(always)]
unsafe fn sums<const BITS: usize>(codes: *const u8, digits: *const u8, block: usize, start: [__m256i; DIGITS]) -> [__m256i; DIGITS] {
    // Places of a byte, and rows of four between one and the next: halves of eight bits have the same rows.
    let (places, apart) = if BITS == 2 { (4, FOUR) } else { (2, if BITS == 4 { FOUR } else { 0 }) };
    let (units, rows) = (block * BITS / 8 / FOUR, FOUR * 8 / BITS);
    // Units whose sums fit 16 bits.
    let most = if BITS == 8 { SHORT } else { SHORT / places };
    // SAFETY: units and digits are inside of the block that the caller vouches for.
    unsafe {
        let mut found = start;
        let weights = [_mm256_set1_epi16(1), _mm256_set1_epi16(if BITS == 8 { 16 } else { 1 })];
        for first in (0..units).step_by(most) {
            let mut short = [[_mm256_setzero_si256(); DIGITS]; 2];
            for u in first..units.min(first + most) {
                let at = codes.add(u * UNIT);
                let unit = _mm256_loadu_si256(at.cast());
                _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(AHEAD).cast());
                for i in 0..places {
                    let q = place::<BITS>(unit, i);
                    for (d, to) in short[if BITS == 8 { i } else { 0 }].iter_mut().enumerate() {
                        let four = digits.add(d * block + u * rows + i * apart).cast::<i32>().read_unaligned();
                        *to = _mm256_add_epi16(*to, _mm256_maddubs_epi16(q, _mm256_set1_epi32(four)));
                    }
                }
            }
            for d in 0..DIGITS {
                found[d] = _mm256_add_epi32(found[d], _mm256_madd_epi16(short[0][d], weights[0]));
                if BITS == 8 {
                    found[d] = _mm256_add_epi32(found[d], _mm256_madd_epi16(short[1][d], weights[1]));
                }
            }
        }
        found
    }
}

/// One row of a part.
///
/// # Safety
/// As [`multiply`].
#[target_feature(enable = "avx2,fma")]
unsafe fn row<const BITS: usize>(g: &Gemm, block: usize, part: &Part, row: usize, digits: *const u8) {
    let (w, blocks, len) = (&part.weights, blocks(g.k, block), panel_len(g.k, Coding::Blocks { bits: BITS, block }));
    // SAFETY: rows, panels and blocks are inside of the part that the caller vouches for.
    unsafe {
        for col in (0..part.cols).step_by(WIDE) {
            let (panel, lane) = (col / PANEL, col % PANEL);
            let mut total = if part.bias.is_null() { _mm256_setzero_ps() } else { _mm256_loadu_ps(part.bias.add(col)) };
            for b in 0..blocks {
                let digits = digits.add(b * step(block));
                let behind = digits.add(DIGITS * block);
                let of_row = behind.cast::<[i32; DIGITS]>().read_unaligned();
                let beside = (panel * blocks + b) * PANEL + lane;
                let zeros = match w.zeros {
                    Zeros::Same(z) => _mm256_set1_epi32(i32::from(z)),
                    Zeros::Each(z) => _mm256_cvtepu8_epi32(_mm_loadl_epi64(z.add(beside).cast())),
                    Zeros::Floats(_) => _mm256_setzero_si256(),
                };
                let mut start = [_mm256_setzero_si256(); DIGITS];
                for (start, sum) in start.iter_mut().zip(of_row) {
                    *start = _mm256_sub_epi32(*start, _mm256_mullo_epi32(zeros, _mm256_set1_epi32(sum)));
                }
                let codes = w.codes.add(panel * len + b * (len / blocks) + lane * FOUR);
                let [high, mid, low] = sums::<BITS>(codes, digits, block, start);
                let (high, mid, low) = (_mm256_cvtepi32_ps(high), _mm256_cvtepi32_ps(mid), _mm256_cvtepi32_ps(low));
                let lower = _mm256_fmadd_ps(mid, _mm256_set1_ps(256.0), low);
                let mut sum = _mm256_fmadd_ps(high, _mm256_set1_ps(65536.0), lower);
                if let Zeros::Floats(z) = w.zeros {
                    let [high, mid, low] = [of_row[0] as f32, of_row[1] as f32, of_row[2] as f32];
                    let row = high.mul_add(65536.0, mid.mul_add(256.0, low));
                    sum = _mm256_fnmadd_ps(_mm256_loadu_ps(z.add(beside)), _mm256_set1_ps(row), sum);
                }
                let worth = behind.add(4 * DIGITS).cast::<f32>().read_unaligned();
                let scale = _mm256_loadu_ps(w.scales.add(beside));
                total = _mm256_fmadd_ps(scale, _mm256_mul_ps(sum, _mm256_set1_ps(worth)), total);
            }
            let left = (part.cols - col).min(WIDE);
            finish_some::<Avx2>(total, left, part.finish.at(part.row + row, part.col + col), part.out.add(row * g.ldc + col));
        }
    }
}

/// Computes one row of a part, whose digits these are.
///
/// # Safety
/// The part has such a row of the geometry, and the machine has AVX2.
pub(super) unsafe fn multiply(g: &Gemm, (bits, block): (usize, usize), part: &Part, at: usize, digits: *const u8) {
    // SAFETY: passed on from the caller.
    unsafe {
        match bits {
            2 => row::<2>(g, block, part, at, digits),
            4 => row::<4>(g, block, part, at, digits),
            _ => row::<8>(g, block, part, at, digits),
        }
    }
}
