//! Linear algebra on small matrices.

use crate::entry::{In, Out};
use crate::num::Float;
use alloc::vec::Vec;

/// The determinants of `batch` matrices of `n` rows, by elimination: [Det](https://onnx.ai/onnx/operators/onnx__Det.html).
pub fn det<T: Float>(out: Out<'_, T>, x: In<'_, T>, batch: usize, n: usize) {
    for b in 0..batch {
        let mut m: Vec<f64> = x.0[b * n * n..][..n * n].iter().map(|v| v.to_f64()).collect();
        let mut det = 1.0;
        for k in 0..n {
            let best = (k..n).max_by(|&i, &j| m[i * n + k].abs().total_cmp(&m[j * n + k].abs())).unwrap_or(k);
            if best != k {
                (0..n).for_each(|j| m.swap(k * n + j, best * n + j));
                det = -det;
            }
            let pivot = m[k * n + k];
            det *= pivot;
            if pivot == 0.0 {
                break;
            }
            for i in k + 1..n {
                let factor = m[i * n + k] / pivot;
                for j in k..n {
                    m[i * n + j] -= factor * m[k * n + j];
                }
            }
        }
        out.0[b] = T::from_f64(det);
    }
}
