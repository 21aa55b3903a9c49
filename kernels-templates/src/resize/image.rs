//! Images resized in f32 by bands of rows, their channels beside each other or each channel an image of its own.

use super::rule::{Axis, Rule};
use crate::isa::Isa;
use crate::kernel_fn;

/// Columns whose taps are computed together, for all rows of a band.
const COLUMNS: usize = 64;
/// Elements of a column of a band, near which its rows are chosen: so that its taps are a small part of the work.
const BAND: usize = 1024;

/// [Resize](https://onnx.ai/onnx/operators/onnx__Resize.html) of height and width, by a rule without `antialias` and other than
/// `tf_crop_and_resize`.
#[derive(Clone, Copy, Debug)]
pub struct Images<'a> {
    /// How positions are read.
    pub rule: Rule<'a>,
    /// Images.
    pub n: usize,
    /// Height and width of the input.
    pub from: [usize; 2],
    /// Height and width of the result.
    pub to: [usize; 2],
    /// Their factors.
    pub scales: [f32; 2],
    /// Channels, which are neighbours.
    pub c: usize,
    /// Floats from pixel to pixel, and from image to image, of the input.
    pub x_steps: [usize; 2],
    /// The same of the result.
    pub out_steps: [usize; 2],
}

/// The taps of one row or column; those of weight 0 are left out, so that an infinity there makes no NaN.
#[derive(Clone, Copy, Default)]
struct Taps {
    at: [usize; Rule::MOST],
    weights: [f32; Rule::MOST],
    count: usize,
}

impl Images<'_> {
    /// Rows of a band.
    fn band(&self) -> usize {
        (BAND / self.c.max(1)).clamp(2, 64)
    }
    /// Number of independent tasks: bands of rows.
    pub fn tasks(&self) -> usize {
        if self.c * self.to[1] == 0 { 0 } else { self.n * self.to[0].div_ceil(self.band()) }
    }
    /// Runs one task.
    ///
    /// # Safety
    /// `x` and `out` address such images, which do not overlap, no image of the input is empty unless those of the result are,
    /// `task < tasks()`, and the machine has `isa`.
    pub unsafe fn run_task(&self, isa: Isa, task: usize, x: *const f32, out: *mut f32) {
        let bands = self.to[0].div_ceil(self.band());
        let (image, first) = (task / bands, task % bands * self.band());
        let last = self.to[0].min(first + self.band());
        // SAFETY: the caller vouches for images of these extents.
        let (x, out) = unsafe { (x.add(image * self.x_steps[1]), out.add(image * self.out_steps[1])) };
        for column in (0..self.to[1]).step_by(COLUMNS) {
            let mut columns = [Taps::default(); COLUMNS];
            let count = COLUMNS.min(self.to[1] - column);
            (0..count).for_each(|j| columns[j] = self.taps(1, column + j, self.x_steps[0]));
            for row in first..last {
                let rows = self.taps(0, row, self.from[1] * self.x_steps[0]);
                // SAFETY: taps lie in the image, rows and columns in its result.
                unsafe {
                    let out = out.add((row * self.to[1] + column) * self.out_steps[0]);
                    match self.c {
                        1 => points(isa, &rows, &columns[..count], x, out, self.out_steps[0]),
                        c => pixels(isa, &rows, &columns[..count], x, out, self.out_steps[0], c),
                    }
                }
            }
        }
    }
    /// The taps of a position of an axis, whose neighbours lie `step` floats apart.
    fn taps(&self, axis: usize, i: usize, step: usize) -> Taps {
        let mut taps = Taps::default();
        let along = Axis { from: self.from[axis], to: self.to[axis], scale: f64::from(self.scales[axis]), region: (0.0, 1.0) };
        self.rule.taps(&along, i, |at, weight| {
            if weight != 0.0 && taps.count < Rule::MOST {
                (taps.at[taps.count], taps.weights[taps.count]) = (at * step, weight as f32);
                taps.count += 1;
            }
        });
        taps
    }
}

kernel_fn! {
    /// Columns of one row whose pixels are single floats.
    fn points<A>(rows: &Taps, columns: &[Taps], x: *const f32, out: *mut f32, pitch: usize) {
        for (j, column) in columns.iter().enumerate() {
            // The sum that leaves a zero its sign.
            let mut sum = -0.0;
            for r in 0..rows.count {
                for t in 0..column.count {
                    sum = A::mul_add(rows.weights[r] * column.weights[t], *x.add(rows.at[r] + column.at[t]), sum);
                }
            }
            *out.add(j * pitch) = sum;
        }
    }
}

kernel_fn! {
    /// Columns of one row whose pixels are `c` floats.
    fn pixels<A>(rows: &Taps, columns: &[Taps], x: *const f32, out: *mut f32, pitch: usize, c: usize) {
        for (j, column) in columns.iter().enumerate() {
            let mut from = [core::ptr::null(); Rule::MOST * Rule::MOST];
            let mut weights = [0.0; Rule::MOST * Rule::MOST];
            let mut count = 0;
            for r in 0..rows.count {
                for t in 0..column.count {
                    (from[count], weights[count]) = (x.add(rows.at[r] + column.at[t]), rows.weights[r] * column.weights[t]);
                    count += 1;
                }
            }
            let (from, weights, out) = (&from[..count], &weights[..count], out.add(j * pitch));
            let mut at = 0;
            while at < c {
                if at + 64 <= c {
                    block::<A, 64>(from, weights, at, out);
                    at += 64;
                } else if at + 16 <= c {
                    block::<A, 16>(from, weights, at, out);
                    at += 16;
                } else {
                    block::<A, 1>(from, weights, at, out);
                    at += 1;
                }
            }
        }
    }
}

/// `N` channels of a pixel, from channel `at` on.
///
/// # Safety
/// Pixels hold that many channels.
#[inline(always)]
unsafe fn block<A: crate::isa::Arith, const N: usize>(from: &[*const f32], weights: &[f32], at: usize, out: *mut f32) {
    let mut sum = [-0.0f32; N];
    for (from, weight) in from.iter().zip(weights) {
        // SAFETY: the caller vouches for the channels.
        let v = unsafe { from.add(at).cast::<[f32; N]>().read_unaligned() };
        for i in 0..N {
            sum[i] = A::mul_add(*weight, v[i], sum[i]);
        }
    }
    // SAFETY: as above.
    unsafe { out.add(at).cast::<[f32; N]>().write_unaligned(sum) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{In, Out};
    use crate::resize::resize;
    use crate::support::testing::{Rng, assert_close};

    #[test]
    fn images_are_those_of_the_plain_kernel() {
        let mut rng = Rng(5);
        for case in 0..240 {
            let (n, c) = (rng.int(0, 2), rng.pick(&[1, 2, 3, 16, 21, 64, 83]));
            let from = [rng.pick(&[1, 2, 7, 16]), rng.pick(&[1, 3, 5, 20])];
            let scales = [rng.pick(&[0.3, 0.5, 1.0, 1.7, 2.0, 4.0]), rng.pick(&[0.4, 1.0, 1.5, 2.0, 16.0])];
            let to = [0, 1].map(|i| (from[i] as f32 * scales[i]).floor() as usize);
            let coordinates = rng.pick(&["half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel", "half_pixel_symmetric"]);
            let nearest = rng.pick(&["round_prefer_floor", "floor", "ceil", "round_prefer_ceil"]);
            let mode = rng.pick(&["nearest", "linear", "cubic"]);
            let exclude = rng.int(0, 1) == 1;
            let rule = Rule { mode, antialias: false, coordinates, nearest, cubic: -0.75, exclude };
            let mut x = rng.floats(n * c * from[0] * from[1]);
            if case % 4 == 0 {
                x.iter_mut().for_each(|v| *v = rng.pick(&[-0.0, 1.0, f32::INFINITY, -2.0]));
            }
            // Channel by channel, as the plain kernel has them.
            let mut wanted = vec![0.0; n * c * to[0] * to[1]];
            resize(
                Out(&mut wanted),
                In(&x),
                &[n, c, from[0], from[1]],
                &[n, c, to[0], to[1]],
                &[1.0, 1.0, scales[0], scales[1]],
                &[],
                mode,
                coordinates,
                nearest,
                -0.75,
                0.0,
                exclude,
            )
            .unwrap();
            let [size, result] = [from[0] * from[1], to[0] * to[1]];
            let rows = Images { rule, n: n * c, from, to, scales, c: 1, x_steps: [1, size], out_steps: [1, result] };
            let pitch = c + rng.int(0, 3);
            let pixels = Images { rule, n, from, to, scales, c, x_steps: [pitch, size * pitch], out_steps: [pitch, result * pitch] };
            let mut last = vec![7.0; n * size * pitch];
            for (i, v) in x.iter().enumerate() {
                last[(i / size / c * size + i % size) * pitch + i / size % c] = *v;
            }
            for isa in Isa::available() {
                let mut found = vec![0.0; wanted.len()];
                // SAFETY: the images have the extents that `rows` says.
                (0..rows.tasks()).for_each(|t| unsafe { rows.run_task(isa, t, x.as_ptr(), found.as_mut_ptr()) });
                assert_close(&found, &wanted, 1e-5, &format!("{isa:?} {rows:?}"));
                let mut pixel = vec![7.0; n * result * pitch];
                // SAFETY: as above.
                (0..pixels.tasks()).for_each(|t| unsafe { pixels.run_task(isa, t, last.as_ptr(), pixel.as_mut_ptr()) });
                let picked: Vec<f32> =
                    (0..wanted.len()).map(|i| pixel[(i / result / c * result + i % result) * pitch + i / result % c]).collect();
                assert_close(&picked, &wanted, 1e-5, &format!("{isa:?} {pixels:?}"));
                let beside = pixel.iter().enumerate().filter(|(i, _)| i % pitch >= c);
                assert!(beside.into_iter().all(|(_, v)| *v == 7.0));
            }
        }
    }
}
