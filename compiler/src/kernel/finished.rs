//! Tails that products and convolutions compute while their sums are in registers, recognized.

use super::{At, Binary, Epilogue, Expr, Literal, Scalar, Stride};
use crate::ir::Dim;
use kiln_kernels::dtype::DType;

/// A tail `min(max(sum + other, least), most)` of f32, in parts or whole: what `kiln_kernels::gemm::Finish` computes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Finished {
    /// The operand of the tail that is added.
    pub add: Option<usize>,
    /// The least value.
    pub least: f32,
    /// The greatest value.
    pub most: f32,
}

/// A literal other than NaN.
fn number(e: &Expr, a: At) -> Option<f32> {
    match e.code[a.0 as usize].0 {
        Scalar::Const(Literal::Float(bits)) => Some(f64::from_bits(bits) as f32).filter(|x| !x.is_nan()),
        Scalar::Const(Literal::Int(i)) => Some(i as f32),
        _ => None,
    }
}

impl Finished {
    /// A tail that is nothing else.
    pub fn of(t: &Epilogue) -> Option<Finished> {
        let e = &t.expr;
        let [mut at] = e.results[..] else { return None };
        if t.first.is_some() || !t.stored.is_empty() || e.code.iter().any(|(_, ty)| *ty != DType::F32) {
            return None;
        }
        let (mut least, mut most) = (None, None);
        let added = loop {
            at = match e.code[at.0 as usize].0 {
                Scalar::Binary(Binary::Min, x, bound) if most.is_none() => {
                    most = Some(number(e, bound)?);
                    x
                }
                Scalar::Binary(Binary::Max, x, bound) if least.is_none() => {
                    least = Some(number(e, bound)?);
                    x
                }
                Scalar::Binary(Binary::Add, a, b) => match (e.code[a.0 as usize].0, e.code[b.0 as usize].0) {
                    (Scalar::In(0), Scalar::In(i)) | (Scalar::In(i), Scalar::In(0)) if i > 0 => break Some(i as usize - 1),
                    _ => return None,
                },
                Scalar::In(0) => break None,
                _ => return None,
            }
        };
        // Zeros have two signs: the kernels keep to those of `max(x, 0)`.
        if least.is_some_and(|x| x == 0.0 && x.is_sign_negative()) || most == Some(0.0) {
            return None;
        }
        let neighbours = |o: usize| matches!(&t.operands[o].strides[..], [Stride::By(_), Stride::By(col)] if *col == Dim::int(1));
        let (least, most) = (least.unwrap_or(f32::NEG_INFINITY), most.unwrap_or(f32::INFINITY));
        (added.is_none_or(neighbours) && least <= most).then_some(Finished { add: added, least, most })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::ValueId;
    use crate::kernel::Operand;

    #[test]
    fn sums_and_bounds_are_found_and_nothing_else() {
        let x = (Scalar::In(0), DType::F32);
        let float = |v: f64| (Scalar::Const(Literal::Float(v.to_bits())), DType::F32);
        let of = |code: &[(Scalar, DType)], steps: [i64; 2]| {
            let strides = steps.map(|s| Stride::By(Dim::int(s))).to_vec();
            let expr = Expr { code: code.to_vec(), results: vec![At(code.len() as u32 - 1)] };
            let operands = vec![Operand { value: ValueId(0), strides }];
            Finished::of(&Epilogue { expr, first: None, operands, stored: vec![] })
        };
        let binary = |f, a, b| (Scalar::Binary(f, At(a), At(b)), DType::F32);
        let relu6 = [x, float(0.0), binary(Binary::Max, 0, 1), float(6.0), binary(Binary::Min, 2, 3)];
        assert_eq!(of(&relu6, [8, 1]), Some(Finished { add: None, least: 0.0, most: 6.0 }));
        let sum = [x, (Scalar::In(1), DType::F32), binary(Binary::Add, 1, 0), float(0.0), binary(Binary::Max, 2, 3)];
        assert_eq!(of(&sum, [8, 1]), Some(Finished { add: Some(0), least: 0.0, most: f32::INFINITY }));
        assert_eq!(of(&sum, [8, 2]), None, "columns are apart");
        assert_eq!(of(&[x, float(f64::NAN), binary(Binary::Max, 0, 1)], [8, 1]), None, "everything is NaN");
        let crossed = [x, float(3.0), binary(Binary::Max, 0, 1), float(2.0), binary(Binary::Min, 2, 3)];
        assert_eq!(of(&crossed, [8, 1]), None, "the order of the bounds matters");
        assert_eq!(of(&[x, float(3.0), binary(Binary::Mul, 0, 1)], [8, 1]), None);
    }
}
