//! Many small models in few programs: each case a module, so that rustc starts once for a hundred of them. A case that does not compile,
//! build or end takes no other with it.

use crate::cache::{self, Scratch};
use crate::cargo;
use crate::failure::{At, Result};
use crate::job;
use crate::model::compile_guarded;
use crate::package::{self, toml};
use crate::suite::{Case, DataSet};
use kiln_compiler::Options;
use kiln_compiler::emit::{Interface, Names, WeightsAt};
use kiln_kernels::value::Value;
use serde_json::Value as Json;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// Cases in one program: enough to spread rustc's start, few enough to keep its memory small.
const BATCH: usize = 96;
/// How long a case may run.
const PATIENCE: Duration = Duration::from_secs(120);

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
}

/// Compiles, builds and runs the cases; `extra` are arguments of their jobs.
pub(crate) fn run(cases: &[Case], extra: &[String], each: &mut dyn FnMut(usize, Outcome)) -> Result<()> {
    let scratch = Scratch::new()?;
    let (dir, work) = (scratch.0.join("src"), scratch.0.join("work"));
    for d in [&dir, &work] {
        fs::create_dir_all(d).at(d)?;
    }
    let shop = Shop { cases, dir, work, tag: format!("kiln-t-{}", std::process::id()), failed: Mutex::new(BTreeMap::new()) };
    let done = shop.make_all().and_then(|()| shop.build()).and_then(|programs| shop.run_all(&programs, extra, each));
    shop.sweep();
    done
}

impl Shop<'_> {
    fn batches(&self) -> usize {
        self.cases.len().div_ceil(BATCH)
    }
    /// The cases of a batch that have not failed yet.
    fn members(&self, batch: usize) -> Vec<usize> {
        let failed = self.failed.lock().unwrap_or_else(|e| e.into_inner());
        (batch * BATCH..((batch + 1) * BATCH).min(self.cases.len())).filter(|i| !failed.contains_key(i)).collect()
    }
    fn fail(&self, case: usize, why: impl Into<String>) {
        self.failed.lock().unwrap_or_else(|e| e.into_inner()).insert(case, why.into());
    }
    /// Compiles every case to a module, its weights and its inputs.
    fn make_all(&self) -> Result<()> {
        for b in 0..self.batches() {
            let src = self.dir.join(format!("b{b}/src"));
            fs::create_dir_all(&src).at(&src)?;
        }
        let next = AtomicUsize::new(0);
        let workers = std::thread::available_parallelism().map_or(1, |n| n.get());
        std::thread::scope(|s| {
            for _ in 0..workers {
                s.spawn(|| {
                    while let i @ 0.. = next.fetch_add(1, Ordering::Relaxed)
                        && i < self.cases.len()
                    {
                        if let Err(why) = self.make(i) {
                            self.fail(i, why);
                        }
                    }
                });
            }
        });
        Ok(())
    }
    fn make(&self, i: usize) -> std::result::Result<(), String> {
        let case = &self.cases[i];
        let text = |f: crate::failure::Failure| match f {
            crate::failure::Failure::Fault(t) | crate::failure::Failure::Usage(t) | crate::failure::Failure::Tool(t) => t,
        };
        let sets: Vec<DataSet> = case.data(&case.model()?)?;
        let output = compile_guarded(&Options { model: case.path.join("model.onnx"), ..Options::default() }).map_err(text)?;
        let names = Names::new("Net", WeightsAt::Given).interface(Interface::Dynamic);
        let source = output.rust(&names).map_err(|d| d.to_string())?;
        let path = self.dir.join(format!("b{}/src/c{i}.rs", i / BATCH));
        fs::write(&path, source).map_err(|e| e.to_string())?;
        package::write_weights(&output, &self.work.join(format!("c{i}.bin"))).map_err(text)?;
        let sets = sets.into_iter().map(|s| job::set(&s.inputs.into_iter().map(Some).collect::<Vec<_>>())).collect();
        job::save(&self.work.join(format!("c{i}.in")), &Value::Sequence(sets)).map_err(text)
    }
    /// Builds the programs, without the modules that rustc refuses; gives those that were built.
    fn build(&self) -> Result<Vec<(usize, PathBuf)>> {
        let live: Vec<usize> = (0..self.batches()).filter(|b| !self.members(*b).is_empty()).collect();
        let members: Vec<String> = live.iter().map(|b| format!("\"b{b}\"")).collect();
        let manifest = format!(
            "[workspace]\nresolver = \"3\"\nmembers = [{}]\n\n[profile.release]\nopt-level = 0\ncodegen-units = 2\n\n[profile.release.package.\"*\"]\nopt-level = 3\ncodegen-units = 16\n",
            members.join(", ")
        );
        fs::write(self.dir.join("Cargo.toml"), manifest).at(&self.dir)?;
        let kiln = toml(cache::runtime()?.join("kiln").display().to_string());
        for b in &live {
            let manifest = format!(
                "[package]\nname = \"{}-{b}\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[dependencies]\nkiln = {{ path = {kiln}, features = [\"harness\"] }}\n",
                self.tag
            );
            fs::write(self.dir.join(format!("b{b}/Cargo.toml")), manifest).at(&self.dir)?;
        }
        // Every round drops at least one case or ends.
        loop {
            for b in &live {
                self.write_main(*b)?;
            }
            let done = cargo::build(&self.dir, &["--keep-going", "--message-format=json", "--quiet"])?;
            let errors = rustc_errors(&done.stdout);
            let culprits: BTreeSet<usize> = errors.iter().filter_map(|(case, _)| *case).collect();
            for (case, message) in &errors {
                if let Some(case) = case.filter(|c| *c < self.cases.len()) {
                    self.fail(case, format!("the generated code does not compile: {message}"));
                }
            }
            if done.status.success() || culprits.is_empty() {
                if !done.status.success() {
                    let text = String::from_utf8_lossy(&done.stderr);
                    let line =
                        errors.first().map(|e| e.1.as_str()).or(text.lines().find(|l| l.starts_with("error"))).unwrap_or("cargo failed");
                    eprintln!("{line}");
                }
                break;
            }
        }
        let target = cache::root()?.join("target/release");
        Ok(live.into_iter().map(|b| (b, target.join(format!("{}-{b}", self.tag)))).collect())
    }
    fn write_main(&self, batch: usize) -> Result<()> {
        let members = self.members(batch);
        let mut text = String::from("//! A batch of compiled models.\n#![allow(unused, missing_docs, clippy::all)]\n\n");
        members.iter().for_each(|i| text += &format!("mod c{i};\n"));
        text += "\nfn main() -> std::process::ExitCode {\n    kiln::harness::main_many(&[\n";
        members.iter().for_each(|i| text += &format!("        (\"c{i}\", kiln::harness::sets::<c{i}::Net>),\n"));
        text += "    ])\n}\n";
        let path = self.dir.join(format!("b{batch}/src/main.rs"));
        // Unchanged, cargo need not build it again.
        if fs::read_to_string(&path).is_ok_and(|old| old == text) { Ok(()) } else { fs::write(&path, text).at(&path) }
    }
    fn run_all(&self, programs: &[(usize, PathBuf)], extra: &[String], each: &mut dyn FnMut(usize, Outcome)) -> Result<()> {
        for batch in 0..self.batches() {
            let members = self.members(batch);
            let program = programs.iter().find(|(b, _)| *b == batch).map(|(_, p)| p).filter(|p| p.is_file());
            match program {
                Some(p) => self.run_batch(p, &members, extra),
                None => members.iter().for_each(|i| self.fail(*i, "the batch it is in does not build")),
            }
            for i in batch * BATCH..((batch + 1) * BATCH).min(self.cases.len()) {
                let failed = self.failed.lock().unwrap_or_else(|e| e.into_inner()).get(&i).cloned();
                let outcome = failed.map_or_else(|| self.outputs(i), Err);
                for e in ["in", "out", "bin"] {
                    // A case that failed early has not all of them.
                    let _ = fs::remove_file(self.work.join(format!("c{i}.{e}")));
                }
                each(i, outcome);
            }
        }
        Ok(())
    }
    fn outputs(&self, i: usize) -> Outcome {
        let sets = job::load(&self.work.join(format!("c{i}.out"))).map_err(|_| "the program wrote no outputs".to_string())?;
        let one = |v| if let Value::Sequence(v) = v { Ok(v) } else { Err("the outputs are no sequence".to_string()) };
        sets.into_iter().map(one).collect()
    }
    /// Runs a batch, again behind a case that ended the program.
    fn run_batch(&self, program: &Path, members: &[usize], extra: &[String]) {
        let mut from = 0;
        while from < members.len() {
            let (reached, why) = self.run_from(program, members, from, extra);
            match why {
                None => break,
                Some(why) => {
                    let at = reached.unwrap_or(from).max(from);
                    self.fail(members[at], why);
                    from = at + 1;
                }
            }
        }
    }
    /// Runs the cases from one on; answers the last that was begun, and why the program did not reach its end.
    fn run_from(&self, program: &Path, members: &[usize], from: usize, extra: &[String]) -> (Option<usize>, Option<String>) {
        let mut command = Command::new(program);
        command.args(["batch".into(), format!("dir={}", self.work.display()), format!("from={from}")]).args(extra);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let Ok(mut child) = child else {
            return (None, Some("the program cannot be started".into()));
        };
        let (send, lines) = channel();
        if let Some(out) = child.stdout.take() {
            std::thread::spawn(move || BufReader::new(out).lines().map_while(|l| l.ok()).try_for_each(|l| send.send(l)));
        }
        let position = |name: &str| members.iter().position(|i| name.strip_prefix('c') == Some(&i.to_string()));
        let (mut begun, mut open) = (None, false);
        loop {
            match lines.recv_timeout(PATIENCE) {
                Ok(line) => match line.split_once(' ') {
                    Some(("start", name)) => (begun, open) = (position(name), true),
                    Some(("ok", _)) => open = false,
                    Some(("error", rest)) => {
                        let (name, why) = rest.split_once(' ').unwrap_or((rest, ""));
                        position(name).into_iter().for_each(|k| self.fail(members[k], why));
                        open = false;
                    }
                    _ => {}
                },
                Err(RecvTimeoutError::Timeout) => {
                    // One that ended meanwhile cannot be killed.
                    let _ = child.kill();
                    let _ = child.wait();
                    return (begun, Some(format!("no answer within {} s", PATIENCE.as_secs())));
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        match child.wait() {
            Ok(status) if !status.success() && (open || begun.is_none()) => (begun, Some(format!("the program stopped with {status}"))),
            Ok(_) if open => (begun, Some("the program ended early".into())),
            _ => (begun, None),
        }
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

/// The errors among cargo's messages, with the case whose module each is in.
fn rustc_errors(stdout: &[u8]) -> Vec<(Option<usize>, String)> {
    let mut out = Vec::new();
    for line in stdout.split(|b| *b == b'\n') {
        let Ok(json) = serde_json::from_slice::<Json>(line) else { continue };
        let m = &json["message"];
        if json["reason"] != "compiler-message" || m["level"] != "error" {
            continue;
        }
        let text = m["message"].as_str().unwrap_or_default().lines().next().unwrap_or_default().to_string();
        let spans = m["spans"].as_array().into_iter().flatten();
        let case = spans.filter_map(|s| s["file_name"].as_str()).find_map(|f| {
            let name = Path::new(f).file_stem()?.to_str()?;
            name.strip_prefix('c')?.parse().ok()
        });
        let line = m["spans"][0]["line_start"].as_u64().map_or(String::new(), |l| format!(" (line {l})"));
        out.push((case, format!("{text}{line}")));
    }
    out
}
