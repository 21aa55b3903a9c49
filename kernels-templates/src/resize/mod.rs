//! Resize: nearest, linear and cubic interpolation along every axis.

use crate::entry::{In, Out};
use crate::fault::Fault;
use crate::index::{for_each, offset, strides};
use crate::num::Float;
use alloc::{format, vec, vec::Vec};

/// The position in the input that an output position reads, by coordinate transformation mode.
fn coordinate(mode: &str, i: usize, scale: f64, in_len: usize, out_len: usize, roi: (f64, f64)) -> f64 {
    let (x, n, m) = (i as f64, in_len as f64, out_len as f64);
    match mode {
        "align_corners" => {
            // The extent before it is rounded down, unless only the rounding of the scale makes the difference.
            let exact = scale * n;
            let exact = if (exact - m).abs() < 1e-4 * m { m } else { exact };
            if exact == 1.0 { 0.0 } else { x * (n - 1.0) / (exact - 1.0) }
        }
        "asymmetric" => x / scale,
        "pytorch_half_pixel" => {
            if out_len > 1 {
                (x + 0.5) / scale - 0.5
            } else {
                0.0
            }
        }
        "tf_half_pixel_for_nn" => (x + 0.5) / scale,
        "half_pixel_symmetric" => {
            let adjust = m / (scale * n);
            let center = n / 2.0;
            center * (1.0 - adjust) + (x + 0.5) / scale - 0.5
        }
        "tf_crop_and_resize" => {
            if out_len > 1 {
                roi.0 * (n - 1.0) + x * (roi.1 - roi.0) * (n - 1.0) / (m - 1.0)
            } else {
                0.5 * (roi.0 + roi.1) * (n - 1.0)
            }
        }
        _ => (x + 0.5) / scale - 0.5,
    }
}

/// Interpolation weights of one output position: input positions (clamped to the edge) with their weights; empty when outside
/// under `tf_crop_and_resize`.
fn taps(x: f64, n: usize, scale: f64, mode: &str, nearest: &str, cubic: f64, exclude: bool, antialias: bool) -> Vec<(usize, f64)> {
    let clamp = |p: i64| p.clamp(0, n as i64 - 1) as usize;
    if mode == "nearest" {
        let p = match nearest {
            "round_prefer_ceil" => (x + 0.5).floor(),
            "floor" => x.floor(),
            "ceil" => x.ceil(),
            _ => (x - 0.5).ceil(),
        };
        return vec![(clamp(p as i64), 1.0)];
    }
    // Antialiasing widens the filter when the extent shrinks.
    let stretch = if antialias { scale.min(1.0) } else { 1.0 };
    let radius = if mode == "cubic" { 2.0 } else { 1.0 } / stretch;
    let (first, last) = if antialias {
        ((x - radius).floor() as i64 + 1, (x + radius).ceil() as i64 - 1)
    } else {
        let base = x.floor() as i64;
        if mode == "cubic" { (base - 1, base + 2) } else { (base, base + 1) }
    };
    let weight = |p: i64| {
        let d = ((p as f64 - x) * stretch).abs();
        if mode != "cubic" {
            (1.0 - d).max(0.0)
        } else if d <= 1.0 {
            ((cubic + 2.0) * d - (cubic + 3.0)) * d * d + 1.0
        } else if d < 2.0 {
            ((cubic * d - 5.0 * cubic) * d + 8.0 * cubic) * d - 4.0 * cubic
        } else {
            0.0
        }
    };
    let mut out: Vec<(usize, f64)> = Vec::new();
    let mut sum = 0.0;
    for p in first..=last {
        let inside = p >= 0 && p < n as i64;
        let w = if exclude && !inside { 0.0 } else { weight(p) };
        sum += w;
        out.push((clamp(p), w));
    }
    if (exclude || antialias) && sum != 0.0 {
        out.iter_mut().for_each(|t| t.1 /= sum);
    }
    out
}

/// [Resize](https://onnx.ai/onnx/operators/onnx__Resize.html) of any rank, separable by axis. `scales` holds one factor an axis,
/// `roi` a start and an end for each axis (all starts, then all ends) or nothing; `mode` is `nearest`, `linear` or `cubic`, with
/// `+antialias` behind it to widen the filter when shrinking.
pub fn resize<T: Float>(
    out: Out<'_, T>,
    x: In<'_, T>,
    x_dims: &[usize],
    out_dims: &[usize],
    scales: &[f32],
    roi: &[f32],
    mode: &str,
    coordinates: &str,
    nearest: &str,
    cubic: f32,
    extrapolation: f32,
    exclude: bool,
) -> Result<(), Fault> {
    let (mode, antialias) = match mode.strip_suffix("+antialias") {
        Some(m) => (m, true),
        None => (mode, false),
    };
    if !matches!(mode, "nearest" | "linear" | "cubic") {
        return Err(Fault::Domain(format!("unknown interpolation \"{mode}\"")));
    }
    let rank = x_dims.len();
    let mut table: Vec<Vec<Vec<(usize, f64)>>> = Vec::with_capacity(rank);
    for d in 0..rank {
        let scale = scales[d] as f64;
        let region = if roi.len() == 2 * rank { (roi[d] as f64, roi[rank + d] as f64) } else { (0.0, 1.0) };
        table.push(
            (0..out_dims[d])
                .map(|i| {
                    if x_dims[d] == out_dims[d] && scale == 1.0 && coordinates != "tf_crop_and_resize" {
                        return vec![(i, 1.0)];
                    }
                    let at = coordinate(coordinates, i, scale, x_dims[d], out_dims[d], region);
                    if coordinates == "tf_crop_and_resize" && (at < 0.0 || at > x_dims[d] as f64 - 1.0) {
                        return vec![];
                    }
                    taps(at, x_dims[d], scale, mode, nearest, cubic as f64, exclude, antialias)
                })
                .collect(),
        );
    }
    let xs = strides(x_dims);
    let mut k = 0;
    for_each(out_dims, |at| {
        let chosen: Vec<&[(usize, f64)]> = at.iter().enumerate().map(|(d, &i)| table[d][i].as_slice()).collect();
        let counts: Vec<usize> = chosen.iter().map(|c| c.len()).collect();
        out.0[k] = if counts.contains(&0) {
            T::from_f64(extrapolation as f64)
        } else if counts.iter().all(|&c| c == 1) {
            let from: Vec<usize> = chosen.iter().map(|c| c[0].0).collect();
            x.0[offset(&from, &xs)]
        } else {
            let mut sum = 0.0;
            for_each(&counts, |tap| {
                let (mut from, mut w) = (0, 1.0);
                for (d, &t) in tap.iter().enumerate() {
                    from += chosen[d][t].0 * xs[d];
                    w *= chosen[d][t].1;
                }
                if w != 0.0 {
                    sum += w * x.0[from].to_f64();
                }
            });
            T::from_f64(sum)
        };
        k += 1;
    });
    Ok(())
}
