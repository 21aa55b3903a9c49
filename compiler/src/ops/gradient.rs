//! Gradient (preview training): reverse-mode differentiation of the pointwise graph between two values.

use super::{Op, Reader};
use crate::diagnostics::{Diagnostic, shown};
use crate::ir::ValueId;
use std::collections::BTreeMap;

/// Reads `Gradient`: the derivatives of the sum of `y` by each of `xs`, through sums, differences and products.
///
/// # Errors
/// A name that no value has, or an operator in between that has no derivative here.
pub fn read(r: &mut Reader<'_, '_>) -> Result<Vec<ValueId>, Diagnostic> {
    let xs = r.strs("xs")?.unwrap_or_default();
    let y = r.str("y", "")?;
    let find = |r: &Reader<'_, '_>, name: &str| {
        r.b.lookup(name).ok_or_else(|| Diagnostic::new(format!("Gradient names \"{}\", which no value has", shown(name))))
    };
    let y = find(r, &y)?;
    let targets: Vec<ValueId> = xs.iter().map(|x| find(r, x)).collect::<Result<_, _>>()?;
    let nodes: Vec<_> = r.b.nodes_so_far().iter().rev().copied().collect();
    let one = r.scalar(1.0, r.dtype(y));
    let shape = r.shape(y)?;
    let seed = r.emit(super::movement::Expand { shape }, &[one])?;
    let mut grads: BTreeMap<ValueId, ValueId> = BTreeMap::from([(y, seed)]);
    for n in nodes {
        let node = r.b.graph[n].clone();
        let Some(&g) = node.outputs.first().and_then(|v| grads.get(v)) else { continue };
        let Op::Pointwise(p) = &node.op else {
            return Err(Diagnostic::new(format!("Gradient through {} is not supported", node.op.name())));
        };
        let inputs: Vec<ValueId> = node.inputs.iter().flatten().copied().collect();
        let parts = match p.name {
            "Add" => vec![g, g],
            "Sub" => vec![g, r.pointwise("Neg", &[g])?],
            "Mul" => vec![r.pointwise("Mul", &[g, inputs[1]])?, r.pointwise("Mul", &[g, inputs[0]])?],
            "Neg" => vec![r.pointwise("Neg", &[g])?],
            other => return Err(Diagnostic::new(format!("Gradient through {other} is not supported"))),
        };
        for (v, part) in inputs.into_iter().zip(parts) {
            if r.shape(v)? != r.shape(part)? {
                return Err(Diagnostic::new("Gradient through a broadcast is not supported"));
            }
            let sum = match grads.get(&v) {
                Some(&old) => r.pointwise("Add", &[old, part])?,
                None => part,
            };
            grads.insert(v, sum);
        }
    }
    targets
        .into_iter()
        .map(|t| match grads.get(&t) {
            Some(g) => Ok(*g),
            None => r.pointwise("Sub", &[t, t]),
        })
        .collect()
}
