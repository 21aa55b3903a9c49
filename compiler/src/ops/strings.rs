//! Operators on strings, and conversions from and to them.

use super::{Reader, broadcast, host};
use crate::diagnostics::Diagnostic;
use crate::ir::{Dim, Type, ValueId};
use kiln_kernels::dtype::DType;

type Read = Result<Vec<ValueId>, Diagnostic>;

/// Reads `StringNormalizer`.
pub fn read_normalizer(r: &mut Reader<'_, '_>) -> Read {
    let x = r.input(0)?;
    let mut shape = r.shape(x)?;
    let action = r.word("case_change_action", &["NONE", "LOWER", "UPPER"])?;
    let sensitive = r.int("is_case_sensitive", 0)?;
    let stop = r.strs("stopwords")?.unwrap_or_default();
    match shape.last_mut() {
        Some(last) if !stop.is_empty() => *last = r.b.fresh("words"),
        Some(_) => {}
        None => return Err(Diagnostic::new("StringNormalizer needs a tensor of rank 1 or 2, found a scalar")),
    }
    let mut text = vec![action.to_string()];
    text.extend(stop);
    let op = host::Host { name: "string_normalizer", ints: vec![sensitive], text, results: vec![Type::Tensor(DType::Str, shape)] };
    r.emit_all(op, vec![Some(x)], 1)
}

fn pairwise(r: &mut Reader<'_, '_>, name: &'static str, result: DType) -> Read {
    let (a, b) = (r.input(0)?, r.input(1)?);
    let shape: Vec<Dim> = broadcast(&r.shape(a)?, &r.shape(b)?)?;
    host::call(r, name, &[a, b], vec![], vec![Type::Tensor(result, shape)])
}

/// Reads `StringConcat`.
pub fn read_concat(r: &mut Reader<'_, '_>) -> Read {
    pairwise(r, "string_concat", DType::Str)
}

/// Reads `Equal` of strings.
pub fn read_equal(r: &mut Reader<'_, '_>) -> Read {
    pairwise(r, "string_equal", DType::Bool)
}

/// Adds a conversion from or to strings.
pub fn cast(r: &mut Reader<'_, '_>, x: ValueId, to: DType) -> Read {
    let shape = r.shape(x)?;
    host::call(r, "cast", &[x], vec![to.to_onnx() as i64], vec![Type::Tensor(to, shape)])
}
