//! `Graph`: what is computed. Nodes and values live in tables by typed id; a block lists the nodes it runs, in order.

use super::dim::{Dim, Range, Sym};
use crate::diagnostics::Origin;
use crate::ops::Op;
use kiln_kernels::{dtype::DType, value::Tensor};
use petgraph::graph::DiGraph;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

macro_rules! ids {
    ($($name:ident $prefix:literal $doc:literal;)*) => {$(
        #[doc = $doc]
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub u32);
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { write!(f, concat!($prefix, "{}"), self.0) }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { fmt::Display::fmt(self, f) }
        }
    )*};
}
ids! {
    ValueId "v" "A value of a [`Graph`], printed as `v12`.";
    NodeId "n" "A node of a [`Graph`], printed as `n12`.";
}

/// The type of a value.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Type {
    /// A dense tensor of known rank.
    Tensor(DType, Vec<Dim>),
    /// A dense tensor whose rank is known only at run time.
    AnyTensor(DType),
    /// A sequence of values of one type.
    Sequence(Box<Type>),
    /// A value that may be absent.
    Optional(Box<Type>),
    /// A map from integers or strings.
    Map(DType, Box<Type>),
}

impl Type {
    /// The shape of a tensor of known rank.
    pub fn shape(&self) -> Option<&[Dim]> {
        match self {
            Type::Tensor(_, shape) => Some(shape),
            _ => None,
        }
    }
    /// The element type, when it is a tensor.
    pub fn dtype(&self) -> Option<DType> {
        match self {
            Type::Tensor(d, _) | Type::AnyTensor(d) => Some(*d),
            _ => None,
        }
    }
    /// Whether it is a tensor whose every extent is a constant.
    pub fn closed_dims(&self) -> Option<Vec<usize>> {
        self.shape()?.iter().map(|d| d.as_int().and_then(|n| usize::try_from(n).ok())).collect()
    }
}

/// What is known of a value.
#[derive(Clone, Debug, PartialEq)]
pub struct Fact {
    /// Its type.
    pub ty: Type,
    /// Its contents as expressions, for small integer tensors that compute shapes.
    pub dims: Option<Vec<Dim>>,
}

impl Fact {
    /// A dense tensor of this type and shape.
    pub fn tensor(dtype: DType, shape: Vec<Dim>) -> Fact {
        Fact { ty: Type::Tensor(dtype, shape), dims: None }
    }
}

impl From<Type> for Fact {
    fn from(ty: Type) -> Fact {
        Fact { ty, dims: None }
    }
}

/// A value: what is known of it, and its contents when they are a constant.
#[derive(Clone, Debug)]
pub struct Value {
    /// What is known.
    pub fact: Fact,
    /// The contents of a constant. A constant has no producer.
    pub constant: Option<Tensor>,
    /// The ONNX name, for people only.
    pub name: String,
}

/// An operator applied to values.
#[derive(Clone, Debug)]
pub struct Node {
    /// The operator with its attributes.
    pub op: Op,
    /// Operands; `None` for an optional one left out.
    pub inputs: Vec<Option<ValueId>>,
    /// Results; one per output of the operator.
    pub outputs: Vec<ValueId>,
    /// Bodies of control flow.
    pub blocks: Vec<Block>,
    /// The ONNX nodes it stands for; the first is the one to name in messages.
    pub origins: Vec<usize>,
}

/// A list of nodes in execution order, with the values that enter and leave it. Other values may be captured from blocks around it.
#[derive(Clone, Debug, Default)]
pub struct Block {
    /// Values bound on entry.
    pub inputs: Vec<ValueId>,
    /// Nodes, each after those it depends on.
    pub nodes: Vec<NodeId>,
    /// Values handed out.
    pub outputs: Vec<ValueId>,
}

/// An input or output of the model.
#[derive(Clone, Debug, PartialEq)]
pub struct Port {
    /// The ONNX name.
    pub name: String,
    /// The name of the field in generated code.
    pub field: String,
    /// Whether a caller may leave it out.
    pub optional: bool,
}

/// What is known of a [`Sym`].
#[derive(Clone, Debug, PartialEq)]
pub struct Symbol {
    /// The `dim_param` of the model, or what defines it.
    pub name: String,
    /// The values it may take.
    pub range: Range,
    /// The input and axis that bind it, when the caller does; a step defines it otherwise.
    pub input: Option<(usize, usize)>,
}

/// What is computed: values, nodes, and the body that runs them.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// All values, by id; unused ones stay as holes.
    pub values: Vec<Value>,
    /// All nodes, by id; nodes that no block lists are dead.
    pub nodes: Vec<Node>,
    /// The model's own block: its inputs, nodes and outputs.
    pub body: Block,
    /// Ports of `body.inputs`, in the same order.
    pub inputs: Vec<Port>,
    /// Ports of `body.outputs`, in the same order.
    pub outputs: Vec<Port>,
    /// All symbols, by [`Sym`].
    pub symbols: Vec<Symbol>,
    /// The ONNX nodes that `Node::origins` counts.
    pub origins: Vec<Origin>,
}

impl std::ops::Index<ValueId> for Graph {
    type Output = Value;
    fn index(&self, v: ValueId) -> &Value {
        &self.values[v.0 as usize]
    }
}
impl std::ops::IndexMut<ValueId> for Graph {
    fn index_mut(&mut self, v: ValueId) -> &mut Value {
        &mut self.values[v.0 as usize]
    }
}
impl std::ops::Index<NodeId> for Graph {
    type Output = Node;
    fn index(&self, n: NodeId) -> &Node {
        &self.nodes[n.0 as usize]
    }
}
impl std::ops::IndexMut<NodeId> for Graph {
    fn index_mut(&mut self, n: NodeId) -> &mut Node {
        &mut self.nodes[n.0 as usize]
    }
}

impl Graph {
    /// Adds a value that some node or block will define.
    pub fn add_value(&mut self, fact: Fact, name: impl Into<String>) -> ValueId {
        self.values.push(Value { fact, constant: None, name: name.into() });
        ValueId(self.values.len() as u32 - 1)
    }
    /// Adds a constant.
    pub fn add_constant(&mut self, t: Tensor, name: impl Into<String>) -> ValueId {
        let ty = Type::Tensor(t.dtype, t.dims.iter().map(|&d| d.into()).collect());
        let dims = shape_contents(&t);
        self.values.push(Value { fact: Fact { ty, dims }, constant: Some(t), name: name.into() });
        ValueId(self.values.len() as u32 - 1)
    }
    /// Adds a node that no block lists yet.
    pub fn add_node(&mut self, node: Node) -> NodeId {
        self.nodes.push(node);
        NodeId(self.nodes.len() as u32 - 1)
    }
    /// Adds a symbol.
    pub fn add_symbol(&mut self, symbol: Symbol) -> Sym {
        self.symbols.push(symbol);
        Sym(self.symbols.len() as u32 - 1)
    }
    /// The type of a value.
    pub fn ty(&self, v: ValueId) -> &Type {
        &self[v].fact.ty
    }
    /// The shape of a tensor value; empty when it is not a tensor of known rank.
    pub fn shape(&self, v: ValueId) -> &[Dim] {
        self[v].fact.ty.shape().unwrap_or(&[])
    }
    /// The element type of a tensor value; f32 stands in for values that are no tensors.
    pub fn dtype(&self, v: ValueId) -> DType {
        self[v].fact.ty.dtype().unwrap_or(DType::F32)
    }
    /// The interval of a dimension, from what is known of its symbols.
    pub fn range(&self, d: &Dim) -> Range {
        d.range(&|s| self.symbols.get(s.0 as usize).map_or(Range { lo: 0, hi: None }, |s| s.range))
    }
    /// Whether every symbol of the dimension is bound by the inputs.
    pub fn known_at_entry(&self, d: &Dim) -> bool {
        let mut syms = BTreeSet::new();
        d.symbols(&mut syms);
        syms.iter().all(|s| self.symbols.get(s.0 as usize).is_some_and(|s| s.input.is_some()))
    }
    /// Visits every block, outer before inner.
    pub fn blocks(&self) -> Vec<&Block> {
        fn walk<'a>(g: &'a Graph, b: &'a Block, out: &mut Vec<&'a Block>) {
            out.push(b);
            for &n in &b.nodes {
                for inner in &g[n].blocks {
                    walk(g, inner, out);
                }
            }
        }
        let mut out = Vec::new();
        walk(self, &self.body, &mut out);
        out
    }
    /// Every live node, in execution order, inner blocks right after their node.
    pub fn live_nodes(&self) -> Vec<NodeId> {
        fn walk(g: &Graph, b: &Block, out: &mut Vec<NodeId>) {
            for &n in &b.nodes {
                out.push(n);
                for inner in &g[n].blocks {
                    walk(g, inner, out);
                }
            }
        }
        let mut out = Vec::new();
        walk(self, &self.body, &mut out);
        out
    }
    /// The node that defines each value, among live nodes.
    pub fn producers(&self) -> BTreeMap<ValueId, NodeId> {
        self.live_nodes().into_iter().flat_map(|n| self[n].outputs.iter().map(move |&v| (v, n))).collect()
    }
    /// How often each value is used, by live nodes and as an output of a block.
    pub fn uses(&self) -> BTreeMap<ValueId, usize> {
        let mut uses = BTreeMap::new();
        for n in self.live_nodes() {
            for v in self[n].inputs.iter().flatten() {
                *uses.entry(*v).or_insert(0) += 1;
            }
        }
        for b in self.blocks() {
            for v in &b.outputs {
                *uses.entry(*v).or_insert(0) += 1;
            }
        }
        uses
    }
    /// The highest rank of a tensor whose rank only run time can tell, where it is known all the same to have one element: the result of
    /// an If whose branches give one each.
    pub fn one_element(&self, v: ValueId) -> Option<usize> {
        if !matches!(self.ty(v), Type::AnyTensor(_)) {
            return None;
        }
        let n = self.nodes.iter().rev().find(|n| n.outputs.contains(&v))?;
        let k = n.outputs.iter().position(|o| *o == v)?;
        let ranks = n.blocks.iter().map(|b| {
            let out = *b.outputs.get(k)?;
            match self.ty(out) {
                Type::Tensor(_, shape) if shape.iter().all(|d| d.is(1)) => Some(shape.len()),
                _ => self.one_element(out),
            }
        });
        if matches!(n.op, Op::If(_)) { ranks.collect::<Option<Vec<usize>>>()?.into_iter().max() } else { None }
    }
    /// The live nodes of the model's own block as a petgraph graph: an edge leads from a producer to each consumer.
    pub fn dataflow(&self) -> DiGraph<NodeId, ValueId> {
        let mut out = DiGraph::new();
        let mut at = BTreeMap::new();
        for &n in &self.body.nodes {
            at.insert(n, out.add_node(n));
        }
        let producers = self.producers();
        for &n in &self.body.nodes {
            for v in self[n].inputs.iter().flatten() {
                if let Some(from) = producers.get(v).and_then(|p| at.get(p)) {
                    out.add_edge(*from, at[&n], *v);
                }
            }
        }
        out
    }
    /// Rewrites every use of `from` into `to`, in all blocks.
    pub fn replace_uses(&mut self, map: &BTreeMap<ValueId, ValueId>) {
        if map.is_empty() {
            return;
        }
        let find = |mut v: ValueId| {
            while let Some(&next) = map.get(&v) {
                v = next;
            }
            v
        };
        fn walk(b: &mut Block, find: &dyn Fn(ValueId) -> ValueId) {
            b.outputs.iter_mut().for_each(|v| *v = find(*v));
        }
        walk(&mut self.body, &find);
        for node in &mut self.nodes {
            node.inputs.iter_mut().flatten().for_each(|v| *v = find(*v));
            node.blocks.iter_mut().for_each(|b| walk(b, &find));
        }
    }
}

/// The contents of a small integer tensor as dimensions.
pub(crate) fn shape_contents(t: &Tensor) -> Option<Vec<Dim>> {
    if !matches!(t.dtype, DType::I64 | DType::I32) || t.dims.len() > 1 || t.len() > 64 {
        return None;
    }
    Some(t.to_i64s()?.into_iter().map(Dim::int).collect())
}
