//! Where the elements of each value lie: the order of its axes in memory, chosen so that neighbours agree.

use crate::fusion::Cluster;
use crate::ir::{Dim, Graph, ValueId};
use crate::ops::Op;
use kiln_kernels::dtype::DType;
use std::collections::BTreeMap;

/// The order of a tensor's axes in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Layout {
    /// As ONNX lists them, the last one contiguous.
    #[default]
    RowMajor,
    /// `[N, D.., C]`: axis 1 contiguous, which vector kernels of convolutions and pools want.
    ChannelsLast,
}

/// Element strides of a shape in a layout, by axis.
pub fn strides(shape: &[Dim], layout: Layout) -> Vec<Dim> {
    let order: Vec<usize> = match layout {
        Layout::RowMajor => (0..shape.len()).collect(),
        Layout::ChannelsLast => std::iter::once(0).chain(2..shape.len()).chain(std::iter::once(1)).collect(),
    };
    let mut out = vec![Dim::int(0); shape.len()];
    let mut step = Dim::int(1);
    for &axis in order.iter().rev() {
        out[axis] = step.clone();
        step = step * shape[axis].clone();
    }
    out
}

/// The layout of every value that is not row-major.
pub type Layouts = BTreeMap<ValueId, Layout>;

/// The layout of a value.
pub fn of(layouts: &Layouts, v: ValueId) -> Layout {
    layouts.get(&v).copied().unwrap_or_default()
}

/// Chooses layouts for the results of the clusters of the model's own block.
pub fn choose(g: &Graph, clusters: &[Cluster]) -> Layouts {
    let mut out = Layouts::new();
    for c in clusters {
        let Some(&v) = c.outputs.first() else { continue };
        let shape = g.shape(v);
        // Where all but one of the extents that move are 1, both orders are the same.
        let moves = shape.len() >= 3 && shape[2..].iter().any(|d| !d.is(1)) && !shape[1].is(1);
        if !moves || c.outputs.len() != 1 {
            continue;
        }
        let inherits = |inputs: &[ValueId]| inputs.iter().any(|x| g.shape(*x) == shape && of(&out, *x) == Layout::ChannelsLast);
        let last = match c.anchor.map(|n| &g[n]) {
            Some(node) => match &node.op {
                Op::Conv(_) => g.dtype(v) == DType::F32 && crate::target::cpu::packs(g, node),
                Op::Pool(_) => crate::target::cpu::pools(g, node) && node.inputs[0].is_some_and(|x| of(&out, x) == Layout::ChannelsLast),
                Op::Concat(_) => node.inputs.iter().flatten().all(|x| of(&out, *x) == Layout::ChannelsLast),
                Op::Slice(_) | Op::Resize(_) => {
                    let nearest = match &node.op {
                        Op::Resize(r) => crate::target::cpu::whole_nearest(g, node, r),
                        _ => true,
                    };
                    nearest && node.inputs[0].is_some_and(|x| of(&out, x) == Layout::ChannelsLast)
                }
                _ => false,
            },
            None => c.tail.as_ref().is_some_and(|t| inherits(&t.inputs)),
        };
        if last {
            out.insert(v, Layout::ChannelsLast);
        }
    }
    out
}
