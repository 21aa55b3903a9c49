//! Attention by plain loops for any float type: the reference of the vector kernel.

use crate::entry::{In, Out};
use crate::index::for_each;
use crate::num::Float;

/// `softmax(scale · q kᵀ + mask) v` over the matrices in the last two axes:
/// [Attention](https://onnx.ai/onnx/operators/onnx__Attention.html).
///
/// `q` is `[batch.., Q, D]` and `sizes` lists Q, K, D and the columns of `v`. Along an axis of the batch, `k` and `v` have as many
/// matrices as `k_batch` and `v_batch` say, which divide those of `q`: so many neighbours share one. `mask_dims` are the extents of
/// the mask, 1 where it is repeated. Query `i` sees the keys `j <= i + reach`. Rows of a `safe` softmax that are NaN count as zeros.
pub fn attend<T: Float>(
    out: Out<'_, T>,
    q: In<'_, T>,
    k: In<'_, T>,
    v: In<'_, T>,
    mask: Option<In<'_, T>>,
    batch: &[usize],
    sizes: &[usize],
    k_batch: &[usize],
    v_batch: &[usize],
    mask_dims: &[usize],
    scale: f32,
    reach: usize,
    safe: bool,
) {
    let [queries, keys, depth, width] = [sizes[0], sizes[1], sizes[2], sizes[3]];
    let of = |at: &[usize], own: &[usize]| (0..batch.len()).fold(0, |n, i| n * own[i] + at[i] * own[i] / batch[i]);
    let mut p = alloc::vec![0f64; keys];
    let mut index = 0;
    for_each(batch, |at| {
        let k = &k.0[of(at, k_batch) * keys * depth..][..keys * depth];
        let v = &v.0[of(at, v_batch) * keys * width..][..keys * width];
        for i in 0..queries {
            let q = &q.0[(index * queries + i) * depth..][..depth];
            let seen = keys.min(i.saturating_add(reach).saturating_add(1));
            for (j, p) in p[..seen].iter_mut().enumerate() {
                let dot: f64 = q.iter().zip(&k[j * depth..]).map(|(a, b)| a.to_f64() * b.to_f64()).sum();
                let added = mask.map_or(0.0, |m| {
                    let [rows, cols] = [mask_dims[batch.len()], mask_dims[batch.len() + 1]];
                    m.0[(of(at, mask_dims) * rows + if rows == 1 { 0 } else { i }) * cols + if cols == 1 { 0 } else { j }].to_f64()
                });
                // Scores are of the type, so that what a large mask absorbs is absorbed here too.
                *p = T::from_f64(T::from_f64(dot * scale as f64).to_f64() + added).to_f64();
            }
            let top = p[..seen].iter().fold(f64::NEG_INFINITY, |a, &b| if a.is_nan() || a > b { a } else { b });
            p[..seen].iter_mut().for_each(|x| *x = (*x - top).exp());
            let sum: f64 = p[..seen].iter().sum();
            let seen = if safe && sum.is_nan() { 0 } else { seen };
            for c in 0..width {
                let y: f64 = p[..seen].iter().enumerate().map(|(j, p)| p / sum * v[j * width + c].to_f64()).sum();
                out.0[(index * queries + i) * width + c] = T::from_f64(y);
            }
        }
        index += 1;
    });
}
