//! Affine integers: values whose elements are a base plus a step along each axis, as index arithmetic makes them of ranges.

use super::{Rewriter, head};
use crate::ir::{Dim, Fact, Graph, Node, Range, Type, ValueId};
use crate::ops::Op;
use kiln_kernels::dtype::DType;
use kiln_kernels::value::Tensor;
use std::collections::BTreeMap;

/// Elements `base + Σ steps[a] · i[a]` at the index `i`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Affine {
    /// The element at index 0.
    pub base: Dim,
    /// From neighbour to neighbour, by axis; 0 along axes of extent 1.
    pub steps: Vec<Dim>,
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
    /// The form of indices that a fact or contents show, whatever computes them.
    pub(super) fn stated(fact: &Fact, contents: Option<&Tensor>) -> Option<Affine> {
        let Type::Tensor(DType::I64, shape) = &fact.ty else { return None };
        if let Some(t) = contents {
            return Affine::constant(t).filter(Affine::modest);
        }
        let form = match (fact.dims.as_deref()?, shape.len()) {
            ([one], rank) => Affine { base: one.clone(), steps: vec![Dim::int(0); rank] },
            ([first, second, ..], 1) => {
                let step = second.clone() - first.clone();
                let even = fact.dims.iter().flat_map(|d| d.windows(2)).all(|d| d[1].clone() - d[0].clone() == step);
                even.then(|| Affine { base: first.clone(), steps: vec![step] })?
            }
            _ => return None,
        };
        Some(form).filter(Affine::modest)
    }
    /// Whether no tensor of that shape has both forms. One that may be empty has every form.
    pub(super) fn contradicts(&self, other: &Affine, shape: &[Dim]) -> bool {
        let least: Vec<i64> = shape.iter().map(|d| d.range(&|_| Range { lo: 0, hi: None }).lo).collect();
        let differ = |a: &Dim, b: &Dim| a.equals(b) == Some(false);
        let steps = self.steps.iter().zip(&other.steps).zip(&least).any(|((a, b), n)| *n > 1 && differ(a, b));
        least.iter().all(|n| *n > 0) && (steps || differ(&self.base, &other.base))
    }
    /// Sums of indices do not wrap; numbers near the ends of the type might.
    fn modest(&self) -> bool {
        let small = |d: &Dim| d.as_int().is_none_or(|n| n.unsigned_abs() <= LIMIT);
        small(&self.base) && self.steps.iter().all(small)
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

/// The form of an operator's only result, of the forms `of` its operands: what the walk over producers and the analysis of the e-graph
/// share. `from` is the shape of the first operand.
pub(super) fn transfer(op: &Op, from: &[Dim], result: &Fact, of: &mut dyn FnMut(usize) -> Option<Affine>) -> Option<Affine> {
    let Type::Tensor(DType::I64, shape) = &result.ty else { return None };
    let mut form = apply(op, from, shape, of)?;
    // What was cut down to one element has no neighbour.
    form.steps.iter_mut().zip(shape).filter(|(_, d)| d.is(1)).for_each(|(s, _)| *s = Dim::int(0));
    form.modest().then_some(form)
}

fn apply(op: &Op, from: &[Dim], shape: &[Dim], of: &mut dyn FnMut(usize) -> Option<Affine>) -> Option<Affine> {
    match op {
        Op::Host(h) if h.name == "range" => {
            let (start, step) = (of(0)?, of(2)?);
            Some(Affine { base: start.one()?.clone(), steps: vec![step.one()?.clone()] })
        }
        Op::Reshape(_) => {
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
            Some(Affine { steps: t.perm.iter().map(|p| x.steps.get(*p).cloned()).collect::<Option<_>>()?, base: x.base })
        }
        Op::Slice(s) if s.bounds.is_empty() => {
            let x = of(0)?;
            let base = x.steps.iter().zip(&s.starts).fold(x.base.clone(), |sum, (step, start)| sum + step.clone() * start.clone());
            Some(Affine { base, steps: x.steps.iter().zip(&s.steps).map(|(a, b)| a.clone() * Dim::int(*b)).collect() })
        }
        Op::Pointwise(_) => match head(op) {
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

/// Where values come from, as far as that is shown.
type Producers<'a> = &'a dyn Fn(ValueId) -> Option<&'a Node>;

/// The affine form of an i64 value that its producers show, if it has one.
pub(super) fn shown<'a>(g: &'a Graph, producer: Producers<'a>, v: ValueId) -> Option<Affine> {
    Walk { g, producer, seen: BTreeMap::new() }.form(v, 0)
}

/// A walk over producers, which asks each of them once.
struct Walk<'a> {
    g: &'a Graph,
    producer: Producers<'a>,
    seen: BTreeMap<ValueId, Option<Affine>>,
}

impl Walk<'_> {
    fn form(&mut self, v: ValueId, depth: usize) -> Option<Affine> {
        if let Some(known) = self.seen.get(&v) {
            return known.clone();
        }
        let form = self.made(v, depth);
        self.seen.insert(v, form.clone());
        form
    }
    fn made(&mut self, v: ValueId, depth: usize) -> Option<Affine> {
        let (g, fact) = (self.g, &self.g[v].fact);
        if depth > DEPTH || !matches!(fact.ty, Type::Tensor(DType::I64, _)) {
            return None;
        }
        if g[v].constant.is_some() || fact.dims.as_ref().is_some_and(|d| d.len() == 1) {
            return Affine::stated(fact, g[v].constant.as_ref());
        }
        let Some(n) = (self.producer)(v).filter(|n| n.outputs.len() == 1) else { return Affine::stated(fact, None) };
        let input = |i: usize| n.inputs.get(i).copied().flatten();
        let from = input(0).and_then(|x| g[x].fact.ty.shape()).unwrap_or_default();
        transfer(&n.op, from, fact, &mut |i| self.form(input(i)?, depth + 1)).or_else(|| Affine::stated(fact, None))
    }
}

impl Rewriter<'_> {
    /// The affine form of an i64 value: what the analysis knows of its class, or what its producers show.
    pub fn affine(&self, v: ValueId) -> Option<Affine> {
        match &self.part {
            Some(part) => part.forms.get(&v).cloned(),
            None => shown(self.graph(), &|v| self.producer(v).map(|n| self.node(n)), v),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::movement::{Expand, Slice, Transpose};
    use crate::ops::pointwise::Pointwise;
    use crate::ops::shape::Reshape;

    fn dims(x: &[i64]) -> Vec<Dim> {
        x.iter().map(|n| Dim::int(*n)).collect()
    }
    fn form(base: i64, steps: &[i64]) -> Affine {
        Affine { base: Dim::int(base), steps: dims(steps) }
    }
    /// The form after an operator over operands of those forms, held against the operator itself on constants.
    fn after(op: impl Into<Op>, operands: &[(Affine, &[i64])], to: &[i64]) -> Option<Affine> {
        let result = Fact::tensor(DType::I64, dims(to));
        let of = |i: usize| operands.get(i).map(|(f, _)| f.clone());
        transfer(&op.into(), &dims(operands[0].1), &result, &mut { of })
    }

    #[test]
    fn operators_move_forms() {
        let x = (form(5, &[10, 1]), &[3i64, 4][..]);
        assert_eq!(after(Transpose { perm: vec![1, 0] }, std::slice::from_ref(&x), &[4, 3]), Some(form(5, &[1, 10])));
        let cut = Slice { starts: dims(&[2, 3]), steps: vec![-1, -2], sizes: dims(&[3, 2]), bounds: vec![] };
        assert_eq!(after(cut, std::slice::from_ref(&x), &[3, 2]), Some(form(28, &[-10, -2])));
        assert_eq!(after(Reshape { shape: dims(&[3, 1, 4]) }, std::slice::from_ref(&x), &[3, 1, 4]), Some(form(5, &[10, 0, 1])));
        assert_eq!(after(Reshape { shape: dims(&[12]) }, std::slice::from_ref(&x), &[12]), None);
        let row = (form(7, &[0, 2]), &[1i64, 4][..]);
        assert_eq!(after(Expand { shape: dims(&[2, 3, 4]) }, std::slice::from_ref(&row), &[2, 3, 4]), Some(form(7, &[0, 0, 2])));
        let op = |name| Pointwise::of(name, &[], &[DType::I64; 2]).unwrap();
        assert_eq!(after(op("Add"), &[x.clone(), row.clone()], &[3, 4]), Some(form(12, &[10, 3])));
        assert_eq!(after(op("Sub"), &[x.clone(), row.clone()], &[3, 4]), Some(form(-2, &[10, -1])));
        let three = (form(3, &[]), &[][..]);
        assert_eq!(after(op("Mul"), &[three, x.clone()], &[3, 4]), Some(form(15, &[30, 3])));
        // Products of steps are no steps.
        assert_eq!(after(op("Mul"), &[x.clone(), row], &[3, 4]), None);
    }

    #[test]
    fn facts_and_contents_state_forms() {
        let t = Tensor::new(&[2, 3], &[4i64, 6, 8, 5, 7, 9]);
        let fact = Fact::tensor(DType::I64, dims(&[2, 3]));
        assert_eq!(Affine::stated(&fact, Some(&t)), Some(form(4, &[1, 2])));
        assert_eq!(Affine::stated(&fact, Some(&Tensor::new(&[2, 3], &[4i64, 6, 8, 5, 7, 8]))), None);
        let vector = |x: &[i64]| Fact { dims: Some(dims(x)), ..Fact::tensor(DType::I64, dims(&[x.len() as i64])) };
        assert_eq!(Affine::stated(&vector(&[3, 5, 7]), None), Some(form(3, &[2])));
        assert_eq!(Affine::stated(&vector(&[3, 5, 8]), None), None);
        assert_eq!(Affine::stated(&vector(&[1 << 50]), None), None);
    }

    #[test]
    fn forms_contradict_each_other_only_where_elements_are() {
        let (a, b) = (form(0, &[1, 0]), form(0, &[2, 0]));
        assert!(a.contradicts(&b, &dims(&[3, 4])));
        assert!(form(0, &[0]).contradicts(&form(1, &[0]), &dims(&[2])));
        // One row has no step; no row has no element.
        assert!(!a.contradicts(&b, &dims(&[1, 4])));
        assert!(!a.contradicts(&b, &dims(&[3, 0])));
        // Extents that may be equal are not known to differ.
        let (n, m) = (Dim::sym(crate::ir::Sym(0)), Dim::sym(crate::ir::Sym(1)));
        let at = |base: &Dim| Affine { base: base.clone(), steps: dims(&[1]) };
        assert!(!at(&n).contradicts(&at(&m), &dims(&[4])));
        assert!(at(&n).contradicts(&at(&(n.clone() + Dim::int(1))), &dims(&[4])));
        assert!(!at(&n).contradicts(&at(&(n.clone() + Dim::int(1))), &[m]));
    }
}
