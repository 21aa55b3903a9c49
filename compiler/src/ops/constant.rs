//! Tensors made from nothing: Constant, ConstantOfShape, Range, EyeLike and Trilu's mask.

use super::moved::moved;
use super::pointwise::computes;
use super::{Reader, movement::Expand};
use crate::diagnostics::Diagnostic;
use crate::ir::{Dim, ValueId};
use crate::onnx::Attribute;
use kiln_kernels::dtype::DType;
use kiln_kernels::value::Tensor;

type Read = Result<Vec<ValueId>, Diagnostic>;

/// Reads `Constant`, in each of its encodings.
pub fn read_constant(r: &mut Reader<'_, '_>) -> Read {
    let text = |b: &[u8]| String::from_utf8(b.to_vec()).map_err(|_| Diagnostic::new("a string of Constant is not UTF-8"));
    let t = match r.node.attributes.iter().find(|(n, _)| n.starts_with("value") || n == "sparse_value").map(|(_, a)| a) {
        Some(Attribute::Tensor(t) | Attribute::SparseTensor(t)) => t.clone(),
        Some(Attribute::Float(x)) => Tensor::scalar(*x),
        Some(Attribute::Floats(x)) => Tensor::new(&[x.len()], x),
        Some(Attribute::Int(x)) => Tensor::scalar(*x),
        Some(Attribute::Ints(x)) => Tensor::new(&[x.len()], x),
        Some(Attribute::String(s)) => Tensor::strings(&[], vec![text(s)?]),
        Some(Attribute::Strings(s)) => Tensor::strings(&[s.len()], s.iter().map(|s| text(s)).collect::<Result<_, _>>()?),
        _ => return Err(Diagnostic::new("Constant has no value")),
    };
    Ok(vec![r.tensor(t)])
}

/// Reads `ConstantOfShape`.
pub fn read_constant_of_shape(r: &mut Reader<'_, '_>) -> Read {
    let shape = r.input(0)?;
    let value = match r.node.attribute("value") {
        Some(Attribute::Tensor(t)) if t.len() == 1 => Tensor { dims: vec![], ..t.clone() },
        None => Tensor::scalar(0f32),
        Some(_) => return Err(Diagnostic::new("the value of ConstantOfShape must be a tensor of one element")),
    };
    let value = r.tensor(value);
    match r.dims(shape).map(<[Dim]>::to_vec) {
        Some(shape) => {
            if let Some(d) = shape.iter().find(|d| d.as_int().is_some_and(|n| n < 0)) {
                return Err(Diagnostic::new(format!("ConstantOfShape has the extent {d}")));
            }
            if shape.is_empty() {
                return Ok(vec![value]);
            }
            Ok(vec![r.emit(Expand { shape }, &[value])?])
        }
        None => super::host::dynamic(r, value, shape),
    }
}

/// Reads `Range`; a constant one is a constant, any other a host function whose length is a symbol.
pub fn read_range(r: &mut Reader<'_, '_>) -> Read {
    let inputs = [r.input(0)?, r.input(1)?, r.input(2)?];
    let dtype = r.dtype(inputs[0]);
    let known: Option<Vec<f64>> = inputs.iter().map(|v| r.constant(*v)?.to_f64s()?.first().copied()).collect();
    // `Range(0, n, 1)` over an extent: as long as the extent.
    let n = match (r.dims(inputs[0]), r.dims(inputs[1]), r.dims(inputs[2])) {
        (Some([start]), Some([limit]), Some([step])) if step.is(1) => Some((limit.clone() - start.clone()).most(&Dim::int(0))),
        _ => {
            known.filter(|v| v[2] != 0.0).map(|v| ((v[1] - v[0]) / v[2]).ceil().max(0.0)).filter(|n| *n < 1e12).map(|n| Dim::int(n as i64))
        }
    };
    super::host::range(r, inputs, dtype, n)
}

/// Reads [EyeLike](https://onnx.ai/onnx/operators/onnx__EyeLike.html).
pub fn read_eye_like(r: &mut Reader<'_, '_>) -> Read {
    let x = r.input(0)?;
    let dtype = r.dtype_attr("dtype")?.unwrap_or(r.dtype(x));
    let k = r.int("k", 0)?;
    let diagonal = diagonals(r, x)?;
    let k = r.tensor(Tensor::scalar(k));
    let on = r.pointwise("Equal", &[diagonal, k])?;
    Ok(vec![r.cast(on, dtype)?])
}

/// The diagonal that each element of matrices lies on, `[rows, columns]` of i64: 0 on the main one, above it more.
fn diagonals(r: &mut Reader<'_, '_>, x: ValueId) -> Result<ValueId, Diagnostic> {
    let shape = r.shape(x)?;
    let [.., h, w] = &shape[..] else {
        return Err(Diagnostic::new(format!("needs matrices, found [{}]", super::cx::list(&shape))));
    };
    let (row, column) = (r.iota(h.clone())?, r.iota(w.clone())?);
    let row = r.reshape(row, vec![h.clone(), Dim::int(1)])?;
    r.pointwise("Sub", &[column, row])
}

/// Reads [Trilu](https://onnx.ai/onnx/operators/onnx__Trilu.html): the triangle of a matrix kept, by a mask that folds where shapes are closed.
pub fn read_trilu(r: &mut Reader<'_, '_>) -> Read {
    let x = r.input(0)?;
    let upper = r.int("upper", 1)? != 0;
    let diagonal = diagonals(r, x)?;
    let k = match r.opt(1) {
        None => r.scalar(0.0, DType::I64),
        Some(v) => r.reshape(v, vec![])?,
    };
    let mask = r.pointwise(if upper { "GreaterOrEqual" } else { "LessOrEqual" }, &[diagonal, k])?;
    let zero = match r.dtype(x) {
        DType::Str => Tensor::strings(&[], vec![String::new()]),
        dtype => Tensor::zeros(dtype, &[]),
    };
    let zero = r.tensor(zero);
    Ok(vec![moved(r, &[x, zero], computes, |r, x| r.pointwise("Where", &[mask, x[0], x[1]]))?])
}
