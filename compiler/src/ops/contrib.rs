//! Operators of `com.microsoft` that ONNX Runtime's optimizers write, in terms of the standard's, so that rules and fusions find them:
//! activations with a bias, products and convolutions with an activation, normalizations behind a sum, embeddings.
//! [ContribOperators](https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md) defines them.

use super::norm::{GroupNorm, LayerNorm};
use super::pointwise::Pointwise;
use super::{Reader, conv, matmul};
use crate::diagnostics::{Diagnostic, shown};
use crate::ir::{Dim, ValueId};
use kiln_kernels::dtype::DType;

type Read = Result<Vec<ValueId>, Diagnostic>;
type One = Result<ValueId, Diagnostic>;

/// The type that a float type is computed in.
pub(super) fn wide(dtype: DType) -> DType {
    if dtype == DType::F64 { dtype } else { DType::F32 }
}

/// An activation of the pointwise table.
fn activate(r: &mut Reader<'_, '_>, name: &'static str, attrs: &[f32], x: ValueId) -> One {
    let op = Pointwise::of(name, attrs, &[r.dtype(x)])?;
    r.emit(op, &[x])
}

/// The operand at `i` added, if it is there.
fn plus(r: &mut Reader<'_, '_>, x: ValueId, i: usize) -> One {
    match r.opt(i) {
        Some(b) => r.add(x, b),
        None => Ok(x),
    }
}

/// Reads `Gelu`, `BiasGelu`, `FastGelu` (by tanh) and `QuickGelu` (`x · sigmoid(alpha · x)`), behind a bias where there is one.
pub fn read_gelu(r: &mut Reader<'_, '_>) -> Read {
    let x = r.input(0)?;
    let x = plus(r, x, 1)?;
    let (name, attrs): (&'static str, Vec<f32>) = match r.node.op_type.as_str() {
        "FastGelu" => ("GeluTanh", vec![]),
        "QuickGelu" => ("Swish", vec![r.float("alpha", 1.702)?]),
        _ => ("Gelu", vec![]),
    };
    Ok(vec![activate(r, name, &attrs, x)?])
}

/// Reads `BiasSplitGelu`: the halves of the last axis, the left times the Gelu of the right.
pub fn read_split_gelu(r: &mut Reader<'_, '_>) -> Read {
    let x = r.input(0)?;
    let x = plus(r, x, 1)?;
    let shape = r.shape(x)?;
    let (axis, width) = match shape.last().and_then(|d| d.exact_div(&Dim::int(2))) {
        Some(half) => (shape.len() - 1, half),
        None => return Err(Diagnostic::new(format!("BiasSplitGelu cannot halve [{}]", super::cx::list(&shape)))),
    };
    let (left, right) = (r.cut(x, axis, Dim::int(0), width.clone(), 1)?, r.cut(x, axis, width.clone(), width, 1)?);
    let right = activate(r, "Gelu", &[], right)?;
    Ok(vec![r.mul(left, right)?])
}

/// Reads `BiasAdd`: three operands summed.
pub fn read_bias_add(r: &mut Reader<'_, '_>) -> Read {
    let (x, bias) = (r.input(0)?, r.input(1)?);
    let y = r.add(x, bias)?;
    Ok(vec![plus(r, y, 2)?])
}

/// Reads `BiasSoftmax`: a softmax over the axes from `axis` on, of a sum; the bias repeats in front of its own axes, or, where
/// `is_inner_broadcast` is 0, behind the first ones.
pub fn read_bias_softmax(r: &mut Reader<'_, '_>) -> Read {
    let (x, mut bias) = (r.input(0)?, r.input(1)?);
    let (shape, own) = (r.shape(x)?, r.shape(bias)?);
    let axis = r.int("axis", 1)?;
    let axis = r.axis(axis, shape.len())?;
    if r.int("is_inner_broadcast", 1)? == 0 && own.len() == shape.len() {
        // Extents of 1 stand where it repeats already.
        bias = r.reshape(bias, own)?;
    }
    let sum = r.add(x, bias)?;
    let flat = r.reshape(sum, vec![crate::ir::product(&shape[..axis]), crate::ir::product(&shape[axis..])])?;
    let y = r.softmax(flat, 1)?;
    Ok(vec![r.reshape(y, shape)?])
}

/// The activation that attribute `activation` names, with parameters in the order of `from`.
fn named(r: &mut Reader<'_, '_>, x: ValueId, parameters: &[f32]) -> One {
    let word = r.str("activation", "")?;
    let p = |i: usize, default: f32| parameters.get(i).copied().unwrap_or(default);
    match word.as_str() {
        "" => Ok(x),
        "Relu" => r.pointwise("Relu", &[x]),
        "Tanh" => r.pointwise("Tanh", &[x]),
        "Sigmoid" => r.pointwise("Sigmoid", &[x]),
        "Softplus" => r.pointwise("Softplus", &[x]),
        "Softsign" => r.pointwise("Softsign", &[x]),
        "LeakyRelu" => activate(r, "LeakyRelu", &[p(0, 0.01)], x),
        "Elu" => activate(r, "Elu", &[p(0, 1.0)], x),
        "ThresholdedRelu" => activate(r, "ThresholdedRelu", &[p(0, 1.0)], x),
        "HardSigmoid" => activate(r, "HardSigmoid", &[p(0, 0.2), p(1, 0.5)], x),
        "Selu" => activate(r, "Selu", &[p(0, 1.673_263_2), p(1, 1.050_701)], x),
        "HardSwish" => activate(r, "HardSwish", &[], x),
        "Clip" => {
            let dtype = r.dtype(x);
            let (lo, hi) = (r.scalar(p(0, f32::MIN) as f64, dtype), r.scalar(p(1, f32::MAX) as f64, dtype));
            r.pointwise("Clip", &[x, lo, hi])
        }
        "Gelu" => activate(r, "Gelu", &[], x),
        other => Err(Diagnostic::new(format!("there is no activation \"{}\"", shown(other)))),
    }
}

/// Reads `GemmFastGelu`: a product, a bias where there is one, and a Gelu by tanh.
pub fn read_gemm_gelu(r: &mut Reader<'_, '_>) -> Read {
    let (a, b) = (r.input(0)?, r.input(1)?);
    let y = r.matmul(a, b)?;
    let y = plus(r, y, 2)?;
    Ok(vec![activate(r, "GeluTanh", &[], y)?])
}

/// Reads `FusedConv`: a convolution with bias, operand 3 added, and an activation.
pub fn read_conv(r: &mut Reader<'_, '_>) -> Read {
    let y = conv::read_conv(r)?[0];
    let y = plus(r, y, 3)?;
    let parameters = r.floats("activation_params")?.unwrap_or_default();
    Ok(vec![named(r, y, &parameters)?])
}

/// `[N, .., C]` as `[N, C, ..]`, or back.
fn channels(r: &mut Reader<'_, '_>, x: ValueId, first: bool) -> One {
    let rank = r.rank(x)?;
    if rank < 3 {
        return Err(Diagnostic::new(format!("images need rank 3 or more, found {rank}")));
    }
    let perm = match first {
        true => [vec![0, rank - 1], (1..rank - 1).collect()].concat(),
        false => [vec![0], (2..rank).collect(), vec![1]].concat(),
    };
    r.transpose(x, perm)
}

/// Reads `NhwcConv` and `NhwcFusedConv`: convolutions of images with their channels last. Weights of the second are those of Conv, those
/// of the first have their channels last, too, as ONNX Runtime's kernel and optimizer have it; the definition does not say so.
pub fn read_nhwc_conv(r: &mut Reader<'_, '_>) -> Read {
    let last: &[usize] = if r.node.op_type == "NhwcConv" { &[0, 1] } else { &[0, 3] };
    for &i in last {
        if let Some(x) = r.opt(i) {
            r.inputs[i] = Some(channels(r, x, true)?);
        }
    }
    let y = read_conv(r)?[0];
    Ok(vec![channels(r, y, false)?])
}

/// An operand of a product, transposed as the attributes say: `trans_batch` moves the first axis before the last, `trans` swaps the
/// last two.
fn factor(r: &mut Reader<'_, '_>, i: usize, trans: &str, trans_batch: &str) -> One {
    let mut x = r.input(i)?;
    let rank = r.rank(x)?;
    if rank > 2 && r.int(trans_batch, 0)? != 0 {
        x = r.transpose(x, [(1..rank - 1).collect(), vec![0, rank - 1]].concat())?;
    }
    if rank > 1 && r.int(trans, 0)? != 0 {
        x = r.transpose(x, [(0..rank - 2).collect(), vec![rank - 1, rank - 2]].concat())?;
    }
    Ok(x)
}

/// Reads `FusedMatMul`, `TransposeMatMul` and `FusedMatMulActivation`: a product of transposed operands, times alpha.
pub fn read_matmul(r: &mut Reader<'_, '_>) -> Read {
    let (a, b) = (factor(r, 0, "transA", "transBatchA")?, factor(r, 1, "transB", "transBatchB")?);
    let mut y = r.matmul(a, b)?;
    let alpha = r.float("alpha", 1.0)?;
    if alpha != 1.0 {
        y = r.times(y, alpha as f64)?;
    }
    let parameters: Vec<f32> = [r.float_opt("activation_alpha")?, r.float_opt("activation_beta")?].into_iter().map_while(|p| p).collect();
    Ok(vec![named(r, y, &parameters)?])
}

/// Reads `FusedGemm`.
pub fn read_gemm(r: &mut Reader<'_, '_>) -> Read {
    let y = matmul::read_gemm(r)?[0];
    let parameters: Vec<f32> = [r.float_opt("activation_alpha")?, r.float_opt("activation_beta")?].into_iter().map_while(|p| p).collect();
    Ok(vec![named(r, y, &parameters)?])
}

/// The sum of operands 0, 1 and, where it is there, `bias`; the second may lack the batch.
fn skipped(r: &mut Reader<'_, '_>, bias: usize) -> One {
    let (x, skip) = (r.input(0)?, r.input(1)?);
    let y = r.add(x, skip)?;
    plus(r, y, bias)
}

/// `x` of any float type through the normalization of its last axis, in that type; then, where the node wants them, the statistics.
fn normalized(r: &mut Reader<'_, '_>, x: ValueId, scale: ValueId, bias: Option<ValueId>, epsilon: f32) -> Read {
    let (dtype, rank) = (r.dtype(x), r.rank(x)?);
    if rank == 0 {
        return Err(Diagnostic::new("a scalar has no last axis to normalize"));
    }
    let op = LayerNorm { axis: rank - 1, epsilon: epsilon.into(), centred: true };
    let mut inputs = vec![Some(x), Some(scale), bias];
    for v in inputs.iter_mut().flatten() {
        *v = r.cast(*v, wide(dtype))?;
    }
    let results = if r.node.op_type.starts_with("Skip") && (r.wants(1) || r.wants(2)) { 3 } else { 1 };
    let mut out = r.emit_all(op, inputs, results)?;
    out[0] = r.cast(out[0], dtype)?;
    Ok(out)
}

/// Reads `SkipLayerNormalization`: operands input, skip, gamma, beta and bias; results the normalized sum, mean, inverse deviation, sum.
pub fn read_skip_norm(r: &mut Reader<'_, '_>) -> Read {
    let sum = skipped(r, 4)?;
    let (gamma, epsilon) = (r.input(2)?, r.float("epsilon", 1e-12)?);
    let mut out = normalized(r, sum, gamma, r.opt(3), epsilon)?;
    // Statistics that nobody wants have no value; the sum stands in their places.
    out.resize(4, sum);
    Ok(out)
}

/// `x / rms · scale` over the axes from `axis` on, and `1 / rms`.
fn simplified(r: &mut Reader<'_, '_>, x: ValueId, scale: ValueId, axis: usize) -> Result<[ValueId; 2], Diagnostic> {
    let (dtype, rank, epsilon) = (r.dtype(x), r.rank(x)?, r.float("epsilon", 1e-5)?);
    let (x, scale) = (r.cast(x, wide(dtype))?, r.cast(scale, wide(dtype))?);
    let square = r.mul(x, x)?;
    let mean = r.reduce(square, "mean", &(axis..rank).collect::<Vec<_>>(), true)?;
    let sum = r.plus(mean, epsilon as f64)?;
    let rms = r.pointwise("Sqrt", &[sum])?;
    let y = r.div(x, rms)?;
    let y = r.mul(y, scale)?;
    let y = r.cast(y, dtype)?;
    let wanted = (1..3).any(|i| r.wants(i));
    Ok([y, if wanted { r.pointwise("Reciprocal", &[rms])? } else { y }])
}

/// Reads `SimplifiedLayerNormalization`, which ONNX Runtime has in the standard's domain: RMSNormalization, and the inverse it used.
pub fn read_simplified_norm(r: &mut Reader<'_, '_>) -> Read {
    let (x, scale) = (r.input(0)?, r.input(1)?);
    let axis = r.int("axis", -1)?;
    let axis = r.axis(axis, r.rank(x)?)?;
    Ok(simplified(r, x, scale, axis)?.to_vec())
}

/// Reads `SkipSimplifiedLayerNormalization`: operands input, skip, gamma and bias; the results of [`read_skip_norm`], of which a node
/// has no mean.
pub fn read_skip_simplified_norm(r: &mut Reader<'_, '_>) -> Read {
    let sum = skipped(r, 3)?;
    let (gamma, rank) = (r.input(2)?, r.rank(sum)?);
    if rank == 0 {
        return Err(Diagnostic::new("a scalar has no last axis to normalize"));
    }
    let [y, inverse] = simplified(r, sum, gamma, rank - 1)?;
    Ok(vec![y, inverse, inverse, sum])
}

/// Reads `EmbedLayerNormalization`: rows of tables for words, positions and segments, summed and normalized; how many words the mask
/// leaves; the sum.
pub fn read_embed_norm(r: &mut Reader<'_, '_>) -> Read {
    let (ids, words, places) = (r.ranked(0, 2)?, r.input(2)?, r.input(3)?);
    let shape = r.shape(ids)?;
    let rows = |r: &mut Reader<'_, '_>, table: ValueId, i: ValueId| super::gather::gathered(r, super::gather::Gather { axis: 0 }, table, i);
    let mut sum = rows(r, words, ids)?;
    let place = match r.opt(8) {
        Some(p) => rows(r, places, p)?,
        None => r.cut(places, 0, Dim::int(0), shape[1].clone(), 1)?,
    };
    sum = r.add(sum, place)?;
    if let (Some(i), Some(table)) = (r.opt(1), r.opt(4)) {
        let segment = rows(r, table, i)?;
        sum = r.add(sum, segment)?;
    }
    let (gamma, epsilon) = (r.input(5)?, r.float("epsilon", 1e-12)?);
    let y = normalized(r, sum, gamma, r.opt(6), epsilon)?[0];
    let count = match r.opt(7) {
        Some(mask) => {
            let one = r.scalar(1.0, r.dtype(mask));
            let set = r.pointwise("Equal", &[mask, one])?;
            let set = r.cast(set, DType::I32)?;
            r.reduce(set, "sum", &[1], false)?
        }
        None => {
            let zero = r.scalar(0.0, DType::I32);
            r.expand(zero, vec![shape[0].clone()])?
        }
    };
    Ok(vec![y, count, sum])
}

/// A normalization of groups of channels, with an activation, of images whose channels stand last unless `channels_last` is 0.
fn group_norm(r: &mut Reader<'_, '_>, x: ValueId) -> One {
    let last = r.int("channels_last", 1)? != 0;
    let dtype = r.dtype(x);
    let mut y = r.cast(x, wide(dtype))?;
    if last {
        y = channels(r, y, true)?;
    }
    let groups = r.int("groups", 0)?;
    if groups < 1 {
        return Err(Diagnostic::new(format!("attribute groups is {groups}, expected 1 or more")));
    }
    let (gamma, beta) = (r.input(1)?, r.input(2)?);
    let (gamma, beta) = (r.cast(gamma, wide(dtype))?, r.cast(beta, wide(dtype))?);
    y = r.emit(GroupNorm { groups: groups as usize, epsilon: r.float("epsilon", 1e-5)?.into() }, &[y, gamma, beta])?;
    if r.int("activation", 0)? == 1 {
        y = activate(r, "Swish", &[1.0], y)?;
    }
    if last {
        y = channels(r, y, false)?;
    }
    r.cast(y, dtype)
}

/// Reads `GroupNorm`.
pub fn read_group_norm(r: &mut Reader<'_, '_>) -> Read {
    let x = r.input(0)?;
    Ok(vec![group_norm(r, x)?])
}

/// Reads `SkipGroupNorm`: behind a sum of operands 0, 3 and 4, which is the second result.
pub fn read_skip_group_norm(r: &mut Reader<'_, '_>) -> Read {
    let (x, mut skip) = (r.input(0)?, r.input(3)?);
    let s = r.shape(skip)?;
    if let [n, c] = &s[..] {
        skip = r.reshape(skip, vec![n.clone(), Dim::int(1), Dim::int(1), c.clone()])?;
    }
    let sum = r.add(x, skip)?;
    let sum = plus(r, sum, 4)?;
    Ok(vec![group_norm(r, sum)?, sum])
}

/// Reads `ExpandDims`: an axis of extent 1 at a constant place.
pub fn read_expand_dims(r: &mut Reader<'_, '_>) -> Read {
    let (x, at) = (r.input(0)?, r.input(1)?);
    let at = r.const_ints(at).and_then(|v| v.first().copied()).ok_or_else(|| Diagnostic::new("the axis of ExpandDims is computed"))?;
    let at = r.axis(at, r.rank(x)? + 1)?;
    Ok(vec![r.unsqueeze(x, at)?])
}

/// Reads an operator of the same name as the standard has at opset 13, and with its meaning there.
pub fn read_as_13(r: &mut Reader<'_, '_>) -> Read {
    let schema = super::find("", &r.node.op_type).ok_or_else(|| Diagnostic::new("the standard has no operator of this name"))?;
    r.version = 13;
    (schema.read)(r)
}

/// Reads `GridSample`, which is the standard's of opset 16.
pub fn read_grid_sample(r: &mut Reader<'_, '_>) -> Read {
    r.version = 16;
    super::grid_sample::read(r)
}

/// Reads `Unique` of a list: its elements in the order of their first occurrence, which of them each element is, and how often it occurs.
pub fn read_unique(r: &mut Reader<'_, '_>) -> Read {
    let x = r.ranked(0, 1)?;
    let [y, _, inverse, counts] = super::host::unique(r, x, false, None)?[..] else {
        return Err(Diagnostic::new("Unique gives four results"));
    };
    Ok(vec![y, inverse, counts])
}

/// Reads `BiasDropout`: Dropout of a sum, and operand 2 added behind it.
pub fn read_bias_dropout(r: &mut Reader<'_, '_>) -> Read {
    let (x, bias, residual) = (r.input(0)?, r.input(1)?, r.opt(2));
    let sum = r.add(x, bias)?;
    r.inputs = vec![Some(sum), r.opt(3), r.opt(4)];
    r.version = 13;
    let mut out = super::dropout::read(r)?;
    if let Some(v) = residual {
        out[0] = r.add(out[0], v)?;
    }
    Ok(out)
}

/// Reads `ConvTransposeWithDynamicPads`: operands x, weights, pads and bias; the pads cut the whole result at its edges.
pub fn read_conv_transpose(r: &mut Reader<'_, '_>) -> Read {
    let (x, pads) = (r.input(0)?, r.opt(2));
    let axes = r.rank(x)?.saturating_sub(2);
    let pads = match pads {
        None => vec![Dim::int(0); 2 * axes],
        Some(p) => {
            r.dims(p).map(<[Dim]>::to_vec).ok_or_else(|| Diagnostic::new("the pads of ConvTransposeWithDynamicPads are computed"))?
        }
    };
    if pads.len() != 2 * axes {
        return Err(Diagnostic::new(format!("{} pads for {axes} axes", pads.len())));
    }
    r.inputs = vec![r.opt(0), r.opt(1), r.opt(3)];
    let mut y = conv::read_transpose(r)?[0];
    for a in 0..axes {
        let size = r.shape(y)?[a + 2].clone() - pads[a].clone() - pads[axes + a].clone();
        if size.as_int().is_some_and(|n| n < 0) {
            return Err(Diagnostic::new(format!("the pads of axis {a} leave {size} elements")));
        }
        y = r.cut(y, a + 2, pads[a].clone(), size, 1)?;
    }
    Ok(vec![y])
}

/// Reads `DynamicQuantizeLSTM` as the LSTM that its weights stand for, on numbers: quantizing the operands at run time, as ONNX Runtime
/// does, only errs more.
pub fn read_dynamic_lstm(r: &mut Reader<'_, '_>) -> Read {
    let mut inputs: Vec<Option<ValueId>> = (0..8).map(|i| r.opt(i)).collect();
    for (i, scale, zero) in [(1, 8, 9), (2, 10, 11)] {
        let w = r.ranked(i, 3)?;
        let first = r.shape(w)?[0].clone();
        // A number for each direction, or for each of its columns.
        let spread = |r: &mut Reader<'_, '_>, v: ValueId| {
            let s = r.shape(v)?;
            let columns = if let [_, n] = &s[..] { n.clone() } else { Dim::int(1) };
            let y = r.cast(v, DType::F32)?;
            r.reshape(y, vec![first.clone(), Dim::int(1), columns])
        };
        let mut y = r.cast(w, DType::F32)?;
        if let Some(z) = r.opt(zero) {
            let z = spread(r, z)?;
            y = r.sub(y, z)?;
        }
        let s = r.input(scale)?;
        let s = spread(r, s)?;
        let y = r.mul(y, s)?;
        // The standard has a row for each column here.
        inputs[i] = Some(r.transpose(y, vec![0, 2, 1])?);
    }
    r.inputs = inputs;
    super::recurrent::read(r)
}
