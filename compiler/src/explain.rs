//! What became of an ONNX node: the rules that touched it, those that were refused, its kernel, and why neighbours are not in it.

use crate::compile::Output;
use crate::diagnostics::shown;
use crate::emit;
use crate::fusion::{self, Cluster};
use crate::ir::{Graph, NodeId, ValueId};
use crate::ops::Op;
use crate::rewrite::rules;
use crate::target::cpu::rowwise;
use crate::target::cuda::Decision;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// Explains what became of the ONNX nodes of that name (or of an output of that name), a paragraph each; `None` when there is none.
pub fn explain(output: &Output, name: &str) -> Option<String> {
    let g = &output.plan.graph;
    let mut found: Vec<usize> = (0..g.origins.len()).filter(|i| g.origins[*i].name == name).collect();
    if found.is_empty() {
        // The name of a value stands for what computes it.
        let named = g.live_nodes().into_iter().filter(|n| g[*n].outputs.iter().any(|v| !name.is_empty() && g[*v].name == name));
        found.extend(named.filter_map(|n| g[n].origins.first().copied()));
    }
    if found.is_empty() {
        return None;
    }
    let clusters = fusion::cluster(g, &g.body, true);
    let forms = output.device.as_ref().map(emit::forms).unwrap_or_default();
    Some(found.into_iter().map(|i| paragraph(output, &clusters, &forms, i)).collect::<Vec<_>>().join("\n"))
}

fn paragraph(output: &Output, clusters: &[Cluster], forms: &[Decision], origin: usize) -> String {
    let (g, report) = (&output.plan.graph, &output.report);
    let mut out = format!("{}\n", g.origins[origin]);
    let equations: BTreeMap<&str, &str> = rules::all().into_iter().chain(rules::exploring()).map(|r| (r.name, r.equation)).collect();
    let mut counted: Vec<(&str, usize)> = Vec::new();
    for e in report.history.iter().filter(|e| e.origins.contains(&origin)) {
        match counted.iter_mut().find(|(r, _)| *r == e.rule) {
            Some((_, n)) => *n += 1,
            None => counted.push((e.rule, 1)),
        }
    }
    for (rule, n) in &counted {
        let times = if *n > 1 { format!(" ({n} times)") } else { String::new() };
        let _ = writeln!(out, "  rule {rule}{times}: {}", equations.get(rule).unwrap_or(&""));
    }
    if counted.is_empty() {
        out.push_str("  no rule touched it\n");
    }
    for m in report.misses.iter().filter(|m| m.origins.contains(&origin)) {
        let _ = writeln!(out, "  rule {} did not apply: {}", m.rule, m.why);
    }
    let steps = output.plan.kernels();
    let own: Vec<usize> = (0..steps.len()).filter(|k| steps[*k].origins.contains(&origin)).collect();
    for k in &own {
        let others: Vec<String> =
            steps[*k].origins.iter().filter(|o| **o != origin).map(|o| format!("\"{}\"", shown(&g.origins[*o].name))).collect();
        let with = if others.is_empty() { String::new() } else { format!(", together with {}", others.join(", ")) };
        let _ = writeln!(out, "  kernel k{k}: {}{with}", steps[*k].kernel.name());
    }
    if own.is_empty() {
        out.push_str("  no kernel: it is computed at compile time, is a view of its operand, or nothing needs it\n");
    }
    for d in forms.iter().filter(|d| d.origins.contains(&origin)) {
        let by = if d.measured { "as it was measured" } else { "by an estimate" };
        let all: Vec<String> = d.forms.iter().map(ToString::to_string).collect();
        let _ = writeln!(out, "  on a GPU {by}: {} for `{}`", all.join(", "), d.spec);
    }
    for line in neighbours(g, clusters, origin) {
        let _ = writeln!(out, "  {line}");
    }
    out
}

/// Which readers that could share a kernel are in another, and why.
fn neighbours(g: &Graph, clusters: &[Cluster], origin: usize) -> BTreeSet<String> {
    let mut readers: BTreeMap<ValueId, Vec<NodeId>> = BTreeMap::new();
    for n in g.live_nodes() {
        g[n].inputs.iter().flatten().for_each(|v| readers.entry(*v).or_default().push(n));
    }
    let mut out = BTreeSet::new();
    for (i, c) in clusters.iter().enumerate().filter(|(_, c)| c.nodes.iter().any(|n| g[*n].origins.contains(&origin))) {
        // That a product feeds a normalization is no question anybody asks.
        let rows = |r: &NodeId| c.anchor.is_none() && rowwise::form(g, &g[*r]).is_some();
        for v in &c.outputs {
            for r in readers.get(v).into_iter().flatten().filter(|r| matches!(g[**r].op, Op::Pointwise(_)) || rows(r)) {
                let Some(into) = clusters.iter().position(|c| c.nodes.contains(r)).filter(|j| *j != i) else { continue };
                let name = g[*r].origins.first().map_or(String::new(), |o| shown(&g.origins[*o].name));
                out.insert(format!("\"{name}\" reads it in another kernel: {}", fusion::apart(g, clusters, [i, into], *v, *r)));
            }
        }
    }
    out
}
