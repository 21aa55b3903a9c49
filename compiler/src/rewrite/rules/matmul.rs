//! Matrix products: constant factors taken into constant matrices.

use super::{SHARED, along, folds, rounded};
use crate::ir::{NodeId, ValueId};
use crate::ops::softmax::{Softmax, softmax_of};
use crate::ops::{Op, pointwise::Pointwise};
use crate::rewrite::{Class, Found, Rewriter, Rule};
use kiln_kernels::dtype::DType;
use kiln_kernels::value::Tensor;

/// Rules about matrix products.
#[rustfmt::skip]
pub const RULES: &[Rule] = &[
    Rule { name: "matmul-mul", on: &["Mul"], equation: "(x @ w) * c => x @ (w*c)  where w is constant and c is per column and constant", class: Class::Reassociating, apply: |rw, n| scale(rw, n, |w, c| w * c) },
    Rule { name: "matmul-div", on: &["Div"], equation: "(x @ w) / c => x @ (w/c)  where w is constant and c is per column and constant", class: Class::Reassociating, apply: |rw, n| scale(rw, n, |w, c| w / c) },
    Rule { name: "matmul-input-mul", on: &["MatMul"], equation: "(x * c) @ w => x @ (c*w)  where w is constant and c is per column of x and constant", class: Class::Reassociating, apply: |rw, n| scale_input(rw, n, "Mul", |w, c| w * c) },
    Rule { name: "matmul-input-div", on: &["MatMul"], equation: "(x / c) @ w => x @ (w/c)  where w is constant and c is per column of x and constant", class: Class::Reassociating, apply: |rw, n| scale_input(rw, n, "Div", |w, c| w / c) },
    Rule { name: "matmul-input-add", on: &["MatMul"], equation: "(x + c) @ w => x @ w + c@w  where w is a constant matrix and c is per column of x and constant", class: Class::Reassociating, apply: shift_input },
    Rule { name: "matmul-diagonal", on: &["MatMul"], equation: "x @ diag(d) => x * d;  x @ I => x  where d is constant", class: Class::ExactOnFinite, apply: diagonal },
    Rule { name: "matmul-shares", on: &["Cast"], equation: "T(f32(T(s)) @ v) => T(Softmax(x) @ v)  where s is Softmax(x) rounded to T at every step, and T is f16 or bf16: the shares stay f32 on their way into the product", class: Class::Reassociating, apply: shares },
];

/// Weights of two axes at least, constant, and not shared when they are large.
fn matrix(rw: &Rewriter<'_>, w: ValueId) -> Option<Tensor> {
    let Some(t) = rw.constant(w).filter(|t| folds(t.dtype) && t.dims.len() >= 2) else { return rw.refuse("the right side is computed") };
    match rw.uses(w) == 1 || t.len() <= SHARED {
        true => Some(t.clone()),
        false => rw.refuse("the weights are shared, and large"),
    }
}

fn scale(rw: &mut Rewriter<'_>, n: NodeId, f: fn(f64, f64) -> f64) -> Found {
    let y = rw.input(n, 0)?;
    let product = rw.made_by(y, "MatMul").filter(|_| rw.input(n, 1).is_some_and(|c| rw.constant(c).is_some()))?;
    if !rw.used_once(y) {
        return rw.refuse("others read the product too");
    }
    let (x, w) = (rw.input(product, 0)?, matrix(rw, rw.input(product, 1)?)?);
    let rank = rw.shape(y).len();
    let columns = w.dims[w.dims.len() - 1];
    let Some(c) = along(rw.constant(rw.input(n, 1)?)?, rank, rank - 1, columns) else {
        return rw.refuse("the factor differs from row to row");
    };
    let mut v = w.to_f64s()?;
    v.iter_mut().enumerate().for_each(|(i, x)| *x = f(*x, c[i % columns]));
    let w = rounded(&w.dims, &v, w.dtype)?;
    let w = rw.tensor(w);
    let op = rw.node(product).op.clone();
    Some(vec![rw.add(op, &[x, w])?])
}

/// What a product reads out of a node of that name with a constant for each column: the operand, the constant, and the constant weights.
fn by_column(rw: &Rewriter<'_>, n: NodeId, name: &str) -> Option<(ValueId, Vec<f64>, Tensor)> {
    let y = rw.input(n, 0)?;
    let inner = rw.made_by(y, name).filter(|_| rw.used_once(y))?;
    let (x, c, w) = (rw.input(inner, 0)?, rw.input(inner, 1)?, matrix(rw, rw.input(n, 1)?)?);
    let rank = rw.shape(y).len();
    let c = along(rw.constant(c)?, rank, rank - 1, w.dims[w.dims.len() - 2])?;
    (rw.ty(x) == rw.ty(y)).then_some((x, c, w))
}

fn scale_input(rw: &mut Rewriter<'_>, n: NodeId, name: &str, f: fn(f64, f64) -> f64) -> Found {
    let (x, c, w) = by_column(rw, n, name)?;
    let (rows, columns) = (w.dims[w.dims.len() - 2], w.dims[w.dims.len() - 1]);
    let mut v = w.to_f64s()?;
    v.iter_mut().enumerate().for_each(|(i, x)| *x = f(*x, c[i / columns % rows]));
    let w = rounded(&w.dims, &v, w.dtype)?;
    let w = rw.tensor(w);
    let op = rw.node(n).op.clone();
    Some(vec![rw.add(op, &[x, w])?])
}

fn shift_input(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let (x, c, w) = by_column(rw, n, "Add")?;
    let [_, columns] = w.dims[..] else { return None };
    let mut sums = vec![0.0; columns];
    w.to_f64s()?.into_iter().enumerate().for_each(|(i, v)| sums[i % columns] += c[i / columns] * v);
    let b = crate::eval::from_f64s(&[columns], &sums, w.dtype);
    if !b.to_f64s()?.iter().all(|v| v.is_finite()) {
        return None;
    }
    let (b, op, w) = (rw.tensor(b), rw.node(n).op.clone(), rw.input(n, 1)?);
    let y = rw.add(op, &[x, w])?;
    Some(vec![rw.pointwise("Add", &[y, b])?])
}

fn diagonal(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let (x, w) = (rw.input(n, 0)?, rw.input(n, 1)?);
    let t = rw.constant(w).filter(|t| folds(t.dtype))?;
    let [rows, columns] = t.dims[..] else { return None };
    let size = t.dtype.size();
    // Zeros of either sign; most weights have something else in their second element.
    let zero = |b: &[u8]| b[size - 1] & 0x7f == 0 && b[..size - 1].iter().all(|b| *b == 0);
    if rows != columns || rows == 0 || !t.bytes().chunks(size).enumerate().all(|(i, b)| i / columns == i % columns || zero(b)) {
        return None;
    }
    let d: Vec<f64> = t.to_f64s()?.into_iter().step_by(columns + 1).collect();
    if d.iter().all(|d| *d == 1.0) {
        return Some(vec![x]);
    }
    let d = crate::eval::from_f64s(&[rows], &d, t.dtype);
    let d = rw.tensor(d);
    Some(vec![rw.pointwise("Mul", &[x, d])?])
}

fn shares(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let y = rw.input(n, 0)?;
    let half = rw.dtype(rw.node(n).outputs[0]);
    let product = rw.made_by(y, "MatMul").filter(|_| matches!(half, DType::F16 | DType::Bf16) && rw.dtype(y) == DType::F32)?;
    let (p, v) = (rw.input(product, 0)?, rw.input(product, 1)?);
    let widened = rw.made_by(p, "Cast")?;
    let stored = rw.input(widened, 0).filter(|s| rw.dtype(*s) == half)?;
    let rounds = rw.made_by(stored, "Cast")?;
    let shares = rw.input(rounds, 0).filter(|s| rw.dtype(*s) == DType::F32)?;
    let softmax = rw.producer(shares)?;
    let Op::Softmax(op) = rw.node(softmax).op.clone() else { return None };
    if op.mode != softmax_of(half) || [y, p, stored, shares].iter().any(|v| !rw.used_once(*v)) {
        return None;
    }
    let x = rw.input(softmax, 0)?;
    let p = rw.add(Softmax { mode: "softmax", ..op }, &[x])?;
    let op = rw.node(product).op.clone();
    let y = rw.add(op, &[p, v])?;
    Some(vec![rw.add(Pointwise::cast(DType::F32, half), &[y])?])
}

#[cfg(test)]
pub(in crate::rewrite) mod tests {
    use super::*;
    use crate::ops::matmul::MatMul;
    use crate::rewrite::tests::{Case, Example, refused};

    /// Operand and weights of a product, and its extents m, k, n.
    fn operands(c: &mut Case) -> (ValueId, ValueId, [usize; 3]) {
        let [m, k, n] = [c.rng.below(5), 1 + c.rng.below(5), 1 + c.rng.below(5)];
        let rank = c.rng.below(2);
        let batch = c.shape(rank);
        let d = c.wide();
        let x = c.input(d, &[batch.clone(), vec![m, k]].concat());
        let shape = if c.rng.below(2) == 0 { [batch, vec![k, n]].concat() } else { vec![k, n] };
        let w = c.factor(d, &shape);
        (x, w, [m, k, n])
    }
    fn columns(c: &mut Case, like: ValueId, n: usize) -> ValueId {
        let (d, shape) = (c.g.dtype(like), c.rng.below(3));
        c.factor(d, &[vec![], vec![n], vec![1, n]][shape])
    }
    fn followed(c: &mut Case, name: &'static str) {
        let (x, w, [_, _, n]) = operands(c);
        let y = c.op(MatMul, &[x, w]);
        let k = columns(c, x, n);
        let z = c.pointwise(name, &[y, k]);
        c.output(z);
    }

    fn preceded(c: &mut Case, name: &'static str) {
        let (x, mut w, [_, k, n]) = operands(c);
        if name == "Add" {
            w = c.factor(c.g.dtype(x), &[k, n]);
        }
        let s = columns(c, x, k);
        let y = c.pointwise(name, &[x, s]);
        let z = c.op(MatMul, &[y, w]);
        c.output(z);
    }

    /// A product with a square matrix of those elements.
    fn diagonal_of(c: &mut Case, n: usize, element: impl Fn(&mut Case, usize, usize) -> f64) {
        let (d, rank) = (c.wide(), c.rng.below(3));
        let shape = [c.shape(rank), vec![3, n]].concat();
        let x = c.input(d, &shape);
        let w: Vec<f64> = (0..n * n).map(|k| element(c, k / n, k % n)).collect();
        let w = c.g.add_constant(crate::eval::from_f64s(&[n, n], &w, d), "");
        let y = c.op(MatMul, &[x, w]);
        c.output(y);
    }

    #[test]
    fn a_matrix_with_something_beside_the_diagonal_stays() {
        refused("matmul-diagonal", |c| diagonal_of(c, 3, |_, i, j| if i == j || (i, j) == (2, 1) { 1.0 } else { 0.0 }));
    }

    pub(in crate::rewrite) const EXAMPLES: &[Example] = &[
        ("matmul-mul", |c| followed(c, "Mul")),
        ("matmul-div", |c| followed(c, "Div")),
        ("matmul-input-mul", |c| preceded(c, "Mul")),
        ("matmul-input-div", |c| preceded(c, "Div")),
        ("matmul-input-add", |c| preceded(c, "Add")),
        ("matmul-diagonal", |c| {
            let n = 1 + c.rng.below(4);
            let ones = c.rng.below(2) == 0;
            diagonal_of(c, n, |c, i, j| match (i == j, ones) {
                (false, _) => c.rng.pick(&[0.0, -0.0]),
                (true, true) => 1.0,
                (true, false) => c.rng.pick(&[0.5, -2.0, 3.0, 0.0]),
            });
        }),
        ("matmul-shares", |c| {
            let half = c.rng.pick(&[DType::F16, DType::Bf16]);
            let [m, k, n] = [1 + c.rng.below(4), 1 + c.rng.below(6), 1 + c.rng.below(4)];
            let (x, v) = (c.input(DType::F32, &[m, k]), c.factor(DType::F32, &[k, n]));
            let s = c.op(Softmax { axis: 1, mode: softmax_of(half) }, &[x]);
            let stored = c.op(Pointwise::cast(DType::F32, half), &[s]);
            let p = c.op(Pointwise::cast(half, DType::F32), &[stored]);
            let y = c.op(MatMul, &[p, v]);
            let y = c.op(Pointwise::cast(DType::F32, half), &[y]);
            c.hand_out(y);
        }),
    ];
}
