//! The CPU: which clusters have a vector kernel, and what those kernels can read.

mod attend;
mod cost;
mod grouped;
mod narrow;
mod orders;
mod reach;
mod rotary;
pub mod rowwise;
mod select;
mod tiled;
mod trees;
mod winograd;

pub use cost::{RATES, Rates, cost};
pub use narrow::{narrow_block, shorten, shortened, stays_narrow};
pub use orders::{Demand, Orders, Read, orders, turning, turns};
pub use select::{Selected, relayout, select};
pub use winograd::quicken;

use crate::ir::{Dim, Graph, Node, NodeId, ValueId, product};
use crate::kernel::Stride;
use crate::ops::{Op, resize::Resize};
use kiln_kernels::dtype::DType;

/// Whether a convolution or matrix product runs on the register tiles, which also take a pointwise tail.
pub fn packs(g: &Graph, node: &Node) -> bool {
    let constant = |i: usize| node.inputs.get(i).copied().flatten().is_none_or(|v| g[v].constant.is_some());
    let Some(x) = node.inputs[0] else { return false };
    if matches!(node.op, Op::MatMulInteger(_)) {
        return constant(1) && constant(3);
    }
    if let Op::ConvInteger(c) = &node.op {
        let Some(weights) = node.inputs[1].filter(|_| constant(1)) else { return false };
        let (rank, w) = (g.shape(x).len(), g.shape(weights));
        let alone = w[1].is(1) && w[0].is(c.groups) && c.groups > 1;
        // The kernel of one group reads bytes, the other has no zero points of weights.
        let fits = if alone { node.inputs.get(3).is_none_or(Option::is_none) } else { c.groups == 1 && g.dtype(weights) == DType::I8 };
        return fits && constant(3) && (3..=5).contains(&rank) && c.pads.iter().all(|p| *p >= 0);
    }
    if g.dtype(x) != DType::F32 {
        return false;
    }
    match &node.op {
        Op::Conv(c) => {
            let rank = g.shape(x).len();
            constant(1) && constant(2) && (3..=5).contains(&rank) && c.pads.iter().all(|p| *p >= 0)
        }
        Op::MatMul(_) => true,
        Op::GatherMatMul(_) => constant(1) && grouped::fits(g, node),
        Op::NarrowMatMul(op) => narrow::fits(g, node, op),
        _ => false,
    }
}

/// Whether a pool has a channels-last kernel.
pub fn pools(g: &Graph, node: &Node) -> bool {
    let Op::Pool(p) = &node.op else { return false };
    let Some(x) = node.inputs[0] else { return false };
    (g.dtype(x) == DType::F32 || g.dtype(x) == DType::U8 && p.mode == "max")
        && node.outputs.len() == 1
        && (3..=5).contains(&g.shape(x).len())
        && p.pads.iter().all(|p| *p >= 0)
        && (p.mode == "max" || (p.mode.starts_with("average") && p.dilations.iter().all(|d| *d == 1)))
}

/// Whether a normalization has a channels-last kernel.
pub fn norms_pixels(g: &Graph, node: &Node) -> bool {
    let Some(x) = node.inputs[0] else { return false };
    matches!(node.op, Op::InstanceNorm(_) | Op::GroupNorm(_)) && rowwise::form(g, node).is_some() && g.shape(x).len() >= 3
}

/// Whether a local response normalization has a channels-last kernel.
pub fn responds(g: &Graph, node: &Node) -> bool {
    let (Op::Lrn(l), Some(x)) = (&node.op, node.inputs[0]) else { return false };
    let size = usize::try_from(l.size).is_ok_and(|s| s <= kiln_kernels::norm::Response::WIDEST);
    size && l.beta.get() != 0.0 && g.dtype(x) == DType::F32
}

/// Whether a Resize only repeats elements a whole number of times, so that it is a few strided copies.
pub fn whole_nearest(g: &Graph, node: &Node, r: &Resize) -> bool {
    let Some(x) = node.inputs[0] else { return false };
    r.repeats(g.shape(x)).is_some()
}

/// Whether a Resize has the kernel of images: f32 with one or two spatial axes, resized in nothing else.
pub fn resizes_images(g: &Graph, node: &Node, r: &Resize) -> bool {
    let Some(x) = node.inputs[0] else { return false };
    let shape = g.shape(x);
    let spatial = matches!(shape.len(), 3 | 4) && r.shape[..2] == shape[..2] && r.scales[..2].iter().all(|s| s.get() == 1.0);
    spatial && g.dtype(x) == DType::F32 && matches!(r.mode, "nearest" | "linear" | "cubic") && r.coordinates != "tf_crop_and_resize"
}

/// The matrix product whose right side is a constant matrix that can be packed: depth and columns.
pub fn constant_right(g: &Graph, node: &Node) -> Option<(usize, usize)> {
    let b = node.inputs.get(1).copied().flatten()?;
    let t = g[b].constant.as_ref()?;
    match t.dims[..] {
        [k, n] => Some((k, n)),
        _ => None,
    }
}

/// Whether the result of a product is rows of one matrix, whatever its axes are.
fn in_rows(g: &Graph, node: &Node) -> bool {
    matches!(node.op, Op::GatherMatMul(_) | Op::NarrowMatMul(_)) || constant_right(g, node).is_some()
}

/// Steps of an operand of an anchor's tail along the batch axes, rows and columns of the anchor's result; `None` when it has no
/// such steps.
pub fn tail_operand(g: &Graph, anchor: NodeId, v: ValueId) -> Option<Vec<Stride>> {
    let node = &g[anchor];
    let out = g.shape(node.outputs[0]);
    let shape = g.shape(v);
    if shape.len() > out.len() || !matches!(g.ty(v), crate::ir::Type::Tensor(..)) {
        return None;
    }
    let mut padded = vec![Dim::int(1); out.len() - shape.len()];
    padded.extend_from_slice(shape);
    // An extent that may or may not be 1 at run time has no fixed step.
    if padded.iter().zip(out).any(|(p, o)| !p.is(1) && p != o) {
        return None;
    }
    let ones = |r: std::ops::Range<usize>| padded[r].iter().all(|d| d.is(1));
    let full = |r: std::ops::Range<usize>| padded[r.clone()] == out[r];
    let rank = out.len();
    let by = |n: Dim| Stride::By(n);
    match &node.op {
        Op::Conv(_) | Op::ConvInteger(_) | Op::InstanceNorm(_) | Op::GroupNorm(_) => {
            // One of fewer axes lies in the order of its own, which is not that of pixels.
            if full(0..rank) && shape.len() == rank {
                Some(vec![by(out[1].clone()), by(Dim::int(1))])
            } else if ones(0..1) && ones(2..rank) {
                Some(vec![Stride::none(), by(Dim::int(if padded[1].is(1) { 0 } else { 1 }))])
            } else {
                None
            }
        }
        Op::MatMul(_) | Op::MatMulInteger(_) | Op::GatherMatMul(_) | Op::NarrowMatMul(_) if in_rows(g, node) => {
            let n = &out[rank - 1];
            let column = if padded[rank - 1].is(1) && !n.is(1) { Dim::int(0) } else { Dim::int(1) };
            if ones(0..rank - 1) {
                Some(vec![Stride::none(), by(column)])
            } else if full(0..rank - 1) {
                let row = if padded[rank - 1] == *n { n.clone() } else { Dim::int(1) };
                Some(vec![by(row), by(column)])
            } else {
                None
            }
        }
        Op::MatMul(_) => {
            let mut step = Dim::int(1);
            let mut out_strides = vec![Stride::none(); rank];
            for i in (0..rank).rev() {
                if !padded[i].is(1) {
                    out_strides[i] = by(step.clone());
                }
                step = step * padded[i].clone();
            }
            Some(out_strides)
        }
        _ => None,
    }
}

/// The rows of a matrix product by a constant: all axes of the left side but the last.
pub fn rows(g: &Graph, a: ValueId) -> Dim {
    let s = g.shape(a);
    product(&s[..s.len() - 1])
}
