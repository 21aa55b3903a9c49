//! `kiln test`: folders of ONNX's backend tests on compiled code.

use crate::alone;
use crate::args::{GpuArgs, RunArgs};
use crate::batch::{self, Outcome};
use crate::cache::Scratch;
use crate::chance::{self, Law};
use crate::data::ulps;
use crate::failure::{Failure, Result};
use crate::suite::{Case, cases, compare_all, floats};
use kiln_kernels::value::Value;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Run ONNX backend-test folders on compiled code.
#[derive(clap::Args, Debug)]
pub(crate) struct Test {
    /// Cases (`model.onnx`, `test_data_set_0/` ..), or folders of cases.
    #[arg(required = true)]
    folders: Vec<PathBuf>,
    #[command(flatten)]
    how: RunArgs,
    #[command(flatten)]
    gpu: GpuArgs,
    /// Only cases whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// Print the largest error of each case in units in the last place.
    #[arg(long)]
    ulp: bool,
    /// Print the results as JSON.
    #[arg(long)]
    json: bool,
}

impl Test {
    /// Does it.
    pub(crate) fn run(self) -> Result<()> {
        let how = self.how.job()?;
        let mut all: Vec<Case> = Vec::new();
        for f in &self.folders {
            let found = cases(f);
            if found.is_empty() {
                return Err(Failure::at(f, "no case is here: a case is a folder with model.onnx and test_data_set_0"));
            }
            all.extend(found);
        }
        all.retain(|c| c.name.contains(&self.only));
        let total = all.len();
        let has_data = |c: &Case| c.path.join("test_data_set_0").is_dir();
        let skipped: Vec<String> = all.iter().filter(|c| !has_data(c)).map(|c| c.name.clone()).collect();
        all.retain(has_data);
        let mut names: Vec<String> = all.iter().map(|c| c.name.clone()).collect();
        let mut count: BTreeMap<&str, usize> = BTreeMap::new();
        all.iter().for_each(|c| *count.entry(&c.name).or_default() += 1);
        for (name, c) in names.iter_mut().zip(&all).filter(|(_, c)| count[c.name.as_str()] > 1) {
            *name = format!("{}/{}", c.group, c.name);
        }
        let scratch = Scratch::new()?;
        let mut jobs: Vec<Case> = Vec::new();
        let plans =
            all.iter().enumerate().map(|(i, c)| plan(c, &scratch.0.join(i.to_string()), &mut jobs)).collect::<Result<Vec<Plan>>>()?;
        let mut tally = Tally { json: self.json, ulp: self.ulp, ..Tally::default() };
        let mut next = 0;
        let mut waiting: Vec<Outcome> = Vec::new();
        let mut done = |_, outcome| {
            waiting.push(outcome);
            if waiting.len() == plans[next].jobs() {
                let found = std::mem::take(&mut waiting);
                tally.add(&names[next], verdict(&plans[next], &all[next], found));
                next += 1;
            }
        };
        if self.gpu.emulate {
            alone::run(&jobs, &self.gpu, &[how, vec!["device=cuda".into()]].concat(), &mut done)?;
        } else {
            batch::run(&jobs, &how, &mut done)?;
        }
        tally.finish(total, &skipped)
    }
}

/// How a case is run.
enum Plan {
    /// As it is.
    Plain,
    /// In three variants, whose results fit a law.
    Drawn(Law, Vec<Value>),
    /// As it is, and fails for this reason.
    Unknown(String),
}

impl Plan {
    /// How many jobs it has.
    fn jobs(&self) -> usize {
        if let Plan::Drawn(..) = self { 3 } else { 1 }
    }
}

/// Adds the jobs of a case; `folder` is for models made from its own.
fn plan(case: &Case, folder: &Path, jobs: &mut Vec<Case>) -> Result<Plan> {
    // What cannot be read fails when it is run.
    let read = case.model().and_then(|m| case.data(&m).map(|sets| (m, sets))).ok();
    let drawn = read.and_then(|(m, sets)| Some((chance::law(&m, sets.first()?)?, sets.into_iter().next()?)));
    Ok(match drawn {
        Some((Ok(law), set)) => {
            jobs.extend(chance::variants(case, &set, folder)?);
            Plan::Drawn(law, set.outputs)
        }
        Some((Err(why), _)) => {
            jobs.push(case.clone());
            Plan::Unknown(why)
        }
        None => {
            jobs.push(case.clone());
            Plan::Plain
        }
    })
}

/// How a case passed.
enum Pass {
    /// With this error at most, in units in the last place; none where its results have no floats.
    Equal(Option<u64>),
    /// What was drawn fits the law.
    Distributed,
}

fn verdict(plan: &Plan, case: &Case, found: Vec<Outcome>) -> std::result::Result<Pass, String> {
    let found: Vec<Vec<Vec<Value>>> = found.into_iter().collect::<std::result::Result<_, String>>()?;
    match (plan, &found[..]) {
        (Plan::Drawn(law, expected), [free, one, two]) => chance::judge(law, expected, [free, one, two]).map(|()| Pass::Distributed),
        (Plan::Unknown(why), _) => Err(why.clone()),
        (_, found) => check(case, found.first().map_or(&[], |f| f)).map(Pass::Equal),
    }
}

/// The results so far.
#[derive(Default)]
struct Tally {
    json: bool,
    ulp: bool,
    cases: BTreeMap<String, String>,
    errors: BTreeMap<String, Option<u64>>,
    distributed: Vec<String>,
    failed: usize,
}

impl Tally {
    fn add(&mut self, name: &str, verdict: std::result::Result<Pass, String>) {
        let text = match &verdict {
            Ok(_) => "ok".to_string(),
            Err(why) => why.replace('\n', " "),
        };
        let line = match verdict {
            Ok(Pass::Equal(worst)) => {
                self.errors.insert(name.into(), worst);
                let ulp = worst.map_or(" (exact)".to_string(), |u| format!(" ({u} ulp)"));
                format!("ok{}", if self.ulp { ulp } else { String::new() })
            }
            Ok(Pass::Distributed) => {
                self.distributed.push(name.into());
                "ok (by distribution)".into()
            }
            Err(_) => {
                self.failed += 1;
                format!("FAILED: {text}")
            }
        };
        if !self.json {
            println!("{name}: {line}");
        }
        self.cases.insert(name.into(), text);
    }
    fn finish(self, total: usize, skipped: &[String]) -> Result<()> {
        let passed = total - skipped.len() - self.failed;
        if self.json {
            let mut out = json!({
                "schema": 1, "passed": passed, "failed": self.failed, "skipped": skipped.len(), "by_distribution": self.distributed,
                "cases": self.cases
            });
            if self.ulp {
                let exact = |e: &Option<u64>| e.map_or(json!("exact"), |u| json!(u));
                out["ulp"] = self.errors.iter().map(|(n, e)| (n.clone(), exact(e))).collect();
            }
            println!("{out}");
        } else {
            skipped.iter().for_each(|n| println!("{n}: skipped: it has no test_data_set_0"));
            if self.ulp {
                print!("{}", table(&self.errors));
            }
            let chance = match self.distributed.len() {
                0 => String::new(),
                n => format!(" ({n} of them by distribution)"),
            };
            println!("{passed} passed{chance}, {} failed, {} skipped", self.failed, skipped.len());
        }
        if self.failed > 0 { Err(Failure::Fault(String::new())) } else { Ok(()) }
    }
}

/// How many cases have which largest error.
fn table(errors: &BTreeMap<String, Option<u64>>) -> String {
    let class = |e: &Option<u64>| match e {
        None => 0,
        Some(0) => 1,
        Some(1) => 2,
        Some(2..=4) => 3,
        Some(5..=16) => 4,
        Some(17..=256) => 5,
        Some(257..) => 6,
    };
    let names = ["no floats: exact", "0", "1", "2 to 4", "5 to 16", "17 to 256", "more"];
    let mut counts = [0usize; 7];
    errors.values().for_each(|e| counts[class(e)] += 1);
    let rows = names.iter().zip(counts).map(|(name, n)| format!("{name:>18}  {n:>5}\n"));
    format!("       largest ulp  cases\n{}", rows.collect::<String>())
}

/// Whether the outputs are those expected; the largest error.
fn check(case: &Case, found: &[Vec<Value>]) -> std::result::Result<Option<u64>, String> {
    let sets = case.data(&case.model()?)?;
    if sets.len() != found.len() {
        return Err(format!("{} of {} data sets were run", found.len(), sets.len()));
    }
    let mut worst = None;
    for (set, found) in sets.iter().zip(found) {
        compare_all(found, &set.outputs, case.tolerance)?;
        found.iter().zip(&set.outputs).for_each(|(f, e)| worst = worst.max(error(f, e)));
    }
    Ok(worst)
}

/// The largest error of a value's floats in units in the last place; none where it has no floats.
fn error(found: &Value, expected: &Value) -> Option<u64> {
    match (found, expected) {
        (Value::Tensor(f), Value::Tensor(e)) if f.dtype.is_float() => {
            let (x, y) = (floats(f)?, floats(e)?);
            x.iter().zip(&y).map(|(a, b)| ulps(f.dtype, *a, *b)).max().or(Some(0))
        }
        (Value::Sequence(f), Value::Sequence(e)) => f.iter().zip(e).filter_map(|(f, e)| error(f, e)).max(),
        (Value::Optional(Some(f)), Value::Optional(Some(e))) => error(f, e),
        (Value::IntMap(f), Value::IntMap(e)) => f.iter().filter_map(|(k, f)| error(f, e.get(k)?)).max(),
        (Value::StrMap(f), Value::StrMap(e)) => f.iter().filter_map(|(k, f)| error(f, e.get(k)?)).max(),
        _ => None,
    }
}
