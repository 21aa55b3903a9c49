//! Norms of groups of channels that are neighbours in each pixel: statistics by channel, then blocks of pixels normalized for a tail.

use crate::gemm::{Block, Epilogue};
use crate::isa::{Isa, Portable};
use crate::simd::{Scalar, Simd};

/// Pixels that are summed before they are added to others, and that the tail gets at once: with the channels of a task they stay in
/// the first level of cache.
const BLOCK: usize = 64;
/// Sums of a channel that grow side by side, so that they hide the latency of an addition.
const SIDES: usize = 4;
/// The sum of a channel.
const SUM: u8 = 0;
/// The sum of the squares of its distances from a mean.
const SQUARES: u8 = 1;
/// Its elements normalized.
const NORMALIZE: u8 = 2;

/// Groups of channels of images to be normalized: `(x - mean) / sqrt(variance + epsilon) * scale + bias`, with the mean and the
/// variance of each group and a scale and a bias for each channel. The variance is that of the distances from the mean (two
/// passes). A channel is summed in the order of its pixels, by blocks, and a group in the order of its channels, so results do
/// not depend on how channels are cut into tasks.
#[derive(Clone, Copy, Debug)]
pub struct Pixels {
    /// Images.
    pub n: usize,
    /// Pixels of an image.
    pub pixels: usize,
    /// Groups of an image.
    pub groups: usize,
    /// Channels of a group.
    pub channels: usize,
    /// Floats from pixel to pixel of the input.
    pub x_pitch: usize,
    /// Floats from image to image of the input.
    pub x_batch: usize,
    /// Floats from pixel to pixel of the output.
    pub out_pitch: usize,
    /// Floats from image to image of the output.
    pub out_batch: usize,
    /// Added to the variance.
    pub epsilon: f32,
}

impl Pixels {
    /// Groups of a task: several vectors of channels, lest tails have short rows, but several tasks an image where it has the channels.
    const fn cut(&self) -> usize {
        let mut wide = self.n * self.groups * self.channels / 8;
        if wide > 64 {
            wide = 64;
        }
        if wide < 32 {
            wide = 32;
        }
        let channels = if self.channels == 0 { 1 } else { self.channels };
        let groups = wide.div_ceil(channels);
        if groups > self.groups { self.groups } else { groups }
    }
    /// Number of independent tasks.
    pub const fn tasks(&self) -> usize {
        if self.n * self.pixels * self.groups * self.channels == 0 { 0 } else { self.n * self.groups.div_ceil(self.cut()) }
    }
    /// Floats of scratch that a thread needs: the mean and the factor of each channel of a task.
    pub const fn scratch_floats(&self) -> usize {
        2 * self.cut() * self.channels
    }
    /// Runs one task. Rows of the epilogue's blocks are pixels, counted over all images, columns are channels.
    ///
    /// # Safety
    /// `x` and `out` address tensors of the strides given, not overlapping, `scale` and `bias` hold a float for each channel,
    /// `scratch` holds [`scratch_floats`](Self::scratch_floats), the task's part of `out` is not accessed elsewhere meanwhile,
    /// `task < tasks()`, and the machine has `isa`.
    pub unsafe fn run_task(
        &self,
        isa: Isa,
        task: usize,
        x: *const f32,
        scale: *const f32,
        bias: *const f32,
        out: *mut f32,
        scratch: *mut f32,
        epilogue: Epilogue,
    ) {
        let (cut, across) = (self.cut(), self.groups.div_ceil(self.cut()));
        let (image, group) = (task / across, task % across * cut);
        let (col, cols) = (group * self.channels, cut.min(self.groups - group) * self.channels);
        // SAFETY: the image and the channels are some of those that the caller vouches for.
        unsafe {
            let (x, out) = (x.add(image * self.x_batch + col), out.add(image * self.out_batch + col));
            let (means, factors) = (scratch, scratch.add(cols));
            let count = (self.pixels * self.channels) as f32;
            let whole = |from: *mut f32, of: &dyn Fn(f32) -> f32| {
                for first in (0..cols).step_by(self.channels) {
                    let channels = core::slice::from_raw_parts_mut(from.add(first), self.channels);
                    let value = of(channels.iter().sum::<f32>() / count);
                    channels.fill(value);
                }
            };
            let (pitch, pixels, bias, out_pitch) = (self.x_pitch, self.pixels, bias.add(col), self.out_pitch);
            let work = Work { x, pitch, pixels, means, factors, bias, out: means, out_pitch };
            work.run::<SUM>(isa, cols);
            whole(means, &|mean| mean);
            Work { out: factors, ..work }.run::<SQUARES>(isa, cols);
            whole(factors, &|variance| 1.0 / (variance + self.epsilon).sqrt());
            for c in 0..cols {
                *factors.add(c) *= *scale.add(col + c);
            }
            for p in (0..self.pixels).step_by(BLOCK) {
                let rows = BLOCK.min(self.pixels - p);
                let (x, out) = (x.add(p * pitch), out.add(p * out_pitch));
                Work { x, pixels: rows, out, ..work }.run::<NORMALIZE>(isa, cols);
                if let Some(f) = epilogue {
                    f(Block { out, pitch: self.out_pitch, row: image * self.pixels + p, rows, col, cols });
                }
            }
        }
    }
}

/// Channels of some pixels, and what is done to them.
#[derive(Clone, Copy)]
struct Work {
    x: *const f32,
    pitch: usize,
    pixels: usize,
    means: *const f32,
    factors: *const f32,
    bias: *const f32,
    /// A float for each channel; or pixels, `out_pitch` apart, where they are normalized.
    out: *mut f32,
    out_pitch: usize,
}

impl Work {
    /// Runs it for as many channels as a vector has, from channel `c` on.
    #[inline(always)]
    unsafe fn channels<S: Simd, const OP: u8>(&self, c: usize) {
        // SAFETY: the caller vouches for the channels of every pixel, and for the instruction set of `S`.
        unsafe {
            let (x, out) = (self.x.add(c), self.out.add(c));
            let minus = if OP == SUM { S::zero() } else { S::mul_add(S::load(self.means.add(c)), S::splat(-1.0), S::zero()) };
            if OP == NORMALIZE {
                let (factor, bias) = (S::load(self.factors.add(c)), S::load(self.bias.add(c)));
                for p in 0..self.pixels {
                    let d = S::add(S::load(x.add(p * self.pitch)), minus);
                    S::store(out.add(p * self.out_pitch), S::mul_add(d, factor, bias));
                }
                return;
            }
            let mut total = S::zero();
            for first in (0..self.pixels).step_by(BLOCK) {
                let end = (first + BLOCK).min(self.pixels);
                let mut sides = [S::zero(); SIDES];
                let mut add = |side: usize, p: usize| {
                    let v = S::load(x.add(p * self.pitch));
                    sides[side] = if OP == SUM {
                        S::add(sides[side], v)
                    } else {
                        let d = S::add(v, minus);
                        S::mul_add(d, d, sides[side])
                    };
                };
                let mut p = first;
                while p + SIDES <= end {
                    (0..SIDES).for_each(|i| add(i, p + i));
                    p += SIDES;
                }
                (p..end).for_each(|p| add(0, p));
                total = S::add(total, S::add(S::add(sides[0], sides[1]), S::add(sides[2], sides[3])));
            }
            S::store(out, total);
        }
    }
    /// Runs it for `cols` channels. Where vectors do not come out even, the last one begins earlier and finds some results again.
    #[inline(always)]
    unsafe fn all<S: Simd, const OP: u8>(&self, cols: usize) {
        // SAFETY: the caller vouches for the channels, and for the instruction set of `S`.
        unsafe {
            if cols < S::W {
                (0..cols).for_each(|c| self.channels::<Scalar<Portable>, OP>(c));
                return;
            }
            (0..cols).step_by(S::W).for_each(|c| self.channels::<S, OP>(c.min(cols - S::W)));
        }
    }
    /// Runs it for `cols` channels.
    ///
    /// # Safety
    /// The pointers address as many channels of as many pixels (means for all but sums, factors and biases for what is normalized),
    /// `out` overlaps none that are read still, and the machine has `isa`.
    unsafe fn run<const OP: u8>(&self, isa: Isa, cols: usize) {
        // SAFETY: passed on from the caller.
        unsafe {
            match isa {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 | Isa::Amx => avx512::<OP>(self, cols),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => avx2::<OP>(self, cols),
                _ => self.all::<crate::simd::Lanes, OP>(cols),
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2<const OP: u8>(w: &Work, cols: usize) {
    // SAFETY: passed on from the caller.
    unsafe { w.all::<crate::simd::Avx2, OP>(cols) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn avx512<const OP: u8>(w: &Work, cols: usize) {
    // SAFETY: passed on from the caller.
    unsafe { w.all::<crate::simd::Avx512, OP>(cols) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::testing::{Rng, assert_close};

    #[test]
    fn pixels_equal_the_reference() {
        let mut rng = Rng(9);
        for case in 0..60 {
            let (n, groups, channels) = (rng.int(0, 3), rng.pick(&[1, 2, 5, 32]), rng.pick(&[1, 2, 3, 10, 17]));
            let pixels = rng.pick(&[0, 1, 3, 64, 65, 300]);
            let c = groups * channels;
            let (x_pitch, out_pitch) = (c + rng.int(0, 3), c + rng.int(0, 3));
            let s = Pixels {
                n,
                pixels,
                groups,
                channels,
                x_pitch,
                x_batch: pixels * x_pitch + rng.int(0, 5),
                out_pitch,
                out_batch: pixels * out_pitch + rng.int(0, 5),
                epsilon: 1e-3,
            };
            let offset = rng.pick(&[0.0, 10.0]);
            let mut x: Vec<f32> = rng.floats(n * s.x_batch + 1).iter().map(|v| v + offset).collect();
            if case % 5 == 4 && x.len() > 7 {
                x[7] = f32::NAN;
            }
            let (scale, bias) = (rng.floats(c), rng.floats(c));
            let mut want = vec![9.0; n * s.out_batch];
            for i in 0..n {
                for g in 0..groups {
                    let at = |p: usize, k: usize| f64::from(x[1 + i * s.x_batch + p * x_pitch + g * channels + k]);
                    let all = || (0..pixels).flat_map(|p| (0..channels).map(move |k| (p, k)));
                    let count = (pixels * channels) as f64;
                    let mean = all().map(|(p, k)| at(p, k)).sum::<f64>() / count;
                    let variance = all().map(|(p, k)| (at(p, k) - mean).powi(2)).sum::<f64>() / count;
                    for (p, k) in all() {
                        let c = g * channels + k;
                        let y = (at(p, k) - mean) / (variance + 1e-3).sqrt() * f64::from(scale[c]) + f64::from(bias[c]);
                        want[i * s.out_batch + p * out_pitch + c] = 2.0 * y as f32;
                    }
                }
            }
            for isa in Isa::available() {
                let mut got = vec![9.0; want.len()];
                let mut scratch = vec![0.0; s.scratch_floats()];
                let double = |b: Block| {
                    for r in 0..b.rows {
                        for c in 0..b.cols {
                            // SAFETY: inside of the block.
                            unsafe { *b.out.add(r * b.pitch + c) *= 2.0 };
                        }
                    }
                };
                for task in 0..s.tasks() {
                    let (x, out) = (x[1..].as_ptr(), got.as_mut_ptr());
                    // SAFETY: the arrays have the sizes that the kernel asks for.
                    unsafe { s.run_task(isa, task, x, scale.as_ptr(), bias.as_ptr(), out, scratch.as_mut_ptr(), Some(&double)) };
                }
                assert_close(&got, &want, 3e-4, &format!("{} {s:?}", isa.name()));
            }
        }
    }
}
