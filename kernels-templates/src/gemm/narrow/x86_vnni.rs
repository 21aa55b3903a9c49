//! Products of digits with integers of few bits by AVX512-VNNI: up to four rows, by panels side by side.

use super::digits::{DIGITS, row_bytes, step};
use super::pack::{FOUR, UNIT, blocks, panel_len};
use super::{Coding, Gemm, Part, Zeros};
use crate::gemm::{PANEL, finish_some};
use crate::simd::Avx512;
use core::arch::x86_64::*;

/// Units of codes that are asked for in advance.
const AHEAD: usize = 24;

/// Rows of digits and panels of a part that a kernel multiplies.
struct Strip<'a> {
    part: &'a Part,
    /// The first row.
    row: usize,
    /// The first panel.
    panel: usize,
    ldc: usize,
    digits: *const u8,
    /// Bytes from the digits of one row to those of the next.
    each: usize,
    blocks: usize,
    block: usize,
    /// Bytes of a panel's codes.
    len: usize,
}

/// The integers at place `i` of a unit's bytes.
///
/// # Safety
/// The machine has AVX-512.
#[inline(always)]
unsafe fn place<const BITS: usize>(unit: __m512i, i: usize) -> __m512i {
    // SAFETY: used inside of entry points that enable AVX-512.
    unsafe {
        let mask = _mm512_set1_epi8(((1u32 << BITS) - 1) as u8 as i8);
        match i * BITS {
            0 if BITS == 8 => unit,
            0 => _mm512_and_si512(unit, mask),
            2 => _mm512_and_si512(_mm512_srli_epi16::<2>(unit), mask),
            4 => _mm512_and_si512(_mm512_srli_epi16::<4>(unit), mask),
            _ => _mm512_and_si512(_mm512_srli_epi16::<6>(unit), mask),
        }
    }
}

/// `R` rows by `P` panels.
///
/// # Safety
/// The part has such rows and panels, and the machine has VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn strip<const BITS: usize, const R: usize, const P: usize>(s: &Strip) {
    let (w, part) = (&s.part.weights, s.part);
    let (each, units) = (8 / BITS, s.block * BITS / 8 / FOUR);
    // SAFETY: blocks, rows and panels are inside of the part that the caller vouches for; what is asked for in advance may be anywhere.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); P]; R];
        if !part.bias.is_null() {
            for p in 0..P {
                let bias = _mm512_loadu_ps(part.bias.add((s.panel + p) * PANEL));
                for row in &mut sums {
                    row[p] = bias;
                }
            }
        }
        let codes = w.codes.add(s.panel * s.len);
        let beside = |p: usize, b: usize| ((s.panel + p) * s.blocks + b) * PANEL;
        for b in 0..s.blocks {
            let digits = s.digits.add(b * step(s.block));
            let behind = digits.add(DIGITS * s.block);
            let mut found = [[[_mm512_setzero_si512(); DIGITS]; P]; R];
            if let Zeros::Same(z) = w.zeros {
                for (r, row) in found.iter_mut().enumerate() {
                    for d in 0..DIGITS {
                        let sum = behind.add(r * s.each).cast::<i32>().add(d).read_unaligned();
                        let start = _mm512_set1_epi32(-i32::from(z) * sum);
                        for panel in row.iter_mut() {
                            panel[d] = start;
                        }
                    }
                }
            }
            for u in 0..units {
                let mut unit = [_mm512_setzero_si512(); P];
                for (p, unit) in unit.iter_mut().enumerate() {
                    let at = codes.add(p * s.len + (b * units + u) * UNIT);
                    *unit = _mm512_loadu_si512(at.cast());
                    _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(AHEAD * UNIT).cast());
                }
                for i in 0..each {
                    let codes = unit.map(|unit| place::<BITS>(unit, i));
                    for (r, row) in found.iter_mut().enumerate() {
                        for d in 0..DIGITS {
                            let four = digits.add(r * s.each + d * s.block + (u * each + i) * FOUR).cast::<i32>();
                            let four = _mm512_set1_epi32(four.read_unaligned());
                            for (p, panel) in row.iter_mut().enumerate() {
                                panel[d] = _mm512_dpbusd_epi32(panel[d], codes[p], four);
                            }
                        }
                    }
                }
            }
            for p in 0..P {
                let scale = _mm512_loadu_ps(w.scales.add(beside(p, b)));
                for r in 0..R {
                    let behind = behind.add(r * s.each);
                    let mut of = found[r][p];
                    if let Zeros::Each(z) = w.zeros {
                        let zeros = _mm512_cvtepu8_epi32(_mm_loadu_si128(z.add(beside(p, b)).cast()));
                        let less = _mm512_sub_epi32(_mm512_setzero_si512(), zeros);
                        for (d, of) in of.iter_mut().enumerate() {
                            // A sum of up to 256 digits has 16 bits.
                            let sum = behind.cast::<i32>().add(d).read_unaligned() & 0xffff;
                            *of = _mm512_dpwssd_epi32(*of, less, _mm512_set1_epi32(sum));
                        }
                    }
                    let [high, mid, low] = of.map(|x| _mm512_cvtepi32_ps(x));
                    let lower = _mm512_fmadd_ps(mid, _mm512_set1_ps(256.0), low);
                    let mut sum = _mm512_fmadd_ps(high, _mm512_set1_ps(65536.0), lower);
                    if let Zeros::Floats(z) = w.zeros {
                        let [high, mid, low] = behind.cast::<[i32; DIGITS]>().read_unaligned().map(|x| x as f32);
                        let row = high.mul_add(65536.0, mid.mul_add(256.0, low));
                        sum = _mm512_fnmadd_ps(_mm512_loadu_ps(z.add(beside(p, b))), _mm512_set1_ps(row), sum);
                    }
                    let worth = behind.add(4 * DIGITS).cast::<f32>().read_unaligned();
                    sums[r][p] = _mm512_fmadd_ps(scale, _mm512_mul_ps(sum, _mm512_set1_ps(worth)), sums[r][p]);
                }
            }
        }
        let finish = part.finish;
        for (r, row) in sums.iter().enumerate() {
            for (p, &sum) in row.iter().enumerate() {
                let col = (s.panel + p) * PANEL;
                let left = (part.cols - col).min(PANEL);
                let to = part.out.add((s.row + r) * s.ldc + col);
                finish_some::<Avx512>(sum, left, finish.at(part.row + s.row + r, part.col + col), to);
            }
        }
    }
}

type Kernel = unsafe fn(&Strip);

/// By rows, kernels of the most panels that the registers hold, and of one.
macro_rules! kernels {
    ($bits:literal) => {
        [
            [(4, strip::<$bits, 1, 4> as Kernel), (1, strip::<$bits, 1, 1>)],
            [(2, strip::<$bits, 2, 2>), (1, strip::<$bits, 2, 1>)],
            [(2, strip::<$bits, 3, 2>), (1, strip::<$bits, 3, 1>)],
            [(1, strip::<$bits, 4, 1>), (1, strip::<$bits, 4, 1>)],
        ]
    };
}

/// Computes rows of a part from a first one on, up to so many, of which `digits` has those. Gives how many: four at most.
///
/// # Safety
/// The part has such rows of the geometry, and the machine has VNNI.
pub(super) unsafe fn multiply(
    g: &Gemm,
    (bits, block): (usize, usize),
    part: &Part,
    (row, rows): (usize, usize),
    digits: *const u8,
) -> usize {
    const WIDTHS: [[[(usize, Kernel); 2]; 4]; 3] = [kernels!(2), kernels!(4), kernels!(8)];
    let rows = rows.min(4);
    let kernels = &WIDTHS[bits.ilog2() as usize - 1][rows - 1];
    let len = panel_len(g.k, Coding::Blocks { bits, block });
    let (each, blocks) = (row_bytes(g.k, block), blocks(g.k, block));
    let panels = part.cols.div_ceil(PANEL);
    let mut panel = 0;
    while panel < panels {
        let (wide, kernel) = kernels[usize::from(panels - panel < kernels[0].0)];
        // SAFETY: passed on from the caller; there are as many panels left.
        unsafe { kernel(&Strip { part, row, panel, ldc: g.ldc, digits, each, blocks, block, len }) };
        panel += wide;
    }
    rows
}
