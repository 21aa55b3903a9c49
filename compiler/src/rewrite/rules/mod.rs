//! The rules by theme: one line each, with its equation.

pub mod activations;
pub mod algebra;
pub mod attention;
pub mod causal;
pub mod commute;
pub mod constants;
pub mod conv;
pub mod exchange;
pub mod experts;
pub mod filters;
pub mod gather;
pub mod groups;
pub mod gru;
pub mod integer;
pub mod layout;
pub mod linear;
pub mod matmul;
pub mod narrow;
pub mod norms;
pub mod pads;
pub mod parallel;
pub mod quantize;
pub mod recognise;
pub mod recurrent;
pub mod reductions;
pub mod rotary;
pub mod signs;
pub mod slices;
pub mod standardize;
pub mod transposed;
pub mod transposes;

use super::{Rewriter, Rule};
use crate::ir::{NodeId, ValueId};
use kiln_kernels::dtype::DType;
use kiln_kernels::value::Tensor;

/// Every canonical rule, in the order in which they are tried at a node.
pub fn all() -> Vec<&'static Rule> {
    [
        constants::RULES,
        algebra::RULES,
        layout::RULES,
        slices::RULES,
        transposes::RULES,
        reductions::RULES,
        pads::RULES,
        conv::RULES,
        filters::RULES,
        transposed::RULES,
        matmul::RULES,
        quantize::RULES,
        signs::RULES,
        integer::RULES,
        narrow::RULES,
        recognise::RULES,
        norms::RULES,
        activations::RULES,
        groups::RULES,
        attention::RULES,
        causal::RULES,
        gather::RULES,
        experts::RULES,
        rotary::RULES,
        recurrent::RULES,
        gru::RULES,
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Rules that are explored: whether they pay is for the cost of the whole to say.
pub fn exploring() -> Vec<&'static Rule> {
    let own = [parallel::RULES, commute::RULES, exchange::RULES, linear::RULES, standardize::RULES];
    own.into_iter().flatten().chain(proving()).collect()
}

/// The canonical rules that ask what the analysis proves: in the e-graph it is known of every term that is equal.
fn proving() -> impl Iterator<Item = &'static Rule> {
    causal::RULES.iter().chain(quantize::RULES)
}

/// The exploring rules that merge siblings, which compilers of ordered passes apply wherever they match.
pub fn merging() -> Vec<&'static Rule> {
    parallel::RULES.iter().collect()
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

/// Both orders of a node's two operands.
fn orders(rw: &Rewriter<'_>, n: NodeId) -> Option<[(ValueId, ValueId); 2]> {
    let (a, b) = (rw.input(n, 0)?, rw.input(n, 1)?);
    Some([(a, b), (b, a)])
}

/// The operands of a pointwise node with `f` applied to those that are not left `alone`; `None` when `f` fails or all are.
fn each(
    rw: &mut Rewriter<'_>,
    n: NodeId,
    alone: fn(&Rewriter<'_>, ValueId) -> bool,
    f: &mut dyn FnMut(&mut Rewriter<'_>, ValueId) -> Option<ValueId>,
) -> Option<Vec<ValueId>> {
    let mut any = false;
    let mut out = Vec::new();
    for v in rw.node(n).inputs.clone() {
        let v = v?;
        out.push(match alone(rw, v) {
            true => v,
            false => {
                any = true;
                f(rw, v)?
            }
        });
    }
    any.then_some(out)
}

/// Whether a value has no axes, so that no shape depends on it.
fn scalar(rw: &Rewriter<'_>, v: ValueId) -> bool {
    rw.shape(v).is_empty()
}
