//! Convolutions of any spatial rank up to three, channels last on the output, as matrix products over windows read in place.
//!
//! Three schedules share the register tile of [`gemm`](crate::gemm): a 1x1 window is a matrix product as it stands; wide
//! rows are copied once with their padding, and the tile walks the window over the copy; narrow rows (and strided 1x1
//! windows) are gathered to a matrix of one row per output pixel.

mod window;

use crate::gemm::{B_FLOATS, Epilogue, Finish, Gemm, PANEL, Panels, TASK_WORK, digit_floats, pack_b};
use crate::isa::Isa;

/// A convolution: depth, height and width are always there, extents of 1 where the model has fewer.
#[derive(Clone, Copy, Debug)]
pub struct Conv {
    /// Images.
    pub n: usize,
    /// Input channels.
    pub c: usize,
    /// Input depth, height, width.
    pub in_dims: [usize; 3],
    /// Output channels.
    pub k: usize,
    /// Window extents.
    pub kernel: [usize; 3],
    /// Steps between windows.
    pub stride: [usize; 3],
    /// Zeros before the first element; those after the last follow from `out_dims`.
    pub pad: [usize; 3],
    /// Steps inside a window.
    pub dilation: [usize; 3],
    /// Output depth, height, width.
    pub out_dims: [usize; 3],
    /// Groups of channels; divides `c` and `k`.
    pub groups: usize,
    /// Floats between neighbours of the input along image, channel, depth, height, width.
    pub x_strides: [usize; 5],
    /// Floats between neighbouring output pixels (at least `k`: the output may be channels of a wider buffer).
    pub out_pitch: usize,
    /// Floats between images of the output.
    pub out_batch: usize,
}

/// How a convolution is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Schedule {
    /// A matrix product over pixels.
    Product,
    /// Input rows are copied with their padding; tiles lie inside of output rows.
    Rows,
    /// Windows are gathered to rows of a matrix; tiles cross output rows.
    Gather,
}

impl Conv {
    pub(crate) const fn pixels(&self) -> usize {
        self.out_dims[0] * self.out_dims[1] * self.out_dims[2]
    }
    pub(crate) const fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1] * self.kernel[2]
    }
    const fn c_group(&self) -> usize {
        self.c / self.groups
    }
    const fn k_group(&self) -> usize {
        self.k / self.groups
    }
    /// Multiply-adds of one output element.
    const fn depth(&self) -> usize {
        self.taps() * self.c_group()
    }
    const fn schedule(&self) -> Schedule {
        let [_, _, x_d, x_h, x_w] = self.x_strides;
        let [d, h, w] = self.in_dims;
        let [od, oh, ow] = self.out_dims;
        if self.taps() == 1 {
            let unit = self.stride[0] * self.stride[1] * self.stride[2] == 1 && self.pad[0] + self.pad[1] + self.pad[2] == 0;
            let same = od == d && oh == h && ow == w;
            let dense = (h == 1 || x_h == w * x_w) && (d == 1 || x_d == h * w * x_w);
            return if unit && same && dense { Schedule::Product } else { Schedule::Gather };
        }
        if (ow >= 10 || ow * oh < 10) && !self.sparse() { Schedule::Rows } else { Schedule::Gather }
    }
    /// Whether windows are so far spread that four rows of them copy more pixels than they read taps.
    const fn sparse(&self) -> bool {
        let [_, kh, kw] = self.kernel;
        let [ow, span_h, span_w] = [self.out_dims[2], (kh - 1) * self.dilation[1] + 1, (kw - 1) * self.dilation[2] + 1];
        let copied = (3 * self.stride[1] + span_h) * (ow.saturating_sub(1) * self.stride[2] + span_w);
        copied > 4 * ow * kh * kw
    }
    /// The matrix product of one image and group, for [`Schedule::Product`].
    const fn product(&self) -> Gemm {
        let flat = self.n > 1 && self.x_strides[0] == self.pixels() * self.x_strides[4] && self.out_batch == self.pixels() * self.out_pitch;
        let m = if flat { self.n * self.pixels() } else { self.pixels() };
        Gemm { m, n: self.k_group(), k: self.c_group(), a_row: self.x_strides[4], a_col: self.x_strides[1], ldc: self.out_pitch }
    }
    /// Output channels (a multiple of [`PANEL`], or all of the group) and output rows or pixels of one task.
    const fn cut(&self) -> (usize, usize) {
        let panels = self.k_group().div_ceil(PANEL);
        let depth = if self.depth() == 0 { 1 } else { self.depth() };
        let gather = matches!(self.schedule(), Schedule::Gather);
        let least = 8;
        let mut wide = (B_FLOATS / (depth * PANEL)).next_multiple_of(4);
        // A task copies its pixels, which takes some channels to pay for.
        let quarter = panels.div_ceil(4).next_multiple_of(4);
        if wide < quarter {
            wide = quarter;
        }
        if wide < least {
            wide = least;
        }
        if wide > panels {
            wide = if panels == 0 { 1 } else { panels };
        }
        let work = depth * wide * PANEL;
        let tall = if gather {
            let mut tall = TASK_WORK.div_ceil(work).next_multiple_of(42);
            let fits = (1 << 18) / crate::gemm::a_pitch(depth) / 14 * 14;
            if tall > fits {
                tall = fits;
            }
            if tall < 14 {
                tall = 14;
            }
            // Few pixels are shared out by channels alone, where there are enough.
            if self.pixels() <= 256 && self.pixels() <= fits && panels >= 4 * wide {
                tall = self.pixels();
            }
            // Short images are cut in equal parts.
            let parts = self.pixels().div_ceil(tall);
            if parts == 0 { 1 } else { self.pixels().div_ceil(parts) }
        } else {
            let ow = if self.out_dims[2] == 0 { 1 } else { self.out_dims[2] };
            let mut tall = TASK_WORK.div_ceil(work * ow);
            // The rows that neighbouring windows share are copied once per task.
            let least = if self.kernel[1] > self.stride[1] { 4 } else { 1 };
            if tall < least {
                tall = least;
            }
            while tall > 1 && self.window(tall).floats() > 1 << 17 {
                tall /= 2;
            }
            if tall > self.out_dims[1] { self.out_dims[1] } else { tall }
        };
        (wide * PANEL, if tall == 0 { 1 } else { tall })
    }
    /// Tasks of one image along output depth, pixels or rows, and channels of one group.
    const fn grid(&self) -> [usize; 3] {
        let (wide, tall) = self.cut();
        let across = self.k_group().div_ceil(wide);
        match self.schedule() {
            Schedule::Gather => [1, self.pixels().div_ceil(tall), across],
            _ => [self.out_dims[0], self.out_dims[1].div_ceil(tall), across],
        }
    }
    /// Number of independent tasks.
    pub const fn tasks(&self) -> usize {
        if self.k == 0 || self.n * self.pixels() == 0 {
            return 0;
        }
        match self.schedule() {
            Schedule::Product => {
                let product = self.product();
                let images = if product.m == self.pixels() { self.n } else { 1 };
                images * self.groups * product.tasks()
            }
            _ => {
                let [d, down, across] = self.grid();
                self.n * self.groups * d * down * across
            }
        }
    }
    /// Floats of scratch that a thread needs.
    pub const fn scratch_floats(&self) -> usize {
        let bias = self.k_group().next_multiple_of(PANEL);
        bias + match self.schedule() {
            Schedule::Product => self.product().scratch_floats(),
            Schedule::Rows => self.window(self.cut().1).floats() + digit_floats(self.cut().1 * self.out_dims[2], self.depth()),
            Schedule::Gather => self.cut().1 * crate::gemm::a_pitch(self.depth()) + digit_floats(self.cut().1, self.depth()),
        }
    }
    /// Floats of the packed weights.
    pub const fn packed_len(&self) -> usize {
        self.groups * self.k_group().next_multiple_of(PANEL) * self.depth()
    }
    /// Packs ONNX weights `[k][c / groups][depth][height][width]` to `[groups][ceil(k / groups / 16)][window][c / groups][16]`.
    pub fn pack_weights(&self, weights: &[f32], out: &mut [f32]) {
        assert_eq!(weights.len(), self.k * self.depth(), "weights fill their shape; this is a bug");
        assert_eq!(out.len(), self.packed_len(), "packed weights fill their buffer; this is a bug");
        let (taps, c, k, depth) = (self.taps(), self.c_group(), self.k_group(), self.depth());
        for (i, x) in out.iter_mut().enumerate() {
            let (lane, rest) = (i % PANEL, i / PANEL);
            let (channel, rest) = (rest % c, rest / c);
            let (tap, rest) = (rest % taps, rest / taps);
            let (panel, group) = (rest % k.div_ceil(PANEL), rest / k.div_ceil(PANEL));
            let column = panel * PANEL + lane;
            *x = if column < k { weights[(group * k + column) * depth + channel * taps + tap] } else { 0.0 };
        }
    }
    /// Runs one task. Rows of the epilogue's blocks are output pixels (image, depth, height and width as one index), columns
    /// are output channels.
    ///
    /// # Safety
    /// `x` and `out` address tensors of the strides given (`out` at the first channel that is written), `weights` are packed,
    /// `bias` is null or holds `k` floats padded to a multiple of [`PANEL`], `scratch` holds
    /// [`scratch_floats`](Self::scratch_floats), `finish` adds nothing or, to each such row and column, floats that are there, the
    /// task's part of `out` is not accessed elsewhere meanwhile, `task < tasks()`, and the machine has `isa`.
    pub unsafe fn run_task(
        &self,
        isa: Isa,
        task: usize,
        x: *const f32,
        weights: Panels,
        bias: *const f32,
        out: *mut f32,
        scratch: *mut f32,
        finish: Finish,
        epilogue: Epilogue,
    ) {
        let kg = self.k_group();
        let schedule = self.schedule();
        let product = self.product();
        let grid = self.grid();
        let inner = if schedule == Schedule::Product { product.tasks() } else { grid[0] * grid[1] * grid[2] };
        let (task, outer) = (task % inner, task / inner);
        let (group, image) = (outer % self.groups, outer / self.groups);
        // SAFETY: group and image are inside of what the caller vouches for.
        unsafe {
            let x = x.add(image * self.x_strides[0] + group * self.c_group() * self.x_strides[1]);
            let weights = weights.from(group * kg.next_multiple_of(PANEL), self.depth());
            let out = out.add(image * self.out_batch + group * kg);
            let mut group_bias = bias;
            if !bias.is_null() && self.groups > 1 {
                // Whole panels of the last group may end beyond the bias.
                core::ptr::write_bytes(scratch, 0, kg.next_multiple_of(PANEL));
                core::ptr::copy_nonoverlapping(bias.add(group * kg), scratch, kg);
                group_bias = scratch;
            }
            let scratch = scratch.add(kg.next_multiple_of(PANEL));
            let place = window::Place { row: image * self.pixels(), col: group * kg, finish, epilogue };
            match schedule {
                Schedule::Product => {
                    let (row, col) = (place.row, place.col);
                    let moved = |mut b: crate::gemm::Block| {
                        b.row += row;
                        b.col += col;
                        if let Some(f) = epilogue {
                            f(b);
                        }
                    };
                    let f: Epilogue = if epilogue.is_some() { Some(&moved) } else { None };
                    product.run_task(isa, task, x, weights, group_bias, out, scratch, finish.at(row, col), f);
                }
                Schedule::Rows => self.run_rows(isa, task, grid, x, weights, group_bias, out, scratch, place),
                Schedule::Gather => self.run_gather(isa, task, grid, x, weights, group_bias, out, scratch, place),
            }
        }
    }
}

/// Packs weights that are computed at run time; as [`Conv::pack_weights`], of one group and one window element.
///
/// # Safety
/// As [`pack_b`].
pub unsafe fn pack_pointwise(isa: Isa, c: usize, k: usize, weights: *const f32, out: *mut f32) {
    // SAFETY: passed on from the caller.
    unsafe { pack_b(isa, c, k, weights, 1, c, out) }
}

/// The convolution by plain loops in f64, with every output element handed to `put` (image, pixel, channel).
pub fn reference(conv: &Conv, x: &[f32], weights: &[f32], bias: &[f32], mut put: impl FnMut(usize, usize, usize, f32)) {
    let (cg, kg) = (conv.c / conv.groups, conv.k / conv.groups);
    let [od, oh, ow] = conv.out_dims;
    for n in 0..conv.n {
        for pixel in 0..od * oh * ow {
            let at = [pixel / (oh * ow), pixel / ow % oh, pixel % ow];
            for k in 0..conv.k {
                let mut sum = bias.get(k).copied().unwrap_or(0.0) as f64;
                for tap in 0..conv.taps() {
                    let t = [tap / (conv.kernel[1] * conv.kernel[2]), tap / conv.kernel[2] % conv.kernel[1], tap % conv.kernel[2]];
                    let mut place = n * conv.x_strides[0];
                    let mut inside = true;
                    for axis in 0..3 {
                        let i = (at[axis] * conv.stride[axis] + t[axis] * conv.dilation[axis]).wrapping_sub(conv.pad[axis]);
                        inside &= i < conv.in_dims[axis];
                        place = place.wrapping_add(i.wrapping_mul(conv.x_strides[2 + axis]));
                    }
                    if inside {
                        for c in 0..cg {
                            let value = x[place + (k / kg * cg + c) * conv.x_strides[1]];
                            sum += value as f64 * weights[(k * cg + c) * conv.taps() + tap] as f64;
                        }
                    }
                }
                put(n, pixel, k, sum as f32);
            }
        }
    }
}

#[cfg(test)]
mod tests;
