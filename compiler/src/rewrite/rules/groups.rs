//! Normalizations of groups of channels recognised: exporters write them as normalizations of another shape, with factors by channel.

use super::{along, orders};
use crate::eval;
use crate::ir::{NodeId, ValueId};
use crate::ops::Op;
use crate::ops::norm::GroupNorm;
use crate::rewrite::{Class, Found, Rewriter, Rule};
use kiln_kernels::dtype::DType;

/// Rules about normalizations of groups.
#[rustfmt::skip]
pub const RULES: &[Rule] = &[
    Rule { name: "group-norm", on: &["Reshape"], equation: "Reshape(InstanceNorm(Reshape(x, [N, G, k]); g, b), [N, C, ..]) => GroupNorm(x; g, b)  where G divides C; so with LayerNorm over k", class: Class::Reassociating, apply: group_norm },
    Rule { name: "group-scale", on: &["Mul"], equation: "GroupNorm(x; g, b) * c => GroupNorm(x; g*c, b*c)  where all are constant, and c has an element for each channel", class: Class::Reassociating, apply: |rw, n| scaled(rw, n, true) },
    Rule { name: "group-bias", on: &["Add"], equation: "GroupNorm(x; g, b) + c => GroupNorm(x; g, b+c)  where b and c are constant, and c has an element for each channel", class: Class::Reassociating, apply: |rw, n| scaled(rw, n, false) },
];

/// The numbers of a constant operand.
fn numbers(rw: &Rewriter<'_>, n: NodeId, i: usize) -> Option<Vec<f64>> {
    rw.constant(rw.input(n, i)?)?.to_f64s()
}

/// The factors and summands, by group, of a node that normalizes each group in `[N, G, k]`, and what is added to the variance.
fn normalizes(rw: &Rewriter<'_>, n: NodeId, groups: usize) -> Option<([Vec<f64>; 2], f32)> {
    match &rw.node(n).op {
        Op::InstanceNorm(i) => Some(([numbers(rw, n, 1)?, numbers(rw, n, 2)?], i.epsilon.get())),
        Op::LayerNorm(l) if l.centred && l.axis == 2 && rw.node(n).outputs.len() == 1 => {
            let bias = rw.input(n, 2).map_or(Some(0.0), |b| rw.uniform(b))?;
            Some(([rw.uniform(rw.input(n, 1)?)?, bias].map(|x| vec![x; groups]), l.epsilon.get()))
        }
        _ => None,
    }
}

fn group_norm(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let y = rw.input(n, 0)?;
    let m = rw.producer(y).filter(|_| rw.used_once(y))?;
    let flat = rw.input(m, 0)?;
    let (_, epsilon) = normalizes(rw, m, 0)?;
    let x = rw.input(rw.made_by(flat, "Reshape")?, 0)?;
    let (shape, rows) = (rw.shape(x).to_vec(), rw.shape(flat).to_vec());
    let groups = rows.get(1)?.as_int().and_then(|g| usize::try_from(g).ok()).filter(|g| *g > 0)?;
    let same = rw.ty(x) == rw.ty(*rw.node(n).outputs.first()?);
    if rows.len() != 3 || shape.len() < 2 || shape[0] != rows[0] || !same {
        return None;
    }
    let channels = shape[1].as_int().and_then(|c| usize::try_from(c).ok()).filter(|c| c % groups == 0)?;
    let (by_group, _) = normalizes(rw, m, groups)?;
    let dtype = rw.dtype(x);
    let [scale, bias] = by_group.map(|t| {
        let each: Vec<f64> = t.iter().flat_map(|x| vec![*x; channels / groups]).collect();
        rw.tensor(eval::from_f64s(&[channels], &each, dtype))
    });
    Some(vec![rw.add(GroupNorm { groups, epsilon: epsilon.into() }, &[x, scale, bias])?])
}

fn scaled(rw: &mut Rewriter<'_>, n: NodeId, factor: bool) -> Found {
    let find = |rw: &Rewriter<'_>, (y, c): (ValueId, ValueId)| {
        let m = rw.made_by(y, "GroupNorm").filter(|_| rw.used_once(y))?;
        let (rank, channels) = (rw.shape(y).len(), rw.shape(y)[1].as_int()? as usize);
        (rw.ty(y) == rw.ty(*rw.node(n).outputs.first()?)).then_some(())?;
        Some((m, along(rw.constant(c)?, rank, 1, channels)?))
    };
    let (m, c) = orders(rw, n)?.into_iter().find_map(|pair| find(rw, pair))?;
    let (mut scale, mut bias) = (numbers(rw, m, 1)?, numbers(rw, m, 2)?);
    for (i, c) in c.iter().enumerate() {
        if factor {
            scale[i] *= c;
            bias[i] *= c;
        } else {
            bias[i] += c;
        }
    }
    let x = rw.input(m, 0)?;
    let dtype: DType = rw.dtype(x);
    let [scale, bias] = [scale, bias].map(|t| rw.tensor(eval::from_f64s(&[t.len()], &t, dtype)));
    let op = rw.node(m).op.clone();
    Some(vec![rw.add(op, &[x, scale, bias])?])
}

#[cfg(test)]
pub(in crate::rewrite) mod tests {
    use super::*;
    use crate::ir::Dim;
    use crate::ops::norm::{InstanceNorm, LayerNorm};
    use crate::ops::shape::Reshape;
    use crate::rewrite::tests::{Case, Example};

    /// An image, its shape, and how many groups its channels are in.
    fn image(c: &mut Case) -> (ValueId, Vec<usize>, usize) {
        let (groups, each) = (1 + c.rng.below(3), 1 + c.rng.below(3));
        let shape = vec![1 + c.rng.below(2), groups * each, 1 + c.rng.below(4), 1 + c.rng.below(3)];
        let d = c.wide();
        (c.input(d, &shape), shape, groups)
    }
    fn normal(c: &mut Case) -> (ValueId, Vec<usize>) {
        let (x, shape, groups) = image(c);
        let d = c.g.dtype(x);
        let (scale, bias) = (c.factor(d, &shape[1..2]), c.factor(d, &shape[1..2]));
        (c.op(GroupNorm { groups, epsilon: 0.1.into() }, &[x, scale, bias]), shape)
    }
    /// `y` and a constant by channel.
    fn by_channel(c: &mut Case, name: &'static str) {
        let (y, shape) = normal(c);
        let by = c.factor(c.g.dtype(y), &[shape[1], 1, 1]);
        let y = if c.rng.below(2) == 0 { c.pointwise(name, &[y, by]) } else { c.pointwise(name, &[by, y]) };
        c.output(y);
    }

    pub(in crate::rewrite) const EXAMPLES: &[Example] = &[
        ("group-norm", |c| {
            let (x, shape, groups) = image(c);
            let d = c.g.dtype(x);
            let count: usize = shape[1..].iter().product();
            let rows = [shape[0], groups, count / groups];
            let dims = |s: &[usize]| s.iter().map(|d| Dim::int(*d as i64)).collect::<Vec<_>>();
            let flat = c.op(Reshape { shape: dims(&rows) }, &[x]);
            let y = match c.rng.below(2) {
                0 => {
                    let (scale, bias) = (c.factor(d, &rows[1..2]), c.factor(d, &rows[1..2]));
                    c.op(InstanceNorm { epsilon: 0.1.into() }, &[flat, scale, bias])
                }
                _ => {
                    let scale = c.filled(d, &rows[2..], 1.0);
                    c.op(LayerNorm { axis: 2, epsilon: 0.1.into(), centred: true }, &[flat, scale])
                }
            };
            let y = c.op(Reshape { shape: dims(&shape) }, &[y]);
            c.output(y);
        }),
        ("group-scale", |c| by_channel(c, "Mul")),
        ("group-bias", |c| by_channel(c, "Add")),
    ];
}
