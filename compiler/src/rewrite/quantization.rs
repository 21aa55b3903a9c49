//! Quantized values: the parameters by which integers stand for numbers, as conversions give them and movement keeps them.

use super::Rewriter;
use crate::ir::{Dim, Fact, NodeId, Type, ValueId, product};
use crate::ops::Op;
use crate::ops::quantize::{dequantizer, quantizer};
use kiln_kernels::dtype::DType;
use std::collections::BTreeMap;

/// How a value is quantized: its elements are integers of a type, or the numbers `(integer - zero) · scale` that those stand for.
///
/// `V` names a value: of a graph, or of an e-graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quantization<V> {
    /// The type of the integers, of 8 or 16 bits.
    pub dtype: DType,
    /// The scale, of one element or one for each index of the axis.
    pub scale: V,
    /// The zero point, of as many elements; 0 where it is left out.
    pub zero: Option<V>,
    /// The axis of the value along which scale and zero point differ.
    pub axis: Option<usize>,
    /// Of numbers: the integers in the same places, where they are there.
    pub codes: Option<V>,
}

/// Operators between a value and the conversion it comes from, at most.
const DEPTH: usize = 16;

/// What a transfer function asks about the operands of an operator.
pub(super) trait Operands<V> {
    /// The operand, if it is there.
    fn value(&mut self, i: usize) -> Option<V>;
    /// Its fact.
    fn fact(&self, i: usize) -> Option<&Fact>;
    /// How it is quantized.
    fn of(&mut self, i: usize) -> Option<Quantization<V>>;
    /// Whether two values are one, or hold the same numbers in the same order.
    fn same(&self, a: &V, b: &V) -> bool;
}

impl<V: Clone> Quantization<V> {
    /// Whether two stand for integers by the same numbers along the same axis.
    pub(super) fn agrees(&self, other: &Self, same: &dyn Fn(&V, &V) -> bool) -> bool {
        let zeros = match (&self.zero, &other.zero) {
            (Some(a), Some(b)) => same(a, b),
            (a, b) => a.is_none() && b.is_none(),
        };
        self.dtype == other.dtype && self.axis == other.axis && zeros && same(&self.scale, &other.scale)
    }
    fn moved(self, axis: Option<usize>) -> Self {
        Quantization { axis, codes: None, ..self }
    }
}

/// Whether the integers are of a type whose values f32 counts without error.
fn counted(d: DType) -> bool {
    matches!(d, DType::U8 | DType::I8 | DType::U16 | DType::I16)
}

/// The axis of a value along which parameters of that shape differ; `Some(None)` for one number.
fn axis_of(shape: &[Dim], rank: usize) -> Option<Option<usize>> {
    let mut wide = (0..shape.len()).filter(|i| !shape[*i].is(1));
    let axis = wide.next();
    if wide.next().is_some() || shape.len() > rank {
        return None;
    }
    Some(axis.map(|i| i + rank - shape.len()))
}

/// The quantization of an operator's results, of those of its operands: what the walk over producers and the analysis of the e-graph
/// share.
pub(super) fn transfer<V: Clone>(op: &Op, result: &Fact, results: usize, x: &mut dyn Operands<V>) -> Option<Quantization<V>> {
    let Type::Tensor(dtype, shape) = &result.ty else { return None };
    if results != 1 && !matches!(op, Op::Split(_)) {
        return None;
    }
    match op {
        Op::Pointwise(_) => converted(op, *dtype, shape, x),
        Op::Reshape(_) => {
            let q = x.of(0)?;
            let from = x.fact(0)?.ty.shape()?;
            let axis = match q.axis {
                None => None,
                Some(a) => Some((0..shape.len()).find(|b| shape[*b] == from[a] && product(&shape[..*b]) == product(&from[..a]))?),
            };
            Some(q.moved(axis))
        }
        Op::Transpose(t) => {
            let q = x.of(0)?;
            let axis = match q.axis {
                None => None,
                Some(a) => Some(t.perm.iter().position(|p| *p == a)?),
            };
            Some(q.moved(axis))
        }
        Op::Expand(_) => {
            let q = x.of(0)?;
            let rank = x.fact(0)?.ty.shape()?.len();
            let axis = q.axis.map(|a| a + shape.len() - rank);
            Some(q.moved(axis))
        }
        // A part of the axis would need a part of the parameters.
        Op::Slice(s) => {
            let q = x.of(0)?;
            let from = x.fact(0)?.ty.shape()?;
            let whole = |a: usize| s.bounds.is_empty() && s.starts[a].is(0) && s.steps[a] == 1 && s.sizes[a] == from[a];
            let axis = q.axis;
            axis.is_none_or(whole).then(|| q.moved(axis))
        }
        Op::Split(s) => {
            let q = x.of(0)?;
            let axis = q.axis;
            (axis != Some(s.axis)).then(|| q.moved(axis))
        }
        Op::Tile(t) => {
            let q = x.of(0)?;
            let axis = q.axis;
            axis.is_none_or(|a| t.repeats.get(a).is_some_and(|n| n.is(1))).then(|| q.moved(axis))
        }
        Op::Gather(g) => {
            let q = x.of(0)?;
            let more = x.fact(1)?.ty.shape()?.len();
            let axis = match q.axis {
                Some(a) if a == g.axis => return None,
                Some(a) if a > g.axis => Some(a + more - 1),
                other => other,
            };
            Some(q.moved(axis))
        }
        Op::Concat(c) => {
            let first = x.of(0)?;
            let mut i = 1;
            while x.fact(i).is_some() {
                let other = x.of(i)?;
                if !first.agrees(&other, &|a, b| x.same(a, b)) {
                    return None;
                }
                i += 1;
            }
            let axis = first.axis;
            (axis != Some(c.axis)).then(|| first.moved(axis))
        }
        // The greatest of numbers is one of them, where every window has some.
        Op::Pool(p) if p.mode == "max" => {
            let q = x.of(0)?;
            let inside = p.pads.iter().enumerate().all(|(i, n)| *n >= 0 && *n < p.kernel[i % p.kernel.len()]);
            let dense = p.dilations.iter().all(|d| *d == 1) || p.pads.iter().all(|n| *n == 0);
            let axis = q.axis;
            (inside && dense && !p.ceil && axis.is_none_or(|a| a < 2)).then(|| q.moved(axis))
        }
        _ => None,
    }
}

/// The quantization of the result of a conversion from or to integers.
fn converted<V: Clone>(op: &Op, dtype: DType, shape: &[Dim], x: &mut dyn Operands<V>) -> Option<Quantization<V>> {
    let Op::Pointwise(p) = op else { return None };
    let to = match p.name {
        "DequantizeLinear" => false,
        "QuantizeLinear" => true,
        _ => return None,
    };
    let (from, scale) = (x.fact(0)?, x.fact(1)?);
    let zero = x.fact(2).and_then(|f| Some((f.ty.dtype()?, f.ty.shape()?)));
    let (own, scale_dtype, rank) = (from.ty.dtype()?, scale.ty.dtype()?, shape.len());
    let whole = match to {
        true => quantizer(own, scale_dtype, zero.map(|z| z.0), dtype).ok()?,
        false => dequantizer(own, scale_dtype, zero.map(|z| z.0), DType::F32),
    };
    let integers = if to { dtype } else { own };
    if *p != whole || scale_dtype != DType::F32 || !counted(integers) || from.ty.shape() != Some(shape) {
        return None;
    }
    let axis = axis_of(scale.ty.shape()?, rank)?;
    if zero.is_some_and(|z| axis_of(z.1, rank) != Some(axis)) {
        return None;
    }
    let zero = if zero.is_some() { Some(x.value(2)?) } else { None };
    let codes = if to { None } else { Some(x.value(0)?) };
    Some(Quantization { dtype: integers, scale: x.value(1)?, zero, axis, codes })
}

/// The operands of a node as its producers show them.
struct Shown<'a, 'g> {
    rw: &'a Rewriter<'g>,
    n: NodeId,
    depth: usize,
    seen: &'a mut BTreeMap<ValueId, Option<Quantization<ValueId>>>,
}

impl Operands<ValueId> for Shown<'_, '_> {
    fn value(&mut self, i: usize) -> Option<ValueId> {
        self.rw.input(self.n, i)
    }
    fn fact(&self, i: usize) -> Option<&Fact> {
        Some(&self.rw.graph()[self.rw.input(self.n, i)?].fact)
    }
    fn of(&mut self, i: usize) -> Option<Quantization<ValueId>> {
        let v = self.rw.input(self.n, i)?;
        match &self.rw.part {
            Some(part) => part.quantized.get(&v).cloned(),
            None => walk(self.rw, v, self.depth + 1, self.seen),
        }
    }
    fn same(&self, a: &ValueId, b: &ValueId) -> bool {
        self.rw.same(*a, *b)
    }
}

type Seen = BTreeMap<ValueId, Option<Quantization<ValueId>>>;

fn walk(rw: &Rewriter<'_>, v: ValueId, depth: usize, seen: &mut Seen) -> Option<Quantization<ValueId>> {
    if let Some(known) = seen.get(&v) {
        return known.clone();
    }
    let n = rw.producer(v).filter(|_| depth < DEPTH);
    let found = n.and_then(|n| of_results(rw, n, depth, seen));
    seen.insert(v, found.clone());
    found
}

fn of_results(rw: &Rewriter<'_>, n: NodeId, depth: usize, seen: &mut Seen) -> Option<Quantization<ValueId>> {
    let node = rw.node(n);
    let result = &rw.graph()[*node.outputs.first()?].fact;
    transfer(&node.op, result, node.outputs.len(), &mut Shown { rw, n, depth, seen })
}

impl Rewriter<'_> {
    /// How a value is quantized: what the analysis knows of its class, or what its producers show.
    pub fn quantization(&self, v: ValueId) -> Option<Quantization<ValueId>> {
        match &self.part {
            Some(part) => part.quantized.get(&v).cloned(),
            None => walk(self, v, 0, &mut Seen::new()),
        }
    }
    /// How the results of a node are quantized by what it is: its class in an e-graph may know more than one answer.
    pub fn quantization_by(&self, n: NodeId) -> Option<Quantization<ValueId>> {
        of_results(self, n, 0, &mut Seen::new())
    }
    /// Whether two values are one, or constants of the same elements in the same order.
    pub fn same(&self, a: ValueId, b: ValueId) -> bool {
        let elements = |v: ValueId| self.constant(v).map(|t| (t.dtype, t.bytes()));
        a == b || elements(a).is_some_and(|t| elements(b) == Some(t))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::gather::Gather;
    use crate::ops::movement::{Concat, Expand, Slice, Split, Transpose};
    use crate::ops::pad::Tile;
    use crate::ops::pool::Pool;
    use crate::ops::shape::Reshape;

    /// Operands by name: their shapes and what is known of them.
    struct Given(Vec<(Fact, Option<Quantization<u8>>)>);
    impl Operands<u8> for Given {
        fn value(&mut self, i: usize) -> Option<u8> {
            (i < self.0.len()).then_some(i as u8)
        }
        fn fact(&self, i: usize) -> Option<&Fact> {
            self.0.get(i).map(|x| &x.0)
        }
        fn of(&mut self, i: usize) -> Option<Quantization<u8>> {
            self.0.get(i)?.1.clone()
        }
        fn same(&self, a: &u8, b: &u8) -> bool {
            a == b
        }
    }
    fn dims(x: &[i64]) -> Vec<Dim> {
        x.iter().map(|n| Dim::int(*n)).collect()
    }
    fn along(axis: Option<usize>) -> Quantization<u8> {
        Quantization { dtype: DType::U8, scale: 7, zero: Some(8), axis, codes: None }
    }
    /// The axis behind an operator on a `[2, 3, 4, 5]` that is quantized along `axis`; `None` where nothing is known any more.
    fn behind(op: impl Into<Op>, axis: Option<usize>, to: &[i64], more: Vec<(Fact, Option<Quantization<u8>>)>) -> Option<Option<usize>> {
        let f32 = |s: &[i64]| Fact::tensor(DType::F32, dims(s));
        let mut x = vec![(f32(&[2, 3, 4, 5]), Some(Quantization { codes: Some(9), ..along(axis) }))];
        x.extend(more);
        let op = op.into();
        let results = if matches!(op, Op::Split(_)) { 2 } else { 1 };
        let found = transfer(&op, &f32(to), results, &mut Given(x))?;
        assert_eq!(found, along(found.axis), "only the axis moves");
        Some(found.axis)
    }

    #[test]
    fn movement_keeps_parameters() {
        let reshape = |to: &[i64]| Reshape { shape: dims(to) };
        assert_eq!(behind(reshape(&[120]), None, &[120], vec![]), Some(None));
        assert_eq!(behind(reshape(&[2, 3, 20]), Some(1), &[2, 3, 20], vec![]), Some(Some(1)));
        assert_eq!(behind(reshape(&[6, 4, 5]), Some(2), &[6, 4, 5], vec![]), Some(Some(1)));
        assert_eq!(behind(reshape(&[6, 20]), Some(1), &[6, 20], vec![]), None);
        assert_eq!(behind(Transpose { perm: vec![0, 2, 3, 1] }, Some(1), &[2, 4, 5, 3], vec![]), Some(Some(3)));
        assert_eq!(behind(Expand { shape: dims(&[6, 2, 3, 4, 5]) }, Some(1), &[6, 2, 3, 4, 5], vec![]), Some(Some(2)));
        let mut cut = Slice::whole(&dims(&[2, 3, 4, 5]));
        cut.sizes[1] = Dim::int(2);
        assert_eq!(behind(cut.clone(), Some(1), &[2, 2, 4, 5], vec![]), None);
        assert_eq!(behind(cut, Some(2), &[2, 2, 4, 5], vec![]), Some(Some(2)));
        let split = |axis| Split { axis, sizes: dims(&[1, 1]) };
        assert_eq!(behind(split(0), Some(1), &[1, 3, 4, 5], vec![]), Some(Some(1)));
        assert_eq!(behind(split(1), Some(1), &[2, 1, 4, 5], vec![]), None);
        let tile = Tile { repeats: dims(&[1, 2, 1, 1]) };
        assert_eq!(behind(tile.clone(), Some(1), &[2, 6, 4, 5], vec![]), None);
        assert_eq!(behind(tile, Some(3), &[2, 6, 4, 5], vec![]), Some(Some(3)));
        let index = || vec![(Fact::tensor(DType::I64, dims(&[7, 8])), None)];
        assert_eq!(behind(Gather { axis: 1 }, Some(2), &[2, 7, 8, 4, 5], index()), Some(Some(3)));
        assert_eq!(behind(Gather { axis: 1 }, Some(0), &[2, 7, 8, 4, 5], index()), Some(Some(0)));
        assert_eq!(behind(Gather { axis: 1 }, Some(1), &[2, 7, 8, 4, 5], index()), None);
        let other = |q| vec![(Fact::tensor(DType::F32, dims(&[2, 3, 4, 5])), Some(q))];
        assert_eq!(behind(Concat { axis: 0 }, Some(1), &[4, 3, 4, 5], other(along(Some(1)))), Some(Some(1)));
        assert_eq!(behind(Concat { axis: 1 }, Some(1), &[2, 6, 4, 5], other(along(Some(1)))), None);
        assert_eq!(behind(Concat { axis: 0 }, Some(1), &[4, 3, 4, 5], other(along(None))), None);
        assert_eq!(behind(Concat { axis: 0 }, None, &[4, 3, 4, 5], other(Quantization { scale: 6, ..along(None) })), None);
        let pool = |mode, pads: [i64; 4]| Pool {
            mode,
            kernel: vec![2, 2],
            strides: vec![1, 1],
            pads: pads.to_vec(),
            dilations: vec![1, 1],
            ceil: false,
            column_major: false,
        };
        assert_eq!(behind(pool("max", [1, 1, 0, 0]), Some(1), &[2, 3, 4, 5], vec![]), Some(Some(1)));
        assert_eq!(behind(pool("average", [1, 1, 0, 0]), None, &[2, 3, 4, 5], vec![]), None);
        // A window of pads alone is none of the numbers.
        assert_eq!(behind(pool("max", [2, 0, 0, 0]), None, &[2, 3, 5, 4], vec![]), None);
    }

    #[test]
    fn conversions_give_parameters() {
        let fact = |d: DType, s: &[i64]| (Fact::tensor(d, dims(s)), None);
        let to = |scale: &[i64]| {
            let x = vec![fact(DType::I8, &[2, 3, 4]), fact(DType::F32, scale), fact(DType::I8, scale)];
            let op: Op = dequantizer(DType::I8, DType::F32, Some(DType::I8), DType::F32).into();
            transfer(&op, &fact(DType::F32, &[2, 3, 4]).0, 1, &mut Given(x))
        };
        let whole = Quantization { dtype: DType::I8, scale: 1, zero: Some(2), axis: None, codes: Some(0) };
        assert_eq!(to(&[]), Some(whole.clone()));
        assert_eq!(to(&[3, 1]), Some(Quantization { axis: Some(1), ..whole }));
        // Blocks have no axis.
        assert_eq!(to(&[3, 4]), None);
        let op: Op = quantizer(DType::F32, DType::F32, None, DType::U16).unwrap().into();
        let x = vec![fact(DType::F32, &[4]), fact(DType::F32, &[])];
        let q = transfer(&op, &fact(DType::U16, &[4]).0, 1, &mut Given(x));
        assert_eq!(q, Some(Quantization { dtype: DType::U16, scale: 1, zero: None, axis: None, codes: None }));
    }
}
