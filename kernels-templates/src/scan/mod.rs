//! Running sums along an axis.

use crate::entry::{In, Out};
use crate::num::Num;

/// [CumSum](https://onnx.ai/onnx/operators/onnx__CumSum.html) of `x` of shape `[outer, axis, inner]`.
pub fn cumsum<T: Num>(out: Out<'_, T>, x: In<'_, T>, outer: usize, axis: usize, inner: usize, exclusive: bool, reverse: bool) {
    for o in 0..outer {
        for i in 0..inner {
            let mut sum = T::ZERO;
            for step in 0..axis {
                let j = if reverse { axis - 1 - step } else { step };
                let at = (o * axis + j) * inner + i;
                let next = sum.plus(x.0[at]);
                out.0[at] = if exclusive { sum } else { next };
                sum = next;
            }
        }
    }
}
