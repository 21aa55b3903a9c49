//! LinearAttention, CausalConvWithState, RotaryEmbedding and TensorScatter: the steps of decoders that keep state.

use super::attention::{repeat_heads, split_heads};
use super::control::Loop;
use super::moved::moved;
use super::scatter::{ScatterElements, scatters};
use super::{Reader, conv::Conv, gather::Gather, pointwise::Pointwise};
use crate::diagnostics::Diagnostic;
use crate::ir::{Dim, Fact, ValueId};
use kiln_kernels::dtype::DType;
use kiln_kernels::value::Tensor;

type Read = Result<Vec<ValueId>, Diagnostic>;

/// A zero tensor of a shape.
fn zeros(r: &mut Reader<'_, '_>, shape: Vec<Dim>, dtype: DType) -> Result<ValueId, Diagnostic> {
    let zero = r.scalar(0.0, dtype);
    r.expand(zero, shape)
}

/// `[B, T, H·D]` as `[T, B, H, D]` in f32, for a loop over T.
fn by_time(r: &mut Reader<'_, '_>, x: ValueId, heads: i64) -> Result<ValueId, Diagnostic> {
    let x = split_heads(r, x, heads)?;
    let x = r.transpose(x, vec![2, 0, 1, 3])?;
    r.cast(x, DType::F32)
}

/// Reads [LinearAttention](https://onnx.ai/onnx/operators/onnx__LinearAttention.html): a state `[B, H, K, V]` that each step decays,
/// writes (corrected by what it holds already) and reads.
pub fn read_linear(r: &mut Reader<'_, '_>) -> Read {
    let (query, key, value) = (r.ranked(0, 3)?, r.ranked(1, 3)?, r.ranked(2, 3)?);
    let (hq, hk) = (r.int("q_num_heads", 0)?, r.int("kv_num_heads", 0)?);
    let rule = r.word("update_rule", &["gated_delta", "linear", "gated", "delta"])?;
    let (gated, delta) = (rule.starts_with("gated"), rule.ends_with("delta"));
    if gated != r.opt(4).is_some() || delta != r.opt(5).is_some() || hk < 1 || hq % hk != 0 {
        return Err(Diagnostic::new(format!("LinearAttention by rule {rule} with {hq} and {hk} heads has other operands than it needs")));
    }
    let dtype = r.dtype(query);
    let (q, k, v) = (by_time(r, query, hq)?, by_time(r, key, hk)?, by_time(r, value, hk)?);
    let (qs, ks, vs) = (r.shape(q)?, r.shape(k)?, r.shape(v)?);
    let decay = match r.opt(4) {
        Some(d) => {
            let d = by_time(r, d, hk)?;
            Some(r.pointwise("Exp", &[d])?)
        }
        None => None,
    };
    let beta = match r.opt(5) {
        Some(b) => {
            let heads = r.shape(b)?.last().and_then(Dim::as_int).unwrap_or(hk);
            Some(by_time(r, b, heads)?)
        }
        None => None,
    };
    let state_shape = vec![ks[1].clone(), ks[2].clone(), ks[3].clone(), vs[3].clone()];
    let (state, state_type) = match r.opt(3) {
        Some(s) => (r.cast(s, DType::F32)?, r.dtype(s)),
        None => (zeros(r, state_shape.clone(), DType::F32)?, dtype),
    };
    let scale = match r.float("scale", 0.0)? {
        0.0 => 1.0 / (ks[3].as_int().ok_or_else(|| Diagnostic::new("LinearAttention needs a known head size"))? as f64).sqrt(),
        s => s as f64,
    };
    let facts = [Fact::tensor(DType::I64, vec![]), Fact::tensor(DType::Bool, vec![]), Fact::tensor(DType::F32, r.shape(state)?)];
    let block = r.block_of(&facts, |r, inputs| {
        let step = inputs[0];
        let at = |r: &mut Reader<'_, '_>, x: ValueId| r.emit(Gather { axis: 0 }, &[x, step]);
        let (q, k, v) = (at(r, q)?, at(r, k)?, at(r, v)?);
        let mut state = inputs[2];
        if let Some(d) = decay {
            let d = at(r, d)?;
            let d = r.unsqueeze(d, 3)?;
            state = r.mul(state, d)?;
        }
        let (row, mut v) = (r.unsqueeze(k, 2)?, r.unsqueeze(v, 2)?);
        if let Some(b) = beta {
            let held = r.matmul(row, state)?;
            let rest = r.sub(v, held)?;
            let b = at(r, b)?;
            let b = r.unsqueeze(b, 3)?;
            v = r.mul(b, rest)?;
        }
        let column = r.unsqueeze(k, 3)?;
        let written = r.mul(column, v)?;
        state = r.add(state, written)?;
        let read = repeat_heads(r, state, &qs[2])?;
        let row = r.unsqueeze(q, 2)?;
        let y = r.matmul(row, read)?;
        let y = r.times(y, scale)?;
        let y = r.reshape(y, vec![qs[1].clone(), qs[2].clone(), vs[3].clone()])?;
        Ok(vec![r.tensor(Tensor::with_dtype(DType::Bool, &[], &[1u8])), state, y])
    })?;
    let trips = r.extent(qs[0].clone())?;
    let op = Loop { carried: 1, trip: Some(qs[0].clone()) };
    let out = r.b.emit(op.into(), vec![Some(trips), None, Some(state)], 2, vec![block])?;
    let y = r.transpose(out[1], vec![1, 0, 2, 3])?;
    let y = r.reshape(y, vec![qs[1].clone(), qs[0].clone(), qs[2].clone() * vs[3].clone()])?;
    Ok(vec![r.cast(y, dtype)?, r.cast(out[0], state_type)?])
}

/// Reads [CausalConvWithState](https://onnx.ai/onnx/operators/onnx__CausalConvWithState.html): a depthwise convolution behind the
/// state, which is what its window saw last.
pub fn read_causal_conv(r: &mut Reader<'_, '_>) -> Read {
    let (x, w) = (r.ranked(0, 3)?, r.ranked(1, 3)?);
    let (dtype, xs, ws) = (r.dtype(x), r.shape(x)?, r.shape(w)?);
    let (Some(channels), Some(taps @ 1..)) = (ws[0].as_int(), ws[2].as_int()) else {
        return Err(Diagnostic::new("CausalConvWithState needs weights of a known shape"));
    };
    let activation = r.word("activation", &["none", "silu", "swish"])?;
    let past = match r.opt(3) {
        Some(p) => p,
        None => zeros(r, vec![xs[0].clone(), xs[1].clone(), Dim::int(taps - 1)], dtype)?,
    };
    let padded = r.concat(&[past, x], 2)?;
    let wide = if dtype == DType::F64 { dtype } else { DType::F32 };
    let mut inputs = vec![Some(padded), Some(w), r.opt(2)];
    for v in inputs.iter_mut().flatten() {
        *v = r.cast(*v, wide)?;
    }
    let op = Conv { strides: vec![1], pads: vec![0, 0], dilations: vec![1], groups: channels };
    let y = r.emit_all(op, inputs, 1)?[0];
    let mut y = r.cast(y, dtype)?;
    if activation != "none" {
        let x = r.cast(y, wide)?;
        let x = r.emit(Pointwise::of("Swish", &[1.0], &[wide])?, &[x])?;
        y = r.cast(x, dtype)?;
    }
    let len = r.shape(padded)?[2].clone();
    let present = r.cut(padded, 2, len - Dim::int(taps - 1), Dim::int(taps - 1), 1)?;
    Ok(vec![y, present])
}

/// Reads [RotaryEmbedding](https://onnx.ai/onnx/operators/onnx__RotaryEmbedding.html): pairs of elements turned by an angle of their
/// position.
pub fn read_rotary(r: &mut Reader<'_, '_>) -> Read {
    let input = r.input(0)?;
    let whole = r.shape(input)?;
    let x = if whole.len() == 4 {
        r.transpose(input, vec![0, 2, 1, 3])?
    } else {
        let heads = r.int("num_heads", 0)?;
        let y = split_heads(r, input, heads)?;
        r.transpose(y, vec![0, 2, 1, 3])?
    };
    let size = head_size(r, x)?;
    let turned = match r.int("rotary_embedding_dim", 0)? {
        0 => size,
        n => n,
    };
    let mut angles = Vec::new();
    for i in 1..3 {
        let mut cache = r.input(i)?;
        if let Some(positions) = r.opt(3) {
            cache = r.emit(Gather { axis: 0 }, &[cache, positions])?;
        }
        angles.push(r.unsqueeze(cache, 2)?);
    }
    let interleaved = r.int("interleaved", 0)? != 0;
    // Sums that cancel are taken of unrounded products.
    let dtype = r.dtype(x);
    let wide = super::reduce::widened(dtype);
    let (x, cos, sin) = (r.cast(x, wide)?, r.cast(angles[0], wide)?, r.cast(angles[1], wide)?);
    let y = turn(r, x, [cos, sin], turned, interleaved)?;
    let y = r.cast(y, dtype)?;
    Ok(vec![if whole.len() == 4 { r.transpose(y, vec![0, 2, 1, 3])? } else { r.reshape(y, whole)? }])
}

fn head_size(r: &Reader<'_, '_>, x: ValueId) -> Result<i64, Diagnostic> {
    r.shape(x)?[3].as_int().ok_or_else(|| Diagnostic::new("RotaryEmbedding needs a known head size"))
}

/// The first `turned` elements of each head of `[B, S, N, D]` turned in pairs, by cosines and sines `[B, S, 1, turned / 2]`: an element
/// with its neighbour, or with the one half of them on.
pub(super) fn turn(
    r: &mut Reader<'_, '_>,
    x: ValueId,
    [cos, sin]: [ValueId; 2],
    turned: i64,
    interleaved: bool,
) -> Result<ValueId, Diagnostic> {
    let size = head_size(r, x)?;
    if turned < 2 || turned > size || turned % 2 != 0 {
        return Err(Diagnostic::new(format!("rotary_embedding_dim is {turned} for heads of {size} elements")));
    }
    let (half, rest) = (Dim::int(turned / 2), r.cut(x, 3, Dim::int(turned), Dim::int(size - turned), 1)?);
    let x = r.cut(x, 3, Dim::int(0), Dim::int(turned), 1)?;
    let (a, b) = if interleaved {
        (r.cut(x, 3, Dim::int(0), half.clone(), 2)?, r.cut(x, 3, Dim::int(1), half.clone(), 2)?)
    } else {
        (r.cut(x, 3, Dim::int(0), half.clone(), 1)?, r.cut(x, 3, half.clone(), half.clone(), 1)?)
    };
    let (ca, sb, sa, cb) = (r.mul(cos, a)?, r.mul(sin, b)?, r.mul(sin, a)?, r.mul(cos, b)?);
    let (mut real, mut imaginary) = (r.sub(ca, sb)?, r.add(sa, cb)?);
    let shape = r.shape(x)?;
    let y = if interleaved {
        (real, imaginary) = (r.unsqueeze(real, 4)?, r.unsqueeze(imaginary, 4)?);
        let pairs = r.concat(&[real, imaginary], 4)?;
        r.reshape(pairs, shape)?
    } else {
        r.concat(&[real, imaginary], 3)?
    };
    if turned < size { r.concat(&[y, rest], 3) } else { Ok(y) }
}

/// Reads [TensorScatter](https://onnx.ai/onnx/operators/onnx__TensorScatter.html): rows written into a cache at a position for each
/// element of the batch, which may wrap around.
pub fn read_tensor_scatter(r: &mut Reader<'_, '_>) -> Read {
    let (cache, update) = (r.input(0)?, r.input(1)?);
    let (cs, us) = (r.shape(cache)?, r.shape(update)?);
    let axis = r.int("axis", -2)?;
    let axis = r.axis(axis, cs.len())?;
    if us.len() != cs.len() || axis == 0 {
        return Err(Diagnostic::new("TensorScatter needs an update of the rank of the cache, and an axis behind the batch"));
    }
    let along = |at: usize, d: &Dim| -> Vec<Dim> { (0..us.len()).map(|i| if i == at { d.clone() } else { Dim::int(1) }).collect() };
    let steps = r.iota(us[axis].clone())?;
    let mut index = r.reshape(steps, along(axis, &us[axis]))?;
    if let Some(first) = r.opt(2) {
        let first = r.cast(first, DType::I64)?;
        let first = r.reshape(first, along(0, &us[0]))?;
        index = r.add(index, first)?;
    }
    if r.word("mode", &["linear", "circular"])? == "circular" {
        let n = r.extent(cs[axis].clone())?;
        index = r.pointwise("Mod", &[index, n])?;
    }
    let index = r.expand(index, us)?;
    let op = ScatterElements { axis, mode: "none" };
    Ok(vec![moved(r, &[cache, update], scatters, |r, x| r.emit(op, &[x[0], index, x[1]]))?])
}
