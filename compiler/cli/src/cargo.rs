//! Cargo, the only tool that `run`, `bench` and `test` need.

use crate::cache;
use crate::failure::{Failure, Result};
use std::io::ErrorKind;
use std::path::Path;
use std::process::{Command, Output};

/// Builds the crate or workspace in `dir` offline and optimized, in the target directory that all models share.
pub(crate) fn build(dir: &Path, extra: &[&str]) -> Result<Output> {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(&program);
    command.args(["build", "--release", "--offline"]).args(extra).current_dir(dir);
    command.env("CARGO_TARGET_DIR", cache::root()?.join("target")).env("CARGO_TERM_COLOR", "never");
    for name in ["CARGO_BUILD_TARGET", "CARGO_ENCODED_RUSTFLAGS", "CARGO_PROFILE_RELEASE_DEBUG"] {
        command.env_remove(name);
    }
    let missing = |what: &str| {
        Failure::Tool(format!(
            "error: {what} is missing: compiled models are built by cargo and rustc\n       help: install Rust from its website, or put it on PATH"
        ))
    };
    let output = command.output().map_err(|e| match e.kind() {
        ErrorKind::NotFound => missing("cargo"),
        _ => Failure::Tool(format!("error: cargo cannot be started: {e}")),
    })?;
    let text = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() && text.contains("could not execute process") && text.contains("rustc") {
        return Err(missing("rustc"));
    }
    Ok(output)
}
