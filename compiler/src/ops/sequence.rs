//! Operators on sequences.

use super::control::Loop;
use super::{Reader, host};
use crate::diagnostics::Diagnostic;
use crate::ir::{Dim, Fact, Sym, Type, ValueId};
use crate::onnx::Graph;
use kiln_kernels::dtype::DType;
use kiln_kernels::value::Tensor;

type Read = Result<Vec<ValueId>, Diagnostic>;

fn element(r: &Reader<'_, '_>, s: ValueId) -> Result<Type, Diagnostic> {
    match r.ty(s) {
        Type::Sequence(t) => Ok((**t).clone()),
        other => Err(Diagnostic::new(format!("needs a sequence, found {other}"))),
    }
}

/// The element type that holds both: extents that differ become [`Sym::ANY`], and where ranks differ, the rank is forgotten.
pub fn join(a: &Type, b: &Type) -> Type {
    match (a, b) {
        _ if a == b => a.clone(),
        (Type::Sequence(a), Type::Sequence(b)) => Type::Sequence(Box::new(join(a, b))),
        (Type::Optional(a), Type::Optional(b)) => Type::Optional(Box::new(join(a, b))),
        (Type::Tensor(d, x), Type::Tensor(_, y)) if x.len() == y.len() => {
            Type::Tensor(*d, x.iter().zip(y).map(|(x, y)| if x == y { x.clone() } else { Dim::sym(Sym::ANY) }).collect())
        }
        _ => a.dtype().map_or_else(|| a.clone(), Type::AnyTensor),
    }
}

/// The type of a value as an element: extents that are not known on entry may differ from element to element.
pub fn stored(r: &Reader<'_, '_>, t: &Type) -> Type {
    match t {
        Type::Tensor(d, shape) => {
            let known = |x: &Dim| if r.b.graph.known_at_entry(x) { x.clone() } else { Dim::sym(Sym::ANY) };
            Type::Tensor(*d, shape.iter().map(known).collect())
        }
        other => other.clone(),
    }
}

/// The type of an element taken out: extents that may be any get symbols of their own.
pub fn placed(r: &mut Reader<'_, '_>, t: &Type) -> Type {
    match t {
        Type::Tensor(d, shape) => {
            let any = Dim::sym(Sym::ANY);
            Type::Tensor(*d, shape.iter().map(|x| if *x == any { r.b.fresh("element") } else { x.clone() }).collect())
        }
        other => other.clone(),
    }
}

/// Reads `SequenceConstruct`.
pub fn read_construct(r: &mut Reader<'_, '_>) -> Read {
    let inputs: Vec<ValueId> = (0..r.inputs.len()).map(|i| r.input(i)).collect::<Result<_, _>>()?;
    let first = r.input(0)?;
    let t = inputs.iter().fold(stored(r, r.ty(first)), |t, v| join(&t, &stored(r, r.ty(*v))));
    host::call(r, "sequence_construct", &inputs, vec![], vec![Type::Sequence(Box::new(t))])
}

/// Reads `SequenceEmpty`.
pub fn read_empty(r: &mut Reader<'_, '_>) -> Read {
    let dtype = r.dtype_attr("dtype")?.unwrap_or(DType::F32);
    host::call(r, "sequence_construct", &[], vec![], vec![Type::Sequence(Box::new(Type::AnyTensor(dtype)))])
}

fn with_position(r: &Reader<'_, '_>, mut inputs: Vec<ValueId>, i: usize) -> Vec<ValueId> {
    inputs.extend(r.opt(i));
    inputs
}

/// Reads `SequenceInsert`.
pub fn read_insert(r: &mut Reader<'_, '_>) -> Read {
    let (s, x) = (r.input(0)?, r.input(1)?);
    let t = join(&element(r, s)?, &stored(r, r.ty(x)));
    let inputs = with_position(r, vec![s, x], 2);
    host::call(r, "sequence_insert", &inputs, vec![], vec![Type::Sequence(Box::new(t))])
}

/// Reads `SequenceErase`.
pub fn read_erase(r: &mut Reader<'_, '_>) -> Read {
    let s = r.input(0)?;
    let ty = r.ty(s).clone();
    element(r, s)?;
    let inputs = with_position(r, vec![s], 1);
    host::call(r, "sequence_erase", &inputs, vec![], vec![ty])
}

/// Reads `SequenceAt`.
pub fn read_at(r: &mut Reader<'_, '_>) -> Read {
    let (s, i) = (r.input(0)?, r.input(1)?);
    let t = element(r, s)?;
    let t = placed(r, &t);
    host::call(r, "sequence_at", &[s, i], vec![], vec![t])
}

/// Reads `SequenceLength`.
pub fn read_length(r: &mut Reader<'_, '_>) -> Read {
    let s = r.input(0)?;
    element(r, s)?;
    host::call(r, "sequence_length", &[s], vec![], vec![Type::Tensor(DType::I64, vec![])])
}

/// Reads `ConcatFromSequence`.
pub fn read_concat(r: &mut Reader<'_, '_>) -> Read {
    let s = r.input(0)?;
    let t = element(r, s)?;
    let t = placed(r, &t);
    let axis = r.int("axis", 0)?;
    let new = r.int("new_axis", 0)?;
    let dtype = t.dtype().ok_or_else(|| Diagnostic::new("ConcatFromSequence needs tensors"))?;
    let ty = match t.shape() {
        Some(shape) => {
            let mut shape = shape.to_vec();
            let rank = shape.len() + (new != 0) as usize;
            let a = r.axis(axis, rank)?;
            let n = r.b.fresh("concat");
            if new != 0 {
                shape.insert(a, n);
            } else {
                shape[a] = n;
            }
            Type::Tensor(dtype, shape)
        }
        None => Type::AnyTensor(dtype),
    };
    host::call(r, "concat_from_sequence", &[s], vec![axis, new], vec![ty])
}

/// Reads `SplitToSequence`.
pub fn read_split(r: &mut Reader<'_, '_>) -> Read {
    let x = r.input(0)?;
    let (shape, dtype) = (r.shape(x)?, r.dtype(x));
    let axis = r.int("axis", 0)?;
    let axis = r.axis(axis, shape.len())?;
    let keep = r.int("keepdims", 1)?;
    let mut out = shape;
    let inputs = with_position(r, vec![x], 1);
    let pieces = r.opt(1).and_then(|v| r.const_ints(v));
    let ty = match pieces {
        None if r.opt(1).is_none() => {
            if keep != 0 {
                out[axis] = Dim::int(1);
            } else {
                out.remove(axis);
            }
            Type::Tensor(dtype, out)
        }
        Some(p) if !p.is_empty() && p.iter().all(|n| *n == p[0]) && out[axis].as_int().is_some_and(|n| p[0] > 0 && n % p[0] == 0) => {
            out[axis] = Dim::int(p[0]);
            Type::Tensor(dtype, out)
        }
        _ => {
            out[axis] = Dim::sym(Sym::ANY);
            Type::Tensor(dtype, out)
        }
    };
    let ty = stored(r, &ty);
    host::call(r, "split_to_sequence", &inputs, vec![axis as i64, keep], vec![Type::Sequence(Box::new(ty))])
}

/// The body of a SequenceMap at one position; operands that are no sequences go in as they are.
fn map_step<'m>(r: &mut Reader<'_, 'm>, body: &'m Graph, inputs: &[ValueId], at: ValueId) -> Read {
    let mut bound = Vec::new();
    for &v in inputs {
        bound.push(match r.ty(v).clone() {
            Type::Sequence(t) => {
                let t = placed(r, &t);
                host::call(r, "sequence_at", &[v, at], vec![], vec![t])?[0]
            }
            _ => v,
        });
    }
    r.b.inline_with(body, &bound)
}

/// Reads [SequenceMap](https://onnx.ai/onnx/operators/onnx__SequenceMap.html): a loop that takes an element from each sequence, runs the
/// body, and appends its results to sequences.
pub fn read_map(r: &mut Reader<'_, '_>) -> Read {
    let body = r.graph("body")?;
    let inputs: Vec<ValueId> = (0..r.inputs.len()).map(|i| r.input(i)).collect::<Result<_, _>>()?;
    let first = r.input(0)?;
    element(r, first)?;
    let outs = body.outputs.len();
    // The types of the results come from a trial of the body, which is taken back.
    let mark = r.b.mark();
    let counter = [Fact::tensor(DType::I64, vec![]), Fact::tensor(DType::Bool, vec![])];
    let trial = r.block_of(&counter, |r, i| map_step(r, body, &inputs, i[0]))?;
    let types: Vec<Type> = trial.outputs.iter().map(|v| Type::Sequence(Box::new(stored(r, r.ty(*v))))).collect();
    r.b.rollback_keeping(mark, &mut []);
    let mut carried = Vec::new();
    for t in &types {
        carried.push(host::call(r, "sequence_construct", &[], vec![], vec![t.clone()])?[0]);
    }
    let facts: Vec<Fact> = counter.into_iter().chain(types.iter().cloned().map(Fact::from)).collect();
    let block = r.block_of(&facts, |r, i| {
        let results = map_step(r, body, &inputs, i[0])?;
        let mut out = vec![r.tensor(Tensor::with_dtype(DType::Bool, &[], &[1u8]))];
        for (k, v) in results.into_iter().enumerate() {
            out.push(host::call(r, "sequence_insert", &[i[2 + k], v], vec![], vec![types[k].clone()])?[0]);
        }
        Ok(out)
    })?;
    let trips = host::call(r, "sequence_length", &[first], vec![], vec![Type::Tensor(DType::I64, vec![])])?[0];
    let operands = [vec![Some(trips), None], carried.into_iter().map(Some).collect()].concat();
    r.b.emit(Loop { carried: outs, trip: None }.into(), operands, outs, vec![block])
}
