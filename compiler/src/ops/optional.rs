//! Optional, OptionalHasElement and OptionalGetElement.

use super::{Reader, host};
use crate::diagnostics::Diagnostic;
use crate::ir::{Type, ValueId};
use crate::onnx::Attribute;
use kiln_kernels::dtype::DType;

type Read = Result<Vec<ValueId>, Diagnostic>;

/// Reads [Optional](https://onnx.ai/onnx/operators/onnx__Optional.html): a value that is there, or one of a type that is not.
pub fn read(r: &mut Reader<'_, '_>) -> Read {
    let (inputs, ty) = match (r.opt(0), r.node.attribute("type")) {
        (Some(v), _) => (vec![v], r.ty(v).clone()),
        (None, Some(Attribute::Type(t))) => {
            (vec![], crate::import::value_type(t).ok_or_else(|| Diagnostic::new("attribute type is none that Kiln takes"))?)
        }
        _ => return Err(Diagnostic::new("Optional has neither an input nor a type")),
    };
    host::call(r, "optional", &inputs, vec![], vec![Type::Optional(Box::new(ty))])
}

/// Reads [OptionalHasElement](https://onnx.ai/onnx/operators/onnx__OptionalHasElement.html).
pub fn read_has(r: &mut Reader<'_, '_>) -> Read {
    match r.opt(0) {
        Some(v) if matches!(r.ty(v), Type::Optional(_)) => {
            host::call(r, "optional_has_element", &[v], vec![], vec![Type::Tensor(DType::Bool, vec![])])
        }
        there => Ok(vec![r.scalar(there.is_some() as u8 as f64, DType::Bool)]),
    }
}

/// Reads [OptionalGetElement](https://onnx.ai/onnx/operators/onnx__OptionalGetElement.html).
pub fn read_get(r: &mut Reader<'_, '_>) -> Read {
    let v = r.input(0)?;
    match r.ty(v).clone() {
        Type::Optional(t) => {
            let t = super::sequence::placed(r, &t);
            host::call(r, "optional_get_element", &[v], vec![], vec![t])
        }
        _ => Ok(vec![v]),
    }
}
