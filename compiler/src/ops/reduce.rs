//! Reductions: the Reduce family, ArgMax and ArgMin.

use super::{Axes, CallArg, Facts, Infer, Lowering, Operator, Reader};
use crate::diagnostics::Diagnostic;
use crate::ir::{Dim, Fact, ValueId, product};
use kiln_kernels::dtype::DType;

/// A reduction over axes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reduce {
    /// As `kiln_kernels::reduce::reduce` names it.
    pub mode: &'static str,
    /// The axes that go, ascending.
    pub axes: Vec<usize>,
    /// Whether they stay with extent 1.
    pub keep: bool,
}

impl Operator for Reduce {
    fn infer(&self, cx: &mut Infer<'_>) -> Result<Vec<Fact>, Diagnostic> {
        let shape = (0..cx.rank(0))
            .filter_map(|i| match self.axes.contains(&i) {
                true => self.keep.then(|| Dim::int(1)),
                false => Some(cx.shape(0)[i].clone()),
            })
            .collect();
        let mut fact = Fact::tensor(cx.dtype(0), shape);
        if self.mode == "prod" && cx.rank(0) == 1 && !self.axes.is_empty() {
            fact.dims = cx.dims(0).map(|d| vec![product(d)]);
        }
        Ok(vec![fact])
    }
    fn lower(&self, cx: &Facts<'_>) -> Lowering {
        let marks = (0..cx.rank(0)).map(|i| self.axes.contains(&i) as i64).collect();
        Lowering::call("reduce::reduce", [cx.dtype(0)], 1, [cx.extents(0), CallArg::Ints(marks), CallArg::Text(self.mode)])
    }
}

/// The position of the extreme along an axis.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Arg {
    /// The axis.
    pub axis: usize,
    /// Whether it stays with extent 1.
    pub keep: bool,
    /// The largest, or the smallest.
    pub largest: bool,
    /// The last of equals, or the first.
    pub last: bool,
}

impl Operator for Arg {
    fn infer(&self, cx: &mut Infer<'_>) -> Result<Vec<Fact>, Diagnostic> {
        let mut shape = cx.shape(0).to_vec();
        if shape[self.axis].is(0) {
            return Err(Diagnostic::new("the extreme of an empty axis has no position"));
        }
        if self.keep {
            shape[self.axis] = Dim::int(1);
        } else {
            shape.remove(self.axis);
        }
        Ok(vec![Fact::tensor(DType::I64, shape)])
    }
    fn lower(&self, cx: &Facts<'_>) -> Lowering {
        let [outer, axis, inner] = around(cx.shape(0), self.axis);
        Lowering::call(
            "reduce::arg",
            [cx.dtype(0)],
            1,
            [CallArg::Dim(outer), CallArg::Dim(axis), CallArg::Dim(inner), CallArg::Bool(self.largest), CallArg::Bool(self.last)],
        )
    }
}

/// Extents before, at and after an axis.
pub fn around(shape: &[Dim], axis: usize) -> [Dim; 3] {
    [product(&shape[..axis]), shape[axis].clone(), product(&shape[axis + 1..])]
}

type Read = Result<Vec<ValueId>, Diagnostic>;

/// What `Reduce::mode` can be.
pub(super) const MODES: &[&str] = &["sum", "mean", "max", "min", "prod", "l1", "l2", "sum_square", "log_sum", "log_sum_exp"];

/// Adds a reduction; types the kernels do not compute on are widened and converted back.
pub fn emit(r: &mut Reader<'_, '_>, x: ValueId, op: Reduce) -> Result<ValueId, Diagnostic> {
    let dtype = r.dtype(x);
    let y = r.cast(x, widened(dtype))?;
    let y = if op.axes.is_empty() && matches!(op.mode, "sum" | "mean" | "max" | "min" | "prod") { y } else { r.emit(op, &[y])? };
    r.cast(y, dtype)
}

/// A reduction over axes that only run time can tell.
fn computed(r: &mut Reader<'_, '_>, x: ValueId, axes: ValueId, n: Option<i64>, mode: &str, [keep, noop]: [bool; 2]) -> Read {
    let (rank, dtype) = (r.rank(x)?, r.dtype(x));
    let wide = widened(dtype);
    let y = r.cast(x, wide)?;
    let rank = if keep { Some(rank) } else { n.map(|n| rank.saturating_sub(n as usize)) };
    let ty = super::host::rank_type(r, wide, rank);
    let ints = vec![keep as i64, noop as i64];
    let y = super::host::call_with(r, "reduce", vec![Some(y), Some(axes)], ints, vec![mode.to_string()], vec![ty])?[0];
    Ok(vec![r.cast(y, dtype)?])
}

/// The type that the kernels reduce a type in.
pub fn widened(dtype: DType) -> DType {
    match dtype {
        DType::F16 | DType::Bf16 => DType::F32,
        DType::Bool => DType::U8,
        _ => dtype,
    }
}

/// Reads the Reduce family; axes are attributes up to opset 17 (12 for ReduceSum) and operands since.
pub fn read_reduce(r: &mut Reader<'_, '_>) -> Read {
    let x = r.input(0)?;
    let rank = r.rank(x)?;
    let mode = match r.node.op_type.as_str() {
        "ReduceL1" => "l1",
        "ReduceL2" => "l2",
        "ReduceLogSum" => "log_sum",
        "ReduceLogSumExp" => "log_sum_exp",
        "ReduceMax" => "max",
        "ReduceMean" => "mean",
        "ReduceMin" => "min",
        "ReduceProd" => "prod",
        "ReduceSumSquare" => "sum_square",
        _ => "sum",
    };
    let (keep, noop) = (r.int("keepdims", 1)? != 0, r.int("noop_with_empty_axes", 0)? != 0);
    let mut axes = match r.axes_or_input(1, if mode == "sum" { 13 } else { 18 })? {
        Axes::Known(a) if !a.is_empty() => r.axes(&a, rank)?,
        Axes::Known(_) | Axes::None if noop => vec![],
        Axes::Known(_) | Axes::None => (0..rank).collect(),
        Axes::Computed(axes, n) => return computed(r, x, axes, n, mode, [keep, noop]),
    };
    axes.sort();
    Ok(vec![emit(r, x, Reduce { mode, axes, keep })?])
}

/// Reads `ArgMax` and `ArgMin`.
pub fn read_arg(r: &mut Reader<'_, '_>) -> Read {
    let x = r.input(0)?;
    let rank = r.rank(x)?;
    let axis = r.int("axis", 0)?;
    let op = Arg {
        axis: r.axis(axis, rank)?,
        keep: r.int("keepdims", 1)? != 0,
        largest: r.node.op_type == "ArgMax",
        last: r.int("select_last_index", 0)? != 0,
    };
    let dtype = r.dtype(x);
    let x = if matches!(dtype, DType::F16 | DType::Bf16) { r.cast(x, DType::F32)? } else { x };
    Ok(vec![r.emit(op, &[x])?])
}
