//! Tables whose transpose is also a packed factor of a product (tied embeddings): stored once, in panels that both kernels read.

use crate::ir::{Dim, Fact, Graph, NodeId, ValueId};
use crate::kernel::{Kernel, Packed, Recipe};
use crate::ops::{Call, CallArg, Op};
use crate::target::{Accuracy, cpu};
use kiln_kernels::dtype::DType;
use kiln_kernels::gemm::PANEL;
use kiln_kernels::gemm::narrow::{self, Coding};
use kiln_kernels::value::Tensor;
use std::collections::BTreeMap;

/// Tables below this size are not looked for.
const LEAST_BYTES: usize = 1 << 16;

/// A table's transpose as the product reads it, and the value that stands for its panels.
#[derive(Clone, Debug)]
pub(super) struct Panels {
    pub(super) value: ValueId,
    pub(super) packed: Packed,
}

/// The constants that only Gathers along their first axis read, and whose transpose is packed for a product.
pub(super) fn tables(g: &mut Graph, accuracy: Accuracy) -> BTreeMap<ValueId, Panels> {
    let nodes = g.live_nodes();
    let factors: Vec<Factor> = nodes.iter().filter_map(|n| factor(g, *n)).collect();
    let uses = g.uses();
    let mut lookups: BTreeMap<ValueId, usize> = BTreeMap::new();
    for n in &nodes {
        if let (Op::Gather(op), Some(table)) = (&g[*n].op, g[*n].inputs.first().copied().flatten())
            && op.axis == 0
        {
            *lookups.entry(table).or_insert(0) += 1;
        }
    }
    let mut out = BTreeMap::new();
    for (table, count) in lookups {
        let Some(t) = g[table].constant.as_ref() else { continue };
        if t.dtype != DType::F32 || t.dims.len() != 2 || t.bytes().len() < LEAST_BYTES || uses.get(&table) != Some(&count) {
            continue;
        }
        let transposed = |w: ValueId| g[w].constant.as_ref().is_some_and(|w| is_transpose(t, w));
        let Some(Factor { w, k, n, rows }) = factors.iter().find(|f| transposed(f.w)) else { continue };
        let Some(constant) = g[*w].constant.as_ref() else { continue };
        let short = cpu::shortened(constant, rows, (*k, *n), accuracy);
        let packed = Packed { value: *w, recipe: short.map_or(Recipe::Gemm { k: *k, n: *n }, |(_, recipe)| recipe) };
        let (dtype, shape) = match packed.recipe {
            Recipe::Gemm { k, n } => (DType::F32, vec![n.div_ceil(PANEL), k, PANEL]),
            Recipe::Fixed { k, n } => (DType::U8, vec![narrow::packed_len(k, n, Coding::Fixed)]),
            _ => continue,
        };
        let shape = shape.into_iter().map(|d| Dim::int(d as i64)).collect();
        let value = g.add_value(Fact::tensor(dtype, shape), "");
        out.insert(table, Panels { value, packed });
    }
    out
}

/// The right side of a product that is packed at compile time, `k` by `n`, and how many rows meet it.
struct Factor {
    w: ValueId,
    k: usize,
    n: usize,
    rows: Dim,
}

fn factor(g: &Graph, n: NodeId) -> Option<Factor> {
    let node = &g[n];
    if !matches!(node.op, Op::MatMul(_)) || !cpu::packs(g, node) {
        return None;
    }
    let (k, n) = cpu::constant_right(g, node)?;
    Some(Factor { w: node.inputs[1]?, k, n, rows: cpu::rows(g, node.inputs[0]?) })
}

fn is_transpose(a: &Tensor, b: &Tensor) -> bool {
    let ([rows, cols], [k, n]) = (&a.dims[..], &b.dims[..]) else { return false };
    if (rows, cols) != (n, k) || b.dtype != DType::F32 {
        return false;
    }
    let (x, y): (&[f32], &[f32]) = (a.slice(), b.slice());
    // Bits, so that a NaN equals itself and zeros of different sign differ. By blocks, for the cache's sake.
    (0..*rows)
        .step_by(16)
        .all(|from| (0..*cols).all(|j| (from..(from + 16).min(*rows)).all(|i| x[i * cols + j].to_bits() == y[j * rows + i].to_bits())))
}

/// Makes a lookup read the panels.
pub(super) fn read_panels(kernel: &mut Kernel, inputs: &mut [Option<ValueId>], tables: &BTreeMap<ValueId, Panels>) -> Option<Packed> {
    let Kernel::Call(call) = kernel else { return None };
    let Panels { value, packed } = tables.get(&inputs.first().copied().flatten()?)?;
    let (entry, k, n, types) = match packed.recipe {
        Recipe::Gemm { k, n } => ("gather::gather_panels", k, n, call.types.clone()),
        Recipe::Fixed { k, n } => ("gather::gather_fixed", k, n, call.types[1..].to_vec()),
        _ => return None,
    };
    if call.entry != "gather::gather" {
        return None;
    }
    let extent = |d: usize| CallArg::Dim(Dim::int(d as i64));
    let args = vec![CallArg::Out(0), CallArg::In(0), CallArg::In(1), extent(n), extent(k)];
    *call = Call { entry, types, args };
    inputs[0] = Some(*value);
    Some(packed.clone())
}
