//! The attention kernel of an [`Attend`]: its operands as addresses with steps.

use super::select::Selected;
use crate::ir::{Dim, Graph, Node, ValueId};
use crate::kernel::{Kernel, Operand, Stride};
use crate::layout::{self, Layout, Layouts, is_forward};
use crate::ops::attend::{Attend, padded};

/// The kernel, where heads are shared in one way: an axis of groups stands beside that of heads then. `result` is the cluster's result.
pub(super) fn select(g: &Graph, node: &Node, op: &Attend, result: ValueId, layouts: &Layouts) -> Option<Selected> {
    let input = |i: usize| node.inputs.get(i).copied().flatten();
    let (q, k, v) = (input(0)?, input(1)?, input(2)?);
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
    let mut wants = Vec::new();
    // Rows are read as vectors, so their elements must be neighbours; a mask may also repeat one element along the row.
    let mut operand = |x: ValueId, repeats: bool| {
        let mut memory = layouts.strides(g, x);
        let near = memory.last().is_none_or(|s| s.is(1) || repeats && s.is(0)) || last(x, 0).is_some_and(|d| d.is(1));
        if !(near && is_forward(g, &memory)) {
            wants.push((x, Layout::RowMajor));
            memory = layout::strides(g.shape(x), Layout::RowMajor);
        }
        Operand { value: x, strides: steps(g.shape(x), &memory, shape, group.as_ref()) }
    };
    let (q, k, v, mask) = (operand(q, false), operand(k, false), operand(v, false), input(3).map(|m| operand(m, true)));
    let to = layouts.strides(g, result);
    let places = is_forward(g, &to) && (to.last().is_none_or(|s| s.is(1)) || width.is(1));
    let out = steps(g.shape(result), &to, shape, group.as_ref());
    if let (Some(group), Some(heads)) = (&group, batch.last_mut()) {
        *heads = heads.exact_div(group)?;
        batch.push(group.clone());
    }
    let kernel = Kernel::Attend {
        batch,
        sizes: [shape[rank - 2].clone(), keys.clone(), shape[rank - 1].clone(), width],
        scale: op.scale.get(),
        reach: op.reach(&keys),
        safe: op.safe,
        q,
        k,
        v,
        mask,
        out,
    };
    Some(Selected { kernel, wants, places })
}

/// Steps of an operand of shape `own`, with strides `memory`, along the batch axes, rows and columns of an attention whose queries have that shape: none where it is repeated.
/// Where groups of heads share something, the axis of heads is one of groups and one inside of them.
fn steps(own: &[Dim], memory: &[Dim], shape: &[Dim], group: Option<&Dim>) -> Vec<Stride> {
    let rank = shape.len();
    let skip = rank - own.len();
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
