//! Products with weights of few bits against the definition, in f64.

use super::*;
use crate::dtype::{bf16, f16};
use crate::gemm::{Panels, pack_rows, packed_len as panels_len};
use crate::support::testing::{Finished, Rng};
use alloc::{format, vec, vec::Vec};

/// Value of the floats that a kernel must leave alone.
const UNTOUCHED: f32 = 12345.0;

/// Zero points of a matrix, for each block of a column.
#[derive(Clone, Debug)]
enum Taken {
    Same(u8),
    Each(Vec<u8>),
    Floats(Vec<f32>),
}

/// A matrix of integers, column by column.
struct Matrix {
    bits: usize,
    block: usize,
    codes: Vec<u8>,
    scales: Vec<f32>,
    zeros: Taken,
}

/// A packed matrix, one byte in where nothing has to be aligned.
struct PackedMatrix {
    codes: Vec<u8>,
    scales: Vec<f32>,
    zeros: Vec<u8>,
    float_zeros: Vec<f32>,
}

impl Matrix {
    fn random(rng: &mut Rng, (n, k): (usize, usize), bits: usize, block: usize) -> Matrix {
        let (count, most) = (blocks(k, block), ((1u32 << bits) - 1) as u8);
        let codes = (0..n * count * block).map(|_| rng.next() as u8 & most).collect();
        let scales = (0..n * count).map(|_| rng.float() * rng.pick(&[1.0, 1e-3, 40.0])).collect();
        let zeros = match rng.int(0, 4) {
            0 => Taken::Same(0),
            1 => Taken::Same(most),
            2 => Taken::Same(most / 2 + 1),
            3 => Taken::Each((0..n * count).map(|_| rng.pick(&[0, most, rng.0 as u8 & most])).collect()),
            _ => Taken::Floats((0..n * count).map(|_| (rng.float() + 0.5) * f32::from(most)).collect()),
        };
        Matrix { bits, block, codes, scales, zeros }
    }
    fn zero(&self, at: usize) -> f32 {
        match &self.zeros {
            Taken::Same(z) => f32::from(*z),
            Taken::Each(z) => f32::from(z[at]),
            Taken::Floats(z) => z[at],
        }
    }
    /// The element, and what its parts add up to at most.
    fn at(&self, k: usize, row: usize, col: usize) -> (f32, f64) {
        let count = blocks(k, self.block);
        let (block, code) = (col * count + row / self.block, self.codes[col * count * self.block + row]);
        let (scale, zero) = (self.scales[block], self.zero(block));
        ((f32::from(code) - zero) * scale, (f64::from(code) + f64::from(zero).abs()) * f64::from(scale).abs())
    }
    fn packed(&self, n: usize, k: usize) -> PackedMatrix {
        let coding = Coding::Blocks { bits: self.bits, block: self.block };
        let (count, wide) = (blocks(k, self.block), n.next_multiple_of(PANEL));
        let mut codes = vec![0xff; 1 + packed_len(k, n, coding)];
        pack_codes(k, n, (self.bits, self.block), |col, row| self.codes[col * count * self.block + row], &mut codes[1..]);
        let mut scales = vec![f32::NAN; wide * count];
        pack_blocks(n, count, |col, block| self.scales[col * count + block], &mut scales);
        let (mut zeros, mut float_zeros) = (Vec::new(), Vec::new());
        match &self.zeros {
            Taken::Same(_) => {}
            Taken::Each(z) => {
                zeros = vec![0xff; wide * count];
                pack_blocks(n, count, |col, block| z[col * count + block], &mut zeros);
            }
            Taken::Floats(z) => {
                float_zeros = vec![f32::NAN; wide * count];
                pack_blocks(n, count, |col, block| z[col * count + block], &mut float_zeros);
            }
        }
        PackedMatrix { codes, scales, zeros, float_zeros }
    }
    fn coded(&self, p: &PackedMatrix) -> Coded {
        let zeros = match self.zeros {
            Taken::Same(z) => Zeros::Same(z),
            Taken::Each(_) => Zeros::Each(p.zeros.as_ptr()),
            Taken::Floats(_) => Zeros::Floats(p.float_zeros.as_ptr()),
        };
        Coded { codes: p.codes[1..].as_ptr(), scales: p.scales.as_ptr(), zeros }
    }
}

/// Runs all tasks, the last one first, with a tail that adds one.
fn run(narrow: &Narrow, isa: Isa, a: *const f32, w: Coded, bias: *const f32, finish: Finish) -> Vec<f32> {
    let g = narrow.gemm;
    let mut out = vec![UNTOUCHED; g.m * g.ldc];
    let mut scratch = vec![f32::NAN; narrow.scratch_floats()];
    let one = |b: Block| {
        assert!(b.row + b.rows <= g.m && b.col + b.cols <= g.n);
        for i in 0..b.rows {
            for j in 0..b.cols {
                // SAFETY: the block is inside of the output.
                unsafe { *b.out.add(i * b.pitch + j) += 1.0 };
            }
        }
    };
    for task in (0..narrow.tasks()).rev() {
        // SAFETY: the arrays have the sizes that the kernel asks for.
        unsafe { narrow.run_task(isa, task, a, w, bias, out.as_mut_ptr(), scratch.as_mut_ptr(), finish, Some(&one)) };
    }
    out
}

/// Rows of ordinary numbers and, now and then, of those that have no digits or lose some.
fn rows(rng: &mut Rng, m: usize, pitch: usize, k: usize) -> Vec<f32> {
    let mut a = rng.floats(1 + m * pitch + 8);
    for i in 0..m {
        let row = &mut a[1 + i * pitch..][..k];
        let by = rng.pick(&[1.0, 1.0, 1.0, 1e4, 1e-30, 1e-42, 0.0, -0.0]);
        row.iter_mut().for_each(|x| *x *= by);
        if k > 0 && rng.int(0, 3) == 0 {
            let at = rng.int(0, k - 1);
            row[at] = rng.pick(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 3e33, -50.0]);
        }
    }
    a
}

#[test]
fn integers_of_few_bits_equal_the_definition() {
    let mut rng = Rng(3);
    let mut shapes =
        vec![(0, 5, 40), (1, 0, 40), (1, 3, 0), (1, 1, 1), (1, 33, 16), (2, 300, 100), (8, 17, 700), (9, 31, 65), (60, 90, 130)];
    for _ in 0..60 {
        shapes.push((rng.int(1, 11), rng.int(1, 150), rng.int(1, 400)));
    }
    for (m, n, k) in shapes {
        for bits in [2, 4, 8] {
            let block = rng.pick(&[16, 32, 48, 64, 128, 256]);
            let w = Matrix::random(&mut rng, (n, k), bits, block);
            let packed = w.packed(n, k);
            let (pitch, ldc) = (k + rng.int(0, 3), n + rng.int(0, 5));
            let a = rows(&mut rng, m, pitch, k);
            let bias = rng.floats(n.next_multiple_of(PANEL));
            let bias_at = if rng.int(0, 1) == 0 { bias.as_ptr() } else { core::ptr::null() };
            let finished = Finished::random(&mut rng, m, n);
            let gemm = Gemm { m, n, k, a_row: pitch, a_col: 1, ldc };
            let mut first: Option<Vec<u32>> = None;
            for isa in Isa::available() {
                for digits in [false, true] {
                    let narrow = Narrow { gemm, coding: Coding::Blocks { bits, block }, digits };
                    let got = run(&narrow, isa, a.as_ptr().wrapping_add(1), w.coded(&packed), bias_at, finished.finish());
                    let what = format!("{narrow:?} {} {:?}", isa.name(), w.zeros);
                    if digits && isa >= Isa::Avx2 && m <= FEW {
                        let bits: Vec<u32> = got.iter().map(|x| if x.is_nan() { 0 } else { x.to_bits() }).collect();
                        assert_eq!(*first.get_or_insert(bits.clone()), bits, "{what}");
                    }
                    for (i, row) in got.chunks(ldc.max(1)).enumerate() {
                        assert!(row[n..].iter().all(|x| *x == UNTOUCHED), "{what}");
                        let x = &a[1 + i * pitch..][..k];
                        for (j, got) in row[..n].iter().enumerate() {
                            let start = if bias_at.is_null() { 0.0 } else { f64::from(bias[j]) };
                            let (mut want, mut size, mut lost) = (start, start.abs(), 0.0);
                            for (b, x) in x.chunks(block).enumerate() {
                                let most = x.iter().fold(1e-30, |a: f32, x| a.max(x.abs()));
                                for (p, x) in x.iter().enumerate() {
                                    let (w, parts) = w.at(k, b * block + p, j);
                                    want += f64::from(*x) * f64::from(w);
                                    size += f64::from(x.abs()) * parts;
                                    lost += f64::from(most) * parts;
                                }
                            }
                            let want = finished.of(i, j, want as f32) + 1.0;
                            let error = size * (k + 16) as f64 * 2f64.powi(-24) + lost * 2f64.powi(-22) + 3e-7;
                            let same = *got == want || (got.is_nan() && want.is_nan());
                            let near = f64::from((got - want).abs()) <= error * 1.01 + f64::from(want.abs()) * 2f64.powi(-22);
                            assert!(same || near, "{what}: [{i}, {j}] is {got}, not {want}, with error {error:e}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn digits_lose_less_than_sums() {
    // Where weights vanish but for one digit of the activations, digits are as exact as f32.
    let (n, k, block) = (16, 4096, 32);
    let mut rng = Rng(9);
    let w = Matrix { zeros: Taken::Same(8), ..Matrix::random(&mut rng, (n, k), 4, block) };
    let packed = w.packed(n, k);
    let a = rng.floats(k);
    let gemm = Gemm { m: 1, n, k, a_row: k, a_col: 1, ldc: n };
    for isa in Isa::available().filter(|isa| *isa >= Isa::Avx2) {
        let errors = [true, false].map(|digits| {
            let narrow = Narrow { gemm, coding: Coding::Blocks { bits: 4, block }, digits };
            let got = run(&narrow, isa, a.as_ptr(), w.coded(&packed), core::ptr::null(), Finish::NONE);
            (0..n).fold(0.0f64, |worst, j| {
                let want: f64 = (0..k).map(|p| f64::from(a[p]) * f64::from(w.at(k, p, j).0)).sum();
                worst.max((f64::from(got[j]) - 1.0 - want).abs())
            })
        });
        assert!(errors[0] <= errors[1] * 2.0, "by digits {:e}, by multiply-adds {:e}", errors[0], errors[1]);
    }
}

#[test]
fn results_do_not_depend_on_other_rows() {
    let (m, n, k, block) = (6, 40, 100, 32);
    let mut rng = Rng(4);
    let w = Matrix::random(&mut rng, (n, k), 8, block);
    let packed = w.packed(n, k);
    let mut a = rng.floats(m * k);
    a[2 * k + 7] = f32::NAN;
    let coding = Coding::Blocks { bits: 8, block };
    for isa in Isa::available() {
        let of = |m: usize, a: &[f32]| {
            let gemm = Gemm { m, n, k, a_row: k, a_col: 1, ldc: n };
            run(&Narrow { gemm, coding, digits: true }, isa, a.as_ptr(), w.coded(&packed), core::ptr::null(), Finish::NONE)
        };
        let all = of(m, &a);
        for i in 0..m {
            let one: Vec<u32> = of(1, &a[i * k..]).iter().map(|x| x.to_bits()).collect();
            let row: Vec<u32> = all[i * n..][..n].iter().map(|x| x.to_bits()).collect();
            assert_eq!(one, row, "row {i} on {}", isa.name());
        }
    }
}

#[test]
fn halves_have_the_bits_of_widened_panels() {
    let mut rng = Rng(6);
    let mut shapes = vec![(0, 5, 4), (1, 0, 4), (1, 3, 0), (1, 1, 1), (8, 129, 33), (9, 31, 65)];
    for _ in 0..60 {
        shapes.push((rng.int(1, 11), rng.int(1, 150), rng.int(1, 120)));
    }
    for (m, n, k) in shapes {
        for short in [false, true] {
            // Column by column; NaN and infinities among them.
            let halves: Vec<u16> = (0..n * k)
                .map(|_| match rng.int(0, 400) {
                    0 => rng.next() as u16,
                    _ if short => bf16::from_f32(rng.float()).0,
                    _ => f16::from_f32(rng.float()).0,
                })
                .collect();
            let wide = |x: u16| if short { bf16(x).to_f32() } else { f16(x).to_f32() };
            let coding = if short { Coding::Bf16 } else { Coding::F16 };
            let mut codes = vec![0u16; n.next_multiple_of(PANEL) * k];
            assert_eq!(codes.len() * 2, packed_len(k, n, coding));
            pack_halves(k, n, |col, row| halves[col * k + row], &mut codes);
            let floats: Vec<f32> = (0..k * n).map(|i| wide(halves[i % n * k + i / n])).collect();
            let mut panels = vec![0f32; panels_len(k, n)];
            pack_rows(k, n, &floats, &mut panels);
            let (pitch, ldc) = (k + rng.int(0, 3), n + rng.int(0, 5));
            let a = rows(&mut rng, m, pitch, k);
            let bias = rng.floats(n.next_multiple_of(PANEL));
            let gemm = Gemm { m, n, k, a_row: pitch, a_col: 1, ldc };
            let finish = Finished::random(&mut rng, m, n);
            let weights = Coded { codes: codes.as_ptr().cast(), scales: core::ptr::null(), zeros: Zeros::Same(0) };
            for isa in Isa::available() {
                let a = a.as_ptr().wrapping_add(1);
                let got = run(&Narrow { gemm, coding, digits: true }, isa, a, weights, bias.as_ptr(), finish.finish());
                let mut want = vec![UNTOUCHED - 1.0; m * ldc];
                let mut scratch = vec![0f32; gemm.scratch_floats()];
                for task in 0..gemm.tasks() {
                    let (b, out, scratch) = (Panels::of(panels.as_ptr()), want.as_mut_ptr(), scratch.as_mut_ptr());
                    // SAFETY: the arrays have the sizes that the kernel asks for.
                    unsafe { gemm.run_task(isa, task, a, b, bias.as_ptr(), out, scratch, finish.finish(), None) };
                }
                for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                    let (got, want) = (*got, want + 1.0);
                    assert!(
                        got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan()),
                        "{m}x{n}x{k} {coding:?} {}: {i} is {got}, not {want}",
                        isa.name()
                    );
                }
            }
        }
    }
}

/// A weight as fixed point stands for it: the definition, by trial.
fn fixed(column: &[f32], w: f32) -> f64 {
    let most = column.iter().fold(0f64, |most, w| most.max(f64::from(w.abs())));
    let power = (-126..).find(|p| most * 2f64.powi(-p) < 8_388_608.0).expect("there is one");
    (f64::from(w) * 2f64.powi(-power)).round_ties_even().clamp(-8_388_607.0, 8_388_607.0) * 2f64.powi(power)
}

#[test]
fn fixed_point_equals_its_definition() {
    let mut rng = Rng(7);
    let mut shapes = vec![(0, 5, 4), (1, 0, 4), (1, 3, 0), (1, 1, 1), (8, 129, 33), (9, 31, 65), (1, 300, 700)];
    for _ in 0..60 {
        shapes.push((rng.int(1, 11), rng.int(1, 150), rng.int(1, 120)));
    }
    for (m, n, k) in shapes {
        let columns: Vec<Vec<f32>> = (0..n)
            .map(|_| {
                let size = rng.pick(&[1.0, 1.0, 0.02, 1e-30, 1e-42, 1e25, 0.0, -0.0]);
                let mut column: Vec<f32> = rng.floats(k).iter().map(|w| w * size).collect();
                if k > 0 && rng.int(0, 2) == 0 {
                    let at = rng.int(0, k - 1);
                    // Just below a power of two, which rounds up to it; a power of two; one that leaves others without a bit.
                    column[at] = rng.pick(&[f32::from_bits(0x3fff_ffff), -f32::from_bits(0x3fff_ffff), 4.0, -4.0, 1e9]);
                }
                column
            })
            .collect();
        let mut codes = vec![0xff; 3 + packed_len(k, n, Coding::Fixed)];
        pack_fixed(k, n, |col, row| columns[col][row], &mut codes[3..]);
        let wide: Vec<Vec<f64>> = columns.iter().map(|c| c.iter().map(|w| fixed(c, *w)).collect()).collect();
        for (col, (wide, column)) in wide.iter().zip(&columns).enumerate() {
            let most = column.iter().fold(0f64, |most, w| most.max(f64::from(w.abs())));
            let mut back = vec![f32::NAN; k];
            fixed_column(k, &codes[3..], col, &mut back);
            for ((back, wide), w) in back.iter().zip(wide).zip(column) {
                assert_eq!(f64::from(*back), *wide, "{column:?}");
                assert!((wide - f64::from(*w)).abs() <= most * 2f64.powi(-23) + 2f64.powi(-127), "{w} of {most} is {wide}");
            }
        }
        let (pitch, ldc) = (k + rng.int(0, 3), n + rng.int(0, 5));
        // Up to where only sums of whole numbers would overflow.
        let large = if columns.iter().flatten().all(|w| w.abs() < 1e6) { rng.pick(&[1.0, 1.0, 1e30]) } else { 1.0 };
        let a: Vec<f32> = rng.floats(1 + m * pitch + 8).iter().map(|x| x * large).collect();
        let bias = rng.floats(n.next_multiple_of(PANEL));
        let bias_at = if rng.int(0, 1) == 0 { bias.as_ptr() } else { core::ptr::null() };
        let gemm = Gemm { m, n, k, a_row: pitch, a_col: 1, ldc };
        let finished = Finished::random(&mut rng, m, n);
        let weights = Coded { codes: codes[3..].as_ptr(), scales: core::ptr::null(), zeros: Zeros::Same(0) };
        for isa in Isa::available() {
            let a_at = a.as_ptr().wrapping_add(1);
            let got = run(&Narrow { gemm, coding: Coding::Fixed, digits: true }, isa, a_at, weights, bias_at, finished.finish());
            for (i, row) in got.chunks(ldc.max(1)).enumerate() {
                assert!(row[n..].iter().all(|x| *x == UNTOUCHED));
                let x = &a[1 + i * pitch..][..k];
                for (j, got) in row[..n].iter().enumerate() {
                    let start = if bias_at.is_null() { 0.0 } else { f64::from(bias[j]) };
                    let terms = || x.iter().zip(&wide[j]).map(|(x, w)| f64::from(*x) * w);
                    let (want, size) = (start + terms().sum::<f64>(), start.abs() + terms().map(f64::abs).sum::<f64>());
                    let want = f64::from(finished.of(i, j, want as f32) + 1.0);
                    let error = size * (k + 16) as f64 * 2f64.powi(-24) + want.abs() * 2f64.powi(-22) + 3e-7;
                    assert!((f64::from(*got) - want).abs() <= error, "{m}x{n}x{k} {}: [{i}, {j}] is {got}, not {want}", isa.name());
                }
            }
        }
    }
}
