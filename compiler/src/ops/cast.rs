//! Cast and CastLike.

use super::Reader;
use super::narrow::{is_narrow, narrow, widen};
use super::pointwise::{Pointwise, computes};
use crate::diagnostics::{Diagnostic, shown};
use crate::ir::ValueId;
use kiln_kernels::dtype::DType;

type Read = Result<Vec<ValueId>, Diagnostic>;

/// Reads `Cast`, whose type is a word before opset 6; string conversions are host functions.
pub fn read(r: &mut Reader<'_, '_>) -> Read {
    let x = r.input(0)?;
    let to = if r.version < 6 {
        let word = r.str("to", "")?;
        Some(named(&word).ok_or_else(|| Diagnostic::new(format!("attribute to is \"{}\", which is no element type", shown(&word))))?)
    } else {
        r.dtype_attr("to")?
    };
    cast(r, x, to.ok_or_else(|| Diagnostic::new("attribute to is missing"))?)
}

/// The element type that `TensorProto.DataType` of that time calls by this name.
fn named(word: &str) -> Option<DType> {
    Some(match word.to_uppercase().as_str() {
        "FLOAT" => DType::F32,
        "UINT8" => DType::U8,
        "INT8" => DType::I8,
        "UINT16" => DType::U16,
        "INT16" => DType::I16,
        "INT32" => DType::I32,
        "INT64" => DType::I64,
        "STRING" => DType::Str,
        "BOOL" => DType::Bool,
        "FLOAT16" => DType::F16,
        "DOUBLE" => DType::F64,
        "UINT32" => DType::U32,
        "UINT64" => DType::U64,
        _ => return None,
    })
}

/// Reads `CastLike`.
pub fn read_like(r: &mut Reader<'_, '_>) -> Read {
    let (x, like) = (r.input(0)?, r.input(1)?);
    let to = r.dtype(like);
    cast(r, x, to)
}

fn cast(r: &mut Reader<'_, '_>, x: ValueId, to: DType) -> Read {
    let from = r.dtype(x);
    if from == to {
        return Ok(vec![x]);
    }
    if from == DType::Str || to == DType::Str {
        return super::strings::cast(r, x, to);
    }
    let saturate = r.int("saturate", 1)? != 0;
    let round = r.word("round_mode", &["up", "down", "nearest"])?;
    if is_narrow(to) && (computes(from) || is_narrow(from)) {
        return Ok(vec![narrow(r, x, to, saturate, round)?]);
    }
    let x = widen(r, x)?;
    let from = r.dtype(x);
    if !computes(from) || !computes(to) {
        return Err(Diagnostic::new(format!("Cast from {from} to {to} is not supported yet")));
    }
    if from == to {
        return Ok(vec![x]);
    }
    Ok(vec![r.emit(Pointwise::cast(from, to), &[x])?])
}
