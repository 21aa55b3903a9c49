//! Operators that change places with resizing, permuting, and products: fewer elements to compute on, or fewer products.

use super::commute::{alone, single, two_products};
use super::{each, scalar};
use crate::ir::{Dim, NodeId, ValueId};
use crate::ops::Op;
use crate::ops::matmul::MatMul;
use crate::ops::movement::{Concat, Slice, Transpose};
use crate::ops::resize::Resize;
use crate::rewrite::{Class, Found, Rewriter, Rule};
use kiln_kernels::dtype::DType;

/// More rules that let operators change places.
#[rustfmt::skip]
pub const RULES: &[Rule] = &[
    Rule { name: "pointwise-resize", on: &["Pointwise/Resize"], equation: "f(Resize(x), Resize(y), c) => Resize(f(x, y, c))  where Resize picks the nearest, and c has one element", class: Class::Exact, apply: pointwise_resize },
    Rule { name: "convolution-resize", on: &["Conv/Resize"], equation: "Conv(Resize(x), w, b) => Resize(Conv(x, w, b))  where Resize picks the nearest, and w is one tap without pads and steps", class: Class::Exact, apply: convolution_resize },
    Rule { name: "slice-transpose", on: &["Slice/Transpose"], equation: "Slice(Transpose(x; p)) => Transpose(Slice(x); p)", class: Class::Exact, apply: slice_transpose },
    Rule { name: "product-depth", on: &["MatMul/Concat"], equation: "Concat(x, y; columns) @ w => x @ Slice(w; rows) + y @ Slice(w; rows)  where w is a weight", class: Class::Reassociating, apply: depth },
    Rule { name: "product-sum-depth", on: &["Add/MatMul"], equation: "x @ u + y @ v => Concat(x, y; columns) @ Concat(u, v; rows)  where u, v are weights", class: Class::Reassociating, apply: sum_depth },
    Rule { name: "scale-product", on: &["MatMul/Mul"], equation: "(x * c) @ y => (x @ y) * c;  x @ (y * c) => (x @ y) * c  where c is one finite constant", class: Class::Reassociating, apply: scale_product },
    Rule { name: "product-scale-left", on: &["Mul/MatMul"], equation: "(x @ y) * c => (x * c) @ y  where c is one finite constant", class: Class::Reassociating, apply: |rw, n| product_scale(rw, n, 0) },
    Rule { name: "product-scale-right", on: &["Mul/MatMul"], equation: "(x @ y) * c => x @ (y * c)  where c is one finite constant", class: Class::Reassociating, apply: |rw, n| product_scale(rw, n, 1) },
];

/// A Resize that gives elements of its operand and nothing else, with that operand.
fn nearest(rw: &Rewriter<'_>, v: ValueId) -> Option<(Resize, ValueId)> {
    let n = rw.made_by(v, "Resize")?;
    match &rw.node(n).op {
        Op::Resize(r) if r.mode == "nearest" && r.coordinates != "tf_crop_and_resize" => Some((r.clone(), rw.input(n, 0)?)),
        _ => None,
    }
}

fn pointwise_resize(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let out = single(rw, n)?;
    // Other types are not resized.
    if !matches!(rw.dtype(out), DType::F32 | DType::F64) {
        return None;
    }
    let shape = rw.shape(out).to_vec();
    let mut resize: Option<(Resize, Vec<Dim>)> = None;
    let inputs = each(rw, n, alone, &mut |rw, v| {
        let (own, x) = nearest(rw, v)?;
        let own = (own, rw.shape(x).to_vec());
        let same = resize.get_or_insert_with(|| own.clone()) == &own && *rw.shape(v) == shape;
        same.then_some(x)
    })?;
    let op = rw.node(n).op.clone();
    let y = rw.add(op, &inputs)?;
    Some(vec![rw.add(resize?.0, &[y])?])
}

fn convolution_resize(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let Op::Conv(conv) = rw.node(n).op.clone() else { return None };
    let y = rw.input(n, 0)?;
    let (resize, x) = nearest(rw, y)?;
    let point = rw.shape(rw.input(n, 1)?).iter().skip(2).all(|d| d.is(1));
    if !point || conv.strides.iter().any(|s| *s != 1) || conv.pads.iter().any(|p| *p != 0) || rw.shape(x)[..2] != rw.shape(y)[..2] {
        return None;
    }
    let shape = rw.shape(single(rw, n)?).to_vec();
    let mut inputs = rw.node(n).inputs.clone();
    inputs[0] = Some(x);
    let z = *rw.add_all(conv.into(), inputs, 1)?.first()?;
    Some(vec![rw.add(Resize { shape, ..resize }, &[z])?])
}

fn slice_transpose(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let Op::Slice(s) = rw.node(n).op.clone() else { return None };
    let inner = rw.made_by(rw.input(n, 0)?, "Transpose")?;
    let (Op::Transpose(Transpose { perm }), x) = (rw.node(inner).op.clone(), rw.input(inner, 0)?) else { return None };
    let mut before = Slice::whole(rw.shape(x));
    for (i, p) in perm.iter().enumerate() {
        (before.starts[*p], before.steps[*p], before.sizes[*p]) = (s.starts[i].clone(), s.steps[i], s.sizes[i].clone());
    }
    before.bounds = s.bounds;
    let y = rw.add(before, &[x])?;
    Some(vec![rw.add(Transpose { perm }, &[y])?])
}

/// Whether a value is a matrix that the model holds.
fn matrix(rw: &Rewriter<'_>, w: ValueId) -> bool {
    rw.given_weight(w) && rw.shape(w).len() == 2
}

/// Summands that one product is taken apart into at most.
const MOST: usize = 4;

fn depth(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let (y, w) = (rw.input(n, 0)?, rw.input(n, 1)?);
    let concat = rw.made_by(y, "Concat")?;
    let whole = rw.shape(y).to_vec();
    let axis = whole.len().checked_sub(1)?;
    let parts: Vec<ValueId> = rw.node(concat).inputs.iter().copied().collect::<Option<_>>()?;
    let along = matches!(&rw.node(concat).op, Op::Concat(c) if c.axis == axis);
    if !along || !matrix(rw, w) || !(2..=MOST).contains(&parts.len()) || parts.iter().any(|v| rw.shape(*v)[..axis] != whole[..axis]) {
        return None;
    }
    let mut at = Dim::int(0);
    let mut sum: Option<ValueId> = None;
    for x in parts {
        let mut rows = Slice::whole(rw.shape(w));
        let size = rw.shape(x)[axis].clone();
        size.as_int()?;
        (rows.starts[0], rows.sizes[0]) = (at.clone(), size.clone());
        at = at + size;
        let rows = rw.add(rows, &[w])?;
        let product = rw.add(MatMul, &[x, rows])?;
        sum = Some(match sum {
            Some(s) => rw.pointwise("Add", &[s, product])?,
            None => product,
        });
    }
    Some(vec![sum?])
}

fn sum_depth(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let [x, u, y, v] = two_products(rw, n)?;
    let axis = rw.shape(x).len().checked_sub(1)?;
    let alike = rw.shape(y).len() == axis + 1 && rw.shape(x)[..axis] == rw.shape(y)[..axis];
    if x == y || !alike || !matrix(rw, u) || !matrix(rw, v) {
        return None;
    }
    let (x, w) = (rw.add(Concat { axis }, &[x, y])?, rw.add(Concat { axis: 0 }, &[u, v])?);
    Some(vec![rw.add(MatMul, &[x, w])?])
}

/// What a constant number is multiplied with, and the number. One that is infinite would make other sums infinite.
fn scaled(rw: &Rewriter<'_>, v: ValueId) -> Option<(ValueId, ValueId)> {
    let mul = rw.made_by(v, "Mul")?;
    let (x, c) = (rw.input(mul, 0)?, rw.input(mul, 1)?);
    let finite = scalar(rw, c) && rw.uniform(c).is_some_and(f64::is_finite);
    (finite && rw.ty(x) == rw.ty(v) && rw.dtype(v).is_float()).then_some((x, c))
}

fn scale_product(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let (a, b) = (rw.input(n, 0)?, rw.input(n, 1)?);
    // Weights take constants in, at no cost.
    if rw.weight(a) || rw.weight(b) {
        return None;
    }
    let (a, b, c) = match (scaled(rw, a), scaled(rw, b)) {
        (Some((x, c)), _) => (x, b, c),
        (None, Some((y, c))) => (a, y, c),
        _ => return None,
    };
    let product = rw.add(MatMul, &[a, b])?;
    Some(vec![rw.pointwise("Mul", &[product, c])?])
}

fn product_scale(rw: &mut Rewriter<'_>, n: NodeId, side: usize) -> Found {
    let (p, c) = scaled(rw, single(rw, n)?)?;
    let product = rw.made_by(p, "MatMul")?;
    let mut operands = [rw.input(product, 0)?, rw.input(product, 1)?];
    if operands.iter().any(|v| rw.weight(*v)) {
        return None;
    }
    operands[side] = rw.pointwise("Mul", &[operands[side], c])?;
    Some(vec![rw.add(MatMul, &operands)?])
}

#[cfg(test)]
pub(in crate::rewrite) mod tests {
    use super::*;
    use crate::ops::conv::Conv;
    use crate::rewrite::tests::{Case, Example, refused};

    const F32: DType = DType::F32;

    fn extents(c: &mut Case, rank: usize) -> Vec<usize> {
        (0..rank).map(|_| 1 + c.rng.below(4)).collect()
    }
    /// A Resize of the spatial axes of an image, to twice or half of its extents or to something between.
    fn resize(c: &mut Case, mode: &'static str) -> Resize {
        let (h, w) = c.rng.pick(&[(8, 6), (4, 3), (2, 3), (6, 5)]);
        Resize {
            shape: [2, 3, h, w].map(Dim::int).to_vec(),
            scales: [1.0, 1.0, h as f32 / 4.0, w as f32 / 3.0].map(|s| s.into()).to_vec(),
            roi: vec![],
            mode,
            coordinates: c.rng.pick(&["asymmetric", "half_pixel", "align_corners"]),
            nearest: c.rng.pick(&["floor", "round_prefer_floor", "ceil"]),
            cubic: (-0.75).into(),
            extrapolation: 0.0.into(),
            exclude: false,
        }
    }
    fn image(c: &mut Case) -> ValueId {
        c.input(F32, &[2, 3, 4, 3])
    }
    fn resized_then(c: &mut Case, mode: &'static str) {
        let (x, y, op) = (image(c), image(c), resize(c, mode));
        let (a, b) = (c.op(op.clone(), &[x]), c.op(op, &[y]));
        let k = c.filled(F32, &[], 1.5);
        let z = match c.rng.below(3) {
            0 => c.pointwise("Add", &[a, b]),
            1 => c.pointwise("Mul", &[a, k]),
            _ => c.pointwise("Sigmoid", &[a]),
        };
        c.output(z);
    }
    fn convolved(c: &mut Case, kernel: usize, stride: i64) {
        let (x, op) = (image(c), resize(c, "nearest"));
        let y = c.op(op, &[x]);
        let mut inputs = vec![y, c.factor(F32, &[7, 3, kernel, kernel])];
        if c.rng.below(2) == 0 {
            inputs.push(c.factor(F32, &[7]));
        }
        let z = c.op(Conv { strides: vec![stride; 2], pads: vec![0; 4], dilations: vec![1; 2], groups: 1 }, &inputs);
        c.output(z);
    }
    /// Two inputs of one product, alike but for the last extent, and matrices that they are multiplied with.
    fn two(c: &mut Case) -> [ValueId; 4] {
        let (rank, k) = (1 + c.rng.below(2), [1 + c.rng.below(4), 1 + c.rng.below(4)]);
        let rows = extents(c, rank);
        let [x, y] = k.map(|k| c.input(F32, &[rows.clone(), vec![k]].concat()));
        let [u, v] = k.map(|k| c.factor(F32, &[k, 17]));
        [x, u, y, v]
    }
    fn pair(c: &mut Case) -> (ValueId, ValueId, ValueId) {
        let [m, k, n] = [(); 3].map(|_| 1 + c.rng.below(4));
        (c.input(F32, &[2, m, k]), c.input(F32, &[2, k, n]), c.factor(F32, &[]))
    }
    fn product_scaled(c: &mut Case) {
        let (x, y, k) = pair(c);
        let p = c.op(MatMul, &[x, y]);
        let z = c.pointwise("Mul", &[p, k]);
        c.output(z);
    }

    pub(in crate::rewrite) const EXAMPLES: &[Example] = &[
        ("pointwise-resize", |c| resized_then(c, "nearest")),
        ("convolution-resize", |c| convolved(c, 1, 1)),
        ("slice-transpose", |c| {
            let rank = 2 + c.rng.below(2);
            let shape = extents(c, rank);
            let mut perm: Vec<usize> = (0..rank).collect();
            (1..rank).for_each(|i| perm.swap(i, c.rng.below(i + 1)));
            let x = c.input(F32, &shape);
            let y = c.op(Transpose { perm }, &[x]);
            let mut s = Slice::whole(c.g.shape(y));
            let axis = c.rng.below(rank);
            let last = s.sizes[axis].clone() - Dim::int(1);
            (s.starts[axis], s.steps[axis], s.sizes[axis]) = (last, -1, Dim::int(1));
            let z = c.op(s, &[y]);
            c.output(z);
        }),
        ("product-depth", |c| {
            let [x, _, y, _] = two(c);
            let axis = c.g.shape(x).len() - 1;
            let z = c.op(Concat { axis }, &[x, y]);
            let k = c.g.shape(z)[axis].as_int().unwrap() as usize;
            let w = c.factor(F32, &[k, 17]);
            let z = c.op(MatMul, &[z, w]);
            c.output(z);
        }),
        ("product-sum-depth", |c| {
            let [x, u, y, v] = two(c);
            let (a, b) = (c.op(MatMul, &[x, u]), c.op(MatMul, &[y, v]));
            let z = c.pointwise("Add", &[a, b]);
            c.output(z);
        }),
        ("scale-product", |c| {
            let (x, y, k) = pair(c);
            let z = match c.rng.below(2) {
                0 => {
                    let x = c.pointwise("Mul", &[x, k]);
                    c.op(MatMul, &[x, y])
                }
                _ => {
                    let y = c.pointwise("Mul", &[y, k]);
                    c.op(MatMul, &[x, y])
                }
            };
            c.output(z);
        }),
        ("product-scale-left", product_scaled),
        ("product-scale-right", product_scaled),
    ];

    #[test]
    fn what_would_compute_something_else_stays() {
        // Between pixels, a function that is not linear gives something else.
        refused("pointwise-resize", |c| resized_then(c, "linear"));
        // More than one tap sees neighbours; a step skips some.
        refused("convolution-resize", |c| convolved(c, 2, 1));
        refused("convolution-resize", |c| convolved(c, 1, 2));
        // A factor that may be infinite; a factor for each row.
        refused("scale-product", |c| {
            let (x, y, _) = pair(c);
            let k = c.input(F32, &[]);
            let x = c.pointwise("Mul", &[x, k]);
            let z = c.op(MatMul, &[x, y]);
            c.output(z);
        });
        refused("scale-product", |c| {
            let (x, y, _) = pair(c);
            let m = c.g.shape(x)[1].as_int().unwrap() as usize;
            let k = c.input(F32, &[m, 1]);
            let x = c.pointwise("Mul", &[x, k]);
            let z = c.op(MatMul, &[x, y]);
            c.output(z);
        });
    }
}
