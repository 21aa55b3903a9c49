//! Pads that become one, or the pads of the pool behind them.

use crate::ir::{NodeId, ValueId};
use crate::ops::Op;
use crate::ops::pad::Pad;
use crate::ops::pool::Pool;
use crate::rewrite::{Class, Found, Rewriter, Rule};

/// Rules about pads.
#[rustfmt::skip]
pub const RULES: &[Rule] = &[
    Rule { name: "pad-pad", on: &["Pad"], equation: "Pad(Pad(x, p, c), q, c) => Pad(x, p+q, c)  where p, q are not negative", class: Class::Exact, apply: pad_pad },
    Rule { name: "max-pool-pad", on: &["Pool"], equation: "MaxPool(Pad(x, p, -inf); q) => MaxPool(x; p+q)  where p is spatial, and the pads stay shorter than the window", class: Class::Exact, apply: |rw, n| pool_pad(rw, n, "max") },
    Rule { name: "average-pool-pad", on: &["Pool"], equation: "AveragePool(Pad(x, p, 0); q) => AveragePool(x; p+q)  where p is spatial, pads count, and they stay shorter than the window", class: Class::ExactOnFinite, apply: |rw, n| pool_pad(rw, n, "average") },
];

/// Pads that no sum of two of them overflows.
fn adds(pads: &[i64]) -> bool {
    pads.iter().all(|p| (0..1 << 31).contains(p))
}

/// The operand of a Pad of constant value, its pads and the value.
fn padded(rw: &Rewriter<'_>, v: ValueId) -> Option<(ValueId, Vec<i64>, ValueId)> {
    let n = rw.made_by(v, "Pad")?;
    match &rw.node(n).op {
        Op::Pad(p) if p.mode == "constant" && adds(&p.pads) => Some((rw.input(n, 0)?, p.pads.clone(), rw.input(n, 1)?)),
        _ => None,
    }
}

fn pad_pad(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let (y, outer) = (rw.input(n, 0)?, *rw.node(n).outputs.first()?);
    let (x, p, value) = padded(rw, y)?;
    let (_, q, other) = padded(rw, outer)?;
    if value != other && (rw.constant(value).is_none() || rw.constant(value).map(|t| t.bytes()) != rw.constant(other).map(|t| t.bytes())) {
        return rw.refuse("the pads differ in their value");
    }
    let pads = p.iter().zip(&q).map(|(p, q)| p + q).collect();
    Some(vec![rw.add(Pad { pads, mode: "constant" }, &[x, value])?])
}

fn pool_pad(rw: &mut Rewriter<'_>, n: NodeId, kind: &str) -> Found {
    let y = rw.input(n, 0)?;
    let Op::Pool(pool) = rw.node(n).op.clone() else { return None };
    if !pool.mode.starts_with(kind) {
        return None;
    }
    let (x, p, value) = padded(rw, y)?;
    let (rank, axes) = (p.len() / 2, pool.kernel.len());
    let none = pool.pads.iter().all(|p| *p == 0);
    let (value, mode) = match pool.mode {
        "max" => (rw.uniform(value)? == f64::NEG_INFINITY, "max"),
        "average_pads" => (rw.uniform(value)? == 0.0, "average_pads"),
        // Without pads of its own, the pool counts every element of what was padded.
        "average" if none => (rw.uniform(value)? == 0.0, "average_pads"),
        _ => return rw.refuse("of two kinds of pads, only one counts"),
    };
    if !value || rw.node(n).outputs.len() != 1 || pool.ceil || [0, 1, rank, rank + 1].iter().any(|i| p[*i] != 0) {
        return rw.refuse("the pads are not those of a pool, or the pool reaches beyond them");
    }
    if !rw.used_once(y) {
        return rw.refuse("others read the padded too");
    }
    let pads: Vec<i64> = (0..2 * axes).map(|i| pool.pads[i] + p[if i < axes { 2 + i } else { rank + 2 + i - axes }]).collect();
    let window = |i: usize| (pool.kernel[i] - 1) * pool.dilations[i] + 1;
    if pool.pads.iter().any(|p| *p < 0) || (0..2 * axes).any(|i| pads[i] >= window(i % axes)) {
        return rw.refuse("a window would see nothing but pads");
    }
    Some(vec![rw.add(Pool { pads, mode, ..pool }, &[x])?])
}

#[cfg(test)]
pub(in crate::rewrite) mod tests {
    use super::*;
    use crate::rewrite::tests::{Case, Example, refused};
    use kiln_kernels::dtype::DType;

    fn pool(c: &mut Case, x: ValueId, mode: &'static str, own: i64, ceil: bool) -> ValueId {
        let (stride, dilation) = (1 + c.rng.below(2) as i64, 1 + c.rng.below(2) as i64);
        let op = Pool {
            mode,
            kernel: vec![3, 3],
            strides: vec![stride; 2],
            pads: vec![own, 0, own, own],
            dilations: vec![dilation; 2],
            ceil,
            column_major: false,
        };
        c.op(op, &[x])
    }
    fn padded(c: &mut Case, value: f64) -> ValueId {
        let (d, n) = (c.wide(), c.rng.below(3));
        let x = c.input(d, &[n, 2, 5, 6]);
        let pads = vec![0, 0, c.rng.below(2) as i64, 1, 0, 0, 1, c.rng.below(2) as i64];
        let value = c.filled(d, &[], value);
        c.op(Pad { pads, mode: "constant" }, &[x, value])
    }

    pub(in crate::rewrite) const EXAMPLES: &[Example] = &[
        ("pad-pad", |c| {
            let (d, shape) = (c.float(), c.any_shape());
            let x = c.input(d, &shape);
            let value = c.constant(d, &[]);
            let mut y = x;
            for _ in 0..2 {
                let pads = (0..2 * shape.len()).map(|_| c.rng.below(3) as i64).collect();
                y = c.op(Pad { pads, mode: "constant" }, &[y, value]);
            }
            c.output(y);
        }),
        ("max-pool-pad", |c| {
            let y = padded(c, f64::NEG_INFINITY);
            let own = c.rng.below(2) as i64;
            let z = pool(c, y, "max", own, false);
            c.output(z);
        }),
        ("average-pool-pad", |c| {
            let y = padded(c, 0.0);
            let (mode, own) = c.rng.pick(&[("average", 0), ("average_pads", 0), ("average_pads", 1)]);
            let z = pool(c, y, mode, own, false);
            c.output(z);
        }),
    ];

    #[test]
    fn pads_that_mean_something_else_stay() {
        refused("pad-pad", |c| {
            let x = c.input(DType::F32, &[2, 3]);
            let (a, b) = (c.filled(DType::F32, &[], 0.0), c.filled(DType::F32, &[], 1.0));
            let y = c.op(Pad { pads: vec![1; 4], mode: "constant" }, &[x, a]);
            let z = c.op(Pad { pads: vec![1; 4], mode: "constant" }, &[y, b]);
            c.output(z);
        });
        // Zeros may be the greatest of a window.
        refused("max-pool-pad", |c| {
            let y = padded(c, 0.0);
            let z = pool(c, y, "max", 0, false);
            c.output(z);
        });
        refused("max-pool-pad", |c| {
            let y = padded(c, f64::NEG_INFINITY);
            let z = pool(c, y, "max", 0, true);
            c.output(z);
        });
        // The pool's own pads do not count, the others do.
        refused("average-pool-pad", |c| {
            let y = padded(c, 0.0);
            let z = pool(c, y, "average", 1, false);
            c.output(z);
        });
    }
}
