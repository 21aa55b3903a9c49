//! What a step takes: operations and bytes by the definition of what it computes, as expressions over symbols.

use super::{KernelStep, Place, Plan};
use crate::ir::{Dim, ValueId, product};
use crate::kernel::{Expr, Kernel, Row, Scalar, Stage, Window};
use std::collections::BTreeSet;

/// What a step takes, whatever algorithm does it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Operations; a multiplication and the addition behind it are two.
    pub flops: Dim,
    /// Bytes of operands and of packed weights, each counted once.
    pub read: Dim,
    /// Bytes of results.
    pub written: Dim,
}

/// Operations of an expression for an element.
fn operations(e: &Expr) -> Dim {
    let counts = |s: &Scalar| !matches!(s, Scalar::In(_) | Scalar::Const(_));
    Dim::int(e.code.iter().filter(|(s, _)| counts(s)).count() as i64)
}

/// Operations of a kernel over rows for an element of a row: those of its definition, an exponential counted as one.
fn of_row(op: &Row) -> i64 {
    match op {
        Row::Norm { centred: true, .. } | Row::GroupNorm { .. } => 7,
        Row::Norm { .. } => 4,
        Row::Softmax { .. } => 4,
        Row::LpNorm { .. } => 3,
        Row::Reduce(_) => 1,
    }
}

/// Results of a window, each with the taps of one channel.
fn taps(w: &Window) -> Dim {
    product(&w.out_dims) * w.n.clone() * Dim::int(w.kernel.iter().product::<usize>() as i64)
}

/// The pairs of a query and a key that it sees; all of them where that is not known to be a triangle.
fn pairs(queries: &Dim, keys: &Dim, reach: &Dim) -> Dim {
    let all = queries.clone() * keys.clone();
    // The last query sees the last key: the first one sees as many less as there are queries behind it.
    if reach.clone() + queries.clone() == *keys {
        let hidden = (queries.clone() * (queries.clone() + Dim::int(-1))).floor_div(&Dim::int(2));
        return all + hidden * Dim::int(-1);
    }
    all
}

impl Plan {
    /// What a step takes.
    pub fn work(&self, step: &KernelStep) -> Work {
        Work { flops: self.flops(step), read: self.read(step), written: self.written(step) }
    }

    fn elements(&self, v: ValueId) -> Dim {
        self.graph.ty(v).shape().map_or(Dim::int(0), product)
    }
    fn bytes(&self, v: ValueId) -> Dim {
        self.elements(v) * Dim::int(self.graph.ty(v).dtype().map_or(0, |d| d.size()) as i64)
    }

    fn written(&self, step: &KernelStep) -> Dim {
        step.outputs.iter().map(|v| self.bytes(*v)).fold(Dim::int(0), |a, b| a + b)
    }

    fn read(&self, step: &KernelStep) -> Dim {
        let packed = step.kernel.packed().into_iter().filter_map(|p| self.blob(p)).map(|b| b.bytes).sum::<usize>();
        // Of a table that indices pick from, as many bytes are read as are written.
        let picks = matches!(&step.kernel, Kernel::Call(c) if c.entry.starts_with("gather::"));
        let table = step.inputs.first().copied().flatten().filter(|_| picks);
        let own = BTreeSet::from_iter(step.inputs.iter().flatten().copied().filter(|v| Some(*v) != table));
        let own = own.into_iter().map(|v| match (self.places.get(&v), &self.graph[v].constant) {
            // Constants lie as their blobs do, which may be padded.
            (Some(Place::Weight(w)), Some(_)) => Dim::int(self.weights.blobs[*w].bytes as i64),
            _ => self.bytes(v),
        });
        let picked = if table.is_some() { self.written(step) } else { Dim::int(0) };
        own.fold(picked + Dim::int(packed as i64), |a, b| a + b)
    }

    fn flops(&self, step: &KernelStep) -> Dim {
        let out = step.outputs.first().map_or(Dim::int(0), |v| self.elements(*v));
        let twice = |n: usize, k: usize| Dim::int(2 * n as i64) * Dim::int(k as i64);
        let stage = |s: &Option<Stage>| s.as_ref().map_or(Dim::int(0), |s| product(&s.dims) * operations(&s.expr));
        let of = |kernel: &Kernel| match kernel {
            Kernel::Gemm { m, n, k, .. } | Kernel::NarrowGemm { m, n, k, .. } | Kernel::IntGemm { m, n, k, .. } => {
                m.clone() * twice(*n, *k)
            }
            Kernel::GroupedGemm { rows, n, k, .. } => product(rows) * twice(*n, *k),
            Kernel::MatMul { batch, m, n, k, .. } => product(batch) * m.clone() * n.clone() * k.clone() * Dim::int(2),
            Kernel::Conv { window, k, groups, .. } => {
                taps(window) * window.c.floor_div(&Dim::int(*groups as i64)) * Dim::int(2 * *k as i64)
            }
            Kernel::IntConv { window, k, depthwise, .. } => {
                taps(window) * if depthwise.is_some() { Dim::int(1) } else { window.c.clone() } * Dim::int(2 * *k as i64)
            }
            Kernel::Attend { batch, sizes: [queries, keys, depth, width], reach, .. } => {
                let each = (depth.clone() + width.clone()) * Dim::int(2) + Dim::int(of_row(&Row::Softmax { log: false }));
                product(batch) * pairs(queries, keys, reach) * each
            }
            Kernel::Pool { window, .. } => taps(window) * window.c.clone(),
            Kernel::GlobalMean { n, pixels, c, .. } => n.clone() * pixels.clone() * c.clone(),
            Kernel::Response { size, .. } => out.clone() * Dim::int(2 * *size as i64 + 3),
            Kernel::Resize { words, .. } => out.clone() * Dim::int(if words[0] == "cubic" { 32 } else { 8 }),
            Kernel::Softmax { dims, .. } => product(dims) * Dim::int(of_row(&Row::Softmax { log: false })),
            Kernel::Rows { op, rows, n, head, tail, .. } => rows.clone() * n.clone() * Dim::int(of_row(op)) + stage(head) + stage(tail),
            Kernel::PixelNorm { sizes, .. } => product(sizes) * Dim::int(7),
            Kernel::Rotary { .. } => out.clone() * Dim::int(3),
            Kernel::Trees { rows, steps, .. } => rows.clone() * Dim::int(*steps as i64),
            Kernel::Calibrate { n, .. } => n.clone() * Dim::int(2),
            Kernel::Map { expr, dims, .. } => product(dims) * operations(expr),
            Kernel::Move { .. } | Kernel::Dims { .. } | Kernel::Host(_) => Dim::int(0),
            Kernel::Call(_) | Kernel::Strips { .. } => out.clone(),
        };
        let own = step.kernel.parts().into_iter().map(of).fold(Dim::int(0), |a, b| a + b);
        let tail = step.kernel.epilogue().map_or(Dim::int(0), |e| operations(&e.expr));
        own + out * tail
    }
}
