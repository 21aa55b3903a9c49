//! Random models of fixed seeds, a few dozen through the evaluator and a handful compiled, and the smallest models of what others found.

use kiln_tests::compiled;
use kiln_tests::random::judge::{self, Finding};
use kiln_tests::random::write::{Drawn, finish};
use kiln_tests::random::{grow, table};
use std::collections::BTreeSet;

mod found;

/// Models of seeds from that on which are judged, with their files and what is expected of them.
fn models(from: u64) -> impl Iterator<Item = (u64, Drawn, Vec<u8>, [judge::Expected; 2])> {
    (from..).filter_map(|seed| {
        let drawn = finish(grow(seed), seed)?;
        let model = drawn.model();
        match judge::expected(&drawn, &model) {
            Ok(e) => Some((seed, drawn, model, e)),
            Err(Finding::Unstable(_)) => None,
            Err(Finding::Failed(stage, why)) => panic!("seed {seed}: {stage}: {why}"),
        }
    })
}

#[test]
fn what_is_optimized_computes_the_same() {
    let mut seen = BTreeSet::new();
    for (seed, drawn, model, expected) in models(1).take(60) {
        if let Err(f) = judge::evaluate(&drawn, &model, &expected) {
            panic!("seed {seed}: {f:?}; cargo run --release -p kiln-tests --bin random -- --only {seed} --evaluate");
        }
        seen.extend(drawn.operators().into_iter().map(String::from));
    }
    assert!(seen.len() > 60, "the models have only {} operators", seen.len());
}

#[test]
fn what_is_compiled_computes_the_same() {
    let dir = compiled::folder(env!("CARGO_TARGET_TMPDIR"), "random");
    for (seed, drawn, model, _) in models(500).take(8) {
        compiled::write(&dir.join(format!("seed-{seed}")), &model, drawn.runs.to_vec());
    }
    assert_eq!(compiled::check(&dir), 8);
}

#[test]
fn a_wrong_result_is_found() {
    let (_, drawn, _, expected) = models(1).find(|(.., e)| e[0].slack.iter().any(|s| !s.is_empty())).unwrap();
    assert!(judge::compare(&expected[0].values, &expected[0], 0.0).is_ok());
    for (i, v) in expected[0].values.iter().enumerate() {
        let t = v.as_tensor().unwrap();
        if !t.dtype.is_float() || t.is_empty() {
            continue;
        }
        let mut values = expected[0].values.clone();
        let x: Vec<f64> = t.to_f64s().unwrap().iter().map(|x| x * 1.01 + 0.01).collect();
        values[i] = kiln_compiler::eval::from_f64s(&t.dims, &x, t.dtype).into();
        assert!(judge::compare(&values, &expected[0], 0.0).is_err(), "output {i} of {:?}", drawn.operators());
    }
}

#[test]
fn seeds_repeat_models() {
    for seed in 1..20 {
        let once = || finish(grow(seed), seed).map(|d| (d.model(), d.runs));
        assert_eq!(once(), once());
    }
}

#[test]
fn the_table_names_operators_that_kiln_knows() {
    for line in table::TABLE {
        assert!(kiln_compiler::ops::find("", line.op).is_some_and(|s| s.since <= line.since), "{}", line.op);
    }
}
