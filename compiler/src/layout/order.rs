//! The order of each value's axes in memory, chosen so that neighbours agree.

use super::Layout;
use crate::fusion::Cluster;
use crate::ir::{Graph, ValueId};
use crate::ops::Op;
use kiln_kernels::dtype::DType;
use std::collections::BTreeMap;

/// Chooses orders for the results of the clusters of the model's own block.
pub(super) fn choose(g: &Graph, clusters: &[Cluster]) -> BTreeMap<ValueId, Layout> {
    let mut out = BTreeMap::new();
    let last = |out: &BTreeMap<ValueId, Layout>, v: ValueId| out.get(&v) == Some(&Layout::ChannelsLast);
    for c in clusters {
        let Some(&v) = c.outputs.first() else { continue };
        let shape = g.shape(v);
        // Where all but one of the extents that move are 1, both orders are the same.
        let moves = shape.len() >= 3 && shape[2..].iter().any(|d| !d.is(1)) && !shape[1].is(1);
        // Results of a tail are all alike; those of other kernels are not.
        let alike = c.head.is_none() && (c.tail.is_some() || c.outputs.len() == 1);
        if !moves || !alike {
            continue;
        }
        let inherits = |inputs: &[ValueId]| inputs.iter().any(|x| g.shape(*x) == shape && last(&out, *x));
        let channels_last = match c.anchor.map(|n| &g[n]) {
            Some(node) => match &node.op {
                Op::Conv(_) => g.dtype(v) == DType::F32 && crate::target::cpu::packs(g, node),
                Op::Pool(_) => crate::target::cpu::pools(g, node) && node.inputs[0].is_some_and(|x| last(&out, x)),
                Op::InstanceNorm(_) | Op::GroupNorm(_) => {
                    crate::target::cpu::norms_pixels(g, node) && node.inputs[0].is_some_and(|x| last(&out, x))
                }
                Op::Concat(_) => node.inputs.iter().flatten().all(|x| last(&out, *x)),
                Op::Slice(_) | Op::Resize(_) => {
                    let nearest = match &node.op {
                        Op::Resize(r) => crate::target::cpu::whole_nearest(g, node, r),
                        _ => true,
                    };
                    nearest && node.inputs[0].is_some_and(|x| last(&out, x))
                }
                _ => false,
            },
            None => c.tail.as_ref().is_some_and(|t| inherits(&t.inputs)),
        };
        if channels_last {
            out.extend(c.outputs.iter().map(|v| (*v, Layout::ChannelsLast)));
        }
    }
    out
}
