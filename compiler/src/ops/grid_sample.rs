//! GridSample.

use super::moved::{One, at, by_parts};
use super::{CallArg, Facts, Infer, Lowering, Operator, Reader};
use crate::diagnostics::Diagnostic;
use crate::ir::{Fact, ValueId, product};
use kiln_kernels::dtype::DType;
use kiln_kernels::value::Tensor;

/// [GridSample](https://onnx.ai/onnx/operators/onnx__GridSample.html): operands x `[N, C, ..]` and grid `[N, .., axes]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GridSample {
    /// `nearest`, `linear` or `cubic`.
    pub mode: &'static str,
    /// `zeros`, `border` or `reflection`.
    pub padding: &'static str,
    /// Whether -1 and 1 are the centers of the outer elements, or their edges.
    pub align: bool,
}

impl Operator for GridSample {
    fn infer(&self, cx: &mut Infer<'_>) -> Result<Vec<Fact>, Diagnostic> {
        let (x, grid) = (cx.shape(0), cx.shape(1));
        if x.len() < 3 || grid.len() != x.len() || !grid[x.len() - 1].is(x.len() as i64 - 2) || cx.dtype(0) != cx.dtype(1) {
            return Err(Diagnostic::new(format!(
                "GridSample needs an image and a grid of its rank with a coordinate for each axis, found [{}] and [{}]",
                super::cx::list(x),
                super::cx::list(grid)
            )));
        }
        if x[2..].iter().any(|d| d.is(0)) {
            return Err(Diagnostic::new("GridSample of an empty image has no value"));
        }
        Ok(vec![Fact::tensor(cx.dtype(0), [&x[..2], &grid[1..x.len() - 1]].concat())])
    }
    fn lower(&self, cx: &Facts<'_>) -> Lowering {
        Lowering::call(
            "sample::grid_sample",
            [cx.dtype(0)],
            2,
            [
                cx.extents(0),
                CallArg::Dims(cx.out_shape(0).to_vec()),
                CallArg::Text(self.mode),
                CallArg::Text(self.padding),
                CallArg::Bool(self.align),
            ],
        )
    }
}

/// Reads `GridSample`; `bilinear` and `bicubic` are the words before opset 20.
pub fn read(r: &mut Reader<'_, '_>) -> Result<Vec<ValueId>, Diagnostic> {
    let (x, grid) = (r.input(0)?, r.input(1)?);
    let mode = match r.word("mode", &["linear", "nearest", "cubic", "bilinear", "bicubic"])? {
        "bilinear" => "linear",
        "bicubic" => "cubic",
        m => m,
    };
    let op =
        GridSample { mode, padding: r.word("padding_mode", &["zeros", "border", "reflection"])?, align: r.int("align_corners", 0)? != 0 };
    if r.dtype(x) == DType::Str && op.mode == "nearest" {
        return Ok(vec![strings(r, op, x, grid)?]);
    }
    let y = by_parts(r, x, |r, x| {
        let dtype = r.dtype(x);
        let wide = if dtype == DType::F64 { dtype } else { DType::F32 };
        let (x, grid) = (r.cast(x, wide)?, r.cast(grid, wide)?);
        let y = r.emit(op.clone(), &[x, grid])?;
        r.cast(y, dtype)
    })?;
    Ok(vec![y])
}

/// Strings are picked by their positions; position 0 is an empty one, for what lies outside.
fn strings(r: &mut Reader<'_, '_>, op: GridSample, x: ValueId, grid: ValueId) -> One {
    let shape = r.shape(x)?;
    let n = product(&shape);
    let (flat, outside) = (r.reshape(x, vec![n.clone()])?, r.tensor(Tensor::strings(&[1], vec![String::new()])));
    let all = r.concat(&[outside, flat], 0)?;
    let places = r.iota(n)?;
    let places = r.plus(places, 1.0)?;
    let places = r.reshape(places, shape)?;
    let (places, grid) = (r.cast(places, DType::F64)?, r.cast(grid, DType::F64)?);
    let places = r.emit(op, &[places, grid])?;
    let places = r.cast(places, DType::I64)?;
    at(r, all, places)
}
