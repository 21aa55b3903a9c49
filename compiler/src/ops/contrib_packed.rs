//! Attention of `com.microsoft` without padding: the tokens of all sequences stand behind each other, and where they came from beside
//! them. [ContribOperators](https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md) defines the operators.

use super::attention::{join_heads, split_heads};
use super::contrib_attention::{Form, attend, biased, heads, positions, scale, unpacked};
use super::gather::Gather;
use super::scatter::{ScatterElements, ScatterNd};
use super::sort::Running;
use super::{Reader, host};
use crate::diagnostics::Diagnostic;
use crate::ir::{Dim, ValueId, product};
use kiln_kernels::dtype::DType;

type Read = Result<Vec<ValueId>, Diagnostic>;
type One = Result<ValueId, Diagnostic>;

/// Running sums of a list, each with its own element or without.
fn running(r: &mut Reader<'_, '_>, x: ValueId, exclusive: bool) -> One {
    r.emit(Running { kernel: "scan::cumsum", axis: 0, exclusive, reverse: false }, &[x])
}

/// Reads `RemovePadding`: sequences `[B, S, H]` and their lengths `[B]`; results the tokens `[T, H]`, the place of each in `B·S`, then
/// those of the padding, as `[B, S]`, where sequences begin and the last ends `[B + 1]`, and the greatest length `[1]`.
pub fn read_remove(r: &mut Reader<'_, '_>) -> Read {
    let (x, lengths) = (r.ranked(0, 3)?, r.ranked(1, 1)?);
    let [batch, steps, width] = &r.shape(x)?[..] else { return Err(Diagnostic::new("RemovePadding needs sequences of rank 3")) };
    let all = batch.clone() * steps.clone();
    let lengths = r.cast(lengths, DType::I64)?;
    let ends = r.reshape(lengths, vec![batch.clone(), Dim::int(1)])?;
    let step = positions(r, steps, false)?;
    let token = r.pointwise("Less", &[step, ends])?;
    let token = r.reshape(token, vec![all.clone()])?;
    // A token goes behind the tokens before it, padding behind all tokens and the padding before it.
    let one = r.cast(token, DType::I64)?;
    let (before, count) = (running(r, one, true)?, r.reduce(one, "sum", &[0], false)?);
    let places = r.iota(all.clone())?;
    let padded = r.sub(places, before)?;
    let padded = r.add(padded, count)?;
    let to = r.pointwise("Where", &[token, before, padded])?;
    let zero = r.scalar(0.0, DType::I64);
    let room = r.expand(zero, vec![all.clone()])?;
    let offset = r.emit(ScatterElements { axis: 0, mode: "none" }, &[room, to, places])?;
    let which = host::nonzero(r, token)?;
    let total = r.shape(which)?[1].clone();
    let which = r.reshape(which, vec![total])?;
    let rows = r.reshape(x, vec![all, width.clone()])?;
    let tokens = r.emit(Gather { axis: 0 }, &[rows, which])?;
    let offset = r.reshape(offset, vec![batch.clone(), steps.clone()])?;
    let first = r.expand(zero, vec![Dim::int(1)])?;
    let sums = running(r, lengths, false)?;
    let sums = r.concat(&[first, sums], 0)?;
    let most = r.reduce(lengths, "max", &[0], true)?;
    let mut out = vec![tokens];
    for v in [offset, sums, most] {
        out.push(r.cast(v, DType::I32)?);
    }
    Ok(out)
}

/// The first places of `offset` `[B, S]`, those of the `total` tokens.
fn places(r: &mut Reader<'_, '_>, offset: ValueId, total: &Dim) -> One {
    let shape = r.shape(offset)?;
    let flat = r.reshape(offset, vec![product(&shape)])?;
    let flat = r.cast(flat, DType::I64)?;
    r.cut(flat, 0, Dim::int(0), total.clone(), 1)
}

/// Tokens `[T, H]` as sequences `[B, S, H]`, with zeros for padding.
fn restored(r: &mut Reader<'_, '_>, x: ValueId, offset: ValueId) -> One {
    let [total, width] = &r.shape(x)?[..] else { return Err(Diagnostic::new("packed tokens need rank 2")) };
    let [batch, steps] = &r.shape(offset)?[..] else { return Err(Diagnostic::new("the places of packed tokens need rank 2")) };
    let at = places(r, offset, total)?;
    let at = r.reshape(at, vec![total.clone(), Dim::int(1)])?;
    let zero = r.scalar(0.0, r.dtype(x));
    let room = r.expand(zero, vec![batch.clone() * steps.clone(), width.clone()])?;
    let y = r.emit(ScatterNd { mode: "none" }, &[room, at, x])?;
    r.reshape(y, vec![batch.clone(), steps.clone(), width.clone()])
}

/// Reads `RestorePadding`: tokens `[T, H]` and the places of [`read_remove`]; the result is `[B, S, H]`, zero where there is no token.
pub fn read_restore(r: &mut Reader<'_, '_>) -> Read {
    let (x, offset) = (r.ranked(0, 2)?, r.ranked(1, 2)?);
    Ok(vec![restored(r, x, offset)?])
}

/// Attention of queries, keys and values `[B, N, S, D]`; gives the tokens of its result, `[T, N·D]`.
fn attended(r: &mut Reader<'_, '_>, [q, k, v]: [ValueId; 3], [offset, starts]: [ValueId; 2], added: Option<ValueId>, total: &Dim) -> One {
    let s = r.shape(q)?;
    let mut form = Form { scale: scale(r)?, ..Form::default() };
    form.added.extend(added);
    let ends = r.cut(starts, 0, Dim::int(1), s[0].clone(), 1)?;
    let begins = r.cut(starts, 0, Dim::int(0), s[0].clone(), 1)?;
    let lengths = r.sub(ends, begins)?;
    let lengths = r.cast(lengths, DType::I64)?;
    let lengths = r.reshape(lengths, vec![s[0].clone(), Dim::int(1), Dim::int(1), Dim::int(1)])?;
    // A sequence without tokens has no key; its first stands in, so that no score is NaN, and no token sees it.
    let one = r.scalar(1.0, DType::I64);
    let lengths = r.pointwise("Max", &[lengths, one])?;
    let column = positions(r, &s[2], false)?;
    form.allowed.push(r.pointwise("Less", &[column, lengths])?);
    let [y, ..] = attend(r, q, k, v, &form)?;
    let y = join_heads(r, y)?;
    let shape = r.shape(y)?;
    let rows = r.reshape(y, vec![shape[0].clone() * shape[1].clone(), shape[2].clone()])?;
    let at = places(r, offset, total)?;
    r.emit(Gather { axis: 0 }, &[rows, at])
}

/// Reads `PackedAttention`: tokens `[T, I]`, weights `[I, 3·H]`, bias, places, where sequences begin, and what is added to the scores.
pub fn read_attention(r: &mut Reader<'_, '_>) -> Read {
    let (x, w, bias, offset, starts) = (r.ranked(0, 2)?, r.ranked(1, 2)?, r.input(2)?, r.ranked(3, 2)?, r.ranked(4, 1)?);
    let (n, total) = (heads(r, "num_heads")?, r.shape(x)?[0].clone());
    let y = r.matmul(x, w)?;
    let y = r.add(y, bias)?;
    let y = restored(r, y, offset)?;
    let parts = super::contrib_attention::parts(r, y, n)?;
    Ok(vec![attended(r, parts, [offset, starts], r.opt(5), &total)?])
}

/// Reads `PackedMultiHeadAttention`: queries, keys and values `[T, H]`, or all of them `[T, N, 3, D]` in the first; bias, places, where
/// sequences begin, and what is added to the scores.
pub fn read_multi_head(r: &mut Reader<'_, '_>) -> Read {
    let (query, bias, offset, starts) = (r.input(0)?, r.opt(3), r.ranked(4, 2)?, r.ranked(5, 1)?);
    let (n, shape) = (heads(r, "num_heads")?, r.shape(query)?);
    let mut parts = match (&shape[..], r.opt(1), r.opt(2)) {
        ([total, m, three, d], None, None) => {
            let flat = r.reshape(query, vec![total.clone(), product(&shape[1..])])?;
            let y = restored(r, flat, offset)?;
            let s = r.shape(y)?;
            let y = r.reshape(y, vec![s[0].clone(), s[1].clone(), m.clone(), three.clone(), d.clone()])?;
            [unpacked(r, y, 0)?, unpacked(r, y, 1)?, unpacked(r, y, 2)?]
        }
        ([_, _], Some(k), Some(v)) => {
            let mut parts = [query, k, v];
            for p in &mut parts {
                *p = restored(r, *p, offset)?;
                *p = split_heads(r, *p, n)?;
            }
            parts
        }
        _ => return Err(Diagnostic::new("PackedMultiHeadAttention needs three operands of rank 2, or one of rank 4")),
    };
    let mut at = Dim::int(0);
    for p in &mut parts {
        *p = biased(r, *p, bias, &mut at)?;
    }
    Ok(vec![attended(r, parts, [offset, starts], r.opt(6), &shape[0])?])
}
