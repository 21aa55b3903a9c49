//! MaxRoiPool.

use super::{CallArg, Facts, Infer, Lowering, Operator, Reader, Real};
use crate::diagnostics::Diagnostic;
use crate::ir::{Dim, Fact, ValueId};
use kiln_kernels::dtype::DType;

/// [MaxRoiPool](https://onnx.ai/onnx/operators/onnx__MaxRoiPool.html): operands x `[N, C, H, W]` and regions `[R, 5]`, each an image and
/// two corners.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RoiPool {
    /// Height and width of the result.
    pub size: [i64; 2],
    /// From region coordinates to elements.
    pub scale: Real,
}

impl Operator for RoiPool {
    fn infer(&self, cx: &mut Infer<'_>) -> Result<Vec<Fact>, Diagnostic> {
        let (x, rois) = (cx.shape(0), cx.shape(1));
        if x.len() != 4 || rois.len() != 2 || !rois[1].is(5) || cx.dtype(0) != cx.dtype(1) {
            return Err(Diagnostic::new(format!(
                "MaxRoiPool needs images of rank 4 and regions of 5 numbers, found [{}] and [{}]",
                super::cx::list(x),
                super::cx::list(rois)
            )));
        }
        Ok(vec![Fact::tensor(cx.dtype(0), vec![rois[0].clone(), x[1].clone(), Dim::int(self.size[0]), Dim::int(self.size[1])])])
    }
    fn lower(&self, cx: &Facts<'_>) -> Lowering {
        let rest = [cx.extents(0), CallArg::Dims(cx.out_shape(0).to_vec()), CallArg::Float(self.scale.get())];
        Lowering::call("sample::max_roi_pool", [cx.dtype(0)], 2, rest)
    }
}

/// Reads `MaxRoiPool`.
pub fn read(r: &mut Reader<'_, '_>) -> Result<Vec<ValueId>, Diagnostic> {
    let (x, rois) = (r.input(0)?, r.input(1)?);
    let size = match r.ints("pooled_shape")?.as_deref() {
        Some(&[h, w]) if [h, w].iter().all(|s| (1..=1 << 20).contains(s)) => [h, w],
        other => return Err(Diagnostic::new(format!("attribute pooled_shape is {other:?}, expected two extents of 1 or more"))),
    };
    let op = RoiPool { size, scale: r.float("spatial_scale", 1.0)?.into() };
    let dtype = r.dtype(x);
    let wide = if dtype == DType::F64 { dtype } else { DType::F32 };
    let (x, rois) = (r.cast(x, wide)?, r.cast(rois, wide)?);
    let y = r.emit(op, &[x, rois])?;
    Ok(vec![r.cast(y, dtype)?])
}
