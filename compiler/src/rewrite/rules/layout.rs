//! Moves that cancel, merge, or move nothing.

use super::{each, scalar};
use crate::ir::{Dim, NodeId, ValueId, product};
use crate::ops::Op;
use crate::ops::movement::{Concat, Expand, Slice, Transpose};
use crate::ops::shape::Reshape;
use crate::rewrite::{Class, Found, Rewriter, Rule, head};
use kiln_kernels::dtype::DType;

/// Rules about operators that move elements.
#[rustfmt::skip]
pub const RULES: &[Rule] = &[
    Rule { name: "transpose-none", on: &["Transpose"], equation: "Transpose(x; identity) => x", class: Class::Exact, apply: transpose_none },
    Rule { name: "transpose-transpose", on: &["Transpose"], equation: "Transpose(Transpose(x; q); p) => Transpose(x; q.p)", class: Class::Exact, apply: transpose_transpose },
    Rule { name: "transpose-units", on: &["Transpose"], equation: "Transpose(x; p) => Reshape(x)  where p moves only axes of extent 1", class: Class::Exact, apply: transpose_units },
    Rule { name: "reshape-none", on: &["Reshape"], equation: "Reshape(x, shape of x) => x", class: Class::Exact, apply: same },
    Rule { name: "reshape-reshape", on: &["Reshape"], equation: "Reshape(Reshape(x, s), t) => Reshape(x, t)", class: Class::Exact, apply: reshape_reshape },
    Rule { name: "pointwise-reshape", on: &["Pointwise"], equation: "f(Reshape(x, s), y, c) => Reshape(f(x, Reshape(y), c), s)  where x has fewer axes and comes out of a kernel that f can join, y has the shape s, or broadcasts to it where s only adds axes of extent 1, and c one element", class: Class::Exact, apply: pointwise_reshape },
    Rule { name: "reshape-pointwise", on: &["Reshape"], equation: "Reshape(f(x, c)) => f(Reshape(x), c)  where one reader joins f, x is an input, and c has one element", class: Class::Exact, apply: reshape_pointwise },
    Rule { name: "and-true-expand", on: &["And"], equation: "x && true => Expand(x)  where the constant has the larger shape", class: Class::Exact, apply: and_true_expand },
    Rule { name: "pointwise-expand", on: &["Pointwise"], equation: "f(Expand(x), c) => Expand(f(x, c))  where c has one element", class: Class::Exact, apply: pointwise_expand },
    Rule { name: "expand-none", on: &["Expand"], equation: "Expand(x, shape of x) => x", class: Class::Exact, apply: expand_none },
    Rule { name: "expand-expand", on: &["Expand"], equation: "Expand(Expand(x, s), t) => Expand(x, t)", class: Class::Exact, apply: expand_expand },
    Rule { name: "expand-broadcast", on: &["Pointwise", "MatMul", "Attend"], equation: "f(.., Expand(x), ..) => f(.., x, ..)  where the shape stays", class: Class::Exact, apply: expand_broadcast },
    Rule { name: "tile-none", on: &["Tile"], equation: "Tile(x, ones) => x", class: Class::Exact, apply: tile_none },
    Rule { name: "pad-none", on: &["Pad"], equation: "Pad(x, zeros) => x", class: Class::Exact, apply: pad_none },
    Rule { name: "concat-empty", on: &["Concat"], equation: "Concat(.., x, ..) => Concat(.., ..)  where x has no element along the axis", class: Class::Exact, apply: concat_empty },
    Rule { name: "concat-one", on: &["Concat"], equation: "Concat(x) => x", class: Class::Exact, apply: |rw, n| if rw.node(n).inputs.len() == 1 { same(rw, n) } else { None } },
    Rule { name: "concat-concat", on: &["Concat"], equation: "Concat(.., Concat(x, y), ..) => Concat(.., x, y, ..)  along one axis", class: Class::Exact, apply: concat_concat },
    Rule { name: "concat-split", on: &["Concat"], equation: "Concat(Split(x)) => x  along one axis, all pieces in order", class: Class::Exact, apply: concat_split },
    Rule { name: "split-one", on: &["Split"], equation: "Split(x) into one => x", class: Class::Exact, apply: |rw, n| if rw.node(n).outputs.len() == 1 { same(rw, n) } else { None } },
    Rule { name: "split-concat", on: &["Split"], equation: "Split(Concat(x, y, ..)) => x, y, ..  along one axis, of the same extents", class: Class::Exact, apply: split_concat },
    Rule { name: "slice-none", on: &["Slice"], equation: "Slice(x, all) => x", class: Class::Exact, apply: slice_none },
    Rule { name: "slice-slice", on: &["Slice"], equation: "Slice(Slice(x, r), s) => Slice(x, r.s)", class: Class::Exact, apply: slice_slice },
    Rule { name: "gather-slice", on: &["Gather"], equation: "Gather(x, c) => Slice(x, c)  where the constant indices c are evenly spaced", class: Class::Exact, apply: gather_slice },
];

/// The operand; the driver takes it only if it has the type of the result.
fn same(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let (x, y) = (rw.input(n, 0)?, *rw.node(n).outputs.first()?);
    (rw.ty(x) == rw.ty(y)).then_some(vec![x])
}

/// The permutation of a Transpose.
fn perm(rw: &Rewriter<'_>, n: NodeId) -> Option<Vec<usize>> {
    match &rw.node(n).op {
        Op::Transpose(t) => Some(t.perm.clone()),
        _ => None,
    }
}

fn transpose_none(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let p = perm(rw, n)?;
    p.iter().enumerate().all(|(i, p)| i == *p).then_some(vec![rw.input(n, 0)?])
}

fn transpose_transpose(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let inner = rw.made_by(rw.input(n, 0)?, "Transpose")?;
    let (p, q, x) = (perm(rw, n)?, perm(rw, inner)?, rw.input(inner, 0)?);
    let perm: Vec<usize> = p.iter().map(|i| q.get(*i).copied()).collect::<Option<_>>()?;
    if perm.iter().enumerate().all(|(i, p)| i == *p) {
        return Some(vec![x]);
    }
    Some(vec![rw.add(Transpose { perm }, &[x])?])
}

fn transpose_units(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let (p, x) = (perm(rw, n)?, rw.input(n, 0)?);
    let from = rw.shape(x);
    let long: Vec<usize> = p.iter().copied().filter(|i| from.get(*i).is_some_and(|d| !d.is(1))).collect();
    if !long.is_sorted() {
        return None;
    }
    let shape = rw.shape(*rw.node(n).outputs.first()?).to_vec();
    Some(vec![rw.add(Reshape { shape }, &[x])?])
}

fn reshape_reshape(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let inner = rw.made_by(rw.input(n, 0)?, "Reshape")?;
    let (op, x) = (rw.node(n).op.clone(), rw.input(inner, 0)?);
    // One comparison of sizes is left, which has to say what two did.
    let of = |v: ValueId| product(rw.shape(v));
    let (first, between, last) = (of(x), of(rw.input(n, 0)?), of(*rw.node(n).outputs.first()?));
    if first != between && between != last {
        return None;
    }
    Some(vec![rw.add(op, &[x])?])
}

/// Whether a node is an Expand that fails for no value of the symbols: one that may fail stays where it is.
fn certain(rw: &Rewriter<'_>, n: NodeId) -> Option<()> {
    match &rw.node(n).op {
        Op::Expand(e) => e.certain(rw.shape(rw.input(n, 0)?)).then_some(()),
        _ => None,
    }
}

fn expand_none(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    certain(rw, n)?;
    same(rw, n)
}

fn pointwise_reshape(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let out = rw.shape(*rw.node(n).outputs.first()?).to_vec();
    // Kernels that take more are those of floats; arithmetic on shapes has forms of its own.
    if out.len() < 2 || !rw.dtype(*rw.node(n).outputs.first()?).is_float() {
        return None;
    }
    let from = rw.node(n).inputs.iter().flatten().find_map(|v| {
        let r = rw.made_by(*v, "Reshape").filter(|_| *rw.shape(*v) == out)?;
        let x = rw.input(r, 0)?;
        let joins = matches!(
            rw.node(rw.producer(x)?).op,
            Op::MatMul(_)
                | Op::MatMulInteger(_)
                | Op::GatherMatMul(_)
                | Op::NarrowMatMul(_)
                | Op::Conv(_)
                | Op::ConvInteger(_)
                | Op::Pointwise(_)
        );
        // Towards fewer axes only, so that operands of two shapes do not pull in turn.
        (joins && rw.shape(x).len() < out.len()).then_some(x)
    })?;
    let shape = rw.shape(from).to_vec();
    let inputs = each(rw, n, scalar, &mut |rw, v| {
        if *rw.shape(v) != out {
            let shape = without_units(rw.shape(v), &out, &shape)?;
            return if *rw.shape(v) == shape { Some(v) } else { rw.add(Reshape { shape }, &[v]) };
        }
        match rw.made_by(v, "Reshape").and_then(|r| rw.input(r, 0)) {
            Some(x) if *rw.shape(x) == shape => Some(x),
            _ => rw.add(Reshape { shape: shape.clone() }, &[v]),
        }
    })?;
    if rw.node(n).outputs.len() != 1 {
        return None;
    }
    let op = rw.node(n).op.clone();
    let y = rw.add(op, &inputs)?;
    Some(vec![rw.add(Reshape { shape: out }, &[y])?])
}

/// The shape of an operand that broadcasts to `from`, where that becomes `to` by leaving out axes of one element.
fn without_units(own: &[Dim], from: &[Dim], to: &[Dim]) -> Option<Vec<Dim>> {
    let skip = from.len().checked_sub(own.len())?;
    let mut left = to.iter().peekable();
    let mut shape = Vec::new();
    for (i, d) in from.iter().enumerate() {
        let one = Dim::int(1);
        let own = i.checked_sub(skip).map_or(&one, |i| &own[i]);
        if !own.is(1) && own != d {
            return None;
        }
        if left.next_if(|next| *next == d).is_some() {
            shape.push(own.clone());
        } else if !d.is(1) {
            return None;
        }
    }
    left.next().is_none().then_some(shape)
}

fn reshape_pointwise(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let y = rw.input(n, 0)?;
    let f = rw.producer(y).filter(|f| matches!(rw.node(*f).op, Op::Pointwise(_)) && rw.used_once(y))?;
    let out = *rw.node(n).outputs.first()?;
    let (op, shape) = (rw.node(f).op.clone(), rw.shape(out).to_vec());
    let wide: Vec<ValueId> = rw.node(f).inputs.iter().flatten().copied().filter(|v| !rw.shape(*v).is_empty()).collect();
    let [x] = wide[..] else { return None };
    // Behind a kernel, f is part of that kernel: then the shape is better changed afterwards.
    if rw.producer(x).is_some() || rw.shape(x) != rw.shape(y) || !rw.used_once(out) {
        return None;
    }
    let inputs = each(rw, f, scalar, &mut |rw, v| rw.add(Reshape { shape: shape.clone() }, &[v]))?;
    Some(vec![rw.add(op, &inputs)?])
}

fn and_true_expand(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let (x, c, out) = (rw.input(n, 0)?, rw.input(n, 1)?, *rw.node(n).outputs.first()?);
    if rw.uniform(c)? != 1.0 || rw.ty(x) == rw.ty(out) || rw.constant(x).is_some() {
        return None;
    }
    let shape = rw.shape(out).to_vec();
    // An extent that run time decides may be 1 in x, or equal: only known ones are expanded.
    shape.iter().all(|d| d.as_int().is_some()).then_some(())?;
    Some(vec![rw.add(Expand { shape }, &[x])?])
}

fn pointwise_expand(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let out = *rw.node(n).outputs.first()?;
    let wide: Vec<ValueId> = rw.node(n).inputs.iter().flatten().copied().filter(|v| !rw.shape(*v).is_empty()).collect();
    let ([y], 1) = (&wide[..], rw.node(n).outputs.len()) else { return None };
    let expand = rw.made_by(*y, "Expand")?;
    let x = rw.input(expand, 0)?;
    let shape = rw.shape(out).to_vec();
    if *rw.shape(*y) != shape {
        return None;
    }
    let inputs = each(rw, n, scalar, &mut |_, _| Some(x))?;
    let op = rw.node(n).op.clone();
    let z = rw.add(op, &inputs)?;
    Some(vec![rw.add(Expand { shape }, &[z])?])
}

fn expand_expand(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let inner = rw.made_by(rw.input(n, 0)?, "Expand")?;
    certain(rw, n)?;
    certain(rw, inner)?;
    let shape = rw.shape(*rw.node(n).outputs.first()?).to_vec();
    let x = rw.input(inner, 0)?;
    Some(vec![rw.add(Expand { shape }, &[x])?])
}

fn expand_broadcast(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let node = rw.node(n);
    let ty = rw.ty(*node.outputs.first()?).clone();
    let product = head(&node.op) == "MatMul";
    // Heads of an attention are shared by other means; its mask is read with steps.
    let first = if head(&node.op) == "Attend" { 3 } else { 0 };
    for i in first..node.inputs.len() {
        let y = rw.input(n, i)?;
        let Some(inner) = rw.made_by(y, "Expand").filter(|e| certain(rw, *e).is_some()) else { continue };
        let x = rw.input(inner, 0)?;
        // The matrices themselves do not broadcast.
        let (a, b) = (rw.shape(x), rw.shape(y));
        if product && (a.len() < 2 || a[a.len() - 2..] != b[b.len() - 2..]) {
            continue;
        }
        let (op, mut inputs, results) = (rw.node(n).op.clone(), rw.node(n).inputs.clone(), rw.node(n).outputs.len());
        inputs[i] = Some(x);
        if rw.infer(&op, &inputs, results).is_some_and(|f| f.first().is_some_and(|f| f.ty == ty)) {
            return rw.add_all(op, inputs, results);
        }
    }
    None
}

fn tile_none(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    match &rw.node(n).op {
        Op::Tile(t) if t.repeats.iter().all(|r| r.is(1)) => same(rw, n),
        _ => None,
    }
}

fn pad_none(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    match &rw.node(n).op {
        Op::Pad(p) if p.pads.iter().all(|p| *p == 0) => same(rw, n),
        _ => None,
    }
}

/// The axis and the operands of a Concat.
fn parts(rw: &Rewriter<'_>, n: NodeId) -> Option<(usize, Vec<ValueId>)> {
    match &rw.node(n).op {
        Op::Concat(c) => Some((c.axis, rw.node(n).inputs.iter().copied().collect::<Option<_>>()?)),
        _ => None,
    }
}

fn concat_empty(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let (axis, mut inputs) = parts(rw, n)?;
    let (before, first) = (inputs.len(), *inputs.first()?);
    inputs.retain(|v| rw.shape(*v).get(axis).is_none_or(|d| !d.is(0)));
    if inputs.is_empty() {
        inputs.push(first);
    }
    if inputs.len() == before {
        return None;
    }
    Some(vec![rw.add(Concat { axis }, &inputs)?])
}

fn concat_concat(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let (axis, inputs) = parts(rw, n)?;
    let mut flat = Vec::new();
    for v in &inputs {
        match rw.made_by(*v, "Concat").filter(|_| rw.used_once(*v)).and_then(|m| parts(rw, m)) {
            Some((a, inner)) if a == axis => flat.extend(inner),
            _ => flat.push(*v),
        }
    }
    if flat.len() == inputs.len() {
        return None;
    }
    Some(vec![rw.add(Concat { axis }, &flat)?])
}

fn concat_split(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let (axis, inputs) = parts(rw, n)?;
    let split = rw.made_by(*inputs.first()?, "Split")?;
    let along = matches!(&rw.node(split).op, Op::Split(s) if s.axis == axis);
    (along && rw.node(split).outputs == inputs).then_some(vec![rw.input(split, 0)?])
}

fn split_concat(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let Op::Split(s) = &rw.node(n).op else { return None };
    let (axis, inputs) = parts(rw, rw.made_by(rw.input(n, 0)?, "Concat")?)?;
    let fits =
        axis == s.axis && inputs.len() == s.sizes.len() && inputs.iter().zip(&s.sizes).all(|(v, d)| rw.shape(*v).get(axis) == Some(d));
    fits.then_some(inputs)
}

fn slice(rw: &Rewriter<'_>, n: NodeId) -> Option<Slice> {
    match &rw.node(n).op {
        Op::Slice(s) => Some(s.clone()),
        _ => None,
    }
}

fn slice_none(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let s = slice(rw, n)?;
    if s.bounds.is_empty() && s.starts.iter().all(|d| d.is(0)) && s.steps.iter().all(|t| *t == 1) { same(rw, n) } else { None }
}

fn slice_slice(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let inner = rw.made_by(rw.input(n, 0)?, "Slice")?;
    let (outer, first, x) = (slice(rw, n)?, slice(rw, inner)?, rw.input(inner, 0)?);
    let rank = outer.steps.len();
    let steps: Vec<i64> = (0..rank).map(|i| first.steps[i].checked_mul(outer.steps[i])).collect::<Option<_>>()?;
    let starts = (0..rank).map(|i| first.starts[i].clone() + Dim::int(first.steps[i]) * outer.starts[i].clone()).collect();
    Some(vec![rw.add(Slice { starts, steps, sizes: outer.sizes, bounds: [first.bounds, outer.bounds].concat() }, &[x])?])
}

fn gather_slice(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let Op::Gather(op) = &rw.node(n).op else { return None };
    let (axis, x, i) = (op.axis, rw.input(n, 0)?, rw.input(n, 1)?);
    let at = rw.constant(i).filter(|t| !t.is_empty())?.to_i64s()?;
    // Only against a known extent is an index known to be inside.
    let extent = rw.shape(x).get(axis)?.as_int()?;
    let at: Vec<i64> = at.into_iter().map(|i| if i < 0 { i + extent } else { i }).collect();
    if at.iter().any(|i| !(0..extent).contains(i)) || rw.dtype(x) == DType::Str {
        return None;
    }
    let step = if at.len() > 1 { at[1] - at[0] } else { 1 };
    if step == 0 || at.windows(2).any(|w| w[1] - w[0] != step) {
        return None;
    }
    let mut sizes = rw.shape(x).to_vec();
    let rank = sizes.len();
    sizes[axis] = at.len().into();
    let (mut starts, mut steps) = (vec![Dim::int(0); rank], vec![1; rank]);
    (starts[axis], steps[axis]) = (Dim::int(at[0]), step);
    let y = rw.add(Slice { starts, steps, sizes, bounds: vec![] }, &[x])?;
    let shape = rw.shape(*rw.node(n).outputs.first()?).to_vec();
    if rw.shape(y) == shape {
        return Some(vec![y]);
    }
    Some(vec![rw.add(Reshape { shape }, &[y])?])
}

#[cfg(test)]
#[path = "layout_tests.rs"]
pub(in crate::rewrite) mod tests;
