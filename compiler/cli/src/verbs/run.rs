//! `kiln run`: compiles (once), runs, and writes the outputs.

use crate::args::{ModelArgs, RunArgs};
use crate::failure::Result;
use crate::model::{self, InputArgs};
use crate::{data, job};
use std::path::PathBuf;

/// Compile a model (once), run it on inputs, and write its outputs.
#[derive(clap::Args, Debug)]
pub(crate) struct Run {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    inputs: InputArgs,
    #[command(flatten)]
    how: RunArgs,
    /// Where `out_0.npy`, `out_1.npy` .. and `outputs.json` go.
    #[arg(long, value_name = "DIR")]
    output_dir: PathBuf,
    /// How often to run on the same inputs; with `--state` each run goes on where the one before ended. The last one's outputs are written.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
}

impl Run {
    /// Does it.
    pub(crate) fn run(self) -> Result<()> {
        let mut how = self.model.job(&self.how)?;
        how.push(format!("runs={}", self.runs));
        let ready = model::ready(&self.model, &self.inputs)?;
        let built = model::build(&self.model, &ready)?;
        let found = job::run(&built.binary, &ready.values, &how)?;
        data::write_outputs(&self.output_dir, &built.outputs(), &found)
    }
}
