//! Softmax and normalizations in their plain form for any float type: the references of the vectorised families.

use crate::dtype::{bf16, f16};
use crate::entry::{In, Out};
use crate::fault::Fault;
use crate::num::Float;
use alloc::format;

/// Softmax (`softmax`), its logarithm (`log_softmax`) or 1 at the first maximum (`hardmax`) along the middle axis; `softmax_f16` and
/// `softmax_bf16` round every step to that type, as the function that defines Softmax does on such tensors:
/// [Softmax](https://onnx.ai/onnx/operators/onnx__Softmax.html).
pub fn softmax<T: Float>(out: Out<'_, T>, x: In<'_, T>, outer: usize, axis: usize, inner: usize, mode: &str) -> Result<(), Fault> {
    for o in 0..outer {
        for i in 0..inner {
            let at = |j: usize| (o * axis + j) * inner + i;
            let top = (0..axis).map(|j| x.0[at(j)]).fold(T::LOWEST, |a, b| if a.nan() || a > b { a } else { b });
            if let Some(half) = mode.strip_prefix("softmax_") {
                let round = |v: f64| match half {
                    "f16" => f16::from_f32(v as f32).to_f32() as f64,
                    _ => bf16::from_f32(v as f32).to_f32() as f64,
                };
                let part = |j: usize| round(round(x.0[at(j)].minus(top).to_f64()).exp());
                let sum = round((0..axis).map(part).sum());
                (0..axis).for_each(|j| out.0[at(j)] = T::from_f64(round(part(j) / sum)));
                continue;
            }
            let sum = (0..axis).map(|j| x.0[at(j)].minus(top).exp()).fold(T::ZERO, T::plus);
            match mode {
                "softmax" => (0..axis).for_each(|j| out.0[at(j)] = x.0[at(j)].minus(top).exp().over(sum)),
                "log_softmax" => (0..axis).for_each(|j| out.0[at(j)] = x.0[at(j)].minus(top).minus(sum.ln())),
                "hardmax" => {
                    let first = (0..axis).find(|&j| x.0[at(j)] == top);
                    (0..axis).for_each(|j| out.0[at(j)] = if Some(j) == first { T::ONE } else { T::ZERO });
                }
                other => return Err(Fault::Domain(format!("unknown mode \"{other}\""))),
            }
        }
    }
    Ok(())
}

/// The mean of a row and its inverse standard deviation, which is taken from 0 where it is not `centred`.
fn moments<T: Float>(row: &[T], epsilon: f32, centred: bool) -> (f64, f64) {
    let n = row.len() as f64;
    let mean = if centred { row.iter().map(|v| v.to_f64()).sum::<f64>() / n } else { 0.0 };
    let variance = row.iter().map(|v| (v.to_f64() - mean) * (v.to_f64() - mean)).sum::<f64>() / n;
    (mean, 1.0 / (variance + epsilon as f64).sqrt())
}

/// `(x - mean) / sqrt(var + epsilon) * scale + bias` over each row, with the mean and the inverse deviation as optional results:
/// [LayerNormalization](https://onnx.ai/onnx/operators/onnx__LayerNormalization.html). Without `centred` the mean counts as 0:
/// [RMSNormalization](https://onnx.ai/onnx/operators/onnx__RMSNormalization.html).
pub fn layer_norm<T: Float>(
    out: Out<'_, T>,
    mean: Option<Out<'_, T>>,
    inverse: Option<Out<'_, T>>,
    x: In<'_, T>,
    scale: In<'_, T>,
    bias: Option<In<'_, T>>,
    rows: usize,
    cols: usize,
    epsilon: f32,
    centred: bool,
) {
    let (mut mean, mut inverse) = (mean, inverse);
    for r in 0..rows {
        let row = &x.0[r * cols..][..cols];
        let (m, inv) = moments(row, epsilon, centred);
        for (j, (o, v)) in out.0[r * cols..][..cols].iter_mut().zip(row).enumerate() {
            let y = T::from_f64((v.to_f64() - m) * inv).times(scale.0[j % scale.0.len()]);
            *o = bias.map_or(y, |b| y.plus(b.0[j % b.0.len()]));
        }
        if let Some(mean) = &mut mean {
            mean.0[r] = T::from_f64(m);
        }
        if let Some(inverse) = &mut inverse {
            inverse.0[r] = T::from_f64(inv);
        }
    }
}

/// Each `[batch, channel]` row of `inner` elements normalized, then scaled and shifted by channel:
/// [InstanceNormalization](https://onnx.ai/onnx/operators/onnx__InstanceNormalization.html).
pub fn instance_norm<T: Float>(
    out: Out<'_, T>,
    x: In<'_, T>,
    scale: In<'_, T>,
    bias: In<'_, T>,
    batch: usize,
    channels: usize,
    inner: usize,
    epsilon: f32,
) {
    group_norm(out, x, scale, bias, batch, channels, inner, channels, epsilon);
}

/// Each group of channels of `[batch, channels, inner]` normalized, then scaled and shifted by channel:
/// [GroupNormalization](https://onnx.ai/onnx/operators/onnx__GroupNormalization.html).
pub fn group_norm<T: Float>(
    out: Out<'_, T>,
    x: In<'_, T>,
    scale: In<'_, T>,
    bias: In<'_, T>,
    batch: usize,
    channels: usize,
    inner: usize,
    groups: usize,
    epsilon: f32,
) {
    let n = channels.checked_div(groups).unwrap_or(0) * inner;
    for r in 0..batch * groups {
        let row = &x.0[r * n..][..n];
        let (m, inv) = moments(row, epsilon, true);
        for (i, (o, v)) in out.0[r * n..][..n].iter_mut().zip(row).enumerate() {
            let c = r % groups * (channels / groups) + i / inner;
            *o = T::from_f64((v.to_f64() - m) * inv).times(scale.0[c]).plus(bias.0[c]);
        }
    }
}

/// `x / max(‖x‖_p, floor)` along the axis, 0 where that is 0:
/// [LpNormalization](https://onnx.ai/onnx/operators/onnx__LpNormalization.html).
pub fn lp_normalize<T: Float>(out: Out<'_, T>, x: In<'_, T>, outer: usize, axis: usize, inner: usize, p: i64, floor: f32) {
    for o in 0..outer {
        for i in 0..inner {
            let at = |j: usize| (o * axis + j) * inner + i;
            let values = (0..axis).map(|j| x.0[at(j)].to_f64());
            let norm = if p == 1 { values.map(f64::abs).sum() } else { values.map(|v| v * v).sum::<f64>().sqrt() };
            // A NaN is not raised to the floor.
            let norm = if norm < f64::from(floor) { f64::from(floor) } else { norm };
            for j in 0..axis {
                out.0[at(j)] = if norm == 0.0 { T::ZERO } else { T::from_f64(x.0[at(j)].to_f64() / norm) };
            }
        }
    }
}

/// `x / (bias + alpha/size · Σ x²)^beta` over a window of channels: [LRN](https://onnx.ai/onnx/operators/onnx__LRN.html).
pub fn lrn<T: Float>(
    out: Out<'_, T>,
    x: In<'_, T>,
    batch: usize,
    channels: usize,
    inner: usize,
    size: usize,
    alpha: f32,
    beta: f32,
    bias: f32,
) {
    let (before, after) = ((size - 1) / 2, size / 2);
    for n in 0..batch {
        for c in 0..channels {
            for i in 0..inner {
                let at = |c: usize| (n * channels + c) * inner + i;
                let window = c.saturating_sub(before)..(c + after + 1).min(channels);
                let sum: f64 = window.map(|k| x.0[at(k)].to_f64() * x.0[at(k)].to_f64()).sum();
                let scale = (bias as f64 + alpha as f64 / size as f64 * sum).powf(beta as f64);
                out.0[at(c)] = T::from_f64(x.0[at(c)].to_f64() / scale);
            }
        }
    }
}
