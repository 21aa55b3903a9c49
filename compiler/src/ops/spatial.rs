//! Host functions on images, whose sizes may be operands: AffineGrid, Col2Im, CenterCropPad and MaxUnpool; and NonMaxSuppression.

use super::moved::by_parts;
use super::{Reader, conv::Window, host};
use crate::diagnostics::Diagnostic;
use crate::ir::{Dim, Type, ValueId};
use kiln_kernels::dtype::DType;

type Read = Result<Vec<ValueId>, Diagnostic>;

/// The extents that a shape operand lists, as far as they are known; `None` for another number of them than `count`.
fn listed(r: &mut Reader<'_, '_>, shape: ValueId, what: &str) -> Result<Vec<Dim>, Diagnostic> {
    if let Some(d) = r.dims(shape) {
        return Ok(d.to_vec());
    }
    let count = r.shape(shape)?.first().and_then(Dim::as_int).filter(|n| *n <= host::MAX_RANK as i64);
    let count = count.ok_or_else(|| Diagnostic::new(format!("the rank of {what} is not known")))?;
    Ok((0..count).map(|_| r.b.fresh("extent")).collect())
}

/// 16-bit floats as f32, which the functions compute in; gives the type to return to.
fn widened(r: &mut Reader<'_, '_>, x: ValueId) -> Result<(ValueId, DType), Diagnostic> {
    let dtype = r.dtype(x);
    let wide = if dtype == DType::F64 { dtype } else { DType::F32 };
    Ok((r.cast(x, wide)?, dtype))
}

/// Reads [AffineGrid](https://onnx.ai/onnx/operators/onnx__AffineGrid.html).
pub fn read_affine_grid(r: &mut Reader<'_, '_>) -> Read {
    let (theta, size) = (r.ranked(0, 3)?, r.input(1)?);
    let (theta, dtype) = widened(r, theta)?;
    let mut shape = listed(r, size, "the size of AffineGrid")?;
    if shape.len() < 3 {
        return Err(Diagnostic::new(format!("AffineGrid needs a size of 4 or 5 numbers, found {}", shape.len())));
    }
    shape.remove(1);
    shape.push(Dim::int(shape.len() as i64 - 1));
    let align = r.int("align_corners", 0)?;
    let ty = Type::Tensor(r.dtype(theta), shape);
    let y = host::call(r, "affine_grid", &[theta, size], vec![align], vec![ty])?[0];
    Ok(vec![r.cast(y, dtype)?])
}

/// Reads [Col2Im](https://onnx.ai/onnx/operators/onnx__Col2Im.html).
pub fn read_col2im(r: &mut Reader<'_, '_>) -> Read {
    let (x, image, block) = (r.ranked(0, 3)?, r.input(1)?, r.input(2)?);
    let image_shape = listed(r, image, "the image of Col2Im")?;
    let axes = image_shape.len();
    let get = |name: &str, len: usize, default: i64, least: i64| -> Result<Vec<i64>, Diagnostic> {
        let v = r.ints(name)?.unwrap_or_else(|| vec![default; len]);
        if v.len() == len && v.iter().all(|x| (least..=1 << 31).contains(x)) {
            Ok(v)
        } else {
            Err(Diagnostic::new(format!("attribute {name} is {v:?}, expected {len} numbers of {least} or more")))
        }
    };
    let ints = [get("dilations", axes, 1, 1)?, get("pads", 2 * axes, 0, 0)?, get("strides", axes, 1, 1)?].concat();
    let channels = match r.const_ints(block) {
        Some(b) => r.shape(x)?[1].floor_div(&Dim::int(b.iter().product())),
        None => r.b.fresh("channels"),
    };
    let shape = [vec![r.shape(x)?[0].clone(), channels], image_shape].concat();
    let y = by_parts(r, x, |r, x| {
        let (x, dtype) = widened(r, x)?;
        let ty = Type::Tensor(r.dtype(x), shape.clone());
        let y = host::call(r, "col2im", &[x, image, block], ints.clone(), vec![ty])?[0];
        r.cast(y, dtype)
    })?;
    Ok(vec![y])
}

/// Reads [CenterCropPad](https://onnx.ai/onnx/operators/onnx__CenterCropPad.html).
pub fn read_center_crop_pad(r: &mut Reader<'_, '_>) -> Read {
    let (x, want) = (r.input(0)?, r.input(1)?);
    let mut shape = r.shape(x)?;
    let axes = match r.ints("axes")? {
        Some(a) => r.axes(&a, shape.len())?,
        None => (0..shape.len()).collect(),
    };
    let extents = listed(r, want, "the shape of CenterCropPad")?;
    if extents.len() != axes.len() {
        return Err(Diagnostic::new(format!("CenterCropPad lists {} extents for {} axes", extents.len(), axes.len())));
    }
    for (a, d) in axes.iter().zip(extents) {
        shape[*a] = d;
    }
    let ty = Type::Tensor(r.dtype(x), shape);
    host::call(r, "center_crop_pad", &[x, want], axes.iter().map(|a| *a as i64).collect(), vec![ty])
}

/// Reads [MaxUnpool](https://onnx.ai/onnx/operators/onnx__MaxUnpool.html).
pub fn read_max_unpool(r: &mut Reader<'_, '_>) -> Read {
    let (x, at) = (r.input(0)?, r.input(1)?);
    let shape = r.shape(x)?;
    if shape.len() < 3 {
        return Err(Diagnostic::new(format!("MaxUnpool needs a batch, channels and spatial axes, found [{}]", super::cx::list(&shape))));
    }
    let axes = shape.len() - 2;
    let w = Window::read(r, axes, None)?;
    let out = match r.opt(2) {
        Some(s) => listed(r, s, "the shape of MaxUnpool")?,
        None => (0..shape.len())
            .map(|i| match i.checked_sub(2) {
                None => shape[i].clone(),
                Some(k) => {
                    let n = (shape[i].clone() - Dim::int(1)) * Dim::int(w.strides[k]);
                    n + Dim::int(w.kernel[k] - w.pads[k] - w.pads[axes + k])
                }
            })
            .collect(),
    };
    let ty = Type::Tensor(r.dtype(x), out);
    let inputs = vec![Some(x), Some(at), r.opt(2)];
    host::call_with(r, "max_unpool", inputs, [w.kernel, w.pads, w.strides].concat(), vec![], vec![ty])
}

/// Reads [NonMaxSuppression](https://onnx.ai/onnx/operators/onnx__NonMaxSuppression.html).
pub fn read_suppression(r: &mut Reader<'_, '_>) -> Read {
    let mut inputs = vec![Some(r.ranked(0, 3)?), Some(r.ranked(1, 3)?)];
    inputs.extend((2..5).map(|i| r.opt(i)));
    let n = r.b.fresh("boxes");
    let ty = Type::Tensor(DType::I64, vec![n, Dim::int(3)]);
    let centered = r.int("center_point_box", 0)?;
    host::call_with(r, "non_max_suppression", inputs, vec![centered], vec![], vec![ty])
}
