//! A detector of boxes as exporters write it: one anchor-based network of one stage, several spellings.
//!
//! A trunk of convolutions leaves images of an eighth, a sixteenth and a thirty-second of the input; a pyramid of max pools widens what
//! the coarsest sees; a neck hands it to the finer ones; and a head for each scale reads boxes off the pixels.

use crate::models::ModelBuilder;
use crate::writer::Writer;
use kiln_kernels::dtype::DType::F32;
use kiln_kernels::value::Tensor;

/// How the network is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spelling {
    /// As a tracing exporter does: nodes for constants, slices, powers, scales of a resize, offsets folded into the grid.
    Traced,
    /// As an exporter of captured graphs does: initializers, splits, products, sizes of a resize, constants first.
    Captured,
}

/// Pixels of a side of the image.
pub const SIDE: usize = 64;
/// Boxes at each pixel of a scale.
pub const ANCHORS: usize = 3;
/// Numbers of a box: its place, its size, how certain it is, and a score for each of four classes.
pub const NUMBERS: usize = 9;
/// Boxes in all.
pub const BOXES: usize = ANCHORS * (8 * 8 + 4 * 4 + 2 * 2);
/// Convolutions: those that make an image smaller, those of the stage, around the pyramid, in the neck, and of the heads.
pub const CONVOLUTIONS: usize = 5 + 4 + 2 + 4 + 3;
/// Max pools.
pub const POOLS: usize = 3;
/// Images that are made twice as large.
pub const RESIZES: usize = 2;
/// Heads.
pub const HEADS: usize = 3;

impl Writer<Spelling> {
    fn traced(&self) -> bool {
        self.spelling == Spelling::Traced
    }
    /// A node of two operands that may change places, each spelling with another of them first.
    fn swapped(&mut self, op: &str, a: &str, b: &str) -> String {
        if self.traced() { self.node(op, &[a, b]) } else { self.node(op, &[b, a]) }
    }
    fn constant(&mut self, t: Tensor) -> String {
        if !self.traced() {
            return self.initializer(t);
        }
        let y = self.node("Constant", &[]);
        self.attr("value", t);
        y
    }
    fn scalar(&mut self, x: f32) -> String {
        self.constant(Tensor::scalar(x))
    }
    fn ints(&mut self, x: &[i64]) -> String {
        self.constant(Tensor::new(&[x.len()], x))
    }
    /// A weight, whose numbers do not depend on the spelling.
    fn weight(&mut self, dims: &[usize], by: f32) -> String {
        self.noise(dims, |v| v * by)
    }
    /// A convolution of windows of `k` by `k` that keeps the extents, or halves them.
    fn conv(&mut self, x: &str, from: usize, to: usize, k: usize, stride: i64) -> String {
        let w = self.weight(&[to, from, k, k], 1.5 / ((from * k * k) as f32).sqrt());
        let bias = self.weight(&[to], 0.1);
        let y = self.node("Conv", &[x, &w, &bias]);
        let pad = k as i64 / 2;
        self.change(|b| b.attr("kernel_shape", [k as i64; 2]).attr("strides", [stride; 2]).attr("pads", [pad; 4]));
        y
    }
    /// A convolution with `x * sigmoid(x)` behind it.
    fn layer(&mut self, x: &str, from: usize, to: usize, k: usize, stride: i64) -> String {
        let y = self.conv(x, from, to, k, stride);
        let s = self.node("Sigmoid", &[&y]);
        self.swapped("Mul", &y, &s)
    }
    fn concat(&mut self, of: &[&str], axis: i64) -> String {
        let y = self.node("Concat", of);
        self.change(|b| b.attr("axis", axis));
        y
    }
    /// Half of the channels through a residual block, the other half beside it.
    fn stage(&mut self, x: &str, channels: usize) -> String {
        let half = channels / 2;
        let (a, b) = (self.layer(x, channels, half, 1, 1), self.layer(x, channels, half, 1, 1));
        let y = self.layer(&a, half, half, 3, 1);
        let a = self.swapped("Add", &a, &y);
        let y = self.concat(&[&a, &b], 1);
        self.layer(&y, channels, channels, 1, 1)
    }
    /// What windows of 5, 9 and 13 pixels show at most, as a chain of pools, beside the pixels.
    fn pyramid(&mut self, x: &str, channels: usize) -> String {
        let half = channels / 2;
        let mut levels = vec![self.layer(x, channels, half, 1, 1)];
        for i in 0..POOLS {
            let y = self.node("MaxPool", &[&levels[i].clone()]);
            self.change(|b| b.attr("kernel_shape", [5i64; 2]).attr("strides", [1i64; 2]).attr("pads", [2i64; 4]));
            levels.push(y);
        }
        let of: Vec<&str> = levels.iter().map(String::as_str).collect();
        let y = self.concat(&of, 1);
        self.layer(&y, half * (POOLS + 1), channels, 1, 1)
    }
    /// An image of `channels` and `side` with every pixel twice in both directions.
    fn doubled(&mut self, x: &str, channels: usize, side: usize) -> String {
        let y = match self.spelling {
            Spelling::Traced => {
                let scales = self.constant(Tensor::new(&[4], &[1f32, 1.0, 2.0, 2.0]));
                self.node("Resize", &[x, "", &scales])
            }
            Spelling::Captured => {
                let sizes = self.ints(&[1, channels as i64, 2 * side as i64, 2 * side as i64]);
                self.node("Resize", &[x, "", "", &sizes])
            }
        };
        self.change(|b| b.attr("coordinate_transformation_mode", "asymmetric").attr("mode", "nearest").attr("nearest_mode", "floor"));
        y
    }
    /// The place, the size and the scores of boxes.
    fn parts(&mut self, x: &str) -> [String; 3] {
        let ends = [0, 2, 4, NUMBERS as i64];
        if self.traced() {
            return [0, 1, 2].map(|i| {
                let (from, to, axis, step) = (self.ints(&[ends[i]]), self.ints(&[ends[i + 1]]), self.ints(&[4]), self.ints(&[1]));
                self.node("Slice", &[x, &from, &to, &axis, &step])
            });
        }
        let sizes = self.ints(&[2, 2, NUMBERS as i64 - 4]);
        let parts = [(); 3].map(|_| self.name("t"));
        let names: Vec<&str> = parts.iter().map(String::as_str).collect();
        self.change(|b| b.node("Split", &[x, &sizes], &names).attr("axis", -1));
        parts
    }
    /// The corner of each pixel, as far to the left and upwards as `back`.
    fn grid(&mut self, side: usize, back: f32) -> String {
        let cells = (0..side * side).flat_map(|i| [(i % side) as f32 - back, (i / side) as f32 - back]);
        let one: Vec<f32> = cells.collect();
        self.constant(Tensor::new(&[1, ANCHORS, side, side, 2], &one.repeat(ANCHORS)))
    }
    /// `(2 * xy - 0.5 + grid) * stride`.
    fn place(&mut self, xy: &str, side: usize) -> String {
        let two = self.scalar(2.0);
        let twice = self.swapped("Mul", xy, &two);
        let y = if self.traced() {
            let grid = self.grid(side, 0.5);
            self.node("Add", &[&twice, &grid])
        } else {
            let (half, grid) = (self.scalar(0.5), self.grid(side, 0.0));
            let y = self.node("Sub", &[&twice, &half]);
            self.node("Add", &[&grid, &y])
        };
        let stride = self.scalar((SIDE / side) as f32);
        self.swapped("Mul", &y, &stride)
    }
    /// `(2 * wh)^2 * anchor`.
    fn size(&mut self, wh: &str, side: usize) -> String {
        let two = self.scalar(2.0);
        let twice = self.swapped("Mul", wh, &two);
        let square = if self.traced() {
            let power = self.scalar(2.0);
            self.node("Pow", &[&twice, &power])
        } else {
            self.node("Mul", &[&twice, &twice])
        };
        let scale = (SIDE / side) as f32;
        let anchors: Vec<f32> =
            (0..ANCHORS).flat_map(|a| [scale * (1.25 + a as f32), scale * (1.625 + 0.75 * a as f32)].repeat(side * side)).collect();
        let anchors = self.constant(Tensor::new(&[1, ANCHORS, side, side, 2], &anchors));
        self.swapped("Mul", &square, &anchors)
    }
    /// The boxes of one scale.
    fn head(&mut self, x: &str, channels: usize, side: usize) -> String {
        let (a, n, s) = (ANCHORS as i64, NUMBERS as i64, side as i64);
        let y = self.conv(x, channels, ANCHORS * NUMBERS, 1, 1);
        let shape = self.ints(&[1, a, n, s, s]);
        let y = self.node("Reshape", &[&y, &shape]);
        let y = self.node("Transpose", &[&y]);
        self.change(|b| b.attr("perm", [0i64, 1, 3, 4, 2]));
        let y = self.node("Sigmoid", &[&y]);
        let [xy, wh, scores] = self.parts(&y);
        let (xy, wh) = (self.place(&xy, side), self.size(&wh, side));
        let y = self.concat(&[&xy, &wh, &scores], if self.traced() { 4 } else { -1 });
        let shape = if self.traced() { [1, a * s * s, n] } else { [1, -1, n] };
        let shape = self.ints(&shape);
        self.node("Reshape", &[&y, &shape])
    }
}

/// An image to [`BOXES`] boxes of [`NUMBERS`] numbers.
pub fn detector(spelling: Spelling) -> Vec<u8> {
    let b = ModelBuilder::new().opset(18).input("image", F32, [1, 3, SIDE, SIDE]);
    let mut w = Writer::new(b, spelling, 300);
    let x = w.layer("image", 3, 8, 3, 2);
    let x = w.layer(&x, 8, 16, 3, 2);
    let fine = w.layer(&x, 16, 24, 3, 2);
    let fine = w.stage(&fine, 24);
    let middle = w.layer(&fine, 24, 32, 3, 2);
    let x = w.layer(&middle, 32, 48, 3, 2);
    let coarse = w.pyramid(&x, 48);
    let (mut x, mut scales, mut channels) = (coarse.clone(), vec![(coarse, 48, 2)], 48);
    for (beside, width, side) in [(middle, 32, 4), (fine, 24, 8)] {
        let y = w.layer(&x, channels, width, 1, 1);
        let y = w.doubled(&y, width, side / 2);
        let y = w.concat(&[&y, &beside], 1);
        x = w.layer(&y, 2 * width, width, 3, 1);
        channels = width;
        scales.push((x.clone(), width, side));
    }
    let boxes: Vec<String> = scales.iter().rev().map(|(x, channels, side)| w.head(x, *channels, *side)).collect();
    let boxes: Vec<&str> = boxes.iter().map(String::as_str).collect();
    let y = w.concat(&boxes, 1);
    w.into_builder().output(&y).build()
}
