//! The ONNX suite through import, the text of graphs and the reference evaluator, as it is and with bytes of its models changed. `KILN_SUITE` names the folder that `conformance/prepare.py` filled;
//! `KILN_CASES` picks cases whose `folder/name` contains it; `KILN_STRICT` makes any failure a failure of the test; `KILN_ROUNDS` is how
//! often each model is changed.

use kiln_compiler::eval::Evaluator;
use kiln_compiler::import::{Dims, import};
use kiln_compiler::ir::{Constants, Graph, parse, print, verify};
use kiln_compiler::onnx::{Limits, read};
use kiln_compiler::pipeline::{Ablation, optimize};
use kiln_tests::suite::{Case, cases, compare_all, guarded, quiet_panics};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

fn evaluate(case: &Case) -> Result<(), String> {
    let model = case.model()?;
    let sets = case.data(&model)?;
    let graph = import(&model, &Dims::default()).map_err(|e| e.to_string())?;
    drop(model);
    verify(&graph).map_err(|e| format!("the graph does not verify: {e}"))?;
    let mut optimized = graph.clone();
    let mut texts = vec![round_trip(&graph)];
    optimize(&mut optimized, Ablation::Nothing, &mut |_, g| texts.push(round_trip(g)))?;
    // The text of the graph that is evaluated says all that it needs.
    let read = texts.into_iter().collect::<Result<Vec<_>, _>>()?.swap_remove(0);
    for set in sets {
        let found = Evaluator::new(&read, set.inputs)?.run()?;
        compare_all(&found, &set.outputs, case.tolerance)?;
    }
    Ok(())
}

/// The graph that its text stands for.
fn round_trip(g: &Graph) -> Result<Graph, String> {
    let text = print(g);
    let back = parse(&text, &Constants::of(g)).map_err(|e| format!("the graph's text does not read: {e}"))?;
    if print(&back) == text { Ok(back) } else { Err("the graph's text reads as another graph".into()) }
}

/// Why a case failed, in a few words that cases share.
fn reason(text: &str) -> String {
    let line = text.lines().next().unwrap_or("").trim_start_matches("error: ");
    if line.starts_with("output ") {
        return "wrong result".into();
    }
    if line.starts_with("panic") {
        return "panic".into();
    }
    line.split(": ").last().unwrap_or(line).chars().take(90).collect()
}

#[test]
fn the_suite_by_reference() {
    let Ok(root) = std::env::var("KILN_SUITE") else {
        println!("skipped: KILN_SUITE names no folder");
        return;
    };
    let only = std::env::var("KILN_CASES").unwrap_or_default();
    let all: Vec<Case> = cases(Path::new(&root)).into_iter().filter(|c| format!("{}/{}", c.group, c.name).contains(&only)).collect();
    quiet_panics();
    let next = AtomicUsize::new(0);
    let results = Mutex::new(BTreeMap::new());
    std::thread::scope(|s| {
        for _ in 0..2 {
            s.spawn(|| {
                while let Some(case) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let start = Instant::now();
                    let result = guarded(|| evaluate(case));
                    if start.elapsed().as_secs() >= 5 {
                        println!("{}/{} took {:.0?}", case.group, case.name, start.elapsed());
                    }
                    results.lock().expect("no case panics outside of its guard").insert((&case.group, &case.name), result);
                }
            });
        }
    });
    let results = results.into_inner().expect("no case panics outside of its guard");
    let mut folders: BTreeMap<&str, [usize; 2]> = BTreeMap::new();
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    let mut failures: Vec<(String, String)> = Vec::new();
    for ((group, name), result) in &results {
        folders.entry(group).or_default()[result.is_err() as usize] += 1;
        if let Err(text) = result {
            *reasons.entry(reason(text)).or_default() += 1;
            failures.push((format!("{group}/{name}"), text.replace('\n', " ")));
        }
    }
    failures.sort_by_key(|(name, text)| (!text.starts_with("panic"), !text.starts_with("output"), name.clone()));
    for (name, text) in &failures {
        println!("{name}: {}", text.chars().take(300).collect::<String>());
    }
    let mut reasons: Vec<_> = reasons.into_iter().collect();
    reasons.sort_by_key(|(text, n)| (usize::MAX - n, text.clone()));
    println!("\nreasons:");
    for (text, n) in reasons {
        println!("{n:5}  {text}");
    }
    println!();
    for (folder, [passed, failed]) in &folders {
        println!("{folder}: {passed} passed, {failed} failed");
    }
    println!("{} passed, {} failed", results.len() - failures.len(), failures.len());
    assert!(failures.is_empty() || std::env::var("KILN_STRICT").is_err(), "{} cases failed", failures.len());
}

/// Imports and evaluates a model as far as it goes; only a panic or a graph that does not verify is a failure.
fn survive(case: &Case, bytes: &[u8]) -> Result<(), String> {
    let Ok(model) = read(bytes, None, &Limits::default()) else { return Ok(()) };
    let Ok(graph) = import(&model, &Dims::default()) else { return Ok(()) };
    verify(&graph)?;
    let small = |d: Vec<usize>| d.iter().try_fold(1usize, |a, b| a.checked_mul(*b)).is_some_and(|n| n < 1 << 22);
    if graph.values.iter().filter_map(|v| v.fact.ty.closed_dims()).all(small) {
        for set in case.data(&model).unwrap_or_default() {
            let _ = Evaluator::new(&graph, set.inputs).and_then(|mut e| e.run());
        }
    }
    Ok(())
}

#[test]
fn changed_models_do_not_panic() {
    let Ok(root) = std::env::var("KILN_SUITE") else {
        println!("skipped: KILN_SUITE names no folder");
        return;
    };
    quiet_panics();
    let rounds = std::env::var("KILN_ROUNDS").ok().and_then(|r| r.parse().ok()).unwrap_or(2);
    let mut state = 0x0123_4567_89ab_cdef_u64;
    let mut next = |n: usize| {
        for (left, by) in [(true, 13), (false, 7), (true, 17)] {
            state ^= if left { state << by } else { state >> by };
        }
        (state % n as u64) as usize
    };
    let mut failures = BTreeMap::new();
    for case in cases(Path::new(&root)) {
        let Ok(whole) = std::fs::read(case.path.join("model.onnx")) else { continue };
        for _ in 0..if whole.len() < 20_000 { rounds } else { 0 } {
            let mut bytes = whole.clone();
            for _ in 0..1 + next(2) {
                let at = next(bytes.len());
                bytes[at] = match next(4) {
                    0 => next(256) as u8,
                    1 => bytes[at].wrapping_add(1),
                    2 => bytes[at].wrapping_sub(1),
                    _ => [0, 1, 2, 3, 7, 0x7f, 0xff][next(7)],
                };
            }
            if let Err(text) = guarded(|| survive(&case, &bytes)) {
                failures.entry(text).or_insert_with(|| case.name.clone());
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}
