//! `kiln dump`: the graph as text after a pass.

use crate::args::ModelArgs;
use crate::failure::{Failure, Result};
use crate::model::compile_guarded;
use kiln_compiler::pipeline::PASSES;
use std::fmt::Write as _;
use std::io::Write as _;

/// Print the graph after a pass.
#[derive(clap::Args, Debug)]
pub(crate) struct Dump {
    #[command(flatten)]
    model: ModelArgs,
    /// The pass; one that is unknown lists them all.
    #[arg(long, value_name = "PASS", default_value = "prune")]
    after: String,
}

impl Dump {
    /// Does it.
    pub(crate) fn run(self) -> Result<()> {
        if self.after != "import" && !PASSES.iter().any(|p| p.name == self.after) {
            let mut text = format!("there is no pass \"{}\"; the passes in order:\n  import            The model as read.", self.after);
            for p in PASSES {
                let _ = write!(text, "\n  {:<17} {}", p.name, p.what);
            }
            return Err(Failure::Usage(text));
        }
        let mut options = self.model.options(self.model.parsed()?)?;
        options.dump_after = Some(self.after);
        let text = compile_guarded(&options)?.dump.unwrap_or_default();
        // A reader that closed the pipe has seen enough.
        let _ = std::io::stdout().lock().write_all(text.as_bytes());
        Ok(())
    }
}
