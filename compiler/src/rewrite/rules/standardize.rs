//! Standardized inputs: a scale and a shift by channel before a convolution, taken into its weights and behind it.
//!
//! Where nothing is padded, both always are (see `conv.rs`). Pads stand for zeros behind the shift, so that what it adds to an output
//! differs at the borders: it is a constant image, and whether reading that costs less than shifting the input is for the cost to say.

use super::constants::SMALL;
use super::orders;
use crate::ir::{Dim, NodeId, ValueId};
use crate::ops::Op;
use crate::ops::conv::Conv;
use crate::ops::movement::Expand;
use crate::ops::shape::Reshape;
use crate::rewrite::{Class, Found, Rewriter, Rule};

/// Rules about what is done to each channel before a convolution.
#[rustfmt::skip]
pub const RULES: &[Rule] = &[
    Rule { name: "convolution-scale", on: &["Conv/Mul", "Conv/Div"], equation: "Conv(x * s, w, b) => Conv(x, w*s, b)  where s is a weight with an element for each channel, in one group; likewise x / s", class: Class::Reassociating, apply: scale },
    Rule { name: "convolution-shift", on: &["Conv/Add"], equation: "Conv(x + t, w, b) => Conv(x, w, b) + Conv(t, w)  where t is a weight with an element for each channel, and the constant image Conv(t, w) is small", class: Class::Reassociating, apply: shift },
];

/// An operand of a convolution of one group: the operator before it, what that changes, and the weight it does that by, as `[1, C, ..]`
/// with extents of 1.
fn before(rw: &mut Rewriter<'_>, n: NodeId, names: &[&'static str]) -> Option<(Conv, &'static str, ValueId, ValueId)> {
    let Op::Conv(conv) = rw.node(n).op.clone() else { return None };
    let y = rw.input(n, 0)?;
    let m = rw.producer(y)?;
    let name = names.iter().copied().find(|name| *name == crate::rewrite::head(&rw.node(m).op))?;
    let pairs = orders(rw, m)?;
    let pairs = if name == "Div" { &pairs[..1] } else { &pairs[..] };
    let (x, c) = *pairs.iter().find(|(x, c)| rw.weight(*c) && !rw.weight(*x) && rw.ty(*x) == rw.ty(y))?;
    if conv.groups != 1 || !rw.input(n, 1).is_some_and(|w| rw.weight(w)) {
        return None;
    }
    let rank = rw.shape(y).len();
    let own = rw.shape(c).to_vec();
    let skip = rank.checked_sub(own.len())?;
    let by_channel = own.iter().enumerate().all(|(i, d)| d.is(1) || (i + skip == 1 && *d == rw.shape(y)[1]));
    let mut shape = vec![Dim::int(1); rank];
    if let (true, Some(i)) = (by_channel, 1usize.checked_sub(skip).filter(|i| *i < own.len())) {
        shape[1] = own[i].clone();
    }
    let c = if own == shape { c } else { rw.add(Reshape { shape }, &[c])? };
    by_channel.then_some((conv, name, x, c))
}

fn scale(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let (conv, name, x, c) = before(rw, n, &["Mul", "Div"])?;
    let mut inputs = rw.node(n).inputs.clone();
    inputs[0] = Some(x);
    inputs[1] = Some(rw.pointwise(name, &[inputs[1]?, c])?);
    rw.add_all(conv.into(), inputs, 1)
}

fn shift(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let (conv, _, x, c) = before(rw, n, &["Add"])?;
    let image = |shape: &[Dim]| [&[Dim::int(1)][..], &shape[1..]].concat();
    let (from, to) = (image(rw.shape(x)), image(rw.shape(*rw.node(n).outputs.first()?)));
    // Both are made by folding, which makes nothing larger.
    let small = |shape: &[Dim]| {
        let elements = shape.iter().try_fold(1i64, |n, d| n.checked_mul(d.as_int()?));
        elements.is_some_and(|n| (1..=(SMALL / 8) as i64).contains(&n))
    };
    if !small(&from) || !small(&to) {
        return rw.refuse("the image that the shift adds is large, or of open extents");
    }
    let mut inputs = rw.node(n).inputs.clone();
    let w = inputs[1]?;
    let t = rw.add(Expand { shape: from }, &[c])?;
    let t = rw.add(conv.clone(), &[t, w])?;
    inputs[0] = Some(x);
    let y = rw.add_all(conv.into(), inputs, 1)?;
    Some(vec![rw.pointwise("Add", &[*y.first()?, t])?])
}

#[cfg(test)]
pub(in crate::rewrite) mod tests {
    use super::*;
    use crate::ops::pointwise::Pointwise;
    use crate::rewrite::tests::{Case, Example, refused};
    use kiln_kernels::dtype::DType;

    const F32: DType = DType::F32;

    fn convolved(c: &mut Case, x: ValueId, groups: usize) {
        let channels = c.g.shape(x)[1].as_int().unwrap() as usize;
        let mut inputs = vec![x, c.factor(F32, &[4 * groups, channels / groups, 3, 3])];
        if c.rng.below(2) == 0 {
            inputs.push(c.factor(F32, &[4 * groups]));
        }
        let pads: Vec<i64> = (0..4).map(|_| c.rng.below(3) as i64).collect();
        let strides = vec![1 + c.rng.below(2) as i64; 2];
        let y = c.op(Conv { strides, pads, dilations: vec![1, 1], groups: groups as i64 }, &inputs);
        c.output(y);
    }
    /// Pixels, perhaps of bytes.
    fn image(c: &mut Case, channels: usize) -> ValueId {
        let n = 1 + c.rng.below(2);
        match c.rng.below(2) {
            0 => c.input(F32, &[n, channels, 6, 5]),
            _ => {
                let x = c.input(DType::U8, &[n, channels, 6, 5]);
                c.op(Pointwise::cast(DType::U8, F32), &[x])
            }
        }
    }
    fn by_channel(c: &mut Case, channels: usize) -> ValueId {
        let shape = c.rng.pick(&[&[][..], &[1, 1], &[0, 1, 1], &[1, 0, 1, 1]]);
        let shape: Vec<usize> = shape.iter().map(|d| if *d == 0 { channels } else { *d }).collect();
        c.factor(F32, &shape)
    }

    pub(in crate::rewrite) const EXAMPLES: &[Example] = &[
        ("convolution-scale", |c| {
            let (x, s) = (image(c, 3), by_channel(c, 3));
            let y = match c.rng.below(3) {
                0 => c.pointwise("Mul", &[x, s]),
                1 => c.pointwise("Mul", &[s, x]),
                _ => c.pointwise("Div", &[x, s]),
            };
            convolved(c, y, 1);
        }),
        ("convolution-shift", |c| {
            let (x, t) = (image(c, 3), by_channel(c, 3));
            let y = if c.rng.below(2) == 0 { c.pointwise("Add", &[x, t]) } else { c.pointwise("Add", &[t, x]) };
            convolved(c, y, 1);
        }),
    ];

    #[test]
    fn what_differs_within_a_channel_stays() {
        refused("convolution-scale", |c| {
            let (x, s) = (c.input(F32, &[1, 3, 6, 5]), c.factor(F32, &[5]));
            let y = c.pointwise("Mul", &[x, s]);
            convolved(c, y, 1);
        });
        refused("convolution-scale", |c| {
            let (x, s) = (c.input(F32, &[1, 4, 6, 5]), c.factor(F32, &[4, 1, 1]));
            let y = c.pointwise("Mul", &[x, s]);
            convolved(c, y, 2);
        });
        // An image that would be added at every run, and is as large as what comes out.
        refused("convolution-shift", |c| {
            let (x, t) = (c.input(F32, &[1, 3, 60, 60]), c.factor(F32, &[3, 1, 1]));
            let y = c.pointwise("Add", &[x, t]);
            convolved(c, y, 1);
        });
        refused("convolution-scale", |c| {
            let (x, s) = (c.input(F32, &[1, 3, 6, 5]), c.factor(F32, &[3, 1, 1]));
            let y = c.pointwise("Div", &[s, x]);
            convolved(c, y, 1);
        });
    }
}
