//! A depthwise convolution with the 1x1 convolutions before and behind it, some rows at a time: what lies between them stays in the
//! second-level cache, where the tensors themselves would go to memory and back.
//!
//! A task has some rows of one image's result and goes down them in strips. Rows that the windows of two strips share stay where they are,
//! only the first strip of a task computes rows that its neighbour computes too.

use crate::conv::Conv;
use crate::depthwise::Depthwise;
use crate::gemm::{Epilogue, Finish, Panels, Sweep, TASK_WORK, Tile, a_pitch, digit_floats, sweep};
use crate::isa::Isa;
use core::ops::Range;

/// Convolutions of planes, each reading the result of the one before.
///
/// Those around the depthwise one have a window of one element, unit steps, no padding and one group, and the operand's rows of pixels
/// follow each other. The strides of what lies between are not used.
#[derive(Clone, Copy, Debug)]
pub struct Strips {
    /// What computes the operand of the depthwise convolution.
    pub before: Option<Conv>,
    /// The depthwise convolution, of a plane.
    pub middle: Conv,
    /// What reads its result.
    pub behind: Option<Conv>,
}

/// What one of the convolutions reads beside its operand, and what becomes of its sums.
#[derive(Clone, Copy)]
pub struct Part<'a> {
    /// Its packed weights.
    pub weights: Panels,
    /// Its bias, padded to whole panels, or null.
    pub bias: *const f32,
    /// What becomes of its sums in registers.
    pub finish: Finish,
    /// What becomes of its blocks.
    pub epilogue: Epilogue<'a>,
}

impl Part<'_> {
    /// What a convolution that is not there reads.
    pub const NONE: Part<'static> =
        Part { weights: Panels::of(core::ptr::null()), bias: core::ptr::null(), finish: Finish::NONE, epilogue: None };
}

/// Floats of scratch that strips may take: most of a second-level cache of 1 MiB or more.
const STRIP: usize = 160 * 1024;
/// A task's rows are at least this many times those that it computes a second time.
const AGAIN: usize = 6;

impl Strips {
    /// Rows of the depthwise operand that windows of so many output rows hold.
    const fn reach(&self, rows: usize) -> usize {
        let c = &self.middle;
        (rows - 1) * c.stride[1] + (c.kernel[1] - 1) * c.dilation[1] + 1
    }
    /// Floats from pixel to pixel between the convolutions: of the depthwise one's operand, and of its result.
    const fn pitches(&self) -> [usize; 2] {
        let c = self.middle.c.next_multiple_of(16);
        [c, a_pitch(self.middle.c)]
    }
    /// Floats of the operand and the result of the depthwise convolution for so many rows of a strip, where they are kept.
    const fn floats(&self, rows: usize) -> [usize; 2] {
        let (c, [p, q]) = (&self.middle, self.pitches());
        let operand = if self.before.is_some() { self.reach(rows) * c.in_dims[2] * p } else { 0 };
        [operand, if self.behind.is_some() { rows * c.out_dims[2] * q } else { 0 }]
    }
    /// Output rows of one strip.
    const fn tall(&self) -> usize {
        let most = self.middle.out_dims[1].div_ceil(self.parts());
        let mut rows = 1;
        while rows < most {
            let [a, b] = self.floats(rows + 1);
            if a + b > STRIP {
                break;
            }
            rows += 1;
        }
        // Strips of nearly equal height.
        most.div_ceil(most.div_ceil(rows))
    }
    /// Tasks of one image.
    const fn parts(&self) -> usize {
        let c = &self.middle;
        let pixels = c.out_dims[1] * c.out_dims[2];
        let mut work = pixels * c.c * c.taps();
        if let Some(b) = &self.before {
            work += b.pixels() * b.c * b.k;
        }
        if let Some(b) = &self.behind {
            work += pixels * b.c * b.k;
        }
        let again = if self.before.is_some() { (self.reach(1) - 1).div_ceil(c.stride[1]) * AGAIN } else { 1 };
        let mut parts = 1;
        while parts < 16 && 2 * parts * TASK_WORK <= work && 2 * parts * again <= c.out_dims[1] {
            parts *= 2;
        }
        parts
    }
    /// Number of independent tasks.
    pub const fn tasks(&self) -> usize {
        let c = &self.middle;
        let columns = match &self.behind {
            Some(b) => b.k,
            None => c.k,
        };
        if c.n * c.out_dims[1] * c.out_dims[2] * columns == 0 { 0 } else { c.n * self.parts() }
    }
    /// Floats of scratch that a thread needs.
    pub const fn scratch_floats(&self) -> usize {
        if self.tasks() == 0 {
            return 0;
        }
        let rows = self.tall();
        let [operand, result] = self.floats(rows);
        let mut digits = 0;
        if let Some(b) = &self.before {
            digits = digit_floats(self.reach(rows) * self.middle.in_dims[2], b.c);
        }
        if let Some(b) = &self.behind {
            let more = digit_floats(rows * self.middle.out_dims[2], b.c);
            digits = if more > digits { more } else { digits };
        }
        operand + result + digits
    }
    /// Rows of the depthwise operand that output rows read.
    fn operand_rows(&self, rows: &Range<usize>) -> Range<usize> {
        let c = &self.middle;
        let first = (rows.start * c.stride[1]).saturating_sub(c.pad[1]).min(c.in_dims[1]);
        let end = (rows.start * c.stride[1] + self.reach(rows.len())).saturating_sub(c.pad[1]).min(c.in_dims[1]);
        first..end.max(first)
    }
    /// Runs one task. Rows and columns of the epilogues' blocks are pixels and channels of the results of each convolution, as
    /// [`Conv::run_task`] has them.
    ///
    /// # Safety
    /// `x` addresses the operand of the first convolution and `out` the result of the last, of the strides given; `parts` hold what the three
    /// read, those that are missing anything; `scratch` holds [`scratch_floats`](Self::scratch_floats), the task's part of `out` is
    /// not accessed elsewhere meanwhile, `task < tasks()`, and the machine has `isa`.
    pub unsafe fn run_task(&self, isa: Isa, task: usize, x: *const f32, parts: &[Part; 3], out: *mut f32, scratch: *mut f32) {
        let c = &self.middle;
        let (count, [oh, ow], width) = (self.parts(), [c.out_dims[1], c.out_dims[2]], c.in_dims[2]);
        let (image, part) = (task / count, task % count);
        let all = oh * part / count..oh * (part + 1) / count;
        let tall = self.tall();
        let ([operand_pitch, result_pitch], [operand_floats, result_floats]) = (self.pitches(), self.floats(tall));
        let (line, operand) = (width * operand_pitch, scratch);
        // Rows of the depthwise operand that the scratch holds.
        let mut held = 0..0;
        for first in all.clone().step_by(tall) {
            let rows = first..all.end.min(first + tall);
            // SAFETY: rows and images are inside of what the caller vouches for, and the scratch holds those of a strip.
            unsafe {
                let result = scratch.add(operand_floats);
                let digits = result.add(result_floats);
                let mut from = x.wrapping_add(image * c.x_strides[0]);
                let mut middle = *c;
                if let Some(b) = &self.before {
                    let needed = self.operand_rows(&rows);
                    let kept = needed.start.max(held.start)..needed.end.min(held.end);
                    let mut next = needed.start;
                    if !kept.is_empty() && kept.start == needed.start {
                        core::ptr::copy(operand.add((kept.start - held.start) * line), operand, kept.len() * line);
                        next = kept.end;
                    }
                    let source = x.add(image * b.x_strides[0] + next * b.x_strides[3]);
                    let to = operand.add((next - needed.start) * line);
                    let place = (image * b.pixels() + next * width, (needed.end - next) * width);
                    product(isa, b, source, &parts[0], (to, operand_pitch), place, digits);
                    from = operand.wrapping_sub(needed.start * line);
                    (middle.x_strides, held) = ([0, 1, 0, line, operand_pitch], needed);
                }
                let pixel = rows.start * ow;
                let to = match self.behind {
                    Some(_) => {
                        middle.out_pitch = result_pitch;
                        result
                    }
                    None => out.add(image * c.out_batch + pixel * c.out_pitch),
                };
                let Part { weights, bias, finish, epilogue } = parts[1];
                Depthwise(middle).run_rows(isa, (image, 0, rows.clone()), from, weights.floats, bias, to, finish, epilogue);
                if let Some(b) = &self.behind {
                    let tight = Conv { x_strides: [0, 1, 0, ow * result_pitch, result_pitch], ..*b };
                    let to = out.add(image * b.out_batch + pixel * b.out_pitch);
                    let place = (image * b.pixels() + pixel, rows.len() * ow);
                    product(isa, &tight, result, &parts[2], (to, b.out_pitch), place, digits);
                }
            }
        }
    }
}

/// Some pixels of a convolution with a window of one element: how many, and the first one's place among all.
///
/// # Safety
/// `x` addresses as many pixels, `out` as many of the result, `part` what the convolution reads, `scratch` room for their digits, and the
/// machine has `isa`.
unsafe fn product(
    isa: Isa,
    c: &Conv,
    x: *const f32,
    part: &Part,
    (out, pitch): (*mut f32, usize),
    (row, rows): (usize, usize),
    scratch: *mut f32,
) {
    let &Part { weights, bias, finish, epilogue } = part;
    let (taps, tap) = ([1; 3], [0; 3]);
    let tile = Tile { a: x, a_row: c.x_strides[4], taps, tap, run: c.c, b: weights.floats, panel: 0, out, pitch, cols: 0, bias, finish };
    // SAFETY: passed on from the caller.
    unsafe { sweep(isa, &Sweep { rows, cols: c.k, k: c.c, row, epilogue, digits: weights.digits, scratch, ..Sweep::of(tile) }) }
}

#[cfg(test)]
mod tests;
