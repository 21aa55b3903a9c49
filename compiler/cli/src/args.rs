//! The command line: verbs, flags, and what flags several verbs share mean.

use crate::failure::{Failure, Result};
use crate::verbs;
use clap::{Args, Parser, Subcommand};
use kiln_compiler::import::{Dims, Extent};
use kiln_compiler::target::cuda::toolchain::Machine;
use kiln_compiler::{Accuracy, Cuda, Options, Pairing, Precision, Tune};
use std::path::PathBuf;
use std::process::ExitCode;

/// Compiles ONNX models to Rust.
#[derive(Debug, Parser)]
#[command(name = "kiln", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Write a crate that builds offline with rustc alone.
    Compile(verbs::compile::Compile),
    /// Compile a model (once), run it on inputs, and write its outputs.
    Run(verbs::run::Run),
    /// Measure a compiled model.
    Bench(verbs::bench::Bench),
    /// Run ONNX backend-test folders on compiled code.
    Test(verbs::test::Test),
    /// Compare a compiled model with results expected of it.
    Compare(verbs::compare::Compare),
    /// Show what a model takes, gives and needs.
    Inspect(verbs::inspect::Inspect),
    /// Print the graph after a pass.
    Dump(verbs::dump::Dump),
    Explain(verbs::explain::Explain),
    Pack(verbs::pack::Pack),
    Reduce(verbs::reduce::Reduce),
    Report(verbs::report::Report),
    Tune(verbs::tune::TuneArgs),
    /// Compile cases to modules, for `test`.
    #[command(hide = true)]
    Modules(verbs::modules::Modules),
}

/// The model and the choices that its code is made for.
#[derive(Args, Clone, Debug)]
pub(crate) struct ModelArgs {
    /// The ONNX file.
    pub(crate) model: PathBuf,
    /// Close a dimension (`N=2`) or bound it (`seq=1..512`); one without a name is `input.axis`.
    #[arg(long = "dim", value_name = "NAME=SIZE")]
    dims: Vec<String>,
    /// Set the shape of an input, also where the model closes it; `?` keeps an axis.
    #[arg(long = "shape", value_name = "INPUT=1x3x224x224")]
    shapes: Vec<String>,
    /// Leave open what neither `--dim` nor `--shape` closes, so that one program takes inputs of any size; else inputs close it.
    #[arg(long)]
    pub(crate) open: bool,
    /// The machine to compile for: the CPU alone, or a GPU beside it.
    #[arg(long, default_value = "cpu", value_name = "cpu|cuda", value_parser = ["cpu", "cuda"])]
    target: String,
    #[command(flatten)]
    gpu: GpuArgs,
    /// Which algorithms may compute results: direct ones alone (`exact`), also those whose error stays near theirs, or with weights of few rows rounded to bf16 (`fast`).
    #[arg(long, default_value = "standard", value_name = "exact|standard|fast", value_parser = accuracy)]
    pub(crate) accuracy: Accuracy,
    /// Methods of kernels that `kiln tune` measured; by default the file beside the model, if there is one.
    #[arg(long, value_name = "FILE")]
    pub(crate) tune: Option<PathBuf>,
    /// Refuse a kernel whose method that file does not list.
    #[arg(long)]
    pub(crate) locked: bool,
    /// Keep inputs in the instance that outputs continue, such as a decoder's cache; a `*` in both patterns stands for the same text.
    #[arg(long = "state", value_name = "past_*->present_*")]
    states: Vec<String>,
    /// How many rows a state may have that grows with every run.
    #[arg(long, value_name = "ROWS", requires = "states")]
    capacity: Option<usize>,
}

/// Choices about a GPU.
#[derive(Args, Clone, Copy, Debug, Default)]
pub(crate) struct GpuArgs {
    /// What a GPU computes products in; by default f32, or with `--accuracy fast` f16.
    #[arg(long, value_name = "f32|tf32|f16|bf16", value_parser = precision)]
    precision: Option<Precision>,
    /// Refuse what the GPU has no kernel for, rather than have the CPU compute it.
    #[arg(long)]
    strict: bool,
    /// Run the GPU's kernels on this machine's CPU, by the emulator: slow, and without a GPU.
    #[arg(long)]
    pub(crate) emulate: bool,
    /// Have the emulator check every access to memory.
    #[arg(long, requires = "emulate")]
    check: bool,
}

impl GpuArgs {
    /// What is compiled for a GPU.
    pub(crate) fn cuda(&self, accuracy: Accuracy) -> Cuda {
        Cuda { precision: self.precision.unwrap_or(Precision::of(accuracy)), strict: self.strict }
    }
    /// Where kernels run.
    pub(crate) fn machine(&self) -> Machine {
        if self.emulate { Machine::Emulator { checked: self.check } } else { Machine::Gpu }
    }
}

/// Choices about how a model runs.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct RunArgs {
    /// Threads to run on; by default one for each physical core.
    #[arg(long)]
    pub(crate) threads: Option<usize>,
    /// The best instruction set to use: portable, avx2, avx512 or amx.
    #[arg(long)]
    pub(crate) isa: Option<String>,
    /// Have a GPU begin a kernel while the one before it ends, from sm_90 on.
    #[arg(long)]
    overlap: bool,
}

impl RunArgs {
    /// The arguments of a job.
    pub(crate) fn job(&self) -> Result<Vec<String>> {
        let mut out = Vec::new();
        if let Some(n) = self.threads {
            if n == 0 || n > 4096 {
                return Err(Failure::Usage(format!("--threads {n}: expected 1 to 4096")));
            }
            out.push(format!("threads={n}"));
        }
        if let Some(name) = &self.isa {
            if kiln_kernels::isa::Isa::from_name(name).is_none() {
                return Err(Failure::Usage(format!("--isa {name}: expected portable, avx2, avx512 or amx")));
            }
            out.push(format!("isa={name}"));
        }
        if self.overlap {
            out.push("overlap=1".into());
        }
        Ok(out)
    }
}

impl ModelArgs {
    /// What the flags say of dimensions.
    pub(crate) fn parsed(&self) -> Result<Dims> {
        let mut out = Dims::default();
        for text in &self.dims {
            let wrong = || Failure::Usage(format!("--dim {text}: expected NAME=SIZE or NAME=LEAST..MOST"));
            let (name, size) = text.rsplit_once('=').ok_or_else(wrong)?;
            // `a..=b` splits at its own sign.
            let (name, size) = if name.ends_with("..") { text.split_once('=').ok_or_else(wrong)? } else { (name, size) };
            let extent = extent(size).filter(|_| !name.is_empty()).ok_or_else(wrong)?;
            if out.by_name.insert(name.into(), extent).is_some() {
                return Err(Failure::Usage(format!("--dim {name} is given twice")));
            }
        }
        for text in &self.shapes {
            let wrong = || Failure::Usage(format!("--shape {text}: expected INPUT=1x3x224x224"));
            let (name, sizes) = text.rsplit_once('=').ok_or_else(wrong)?;
            let axes = sizes.split(['x', ',']).filter(|s| !s.is_empty());
            let axes = axes.map(|s| if s == "?" { Some(None) } else { extent(s).map(Some) }).collect::<Option<Vec<_>>>();
            if out.by_input.insert(name.into(), axes.ok_or_else(wrong)?).is_some() {
                return Err(Failure::Usage(format!("--shape {name} is given twice")));
            }
        }
        Ok(out)
    }
    /// What is compiled for a GPU, and where its kernels run; none where the CPU alone is compiled for.
    pub(crate) fn gpu(&self) -> Option<(Cuda, Machine)> {
        (self.target == "cuda" || self.gpu.emulate).then(|| (self.gpu.cuda(self.accuracy), self.gpu.machine()))
    }
    /// The arguments of a job that runs the model so.
    pub(crate) fn job(&self, how: &RunArgs) -> Result<Vec<String>> {
        let mut out = how.job()?;
        out.extend(self.gpu().map(|_| "device=cuda".to_string()));
        Ok(out)
    }
    /// Where measured methods come from.
    pub(crate) fn methods(&self) -> Tune {
        Tune { file: self.tune.clone(), locked: self.locked, ..Tune::default() }
    }
    /// What the flags say of state.
    pub(crate) fn state(&self) -> Result<Pairing> {
        let mut patterns = Vec::new();
        for text in &self.states {
            let pair =
                text.split_once("->").map(|(from, to)| (from.trim(), to.trim())).filter(|(from, to)| !from.is_empty() && !to.is_empty());
            let (from, to) = pair.ok_or_else(|| Failure::Usage(format!("--state {text}: expected 'past_*->present_*'")))?;
            patterns.push((from.to_string(), to.to_string()));
        }
        Ok(Pairing { patterns, capacity: self.capacity })
    }
    /// What the compiler is asked.
    pub(crate) fn options(&self, dims: Dims) -> Result<Options> {
        Ok(Options {
            model: self.model.clone(),
            dims,
            accuracy: self.accuracy,
            state: self.state()?,
            tune: self.methods(),
            cuda: self.gpu().map(|(cuda, _)| cuda),
            ..Options::default()
        })
    }
}

fn precision(name: &str) -> std::result::Result<Precision, String> {
    Precision::from_name(name).ok_or_else(|| format!("expected one of {}", Precision::NAMES.join(", ")))
}

fn accuracy(name: &str) -> std::result::Result<Accuracy, String> {
    Accuracy::from_name(name).ok_or_else(|| format!("expected one of {}", Accuracy::NAMES.join(", ")))
}

fn extent(text: &str) -> Option<Extent> {
    let size = |t: &str| t.trim().parse::<i64>().ok().filter(|n| (0..=1 << 40).contains(n));
    match text.split_once("..") {
        Some((lo, hi)) => {
            let (lo, hi) = (size(lo)?, size(hi.trim_start_matches('='))?);
            (lo <= hi).then_some(Extent::Bounded(lo, hi))
        }
        None => size(text).map(Extent::Closed),
    }
}

/// The command.
pub fn main() -> ExitCode {
    let result = match Cli::parse().verb {
        Verb::Compile(v) => v.run(),
        Verb::Run(v) => v.run(),
        Verb::Bench(v) => v.run(),
        Verb::Test(v) => v.run(),
        Verb::Compare(v) => v.run(),
        Verb::Inspect(v) => v.run(),
        Verb::Dump(v) => v.run(),
        Verb::Explain(v) => v.run(),
        Verb::Pack(v) => v.run(),
        Verb::Reduce(v) => v.run(),
        Verb::Report(v) => v.run(),
        Verb::Tune(v) => v.run(),
        Verb::Modules(v) => v.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
