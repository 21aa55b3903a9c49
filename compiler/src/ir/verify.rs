//! What must hold of a graph between passes: every operand is defined before its use, once, and every fact follows from the operator.

use super::{Block, Graph, ValueId};
use std::collections::BTreeSet;

/// Checks the graph.
///
/// # Errors
/// The first thing that does not hold: a bug in the pass that ran last.
pub fn verify(g: &Graph) -> Result<(), String> {
    let mut defined: BTreeSet<ValueId> = g.body.inputs.iter().copied().collect();
    for (i, v) in g.values.iter().enumerate() {
        if let Some(t) = &v.constant {
            if v.fact.ty.closed_dims().is_none_or(|d| d != t.dims) || v.fact.ty.dtype() != Some(t.dtype) {
                return Err(format!("v{i} is {} but its constant is {}{:?}", v.fact.ty, t.dtype, t.dims));
            }
            defined.insert(ValueId(i as u32));
        }
    }
    if g.inputs.len() != g.body.inputs.len() || g.outputs.len() != g.body.outputs.len() {
        return Err("ports and values of the body differ in number".into());
    }
    block(g, &g.body, &defined)
}

fn block(g: &Graph, b: &Block, outer: &BTreeSet<ValueId>) -> Result<(), String> {
    let mut defined = outer.clone();
    defined.extend(&b.inputs);
    for &n in &b.nodes {
        let node = &g[n];
        for v in node.inputs.iter().flatten() {
            if !defined.contains(v) {
                return Err(format!("{n} ({}) reads {v} before it is defined", node.op.name()));
            }
        }
        for inner in &node.blocks {
            block(g, inner, &defined)?;
        }
        for &v in &node.outputs {
            if !defined.insert(v) {
                return Err(format!("{n} ({}) defines {v} a second time", node.op.name()));
            }
        }
    }
    match b.outputs.iter().find(|v| !defined.contains(v)) {
        Some(v) => Err(format!("a block hands out {v}, which nothing defines")),
        None => Ok(()),
    }
}
