//! Conversions from and to the types that are only stored, such as 8-bit floats and packed 4-bit integers.

use super::{CallArg, Facts, Infer, Lowering, Operator, Reader};
use crate::diagnostics::Diagnostic;
use crate::ir::{Fact, ValueId};
use kiln_kernels::dtype::DType;

/// A narrow type's values as f32.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Widen;

/// f32 rounded to a narrow type.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Narrow {
    /// The type.
    pub to: DType,
    /// Whether floats that are too large become the greatest value.
    pub saturate: bool,
    /// How f8e8m0 rounds: `up`, `down` or `nearest`.
    pub round: &'static str,
}

/// Whether the type is only stored.
pub fn is_narrow(d: DType) -> bool {
    use DType::*;
    matches!(d, F8E4M3FN | F8E4M3FNUZ | F8E5M2 | F8E5M2FNUZ | F8E8M0 | F6E2M3 | F6E3M2 | F4E2M1 | U4 | I4 | U2 | I2)
}

impl Operator for Widen {
    fn infer(&self, cx: &mut Infer<'_>) -> Result<Vec<Fact>, Diagnostic> {
        if !is_narrow(cx.dtype(0)) {
            return Err(Diagnostic::new(format!("{} is no narrow type", cx.dtype(0))));
        }
        Ok(vec![Fact::tensor(DType::F32, cx.shape(0).to_vec())])
    }
    fn lower(&self, cx: &Facts<'_>) -> Lowering {
        Lowering::call("narrow::decode", [], 1, [CallArg::Text(cx.dtype(0).name())])
    }
}

impl Operator for Narrow {
    fn infer(&self, cx: &mut Infer<'_>) -> Result<Vec<Fact>, Diagnostic> {
        if cx.dtype(0) != DType::F32 || !is_narrow(self.to) {
            return Err(Diagnostic::new(format!("{} is rounded to {}, expected f32 and a narrow type", cx.dtype(0), self.to)));
        }
        Ok(vec![Fact::tensor(self.to, cx.shape(0).to_vec())])
    }
    fn lower(&self, _: &Facts<'_>) -> Lowering {
        let kind = CallArg::Text(self.to.name());
        Lowering::call("narrow::encode", [], 1, [kind, CallArg::Bool(self.saturate), CallArg::Text(self.round)])
    }
}

/// A tensor of a narrow type as f32, any other as it is.
pub fn widen(r: &mut Reader<'_, '_>, x: ValueId) -> Result<ValueId, Diagnostic> {
    if is_narrow(r.dtype(x)) { r.emit(Widen, &[x]) } else { Ok(x) }
}

/// A tensor converted to a narrow type; integers keep their low bits.
pub fn narrow(r: &mut Reader<'_, '_>, x: ValueId, to: DType, saturate: bool, round: &'static str) -> Result<ValueId, Diagnostic> {
    let mut x = widen(r, x)?;
    if to.is_int() && r.dtype(x).is_int() {
        x = r.cast(x, DType::I8)?;
    }
    let x = r.cast(x, DType::F32)?;
    r.emit(Narrow { to, saturate, round }, &[x])
}
