//! Sums of products to bytes: times a scale, plus a bias, rounded and saturated, taken through a table, and added to other bytes where a
//! residual joins.

use crate::gemm::Block;
use crate::isa::Isa;
use crate::kernel_fn;
use crate::quantize::table;
use crate::support::scalar::quantized;
#[cfg(target_arch = "x86_64")]
use core::arch::x86_64::*;

/// A number for each column of a block, or one for all.
#[derive(Clone, Copy, Debug)]
pub struct Each {
    /// That of the output's first column.
    pub at: *const f32,
    /// Elements from column to column: 1, or 0 for one number.
    pub step: usize,
}

/// How sums become bytes: `q = u8(round(bias + scale * sum) + zero)`, saturated, or what [`Addend`] makes of it.
#[derive(Clone, Copy, Debug)]
pub struct Requantize {
    /// Factors of the sums.
    pub scale: Each,
    /// What is added to them.
    pub bias: Each,
    /// The zero point of the result, or of what is added to others.
    pub zero: u8,
    /// What each of these bytes becomes, where a function stands behind them.
    pub table: Option<&'static [u8; 256]>,
    /// Bytes that are added.
    pub add: Option<Addend>,
}

/// Bytes that are added to what sums stand for: `u8(round(own * (q - zero) + scale * (byte - byte's zero)) + sum's zero)`, or
/// with `bias + scale * sum` as it is in place of the first summand.
#[derive(Clone, Copy, Debug)]
pub struct Addend {
    /// The bytes of the output's first pixel; columns are neighbours.
    pub bytes: *const u8,
    /// Bytes from pixel to pixel.
    pub pitch: usize,
    /// Their zero point.
    pub zero: u8,
    /// Their scale.
    pub scale: f32,
    /// The scale of the rounded sums; `None` where they are added as they are.
    pub own: Option<f32>,
    /// The zero point of rounded sums, which is another one behind a table.
    pub own_zero: u8,
    /// The zero point of the result.
    pub sum_zero: u8,
}

// SAFETY: the addresses are only read through, and the plan lets nobody write there meanwhile.
unsafe impl Send for Requantize {}
// SAFETY: as above.
unsafe impl Sync for Requantize {}

/// Converts a block of i32 to bytes at `out`, which is where the output's first pixel and column go, `pitch` bytes from pixel to pixel.
/// Without a table, these may be the bytes that are added.
///
/// # Safety
/// The block has i32 in it, `q` and `out` address the operands and the result of an output that the block lies in, nothing else
/// accesses its part of the output meanwhile, and the machine has `isa`.
pub unsafe fn requantize(isa: Isa, b: &Block, q: &Requantize, out: *mut u8, pitch: usize) {
    // SAFETY: the block lies inside of the output, and so of its operands.
    unsafe {
        let part = |e: Each| Each { at: e.at.add(b.col * e.step), step: e.step };
        let add = q.add.map(|a| Addend { bytes: a.bytes.add(b.row * a.pitch + b.col), ..a });
        let q = Requantize { scale: part(q.scale), bias: part(q.bias), add, ..*q };
        let out = out.add(b.row * pitch + b.col);
        if let Some(t) = q.table {
            requantize(isa, &Block { row: 0, col: 0, ..*b }, &Requantize { table: None, add: None, ..q }, out, pitch);
            for r in 0..b.rows {
                table::map_bytes(isa, out.add(r * pitch), b.cols, t);
            }
            if let Some(a) = q.add {
                add_bytes(isa, out, pitch, b.rows, b.cols, &a);
            }
            return;
        }
        #[cfg(target_arch = "x86_64")]
        if isa >= Isa::Avx512 {
            return wide(b.out.cast(), b.pitch, [b.rows, b.cols], &q, out, pitch);
        }
        plain(isa, b.out.cast(), b.pitch, b.rows, b.cols, &q, out, pitch);
    }
}

kernel_fn! {
    /// Adds other bytes to rows of bytes.
    ///
    /// # Safety
    /// As [`requantize`], for a block at the output's first pixel and column.
    fn add_bytes<A>(out: *mut u8, pitch: usize, rows: usize, cols: usize, a: &Addend) {
        let (own, zero, other) = (a.own.unwrap_or(1.0), f32::from(a.own_zero), f32::from(a.zero));
        for r in 0..rows {
            let (out, bytes) = (out.add(r * pitch), a.bytes.add(r * a.pitch));
            for c in 0..cols {
                let x = (f32::from(*out.add(c)) - zero) * own + (f32::from(*bytes.add(c)) - other) * a.scale;
                *out.add(c) = quantized(x, f32::from(a.sum_zero));
            }
        }
    }
    /// Converts rows of sums by the formulas as they stand.
    ///
    /// # Safety
    /// As [`requantize`], for a block at the output's first pixel and column.
    fn plain<A>(sums: *const i32, step: usize, rows: usize, cols: usize, q: &Requantize, out: *mut u8, pitch: usize) {
        let zero = f32::from(q.zero);
        for r in 0..rows {
            let (sums, out) = (sums.add(r * step), out.add(r * pitch));
            for c in 0..cols {
                let sum = *sums.add(c) as f32;
                let x = *q.bias.at.add(c * q.bias.step) + *q.scale.at.add(c * q.scale.step) * sum;
                *out.add(c) = match &q.add {
                    None => quantized(x, zero),
                    Some(a) => {
                        let byte = f32::from(*a.bytes.add(r * a.pitch + c));
                        let own = match a.own {
                            None => x,
                            Some(s) => (f32::from(quantized(x, zero)) - zero) * s,
                        };
                        quantized(own + (byte - f32::from(a.zero)) * a.scale, f32::from(a.sum_zero))
                    }
                };
            }
        }
    }
}

/// Sixty-four columns at a time, the rows of which follow each other.
///
/// # Safety
/// As [`plain`], on a machine with AVX-512.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn wide(sums: *const i32, step: usize, [rows, cols]: [usize; 2], q: &Requantize, out: *mut u8, pitch: usize) {
    let mut col = 0;
    while col < cols {
        let n = (cols - col).min(64);
        // SAFETY: the columns lie inside of the block.
        unsafe {
            let part = |e: Each| Each { at: e.at.add(col * e.step), step: e.step };
            let add = q.add.map(|a| Addend { bytes: a.bytes.add(col), ..a });
            let q = Requantize { scale: part(q.scale), bias: part(q.bias), add, ..*q };
            let (sums, out) = (sums.add(col), out.add(col));
            let rounded = q.add.is_some_and(|a| a.own.is_some());
            let (add, whole) = (usize::from(q.add.is_some()) + usize::from(rounded), n.is_multiple_of(16));
            let run = match (n.div_ceil(16), add, whole) {
                (1, 0, true) => stripe::<1, 0, true>,
                (1, 0, false) => stripe::<1, 0, false>,
                (2, 0, true) => stripe::<2, 0, true>,
                (4, 0, true) => stripe::<4, 0, true>,
                (_, 0, _) => stripe::<4, 0, false>,
                (4, 1, true) => stripe::<4, 1, true>,
                (_, 1, _) => stripe::<4, 1, false>,
                (1, _, true) => stripe::<1, 2, true>,
                (2, _, true) => stripe::<2, 2, true>,
                (4, _, true) => stripe::<4, 2, true>,
                _ => stripe::<4, 2, false>,
            };
            run(sums, step, [rows, n], &q, out, pitch);
        }
        col += n;
    }
}

/// `NV` vectors of columns, row by row. `ADD` tells what is added: nothing, bytes to sums as they are, bytes to rounded sums.
///
/// # Safety
/// As [`wide`], with at most `16 * NV` columns, as many if they are `WHOLE`.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn stripe<const NV: usize, const ADD: usize, const WHOLE: bool>(
    sums: *const i32,
    step: usize,
    [rows, cols]: [usize; 2],
    q: &Requantize,
    out: *mut u8,
    pitch: usize,
) {
    let bits = if cols == 64 { !0 } else { (1u64 << cols) - 1 };
    let mask = |j: usize| (bits >> (16 * j)) as __mmask16;
    // SAFETY: masked lanes are not accessed, and the others lie inside of the block.
    unsafe {
        let each = |e: Each, j: usize| match e.step {
            0 => _mm512_set1_ps(*e.at),
            _ => _mm512_maskz_loadu_ps(mask(j), e.at.wrapping_add(16 * j)),
        };
        // Loops, as closures handed to others are not compiled for the instruction set.
        let (mut scale, mut bias) = ([_mm512_setzero_ps(); NV], [_mm512_setzero_ps(); NV]);
        for j in 0..NV {
            (scale[j], bias[j]) = (each(q.scale, j), each(q.bias, j));
        }
        let number = |x: f32| _mm512_set1_ps(x);
        let (least, most) = (number(-f32::from(q.zero)), number(255.0 - f32::from(q.zero)));
        let a = q.add.unwrap_or(Addend { bytes: out, pitch, zero: 0, scale: 0.0, own: None, own_zero: 0, sum_zero: q.zero });
        let (own, other, other_zero) = (number(a.own.unwrap_or(1.0)), number(a.scale), number(f32::from(a.zero)));
        let unit = number(12_582_912.0);
        let top = number(255.0 - f32::from(a.sum_zero));
        let zero = _mm512_set1_epi16(i16::from(a.sum_zero));
        // Packing interleaves the quarters of vectors; this puts their words in order again.
        let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        for r in 0..rows {
            let line = sums.add(r * step);
            // Blocks of as many rows follow: what they read and write is asked for.
            if ADD > 0 {
                _mm_prefetch::<_MM_HINT_T0>(a.bytes.wrapping_add((r + rows) * a.pitch).cast());
            }
            _mm_prefetch::<_MM_HINT_ET0>(out.wrapping_add((r + rows) * pitch).cast());
            let mut whole = [_mm512_setzero_si512(); NV];
            for j in 0..NV {
                let at = line.wrapping_add(16 * j);
                let sum = if WHOLE { _mm512_loadu_epi32(at) } else { _mm512_maskz_loadu_epi32(mask(j), at) };
                let mut x = _mm512_add_ps(bias[j], _mm512_mul_ps(scale[j], _mm512_cvtepi32_ps(sum)));
                if ADD == 2 {
                    // The second operand stands where the first is NaN.
                    let inside = _mm512_min_ps(_mm512_max_ps(x, least), most);
                    // Next to this number neighbours are 1 apart.
                    x = _mm512_mul_ps(_mm512_sub_ps(_mm512_add_ps(inside, unit), unit), own);
                }
                if ADD > 0 {
                    let at = a.bytes.wrapping_add(r * a.pitch + 16 * j);
                    let bytes = if WHOLE { _mm_loadu_si128(at.cast()) } else { _mm_maskz_loadu_epi8(mask(j), at.cast()) };
                    let byte = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes));
                    x = _mm512_add_ps(x, _mm512_mul_ps(_mm512_sub_ps(byte, other_zero), other));
                }
                // NaN and what is far below become the least i32, which saturation takes to 0.
                whole[j] = _mm512_cvtps_epi32(_mm512_min_ps(if ADD == 0 { most } else { top }, x));
            }
            let at = |j: usize| whole[j % NV];
            let low = _mm512_adds_epi16(_mm512_packs_epi32(at(0), at(1)), zero);
            let high = _mm512_adds_epi16(_mm512_packs_epi32(at(2), at(3)), zero);
            let bytes = _mm512_permutexvar_epi32(order, _mm512_packus_epi16(low, high));
            let to = out.add(r * pitch).cast::<i8>();
            match NV {
                1 if WHOLE => _mm_storeu_si128(to.cast(), _mm512_castsi512_si128(bytes)),
                2 if WHOLE => _mm256_storeu_si256(to.cast(), _mm512_castsi512_si256(bytes)),
                4 if WHOLE => _mm512_storeu_si512(to.cast(), bytes),
                1 => _mm_mask_storeu_epi8(to, mask(0), _mm512_castsi512_si128(bytes)),
                _ => _mm512_mask_storeu_epi8(to, bits, bytes),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::testing::Rng;
    use alloc::format;
    use alloc::vec;
    use alloc::vec::Vec;

    /// A table that is no order of its places.
    static SQUARES: [u8; 256] = {
        let mut t = [0; 256];
        let mut i = 0;
        while i < 256 {
            t[i] = (i * i / 7 % 256) as u8;
            i += 1;
        }
        t
    };

    /// The formula in the words of the standard.
    fn byte(x: f32, zero: u8) -> u8 {
        (x.round_ties_even() + f32::from(zero)).clamp(0.0, 255.0) as u8
    }

    #[test]
    fn bytes_are_those_of_the_formula() {
        let mut rng = Rng(5);
        for _ in 0..200 {
            let (rows, cols) = (rng.int(0, 6), rng.pick(&[0, 1, 15, 16, 17, 24, 32, 33, 48, 63, 64, 65, 128, 150]));
            let (step, pitch, other) = (cols + rng.int(0, 3), cols + rng.int(0, 5), cols + rng.int(0, 2));
            let (row, col) = (rng.int(0, 2), rng.int(0, 3));
            let wild = [i32::MAX, i32::MIN, 0, 1 << 24];
            let sums: Vec<i32> =
                (0..rows * step + 1).map(|_| if rng.int(0, 9) == 0 { rng.pick(&wild) } else { rng.int(0, 4000) as i32 - 2000 }).collect();
            let odd = [f32::NAN, f32::INFINITY, -f32::INFINITY, -0.0, 1e30, -1e30, 0.5, -2.5];
            let numbers = |rng: &mut Rng| -> Vec<f32> {
                (0..cols + col + 1).map(|_| if rng.int(0, 9) == 0 { rng.pick(&odd) } else { rng.int(0, 1000) as f32 / 2e3 }).collect()
            };
            let (scales, biases) = (numbers(&mut rng), numbers(&mut rng));
            let bytes: Vec<u8> = (0..(rows + row) * other + col + cols).map(|_| rng.next() as u8).collect();
            let zeros = [(); 3].map(|()| rng.pick(&[0u8, 255, 128, 121]));
            let (scale, own) = (0.031 * rng.int(1, 40) as f32, 0.017 * rng.int(1, 90) as f32);
            let steps = [(); 2].map(|()| rng.int(0, 1));
            for (mode, through) in [(0, false), (1, false), (2, false), (0, true), (2, true)] {
                let own = (mode == 2).then_some(own);
                let own_zero = if through { 77 } else { zeros[0] };
                let add = Addend { bytes: bytes.as_ptr(), pitch: other, zero: zeros[1], scale, own, own_zero, sum_zero: zeros[2] };
                let each = |x: &[f32], step: usize| Each { at: x.as_ptr(), step };
                let (scale_of, bias_of) = (each(&scales, steps[0]), each(&biases, steps[1]));
                let q = Requantize {
                    scale: scale_of,
                    bias: bias_of,
                    zero: zeros[0],
                    table: through.then_some(&SQUARES),
                    add: (mode > 0).then_some(add),
                };
                let mut want = vec![7u8; (rows + row) * pitch + col + cols];
                for (r, c) in (0..rows).flat_map(|r| (0..cols).map(move |c| (r, c))) {
                    let of = |x: &[f32], step: usize| x[(col + c) * step];
                    let x = of(&biases, steps[1]) + of(&scales, steps[0]) * sums[r * step + c] as f32;
                    let first = match own {
                        Some(s) if through => (f32::from(SQUARES[usize::from(byte(x, zeros[0]))]) - 77.0) * s,
                        Some(s) => (f32::from(byte(x, zeros[0])) - f32::from(zeros[0])) * s,
                        None => x,
                    };
                    let second = (f32::from(bytes[(r + row) * other + col + c]) - f32::from(zeros[1])) * scale;
                    want[(r + row) * pitch + col + c] = match mode {
                        0 if through => SQUARES[usize::from(byte(x, zeros[0]))],
                        0 => byte(x, zeros[0]),
                        _ => byte(first + second, zeros[2]),
                    };
                }
                for isa in Isa::available() {
                    let mut got = vec![7u8; want.len()];
                    let block = Block { out: sums.as_ptr().cast_mut().cast(), pitch: step, row, rows, col, cols };
                    // SAFETY: the arrays hold the block, its operands and its place in the output.
                    unsafe { requantize(isa, &block, &q, got.as_mut_ptr(), pitch) };
                    let what = format!("{rows}x{cols}, mode {mode}, through a table {through}, {zeros:?}, {}", isa.name());
                    assert!(got == want, "{what}");
                    if let Some(a) = q.add.filter(|_| !through) {
                        // Over the bytes that are added.
                        let mut got = bytes.clone();
                        let q = Requantize { add: Some(Addend { bytes: got.as_ptr(), ..a }), ..q };
                        // SAFETY: as above; nothing else refers to the bytes meanwhile.
                        unsafe { requantize(isa, &block, &q, got.as_mut_ptr(), other) };
                        for (r, c) in (0..rows).flat_map(|r| (0..cols).map(move |c| (r, c))) {
                            let [got, want] = [got[(r + row) * other + col + c], want[(r + row) * pitch + col + c]];
                            assert_eq!(got, want, "over what is added, {what}");
                        }
                    }
                }
            }
        }
    }
}
