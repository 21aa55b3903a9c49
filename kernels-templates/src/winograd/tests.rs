//! Tiles against the direct sum in f64.

use super::*;
use crate::conv::reference;
use crate::support::testing::{Finished, Rng};

/// Value of the floats that a kernel must leave alone.
const UNTOUCHED: f32 = 12345.0;

/// A convolution with `around` zeros before the axes and after them.
fn conv((n, c, k): (usize, usize, usize), [h, w]: [usize; 2], around: [usize; 4]) -> Conv {
    let out_dims = [1, h + around[0] + around[2] - 2, w + around[1] + around[3] - 2];
    Conv {
        n,
        c,
        in_dims: [1, h, w],
        k,
        kernel: [1, 3, 3],
        stride: [1; 3],
        pad: [0, around[0], around[1]],
        dilation: [1; 3],
        out_dims,
        groups: 1,
        x_strides: [h * w * c, 1, 0, w * c, c],
        out_pitch: k,
        out_batch: out_dims[1] * out_dims[2] * k,
    }
}

/// Runs both tiles on every instruction set with random operands and compares: the largest difference over the root mean square of
/// the result must be below `bound`.
fn check(rng: &mut Rng, conv: Conv, bound: [f64; 2]) {
    let x = rng.floats(conv.n * conv.x_strides[0] + 1);
    let weights = rng.floats(conv.k * conv.c * 9);
    let bias = rng.floats(conv.k.next_multiple_of(PANEL));
    let bias = if rng.int(0, 3) == 0 { &[] } else { &bias[..] };
    let bias_ptr = if bias.is_empty() { core::ptr::null() } else { bias.as_ptr() };
    let mut want = vec![UNTOUCHED; conv.n * conv.out_batch];
    let finished = Finished::random(rng, conv.n * conv.pixels(), conv.k);
    let (mut squares, mut count) = (0.0, 0);
    reference(&conv, &x[1..], &weights, bias, |n, pixel, k, v| {
        (squares, count) = (squares + v as f64 * v as f64, count + 1);
        let row = n * conv.pixels() + pixel;
        want[n * conv.out_batch + pixel * conv.out_pitch + k] = finished.of(row, k, v) + row as f32 + k as f32;
    });
    let rms = (squares / count.max(1) as f64).sqrt();
    // The tail shows that every element is in one block, under its own place.
    let tail = |b: Block| {
        for i in 0..b.rows {
            for j in 0..b.cols {
                // SAFETY: the block is inside of the output.
                unsafe { *b.out.add(i * b.pitch + j) += (b.row + i) as f32 + (b.col + j) as f32 };
            }
        }
    };
    for (m, bound) in [2, 4].into_iter().zip(bound) {
        let kernel = Winograd { conv, m };
        let mut packed = vec![f32::NAN; kernel.packed_len()];
        kernel.pack_weights(&weights, &mut packed);
        for isa in Isa::available() {
            let mut got = vec![UNTOUCHED; want.len()];
            let mut scratch = vec![f32::NAN; kernel.scratch_floats()];
            for task in (0..kernel.tasks()).rev() {
                // SAFETY: the arrays have the sizes that the kernel asks for.
                unsafe {
                    let (x, out) = (x[1..].as_ptr(), got.as_mut_ptr());
                    kernel.run_task(isa, task, x, packed.as_ptr(), bias_ptr, out, scratch.as_mut_ptr(), finished.finish(), Some(&tail));
                }
            }
            for (i, (g, w)) in got.iter().zip(&want).enumerate() {
                // What the tail adds is rounded too.
                let room = bound * rms + (w.abs() as f64) * 2e-7;
                assert!((*g as f64 - *w as f64).abs() <= room, "{} m {m} {conv:?}: element {i} is {g}, not {w}", isa.name());
            }
        }
    }
}

#[test]
fn tiles_equal_the_direct_sum() {
    let mut rng = Rng(21);
    for _ in 0..120 {
        let around = core::array::from_fn(|_| rng.int(0, 2));
        let least = |a: usize, b: usize| 3usize.saturating_sub(a + b).max(1);
        let [h, w] = [(around[0], around[2]), (around[1], around[3])].map(|(a, b)| rng.int(least(a, b), 15));
        let channels = |rng: &mut Rng| rng.pick(&[1, 3, 8, 16, 19, 40]);
        let mut conv = conv((rng.int(0, 3), channels(&mut rng), channels(&mut rng)), [h, w], around);
        // Parts of wider buffers.
        let [more, beyond] = [rng.pick(&[0, 5]), rng.pick(&[0, 7])];
        let p = conv.c + more;
        conv.x_strides = [h * w * p + beyond, 1, 0, w * p, p];
        conv.out_pitch += rng.pick(&[0, 7]);
        conv.out_batch = conv.pixels() * conv.out_pitch + rng.pick(&[0, 3]);
        check(&mut rng, conv, [5e-6, 2e-5]);
    }
}

#[test]
fn layers_of_models_are_within_the_bound() {
    let mut rng = Rng(22);
    // Several blocks of tiles and of channels among them.
    for (n, hw, c, k) in [(1, 56, 64, 32), (1, 28, 128, 16), (2, 7, 256, 512), (1, 14, 512, 48), (5, 9, 24, 512)] {
        check(&mut rng, conv((n, c, k), [hw, hw], [1; 4]), [1e-5, 2e-5]);
    }
}

#[test]
fn cuts_do_not_show_in_the_bits() {
    // Many images are cut otherwise than one.
    let mut rng = Rng(23);
    let many = conv((40, 32, 256), [10, 13], [1, 1, 0, 1]);
    let one = Conv { n: 1, ..many };
    let x = rng.floats(many.n * many.x_strides[0]);
    let weights = rng.floats(many.k * many.c * 9);
    for m in [2, 4] {
        let run = |conv: Conv, x: &[f32]| {
            let kernel = Winograd { conv, m };
            let mut packed = vec![0.0; kernel.packed_len()];
            kernel.pack_weights(&weights, &mut packed);
            let mut out = vec![f32::NAN; conv.n * conv.out_batch];
            let mut scratch = vec![f32::NAN; kernel.scratch_floats()];
            for task in 0..kernel.tasks() {
                // SAFETY: the arrays have the sizes that the kernel asks for.
                unsafe {
                    let isa = Isa::detect();
                    let (x, out, none) = (x.as_ptr(), out.as_mut_ptr(), core::ptr::null());
                    kernel.run_task(isa, task, x, packed.as_ptr(), none, out, scratch.as_mut_ptr(), Finish::NONE, None);
                }
            }
            (out, kernel.grid())
        };
        let (all, grid) = run(many, &x);
        for i in 0..many.n {
            let (alone, other) = run(one, &x[i * many.x_strides[0]..][..many.x_strides[0]]);
            assert_ne!(grid, other);
            assert!(all[i * many.out_batch..][..many.out_batch] == alone[..]);
        }
    }
}
