//! The passes over the graph, one readable list; after each the graph is verified in debug builds and shown to whoever asks.

use crate::ir::{Graph, verify};
use crate::rewrite::{self, Budget, Report};
use crate::target::cpu;

/// A pass over the graph.
#[derive(Clone, Copy, Debug)]
pub struct Pass {
    /// Its name, for `kiln dump --after`.
    pub name: &'static str,
    /// What it does, in a sentence.
    pub what: &'static str,
    /// Does it; the error is a bug that it found in itself.
    pub run: fn(&mut Graph) -> Result<Report, String>,
}

/// The passes in order.
pub const PASSES: &[Pass] = &[
    Pass { name: "merge", what: "Equal constants and equal nodes become one.", run: |g| Ok(rewrite::merge(g)) },
    Pass { name: "simplify", what: "The rules run to a fixed point; constants fold on the way.", run: |g| Ok(rewrite::simplify(g)) },
    Pass { name: "merge-simplified", what: "What the rules made equal becomes one.", run: |g| Ok(rewrite::merge(g)) },
    Pass { name: "simplify-merged", what: "The rules see what merging made equal.", run: |g| Ok(rewrite::simplify(g)) },
    Pass { name: "explore", what: "Equality saturation by region; the cheapest equal terms are taken.", run: explore },
    Pass {
        name: "simplify-explored",
        what: "What exploration chose is settled; weights it made of weights are folded.",
        run: |g| Ok(rewrite::simplify(g)),
    },
    Pass { name: "prune", what: "Nodes and constants that no output needs are dropped.", run: |g| Ok(rewrite::prune(g)) },
];

fn explore(g: &mut Graph) -> Result<Report, String> {
    let symbols = g.symbols.clone();
    let (mut report, explored) = rewrite::explore(g, &rewrite::rules::exploring(), &|p| cpu::cost(&symbols, p), Budget::default())?;
    report.explored = explored;
    Ok(report)
}

/// Runs the passes; `after` sees the graph after each.
///
/// # Errors
/// What a pass found wrong with itself and, in debug builds, what no longer holds of the graph: a bug in the pass that is named.
pub fn optimize(g: &mut Graph, after: &mut dyn FnMut(&str, &Graph)) -> Result<Report, String> {
    let mut report = Report::default();
    for pass in PASSES {
        report.absorb((pass.run)(g).map_err(|e| format!("in {}: {e}; this is a bug in the compiler", pass.name))?);
        if cfg!(debug_assertions) {
            verify(g).map_err(|e| format!("after {}: {e}; this is a bug in the compiler", pass.name))?;
        }
        after(pass.name, g);
    }
    Ok(report)
}
