//! Recurrent layers, and cells as PyTorch unrolls them.

use super::*;
use crate::ops::movement::Split;
use crate::ops::recurrent::Recurrent;
use crate::rewrite::tests::{Case, Example, agree, refused, run};

const F32: DType = DType::F32;

/// A layer of that cell, forward, reverse or both.
fn layer(c: &mut Case, cell: &'static str) {
    let [seq, batch, input, hidden] = [c.rng.below(4), c.rng.pick(&[1, 2, 5]), 1 + c.rng.below(5), 1 + c.rng.below(9)];
    let directions = 1 + c.rng.below(2);
    let gates = Recurrence::gates(cell) as usize;
    let functions: &[i64] = match cell {
        "lstm" => &[2, 1, 1],
        "gru" => &[2, 1, 1],
        _ => &[1, 1, 1],
    };
    let op = Recurrent {
        cell,
        hidden: hidden as i64,
        directions: directions as i64,
        reverse: directions == 1 && c.rng.below(2) == 0,
        activations: functions.repeat(directions),
        alpha: vec![0.0.into(); 3 * directions],
        beta: vec![0.0.into(); 3 * directions],
        flag: cell == "gru" && c.rng.below(2) == 0,
        clip: 0.0.into(),
    };
    let x = c.input(F32, &[seq, batch, input]);
    let w = c.factor(F32, &[directions, gates * hidden, input]);
    let r = c.factor(F32, &[directions, gates * hidden, hidden]);
    let mut inputs = vec![Some(x), Some(w), Some(r), None, None, None, None, None];
    if c.rng.below(2) == 0 {
        inputs[3] = Some(c.factor(F32, &[directions, 2 * gates * hidden]));
    }
    let start = if cell == "lstm" { 2 } else { 1 };
    for v in inputs.iter_mut().skip(5).take(start) {
        if c.rng.below(2) == 0 {
            *v = Some(c.input(F32, &[directions, batch, hidden]));
        }
    }
    let results = if cell == "lstm" { 3 } else { 2 };
    for v in c.some(op, inputs, results) {
        c.output(v);
    }
}

/// Weights of a cell, and its state.
struct Unrolled {
    w: ValueId,
    r: ValueId,
    biases: [ValueId; 2],
    h: ValueId,
    c: ValueId,
    sizes: [usize; 3],
}

fn unrolled(c: &mut Case) -> Unrolled {
    let batch = 1 + c.rng.below(2);
    unrolled_of(c, batch)
}

fn unrolled_of(c: &mut Case, batch: usize) -> Unrolled {
    let sizes @ [batch, input, hidden] = [batch, 1 + c.rng.below(5), 1 + c.rng.below(6)];
    let biases = [0; 2].map(|_| c.factor(F32, &[4 * hidden]));
    let (w, r) = (c.factor(F32, &[input, 4 * hidden]), c.factor(F32, &[hidden, 4 * hidden]));
    let (h, cell) = (c.input(F32, &[batch, hidden]), c.input(F32, &[batch, hidden]));
    Unrolled { w, r, biases, h, c: cell, sizes }
}

impl Unrolled {
    /// One step on an operand, gates in an order; gives the new cell as exporters write it, and what opens the output.
    fn cell(&mut self, c: &mut Case, x: ValueId, [i, f, g, o]: [usize; 4]) -> (ValueId, ValueId) {
        let plus = |c: &mut Case, a, b| if c.rng.below(2) == 0 { c.pointwise("Add", &[a, b]) } else { c.pointwise("Add", &[b, a]) };
        let (a, b) = (c.op(MatMul, &[x, self.w]), c.op(MatMul, &[self.h, self.r]));
        let (a, b) = (plus(c, a, self.biases[0]), plus(c, b, self.biases[1]));
        let sum = plus(c, a, b);
        self.opened(c, sum, [i, f, g, o])
    }
    /// The same of a sum.
    fn opened(&mut self, c: &mut Case, sum: ValueId, [i, f, g, o]: [usize; 4]) -> (ValueId, ValueId) {
        let hidden = self.sizes[2];
        let parts = if c.rng.below(2) == 0 {
            c.all(Split { axis: 1, sizes: vec![hidden.into(); 4] }, &[sum], 4)
        } else {
            let part = |c: &mut Case, k: usize| {
                let mut s = Slice::whole(c.g.shape(sum));
                (s.starts[1], s.sizes[1]) = ((k * hidden).into(), hidden.into());
                c.op(s, &[sum])
            };
            (0..4).map(|k| part(c, k)).collect()
        };
        let [i, f, o] = [i, f, o].map(|k| c.pointwise("Sigmoid", &[parts[k]]));
        let g = c.pointwise("Tanh", &[parts[g]]);
        let (keep, new) = (c.pointwise("Mul", &[f, self.c]), c.pointwise("Mul", &[i, g]));
        self.c = if c.rng.below(2) == 0 { c.pointwise("Add", &[keep, new]) } else { c.pointwise("Add", &[new, keep]) };
        (self.c, o)
    }
    fn step(&mut self, c: &mut Case, x: ValueId) -> ValueId {
        let (cell, o) = self.cell(c, x, [0, 1, 2, 3]);
        let t = c.pointwise("Tanh", &[cell]);
        self.h = if c.rng.below(2) == 0 { c.pointwise("Mul", &[o, t]) } else { c.pointwise("Mul", &[t, o]) };
        self.h
    }
    /// One step as the operator.
    fn recurrence(&mut self, c: &mut Case) -> ValueId {
        let [batch, _, hidden] = self.sizes;
        let gates = c.input(F32, &[1, batch, 4 * hidden]);
        let inputs = vec![Some(gates), Some(self.r), None, Some(self.h), Some(self.c)];
        let out = c.some(Recurrence { cell: "lstm", hidden: hidden as i64, reverse: false }, inputs, 3);
        (self.h, self.c) = (out[1], out[2]);
        out[1]
    }
}

pub(in crate::rewrite) const EXAMPLES: &[Example] = &[
    ("recurrent-product", |c| layer(c, "lstm")),
    ("recurrent-product", |c| layer(c, "gru")),
    ("recurrent-product", |c| layer(c, "rnn")),
    ("lstm-cell", |c| {
        let mut u = unrolled(c);
        let x = c.input(F32, &[u.sizes[0], u.sizes[1]]);
        let (cell, o) = u.cell(c, x, [0, 1, 2, 3]);
        c.output(cell);
        c.output(o);
    }),
    // A first step, whose state and cell are zero.
    ("lstm-cell", |c| {
        let mut u = unrolled(c);
        let [batch, _, hidden] = u.sizes;
        let sum = c.input(F32, &[batch, 4 * hidden]);
        u.c = c.filled(F32, &[batch, hidden], 0.0);
        let (cell, o) = u.opened(c, sum, [0, 1, 2, 3]);
        let gates = c.input(F32, &[1, batch, 4 * hidden]);
        let inputs = vec![Some(gates), Some(u.r), None, Some(u.h), Some(cell)];
        for v in c.some(Recurrence { cell: "lstm", hidden: hidden as i64, reverse: false }, inputs, 3) {
            c.output(v);
        }
        c.output(o);
    }),
    ("lstm-state", |c| {
        let u = unrolled(c);
        let [batch, _, hidden] = u.sizes;
        let x = c.input(F32, &[batch, 4 * hidden]);
        let p = c.op(MatMul, &[u.h, u.r]);
        let sum = c.pointwise("Add", &[x, p]);
        let gates = c.op(Reshape { shape: [1, batch, 4 * hidden].map(Dim::from).to_vec() }, &[x]);
        let inputs = vec![Some(gates), Some(u.r), None, Some(u.h), Some(u.c)];
        let out = c.some(Recurrence { cell: "lstm", hidden: hidden as i64, reverse: false }, inputs, 3);
        let o = c.all(Split { axis: 1, sizes: vec![hidden.into(); 4] }, &[sum], 4)[3];
        let (o, t) = (c.pointwise("Sigmoid", &[o]), c.pointwise("Tanh", &[out[2]]));
        let h = c.pointwise("Mul", &[o, t]);
        c.output(h);
    }),
    ("recurrence-last", |c| {
        let mut u = unrolled(c);
        let [batch, _, hidden] = u.sizes;
        let h = u.recurrence(c);
        let y = c.g[*c.g.body.nodes.last().unwrap()].outputs[0];
        let y = c.op(Reshape { shape: [batch, 1, hidden].map(Dim::from).to_vec() }, &[y]);
        c.output(y);
        c.output(h);
    }),
    ("recurrence-steps", |c| {
        let mut u = unrolled(c);
        for _ in 0..2 + c.rng.below(3) {
            u.recurrence(c);
        }
        c.output(u.h);
        c.output(u.c);
    }),
    ("recurrence-states", |c| {
        let mut u = unrolled(c);
        let [batch, _, hidden] = u.sizes;
        let axis = c.rng.below(2);
        let shape = if axis == 0 { [1, batch, hidden] } else { [batch, 1, hidden] };
        let states: Vec<ValueId> = (0..2 + c.rng.below(3))
            .map(|_| {
                let h = u.recurrence(c);
                c.op(Reshape { shape: shape.map(Dim::from).to_vec() }, &[h])
            })
            .collect();
        let y = c.op(Concat { axis }, &states);
        c.output(y);
    }),
];

#[test]
fn cells_of_another_kind_stay() {
    refused("lstm-cell", |c| {
        let mut u = unrolled(c);
        let x = c.input(F32, &[u.sizes[0], u.sizes[1]]);
        let (cell, o) = u.cell(c, x, [0, 2, 1, 3]);
        c.output(cell);
        c.output(o);
    });
    refused("lstm-cell", |c| {
        let mut u = unrolled_of(c, 3);
        let x = c.input(F32, &[u.sizes[0], u.sizes[1]]);
        let (cell, _) = u.cell(c, x, [0, 1, 2, 3]);
        c.output(cell);
    });
    // A state between is handed out.
    refused("recurrence-steps", |c| {
        let mut u = unrolled(c);
        let h = u.recurrence(c);
        u.recurrence(c);
        c.output(u.h);
        c.output(h);
    });
}

/// Holds that every step of an unrolled network becomes one operator over its sequence, whose input is one product. `step` adds a step on an
/// operand and gives its state; what is handed out is the last, or all of them.
pub(in crate::rewrite) fn one_recurrence(
    mut c: Case,
    [batch, input, hidden]: [usize; 3],
    stacked: bool,
    mut step: impl FnMut(&mut Case, ValueId) -> ValueId,
) {
    let x = c.input(F32, &[5, batch, input]);
    let mut states = Vec::new();
    for t in 0..5 {
        let mut s = Slice::whole(c.g.shape(x));
        (s.starts[0], s.sizes[0]) = (Dim::int(t), Dim::int(1));
        let x = c.op(s, &[x]);
        let x = c.op(Reshape { shape: vec![batch.into(), input.into()] }, &[x]);
        states.push(step(&mut c, x));
    }
    let last = states[4];
    let shape = [1, batch, hidden].map(Dim::from).to_vec();
    let rows: Vec<ValueId> = states.into_iter().map(|h| c.op(Reshape { shape: shape.clone() }, &[h])).collect();
    let y = if stacked { c.op(Concat { axis: 0 }, &rows) } else { last };
    c.output(y);
    let before = run(&c.g, &c.inputs);
    let mut g = c.g.clone();
    crate::pipeline::optimize(&mut g, Default::default(), &mut |_, _| {}).unwrap();
    let count = |name: &str| g.live_nodes().into_iter().filter(|n| g[*n].op.name() == name).count();
    assert_eq!(["Recurrence", "MatMul", "Concat"].map(count), [1, 1, 0], "{}", crate::ir::print(&g));
    for (a, b) in before.iter().zip(run(&g, &c.inputs)) {
        agree(Class::Reassociating, a, &b).unwrap();
    }
}

#[test]
fn unrolled_steps_are_one_recurrence() {
    for [stacked, zero, square] in [[false, false, false], [true, false, false], [false, true, false], [true, true, true]] {
        let mut c = Case::new(3, false);
        let mut u = unrolled(&mut c);
        if square {
            // The input is as wide as the state, so that its product could be taken for that of the state.
            let hidden = u.sizes[2];
            u.sizes[1] = hidden;
            u.w = c.factor(F32, &[hidden, 4 * hidden]);
        }
        let sizes @ [batch, _, hidden] = u.sizes;
        if zero {
            (u.h, u.c) = (c.filled(F32, &[batch, hidden], 0.0), c.filled(F32, &[batch, hidden], 0.0));
        }
        one_recurrence(c, sizes, stacked, |c, x| u.step(c, x));
    }
}
