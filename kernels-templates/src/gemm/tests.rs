//! Matrix products against the reference.

use super::*;
use crate::support::testing::{Finished, Rng, assert_close, panels};

/// Value of the floats that a kernel must leave alone.
const UNTOUCHED: f32 = 12345.0;

#[test]
fn products_equal_the_reference() {
    let mut rng = Rng(1);
    let mut shapes =
        vec![(0, 3, 2), (3, 0, 2), (3, 5, 0), (1, 1, 1), (49, 70, 33), (1, 300, 40), (2, 129, 7), (3, 64, 64), (15, 33, 1), (97, 48, 512)];
    for _ in 0..40 {
        shapes.push((rng.int(1, 60), rng.int(1, 140), rng.int(1, 90)));
    }
    for (m, n, k) in shapes {
        for transposed in [false, true] {
            let pad = rng.int(0, 3);
            let (a_row, a_col) = if transposed { (1, m + pad) } else { (k + pad, 1) };
            let (b_row, b_col) = match rng.int(0, 2) {
                0 => (n + pad, 1),
                1 => (1, k + pad),
                _ => (2 * n, 2),
            };
            let ldc = n + rng.int(0, 5);
            // One float in, so that nothing is aligned.
            let a = rng.floats(1 + (m + pad) * (k + pad) + 8);
            let b = rng.floats(1 + 2 * (n + pad) * (k + pad) + 8);
            let bias = rng.floats(n.next_multiple_of(PANEL));
            let with_bias = rng.int(0, 1) == 1;
            let mut want = vec![UNTOUCHED; m * ldc];
            reference((m, n, k), &a[1..], (a_row, a_col), &b[1..], (b_row, b_col), if with_bias { &bias } else { &[] }, &mut want, ldc);
            for row in want.chunks_mut(ldc.max(1)) {
                row[..n].iter_mut().for_each(|x| *x *= 2.0);
            }
            let bias_ptr = if with_bias { bias.as_ptr() } else { core::ptr::null() };
            let double = |block: Block| {
                assert!(block.row + block.rows <= m && block.col + block.cols <= n);
                for i in 0..block.rows {
                    for j in 0..block.cols {
                        // SAFETY: the block is inside of the output.
                        unsafe { *block.out.add(i * block.pitch + j) *= 2.0 };
                    }
                }
            };
            let what = format!("{m}x{n}x{k}, a {a_row} {a_col}, b {b_row} {b_col}");
            let mut first: Option<Vec<f32>> = None;
            for isa in Isa::available() {
                let mut packed = vec![f32::NAN; packed_len(k, n)];
                let gemm = Gemm { m, n, k, a_row, a_col, ldc };
                let mut digits = Vec::new();
                let mut scratch = vec![f32::NAN; gemm.scratch_floats()];
                let mut got = vec![UNTOUCHED; m * ldc];
                // SAFETY: the arrays have the sizes that the kernel asks for.
                unsafe {
                    pack_b(isa, k, n, b.as_ptr().add(1), b_row, b_col, packed.as_mut_ptr());
                    for task in (0..gemm.tasks()).rev() {
                        let (a, out) = (a.as_ptr().add(1), got.as_mut_ptr());
                        gemm.run_task(
                            isa,
                            task,
                            a,
                            panels(isa, k, &packed, &mut digits),
                            bias_ptr,
                            out,
                            scratch.as_mut_ptr(),
                            Finish::NONE,
                            Some(&double),
                        );
                    }
                }
                assert_close(&got, &want, 1e-4, &format!("gemm {what} {}", isa.name()));
                let matmul = MatMul { m, n, k, a_row, a_col, b_row, b_col, ldc };
                let mut scratch = vec![f32::NAN; matmul.scratch_floats()];
                let mut again = vec![UNTOUCHED; m * ldc];
                for task in 0..matmul.tasks() {
                    // SAFETY: the arrays have the sizes that the kernel asks for.
                    unsafe {
                        let (a, b, out) = (a.as_ptr().add(1), b.as_ptr().add(1), again.as_mut_ptr());
                        matmul.run_task(isa, task, a, b, bias_ptr, out, scratch.as_mut_ptr(), Some(&double));
                    }
                }
                // Products of two computed matrices are never taken by digits.
                if isa > Isa::Portable {
                    assert_eq!(*first.get_or_insert(again.clone()), again, "the same bits on every FMA machine: {what}");
                }
                if isa < Isa::Amx {
                    assert_eq!(got, again, "matmul {what} {}", isa.name());
                }
            }
        }
    }
}

#[test]
fn tasks_are_cut_for_threads_and_caches() {
    for (m, n, k) in [(3136, 64, 64), (49, 2048, 512), (128, 3072, 768), (1, 1000, 2048), (100352, 64, 147)] {
        let gemm = Gemm { m, n, k, a_row: k, a_col: 1, ldc: n };
        assert!(gemm.tasks() >= 4, "{m}x{n}x{k}: {} tasks", gemm.tasks());
    }
}

/// The product of dense matrices, B packed and with digits where the instruction set works with them.
fn product(isa: Isa, (m, n, k): (usize, usize, usize), a: &[f32], b: &[f32], finish: Finish) -> Vec<f32> {
    let gemm = Gemm { m, n, k, a_row: k, a_col: 1, ldc: n };
    let (mut packed, mut digits) = (vec![0.0; packed_len(k, n)], Vec::new());
    pack_rows(k, n, b, &mut packed);
    let (mut out, mut scratch) = (vec![0.0; m * n], vec![0.0; gemm.scratch_floats()]);
    let b = panels(isa, k, &packed, &mut digits);
    for task in 0..gemm.tasks() {
        // SAFETY: the arrays have the sizes that the kernel asks for.
        unsafe { gemm.run_task(isa, task, a.as_ptr(), b, core::ptr::null(), out.as_mut_ptr(), scratch.as_mut_ptr(), finish, None) };
    }
    out
}

#[test]
fn sums_are_finished_whatever_computes_them() {
    let mut rng = Rng(11);
    for (m, n, k) in [(1, 1, 1), (1, 40, 9), (5, 17, 0), (15, 70, 33), (49, 130, 300), (70, 24, 520), (3, 300, 64)] {
        let (mut a, b) = (rng.floats(m * k), rng.floats(k * n));
        for odd in [1.0, f32::NAN, f32::INFINITY, -0.0] {
            if let Some(x) = a.get_mut(k / 2) {
                *x = odd;
            }
            let finished = Finished::random(&mut rng, m, n);
            for isa in Isa::available() {
                let mut want = product(isa, (m, n, k), &a, &b, Finish::NONE);
                want.iter_mut().enumerate().for_each(|(i, x)| *x = finished.of(i / n, i % n, *x));
                let got = product(isa, (m, n, k), &a, &b, finished.finish());
                let what = format!("{m}x{n}x{k} with {odd}, {}", isa.name());
                assert_close(&got, &want, 0.0, &what);
                assert!(got.iter().zip(&want).all(|(g, w)| w.is_nan() || g.to_bits() == w.to_bits()), "signs of zeros: {what}");
            }
        }
    }
}

/// Error of a product by an instruction set over the root mean square of the exact result: the largest and the mean square's root.
fn errors(isa: Isa, (m, n, k): (usize, usize, usize), a: &[f32], b: &[f32]) -> (f64, f64) {
    let out = product(isa, (m, n, k), a, b, Finish::NONE);
    let (mut most, mut squares, mut norm) = (0f64, 0f64, 0f64);
    for i in 0..m {
        for j in 0..n {
            let exact: f64 = (0..k).map(|p| a[i * k + p] as f64 * b[p * n + j] as f64).sum();
            let error = (out[i * n + j] as f64 - exact).abs();
            (most, squares, norm) = (most.max(error), squares + error * error, norm + exact * exact);
        }
    }
    (most / (norm / (m * n) as f64).sqrt(), (squares / norm).sqrt())
}

/// Products by digits err by 2^-24 of what the largest elements would multiply to, whatever the depth.
#[test]
fn digits_err_by_the_largest_elements() {
    let mut rng = Rng(7);
    // How far the largest element stands out.
    let peak = |x: &[f32]| {
        let square = x.iter().map(|x| (*x as f64).powi(2)).sum::<f64>() / x.len() as f64;
        x.iter().fold(0f64, |most, x| most.max(x.abs() as f64)) / square.sqrt()
    };
    for k in [33, 64, 256, 257, 768, 3072] {
        for kind in ["even", "positive", "outliers"] {
            let (m, n) = (40, 70);
            let mut a = rng.floats(m * k);
            match kind {
                "positive" => a.iter_mut().for_each(|x| *x = x.max(0.0)),
                // One column that is fifty times the others, as the residual streams of transformers have.
                "outliers" => a.iter_mut().skip(k / 2).step_by(k).for_each(|x| *x += 50.0),
                _ => {}
            }
            let b = rng.floats(k * n);
            let bound = peak(&a) * peak(&b) / (1 << 24) as f64;
            for isa in Isa::available().filter(|isa| *isa == Isa::Amx) {
                let (most, square) = errors(isa, (m, n, k), &a, &b);
                assert!(square < bound && most < 6.0 * bound, "{k} {kind}: {most:e}, {square:e} above {bound:e}");
            }
        }
    }
}

/// What has no digits is computed all the same, and rows and columns beside it are as they were.
#[test]
fn infinities_and_nan_take_the_other_way() {
    let mut rng = Rng(8);
    let (m, n, k) = (70, 90, 300);
    for place in ["a", "b"] {
        for odd in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 3e38, -0.0, 1e-45, 1e-38] {
            let (mut a, mut b) = (rng.floats(m * k), rng.floats(k * n));
            match place {
                "a" => a[35 * k + 280] = odd,
                _ => b[280 * n + 70] = odd,
            }
            let mut want = vec![0.0; m * n];
            reference((m, n, k), &a, (k, 1), &b, (n, 1), &[], &mut want, n);
            for isa in Isa::available() {
                let out = product(isa, (m, n, k), &a, &b, Finish::NONE);
                assert_close(&out, &want, 1e-4, &format!("{odd} in {place}, {}", isa.name()));
            }
        }
    }
}

#[test]
fn nan_and_infinity_pass_through() {
    let gemm = Gemm { m: 1, n: 2, k: 2, a_row: 2, a_col: 1, ldc: 2 };
    for isa in Isa::available() {
        let b = [1.0, 0.0, 1.0, 1.0];
        let mut packed = vec![0.0; packed_len(2, 2)];
        let mut out = [0.0; 2];
        // SAFETY: the arrays have the sizes that the kernel asks for.
        unsafe {
            pack_b(isa, 2, 2, b.as_ptr(), 2, 1, packed.as_mut_ptr());
            let a = [f32::INFINITY, 1.0];
            gemm.run_task(
                isa,
                0,
                a.as_ptr(),
                Panels::of(packed.as_ptr()),
                core::ptr::null(),
                out.as_mut_ptr(),
                core::ptr::null_mut(),
                Finish::NONE,
                None,
            );
        }
        assert_eq!(out[0], f32::INFINITY);
        assert!(out[1].is_nan(), "infinity times zero");
    }
}

#[test]
fn integers_wrap_around() {
    let (a, b) = ([100i8, 100], [2i8, 3]);
    let mut out = [0i8; 1];
    // SAFETY: a 1x2 and a 2x1 matrix.
    unsafe { matmul_any(0..1, (1, 2), a.as_ptr(), (2, 1), b.as_ptr(), (1, 1), out.as_mut_ptr(), 1) };
    assert_eq!(out[0], 500i32 as i8);
}
