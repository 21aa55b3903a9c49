//! Host functions on sequences.

use super::{Answer, HostArgs, ints, pick, tensor};
use crate::dtype::DType;
use crate::fault::{Fault, position};
use crate::index::{for_each, offset, strides};
use crate::value::{Tensor, Value};
use alloc::{format, vec, vec::Vec};

fn sequence<'a>(inputs: &[Option<&'a Value>]) -> Result<&'a Vec<Value>, Fault> {
    match inputs.first().copied().flatten() {
        Some(Value::Sequence(s)) => Ok(s),
        _ => Err(Fault::Domain("operand 0 is no sequence".into())),
    }
}

fn index(inputs: &[Option<&Value>], i: usize, len: usize, default: i64) -> Result<usize, Fault> {
    let at = ints(inputs, i)?.and_then(|v| v.first().copied()).unwrap_or(default);
    position(at, len)
}

/// The operand itself.
pub(super) fn identity(inputs: &[Option<&Value>], _: HostArgs<'_>) -> Answer {
    let x = inputs.first().copied().flatten().ok_or_else(|| Fault::Domain("there is no operand".into()))?;
    Ok(vec![x.clone()])
}

/// The operands in order: [SequenceConstruct](https://onnx.ai/onnx/operators/onnx__SequenceConstruct.html).
pub(super) fn construct(inputs: &[Option<&Value>], _: HostArgs<'_>) -> Answer {
    Ok(vec![Value::Sequence(inputs.iter().flatten().map(|v| (*v).clone()).collect())])
}

/// Operands sequence, value and optional position, which may be the length:
/// [SequenceInsert](https://onnx.ai/onnx/operators/onnx__SequenceInsert.html).
pub(super) fn insert(inputs: &[Option<&Value>], _: HostArgs<'_>) -> Answer {
    let mut s = sequence(inputs)?.clone();
    let n = s.len() as i64;
    let at = ints(inputs, 2)?.and_then(|v| v.first().copied()).unwrap_or(n);
    let value = inputs.get(1).copied().flatten().ok_or_else(|| Fault::Domain("nothing to insert".into()))?;
    let at = if at == n { s.len() } else { position(at, s.len())? };
    s.insert(at, value.clone());
    Ok(vec![Value::Sequence(s)])
}

/// Operands sequence and optional position: [SequenceErase](https://onnx.ai/onnx/operators/onnx__SequenceErase.html).
pub(super) fn erase(inputs: &[Option<&Value>], _: HostArgs<'_>) -> Answer {
    let mut s = sequence(inputs)?.clone();
    let at = index(inputs, 1, s.len(), -1)?;
    s.remove(at);
    Ok(vec![Value::Sequence(s)])
}

/// Operands sequence and position: [SequenceAt](https://onnx.ai/onnx/operators/onnx__SequenceAt.html).
pub(super) fn at(inputs: &[Option<&Value>], _: HostArgs<'_>) -> Answer {
    let s = sequence(inputs)?;
    Ok(vec![s[index(inputs, 1, s.len(), 0)?].clone()])
}

/// [SequenceLength](https://onnx.ai/onnx/operators/onnx__SequenceLength.html).
pub(super) fn length(inputs: &[Option<&Value>], _: HostArgs<'_>) -> Answer {
    Ok(vec![Tensor::scalar(sequence(inputs)?.len() as i64).into()])
}

/// The operand, or nothing: [Optional](https://onnx.ai/onnx/operators/onnx__Optional.html).
pub(super) fn optional(inputs: &[Option<&Value>], _: HostArgs<'_>) -> Answer {
    Ok(vec![Value::Optional(inputs.first().copied().flatten().map(|v| v.clone().into()))])
}

/// [OptionalHasElement](https://onnx.ai/onnx/operators/onnx__OptionalHasElement.html).
pub(super) fn has_element(inputs: &[Option<&Value>], _: HostArgs<'_>) -> Answer {
    let there = !matches!(inputs.first(), Some(None | Some(Value::Optional(None))));
    Ok(vec![Tensor::with_dtype(DType::Bool, &[], &[there as u8]).into()])
}

/// [OptionalGetElement](https://onnx.ai/onnx/operators/onnx__OptionalGetElement.html).
pub(super) fn get_element(inputs: &[Option<&Value>], _: HostArgs<'_>) -> Answer {
    match inputs.first().copied().flatten() {
        Some(Value::Optional(Some(v))) => Ok(vec![(**v).clone()]),
        Some(Value::Optional(None)) | None => Err(Fault::Domain("the optional value is not there".into())),
        Some(v) => Ok(vec![v.clone()]),
    }
}

/// Attributes axis and new_axis: [ConcatFromSequence](https://onnx.ai/onnx/operators/onnx__ConcatFromSequence.html).
pub(super) fn concat(inputs: &[Option<&Value>], args: HostArgs<'_>) -> Answer {
    let parts: Vec<&Tensor> = sequence(inputs)?.iter().filter_map(Value::as_tensor).collect();
    let Some(first) = parts.first() else { return Err(Fault::Domain("there is nothing to concatenate".into())) };
    let stack = args.ints[1] != 0;
    let axis = position(args.ints[0], first.dims.len() + stack as usize)?;
    let shaped = |t: &Tensor| {
        let mut d = t.dims.clone();
        if stack {
            d.insert(axis, 1);
        }
        d
    };
    let mut dims = shaped(first);
    dims[axis] = parts.iter().map(|p| shaped(p)[axis]).sum();
    let (outer, inner) = (dims[..axis].iter().product::<usize>(), dims[axis + 1..].iter().product::<usize>());
    for p in &parts {
        let d = shaped(p);
        if p.dtype != first.dtype || d.len() != dims.len() || (0..d.len()).any(|i| i != axis && d[i] != dims[i]) {
            return Err(Fault::Domain(format!("tensors of shape {:?} and {:?} do not concatenate", first.dims, p.dims)));
        }
    }
    let mut out = Tensor::zeros(first.dtype, &dims);
    let (size, row) = (first.dtype.size(), dims[axis] * inner);
    let mut at = 0;
    for p in &parts {
        let n = shaped(p)[axis] * inner;
        for o in 0..outer {
            if size == 0 {
                out.strings_mut()[o * row + at..][..n].clone_from_slice(&p.as_strings()[o * n..][..n]);
            } else {
                out.bytes_mut()[(o * row + at) * size..][..n * size].copy_from_slice(&p.bytes()[o * n * size..][..n * size]);
            }
        }
        at += n;
    }
    Ok(vec![out.into()])
}

/// Operands x and optional piece sizes (one for all, or a list); attributes axis and keepdims:
/// [SplitToSequence](https://onnx.ai/onnx/operators/onnx__SplitToSequence.html).
pub(super) fn split(inputs: &[Option<&Value>], args: HostArgs<'_>) -> Answer {
    let x = tensor(inputs, 0)?;
    let (axis, n) = (args.ints[0] as usize, x.dims[args.ints[0] as usize]);
    let given = inputs.get(1).copied().flatten().and_then(Value::as_tensor);
    let sizes: Vec<usize> = match (given, ints(inputs, 1)?) {
        (Some(t), Some(v)) if t.dims.is_empty() => {
            let size = v[0].max(1) as usize;
            (0..n.div_ceil(size)).map(|i| size.min(n - i * size)).collect()
        }
        (_, Some(v)) => v.iter().map(|s| (*s).max(0) as usize).collect(),
        _ => vec![1; n],
    };
    if sizes.iter().sum::<usize>() != n {
        return Err(Fault::Domain(format!("pieces {sizes:?} do not add up to {n}")));
    }
    let s = strides(&x.dims);
    let mut at = 0;
    let mut out = Vec::new();
    for size in sizes {
        let mut dims = x.dims.clone();
        dims[axis] = size;
        let mut from = Vec::new();
        for_each(&dims, |i| from.push(offset(i, &s) + at * s[axis]));
        let mut piece = pick(x, &dims, &from);
        if given.is_none() && args.ints[1] == 0 {
            piece.dims.remove(axis);
        }
        out.push(Value::Tensor(piece));
        at += size;
    }
    Ok(vec![Value::Sequence(out)])
}
