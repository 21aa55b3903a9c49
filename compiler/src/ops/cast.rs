//! Cast and CastLike.

use super::Reader;
use super::narrow::{is_narrow, narrow, widen};
use super::pointwise::{Pointwise, computes};
use crate::diagnostics::Diagnostic;
use crate::ir::ValueId;
use kiln_kernels::dtype::DType;

type Read = Result<Vec<ValueId>, Diagnostic>;

/// Reads `Cast`; string conversions are host functions.
pub fn read(r: &mut Reader<'_, '_>) -> Read {
    let x = r.input(0)?;
    let to = r.dtype_attr("to")?.ok_or_else(|| Diagnostic::new("attribute to is missing"))?;
    cast(r, x, to)
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
