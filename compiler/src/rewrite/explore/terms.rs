//! The terms of the e-graph: operators by number over classes, and what the analysis knows of a class.

use crate::ir::Fact;
use crate::ops::Op;
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
        Op::Concat(_) => hull(),
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
}

/// Heads by number, and the analysis over classes of terms.
#[derive(Debug, Default)]
pub(super) struct Terms {
    pub(super) heads: Vec<Head>,
    numbers: BTreeMap<Head, u32>,
    /// What is known of the term that is about to be added.
    pub(super) known: Option<Class>,
    /// The first union of values that differ in type: a bug in a rule.
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
}

impl Analysis<Term> for Terms {
    type Data = Class;

    fn make(eg: &mut EGraph, term: &Term, _: Id) -> Class {
        if let Some(known) = eg.analysis.known.take() {
            return known;
        }
        let unknown = Class { facts: vec![], weight: false, constant: None, range: Interval::ANY };
        let children = term.children.iter().map(|c| &eg[*c].data);
        match eg.analysis.head(term) {
            Head::Apply(op, 1) => {
                let ranges: Vec<Interval> = children.clone().map(|c| c.range).collect();
                Class { weight: children.clone().all(|c| c.weight), range: interval(op, &ranges), ..unknown }
            }
            Head::Apply(..) => Class { weight: children.clone().all(|c| c.weight), ..unknown },
            Head::Result(i) => match children.clone().next() {
                Some(all) => {
                    let facts = all.facts.get(*i as usize).cloned().into_iter().collect();
                    Class { facts, weight: all.weight, ..unknown }
                }
                None => unknown,
            },
            Head::Leaf(_) | Head::Absent => unknown,
        }
    }

    fn merge(&mut self, a: &mut Class, b: Class) -> DidMerge {
        let types = |c: &Class| c.facts.iter().map(|f| f.ty.clone()).collect::<Vec<_>>();
        if !a.facts.is_empty() && !b.facts.is_empty() && types(a) != types(&b) && self.clash.is_none() {
            self.clash = Some(format!("values of types {:?} and {:?} were called equal", types(a), types(&b)));
        }
        let (weight, range) = (a.weight || b.weight, a.range.meet(b.range));
        let constant = a.constant.min(b.constant).or(a.constant).or(b.constant);
        let changed = |c: &Class| c.weight != weight || c.range != range || c.constant != constant;
        let did = DidMerge(changed(a), changed(&b));
        if a.facts.is_empty() {
            a.facts = b.facts;
        }
        // Contents that one side knows hold for the other.
        (a.weight, a.range, a.constant) = (weight, range, constant);
        did
    }
}
