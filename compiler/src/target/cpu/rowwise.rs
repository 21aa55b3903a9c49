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

/// How the operand of a node is rows.
#[derive(Clone, Debug, PartialEq)]
pub struct Form {
    /// The first axis of a row.
    axis: usize,
    /// Groups of the channels along axis 1, and channels of each, where a row is a group: that axis is two then.
    groups: Option<[Dim; 2]>,
}

impl Form {
    /// A list by axis, with that of axis 1 replaced by two where channels are in groups.
    fn divided<T: Clone>(&self, list: &[T], two: impl Fn(&T, &[Dim; 2]) -> [T; 2]) -> Vec<T> {
        let mut out = list.to_vec();
        if let Some(groups) = &self.groups {
            out.splice(1..2, two(&list[1], groups));
        }
        out
    }
    /// Extents of the axes that count rows, and of those inside of one.
    fn split(&self, shape: &[Dim]) -> (Vec<Dim>, Vec<Dim>) {
        let mut rows = self.divided(shape, |_, groups| groups.clone());
        let row = rows.split_off(self.axis);
        (rows, row)
    }
}

/// The rows of a node that a kernel over rows computes.
pub fn form(g: &Graph, node: &Node) -> Option<Form> {
    let x = node.inputs.first().copied().flatten()?;
    let shape = g.shape(x);
    if g.dtype(x) != DType::F32 || node.outputs.len() != 1 {
        return None;
    }
    let from = |axis: usize| Form { axis, groups: None };
    match &node.op {
        Op::LayerNorm(l) => (l.centred || node.inputs.get(2).copied().flatten().is_none()).then(|| from(l.axis)),
        Op::InstanceNorm(_) => Some(from(2)),
        Op::GroupNorm(n) => Some(Form { axis: 2, groups: Some([Dim::int(n.groups as i64), n.channels(shape)?]) }),
        Op::Softmax(s) => {
            (matches!(s.mode, "softmax" | "log_softmax") && shape[s.axis + 1..].iter().all(|d| d.is(1))).then(|| from(s.axis))
        }
        Op::LpNorm(l) => shape[l.axis + 1..].iter().all(|d| d.is(1)).then(|| from(l.axis)),
        Op::Reduce(r) => {
            let first = *r.axes.first()?;
            (fold(r.mode).is_some() && r.axes == (first..shape.len()).collect::<Vec<_>>()).then(|| from(first))
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
    let Some(form) = form(g, node) else { return false };
    let Some(x) = node.inputs[0] else { return false };
    let (rows, row) = form.split(g.shape(x));
    product(&row).as_int().is_none_or(|n| n <= LONG) || product(&rows).as_int().is_some_and(|n| n >= MANY)
}

/// The kernel of a cluster whose anchor works on rows.
pub(super) fn select(g: &Graph, c: &Cluster, node: &Node, layouts: &Layouts) -> Option<Selected> {
    let form = form(g, node)?;
    let x = node.inputs[0]?;
    let result = *c.outputs.first()?;
    // Means and norms of pixels whose channels are neighbours have kernels of their own.
    if layouts.of(x) == Layout::ChannelsLast && matches!(node.op, Op::Reduce(_)) && c.nodes.len() == 1 {
        return None;
    }
    if layouts.of(result) == Layout::ChannelsLast && c.head.is_none() && super::norms_pixels(g, node) {
        return None;
    }
    let (rows, row) = form.split(g.shape(x));
    // From group to group, channels stand as they do inside of one.
    let axis = if form.groups.is_some() { 1 } else { form.axis };
    let pitch_of = |v: ValueId| {
        let pitch = row_pitch(g, layouts, v, axis)?;
        match &form.groups {
            None => Some(pitch),
            Some(_) => (pitch == product(&g.shape(v)[1..])).then(|| product(&row)),
        }
    };
    let (mut wants, mut meets) = (Vec::new(), Vec::new());
    // The operand, or the second result that the part before the rows writes: where nothing says otherwise, side by side.
    let (read, kept) = (c.head.is_none(), c.outputs.len() > 1);
    let pitch = if read || kept { pitch_of(x) } else { None };
    if read && pitch.is_none() {
        wants.push((x, Layout::RowMajor));
    }
    let mut places = !kept || pitch.is_some();
    let x_row = pitch.unwrap_or_else(|| product(&row));
    let input = |i: usize| node.inputs.get(i).copied().flatten();
    let op = match &node.op {
        Op::LayerNorm(l) => Row::Norm { epsilon: l.epsilon.get(), centred: l.centred, scale: input(1)?, bias: input(2) },
        Op::InstanceNorm(n) => {
            let (groups, channels) = (g.shape(x)[1].clone(), Dim::int(1));
            Row::GroupNorm { epsilon: n.epsilon.get(), groups, channels, scale: input(1)?, bias: input(2)? }
        }
        Op::GroupNorm(n) => {
            let [groups, channels] = form.groups.clone()?;
            Row::GroupNorm { epsilon: n.epsilon.get(), groups, channels, scale: input(1)?, bias: input(2)? }
        }
        Op::Softmax(s) => Row::Softmax { log: s.mode == "log_softmax" },
        Op::LpNorm(l) => Row::LpNorm { p: l.p, floor: l.floor.get() },
        Op::Reduce(r) => Row::Reduce(fold(r.mode)?),
        _ => return None,
    };
    wants.extend(node.inputs[1..].iter().flatten().map(|v| (*v, Layout::RowMajor)));
    let to = pitch_of(result);
    places &= to.is_some();
    let reduces = matches!(node.op, Op::Reduce(_));
    let out_row = to.unwrap_or_else(|| if reduces { Dim::int(1) } else { product(&row) });
    let mut stage = |t: &Tail, skip: usize, of: ValueId, outer: usize| {
        let shape = g.shape(of);
        let order: Vec<usize> = (0..shape.len()).collect();
        let mut operands = operands(g, &t.inputs[skip..], (shape, &order, Layout::RowMajor), layouts, &mut meets, &mut wants);
        let by = |s: &Stride, [_, channels]: &[Dim; 2]| {
            let far = |d: &Dim| d.clone() * channels.clone();
            let group = match s {
                Stride::By(d) => Stride::By(far(d)),
                Stride::Unless1 { extent, stride } => Stride::Unless1 { extent: extent.clone(), stride: far(stride) },
            };
            [group, s.clone()]
        };
        operands.iter_mut().for_each(|o| o.strides = form.divided(&o.strides, by));
        let mut dims = form.divided(shape, |_, groups| groups.clone());
        let outer = join(&mut dims, &mut operands, outer);
        if dims.len() == outer {
            dims.push(Dim::int(1));
            operands.iter_mut().for_each(|o: &mut Operand| o.strides.push(Stride::none()));
        }
        Stage { expr: t.expr.clone(), dims, outer, operands }
    };
    let head = c.head.as_ref().map(|t| stage(t, 0, x, form.axis));
    // Every axis of a reduction's result counts rows.
    let behind = if reduces { g.shape(result).len() } else { form.axis };
    let tail = c.tail.as_ref().map(|t| stage(t, 1, result, behind));
    let (rows, n) = (product(&rows), product(&row));
    let kernel = Kernel::Rows { op, rows, n, x: read.then_some(x), x_row, out_row, head, tail, meets };
    Some(Selected { kernel, wants, places })
}
