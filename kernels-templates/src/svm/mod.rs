//! Support vector machines: distances to support vectors, and what their classifiers vote for.

use crate::entry::{In, Ints, Out};
use crate::fault::Fault;
use crate::isa::Isa;
use alloc::{string::ToString, vec, vec::Vec};

/// Vectors whose sums are taken side by side.
const LANES: usize = 64;

crate::kernel_fn! {
    /// Squared distances of `rows` rows of `n` elements to `LANES` vectors, whose elements are `count` apart.
    fn to_vectors<A>(out: *mut f32, x: *const f32, vectors: *const f32, rows: usize, n: usize, count: usize) {
        for r in 0..rows {
            let x = core::slice::from_raw_parts(x.add(r * n), n);
            let mut sums = [0f32; LANES];
            for (i, x) in x.iter().enumerate() {
                let v = &*vectors.add(i * count).cast::<[f32; LANES]>();
                for (s, v) in sums.iter_mut().zip(v) {
                    *s += (x - v) * (x - v);
                }
            }
            out.add(r * count).cast::<[f32; LANES]>().write_unaligned(sums);
        }
    }
}

/// Squared distances of each row of `x`, of `features` elements, to each column of `vectors`, of which there are `count`. Each is one sum in
/// the order of the elements, so that it does not depend on the instruction set.
pub fn distances(out: Out<'_, f32>, x: In<'_, f32>, vectors: In<'_, f32>, features: usize, count: usize) {
    if features == 0 || count == 0 {
        return out.0.fill(0.0);
    }
    let (isa, rows, whole) = (Isa::detect(), out.0.len() / count, count / LANES * LANES);
    let (x, vectors) = (&x.0[..rows * features], &vectors.0[..features * count]);
    for first in (0..whole).step_by(LANES) {
        // SAFETY: the slices have `rows` rows of `features` and `count` elements and as many columns, of which `LANES` lie behind `first`,
        // and the machine has what was detected.
        unsafe { to_vectors(isa, out.0.as_mut_ptr().add(first), x.as_ptr(), vectors.as_ptr().add(first), rows, features, count) }
    }
    for (out, x) in out.0.chunks_exact_mut(count).zip(x.chunks_exact(features)) {
        out[whole..].fill(0.0);
        for (x, v) in x.iter().zip(vectors.chunks_exact(count)) {
            for (s, v) in out[whole..].iter_mut().zip(&v[whole..]) {
                *s += (x - v) * (x - v);
            }
        }
    }
}

/// Decisions between each pair of classes, as [libsvm](https://www.csie.ntu.edu.tw/~cjlin/libsvm/) takes them: `kernel` is that of each row
/// with each support vector, which lie class by class, `counts` of each; `coefficients` are `[C - 1, V]`, `rho` one for each pair. Picked is the
/// class of most votes, the first of several. Scores are the pairs' decisions, or with `prob_a` and `prob_b`, one for each pair, the classes'
/// probabilities.
///
/// # Errors
/// The lists do not fit each other.
pub fn votes(
    scores: Out<'_, f32>,
    picked: Out<'_, i64>,
    kernel: In<'_, f32>,
    coefficients: In<'_, f32>,
    rho: In<'_, f32>,
    prob_a: In<'_, f32>,
    prob_b: In<'_, f32>,
    counts: Ints<'_>,
) -> Result<(), Fault> {
    let classes = counts.0.len();
    let starts: Vec<usize> = core::iter::once(0)
        .chain(counts.0.iter().scan(0usize, |at, n| {
            *at += usize::try_from(*n).unwrap_or(0);
            Some(*at)
        }))
        .collect();
    let (all, pairs) = (starts[classes], classes * classes.saturating_sub(1) / 2);
    let probable = !prob_a.0.is_empty();
    let fits = coefficients.0.len() >= classes.saturating_sub(1) * all
        && rho.0.len() >= pairs
        && (!probable || (prob_a.0.len() >= pairs && prob_b.0.len() >= pairs))
        && kernel.0.len() >= picked.0.len() * all;
    if !fits {
        return Err(Fault::Domain("the lists of a support vector machine do not fit each other".to_string()));
    }
    let width = if probable { classes } else { pairs };
    let mut decisions = vec![0f32; pairs];
    for (row, picked) in picked.0.iter_mut().enumerate() {
        let kernel = &kernel.0[row * all..][..all];
        let mut ballot = vec![0usize; classes];
        let mut pair = 0;
        for i in 0..classes {
            for j in i + 1..classes {
                let part = |class: usize, against: usize| -> f64 {
                    let range = starts[class]..starts[class + 1];
                    let own = &coefficients.0[against * all..][..all];
                    own[range.clone()].iter().zip(&kernel[range]).map(|(c, k)| f64::from(c * k)).sum()
                };
                let sum = part(i, j - 1) + part(j, i) + f64::from(rho.0[pair]);
                ballot[if sum > 0.0 { i } else { j }] += 1;
                decisions[pair] = sum as f32;
                pair += 1;
            }
        }
        *picked = ballot.iter().enumerate().fold(0, |best, (i, n)| if *n > ballot[best] { i } else { best }) as i64;
        let scores = &mut scores.0[row * width..][..width];
        if probable { probabilities(scores, &decisions, prob_a.0, prob_b.0) } else { scores.copy_from_slice(&decisions) }
    }
    Ok(())
}

/// Probabilities of classes that agree best with those of each pair:
/// [Wu, Lin and Weng](https://www.csie.ntu.edu.tw/~cjlin/papers/svmprob/svmprob.pdf), their second method, in f32 and at most 100 rounds.
#[allow(clippy::needless_range_loop, reason = "the formulas are written with indices")]
fn probabilities(p: &mut [f32], decisions: &[f32], a: &[f32], b: &[f32]) {
    let n = p.len();
    let mut r = vec![0f32; n * n];
    let mut pair = 0;
    for i in 0..n {
        for j in i + 1..n {
            // Platt's sigmoid, by whichever exponential does not overflow.
            let x = decisions[pair] * a[pair] + b[pair];
            let v = 1.0 / (1.0 + (-x.abs()).exp());
            let first = (1.0 - if x < 0.0 { 1.0 - v } else { v }).clamp(1e-7, 1.0 - 1e-7);
            (r[i * n + j], r[j * n + i]) = (first, 1.0 - first);
            pair += 1;
        }
    }
    let mut q = vec![0f32; n * n];
    for i in 0..n {
        for j in (0..n).filter(|j| *j != i) {
            q[i * n + i] += r[j * n + i] * r[j * n + i];
            q[i * n + j] = -r[j * n + i] * r[i * n + j];
        }
    }
    p.fill(1.0 / n as f32);
    let (mut qp, enough) = (vec![0f32; n], 0.005 / n as f32);
    for _ in 0..100 {
        let mut all = 0.0;
        for i in 0..n {
            qp[i] = (0..n).map(|j| q[i * n + j] * p[j]).fold(0.0, |a, b| a + b);
            all += p[i] * qp[i];
        }
        if qp.iter().map(|x| (x - all).abs()).fold(0.0, f32::max) < enough {
            break;
        }
        for i in 0..n {
            let own = q[i * n + i];
            let d = (all - qp[i]) / own;
            p[i] += d;
            all = (all + d * (d * own + 2.0 * qp[i])) / (1.0 + d) / (1.0 + d);
            for j in 0..n {
                qp[j] = (qp[j] + d * q[i * n + j]) / (1.0 + d);
                p[j] /= 1.0 + d;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_sums_of_squares() {
        for features in [0, 1, 7, 16, 17, 50] {
            for (rows, count) in [(0, 3), (1, 1), (4, 5), (2, 0), (3, 64), (2, 150)] {
                let at = |i: usize| ((i * 37 % 101) as f32 - 50.0) / 16.0;
                let x: Vec<f32> = (0..rows * features).map(at).collect();
                let v: Vec<f32> = (0..count * features).map(|i| at(i + 13)).collect();
                let mut out = vec![-1f32; rows * count];
                distances(Out(&mut out), In(&x), In(&v), features, count);
                for (i, o) in out.iter().enumerate() {
                    let (r, c) = (i / count, i % count);
                    let want = (0..features).map(|f| (x[r * features + f] - v[f * count + c]).powi(2)).fold(0.0, |a, b| a + b);
                    assert_eq!(*o, want, "{rows} {count} {features}");
                }
            }
        }
    }

    #[test]
    fn pairs_vote() {
        // Three classes of one vector each; the kernel picks the vector of its class.
        let coefficients = [1.0, -1.0, -1.0, 1.0, 1.0, -1.0];
        let kernel = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0];
        let (mut scores, mut picked) = ([0f32; 9], [9i64; 3]);
        let go = |scores: &mut [f32], picked: &mut [i64], a: &[f32], b: &[f32]| {
            votes(Out(scores), Out(picked), In(&kernel), In(&coefficients), In(&[0.0; 3]), In(a), In(b), Ints(&[1, 1, 1]))
        };
        go(&mut scores, &mut picked, &[], &[]).expect("the lists fit");
        assert_eq!(picked, [0, 1, 2]);
        assert_eq!(scores[..3], [1.0, 1.0, 0.0]);
        go(&mut scores, &mut picked, &[-4.0; 3], &[0.0; 3]).expect("the lists fit");
        for (row, scores) in scores.chunks(3).enumerate() {
            assert!((scores.iter().sum::<f32>() - 1.0).abs() < 1e-5, "{scores:?}");
            assert!((0..3).all(|c| c == row || scores[c] < scores[row]), "{scores:?}");
        }
        assert!(go(&mut scores, &mut picked, &[-4.0; 2], &[0.0; 2]).is_err());
    }
}
