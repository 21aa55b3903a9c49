//! MaxRoiPool: the maximum over each bin of a region of whole elements.

use crate::entry::{In, Out};
use crate::fault::{Fault, position};
use crate::num::Float;

/// Regions `[image, x1, y1, x2, y2]` `[R, 5]`, whose corners times `scale` are rounded to elements, both included, and cut into
/// `out_dims[2..]` bins of equal extent, each widened to whole elements: [MaxRoiPool](https://onnx.ai/onnx/operators/onnx__MaxRoiPool.html).
/// A bin outside of its image is 0.
///
/// # Errors
/// An image number that is no image.
pub fn max_roi_pool<T: Float>(
    out: Out<'_, T>,
    x: In<'_, T>,
    rois: In<'_, T>,
    x_dims: &[usize],
    out_dims: &[usize],
    scale: f32,
) -> Result<(), Fault> {
    let (channels, h, w) = (x_dims[1], x_dims[2], x_dims[3]);
    let (bins_h, bins_w) = (out_dims[2], out_dims[3]);
    for r in 0..out_dims[0] {
        let roi: [f64; 5] = core::array::from_fn(|i| rois.0[r * 5 + i].to_f64());
        let image = position(roi[0] as i64, x_dims[0])?;
        let edge = |i: usize| (roi[i] * scale as f64).round().clamp(-1e15, 1e15);
        // The elements of bin `b` of an axis: from the first to behind the last.
        let bins = |first: f64, last: f64, count: usize, n: usize, b: usize| {
            let size = (last - first + 1.0).max(1.0) / count as f64;
            let place = |v: f64| (v + first).clamp(0.0, n as f64) as usize;
            (place((b as f64 * size).floor()), place(((b + 1) as f64 * size).ceil()))
        };
        for c in 0..channels {
            let plane = &x.0[(image * channels + c) * h * w..][..h * w];
            for by in 0..bins_h {
                let (top, bottom) = bins(edge(2), edge(4), bins_h, h, by);
                for bx in 0..bins_w {
                    let (left, right) = bins(edge(1), edge(3), bins_w, w, bx);
                    let mut most: Option<f64> = None;
                    for i in top..bottom {
                        for v in &plane[i * w..][left.min(right)..right] {
                            let v = v.to_f64();
                            most = Some(most.map_or(v, |m| if v > m { v } else { m }));
                        }
                    }
                    out.0[((r * channels + c) * bins_h + by) * bins_w + bx] = T::from_f64(most.unwrap_or(0.0));
                }
            }
        }
    }
    Ok(())
}
