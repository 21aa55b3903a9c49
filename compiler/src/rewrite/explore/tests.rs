//! Exploring rules against the reference evaluator, through the e-graph itself.

use super::*;
use crate::ir::{Dim, verify};
use crate::rewrite::rules;
use crate::rewrite::tests::{Case, Example, agree, run};
use kiln_kernels::dtype::DType;

fn examples() -> Vec<Example> {
    use rules::{causal, commute, exchange, linear, parallel, quantize, standardize};
    let tables: [&[Example]; 7] = [
        parallel::tests::EXAMPLES,
        commute::tests::EXAMPLES,
        exchange::tests::EXAMPLES,
        linear::tests::EXAMPLES,
        standardize::tests::EXAMPLES,
        causal::tests::SMALL,
        quantize::tests::EXAMPLES,
    ];
    tables.concat()
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

/// What exploration says to a rule that calls values equal which are not.
fn clash(rule: &'static Rule, build: fn(&mut Case)) -> String {
    let mut case = Case::new(1, false);
    build(&mut case);
    explore(&mut case.g, &[rule], &novelty, Budget::default()).expect_err("the union is refused")
}

/// Rules that are wrong, to the analysis that finds them out.
#[rustfmt::skip]
const WRONG: &[Rule] = &[
    Rule { name: "add-forgotten", on: &["Add"], equation: "x + c => x", class: crate::rewrite::Class::Exact, apply: |rw, n| Some(vec![rw.input(n, 0)?]) },
    Rule { name: "scale-forgotten", on: &["DequantizeLinear"], equation: "D(q, s) => D(q, 1)", class: crate::rewrite::Class::Exact, apply: |rw, n| {
        let (op, q) = (rw.node(n).op.clone(), rw.input(n, 0)?);
        let one = rw.tensor(Tensor::scalar(1f32));
        Some(vec![rw.add(op, &[q, one])?])
    } },
];

#[test]
fn contradictory_unions_are_refused() {
    let indices = clash(&WRONG[0], |c| {
        let x = c.input(DType::I64, &[1]);
        let x = c.op(crate::ops::shape::Reshape { shape: vec![] }, &[x]);
        let (iota, one) = (c.g.add_constant(Tensor::new(&[4], &[0i64, 1, 2, 3]), ""), c.filled(DType::I64, &[], 1.0));
        let next = c.pointwise("Add", &[iota, one]);
        let y = c.pointwise("Mul", &[next, x]);
        c.output(y);
    });
    assert!(indices.contains("indices"), "{indices}");
    let numbers = clash(&WRONG[1], |c| {
        let (q, s) = (c.input(DType::U8, &[5]), c.filled(DType::F32, &[], 0.5));
        let y = c.op(crate::ops::quantize::dequantizer(DType::U8, DType::F32, None, DType::F32), &[q, s]);
        c.output(y);
    });
    assert!(numbers.contains("quantized"), "{numbers}");
}

/// What a rule sees of a region's values, as the analysis knows them.
#[test]
fn rules_ask_the_analysis() {
    /// Sees a form only where the class has it: the operand's producers are not asked.
    static ASKING: Rule = Rule {
        name: "asking",
        on: &["Add"],
        equation: "i + j => j + i  where the sum is affine and i is quantized nowhere",
        class: crate::rewrite::Class::Exact,
        apply: |rw, n| {
            let sum = rw.affine(*rw.node(n).outputs.first()?)?;
            assert_eq!((sum.base, sum.steps), (Dim::int(8), vec![Dim::int(5), Dim::int(2)]));
            let (a, b) = (rw.input(n, 0)?, rw.input(n, 1)?);
            assert!(rw.quantization(a).is_none());
            Some(vec![rw.pointwise("Add", &[b, a])?])
        },
    };
    let mut c = Case::new(1, false);
    let ends = [3i64, 15, 5].map(|x| c.g.add_constant(Tensor::scalar(x), ""));
    // Host functions are no part of a region: what they compute is known from outside.
    let results = vec![crate::ir::Type::Tensor(DType::I64, vec![3.into()])];
    let column = c.op(crate::ops::host::Host { name: "range", ints: vec![], text: vec![], results }, &ends);
    let column = c.op(crate::ops::shape::Reshape { shape: vec![3.into(), 1.into()] }, &[column]);
    let row = c.g.add_constant(Tensor::new(&[4], &[5i64, 7, 9, 11]), "");
    let y = c.pointwise("Add", &[column, row]);
    c.output(y);
    let (report, _) = explore(&mut c.g, &[&ASKING], &novelty, Budget::default()).unwrap();
    assert_eq!(report.rules.get("asking"), Some(&1));
}
