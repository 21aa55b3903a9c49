//! `kiln explain`: which rules and fusions touched a node, and why others did not.

use crate::args::ModelArgs;
use crate::failure::{Failure, Result};
use crate::model::compile_guarded;
use kiln_compiler::diagnostics::shown;
use std::io::Write as _;

/// Show which rules and fusions touched a node, and why others did not.
#[derive(clap::Args, Debug)]
pub(crate) struct Explain {
    #[command(flatten)]
    model: ModelArgs,
    /// The name of an ONNX node, or of a value that one computes.
    #[arg(value_name = "NODE")]
    node: String,
}

impl Explain {
    /// Does it.
    pub(crate) fn run(self) -> Result<()> {
        let output = compile_guarded(&self.model.options(self.model.parsed()?)?)?;
        let Some(text) = kiln_compiler::explain::explain(&output, &self.node) else {
            // Names that share a part with the one asked for, as a help.
            let part = self.node.rsplit('/').next().unwrap_or(&self.node).to_lowercase();
            let names = output.plan.graph.origins.iter().map(|o| o.name.as_str()).filter(|n| !n.is_empty());
            let near: Vec<String> = names.filter(|n| n.to_lowercase().contains(&part)).take(8).map(shown).collect();
            let help =
                if near.is_empty() { "`kiln inspect` lists the operators".into() } else { format!("did you mean {}?", near.join(", ")) };
            return Err(Failure::Fault(format!("the model has no node \"{}\"\n  help: {help}", shown(&self.node))));
        };
        // A reader that closed the pipe has seen enough.
        let _ = std::io::stdout().lock().write_all(text.as_bytes());
        Ok(())
    }
}
