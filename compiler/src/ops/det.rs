//! Det.

use super::{CallArg, Facts, Infer, Lowering, Operator, Reader};
use crate::diagnostics::Diagnostic;
use crate::ir::{Fact, ValueId, product};
use kiln_kernels::dtype::DType;

/// [Det](https://onnx.ai/onnx/operators/onnx__Det.html): the determinants of square matrices in the last two axes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Det;

impl Operator for Det {
    fn infer(&self, cx: &mut Infer<'_>) -> Result<Vec<Fact>, Diagnostic> {
        let x = cx.shape(0);
        match x {
            [batch @ .., m, n] if m == n => Ok(vec![Fact::tensor(cx.dtype(0), batch.to_vec())]),
            _ => Err(Diagnostic::new(format!("Det needs square matrices, found [{}]", super::cx::list(x)))),
        }
    }
    fn lower(&self, cx: &Facts<'_>) -> Lowering {
        let x = cx.shape(0);
        Lowering::call("linalg::det", [cx.dtype(0)], 1, [CallArg::Dim(product(&x[..x.len() - 2])), CallArg::Dim(x[x.len() - 1].clone())])
    }
}

/// Reads `Det`.
pub fn read(r: &mut Reader<'_, '_>) -> Result<Vec<ValueId>, Diagnostic> {
    let x = r.input(0)?;
    let dtype = r.dtype(x);
    let x = r.cast(x, if dtype == DType::F64 { dtype } else { DType::F32 })?;
    let y = r.emit(Det, &[x])?;
    Ok(vec![r.cast(y, dtype)?])
}
