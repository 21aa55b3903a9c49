//! Gather, GatherElements, GatherND and OneHot.

use super::moved::{has_bytes, moved};
use super::reduce::around;
use super::{Call, CallArg, Facts, Infer, Lowering, Op, Operator, Reader};
use crate::diagnostics::Diagnostic;
use crate::ir::{Dim, Fact, Type, ValueId, product};
use kiln_kernels::dtype::DType;
use kiln_kernels::value::Tensor;

/// Slices of x picked by an index tensor along an axis.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Gather {
    /// The axis.
    pub axis: usize,
}

impl Operator for Gather {
    fn infer(&self, cx: &mut Infer<'_>) -> Result<Vec<Fact>, Diagnostic> {
        check_index(cx, 1)?;
        let x = cx.shape(0);
        if self.axis >= x.len() {
            return Err(Diagnostic::new(format!("Gather along axis {} needs more axes than [{}] has", self.axis, super::cx::list(x))));
        }
        let mut shape = x[..self.axis].to_vec();
        shape.extend_from_slice(cx.shape(1));
        shape.extend_from_slice(&x[self.axis + 1..]);
        let mut fact = Fact::tensor(cx.dtype(0), shape);
        if let (Some(dims), Some(at), 1, 0..=1) = (cx.dims(0), cx.ints(1), x.len(), cx.rank(1)) {
            let n = dims.len() as i64;
            fact.dims = at.iter().map(|&i| dims.get(usize::try_from(if i < 0 { i + n } else { i }).ok()?).cloned()).collect();
        }
        if let (Some(n), Some(at)) = (x[self.axis].as_int(), cx.ints(1))
            && let Some(i) = at.iter().find(|i| **i >= n || **i < -n)
        {
            return Err(Diagnostic::new(format!("index {i} is outside [-{n}, {}] of axis {}", n - 1, self.axis)));
        }
        Ok(vec![fact])
    }
    fn lower(&self, cx: &Facts<'_>) -> Lowering {
        Lowering::call("gather::gather", [cx.dtype(0), cx.dtype(1)], 2, around(cx.shape(0), self.axis).map(CallArg::Dim))
    }
}

/// Sums of rows of two tables, picked by an index tensor each, and perhaps a third summand of the result's shape: the embeddings of a
/// language model, `a[i] + b[j] + c`. Operands a `[A, D]`, i `[..]`, b `[B, D]`, j `[..]`, optional c `[.., D]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lookup;

impl Operator for Lookup {
    fn infer(&self, cx: &mut Infer<'_>) -> Result<Vec<Fact>, Diagnostic> {
        check_index(cx, 1)?;
        check_index(cx, 3)?;
        let (a, b, i) = (cx.shape(0), cx.shape(2), cx.shape(1));
        let mut shape = i.to_vec();
        shape.extend(a.last().cloned());
        let tables = a.len() == 2 && b.len() == 2 && a[1] == b[1] && cx.dtype(0) == cx.dtype(2);
        if !tables || cx.ty(1) != cx.ty(3) || (cx.has(4) && (cx.shape(4) != shape || cx.dtype(4) != cx.dtype(0))) {
            return Err(Diagnostic::new("a lookup needs two tables of one width, indices of one shape, and a summand of the result's"));
        }
        Ok(vec![Fact::tensor(cx.dtype(0), shape)])
    }
    fn lower(&self, cx: &Facts<'_>) -> Lowering {
        let (a, b) = (cx.shape(0), cx.shape(2));
        let mut args = vec![CallArg::Out(0)];
        args.extend((0..4).map(CallArg::In));
        args.push(CallArg::OptIn(4));
        args.extend([&a[0], &b[0], &a[1]].map(|d| CallArg::Dim(d.clone())));
        Lowering::Call(Call { entry: "gather::lookup", types: vec![cx.dtype(0), cx.dtype(1)], args })
    }
}

fn check_index(cx: &Infer<'_>, i: usize) -> Result<(), Diagnostic> {
    match cx.dtype(i) {
        DType::I32 | DType::I64 => Ok(()),
        other => Err(Diagnostic::new(format!("indices must be i32 or i64, found {other}"))),
    }
}

/// Elements of x picked along an axis by an index tensor of x's rank.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GatherElements {
    /// The axis.
    pub axis: usize,
}

impl Operator for GatherElements {
    fn infer(&self, cx: &mut Infer<'_>) -> Result<Vec<Fact>, Diagnostic> {
        check_index(cx, 1)?;
        if cx.rank(0) != cx.rank(1) {
            return Err(Diagnostic::new(format!("the indices have rank {}, the tensor {}", cx.rank(1), cx.rank(0))));
        }
        let beyond = |i: usize| matches!((cx.shape(1)[i].as_int(), cx.shape(0)[i].as_int()), (Some(a), Some(b)) if a > b);
        if self.axis >= cx.rank(0) || (0..cx.rank(0)).any(|i| i != self.axis && beyond(i)) {
            return Err(Diagnostic::new(format!(
                "indices of shape [{}] address more than [{}] holds beside axis {}",
                super::cx::list(cx.shape(1)),
                super::cx::list(cx.shape(0)),
                self.axis
            )));
        }
        Ok(vec![Fact::tensor(cx.dtype(0), cx.shape(1).to_vec())])
    }
    fn lower(&self, cx: &Facts<'_>) -> Lowering {
        Lowering::call(
            "gather::gather_elements",
            [cx.dtype(0), cx.dtype(1)],
            2,
            [cx.extents(0), cx.extents(1), CallArg::Dim(self.axis.into())],
        )
    }
}

/// Slices of x addressed by the last axis of the indices.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GatherNd {
    /// How many leading axes x and the indices share.
    pub batch: usize,
}

impl Operator for GatherNd {
    fn infer(&self, cx: &mut Infer<'_>) -> Result<Vec<Fact>, Diagnostic> {
        check_index(cx, 1)?;
        let (x, i) = (cx.shape(0), cx.shape(1));
        let width = i.last().and_then(Dim::as_int).ok_or_else(|| Diagnostic::new("the last axis of the indices must be known"))?;
        if i.len() <= self.batch || x.len() < self.batch + width as usize {
            return Err(Diagnostic::new(format!("indices of width {width} address more axes than rank {} has", x.len())));
        }
        let mut shape = i[..i.len() - 1].to_vec();
        shape.extend_from_slice(&x[self.batch + width as usize..]);
        Ok(vec![Fact::tensor(cx.dtype(0), shape)])
    }
    fn lower(&self, cx: &Facts<'_>) -> Lowering {
        Lowering::call("gather::gather_nd", [cx.dtype(0), cx.dtype(1)], 2, [cx.extents(0), cx.extents(1), CallArg::Dim(self.batch.into())])
    }
}

/// One of two values along a new axis; operands indices and values `[off, on]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OneHot {
    /// The new axis.
    pub axis: usize,
    /// Its extent.
    pub depth: i64,
}

impl Operator for OneHot {
    fn infer(&self, cx: &mut Infer<'_>) -> Result<Vec<Fact>, Diagnostic> {
        let mut shape = cx.shape(0).to_vec();
        shape.insert(self.axis, Dim::int(self.depth));
        Ok(vec![Fact::tensor(cx.dtype(1), shape)])
    }
    fn lower(&self, cx: &Facts<'_>) -> Lowering {
        let i = cx.shape(0);
        Lowering::call(
            "copy::one_hot",
            [cx.dtype(1), cx.dtype(0)],
            2,
            [CallArg::Dim(product(&i[..self.axis])), CallArg::Dim(Dim::int(self.depth)), CallArg::Dim(product(&i[self.axis..]))],
        )
    }
}

type Read = Result<Vec<ValueId>, Diagnostic>;

/// Indices as i32 or i64.
fn index(r: &mut Reader<'_, '_>, i: usize) -> Result<ValueId, Diagnostic> {
    let v = r.input(i)?;
    match r.dtype(v) {
        DType::I32 | DType::I64 => Ok(v),
        _ => r.cast(v, DType::I64),
    }
}

/// Adds a primitive of this file that picks from `x` by the indices `i`.
pub fn gathered(r: &mut Reader<'_, '_>, op: impl Into<Op>, x: ValueId, i: ValueId) -> Result<ValueId, Diagnostic> {
    moved(r, &[x], has_bytes, |r, x| r.emit(op, &[x[0], i]))
}

/// Reads `Gather`.
pub fn read_gather(r: &mut Reader<'_, '_>) -> Read {
    let (x, i) = (r.input(0)?, index(r, 1)?);
    let rank = r.rank(x)?;
    let axis = r.int("axis", 0)?;
    let axis = r.axis(axis, rank)?;
    Ok(vec![gathered(r, Gather { axis }, x, i)?])
}

/// Reads `GatherElements`.
pub fn read_elements(r: &mut Reader<'_, '_>) -> Read {
    let (x, i) = (r.input(0)?, index(r, 1)?);
    let rank = r.rank(x)?;
    let axis = r.int("axis", 0)?;
    let axis = r.axis(axis, rank)?;
    Ok(vec![gathered(r, GatherElements { axis }, x, i)?])
}

/// Reads `GatherND`.
pub fn read_nd(r: &mut Reader<'_, '_>) -> Read {
    let (x, i) = (r.input(0)?, index(r, 1)?);
    let batch = usize::try_from(r.int("batch_dims", 0)?).map_err(|_| Diagnostic::new("batch_dims is negative"))?;
    Ok(vec![gathered(r, GatherNd { batch }, x, i)?])
}

/// Reads [ReverseSequence](https://onnx.ai/onnx/operators/onnx__ReverseSequence.html): the first elements of each sequence in reverse.
pub fn read_reverse(r: &mut Reader<'_, '_>) -> Read {
    let (x, lengths) = (r.input(0)?, r.input(1)?);
    let shape = r.shape(x)?;
    let (batch, time) = (r.int("batch_axis", 1)?, r.int("time_axis", 0)?);
    let (batch, time) = (r.axis(batch, shape.len())?, r.axis(time, shape.len())?);
    let along = |at: usize| -> Vec<Dim> { (0..shape.len()).map(|i| if i == at { shape[i].clone() } else { Dim::int(1) }).collect() };
    let steps = r.iota(shape[time].clone())?;
    let steps = r.reshape(steps, along(time))?;
    let lengths = r.cast(lengths, DType::I64)?;
    let lengths = r.reshape(lengths, along(batch))?;
    let last = r.plus(lengths, -1.0)?;
    let mirrored = r.sub(last, steps)?;
    let inside = r.pointwise("Less", &[steps, lengths])?;
    let index = r.pointwise("Where", &[inside, mirrored, steps])?;
    let index = r.expand(index, shape)?;
    Ok(vec![gathered(r, GatherElements { axis: time }, x, index)?])
}

/// Reads `OneHot`.
pub fn read_one_hot(r: &mut Reader<'_, '_>) -> Read {
    let (mut i, depth, values) = (r.input(0)?, r.input(1)?, r.input(2)?);
    let mut shape = r.shape(i)?;
    let axis = r.int("axis", -1)?;
    let axis = r.axis(axis, shape.len() + 1)?;
    i = r.cast(i, DType::I64)?;
    if r.version < 11 {
        // An index below 0 is none then, as one beyond the depth is.
        let (zero, none) = (r.scalar(0.0, DType::I64), r.tensor(Tensor::scalar(i64::MAX)));
        let below = r.pointwise("Less", &[i, zero])?;
        i = r.pointwise("Where", &[below, none, i])?;
    }
    let Some(depth) = r.constant(depth).and_then(|t| t.to_f64s()).and_then(|v| v.first().copied()) else {
        shape.insert(axis, r.b.fresh("depth"));
        let ty = Type::Tensor(r.dtype(values), shape);
        return super::host::call(r, "one_hot", &[i, depth, values], vec![axis as i64], vec![ty]);
    };
    if depth < 0.0 || depth > i32::MAX as f64 {
        return Err(Diagnostic::new(format!("the depth of OneHot is {depth}")));
    }
    let op = OneHot { axis, depth: depth as i64 };
    Ok(vec![moved(r, &[values], has_bytes, |r, values| r.emit(op, &[i, values[0]]))?])
}
