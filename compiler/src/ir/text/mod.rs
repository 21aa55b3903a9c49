//! The text form of a graph: one line a node, values by id. `kiln dump` prints it, and [`parse`] reads it back.
//!
//! ```text
//! dim s0 "batch" in 1..=8 from input 0 axis 0
//! input v0 "x": f32[s0, 12]
//! v5: f32[s0, 20] = MatMul(v0, f32[12, 20]@5f3c9a0e12d47b68) from 0  # fc1
//! v7: f32[s0, 20] = Relu(v5) {max(x0, 0.0)} from 1
//! v8: f32[s0, 20] = Softmax(v7) {axis: 1, mode: "softmax"} from 2
//! output v8 "probabilities"
//! origin 0 node 3 "fc1" "MatMul" "" opset 17
//! ```
//!
//! Operands are values, `_` for one left out, or constants: small ones with their elements (`i64[2](3, 4)`), larger ones by a hash of
//! their contents, which [`Constants`] finds again. A list in braces behind a type is what is known of the contents. Bodies of control
//! flow follow their node, each between `block(…) {` and `} -> …`. A `#` opens a comment. Everything that a pass or the evaluator looks
//! at is there; the names of values in between, which are for people only, are not.

mod attribute;
mod constant;
mod cursor;
mod parse;
#[cfg(test)]
mod tests;

pub(crate) use attribute::Fields;
pub use constant::Constants;
pub(crate) use cursor::{Cursor, Parsed};
pub use parse::{Malformed, parse};

use super::{Block, Graph, Node, Port, Type, ValueId};
use crate::diagnostics::shown;
use crate::kernel;
use crate::ops::Op;
use cursor::quote;
use kiln_kernels::dtype::DType;
use std::collections::BTreeSet;
use std::fmt::{self, Write};

/// Constants of more elements, up to those that stand by their hash, have lines of their own.
const MOST_INLINE: usize = 8;

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Tensor(d, shape) => write!(f, "{d}[{}]", crate::ops::list(shape)),
            Type::AnyTensor(d) => write!(f, "{d}[..]"),
            Type::Sequence(t) => write!(f, "seq({t})"),
            Type::Optional(t) => write!(f, "optional({t})"),
            Type::Map(k, v) => write!(f, "map({k}, {v})"),
        }
    }
}

/// The graph as text.
pub fn print(g: &Graph) -> String {
    written(g, true)
}

/// The graph as text in which large constants are only types and shapes, for those who know the contents otherwise.
pub(crate) fn outline(g: &Graph) -> String {
    written(g, false)
}

fn written(g: &Graph, hashes: bool) -> String {
    let mut p = Printer { g, out: String::new(), hashes, origins: BTreeSet::new() };
    for (i, s) in g.symbols.iter().enumerate() {
        let _ = write!(p.out, "dim s{i} ");
        quote(&mut p.out, &s.name);
        let hi = s.range.hi.map_or(String::new(), |h| format!("={h}"));
        let bound = s.input.map_or(String::new(), |(p, a)| format!(" from input {p} axis {a}"));
        let _ = writeln!(p.out, " in {}..{hi}{bound}", s.range.lo);
    }
    for (v, port) in g.body.inputs.iter().zip(&g.inputs) {
        let _ = write!(p.out, "input {v} ");
        p.port(port);
        p.fact(*v);
        p.out.push('\n');
    }
    p.constants();
    p.block(&g.body, 0);
    for (v, port) in g.body.outputs.iter().zip(&g.outputs) {
        p.out.push_str("output ");
        p.operand(Some(*v));
        p.out.push(' ');
        p.port(port);
        p.out.push('\n');
    }
    for i in std::mem::take(&mut p.origins) {
        if let Some(o) = g.origins.get(i) {
            let _ = write!(p.out, "origin {i} node {}", o.node);
            for text in [&o.name, &o.op_type, &o.domain] {
                p.out.push(' ');
                quote(&mut p.out, text);
            }
            let _ = writeln!(p.out, " opset {}", o.opset);
        }
    }
    p.out
}

/// The element types of operands, which types in expressions are left out by.
fn types(g: &Graph, inputs: &[Option<ValueId>]) -> Vec<Option<DType>> {
    inputs.iter().map(|v| v.and_then(|v| g.ty(v).dtype())).collect()
}

struct Printer<'a> {
    g: &'a Graph,
    out: String,
    /// Whether large constants are hashed.
    hashes: bool,
    /// The origins that nodes name.
    origins: BTreeSet<usize>,
}

impl Printer<'_> {
    fn port(&mut self, port: &Port) {
        quote(&mut self.out, &port.name);
        if !port.field.is_empty() {
            self.out.push_str(" as ");
            quote(&mut self.out, &port.field);
        }
        self.out.push_str(if port.optional { " optional" } else { "" });
    }
    fn fact(&mut self, v: ValueId) {
        let fact = &self.g[v].fact;
        let _ = write!(self.out, ": {}", fact.ty);
        if let Some(dims) = &fact.dims {
            let _ = write!(self.out, " {{{}}}", crate::ops::list(dims));
        }
    }
    fn list<T>(&mut self, items: &[T], mut write: impl FnMut(&mut Self, &T)) {
        for (i, x) in items.iter().enumerate() {
            self.out.push_str(if i > 0 { ", " } else { "" });
            write(self, x);
        }
    }
    /// Whether a constant has a line of its own.
    fn has_line(&self, v: ValueId) -> bool {
        self.g[v].constant.as_ref().is_some_and(|t| (MOST_INLINE + 1..=constant::MOST_WRITTEN).contains(&t.len()))
    }
    fn constants(&mut self) {
        for (v, _) in self.g.uses() {
            if let Some(t) = self.g[v].constant.as_ref().filter(|_| self.has_line(v)) {
                let _ = write!(self.out, "const {v} = ");
                constant::write(&mut self.out, t);
                self.out.push('\n');
            }
        }
    }
    fn operand(&mut self, v: Option<ValueId>) {
        match v {
            None => self.out.push('_'),
            Some(v) => match &self.g[v].constant {
                Some(t) if !self.hashes && t.len() > constant::MOST_WRITTEN => {
                    let _ = write!(self.out, "{}{:?}", t.dtype, t.dims);
                }
                Some(t) if !self.has_line(v) => constant::write(&mut self.out, t),
                _ => {
                    let _ = write!(self.out, "{v}");
                }
            },
        }
    }
    fn result(&mut self, v: ValueId) {
        let _ = write!(self.out, "{v}");
        self.fact(v);
    }
    fn node(&mut self, node: &Node) {
        self.list(&node.outputs, |p, v| p.result(*v));
        let name = if let Op::Pointwise(p) = &node.op { p.name } else { node.op.name() };
        let _ = write!(self.out, " = {name}(");
        self.list(&node.inputs, |p, v| p.operand(*v));
        self.out.push(')');
        if let Op::Pointwise(p) = &node.op {
            self.out.push_str(" {");
            let _ = kernel::text::write(&mut self.out, &p.expr, Some(&types(self.g, &node.inputs)));
            self.out.push('}');
        } else {
            node.op.write_attributes(&mut self.out);
        }
        if !node.origins.is_empty() {
            self.out.push_str(" from ");
            self.list(&node.origins, |p, o| {
                let _ = write!(p.out, "{o}");
            });
            self.origins.extend(&node.origins);
        }
        let name = node.origins.first().and_then(|o| self.g.origins.get(*o)).map_or("", |o| o.name.as_str());
        if !name.is_empty() {
            let _ = write!(self.out, "  # {}", shown(name));
        }
        self.out.push('\n');
    }
    fn block(&mut self, b: &Block, indent: usize) {
        let pad = "  ".repeat(indent);
        for &n in &b.nodes {
            let node = &self.g[n];
            self.out.push_str(&pad);
            self.node(node);
            for inner in &node.blocks {
                let _ = write!(self.out, "{pad}  block(");
                self.list(&inner.inputs, |p, v| p.result(*v));
                self.out.push_str(") {\n");
                self.block(inner, indent + 2);
                let _ = write!(self.out, "{pad}  }} -> ");
                self.list(&inner.outputs, |p, v| p.operand(Some(*v)));
                self.out.push('\n');
            }
        }
    }
}
