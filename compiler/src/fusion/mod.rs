//! Which nodes share a kernel: every node of a block ends up in exactly one `Cluster`.

use crate::ir::{Block, Graph, Node, NodeId, ValueId};
use crate::kernel::{At, Expr};
use crate::ops::Op;
use crate::rewrite::widens;
use crate::target::cpu;
use kiln_kernels::dtype::DType;
use std::collections::{BTreeMap, BTreeSet};

mod outputs;
mod rows;

/// Nodes that become one kernel: an anchor with what is pointwise before and behind it, or a pointwise region alone.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// The node that is not pointwise, if there is one.
    pub anchor: Option<NodeId>,
    /// All nodes, in execution order.
    pub nodes: Vec<NodeId>,
    /// The pointwise part before the anchor, when there is one: it computes the anchor's first operand.
    pub head: Option<Tail>,
    /// The pointwise part behind the anchor, or the whole, when there is one.
    pub tail: Option<Tail>,
    /// What the cluster hands to others: the results of its tail, or else of its anchor; and, where others read it too, what the head computes.
    pub outputs: Vec<ValueId>,
}

/// A pointwise part of a cluster.
#[derive(Clone, Debug)]
pub struct Tail {
    /// The expression; input `i` is an element of `inputs[i]`. Its results are what the cluster hands out.
    pub expr: Expr,
    /// The values it reads. Behind an anchor, that one's result comes first.
    pub inputs: Vec<ValueId>,
}

/// A pointwise region may have this many nodes: enough for any activation, small enough for registers.
const MAX_NODES: usize = 48;
/// A region may read this many values: pointers beyond the general registers are spilled.
const MAX_INPUTS: usize = 12;
/// Why rows do not take in what is pointwise around them.
const FEW: &str = "the rows are few and long, so that a kernel of its own is spread over more threads";
/// How far back a search for a dependency goes before it gives up and keeps the nodes apart.
const MAX_SEARCH: usize = 512;

/// Groups the nodes of a block into clusters, in an order in which they can run; without fusion, each node is one.
pub fn cluster(g: &Graph, block: &Block, fuse: bool) -> Vec<Cluster> {
    let cx = Cx::new(g, block, fuse);
    let mut taken: BTreeSet<NodeId> = BTreeSet::new();
    let mut out: Vec<(usize, Cluster)> = Vec::new();
    // Dequantized bytes are read as bytes by the cluster of their reader, so they are last to have one of their own.
    let (late, early): (Vec<NodeId>, Vec<NodeId>) = block.nodes.iter().partition(|n| fuse && cx.lazy(**n));
    for n in early.into_iter().chain(late) {
        if taken.contains(&n) {
            continue;
        }
        let c = cx.grow(n, &taken);
        taken.extend(&c.nodes);
        let last = c.nodes.iter().map(|n| cx.position[n]).max().unwrap_or(0);
        out.push((last, c));
    }
    if fuse {
        rows::join(&cx, block, &mut out);
        outputs::join(&cx, block, &mut out);
    }
    out.sort_by_key(|(last, _)| *last);
    out.into_iter().map(|(_, c)| c).collect()
}

/// Why a reader of cluster `from` of a block, in `value`, is part of cluster `into` instead: a pointwise one, or one whose kernel is over
/// rows.
pub fn apart(g: &Graph, clusters: &[Cluster], [from, into]: [usize; 2], value: ValueId, reader: NodeId) -> &'static str {
    let (c, result) = (&clusters[from], &value);
    let anchored = c.anchor.map(|n| &g[n]);
    let tiles = |n: &Node| {
        matches!(n.op, Op::Conv(_) | Op::ConvInteger(_) | Op::MatMul(_) | Op::MatMulInteger(_) | Op::GatherMatMul(_) | Op::NarrowMatMul(_))
            && cpu::packs(g, n)
    };
    let rows = |n: &Node| cpu::rowwise::form(g, n).is_some();
    if rows(&g[reader]) {
        return match anchored {
            Some(_) => "a kernel over rows takes in pointwise operators alone",
            None if !cpu::rowwise::pays(g, &g[reader]) => FEW,
            None if g[reader].inputs.first() != Some(&Some(*result)) => "it reads the value beside its rows",
            None => "others read the value before that kernel has run, or it is not computed from rows",
        };
    }
    match anchored {
        Some(n) if !tiles(n) && !rows(n) => "that kind of kernel takes no pointwise operators behind it",
        Some(n) if rows(n) && !cpu::rowwise::pays(g, n) => FEW,
        Some(n) if rows(n) && g.uses().get(result).is_some_and(|n| *n > 1) => "others need the value too, and kernels over rows store one",
        Some(n) if rows(n) => "its operands do not lie in rows, or its kernel has others of another shape or too many",
        _ => outputs::refusal(&Cx::new(g, &g.body, true), &g.body, clusters, [from, into]).unwrap_or("its kernel has begun before"),
    }
}

struct Cx<'a> {
    g: &'a Graph,
    uses: BTreeMap<ValueId, usize>,
    users: BTreeMap<ValueId, Vec<NodeId>>,
    producer: BTreeMap<ValueId, NodeId>,
    position: BTreeMap<NodeId, usize>,
    fuse: bool,
}

impl<'a> Cx<'a> {
    fn new(g: &'a Graph, block: &Block, fuse: bool) -> Cx<'a> {
        let position: BTreeMap<NodeId, usize> = block.nodes.iter().enumerate().map(|(i, n)| (*n, i)).collect();
        let mut users: BTreeMap<ValueId, Vec<NodeId>> = BTreeMap::new();
        let mut producer: BTreeMap<ValueId, NodeId> = BTreeMap::new();
        for &n in &block.nodes {
            for v in g[n].inputs.iter().flatten() {
                users.entry(*v).or_default().push(n);
            }
            g[n].outputs.iter().for_each(|v| {
                producer.insert(*v, n);
            });
        }
        Cx { g, uses: g.uses(), users, producer, position, fuse }
    }
    /// Whether an anchor's kernel takes a pointwise tail.
    fn takes_tail(&self, n: NodeId) -> bool {
        let node = &self.g[n];
        let dtype = match node.op {
            Op::Conv(_) | Op::MatMul(_) | Op::GatherMatMul(_) | Op::NarrowMatMul(_) => DType::F32,
            // Sums of four bytes, which a tail of f32 replaces in their place.
            Op::MatMulInteger(_) | Op::ConvInteger(_) => DType::I32,
            _ => return false,
        };
        node.outputs.len() == 1 && self.g.dtype(node.outputs[0]) == dtype && cpu::packs(self.g, node)
    }
    /// Whether a node dequantizes bytes for one pointwise reader.
    fn lazy(&self, n: NodeId) -> bool {
        let node = &self.g[n];
        let reader = || self.users.get(&node.outputs[0]).and_then(|u| u.first()).map(|r| &self.g[*r].op);
        widens(self.g, node) && self.uses.get(&node.outputs[0]) == Some(&1) && matches!(reader(), Some(Op::Pointwise(_)))
    }
    /// The nodes that dequantize operands of a pointwise node for it alone, and that no cluster has.
    fn widened(&self, n: NodeId, taken: &BTreeSet<NodeId>, values: &BTreeSet<ValueId>) -> Vec<NodeId> {
        let mut out: Vec<NodeId> = Vec::new();
        for v in self.g[n].inputs.iter().flatten().filter(|v| !values.contains(v)) {
            let made = self.producer.get(v).filter(|d| !taken.contains(d) && !out.contains(d) && self.lazy(**d));
            out.extend(made);
        }
        out
    }
    /// Whether computing `v` needs a value of the set.
    fn depends(&self, v: ValueId, set: &BTreeSet<ValueId>, first: usize) -> bool {
        let mut stack = vec![v];
        let mut seen = BTreeSet::new();
        while let Some(v) = stack.pop() {
            if set.contains(&v) {
                return true;
            }
            let Some(&n) = self.producer.get(&v) else { continue };
            if self.position[&n] < first || !seen.insert(n) {
                continue;
            }
            if seen.len() > MAX_SEARCH || !self.g[n].blocks.is_empty() {
                return true;
            }
            stack.extend(self.g[n].inputs.iter().flatten());
        }
        false
    }
    /// The cluster that starts at a node: as many pointwise nodes behind it as leave one value to hand out.
    fn grow(&self, start: NodeId, taken: &BTreeSet<NodeId>) -> Cluster {
        let node = &self.g[start];
        let pointwise = matches!(node.op, Op::Pointwise(_));
        let mut own = if pointwise && self.fuse { self.widened(start, taken, &BTreeSet::new()) } else { vec![] };
        own.push(start);
        let alone = Cluster {
            anchor: (!pointwise).then_some(start),
            nodes: own.clone(),
            head: None,
            tail: pointwise.then(|| self.tail(&own, None, &node.outputs[..1])),
            outputs: node.outputs.clone(),
        };
        if !self.fuse || !pointwise && !self.takes_tail(start) {
            return alone;
        }
        let root = node.outputs[0];
        let shape = self.g.shape(root);
        let first = self.position[&start];
        let mut set: Vec<NodeId> = own;
        let mut values: BTreeSet<ValueId> = set.iter().map(|n| self.g[*n].outputs[0]).collect();
        let mut best = alone;
        let mut queue: BTreeSet<(usize, NodeId)> = BTreeSet::new();
        let push = |v: ValueId, queue: &mut BTreeSet<(usize, NodeId)>| {
            for n in self.users.get(&v).into_iter().flatten() {
                queue.insert((self.position[n], *n));
            }
        };
        push(root, &mut queue);
        while let Some((_, n)) = queue.pop_first() {
            if set.len() >= MAX_NODES {
                break;
            }
            let node = &self.g[n];
            let fits = matches!(node.op, Op::Pointwise(_))
                && !taken.contains(&n)
                && !set.contains(&n)
                && self.g.shape(node.outputs[0]) == shape
                && node.inputs.iter().flatten().all(|v| values.contains(v) || !self.depends(*v, &values, first));
            if !fits {
                continue;
            }
            for d in self.widened(n, taken, &values) {
                set.push(d);
                values.insert(self.g[d].outputs[0]);
            }
            set.push(n);
            values.insert(node.outputs[0]);
            push(node.outputs[0], &mut queue);
            let escaping: Vec<ValueId> = values.iter().copied().filter(|v| self.escapes(*v, &set)).collect();
            if let [only] = escaping[..] {
                let anchor = (!pointwise).then_some(start);
                let tail = self.tail(&set, anchor, &[only]);
                if tail.inputs.len() > MAX_INPUTS {
                    break;
                }
                if only == node.outputs[0] && (pointwise || self.fits_tail(start, &tail).is_ok()) {
                    best = Cluster { anchor, nodes: set.clone(), head: None, tail: Some(tail), outputs: vec![only] };
                }
            }
        }
        best
    }
    /// Whether a value is read outside of the set.
    fn escapes(&self, v: ValueId, set: &[NodeId]) -> bool {
        let inside: usize = set.iter().map(|n| self.g[*n].inputs.iter().flatten().filter(|x| **x == v).count()).sum();
        self.uses.get(&v).copied().unwrap_or(0) > inside
    }
    /// The expression of the nodes of a set, in order, with those results.
    fn tail(&self, set: &[NodeId], anchor: Option<NodeId>, results: &[ValueId]) -> Tail {
        let mut expr = Expr::default();
        let mut inputs: Vec<ValueId> = Vec::new();
        let mut at: BTreeMap<ValueId, At> = BTreeMap::new();
        if let Some(a) = anchor {
            let v = self.g[a].outputs[0];
            inputs.push(v);
            at.insert(v, expr.input(0, self.g.dtype(v)));
        }
        for &n in set.iter().filter(|n| Some(**n) != anchor) {
            let node = &self.g[n];
            let Op::Pointwise(p) = &node.op else { continue };
            let operands: Vec<At> = node
                .inputs
                .iter()
                .flatten()
                .map(|v| match at.get(v) {
                    Some(a) => *a,
                    None => {
                        let a = match self.literal(*v) {
                            Some(x) => expr.constant_of(x, self.g.dtype(*v)),
                            None => {
                                inputs.push(*v);
                                expr.input(inputs.len() - 1, self.g.dtype(*v))
                            }
                        };
                        at.insert(*v, a);
                        a
                    }
                })
                .collect();
            let made = expr.inline(&p.expr, &operands);
            node.outputs.iter().zip(made).for_each(|(v, a)| {
                at.insert(*v, a);
            });
        }
        expr.results.extend(results.iter().map(|v| at[v]));
        // Literals replace inputs, so numbers are closed up after dead instructions are gone.
        Tail { expr, inputs }.tidied(anchor.is_some())
    }
    /// The value of a constant of one element.
    fn literal(&self, v: ValueId) -> Option<crate::kernel::Literal> {
        use crate::kernel::Literal;
        let t = self.g[v].constant.as_ref().filter(|t| t.len() == 1)?;
        Some(match t.dtype {
            DType::Bool => Literal::Bool(t.bytes()[0] != 0),
            d if d.is_float() => Literal::float(t.to_f64s()?[0]),
            _ => Literal::Int(t.to_i64s()?[0]),
        })
    }
    /// Whether a tail is of the anchor's kernel: its results are f32 or, of integer sums, bytes, and its other operands can be read from the
    /// rows and columns that the kernel hands to it. Else why not.
    fn fits_tail(&self, anchor: NodeId, tail: &Tail) -> Result<(), &'static str> {
        let bytes = matches!(self.g[anchor].op, Op::ConvInteger(_) | Op::MatMulInteger(_));
        let stores = |d: DType| d == DType::F32 || bytes && matches!(d, DType::U8 | DType::I8);
        if tail.expr.results.iter().any(|r| !stores(tail.expr.ty(*r))) {
            return Err("its result is not of a type that the kernel stores");
        }
        match tail.inputs[1..].iter().all(|v| cpu::tail_operand(self.g, anchor, *v).is_some()) {
            true => Ok(()),
            false => Err("its other operands cannot be read along the rows and columns of the kernel"),
        }
    }
}

/// The place of a cluster that has become part of another.
fn gone() -> Cluster {
    Cluster { anchor: None, nodes: vec![], head: None, tail: None, outputs: vec![] }
}

impl Tail {
    /// Without dead instructions, and with inputs numbered without gaps.
    fn tidied(self, anchored: bool) -> Tail {
        use crate::kernel::Scalar;
        let mut expr = self.expr.canonical();
        let used: BTreeSet<u32> = expr.code.iter().filter_map(|(s, _)| if let Scalar::In(i) = s { Some(*i) } else { None }).collect();
        let keep: Vec<u32> = (0..self.inputs.len() as u32).filter(|i| used.contains(i) || (anchored && *i == 0)).collect();
        for (s, _) in &mut expr.code {
            if let Scalar::In(i) = s {
                *i = keep.iter().position(|k| k == i).unwrap_or(0) as u32;
            }
        }
        Tail { expr, inputs: keep.iter().map(|k| self.inputs[*k as usize]).collect() }
    }
}
