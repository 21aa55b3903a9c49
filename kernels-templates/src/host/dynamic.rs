//! Operators whose axes, pads, sizes or counts are known only at run time: the operands are resolved here, and the very kernel that
//! the closed form calls does the work.

use super::{Answer, HostArgs, extents, ints, tensor};
use crate::dtype::DType;
use crate::entry::{self, Arg};
use crate::fault::{Fault, position};
use crate::value::{Tensor, Value};
use alloc::string::ToString;
use alloc::{format, vec, vec::Vec};

/// Calls a kernel of the table.
pub(super) fn kernel(name: &str, types: &[DType], mut args: Vec<Arg<'_>>) -> Result<(), Fault> {
    let entry = entry::find(name).ok_or_else(|| Fault::Domain(format!("there is no kernel {name}; this is a bug")))?;
    match entry.generics.iter().zip(types).find(|(class, t)| !class.takes(**t)) {
        Some((_, t)) => Err(Fault::Domain(format!("{name} does not take {t}"))),
        None => (entry.run)(types, &mut args),
    }
}

/// Axes as positions; none twice.
fn positions(axes: &[i64], rank: usize) -> Result<Vec<usize>, Fault> {
    let mut out = Vec::new();
    for &a in axes {
        let a = position(a, rank)?;
        if out.contains(&a) {
            return Err(Fault::Domain(format!("axis {a} is named twice")));
        }
        out.push(a);
    }
    Ok(out)
}

fn first(inputs: &[Option<&Value>], i: usize, what: &str) -> Result<i64, Fault> {
    match ints(inputs, i)?.as_deref() {
        Some([x]) => Ok(*x),
        _ => Err(Fault::Domain(format!("{what} is no single integer"))),
    }
}

fn around(dims: &[usize], axis: usize) -> [usize; 3] {
    [dims[..axis].iter().product(), dims[axis], dims[axis + 1..].iter().product()]
}

/// Operands x and axes; attributes keepdims, noop_with_empty_axes and the mode of [`crate::reduce::reduce`].
pub(super) fn reduce(inputs: &[Option<&Value>], args: HostArgs<'_>) -> Answer {
    let x = tensor(inputs, 0)?;
    let rank = x.dims.len();
    let mut axes = positions(&ints(inputs, 1)?.unwrap_or_default(), rank)?;
    if axes.is_empty() && args.ints[1] == 0 {
        axes = (0..rank).collect();
    }
    let keep = args.ints[0] != 0;
    let dims: Vec<usize> = (0..rank).filter_map(|i| if axes.contains(&i) { keep.then_some(1) } else { Some(x.dims[i]) }).collect();
    let mut out = Tensor::zeros(x.dtype, &dims);
    let marks = (0..rank).map(|i| axes.contains(&i) as i64).collect();
    let list = vec![Arg::Out(&mut out), Arg::In(x), Arg::Dims(x.dims.clone()), Arg::Ints(marks), Arg::Text(args.text[0].to_string())];
    kernel("reduce::reduce", &[x.dtype], list)?;
    Ok(vec![out.into()])
}

/// Operands x and axes: [Squeeze](https://onnx.ai/onnx/operators/onnx__Squeeze.html).
pub(super) fn squeeze(inputs: &[Option<&Value>], _: HostArgs<'_>) -> Answer {
    let x = tensor(inputs, 0)?;
    let axes = positions(&ints(inputs, 1)?.unwrap_or_default(), x.dims.len())?;
    if let Some(a) = axes.iter().find(|a| x.dims[**a] != 1) {
        return Err(Fault::Domain(format!("axis {a} has extent {} and cannot be squeezed", x.dims[*a])));
    }
    let dims = (0..x.dims.len()).filter(|i| !axes.contains(i)).map(|i| x.dims[i]).collect();
    Ok(vec![Tensor { dims, ..x.clone() }.into()])
}

/// Operands x and axes: [Unsqueeze](https://onnx.ai/onnx/operators/onnx__Unsqueeze.html).
pub(super) fn unsqueeze(inputs: &[Option<&Value>], _: HostArgs<'_>) -> Answer {
    let x = tensor(inputs, 0)?;
    let axes = ints(inputs, 1)?.unwrap_or_default();
    let axes = positions(&axes, x.dims.len() + axes.len())?;
    let mut rest = x.dims.iter();
    let rank = x.dims.len() + axes.len();
    let dims = (0..rank).map(|i| if axes.contains(&i) { 1 } else { rest.next().copied().unwrap_or(1) }).collect();
    Ok(vec![Tensor { dims, ..x.clone() }.into()])
}

/// Operands x, pads, value, optional axes; attribute: the mode of [`crate::copy::pad`].
pub(super) fn pad(inputs: &[Option<&Value>], args: HostArgs<'_>) -> Answer {
    let (x, value) = (tensor(inputs, 0)?, tensor(inputs, 2)?);
    let rank = x.dims.len();
    let pads = ints(inputs, 1)?.unwrap_or_default();
    let axes = match ints(inputs, 3)? {
        Some(a) => positions(&a, rank)?,
        None => (0..rank).collect(),
    };
    if pads.len() != 2 * axes.len() || pads.iter().any(|p| p.unsigned_abs() > 1 << 40) {
        return Err(Fault::Domain(format!("the pads {pads:?} do not fit {} axes", axes.len())));
    }
    let mut full = vec![0; 2 * rank];
    for (k, &a) in axes.iter().enumerate() {
        full[a] = pads[k];
        full[rank + a] = pads[axes.len() + k];
    }
    let shape: Vec<i64> = (0..rank).map(|i| x.dims[i] as i64 + full[i] + full[rank + i]).collect();
    let mut out = Tensor::zeros(x.dtype, &extents(&shape)?);
    let list = vec![
        Arg::Out(&mut out),
        Arg::In(x),
        Arg::In(value),
        Arg::Dims(x.dims.clone()),
        Arg::Ints(full),
        Arg::Text(args.text[0].to_string()),
    ];
    kernel("copy::pad", &[x.dtype], list)?;
    Ok(vec![out.into()])
}

/// Operands x and k; attributes axis and largest: [TopK](https://onnx.ai/onnx/operators/onnx__TopK.html).
pub(super) fn top_k(inputs: &[Option<&Value>], args: HostArgs<'_>) -> Answer {
    let x = tensor(inputs, 0)?;
    let axis = position(args.ints[0], x.dims.len())?;
    let k = first(inputs, 1, "the k of TopK")?;
    if k < 0 || k > x.dims[axis] as i64 {
        return Err(Fault::Domain(format!("TopK of {k} elements of an axis with {}", x.dims[axis])));
    }
    let mut dims = x.dims.clone();
    dims[axis] = k as usize;
    let (mut values, mut positions) = (Tensor::zeros(x.dtype, &dims), Tensor::zeros(DType::I64, &dims));
    let [outer, n, inner] = around(&x.dims, axis);
    let list = vec![
        Arg::Out(&mut values),
        Arg::Out(&mut positions),
        Arg::In(x),
        Arg::Dim(outer),
        Arg::Dim(n),
        Arg::Dim(inner),
        Arg::Dim(k as usize),
        Arg::Bool(args.ints[1] != 0),
    ];
    kernel("sort::top_k", &[x.dtype], list)?;
    Ok(vec![values.into(), positions.into()])
}

/// Operands x and axis; attributes exclusive and reverse, and the kernel:
/// [CumSum](https://onnx.ai/onnx/operators/onnx__CumSum.html) and CumProd.
pub(super) fn scan(inputs: &[Option<&Value>], args: HostArgs<'_>) -> Answer {
    let x = tensor(inputs, 0)?;
    let [outer, n, inner] = around(&x.dims, position(first(inputs, 1, "the axis")?, x.dims.len())?);
    let mut out = Tensor::zeros(x.dtype, &x.dims);
    let list = vec![
        Arg::Out(&mut out),
        Arg::In(x),
        Arg::Dim(outer),
        Arg::Dim(n),
        Arg::Dim(inner),
        Arg::Bool(args.ints[0] != 0),
        Arg::Bool(args.ints[1] != 0),
    ];
    kernel(args.text[0], &[x.dtype], list)?;
    Ok(vec![out.into()])
}

/// Operands indices (i64), depth and values; attribute axis: [OneHot](https://onnx.ai/onnx/operators/onnx__OneHot.html).
pub(super) fn one_hot(inputs: &[Option<&Value>], args: HostArgs<'_>) -> Answer {
    let (x, depth, values) = (tensor(inputs, 0)?, tensor(inputs, 1)?, tensor(inputs, 2)?);
    let axis = position(args.ints[0], x.dims.len() + 1)?;
    let depth = depth.to_f64s().and_then(|d| d.first().copied()).unwrap_or(-1.0);
    if !(0.0..=i32::MAX as f64).contains(&depth) {
        return Err(Fault::Domain(format!("the depth of OneHot is {depth}")));
    }
    let mut shape: Vec<i64> = x.dims.iter().map(|d| *d as i64).collect();
    shape.insert(axis, depth as i64);
    let mut out = Tensor::zeros(values.dtype, &extents(&shape)?);
    let (outer, inner) = (x.dims[..axis].iter().product(), x.dims[axis..].iter().product());
    let list = vec![Arg::Out(&mut out), Arg::In(x), Arg::In(values), Arg::Dim(outer), Arg::Dim(depth as usize), Arg::Dim(inner)];
    kernel("copy::one_hot", &[values.dtype, x.dtype], list)?;
    Ok(vec![out.into()])
}

/// Operands x and piece sizes; attributes axis and the number of pieces: [Split](https://onnx.ai/onnx/operators/onnx__Split.html).
pub(super) fn split(inputs: &[Option<&Value>], args: HostArgs<'_>) -> Answer {
    let x = tensor(inputs, 0)?;
    let axis = position(args.ints[0], x.dims.len())?;
    let sizes = extents(&ints(inputs, 1)?.unwrap_or_default())?;
    if sizes.len() as i64 != args.ints[1] || sizes.iter().sum::<usize>() != x.dims[axis] {
        return Err(Fault::Domain(format!("pieces {sizes:?} do not make up {} in {} pieces", x.dims[axis], args.ints[1])));
    }
    let [outer, n, inner] = around(&x.dims, axis);
    let mut at = 0;
    let mut out = Vec::new();
    for size in sizes {
        let mut dims = x.dims.clone();
        dims[axis] = size;
        let from: Vec<usize> =
            (0..outer).flat_map(|o| (at..at + size).flat_map(move |a| (0..inner).map(move |i| (o * n + a) * inner + i))).collect();
        out.push(super::pick(x, &dims, &from).into());
        at += size;
    }
    Ok(out)
}
