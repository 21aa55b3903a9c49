//! `kiln bench`: measures a compiled model, and others beside it in the same minute.

use super::ablate;
use crate::args::{ModelArgs, RunArgs};
use crate::cache::Scratch;
use crate::failure::{At, Failure, Result};
use crate::model::{self, Built, InputArgs, Ready};
use crate::roofline::{self, Layer, Machine};
use crate::svg;
use crate::{data, job, npy};
use kiln_kernels::isa::Isa;
use serde_json::{Value as Json, json};
use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::Command;

/// Measure a compiled model.
#[derive(clap::Args, Debug)]
pub(crate) struct Bench {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    inputs: InputArgs,
    #[command(flatten)]
    how: RunArgs,
    /// Runs before measuring.
    #[arg(long, default_value_t = 3)]
    warmup: usize,
    /// Runs measured; 0 measures for about two seconds.
    #[arg(long, default_value_t = 0)]
    iterations: usize,
    /// How many rows the states have when a run begins; by default as many as leave room for it.
    #[arg(long, value_name = "ROWS")]
    past: Option<usize>,
    /// Measure another runtime beside it.
    #[arg(long, value_name = "ort")]
    against: Option<String>,
    /// Measure what each part of the optimizer is worth, by leaving it out.
    #[arg(long, conflicts_with = "against")]
    ablate: bool,
    /// Write a trace of ten runs, step by step, that https://ui.perfetto.dev opens.
    #[arg(long, value_name = "FILE", conflicts_with = "ablate")]
    profile: Option<PathBuf>,
    /// Draw each layer's speed beside what the machine allows, and print those that take most.
    #[arg(long, value_name = "FILE", conflicts_with = "ablate")]
    roofline: Option<PathBuf>,
    /// Print the measurements as JSON.
    #[arg(long)]
    json: bool,
}

impl Bench {
    /// Does it.
    pub(crate) fn run(self) -> Result<()> {
        let how = self.model.job(&self.how)?;
        let mut extra = how.clone();
        if self.against.as_deref().is_some_and(|a| a != "ort") {
            return Err(Failure::Usage("--against: expected ort".into()));
        }
        let mut ready = model::ready(&self.model, &self.inputs)?;
        if let Some(n) = self.past {
            if ready.state.is_empty() {
                return Err(Failure::Usage("--past: the model keeps no state; --state says which".into()));
            }
            extra.push(format!("past={n}"));
        }
        if self.against.is_some() && !ready.state.is_empty() {
            return Err(Failure::Usage("--against: the other runtime keeps no state; measure it without --state".into()));
        }
        extra.extend([format!("warmup={}", self.warmup), format!("iterations={}", self.iterations)]);
        if self.ablate {
            return ablate::table(&self.model, &mut ready, &extra, self.json);
        }
        let built = model::build(&self.model, &ready)?;
        let mut out = built.report.clone();
        merge(&mut out, job::bench(&built.binary, &ready.values, &extra)?);
        out["target"] = json!(if self.model.gpu().is_some() { "cuda" } else { "cpu" });
        if self.against.is_some() {
            let threads = out["threads"].as_u64().unwrap_or(1);
            let ort = onnxruntime(&self, &ready, threads, out["iterations"].as_u64().unwrap_or(20))?;
            // Measured again after the other, so that a slow minute shows in both.
            let again = job::bench(&built.binary, &ready.values, &extra)?;
            if again["p50_ms"].as_f64() < out["p50_ms"].as_f64() {
                merge(&mut out, again);
            }
            if let (Some(a), Some(b)) = (ort["p50_ms"].as_f64(), out["p50_ms"].as_f64()) {
                out["ratio"] = json!(a / b);
            }
            out["against"] = ort;
        }
        let layers = self.layers(&built, &ready, &how, &mut out)?;
        if self.json {
            println!("{out}");
            return Ok(());
        }
        for key in [
            "threads",
            "isa",
            "min_ms",
            "mean_ms",
            "std_ms",
            "p50_ms",
            "p95_ms",
            "p99_ms",
            "max_ms",
            "per_second",
            "new_ms",
            "first_ms",
            "gpu_ms",
            "gpu_kernels_ms",
            "rss_bytes",
        ] {
            match out[key].as_f64() {
                None if key.starts_with("gpu") => {}
                Some(x) if key.ends_with("_ms") || key == "per_second" => println!("{key:<12} {x:.3}"),
                _ => println!("{key:<12} {}", out[key].to_string().trim_matches('"')),
            }
        }
        if let Some(ratio) = out["ratio"].as_f64() {
            println!("onnxruntime  {:.3} ms at p50: {ratio:.2} times kiln's", out["against"]["p50_ms"].as_f64().unwrap_or(0.0));
        }
        if let Some((machine, layers)) = layers {
            roofline::print(&machine, &layers, LISTED);
        }
        Ok(())
    }

    /// Records runs, where a trace or a picture is asked for: writes them, and puts what they say into the report.
    fn layers(&self, built: &Built, ready: &Ready, how: &[String], out: &mut Json) -> Result<Option<(Machine, Vec<Layer>)>> {
        if self.profile.is_none() && self.roofline.is_none() {
            return Ok(None);
        }
        let scratch = Scratch::new()?;
        let trace = scratch.0.join("trace");
        let runs = if self.roofline.is_some() { TRACED.max(self.iterations) } else { TRACED };
        let extra = [how, &[format!("warmup={}", self.warmup), format!("iterations={runs}"), format!("out={}", trace.display())]].concat();
        let profile = job::profile(&built.binary, &ready.values, &extra)?;
        if let Some(path) = &self.profile {
            data::replace(path, &fs::read(&trace).at(&trace)?)?;
        }
        out["layers"] = profile["layers"].clone();
        let Some(path) = &self.roofline else { return Ok(None) };
        let isa = profile["isa"].as_str().and_then(Isa::from_name).unwrap_or(Isa::Portable);
        let machine = Machine::measure(isa, profile["threads"].as_u64().unwrap_or(1) as usize);
        let layers = roofline::layers(&profile, &machine);
        let title = self.model.model.file_name().map_or(String::new(), |n| n.to_string_lossy().into_owned());
        data::replace(path, svg::roofline(&title, &machine, &layers).as_bytes())?;
        out["roofline"] = roofline::as_json(&machine, &layers);
        Ok(Some((machine, layers)))
    }
}

/// Runs that a trace shows.
const TRACED: usize = 10;

/// Layers that are printed beside a picture.
const LISTED: usize = 15;

/// Puts measurements beside what is known.
pub(super) fn merge(into: &mut Json, from: Json) {
    if let (Some(into), Json::Object(from)) = (into.as_object_mut(), from) {
        into.extend(from);
    }
}

const SCRIPT: &str = r#"
import sys, json, time
import numpy, onnxruntime
model, threads, iterations, *files = sys.argv[1:]
o = onnxruntime.SessionOptions()
o.intra_op_num_threads = int(threads)
start = time.perf_counter()
s = onnxruntime.InferenceSession(model, o, providers=["CPUExecutionProvider"])
new = (time.perf_counter() - start) * 1e3
feed = {i.name: numpy.load(f) for i, f in zip(s.get_inputs(), files)}
times = []
for k in range(int(iterations) + 3):
    start = time.perf_counter()
    s.run(None, feed)
    times.append((time.perf_counter() - start) * 1e3)
times = sorted(times[3:])
print(json.dumps({"name": "onnxruntime", "version": onnxruntime.__version__, "new_ms": new, "min_ms": times[0],
                  "mean_ms": sum(times) / len(times), "p50_ms": times[len(times) // 2]}))
"#;

/// The same model and inputs in ONNX Runtime, by python.
fn onnxruntime(bench: &Bench, ready: &Ready, threads: u64, iterations: u64) -> Result<Json> {
    let scratch = Scratch::new()?;
    let mut command = Command::new("python3");
    command.args(["-c", SCRIPT]).arg(&bench.model.model).args([threads.to_string(), iterations.max(5).to_string()]);
    for (i, v) in ready.values.iter().enumerate() {
        let bytes = v.as_ref().and_then(|v| npy::write(v.as_tensor()?));
        let bytes = bytes.ok_or_else(|| Failure::Fault(format!("--against: input {i} has no npy form")))?;
        let path = scratch.0.join(format!("{i}.npy"));
        data::replace(&path, &bytes)?;
        command.arg(path);
    }
    let output = command.output().map_err(|e| match e.kind() {
        ErrorKind::NotFound => Failure::Tool("error: python3 is missing, which --against ort needs".into()),
        _ => Failure::Tool(format!("error: python3 cannot be started: {e}")),
    })?;
    let text = String::from_utf8_lossy(&output.stderr);
    if text.contains("ModuleNotFoundError") {
        return Err(Failure::Tool("error: python3 has no onnxruntime or numpy, which --against ort needs".into()));
    }
    let last = text.trim().lines().last().unwrap_or_default().to_string();
    serde_json::from_slice(&output.stdout).map_err(|_| Failure::Fault(format!("error: onnxruntime: {last}")))
}
