//! A mixture of experts that gathers the weights of each token's experts, as exporters of gpt-oss, Mixtral and their like write it.

use crate::models::{Dim, ModelBuilder};
use crate::writer::Writer;
use kiln_kernels::dtype::DType::F32;

/// How the products with gathered weights are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spelling {
    /// One row for each expert of a token, weights `[E, K, N]`.
    Batched,
    /// Tokens and their experts in one axis, weights `[E, N, K]` transposed behind the Gather.
    Flat,
    /// `beck,bk->bec`: weights on the left, and gates interleaved with what they open.
    Left,
    /// `ti,taoi->tao`: weights on the right.
    Right,
}

/// Every spelling.
pub const SPELLINGS: [Spelling; 4] = [Spelling::Batched, Spelling::Flat, Spelling::Left, Spelling::Right];

/// Extents of a mixture of experts.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Tokens.
    pub tokens: usize,
    /// Width of a token.
    pub width: usize,
    /// Width inside of an expert.
    pub hidden: usize,
    /// Experts.
    pub experts: usize,
    /// Experts of each token.
    pub chosen: usize,
}

/// The model, of one input `x` `[tokens, width]`, whose first extent may be open.
pub fn model(spelling: Spelling, s: Sizes, open: bool) -> Vec<u8> {
    let tokens = if open { Dim::from("tokens") } else { Dim::from(s.tokens) };
    let b = ModelBuilder::new().opset(18).input("x", F32, [tokens, Dim::from(s.width)]);
    let mut w = Writer::new(b, spelling, 7);
    let router = w.noise(&[s.width, s.experts], |v| v);
    let scores = w.node("MatMul", &["x", &router]);
    let k = w.list(&[s.chosen as i64]);
    let (values, indices) = (w.name("t"), w.name("t"));
    w.change(|b| b.node("TopK", &[&scores, &k], &[&values, &indices]));
    let gates = w.node("Softmax", &[&values]);
    let y = match spelling {
        Spelling::Batched => batched(&mut w, s, &gates, &indices),
        Spelling::Flat => flat(&mut w, s, &gates, &indices),
        Spelling::Left => left(&mut w, s, &gates, &indices),
        Spelling::Right => right(&mut w, s, &gates, &indices),
    };
    w.into_builder().output(&y).build()
}

type Moe = Writer<Spelling>;

impl Moe {
    /// Weights of all experts, gathered.
    fn picked(&mut self, dims: &[usize], indices: &str) -> String {
        let scale = 1.0 / (dims[1..].iter().product::<usize>() as f32).powf(0.25);
        let w = self.noise(dims, |v| v * scale);
        self.node("Gather", &[&w, indices])
    }
    fn with_list(&mut self, op: &str, x: &str, list: &[i64]) -> String {
        let list = self.list(list);
        self.node(op, &[x, &list])
    }
    fn gated(&mut self, gate: &str, up: &str) -> String {
        let sigmoid = self.node("Sigmoid", &[gate]);
        let silu = self.node("Mul", &[gate, &sigmoid]);
        self.node("Mul", &[&silu, up])
    }
    fn einsum(&mut self, equation: &str, a: &str, b: &str) -> String {
        let y = self.node("Einsum", &[a, b]);
        self.attr("equation", equation);
        y
    }
}

fn batched(w: &mut Moe, s: Sizes, gates: &str, indices: &str) -> String {
    let x = w.with_list("Unsqueeze", "x", &[1, 2]);
    let [gate, up] = [0; 2].map(|_| {
        let (m, b) = (w.picked(&[s.experts, s.width, s.hidden], indices), w.picked(&[s.experts, s.hidden], indices));
        let (y, b) = (w.node("MatMul", &[&x, &m]), w.with_list("Unsqueeze", &b, &[2]));
        w.node("Add", &[&y, &b])
    });
    let h = w.gated(&gate, &up);
    let m = w.picked(&[s.experts, s.hidden, s.width], indices);
    let y = w.node("MatMul", &[&h, &m]);
    let gates = w.with_list("Unsqueeze", gates, &[2, 3]);
    let weighted = w.node("Mul", &[&y, &gates]);
    let sum = w.with_list("ReduceSum", &weighted, &[1]);
    w.attr("keepdims", 0);
    w.with_list("Squeeze", &sum, &[1])
}

fn flat(w: &mut Moe, s: Sizes, gates: &str, indices: &str) -> String {
    let (width, chosen) = (s.width as i64, s.chosen as i64);
    let indices = w.with_list("Reshape", indices, &[-1]);
    let x = w.with_list("Unsqueeze", "x", &[1]);
    let x = w.with_list("Expand", &x, &[1, chosen, width]);
    let mut x = w.with_list("Reshape", &x, &[-1, 1, width]);
    for [k, n] in [[s.width, s.hidden], [s.hidden, s.width]] {
        let m = w.picked(&[s.experts, n, k], &indices);
        let m = w.node("Transpose", &[&m]);
        w.attr("perm", vec![0i64, 2, 1]);
        x = w.node("MatMul", &[&x, &m]);
        if n == s.hidden {
            x = w.node("Relu", &[&x]);
        }
    }
    let y = w.with_list("Reshape", &x, &[-1, chosen, width]);
    let gates = w.with_list("Unsqueeze", gates, &[1]);
    let sum = w.node("MatMul", &[&gates, &y]);
    w.with_list("Squeeze", &sum, &[1])
}

fn left(w: &mut Moe, s: Sizes, gates: &str, indices: &str) -> String {
    let (m, b) = (w.picked(&[s.experts, 2 * s.hidden, s.width], indices), w.picked(&[s.experts, 2 * s.hidden], indices));
    let y = w.einsum("beck,bk->bec", &m, "x");
    let y = w.node("Add", &[&y, &b]);
    let [gate, up] = [0, 1].map(|first| {
        let lists = [vec![first], vec![i64::MAX], vec![-1], vec![2]].map(|l| w.list(&l));
        w.node("Slice", &[&y, &lists[0], &lists[1], &lists[2], &lists[3]])
    });
    let h = w.gated(&gate, &up);
    let (m, b) = (w.picked(&[s.experts, s.width, s.hidden], indices), w.picked(&[s.experts, s.width], indices));
    let y = w.einsum("beck,bek->bec", &m, &h);
    let y = w.node("Add", &[&y, &b]);
    w.einsum("bec,be->bc", &y, gates)
}

fn right(w: &mut Moe, s: Sizes, gates: &str, indices: &str) -> String {
    let [gate, up] = [0; 2].map(|_| {
        let m = w.picked(&[s.experts, s.hidden, s.width], indices);
        w.einsum("ti,taoi->tao", "x", &m)
    });
    let h = w.gated(&gate, &up);
    let m = w.picked(&[s.experts, s.width, s.hidden], indices);
    let y = w.einsum("tao,taio->tai", &h, &m);
    w.einsum("tai,ta->ti", &y, gates)
}
