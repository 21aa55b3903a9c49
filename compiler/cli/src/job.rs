//! Jobs for the programs around compiled models: inputs as a file, outputs as a file.

use crate::cache::Scratch;
use crate::failure::{At, Failure, Result};
use kiln_kernels::value::Value;
use kiln_kernels::wire;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{SystemTime, UNIX_EPOCH};

/// A set of inputs as programs read it.
pub(crate) fn set(values: &[Option<Value>]) -> Value {
    Value::Sequence(values.iter().map(|v| Value::Optional(v.clone().map(Box::new))).collect())
}

/// Writes a value.
pub(crate) fn save(path: &Path, value: &Value) -> Result<()> {
    let mut bytes = Vec::new();
    wire::write(value, &mut bytes);
    fs::write(path, bytes).at(path)
}

/// Reads a sequence.
pub(crate) fn load(path: &Path) -> Result<Vec<Value>> {
    let bytes = fs::read(path).at(path)?;
    match wire::read(&mut bytes.as_slice()) {
        Some(Value::Sequence(items)) => Ok(items),
        _ => Err(Failure::at(path, "the program wrote no outputs")),
    }
}

fn start(program: &Path, args: &[String]) -> Result<Output> {
    let mut command = Command::new(program);
    // The emulator's driver, where the program was made for it.
    if let Some(dir) = program.parent().filter(|d| d.join("libcuda.so.1").is_file()) {
        command.env("LD_LIBRARY_PATH", dir);
    }
    let output = command.args(args).output().at(program)?;
    if output.status.success() {
        eprint!("{}", String::from_utf8_lossy(&output.stderr));
    }
    if output.status.success() {
        return Ok(output);
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let text = text.trim();
    match output.status.code() {
        Some(1) => Err(Failure::Fault(format!("error: {text}"))),
        _ => Err(Failure::Fault(format!("error: the compiled model stopped with {}\n{text}", output.status))),
    }
}

/// Runs a program on inputs; gives the outputs.
pub(crate) fn run(program: &Path, values: &[Option<Value>], extra: &[String]) -> Result<Vec<Value>> {
    let scratch = Scratch::new()?;
    let (input, out) = (scratch.0.join("in"), scratch.0.join("out"));
    save(&input, &set(values))?;
    let mut args = vec!["run".to_string(), format!("in={}", input.display()), format!("out={}", out.display())];
    args.extend_from_slice(extra);
    start(program, &args)?;
    load(&out)
}

/// Measures a program; gives its line of JSON.
pub(crate) fn bench(program: &Path, values: &[Option<Value>], extra: &[String]) -> Result<serde_json::Value> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    measure("bench", program, values, &[extra, &[format!("spawned={now}")]].concat())
}

/// Records runs of a program step by step; gives its line of JSON.
pub(crate) fn profile(program: &Path, values: &[Option<Value>], extra: &[String]) -> Result<serde_json::Value> {
    measure("profile", program, values, extra)
}

fn measure(verb: &str, program: &Path, values: &[Option<Value>], extra: &[String]) -> Result<serde_json::Value> {
    let scratch = Scratch::new()?;
    let input = scratch.0.join("in");
    save(&input, &set(values))?;
    let mut args = vec![verb.to_string(), format!("in={}", input.display())];
    args.extend_from_slice(extra);
    let output = start(program, &args)?;
    serde_json::from_slice(&output.stdout).map_err(|e| Failure::Fault(format!("error: the program's measurements cannot be read: {e}")))
}
