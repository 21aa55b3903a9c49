//! The kernel of a [`TreeEnsemble`] that is known when the model is compiled.

use super::select::Selected;
use crate::ir::{Graph, Node, ValueId};
use crate::kernel::{Kernel, Packed, Recipe};
use crate::layout::{Layout, Layouts};
use crate::ops::trees::TreeEnsemble;
use kiln_kernels::dtype::DType;
use kiln_kernels::trees;

/// The kernel; the elements of rows, and rows, must be neighbours. `result` is the cluster's result.
pub(super) fn select(g: &Graph, node: &Node, op: &TreeEnsemble, result: ValueId, layouts: &Layouts) -> Option<Selected> {
    let (x, forest) = (node.inputs[0]?, node.inputs[1]?);
    let (double, targets) = (g.dtype(x) == DType::F64, usize::try_from(op.targets).ok()?);
    let made = trees::pack(g[forest].constant.as_ref()?.slice(), double, targets, op.aggregate)?;
    let recipe = Recipe::Trees { double, targets, aggregate: op.aggregate, bytes: made.bytes.len() };
    let [rows, features] = g.shape(x) else { return None };
    let kernel = Kernel::Trees {
        x,
        forest: Packed { value: forest, recipe },
        rows: rows.clone(),
        features: features.clone(),
        scratch: made.scratch,
        steps: made.steps,
    };
    let places = layouts.shared(result).is_none() || layouts.is_dense(g, result, Layout::RowMajor);
    Some(Selected { kernel, wants: vec![(x, Layout::RowMajor)], places })
}
