//! Operators on sequences.

use super::{Reader, host};
use crate::diagnostics::Diagnostic;
use crate::ir::{Dim, Type, ValueId};
use kiln_kernels::dtype::DType;

type Read = Result<Vec<ValueId>, Diagnostic>;

fn element(r: &Reader<'_, '_>, s: ValueId) -> Result<Type, Diagnostic> {
    match r.ty(s) {
        Type::Sequence(t) => Ok((**t).clone()),
        other => Err(Diagnostic::new(format!("needs a sequence, found {other}"))),
    }
}

/// The element type that holds both: extents that differ are forgotten, and with them the rank where it differs.
pub fn join(a: &Type, b: &Type) -> Type {
    match (a, b) {
        _ if a == b => a.clone(),
        (Type::Sequence(a), Type::Sequence(b)) => Type::Sequence(Box::new(join(a, b))),
        (Type::Optional(a), Type::Optional(b)) => Type::Optional(Box::new(join(a, b))),
        _ => a.dtype().map_or_else(|| a.clone(), Type::AnyTensor),
    }
}

/// Reads `SequenceConstruct`.
pub fn read_construct(r: &mut Reader<'_, '_>) -> Read {
    let inputs: Vec<ValueId> = (0..r.inputs.len()).map(|i| r.input(i)).collect::<Result<_, _>>()?;
    let first = r.input(0)?;
    let t = inputs.iter().fold(r.ty(first).clone(), |t, v| join(&t, r.ty(*v)));
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
    let t = join(&element(r, s)?, r.ty(x));
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
        _ => Type::AnyTensor(dtype),
    };
    host::call(r, "split_to_sequence", &inputs, vec![axis as i64, keep], vec![Type::Sequence(Box::new(ty))])
}
