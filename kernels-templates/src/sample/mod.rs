//! Sampling between the elements of images: GridSample, RoiAlign and DeformConv.

mod roi_pool;

pub use roi_pool::max_roi_pool;

use crate::entry::{In, Ints, Out};
use crate::index::{for_each, strides};
use crate::num::{Float, Index};
use alloc::{vec, vec::Vec};

/// A position reflected at the borders until it is between them.
fn reflect(x: f64, low: f64, high: f64) -> f64 {
    let span = high - low;
    if span <= 0.0 {
        return low;
    }
    let from = |distance: f64| {
        let rest = distance % span;
        if (distance / span) as i64 % 2 == 0 { rest } else { span - rest }
    };
    if x < low {
        low + from(low - x)
    } else if x > high {
        high - from(x - high)
    } else {
        x
    }
}

/// Positions and weights of the elements that one coordinate of an axis reads.
fn taps(x: f32, n: usize, mode: &str, padding: &str, align: bool) -> Vec<(usize, f64)> {
    let (low, high) = if align { (0.0, n as f64 - 1.0) } else { (-0.5, n as f64 - 0.5) };
    let mut x = if mode == "nearest" { x.round_ties_even() } else { x } as f64;
    if x < low || x > high {
        match padding {
            "border" => x = x.clamp(0.0, n as f64 - 1.0),
            "reflection" => x = reflect(x, low, high),
            _ => {}
        }
    }
    let element = |p: i64| -> Option<usize> {
        let inside = p >= 0 && p < n as i64;
        match padding {
            _ if inside => Some(p as usize),
            "border" => Some(p.clamp(0, n as i64 - 1) as usize),
            "reflection" => Some((reflect(p as f64, low, high) as i64).clamp(0, n as i64 - 1) as usize),
            _ => None,
        }
    };
    let base = if x.is_finite() { x.floor().clamp(-1e9, 1e9) } else { -1e9 };
    let d = x - base;
    let base = base as i64;
    let weights: Vec<(i64, f64)> = match mode {
        "nearest" => vec![(base, 1.0)],
        "cubic" => {
            const A: f64 = -0.75;
            let far = |d: f64| ((A * d - 5.0 * A) * d + 8.0 * A) * d - 4.0 * A;
            let near = |d: f64| ((A + 2.0) * d - (A + 3.0)) * d * d + 1.0;
            vec![(base - 1, far(d + 1.0)), (base, near(d)), (base + 1, near(1.0 - d)), (base + 2, far(2.0 - d))]
        }
        _ => vec![(base, 1.0 - d), (base + 1, d)],
    };
    weights.into_iter().filter_map(|(p, w)| element(p).map(|p| (p, w))).collect()
}

/// `x` of shape `[N, C, ..]` at the positions of a grid `[N, .., D]`, whose coordinates go from -1 to 1, the last axis first:
/// [GridSample](https://onnx.ai/onnx/operators/onnx__GridSample.html) by `mode` `nearest`, `linear` or `cubic` and `padding`
/// `zeros`, `border` or `reflection`.
pub fn grid_sample<T: Float>(
    out: Out<'_, T>,
    x: In<'_, T>,
    grid: In<'_, T>,
    x_dims: &[usize],
    out_dims: &[usize],
    mode: &str,
    padding: &str,
    align: bool,
) {
    if x_dims[2..].contains(&0) {
        return out.0.fill(T::ZERO);
    }
    let axes = x_dims.len() - 2;
    let xs = strides(x_dims);
    let points: usize = out_dims[2..].iter().product();
    for n in 0..out_dims[0] {
        for p in 0..points {
            let at = &grid.0[(n * points + p) * axes..][..axes];
            let chosen: Vec<Vec<(usize, f64)>> = (0..axes)
                .map(|i| {
                    let (v, len) = (at[axes - 1 - i].to_f64() as f32, x_dims[2 + i]);
                    let position = if align { (v + 1.0) / 2.0 * (len as f32 - 1.0) } else { ((v + 1.0) * len as f32 - 1.0) / 2.0 };
                    taps(position, len, mode, padding, align)
                })
                .collect();
            let counts: Vec<usize> = chosen.iter().map(Vec::len).collect();
            for c in 0..out_dims[1] {
                let mut sum = 0.0;
                for_each(&counts, |tap| {
                    let (mut from, mut weight) = (n * xs[0] + c * xs[1], 1.0);
                    for (i, &t) in tap.iter().enumerate() {
                        from += chosen[i][t].0 * xs[2 + i];
                        weight *= chosen[i][t].1;
                    }
                    sum += weight * x.0[from].to_f64();
                });
                out.0[(n * out_dims[1] + c) * points + p] = T::from_f64(sum);
            }
        }
    }
}

/// The two elements around each of `count` samples of a bin along one axis, with their weights; both 0 outside of the image.
fn samples(start: f64, size: f64, count: usize, n: usize) -> Vec<[(usize, f64); 2]> {
    (0..count)
        .map(|k| {
            let v = start + (k as f64 + 0.5) * size / count as f64;
            if v < -1.0 || v > n as f64 || v.is_nan() {
                return [(0, 0.0); 2];
            }
            let v = v.max(0.0);
            let low = (v as usize).min(n - 1);
            if low + 1 == n { [(low, 1.0), (low, 0.0)] } else { [(low, 1.0 - (v - low as f64)), (low + 1, v - low as f64)] }
        })
        .collect()
}

/// Regions `[x1, y1, x2, y2]` of images, each pooled to one size from samples between elements:
/// [RoiAlign](https://onnx.ai/onnx/operators/onnx__RoiAlign.html). `ratio` samples along each axis of a bin, 0 for as many as its extent.
pub fn roi_align<T: Float, I: Index>(
    out: Out<'_, T>,
    x: In<'_, T>,
    rois: In<'_, T>,
    batch: In<'_, I>,
    x_dims: &[usize],
    out_dims: &[usize],
    ratio: i64,
    scale: f32,
    maximum: bool,
    half_pixel: bool,
) -> Result<(), crate::fault::Fault> {
    let (channels, h, w) = (x_dims[1], x_dims[2], x_dims[3]);
    if h == 0 || w == 0 {
        out.0.fill(T::ZERO);
        return Ok(());
    }
    let (bins_h, bins_w) = (out_dims[2], out_dims[3]);
    let shift = if half_pixel { 0.5 } else { 0.0 };
    for r in 0..out_dims[0] {
        let image = crate::fault::position(batch.0[r].at(), x_dims[0])?;
        let edge = |i: usize| rois.0[r * 4 + i].to_f64() * scale as f64 - shift;
        let (left, top) = (edge(0), edge(1));
        let (mut width, mut height) = (edge(2) - left, edge(3) - top);
        if !half_pixel {
            (width, height) = (width.max(1.0), height.max(1.0));
        }
        let (bin_h, bin_w) = (height / bins_h as f64, width / bins_w as f64);
        let count = |size: f64| if ratio > 0 { ratio as usize } else { size.ceil().clamp(0.0, 65536.0) as usize };
        let (ny, nx) = (count(bin_h), count(bin_w));
        for by in 0..bins_h {
            let rows = samples(top + by as f64 * bin_h, bin_h, ny, h);
            for bx in 0..bins_w {
                let columns = samples(left + bx as f64 * bin_w, bin_w, nx, w);
                for c in 0..channels {
                    let plane = &x.0[(image * channels + c) * h * w..][..h * w];
                    let (mut sum, mut most) = (0.0, None::<f64>);
                    for ys in &rows {
                        for xs in &columns {
                            for (i, wy) in ys {
                                for (j, wx) in xs {
                                    let part = wy * wx * plane[i * w + j].to_f64();
                                    sum += part;
                                    most = Some(most.map_or(part, |m| m.max(part)));
                                }
                            }
                        }
                    }
                    let value = if maximum { most.unwrap_or(0.0) } else { sum / (ny * nx).max(1) as f64 };
                    out.0[((r * channels + c) * bins_h + by) * bins_w + bx] = T::from_f64(value);
                }
            }
        }
    }
    Ok(())
}

/// A convolution of images whose taps are moved by `offset` and weighted by `mask`:
/// [DeformConv](https://onnx.ai/onnx/operators/onnx__DeformConv.html).
pub fn deform_conv<T: Float>(
    out: Out<'_, T>,
    x: In<'_, T>,
    w: In<'_, T>,
    offset: In<'_, T>,
    bias: Option<In<'_, T>>,
    mask: Option<In<'_, T>>,
    x_dims: &[usize],
    w_dims: &[usize],
    out_dims: &[usize],
    steps: Ints<'_>,
    pads: Ints<'_>,
    dilations: Ints<'_>,
    groups: usize,
    offset_groups: usize,
) {
    let (channels, h, wide) = (x_dims[1], x_dims[2] as i64, x_dims[3] as i64);
    let (m, kh, kw) = (w_dims[0], w_dims[2], w_dims[3]);
    let (taps, plane) = (kh * kw, out_dims[2] * out_dims[3]);
    let per_offset = channels / offset_groups;
    for n in 0..out_dims[0] {
        for o in 0..m {
            let first = o / (m / groups) * w_dims[1];
            for p in 0..plane {
                let (oy, ox) = (p / out_dims[3], p % out_dims[3]);
                let mut sum = bias.map_or(0.0, |b| b.0[o].to_f64());
                for c in 0..w_dims[1] {
                    let group = n * offset_groups + (first + c) / per_offset;
                    let image = &x.0[(n * channels + first + c) * (h * wide) as usize..][..(h * wide) as usize];
                    for t in 0..taps {
                        let moved = |axis: usize| offset.0[((group * taps + t) * 2 + axis) * plane + p].to_f64();
                        let y = (oy as i64 * steps.0[0] - pads.0[0] + (t / kw) as i64 * dilations.0[0]) as f64 + moved(0);
                        let z = (ox as i64 * steps.0[1] - pads.0[1] + (t % kw) as i64 * dilations.0[1]) as f64 + moved(1);
                        let (fy, fz) = (y.floor(), z.floor());
                        let mut value = 0.0;
                        for (dy, wy) in [(0, 1.0 - (y - fy)), (1, y - fy)] {
                            for (dz, wz) in [(0, 1.0 - (z - fz)), (1, z - fz)] {
                                let (i, j) = (fy as i64 + dy, fz as i64 + dz);
                                if i >= 0 && i < h && j >= 0 && j < wide {
                                    value += wy * wz * image[(i * wide + j) as usize].to_f64();
                                }
                            }
                        }
                        let weight = mask.map_or(1.0, |k| k.0[(group * taps + t) * plane + p].to_f64());
                        sum += value * weight * w.0[(o * w_dims[1] + c) * taps + t].to_f64();
                    }
                }
                out.0[(n * m + o) * plane + p] = T::from_f64(sum);
            }
        }
    }
}
