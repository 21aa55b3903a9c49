//! `kiln test`: folders of ONNX's backend tests on compiled code.

use crate::args::RunArgs;
use crate::batch;
use crate::data::ulps;
use crate::failure::{Failure, Result};
use crate::suite::{Case, cases, compare_all, floats};
use kiln_kernels::dtype::DType;
use kiln_kernels::value::Value;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Run ONNX backend-test folders on compiled code.
#[derive(clap::Args, Debug)]
pub(crate) struct Test {
    /// Cases (`model.onnx`, `test_data_set_0/` ..), or folders of cases.
    #[arg(required = true)]
    folders: Vec<PathBuf>,
    #[command(flatten)]
    how: RunArgs,
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
        let mut results: BTreeMap<String, String> = BTreeMap::new();
        let mut failed = 0;
        batch::run(&all, &how, &mut |i, outcome| {
            let checked = outcome.and_then(|found| check(&all[i], &found));
            let (text, worst) = match checked {
                Ok(worst) => ("ok".to_string(), worst),
                Err(why) => {
                    failed += 1;
                    (why.replace('\n', " "), None)
                }
            };
            if !self.json {
                let ulp = worst.filter(|_| self.ulp).map_or(String::new(), |u| format!(" ({u} ulp)"));
                let verdict = if text == "ok" { "ok".to_string() } else { format!("FAILED: {text}") };
                println!("{}: {verdict}{ulp}", names[i]);
            }
            results.insert(names[i].clone(), text);
        })?;
        let passed = total - skipped.len() - failed;
        if self.json {
            let out = json!({ "schema": 1, "passed": passed, "failed": failed, "skipped": skipped.len(), "cases": results });
            println!("{out}");
        } else {
            skipped.iter().for_each(|n| println!("{n}: skipped: it has no test_data_set_0"));
            println!("{passed} passed, {failed} failed, {} skipped", skipped.len());
        }
        if failed > 0 { Err(Failure::Fault(String::new())) } else { Ok(()) }
    }
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
        for (f, e) in found.iter().zip(&set.outputs) {
            let (Some(f), Some(e)) = (f.as_tensor(), e.as_tensor()) else { continue };
            if matches!(f.dtype, DType::F32 | DType::F64 | DType::F16 | DType::Bf16) {
                let (x, y) = (floats(f).unwrap_or_default(), floats(e).unwrap_or_default());
                worst = worst.max(x.iter().zip(&y).map(|(a, b)| ulps(f.dtype, *a, *b)).max());
            }
        }
    }
    Ok(worst)
}
