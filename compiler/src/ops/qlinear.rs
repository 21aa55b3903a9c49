//! Operators on quantized tensors whose parameters are operands: what the integers stand for, the operator on that, and its result quantized.
//!
//! The forms are those of `ai.onnx` (QLinearConv, QLinearMatMul) and of
//! [com.microsoft](https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md), as quantizers write them. They become what
//! graphs with QuantizeLinear and DequantizeLinear around each operator are, so that one set of rules finds the integer kernels of both.

use super::narrow::{is_narrow, narrow, widen};
use super::pointwise::Pointwise;
use super::quantize::{dequantizer, integer_range, quantizer};
use super::{Read as ReadNode, Reader};
use crate::diagnostics::Diagnostic;
use crate::ir::{Dim, ValueId};
use kiln_kernels::dtype::DType;

type Read = Result<Vec<ValueId>, Diagnostic>;
type One = Result<ValueId, Diagnostic>;

/// The version of `ai.onnx` whose operators these are on what integers stand for.
const VERSION: i64 = 21;

/// A parameter in the shape in which it broadcasts to a tensor of `rank` axes: one number, or one for each index of `axis`.
fn along(r: &mut Reader<'_, '_>, p: ValueId, axis: usize, rank: usize) -> One {
    let shape = r.shape(p)?;
    match &shape[..] {
        [] => Ok(p),
        [one] if one.is(1) => r.reshape(p, vec![]),
        [n] if axis < rank => {
            let mut to = vec![Dim::int(1); rank - axis];
            to[0] = n.clone();
            r.reshape(p, to)
        }
        _ => Err(Diagnostic::new(format!("a scale or zero point of shape [{}] does not fit a tensor of rank {rank}", super::list(&shape)))),
    }
}

/// A scale and a zero point that have as many numbers.
fn parameters(r: &mut Reader<'_, '_>, scale: ValueId, zero: Option<ValueId>, axis: usize, rank: usize) -> Result<Vec<ValueId>, Diagnostic> {
    let scale = along(r, scale, axis, rank)?;
    let Some(zero) = zero else { return Ok(vec![scale]) };
    let zero = along(r, zero, axis, rank)?;
    let (s, z) = (r.shape(scale)?, r.shape(zero)?);
    Ok(match (s.is_empty(), z.is_empty()) {
        (false, true) => vec![scale, r.expand(zero, s)?],
        (true, false) => vec![r.expand(scale, z)?, zero],
        _ => vec![scale, zero],
    })
}

/// The numbers that integers stand for; scale and zero point are one for all, or one for each index of `axis`.
fn dequantized(r: &mut Reader<'_, '_>, x: ValueId, scale: ValueId, zero: Option<ValueId>, axis: usize) -> One {
    let tx = r.dtype(x);
    integer_range(tx)?;
    let rank = r.rank(x)?;
    let p = parameters(r, scale, zero, axis, rank)?;
    let op = dequantizer(tx, r.dtype(scale), zero.map(|z| r.dtype(z)), DType::F32);
    r.emit(op, &[&[x], &p[..]].concat())
}

/// Numbers as the integers that stand for them: of the zero point's type, or else of `to`.
fn quantized(r: &mut Reader<'_, '_>, x: ValueId, scale: ValueId, zero: Option<ValueId>, to: DType, axis: usize) -> One {
    let rank = r.rank(x)?;
    let p = parameters(r, scale, zero, axis, rank)?;
    let zero = zero.map(|z| r.dtype(z));
    let op = quantizer(r.dtype(x), r.dtype(scale), zero, zero.unwrap_or(to))?;
    r.emit(op, &[&[x], &p[..]].concat())
}

/// The operand at `i` with the scale and the zero point behind it, as numbers.
fn operand(r: &mut Reader<'_, '_>, i: usize) -> One {
    let (x, scale, zero) = (r.input(i)?, r.input(i + 1)?, r.opt(i + 2));
    dequantized(r, x, scale, zero, 0)
}

/// Another operator's reading of the node, with these operands.
fn within(r: &mut Reader<'_, '_>, inputs: &[ValueId], version: i64, read: ReadNode) -> One {
    let inputs = inputs.iter().map(|v| Some(*v)).collect();
    let mut inner = Reader { b: &mut *r.b, node: r.node, version, inputs };
    Ok(read(&mut inner)?[0])
}

/// The result by the scale and the zero point from operand `i` on, in the type of operand 0 without a zero point.
fn result(r: &mut Reader<'_, '_>, y: ValueId, i: usize) -> Read {
    let (scale, zero, like) = (r.input(i)?, r.opt(i + 1), r.dtype(r.input(0)?));
    Ok(vec![quantized(r, y, scale, zero, like, 0)?])
}

/// Where channels come last, the operands of a reading with channels second, and its result turned back.
fn channels(r: &mut Reader<'_, '_>, x: ValueId, read: impl FnOnce(&mut Reader<'_, '_>, ValueId) -> One) -> One {
    let rank = r.rank(x)?;
    if r.int("channels_last", 0)? == 0 || rank < 3 {
        return read(r, x);
    }
    let first = [0, rank - 1].into_iter().chain(1..rank - 1).collect();
    let x = r.transpose(x, first)?;
    let y = read(r, x)?;
    let last = [0].into_iter().chain(2..rank).chain([1]).collect();
    r.transpose(y, last)
}

/// Reads `QLinearAdd` and `QLinearMul`: operands A and B with scale and zero point each, scale and zero point of the result.
pub fn read_binary(r: &mut Reader<'_, '_>) -> Read {
    let (a, b) = (operand(r, 0)?, operand(r, 3)?);
    let y = if r.node.op_type == "QLinearMul" { r.mul(a, b)? } else { r.add(a, b)? };
    result(r, y, 6)
}

/// Reads `QLinearSigmoid`.
pub fn read_sigmoid(r: &mut Reader<'_, '_>) -> Read {
    let x = operand(r, 0)?;
    let y = r.pointwise("Sigmoid", &[x])?;
    result(r, y, 3)
}

/// Reads `QLinearLeakyRelu`.
pub fn read_leaky_relu(r: &mut Reader<'_, '_>) -> Read {
    let x = operand(r, 0)?;
    let y = r.emit(Pointwise::of("LeakyRelu", &[r.float("alpha", 0.01)?], &[DType::F32])?, &[x])?;
    result(r, y, 3)
}

/// Reads `QLinearAveragePool`.
pub fn read_average(r: &mut Reader<'_, '_>) -> Read {
    let x = operand(r, 0)?;
    let y = channels(r, x, |r, x| within(r, &[x], VERSION, super::pool::read_average))?;
    result(r, y, 3)
}

/// Reads `QLinearGlobalAveragePool`.
pub fn read_global_average(r: &mut Reader<'_, '_>) -> Read {
    let x = operand(r, 0)?;
    let y = channels(r, x, |r, x| within(r, &[x], VERSION, super::pool::read_global))?;
    result(r, y, 3)
}

/// Reads `QLinearSoftmax`, which names the version of the Softmax that it is.
pub fn read_softmax(r: &mut Reader<'_, '_>) -> Read {
    let (x, version) = (operand(r, 0)?, r.int("opset", VERSION)?);
    let y = within(r, &[x], version, super::softmax::read)?;
    result(r, y, 3)
}

/// Reads `QLinearConcat`: scale and zero point of the result, then each part with its own.
pub fn read_concat(r: &mut Reader<'_, '_>) -> Read {
    let parts: Vec<ValueId> = (2..r.inputs.len()).step_by(3).map(|i| operand(r, i)).collect::<Result<_, _>>()?;
    let y = within(r, &parts, VERSION, super::movement::read_concat)?;
    let (scale, zero, like) = (r.input(0)?, r.opt(1), r.dtype(r.input(2)?));
    Ok(vec![quantized(r, y, scale, zero, like, 0)?])
}

/// Reads `QLinearWhere`: a condition, and two operands that it picks from.
pub fn read_where(r: &mut Reader<'_, '_>) -> Read {
    let (c, a, b) = (r.input(0)?, operand(r, 1)?, operand(r, 4)?);
    let y = r.pointwise("Where", &[c, a, b])?;
    let (scale, zero, like) = (r.input(7)?, r.opt(8), r.dtype(r.input(1)?));
    Ok(vec![quantized(r, y, scale, zero, like, 0)?])
}

/// The numbers that a bias in i32 stands for, whose scale is that of the product: one number or one a column.
fn bias(r: &mut Reader<'_, '_>, c: ValueId, [a_scale, b_scale]: [ValueId; 2], alpha: f32) -> One {
    let (a, b) = (along(r, a_scale, 0, 1)?, along(r, b_scale, 0, 1)?);
    let mut scale = r.mul(a, b)?;
    if alpha != 1.0 {
        scale = r.times(scale, f64::from(alpha))?;
    }
    let c = r.cast(c, DType::F32)?;
    r.mul(c, scale)
}

/// Reads `QGemm`: `alpha · op(A) · op(B) + C`, quantized where the scale of the result is given.
pub fn read_gemm(r: &mut Reader<'_, '_>) -> Read {
    let (a, a_scale, b, b_scale) = (r.input(0)?, r.input(1)?, r.input(3)?, r.input(4)?);
    let turned = r.int("transB", 0)? != 0;
    let alpha = r.float("alpha", 1.0)?;
    let (b_zero, a) = (r.opt(5), dequantized(r, a, a_scale, r.opt(2), 0)?);
    let b = dequantized(r, b, b_scale, b_zero, usize::from(!turned))?;
    let mut operands = vec![a, b];
    if let Some(c) = r.opt(6) {
        operands.push(bias(r, c, [a_scale, b_scale], alpha)?);
    }
    let y = within(r, &operands, VERSION, super::matmul::read_gemm)?;
    match r.opt(7) {
        None => Ok(vec![y]),
        Some(_) => result(r, y, 7),
    }
}

/// i32 sums times a scale, plus a zero point, rounded and saturated to the zero point's type.
fn requantize(r: &mut Reader<'_, '_>, sums: ValueId, scale: ValueId, zero: ValueId) -> One {
    let to = r.dtype(zero);
    let (lo, hi) = integer_range(to)?;
    let (y, scale) = (r.cast(sums, DType::F32)?, r.cast(scale, DType::F32)?);
    let y = r.mul(y, scale)?;
    let zero = single(r, zero)?;
    let zero = r.cast(zero, DType::F32)?;
    let y = r.add(y, zero)?;
    let y = r.pointwise("Round", &[y])?;
    let (lo, hi) = (r.scalar(lo, DType::F32), r.scalar(hi, DType::F32));
    let y = r.pointwise("Clip", &[y, lo, hi])?;
    r.cast(y, to)
}

/// A scale or zero point of one element as a scalar.
fn single(r: &mut Reader<'_, '_>, v: ValueId) -> One {
    if r.shape(v)? == [Dim::int(1)] { r.reshape(v, vec![]) } else { Ok(v) }
}

/// The scale of a product: `a · b / y`.
fn joint_scale(r: &mut Reader<'_, '_>, a: ValueId, b: ValueId, y: ValueId) -> One {
    let (a, b, y) = (single(r, a)?, single(r, b)?, single(r, y)?);
    let ab = r.mul(a, b)?;
    r.div(ab, y)
}

/// Reads [QLinearMatMul](https://onnx.ai/onnx/operators/onnx__QLinearMatMul.html).
pub fn read_matmul(r: &mut Reader<'_, '_>) -> Read {
    let v: Vec<ValueId> = (0..8).map(|i| r.input(i)).collect::<Result<_, _>>()?;
    let rank = r.rank(v[3])?;
    if r.constant(v[3]).is_some() && rank == 2 && r.shape(v[1])?.iter().all(|d| d.is(1)) {
        let (a, b) = (operand(r, 0)?, dequantized(r, v[3], v[4], Some(v[5]), 1)?);
        let y = r.matmul(a, b)?;
        return result(r, y, 6);
    }
    // One zero point and scale for each row of A, or each column of B.
    let by_row = |r: &mut Reader<'_, '_>, p: ValueId| {
        let mut shape = r.shape(p)?;
        if shape.len() == 1 && !shape[0].is(1) {
            shape.push(Dim::int(1));
        }
        r.reshape(p, shape)
    };
    let (a_scale, y_scale, y_zero) = (by_row(r, v[1])?, by_row(r, v[6])?, by_row(r, v[7])?);
    if [v[0], v[3], v[7]].iter().any(|x| is_narrow(r.dtype(*x))) {
        // 8-bit floats are multiplied as what they stand for.
        let a_zero = by_row(r, v[2])?;
        let centred = |r: &mut Reader<'_, '_>, x: ValueId, zero: ValueId, scale: ValueId| {
            let (x, zero) = (widen(r, x)?, widen(r, zero)?);
            let (x, zero, scale) = (r.cast(x, DType::F32)?, r.cast(zero, DType::F32)?, r.cast(scale, DType::F32)?);
            let x = r.sub(x, zero)?;
            r.mul(x, scale)
        };
        let (a, b) = (centred(r, v[0], a_zero, a_scale)?, centred(r, v[3], v[5], v[4])?);
        let y = r.matmul(a, b)?;
        let to = r.dtype(y_zero);
        let y_scale = r.cast(y_scale, DType::F32)?;
        if is_narrow(to) {
            let (y, zero) = (r.div(y, y_scale)?, widen(r, y_zero)?);
            let y = r.add(y, zero)?;
            return Ok(vec![narrow(r, y, to, true, "up")?]);
        }
        let op = quantizer(DType::F32, DType::F32, Some(to), to)?;
        return Ok(vec![r.emit(op, &[y, y_scale, y_zero])?]);
    }
    let sums = super::matmul::integers(r, (v[0], Some(v[2])), (v[3], Some(v[5])))?;
    let scale = joint_scale(r, a_scale, v[4], y_scale)?;
    Ok(vec![requantize(r, sums, scale, y_zero)?])
}

/// Reads [QLinearConv](https://onnx.ai/onnx/operators/onnx__QLinearConv.html), of `com.microsoft` also with channels last.
pub fn read_conv(r: &mut Reader<'_, '_>) -> Read {
    let v: Vec<ValueId> = (0..8).map(|i| r.input(i)).collect::<Result<_, _>>()?;
    if r.constant(v[3]).is_some() {
        let w = dequantized(r, v[3], v[4], Some(v[5]), 0)?;
        let bias = r.opt(8).map(|b| bias(r, b, [v[1], v[4]], 1.0)).transpose()?;
        let x = operand(r, 0)?;
        let y = channels(r, x, |r, x| {
            let operands: Vec<ValueId> = [x, w].into_iter().chain(bias).collect();
            within(r, &operands, VERSION, super::conv::read_conv)
        })?;
        return result(r, y, 6);
    }
    let y = channels(r, v[0], |r, x| {
        let x = super::conv::centered(r, x, Some(v[2]))?;
        let w = super::conv::centered(r, v[3], Some(v[5]))?;
        let sums = super::conv::integer(r, x, w, r.opt(8))?;
        let w_scale = single(r, v[4])?;
        let w_scale = along(r, w_scale, 1, r.rank(sums)?)?;
        let scale = joint_scale(r, v[1], w_scale, v[6])?;
        requantize(r, sums, scale, v[7])
    })?;
    Ok(vec![y])
}

/// The product of integers as numbers: sums times both scales, plus a bias.
pub(super) fn scaled(r: &mut Reader<'_, '_>, sums: ValueId, scales: [ValueId; 2], bias: Option<ValueId>) -> Read {
    let sums = r.cast(sums, DType::F32)?;
    let (a, b) = (single(r, scales[0])?, single(r, scales[1])?);
    let scale = r.mul(a, b)?;
    let y = r.mul(sums, scale)?;
    Ok(vec![match bias {
        Some(b) => r.add(y, b)?,
        None => y,
    }])
}

/// Reads `MatMulIntegerToFloat`: operands A, B, their scales, their zero points, a bias.
pub fn read_to_float(r: &mut Reader<'_, '_>) -> Read {
    let (a, b) = (r.input(0)?, r.input(1)?);
    let sums = super::matmul::integers(r, (a, r.opt(4)), (b, r.opt(5)))?;
    let scales = [r.input(2)?, r.input(3)?];
    scaled(r, sums, scales, r.opt(6))
}

/// Reads `DynamicQuantizeMatMul`: A, quantized by its range, times B with its scale and zero point, plus a bias.
pub fn read_dynamic_matmul(r: &mut Reader<'_, '_>) -> Read {
    let (a, b) = (r.input(0)?, r.input(1)?);
    let [a, a_scale, a_zero] = super::quantize::by_range(r, a)?;
    let sums = super::matmul::integers(r, (a, Some(a_zero)), (b, r.opt(3)))?;
    let scales = [a_scale, r.input(2)?];
    scaled(r, sums, scales, r.opt(4))
}
