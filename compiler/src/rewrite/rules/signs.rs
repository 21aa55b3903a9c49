//! Signed quantized values as unsigned ones of the same numbers: integer kernels read u8, and an i8 is a u8 less 128.

use crate::ir::{NodeId, ValueId};
use crate::ops::Op;
use crate::ops::quantize::{dequantizer, quantizer, unsigned};
use crate::rewrite::{Class, Found, Rewriter, Rule};
use kiln_kernels::dtype::DType;
use kiln_kernels::value::Tensor;

/// Rules about values of i8. `S` takes 128 off a u8, `U` adds it to an i8.
#[rustfmt::skip]
pub const RULES: &[Rule] = &[
    Rule { name: "quantize-signed", on: &["QuantizeLinear"], equation: "Q(x, s, z) => S(Q(x, s, z+128))  where Q gives i8 and z is constant", class: Class::ExactOnFinite, apply: quantize },
    Rule { name: "dequantize-signed", on: &["DequantizeLinear"], equation: "D(S(q), s, z) => D(q, s, z+128)  where z is constant", class: Class::Exact, apply: dequantize },
    Rule { name: "unsigned-signed", on: &["OffsetBinary"], equation: "U(S(q)) => q, S(U(q)) => q", class: Class::Exact, apply: inverse },
    Rule { name: "move-signed", on: &["Reshape", "Transpose", "Slice", "Expand", "Tile", "Gather", "Split", "Concat", "Pool"], equation: "move(S(q), ..) => S(move(q, ..))  where move is Reshape, Transpose, Slice, Expand, Tile, Gather, Split, Concat or MaxPool", class: Class::Exact, apply: moved },
];

/// The u8 behind bytes that are those less 128.
fn behind(rw: &Rewriter<'_>, v: ValueId) -> Option<ValueId> {
    let n = rw.made_by(v, "OffsetBinary")?;
    rw.input(n, 0)
}

/// A zero point of i8, or the absent one of a scale, as that of values 128 above.
fn raised(rw: &mut Rewriter<'_>, zero: Option<ValueId>, scale: ValueId) -> Option<ValueId> {
    let t = match zero {
        Some(z) => {
            let t = rw.constant(z).filter(|t| t.dtype == DType::I8)?;
            Tensor::new(&t.dims.clone(), &t.bytes().iter().map(|b| b ^ 0x80).collect::<Vec<u8>>())
        }
        None => {
            let dims = rw.graph().ty(scale).closed_dims()?;
            Tensor::new(&dims, &vec![128u8; dims.iter().product()])
        }
    };
    Some(rw.tensor(t))
}

fn quantize(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let (x, scale, zero) = (rw.input(n, 0)?, rw.input(n, 1)?, rw.input(n, 2));
    let whole = quantizer(rw.dtype(x), rw.dtype(scale), zero.map(|z| rw.dtype(z)), DType::I8).ok()?;
    if !matches!(&rw.node(n).op, Op::Pointwise(p) if *p == whole) {
        return None;
    }
    let zero = raised(rw, zero, scale)?;
    let q = rw.add(quantizer(rw.dtype(x), rw.dtype(scale), Some(DType::U8), DType::U8).ok()?, &[x, scale, zero])?;
    Some(vec![rw.add(unsigned(DType::U8), &[q])?])
}

fn dequantize(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let (x, scale, zero) = (rw.input(n, 0)?, rw.input(n, 1)?, rw.input(n, 2));
    let out = rw.dtype(*rw.node(n).outputs.first()?);
    let whole = dequantizer(DType::I8, rw.dtype(scale), zero.map(|z| rw.dtype(z)), out);
    if !matches!(&rw.node(n).op, Op::Pointwise(p) if *p == whole) {
        return None;
    }
    let q = behind(rw, x)?;
    let zero = raised(rw, zero, scale)?;
    let op = dequantizer(DType::U8, rw.dtype(scale), Some(DType::U8), out);
    Some(vec![rw.add(op, &[q, scale, zero])?])
}

fn inverse(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let x = rw.input(n, 0)?;
    Some(vec![behind(rw, x)?])
}

fn moved(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let op = rw.node(n).op.clone();
    let data = match op {
        Op::Pool(ref p) if p.mode != "max" || rw.node(n).outputs.len() != 1 => return None,
        Op::Concat(_) => rw.node(n).inputs.len(),
        _ => 1,
    };
    let mut inputs = rw.node(n).inputs.clone();
    for v in inputs.iter_mut().take(data) {
        *v = Some(behind(rw, (*v)?).filter(|q| rw.dtype(*q) == DType::U8)?);
    }
    let results = rw.node(n).outputs.len();
    let moved = rw.add_all(op, inputs, results)?;
    moved.into_iter().map(|v| rw.add(unsigned(DType::U8), &[v])).collect()
}

#[cfg(test)]
pub(in crate::rewrite) mod tests {
    use super::*;
    use crate::ir::Dim;
    use crate::ops::movement::{Concat, Split, Transpose};
    use crate::ops::pool::Pool;
    use crate::rewrite::tests::{Case, Example, refused};

    /// A scale and a zero point of i8: one for all, or one each for the second of three axes.
    fn parameters(c: &mut Case) -> Vec<ValueId> {
        let dims: &[usize] = c.rng.pick(&[&[], &[3, 1]]);
        let scales: Vec<f32> = (0..dims.iter().product()).map(|_| (c.rng.below(1000) + 1) as f32 * 3e-3).collect();
        let mut out = vec![c.g.add_constant(Tensor::new(dims, &scales), "")];
        if c.rng.below(3) > 0 {
            let lowest = c.rng.pick(&[-128.0, 127.0, 0.0]);
            out.push(if c.rng.below(2) == 0 { c.constant(DType::I8, dims) } else { c.filled(DType::I8, dims, lowest) });
        }
        out
    }
    fn signed(c: &mut Case, dims: &[usize]) -> ValueId {
        let q = c.input(DType::U8, dims);
        c.op(unsigned(DType::U8), &[q])
    }

    pub(in crate::rewrite) const EXAMPLES: &[Example] = &[
        ("quantize-signed", |c| {
            let t = c.rng.pick(&[DType::F32, DType::F16]);
            let dims = [c.rng.pick(&[0, 1, 2]), 3, c.rng.pick(&[1, 5])];
            let x = c.input(t, &dims);
            let p = parameters(c);
            let op = quantizer(t, DType::F32, p.get(1).map(|_| DType::I8), DType::I8).unwrap();
            let y = c.op(op, &[&[x], &p[..]].concat());
            c.output(y);
        }),
        ("dequantize-signed", |c| {
            let (q, p) = (signed(c, &[2, 3, 5]), parameters(c));
            let op = dequantizer(DType::I8, DType::F32, p.get(1).map(|_| DType::I8), DType::F32);
            let y = c.op(op, &[&[q], &p[..]].concat());
            c.output(y);
        }),
        ("unsigned-signed", |c| {
            let d = c.rng.pick(&[DType::U8, DType::I8]);
            let x = c.input(d, &[2, 3]);
            let y = c.op(unsigned(d), &[x]);
            let y = c.op(unsigned(if d == DType::U8 { DType::I8 } else { DType::U8 }), &[y]);
            c.output(y);
        }),
        ("move-signed", |c| {
            let q = signed(c, &[2, 3, 5, 4]);
            let out = match c.rng.below(4) {
                0 => vec![c.op(Transpose { perm: vec![1, 0, 3, 2] }, &[q])],
                1 => c.all(Split { axis: 1, sizes: vec![Dim::int(1), Dim::int(2)] }, &[q], 2),
                2 => {
                    let other = signed(c, &[2, 3, 5, 1]);
                    vec![c.op(Concat { axis: 3 }, &[q, other])]
                }
                _ => {
                    let (kernel, strides, dilations) = (vec![3, 2], vec![2, 1], vec![1, 1]);
                    let pool = Pool { mode: "max", kernel, strides, pads: vec![1, 0, 1, 1], dilations, ceil: false, column_major: false };
                    vec![c.op(pool, &[q])]
                }
            };
            out.into_iter().for_each(|y| c.output(y));
        }),
    ];

    #[test]
    fn other_bytes_stay_signed() {
        refused("dequantize-signed", |c| {
            let (q, p) = (c.input(DType::I8, &[2, 3, 5]), parameters(c));
            let y = c.op(dequantizer(DType::I8, DType::F32, p.get(1).map(|_| DType::I8), DType::F32), &[&[q], &p[..]].concat());
            c.output(y);
        });
        refused("move-signed", |c| {
            let (q, other) = (signed(c, &[2, 3]), c.input(DType::I8, &[2, 3]));
            let y = c.op(Concat { axis: 1 }, &[q, other]);
            c.output(y);
        });
    }
}
