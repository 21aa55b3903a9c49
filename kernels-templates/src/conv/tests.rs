//! Convolutions against the reference, depthwise ones too.

use super::*;
use crate::depthwise::Depthwise;
use crate::support::testing::{Finished, Rng, assert_close, panels};

/// Value of the floats that a kernel must leave alone.
const UNTOUCHED: f32 = 12345.0;

/// Runs `conv` on every instruction set with random operands, and compares.
fn check(rng: &mut Rng, conv: Conv, x_len: usize, depthwise: bool) {
    let x = rng.floats(x_len + 1);
    let weights = rng.floats(conv.k * conv.depth());
    let bias = rng.floats(conv.k.next_multiple_of(PANEL));
    let bias = if rng.int(0, 3) == 0 { &[] } else { &bias[..] };
    let bias_ptr = if bias.is_empty() { core::ptr::null() } else { bias.as_ptr() };
    let finished = Finished::random(rng, conv.n * conv.pixels(), conv.k);
    let mut want = vec![UNTOUCHED; conv.n * conv.out_batch];
    reference(&conv, &x[1..], &weights, bias, |n, pixel, k, v| {
        let row = n * conv.pixels() + pixel;
        want[n * conv.out_batch + pixel * conv.out_pitch + k] = finished.of(row, k, v) + row as f32 + k as f32;
    });
    let place = |b: crate::gemm::Block| {
        for i in 0..b.rows {
            for j in 0..b.cols {
                // SAFETY: the block is inside of the output.
                unsafe {
                    let p = b.out.add(i * b.pitch + j);
                    *p += (b.row + i) as f32 + (b.col + j) as f32;
                }
            }
        }
    };
    for isa in Isa::available() {
        let mut got = vec![UNTOUCHED; want.len()];
        let (x, out) = (x[1..].as_ptr(), got.as_mut_ptr());
        // SAFETY: the arrays have the sizes that the kernel asks for.
        unsafe {
            if depthwise {
                let conv = Depthwise(conv);
                let mut packed = vec![f32::NAN; conv.packed_len()];
                conv.pack_weights(&weights, &mut packed);
                for task in (0..conv.tasks()).rev() {
                    conv.run_task(isa, task, x, packed.as_ptr(), bias_ptr, out, finished.finish(), Some(&place));
                }
            } else {
                let mut packed = vec![f32::NAN; conv.packed_len()];
                conv.pack_weights(&weights, &mut packed);
                let mut scratch = vec![f32::NAN; conv.scratch_floats()];
                let mut digits = Vec::new();
                let weights = panels(isa, conv.depth(), &packed, &mut digits);
                for task in (0..conv.tasks()).rev() {
                    conv.run_task(isa, task, x, weights, bias_ptr, out, scratch.as_mut_ptr(), finished.finish(), Some(&place));
                }
            }
        }
        assert_close(&got, &want, 2e-4, &format!("{} {conv:?}", isa.name()));
    }
}

/// A random convolution of two or three spatial axes, and the floats of its input.
fn random(rng: &mut Rng, depthwise: bool) -> (Conv, usize) {
    let deep = rng.int(0, 3) == 0;
    let groups = if depthwise { rng.pick(&[1, 3, 8, 16, 40, 70]) } else { rng.pick(&[1, 1, 1, 2, 3]) };
    let (c, k) = if depthwise { (groups, groups) } else { (groups * rng.pick(&[1, 3, 8, 16, 19]), groups * rng.pick(&[1, 5, 16, 33, 64])) };
    let mut conv = Conv {
        n: rng.int(1, 2),
        c,
        in_dims: [1; 3],
        k,
        kernel: [1; 3],
        stride: [1; 3],
        pad: [0; 3],
        dilation: [1; 3],
        out_dims: [1; 3],
        groups,
        x_strides: [0; 5],
        out_pitch: 0,
        out_batch: 0,
    };
    for axis in (if deep { 0 } else { 1 })..3 {
        conv.kernel[axis] = rng.pick(&[1, 1, 2, 3, 3, 5]);
        conv.stride[axis] = rng.pick(&[1, 1, 2, 3]);
        conv.dilation[axis] = rng.pick(&[1, 1, 2]);
        conv.pad[axis] = rng.pick(&[0, 1, 2]);
        let after = rng.pick(&[0, 1, 2]);
        let reach = (conv.kernel[axis] - 1) * conv.dilation[axis] + 1;
        conv.in_dims[axis] = rng.int(1, if axis == 2 { 20 } else { 9 }).max(reach.saturating_sub(conv.pad[axis] + after));
        conv.out_dims[axis] = (conv.in_dims[axis] + conv.pad[axis] + after - reach) / conv.stride[axis] + 1;
    }
    if rng.int(0, 3) == 0 {
        // A plain 1x1 window.
        (conv.kernel, conv.stride, conv.pad, conv.out_dims) = ([1; 3], [1; 3], [0; 3], conv.in_dims);
    }
    let [d, h, w] = conv.in_dims;
    let pad = rng.pick(&[0, 0, 5]);
    conv.x_strides = if depthwise || rng.int(0, 2) > 0 {
        let p = c + pad;
        [d * h * w * p, 1, h * w * p, w * p, p]
    } else {
        [c * d * h * w, d * h * w, h * w, w, 1]
    };
    conv.out_pitch = k + rng.pick(&[0, 0, 7]);
    conv.out_batch = conv.pixels() * conv.out_pitch + rng.pick(&[0, 3]);
    (conv, conv.n * conv.x_strides[0])
}

#[test]
fn convolutions_equal_the_reference() {
    let mut rng = Rng(7);
    for _ in 0..150 {
        let (conv, len) = random(&mut rng, false);
        check(&mut rng, conv, len, false);
    }
}

#[test]
fn depthwise_convolutions_equal_the_reference() {
    let mut rng = Rng(8);
    for _ in 0..150 {
        let (conv, len) = random(&mut rng, true);
        check(&mut rng, conv, len, true);
    }
}

#[test]
fn layers_of_models_equal_the_reference() {
    let mut rng = Rng(9);
    for (hw, c, k, window, stride, channels_first) in [
        (20, 64, 64, 3, 1, false),
        (14, 128, 32, 3, 2, false),
        (7, 256, 144, 3, 1, false),
        (14, 512, 48, 1, 2, false),
        (40, 3, 64, 7, 2, true),
    ] {
        let out = (hw + 2 * (window / 2) - window) / stride + 1;
        let x_strides = if channels_first { [c * hw * hw, hw * hw, 0, hw, 1] } else { [c * hw * hw, 1, 0, hw * c, c] };
        let conv = Conv {
            n: 1,
            c,
            in_dims: [1, hw, hw],
            k,
            kernel: [1, window, window],
            stride: [1, stride, stride],
            pad: [0, window / 2, window / 2],
            dilation: [1; 3],
            out_dims: [1, out, out],
            groups: 1,
            x_strides,
            out_pitch: k,
            out_batch: out * out * k,
        };
        check(&mut rng, conv, c * hw * hw, false);
    }
}
