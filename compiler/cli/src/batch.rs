//! Many small models in few programs: each case a module, so that rustc starts once for a hundred of them. A case that does not compile,
//! build or end takes no other with it.

use crate::cache::{self, Scratch};
use crate::cargo;
use crate::children::Work;
use crate::crates::{self, Round, Unit};
use crate::failure::{At, Failure, Result};
use crate::job;
use crate::model::compile_guarded;
use crate::package::{self, Features};
use crate::suite::{self, Case, DataSet};
use kiln_compiler::Options;
use kiln_compiler::emit::{Interface, Names, WeightsAt};
use kiln_kernels::value::Value;
use serde_json::Value as Json;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

/// Cases in one program: enough to spread rustc's start, few enough to keep its memory small.
const BATCH: usize = 96;
/// Cases that a child compiles.
const SHARE: usize = 24;
/// How long a case may run.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long it may take to compile one.
const LONG_PATIENCE: Duration = Duration::from_secs(600);

/// Found outputs of each data set, or why there are none.
pub(crate) type Outcome = std::result::Result<Vec<Vec<Value>>, String>;

/// Programs under construction.
#[derive(Debug)]
struct Shop<'a> {
    cases: &'a [Case],
    dir: PathBuf,
    work: PathBuf,
    tag: String,
    failed: Mutex<BTreeMap<usize, String>>,
    features: Features,
}

/// Compiles, builds and runs the cases; `extra` are arguments of their jobs.
pub(crate) fn run(cases: &[Case], extra: &[String], each: &mut dyn FnMut(usize, Outcome)) -> Result<()> {
    let scratch = Scratch::new()?;
    let (dir, work) = (scratch.0.join("src"), scratch.0.join("work"));
    for d in [&dir, &work] {
        fs::create_dir_all(d).at(d)?;
    }
    let (tag, failed) = (format!("kiln-t-{}", std::process::id()), Mutex::new(BTreeMap::new()));
    let mut shop = Shop { cases, dir, work, tag, failed, features: Features::new() };
    let done = shop
        .make_all()
        .and_then(|()| shop.read_features())
        .and_then(|()| shop.build())
        .and_then(|programs| shop.run_all(&programs, extra, each));
    shop.sweep();
    done
}

impl Shop<'_> {
    fn failed(&self) -> MutexGuard<'_, BTreeMap<usize, String>> {
        self.failed.lock().unwrap_or_else(|e| e.into_inner())
    }
    fn fail(&self, case: usize, why: String) {
        self.failed().insert(case, why);
    }
    /// Compiles every case to a module, its weights and its inputs, in children of this program.
    fn make_all(&self) -> Result<()> {
        let program = std::env::current_exe().map_err(|e| Failure::Tool(format!("error: this program does not find itself: {e}")))?;
        let all: Vec<usize> = (0..self.cases.len()).collect();
        let shares: Vec<&[usize]> = all.chunks(SHARE).collect();
        let next = AtomicUsize::new(0);
        let workers = std::thread::available_parallelism().map_or(1, |n| n.get());
        std::thread::scope(|s| {
            for _ in 0..workers.min(shares.len()) {
                s.spawn(|| {
                    while let Some(members) = shares.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let command = |from: usize| {
                            let mut command = Command::new(&program);
                            command.arg("modules").arg("--").arg(&self.dir).arg(&self.work);
                            members[from..].iter().for_each(|i| {
                                command.arg(i.to_string()).arg(&self.cases[*i].path);
                            });
                            command
                        };
                        Work { members, who: "the compiler", patience: LONG_PATIENCE, command: &command }.run(&|i, why| self.fail(i, why));
                    }
                });
            }
        });
        Ok(())
    }
    /// Learns which features the modules need.
    fn read_features(&mut self) -> Result<()> {
        for i in 0..self.cases.len() {
            let path = self.work.join(format!("c{i}.features"));
            if path.is_file() {
                self.features.extend(fs::read_to_string(&path).at(&path)?.lines().map(String::from));
            }
        }
        Ok(())
    }
    /// Builds the programs, without the modules that rustc refuses; gives those that were built.
    fn build(&self) -> Result<Vec<(Unit, PathBuf)>> {
        let failed = self.failed().clone();
        let live: Vec<usize> = (0..self.cases.len()).filter(|i| !failed.contains_key(i)).collect();
        let units = live.chunks(BATCH).enumerate().map(|(id, m)| Unit { id, members: m.to_vec() }).collect();
        let target = cache::root()?.join("target/release");
        let done = crates::settle(units, &mut |units| self.round(units), &mut |case, why| self.fail(case, why))?;
        Ok(done.into_iter().map(|u| (u.clone(), target.join(self.crate_name(&u)))).collect())
    }
    fn crate_name(&self, unit: &Unit) -> String {
        format!("{}-{}", self.tag, unit.id)
    }
    /// Builds some crates.
    fn round(&self, units: &[Unit]) -> Result<Round> {
        let members: Vec<String> = units.iter().map(|u| format!("\"b{}\"", u.id)).collect();
        let manifest = format!(
            "[workspace]\nresolver = \"3\"\nmembers = [{}]\n\n[profile.release]\nopt-level = 0\ncodegen-units = 2\n\n[profile.release.package.\"*\"]\nopt-level = 3\ncodegen-units = 16\n",
            members.join(", ")
        );
        fs::write(self.dir.join("Cargo.toml"), manifest).at(&self.dir)?;
        units.iter().try_for_each(|u| self.write_crate(u))?;
        let done = cargo::build(&self.dir, &["--keep-going", "--message-format=json", "--quiet"])?;
        let names: BTreeMap<String, usize> = units.iter().map(|u| (self.crate_name(u), u.id)).collect();
        let round = understood(&done.stdout, &String::from_utf8_lossy(&done.stderr), &names);
        if !round.sound {
            eprintln!("{}", round.reasons.values().next().map_or("cargo failed", String::as_str));
        }
        Ok(round)
    }
    fn write_crate(&self, unit: &Unit) -> Result<()> {
        let src = self.dir.join(format!("b{}/src", unit.id));
        fs::create_dir_all(&src).at(&src)?;
        let kiln = package::program_dependency(&self.features)?;
        let manifest =
            format!("[package]\nname = \"{}\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[dependencies]\n{kiln}\n", self.crate_name(unit));
        write_changed(&self.dir.join(format!("b{}/Cargo.toml", unit.id)), &manifest)?;
        let mut text = String::from("//! A batch of compiled models.\n#![allow(unused, missing_docs, clippy::all)]\n\n");
        unit.members.iter().for_each(|i| text += &format!("#[path = \"../../c{i}.rs\"]\nmod c{i};\n"));
        text += "\nfn main() -> std::process::ExitCode {\n    kiln::harness::main_many(&[\n";
        unit.members.iter().for_each(|i| text += &format!("        (\"c{i}\", kiln::harness::sets::<c{i}::Net>),\n"));
        text += "    ])\n}\n";
        write_changed(&src.join("main.rs"), &text)
    }
    /// Runs the programs and tells of every case, in order.
    fn run_all(&self, programs: &[(Unit, PathBuf)], extra: &[String], each: &mut dyn FnMut(usize, Outcome)) -> Result<()> {
        let home: BTreeMap<usize, usize> =
            programs.iter().enumerate().flat_map(|(k, (u, _))| u.members.iter().map(move |i| (*i, k))).collect();
        let mut ran = BTreeSet::new();
        for i in 0..self.cases.len() {
            if let Some(k) = home.get(&i).filter(|k| ran.insert(**k)) {
                let (unit, program) = &programs[*k];
                let command = |from: usize| {
                    let mut command = Command::new(program);
                    command.args(["batch".into(), format!("dir={}", self.work.display()), format!("from={from}")]).args(extra);
                    command
                };
                let work = Work { members: &unit.members, who: "the program", patience: PATIENCE, command: &command };
                work.run(&|i, why| self.fail(i, why));
            }
            let failed = self.failed().get(&i).cloned();
            let outcome = failed.map_or_else(|| self.outputs(i), Err);
            for e in ["in", "out", "bin"] {
                // A case that failed early has not all of them.
                let _ = fs::remove_file(self.work.join(format!("c{i}.{e}")));
            }
            each(i, outcome);
        }
        Ok(())
    }
    fn outputs(&self, i: usize) -> Outcome {
        let sets = job::load(&self.work.join(format!("c{i}.out"))).map_err(|_| "the program wrote no outputs".to_string())?;
        let one = |v| if let Value::Sequence(v) = v { Ok(v) } else { Err("the outputs are no sequence".to_string()) };
        sets.into_iter().map(one).collect()
    }
    /// Removes what cargo keeps of the programs.
    fn sweep(&self) {
        let Ok(root) = cache::root() else { return };
        let target = root.join("target/release");
        for (folder, prefix) in [("", self.tag.clone()), ("deps", self.tag.replace('-', "_")), (".fingerprint", self.tag.clone())] {
            for entry in fs::read_dir(target.join(folder)).into_iter().flatten().flatten() {
                if entry.file_name().to_string_lossy().starts_with(&prefix) {
                    let path = entry.path();
                    let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
                }
            }
        }
    }
}

/// Writes a file unless it says that already: unchanged, cargo need not build it again.
fn write_changed(path: &Path, text: &str) -> Result<()> {
    if fs::read_to_string(path).is_ok_and(|old| old == text) { Ok(()) } else { fs::write(path, text).at(path) }
}

/// Compiles case `i` in `folder` to a module in `src`, its weights and its inputs in `work`.
pub(crate) fn module(src: &Path, work: &Path, i: usize, folder: &Path) -> std::result::Result<(), String> {
    let text = |f: Failure| match f {
        Failure::Fault(t) | Failure::Usage(t) | Failure::Tool(t) => t,
    };
    let model = folder.join("model.onnx");
    let sets: Vec<DataSet> = suite::data(folder, &suite::model(folder)?)?;
    let output = compile_guarded(&Options { model, ..Options::default() }).map_err(text)?;
    let names = Names::new("Net", WeightsAt::Given).interface(Interface::Dynamic);
    let source = output.rust(&names).map_err(|d| d.to_string())?;
    fs::write(src.join(format!("c{i}.rs")), source).map_err(|e| e.to_string())?;
    let features = package::features(&output);
    if !features.is_empty() {
        let lines: Vec<String> = features.into_iter().collect();
        fs::write(work.join(format!("c{i}.features")), lines.join("\n")).map_err(|e| e.to_string())?;
    }
    package::write_weights(&output, &work.join(format!("c{i}.bin"))).map_err(text)?;
    let sets = sets.into_iter().map(|s| job::set(&s.inputs.into_iter().map(Some).collect::<Vec<_>>())).collect();
    job::save(&work.join(format!("c{i}.in")), &Value::Sequence(sets)).map_err(text)
}

/// What cargo's messages say of the crates of these names.
fn understood(stdout: &[u8], stderr: &str, names: &BTreeMap<String, usize>) -> Round {
    let mut round = Round::default();
    for line in stdout.split(|b| *b == b'\n') {
        let Ok(json) = serde_json::from_slice::<Json>(line) else { continue };
        let target = json["target"]["name"].as_str().unwrap_or_default();
        let (unit, m) = (names.get(target), &json["message"]);
        match json["reason"].as_str() {
            Some("compiler-artifact") => {
                round.sound |= target == "kiln";
                round.built.extend(unit);
            }
            Some("compiler-message") if m["level"] == "error" => {
                let text = m["message"].as_str().unwrap_or_default().lines().next().unwrap_or_default();
                let line = m["spans"][0]["line_start"].as_u64().map_or(String::new(), |l| format!(" (line {l})"));
                let text = format!("{text}{line}");
                let mut files = m["spans"].as_array().into_iter().flatten().filter_map(|s| s["file_name"].as_str());
                let case = files.find_map(|f| Path::new(f).file_stem()?.to_str()?.strip_prefix('c')?.parse::<usize>().ok());
                if let (Some(case), Some(_)) = (case, unit) {
                    round.blamed.entry(case).or_insert(text);
                    continue;
                }
                // An error of what all crates depend on is one of each.
                for u in unit.map_or_else(|| names.values().collect::<Vec<_>>(), |u| vec![u]) {
                    round.reasons.entry(*u).or_insert_with(|| text.clone());
                }
            }
            _ => {}
        }
    }
    // Of a compiler that was killed only cargo knows.
    for (name, unit) in names.iter().filter(|(_, unit)| !round.built.contains(unit)) {
        let Some((_, about)) = stderr.split_once(&format!("could not compile `{name}`")) else { continue };
        let about = about.split("could not compile").next().unwrap_or_default();
        let how = about.lines().find(|l| l.contains("process didn't exit successfully")).and_then(|l| l.rsplit_once('(')).map(|(_, t)| t);
        if let Some(how) = how {
            round.reasons.entry(*unit).or_insert_with(|| format!("rustc stopped with {}", how.trim_end().trim_end_matches(')')));
        }
    }
    if let Some(line) = stderr.lines().find(|l| l.starts_with("error")) {
        for unit in names.values() {
            round.reasons.entry(*unit).or_insert_with(|| line.to_string());
        }
    }
    round
}
