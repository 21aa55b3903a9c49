//! The largest or smallest elements along an axis.

use crate::entry::{In, Out};
use crate::num::Num;
use alloc::vec::Vec;
use core::cmp::Ordering;

/// The `k` largest (smallest) elements along the middle axis, in order, with their positions; equal ones by position, NaN as the
/// largest: [TopK](https://onnx.ai/onnx/operators/onnx__TopK.html).
pub fn top_k<T: Num>(
    values: Option<Out<'_, T>>,
    indices: Option<Out<'_, i64>>,
    x: In<'_, T>,
    outer: usize,
    axis: usize,
    inner: usize,
    k: usize,
    largest: bool,
) {
    let (mut values, mut indices) = (values, indices);
    let mut order: Vec<usize> = Vec::with_capacity(axis);
    for o in 0..outer {
        for i in 0..inner {
            let at = |j: usize| x.0[(o * axis + j) * inner + i];
            order.clear();
            order.extend(0..axis);
            let ascending = |&a: &usize, &b: &usize| {
                let (x, y) = (at(a), at(b));
                x.partial_cmp(&y).unwrap_or_else(|| x.nan().cmp(&y.nan()))
            };
            let compare = |a: &usize, b: &usize| -> Ordering {
                let by_value = if largest { ascending(b, a) } else { ascending(a, b) };
                by_value.then(a.cmp(b))
            };
            if k < axis && k > 0 {
                order.select_nth_unstable_by(k - 1, compare);
            }
            let chosen = &mut order[..k.min(axis)];
            chosen.sort_unstable_by(compare);
            for (j, &p) in chosen.iter().enumerate() {
                let to = (o * k + j) * inner + i;
                if let Some(values) = &mut values {
                    values.0[to] = at(p);
                }
                if let Some(indices) = &mut indices {
                    indices.0[to] = p as i64;
                }
            }
        }
    }
}
