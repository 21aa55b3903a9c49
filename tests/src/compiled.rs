//! Compiled models against the reference evaluator: cases as folders, which the command compiles together and runs.

use crate::command;
use kiln::Value;
use kiln_compiler::{eval::Evaluator, import, onnx};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the evaluator makes of a model's inputs.
pub fn expected(model: &[u8], inputs: Vec<Value>) -> Vec<Value> {
    let model = onnx::read(model, None, &Default::default()).unwrap();
    let graph = import::import(&model, &Default::default()).unwrap();
    Evaluator::new(&graph, inputs).unwrap().run().unwrap()
}

/// An empty folder for the cases of a test, in that of temporary files.
pub fn folder(temporary: &str, name: &str) -> PathBuf {
    let dir = Path::new(temporary).join(name);
    let _ = fs::remove_dir_all(&dir);
    dir
}

/// Writes a case: a model, and its inputs for each data set with the outputs that are expected.
pub fn write(dir: &Path, model: &[u8], sets: Vec<Vec<Value>>) {
    fs::create_dir_all(dir).unwrap();
    fs::write(dir.join("model.onnx"), model).unwrap();
    fs::write(dir.join("tolerance.json"), "{\"rtol\": 1e-4, \"atol\": 1e-5}").unwrap();
    for (k, inputs) in sets.into_iter().enumerate() {
        let set = dir.join(format!("test_data_set_{k}"));
        fs::create_dir_all(&set).unwrap();
        let outputs = expected(model, inputs.clone());
        for (kind, values) in [("input", inputs), ("output", outputs)] {
            for (i, v) in values.iter().enumerate() {
                fs::write(set.join(format!("{kind}_{i}.pb")), onnx::write_value("", v)).unwrap();
            }
        }
    }
}

/// Compiles and runs the cases in a folder, with a cache beside it; panics where one fails, else gives their number.
#[track_caller]
pub fn check(dir: &Path) -> usize {
    let cache = dir.with_file_name("cache");
    let out = Command::new(command()).args(["test", "--json"]).arg(dir).env("XDG_CACHE_HOME", cache).output().unwrap();
    let found: serde_json::Value =
        serde_json::from_slice(&out.stdout).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&out.stderr)));
    let cases = found["cases"].as_object().unwrap();
    let bad: Vec<_> = cases.iter().filter(|(_, reason)| *reason != "ok").collect();
    assert!(bad.is_empty(), "{bad:#?}");
    cases.len()
}
