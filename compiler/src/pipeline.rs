//! The passes over the graph, one readable list; after each the graph is verified in debug builds and shown to whoever asks.

use crate::ir::{Graph, verify};
use crate::rewrite::{self, Report};

/// A pass over the graph.
#[derive(Clone, Copy, Debug)]
pub struct Pass {
    /// Its name, for `kiln dump --after`.
    pub name: &'static str,
    /// What it does, in a sentence.
    pub what: &'static str,
    /// Does it.
    pub run: fn(&mut Graph) -> Report,
}

/// The passes in order.
pub const PASSES: &[Pass] = &[
    Pass { name: "merge", what: "Equal constants and equal nodes become one.", run: rewrite::merge },
    Pass { name: "simplify", what: "The rules run to a fixed point; constants fold on the way.", run: rewrite::simplify },
    Pass { name: "merge-simplified", what: "What the rules made equal becomes one.", run: rewrite::merge },
    Pass { name: "simplify-merged", what: "The rules see what merging made equal.", run: rewrite::simplify },
    Pass { name: "prune", what: "Nodes and constants that no output needs are dropped.", run: rewrite::prune },
];

/// Runs the passes; `after` sees the graph after each.
///
/// # Errors
/// In debug builds: what no longer holds of the graph, a bug in the pass that is named.
pub fn optimize(g: &mut Graph, after: &mut dyn FnMut(&str, &Graph)) -> Result<Report, String> {
    let mut report = Report::default();
    for pass in PASSES {
        report.absorb((pass.run)(g));
        if cfg!(debug_assertions) {
            verify(g).map_err(|e| format!("after {}: {e}; this is a bug in the compiler", pass.name))?;
        }
        after(pass.name, g);
    }
    Ok(report)
}
