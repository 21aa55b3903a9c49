//! Dropout.

use super::{Reader, random};
use crate::diagnostics::Diagnostic;
use crate::ir::ValueId;
use kiln_kernels::dtype::DType;

/// Reads [Dropout](https://onnx.ai/onnx/operators/onnx__Dropout.html), which does nothing at inference; its mask is all true. Before
/// opset 7 an attribute said whether to train, before 12 nothing did, and since then operand 2 does. The mask has the type of x before 10.
pub fn read(r: &mut Reader<'_, '_>) -> Result<Vec<ValueId>, Diagnostic> {
    let x = r.input(0)?;
    let mask = if r.version >= 10 { DType::Bool } else { r.dtype(x) };
    let (ratio, training) = match r.version {
        12.. => (r.opt(1), r.opt(2)),
        7.. => (None, None),
        _ => {
            let ratio = r.float("ratio", 0.5)? as f64;
            let on = (r.int("is_test", 0)? == 0) as u8 as f64;
            (Some(r.scalar(ratio, DType::F64)), Some(r.scalar(on, DType::Bool)))
        }
    };
    if let Some(training) = training {
        let on = match r.constant(training) {
            Some(t) => t.bytes().iter().any(|b| *b != 0),
            None => true,
        };
        let ratio_zero = ratio.and_then(|v| r.constant(v)).and_then(|t| t.to_f64s()).is_some_and(|v| v == [0.0]);
        if on && !ratio_zero {
            let mut out = random::dropout(r, x, ratio, training)?;
            out[1] = r.cast(out[1], mask)?;
            return Ok(out);
        }
    }
    let mut out = vec![x];
    if r.outputs() > 1 {
        let one = r.scalar(1.0, mask);
        let shape = r.shape(x)?;
        out.push(r.emit(super::movement::Expand { shape }, &[one])?);
    }
    Ok(out)
}
