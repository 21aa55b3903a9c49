//! QuantizeLinear, DequantizeLinear and DynamicQuantizeLinear, as float arithmetic.

use super::pointwise::Pointwise;
use super::{Reader, reduce::Reduce};
use crate::diagnostics::Diagnostic;
use crate::ir::{Dim, ValueId};
use crate::kernel::{Binary as B, Expr, Unary as U};
use kiln_kernels::dtype::DType;

type Read = Result<Vec<ValueId>, Diagnostic>;

/// Scale or zero point shaped to broadcast against x: one for all, one per index of the axis, or one per block of it.
fn spread(r: &mut Reader<'_, '_>, x: ValueId, p: ValueId) -> Result<ValueId, Diagnostic> {
    let (xs, ps) = (r.shape(x)?, r.shape(p)?);
    let block = r.int("block_size", 0)?;
    if ps.is_empty() || (ps.len() == 1 && ps[0].is(1) && block == 0) {
        return r.reshape(p, vec![]);
    }
    let axis = r.int("axis", 1)?;
    let axis = r.axis(axis, xs.len())?;
    if block > 0 && ps.len() == xs.len() {
        let mut split = ps.clone();
        split.insert(axis + 1, Dim::int(1));
        let mut wide = ps.clone();
        wide.insert(axis + 1, Dim::int(block));
        let y = r.reshape(p, split)?;
        let y = r.emit(super::movement::Expand { shape: wide }, &[y])?;
        let mut merged = ps;
        merged[axis] = merged[axis].clone() * Dim::int(block);
        return r.reshape(y, merged);
    }
    if ps.len() != 1 || (ps[0] != xs[axis] && ps[0].as_int().is_some() && xs[axis].as_int().is_some()) {
        return Err(Diagnostic::new(format!(
            "scales of shape [{}] do not fit axis {axis} of [{}]",
            super::cx::list(&ps),
            super::cx::list(&xs)
        )));
    }
    let mut shape = vec![Dim::int(1); xs.len() - axis];
    shape[0] = ps[0].clone();
    r.reshape(p, shape)
}

fn integer_range(d: DType) -> Result<(f64, f64), Diagnostic> {
    Ok(match d {
        DType::U8 => (0.0, 255.0),
        DType::I8 => (-128.0, 127.0),
        DType::U16 => (0.0, 65535.0),
        DType::I16 => (-32768.0, 32767.0),
        DType::I32 => (i32::MIN as f64, i32::MAX as f64),
        other => return Err(Diagnostic::new(format!("quantization to {other} is not supported yet"))),
    })
}

/// Reads `DequantizeLinear`: `(x - zero_point) · scale`.
pub fn read_dequantize(r: &mut Reader<'_, '_>) -> Read {
    let (x, s) = (r.input(0)?, r.input(1)?);
    let (tx, ts) = (r.dtype(x), r.dtype(s));
    integer_range(tx)?;
    let out = r.dtype_attr("output_dtype")?.unwrap_or(ts);
    let s = spread(r, x, s)?;
    let mut e = Expr::default();
    let a = e.input(0, tx);
    let mut y = e.cast(a, DType::F32);
    let mut inputs = vec![x, s];
    if let Some(z) = r.opt(2) {
        let z = spread(r, x, z)?;
        let z2 = e.input(2, r.dtype(z));
        let z2 = e.cast(z2, DType::F32);
        y = e.bin(B::Sub, y, z2);
        inputs.push(z);
    }
    let scale = e.input(1, ts);
    let scale = e.cast(scale, DType::F32);
    let y = e.bin(B::Mul, y, scale);
    let y = e.cast(y, out);
    e.results.push(y);
    Ok(vec![r.emit(Pointwise { name: "DequantizeLinear", expr: e }, &inputs)?])
}

/// Reads `QuantizeLinear`: `saturate(round(x / scale) + zero_point)`, ties to even.
pub fn read_quantize(r: &mut Reader<'_, '_>) -> Read {
    let (x, s) = (r.input(0)?, r.input(1)?);
    let (tx, ts) = (r.dtype(x), r.dtype(s));
    let zero = r.opt(2);
    let to = match zero {
        Some(z) => r.dtype(z),
        None => r.dtype_attr("output_dtype")?.unwrap_or(DType::U8),
    };
    let (lo, hi) = integer_range(to)?;
    let s = spread(r, x, s)?;
    let mut e = Expr::default();
    let (a, scale) = (e.input(0, tx), e.input(1, ts));
    let (a, scale) = (e.cast(a, DType::F32), e.cast(scale, DType::F32));
    let q = e.bin(B::Div, a, scale);
    let mut y = e.un(U::Round, q);
    let mut inputs = vec![x, s];
    if let Some(z) = zero {
        let z = spread(r, x, z)?;
        let z2 = e.input(2, to);
        let z2 = e.cast(z2, DType::F32);
        y = e.bin(B::Add, y, z2);
        inputs.push(z);
    }
    let (lo, hi) = (e.constant(lo, DType::F32), e.constant(hi, DType::F32));
    let y = e.bin(B::Max, y, lo);
    let y = e.bin(B::Min, y, hi);
    let y = e.cast(y, to);
    e.results.push(y);
    Ok(vec![r.emit(Pointwise { name: "QuantizeLinear", expr: e }, &inputs)?])
}

/// Reads `DynamicQuantizeLinear`: the scale and zero point from the range of the data, widened to hold 0.
pub fn read_dynamic(r: &mut Reader<'_, '_>) -> Read {
    let x = r.input(0)?;
    let rank = r.rank(x)?;
    let extreme = |r: &mut Reader<'_, '_>, mode| -> Result<ValueId, Diagnostic> {
        let y = r.emit(Reduce { mode, axes: (0..rank).collect(), keep: false }, &[x])?;
        let zero = r.scalar(0.0, DType::F32);
        r.pointwise(if mode == "max" { "Max" } else { "Min" }, &[y, zero])
    };
    let (hi, lo) = (extreme(r, "max")?, extreme(r, "min")?);
    let span = r.pointwise("Sub", &[hi, lo])?;
    let steps = r.scalar(255.0, DType::F32);
    let scale = r.pointwise("Div", &[span, steps])?;
    let quotient = r.pointwise("Div", &[lo, scale])?;
    let zero = r.pointwise("Neg", &[quotient])?;
    let (least, most) = (r.scalar(0.0, DType::F32), r.scalar(255.0, DType::F32));
    let zero = r.pointwise("Clip", &[zero, least, most])?;
    let zero = r.pointwise("Round", &[zero])?;
    let q = r.pointwise("Div", &[x, scale])?;
    let q = r.pointwise("Round", &[q])?;
    let q = r.pointwise("Add", &[q, zero])?;
    let q = r.pointwise("Clip", &[q, least, most])?;
    Ok(vec![r.cast(q, DType::U8)?, scale, r.cast(zero, DType::U8)?])
}
