//! `kiln compare`: a compiled model against results expected of it, and against the reference evaluator.

use crate::args::{ModelArgs, RunArgs};
use crate::data;
use crate::difference::Tolerance;
use crate::failure::{Failure, Result};
use crate::model::{self, InputArgs, Ready};
use crate::{cache, job};
use kiln_compiler::Output;
use kiln_compiler::diagnostics::shown;
use kiln_compiler::eval::Evaluator;
use kiln_compiler::import::import;
use kiln_compiler::ir::{Graph, Port, Type};
use kiln_compiler::onnx::{self, Limits};
use kiln_compiler::pipeline::{self, Ablation};
use kiln_compiler::plan::{self, Settings};
use kiln_compiler::target::cuda::toolchain::Machine;
use kiln_kernels::value::Value;
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
    #[command(flatten)]
    within: Tolerance,
    /// Find the first node whose compiled result differs from the reference evaluator's.
    #[arg(long)]
    layers: bool,
    /// Print the differences as JSON.
    #[arg(long)]
    json: bool,
}

impl Compare {
    /// Does it.
    pub(crate) fn run(self) -> Result<()> {
        let how = self.model.job(&self.how)?;
        if !self.model.state()?.is_empty() {
            return Err(Failure::Usage(
                "--state: what is expected of a model has all of its inputs and outputs; compare it without".into(),
            ));
        }
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
            let row = self.within.between(f, e);
            let (ok, json, text) = match row {
                Ok(d) => {
                    let relative = d.relative();
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
        let key = format!("layers-{}", cache::key(&self.model.model, ready)?);
        pipeline::optimize(&mut wide, Ablation::Nothing, &mut |_, _| {}).map_err(Failure::Fault)?;
        let settings = Settings { accuracy: ready.accuracy, tuning: ready.tune.read(&self.model.model)?, ..Settings::default() };
        let device = ready.gpu.map(|(cuda, _)| {
            plan::schedule_with(wide.clone(), Default::default(), Settings { cuda: Some(cuda.precision), ..settings.clone() })
        });
        let output = Output {
            plan: plan::schedule_with(wide, Default::default(), settings),
            device,
            report: Default::default(),
            data_files: Vec::new(),
            dump: None,
        };
        let dir = cache::root()?.join("models").join(&key);
        let _lock = cache::lock(&key)?;
        let built = model::build_program(&output, &self.model.model, &key, &dir, ready.gpu.map_or(Machine::Gpu, |(_, machine)| machine))?;
        let found = job::run(&built.binary, &ready.values, how)?;
        for ((n, v), f) in watched.iter().zip(&found) {
            let (Some(f), Some(e)) = (f.as_tensor(), evaluator.values[v].as_tensor()) else { continue };
            let why = match self.within.difference(f, e) {
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
