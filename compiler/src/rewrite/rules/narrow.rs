//! Products with constant matrices of few bits, which stay as they are stored where few rows meet them.

use crate::ir::{NodeId, ValueId, product};
use crate::ops::few_bits::NarrowMatMul;
use crate::ops::pointwise::Pointwise;
use crate::ops::{Op, movement::Transpose};
use crate::rewrite::{Class, Found, Rewriter, Rule};
use crate::target::cpu;
use kiln_kernels::dtype::DType;
use kiln_kernels::value::Tensor;

/// Rules about weights of few bits.
#[rustfmt::skip]
pub const RULES: &[Rule] = &[
    Rule { name: "narrow-matmul", on: &["MatMul"], equation: "x @ D(w, s, z) => NarrowMatMul(x, w, s, z);  x @ Cast(w) => NarrowMatMul(x, w) of 16-bit floats  where w is a constant matrix or the transpose of one, its scales are finite and those of columns or of blocks along the depth, and x has few rows or an open number of them", class: Class::Reassociating, apply: product_of_narrow },
];

/// A matrix of few bits that a product reads.
struct Matrix {
    /// The constant.
    w: ValueId,
    /// Which of its axes is that of the depth.
    axis: usize,
    /// Elements under one scale along the depth.
    block: i64,
    /// What it is scaled by, of integers.
    scales: Option<Tensor>,
    zeros: Option<Tensor>,
}

/// The matrix that a value stands for, whose axis `axis` is that of the depth.
fn matrix(rw: &Rewriter<'_>, v: ValueId, axis: usize) -> Option<Matrix> {
    let n = rw.producer(v)?;
    let w = rw.input(n, 0)?;
    match &rw.node(n).op {
        Op::BlockDequantize(op) => {
            let dims = &rw.constant(w)?.dims;
            // Blocks along the columns are the same along the depth where all are alike.
            let along = |t: &Tensor| if op.axis == axis { Some(t.clone()) } else { alike(t, each(axis, dims[1 - axis])) };
            let scales = along(rw.constant(rw.input(n, 1)?)?)?;
            let zeros = match rw.input(n, 2) {
                Some(z) => Some(along(rw.constant(z)?)?),
                None => None,
            };
            let block = if op.axis == axis { op.block } else { dims[axis].max(1) as i64 };
            Some(Matrix { w, axis, block, scales: Some(scales), zeros })
        }
        Op::Pointwise(p) if [DType::F16, DType::Bf16].iter().any(|d| *p == Pointwise::cast(*d, DType::F32)) => {
            rw.constant(w)?;
            Some(Matrix { w, axis, block: 1, scales: None, zeros: None })
        }
        Op::Pointwise(p) if p.name == "DequantizeLinear" => {
            let q = rw.quantization(v).filter(|q| matches!(q.dtype, DType::U8 | DType::I8))?;
            let w = q.codes.filter(|w| rw.constant(*w).is_some() && rw.shape(*w) == rw.shape(v))?;
            let dims = &rw.constant(w)?.dims;
            let (k, n) = (dims[axis], dims[1 - axis]);
            if q.axis.is_some_and(|a| a == axis) {
                return None;
            }
            // A scale, and a zero point, for each column.
            let shape = each(axis, n);
            let scales = spread(&rw.constant(q.scale)?.to_f64s()?, n)?;
            let scales = Tensor::new(&shape, &scales.iter().map(|s| *s as f32).collect::<Vec<_>>());
            let zeros = match q.zero {
                Some(z) => {
                    let z = spread(&rw.constant(z)?.to_i64s()?, n)?.iter().map(|z| *z as u8).collect::<Vec<u8>>();
                    Some(Tensor::with_dtype(q.dtype, &shape, &z))
                }
                None => None,
            };
            (rw.dtype(q.scale) == DType::F32).then_some(Matrix { w, axis, block: k.max(1) as i64, scales: Some(scales), zeros })
        }
        _ => None,
    }
}

/// The shape of what each of `n` columns has, in a matrix whose axis `axis` is that of the depth.
fn each(axis: usize, n: usize) -> [usize; 2] {
    if axis == 0 { [1, n] } else { [n, 1] }
}

/// A tensor whose elements are all the same, of another shape.
fn alike(t: &Tensor, shape: [usize; 2]) -> Option<Tensor> {
    let first = t.bytes().get(..t.dtype.size())?;
    if !t.bytes().chunks(first.len()).all(|x| x == first) {
        return None;
    }
    let mut out = Tensor::zeros(t.dtype, &shape);
    out.bytes_mut().chunks_mut(first.len()).for_each(|x| x.copy_from_slice(first));
    Some(out)
}

/// One element for all of `n`, or as many.
fn spread<T: Copy>(x: &[T], n: usize) -> Option<Vec<T>> {
    match x {
        [one] => Some(vec![*one; n]),
        _ => (x.len() == n).then(|| x.to_vec()),
    }
}

/// The matrix whose transpose a value is; one of a single row or column is a Reshape of it.
fn turned(rw: &Rewriter<'_>, v: ValueId) -> Option<ValueId> {
    let n = rw.producer(v)?;
    let x = rw.input(n, 0)?;
    let ([a, b], [c, d]) = (rw.shape(x), rw.shape(v)) else { return None };
    let turns = match &rw.node(n).op {
        Op::Transpose(Transpose { perm }) => perm[..] == [1, 0],
        Op::Reshape(_) => (a, b) == (d, c) && (a.is(1) || b.is(1)) && a != b,
        _ => false,
    };
    turns.then_some(x)
}

/// The matrix that a product reads as it is stored.
fn stored(rw: &Rewriter<'_>, n: NodeId) -> Option<Matrix> {
    let (x, b) = (rw.input(n, 0)?, rw.input(n, 1)?);
    if rw.shape(b).len() != 2 || rw.dtype(b) != DType::F32 || rw.constant(x).is_some() {
        return None;
    }
    let m = match turned(rw, b) {
        Some(w) => matrix(rw, w, 1)?,
        None => matrix(rw, b, 0)?,
    };
    let (bits, shape) = (rw.dtype(m.w).bits(), rw.shape(x));
    let (depth, rows) = (rw.constant(m.w)?.dims[m.axis], product(&shape[..shape.len() - 1]));
    if !shape.last()?.is(depth as i64) {
        return rw.refuse("its depth is open");
    }
    if !cpu::stays_narrow(rw.graph().range(&rows).lo, bits) {
        return rw.refuse("so many rows meet it that floats take less time");
    }
    if m.scales.as_ref().is_some_and(|s| !s.slice::<f32>().iter().all(|s| s.abs() < 1e30)) {
        return rw.refuse("a scale is not finite");
    }
    if m.scales.is_some() && cpu::narrow_block(depth, m.block).is_none() {
        return rw.refuse("its blocks fill no whole vectors");
    }
    Some(m)
}

/// Whether a constant is one that [`product_of_narrow`] takes before it is widened.
pub(super) fn waits(rw: &Rewriter<'_>, n: NodeId) -> bool {
    let widens = match &rw.node(n).op {
        Op::BlockDequantize(_) => true,
        Op::Pointwise(p) => matches!(p.name, "DequantizeLinear" | "Cast"),
        _ => false,
    };
    let Some(v) = rw.node(n).outputs.first().copied().filter(|_| widens && rw.part.is_none()) else { return false };
    let product = |v: ValueId| rw.readers(v, "MatMul").into_iter().any(|r| rw.input(r, 1) == Some(v) && stored(rw, r).is_some());
    let moved = |name: &str| rw.readers(v, name).into_iter().any(|t| product(rw.node(t).outputs[0]));
    product(v) || moved("Transpose") || moved("Reshape")
}

fn product_of_narrow(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let Matrix { w, axis, block, scales, zeros } = stored(rw, n)?;
    let mut inputs = vec![rw.input(n, 0), Some(w)];
    inputs.extend([scales, zeros].into_iter().flatten().map(|t| Some(rw.tensor(t))));
    rw.add_all(NarrowMatMul { axis, block }.into(), inputs, 1)
}

#[cfg(test)]
pub(in crate::rewrite) mod tests {
    use super::*;
    use crate::ops::few_bits::BlockDequantize;
    use crate::ops::matmul::MatMul;
    use crate::ops::quantize::dequantizer;
    use crate::rewrite::tests::{Case, Example, refused};

    const F32: DType = DType::F32;

    /// `x @ w`, or `x @ Transpose(w)`, with `m` rows.
    fn multiplied(c: &mut Case, m: usize, w: ValueId, turned: bool) {
        let shape = c.g.shape(w).to_vec();
        let k = shape[usize::from(turned)].as_int().unwrap() as usize;
        let lead = c.rng.below(2);
        let x = if lead == 0 { c.input(F32, &[m, k]) } else { c.input(F32, &[1, m, k]) };
        let w = if turned { c.op(Transpose { perm: vec![1, 0] }, &[w]) } else { w };
        let y = c.op(MatMul, &[x, w]);
        c.output(y);
    }
    fn small_floats(c: &mut Case, dims: &[usize]) -> ValueId {
        let x: Vec<f32> = (0..dims.iter().product()).map(|_| c.rng.below(64) as f32 / 64.0 - 0.5).collect();
        c.g.add_constant(Tensor::new(dims, &x), "")
    }
    fn codes(c: &mut Case, dtype: DType, dims: &[usize]) -> ValueId {
        let mut t = Tensor::zeros(dtype, dims);
        t.bytes_mut().iter_mut().for_each(|b| *b = c.rng.below(256) as u8);
        c.g.add_constant(t, "")
    }
    /// A dequantized matrix of `k` by `n`, or turned, in blocks along `k`.
    fn blocks(c: &mut Case, [k, n, block]: [usize; 3], turned: bool) -> ValueId {
        let axis = usize::from(turned);
        let shape = |a: usize, b: usize| if turned { [b, a] } else { [a, b] };
        let dtype = c.rng.pick(&[DType::U4, DType::I4, DType::U2, DType::I2, DType::U8, DType::I8]);
        let w = codes(c, dtype, &shape(k, n));
        let each = shape(k.div_ceil(block), n);
        let s = small_floats(c, &each);
        let mut inputs = vec![w, s];
        let zeros = match c.rng.below(3) {
            0 => None,
            1 if matches!(dtype, DType::U4 | DType::U2 | DType::U8) => Some(small_floats(c, &each)),
            _ => Some(codes(c, if matches!(dtype, DType::U4 | DType::U2 | DType::U8) { DType::U8 } else { DType::I8 }, &each)),
        };
        inputs.extend(zeros);
        c.op(BlockDequantize { axis, block: block as i64 }, &inputs)
    }

    pub(in crate::rewrite) const EXAMPLES: &[Example] = &[
        ("narrow-matmul", |c| {
            let turned = c.rng.below(2) == 0;
            let size = [1 + c.rng.below(70), 1 + c.rng.below(9), c.rng.pick(&[16, 32, 512])];
            let w = blocks(c, size, turned);
            let m = 1 + c.rng.below(3);
            multiplied(c, m, w, turned);
        }),
        ("narrow-matmul", |c| {
            let (turned, half) = (c.rng.below(2) == 0, c.rng.pick(&[DType::F16, DType::Bf16]));
            let dims = [1 + c.rng.below(9), 1 + c.rng.below(9)];
            let w = c.constant(half, &dims);
            let w = c.op(Pointwise::cast(half, F32), &[w]);
            multiplied(c, 1, w, turned);
        }),
        // Bytes, with one scale or one a column.
        ("narrow-matmul", |c| {
            let turned = c.rng.below(2) == 0;
            let (dtype, n) = (c.rng.pick(&[DType::U8, DType::I8]), 1 + c.rng.below(9));
            let w = codes(c, dtype, &if turned { [n, 24] } else { [24, n] });
            let each: &[usize] = match (c.rng.below(2), turned) {
                (0, _) => &[],
                (_, true) => &[n, 1],
                _ => &[n],
            };
            let (s, z) = (small_floats(c, each), codes(c, dtype, each));
            let w = c.op(dequantizer(dtype, F32, Some(dtype), F32), &[w, s, z]);
            multiplied(c, 2, w, turned);
        }),
    ];

    #[test]
    fn other_products_are_widened() {
        // Many rows.
        refused("narrow-matmul", |c| {
            let w = blocks(c, [32, 8, 16], false);
            multiplied(c, 500, w, false);
        });
        // Blocks along the columns.
        refused("narrow-matmul", |c| {
            let w = blocks(c, [32, 32, 16], true);
            multiplied(c, 1, w, false);
        });
        // Blocks of an odd length.
        refused("narrow-matmul", |c| {
            let w = blocks(c, [32, 8, 10], false);
            multiplied(c, 1, w, false);
        });
        // An open depth.
        refused("narrow-matmul", |c| {
            let w = blocks(c, [32, 8, 16], false);
            let x = c.open(F32, &[1, 32]);
            let y = c.op(MatMul, &[x, w]);
            c.output(y);
        });
        // A scale that is not finite.
        refused("narrow-matmul", |c| {
            let w = codes(c, DType::U4, &[16, 4]);
            let s = c.g.add_constant(Tensor::new(&[1, 4], &[1.0, f32::INFINITY, 1.0, 1.0]), "");
            let w = c.op(BlockDequantize { axis: 0, block: 16 }, &[w, s]);
            multiplied(c, 1, w, false);
        });
    }
}
