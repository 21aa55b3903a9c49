//! Attention of `com.microsoft`: Attention, QAttention, MultiHeadAttention, GroupQueryAttention and RotaryEmbedding, as products around a
//! softmax. [ContribOperators](https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md) defines them.

use super::attention::{join_heads, repeat_heads, split_heads};
use super::recurrent_attention::turn;
use super::scatter::ScatterElements;
use super::{Reader, gather::Gather, pad::Pad};
use crate::diagnostics::Diagnostic;
use crate::ir::{Dim, ValueId};
use kiln_kernels::dtype::DType;

type Read = Result<Vec<ValueId>, Diagnostic>;
type One = Result<ValueId, Diagnostic>;

/// What attention of `[B, N, S, D]` is but its operands.
#[derive(Default)]
pub(super) struct Form {
    /// The scores' factor; 1/√D where it is none.
    pub(super) scale: Option<f64>,
    /// Scores `x` become `cap · tanh(x / cap)`.
    pub(super) cap: Option<f64>,
    /// Added to the scores, broadcast.
    pub(super) added: Vec<ValueId>,
    /// Where scores count, as bools; each query has one at least.
    pub(super) allowed: Vec<ValueId>,
    /// Scores of a key without a value, one for each head.
    pub(super) sink: Option<ValueId>,
}

/// Results of attention, and its scores before the softmax and behind it.
pub(super) fn attend(r: &mut Reader<'_, '_>, q: ValueId, k: ValueId, v: ValueId, form: &Form) -> Result<[ValueId; 3], Diagnostic> {
    let (qs, dtype) = (r.shape(q)?, r.dtype(q));
    let (k, v) = (repeat_heads(r, k, &qs[1])?, repeat_heads(r, v, &qs[1])?);
    let scale = match (form.scale, qs[3].as_int()) {
        (Some(s), _) => s,
        (None, Some(d @ 1..)) => 1.0 / (d as f64).sqrt(),
        _ => return Err(Diagnostic::new(format!("attention needs a known head size, found {}", qs[3]))),
    };
    let k = r.transpose(k, vec![0, 1, 3, 2])?;
    let x = r.matmul(q, k)?;
    let mut x = r.times(x, scale)?;
    if let Some(cap) = form.cap {
        let cap = r.scalar(cap, dtype);
        let y = r.div(x, cap)?;
        let y = r.pointwise("Tanh", &[y])?;
        x = r.mul(y, cap)?;
    }
    for b in &form.added {
        let b = r.cast(*b, dtype)?;
        x = r.add(x, b)?;
    }
    if let Some(&first) = form.allowed.first() {
        let mut may = first;
        for more in &form.allowed[1..] {
            may = r.pointwise("And", &[may, *more])?;
        }
        let least = r.scalar(f64::NEG_INFINITY, dtype);
        x = r.pointwise("Where", &[may, x, least])?;
    }
    let p = match form.sink {
        None => r.softmax(x, 3)?,
        Some(sink) => {
            let s = r.shape(x)?;
            let sink = r.cast(sink, dtype)?;
            let column = r.expand(sink, vec![s[0].clone(), s[1].clone(), s[2].clone(), Dim::int(1)])?;
            let all = r.concat(&[x, column], 3)?;
            let p = r.softmax(all, 3)?;
            r.cut(p, 3, Dim::int(0), s[3].clone(), 1)?
        }
    };
    Ok([r.matmul(p, v)?, x, p])
}

/// A positive number of heads.
pub(super) fn heads(r: &Reader<'_, '_>, name: &str) -> Result<i64, Diagnostic> {
    match r.int(name, 0)? {
        n @ 1.. => Ok(n),
        n => Err(Diagnostic::new(format!("attribute {name} is {n}, expected 1 or more"))),
    }
}

/// The attribute `scale`, where 0 stands for none.
pub(super) fn scale(r: &Reader<'_, '_>) -> Result<Option<f64>, Diagnostic> {
    Ok(r.float_opt("scale")?.filter(|s| *s != 0.0).map(|s| s as f64))
}

/// The positions 0.. of `n` queries or keys, along the last axis of a matrix or the one before.
pub(super) fn positions(r: &mut Reader<'_, '_>, n: &Dim, column: bool) -> One {
    let p = r.iota(n.clone())?;
    if column { r.reshape(p, vec![n.clone(), Dim::int(1)]) } else { Ok(p) }
}

/// Where a key is not behind its query, whose positions begin behind `past` keys.
fn causal(r: &mut Reader<'_, '_>, queries: &Dim, keys: &Dim, past: &Dim) -> One {
    let (row, column) = (positions(r, queries, true)?, positions(r, keys, false)?);
    let past = r.extent(past.clone())?;
    let row = r.add(row, past)?;
    r.pointwise("LessOrEqual", &[column, row])
}

/// What a mask of integers adds to scores: `mask_filter_value` where it is 0. Its shapes: `[B, T]`, `[B, S, T]`, `[B, 1, M, M]`, lengths
/// `[B]` or ends and starts `[2·B]`.
fn mask(r: &mut Reader<'_, '_>, mask: ValueId, batch: &Dim, queries: &Dim, keys: &Dim, past: &Dim) -> One {
    let shape = r.shape(mask)?;
    let filter = r.float("mask_filter_value", -10000.0)? as f64;
    let zero = r.scalar(0.0, r.dtype(mask));
    let one = Dim::int(1);
    let open = match &shape[..] {
        [n] => {
            let twice = batch.clone() * Dim::int(2);
            if n != batch && *n != twice {
                return Err(Diagnostic::new(format!("a mask [{n}] is neither lengths [{batch}] nor ends and starts [{twice}]")));
            }
            let column = positions(r, keys, false)?;
            let bound = |r: &mut Reader<'_, '_>, from: Dim| {
                let v = r.cut(mask, 0, from, batch.clone(), 1)?;
                let v = r.cast(v, DType::I64)?;
                r.reshape(v, vec![batch.clone(), Dim::int(1), Dim::int(1), Dim::int(1)])
            };
            let end = bound(r, Dim::int(0))?;
            let mut open = r.pointwise("Less", &[column, end])?;
            if *n == twice {
                let start = bound(r, batch.clone())?;
                let begun = r.pointwise("LessOrEqual", &[start, column])?;
                open = r.pointwise("And", &[open, begun])?;
            }
            open
        }
        [b, t] => {
            let m = r.reshape(mask, vec![b.clone(), one.clone(), one, t.clone()])?;
            r.pointwise("Greater", &[m, zero])?
        }
        [b, s, t] => {
            let m = r.reshape(mask, vec![b.clone(), one, s.clone(), t.clone()])?;
            r.pointwise("Greater", &[m, zero])?
        }
        [_, _, _, _] => {
            // A square over all positions, of which the last queries and all keys are taken.
            let m = r.cut(mask, 2, past.clone(), queries.clone(), 1)?;
            let m = r.cut(m, 3, Dim::int(0), keys.clone(), 1)?;
            r.pointwise("Greater", &[m, zero])?
        }
        _ => return Err(Diagnostic::new("a mask of attention needs rank 1 to 4")),
    };
    let (zero, filter) = (r.scalar(0.0, DType::F32), r.scalar(filter, DType::F32));
    r.pointwise("Where", &[open, zero, filter])
}

/// Reads `Attention`: operands input `[B, S, I]`, weights `[I, 3·H]`, bias, mask, past `[2, B, N, P, D]` and what is added to the scores;
/// results `[B, S, Hv]` and the present.
pub fn read(r: &mut Reader<'_, '_>) -> Read {
    let (x, w) = (r.ranked(0, 3)?, r.ranked(1, 2)?);
    let mut y = r.matmul(x, w)?;
    if let Some(b) = r.opt(2) {
        y = r.add(y, b)?;
    }
    if r.opt(6).is_some() {
        return Err(Diagnostic::new("Attention with a past in one buffer of its own length is not supported")
            .help("export without past_present_share_buffer"));
    }
    projected(r, y, r.opt(3), r.opt(4), r.opt(5))
}

/// Reads `QAttention`: `Attention` of bytes, whose projection is a product of integers.
pub fn read_quantized(r: &mut Reader<'_, '_>) -> Read {
    let (x, w) = (r.ranked(0, 3)?, r.ranked(1, 2)?);
    let sums = super::matmul::integers(r, (x, r.opt(6)), (w, r.opt(7)))?;
    let scales = [r.input(3)?, r.input(4)?];
    let y = super::qlinear::scaled(r, sums, scales, Some(r.input(2)?))?[0];
    projected(r, y, r.opt(5), r.opt(8), None)
}

/// Queries, keys and values that lie beside each other, `[B, S, 3·H]`, each as `[B, N, S, D]`.
pub(super) fn parts(r: &mut Reader<'_, '_>, y: ValueId, n: i64) -> Result<[ValueId; 3], Diagnostic> {
    let s = r.shape(y)?;
    let sizes = match r.ints("qkv_hidden_sizes")?.filter(|v| !v.is_empty()) {
        Some(v) if v.len() == 3 => v.into_iter().map(Dim::int).collect(),
        Some(v) => return Err(Diagnostic::new(format!("attribute qkv_hidden_sizes is {v:?}, expected three sizes"))),
        None => match s[2].exact_div(&Dim::int(3)) {
            Some(h) => vec![h; 3],
            None => return Err(Diagnostic::new(format!("queries, keys and values do not share {} columns", s[2]))),
        },
    };
    let (mut out, mut at) = ([y; 3], Dim::int(0));
    for (part, size) in out.iter_mut().zip(sizes) {
        let columns = r.cut(y, 2, at.clone(), size.clone(), 1)?;
        *part = split_heads(r, columns, n)?;
        at = at + size;
    }
    Ok(out)
}

/// Attention of queries, keys and values that lie beside each other, `[B, S, 3·H]`.
fn projected(r: &mut Reader<'_, '_>, y: ValueId, masked: Option<ValueId>, past: Option<ValueId>, bias: Option<ValueId>) -> Read {
    if r.int("do_rotary", 0)? != 0 {
        return Err(Diagnostic::new("Attention with do_rotary is not supported").help("export rotary embeddings as RotaryEmbedding"));
    }
    let (n, s) = (heads(r, "num_heads")?, r.shape(y)?);
    let [q, mut k, mut v] = parts(r, y, n)?;
    let mut before = Dim::int(0);
    if let Some(past) = past {
        let shape = r.shape(past)?;
        let [_, _, _, p, _] = &shape[..] else { return Err(Diagnostic::new("the past of Attention needs rank 5")) };
        before = p.clone();
        let (pk, pv) = (r.pick(past, 0, 0)?, r.pick(past, 0, 1)?);
        (k, v) = (r.concat(&[pk, k], 2)?, r.concat(&[pv, v], 2)?);
    }
    let keys = r.shape(k)?[2].clone();
    let mut form = Form { scale: scale(r)?, ..Form::default() };
    form.added.extend(bias);
    if let Some(m) = masked {
        form.added.push(mask(r, m, &s[0], &s[1], &keys, &before)?);
    }
    if r.int("unidirectional", 0)? != 0 {
        form.allowed.push(causal(r, &s[1], &keys, &before)?);
    }
    let out = attend(r, q, k, v, &form)?[0];
    let mut results = vec![join_heads(r, out)?];
    if r.wants(1) {
        let (k, v) = (r.unsqueeze(k, 0)?, r.unsqueeze(v, 0)?);
        results.push(r.concat(&[k, v], 0)?);
    }
    Ok(results)
}

/// Part `i` of `count` that lie between heads and elements, `[B, S, N, count, D]`, as `[B, N, S, D]`.
pub(super) fn unpacked(r: &mut Reader<'_, '_>, x: ValueId, i: i64) -> One {
    let y = r.pick(x, 3, i)?;
    r.transpose(y, vec![0, 2, 1, 3])
}

/// A part of the bias `[heads · size]` as it is added to `[B, N, S, D]`.
pub(super) fn biased(r: &mut Reader<'_, '_>, x: ValueId, bias: Option<ValueId>, at: &mut Dim) -> One {
    let Some(b) = bias else { return Ok(x) };
    let s = r.shape(x)?;
    let size = s[1].clone() * s[3].clone();
    let part = r.cut(b, 0, at.clone(), size.clone(), 1)?;
    *at = at.clone() + size;
    let part = r.reshape(part, vec![s[1].clone(), Dim::int(1), s[3].clone()])?;
    r.add(x, part)
}

/// Reads `MultiHeadAttention`: queries `[B, S, H]` with keys and values `[B, L, H]` or `[B, N, L, D]`, keys with values
/// `[B, L, N, 2, D]`, or all three `[B, S, N, 3, D]`; then bias, key padding mask, what is added to the scores, past keys and values.
pub fn read_multi_head(r: &mut Reader<'_, '_>) -> Read {
    let n = heads(r, "num_heads")?;
    let (query, bias) = (r.input(0)?, r.opt(3));
    let mut at = Dim::int(0);
    let (mut q, mut k, mut v);
    match (r.rank(query)?, r.opt(1), r.opt(2)) {
        (5, None, None) => (q, k, v) = (unpacked(r, query, 0)?, unpacked(r, query, 1)?, unpacked(r, query, 2)?),
        (3, Some(key), value) => {
            q = split_heads(r, query, n)?;
            (k, v) = match (r.rank(key)?, value) {
                (5, None) => (unpacked(r, key, 0)?, unpacked(r, key, 1)?),
                (3, Some(value)) => (split_heads(r, key, n)?, split_heads(r, value, n)?),
                (4, Some(value)) => (key, value),
                _ => return Err(Diagnostic::new("MultiHeadAttention needs keys of rank 3 or 4 with values, or of rank 5 without")),
            };
        }
        _ => return Err(Diagnostic::new("MultiHeadAttention needs queries of rank 3 with keys, or of rank 5 without")),
    }
    q = biased(r, q, bias, &mut at)?;
    k = biased(r, k, bias, &mut at)?;
    v = biased(r, v, bias, &mut at)?;
    let mut before = Dim::int(0);
    if let (Some(pk), Some(pv)) = (r.opt(6), r.opt(7)) {
        if r.opt(8).is_some() {
            return Err(Diagnostic::new("MultiHeadAttention with a past in one buffer of its own length is not supported")
                .help("export without past_present_share_buffer"));
        }
        before = r.shape(pk)?.get(2).cloned().ok_or_else(|| Diagnostic::new("past_key needs rank 4"))?;
        (k, v) = (r.concat(&[pk, k], 2)?, r.concat(&[pv, v], 2)?);
    }
    let (qs, keys) = (r.shape(q)?, r.shape(k)?[2].clone());
    let mut form = Form { scale: scale(r)?, ..Form::default() };
    form.added.extend(r.opt(5));
    if let Some(m) = r.opt(4) {
        form.added.push(mask(r, m, &qs[0], &qs[2], &keys, &before)?);
    }
    if r.int("unidirectional", 0)? != 0 {
        form.allowed.push(causal(r, &qs[2], &keys, &before)?);
    }
    let [y, scores, _] = attend(r, q, k, v, &form)?;
    Ok(vec![join_heads(r, y)?, k, v, scores])
}

/// `[B, N, S, D]` turned by the angles of positions `[B, S]`.
fn rotated(r: &mut Reader<'_, '_>, x: ValueId, positions: ValueId) -> One {
    let y = r.transpose(x, vec![0, 2, 1, 3])?;
    let mut angles = Vec::new();
    for i in [7, 8] {
        let cache = r.input(i)?;
        let rows = r.emit(Gather { axis: 0 }, &[cache, positions])?;
        angles.push(r.unsqueeze(rows, 2)?);
    }
    let turned = r.shape(angles[0])?[3].as_int().ok_or_else(|| Diagnostic::new("the angles need a known extent"))? * 2;
    let interleaved = r.int("rotary_interleaved", 0)? != 0;
    let y = turn(r, y, [angles[0], angles[1]], turned, interleaved)?;
    r.transpose(y, vec![0, 2, 1, 3])
}

/// Reads `GroupQueryAttention`: queries, keys and values `[B, S, ..]`, or all of them in the first; past keys and values `[B, N, P, D]`; the
/// number of keys of each sequence less 1; of all keys. What is new goes into the past behind the keys that a sequence has.
pub fn read_group_query(r: &mut Reader<'_, '_>) -> Read {
    let (n, shared) = (heads(r, "num_heads")?, heads(r, "kv_num_heads")?);
    if r.opt(12).or(r.opt(13)).is_some() || r.int("kv_cache_bit_width", 0)? != 0 {
        return Err(Diagnostic::new("GroupQueryAttention with a quantized cache is not supported"));
    }
    if r.opt(14).or(r.opt(15)).is_some() || r.int("sliding_window_cache", 0)? != 0 {
        return Err(Diagnostic::new("GroupQueryAttention with norms of its own or a sliding cache is not supported"));
    }
    let query = r.ranked(0, 3)?;
    let (mut q, mut k, v);
    match (r.opt(1), r.opt(2)) {
        (Some(key), Some(value)) => (q, k, v) = (split_heads(r, query, n)?, split_heads(r, key, shared)?, split_heads(r, value, shared)?),
        _ => {
            let all = split_heads(r, query, n + 2 * shared)?;
            let part = |r: &mut Reader<'_, '_>, at: i64, count: i64| r.cut(all, 1, Dim::int(at), Dim::int(count), 1);
            (q, k, v) = (part(r, 0, n)?, part(r, n, shared)?, part(r, n + shared, shared)?);
        }
    }
    let (batch, new) = (r.shape(q)?[0].clone(), r.shape(q)?[2].clone());
    let lengths = r.cast(r.input(5)?, DType::I64)?;
    let lengths = r.reshape(lengths, vec![batch.clone(), Dim::int(1)])?;
    let lengths = r.plus(lengths, 1.0)?;
    let total = r.input(6)?;
    let known = r.dims(total).and_then(|d| d.first().cloned());
    let past = r.opt(3).zip(r.opt(4));
    let before = match past {
        Some((pk, _)) => r.shape(pk)?.get(2).cloned().ok_or_else(|| Diagnostic::new("past_key needs rank 4"))?,
        None => Dim::int(0),
    };
    // How many keys each sequence has already, [B, 1]: none where all keys are new, which may be fewer than there is room for.
    let have = if before.is(0) || known.as_ref() == Some(&new) {
        let zero = r.scalar(0.0, DType::I64);
        r.expand(zero, vec![batch.clone(), Dim::int(1)])?
    } else {
        let count = r.extent(new.clone())?;
        let rest = r.sub(lengths, count)?;
        let total = r.cast(total, DType::I64)?;
        let total = r.reshape(total, vec![])?;
        let first = r.pointwise("Equal", &[total, count])?;
        let zero = r.scalar(0.0, DType::I64);
        r.pointwise("Where", &[first, zero, rest])?
    };
    let steps = r.iota(new.clone())?;
    let places = r.add(have, steps)?;
    if r.int("do_rotary", 0)? != 0 {
        let at = match r.opt(9) {
            Some(p) => r.cast(p, DType::I64)?,
            None => places,
        };
        (q, k) = (rotated(r, q, at)?, rotated(r, k, at)?);
    }
    let (k, v) = match past {
        Some((pk, pv)) => {
            let grown = known.as_ref().is_some_and(|t| *t == before.clone() + new.clone());
            if before.is(0) {
                (k, v)
            } else if grown && batch.is(1) {
                (r.concat(&[pk, k], 2)?, r.concat(&[pv, v], 2)?)
            } else {
                (inserted(r, pk, k, places, known.as_ref())?, inserted(r, pv, v, places, known.as_ref())?)
            }
        }
        None => (k, v),
    };
    let keys = r.shape(k)?[2].clone();
    let column = positions(r, &keys, false)?;
    let row = r.reshape(places, vec![batch.clone(), Dim::int(1), new, Dim::int(1)])?;
    let mut form = Form { scale: scale(r)?, cap: Some(r.float("softcap", 0.0)? as f64).filter(|c| *c > 0.0), ..Form::default() };
    form.added.extend(r.opt(10));
    if r.int("causal", 1)? != 0 {
        form.allowed.push(r.pointwise("LessOrEqual", &[column, row])?);
    } else {
        let lengths = r.reshape(lengths, vec![batch, Dim::int(1), Dim::int(1), Dim::int(1)])?;
        form.allowed.push(r.pointwise("Less", &[column, lengths])?);
    }
    let window = r.int("local_window_size", -1)?;
    if window > 0 {
        let first = r.plus(row, -(window as f64))?;
        form.allowed.push(r.pointwise("Less", &[first, column])?);
    }
    form.sink = match r.opt(11) {
        Some(sink) => Some(r.reshape(sink, vec![Dim::int(1), Dim::int(n), Dim::int(1), Dim::int(1)])?),
        None if r.int("smooth_softmax", 0)? == 1 => Some(r.scalar(0.0, r.dtype(q))),
        None => None,
    };
    let [y, scores, shares] = attend(r, q, k, v, &form)?;
    let y = join_heads(r, y)?;
    Ok(vec![y, k, v, if r.int("qk_output", 0)? == 2 { shares } else { scores }])
}

/// A cache `[B, N, P, D]` with rows `[B, N, S, D]` at places `[B, S]`, made longer where `total` rows are more than it has.
fn inserted(r: &mut Reader<'_, '_>, cache: ValueId, rows: ValueId, places: ValueId, total: Option<&Dim>) -> One {
    let (cs, rs) = (r.shape(cache)?, r.shape(rows)?);
    let total = total.ok_or_else(|| {
        Diagnostic::new("GroupQueryAttention needs total_sequence_length as a constant, or computed from extents")
            .help("close the dimensions of the cache, or derive the length from the shape of the mask")
    })?;
    let more = total.most(&cs[2]) - cs[2].clone();
    let mut cache = cache;
    if let Some(more) = more.as_int() {
        if more > 0 {
            let zero = r.scalar(0.0, r.dtype(cache));
            let mut pads = vec![0; 8];
            pads[6] = more;
            cache = r.emit(Pad { pads, mode: "constant" }, &[cache, zero])?;
        }
    } else {
        let zero = r.scalar(0.0, r.dtype(cache));
        let room = r.expand(zero, vec![cs[0].clone(), cs[1].clone(), more, cs[3].clone()])?;
        cache = r.concat(&[cache, room], 2)?;
    }
    let places = r.reshape(places, vec![rs[0].clone(), Dim::int(1), rs[2].clone(), Dim::int(1)])?;
    let places = r.expand(places, rs)?;
    let dtype = r.dtype(cache);
    let wide = super::reduce::widened(dtype);
    let (cache, rows) = (r.cast(cache, wide)?, r.cast(rows, wide)?);
    let y = r.emit(ScatterElements { axis: 2, mode: "none" }, &[cache, places, rows])?;
    r.cast(y, dtype)
}

/// Reads `RotaryEmbedding`: operands x `[B, S, H]` or `[B, N, S, D]`, positions `[B, S]` or that of the first row, tables of angles.
pub fn read_rotary(r: &mut Reader<'_, '_>) -> Read {
    let (x, mut places, table) = (r.input(0)?, r.input(1)?, r.ranked(2, 2)?);
    let (whole, half) = (r.shape(x)?, r.shape(table)?[1].clone());
    let half = half.as_int().filter(|h| *h > 0).ok_or_else(|| Diagnostic::new("RotaryEmbedding needs a known extent of its tables"))?;
    if r.int("is_packed_batching", 0)? != 0 {
        return Err(Diagnostic::new("RotaryEmbedding of packed batches is not supported"));
    }
    let x = match whole.len() {
        4 => r.transpose(x, vec![0, 2, 1, 3])?,
        3 => {
            let n = match r.int("num_heads", 0)? {
                0 => whole[2].exact_div(&Dim::int(2 * half)).and_then(|n| n.as_int()).unwrap_or(0),
                n => n,
            };
            let y = split_heads(r, x, n)?;
            r.transpose(y, vec![0, 2, 1, 3])?
        }
        n => return Err(Diagnostic::new(format!("RotaryEmbedding needs rank 3 or 4, found {n}"))),
    };
    let s = r.shape(x)?;
    if r.rank(places)? != 2 {
        let steps = r.iota(s[1].clone())?;
        let first = r.cast(places, DType::I64)?;
        let first = r.reshape(first, vec![Dim::int(1), Dim::int(1)])?;
        let line = r.add(first, steps)?;
        places = r.expand(line, vec![s[0].clone(), s[1].clone()])?;
    }
    let mut angles = Vec::new();
    for i in [2, 3] {
        let table = r.input(i)?;
        let rows = r.emit(Gather { axis: 0 }, &[table, places])?;
        angles.push(r.unsqueeze(rows, 2)?);
    }
    let interleaved = r.int("interleaved", 0)? != 0;
    let y = turn(r, x, [angles[0], angles[1]], 2 * half, interleaved)?;
    Ok(vec![if whole.len() == 4 { r.transpose(y, vec![0, 2, 1, 3])? } else { r.reshape(y, whole)? }])
}
