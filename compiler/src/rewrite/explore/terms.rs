//! The terms of the e-graph: operators by number over classes, and what the analysis knows of a class.

use crate::ir::Fact;
use crate::ops::Op;
use crate::rewrite::quantization::{self, Operands};
use crate::rewrite::{Affine, Quantization, affine};
use egg::{Analysis, DidMerge, Id, Language};
use kiln_kernels::value::Tensor;
use std::collections::BTreeMap;

/// What stands at the head of a term.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Head {
    /// A value that enters the region: an input, a weight by its place, a small constant.
    Leaf(u32),
    /// An optional operand left out.
    Absent,
    /// One result of an operator that has several.
    Result(u32),
    /// An operator with its number of results.
    Apply(Op, u32),
}

/// A head applied to classes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Term {
    /// A number of [`Terms::heads`].
    pub(super) head: u32,
    pub(super) children: Vec<Id>,
}

impl Language for Term {
    type Discriminant = u32;
    fn discriminant(&self) -> u32 {
        self.head
    }
    fn matches(&self, other: &Self) -> bool {
        self.head == other.head && self.children.len() == other.children.len()
    }
    fn children(&self) -> &[Id] {
        &self.children
    }
    fn children_mut(&mut self) -> &mut [Id] {
        &mut self.children
    }
}

/// Bounds of every element that is a number; infinite where nothing is known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Interval {
    pub(super) lo: f64,
    pub(super) hi: f64,
}

impl Interval {
    pub(super) const ANY: Interval = Interval { lo: f64::NEG_INFINITY, hi: f64::INFINITY };

    /// The interval of a constant's elements.
    pub(super) fn of(t: &Tensor) -> Interval {
        let Some(x) = t.to_f64s().filter(|x| !x.is_empty() && x.iter().all(|v| !v.is_nan())) else { return Interval::ANY };
        Interval { lo: x.iter().copied().fold(f64::INFINITY, f64::min), hi: x.iter().copied().fold(f64::NEG_INFINITY, f64::max) }
    }
    fn meet(self, other: Interval) -> Interval {
        Interval { lo: self.lo.max(other.lo), hi: self.hi.min(other.hi) }
    }
    fn map(self, f: fn(f64) -> f64) -> Interval {
        Interval { lo: f(self.lo), hi: f(self.hi) }
    }
}

/// The interval of an operator's first result; movement keeps its operand's.
pub(super) fn interval(op: &Op, x: &[Interval]) -> Interval {
    let at = |i: usize| x.get(i).copied().unwrap_or(Interval::ANY);
    let hull = || x.iter().copied().reduce(|a, b| Interval { lo: a.lo.min(b.lo), hi: a.hi.max(b.hi) }).unwrap_or(Interval::ANY);
    let within = |lo: f64, hi: f64| Interval { lo, hi };
    match op {
        Op::Softmax(s) if s.mode != "log_softmax" => within(0.0, 1.0),
        Op::Softmax(_) => within(f64::NEG_INFINITY, 0.0),
        Op::Reshape(_) | Op::Transpose(_) | Op::Slice(_) | Op::Split(_) | Op::Expand(_) | Op::Gather(_) | Op::Tile(_) => at(0),
        Op::Concat(_) | Op::Append(_) => hull(),
        Op::Pointwise(p) => match p.name {
            "Relu" => at(0).map(|v| v.max(0.0)),
            "Sigmoid" | "HardSigmoid" => within(0.0, 1.0),
            "Tanh" | "Erf" | "Sin" | "Cos" => within(-1.0, 1.0),
            "Exp" | "Sqrt" => within(0.0, f64::INFINITY),
            "Abs" => within(0.0, at(0).lo.abs().max(at(0).hi.abs())),
            "Neg" => within(-at(0).hi, -at(0).lo),
            "Floor" => at(0).map(f64::floor),
            "Ceil" => at(0).map(f64::ceil),
            "Clip" => within(at(0).lo.max(at(1).lo).min(at(2).hi), at(0).hi.min(at(2).hi).max(at(1).lo)),
            "Max" => within(at(0).lo.max(at(1).lo), at(0).hi.max(at(1).hi)),
            "Min" => within(at(0).lo.min(at(1).lo), at(0).hi.min(at(1).hi)),
            "Where" => within(at(1).lo.min(at(2).lo), at(1).hi.max(at(2).hi)),
            _ => Interval::ANY,
        },
        _ => Interval::ANY,
    }
}

/// A value that a quantization names: a constant leaf by its number, so that its contents are at hand, or a class as it was called when
/// that was learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parameter {
    Leaf(u32),
    Class(Id),
}

/// What is known of a class.
#[derive(Clone, Debug)]
pub(super) struct Class {
    /// The fact of the value, or of each result for an operator with several; empty where a term was only re-examined.
    pub(super) facts: Vec<Fact>,
    /// Whether it depends on weights and constants alone, so that it is computed at compile time.
    pub(super) weight: bool,
    /// Its contents, when they are a small constant: a leaf.
    pub(super) constant: Option<u32>,
    pub(super) range: Interval,
    /// The form of indices.
    pub(super) affine: Option<Affine>,
    /// How it is quantized. A value may be so in several ways, of which one is kept: one that knows the integers before any other.
    pub(super) quantized: Option<Quantization<Parameter>>,
}

impl Class {
    /// A class of which only its types are known.
    pub(super) fn of(facts: Vec<Fact>) -> Class {
        Class { facts, weight: false, constant: None, range: Interval::ANY, affine: None, quantized: None }
    }
}

/// Heads by number, and the analysis over classes of terms.
#[derive(Debug, Default)]
pub(super) struct Terms {
    pub(super) heads: Vec<Head>,
    numbers: BTreeMap<Head, u32>,
    /// Contents of the leaves that are small constants.
    pub(super) leaves: Vec<Option<Tensor>>,
    /// The classes of leaves.
    pub(super) leaf_ids: Vec<Id>,
    /// What is known of the term that is about to be added.
    pub(super) known: Option<Class>,
    /// The first union of values that cannot be equal: a bug in a rule.
    pub(super) clash: Option<String>,
}

/// The e-graph of a region.
pub(super) type EGraph = egg::EGraph<Term, Terms>;

impl Terms {
    /// The number of a head.
    pub(super) fn number(&mut self, head: Head) -> u32 {
        if let Some(n) = self.numbers.get(&head) {
            return *n;
        }
        self.heads.push(head.clone());
        let n = self.heads.len() as u32 - 1;
        self.numbers.insert(head, n);
        n
    }
    pub(super) fn head(&self, t: &Term) -> &Head {
        &self.heads[t.head as usize]
    }
    /// The contents of a small constant.
    pub(super) fn contents(&self, leaf: u32) -> Option<&Tensor> {
        self.leaves.get(leaf as usize)?.as_ref()
    }
    /// Whether two parameters hold the same elements in the same order.
    fn same(&self, a: Parameter, b: Parameter) -> bool {
        let elements = |p: Parameter| match p {
            Parameter::Leaf(n) => self.contents(n).map(|t| (t.dtype, t.bytes())),
            Parameter::Class(_) => None,
        };
        a == b || elements(a).is_some_and(|t| elements(b) == Some(t))
    }
    /// Why two classes cannot be equal.
    fn contradiction(&self, a: &Class, b: &Class) -> Option<String> {
        let types = |c: &Class| c.facts.iter().map(|f| f.ty.clone()).collect::<Vec<_>>();
        if !a.facts.is_empty() && !b.facts.is_empty() && types(a) != types(b) {
            return Some(format!("values of types {:?} and {:?} were called equal", types(a), types(b)));
        }
        let shape = a.facts.iter().chain(&b.facts).find_map(|f| f.ty.shape()).unwrap_or_default();
        if let (Some(p), Some(q)) = (&a.affine, &b.affine)
            && p.contradicts(q, shape)
        {
            return Some(format!("indices {p:?} and {q:?} were called equal"));
        }
        let contents = |c: &Class| c.constant.and_then(|n| self.contents(n)).filter(|t| !t.dtype.is_float());
        if let (Some(p), Some(q)) = (contents(a), contents(b))
            && p.bytes() != q.bytes()
        {
            return Some(format!("constants {:?} and {:?} were called equal", p.to_i64s(), q.to_i64s()));
        }
        if let (Some(p), Some(q)) = (&a.quantized, &b.quantized)
            && !a.weight
            && !b.weight
            && self.other_numbers(p, q)
        {
            return Some(format!("numbers quantized as {p:?} and {q:?} were called equal"));
        }
        None
    }
    /// Whether the same integers stand for other numbers, by scales that are known.
    fn other_numbers(&self, a: &Quantization<Parameter>, b: &Quantization<Parameter>) -> bool {
        let same = |a: &Parameter, b: &Parameter| self.same(*a, *b);
        let (Parameter::Leaf(p), Parameter::Leaf(q)) = (a.scale, b.scale) else { return false };
        let other = |s: u32| Quantization { scale: Parameter::Leaf(s), ..a.clone() };
        let known = self.contents(p).is_some() && self.contents(q).is_some();
        known && a.codes.is_some() && a.codes == b.codes && other(q).agrees(b, &same) && !same(&a.scale, &b.scale)
    }
}

/// The operands of an application as the analysis knows them.
struct Known<'a> {
    eg: &'a EGraph,
    children: &'a [Id],
}

impl Known<'_> {
    fn class(&self, i: usize) -> Option<&Class> {
        Some(&self.eg[*self.children.get(i)?].data)
    }
}

impl Operands<Parameter> for Known<'_> {
    fn value(&mut self, i: usize) -> Option<Parameter> {
        let id = self.eg.find(*self.children.get(i)?);
        Some(self.eg[id].data.constant.map_or(Parameter::Class(id), Parameter::Leaf))
    }
    fn fact(&self, i: usize) -> Option<&Fact> {
        self.class(i)?.facts.first()
    }
    fn of(&mut self, i: usize) -> Option<Quantization<Parameter>> {
        self.class(i)?.quantized.clone()
    }
    fn same(&self, a: &Parameter, b: &Parameter) -> bool {
        let settled = |p: &Parameter| match p {
            Parameter::Class(c) => Parameter::Class(self.eg.find(*c)),
            leaf => *leaf,
        };
        self.eg.analysis.same(settled(a), settled(b))
    }
}

/// What is known of an application, of what is known of its operands.
pub(super) fn examine(eg: &EGraph, op: &Op, results: u32, children: &[Id], facts: Vec<Fact>) -> Class {
    let mut x = Known { eg, children };
    let data = |c: &Id| &eg[*c].data;
    let ranges: Vec<Interval> = children.iter().map(|c| data(c).range).collect();
    let mut class = Class { weight: children.iter().all(|c| data(c).weight), range: interval(op, &ranges), ..Class::of(facts) };
    let Some(result) = class.facts.first() else { return class };
    class.quantized = quantization::transfer(op, result, results as usize, &mut x);
    if results == 1 {
        let from = x.fact(0).and_then(|f| f.ty.shape()).unwrap_or_default();
        let form = affine::transfer(op, from, result, &mut |i| x.class(i)?.affine.clone());
        class.affine = form.or_else(|| Affine::stated(result, None));
    }
    class
}

/// What is known of one result of an application with several.
pub(super) fn examine_result(all: &Class, i: u32) -> Class {
    let facts = all.facts.get(i as usize).cloned().into_iter().collect();
    Class { weight: all.weight, range: all.range, quantized: all.quantized.clone(), ..Class::of(facts) }
}

/// What is known of a leaf.
pub(super) fn examine_leaf(fact: Fact, weight: bool, constant: Option<(u32, &Tensor)>) -> Class {
    let contents = constant.map(|c| c.1);
    let range = contents.map_or(Interval::ANY, Interval::of);
    let affine = Affine::stated(&fact, contents);
    Class { weight, constant: constant.map(|c| c.0), range, affine, ..Class::of(vec![fact]) }
}

impl Analysis<Term> for Terms {
    type Data = Class;

    fn make(eg: &mut EGraph, _: &Term, _: Id) -> Class {
        eg.analysis.known.take().unwrap_or_else(|| Class::of(vec![]))
    }

    fn remake(eg: &mut EGraph, term: &Term, id: Id) -> Class {
        let facts = || eg[id].data.facts.clone();
        let mut class = match eg.analysis.head(term) {
            Head::Apply(op, n) => examine(eg, op, *n, &term.children, facts()),
            Head::Result(i) => term.children.first().map_or_else(|| Class::of(vec![]), |all| examine_result(&eg[*all].data, *i)),
            Head::Leaf(_) | Head::Absent => Class::of(vec![]),
        };
        // Types are not learned from operands.
        class.facts.clear();
        class
    }

    fn merge(&mut self, a: &mut Class, b: Class) -> DidMerge {
        if self.clash.is_none() {
            self.clash = self.contradiction(a, &b);
        }
        let (weight, range) = (a.weight || b.weight, a.range.meet(b.range));
        let constant = a.constant.min(b.constant).or(a.constant).or(b.constant);
        let affine = a.affine.clone().or_else(|| b.affine.clone());
        let knows = |c: &Class| c.quantized.as_ref().map(|q| q.codes.is_some());
        let quantized = if knows(&b) > knows(a) { b.quantized.clone() } else { a.quantized.clone() };
        let changed = |c: &Class| {
            c.weight != weight
                || c.range != range
                || c.constant != constant
                || c.affine.is_some() != affine.is_some()
                || knows(c) != quantized.as_ref().map(|q| q.codes.is_some())
        };
        let did = DidMerge(changed(a), changed(&b));
        if a.facts.is_empty() {
            a.facts = b.facts;
        }
        // Contents that one side knows hold for the other.
        (a.weight, a.range, a.constant, a.affine, a.quantized) = (weight, range, constant, affine, quantized);
        did
    }
}
