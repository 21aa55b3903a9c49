//! Reductions over any axes, and the positions of extremes along one.

mod rows;

pub use rows::{Fold, fold_rows};

use crate::entry::{In, Ints, Out};
use crate::fault::Fault;
use crate::index::{for_each, offset};
use crate::num::Num;
use alloc::{format, vec, vec::Vec};

/// Reduces the axes of `dims` that `reduced` marks with 1:
/// [ReduceSum](https://onnx.ai/onnx/operators/onnx__ReduceSum.html) and its relatives, by `mode` `sum`, `mean`, `max`, `min`, `prod`,
/// `l1`, `l2`, `sum_square`, `log_sum` or `log_sum_exp`. Floats are summed in f64, so the order of the elements hardly matters.
/// Over no element: 0 for sums, 1 for products, the identity of max and min.
pub fn reduce<T: Num>(out: Out<'_, T>, x: In<'_, T>, dims: &[usize], reduced: Ints<'_>, mode: &str) -> Result<(), Fault> {
    let is_float = T::from_f64(0.5) != T::ZERO;
    let strides = crate::index::strides(dims);
    let split = |want: bool| -> (Vec<usize>, Vec<usize>) {
        (0..dims.len()).filter(|&i| (reduced.0[i] == 1) == want).map(|i| (dims[i], strides[i])).unzip()
    };
    let ((kept, kept_strides), (gone, gone_strides)) = (split(false), split(true));
    let count: usize = gone.iter().product();
    let mut offsets = vec![];
    for_each(&gone, |at| offsets.push(offset(at, &gone_strides)));
    let mut k = 0;
    let mut result = Ok(());
    for_each(&kept, |at| {
        let base = offset(at, &kept_strides);
        let elements = offsets.iter().map(|o| x.0[base + o]);
        let float_sum = |f: &dyn Fn(f64) -> f64| -> f64 { offsets.iter().map(|o| f(x.0[base + o].to_f64())).sum() };
        out.0[k] = match mode {
            "sum" if is_float => T::from_f64(float_sum(&|v| v)),
            "sum" => elements.fold(T::ZERO, T::plus),
            "mean" if is_float => T::from_f64(float_sum(&|v| v) / count as f64),
            "mean" => elements.fold(T::ZERO, T::plus).over(T::from_f64(count as f64)),
            "max" => elements.fold(T::LOWEST, |a, b| if a.nan() || a > b { a } else { b }),
            "min" => elements.fold(T::HIGHEST, |a, b| if a.nan() || a < b { a } else { b }),
            "prod" => elements.fold(T::ONE, T::times),
            "l1" if is_float => T::from_f64(float_sum(&f64::abs)),
            "l1" => elements.fold(T::ZERO, |a, b| a.plus(b.magnitude())),
            "l2" => T::from_f64(float_sum(&|v| v * v).sqrt()),
            "sum_square" if is_float => T::from_f64(float_sum(&|v| v * v)),
            "sum_square" => elements.fold(T::ZERO, |a, b| a.plus(b.times(b))),
            "log_sum" => T::from_f64(float_sum(&|v| v).ln()),
            "log_sum_exp" => {
                let top = offsets.iter().map(|o| x.0[base + o].to_f64()).fold(f64::NEG_INFINITY, f64::max);
                let top = if top.is_finite() { top } else { 0.0 };
                T::from_f64(float_sum(&|v| (v - top).exp()).ln() + top)
            }
            other => {
                result = Err(Fault::Domain(format!("unknown reduction \"{other}\"")));
                T::ZERO
            }
        };
        k += 1;
    });
    result
}

/// The position of the largest (smallest) element along the axis, the first or last of equals; NaN counts as the extreme:
/// [ArgMax](https://onnx.ai/onnx/operators/onnx__ArgMax.html).
pub fn arg<T: Num>(
    out: Out<'_, i64>,
    x: In<'_, T>,
    outer: usize,
    axis: usize,
    inner: usize,
    largest: bool,
    last: bool,
) -> Result<(), Fault> {
    if axis == 0 && outer * inner > 0 {
        return Err(Fault::Domain("the extreme of an empty axis has no position".into()));
    }
    for o in 0..outer {
        for i in 0..inner {
            let at = |j: usize| x.0[(o * axis + j) * inner + i];
            let mut best = 0;
            for j in 1..axis {
                let (a, b) = (at(best), at(j));
                let better = if a.nan() { b.nan() && last } else { b.nan() || if largest { b > a } else { b < a } || (last && a == b) };
                if better {
                    best = j;
                }
            }
            out.0[o * inner + i] = best as i64;
        }
    }
    Ok(())
}
