//! RoiAlign.

use super::{CallArg, Facts, Infer, Lowering, Operator, Reader, Real};
use crate::diagnostics::Diagnostic;
use crate::ir::{Dim, Fact, ValueId};
use kiln_kernels::dtype::DType;

/// [RoiAlign](https://onnx.ai/onnx/operators/onnx__RoiAlign.html): operands x `[N, C, H, W]`, regions `[R, 4]`, image numbers `[R]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RoiAlign {
    /// Height and width of the result.
    pub size: [i64; 2],
    /// Samples along each axis of a bin; 0 for as many as its extent.
    pub ratio: i64,
    /// From region coordinates to elements.
    pub scale: Real,
    /// The maximum of the samples, or their mean.
    pub maximum: bool,
    /// Whether coordinates are shifted by half an element.
    pub half_pixel: bool,
}

impl Operator for RoiAlign {
    fn infer(&self, cx: &mut Infer<'_>) -> Result<Vec<Fact>, Diagnostic> {
        let (x, rois) = (cx.shape(0), cx.shape(1));
        let [n, four] = rois else { return Err(Diagnostic::new("RoiAlign needs regions of shape [R, 4]")) };
        if x.len() != 4 || !four.is(4) || cx.rank(2) != 1 || x[2].is(0) || x[3].is(0) || cx.dtype(0) != cx.dtype(1) {
            return Err(Diagnostic::new(format!(
                "RoiAlign needs images of rank 4 and regions of 4 numbers, found [{}] and [{}]",
                super::cx::list(x),
                super::cx::list(rois)
            )));
        }
        Ok(vec![Fact::tensor(cx.dtype(0), vec![n.clone(), x[1].clone(), Dim::int(self.size[0]), Dim::int(self.size[1])])])
    }
    fn lower(&self, cx: &Facts<'_>) -> Lowering {
        Lowering::call(
            "sample::roi_align",
            [cx.dtype(0), cx.dtype(2)],
            3,
            [
                cx.extents(0),
                CallArg::Dims(cx.out_shape(0).to_vec()),
                CallArg::Int(self.ratio),
                CallArg::Float(self.scale.get()),
                CallArg::Bool(self.maximum),
                CallArg::Bool(self.half_pixel),
            ],
        )
    }
}

/// Reads `RoiAlign`.
pub fn read(r: &mut Reader<'_, '_>) -> Result<Vec<ValueId>, Diagnostic> {
    let (x, rois, batch) = (r.input(0)?, r.input(1)?, r.input(2)?);
    let half_pixel = r.version >= 16 && r.word("coordinate_transformation_mode", &["half_pixel", "output_half_pixel"])? == "half_pixel";
    let (size, ratio) = ([r.int("output_height", 1)?, r.int("output_width", 1)?], r.int("sampling_ratio", 0)?);
    if size.iter().any(|s| !(1..=1 << 20).contains(s)) || !(0..=1 << 16).contains(&ratio) {
        return Err(Diagnostic::new(format!("RoiAlign has the output size {size:?} and sampling_ratio {ratio}")));
    }
    let maximum = r.word("mode", &["avg", "max"])? == "max";
    let op = RoiAlign { size, ratio, scale: r.float("spatial_scale", 1.0)?.into(), maximum, half_pixel };
    let dtype = r.dtype(x);
    let wide = if dtype == DType::F64 { dtype } else { DType::F32 };
    let (x, rois) = (r.cast(x, wide)?, r.cast(rois, wide)?);
    let y = r.emit(op, &[x, rois, batch])?;
    Ok(vec![r.cast(y, dtype)?])
}
