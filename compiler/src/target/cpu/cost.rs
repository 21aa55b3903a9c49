//! What an operator costs on a CPU: a roofline of operations and bytes, with a fixed price for each kernel.
//!
//! `cargo run --release -p kiln-tests --bin roofline` measures kernels of many shapes, fits the rates to them, and shows how far the
//! model is from each. Symbolic extents count as their upper bound or 64.

use crate::ir::{Dim, Fact, Range, Symbol};
use crate::ops::Op;
use crate::rewrite::{Price, Priced};
use kiln_kernels::dtype::DType;

/// Rates of a machine, in picoseconds on one core.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    /// A multiply-add in register tiles.
    pub multiply_add: f64,
    /// A multiply-add whose weight is read from memory each time: depthwise convolution, products of few rows.
    pub loose: f64,
    /// A byte of a value written by one kernel and read by another, most often in the second or third level of cache.
    pub byte: f64,
    /// A byte of weights.
    pub weight: f64,
    /// A scalar operation on an element in a pointwise kernel.
    pub scalar: f64,
    /// Starting a kernel and meeting its threads again.
    pub kernel: f64,
}

/// One core with AVX-512, as fitted; only the proportions matter. On one thread a kernel starts in 4 ns. Two take 3 µs to meet, in
/// which each could compute: that is what a kernel is worth.
pub const RATES: Rates = Rates { multiply_add: 8.6, loose: 17.0, byte: 38.0, weight: 18.0, scalar: 3.2, kernel: 1_500_000.0 };

/// The extent that costs are counted with: a symbolic one at its upper bound, or 64.
pub(super) fn upper(symbols: &[Symbol], d: &Dim) -> f64 {
    let range = d.range(&|s| symbols.get(s.0 as usize).map_or(Range { lo: 0, hi: None }, |s| s.range));
    range.hi.unwrap_or(64).max(0) as f64
}

/// The cost of an operator, given the model's symbols.
pub fn cost(rates: &Rates, symbols: &[Symbol], p: &Priced<'_>) -> Price {
    let extent = |d: &Dim| upper(symbols, d);
    let elements = |f: &Fact| f.ty.shape().map_or(64.0, |s| s.iter().map(extent).product::<f64>());
    let size = |f: &Fact| f.ty.dtype().map_or(8, |d| d.size()) as f64;
    let bytes = |f: &Fact| elements(f) * size(f);
    let shape = |i: usize| p.inputs.get(i).copied().flatten().and_then(|f| f.ty.shape()).unwrap_or(&[]);
    let out: f64 = p.results.iter().map(elements).sum();
    let written: f64 = p.results.iter().map(bytes).sum();
    let read: f64 =
        (p.inputs.iter().zip(&p.weights)).filter_map(|(f, w)| f.map(|f| bytes(f) * if *w { rates.weight } else { rates.byte })).sum();
    let moved = rates.kernel + read + written * rates.byte;
    let total = match p.op {
        Op::Reshape(_) | Op::BitCast(_) => 0.0,
        // Moves are mostly read where their operand lies, or written where they go; now and then one is a copy after all.
        Op::Transpose(_) | Op::Slice(_) | Op::Split(_) | Op::Concat(_) | Op::Append(_) | Op::Expand(_) => moved / 16.0,
        Op::MatMul(_) | Op::NarrowMatMul(_) => {
            let depth = shape(0).last().map_or(1.0, extent);
            let rows = out / shape(1).last().map_or(1.0, extent).max(1.0);
            moved + out * depth * if rows < 4.0 { rates.loose } else { rates.multiply_add }
        }
        // Of the matrices, as many are read as there are rows at most.
        Op::GatherMatMul(_) => {
            let (each, depth) = (shape(1).iter().skip(1).map(extent).product::<f64>(), shape(0).last().map_or(1.0, extent));
            let rows = out / shape(1).last().map_or(1.0, extent).max(1.0);
            let unread = shape(1).first().map_or(0.0, extent) - rows;
            moved - unread.max(0.0) * each * 4.0 * rates.weight + out * depth * rates.loose
        }
        // Four products of bytes take the time of one of floats.
        Op::MatMulInteger(_) => moved + out * shape(0).last().map_or(1.0, extent) * rates.multiply_add / 4.0,
        Op::Attend(_) => {
            // Both products; what happens to the scores between them costs about a fifth more.
            let keys = shape(1).iter().rev().nth(1).map_or(1.0, extent);
            let depth = shape(0).last().map_or(1.0, extent) + shape(2).last().map_or(1.0, extent);
            let rows = out / shape(2).last().map_or(1.0, extent).max(1.0);
            moved + rows * keys * depth * rates.multiply_add * 1.2
        }
        Op::Conv(c) => {
            let window: f64 = shape(1).iter().skip(1).map(extent).product();
            moved + out * window * if c.groups > 1 { rates.loose } else { rates.multiply_add }
        }
        Op::ConvInteger(c) => {
            let window: f64 = shape(1).iter().skip(1).map(extent).product();
            moved + out * window * if c.groups > 1 { rates.loose } else { rates.multiply_add } / 4.0
        }
        Op::Pointwise(e) => moved + out * rates.scalar * e.expr.code.len() as f64,
        _ => moved,
    };
    // Behind another kernel, the result of that kernel is still in registers: what else is read remains.
    let joined = match p.op {
        Op::Pointwise(e) => {
            let largest = p.inputs.iter().zip(&p.weights).filter_map(|(f, w)| f.filter(|_| !w)).map(bytes).fold(0.0, f64::max);
            read - largest * rates.byte + out * rates.scalar * e.expr.code.len() as f64
        }
        _ => total,
    };
    let takes = matches!(
        p.op,
        Op::Conv(_)
            | Op::MatMul(_)
            | Op::GatherMatMul(_)
            | Op::NarrowMatMul(_)
            | Op::LayerNorm(_)
            | Op::LpNorm(_)
            | Op::InstanceNorm(_)
            | Op::GroupNorm(_)
            | Op::Softmax(_)
            | Op::Reduce(_)
    );
    let takes_more = takes && p.results.iter().all(|f| f.ty.dtype() == Some(DType::F32))
        || matches!(p.op, Op::Pointwise(_) | Op::MatMulInteger(_) | Op::ConvInteger(_));
    let whole = |x: f64| x.clamp(0.0, 1e15) as u64;
    Price { alone: whole(total), joined: whole(joined), takes_more }
}
