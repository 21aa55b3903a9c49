//! Kernels over rows take in the pointwise clusters around them: what computes their operand, and what reads their result.
//!
//! Only whole clusters are joined, after convolutions and products have taken what they can, so that no kernel loses its tail to another.

use super::{Cluster, Cx, MAX_INPUTS, Tail, gone};
use crate::ir::{Block, NodeId, ValueId};
use crate::kernel::{At, Expr, Scalar};
use crate::layout;
use crate::ops::Op;
use crate::target::cpu::{self, rowwise};
use kiln_kernels::dtype::DType;
use std::collections::{BTreeMap, BTreeSet};

/// Joins pointwise clusters with the kernels over rows that they feed or follow. Clusters stand with the position of their last node.
pub(super) fn join(cx: &Cx<'_>, block: &Block, clusters: &mut Vec<(usize, Cluster)>) {
    let anchors: Vec<usize> =
        (0..clusters.len()).filter(|i| clusters[*i].1.anchor.is_some_and(|n| rowwise::form(cx.g, &cx.g[n]).is_some())).collect();
    if anchors.is_empty() {
        return;
    }
    let home: BTreeMap<NodeId, usize> = clusters.iter().enumerate().flat_map(|(i, (_, c))| c.nodes.iter().map(move |n| (*n, i))).collect();
    let plain: Vec<Cluster> = clusters.iter().map(|(_, c)| c.clone()).collect();
    let mut join = Join { cx, block, clusters, home, channels_last: layout::channels_last(cx.g, &plain) };
    for i in anchors {
        join.behind(i);
        join.before(i);
    }
    clusters.retain(|(_, c)| !c.nodes.is_empty());
}

struct Join<'a> {
    cx: &'a Cx<'a>,
    block: &'a Block,
    clusters: &'a mut Vec<(usize, Cluster)>,
    /// The cluster of each node as it was at first.
    home: BTreeMap<NodeId, usize>,
    /// Values that are not stored as rows.
    channels_last: BTreeSet<ValueId>,
}

impl Join<'_> {
    /// The pointwise part of a cluster that is nothing else, and that a kernel over rows can compute.
    fn part(&self, i: usize) -> Option<&Tail> {
        let c = &self.clusters[i].1;
        let t = c.tail.as_ref().filter(|_| c.anchor.is_none() && !c.nodes.is_empty())?;
        let f32 = c.outputs.iter().all(|v| self.cx.g.dtype(*v) == DType::F32);
        let rows = t.inputs.iter().chain(&c.outputs).all(|v| !self.channels_last.contains(v));
        (f32 && rows && t.inputs.len() <= MAX_INPUTS).then_some(t)
    }
    fn reads(&self, v: ValueId) -> usize {
        self.cx.uses.get(&v).copied().unwrap_or(0)
    }
    /// Reads of a value by the nodes of a cluster.
    fn reads_by(&self, v: ValueId, nodes: &[NodeId]) -> usize {
        nodes.iter().flat_map(|n| self.cx.g[*n].inputs.iter().flatten()).filter(|x| **x == v).count()
    }
    /// Takes in the cluster that alone reads the result of the kernel.
    fn behind(&mut self, i: usize) {
        let c = &self.clusters[i].1;
        let (Some(anchor), [result]) = (c.anchor, &c.outputs[..]) else { return };
        let result = *result;
        let Some(k) = self.cx.users.get(&result).and_then(|u| self.home.get(u.first()?)).copied() else { return };
        let other = &self.clusters[k].1;
        // A norm of pixels whose channels are neighbours takes what a convolution does.
        let pixels = self.channels_last.contains(&result) && cpu::norms_pixels(self.cx.g, &self.cx.g[anchor]);
        let whole = || other.tail.as_ref().filter(|t| other.anchor.is_none() && t.inputs.len() <= MAX_INPUTS);
        let Some(t) = (if pixels { whole() } else { self.part(k) }) else { return };
        // A mean of pixels whose channels are neighbours has a kernel of its own.
        let means = matches!(self.cx.g[anchor].op, Op::Reduce(_));
        let legal = self.reads_by(result, &other.nodes) == self.reads(result)
            && self.cx.g.shape(other.outputs[0]) == self.cx.g.shape(result)
            && !(means && self.cx.g[anchor].inputs.iter().flatten().any(|v| self.channels_last.contains(v)));
        if !legal || !rowwise::pays(self.cx.g, &self.cx.g[anchor]) {
            return;
        }
        let tail = t.clone().led_by(result);
        if pixels && self.cx.fits_tail(anchor, &tail).is_err() {
            return;
        }
        let (last, other) = std::mem::replace(&mut self.clusters[k], (0, gone()));
        let (own, c) = &mut self.clusters[i];
        c.nodes.extend(other.nodes);
        c.nodes.sort_by_key(|n| self.cx.position[n]);
        c.tail = Some(tail);
        c.outputs = other.outputs;
        *own = last.max(*own);
    }
    /// Takes in the cluster that computes the operand of the kernel, whose result stays one where others read it.
    fn before(&mut self, i: usize) {
        let (last, c) = &self.clusters[i];
        let Some(anchor) = c.anchor.map(|n| &self.cx.g[n]) else { return };
        let Some(x) = anchor.inputs[0] else { return };
        let Some(k) = self.cx.producer.get(&x).and_then(|n| self.home.get(n)).copied() else { return };
        let Some(head) = self.part(k) else { return };
        let direct: Vec<NodeId> = self.cx.users.get(&x).cloned().unwrap_or_default();
        let handed = self.block.outputs.iter().filter(|v| **v == x).count();
        // The value is there only when the kernel has run: readers come later, and none hides inside of a block.
        let others: Vec<NodeId> = direct.iter().copied().filter(|n| Some(*n) != c.anchor).collect();
        let later = others.iter().all(|n| self.cx.position[n] > *last);
        let legal = self.clusters[k].1.outputs[..] == [x]
            && anchor.inputs[1..].iter().flatten().all(|v| *v != x)
            && direct.len() + handed == self.reads(x)
            && later;
        if !legal || !rowwise::pays(self.cx.g, anchor) {
            return;
        }
        let head = head.clone();
        let kept = !others.is_empty() || handed > 0;
        let (_, other) = std::mem::replace(&mut self.clusters[k], (0, gone()));
        let c = &mut self.clusters[i].1;
        c.nodes.splice(0..0, other.nodes);
        c.nodes.sort_by_key(|n| self.cx.position[n]);
        c.head = Some(head);
        c.outputs.extend(kept.then_some(x));
    }
}

impl Tail {
    /// The same with that input as the first.
    fn led_by(self, v: ValueId) -> Tail {
        let Tail { expr, inputs } = self;
        let mut order: Vec<usize> = (0..inputs.len()).collect();
        order.sort_by_key(|i| inputs[*i] != v);
        let mut led = Expr::default();
        let mut at: Vec<At> = vec![At(0); inputs.len()];
        for (to, from) in order.iter().enumerate() {
            let input = expr.code.iter().find(|(s, _)| *s == Scalar::In(*from as u32));
            if let Some((_, ty)) = input {
                at[*from] = led.input(to, *ty);
            }
        }
        led.results = led.inline(&expr, &at);
        Tail { expr: led.canonical(), inputs: order.into_iter().map(|i| inputs[i]).collect() }
    }
}
