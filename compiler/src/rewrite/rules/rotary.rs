//! Rotary embeddings recognised: pairs of elements turned by angles, however exporters cut a row into halves or neighbours.

use super::orders;
use crate::ir::{Dim, NodeId, ValueId};
use crate::ops::Op;
use crate::ops::movement::Slice;
use crate::ops::rotary::Rotary;
use crate::rewrite::{Class, Found, Rewriter, Rule};

/// Rules about rotary embeddings.
#[rustfmt::skip]
pub const RULES: &[Rule] = &[
    Rule { name: "rotary", on: &["Add"], equation: "x*c + Concat(-x2, x1)*s => Rotary(x, c, s)  where x1, x2 are the halves of x, or interleaved its even and odd elements", class: Class::Exact, apply: rotary },
    Rule { name: "rotary-pairs", on: &["Concat", "Reshape"], equation: "Concat(x1*c - x2*s, x2*c + x1*s) => Rotary(x, c, s)  where x1, x2 are the halves of x, or interleaved its even and odd elements", class: Class::Exact, apply: pairs },
    Rule { name: "rotary-part", on: &["Concat"], equation: "Concat(Rotary(x[..n], c, s), x[n..]) => Rotary(x, c, s)", class: Class::Exact, apply: part },
];

/// Elements of another value along its last axis, all others whole.
#[derive(Clone, Copy, PartialEq)]
struct Piece {
    of: ValueId,
    start: i64,
    step: i64,
    count: i64,
}

/// The extent of the last axis.
fn last(rw: &Rewriter<'_>, v: ValueId) -> Option<i64> {
    rw.shape(v).last()?.as_int()
}

/// A value as a piece of what it is cut from, or of itself.
fn piece(rw: &Rewriter<'_>, v: ValueId) -> Option<Piece> {
    cut(rw, v).or_else(|| Some(Piece { of: v, start: 0, step: 1, count: last(rw, v)? }))
}

/// A value that is cut from another along the last axis.
fn cut(rw: &Rewriter<'_>, v: ValueId) -> Option<Piece> {
    let n = rw.producer(v)?;
    let of = rw.input(n, 0)?;
    let shape = rw.shape(of);
    let axis = shape.len().checked_sub(1)?;
    match &rw.node(n).op {
        Op::Slice(s) => {
            let whole = (0..axis).all(|i| s.starts[i].is(0) && s.steps[i] == 1 && s.sizes[i] == shape[i]);
            let (start, count) = (s.starts[axis].as_int()?, s.sizes[axis].as_int()?);
            (whole && s.bounds.is_empty() && s.steps[axis] > 0).then_some(Piece { of, start, step: s.steps[axis], count })
        }
        Op::Split(s) if s.axis == axis => {
            let i = rw.node(n).outputs.iter().position(|o| *o == v)?;
            let start = s.sizes[..i].iter().map(Dim::as_int).sum::<Option<i64>>()?;
            Some(Piece { of, start, step: 1, count: s.sizes[i].as_int()? })
        }
        _ => None,
    }
}

/// The operand of a negation, in front of a cut or behind it.
fn negated(rw: &Rewriter<'_>, v: ValueId) -> Option<Piece> {
    if let Some(x) = minus(rw, v) {
        return piece(rw, x);
    }
    let p = cut(rw, v)?;
    Some(Piece { of: minus(rw, p.of)?, ..p })
}

/// `x` of `-x`.
fn minus(rw: &Rewriter<'_>, v: ValueId) -> Option<ValueId> {
    if let Some(n) = rw.made_by(v, "Neg") {
        return rw.input(n, 0);
    }
    let n = rw.made_by(v, "Mul")?;
    orders(rw, n)?.into_iter().find_map(|(x, c)| (rw.uniform(c)? == -1.0 && rw.ty(x) == rw.ty(v)).then_some(x))
}

/// The two values that lie behind each other along the last axis, or, interleaved, whose elements take turns there.
fn joined(rw: &Rewriter<'_>, n: NodeId) -> Option<(ValueId, ValueId, bool)> {
    let interleaved = matches!(rw.node(n).op, Op::Reshape(_));
    let concat = if interleaved { rw.made_by(rw.input(n, 0)?, "Concat")? } else { n };
    let Op::Concat(c) = &rw.node(concat).op else { return None };
    let (a, b) = match rw.node(concat).inputs[..] {
        [Some(a), Some(b)] if c.axis + 1 == rw.shape(a).len() && rw.ty(a) == rw.ty(b) => (a, b),
        _ => return None,
    };
    if !interleaved {
        return Some((a, b, false));
    }
    // Each is a column of its own, and the columns stand beside each other.
    let flat = |v: ValueId| {
        let x = rw.input(rw.made_by(v, "Reshape")?, 0)?;
        let (own, column) = (rw.shape(x), rw.shape(v));
        (column.len() == own.len() + 1 && column[..own.len()] == *own && column[own.len()].is(1)).then_some(x)
    };
    let (a, b, out) = (flat(a)?, flat(b)?, *rw.node(n).outputs.first()?);
    let (own, result) = (rw.shape(a), rw.shape(out));
    let fits = own.len() == result.len() && own[..own.len() - 1] == result[..own.len() - 1];
    (fits && last(rw, out)? == 2 * last(rw, a)?).then_some((a, b, true))
}

/// What two pieces together are: its first element and their number.
fn whole(a: Piece, b: Piece, interleaved: bool) -> Option<Piece> {
    let (step, distance) = if interleaved { (2, 1) } else { (1, a.count) };
    let fits = a.of == b.of && a.count == b.count && (a.step, b.step) == (step, step) && b.start == a.start + distance && a.count > 0;
    fits.then_some(Piece { of: a.of, start: a.start, step: 1, count: 2 * a.count })
}

fn rotary(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let factors = |rw: &Rewriter<'_>, v: ValueId| orders(rw, rw.made_by(v, "Mul").filter(|_| rw.used_once(v))?);
    for (plain, other) in orders(rw, n)? {
        let (Some(plain), Some(other)) = (factors(rw, plain), factors(rw, other)) else { continue };
        for (turned, sin) in other {
            let Some(m) = rw.producer(turned) else { continue };
            let Some((a, b, interleaved)) = joined(rw, m) else { continue };
            let (Some(a), Some(b)) = (negated(rw, a), piece(rw, b)) else { continue };
            let Some(all) = whole(b, a, interleaved) else { continue };
            let Some((x, cos)) = plain.into_iter().find(|(x, _)| piece(rw, *x) == Some(all)) else { continue };
            let op = Rotary { width: usize::try_from(all.count).ok()?, interleaved };
            return Some(vec![rw.add(op, &[x, cos, sin])?]);
        }
    }
    None
}

fn pairs(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let (real, imaginary, interleaved) = joined(rw, n)?;
    let products = |rw: &Rewriter<'_>, v: ValueId, name: &str| {
        let n = rw.made_by(v, name).filter(|_| rw.used_once(v))?;
        let factors = |i: usize| orders(rw, rw.made_by(rw.input(n, i)?, "Mul")?);
        Some((factors(0)?, factors(1)?))
    };
    let (ac, bs) = products(rw, real, "Sub")?;
    let (p, q) = products(rw, imaginary, "Add")?;
    for (a, cos) in ac {
        for (b, sin) in bs {
            let matches = |bc: &[(ValueId, ValueId); 2], sa: &[(ValueId, ValueId); 2]| bc.contains(&(b, cos)) && sa.contains(&(a, sin));
            if !matches(&p, &q) && !matches(&q, &p) {
                continue;
            }
            let Some(all) = piece(rw, a).zip(piece(rw, b)).and_then(|(a, b)| whole(a, b, interleaved)) else { continue };
            let x = if all.start == 0 && last(rw, all.of) == Some(all.count) { all.of } else { taken(rw, all)? };
            let op = Rotary { width: usize::try_from(all.count).ok()?, interleaved };
            return Some(vec![rw.add(op, &[x, cos, sin])?]);
        }
    }
    None
}

/// A piece as a value.
fn taken(rw: &mut Rewriter<'_>, p: Piece) -> Option<ValueId> {
    let mut slice = Slice::whole(rw.shape(p.of));
    *slice.starts.last_mut()? = Dim::int(p.start);
    *slice.sizes.last_mut()? = Dim::int(p.count);
    rw.add(slice, &[p.of])
}

fn part(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let (y, rest, _) = match rw.node(n).inputs[..] {
        [Some(y), Some(rest)] => (y, rest, ()),
        _ => return None,
    };
    let Op::Concat(c) = &rw.node(n).op else { return None };
    let m = rw.made_by(y, "Rotary").filter(|_| rw.used_once(y))?;
    let Op::Rotary(op) = rw.node(m).op.clone() else { return None };
    let (x, cos, sin) = (rw.input(m, 0)?, rw.input(m, 1)?, rw.input(m, 2)?);
    let (first, behind) = (cut(rw, x)?, cut(rw, rest)?);
    let follows = behind.of == first.of && behind.start == first.count && (first.step, behind.step) == (1, 1) && first.start == 0;
    let all = last(rw, first.of)? == first.count + behind.count;
    if c.axis + 1 != rw.shape(y).len() || !follows || !all {
        return None;
    }
    Some(vec![rw.add(op, &[first.of, cos, sin])?])
}

#[cfg(test)]
pub(in crate::rewrite) mod tests {
    use super::*;
    use crate::ops::movement::{Concat, Split};
    use crate::ops::shape::Reshape;
    use crate::rewrite::tests::{Case, Example};

    /// Elements along the last axis.
    fn slice(c: &mut Case, x: ValueId, start: i64, step: i64, count: i64) -> ValueId {
        let mut s = Slice::whole(c.g.shape(x));
        *s.starts.last_mut().unwrap() = Dim::int(start);
        *s.steps.last_mut().unwrap() = step;
        *s.sizes.last_mut().unwrap() = Dim::int(count);
        c.op(s, &[x])
    }
    /// Both parts of each pair of `2 * half` elements, cut in one of the ways that exporters write it.
    fn cut(c: &mut Case, x: ValueId, half: i64, interleaved: bool) -> (ValueId, ValueId) {
        if interleaved {
            return (slice(c, x, 0, 2, half), slice(c, x, 1, 2, half));
        }
        let axis = c.g.shape(x).len() - 1;
        match c.rng.below(2) {
            0 => {
                let both = c.all(Split { axis, sizes: vec![Dim::int(half); 2] }, &[x], 2);
                (both[0], both[1])
            }
            _ => (slice(c, x, 0, 1, half), slice(c, x, half, 1, half)),
        }
    }
    fn join(c: &mut Case, a: ValueId, b: ValueId, interleaved: bool) -> ValueId {
        let axis = c.g.shape(a).len() - 1;
        if !interleaved {
            return c.op(Concat { axis }, &[a, b]);
        }
        let mut shape = c.g.shape(a).to_vec();
        let half = shape[axis].clone();
        shape.push(Dim::int(1));
        let (a, b) = (c.op(Reshape { shape: shape.clone() }, &[a]), c.op(Reshape { shape: shape.clone() }, &[b]));
        let both = c.op(Concat { axis: axis + 1 }, &[a, b]);
        shape.truncate(axis);
        shape.push(half * Dim::int(2));
        c.op(Reshape { shape }, &[both])
    }
    fn product(c: &mut Case, a: ValueId, b: ValueId, name: &'static str) -> ValueId {
        if c.rng.below(2) == 0 { c.pointwise(name, &[a, b]) } else { c.pointwise(name, &[b, a]) }
    }
    /// Rows, half the elements that are turned, and angles of that many or half as many.
    fn operands(c: &mut Case, each: bool, rest: usize) -> (ValueId, i64, [ValueId; 2]) {
        let (d, rank) = (c.wide(), 1 + c.rng.below(3));
        let lead: Vec<usize> = (0..rank - 1).map(|_| 1 + c.rng.below(3)).collect();
        let half = 1 + c.rng.below(4);
        let x = c.input(d, &[&lead[..], &[2 * half + rest]].concat());
        let angles = [0, 1].map(|_| {
            let own = c.narrower(&lead);
            c.input(d, &[&own[..], &[if each { 2 * half } else { half }]].concat())
        });
        (x, half as i64, angles)
    }
    /// `x * cos + turned(x) * sin`.
    fn turned(c: &mut Case, x: ValueId, half: i64, [cos, sin]: [ValueId; 2], interleaved: bool) -> ValueId {
        let (a, b) = match c.rng.below(3) {
            // The negation stands before the cut.
            0 => {
                let minus = c.pointwise("Neg", &[x]);
                let ((a, _), (_, b)) = (cut(c, x, half, interleaved), cut(c, minus, half, interleaved));
                (a, b)
            }
            _ => {
                let (a, b) = cut(c, x, half, interleaved);
                (a, c.pointwise("Neg", &[b]))
            }
        };
        let other = join(c, b, a, interleaved);
        let (p, q) = (product(c, x, cos, "Mul"), product(c, other, sin, "Mul"));
        product(c, p, q, "Add")
    }

    pub(in crate::rewrite) const EXAMPLES: &[Example] = &[
        ("rotary", |c| {
            let interleaved = c.rng.below(2) == 0;
            let (x, half, angles) = operands(c, true, 0);
            let y = turned(c, x, half, angles, interleaved);
            c.output(y);
        }),
        ("rotary-pairs", |c| {
            let interleaved = c.rng.below(2) == 0;
            let (x, half, [cos, sin]) = operands(c, false, 0);
            let (a, b) = cut(c, x, half, interleaved);
            let (ac, bs) = (product(c, a, cos, "Mul"), product(c, b, sin, "Mul"));
            let (bc, sa) = (product(c, b, cos, "Mul"), product(c, a, sin, "Mul"));
            let (real, imaginary) = (c.pointwise("Sub", &[ac, bs]), product(c, bc, sa, "Add"));
            let y = join(c, real, imaginary, interleaved);
            c.output(y);
        }),
        ("rotary-part", |c| {
            let rest = 1 + c.rng.below(3);
            let each = c.rng.below(2) == 0;
            let (x, half, [cos, sin]) = operands(c, each, rest);
            let (first, behind) = (slice(c, x, 0, 1, 2 * half), slice(c, x, 2 * half, 1, rest as i64));
            let op = Rotary { width: 2 * half as usize, interleaved: c.rng.below(2) == 0 };
            let y = c.op(op, &[first, cos, sin]);
            let axis = c.g.shape(x).len() - 1;
            let y = c.op(Concat { axis }, &[y, behind]);
            c.output(y);
        }),
    ];
}
