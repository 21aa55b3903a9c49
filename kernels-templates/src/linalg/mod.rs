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

/// The inverses of `batch` matrices of `n` rows, by elimination with exchanged rows in f64; one that has none gets infinities or NaN.
/// `scratch` has room for two matrices.
pub fn inverse<T: Float>(out: Out<'_, T>, x: In<'_, T>, batch: usize, n: usize, scratch: Out<'_, f64>) {
    let (m, y) = scratch.0.split_at_mut(n * n);
    for b in 0..batch {
        let at = b * n * n;
        for i in 0..n * n {
            m[i] = x.0[at + i].to_f64();
            y[i] = (i / n == i % n) as u8 as f64;
        }
        for k in 0..n {
            let best = (k..n).max_by(|&i, &j| m[i * n + k].abs().total_cmp(&m[j * n + k].abs())).unwrap_or(k);
            for j in 0..n {
                m.swap(k * n + j, best * n + j);
                y.swap(k * n + j, best * n + j);
            }
            let pivot = m[k * n + k];
            for j in 0..n {
                m[k * n + j] /= pivot;
                y[k * n + j] /= pivot;
            }
            for i in (0..n).filter(|i| *i != k) {
                let factor = m[i * n + k];
                for j in 0..n {
                    m[i * n + j] -= factor * m[k * n + j];
                    y[i * n + j] -= factor * y[k * n + j];
                }
            }
        }
        out.0[at..][..n * n].iter_mut().zip(&*y).for_each(|(o, v)| *o = T::from_f64(*v));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matrix_times_its_inverse_is_one() {
        let mut state = 1u64;
        for n in 0..7 {
            let mut next = || {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (state >> 40) as f32 / (1 << 24) as f32 - 0.5
            };
            // A zero in the corner wants an exchange of rows.
            let x: Vec<f32> = (0..2 * n * n).map(|i| if i == 0 && n > 1 { 0.0 } else { next() }).collect();
            let (mut y, mut scratch) = (alloc::vec![0f32; 2 * n * n], alloc::vec![0f64; 2 * n * n]);
            inverse(Out(&mut y), In(&x), 2, n, Out(&mut scratch));
            for b in 0..2 {
                for i in 0..n {
                    for j in 0..n {
                        let at = |v: &[f32], i: usize, j: usize| v[b * n * n + i * n + j] as f64;
                        let sum: f64 = (0..n).map(|k| at(&x, i, k) * at(&y, k, j)).sum();
                        let size = (0..n).map(|k| (at(&x, i, k) * at(&y, k, j)).abs()).sum::<f64>();
                        assert!((sum - (i == j) as u8 as f64).abs() < 1e-5 * (1.0 + size), "{n}: [{i}, {j}] {sum}");
                    }
                }
            }
        }
        let mut y = [0f32; 1];
        inverse(Out(&mut y), In(&[0f32]), 1, 1, Out(&mut [0.0; 2]));
        assert!(!y[0].is_finite());
    }
}
