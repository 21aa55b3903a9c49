//! `Forest`: an ensemble of trees as a list of words, the form in which graphs hold it.

use crate::num::Num;
use alloc::{format, string::String, vec, vec::Vec};

/// The names of [`Mode`]s in the standard.
pub const MODES: [&str; 7] = ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ", "BRANCH_MEMBER"];

/// How a node compares its feature with its split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `x <= split`
    Leq,
    /// `x < split`
    Lt,
    /// `x >= split`
    Gte,
    /// `x > split`
    Gt,
    /// `x == split`
    Eq,
    /// `x != split`
    Neq,
    /// `x` is in the set that begins at this place among the members.
    Member(usize),
}

/// Where a branch leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Next {
    /// To a node.
    Node(usize),
    /// To a leaf.
    Leaf(usize),
}

impl Next {
    /// From a word: nodes from 0 up, leaves from -1 down.
    pub fn of(word: i64) -> Next {
        if word >= 0 { Next::Node(word as usize) } else { Next::Leaf(!word as usize) }
    }
    /// As a word.
    pub fn word(self) -> i64 {
        match self {
            Next::Node(n) => n as i64,
            Next::Leaf(n) => !(n as i64),
        }
    }
}

/// A node with two branches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Node {
    /// The feature it compares.
    pub feature: usize,
    /// How.
    pub mode: Mode,
    /// With what.
    pub split: f64,
    /// Whether a missing value (NaN) takes the branch of those for which the comparison holds; else it takes the one that the
    /// comparison of NaN leads to.
    pub tracks: bool,
    /// Where those go for which the comparison holds.
    pub yes: Next,
    /// Where the others go.
    pub no: Next,
}

/// An ensemble under construction.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Words {
    /// The root of each tree.
    pub roots: Vec<Next>,
    /// All nodes.
    pub nodes: Vec<Node>,
    /// Targets and weights of each leaf.
    pub leaves: Vec<Vec<(usize, f64)>>,
    /// The sets of nodes that ask for a member, each ended by NaN.
    pub members: Vec<f64>,
}

/// Words of a node.
const NODE: usize = 5;

impl Words {
    /// Whether every walk ends at a leaf, and what is wrong where not.
    ///
    /// # Errors
    /// A branch that leads nowhere, or in a circle.
    pub fn check(&self) -> Result<(), String> {
        // 0 not met, 1 on the way, 2 done.
        let mut met = vec![0u8; self.nodes.len()];
        for root in &self.roots {
            let mut stack = vec![(*root, false)];
            while let Some((at, back)) = stack.pop() {
                match at {
                    Next::Leaf(leaf) if leaf < self.leaves.len() => {}
                    Next::Node(n) if n < self.nodes.len() => match (met[n], back) {
                        (_, true) => met[n] = 2,
                        (0, _) => {
                            met[n] = 1;
                            stack.extend([(at, true), (self.nodes[n].yes, false), (self.nodes[n].no, false)]);
                        }
                        (1, _) => return Err(format!("a tree leads in a circle through node {n}")),
                        _ => {}
                    },
                    Next::Leaf(n) => return Err(format!("a tree refers to leaf {n} of {}", self.leaves.len())),
                    Next::Node(n) => return Err(format!("a tree refers to node {n} of {}", self.nodes.len())),
                }
            }
        }
        Ok(())
    }
    /// The words.
    pub fn encode(&self) -> Vec<i64> {
        let entries: usize = self.leaves.iter().map(Vec::len).sum();
        let mut out = vec![self.roots.len() as i64, self.nodes.len() as i64, self.leaves.len() as i64, entries as i64];
        out.push(self.members.len() as i64);
        out.extend(self.roots.iter().map(|r| r.word()));
        for n in &self.nodes {
            let (mode, split) = match n.mode {
                Mode::Leq => (0, n.split.to_bits()),
                Mode::Lt => (1, n.split.to_bits()),
                Mode::Gte => (2, n.split.to_bits()),
                Mode::Gt => (3, n.split.to_bits()),
                Mode::Eq => (4, n.split.to_bits()),
                Mode::Neq => (5, n.split.to_bits()),
                Mode::Member(set) => (6, set as u64),
            };
            out.extend([n.feature as i64, mode + 8 * n.tracks as i64, split as i64, n.yes.word(), n.no.word()]);
        }
        let mut start = 0;
        for leaf in &self.leaves {
            out.push(start);
            start += leaf.len() as i64;
        }
        out.push(start);
        // -0 stands for a target that has met no weight.
        out.extend(self.leaves.iter().flatten().flat_map(|(target, weight)| [*target as i64, (weight + 0.0).to_bits() as i64]));
        out.extend(self.members.iter().map(|m| m.to_bits() as i64));
        out
    }
}

/// A view of an ensemble's words: five counts (trees, nodes, leaves, weights, members), then the root of each tree, five words a node
/// (feature, mode and whether it tracks missing values, bits of the split as f64 or the place of its set, both branches), where the
/// weights of each leaf begin, target and bits of each weight, bits of the members of sets.
#[derive(Clone, Copy, Debug)]
pub struct Forest<'a> {
    /// The root of each tree, as [`Next::of`] reads it.
    pub roots: &'a [i64],
    nodes: &'a [i64],
    leaves: &'a [i64],
    weights: &'a [i64],
    members: &'a [i64],
}

impl<'a> Forest<'a> {
    /// The view; `None` when the counts and the words do not agree.
    pub fn of(words: &'a [i64]) -> Option<Forest<'a>> {
        let (counts, mut rest) = words.split_at_checked(5)?;
        let mut take = |count: i64, more: usize, each: usize| {
            let n = usize::try_from(count).ok()?.checked_add(more)?.checked_mul(each)?;
            let (part, behind) = rest.split_at_checked(n)?;
            rest = behind;
            Some(part)
        };
        let roots = take(counts[0], 0, 1)?;
        let nodes = take(counts[1], 0, NODE)?;
        let leaves = take(counts[2], 1, 1)?;
        let weights = take(counts[3], 0, 2)?;
        let members = take(counts[4], 0, 1)?;
        rest.is_empty().then_some(Forest { roots, nodes, leaves, weights, members })
    }
    /// Number of nodes.
    pub fn nodes(&self) -> usize {
        self.nodes.len() / NODE
    }
    /// Number of leaves.
    pub fn leaves(&self) -> usize {
        self.leaves.len() - 1
    }
    /// A node.
    pub fn node(&self, i: usize) -> Option<Node> {
        let [feature, mode, split, yes, no] = *self.nodes.get(i.checked_mul(NODE)?..)?.first_chunk::<NODE>()?;
        let set = usize::try_from(split).unwrap_or(usize::MAX);
        let modes = [Mode::Leq, Mode::Lt, Mode::Gte, Mode::Gt, Mode::Eq, Mode::Neq, Mode::Member(set)];
        Some(Node {
            feature: usize::try_from(feature).ok()?,
            mode: *modes.get((mode & 7) as usize)?,
            split: f64::from_bits(split as u64),
            tracks: mode & 8 != 0,
            yes: Next::of(yes),
            no: Next::of(no),
        })
    }
    /// Targets and weights of a leaf.
    pub fn leaf(&self, i: usize) -> Option<impl ExactSizeIterator<Item = (usize, f64)> + use<'a>> {
        let [start, end] = *self.leaves.get(i..)?.first_chunk::<2>()?;
        let (start, end) = (usize::try_from(start).ok()?, usize::try_from(end).ok()?);
        let weights = self.weights.get(start.checked_mul(2)?..end.checked_mul(2)?)?;
        Some(weights.chunks_exact(2).map(|w| (w[0] as usize, f64::from_bits(w[1] as u64))))
    }
    /// The set that begins at a place.
    pub fn set(&self, at: usize) -> Option<impl Iterator<Item = f64> + use<'a>> {
        let list = self.members.get(at..)?;
        let end = list.iter().position(|m| f64::from_bits(*m as u64).is_nan())?;
        Some(list[..end].iter().map(|m| f64::from_bits(*m as u64)))
    }
    /// Whether a value takes the first branch of a node.
    pub(super) fn holds<T: Num>(&self, n: &Node, v: T) -> Option<bool> {
        let split = T::from_f64(n.split);
        let holds = match n.mode {
            Mode::Leq => v <= split,
            Mode::Lt => v < split,
            Mode::Gte => v >= split,
            Mode::Gt => v > split,
            Mode::Eq => v == split,
            Mode::Neq => v != split,
            Mode::Member(set) => self.set(set)?.any(|m| T::from_f64(m) == v),
        };
        Some(holds || (v.nan() && n.tracks))
    }
}
