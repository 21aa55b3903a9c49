//! The ONNX backend suite, compiled: makes its own Python environment, writes the suite out, runs `kiln test` on it, and holds the
//! result of every case against the expectation that is checked in, and the plans of whole networks against a table of them. `BLESS=1`
//! writes the expectations, the table of plans, the table of support and that of errors.

use kiln_compiler::{Options, compile};
use kiln_tests::plans::{self, Line, Table};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// The version whose suite the expectations are of.
const ONNX: &str = "onnx==1.23.2";
const FOLDERS: [&str; 6] = ["simple", "pytorch-operator", "pytorch-converted", "light", "node", "types"];
/// The folder of whole networks, whose plans are held against the table.
const NETWORKS: &str = "light";
/// Longer reasons are cut: the expectation is for people to read.
const MAX_REASON: usize = 160;

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}

fn succeed(c: &mut Command) -> Result<(), String> {
    match c.status() {
        Ok(s) if s.success() => Ok(()),
        Ok(s) => Err(format!("{c:?} ended with {s}")),
        Err(e) => Err(format!("{c:?}: {e}")),
    }
}

fn run() -> Result<bool, String> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance");
    let work = here.join(".work");
    std::fs::create_dir_all(&work).map_err(|e| e.to_string())?;
    let suite = work.join("suite");
    prepare(&here, &work, &suite)?;
    let bless = std::env::var_os("BLESS").is_some();
    let only: Vec<String> = std::env::args().skip(1).collect();
    let (mut drift, mut worse) = (0, 0);
    let (mut passed, mut failed) = (0, 0);
    let mut all: BTreeMap<&str, BTreeMap<String, String>> = BTreeMap::new();
    let mut errors: BTreeMap<&str, Errors> = BTreeMap::new();
    for folder in FOLDERS.iter().filter(|f| only.is_empty() || only.iter().any(|o| o == *f)) {
        let (got, found) = compiled(&suite.join(folder))?;
        let ok = got.values().filter(|r| *r == "ok").count();
        println!("{folder}: {ok} of {} passed, {} of them by distribution", got.len(), found.by_distribution.len());
        errors.insert(folder, found);
        passed += ok;
        failed += got.len() - ok;
        let file = here.join(format!("expected/{folder}.txt"));
        if bless {
            let text: String = got.iter().map(|(case, reason)| format!("{case}\t{reason}\n")).collect();
            std::fs::write(&file, text).map_err(|e| e.to_string())?;
        } else {
            drift += compare(&file, &got)?;
        }
        all.insert(folder, got);
        if *folder == NETWORKS {
            worse += planned(&suite.join(folder), &here.join("expected/plans.txt"), bless)?;
        }
    }
    if bless && only.is_empty() {
        let path = here.join("../../docs/operators.md");
        std::fs::write(&path, support(&suite, &all)).map_err(|e| e.to_string())?;
        let path = here.join("../../docs/exactness.md");
        std::fs::write(&path, exactness(&errors)).map_err(|e| e.to_string())?;
    }
    println!("suite: {passed} passed, {failed} failed as expected, {drift} differ from what is checked in");
    Ok(drift == 0 && worse == 0)
}

/// Compiles the networks of a folder and holds their plans against the table, or writes it; gives how much is worse.
fn planned(folder: &Path, table: &Path, bless: bool) -> Result<usize, String> {
    let mut found = Table::new();
    let cases = std::fs::read_dir(folder).and_then(Iterator::collect::<Result<Vec<_>, _>>).map_err(|e| e.to_string())?;
    for case in cases {
        let model = case.path().join("model.onnx");
        let name = case.file_name().to_string_lossy().into_owned();
        let report = compile(&Options { model, ..Options::default() }).map_err(|d| d.to_string())?.report;
        found.insert(name.clone(), Line::of(&report).map_err(|e| format!("{name}: {e}"))?);
    }
    print!("{}", plans::print(&found));
    if bless {
        std::fs::write(table, plans::print(&found)).map_err(|e| e.to_string())?;
    }
    let text = std::fs::read_to_string(table).map_err(|e| format!("{}: {e}", table.display()))?;
    let difference = plans::compare(&plans::parse(&text)?, &found);
    difference.worse.iter().for_each(|line| println!("  worse: {line}"));
    difference.better.iter().for_each(|line| println!("  better than what is checked in (BLESS=1 takes it over): {line}"));
    println!("plans: {} networks, {} numbers worse, {} better", found.len(), difference.worse.len(), difference.better.len());
    Ok(difference.worse.len())
}

fn prepare(here: &Path, work: &Path, suite: &Path) -> Result<(), String> {
    let venv = work.join("venv");
    let python = venv.join("bin/python");
    if !python.is_file() {
        succeed(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
        succeed(Command::new(&python).args(["-m", "pip", "install", "--quiet", ONNX, "numpy"]))?;
    }
    succeed(Command::new(&python).arg(here.join("prepare.py")).arg(suite))
}

/// How near the results of passing cases are.
#[derive(Default)]
struct Errors {
    /// The largest error of each case in units in the last place; none where its results have no floats.
    ulp: BTreeMap<String, Option<u64>>,
    /// Cases whose results are drawn, and fit their law.
    by_distribution: Vec<String>,
}

/// Runs `kiln test` on a folder; gives the result of each case, and how near it is.
fn compiled(folder: &Path) -> Result<(BTreeMap<String, String>, Errors), String> {
    let mut c = Command::new(env!("CARGO"));
    c.args(["run", "--release", "--quiet", "-p", "kiln-cli", "--bin", "kiln", "--", "test", "--json", "--ulp"]).arg(folder);
    let out = c.stderr(std::process::Stdio::inherit()).output().map_err(|e| e.to_string())?;
    let value: Value = serde_json::from_slice(&out.stdout).map_err(|e| format!("{c:?} printed no JSON: {e}"))?;
    let cases = value["cases"].as_object().ok_or("the JSON has no cases")?;
    let one_line = |v: &Value| -> String {
        // The place in the file is where the suite happens to lie.
        let text = v.as_str().unwrap_or_default().lines().next().unwrap_or_default();
        let text = text.split(" --> ").next().unwrap_or_default().trim_end();
        text.chars().take(MAX_REASON).map(|c| if c == '\t' { ' ' } else { c }).collect()
    };
    let short = |k: &str| k.rsplit('/').next().unwrap_or(k).to_string();
    let ulp = value["ulp"].as_object().ok_or("the JSON has no errors")?;
    let drawn = value["by_distribution"].as_array().ok_or("the JSON does not say what passed by distribution")?;
    let errors = Errors {
        ulp: ulp.iter().map(|(k, v)| (short(k), v.as_u64())).collect(),
        by_distribution: drawn.iter().filter_map(Value::as_str).map(short).collect(),
    };
    Ok((cases.iter().map(|(k, v)| (short(k), one_line(v))).collect(), errors))
}

/// The table of errors: how many cases of each folder have which, and those that are not exact.
fn exactness(errors: &BTreeMap<&str, Errors>) -> String {
    let mut out = String::from(
        "# Exactness\n\nWritten by `cargo run --release -p kiln-tests --bin conformance` with `BLESS=1`: the largest error of each passing case of \
         the backend suite of onnx 1.23.2, in units in the last place of the type of the result. Integers, booleans, strings and shapes are \
         compared exactly. What is expected are floats of the suite, which err themselves; sums that cancel are many units off where they \
         are near 0. Numbers differ a little with the instruction set.\n\n\
         | folder | no floats: exact | 0 ulp | 1 | 2 to 4 | 5 to 16 | 17 to 256 | more | by distribution |\n|---|---|---|---|---|---|---|---|---|\n",
    );
    const BOUNDS: [(u64, u64); 6] = [(0, 0), (1, 1), (2, 4), (5, 16), (17, 256), (257, u64::MAX)];
    for (folder, e) in errors {
        let exact = e.ulp.values().filter(|u| u.is_none()).count();
        let counts = BOUNDS.map(|(lo, hi)| e.ulp.values().flatten().filter(|u| (lo..=hi).contains(*u)).count().to_string());
        let _ = writeln!(out, "| {folder} | {exact} | {} | {} |", counts.join(" | "), e.by_distribution.len());
    }
    out.push_str("\n| case | largest ulp |\n|---|---|\n");
    for (folder, e) in errors {
        for (case, ulp) in e.ulp.iter().filter_map(|(c, u)| u.filter(|u| *u > 0).map(|u| (c, u))) {
            let _ = writeln!(out, "| {folder}/{case} | {ulp} |");
        }
    }
    let drawn: Vec<String> = errors.values().flat_map(|e| &e.by_distribution).map(|c| format!("`{c}`")).collect();
    let _ =
        writeln!(out, "\nBy distribution (type, shape, range, dependence on the seed, frequencies over 400 draws): {}.", drawn.join(", "));
    out
}

/// Prints every case whose passing differs from the expectation; gives how many.
fn compare(file: &Path, got: &BTreeMap<String, String>) -> Result<usize, String> {
    let text = std::fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
    let expected: BTreeMap<&str, &str> = text.lines().filter_map(|l| l.split_once('\t')).collect();
    let mut drift = 0;
    for (case, reason) in got {
        let was = expected.get(case.as_str()).copied().unwrap_or("not listed");
        if (was == "ok") != (reason == "ok") || was == "not listed" {
            println!("  {case}: expected {was}, found {reason}");
            drift += 1;
        }
    }
    for case in expected.keys().filter(|c| !got.contains_key(**c)) {
        println!("  {case}: did not run");
        drift += 1;
    }
    Ok(drift)
}

/// The table of support: every operator that Kiln reads, with the cases of the suite that its name opens.
fn support(suite: &Path, all: &BTreeMap<&str, BTreeMap<String, String>>) -> String {
    let mut out = String::from(
        "# Operators\n\nWritten by `cargo run --release -p kiln-tests --bin conformance` with `BLESS=1`: cases of the backend suite of onnx 1.23.2, \
         compiled and run; `types` are cases of it with operands of each other type that the operator takes.\n\n| folder | passed | of |\n|---|---|---|\n",
    );
    for (folder, cases) in all {
        let _ = writeln!(out, "| {folder} | {} | {} |", cases.values().filter(|r| *r == "ok").count(), cases.len());
    }
    let mut by_op: BTreeMap<(String, String), (usize, usize)> = BTreeMap::new();
    for (folder, cases) in all {
        for (case, reason) in cases {
            let path: PathBuf = suite.join(folder).join(case).join("model.onnx");
            let Ok(model) = kiln_compiler::onnx::read_file(&path, &Default::default()) else { continue };
            let ops: std::collections::BTreeSet<(String, String)> =
                model.graph.nodes.iter().map(|n| (n.domain.clone(), n.op_type.clone())).collect();
            for op in ops {
                let entry = by_op.entry(op).or_insert((0, 0));
                entry.0 += (reason == "ok") as usize;
                entry.1 += 1;
            }
        }
    }
    out.push_str("\n| operator | since opset | cases passed that use it | of |\n|---|---|---|---|\n");
    for s in kiln_compiler::ops::SCHEMAS {
        let (passed, total) = by_op.remove(&(s.domain.to_string(), s.name.to_string())).unwrap_or((0, 0));
        let domain = if s.domain.is_empty() { String::new() } else { format!("{}.", s.domain) };
        let _ = writeln!(out, "| {domain}{} | {} | {passed} | {total} |", s.name, s.since);
    }
    let missing: Vec<String> = by_op.keys().map(|(d, n)| if d.is_empty() { n.clone() } else { format!("{d}.{n}") }).collect();
    let _ = writeln!(
        out,
        "\nNot read yet, of those that the suite uses: {}.",
        if missing.is_empty() { "none".into() } else { missing.join(", ") }
    );
    out
}
