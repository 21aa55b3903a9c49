//! Operators whose result types depend on data: host functions over run-time values, whose results define symbols.

use super::{Facts, Infer, Lowering, Op, Operator, Reader};
use crate::diagnostics::Diagnostic;
use crate::ir::{Dim, Fact, Type, ValueId};
use kiln_kernels::dtype::DType;
use kiln_kernels::host::HOST;

/// A function of `kiln_kernels::host`, by name, with its attributes and the types it gives.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Host {
    /// The function.
    pub name: &'static str,
    /// Integer attributes, in the function's order.
    pub ints: Vec<i64>,
    /// Text attributes, in the function's order.
    pub text: Vec<String>,
    /// The types of the results; symbols that occur only here are defined by the step.
    pub results: Vec<Type>,
}

impl Operator for Host {
    fn infer(&self, _: &mut Infer<'_>) -> Result<Vec<Fact>, Diagnostic> {
        Ok(self.results.iter().cloned().map(Fact::from).collect())
    }
    fn lower(&self, _: &Facts<'_>) -> Lowering {
        Lowering::Host
    }
}

/// The names of all host functions.
pub(super) const NAMES: &[&str] = &{
    let mut names = [""; HOST.len()];
    let mut i = 0;
    while i < names.len() {
        names[i] = HOST[i].0;
        i += 1;
    }
    names
};

/// Beyond this rank types do not list extents; files state no more either.
pub const MAX_RANK: usize = 64;

type Read = Result<Vec<ValueId>, Diagnostic>;

/// Adds a host function without attributes.
pub fn call(r: &mut Reader<'_, '_>, name: &'static str, inputs: &[ValueId], ints: Vec<i64>, results: Vec<Type>) -> Read {
    let count = results.len();
    r.emit_all(Host { name, ints, text: vec![], results }, inputs.iter().map(|v| Some(*v)).collect(), count)
}

/// A tensor type of fresh extents.
fn fresh(r: &mut Reader<'_, '_>, dtype: DType, rank: usize, what: &str) -> Type {
    Type::Tensor(dtype, (0..rank).map(|_| r.b.fresh(what)).collect())
}

/// The elements of a list of integers, as far as they are known: those of a Concat of lists, some of which are.
fn elements(r: &Reader<'_, '_>, list: ValueId) -> Option<Vec<Option<Dim>>> {
    if let Some(d) = r.dims(list) {
        return Some(d.iter().cloned().map(Some).collect());
    }
    let n = r.shape(list).ok()?.first()?.as_int().filter(|n| (0..=MAX_RANK as i64).contains(n))? as usize;
    let made = r.b.graph.nodes.iter().rev().find(|m| m.outputs.contains(&list));
    match made {
        Some(m) if matches!(m.op, Op::Concat(_)) => {
            let parts = m.inputs.iter().map(|v| elements(r, (*v)?)).collect::<Option<Vec<_>>>()?.concat();
            (parts.len() == n).then_some(parts)
        }
        _ => Some(vec![None; n]),
    }
}

/// Adds `expand(x, shape)`, whose result has at least as many axes as the shape operand has elements.
pub fn dynamic(r: &mut Reader<'_, '_>, x: ValueId, shape: ValueId) -> Read {
    let (dtype, own) = (r.dtype(x), r.shape(x)?);
    let ty = match elements(r, shape) {
        Some(want) if want.len().max(own.len()) <= MAX_RANK => {
            let rank = want.len().max(own.len());
            let dims = (0..rank).map(|i| {
                let mine = (i + own.len()).checked_sub(rank).map(|k| own[k].clone());
                let wanted = (i + want.len()).checked_sub(rank).map(|k| want[k].clone());
                // An extent other than 1 is that of the result, wherever it stands.
                let more = |d: &Dim| d.as_int().is_some_and(|n| n != 1);
                match (mine, wanted) {
                    (Some(d), _) if more(&d) => d,
                    (_, Some(Some(w))) if more(&w) => w,
                    (Some(d), None) => d,
                    (Some(d), Some(Some(w))) if w.is(1) || d == w => d,
                    (None, Some(Some(w))) => w,
                    (Some(d), Some(Some(w))) if d.is(1) => w,
                    _ => r.b.fresh("extent"),
                }
            });
            Type::Tensor(dtype, dims.collect())
        }
        _ => Type::AnyTensor(dtype),
    };
    call(r, "expand", &[x, shape], vec![], vec![ty])
}

/// Adds `name(inputs)`, whose result has `rank` axes of unknown extent, or even an unknown rank.
pub fn of_rank(r: &mut Reader<'_, '_>, name: &'static str, inputs: &[ValueId], rank: Option<usize>) -> Read {
    let dtype = r.dtype(inputs[0]);
    let ty = rank_type(r, dtype, rank);
    call(r, name, inputs, vec![], vec![ty])
}

/// A tensor type of fresh extents, or of unknown rank.
pub fn rank_type(r: &mut Reader<'_, '_>, dtype: DType, rank: Option<usize>) -> Type {
    match rank.filter(|n| *n <= MAX_RANK) {
        Some(n) => fresh(r, dtype, n, "extent"),
        None => Type::AnyTensor(dtype),
    }
}

/// Adds a host function with operands that may be left out and with words.
pub fn call_with(
    r: &mut Reader<'_, '_>,
    name: &'static str,
    inputs: Vec<Option<ValueId>>,
    ints: Vec<i64>,
    text: Vec<String>,
    results: Vec<Type>,
) -> Read {
    let count = results.len();
    r.emit_all(Host { name, ints, text, results }, inputs, count)
}

/// Adds a Reshape to a shape computed at run time.
pub fn reshape(r: &mut Reader<'_, '_>, x: ValueId, allow_zero: bool) -> Read {
    let shape = r.input(1)?;
    let rank = r.shape(shape)?.first().and_then(Dim::as_int);
    let dtype = r.dtype(x);
    let ty = rank_type(r, dtype, rank.map(|n| n as usize));
    call(r, "reshape", &[x, shape], vec![allow_zero as i64], vec![ty])
}

/// Adds a Slice by bounds computed at run time.
pub fn slice(r: &mut Reader<'_, '_>, x: ValueId) -> Read {
    let (shape, dtype) = (r.shape(x)?, r.dtype(x));
    let mut inputs = r.inputs.clone();
    inputs.resize(5, None);
    // Axes that are not sliced keep their extent.
    let axes = match r.opt(3) {
        Some(v) => match r.const_ints(v) {
            Some(a) => Some(r.axes(&a, shape.len())?),
            None => None,
        },
        None => {
            let n = r.shape(r.input(1)?)?.first().and_then(Dim::as_int);
            n.map(|n| (0..n as usize).collect())
        }
    };
    let out = (0..shape.len())
        .map(|i| if axes.as_ref().is_some_and(|a| !a.contains(&i)) { shape[i].clone() } else { r.b.fresh("slice") })
        .collect();
    r.emit_all(Host { name: "slice", ints: vec![], text: vec![], results: vec![Type::Tensor(dtype, out)] }, inputs, 1)
}

/// Adds a Range, of `n` elements where that is known.
pub fn range(r: &mut Reader<'_, '_>, inputs: [ValueId; 3], dtype: DType, n: Option<Dim>) -> Read {
    let n = n.unwrap_or_else(|| r.b.fresh("range"));
    call(r, "range", &inputs, vec![], vec![Type::Tensor(dtype, vec![n])])
}

/// The indices of what is not zero, `[rank, n]`.
pub fn nonzero(r: &mut Reader<'_, '_>, x: ValueId) -> Result<ValueId, Diagnostic> {
    let (rank, n) = (r.rank(x)?, r.b.fresh("nonzero"));
    Ok(call(r, "nonzero", &[x], vec![], vec![Type::Tensor(DType::I64, vec![rank.into(), n])])?[0])
}

/// Reads `NonZero`.
pub fn read_nonzero(r: &mut Reader<'_, '_>) -> Read {
    let x = r.input(0)?;
    Ok(vec![nonzero(r, x)?])
}

/// Reads [Unique](https://onnx.ai/onnx/operators/onnx__Unique.html).
pub fn read_unique(r: &mut Reader<'_, '_>) -> Read {
    let (x, sorted, axis) = (r.input(0)?, r.int("sorted", 1)? != 0, r.int_opt("axis")?);
    unique(r, x, sorted, axis)
}

/// The four results of Unique.
pub(super) fn unique(r: &mut Reader<'_, '_>, x: ValueId, sorted: bool, axis: Option<i64>) -> Read {
    let (mut shape, dtype) = (r.shape(x)?, r.dtype(x));
    let n = r.b.fresh("unique");
    let mut ints = vec![sorted as i64];
    let all = match axis {
        Some(a) => {
            let a = r.axis(a, shape.len())?;
            ints.push(a as i64);
            std::mem::replace(&mut shape[a], n.clone())
        }
        None => {
            let all = crate::ir::product(&shape);
            shape = vec![n.clone()];
            all
        }
    };
    let list = |n: Dim| Type::Tensor(DType::I64, vec![n]);
    call(r, "unique", &[x], ints, vec![Type::Tensor(dtype, shape), list(n.clone()), list(all), list(n)])
}

/// Reads `Compress`.
pub fn read_compress(r: &mut Reader<'_, '_>) -> Read {
    let (x, c) = (r.input(0)?, r.input(1)?);
    let (mut shape, dtype) = (r.shape(x)?, r.dtype(x));
    let n = r.b.fresh("compress");
    let ints = match r.int_opt("axis")? {
        Some(a) => {
            let a = r.axis(a, shape.len())?;
            shape[a] = n;
            vec![a as i64]
        }
        None => {
            shape = vec![n];
            vec![]
        }
    };
    call(r, "compress", &[x, c], ints, vec![Type::Tensor(dtype, shape)])
}
