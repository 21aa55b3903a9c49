//! Dropout.

use super::Reader;
use crate::diagnostics::Diagnostic;
use crate::ir::{Type, ValueId};
use kiln_kernels::dtype::DType;

type Read = Result<Vec<ValueId>, Diagnostic>;

/// A Dropout whose training flag is set, or known only at run time.
fn training_dropout(r: &mut Reader<'_, '_>, x: ValueId, training: ValueId) -> Read {
    let (shape, dtype, seed) = (r.shape(x)?, r.dtype(x), r.int("seed", 0)?);
    let wide = if dtype == DType::F64 { dtype } else { DType::F32 };
    let inputs = vec![Some(r.cast(x, wide)?), r.opt(1), Some(training)];
    let results = vec![Type::Tensor(wide, shape.clone()), Type::Tensor(DType::Bool, shape)];
    let mut out = super::host::call_with(r, "dropout", inputs, vec![seed], vec![], results)?;
    out[0] = r.cast(out[0], dtype)?;
    Ok(out)
}

/// Reads `Dropout`, which does nothing at inference; its mask is all true.
pub fn read(r: &mut Reader<'_, '_>) -> Read {
    let x = r.input(0)?;
    if let Some(training) = r.opt(2) {
        let on = match r.constant(training) {
            Some(t) => t.bytes().iter().any(|b| *b != 0),
            None => true,
        };
        let ratio_zero = r.opt(1).and_then(|v| r.constant(v)).and_then(|t| t.to_f64s()).is_some_and(|v| v == [0.0]);
        if on && !ratio_zero {
            return training_dropout(r, x, training);
        }
    }
    let mut out = vec![x];
    if r.outputs() > 1 {
        let mask = if r.version >= 10 { DType::Bool } else { r.dtype(x) };
        let one = r.scalar(1.0, mask);
        let shape = r.shape(x)?;
        out.push(r.emit(super::movement::Expand { shape }, &[one])?);
    }
    Ok(out)
}
