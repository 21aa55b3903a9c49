//! Depthwise convolutions of bytes over channels-last tensors: vectors of channels, the window's products added up in i32.

use super::IntConv;
use crate::gemm::{Block, Epilogue};
use crate::isa::Isa;
use crate::kernel_fn;

/// Multiply-adds that make a task worth handing to a thread.
const TASK_WORK: usize = 1 << 18;
/// Channels whose sums stay in registers over a window.
const LANES: usize = 32;
/// Pixels whose sums are handed to an epilogue together.
const PIXELS: usize = 16;

/// A convolution that convolves each of its `c == k` channels alone.
#[derive(Clone, Copy, Debug)]
pub struct IntDepthwise(pub IntConv);

impl IntDepthwise {
    /// Pixels of one task.
    const fn tall(&self) -> usize {
        let work = self.0.k * self.0.taps();
        let tall = TASK_WORK / if work == 0 { 1 } else { work };
        if tall == 0 { 1 } else { tall }
    }
    /// Channels in memory: whole vectors.
    const fn pitch(&self) -> usize {
        self.0.k.next_multiple_of(LANES)
    }
    /// Number of independent tasks.
    pub const fn tasks(&self) -> usize {
        if self.0.k == 0 { 0 } else { self.0.n * self.0.pixels().div_ceil(self.tall()) }
    }
    /// Words of scratch that a thread needs: initial sums, a row of zero points, the sums of a few pixels, the addresses of a window.
    pub const fn scratch_floats(&self) -> usize {
        (2 + PIXELS) * self.pitch() + self.0.taps() * size_of::<*const u8>() / 4
    }
    /// Bytes of the packed weights: 16 bits each, and the sums of the channels.
    pub const fn packed_len(&self) -> usize {
        self.sums_at() + self.pitch() * 4
    }
    const fn sums_at(&self) -> usize {
        self.0.taps() * self.pitch() * 2
    }
    /// Packs ONNX weights `[k][1][depth][height][width]` to `[window][k padded to whole vectors]`, each in 16 bits, and their sums.
    pub fn pack_weights(&self, weights: &[u8], out: &mut [u8]) {
        let (taps, k, pitch) = (self.0.taps(), self.0.k, self.pitch());
        assert_eq!(weights.len(), k * taps, "weights fill their shape; this is a bug");
        assert_eq!(out.len(), self.packed_len(), "packed weights fill their buffer; this is a bug");
        let at = |tap: usize, channel: usize| if channel < k { i16::from(weights[channel * taps + tap] as i8) } else { 0 };
        let (each, sums) = out.split_at_mut(self.sums_at());
        for (i, x) in each.chunks_exact_mut(2).enumerate() {
            x.copy_from_slice(&at(i / pitch, i % pitch).to_le_bytes());
        }
        for (channel, x) in sums.chunks_exact_mut(4).enumerate() {
            let sum: i32 = (0..taps).map(|tap| i32::from(at(tap, channel))).sum();
            x.copy_from_slice(&sum.to_le_bytes());
        }
    }
    /// Runs one task; the epilogue's blocks are a few pixels, with rows and columns as [`IntConv::run_task`] has them.
    ///
    /// # Safety
    /// As [`IntConv::run_task`].
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
        let (g, pitch) = (&self.0, self.pitch());
        let tall = self.tall();
        let down = g.pixels().div_ceil(tall);
        let (image, first) = (task / down, task % down * tall);
        let last = g.pixels().min(first + tall);
        // SAFETY: image and pixels are inside of what the caller vouches for, and scratch has room for all that is written there.
        unsafe {
            let start = scratch.cast::<i32>();
            let totals = weights.add(self.sums_at()).cast::<i32>();
            for j in 0..pitch {
                start.add(j).write(totals.add(j).read_unaligned().wrapping_mul(-i32::from(zero)));
            }
            let zeros = scratch.add(pitch).cast::<u8>();
            core::ptr::write_bytes(zeros, zero, pitch);
            let sums = scratch.add(2 * pitch).cast::<i32>();
            let window = scratch.add((2 + PIXELS) * pitch).cast::<*const u8>();
            let x = x.add(image * g.x_strides[0]);
            let mut from = first;
            while from < last {
                let rows = (last - from).min(PIXELS);
                let (to, step) = match out.is_null() {
                    true => (sums, pitch),
                    false => (out.add(image * g.out_batch + from * g.out_pitch), g.out_pitch),
                };
                for i in 0..rows {
                    self.window(x, zeros, from + i, window);
                    pixel(isa, window, g.taps(), start, weights.cast(), pitch, g.k, to.add(i * step));
                }
                if let Some(f) = epilogue {
                    f(Block { out: to.cast(), pitch: step, row: image * g.pixels() + from, rows, col: 0, cols: g.k });
                }
                from += rows;
            }
        }
    }
    /// Writes the addresses of the elements of an output pixel's window; those outside of the input are in a row of zero points.
    ///
    /// # Safety
    /// `x` addresses an image, and `out` has room for all elements.
    unsafe fn window(&self, x: *const u8, zeros: *const u8, pixel: usize, out: *mut *const u8) {
        let g = &self.0;
        let [_, oh, ow] = g.out_dims;
        let [_, _, x_d, x_h, x_w] = g.x_strides;
        let begin = |axis: usize, at: usize, i: usize| (at * g.stride[axis] + i * g.dilation[axis]).wrapping_sub(g.pad[axis]);
        let (d, h, w) = (pixel / (oh * ow), pixel / ow % oh, pixel % ow);
        let mut tap = 0;
        for p in 0..g.kernel[0] {
            let id = begin(0, d, p);
            for q in 0..g.kernel[1] {
                let ih = begin(1, h, q);
                let row = id < g.in_dims[0] && ih < g.in_dims[1];
                for r in 0..g.kernel[2] {
                    let iw = begin(2, w, r);
                    let at = if row && iw < g.in_dims[2] { x.wrapping_add(id * x_d + ih * x_h + iw * x_w) } else { zeros };
                    // SAFETY: the caller vouches for as many addresses.
                    unsafe { out.add(tap).write_unaligned(at) };
                    tap += 1;
                }
            }
        }
    }
}

kernel_fn! {
    /// The sums of one pixel for all `k` channels, from `start` on.
    ///
    /// # Safety
    /// `window` holds `taps` addresses of `k` bytes each, `start` and `weights` packed rows of `pitch`, `out` a sum a channel, and the
    /// machine has `isa`.
    fn pixel<A>(window: *const *const u8, taps: usize, start: *const i32, weights: *const i16, pitch: usize, k: usize, out: *mut i32) {
        let mut from = 0;
        while from < k {
            let mut acc = start.add(from).cast::<[i32; LANES]>().read_unaligned();
            let lanes = (k - from).min(LANES);
            for tap in 0..taps {
                let x = window.add(tap).read_unaligned().add(from);
                let w = weights.add(tap * pitch + from).cast::<[i16; LANES]>().read_unaligned();
                let line = if lanes == LANES { x.cast::<[u8; LANES]>().read_unaligned() } else { part(x, lanes) };
                for j in 0..LANES {
                    // 255 times -128 fits 16 bits.
                    acc[j] += i32::from((line[j] as i16).wrapping_mul(w[j]));
                }
            }
            if lanes == LANES {
                out.add(from).cast::<[i32; LANES]>().write_unaligned(acc);
            } else {
                core::ptr::copy_nonoverlapping(acc.as_ptr(), out.add(from), lanes);
            }
            from += LANES;
        }
    }
}

/// The first bytes of a vector.
///
/// # Safety
/// `x` addresses as many bytes, which are no more than a vector's.
#[inline(always)]
unsafe fn part(x: *const u8, lanes: usize) -> [u8; LANES] {
    let mut line = [0u8; LANES];
    // SAFETY: passed on from the caller.
    unsafe { core::ptr::copy_nonoverlapping(x, line.as_mut_ptr(), lanes) };
    line
}
