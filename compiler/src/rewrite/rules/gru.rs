//! Cells of gated recurrent units, as PyTorch unrolls them, read back as steps; and their first step, whose state is zero.

use super::orders;
use super::recurrent::{MOST_STATES, columns, part, product_of_state, terms, under};
use crate::ir::{Dim, NodeId, ValueId};
use crate::ops::recurrent::Recurrence;
use crate::ops::{Op, shape::Reshape};
use crate::rewrite::{Class, Found, Rewriter, Rule};
use kiln_kernels::dtype::DType;

/// Rules about cells of gated recurrent units.
#[rustfmt::skip]
pub const RULES: &[Rule] = &[
    Rule { name: "gru-cell", on: &["Add"], equation: "(h - n) * z + n => h' of Recurrence(x, r, b, h)  where z = σ(x + y), n = tanh(x + σ(x + y) * y) of parts of x and y = h @ r + b, r is constant and the batch is not known to be more than 2; likewise (1 - z) * n + z * h", class: Class::Reassociating, apply: cell },
    Rule { name: "gru-first", on: &["Add"], equation: "(0 - n) * z + n => h' of Recurrence(x, r, b)  where n and z are those of a GRU whose state is zero, of the weights and bias of the recurrence that goes on from h'", class: Class::Reassociating, apply: first },
];

/// What a new state is made of: the old one, what replaces it, and how much of the old is kept.
fn update(rw: &Rewriter<'_>, n: NodeId) -> Option<[ValueId; 3]> {
    let made = |v: ValueId, name: &str| orders(rw, rw.made_by(v, name)?);
    let less = |v: ValueId| Some(made(v, "Sub")?[0]);
    for (a, b) in orders(rw, n)? {
        for (d, z) in made(a, "Mul").into_iter().flatten() {
            // (h - new) * z + new
            if let Some((h, new)) = less(d)
                && new == b
            {
                return Some([h, new, z]);
            }
            // (1 - z) * new + z * h
            let (rest, new) = (d, z);
            if let Some((one, z)) = less(rest)
                && rw.uniform(one) == Some(1.0)
                && let Some((_, h)) = made(b, "Mul").and_then(|pairs| pairs.into_iter().find(|(x, _)| *x == z))
            {
                return Some([h, new, z]);
            }
        }
    }
    None
}

/// Gates of a cell.
struct Gates {
    /// What the input adds to all of them.
    x: ValueId,
    /// What the state adds to the gates r, z and n; absent where it adds nothing.
    y: [Option<ValueId>; 3],
}

/// The gates behind `n = tanh(x2 + σ(x0 + y0) * y2)` and `z = σ(x1 + y1)`, of which `x` are parts of one value.
fn gates(rw: &Rewriter<'_>, new: ValueId, z: ValueId) -> Option<Gates> {
    let sum = under(rw, new, "Tanh")?;
    let z = under(rw, z, "Sigmoid")?;
    for (x, ry) in orders(rw, rw.made_by(sum, "Add")?)? {
        let (Some((x, 2)), Some(product)) = (part(rw, x, 3), rw.made_by(ry, "Mul")) else { continue };
        for (r, y) in orders(rw, product)? {
            let Some(r) = under(rw, r, "Sigmoid") else { continue };
            // Of two summands one is a part of x; a sum with nothing is that part.
            let other = |v: ValueId, gate: i64| match part(rw, v, 3) {
                Some(found) if found == (x, gate) => Some(None),
                _ => {
                    let pairs = orders(rw, rw.made_by(v, "Add")?)?;
                    pairs.into_iter().find(|(a, _)| part(rw, *a, 3) == Some((x, gate))).map(|(_, b)| Some(b))
                }
            };
            if let (Some(a), Some(b)) = (other(r, 0), other(z, 1)) {
                return Some(Gates { x, y: [a, b, Some(y)] });
            }
        }
    }
    None
}

/// What the input adds to the gates, with constants for each column added, as one step.
fn one_step(rw: &mut Rewriter<'_>, x: ValueId, constant: &[f64]) -> Option<ValueId> {
    let mut x = x;
    if constant.iter().any(|c| *c != 0.0) {
        let c = crate::eval::from_f64s(&[constant.len()], constant, DType::F32);
        let c = rw.tensor(c);
        x = rw.pointwise("Add", &[x, c])?;
    }
    let shape = [&[Dim::int(1)][..], rw.shape(x)].concat();
    rw.add(Reshape { shape }, &[x])
}

fn cell(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let [h, new, z] = update(rw, n)?;
    let Gates { x, y } = gates(rw, new, z)?;
    let parts: Vec<(ValueId, i64)> = y.into_iter().map(|v| part(rw, v?, 3)).collect::<Option<_>>()?;
    let [(y, 0), (b, 1), (c, 2)] = parts[..] else { return None };
    let [batch, hidden] = rw.shape(h) else { return None };
    let (known, hidden) = (batch.as_int(), hidden.as_int()?);
    if y != b || y != c || rw.dtype(h) != DType::F32 || rw.ty(x) != rw.ty(y) || rw.ty(h) != rw.ty(*rw.node(n).outputs.first()?) {
        return None;
    }
    let mut summands = Vec::new();
    terms(rw, y, &mut summands)?;
    let Some((at, r, _)) = product_of_state(rw, &summands, &Dim::int(hidden), |v| v == h).filter(|(.., v)| *v == h) else {
        return rw.refuse("the gates have no product of the state with constant weights");
    };
    summands.remove(at);
    let width = 3 * usize::try_from(hidden).ok()?;
    let mut bias = vec![0.0; width];
    for v in summands {
        let Some(c) = rw.constant(v).and_then(|t| columns(t, width)) else {
            return rw.refuse("more than constants are added to the product of the state");
        };
        bias.iter_mut().zip(c).for_each(|(b, c)| *b += c);
    }
    if known.is_some_and(|n| n > MOST_STATES) {
        return rw.refuse("the batch is large: products step by step are faster");
    }
    // The part of n is reset with the product; the others are no different from what the input adds.
    let own = crate::eval::from_f64s(&[width / 3], &bias[width / 3 * 2..], DType::F32);
    bias[width / 3 * 2..].fill(0.0);
    let (own, gates) = (rw.tensor(own), one_step(rw, x, &bias)?);
    let inputs = vec![Some(gates), Some(r), Some(own), Some(h), None];
    Some(vec![*rw.add_all(Recurrence { cell: "gru", hidden, reverse: false }.into(), inputs, 2)?.get(1)?])
}

fn first(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let [h, new, z] = update(rw, n)?;
    let y = *rw.node(n).outputs.first()?;
    if rw.uniform(h) != Some(0.0) || rw.ty(new) != rw.ty(y) {
        return None;
    }
    let gates = gates(rw, new, z)?;
    let hidden = rw.shape(y).get(1)?.as_int().filter(|_| rw.shape(y).len() == 2)?;
    let op = Recurrence { cell: "gru", hidden, reverse: false };
    let next = rw.readers(y, "Recurrence").into_iter().find(|m| rw.node(*m).op == Op::Recurrence(op.clone()) && rw.input(*m, 3) == Some(y));
    let Some((next, width)) = next.zip(usize::try_from(hidden).ok()) else { return rw.refuse("no recurrence goes on from it") };
    let (r, bias) = (rw.input(next, 1)?, rw.input(next, 2)?);
    let mut added = Vec::new();
    for v in gates.y {
        match v {
            None => added.push(vec![0.0; width]),
            Some(v) => added.push(columns(rw.constant(v)?, width)?),
        }
    }
    let near = |a: &f64, b: &f64| (a - b).abs() <= 1e-5 * (1.0 + a.abs());
    if !columns(rw.constant(bias)?, width)?.iter().zip(&added[2]).all(|(a, b)| near(a, b)) {
        return rw.refuse("the recurrence that goes on from it has another bias");
    }
    added[2].fill(0.0);
    let gates = one_step(rw, gates.x, &added.concat())?;
    Some(vec![*rw.add_all(op.into(), vec![Some(gates), Some(r), Some(bias), None, None], 2)?.get(1)?])
}

#[cfg(test)]
pub(in crate::rewrite) mod tests {
    use super::*;
    use crate::ops::matmul::MatMul;
    use crate::ops::movement::{Slice, Split};
    use crate::rewrite::rules::recurrent::tests::one_recurrence;
    use crate::rewrite::tests::{Case, Example, refused};
    use kiln_kernels::value::Tensor;

    const F32: DType = DType::F32;

    /// Weights and biases of a cell.
    struct Unrolled {
        w: ValueId,
        r: ValueId,
        biases: [ValueId; 2],
        sizes: [usize; 3],
    }

    fn unrolled(c: &mut Case, batch: usize) -> Unrolled {
        let sizes @ [_, input, hidden] = [batch, 1 + c.rng.below(5), 1 + c.rng.below(6)];
        let biases = [0; 2].map(|_| c.factor(F32, &[3 * hidden]));
        let (w, r) = (c.factor(F32, &[input, 3 * hidden]), c.factor(F32, &[hidden, 3 * hidden]));
        Unrolled { w, r, biases, sizes }
    }

    fn either(c: &mut Case, name: &'static str, a: ValueId, b: ValueId) -> ValueId {
        if c.rng.below(2) == 0 { c.pointwise(name, &[a, b]) } else { c.pointwise(name, &[b, a]) }
    }

    impl Unrolled {
        /// Three parts of a value.
        fn parts(&self, c: &mut Case, v: ValueId) -> [ValueId; 3] {
            let hidden = self.sizes[2];
            match c.rng.below(2) {
                0 => c.all(Split { axis: 1, sizes: vec![hidden.into(); 3] }, &[v], 3).try_into().unwrap(),
                _ => [0, 1, 2].map(|k| {
                    let mut s = Slice::whole(c.g.shape(v));
                    (s.starts[1], s.sizes[1]) = ((k * hidden).into(), hidden.into());
                    c.op(s, &[v])
                }),
            }
        }
        /// One step on an operand; `kept` is the gate that keeps the state.
        fn step(&self, c: &mut Case, x: ValueId, h: ValueId, [r, z]: [usize; 2]) -> ValueId {
            let (x, y) = (c.op(MatMul, &[x, self.w]), c.op(MatMul, &[h, self.r]));
            let (x, y) = (either(c, "Add", x, self.biases[0]), either(c, "Add", y, self.biases[1]));
            let (x, y) = (self.parts(c, x), self.parts(c, y));
            let [reset, keep] = [r, z].map(|k| {
                let sum = either(c, "Add", x[k], y[k]);
                c.pointwise("Sigmoid", &[sum])
            });
            let y = either(c, "Mul", reset, y[2]);
            let sum = either(c, "Add", x[2], y);
            let new = c.pointwise("Tanh", &[sum]);
            if c.rng.below(2) == 0 {
                let d = c.pointwise("Sub", &[h, new]);
                let d = either(c, "Mul", d, keep);
                return either(c, "Add", d, new);
            }
            let one = c.filled(F32, &[], 1.0);
            let rest = c.pointwise("Sub", &[one, keep]);
            let (a, b) = (either(c, "Mul", rest, new), either(c, "Mul", keep, h));
            either(c, "Add", a, b)
        }
        fn state(&self, c: &mut Case) -> ValueId {
            c.input(F32, &[self.sizes[0], self.sizes[2]])
        }
        fn operand(&self, c: &mut Case) -> ValueId {
            c.input(F32, &self.sizes[..2])
        }
    }

    pub(in crate::rewrite) const EXAMPLES: &[Example] = &[
        ("gru-cell", |c| {
            let batch = 1 + c.rng.below(2);
            let u = unrolled(c, batch);
            let (x, h) = (u.operand(c), u.state(c));
            let y = u.step(c, x, h, [0, 1]);
            c.output(y);
        }),
        ("gru-first", |c| {
            let batch = 1 + c.rng.below(2);
            let Unrolled { r, sizes: [_, _, hidden], .. } = unrolled(c, batch);
            let x = c.input(F32, &[batch, 3 * hidden]);
            let bias = c.factor(F32, &[hidden]);
            let rows = |c: &mut Case, t: ValueId| {
                let t = c.g[t].constant.clone().unwrap();
                c.g.add_constant(Tensor::new(&[batch, hidden], &t.slice::<f32>().repeat(batch)), "")
            };
            // The state's part of each gate, as folding leaves it: rows of one bias, or nothing.
            let parts = c.all(Split { axis: 1, sizes: vec![hidden.into(); 3] }, &[x], 3);
            let [reset, keep] = [0, 1].map(|k| {
                let mut sum = parts[k];
                if c.rng.below(2) == 0 {
                    let b = c.factor(F32, &[hidden]);
                    let b = rows(c, b);
                    sum = either(c, "Add", sum, b);
                }
                c.pointwise("Sigmoid", &[sum])
            });
            let b = rows(c, bias);
            let y = either(c, "Mul", reset, b);
            let sum = either(c, "Add", parts[2], y);
            let (new, zero) = (c.pointwise("Tanh", &[sum]), c.filled(F32, &[batch, hidden], 0.0));
            let d = c.pointwise("Sub", &[zero, new]);
            let d = either(c, "Mul", d, keep);
            let h = either(c, "Add", d, new);
            let gates = c.input(F32, &[1, batch, 3 * hidden]);
            let inputs = vec![Some(gates), Some(r), Some(bias), Some(h), None];
            for v in c.some(Recurrence { cell: "gru", hidden: hidden as i64, reverse: false }, inputs, 2) {
                c.output(v);
            }
        }),
    ];

    #[test]
    fn cells_of_another_kind_stay() {
        // Gates in another order, a larger batch, and a state that is not the one that is kept.
        refused("gru-cell", |c| {
            let u = unrolled(c, 1);
            let (x, h) = (u.operand(c), u.state(c));
            let y = u.step(c, x, h, [1, 0]);
            c.output(y);
        });
        refused("gru-cell", |c| {
            let u = unrolled(c, 3);
            let (x, h) = (u.operand(c), u.state(c));
            let y = u.step(c, x, h, [0, 1]);
            c.output(y);
        });
    }

    /// Every step of an unrolled network becomes one operator over its sequence, also where the first has no state.
    #[test]
    fn unrolled_steps_are_one_recurrence() {
        for (seed, [stacked, zero]) in [[false, false], [true, false], [false, true], [true, true]].into_iter().enumerate() {
            let mut c = Case::new(seed as u64 + 3, false);
            let u = unrolled(&mut c, 1 + seed % 2);
            let [batch, _, hidden] = u.sizes;
            let mut h = if zero { c.filled(F32, &[batch, hidden], 0.0) } else { u.state(&mut c) };
            one_recurrence(c, u.sizes, stacked, |c, x| {
                h = u.step(c, x, h, [0, 1]);
                h
            });
        }
    }
}
