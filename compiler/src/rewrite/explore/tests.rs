//! Exploring rules against the reference evaluator, through the e-graph itself.

use super::*;
use crate::ir::verify;
use crate::rewrite::rules;
use crate::rewrite::tests::{Case, Example, agree, run};

fn examples() -> Vec<Example> {
    [rules::parallel::tests::EXAMPLES, rules::commute::tests::EXAMPLES, rules::exchange::tests::EXAMPLES, rules::linear::tests::EXAMPLES]
        .concat()
}

/// A cost by which whatever a rule made is cheaper than what the model has.
fn novelty(p: &Priced<'_>) -> Price {
    let cost = if p.rule.is_some() { 1 } else { 1000 };
    Price { alone: cost, joined: cost, takes_more: false }
}

#[test]
fn every_exploring_rule_has_an_example() {
    for r in rules::exploring() {
        assert!(examples().iter().any(|(name, _)| *name == r.name), "the rule {} has no example", r.name);
    }
    for (name, _) in examples() {
        assert!(rules::exploring().iter().any(|r| r.name == name), "there is no rule {name}");
    }
}

#[test]
fn exploring_rules_keep_what_they_claim() {
    for (name, build) in examples() {
        let rule = *rules::exploring().iter().find(|r| r.name == name).expect("the example has a rule");
        let mut taken = 0;
        for seed in 1..=64 {
            let mut case = Case::new(seed, rule.class == crate::rewrite::Class::Exact);
            build(&mut case);
            verify(&case.g).expect("the example is well formed");
            let before = run(&case.g, &case.inputs);
            let mut after = case.g.clone();
            let (report, _) = explore(&mut after, &[rule], &novelty, Budget::default()).unwrap();
            let shown = || format!("{name}, seed {seed}:\n{}\nbecame\n{}", crate::ir::print(&case.g), crate::ir::print(&after));
            verify(&after).unwrap_or_else(|e| panic!("{e}: {}", shown()));
            taken += report.rules.get(name).copied().unwrap_or(0);
            for (a, b) in before.iter().zip(run(&after, &case.inputs)) {
                agree(rule.class, a, &b).unwrap_or_else(|e| panic!("{e}: {}", shown()));
            }
        }
        assert!(taken >= 32, "the rule {name} was taken {taken} times in 64 cases");
    }
}
