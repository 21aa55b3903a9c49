//! Matrix product, convolution and pooling as plain loops over any rank: the references of the packed kernels, and what rare
//! types and ranks are compiled to.

use crate::entry::{In, Ints, Out};
use crate::fault::Fault;
use crate::index::{for_each, offset, strides};
use crate::num::{Float, Num};
use alloc::{format, vec, vec::Vec};

/// `out[b] = a[b] · b[b]` for matrices `[m, k]` and `[k, n]`; `a_batch` and `b_batch` list which matrix each product takes:
/// [MatMul](https://onnx.ai/onnx/operators/onnx__MatMul.html).
pub fn matmul<T: Num>(
    out: Out<'_, T>,
    a: In<'_, T>,
    b: In<'_, T>,
    batch: &[usize],
    m: usize,
    n: usize,
    k: usize,
    a_batch: &[usize],
    b_batch: &[usize],
) {
    // `a_batch` and `b_batch` are strides in matrices along the axes of `batch`, 0 where the operand is repeated.
    let mut index = 0;
    for_each(batch, |at| {
        let (a, b) = (&a.0[offset(at, a_batch) * m * k..][..m * k], &b.0[offset(at, b_batch) * k * n..][..k * n]);
        let out = &mut out.0[index * m * n..][..m * n];
        out.fill(T::ZERO);
        for i in 0..m {
            for j in 0..k {
                let x = a[i * k + j];
                for (o, y) in out[i * n..][..n].iter_mut().zip(&b[j * n..][..n]) {
                    *o = o.plus(x.times(*y));
                }
            }
        }
        index += 1;
    });
}

/// The input position of an output position and a tap, unless it falls into the padding.
fn source(out: usize, tap: usize, stride: i64, pad: i64, dilation: i64, len: usize) -> Option<usize> {
    let p = out as i64 * stride + tap as i64 * dilation - pad;
    (p >= 0 && p < len as i64).then_some(p as usize)
}

/// Convolution of `[N, C, ..]` with `[M, C/groups, ..]`: [Conv](https://onnx.ai/onnx/operators/onnx__Conv.html).
/// `pads` lists the leading pad of each spatial axis; trailing pads are implied by `out_dims`.
pub fn conv<T: Num>(
    out: Out<'_, T>,
    x: In<'_, T>,
    w: In<'_, T>,
    bias: Option<In<'_, T>>,
    x_dims: &[usize],
    w_dims: &[usize],
    out_dims: &[usize],
    steps: Ints<'_>,
    pads: Ints<'_>,
    dilations: Ints<'_>,
    groups: usize,
) {
    // Sums are f64, in which those of 8-bit products are exact. Rows along the last axis are summed tap by tap.
    let (xs, ws) = (strides(x_dims), strides(w_dims));
    let per_group = w_dims[0] / groups;
    let last = out_dims.len() - 1;
    let (width, x_width, step) = (out_dims[last], x_dims[last] as i64, steps.0[last - 2]);
    let plane: usize = out_dims[2..].iter().product();
    let mut sums = vec![0.0f64; plane];
    for nm in 0..out_dims[0] * out_dims[1] {
        let (n, m) = (nm / out_dims[1], nm % out_dims[1]);
        let first = m / per_group * w_dims[1];
        sums.fill(bias.map_or(0.0, |b| b.0[m].to_f64()));
        for c in 0..w_dims[1] {
            let channel = &x.0[n * xs[0] + (first + c) * xs[1]..][..xs[1]];
            let mut tap_at = m * ws[0] + c * ws[1];
            for_each(&w_dims[2..], |tap| {
                let weight = w.0[tap_at].to_f64();
                tap_at += 1;
                // Output position o of a row reads position o · step + shift, which must lie inside.
                let shift = tap[last - 2] as i64 * dilations.0[last - 2] - pads.0[last - 2];
                let from = (-shift + step - 1).div_euclid(step).clamp(0, width as i64) as usize;
                let to = (x_width - shift + step - 1).div_euclid(step).clamp(from as i64, width as i64) as usize;
                let mut row = 0;
                for_each(&out_dims[2..last], |at| {
                    let start = at.iter().enumerate().try_fold(0, |sum, (i, &o)| {
                        source(o, tap[i], steps.0[i], pads.0[i], dilations.0[i], x_dims[2 + i]).map(|p| sum + p * xs[2 + i])
                    });
                    if let Some(start) = start.filter(|_| from < to) {
                        let input = &channel[(start as i64 + from as i64 * step + shift) as usize..];
                        let out = &mut sums[row * width + from..row * width + to];
                        if step == 1 {
                            out.iter_mut().zip(input).for_each(|(o, x)| *o += x.to_f64() * weight);
                        } else {
                            out.iter_mut().zip(input.iter().step_by(step as usize)).for_each(|(o, x)| *o += x.to_f64() * weight);
                        }
                    }
                    row += 1;
                });
            });
        }
        for (o, s) in out.0[nm * plane..][..plane].iter_mut().zip(&sums) {
            *o = T::from_f64(*s);
        }
    }
}

/// Transposed convolution of `[N, C, ..]` with `[C, M/groups, ..]`:
/// [ConvTranspose](https://onnx.ai/onnx/operators/onnx__ConvTranspose.html).
pub fn conv_transpose<T: Float>(
    out: Out<'_, T>,
    x: In<'_, T>,
    w: In<'_, T>,
    bias: Option<In<'_, T>>,
    x_dims: &[usize],
    w_dims: &[usize],
    out_dims: &[usize],
    steps: Ints<'_>,
    pads: Ints<'_>,
    dilations: Ints<'_>,
    groups: usize,
) {
    let (os, ws) = (strides(out_dims), strides(w_dims));
    let inner: usize = out_dims[2..].iter().product();
    for (i, o) in out.0.iter_mut().enumerate() {
        *o = bias.map_or(T::ZERO, |b| b.0[i / inner % out_dims[1]]);
    }
    let (in_group, out_group) = (x_dims[1] / groups, w_dims[1]);
    let mut k = 0;
    for_each(x_dims, |at| {
        let (n, c) = (at[0], at[1]);
        let value = x.0[k];
        for_each(&w_dims[2..], |tap| {
            let mut to = n * os[0];
            for (i, &t) in tap.iter().enumerate() {
                let p = at[2 + i] as i64 * steps.0[i] + t as i64 * dilations.0[i] - pads.0[i];
                if p < 0 || p >= out_dims[2 + i] as i64 {
                    return;
                }
                to += p as usize * os[2 + i];
            }
            let from = c * ws[0] + offset(tap, &ws[2..]);
            for m in 0..out_group {
                let o = &mut out.0[to + (c / in_group * out_group + m) * os[1]];
                *o = o.plus(value.times(w.0[from + m * ws[1]]));
            }
        });
        k += 1;
    });
}

/// Pooling of `[N, C, ..]` by `mode` `max`, `average` (over the elements inside), `average_pads` (over the window cut to the
/// padded extent) or `lp1`, `lp2`, ..; `indices` receives the flat position of each maximum:
/// [MaxPool](https://onnx.ai/onnx/operators/onnx__MaxPool.html). `pads` lists leading, then trailing pads.
pub fn pool<T: Num>(
    out: Out<'_, T>,
    indices: Option<Out<'_, i64>>,
    x: In<'_, T>,
    x_dims: &[usize],
    out_dims: &[usize],
    kernel: &[usize],
    steps: Ints<'_>,
    pads: Ints<'_>,
    dilations: Ints<'_>,
    mode: &str,
    column_major: bool,
) -> Result<(), Fault> {
    let xs = strides(x_dims);
    let axes = kernel.len();
    let mut flat = xs.clone();
    if column_major {
        let mut step = 1;
        for i in 0..axes {
            flat[2 + i] = step;
            step *= x_dims[2 + i];
        }
    }
    let order: f64 = match mode.strip_prefix("lp") {
        Some(p) => p.parse().map_err(|_| Fault::Domain(format!("unknown pooling \"{mode}\"")))?,
        None => 0.0,
    };
    let mut indices = indices;
    let mut k = 0;
    for_each(out_dims, |at| {
        let mut best = T::LOWEST;
        let mut best_at = -1i64;
        let (mut sum, mut inside, mut window) = (0.0f64, 0usize, 0usize);
        for_each(kernel, |tap| {
            let (mut from, mut index) = (at[0] * xs[0] + at[1] * xs[1], (at[0] * xs[0] + at[1] * xs[1]) as i64);
            let mut is_inside = true;
            for (i, &t) in tap.iter().enumerate() {
                let p = at[2 + i] as i64 * steps.0[i] + t as i64 * dilations.0[i] - pads.0[i];
                if p >= x_dims[2 + i] as i64 + pads.0[axes + i] {
                    return;
                }
                if p < 0 || p >= x_dims[2 + i] as i64 {
                    is_inside = false;
                } else {
                    from += p as usize * xs[2 + i];
                    index += p * flat[2 + i] as i64;
                }
            }
            window += 1;
            if !is_inside {
                return;
            }
            inside += 1;
            let v = x.0[from];
            if best_at < 0 || v > best || (v.nan() && !best.nan()) {
                best = v;
                best_at = index;
            }
            sum += if order > 0.0 { v.to_f64().abs().powf(order) } else { v.to_f64() };
        });
        out.0[k] = match mode {
            "max" => best,
            "average" => T::from_f64(sum / inside as f64),
            "average_pads" => T::from_f64(sum / window as f64),
            _ => T::from_f64(sum.powf(1.0 / order)),
        };
        if let Some(indices) = &mut indices {
            indices.0[k] = best_at;
        }
        k += 1;
    });
    Ok(())
}

/// The row-major strides of batch axes, 0 where `dims` is 1 and the product repeats it: what [`matmul`] takes.
pub fn batch_strides(dims: &[usize], batch: &[usize]) -> Vec<usize> {
    let skip = batch.len() - dims.len();
    let s = strides(dims);
    let mut out = vec![0; batch.len()];
    for (i, &d) in dims.iter().enumerate() {
        out[skip + i] = if d == 1 { 0 } else { s[i] };
    }
    out
}
