//! ImageDecoder.

use super::{Reader, host};
use crate::diagnostics::Diagnostic;
use crate::ir::{Dim, Type, ValueId};
use kiln_kernels::dtype::DType;

/// Reads [ImageDecoder](https://onnx.ai/onnx/operators/onnx__ImageDecoder.html), whose result has the extents that the file says.
pub fn read(r: &mut Reader<'_, '_>) -> Result<Vec<ValueId>, Diagnostic> {
    let file = r.ranked(0, 1)?;
    if r.dtype(file) != DType::U8 {
        return Err(Diagnostic::new(format!("ImageDecoder needs the bytes of a file as u8, found {}", r.dtype(file))));
    }
    let format = r.word("pixel_format", &["RGB", "BGR", "Grayscale"])?;
    let channels = Dim::int(if format == "Grayscale" { 1 } else { 3 });
    let shape = vec![r.b.fresh("height"), r.b.fresh("width"), channels];
    host::call_with(r, "image_decoder", vec![Some(file)], vec![], vec![format.into()], vec![Type::Tensor(DType::U8, shape)])
}
