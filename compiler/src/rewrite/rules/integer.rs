//! Products of dequantized values as products of the integers that they stand for.

use super::quantize::spread;
use crate::ir::{Dim, NodeId, ValueId};
use crate::ops::conv::ConvInteger;
use crate::ops::matmul::MatMulInteger;
use crate::ops::movement::Transpose;
use crate::ops::pointwise::Pointwise;
use crate::ops::quantize::{Signed, dequantizer, quantizer, unsigned};
use crate::ops::{Op, shape::Reshape};
use crate::rewrite::{Class, Found, Quantization, Rewriter, Rule};
use kiln_kernels::dtype::DType;
use kiln_kernels::value::Tensor;

/// Rules about products of dequantized values.
#[rustfmt::skip]
pub const RULES: &[Rule] = &[
    Rule { name: "conv-integers", on: &["Conv"], equation: "Conv(D(x, s, z), D(w, t, y), b) => Cast(ConvInteger(x, w, z, y)) * (s*t) + b  where x and w are bytes, w and y constant, s one number and t one or one for each output channel, and sums fit 32 bits; bytes of x are made unsigned, those of w signed", class: Class::Reassociating, apply: conv },
    Rule { name: "matmul-integers", on: &["MatMul"], equation: "D(x, s, z) @ D(w, t, y) => Cast(MatMulInteger(x, w, z, y)) * (s*t)  where x and w are bytes, y constant, w a constant matrix or its transpose, s one number and t one or one a column, and sums fit 32 bits; bytes of x are made unsigned, those of w signed", class: Class::Reassociating, apply: matmul },
    Rule { name: "quantize-scaled", on: &["QuantizeLinear"], equation: "Q(f(x, ..), s, z) => Q(f(x, ..)/s, 1, z)  where s is constant, and f sums of products with constants and of dequantized values, into which 1/s is folded", class: Class::Quantizing, apply: scaled },
];

/// Sums of this many products of bytes fit 32 bits.
const MOST: usize = 33_025;

/// What a product reads: bytes, perhaps of another shape, and their zero point, weights as integers in its own layout with their zero points, and
/// a scale, one or one for each `axis` of the result.
struct Bytes {
    x: Quantization<ValueId>,
    codes: ValueId,
    weights: Codes,
    w: Quantization<ValueId>,
    scales: Vec<f64>,
}

/// The integers of weights, as they are or with two axes to exchange.
#[derive(Clone, Copy)]
struct Codes {
    w: ValueId,
    turned: bool,
}

/// The constant integers that weights stand for.
fn codes(rw: &Rewriter<'_>, v: ValueId) -> Option<(Quantization<ValueId>, Codes)> {
    let q = rw.quantization(v)?;
    if let Some(w) = q.codes {
        return rw.constant(w).is_some().then_some((q, Codes { w, turned: false }));
    }
    let t = rw.made_by(v, "Transpose")?;
    let Op::Transpose(Transpose { perm }) = &rw.node(t).op else { return None };
    let w = rw.quantization(rw.input(t, 0)?)?.codes?;
    (perm[..] == [1, 0] && rw.constant(w).is_some()).then_some((q, Codes { w, turned: true }))
}

/// The integers of numbers that a product reads: as they are, or of another shape first.
fn integers(rw: &Rewriter<'_>, v: ValueId) -> Option<(Quantization<ValueId>, ValueId)> {
    let q = rw.quantization(v)?;
    if let Some(codes) = q.codes {
        return Some((q, codes));
    }
    let from = rw.input(rw.made_by(v, "Reshape")?, 0)?;
    let codes = rw.quantization(from)?.codes.filter(|_| q.axis.is_none())?;
    Some((q, codes))
}

/// What a product of dequantized operands reads, whose weights have their own scales along `axis`.
fn bytes(rw: &Rewriter<'_>, n: NodeId, axis: usize) -> Option<Bytes> {
    let (a, b) = (rw.input(n, 0)?, rw.input(n, 1)?);
    let (x, codes_of_x) = integers(rw, a).filter(|(_, q)| rw.constant(*q).is_none())?;
    let (w, weights) = codes(rw, b)?;
    let bytes = |d: DType| matches!(d, DType::U8 | DType::I8);
    if !bytes(x.dtype) || !bytes(w.dtype) {
        return rw.refuse("its operands are no bytes");
    }
    if x.axis.is_some() || w.axis.is_some_and(|a| a != axis) {
        return rw.refuse("the scales differ along an axis that is summed over");
    }
    if w.zero.is_some_and(|z| rw.constant(z).is_none()) {
        return rw.refuse("the weights have a computed zero point");
    }
    let outputs = rw.shape(b).get(axis)?.as_int().and_then(|n| usize::try_from(n).ok())?;
    let products = rw.constant(weights.w)?.len().checked_div(outputs)?;
    if products > MOST {
        return rw.refuse("its sums may not fit 32 bits");
    }
    let (s, t) = (rw.constant(x.scale)?.to_f64s()?, rw.constant(w.scale)?.to_f64s()?);
    let scales: Vec<f64> = t.iter().map(|t| s.first().map(|s| s * t)).collect::<Option<_>>()?;
    let plain = scales.iter().all(|s| (1e-30..1e30).contains(s));
    (plain && (scales.len() == 1 || scales.len() == outputs)).then_some(Bytes { x, codes: codes_of_x, weights, w, scales })
}

/// Whether the kernels of integer products take such operands.
fn fits(rw: &Rewriter<'_>, n: NodeId, p: &Bytes) -> Option<()> {
    let w = rw.shape(p.weights.w);
    match &rw.node(n).op {
        Op::Conv(op) => {
            let alone = w.get(1).is_some_and(|d| d.is(1)) && w[0].is(op.groups);
            if op.groups != 1 && !alone {
                return rw.refuse("its groups have several channels");
            }
            (!p.weights.turned && op.pads.iter().all(|p| *p >= 0) && (3..=5).contains(&w.len())).then_some(())
        }
        _ => (w.len() == 2 && rw.shape(rw.input(n, 0)?).len() >= 2).then_some(()),
    }
}

/// Whether a dequantized constant is one that a rule takes the integers of.
pub(super) fn waits(rw: &Rewriter<'_>, n: NodeId) -> bool {
    let Some(v) = rw.node(n).outputs.first().filter(|_| matches!(&rw.node(n).op, Op::Pointwise(p) if p.name == "DequantizeLinear")) else {
        return false;
    };
    if rw.part.is_some() {
        return false;
    }
    let product = |v: ValueId, name: &str, axis: usize| {
        let takes = |r: NodeId| bytes(rw, r, axis).is_some_and(|p| fits(rw, r, &p).is_some());
        rw.readers(v, name).into_iter().any(|r| rw.input(r, 1) == Some(v) && takes(r))
    };
    let turned = || rw.readers(*v, "Transpose").into_iter().any(|t| product(rw.node(t).outputs[0], "MatMul", 1));
    product(*v, "Conv", 0) || product(*v, "MatMul", 1) || turned()
}

/// The bytes that a product reads, in the shape of the numbers that they stand for.
fn shaped(rw: &mut Rewriter<'_>, codes: ValueId, like: ValueId) -> Option<ValueId> {
    let shape = rw.shape(like).to_vec();
    if rw.shape(codes) == shape { Some(codes) } else { rw.add(Reshape { shape }, &[codes]) }
}

/// Bytes as u8, in the shape of the numbers that they stand for, and their zero point as one element without axes.
fn unsigned_bytes(rw: &mut Rewriter<'_>, p: &Bytes, like: ValueId) -> Option<[ValueId; 2]> {
    let (mut x, signed) = (shaped(rw, p.codes, like)?, p.x.dtype == DType::I8);
    let mut zero = match p.x.zero {
        Some(z) if rw.shape(z).is_empty() => z,
        Some(z) => rw.add(Reshape { shape: vec![] }, &[z])?,
        None if signed => rw.tensor(Tensor::scalar(0i8)),
        None => rw.tensor(Tensor::scalar(0u8)),
    };
    if signed {
        (x, zero) = (rw.add(unsigned(DType::I8), &[x])?, rw.add(unsigned(DType::I8), &[zero])?);
    }
    Some([x, zero])
}

/// The weights of a product as its kernel reads them, and their zero points where it takes some off. `outer` is the axis of outputs in the
/// constant; `wide` says that i16 are read where differences fit no byte.
fn signed_weights(rw: &mut Rewriter<'_>, p: &Bytes, outer: usize, wide: bool) -> Option<(ValueId, Option<ValueId>)> {
    let zeros = match p.w.zero {
        Some(z) => Some(rw.constant(z)?),
        None => None,
    };
    let Signed { weights, zeros } = Signed::of(rw.constant(p.weights.w)?, zeros, outer, wide)?;
    let w = weights.map_or(p.weights.w, |t| rw.tensor(t));
    Some((w, zeros.map(|z| rw.tensor(z))))
}

/// Sums as f32, times their scales, which differ along an axis with `behind` axes behind it.
fn scale(rw: &mut Rewriter<'_>, sums: ValueId, scales: &[f64], behind: usize) -> Option<ValueId> {
    let y = rw.add(Pointwise::cast(DType::I32, DType::F32), &[sums])?;
    let mut dims = vec![scales.len()];
    dims.extend(vec![1; behind]);
    let dims = if scales.len() == 1 { &[][..] } else { &dims };
    let c = rw.tensor(Tensor::new(dims, &scales.iter().map(|s| *s as f32).collect::<Vec<f32>>()));
    rw.pointwise("Mul", &[y, c])
}

fn conv(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let Op::Conv(op) = rw.node(n).op.clone() else { return None };
    let p = bytes(rw, n, 0)?;
    fits(rw, n, &p)?;
    let behind = rw.shape(p.weights.w).len() - 2;
    let x = rw.input(n, 0)?;
    let [x, z] = unsigned_bytes(rw, &p, x)?;
    let (w, zeros) = signed_weights(rw, &p, 0, op.groups > 1)?;
    let op = ConvInteger { strides: op.strides, pads: op.pads, dilations: op.dilations, groups: op.groups };
    let operands: Vec<ValueId> = [x, w, z].into_iter().chain(zeros).collect();
    let sums = rw.add(op, &operands)?;
    let mut y = scale(rw, sums, &p.scales, behind)?;
    if let Some(b) = rw.input(n, 2) {
        let mut shape = vec![Dim::int(1); behind + 1];
        shape[0] = rw.shape(b).first()?.clone();
        let b = rw.add(Reshape { shape }, &[b])?;
        y = rw.pointwise("Add", &[y, b])?;
    }
    Some(vec![y])
}

fn matmul(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    if rw.shape(rw.input(n, 1)?).len() != 2 {
        return None;
    }
    let p = bytes(rw, n, 1)?;
    fits(rw, n, &p)?;
    let x = rw.input(n, 0)?;
    let [x, z] = unsigned_bytes(rw, &p, x)?;
    let (w, zeros) = signed_weights(rw, &p, usize::from(!p.weights.turned), false)?;
    let zeros = zeros.unwrap_or_else(|| rw.tensor(Tensor::scalar(0i8)));
    let w = if p.weights.turned { rw.add(Transpose { perm: vec![1, 0] }, &[w])? } else { w };
    let sums = rw.add(MatMulInteger, &[x, w, z, zeros])?;
    Some(vec![scale(rw, sums, &p.scales, 0)?])
}

/// Nodes of a sum into which a factor is folded, at most.
const DEEP: usize = 6;

/// A constant times a number, if all of it stays plain.
fn times(rw: &mut Rewriter<'_>, v: ValueId, by: f64) -> Option<ValueId> {
    let t = rw.constant(v).filter(|t| t.dtype == DType::F32)?;
    let x: Vec<f32> = t.to_f64s()?.iter().map(|x| (x * by) as f32).collect();
    let plain = x.iter().all(|x| x.is_finite() && (*x == 0.0 || x.abs() > 1e-30));
    let t = Tensor::new(&t.dims.clone(), &x);
    plain.then(|| rw.tensor(t))
}

/// A value times a number, which goes into the constants of what computes it.
fn folded(rw: &mut Rewriter<'_>, v: ValueId, by: f64, depth: usize) -> Option<ValueId> {
    if rw.constant(v).is_some() {
        return times(rw, v, by);
    }
    let n = rw.producer(v).filter(|_| depth < DEEP && rw.dtype(v) == DType::F32)?;
    let (a, b) = (rw.input(n, 0)?, rw.input(n, 1)?);
    let Op::Pointwise(p) = rw.node(n).op.clone() else { return None };
    match p.name {
        // Each reader of dequantized values has its own.
        "DequantizeLinear" => {
            let q = rw.quantization(v)?;
            let codes = q.codes?;
            let mut operands = vec![codes, times(rw, b, by)?];
            operands.extend(rw.input(n, 2));
            let whole = dequantizer(q.dtype, DType::F32, q.zero.map(|_| q.dtype), DType::F32);
            (p == whole).then_some(())?;
            rw.add(whole, &operands)
        }
        "Mul" if rw.used_once(v) => {
            let (x, c) = if rw.constant(b).is_some() { (a, b) } else { (b, a) };
            let c = times(rw, c, by)?;
            rw.pointwise("Mul", &[x, c])
        }
        "Add" if rw.used_once(v) => {
            let (a, b) = (folded(rw, a, by, depth + 1)?, folded(rw, b, by, depth + 1)?);
            rw.pointwise("Add", &[a, b])
        }
        _ => None,
    }
}

fn scaled(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let (x, s) = (rw.input(n, 0)?, rw.input(n, 1)?);
    let zero = rw.input(n, 2);
    let to = rw.dtype(*rw.node(n).outputs.first()?);
    let whole = quantizer(rw.dtype(x), rw.dtype(s), zero.map(|z| rw.dtype(z)), to).ok()?;
    let own = matches!(&rw.node(n).op, Op::Pointwise(p) if *p == whole);
    let scale = rw.constant(s).filter(|t| t.dtype == DType::F32 && t.len() == 1)?.to_f64s()?[0];
    if !own || !matches!(to, DType::U8 | DType::I8) || scale == 1.0 || !(1e-20..1e20).contains(&scale) {
        return None;
    }
    let sum = rw.made_by(x, "Add").or_else(|| rw.made_by(x, "Mul"))?;
    if rw.node(sum).outputs.first() != Some(&x) {
        return None;
    }
    let y = folded(rw, x, 1.0 / scale, 0)?;
    if rw.shape(y) != rw.shape(x) {
        return None;
    }
    let one = rw.tensor(Tensor::scalar(1f32));
    let one = if rw.shape(s).is_empty() { one } else { spread(rw, one, None, 0)? };
    let mut operands = vec![y, one];
    operands.extend(zero);
    Some(vec![rw.add(whole, &operands)?])
}

#[cfg(test)]
pub(in crate::rewrite) mod tests {
    use super::*;
    use crate::ops::conv::Conv;
    use crate::ops::matmul::MatMul;
    use crate::rewrite::tests::{Case, Example, refused};

    fn numbers(c: &mut Case, dims: &[usize], d: DType, lo: i64, hi: i64) -> Tensor {
        let n = dims.iter().product();
        let x: Vec<f64> = (0..n).map(|_| (lo + c.rng.below((hi - lo + 1) as usize) as i64) as f64).collect();
        crate::eval::from_f64s(dims, &x, d)
    }
    fn scales(c: &mut Case, dims: &[usize]) -> ValueId {
        let x: Vec<f32> = (0..dims.iter().product()).map(|_| (c.rng.below(1000) + 1) as f32 * 3e-5).collect();
        c.g.add_constant(Tensor::new(dims, &x), "")
    }
    /// Zero points of a type, as quantizers choose them: none, 0, the ends and others.
    fn zero_point(c: &mut Case, d: DType, dims: &[usize]) -> Option<ValueId> {
        let some = if d == DType::U8 { [0.0, 255.0, 131.0, 128.0] } else { [0.0, 127.0, -128.0, 3.0] };
        let z = c.rng.below(6);
        (z < 5).then(|| if z < 4 { c.filled(d, dims, some[z]) } else { c.constant(d, dims) })
    }
    fn any(c: &mut Case, dims: &[usize], d: DType) -> Tensor {
        let (lo, hi) = if d == DType::U8 { (0, 255) } else { (-128, 127) };
        numbers(c, dims, d, lo, hi)
    }
    /// Dequantized bytes that are an operand of the graph.
    fn activations(c: &mut Case, dims: &[usize]) -> ValueId {
        let d = c.rng.pick(&[DType::U8, DType::I8]);
        let x = any(c, dims, d);
        let x = c.given(x);
        let mut operands = vec![x, scales(c, &[])];
        operands.extend(zero_point(c, d, &[]));
        c.op(dequantizer(d, DType::F32, operands.get(2).map(|_| d), DType::F32), &operands)
    }
    /// Dequantized constants of bytes, with a scale for each index of an axis or one.
    fn weights(c: &mut Case, dims: &[usize], axis: usize) -> ValueId {
        let d = c.rng.pick(&[DType::U8, DType::I8]);
        let w = any(c, dims, d);
        let w = c.g.add_constant(w, "");
        let mut shape = vec![1; dims.len() - axis];
        shape[0] = dims[axis];
        let shape = if c.rng.below(3) == 0 { vec![] } else { shape };
        let mut operands = vec![w, scales(c, &shape)];
        operands.extend(zero_point(c, d, &shape));
        c.op(dequantizer(d, DType::F32, operands.get(2).map(|_| d), DType::F32), &operands)
    }
    fn convolution(c: &mut Case, groups: usize, channels: usize, outputs: usize) -> ValueId {
        let x = activations(c, &[2, channels, 6, 5]);
        let w = weights(c, &[outputs, channels / groups, 3, 2], 0);
        let op = Conv { strides: vec![1, 2], pads: vec![1, 0, 2, 1], dilations: vec![1, 1], groups: groups as i64 };
        match c.rng.below(2) {
            0 => c.op(op, &[x, w]),
            _ => {
                let b = c.constant(DType::F32, &[outputs]);
                c.op(op, &[x, w, b])
            }
        }
    }

    pub(in crate::rewrite) const EXAMPLES: &[Example] = &[
        ("conv-integers", |c| {
            let (groups, outputs) = c.rng.pick(&[(1, 5), (1, 1), (3, 3)]);
            let y = convolution(c, groups, 3, outputs);
            c.output(y);
        }),
        ("matmul-integers", |c| {
            let x = activations(c, &[2, 3, 7]);
            let w = weights(c, &[7, 5], 1);
            let y = c.op(MatMul, &[x, w]);
            c.output(y);
        }),
        ("matmul-integers", |c| {
            let x = activations(c, &[3, 7]);
            let w = weights(c, &[5, 7], 0);
            let w = c.op(Transpose { perm: vec![1, 0] }, &[w]);
            let y = c.op(MatMul, &[x, w]);
            c.output(y);
        }),
        ("matmul-integers", |c| {
            let x = activations(c, &[3, 7, 1, 1]);
            let x = c.op(Reshape { shape: vec![Dim::int(3), Dim::int(7)] }, &[x]);
            let w = weights(c, &[7, 5], 1);
            let y = c.op(MatMul, &[x, w]);
            c.output(y);
        }),
        ("quantize-scaled", |c| {
            let x = activations(c, &[2, 4, 3]);
            let other = activations(c, &[2, 4, 3]);
            let y = match c.rng.below(3) {
                0 => c.pointwise("Add", &[x, other]),
                1 => {
                    let (m, b) = (scales(c, &[4, 1]), c.constant(DType::F32, &[4, 1]));
                    let y = c.pointwise("Mul", &[x, m]);
                    c.pointwise("Add", &[y, b])
                }
                _ => {
                    let m = scales(c, &[4, 1]);
                    let y = c.pointwise("Mul", &[m, x]);
                    c.pointwise("Add", &[y, other])
                }
            };
            let to = c.rng.pick(&[DType::U8, DType::I8]);
            let s = c.filled(DType::F32, &[], 0.0173);
            let z = c.constant(to, &[]);
            let y = c.op(quantizer(DType::F32, DType::F32, Some(to), to).unwrap(), &[y, s, z]);
            c.output(y);
        }),
    ];

    #[test]
    fn other_products_stay_floats() {
        // A zero point of weights that is not known.
        refused("conv-integers", |c| {
            let x = activations(c, &[1, 3, 4, 4]);
            let (w, z) = (numbers(c, &[2, 3, 1, 1], DType::I8, -128, 127), c.input(DType::I8, &[]));
            let (w, s) = (c.g.add_constant(w, ""), scales(c, &[]));
            let w = c.op(dequantizer(DType::I8, DType::F32, Some(DType::I8), DType::F32), &[w, s, z]);
            let op = Conv { strides: vec![1, 1], pads: vec![0; 4], dilations: vec![1, 1], groups: 1 };
            let y = c.op(op, &[x, w]);
            c.output(y);
        });
        refused("conv-integers", |c| {
            let y = convolution(c, 2, 4, 4);
            c.output(y);
        });
        // Scales along the axis that is summed over.
        refused("matmul-integers", |c| {
            let x = activations(c, &[3, 7]);
            let w = numbers(c, &[7, 5], DType::I8, -128, 127);
            let (w, s) = (c.g.add_constant(w, ""), scales(c, &[7, 1]));
            let w = c.op(dequantizer(DType::I8, DType::F32, None, DType::F32), &[w, s]);
            let y = c.op(MatMul, &[x, w]);
            c.output(y);
        });
    }
}
