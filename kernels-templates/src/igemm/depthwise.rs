//! Depthwise convolutions of bytes over channels-last tensors: vectors of channels, the window's products added up in i32.

use super::IntConv;
#[cfg(target_arch = "x86_64")]
use super::quads;
use crate::gemm::{Block, Epilogue};
use crate::isa::Isa;
use crate::kernel_fn;

/// Multiply-adds that make a task worth handing to a thread.
const TASK_WORK: usize = 1 << 18;
/// Channels whose sums stay in registers over a window.
const LANES: usize = 32;
/// Pixels whose sums are handed to an epilogue together.
const PIXELS: usize = 16;
/// The same where weights are packed by fours.
const STRIP: usize = 32;
/// Rows of a window whose weights are packed by fours.
const ROWS: usize = 4;
/// Channels whose weights are packed together by fours.
const BLOCK: usize = 64;

/// A convolution that convolves each of its `c == k` channels alone.
#[derive(Clone, Copy, Debug)]
pub struct IntDepthwise {
    /// Its geometry.
    pub conv: IntConv,
    /// Whether weights may be any of -255 to 255: bytes less a zero point.
    pub wide: bool,
}

impl IntDepthwise {
    /// Pixels of one task.
    const fn tall(&self) -> usize {
        let work = self.conv.k * self.conv.taps();
        let tall = TASK_WORK / if work == 0 { 1 } else { work };
        if tall == 0 { 1 } else { tall }
    }
    /// Channels in memory: whole vectors.
    const fn pitch(&self) -> usize {
        self.conv.k.next_multiple_of(BLOCK)
    }
    /// Number of independent tasks.
    pub const fn tasks(&self) -> usize {
        if self.conv.k == 0 { 0 } else { self.conv.n * self.conv.pixels().div_ceil(self.tall()) }
    }
    /// Words of scratch that a thread needs: initial sums, a row of zero points, the sums of a few pixels, the addresses of a window.
    pub const fn scratch_floats(&self) -> usize {
        let (sums, strip) = (PIXELS * self.pitch(), STRIP * BLOCK);
        2 * self.pitch() + if sums > strip { sums } else { strip } + self.conv.taps() * size_of::<*const u8>() / 4
    }
    /// Whether weights are packed by fours as well: bytes, in windows of one depth and some widths.
    const fn by_fours(&self) -> bool {
        !self.wide && self.conv.kernel[0] == 1 && (self.conv.kernel[2] == 3 || self.conv.kernel[2] == 5)
    }
    /// Bytes of the weights by fours of a block of channels.
    const fn fours(&self) -> usize {
        self.conv.kernel[1].div_ceil(ROWS) * self.conv.kernel[2] * BLOCK * 4
    }
    /// Bytes of the packed weights: 16 bits each, the sums of the channels, and bytes by fours.
    pub const fn packed_len(&self) -> usize {
        self.fours_at() + if self.by_fours() { self.pitch() / BLOCK * self.fours() } else { 0 }
    }
    const fn fours_at(&self) -> usize {
        self.sums_at() + self.pitch() * 4
    }
    const fn sums_at(&self) -> usize {
        self.conv.taps() * self.pitch() * 2
    }
    /// Packs ONNX weights `[k][1][depth][height][width]` to `[window][k padded to whole vectors]`, each in 16 bits, their sums, and
    /// where they are read by fours `[k / 64][rows / 4][width][k % 64][4 rows]`, each in 8, channels in the order of unpacked bytes.
    pub fn pack_weights(&self, weights: &[i16], out: &mut [u8]) {
        let (taps, k, pitch) = (self.conv.taps(), self.conv.k, self.pitch());
        assert_eq!(weights.len(), k * taps, "weights fill their shape; this is a bug");
        assert_eq!(out.len(), self.packed_len(), "packed weights fill their buffer; this is a bug");
        let at = |tap: usize, channel: usize| if channel < k { weights[channel * taps + tap] } else { 0 };
        let (out, fours) = out.split_at_mut(self.fours_at());
        let (rows, width) = (self.conv.kernel[1], self.conv.kernel[2]);
        for (i, x) in fours.chunks_exact_mut(4).enumerate() {
            let (block, column) = (i * 4 / self.fours(), i * 4 % self.fours() / (BLOCK * 4));
            let (first, column) = (column / width * ROWS, column % width);
            let channel = block * BLOCK + channel_at(i % BLOCK);
            for (row, x) in x.iter_mut().enumerate() {
                *x = if first + row < rows { at((first + row) * width + column, channel) as u8 } else { 0 };
            }
        }
        let (each, sums) = out.split_at_mut(self.sums_at());
        for (i, x) in each.chunks_exact_mut(2).enumerate() {
            x.copy_from_slice(&at(i / pitch, i % pitch).to_le_bytes());
        }
        for (channel, x) in sums.chunks_exact_mut(4).enumerate() {
            let sum: i32 = (0..taps).map(|tap| i32::from(at(tap, channel))).sum();
            x.copy_from_slice(&sum.to_le_bytes());
        }
    }
    /// The image of a task, its first pixel and the one behind its last.
    const fn part(&self, task: usize) -> (usize, usize, usize) {
        let (pixels, tall) = (self.conv.pixels(), self.tall());
        let down = pixels.div_ceil(tall);
        let (image, first) = (task / down, task % down * tall);
        (image, first, if first + tall < pixels { first + tall } else { pixels })
    }
    /// Writes what sums of bytes less `from` begin at, of the channels in the order that is asked for, and a row of zero points; gives
    /// both, and where the sums go.
    ///
    /// # Safety
    /// `weights` are packed, and `scratch` is a thread's.
    unsafe fn begin(
        &self,
        (zero, from): (u8, i32),
        weights: *const u8,
        channel: &dyn Fn(usize) -> usize,
        scratch: *mut f32,
    ) -> (*mut i32, *mut u8, *mut i32) {
        let pitch = self.pitch();
        // SAFETY: the sums of all channels are there, and scratch has room for all parts.
        unsafe {
            let (start, zeros) = (scratch.cast::<i32>(), scratch.add(pitch).cast::<u8>());
            let totals = weights.add(self.sums_at()).cast::<i32>();
            for j in 0..pitch {
                start.add(j).write(totals.add(channel(j)).read_unaligned().wrapping_mul(from - i32::from(zero)));
            }
            core::ptr::write_bytes(zeros, zero, pitch);
            (start, zeros, scratch.add(2 * pitch).cast())
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
        let (g, pitch) = (&self.conv, self.pitch());
        #[cfg(target_arch = "x86_64")]
        if isa.adds_fours() && self.by_fours() && g.dilation[2] == 1 && quads::slides(g.kernel[2], g.stride[2]) {
            // SAFETY: passed on from the caller, on a machine that has what is asked for.
            return unsafe { self.run_fours(task, (x, zero), weights, out, scratch, epilogue) };
        }
        let (image, first, last) = self.part(task);
        // SAFETY: image and pixels are inside of what the caller vouches for, and scratch has room for all that is written there.
        unsafe {
            let (start, zeros, sums) = self.begin((zero, 128), weights, &|j| j, scratch);
            let window = scratch.add(self.scratch_floats() - g.taps() * size_of::<*const u8>() / 4).cast::<*const u8>();
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
    /// [`Self::run_task`] with AVX512-VNNI: a strip of a row after the other, block of channels by block.
    ///
    /// # Safety
    /// As [`Self::run_task`]; weights are packed by fours, windows slide, and the machine has AVX512-VNNI.
    #[cfg(target_arch = "x86_64")]
    unsafe fn run_fours(
        &self,
        task: usize,
        (x, zero): (*const u8, u8),
        weights: *const u8,
        out: *mut i32,
        scratch: *mut f32,
        epilogue: Epilogue,
    ) {
        let g = &self.conv;
        let [_, kh, kw] = g.kernel;
        let [_, oh, ow] = g.out_dims;
        let [_, _, x_d, x_h, x_w] = g.x_strides;
        let (image, first, last) = self.part(task);
        // SAFETY: image, pixels and channels are inside of what the caller vouches for, and scratch has room for all that is
        // written there.
        unsafe {
            let channel = |j: usize| j / BLOCK * BLOCK + channel_at(j % BLOCK);
            let (start, zeros, sums) = self.begin((zero, 0), weights, &channel, scratch);
            let x = x.add(image * g.x_strides[0]);
            for block in 0..self.pitch() / BLOCK {
                let channel = block * BLOCK;
                let channels = (g.k - channel).min(BLOCK);
                let mut from = first;
                while from < last {
                    let (d, h, w) = (from / (oh * ow), from / ow % oh, from % ow);
                    let pixels = (ow - w).min(last - from).min(STRIP);
                    let id = (d * g.stride[0]).wrapping_sub(g.pad[0]);
                    for group in 0..kh.div_ceil(ROWS) {
                        let row = |i: usize| {
                            let q = group * ROWS + i;
                            let ih = (h * g.stride[1] + q * g.dilation[1]).wrapping_sub(g.pad[1]);
                            match q < kh && id < g.in_dims[0] && ih < g.in_dims[1] {
                                true => (x.add(id * x_d + ih * x_h + channel), x_w),
                                false => (zeros.cast_const(), 0),
                            }
                        };
                        let rows: [_; ROWS] = core::array::from_fn(row);
                        let line = quads::Line {
                            rows: rows.map(|r| r.0),
                            steps: rows.map(|r| r.1),
                            wide: g.in_dims[2],
                            begin: (w * g.stride[2]) as isize - g.pad[2] as isize,
                            pixels,
                            channels,
                            zero,
                            weights: weights.add(self.fours_at() + block * self.fours() + group * kw * BLOCK * 4),
                            start: if group == 0 { start.add(channel) } else { core::ptr::null() },
                            out: sums,
                        };
                        quads::sums(kw, g.stride[2], &line);
                    }
                    let (mut to, mut step) = (sums, BLOCK);
                    if !out.is_null() {
                        (to, step) = (out.add(image * g.out_batch + from * g.out_pitch + channel), g.out_pitch);
                        for i in 0..pixels {
                            core::ptr::copy_nonoverlapping(sums.add(i * BLOCK), to.add(i * step), channels);
                        }
                    }
                    if let Some(f) = epilogue {
                        let row = image * g.pixels() + from;
                        f(Block { out: to.cast(), pitch: step, row, rows: pixels, col: channel, cols: channels });
                    }
                    from += pixels;
                }
            }
        }
    }
    /// Writes the addresses of the elements of an output pixel's window; those outside of the input are in a row of zero points.
    ///
    /// # Safety
    /// `x` addresses an image, and `out` has room for all elements.
    unsafe fn window(&self, x: *const u8, zeros: *const u8, pixel: usize, out: *mut *const u8) {
        let g = &self.conv;
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

/// The channel of a block whose word is at a place of a vector of weights by fours: those of four unpacked vectors of bytes.
const fn channel_at(place: usize) -> usize {
    place % 16 / 4 * 16 + place / 16 * 4 + place % 4
}

kernel_fn! {
    /// The sums of bytes less 128 of one pixel for all `k` channels, from `start` on.
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
                    // -128 times 255 and -255 fit 16 bits.
                    let x = i16::from((line[j] ^ 0x80) as i8);
                    acc[j] += i32::from(x.wrapping_mul(w[j]));
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
