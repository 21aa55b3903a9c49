//! Dead code elimination: what no output depends on, through values or through symbols, is dropped.

use super::Report;
use crate::ir::{Block, Dim, Graph, NodeId, Sym, Type, ValueId};
use crate::ops::Op;
use std::collections::{BTreeMap, BTreeSet};

/// The symbols that an operator's attributes mention.
fn mentioned(op: &Op, out: &mut BTreeSet<Sym>) {
    let dims: &[&[Dim]] = match op {
        Op::Dims(d) => &[&d.elements],
        Op::Reshape(r) => &[&r.shape],
        Op::Expand(e) => &[&e.shape],
        Op::Slice(s) => &[&s.starts, &s.sizes, &s.bounds],
        Op::Split(s) => &[&s.sizes],
        Op::Tile(t) => &[&t.repeats],
        Op::Loop(l) => &[l.trip.as_slice()],
        Op::Host(h) => return h.results.iter().for_each(|t| in_type(t, out)),
        _ => &[],
    };
    dims.iter().flat_map(|d| d.iter()).for_each(|d| d.symbols(out));
}

fn in_type(t: &Type, out: &mut BTreeSet<Sym>) {
    match t {
        Type::Tensor(_, shape) => shape.iter().for_each(|d| d.symbols(out)),
        Type::AnyTensor(_) => {}
        Type::Sequence(t) | Type::Optional(t) | Type::Map(_, t) => in_type(t, out),
    }
}

/// Which nodes are needed.
struct Needs<'g> {
    g: &'g Graph,
    producer: BTreeMap<ValueId, NodeId>,
    /// The node around each node of an inner block.
    around: BTreeMap<NodeId, NodeId>,
    /// The nodes that define each symbol: the first of every block to give a value whose extent it is.
    definers: BTreeMap<Sym, Vec<NodeId>>,
    live: Vec<bool>,
    used: Vec<bool>,
    asked: Vec<bool>,
    stack: Vec<NodeId>,
}

impl Needs<'_> {
    fn node(&mut self, n: NodeId) {
        if !std::mem::replace(&mut self.live[n.0 as usize], true) {
            self.stack.push(n);
        }
    }
    fn value(&mut self, v: ValueId) {
        if std::mem::replace(&mut self.used[v.0 as usize], true) {
            return;
        }
        if let Some(p) = self.producer.get(&v) {
            self.node(*p);
        }
        let mut syms = BTreeSet::new();
        in_type(self.g.ty(v), &mut syms);
        self.symbols(syms);
    }
    fn symbols(&mut self, syms: BTreeSet<Sym>) {
        for s in syms.into_iter().filter(|s| *s != Sym::ANY) {
            if !std::mem::replace(&mut self.asked[s.0 as usize], true) {
                self.definers.get(&s).cloned().unwrap_or_default().into_iter().for_each(|n| self.node(n));
            }
        }
    }
    /// Notes who computes what in a block, and which symbols its nodes define.
    fn survey(&mut self, b: &Block, parent: Option<NodeId>) {
        let mut here = BTreeSet::new();
        for &n in &b.nodes {
            if let Some(p) = parent {
                self.around.insert(n, p);
            }
            for inner in &self.g[n].blocks {
                self.survey(inner, Some(n));
            }
            for &v in &self.g[n].outputs {
                self.producer.insert(v, n);
                for s in self.g.shape(v).iter().filter_map(Dim::as_sym) {
                    if self.g.symbols[s.0 as usize].input.is_none() && here.insert(s) {
                        self.definers.entry(s).or_default().push(n);
                    }
                }
            }
        }
    }
}

/// Drops nodes that nothing needs, and the contents of constants that nothing reads.
pub fn prune(g: &mut Graph) -> Report {
    let mut needs = Needs {
        g,
        producer: BTreeMap::new(),
        around: BTreeMap::new(),
        definers: BTreeMap::new(),
        live: vec![false; g.nodes.len()],
        used: vec![false; g.values.len()],
        asked: vec![false; g.symbols.len()],
        stack: Vec::new(),
    };
    needs.survey(&g.body, None);
    g.body.inputs.iter().chain(&g.body.outputs).for_each(|v| needs.value(*v));
    while let Some(n) = needs.stack.pop() {
        let node = &g[n];
        let inner = node.blocks.iter().flat_map(|b| b.inputs.iter().chain(&b.outputs));
        let values: Vec<ValueId> = node.inputs.iter().flatten().chain(&node.outputs).chain(inner).copied().collect();
        values.into_iter().for_each(|v| needs.value(v));
        let mut syms = BTreeSet::new();
        mentioned(&node.op, &mut syms);
        needs.symbols(syms);
        if let Some(p) = needs.around.get(&n).copied() {
            needs.node(p);
        }
    }
    let (live, used) = (needs.live, needs.used);
    let mut report = Report { work: live.len() as u64, ..Report::default() };
    let mut dropped = 0;
    let mut keep = |b: &mut Block| {
        let before = b.nodes.len();
        b.nodes.retain(|n| live[n.0 as usize]);
        dropped += before - b.nodes.len();
    };
    keep(&mut g.body);
    g.nodes.iter_mut().flat_map(|n| &mut n.blocks).for_each(keep);
    for (v, used) in g.values.iter_mut().zip(&used) {
        if !used {
            v.constant = None;
        }
    }
    report.count("prune", dropped);
    report
}
