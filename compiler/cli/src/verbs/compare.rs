//! `kiln compare`: a compiled model against results expected of it, and against the reference evaluator.

use crate::args::{ModelArgs, RunArgs};
use crate::data::{self, ulps};
use crate::failure::{Failure, Result};
use crate::model::{self, InputArgs, Ready};
use crate::suite::floats;
use crate::{cache, job};
use kiln_compiler::diagnostics::shown;
use kiln_compiler::eval::Evaluator;
use kiln_compiler::import::import;
use kiln_compiler::ir::{Graph, Port, Type};
use kiln_compiler::onnx::{self, Limits};
use kiln_compiler::{Output, pipeline, plan};
use kiln_kernels::value::{Tensor, Value};
use serde_json::{Value as Json, json};
use std::path::PathBuf;

/// Compare a compiled model with results expected of it.
#[derive(clap::Args, Debug)]
pub(crate) struct Compare {
    #[command(flatten)]
    model: ModelArgs,
    /// A folder with `in_0.npy` .. and the results expected, `out_0.npy` .. (or `.pb`).
    #[arg(long, value_name = "DIR")]
    expect: PathBuf,
    #[command(flatten)]
    how: RunArgs,
    /// Absolute tolerance; by default 1e-3 of the standard deviation of the expected output.
    #[arg(long)]
    atol: Option<f64>,
    /// Relative tolerance.
    #[arg(long, default_value_t = 1e-3)]
    rtol: f64,
    /// Allow this many units in the last place instead.
    #[arg(long)]
    ulp: Option<u64>,
    /// Find the first node whose compiled result differs from the reference evaluator's.
    #[arg(long)]
    layers: bool,
    /// Print the differences as JSON.
    #[arg(long)]
    json: bool,
}

/// How far an output is from the one expected.
struct Difference {
    worst: f64,
    sd: f64,
    ulps: u64,
    wrong: usize,
    count: usize,
}

impl Compare {
    fn difference(&self, found: &Tensor, expected: &Tensor) -> std::result::Result<Difference, String> {
        if (found.dtype, &found.dims) != (expected.dtype, &expected.dims) {
            return Err(format!("{}{:?}, expected {}{:?}", found.dtype, found.dims, expected.dtype, expected.dims));
        }
        let (Some(f), Some(e)) = (floats(found), floats(expected)) else {
            let wrong = usize::from(found != expected);
            return Ok(Difference { worst: wrong as f64, sd: 1.0, ulps: 0, wrong, count: found.len() });
        };
        let finite: Vec<f64> = e.iter().copied().filter(|x| x.is_finite()).collect();
        let n = finite.len().max(1) as f64;
        let mean = finite.iter().sum::<f64>() / n;
        let sd = (finite.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n).sqrt();
        let exact = !found.dtype.is_float();
        let atol = self.atol.unwrap_or(if exact { 0.0 } else { 1e-3 * sd });
        let rtol = if exact && self.atol.is_none() { 0.0 } else { self.rtol };
        let mut out = Difference { worst: 0.0, sd, ulps: 0, wrong: 0, count: f.len() };
        for (&f, &e) in f.iter().zip(&e) {
            if f == e || (f.is_nan() && e.is_nan()) {
                continue;
            }
            let d = (f - e).abs();
            let steps = ulps(found.dtype, f, e);
            out.worst = if d > out.worst || d.is_nan() { d } else { out.worst };
            out.ulps = out.ulps.max(steps);
            let close = self.ulp.map_or(d <= atol + rtol * e.abs(), |n| steps <= n);
            out.wrong += usize::from(!close);
        }
        Ok(out)
    }

    /// Does it.
    pub(crate) fn run(self) -> Result<()> {
        let how = self.how.job()?;
        let ready = model::ready(&self.model, &InputArgs { inputs: Some(self.expect.clone()), input: Vec::new() })?;
        let built = model::build(&self.model, &ready)?;
        let found = job::run(&built.binary, &ready.values, &how)?;
        let types: Vec<_> = ready.outputs.iter().map(|o| o.ty.as_ref()).collect();
        let expected = data::folder(&self.expect, "out", &types)?;
        let (mut rows, mut bad, mut seen) = (Vec::new(), 0, 0);
        for (i, (f, e)) in found.iter().zip(&expected).enumerate() {
            let Some(e) = e else { continue };
            seen += 1;
            let name = built.outputs().get(i).cloned().unwrap_or_default();
            let row = match (f, e) {
                (Value::Tensor(f), Value::Tensor(e)) => self.difference(f, e),
                _ if f == e => Ok(Difference { worst: 0.0, sd: 1.0, ulps: 0, wrong: 0, count: 1 }),
                _ => Err("another value than expected".into()),
            };
            let (ok, json, text) = match row {
                Ok(d) => {
                    let relative = d.worst / if d.sd > 0.0 { d.sd } else { 1.0 };
                    let text = format!(
                        "worst {:.3e} ({relative:.2e} of the deviation), {} ulp, {} of {} outside",
                        d.worst, d.ulps, d.wrong, d.count
                    );
                    let json =
                        json!({ "worst": d.worst, "worst_over_sd": relative, "ulp": d.ulps, "outside": d.wrong, "elements": d.count });
                    (d.wrong == 0, json, text)
                }
                Err(why) => (false, json!({ "reason": why }), why),
            };
            bad += usize::from(!ok);
            if !self.json {
                println!("out_{i} \"{}\": {}: {text}", shown(&name), if ok { "ok" } else { "DIFFERS" });
            }
            let mut json = json;
            (json["name"], json["ok"]) = (json!(name), json!(ok));
            rows.push(json);
        }
        if seen == 0 {
            return Err(Failure::at(&self.expect, "no out_0.npy or out_0.pb is here"));
        }
        let layers = if self.layers { Some(self.layers(&ready, &how)?) } else { None };
        if self.json {
            println!("{}", json!({ "schema": 1, "ok": bad == 0, "outputs": rows, "layers": layers }));
        } else if let Some(l) = &layers {
            println!("{}", l["text"].as_str().unwrap_or_default());
        }
        if bad > 0 { Err(Failure::Fault(String::new())) } else { Ok(()) }
    }

    /// The first node, in the graph's order, whose compiled result differs from the reference evaluator's on the same inputs.
    fn layers(&self, ready: &Ready, how: &[String]) -> Result<Json> {
        let onnx = onnx::read_file(&self.model.model, &Limits::default())?;
        let graph = import(&onnx, &ready.dims)?;
        drop(onnx);
        let values: Vec<Value> = ready.values.iter().flatten().cloned().collect();
        let mut evaluator = Evaluator::new(&graph, values).map_err(Failure::Fault)?;
        evaluator.run().map_err(|e| Failure::Fault(format!("error: the reference evaluator: {e}")))?;
        // Every result of a node of the main graph that is a dense tensor becomes an output.
        let mut wide = graph.clone();
        let mut watched = Vec::new();
        for n in &graph.body.nodes {
            for v in &graph[*n].outputs {
                if matches!(graph.ty(*v), Type::Tensor(..)) && evaluator.values.contains_key(v) {
                    watched.push((*n, *v));
                }
            }
        }
        wide.body.outputs = watched.iter().map(|(_, v)| *v).collect();
        wide.outputs = watched.iter().map(|(_, v)| Port { name: graph[*v].name.clone(), field: String::new(), optional: false }).collect();
        let key = format!("layers-{}", cache::key(&self.model.model, &ready.data_files, &ready.dims)?);
        pipeline::optimize(&mut wide, &mut |_, _| {}).map_err(Failure::Fault)?;
        let output = Output { plan: plan::schedule(wide), report: Default::default(), data_files: Vec::new(), dump: None };
        let dir = cache::root()?.join("models").join(&key);
        let _lock = cache::lock(&key)?;
        let built = model::build_program(&output, &key, &dir)?;
        let found = job::run(&built.binary, &ready.values, how)?;
        for ((n, v), f) in watched.iter().zip(&found) {
            let (Some(f), Some(e)) = (f.as_tensor(), evaluator.values[v].as_tensor()) else { continue };
            let why = match self.difference(f, e) {
                Ok(d) if d.wrong == 0 => continue,
                Ok(d) => format!("worst {:.3e}, {} of {} outside", d.worst, d.wrong, d.count),
                Err(why) => why,
            };
            let origin = first_origin(&graph, *n);
            let text = format!("first difference from the reference evaluator: {origin}: {why}");
            return Ok(json!({ "node": origin, "reason": why, "text": text }));
        }
        let text = format!("no node differs from the reference evaluator ({} results compared)", watched.len());
        Ok(json!({ "node": Json::Null, "text": text }))
    }
}

fn first_origin(g: &Graph, n: kiln_compiler::ir::NodeId) -> String {
    let o = g[n].origins.first().and_then(|o| g.origins.get(*o));
    o.map_or_else(|| n.to_string(), |o| o.to_string())
}
