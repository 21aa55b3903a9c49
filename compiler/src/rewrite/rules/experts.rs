//! Products with matrices that indices pick out of a constant, as mixtures of experts have them for each token: what is picked is read
//! where it lies, and never copied.

use crate::ir::{Dim, NodeId, ValueId, product};
use crate::ops::matmul::GatherMatMul;
use crate::ops::movement::{Expand, Transpose};
use crate::ops::{Op, shape::Reshape};
use crate::rewrite::{Class, Found, Rewriter, Rule};
use kiln_kernels::dtype::DType;

/// Rules about mixtures of experts.
#[rustfmt::skip]
pub const RULES: &[Rule] = &[
    Rule { name: "gather-matmul", on: &["MatMul"], equation: "x @ Gather(w, i) => GatherMatMul(x, w, i);  Gather(w, i) @ x likewise, of one column  where w is a constant of matrices, and what is gathered is perhaps transposed, or columns of several matrices are put side by side for one row", class: Class::Exact, apply: product_of_gathered },
];

/// Moves between a Gather and a product, at most.
const MOST_MOVES: usize = 8;

/// Matrices picked out of a constant, and moved.
struct Gathered {
    /// The constant, `[E, A, B]`.
    w: ValueId,
    /// The indices.
    i: ValueId,
    /// For each axis of the value the axes of the gathered that are merged in it, but those of one element: first those of the indices, then
    /// those of the matrices.
    axes: Vec<Vec<usize>>,
    /// Extents of the axes of the gathered.
    extents: Vec<Dim>,
}

/// What a value is of, where it is gathered along the first axis of a constant, and axes are only permuted, split and merged.
fn gathered(rw: &Rewriter<'_>, v: ValueId, moves: usize) -> Option<Gathered> {
    let n = rw.producer(v)?;
    let x = rw.input(n, 0)?;
    match &rw.node(n).op {
        Op::Gather(op) if op.axis == 0 && rw.constant(x).is_some() && rw.shape(x).len() == 3 => {
            let extents = rw.shape(v).to_vec();
            let axes = extents.iter().enumerate().map(|(a, d)| if d.is(1) { vec![] } else { vec![a] }).collect();
            Some(Gathered { w: x, i: rw.input(n, 1)?, axes, extents })
        }
        Op::Transpose(t) if moves > 0 => {
            let mut inner = gathered(rw, x, moves - 1)?;
            inner.axes = t.perm.iter().map(|p| inner.axes.get(*p).cloned()).collect::<Option<_>>()?;
            Some(inner)
        }
        Op::Reshape(_) if moves > 0 => {
            let mut inner = gathered(rw, x, moves - 1)?;
            let mut left = inner.axes.concat().into_iter();
            let mut axes = Vec::new();
            for d in rw.shape(v) {
                let (mut merged, mut extent) = (Vec::new(), Dim::int(1));
                while extent != *d {
                    let axis = left.next()?;
                    extent = extent * inner.extents[axis].clone();
                    merged.push(axis);
                }
                axes.push(merged);
            }
            inner.axes = axes;
            left.next().is_none().then_some(inner)
        }
        _ => None,
    }
}

/// The axes of the indices whose matrices stand side by side in an axis of columns, and whether those are the last axis of the matrices.
fn columns(g: &Gathered, depth: &[usize], wide: &[usize]) -> Option<(Vec<usize>, bool)> {
    let first = g.extents.len() - 2;
    let (own, group) = wide.split_last()?;
    let straight = match (depth, *own) {
        ([k], n) if (*k, n) == (first, first + 1) => true,
        ([k], n) if (*k, n) == (first + 1, first) => false,
        _ => return None,
    };
    Some((group.to_vec(), straight))
}

fn product_of_gathered(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let (a, b, y) = (rw.input(n, 0)?, rw.input(n, 1)?, *rw.node(n).outputs.first()?);
    if rw.dtype(y) != DType::F32 {
        return None;
    }
    let (g, x, weights, left) = match gathered(rw, b, MOST_MOVES) {
        Some(g) => (g, a, b, false),
        None => (gathered(rw, a, MOST_MOVES)?, b, a, true),
    };
    let rank = g.axes.len();
    let (rows, last) = (&g.axes[rank - 2], &g.axes[rank - 1]);
    let (depth, wide) = if left { (last, rows) } else { (rows, last) };
    let Some((group, straight)) = columns(&g, depth, wide) else {
        return rw.refuse("the axes of the matrices are mixed with those of the indices, or have one element");
    };
    // The product's own batch is that of the indices, in their order.
    let shape = rw.shape(y).to_vec();
    let batch = rw.shape(weights)[..rank - 2].to_vec();
    let order = [&g.axes[..rank - 2].concat()[..], &group].concat();
    if shape.len() != rank || shape[..rank - 2] != batch[..] || !order.is_sorted() {
        return rw.refuse("the operand has more axes than the indices, or those are permuted");
    }
    let own = rw.shape(x).to_vec();
    let (outer, two) = own.split_at(own.len() - 2);
    let (height, k) = if left { (&two[1], &two[0]) } else { (&two[0], &two[1]) };
    if !height.is(1) && (left || !group.is_empty()) {
        return rw.refuse("several rows are multiplied with matrices that stand side by side");
    }
    let beside: Vec<Dim> = group.iter().map(|a| g.extents[*a].clone()).collect();
    // The operand as rows, with an index for each.
    let reshaped = |rw: &mut Rewriter<'_>, v: ValueId, shape: Vec<Dim>| match rw.shape(v) == shape {
        true => Some(v),
        false => rw.add(Reshape { shape }, &[v]),
    };
    let (x, i) = match height.is(1) {
        true => {
            let ones = vec![Dim::int(1); beside.len()];
            let x = reshaped(rw, x, [outer, &ones, std::slice::from_ref(k)].concat())?;
            (x, reshaped(rw, g.i, [&batch[..], &beside].concat())?)
        }
        false => {
            let i = reshaped(rw, g.i, [&batch[..], &[Dim::int(1)]].concat())?;
            (x, rw.add(Expand { shape: [&batch[..], std::slice::from_ref(height)].concat() }, &[i])?)
        }
    };
    let w = if straight { g.w } else { rw.add(Transpose { perm: vec![0, 2, 1] }, &[g.w])? };
    debug_assert!(product(&batch) * product(&beside) == product(rw.shape(g.i)), "every index is one of the product's");
    let z = rw.add(GatherMatMul, &[x, w, i])?;
    Some(vec![reshaped(rw, z, shape)?])
}

#[cfg(test)]
pub(in crate::rewrite) mod tests {
    use super::*;
    use crate::ops::gather::Gather;
    use crate::ops::matmul::MatMul;
    use crate::rewrite::tests::{Case, Example, refused};
    use kiln_kernels::value::Tensor;

    const F32: DType = DType::F32;

    /// Indices of some matrices, negative ones among them, and what they pick from `[count, rows, columns]`.
    fn picked(c: &mut Case, shape: &[usize], [rows, columns]: [usize; 2]) -> ValueId {
        let count = 1 + c.rng.below(4);
        let w = c.constant(F32, &[count, rows, columns]);
        let i: Vec<i64> = (0..shape.iter().product()).map(|_| c.rng.below(2 * count) as i64 - count as i64).collect();
        let i = match c.rng.below(2) {
            0 => Tensor::new(shape, &i),
            _ => Tensor::new(shape, &i.iter().map(|i| *i as i32).collect::<Vec<_>>()),
        };
        let i = c.given(i);
        c.op(Gather { axis: 0 }, &[w, i])
    }
    fn reshape(c: &mut Case, v: ValueId, shape: &[usize]) -> ValueId {
        c.op(Reshape { shape: shape.iter().map(|d| (*d).into()).collect() }, &[v])
    }
    fn multiplied(c: &mut Case, a: ValueId, b: ValueId) {
        let y = c.op(MatMul, &[a, b]);
        c.output(y);
    }
    /// Tokens, experts of each, depth and columns.
    fn sizes(c: &mut Case) -> [usize; 4] {
        [c.rng.pick(&[1, 1, 2, 5]), 1 + c.rng.below(3), 2 + c.rng.below(5), 2 + c.rng.below(5)]
    }

    pub(in crate::rewrite) const EXAMPLES: &[Example] = &[
        // One row for each index, or the same for all of a token.
        ("gather-matmul", |c| {
            let [t, e, k, n] = sizes(c);
            let w = picked(c, &[t, e], [k, n]);
            let own = c.rng.pick(&[1, e]);
            let m = c.rng.pick(&[1, 1, 3]);
            let x = c.input(F32, &[t, own, m, k]);
            multiplied(c, x, w);
        }),
        // Transposed matrices, of all tokens in a row.
        ("gather-matmul", |c| {
            let [t, e, k, n] = sizes(c);
            let mut w = picked(c, &[t, e], [n, k]);
            if c.rng.below(2) == 0 {
                w = c.op(Transpose { perm: vec![0, 1, 3, 2] }, &[w]);
                w = reshape(c, w, &[t * e, k, n]);
            } else {
                w = reshape(c, w, &[t * e, n, k]);
                w = c.op(Transpose { perm: vec![0, 2, 1] }, &[w]);
            }
            let x = c.input(F32, &[t * e, 1, k]);
            multiplied(c, x, w);
        }),
        // The matrices on the left, their rows one below the other.
        ("gather-matmul", |c| {
            let [t, e, k, n] = sizes(c);
            let w = picked(c, &[t, e], [n, k]);
            let w = reshape(c, w, &[t, e * n, k]);
            let x = c.input(F32, &[t, k, 1]);
            multiplied(c, w, x);
        }),
        // Columns of several matrices, side by side.
        ("gather-matmul", |c| {
            let [t, e, k, n] = sizes(c);
            let w = picked(c, &[t, e], [n, k]);
            let w = c.op(Transpose { perm: vec![0, 3, 1, 2] }, &[w]);
            let w = reshape(c, w, &[t, k, e * n]);
            let x = c.input(F32, &[t, 1, k]);
            multiplied(c, x, w);
        }),
        // One matrix for all rows.
        ("gather-matmul", |c| {
            let [_, _, k, n] = sizes(c);
            let w = picked(c, &[], [k, n]);
            let x = c.input(F32, &[3, k]);
            multiplied(c, x, w);
        }),
    ];

    #[test]
    fn other_products_stay() {
        // More axes than the indices have.
        refused("gather-matmul", |c| {
            let w = picked(c, &[1], [3, 4]);
            let x = c.input(F32, &[5, 2, 3]);
            multiplied(c, x, w);
        });
        // The indices are permuted.
        refused("gather-matmul", |c| {
            let w = picked(c, &[2, 3], [4, 5]);
            let w = c.op(Transpose { perm: vec![1, 0, 2, 3] }, &[w]);
            let x = c.input(F32, &[3, 2, 1, 4]);
            multiplied(c, x, w);
        });
        // The depth runs over several matrices.
        refused("gather-matmul", |c| {
            let w = picked(c, &[2, 3], [4, 5]);
            let w = reshape(c, w, &[2, 12, 5]);
            let x = c.input(F32, &[2, 1, 12]);
            multiplied(c, x, w);
        });
        // Several rows, and columns of several matrices.
        refused("gather-matmul", |c| {
            let w = picked(c, &[2, 3], [4, 5]);
            let w = c.op(Transpose { perm: vec![0, 2, 1, 3] }, &[w]);
            let w = reshape(c, w, &[2, 4, 15]);
            let x = c.input(F32, &[2, 2, 4]);
            multiplied(c, x, w);
        });
    }
}
