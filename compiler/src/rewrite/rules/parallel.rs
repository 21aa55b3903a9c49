//! Operators that read the same operand, merged into one: multi-output rules, worth exploring.

use crate::ir::{Dim, NodeId, ValueId};
use crate::ops::movement::{Concat, Split};
use crate::ops::{Op, pointwise::Pointwise};
use crate::rewrite::{Class, Found, Rewriter, Rule};

/// Operators merged at once at most.
const MOST: usize = 8;

/// Rules that merge siblings, and that move splits out of the way.
#[rustfmt::skip]
pub const RULES: &[Rule] = &[
    Rule { name: "parallel-products", on: &["MatMul"], equation: "x @ u, x @ v, .. => Split(x @ Concat(u, v, ..))  where u, v are weights", class: Class::Exact, apply: products },
    Rule { name: "parallel-linear", on: &["Add/MatMul"], equation: "x @ u + a, x @ v + b, .. => Split(x @ Concat(u, v, ..) + Concat(a, b, ..))  where all but x are weights", class: Class::Exact, apply: linear },
    Rule { name: "parallel-convolutions", on: &["Conv"], equation: "Conv(x, u, a), Conv(x, v, b), .. => Split(Conv(x, Concat(u, v, ..), Concat(a, b, ..)))  with equal attributes and one group", class: Class::Exact, apply: convolutions },
    Rule { name: "parallel-slices", on: &["Slice"], equation: "Slice(x; r), Slice(x; s), .. => Split(x)  where r, s, .. follow each other along one axis and cover it", class: Class::Exact, apply: slices },
    Rule { name: "pointwise-split", on: &["Pointwise"], equation: "f(Split(x)[i], Split(y)[i], ..) => Split(f(x, y, ..))[i]  where x, y have one shape", class: Class::Exact, apply: pointwise_split },
];

/// Concatenates, applies and splits again; the result that belongs to the node at `place`.
fn split(rw: &mut Rewriter<'_>, whole: ValueId, axis: usize, sizes: Vec<Dim>, place: usize) -> Found {
    let results = sizes.len();
    let parts = rw.add_all(Split { axis, sizes }.into(), vec![Some(whole)], results)?;
    Some(vec![*parts.get(place)?])
}

/// Products of `x` with weight matrices of the model, in an order that is the same at each of them.
fn siblings(rw: &Rewriter<'_>, x: ValueId) -> Vec<NodeId> {
    let mut all = rw.readers(x, "MatMul");
    let fits = |n: &NodeId| {
        let (a, w) = (rw.input(*n, 0), rw.input(*n, 1));
        a == Some(x) && w.is_some_and(|w| rw.given_weight(w) && rw.shape(w).len() == 2)
    };
    all.retain(fits);
    all
}

fn products(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let x = rw.input(n, 0)?;
    let all = siblings(rw, x);
    let place = all.iter().position(|m| *m == n)?;
    if !(2..=MOST).contains(&all.len()) {
        return None;
    }
    let weights: Vec<ValueId> = all.iter().map(|m| rw.input(*m, 1)).collect::<Option<_>>()?;
    let sizes: Vec<Dim> = weights.iter().map(|w| rw.shape(*w)[1].clone()).collect();
    let w = rw.add(Concat { axis: 1 }, &weights)?;
    let op = rw.node(n).op.clone();
    let y = rw.add(op, &[x, w])?;
    let axis = rw.shape(y).len() - 1;
    split(rw, y, axis, sizes, place)
}

fn linear(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let (y, b) = (rw.input(n, 0)?, rw.input(n, 1)?);
    if !rw.given_weight(b) || rw.shape(b).len() != 1 {
        return None;
    }
    let product = rw.made_by(y, "MatMul")?;
    let x = rw.input(product, 0)?;
    let all = siblings(rw, x);
    if !(2..=MOST).contains(&all.len()) {
        return None;
    }
    let (mut weights, mut biases, mut place) = (Vec::new(), Vec::new(), None);
    for m in all {
        let (w, out) = (rw.input(m, 1)?, *rw.node(m).outputs.first()?);
        let columns = rw.shape(w)[1].clone();
        let biased = |a: &NodeId| {
            rw.input(*a, 0) == Some(out) && rw.input(*a, 1).is_some_and(|b| rw.given_weight(b) && *rw.shape(b) == [columns.clone()])
        };
        let add = rw.readers(out, "Add").into_iter().find(biased)?;
        if add == n {
            place = Some(weights.len());
        }
        weights.push(w);
        biases.push(rw.input(add, 1)?);
    }
    let sizes: Vec<Dim> = weights.iter().map(|w| rw.shape(*w)[1].clone()).collect();
    let (w, b) = (rw.add(Concat { axis: 1 }, &weights)?, rw.add(Concat { axis: 0 }, &biases)?);
    let op = rw.node(product).op.clone();
    let y = rw.add(op, &[x, w])?;
    let sum = rw.pointwise("Add", &[y, b])?;
    let axis = rw.shape(sum).len() - 1;
    split(rw, sum, axis, sizes, place?)
}

fn convolutions(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let x = rw.input(n, 0)?;
    let Op::Conv(conv) = rw.node(n).op.clone() else { return None };
    if conv.groups != 1 {
        return None;
    }
    let window = |rw: &Rewriter<'_>, m: NodeId| rw.input(m, 1).map(|w| rw.shape(w)[1..].to_vec());
    let (own, biased) = (window(rw, n)?, rw.input(n, 2).is_some());
    let mut all = rw.readers(x, "Conv");
    all.retain(|m| {
        let weights = rw.node(*m).inputs[1..].iter().flatten().all(|w| rw.given_weight(*w));
        let same = rw.node(*m).op == Op::Conv(conv.clone()) && window(rw, *m).as_ref() == Some(&own);
        weights && same && rw.input(*m, 0) == Some(x) && rw.input(*m, 2).is_some() == biased
    });
    let place = all.iter().position(|m| *m == n)?;
    if !(2..=MOST).contains(&all.len()) {
        return None;
    }
    let operand = |rw: &Rewriter<'_>, i: usize| all.iter().map(|m| rw.input(*m, i)).collect::<Option<Vec<ValueId>>>();
    let weights = operand(rw, 1)?;
    let sizes: Vec<Dim> = weights.iter().map(|w| rw.shape(*w)[0].clone()).collect();
    let mut inputs = vec![Some(x), Some(rw.add(Concat { axis: 0 }, &weights)?)];
    if biased {
        let biases = operand(rw, 2)?;
        inputs.push(Some(rw.add(Concat { axis: 0 }, &biases)?));
    }
    let y = *rw.add_all(conv.into(), inputs, 1)?.first()?;
    split(rw, y, 1, sizes, place)
}

/// The one axis that a slice cuts without steps, where it begins, and its extent there.
fn cut(rw: &Rewriter<'_>, n: NodeId) -> Option<(usize, Dim, Dim)> {
    let Op::Slice(s) = &rw.node(n).op else { return None };
    let from = rw.shape(rw.input(n, 0)?);
    let mut cut = (0..from.len()).filter(|i| !(s.starts[*i].is(0) && s.sizes[*i] == from[*i]));
    let axis = cut.next().filter(|_| s.bounds.is_empty() && s.steps.iter().all(|t| *t == 1))?;
    cut.next().is_none().then(|| (axis, s.starts[axis].clone(), s.sizes[axis].clone()))
}

fn slices(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let x = rw.input(n, 0)?;
    let (axis, start, size) = cut(rw, n)?;
    let mut all: Vec<(Dim, Dim)> = Vec::new();
    for m in rw.readers(x, "Slice") {
        match cut(rw, m) {
            Some((a, start, size)) if a == axis && !all.contains(&(start.clone(), size.clone())) => all.push((start, size)),
            _ => {}
        }
    }
    let (end, mut at, mut sizes, mut place) = (rw.shape(x)[axis].clone(), Dim::int(0), Vec::new(), None);
    while at != end && sizes.len() < MOST {
        // An empty piece would be found again and again.
        let (_, next) = all.iter().find(|(from, size)| *from == at && !size.is(0))?.clone();
        if (&at, &next) == (&start, &size) {
            place = Some(sizes.len());
        }
        at = at + next.clone();
        sizes.push(next);
    }
    if at != end || sizes.len() < 2 {
        return None;
    }
    split(rw, x, axis, sizes, place?)
}

fn pointwise_split(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let Op::Pointwise(p) = rw.node(n).op.clone() else { return None };
    let out = rw.shape(*rw.node(n).outputs.first()?).to_vec();
    if p.expr.results.len() != 1 {
        return None;
    }
    let mut place: Option<(usize, Split)> = None;
    let mut inputs = Vec::new();
    for i in 0..rw.node(n).inputs.len() {
        let v = rw.input(n, i)?;
        if rw.shape(v).is_empty() {
            inputs.push(v);
            continue;
        }
        let from = rw.made_by(v, "Split")?;
        let Op::Split(s) = rw.node(from).op.clone() else { return None };
        let own = (rw.node(from).outputs.iter().position(|o| *o == v)?, s);
        // Operands that broadcast along the axis would not split.
        if place.get_or_insert_with(|| own.clone()) != &own || *rw.shape(v) != out {
            return None;
        }
        inputs.push(rw.input(from, 0)?);
    }
    let (place, Split { axis, sizes }) = place?;
    let y = rw.add(Pointwise { ..p }, &inputs)?;
    split(rw, y, axis, sizes, place)
}

#[cfg(test)]
pub(in crate::rewrite) mod tests {
    use super::*;
    use crate::ops::conv::Conv;
    use crate::ops::matmul::MatMul;
    use crate::ops::movement::Slice;
    use crate::rewrite::tests::{Case, Example, refused};
    use kiln_kernels::dtype::DType;

    fn several(c: &mut Case, biased: bool) {
        let [m, k, count] = [c.rng.below(4), 1 + c.rng.below(4), 2 + c.rng.below(3)];
        let rank = c.rng.below(2);
        let shape = [c.shape(rank), vec![m, k]].concat();
        let x = c.input(DType::F32, &shape);
        for _ in 0..count {
            let n = 17 + c.rng.below(4);
            let w = c.factor(DType::F32, &[k, n]);
            let mut y = c.op(MatMul, &[x, w]);
            if biased {
                let b = c.factor(DType::F32, &[n]);
                y = c.pointwise("Add", &[y, b]);
            }
            c.output(y);
        }
    }

    fn sliced(c: &mut Case, x: ValueId, axis: usize, start: i64, size: i64) -> ValueId {
        let mut s = Slice::whole(c.g.shape(x));
        (s.starts[axis], s.sizes[axis]) = (start.into(), size.into());
        c.op(s, &[x])
    }

    #[test]
    fn slices_that_leave_something_out_stay() {
        let gap: fn(&mut Case) = |c| {
            let x = c.input(DType::F32, &[6, 2]);
            for (start, size) in [(0, 2), (3, 3)] {
                let y = sliced(c, x, 0, start, size);
                c.output(y);
            }
        };
        refused("parallel-slices", gap);
    }

    pub(in crate::rewrite) const EXAMPLES: &[Example] = &[
        ("parallel-products", |c| several(c, false)),
        ("parallel-linear", |c| several(c, true)),
        ("parallel-convolutions", |c| {
            let [ci, kernel, count] = [1 + c.rng.below(3), 1 + c.rng.below(3), 2 + c.rng.below(2)];
            let (stride, pad, bias) = (1 + c.rng.below(2) as i64, c.rng.below(2) as i64, c.rng.below(2) == 0);
            let n = c.rng.below(3);
            let x = c.input(DType::F32, &[n, ci, 5, 4]);
            for _ in 0..count {
                let k = 17 + c.rng.below(3);
                let mut inputs = vec![x, c.factor(DType::F32, &[k, ci, kernel, kernel])];
                if bias {
                    inputs.push(c.factor(DType::F32, &[k]));
                }
                let op = Conv { strides: vec![stride; 2], pads: vec![pad; 4], dilations: vec![1; 2], groups: 1 };
                let y = c.op(op, &inputs);
                c.output(y);
            }
        }),
        ("parallel-slices", |c| {
            let rank = 1 + c.rng.below(3);
            let (axis, mut shape) = (c.rng.below(rank), c.shape(rank));
            shape[axis] = 6;
            let x = c.input(DType::F32, &shape);
            let cuts: &[&[(i64, i64)]] = &[&[(0, 2), (2, 4)], &[(4, 2), (0, 3), (3, 1)], &[(0, 3), (3, 3), (1, 2)]];
            for (start, size) in c.rng.pick(cuts) {
                let y = sliced(c, x, axis, *start, *size);
                let y = c.pointwise("Neg", &[y]);
                c.output(y);
            }
        }),
        ("pointwise-split", |c| {
            let sizes = [1 + c.rng.below(3), 1 + c.rng.below(3)];
            let rank = 1 + c.rng.below(3);
            let axis = c.rng.below(rank);
            let mut shape = c.shape(rank);
            shape[axis] = sizes.iter().sum();
            let x = c.input(DType::F32, &shape);
            let s = c.all(Split { axis, sizes: sizes.iter().map(|n| Dim::int(*n as i64)).collect() }, &[x], 2);
            for v in s {
                let g = c.pointwise("Sigmoid", &[v]);
                let y = c.pointwise("Mul", &[v, g]);
                c.output(y);
            }
        }),
    ];
}
