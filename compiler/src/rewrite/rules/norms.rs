//! Rows divided by their norms recognised: exporters write a sum, a root and a bound below, in either order and repeated or not.

use super::algebra::bounds;
use super::orders;
use super::recognise::{inverse, is_float, permuted, quotient, under};
use crate::ir::{Dim, NodeId, ValueId, product};
use crate::ops::Op;
use crate::ops::norm::LpNorm;
use crate::rewrite::{Class, Found, Rewriter, Rule};
use kiln_kernels::dtype::DType;

/// Rules about Lp norms.
#[rustfmt::skip]
pub const RULES: &[Rule] = &[
    Rule { name: "lp-norm", on: &["Div", "Mul"], equation: "x / max(norm(x), c) => LpNorm(x; c);  x / sqrt(max(sum(x * x), c)) => LpNorm(x; sqrt(c))  where norm is a sum of magnitudes or the root of a sum of squares along an axis, and c > 0", class: Class::Reassociating, apply: lp_norm },
    Rule { name: "lp-norm-last", on: &["LpNorm"], equation: "LpNorm(x; a) => Transpose(LpNorm(Transpose(x; p); last); p')  where p has the axis a behind the others, and that is not so already", class: Class::Reassociating, apply: last },
];

/// A value without what only shows it in another shape; adds it to the `trail` in each of them.
fn bare(rw: &Rewriter<'_>, mut v: ValueId, trail: &mut Vec<ValueId>) -> ValueId {
    trail.push(v);
    while let Some(x) = under(rw, v, "Expand").or_else(|| under(rw, v, "Reshape").filter(|x| product(rw.shape(*x)) == product(rw.shape(v))))
    {
        v = x;
        trail.push(v);
    }
    v
}

/// Whether a value of that shape has an element beside each row along an axis of another, in their order, repeated along it or not.
fn beside(own: &[Dim], shape: &[Dim], axis: usize) -> bool {
    let without = |s: &[Dim]| [&s[..axis], &s[axis + 1..]].concat();
    match own.len() == shape.len() {
        true => without(own) == without(shape) && (own[axis].is(1) || own[axis] == shape[axis]),
        false => own == without(shape),
    }
}

/// What a value is clamped to from below, and what is clamped; above are only numbers that nothing reaches but an infinity.
fn floored(rw: &Rewriter<'_>, v: ValueId, trail: &mut Vec<ValueId>) -> Option<(ValueId, f64)> {
    let n = rw.producer(v)?;
    let (x, lo, hi) = match crate::rewrite::head(&rw.node(n).op) {
        "Max" => orders(rw, n)?.into_iter().find_map(|(x, c)| Some((x, rw.uniform(c)?, f64::INFINITY)))?,
        _ => bounds(rw, n)?,
    };
    (lo > 0.0 && hi >= f64::from(f32::MAX)).then(|| (bare(rw, x, trail), lo))
}

/// What a value sums along its only axis, as [`Reduce`] names it: magnitudes, or squares.
fn summed(rw: &Rewriter<'_>, v: ValueId) -> Option<(&'static str, ValueId, usize)> {
    let n = rw.made_by(v, "Reduce")?;
    let (Op::Reduce(r), x) = (&rw.node(n).op, rw.input(n, 0)?) else { return None };
    let [axis] = r.axes[..] else { return None };
    // A sign is lost in a magnitude and in a square.
    let signed = |x: ValueId| under(rw, x, "Abs").unwrap_or(x);
    match r.mode {
        "sum" => match (under(rw, x, "Abs"), rw.made_by(x, "Mul")) {
            (Some(x), _) => Some(("l1", x, axis)),
            (None, Some(square)) => {
                let [(a, b), _] = orders(rw, square)?;
                (a == b).then(|| ("sum_square", signed(a), axis))
            }
            _ => None,
        },
        mode => Some((mode, signed(x), axis)),
    }
}

/// The order of a norm, of what, and along which axis; `root` for one that is still to be the root of that.
fn norm_of(rw: &Rewriter<'_>, v: ValueId, root: bool, trail: &mut Vec<ValueId>) -> Option<(i64, ValueId, usize)> {
    let (mode, x, axis) = match (root, under(rw, v, "Sqrt")) {
        (false, Some(sum)) => summed(rw, bare(rw, sum, trail)).filter(|s| s.0 == "sum_square").map(|s| ("l2", s.1, s.2))?,
        _ => summed(rw, v)?,
    };
    match (mode, root) {
        ("l1", false) => Some((1, x, axis)),
        ("l2", false) | ("sum_square", true) => Some((2, x, axis)),
        _ => None,
    }
}

fn lp_norm(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    for (x, by) in quotient(rw, n) {
        let mut trail = Vec::new();
        let d = bare(rw, by, &mut trail);
        let plain = floored(rw, d, &mut trail).and_then(|(v, floor)| Some((norm_of(rw, v, false, &mut trail)?, floor)));
        let found = plain.or_else(|| {
            let sum = bare(rw, under(rw, d, "Sqrt")?, &mut trail);
            let (v, floor) = floored(rw, sum, &mut trail)?;
            Some((norm_of(rw, v, true, &mut trail)?, floor.sqrt()))
        });
        let Some(((p, of, axis), floor)) = found else { continue };
        if of != x || !is_float(rw, x) || rw.ty(x) != rw.ty(*rw.node(n).outputs.first()?) {
            continue;
        }
        // The divisor stands beside each row, in whatever shapes it is made.
        let shape = rw.shape(x);
        let whole = rw.shape(by).len() == shape.len() && trail.iter().all(|v| beside(rw.shape(*v), shape, axis));
        if !whole || (floor as f32) <= 0.0 {
            continue;
        }
        return Some(vec![rw.add(LpNorm { axis, p, floor: (floor as f32).into() }, &[x])?]);
    }
    None
}

/// The kernel of rows wants their elements to be neighbours.
fn last(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let (Op::LpNorm(op), x) = (rw.node(n).op.clone(), rw.input(n, 0)?) else { return None };
    let shape = rw.shape(x);
    if rw.dtype(x) != DType::F32 || shape[op.axis + 1..].iter().all(|d| d.is(1)) {
        return None;
    }
    let perm: Vec<usize> = (0..shape.len()).filter(|a| *a != op.axis).chain([op.axis]).collect();
    let rows = permuted(rw, x, &perm)?;
    let y = rw.add(LpNorm { axis: perm.len() - 1, ..op }, &[rows])?;
    Some(vec![permuted(rw, y, &inverse(&perm))?])
}

#[cfg(test)]
pub(in crate::rewrite) mod tests {
    use super::super::recognise::tests::over;
    use super::*;
    use crate::ops::movement::Expand;
    use crate::ops::reduce::Reduce;
    use crate::ops::shape::Reshape;
    use crate::rewrite::tests::{Case, Example, refused};

    /// A row divided by its norm in one of the ways exporters write it, `spread` where they repeat the norm.
    fn normalized_rows(c: &mut Case) -> ValueId {
        let rank = 1 + c.rng.below(4);
        let shape: Vec<usize> = (0..rank).map(|_| 1 + c.rng.below(4)).collect();
        let (d, axis) = (c.wide(), c.rng.below(rank));
        let x = c.input(d, &shape);
        let (keep, p) = (c.rng.below(2) == 0, 1 + c.rng.below(2));
        let reduce = |c: &mut Case, mode, x| {
            let y = c.op(Reduce { mode, axes: vec![axis], keep }, &[x]);
            let kept: Vec<usize> = [&shape[..axis], &[1], &shape[axis + 1..]].concat();
            if keep { y } else { c.op(Reshape { shape: kept.iter().map(|d| (*d).into()).collect() }, &[y]) }
        };
        let floor = |c: &mut Case, v, lo: f64| {
            let (lo, hi) = (c.filled(d, &[], lo), c.filled(d, &[], f64::from(f32::MAX)));
            match c.rng.below(3) {
                0 => c.pointwise("Max", &[v, lo]),
                1 => c.pointwise("Max", &[lo, v]),
                _ => c.pointwise("Clip", &[v, lo, hi]),
            }
        };
        let squares = |c: &mut Case| match c.rng.below(3) {
            0 => reduce(c, "sum_square", x),
            kind => {
                let m = if kind == 1 { x } else { c.pointwise("Abs", &[x]) };
                let s = c.pointwise("Mul", &[m, m]);
                reduce(c, "sum", s)
            }
        };
        let by = match (p, c.rng.below(3)) {
            (1, 0) => {
                let m = c.pointwise("Abs", &[x]);
                let s = reduce(c, "sum", m);
                floor(c, s, 0.5)
            }
            (1, _) => {
                let s = reduce(c, "l1", x);
                floor(c, s, 0.5)
            }
            (_, 0) => {
                let s = reduce(c, "l2", x);
                floor(c, s, 0.5)
            }
            (_, 1) => {
                let s = squares(c);
                let s = c.pointwise("Sqrt", &[s]);
                floor(c, s, 0.5)
            }
            _ => {
                let s = squares(c);
                let s = floor(c, s, 0.25);
                c.pointwise("Sqrt", &[s])
            }
        };
        let by = if c.rng.below(2) == 0 { c.op(Expand { shape: shape.iter().map(|d| (*d).into()).collect() }, &[by]) } else { by };
        over(c, x, by)
    }

    #[test]
    fn divisors_that_are_no_norms_of_rows_stay() {
        // A norm that may be 0, one of another value, one of other rows.
        refused("lp-norm", |c| {
            let x = c.input(DType::F32, &[3, 4]);
            let s = c.op(Reduce { mode: "l2", axes: vec![1], keep: true }, &[x]);
            let y = c.pointwise("Div", &[x, s]);
            c.output(y);
        });
        refused("lp-norm", |c| {
            let (x, z) = (c.input(DType::F32, &[4, 4]), c.input(DType::F32, &[4, 4]));
            let s = c.op(Reduce { mode: "l2", axes: vec![1], keep: true }, &[z]);
            divided(c, x, s);
        });
        refused("lp-norm", |c| {
            let x = c.input(DType::F32, &[4, 4, 4]);
            let s = c.op(Reduce { mode: "l2", axes: vec![2], keep: false }, &[x]);
            let shape = c.rng.pick(&[[4, 1, 4], [1, 4, 4]]).map(Dim::from).to_vec();
            let s = c.op(Reshape { shape }, &[s]);
            let s = c.op(Expand { shape: vec![Dim::int(4); 3] }, &[s]);
            divided(c, x, s);
        });
    }
    fn divided(c: &mut Case, x: ValueId, s: ValueId) {
        let low = c.filled(DType::F32, &[], 0.5);
        let s = c.pointwise("Max", &[s, low]);
        let y = c.pointwise("Div", &[x, s]);
        c.output(y);
    }

    pub(in crate::rewrite) const EXAMPLES: &[Example] = &[
        ("lp-norm", |c| {
            let y = normalized_rows(c);
            c.output(y);
        }),
        ("lp-norm-last", |c| {
            let rank = 2 + c.rng.below(3);
            let mut shape: Vec<usize> = (0..rank).map(|_| c.rng.pick(&[0, 1, 2, 3, 4])).collect();
            shape[rank - 1] = c.rng.pick(&[0, 2, 5]);
            let x = c.input(DType::F32, &shape);
            let op = LpNorm { axis: c.rng.below(rank - 1), p: 1 + c.rng.below(2) as i64, floor: (c.rng.pick(&[0.0, 0.5])).into() };
            let y = c.op(op, &[x]);
            c.output(y);
        }),
    ];
}
