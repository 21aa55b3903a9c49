//! A model made ready to run: read, closed over its inputs, compiled and built once for each content.

use crate::args::ModelArgs;
use crate::cache;
use crate::cargo;
use crate::data;
use crate::failure::{At, Failure, Result};
use crate::package;
use kiln_compiler::import::Dims;
use kiln_compiler::onnx::{self, Limits, ValueInfo};
use kiln_compiler::pipeline::Ablation;
use kiln_compiler::plan::{Arena, On, Plan};
use kiln_compiler::rewrite::Explored;
use kiln_compiler::target::cuda::toolchain::Machine;
use kiln_compiler::{Accuracy, Cuda, Tune};
use kiln_compiler::{Options, Output, Pairing, compile};
use kiln_kernels::value::Value;
use serde_json::{Value as Json, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Where inputs come from.
#[derive(clap::Args, Clone, Debug, Default)]
pub(crate) struct InputArgs {
    /// A folder with `in_0.npy`, `in_1.npy` .. (or `.pb`) in the graph's order.
    #[arg(long, value_name = "DIR")]
    pub(crate) inputs: Option<PathBuf>,
    /// One input by name, from an `.npy` or `.pb` file.
    #[arg(long = "input", value_name = "NAME=FILE")]
    pub(crate) input: Vec<String>,
}

/// A model with inputs, its open dimensions closed.
#[derive(Debug)]
pub(crate) struct Ready {
    /// The graph's outputs as the file states them.
    pub(crate) outputs: Vec<ValueInfo>,
    /// The inputs' values.
    pub(crate) values: Vec<Option<Value>>,
    /// The choices made.
    pub(crate) dims: Dims,
    /// What of the optimizer is left out.
    pub(crate) without: Ablation,
    /// Which algorithms may compute results.
    pub(crate) accuracy: Accuracy,
    /// Where measured methods come from.
    pub(crate) tune: Tune,
    /// What an instance keeps between runs.
    pub(crate) state: Pairing,
    /// Files beside the model.
    pub(crate) data_files: Vec<PathBuf>,
    /// What is compiled for a GPU, and where its kernels run.
    pub(crate) gpu: Option<(Cuda, Machine)>,
}

/// Reads a model and its inputs; inputs are random where none are given.
pub(crate) fn ready(args: &ModelArgs, inputs: &InputArgs) -> Result<Ready> {
    let mut dims = args.parsed()?;
    let model = onnx::read_file(&args.model, &Limits::default())?;
    let state = args.state()?;
    let ports: Vec<ValueInfo> = data::ports(&model).into_iter().filter(|p| !state.keeps(&p.name)).collect();
    let mut values: Vec<Option<Value>> = vec![None; ports.len()];
    if let Some(dir) = &inputs.inputs {
        let types: Vec<_> = ports.iter().map(|p| p.ty.as_ref()).collect();
        values = data::folder(dir, "in", &types)?;
    }
    for text in &inputs.input {
        let (name, file) = text.rsplit_once('=').ok_or_else(|| Failure::Usage(format!("--input {text}: expected NAME=FILE")))?;
        let names = || ports.iter().map(|p| p.name.as_str()).collect::<Vec<_>>().join(", ");
        let i = ports.iter().position(|p| p.name == name);
        let i = i.ok_or_else(|| Failure::Fault(format!("the model has no input \"{name}\"; it has: {}", names())))?;
        values[i] = Some(data::read(Path::new(file), ports[i].ty.as_ref())?);
    }
    let chosen = if args.open { Vec::new() } else { data::close(&mut dims, &ports, &values) };
    if !chosen.is_empty() {
        eprintln!("chosen: {} (--dim or inputs say otherwise)", chosen.join(", "));
    }
    let given = inputs.inputs.is_some() || !inputs.input.is_empty();
    if !given {
        values = data::random(&ports, &dims)?;
    } else if let Some(i) = values.iter().position(Option::is_none) {
        let text = format!("input {i} \"{}\" has no value: in_{i}.npy, in_{i}.pb or --input gives one", ports[i].name);
        return Err(Failure::Fault(text));
    }
    let (without, accuracy, tune) = (Ablation::Nothing, args.accuracy, args.methods());
    Ok(Ready { outputs: model.graph.outputs, values, dims, without, accuracy, tune, state, data_files: model.data_files, gpu: args.gpu() })
}

/// A program around a compiled model.
#[derive(Debug)]
pub(crate) struct Built {
    /// The program.
    pub(crate) binary: PathBuf,
    /// What the compiler reported, as `compile --json` prints it, with `outputs` and `build_seconds`.
    pub(crate) report: Json,
}

impl Built {
    /// The names of the outputs.
    pub(crate) fn outputs(&self) -> Vec<String> {
        let names = self.report["outputs"].as_array().into_iter().flatten();
        names.map(|n| n.as_str().unwrap_or_default().to_string()).collect()
    }
}

/// What the compiler is asked of a model made ready.
pub(crate) fn options(args: &ModelArgs, ready: &Ready) -> Result<Options> {
    let cuda = ready.gpu.map(|(cuda, _)| cuda);
    Ok(Options { without: ready.without, tune: ready.tune.clone(), cuda, ..args.options(ready.dims.clone())? })
}

/// Compiles and builds, unless the cache has the program.
pub(crate) fn build(args: &ModelArgs, ready: &Ready) -> Result<Built> {
    let key = cache::key(&args.model, ready)?;
    let dir = cache::root()?.join("models").join(&key);
    let _lock = cache::lock(&key)?;
    let (binary, report) = (dir.join("model"), dir.join("report.json"));
    if binary.is_file()
        && let Ok(text) = fs::read_to_string(&report)
        && let Ok(report) = serde_json::from_str(&text)
    {
        return Ok(Built { binary, report });
    }
    let output = compile_guarded(&options(args, ready)?)?;
    let built = build_program(&output, &args.model, &key, &dir, ready.gpu.map_or(Machine::Gpu, |(_, machine)| machine))?;
    data::replace(&report, built.report.to_string().as_bytes())?;
    Ok(built)
}

/// Builds a program around an output, in a folder of its own; kernels for a GPU are compiled for `machine`.
pub(crate) fn build_program(output: &Output, model: &Path, key: &str, dir: &Path, machine: Machine) -> Result<Built> {
    program(output, model, key, dir, machine, true)
}

/// The same without the weights, which are given at run time.
pub(crate) fn build_without_weights(output: &Output, model: &Path, key: &str, dir: &Path, machine: Machine) -> Result<Built> {
    program(output, model, key, dir, machine, false)
}

fn program(output: &Output, model: &Path, key: &str, dir: &Path, machine: Machine, embed: bool) -> Result<Built> {
    let src = dir.join("src");
    fs::create_dir_all(&src).at(&src)?;
    let start = Instant::now();
    let kernels = package::write_kernels(output, model, dir, machine)?;
    let compiled = start.elapsed().as_secs_f64();
    let start = Instant::now();
    let text = package::source(output, "Net", kernels.as_ref().map(|k| k.bytes), embed);
    let emit = start.elapsed().as_secs_f64();
    let mut report = report(output, &text, emit);
    if let Some(kernels) = kernels {
        (report["gpu"]["image_bytes"], report["gpu"]["compile_seconds"]) = (json!(kernels.bytes), json!(compiled));
        report["gpu"]["spilled"] = json!(kernels.spilled);
    }
    say_left(&report);
    package::write_weights(output, &dir.join("weights.bin"))?;
    data::replace(&src.join("model.rs"), text.as_bytes())?;
    let main = "//! A compiled model as a program.\n\n#[allow(unused, missing_docs)]\nmod model;\n\nfn main() -> std::process::ExitCode {\n    kiln::harness::main::<model::Net>()\n}\n";
    data::replace(&src.join("main.rs"), main.as_bytes())?;
    let name = format!("kiln-m-{key}");
    let manifest = format!(
        "[package]\nname = \"{name}\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[workspace]\n\n[dependencies]\n{}\n",
        package::program_dependency(&package::features(output))?
    );
    data::replace(&dir.join("Cargo.toml"), manifest.as_bytes())?;
    let start = Instant::now();
    let done = cargo::build(dir, &["--quiet"])?;
    if !done.status.success() {
        let text = String::from_utf8_lossy(&done.stderr);
        let first: String = text.lines().skip_while(|l| !l.starts_with("error")).take(12).collect::<Vec<_>>().join("\n");
        return Err(Failure::Fault(format!("error: the compiled model does not build; please report this with the model\n{first}")));
    }
    report["build_seconds"] = json!(start.elapsed().as_secs_f64());
    let binary = dir.join("model");
    let target = cache::root()?.join("target").join("release");
    fs::rename(target.join(&name), &binary).at(&binary)?;
    // The program is kept; cargo's other files of this crate are of no further use.
    for (folder, prefix) in [("deps", name.replace('-', "_")), (".fingerprint", name.clone())] {
        for entry in fs::read_dir(target.join(folder)).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                let path = entry.path();
                let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
            }
        }
    }
    for name in ["weights.bin", package::DEVICE_WEIGHTS] {
        let _ = fs::remove_file(dir.join(name));
    }
    report["binary_bytes"] = json!(fs::metadata(&binary).at(&binary)?.len());
    Ok(Built { binary, report })
}

/// Compiles; a panic of the compiler is a fault that says so.
pub(crate) fn compile_guarded(options: &Options) -> Result<Output> {
    let options = options.clone();
    let file = options.model.display().to_string();
    let run = move || compile(&options);
    let thread = std::thread::Builder::new().stack_size(256 << 20).spawn(run);
    let thread = thread.map_err(|e| Failure::Fault(format!("error: no thread can be started: {e}")))?;
    match thread.join() {
        Ok(result) => Ok(result?),
        Err(e) => {
            let text = e.downcast_ref::<String>().map(String::as_str).or(e.downcast_ref::<&str>().copied()).unwrap_or_default();
            Err(Failure::Fault(format!("error: {file}: the compiler has a bug, please report it with the model: {text}")))
        }
    }
}

/// What `compile --json` prints.
pub(crate) fn report(o: &Output, source: &str, emit: f64) -> Json {
    let r = &o.report;
    let s = r.seconds;
    let functions = source.lines().filter(|l| l.trim_start().starts_with("fn k") && l.contains("Frame")).count();
    json!({
        "schema": 1,
        "kernels": r.kernels,
        "kernel_functions": functions,
        "copies": r.copies,
        "arena_bytes": r.arena_bytes,
        "arena_bound_bytes": r.arena_bound_bytes,
        "scratch_bytes_per_thread": r.scratch_bytes_per_thread,
        "intermediates_bytes": r.intermediates_bytes,
        "weights_bytes": r.weights_bytes,
        "state_bytes": r.state_bytes,
        "rules_applied": r.rules_applied,
        "explored": {
            "regions": r.explored.iter().map(|e| e.count).sum::<usize>(),
            "kinds": r.explored.len(),
            "terms": r.explored.iter().map(|e| e.terms).sum::<usize>(),
            "saturated": r.explored.iter().filter(|e| e.saturated).count(),
            "exact": r.explored.iter().filter(|e| e.bound == e.cost.1).count(),
            "cost_over_bound": over_bound(&r.explored),
            "improved": r.explored.iter().filter(|e| e.cost.1 < e.cost.0).count(),
        },
        "seconds": { "read": s.read, "rewrite": s.rewrite, "plan": s.plan, "emit": emit, "total": s.read + s.rewrite + s.plan + emit },
        "peak_rss_bytes": peak_rss(),
        "gpu": o.device.as_ref().map(gpu_report),
        "inputs": o.plan.inputs().map(|(_, p)| p.name.clone()).collect::<Vec<_>>(),
        "outputs": o.plan.outputs().map(|(_, p)| p.name.clone()).collect::<Vec<_>>(),
    })
}

/// What became of a model for a GPU: kernels launched, and what is left to the CPU, with the reasons.
fn gpu_report(plan: &Plan) -> Json {
    let steps = plan.kernels();
    let left = steps.iter().filter_map(|k| match k.on {
        On::Cpu(why) => Some(json!({ "kernel": k.kernel.name(), "node": plan.lines.get(k.line), "why": why })),
        On::Gpu => None,
    });
    let forms = kiln_compiler::emit::forms(plan).into_iter().map(|d| {
        let forms: Vec<String> = d.forms.iter().map(ToString::to_string).collect();
        json!({ "step": d.step, "what": d.spec, "forms": forms, "measured": d.measured })
    });
    json!({
        "forms": forms.collect::<Vec<_>>(),
        "precision": plan.device.as_ref().map(|d| d.precision.name()),
        "kernels": steps.iter().filter(|k| k.on == On::Gpu).count(),
        "on_cpu": left.collect::<Vec<_>>(),
        "weights_bytes": plan.weights.bytes,
        "arena_bytes": if let Arena::Fixed { bytes, .. } = plan.arena { Some(bytes) } else { None },
    })
}

/// Says which steps of a model for a GPU are left to the CPU, with copies around them, and why.
pub(crate) fn say_left(report: &Json) {
    for left in report["gpu"]["on_cpu"].as_array().into_iter().flatten() {
        let text = |key: &str| left[key].as_str().unwrap_or_default().to_string();
        eprintln!("on the CPU: {} ({}): {}", text("kernel"), text("node"), text("why"));
    }
}

/// What extraction chose, over the least that any choice could cost; 1 where nothing was explored.
fn over_bound(explored: &[Explored]) -> f64 {
    let sum = |of: fn(&Explored) -> u64| explored.iter().map(|e| of(e) as f64 * e.count as f64).sum::<f64>();
    let bound = sum(|e| e.bound);
    if bound > 0.0 { sum(|e| e.cost.1) / bound } else { 1.0 }
}

fn peak_rss() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = status.lines().find_map(|l| l.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
