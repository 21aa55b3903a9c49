//! The rates of the cost model, measured: runs small models with `kiln bench` on one thread, fits the rates to their times, and prints
//! how far the model is from each. What it prints goes into `compiler/src/target/cpu/cost.rs` by hand, when a machine is worth it.

use kiln_compiler::ir::{Fact, Graph, Node};
use kiln_compiler::rewrite::Priced;
use kiln_compiler::target::cpu::{RATES, Rates, cost};
use kiln_compiler::{Options, compile, fusion};
use kiln_kernels::dtype::DType::F32;
use kiln_kernels::value::Tensor;
use kiln_tests::models::ModelBuilder;
use kiln_tests::samples::noise;
use std::path::Path;
use std::process::{Command, ExitCode};

/// Rounds of the fit; it has long settled by then.
const ROUNDS: usize = 20_000;

fn weight(dims: &[usize]) -> Tensor {
    Tensor::new(dims, &noise(7, dims.iter().product()))
}

fn model(dims: &[usize]) -> ModelBuilder {
    ModelBuilder::new().opset(18).input("x", F32, dims.iter().map(|d| *d as i64))
}

/// As many pointwise operators in a row, in one kernel.
fn pointwise(n: usize, count: usize) -> ModelBuilder {
    let mut m = model(&[n]);
    for i in 0..count {
        let from = if i == 0 { "x".to_string() } else { format!("v{i}") };
        m = m.node(if i % 2 == 0 { "Abs" } else { "Floor" }, &[&from], &[&format!("v{}", i + 1)]);
    }
    m.output(&format!("v{count}"))
}

fn product([rows, depth, columns]: [usize; 3]) -> ModelBuilder {
    model(&[rows, depth]).initializer("w", weight(&[depth, columns])).node("MatMul", &["x", "w"], &["y"]).output("y")
}

/// Two convolutions behind a small one, so that both read and write channels last.
fn convolutions([channels, size, kernel, groups]: [usize; 4]) -> ModelBuilder {
    let w = [channels, channels / groups, kernel, kernel];
    let pads = vec![(kernel / 2) as i64; 4];
    let mut m = model(&[1, 1, size, size]).initializer("u", weight(&w)).initializer("v", weight(&w));
    m = m.initializer("s", weight(&[channels, 1, 1, 1])).node("Conv", &["x", "s"], &["c"]);
    for (from, by, to) in [("c", "u", "a"), ("a", "v", "y")] {
        m = m.node("Conv", &[from, by], &[to]).attr("pads", pads.clone()).attr("group", groups as i64);
    }
    m.output("y")
}

fn attention([heads, tokens, depth]: [usize; 3]) -> ModelBuilder {
    model(&[heads, tokens, depth])
        .node("Transpose", &["x"], &["k"])
        .attr("perm", vec![0i64, 2, 1])
        .node("MatMul", &["x", "k"], &["s"])
        .node("Softmax", &["s"], &["p"])
        .node("MatMul", &["p", "x"], &["y"])
        .output("y")
}

fn rows(op: &str, [rows, columns]: [usize; 2]) -> ModelBuilder {
    let m = model(&[rows, columns]).initializer("g", weight(&[columns]));
    m.node(op, if op == "Softmax" { &["x"] } else { &["x", "g"] }, &["y"]).output("y")
}

fn samples() -> Vec<(String, ModelBuilder)> {
    let mut out = Vec::new();
    for (n, count) in [(1024, 1), (65_536, 1), (65_536, 8), (65_536, 24), (1 << 20, 1), (1 << 20, 8)] {
        out.push((format!("{count} pointwise on {n}"), pointwise(n, count)));
    }
    for s in [[128, 768, 768], [128, 768, 3072], [64, 256, 256], [512, 512, 512], [1, 768, 768], [1, 768, 3072], [2, 2048, 1000]] {
        out.push((format!("product {s:?}"), product(s)));
    }
    for s in [[64, 56, 3, 1], [256, 14, 1, 1], [256, 14, 3, 1], [512, 7, 3, 1], [32, 112, 1, 1], [96, 56, 3, 96], [384, 14, 3, 384]] {
        out.push((format!("convolutions {s:?}"), convolutions(s)));
    }
    for s in [[12, 128, 64], [4, 512, 32]] {
        out.push((format!("attention {s:?}"), attention(s)));
    }
    for s in [[128, 768], [1536, 128]] {
        out.push((format!("Softmax {s:?}"), rows("Softmax", s)));
        out.push((format!("LayerNormalization {s:?}"), rows("LayerNormalization", s)));
    }
    out
}

/// What the cost model says of a plan's kernels at these rates, in picoseconds.
fn predicted(g: &Graph, rates: &Rates) -> f64 {
    let price = |n: &Node| {
        let fact = |v: &kiln_compiler::ir::ValueId| &g[*v].fact;
        let results: Vec<Fact> = n.outputs.iter().map(|v| fact(v).clone()).collect();
        let weights = n.inputs.iter().map(|v| v.is_none_or(|v| g[v].constant.is_some())).collect();
        cost(
            rates,
            &g.symbols,
            &Priced { op: &n.op, inputs: n.inputs.iter().map(|v| v.as_ref().map(fact)).collect(), weights, results: &results, rule: None },
        )
    };
    let cluster = |c: &fusion::Cluster| {
        c.nodes.iter().enumerate().map(|(i, n)| if i == 0 { price(&g[*n]).alone } else { price(&g[*n]).joined }).sum::<u64>()
    };
    fusion::cluster(g, &g.body, true).iter().map(cluster).sum::<u64>() as f64
}

fn measured(path: &Path) -> Result<f64, String> {
    let mut c = Command::new(env!("CARGO"));
    c.args(["run", "--release", "--quiet", "-p", "kiln-cli", "--bin", "kiln", "--", "bench", "--json", "--threads", "1"]).arg(path);
    let out = c.output().map_err(|e| e.to_string())?;
    let found: serde_json::Value = serde_json::from_slice(&out.stdout).map_err(|_| String::from_utf8_lossy(&out.stderr).into_owned())?;
    found["min_ms"].as_f64().map(|ms| ms * 1e9).ok_or_else(|| format!("no time in {found}"))
}

/// The rate at a place of the list, for reading and writing.
fn rate(r: &mut Rates, i: usize) -> (&'static str, &mut f64) {
    match i {
        0 => ("multiply_add", &mut r.multiply_add),
        1 => ("loose", &mut r.loose),
        2 => ("byte", &mut r.byte),
        3 => ("weight", &mut r.weight),
        4 => ("scalar", &mut r.scalar),
        _ => ("kernel", &mut r.kernel),
    }
}
const COUNT: usize = 6;

/// Rates that are not negative and whose relative errors have the least squares, one rate after the other until they settle.
fn fit(features: &[[f64; COUNT]], times: &[f64]) -> [f64; COUNT] {
    let mut x = [0f64; COUNT];
    for _ in 0..ROUNDS {
        for k in 0..COUNT {
            let (mut up, mut down) = (0.0, 0.0);
            for (f, t) in features.iter().zip(times) {
                let rest: f64 = (0..COUNT).filter(|j| *j != k).map(|j| f[j] * x[j]).sum();
                up += f[k] / t * (1.0 - rest / t);
                down += (f[k] / t).powi(2);
            }
            x[k] = if down > 0.0 { (up / down).max(0.0) } else { 0.0 };
        }
    }
    x
}

fn run() -> Result<(), String> {
    let dir = std::env::temp_dir().join("kiln-roofline");
    std::fs::create_dir_all(&dir).map_err(|e| e.to_string())?;
    let (mut features, mut times, mut names, mut now) = (vec![], vec![], vec![], vec![]);
    for (i, (name, model)) in samples().into_iter().enumerate() {
        let path = dir.join(format!("{i}.onnx"));
        std::fs::write(&path, model.build()).map_err(|e| e.to_string())?;
        let output = compile(&Options { model: path.clone(), ..Options::default() }).map_err(|e| e.to_string())?;
        let g = &output.plan.graph;
        features.push(std::array::from_fn(|k| {
            // The model is linear in its rates; prices are whole numbers, so the unit is a large one.
            let mut unit = Rates::default();
            *rate(&mut unit, k).1 = 1000.0;
            predicted(g, &unit) / 1000.0
        }));
        now.push(predicted(g, &RATES));
        times.push(measured(&path)?);
        eprintln!("{name}: {:.1} µs", times[i] / 1e6);
        names.push(name);
    }
    let fitted = fit(&features, &times);
    println!("{:<34} {:>12} {:>10} {:>10}", "", "measured µs", "rates now", "fitted");
    for (i, name) in names.iter().enumerate() {
        let again: f64 = (0..COUNT).map(|k| features[i][k] * fitted[k]).sum();
        println!("{name:<34} {:>12.1} {:>10.2} {:>10.2}", times[i] / 1e6, now[i] / times[i], again / times[i]);
    }
    let mut rates = RATES;
    println!();
    for (k, new) in fitted.iter().enumerate() {
        let (name, old) = rate(&mut rates, k);
        println!("{name:<14} {old:>12.1} {new:>12.1}");
    }
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}
