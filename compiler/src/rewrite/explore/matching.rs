//! Rules on an e-graph: a rule sees a small graph that shows one term of each class it has asked about, and is run again for each choice.

use super::terms::{Class, EGraph, Head, Parameter, Term};
use crate::ir::{Graph, Node, NodeId, ValueId};
use crate::ops::Op;
use crate::rewrite::rewriter::{Ask, Part, Rewriter};
use crate::rewrite::{Quantization, Rule};
use egg::Id;
use kiln_kernels::value::Tensor;
use std::collections::BTreeMap;

/// Choices that are tried for one rule at one term.
const MOST_TRIALS: usize = 64;

/// An operand of what a rule built.
#[derive(Clone, Debug)]
pub(super) enum Made {
    Class(Id),
    Node(usize, usize),
    Constant(Tensor),
}

/// A node that a rule built.
#[derive(Clone, Debug)]
pub(super) struct MadeNode {
    pub(super) op: Op,
    pub(super) inputs: Vec<Option<Made>>,
    pub(super) results: Vec<crate::ir::Fact>,
}

/// Classes that a rule found equal to what it built.
#[derive(Clone, Debug)]
pub(super) struct Match {
    pub(super) rule: &'static str,
    pub(super) nodes: Vec<MadeNode>,
    /// For each result of the matched node: its class, and what is equal to it.
    pub(super) equal: Vec<(Id, Made)>,
}

/// What a small graph shows of one class or its readers.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Shown {
    /// A term of the class, which may be one result of an operator: the term that is applied, and its class.
    Producer(Id, Term, Id),
    Readers(Id),
}

/// Looks for a rule's left side at a term of a class.
pub(super) fn matches(eg: &EGraph, rule: &'static Rule, class: Id, term: &Term) -> Vec<Match> {
    let mut found = Vec::new();
    let mut stack: Vec<Vec<Shown>> = vec![vec![]];
    let mut trials = 0;
    while let Some(shown) = stack.pop() {
        trials += 1;
        if trials > MOST_TRIALS {
            break;
        }
        let mut part = Showing::new(eg);
        let root = part.term(term, class);
        for s in &shown {
            match s {
                Shown::Producer(_, t, c) => {
                    part.term(t, *c);
                }
                Shown::Readers(c) => part.readers(*c),
            }
        }
        let (result, asked) = part.run(rule, root);
        found.extend(result);
        // The first question that has not been answered yet, and has an answer.
        let open = asked.into_iter().find_map(|ask| {
            let answers = match ask {
                Ask::Producer(v) => {
                    let c = part.class(v)?;
                    if shown.iter().any(|s| matches!(s, Shown::Producer(of, ..) if *of == c)) {
                        return None;
                    }
                    producers(eg, c).into_iter().map(|(t, of)| Shown::Producer(c, t, of)).collect::<Vec<_>>()
                }
                Ask::Readers(v) => {
                    let c = part.class(v)?;
                    if shown.contains(&Shown::Readers(c)) { vec![] } else { vec![Shown::Readers(c)] }
                }
            };
            (!answers.is_empty()).then_some(answers)
        });
        for answer in open.into_iter().flatten().rev() {
            let mut next = shown.clone();
            next.push(answer);
            stack.push(next);
        }
    }
    found
}

/// The applications that compute a class, directly or as one of their results.
fn producers(eg: &EGraph, c: Id) -> Vec<(Term, Id)> {
    let mut out = Vec::new();
    for t in &eg[c].nodes {
        match eg.analysis.head(t) {
            Head::Apply(..) => out.push((t.clone(), c)),
            Head::Result(_) => {
                let all = eg.find(t.children[0]);
                out.extend(eg[all].nodes.iter().filter(|t| matches!(eg.analysis.head(t), Head::Apply(..))).map(|t| (t.clone(), all)));
            }
            Head::Leaf(_) | Head::Absent => {}
        }
    }
    out
}

/// A small graph that shows a part of an e-graph.
struct Showing<'a> {
    eg: &'a EGraph,
    graph: Graph,
    value: BTreeMap<Id, ValueId>,
    class: BTreeMap<ValueId, Id>,
    part: Part,
    nodes: BTreeMap<(Id, Term), NodeId>,
}

impl<'a> Showing<'a> {
    fn new(eg: &'a EGraph) -> Showing<'a> {
        let graph = Graph::default();
        Showing { eg, graph, value: BTreeMap::new(), class: BTreeMap::new(), part: Part::default(), nodes: BTreeMap::new() }
    }
    fn class(&self, v: ValueId) -> Option<Id> {
        self.class.get(&v).copied()
    }
    /// The value that stands for a class.
    fn value(&mut self, c: Id) -> ValueId {
        let c = self.eg.find(c);
        if let Some(v) = self.value.get(&c) {
            return *v;
        }
        let data = &self.eg[c].data;
        let v = match data.constant.and_then(|l| self.eg.analysis.contents(l)) {
            Some(t) => self.graph.add_constant(t.clone(), ""),
            _ => {
                let v = match data.facts.first() {
                    Some(fact) => self.graph.add_value(fact.clone(), ""),
                    None => self.graph.add_value(crate::ir::Type::Tensor(kiln_kernels::dtype::DType::F32, vec![]).into(), ""),
                };
                if data.weight {
                    self.part.weights.insert(v);
                }
                v
            }
        };
        if self.eg[c].nodes.iter().any(|t| matches!(self.eg.analysis.head(t), Head::Leaf(_))) {
            self.part.given.insert(v);
        }
        // A class may be quantized by what is computed from it.
        self.value.insert(c, v);
        self.note(v, c, data);
        v
    }
    fn note(&mut self, v: ValueId, c: Id, data: &Class) {
        self.class.insert(v, c);
        if let Some(form) = &data.affine {
            self.part.forms.insert(v, form.clone());
        }
        if let Some(q) = &data.quantized {
            let quantized = Quantization {
                dtype: q.dtype,
                axis: q.axis,
                scale: self.parameter(q.scale),
                zero: q.zero.map(|z| self.parameter(z)),
                codes: q.codes.map(|c| self.parameter(c)),
            };
            self.part.quantized.insert(v, quantized);
        }
        if data.range.lo.is_finite() || data.range.hi.is_finite() {
            self.part.ranges.insert(v, (data.range.lo, data.range.hi));
        }
    }
    fn parameter(&mut self, p: Parameter) -> ValueId {
        match p {
            Parameter::Class(c) => self.value(c),
            Parameter::Leaf(n) => self.value(self.eg.analysis.leaf_ids[n as usize]),
        }
    }
    /// Shows an application; its results are the values of their classes.
    fn term(&mut self, t: &Term, class: Id) -> NodeId {
        let class = self.eg.find(class);
        if let Some(n) = self.nodes.get(&(class, t.clone())) {
            return *n;
        }
        let Head::Apply(op, results) = self.eg.analysis.head(t).clone() else { return NodeId(0) };
        let absent = |c: &Id| self.eg[*c].nodes.iter().any(|t| *self.eg.analysis.head(t) == Head::Absent);
        let there: Vec<bool> = t.children.iter().map(|c| !absent(c)).collect();
        let inputs = t.children.iter().zip(there).map(|(c, there)| there.then(|| self.value(*c))).collect();
        let classes: Vec<Option<Id>> = match results {
            1 => vec![Some(class)],
            n => (0..n).map(|i| result_class(self.eg, class, i)).collect(),
        };
        let outputs = classes
            .iter()
            .enumerate()
            .map(|(i, c)| match c {
                // A second producer of a class in one graph gets a value of its own, known to be of the class.
                Some(c) if self.value.get(c).is_some_and(|v| self.produced(*v)) => {
                    let fact = self.eg[*c].data.facts.first().cloned();
                    let v = self.graph.add_value(fact.unwrap_or_else(|| self.eg[class].data.facts[i].clone()), "");
                    self.class.insert(v, *c);
                    v
                }
                Some(c) => self.value(*c),
                None => self.graph.add_value(self.eg[class].data.facts[i].clone(), ""),
            })
            .collect();
        let n = self.graph.add_node(Node { op, inputs, outputs, blocks: vec![], origins: vec![] });
        self.graph.body.nodes.push(n);
        self.nodes.insert((class, t.clone()), n);
        n
    }
    fn produced(&self, v: ValueId) -> bool {
        self.graph.nodes.iter().any(|n| n.outputs.contains(&v))
    }
    /// Shows every application that reads a class, in the order of their classes.
    fn readers(&mut self, c: Id) {
        let c = self.eg.find(c);
        let mut terms: Vec<(Id, Term)> = Vec::new();
        for id in self.eg[c].parents() {
            let term = egg::Language::map_children(self.eg.id_to_node(id).clone(), |c| self.eg.find(c));
            if matches!(self.eg.analysis.head(&term), Head::Apply(..)) {
                terms.push((self.eg.find(id), term));
            }
        }
        terms.sort();
        terms.dedup();
        for (rank, (class, term)) in terms.into_iter().enumerate() {
            let n = self.term(&term, class);
            self.part.ranks.insert(n, rank);
        }
    }
    /// Runs the rule at a node of the small graph.
    fn run(&mut self, rule: &'static Rule, root: NodeId) -> (Option<Match>, Vec<Ask>) {
        let part = std::mem::take(&mut self.part);
        let mut rw = Rewriter::partial(&mut self.graph, part);
        rw.begin(rule.name, root);
        let found = (rule.apply)(&mut rw, root);
        let (asked, added) = (rw.asked(), rw.added());
        drop(rw);
        let found = found.and_then(|by| self.translate(rule.name, root, added, &by));
        (found, asked)
    }
    fn translate(&self, rule: &'static str, root: NodeId, added: std::ops::Range<usize>, by: &[ValueId]) -> Option<Match> {
        let mut made: BTreeMap<ValueId, (usize, usize)> = BTreeMap::new();
        for (i, n) in added.clone().enumerate() {
            for (k, v) in self.graph.nodes[n].outputs.iter().enumerate() {
                made.insert(*v, (i, k));
            }
        }
        let reference = |v: ValueId| -> Option<Made> {
            Some(match (made.get(&v), self.class.get(&v), &self.graph[v].constant) {
                (Some((i, k)), ..) => Made::Node(*i, *k),
                (_, Some(c), _) => Made::Class(*c),
                (.., Some(t)) => Made::Constant(t.clone()),
                _ => return None,
            })
        };
        let mut nodes = Vec::new();
        for n in added {
            let node = &self.graph.nodes[n];
            let inputs =
                node.inputs.iter().map(|v| v.map(reference)).map(|v| v.map_or(Some(None), |v| v.map(Some))).collect::<Option<_>>()?;
            let results = node.outputs.iter().map(|v| self.graph[*v].fact.clone()).collect();
            nodes.push(MadeNode { op: node.op.clone(), inputs, results });
        }
        let outputs = &self.graph[root].outputs;
        if outputs.len() != by.len() || outputs.iter().zip(by).any(|(a, b)| self.graph.ty(*a) != self.graph.ty(*b)) {
            return None;
        }
        let mut equal = Vec::new();
        for (old, new) in outputs.iter().zip(by) {
            // A result that nobody asked for has no class.
            if let Some(c) = self.class.get(old) {
                equal.push((*c, reference(*new)?));
            }
        }
        Some(Match { rule, nodes, equal })
    }
}

/// The class of one result of an application, if anything reads it.
pub(super) fn result_class(eg: &EGraph, all: Id, i: u32) -> Option<Id> {
    let all = eg.find(all);
    let reads = |id: Id| {
        let t = eg.id_to_node(id);
        matches!(eg.analysis.head(t), Head::Result(k) if *k == i) && eg.find(t.children[0]) == all
    };
    eg[all].parents().find(|id| reads(*id)).map(|id| eg.find(id))
}
