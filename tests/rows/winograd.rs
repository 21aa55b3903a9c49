//! Convolutions by Winograd's filtering with what stands around them, compiled, against the reference evaluator.

use super::{Dim, F32, Growing, ModelBuilder, Value, compiled, data, kernels};
use kiln_compiler::Accuracy;
use kiln_compiler::pipeline::{Ablation, optimize};
use kiln_compiler::plan::schedule;
use kiln_compiler::{import, onnx};

/// 3x3 convolutions of odd extents and pads, side by side in a Concat, with residual sums that others read.
fn blocks(seed: u64, open: bool) -> (Vec<u8>, Vec<Vec<Value>>) {
    let mut g = Growing::new(ModelBuilder::new().opset(21), seed, open);
    let [c, k] = [[24, 33, 48], [32, 33, 48]].map(|from| g.rng.pick(&from));
    let [h, w] = [[14, 17, 21], [16, 23, 25]].map(|from| g.rng.pick(&from));
    let pads = [[1i64; 4], [0; 4], [0, 1, 2, 0]][g.rng.below(3)].to_vec();
    let batch = if open { 2 } else { g.rng.pick(&[1, 3]) };
    let x = g.input(&[batch, c, h, w], true);
    // Channels last from a neighbour.
    let first = g.conv(&x, [c, c, 1, 1]);
    let active = g.w.node("Relu", &[&first]);
    let conv = |g: &mut Growing, x: &str, c: usize| {
        let (weight, bias) = (g.weight(&[k, c, 3, 3]), g.weight(&[k]));
        let y = g.w.node("Conv", &[x, &weight, &bias]);
        g.w.attr("pads", pads.clone());
        y
    };
    let (a, b) = (conv(&mut g, &active, c), conv(&mut g, &first, c));
    let tanh = g.w.node("Tanh", &[&a]);
    // The sum and what is made of it are both read.
    let sum = g.w.node("Add", &[&b, &tanh]);
    let gate = g.w.node("Sigmoid", &[&sum]);
    let both = g.w.node("Concat", &[&gate, &tanh]);
    g.w.attr("axis", 1);
    let last = conv(&mut g, &both, 2 * k);
    let model = [&sum, &last].into_iter().fold(g.w.into_builder(), |m, o| m.output(o)).build();
    let batches = if open { vec![2, 1, 5, 0] } else { vec![batch] };
    (model, batches.into_iter().map(|n| vec![data(seed ^ n as u64, &[n, c, h, w], false)]).collect())
}

#[test]
fn filtered_convolutions_equal_direct_ones() {
    let dir = compiled::folder(env!("CARGO_TARGET_TMPDIR"), "winograd");
    for seed in 0..12 {
        let (model, sets) = blocks(seed, seed % 2 == 1);
        assert!(kernels(&model).contains(&"winograd conv"), "seed {seed}: {:?}", kernels(&model));
        compiled::write(&dir.join(seed.to_string()), &model, sets);
    }
    compiled::check(&dir);
}

#[test]
fn exact_models_have_direct_convolutions() {
    let model = onnx::read(&blocks(0, false).0, None, &Default::default()).unwrap();
    let mut g = import::import(&model, &Default::default()).unwrap();
    optimize(&mut g, Ablation::Nothing, &mut |_, _| {}).unwrap();
    let plan = schedule(g, Ablation::Nothing, Accuracy::Exact, Default::default());
    assert!(plan.kernels().iter().all(|s| s.kernel.name() != "winograd conv"));
}

#[test]
fn only_what_gains_is_filtered() {
    // Few channels, few pixels beside many weights, steps and groups stay direct.
    for (shape, k, stride, groups, filtered) in [
        ([1, 64, 56, 56], 64, 1, 1, true),
        ([1, 64, 56, 56], 64, 2, 1, false),
        ([1, 64, 56, 56], 64, 1, 2, false),
        ([1, 3, 56, 56], 8, 1, 1, false),
        ([1, 512, 7, 7], 512, 1, 1, false),
    ] {
        let dims: Vec<Dim> = shape.iter().map(|d| Dim::from(*d)).collect();
        let mut g = Growing::new(ModelBuilder::new().opset(21).input("x0", F32, dims), 1, false);
        let c = shape[1];
        let x = g.conv("x0", [c, c, 1, 1]);
        let y = g.conv(&x, [c, k, 3, groups]);
        g.w.attr("strides", vec![stride; 2]);
        let found = kernels(&g.w.into_builder().output(&y).build()).contains(&"winograd conv");
        assert_eq!(found, filtered, "{shape:?} to {k}, stride {stride}, {groups} groups");
    }
}
