//! The passes over the graph, one readable list; after each the graph is verified in debug builds and shown to whoever asks.

use crate::ir::{Graph, verify};
use crate::rewrite::{self, Budget, Report};
use crate::target::cpu;

/// What of the optimizer is left out, to measure what it is worth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ablation {
    /// Nothing: this is how models are compiled.
    #[default]
    Nothing,
    /// Equality saturation: rules that merge siblings apply wherever they match, as in a compiler of ordered passes.
    Saturation,
    /// Every rule that is not canonical.
    Exploration,
    /// Fusion: each node is a kernel of its own.
    Fusion,
    /// The choice of layouts: values are row-major but where a kernel cannot write them so, and moves are copies.
    Layouts,
}

impl Ablation {
    /// All of them.
    pub const ALL: [Ablation; 5] = [Ablation::Nothing, Ablation::Saturation, Ablation::Exploration, Ablation::Fusion, Ablation::Layouts];

    /// What is left, in a few words.
    pub fn what(self) -> &'static str {
        match self {
            Ablation::Nothing => "everything",
            Ablation::Saturation => "ordered passes only",
            Ablation::Exploration => "without exploration",
            Ablation::Fusion => "without fusion",
            Ablation::Layouts => "without layout choice",
        }
    }
}

/// A pass over the graph.
#[derive(Clone, Copy, Debug)]
pub struct Pass {
    /// Its name, for `kiln dump --after`.
    pub name: &'static str,
    /// What it does, in a sentence.
    pub what: &'static str,
    /// Does it; the error is a bug that it found in itself.
    pub run: fn(&mut Graph, Ablation) -> Result<Report, String>,
}

/// The passes in order.
pub const PASSES: &[Pass] = &[
    Pass { name: "merge", what: "Equal constants and equal nodes become one.", run: |g, _| Ok(rewrite::merge(g)) },
    Pass { name: "simplify", what: "The rules run to a fixed point; constants fold on the way.", run: |g, _| Ok(rewrite::simplify(g)) },
    Pass { name: "merge-simplified", what: "What the rules made equal becomes one.", run: |g, _| Ok(rewrite::merge(g)) },
    Pass { name: "simplify-merged", what: "The rules see what merging made equal.", run: |g, _| Ok(rewrite::simplify(g)) },
    Pass { name: "explore", what: "Equality saturation by region; the cheapest equal terms are taken.", run: explore },
    Pass {
        name: "simplify-explored",
        what: "What exploration chose is settled; weights it made of weights are folded.",
        run: |g, _| Ok(rewrite::simplify(g)),
    },
    Pass {
        name: "dequantize",
        what: "Dequantized bytes are made by each reader for itself: what is stored are the bytes.",
        run: |g, _| Ok(rewrite::dequantize(g)),
    },
    Pass { name: "prune", what: "Nodes and constants that no output needs are dropped.", run: |g, _| Ok(rewrite::prune(g)) },
];

fn explore(g: &mut Graph, without: Ablation) -> Result<Report, String> {
    match without {
        Ablation::Saturation => return Ok(rewrite::apply(g, &rewrite::rules::merging())),
        Ablation::Exploration => return Ok(Report::default()),
        _ => {}
    }
    let symbols = g.symbols.clone();
    let (mut report, explored) =
        rewrite::explore(g, &rewrite::rules::exploring(), &|p| cpu::cost(&cpu::RATES, &symbols, p), Budget::default())?;
    report.explored = explored;
    Ok(report)
}

/// Runs the passes; `after` sees the graph after each.
///
/// # Errors
/// What a pass found wrong with itself and, in debug builds, what no longer holds of the graph: a bug in the pass that is named.
pub fn optimize(g: &mut Graph, without: Ablation, after: &mut dyn FnMut(&str, &Graph)) -> Result<Report, String> {
    let mut report = Report::default();
    for pass in PASSES {
        report.absorb((pass.run)(g, without).map_err(|e| format!("in {}: {e}; this is a bug in the compiler", pass.name))?);
        if cfg!(debug_assertions) {
            verify(g).map_err(|e| format!("after {}: {e}; this is a bug in the compiler", pass.name))?;
        }
        after(pass.name, g);
    }
    Ok(report)
}
