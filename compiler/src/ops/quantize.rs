//! QuantizeLinear, DequantizeLinear and DynamicQuantizeLinear as float arithmetic.

use super::narrow::{is_narrow, narrow, widen};
use super::pointwise::Pointwise;
use super::{Call, CallArg, Facts, Infer, Lowering, Operator, Reader};
use crate::diagnostics::Diagnostic;
use crate::ir::{Dim, Fact, ValueId};
use crate::kernel::{Binary as B, Expr, Unary as U};
use kiln_kernels::dtype::DType;
use kiln_kernels::value::Tensor;

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

/// The least and the greatest value of an integer type.
///
/// # Errors
/// The type is no integer that values are quantized to.
pub fn integer_range(d: DType) -> Result<(f64, f64), Diagnostic> {
    Ok(match d {
        DType::U8 => (0.0, 255.0),
        DType::I8 => (-128.0, 127.0),
        DType::U16 => (0.0, 65535.0),
        DType::I16 => (-32768.0, 32767.0),
        DType::I32 => (i32::MIN as f64, i32::MAX as f64),
        DType::U4 => (0.0, 15.0),
        DType::I4 => (-8.0, 7.0),
        DType::U2 => (0.0, 3.0),
        DType::I2 => (-2.0, 1.0),
        other => return Err(Diagnostic::new(format!("quantization to {other} is not supported yet"))),
    })
}

/// `(x - zero_point) · scale` of an x of type `tx`, with the types of scale, zero point if there is one, and result.
pub fn dequantizer(tx: DType, scale: DType, zero: Option<DType>, out: DType) -> Pointwise {
    let mut e = Expr::default();
    let a = e.input(0, tx);
    let mut y = e.cast(a, DType::F32);
    if let Some(z) = zero {
        let z = e.input(2, z);
        let z = e.cast(z, DType::F32);
        y = e.bin(B::Sub, y, z);
    }
    let scale = e.input(1, scale);
    let scale = e.cast(scale, DType::F32);
    let y = e.bin(B::Mul, y, scale);
    let y = e.cast(y, out);
    e.results.push(y);
    Pointwise { name: "DequantizeLinear", expr: e }
}

/// `saturate(round(x / scale) + zero_point)`, ties to even, for an integer type; packed integers stay the f32 that they are clipped to.
///
/// # Errors
/// The type is no integer that values are quantized to.
pub fn quantizer(tx: DType, scale: DType, zero: Option<DType>, to: DType) -> Result<Pointwise, Diagnostic> {
    let (lo, hi) = integer_range(to)?;
    let mut e = Expr::default();
    let (a, scale) = (e.input(0, tx), e.input(1, scale));
    let (a, scale) = (e.cast(a, DType::F32), e.cast(scale, DType::F32));
    let q = e.bin(B::Div, a, scale);
    let mut y = e.un(U::Round, q);
    if let Some(z) = zero {
        let z = e.input(2, z);
        let z = e.cast(z, DType::F32);
        y = e.bin(B::Add, y, z);
    }
    let (lo, hi) = (e.constant(lo, DType::F32), e.constant(hi, DType::F32));
    let y = e.bin(B::Max, y, lo);
    let y = e.bin(B::Min, y, hi);
    let y = if is_narrow(to) { y } else { e.cast(y, to) };
    e.results.push(y);
    Ok(Pointwise { name: "QuantizeLinear", expr: e })
}

/// Bytes in the other sign: i8 as the u8 that is 128 above, or u8 as the i8 that is 128 below.
pub fn unsigned(from: DType) -> Pointwise {
    let (by, to) = if from == DType::I8 { (128, DType::U8) } else { (-128, DType::I8) };
    let mut e = Expr::default();
    let a = e.input(0, from);
    let (a, by) = (e.cast(a, DType::I32), e.constant(f64::from(by), DType::I32));
    let y = e.bin(B::Add, a, by);
    let y = e.cast(y, to);
    e.results.push(y);
    Pointwise { name: "OffsetBinary", expr: e }
}

/// Constant weights of bytes as integer kernels read them: i8 less zero points.
pub struct Signed {
    /// The weights, where they are others than those given: i8, or i16 where differences fit no byte and are asked for as they are.
    pub weights: Option<Tensor>,
    /// The zero points of i8 that kernels take off, one or one for each output; `None` where they are 0.
    pub zeros: Option<Tensor>,
}

impl Signed {
    /// The form of weights of i8 or u8 with zero points of their type, one or one for each index of the axis `outer`. `wide` asks for
    /// differences as i16 where they fit no byte.
    pub fn of(t: &Tensor, zeros: Option<&Tensor>, outer: usize, wide: bool) -> Option<Signed> {
        if !matches!(t.dtype, DType::U8 | DType::I8) || zeros.is_some_and(|z| z.dtype != t.dtype) {
            return None;
        }
        let (unsigned, dims) = (t.dtype == DType::U8, &t.dims[..]);
        let value = |b: &u8| if unsigned { i16::from(*b) } else { i16::from(*b as i8) };
        let zeros: Vec<i16> = zeros.map_or(vec![0], |z| z.bytes().iter().map(value).collect());
        let inner: usize = dims.get(outer + 1..)?.iter().product::<usize>().max(1);
        let outputs = (*dims.get(outer)?).max(1);
        if zeros.len() != 1 && zeros.len() != outputs {
            return None;
        }
        let zero_of = |i: usize| zeros[i / inner % outputs % zeros.len()];
        let centred: Vec<i16> = t.bytes().iter().enumerate().map(|(i, b)| value(b) - zero_of(i)).collect();
        if let Ok(w) = centred.iter().map(|v| i8::try_from(*v)).collect::<Result<Vec<i8>, _>>() {
            let same = !unsigned && zeros.iter().all(|z| *z == 0);
            return Some(Signed { weights: (!same).then(|| Tensor::new(dims, &w)), zeros: None });
        }
        if wide {
            return Some(Signed { weights: Some(Tensor::new(dims, &centred)), zeros: None });
        }
        let signed = |v: i16| (if unsigned { v - 128 } else { v }) as i8;
        let weights = unsigned.then(|| Tensor::new(dims, &t.bytes().iter().map(|b| signed(value(b))).collect::<Vec<i8>>()));
        let of = if zeros.len() == 1 { vec![] } else { vec![zeros.len()] };
        Some(Signed { weights, zeros: Some(Tensor::new(&of, &zeros.into_iter().map(signed).collect::<Vec<i8>>())) })
    }
}

/// Reads `DequantizeLinear`: `(x - zero_point) · scale`.
pub fn read_dequantize(r: &mut Reader<'_, '_>) -> Read {
    let (x, s) = (r.input(0)?, r.input(1)?);
    let ts = r.dtype(s);
    let out = r.dtype_attr("output_dtype")?.unwrap_or(ts);
    if !is_narrow(r.dtype(x)) {
        integer_range(r.dtype(x))?;
    }
    if let Some(y) = super::few_bits::dequantize(r)? {
        return Ok(vec![y]);
    }
    let x = widen(r, x)?;
    let tx = r.dtype(x);
    // Scales may be powers of two, of 8 bits.
    let s = widen(r, s)?;
    let ts = r.dtype(s);
    let s = spread(r, x, s)?;
    let mut inputs = vec![x, s];
    if let Some(z) = r.opt(2) {
        let z = widen(r, z)?;
        inputs.push(spread(r, x, z)?);
    }
    let zero = inputs.get(2).map(|z| r.dtype(*z));
    if is_narrow(out) {
        let y = r.emit(dequantizer(tx, ts, zero, DType::F32), &inputs)?;
        return Ok(vec![narrow(r, y, out, true, "up")?]);
    }
    Ok(vec![r.emit(dequantizer(tx, ts, zero, out), &inputs)?])
}

/// Reads `QuantizeLinear`: `saturate(round(x / scale) + zero_point)`, ties to even.
pub fn read_quantize(r: &mut Reader<'_, '_>) -> Read {
    let (x, s) = (r.input(0)?, r.input(1)?);
    let s = widen(r, s)?;
    let (tx, ts) = (r.dtype(x), r.dtype(s));
    let zero = r.opt(2);
    let to = match zero {
        Some(z) => r.dtype(z),
        None => r.dtype_attr("output_dtype")?.unwrap_or(DType::U8),
    };
    if is_narrow(to) && to.is_float() {
        return quantize_to_float(r, x, s, to);
    }
    integer_range(to)?;
    let s = spread(r, x, s)?;
    let mut inputs = vec![x, s];
    if let Some(z) = zero {
        let z = widen(r, z)?;
        inputs.push(spread(r, x, z)?);
    }
    let zero = inputs.get(2).map(|z| r.dtype(*z));
    let y = r.emit(quantizer(tx, ts, zero, to)?, &inputs)?;
    Ok(vec![if is_narrow(to) { narrow(r, y, to, true, "up")? } else { y }])
}

/// Quantization to an 8- or 4-bit float: `x / scale`, rounded.
fn quantize_to_float(r: &mut Reader<'_, '_>, x: ValueId, s: ValueId, to: DType) -> Read {
    let (x, s) = (r.cast(x, DType::F32)?, r.cast(s, DType::F32)?);
    let s = spread(r, x, s)?;
    let mut y = r.div(x, s)?;
    if let Some(z) = r.opt(2) {
        let z = widen(r, z)?;
        let z = spread(r, x, z)?;
        y = r.add(y, z)?;
    }
    let saturate = r.int("saturate", 1)? != 0;
    Ok(vec![narrow(r, y, to, saturate, "up")?])
}

/// The scale and the zero point by which all values of a tensor of f32, and 0, are told apart best as u8.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Calibrate;

impl Operator for Calibrate {
    fn infer(&self, cx: &mut Infer<'_>) -> Result<Vec<Fact>, Diagnostic> {
        if cx.dtype(0) != DType::F32 {
            return Err(Diagnostic::new(format!("values are quantized by their range from f32, found {}", cx.dtype(0))));
        }
        Ok(vec![Fact::tensor(DType::F32, vec![]), Fact::tensor(DType::U8, vec![])])
    }
    fn lower(&self, _: &Facts<'_>) -> Lowering {
        let args = vec![CallArg::Out(0), CallArg::Out(1), CallArg::In(0)];
        Lowering::Call(Call { entry: "quantize::parameters", types: vec![], args })
    }
}

/// A tensor quantized by its range: integers, scale and zero point.
///
/// # Errors
/// It is none of f32.
pub fn by_range(r: &mut Reader<'_, '_>, x: ValueId) -> Result<[ValueId; 3], Diagnostic> {
    let parameters = r.emit_all(Calibrate, vec![Some(x)], 2)?;
    let (scale, zero) = (parameters[0], parameters[1]);
    let q = r.emit(quantizer(DType::F32, DType::F32, Some(DType::U8), DType::U8)?, &[x, scale, zero])?;
    Ok([q, scale, zero])
}

/// Reads `DynamicQuantizeLinear`: the scale and zero point from the range of the data, widened to hold 0.
pub fn read_dynamic(r: &mut Reader<'_, '_>) -> Read {
    let x = r.input(0)?;
    Ok(by_range(r, x)?.to_vec())
}
