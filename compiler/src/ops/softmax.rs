//! Softmax, LogSoftmax and Hardmax.

use super::reduce::around;
use super::{CallArg, Facts, Infer, Lowering, Operator, Reader};
use crate::diagnostics::Diagnostic;
use crate::ir::{Fact, ValueId, product};
use kiln_kernels::dtype::DType;

/// A softmax along one axis.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Softmax {
    /// The axis.
    pub axis: usize,
    /// `softmax`, `log_softmax` or `hardmax`; `softmax_f16` and `softmax_bf16` round every step to the type.
    pub mode: &'static str,
}

impl Operator for Softmax {
    fn infer(&self, cx: &mut Infer<'_>) -> Result<Vec<Fact>, Diagnostic> {
        Ok(vec![Fact::tensor(cx.dtype(0), cx.shape(0).to_vec())])
    }
    fn lower(&self, cx: &Facts<'_>) -> Lowering {
        let [outer, axis, inner] = around(cx.shape(0), self.axis);
        Lowering::call(
            "rows::softmax",
            [cx.dtype(0)],
            1,
            [CallArg::Dim(outer), CallArg::Dim(axis), CallArg::Dim(inner), CallArg::Text(self.mode)],
        )
    }
}

/// The mode of a softmax of tensors of that type.
pub fn softmax_of(dtype: DType) -> &'static str {
    match dtype {
        DType::F16 => "softmax_f16",
        DType::Bf16 => "softmax_bf16",
        _ => "softmax",
    }
}

/// Reads the three; before opset 13 the tensor is flattened to a matrix at the axis.
pub fn read(r: &mut Reader<'_, '_>) -> Result<Vec<ValueId>, Diagnostic> {
    let x = r.input(0)?;
    let (shape, dtype) = (r.shape(x)?, r.dtype(x));
    let mode = match r.node.op_type.as_str() {
        "LogSoftmax" => "log_softmax",
        "Hardmax" => "hardmax",
        _ => softmax_of(dtype),
    };
    let half = matches!(dtype, DType::F16 | DType::Bf16);
    let mut y = if half { r.cast(x, DType::F32)? } else { x };
    if r.version >= 13 {
        let axis = r.int("axis", -1)?;
        let axis = r.axis(axis, shape.len())?;
        y = r.emit(Softmax { axis, mode }, &[y])?;
    } else {
        let axis = r.int("axis", 1)?;
        let axis = if axis == shape.len() as i64 { shape.len() } else { r.axis(axis, shape.len())? };
        if axis + 1 == shape.len() {
            y = r.emit(Softmax { axis, mode }, &[y])?;
        } else {
            y = r.reshape(y, vec![product(&shape[..axis]), product(&shape[axis..])])?;
            y = r.emit(Softmax { axis: 1, mode }, &[y])?;
            y = r.reshape(y, shape)?;
        }
    }
    Ok(vec![r.cast(y, dtype)?])
}
