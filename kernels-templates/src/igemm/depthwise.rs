//! Depthwise convolutions of bytes over channels-last tensors: vectors of channels, the window's products added up in i32.

use super::IntConv;
use crate::gemm::{Block, Epilogue};
use crate::isa::Isa;
use crate::kernel_fn;

/// Multiply-adds that make a task worth handing to a thread.
const TASK_WORK: usize = 1 << 18;
/// Channels whose sums stay in registers over a window.
const LANES: usize = 32;

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
    /// Words of scratch that a thread needs.
    pub const fn scratch_floats(&self) -> usize {
        // One pixel's sums, and a row of zero points.
        2 * self.pitch()
    }
    /// Bytes of the packed weights.
    pub const fn packed_len(&self) -> usize {
        self.0.taps() * self.pitch() * 2
    }
    /// Packs ONNX weights `[k][1][depth][height][width]` to `[window][k padded to whole vectors]`, each in 16 bits.
    pub fn pack_weights(&self, weights: &[u8], out: &mut [u8]) {
        let (taps, k, pitch) = (self.0.taps(), self.0.k, self.pitch());
        assert_eq!(weights.len(), k * taps, "weights fill their shape; this is a bug");
        for (i, x) in out[..self.packed_len()].chunks_exact_mut(2).enumerate() {
            let (tap, channel) = (i / pitch, i % pitch);
            let w = if channel < k { i16::from(weights[channel * taps + tap] as i8) } else { 0 };
            x.copy_from_slice(&w.to_le_bytes());
        }
    }
    /// Runs one task; the epilogue's blocks are pixels, with rows and columns as [`IntConv::run_task`] has them.
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
        let g = &self.0;
        let (tall, [_, oh, ow]) = (self.tall(), g.out_dims);
        let down = g.pixels().div_ceil(tall);
        let (image, first) = (task / down, task % down * tall);
        let [x_n, _, x_d, x_h, x_w] = g.x_strides;
        // SAFETY: image and pixels are inside of what the caller vouches for; window elements outside of the input are read from
        // a row of zero points.
        unsafe {
            let sums = scratch.cast::<i32>();
            let zeros = scratch.add(self.pitch()).cast::<u8>();
            core::ptr::write_bytes(zeros, zero, self.pitch());
            let x = x.add(image * x_n);
            for pixel in first..g.pixels().min(first + tall) {
                let at = [pixel / (oh * ow), pixel / ow % oh, pixel % ow];
                let begin = [0, 1, 2].map(|a| (at[a] * g.stride[a]) as isize - g.pad[a] as isize);
                let to = if out.is_null() { sums } else { out.add(image * g.out_batch + pixel * g.out_pitch) };
                let steps = [x_d, x_h, x_w];
                window(isa, x, zeros, begin, g.in_dims, g.kernel, g.dilation, steps, zero, weights.cast(), self.pitch(), g.k, to);
                if let Some(f) = epilogue {
                    let pitch = if out.is_null() { self.pitch() } else { g.out_pitch };
                    f(Block { out: to.cast(), pitch, row: image * g.pixels() + pixel, rows: 1, col: 0, cols: g.k });
                }
            }
        }
    }
}

kernel_fn! {
    /// The sums of one window, whose first element lies at `begin`, for all `k` channels.
    ///
    /// # Safety
    /// `x` addresses an image, `zeros` a row of its zero points, `weights` packed ones, `out` holds a sum a channel, and the machine
    /// has `isa`.
    fn window<A>(
        x: *const u8, zeros: *const u8, begin: [isize; 3], dims: [usize; 3], kernel: [usize; 3], dilation: [usize; 3], steps: [usize; 3],
        zero: u8, weights: *const i16, pitch: usize, k: usize, out: *mut i32,
    ) {
        let mut from = 0;
        while from < k {
            let lanes = (k - from).min(LANES);
            let mut acc = [0i32; LANES];
            let mut tap = 0;
            for p in 0..kernel[0] {
                for q in 0..kernel[1] {
                    for r in 0..kernel[2] {
                        let i = [p, q, r];
                        let mut at = 0isize;
                        let mut inside = true;
                        for a in 0..3 {
                            let place = begin[a] + (i[a] * dilation[a]) as isize;
                            inside &= place >= 0 && place < dims[a] as isize;
                            at += place * steps[a] as isize;
                        }
                        let row = if inside { x.offset(at) } else { zeros };
                        let w = weights.add(tap * pitch + from).cast::<[i16; LANES]>().read_unaligned();
                        tap += 1;
                        let mut line = [0u8; LANES];
                        if lanes == LANES {
                            line = row.add(from).cast::<[u8; LANES]>().read_unaligned();
                        } else {
                            core::ptr::copy_nonoverlapping(row.add(from), line.as_mut_ptr(), lanes);
                        }
                        for j in 0..LANES {
                            // At most 255 times 128: a product fits 16 bits.
                            acc[j] += i32::from((i16::from(line[j]) - i16::from(zero)).wrapping_mul(w[j]));
                        }
                    }
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
