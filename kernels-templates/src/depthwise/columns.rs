//! Depthwise windows of three or five columns: the input's columns go by once, and each adds to the outputs whose windows hold it.

use super::{Row, Task};
use crate::conv::Conv;
use crate::gemm::PANEL;
use crate::simd::Simd;

/// Bytes of input lines that a block of channels keeps in the first-level cache.
const LINES: usize = 48 * 1024;

/// Whether [`rows`] computes such a convolution.
pub(super) fn fits(c: &Conv) -> bool {
    let plane = c.kernel[0] == 1 && c.in_dims[0] == 1 && c.out_dims[0] == 1 && c.pad[0] == 0;
    plane && matches!(c.kernel[2], 3 | 5) && c.dilation[2] == 1 && matches!(c.stride[2], 1 | 2)
}

/// Channels from `from` on of all rows of a task, by vectors of `S`; returns the first channel that is left.
///
/// Channels go in blocks whose lines stay in the first-level cache from row to row, and are read as long stretches of memory.
///
/// # Safety
/// As [`Depthwise::run_task`](super::Depthwise::run_task), for a convolution that [`fits`], and the machine has what `S` needs.
#[inline(always)]
pub(super) unsafe fn rows<S: Simd>(t: &Task, from: usize) -> usize {
    let c = t.conv;
    let end = from + (c.k - from) / S::W * S::W;
    let line = c.kernel[1] * c.in_dims[2] * size_of::<f32>();
    let block = (LINES / line.max(1) / S::W).max(1) * S::W;
    for first in (from..end).step_by(block) {
        for h in t.rows.clone() {
            let row = t.row(h);
            for channel in (first..end.min(first + block)).step_by(S::W) {
                // SAFETY: a row of the task, and a whole vector of channels.
                unsafe {
                    match (c.kernel[2], c.stride[2]) {
                        (3, 1) => row_of::<S, 3, 1>(&row, channel),
                        (3, _) => row_of::<S, 3, 2>(&row, channel),
                        (_, 1) => row_of::<S, 5, 1>(&row, channel),
                        _ => row_of::<S, 5, 2>(&row, channel),
                    }
                }
            }
        }
    }
    end
}

/// A row of output, one vector of channels.
///
/// # Safety
/// The row has the channels, and the instruction set of `S` is available.
#[inline(always)]
unsafe fn row_of<S: Simd, const KW: usize, const STRIDE: usize>(r: &Row, channel: usize) {
    let ow = r.conv.out_dims[2];
    let mut w = 0;
    // SAFETY: pixels of the row.
    unsafe {
        while w + 7 <= ow {
            if r.whole.start <= w && w + 7 <= r.whole.end {
                pixels::<S, 7, KW, STRIDE, false>(r, w, channel);
            } else {
                pixels::<S, 7, KW, STRIDE, true>(r, w, channel);
            }
            w += 7;
        }
        while w + 3 <= ow {
            pixels::<S, 3, KW, STRIDE, true>(r, w, channel);
            w += 3;
        }
        while w < ow {
            pixels::<S, 1, KW, STRIDE, true>(r, w, channel);
            w += 1;
        }
    }
}

/// `T` output pixels from `w` on, one vector of channels: a column of the input is loaded once for all windows that hold it. At an
/// `EDGE`, columns may lie outside.
///
/// # Safety
/// The row has the pixels and channels, without `EDGE` all columns of their windows are inside of the input, and the instruction set of
/// `S` is available.
#[inline(always)]
unsafe fn pixels<S: Simd, const T: usize, const KW: usize, const STRIDE: usize, const EDGE: bool>(r: &Row, w: usize, channel: usize) {
    let c = r.conv;
    let [_, _, _, x_h, x_w] = c.x_strides;
    let pitch = c.k.next_multiple_of(PANEL);
    let first = (w * STRIDE).wrapping_sub(c.pad[2]);
    // SAFETY: the caller vouches for pixels and channels; only rows and columns inside of the input are read.
    unsafe {
        let mut acc = [if r.bias.is_null() { S::zero() } else { S::load(r.bias.add(channel)) }; T];
        for kh in r.khs.clone() {
            let ih = r.h * c.stride[1] + kh * c.dilation[1] - c.pad[1];
            let line = r.x.wrapping_add(ih * x_h + channel).wrapping_add(first.wrapping_mul(x_w));
            let mut taps = [S::zero(); KW];
            for (kw, v) in taps.iter_mut().enumerate() {
                *v = S::load(r.weights.add((kh * KW + kw) * pitch + channel));
            }
            for i in 0..(T - 1) * STRIDE + KW {
                if EDGE && first.wrapping_add(i) >= c.in_dims[2] {
                    continue;
                }
                let x = S::load(line.wrapping_add(i * x_w));
                for (t, sum) in acc.iter_mut().enumerate() {
                    if i >= t * STRIDE && i - t * STRIDE < KW {
                        *sum = S::mul_add(x, taps[i - t * STRIDE], *sum);
                    }
                }
            }
        }
        for (t, &sum) in acc.iter().enumerate() {
            r.put::<S>(w + t, channel, sum);
        }
    }
}
