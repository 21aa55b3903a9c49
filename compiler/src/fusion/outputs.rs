//! Clusters take in pointwise clusters that read what they compute or read, and store more than one value then: one pass over memory
//! instead of two.
//!
//! Only whole clusters are joined, after each has been grown to one result and kernels over rows have taken what they can, so that no
//! kernel loses its tail to another.

use super::{Cluster, Cx, MAX_INPUTS, MAX_NODES};
use crate::ir::{Block, NodeId, ValueId};
use crate::layout;
use std::collections::{BTreeMap, BTreeSet};

/// Results of a kernel: each is a pointer more in its loop, and a stream more to memory.
const MAX_OUTPUTS: usize = 2;
/// Readers of a value that are tried.
const MAX_TRIED: usize = 32;

/// Joins clusters as long as it pays. They stand with the time at which they run, which is the position of one of their nodes.
pub(super) fn join(cx: &Cx<'_>, block: &Block, clusters: &mut Vec<(usize, Cluster)>) {
    clusters.sort_by_key(|(time, _)| *time);
    let mut join = Outputs::new(cx, block, std::mem::take(clusters));
    for a in 0..join.clusters.len() {
        while let Some((b, joined)) = join.best(a) {
            join.replace(a, b, joined);
        }
    }
    clusters.extend(join.clusters.into_iter().filter(|(_, c)| !c.nodes.is_empty()));
}

/// Why cluster `b` of a block does not share the kernel of cluster `a`, which computes what it reads; `None` where it could.
pub(super) fn refusal(cx: &Cx<'_>, block: &Block, clusters: &[Cluster], [a, b]: [usize; 2]) -> Option<&'static str> {
    Outputs::new(cx, block, clusters.iter().cloned().enumerate().collect()).legal(a, b).err()
}

struct Outputs<'a> {
    cx: &'a Cx<'a>,
    clusters: Vec<(usize, Cluster)>,
    /// The cluster that computes a value, and those that read it, inner blocks included.
    maker: BTreeMap<ValueId, usize>,
    readers: BTreeMap<ValueId, BTreeSet<usize>>,
    /// Values that are not stored as rows.
    channels_last: BTreeSet<ValueId>,
}

impl<'a> Outputs<'a> {
    fn new(cx: &'a Cx<'a>, block: &Block, clusters: Vec<(usize, Cluster)>) -> Outputs<'a> {
        let (mut maker, mut readers) = (BTreeMap::new(), BTreeMap::<ValueId, BTreeSet<usize>>::new());
        let home: BTreeMap<NodeId, usize> =
            clusters.iter().enumerate().flat_map(|(i, (_, c))| c.nodes.iter().map(move |n| (*n, i))).collect();
        for n in &block.nodes {
            let mut read: BTreeSet<ValueId> = cx.g[*n].inputs.iter().flatten().copied().collect();
            cx.g[*n].blocks.iter().for_each(|b| layout::captured(cx.g, b, &mut read));
            for v in read {
                readers.entry(v).or_default().insert(home[n]);
            }
            maker.extend(cx.g[*n].outputs.iter().map(|v| (*v, home[n])));
        }
        let plain: Vec<Cluster> = clusters.iter().map(|(_, c)| c.clone()).collect();
        let channels_last = layout::channels_last(cx.g, &plain);
        Outputs { cx, clusters, maker, readers, channels_last }
    }

    /// The first cluster that may join and pays, and what the two become.
    fn best(&self, a: usize) -> Option<(usize, (usize, Cluster))> {
        let (time, c) = &self.clusters[a];
        let takes = c.head.is_none() && !c.nodes.is_empty() && c.anchor.is_none_or(|n| self.cx.takes_tail(n));
        if !takes {
            return None;
        }
        let shared = self.shared(c);
        let mut later: Vec<usize> = shared
            .iter()
            .flat_map(|v| self.readers.get(v).into_iter().flatten().copied().take(MAX_TRIED))
            .filter(|b| self.clusters[*b].0 > *time)
            .collect();
        later.sort_by_key(|b| self.clusters[*b].0);
        later.dedup();
        let mut tried = later.into_iter().filter(|b| self.pays(&shared, *b));
        tried.find_map(|b| self.legal(a, b).ok().map(|joined| (b, joined)))
    }
    /// Values that a cluster has at hand, element by element, while it runs.
    fn shared(&self, c: &Cluster) -> Vec<ValueId> {
        let Some(first) = c.outputs.first() else { return vec![] };
        let whole = |v: &ValueId| self.cx.g[*v].constant.is_none() && self.cx.g.shape(*v) == self.cx.g.shape(*first);
        // The operands of a tile's tail come by blocks: only its own results are at hand before any other kernel has them.
        let read = c.tail.iter().filter(|_| c.anchor.is_none()).flat_map(|t| &t.inputs).copied().filter(whole);
        c.outputs.iter().copied().chain(read).collect()
    }
    /// Whether a cluster reads a value again, element by element, that another has at hand.
    fn pays(&self, shared: &[ValueId], b: usize) -> bool {
        self.clusters[b].1.tail.as_ref().is_some_and(|t| t.inputs.iter().any(|v| shared.contains(v)))
    }
    /// What two clusters become, and when that runs; or why they stay two.
    fn legal(&self, a: usize, b: usize) -> Result<(usize, Cluster), &'static str> {
        let ((early, first), (late, second)) = (&self.clusters[a], &self.clusters[b]);
        let (cx, g) = (self.cx, self.cx.g);
        if second.anchor.is_some() || second.tail.is_none() {
            return Err("it is part of the kernel of another of its operands");
        }
        let (Some(x), Some(y)) = (first.outputs.first(), second.outputs.first()) else { return Err("the kernel has no result") };
        if g.shape(*x) != g.shape(*y) {
            return Err("its result has another shape");
        }
        // A kernel writes all of its results in one order.
        if self.channels_last.contains(x) != self.channels_last.contains(y) {
            return Err("their results lie in memory in different orders");
        }
        let time = self.time(a, b).ok_or("others need the value before all is computed that it reads beside")?;
        debug_assert!(time == *early || time == *late);
        let mut nodes = [&first.nodes[..], &second.nodes].concat();
        nodes.sort_by_key(|n| cx.position[n]);
        // In the order in which they are computed, so that the first is the one that most likely lies in a tile already.
        let made = nodes.iter().flat_map(|n| g[*n].outputs.iter().copied());
        let outputs: Vec<ValueId> = made.filter(|v| cx.escapes(*v, &nodes)).collect();
        if outputs.len() > MAX_OUTPUTS {
            return Err("others need the value too, and the kernel stores as many values as it may");
        }
        let tail = cx.tail(&nodes, first.anchor, &outputs);
        if nodes.len() > MAX_NODES || tail.inputs.len() > MAX_INPUTS {
            return Err("the kernel has as many operators or operands as it may");
        }
        if let Some(n) = first.anchor {
            cx.fits_tail(n, &tail)?;
        }
        Ok((time, Cluster { anchor: first.anchor, nodes, head: None, tail: Some(tail), outputs }))
    }
    /// When two clusters can run as one: when the first does, if all is there that the second reads, or when the second does, if nobody has
    /// read what the first computes.
    fn time(&self, a: usize, b: usize) -> Option<usize> {
        let at = |i: usize| self.clusters[i].0;
        let others = |i: &usize| *i != a && *i != b;
        let mut read = self.clusters[b].1.nodes.iter().flat_map(|n| self.cx.g[*n].inputs.iter().flatten());
        if read.all(|v| self.maker.get(v).filter(|i| others(i)).is_none_or(|i| at(*i) < at(a))) {
            return Some(at(a));
        }
        let mut readers = self.clusters[a].1.outputs.iter().flat_map(|v| self.readers.get(v).into_iter().flatten());
        readers.all(|i| !others(i) || at(*i) > at(b)).then(|| at(b))
    }
    /// Puts what two clusters have become in the place of the first.
    fn replace(&mut self, a: usize, b: usize, joined: (usize, Cluster)) {
        for n in &self.clusters[b].1.nodes {
            for v in self.cx.g[*n].inputs.iter().flatten() {
                let readers = self.readers.entry(*v).or_default();
                readers.remove(&b);
                readers.insert(a);
            }
            self.maker.extend(self.cx.g[*n].outputs.iter().map(|v| (*v, a)));
        }
        self.clusters[a] = joined;
        self.clusters[b].1 = super::gone();
    }
}
