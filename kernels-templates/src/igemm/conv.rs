//! Convolutions of bytes: channels-last u8 less a zero point by packed i8, in i32, by the register tiles of integer products.
//!
//! Rows of the product are output pixels, and a line of a window, all channels of its neighbouring elements, is a run of bytes in
//! the input, so windows are read where they lie. Where padding, steps inside of a window or odd channels are in the way, the rows of
//! the input that a task needs are copied first, each once, with their padding. That is the zero point itself, so sums start at
//! `-zero` times those of the weights wherever a window lies. Where weights have zero points, these times the sums of windows are taken
//! off behind.

use super::{Depth, Grid, Shift, Sums, initial, sums_of};
use crate::entry::{In, Ints, Out};
use crate::gemm::{Block, Epilogue, PANEL};
use crate::isa::Isa;
use crate::kernel_fn;
use crate::num::Num;

/// Products of words that make a task worth handing to a thread.
const TASK_WORK: usize = 1 << 21;
/// Words of the weights that a task reads again and again from the second-level cache.
const B_WORDS: usize = 1 << 16;
/// Pixels that share what is read of the weights.
const LEAST: usize = 64;
/// Tasks by which few pixels are shared out.
const FEW_PARTS: usize = 4;
/// Fewer pixels do not fill a tile.
const SHORT: usize = 16;
/// Bytes of copied rows that a task keeps in the second-level cache.
const COPIED: usize = 256 << 10;
/// Input channels of which each may lie anywhere.
pub const PLANES: usize = 4;

/// A convolution of one group: depth, height and width are always there, extents of 1 where the model has fewer.
#[derive(Clone, Copy, Debug)]
pub struct IntConv {
    /// Images.
    pub n: usize,
    /// Input channels, which are neighbours unless they are at most [`PLANES`].
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
    /// Whether weights have zero points that are not 0.
    pub shifted: bool,
}

/// What a task computes: some neighbouring columns of some rows of output pixels, of one depth.
#[derive(Clone, Copy)]
struct Part {
    depth: usize,
    row: usize,
    rows: usize,
    at: usize,
    wide: usize,
}

/// At least 1.
const fn positive(n: usize) -> usize {
    if n == 0 { 1 } else { n }
}

/// How copied input lies: pixels of a row, and what steps lead from one output pixel or window line to the next, in bytes.
#[derive(Clone, Copy)]
struct Slab {
    /// Bytes of a pixel.
    pixel: usize,
    /// Pixels of a row: those of all windows one after the other where they share none, or cannot share them in order.
    across: usize,
    /// Whether windows share them.
    shared: bool,
    /// Rows.
    down: usize,
    /// Whether windows share rows.
    stacked: bool,
}

impl Slab {
    const fn line(&self) -> usize {
        self.across * self.pixel
    }
}

impl IntConv {
    pub(super) const fn pixels(&self) -> usize {
        self.out_dims[0] * self.out_dims[1] * self.out_dims[2]
    }
    pub(super) const fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1] * self.kernel[2]
    }
    /// Channels in whole words.
    const fn channels(&self) -> usize {
        self.c.next_multiple_of(4)
    }
    const fn depth(&self) -> Depth {
        Depth::new([self.kernel[0], self.kernel[1]], self.kernel[2] * self.channels())
    }
    /// The same convolution, with all pixels in one row where windows are pixels as they lie.
    const fn flat(&self) -> IntConv {
        let [_, _, x_d, x_h, x_w] = self.x_strides;
        let ([d, h, w], [od, oh, ow]) = (self.in_dims, self.out_dims);
        let unit = self.taps() == 1 && self.stride[0] * self.stride[1] * self.stride[2] == 1;
        let same = od == d && oh == h && ow == w && self.pad[0] + self.pad[1] + self.pad[2] == 0;
        let dense = (h == 1 || x_h == w * x_w) && (d == 1 || x_d == h * w * x_w);
        if !(unit && same && dense) {
            return *self;
        }
        let dims = [1, 1, d * h * w];
        IntConv { in_dims: dims, out_dims: dims, ..*self }
    }
    /// Whether windows are read where they lie.
    const fn in_place(&self) -> bool {
        let [_, x_c, x_d, x_h, x_w] = self.x_strides;
        let mut inside = true;
        let mut axis = 0;
        while axis < 3 {
            let last = self.out_dims[axis].saturating_sub(1) * self.stride[axis] + (self.kernel[axis] - 1) * self.dilation[axis];
            inside = inside && self.pad[axis] == 0 && last < self.in_dims[axis];
            axis += 1;
        }
        let words = x_w.is_multiple_of(4) && x_h.is_multiple_of(4) && x_d.is_multiple_of(4);
        let runs = x_c == 1 && self.c.is_multiple_of(4) && self.depth().line() * 4 == self.kernel[2] * self.c;
        let joined = self.kernel[2] == 1 || (x_w == self.c && self.dilation[2] == 1);
        // Short rows of pixels that are apart are better pushed together.
        let together = self.taps() > 1 || self.stride[2] == 1 || self.out_dims[2] >= SHORT;
        // Many pixels of whole pages fall into one set of the first-level cache.
        inside && words && runs && joined && together && !x_w.is_multiple_of(4096)
    }
    /// How the input of so many rows and columns of output pixels is copied.
    const fn slab(&self, rows: usize, wide: usize) -> Slab {
        let [_, kh, kw] = self.kernel;
        let (shared, stacked) = (self.dilation[2] == 1 && kw >= self.stride[2], self.dilation[1] == 1 && kh >= self.stride[1]);
        let across = if shared { wide.saturating_sub(1) * self.stride[2] + kw } else { wide * kw };
        let down = if stacked { rows.saturating_sub(1) * self.stride[1] + kh } else { rows * kh };
        let apart = kw == 1 && self.channels().is_multiple_of(2048);
        Slab { pixel: self.channels() + if apart { 64 } else { 0 }, across, shared, down, stacked }
    }
    /// Output channels, rows and columns of one task.
    const fn cut(&self) -> (usize, usize, usize) {
        let panels = self.k.div_ceil(PANEL);
        let words = positive(self.depth().total());
        let mut wide = B_WORDS / (words * PANEL) / 4 * 4;
        if wide < 4 {
            wide = 4;
        }
        // Weights that are read once need not stay in the cache; whoever reads them copies the input.
        let few = panels.div_ceil(FEW_PARTS).next_multiple_of(4);
        if self.pixels() <= LEAST && wide < few {
            wide = few;
        }
        // Channels that are left are shared out evenly.
        let parts = panels.div_ceil(wide);
        let even = positive(panels.div_ceil(positive(parts)));
        let wide = if parts > 1 { even.next_multiple_of(4) } else { even };
        let mut pixels = TASK_WORK.div_ceil(words * wide * PANEL);
        if pixels < LEAST {
            pixels = LEAST;
        }
        let [_, oh, ow] = self.out_dims;
        if oh == 1 {
            let parts = ow.div_ceil(pixels);
            return (wide * PANEL, 1, positive(ow.div_ceil(positive(parts))));
        }
        let mut rows = positive(pixels / positive(ow));
        let one = positive(self.kernel[0] * self.slab(1, ow).line());
        let fits = (COPIED / one).saturating_sub(self.kernel[1]) / self.stride[1] + 1;
        if !self.in_place() && rows > fits {
            rows = fits;
        }
        (wide * PANEL, positive(oh.div_ceil(positive(oh.div_ceil(rows)))), positive(ow))
    }
    /// Number of independent tasks.
    pub const fn tasks(&self) -> usize {
        let g = self.flat();
        let (wide, rows, across) = g.cut();
        let [od, oh, ow] = g.out_dims;
        g.n * od * oh.div_ceil(rows) * ow.div_ceil(across) * g.k.div_ceil(wide)
    }
    /// Words of scratch for the sums of the windows of a task.
    const fn window_sums(&self) -> usize {
        let (_, rows, across) = self.cut();
        if self.shifted { (rows * across).next_multiple_of(PANEL) } else { 0 }
    }
    /// Words of scratch that a thread needs: initial sums, sums of windows, sums, places of steps, copied rows.
    pub const fn scratch_floats(&self) -> usize {
        let g = self.flat();
        let (wide, rows, across) = g.cut();
        let slab = g.slab(rows, across);
        // A line's last step may reach behind the last pixel.
        let copied = if g.in_place() { 0 } else { (g.kernel[0] * slab.down * slab.line()).div_ceil(4) + PANEL };
        wide + g.window_sums() + sums_of(wide) + g.depth().table() + copied
    }
    /// Bytes of the packed weights.
    pub const fn packed_len(&self) -> usize {
        self.depth().packed_len(self.k)
    }
    /// Packs ONNX weights `[k][c][depth][height][width]`: rows of the matrix are window elements, of each all channels.
    pub fn pack_weights(&self, weights: &[u8], out: &mut [u8]) {
        let (taps, c, width) = (self.taps(), self.c, self.kernel[2]);
        assert_eq!(weights.len(), self.k * c * taps, "weights fill their shape; this is a bug");
        let (depth, each) = (self.depth(), self.channels());
        let line = depth.line() * 4;
        let at = |p: usize, column: usize| {
            let (tap, channel) = (p % line / each, p % line % each);
            (tap < width && channel < c).then(|| weights[(column * c + channel) * taps + p / line * width + tap])
        };
        depth.pack(self.k, &at, out);
    }
    /// Runs one task. Rows of the epilogue's blocks are output pixels (image, depth, height and width as one index), columns are
    /// output channels. Without `out`, blocks lie in scratch, and the epilogue puts them where they belong.
    ///
    /// # Safety
    /// `x` addresses a tensor of the strides given, and so does `out` unless it is null, `weights` are packed, `zeros` has those of
    /// [`pack_zeros`](super::pack_zeros) unless the weights have none, `scratch` holds [`scratch_floats`](Self::scratch_floats), the
    /// task's part of `out` is not accessed elsewhere meanwhile, `task < tasks()`, and the machine has `isa`.
    pub unsafe fn run_task(
        &self,
        isa: Isa,
        task: usize,
        x: *const u8,
        zero: u8,
        weights: *const u8,
        zeros: *const i32,
        out: *mut i32,
        scratch: *mut f32,
        epilogue: Epilogue,
    ) {
        // SAFETY: passed on from the caller.
        unsafe { self.run(isa, isa.has_tiles(), task, (x, zero), (weights, zeros), out, scratch, epilogue) }
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
        (weights, zeros): (*const u8, *const i32),
        out: *mut i32,
        scratch: *mut f32,
        epilogue: Epilogue,
    ) {
        let g = self.flat();
        let (wide, rows, across) = g.cut();
        let [od, oh, ow] = g.out_dims;
        let (sides, down) = (ow.div_ceil(across), oh.div_ceil(rows));
        // Tasks of one block of channels are neighbours, and share its weights in the last-level cache.
        let (side, rest) = (task % sides, task / sides);
        let (part, rest) = (rest % down, rest / down);
        let (depth, rest) = (rest % od, rest / od);
        let (col, image) = (rest % g.k.div_ceil(wide) * wide, rest / g.k.div_ceil(wide));
        let (row, at) = (part * rows, side * across);
        let part = Part { depth, row, rows: rows.min(oh - row), at, wide: across.min(ow - at) };
        let first = (depth * oh + row) * ow + at;
        let deep = g.depth();
        // SAFETY: image, pixels and channels are inside of what the caller vouches for, and scratch holds all parts.
        unsafe {
            let x = x.add(image * g.x_strides[0]);
            let start = scratch.cast::<i32>();
            let windows = start.add(wide);
            let sums = windows.add(g.window_sums());
            let table = sums.add(sums_of(wide));
            let columns = wide.min(g.k.next_multiple_of(PANEL) - col);
            initial(start, weights.add(deep.sums_at(g.k)).add(4 * col), columns, i32::from(zero));
            let grid = match g.in_place() {
                true => g.there(x, &part),
                false => g.copied(isa, x, zero, &part, table.add(deep.table()).cast()),
            };
            let shift = Shift { isa, sums: windows, first: image * g.pixels() + first, zeros };
            let fix = |block: Block| {
                // The block lies inside of the task's part, whose windows have their sums.
                shift.take_off(block);
                if let Some(f) = epilogue {
                    f(block);
                }
            };
            let mut epilogue = epilogue;
            if g.shifted {
                g.sum_windows(isa, windows, &grid, zero);
                epilogue = Some(&fix);
            }
            let sums = Sums {
                isa,
                tiles,
                grid,
                depth: deep,
                b: weights.add(col * deep.total() * 4),
                start,
                out: if out.is_null() { out } else { out.add(image * g.out_batch + first * g.out_pitch + col) },
                pitch: g.out_pitch,
                sums,
                table: table.cast(),
                cols: wide.min(g.k - col),
                row: image * g.pixels() + first,
                col,
                epilogue,
            };
            sums.compute();
        }
    }
    /// The sums of the windows of a grid, less `zero` for each of their elements.
    ///
    /// # Safety
    /// The grid is one of the task's, `out` has room for its pixels, and the machine has `isa`.
    unsafe fn sum_windows(&self, isa: Isa, out: *mut i32, g: &Grid, zero: u8) {
        // Where channels are no whole words, what lies between them is none of theirs.
        let (runs, step, run) = match self.c.is_multiple_of(4) {
            true => (1, 0, self.kernel[2] * self.c),
            false => (self.kernel[2], self.channels(), self.c),
        };
        let none = ((self.taps() * self.c) as i32).wrapping_mul(i32::from(zero));
        for (row, column) in (0..g.rows).flat_map(|r| (0..g.wide).map(move |c| (r, c))) {
            // SAFETY: windows lie inside of what the grid addresses.
            unsafe {
                let a = g.a.add(row * g.row + column * g.pixel);
                let sum = sum_window(isa, a, self.kernel[0], self.kernel[1], g.tap, runs, step, run);
                out.add(row * g.wide + column).write(sum.wrapping_sub(none));
            }
        }
    }
    /// Windows where they lie in an image.
    fn there(&self, x: *const u8, p: &Part) -> Grid {
        let [_, _, x_d, x_h, x_w] = self.x_strides;
        let from = p.depth * self.stride[0] * x_d + p.row * self.stride[1] * x_h + p.at * self.stride[2] * x_w;
        Grid {
            a: x.wrapping_add(from),
            pixel: self.stride[2] * x_w,
            row: self.stride[1] * x_h,
            wide: p.wide,
            rows: p.rows,
            tap: [self.dilation[0] * x_d, self.dilation[1] * x_h],
        }
    }
    /// Copies the rows of an image that windows need, with `zero` outside of the input.
    ///
    /// # Safety
    /// `x` addresses an image, the part is one of the output's, `out` holds the rows, and the machine has `isa`.
    unsafe fn copied(&self, isa: Isa, x: *const u8, zero: u8, p: &Part, out: *mut u8) -> Grid {
        let slab = self.slab(p.rows, p.wide);
        let [_, _, x_d, x_h, _] = self.x_strides;
        let line = slab.line();
        for q in 0..self.kernel[0] {
            let id = (p.depth * self.stride[0] + q * self.dilation[0]).wrapping_sub(self.pad[0]);
            for i in 0..slab.down {
                let ih = match slab.stacked {
                    true => p.row * self.stride[1] + i,
                    false => (p.row + i / self.kernel[1]) * self.stride[1] + i % self.kernel[1] * self.dilation[1],
                };
                let ih = ih.wrapping_sub(self.pad[1]);
                // SAFETY: only rows inside of the input are read, and `out` holds all of them.
                unsafe {
                    let to = out.add((q * slab.down + i) * line);
                    if id >= self.in_dims[0] || ih >= self.in_dims[1] {
                        core::ptr::write_bytes(to, zero, line);
                    } else {
                        self.copy_row(isa, x.add(id * x_d + ih * x_h), zero, p, &slab, to);
                    }
                }
            }
        }
        Grid {
            a: out,
            pixel: slab.pixel * if slab.shared { self.stride[2] } else { self.kernel[2] },
            row: line * if slab.stacked { self.stride[1] } else { self.kernel[1] },
            wide: p.wide,
            rows: p.rows,
            tap: [slab.down * line, line],
        }
    }
    /// Copies the pixels of a row that windows need.
    ///
    /// # Safety
    /// As [`Self::copied`], for a row of the image.
    unsafe fn copy_row(&self, isa: Isa, x: *const u8, zero: u8, p: &Part, slab: &Slab, out: *mut u8) {
        let [_, x_c, _, _, x_w] = self.x_strides;
        let begin = (p.at * self.stride[2]) as isize - self.pad[2] as isize;
        let inside = |w: isize| w.clamp(0, self.in_dims[2] as isize);
        // Pixels of the input that stand side by side.
        let copy = |w: isize, n: usize, to: *mut u8| {
            let (from, end) = (inside(w), inside(w + n as isize));
            let (before, n_in) = ((from - w).clamp(0, n as isize) as usize, (end - from) as usize);
            // SAFETY: pixels are inside of the row, and the copy has room for all.
            unsafe {
                core::ptr::write_bytes(to, zero, before * slab.pixel);
                core::ptr::write_bytes(to.add((before + n_in) * slab.pixel), zero, (n - before - n_in) * slab.pixel);
                let (x, to) = (x.add(from as usize * x_w), to.add(before * slab.pixel));
                if x_c != 1 && self.c > 1 {
                    interleave(isa, x, [x_c, x_w], self.c, n_in, to.cast());
                } else if x_w == self.c && slab.pixel == self.c {
                    core::ptr::copy_nonoverlapping(x, to, n_in * self.c);
                } else {
                    for i in 0..n_in {
                        core::ptr::copy_nonoverlapping(x.add(i * x_w), to.add(i * slab.pixel), self.c);
                        core::ptr::write_bytes(to.add(i * slab.pixel + self.c), 0, slab.pixel - self.c);
                    }
                }
            }
        };
        if slab.shared {
            return copy(begin, slab.across, out);
        }
        for i in 0..slab.across {
            let (pixel, tap) = (i / self.kernel[2], i % self.kernel[2]);
            copy(begin + (pixel * self.stride[2] + tap * self.dilation[2]) as isize, 1, out.wrapping_add(i * slab.pixel));
        }
    }
}

kernel_fn! {
    /// The sum of a window: of `runs` runs of bytes, `step` apart, in each of `deep` by `high` lines.
    ///
    /// # Safety
    /// All of them are there, and the machine has `isa`.
    fn sum_window<A>(x: *const u8, deep: usize, high: usize, tap: [usize; 2], runs: usize, step: usize, run: usize) -> i32 {
        let mut sum = 0u32;
        for d in 0..deep {
            for h in 0..high {
                for r in 0..runs {
                    let x = x.add(d * tap[0] + h * tap[1] + r * step);
                    for i in 0..run {
                        sum = sum.wrapping_add(u32::from(*x.add(i)));
                    }
                }
            }
        }
        sum as i32
    }
    /// Puts up to four channels of `n` pixels side by side, a word a pixel.
    ///
    /// # Safety
    /// The addresses `x + i * channel + j * pixel` are those of `n` pixels, `out` has room for them, and the machine has `isa`.
    fn interleave<A>(x: *const u8, steps: [usize; 2], channels: usize, n: usize, out: *mut u32) {
        let [channel, pixel] = steps;
        for i in 0..channels.min(PLANES) {
            let x = x.add(i * channel);
            let shift = 8 * i;
            let keep = if i == 0 { 0 } else { u32::MAX };
            if pixel == 1 {
                for j in 0..n {
                    let to = out.add(j);
                    to.write_unaligned(to.read_unaligned() & keep | u32::from(*x.add(j)) << shift);
                }
            } else {
                for j in 0..n {
                    let to = out.add(j);
                    to.write_unaligned(to.read_unaligned() & keep | u32::from(*x.add(j * pixel)) << shift);
                }
            }
        }
    }
}

/// The convolution by plain loops, channels first: u8 less a zero point by integers less theirs, one for all or one for each output
/// channel, with sums that fit into 32 bits.
pub fn convolve<T: Num>(
    out: Out<'_, i32>,
    x: In<'_, u8>,
    w: In<'_, T>,
    zero: In<'_, u8>,
    w_zero: Option<In<'_, T>>,
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
    let whole = |x: T| x.to_f64() as i32;
    let each = w.0.len().checked_div(w_dims[0]).unwrap_or(0).max(1);
    let zeros = w_zero.map_or(alloc::vec![0], |z| z.0.iter().map(|z| whole(*z)).collect());
    let w: alloc::vec::Vec<i32> = w.0.iter().enumerate().map(|(i, b)| whole(*b) - zeros[i / each % zeros.len()]).collect();
    crate::plain::conv(out, In(&x), In(&w), None, x_dims, w_dims, out_dims, steps, pads, dilations, groups);
}
