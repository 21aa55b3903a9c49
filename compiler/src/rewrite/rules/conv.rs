//! Convolutions: constant factors, terms and pads taken into weights, bias and attributes.

use super::{SHARED, along, folds, rounded};
use crate::ir::{NodeId, ValueId};
use crate::ops::{Op, conv::Conv};
use crate::rewrite::{Class, Found, Rewriter, Rule};
use kiln_kernels::value::Tensor;

/// Rules about convolutions.
#[rustfmt::skip]
pub const RULES: &[Rule] = &[
    Rule { name: "conv-mul", on: &["Mul"], equation: "Conv(x, w, b) * c => Conv(x, w*c, b*c)  where c is per output channel and constant; likewise ConvTranspose", class: Class::Reassociating, apply: |rw, n| scale(rw, n, |w, c| w * c) },
    Rule { name: "conv-div", on: &["Div"], equation: "Conv(x, w, b) / c => Conv(x, w/c, b/c)  where c is per output channel and constant; likewise ConvTranspose", class: Class::Reassociating, apply: |rw, n| scale(rw, n, |w, c| w / c) },
    Rule { name: "conv-add", on: &["Add"], equation: "Conv(x, w, b) + c => Conv(x, w, b+c)  where c is per output channel and constant; likewise ConvTranspose", class: Class::Reassociating, apply: shift },
    Rule { name: "conv-input-mul", on: &["Conv"], equation: "Conv(x * c, w, b) => Conv(x, w*c, b)  where c is per input channel and constant", class: Class::Reassociating, apply: |rw, n| scale_input(rw, n, "Mul", |w, c| w * c) },
    Rule { name: "conv-input-div", on: &["Conv"], equation: "Conv(x / c, w, b) => Conv(x, w/c, b)  where c is per input channel and constant", class: Class::Reassociating, apply: |rw, n| scale_input(rw, n, "Div", |w, c| w / c) },
    Rule { name: "conv-input-add", on: &["Conv"], equation: "Conv(x + c, w, b) => Conv(x, w, b + sum(w*c))  where c is per input channel and constant, and nothing is padded", class: Class::Reassociating, apply: shift_input },
    Rule { name: "conv-pad", on: &["Conv"], equation: "Conv(Pad(x, p, 0), w, b; q) => Conv(x, w, b; p+q)  where p is spatial", class: Class::ExactOnFinite, apply: pad },
];

/// The convolution that makes the left operand of a node and nothing else, with its constant weights and bias.
struct Filter {
    op: Op,
    x: ValueId,
    w: ValueId,
    b: Option<ValueId>,
    channels: usize,
    rank: usize,
}

fn filter(rw: &Rewriter<'_>, n: NodeId) -> Option<Filter> {
    let y = rw.input(n, 0)?;
    let conv = rw.producer(y)?;
    let op = rw.node(conv).op.clone();
    if !matches!(op, Op::Conv(_) | Op::ConvTranspose(_)) {
        return None;
    }
    // What is multiplied with or added to a computed value all but matches nothing.
    rw.constant(rw.input(n, 1)?)?;
    if !rw.used_once(y) {
        return rw.refuse("others read the convolution's result too");
    }
    let (x, w, b) = (rw.input(conv, 0)?, rw.input(conv, 1)?, rw.input(conv, 2));
    let Some(t) = rw.constant(w).filter(|t| folds(t.dtype)) else { return rw.refuse("its weights are no constant floats") };
    if rw.uses(w) > 1 && t.len() > SHARED {
        return rw.refuse("its weights are shared, and large");
    }
    if b.is_some_and(|b| rw.constant(b).is_none()) {
        return rw.refuse("its bias is computed");
    }
    let channels = usize::try_from(rw.shape(y).get(1)?.as_int()?).ok()?;
    Some(Filter { op, x, w, b, channels, rank: rw.shape(y).len() })
}

/// The other operand of a node, as one number for each output channel.
fn by_channel(rw: &Rewriter<'_>, n: NodeId, k: &Filter) -> Option<Vec<f64>> {
    along(rw.constant(rw.input(n, 1)?)?, k.rank, 1, k.channels).or_else(|| rw.refuse("the other operand differs within a channel"))
}

/// The weights as a function of each and its output channel.
fn weights(op: &Op, w: &Tensor, channels: usize, f: impl Fn(f64, usize) -> f64) -> Option<Tensor> {
    let mut v = w.to_f64s()?;
    let taps: usize = w.dims[2..].iter().product();
    match op {
        Op::Conv(_) => {
            let each = w.dims[1] * taps;
            v.iter_mut().enumerate().for_each(|(i, x)| *x = f(*x, i / each));
        }
        Op::ConvTranspose(t) => {
            // [C, M/groups, ..]: input channel c belongs to the group that gives a run of M/groups output channels.
            let (inputs, run) = (w.dims[0] / usize::try_from(t.groups).ok()?, w.dims[1]);
            v.iter_mut().enumerate().for_each(|(i, x)| *x = f(*x, i / taps / run / inputs * run + i / taps % run));
        }
        _ => return None,
    }
    (v.is_empty() || channels > 0).then(|| rounded(&w.dims, &v, w.dtype))?
}

fn scale(rw: &mut Rewriter<'_>, n: NodeId, f: fn(f64, f64) -> f64) -> Found {
    let k = filter(rw, n)?;
    let c = by_channel(rw, n, &k)?;
    let w = weights(&k.op, rw.constant(k.w)?, k.channels, |x, m| f(x, c[m]))?;
    let mut inputs = vec![Some(k.x), Some(rw.tensor(w))];
    if let Some(b) = k.b {
        let b = rw.constant(b)?;
        let v: Vec<f64> = b.to_f64s()?.iter().zip(&c).map(|(x, c)| f(*x, *c)).collect();
        let b = rounded(&[k.channels], &v, b.dtype)?;
        inputs.push(Some(rw.tensor(b)));
    }
    rw.add_all(k.op, inputs, 1)
}

fn shift(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let k = filter(rw, n)?;
    let c = by_channel(rw, n, &k)?;
    let b = match k.b {
        Some(b) => rw.constant(b)?.to_f64s()?,
        None => vec![0.0; k.channels],
    };
    let v: Vec<f64> = b.iter().zip(&c).map(|(b, c)| b + c).collect();
    let b = rounded(&[k.channels], &v, rw.dtype(k.w))?;
    let b = rw.tensor(b);
    rw.add_all(k.op, vec![Some(k.x), Some(k.w), Some(b)], 1)
}

/// What a convolution reads out of a node of that name with a constant for each input channel: the operand, and the constant.
fn by_input(rw: &Rewriter<'_>, n: NodeId, name: &str) -> Option<(ValueId, Vec<f64>)> {
    let y = rw.input(n, 0)?;
    let inner = rw.made_by(y, name).filter(|_| rw.used_once(y))?;
    let (x, c) = (rw.input(inner, 0)?, rw.input(inner, 1)?);
    let channels = usize::try_from(rw.shape(y).get(1)?.as_int()?).ok()?;
    let c = along(rw.constant(c)?, rw.shape(y).len(), 1, channels)?;
    (rw.ty(x) == rw.ty(y)).then_some((x, c))
}

fn shift_input(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let (x, c) = by_input(rw, n, "Add")?;
    let Op::Conv(op) = rw.node(n).op.clone() else { return None };
    if op.pads.iter().any(|p| *p != 0) {
        return rw.refuse("the pads are zeros, without the constant");
    }
    let t = rw.constant(rw.input(n, 1)?).filter(|t| folds(t.dtype))?;
    let (per, taps) = (t.dims[1], t.dims[2..].iter().product::<usize>());
    let outputs = t.dims[0] / usize::try_from(op.groups).ok()?;
    let mut b = match rw.input(n, 2) {
        Some(b) => rw.constant(b)?.to_f64s()?,
        None => vec![0.0; t.dims[0]],
    };
    for (i, w) in t.to_f64s()?.into_iter().enumerate() {
        b[i / taps / per] += w * c[i / taps / per / outputs * per + i / taps % per];
    }
    let b = crate::eval::from_f64s(&[b.len()], &b, t.dtype);
    if !b.to_f64s()?.iter().all(|v| v.is_finite()) {
        return None;
    }
    let inputs = vec![Some(x), rw.input(n, 1), Some(rw.tensor(b))];
    rw.add_all(op.into(), inputs, 1)
}

fn scale_input(rw: &mut Rewriter<'_>, n: NodeId, name: &str, f: fn(f64, f64) -> f64) -> Found {
    let (x, c) = by_input(rw, n, name)?;
    let w = rw.input(n, 1)?;
    let Op::Conv(op) = rw.node(n).op.clone() else { return None };
    let t = rw.constant(w).filter(|t| folds(t.dtype))?;
    if rw.uses(w) > 1 && t.len() > SHARED {
        return None;
    }
    let (per, taps) = (t.dims[1], t.dims[2..].iter().product::<usize>());
    let outputs = t.dims[0] / usize::try_from(op.groups).ok()?;
    let mut v = t.to_f64s()?;
    v.iter_mut().enumerate().for_each(|(i, x)| *x = f(*x, c[i / taps / per / outputs * per + i / taps % per]));
    let w = rounded(&t.dims.clone(), &v, t.dtype)?;
    let mut inputs = rw.node(n).inputs.clone();
    inputs[0] = Some(x);
    inputs[1] = Some(rw.tensor(w));
    rw.add_all(op.into(), inputs, 1)
}

fn pad(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let y = rw.input(n, 0)?;
    let node = rw.made_by(y, "Pad").filter(|_| rw.used_once(y))?;
    let (Op::Pad(p), Op::Conv(conv)) = (&rw.node(node).op, &rw.node(n).op) else { return None };
    let rank = p.pads.len() / 2;
    let spatial = [0, 1, rank, rank + 1].iter().all(|i| p.pads.get(*i) == Some(&0)) && p.pads.iter().all(|v| (0..1 << 31).contains(v));
    if p.mode != "constant" || !spatial || rw.uniform(rw.input(node, 1)?)? != 0.0 {
        return None;
    }
    let axes = rank - 2;
    let pads = (0..2 * axes).map(|i| conv.pads[i] + p.pads[if i < axes { 2 + i } else { rank + 2 + i - axes }]).collect();
    let op = Conv { pads, ..conv.clone() };
    let mut inputs = rw.node(n).inputs.clone();
    inputs[0] = rw.input(node, 0);
    rw.add_all(op.into(), inputs, 1)
}

#[cfg(test)]
pub(in crate::rewrite) mod tests {
    use super::*;
    use crate::ops::{conv::ConvTranspose, pad::Pad};
    use crate::rewrite::tests::{Case, Example, refused};
    use kiln_kernels::dtype::DType;

    /// A convolution of either direction, with and without groups and bias; gives its result and its output channels.
    fn convolved(c: &mut Case, d: DType) -> (ValueId, usize, usize) {
        let (axes, groups) = (1 + c.rng.below(2), 1 + c.rng.below(3));
        let (per_in, per_out) = (1 + c.rng.below(3), 1 + c.rng.below(3));
        let mut shape = vec![1 + c.rng.below(2), groups * per_in];
        shape.extend((0..axes).map(|_| 3 + c.rng.below(3)));
        let x = c.input(d, &shape);
        let back = c.rng.below(3) == 0;
        let mut w = if back { vec![groups * per_in, per_out] } else { vec![groups * per_out, per_in] };
        w.extend((0..axes).map(|_| 1 + c.rng.below(3)));
        let mut operands = vec![x, c.factor(d, &w)];
        if c.rng.below(2) == 0 {
            operands.push(c.constant(d, &[groups * per_out]));
        }
        let (strides, pads, dilations) = (vec![1 + c.rng.below(2) as i64; axes], vec![c.rng.below(2) as i64; 2 * axes], vec![1; axes]);
        let groups_ = groups as i64;
        let y = if back {
            c.op(ConvTranspose { strides, pads: vec![0; 2 * axes], dilations, output_padding: vec![0; axes], groups: groups_ }, &operands)
        } else {
            c.op(Conv { strides, pads, dilations, groups: groups_ }, &operands)
        };
        (y, groups * per_out, axes)
    }
    /// A constant per output channel, in one of the shapes that exporters write.
    fn per_channel(c: &mut Case, d: DType, m: usize, axes: usize) -> ValueId {
        let mut shape = [vec![1, m], vec![1; axes]].concat();
        match c.rng.below(3) {
            0 => shape.clear(),
            1 => drop(shape.remove(0)),
            _ => {}
        }
        c.factor(d, &shape)
    }
    fn followed(c: &mut Case, name: &'static str) {
        let d = c.wide();
        let (y, m, axes) = convolved(c, d);
        let k = per_channel(c, d, m, axes);
        let z = c.pointwise(name, &[y, k]);
        c.output(z);
    }

    /// A constant for each input channel applied before a convolution.
    fn preceded(c: &mut Case, name: &'static str, pads: Vec<i64>) {
        let (d, groups, per, out) = (c.wide(), 1 + c.rng.below(2), 1 + c.rng.below(3), 1 + c.rng.below(2));
        let x = c.input(d, &[2, groups * per, 4, 3]);
        let k = per_channel(c, d, groups * per, 2);
        let y = c.pointwise(name, &[x, k]);
        let mut inputs = vec![y, c.factor(d, &[groups * out, per, 2, 2])];
        if c.rng.below(2) == 0 {
            inputs.push(c.constant(d, &[groups * out]));
        }
        let op = Conv { strides: vec![1, 1], pads, dilations: vec![1, 1], groups: groups as i64 };
        let z = c.op(op, &inputs);
        c.output(z);
    }

    #[test]
    fn a_term_that_pads_lack_stays_before_the_convolution() {
        refused("conv-input-add", |c| preceded(c, "Add", vec![0, 1, 0, 0]));
    }

    pub(in crate::rewrite) const EXAMPLES: &[Example] = &[
        ("conv-mul", |c| followed(c, "Mul")),
        ("conv-div", |c| followed(c, "Div")),
        ("conv-add", |c| followed(c, "Add")),
        ("conv-input-mul", |c| preceded(c, "Mul", vec![1, 0, 1, 0])),
        ("conv-input-div", |c| preceded(c, "Div", vec![1, 0, 1, 0])),
        ("conv-input-add", |c| preceded(c, "Add", vec![0; 4])),
        ("conv-pad", |c| {
            let d = c.wide();
            let x = c.input(d, &[1, 2, 4, 5]);
            let zero = c.filled(d, &[], 0.0);
            let mut some = |n: usize| c.rng.below(n) as i64;
            let pads = vec![0, 0, some(3), some(3), 0, 0, some(3), some(3)];
            let (stride, own) = (1 + some(2), some(2));
            let y = c.op(Pad { pads, mode: "constant" }, &[x, zero]);
            let w = c.factor(d, &[3, 2, 3, 2]);
            let op = Conv { strides: vec![stride; 2], pads: vec![own; 4], dilations: vec![1, 1], groups: 1 };
            let z = c.op(op, &[y, w]);
            c.output(z);
        }),
    ];
}
