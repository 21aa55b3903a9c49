//! Regions: stretches of a block that are explored by themselves, cut before residual additions, and equal for equal keys.

use crate::ir::{Block, Dim, Graph, NodeId, Type, ValueId};
use crate::ops::Op;
use crate::rewrite::{Affine, affine};
use kiln_kernels::dtype::DType;
use std::collections::{BTreeMap, BTreeSet};

/// Nodes of a region at most: exploration takes more than proportionally longer for larger ones.
const MOST_NODES: usize = 96;
/// Elements of constants that rules may read; larger ones are weights, of which only type and shape count.
const SMALL: usize = 16;

/// A value inside of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ref {
    /// A value from outside.
    Leaf(u32),
    /// A result of a node.
    Node(u32, u32),
}

/// What matters of a value from outside.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Leaf {
    /// Computed elsewhere: its type, its contents as expressions, and the affine form that they or its producers show.
    Input(Type, Option<Vec<Dim>>, Option<Affine>),
    /// A constant whose contents do not matter.
    Weight(DType, Vec<usize>),
    /// A constant of few elements.
    Constant(DType, Vec<usize>, Vec<u8>),
}

/// A node of a region.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct KeyNode {
    pub(super) op: Op,
    pub(super) inputs: Vec<Option<Ref>>,
    pub(super) results: u32,
}

/// The structure of a region: what exploration sees of it. Regions of equal keys are explored once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) leaves: Vec<Leaf>,
    pub(super) nodes: Vec<KeyNode>,
    pub(super) outputs: Vec<Ref>,
}

/// A region of a graph.
#[derive(Clone, Debug)]
pub(super) struct Region {
    pub(super) key: Key,
    /// The values of the key's leaves.
    pub(super) leaves: Vec<ValueId>,
    /// The nodes of the key.
    pub(super) nodes: Vec<NodeId>,
    /// The values of the key's outputs.
    pub(super) outputs: Vec<ValueId>,
}

/// A stretch of a block: a region, or a node that stands for itself.
#[derive(Clone, Debug)]
pub(super) enum Stretch {
    Region(Box<Region>),
    Alone(NodeId),
}

/// The nodes that compute values.
type Producers = BTreeMap<ValueId, NodeId>;

/// Cuts a block into stretches, in order: where a residual is added, and where too many nodes stand together, at the narrowest place.
pub(super) fn cut(g: &Graph, b: &Block, uses: &BTreeMap<ValueId, usize>, producers: &Producers) -> Vec<Stretch> {
    let position: BTreeMap<ValueId, usize> =
        b.nodes.iter().enumerate().flat_map(|(i, n)| g[*n].outputs.iter().map(move |v| (*v, i))).collect();
    let mut last_read: BTreeMap<ValueId, usize> = BTreeMap::new();
    for (i, n) in b.nodes.iter().enumerate() {
        last_read.extend(g[*n].inputs.iter().flatten().map(|v| (*v, i)));
    }
    last_read.extend(b.outputs.iter().map(|v| (*v, usize::MAX)));
    let mut stretches = Vec::new();
    let mut open: Vec<NodeId> = Vec::new();
    for (i, &n) in b.nodes.iter().enumerate() {
        let alone = !explored(&g[n].op);
        if alone || residual(g, b, &position, i) {
            close(g, uses, producers, &mut open, &mut stretches);
        } else if open.len() >= MOST_NODES {
            let rest = open.split_off(narrowest(g, &open, i - open.len(), &last_read));
            close(g, uses, producers, &mut open, &mut stretches);
            open = rest;
        }
        match alone {
            true => stretches.push(Stretch::Alone(n)),
            false => open.push(n),
        }
    }
    close(g, uses, producers, &mut open, &mut stretches);
    stretches
}

/// How many nodes of a stretch, which begins at the position `first`, stand before the place that fewest values cross: one value alone
/// there dominates what follows, and siblings that read the same stay together. Of several the last one, in the later half.
fn narrowest(g: &Graph, nodes: &[NodeId], first: usize, last_read: &BTreeMap<ValueId, usize>) -> usize {
    let mut known: BTreeSet<ValueId> = BTreeSet::new();
    let mut best = (usize::MAX, nodes.len());
    for (k, n) in nodes.iter().enumerate() {
        let node = &g[*n];
        known.extend(node.inputs.iter().flatten().chain(&node.outputs).filter(|v| g[**v].constant.is_none()));
        known.retain(|v| last_read.get(v).is_some_and(|at| *at > first + k));
        if 2 * (k + 1) >= nodes.len() && known.len() <= best.0 {
            best = (known.len(), k + 1);
        }
    }
    best.1
}

/// Host functions and control flow may define symbols; what they compute is not for rules.
fn explored(op: &Op) -> bool {
    op.is_pure() && !matches!(op, Op::Host(_))
}

/// Whether a node adds what a stretch computed to what went into that stretch.
fn residual(g: &Graph, b: &Block, position: &BTreeMap<ValueId, usize>, i: usize) -> bool {
    let node = &g[b.nodes[i]];
    let (Op::Pointwise(p), [Some(x), Some(y)]) = (&node.op, &node.inputs[..]) else { return false };
    if p.name != "Add" || g.ty(*x) != g.ty(*y) {
        return false;
    }
    let (Some(&a), Some(&c)) = (position.get(x), position.get(y)) else { return false };
    let (first, last, skip) = if a < c { (a, c, *x) } else { (c, a, *y) };
    // Whether the later operand is computed from the earlier one: looked for between the two only.
    let mut stack = vec![last];
    let mut seen = BTreeSet::new();
    while let Some(at) = stack.pop() {
        for v in g[b.nodes[at]].inputs.iter().flatten() {
            if *v == skip {
                return true;
            }
            if let Some(&from) = position.get(v)
                && from > first
                && seen.insert(from)
            {
                stack.push(from);
            }
        }
    }
    false
}

fn close(g: &Graph, uses: &BTreeMap<ValueId, usize>, producers: &Producers, open: &mut Vec<NodeId>, out: &mut Vec<Stretch>) {
    let nodes = std::mem::take(open);
    if !nodes.is_empty() {
        out.push(Stretch::Region(Box::new(region(g, uses, producers, nodes))));
    }
}

fn region(g: &Graph, uses: &BTreeMap<ValueId, usize>, producers: &Producers, nodes: Vec<NodeId>) -> Region {
    let mut at: BTreeMap<ValueId, Ref> = BTreeMap::new();
    let mut inside: BTreeMap<ValueId, usize> = BTreeMap::new();
    let (mut leaves, mut leaf_keys, mut key_nodes) = (Vec::new(), Vec::new(), Vec::new());
    for (i, n) in nodes.iter().enumerate() {
        let node = &g[*n];
        let mut inputs = Vec::new();
        for v in &node.inputs {
            inputs.push(v.map(|v| {
                *inside.entry(v).or_insert(0) += 1;
                *at.entry(v).or_insert_with(|| {
                    leaves.push(v);
                    leaf_keys.push(leaf(g, producers, v));
                    Ref::Leaf(leaves.len() as u32 - 1)
                })
            }));
        }
        key_nodes.push(KeyNode { op: node.op.clone(), inputs, results: node.outputs.len() as u32 });
        for (k, v) in node.outputs.iter().enumerate() {
            at.insert(*v, Ref::Node(i as u32, k as u32));
        }
    }
    let results = nodes.iter().flat_map(|n| &g[*n].outputs);
    let outputs: Vec<ValueId> =
        results.copied().filter(|v| uses.get(v).copied().unwrap_or(0) > inside.get(v).copied().unwrap_or(0)).collect();
    let refs = outputs.iter().map(|v| at[v]).collect();
    Region { key: Key { leaves: leaf_keys, nodes: key_nodes, outputs: refs }, leaves, nodes, outputs }
}

fn leaf(g: &Graph, producers: &Producers, v: ValueId) -> Leaf {
    match &g[v].constant {
        Some(t) if t.len() <= SMALL && t.dtype != DType::Str => Leaf::Constant(t.dtype, t.dims.clone(), t.bytes().to_vec()),
        Some(t) => Leaf::Weight(t.dtype, t.dims.clone()),
        None => {
            let form = affine::shown(g, &|v| producers.get(&v).map(|n| &g[*n]), v);
            Leaf::Input(g.ty(v).clone(), g[v].fact.dims.clone(), form)
        }
    }
}
