//! Normalizations: batch, layer, instance, group, RMS, Lp, mean-variance and local response.

use super::cx::agree;
use super::reduce::{Reduce, around};
use super::{Call, CallArg, Facts, Infer, Lowering, Op, Operator, Reader, Real};
use crate::diagnostics::Diagnostic;
use crate::ir::{Dim, Fact, ValueId, product};
use kiln_kernels::dtype::DType;
use kiln_kernels::value::Tensor;

/// [LayerNormalization](https://onnx.ai/onnx/operators/onnx__LayerNormalization.html) over the axes from `axis` on; operands x,
/// scale, optional bias of the normalized shape; optional results mean and inverse deviation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LayerNorm {
    /// The first normalized axis.
    pub axis: usize,
    /// Added to the variance.
    pub epsilon: Real,
    /// Whether the mean is taken off first; without it this is
    /// [RMSNormalization](https://onnx.ai/onnx/operators/onnx__RMSNormalization.html).
    pub centred: bool,
}

impl Operator for LayerNorm {
    fn infer(&self, cx: &mut Infer<'_>) -> Result<Vec<Fact>, Diagnostic> {
        let x = cx.shape(0);
        for i in 1..3 {
            let count = product(cx.shape(i));
            // Extents that only run time can tell are held against each other there.
            if cx.has(i) && count.equals(&product(&x[self.axis..])) == Some(false) {
                return Err(Diagnostic::new(format!(
                    "LayerNormalization needs scale and bias of shape [{}], found [{}]",
                    super::cx::list(&x[self.axis..]),
                    super::cx::list(cx.shape(i))
                )));
            }
        }
        let mut facts = vec![Fact::tensor(cx.dtype(0), x.to_vec())];
        let mut stats = x[..self.axis].to_vec();
        stats.resize(x.len(), Dim::int(1));
        facts.resize(cx.results, Fact::tensor(cx.dtype(0), stats));
        Ok(facts)
    }
    fn lower(&self, cx: &Facts<'_>) -> Lowering {
        let x = cx.shape(0);
        Lowering::Call(Call {
            entry: "rows::layer_norm",
            types: vec![cx.dtype(0)],
            args: vec![
                CallArg::Out(0),
                CallArg::OptOut(1),
                CallArg::OptOut(2),
                CallArg::In(0),
                CallArg::In(1),
                CallArg::OptIn(2),
                CallArg::Dim(product(&x[..self.axis])),
                CallArg::Dim(product(&x[self.axis..])),
                CallArg::Float(self.epsilon.get()),
                CallArg::Bool(self.centred),
            ],
        })
    }
}

/// [InstanceNormalization](https://onnx.ai/onnx/operators/onnx__InstanceNormalization.html): operands x, scale, bias.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InstanceNorm {
    /// Added to the variance.
    pub epsilon: Real,
}

impl Operator for InstanceNorm {
    fn infer(&self, cx: &mut Infer<'_>) -> Result<Vec<Fact>, Diagnostic> {
        let x = cx.shape(0);
        if x.len() < 3 || !(1..3).all(|i| agree(cx.shape(i), &x[1..2])) {
            return Err(Diagnostic::new(format!("InstanceNormalization of [{}] needs a scale and bias per channel", super::cx::list(x))));
        }
        Ok(vec![Fact::tensor(cx.dtype(0), x.to_vec())])
    }
    fn lower(&self, cx: &Facts<'_>) -> Lowering {
        let x = cx.shape(0);
        Lowering::call(
            "rows::instance_norm",
            [cx.dtype(0)],
            3,
            [CallArg::Dim(x[0].clone()), CallArg::Dim(x[1].clone()), CallArg::Dim(product(&x[2..])), CallArg::Float(self.epsilon.get())],
        )
    }
}

/// [GroupNormalization](https://onnx.ai/onnx/operators/onnx__GroupNormalization.html): operands x `[N, C, ..]`, scale `[C]`, bias `[C]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupNorm {
    /// Groups of channels that are normalized together; a divisor of C.
    pub groups: usize,
    /// Added to the variance.
    pub epsilon: Real,
}

impl GroupNorm {
    /// Channels of a group, of an operand of that shape.
    pub fn channels(&self, x: &[Dim]) -> Option<Dim> {
        x.get(1)?.exact_div(&Dim::int(self.groups as i64))
    }
}

impl Operator for GroupNorm {
    fn infer(&self, cx: &mut Infer<'_>) -> Result<Vec<Fact>, Diagnostic> {
        let x = cx.shape(0);
        if self.groups == 0 || self.channels(x).is_none() || !(1..3).all(|i| agree(cx.shape(i), &x[1..2])) {
            let what =
                format!("GroupNorm of [{}] needs channels in {} groups, with a scale and bias each", super::cx::list(x), self.groups);
            return Err(Diagnostic::new(what));
        }
        Ok(vec![Fact::tensor(cx.dtype(0), x.to_vec())])
    }
    fn lower(&self, cx: &Facts<'_>) -> Lowering {
        let x = cx.shape(0);
        Lowering::call(
            "rows::group_norm",
            [cx.dtype(0)],
            3,
            [
                CallArg::Dim(x[0].clone()),
                CallArg::Dim(x[1].clone()),
                CallArg::Dim(product(&x[2..])),
                CallArg::Dim(Dim::int(self.groups as i64)),
                CallArg::Float(self.epsilon.get()),
            ],
        )
    }
}

/// [LpNormalization](https://onnx.ai/onnx/operators/onnx__LpNormalization.html), `x / max(norm, floor)`; where that is 0, 0.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LpNorm {
    /// The axis.
    pub axis: usize,
    /// 1 or 2.
    pub p: i64,
    /// The least number to divide by.
    pub floor: Real,
}

impl Operator for LpNorm {
    fn infer(&self, cx: &mut Infer<'_>) -> Result<Vec<Fact>, Diagnostic> {
        Ok(vec![Fact::tensor(cx.dtype(0), cx.shape(0).to_vec())])
    }
    fn lower(&self, cx: &Facts<'_>) -> Lowering {
        let [outer, axis, inner] = around(cx.shape(0), self.axis);
        Lowering::call(
            "rows::lp_normalize",
            [cx.dtype(0)],
            1,
            [CallArg::Dim(outer), CallArg::Dim(axis), CallArg::Dim(inner), CallArg::Int(self.p), CallArg::Float(self.floor.get())],
        )
    }
}

/// [LRN](https://onnx.ai/onnx/operators/onnx__LRN.html).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lrn {
    /// Channels in a window.
    pub size: i64,
    /// Factor of the sum of squares.
    pub alpha: Real,
    /// Exponent.
    pub beta: Real,
    /// Added to the scaled sum.
    pub bias: Real,
}

impl Operator for Lrn {
    fn infer(&self, cx: &mut Infer<'_>) -> Result<Vec<Fact>, Diagnostic> {
        if cx.rank(0) < 2 {
            return Err(Diagnostic::new("LRN needs a batch and channels"));
        }
        Ok(vec![Fact::tensor(cx.dtype(0), cx.shape(0).to_vec())])
    }
    fn lower(&self, cx: &Facts<'_>) -> Lowering {
        let x = cx.shape(0);
        Lowering::call(
            "rows::lrn",
            [cx.dtype(0)],
            1,
            [
                CallArg::Dim(x[0].clone()),
                CallArg::Dim(x[1].clone()),
                CallArg::Dim(product(&x[2..])),
                CallArg::Dim(Dim::int(self.size)),
                CallArg::Float(self.alpha.get()),
                CallArg::Float(self.beta.get()),
                CallArg::Float(self.bias.get()),
            ],
        )
    }
}

type Read = Result<Vec<ValueId>, Diagnostic>;

/// A per-channel operand `[C]` shaped to broadcast over `[N, C, ..]`.
fn by_channel(r: &mut Reader<'_, '_>, v: ValueId, rank: usize) -> Result<ValueId, Diagnostic> {
    let mut shape = r.shape(v)?;
    shape.resize(rank.saturating_sub(1).max(1), Dim::int(1));
    r.reshape(v, shape)
}

/// Reads `BatchNormalization` at inference: a scale and a shift by channel, folded in f64 when the statistics are constant.
pub fn read_batch(r: &mut Reader<'_, '_>) -> Read {
    let x = r.input(0)?;
    let (shape, given) = (r.shape(x)?, r.dtype(x));
    // Until opset 14 a node trains by naming the results of training, and by its own word before 7.
    let trains = match r.version {
        14.. => r.int("training_mode", 0)? != 0,
        7.. => r.outputs() > 1,
        _ => r.int("is_test", 0)? == 0 && r.outputs() > 1,
    };
    let spatial = r.version >= 9 || r.int("spatial", 1)? != 0;
    if trains {
        return batch_training(r, x, spatial);
    }
    if !spatial {
        return batch_by_feature(r, x);
    }
    if shape.len() < 2 {
        return Err(Diagnostic::new("BatchNormalization needs a batch and channels"));
    }
    let epsilon = r.float("epsilon", 1e-5)? as f64;
    let params: Vec<ValueId> = (1..5).map(|i| r.input(i)).collect::<Result<_, _>>()?;
    for p in &params {
        let s = r.shape(*p)?;
        if s.len() != 1 || (s[0] != shape[1] && s[0].as_int().is_some() && shape[1].as_int().is_some()) {
            return Err(Diagnostic::new(format!(
                "BatchNormalization of {} channels needs parameters [{}], found [{}]",
                shape[1],
                shape[1],
                super::cx::list(&s)
            )));
        }
    }
    let folded: Option<Vec<Vec<f64>>> = params.iter().map(|p| r.constant(*p).and_then(Tensor::to_f64s)).collect();
    // What is known takes the type of x, so that it can go into the weights before; what is not is a difference that may cancel.
    let dtype = if folded.is_none() && matches!(given, DType::F16 | DType::Bf16) { DType::F32 } else { given };
    let x = r.cast(x, dtype)?;
    let (scale, shift) = match folded {
        Some(p) => {
            let scale: Vec<f64> = (0..p[0].len()).map(|c| p[0][c] / (p[3][c] + epsilon).sqrt()).collect();
            let shift: Vec<f64> = (0..p[0].len()).map(|c| p[1][c] - p[2][c] * scale[c]).collect();
            let make = |v: Vec<f64>| crate::eval::from_f64s(&[v.len()], &v, dtype);
            (r.tensor(make(scale)), r.tensor(make(shift)))
        }
        None => {
            let wide: Vec<ValueId> = params.iter().map(|p| r.cast(*p, dtype)).collect::<Result<_, _>>()?;
            let eps = r.scalar(epsilon, dtype);
            let var = r.pointwise("Add", &[wide[3], eps])?;
            let dev = r.pointwise("Sqrt", &[var])?;
            let scale = r.pointwise("Div", &[wide[0], dev])?;
            let shifted = r.pointwise("Mul", &[wide[2], scale])?;
            (scale, r.pointwise("Sub", &[wide[1], shifted])?)
        }
    };
    let (scale, shift) = (by_channel(r, scale, shape.len())?, by_channel(r, shift, shape.len())?);
    let y = r.pointwise("Mul", &[x, scale])?;
    let y = r.pointwise("Add", &[y, shift])?;
    Ok(vec![r.cast(y, given)?])
}

/// `BatchNormalization` in training mode: normalized by the batch's own statistics, which also move the running ones.
fn batch_training(r: &mut Reader<'_, '_>, x: ValueId, spatial: bool) -> Read {
    let (rank, dtype) = (r.rank(x)?, r.dtype(x));
    if rank < 2 {
        return Err(Diagnostic::new("BatchNormalization needs a batch and channels"));
    }
    let wide = if dtype == DType::F64 { dtype } else { DType::F32 };
    let axes: Vec<usize> = if spatial { (0..rank).filter(|i| *i != 1).collect() } else { vec![0] };
    let (epsilon, momentum) = (r.float("epsilon", 1e-5)? as f64, r.float("momentum", 0.9)? as f64);
    let x = r.cast(x, wide)?;
    let mean = r.reduce(x, "mean", &axes, true)?;
    let centered = r.sub(x, mean)?;
    let square = r.mul(centered, centered)?;
    let var = r.reduce(square, "mean", &axes, true)?;
    let dev = r.plus(var, epsilon)?;
    let dev = r.pointwise("Sqrt", &[dev])?;
    let mut y = r.div(centered, dev)?;
    for (i, name) in [(1, "Mul"), (2, "Add")] {
        let p = r.input(i)?;
        let p = r.cast(p, wide)?;
        let p = if spatial { by_channel(r, p, rank)? } else { p };
        y = r.pointwise(name, &[y, p])?;
    }
    let mut out = vec![r.cast(y, dtype)?];
    for (i, new) in [(3, mean), (4, var)] {
        let old = r.input(i)?;
        let (shape, kind) = (r.shape(old)?, r.dtype(old));
        let (old, new) = (r.cast(old, wide)?, r.reshape(new, shape)?);
        let (old, new) = (r.times(old, momentum)?, r.times(new, 1.0 - momentum)?);
        let moved = r.add(old, new)?;
        out.push(r.cast(moved, kind)?);
    }
    // Before opset 14 also the statistics of this batch.
    let own = if r.version < 14 { vec![(3, mean), (4, var)] } else { vec![] };
    for (i, v) in own {
        let like = r.input(i)?;
        let (shape, kind) = (r.shape(like)?, r.dtype(like));
        let v = r.reshape(v, shape)?;
        out.push(r.cast(v, kind)?);
    }
    Ok(out)
}

/// A BatchNormalization whose statistics are of single features: parameters have the shape of an element of the batch.
fn batch_by_feature(r: &mut Reader<'_, '_>, x: ValueId) -> Read {
    let (shape, dtype) = (r.shape(x)?, r.dtype(x));
    let wide = if dtype == DType::F64 { dtype } else { DType::F32 };
    let mut p = Vec::new();
    for i in 1..5 {
        let v = r.input(i)?;
        if r.shape(v)? != shape[1..] {
            return Err(Diagnostic::new(format!(
                "BatchNormalization by feature needs parameters [{}], found [{}]",
                super::cx::list(&shape[1..]),
                super::cx::list(&r.shape(v)?)
            )));
        }
        p.push(r.cast(v, wide)?);
    }
    let x = r.cast(x, wide)?;
    let epsilon = r.float("epsilon", 1e-5)? as f64;
    let dev = r.plus(p[3], epsilon)?;
    let dev = r.pointwise("Sqrt", &[dev])?;
    let y = r.sub(x, p[2])?;
    let y = r.div(y, dev)?;
    let y = r.mul(y, p[0])?;
    let y = r.add(y, p[1])?;
    Ok(vec![r.cast(y, dtype)?])
}

/// Widens 16-bit operands to f32; gives the type to return to.
fn widen(r: &mut Reader<'_, '_>, inputs: &mut [Option<ValueId>]) -> Result<DType, Diagnostic> {
    let dtype = inputs[0].map_or(DType::F32, |v| r.dtype(v));
    if matches!(dtype, DType::F16 | DType::Bf16) {
        for v in inputs.iter_mut().flatten() {
            *v = r.cast(*v, DType::F32)?;
        }
    }
    Ok(dtype)
}

/// Reads `LayerNormalization`.
pub fn read_layer(r: &mut Reader<'_, '_>) -> Read {
    let x = r.input(0)?;
    let shape = r.shape(x)?;
    let axis = r.int("axis", -1)?;
    let axis = r.axis(axis, shape.len())?;
    let op = LayerNorm { axis, epsilon: r.float("epsilon", 1e-5)?.into(), centred: true };
    let mut inputs = vec![Some(x), Some(r.input(1)?), r.opt(2)];
    let dtype = widen(r, &mut inputs)?;
    for v in inputs[1..].iter_mut().flatten() {
        let full: Vec<Dim> = shape[axis..].to_vec();
        if product(&r.shape(*v)?) != product(&full) {
            *v = r.emit(super::movement::Expand { shape: full }, &[*v])?;
        }
    }
    let results = r.outputs().clamp(1, 3);
    let mut out = r.emit_all(op, inputs, results)?;
    out[0] = r.cast(out[0], dtype)?;
    // The statistics have the type of attribute stash_type, whatever they are computed in.
    let stash = r.dtype_attr("stash_type")?.unwrap_or(DType::F32);
    for v in &mut out[1..] {
        *v = r.cast(*v, stash)?;
    }
    Ok(out)
}

/// Reads `RMSNormalization`: `x / sqrt(mean(x²) + epsilon) · scale`.
pub fn read_rms(r: &mut Reader<'_, '_>) -> Read {
    let x = r.input(0)?;
    let rank = r.rank(x)?;
    let axis = r.int("axis", -1)?;
    let axis = r.axis(axis, rank)?;
    let mut inputs = vec![Some(x)];
    let dtype = widen(r, &mut inputs)?;
    let x = inputs[0].unwrap_or(x);
    let wide = r.dtype(x);
    let square = r.pointwise("Mul", &[x, x])?;
    let mean = r.emit(Reduce { mode: "mean", axes: (axis..rank).collect(), keep: true }, &[square])?;
    let eps = r.float("epsilon", 1e-5)?;
    let eps = r.scalar(eps as f64, wide);
    let sum = r.pointwise("Add", &[mean, eps])?;
    let rms = r.pointwise("Sqrt", &[sum])?;
    let y = r.pointwise("Div", &[x, rms])?;
    let scale = r.input(1)?;
    let y = r.cast(y, dtype)?;
    let y = r.cast(y, r.dtype(scale))?;
    Ok(vec![r.pointwise("Mul", &[y, scale])?])
}

/// Reads `InstanceNormalization`.
pub fn read_instance(r: &mut Reader<'_, '_>) -> Read {
    let mut inputs = vec![Some(r.input(0)?), Some(r.input(1)?), Some(r.input(2)?)];
    let dtype = widen(r, &mut inputs)?;
    let op = InstanceNorm { epsilon: r.float("epsilon", 1e-5)?.into() };
    let y = r.emit_all(op, inputs, 1)?[0];
    Ok(vec![r.cast(y, dtype)?])
}

/// Reads `GroupNormalization`: groups of channels normalized together, scaled by group (opset 18) or channel (21).
pub fn read_group(r: &mut Reader<'_, '_>) -> Read {
    let x = r.input(0)?;
    let mut inputs = vec![Some(x), Some(r.input(1)?), Some(r.input(2)?)];
    let dtype = widen(r, &mut inputs)?;
    let (x, scale, bias) = (inputs[0].unwrap_or(x), r.input(1)?, r.input(2)?);
    let (scale, bias) = (inputs[1].unwrap_or(scale), inputs[2].unwrap_or(bias));
    let (shape, wide) = (r.shape(x)?, r.dtype(x));
    let groups = r.int("num_groups", 0)?;
    if groups < 1 || shape.len() < 3 {
        return Err(Diagnostic::new(format!("GroupNormalization has num_groups = {groups} for rank {}", shape.len())));
    }
    let op = GroupNorm { groups: groups as usize, epsilon: r.float("epsilon", 1e-5)?.into() };
    if r.shape(scale)? == shape[1..2] && r.shape(bias)? == shape[1..2] && op.channels(&shape).is_some() {
        let y = r.emit(op, &[x, scale, bias])?;
        return Ok(vec![r.cast(y, dtype)?]);
    }
    let one = vec![Dim::int(1); shape.len() - 2];
    let grouped = vec![shape[0].clone(), Dim::int(groups), product(&shape[1..]).floor_div(&Dim::int(groups))];
    let flat = r.reshape(x, grouped)?;
    let make = |r: &mut Reader<'_, '_>, v: f64| {
        let t = crate::eval::from_f64s(&[groups as usize], &vec![v; groups as usize], wide);
        r.tensor(t)
    };
    let (ones, zeros) = (make(r, 1.0), make(r, 0.0));
    let op = InstanceNorm { epsilon: r.float("epsilon", 1e-5)?.into() };
    let y = r.emit(op, &[flat, ones, zeros])?;
    let params = r.shape(scale)?;
    let y = if params == [Dim::int(groups)] && params[0] != shape[1] {
        let spread = |r: &mut Reader<'_, '_>, v| r.reshape(v, vec![Dim::int(groups), Dim::int(1)]);
        let (s, b) = (spread(r, scale)?, spread(r, bias)?);
        let y = r.pointwise("Mul", &[y, s])?;
        let y = r.pointwise("Add", &[y, b])?;
        r.reshape(y, shape)?
    } else {
        let y = r.reshape(y, shape.clone())?;
        let full = [vec![shape[1].clone()], one].concat();
        let (s, b) = (r.reshape(scale, full.clone())?, r.reshape(bias, full)?);
        let y = r.pointwise("Mul", &[y, s])?;
        r.pointwise("Add", &[y, b])?
    };
    Ok(vec![r.cast(y, dtype)?])
}

/// Reads `MeanVarianceNormalization`.
pub fn read_mean_variance(r: &mut Reader<'_, '_>) -> Read {
    let x = r.input(0)?;
    let (rank, dtype) = (r.rank(x)?, r.dtype(x));
    let axes = r.ints("axes")?.unwrap_or_else(|| vec![0, 2, 3]);
    let mut axes = r.axes(&axes, rank)?;
    axes.sort();
    let mean = super::reduce::emit(r, x, Reduce { mode: "mean", axes: axes.clone(), keep: true })?;
    let centered = r.pointwise("Sub", &[x, mean])?;
    let square = r.pointwise("Mul", &[centered, centered])?;
    let var = super::reduce::emit(r, square, Reduce { mode: "mean", axes, keep: true })?;
    let dev = r.pointwise("Sqrt", &[var])?;
    let eps = r.scalar(1e-9, dtype);
    let dev = r.pointwise("Add", &[dev, eps])?;
    Ok(vec![r.pointwise("Div", &[centered, dev])?])
}

/// Reads `LpNormalization`.
pub fn read_lp(r: &mut Reader<'_, '_>) -> Read {
    let x = r.input(0)?;
    let rank = r.rank(x)?;
    let axis = r.int("axis", -1)?;
    let p = r.int("p", 2)?;
    if p != 1 && p != 2 {
        return Err(Diagnostic::new(format!("LpNormalization of order {p} is not defined")));
    }
    let op = LpNorm { axis: r.axis(axis, rank)?, p, floor: 0.0.into() };
    in_wide(r, x, op)
}

/// What `op` makes of `x`, computed in f32 where `x` has 16 bits.
fn in_wide(r: &mut Reader<'_, '_>, x: ValueId, op: impl Into<Op>) -> Read {
    let mut inputs = [Some(x)];
    let dtype = widen(r, &mut inputs)?;
    let y = r.emit_all(op, inputs.to_vec(), 1)?[0];
    Ok(vec![r.cast(y, dtype)?])
}

/// Reads `LRN`.
pub fn read_lrn(r: &mut Reader<'_, '_>) -> Read {
    let x = r.input(0)?;
    let size = r.int_opt("size")?.ok_or_else(|| Diagnostic::new("attribute size is missing"))?;
    if size < 1 {
        return Err(Diagnostic::new(format!("attribute size is {size}")));
    }
    let op = Lrn { size, alpha: r.float("alpha", 1e-4)?.into(), beta: r.float("beta", 0.75)?.into(), bias: r.float("bias", 1.0)?.into() };
    in_wide(r, x, op)
}
