//! Convolutions of bytes: channels-last u8 less a zero point by packed i8, in i32, by the register tiles of integer products.
//!
//! Rows of the product are output pixels. A window of one element is a product as it stands; others, and pixels that are apart, are
//! gathered a block of pixels at a time. Padding is the zero point itself, so sums start at `-zero` times those of the weights
//! wherever a window lies.

use super::{Sums, packed_len, sums_at};
use crate::entry::{In, Ints, Out};
use crate::gemm::{B_FLOATS, Block, Epilogue, PANEL, TASK_WORK, a_pitch};
use crate::isa::Isa;

/// Rows of sums that one register tile writes at most, of any instruction set.
const TALLEST: usize = 32;
/// Bytes of gathered windows that a task keeps in the second-level cache.
const GATHERED: usize = 256 << 10;

/// A convolution of one group: depth, height and width are always there, extents of 1 where the model has fewer.
#[derive(Clone, Copy, Debug)]
pub struct IntConv {
    /// Images.
    pub n: usize,
    /// Input channels, which are neighbours.
    pub c: usize,
    /// Input depth, height, width.
    pub in_dims: [usize; 3],
    /// Output channels.
    pub k: usize,
    /// Window extents.
    pub kernel: [usize; 3],
    /// Steps between windows.
    pub stride: [usize; 3],
    /// Zero points before the first element; those after the last follow from `out_dims`.
    pub pad: [usize; 3],
    /// Steps inside a window.
    pub dilation: [usize; 3],
    /// Output depth, height, width.
    pub out_dims: [usize; 3],
    /// Bytes between neighbours of the input along image, channel, depth, height, width.
    pub x_strides: [usize; 5],
    /// Elements between neighbouring output pixels.
    pub out_pitch: usize,
    /// Elements between images of the output.
    pub out_batch: usize,
}

impl IntConv {
    pub(super) const fn pixels(&self) -> usize {
        self.out_dims[0] * self.out_dims[1] * self.out_dims[2]
    }
    pub(super) const fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1] * self.kernel[2]
    }
    /// Products of one sum.
    const fn depth(&self) -> usize {
        self.taps() * self.c
    }
    /// Whether pixels are rows of words as they lie.
    const fn in_place(&self) -> bool {
        let [_, _, x_d, x_h, x_w] = self.x_strides;
        let ([d, h, w], [od, oh, ow]) = (self.in_dims, self.out_dims);
        let unit = self.taps() == 1 && self.stride[0] * self.stride[1] * self.stride[2] == 1;
        let same = od == d && oh == h && ow == w && self.pad[0] + self.pad[1] + self.pad[2] == 0;
        let dense = (h == 1 || x_h == w * x_w) && (d == 1 || x_d == h * w * x_w);
        // Many rows of whole kilobytes fall into one set of the first-level cache.
        unit && same && dense && self.c.is_multiple_of(4) && x_w.is_multiple_of(4) && !x_w.is_multiple_of(2048)
    }
    /// Bytes from row to row of gathered windows.
    const fn gathered(&self) -> usize {
        a_pitch(self.depth().div_ceil(4)) * 4
    }
    /// Channels and pixels of one task.
    const fn cut(&self) -> (usize, usize) {
        let panels = self.k.div_ceil(PANEL);
        let words = if self.depth() == 0 { 1 } else { self.depth().div_ceil(4) };
        let mut wide = (B_FLOATS / (words * PANEL)).next_multiple_of(4);
        if wide < 8 {
            wide = 8;
        }
        // Channels that are left are shared out evenly.
        let parts = panels.div_ceil(wide);
        let even = if parts == 0 { 1 } else { panels.div_ceil(parts) };
        let wide = if even % 2 == 1 && parts > 1 { even + 1 } else { even };
        let mut tall = TASK_WORK.div_ceil(words * wide * PANEL).next_multiple_of(TALLEST);
        if !self.in_place() {
            let fits = GATHERED / self.gathered() / TALLEST * TALLEST;
            if tall > fits {
                tall = fits;
            }
            if tall < TALLEST {
                tall = TALLEST;
            }
        }
        if tall > self.pixels() {
            tall = if self.pixels() == 0 { 1 } else { self.pixels() };
        }
        (wide * PANEL, tall)
    }
    /// Number of independent tasks.
    pub const fn tasks(&self) -> usize {
        let (wide, tall) = self.cut();
        self.n * self.pixels().div_ceil(tall) * self.k.div_ceil(wide)
    }
    /// Words of scratch that a thread needs.
    pub const fn scratch_floats(&self) -> usize {
        let (wide, tall) = self.cut();
        wide * (1 + TALLEST) + if self.in_place() { 0 } else { tall * self.gathered() / 4 }
    }
    /// Bytes of the packed weights.
    pub const fn packed_len(&self) -> usize {
        packed_len(self.depth(), self.k)
    }
    /// Packs ONNX weights `[k][c][depth][height][width]`: rows of the matrix are window elements, of each all channels.
    pub fn pack_weights(&self, weights: &[u8], out: &mut [u8]) {
        let (taps, c, k) = (self.taps(), self.c, self.k);
        assert_eq!(weights.len(), k * self.depth(), "weights fill their shape; this is a bug");
        let mut rows = alloc::vec![0; weights.len()];
        for (i, x) in rows.iter_mut().enumerate() {
            let (column, row) = (i % k, i / k);
            *x = weights[(column * c + row % c) * taps + row / c];
        }
        super::pack_rows(self.depth(), k, &rows, false, out);
    }
    /// Runs one task. Rows of the epilogue's blocks are output pixels (image, depth, height and width as one index), columns are
    /// output channels. Without `out`, blocks lie in scratch, and the epilogue puts them where they belong.
    ///
    /// # Safety
    /// `x` addresses a tensor of the strides given, and so does `out` unless it is null, `weights` are packed, `scratch` holds
    /// [`scratch_floats`](Self::scratch_floats), the task's part of `out` is not accessed elsewhere meanwhile, `task < tasks()`, and
    /// the machine has `isa`.
    pub unsafe fn run_task(
        &self,
        isa: Isa,
        task: usize,
        x: *const u8,
        zero: u8,
        weights: *const u8,
        out: *mut i32,
        scratch: *mut f32,
        epilogue: Epilogue,
    ) {
        // SAFETY: passed on from the caller.
        unsafe { self.run(isa, isa.has_tiles(), task, (x, zero), weights, out, scratch, epilogue) }
    }
    /// [`Self::run_task`], with matrix registers where the machine has them and they are wanted.
    ///
    /// # Safety
    /// As [`Self::run_task`].
    pub(super) unsafe fn run(
        &self,
        isa: Isa,
        tiles: bool,
        task: usize,
        (x, zero): (*const u8, u8),
        weights: *const u8,
        out: *mut i32,
        scratch: *mut f32,
        epilogue: Epilogue,
    ) {
        let (wide, tall) = self.cut();
        let (across, down) = (self.k.div_ceil(wide), self.pixels().div_ceil(tall));
        // Tasks of one block of channels are neighbours, and share its weights in the last-level cache.
        let (part, image) = (task % (across * down), task / (across * down));
        let (col, first) = (part / down * wide, part % down * tall);
        let rows = tall.min(self.pixels() - first);
        let image_row = image * self.pixels();
        let deep = self.depth().next_multiple_of(4);
        let moved = |b: Block| {
            if let Some(f) = epilogue {
                f(Block { row: b.row + image_row, ..b });
            }
        };
        // SAFETY: image, pixels and channels are inside of what the caller vouches for, and scratch holds a row and the rest.
        unsafe {
            let x = x.add(image * self.x_strides[0]);
            let start = scratch.cast::<i32>();
            let sums = weights.add(sums_at(self.depth(), self.k)).cast::<i32>().add(col);
            for j in 0..wide.min(self.k.next_multiple_of(PANEL) - col) {
                start.add(j).write(sums.add(j).read_unaligned().wrapping_mul(-i32::from(zero)));
            }
            let (mut a, mut a_row) = (x.add(first * self.x_strides[4]), self.x_strides[4]);
            if !self.in_place() {
                a_row = self.gathered();
                let to = scratch.add(wide * (1 + TALLEST)).cast::<u8>();
                self.gather(x, zero, first..first + rows, to, a_row);
                a = to;
            }
            let (mut to, mut pitch, mut step) = (scratch.add(wide).cast::<i32>(), wide, 0);
            if !out.is_null() {
                (to, pitch, step) = (out.add(image * self.out_batch + first * self.out_pitch + col), self.out_pitch, self.out_pitch);
            }
            let sums = Sums {
                isa,
                tiles,
                a,
                a_row,
                k: self.depth(),
                b: weights.add(col * deep),
                start,
                out: to,
                pitch,
                down: step,
                rows,
                cols: wide.min(self.k - col),
                row: first,
                col,
                epilogue: if epilogue.is_some() { Some(&moved) } else { None },
            };
            sums.compute();
        }
    }

    /// Writes the windows of output pixels, each a row of `pitch` bytes, with `zero` outside of the input.
    ///
    /// # Safety
    /// `x` addresses an image, the pixels are some of the output's, and `out` holds a row for each.
    unsafe fn gather(&self, x: *const u8, zero: u8, pixels: core::ops::Range<usize>, out: *mut u8, pitch: usize) {
        let [_, _, x_d, x_h, x_w] = self.x_strides;
        let [_, oh, ow] = self.out_dims;
        let (c, [kd, kh, kw]) = (self.c, self.kernel);
        let line = kw * c;
        // Window elements of a row that are neighbours are copied at once.
        let joined = x_w == c && self.dilation[2] == 1;
        for (i, pixel) in pixels.enumerate() {
            let (d, h, w) = (pixel / (oh * ow), pixel / ow % oh, pixel % ow);
            let left = (w * self.stride[2]) as isize - self.pad[2] as isize;
            // The window elements `from..to` of a row lie inside of the input.
            let (from, to) = self.inside(left);
            // SAFETY: only bytes inside of the input are read, and a row holds `depth` bytes up to whole words.
            unsafe {
                let mut at = out.add(i * pitch);
                for p in 0..kd {
                    let id = (d * self.stride[0] + p * self.dilation[0]).wrapping_sub(self.pad[0]);
                    for q in 0..kh {
                        let ih = (h * self.stride[1] + q * self.dilation[1]).wrapping_sub(self.pad[1]);
                        if id >= self.in_dims[0] || ih >= self.in_dims[1] || from >= to {
                            core::ptr::write_bytes(at, zero, line);
                        } else {
                            let row = x.add(id * x_d + ih * x_h);
                            core::ptr::write_bytes(at, zero, from * c);
                            core::ptr::write_bytes(at.add(to * c), zero, line - to * c);
                            let source = |r: usize| row.offset((left + (r * self.dilation[2]) as isize) * x_w as isize);
                            if joined {
                                core::ptr::copy_nonoverlapping(source(from), at.add(from * c), (to - from) * c);
                            } else {
                                for r in from..to {
                                    core::ptr::copy_nonoverlapping(source(r), at.add(r * c), c);
                                }
                            }
                        }
                        at = at.add(line);
                    }
                }
                // Bytes behind the last meet zeros among the weights.
                core::ptr::write_bytes(at, 0, self.depth().next_multiple_of(4) - self.depth());
            }
        }
    }
    /// The window elements along the last axis that lie inside of the input, where the first lies at `left`.
    fn inside(&self, left: isize) -> (usize, usize) {
        let step = self.dilation[2] as isize;
        let bound = |x: isize| ((x - left + step - 1).div_euclid(step)).clamp(0, self.kernel[2] as isize) as usize;
        (bound(0), bound(self.in_dims[2] as isize))
    }
}

/// The convolution by plain loops, channels first: u8 less a zero point by i8, with sums that fit into 32 bits.
pub fn convolve(
    out: Out<'_, i32>,
    x: In<'_, u8>,
    w: In<'_, i8>,
    zero: In<'_, u8>,
    x_dims: &[usize],
    w_dims: &[usize],
    out_dims: &[usize],
    steps: Ints<'_>,
    pads: Ints<'_>,
    dilations: Ints<'_>,
    groups: usize,
) {
    let wide = |v: i32| alloc::vec::Vec::from_iter(x.0.iter().map(|b| i32::from(*b) - v));
    let x = wide(i32::from(zero.0[0]));
    let w: alloc::vec::Vec<i32> = w.0.iter().map(|b| i32::from(*b)).collect();
    crate::plain::conv(out, In(&x), In(&w), None, x_dims, w_dims, out_dims, steps, pads, dilations, groups);
}
