//! Which depthwise convolutions are computed together with the 1x1 convolutions around them, strip by strip.

use crate::ir::{Dim, Graph, ValueId, product};
use crate::kernel::{Kernel, Method, Window};

/// Bytes of one image's tensor from which on it pays not to write it: it would not stay in the second-level cache until it is read.
const PAYS: i64 = 1 << 19;

/// The kernel that computes `next` and, strip by strip before it, the `last` one, whose result `between` is its operand, where there is
/// such a kernel and it pays.
pub(super) fn join(g: &Graph, last: &Kernel, between: ValueId, next: &Kernel) -> Option<Kernel> {
    let Kernel::Conv { x, .. } = next else { return None };
    let shape = g.shape(between);
    let image = product(shape.get(1..)?).as_int()? * g.dtype(between).size() as i64;
    // Results of other types, or beside the first, have places of their own.
    let plain = [last, next].iter().all(|k| k.epilogue().is_none_or(|e| e.first.is_none() && e.stored.is_empty()));
    let beside = next.values().iter().skip(1).any(|v| *v == between);
    if *x != between || image < PAYS || !plain || beside {
        return None;
    }
    let boxed = |k: &Kernel| Box::new(k.clone());
    match (last, depthwise(next)) {
        (last, true) if pointwise(last) => Some(Kernel::Strips { before: Some(boxed(last)), middle: boxed(next), behind: None }),
        (last, false) if depthwise(last) && pointwise(next) => {
            Some(Kernel::Strips { before: None, middle: boxed(last), behind: Some(boxed(next)) })
        }
        (Kernel::Strips { before, middle, behind: None }, false) if pointwise(next) => {
            Some(Kernel::Strips { before: before.clone(), middle: middle.clone(), behind: Some(boxed(next)) })
        }
        _ => None,
    }
}

/// A depthwise convolution of planes, whose input channels are neighbours.
fn depthwise(k: &Kernel) -> bool {
    let Kernel::Conv { window: w, method: Method::Depthwise, .. } = k else { return false };
    plane(w) && w.kernel[0] == 1 && w.pad[0] == 0 && w.x_strides[1].is(1)
}

/// A convolution of planes that is a product with each pixel, in the order of the pixels in memory.
fn pointwise(k: &Kernel) -> bool {
    let Kernel::Conv { window: w, groups: 1, method: Method::Direct, .. } = k else { return false };
    let unit = w.kernel == [1; 3] && w.stride == [1; 3] && w.pad == [0; 3] && w.pad_end == [0; 3];
    let dense = w.x_strides[1].is(1) && w.x_strides[3] == w.in_dims[2].clone() * w.x_strides[4].clone();
    unit && plane(w) && w.in_dims == w.out_dims && dense
}

fn plane(w: &Window) -> bool {
    let known = |d: &Dim| d.as_int().is_some_and(|d| d > 0);
    w.in_dims[0].is(1) && w.out_dims[0].is(1) && w.in_dims.iter().chain(&w.out_dims).all(known)
}
