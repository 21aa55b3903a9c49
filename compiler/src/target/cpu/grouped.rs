//! The kernel of a [`GatherMatMul`](crate::ops::matmul::GatherMatMul): rows with three steps through memory.

use super::reach::row_pitch;
use super::select::{Selected, join};
use crate::ir::{Dim, Graph, Node, ValueId};
use crate::kernel::{Epilogue, Kernel, Operand, Packed, Recipe, Stride};
use crate::layout::{self, Layout, Layouts, is_forward};

/// The extents of the indices as three axes, with steps of an operand of strides `memory` along them; `None` where it needs more.
fn rows(g: &Graph, x: ValueId, memory: &[Dim], indices: ValueId) -> Option<([Dim; 3], Operand)> {
    let (own, mut dims) = (g.shape(x), g.shape(indices).to_vec());
    let skip = (dims.len() + 1).checked_sub(own.len())?;
    let step = |axis: usize| axis.checked_sub(skip).filter(|i| !own[*i].is(1)).map_or(Dim::int(0), |i| memory[i].clone());
    let mut operands = [Operand { value: x, strides: (0..dims.len()).map(|a| Stride::By(step(a))).collect() }];
    join(&mut dims, &mut operands, 0);
    let [mut operand] = operands;
    while dims.len() < 3 {
        dims.insert(0, Dim::int(1));
        operand.strides.insert(0, Stride::none());
    }
    Some((dims.try_into().ok()?, operand))
}

/// Whether the kernel can read the rows of its operand, at least where they are dense.
pub(super) fn fits(g: &Graph, node: &Node) -> bool {
    let [Some(x), _, Some(indices)] = node.inputs[..] else { return false };
    rows(g, x, &layout::strides(g.shape(x), Layout::RowMajor), indices).is_some()
}

/// The kernel. `result` is the cluster's result.
pub(super) fn select(g: &Graph, node: &Node, epilogue: Option<Epilogue>, result: ValueId, layouts: &Layouts) -> Option<Selected> {
    let [x, w, indices] = [node.inputs[0]?, node.inputs[1]?, node.inputs[2]?];
    let [count, k, n] = g[w].constant.as_ref()?.dims[..] else { return None };
    let mut wants = vec![(indices, Layout::RowMajor)];
    let memory = layouts.strides(g, x);
    let near = memory.last().is_some_and(|s| s.is(1)) || k == 1;
    let (rows, a) = match rows(g, x, &memory, indices).filter(|_| near && is_forward(g, &memory)) {
        Some(found) => found,
        None => {
            wants.push((x, Layout::RowMajor));
            rows(g, x, &layout::strides(g.shape(x), Layout::RowMajor), indices)?
        }
    };
    let to = row_pitch(g, layouts, result, g.shape(result).len() - 1);
    let places = to.is_some();
    let out_row = to.unwrap_or_else(|| Dim::int(n as i64));
    let b = Packed { value: w, recipe: Recipe::Gemms { count, k, n } };
    Some(Selected { kernel: Kernel::GroupedGemm { rows, count, n, k, a, indices, out_row, b, epilogue }, wants, places })
}
