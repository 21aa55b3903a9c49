//! TopK, CumSum and CumProd.

use super::reduce::around;
use super::{Call, CallArg, Facts, Infer, Lowering, Operator, Reader};
use crate::diagnostics::Diagnostic;
use crate::ir::{Dim, Fact, Type, ValueId};
use kiln_kernels::dtype::DType;

/// The largest or smallest elements along an axis, in order, with their positions.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopK {
    /// The axis.
    pub axis: usize,
    /// How many.
    pub k: Dim,
    /// The largest, or the smallest.
    pub largest: bool,
}

impl Operator for TopK {
    fn infer(&self, cx: &mut Infer<'_>) -> Result<Vec<Fact>, Diagnostic> {
        let mut shape = cx.shape(0).to_vec();
        if let (Some(k), Some(n)) = (self.k.as_int(), shape[self.axis].as_int())
            && (k > n || k < 0)
        {
            return Err(Diagnostic::new(format!("TopK of {k} elements of an axis with {n}")));
        }
        shape[self.axis] = self.k.clone();
        Ok(vec![Fact::tensor(cx.dtype(0), shape.clone()), Fact::tensor(DType::I64, shape)])
    }
    fn lower(&self, cx: &Facts<'_>) -> Lowering {
        let [outer, axis, inner] = around(cx.shape(0), self.axis);
        Lowering::Call(Call {
            entry: "sort::top_k",
            types: vec![cx.dtype(0)],
            args: vec![
                CallArg::OptOut(0),
                CallArg::OptOut(1),
                CallArg::In(0),
                CallArg::Dim(outer),
                CallArg::Dim(axis),
                CallArg::Dim(inner),
                CallArg::Dim(self.k.clone()),
                CallArg::Bool(self.largest),
            ],
        })
    }
}

/// Running sums or products along an axis.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Running {
    /// `scan::cumsum` or `scan::cumprod`.
    pub kernel: &'static str,
    /// The axis.
    pub axis: usize,
    /// Whether an element's own value is left out.
    pub exclusive: bool,
    /// Whether to go from the end.
    pub reverse: bool,
}

impl Operator for Running {
    fn infer(&self, cx: &mut Infer<'_>) -> Result<Vec<Fact>, Diagnostic> {
        Ok(vec![Fact::tensor(cx.dtype(0), cx.shape(0).to_vec())])
    }
    fn lower(&self, cx: &Facts<'_>) -> Lowering {
        let [outer, axis, inner] = around(cx.shape(0), self.axis);
        Lowering::call(
            self.kernel,
            [cx.dtype(0)],
            1,
            [CallArg::Dim(outer), CallArg::Dim(axis), CallArg::Dim(inner), CallArg::Bool(self.exclusive), CallArg::Bool(self.reverse)],
        )
    }
}

type Read = Result<Vec<ValueId>, Diagnostic>;

/// Reads `TopK`: k is an attribute before opset 10.
pub fn read_top_k(r: &mut Reader<'_, '_>) -> Read {
    let x = r.input(0)?;
    let (rank, dtype) = (r.rank(x)?, r.dtype(x));
    let axis = r.int("axis", -1)?;
    let axis = r.axis(axis, rank)?;
    let k = if r.version < 10 {
        Dim::int(r.int_opt("k")?.ok_or_else(|| Diagnostic::new("attribute k is missing"))?)
    } else {
        let v = r.input(1)?;
        match r.dims(v) {
            Some([k]) => k.clone(),
            _ => return computed_top_k(r, x, v, axis),
        }
    };
    let op = TopK { axis, k, largest: r.int("largest", 1)? != 0 };
    let half = matches!(dtype, DType::F16 | DType::Bf16);
    let x = if half { r.cast(x, DType::F32)? } else { x };
    let mut out = r.emit_all(op, vec![Some(x)], 2)?;
    out[0] = r.cast(out[0], dtype)?;
    Ok(out)
}

/// A TopK whose k only run time can tell.
fn computed_top_k(r: &mut Reader<'_, '_>, x: ValueId, k: ValueId, axis: usize) -> Read {
    let (mut shape, dtype) = (r.shape(x)?, r.dtype(x));
    let wide = if matches!(dtype, DType::F16 | DType::Bf16) { DType::F32 } else { dtype };
    let x = r.cast(x, wide)?;
    shape[axis] = r.b.fresh("k");
    let results = vec![Type::Tensor(wide, shape.clone()), Type::Tensor(DType::I64, shape)];
    let largest = r.int("largest", 1)?;
    let mut out = super::host::call(r, "top_k", &[x, k], vec![axis as i64, largest], results)?;
    out[0] = r.cast(out[0], dtype)?;
    Ok(out)
}

/// Reads `CumSum` and `CumProd`.
pub fn read_running(r: &mut Reader<'_, '_>) -> Read {
    let (x, axis) = (r.input(0)?, r.input(1)?);
    let (shape, dtype) = (r.shape(x)?, r.dtype(x));
    let kernel = if r.node.op_type == "CumProd" { "scan::cumprod" } else { "scan::cumsum" };
    let (exclusive, reverse) = (r.int("exclusive", 0)?, r.int("reverse", 0)?);
    let wide = if matches!(dtype, DType::F16 | DType::Bf16) { DType::F32 } else { dtype };
    let x = r.cast(x, wide)?;
    let y = match r.const_ints(axis).as_deref() {
        Some([a]) => {
            let op = Running { kernel, axis: r.axis(*a, shape.len())?, exclusive: exclusive != 0, reverse: reverse != 0 };
            r.emit(op, &[x])?
        }
        _ => {
            let (ints, ty) = (vec![exclusive, reverse], Type::Tensor(wide, shape));
            super::host::call_with(r, "scan", vec![Some(x), Some(axis)], ints, vec![kernel.to_string()], vec![ty])?[0]
        }
    };
    Ok(vec![r.cast(y, dtype)?])
}
