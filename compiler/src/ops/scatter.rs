//! Scatter, ScatterElements and ScatterND.

use super::moved::moved;
use super::pointwise::computes;
use super::{CallArg, Facts, Infer, Lowering, Op, Operator, Reader};
use crate::diagnostics::Diagnostic;
use crate::ir::{Fact, ValueId};
use kiln_kernels::dtype::DType;

/// A copy of x with elements replaced or combined along an axis; operands x, indices, updates.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ScatterElements {
    /// The axis.
    pub axis: usize,
    /// `none`, `add`, `mul`, `max` or `min`.
    pub mode: &'static str,
}

/// A copy of x with slices replaced or combined; operands x, indices, updates.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ScatterNd {
    /// `none`, `add`, `mul`, `max` or `min`.
    pub mode: &'static str,
}

fn same(cx: &Infer<'_>) -> Result<Vec<Fact>, Diagnostic> {
    if cx.dtype(0) != cx.dtype(2) || !matches!(cx.dtype(1), DType::I32 | DType::I64) {
        return Err(Diagnostic::new(format!(
            "a scatter needs data and updates of one type and integer indices, found {}, {} and {}",
            cx.dtype(0),
            cx.dtype(2),
            cx.dtype(1)
        )));
    }
    Ok(vec![Fact::tensor(cx.dtype(0), cx.shape(0).to_vec())])
}

impl Operator for ScatterElements {
    fn infer(&self, cx: &mut Infer<'_>) -> Result<Vec<Fact>, Diagnostic> {
        if self.axis >= cx.rank(0) || cx.rank(0) != cx.rank(1) || !super::cx::agree(cx.shape(1), cx.shape(2)) {
            return Err(Diagnostic::new("indices and updates need one shape, of the rank of the data"));
        }
        same(cx)
    }
    fn lower(&self, cx: &Facts<'_>) -> Lowering {
        Lowering::call(
            "scatter::scatter_elements",
            [cx.dtype(0), cx.dtype(1)],
            3,
            [cx.extents(0), cx.extents(1), CallArg::Dim(self.axis.into()), CallArg::Text(self.mode)],
        )
    }
}

impl Operator for ScatterNd {
    fn infer(&self, cx: &mut Infer<'_>) -> Result<Vec<Fact>, Diagnostic> {
        let width = cx.shape(1).last().and_then(|d| d.as_int());
        if width.is_none_or(|w| w as usize > cx.rank(0)) {
            return Err(Diagnostic::new("the last axis of the indices must be known and address axes that the data has"));
        }
        same(cx)
    }
    fn lower(&self, cx: &Facts<'_>) -> Lowering {
        Lowering::call("scatter::scatter_nd", [cx.dtype(0), cx.dtype(1)], 3, [cx.extents(0), cx.extents(1), CallArg::Text(self.mode)])
    }
}

type Read = Result<Vec<ValueId>, Diagnostic>;

/// What the modes can be.
pub(super) const MODES: &[&str] = &["none", "add", "mul", "max", "min"];

/// What `op` makes of its operands, whose elements it moves, or combines in a wider type.
fn scattered(r: &mut Reader<'_, '_>, op: impl Into<Op>, mode: &str) -> Read {
    let (x, i, u) = (r.input(0)?, r.input(1)?, r.input(2)?);
    let dtype = r.dtype(x);
    if mode == "none" {
        return Ok(vec![moved(r, &[x, u], scatters, |r, x| r.emit(op, &[x[0], i, x[1]]))?]);
    }
    let wide = super::reduce::widened(dtype);
    let (x, u) = (r.cast(x, wide)?, r.cast(u, wide)?);
    let y = r.emit(op, &[x, i, u])?;
    Ok(vec![r.cast(y, dtype)?])
}

/// Types that the kernels take.
pub(super) fn scatters(d: DType) -> bool {
    computes(d) && !matches!(d, DType::F16 | DType::Bf16 | DType::Bool)
}

/// Reads `Scatter` and `ScatterElements`.
pub fn read_elements(r: &mut Reader<'_, '_>) -> Read {
    let x = r.input(0)?;
    let (rank, axis, mode) = (r.rank(x)?, r.int("axis", 0)?, r.word("reduction", MODES)?);
    let op = ScatterElements { axis: r.axis(axis, rank)?, mode };
    scattered(r, op, mode)
}

/// Reads `ScatterND`.
pub fn read_nd(r: &mut Reader<'_, '_>) -> Read {
    let mode = r.word("reduction", MODES)?;
    scattered(r, ScatterNd { mode }, mode)
}
