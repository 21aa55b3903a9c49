//! ScatterElements and ScatterND: a copy of a tensor with elements replaced or combined by index.

use crate::entry::{In, Out};
use crate::fault::{Fault, position};
use crate::index::{for_each, offset, strides};
use crate::num::{Index, Num};
use alloc::{format, vec};

fn combine<T: Num>(mode: &str, old: T, new: T) -> Result<T, Fault> {
    Ok(match mode {
        "none" => new,
        "add" => old.plus(new),
        "mul" => old.times(new),
        "max" => {
            if old.nan() || old > new {
                old
            } else {
                new
            }
        }
        "min" => {
            if old.nan() || old < new {
                old
            } else {
                new
            }
        }
        other => return Err(Fault::Domain(format!("unknown reduction \"{other}\""))),
    })
}

/// `out = x; out[i with i[axis] = indices[i]] ∘= updates[i]`, in row-major order of the indices:
/// [ScatterElements](https://onnx.ai/onnx/operators/onnx__ScatterElements.html).
pub fn scatter_elements<T: Num, I: Index>(
    out: Out<'_, T>,
    x: In<'_, T>,
    indices: In<'_, I>,
    updates: In<'_, T>,
    x_dims: &[usize],
    i_dims: &[usize],
    axis: usize,
    mode: &str,
) -> Result<(), Fault> {
    crate::gather::beside(x_dims, i_dims, axis)?;
    out.0.copy_from_slice(x.0);
    let xs = strides(x_dims);
    let mut k = 0;
    let mut result = Ok(());
    for_each(i_dims, |at| {
        match position(indices.0[k].at(), x_dims[axis]) {
            Ok(p) => {
                let to = offset(at, &xs) - at[axis] * xs[axis] + p * xs[axis];
                match combine(mode, out.0[to], updates.0[k]) {
                    Ok(v) => out.0[to] = v,
                    Err(e) => result = Err(e),
                }
            }
            Err(e) => result = Err(e),
        }
        k += 1;
    });
    result
}

/// Slices of a copy of `x`, addressed by the last axis of `indices`, replaced or combined:
/// [ScatterND](https://onnx.ai/onnx/operators/onnx__ScatterND.html).
pub fn scatter_nd<T: Num, I: Index>(
    out: Out<'_, T>,
    x: In<'_, T>,
    indices: In<'_, I>,
    updates: In<'_, T>,
    x_dims: &[usize],
    i_dims: &[usize],
    mode: &str,
) -> Result<(), Fault> {
    out.0.copy_from_slice(x.0);
    let width = i_dims[i_dims.len() - 1];
    let rows: usize = i_dims[..i_dims.len() - 1].iter().product();
    let inner: usize = x_dims[width..].iter().product();
    if updates.0.len() != rows * inner {
        return Err(Fault::Domain(format!("{} updates for {rows} slices of {inner} elements", updates.0.len())));
    }
    let xs = strides(x_dims);
    let mut at = vec![0usize; width];
    for row in 0..rows {
        for (w, slot) in at.iter_mut().enumerate() {
            *slot = position(indices.0[row * width + w].at(), x_dims[w])?;
        }
        let to = offset(&at, &xs[..width]);
        for i in 0..inner {
            out.0[to + i] = combine(mode, out.0[to + i], updates.0[row * inner + i])?;
        }
    }
    Ok(())
}
