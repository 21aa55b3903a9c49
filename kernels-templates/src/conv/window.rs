//! The two schedules of convolutions whose window has more than one element.

use super::Conv;
use crate::gemm::{Epilogue, Finish, Panels, Sweep, Tile, a_pitch, by_digits, sweep};
use crate::isa::Isa;
use crate::support::copy::transpose;

/// Where an image and group lie in the whole output, for the epilogue.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) row: usize,
    pub(super) col: usize,
    pub(super) finish: Finish,
    pub(super) epilogue: Epilogue<'a>,
}

/// A padded copy of the input rows under some output rows: `[kernel depth][rows][width][pitch]`.
pub(super) struct Window {
    rows: usize,
    width: usize,
    pitch: usize,
    planes: usize,
}

impl Window {
    pub(super) const fn floats(&self) -> usize {
        self.planes * self.rows * self.width * self.pitch
    }
}

impl Conv {
    /// Input elements of an axis under `count` windows, padding included.
    const fn reach(&self, axis: usize, count: usize) -> usize {
        count.saturating_sub(1) * self.stride[axis] + (self.kernel[axis] - 1) * self.dilation[axis] + 1
    }
    /// The copy under `tall` output rows.
    pub(super) const fn window(&self, tall: usize) -> Window {
        let c = self.c / self.groups;
        // Pixels that fall into one set of the first-level cache are moved apart.
        let pitch = if c > 0 && (self.stride[2] * c).is_multiple_of(512) { c + 16 } else { c };
        Window { rows: self.reach(1, tall), width: self.reach(2, self.out_dims[2]), pitch, planes: self.kernel[0] }
    }

    /// Copies the input rows under output rows `oh0..` of plane `od`, with zeros around.
    ///
    /// # Safety
    /// `x` addresses an image and group of the input, `out` holds the window, and the machine has `isa`.
    unsafe fn copy_window(&self, isa: Isa, w: &Window, od: usize, oh0: usize, x: *const f32, out: *mut f32) {
        let [_, x_c, x_d, x_h, x_w] = self.x_strides;
        let c = self.c / self.groups;
        let line = w.width * w.pitch;
        let before = self.pad[2].min(w.width);
        let valid = self.in_dims[2].min(w.width - before);
        for plane in 0..w.planes {
            let id = (od * self.stride[0] + plane * self.dilation[0]).wrapping_sub(self.pad[0]);
            for row in 0..w.rows {
                let ih = (oh0 * self.stride[1] + row).wrapping_sub(self.pad[1]);
                // SAFETY: `out` holds planes x rows lines, and only rows and pixels inside of the input are read.
                unsafe {
                    let out = out.add((plane * w.rows + row) * line);
                    if id >= self.in_dims[0] || ih >= self.in_dims[1] {
                        core::ptr::write_bytes(out, 0, line);
                        continue;
                    }
                    let x = x.add(id * x_d + ih * x_h);
                    core::ptr::write_bytes(out, 0, before * w.pitch);
                    core::ptr::write_bytes(out.add((before + valid) * w.pitch), 0, line - (before + valid) * w.pitch);
                    let out = out.add(before * w.pitch);
                    if x_c == 1 && x_w == w.pitch && w.pitch == c {
                        core::ptr::copy_nonoverlapping(x, out, valid * c);
                    } else if x_c == 1 {
                        for i in 0..valid {
                            core::ptr::copy_nonoverlapping(x.add(i * x_w), out.add(i * w.pitch), c);
                        }
                    } else if x_w == 1 && c >= 8 {
                        transpose(isa, c, valid, x, x_c, out, w.pitch);
                    } else {
                        for channel in 0..c {
                            let (x, out) = (x.add(channel * x_c), out.add(channel));
                            for i in 0..valid {
                                *out.add(i * w.pitch) = *x.add(i * x_w);
                            }
                        }
                    }
                }
            }
        }
    }

    /// One task over whole output rows.
    ///
    /// # Safety
    /// As `run_task`, with pointers at one image and group.
    pub(super) unsafe fn run_rows(
        &self,
        isa: Isa,
        task: usize,
        grid: [usize; 3],
        x: *const f32,
        weights: Panels,
        bias: *const f32,
        out: *mut f32,
        scratch: *mut f32,
        place: Place,
    ) {
        let (wide, tall) = self.cut();
        let (down, across) = (grid[1], grid[2]);
        let (row_block, rest) = (task % down, task / down);
        let (col, od) = (rest % across * wide, rest / across);
        let [_, oh, ow] = self.out_dims;
        let oh0 = row_block * tall;
        let w = self.window(tall.min(oh - oh0));
        let c = self.c / self.groups;
        let step = w.pitch * self.dilation[2];
        // Neighbouring window elements of a dense row are one run.
        let (across_taps, run) = if step == c { (1, self.kernel[2] * c) } else { (self.kernel[2], c) };
        let line = w.width * w.pitch;
        // SAFETY: all offsets are inside of the window, the weights and the output that the caller vouches for.
        unsafe {
            self.copy_window(isa, &w, od, oh0, x, scratch);
            let pixel = (od * oh + oh0) * ow;
            let weights = weights.from(col, self.depth());
            let digits = weights.digits;
            let tile = Tile {
                a: scratch,
                a_row: self.stride[2] * w.pitch,
                taps: [self.kernel[0], self.kernel[1], across_taps],
                tap: [w.rows * line, self.dilation[1] * line, step],
                run,
                b: weights.floats,
                panel: 0,
                out: out.add(pixel * self.out_pitch + col),
                pitch: self.out_pitch,
                cols: 0,
                bias: if bias.is_null() { bias } else { bias.add(col) },
                finish: place.finish,
            };
            let (rows, cols) = (tall.min(oh - oh0) * ow, wide.min(self.k_group() - col));
            let (row, col) = (place.row + pixel, place.col + col);
            let scratch = scratch.add(self.window(tall).floats());
            let line = (ow, self.stride[1] * line);
            sweep(
                isa,
                &Sweep { line, rows, cols, k: self.depth(), row, col, epilogue: place.epilogue, digits, scratch, ..Sweep::of(tile) },
            );
        }
    }

    /// One task over a range of output pixels.
    ///
    /// # Safety
    /// As `run_task`, with pointers at one image and group.
    pub(super) unsafe fn run_gather(
        &self,
        isa: Isa,
        task: usize,
        grid: [usize; 3],
        x: *const f32,
        weights: Panels,
        bias: *const f32,
        out: *mut f32,
        scratch: *mut f32,
        place: Place,
    ) {
        let (wide, tall) = self.cut();
        let (first, col) = (task % grid[1] * tall, task / grid[1] * wide);
        let last = self.pixels().min(first + tall);
        let [_, x_c, x_d, x_h, x_w] = self.x_strides;
        let [_, oh, ow] = self.out_dims;
        let c = self.c / self.groups;
        let pitch = a_pitch(self.depth());
        // SAFETY: passed on from the caller.
        let weights = unsafe { weights.from(col, self.depth()) };
        let cols = wide.min(self.k_group() - col);
        let out = out.wrapping_add(first * self.out_pitch + col);
        let bias = if bias.is_null() { bias } else { bias.wrapping_add(col) };
        let tile = Tile {
            a: scratch,
            a_row: pitch,
            taps: [1; 3],
            tap: [0; 3],
            run: self.depth(),
            b: weights.floats,
            panel: 0,
            out,
            pitch: self.out_pitch,
            cols: 0,
            bias,
            finish: place.finish,
        };
        let (rows, digits) = (last - first, weights.digits);
        let (row, col) = (place.row + first, place.col + col);
        let epilogue = place.epilogue;
        let after = scratch.wrapping_add(tall * pitch);
        let block = Sweep { rows, cols, k: self.depth(), row, col, epilogue, digits, scratch: after, ..Sweep::of(tile) };
        // Digits are taken of each row by itself, so rows need not be put together first.
        if by_digits(isa, digits, rows, cols) && self.in_dims[0] == 1 && self.kernel[0] == 1 && first % ow == 0 {
            let lines = rows.div_ceil(ow);
            let w = self.window(lines);
            if w.floats() <= tall * pitch {
                let line = w.width * w.pitch;
                let tile = Tile {
                    a_row: self.stride[2] * w.pitch,
                    taps: [1, self.kernel[1], self.kernel[2]],
                    tap: [0, self.dilation[1] * line, w.pitch * self.dilation[2]],
                    run: c,
                    ..tile
                };
                // SAFETY: the lines hold the windows of the task's rows.
                unsafe {
                    self.copy_window(isa, &w, 0, first / ow, x, scratch);
                    sweep(isa, &Sweep { tile, line: (ow, self.stride[1] * line), ..block });
                }
                return;
            }
        }
        // SAFETY: only pixels inside of the input are read, and the scratch holds a row for each output pixel.
        unsafe {
            for pixel in first..last {
                let (d, h, w) = (pixel / (oh * ow), pixel / ow % oh, pixel % ow);
                let mut to = scratch.add((pixel - first) * pitch);
                for kd in 0..self.kernel[0] {
                    let id = (d * self.stride[0] + kd * self.dilation[0]).wrapping_sub(self.pad[0]);
                    for kh in 0..self.kernel[1] {
                        let ih = (h * self.stride[1] + kh * self.dilation[1]).wrapping_sub(self.pad[1]);
                        for kw in 0..self.kernel[2] {
                            let iw = (w * self.stride[2] + kw * self.dilation[2]).wrapping_sub(self.pad[2]);
                            if id >= self.in_dims[0] || ih >= self.in_dims[1] || iw >= self.in_dims[2] {
                                core::ptr::write_bytes(to, 0, c);
                            } else {
                                let from = x.add(id * x_d + ih * x_h + iw * x_w);
                                if x_c == 1 {
                                    core::ptr::copy_nonoverlapping(from, to, c);
                                } else {
                                    for i in 0..c {
                                        *to.add(i) = *from.add(i * x_c);
                                    }
                                }
                            }
                            to = to.add(c);
                        }
                    }
                }
            }
            sweep(isa, &block);
        }
    }
}
