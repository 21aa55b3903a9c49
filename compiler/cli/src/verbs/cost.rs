//! What an inference costs by counting: floating-point operations and bytes of results.

use kiln_compiler::ir::{Dim, Graph};
use kiln_compiler::kernel::{Kernel, Window};
use kiln_compiler::ops::Op;
use kiln_compiler::plan::{KernelStep, Plan};

/// Operations and bytes of all node results; extents that are not known count as their bound, or 64.
pub(crate) fn cost(g: &Graph) -> (u64, u64) {
    let count = |dims: &[Dim]| dims.iter().map(|d| g.range(d).hi.unwrap_or(64).max(0) as u64).fold(1, u64::saturating_mul);
    let (mut flops, mut bytes) = (0u64, 0u64);
    for n in g.live_nodes() {
        let node = &g[n];
        let results = node.outputs.iter().map(|v| count(g.ty(*v).shape().unwrap_or(&[])));
        let out: u64 = results.clone().fold(0, u64::saturating_add);
        for (v, n) in node.outputs.iter().zip(results) {
            bytes = bytes.saturating_add(n.saturating_mul(g.ty(*v).dtype().map_or(0, |d| d.size()) as u64));
        }
        let shape = |i: usize| node.inputs.get(i).copied().flatten().and_then(|v| g.ty(v).shape()).unwrap_or(&[]);
        let each = match &node.op {
            Op::MatMul(_) | Op::MatMulInteger(_) => 2 * count(&shape(0)[shape(0).len().saturating_sub(1)..]),
            Op::GatherMatMul(_) => 2 * count(&shape(1)[1..2]),
            Op::Conv(_) => count(shape(1).get(1..).unwrap_or(&[])).saturating_mul(2),
            Op::ConvTranspose(_) => count(&shape(0)[1.min(shape(0).len())..2.min(shape(0).len())]).saturating_mul(2),
            Op::Pointwise(_) | Op::Softmax(_) => 1,
            Op::Reduce(_) | Op::Pool(_) => (count(shape(0)) / out.max(1)).max(1),
            _ => 0,
        };
        flops = flops.saturating_add(out.saturating_mul(each));
    }
    (flops, bytes)
}

/// Operations of a kernel, and bytes that it reads and writes.
pub(crate) fn step(p: &Plan, s: &KernelStep) -> (u64, u64) {
    let g = &p.graph;
    let count = |dims: &[Dim]| dims.iter().map(|d| g.range(d).hi.unwrap_or(64).max(0) as u64).fold(1, u64::saturating_mul);
    let one = |d: &Dim| count(std::slice::from_ref(d));
    let size = |v: &kiln_compiler::ir::ValueId| {
        let ty = g.ty(*v);
        count(ty.shape().unwrap_or(&[])).saturating_mul(ty.dtype().map_or(0, |d| d.size()) as u64)
    };
    let weights: u64 =
        (s.kernel.packed().iter()).map(|w| g[w.value].constant.as_ref().map_or(0, |t| t.bytes().len() as u64)).fold(0, u64::saturating_add);
    let bytes = s.inputs.iter().flatten().chain(&s.outputs).map(size).fold(weights, u64::saturating_add);
    let out: u64 = s.outputs.iter().map(|v| count(g.ty(*v).shape().unwrap_or(&[]))).fold(0, u64::saturating_add);
    let window = |w: &Window| count(&w.out_dims).saturating_mul(one(&w.n)).saturating_mul(w.kernel.iter().product::<usize>() as u64);
    let tail = s.kernel.epilogue().map_or(0, |e| e.expr.code.len() as u64).saturating_mul(out);
    let of = |kernel: &Kernel| match kernel {
        Kernel::Gemm { m, n, k, .. } | Kernel::IntGemm { m, n, k, .. } => one(m).saturating_mul(2 * *n as u64 * *k as u64),
        Kernel::GroupedGemm { rows, n, k, .. } => count(rows).saturating_mul(2 * *n as u64 * *k as u64),
        Kernel::MatMul { batch, m, n, k, .. } => {
            let each = one(m).saturating_mul(one(n)).saturating_mul(one(k)).saturating_mul(2);
            count(batch).saturating_mul(each)
        }
        Kernel::Conv { window: w, k, groups, .. } => {
            window(w).saturating_mul(2 * *k as u64).saturating_mul(one(&w.c) / (*groups as u64).max(1))
        }
        Kernel::Pool { window: w, .. } => window(w).saturating_mul(one(&w.c)),
        Kernel::Map { expr, .. } => out.saturating_mul(expr.code.len() as u64),
        Kernel::Move { .. } | Kernel::Dims { .. } | Kernel::Host(_) => 0,
        _ => out,
    };
    let own = s.kernel.parts().into_iter().map(of).fold(0, u64::saturating_add);
    (own.saturating_add(tail), bytes)
}
