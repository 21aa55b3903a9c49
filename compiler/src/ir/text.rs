//! The text form of a graph, as `kiln dump` prints it: one line a node, values by id, names as comments.

use super::{Block, Graph, Type, ValueId};
use crate::diagnostics::shown;
use crate::ops::Op;
use std::fmt::{self, Write};

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Tensor(d, shape) => {
                write!(f, "{d}[")?;
                for (i, x) in shape.iter().enumerate() {
                    write!(f, "{}{x}", if i > 0 { ", " } else { "" })?;
                }
                write!(f, "]")
            }
            Type::AnyTensor(d) => write!(f, "{d}[..]"),
            Type::Sequence(t) => write!(f, "seq({t})"),
            Type::Optional(t) => write!(f, "optional({t})"),
            Type::Map(k, v) => write!(f, "map({k}, {v})"),
        }
    }
}

/// The graph as text.
pub fn print(g: &Graph) -> String {
    let mut out = String::new();
    for (i, s) in g.symbols.iter().enumerate() {
        let hi = s.range.hi.map_or(String::new(), |h| format!("={h}"));
        let bound = s.input.map_or(String::new(), |(p, a)| format!(" = input {p} axis {a}"));
        let _ = writeln!(out, "dim s{i} in {}..{hi}{bound}  # {}", s.range.lo, shown(&s.name));
    }
    for (v, port) in g.body.inputs.iter().zip(&g.inputs) {
        let _ = writeln!(out, "input {v}: {}  # {}", g.ty(*v), shown(&port.name));
    }
    print_block(g, &g.body, 0, &mut out);
    for (v, port) in g.body.outputs.iter().zip(&g.outputs) {
        let _ = writeln!(out, "output {}  # {}", operand(g, Some(*v)), shown(&port.name));
    }
    out
}

fn operand(g: &Graph, v: Option<ValueId>) -> String {
    match v {
        None => "_".into(),
        Some(v) => match &g[v].constant {
            Some(t) if t.len() == 1 => match (t.to_f64s(), t.as_strings().first()) {
                (Some(x), _) => format!("{}({})", t.dtype, x[0]),
                (None, Some(s)) => format!("\"{}\"", shown(s)),
                _ => format!("const {}", g.ty(v)),
            },
            Some(_) => format!("const {}", g.ty(v)),
            None => v.to_string(),
        },
    }
}

fn print_block(g: &Graph, b: &Block, indent: usize, out: &mut String) {
    let pad = "  ".repeat(indent);
    for &n in &b.nodes {
        let node = &g[n];
        let results: Vec<String> = node.outputs.iter().map(|v| format!("{v}: {}", g.ty(*v))).collect();
        let inputs: Vec<String> = node.inputs.iter().map(|v| operand(g, *v)).collect();
        let op = match &node.op {
            Op::Pointwise(p) => format!("{} {{{}}}", p.name, p.expr),
            other => format!("{other:?}"),
        };
        let origin = node.origins.first().and_then(|o| g.origins.get(*o)).map_or("", |o| o.name.as_str());
        let _ = writeln!(out, "{pad}{} = {op}({})  # {}", results.join(", "), inputs.join(", "), shown(origin));
        for inner in &node.blocks {
            let ins: Vec<String> = inner.inputs.iter().map(|v| format!("{v}: {}", g.ty(*v))).collect();
            let _ = writeln!(out, "{pad}  block({}) {{", ins.join(", "));
            print_block(g, inner, indent + 2, out);
            let outs: Vec<String> = inner.outputs.iter().map(|v| operand(g, Some(*v))).collect();
            let _ = writeln!(out, "{pad}  }} -> {}", outs.join(", "));
        }
    }
}
