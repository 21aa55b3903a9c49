//! Tails that turn integer sums into bytes, recognized: what a kernel of the library computes with vectors written out.

use super::{At, Binary, Epilogue, Expr, Literal, Operand, Scalar, Stride, Unary};
use kiln_kernels::dtype::DType;

/// A number for each output channel, or one for all.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Each {
    /// An operand of the tail, by its place among them, with one number a channel, or one.
    Operand(usize, bool),
    /// A literal.
    Number(f32),
}

/// A tail `u8(round(bias + scale * sum) + zero)`, saturated, or one that adds other bytes to that.
#[derive(Clone, Debug, PartialEq)]
pub struct Requantized {
    /// Factors of the sums.
    pub scale: Each,
    /// What is added to them.
    pub bias: Each,
    /// The zero point of the rounded sums.
    pub zero: u8,
    /// What is added.
    pub add: Option<Added>,
}

/// Dequantized bytes that are added: to the sums, or to what rounded sums stand for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Added {
    /// The operand of the tail that has them.
    pub operand: usize,
    /// Their zero point.
    pub zero: u8,
    /// Their scale.
    pub scale: f32,
    /// The scale of the rounded sums.
    pub own: Option<f32>,
    /// The zero point of the result.
    pub sum_zero: u8,
}

fn node(e: &Expr, a: At) -> Scalar {
    e.code[a.0 as usize].0
}

/// A literal, converted or not.
fn number(e: &Expr, a: At) -> Option<f64> {
    match node(e, a) {
        Scalar::Const(Literal::Float(b)) => Some(f64::from_bits(b)),
        Scalar::Const(Literal::Int(i)) => Some(i as f64),
        Scalar::Cast(b) => number(e, b),
        _ => None,
    }
}

fn binary(e: &Expr, a: At, f: Binary) -> Option<(At, At)> {
    match node(e, a) {
        Scalar::Binary(g, p, q) if g == f && e.ty(p) == DType::F32 => Some((p, q)),
        _ => None,
    }
}

/// What an instruction of type u8 rounds, and the zero point that it adds then, where it is a whole conversion: `None` for 0.
pub fn rounded(e: &Expr, a: At) -> Option<(At, Option<At>)> {
    let Scalar::Cast(x) = node(e, a) else { return None };
    let (x, most) = binary(e, x, Binary::Min).filter(|_| e.ty(a) == DType::U8)?;
    let (x, least) = binary(e, x, Binary::Max)?;
    if number(e, most) != Some(255.0) || number(e, least) != Some(0.0) {
        return None;
    }
    let round = |a: At| if let Scalar::Unary(Unary::Round, x) = node(e, a) { Some(x) } else { None };
    if let Some(x) = round(x) {
        return Some((x, None));
    }
    let (p, q) = binary(e, x, Binary::Add)?;
    let byte = |a: At| matches!(node(e, a), Scalar::Cast(z) if e.ty(z) == DType::U8);
    match (round(p), round(q)) {
        (Some(x), _) if byte(q) => Some((x, Some(q))),
        (_, Some(x)) if byte(p) => Some((x, Some(p))),
        _ => None,
    }
}

/// A conversion to bytes by the scale 1, with a literal zero point.
fn byte(e: &Expr, a: At) -> Option<(At, u8)> {
    let (x, zero) = rounded(e, a)?;
    let zero = zero.map_or(Some(0.0), |z| number(e, z))?;
    let x = match binary(e, x, Binary::Div) {
        Some((x, one)) if number(e, one) == Some(1.0) => x,
        _ => return None,
    };
    Some((x, zero as u8))
}

/// A u8 that is converted to numbers: itself, its zero point and its scale.
fn dequantized(e: &Expr, a: At) -> Option<(At, u8, f32)> {
    let (p, q) = binary(e, a, Binary::Mul)?;
    let (x, scale) = match (number(e, p), number(e, q)) {
        (_, Some(s)) => (p, s),
        (Some(s), _) => (q, s),
        _ => return None,
    };
    let (x, zero) = match binary(e, x, Binary::Sub) {
        Some((x, z)) => (x, number(e, z)?),
        None => (x, 0.0),
    };
    let Scalar::Cast(code) = node(e, x) else { return None };
    let whole = (0.0..256.0).contains(&zero) && zero.fract() == 0.0;
    (whole && e.ty(code) == DType::U8).then_some((code, zero as u8, scale as f32))
}

/// The numbers of an operand that is the same for all pixels.
fn each(e: &Expr, operands: &[Operand], a: At) -> Option<Each> {
    if let Some(x) = number(e, a) {
        return Some(Each::Number(x as f32));
    }
    let Scalar::In(i) = node(e, a) else { return None };
    let i = (i as usize).checked_sub(1).filter(|_| e.ty(a) == DType::F32)?;
    let [.., row, column] = &operands[i].strides[..] else { return None };
    (row.is(0) && (column.is(0) || column.is(1))).then(|| Each::Operand(i, column.is(1)))
}

/// `bias + scale * sum`.
fn scaled(e: &Expr, operands: &[Operand], a: At) -> Option<(Each, Each)> {
    let sum = |a: At| matches!(node(e, a), Scalar::Cast(s) if node(e, s) == Scalar::In(0) && e.ty(s) == DType::I32);
    let product = |a: At| {
        let (p, q) = binary(e, a, Binary::Mul)?;
        let scale = if sum(q) { p } else { q };
        (sum(p) || sum(q)).then(|| each(e, operands, scale)).flatten()
    };
    if let Some(scale) = product(a) {
        return Some((scale, Each::Number(0.0)));
    }
    let (p, q) = binary(e, a, Binary::Add)?;
    match (product(p), product(q)) {
        (Some(scale), _) => Some((scale, each(e, operands, q)?)),
        (_, Some(scale)) => Some((scale, each(e, operands, p)?)),
        _ => None,
    }
}

impl Requantized {
    /// The conversion that a tail is, if it is one, and if what it stores lies as the kernel writes it.
    pub fn of(t: &Epilogue) -> Option<Requantized> {
        let (e, operands) = (&t.expr, &t.operands[..]);
        let [.., _, column] = &t.first.as_ref()?.strides[..] else { return None };
        if !t.stored.is_empty() || e.results.len() != 1 || !column.is(1) {
            return None;
        }
        let (x, sum_zero) = byte(e, e.results[0])?;
        if let Some((scale, bias)) = scaled(e, operands, x) {
            return Some(Requantized { scale, bias, zero: sum_zero, add: None });
        }
        let (p, q) = binary(e, x, Binary::Add)?;
        [(p, q), (q, p)].into_iter().find_map(|(own, other)| {
            let (code, zero, scale) = dequantized(e, other)?;
            let Scalar::In(i) = node(e, code) else { return None };
            let operand = (i as usize).checked_sub(1)?;
            let [.., row, column] = &operands[operand].strides[..] else { return None };
            if !column.is(1) || !matches!(row, Stride::By(_)) {
                return None;
            }
            let added = |own| Some(Added { operand, zero, scale, own, sum_zero });
            if let Some((scale, bias)) = scaled(e, operands, own) {
                return Some(Requantized { scale, bias, zero: 0, add: added(None) });
            }
            let (code, own_zero, own_scale) = dequantized(e, own)?;
            let (x, zero) = byte(e, code).filter(|(_, z)| *z == own_zero)?;
            let (scale, bias) = scaled(e, operands, x)?;
            Some(Requantized { scale, bias, zero, add: added(Some(own_scale)) })
        })
    }
}
