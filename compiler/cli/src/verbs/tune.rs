//! `kiln tune`: measures every method that a model's kernels could have, where they stand in the model, and writes down the fastest.

use super::forms;
use crate::args::{ModelArgs, RunArgs};
use crate::data;
use crate::failure::{Failure, Result};
use crate::job;
use crate::model::{self, Built, InputArgs, compile_guarded};
use kiln_compiler::Tune;
use kiln_compiler::kernel::Method;
use kiln_compiler::target::{Choice, METHODS, Tuning, method_name};
use kiln_kernels::isa::Isa;
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Measure the methods that a model's kernels could have, or with `--target cuda` the forms of those of a GPU, and write down the fastest.
#[derive(clap::Args, Debug)]
pub(crate) struct TuneArgs {
    #[command(flatten)]
    pub(super) model: ModelArgs,
    #[command(flatten)]
    pub(super) inputs: InputArgs,
    #[command(flatten)]
    pub(super) how: RunArgs,
    /// The file of methods; by default the one that compilation finds beside the model. Lines about other kernels, and other machines, stay.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Runs of each method in each of three rounds.
    #[arg(long, default_value_t = 10)]
    pub(super) iterations: usize,
    /// Forms of each kernel of a GPU that are compiled and measured, those first that should be fastest.
    #[arg(long, default_value_t = 8)]
    pub(super) variants: usize,
    /// Print what was measured as JSON.
    #[arg(long)]
    json: bool,
}

/// Rounds in which all methods are measured in turn, so that a slow minute shows in all of them.
pub(super) const ROUNDS: usize = 3;

/// What a method must take at most of the direct one's time: below that, fewer bytes of weights are worth more.
pub(super) const PAYS: f64 = 0.97;

/// Microseconds of a kernel, by its nodes and then by the method's place among all.
type Times = BTreeMap<Vec<usize>, BTreeMap<usize, f64>>;

/// The least time of each method, in microseconds, and how often a run has such a kernel.
#[derive(Clone, Debug, Default)]
struct Measured {
    times: BTreeMap<usize, f64>,
    count: usize,
}

impl TuneArgs {
    /// Does it.
    pub(crate) fn run(self) -> Result<()> {
        let path = self.output.clone().or_else(|| self.model.tune.clone());
        let path = path.unwrap_or_else(|| self.model.model.with_extension("tune"));
        let old = Tune { file: path.is_file().then(|| path.clone()), ..Tune::default() };
        let mut tuning = if old.file.is_some() { old.read(&self.model.model)? } else { Tuning::default() };
        if self.model.gpu().is_some() {
            let found = forms::tune(&self, &mut tuning)?;
            data::replace(&path, tuning.to_string().as_bytes())?;
            let (gpu, lines) = (found.gpu.to_string(), found.lines);
            return self.tell(&path, "gpu", "form", &gpu, &lines, found.unmeasured);
        }
        let how = self.how.job()?;
        // Kernels as the user's own compilation names them, whose dimensions may be open.
        let always = |method| Tune { always: Some(method), ..Tune::default() };
        let mut options = self.model.options(self.model.parsed()?)?;
        options.tune = always(Method::Direct);
        let choices = compile_guarded(&options)?.plan.choices;
        let (found, isa) = self.measure(&how, always)?;
        let mut specs: BTreeMap<&str, Measured> = BTreeMap::new();
        let mut unmeasured = 0;
        for c in &choices {
            let Some(times) = found.get(&c.origins) else {
                unmeasured += 1;
                continue;
            };
            let spec = specs.entry(&c.spec).or_default();
            spec.count += 1;
            times.iter().for_each(|(i, us)| *spec.times.entry(*i).or_default() += us);
        }
        let mut changed = Vec::new();
        for (spec, m) in &specs {
            let method = fastest(&m.times);
            let each = m.times.iter().map(|(i, us)| format!("{} {:.1}", METHODS[*i].0, us / m.count as f64));
            let note = format!("µs: {}", each.collect::<Vec<_>>().join(", "));
            tuning.insert(spec, isa, method, &note);
            changed.push(json!({ "spec": spec, "method": method_name(method), "kernels": m.count, "note": note }));
        }
        data::replace(&path, tuning.to_string().as_bytes())?;
        self.tell(&path, "isa", "method", isa.name(), &changed, unmeasured)
    }

    /// Says what was measured, on what kind of machine.
    fn tell(&self, path: &Path, kind: &str, chosen: &str, machine: &str, lines: &[Json], unmeasured: usize) -> Result<()> {
        if self.json {
            println!("{}", json!({ "schema": 1, "file": path.display().to_string(), kind: machine, "tuned": lines }));
        } else {
            for l in lines {
                let text = |key: &str| l[key].as_str().unwrap_or_default().to_string();
                println!("{:>3} × {:<60} {:<10} {}", l["kernels"], text("spec"), text(chosen), text("note"));
            }
            println!("{}: {} kinds of kernels for {machine}", path.display(), lines.len());
        }
        if unmeasured > 0 {
            eprintln!("{unmeasured} kernels are not in the model as its inputs close it: they were not measured");
        }
        Ok(())
    }

    /// Times of each kernel with a choice, by its nodes and the method's place among all; and the instruction set they are of.
    fn measure(&self, how: &[String], always: impl Fn(Method) -> Tune) -> Result<(Times, Isa)> {
        let mut ready = model::ready(&self.model, &self.inputs)?;
        // The methods are those of the CPU.
        ready.gpu = None;
        let mut programs: Vec<(Built, Vec<(usize, Choice)>)> = Vec::new();
        for (_, method) in METHODS {
            ready.tune = always(method);
            let plan = compile_guarded(&model::options(&self.model, &ready)?)?.plan;
            let step = |c: &Choice| plan.kernels().iter().position(|k| k.origins == c.origins);
            let choices: Vec<(usize, Choice)> = plan.choices.iter().filter_map(|c| Some((step(c)?, c.clone()))).collect();
            if choices.is_empty() {
                return Ok((BTreeMap::new(), Isa::detect()));
            }
            programs.push((model::build(&self.model, &ready)?, choices));
        }
        let extra = [how, &["warmup=2".to_string(), format!("iterations={}", self.iterations.max(1))]].concat();
        let mut found = Times::new();
        let mut isa = None;
        for _ in 0..ROUNDS {
            for (i, (built, choices)) in programs.iter().enumerate() {
                let profile = job::profile(&built.binary, &ready.values, &extra)?;
                isa = profile["isa"].as_str().and_then(Isa::from_name);
                let layers = profile["layers"].as_array().map_or(&[][..], Vec::as_slice);
                for (step, choice) in choices {
                    let layer = layers.iter().find(|l| l["step"].as_u64() == Some(*step as u64));
                    let Some(us) = layer.and_then(|l| l["min_us"].as_f64()) else { continue };
                    let least = found.entry(choice.origins.clone()).or_default().entry(i).or_insert(us);
                    *least = least.min(us);
                }
            }
        }
        Ok((found, isa.ok_or_else(|| Failure::Fault("error: the program does not say which instruction set it used".into()))?))
    }
}

/// The method that takes least, by places among all methods; the direct one where others gain next to nothing.
fn fastest(times: &BTreeMap<usize, f64>) -> Method {
    let direct = times.get(&0).copied().unwrap_or(f64::INFINITY);
    let best = times.iter().min_by(|a, b| a.1.total_cmp(b.1)).filter(|(_, us)| **us < PAYS * direct);
    best.map_or(Method::Direct, |(i, _)| METHODS[*i].1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_must_pay() {
        let of = |times: [f64; 3]| fastest(&times.into_iter().enumerate().collect());
        assert_eq!(of([10.0, 9.9, 12.0]), Method::Direct);
        assert_eq!(of([10.0, 9.0, 12.0]), Method::Winograd(2));
        assert_eq!(of([10.0, 9.0, 5.0]), Method::Winograd(4));
        assert_eq!(fastest(&BTreeMap::new()), Method::Direct);
    }
}
