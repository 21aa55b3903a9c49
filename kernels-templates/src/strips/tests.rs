//! Strips against the convolutions one behind the other.

use super::*;
use crate::conv::reference;
use crate::gemm::{Block, PANEL};
use crate::support::testing::{Finished, Rng, assert_close, panels};
use alloc::vec::Vec;

/// A convolution from `[n][h][w][c]` with some floats between pixels.
fn conv([n, h, w]: [usize; 3], (c, k, groups): (usize, usize, usize), window: usize, stride: usize, pads: [usize; 2]) -> Conv {
    let out = |x: usize| (x + 2 * pads[0] + pads[1] - window) / stride + 1;
    let (oh, ow) = (out(h), out(w));
    Conv {
        n,
        c,
        in_dims: [1, h, w],
        k,
        kernel: [1, window, window],
        stride: [1, stride, stride],
        pad: [0, pads[0], pads[0]],
        dilation: [1; 3],
        out_dims: [1, oh, ow],
        groups,
        x_strides: [h * w * c, 1, 0, w * c, c],
        out_pitch: k,
        out_batch: oh * ow * k,
    }
}

/// One of the three: its operands, and what becomes of its sums.
struct Layer {
    conv: Conv,
    weights: Vec<f32>,
    packed: Vec<f32>,
    bias: Vec<f32>,
    finished: Finished,
    tail: f32,
}

impl Layer {
    fn random(rng: &mut Rng, conv: Conv) -> Layer {
        let weights = rng.floats(conv.k * conv.taps() * (conv.c / conv.groups));
        let mut packed = vec![f32::NAN; if conv.groups > 1 { Depthwise(conv).packed_len() } else { conv.packed_len() }];
        match conv.groups {
            1 => conv.pack_weights(&weights, &mut packed),
            _ => Depthwise(conv).pack_weights(&weights, &mut packed),
        }
        let bias = if rng.int(0, 2) == 0 { Vec::new() } else { rng.floats(conv.k.next_multiple_of(PANEL)) };
        let finished = Finished::random(rng, conv.n * conv.pixels(), conv.k);
        Layer { conv, weights, packed, bias, finished, tail: rng.pick(&[0.0, 1e-3]) }
    }
    /// What a block's element gets by its place.
    fn placed(&self, row: usize, col: usize) -> f32 {
        self.tail * (row % 7 + 3 * col % 5) as f32
    }
    fn reference(&self, x: &[f32]) -> Vec<f32> {
        let c = &self.conv;
        let mut out = vec![0.0; c.n * c.out_batch];
        reference(c, x, &self.weights, &self.bias, |n, pixel, k, v| {
            let row = n * c.pixels() + pixel;
            out[n * c.out_batch + pixel * c.out_pitch + k] = self.finished.of(row, k, v) + self.placed(row, k);
        });
        out
    }
}

#[test]
fn strips_equal_the_convolutions_one_behind_the_other() {
    let mut rng = Rng(31);
    for round in 0..80 {
        let (h, w) = match round {
            0 => (56, 56),
            1 => (1, 1),
            _ => (rng.int(1, 40), rng.int(1, 20)),
        };
        let n = rng.int(1, 2);
        let (c, mid, k) =
            if round == 0 { (24, 144, 24) } else { (rng.pick(&[1, 16, 24, 70]), rng.pick(&[3, 16, 40, 96]), rng.pick(&[1, 24, 33])) };
        let (window, stride): (usize, usize) = (rng.pick(&[1, 2, 3, 5]), rng.pick(&[1, 1, 2, 3]));
        let [first, last] = [rng.int(0, 3) > 0, rng.int(0, 3) > 0];
        let pads = [rng.int(0, 2).max(window.saturating_sub(h.min(w)).div_ceil(2)), rng.int(0, 1)];
        let middle = conv([n, h, w], (mid, mid, mid), window, stride, pads);
        let before = first.then(|| Layer::random(&mut rng, conv([n, h, w], (c, mid, 1), 1, 1, [0, 0])));
        let behind = last.then(|| Layer::random(&mut rng, conv([n, middle.out_dims[1], middle.out_dims[2]], (mid, k, 1), 1, 1, [0, 0])));
        let middle = Layer::random(&mut rng, middle);
        let x = rng.floats(n * h * w * if first { c } else { mid });
        let layers = [before.as_ref(), Some(&middle), behind.as_ref()];
        let want = layers.iter().flatten().fold(x.clone(), |x, layer| layer.reference(&x));
        let strips = Strips { before: before.as_ref().map(|l| l.conv), middle: middle.conv, behind: behind.as_ref().map(|l| l.conv) };
        let tails = layers.map(|layer| {
            move |b: Block| {
                let Some(layer) = layer else { return };
                for i in 0..b.rows {
                    for j in 0..b.cols {
                        // SAFETY: the block is inside of the output.
                        unsafe { *b.out.add(i * b.pitch + j) += layer.placed(b.row + i, b.col + j) };
                    }
                }
            }
        });
        for isa in Isa::available() {
            let mut digits = [Vec::new(), Vec::new(), Vec::new()];
            let mut i = 0;
            let parts = layers.map(|layer| {
                i += 1;
                let Some(l) = layer else { return Part::NONE };
                let weights = match l.conv.groups {
                    1 if i != 2 => panels(isa, l.conv.c, &l.packed, &mut digits[i - 1]),
                    _ => Panels::of(l.packed.as_ptr()),
                };
                let bias = if l.bias.is_empty() { core::ptr::null() } else { l.bias.as_ptr() };
                let tail: &(dyn Fn(Block) + Sync) = &tails[i - 1];
                Part { weights, bias, finish: l.finished.finish(), epilogue: (l.tail > 0.0).then_some(tail) }
            });
            let mut got = vec![f32::NAN; want.len()];
            let mut scratch = vec![f32::NAN; strips.scratch_floats()];
            for task in (0..strips.tasks()).rev() {
                // SAFETY: the arrays have the sizes that the kernel asks for.
                unsafe { strips.run_task(isa, task, x.as_ptr(), &parts, got.as_mut_ptr(), scratch.as_mut_ptr()) };
            }
            assert_close(&got, &want, 3e-4, &format!("{} {strips:?}", isa.name()));
        }
    }
}
