//! Which results of Transpose, Slice, Split, Reshape and Expand are only other ways to read memory that is there.

use super::{Access, Layout, Layouts, steps};
use crate::fusion::Cluster;
use crate::ir::{Block, Dim, Graph, Node, NodeId, Type, ValueId};
use crate::ops::Op;
use crate::target::cpu;
use kiln_kernels::dtype::DType;
use std::collections::{BTreeMap, BTreeSet};

/// Whether a value fits the arena: a dense tensor whose extents the inputs settle.
pub fn fits(g: &Graph, v: ValueId) -> bool {
    match g.ty(v) {
        Type::Tensor(d, shape) => *d != DType::Str && d.bits() >= 8 && shape.iter().all(|d| g.known_at_entry(d)),
        _ => false,
    }
}

/// Makes a view of every result that all its readers can read in the memory of its operand; answers the nodes of those.
pub(super) fn choose(g: &Graph, clusters: &[Cluster], layouts: &mut Layouts) -> Vec<NodeId> {
    let maker: BTreeMap<ValueId, NodeId> =
        clusters.iter().flat_map(|c| c.nodes.iter().flat_map(|n| g[*n].outputs.iter().map(|v| (*v, *n)))).collect();
    let mut nodes: Vec<NodeId> = clusters.iter().filter_map(|c| c.anchor).filter(|n| movable(g, &g[*n], &maker)).collect();
    loop {
        assign(g, &mut nodes, layouts);
        let refused: BTreeSet<NodeId> = refused(g, clusters, layouts).iter().filter_map(|v| maker.get(v).copied()).collect();
        if refused.is_empty() {
            return nodes;
        }
        nodes.retain(|n| !refused.contains(n));
    }
}

/// Whether a node only moves elements from and to memory whose extents and places are settled on entry.
fn movable(g: &Graph, node: &Node, maker: &BTreeMap<ValueId, NodeId>) -> bool {
    let Some(x) = node.inputs.first().copied().flatten() else { return false };
    // What host functions and blocks hand out lies in slots, or wherever the blocks have it.
    let fixed = maker.get(&x).is_none_or(|n| !matches!(g[*n].op, Op::Host(_) | Op::If(_) | Op::Loop(_)));
    let moves = matches!(node.op, Op::Transpose(_) | Op::Slice(_) | Op::Split(_) | Op::Reshape(_) | Op::BitCast(_) | Op::Expand(_));
    moves && fixed && fits(g, x) && node.outputs.iter().all(|v| fits(g, *v))
}

/// Gives every result of the nodes its access, and drops the nodes whose results have none.
fn assign(g: &Graph, nodes: &mut Vec<NodeId>, layouts: &mut Layouts) {
    for v in std::mem::take(&mut layouts.views) {
        layouts.accesses.remove(&v);
    }
    nodes.retain(|n| {
        let node = &g[*n];
        let Some(x) = node.inputs[0] else { return false };
        let from = layouts.access(g, x);
        let moved: Option<Vec<Access>> =
            (0..node.outputs.len()).map(|i| steps::moved(g, node, i, &from).filter(|a| settled(g, a))).collect();
        let Some(moved) = moved else { return false };
        for (v, a) in node.outputs.iter().zip(moved) {
            layouts.accesses.insert(*v, a);
            layouts.views.insert(*v);
        }
        true
    });
}

/// Whether the inputs settle where a value lies.
pub(super) fn settled(g: &Graph, a: &Access) -> bool {
    g.known_at_entry(&a.start) && a.strides.iter().all(|s| g.known_at_entry(s))
}

/// The views that some reader cannot read, or should not.
fn refused(g: &Graph, clusters: &[Cluster], layouts: &Layouts) -> BTreeSet<ValueId> {
    let mut out = BTreeSet::new();
    for c in clusters {
        let node = &g[c.nodes[0]];
        if node.outputs.first().is_some_and(|v| layouts.is_view(*v)) {
            continue;
        }
        if !node.blocks.is_empty() {
            let mut read: BTreeSet<ValueId> = node.inputs.iter().flatten().copied().collect();
            node.blocks.iter().for_each(|b| captured(g, b, &mut read));
            out.extend(read.into_iter().filter(|v| layouts.is_view(*v) && !layouts.is_whole(g, *v)));
            continue;
        }
        // A value that would lie otherwise in memory of its own is copied in any case.
        let copied =
            |(v, layout): &(ValueId, Layout)| layouts.is_view(*v) && layouts.of(*v) == *layout && !layouts.is_dense(g, *v, *layout);
        out.extend(cpu::select(g, c, layouts).wants.iter().filter(|w| copied(w)).map(|(v, _)| *v));
    }
    // Outputs lie in buffers of the arena, from the first element on.
    let arena = |v: ValueId| layouts.shared(v).is_none_or(|a| g[a.of].constant.is_none() && !g.body.inputs.contains(&a.of));
    out.extend(g.body.outputs.iter().filter(|v| layouts.is_view(**v) && !(layouts.is_whole(g, **v) && arena(**v))));
    out
}

/// Every value that a block, or one inside of it, reads.
pub fn captured(g: &Graph, b: &Block, out: &mut BTreeSet<ValueId>) {
    out.extend(&b.outputs);
    for n in &b.nodes {
        out.extend(g[*n].inputs.iter().flatten());
        g[*n].blocks.iter().for_each(|b| captured(g, b, out));
    }
}

/// Whether no step of an access can lead backwards.
pub fn is_forward(g: &Graph, strides: &[Dim]) -> bool {
    strides.iter().all(|s| g.range(s).lo >= 0)
}
