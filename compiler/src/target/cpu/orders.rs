//! What orders of axes are worth to the kernels of the CPU: which they can write, and what it costs them to read another.

use super::cost::{RATES, upper};
use super::{norms_pixels, packs, pools, resizes_images, responds, rowwise, whole_nearest};
use crate::fusion::Cluster;
use crate::ir::{Graph, Node, ValueId};
use crate::layout::{self, Layout};
use crate::ops::Op;
use kiln_kernels::igemm::PLANES;

/// Picoseconds for an element that a pointwise kernel picks out of other rows than those it writes.
const PICKED: f64 = 1_200.0;
/// Picoseconds for an element of a window in the plain kernel of pools.
const PLAIN: f64 = 11_000.0;
/// Picoseconds for an element in the plain kernel of local responses.
const RESPONSE: f64 = 30_000.0;
/// Picoseconds more for an element of a resized image whose channels are no neighbours.
const POINT: f64 = 1_000.0;
/// How much longer a convolution takes whose channels are no neighbours: of all its time, and of that of a depthwise one.
const ROWS: [f64; 2] = [0.05, 40.0];
/// An operand of so few channels is read by rows as well.
const FEW_CHANNELS: i64 = 4;

/// How a kernel would have an operand lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// In that order, whatever becomes of the result.
    In(Layout),
    /// As the result lies.
    Alike,
}

/// A kernel's wish for an operand whose order matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    /// The operand.
    pub value: ValueId,
    /// How it is best read.
    pub demand: Demand,
    /// Picoseconds more that the kernel takes for the other order; `None` where it needs a copy.
    pub other: Option<u64>,
}

/// What a cluster asks of orders of axes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Orders {
    /// Picoseconds more that a result costs row-major; `None` where the kernel cannot write it.
    pub row_major: Option<u64>,
    /// The same for channels last.
    pub channels_last: Option<u64>,
    /// Operands.
    pub reads: Vec<Read>,
    /// Whether its results are views whose axes stand in neither order.
    pub loose: bool,
}

/// Whether the two orders of a value's axes differ.
pub fn turns(g: &Graph, v: ValueId) -> bool {
    let shape = g.ty(v).shape().unwrap_or(&[]);
    // Where all but one of the extents that move are 1, both orders are the same.
    shape.len() >= 3 && shape[2..].iter().any(|d| !d.is(1)) && !shape[1].is(1)
}

/// What a copy of a value to the other order costs.
pub fn turning(g: &Graph, v: ValueId) -> u64 {
    (RATES.kernel + 2.0 * bytes(g, v) * RATES.byte) as u64
}

/// What it costs a pointwise kernel more to read a value in the order that is not its own.
fn picking(g: &Graph, v: ValueId) -> u64 {
    (elements(g, v) * PICKED) as u64
}

/// Whether a pointwise kernel has a value copied rather than read it in the other order.
pub(super) fn apart(g: &Graph, v: ValueId) -> bool {
    turns(g, v) && picking(g, v) > turning(g, v)
}

fn elements(g: &Graph, v: ValueId) -> f64 {
    g.ty(v).shape().map_or(0.0, |s| s.iter().map(|d| upper(&g.symbols, d)).product())
}

fn bytes(g: &Graph, v: ValueId) -> f64 {
    elements(g, v) * g.dtype(v).size() as f64
}

/// Whether an integer convolution reads so few channels that each may lie anywhere.
pub(super) fn reads_planes(g: &Graph, node: &Node) -> bool {
    node.inputs.first().copied().flatten().is_some_and(|x| g.shape(x)[1].as_int().is_some_and(|c| c <= PLANES as i64))
}

/// What it costs a convolution more to read its operand by rows.
pub(super) fn by_rows(g: &Graph, node: &Node) -> u64 {
    let (Op::Conv(c), [Some(_), Some(w), ..]) = (&node.op, &node.inputs[..]) else { return 0 };
    let channels = upper(&g.symbols, &g.shape(*w)[1]);
    let window = elements(g, *w) / upper(&g.symbols, &g.shape(*w)[0]).max(1.0);
    let products = elements(g, node.outputs[0]) * window;
    match c.groups {
        1 if channels <= FEW_CHANNELS as f64 => 0,
        1 => (products * RATES.multiply_add * ROWS[0]) as u64,
        _ => (products * RATES.loose * ROWS[1]) as u64,
    }
}

/// What a pool costs in its plain kernel, which is the one for rows.
pub(super) fn plain_pool(g: &Graph, node: &Node) -> u64 {
    let Op::Pool(p) = &node.op else { return 0 };
    (elements(g, node.outputs[0]) * p.kernel.iter().product::<i64>() as f64 * PLAIN) as u64
}

/// What a cluster's kernel asks for. Results that are views lie as their operands do, whatever is chosen for them.
pub fn orders(g: &Graph, c: &Cluster) -> Orders {
    let rows = Orders { row_major: Some(0), ..Orders::default() };
    let either = |reads: Vec<Read>| Orders { row_major: Some(0), channels_last: Some(0), reads, loose: false };
    let Some(node) = c.anchor.map(|n| &g[n]) else {
        // Elements beside those of the result are as good as elements of the result; others are picked one by one.
        let inputs = c.tail.iter().flat_map(|t| &t.inputs);
        let reads = inputs.filter(|v| g.shape(**v).len() == g.shape(c.outputs[0]).len()).map(|v| Read {
            value: *v,
            demand: Demand::Alike,
            other: Some(picking(g, *v)),
        });
        return either(reads.collect());
    };
    let all = |demand: Demand| -> Vec<Read> { node.inputs.iter().flatten().map(|v| Read { value: *v, demand, other: None }).collect() };
    let moved = || -> Vec<Read> {
        node.inputs.iter().flatten().map(|v| Read { value: *v, demand: Demand::Alike, other: Some(turning(g, *v)) }).collect()
    };
    let x = node.inputs.first().copied().flatten();
    match &node.op {
        Op::Conv(_) | Op::ConvInteger(_) if packs(g, node) => {
            let operands = c.tail.iter().flat_map(|t| t.inputs[1..].iter().copied());
            let operands = operands.filter(|v| g.shape(*v) == g.shape(c.outputs[0]));
            let mut reads: Vec<Read> =
                operands.map(|value| Read { value, demand: Demand::In(Layout::ChannelsLast), other: None }).collect();
            let other = match &node.op {
                // Its rows are copied anyway, whatever channels they have.
                Op::ConvInteger(c) => (c.groups == 1 && reads_planes(g, node)).then_some(0),
                _ => Some(by_rows(g, node)),
            };
            reads.extend(x.map(|value| Read { value, demand: Demand::In(Layout::ChannelsLast), other }));
            Orders { channels_last: Some(0), reads, ..Orders::default() }
        }
        Op::Pool(_) if pools(g, node) => {
            let plain = plain_pool(g, node);
            let (demand, other) = match turns(g, node.outputs[0]) {
                true => (Demand::Alike, None),
                false => (Demand::In(Layout::ChannelsLast), Some(plain)),
            };
            let reads = x.map(|value| Read { value, demand, other }).into_iter().collect();
            Orders { row_major: Some(plain), ..either(reads) }
        }
        Op::InstanceNorm(_) | Op::GroupNorm(_) if norms_pixels(g, node) && c.head.is_none() => {
            let tail = c.tail.iter().flat_map(|t| &t.inputs[1..]).filter(|v| g.shape(**v) == g.shape(c.outputs[0]));
            let reads = x.iter().chain(tail).map(|v| Read { value: *v, demand: Demand::Alike, other: None }).collect();
            either(reads)
        }
        Op::Lrn(_) if responds(g, node) => {
            let plain = (elements(g, node.outputs[0]) * RESPONSE) as u64;
            let reads = all(Demand::Alike);
            Orders { row_major: Some(plain), ..either(reads) }
        }
        Op::Concat(_) | Op::Append(_) | Op::Slice(_) | Op::Split(_) | Op::Interleave(_) => either(moved()),
        Op::Resize(r) if whole_nearest(g, node, r) => either(moved()),
        Op::Resize(r) if resizes_images(g, node, r) => {
            let points = if turns(g, node.outputs[0]) { (elements(g, node.outputs[0]) * POINT) as u64 } else { 0 };
            Orders { row_major: Some(points), ..either(all(Demand::Alike)) }
        }
        // A mean of pixels has a kernel for either order.
        Op::Reduce(r) if r.mode == "mean" && x.is_some_and(|x| r.axes == (2..g.shape(x).len()).collect::<Vec<_>>()) => rows,
        // A view of axes in one order is a value in the other.
        Op::Transpose(t) => {
            let axes = t.perm.len();
            let read =
                |order| Read { value: x.unwrap_or(node.outputs[0]), demand: Demand::In(order), other: Some(turning(g, node.outputs[0])) };
            if t.perm == layout::order(axes, Layout::ChannelsLast) {
                Orders { reads: vec![read(Layout::ChannelsLast)], ..rows }
            } else if layout::order(axes, Layout::ChannelsLast).iter().enumerate().all(|(i, a)| t.perm[*a] == i) {
                Orders { channels_last: Some(0), reads: vec![read(Layout::RowMajor)], ..Orders::default() }
            } else {
                Orders { loose: true, ..rows }
            }
        }
        // Views, and blocks whose kernels read what is around them as it lies.
        Op::Expand(_) | Op::If(_) | Op::Loop(_) => rows,
        Op::Reshape(_) if x.is_some_and(|x| layout::reshapes(g, x, node.outputs[0], Layout::ChannelsLast)) => rows,
        // Where it is no view, it is a copy that writes either order.
        Op::Reshape(_) if x.is_some_and(|x| layout::reshapes(g, node.outputs[0], x, Layout::ChannelsLast)) => {
            let other = Some(turning(g, node.outputs[0]));
            either(x.map(|value| Read { value, demand: Demand::Alike, other }).into_iter().collect())
        }
        _ if rowwise::form(g, node).is_some() => {
            let head = c.head.iter().flat_map(|t| &t.inputs);
            let inputs = c.tail.iter().flat_map(|t| &t.inputs).chain(head).chain(node.inputs.iter().flatten());
            let read = |v: &ValueId| Read { value: *v, demand: Demand::In(Layout::RowMajor), other: None };
            Orders { reads: inputs.map(read).collect(), ..rows }
        }
        _ => Orders { reads: all(Demand::In(Layout::RowMajor)), ..rows },
    }
}
