//! Attention recognised: the products around a softmax become [`Attend`], and what is written around them becomes its attributes.
//!
//! The first step takes scores however they are scaled and masked; the others move a factor, a triangle or repeated heads into the
//! operator, whatever made them. A masked score is -inf, the type's least number or -10000 and below, as exporters have it; its
//! probability is 0, as long as the other scores of its row lie 104 above it. Where a row is wholly masked by one finite number, the
//! original gives the mean of all values, and so does a mask that absorbs the scores.

use super::orders;
use crate::eval;
use crate::ir::{NodeId, ValueId};
use crate::ops::attend::Attend;
use crate::ops::matmul::MatMul;
use crate::ops::movement::Transpose;
use crate::ops::shape::Reshape;
use crate::ops::{Op, Real};
use crate::rewrite::{Class, Found, Rewriter, Rule, head};
use kiln_kernels::dtype::DType;

/// Rules about attention.
#[rustfmt::skip]
pub const RULES: &[Rule] = &[
    Rule { name: "attend-rows", on: &["MatMul"], equation: "where(c, 0, Softmax(s)) @ v => where(c, 0, Softmax(s) @ v)  where c is the same along each row", class: Class::Reassociating, apply: rows },
    Rule { name: "attend", on: &["MatMul"], equation: "p @ v => Attend(q, k, v, m; s)  where p is s = Softmax(f(q @ k.T)), or where(IsNaN(s), 0, s), and f multiplies by s, adds m or selects a large negative number, in any order", class: Class::Reassociating, apply: attend },
    Rule { name: "attend-scale", on: &["Attend"], equation: "Attend(q*c, k, v; s) => Attend(q, k, v; s*c);  Attend(q, k*c, v; s) => Attend(q, k, v; s*c)  where c is one number", class: Class::Reassociating, apply: scale },
    Rule { name: "attend-heads", on: &["Attend"], equation: "Attend(q, repeated heads of k, v) => Attend(q, k, v);  so with v", class: Class::Reassociating, apply: heads },
];

/// What masks a score, at most.
pub(super) const MASKED: f64 = -1e4;
/// Steps between a product and its softmax that are read back at most.
const DEPTH: usize = 16;
/// A mask that absorbs any score, and that a sum with the least float does not overflow.
const ABSORBING: f64 = -1e30;

/// A constant of one number.
fn number(rw: &mut Rewriter<'_>, x: f64, like: ValueId) -> ValueId {
    let t = eval::from_f64s(&[], &[x], rw.dtype(like));
    rw.tensor(t)
}

/// The operand of a softmax along the last axis that so many readers need.
fn softmax(rw: &Rewriter<'_>, p: ValueId, readers: u32) -> Option<ValueId> {
    let n = rw.made_by(p, "Softmax").filter(|_| rw.uses(p) == readers)?;
    match &rw.node(n).op {
        Op::Softmax(s) if s.mode == "softmax" && s.axis + 1 == rw.shape(p).len() => rw.input(n, 0),
        _ => None,
    }
}

/// A softmax as [`softmax`] finds it, or one whose rows that are NaN are made zeros: a row is NaN as a whole or not at all. Its operand,
/// and whether it is of the second kind.
fn guarded(rw: &Rewriter<'_>, p: ValueId) -> Option<(ValueId, bool)> {
    if let Some(x) = softmax(rw, p, 1) {
        return Some((x, false));
    }
    let n = rw.made_by(p, "Where").filter(|_| rw.used_once(p))?;
    let (c, zero, s) = (rw.input(n, 0)?, rw.input(n, 1)?, rw.input(n, 2)?);
    let test = rw.made_by(c, "IsNaN").filter(|_| rw.used_once(c))?;
    if rw.input(test, 0)? != s || rw.uniform(zero)? != 0.0 || rw.ty(p) != rw.ty(s) {
        return None;
    }
    Some((softmax(rw, s, 2)?, true))
}

fn rows(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let (y, v) = (rw.input(n, 0)?, rw.input(n, 1)?);
    let select = rw.made_by(y, "Where").filter(|_| rw.used_once(y))?;
    let (c, zero, p) = (rw.input(select, 0)?, rw.input(select, 1)?, rw.input(select, 2)?);
    softmax(rw, p, 1)?;
    if rw.uniform(zero)? != 0.0 || rw.shape(c).last().is_some_and(|d| !d.is(1)) || rw.shape(c).len() > rw.shape(p).len() {
        return None;
    }
    let product = rw.add(MatMul, &[p, v])?;
    let zero = number(rw, 0.0, v);
    Some(vec![rw.pointwise("Where", &[c, zero, product])?])
}

/// Scores as they are made of a product.
struct Scores {
    q: ValueId,
    /// The transposed keys.
    kt: ValueId,
    scale: f64,
    mask: Option<ValueId>,
}

/// A multiplication or a division by one number, which leaves the shape.
fn factor(rw: &Rewriter<'_>, v: ValueId) -> Option<(ValueId, f64)> {
    let n = rw.producer(v)?;
    let pairs = orders(rw, n)?;
    let (x, c) = match head(&rw.node(n).op) {
        "Mul" => pairs.into_iter().find_map(|(x, c)| Some((x, rw.uniform(c)?)))?,
        "Div" => (pairs[0].0, 1.0 / rw.uniform(pairs[0].1)?),
        _ => return None,
    };
    (c.is_finite() && c != 0.0 && rw.ty(x) == rw.ty(v)).then_some((x, c))
}

/// Reads scores back to the product they are made of; what is on the way is needed by nothing else.
fn scores(rw: &mut Rewriter<'_>, v: ValueId, depth: usize) -> Option<Scores> {
    let n = rw.producer(v).filter(|_| rw.used_once(v) && depth < DEPTH)?;
    if let Some((x, c)) = factor(rw, v) {
        let inner = scores(rw, x, depth + 1)?;
        let mask = match inner.mask {
            Some(m) => {
                let c = number(rw, c, m);
                Some(rw.pointwise("Mul", &[m, c])?)
            }
            None => None,
        };
        return Some(Scores { scale: inner.scale * c, mask, ..inner });
    }
    match head(&rw.node(n).op) {
        "MatMul" => Some(Scores { q: rw.input(n, 0)?, kt: rw.input(n, 1)?, scale: 1.0, mask: None }),
        "Add" => {
            for (x, m) in orders(rw, n)? {
                if rw.ty(x) != rw.ty(v) {
                    continue;
                }
                if let Some(inner) = scores(rw, x, depth + 1) {
                    let mask = match inner.mask {
                        Some(own) => rw.pointwise("Add", &[own, m])?,
                        None => m,
                    };
                    return Some(Scores { mask: Some(mask), ..inner });
                }
            }
            None
        }
        "Where" => {
            let (c, a, b) = (rw.input(n, 0)?, rw.input(n, 1)?, rw.input(n, 2)?);
            let (x, low, kept) = match (rw.uniform(a), rw.uniform(b)) {
                (None, Some(low)) => (a, low, true),
                (Some(low), None) => (b, low, false),
                _ => return None,
            };
            if low > MASKED || rw.ty(x) != rw.ty(v) {
                return None;
            }
            let inner = scores(rw, x, depth + 1)?;
            let own = match inner.mask {
                Some(m) => m,
                None => number(rw, 0.0, v),
            };
            let low = number(rw, low.min(ABSORBING), v);
            let mask = rw.pointwise("Where", &if kept { [c, own, low] } else { [c, low, own] })?;
            Some(Scores { mask: Some(mask), ..inner })
        }
        _ => None,
    }
}

/// A factor as the operator holds it, in f32.
fn real(rw: &Rewriter<'_>, x: f64, like: ValueId) -> Option<Real> {
    let rounded = x as f32;
    let kept = rounded.is_finite() && rounded != 0.0 && (rw.dtype(like) == DType::F32 || f64::from(rounded) == x);
    kept.then(|| rounded.into())
}

fn attend(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let (p, v) = (rw.input(n, 0)?, rw.input(n, 1)?);
    let (s, safe) = guarded(rw, p)?;
    let Scores { q, kt, scale, mask } = scores(rw, s, 0)?;
    // Products with constant matrices have kernels of their own.
    if rw.constant(kt).is_some() || rw.constant(v).is_some() {
        return None;
    }
    let rank = rw.shape(kt).len();
    let mut perm: Vec<usize> = (0..rank).collect();
    perm.swap(rank.checked_sub(2)?, rank - 1);
    let k = rw.add(Transpose { perm }, &[kt])?;
    let op = Attend { scale: real(rw, scale, q)?, causal: None, safe };
    let inputs = [q, k, v].into_iter().chain(mask).map(Some).collect();
    rw.add_all(op.into(), inputs, 1)
}

/// An Attend and its operands.
pub(super) fn parts(rw: &Rewriter<'_>, n: NodeId) -> Option<(Attend, Vec<Option<ValueId>>)> {
    match &rw.node(n).op {
        Op::Attend(a) => Some((a.clone(), rw.node(n).inputs.clone())),
        _ => None,
    }
}

/// A value without its factor, which may stand before moves.
fn unscaled(rw: &mut Rewriter<'_>, v: ValueId, depth: usize) -> Option<(ValueId, f64)> {
    if let Some(found) = factor(rw, v) {
        return Some(found);
    }
    let n = rw.producer(v).filter(|_| rw.used_once(v) && depth < DEPTH)?;
    if !matches!(rw.node(n).op, Op::Transpose(_) | Op::Reshape(_)) {
        return None;
    }
    let (x, c) = unscaled(rw, rw.input(n, 0)?, depth + 1)?;
    let op = rw.node(n).op.clone();
    Some((rw.add(op, &[x])?, c))
}

fn scale(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let (op, mut inputs) = parts(rw, n)?;
    for i in 0..2 {
        let v = inputs[i]?;
        if let Some((x, c)) = unscaled(rw, v, 0) {
            inputs[i] = Some(x);
            let scale = real(rw, f64::from(op.scale.get()) * c, x)?;
            return rw.add_all(Attend { scale, ..op }.into(), inputs, 1);
        }
    }
    None
}

/// The fewer heads of which `v` repeats each.
fn fewer(rw: &mut Rewriter<'_>, v: ValueId) -> Option<ValueId> {
    let outer = rw.made_by(v, "Reshape")?;
    let wide = rw.input(outer, 0)?;
    let expand = rw.made_by(wide, "Expand")?;
    let x = rw.input(expand, 0)?;
    let certain = matches!(&rw.node(expand).op, Op::Expand(e) if e.certain(rw.shape(x)));
    let (from, to, merged) = (rw.shape(x).to_vec(), rw.shape(wide).to_vec(), rw.shape(v));
    let axis = to.len().checked_sub(3).filter(|a| *a > 0)?;
    // Only the axis behind the heads grows, and the two are one afterwards.
    let grows = from.len() == to.len() && (0..to.len()).all(|i| if i == axis { from[i].is(1) } else { from[i] == to[i] });
    let mut expected = to.clone();
    expected[axis - 1] = to[axis - 1].clone() * expected.remove(axis);
    if !certain || !grows || *merged != expected[..] {
        return None;
    }
    let mut shape = from;
    shape.remove(axis);
    rw.add(Reshape { shape }, &[x])
}

fn heads(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let (op, mut inputs) = parts(rw, n)?;
    for i in 1..3 {
        let v = inputs[i]?;
        if let Some(x) = fewer(rw, v) {
            inputs[i] = Some(x);
            return rw.add_all(op.into(), inputs, 1);
        }
    }
    None
}

#[cfg(test)]
#[path = "attention_tests.rs"]
pub(in crate::rewrite) mod tests;
