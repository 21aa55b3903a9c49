//! The one door through which rules change a graph: it knows producers and users, and keeps them current without looking at the
//! whole graph again.

use super::{Affine, Miss, Quantization};
use crate::ir::{Block, Dim, Graph, Node, NodeId, Symbol, Type, ValueId};
use crate::ops::pointwise::Pointwise;
use crate::ops::{Facts, Infer, Op, Operand};
use kiln_kernels::{dtype::DType, value::Tensor};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Axes of what a rule makes, at most.
const MOST_AXES: usize = 64;
/// Symbols and numbers in an extent of what a rule makes, at most.
const MOST_TERMS: usize = 512;

/// Origins that one node keeps; a message names the first, `explain` shows a few.
const MAX_ORIGINS: usize = 64;

/// A graph while rules are applied. Nodes that a rule adds belong to an attempt: they enter the graph when the rule gives a
/// replacement, and are forgotten when it does not.
#[derive(Debug)]
pub struct Rewriter<'g> {
    graph: &'g mut Graph,
    producer: Vec<Option<NodeId>>,
    /// Nodes that read each value, once a use; dead nodes stay listed.
    users: Vec<Vec<NodeId>>,
    /// How often live nodes read each value.
    reads: Vec<u32>,
    /// How many blocks hand each value out.
    handed: Vec<u32>,
    dead: Vec<bool>,
    /// Nodes to be listed before a node, dead or alive.
    before: Vec<Vec<NodeId>>,
    /// Replaced values that blocks hand out, oldest first.
    renamed: Vec<(ValueId, ValueId)>,
    queue: VecDeque<NodeId>,
    queued: Vec<bool>,
    mark: (usize, usize, usize),
    /// Bytes by which folded constants have outgrown their operands.
    pub(super) grown: usize,
    /// Nodes visited and uses moved: the measure of work.
    pub(super) work: u64,
    /// What the graph leaves out, when it shows a part of an e-graph.
    pub(super) part: Option<Part>,
    /// The rule and node of the attempt.
    attempt: (&'static str, NodeId),
    /// Why rules that all but matched did not apply.
    refused: RefCell<BTreeMap<(NodeId, &'static str), &'static str>>,
}

/// What a rule asked about values of an e-graph that the graph before it does not show yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ask {
    /// A node that computes the value.
    Producer(ValueId),
    /// The nodes that read the value.
    Readers(ValueId),
}

/// A graph that shows as much of an e-graph as a rule has asked for.
#[derive(Debug, Default)]
pub(super) struct Part {
    /// Values that depend on constants alone.
    pub(super) weights: BTreeSet<ValueId>,
    /// Values that come from outside of the region.
    pub(super) given: BTreeSet<ValueId>,
    /// Bounds of the elements of values.
    pub(super) ranges: BTreeMap<ValueId, (f64, f64)>,
    /// Affine forms of integers.
    pub(super) forms: BTreeMap<ValueId, Affine>,
    /// How values are quantized.
    pub(super) quantized: BTreeMap<ValueId, Quantization<ValueId>>,
    /// The order of readers, whichever node the rule is run at.
    pub(super) ranks: BTreeMap<NodeId, usize>,
    /// Questions in the order they came; a rule is asked again when they are answered.
    pub(super) asked: RefCell<Vec<Ask>>,
}

/// The name that rules know a node by: that of the formula for elementwise operators, that of the operator for others.
pub fn head(op: &Op) -> &'static str {
    match op {
        Op::Pointwise(p) => p.name,
        other => other.name(),
    }
}

impl<'g> Rewriter<'g> {
    /// A rewriter over the graph; every live node is due for a visit.
    pub fn new(graph: &'g mut Graph) -> Rewriter<'g> {
        let live = graph.live_nodes();
        let (values, nodes) = (graph.values.len(), graph.nodes.len());
        let mut rw = Rewriter {
            producer: vec![None; values],
            users: vec![Vec::new(); values],
            reads: vec![0; values],
            handed: vec![0; values],
            dead: vec![true; nodes],
            before: vec![Vec::new(); nodes],
            renamed: Vec::new(),
            queue: VecDeque::new(),
            queued: vec![false; nodes],
            mark: (values, nodes, graph.symbols.len()),
            grown: 0,
            work: 0,
            part: None,
            attempt: ("", NodeId(0)),
            refused: RefCell::default(),
            graph,
        };
        let handed: Vec<ValueId> = rw.graph.blocks().iter().flat_map(|b| b.outputs.clone()).collect();
        handed.into_iter().for_each(|v| rw.handed[v.0 as usize] += 1);
        for n in live {
            rw.register(n);
            rw.enqueue(n);
        }
        rw
    }
    /// A rewriter over a part of an e-graph.
    pub(super) fn partial(graph: &'g mut Graph, part: Part) -> Rewriter<'g> {
        Rewriter { part: Some(part), ..Rewriter::new(graph) }
    }
    /// The questions that a rule had about the part.
    pub(super) fn asked(&self) -> Vec<Ask> {
        self.part.as_ref().map_or(vec![], |p| p.asked.take())
    }
    /// Makes a node of the graph known.
    fn register(&mut self, n: NodeId) {
        self.dead[n.0 as usize] = false;
        for v in self.graph[n].inputs.iter().flatten() {
            self.users[v.0 as usize].push(n);
            self.reads[v.0 as usize] += 1;
        }
        for v in &self.graph[n].outputs {
            self.producer[v.0 as usize] = Some(n);
        }
    }
    fn enqueue(&mut self, n: NodeId) {
        if !self.dead[n.0 as usize] && !std::mem::replace(&mut self.queued[n.0 as usize], true) {
            self.queue.push_back(n);
        }
    }
    /// The next node due for a visit.
    pub(super) fn next(&mut self) -> Option<NodeId> {
        while let Some(n) = self.queue.pop_front() {
            self.queued[n.0 as usize] = false;
            if !self.dead[n.0 as usize] {
                self.work += 1;
                return Some(n);
            }
        }
        None
    }
    pub(super) fn alive(&self, n: NodeId) -> bool {
        !self.dead[n.0 as usize]
    }

    /// The graph, to read. Its blocks list the nodes as they were when the rewriter was made.
    pub fn graph(&self) -> &Graph {
        self.graph
    }
    /// A node.
    pub fn node(&self, n: NodeId) -> &Node {
        &self.graph[n]
    }
    /// Operand `i` of a node.
    pub fn input(&self, n: NodeId, i: usize) -> Option<ValueId> {
        self.graph[n].inputs.get(i).copied().flatten()
    }
    /// The node that computes a value.
    pub fn producer(&self, v: ValueId) -> Option<NodeId> {
        let known = self.producer.get(v.0 as usize).copied().flatten();
        if let (None, Some(part)) = (known, &self.part) {
            part.asked.borrow_mut().push(Ask::Producer(v));
        }
        known
    }
    /// The nodes of that [`head`] that read a value, each once, in an order that does not depend on who asks.
    pub fn readers(&self, v: ValueId, name: &str) -> Vec<NodeId> {
        if let Some(part) = &self.part {
            part.asked.borrow_mut().push(Ask::Readers(v));
        }
        let mut out: Vec<NodeId> = self.users.get(v.0 as usize).cloned().unwrap_or_default();
        out.retain(|n| !self.dead[n.0 as usize] && head(&self.graph[*n].op) == name);
        out.sort();
        out.dedup();
        if let Some(part) = &self.part {
            out.sort_by_key(|n| part.ranks.get(n));
        }
        out
    }
    /// Whether a value depends on constants alone, so that what is made of it is made at compile time.
    pub fn weight(&self, v: ValueId) -> bool {
        self.graph[v].constant.is_some() || self.part.as_ref().is_some_and(|p| p.weights.contains(&v))
    }
    /// Whether a value is a constant that the model holds, not one that rules would make of others.
    pub fn given_weight(&self, v: ValueId) -> bool {
        match &self.part {
            Some(p) => p.given.contains(&v) && (p.weights.contains(&v) || self.graph[v].constant.is_some()),
            None => self.graph[v].constant.is_some(),
        }
    }
    /// Bounds of the elements of a value that are numbers; infinite where nothing is known.
    pub fn bounds(&self, v: ValueId) -> (f64, f64) {
        self.part.as_ref().and_then(|p| p.ranges.get(&v)).copied().unwrap_or((f64::NEG_INFINITY, f64::INFINITY))
    }
    /// The node that computes a value, if it has that [`head`].
    pub fn made_by(&self, v: ValueId, name: &str) -> Option<NodeId> {
        self.producer(v).filter(|n| head(&self.graph[*n].op) == name)
    }
    /// Whether a value is read by one node once and handed out by no block, so that it disappears with its reader.
    pub fn used_once(&self, v: ValueId) -> bool {
        self.uses(v) == 1
    }
    /// How often a value is read or handed out.
    pub fn uses(&self, v: ValueId) -> u32 {
        if self.part.is_some() {
            // Whether others need it too is for the cost of the whole to say.
            return 1;
        }
        let i = v.0 as usize;
        self.reads.get(i).copied().unwrap_or(0) + self.handed.get(i).copied().unwrap_or(0)
    }
    /// The contents of a constant.
    pub fn constant(&self, v: ValueId) -> Option<&Tensor> {
        self.graph[v].constant.as_ref()
    }
    /// The shape of a tensor.
    pub fn shape(&self, v: ValueId) -> &[Dim] {
        self.graph.shape(v)
    }
    /// The type of a value.
    pub fn ty(&self, v: ValueId) -> &Type {
        self.graph.ty(v)
    }
    /// The element type of a tensor.
    pub fn dtype(&self, v: ValueId) -> DType {
        self.graph.dtype(v)
    }
    /// The one number that every element of a constant is, bit for bit.
    pub fn uniform(&self, v: ValueId) -> Option<f64> {
        let t = self.constant(v)?;
        let size = t.dtype.size();
        let first = t.bytes().get(..size).filter(|b| !b.is_empty())?;
        if t.bytes().chunks(size).any(|b| b != first) {
            return None;
        }
        let mut one = Tensor::zeros(t.dtype, &[1]);
        one.bytes_mut().copy_from_slice(first);
        one.to_f64s()?.first().copied()
    }

    /// Adds a node of one result before the node under rewriting.
    pub fn add(&mut self, op: impl Into<Op>, inputs: &[ValueId]) -> Option<ValueId> {
        self.add_all(op.into(), inputs.iter().map(|v| Some(*v)).collect(), 1)?.first().copied()
    }
    /// Adds an elementwise node by the name of its formula.
    pub fn pointwise(&mut self, name: &'static str, inputs: &[ValueId]) -> Option<ValueId> {
        let types: Vec<DType> = inputs.iter().map(|v| self.dtype(*v)).collect();
        self.add(Pointwise::of(name, &[], &types).ok()?, inputs)
    }
    /// Adds a node before the node under rewriting; `None` when the operator does not allow its operands.
    pub fn add_all(&mut self, op: Op, inputs: Vec<Option<ValueId>>, results: usize) -> Option<Vec<ValueId>> {
        let facts = self.infer(&op, &inputs, results)?;
        let outputs: Vec<ValueId> = facts.into_iter().map(|f| self.graph.add_value(f, "")).collect();
        self.graph.add_node(Node { op, inputs, outputs: outputs.clone(), blocks: vec![], origins: vec![] });
        Some(outputs)
    }
    /// The facts of an operator's results; `None` when it does not allow its operands, or the results' extents are so long that only
    /// rules which undo each other's work make them: work is bounded, and this bounds what a unit of it may take.
    pub fn infer(&mut self, op: &Op, inputs: &[Option<ValueId>], results: usize) -> Option<Vec<crate::ir::Fact>> {
        let Graph { values, symbols, .. } = &mut *self.graph;
        let operands = inputs
            .iter()
            .map(|v| v.map(|v| &values[v.0 as usize]).map(|v| Operand { fact: &v.fact, constant: v.constant.as_ref() }))
            .collect();
        let mut fresh = |what: &str, range| {
            symbols.push(Symbol { name: what.into(), range, input: None });
            Dim::sym(crate::ir::Sym(symbols.len() as u32 - 1))
        };
        let mut cx = Infer { facts: Facts { inputs: operands, outputs: vec![] }, results, bodies: vec![], fresh: &mut fresh };
        let facts = op.infer(&mut cx).ok()?;
        let modest = |f: &crate::ir::Fact| f.ty.shape().is_none_or(|s| s.len() <= MOST_AXES && s.iter().all(|d| d.size() <= MOST_TERMS));
        facts.iter().all(modest).then_some(facts)
    }
    /// Adds a constant.
    pub fn tensor(&mut self, t: Tensor) -> ValueId {
        self.graph.add_constant(t, "")
    }

    /// The nodes that the attempt has added.
    pub(super) fn added(&self) -> std::ops::Range<usize> {
        self.mark.1..self.graph.nodes.len()
    }
    /// Notes why a rule does not apply although its shape is there. For people who ask [`explain`](crate::explain::explain).
    pub fn refuse<T>(&self, why: &'static str) -> Option<T> {
        self.refused.borrow_mut().insert((self.attempt.1, self.attempt.0), why);
        None
    }
    /// Begins an attempt of a rule at a node.
    pub(super) fn begin(&mut self, rule: &'static str, n: NodeId) {
        self.attempt = (rule, n);
        self.mark = (self.graph.values.len(), self.graph.nodes.len(), self.graph.symbols.len());
    }
    /// Forgets what the attempt added.
    pub(super) fn abandon(&mut self) {
        self.graph.values.truncate(self.mark.0);
        self.graph.nodes.truncate(self.mark.1);
        self.graph.symbols.truncate(self.mark.2);
    }
    /// Puts values in the place of a node's results, when they have the same types.
    ///
    /// Gives the ONNX nodes that it touched, or nothing.
    pub(super) fn commit(&mut self, n: NodeId, by: &[ValueId]) -> Option<Vec<usize>> {
        let old = self.graph[n].outputs.clone();
        if old.len() != by.len() || old.iter().zip(by).any(|(a, b)| a == b || self.graph.ty(*a) != self.graph.ty(*b)) {
            self.abandon();
            return None;
        }
        let values = self.graph.values.len();
        self.producer.resize(values, None);
        self.users.resize(values, Vec::new());
        self.reads.resize(values, 0);
        self.handed.resize(values, 0);
        let nodes = self.graph.nodes.len();
        self.dead.resize(nodes, true);
        self.before.resize(nodes, Vec::new());
        self.queued.resize(nodes, false);
        let added: Vec<NodeId> = (self.mark.1..nodes).map(|i| NodeId(i as u32)).collect();
        for &m in &added {
            self.register(m);
            self.before[n.0 as usize].push(m);
        }
        // What was made is settled before its readers are looked at again.
        for &m in added.iter().rev() {
            self.queued[m.0 as usize] = true;
            self.queue.push_front(m);
        }
        for (a, b) in old.iter().zip(by) {
            self.replace(*a, *b);
        }
        let removed = self.remove(n);
        for &m in &added {
            // A message about the new node names the node of its kind that it stands for.
            let kind = head(&self.graph[m].op);
            let (like, other): (Vec<NodeId>, Vec<NodeId>) = removed.iter().partition(|r| head(&self.graph[**r].op) == kind);
            let mut seen = BTreeSet::new();
            let all = like.iter().chain(&other).flat_map(|r| self.graph[*r].origins.iter().copied());
            let origins: Vec<usize> = all.filter(|o| seen.insert(*o)).take(MAX_ORIGINS).collect();
            self.graph[m].origins = origins;
        }
        let touched: BTreeSet<usize> = removed.iter().flat_map(|r| self.graph[*r].origins.iter().copied()).collect();
        Some(touched.into_iter().collect())
    }
    /// The refusals at nodes that still live.
    pub(super) fn misses(&self) -> BTreeSet<Miss> {
        let refused = self.refused.borrow();
        let alive = refused.iter().filter(|((n, _), _)| self.dead.get(n.0 as usize) == Some(&false));
        alive.map(|((n, rule), why)| Miss { rule, why, origins: self.graph[*n].origins.clone() }).collect()
    }
    /// Rewrites every use of `from` into `to`.
    fn replace(&mut self, from: ValueId, to: ValueId) {
        let (f, t) = (from.0 as usize, to.0 as usize);
        if self.graph.values[t].fact.dims.is_none() {
            self.graph.values[t].fact.dims = self.graph.values[f].fact.dims.clone();
        }
        if self.graph.values[t].name.is_empty() {
            self.graph.values[t].name = std::mem::take(&mut self.graph.values[f].name);
        }
        for user in std::mem::take(&mut self.users[f]) {
            self.work += 1;
            if self.dead[user.0 as usize] {
                continue;
            }
            for v in self.graph[user].inputs.iter_mut().flatten().filter(|v| **v == from) {
                *v = to;
                self.users[t].push(user);
                self.reads[t] += 1;
                self.reads[f] -= 1;
            }
            self.enqueue(user);
        }
        if self.handed[f] > 0 {
            self.handed[t] += std::mem::take(&mut self.handed[f]);
            self.renamed.push((from, to));
        }
    }
    /// Removes a node whose results are not used any more, and what was computed for it alone. Host functions and control flow
    /// may define symbols; they are left to dead code elimination.
    fn remove(&mut self, n: NodeId) -> Vec<NodeId> {
        let mut removed = Vec::new();
        let mut stack = vec![n];
        while let Some(n) = stack.pop() {
            if std::mem::replace(&mut self.dead[n.0 as usize], true) {
                continue;
            }
            removed.push(n);
            for v in self.graph[n].inputs.clone().into_iter().flatten() {
                self.reads[v.0 as usize] -= 1;
                match (self.uses(v), self.producer(v)) {
                    (0, Some(p)) => {
                        let op = &self.graph[p].op;
                        let idle = self.graph[p].outputs.iter().all(|o| self.uses(*o) == 0);
                        if idle && op.is_pure() && !matches!(op, Op::Host(_)) {
                            stack.push(p);
                        }
                    }
                    // Rules that want a sole use may apply now.
                    (1, Some(_)) => {
                        let mut users = std::mem::take(&mut self.users[v.0 as usize]);
                        self.work += users.len() as u64;
                        users.retain(|u| !self.dead[u.0 as usize]);
                        users.iter().for_each(|u| self.enqueue(*u));
                        self.users[v.0 as usize] = users;
                    }
                    _ => {}
                }
            }
        }
        removed
    }

    /// Writes the order of nodes and the results of blocks back into the graph.
    pub fn finish(self) {
        let Rewriter { graph, dead, before, renamed, .. } = self;
        let mut last: BTreeMap<ValueId, ValueId> = BTreeMap::new();
        for (from, to) in renamed.into_iter().rev() {
            let to = last.get(&to).copied().unwrap_or(to);
            last.insert(from, to);
        }
        let settle = |b: &mut Block| {
            for v in &mut b.outputs {
                *v = last.get(v).copied().unwrap_or(*v);
            }
            let mut stack: Vec<(NodeId, bool)> = b.nodes.iter().rev().map(|n| (*n, false)).collect();
            b.nodes.clear();
            while let Some((n, entered)) = stack.pop() {
                if entered {
                    if !dead[n.0 as usize] {
                        b.nodes.push(n);
                    }
                } else {
                    stack.push((n, true));
                    stack.extend(before[n.0 as usize].iter().rev().map(|m| (*m, false)));
                }
            }
        };
        settle(&mut graph.body);
        graph.nodes.iter_mut().flat_map(|n| &mut n.blocks).for_each(settle);
    }
}
