//! Labels and scores of classifiers from what trees give each class.

use crate::entry::{In, Out};
use crate::num::Float;
use alloc::vec::Vec;

/// What becomes of scores at the end.
pub const TRANSFORMS: [&str; 5] = ["NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT"];

/// What [`classify`] knows of two classes of which all trees score a single one: the weights are of any sign, or none is negative.
pub const BINARY: [&str; 3] = ["no", "mixed", "positive"];

fn logistic<T: Float>(x: T) -> T {
    let one = T::ONE;
    let v = one.over(one.plus(T::ZERO.minus(x.magnitude()).exp()));
    if x < T::ZERO { one.minus(v) } else { v }
}

/// √2 times the inverse of the error function at 2x - 1, by
/// [Winitzki's approximation](https://en.wikipedia.org/wiki/Error_function#Approximation_with_elementary_functions), which the standard's
/// implementations share.
fn probit<T: Float>(x: T) -> T {
    let c = T::from_f64;
    let x = c(2.0).times(x).minus(T::ONE);
    let log = T::ONE.minus(x).times(T::ONE.plus(x)).ln();
    let v = c(2.0 / (core::f64::consts::PI * 0.147)).plus(c(0.5).times(log));
    let inner = v.times(v).minus(log.times(c(1.0 / 0.147))).sqrt().minus(v);
    let root = inner.sqrt().times(c(core::f64::consts::SQRT_2));
    if x < T::ZERO { T::ZERO.minus(root) } else { root }
}

fn transform<T: Float>(scores: &mut [T], how: &str) {
    match how {
        "LOGISTIC" => scores.iter_mut().for_each(|s| *s = logistic(*s)),
        "PROBIT" => scores.iter_mut().for_each(|s| *s = probit(*s)),
        "SOFTMAX" | "SOFTMAX_ZERO" => {
            let most = scores.iter().fold(T::LOWEST, |a, b| if *b > a { *b } else { a });
            let mut sum = T::ZERO;
            for s in scores.iter_mut() {
                // SOFTMAX_ZERO leaves what is zero near zero.
                let zero = how == "SOFTMAX_ZERO" && s.magnitude().to_f64() <= 1e-7;
                *s = if zero { s.times(T::ZERO.minus(most).exp()) } else { s.minus(most).exp() };
                if !zero {
                    sum = sum.plus(*s);
                }
            }
            scores.iter_mut().for_each(|s| *s = s.over(sum));
        }
        _ => {}
    }
}

/// Scores and picked classes of rows of `classes` sums, as [TreeEnsembleClassifier](https://onnx.ai/onnx/operators/onnx_aionnxml_TreeEnsembleClassifier.html)
/// makes them of what [`ensemble`](super::ensemble) gives: base values are added, the class of the greatest score is picked, the first of
/// several, of those that a tree or a base value has scored, and scores are transformed (`how` of [`TRANSFORMS`]). The standard says nothing
/// of two classes of which one alone is scored: here, as in ONNX Runtime, the score is the second one's, the first one's is what is left to
/// 1 where no weight is negative (`binary` of [`BINARY`]), so that 0.5 decides, and else its opposite, so that 0 does.
pub fn classify<T: Float>(
    scores: Out<'_, T>,
    picked: Out<'_, i64>,
    x: In<'_, T>,
    base: In<'_, T>,
    classes: usize,
    binary: &str,
    how: &str,
) {
    let n = classes.max(1);
    let rows = scores.0.chunks_exact_mut(n).zip(x.0.chunks_exact(n));
    let mut met: Vec<bool> = Vec::with_capacity(n);
    for ((scores, x), picked) in rows.zip(picked.0.iter_mut()) {
        met.clear();
        met.extend(x.iter().map(|x| !super::untouched(*x)));
        for (s, x) in scores.iter_mut().zip(x) {
            *s = x.plus(T::ZERO);
        }
        *picked = if n > 2 { several(scores, &mut met, base.0, how) } else { two(scores, &met, base.0, binary, how) };
    }
}

fn several<T: Float>(scores: &mut [T], met: &mut [bool], base: &[T], how: &str) -> i64 {
    for ((s, m), b) in scores.iter_mut().zip(met.iter_mut()).zip(base) {
        *s = s.plus(*b);
        *m = true;
    }
    let mut best = None;
    for (i, s) in scores.iter().enumerate().filter(|(i, _)| met[*i]) {
        if best.is_none_or(|b: usize| *s > scores[b]) {
            best = Some(i);
        }
    }
    transform(scores, how);
    best.unwrap_or(0) as i64
}

fn two<T: Float>(scores: &mut [T], met: &[bool], base: &[T], binary: &str, how: &str) -> i64 {
    let (first, second) = (met.first() == Some(&true), met.get(1) == Some(&true));
    let alone = scores.len() == 1;
    let score = match base {
        [_, b] if alone => scores[0].plus(*b),
        [_, b] if second => {
            scores[1] = b.plus(scores[0]);
            scores[0] = T::ZERO.minus(scores[1]);
            scores[1]
        }
        [a, b] => {
            scores[0] = scores[0].plus(*a);
            scores[1] = scores[1].plus(*b);
            scores[0]
        }
        [b] => {
            scores[0] = scores[0].plus(*b);
            if second { scores[1] } else { scores[0] }
        }
        _ if second => scores[1],
        _ => scores[0],
    };
    let positive = if binary == "positive" { score.to_f64() > 0.5 } else { score > T::ZERO };
    if alone {
        scores[0] = if how == "PROBIT" { probit(score) } else { score };
    } else if second || base.len() == 2 {
        // A class that no tree scores has no score, whatever its base value.
        for (s, _) in scores.iter_mut().zip([first, second]).filter(|(_, met)| !met) {
            *s = T::ZERO;
        }
        transform(scores, how);
    } else if how == "PROBIT" {
        (scores[0], scores[1]) = (probit(score), T::ZERO);
    } else {
        (scores[0], scores[1]) = match (binary, how) {
            (_, "LOGISTIC") => (logistic(T::ZERO.minus(score)), logistic(score)),
            ("positive", _) => (T::ONE.minus(score), score),
            _ => (T::ZERO.minus(score), score),
        };
    }
    positive as i64
}
