//! Host functions that select elements by comparing them: NonMaxSuppression and Unique.

use super::complex::pairs;
use super::{Answer, HostArgs, ints, pick, tensor};
use crate::fault::{Fault, position};
use crate::index::strides;
use crate::value::{Tensor, Value};
use alloc::{format, vec, vec::Vec};
use core::cmp::Ordering;

fn numbers(inputs: &[Option<&Value>], i: usize) -> Result<Option<Vec<f64>>, Fault> {
    match inputs.get(i).copied().flatten() {
        None => Ok(None),
        Some(_) => Ok(tensor(inputs, i)?.to_f64s().filter(|v| !v.is_empty())),
    }
}

/// Edges `[y1, x1, y2, x2]` in order, from two corners or from a center and a size.
fn edges(b: &[f64], centered: bool) -> [f64; 4] {
    if centered {
        [b[1] - b[3] / 2.0, b[0] - b[2] / 2.0, b[1] + b[3] / 2.0, b[0] + b[2] / 2.0]
    } else {
        [b[0].min(b[2]), b[1].min(b[3]), b[0].max(b[2]), b[1].max(b[3])]
    }
}

fn overlap(a: [f64; 4], b: [f64; 4]) -> f64 {
    let area = |e: [f64; 4]| (e[2] - e[0]) * (e[3] - e[1]);
    let shared = [a[0].max(b[0]), a[1].max(b[1]), a[2].min(b[2]), a[3].min(b[3])];
    if shared[2] <= shared[0] || shared[3] <= shared[1] || area(a) <= 0.0 || area(b) <= 0.0 {
        return 0.0;
    }
    area(shared) / (area(a) + area(b) - area(shared))
}

/// Boxes, edge by edge.
#[derive(Default)]
struct Boxes([Vec<f64>; 4]);

impl Boxes {
    fn push(&mut self, edges: [f64; 4]) {
        self.0.iter_mut().zip(edges).for_each(|(v, e)| v.push(e));
    }
    /// Whether one overlaps `e` by more than the limit.
    fn meet(&self, e: [f64; 4], limit: f64) -> bool {
        const TOGETHER: usize = 16;
        let [y1, x1, y2, x2] = &self.0;
        // Most boxes are apart, which is known without a division; those of a group are asked at once.
        let apart = |k: usize| (y2[k].min(e[2]) <= y1[k].max(e[0])) | (x2[k].min(e[3]) <= x1[k].max(e[1]));
        (0..y1.len()).step_by(TOGETHER).any(|first| {
            let group = first..(first + TOGETHER).min(y1.len());
            let all_apart = group.clone().fold(true, |all, k| all & apart(k));
            // An overlap that is no number counts as too large.
            let over = |k: usize| overlap(e, [y1[k], x1[k], y2[k], x2[k]]).partial_cmp(&limit).is_none_or(Ordering::is_gt);
            if all_apart { limit < 0.0 || limit.is_nan() } else { group.into_iter().any(over) }
        })
    }
}

/// Operands boxes, scores, greatest count a class, threshold of overlap, threshold of score; attribute center_point_box:
/// [NonMaxSuppression](https://onnx.ai/onnx/operators/onnx__NonMaxSuppression.html).
pub(super) fn suppress(inputs: &[Option<&Value>], args: HostArgs<'_>) -> Answer {
    let (boxes, scores) = (tensor(inputs, 0)?, tensor(inputs, 1)?);
    let ([batch, count, 4], [batches, classes, counts]) = (&boxes.dims[..], &scores.dims[..]) else {
        return Err(Fault::Domain(format!("boxes {:?} and scores {:?} have other shapes than they need", boxes.dims, scores.dims)));
    };
    if batch != batches || count != counts {
        return Err(Fault::Domain(format!("boxes {:?} and scores {:?} do not fit", boxes.dims, scores.dims)));
    }
    let most = ints(inputs, 2)?.and_then(|v| v.first().copied()).unwrap_or(0).max(0) as usize;
    let limit = numbers(inputs, 3)?.map_or(0.0, |v| v[0]);
    let least = numbers(inputs, 4)?.map(|v| v[0]);
    let b = numbers(inputs, 0)?.unwrap_or_default();
    let s = numbers(inputs, 1)?.unwrap_or_default();
    let mut out: Vec<i64> = Vec::new();
    let all: Vec<[f64; 4]> = b.chunks_exact(4).map(|b| edges(b, args.ints[0] != 0)).collect();
    for n in 0..*batch {
        for c in 0..*classes {
            let score = |i: usize| s[(n * classes + c) * count + i];
            let mut order: Vec<usize> = (0..*count).filter(|&i| least.is_none_or(|l| score(i) > l)).collect();
            order.sort_by(|&i, &j| score(j).total_cmp(&score(i)).then(i.cmp(&j)));
            let mut chosen = Boxes::default();
            for i in order {
                if chosen.0[0].len() >= most {
                    break;
                }
                let edges = all[n * count + i];
                if !chosen.meet(edges, limit) {
                    chosen.push(edges);
                    out.extend([n as i64, c as i64, i as i64]);
                }
            }
        }
    }
    Ok(vec![Tensor::new(&[out.len() / 3, 3], &out).into()])
}

/// Attributes sorted, then the axis or nothing: [Unique](https://onnx.ai/onnx/operators/onnx__Unique.html).
pub(super) fn unique(inputs: &[Option<&Value>], args: HostArgs<'_>) -> Answer {
    let x = tensor(inputs, 0)?;
    let (dims, axis) = match args.ints.get(1) {
        Some(a) => (x.dims.clone(), position(*a, x.dims.len())?),
        None => (vec![x.len()], 0),
    };
    let n = dims[axis];
    let s = strides(&dims);
    // The elements of each slice, in order.
    let inner: Vec<usize> = (0..dims.iter().product::<usize>()).filter(|k| n > 0 && (k / s[axis]).is_multiple_of(n)).collect();
    let (text, whole, floats) = (x.as_strings(), x.to_i64s(), x.to_f64s());
    let complex = pairs(x);
    if text.is_empty() && floats.is_none() && complex.is_empty() && !x.is_empty() {
        return Err(Fault::Domain(format!("Unique of {} is not supported", x.dtype)));
    }
    let element = |a: usize, b: usize| -> Ordering {
        match (&whole, &floats) {
            (Some(v), _) if x.dtype == crate::dtype::DType::U64 => (v[a] as u64).cmp(&(v[b] as u64)),
            (Some(v), _) => v[a].cmp(&v[b]),
            (_, Some(v)) => v[a].partial_cmp(&v[b]).unwrap_or_else(|| v[a].is_nan().cmp(&v[b].is_nan())),
            // Complex numbers are ordered by their real parts, then by their imaginary ones.
            _ if !complex.is_empty() => complex[a].partial_cmp(&complex[b]).unwrap_or(Ordering::Equal),
            _ => text[a].cmp(&text[b]),
        }
    };
    let slice = |i: usize, j: usize| -> Ordering {
        inner.iter().map(|k| element(k + i * s[axis], k + j * s[axis])).find(|o| o.is_ne()).unwrap_or(Ordering::Equal)
    };
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&i, &j| slice(i, j).then(i.cmp(&j)));
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for i in order {
        match groups.last_mut() {
            Some(g) if slice(g[0], i).is_eq() => g.push(i),
            _ => groups.push(vec![i]),
        }
    }
    if args.ints[0] == 0 {
        groups.sort_by_key(|g| g[0]);
    }
    let mut inverse = vec![0i64; n];
    for (k, g) in groups.iter().enumerate() {
        g.iter().for_each(|&i| inverse[i] = k as i64);
    }
    let mut out_dims = dims;
    out_dims[axis] = groups.len();
    let mut from = Vec::new();
    crate::index::for_each(&out_dims, |at| {
        from.push((0..at.len()).map(|d| if d == axis { groups[at[d]][0] } else { at[d] } * s[d]).sum());
    });
    let list = |v: Vec<i64>| Value::from(Tensor::new(&[v.len()], &v));
    Ok(vec![
        pick(x, &out_dims, &from).into(),
        list(groups.iter().map(|g| g[0] as i64).collect()),
        list(inverse),
        list(groups.iter().map(|g| g.len() as i64).collect()),
    ])
}
