//! Operators that change places: moves with arithmetic, products with each other. Which side is cheaper depends on what stands around.

use super::{each, scalar};
use crate::ir::{Dim, NodeId, ValueId};
use crate::ops::matmul::MatMul;
use crate::ops::movement::{Concat, Slice, Transpose};
use crate::ops::{Op, pool::Pool};
use crate::rewrite::{Class, Found, Rewriter, Rule, head};
use kiln_kernels::dtype::DType;

/// Rules that let operators change places.
#[rustfmt::skip]
pub const RULES: &[Rule] = &[
    Rule { name: "pointwise-transpose", on: &["Pointwise/Transpose"], equation: "f(Transpose(x; p), Transpose(y; p), c) => Transpose(f(x, y, c); p)  where c has one element", class: Class::Exact, apply: pointwise_transpose },
    Rule { name: "transpose-pointwise", on: &["Transpose"], equation: "Transpose(f(x, y, c); p) => f(Transpose(x; p), Transpose(y; p), c)  where c has one element", class: Class::Exact, apply: transpose_pointwise },
    Rule { name: "slice-pointwise", on: &["Slice"], equation: "Slice(f(x, y, c)) => f(Slice(x), Slice(y), c)  where c has one element; along axes where an operand repeats, it stays whole", class: Class::Exact, apply: slice_pointwise },
    Rule { name: "slice-product-rows", on: &["Slice"], equation: "Slice(x @ w; rows) => Slice(x; rows) @ w", class: Class::Exact, apply: slice_rows },
    Rule { name: "slice-product-columns", on: &["Slice"], equation: "Slice(x @ w; columns) => x @ Slice(w; columns)  where w is a weight", class: Class::Exact, apply: slice_columns },
    Rule { name: "slice-norm", on: &["Slice"], equation: "Slice(LayerNorm(x)) => LayerNorm(Slice(x))  along other axes than the normalized ones", class: Class::Exact, apply: slice_norm },
    Rule { name: "product-associates", on: &["MatMul"], equation: "(x @ u) @ v => x @ (u @ v)  where u, v are weight matrices", class: Class::Reassociating, apply: associates },
    Rule { name: "product-sum-right", on: &["Add/MatMul"], equation: "x @ u + x @ v => x @ (u + v)  where u, v are weights", class: Class::Reassociating, apply: sum_right },
    Rule { name: "product-sum-left", on: &["Add/MatMul"], equation: "x @ w + y @ w => (x + y) @ w", class: Class::Reassociating, apply: sum_left },
    Rule { name: "factor", on: &["Add/Mul"], equation: "a * x + a * y => a * (x + y)", class: Class::Reassociating, apply: factor },
    Rule { name: "concat-product", on: &["Concat/MatMul"], equation: "Concat(x @ u, x @ v; columns) => x @ Concat(u, v; columns)  where u, v are weights", class: Class::Exact, apply: concat_product },
    Rule { name: "pool-monotone", on: &["Pointwise/Pool"], equation: "f(MaxPool(x)) => MaxPool(f(x))  where f never falls", class: Class::ExactOnFinite, apply: after_pool },
    Rule { name: "monotone-pool", on: &["Pool"], equation: "MaxPool(f(x)) => f(MaxPool(x))  where f never falls", class: Class::ExactOnFinite, apply: before_pool },
    Rule { name: "relu-known", on: &["Relu"], equation: "Relu(x) => x  where x is not negative", class: Class::ExactOnFinite, apply: relu_known },
    Rule { name: "clip-known", on: &["Clip"], equation: "Clip(x, a, b) => x  where x lies between a and b", class: Class::ExactOnFinite, apply: clip_known },
];

fn one(rw: &Rewriter<'_>, v: ValueId) -> bool {
    rw.shape(v).iter().all(|d| d.is(1))
}

/// Whether an operand is the same wherever it is read, whatever becomes of the shape.
pub(super) fn alone(rw: &Rewriter<'_>, v: ValueId) -> bool {
    scalar(rw, v) || (rw.weight(v) && one(rw, v))
}

/// The only result of a node.
pub(super) fn single(rw: &Rewriter<'_>, n: NodeId) -> Option<ValueId> {
    match rw.node(n).outputs[..] {
        [v] => Some(v),
        _ => None,
    }
}

fn pointwise_transpose(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let out = rw.shape(single(rw, n)?).to_vec();
    let mut perm: Option<Vec<usize>> = None;
    let inputs = each(rw, n, alone, &mut |rw, v| {
        let t = rw.made_by(v, "Transpose")?;
        let Op::Transpose(own) = &rw.node(t).op else { return None };
        let same = perm.get_or_insert_with(|| own.perm.clone()) == &own.perm && *rw.shape(v) == out;
        same.then(|| rw.input(t, 0))?
    })?;
    let op = rw.node(n).op.clone();
    let y = rw.add(op, &inputs)?;
    Some(vec![rw.add(Transpose { perm: perm? }, &[y])?])
}

fn transpose_pointwise(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let y = rw.input(n, 0)?;
    let f = rw.producer(y).filter(|f| matches!(rw.node(*f).op, Op::Pointwise(_)))?;
    let (move_, op, shape) = (rw.node(n).op.clone(), rw.node(f).op.clone(), rw.shape(single(rw, f)?).to_vec());
    let inputs = each(rw, f, alone, &mut |rw, v| {
        if *rw.shape(v) != shape {
            return None;
        }
        rw.add(move_.clone(), &[v])
    })?;
    Some(vec![rw.add(op, &inputs)?])
}

/// The part of an operand that a slice of a result of that shape is computed from: along axes where the operand repeats, all of it.
fn operand_part(rw: &mut Rewriter<'_>, v: ValueId, shape: &[Dim], s: &Slice) -> Option<ValueId> {
    let own = rw.shape(v).to_vec();
    let skip = shape.len().checked_sub(own.len())?;
    let mut part = Slice { bounds: s.bounds.clone(), ..Slice::whole(&own) };
    for (i, d) in own.iter().enumerate() {
        match (*d == shape[skip + i], d.is(1)) {
            (true, _) => {
                (part.starts[i], part.steps[i], part.sizes[i]) = (s.starts[skip + i].clone(), s.steps[skip + i], s.sizes[skip + i].clone());
            }
            (_, true) => {}
            // Run time decides whether it repeats.
            _ => return None,
        }
    }
    if s.bounds.is_empty() && part == Slice::whole(&own) {
        return Some(v);
    }
    rw.add(part, &[v])
}

fn slice_pointwise(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let y = rw.input(n, 0)?;
    let f = rw.producer(y).filter(|f| matches!(rw.node(*f).op, Op::Pointwise(_)))?;
    let Op::Slice(s) = rw.node(n).op.clone() else { return None };
    let (op, shape) = (rw.node(f).op.clone(), rw.shape(single(rw, f)?).to_vec());
    let inputs = each(rw, f, alone, &mut |rw, v| operand_part(rw, v, &shape, &s))?;
    Some(vec![rw.add(op, &inputs)?])
}

/// A slice, and the axes that it cuts.
pub(super) fn cut(rw: &Rewriter<'_>, n: NodeId) -> Option<(Slice, Vec<usize>)> {
    let Op::Slice(s) = rw.node(n).op.clone() else { return None };
    let from = rw.shape(rw.input(n, 0)?);
    let axes = (0..from.len()).filter(|i| !(s.starts[*i].is(0) && s.steps[*i] == 1 && s.sizes[*i] == from[*i])).collect();
    Some((s, axes))
}

/// The same slice of a value that has other extents along the axes that are not cut.
fn like(s: &Slice, shape: &[Dim], axes: &[usize]) -> Slice {
    let mut out = s.clone();
    for (i, size) in out.sizes.iter_mut().enumerate().filter(|(i, _)| !axes.contains(i)) {
        *size = shape[i].clone();
    }
    out
}

fn slice_rows(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let product = rw.made_by(rw.input(n, 0)?, "MatMul")?;
    let (s, axes) = cut(rw, n)?;
    let (x, w, rank) = (rw.input(product, 0)?, rw.input(product, 1)?, s.steps.len());
    if axes != [rank - 2] || rw.shape(x).len() != rank {
        return None;
    }
    let s = like(&s, rw.shape(x), &axes);
    let x = rw.add(s, &[x])?;
    Some(vec![rw.add(MatMul, &[x, w])?])
}

fn slice_columns(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let product = rw.made_by(rw.input(n, 0)?, "MatMul")?;
    let (s, axes) = cut(rw, n)?;
    let (x, w, rank) = (rw.input(product, 0)?, rw.input(product, 1)?, s.steps.len());
    if axes != [rank - 1] || !rw.weight(w) {
        return None;
    }
    let shape = rw.shape(w).to_vec();
    let skip = rank.checked_sub(shape.len())?;
    let tail = Slice { starts: s.starts[skip..].to_vec(), steps: s.steps[skip..].to_vec(), sizes: s.sizes[skip..].to_vec(), ..s };
    let axes = [shape.len() - 1];
    let w = rw.add(like(&tail, &shape, &axes), &[w])?;
    Some(vec![rw.add(MatMul, &[x, w])?])
}

fn slice_norm(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let norm = rw.made_by(rw.input(n, 0)?, "LayerNorm")?;
    let (s, axes) = cut(rw, n)?;
    let Op::LayerNorm(l) = rw.node(norm).op.clone() else { return None };
    if axes.iter().any(|a| *a >= l.axis) || rw.node(norm).outputs.len() != 1 {
        return None;
    }
    let mut inputs = rw.node(norm).inputs.clone();
    let x = inputs.first().copied().flatten()?;
    inputs[0] = Some(rw.add(s, &[x])?);
    rw.add_all(l.into(), inputs, 1)
}

fn matrix(rw: &Rewriter<'_>, v: ValueId) -> bool {
    rw.weight(v) && rw.shape(v).len() == 2
}

fn associates(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let (y, v) = (rw.input(n, 0)?, rw.input(n, 1)?);
    let inner = rw.made_by(y, "MatMul")?;
    let (x, u) = (rw.input(inner, 0)?, rw.input(inner, 1)?);
    if !matrix(rw, u) || !matrix(rw, v) || rw.weight(x) {
        return None;
    }
    let w = rw.add(MatMul, &[u, v])?;
    Some(vec![rw.add(MatMul, &[x, w])?])
}

/// The operands of two products that are added.
pub(super) fn two_products(rw: &Rewriter<'_>, n: NodeId) -> Option<[ValueId; 4]> {
    let (a, b) = (rw.input(n, 0)?, rw.input(n, 1)?);
    if rw.ty(a) != rw.ty(b) {
        return None;
    }
    let (p, q) = (rw.made_by(a, "MatMul")?, rw.made_by(b, "MatMul")?);
    Some([rw.input(p, 0)?, rw.input(p, 1)?, rw.input(q, 0)?, rw.input(q, 1)?])
}

fn sum_right(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let [x, u, y, v] = two_products(rw, n)?;
    if x != y || !rw.weight(u) || !rw.weight(v) || rw.ty(u) != rw.ty(v) {
        return None;
    }
    let w = rw.pointwise("Add", &[u, v])?;
    Some(vec![rw.add(MatMul, &[x, w])?])
}

fn sum_left(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let [x, u, y, v] = two_products(rw, n)?;
    if u != v || rw.ty(x) != rw.ty(y) {
        return None;
    }
    let s = rw.pointwise("Add", &[x, y])?;
    Some(vec![rw.add(MatMul, &[s, u])?])
}

fn factor(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let (a, b) = (rw.input(n, 0)?, rw.input(n, 1)?);
    let (p, q) = (rw.made_by(a, "Mul")?, rw.made_by(b, "Mul")?);
    if !rw.dtype(a).is_float() || p == q {
        return None;
    }
    for i in 0..2 {
        for j in 0..2 {
            let (c, d) = (rw.input(p, i)?, rw.input(q, j)?);
            let (x, y) = (rw.input(p, 1 - i)?, rw.input(q, 1 - j)?);
            if c == d && x != y && rw.ty(x) == rw.ty(y) {
                let s = rw.pointwise("Add", &[x, y])?;
                return Some(vec![rw.pointwise("Mul", &[c, s])?]);
            }
        }
    }
    None
}

fn concat_product(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let Op::Concat(c) = rw.node(n).op.clone() else { return None };
    let mut weights = Vec::new();
    let mut left = None;
    for v in rw.node(n).inputs.clone() {
        let product = rw.made_by(v?, "MatMul")?;
        let (x, w) = (rw.input(product, 0)?, rw.input(product, 1)?);
        if *left.get_or_insert(x) != x || !matrix(rw, w) || c.axis + 1 != rw.shape(v?).len() {
            return None;
        }
        weights.push(w);
    }
    if weights.len() < 2 {
        return None;
    }
    let w = rw.add(Concat { axis: 1 }, &weights)?;
    Some(vec![rw.add(MatMul, &[left?, w])?])
}

/// Functions of one operand that never fall; a maximum may be taken before or after them.
const RISING: &[&str] = &["Relu", "Sigmoid", "Tanh", "Exp", "Floor", "Ceil", "Erf"];

fn rising(rw: &Rewriter<'_>, n: NodeId) -> bool {
    RISING.contains(&head(&rw.node(n).op)) && rw.node(n).inputs.len() == 1
}

fn max_pool(rw: &Rewriter<'_>, n: NodeId) -> Option<Pool> {
    match &rw.node(n).op {
        // Windows that lie in the padding altogether have no maximum.
        Op::Pool(p) if p.mode == "max" && rw.node(n).outputs.len() == 1 && rw.dtype(rw.node(n).outputs[0]) == DType::F32 => Some(p.clone()),
        _ => None,
    }
}

fn after_pool(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    if !rising(rw, n) {
        return None;
    }
    let pool = rw.made_by(rw.input(n, 0)?, "Pool")?;
    let (p, f, x) = (max_pool(rw, pool)?, rw.node(n).op.clone(), rw.input(pool, 0)?);
    let y = rw.add(f, &[x])?;
    Some(vec![rw.add(p, &[y])?])
}

fn before_pool(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let p = max_pool(rw, n)?;
    let f = rw.producer(rw.input(n, 0)?).filter(|f| rising(rw, *f))?;
    let (op, x) = (rw.node(f).op.clone(), rw.input(f, 0)?);
    let y = rw.add(p, &[x])?;
    Some(vec![rw.add(op, &[y])?])
}

fn relu_known(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let x = rw.input(n, 0)?;
    (rw.bounds(x).0 >= 0.0).then_some(vec![x])
}

fn clip_known(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let x = rw.input(n, 0)?;
    let (lo, hi) = (rw.uniform(rw.input(n, 1)?)?, rw.uniform(rw.input(n, 2)?)?);
    let (least, most) = rw.bounds(x);
    (least >= lo && most <= hi).then_some(vec![x])
}

#[cfg(test)]
pub(in crate::rewrite) mod tests {
    use super::*;
    use crate::ops::norm::LayerNorm;
    use crate::rewrite::tests::{Case, Example};

    const F32: DType = DType::F32;
    const UNARY: &[&str] = &["Relu", "Sigmoid", "Neg", "Abs"];

    fn extents(c: &mut Case, rank: usize) -> Vec<usize> {
        (0..rank).map(|_| 1 + c.rng.below(4)).collect()
    }
    fn permutation(c: &mut Case, rank: usize) -> Vec<usize> {
        let mut p: Vec<usize> = (0..rank).collect();
        for i in (1..rank).rev() {
            p.swap(i, c.rng.below(i + 1));
        }
        p
    }
    /// One of the pointwise functions of x, y and a number.
    fn pointwise(c: &mut Case, x: ValueId, y: ValueId) -> ValueId {
        match c.rng.below(3) {
            0 => {
                let name = c.rng.pick(UNARY);
                c.pointwise(name, &[x])
            }
            1 => c.pointwise("Add", &[x, y]),
            _ => {
                let k = c.filled(F32, &[], 1.5);
                c.pointwise("Mul", &[x, k])
            }
        }
    }
    /// A part of a tensor along some axes, steps of either sign.
    fn part(c: &mut Case, x: ValueId, axes: &[usize]) -> ValueId {
        let shape: Vec<i64> = c.g.shape(x).iter().map(|d| d.as_int().unwrap()).collect();
        let full = |i: usize| (Dim::int(0), 1, Dim::int(shape[i]));
        let mut cuts: Vec<(Dim, i64, Dim)> = (0..shape.len()).map(full).collect();
        for a in axes {
            let size = 1 + c.rng.below(shape[*a] as usize) as i64;
            let start = c.rng.below((shape[*a] - size + 1) as usize) as i64;
            cuts[*a] = match c.rng.below(2) {
                0 => (Dim::int(start), 1, Dim::int(size)),
                _ => (Dim::int(start + size - 1), -1, Dim::int(size)),
            };
        }
        let (starts, steps, sizes) = cuts.into_iter().fold((vec![], vec![], vec![]), |mut v: (Vec<_>, Vec<_>, Vec<_>), (a, b, d)| {
            v.0.push(a);
            v.1.push(b);
            v.2.push(d);
            v
        });
        c.op(Slice { starts, steps, sizes, bounds: vec![] }, &[x])
    }
    fn product(c: &mut Case) -> (ValueId, ValueId, usize) {
        let rank = 2 + c.rng.below(2);
        let shape = extents(c, rank);
        let n = 1 + c.rng.below(5);
        let x = c.input(F32, &shape);
        let w = c.factor(F32, &[shape[rank - 1], 17 + n]);
        (c.op(MatMul, &[x, w]), x, rank)
    }
    /// Weights of more elements than rules may read, in two shapes of operands.
    fn weights(c: &mut Case, k: usize) -> (ValueId, ValueId) {
        (c.factor(F32, &[k, 17]), c.factor(F32, &[k, 17]))
    }

    pub(in crate::rewrite) const EXAMPLES: &[Example] = &[
        ("pointwise-transpose", |c| {
            let rank = 2 + c.rng.below(3);
            let (shape, perm) = (extents(c, rank), permutation(c, rank));
            let (x, y) = (c.input(F32, &shape), c.input(F32, &shape));
            let (x, y) = (c.op(Transpose { perm: perm.clone() }, &[x]), c.op(Transpose { perm }, &[y]));
            let z = pointwise(c, x, y);
            c.output(z);
        }),
        ("transpose-pointwise", |c| {
            let rank = 2 + c.rng.below(3);
            let (shape, perm) = (extents(c, rank), permutation(c, rank));
            let (x, y) = (c.input(F32, &shape), c.input(F32, &shape));
            let z = pointwise(c, x, y);
            let z = c.op(Transpose { perm }, &[z]);
            c.output(z);
        }),
        ("slice-pointwise", |c| {
            let rank = 1 + c.rng.below(3);
            let shape = extents(c, rank);
            let skip = c.rng.below(rank + 1);
            let other: Vec<usize> = shape[skip..].iter().map(|d| if c.rng.below(2) == 0 { 1 } else { *d }).collect();
            let (x, y) = (c.input(F32, &shape), c.input(F32, &other));
            let z = pointwise(c, x, y);
            let axis = c.rng.below(rank);
            let z = part(c, z, &[axis]);
            c.output(z);
        }),
        ("slice-product-rows", |c| {
            let (y, _, rank) = product(c);
            let z = part(c, y, &[rank - 2]);
            c.output(z);
        }),
        ("slice-product-columns", |c| {
            let (y, _, rank) = product(c);
            let z = part(c, y, &[rank - 1]);
            c.output(z);
        }),
        ("slice-norm", |c| {
            let shape = extents(c, 3);
            let (x, scale) = (c.input(F32, &shape), c.factor(F32, &shape[2..]));
            let y = c.op(LayerNorm { axis: 2, epsilon: 1e-3.into(), centred: true }, &[x, scale]);
            let axis = c.rng.below(2);
            let z = part(c, y, &[axis]);
            c.output(z);
        }),
        ("product-associates", |c| {
            let (y, ..) = product(c);
            let k = c.g.shape(y).last().and_then(|d| d.as_int()).unwrap() as usize;
            let v = c.factor(F32, &[k, 3]);
            let z = c.op(MatMul, &[y, v]);
            c.output(z);
        }),
        ("product-sum-right", |c| {
            let (m, k) = (1 + c.rng.below(4), 1 + c.rng.below(4));
            let x = c.input(F32, &[m, k]);
            let (u, v) = weights(c, k);
            let (a, b) = (c.op(MatMul, &[x, u]), c.op(MatMul, &[x, v]));
            let z = c.pointwise("Add", &[a, b]);
            c.output(z);
        }),
        ("product-sum-left", |c| {
            let (m, k) = (1 + c.rng.below(4), 1 + c.rng.below(4));
            let (x, y) = (c.input(F32, &[m, k]), c.input(F32, &[m, k]));
            let (w, _) = weights(c, k);
            let (a, b) = (c.op(MatMul, &[x, w]), c.op(MatMul, &[y, w]));
            let z = c.pointwise("Add", &[a, b]);
            c.output(z);
        }),
        ("factor", |c| {
            let shape = extents(c, 2);
            let [a, x, y] = [(); 3].map(|_| c.input(F32, &shape));
            let p = if c.rng.below(2) == 0 { c.pointwise("Mul", &[a, x]) } else { c.pointwise("Mul", &[x, a]) };
            let q = if c.rng.below(2) == 0 { c.pointwise("Mul", &[a, y]) } else { c.pointwise("Mul", &[y, a]) };
            let z = c.pointwise("Add", &[p, q]);
            c.output(z);
        }),
        ("concat-product", |c| {
            let (m, k) = (1 + c.rng.below(4), 1 + c.rng.below(4));
            let x = c.input(F32, &[m, k]);
            let (u, v) = weights(c, k);
            let (a, b) = (c.op(MatMul, &[x, u]), c.op(MatMul, &[x, v]));
            let z = c.op(Concat { axis: 1 }, &[a, b]);
            c.output(z);
        }),
        ("pool-monotone", |c| pooled(c, false)),
        ("monotone-pool", |c| pooled(c, true)),
        ("relu-known", |c| {
            let shape = c.any_shape();
            let x = c.input(F32, &shape);
            let name = c.rng.pick(&["Exp", "Sigmoid", "Abs", "Sqrt"]);
            let y = c.pointwise(name, &[x]);
            let z = c.pointwise("Relu", &[y]);
            c.output(z);
        }),
        ("clip-known", |c| {
            let shape = c.any_shape();
            let x = c.input(F32, &shape);
            let name = c.rng.pick(&["Tanh", "Sigmoid"]);
            let y = c.pointwise(name, &[x]);
            let (lo, hi) = (c.filled(F32, &[], -1.0), c.filled(F32, &[], 1.0));
            let z = c.pointwise("Clip", &[y, lo, hi]);
            c.output(z);
        }),
    ];

    fn pooled(c: &mut Case, first: bool) {
        let x = c.input(F32, &[1, 2, 5, 4]);
        let op = Pool {
            mode: "max",
            kernel: vec![2, 2],
            strides: vec![1, 2],
            pads: vec![0, 1, 1, 0],
            dilations: vec![1, 1],
            ceil: false,
            column_major: false,
        };
        let name = c.rng.pick(RISING);
        let y = match first {
            true => {
                let y = c.pointwise(name, &[x]);
                c.op(op, &[y])
            }
            false => {
                let y = c.op(op, &[x]);
                c.pointwise(name, &[y])
            }
        };
        c.output(y);
    }
}
