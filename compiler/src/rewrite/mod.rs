//! Rules between graphs: what they are, and the driver that applies them to a fixed point.

mod affine;
mod dequantize;
mod explore;
mod merge;
mod prune;
mod quantization;
mod rewriter;
pub mod rules;
#[cfg(test)]
mod tests;

pub use affine::Affine;
pub use dequantize::{dequantize, widens};
pub use explore::{Budget, Cost, Explored, Price, Priced, explore};
pub use merge::merge;
pub use prune::prune;
pub use quantization::Quantization;
pub use rewriter::{Rewriter, head};

use crate::ir::{Graph, NodeId, ValueId};
use std::collections::{BTreeMap, BTreeSet};

/// What a rule may change about the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Nothing, for any operand; a NaN may be another NaN.
    Exact,
    /// Nothing for finite operands, but the sign of a zero.
    ExactOnFinite,
    /// The order or the number of roundings.
    Reassociating,
    /// The numbers that quantized values stand for.
    Quantizing,
}

/// Values that may stand in the place of a node's results.
pub type Found = Option<Vec<ValueId>>;

/// An equation between graphs, read from left to right.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Its name, in reports.
    pub name: &'static str,
    /// The [`head`]s of nodes it may apply to; `*` for any, `Pointwise` for any formula. An exploring rule says behind a `/` which
    /// operator it needs besides, so that graphs without it are spared the search.
    pub on: &'static [&'static str],
    /// What it says.
    pub equation: &'static str,
    /// What it may change.
    pub class: Class,
    /// Looks for the left side at a node; builds the right side.
    pub apply: fn(&mut Rewriter<'_>, NodeId) -> Found,
}

/// How often each rule applied, and how much work that was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// By rule.
    pub rules: BTreeMap<&'static str, usize>,
    /// Nodes visited and uses moved.
    pub work: u64,
    /// Kinds of regions that were explored.
    pub explored: Vec<Explored>,
    /// Applications in order, as far as they are kept.
    pub history: Vec<Event>,
    /// Rules that all but matched at what is left.
    pub misses: BTreeSet<Miss>,
}

/// An application of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The rule.
    pub rule: &'static str,
    /// The ONNX nodes that it touched.
    pub origins: Vec<usize>,
}

/// A rule that did not apply although its shape was there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Miss {
    /// The rule.
    pub rule: &'static str,
    /// Why.
    pub why: &'static str,
    /// The ONNX nodes at which it was tried.
    pub origins: Vec<usize>,
}

/// Applications that are kept for `explain`; a model of more has mostly folded constants.
const MOST_EVENTS: usize = 1 << 16;

impl Report {
    /// Adds another report's counts.
    pub fn absorb(&mut self, other: Report) {
        for (name, n) in other.rules {
            *self.rules.entry(name).or_insert(0) += n;
        }
        self.work += other.work;
        self.explored.extend(other.explored);
        let room = MOST_EVENTS.saturating_sub(self.history.len());
        self.history.extend(other.history.into_iter().take(room));
        self.misses.extend(other.misses);
    }
    /// Counts `n` applications.
    pub(crate) fn count(&mut self, name: &'static str, n: usize) {
        if n > 0 {
            *self.rules.entry(name).or_insert(0) += n;
        }
    }
}

/// Work allowed for each node of the graph. Rules shrink or settle what they touch, so that real graphs stay far below; the bound is
/// in work, not in time, since equal inputs must give equal outputs.
const WORK_PER_NODE: u64 = 64;

/// Applies rules until none applies.
pub fn apply(g: &mut Graph, rules: &[&Rule]) -> Report {
    let mut by_head: BTreeMap<&str, Vec<&Rule>> = BTreeMap::new();
    for r in rules {
        r.on.iter().for_each(|h| by_head.entry(h.split('/').next().unwrap_or(h)).or_default().push(r));
    }
    let mut rw = Rewriter::new(g);
    let limit = WORK_PER_NODE * (rw.graph().nodes.len() as u64 + 1024);
    let mut report = Report::default();
    while let Some(n) = rw.next() {
        if rw.work > limit {
            break;
        }
        let op = &rw.node(n).op;
        let heads = ["*", op.name(), head(op)];
        let heads = if heads[1] == heads[2] { &heads[..2] } else { &heads[..] };
        let candidates = heads.iter().filter_map(|h| by_head.get(h)).flatten();
        for rule in candidates {
            rw.begin(rule.name, n);
            match (rule.apply)(&mut rw, n) {
                Some(by) => {
                    if let Some(origins) = rw.commit(n, &by) {
                        report.count(rule.name, 1);
                        if report.history.len() < MOST_EVENTS {
                            report.history.push(Event { rule: rule.name, origins });
                        }
                    }
                }
                None => rw.abandon(),
            }
            if !rw.alive(n) {
                break;
            }
        }
    }
    report.work = rw.work;
    report.misses = rw.misses();
    rw.finish();
    report
}

/// Applies every rule of the tables.
pub fn simplify(g: &mut Graph) -> Report {
    apply(g, &rules::all())
}
