//! Results of ONNX Runtime, where a Python with its package is given.

use kiln_cli::suite::Case;
use kiln_compiler::onnx::read_tensor;
use kiln_kernels::value::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The script that runs cases, beside this file.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/random/ort.py");

/// The results of each data set of a case, or why there are none.
pub type Results = Result<Vec<Vec<Value>>, String>;

/// Runs cases; gives for each the results of its data sets, or why there are none.
///
/// # Errors
/// The Python cannot be started.
pub fn run(python: &Path, cases: &[Case], sets: usize) -> Result<Vec<Results>, String> {
    let paths: Vec<PathBuf> = cases.iter().map(|c| c.path.clone()).collect();
    let mut from = 0;
    let mut died = vec![false; cases.len()];
    // Who runs behind a case that ends the process is started again behind it.
    while from < paths.len() {
        let out = Command::new(python).arg(SCRIPT).args(&paths[from..]).output().map_err(|e| format!("{}: {e}", python.display()))?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let done = text.lines().filter(|l| l.starts_with("done ")).count();
        if done == 0 && !text.contains("start ") {
            return Err(String::from_utf8_lossy(&out.stderr).into_owned());
        }
        if from + done < paths.len() {
            died[from + done] = true;
        }
        from += done + 1;
    }
    Ok(paths.iter().zip(died).map(|(p, died)| if died { Err("ONNX Runtime ended".into()) } else { results(p, sets) }).collect())
}

fn results(case: &Path, sets: usize) -> Results {
    if let Ok(why) = fs::read_to_string(case.join("error.txt")) {
        return Err(why);
    }
    let set = |k: usize| {
        let mut out = Vec::new();
        while let Ok(bytes) = fs::read(case.join(format!("test_data_set_{k}/ort_{}.pb", out.len()))) {
            out.push(read_tensor(&bytes).map_err(|d| d.to_string())?.into());
        }
        Ok(out)
    };
    (0..sets).map(set).collect()
}
