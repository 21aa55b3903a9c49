//! Inverse, of `com.microsoft`.

use super::{CallArg, Facts, Infer, Lowering, Operator, Reader};
use crate::diagnostics::Diagnostic;
use crate::ir::{Dim, Fact, ValueId, product};
use kiln_kernels::dtype::DType;

/// [Inverse](https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.Inverse): the inverses of square
/// matrices in the last two axes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Inverse;

impl Operator for Inverse {
    fn infer(&self, cx: &mut Infer<'_>) -> Result<Vec<Fact>, Diagnostic> {
        match cx.shape(0) {
            [.., m, n] if m == n => Ok(vec![Fact::tensor(cx.dtype(0), cx.shape(0).to_vec())]),
            x => Err(Diagnostic::new(format!("Inverse needs square matrices, found [{}]", super::cx::list(x)))),
        }
    }
    fn lower(&self, cx: &Facts<'_>) -> Lowering {
        let x = cx.shape(0);
        let n = x[x.len() - 1].clone();
        let scratch = CallArg::Scratch(DType::F64, n.clone() * n.clone() * Dim::int(2));
        Lowering::call("linalg::inverse", [cx.dtype(0)], 1, [CallArg::Dim(product(&x[..x.len() - 2])), CallArg::Dim(n), scratch])
    }
}

/// Reads `Inverse`.
pub fn read(r: &mut Reader<'_, '_>) -> Result<Vec<ValueId>, Diagnostic> {
    let x = r.input(0)?;
    let dtype = r.dtype(x);
    let x = r.cast(x, if dtype == DType::F64 { dtype } else { DType::F32 })?;
    let y = r.emit(Inverse, &[x])?;
    Ok(vec![r.cast(y, dtype)?])
}
