//! What an inference costs by counting: floating-point operations and bytes of results.

use kiln_compiler::ir::{Dim, Graph};
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
            Op::MatMul(_) | Op::NarrowMatMul(_) | Op::MatMulInteger(_) => 2 * count(&shape(0)[shape(0).len().saturating_sub(1)..]),
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

/// Operations of a step, and bytes that it reads and writes.
pub(crate) fn step(p: &Plan, s: &KernelStep) -> (u64, u64) {
    let g = &p.graph;
    let most = |d: &Dim| d.eval(&|s| Some(g.symbols.get(s.0 as usize)?.range.hi.unwrap_or(64))).unwrap_or(i64::MAX).max(0) as u64;
    let work = p.work(s);
    (most(&work.flops), most(&work.read).saturating_add(most(&work.written)))
}
