//! Tails that turn integer sums into bytes, recognized: what a kernel of the library computes with vectors written out.

use super::{At, Binary, Epilogue, Expr, Literal, Operand, Scalar, Stride, Unary, interpret, operands};
use kiln_kernels::dtype::DType;
use kiln_kernels::value::Tensor;

/// A number for each output channel, or one for all.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Each {
    /// An operand of the tail, by its place among them, with one number a channel, or one.
    Operand(usize, bool),
    /// A literal.
    Number(f32),
}

/// A tail `u8(round(bias + scale * sum) + zero)`, saturated, or a function of that byte, or one that adds other bytes to either.
#[derive(Clone, Debug, PartialEq)]
pub struct Requantized {
    /// Factors of the sums.
    pub scale: Each,
    /// What is added to them.
    pub bias: Each,
    /// The zero point of the rounded sums.
    pub zero: u8,
    /// What each byte becomes then.
    pub table: Option<Box<[u8; 256]>>,
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
    /// The scale of the rounded sums, or of what the table makes of them.
    pub own: Option<f32>,
    /// Their zero point.
    pub own_zero: u8,
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

/// A byte that depends on nothing but one rounded from sums: scale, bias and zero point of that one, and what it becomes.
fn function(e: &Expr, of: &[Operand], at: At) -> Option<Requantized> {
    (0..at.0).map(At).filter(|c| e.ty(*c) == DType::U8 && e.ty(at).size() == 1).find_map(|c| {
        let (x, zero) = byte(e, c)?;
        let (scale, bias) = scaled(e, of, x)?;
        let mut open = vec![at];
        while let Some(a) = open.pop() {
            if a != c {
                if let Scalar::In(_) = node(e, a) {
                    return None;
                }
                open.extend(operands(node(e, a)));
            }
        }
        let mut f = e.clone();
        (f.code[c.0 as usize].0, f.results) = (Scalar::In(0), vec![at]);
        let all: Vec<u8> = (0..=255).collect();
        let values = interpret::run(&f.pruned(), &[256], &[&Tensor::new(&[256], &all)], &[vec![1]]);
        let table: [u8; 256] = values.first()?.bytes().try_into().ok()?;
        Some(Requantized { scale, bias, zero, table: Some(Box::new(table)), add: None })
    })
}

impl Requantized {
    /// The conversion that a tail is, if it is one, and if what it stores lies as the kernel writes it.
    pub fn of(t: &Epilogue) -> Option<Requantized> {
        let (e, operands) = (&t.expr, &t.operands[..]);
        let [.., _, column] = &t.first.as_ref()?.strides[..] else { return None };
        if !t.stored.is_empty() || e.results.len() != 1 || !column.is(1) {
            return None;
        }
        let result = e.results[0];
        Requantized::sum(e, operands, result).or_else(|| function(e, operands, result))
    }
    /// A conversion that is no function of one behind it.
    fn sum(e: &Expr, operands: &[Operand], result: At) -> Option<Requantized> {
        let (x, sum_zero) = byte(e, result)?;
        if let Some((scale, bias)) = scaled(e, operands, x) {
            return Some(Requantized { scale, bias, zero: sum_zero, table: None, add: None });
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
            let added = |own, own_zero| Some(Added { operand, zero, scale, own, own_zero, sum_zero });
            if let Some((scale, bias)) = scaled(e, operands, own) {
                return Some(Requantized { scale, bias, zero: 0, table: None, add: added(None, 0) });
            }
            let (code, own_zero, own_scale) = dequantized(e, own)?;
            let add = added(Some(own_scale), own_zero);
            let whole = byte(e, code).filter(|(_, z)| *z == own_zero).and_then(|(x, zero)| {
                let (scale, bias) = scaled(e, operands, x)?;
                Some(Requantized { scale, bias, zero, table: None, add: None })
            });
            Some(Requantized { add, ..whole.or_else(|| function(e, operands, code))? })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::ValueId;
    use crate::ops::quantize::{dequantizer, quantizer};

    fn operand(row: i64, column: i64) -> Operand {
        let by = |n: i64| Stride::By(crate::ir::Dim::int(n));
        Operand { value: ValueId(0), strides: vec![by(row), by(column)] }
    }
    /// An expression with its inputs replaced, as part of another.
    fn include(e: &mut Expr, of: &Expr, inputs: &[At]) -> At {
        let mut map: Vec<At> = Vec::new();
        for &(s, ty) in &of.code {
            let at = match s {
                Scalar::In(i) => inputs[i as usize],
                s => e.push(s.with(|a| map[a.0 as usize]), ty),
            };
            map.push(at);
        }
        map[of.results[0].0 as usize]
    }
    fn quantized(e: &mut Expr, x: At, scale: f64, zero: f64) -> At {
        let (s, z) = (e.constant(scale, DType::F32), e.constant(zero, DType::U8));
        let of = quantizer(DType::F32, DType::F32, Some(DType::U8), DType::U8).unwrap().expr;
        include(e, &of, &[x, s, z])
    }
    fn numbers(e: &mut Expr, x: At, scale: f64, zero: f64) -> At {
        let (s, z) = (e.constant(scale, DType::F32), e.constant(zero, DType::U8));
        include(e, &dequantizer(DType::U8, DType::F32, Some(DType::U8), DType::F32).expr, &[x, s, z])
    }
    /// `bias + scale * sum`, of inputs 2, 1 and 0.
    fn scaled(e: &mut Expr) -> At {
        let (sum, scale, bias) = (e.input(0, DType::I32), e.input(1, DType::F32), e.input(2, DType::F32));
        let sum = e.cast(sum, DType::F32);
        let y = e.bin(Binary::Mul, scale, sum);
        e.bin(Binary::Add, bias, y)
    }
    /// The tail that stores an instruction, whose inputs from 1 on lie so.
    fn tail(mut e: Expr, result: At, operands: Vec<Operand>) -> Epilogue {
        e.results = vec![result];
        Epilogue { expr: e.canonical(), first: Some(operand(64, 1)), operands, stored: vec![] }
    }

    #[test]
    fn conversions_of_sums_are_recognized() {
        let each = || vec![operand(0, 1), operand(0, 1)];
        let mut e = Expr::default();
        let x = scaled(&mut e);
        let y = quantized(&mut e, x, 1.0, 140.0);
        let found = Requantized::of(&tail(e.clone(), y, each())).unwrap();
        let both = (Each::Operand(0, true), Each::Operand(1, true));
        assert_eq!(found, Requantized { scale: both.0, bias: both.1, zero: 140, table: None, add: None });
        // Another scale is none of the kernel's, nor are numbers that differ from pixel to pixel.
        let other = quantized(&mut e, x, 0.5, 140.0);
        assert_eq!(Requantized::of(&tail(e.clone(), other, each())), None);
        assert_eq!(Requantized::of(&tail(e.clone(), y, vec![operand(0, 1), operand(64, 1)])), None);
    }

    #[test]
    fn functions_of_rounded_sums_are_tables() {
        let mut e = Expr::default();
        let x = scaled(&mut e);
        let q = quantized(&mut e, x, 1.0, 100.0);
        let (x, y) = (numbers(&mut e, q, 0.25, 100.0), numbers(&mut e, q, 0.5, 90.0));
        let product = e.bin(Binary::Mul, x, y);
        let z = quantized(&mut e, product, 2.0, 10.0);
        let each = || vec![operand(0, 1), operand(0, 0)];
        let found = Requantized::of(&tail(e.clone(), z, each())).unwrap();
        let byte = |q: usize| ((q as f32 - 100.0) * 0.25 * ((q as f32 - 90.0) * 0.5) / 2.0).round_ties_even() + 10.0;
        let want: Vec<u8> = (0..256).map(|q| byte(q).clamp(0.0, 255.0) as u8).collect();
        assert_eq!((found.zero, found.table.unwrap().to_vec(), found.add), (100, want.clone(), None));
        // Added to other bytes, with its own scale and zero point.
        let bytes = e.input(3, DType::U8);
        let (a, b) = (numbers(&mut e, z, 0.75, 10.0), numbers(&mut e, bytes, 0.25, 7.0));
        let sum = e.bin(Binary::Add, a, b);
        let last = quantized(&mut e, sum, 1.0, 3.0);
        let found = Requantized::of(&tail(e.clone(), last, [each(), vec![operand(64, 1)]].concat())).unwrap();
        assert_eq!(found.table.unwrap().to_vec(), want);
        assert_eq!(found.add, Some(Added { operand: 2, zero: 7, scale: 0.25, own: Some(0.75), own_zero: 10, sum_zero: 3 }));
        // What reads another operand too is no function of the byte.
        let other = e.bin(Binary::Mul, product, b);
        let other = quantized(&mut e, other, 1.0, 0.0);
        assert_eq!(Requantized::of(&tail(e, other, [each(), vec![operand(64, 1)]].concat())), None);
    }

    #[test]
    fn residuals_of_bytes_are_recognized() {
        for rounded in [true, false] {
            let mut e = Expr::default();
            let mut x = scaled(&mut e);
            if rounded {
                let y = quantized(&mut e, x, 1.0, 121.0);
                x = numbers(&mut e, y, 0.75, 121.0);
            }
            let bytes = e.input(3, DType::U8);
            let other = numbers(&mut e, bytes, 0.25, 7.0);
            let sum = e.bin(Binary::Add, other, x);
            let y = quantized(&mut e, sum, 1.0, 3.0);
            let operands = vec![operand(0, 1), operand(0, 0), operand(128, 1)];
            let found = Requantized::of(&tail(e.clone(), y, operands.clone())).unwrap();
            let own = rounded.then_some(0.75);
            assert_eq!(
                found.add,
                Some(Added { operand: 2, zero: 7, scale: 0.25, own, own_zero: if rounded { 121 } else { 0 }, sum_zero: 3 })
            );
            assert_eq!((found.scale, found.bias), (Each::Operand(0, true), Each::Operand(1, false)));
            // Sums that are handed on as numbers are another tail's business.
            assert_eq!(Requantized::of(&tail(e, sum, operands)), None);
        }
    }
}
