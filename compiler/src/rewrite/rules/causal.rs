//! Causal masks recognised: a triangle, however it is written, becomes the reach of an [`Attend`].
//!
//! A triangle is a constant, a part of one, or a comparison of affine indices, which is how exporters write it where extents are open.
//! It always leaves a row one key. Where another mask, of finite numbers, hides those too, the original gives a mean over keys that
//! rounding picks; here it is one over the keys inside of the triangle, as in the fused operators that exporters write instead.

use super::attention::{MASKED, parts};
use super::orders;
use crate::ir::{Dim, NodeId, ValueId};
use crate::ops::Op;
use crate::ops::attend::Attend;
use crate::rewrite::{Class, Found, Rewriter, Rule, head};

/// Rules about causal masks.
#[rustfmt::skip]
pub const RULES: &[Rule] = &[
    Rule { name: "attend-causal", on: &["Attend"], equation: "Attend(q, k, v, m + t) => Attend(q, k, v, m; causal);  so with where(t && c, m, large negative)  where t is a lower triangle: a constant, a part of one, or j <= i + n", class: Class::Reassociating, apply: causal },
];

/// Operators that are looked through on the way to a triangle, at most.
const DEPTH: usize = 16;

/// How many keys behind its own number each query sees, where a constant says `keep` of those and `drop` of the others, and says so of
/// each of its matrices.
fn triangle(rw: &Rewriter<'_>, v: ValueId, keep: &dyn Fn(f64) -> bool, drop: &dyn Fn(f64) -> bool) -> Option<i64> {
    let t = rw.constant(v)?;
    let [.., rows, cols] = t.dims[..] else { return None };
    let x = t.to_f64s().filter(|x| !x.is_empty())?;
    // The first row ends at the diagonal; where it is hidden whole, the first column begins there.
    let reach = match x[..cols].iter().take_while(|x| keep(**x)).count() as i64 {
        0 => -(x.iter().step_by(cols).take(rows).position(|x| keep(*x))? as i64),
        n => n - 1,
    };
    let fits = |i: usize| if (i % cols) as i64 <= (i / cols % rows) as i64 + reach { keep(x[i]) } else { drop(x[i]) };
    (0..x.len()).all(fits).then_some(reach)
}

/// How many keys behind its own number each query sees, where a condition is `seen` for those alone.
fn condition(rw: &Rewriter<'_>, v: ValueId, seen: bool, depth: usize) -> Option<Dim> {
    let yes = move |x: f64| (x != 0.0) == seen;
    if rw.constant(v).is_some() {
        return triangle(rw, v, &yes, &|x| !yes(x)).map(Dim::int);
    }
    let n = rw.producer(v).filter(|_| depth < DEPTH)?;
    let shape = rw.shape(v);
    let x = rw.input(n, 0)?;
    // The same matrices, but for leading axes of extent 1.
    let same = |own: &[Dim]| matrix(own).is_some() && matrix(own) == matrix(shape) && outer(own) == outer(shape);
    match (&rw.node(n).op, head(&rw.node(n).op)) {
        (Op::Reshape(_), _) if same(rw.shape(x)) => condition(rw, x, seen, depth + 1),
        (Op::Expand(_), _) if matrix(rw.shape(x)).is_some() && matrix(rw.shape(x)) == matrix(shape) => condition(rw, x, seen, depth + 1),
        (_, "Not") => condition(rw, x, !seen, depth + 1),
        (Op::Slice(s), _) => {
            let rank = shape.len();
            let reach = triangle(rw, x, &yes, &|x| !yes(x)).filter(|_| rank >= 2)?;
            // A bound that could be negative would count from the end.
            let certain = s.bounds.iter().all(|b| rw.graph().range(b).lo >= 0);
            let steps = s.steps[rank - 2..].iter().all(|n| *n == 1);
            (certain && steps).then(|| s.starts[rank - 2].clone() - s.starts[rank - 1].clone() + Dim::int(reach))
        }
        (_, name @ ("Less" | "LessOrEqual" | "Greater" | "GreaterOrEqual")) => {
            let (a, b) = (rw.affine(x)?, rw.affine(rw.input(n, 1)?)?);
            let rank = shape.len();
            let d = a.minus(&b, rank);
            let ([.., row, col], true) = (&d.steps[..], d.steps.iter().rev().skip(2).all(|s| s.is(0))) else { return None };
            // As `j - i + base`, compared with 0; along an axis of one element there is no step to see.
            let ([.., rows, cols], row, col) = (shape, row.as_int()?, col.as_int()?) else { return None };
            let row = if rows.is(1) { if cols.is(1) { -1 } else { -col } } else { row };
            let (base, below) = match (row, if cols.is(1) { -row } else { col }) {
                (-1, 1) => (d.base, name.starts_with("Less")),
                (1, -1) => (d.base * Dim::int(-1), name.starts_with("Greater")),
                _ => return None,
            };
            // At 0 itself a query sees the key where the comparison and what it stands for say so.
            let includes = name.ends_with("OrEqual") == seen;
            (below == seen).then(|| base * Dim::int(-1) - Dim::int(i64::from(!includes)))
        }
        _ => None,
    }
}

/// The extents of each matrix.
fn matrix(shape: &[Dim]) -> Option<&[Dim]> {
    Some(&shape[shape.len().checked_sub(2)?..])
}

/// The axes before those of the matrices, without leading ones of extent 1.
fn outer(shape: &[Dim]) -> Option<&[Dim]> {
    let outer = &shape[..shape.len().checked_sub(2)?];
    Some(&outer[outer.iter().take_while(|d| d.is(1)).count()..])
}

/// A mask without its triangle: how far that reaches, and what is left.
fn split(rw: &mut Rewriter<'_>, m: ValueId, whole: &dyn Fn(&Rewriter<'_>, ValueId) -> bool) -> Option<(Dim, Option<ValueId>)> {
    let added = |rw: &Rewriter<'_>, v: ValueId| triangle(rw, v, &|x| x == 0.0, &|x| x <= MASKED).filter(|_| whole(rw, v)).map(Dim::int);
    if let Some(reach) = added(rw, m) {
        return Some((reach, None));
    }
    let p = rw.producer(m)?;
    match head(&rw.node(p).op) {
        "Add" => orders(rw, p)?.into_iter().find_map(|(x, t)| Some((added(rw, t)?, Some(x)))),
        "Where" => {
            let (c, a, b) = (rw.input(p, 0)?, rw.input(p, 1)?, rw.input(p, 2)?);
            let masks = |v: ValueId| rw.uniform(v).is_some_and(|x| x <= MASKED);
            let seen = match (masks(a), masks(b)) {
                (false, true) => true,
                (true, false) => false,
                _ => return None,
            };
            if let Some(reach) = condition(rw, c, seen, 0).filter(|_| whole(rw, c)) {
                return Some((reach, Some(if seen { a } else { b })));
            }
            // A triangle and another condition: the other stays.
            let both = rw.made_by(c, if seen { "And" } else { "Or" })?;
            let pairs = orders(rw, both)?;
            let (reach, rest) = pairs.into_iter().find_map(|(t, c)| Some((condition(rw, t, seen, 0).filter(|_| whole(rw, t))?, c)))?;
            Some((reach, Some(rw.pointwise("Where", &[rest, a, b])?)))
        }
        _ => None,
    }
}

fn causal(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let (op, mut inputs) = parts(rw, n)?;
    let m = inputs.get(3).copied().flatten()?;
    let keys = rw.shape(inputs[1]?).iter().rev().nth(1)?.clone();
    let queries = rw.shape(inputs[0]?).iter().rev().nth(1)?.clone();
    // One row, or one column, that is repeated is no triangle; one that is cut to a number of keys is whole wherever the model runs.
    let whole = |rw: &Rewriter<'_>, v: ValueId| matches!(rw.shape(v), [.., q, k] if q.meets(&queries) && k.meets(&keys));
    let (reach, mask) = split(rw, m, &whole)?;
    // A query that sees no key has a softmax over nothing but masks.
    if rw.graph().range(&reach).lo < 0 {
        return rw.refuse("the first queries may see no key at all");
    }
    let reach = match &op.causal {
        Some(own) if rw.graph().range(&(reach.clone() - own.clone())).lo >= 0 => own.clone(),
        Some(own) if rw.graph().range(&(own.clone() - reach.clone())).lo < 0 => return None,
        _ => reach,
    };
    // The first query that sees all keys is followed by others that do.
    let hides = rw.graph().range(&(keys - reach.clone() - Dim::int(1))).hi.is_none_or(|n| n > 0);
    match mask.filter(|m| rw.uniform(*m) != Some(0.0)) {
        Some(m) => inputs[3] = Some(m),
        None => inputs.truncate(3),
    }
    rw.add_all(Attend { causal: hides.then_some(reach), ..op }.into(), inputs, 1)
}

#[cfg(test)]
#[path = "causal_tests.rs"]
pub(in crate::rewrite) mod tests;
