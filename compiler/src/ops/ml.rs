//! Operators of ai.onnx.ml on tables: LabelEncoder, Binarizer and ArrayFeatureExtractor.

use super::gather::{Gather, gathered};
use super::{Reader, host};
use crate::diagnostics::Diagnostic;
use crate::ir::{Dim, Type, ValueId};
use crate::onnx::Attribute;
use kiln_kernels::value::Tensor;

type Read = Result<Vec<ValueId>, Diagnostic>;

/// The list that one of the attributes `name_tensor`, `name_strings`, `name_int64s` and `name_floats` holds.
fn listed(r: &Reader<'_, '_>, name: &str) -> Result<Tensor, Diagnostic> {
    if let Some(Attribute::Tensor(t)) = r.node.attribute(&format!("{name}_tensor")) {
        return Ok(Tensor { dims: vec![t.len()], ..t.clone() });
    }
    if let Some(s) = r.strs(&format!("{name}_strings"))? {
        return Ok(Tensor::strings(&[s.len()], s));
    }
    if let Some(v) = r.ints(&format!("{name}_int64s"))? {
        return Ok(Tensor::new(&[v.len()], &v));
    }
    match r.floats(&format!("{name}_floats"))? {
        Some(v) => Ok(Tensor::new(&[v.len()], &v)),
        None => Err(Diagnostic::new(format!("LabelEncoder has no {name}"))),
    }
}

/// Reads [LabelEncoder](https://onnx.ai/onnx/operators/onnx_aionnxml_LabelEncoder.html): each element looked up in a table.
pub fn read_label_encoder(r: &mut Reader<'_, '_>) -> Read {
    let x = r.input(0)?;
    let shape = r.shape(x)?;
    let (keys, values) = (listed(r, "keys")?, listed(r, "values")?);
    if keys.len() != values.len() || keys.dtype != r.dtype(x) {
        return Err(Diagnostic::new(format!(
            "LabelEncoder has {} keys of {} and {} values for elements of {}",
            keys.len(),
            keys.dtype,
            values.len(),
            r.dtype(x)
        )));
    }
    use kiln_kernels::dtype::DType;
    let default = match (r.node.attribute("default_tensor"), values.dtype) {
        (Some(Attribute::Tensor(t)), d) if t.dtype == d && t.len() == 1 => t.clone(),
        (_, DType::Str) => Tensor::strings(&[1], vec![r.str("default_string", "_Unused")?]),
        (_, DType::I64) => Tensor::new(&[1], &[r.int("default_int64", -1)?]),
        (_, DType::F32) => Tensor::new(&[1], &[r.float("default_float", -0.0)?]),
        (_, d) => Tensor::zeros(d, &[1]),
    };
    let ty = Type::Tensor(values.dtype, shape);
    let inputs = [x, r.tensor(keys), r.tensor(values), r.tensor(default)];
    host::call(r, "label_encoder", &inputs, vec![], vec![ty])
}

/// Reads [Binarizer](https://onnx.ai/onnx/operators/onnx_aionnxml_Binarizer.html): 1 above the threshold, else 0.
pub fn read_binarizer(r: &mut Reader<'_, '_>) -> Read {
    let x = r.input(0)?;
    let threshold = r.float("threshold", 0.0)?;
    let threshold = r.scalar(threshold as f64, r.dtype(x));
    let above = r.pointwise("Greater", &[x, threshold])?;
    Ok(vec![r.cast(above, r.dtype(x))?])
}

/// Reads [ArrayFeatureExtractor](https://onnx.ai/onnx/operators/onnx_aionnxml_ArrayFeatureExtractor.html): columns picked.
pub fn read_feature_extractor(r: &mut Reader<'_, '_>) -> Read {
    let (x, index) = (r.input(0)?, r.input(1)?);
    let (mut x, shape) = (x, r.shape(x)?);
    if shape.len() == 1 {
        x = r.reshape(x, vec![Dim::int(1), shape[0].clone()])?;
    }
    let count = crate::ir::product(&r.shape(index)?);
    let index = r.reshape(index, vec![count])?;
    let axis = r.rank(x)?.checked_sub(1).ok_or_else(|| Diagnostic::new("ArrayFeatureExtractor needs rows, found a scalar"))?;
    Ok(vec![gathered(r, Gather { axis }, x, index)?])
}
