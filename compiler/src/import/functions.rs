//! Model-local functions inlined: every call replaced by the function's nodes, with names made distinct and attributes passed in.

use crate::diagnostics::{Diagnostic, Diagnostics, Result, shown};
use crate::onnx::{Attribute, Function, Graph, Model, Node};
use std::collections::BTreeMap;

/// How deep calls may nest; [onnx's own checker](https://github.com/onnx/onnx/blob/main/onnx/checker.cc) has the same bound.
const MAX_CALLS: usize = 100;
/// How many nodes inlining may make.
const MAX_NODES: usize = 1 << 20;

type Key<'a> = (&'a str, &'a str, &'a str);

struct Inliner<'a> {
    functions: BTreeMap<Key<'a>, &'a Function>,
    calls: usize,
    nodes: usize,
}

/// The model without functions.
///
/// # Errors
/// Functions that call themselves, or nest or grow beyond the bounds.
pub(super) fn inline(model: &Model) -> Result<Model> {
    let functions = model.functions.iter().map(|f| ((f.domain.as_str(), f.name.as_str(), f.overload.as_str()), f)).collect();
    let mut i = Inliner { functions, calls: 0, nodes: 0 };
    let graph = i.graph(&model.graph, &BTreeMap::new(), "", None, 0).map_err(Diagnostics::from)?;
    Ok(Model {
        ir_version: model.ir_version,
        opsets: model.opsets.clone(),
        graph,
        functions: Vec::new(),
        data_files: model.data_files.clone(),
        producer: model.producer.clone(),
        metadata: model.metadata.clone(),
    })
}

/// Names inside a call, renamed: those bound to arguments, all others with the call's prefix.
type Names = BTreeMap<String, String>;

fn rename(names: &Names, prefix: &str, name: &str) -> String {
    match names.get(name) {
        Some(n) => n.clone(),
        None if name.is_empty() || prefix.is_empty() => name.to_string(),
        None => format!("{prefix}{name}"),
    }
}

impl Inliner<'_> {
    fn graph(
        &mut self,
        g: &Graph,
        names: &Names,
        prefix: &str,
        call: Option<(&Function, &Node)>,
        depth: usize,
    ) -> std::result::Result<Graph, Diagnostic> {
        let r = |n: &str| rename(names, prefix, n);
        let mut out = g.clone();
        out.inputs.iter_mut().chain(&mut out.outputs).chain(&mut out.value_info).for_each(|i| i.name = r(&i.name));
        out.initializers.iter_mut().for_each(|(n, _)| *n = r(n));
        out.nodes = self.nodes(&g.nodes, names, prefix, call, depth)?;
        Ok(out)
    }

    fn nodes(
        &mut self,
        nodes: &[Node],
        names: &Names,
        prefix: &str,
        call: Option<(&Function, &Node)>,
        depth: usize,
    ) -> std::result::Result<Vec<Node>, Diagnostic> {
        let mut out = Vec::new();
        for n in nodes {
            let mut copy = Node {
                inputs: n.inputs.iter().map(|x| rename(names, prefix, x)).collect(),
                outputs: n.outputs.iter().map(|x| rename(names, prefix, x)).collect(),
                attributes: Vec::new(),
                ..n.clone()
            };
            for (name, a) in &n.attributes {
                let a = match a {
                    Attribute::Ref(to) => match passed(call, to) {
                        Some(a) => a,
                        None => continue,
                    },
                    Attribute::Graph(g) => Attribute::Graph(Box::new(self.graph(g, names, prefix, call, depth)?)),
                    other => other.clone(),
                };
                copy.attributes.push((name.clone(), a));
            }
            if let Some((f, _)) = call {
                copy.opset = f.opsets.get(&n.domain).copied();
            }
            self.nodes += 1;
            if self.nodes > MAX_NODES {
                return Err(Diagnostic::new(format!("inlining functions makes more than {MAX_NODES} nodes")));
            }
            let Some(f) = self.functions.get(&(n.domain.as_str(), n.op_type.as_str(), n.overload.as_str())).copied() else {
                out.push(copy);
                continue;
            };
            if depth >= MAX_CALLS {
                return Err(Diagnostic::new(format!(
                    "calls of functions nest deeper than {MAX_CALLS}, at \"{}\"; does a function call itself?",
                    shown(&f.name)
                )));
            }
            let inner = format!("{}/{}/", self.calls, f.name);
            self.calls += 1;
            let mut bound = Names::new();
            let mut tail = Vec::new();
            for (k, i) in f.inputs.iter().enumerate() {
                bound.insert(i.clone(), copy.inputs.get(k).cloned().unwrap_or_default());
            }
            for (k, o) in f.outputs.iter().enumerate() {
                let Some(to) = copy.outputs.get(k).filter(|o| !o.is_empty()) else { continue };
                match bound.get(o) {
                    // An input handed straight out.
                    Some(from) => tail.push(Node {
                        op_type: "Identity".into(),
                        inputs: vec![from.clone()],
                        outputs: vec![to.clone()],
                        ..Node::default()
                    }),
                    None => {
                        bound.insert(o.clone(), to.clone());
                    }
                }
            }
            out.extend(self.nodes(&f.nodes, &bound, &inner, Some((f, &copy)), depth + 1)?);
            out.extend(tail);
        }
        Ok(out)
    }
}

/// The attribute that a call passes, or the function's default.
fn passed(call: Option<(&Function, &Node)>, name: &str) -> Option<Attribute> {
    let (f, node) = call?;
    node.attribute(name).or_else(|| f.defaults.iter().find(|(n, _)| n == name).map(|(_, a)| a)).cloned()
}
