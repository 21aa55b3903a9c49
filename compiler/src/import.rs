//! `Model` to `Graph`: operators looked up by opset, bodies of control flow as blocks, facts inferred and constants folded on the
//! way. Every unknown operator is reported at once.

mod functions;
mod order;

use crate::diagnostics::{Diagnostic, Diagnostics, Origin, Result, shown};
use crate::eval;
use crate::ir::{Block, Dim, Fact, Graph, Node, NodeId, Port, Range, Sym, Symbol, Type, ValueId};
use crate::onnx::{self, DimInfo, TypeInfo};
use crate::ops::{self, Facts, Infer, Lowering, Op, Operand, Reader};
use kiln_kernels::entry;
use kiln_kernels::value::Value;
use std::collections::BTreeMap;

/// What the user says of the model's dimensions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Dims {
    /// By the name of a dimension in the model.
    pub by_name: BTreeMap<String, Extent>,
    /// By input: an extent for each axis, or `None` to keep what the model says.
    pub by_input: BTreeMap<String, Vec<Option<Extent>>>,
}

/// What the user says of one dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Always this.
    Closed(i64),
    /// Anything between, both included.
    Bounded(i64, i64),
}

/// Elements that may be folded into constants beyond those the file holds, over the whole model.
const FOLD_BUDGET: usize = 640 << 20;
/// A single constant no larger than this may be folded from nothing; one fold may not spend the whole budget.
const FOLD_ONE: usize = 448 << 20;
/// Host functions whose results are no larger than their operands, and fold even where their size is not known before.
const SHRINKING: &[&str] = &["compress", "nonzero", "reduce", "reshape", "slice", "split", "squeeze", "top_k", "unique", "unsqueeze"];
/// Further ones that take time in proportion to their results, and fold where the size of those is known.
const LINEAR: &[&str] =
    &["cast", "expand", "label_encoder", "one_hot", "pad", "range", "scan", "string_concat", "string_equal", "string_normalizer", "tile"];
/// How deep bodies of control flow may nest.
const MAX_DEPTH: usize = 64;

/// A graph under construction.
pub struct Builder<'m> {
    /// The graph so far.
    pub graph: Graph,
    opsets: &'m BTreeMap<String, i64>,
    open: Vec<Vec<NodeId>>,
    scopes: Vec<BTreeMap<&'m str, Option<ValueId>>>,
    origin: usize,
    findings: Vec<Diagnostic>,
    folded: usize,
}

/// A state of a [`Builder`] to return to.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    values: usize,
    nodes: usize,
    symbols: usize,
    findings: usize,
}

/// Builds the graph of a model.
///
/// # Errors
/// Every operator that Kiln does not know, all of them together; or else every node whose operands its definition does not allow.
pub fn import(model: &onnx::Model, dims: &Dims) -> Result<Graph> {
    let inlined;
    let model = if model.functions.is_empty() {
        model
    } else {
        inlined = functions::inline(model)?;
        &inlined
    };
    let unknown = unknown_operators(model);
    if !unknown.is_empty() {
        return Err(Diagnostics { file: String::new(), items: unknown });
    }
    let mut b = Builder {
        graph: Graph::default(),
        opsets: &model.opsets,
        open: vec![Vec::new()],
        scopes: vec![BTreeMap::new()],
        origin: 0,
        findings: Vec::new(),
        folded: 0,
    };
    b.constants(&model.graph);
    b.inputs(&model.graph, dims)?;
    b.nodes(&model.graph);
    let mut outputs = Vec::new();
    for o in &model.graph.outputs {
        match b.scopes[0].get(o.name.as_str()) {
            Some(Some(v)) => {
                b.graph.outputs.push(Port { name: o.name.clone(), field: String::new(), optional: false });
                outputs.push(*v);
            }
            Some(None) => {}
            None => b.findings.push(
                Diagnostic::new(format!("nothing computes the output \"{}\"", shown(&o.name)))
                    .help("the file may be cut short, or an output was renamed"),
            ),
        }
    }
    if !b.findings.is_empty() {
        return Err(Diagnostics { file: String::new(), items: b.findings });
    }
    b.graph.body.nodes = b.open.pop().unwrap_or_default();
    b.graph.body.outputs = outputs;
    Ok(b.graph)
}

/// The version of a node's operator set.
fn version(opsets: &BTreeMap<String, i64>, n: &onnx::Node) -> i64 {
    n.opset.or_else(|| opsets.get(&n.domain).copied()).unwrap_or(1)
}

fn origin_of(opsets: &BTreeMap<String, i64>, index: usize, n: &onnx::Node) -> Origin {
    Origin { node: index, name: n.name.clone(), op_type: n.op_type.clone(), domain: n.domain.clone(), opset: version(opsets, n) }
}

fn unknown_operators(model: &onnx::Model) -> Vec<Diagnostic> {
    fn walk(model: &onnx::Model, g: &onnx::Graph, seen: &mut BTreeMap<(String, String), (Diagnostic, usize)>) {
        for (i, n) in g.nodes.iter().enumerate() {
            let o = origin_of(&model.opsets, i, n);
            let found = ops::find(&n.domain, &n.op_type).filter(|s| s.since <= o.opset);
            if found.is_none() {
                seen.entry((n.domain.clone(), n.op_type.clone())).and_modify(|e| e.1 += 1).or_insert_with(|| {
                    let domain = if n.domain.is_empty() { "ai.onnx" } else { &n.domain };
                    let help = match ops::find(&n.domain, &n.op_type) {
                        Some(s) => format!("{} came with opset {}; the model imports {}", s.name, s.since, o.opset),
                        None if n.domain.is_empty() || n.domain.starts_with("ai.onnx") => {
                            "Kiln does not compile this operator yet; rewrite the model without it".into()
                        }
                        None => "operators of custom domains need a function of that name in the model file".into(),
                    };
                    let what = format!("{}.{} is not supported", shown(domain), shown(&n.op_type));
                    (Diagnostic::new(what).at(o).help(help), 1)
                });
            }
            for (_, a) in &n.attributes {
                a.graphs().iter().for_each(|g| walk(model, g, seen));
            }
        }
    }
    let mut seen = BTreeMap::new();
    walk(model, &model.graph, &mut seen);
    let mut out: Vec<_> = seen.into_values().collect();
    out.sort_by_key(|(d, _)| d.origin.as_ref().map(|o| o.node));
    out.into_iter().map(|(d, n)| if n > 1 { d.note(format!("{n} nodes use it")) } else { d }).collect()
}

impl<'m> Builder<'m> {
    fn constants(&mut self, g: &'m onnx::Graph) {
        for (name, t) in &g.initializers {
            let v = self.graph.add_constant(t.clone(), name);
            self.bind(name, Some(v));
        }
    }
    fn bind(&mut self, name: &'m str, v: Option<ValueId>) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.insert(name, v);
        }
    }
    /// The value of that name in the scopes that are open.
    pub fn lookup(&self, name: &str) -> Option<ValueId> {
        self.scopes.iter().rev().find_map(|s| s.get(name)).copied().flatten()
    }
    /// The nodes of the block being built.
    pub fn nodes_so_far(&self) -> &[NodeId] {
        self.open.last().map_or(&[], |n| n)
    }
    fn inputs(&mut self, g: &'m onnx::Graph, dims: &Dims) -> Result<()> {
        let mut named: BTreeMap<&str, Dim> = BTreeMap::new();
        for (name, _) in dims.by_input.iter().filter(|(n, _)| !g.inputs.iter().any(|i| i.name == **n)) {
            self.findings.push(
                Diagnostic::new(format!("the model has no input \"{}\"", shown(name)))
                    .help(format!("its inputs are: {}", ops::list(&g.inputs.iter().map(|i| shown(&i.name)).collect::<Vec<_>>()))),
            );
        }
        for info in &g.inputs {
            // A default that the file holds makes the input a constant.
            if self.scopes[0].contains_key(info.name.as_str()) {
                continue;
            }
            let port = self.graph.body.inputs.len();
            let given = dims.by_input.get(&info.name);
            let ty = match &info.ty {
                Some(TypeInfo::Tensor { dtype, shape: Some(shape) }) => {
                    if let Some(g) = given
                        && g.len() != shape.len()
                    {
                        let what = format!("input \"{}\" has {} axes, {} were given", shown(&info.name), shape.len(), g.len());
                        self.findings.push(Diagnostic::new(what));
                        continue;
                    }
                    let mut out = Vec::new();
                    for (axis, d) in shape.iter().enumerate() {
                        let own = given.and_then(|g| g[axis]);
                        let (label, by_name) = match d {
                            DimInfo::Named(n) => (n.clone(), dims.by_name.get(n).copied()),
                            _ => (format!("{}.{axis}", info.name), dims.by_name.get(&format!("{}.{axis}", info.name)).copied()),
                        };
                        let choice = own.or(by_name);
                        out.push(match (d, choice) {
                            (_, Some(Extent::Closed(n))) => Dim::int(n),
                            (DimInfo::Known(n), None) => Dim::int(*n),
                            (DimInfo::Named(n), range) if own.is_none() => match named.get(n.as_str()) {
                                Some(d) => d.clone(),
                                None => {
                                    let d = self.entry_symbol(&label, range, port, axis);
                                    named.insert(n, d.clone());
                                    d
                                }
                            },
                            (_, range) => self.entry_symbol(&label, range, port, axis),
                        });
                    }
                    Type::Tensor(*dtype, out)
                }
                Some(TypeInfo::Tensor { dtype, shape: None }) if given.is_some() => {
                    let given = given.map_or(&[][..], |g| g);
                    let out = given
                        .iter()
                        .enumerate()
                        .map(|(axis, e)| match e {
                            Some(Extent::Closed(n)) => Dim::int(*n),
                            range => self.entry_symbol(&format!("{}.{axis}", info.name), *range, port, axis),
                        })
                        .collect();
                    Type::Tensor(*dtype, out)
                }
                Some(TypeInfo::Tensor { dtype, shape: None }) => Type::AnyTensor(*dtype),
                Some(other) => match value_type(other) {
                    Some(t) => t,
                    None => {
                        self.findings.push(Diagnostic::new(format!("input \"{}\" has a type Kiln does not take", shown(&info.name))));
                        continue;
                    }
                },
                None => {
                    self.findings.push(Diagnostic::new(format!("input \"{}\" has no type", shown(&info.name))));
                    continue;
                }
            };
            let v = self.graph.add_value(ty.into(), &info.name);
            self.graph.body.inputs.push(v);
            self.graph.inputs.push(Port { name: info.name.clone(), field: String::new(), optional: false });
            self.bind(&info.name, Some(v));
        }
        for name in dims.by_name.keys() {
            let known = g.inputs.iter().any(|i| match &i.ty {
                Some(TypeInfo::Tensor { shape: Some(s), .. }) => s.iter().enumerate().any(|(axis, d)| match d {
                    DimInfo::Named(n) => n == name,
                    _ => *name == format!("{}.{axis}", i.name),
                }),
                _ => false,
            });
            if !known {
                let mut open: Vec<String> = Vec::new();
                for i in &g.inputs {
                    if let Some(TypeInfo::Tensor { shape: Some(s), .. }) = &i.ty {
                        for (axis, d) in s.iter().enumerate() {
                            let label = match d {
                                DimInfo::Named(n) => shown(n),
                                DimInfo::Unknown => format!("{}.{axis}", shown(&i.name)),
                                DimInfo::Known(_) => continue,
                            };
                            if !open.contains(&label) {
                                open.push(label);
                            }
                        }
                    }
                }
                let help = if open.is_empty() {
                    "every dimension of its inputs is closed; --shape INPUT=1x2x3 overrides one".to_string()
                } else {
                    format!("its open dimensions are: {}", open.join(", "))
                };
                self.findings.push(Diagnostic::new(format!("the model has no dimension \"{}\"", shown(name))).help(help));
            }
        }
        if self.findings.is_empty() { Ok(()) } else { Err(Diagnostics { file: String::new(), items: std::mem::take(&mut self.findings) }) }
    }
    fn entry_symbol(&mut self, name: &str, extent: Option<Extent>, port: usize, axis: usize) -> Dim {
        let range = match extent {
            Some(Extent::Bounded(lo, hi)) => Range { lo, hi: Some(hi) },
            _ => Range { lo: 0, hi: None },
        };
        Dim::sym(self.graph.add_symbol(Symbol { name: name.into(), range, input: Some((port, axis)) }))
    }
    /// A new symbol that a step will define.
    pub fn fresh(&mut self, what: &str) -> Dim {
        let range = Range { lo: 0, hi: None };
        Dim::sym(self.graph.add_symbol(Symbol { name: what.into(), range, input: None }))
    }

    /// Adds the nodes of a graph to the open block; findings are collected, and what depends on a failed node is skipped.
    fn nodes(&mut self, g: &'m onnx::Graph) {
        let order = match order::topological(g) {
            Ok(order) => order,
            Err(d) => {
                let at = d.1.map(|i| origin_of(self.opsets, i, &g.nodes[i]));
                let d = Diagnostic::new(d.0);
                self.findings.push(match at {
                    Some(o) => d.at(o),
                    None => d,
                });
                return;
            }
        };
        for i in order {
            let n = &g.nodes[i];
            let outer = self.origin;
            self.origin = self.graph.origins.len();
            self.graph.origins.push(origin_of(self.opsets, i, n));
            let before = self.findings.len();
            match self.node(n) {
                Ok(Some(outputs)) => {
                    for (name, v) in n.outputs.iter().zip(outputs).filter(|(n, _)| !n.is_empty()) {
                        if self.graph[v].name.is_empty() {
                            self.graph[v].name.clone_from(name);
                        }
                        self.bind(name, Some(v));
                    }
                }
                Ok(None) => n.outputs.iter().for_each(|o| self.bind(o, None)),
                Err(mut d) => {
                    if d.origin.is_none() {
                        d = d.at(origin_of(self.opsets, i, n));
                    }
                    // A failure inside a body is reported once, by the innermost node.
                    if self.findings.len() == before || d.origin.as_ref().is_some_and(|o| o.op_type != n.op_type) {
                        self.findings.push(d);
                    }
                    n.outputs.iter().for_each(|o| self.bind(o, None));
                }
            }
            self.origin = outer;
        }
    }

    /// Reads one node; `None` when an operand comes from a node that failed.
    fn node(&mut self, n: &'m onnx::Node) -> std::result::Result<Option<Vec<ValueId>>, Diagnostic> {
        let mut inputs = Vec::new();
        for (k, name) in n.inputs.iter().enumerate() {
            if name.is_empty() {
                inputs.push(None);
                continue;
            }
            match self.scopes.iter().rev().find_map(|s| s.get(name.as_str())) {
                Some(Some(v)) => inputs.push(Some(*v)),
                Some(None) => return Ok(None),
                None => return Err(Diagnostic::new(format!("nothing computes input {k}, \"{}\"", shown(name)))),
            }
        }
        let version = version(self.opsets, n);
        let schema = ops::find(&n.domain, &n.op_type).ok_or_else(|| Diagnostic::new(format!("{} is not supported", shown(&n.op_type))))?;
        let out = (schema.read)(&mut Reader { b: self, node: n, version, inputs })?;
        let wanted = n.outputs.iter().rposition(|o| !o.is_empty()).map_or(0, |i| i + 1);
        if out.len() < wanted {
            return Err(Diagnostic::new(format!("{} gives {} outputs, the node names {wanted}", shown(&n.op_type), out.len())));
        }
        Ok(Some(out))
    }

    /// Adds a primitive to the open block: infers its results, and folds it when its operands are constant.
    pub fn emit(
        &mut self,
        op: Op,
        inputs: Vec<Option<ValueId>>,
        results: usize,
        blocks: Vec<Block>,
    ) -> std::result::Result<Vec<ValueId>, Diagnostic> {
        let bodies = blocks.iter().map(|b| b.outputs.iter().map(|v| self.graph.ty(*v).clone()).collect()).collect();
        let Graph { values, symbols, .. } = &mut self.graph;
        let operands = inputs
            .iter()
            .map(|v| v.map(|v| &values[v.0 as usize]).map(|v| Operand { fact: &v.fact, constant: v.constant.as_ref() }))
            .collect();
        let mut fresh = |what: &str, range: Range| {
            symbols.push(Symbol { name: what.into(), range, input: None });
            Dim::sym(Sym(symbols.len() as u32 - 1))
        };
        let mut cx = Infer { facts: Facts { inputs: operands, outputs: vec![] }, results, bodies, fresh: &mut fresh };
        if !matches!(op, Op::Host(_) | Op::If(_) | Op::Loop(_)) {
            let other = cx.facts.inputs.iter().flatten().map(|o| &o.fact.ty).find(|t| !matches!(t, Type::Tensor(..)));
            if let Some(t) = other {
                return Err(Diagnostic::new(format!("{} needs tensors of known rank, found {t}", op.name()))
                    .help("state the shape in the model's value_info"));
            }
        }
        if !op.takes_packed() {
            let packed = cx.facts.inputs.iter().flatten().filter_map(|o| o.fact.ty.dtype()).find(|d| (1..8).contains(&d.bits()));
            if let Some(d) = packed {
                return Err(Diagnostic::new(format!("{} does not take {d}", op.name())).help("cast the tensor to a wider type first"));
            }
        }
        let mut facts = op.infer(&mut cx)?;
        for f in &facts {
            check_size(f)?;
        }
        check_types(&op, Facts { inputs: cx.facts.inputs, outputs: facts.iter().collect() })?;
        // What the bounds of extents decide, such as the lesser of an extent and its bound, is decided once.
        let symbols = &self.graph.symbols;
        for d in facts.iter_mut().flat_map(|f| f.dims.iter_mut().flatten()).filter(|d| d.as_int().is_none()) {
            *d = d.settled(&|s| symbols.get(s.0 as usize).map_or(Range { lo: 0, hi: None }, |s| s.range));
        }
        if op.is_pure()
            && let Some(constants) = self.fold(&op, &inputs, &facts)
        {
            return Ok(constants);
        }
        let outputs: Vec<ValueId> = facts.into_iter().map(|f| self.graph.add_value(f, "")).collect();
        let node = Node { op, inputs, outputs: outputs.clone(), blocks, origins: vec![self.origin] };
        let id = self.graph.add_node(node);
        if let Some(open) = self.open.last_mut() {
            open.push(id);
        }
        Ok(outputs)
    }

    fn fold(&mut self, op: &Op, inputs: &[Option<ValueId>], facts: &[Fact]) -> Option<Vec<ValueId>> {
        // Weights of few bits stay as they are stored: rules decide whether they are multiplied as such.
        let stored = inputs.first().copied().flatten().map(|v| self.graph.dtype(v));
        if op.widens(stored) && facts.iter().all(|f| f.ty.shape().is_some_and(|s| s.len() > 1)) {
            return None;
        }
        let constants: Vec<Option<Value>> = inputs
            .iter()
            .map(|v| match v {
                None => Some(None),
                Some(v) => self.graph[*v].constant.as_ref().map(|t| Some(Value::Tensor(t.clone()))),
            })
            .collect::<Option<_>>()?;
        let mut bytes = 0usize;
        for f in facts {
            if let (Some(d), Some(dims)) = (f.ty.dtype(), f.ty.closed_dims()) {
                bytes = bytes.checked_add(d.bytes(dims.iter().try_fold(1usize, |a, b| a.checked_mul(*b))?)?)?;
            } else if !matches!(op, Op::Host(h) if SHRINKING.contains(&h.name)) {
                return None;
            }
        }
        if matches!(op, Op::Host(h) if !SHRINKING.contains(&h.name) && !LINEAR.contains(&h.name)) {
            return None;
        }
        let given: usize = constants.iter().flatten().filter_map(Value::as_tensor).map(|t| t.bytes().len()).sum();
        let grown = bytes.saturating_sub(4 * given);
        if bytes > FOLD_ONE || self.folded + grown > FOLD_BUDGET {
            return None;
        }
        let operands: Vec<Option<&Value>> = constants.iter().map(Option::as_ref).collect();
        let view = Facts {
            inputs: inputs
                .iter()
                .map(|v| v.map(|v| Operand { fact: &self.graph[v].fact, constant: self.graph[v].constant.as_ref() }))
                .collect(),
            outputs: facts.iter().collect(),
        };
        let values = eval::op(op, &view, &operands, &|_| None).ok()?;
        let tensors: Vec<_> = values.into_iter().map(|v| if let Value::Tensor(t) = v { Some(t) } else { None }).collect::<Option<_>>()?;
        self.folded += grown;
        Some(tensors.into_iter().map(|t| self.graph.add_constant(t, "")).collect())
    }

    /// Adds a graph's nodes to the open block, in a scope of its own; gives its outputs.
    ///
    /// # Errors
    /// A node inside failed; what and why has been recorded.
    pub fn inline(&mut self, g: &'m onnx::Graph) -> std::result::Result<Vec<ValueId>, Diagnostic> {
        self.inline_with(g, &[])
    }
    /// [`Builder::inline`] with the graph's inputs bound.
    pub fn inline_with(&mut self, g: &'m onnx::Graph, inputs: &[ValueId]) -> std::result::Result<Vec<ValueId>, Diagnostic> {
        if self.scopes.len() > MAX_DEPTH {
            return Err(Diagnostic::new(format!("bodies of control flow nest deeper than {MAX_DEPTH}")));
        }
        if g.inputs.len() != inputs.len() {
            return Err(Diagnostic::new(format!("a body takes {} inputs, the node gives it {}", g.inputs.len(), inputs.len())));
        }
        self.scopes.push(BTreeMap::new());
        for (info, v) in g.inputs.iter().zip(inputs) {
            self.bind(&info.name, Some(*v));
        }
        let before = self.findings.len();
        self.constants(g);
        self.nodes(g);
        let outputs: Option<Vec<ValueId>> = g.outputs.iter().map(|o| self.lookup(&o.name)).collect();
        self.scopes.pop();
        match outputs {
            Some(o) if self.findings.len() == before => Ok(o),
            _ if self.findings.len() > before => {
                // The inner finding is raised again, so that attempts to settle a loop's types can be taken back.
                let d = self.findings.remove(before);
                self.findings.truncate(before);
                Err(d)
            }
            _ => Err(Diagnostic::new("an output of a body is not computed by it")),
        }
    }
    /// Builds a body as a block whose inputs have these facts.
    pub fn block(&mut self, g: &'m onnx::Graph, facts: &[Fact]) -> std::result::Result<Block, Diagnostic> {
        self.block_of(facts, |b, inputs| b.inline_with(g, inputs))
    }
    pub(crate) fn block_of(
        &mut self,
        facts: &[Fact],
        build: impl FnOnce(&mut Self, &[ValueId]) -> std::result::Result<Vec<ValueId>, Diagnostic>,
    ) -> std::result::Result<Block, Diagnostic> {
        let inputs: Vec<ValueId> = facts.iter().map(|f| self.graph.add_value(f.clone(), "")).collect();
        self.open.push(Vec::new());
        let outputs = build(self, &inputs);
        let nodes = self.open.pop().unwrap_or_default();
        Ok(Block { inputs, nodes, outputs: outputs? })
    }
    /// The present state, to return to.
    pub fn mark(&self) -> Mark {
        Mark {
            values: self.graph.values.len(),
            nodes: self.graph.nodes.len(),
            symbols: self.graph.symbols.len(),
            findings: self.findings.len(),
        }
    }
    /// Takes back everything since the mark, except the symbols of `types`, which are made anew there.
    pub fn rollback_keeping(&mut self, mark: Mark, types: &mut [Type]) {
        let later: Vec<Symbol> = self.graph.symbols[mark.symbols..].to_vec();
        self.graph.values.truncate(mark.values);
        self.graph.nodes.truncate(mark.nodes);
        self.graph.symbols.truncate(mark.symbols);
        self.findings.truncate(mark.findings);
        let mut made: BTreeMap<Sym, Dim> = BTreeMap::new();
        for t in types {
            if let Type::Tensor(_, dims) = t {
                for d in dims {
                    let mut syms = Default::default();
                    d.symbols(&mut syms);
                    for s in syms.into_iter().filter(|s| s.0 as usize >= mark.symbols) {
                        made.entry(s).or_insert_with(|| {
                            self.graph.symbols.push(later[s.0 as usize - mark.symbols].clone());
                            Dim::sym(Sym(self.graph.symbols.len() as u32 - 1))
                        });
                    }
                    *d = d.substitute(&|s| made.get(&s).cloned());
                }
            }
        }
    }
}

/// Whether there is a kernel for the element types: the one that the operator calls would read strings as bytes.
fn check_types(op: &Op, facts: Facts<'_>) -> std::result::Result<(), Diagnostic> {
    let Lowering::Call(call) = op.lower(&facts) else { return Ok(()) };
    let classes = entry::find(call.entry).map_or(&[][..], |e| e.generics);
    match classes.iter().zip(&call.types).find(|(class, t)| !class.takes(**t)) {
        Some((_, t)) => Err(Diagnostic::new(format!("{} does not take {t}", op.name()))),
        None => Ok(()),
    }
}

/// Refuses tensors whose size overflows what a machine addresses.
fn check_size(f: &Fact) -> std::result::Result<(), Diagnostic> {
    let Type::Tensor(dtype, shape) = &f.ty else { return Ok(()) };
    let mut total: i64 = 1;
    for d in shape {
        if let Some(n) = d.as_int() {
            if n < 0 {
                return Err(Diagnostic::new(format!("the result would have the extent {n}")));
            }
            total = total
                .checked_mul(n.max(1))
                .filter(|t| dtype.bytes(*t as usize).is_some_and(|b| b < 1 << 40))
                .ok_or_else(|| Diagnostic::new(format!("the result of shape [{}] is larger than 1 TiB", ops::list(shape))))?;
        }
    }
    Ok(())
}

/// The type of a value that is no plain tensor.
pub(crate) fn value_type(t: &TypeInfo) -> Option<Type> {
    Some(match t {
        TypeInfo::Tensor { dtype, shape: Some(shape) } => {
            let extent = |d: &DimInfo| if let DimInfo::Known(n) = d { Dim::int(*n) } else { Dim::sym(Sym::ANY) };
            Type::Tensor(*dtype, shape.iter().map(extent).collect())
        }
        TypeInfo::Tensor { dtype, shape: None } => Type::AnyTensor(*dtype),
        TypeInfo::Sequence(t) => Type::Sequence(Box::new(value_type(t)?)),
        TypeInfo::Optional(t) => Type::Optional(Box::new(value_type(t)?)),
        TypeInfo::Map { key, value } => Type::Map(*key, Box::new(value_type(value)?)),
        TypeInfo::SparseTensor { .. } | TypeInfo::Opaque { .. } => return None,
    })
}
