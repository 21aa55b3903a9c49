//! Resize: nearest, linear and cubic interpolation along every axis; of images by a vector kernel.

mod image;
mod rule;

use crate::entry::{In, Out};
use crate::fault::Fault;
use crate::index::{for_each, offset, strides};
use crate::num::Float;
use alloc::{format, vec::Vec};

pub use image::Images;
pub use rule::{Axis, Rule};

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
    let rule = Rule { mode, antialias, coordinates, nearest, cubic: f64::from(cubic), exclude };
    let rank = x_dims.len();
    let mut table: Vec<Vec<Vec<(usize, f64)>>> = Vec::with_capacity(rank);
    for d in 0..rank {
        let region = if roi.len() == 2 * rank { (roi[d] as f64, roi[rank + d] as f64) } else { (0.0, 1.0) };
        let axis = Axis { from: x_dims[d], to: out_dims[d], scale: f64::from(scales[d]), region };
        let line = |i| {
            let mut taps = Vec::new();
            rule.taps(&axis, i, |p, w| taps.push((p, w)));
            taps
        };
        table.push((0..axis.to).map(line).collect());
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
