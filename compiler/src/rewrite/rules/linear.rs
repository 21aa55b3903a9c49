//! Parts, means and rows of products and convolutions: computed of less, or from weights that are read once.

use super::commute::cut;
use crate::ir::NodeId;
use crate::ops::conv::Conv;
use crate::ops::matmul::MatMul;
use crate::ops::movement::{Concat, Slice};
use crate::ops::{Op, reduce::Reduce};
use crate::rewrite::rules::orders;
use crate::rewrite::{Class, Found, Rewriter, Rule};

/// Rules about operators that are linear, or that leave an axis alone.
#[rustfmt::skip]
pub const RULES: &[Rule] = &[
    Rule { name: "slice-convolution", on: &["Slice/Conv"], equation: "Slice(Conv(x, w, b); channels) => Conv(x, Slice(w), Slice(b))  where w, b are weights, in one group", class: Class::Exact, apply: slice_convolution },
    Rule { name: "slice-softmax", on: &["Slice/Softmax"], equation: "Slice(Softmax(x)) => Softmax(Slice(x))  along other axes than the softmax's", class: Class::Exact, apply: slice_softmax },
    Rule { name: "concat-product-rows", on: &["Concat/MatMul"], equation: "Concat(x @ w, y @ w; rows) => Concat(x, y; rows) @ w  where w is a weight", class: Class::Exact, apply: concat_rows },
    Rule { name: "pool-convolution", on: &["Pool/Conv"], equation: "AveragePool(Conv(x, w, b)) => Conv(AveragePool(x), w, b)  where w is one tap without pads and steps, and the pool counts no pads", class: Class::Reassociating, apply: pool_convolution },
    Rule { name: "mean-product", on: &["Reduce/MatMul"], equation: "Mean(x @ w; rows) => Mean(x; rows) @ w  where w is a weight; likewise the sum", class: Class::Reassociating, apply: mean_product },
    Rule { name: "mean-add", on: &["Reduce/Add"], equation: "Mean(x + c) => Mean(x) + c  where c has one element along the axes, and is a weight; likewise the greatest and the least", class: Class::Reassociating, apply: mean_add },
];

fn slice_convolution(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let inner = rw.made_by(rw.input(n, 0)?, "Conv")?;
    let (s, axes) = cut(rw, n)?;
    let Op::Conv(conv) = rw.node(inner).op.clone() else { return None };
    let mut inputs = rw.node(inner).inputs.clone();
    if axes != [1] || conv.groups != 1 || inputs.iter().skip(1).flatten().any(|w| !rw.weight(*w)) || !s.bounds.is_empty() {
        return None;
    }
    for v in inputs.iter_mut().skip(1).flatten() {
        let mut part = Slice::whole(rw.shape(*v));
        (part.starts[0], part.steps[0], part.sizes[0]) = (s.starts[1].clone(), s.steps[1], s.sizes[1].clone());
        *v = rw.add(part, &[*v])?;
    }
    rw.add_all(conv.into(), inputs, 1)
}

fn slice_softmax(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let inner = rw.made_by(rw.input(n, 0)?, "Softmax")?;
    let (s, axes) = cut(rw, n)?;
    let (Op::Softmax(op), x) = (rw.node(inner).op.clone(), rw.input(inner, 0)?) else { return None };
    if axes.contains(&op.axis) {
        return None;
    }
    let x = rw.add(s, &[x])?;
    Some(vec![rw.add(op, &[x])?])
}

fn concat_rows(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let Op::Concat(Concat { axis }) = rw.node(n).op else { return None };
    let (mut rows, mut right) = (Vec::new(), None);
    for v in rw.node(n).inputs.clone() {
        let product = rw.made_by(v?, "MatMul")?;
        let (x, w) = (rw.input(product, 0)?, rw.input(product, 1)?);
        if *right.get_or_insert(w) != w || axis + 1 >= rw.shape(x).len() {
            return None;
        }
        rows.push(x);
    }
    let w = right.filter(|w| rows.len() > 1 && rw.weight(*w) && rw.shape(*w).len() == 2)?;
    let x = rw.add(Concat { axis }, &rows)?;
    Some(vec![rw.add(MatMul, &[x, w])?])
}

/// A convolution of one tap at each pixel.
fn point(rw: &Rewriter<'_>, n: NodeId) -> Option<Conv> {
    let Op::Conv(conv) = &rw.node(n).op else { return None };
    let one = rw.shape(rw.input(n, 1)?).iter().skip(2).all(|d| d.is(1));
    (one && conv.strides.iter().all(|s| *s == 1) && conv.pads.iter().all(|p| *p == 0)).then(|| conv.clone())
}

fn pool_convolution(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let Op::Pool(pool) = rw.node(n).op.clone() else { return None };
    let inner = rw.made_by(rw.input(n, 0)?, "Conv")?;
    let conv = point(rw, inner)?;
    // The mean of a bias is the bias, where every element that counts has it.
    let counted = pool.mode == "average" || (pool.mode == "average_pads" && pool.pads.iter().all(|p| *p == 0));
    if !counted || rw.node(n).outputs.len() != 1 {
        return None;
    }
    let mut inputs = rw.node(inner).inputs.clone();
    let x = inputs.first().copied().flatten()?;
    inputs[0] = Some(rw.add(pool, &[x])?);
    rw.add_all(conv.into(), inputs, 1)
}

fn mean_product(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let Op::Reduce(r) = rw.node(n).op.clone() else { return None };
    let y = rw.input(n, 0)?;
    let product = rw.made_by(y, "MatMul")?;
    let (x, w, rank) = (rw.input(product, 0)?, rw.input(product, 1)?, rw.shape(y).len());
    let kept = if r.keep { rank } else { rank - r.axes.len() };
    let rows = r.axes.iter().all(|a| a + 1 < rank) && kept > 1 && rw.shape(x).len() == rank;
    if !matches!(r.mode, "mean" | "sum") || !rows || r.axes.is_empty() || !rw.weight(w) || rw.shape(w).len() != 2 {
        return None;
    }
    let x = rw.add(r, &[x])?;
    Some(vec![rw.add(MatMul, &[x, w])?])
}

fn mean_add(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let Op::Reduce(r) = rw.node(n).op.clone() else { return None };
    let y = rw.input(n, 0)?;
    let add = rw.made_by(y, "Add")?;
    if !matches!(r.mode, "mean" | "max" | "min") || r.axes.is_empty() || !rw.dtype(y).is_float() {
        return None;
    }
    let (rank, ty) = (rw.shape(y).len(), rw.ty(y).clone());
    for (x, c) in orders(rw, add)? {
        let skip = rank.checked_sub(rw.shape(c).len())?;
        let flat = |a: &usize| *a < skip || rw.shape(c)[a - skip].is(1);
        // Axes that go away would move the constant's others, unless all of them lie behind.
        let placed = r.keep || r.axes.iter().all(|a| *a < skip);
        if rw.weight(c) && *rw.ty(x) == ty && r.axes.iter().all(flat) && placed {
            let x = rw.add(Reduce { ..r }, &[x])?;
            return Some(vec![rw.pointwise("Add", &[x, c])?]);
        }
    }
    None
}

#[cfg(test)]
pub(in crate::rewrite) mod tests {
    use super::*;
    use crate::ir::{Dim, ValueId};
    use crate::ops::pool::Pool;
    use crate::ops::softmax::Softmax;
    use crate::rewrite::tests::{Case, Example, refused};
    use kiln_kernels::dtype::DType;

    const F32: DType = DType::F32;

    fn convolved(c: &mut Case, kernel: usize, outputs: usize) -> ValueId {
        let n = 1 + c.rng.below(2);
        let x = c.input(F32, &[n, 3, 5, 4]);
        let mut inputs = vec![x, c.factor(F32, &[outputs, 3, kernel, kernel])];
        if c.rng.below(2) == 0 {
            inputs.push(c.factor(F32, &[outputs]));
        }
        let op = Conv { strides: vec![1; 2], pads: vec![0; 4], dilations: vec![1; 2], groups: 1 };
        c.op(op, &inputs)
    }
    fn part(c: &mut Case, x: ValueId, axis: usize, (start, step, size): (i64, i64, i64)) -> ValueId {
        let mut s = Slice::whole(c.g.shape(x));
        (s.starts[axis], s.steps[axis], s.sizes[axis]) = (start.into(), step, size.into());
        c.op(s, &[x])
    }
    fn pooled(c: &mut Case, kernel: usize, mode: &'static str, pads: Vec<i64>) {
        let y = convolved(c, kernel, 17);
        let ceil = c.rng.below(2) == 0;
        let op = Pool { mode, kernel: vec![2, 2], strides: vec![2, 2], pads, dilations: vec![1; 2], ceil, column_major: false };
        let z = c.op(op, &[y]);
        c.output(z);
    }
    fn product(c: &mut Case) -> ValueId {
        let [b, m, k] = [1 + c.rng.below(3), 2 + c.rng.below(3), 1 + c.rng.below(4)];
        let (x, w) = (c.input(F32, &[b, m, k]), c.factor(F32, &[k, 17]));
        c.op(MatMul, &[x, w])
    }
    fn plus(c: &mut Case, axes: Vec<usize>, keep: bool, other: &[usize]) {
        let x = c.input(F32, &[2, 4, 17]);
        let k = c.factor(F32, other);
        let y = if c.rng.below(2) == 0 { c.pointwise("Add", &[x, k]) } else { c.pointwise("Add", &[k, x]) };
        let mode = c.rng.pick(&["mean", "max", "min"]);
        let z = c.op(Reduce { mode, axes, keep }, &[y]);
        c.output(z);
    }

    pub(in crate::rewrite) const EXAMPLES: &[Example] = &[
        ("slice-convolution", |c| {
            let kernel = 1 + c.rng.below(3);
            let y = convolved(c, kernel, 17);
            let cut = c.rng.pick(&[(0, 1, 5), (16, -2, 4), (3, 1, 14)]);
            let z = part(c, y, 1, cut);
            c.output(z);
        }),
        ("slice-softmax", |c| {
            let x = c.input(F32, &[3, 4, 5]);
            let axis = c.rng.below(3);
            let y = c.op(Softmax { axis, mode: "softmax" }, &[x]);
            let z = part(c, y, (axis + 1) % 3, (2, -1, 2));
            c.output(z);
        }),
        ("concat-product-rows", |c| {
            let [k, b] = [1 + c.rng.below(4), 1 + c.rng.below(3)];
            let w = c.factor(F32, &[k, 17]);
            let axis = c.rng.below(2);
            let parts: Vec<ValueId> = (0..2 + c.rng.below(2))
                .map(|_| {
                    let mut shape = [b, b, k];
                    shape[axis] = 1 + c.rng.below(3);
                    let x = c.input(F32, &shape);
                    c.op(MatMul, &[x, w])
                })
                .collect();
            let y = c.op(Concat { axis }, &parts);
            c.output(y);
        }),
        ("pool-convolution", |c| {
            let (mode, pads) = if c.rng.below(2) == 0 { ("average_pads", vec![0; 4]) } else { ("average", vec![0, 1, 1, 0]) };
            pooled(c, 1, mode, pads);
        }),
        ("mean-product", |c| {
            let y = product(c);
            let (axes, keep) = c.rng.pick(&[(&[1][..], true), (&[0], false), (&[1], false), (&[0, 1], true)]);
            let mode = c.rng.pick(&["mean", "sum"]);
            let z = c.op(Reduce { mode, axes: axes.to_vec(), keep }, &[y]);
            c.output(z);
        }),
        ("mean-add", |c| {
            let (axes, keep, other): (&[usize], bool, &[usize]) =
                c.rng.pick(&[(&[1][..], false, &[17][..]), (&[0, 1], false, &[17]), (&[1], true, &[2, 1, 17]), (&[2], true, &[4, 1])]);
            plus(c, axes.to_vec(), keep, other);
        }),
    ];

    #[test]
    fn what_is_not_linear_there_stays() {
        // A bias would be spread over pads, where it is not; a window of taps sees neighbours.
        refused("pool-convolution", |c| pooled(c, 1, "average_pads", vec![0, 1, 1, 0]));
        refused("pool-convolution", |c| pooled(c, 2, "average", vec![0; 4]));
        refused("pool-convolution", |c| pooled(c, 1, "max", vec![0; 4]));
        // Along the axis of the softmax.
        refused("slice-softmax", |c| {
            let x = c.input(F32, &[3, 4]);
            let y = c.op(Softmax { axis: 1, mode: "softmax" }, &[x]);
            let z = part(c, y, 1, (0, 1, 2));
            c.output(z);
        });
        refused("mean-add", |c| plus(c, vec![1], true, &[4, 17]));
        refused("mean-add", |c| plus(c, vec![1], false, &[2, 1, 17]));
        // Columns are other sums.
        refused("mean-product", |c| {
            let y = product(c);
            let z = c.op(Reduce { mode: "mean", axes: vec![2], keep: true }, &[y]);
            c.output(z);
            assert_eq!(c.g.shape(z)[2], Dim::int(1));
        });
    }
}
