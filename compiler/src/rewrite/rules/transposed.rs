//! Transposed convolutions as convolutions whose channels are spread over pixels, and taps that no convolution needs.

use super::filters::{constant_weights, known_weights};
use super::{along, each, folds, rounded, scalar};
use crate::ir::{Dim, NodeId, ValueId};
use crate::ops::interleave::Interleave;
use crate::ops::movement::Concat;
use crate::ops::{Op, conv::Conv};
use crate::rewrite::{Class, Found, Rewriter, Rule};
use kiln_kernels::index::for_each;

/// Rules about transposed convolutions, and about taps.
#[rustfmt::skip]
pub const RULES: &[Rule] = &[
    Rule { name: "conv-transpose", on: &["ConvTranspose"], equation: "ConvTranspose(x, w, b; s) => Interleave(Conv(x, w', b'); s)  where w is constant, and w' gives each of the s pixels that one pixel of x is spread over", class: Class::Reassociating, apply: transposed },
    Rule { name: "pointwise-interleave", on: &["Pointwise"], equation: "f(Interleave(x; s), c) => Interleave(f(x, c'); s)  where c is constant and differs by channel at most", class: Class::Exact, apply: pointwise },
    Rule { name: "conv-outside", on: &["Conv"], equation: "Conv(x, w, b; p) => Conv(x, w', b; p')  where w' lacks the taps that meet nothing but pads", class: Class::ExactOnFinite, apply: outside },
];

/// Taps of all places of a block, at most, for each tap of the transposed convolution: the others are zeros.
const MOST: i64 = 4;

/// What becomes of an axis of a transposed convolution.
struct Axis {
    /// Taps of the convolution.
    taps: i64,
    dilation: i64,
    pads: [i64; 2],
    /// Pixels of the interleaved result that are left out before the wanted ones.
    first: i64,
}

fn transposed(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let Op::ConvTranspose(op) = rw.node(n).op.clone() else { return None };
    let (x, w, b) = (rw.input(n, 0)?, rw.input(n, 1)?, rw.input(n, 2));
    // Shared ones too: the same change is made for each that shares them, and equal constants are stored once.
    let t = known_weights(rw, w)?.clone();
    let b = match b {
        Some(b) => match rw.constant(b) {
            Some(b) => Some(b.clone()),
            None => return rw.refuse("its bias is computed"),
        },
        None => None,
    };
    let spatial = op.strides.len();
    let axis = |i: usize| -> Option<Axis> {
        let (s, d, k) = (op.strides[i], op.dilations[i], t.dims[2 + i] as i64);
        if s != 1 && d != 1 {
            return None;
        }
        let (taps, dilation) = ((k + s - 1) / s, d);
        let span = dilation * (taps - 1);
        // Pixel q of the result before it is cut comes from taps of pixels up to q / s of x.
        let skipped = (op.pads[i] / s).min(span);
        let behind = (d * (k - 1) + op.output_padding[i] - op.pads[spatial + i]).div_euclid(s).max(0);
        Some(Axis { taps, dilation, pads: [span - skipped, behind], first: op.pads[i] - skipped * s })
    };
    let Some(axes) = (0..spatial).map(axis).collect::<Option<Vec<Axis>>>() else {
        return rw.refuse("it has both strides and dilations");
    };
    let made: i64 = axes.iter().zip(&op.strides).map(|(a, s)| a.taps * s).product();
    if made > MOST * t.dims[2..].iter().product::<usize>() as i64 {
        return rw.refuse("most of the pixels that one is spread over meet no tap");
    }
    let groups = usize::try_from(op.groups).ok()?;
    let (inputs, outputs) = (t.dims[0] / groups.max(1), t.dims[1]);
    let taps: Vec<usize> = axes.iter().map(|a| a.taps as usize).collect();
    let strides: Vec<usize> = op.strides.iter().map(|s| *s as usize).collect();
    let values = t.to_f64s()?;
    let steps = kiln_kernels::index::strides(&t.dims);
    // For each place of a block the taps that fall on it, last first.
    let mut phases: Vec<Vec<f64>> = Vec::new();
    for_each(&strides, |place| {
        let mut phase = Vec::new();
        for_each(&[groups, outputs, inputs], |at| {
            let base = (at[0] * inputs + at[2]) * steps[0] + at[1] * steps[1];
            for_each(&taps, |tap| {
                let k = |i: usize| place[i] + strides[i] * (taps[i] - 1 - tap[i]);
                let inside = (0..spatial).all(|i| k(i) < t.dims[2 + i]);
                let offset: usize = (0..spatial).map(|i| k(i) * steps[2 + i]).sum();
                phase.push(if inside { values[base + offset] } else { 0.0 });
            });
        });
        phases.push(phase);
    });
    let conv = Conv {
        strides: vec![1; spatial],
        pads: [0, 1].iter().flat_map(|end| axes.iter().map(move |a| a.pads[*end])).collect(),
        dilations: axes.iter().map(|a| a.dilation).collect(),
        groups: op.groups,
    };
    let channels = groups * outputs;
    let interleave = Interleave {
        block: op.strides.clone(),
        first: axes.iter().map(|a| a.first).collect(),
        extents: rw.shape(*rw.node(n).outputs.first()?)[2..].to_vec(),
    };
    // The phases of one group are channels of one convolution. Those of several would be mixed with the groups.
    let runs: Vec<Vec<f64>> = if groups == 1 { vec![phases.concat()] } else { phases };
    let mut parts = Vec::new();
    for run in runs {
        let count = run.len() / (inputs * taps.iter().product::<usize>()).max(1);
        let dims = [vec![count, inputs], taps.clone()].concat();
        let w = rounded(&dims, &run, t.dtype)?;
        let mut operands = vec![Some(x), Some(rw.tensor(w))];
        if let Some(b) = &b {
            let repeated = b.to_f64s()?.repeat(count / channels.max(1));
            let b = rounded(&[count], &repeated, b.dtype)?;
            operands.push(Some(rw.tensor(b)));
        }
        parts.push(*rw.add_all(conv.clone().into(), operands, 1)?.first()?);
    }
    let y = match parts[..] {
        [y] => y,
        _ => rw.add(Concat { axis: 1 }, &parts)?,
    };
    let whole = interleave.places() == 1 && interleave.first.iter().all(|f| *f == 0) && rw.shape(y)[2..] == interleave.extents;
    if whole { Some(vec![y]) } else { Some(vec![rw.add(interleave, &[y])?]) }
}

fn pointwise(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let [out] = rw.node(n).outputs[..] else { return None };
    let shape = rw.shape(out).to_vec();
    let mut found: Option<(Interleave, ValueId)> = None;
    let mut inputs = each(rw, n, scalar, &mut |rw, v| {
        let Some(from) = rw.made_by(v, "Interleave") else { return rw.constant(v).map(|_| v) };
        let Op::Interleave(own) = &rw.node(from).op else { return None };
        let x = rw.input(from, 0)?;
        let fits = found.is_none() && rw.used_once(v) && *rw.shape(v) == shape;
        fits.then(|| found = Some((own.clone(), x)))?;
        Some(v)
    })?;
    let (op, x) = found?;
    let channels = usize::try_from(shape.get(1)?.as_int()?).ok()?;
    let places = usize::try_from(op.places()).ok()?;
    for (i, v) in inputs.clone().into_iter().enumerate() {
        if rw.made_by(v, "Interleave").is_some() {
            inputs[i] = x;
        } else if !scalar(rw, v) {
            let t = rw.constant(v).filter(|t| folds(t.dtype))?;
            let own: Vec<f64> = along(t, shape.len(), 1, channels)?;
            let dims = [vec![1, channels * places], vec![1; shape.len() - 2]].concat();
            let t = crate::eval::from_f64s(&dims, &own.repeat(places), t.dtype);
            inputs[i] = rw.tensor(t);
        }
    }
    let f = rw.node(n).op.clone();
    let y = rw.add(f, &inputs)?;
    Some(vec![rw.add(op, &[y])?])
}

fn outside(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let Op::Conv(conv) = rw.node(n).op.clone() else { return None };
    let (x, w) = (rw.input(n, 0)?, rw.input(n, 1)?);
    let (from, to) = (rw.shape(x).to_vec(), rw.shape(*rw.node(n).outputs.first()?).to_vec());
    let axes = conv.strides.len();
    let taps: Vec<i64> = rw.shape(w)[2..].iter().map(Dim::as_int).collect::<Option<_>>()?;
    let mut op = conv.clone();
    let mut kept: Vec<(i64, i64)> = Vec::new();
    for i in 0..axes {
        let live = |k: i64| -> Option<bool> {
            let first = k * conv.dilations[i] - conv.pads[i];
            Some(first + (to[2 + i].as_int()? - 1) * conv.strides[i] >= 0 && first < from[2 + i].as_int()?)
        };
        // Without dilation and pads to match, every tap meets something.
        let dead = conv.pads[i] >= conv.dilations[i] || conv.pads[axes + i] >= conv.dilations[i];
        let mut range = (0, taps[i]);
        if dead && let (Some(n), Some(_)) = (to[2 + i].as_int(), from[2 + i].as_int()) {
            let all: Vec<i64> = (0..taps[i]).filter(|k| n > 0 && live(*k) == Some(true)).collect();
            let (Some(a), Some(b)) = (all.first(), all.last()) else { return None };
            range = (*a, b + 1);
        }
        op.pads[i] -= range.0 * conv.dilations[i];
        op.pads[axes + i] -= (taps[i] - range.1) * conv.dilations[i];
        kept.push(range);
    }
    if kept.iter().zip(&taps).all(|(r, t)| *r == (0, *t)) {
        return None;
    }
    if op.pads.iter().any(|p| *p < 0) {
        return rw.refuse("without the taps it would begin or end inside of its operand");
    }
    let t = constant_weights(rw, w)?.clone();
    let v = t.to_f64s()?;
    if v.iter().any(|v| !v.is_finite()) {
        return None;
    }
    let dims: Vec<usize> = t.dims[..2].iter().copied().chain(kept.iter().map(|r| (r.1 - r.0) as usize)).collect();
    let steps = kiln_kernels::index::strides(&t.dims);
    let mut own = Vec::new();
    for_each(&dims, |at| {
        let offset = |i: usize| at[i] + if i < 2 { 0 } else { kept[i - 2].0 as usize };
        own.push(v[(0..at.len()).map(|i| offset(i) * steps[i]).sum::<usize>()]);
    });
    let own = rounded(&dims, &own, t.dtype)?;
    let mut inputs = rw.node(n).inputs.clone();
    inputs[1] = Some(rw.tensor(own));
    rw.add_all(op.into(), inputs, 1)
}

#[cfg(test)]
pub(in crate::rewrite) mod tests {
    use super::*;
    use crate::ops::conv::ConvTranspose;
    use crate::rewrite::tests::{Case, Example, refused};

    fn spread(c: &mut Case) -> ValueId {
        let (d, axes, groups) = (c.wide(), 1 + c.rng.below(2), 1 + c.rng.below(3));
        let (per_in, per_out) = (1 + c.rng.below(3), 1 + c.rng.below(3));
        let mut shape = vec![1 + c.rng.below(2), groups * per_in];
        shape.extend((0..axes).map(|_| 2 + c.rng.below(4)));
        let x = if c.rng.below(3) == 0 { c.open(d, &shape) } else { c.input(d, &shape) };
        let kernel: Vec<usize> = (0..axes).map(|_| 1 + c.rng.below(5)).collect();
        let w = c.factor(d, &[vec![groups * per_in, per_out], kernel.clone()].concat());
        let mut operands = vec![x, w];
        if c.rng.below(2) == 0 {
            operands.push(c.constant(d, &[groups * per_out]));
        }
        // No longer than what the taps reach, twice at most.
        let strides: Vec<i64> = kernel.iter().map(|k| 1 + c.rng.below(3.min(2 * k)) as i64).collect();
        let dilations: Vec<i64> = strides.iter().map(|s| if *s == 1 { 1 + c.rng.below(3) as i64 } else { 1 }).collect();
        let output_padding: Vec<i64> = strides.iter().map(|s| c.rng.below(*s as usize) as i64).collect();
        let pads: Vec<i64> = (0..2 * axes)
            .map(|i| {
                // At most as much as leaves something of two pixels.
                let most = (strides[i % axes] + dilations[i % axes] * (kernel[i % axes] as i64 - 1)) / 2;
                c.rng.below(most as usize + 1) as i64
            })
            .collect();
        c.op(ConvTranspose { strides, pads, dilations, output_padding, groups: groups as i64 }, &operands)
    }

    #[test]
    fn strides_with_dilations_stay() {
        refused("conv-transpose", |c| {
            let d = c.wide();
            let (x, w) = (c.input(d, &[1, 2, 4]), c.factor(d, &[2, 2, 3]));
            let op = ConvTranspose { strides: vec![2], pads: vec![0; 2], dilations: vec![2], output_padding: vec![0], groups: 1 };
            let y = c.op(op, &[x, w]);
            c.output(y);
        });
    }

    #[test]
    fn few_taps_of_long_strides_stay() {
        refused("conv-transpose", |c| {
            let d = c.wide();
            let (x, w) = (c.input(d, &[1, 2, 4]), c.factor(d, &[2, 2, 1]));
            let op = ConvTranspose { strides: vec![5], pads: vec![0; 2], dilations: vec![1], output_padding: vec![0], groups: 1 };
            let y = c.op(op, &[x, w]);
            c.output(y);
        });
    }

    #[test]
    fn taps_that_meet_the_operand_stay() {
        refused("conv-outside", |c| {
            let d = c.wide();
            let (x, w) = (c.input(d, &[1, 2, 4]), c.factor(d, &[2, 2, 3]));
            let y = c.op(Conv { strides: vec![1], pads: vec![3, 3], dilations: vec![3], groups: 1 }, &[x, w]);
            c.output(y);
        });
    }

    pub(in crate::rewrite) const EXAMPLES: &[Example] = &[
        ("conv-transpose", |c| {
            let y = spread(c);
            c.output(y);
        }),
        ("pointwise-interleave", |c| {
            let d = c.wide();
            let (block, m) = (vec![1 + c.rng.below(2) as i64, 2], 1 + c.rng.below(3));
            let x = c.input(d, &[2, m * 2 * block[0] as usize, 3, 2]);
            let extents = vec![Dim::int(3 * block[0] - 1), Dim::int(2 + c.rng.below(2) as i64)];
            let y = c.op(Interleave { block, first: vec![0, 1], extents }, &[x]);
            let k = match c.rng.below(3) {
                0 => c.constant(d, &[]),
                1 => c.constant(d, &[m, 1, 1]),
                _ => c.constant(d, &[1, m, 1, 1]),
            };
            let name = c.rng.pick(&["Add", "Max"]);
            let z = c.pointwise(name, &[y, k]);
            c.output(z);
        }),
        ("conv-outside", |c| {
            let d = c.wide();
            let (h, w) = (1 + c.rng.below(4), 5 + c.rng.below(3));
            let x = c.input(d, &[2, 2, h, w]);
            let far = (h + c.rng.below(3)) as i64;
            let weights = c.factor(d, &[3, 2, 3, 2]);
            let pads = vec![far, c.rng.below(2) as i64, far, c.rng.below(2) as i64];
            let y = c.op(Conv { strides: vec![1, 2], pads, dilations: vec![far, 1], groups: 1 }, &[x, weights]);
            c.output(y);
        }),
    ];
}
