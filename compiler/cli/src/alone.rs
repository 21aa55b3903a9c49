//! Cases one by one, each a program of its own: those that run on a GPU, or under the emulator.

use crate::args::GpuArgs;
use crate::batch::Outcome;
use crate::cache::Scratch;
use crate::failure::{Failure, Result};
use crate::suite::{self, Case};
use crate::{job, model};
use kiln_compiler::{Accuracy, Options};
use kiln_kernels::value::Value;
use std::path::Path;

/// Runs cases, and tells what became of each in their order.
///
/// # Errors
/// What keeps all of them from being run.
pub(crate) fn run(cases: &[Case], gpu: &GpuArgs, how: &[String], done: &mut dyn FnMut(usize, Outcome)) -> Result<()> {
    let scratch = Scratch::new()?;
    let tag = std::process::id();
    for (i, case) in cases.iter().enumerate() {
        let outcome = match one(&case.path, gpu, how, &scratch.0.join(i.to_string()), &format!("case-{tag}-{i}")) {
            Ok(found) => Ok(found),
            // Without the tool no case can be run.
            Err(Failure::Tool(text)) => return Err(Failure::Tool(text)),
            Err(Failure::Fault(text) | Failure::Usage(text)) => Err(text),
        };
        done(i, outcome);
    }
    Ok(())
}

fn one(folder: &Path, gpu: &GpuArgs, how: &[String], dir: &Path, key: &str) -> Result<Vec<Vec<Value>>> {
    let sets = suite::data(folder, &suite::model(folder)?)?;
    let options = Options { model: folder.join("model.onnx"), cuda: Some(gpu.cuda(Accuracy::default())), ..Options::default() };
    let built = model::build_program(&model::compile_guarded(&options)?, &options.model, key, dir, gpu.machine())?;
    let inputs = sets.into_iter().map(|s| s.inputs.into_iter().map(Some).collect::<Vec<_>>());
    let found = inputs.map(|values| job::run(&built.binary, &values, how)).collect();
    // The next case needs the room.
    let _ = std::fs::remove_dir_all(dir);
    found
}
