//! `kiln report`: one page about a compiled model, with its memory as a picture; it needs nothing but a browser.

use super::cost;
use crate::args::ModelArgs;
use crate::data;
use crate::failure::Result;
use crate::model::compile_guarded;
use crate::svg::escape as html;
use kiln_compiler::Output;
use kiln_compiler::diagnostics::shown;
use kiln_compiler::ir::{Range, print};
use kiln_compiler::plan::{Arena, KernelStep};
use kiln_compiler::rewrite::rules;
use std::fmt::Write as _;
use std::path::PathBuf;

/// Write a page about a compiled model.
#[derive(clap::Args, Debug)]
pub(crate) struct Report {
    #[command(flatten)]
    model: ModelArgs,
    /// The page.
    #[arg(short, long, value_name = "FILE", default_value = "report.html")]
    output: PathBuf,
}

impl Report {
    /// Does it.
    pub(crate) fn run(self) -> Result<()> {
        let mut options = self.model.options(self.model.parsed()?)?;
        options.dump_after = Some("import".into());
        let output = compile_guarded(&options)?;
        let title = self.model.model.file_name().map_or(String::new(), |n| n.to_string_lossy().into_owned());
        data::replace(&self.output, page(&output, &title).as_bytes())
    }
}

const STYLE: &str = "body{font:14px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#1b1f24}\
h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2rem;border-bottom:1px solid #d5d9de}\
table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.15rem .6rem .15rem 0;border-bottom:1px solid #eceff2;vertical-align:top}\
td.n,th.n{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}code,pre{font:12px/1.45 ui-monospace,monospace}\
pre{background:#f6f8fa;padding:.8rem;overflow:auto;max-height:32rem}.bar{background:#d9480f;height:.6rem;display:inline-block}\
.dim{color:#68707a}svg{width:100%;height:auto;background:#f6f8fa}summary{cursor:pointer}";

fn si(n: u64, unit: &str) -> String {
    let x = n as f64;
    match n {
        0..1_000 => format!("{n} {unit}"),
        1_000..1_000_000 => format!("{:.1} k{unit}", x / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2} M{unit}", x / 1e6),
        _ => format!("{:.2} G{unit}", x / 1e9),
    }
}

fn page(o: &Output, title: &str) -> String {
    let title = html(&shown(title));
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>{title}: kiln report</title><style>{STYLE}</style>\n<h1>{title}</h1>\n"
    );
    let steps = o.plan.kernels();
    let costs: Vec<(u64, u64)> = steps.iter().map(|s| cost::step(&o.plan, s)).collect();
    summary(&mut out, o, &costs);
    memory(&mut out, o, &steps);
    kernels(&mut out, o, &steps, &costs);
    copies(&mut out, o, &steps);
    rewriting(&mut out, o);
    for (what, text) in [("as read", o.dump.clone().unwrap_or_default()), ("as compiled", print(&o.plan.graph))] {
        let _ = writeln!(
            out,
            "<h2>The graph {what}</h2><details><summary>{} lines</summary><pre>{}</pre></details>",
            text.lines().count(),
            html(&text)
        );
    }
    out.push_str("</html>\n");
    out
}

fn summary(out: &mut String, o: &Output, costs: &[(u64, u64)]) {
    let r = &o.report;
    let flops = costs.iter().map(|c| c.0).fold(0, u64::saturating_add);
    let bytes = |n: Option<i64>| n.map_or("sized at run time".into(), |n| si(n.max(0) as u64, "B"));
    let gap = match (r.arena_bytes, r.arena_bound_bytes) {
        (Some(a), Some(b)) if b > 0 => {
            format!(", {:.3} of the lower bound (the largest sum of bytes that live at once)", a as f64 / b as f64)
        }
        _ => String::new(),
    };
    let rows = [
        ("kernels", r.kernels.to_string()),
        ("copies between layouts", r.copies.to_string()),
        ("operations", si(flops, "FLOP")),
        ("weights", si(r.weights_bytes as u64, "B")),
        ("arena", format!("{}{gap}", bytes(r.arena_bytes))),
        ("all results, if none shared memory", si(r.intermediates_bytes.max(0) as u64, "B")),
        ("scratch of each thread", r.scratch_bytes_per_thread.map_or("sized at run time".into(), |n| si(n as u64, "B"))),
        ("seconds of reading, rewriting, planning", format!("{:.3}, {:.3}, {:.3}", r.seconds.read, r.seconds.rewrite, r.seconds.plan)),
    ];
    out.push_str("<table>");
    for (what, text) in rows {
        let _ = write!(out, "<tr><th>{what}<td>{}", html(&text));
    }
    out.push_str("</table>\n");
}

/// Buffers as rectangles: time to the right, addresses upwards.
fn memory(out: &mut String, o: &Output, steps: &[&KernelStep]) {
    out.push_str("<h2>Memory over time</h2>");
    let Arena::Fixed { offsets, bytes, .. } = &o.plan.arena else {
        out.push_str("<p>Open dimensions decide the sizes at run time.</p>");
        return;
    };
    let end = o.plan.buffers.iter().map(|b| b.life.to).max().unwrap_or(0) + 1;
    let (w, h) = (1000.0, 300.0);
    let (dx, dy) = (w / end.max(1) as f64, h / (*bytes).max(1) as f64);
    let _ = write!(out, "<svg viewBox=\"0 0 {w} {h}\" role=\"img\" aria-label=\"Buffers of the arena over the steps\">");
    for (i, (b, at)) in o.plan.buffers.iter().zip(offsets).enumerate() {
        let range = b.bytes.range(&|s| o.plan.graph.symbols.get(s.0 as usize).map_or(Range { lo: 0, hi: None }, |s| s.range));
        let size = range.hi.unwrap_or(0).max(0) as f64;
        let (x, y) = (b.life.from as f64 * dx, h - (*at as f64 + size) * dy);
        let (width, height) = ((b.life.to - b.life.from + 1) as f64 * dx, size * dy);
        let writer = steps.iter().position(|s| s.time == b.life.from).map_or(String::new(), |k| format!("k{k}: "));
        let _ = write!(
            out,
            "<rect x=\"{x:.2}\" y=\"{y:.2}\" width=\"{width:.2}\" height=\"{height:.2}\" fill=\"hsl({} 55% 62%)\" stroke=\"#fff\" stroke-width=\".5\"><title>{writer}{}, steps {} to {}</title></rect>",
            i * 137 % 360,
            si(size as u64, "B"),
            b.life.from,
            b.life.to
        );
    }
    let _ = writeln!(
        out,
        "</svg><p class=\"dim\">{} buffers in {}; steps run to the right, addresses upwards.</p>",
        offsets.len(),
        si(*bytes as u64, "B")
    );
}

fn kernels(out: &mut String, o: &Output, steps: &[&KernelStep], costs: &[(u64, u64)]) {
    let most = costs.iter().map(|c| c.0).max().unwrap_or(0).max(1);
    out.push_str("<h2>Kernels</h2><table><tr><th>#<th>kernel<th>ONNX nodes<th>result<th class=\"n\">operations<th class=\"n\">bytes<th>operations beside the most\n");
    for (k, (s, (flops, bytes))) in steps.iter().zip(costs).enumerate() {
        let names: Vec<String> = s.origins.iter().map(|i| label(o, *i)).collect();
        let result = s.outputs.iter().map(|v| o.plan.graph.ty(*v).to_string()).collect::<Vec<_>>().join(", ");
        let tail = s
            .kernel
            .epilogue()
            .map_or(String::new(), |e| format!("<br><span class=\"dim\">then {}</span>", html(&cut(&e.expr.to_string()))));
        let _ = writeln!(
            out,
            "<tr><td>k{k}<td>{}{tail}<td>{}<td><code>{}</code><td class=\"n\">{}<td class=\"n\">{}<td><span class=\"bar\" style=\"width:{:.1}%\"></span>",
            html(s.kernel.name()),
            html(&cut(&names.join(", "))),
            html(&result),
            si(*flops, ""),
            si(*bytes, "B"),
            *flops as f64 * 100.0 / most as f64
        );
    }
    out.push_str("</table>\n");
}

/// An ONNX node by its name, or by its operator where it has none.
fn label(o: &Output, origin: usize) -> String {
    let origin = &o.plan.graph.origins[origin];
    if origin.name.is_empty() { format!("({})", shown(&origin.op_type)) } else { shown(&origin.name) }
}

fn cut(text: &str) -> String {
    if text.chars().count() <= 160 { text.to_string() } else { text.chars().take(160).chain(['…']).collect() }
}

fn copies(out: &mut String, o: &Output, steps: &[&KernelStep]) {
    out.push_str("<h2>Copies between layouts</h2>");
    let all: Vec<(usize, &&KernelStep)> = steps.iter().enumerate().filter(|(_, s)| s.origins.is_empty()).collect();
    if all.is_empty() {
        out.push_str("<p>None.</p>");
        return;
    }
    out.push_str("<table><tr><th>#<th>value<th>because it is read by\n");
    for (k, s) in all {
        let result = s.outputs.first().copied();
        let readers: Vec<String> = (steps.iter().enumerate())
            .filter(|(_, r)| result.is_some() && r.inputs.contains(&result))
            .map(|(i, r)| format!("k{i} ({}), which cannot step through the memory it lies in", r.kernel.name()))
            .collect();
        let why = if readers.is_empty() { "an output of the model, which callers read row by row".to_string() } else { readers.join(", ") };
        let ty = result.map_or(String::new(), |v| o.plan.graph.ty(v).to_string());
        let _ = writeln!(out, "<tr><td>k{k}<td><code>{}</code><td>{}", html(&ty), html(&why));
    }
    out.push_str("</table>\n");
}

fn rewriting(out: &mut String, o: &Output) {
    let r = &o.report;
    out.push_str("<h2>Rewriting</h2><table><tr><th>rule<th class=\"n\">times<th>equation\n");
    for (name, n) in &r.rules_applied {
        let equation = rules::all().into_iter().chain(rules::exploring()).find(|r| r.name == name).map_or("", |r| r.equation);
        let _ = writeln!(out, "<tr><td>{}<td class=\"n\">{n}<td>{}", html(name), html(equation));
    }
    out.push_str("</table>\n<h2>Equality saturation</h2><table><tr><th class=\"n\">nodes of the region<th class=\"n\">times in the model<th class=\"n\">terms<th class=\"n\">rounds<th>saturated<th class=\"n\">cost before<th class=\"n\">after<th class=\"n\">at least\n");
    for e in &r.explored {
        let _ = writeln!(
            out,
            "<tr><td class=\"n\">{}<td class=\"n\">{}<td class=\"n\">{}<td class=\"n\">{}<td>{}<td class=\"n\">{:.1} µs<td class=\"n\">{:.1} µs<td class=\"n\">{:.1} µs",
            e.nodes,
            e.count,
            e.terms,
            e.rounds,
            if e.saturated { "yes" } else { "no" },
            e.cost.0 as f64 / 1e6,
            e.cost.1 as f64 / 1e6,
            e.bound as f64 / 1e6
        );
    }
    out.push_str("</table>\n");
    if !r.misses.is_empty() {
        out.push_str("<h2>Rules that all but matched</h2><table><tr><th>rule<th>at<th>why not\n");
        for m in &r.misses {
            let at: Vec<String> = m.origins.iter().map(|i| label(o, *i)).collect();
            let _ = writeln!(out, "<tr><td>{}<td>{}<td>{}", html(m.rule), html(&cut(&at.join(", "))), html(m.why));
        }
        out.push_str("</table>\n");
    }
}
