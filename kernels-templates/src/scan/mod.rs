//! Running sums and products along an axis.

use crate::entry::{In, Out};
use crate::num::Num;

/// [CumSum](https://onnx.ai/onnx/operators/onnx__CumSum.html) of `x` of shape `[outer, axis, inner]`.
pub fn cumsum<T: Num>(out: Out<'_, T>, x: In<'_, T>, outer: usize, axis: usize, inner: usize, exclusive: bool, reverse: bool) {
    running(out, x, [outer, axis, inner], exclusive, reverse, T::ZERO, T::plus);
}

/// [CumProd](https://onnx.ai/onnx/operators/onnx__CumProd.html) of `x` of shape `[outer, axis, inner]`.
pub fn cumprod<T: Num>(out: Out<'_, T>, x: In<'_, T>, outer: usize, axis: usize, inner: usize, exclusive: bool, reverse: bool) {
    running(out, x, [outer, axis, inner], exclusive, reverse, T::ONE, T::times);
}

fn running<T: Num>(
    out: Out<'_, T>,
    x: In<'_, T>,
    [outer, axis, inner]: [usize; 3],
    exclusive: bool,
    reverse: bool,
    start: T,
    join: impl Fn(T, T) -> T,
) {
    for o in 0..outer {
        for i in 0..inner {
            let mut sum = start;
            for step in 0..axis {
                let j = if reverse { axis - 1 - step } else { step };
                let at = (o * axis + j) * inner + i;
                let next = join(sum, x.0[at]);
                out.0[at] = if exclusive { sum } else { next };
                sum = next;
            }
        }
    }
}
