//! Gather, GatherElements and GatherND: elements picked by index tensors.

use crate::entry::{In, Out};
use crate::fault::{Fault, position};
use crate::gemm::PANEL;
use crate::gemm::narrow::fixed_column;
use crate::index::{for_each, offset, strides};
use crate::num::{Float, Index, Num};
use crate::value::Element;
use alloc::{format, vec};

/// `out[o, i.., k] = x[o, indices[i..], k]` for `x` of shape `[outer, axis, inner]`:
/// [Gather](https://onnx.ai/onnx/operators/onnx__Gather.html).
pub fn gather<T: Element, I: Index>(
    out: Out<'_, T>,
    x: In<'_, T>,
    indices: In<'_, I>,
    outer: usize,
    axis: usize,
    inner: usize,
) -> Result<(), Fault> {
    let n = indices.0.len();
    for (j, index) in indices.0.iter().enumerate() {
        let p = position(index.at(), axis)?;
        for o in 0..outer {
            out.0[(o * n + j) * inner..][..inner].copy_from_slice(&x.0[(o * axis + p) * inner..][..inner]);
        }
    }
    Ok(())
}

/// [`gather`] of rows from a matrix whose transpose is packed for [`gemm`](crate::gemm): `panels` is `[ceil(rows / 16)][cols][16]`, and a
/// row lies in it a cache line apart from element to element. A table that is also a factor of a product is so stored once.
pub fn gather_panels<T: Element, I: Index>(
    out: Out<'_, T>,
    panels: In<'_, T>,
    indices: In<'_, I>,
    rows: usize,
    cols: usize,
) -> Result<(), Fault> {
    for (j, index) in indices.0.iter().enumerate() {
        let p = position(index.at(), rows)?;
        let row = &panels.0[p / PANEL * cols * PANEL + p % PANEL..];
        for (c, o) in out.0[j * cols..][..cols].iter_mut().enumerate() {
            *o = row[c * PANEL];
        }
    }
    Ok(())
}

/// [`gather_panels`] of fixed point, as [`pack_fixed`](crate::gemm::narrow::pack_fixed) packs it.
pub fn gather_fixed<I: Index>(out: Out<'_, f32>, panels: In<'_, u8>, indices: In<'_, I>, rows: usize, cols: usize) -> Result<(), Fault> {
    for (j, index) in indices.0.iter().enumerate() {
        fixed_column(cols, panels.0, position(index.at(), rows)?, &mut out.0[j * cols..][..cols]);
    }
    Ok(())
}

/// `out[k] = a[i[k]] + b[j[k]] + more[k]` for tables `a` of `[a_rows, cols]` and `b` of `[b_rows, cols]`, row by row.
pub fn lookup<T: Float, I: Index>(
    out: Out<'_, T>,
    a: In<'_, T>,
    i: In<'_, I>,
    b: In<'_, T>,
    j: In<'_, I>,
    more: Option<In<'_, T>>,
    a_rows: usize,
    b_rows: usize,
    cols: usize,
) -> Result<(), Fault> {
    for (k, (i, j)) in i.0.iter().zip(j.0).enumerate() {
        let (p, q) = (position(i.at(), a_rows)?, position(j.at(), b_rows)?);
        let (x, y) = (&a.0[p * cols..][..cols], &b.0[q * cols..][..cols]);
        let row = &mut out.0[k * cols..][..cols];
        match more {
            Some(more) => {
                let z = &more.0[k * cols..][..cols];
                row.iter_mut().zip(x).zip(y).zip(z).for_each(|(((o, x), y), z)| *o = x.plus(*y).plus(*z));
            }
            None => row.iter_mut().zip(x).zip(y).for_each(|((o, x), y)| *o = x.plus(*y)),
        }
    }
    Ok(())
}

/// `out[r] = x[r] · w[indices[r]]` for rows of `k` elements and `count` matrices `[k, n]`. `dims` are the extents of the indices, and
/// `x_rows` the steps in rows of `x` along them, 0 where a row is repeated. The reference of [`Grouped`](crate::gemm::Grouped).
pub fn gather_matmul<T: Num, I: Index>(
    out: Out<'_, T>,
    x: In<'_, T>,
    w: In<'_, T>,
    indices: In<'_, I>,
    dims: &[usize],
    x_rows: &[usize],
    count: usize,
    k: usize,
    n: usize,
) -> Result<(), Fault> {
    let mut r = 0;
    let mut fault = None;
    for_each(dims, |at| {
        match position(indices.0[r].at(), count) {
            Ok(p) => {
                let (x, w) = (&x.0[offset(at, x_rows) * k..][..k], &w.0[p * k * n..][..k * n]);
                let out = &mut out.0[r * n..][..n];
                out.fill(T::ZERO);
                for (j, x) in x.iter().enumerate() {
                    out.iter_mut().zip(&w[j * n..][..n]).for_each(|(o, y)| *o = o.plus(x.times(*y)));
                }
            }
            Err(e) => fault = fault.take().or(Some(e)),
        }
        r += 1;
    });
    fault.map_or(Ok(()), Err)
}

/// Checks that an index tensor stays inside of the data on every axis but the one whose positions it holds.
pub(crate) fn beside(x_dims: &[usize], i_dims: &[usize], axis: usize) -> Result<(), Fault> {
    match (0..x_dims.len()).find(|&i| i != axis && i_dims[i] > x_dims[i]) {
        Some(i) => Err(Fault::Domain(format!("the indices have extent {} at axis {i}, the data {}", i_dims[i], x_dims[i]))),
        None => Ok(()),
    }
}

/// `out[i] = x[i with i[axis] replaced by indices[i]]`:
/// [GatherElements](https://onnx.ai/onnx/operators/onnx__GatherElements.html).
pub fn gather_elements<T: Element, I: Index>(
    out: Out<'_, T>,
    x: In<'_, T>,
    indices: In<'_, I>,
    x_dims: &[usize],
    i_dims: &[usize],
    axis: usize,
) -> Result<(), Fault> {
    beside(x_dims, i_dims, axis)?;
    let xs = strides(x_dims);
    let mut k = 0;
    let mut fault = None;
    for_each(i_dims, |at| {
        match position(indices.0[k].at(), x_dims[axis]) {
            Ok(p) => out.0[k] = x.0[offset(at, &xs) - at[axis] * xs[axis] + p * xs[axis]],
            Err(e) => fault = Some(e),
        }
        k += 1;
    });
    fault.map_or(Ok(()), Err)
}

/// Slices of `x` addressed by the last axis of `indices`, after `batch` shared axes:
/// [GatherND](https://onnx.ai/onnx/operators/onnx__GatherND.html).
pub fn gather_nd<T: Element, I: Index>(
    out: Out<'_, T>,
    x: In<'_, T>,
    indices: In<'_, I>,
    x_dims: &[usize],
    i_dims: &[usize],
    batch: usize,
) -> Result<(), Fault> {
    let width = i_dims[i_dims.len() - 1];
    if x_dims[..batch] != i_dims[..batch] {
        return Err(Fault::Domain(format!("data {x_dims:?} and indices {i_dims:?} differ in their {batch} batch axes")));
    }
    let batches: usize = x_dims[..batch].iter().product();
    let per_batch: usize = i_dims[batch..i_dims.len() - 1].iter().product();
    let inner: usize = x_dims[batch + width..].iter().product();
    let x_batch: usize = x_dims[batch..].iter().product();
    let xs = strides(x_dims);
    let mut at = vec![0usize; width];
    for b in 0..batches {
        for p in 0..per_batch {
            let row = b * per_batch + p;
            for (w, slot) in at.iter_mut().enumerate() {
                *slot = position(indices.0[row * width + w].at(), x_dims[batch + w])?;
            }
            let from = b * x_batch + offset(&at, &xs[batch..batch + width]);
            out.0[row * inner..][..inner].copy_from_slice(&x.0[from..][..inner]);
        }
    }
    Ok(())
}
