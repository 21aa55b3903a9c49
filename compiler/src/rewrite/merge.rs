//! Common subexpressions: equal constants are stored once, equal operators on equal operands are computed once.

use super::Report;
use crate::ir::{Block, Graph, NodeId, ValueId};
use crate::ops::Op;
use kiln_kernels::value::Tensor;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Formulas whose operands may change places without changing a bit of the result.
const COMMUTATIVE: &[&str] = &["Add", "Mul", "And", "Or", "Xor", "Equal", "BitwiseAnd", "BitwiseOr", "BitwiseXor"];

/// Merges equal constants, then equal pure nodes.
pub fn merge(g: &mut Graph) -> Report {
    let mut report = Report::default();
    let map = equal_constants(g);
    report.count("merge-constants", map.len());
    g.replace_uses(&map);
    let mut seen = Seen { nodes: BTreeMap::new(), renamed: BTreeMap::new(), dropped: 0 };
    let mut body = std::mem::take(&mut g.body);
    seen.block(g, &mut body);
    g.body = body;
    report.count("merge-nodes", seen.dropped);
    report.work = g.nodes.len() as u64;
    report
}

/// A fingerprint of a few elements, which tells most constants apart without reading them.
fn sample(t: &Tensor) -> u64 {
    let mut h = DefaultHasher::new();
    (t.dtype, &t.dims).hash(&mut h);
    let bytes = t.bytes();
    for i in 0..16 {
        let at = bytes.len() / 16 * i;
        bytes[at..(at + 16).min(bytes.len())].hash(&mut h);
    }
    bytes[bytes.len().saturating_sub(64)..].hash(&mut h);
    h.finish()
}

/// A fingerprint of all contents.
fn whole(t: &Tensor) -> u64 {
    let mut h = 0xcbf2_9ce4_8422_2325u64;
    let mut mix = |x: u64| h = (h ^ x).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    let words = t.bytes().chunks_exact(8);
    words.remainder().iter().for_each(|b| mix(*b as u64));
    for w in words {
        mix(w.iter().rev().fold(0, |x, b| x << 8 | *b as u64));
    }
    for s in t.as_strings() {
        mix(s.len() as u64);
        s.bytes().for_each(|b| mix(b as u64));
    }
    h
}

/// Equal constants among those in use, each mapped to the first of its contents.
fn equal_constants(g: &Graph) -> BTreeMap<ValueId, ValueId> {
    let mut alike: BTreeMap<u64, Vec<(ValueId, &Tensor)>> = BTreeMap::new();
    for (v, _) in g.uses() {
        if let Some(t) = &g[v].constant {
            alike.entry(sample(t)).or_default().push((v, t));
        }
    }
    let mut map = BTreeMap::new();
    for group in alike.into_values().filter(|g| g.len() > 1) {
        let mut first: BTreeMap<u64, Vec<(ValueId, &Tensor)>> = BTreeMap::new();
        for (v, t) in group {
            let same = first.entry(whole(t)).or_default();
            match same.iter().find(|(_, o)| *o == t) {
                Some((o, _)) => {
                    map.insert(v, *o);
                }
                None => same.push((v, t)),
            }
        }
    }
    map
}

struct Seen {
    /// Nodes of the blocks that are open, by fingerprint.
    nodes: BTreeMap<u64, Vec<NodeId>>,
    renamed: BTreeMap<ValueId, ValueId>,
    dropped: usize,
}

impl Seen {
    fn block(&mut self, g: &mut Graph, b: &mut Block) {
        let mut opened = Vec::new();
        let mut kept = Vec::with_capacity(b.nodes.len());
        for &n in &b.nodes {
            for v in g[n].inputs.iter_mut().flatten() {
                *v = self.renamed.get(v).copied().unwrap_or(*v);
            }
            for i in 0..g[n].blocks.len() {
                let mut inner = std::mem::take(&mut g[n].blocks[i]);
                self.block(g, &mut inner);
                g[n].blocks[i] = inner;
            }
            if g[n].op.is_pure() {
                let key = key(g, n);
                let alike = self.nodes.entry(key).or_default();
                if let Some(&m) = alike.iter().find(|m| equal(g, **m, n)) {
                    let (old, new) = (g[n].outputs.clone(), g[m].outputs.clone());
                    self.renamed.extend(old.into_iter().zip(new));
                    self.dropped += 1;
                    let origins = std::mem::take(&mut g[n].origins);
                    let room = 64usize.saturating_sub(g[m].origins.len());
                    g[m].origins.extend(origins.into_iter().take(room));
                    continue;
                }
                alike.push(n);
                opened.push(key);
            }
            kept.push(n);
        }
        b.nodes = kept;
        for v in &mut b.outputs {
            *v = self.renamed.get(v).copied().unwrap_or(*v);
        }
        // What this block computed cannot be had outside it.
        for key in opened.into_iter().rev() {
            if let Some(alike) = self.nodes.get_mut(&key) {
                alike.pop();
                if alike.is_empty() {
                    self.nodes.remove(&key);
                }
            }
        }
    }
}

/// The operands of a node, in an order that does not matter to a commutative formula.
fn operands(g: &Graph, n: NodeId) -> Vec<Option<ValueId>> {
    let mut inputs = g[n].inputs.clone();
    if matches!(&g[n].op, Op::Pointwise(p) if COMMUTATIVE.contains(&p.name)) {
        inputs.sort();
    }
    inputs
}

fn key(g: &Graph, n: NodeId) -> u64 {
    let mut h = DefaultHasher::new();
    (&g[n].op, operands(g, n)).hash(&mut h);
    h.finish()
}

fn equal(g: &Graph, a: NodeId, b: NodeId) -> bool {
    g[a].op == g[b].op
        && operands(g, a) == operands(g, b)
        && g[a].outputs.len() == g[b].outputs.len()
        && g[a].outputs.iter().zip(&g[b].outputs).all(|(x, y)| g.ty(*x) == g.ty(*y))
}
