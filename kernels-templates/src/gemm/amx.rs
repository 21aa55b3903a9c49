//! Products of f32 in the tile registers of x86-64 (AMX), as sums of products of bytes.
//!
//! A row of A, and a column of B, is brought to 24 bits behind the point by a scale of its own for every [`DEEP`] elements, and written
//! with three signed digits of base 256. Products of digits are summed exactly in i32 by the tiles; those of the six pairs that matter make
//! the sum of the products, to which f32 comes back once for every [`DEEP`] elements. (This is Ozaki's scheme with
//! integers: Ozaki, Ogita, Oishi and Rump 2012; Ootomo, Ozaki and Yokota, "DGEMM on Integer Matrix Multiplication Unit", 2024.)
//!
//! Error: an element is off by at most 2^-24 of the largest one of its scale, and what six pairs leave out is of that size. So the
//! error, over the root mean square of the result, is 1.5e-7 for elements of one size at any depth, where sums rounded at every step have 1e-7
//! (depth 33) to 1e-6 (3072); with one element fifty times the others it is up to 1e-6, four times theirs: an element that is
//! far below its neighbours loses digits, as it does in Winograd's and Strassen's algorithms. Where a scale has an infinity, a NaN, or
//! more than 2^100, multiply-adds compute the block.
//!
//! Digits of constant matrices are taken once, when weights are loaded ([`pack_panel`]); those of A by every task, for rows that fit
//! the second-level cache.

use super::sweep::{Sweep, sweep_with, widths};
use super::{Block, Finish, PANEL, finish_some};
use crate::isa::Isa;
use crate::simd::Avx512;
use crate::tiles::{self, Shapes};
use core::arch::asm;
use core::arch::x86_64::*;
use core::ops::Range;

/// Rows of one tile of A and of sums.
const ROWS: usize = 16;
/// Rows of B, or columns of A, that a step takes.
const DEPTH: usize = 64;
/// Bytes of a tile register.
const TILE: usize = 1024;
/// Digits of an element.
const DIGITS: usize = 3;
/// Rows of A that a kernel takes: two tiles.
const STRIPE: usize = 2 * ROWS;
/// Bytes that a step reads of a stripe of A, `[digit][tile][16][64]`, and of a panel of B, `[digit][16][16][4]`.
const STEP: (usize, usize) = (2 * DIGITS * TILE, DIGITS * TILE);
/// Columns of A, or rows of B, under one scale: few enough that sums of digits' products stay below 2^30.
const DEEP: usize = 256;
/// Bytes of the digits of A's rows that stay in the second-level cache while B passes by.
const FAR: usize = 1 << 20;
/// Columns that are finished before the epilogue sees them, whole panels.
const TOGETHER: usize = 8 * PANEL;
/// A little below the largest number of three digits, 0x7f7f7f, so that rounding stays below it.
const MOST: f32 = 0x7f_7f00 as f32;

/// Rows of A whose digits are taken at once.
const fn block_rows(k: usize) -> usize {
    let fit = FAR / (k.div_ceil(DEPTH) * STEP.0 + 1);
    STRIPE
        * match fit {
            0 => 1,
            1..8 => fit,
            _ => 8,
        }
}

/// Floats of scratch that blocks of up to so many rows take.
pub(crate) const fn scratch_floats(rows: usize, k: usize) -> usize {
    let most = block_rows(k);
    let stripes = (if rows < most { rows } else { most }).div_ceil(STRIPE);
    // Sums, a row put together, digits, scales, and what aligns them.
    2 * DIGITS * TILE / 4 + DEEP + stripes * (k.div_ceil(DEPTH) * STEP.0 / 4 + k.div_ceil(DEEP) * STRIPE) + 16
}

/// What a kernel asks for ahead of its turn: in every step 24 lines of the cache, two for each product of tiles, from an address that
/// moves by some bytes.
#[derive(Clone, Copy)]
struct Ahead {
    at: *const u8,
    stride: usize,
}

/// Sums of the products of digits of a stripe by a panel: `[tile][power][16][16]`, the pairs whose places add up to 0, 1 and 2.
///
/// # Safety
/// `a`, `b` and `sums` hold such operands, and the registers are configured.
#[inline(never)]
unsafe fn multiply(a: *const u8, b: *const u8, steps: usize, sums: *mut i32, ahead: Ahead) {
    // SAFETY: the caller vouches for the addresses, those read ahead may be any; all registers of tiles are free.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "tilezero tmm4",
            "tilezero tmm5",
            "2:",
            // The first digit of B with all of A's.
            "tileloadd tmm6, [{b} + {r}*1]",
            "tileloadd tmm7, [{a} + {r}*1]",
            "tdpbssd tmm0, tmm7, tmm6",
            "prefetcht1 [{p} + 0]",
            "prefetcht1 [{p} + 64]",
            "tileloadd tmm7, [{a} + {r}*1 + 1024]",
            "tdpbssd tmm3, tmm7, tmm6",
            "prefetcht1 [{p} + 128]",
            "prefetcht1 [{p} + 192]",
            "tileloadd tmm7, [{a} + {r}*1 + 2048]",
            "tdpbssd tmm1, tmm7, tmm6",
            "prefetcht1 [{p} + 256]",
            "prefetcht1 [{p} + 320]",
            "tileloadd tmm7, [{a} + {r}*1 + 3072]",
            "tdpbssd tmm4, tmm7, tmm6",
            "prefetcht1 [{p} + 384]",
            "prefetcht1 [{p} + 448]",
            "tileloadd tmm7, [{a} + {r}*1 + 4096]",
            "tdpbssd tmm2, tmm7, tmm6",
            "prefetcht1 [{p} + 512]",
            "prefetcht1 [{p} + 576]",
            "tileloadd tmm7, [{a} + {r}*1 + 5120]",
            "tdpbssd tmm5, tmm7, tmm6",
            "prefetcht1 [{p} + 640]",
            "prefetcht1 [{p} + 704]",
            // The second with two.
            "tileloadd tmm6, [{b} + {r}*1 + 1024]",
            "tileloadd tmm7, [{a} + {r}*1]",
            "tdpbssd tmm1, tmm7, tmm6",
            "prefetcht1 [{p} + 768]",
            "prefetcht1 [{p} + 832]",
            "tileloadd tmm7, [{a} + {r}*1 + 1024]",
            "tdpbssd tmm4, tmm7, tmm6",
            "prefetcht1 [{p} + 896]",
            "prefetcht1 [{p} + 960]",
            "tileloadd tmm7, [{a} + {r}*1 + 2048]",
            "tdpbssd tmm2, tmm7, tmm6",
            "prefetcht1 [{p} + 1024]",
            "prefetcht1 [{p} + 1088]",
            "tileloadd tmm7, [{a} + {r}*1 + 3072]",
            "tdpbssd tmm5, tmm7, tmm6",
            "prefetcht1 [{p} + 1152]",
            "prefetcht1 [{p} + 1216]",
            // The third with one.
            "tileloadd tmm6, [{b} + {r}*1 + 2048]",
            "tileloadd tmm7, [{a} + {r}*1]",
            "tdpbssd tmm2, tmm7, tmm6",
            "prefetcht1 [{p} + 1280]",
            "prefetcht1 [{p} + 1344]",
            "tileloadd tmm7, [{a} + {r}*1 + 1024]",
            "tdpbssd tmm5, tmm7, tmm6",
            "prefetcht1 [{p} + 1408]",
            "prefetcht1 [{p} + 1472]",
            "add {a}, 6144",
            "add {b}, 3072",
            "add {p}, {stride}",
            "dec {n}",
            "jnz 2b",
            "tilestored [{s} + {r}*1], tmm0",
            "tilestored [{s} + {r}*1 + 1024], tmm1",
            "tilestored [{s} + {r}*1 + 2048], tmm2",
            "tilestored [{s} + {r}*1 + 3072], tmm3",
            "tilestored [{s} + {r}*1 + 4096], tmm4",
            "tilestored [{s} + {r}*1 + 5120], tmm5",
            a = inout(reg) a => _, b = inout(reg) b => _, n = inout(reg) steps => _, s = in(reg) sums, r = in(reg) 64usize,
            p = inout(reg) ahead.at => _, stride = in(reg) ahead.stride,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _, out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

/// The first `n` of sixteen elements.
#[inline]
fn some(n: usize) -> __mmask16 {
    if n >= 16 { 0xffff } else { (1u32 << n) as u16 - 1 }
}

/// The larger of the magnitudes in `most` and `x`, as bits: those of NaN are above all.
#[inline]
#[target_feature(enable = "avx512f")]
fn larger(most: __m512i, x: __m512) -> __m512i {
    _mm512_max_epu32(most, _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(i32::MAX)))
}

/// Magnitudes between which scales lie: beyond the first elements lose digits, beyond the second multiply-adds take over.
const LIMITS: [f32; 2] = [f32::from_bits(27 << 23), f32::from_bits(227 << 23)];

/// Writes the digits of four vectors by `scale`, [`TILE`] or more bytes apart: digits of one place of the same lane are a word.
///
/// # Safety
/// The places hold 64 bytes each.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn digits(x: [__m512; 4], scale: __m512, to: *mut u8, apart: usize) {
    // Every digit and half a base is a digit without sign, so that adding halves carries where a digit would be negative.
    let halves = _mm512_set1_epi32(0x80_8080);
    let [a, b, c, d] = x.map(|x| _mm512_add_epi32(_mm512_cvtps_epi32(_mm512_mul_ps(x, scale)), halves));
    let (words, bytes) = (0xaaaa_aaaa, 0xaaaa_aaaa_aaaa_aaaa);
    // Two lower bytes of two, and the third.
    let low = |a, b| _mm512_mask_blend_epi16(words, a, _mm512_slli_epi32::<16>(b));
    let high = |a, b| _mm512_mask_blend_epi16(words, _mm512_srli_epi32::<16>(a), b);
    let (ab, cd) = (low(a, b), low(c, d));
    let third = _mm512_mask_blend_epi8(bytes, high(a, b), _mm512_slli_epi16::<8>(high(c, d)));
    let second = _mm512_mask_blend_epi8(bytes, _mm512_srli_epi16::<8>(ab), cd);
    let first = _mm512_mask_blend_epi8(bytes, ab, _mm512_slli_epi16::<8>(cd));
    let signs = _mm512_set1_epi8(i8::MIN);
    for (i, place) in [third, second, first].into_iter().enumerate() {
        // SAFETY: the caller vouches for the places.
        unsafe { _mm512_store_si512(to.add(i * apart).cast(), _mm512_xor_si512(place, signs)) };
    }
}

/// Bytes of a panel of B of such a depth: for every [`DEEP`] rows what the scales are worth, and the digits.
pub(crate) const fn panel_len(k: usize) -> usize {
    k.div_ceil(DEEP) * PANEL * size_of::<f32>() + k.div_ceil(DEPTH) * STEP.1
}

/// Writes the digits of a panel of B, `k` rows of [`PANEL`] floats. Where a scale does not fit, the first one is worth NaN.
///
/// # Safety
/// The panel holds the rows and `to`, aligned to 64 bytes, [`panel_len`] bytes; the machine has AVX-512.
#[target_feature(enable = "avx512f,avx512bw")]
pub(crate) unsafe fn pack_panel(k: usize, panel: *const f32, mut to: *mut u8) {
    let (mut fits, start) = (true, to.cast::<f32>());
    for deep in (0..k).step_by(DEEP) {
        let len = DEEP.min(k - deep);
        // SAFETY: rows are inside of the panel.
        unsafe {
            let from = panel.add(deep * PANEL);
            let load = |row: usize| if row < len { _mm512_loadu_ps(from.add(row * PANEL)) } else { _mm512_setzero_ps() };
            let mut most = _mm512_setzero_si512();
            for row in 0..len {
                most = larger(most, load(row));
            }
            fits &= _mm512_cmpge_epu32_mask(most, _mm512_set1_epi32(LIMITS[1].to_bits() as i32)) == 0;
            let most = _mm512_max_ps(_mm512_castsi512_ps(most), _mm512_set1_ps(LIMITS[0]));
            let scale = _mm512_div_ps(_mm512_set1_ps(MOST), most);
            _mm512_store_ps(to.cast(), _mm512_div_ps(_mm512_set1_ps(1.0), scale));
            to = to.add(PANEL * size_of::<f32>());
            for at in (0..len).step_by(DEPTH) {
                for i in 0..ROWS {
                    let row = at + i;
                    let x = [load(row), load(row + 16), load(row + 32), load(row + 48)];
                    digits(x, scale, to.add(i * 64), TILE);
                }
                to = to.add(STEP.1);
            }
        }
    }
    if !fits {
        // SAFETY: the digits start with what the first scale is worth.
        unsafe { start.write(f32::NAN) };
    }
}

/// Writes the digits of `N` vectors of a row of A, four of them every [`STEP`]`.0` bytes, and gives the largest magnitude.
///
/// # Safety
/// There are as many floats at `from`, and `to` holds the digits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn pack_row<const N: usize>(from: *const f32, to: *mut u8) -> f32 {
    // SAFETY: passed on from the caller.
    unsafe {
        let mut x = [_mm512_setzero_ps(); N];
        let mut most = _mm512_setzero_si512();
        for (i, x) in x.iter_mut().enumerate() {
            *x = _mm512_loadu_ps(from.add(16 * i));
            most = larger(most, *x);
        }
        let most = f32::from_bits(_mm512_reduce_max_epu32(most));
        let scale = _mm512_set1_ps(MOST / most.max(LIMITS[0]));
        for (step, x) in x.as_chunks::<4>().0.iter().enumerate() {
            digits(*x, scale, to.add(step * STEP.0), 2 * TILE);
        }
        most
    }
}

/// Writes the digits of a stripe of A, [`STEP`]`.0` bytes for [`DEPTH`] columns, of which each tile has `tall` rows, with what the
/// scales are worth, `[deep][`[`STRIPE`]`]`; and tells whether all scales fit.
///
/// # Safety
/// The block has the rows, `to` and `worth` hold digits and scales, and `line` [`DEEP`] floats.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn pack_stripe(s: &Sweep, rows: Range<usize>, tall: usize, line: *mut f32, to: *mut u8, worth: *mut f32) -> bool {
    let mut fits = true;
    for (i, row) in rows.enumerate() {
        for deep in (0..s.k).step_by(DEEP) {
            let len = DEEP.min(s.k - deep);
            // SAFETY: floats are inside of the row.
            unsafe {
                let from = row_of(s, row, &(deep..deep + len), line);
                let to = to.add(deep / DEPTH * STEP.0 + i / tall * TILE + i % tall * 64);
                let most = match len.div_ceil(DEPTH) {
                    1 => pack_row::<4>(from, to),
                    2 => pack_row::<8>(from, to),
                    3 => pack_row::<12>(from, to),
                    _ => pack_row::<16>(from, to),
                };
                // NaN is not below the limit.
                fits &= most < LIMITS[1];
                worth.add(deep / DEEP * STRIPE + i).write(most.max(LIMITS[0]) / MOST);
            }
        }
    }
    fits
}

/// A row of A in some depth, and zeros up to a multiple of [`DEPTH`]; put together at `line` where the window does not have it as
/// neighbours, or not the zeros.
///
/// # Safety
/// The block has it, and `line` holds it.
#[inline]
unsafe fn row_of(s: &Sweep, row: usize, deep: &Range<usize>, line: *mut f32) -> *const f32 {
    let t = &s.tile;
    // SAFETY: the caller vouches for the row.
    unsafe {
        let a = s.row(row);
        let start = |tap: usize| {
            let (r, rest) = (tap % t.taps[2], tap / t.taps[2]);
            a.add(rest / t.taps[1] * t.tap[0] + rest % t.taps[1] * t.tap[1] + r * t.tap[2])
        };
        let (mut tap, mut inside, mut done) = (deep.start / t.run, deep.start % t.run, 0);
        if inside + deep.len() <= t.run && deep.len().is_multiple_of(DEPTH) {
            return start(tap).add(inside);
        }
        core::ptr::write_bytes(line.add(deep.len()), 0, deep.len().next_multiple_of(DEPTH) - deep.len());
        while done < deep.len() {
            let n = (t.run - inside).min(deep.len() - done);
            core::ptr::copy_nonoverlapping(start(tap).add(inside), line.add(done), n);
            (tap, inside, done) = (tap + 1, 0, done + n);
        }
        line
    }
}

/// Adds sums of digits' products to a stripe of output.
///
/// # Safety
/// `sums` are those of [`multiply`]; `out` and `from` hold `rows` rows of `cols` floats, `worth` what the scales of rows and columns are
/// worth. The rows of `from` are `from_row` floats apart.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn add(
    sums: *const i32,
    (rows, tall): (usize, usize),
    cols: usize,
    worth: [*const f32; 2],
    (from, from_row): (*const f32, usize),
    (out, out_row): (*mut f32, usize),
    finish: Finish,
) {
    let mask = some(cols);
    let base = _mm512_set1_ps(256.0);
    // SAFETY: passed on from the caller.
    unsafe {
        let columns = _mm512_loadu_ps(worth[1]);
        for i in 0..rows {
            let at = sums.add(i / tall * DIGITS * TILE / 4 + i % tall * 16);
            let place = |p: usize| _mm512_load_si512(at.add(p * TILE / 4).cast());
            let upper = _mm512_add_epi32(_mm512_slli_epi32::<8>(place(0)), place(1));
            let sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(upper), base, _mm512_cvtepi32_ps(place(2)));
            // The six pairs have been summed at 256 to the power of 2 less.
            let row = _mm512_set1_ps(*worth[0].add(i) * 65536.0);
            let start = _mm512_maskz_loadu_ps(mask, from.add(i * from_row));
            let total = _mm512_fmadd_ps(_mm512_mul_ps(sum, columns), row, start);
            finish_some::<Avx512>(total, cols.min(16), finish.at(i, 0), out.add(i * out_row));
        }
    }
}

/// Where sums start that have no bias.
static ZEROS: [f32; PANEL] = [0.0; PANEL];

/// Computes a block.
///
/// # Safety
/// As [`sweep`](super::sweep::sweep); the machine has [`Isa::Amx`], and the block's scratch holds [`scratch_floats`].
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) unsafe fn sweep(s: &Sweep) {
    let (steps, parts) = (s.k.div_ceil(DEPTH), s.k.div_ceil(DEEP));
    // Blocks and stripes of nearly equal height.
    let blocks = s.rows.div_ceil(block_rows(s.k));
    let mut configured = 0;
    // SAFETY: the caller vouches for operands, output and scratch; all that is addressed is inside of them.
    unsafe {
        let sums = s.scratch.add(s.scratch.align_offset(64)).cast::<i32>();
        let line = sums.add(2 * DIGITS * TILE / 4).cast::<f32>();
        let digits = line.add(DEEP).cast::<u8>();
        for block in 0..blocks {
            let rows = s.rows * block / blocks..s.rows * (block + 1) / blocks;
            let stripes = rows.len().div_ceil(STRIPE);
            let stripe = |i: usize| rows.start + rows.len() * i / stripes..rows.start + rows.len() * (i + 1) / stripes;
            let worth = digits.add(stripes * steps * STEP.0).cast::<f32>();
            let mut fits = true;
            for i in 0..stripes {
                let (to, worth) = (digits.add(i * steps * STEP.0), worth.add(i * parts * STRIPE));
                fits &= pack_stripe(s, stripe(i), stripe(i).len().div_ceil(2), line, to, worth);
            }
            for first in (0..s.cols).step_by(TOGETHER) {
                let cols = first..s.cols.min(first + TOGETHER);
                let panel = |col: usize| s.digits.add(col / PANEL * panel_len(s.k));
                let after = TOGETHER / PANEL * panel_len(s.k);
                let fits = fits && cols.clone().step_by(PANEL).all(|col| !(*panel(col).cast::<f32>()).is_nan());
                for part in (0..parts).take_while(|_| fits) {
                    let steps_before = part * (DEEP / DEPTH);
                    let steps_here = (DEEP / DEPTH).min(steps - steps_before);
                    let before = part * PANEL * size_of::<f32>() + steps_before * STEP.1;
                    let bytes = PANEL * size_of::<f32>() + steps_here * STEP.1;
                    for i in 0..stripes {
                        let rows = stripe(i);
                        let tall = rows.len().div_ceil(2);
                        if tall != configured {
                            // Sums in registers 0 to 5, those of a tile of A by the power of 256; B in 6, A in 7.
                            let mut heights = [tall as u8; 8];
                            heights[6] = ROWS as u8;
                            Shapes::new(heights, [64; 8]).configure();
                            configured = tall;
                        }
                        let a = digits.add((i * steps + steps_before) * STEP.0);
                        let row_worth = worth.add((i * parts + part) * STRIPE).cast_const();
                        for col in cols.clone().step_by(PANEL) {
                            let b = panel(col).add(before);
                            // What comes next, the part behind this or the panels behind these, shared out among the stripes.
                            let next = if part + 1 < parts { b.wrapping_add(bytes) } else { panel(col).wrapping_add(after) };
                            let next = next.wrapping_add(bytes * i / stripes);
                            let ahead = Ahead { at: next, stride: (bytes / stripes).div_ceil(steps_here) };
                            multiply(a, b.add(PANEL * size_of::<f32>()), steps_here, sums, ahead);
                            let out = s.tile.out.add(rows.start * s.down + col);
                            let from = match (part, s.tile.bias.is_null()) {
                                (0, true) => (ZEROS.as_ptr(), 0),
                                (0, false) => (s.tile.bias.add(col), 0),
                                _ => (out.cast_const(), s.tile.pitch),
                            };
                            // Only whole sums are finished.
                            let finish = match part + 1 == parts {
                                true => s.tile.finish.at(s.row + rows.start, s.col + col),
                                false => Finish::NONE,
                            };
                            let shape = (rows.len(), tall);
                            add(sums, shape, cols.end - col, [row_worth, b.cast()], from, (out, s.tile.pitch), finish);
                        }
                    }
                }
                if !fits {
                    for i in rows.clone() {
                        sweep_with(widths(Isa::Avx512), &s.part(i, cols.start, cols.len()));
                    }
                }
                if let Some(f) = s.epilogue {
                    let out = s.tile.out.add(rows.start * s.down + cols.start);
                    let (row, col) = (s.row + rows.start, s.col + cols.start);
                    f(Block { out, pitch: s.tile.pitch, row, rows: rows.len(), col, cols: cols.len() });
                }
            }
        }
        tiles::release();
    }
}
