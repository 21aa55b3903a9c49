//! Max and average pooling of channels-last f32 tensors, and max pooling of bytes, by output rows.

use crate::isa::Isa;
use crate::kernel_fn;

/// What a window is reduced to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The largest element; NaN where the window has one.
    Max,
    /// The mean of the elements inside of the input.
    Mean,
    /// The mean with the padding counted as zeros (windows that `ceil_mode` lets pass the padding count up to its end).
    MeanPadded,
}

/// A pooling over depth, height and width; extents of 1 where the model has fewer axes. Channels are neighbours.
#[derive(Clone, Copy, Debug)]
pub struct Pool {
    /// What a window is reduced to.
    pub kind: Kind,
    /// Images.
    pub n: usize,
    /// Channels.
    pub c: usize,
    /// Input depth, height, width.
    pub in_dims: [usize; 3],
    /// Window extents.
    pub kernel: [usize; 3],
    /// Steps between windows.
    pub stride: [usize; 3],
    /// Padding before the first element.
    pub pad: [usize; 3],
    /// Padding after the last element: only [`Kind::MeanPadded`] reads it.
    pub pad_end: [usize; 3],
    /// Steps inside a window.
    pub dilation: [usize; 3],
    /// Output depth, height, width.
    pub out_dims: [usize; 3],
    /// Floats between neighbours of the input along image, depth, height, width.
    pub x_strides: [usize; 4],
    /// Floats between neighbouring output pixels.
    pub out_pitch: usize,
    /// Floats between images of the output.
    pub out_batch: usize,
}

/// The window elements along one axis whose place `at * stride + i * dilation` is in `pad..pad + len`.
#[inline(always)]
fn inside(at: usize, kernel: usize, stride: usize, dilation: usize, pad: usize, len: usize) -> core::ops::Range<usize> {
    let start = at * stride;
    let first = pad.saturating_sub(start).div_ceil(dilation).min(kernel);
    let last = (len + pad).saturating_sub(start).div_ceil(dilation).min(kernel);
    first..last.max(first)
}

impl Pool {
    fn inside(&self, axis: usize, at: usize) -> core::ops::Range<usize> {
        inside(at, self.kernel[axis], self.stride[axis], self.dilation[axis], self.pad[axis], self.in_dims[axis])
    }
    /// Window elements along an axis that the padded mean counts.
    fn counted(&self, axis: usize, at: usize) -> usize {
        let len = self.pad[axis] + self.in_dims[axis] + self.pad_end[axis];
        inside(at, self.kernel[axis], self.stride[axis], self.dilation[axis], 0, len).len()
    }
    /// Number of independent tasks: output rows.
    pub const fn tasks(&self) -> usize {
        if self.c * self.out_dims[2] == 0 { 0 } else { self.n * self.out_dims[0] * self.out_dims[1] }
    }
    /// Runs one task: one output row.
    ///
    /// # Safety
    /// `x` and `out` address tensors of the strides given, that row of `out` is not accessed elsewhere meanwhile,
    /// `task < tasks()`, and the machine has `isa`.
    pub unsafe fn run_task(&self, isa: Isa, task: usize, x: *const f32, out: *mut f32) {
        let max = self.kind == Kind::Max;
        self.walk(task, |from, to, extents, steps, count| {
            // SAFETY: the window elements are inside of the input; image and pixel are inside of the output.
            unsafe { window(isa, x.add(from), out.add(to), self.c, max, extents, steps, if max { 1.0 } else { count as f32 }) }
        });
    }
    /// Runs one task of a max pool of u8, whose strides count bytes.
    ///
    /// # Safety
    /// As [`Self::run_task`].
    pub unsafe fn run_bytes(&self, isa: Isa, task: usize, x: *const u8, out: *mut u8) {
        self.walk(task, |from, to, extents, steps, _| {
            // SAFETY: as in `run_task`.
            unsafe { window_of_bytes(isa, x.add(from), out.add(to), self.c, extents, steps) }
        });
    }
    /// Calls `f` with each window of an output row: where its first element and its output pixel lie, its extents, its steps and how
    /// many elements count.
    #[inline(always)]
    fn walk(&self, task: usize, f: impl Fn(usize, usize, [usize; 3], [usize; 3], usize)) {
        let [od, oh, ow] = self.out_dims;
        let (h, d, image) = (task % oh, task / oh % od, task / oh / od);
        let [x_n, x_d, x_h, x_w] = self.x_strides;
        let (kds, khs) = (self.inside(0, d), self.inside(1, h));
        for w in 0..ow {
            let kws = self.inside(2, w);
            let count = match self.kind {
                Kind::MeanPadded => self.counted(0, d) * self.counted(1, h) * self.counted(2, w),
                _ => kds.len() * khs.len() * kws.len(),
            };
            let at =
                |axis: usize, o: usize, first: usize| (o * self.stride[axis] + first * self.dilation[axis]).wrapping_sub(self.pad[axis]);
            let extents = [kds.len(), khs.len(), kws.len()];
            let steps = [self.dilation[0] * x_d, self.dilation[1] * x_h, self.dilation[2] * x_w];
            let from = match extents.contains(&0) {
                true => 0,
                false => image * x_n + at(0, d, kds.start) * x_d + at(1, h, khs.start) * x_h + at(2, w, kws.start) * x_w,
            };
            f(from, image * self.out_batch + ((d * oh + h) * ow + w) * self.out_pitch, extents, steps, count);
        }
    }
}

kernel_fn! {
    /// The greatest of one window of bytes for all channels; 0 of an empty one.
    fn window_of_bytes<A>(x: *const u8, out: *mut u8, c: usize, extents: [usize; 3], steps: [usize; 3]) {
        let mut from = 0;
        while from < c {
            if from + 64 <= c {
                greatest::<64>(x.add(from), out.add(from), extents, steps);
                from += 64;
            } else if from + 16 <= c {
                greatest::<16>(x.add(from), out.add(from), extents, steps);
                from += 16;
            } else {
                greatest::<1>(x.add(from), out.add(from), extents, steps);
                from += 1;
            }
        }
    }
}

#[inline(always)]
unsafe fn greatest<const N: usize>(x: *const u8, out: *mut u8, extents: [usize; 3], steps: [usize; 3]) {
    let mut acc = [0u8; N];
    for d in 0..extents[0] {
        for h in 0..extents[1] {
            for w in 0..extents[2] {
                // SAFETY: the caller vouches for `N` channels of every window element.
                let v = unsafe { x.add(d * steps[0] + h * steps[1] + w * steps[2]).cast::<[u8; N]>().read_unaligned() };
                for i in 0..N {
                    acc[i] = acc[i].max(v[i]);
                }
            }
        }
    }
    // SAFETY: the caller vouches for `N` channels of the output.
    unsafe { out.cast::<[u8; N]>().write_unaligned(acc) }
}

kernel_fn! {
    /// The reduction of one window for all channels.
    fn window<A>(x: *const f32, out: *mut f32, c: usize, max: bool, extents: [usize; 3], steps: [usize; 3], count: f32) {
        // Blocks of channels stay in registers over the window.
        let mut from = 0;
        while from < c {
            if from + 32 <= c {
                block::<32>(x.add(from), out.add(from), max, extents, steps, count);
                from += 32;
            } else if from + 8 <= c {
                block::<8>(x.add(from), out.add(from), max, extents, steps, count);
                from += 8;
            } else {
                block::<1>(x.add(from), out.add(from), max, extents, steps, count);
                from += 1;
            }
        }
    }
}

#[inline(always)]
unsafe fn block<const N: usize>(x: *const f32, out: *mut f32, max: bool, extents: [usize; 3], steps: [usize; 3], count: f32) {
    // SAFETY: the caller vouches for `N` channels of every window element and of the output.
    unsafe {
        let mut acc = [if max { f32::NEG_INFINITY } else { 0.0 }; N];
        for d in 0..extents[0] {
            for h in 0..extents[1] {
                for w in 0..extents[2] {
                    let v = x.add(d * steps[0] + h * steps[1] + w * steps[2]).cast::<[f32; N]>().read_unaligned();
                    if max {
                        for i in 0..N {
                            // NaN on either side stays: no comparison with it is true.
                            acc[i] = if acc[i] >= v[i] || acc[i].is_nan() { acc[i] } else { v[i] };
                        }
                    } else {
                        for i in 0..N {
                            acc[i] += v[i];
                        }
                    }
                }
            }
        }
        if !max {
            for v in &mut acc {
                *v /= count;
            }
        }
        out.cast::<[f32; N]>().write_unaligned(acc);
    }
}

/// Pixels that one partial sum of a global mean takes: the order of the sums does not depend on threads.
const RUN: usize = 64;

kernel_fn! {
    /// The mean over `pixels` pixels of `pitch` floats for channels `0..c` of one image: `out[c]`. Channel ranges are
    /// independent tasks. Partial sums over runs of pixels keep the error of long sums small.
    ///
    /// # Safety
    /// `x` addresses the pixels, `out` holds `c` floats, and the machine has `isa`.
    pub fn global_mean<A>(x: *const f32, pitch: usize, pixels: usize, c: usize, out: *mut f32) {
        let mut from = 0;
        while from < c {
            if from + 32 <= c {
                mean_block::<32>(x.add(from), pitch, pixels, out.add(from));
                from += 32;
            } else if from + 8 <= c {
                mean_block::<8>(x.add(from), pitch, pixels, out.add(from));
                from += 8;
            } else {
                mean_block::<1>(x.add(from), pitch, pixels, out.add(from));
                from += 1;
            }
        }
    }
}

#[inline(always)]
unsafe fn mean_block<const N: usize>(x: *const f32, pitch: usize, pixels: usize, out: *mut f32) {
    // SAFETY: the caller vouches for `N` channels of every pixel and of the output.
    unsafe {
        let mut total = [0f32; N];
        let mut p = 0;
        while p < pixels {
            let mut sum = [0f32; N];
            let end = pixels.min(p + RUN);
            while p < end {
                let v = x.add(p * pitch).cast::<[f32; N]>().read_unaligned();
                for i in 0..N {
                    sum[i] += v[i];
                }
                p += 1;
            }
            for i in 0..N {
                total[i] += sum[i];
            }
        }
        for v in &mut total {
            *v /= pixels as f32;
        }
        out.cast::<[f32; N]>().write_unaligned(total);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::testing::{Rng, assert_close};

    fn reference(p: &Pool, x: &[f32], out: &mut [f32]) {
        let [od, oh, ow] = p.out_dims;
        for n in 0..p.n {
            for pixel in 0..od * oh * ow {
                let at = [pixel / (oh * ow), pixel / ow % oh, pixel % ow];
                for c in 0..p.c {
                    let (mut max, mut sum, mut count) = (f32::NEG_INFINITY, 0f64, 0);
                    for t in 0..p.kernel.iter().product::<usize>() {
                        let t = [t / (p.kernel[1] * p.kernel[2]), t / p.kernel[2] % p.kernel[1], t % p.kernel[2]];
                        let place = |a: usize| (at[a] * p.stride[a] + t[a] * p.dilation[a]) as isize - p.pad[a] as isize;
                        let valid = (0..3).all(|a| place(a) >= 0 && place(a) < p.in_dims[a] as isize);
                        let padded = (0..3).all(|a| place(a) < (p.in_dims[a] + p.pad_end[a]) as isize);
                        if valid {
                            let i = n * p.x_strides[0] + (0..3).map(|a| place(a) as usize * p.x_strides[1 + a]).sum::<usize>() + c;
                            max = if x[i].is_nan() || max.is_nan() { f32::NAN } else { max.max(x[i]) };
                            sum += x[i] as f64;
                        }
                        count += (if p.kind == Kind::MeanPadded { padded } else { valid }) as usize;
                    }
                    out[n * p.out_batch + pixel * p.out_pitch + c] = if p.kind == Kind::Max { max } else { (sum / count as f64) as f32 };
                }
            }
        }
    }

    #[test]
    fn pools_equal_the_reference() {
        let mut rng = Rng(3);
        for round in 0..120 {
            let c = rng.pick(&[1, 3, 8, 19, 40, 64]);
            let mut p = Pool {
                kind: rng.pick(&[Kind::Max, Kind::Mean, Kind::MeanPadded]),
                n: rng.int(1, 2),
                c,
                in_dims: [1; 3],
                kernel: [1; 3],
                stride: [1; 3],
                pad: [0; 3],
                pad_end: [0; 3],
                dilation: [1; 3],
                out_dims: [1; 3],
                x_strides: [0; 4],
                out_pitch: c + rng.pick(&[0, 5]),
                out_batch: 0,
            };
            for a in (if round % 4 == 0 { 0 } else { 1 })..3 {
                p.in_dims[a] = rng.int(3, 9);
                p.kernel[a] = rng.int(1, 3);
                p.stride[a] = rng.int(1, 3);
                p.dilation[a] = rng.pick(&[1, 1, 2]);
                p.pad[a] = rng.int(0, p.kernel[a] - 1);
                p.pad_end[a] = rng.int(0, p.kernel[a] - 1);
                let reach = (p.kernel[a] - 1) * p.dilation[a] + 1;
                let room = (p.in_dims[a] + p.pad[a] + p.pad_end[a]).saturating_sub(reach);
                p.out_dims[a] = if rng.int(0, 1) == 0 { room / p.stride[a] } else { room.div_ceil(p.stride[a]) } + 1;
                // A last window that starts in the padding is dropped, as ONNX has it.
                if (p.out_dims[a] - 1) * p.stride[a] >= p.in_dims[a] + p.pad[a] {
                    p.out_dims[a] -= 1;
                }
            }
            let [d, h, w] = p.in_dims;
            p.x_strides = [d * h * w * c, h * w * c, w * c, c];
            p.out_batch = p.out_dims.iter().product::<usize>() * p.out_pitch;
            let mut x = rng.floats(p.n * p.x_strides[0] + 1);
            if round % 5 == 0 {
                let i = rng.int(1, x.len() - 1);
                x[i] = f32::NAN;
            }
            let mut want = vec![7.0; p.n * p.out_batch];
            reference(&p, &x[1..], &mut want);
            for isa in Isa::available() {
                let mut got = vec![7.0; want.len()];
                for task in 0..p.tasks() {
                    // SAFETY: the arrays have the sizes that the kernel asks for.
                    unsafe { p.run_task(isa, task, x[1..].as_ptr(), got.as_mut_ptr()) };
                }
                assert_close(&got, &want, 1e-5, &format!("{} {p:?}", isa.name()));
            }
            // Bytes are numbers too, of which the greatest is one; an empty window of them gives 0.
            let bytes: Vec<u8> = (0..x.len()).map(|_| rng.next() as u8).collect();
            let numbers: Vec<f32> = bytes.iter().map(|b| f32::from(*b)).collect();
            let p = Pool { kind: Kind::Max, ..p };
            reference(&p, &numbers[1..], &mut want);
            for isa in Isa::available() {
                let mut got = vec![7u8; want.len()];
                for task in 0..p.tasks() {
                    // SAFETY: the arrays have the sizes that the kernel asks for.
                    unsafe { p.run_bytes(isa, task, bytes[1..].as_ptr(), got.as_mut_ptr()) };
                }
                assert!(got.iter().zip(&want).all(|(g, w)| f32::from(*g) == w.max(0.0)), "{} {p:?}", isa.name());
            }
        }
    }

    #[test]
    fn global_means() {
        let mut rng = Rng(4);
        for (pixels, c) in [(1, 1), (49, 70), (1000, 33)] {
            let x = rng.floats(pixels * (c + 2));
            let want: Vec<f32> =
                (0..c).map(|j| ((0..pixels).map(|p| x[p * (c + 2) + j] as f64).sum::<f64>() / pixels as f64) as f32).collect();
            for isa in Isa::available() {
                let mut got = vec![0.0; c];
                // SAFETY: the arrays have the sizes that the kernel asks for.
                unsafe { global_mean(isa, x.as_ptr(), c + 2, pixels, c, got.as_mut_ptr()) };
                assert_close(&got, &want, 1e-6, isa.name());
            }
        }
    }
}
