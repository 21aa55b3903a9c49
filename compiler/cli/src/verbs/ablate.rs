//! `kiln bench --ablate`: a model compiled with each part of the optimizer left out, measured in turn.

use super::bench::merge;
use crate::args::ModelArgs;
use crate::difference::Tolerance;
use crate::failure::{Failure, Result};
use crate::job;
use crate::model::{self, Built, Ready};
use kiln_compiler::pipeline::Ablation;
use kiln_kernels::value::Value;
use serde_json::{Value as Json, json};

/// Prints what each part is worth. Everything is measured twice, in turn, so that a slow minute shows in all of it.
pub(super) fn table(args: &ModelArgs, ready: &mut Ready, extra: &[String], as_json: bool) -> Result<()> {
    let mut rows: Vec<(Built, Json)> = Vec::new();
    let mut whole = Vec::new();
    for without in Ablation::ALL {
        ready.without = without;
        let built = model::build(args, ready)?;
        let found = job::run(&built.binary, &ready.values, &[])?;
        let mut row = built.report.clone();
        row["without"] = json!(without.what());
        if rows.is_empty() {
            whole = found;
        } else {
            row["worst_over_sd"] = json!(apart(&found, &whole, without)?);
        }
        rows.push((built, row));
    }
    for _ in 0..2 {
        for (built, row) in &mut rows {
            let found = job::bench(&built.binary, &ready.values, extra)?;
            if row["p50_ms"].as_f64().is_none_or(|before| found["p50_ms"].as_f64() < Some(before)) {
                merge(row, found);
            }
        }
    }
    let rows: Vec<Json> = rows.into_iter().map(|(_, row)| row).collect();
    if as_json {
        println!("{}", json!({ "schema": 1, "ablation": rows }));
    } else {
        print(&rows);
    }
    Ok(())
}

/// How far results are from those of the whole optimizer, in standard deviations; a part left out may cost time, never the answer.
fn apart(found: &[Value], whole: &[Value], without: Ablation) -> Result<f64> {
    let mut worst = 0f64;
    for (f, e) in found.iter().zip(whole) {
        let wrong = |why: String| {
            Failure::Fault(format!("error: {} gives other results, please report this with the model: {why}", without.what()))
        };
        let d = Tolerance::default().between(f, e).map_err(wrong)?;
        worst = worst.max(d.relative());
    }
    Ok(worst)
}

fn print(rows: &[Json]) {
    println!(
        "{:<22} {:>8} {:>7} {:>13} {:>12} {:>10} {:>7} {:>10}",
        "", "kernels", "copies", "arena bytes", "rewriting s", "p50 ms", "times", "|d|/sd"
    );
    let p50 = |row: &Json| row["p50_ms"].as_f64().unwrap_or(f64::NAN);
    for row in rows {
        println!(
            "{:<22} {:>8} {:>7} {:>13} {:>12.3} {:>10.3} {:>7.2} {:>10}",
            row["without"].as_str().unwrap_or_default(),
            row["kernels"].to_string(),
            row["copies"].to_string(),
            row["arena_bytes"].as_i64().map_or("at run time".into(), |n| n.to_string()),
            row["seconds"]["rewrite"].as_f64().unwrap_or(f64::NAN),
            p50(row),
            p50(row) / p50(&rows[0]),
            row["worst_over_sd"].as_f64().map_or(String::new(), |d| format!("{d:.1e}")),
        );
    }
}
