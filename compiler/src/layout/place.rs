//! Which results are written straight to where a Concat, a Transpose or a Reshape would copy them.

use super::views::{captured, fits, settled};
use super::{Access, Layout, Layouts, steps};
use crate::fusion::Cluster;
use crate::ir::{Dim, Graph, Node, NodeId, ValueId, product};
use crate::ops::Op;
use crate::ops::movement::{Append, Concat};
use crate::target::cpu;
use std::collections::{BTreeMap, BTreeSet};

/// Places results in the memory of the values they become parts of, last nodes first, so that parts of parts follow. `views` are the
/// nodes whose results are views.
pub(super) fn choose(g: &Graph, clusters: &[Cluster], views: &[NodeId], layouts: &mut Layouts) {
    let mut p = Placer { g, clusters, views: BTreeMap::new(), maker: BTreeMap::new(), readers: BTreeMap::new(), kept: BTreeSet::new() };
    for n in views {
        g[*n].inputs.first().copied().flatten().into_iter().for_each(|x| p.views.entry(x).or_default().push(*n));
    }
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
        if let Some(access) = side_by_side(g, node, layouts) {
            p.place(out, access, layouts);
        }
        for (x, access) in parts(g, node, &layouts.access(g, out)) {
            p.place(x, access, layouts);
        }
    }
}

/// Where the result of a Concat lies whose operands stand side by side in the memory of another value already: those of a longer Concat, as
/// each layer of a dense block has one.
fn side_by_side(g: &Graph, node: &Node, layouts: &Layouts) -> Option<Access> {
    if !matches!(node.op, Op::Concat(_)) {
        return None;
    }
    let all = layouts.shared(node.inputs.first().copied().flatten()?)?;
    let placed = |(x, access): (ValueId, Access)| layouts.shared(x) == Some(&access);
    let parts = parts(g, node, all);
    let same = layouts.of(node.outputs[0]) == layouts.of(all.of);
    (same && parts.len() == node.inputs.len() && parts.into_iter().all(placed)).then(|| all.clone())
}

/// Where a node that only moves elements puts its operands.
fn parts(g: &Graph, node: &Node, out: &Access) -> Vec<(ValueId, Access)> {
    let Some(x) = node.inputs.first().copied().flatten() else { return vec![] };
    let (Op::Concat(Concat { axis }) | Op::Append(Append { axis })) = &node.op else {
        return whole(g, node, out).map(|a| (x, a)).into_iter().collect();
    };
    let shape = g.shape(node.outputs[0]);
    let mut start = out.start.clone();
    let mut parts = Vec::new();
    for &x in node.inputs.iter().flatten() {
        let own = g.shape(x);
        // Extents that only run time can compare are compared before anything is copied, which would be too late here.
        if own.iter().zip(shape).enumerate().any(|(i, (d, n))| i != *axis && d != n) {
            return vec![];
        }
        parts.push((x, Access { of: out.of, start: start.clone(), strides: out.strides.clone() }));
        start = start + out.strides[*axis].clone() * own[*axis].clone();
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
    /// The nodes whose results are views, by the value that those show.
    views: BTreeMap<ValueId, Vec<NodeId>>,
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
        let own = fits(self.g, v) && layouts.shared(v).is_none() && self.g[v].constant.is_none();
        if !settled(self.g, &access) || !own || access.of == v || !self.g[self.clusters[maker].nodes[0]].blocks.is_empty() {
            return;
        }
        let Some(before) = self.shift(v, access, layouts) else { return };
        let moved: Vec<ValueId> = before.iter().map(|(w, _)| *w).collect();
        let fits = !moved.iter().any(|w| self.kept.contains(w)) && self.selected(maker, layouts).places;
        let concerned: BTreeSet<usize> =
            moved.iter().flat_map(|w| self.readers.get(w).into_iter().flatten().copied()).chain([maker]).collect();
        let kernels: Vec<usize> =
            concerned.into_iter().filter(|i| !self.clusters[*i].outputs.iter().any(|v| layouts.is_view(*v))).collect();
        let copies = |l: &Layouts| -> Vec<BTreeSet<(ValueId, Layout)>> { kernels.iter().map(|i| self.copies(*i, l)).collect() };
        let here = if fits { copies(layouts) } else { vec![] };
        let there = restore(before, layouts);
        if fits && here.iter().zip(copies(layouts)).all(|(here, elsewhere)| here.is_subset(&elsewhere)) {
            restore(there, layouts);
        }
    }
    /// Has a value lie elsewhere, and all views of it with it; gives what was known of them. Nothing changes where one is no view then.
    fn shift(&self, v: ValueId, access: Access, layouts: &mut Layouts) -> Option<Known> {
        let mut before = vec![(v, layouts.accesses.insert(v, access))];
        let mut next = 0;
        while let Some((of, _)) = before.get(next) {
            let from = layouts.access(self.g, *of);
            for n in self.views.get(of).into_iter().flatten() {
                for (i, w) in self.g[*n].outputs.iter().enumerate() {
                    let Some(a) = steps::moved(self.g, &self.g[*n], i, &from).filter(|a| settled(self.g, a)) else {
                        restore(before, layouts);
                        return None;
                    };
                    before.push((*w, layouts.accesses.insert(*w, a)));
                }
            }
            next += 1;
        }
        Some(before)
    }
    /// The copies that a cluster's kernel needs.
    fn copies(&self, i: usize, layouts: &Layouts) -> BTreeSet<(ValueId, Layout)> {
        let wants = self.selected(i, layouts).wants;
        wants.into_iter().filter(|(v, layout)| !layouts.is_dense(self.g, *v, *layout)).collect()
    }
    fn selected(&self, i: usize, layouts: &Layouts) -> cpu::Selected {
        cpu::select(self.g, &self.clusters[i], layouts)
    }
}

/// Where values lay, or that they had memory of their own.
type Known = Vec<(ValueId, Option<Access>)>;

/// Has values lie where they did; gives where they lay in between.
fn restore(known: Known, layouts: &mut Layouts) -> Known {
    let back = |(v, a): (ValueId, Option<Access>)| {
        let now = match a {
            Some(a) => layouts.accesses.insert(v, a),
            None => layouts.accesses.remove(&v),
        };
        (v, now)
    };
    known.into_iter().map(back).collect()
}
