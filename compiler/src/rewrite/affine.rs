//! Affine integers: values whose elements are a base plus a step along each axis, as index arithmetic makes them of ranges.

use super::{Rewriter, head};
use crate::ir::{Dim, ValueId};
use crate::ops::Op;
use kiln_kernels::dtype::DType;
use kiln_kernels::value::Tensor;

/// Elements `base + Σ steps[a] · i[a]` at the index `i`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Affine {
    /// The element at index 0.
    pub(super) base: Dim,
    /// From neighbour to neighbour, by axis; 0 along axes of extent 1.
    pub(super) steps: Vec<Dim>,
}

/// Operators between a value and the ranges it is made of, at most.
const DEPTH: usize = 24;
/// Constants of more elements are not looked through.
const LARGEST: usize = 1 << 22;
/// The largest number in an affine form.
const LIMIT: u64 = 1 << 40;

impl Affine {
    /// The form of a constant.
    pub(super) fn constant(t: &Tensor) -> Option<Affine> {
        let x = t.to_i64s()?;
        let first = *x.first().filter(|_| x.len() <= LARGEST)?;
        let mut steps = vec![0i64; t.dims.len()];
        let mut pitch = 1;
        for (step, &n) in steps.iter_mut().zip(&t.dims).rev() {
            *step = if n > 1 { x[pitch].checked_sub(first)? } else { 0 };
            pitch *= n;
        }
        let mut index = vec![0usize; t.dims.len()];
        for &found in &x {
            let sum = index.iter().zip(&steps).try_fold(first, |sum, (i, s)| sum.checked_add(s.checked_mul(*i as i64)?))?;
            if sum != found {
                return None;
            }
            for (i, n) in index.iter_mut().zip(&t.dims).rev() {
                *i += 1;
                if *i < *n {
                    break;
                }
                *i = 0;
            }
        }
        Some(Affine { base: Dim::int(first), steps: steps.into_iter().map(Dim::int).collect() })
    }
    /// The sum with `other` taken `times`, in a shape of `rank` axes.
    fn plus(&self, other: &Affine, times: i64, rank: usize) -> Affine {
        let step = |a: &Affine, i: usize| (i + a.steps.len()).checked_sub(rank).map_or(Dim::int(0), |i| a.steps[i].clone());
        Affine {
            base: self.base.clone() + other.base.clone() * Dim::int(times),
            steps: (0..rank).map(|i| step(self, i) + step(other, i) * Dim::int(times)).collect(),
        }
    }
    /// The difference of two values that broadcast to `rank` axes.
    pub(super) fn minus(&self, other: &Affine, rank: usize) -> Affine {
        self.plus(other, -1, rank)
    }
    fn times(&self, by: &Dim) -> Affine {
        Affine { base: self.base.clone() * by.clone(), steps: self.steps.iter().map(|s| s.clone() * by.clone()).collect() }
    }
    /// The number that all elements are.
    fn one(&self) -> Option<&Dim> {
        self.steps.iter().all(|s| s.is(0)).then_some(&self.base)
    }
}

/// The affine form of an i64 value, if it has one that its producers show.
pub(super) fn affine(rw: &Rewriter<'_>, v: ValueId) -> Option<Affine> {
    walk(rw, v, 0)
}

fn walk(rw: &Rewriter<'_>, v: ValueId, depth: usize) -> Option<Affine> {
    if depth > DEPTH || rw.dtype(v) != DType::I64 {
        return None;
    }
    let form = form(rw, v, depth)?;
    // Sums of indices do not wrap; numbers near the ends of the type might.
    let small = |d: &Dim| d.as_int().is_none_or(|n| n.unsigned_abs() <= LIMIT);
    (small(&form.base) && form.steps.iter().all(small)).then_some(form)
}

fn form(rw: &Rewriter<'_>, v: ValueId, depth: usize) -> Option<Affine> {
    let shape = rw.shape(v);
    if let Some([one]) = rw.graph()[v].fact.dims.as_deref() {
        return Some(Affine { base: one.clone(), steps: vec![Dim::int(0); shape.len()] });
    }
    if let Some(t) = rw.constant(v) {
        return Affine::constant(t);
    }
    let n = rw.producer(v)?;
    let of = |i: usize| walk(rw, rw.input(n, i)?, depth + 1);
    match &rw.node(n).op {
        Op::Host(h) if h.name == "range" => {
            let (start, step) = (of(0)?, of(2)?);
            Some(Affine { base: start.one()?.clone(), steps: vec![step.one()?.clone()] })
        }
        Op::Reshape(_) => {
            let from = rw.shape(rw.input(n, 0)?);
            let wide = |s: &[Dim]| s.iter().filter(|d| !d.is(1)).cloned().collect::<Vec<_>>();
            // Only axes of extent 1 come and go.
            if wide(from) != wide(shape) {
                return None;
            }
            let x = of(0)?;
            let mut steps = from.iter().zip(x.steps).filter(|(d, _)| !d.is(1)).map(|(_, s)| s);
            Some(Affine {
                base: x.base,
                steps: shape.iter().map(|d| if d.is(1) { Some(Dim::int(0)) } else { steps.next() }).collect::<Option<_>>()?,
            })
        }
        Op::Expand(_) => {
            let from = rw.shape(rw.input(n, 0)?);
            let x = of(0)?;
            let skip = shape.len().checked_sub(from.len())?;
            let mut steps = vec![Dim::int(0); skip];
            for (own, (to, step)) in from.iter().zip(shape[skip..].iter().zip(x.steps)) {
                // An axis that may be repeated or not has no step that is known.
                steps.push(if own == to {
                    step
                } else if own.is(1) {
                    Dim::int(0)
                } else {
                    return None;
                });
            }
            Some(Affine { base: x.base, steps })
        }
        Op::Transpose(t) => {
            let x = of(0)?;
            Some(Affine { steps: t.perm.iter().map(|p| x.steps[*p].clone()).collect(), base: x.base })
        }
        Op::Slice(s) if s.bounds.is_empty() => {
            let x = of(0)?;
            let base = x.steps.iter().zip(&s.starts).fold(x.base.clone(), |sum, (step, start)| sum + step.clone() * start.clone());
            Some(Affine { base, steps: x.steps.iter().zip(&s.steps).map(|(a, b)| a.clone() * Dim::int(*b)).collect() })
        }
        Op::Pointwise(_) => match head(&rw.node(n).op) {
            "Add" => Some(of(0)?.plus(&of(1)?, 1, shape.len())),
            "Sub" => Some(of(0)?.minus(&of(1)?, shape.len())),
            "Mul" => {
                let (a, b) = (of(0)?, of(1)?);
                let none = Affine { base: Dim::int(0), steps: vec![] };
                let product = if let Some(c) = b.one() { a.times(c) } else { b.times(a.one()?) };
                Some(product.plus(&none, 1, shape.len()))
            }
            _ => None,
        },
        _ => None,
    }
}
