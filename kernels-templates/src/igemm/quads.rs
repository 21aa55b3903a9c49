//! Depthwise sums of bytes with AVX512-VNNI: four rows of a window beside each other, so that one instruction takes four products.
//!
//! A column of a window is made once, and stays in registers while windows move along a row by steps of 1 or 2.

use core::arch::x86_64::*;

/// Channels whose weights are packed together.
pub(super) const CHANNELS: usize = 64;
/// Rows of a window that are taken at once.
pub(super) const ROWS: usize = 4;

/// Some output pixels of a row, and some channels of them.
pub(super) struct Line {
    /// The input's first pixel of each row of the window.
    pub(super) rows: [*const u8; ROWS],
    /// Bytes from pixel to pixel in each.
    pub(super) steps: [usize; ROWS],
    /// Pixels of a row.
    pub(super) wide: usize,
    /// The pixel that the first window begins at.
    pub(super) begin: isize,
    /// Output pixels.
    pub(super) pixels: usize,
    /// Channels, at most [`CHANNELS`].
    pub(super) channels: usize,
    /// What is outside of the input.
    pub(super) zero: u8,
    /// Packed weights of the rows, a column after the other: four vectors each.
    pub(super) weights: *const u8,
    /// What sums begin at, in the order of the weights; null to add to what `out` has.
    pub(super) start: *const i32,
    /// Sums: [`CHANNELS`] a pixel.
    pub(super) out: *mut i32,
}

/// Four vectors of bytes by fours, in which the 128-bit parts of the first have channels 0 to 3, 16 to 19 and so on, those of the
/// second 4 to 7, 20 to 23. Every method must run where AVX512-VNNI is available.
trait Fours: Copy {
    type V: Copy;
    /// Up to `n` bytes, 0 behind them.
    unsafe fn load(p: *const u8, n: usize) -> Self::V;
    unsafe fn splat(x: u8) -> Self::V;
    unsafe fn words(p: *const i32) -> Self::V;
    /// The bytes of four rows by fours.
    unsafe fn fours(rows: [Self::V; 4]) -> [Self::V; 4];
    unsafe fn dot(sums: Self::V, x: Self::V, w: Self::V) -> Self::V;
    /// Writes sums in the order of their channels, or adds them to those that are there.
    unsafe fn store(sums: [Self::V; 4], out: *mut i32, add: bool);
}

/// Sixty-four channels.
#[derive(Clone, Copy)]
struct Whole;

/// Thirty-two channels.
#[derive(Clone, Copy)]
struct Half;

// SAFETY of all blocks below: the caller has the instruction set, and vouches for the addresses.
impl Fours for Whole {
    type V = __m512i;
    #[inline(always)]
    unsafe fn load(p: *const u8, n: usize) -> __m512i {
        // SAFETY: masked bytes are not accessed.
        unsafe { if n >= 64 { _mm512_loadu_si512(p.cast()) } else { _mm512_maskz_loadu_epi8((1 << n) - 1, p.cast()) } }
    }
    #[inline(always)]
    unsafe fn splat(x: u8) -> __m512i {
        // SAFETY: as above; so below.
        unsafe { _mm512_set1_epi8(x as i8) }
    }
    #[inline(always)]
    unsafe fn words(p: *const i32) -> __m512i {
        // SAFETY: the caller vouches for sixteen words at `p`.
        unsafe { _mm512_loadu_si512(p.cast()) }
    }
    #[inline(always)]
    unsafe fn fours([a, b, c, d]: [__m512i; 4]) -> [__m512i; 4] {
        // SAFETY: as in `splat`.
        unsafe {
            let (ab, cd) = (_mm512_unpacklo_epi8(a, b), _mm512_unpacklo_epi8(c, d));
            let (ef, gh) = (_mm512_unpackhi_epi8(a, b), _mm512_unpackhi_epi8(c, d));
            [_mm512_unpacklo_epi16(ab, cd), _mm512_unpackhi_epi16(ab, cd), _mm512_unpacklo_epi16(ef, gh), _mm512_unpackhi_epi16(ef, gh)]
        }
    }
    #[inline(always)]
    unsafe fn dot(sums: __m512i, x: __m512i, w: __m512i) -> __m512i {
        // SAFETY: as in `splat`. The form that does not saturate.
        unsafe { _mm512_dpbusd_epi32(sums, x, w) }
    }
    #[inline(always)]
    unsafe fn store([a, b, c, d]: [__m512i; 4], out: *mut i32, add: bool) {
        // SAFETY: the caller vouches for sixty-four words at `out`.
        unsafe {
            let (low, high) = (
                [_mm512_shuffle_i32x4::<0x44>(a, b), _mm512_shuffle_i32x4::<0x44>(c, d)],
                [_mm512_shuffle_i32x4::<0xee>(a, b), _mm512_shuffle_i32x4::<0xee>(c, d)],
            );
            let all = [
                _mm512_shuffle_i32x4::<0x88>(low[0], low[1]),
                _mm512_shuffle_i32x4::<0xdd>(low[0], low[1]),
                _mm512_shuffle_i32x4::<0x88>(high[0], high[1]),
                _mm512_shuffle_i32x4::<0xdd>(high[0], high[1]),
            ];
            for (j, v) in all.into_iter().enumerate() {
                let to = out.add(16 * j).cast();
                let v = if add { _mm512_add_epi32(v, _mm512_loadu_si512(to)) } else { v };
                _mm512_storeu_si512(to.cast(), v);
            }
        }
    }
}

impl Fours for Half {
    type V = __m256i;
    #[inline(always)]
    unsafe fn load(p: *const u8, n: usize) -> __m256i {
        // SAFETY: masked bytes are not accessed.
        unsafe { if n >= 32 { _mm256_loadu_si256(p.cast()) } else { _mm256_maskz_loadu_epi8((1 << n) - 1, p.cast()) } }
    }
    #[inline(always)]
    unsafe fn splat(x: u8) -> __m256i {
        // SAFETY: as in `Whole`; so below.
        unsafe { _mm256_set1_epi8(x as i8) }
    }
    #[inline(always)]
    unsafe fn words(p: *const i32) -> __m256i {
        // SAFETY: the caller vouches for eight words at `p`.
        unsafe { _mm256_loadu_si256(p.cast()) }
    }
    #[inline(always)]
    unsafe fn fours([a, b, c, d]: [__m256i; 4]) -> [__m256i; 4] {
        // SAFETY: as in `splat`.
        unsafe {
            let (ab, cd) = (_mm256_unpacklo_epi8(a, b), _mm256_unpacklo_epi8(c, d));
            let (ef, gh) = (_mm256_unpackhi_epi8(a, b), _mm256_unpackhi_epi8(c, d));
            [_mm256_unpacklo_epi16(ab, cd), _mm256_unpackhi_epi16(ab, cd), _mm256_unpacklo_epi16(ef, gh), _mm256_unpackhi_epi16(ef, gh)]
        }
    }
    #[inline(always)]
    unsafe fn dot(sums: __m256i, x: __m256i, w: __m256i) -> __m256i {
        // SAFETY: as in `splat`. The form that does not saturate.
        unsafe { _mm256_dpbusd_epi32(sums, x, w) }
    }
    #[inline(always)]
    unsafe fn store([a, b, c, d]: [__m256i; 4], out: *mut i32, add: bool) {
        // SAFETY: the caller vouches for thirty-two words at `out`.
        unsafe {
            let all = [
                _mm256_permute2x128_si256::<0x20>(a, b),
                _mm256_permute2x128_si256::<0x20>(c, d),
                _mm256_permute2x128_si256::<0x31>(a, b),
                _mm256_permute2x128_si256::<0x31>(c, d),
            ];
            for (j, v) in all.into_iter().enumerate() {
                let to = out.add(8 * j).cast();
                let v = if add { _mm256_add_epi32(v, _mm256_loadu_si256(to)) } else { v };
                _mm256_storeu_si256(to, v);
            }
        }
    }
}

/// A column of a window, which may be outside of the input.
///
/// # Safety
/// As [`sums`].
#[inline(always)]
unsafe fn column<F: Fours>(l: &Line, w: isize) -> [F::V; 4] {
    // SAFETY: only pixels inside of rows are read.
    unsafe {
        let mut rows = [F::splat(l.zero); ROWS];
        if (w as usize) < l.wide {
            for (i, row) in rows.iter_mut().enumerate() {
                *row = F::load(l.rows[i].add(w as usize * l.steps[i]), l.channels);
            }
        }
        F::fours(rows)
    }
}

/// The sums of a line, windows of `KW` columns a step of `STEP` apart.
///
/// # Safety
/// As [`sums`].
#[inline(always)]
unsafe fn slide<F: Fours, const KW: usize, const STEP: usize>(l: &Line) {
    // SAFETY: only pixels inside of rows are read, and the caller vouches for weights and sums.
    unsafe {
        // No closures: they are not compiled for the instruction set.
        let none = [F::splat(0); 4];
        let (mut weights, mut columns, mut start) = ([none; KW], [none; KW], none);
        for r in 0..KW {
            for (j, w) in weights[r].iter_mut().enumerate() {
                *w = F::words(l.weights.add((r * 4 + j) * CHANNELS).cast());
            }
            if r >= STEP {
                columns[r] = column::<F>(l, l.begin + (r - STEP) as isize);
            }
        }
        if !l.start.is_null() {
            for (j, s) in start.iter_mut().enumerate() {
                *s = F::words(l.start.add(16 * j));
            }
        }
        for pixel in 0..l.pixels {
            for r in 0..KW {
                columns[r] = match r + STEP < KW {
                    true => columns[(r + STEP) % KW],
                    false => column::<F>(l, l.begin + (pixel * STEP + r) as isize),
                };
            }
            let mut acc = start;
            for r in 0..KW {
                for j in 0..4 {
                    acc[j] = F::dot(acc[j], columns[r][j], weights[r][j]);
                }
            }
            F::store(acc, l.out.add(pixel * CHANNELS), l.start.is_null());
        }
    }
}

/// Whether windows of so many columns, so far apart, are taken.
pub(super) const fn slides(kw: usize, step: usize) -> bool {
    (kw == 3 || kw == 5) && (step == 1 || step == 2)
}

/// The sums of a line, of windows of `kw` columns a step of `step` apart.
///
/// # Safety
/// The rows have `wide` pixels of `channels` bytes, there are weights of `kw` columns, initial values for all channels unless the
/// pointer is null, and room for [`CHANNELS`] sums a pixel; [`slides`] says that such windows are taken, and the machine has
/// AVX512-VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn sums(kw: usize, step: usize, l: &Line) {
    // SAFETY: passed on from the caller.
    unsafe {
        match (l.channels > 32, kw, step) {
            (true, 3, 1) => slide::<Whole, 3, 1>(l),
            (true, 3, _) => slide::<Whole, 3, 2>(l),
            (true, _, 1) => slide::<Whole, 5, 1>(l),
            (true, ..) => slide::<Whole, 5, 2>(l),
            (_, 3, 1) => slide::<Half, 3, 1>(l),
            (_, 3, _) => slide::<Half, 3, 2>(l),
            (_, _, 1) => slide::<Half, 5, 1>(l),
            (..) => slide::<Half, 5, 2>(l),
        }
    }
}
