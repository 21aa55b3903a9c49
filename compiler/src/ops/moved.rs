//! Elements of types that an operator has no kernel for, moved as something that it has one for.

use super::Reader;
use super::gather::Gather;
use super::narrow::{narrow, widen};
use crate::diagnostics::Diagnostic;
use crate::ir::{Dim, Type, ValueId, product};
use kiln_kernels::dtype::DType;

/// A value, or why there is none.
pub(super) type One = Result<ValueId, Diagnostic>;

/// What `f` makes of `xs`, which are of one type, and whose elements it only moves; `takes` are the types that it takes. Others are moved
/// as integers of their width; elements that share bytes as f32, which holds them exactly; what is wider or has no width by its position.
pub fn moved(
    r: &mut Reader<'_, '_>,
    xs: &[ValueId],
    takes: fn(DType) -> bool,
    f: impl FnOnce(&mut Reader<'_, '_>, &[ValueId]) -> One,
) -> One {
    let dtype = r.dtype(xs[0]);
    if takes(dtype) || xs.iter().any(|x| r.dtype(*x) != dtype) {
        return f(r, xs);
    }
    if (1..8).contains(&dtype.bits()) {
        let wide = xs.iter().map(|x| widen(r, *x)).collect::<Result<Vec<_>, _>>()?;
        let y = f(r, &wide)?;
        return narrow(r, y, dtype, true, "up");
    }
    let Some(bits) = integer(dtype).filter(|d| takes(*d)) else { return by_position(r, xs, f) };
    let bare = xs.iter().map(|x| r.bit_cast(*x, bits)).collect::<Result<Vec<_>, _>>()?;
    let y = f(r, &bare)?;
    r.bit_cast(y, dtype)
}

/// The unsigned integer of a type's width.
fn integer(d: DType) -> Option<DType> {
    [DType::U8, DType::U16, DType::U32, DType::U64].into_iter().find(|i| i.bits() == d.bits())
}

/// Types whose elements have bytes of their own, which kernels that only move take.
pub fn has_bytes(d: DType) -> bool {
    d.bits() >= 8
}

/// What `f` makes of `xs`, by way of the positions of their elements: `f` moves those, and the elements are taken from there.
pub fn by_position(r: &mut Reader<'_, '_>, xs: &[ValueId], f: impl FnOnce(&mut Reader<'_, '_>, &[ValueId]) -> One) -> One {
    let (mut flat, mut places, mut first) = (Vec::new(), Vec::new(), Dim::int(0));
    for x in xs {
        let shape = r.shape(*x)?;
        let n = product(&shape);
        flat.push(r.reshape(*x, vec![n.clone()])?);
        let mut own = r.iota(n.clone())?;
        if !first.is(0) {
            let before = r.extent(first.clone())?;
            own = r.add(own, before)?;
        }
        places.push(r.reshape(own, shape)?);
        first = first + n;
    }
    let all = if let [one] = flat[..] { one } else { r.concat(&flat, 0)? };
    let places = f(r, &places)?;
    at(r, all, places)
}

/// The elements of a list at these positions.
pub(super) fn at(r: &mut Reader<'_, '_>, all: ValueId, places: ValueId) -> One {
    if r.dtype(all) != DType::Str {
        return r.emit(Gather { axis: 0 }, &[all, places]);
    }
    let ty = Type::Tensor(DType::Str, r.shape(places)?);
    Ok(super::host::call(r, "string_pick", &[all, places], vec![], vec![ty])?[0])
}

/// What `f`, which is linear, makes of `x`: of complex numbers by their real and their imaginary parts.
pub fn by_parts(r: &mut Reader<'_, '_>, x: ValueId, mut f: impl FnMut(&mut Reader<'_, '_>, ValueId) -> One) -> One {
    let complex = r.dtype(x);
    let part = match complex {
        DType::C64 => DType::F32,
        DType::C128 => DType::F64,
        _ => return f(r, x),
    };
    let ty = Type::Tensor(part, r.shape(x)?);
    let parts = super::host::call(r, "complex_parts", &[x], vec![], vec![ty.clone(), ty])?;
    let (re, im) = (f(r, parts[0])?, f(r, parts[1])?);
    let ty = Type::Tensor(complex, r.shape(re)?);
    Ok(super::host::call(r, "complex_join", &[re, im], vec![], vec![ty])?[0])
}
