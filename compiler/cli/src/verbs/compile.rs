//! `kiln compile`: a crate that builds offline with rustc alone.

use crate::args::ModelArgs;
use crate::failure::{At, Failure, Result};
use crate::model::{compile_guarded, report, say_left};
use crate::package::{self, ALLOW, Draft, Features, toml};
use kiln_compiler::diagnostics::shown;
use kiln_compiler::ir::{Port, ValueId};
use kiln_compiler::plan::Plan;
use kiln_compiler::target::cuda::toolchain::Machine;
use serde_json::Value as Json;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Write a crate that builds offline with rustc alone.
#[derive(clap::Args, Debug)]
pub(crate) struct Compile {
    #[command(flatten)]
    model: ModelArgs,
    /// The folder of the crate; by default the model's name with `-kiln`. A crate of an earlier run is replaced.
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

impl Compile {
    /// Does it.
    pub(crate) fn run(self) -> Result<()> {
        let path = &self.model.model;
        let to = self.output.clone().unwrap_or_else(|| PathBuf::from(package::crate_name(path)));
        let to = std::path::absolute(&to).at(&to)?;
        if to.exists() && !replaceable(&to) {
            return Err(Failure::at(&to, "this is there already and no crate that kiln wrote; name another folder"));
        }
        let output = compile_guarded(&self.model.options(self.model.parsed()?)?)?;
        let draft = Draft::new(&to)?;
        let dir = draft.path();
        let machine = self.model.gpu().map_or(Machine::Gpu, |(_, machine)| machine);
        let kernels = package::write_kernels(&output, path, dir, machine)?;
        let start = Instant::now();
        let name = kiln_compiler::names_of(path).model;
        let source = package::source(&output, &name, kernels.map(|k| k.bytes), true);
        let report = report(&output, &source, start.elapsed().as_secs_f64());
        for sub in ["src", "vendor"] {
            fs::create_dir_all(dir.join(sub)).at(dir)?;
        }
        let put = |name: &str, text: &str| fs::write(dir.join(name), text).at(&dir.join(name));
        let head = format!("//! A model compiled by kiln {}: see README.md.\n{ALLOW}pub use kiln;\n\n", package::VERSION);
        put("src/lib.rs", &format!("{head}{source}"))?;
        let features = package::features(&output);
        put("Cargo.toml", &manifest(path, &features))?;
        put("README.md", &readme(&output.plan, path, &name, &report, &features))?;
        package::write_weights(&output, &dir.join("weights.bin"))?;
        package::write_runtime(&dir.join("vendor"), &features)?;
        draft.finish(true)?;
        say_left(&report);
        if self.json {
            println!("{report}");
        } else {
            let bytes = |key: &str| report[key].as_u64().map_or("sized at run time".to_string(), |n| format!("{n} bytes"));
            eprintln!(
                "{}: {} kernels; weights: {}; arena: {}; scratch of each thread: {}",
                to.display(),
                report["kernels"],
                bytes("weights_bytes"),
                bytes("arena_bytes"),
                bytes("scratch_bytes_per_thread")
            );
        }
        Ok(())
    }
}

fn replaceable(dir: &Path) -> bool {
    let empty = fs::read_dir(dir).is_ok_and(|mut d| d.next().is_none());
    empty || fs::read_to_string(dir.join("Cargo.toml")).is_ok_and(|t| t.starts_with(MARK))
}

const MARK: &str = "# Made by kiln";

fn manifest(path: &Path, features: &Features) -> String {
    format!(
        "{MARK}; a new run of `kiln compile` replaces the whole folder.\n[package]\nname = {}\nversion = \"0.1.0\"\nedition = \"2024\"\n\n\
         [workspace]\nexclude = [\"vendor\"]\n\n[dependencies]\n{}\n\n[profile.dev]\nopt-level = 3\n",
        toml(package::crate_name(path)),
        package::dependency(Path::new("vendor"), features)
    )
}

/// The page that goes with the crate.
fn readme(plan: &Plan, path: &Path, name: &str, report: &Json, features: &Features) -> String {
    let krate = package::crate_name(path);
    let file = path.file_name().map_or_else(String::new, |n| shown(&n.to_string_lossy()));
    let builds = if features.is_empty() { "It builds offline" } else { "It builds with crates of the registry" };
    let mut out = format!("# {krate}\n\n`{file}` compiled by kiln {}. {builds}: `cargo build --release`.\n\n", package::VERSION);
    let _ = write!(
        out,
        "```rust\nuse {}::{{{name}, kiln::{{Model, Options, Tensor, Value}}}};\n\nlet mut net = {name}::with(&Options::default())?;\nlet outputs = net.run_dyn(&[(\"{}\", &value)])?;\n```\n\n",
        krate.replace('-', "_"),
        plan.inputs().next().map_or(String::new(), |(_, p)| shown(&p.name))
    );
    let ports: [(&str, Vec<(ValueId, &Port)>); 2] = [("Input", plan.inputs().collect()), ("Output", plan.outputs().collect())];
    for (what, ports) in ports {
        let _ = writeln!(out, "| {what} | Type |\n|---|---|");
        for (v, p) in ports {
            let _ = writeln!(out, "| `{}` | `{}` |", shown(&p.name).replace('|', "\\|"), plan.graph.ty(v).to_string().replace('|', "\\|"));
        }
        out.push('\n');
    }
    if !plan.states.pairs.is_empty() {
        let _ = writeln!(out, "| Kept from run to run | continued by | rows at most |\n|---|---|---|");
        for s in &plan.states.pairs {
            let rows = if s.grows.is_some() { plan.states.capacity.to_string() } else { "replaced".into() };
            let name = |n: &str| shown(n).replace('|', "\\|");
            let _ = writeln!(out, "| `{}` | `{}` | {rows} |", name(&s.input), name(&s.output));
        }
        out.push_str("\n`net.instance().state()` and `state_mut()` show, cut, clear, save and load it.\n\n");
    }
    let _ = writeln!(out, "| Report | |\n|---|---|");
    let keys = [
        "kernels",
        "kernel_functions",
        "copies",
        "arena_bytes",
        "arena_bound_bytes",
        "scratch_bytes_per_thread",
        "intermediates_bytes",
        "weights_bytes",
        "state_bytes",
    ];
    for key in keys {
        let _ = writeln!(out, "| {} | {} |", key.replace('_', " "), report[key]);
    }
    out
}
