//! Examples of the rules about operators that move elements.

use super::*;
use crate::ops::gather::Gather;
use crate::ops::matmul::MatMul;
use crate::ops::movement::Split;
use crate::ops::pad::{Pad, Tile};
use crate::rewrite::tests::{Case, Example};
use kiln_kernels::value::Tensor;

const ANY: &[DType] = &[DType::F32, DType::F64, DType::I64, DType::U8, DType::F16];

fn closed(dims: &[usize]) -> Vec<Dim> {
    dims.iter().map(|d| (*d).into()).collect()
}
fn shuffled(c: &mut Case, rank: usize) -> Vec<usize> {
    let mut perm: Vec<usize> = (0..rank).collect();
    (1..rank).for_each(|i| perm.swap(i, c.rng.below(i + 1)));
    perm
}
/// An input, with open extents now and then.
fn given(c: &mut Case, dims: &[usize]) -> ValueId {
    let d = c.rng.pick(ANY);
    if c.rng.below(3) == 0 { c.open(d, dims) } else { c.input(d, dims) }
}
fn part(c: &mut Case, dims: &[usize]) -> (Slice, Vec<usize>) {
    let mut op = Slice { starts: vec![], steps: vec![], sizes: vec![], bounds: vec![] };
    let mut sizes = Vec::new();
    for &d in dims {
        let step = c.rng.pick(&[1, 2, -1, -2]);
        let start = if d == 0 { 0 } else { c.rng.below(d) as i64 };
        let room = if d == 0 {
            0
        } else if step > 0 {
            (d as i64 - start + step - 1) / step
        } else {
            start / -step + 1
        };
        let size = c.rng.below(room as usize + 1);
        op.starts.push(Dim::int(start));
        op.steps.push(step);
        op.sizes.push(size.into());
        sizes.push(size);
    }
    (op, sizes)
}
/// Shapes of tensors to stand side by side along an axis.
fn beside(c: &mut Case, n: usize) -> (usize, Vec<Vec<usize>>) {
    let rank = 1 + c.rng.below(3);
    let (axis, shape) = (c.rng.below(rank), c.shape(rank));
    let shapes = (0..n).map(|_| {
        let mut s = shape.clone();
        s[axis] = c.rng.below(4);
        s
    });
    (axis, shapes.collect())
}
fn inputs(c: &mut Case, shapes: &[Vec<usize>]) -> Vec<ValueId> {
    let d = c.rng.pick(ANY);
    shapes.iter().map(|s| c.input(d, s)).collect()
}

pub(in crate::rewrite) const EXAMPLES: &[Example] = &[
    ("transpose-none", |c| {
        let shape = c.any_shape();
        let x = given(c, &shape);
        let y = c.op(Transpose { perm: (0..shape.len()).collect() }, &[x]);
        c.output(y);
    }),
    ("transpose-transpose", |c| {
        let shape = c.any_shape();
        let (p, q, x) = (shuffled(c, shape.len()), shuffled(c, shape.len()), given(c, &shape));
        let y = c.op(Transpose { perm: q }, &[x]);
        let z = c.op(Transpose { perm: p }, &[y]);
        c.output(z);
    }),
    ("transpose-units", |c| {
        let rank = c.rng.below(5);
        let long = c.rng.below(rank + 1);
        let shape: Vec<usize> = (0..rank).map(|i| if i == long { 4 } else { 1 }).collect();
        let d = c.rng.pick(ANY);
        let (p, x) = (shuffled(c, rank), c.input(d, &shape));
        let y = c.op(Transpose { perm: p }, &[x]);
        c.output(y);
    }),
    ("reshape-none", |c| {
        let shape = c.any_shape();
        let x = given(c, &shape);
        let y = c.op(Reshape { shape: c.g.shape(x).to_vec() }, &[x]);
        c.output(y);
    }),
    ("reshape-reshape", |c| {
        let shape = c.any_shape();
        let x = given(c, &shape);
        let all = crate::ir::product(c.g.shape(x));
        let mut longer = c.g.shape(x).to_vec();
        longer.push(Dim::int(1));
        let y = c.op(Reshape { shape: vec![all] }, &[x]);
        let z = c.op(Reshape { shape: longer }, &[y]);
        c.output(z);
    }),
    ("expand-none", |c| {
        let shape = c.any_shape();
        let x = given(c, &shape);
        let y = c.op(Expand { shape: c.g.shape(x).to_vec() }, &[x]);
        c.output(y);
    }),
    ("expand-expand", |c| {
        let shape = c.any_shape();
        let wide = c.narrower(&shape);
        let narrow = c.narrower(&wide);
        let d = c.rng.pick(ANY);
        let x = c.input(d, &narrow);
        let y = c.op(Expand { shape: closed(&wide) }, &[x]);
        let z = c.op(Expand { shape: closed(&shape) }, &[y]);
        c.output(z);
    }),
    ("expand-broadcast", |c| {
        if c.rng.below(3) == 0 {
            let (a, b) = (c.input(DType::F32, &[2, 3]), c.input(DType::F32, &[4, 3, 5]));
            let e = c.op(Expand { shape: closed(&[4, 2, 3]) }, &[a]);
            let y = c.op(MatMul, &[e, b]);
            return c.output(y);
        }
        let shape = c.any_shape();
        let narrow = c.narrower(&shape);
        let d = c.float();
        let (x, y) = (c.input(d, &shape), c.input(d, &narrow));
        let e = c.op(Expand { shape: closed(&shape) }, &[y]);
        let name = c.rng.pick(&["Add", "Mul", "Sub", "Max"]);
        let z = c.pointwise(name, &[e, x]);
        c.output(z);
    }),
    ("tile-none", |c| {
        let shape = c.any_shape();
        let x = given(c, &shape);
        let y = c.op(Tile { repeats: vec![Dim::int(1); shape.len()] }, &[x]);
        c.output(y);
    }),
    ("pad-none", |c| {
        let shape = c.any_shape();
        let d = c.float();
        let (x, zero) = (c.input(d, &shape), c.filled(d, &[], 0.0));
        let y = c.op(Pad { pads: vec![0; 2 * shape.len()], mode: "constant" }, &[x, zero]);
        c.output(y);
    }),
    ("concat-empty", |c| {
        let (axis, mut shapes) = beside(c, 3);
        let k = c.rng.below(3);
        shapes[k][axis] = 0;
        let parts = inputs(c, &shapes);
        let y = c.op(Concat { axis }, &parts);
        c.output(y);
    }),
    ("concat-one", |c| {
        let (axis, shapes) = beside(c, 1);
        let parts = inputs(c, &shapes);
        let y = c.op(Concat { axis }, &parts);
        c.output(y);
    }),
    ("concat-concat", |c| {
        let (axis, shapes) = beside(c, 4);
        let v = inputs(c, &shapes);
        let inner = c.op(Concat { axis }, &v[1..3]);
        let y = c.op(Concat { axis }, &[v[0], inner, v[3]]);
        c.output(y);
    }),
    ("concat-split", |c| {
        let (axis, shapes) = beside(c, 3);
        let sizes: Vec<usize> = shapes.iter().map(|s| s[axis]).collect();
        let mut whole = shapes[0].clone();
        whole[axis] = sizes.iter().sum();
        let d = c.rng.pick(ANY);
        let x = c.input(d, &whole);
        let v = c.all(Split { axis, sizes: closed(&sizes) }, &[x], 3);
        let y = c.op(Concat { axis }, &v);
        c.output(y);
    }),
    ("split-one", |c| {
        let (axis, shapes) = beside(c, 1);
        let v = inputs(c, &shapes);
        let y = c.op(Split { axis, sizes: closed(&shapes[0][axis..=axis]) }, &v);
        c.output(y);
    }),
    ("split-concat", |c| {
        let (axis, shapes) = beside(c, 3);
        let v = inputs(c, &shapes);
        let x = c.op(Concat { axis }, &v);
        let sizes: Vec<usize> = shapes.iter().map(|s| s[axis]).collect();
        for y in c.all(Split { axis, sizes: closed(&sizes) }, &[x], 3) {
            c.output(y);
        }
    }),
    ("slice-none", |c| {
        let shape = c.any_shape();
        let x = given(c, &shape);
        let y = c.op(Slice::whole(c.g.shape(x)), &[x]);
        c.output(y);
    }),
    ("slice-slice", |c| {
        let shape = c.any_shape();
        let d = c.rng.pick(ANY);
        let x = c.input(d, &shape);
        let (first, sizes) = part(c, &shape);
        let (second, _) = part(c, &sizes);
        let y = c.op(first, &[x]);
        let z = c.op(second, &[y]);
        c.output(z);
    }),
    ("pointwise-reshape", |c| {
        let shape: Vec<usize> = (0..3).map(|_| 1 + c.rng.below(4)).collect();
        let (x, y) = (c.input(DType::F32, &[shape[0] * shape[1], shape[2]]), c.input(DType::F32, &shape));
        let a = c.pointwise("Neg", &[x]);
        let to = shape.iter().map(|d| Dim::int(*d as i64)).collect();
        let a = c.op(Reshape { shape: to }, &[a]);
        let k = c.filled(DType::F32, &[], 1.5);
        let z = match c.rng.below(3) {
            0 => c.pointwise("Sub", &[y, a]),
            1 => c.pointwise("Mul", &[a, k]),
            _ => c.pointwise("Abs", &[a]),
        };
        c.output(z);
    }),
    // Beside an operand that is repeated, where the shape only has more axes of one element.
    ("pointwise-reshape", |c| {
        let shape: Vec<usize> = (0..2).map(|_| c.rng.pick(&[0, 1, 2, 3])).collect();
        let x = c.input(DType::F32, &shape);
        let a = c.pointwise("Neg", &[x]);
        let mut wide = shape;
        for _ in 0..1 + c.rng.below(2) {
            wide.insert(c.rng.below(wide.len() + 1), 1);
        }
        let a = c.op(Reshape { shape: wide.iter().map(|d| (*d).into()).collect() }, &[a]);
        let own = c.narrower(&wide);
        let y = c.input(DType::F32, &own);
        let z = c.pointwise("Mul", &[a, y]);
        c.output(z);
    }),
    ("reshape-pointwise", |c| {
        let shape: Vec<usize> = (0..3).map(|_| 1 + c.rng.below(4)).collect();
        let x = c.input(DType::I64, &shape);
        let y = c.op(crate::ops::pointwise::Pointwise::cast(DType::I64, DType::Bool), &[x]);
        let to = vec![Dim::int((shape[0] * shape[1]) as i64), Dim::int(shape[2] as i64)];
        let y = c.op(Reshape { shape: to }, &[y]);
        let z = c.pointwise("Not", &[y]);
        c.output(z);
    }),
    ("and-true-expand", |c| {
        let shape: Vec<usize> = (0..2).map(|_| 1 + c.rng.below(3)).collect();
        let x = c.input(DType::Bool, &[1, shape[1]]);
        let k = c.filled(DType::Bool, &[2, shape[0], 1], 1.0);
        let z = c.pointwise("And", &[x, k]);
        c.output(z);
    }),
    ("pointwise-expand", |c| {
        let shape: Vec<usize> = (0..2).map(|_| 1 + c.rng.below(3)).collect();
        let x = c.input(DType::Bool, &[1, shape[1]]);
        let y = c.op(Expand { shape: vec![Dim::int(2), Dim::int(shape[1] as i64)] }, &[x]);
        let (a, b) = (c.filled(DType::F32, &[], 0.0), c.filled(DType::F32, &[], -3e38));
        let z = c.pointwise("Where", &[y, a, b]);
        c.output(z);
    }),
    ("gather-slice", |c| {
        let rank = 1 + c.rng.below(3);
        let mut shape = c.shape(rank);
        let axis = c.rng.below(rank);
        shape[axis] = 2 + c.rng.below(5);
        let n = shape[axis] as i64;
        let at: Vec<i64> = match c.rng.below(3) {
            0 => vec![-1],
            1 => (0..n).rev().collect(),
            _ => vec![0, n - 1],
        };
        let scalar = at.len() == 1 && c.rng.below(2) == 0;
        let dims = match c.rng.below(2) {
            _ if scalar => vec![],
            0 => vec![1, at.len(), 1],
            _ => vec![at.len()],
        };
        let i = c.g.add_constant(Tensor::new(&dims, &at), "");
        let d = c.rng.pick(ANY);
        let x = c.input(d, &shape);
        let y = c.op(Gather { axis }, &[x, i]);
        c.output(y);
    }),
];
