//! The attention kernel of an [`Attend`]: its operands as addresses with steps.

use crate::ir::{Dim, Graph, Node, ValueId};
use crate::kernel::{Kernel, Operand, Stride};
use crate::layout::{self, Layout};
use crate::ops::attend::{Attend, padded};

/// The kernel, where heads are shared in one way: an axis of groups stands beside that of heads then.
pub(super) fn kernel(g: &Graph, node: &Node, op: &Attend) -> Option<Kernel> {
    let input = |i: usize| node.inputs.get(i).copied().flatten();
    let (q, k, v, out) = (input(0)?, input(1)?, input(2)?, *node.outputs.first()?);
    let shape = g.shape(q);
    let rank = shape.len();
    let last = |v: ValueId, i: usize| g.shape(v).iter().rev().nth(i).cloned();
    let (keys, width) = (last(k, 1)?, last(v, 0)?);
    let mut batch = shape[..rank - 2].to_vec();
    let group = match batch.last() {
        Some(heads) => {
            let mut shared = Vec::new();
            for x in [k, v] {
                let own = padded(g.shape(x), rank)[rank - 3].clone();
                if !own.is(1) && own != *heads {
                    shared.push(own);
                }
            }
            match &shared[..] {
                [] => None,
                [a] => Some(heads.exact_div(a)?),
                [a, b] if a == b => Some(heads.exact_div(a)?),
                _ => return None,
            }
        }
        None => None,
    };
    let operand = |x: ValueId| Operand { value: x, strides: steps(g, x, shape, group.as_ref()) };
    if let (Some(group), Some(heads)) = (&group, batch.last_mut()) {
        *heads = heads.exact_div(group)?;
        batch.push(group.clone());
    }
    Some(Kernel::Attend {
        batch,
        sizes: [shape[rank - 2].clone(), keys.clone(), shape[rank - 1].clone(), width],
        scale: op.scale.get(),
        reach: op.reach(&keys),
        q: operand(q),
        k: operand(k),
        v: operand(v),
        mask: input(3).map(operand),
        out: operand(out).strides,
    })
}

/// Steps of an operand along the batch axes, rows and columns of an attention whose queries have that shape: none where it is repeated.
/// Where groups of heads share something, the axis of heads is one of groups and one inside of them.
fn steps(g: &Graph, v: ValueId, shape: &[Dim], group: Option<&Dim>) -> Vec<Stride> {
    let own = g.shape(v);
    let rank = shape.len();
    let skip = rank - own.len();
    let memory = layout::strides(own, Layout::RowMajor);
    let mut out = Vec::new();
    for axis in 0..rank {
        let step = match axis.checked_sub(skip).filter(|i| !own[*i].is(1)) {
            Some(i) => memory[i].clone(),
            None => Dim::int(0),
        };
        match group.filter(|_| axis + 3 == rank) {
            None => out.push(Stride::By(step)),
            // Full heads step through a group; shared ones only from group to group.
            Some(n) if axis >= skip && own[axis - skip] == shape[axis] => {
                out.extend([Stride::By(step.clone() * n.clone()), Stride::By(step)]);
            }
            Some(_) => out.extend([Stride::By(step), Stride::none()]),
        }
    }
    out
}
