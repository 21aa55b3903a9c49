//! Attention as exporters spell it.

use super::*;
use crate::ir::Dim;
use crate::ops::movement::Expand;
use crate::ops::softmax::Softmax;
use crate::rewrite::tests::{Case, Example};

/// Extents of an attention: those of the batch, queries, keys, depth, width.
pub(in crate::rewrite) struct Sizes {
    pub(in crate::rewrite) batch: Vec<usize>,
    pub(in crate::rewrite) sizes: [usize; 4],
}

pub(in crate::rewrite) fn sizes(c: &mut Case) -> Sizes {
    let rank = c.rng.below(3);
    let batch = (0..rank).map(|_| 1 + c.rng.below(3)).collect();
    Sizes { batch, sizes: [0; 4].map(|_: usize| 1 + c.rng.below(5)) }
}

impl Sizes {
    fn of(&self, rows: usize, cols: usize) -> Vec<usize> {
        [&self.batch[..], &[rows, cols]].concat()
    }
    /// Queries, keys and values.
    pub(in crate::rewrite) fn operands(&self, c: &mut Case) -> [ValueId; 3] {
        let [q, k, d, w] = self.sizes;
        [self.of(q, d), self.of(k, d), self.of(k, w)].map(|s| c.input(DType::F32, &s))
    }
}

fn swapped(c: &mut Case, x: ValueId) -> ValueId {
    let rank = c.g.shape(x).len();
    let mut perm: Vec<usize> = (0..rank).collect();
    perm.swap(rank - 2, rank - 1);
    c.op(Transpose { perm }, &[x])
}

fn softmax_of(c: &mut Case, s: ValueId) -> ValueId {
    let axis = c.g.shape(s).len() - 1;
    c.op(Softmax { axis, mode: "softmax" }, &[s])
}

/// `x * by` in one of the ways exporters write it.
fn times(c: &mut Case, x: ValueId, by: f64) -> ValueId {
    let (name, by) = if c.rng.below(2) == 0 { ("Mul", by) } else { ("Div", 1.0 / by) };
    let by = c.filled(c.g.dtype(x), &[], by);
    c.pointwise(name, &[x, by])
}

/// A mask of the type, or a condition: whether each query sees each key, but all of the first.
pub(in crate::rewrite) fn seen(c: &mut Case, dims: &[usize], dtype: DType, masked: f64) -> ValueId {
    let cols = dims.last().copied().unwrap_or(1).max(1);
    let x: Vec<f64> = (0..dims.iter().product())
        .map(|i: usize| match (i.is_multiple_of(cols) || c.rng.below(2) == 0, dtype) {
            (kept, DType::Bool) => f64::from(u8::from(kept)),
            (kept, _) => {
                if kept {
                    0.0
                } else {
                    masked
                }
            }
        })
        .collect();
    let t = eval::from_f64s(dims, &x, dtype);
    let v = c.g.add_constant(t, "");
    // Something computed, unless the constant is what the rule is about.
    let again = c.filled(dtype, &[], if dtype == DType::Bool { 1.0 } else { 0.0 });
    let given = c.input(dtype, &[]);
    match dtype {
        DType::Bool => {
            let or = c.pointwise("Or", &[given, again]);
            c.pointwise("And", &[v, or])
        }
        _ => {
            let none = c.pointwise("Mul", &[given, again]);
            c.pointwise("Add", &[v, none])
        }
    }
}

pub(in crate::rewrite) fn low(c: &mut Case) -> f64 {
    c.rng.pick(&[f64::NEG_INFINITY, f64::from(f32::MIN), -1e4, -1e9])
}

/// Scores with a few of the things that exporters do to them.
fn spelled(c: &mut Case, s: &Sizes, [q, k, _]: [ValueId; 3]) -> ValueId {
    let kt = swapped(c, k);
    let mut x = c.op(MatMul, &[q, kt]);
    let shape = s.of(s.sizes[0], s.sizes[1]);
    for _ in 0..c.rng.below(4) {
        // The first key stays visible, lest a row sees nothing.
        let dims = match c.rng.below(3) {
            0 => shape.clone(),
            1 => shape[shape.len() - 1..].to_vec(),
            _ => [&vec![1; shape.len() - 2][..], &shape[shape.len() - 2..]].concat(),
        };
        let (order, masked) = (c.rng.below(2), low(c));
        x = match c.rng.below(4) {
            0 | 1 => times(c, x, 0.5),
            2 => {
                let m = seen(c, &dims, DType::F32, masked.max(-1e9));
                c.pointwise("Add", &if order == 0 { [x, m] } else { [m, x] })
            }
            _ => {
                let cond = seen(c, &dims, DType::Bool, 0.0);
                let low = c.filled(DType::F32, &[], masked);
                if order == 0 {
                    c.pointwise("Where", &[cond, x, low])
                } else {
                    let not = c.pointwise("Not", &[cond]);
                    c.pointwise("Where", &[not, low, x])
                }
            }
        };
    }
    x
}

pub(in crate::rewrite) fn attention(c: &mut Case, op: Attend, inputs: &[ValueId]) {
    let y = c.op(op, inputs);
    c.output(y);
}

pub(in crate::rewrite) fn plain() -> Attend {
    Attend { scale: 0.5.into(), causal: None, safe: false }
}

pub(in crate::rewrite) const EXAMPLES: &[Example] = &[
    ("attend-rows", |c| {
        let s = sizes(c);
        let [q, k, d, w] = s.sizes;
        let (x, v) = (c.input(DType::F32, &s.of(q, k)), c.input(DType::F32, &s.of(k, w)));
        let p = softmax_of(c, x);
        let dims = if d > 2 { vec![q, 1] } else { s.of(q, 1) };
        let (cond, zero) = (c.input(DType::Bool, &dims), c.filled(DType::F32, &[], 0.0));
        let p = c.pointwise("Where", &[cond, zero, p]);
        let y = c.op(MatMul, &[p, v]);
        c.output(y);
    }),
    ("attend", |c| {
        let s = sizes(c);
        let operands = s.operands(c);
        let x = spelled(c, &s, operands);
        let mut p = softmax_of(c, x);
        if c.rng.below(3) == 0 {
            let (nan, zero) = (c.pointwise("IsNaN", &[p]), c.filled(DType::F32, &[], 0.0));
            p = c.pointwise("Where", &[nan, zero, p]);
        }
        let y = c.op(MatMul, &[p, operands[2]]);
        c.output(y);
    }),
    ("attend-scale", |c| {
        let s = sizes(c);
        let [mut q, mut k, v] = s.operands(c);
        let which = c.rng.below(3);
        if which < 2 {
            q = times(c, q, 0.25);
        }
        if which > 0 {
            k = swapped(c, k);
            k = times(c, k, 3.0);
            k = swapped(c, k);
        }
        attention(c, plain(), &[q, k, v]);
    }),
    ("attend-heads", |c| {
        let [heads, group, batch] = [0; 3].map(|_: usize| 1 + c.rng.below(3));
        let s = Sizes { batch: vec![batch, heads * (group + 1)], ..sizes(c) };
        let [keys, depth, width] = [s.sizes[1], s.sizes[2], s.sizes[3]];
        let [q, mut k, mut v] = s.operands(c);
        let which = c.rng.below(3);
        let repeated = |c: &mut Case, cols: usize| {
            let x = c.input(DType::F32, &[batch, heads, keys, cols]);
            let dims = |v: &[usize]| v.iter().map(|d| (*d).into()).collect::<Vec<Dim>>();
            let x = c.op(Reshape { shape: dims(&[batch, heads, 1, keys, cols]) }, &[x]);
            let x = c.op(Expand { shape: dims(&[batch, heads, group + 1, keys, cols]) }, &[x]);
            c.op(Reshape { shape: dims(&[batch, heads * (group + 1), keys, cols]) }, &[x])
        };
        if which < 2 {
            k = repeated(c, depth);
        }
        if which > 0 {
            v = repeated(c, width);
        }
        attention(c, plain(), &[q, k, v]);
    }),
];
