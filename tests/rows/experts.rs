//! Mixtures of experts that gather weights, compiled, against the reference evaluator on the graph as it is written.

use super::{compiled, data, kernels};
use kiln_compiler::ir::NodeId;
use kiln_compiler::ops::Op;
use kiln_compiler::pipeline::{Ablation, optimize};
use kiln_compiler::{import, onnx};
use kiln_tests::experts::{SPELLINGS, Sizes, Spelling, model};
use kiln_tests::samples::Rng;

/// Extents of every kind: odd ones, one expert, one token, as many experts as there are.
fn sizes(seed: u64) -> Sizes {
    let mut rng = Rng::new(seed);
    let experts = rng.pick(&[2, 4, 9]);
    Sizes {
        tokens: rng.pick(&[1, 2, 7, 50]),
        width: rng.pick(&[6, 32, 35]),
        hidden: rng.pick(&[5, 16, 70]),
        experts,
        chosen: rng.pick(&[1, 2, experts]),
    }
}

#[test]
fn gathered_weights_are_never_copied() {
    for (seed, spelling) in (0..16).zip(SPELLINGS.into_iter().cycle()) {
        for open in [false, true] {
            let bytes = model(spelling, Sizes { tokens: 7, ..sizes(seed) }, open);
            let mut g = import::import(&onnx::read(&bytes, None, &Default::default()).unwrap(), &Default::default()).unwrap();
            optimize(&mut g, Ablation::Nothing, &mut |_, _| {}).unwrap();
            // Biases are gathered, matrices are not.
            let matrices = |n: &&NodeId| matches!(&g[**n].op, Op::Gather(_)) && g.shape(g[**n].inputs[0].unwrap()).len() > 2;
            let shown = kiln_compiler::ir::print(&g);
            assert_eq!(g.body.nodes.iter().filter(matrices).count(), 0, "{spelling:?}, seed {seed}:\n{shown}");
            let grouped = kernels(&bytes).iter().filter(|k| **k == "grouped gemm").count();
            let gated = matches!(spelling, Spelling::Batched | Spelling::Right);
            assert_eq!(grouped, if gated { 3 } else { 2 }, "{spelling:?}, seed {seed}:\n{shown}");
            // Biases, gates and the weights of experts are tails.
            assert!(spelling == Spelling::Left || !kernels(&bytes).contains(&"map"), "{spelling:?}, seed {seed}:\n{shown}");
        }
    }
}

#[test]
fn mixtures_of_experts_equal_their_graphs() {
    let dir = compiled::folder(env!("CARGO_TARGET_TMPDIR"), "experts");
    for (seed, spelling) in (0..16).zip(SPELLINGS.into_iter().cycle()) {
        let s = sizes(seed);
        for open in [false, true] {
            let tokens = if open { vec![s.tokens, 1, 0, 60] } else { vec![s.tokens] };
            let sets = tokens.into_iter().map(|n| vec![data(seed ^ n as u64, &[n, s.width], false)]).collect();
            let name = format!("{spelling:?}_{seed}_{}", if open { "open" } else { "closed" });
            compiled::write(&dir.join(name), &model(spelling, s, open), sets);
        }
    }
    compiled::check(&dir);
}
