//! Quantized values: conversions that meet their inverse, and what the saturation of a conversion does anyway.

use super::algebra::bounds;
use crate::ir::{Dim, NodeId, ValueId, product};
use crate::ops::Op;
use crate::ops::quantize::{integer_range, quantizer};
use crate::ops::shape::Reshape;
use crate::rewrite::{Class, Found, Quantization, Rewriter, Rule};
use kiln_kernels::dtype::DType;

/// Rules about QuantizeLinear (Q) and DequantizeLinear (D).
#[rustfmt::skip]
pub const RULES: &[Rule] = &[
    Rule { name: "quantize-dequantize", on: &["QuantizeLinear"], equation: "Q(D(q, s, z), s, z) => q  where q has 8 or 16 bits, and s is constant, positive and of no extreme size", class: Class::Exact, apply: inverse },
    Rule { name: "quantize-move", on: &["QuantizeLinear"], equation: "Q(move(x, ..), s, z) => move(Q(x, s, z), ..)  where x is moved out of D(q, s, z), nothing else reads what was moved, and move is Reshape, Transpose, Slice, Expand, Tile, Gather, Split, Concat or MaxPool; where s, z differ along an axis, it moves too", class: Class::Exact, apply: moved },
    Rule { name: "quantize-clip", on: &["QuantizeLinear"], equation: "Q(clip(x, a, b), s, z) => Q(x, s, z)  where Q takes a to its least value and b to its greatest, and nothing else reads the clipped", class: Class::Exact, apply: clipped },
];

/// A conversion: what it converts, its scale and its zero point.
#[derive(Clone, Copy)]
struct Conversion {
    x: ValueId,
    scale: ValueId,
    zero: Option<ValueId>,
}

fn operands(rw: &Rewriter<'_>, n: NodeId) -> Option<Conversion> {
    Some(Conversion { x: rw.input(n, 0)?, scale: rw.input(n, 1)?, zero: rw.input(n, 2) })
}

/// A conversion to an integer type.
fn quantized(rw: &Rewriter<'_>, n: NodeId) -> Option<(Conversion, DType)> {
    let (c, to) = (operands(rw, n)?, rw.dtype(*rw.node(n).outputs.first()?));
    let whole = quantizer(rw.dtype(c.x), rw.dtype(c.scale), c.zero.map(|z| rw.dtype(z)), to).ok()?;
    matches!(&rw.node(n).op, Op::Pointwise(p) if *p == whole).then_some((c, to))
}

/// Whether converting to integers gives the ones that the numbers of a value stand for, by the same scale and zero point.
///
/// The difference to the zero point has 17 bits at most. Its product with the scale and the quotient are off by half a unit in the last
/// of 24 bits each, which is far from the next integer as long as neither overflows nor loses bits at the small end.
fn returns(rw: &Rewriter<'_>, d: &Quantization<ValueId>, q: &Quantization<ValueId>) -> bool {
    let plain = |s: f64| (1e-30..1e30).contains(&s);
    let scale = rw.constant(q.scale).and_then(|t| t.to_f64s());
    d.agrees(q, &|a, b| rw.same(*a, *b)) && scale.is_some_and(|s| s.into_iter().all(plain))
}

fn inverse(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let (c, _) = quantized(rw, n)?;
    let d = rw.quantization(c.x)?;
    let codes = d.codes?;
    if !rw.quantization_by(n).is_some_and(|q| returns(rw, &d, &q)) {
        return rw.refuse("it was converted with another scale, zero point or type");
    }
    (rw.shape(codes) == rw.shape(*rw.node(n).outputs.first()?)).then_some(vec![codes])
}

/// Parameters in the shape in which they broadcast to a value of `rank` axes that they differ along `axis` of.
pub(super) fn spread(rw: &mut Rewriter<'_>, p: ValueId, axis: Option<usize>, rank: usize) -> Option<ValueId> {
    let shape = match axis {
        None => vec![],
        Some(a) => {
            let mut shape = vec![Dim::int(1); rank - a];
            shape[0] = product(rw.shape(p));
            shape
        }
    };
    if rw.shape(p) == shape { Some(p) } else { rw.add(Reshape { shape }, &[p]) }
}

fn moved(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let (c, to) = quantized(rw, n)?;
    // Only what comes out of integers is moved as integers.
    rw.quantization(c.x)?;
    let q = rw.quantization_by(n)?;
    let m = rw.producer(c.x)?;
    let op = rw.node(m).op.clone();
    // How many operands are moved; others say where to.
    let data = match op {
        Op::Reshape(_) | Op::Transpose(_) | Op::Slice(_) | Op::Expand(_) | Op::Tile(_) | Op::Gather(_) | Op::Split(_) => 1,
        Op::Pool(ref p) if p.mode == "max" && matches!(to, DType::U8 | DType::I8) => 1,
        Op::Concat(_) => rw.node(m).inputs.len(),
        _ => return None,
    };
    if !rw.quantization_by(m).is_some_and(|d| returns(rw, &d, &q)) {
        return rw.refuse("what is moved was converted with another scale, zero point or type");
    }
    if !rw.used_once(c.x) {
        return rw.refuse("others read what was moved too");
    }
    let mut inputs = rw.node(m).inputs.clone();
    for v in inputs.iter_mut().take(data) {
        let x = (*v)?;
        let (d, rank) = (rw.quantization(x)?, rw.shape(x).len());
        let mut operands = vec![x, spread(rw, d.scale, d.axis, rank)?];
        if let Some(z) = d.zero {
            operands.push(spread(rw, z, d.axis, rank)?);
        }
        let zero = operands.get(2).map(|z| rw.dtype(*z));
        let whole = quantizer(rw.dtype(x), rw.dtype(operands[1]), zero, to).ok()?;
        *v = Some(rw.add(whole, &operands)?);
    }
    let (place, results) = (rw.node(m).outputs.iter().position(|v| *v == c.x)?, rw.node(m).outputs.len());
    Some(vec![*rw.add_all(op, inputs, results)?.get(place)?])
}

/// A number converted, as f32 computes it.
fn convert(x: f64, scale: f64, zero: f64, (lo, hi): (f64, f64)) -> f64 {
    let q = (x as f32 / scale as f32).round_ties_even() + zero as f32;
    (q as f64).max(lo).min(hi)
}

fn clipped(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let (q, to) = quantized(rw, n)?;
    let (x, lo, hi) = bounds(rw, rw.producer(q.x)?)?;
    let range = integer_range(to).ok()?;
    let scales = rw.constant(q.scale).filter(|t| t.dtype == DType::F32)?;
    let zeros = match q.zero {
        Some(z) => rw.constant(z)?.to_f64s()?,
        None => vec![0.0],
    };
    let scales_ = scales.to_f64s()?;
    let count = scales_.len().max(zeros.len());
    let pairs = q.zero.is_none_or(|z| zeros.len() == 1 || scales_.len() == 1 || rw.shape(z) == rw.shape(q.scale));
    // Division, rounding, sums and clipping never fall where their operand rises: the bounds speak for all that lies beyond them.
    let saturates = |i: usize| {
        let (s, z) = (scales_[i % scales_.len()], zeros[i % zeros.len()]);
        s > 0.0 && s.is_finite() && convert(lo, s, z, range) == range.0 && convert(hi, s, z, range) == range.1
    };
    if count == 0 || scales_.is_empty() || zeros.is_empty() || !pairs || !(0..count).all(saturates) {
        return rw.refuse("the conversion reaches beyond the bounds");
    }
    if !rw.used_once(q.x) {
        return rw.refuse("others read the clipped too");
    }
    let (op, mut inputs) = (rw.node(n).op.clone(), rw.node(n).inputs.clone());
    inputs[0] = Some(x);
    rw.add_all(op, inputs, 1)
}

#[cfg(test)]
pub(in crate::rewrite) mod tests {
    use super::*;
    use crate::ops::gather::Gather;
    use crate::ops::movement::{Concat, Expand, Slice, Split, Transpose};
    use crate::ops::pad::Tile;
    use crate::ops::quantize::dequantizer;
    use crate::rewrite::tests::{Case, Example, refused};
    use kiln_kernels::value::Tensor;

    const INTEGERS: &[DType] = &[DType::U8, DType::I8, DType::U16, DType::I16];

    /// Scale and zero point: one each, or one for each index of the first of three axes.
    fn parameters(c: &mut Case, d: DType, channels: Option<usize>) -> Vec<ValueId> {
        let dims: &[usize] = if let Some(n) = channels { &[n, 1, 1] } else { &[] };
        let count = dims.iter().product();
        let scales: Vec<f32> = (0..count).map(|_| (c.rng.below(1000) as f32 + 1.0) * c.rng.pick(&[1e-6, 3e-3, 7.1])).collect();
        let mut out = vec![c.g.add_constant(Tensor::new(dims, &scales), "")];
        if c.rng.below(4) > 0 {
            out.push(c.constant(d, dims));
        }
        out
    }
    fn dequantize(c: &mut Case, q: ValueId, p: &[ValueId]) -> ValueId {
        let op = dequantizer(c.g.dtype(q), c.g.dtype(p[0]), p.get(1).map(|z| c.g.dtype(*z)), DType::F32);
        c.op(op, &[&[q], p].concat())
    }
    fn quantize(c: &mut Case, x: ValueId, p: &[ValueId], to: DType) -> ValueId {
        let op = quantizer(c.g.dtype(x), c.g.dtype(p[0]), p.get(1).map(|z| c.g.dtype(*z)), to).unwrap();
        c.op(op, &[&[x], p].concat())
    }
    /// Every value of 8 bits, or some of 16.
    fn all(c: &mut Case, d: DType) -> ValueId {
        let x: Vec<f64> = match d {
            DType::U8 => (0..256).map(|i| i as f64).collect(),
            DType::I8 => (-128..128).map(|i| i as f64).collect(),
            DType::U16 => (0..256).map(|i| (i * 257) as f64).collect(),
            _ => (-128..128).map(|i| (i * 256) as f64 - c.rng.below(2) as f64).map(|x| x.max(-32768.0)).collect(),
        };
        let x = crate::eval::from_f64s(&[4, 8, 8], &x, d);
        c.given(x)
    }
    /// A constant of the same elements in another shape.
    fn reshaped(c: &mut Case, v: ValueId, dims: &[usize]) -> ValueId {
        let mut t = c.g[v].constant.clone().unwrap();
        t.dims = dims.to_vec();
        c.g.add_constant(t, "")
    }
    fn move_(c: &mut Case, kind: usize, x: ValueId, other: ValueId) -> Vec<ValueId> {
        let closed = |d: &[i64]| d.iter().map(|d| Dim::int(*d)).collect::<Vec<Dim>>();
        match kind {
            0 => vec![c.op(Reshape { shape: closed(&[16, 16]) }, &[x])],
            1 => vec![c.op(Transpose { perm: vec![2, 0, 1] }, &[x])],
            2 => {
                let op = Slice { starts: closed(&[3, 0, 1]), steps: vec![-1, 2, 1], sizes: closed(&[4, 4, 5]), bounds: vec![] };
                vec![c.op(op, &[x])]
            }
            3 => vec![c.op(Expand { shape: closed(&[2, 4, 8, 8]) }, &[x])],
            4 => vec![c.op(Tile { repeats: closed(&[1, 2, 1]) }, &[x])],
            5 => {
                let i = c.g.add_constant(Tensor::new(&[2, 2], &[3i64, -1, 0, 5]), "");
                vec![c.op(Gather { axis: 1 }, &[x, i])]
            }
            6 => c.all(Split { axis: 1, sizes: closed(&[3, 5]) }, &[x], 2),
            _ => vec![c.op(Concat { axis: 2 }, &[x, other])],
        }
    }
    fn clip(c: &mut Case, x: ValueId, lo: f64, hi: f64) -> ValueId {
        let d = c.g.dtype(x);
        let (a, b) = (c.filled(d, &[], lo), c.filled(d, &[], hi));
        match (lo == 0.0, hi.is_infinite()) {
            (true, true) => c.pointwise("Relu", &[x]),
            (_, true) => c.pointwise("Max", &[x, a]),
            _ => c.pointwise("Clip", &[x, a, b]),
        }
    }

    pub(in crate::rewrite) const EXAMPLES: &[Example] = &[
        ("quantize-dequantize", |c| {
            let (d, channels) = (c.rng.pick(INTEGERS), c.rng.pick(&[None, Some(4)]));
            let (q, p) = (all(c, d), parameters(c, d, channels));
            let x = dequantize(c, q, &p);
            let y = quantize(c, x, &p, d);
            c.output(y);
        }),
        ("quantize-move", |c| {
            let d = c.rng.pick(INTEGERS);
            let (q, r, p) = (all(c, d), all(c, d), parameters(c, d, None));
            let (x, other) = (dequantize(c, q, &p), dequantize(c, r, &p));
            let kind = c.rng.below(8);
            for y in move_(c, kind, x, other) {
                let y = quantize(c, y, &p, d);
                c.output(y);
            }
        }),
        // Channels move, and with them their scales; the conversion moves through several operators.
        ("quantize-move", |c| {
            let d = c.rng.pick(INTEGERS);
            let (q, p) = (all(c, d), parameters(c, d, Some(4)));
            let x = dequantize(c, q, &p);
            let y = c.op(Transpose { perm: vec![1, 0, 2] }, &[x]);
            let y = c.op(Reshape { shape: [2, 4, 4, 8].map(Dim::int).to_vec() }, &[y]);
            let p: Vec<ValueId> = p.into_iter().map(|p| reshaped(c, p, &[4, 1])).collect();
            let y = quantize(c, y, &p, d);
            c.output(y);
        }),
        ("quantize-clip", |c| {
            let (d, lo, hi) = c.rng.pick(&[
                (DType::U8, 0.0, f64::INFINITY),
                (DType::U8, 0.0, 6.0),
                (DType::I8, -1.0, f64::INFINITY),
                (DType::I8, -3.0, 3.0),
            ]);
            let t = c.rng.pick(&[DType::F32, DType::F64, DType::F16]);
            let x = c.input(t, &[4, 3, 5]);
            // At the bounds, each zero point is where the type ends on that side.
            let (zero, scale) = match (d, hi) {
                (DType::U8, f64::INFINITY) => (0.0, 0.37),
                (DType::U8, _) => (0.0, 6.0 / 255.0),
                (_, f64::INFINITY) => (-128.0 + 2.0, 0.5),
                _ => (0.0, 3.0 / 128.5),
            };
            let s = c.g.add_constant(Tensor::scalar(scale as f32), "");
            let mut p = vec![s];
            if d == DType::I8 || c.rng.below(2) == 0 {
                p.push(c.filled(d, &[], zero));
            }
            let y = clip(c, x, lo, hi);
            let z = quantize(c, y, &p, d);
            c.output(z);
        }),
    ];

    #[test]
    fn conversions_that_change_something_stay() {
        // Another scale, another type, a scale at which products vanish.
        refused("quantize-dequantize", |c| {
            let q = all(c, DType::U8);
            let (p, r) = (parameters(c, DType::U8, None), c.filled(DType::F32, &[], 0.125));
            let x = dequantize(c, q, &p);
            let y = quantize(c, x, &[r], DType::U8);
            c.output(y);
        });
        refused("quantize-dequantize", |c| {
            let q = all(c, DType::U8);
            let s = c.filled(DType::F32, &[], 0.125);
            let x = dequantize(c, q, &[s]);
            let y = quantize(c, x, &[s], DType::I8);
            c.output(y);
        });
        refused("quantize-dequantize", |c| {
            let q = all(c, DType::U8);
            let s = c.filled(DType::F32, &[], 1e-42);
            let x = dequantize(c, q, &[s]);
            let y = quantize(c, x, &[s], DType::U8);
            c.output(y);
        });
        // A scale that stays where it is while its channels move.
        refused("quantize-move", |c| {
            let q = all(c, DType::U8);
            let s = c.filled(DType::F32, &[8, 1], 0.5);
            let x = dequantize(c, q, &[s]);
            let y = c.op(Transpose { perm: vec![0, 2, 1] }, &[x]);
            let y = quantize(c, y, &[s], DType::U8);
            c.output(y);
        });
        // Values between the clipped bound and the least one remain.
        refused("quantize-clip", |c| {
            let x = c.input(DType::F32, &[5]);
            let (s, z) = (c.filled(DType::F32, &[], 0.5), c.filled(DType::U8, &[], 7.0));
            let y = clip(c, x, 0.0, f64::INFINITY);
            let z = quantize(c, y, &[s, z], DType::U8);
            c.output(z);
        });
    }
}
