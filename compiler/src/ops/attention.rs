//! Attention and FlexAttention (preview): matrix products around a softmax.

use super::{Reader, pad::Pad};
use crate::diagnostics::Diagnostic;
use crate::ir::{Dim, ValueId};
use crate::onnx::Attribute;
use kiln_kernels::dtype::DType;

type Read = Result<Vec<ValueId>, Diagnostic>;

/// `[B, S, H·D]` as `[B, H, S, D]`.
pub fn split_heads(r: &mut Reader<'_, '_>, x: ValueId, heads: i64) -> Result<ValueId, Diagnostic> {
    let s = r.shape(x)?;
    let size = s
        .get(2)
        .and_then(|d| d.exact_div(&Dim::int(heads.max(1))))
        .filter(|_| s.len() == 3 && heads > 0)
        .ok_or_else(|| Diagnostic::new(format!("a tensor of shape [{}] does not divide into {heads} heads", super::cx::list(&s))))?;
    let y = r.reshape(x, vec![s[0].clone(), s[1].clone(), Dim::int(heads), size])?;
    r.transpose(y, vec![0, 2, 1, 3])
}

/// `[B, H, S, D]` as `[B, S, H·D]`.
pub fn join_heads(r: &mut Reader<'_, '_>, x: ValueId) -> Result<ValueId, Diagnostic> {
    let s = r.shape(x)?;
    let y = r.transpose(x, vec![0, 2, 1, 3])?;
    r.reshape(y, vec![s[0].clone(), s[2].clone(), s[1].clone() * s[3].clone()])
}

/// Each head of `[B, H, S, D]` repeated, so that there are `heads`.
pub fn repeat_heads(r: &mut Reader<'_, '_>, x: ValueId, heads: &Dim) -> Result<ValueId, Diagnostic> {
    let s = r.shape(x)?;
    let [b, h, n, d] = &s[..] else { return Err(Diagnostic::new("keys and values need rank 4")) };
    if h == heads {
        return Ok(x);
    }
    let times = heads.exact_div(h).ok_or_else(|| Diagnostic::new(format!("{heads} query heads do not share {h} key heads evenly")))?;
    let y = r.unsqueeze(x, 2)?;
    let y = r.expand(y, vec![b.clone(), h.clone(), times, n.clone(), d.clone()])?;
    r.reshape(y, vec![b.clone(), heads.clone(), n.clone(), d.clone()])
}

/// Where a query may attend, as bools that broadcast to `[B, H, Q, K]`; `None` where it may everywhere.
struct Allowed {
    mask: Option<ValueId>,
}

impl Allowed {
    fn and(&mut self, r: &mut Reader<'_, '_>, more: ValueId) -> Result<(), Diagnostic> {
        self.mask = Some(match self.mask {
            Some(m) => r.pointwise("And", &[m, more])?,
            None => more,
        });
        Ok(())
    }
}

/// Reads [Attention](https://onnx.ai/onnx/operators/onnx__Attention.html).
pub fn read(r: &mut Reader<'_, '_>) -> Read {
    let (mut q, mut k, mut v) = (r.input(0)?, r.input(1)?, r.input(2)?);
    let flat = r.rank(q)? == 3;
    if flat {
        let (hq, hk) = (r.int("q_num_heads", 0)?, r.int("kv_num_heads", 0)?);
        (q, k, v) = (split_heads(r, q, hq)?, split_heads(r, k, hk)?, split_heads(r, v, hk)?);
    }
    for x in [q, k, v] {
        if r.rank(x)? != 4 {
            return Err(Diagnostic::new(format!("Attention needs tensors of rank 3 or 4, found {}", r.rank(x)?)));
        }
    }
    let mut past = Dim::int(0);
    if let (Some(pk), Some(pv)) = (r.opt(4), r.opt(5)) {
        past = r.shape(pk)?.get(2).cloned().ok_or_else(|| Diagnostic::new("past_key needs rank 4"))?;
        (k, v) = (r.concat(&[pk, k], 2)?, r.concat(&[pv, v], 2)?);
    }
    let (present_key, present_value) = (k, v);
    let (dtype, qs, ks) = (r.dtype(q), r.shape(q)?, r.shape(k)?);
    let (k, v) = (repeat_heads(r, k, &qs[1])?, repeat_heads(r, v, &qs[1])?);
    // Values may have a type of their own; the result has that of the queries.
    let v = r.cast(v, dtype)?;
    let bias = bias(r, dtype, &qs[2], &ks[2], past)?;

    // Scores: each factor takes the root of the scale, as the function of the specification does.
    let scale = match r.float_opt("scale")? {
        Some(s) => s as f64,
        None => 1.0 / (closed(&qs[3])? as f64).sqrt(),
    };
    let (q, k) = (r.times(q, scale.sqrt())?, r.times(k, scale.sqrt())?);
    let k = r.transpose(k, vec![0, 1, 3, 2])?;
    let mut scores = r.matmul(q, k)?;
    let cap = r.float("softcap", 0.0)? as f64;
    if cap > 0.0 {
        let cap = r.scalar(cap, dtype);
        let x = r.div(scores, cap)?;
        let x = r.pointwise("Tanh", &[x])?;
        scores = r.mul(x, cap)?;
    }
    let biased = match bias {
        Some((b, _)) => r.add(scores, b)?,
        None => scores,
    };
    let precision = r.dtype_attr("softmax_precision")?.unwrap_or(dtype);
    let x = r.cast(biased, precision)?;
    let mut p = r.softmax(x, 3)?;
    if let Some((b, true)) = bias {
        // A query that may attend nowhere gives 0.
        let top = r.reduce(b, "max", &[r.rank(b)? - 1], true)?;
        let least = r.scalar(f64::NEG_INFINITY, dtype);
        let none = r.pointwise("Equal", &[top, least])?;
        let zero = r.scalar(0.0, precision);
        p = r.pointwise("Where", &[none, zero, p])?;
    }
    let p = r.cast(p, dtype)?;
    let mut y = r.matmul(p, v)?;
    if flat {
        y = join_heads(r, y)?;
    }
    let shown = match r.int("qk_matmul_output_mode", 0)? {
        0 | 1 => scores,
        2 => biased,
        _ => p,
    };
    Ok(vec![y, present_key, present_value, shown])
}

fn closed(d: &Dim) -> Result<i64, Diagnostic> {
    d.as_int().filter(|d| *d > 0).ok_or_else(|| Diagnostic::new(format!("Attention needs a known head size, found {d}")))
}

/// What is added to the scores, and whether a row of it may be all -inf.
fn bias(r: &mut Reader<'_, '_>, dtype: DType, queries: &Dim, keys: &Dim, past: Dim) -> Result<Option<(ValueId, bool)>, Diagnostic> {
    let mut allowed = Allowed { mask: None };
    let mut added = None;
    if let Some(mut mask) = r.opt(3) {
        let is_bool = r.dtype(mask) == DType::Bool;
        let shape = r.shape(mask)?;
        if shape.is_empty() {
            return Err(Diagnostic::new("the mask of Attention is a scalar, expected rank 2 or more"));
        }
        let missing = shape.last().and_then(|d| (keys.clone() - d.clone()).as_int()).unwrap_or(0);
        if missing > 0 {
            let mut pads = vec![0; 2 * shape.len()];
            pads[2 * shape.len() - 1] = missing;
            let fill = if is_bool { r.scalar(0.0, DType::Bool) } else { r.scalar(f64::NEG_INFINITY, r.dtype(mask)) };
            mask = r.emit(Pad { pads, mode: "constant" }, &[mask, fill])?;
        }
        if is_bool {
            allowed.and(r, mask)?;
        } else {
            added = Some(r.cast(mask, dtype)?);
        }
    }
    let lengths = r.opt(6);
    let column = r.iota(keys.clone())?;
    let row = r.iota(queries.clone())?;
    let row = r.reshape(row, vec![queries.clone(), Dim::int(1)])?;
    // The position of a query: behind the past, or at the end of the keys in use.
    let offset = match lengths {
        Some(n) if r.opt(4).is_none() => {
            let n = r.cast(n, DType::I64)?;
            let batch = r.shape(n)?;
            let n = r.reshape(n, [batch, vec![Dim::int(1); 3]].concat())?;
            let q = r.extent(queries.clone())?;
            r.sub(n, q)?
        }
        _ => r.extent(past)?,
    };
    let (left, right) = (r.int("left_window_size", -1)?, r.int("right_window_size", -1)?);
    let causal = r.int("is_causal", 0)? != 0;
    let position = r.add(row, offset)?;
    if causal {
        let may = r.pointwise("LessOrEqual", &[column, position])?;
        allowed.and(r, may)?;
    }
    if left >= 0 {
        let first = r.plus(position, -(left as f64))?;
        let may = r.pointwise("LessOrEqual", &[first, column])?;
        allowed.and(r, may)?;
    }
    if right >= 0 {
        let last = r.plus(position, right as f64)?;
        let may = r.pointwise("LessOrEqual", &[column, last])?;
        allowed.and(r, may)?;
    }
    if let Some(n) = lengths {
        let n = r.cast(n, DType::I64)?;
        let batch = r.shape(n)?;
        let n = r.reshape(n, [batch, vec![Dim::int(1); 3]].concat())?;
        let may = r.pointwise("Less", &[column, n])?;
        allowed.and(r, may)?;
    }
    // Causal masks alone leave every query at least one key.
    let guard = r.opt(3).is_some() || lengths.is_some() || left >= 0 || right >= 0;
    Ok(match (allowed.mask, added) {
        (None, None) => None,
        (None, Some(a)) => Some((a, guard)),
        (Some(m), a) => {
            let zero = a.unwrap_or_else(|| r.scalar(0.0, dtype));
            let least = r.scalar(f64::NEG_INFINITY, dtype);
            Some((r.pointwise("Where", &[m, zero, least])?, guard))
        }
    })
}

/// Reads FlexAttention, whose scores and probabilities go through graphs of the node.
pub fn read_flex(r: &mut Reader<'_, '_>) -> Read {
    let (q, k, v) = (r.ranked(0, 4)?, r.ranked(1, 4)?, r.ranked(2, 4)?);
    let (dtype, qs) = (r.dtype(q), r.shape(q)?);
    let (k, v) = (repeat_heads(r, k, &qs[1])?, repeat_heads(r, v, &qs[1])?);
    let scale = match r.float_opt("scale")? {
        Some(s) => s as f64,
        None => 1.0 / (closed(&qs[3])? as f64).sqrt(),
    };
    let root = (scale as f32).sqrt() as f64;
    let (q, k) = (r.times(q, root)?, r.times(k, root)?);
    let k = r.transpose(k, vec![0, 1, 3, 2])?;
    let scores = r.matmul(q, k)?;
    let wide = if dtype == DType::F64 { dtype } else { DType::F32 };
    let precision = r.dtype_attr("softmax_precision")?.unwrap_or(wide);
    let scores = r.cast(scores, precision)?;
    let scores = through(r, "score_mod", scores)?;
    let p = r.softmax(scores, 3)?;
    let p = through(r, "prob_mod", p)?;
    let v2 = r.cast(v, precision)?;
    let y = r.matmul(p, v2)?;
    Ok(vec![r.cast(y, r.dtype(v))?])
}

/// The value through a graph attribute, if the node has it.
fn through(r: &mut Reader<'_, '_>, name: &str, x: ValueId) -> Result<ValueId, Diagnostic> {
    let dtype = r.dtype(x);
    match r.node.attribute(name) {
        None => Ok(x),
        Some(Attribute::Graph(g)) => {
            let rank = r.rank(x)?;
            let out = r.b.inline_with(g, &[x])?;
            match out[..] {
                [y] if r.rank(y)? == rank => r.cast(y, dtype),
                [y] => Err(Diagnostic::new(format!("the graph {name} gives rank {}, expected {rank}", r.rank(y)?))),
                _ => Err(Diagnostic::new(format!("the graph {name} gives {} results, expected 1", out.len()))),
            }
        }
        Some(other) => Err(Diagnostic::new(format!("attribute {name} must be a graph, found {}", other.kind()))),
    }
}
