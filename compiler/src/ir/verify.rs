//! What must hold of a graph between passes: every operand is defined before its use, once, and every fact follows from the operator.

use super::{Block, Graph, Node, ValueId};
use crate::ops::{Op, pointwise};
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
        self::node(g, node)?;
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

/// Checks what holds of a node alone: its operands, results and blocks fit together, and graph text can say what its operator is.
pub(super) fn node(g: &Graph, node: &Node) -> Result<(), String> {
    let name = node.op.name();
    let all = node.inputs.iter().all(Option::is_some);
    let fits = match &node.op {
        Op::If(_) => {
            let [yes, no] = node.blocks.as_slice() else { return Err("If needs two blocks".into()) };
            let results = [yes, no].iter().all(|b| b.inputs.is_empty() && b.outputs.len() == node.outputs.len());
            all && node.inputs.len() == 1 && results
        }
        Op::Loop(l) => {
            let [body] = node.blocks.as_slice() else { return Err("Loop needs one block".into()) };
            let carried = node.inputs.iter().skip(2).all(Option::is_some);
            let inputs = l.carried.checked_add(2).is_some_and(|n| node.inputs.len() == n && body.inputs.len() == n);
            carried && inputs && body.outputs.len() > l.carried && node.outputs.len() + 1 == body.outputs.len()
        }
        Op::Pointwise(p) => {
            let (results, outputs) = (&p.expr.results, &node.outputs);
            let typed = results.iter().zip(outputs).all(|(r, v)| g[*v].fact.ty.dtype() == Some(p.expr.ty(*r)));
            if pointwise::known(p.name).is_none() {
                return Err(format!("no elementwise operator has the name {}", p.name));
            }
            all && typed && results.len() == outputs.len() && p.expr.inputs() <= node.inputs.len()
        }
        op => match op.unlisted() {
            Some(word) => return Err(format!("the table of operators does not list \"{word}\" for {name}")),
            None => true,
        },
    };
    let control = matches!(node.op, Op::If(_) | Op::Loop(_));
    if !fits || (!control && !node.blocks.is_empty()) {
        return Err(format!("the operands, results and blocks of {name} do not fit together"));
    }
    Ok(())
}
