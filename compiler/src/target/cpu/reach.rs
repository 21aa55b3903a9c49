//! How vector kernels step through memory: the pitches they read and write with, where a value's strides have them.

use super::in_rows;
use crate::ir::{Dim, Graph, NodeId, ValueId, product};
use crate::kernel::Stride;
use crate::layout::{Layouts, collapse, is_forward};
use crate::ops::Op;

/// Elements from row to row of a value whose axes from `axis` on are rows of neighbours.
pub(super) fn row_pitch(g: &Graph, layouts: &Layouts, v: ValueId, axis: usize) -> Option<Dim> {
    let (shape, strides) = (g.shape(v), layouts.strides(g, v));
    let rows = collapse(&shape[..axis], &strides[..axis], product(&shape[axis..]))?;
    (collapse(&shape[axis..], &strides[axis..], Dim::int(1))?.is(1) && is_forward(g, &strides)).then_some(rows)
}

/// Elements from pixel to pixel and from image to image of a value whose channels are neighbours.
pub(super) fn pixel_pitch(g: &Graph, layouts: &Layouts, v: ValueId) -> Option<(Dim, Dim)> {
    let (shape, strides) = (g.shape(v), layouts.strides(g, v));
    let pitch = collapse(&shape[2..], &strides[2..], shape[1].clone())?;
    ((shape[1].is(1) || strides[1].is(1)) && is_forward(g, &strides)).then(|| (pitch, strides[0].clone()))
}

/// Steps of an operand of an anchor's tail that shares memory with others, along the batch axes, rows and columns of the anchor's
/// result; `None` when it has no such steps.
pub(super) fn tail_steps(g: &Graph, anchor: NodeId, v: ValueId, layouts: &Layouts) -> Option<Vec<Stride>> {
    let node = &g[anchor];
    let (out, shape, strides) = (g.shape(node.outputs[0]), g.shape(v), layouts.strides(g, v));
    let skip = out.len().checked_sub(shape.len())?;
    if !is_forward(g, &strides) {
        return None;
    }
    let own = |i: usize| if i < skip || shape[i - skip].is(1) { Dim::int(0) } else { strides[i - skip].clone() };
    let pixels = matches!(node.op, Op::Conv(_) | Op::ConvInteger(_) | Op::InstanceNorm(_) | Op::GroupNorm(_));
    let (rows, column): (Vec<usize>, usize) = match pixels {
        true => (std::iter::once(0).chain(2..out.len()).collect(), 1),
        false => ((0..out.len() - 1).collect(), out.len() - 1),
    };
    let step = own(column);
    if !(step.is(0) || step.is(1)) {
        return None;
    }
    let mut steps: Vec<Dim> = rows.iter().map(|i| own(*i)).collect();
    if pixels || in_rows(g, node) {
        let extents: Vec<Dim> = rows.iter().map(|i| out[*i].clone()).collect();
        steps = vec![collapse(&extents, &steps, Dim::int(0))?];
    }
    steps.push(step);
    Some(steps.into_iter().map(Stride::By).collect())
}
