//! Recurrent layers: what the input gives is one product for all steps, and cells that exporters unrolled are read back as steps.

use super::orders;
use crate::ir::{Dim, NodeId, ValueId};
use crate::ops::matmul::MatMul;
use crate::ops::movement::{Concat, Slice};
use crate::ops::recurrent::Recurrence;
use crate::ops::{Op, shape::Reshape};
use crate::rewrite::{Class, Found, Rewriter, Rule};
use kiln_kernels::dtype::DType;
use kiln_kernels::rnn::ACTIVATIONS;
use kiln_kernels::value::Tensor;

/// Rules about recurrent layers.
#[rustfmt::skip]
pub const RULES: &[Rule] = &[
    Rule { name: "recurrent-product", on: &["Recurrent"], equation: "Recurrent(x, w, r, b) => Recurrence(x @ w + b, r)  a direction, where weights are constant and functions the default ones, without lengths, peepholes and clip", class: Class::Reassociating, apply: product },
    Rule { name: "lstm-cell", on: &["Add"], equation: "σ(f) * c + σ(i) * tanh(g) => c' of Recurrence(x, r, h, c)  where i, f, g are the first parts of x + h @ r, r is constant and the batch is not known to be more than 2; where c is zero, c' of Recurrence(x, r), of the weights of the recurrence that goes on from c'", class: Class::Reassociating, apply: cell },
    Rule { name: "lstm-state", on: &["Mul"], equation: "σ(o) * tanh(c') => h' of Recurrence(x, r, h, c)  where c' is its cell and o is the last part of x + h @ r", class: Class::Reassociating, apply: state },
    Rule { name: "recurrence-last", on: &["Reshape"], equation: "Reshape(y) => Reshape(h)  where y are the states of Recurrence(x, r, ..) of one step, and h is its last", class: Class::Exact, apply: last_state },
    Rule { name: "recurrence-steps", on: &["Recurrence"], equation: "Recurrence(y, r, Recurrence(x, r, h, c)) => Recurrence(Concat(x, y), r, h, c)  where nothing else reads the first", class: Class::Reassociating, apply: steps },
    Rule { name: "recurrence-states", on: &["Concat"], equation: "Concat(h1, .., hn) => the states of Recurrence(Concat(x1, .., xn), r, h, c)  where each h is the last state of one step, which the next begins with", class: Class::Reassociating, apply: states },
];

/// Gates of ONNX in the order of [`Recurrence`].
fn order(cell: &str) -> &'static [usize] {
    match cell {
        "lstm" => &[0, 2, 3, 1],
        "gru" => &[1, 0, 2],
        _ => &[0],
    }
}

/// Rows of one direction of a constant, gate by gate in that order.
fn gates(t: &Tensor, direction: usize, hidden: usize, order: &[usize], width: usize) -> Vec<f32> {
    let (x, each) = (t.slice::<f32>(), hidden * width);
    let start = direction * order.len() * each;
    order.iter().flat_map(|g| x[start + g * each..][..each].iter().copied()).collect()
}

/// A matrix of `rows` rows, transposed.
fn transposed(x: &[f32], rows: usize) -> Tensor {
    let columns = x.len() / rows.max(1);
    let t: Vec<f32> = (0..columns).flat_map(|c| (0..rows).map(move |r| x[r * columns + c])).collect();
    Tensor::new(&[columns, rows], &t)
}

fn product(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let Op::Recurrent(op) = rw.node(n).op.clone() else { return None };
    let number = |name| ACTIVATIONS.iter().position(|a| *a == name).unwrap_or_default() as i64;
    let (sigmoid, tanh) = (number("sigmoid"), number("tanh"));
    let functions: &[i64] = match op.cell {
        "lstm" => &[sigmoid, tanh, tanh],
        "gru" => &[sigmoid, tanh],
        _ => &[tanh],
    };
    let usual = op.activations.chunks(3).all(|a| a.starts_with(functions)) && op.clip.get() == 0.0 && !(op.flag && op.cell == "lstm");
    let x = rw.input(n, 0)?;
    if rw.dtype(x) != DType::F32 {
        return None;
    }
    if !usual || rw.input(n, 4).is_some() || rw.input(n, 7).is_some() {
        return rw.refuse("it has lengths, peepholes, a clip or functions of its own");
    }
    let constant = |i: usize| rw.input(n, i).map(|v| rw.constant(v).cloned());
    let (Some(Some(w)), Some(Some(r)), b) = (constant(1), constant(2), constant(3)) else { return rw.refuse("its weights are computed") };
    let b = match b {
        Some(b) => Some(b?),
        None => None,
    };
    let (hidden, order) = (usize::try_from(op.hidden).ok()?, order(op.cell));
    let (input, width) = (*w.dims.get(2)?, order.len() * hidden);
    let shape = rw.shape(x).to_vec();
    let (seq, batch) = (shape[0].clone(), shape[1].clone());
    let results = rw.node(n).outputs.len();
    let mut parts: Vec<Vec<ValueId>> = vec![vec![]; results];
    for d in 0..usize::try_from(op.directions).ok()? {
        let matrix = rw.tensor(transposed(&gates(&w, d, hidden, order, input), width));
        let r = rw.tensor(transposed(&gates(&r, d, hidden, order, hidden), width));
        let mut y = rw.add(MatMul, &[x, matrix])?;
        let mut bias = None;
        if let Some(b) = &b {
            // Of each direction: those of the input, then those of the state.
            let [mut sum, state] = [2 * d, 2 * d + 1].map(|i| gates(b, i, hidden, order, 1));
            let apart = op.cell == "gru" && op.flag;
            let last = if apart { width - hidden } else { width };
            sum.iter_mut().zip(&state).take(last).for_each(|(a, b)| *a += b);
            if apart {
                bias = Some(rw.tensor(Tensor::new(&[hidden], &state[last..])));
            }
            let sum = rw.tensor(Tensor::new(&[width], &sum));
            y = rw.pointwise("Add", &[y, sum])?;
        } else if op.cell == "gru" && op.flag {
            bias = Some(rw.tensor(Tensor::zeros(DType::F32, &[hidden])));
        }
        let mut inputs = vec![Some(y), Some(r), bias];
        for i in [5, 6] {
            inputs.push(match rw.input(n, i) {
                None => None,
                Some(v) => {
                    let mut part = Slice::whole(rw.shape(v));
                    (part.starts[0], part.sizes[0]) = (d.into(), Dim::int(1));
                    let v = if op.directions == 1 { v } else { rw.add(part, &[v])? };
                    Some(rw.add(Reshape { shape: vec![batch.clone(), Dim::int(op.hidden)] }, &[v])?)
                }
            });
        }
        let steps = Recurrence { cell: op.cell, hidden: op.hidden, reverse: op.reverse || d == 1 };
        for (i, v) in rw.add_all(steps.into(), inputs, results)?.into_iter().enumerate() {
            let mut shape = vec![Dim::int(1), batch.clone(), Dim::int(op.hidden)];
            if i == 0 {
                shape.insert(0, seq.clone());
            }
            parts[i].push(rw.add(Reshape { shape }, &[v])?);
        }
    }
    let both = |(i, v): (usize, Vec<ValueId>)| match v[..] {
        [one] => Some(one),
        _ => rw.add(Concat { axis: if i == 0 { 1 } else { 0 } }, &v),
    };
    parts.into_iter().enumerate().map(both).collect()
}

/// A part of equal parts along the last axis: of what, and which.
pub(super) fn part(rw: &Rewriter<'_>, v: ValueId, count: i64) -> Option<(ValueId, i64)> {
    let n = rw.producer(v)?;
    let x = rw.input(n, 0)?;
    let axis = rw.shape(x).len().checked_sub(1)?;
    let size = rw.shape(v).get(axis)?.as_int().filter(|s| *s > 0)?;
    let start = match &rw.node(n).op {
        Op::Split(s) if s.axis == axis => {
            let place = rw.node(n).outputs.iter().position(|o| *o == v)?;
            s.sizes[..place].iter().try_fold(0, |sum, d| Some(sum + d.as_int()?))?
        }
        Op::Slice(s) if s.bounds.is_empty() && s.steps.iter().all(|s| *s == 1) => {
            let whole = (0..axis).all(|a| s.sizes[a] == rw.shape(x)[a]);
            s.starts[axis].as_int().filter(|_| whole)?
        }
        _ => return None,
    };
    (start % size == 0 && rw.shape(x)[axis].is(count * size)).then_some((x, start / size))
}

/// `x` of `f(x)`.
pub(super) fn under(rw: &Rewriter<'_>, v: ValueId, name: &str) -> Option<ValueId> {
    rw.input(rw.made_by(v, name)?, 0)
}

/// Sequences of a batch, at most: the products of more states with their weights are faster in register tiles, step by step.
pub(super) const MOST_STATES: i64 = 2;
/// Summands in a sum of gates, at most.
const MOST_TERMS: usize = 8;

/// What a sum is of: computed terms, and constants for each column.
pub(super) fn terms(rw: &Rewriter<'_>, v: ValueId, found: &mut Vec<ValueId>) -> Option<()> {
    match rw.made_by(v, "Add") {
        Some(add) => {
            let [(a, b), _] = orders(rw, add)?;
            terms(rw, a, found)?;
            terms(rw, b, found)
        }
        None => {
            found.push(v);
            (found.len() <= MOST_TERMS).then_some(())
        }
    }
}

/// The numbers of a constant for each column, where its rows, if it has any, are all the same.
pub(super) fn columns(t: &Tensor, width: usize) -> Option<Vec<f64>> {
    let x = t.to_f64s()?;
    match (x.len(), t.dims.last()) {
        (1, _) => Some(vec![x[0]; width]),
        (_, Some(last)) if *last == width && width > 0 && x.chunks(width).all(|row| row == &x[..width]) => Some(x[..width].to_vec()),
        _ => None,
    }
}

/// Whether two lists of terms give one sum: the same computed ones, and constants that differ by roundings.
fn one_sum(rw: &Rewriter<'_>, a: &[ValueId], b: &[ValueId], width: usize) -> Option<bool> {
    let computed = |t: &[ValueId]| {
        let mut t: Vec<ValueId> = t.iter().copied().filter(|v| rw.constant(*v).is_none()).collect();
        t.sort();
        t
    };
    let constant = |t: &[ValueId]| -> Option<Vec<f64>> {
        let mut sum = vec![0.0; width];
        for t in t.iter().filter_map(|v| rw.constant(*v)) {
            let x = columns(t, width)?;
            sum.iter_mut().zip(x).for_each(|(s, x)| *s += x);
        }
        Some(sum)
    };
    let near = constant(a)?.iter().zip(constant(b)?).all(|(a, b)| (a - b).abs() <= 1e-5 * (1.0 + a.abs()));
    Some(near && computed(a) == computed(b))
}

/// A product with constant weights `[H, G]` among terms; where there are several, the first whose operand is plainly a state.
pub(super) fn product_of_state(
    rw: &Rewriter<'_>,
    terms: &[ValueId],
    hidden: &Dim,
    state: impl Fn(ValueId) -> bool,
) -> Option<(usize, ValueId, ValueId)> {
    let mut found: Option<(usize, ValueId, ValueId)> = None;
    for (i, t) in terms.iter().enumerate() {
        let Some(m) = rw.made_by(*t, "MatMul") else { continue };
        let (h, r) = (rw.input(m, 0)?, rw.input(m, 1)?);
        let fits = rw.constant(r).is_some() && rw.shape(r).len() == 2 && rw.shape(h).len() == 2 && rw.shape(h)[1] == *hidden;
        if fits && found.is_none_or(|(.., h)| !state(h)) {
            found = Some((i, r, h));
        }
    }
    found
}

/// A cell that is kept in part, with what is added to it: the old cell, the gates, and the summands of those.
fn kept(rw: &Rewriter<'_>, n: NodeId) -> Option<(ValueId, ValueId, i64)> {
    for (keep, new) in orders(rw, n)? {
        let (Some(keep), Some(new)) = (rw.made_by(keep, "Mul"), rw.made_by(new, "Mul")) else { return None };
        let gate = |v: ValueId, function: &str| part(rw, under(rw, v, function)?, 4);
        let forget = orders(rw, keep)?.into_iter().find_map(|(f, c)| Some((gate(f, "Sigmoid")?, c)));
        let input = orders(rw, new)?.into_iter().find_map(|(i, g)| Some((gate(i, "Sigmoid")?, gate(g, "Tanh")?)));
        if let (Some((f, c)), Some((i, g))) = (forget, input)
            && (f.1, i.1, g.1) == (1, 0, 2)
            && f.0 == i.0
            && f.0 == g.0
        {
            let hidden = rw.shape(c).get(1)?.as_int()?;
            return (rw.shape(f.0).len() == 2 && rw.dtype(c) == DType::F32).then_some((c, f.0, hidden));
        }
    }
    None
}

fn cell(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let (c, sum, hidden) = kept(rw, n)?;
    let mut summands = Vec::new();
    terms(rw, sum, &mut summands)?;
    let op = Recurrence { cell: "lstm", hidden, reverse: false };
    // A cell that is zero begins a sequence: then the state is zero too, and its weights are those of the next step.
    let (at, r, state) = if rw.uniform(c) == Some(0.0) {
        let y = *rw.node(n).outputs.first()?;
        let mut next = rw.readers(y, "Recurrence").into_iter();
        let Some(next) = next.find(|m| rw.node(*m).op == Op::Recurrence(op.clone()) && rw.input(*m, 4) == Some(y)) else {
            return rw.refuse("no recurrence goes on from it");
        };
        (None, rw.input(next, 1)?, [None; 2])
    } else {
        // What an output gate has let through of the same cell, or a step has given already.
        let opened = |h: ValueId| {
            let pairs = rw.made_by(h, "Mul").and_then(|m| orders(rw, m));
            pairs.is_some_and(|pairs| pairs.iter().any(|(_, t)| under(rw, *t, "Tanh") == Some(c)))
        };
        let state = |h: ValueId| rw.made_by(h, "Recurrence").is_some() || opened(h);
        let Some((at, r, h)) = product_of_state(rw, &summands, &Dim::int(hidden), state) else {
            return rw.refuse("the gates have no product of a state with constant weights");
        };
        (Some(at), r, [Some(h), Some(c)])
    };
    if rw.shape(c)[0].as_int().is_some_and(|n| n > MOST_STATES) {
        return rw.refuse("the batch is large: products step by step are faster");
    }
    let ty = rw.ty(c).clone();
    at.map(|at| summands.remove(at));
    // One constant for all columns, so that every step has the same.
    let width = usize::try_from(4 * hidden).ok()?;
    let (constants, mut summands): (Vec<ValueId>, Vec<ValueId>) = summands.into_iter().partition(|v| rw.constant(*v).is_some());
    if !constants.is_empty() {
        let mut bias = vec![0.0; width];
        for v in constants {
            let c = columns(rw.constant(v)?, width)?;
            bias.iter_mut().zip(c).for_each(|(b, c)| *b += c);
        }
        let bias = crate::eval::from_f64s(&[width], &bias, DType::F32);
        summands.push(rw.tensor(bias));
    }
    let mut rest = summands.into_iter();
    let mut gates = rest.next()?;
    for v in rest {
        gates = rw.pointwise("Add", &[gates, v])?;
    }
    if rw.ty(gates) != rw.ty(sum) || state[0].is_some_and(|h| *rw.ty(h) != ty) {
        return rw.refuse("nothing but the state gives the gates their shape");
    }
    let shape = [&[Dim::int(1)][..], rw.shape(sum)].concat();
    let gates = rw.add(Reshape { shape }, &[gates])?;
    let results = rw.add_all(op.into(), vec![Some(gates), Some(r), None, state[0], state[1]], 3)?;
    Some(vec![*results.get(2)?])
}

/// A value that is result `i` of a recurrence.
fn result_of(rw: &Rewriter<'_>, v: ValueId, i: usize) -> Option<NodeId> {
    rw.made_by(v, "Recurrence").filter(|m| rw.node(*m).outputs.get(i) == Some(&v))
}

fn state(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    for (o, c) in orders(rw, n)? {
        let Some(m) = under(rw, c, "Tanh").and_then(|c| result_of(rw, c, 2)) else { continue };
        let Some((sum, 3)) = under(rw, o, "Sigmoid").and_then(|o| part(rw, o, 4)) else { continue };
        let (mut own, mut all) = (Vec::new(), Vec::new());
        terms(rw, sum, &mut all)?;
        terms(rw, under(rw, rw.input(m, 0)?, "Reshape")?, &mut own)?;
        if let (r, h @ Some(_)) = (rw.input(m, 1), rw.input(m, 3)) {
            let step = |v: &ValueId| rw.made_by(*v, "MatMul").is_some_and(|p| rw.input(p, 0) == h && rw.input(p, 1) == r);
            let at = all.iter().position(step)?;
            all.remove(at);
        }
        let width = usize::try_from(rw.shape(sum)[1].as_int()?).ok()?;
        if one_sum(rw, &own, &all, width)? {
            return Some(vec![*rw.node(m).outputs.get(1)?]);
        }
    }
    None
}

fn last_state(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let y = rw.input(n, 0)?;
    let m = result_of(rw, y, 0).filter(|_| rw.shape(y)[0].is(1))?;
    let (h, op) = (*rw.node(m).outputs.get(1)?, rw.node(n).op.clone());
    Some(vec![rw.add(op, &[h])?])
}

/// The step before: the recurrence whose last state and cell a forward one begins with, of equal weights.
fn before(rw: &Rewriter<'_>, n: NodeId) -> Option<NodeId> {
    let m = result_of(rw, rw.input(n, 3)?, 1)?;
    let biases = match (rw.input(m, 2), rw.input(n, 2)) {
        (Some(a), Some(b)) => rw.same(a, b),
        (a, b) => a.is_none() && b.is_none(),
    };
    let same = rw.node(m).op == rw.node(n).op && rw.same(rw.input(m, 1)?, rw.input(n, 1)?) && biases;
    let cells = rw.input(n, 4).is_none_or(|c| rw.node(m).outputs.get(2) == Some(&c));
    let forward = matches!(&rw.node(m).op, Op::Recurrence(r) if !r.reverse);
    (same && cells && forward).then_some(m)
}

/// The gates of steps one after the other. Where each is a product with the same weights and a bias, it is one product.
fn in_a_row(rw: &mut Rewriter<'_>, gates: &[ValueId]) -> Option<ValueId> {
    let parts: Option<Vec<_>> = gates.iter().map(|v| linear(rw, *v)).collect();
    let parts = parts.filter(|p| p.iter().all(|(_, w, b)| rw.same(*w, p[0].1) && rw.same(*b, p[0].2)));
    let Some(parts) = parts else { return rw.add(Concat { axis: 0 }, gates) };
    let (_, w, b) = parts[0];
    let mut rows = Vec::new();
    for (gates, (x, ..)) in gates.iter().zip(&parts) {
        let mut shape = rw.shape(*gates).to_vec();
        shape[2] = rw.shape(w)[0].clone();
        rows.push(if rw.shape(*x) == shape { *x } else { rw.add(Reshape { shape }, &[*x])? });
    }
    let x = rw.add(Concat { axis: 0 }, &rows)?;
    let y = rw.add(MatMul, &[x, w])?;
    rw.pointwise("Add", &[y, b])
}

/// Operand, weights and bias of gates that are a product with a constant matrix, a constant by column added.
fn linear(rw: &Rewriter<'_>, v: ValueId) -> Option<(ValueId, ValueId, ValueId)> {
    let v = under(rw, v, "Reshape").unwrap_or(v);
    let add = rw.made_by(v, "Add")?;
    let (y, b) = (rw.input(add, 0)?, rw.input(add, 1)?);
    let m = rw.made_by(y, "MatMul")?;
    let (x, w) = (rw.input(m, 0)?, rw.input(m, 1)?);
    let constant = rw.constant(w).is_some() && rw.constant(b).is_some() && rw.shape(w).len() == 2 && rw.shape(b).len() == 1;
    constant.then_some((x, w, b))
}

/// Whether nobody reads the states of all steps, but parts of them that nobody reads.
fn unread(rw: &Rewriter<'_>, y: ValueId) -> bool {
    let parts = rw.readers(y, "Slice");
    parts.len() as u32 == rw.uses(y) && parts.iter().all(|n| rw.node(*n).outputs.iter().all(|v| rw.uses(*v) == 0))
}

fn steps(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let m = before(rw, n)?;
    let others = rw.node(m).outputs.clone();
    let carried = |i: usize| u32::from(i == 1 || rw.input(n, 4).is_some());
    let alone = unread(rw, others[0]) && others.iter().enumerate().skip(1).all(|(i, v)| rw.uses(*v) == carried(i));
    // The states of all steps are not those of the last ones.
    let y = *rw.node(n).outputs.first()?;
    if !alone || !unread(rw, y) {
        return rw.refuse("others read the states between");
    }
    let gates = in_a_row(rw, &[rw.input(m, 0)?, rw.input(n, 0)?])?;
    let (op, mut inputs) = (rw.node(m).op.clone(), rw.node(m).inputs.clone());
    inputs[0] = Some(gates);
    let mut results = rw.add_all(op, inputs, others.len())?;
    // Nobody asks for the states of the last steps: a part of the right shape stands for them.
    let mut part = Slice::whole(rw.shape(results[0]));
    let (all, own) = (rw.shape(results[0])[0].clone(), rw.shape(y)[0].clone());
    (part.starts[0], part.sizes[0]) = (all - own.clone(), own);
    results[0] = rw.add(part, &[results[0]])?;
    Some(results)
}

fn states(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let Op::Concat(Concat { axis }) = rw.node(n).op else { return None };
    let y = *rw.node(n).outputs.first()?;
    let mut chain: Vec<NodeId> = Vec::new();
    for v in rw.node(n).inputs.clone() {
        let h = under(rw, v?, "Reshape")?;
        let m = result_of(rw, h, 1)?;
        let one = rw.shape(rw.input(m, 0)?)[0].is(1);
        let follows = chain.last().is_none_or(|last| before(rw, m) == Some(*last));
        if !one || !follows {
            return None;
        }
        chain.push(m);
    }
    let (first, last) = (*chain.first()?, *chain.last()?);
    // Read by this node and the next step, and by nothing else.
    let between = |m: &NodeId| {
        let o = &rw.node(*m).outputs;
        let next = u32::from(*m != last);
        unread(rw, o[0]) && rw.uses(o[1]) == 1 + next && o.get(2).is_none_or(|c| rw.uses(*c) == next)
    };
    if chain.len() < 2 || !chain.iter().all(between) {
        return rw.refuse("others read states of the steps");
    }
    let gates: Vec<ValueId> = chain.iter().map(|m| rw.input(*m, 0)).collect::<Option<_>>()?;
    let gates = in_a_row(rw, &gates)?;
    let (op, mut inputs) = (rw.node(first).op.clone(), rw.node(first).inputs.clone());
    inputs[0] = Some(gates);
    let all = *rw.add_all(op, inputs, rw.node(first).outputs.len())?.first()?;
    // [S, B, H] as the concatenation has it: in that order, or with the batch first.
    let shape = rw.shape(y).to_vec();
    let own = rw.shape(all).to_vec();
    if shape == own && axis == 0 {
        return Some(vec![all]);
    }
    let swapped = [own[1].clone(), own[0].clone(), own[2].clone()];
    if shape == swapped && axis == 1 {
        return Some(vec![rw.add(crate::ops::movement::Transpose { perm: vec![1, 0, 2] }, &[all])?]);
    }
    None
}

#[cfg(test)]
#[path = "recurrent_tests.rs"]
pub(in crate::rewrite) mod tests;
