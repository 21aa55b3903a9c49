//! Convolutions whose kernels become one kernel: branches that are added up, and blocks of pixels that were taken apart before.

use super::{SHARED, folds, rounded};
use crate::ir::{Dim, NodeId, ValueId};
use crate::ops::{Op, conv::Conv};
use crate::rewrite::{Class, Found, Rewriter, Rule};
use kiln_kernels::index::{for_each, strides};
use kiln_kernels::value::Tensor;

/// Rules about the kernels of convolutions.
#[rustfmt::skip]
pub const RULES: &[Rule] = &[
    Rule { name: "conv-sum", on: &["Add"], equation: "Conv(x, u, a) + Conv(x, v, b) => Conv(x, u+v, a+b)  where u, v are constant, every tap of v is one of u, and nothing else reads the convolutions", class: Class::Reassociating, apply: sum },
    Rule { name: "conv-blocks", on: &["Conv"], equation: "Conv(Concat(x[i::s], x[j::s], ..), w; t, p) => Conv(x, w'; s*t, s*p)  where the slices are all pixels of a block of s, and w' is w with its channels spread over the block; likewise SpaceToDepth", class: Class::Reassociating, apply: blocks },
];

/// A convolution of constant weights that one node alone reads.
struct Branch {
    op: Conv,
    x: ValueId,
    w: Tensor,
    b: Option<Tensor>,
}

fn branch(rw: &Rewriter<'_>, v: ValueId) -> Option<Branch> {
    let n = rw.made_by(v, "Conv")?;
    let Op::Conv(op) = rw.node(n).op.clone() else { return None };
    if !rw.used_once(v) {
        return rw.refuse("others read the convolution's result too");
    }
    let (x, w) = (rw.input(n, 0)?, constant_weights(rw, rw.input(n, 1)?)?.clone());
    let b = match rw.input(n, 2) {
        Some(b) => Some(rw.constant(b)?.clone()),
        None => None,
    };
    Some(Branch { op, x, w, b })
}

/// The weights of a convolution, where they are known.
pub(super) fn known_weights<'a>(rw: &'a Rewriter<'_>, w: ValueId) -> Option<&'a Tensor> {
    match rw.constant(w).filter(|t| folds(t.dtype) && t.dims.len() > 2) {
        Some(t) => Some(t),
        None => rw.refuse("its weights are no constant floats"),
    }
}

/// The same, where a changed copy of them costs little.
pub(super) fn constant_weights<'a>(rw: &'a Rewriter<'_>, w: ValueId) -> Option<&'a Tensor> {
    let t = known_weights(rw, w)?;
    if rw.uses(w) > 1 && t.len() > SHARED {
        return rw.refuse("its weights are shared, and large");
    }
    Some(t)
}

/// The tap of `a` along each axis at which the first tap of `b` lies, when each tap of `b` is one of `a`.
fn inside(a: &Branch, b: &Branch) -> Option<Vec<usize>> {
    let axes = a.op.strides.len();
    let place = |i: usize| -> Option<usize> {
        let (m, n) = (a.w.dims[2 + i], b.w.dims[2 + i]);
        // One tap has any dilation.
        let step = if m > 1 { a.op.dilations[i] } else { 1 };
        let apart = a.op.pads[i] - b.op.pads[i];
        let first = usize::try_from(apart / step).ok().filter(|_| apart % step == 0)?;
        ((n == 1 || b.op.dilations[i] == step) && first + n <= m).then_some(first)
    };
    (0..axes).map(place).collect()
}

fn sum(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let (p, q) = (rw.input(n, 0)?, rw.input(n, 1)?);
    // Equal types: with the taps where they are, pads behind the last one make no difference.
    if p == q || rw.ty(p) != rw.ty(q) || rw.made_by(p, "Conv").is_none() || rw.made_by(q, "Conv").is_none() {
        return None;
    }
    let (p, q) = (branch(rw, p)?, branch(rw, q)?);
    let alike = p.x == q.x && p.op.groups == q.op.groups && p.op.strides == q.op.strides && p.w.dims[..2] == q.w.dims[..2];
    if !alike || p.w.dtype != q.w.dtype {
        return None;
    }
    let Some((big, small, at)) = inside(&p, &q).map(|at| (&p, &q, at)).or_else(|| inside(&q, &p).map(|at| (&q, &p, at))) else {
        return rw.refuse("neither kernel has all taps of the other");
    };
    let (mut w, v) = (big.w.to_f64s()?, small.w.to_f64s()?);
    let (to, mut k) = (strides(&big.w.dims), 0);
    for_each(&small.w.dims, |i| {
        let place: usize = i.iter().enumerate().map(|(axis, i)| (i + if axis < 2 { 0 } else { at[axis - 2] }) * to[axis]).sum();
        w[place] += v[k];
        k += 1;
    });
    let w = rounded(&big.w.dims, &w, big.w.dtype)?;
    let bias = match (&big.b, &small.b) {
        (Some(a), Some(b)) => {
            let sums: Vec<f64> = a.to_f64s()?.iter().zip(b.to_f64s()?).map(|(a, b)| a + b).collect();
            Some(rounded(&a.dims, &sums, a.dtype)?)
        }
        (a, b) => a.clone().or_else(|| b.clone()),
    };
    let (x, op) = (big.x, big.op.clone());
    let mut inputs = vec![Some(x), Some(rw.tensor(w))];
    if let Some(b) = bias {
        inputs.push(Some(rw.tensor(b)));
    }
    rw.add_all(op.into(), inputs, 1)
}

/// A tensor taken apart into blocks of pixels: what it was, the extents of a block, and for each channel the one it was and the place
/// in the block.
struct Blocks {
    x: ValueId,
    block: Vec<i64>,
    channels: Vec<(usize, Vec<i64>)>,
}

/// Longest side of a block.
const MOST: i64 = 16;

fn extent(d: &Dim) -> Option<usize> {
    usize::try_from(d.as_int()?).ok()
}

/// All pixels of blocks, sliced with steps and put side by side as channels.
fn sliced(rw: &Rewriter<'_>, y: ValueId) -> Option<Blocks> {
    let concat = rw.made_by(y, "Concat")?;
    if !matches!(&rw.node(concat).op, Op::Concat(c) if c.axis == 1) {
        return None;
    }
    let mut found: Option<Blocks> = None;
    for v in rw.node(concat).inputs.clone() {
        let cut = rw.made_by(v?, "Slice")?;
        let (Op::Slice(s), x) = (&rw.node(cut).op, rw.input(cut, 0)?) else { return None };
        let from = rw.shape(x);
        let whole = |i: usize| s.starts[i].is(0) && s.steps[i] == 1 && s.sizes[i] == from[i];
        if !s.bounds.is_empty() || from.len() < 3 || !whole(0) || !whole(1) {
            return None;
        }
        let block = s.steps[2..].to_vec();
        let at: Vec<i64> = s.starts[2..].iter().map(Dim::as_int).collect::<Option<_>>()?;
        let tiles = |i: usize| {
            (1..=MOST).contains(&block[i]) && (0..block[i]).contains(&at[i]) && s.sizes[2 + i].clone() * Dim::int(block[i]) == from[2 + i]
        };
        if !(0..block.len()).all(tiles) {
            return None;
        }
        let count = extent(&from[1])?;
        let b = found.get_or_insert_with(|| Blocks { x, block: block.clone(), channels: vec![] });
        if b.x != x || b.block != block || b.channels.iter().any(|(_, p)| *p == at) {
            return None;
        }
        b.channels.extend((0..count).map(|c| (c, at.clone())));
    }
    let b = found?;
    let channels = extent(&rw.shape(b.x)[1])?;
    (b.channels.len() as i64 == b.block.iter().product::<i64>() * channels as i64).then_some(b)
}

/// Blocks of pixels that a Reshape, a Transpose and a Reshape make channels, in either order of block and channel.
fn unfolded(rw: &Rewriter<'_>, y: ValueId) -> Option<Blocks> {
    let transpose = rw.made_by(rw.input(rw.made_by(y, "Reshape")?, 0)?, "Transpose")?;
    let split = rw.input(transpose, 0)?;
    let x = rw.input(rw.made_by(split, "Reshape")?, 0)?;
    let Op::Transpose(t) = &rw.node(transpose).op else { return None };
    let ([n, c, h, w], [n1, c1, h1, bh, w1, bw]) = (rw.shape(x), rw.shape(split)) else { return None };
    let (bh_, bw_) = (bh.as_int()?, bw.as_int()?);
    let fits = n == n1 && c == c1 && h1.clone() * bh.clone() == *h && w1.clone() * bw.clone() == *w;
    let after = |c: &Dim| [n.clone(), c.clone() * bh.clone() * bw.clone(), h1.clone(), w1.clone()];
    if !fits || rw.shape(y) != after(c) || !(1..=MOST).contains(&bh_) || !(1..=MOST).contains(&bw_) {
        return None;
    }
    let count = extent(c)?;
    let pixels: Vec<Vec<i64>> = (0..bh_ * bw_).map(|k| vec![k / bw_, k % bw_]).collect();
    let channels = match t.perm[..] {
        [0, 3, 5, 1, 2, 4] => pixels.iter().flat_map(|p| (0..count).map(|c| (c, p.clone()))).collect(),
        [0, 1, 3, 5, 2, 4] => (0..count).flat_map(|c| pixels.iter().map(move |p| (c, p.clone()))).collect(),
        _ => return None,
    };
    Some(Blocks { x, block: vec![bh_, bw_], channels })
}

fn blocks(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let y = rw.input(n, 0)?;
    let b = sliced(rw, y).or_else(|| unfolded(rw, y))?;
    if b.block.iter().all(|s| *s == 1) {
        return None;
    }
    let Op::Conv(op) = rw.node(n).op.clone() else { return None };
    if op.groups != 1 || op.dilations.iter().any(|d| *d != 1) {
        return rw.refuse("the convolution has groups or dilations");
    }
    if !rw.used_once(y) {
        return rw.refuse("others read the blocks too");
    }
    let w = constant_weights(rw, rw.input(n, 1)?)?;
    let axes = b.block.len();
    let mut dims = vec![w.dims[0], b.channels.len() / b.block.iter().product::<i64>() as usize];
    dims.extend((0..axes).map(|i| w.dims[2 + i] * b.block[i] as usize));
    let (from, to, mut k) = (w.to_f64s()?, strides(&dims), 0);
    let mut wide = vec![0.0; from.len()];
    for_each(&w.dims, |at| {
        let (channel, place) = &b.channels[at[1]];
        let taps: usize = (0..axes).map(|i| (at[2 + i] * b.block[i] as usize + place[i] as usize) * to[2 + i]).sum();
        wide[at[0] * to[0] + channel * to[1] + taps] = from[k];
        k += 1;
    });
    let w = rounded(&dims, &wide, w.dtype)?;
    let times = |v: &[i64]| -> Option<Vec<i64>> {
        let product = v.iter().enumerate().map(|(i, p)| p.checked_mul(b.block[i % axes]).filter(|p| p.unsigned_abs() <= i32::MAX as u64));
        product.collect()
    };
    let op = Conv { strides: times(&op.strides)?, pads: times(&op.pads)?, ..op };
    let mut inputs = rw.node(n).inputs.clone();
    inputs[0] = Some(b.x);
    inputs[1] = Some(rw.tensor(w));
    rw.add_all(op.into(), inputs, 1)
}

#[cfg(test)]
pub(in crate::rewrite) mod tests {
    use super::*;
    use crate::ops::movement::{Concat, Slice, Transpose};
    use crate::ops::shape::Reshape;
    use crate::rewrite::tests::{Case, Example, refused};
    use kiln_kernels::dtype::DType;

    /// A convolution of a kernel around the middle, dilated and padded so that the extents stay.
    fn branch(c: &mut Case, x: ValueId, m: usize, groups: usize, kernel: [usize; 2], stride: i64, dilation: i64) -> ValueId {
        let per = c.g.shape(x)[1].as_int().unwrap() as usize / groups;
        let d = c.g.dtype(x);
        let mut inputs = vec![x, c.factor(d, &[m, per, kernel[0], kernel[1]])];
        if c.rng.below(2) == 0 {
            inputs.push(c.constant(d, &[m]));
        }
        let pads: Vec<i64> = [0, 1, 0, 1].map(|i| (kernel[i] as i64 - 1) / 2 * dilation).to_vec();
        c.op(Conv { strides: vec![stride; 2], pads, dilations: vec![dilation; 2], groups: groups as i64 }, &inputs)
    }
    fn two_branches(c: &mut Case) -> (ValueId, ValueId) {
        let (d, groups, stride, dilation) = (c.wide(), 1 + c.rng.below(2), 1 + c.rng.below(2) as i64, 1 + c.rng.below(2) as i64);
        let n = c.rng.below(3);
        let x = c.input(d, &[n, 2 * groups, 5, 6]);
        let (m, kernels) = (groups * (1 + c.rng.below(3)), [[1, 1], [3, 3], [1, 3], [3, 1]]);
        let small = c.rng.pick(&kernels);
        let (a, b) = (branch(c, x, m, groups, [3, 3], stride, dilation), branch(c, x, m, groups, small, stride, dilation));
        if c.rng.below(2) == 0 { (a, b) } else { (b, a) }
    }
    /// The pixels of blocks as channels, in slices; the order of slices is random.
    fn focus(c: &mut Case, x: ValueId, block: [i64; 2]) -> ValueId {
        let mut places: Vec<[i64; 2]> = (0..block[0]).flat_map(|i| (0..block[1]).map(move |j| [i, j])).collect();
        (1..places.len()).for_each(|i| places.swap(i, c.rng.below(i + 1)));
        let shape = c.g.shape(x).to_vec();
        let parts: Vec<ValueId> = places
            .iter()
            .map(|p| {
                let mut s = Slice::whole(&shape);
                for i in 0..2 {
                    (s.starts[2 + i], s.steps[2 + i]) = (p[i].into(), block[i]);
                    s.sizes[2 + i] = shape[2 + i].floor_div(&Dim::int(block[i]));
                }
                c.op(s, &[x])
            })
            .collect();
        c.op(Concat { axis: 1 }, &parts)
    }
    fn convolved(c: &mut Case, y: ValueId, groups: i64) -> ValueId {
        let (d, channels) = (c.g.dtype(y), c.g.shape(y)[1].as_int().unwrap());
        let kernel = 1 + c.rng.below(3);
        let w = c.factor(d, &[2 * groups as usize, (channels / groups) as usize, kernel, kernel]);
        let pads: Vec<i64> = (0..4).map(|_| c.rng.below(2) as i64).collect();
        let stride = 1 + c.rng.below(2) as i64;
        c.op(Conv { strides: vec![stride; 2], pads, dilations: vec![1, 1], groups }, &[y, w])
    }

    pub(in crate::rewrite) const EXAMPLES: &[Example] = &[
        ("conv-sum", |c| {
            let (a, b) = two_branches(c);
            let y = c.pointwise("Add", &[a, b]);
            c.output(y);
        }),
        ("conv-blocks", |c| {
            let (d, block) = (c.wide(), c.rng.pick(&[[2, 2], [1, 2], [2, 3]]));
            let (n, channels) = (c.rng.below(3), 1 + c.rng.below(3));
            let x = c.input(d, &[n, channels, 3 * block[0] as usize, 4 * block[1] as usize]);
            let y = focus(c, x, block);
            let z = convolved(c, y, 1);
            c.output(z);
        }),
        ("conv-blocks", |c| {
            let d = c.wide();
            let x = c.input(d, &[2, 3, 8, 6]);
            let y = c.op(Reshape { shape: [2, 3, 4, 2, 3, 2].map(Dim::int).to_vec() }, &[x]);
            let perm = if c.rng.below(2) == 0 { vec![0, 3, 5, 1, 2, 4] } else { vec![0, 1, 3, 5, 2, 4] };
            let y = c.op(Transpose { perm }, &[y]);
            let y = c.op(Reshape { shape: [2, 12, 4, 3].map(Dim::int).to_vec() }, &[y]);
            let z = convolved(c, y, 1);
            c.output(z);
        }),
    ];

    #[test]
    fn kernels_that_do_not_fit_stay_apart() {
        // Another reads a branch.
        refused("conv-sum", |c| {
            let (a, b) = two_branches(c);
            let y = c.pointwise("Add", &[a, b]);
            c.output(y);
            c.output(a);
        });
        // Taps between the taps of the other.
        refused("conv-sum", |c| {
            let x = c.input(DType::F32, &[1, 2, 5, 6]);
            let (a, b) = (branch(c, x, 3, 1, [3, 3], 1, 2), branch(c, x, 3, 1, [3, 3], 1, 1));
            let y = c.pointwise("Add", &[a, b]);
            c.output(y);
        });
        // An odd extent: the blocks do not tile it.
        refused("conv-blocks", |c| {
            let x = c.input(DType::F32, &[1, 2, 7, 6]);
            let y = focus(c, x, [2, 2]);
            let z = convolved(c, y, 1);
            c.output(z);
        });
        refused("conv-blocks", |c| {
            let x = c.input(DType::F32, &[1, 2, 6, 6]);
            let y = focus(c, x, [2, 2]);
            let z = convolved(c, y, 2);
            c.output(z);
        });
    }
}
