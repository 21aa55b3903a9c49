//! Which results are written straight to where a Concat, a Transpose or a Reshape would copy them.

use super::views::{assign, captured, fits};
use super::{Access, Layout, Layouts, steps};
use crate::fusion::Cluster;
use crate::ir::{Dim, Graph, Node, NodeId, ValueId, product};
use crate::ops::Op;
use crate::target::cpu;
use std::collections::{BTreeMap, BTreeSet};

/// Places results in the memory of the values they become parts of, last nodes first, so that parts of parts follow. `views` are the
/// nodes whose results are views.
pub(super) fn choose(g: &Graph, clusters: &[Cluster], views: &[NodeId], layouts: &mut Layouts) {
    let mut p = Placer { g, clusters, views, maker: BTreeMap::new(), readers: BTreeMap::new(), kept: BTreeSet::new() };
    p.kept.extend(g.body.inputs.iter().chain(&g.body.outputs));
    for (i, c) in clusters.iter().enumerate() {
        for n in &c.nodes {
            g[*n].outputs.iter().for_each(|v| {
                p.maker.insert(*v, i);
            });
            g[*n].inputs.iter().flatten().for_each(|v| {
                p.readers.entry(*v).or_default().insert(i);
            });
            g[*n].blocks.iter().for_each(|b| captured(g, b, &mut p.kept));
            if !g[*n].blocks.is_empty() {
                p.kept.extend(g[*n].inputs.iter().flatten());
            }
        }
    }
    for c in clusters.iter().rev() {
        let Some(node) = c.anchor.map(|n| &g[n]) else { continue };
        let out = node.outputs[0];
        if !fits(g, out) || layouts.is_view(out) {
            continue;
        }
        for (x, access) in parts(g, node, &layouts.access(g, out)) {
            p.place(x, access, layouts);
        }
    }
}

/// Where a node that only moves elements puts its operands.
fn parts(g: &Graph, node: &Node, out: &Access) -> Vec<(ValueId, Access)> {
    let Some(x) = node.inputs.first().copied().flatten() else { return vec![] };
    let Op::Concat(c) = &node.op else {
        return whole(g, node, out).map(|a| (x, a)).into_iter().collect();
    };
    let shape = g.shape(node.outputs[0]);
    let mut start = out.start.clone();
    let mut parts = Vec::new();
    for &x in node.inputs.iter().flatten() {
        let own = g.shape(x);
        // Extents that only run time can compare are compared before anything is copied, which would be too late here.
        if own.iter().zip(shape).enumerate().any(|(i, (d, n))| i != c.axis && d != n) {
            return vec![];
        }
        parts.push((x, Access { of: out.of, start: start.clone(), strides: out.strides.clone() }));
        start = start + out.strides[c.axis].clone() * own[c.axis].clone();
    }
    parts
}

/// Where the operand of a node lies whose result is all of it in another shape, given where the result does.
fn whole(g: &Graph, node: &Node, out: &Access) -> Option<Access> {
    let x = node.inputs.first().copied().flatten()?;
    let (from, to) = (g.shape(x), g.shape(*node.outputs.first()?));
    let strides = match &node.op {
        Op::Transpose(t) => {
            let mut strides = vec![Dim::int(0); from.len()];
            for (p, s) in t.perm.iter().zip(&out.strides) {
                *strides.get_mut(*p)? = s.clone();
            }
            strides
        }
        Op::Reshape(_) if product(from) == product(to) => steps::reshape(to, &out.strides, from)?,
        _ => return None,
    };
    Some(Access { of: out.of, start: out.start.clone(), strides })
}

struct Placer<'a> {
    g: &'a Graph,
    clusters: &'a [Cluster],
    views: &'a [NodeId],
    /// The cluster that makes each value, and those that read it.
    maker: BTreeMap<ValueId, usize>,
    readers: BTreeMap<ValueId, BTreeSet<usize>>,
    /// Values that others than kernels hold: ports of the model, and what blocks read.
    kept: BTreeSet<ValueId>,
}

impl Placer<'_> {
    /// Has a value written to a place, if the kernel that makes it can, and if nobody who reads it needs a copy for that.
    fn place(&self, mut v: ValueId, mut access: Access, layouts: &mut Layouts) {
        // A view is written where it is, by the maker of what it shows.
        while layouts.is_view(v) {
            let Some(node) = self.maker.get(&v).map(|i| &self.g[self.clusters[*i].nodes[0]]) else { return };
            let (Some(x), Some(a)) = (node.inputs[0], whole(self.g, node, &access)) else { return };
            (v, access) = (x, a);
        }
        let Some(&maker) = self.maker.get(&v) else { return };
        let settled = self.g.known_at_entry(&access.start) && access.strides.iter().all(|s| self.g.known_at_entry(s));
        let own = fits(self.g, v) && layouts.shared(v).is_none() && self.g[v].constant.is_none();
        if !settled || !own || access.of == v || !self.g[self.clusters[maker].nodes[0]].blocks.is_empty() {
            return;
        }
        let mut placed = layouts.clone();
        placed.accesses.insert(v, access);
        let mut views = self.views.to_vec();
        assign(self.g, &mut views, &mut placed);
        let moved: Vec<ValueId> =
            std::iter::once(v).chain(placed.views.iter().copied().filter(|w| placed.shared(*w) != layouts.shared(*w))).collect();
        if views.len() != self.views.len() || moved.iter().any(|w| self.kept.contains(w)) || !self.selected(maker, &placed).places {
            return;
        }
        let concerned: BTreeSet<usize> =
            moved.iter().flat_map(|w| self.readers.get(w).into_iter().flatten().copied()).chain([maker]).collect();
        let copies = |i: usize, l: &Layouts| -> BTreeSet<(ValueId, Layout)> {
            let wants = self.selected(i, l).wants;
            wants.into_iter().filter(|(v, layout)| !l.is_dense(self.g, *v, *layout)).collect()
        };
        let kernels = concerned.into_iter().filter(|i| !self.clusters[*i].outputs.iter().any(|v| placed.is_view(*v)));
        if kernels.into_iter().all(|i| copies(i, &placed).is_subset(&copies(i, layouts))) {
            *layouts = placed;
        }
    }
    fn selected(&self, i: usize, layouts: &Layouts) -> cpu::Selected {
        cpu::select(self.g, &self.clusters[i], layouts)
    }
}
