//! Host functions on dense tensors whose result shapes depend on data.

use super::complex::pairs;
use super::{Answer, HostArgs, extents, ints, pick, tensor};
use crate::dtype::{DType, bf16, f16};
use crate::fault::{Fault, position};
use crate::index::{for_each, offset, strides};
use crate::value::{Tensor, Value};
use alloc::{format, vec, vec::Vec};

/// Operands x and shape; attribute allowzero: [Reshape](https://onnx.ai/onnx/operators/onnx__Reshape.html).
pub(super) fn reshape(inputs: &[Option<&Value>], args: HostArgs<'_>) -> Answer {
    let x = tensor(inputs, 0)?;
    let mut shape = ints(inputs, 1)?.unwrap_or_default();
    if args.ints.first() != Some(&1) {
        for (i, d) in shape.iter_mut().enumerate().filter(|(_, d)| **d == 0) {
            *d = *x.dims.get(i).ok_or_else(|| Fault::Domain(format!("the shape copies extent {i} of a tensor of rank {}", x.dims.len())))?
                as i64;
        }
    }
    if let Some(open) = shape.iter().position(|d| *d == -1) {
        let rest: i64 = shape.iter().enumerate().filter(|(i, _)| *i != open).map(|(_, d)| *d).product();
        shape[open] = if rest == 0 { 0 } else { x.len() as i64 / rest };
    }
    let dims = extents(&shape)?;
    if dims.iter().product::<usize>() != x.len() {
        return Err(Fault::Domain(format!("a tensor of shape {:?} cannot become {dims:?}", x.dims)));
    }
    Ok(vec![Tensor { dims, ..x.clone() }.into()])
}

/// Operands x and shape: [Expand](https://onnx.ai/onnx/operators/onnx__Expand.html).
pub(super) fn expand(inputs: &[Option<&Value>], _: HostArgs<'_>) -> Answer {
    let x = tensor(inputs, 0)?;
    let want = extents(&ints(inputs, 1)?.unwrap_or_default())?;
    let rank = want.len().max(x.dims.len());
    let at = |d: &[usize], i: usize| if i + d.len() >= rank { d[i + d.len() - rank] } else { 1 };
    let mut dims = Vec::new();
    for i in 0..rank {
        let (a, b) = (at(&x.dims, i), at(&want, i));
        if a != b && a != 1 && b != 1 {
            return Err(Fault::Domain(format!("shape {:?} does not broadcast to {want:?}", x.dims)));
        }
        dims.push(if a == 1 { b } else { a });
    }
    let s = strides(&x.dims);
    let skip = rank - x.dims.len();
    let step: Vec<usize> = (0..rank).map(|i| if i < skip || x.dims[i - skip] == 1 { 0 } else { s[i - skip] }).collect();
    let mut from = Vec::new();
    for_each(&dims, |i| from.push(offset(i, &step)));
    Ok(vec![pick(x, &dims, &from).into()])
}

/// Operands x and repeats: [Tile](https://onnx.ai/onnx/operators/onnx__Tile.html).
pub(super) fn tile(inputs: &[Option<&Value>], _: HostArgs<'_>) -> Answer {
    let x = tensor(inputs, 0)?;
    let repeats = extents(&ints(inputs, 1)?.unwrap_or_default())?;
    if repeats.len() != x.dims.len() {
        return Err(Fault::Domain(format!("{} repeats for rank {}", repeats.len(), x.dims.len())));
    }
    let dims: Vec<usize> = x.dims.iter().zip(&repeats).map(|(d, r)| d * r).collect();
    let s = strides(&x.dims);
    let mut from = Vec::new();
    for_each(&dims, |i| from.push(i.iter().zip(&x.dims).zip(&s).map(|((a, d), s)| a % d * s).sum()));
    Ok(vec![pick(x, &dims, &from).into()])
}

/// Operands x, starts, ends, axes, steps: [Slice](https://onnx.ai/onnx/operators/onnx__Slice.html).
pub(super) fn slice(inputs: &[Option<&Value>], _: HostArgs<'_>) -> Answer {
    let x = tensor(inputs, 0)?;
    let starts = ints(inputs, 1)?.unwrap_or_default();
    let ends = ints(inputs, 2)?.unwrap_or_default();
    let axes = ints(inputs, 3)?.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = ints(inputs, 4)?.unwrap_or_else(|| vec![1; starts.len()]);
    if starts.len() != ends.len() || axes.len() != starts.len() || steps.len() != starts.len() {
        return Err(Fault::Domain("starts, ends, axes and steps differ in length".into()));
    }
    let rank = x.dims.len();
    let (mut first, mut step, mut dims) = (vec![0i64; rank], vec![1i64; rank], x.dims.clone());
    for k in 0..starts.len() {
        let a = position(axes[k], rank)?;
        let n = x.dims[a] as i64;
        let from_end = |i: i64| if i < 0 { i.saturating_add(n) } else { i };
        if steps[k] == 0 {
            return Err(Fault::Domain(format!("the step of axis {a} is 0")));
        }
        let (lo, hi) = if steps[k] > 0 { (0, n) } else { (-1, n - 1) };
        let (start, end) = (from_end(starts[k]).clamp(lo.max(0).min(hi.max(0)), hi.max(0)), from_end(ends[k]).clamp(lo, hi.max(lo)));
        let span = if steps[k] > 0 { end - start } else { start - end };
        (first[a], step[a]) = (start, steps[k]);
        dims[a] = if span > 0 && n > 0 { ((span - 1) / steps[k].saturating_abs() + 1) as usize } else { 0 };
    }
    let s = strides(&x.dims);
    let mut from = Vec::new();
    for_each(&dims, |i| from.push((0..rank).map(|a| (first[a] + i[a] as i64 * step[a]) as usize * s[a]).sum()));
    Ok(vec![pick(x, &dims, &from).into()])
}

/// The indices of elements that are not zero, an axis a row: [NonZero](https://onnx.ai/onnx/operators/onnx__NonZero.html).
pub(super) fn nonzero(inputs: &[Option<&Value>], _: HostArgs<'_>) -> Answer {
    let x = tensor(inputs, 0)?;
    // -0.0 has a bit set and is zero, so floats are compared as numbers.
    let hit: Vec<bool> = match x.to_f64s() {
        Some(v) => v.iter().map(|v| *v != 0.0).collect(),
        None if x.dtype == DType::Str => x.as_strings().iter().map(|s| !s.is_empty()).collect(),
        None if x.dtype.is_complex() => pairs(x).iter().map(|c| *c != (0.0, 0.0)).collect(),
        None => return Err(Fault::Domain(format!("NonZero of {} is not supported", x.dtype))),
    };
    let rank = x.dims.len();
    let mut rows: Vec<Vec<i64>> = vec![Vec::new(); rank];
    let mut k = 0;
    for_each(&x.dims, |at| {
        if hit[k] {
            rows.iter_mut().zip(at).for_each(|(row, a)| row.push(*a as i64));
        }
        k += 1;
    });
    let n = rows.first().map_or(0, Vec::len);
    Ok(vec![Tensor::new(&[rank, n], &rows.concat()).into()])
}

/// Operands x and condition; attribute axis or none: [Compress](https://onnx.ai/onnx/operators/onnx__Compress.html).
pub(super) fn compress(inputs: &[Option<&Value>], args: HostArgs<'_>) -> Answer {
    let (x, c) = (tensor(inputs, 0)?, tensor(inputs, 1)?);
    let (axis, dims) = match args.ints.first() {
        Some(a) => (position(*a, x.dims.len())?, x.dims.clone()),
        None => (0, vec![x.len()]),
    };
    let kept: Vec<usize> = c.bytes().iter().enumerate().filter(|(i, b)| **b != 0 && *i < dims[axis]).map(|(i, _)| i).collect();
    let s = strides(&dims);
    let mut out = dims;
    out[axis] = kept.len();
    let mut from = Vec::new();
    for_each(&out, |i| from.push(offset(i, &s) - i[axis] * s[axis] + kept[i[axis]] * s[axis]));
    Ok(vec![pick(x, &out, &from).into()])
}

/// Operands start, limit, delta: [Range](https://onnx.ai/onnx/operators/onnx__Range.html).
pub(super) fn range(inputs: &[Option<&Value>], _: HostArgs<'_>) -> Answer {
    let (start, limit, delta) = (tensor(inputs, 0)?, tensor(inputs, 1)?, tensor(inputs, 2)?);
    let one = |t: &Tensor| t.to_f64s().and_then(|v| v.first().copied()).ok_or_else(|| Fault::Domain("Range needs numbers".into()));
    let (a, b, d) = (one(start)?, one(limit)?, one(delta)?);
    if d == 0.0 || d.is_nan() {
        return Err(Fault::Domain(format!("Range has the step {d}")));
    }
    let n = ((b - a) / d).ceil().max(0.0);
    if !n.is_finite() || n > (1u64 << 40) as f64 {
        return Err(Fault::Domain(format!("Range would have {n} elements")));
    }
    let n = n as usize;
    macro_rules! count {
        ($t:ty) => {{
            let (a, d) = (start.slice::<$t>()[0], delta.slice::<$t>()[0]);
            let v: Vec<$t> = (0..n).map(|i| a.wrapping_add((i as $t).wrapping_mul(d))).collect();
            Tensor::new(&[n], &v)
        }};
    }
    macro_rules! steps {
        ($t:ty, $of:expr) => {{
            let v: Vec<$t> = (0..n).map(|i| $of(a + i as f64 * d)).collect();
            Tensor::new(&[n], &v)
        }};
    }
    Ok(vec![
        match start.dtype {
            DType::I64 => count!(i64),
            DType::I32 => count!(i32),
            DType::I16 => count!(i16),
            DType::F32 => {
                let (a, d) = (start.slice::<f32>()[0], delta.slice::<f32>()[0]);
                let v: Vec<f32> = (0..n).map(|i| a + i as f32 * d).collect();
                Tensor::new(&[n], &v)
            }
            DType::F64 => steps!(f64, |v: f64| v),
            DType::F16 => steps!(f16, |v: f64| f16::from_f32(v as f32)),
            DType::Bf16 => steps!(bf16, |v: f64| bf16::from_f32(v as f32)),
            other => return Err(Fault::Domain(format!("Range of {other} is not supported"))),
        }
        .into(),
    ])
}
