//! Equality saturation, region by region: rules add equal terms to an e-graph, and the cheapest ones are taken.
//!
//! Canonical rules run on the graph itself (see [`apply`](super::apply)); here run the rules of which nobody knows beforehand whether they
//! pay. Regions of equal structure are explored once, with weights known by type and shape only, so that the work grows with what is
//! different in a model. Budgets count terms and rounds, never time, so that builds repeat to the byte.

mod extract;
mod matching;
mod regions;
mod terms;
#[cfg(test)]
mod tests;

use super::{Affine, Miss, Report, Rule, head};
use crate::ir::{Block, Fact, Graph, Node, NodeId, ValueId};
use crate::ops::Op;
use egg::Id;
use kiln_kernels::value::Tensor;
use matching::{Made, Match};
use regions::{Key, Leaf, Ref, Region, Stretch};
use std::collections::{BTreeMap, BTreeSet};
use terms::{Class, EGraph, Head, Term, Terms};

/// Bounds on the work for one region.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Rounds of matching.
    pub rounds: usize,
    /// Terms after which no further ones are added.
    pub terms: usize,
}

impl Default for Budget {
    fn default() -> Budget {
        Budget { rounds: 8, terms: 4096 }
    }
}

/// An operator applied, as a cost model sees it.
#[derive(Clone, Debug)]
pub struct Priced<'a> {
    /// The operator.
    pub op: &'a Op,
    /// What is known of the operands; `None` for those left out.
    pub inputs: Vec<Option<&'a Fact>>,
    /// Whether each operand is made at compile time.
    pub weights: Vec<bool>,
    /// What is known of the results.
    pub results: &'a [Fact],
    /// The rule that added it; `None` when the model itself has it.
    pub rule: Option<&'static str>,
}

/// What an operator costs at run time, in picoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Price {
    /// With a kernel of its own.
    pub alone: u64,
    /// As a part of the kernel that computes one of its operands.
    pub joined: u64,
    /// Whether its kernel takes pointwise operators behind it.
    pub takes_more: bool,
}

/// The price of an operator.
pub type Cost<'a> = &'a dyn Fn(&Priced<'_>) -> Price;

/// What exploration found in one kind of region.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Explored {
    /// Nodes of the region.
    pub nodes: usize,
    /// How many regions of the model are of this kind.
    pub count: usize,
    /// Terms at the end.
    pub terms: usize,
    /// Rounds of matching.
    pub rounds: usize,
    /// Whether no rule had anything left to add.
    pub saturated: bool,
    /// The cost before and after, in picoseconds.
    pub cost: (u64, u64),
    /// What no choice of the terms that were found costs less than, in picoseconds.
    pub bound: u64,
}

/// A region as it is to be, over the leaves of the one it stands for.
#[derive(Clone, Debug)]
struct Template {
    constants: Vec<Tensor>,
    nodes: Vec<TemplateNode>,
    outputs: Vec<Ref>,
    rules: BTreeMap<&'static str, usize>,
}

#[derive(Clone, Debug)]
struct TemplateNode {
    op: Op,
    inputs: Vec<Option<Ref>>,
    facts: Vec<Fact>,
    /// The nodes of the region it comes from.
    from: Vec<u32>,
    /// The rule that made it.
    rule: Option<&'static str>,
}

/// Explores a graph and puts the cheapest equal terms in place.
///
/// # Errors
/// A rule called values equal that cannot be, by their types or by what is known of their elements: a bug in the rule.
pub fn explore(g: &mut Graph, rules: &[&'static Rule], cost: Cost<'_>, budget: Budget) -> Result<(Report, Vec<Explored>), String> {
    let mut by_head: BTreeMap<&'static str, Vec<&'static Rule>> = BTreeMap::new();
    let there: BTreeSet<&str> = g.nodes.iter().flat_map(|n| [n.op.name(), head(&n.op)]).collect();
    for r in rules {
        for h in r.on {
            match h.split_once('/') {
                Some((_, other)) if !there.contains(other) => {}
                Some((h, _)) => by_head.entry(h).or_default().push(r),
                None => by_head.entry(h).or_default().push(r),
            }
        }
    }
    let producers = g.producers();
    let mut e = Explorer { by_head, cost, budget, producers, kinds: BTreeMap::new(), report: Report::default(), renamed: BTreeMap::new() };
    let uses = g.uses();
    let mut body = std::mem::take(&mut g.body);
    e.block(g, &mut body, &uses)?;
    g.body = body;
    g.replace_uses(&e.renamed);
    let mut kinds: Vec<Kind> = e.kinds.into_values().collect();
    kinds.sort_by_key(|k| k.place);
    Ok((e.report, kinds.into_iter().map(|k| k.found).collect()))
}

struct Explorer<'a> {
    by_head: BTreeMap<&'static str, Vec<&'static Rule>>,
    cost: Cost<'a>,
    budget: Budget,
    /// The nodes of the graph as it was that compute values.
    producers: BTreeMap<ValueId, NodeId>,
    /// What was found for each kind of region.
    kinds: BTreeMap<Key, Kind>,
    report: Report,
    renamed: BTreeMap<ValueId, ValueId>,
}

/// What was found for a kind of region.
#[derive(Debug, Default)]
struct Kind {
    /// How many kinds were found before it.
    place: usize,
    found: Explored,
    /// The better one, if there is one.
    template: Option<Template>,
    /// Rules that apply and were not taken, with the nodes of the region that they start from.
    declined: BTreeMap<&'static str, Vec<u32>>,
}

/// Why a rule that applies is not taken.
const DEARER: &str = "it applies, but what it leads to costs no less";

impl Explorer<'_> {
    fn block(&mut self, g: &mut Graph, b: &mut Block, uses: &BTreeMap<ValueId, usize>) -> Result<(), String> {
        let stretches = regions::cut(g, b, uses, &self.producers);
        b.nodes.clear();
        for s in stretches {
            match s {
                Stretch::Alone(n) => {
                    for i in 0..g[n].blocks.len() {
                        let mut inner = std::mem::take(&mut g[n].blocks[i]);
                        self.block(g, &mut inner, uses)?;
                        g[n].blocks[i] = inner;
                    }
                    b.nodes.push(n);
                }
                Stretch::Region(r) => self.region(g, *r, &mut b.nodes)?,
            }
        }
        Ok(())
    }

    fn region(&mut self, g: &mut Graph, r: Region, out: &mut Vec<NodeId>) -> Result<(), String> {
        if !self.kinds.contains_key(&r.key) {
            let facts: Vec<Vec<Fact>> = r.nodes.iter().map(|n| g[*n].outputs.iter().map(|v| g[*v].fact.clone()).collect()).collect();
            let kind = Kind { place: self.kinds.len(), ..self.saturate(&r.key, &facts)? };
            self.kinds.insert(r.key.clone(), kind);
        }
        let Some(kind) = self.kinds.get_mut(&r.key) else { return Ok(()) };
        kind.found.count += 1;
        for (rule, from) in &kind.declined {
            let origins: BTreeSet<usize> = from.iter().flat_map(|i| &g[r.nodes[*i as usize]].origins).copied().collect();
            self.report.misses.insert(Miss { rule, why: DEARER, origins: origins.into_iter().collect() });
        }
        let Some(t) = &kind.template else {
            out.extend(&r.nodes);
            return Ok(());
        };
        for (rule, n) in &t.rules {
            self.report.count(rule, *n);
        }
        let mut leaves = r.leaves.clone();
        leaves.extend(t.constants.iter().map(|c| g.add_constant(c.clone(), "")));
        let mut made: Vec<Vec<ValueId>> = Vec::new();
        let value = |made: &[Vec<ValueId>], at: &Ref| match at {
            Ref::Leaf(i) => leaves[*i as usize],
            Ref::Node(i, k) => made[*i as usize][*k as usize],
        };
        for n in &t.nodes {
            let inputs = n.inputs.iter().map(|v| v.as_ref().map(|v| value(&made, v))).collect();
            let outputs: Vec<ValueId> = n.facts.iter().map(|f| g.add_value(f.clone(), "")).collect();
            let mut origins: Vec<usize> = Vec::new();
            for o in n.from.iter().flat_map(|i| &g[r.nodes[*i as usize]].origins) {
                if !origins.contains(o) {
                    origins.push(*o);
                }
            }
            if let Some(rule) = n.rule {
                self.report.history.push(super::Event { rule, origins: origins.clone() });
            }
            out.push(g.add_node(Node { op: n.op.clone(), inputs, outputs: outputs.clone(), blocks: vec![], origins }));
            made.push(outputs);
        }
        for (old, at) in r.outputs.iter().zip(&t.outputs) {
            let new = value(&made, at);
            if new != *old {
                if g[new].name.is_empty() {
                    g[new].name = g[*old].name.clone();
                }
                if g[new].fact.dims.is_none() {
                    g[new].fact.dims = g[*old].fact.dims.clone();
                }
                self.renamed.insert(*old, new);
            }
        }
        Ok(())
    }

    /// Explores a kind of region; the template is there when something cheaper was found.
    fn saturate(&mut self, key: &Key, facts: &[Vec<Fact>]) -> Result<Kind, String> {
        let mut s = Saturation::new(key, facts);
        let mut found = Explored { nodes: key.nodes.len(), ..Explored::default() };
        if !key.nodes.iter().any(|n| self.rules_of(&n.op).next().is_some()) {
            found.saturated = true;
            return Ok(Kind { found, ..Kind::default() });
        }
        let before = extract::extract(&s.eg, &s.outputs, &|c, t| s.cost(self.cost, c, t)).map_or(u64::MAX, |e| e.cost);
        (found.cost, found.bound) = ((before, before), before);
        while found.rounds < self.budget.rounds && !found.saturated && s.eg.total_size() < self.budget.terms {
            found.rounds += 1;
            found.saturated = !s.round(&|op| self.rules_of(op).collect(), self.budget.terms);
            if let Some(clash) = s.eg.analysis.clash.take() {
                return Err(clash);
            }
        }
        found.terms = s.eg.total_size();
        self.report.work += found.terms as u64;
        let cost = |c: Id, t: &Term| s.cost(self.cost, c, t);
        let roots: Vec<Id> = s.outputs.clone();
        let mut kind = Kind { declined: s.made_by(), ..Kind::default() };
        if let Some(best) = extract::extract(&s.eg, &roots, &cost) {
            found.bound = best.bound;
            if best.cost < before {
                found.cost.1 = best.cost;
                let template = s.template(key, &best.terms);
                kind.declined.retain(|rule, _| !template.rules.contains_key(rule));
                kind.template = Some(template);
            }
        }
        kind.found = found;
        Ok(kind)
    }
    fn rules_of(&self, op: &Op) -> impl Iterator<Item = &'static Rule> {
        let names = ["*", op.name(), head(op)];
        let count = if names[1] == names[2] { 2 } else { 3 };
        names.into_iter().take(count).filter_map(|h| self.by_head.get(h)).flatten().copied()
    }
}

/// Where a term comes from.
#[derive(Clone, Debug, Default)]
struct Source {
    /// Nodes of the region.
    from: Vec<u32>,
    /// The rule that added it.
    rule: Option<&'static str>,
}

/// The e-graph of one kind of region.
struct Saturation {
    eg: EGraph,
    outputs: Vec<Id>,
    sources: BTreeMap<Term, Source>,
    /// Terms that rules found equal to what was there already.
    forwarded: Vec<(Term, &'static str)>,
}

impl Saturation {
    fn new(key: &Key, facts: &[Vec<Fact>]) -> Saturation {
        let mut s = Saturation { eg: EGraph::new(Terms::default()), outputs: vec![], sources: BTreeMap::new(), forwarded: vec![] };
        for leaf in &key.leaves {
            let (fact, weight, constant) = match leaf {
                Leaf::Input(ty, dims, _) => (Fact { ty: ty.clone(), dims: dims.clone() }, false, None),
                Leaf::Weight(d, dims) => (Fact::tensor(*d, dims.iter().map(|d| (*d).into()).collect()), true, None),
                Leaf::Constant(d, dims, bytes) => {
                    let mut t = Tensor::zeros(*d, dims);
                    t.bytes_mut().copy_from_slice(bytes);
                    (constant_fact(&t), true, Some(t))
                }
            };
            let form = if let Leaf::Input(.., form) = leaf { form.clone() } else { None };
            s.leaf(fact, weight, constant, form);
        }
        let mut made: Vec<Vec<Id>> = Vec::new();
        for (i, (n, facts)) in key.nodes.iter().zip(facts).enumerate() {
            let inputs: Vec<Option<Id>> = (n.inputs.iter())
                .map(|v| {
                    v.map(|v| match v {
                        Ref::Leaf(i) => s.eg.analysis.leaf_ids[i as usize],
                        Ref::Node(i, k) => made[i as usize][k as usize],
                    })
                })
                .collect();
            let source = Source { from: vec![i as u32], rule: None };
            made.push(s.apply_op(&n.op, &inputs, facts, &source));
        }
        let at = |r: &Ref| match r {
            Ref::Leaf(i) => s.eg.analysis.leaf_ids[*i as usize],
            Ref::Node(i, k) => made[*i as usize][*k as usize],
        };
        s.outputs = key.outputs.iter().map(at).collect();
        s.eg.rebuild();
        s
    }
    fn leaf(&mut self, fact: Fact, weight: bool, constant: Option<Tensor>, form: Option<Affine>) -> Id {
        let number = self.eg.analysis.leaf_ids.len() as u32;
        let mut known = terms::examine_leaf(fact, weight, constant.as_ref().map(|t| (number, t)));
        known.affine = known.affine.or(form);
        self.eg.analysis.leaves.push(constant);
        let id = self.add(Head::Leaf(number), vec![], known);
        self.eg.analysis.leaf_ids.push(id);
        id
    }
    fn add(&mut self, head: Head, children: Vec<Id>, known: Class) -> Id {
        let head = self.eg.analysis.number(head);
        self.eg.analysis.known = Some(known);
        let id = self.eg.add(Term { head, children });
        // Taken when the term is new.
        self.eg.analysis.known = None;
        id
    }
    /// Adds an application; gives the class of each result.
    fn apply_op(&mut self, op: &Op, inputs: &[Option<Id>], facts: &[Fact], source: &Source) -> Vec<Id> {
        let absent = Class { weight: true, ..Class::of(vec![]) };
        let children: Vec<Id> = inputs.iter().map(|v| v.unwrap_or_else(|| self.add(Head::Absent, vec![], absent.clone()))).collect();
        let results = facts.len() as u32;
        let known = terms::examine(&self.eg, op, results, &children, facts.to_vec());
        let head = Head::Apply(op.clone(), results);
        let term = Term { head: self.eg.analysis.number(head.clone()), children: children.clone() };
        let all = self.add(head, children, known.clone());
        self.sources.entry(term).or_insert_with(|| source.clone());
        if results == 1 {
            return vec![all];
        }
        (0..results).map(|i| self.add(Head::Result(i), vec![all], terms::examine_result(&known, i))).collect()
    }

    /// Runs every rule at every term once. Whether that taught anything.
    fn round(&mut self, rules: &dyn Fn(&Op) -> Vec<&'static Rule>, most: usize) -> bool {
        let mut ids: Vec<Id> = self.eg.classes().map(|c| c.id).collect();
        ids.sort();
        let mut found: Vec<(Term, Match)> = Vec::new();
        for c in ids {
            for t in &self.eg[c].nodes {
                let Head::Apply(op, _) = self.eg.analysis.head(t) else { continue };
                for rule in rules(op) {
                    found.extend(matching::matches(&self.eg, rule, c, t).into_iter().map(|m| (t.clone(), m)));
                }
            }
        }
        let (terms, classes) = (self.eg.total_size(), self.eg.number_of_classes());
        let mut united = false;
        for (root, m) in found {
            if self.eg.total_size() >= most {
                break;
            }
            united |= self.take(&root, m);
        }
        self.eg.rebuild();
        let find = |c: Id| self.eg.find(c);
        let sources = std::mem::take(&mut self.sources);
        let mut settled: BTreeMap<Term, Source> = BTreeMap::new();
        for (t, s) in sources {
            let t = egg::Language::map_children(t, find);
            // What stood in the model itself was made by no rule.
            match settled.get_mut(&t) {
                Some(old) if old.rule.is_none() || s.rule.is_some() => {}
                Some(old) => *old = s,
                None => {
                    settled.insert(t, s);
                }
            }
        }
        self.sources = settled;
        united || terms != self.eg.total_size() || classes != self.eg.number_of_classes()
    }

    /// Adds what a rule built, and unites it with what it is equal to.
    fn take(&mut self, root: &Term, m: Match) -> bool {
        let from = self.sources.get(root).map_or(vec![], |s| s.from.clone());
        let source = Source { from, rule: Some(m.rule) };
        let mut made: Vec<Vec<Id>> = Vec::new();
        for n in &m.nodes {
            let inputs: Vec<Option<Id>> = n.inputs.iter().map(|v| v.as_ref().map(|v| self.made(v, &made))).collect();
            made.push(self.apply_op(&n.op, &inputs, &n.results, &source));
        }
        let mut united = false;
        if m.nodes.is_empty() {
            self.forwarded.push((root.clone(), m.rule));
        }
        for (class, made_of) in &m.equal {
            let new = self.made(made_of, &made);
            united |= self.eg.union(*class, new);
        }
        united
    }
    fn made(&mut self, m: &Made, made: &[Vec<Id>]) -> Id {
        match m {
            Made::Class(c) => *c,
            Made::Node(i, k) => made[*i][*k],
            Made::Constant(t) => match self.eg.analysis.leaves.iter().position(|l| l.as_ref() == Some(t)) {
                Some(i) => self.eg.analysis.leaf_ids[i],
                None => self.leaf(constant_fact(t), true, Some(t.clone()), None),
            },
        }
    }

    /// Every rule that added something, with the nodes of the region that it started from.
    fn made_by(&self) -> BTreeMap<&'static str, Vec<u32>> {
        let mut out: BTreeMap<&'static str, Vec<u32>> = BTreeMap::new();
        for s in self.sources.values() {
            out.entry(s.rule.unwrap_or_default()).or_default().extend(&s.from);
        }
        out.remove("");
        out
    }
    fn cost(&self, cost: Cost<'_>, class: Id, t: &Term) -> Price {
        let Head::Apply(op, _) = self.eg.analysis.head(t) else { return Price::default() };
        let data = &self.eg[class].data;
        if data.weight {
            // Made at compile time.
            return Price::default();
        }
        cost(&Priced {
            op,
            inputs: t.children.iter().map(|c| self.eg[*c].data.facts.first()).collect(),
            weights: t.children.iter().map(|c| self.eg[*c].data.weight).collect(),
            results: &data.facts,
            rule: self.sources.get(t).and_then(|s| s.rule),
        })
    }
    fn template(&self, key: &Key, terms: &[(Id, Term)]) -> Template {
        let mut at: BTreeMap<Id, Ref> = BTreeMap::new();
        let mut whole: BTreeMap<Id, u32> = BTreeMap::new();
        let mut t = Template { constants: vec![], nodes: vec![], outputs: vec![], rules: BTreeMap::new() };
        t.constants = self.eg.analysis.leaves[key.leaves.len()..]
            .iter()
            .map(|l| l.clone().unwrap_or_else(|| Tensor::zeros(kiln_kernels::dtype::DType::F32, &[])))
            .collect();
        for (c, term) in terms {
            match self.eg.analysis.head(term) {
                Head::Leaf(n) => {
                    at.insert(*c, Ref::Leaf(*n));
                }
                Head::Absent => {}
                Head::Result(k) => {
                    at.insert(*c, Ref::Node(whole[&self.eg.find(term.children[0])], *k));
                }
                Head::Apply(op, _) => {
                    let inputs = term.children.iter().map(|c| at.get(&self.eg.find(*c)).copied()).collect();
                    let source = self.sources.get(term).cloned().unwrap_or_default();
                    if let Some(rule) = source.rule {
                        *t.rules.entry(rule).or_insert(0) += 1;
                    }
                    t.nodes.push(TemplateNode {
                        op: op.clone(),
                        inputs,
                        facts: self.eg[*c].data.facts.clone(),
                        from: source.from,
                        rule: source.rule,
                    });
                    let n = t.nodes.len() as u32 - 1;
                    whole.insert(*c, n);
                    at.insert(*c, Ref::Node(n, 0));
                }
            }
        }
        let mut gone: BTreeMap<Term, &'static str> = BTreeMap::new();
        for (root, rule) in &self.forwarded {
            let root = egg::Language::map_children(root.clone(), |c| self.eg.find(c));
            let class = self.eg.lookup(root.clone());
            let needed = class.is_some_and(|c| terms.iter().any(|(of, t)| *of == c && *t != root));
            if needed {
                gone.insert(root, rule);
            }
        }
        for rule in gone.into_values() {
            *t.rules.entry(rule).or_insert(0) += 1;
        }
        t.outputs = self.outputs.iter().map(|c| at[&self.eg.find(*c)]).collect();
        t
    }
}

/// The fact of a constant, contents of small integer tensors included.
fn constant_fact(t: &Tensor) -> Fact {
    let mut g = Graph::default();
    let v = g.add_constant(t.clone(), "");
    g[v].fact.clone()
}
