//! Random models against the reference evaluator, compiled or only optimized, and against ONNX Runtime.
//!
//! ```text
//! cargo run --release -p kiln-tests --bin random -- --models 1000 --seed 1 [--evaluate] [--ort PYTHON] [--out DIR] [--only SEED]
//! ```
//!
//! `--evaluate` builds no crates: models are optimized, evaluated, planned and printed. `--only SEED` repeats one model, and keeps it in
//! the folder of failures whatever becomes of it. The status is 1 where a model failed.

use kiln_cli::suite::{Case, Tolerance, quiet_panics};
use kiln_compiler::onnx::write_value;
use kiln_tests::random::judge::{self, Expected, Finding};
use kiln_tests::random::write::{Drawn, finish};
use kiln_tests::random::{grow, ort};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Models that are compiled together: two crates of a batch.
const SHARE: usize = 192;

/// What is asked.
struct Asked {
    models: usize,
    seed: u64,
    evaluate: bool,
    ort: Option<PathBuf>,
    out: PathBuf,
    only: Option<u64>,
    reduce: bool,
}

fn asked() -> Result<Asked, String> {
    let mut a =
        Asked { models: 1000, seed: 1, evaluate: false, ort: None, out: PathBuf::from("random-failures"), only: None, reduce: true };
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        let mut value = || args.next().ok_or(format!("{flag} needs a value"));
        let number = |text: String| text.parse::<u64>().map_err(|e| format!("{text}: {e}"));
        match flag.as_str() {
            "--models" => a.models = number(value()?)? as usize,
            "--seed" => a.seed = number(value()?)?,
            "--only" => a.only = Some(number(value()?)?),
            "--evaluate" => a.evaluate = true,
            "--no-reduce" => a.reduce = false,
            "--ort" => a.ort = Some(value()?.into()),
            "--out" => a.out = value()?.into(),
            _ => return Err(format!("{flag}: expected --models, --seed, --only, --evaluate, --no-reduce, --ort or --out")),
        }
    }
    Ok(a)
}

/// A model that is judged.
struct Judged {
    seed: u64,
    drawn: Drawn,
    model: Vec<u8>,
    expected: Option<[Expected; 2]>,
    finding: Option<Finding>,
}

fn judged(seed: u64, evaluate: bool) -> Option<Judged> {
    let drawn = judge::shielded("generator", || Ok(finish(grow(seed), seed)));
    let drawn = match drawn {
        Ok(d) => d?,
        Err(f) => {
            println!("{seed}: FAILED (generator): {f:?}");
            return None;
        }
    };
    let model = drawn.model();
    let (expected, finding) = match judge::expected(&drawn, &model) {
        Ok(e) if evaluate => {
            let finding = judge::evaluate(&drawn, &model, &e).err();
            (Some(e), finding)
        }
        Ok(e) => (Some(e), None),
        Err(f) => (None, Some(f)),
    };
    Some(Judged { seed, drawn, model, expected, finding })
}

/// Writes a case: the model, its inputs, and what the evaluator makes of them if that is known.
fn write_case(dir: &Path, j: &Judged) -> std::io::Result<()> {
    fs::create_dir_all(dir)?;
    fs::write(dir.join("model.onnx"), &j.model)?;
    for (run, inputs) in j.drawn.runs.iter().enumerate() {
        let set = dir.join(format!("test_data_set_{run}"));
        fs::create_dir_all(&set)?;
        for (i, v) in inputs.iter().enumerate() {
            fs::write(set.join(format!("input_{i}.pb")), write_value("", v))?;
        }
        for (i, v) in j.expected.iter().flat_map(|e| &e[run].values).enumerate() {
            fs::write(set.join(format!("output_{i}.pb")), write_value("", v))?;
        }
    }
    Ok(())
}

/// The results so far.
#[derive(Default)]
struct Tally {
    passed: usize,
    unstable: BTreeMap<String, usize>,
    failed: Vec<(u64, String, String)>,
    open: usize,
    agree: usize,
    foreign: BTreeMap<String, usize>,
    operators: BTreeMap<String, usize>,
}

impl Tally {
    fn fail(&mut self, a: &Asked, j: &Judged, stage: &str, why: &str) {
        let first = why.lines().next().unwrap_or_default();
        println!("{}: FAILED ({stage}): {first}\n    {}", j.seed, j.drawn.operators().join(" "));
        let dir = a.out.join(format!("seed-{}", j.seed));
        if let Err(e) = write_case(&dir, j).and_then(|()| fs::write(dir.join("why.txt"), format!("{stage}: {why}\n"))) {
            println!("    {}: {e}", dir.display());
        }
        // What ONNX Runtime alone finds is no failure that the command could look for.
        if a.reduce && stage != "ort" {
            println!("    {}", reduced(&dir));
        }
        self.failed.push((j.seed, stage.into(), first.into()));
    }
}

/// Reduces the failure in a folder; gives what the command says of it.
fn reduced(dir: &Path) -> String {
    let Ok(program) = std::env::current_exe() else { return "not reduced: this program does not find itself".into() };
    let mut c = Command::new(program);
    c.arg("reduce").arg(dir.join("model.onnx")).arg("--inputs").arg(dir).arg("-o").arg(dir.join("small.onnx"));
    match c.args(["--tries", "300"]).output() {
        Ok(out) => {
            let text = if out.status.success() { out.stdout } else { out.stderr };
            format!("reduced: {}", String::from_utf8_lossy(&text).trim())
        }
        Err(e) => format!("not reduced: {e}"),
    }
}

/// Judges models of these seeds on all cores.
fn judge_all(seeds: &[u64], evaluate: bool) -> Vec<Judged> {
    let (next, out) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    let workers = std::thread::available_parallelism().map_or(1, |n| n.get());
    std::thread::scope(|s| {
        for _ in 0..workers {
            s.spawn(|| {
                while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Some(j) = judged(*seed, evaluate)
                        && let Ok(mut out) = out.lock()
                    {
                        out.insert(*seed, j);
                    }
                }
            });
        }
    });
    out.into_inner().map(|o| o.into_values().collect()).unwrap_or_default()
}

/// What messages of one kind have in common: no numbers, and no names of files.
fn class(why: &str) -> String {
    let text = why.rsplit(".onnx failed:").next().unwrap_or(why).replace('\n', " ");
    text.trim_start_matches("[ONNXRuntimeError] : ").chars().filter(|c| !c.is_ascii_digit()).take(150).collect()
}

fn run(a: &Asked) -> Result<Tally, String> {
    let mut tally = Tally::default();
    let all: Vec<u64> = match a.only {
        Some(seed) => vec![seed],
        None => (a.seed..a.seed + a.models as u64).collect(),
    };
    let work = a.out.join("work");
    for seeds in all.chunks(SHARE) {
        let mut live = Vec::new();
        for j in judge_all(seeds, true) {
            j.drawn.operators().iter().for_each(|o| *tally.operators.entry(o.to_string()).or_default() += 1);
            tally.open += usize::from(j.drawn.is_open());
            if a.only.is_some() {
                write_case(&a.out.join(format!("seed-{}", j.seed)), &j).map_err(|e| e.to_string())?;
            }
            match j.finding.clone() {
                None => live.push(j),
                Some(Finding::Unstable(why)) => *tally.unstable.entry(why).or_default() += 1,
                Some(Finding::Failed(stage, why)) => {
                    tally.fail(a, &j, stage, &why);
                    // What only planning does wrong is not built, but its reference is held against ONNX Runtime all the same.
                }
            }
        }
        if !a.evaluate || a.ort.is_some() {
            let _ = fs::remove_dir_all(&work);
            let mut cases = Vec::new();
            for j in &live {
                let path = std::path::absolute(work.join(format!("seed-{}", j.seed))).map_err(|e| e.to_string())?;
                write_case(&path, j).map_err(|e| e.to_string())?;
                cases.push(Case {
                    group: String::new(),
                    name: j.seed.to_string(),
                    path,
                    tolerance: Tolerance { relative: 0.0, absolute: 0.0 },
                });
            }
            let mut bad = vec![false; live.len()];
            if !a.evaluate {
                kiln_cli::run_cases(&cases, &mut |i, outcome| {
                    let j = &live[i];
                    let sets = j.expected.as_ref().into_iter().flatten();
                    let verdict: Result<(), (&str, String)> = outcome.map_err(|why| ("compiled", why)).and_then(|found| {
                        let mut pairs = found.iter().zip(sets).enumerate();
                        pairs.try_for_each(|(k, (f, e))| judge::compare(f, e, 0.0).map_err(|w| ("differs", format!("run {k}: {w}"))))
                    });
                    if let Err((stage, why)) = verdict {
                        bad[i] = true;
                        tally.fail(a, j, stage, &why);
                    }
                })?;
            }
            if let Some(python) = &a.ort {
                for (i, results) in ort::run(python, &cases, 2)?.into_iter().enumerate() {
                    let j = &live[i];
                    match results {
                        Ok(found) => {
                            let sets = j.expected.as_ref().into_iter().flatten();
                            let verdict: Result<(), String> = found
                                .iter()
                                .zip(sets)
                                .enumerate()
                                .try_for_each(|(k, (f, e))| judge::compare(f, e, judge::FOREIGN).map_err(|w| format!("run {k}: {w}")));
                            match verdict {
                                Ok(()) => tally.agree += 1,
                                Err(why) => {
                                    bad[i] = true;
                                    tally.fail(a, j, "ort", &why);
                                }
                            }
                        }
                        Err(why) => {
                            *tally.foreign.entry(class(&why)).or_default() += 1;
                        }
                    }
                }
            }
            tally.passed += bad.iter().filter(|b| !**b).count();
        } else {
            tally.passed += live.len();
        }
        println!("  … {} done, {} failed", seeds.last().copied().unwrap_or_default(), tally.failed.len());
    }
    let _ = fs::remove_dir_all(&work);
    Ok(tally)
}

fn main() -> ExitCode {
    // Cases are compiled and failures reduced in children of this program, which then is the command.
    if matches!(std::env::args().nth(1).as_deref(), Some("modules" | "reduce")) {
        return kiln_cli::main();
    }
    quiet_panics();
    let done = asked().and_then(|a| run(&a).map(|t| (a, t)));
    match done {
        Ok((a, t)) => {
            let unstable: usize = t.unstable.values().sum();
            let how = if a.evaluate { "evaluated" } else { "compiled" };
            println!("operators: {:?}", t.operators);
            t.unstable.iter().for_each(|(why, n)| println!("not judged: {why}: {n}"));
            t.foreign.iter().for_each(|(why, n)| println!("not by ONNX Runtime: {n}: {why}"));
            let agree = if a.ort.is_some() { format!(", {} agree with ONNX Runtime", t.agree) } else { String::new() };
            println!("{} {how} and right ({} open), {unstable} not judged{agree}, {} failed", t.passed, t.open, t.failed.len());
            ExitCode::from(u8::from(!t.failed.is_empty()))
        }
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::from(2)
        }
    }
}
