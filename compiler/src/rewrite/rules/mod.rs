//! The rules by theme: one line each, with its equation.

pub mod algebra;
pub mod attention;
pub mod commute;
pub mod constants;
pub mod conv;
pub mod layout;
pub mod matmul;
pub mod parallel;
pub mod recognise;

use super::Rule;
use kiln_kernels::dtype::DType;
use kiln_kernels::value::Tensor;

/// Every canonical rule, in the order in which they are tried at a node.
pub fn all() -> Vec<&'static Rule> {
    [constants::RULES, algebra::RULES, layout::RULES, conv::RULES, matmul::RULES, recognise::RULES, attention::RULES]
        .into_iter()
        .flatten()
        .collect()
}

/// Rules that are explored: whether they pay is for the cost of the whole to say.
pub fn exploring() -> Vec<&'static Rule> {
    [parallel::RULES, commute::RULES].into_iter().flatten().collect()
}

/// Constants that several nodes share are folded into copies only up to this many elements.
const SHARED: usize = 1 << 14;

/// Whether the type is one that constants are computed in: wide enough that f64 rounds only once.
fn folds(d: DType) -> bool {
    matches!(d, DType::F32 | DType::F64 | DType::F16 | DType::Bf16)
}

/// Numbers rounded to the type, unless one is not finite or vanishes although `x` did not.
fn rounded(dims: &[usize], x: &[f64], dtype: DType) -> Option<Tensor> {
    let t = crate::eval::from_f64s(dims, x, dtype);
    let back = t.to_f64s()?;
    let kept = back.iter().zip(x).all(|(r, x)| r.is_finite() && (*r != 0.0 || *x == 0.0));
    kept.then_some(t)
}

/// The numbers of a constant that differs only along one axis of a result of `rank` axes, where it has `n` or one.
fn along(t: &Tensor, rank: usize, axis: usize, n: usize) -> Option<Vec<f64>> {
    let skip = rank.checked_sub(t.dims.len())?;
    let fits = t.dims.iter().enumerate().all(|(i, d)| *d == 1 || (i + skip == axis && *d == n));
    let x = if fits { t.to_f64s()? } else { return None };
    Some(if x.len() == 1 { vec![x[0]; n] } else { x }).filter(|x| x.len() == n)
}
