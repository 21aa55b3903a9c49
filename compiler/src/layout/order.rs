//! The order of each value's axes in memory: of all choices for a block, one of least cost.
//!
//! A kernel writes one of two orders, and pays for one it does not like; a value read in another order than it lies in is copied, once
//! for all who want that copy, or picked apart at a price. Nothing is ever dearer for agreeing, so the least sum is the least cut of a
//! network between the two orders (Greig, Porteous and Seheult, "Exact maximum a posteriori estimation for binary images", 1989).

use super::Layout;
use crate::fusion::Cluster;
use crate::ir::{Graph, ValueId};
use crate::target::cpu::{self, Demand, Orders, turning, turns};
use petgraph::Direction::{Incoming, Outgoing};
use petgraph::algo::maximum_flow::dinics;
use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::visit::EdgeRef;
use std::collections::{BTreeMap, BTreeSet};

/// More than all costs together.
const NEVER: u64 = 1 << 56;

/// Chooses orders for the results of the clusters of the model's own block.
pub(super) fn choose(g: &Graph, clusters: &[Cluster]) -> BTreeMap<ValueId, Layout> {
    let all: Vec<Orders> = clusters.iter().map(|c| cpu::orders(g, c)).collect();
    if all.iter().all(|o| o.row_major == Some(0)) {
        return BTreeMap::new();
    }
    let mut net = Network::new();
    for (c, orders) in clusters.iter().zip(&all) {
        net.cluster(g, c, orders);
    }
    for v in &g.body.outputs {
        net.read(g, *v, net.row_major, None);
    }
    for (c, orders) in clusters.iter().zip(&all) {
        let own = c.outputs.first().and_then(|v| net.makers.get(v)).copied();
        for r in orders.reads.iter().filter(|r| turns(g, r.value)) {
            let reader = match r.demand {
                Demand::In(Layout::RowMajor) => Some(net.row_major),
                Demand::In(Layout::ChannelsLast) => Some(net.channels_last),
                Demand::Alike => own,
            };
            // A result that has no order asks for none.
            if let Some(reader) = reader {
                net.read(g, r.value, reader, r.other);
            }
        }
    }
    let last = net.cut();
    net.makers.iter().filter(|(_, n)| last.contains(n)).map(|(v, _)| (*v, Layout::ChannelsLast)).collect()
}

/// The choices of a block as a flow network: what is cut off from `row_major` lies channels last.
struct Network {
    net: DiGraph<(), u64>,
    row_major: NodeIndex,
    channels_last: NodeIndex,
    /// The choice by which a value lies; of values without one, axes are row-major.
    makers: BTreeMap<ValueId, NodeIndex>,
    /// Values in neither order.
    loose: BTreeSet<ValueId>,
    /// The choices whether there is a copy of a value in an order.
    copies: BTreeMap<(ValueId, Layout), NodeIndex>,
}

impl Network {
    fn new() -> Network {
        let mut net = DiGraph::new();
        let (row_major, channels_last) = (net.add_node(()), net.add_node(()));
        Network { net, row_major, channels_last, makers: BTreeMap::new(), loose: BTreeSet::new(), copies: BTreeMap::new() }
    }
    /// The choice of a cluster, for all its results.
    fn cluster(&mut self, g: &Graph, c: &Cluster, orders: &Orders) {
        if orders.loose {
            self.loose.extend(&c.outputs);
        }
        // A kernel that knows one order alone writes it in a slot too.
        let settled = orders.row_major.is_none();
        let results: Vec<ValueId> = c.outputs.iter().copied().filter(|v| (settled || super::fits(g, *v)) && turns(g, *v)).collect();
        let node = match (orders.row_major, orders.channels_last) {
            _ if results.is_empty() => return,
            (_, None) => return,
            (None, _) => self.channels_last,
            (Some(a), Some(b)) => {
                let node = self.net.add_node(());
                self.net.add_edge(self.row_major, node, b);
                self.net.add_edge(node, self.channels_last, a);
                node
            }
        };
        self.makers.extend(results.into_iter().map(|v| (v, node)));
    }
    /// A value is read in the order of `reader`: at a price where it lies otherwise, or from a copy.
    fn read(&mut self, g: &Graph, v: ValueId, reader: NodeIndex, price: Option<u64>) {
        let maker = self.makers.get(&v).copied().unwrap_or(self.row_major);
        if maker == reader || self.loose.contains(&v) {
            return;
        }
        if let Some(price) = price.map(|p| p.min(turning(g, v))) {
            self.net.add_edge(maker, reader, price);
            self.net.add_edge(reader, maker, price);
            return;
        }
        // A copy costs where one reader or more stands on the other side than the maker.
        for layout in [Layout::RowMajor, Layout::ChannelsLast] {
            let (copy, new) = match self.copies.get(&(v, layout)) {
                Some(n) => (*n, false),
                None => (self.net.add_node(()), true),
            };
            self.copies.insert((v, layout), copy);
            let edge = |from: NodeIndex, to: NodeIndex| if layout == Layout::RowMajor { (from, to) } else { (to, from) };
            if new {
                let (a, b) = edge(copy, maker);
                self.net.add_edge(a, b, turning(g, v));
            }
            let (a, b) = edge(reader, copy);
            self.net.add_edge(a, b, NEVER);
        }
    }
    /// The nodes that lie channels last in a least cut: of several, the one with the fewest.
    fn cut(&self) -> BTreeSet<NodeIndex> {
        let (_, flows) = dinics(&self.net, self.row_major, self.channels_last);
        // Whatever can still send flow there belongs to the sink.
        let mut reached = BTreeSet::from([self.channels_last]);
        let mut stack = vec![self.channels_last];
        while let Some(n) = stack.pop() {
            let forward = self.net.edges_directed(n, Incoming).filter(|e| flows[e.id().index()] < *e.weight()).map(|e| e.source());
            let back = self.net.edges_directed(n, Outgoing).filter(|e| flows[e.id().index()] > 0).map(|e| e.target());
            stack.extend(forward.chain(back).filter(|m| reached.insert(*m)));
        }
        reached
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_is_the_least_of_all_choices() {
        let mut seed = 5u64;
        let mut next = |n: u64| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) % n
        };
        for _ in 0..200 {
            let mut net = Network::new();
            let free: Vec<NodeIndex> = (0..next(7)).map(|_| net.net.add_node(())).collect();
            let count = net.net.node_count() as u64;
            for _ in 0..next(20) {
                let (a, b) = (NodeIndex::new(next(count) as usize), NodeIndex::new(next(count) as usize));
                if a != b && a != net.channels_last && b != net.row_major {
                    net.net.add_edge(a, b, next(9));
                }
            }
            let cost = |last: &BTreeSet<NodeIndex>| -> u64 {
                let cut = |e: &petgraph::graph::Edge<u64>| !last.contains(&e.source()) && last.contains(&e.target());
                net.net.raw_edges().iter().filter(|e| cut(e)).map(|e| e.weight).sum()
            };
            let found = net.cut();
            assert!(!found.contains(&net.row_major));
            let choice = |bits: u32| -> BTreeSet<NodeIndex> {
                let chosen = free.iter().enumerate().filter(|(i, _)| bits >> i & 1 == 1).map(|(_, n)| *n);
                chosen.chain([net.channels_last]).collect()
            };
            let least = (0..1u32 << free.len()).map(|bits| cost(&choice(bits))).min();
            assert_eq!(Some(cost(&found)), least);
        }
    }
}
