//! Scalar expressions as text: one walk, and a dialect for each language that kernels are printed in.

pub(crate) mod cuda;
mod rust;

pub(crate) use rust::{literal, load, print, store};

use crate::kernel::{At, Binary, Expr, Literal, Scalar, Unary, rounded as rounded_byte};
use kiln_kernels::dtype::DType;

/// How a language spells instructions.
pub(crate) trait Dialect {
    /// Its text.
    type Text: Clone;

    /// A literal.
    fn literal(x: Literal, ty: DType) -> Self::Text;
    /// A value that was computed as f32, rounded to a 16-bit float where the type is one.
    fn rounded(ty: DType, value: Self::Text) -> Self::Text;
    /// A function of an operand of a type.
    fn unary(f: Unary, a: At, ty: DType) -> Self::Text;
    /// A function of two operands of a type.
    fn binary(f: Binary, a: At, b: At, ty: DType) -> Self::Text;
    /// `Min` or `Max` of floats, of which the second is a literal that is neither NaN nor a zero whose sign matters.
    fn clamped(f: Binary, a: At, b: At) -> Self::Text;
    /// `Max` of a float and 0.0: -0.0 becomes 0.0, NaN stays.
    fn rectified(a: At) -> Self::Text;
    /// The second operand where the first holds, else the third.
    fn select(c: At, a: At, b: At) -> Self::Text;
    /// A float rounded to the nearest, ties to even, plus a zero point, saturated to a byte.
    fn quantized(x: At, zero: Option<At>) -> Self::Text;
    /// A conversion.
    fn cast(a: At, from: DType, to: DType) -> Self::Text;
}

/// The instructions of an expression in a dialect, in order, given the text of its inputs.
pub(crate) fn walk<D: Dialect>(e: &Expr, inputs: &[D::Text]) -> Vec<(At, DType, D::Text)> {
    let each = e.code.iter().enumerate().map(|(i, &(s, ty))| {
        let value = match s {
            Scalar::In(k) => inputs[k as usize].clone(),
            Scalar::Const(c) => D::literal(c, ty),
            Scalar::Unary(f, a) => D::rounded(ty, D::unary(f, a, e.ty(a))),
            // One instruction, where the general form takes three; zeros have two signs.
            Scalar::Binary(f @ (Binary::Min | Binary::Max), a, b) if ty.is_float() && number(e, b).is_some_and(|x| x != 0.0) => {
                D::clamped(f, a, b)
            }
            Scalar::Binary(Binary::Max, a, b) if ty.is_float() && number(e, b).is_some_and(f64::is_sign_positive) => D::rectified(a),
            Scalar::Binary(f, a, b) => D::rounded(ty, D::binary(f, a, b, e.ty(a))),
            Scalar::Select(c, a, b) => D::select(c, a, b),
            Scalar::Cast(a) => match rounded_byte(e, At(i as u32)) {
                Some((x, zero)) => D::quantized(x, zero),
                None => D::cast(a, e.ty(a), ty),
            },
        };
        (At(i as u32), ty, value)
    });
    each.collect()
}

/// A literal other than NaN.
fn number(e: &Expr, a: At) -> Option<f64> {
    match e.code[a.0 as usize].0 {
        Scalar::Const(c) => Some(c.as_f64()).filter(|x| !x.is_nan()),
        _ => None,
    }
}

fn is_small_float(d: DType) -> bool {
    matches!(d, DType::F32 | DType::F16 | DType::Bf16)
}
