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
    Rule { name: "parallel-linear", on: &["Add"], equation: "x @ u + a, x @ v + b, .. => Split(x @ Concat(u, v, ..) + Concat(a, b, ..))  where all but x are weights", class: Class::Exact, apply: linear },
    Rule { name: "parallel-convolutions", on: &["Conv"], equation: "Conv(x, u, a), Conv(x, v, b), .. => Split(Conv(x, Concat(u, v, ..), Concat(a, b, ..)))  with equal attributes and one group", class: Class::Exact, apply: convolutions },
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
    use crate::rewrite::tests::{Case, Example};
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
