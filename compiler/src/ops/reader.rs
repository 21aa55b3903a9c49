//! `Reader`: one ONNX node as an operator's `read` sees it, and the means to add primitives to the graph.

use super::cx::normal_axis;
use super::{Op, pointwise::Pointwise};
use crate::diagnostics::{Diagnostic, shown};
use crate::import::Builder;
use crate::ir::{Dim, Type, ValueId};
use crate::onnx::{Attribute, Graph, Node};
use kiln_kernels::{dtype::DType, value::Tensor};

/// A node being read.
pub struct Reader<'a, 'm> {
    /// The graph under construction.
    pub b: &'a mut Builder<'m>,
    /// The node.
    pub node: &'m Node,
    /// The version of the operator set of the node's domain.
    pub version: i64,
    /// The operands; `None` for an optional one left out.
    pub inputs: Vec<Option<ValueId>>,
}

/// Axes that a node names.
#[derive(Clone, Debug, PartialEq)]
pub enum Axes {
    /// None are named.
    None,
    /// By attribute or constant operand.
    Known(Vec<i64>),
    /// By an operand computed at run time, of so many elements where that is known.
    Computed(ValueId, Option<i64>),
}

type Result<T> = std::result::Result<T, Diagnostic>;

impl<'m> Reader<'_, 'm> {
    /// The operand at `i`.
    ///
    /// # Errors
    /// It is missing.
    pub fn input(&self, i: usize) -> Result<ValueId> {
        self.opt(i).ok_or_else(|| Diagnostic::new(format!("{} needs input {i}, which is missing", shown(&self.node.op_type))))
    }
    /// The operand at `i`, if it is there.
    pub fn opt(&self, i: usize) -> Option<ValueId> {
        self.inputs.get(i).copied().flatten()
    }
    /// How many outputs the node names.
    pub fn outputs(&self) -> usize {
        self.node.outputs.len()
    }
    /// Whether output `i` is wanted.
    pub fn wants(&self, i: usize) -> bool {
        self.node.outputs.get(i).is_some_and(|n| !n.is_empty())
    }
    fn wrong(&self, name: &str, want: &str, found: &Attribute) -> Diagnostic {
        Diagnostic::new(format!("attribute {name} must be {want}, found {}", found.kind()))
    }
    /// An integer attribute.
    pub fn int_opt(&self, name: &str) -> Result<Option<i64>> {
        match self.node.attribute(name) {
            None => Ok(None),
            Some(Attribute::Int(i)) => Ok(Some(*i)),
            Some(other) => Err(self.wrong(name, "an int", other)),
        }
    }
    /// An integer attribute, or its default.
    pub fn int(&self, name: &str, default: i64) -> Result<i64> {
        Ok(self.int_opt(name)?.unwrap_or(default))
    }
    /// A list of integers.
    pub fn ints(&self, name: &str) -> Result<Option<Vec<i64>>> {
        match self.node.attribute(name) {
            None => Ok(None),
            Some(Attribute::Ints(i)) => Ok(Some(i.clone())),
            Some(other) => Err(self.wrong(name, "ints", other)),
        }
    }
    /// A float attribute.
    pub fn float_opt(&self, name: &str) -> Result<Option<f32>> {
        match self.node.attribute(name) {
            None => Ok(None),
            Some(Attribute::Float(x)) => Ok(Some(*x)),
            Some(other) => Err(self.wrong(name, "a float", other)),
        }
    }
    /// A float attribute, or its default.
    pub fn float(&self, name: &str, default: f32) -> Result<f32> {
        Ok(self.float_opt(name)?.unwrap_or(default))
    }
    /// A list of floats.
    pub fn floats(&self, name: &str) -> Result<Option<Vec<f32>>> {
        match self.node.attribute(name) {
            None => Ok(None),
            Some(Attribute::Floats(x)) => Ok(Some(x.clone())),
            Some(other) => Err(self.wrong(name, "floats", other)),
        }
    }
    /// A string attribute, or its default.
    pub fn str(&self, name: &str, default: &str) -> Result<String> {
        match self.node.attribute(name) {
            None => Ok(default.to_string()),
            Some(a) => a.as_str().map(str::to_string).ok_or_else(|| self.wrong(name, "a string of UTF-8", a)),
        }
    }
    /// A string attribute that must be one of `words`; the first is the default.
    pub fn word(&self, name: &str, words: &[&'static str]) -> Result<&'static str> {
        let found = self.str(name, words[0])?;
        words
            .iter()
            .find(|w| **w == found)
            .copied()
            .ok_or_else(|| Diagnostic::new(format!("attribute {name} is \"{}\", which is none of {}", shown(&found), words.join(", "))))
    }
    /// A list of strings.
    pub fn strs(&self, name: &str) -> Result<Option<Vec<String>>> {
        match self.node.attribute(name) {
            None => Ok(None),
            Some(a) => match a.as_strs() {
                Some(s) => Ok(Some(s.into_iter().map(str::to_string).collect())),
                None => Err(self.wrong(name, "strings of UTF-8", a)),
            },
        }
    }
    /// A graph attribute.
    pub fn graph(&self, name: &str) -> Result<&'m Graph> {
        match self.node.attribute(name) {
            Some(Attribute::Graph(g)) => Ok(g),
            Some(other) => Err(self.wrong(name, "a graph", other)),
            None => Err(Diagnostic::new(format!("attribute {name} is missing"))),
        }
    }
    /// The element type that an integer attribute names.
    pub fn dtype_attr(&self, name: &str) -> Result<Option<DType>> {
        match self.int_opt(name)? {
            None => Ok(None),
            Some(code) => match i32::try_from(code).ok().and_then(DType::from_onnx) {
                Some(d) => Ok(Some(d)),
                None => Err(Diagnostic::new(format!("attribute {name} is {code}, which is no element type"))),
            },
        }
    }

    /// The type of a value.
    pub fn ty(&self, v: ValueId) -> &Type {
        self.b.graph.ty(v)
    }
    /// The element type of a tensor.
    pub fn dtype(&self, v: ValueId) -> DType {
        self.b.graph.dtype(v)
    }
    /// The shape of a tensor.
    ///
    /// # Errors
    /// It is no tensor, or its rank is known only at run time.
    pub fn shape(&self, v: ValueId) -> Result<Vec<Dim>> {
        match self.ty(v) {
            Type::Tensor(_, shape) => Ok(shape.clone()),
            Type::AnyTensor(_) => {
                Err(Diagnostic::new(format!("{} needs the rank of its input, which only run time can tell", shown(&self.node.op_type)))
                    .help("state the shape in the model's value_info"))
            }
            other => Err(Diagnostic::new(format!("{} needs a tensor, found {other}", shown(&self.node.op_type)))),
        }
    }
    /// The rank of a tensor.
    pub fn rank(&self, v: ValueId) -> Result<usize> {
        Ok(self.shape(v)?.len())
    }
    /// The contents of a constant.
    pub fn constant(&self, v: ValueId) -> Option<&Tensor> {
        self.b.graph[v].constant.as_ref()
    }
    /// The contents of a constant of integers.
    pub fn const_ints(&self, v: ValueId) -> Option<Vec<i64>> {
        if self.ty(v).shape().is_some_and(|s| s == [Dim::int(0)]) {
            return Some(Vec::new());
        }
        self.constant(v).and_then(|t| t.to_i64s()).or_else(|| self.dims(v)?.iter().map(|d| d.as_int()).collect())
    }
    /// The contents of a small integer tensor as expressions.
    pub fn dims(&self, v: ValueId) -> Option<&[Dim]> {
        self.b.graph[v].fact.dims.as_deref()
    }
    /// An axis as an index below `rank`.
    pub fn axis(&self, axis: i64, rank: usize) -> Result<usize> {
        normal_axis(axis, rank)
    }
    /// Several distinct axes.
    pub fn axes(&self, axes: &[i64], rank: usize) -> Result<Vec<usize>> {
        let mut out = Vec::new();
        for &a in axes {
            let a = normal_axis(a, rank)?;
            if out.contains(&a) {
                return Err(Diagnostic::new(format!("axis {a} is named twice")));
            }
            out.push(a);
        }
        Ok(out)
    }
    /// The axes of an operator that took them as an attribute until `since` made them input `i`.
    pub fn axes_or_input(&self, i: usize, since: i64) -> Result<Axes> {
        let listed = if self.version < since {
            self.ints("axes")?
        } else {
            match self.opt(i) {
                None => None,
                Some(v) => match self.const_ints(v) {
                    Some(a) => Some(a),
                    None => return Ok(Axes::Computed(v, self.shape(v)?.first().and_then(Dim::as_int))),
                },
            }
        };
        Ok(listed.map_or(Axes::None, Axes::Known))
    }

    /// Adds a primitive with all operands present and one result.
    pub fn emit(&mut self, op: impl Into<Op>, inputs: &[ValueId]) -> Result<ValueId> {
        Ok(self.emit_all(op, inputs.iter().map(|v| Some(*v)).collect(), 1)?[0])
    }
    /// Adds a primitive with any operands and several results.
    pub fn emit_all(&mut self, op: impl Into<Op>, inputs: Vec<Option<ValueId>>, results: usize) -> Result<Vec<ValueId>> {
        self.b.emit(op.into(), inputs, results, Vec::new())
    }
    /// Builds a block by a closure, over inputs of these facts.
    pub fn block_of(
        &mut self,
        facts: &[crate::ir::Fact],
        build: impl FnOnce(&mut Reader<'_, 'm>, &[ValueId]) -> Result<Vec<ValueId>>,
    ) -> Result<crate::ir::Block> {
        let (node, version) = (self.node, self.version);
        self.b.block_of(facts, |b, inputs| build(&mut Reader { b, node, version, inputs: Vec::new() }, inputs))
    }
    /// A constant of one element.
    pub fn scalar(&mut self, x: f64, dtype: DType) -> ValueId {
        let t = crate::eval::scalar(x, dtype);
        self.b.graph.add_constant(t, "")
    }
    /// A constant.
    pub fn tensor(&mut self, t: Tensor) -> ValueId {
        self.b.graph.add_constant(t, "")
    }
    /// The operands of a pointwise operator, where one whose rank only run time can tell is known to have one element: it broadcasts as
    /// a scalar does beside an operand of its rank or more.
    fn broadcast(&mut self, inputs: &[ValueId]) -> Result<Vec<ValueId>> {
        let most = inputs.iter().filter_map(|v| self.ty(*v).shape()).map(<[Dim]>::len).max();
        let mut out = inputs.to_vec();
        for v in &mut out {
            if most.is_some_and(|most| self.b.graph.one_element(*v).is_some_and(|rank| rank <= most)) {
                let (shape, dtype) = (self.tensor(Tensor::new(&[0], &[0i64; 0])), self.dtype(*v));
                *v = super::host::call(self, "reshape", &[*v, shape], vec![1], vec![Type::Tensor(dtype, vec![])])?[0];
            }
        }
        Ok(out)
    }
    /// The same bits as another type of that width.
    pub fn bit_cast(&mut self, v: ValueId, to: DType) -> Result<ValueId> {
        if self.dtype(v) == to { Ok(v) } else { self.emit(super::shape::BitCast { to }, &[v]) }
    }
    /// `name(inputs..)` of the pointwise table.
    pub fn pointwise(&mut self, name: &'static str, inputs: &[ValueId]) -> Result<ValueId> {
        let inputs = &self.broadcast(inputs)?[..];
        let types: Vec<DType> = inputs.iter().map(|v| self.dtype(*v)).collect();
        let op = Pointwise::of(name, &[], &types)?;
        self.emit(op, inputs)
    }
    /// A conversion; nothing when the type is right already.
    pub fn cast(&mut self, v: ValueId, to: DType) -> Result<ValueId> {
        let from = self.dtype(v);
        if from == to {
            return Ok(v);
        }
        if let Some(other) = [from, to].into_iter().find(|t| !super::pointwise::computes(*t)) {
            return Err(Diagnostic::new(format!("{} does not compute on {other}", shown(&self.node.op_type))));
        }
        self.emit(Pointwise::cast(from, to), &[v])
    }
    /// The tensor under another shape.
    pub fn reshape(&mut self, v: ValueId, shape: Vec<Dim>) -> Result<ValueId> {
        if self.shape(v)? == shape {
            return Ok(v);
        }
        self.emit(super::shape::Reshape { shape }, &[v])
    }
    /// The tensor with its axes permuted.
    pub fn transpose(&mut self, v: ValueId, perm: Vec<usize>) -> Result<ValueId> {
        if perm.iter().enumerate().all(|(i, p)| i == *p) {
            return Ok(v);
        }
        self.emit(super::movement::Transpose { perm }, &[v])
    }
}
