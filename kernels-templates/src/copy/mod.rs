//! Padding, tiling and one-hot encoding: elements moved, never computed with.

use crate::entry::{In, Ints, Out};
use crate::fault::{Fault, position};
use crate::index::{for_each, strides};
use crate::num::Index;
use crate::value::Element;
use alloc::{format, vec::Vec};

/// Pads (or, with negative pads, cuts) every axis: [Pad](https://onnx.ai/onnx/operators/onnx__Pad.html).
/// `pads` lists the leading pads, then the trailing ones; `mode` is `constant`, `edge`, `reflect` or `wrap`.
pub fn pad<T: Element>(out: Out<'_, T>, x: In<'_, T>, value: In<'_, T>, x_dims: &[usize], pads: Ints<'_>, mode: &str) -> Result<(), Fault> {
    let rank = x_dims.len();
    let out_dims: Vec<usize> = (0..rank).map(|i| (x_dims[i] as i64 + pads.0[i] + pads.0[rank + i]).max(0) as usize).collect();
    let xs = strides(x_dims);
    if x.0.is_empty() && mode != "constant" && !out.0.is_empty() {
        return Err(Fault::Domain(format!("an empty tensor cannot be padded by mode \"{mode}\"")));
    }
    let mut k = 0;
    for_each(&out_dims, |at| {
        let mut from = Some(0);
        for i in 0..rank {
            let n = x_dims[i] as i64;
            let p = at[i] as i64 - pads.0[i];
            let p = match mode {
                _ if p >= 0 && p < n => p,
                "edge" => p.clamp(0, n - 1),
                "wrap" => p.rem_euclid(n),
                "reflect" if n == 1 => 0,
                "reflect" => {
                    let period = 2 * (n - 1);
                    let q = p.rem_euclid(period);
                    q.min(period - q)
                }
                _ => {
                    from = None;
                    break;
                }
            };
            from = from.map(|f| f + p as usize * xs[i]);
        }
        out.0[k] = from.map_or_else(|| value.0[0], |f| x.0[f]);
        k += 1;
    });
    Ok(())
}

/// Repeats the tensor along each axis until it fills `out_dims`: [Tile](https://onnx.ai/onnx/operators/onnx__Tile.html).
pub fn tile<T: Element>(out: Out<'_, T>, x: In<'_, T>, x_dims: &[usize], out_dims: &[usize]) {
    let xs = strides(x_dims);
    let mut k = 0;
    for_each(out_dims, |at| {
        out.0[k] = x.0[at.iter().zip(x_dims).zip(&xs).map(|((a, d), s)| a % d * s).sum::<usize>()];
        k += 1;
    });
}

/// `values[1]` at each index along a new axis of `depth`, `values[0]` elsewhere; an index out of range marks nothing:
/// [OneHot](https://onnx.ai/onnx/operators/onnx__OneHot.html).
pub fn one_hot<T: Element, I: Index>(out: Out<'_, T>, indices: In<'_, I>, values: In<'_, T>, outer: usize, depth: usize, inner: usize) {
    out.0.fill(values.0[0]);
    for o in 0..outer {
        for i in 0..inner {
            if let Ok(p) = position(indices.0[o * inner + i].at(), depth) {
                out.0[(o * depth + p) * inner + i] = values.0[1];
            }
        }
    }
}

/// Copies a strided region: `out[out_offset + i·out_strides] = x[x_offset + i·x_strides]` for every index of `dims`. The plain form
/// of the transpose family, for any sign of the strides.
pub fn strided<T: Clone>(out: &mut [T], out_strides: &[i64], out_offset: i64, x: &[T], x_strides: &[i64], x_offset: i64, dims: &[usize]) {
    for_each(dims, |at| {
        let dot = |s: &[i64]| at.iter().zip(s).map(|(&a, &s)| a as i64 * s).sum::<i64>();
        out[(out_offset + dot(out_strides)) as usize] = x[(x_offset + dot(x_strides)) as usize].clone();
    });
}
