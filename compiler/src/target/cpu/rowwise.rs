//! Kernels over rows: normalizations, softmax and reductions over the last axes, with pointwise parts before and behind them.

use super::reach::row_pitch;
use super::select::{Selected, join, operands};
use crate::fusion::{Cluster, Tail};
use crate::ir::{Dim, Graph, Node, ValueId, product};
use crate::kernel::{Kernel, Operand, Row, Stage, Stride};
use crate::layout::{Layout, Layouts};
use crate::ops::Op;
use kiln_kernels::dtype::DType;

/// Elements of a block of rows, which go through all parts of a kernel together: they stay in the first level of cache.
pub const BLOCK: usize = 1 << 11;

/// The axis from which on the operand of a node is rows, where a kernel over rows computes the node.
pub fn axis(g: &Graph, node: &Node) -> Option<usize> {
    let x = node.inputs.first().copied().flatten()?;
    let shape = g.shape(x);
    if g.dtype(x) != DType::F32 || node.outputs.len() != 1 {
        return None;
    }
    match &node.op {
        Op::LayerNorm(l) => (l.centred || node.inputs.get(2).copied().flatten().is_none()).then_some(l.axis),
        Op::Softmax(s) => (s.mode != "hardmax" && shape[s.axis + 1..].iter().all(|d| d.is(1))).then_some(s.axis),
        Op::Reduce(r) => {
            let first = *r.axes.first()?;
            (fold(r.mode).is_some() && r.axes == (first..shape.len()).collect::<Vec<_>>()).then_some(first)
        }
        _ => None,
    }
}

/// The name of a reduction in `kiln_kernels::reduce::Fold`.
fn fold(mode: &str) -> Option<&'static str> {
    Some(match mode {
        "sum" => "Sum",
        "mean" => "Mean",
        "max" => "Max",
        "min" => "Min",
        "l1" => "L1",
        "l2" => "L2",
        "sum_square" => "SumSquare",
        "log_sum" => "LogSum",
        _ => return None,
    })
}

/// Whether pointwise parts pay that are computed row by row. Long rows are for one thread alone: a kernel of its own would spread their
/// elements over all of them.
pub fn pays(g: &Graph, node: &Node) -> bool {
    /// What a task of a pointwise kernel computes.
    const LONG: i64 = 1 << 14;
    /// Rows that keep every thread busy.
    const MANY: i64 = 16;
    let Some((x, axis)) = node.inputs[0].zip(axis(g, node)) else { return false };
    let (rows, row) = g.shape(x).split_at(axis);
    product(row).as_int().is_none_or(|n| n <= LONG) || product(rows).as_int().is_some_and(|n| n >= MANY)
}

/// The kernel of a cluster whose anchor has rows from an [`axis`] on.
pub(super) fn select(g: &Graph, c: &Cluster, node: &Node, layouts: &Layouts) -> Option<Selected> {
    let (x, axis) = (node.inputs[0]?, axis(g, node)?);
    let result = *c.outputs.first()?;
    // A mean of pixels whose channels are neighbours has a kernel of its own.
    if layouts.of(x) == Layout::ChannelsLast && matches!(node.op, Op::Reduce(_)) && c.nodes.len() == 1 {
        return None;
    }
    let (rows, row) = g.shape(x).split_at(axis);
    let (mut wants, mut meets) = (Vec::new(), Vec::new());
    // The operand, or the second result that the part before the rows writes: where nothing says otherwise, side by side.
    let (read, kept) = (c.head.is_none(), c.outputs.len() > 1);
    let pitch = if read || kept { row_pitch(g, layouts, x, axis) } else { None };
    if read && pitch.is_none() {
        wants.push((x, Layout::RowMajor));
    }
    let mut places = !kept || pitch.is_some();
    let x_row = pitch.unwrap_or_else(|| product(row));
    let input = |i: usize| node.inputs.get(i).copied().flatten();
    let op = match &node.op {
        Op::LayerNorm(l) => Row::Norm { epsilon: l.epsilon.get(), centred: l.centred, scale: input(1)?, bias: input(2) },
        Op::Softmax(s) => Row::Softmax { log: s.mode == "log_softmax" },
        Op::Reduce(r) => Row::Reduce(fold(r.mode)?),
        _ => return None,
    };
    wants.extend(node.inputs[1..].iter().flatten().map(|v| (*v, Layout::RowMajor)));
    let to = row_pitch(g, layouts, result, axis);
    places &= to.is_some();
    let out_row = to.unwrap_or_else(|| product(&g.shape(result)[axis..]));
    let mut stage = |t: &Tail, skip: usize, of: ValueId, outer: usize| {
        let shape = g.shape(of);
        let order: Vec<usize> = (0..shape.len()).collect();
        let mut operands = operands(g, &t.inputs[skip..], (shape, &order), layouts, &mut meets, &mut wants);
        let mut dims = shape.to_vec();
        let outer = join(&mut dims, &mut operands, outer);
        if dims.len() == outer {
            dims.push(Dim::int(1));
            operands.iter_mut().for_each(|o: &mut Operand| o.strides.push(Stride::none()));
        }
        Stage { expr: t.expr.clone(), dims, outer, operands }
    };
    let head = c.head.as_ref().map(|t| stage(t, 0, x, axis));
    // Every axis of a reduction's result counts rows.
    let behind = if matches!(node.op, Op::Reduce(_)) { g.shape(result).len() } else { axis };
    let tail = c.tail.as_ref().map(|t| stage(t, 1, result, behind));
    let (rows, n) = (product(rows), product(row));
    let kernel = Kernel::Rows { op, rows, n, x: read.then_some(x), x_row, out_row, head, tail, meets };
    Some(Selected { kernel, wants, places })
}
