//! The order in which a graph's nodes can be read: the file's own where it is valid, else a topological one.

use crate::diagnostics::shown;
use crate::onnx::Graph;
use petgraph::algo::toposort;
use petgraph::graph::DiGraph;
use std::collections::{BTreeMap, BTreeSet};

/// Every name that a graph's nodes read from outside of it, with bodies inside of bodies.
fn free_names<'a>(g: &'a Graph, out: &mut BTreeSet<&'a str>) {
    let mut inner = BTreeSet::new();
    for n in &g.nodes {
        inner.extend(n.inputs.iter().map(String::as_str));
        for (_, a) in &n.attributes {
            a.graphs().iter().for_each(|g| free_names(g, &mut inner));
        }
    }
    inner.extend(g.outputs.iter().map(|o| o.name.as_str()));
    let own: BTreeSet<&str> = (g.nodes.iter().flat_map(|n| &n.outputs).map(String::as_str))
        .chain(g.inputs.iter().map(|i| i.name.as_str()))
        .chain(g.initializers.iter().map(|(n, _)| n.as_str()))
        .collect();
    out.extend(inner.difference(&own));
}

/// Positions of the nodes in an order where each comes after those it reads; the error names a node on a cycle, or a value that two
/// nodes define.
pub(super) fn topological(g: &Graph) -> Result<Vec<usize>, (String, Option<usize>)> {
    let mut producer: BTreeMap<&str, usize> = BTreeMap::new();
    for (i, n) in g.nodes.iter().enumerate() {
        for o in n.outputs.iter().filter(|o| !o.is_empty()) {
            if let Some(first) = producer.insert(o, i) {
                return Err((format!("\"{}\" is computed twice, by node {first} and by node {i}", shown(o)), Some(i)));
            }
        }
    }
    let mut edges = DiGraph::<usize, ()>::new();
    let at: Vec<_> = (0..g.nodes.len()).map(|i| edges.add_node(i)).collect();
    let mut in_order = true;
    for (i, n) in g.nodes.iter().enumerate() {
        let mut reads: BTreeSet<&str> = n.inputs.iter().map(String::as_str).collect();
        for (_, a) in &n.attributes {
            a.graphs().iter().for_each(|g| free_names(g, &mut reads));
        }
        for p in reads.into_iter().filter_map(|r| producer.get(r)) {
            edges.add_edge(at[*p], at[i], ());
            in_order &= *p < i;
        }
    }
    if in_order {
        return Ok((0..g.nodes.len()).collect());
    }
    match toposort(&edges, None) {
        Ok(order) => Ok(order.into_iter().map(|x| edges[x]).collect()),
        Err(cycle) => Err(("the node depends on its own result".to_string(), Some(edges[cycle.node_id()]))),
    }
}
