//! What inference takes for granted of extents that only run time can tell: checked before a step touches memory.

use crate::ir::{Dim, Graph, Node, ValueId, product};
use crate::ops::Op;
use crate::ops::conv::{Conv, ConvInteger};
use crate::ops::movement::{Append, Concat};

/// A condition on extents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// The two are equal.
    Equal(Dim, Dim),
    /// The two are equal, or one of them is 1.
    Meet(Dim, Dim),
    /// An index lies inside of an extent, when `count` is not 0.
    Within {
        /// The index.
        index: Dim,
        /// The extent.
        extent: Dim,
        /// How many elements are read.
        count: Dim,
    },
}

impl Check {
    /// Whether it holds whatever the symbols are.
    fn holds(&self) -> bool {
        match self {
            Check::Equal(a, b) => a == b,
            Check::Meet(a, b) => a == b || a.is(1) || b.is(1),
            Check::Within { index, extent, count } => {
                count.is(0) || matches!((index.as_int(), extent.as_int()), (Some(i), Some(n)) if i >= 0 && i < n)
            }
        }
    }
    /// The extents it speaks of.
    pub fn dims(&self) -> Vec<&Dim> {
        match self {
            Check::Equal(a, b) | Check::Meet(a, b) => vec![a, b],
            Check::Within { index, extent, count } => vec![index, extent, count],
        }
    }
}

/// The conditions of a node that are not plain from its types.
pub(super) fn of(g: &Graph, node: &Node) -> Vec<Check> {
    let shape = |i: usize| node.inputs.get(i).copied().flatten().map_or(&[][..], |v: ValueId| g.shape(v));
    let out = |i: usize| node.outputs.get(i).map_or(&[][..], |v| g.shape(*v));
    let mut checks = Vec::new();
    match &node.op {
        Op::MatMul(_) => {
            let (a, b, o) = (shape(0), shape(1), out(0));
            checks.push(Check::Equal(a[a.len() - 1].clone(), b[b.len() - 2].clone()));
            for s in [a, b] {
                let batch = &s[..s.len() - 2];
                for (d, n) in batch.iter().zip(&o[o.len() - 2 - batch.len()..]) {
                    checks.push(Check::Meet(d.clone(), n.clone()));
                }
            }
        }
        Op::NarrowMatMul(op) => checks.push(Check::Equal(shape(0)[shape(0).len() - 1].clone(), shape(1)[op.axis].clone())),
        Op::MatMulInteger(_) => checks.push(Check::Equal(shape(0)[shape(0).len() - 1].clone(), shape(1)[0].clone())),
        Op::Conv(Conv { groups, .. }) | Op::ConvInteger(ConvInteger { groups, .. }) => {
            checks.push(Check::Equal(shape(0)[1].clone(), shape(1)[1].clone() * Dim::int(*groups)));
        }
        Op::Concat(Concat { axis }) | Op::Append(Append { axis }) => {
            for i in 0..node.inputs.len() {
                for (k, d) in shape(i).iter().enumerate().filter(|(k, _)| k != axis) {
                    checks.push(Check::Equal(d.clone(), out(0)[k].clone()));
                }
            }
        }
        Op::LayerNorm(l) => {
            for i in (1..3).filter(|i| node.inputs.get(*i).copied().flatten().is_some()) {
                checks.push(Check::Equal(product(shape(i)), product(&shape(0)[l.axis..])));
            }
        }
        Op::Reshape(r) => checks.push(Check::Equal(product(shape(0)), product(&r.shape))),
        Op::Expand(e) => {
            let (x, o) = (shape(0), out(0));
            for (d, n) in x.iter().rev().zip(e.shape.iter().rev()) {
                checks.push(Check::Meet(d.clone(), n.clone()));
            }
            for (d, n) in x.iter().zip(&o[o.len() - x.len()..]) {
                // The copy reads along every axis whose extent is not known to be 1.
                checks.push(if d.is(1) { Check::Meet(d.clone(), n.clone()) } else { Check::Equal(d.clone(), n.clone()) });
            }
        }
        Op::Attend(_) => {
            let (o, keys) = (out(0), shape(1));
            let scores = [&o[..o.len() - 1], &keys[keys.len() - 2..keys.len() - 1]].concat();
            for (d, n) in shape(3).iter().rev().zip(scores.iter().rev()).filter(|(d, _)| !d.is(1)) {
                checks.push(Check::Equal(d.clone(), n.clone()));
            }
        }
        Op::Split(s) => {
            let total = s.sizes.iter().fold(Dim::int(0), |a, b| a + b.clone());
            checks.push(Check::Equal(total, shape(0)[s.axis].clone()));
        }
        Op::Slice(s) => {
            let any = Dim::int(i64::from(i32::MAX));
            checks.extend(s.bounds.iter().map(|b| Check::Within { index: b.clone(), extent: any.clone(), count: Dim::int(1) }));
            for (i, n) in shape(0).iter().enumerate() {
                let whole = s.starts[i].is(0) && s.steps[i] == 1 && s.sizes[i] == *n;
                if !whole {
                    let last = s.starts[i].clone() + (s.sizes[i].clone() - Dim::int(1)) * Dim::int(s.steps[i]);
                    for index in [s.starts[i].clone(), last] {
                        checks.push(Check::Within { index, extent: n.clone(), count: s.sizes[i].clone() });
                    }
                }
            }
        }
        _ => {}
    }
    checks.retain(|c| !c.holds());
    checks
}
