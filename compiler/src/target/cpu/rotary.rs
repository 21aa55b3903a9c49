//! The kernel of a [`Rotary`]: its operands as addresses with steps along the axes that count rows.

use super::select::{Selected, join};
use crate::ir::{Dim, Graph, Node, ValueId};
use crate::kernel::{Kernel, Operand, Stride};
use crate::layout::{self, Layout, Layouts, is_forward};
use crate::ops::attend::padded;
use crate::ops::rotary::Rotary;

/// The kernel; the elements of a row must be neighbours. `result` is the cluster's result.
pub(super) fn select(g: &Graph, node: &Node, op: &Rotary, result: ValueId, layouts: &Layouts) -> Option<Selected> {
    let shape = g.shape(result);
    let rank = shape.len();
    let mut wants = Vec::new();
    let near = |memory: &[Dim]| memory.last().is_none_or(|s| s.is(1)) && is_forward(g, memory);
    let steps = |own: &[Dim], memory: &[Dim]| -> Vec<Stride> {
        let skip = rank - own.len();
        let by = |axis: usize| match axis.checked_sub(skip).filter(|i| !own[*i].is(1)) {
            Some(i) => Stride::By(memory[i].clone()),
            None => Stride::none(),
        };
        (0..rank - 1).map(by).collect()
    };
    let mut all = Vec::new();
    for i in 0..3 {
        let v = node.inputs.get(i).copied().flatten()?;
        let mut memory = layouts.strides(g, v);
        if !near(&memory) && !g.shape(v).last()?.is(1) {
            wants.push((v, Layout::RowMajor));
            memory = layout::strides(g.shape(v), Layout::RowMajor);
        }
        all.push(Operand { value: v, strides: steps(g.shape(v), &memory) });
    }
    let memory = layouts.strides(g, result);
    let places = near(&memory);
    let to = if places { memory } else { layout::strides(shape, Layout::RowMajor) };
    all.push(Operand { value: result, strides: steps(shape, &to) });
    let mut dims = padded(shape, rank)[..rank - 1].to_vec();
    join(&mut dims, &mut all, 0);
    let out = all.pop()?.strides;
    let each = |i: usize| node.inputs[i].is_some_and(|v| g.shape(v).last().is_some_and(|d| d.is(op.width as i64)));
    let kernel = Kernel::Rotary {
        dims,
        size: shape[rank - 1].clone(),
        width: op.width,
        interleaved: op.interleaved,
        each: [each(1), each(2)],
        operands: all.try_into().ok()?,
        out,
    };
    Some(Selected { kernel, wants, places })
}
