//! Depthwise convolutions over channels-last tensors: vectors of channels, several output pixels of a row at once.

mod columns;

use crate::conv::Conv;
use crate::gemm::{Block, Epilogue, Finish, PANEL, finish_some};
use crate::isa::Isa;
use crate::simd::{Scalar, Simd};

/// A convolution with `groups == c == k` whose input channels are neighbours (`x_strides[1] == 1`, or one channel).
#[derive(Clone, Copy, Debug)]
pub struct Depthwise(pub Conv);

/// Multiply-adds that make a task worth handing to a thread; there is one load for each.
const TASK_WORK: usize = 1 << 18;

impl Depthwise {
    /// Output rows of one task.
    const fn tall(&self) -> usize {
        let row = self.0.out_dims[2] * self.0.k * self.0.taps();
        let tall = TASK_WORK / if row == 0 { 1 } else { row };
        if tall == 0 {
            1
        } else if tall > self.0.out_dims[1] {
            self.0.out_dims[1]
        } else {
            tall
        }
    }
    /// Number of independent tasks.
    pub const fn tasks(&self) -> usize {
        let c = &self.0;
        if c.n * c.k * c.pixels() == 0 { 0 } else { c.n * c.out_dims[0] * c.out_dims[1].div_ceil(self.tall()) }
    }
    /// Floats of the packed weights.
    pub const fn packed_len(&self) -> usize {
        self.0.taps() * self.0.k.next_multiple_of(PANEL)
    }
    /// Packs ONNX weights `[k][1][depth][height][width]` to `[window][k padded to whole panels]`.
    pub fn pack_weights(&self, weights: &[f32], out: &mut [f32]) {
        let (taps, k) = (self.0.taps(), self.0.k);
        assert_eq!(weights.len(), k * taps, "weights fill their shape; this is a bug");
        assert_eq!(out.len(), self.packed_len(), "packed weights fill their buffer; this is a bug");
        let pitch = k.next_multiple_of(PANEL);
        for (i, x) in out.iter_mut().enumerate() {
            let (tap, channel) = (i / pitch, i % pitch);
            *x = if channel < k { weights[channel * taps + tap] } else { 0.0 };
        }
    }
    /// Runs one task; blocks of the epilogue are whole output rows, with rows and columns as [`Conv::run_task`] has them.
    ///
    /// # Safety
    /// `x` and `out` address tensors of the strides given, `weights` are packed, `bias` is null or holds `k` floats, the
    /// task's part of `out` is not accessed elsewhere meanwhile, `task < tasks()`, and the machine has `isa`.
    pub unsafe fn run_task(
        &self,
        isa: Isa,
        task: usize,
        x: *const f32,
        weights: *const f32,
        bias: *const f32,
        out: *mut f32,
        finish: Finish,
        epilogue: Epilogue,
    ) {
        let c = &self.0;
        let [od, oh, ow] = c.out_dims;
        let tall = self.tall();
        let down = oh.div_ceil(tall);
        let (block, outer) = (task % down, task / down);
        let (d, image) = (outer % od, outer / od);
        let rows = block * tall..oh.min((block + 1) * tall);
        let pixel = (d * oh + rows.start) * ow;
        // SAFETY: image and rows are inside of what the caller vouches for.
        unsafe {
            let out = out.add(image * c.out_batch + pixel * c.out_pitch);
            self.run_rows(isa, (image, d, rows), x.wrapping_add(image * c.x_strides[0]), weights, bias, out, finish, epilogue);
        }
    }
    /// Some rows of a plane of an image: `x` is where the image begins, of which only rows that windows reach need to be there, and `out` the
    /// first of the rows.
    ///
    /// # Safety
    /// As [`Self::run_task`], for these rows.
    pub(crate) unsafe fn run_rows(
        &self,
        isa: Isa,
        (image, d, rows): (usize, usize, core::ops::Range<usize>),
        x: *const f32,
        weights: *const f32,
        bias: *const f32,
        out: *mut f32,
        finish: Finish,
        epilogue: Epilogue,
    ) {
        let c = &self.0;
        let [_, oh, ow] = c.out_dims;
        let row = image * c.pixels() + (d * oh + rows.start) * ow;
        let pixels = rows.len() * ow;
        let task = Task { conv: c, d, rows, whole: whole(c), x, weights, bias, out, finish: finish.at(row, 0) };
        // SAFETY: passed on from the caller.
        unsafe {
            match isa {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 | Isa::Amx => x86::rows_avx512(&task),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => x86::rows_avx2(&task),
                _ => rows_portable(&task),
            }
        }
        if let Some(f) = epilogue {
            f(Block { out, pitch: c.out_pitch, row, rows: pixels, col: 0, cols: c.k });
        }
    }
}

/// Neighbouring output rows of one image and plane.
struct Task<'a> {
    conv: &'a Conv,
    d: usize,
    rows: core::ops::Range<usize>,
    /// Output pixels whose window has all its columns inside of the input.
    whole: core::ops::Range<usize>,
    x: *const f32,
    weights: *const f32,
    bias: *const f32,
    /// The first output row.
    out: *mut f32,
    /// What becomes of it.
    finish: Finish,
}

impl Task<'_> {
    /// One of its rows.
    #[inline(always)]
    fn row(&self, h: usize) -> Row<'_> {
        let c = self.conv;
        let pixel = (h - self.rows.start) * c.out_dims[2];
        Row {
            conv: c,
            d: self.d,
            h,
            kds: inside(c, 0, self.d),
            khs: inside(c, 1, h),
            whole: self.whole.clone(),
            x: self.x,
            weights: self.weights,
            bias: self.bias,
            out: self.out.wrapping_add(pixel * c.out_pitch),
            finish: self.finish.at(pixel, 0),
        }
    }
}

/// One output row of one image.
struct Row<'a> {
    conv: &'a Conv,
    d: usize,
    h: usize,
    /// Window planes and rows inside of the input.
    kds: core::ops::Range<usize>,
    khs: core::ops::Range<usize>,
    /// Output pixels whose window has all its columns inside of the input.
    whole: core::ops::Range<usize>,
    x: *const f32,
    weights: *const f32,
    bias: *const f32,
    out: *mut f32,
    finish: Finish,
}

impl Row<'_> {
    /// Writes a vector of sums.
    ///
    /// # Safety
    /// The row has the pixel and the channels, and the instruction set of `S` is available.
    #[inline(always)]
    unsafe fn put<S: Simd>(&self, w: usize, channel: usize, v: S::V) {
        // SAFETY: passed on from the caller.
        unsafe { finish_some::<S>(v, S::W, self.finish.at(w, channel), self.out.add(w * self.conv.out_pitch + channel)) }
    }
}

/// The output pixels of a row whose window has all its columns inside of the input.
fn whole(c: &Conv) -> core::ops::Range<usize> {
    let first = c.pad[2].div_ceil(c.stride[2]).min(c.out_dims[2]);
    let reach = (c.kernel[2] - 1) * c.dilation[2] + 1;
    let last = match (c.in_dims[2] + c.pad[2]).checked_sub(reach) {
        Some(room) => (room / c.stride[2] + 1).min(c.out_dims[2]),
        None => 0,
    };
    first..last.max(first)
}

/// The window elements that are inside of the input, for the window at `at` of an axis.
#[inline(always)]
fn inside(c: &Conv, axis: usize, at: usize) -> core::ops::Range<usize> {
    let (start, step, pad) = (at * c.stride[axis], c.dilation[axis], c.pad[axis]);
    let first = pad.saturating_sub(start).div_ceil(step).min(c.kernel[axis]);
    let last = (c.in_dims[axis] + pad).saturating_sub(start).div_ceil(step).min(c.kernel[axis]);
    first..last.max(first)
}

/// `T` output pixels from `w` on, `NV` vectors of channels from `channel` on, over the window columns `kws`.
#[inline(always)]
unsafe fn pixels<S: Simd, const T: usize, const NV: usize>(r: &Row, w: usize, channel: usize, kws: core::ops::Range<usize>) {
    let c = r.conv;
    let [_, _, x_d, x_h, x_w] = c.x_strides;
    let pitch = c.k.next_multiple_of(PANEL);
    // SAFETY: the caller vouches for the channels, the output pixels and the window columns; planes and rows are inside.
    unsafe {
        let mut acc = [[S::zero(); NV]; T];
        if !r.bias.is_null() {
            for row in &mut acc {
                for (j, v) in row.iter_mut().enumerate() {
                    *v = S::load(r.bias.add(channel + j * S::W));
                }
            }
        }
        for kd in r.kds.clone() {
            let id = r.d * c.stride[0] + kd * c.dilation[0] - c.pad[0];
            for kh in r.khs.clone() {
                let ih = r.h * c.stride[1] + kh * c.dilation[1] - c.pad[1];
                let line = r.x.wrapping_add(id * x_d + ih * x_h + channel);
                let weights = r.weights.add((kd * c.kernel[1] + kh) * c.kernel[2] * pitch + channel);
                for kw in kws.clone() {
                    let x = line.add((w * c.stride[2] + kw * c.dilation[2] - c.pad[2]) * x_w);
                    for j in 0..NV {
                        let v = S::load(weights.add(kw * pitch + j * S::W));
                        for (i, row) in acc.iter_mut().enumerate() {
                            row[j] = S::mul_add(S::load(x.add(i * c.stride[2] * x_w + j * S::W)), v, row[j]);
                        }
                    }
                }
            }
        }
        for (i, row) in acc.iter().enumerate() {
            for (j, &v) in row.iter().enumerate() {
                r.put::<S>(w + i, channel + j * S::W, v);
            }
        }
    }
}

/// The whole row, `NV` vectors of channels from `channel` on.
#[inline(always)]
unsafe fn strip<S: Simd, const NV: usize>(r: &Row, channel: usize) {
    let all = 0..r.conv.kernel[2];
    let mut w = 0;
    // SAFETY: pixels of the row, and only window columns inside of the input.
    unsafe {
        while w < r.whole.start {
            pixels::<S, 1, NV>(r, w, channel, inside(r.conv, 2, w));
            w += 1;
        }
        while w + 6 <= r.whole.end {
            pixels::<S, 6, NV>(r, w, channel, all.clone());
            w += 6;
        }
        while w + 2 <= r.whole.end {
            pixels::<S, 2, NV>(r, w, channel, all.clone());
            w += 2;
        }
        while w < r.conv.out_dims[2] {
            pixels::<S, 1, NV>(r, w, channel, inside(r.conv, 2, w));
            w += 1;
        }
    }
}

/// Channels from `from` on of all rows, by vectors of `S`; returns the first channel that is left.
///
/// Rows are inside: the input lines that neighbouring rows share stay in the first-level cache.
#[inline(always)]
unsafe fn rows<S: Simd>(t: &Task, from: usize) -> usize {
    let k = t.conv.k;
    let mut channel = from;
    // SAFETY: whole vectors of channels only.
    unsafe {
        if S::W > 1 && columns::fits(t.conv) {
            return columns::rows::<S>(t, from);
        }
        while channel + 2 * S::W <= k {
            for h in t.rows.clone() {
                strip::<S, 2>(&t.row(h), channel);
            }
            channel += 2 * S::W;
        }
        while channel + S::W <= k {
            for h in t.rows.clone() {
                strip::<S, 1>(&t.row(h), channel);
            }
            channel += S::W;
        }
    }
    channel
}

#[inline(never)]
unsafe fn rows_portable(t: &Task) {
    // SAFETY: passed on from the caller.
    unsafe {
        let done = rows::<crate::simd::Lanes>(t, 0);
        rows::<Scalar<crate::isa::Portable>>(t, done);
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Scalar, Task, rows};
    use crate::isa::Fma;
    use crate::simd::{Avx2, Avx512};

    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn rows_avx2(t: &Task) {
        // SAFETY: passed on from the caller.
        unsafe {
            let done = rows::<Avx2>(t, 0);
            rows::<Scalar<Fma>>(t, done);
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    pub(super) unsafe fn rows_avx512(t: &Task) {
        // SAFETY: passed on from the caller.
        unsafe {
            let done = rows::<Avx512>(t, 0);
            let done = rows::<Avx2>(t, done);
            rows::<Scalar<Fma>>(t, done);
        }
    }
}
