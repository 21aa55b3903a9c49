//! Rows divided by their norms recognised: exporters write a sum, a root and a bound below, in either order and repeated or not.

use super::algebra::bounds;
use super::orders;
use super::recognise::{is_float, quotient, under};
use crate::ir::{NodeId, ValueId, product};
use crate::ops::Op;
use crate::ops::norm::LpNorm;
use crate::rewrite::{Class, Found, Rewriter, Rule};

/// Rules about Lp norms.
#[rustfmt::skip]
pub const RULES: &[Rule] = &[
    Rule { name: "lp-norm", on: &["Div", "Mul"], equation: "x / max(norm(x), c) => LpNorm(x; c);  x / sqrt(max(sum(x * x), c)) => LpNorm(x; sqrt(c))  where norm is a sum of magnitudes or the root of a sum of squares along the last axis, and c > 0", class: Class::Reassociating, apply: lp_norm },
];

/// A value without what only shows it in another shape, along an axis that it has one element of.
fn bare(rw: &Rewriter<'_>, mut v: ValueId) -> ValueId {
    while let Some(x) = under(rw, v, "Expand").or_else(|| under(rw, v, "Reshape").filter(|x| product(rw.shape(*x)) == product(rw.shape(v))))
    {
        v = x;
    }
    v
}

/// What a value is clamped to from below, and what is clamped; above are only numbers that nothing reaches but an infinity.
fn floored(rw: &Rewriter<'_>, v: ValueId) -> Option<(ValueId, f64)> {
    let n = rw.producer(v)?;
    let (x, lo, hi) = match crate::rewrite::head(&rw.node(n).op) {
        "Max" => orders(rw, n)?.into_iter().find_map(|(x, c)| Some((x, rw.uniform(c)?, f64::INFINITY)))?,
        _ => bounds(rw, n)?,
    };
    (lo > 0.0 && hi >= f64::from(f32::MAX)).then_some((bare(rw, x), lo))
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
fn norm_of(rw: &Rewriter<'_>, v: ValueId, root: bool) -> Option<(i64, ValueId, usize)> {
    let (mode, x, axis) = match (root, under(rw, v, "Sqrt")) {
        (false, Some(sum)) => summed(rw, bare(rw, sum)).filter(|s| s.0 == "sum_square").map(|s| ("l2", s.1, s.2))?,
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
        let d = bare(rw, by);
        let plain = floored(rw, d).and_then(|(v, floor)| Some((norm_of(rw, v, false)?, floor)));
        let found = plain.or_else(|| {
            let (v, floor) = floored(rw, bare(rw, under(rw, d, "Sqrt")?))?;
            Some((norm_of(rw, v, true)?, floor.sqrt()))
        });
        let Some(((p, of, axis), floor)) = found else { continue };
        if of != x || !is_float(rw, x) || rw.ty(x) != rw.ty(*rw.node(n).outputs.first()?) {
            continue;
        }
        let shape = rw.shape(x);
        let rank = shape.len();
        // The divisor stands beside each row: whole along the axes before, one element along the row.
        let by = rw.shape(by);
        let beside = by.len() == rank && by[..axis] == shape[..axis] && (by[axis].is(1) || by[axis] == shape[axis]);
        if shape[axis + 1..].iter().any(|d| !d.is(1)) {
            return rw.refuse("the norm is not along the last axis");
        }
        if !beside || (floor as f32) <= 0.0 {
            continue;
        }
        return Some(vec![rw.add(LpNorm { axis, p, floor: (floor as f32).into() }, &[x])?]);
    }
    None
}

#[cfg(test)]
pub(in crate::rewrite) mod tests {
    use super::super::recognise::tests::over;
    use super::*;
    use crate::ops::movement::Expand;
    use crate::ops::reduce::Reduce;
    use crate::ops::shape::Reshape;
    use crate::rewrite::tests::{Case, Example, refused};
    use kiln_kernels::dtype::DType;

    /// A row divided by its norm in one of the ways exporters write it, `spread` where they repeat the norm.
    fn normalized_rows(c: &mut Case) -> ValueId {
        let rank = 1 + c.rng.below(3);
        let shape: Vec<usize> = (0..rank).map(|_| 1 + c.rng.below(4)).collect();
        let (d, axis) = (c.wide(), rank - 1);
        let x = c.input(d, &shape);
        let (keep, p) = (c.rng.below(2) == 0, 1 + c.rng.below(2));
        let reduce = |c: &mut Case, mode, x| {
            let y = c.op(Reduce { mode, axes: vec![axis], keep }, &[x]);
            let kept: Vec<usize> = [&shape[..axis], &[1]].concat();
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
        // A norm that may be 0, one of other rows, one across them.
        refused("lp-norm", |c| {
            let x = c.input(DType::F32, &[3, 4]);
            let s = c.op(Reduce { mode: "l2", axes: vec![1], keep: true }, &[x]);
            let y = c.pointwise("Div", &[x, s]);
            c.output(y);
        });
        refused("lp-norm", |c| across(c, 0, false));
        refused("lp-norm", |c| across(c, 1, true));
    }
    fn across(c: &mut Case, axis: usize, other: bool) {
        let (x, z) = (c.input(DType::F32, &[4, 4]), c.input(DType::F32, &[4, 4]));
        let s = c.op(Reduce { mode: "l2", axes: vec![axis], keep: true }, &[if other { z } else { x }]);
        let low = c.filled(DType::F32, &[], 0.5);
        let s = c.pointwise("Max", &[s, low]);
        let y = c.pointwise("Div", &[x, s]);
        c.output(y);
    }

    pub(in crate::rewrite) const EXAMPLES: &[Example] = &[("lp-norm", |c| {
        let y = normalized_rows(c);
        c.output(y);
    })];
}
