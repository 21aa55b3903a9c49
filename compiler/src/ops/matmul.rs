//! Matrix products: MatMul, Gemm and MatMulInteger.

use super::quantize::unsigned;
use super::{CallArg, Facts, Infer, Lowering, Operator, Reader, broadcast};
use crate::diagnostics::Diagnostic;
use crate::ir::{Dim, Fact, ValueId};
use kiln_kernels::dtype::DType;

/// Products of the matrices in the last two axes, over broadcast leading axes; both operands have rank 2 or more.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MatMul;

impl Operator for MatMul {
    fn infer(&self, cx: &mut Infer<'_>) -> Result<Vec<Fact>, Diagnostic> {
        let (a, b) = (cx.shape(0), cx.shape(1));
        if a.len() < 2 || b.len() < 2 || cx.dtype(0) != cx.dtype(1) {
            return Err(Diagnostic::new(format!(
                "a matrix product needs two tensors of one type and rank 2 or more, found {}[{}] and {}[{}]",
                cx.dtype(0),
                super::cx::list(a),
                cx.dtype(1),
                super::cx::list(b)
            )));
        }
        let (k, l) = (&a[a.len() - 1], &b[b.len() - 2]);
        if let (Some(x), Some(y)) = (k.as_int(), l.as_int())
            && x != y
        {
            return Err(Diagnostic::new(format!(
                "the matrices [{}] and [{}] do not fit: {x} columns meet {y} rows",
                super::cx::list(a),
                super::cx::list(b)
            )));
        }
        let mut shape = broadcast(&a[..a.len() - 2], &b[..b.len() - 2])?;
        shape.push(a[a.len() - 2].clone());
        shape.push(b[b.len() - 1].clone());
        Ok(vec![Fact::tensor(cx.dtype(0), shape)])
    }
    fn lower(&self, cx: &Facts<'_>) -> Lowering {
        let (a, b, out) = (cx.shape(0), cx.shape(1), cx.out_shape(0));
        let batch = out[..out.len() - 2].to_vec();
        Lowering::call(
            "plain::matmul",
            [cx.dtype(0)],
            2,
            [
                CallArg::Dims(batch.clone()),
                CallArg::Dim(a[a.len() - 2].clone()),
                CallArg::Dim(b[b.len() - 1].clone()),
                CallArg::Dim(a[a.len() - 1].clone()),
                CallArg::Dims(batch_strides(&a[..a.len() - 2], batch.len())),
                CallArg::Dims(batch_strides(&b[..b.len() - 2], batch.len())),
            ],
        )
    }
}

/// Products of matrices of u8, in the last two axes, by one matrix of i8 or u8, each less its zero point: one for all on the left, one for
/// all or one a column on the right. Sums are i32, modulo 2^32.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MatMulInteger;

impl Operator for MatMulInteger {
    fn infer(&self, cx: &mut Infer<'_>) -> Result<Vec<Fact>, Diagnostic> {
        let (a, b) = (cx.shape(0), cx.shape(1));
        let types = cx.dtype(0) == DType::U8 && matches!(cx.dtype(1), DType::U8 | DType::I8);
        if a.len() < 2 || b.len() != 2 || !types || cx.dtype(2) != cx.dtype(0) || cx.dtype(3) != cx.dtype(1) {
            return Err(Diagnostic::new(format!(
                "an integer product needs matrices of u8, one matrix of bytes, and zero points of these types, found {}[{}] and {}[{}]",
                cx.dtype(0),
                super::cx::list(a),
                cx.dtype(1),
                super::cx::list(b)
            )));
        }
        let (k, l) = (&a[a.len() - 1], &b[0]);
        let zeros = cx.shape(3);
        if matches!((k.as_int(), l.as_int()), (Some(x), Some(y)) if x != y)
            || !cx.shape(2).is_empty()
            || !(zeros.is_empty() || *zeros == b[1..])
        {
            return Err(Diagnostic::new(format!(
                "the matrices [{}] and [{}] with zero points [{}] and [{}] do not fit",
                super::cx::list(a),
                super::cx::list(b),
                super::cx::list(cx.shape(2)),
                super::cx::list(zeros)
            )));
        }
        let mut shape = a[..a.len() - 1].to_vec();
        shape.push(b[1].clone());
        Ok(vec![Fact::tensor(DType::I32, shape)])
    }
    fn lower(&self, cx: &Facts<'_>) -> Lowering {
        let (a, b) = (cx.shape(0), cx.shape(1));
        let rows = crate::ir::product(&a[..a.len() - 1]);
        let [m, n, k] = [rows, b[1].clone(), b[0].clone()].map(CallArg::Dim);
        Lowering::call("igemm::multiply", [cx.dtype(1)], 4, [m, n, k])
    }
}

/// Rows times matrices that an index each picks, `MatMul(x, Gather(w, i))` without copies of matrices: operands x `[.., K]`, w `[E, K, N]`
/// and i `[..]`, result `[.., N]` with the leading axes of i, along which x has their extents or 1.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GatherMatMul;

impl Operator for GatherMatMul {
    fn infer(&self, cx: &mut Infer<'_>) -> Result<Vec<Fact>, Diagnostic> {
        let (x, w, i) = (cx.shape(0), cx.shape(1), cx.shape(2));
        let shapes = || format!("[{}], [{}] and [{}]", super::cx::list(x), super::cx::list(w), super::cx::list(i));
        let (Some((k, rows)), [_, depth, columns]) = (x.split_last(), w) else {
            return Err(Diagnostic::new(format!("rows, matrices and indices are needed, found {}", shapes())));
        };
        let padded = super::attend::padded(rows, i.len());
        let fits = padded.len() == i.len() && padded.iter().zip(i).all(|(d, n)| d.is(1) || d == n) && k == depth;
        if !fits || cx.dtype(0) != cx.dtype(1) || !matches!(cx.dtype(2), DType::I32 | DType::I64) {
            return Err(Diagnostic::new(format!("rows, matrices and indices of shapes {} do not fit", shapes())));
        }
        Ok(vec![Fact::tensor(cx.dtype(0), [i, std::slice::from_ref(columns)].concat())])
    }
    fn lower(&self, cx: &Facts<'_>) -> Lowering {
        let (x, w, i) = (cx.shape(0), cx.shape(1), cx.shape(2));
        let steps = CallArg::Dims(batch_strides(&x[..x.len() - 1], i.len()));
        let [count, k, n] = [0, 1, 2].map(|a| CallArg::Dim(w[a].clone()));
        Lowering::call("gather::gather_matmul", [cx.dtype(0), cx.dtype(2)], 3, [cx.extents(2), steps, count, k, n])
    }
}

/// Strides in matrices along `rank` batch axes, 0 where the operand is repeated.
pub fn batch_strides(dims: &[Dim], rank: usize) -> Vec<Dim> {
    let mut out = vec![Dim::int(0); rank];
    let mut step = Dim::int(1);
    for (i, d) in dims.iter().enumerate().rev() {
        if !d.is(1) {
            out[rank - dims.len() + i] = step.clone();
        }
        step = step * d.clone();
    }
    out
}

type Read = Result<Vec<ValueId>, Diagnostic>;

/// The product with NumPy's treatment of vectors; 16-bit floats are multiplied in f32.
pub fn product(r: &mut Reader<'_, '_>, a: ValueId, b: ValueId) -> Result<ValueId, Diagnostic> {
    let dtype = r.dtype(a);
    let half = matches!(dtype, DType::F16 | DType::Bf16);
    let (a, b) = if half { (r.cast(a, DType::F32)?, r.cast(b, DType::F32)?) } else { (a, b) };
    let (sa, sb) = (r.shape(a)?, r.shape(b)?);
    if sa.is_empty() || sb.is_empty() {
        return Err(Diagnostic::new("a matrix product needs tensors of rank 1 or more, found a scalar"));
    }
    let a2 = if sa.len() == 1 { r.reshape(a, vec![Dim::int(1), sa[0].clone()])? } else { a };
    let b2 = if sb.len() == 1 { r.reshape(b, vec![sb[0].clone(), Dim::int(1)])? } else { b };
    let y = r.emit(MatMul, &[a2, b2])?;
    let mut shape = r.shape(y)?;
    if sb.len() == 1 {
        shape.pop();
    }
    if sa.len() == 1 {
        shape.remove(shape.len() - if sb.len() == 1 { 1 } else { 2 });
    }
    let y = r.reshape(y, shape)?;
    if half { r.cast(y, dtype) } else { Ok(y) }
}

/// Reads `MatMul`.
pub fn read_matmul(r: &mut Reader<'_, '_>) -> Read {
    let (a, b) = (r.input(0)?, r.input(1)?);
    Ok(vec![product(r, a, b)?])
}

/// Reads `Gemm`: `alpha · op(A) · op(B) + beta · C`.
pub fn read_gemm(r: &mut Reader<'_, '_>) -> Read {
    let (mut a, mut b) = (r.input(0)?, r.input(1)?);
    for v in [a, b] {
        if r.rank(v)? != 2 {
            return Err(Diagnostic::new(format!("Gemm needs matrices, found a tensor of rank {}", r.rank(v)?)));
        }
    }
    if r.int("transA", 0)? != 0 {
        a = r.transpose(a, vec![1, 0])?;
    }
    if r.int("transB", 0)? != 0 {
        b = r.transpose(b, vec![1, 0])?;
    }
    let mut y = product(r, a, b)?;
    let dtype = r.dtype(y);
    let (alpha, beta) = (r.float("alpha", 1.0)?, r.float("beta", 1.0)?);
    if alpha != 1.0 {
        let alpha = r.scalar(alpha as f64, dtype);
        y = r.pointwise("Mul", &[y, alpha])?;
    }
    if let Some(mut c) = r.opt(2).filter(|_| beta != 0.0) {
        if beta != 1.0 {
            let beta = r.scalar(beta as f64, dtype);
            c = r.pointwise("Mul", &[c, beta])?;
        }
        y = r.pointwise("Add", &[y, c])?;
    }
    Ok(vec![y])
}

/// The product of bytes as [`MatMulInteger`], where operands and zero points have its shapes; on the left, i8 become u8.
pub fn integer(
    r: &mut Reader<'_, '_>,
    (a, a_zero): (ValueId, Option<ValueId>),
    (b, b_zero): (ValueId, Option<ValueId>),
) -> Result<Option<ValueId>, Diagnostic> {
    let bytes = |d: DType| matches!(d, DType::U8 | DType::I8);
    let fits = bytes(r.dtype(a)) && bytes(r.dtype(b)) && r.rank(a)? >= 2 && r.rank(b)? == 2;
    let columns = r.shape(b)?.last().cloned();
    // One zero point as a scalar, none as zero.
    let zero = |r: &mut Reader<'_, '_>, of: ValueId, zero: Option<ValueId>, each: Option<&Dim>| {
        let dtype = r.dtype(of);
        let Some(z) = zero else { return Ok(Some(r.scalar(0.0, dtype))) };
        let shape = r.shape(z)?;
        Ok::<_, Diagnostic>(match &shape[..] {
            _ if r.dtype(z) != dtype => None,
            [] => Some(z),
            [one] if one.is(1) => Some(r.reshape(z, vec![])?),
            [n] if Some(n) == each => Some(z),
            _ => None,
        })
    };
    if !fits {
        return Ok(None);
    }
    let (Some(mut x), Some(y)) = (zero(r, a, a_zero, None)?, zero(r, b, b_zero, columns.as_ref())?) else { return Ok(None) };
    let mut a = a;
    if r.dtype(a) == DType::I8 {
        (a, x) = (r.emit(unsigned(DType::I8), &[a])?, r.emit(unsigned(DType::I8), &[x])?);
    }
    Ok(Some(r.emit(MatMulInteger, &[a, b, x, y])?))
}

/// Columns of A up to which f32 sums products of centred bytes without an error: each is at most 255², and 2^24 the greatest sum.
const EXACT: i64 = 258;

/// The product of integers less their zero points in i32: one zero point for all or one a row of A, and for all or one a column of B.
///
/// # Errors
/// Shapes that do not fit.
pub fn integers(r: &mut Reader<'_, '_>, a: (ValueId, Option<ValueId>), b: (ValueId, Option<ValueId>)) -> Result<ValueId, Diagnostic> {
    if r.constant(b.0).is_some()
        && let Some(y) = integer(r, a, b)?
    {
        return Ok(y);
    }
    let bytes = |d: DType| matches!(d, DType::U8 | DType::I8);
    let few = r.shape(a.0)?.last().and_then(Dim::as_int).is_some_and(|k| k <= EXACT);
    // The kernels of floats are the faster ones where nothing is packed ahead.
    let exact = few && bytes(r.dtype(a.0)) && bytes(r.dtype(b.0));
    let to = if exact { DType::F32 } else { DType::I32 };
    let mut sides = Vec::new();
    for (i, (x, zero)) in [a, b].into_iter().enumerate() {
        let mut y = r.cast(x, to)?;
        if let Some(zero) = zero {
            let mut shape = r.shape(zero)?;
            let zero = r.cast(zero, to)?;
            if i == 0 && shape.len() == 1 && !shape[0].is(1) {
                shape.push(Dim::int(1));
            }
            if shape == [Dim::int(1)] {
                shape.clear();
            }
            let zero = r.reshape(zero, shape)?;
            y = r.pointwise("Sub", &[y, zero])?;
        }
        sides.push(y);
    }
    let y = product(r, sides[0], sides[1])?;
    r.cast(y, DType::I32)
}

/// Reads `MatMulInteger`: zero points subtracted, products summed in i32.
pub fn read_matmul_integer(r: &mut Reader<'_, '_>) -> Read {
    let (a, b) = (r.input(0)?, r.input(1)?);
    let (a, b) = ((a, r.opt(2)), (b, r.opt(3)));
    Ok(vec![integers(r, a, b)?])
}
