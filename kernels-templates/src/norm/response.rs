//! Local response normalization of pixels whose channels are neighbours.

use crate::isa::Isa;
use crate::kernel_fn;
use crate::support::math;

/// Channels that are normalized together.
const BLOCK: usize = 256;
/// Pixels of a task.
const TASK: usize = 64;

/// Each element divided by a power of a sum of squares over channels around it:
/// `x / (bias + scale * Σ x²)^beta` ([LRN](https://onnx.ai/onnx/operators/onnx__LRN.html), with `scale = alpha / size`).
#[derive(Clone, Copy, Debug)]
pub struct Response {
    /// Images.
    pub n: usize,
    /// Pixels of an image.
    pub pixels: usize,
    /// Channels.
    pub c: usize,
    /// Floats from pixel to pixel, and from image to image, of the input.
    pub x_steps: [usize; 2],
    /// The same of the output.
    pub out_steps: [usize; 2],
    /// Channels in a window, at most [`Response::WIDEST`]: `(size - 1) / 2` before the element.
    pub size: usize,
    /// The factor of sums.
    pub scale: f32,
    /// The exponent, not 0.
    pub beta: f32,
    /// Added to the scaled sum.
    pub bias: f32,
}

impl Response {
    /// The widest window.
    pub const WIDEST: usize = 64;

    /// Number of independent tasks.
    pub fn tasks(&self) -> usize {
        self.n * self.pixels.div_ceil(TASK)
    }
    /// Runs one task.
    ///
    /// # Safety
    /// `x` and `out` address such images, which do not overlap, `task < tasks()`, and the machine has `isa`.
    pub unsafe fn run_task(&self, isa: Isa, task: usize, x: *const f32, out: *mut f32) {
        let parts = self.pixels.div_ceil(TASK);
        let (image, first) = (task / parts, task % parts * TASK);
        for p in first..self.pixels.min(first + TASK) {
            // SAFETY: a pixel that the caller vouches for.
            unsafe {
                let x = x.add(image * self.x_steps[1] + p * self.x_steps[0]);
                respond(isa, *self, x, out.add(image * self.out_steps[1] + p * self.out_steps[0]));
            }
        }
    }
}

kernel_fn! {
    /// Normalizes one pixel.
    fn respond<A>(r: Response, x: *const f32, out: *mut f32) {
        let before = (r.size - 1) / 2;
        let mut squares = [0f32; BLOCK + Response::WIDEST];
        let mut first = 0;
        while first < r.c {
            let count = (r.c - first).min(BLOCK);
            // Square `i` is that of channel `first + i - before`; there is nothing beside the channels.
            let from = before.saturating_sub(first);
            let end = (count + r.size - 1).min(r.c + before - first);
            squares[..from].fill(0.0);
            squares[end..count + r.size - 1].fill(0.0);
            for (i, square) in (from..end).zip(&mut squares[from..end]) {
                let v = *x.add(first + i - before);
                *square = v * v;
            }
            let mut sums = [0f32; BLOCK];
            for k in 0..r.size {
                let window = &squares[k..k + count];
                sums.iter_mut().zip(window).for_each(|(sum, square)| *sum += square);
            }
            let (x, out) = (x.add(first), out.add(first));
            if r.beta == 0.75 {
                for (j, sum) in sums[..count].iter().enumerate() {
                    let root = A::mul_add(r.scale, *sum, r.bias).sqrt();
                    *out.add(j) = *x.add(j) / (root * root.sqrt());
                }
            } else {
                for (j, sum) in sums[..count].iter().enumerate() {
                    let power = math::exp::<A>(r.beta * math::ln::<A>(A::mul_add(r.scale, *sum, r.bias)));
                    *out.add(j) = *x.add(j) / power;
                }
            }
            first += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::testing::{Rng, assert_close};

    #[test]
    fn responses_are_those_of_the_plain_kernel() {
        let mut rng = Rng(8);
        for case in 0..120 {
            let (n, pixels, c) = (rng.int(0, 2), rng.pick(&[1, 7, 64, 70]), rng.pick(&[1, 3, 16, 63, 300, 513]));
            let size = rng.pick(&[1, 2, 3, 5, 8, 64]);
            let (beta, bias) = (rng.pick(&[0.75, 0.5, 1.0, -0.3]), rng.pick(&[1.0, 2.0]));
            let pitch = c + rng.int(0, 5);
            let mut x = rng.floats(n * pixels * pitch);
            if case % 5 == 0 && !x.is_empty() {
                let specials = [f32::NAN, f32::INFINITY, -0.0, 1e30];
                (0..x.len()).step_by(97).for_each(|i| x[i] = specials[i / 97 % 4]);
            }
            let r = Response {
                n,
                pixels,
                c,
                x_steps: [pitch, pixels * pitch],
                out_steps: [c, pixels * c],
                size,
                scale: 0.3 / size as f32,
                beta,
                bias,
            };
            let mut want = vec![0f32; n * pixels * c];
            for p in 0..n * pixels {
                for j in 0..c {
                    let window = j.saturating_sub((size - 1) / 2)..(j + size / 2 + 1).min(c);
                    let sum: f64 = window.map(|k| f64::from(x[p * pitch + k]).powi(2)).sum();
                    let power = (f64::from(bias) + f64::from(r.scale) * sum).powf(f64::from(beta));
                    want[p * c + j] = (f64::from(x[p * pitch + j]) / power) as f32;
                }
            }
            // Squares of numbers this large are infinite in f32.
            let finite = |p: &usize| x[p / c * pitch..][..c].iter().all(|v| v.is_nan() || v.abs() < 1e15);
            for isa in Isa::available() {
                let mut got = vec![9f32; n * pixels * c];
                // SAFETY: the arrays have the sizes that the kernel asks for.
                (0..r.tasks()).for_each(|task| unsafe { r.run_task(isa, task, x.as_ptr(), got.as_mut_ptr()) });
                let keep = |v: &[f32]| -> Vec<f32> { (0..v.len()).filter(finite).map(|i| v[i]).collect() };
                assert_close(&keep(&got), &keep(&want), 2e-6, &format!("{} {r:?}", isa.name()));
            }
        }
    }
}
