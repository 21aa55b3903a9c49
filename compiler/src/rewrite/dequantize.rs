//! Dequantized bytes are made by each reader for itself, so that what is stored and read are the bytes.

use super::Report;
use crate::ir::{Block, Graph, Node, NodeId, ValueId};
use crate::ops::Op;
use std::collections::BTreeMap;

/// Whether a node dequantizes bytes: one whose result is four times as long to read as its operand.
pub fn widens(g: &Graph, n: &Node) -> bool {
    let bytes = n.inputs.first().copied().flatten().is_some_and(|v| g[v].constant.is_none() && g.dtype(v).size() == 1);
    bytes && matches!(&n.op, Op::Pointwise(p) if p.name == "DequantizeLinear")
}

/// Gives each pointwise reader of dequantized bytes a conversion of its own.
pub fn dequantize(g: &mut Graph) -> Report {
    let mut report = Report::default();
    let block = std::mem::take(&mut g.body);
    let made: BTreeMap<ValueId, NodeId> = block.nodes.iter().filter(|n| widens(g, &g[**n])).map(|n| (g[*n].outputs[0], *n)).collect();
    let mut first: BTreeMap<ValueId, NodeId> = BTreeMap::new();
    let mut nodes = Vec::with_capacity(block.nodes.len());
    for n in block.nodes {
        let pointwise = matches!(g[n].op, Op::Pointwise(_));
        let mut inputs = g[n].inputs.clone();
        for v in inputs.iter_mut().flatten() {
            let Some(d) = made.get(v).filter(|_| pointwise) else { continue };
            let owner = *first.entry(*v).or_insert(n);
            if owner != n || block.outputs.contains(v) {
                let fact = g[*v].fact.clone();
                let own = g.add_value(fact, "");
                let node = Node { outputs: vec![own], blocks: vec![], ..g[*d].clone() };
                nodes.push(g.add_node(node));
                *v = own;
                report.count("dequantize", 1);
            }
        }
        g[n].inputs = inputs;
        nodes.push(n);
    }
    g.body = Block { nodes, ..block };
    report
}
