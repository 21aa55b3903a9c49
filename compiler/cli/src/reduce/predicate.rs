//! Whether a candidate fails as the first one did.

use super::candidate::Candidate;
use crate::batch;
use crate::cache::Scratch;
use crate::difference::Tolerance;
use crate::failure::{At, Failure, Result};
use crate::suite::{self, Case};
use kiln_compiler::emit::{Interface, Names, WeightsAt, rust};
use kiln_compiler::ir::verify;
use kiln_compiler::onnx::write_value;
use kiln_compiler::pipeline::{Ablation, optimize};
use kiln_compiler::plan::schedule;
use kiln_kernels::value::Value;
use std::fs;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

/// How failures are found.
#[derive(Clone, Debug)]
enum By {
    /// By a command.
    Command(String),
    /// By what the compiler does with it, up to printing code.
    Compiler,
    /// By compiled code.
    Code,
}

/// Judges candidates.
#[derive(Debug)]
pub(crate) struct Judge {
    by: By,
    within: Tolerance,
    signature: String,
    tries: usize,
    tried: AtomicUsize,
}

impl Judge {
    /// A judge who looks for the failure of this candidate.
    ///
    /// # Errors
    /// It does not fail.
    pub(crate) fn new(c: &Candidate, check: Option<String>, within: Tolerance, tries: usize) -> Result<Judge> {
        suite::quiet_panics();
        let by = check.map_or(By::Compiler, By::Command);
        let mut judge = Judge { by, within, signature: String::new(), tries, tried: AtomicUsize::new(0) };
        let mut found = judge.failure(c);
        if found.is_none() && matches!(judge.by, By::Compiler) {
            judge.by = By::Code;
            found = judge.failure(c);
        }
        judge.signature = found.ok_or_else(|| Failure::Fault("error: the model does not fail: there is nothing to reduce".into()))?;
        Ok(judge)
    }
    /// What failures are looked for, in words.
    pub(crate) fn signature(&self) -> &str {
        &self.signature
    }
    /// How many candidates were judged.
    pub(crate) fn tried(&self) -> usize {
        self.tried.load(Ordering::Relaxed)
    }
    /// Whether no more may be judged.
    pub(crate) fn is_spent(&self) -> bool {
        self.tried() >= self.tries
    }
    /// Whether a candidate fails in the same way.
    pub(crate) fn fails(&self, c: &Candidate) -> bool {
        if self.is_spent() {
            return false;
        }
        self.tried.fetch_add(1, Ordering::Relaxed);
        self.failure(c).is_some_and(|f| f == self.signature)
    }
    /// How a candidate fails, if it does: what failures of one kind have in common.
    fn failure(&self, c: &Candidate) -> Option<String> {
        match &self.by {
            By::Command(command) => self.told(command, c).ok().flatten(),
            By::Compiler => self.compiler(c).err().map(|why| class(&why)),
            By::Code => self.code(c).err().map(|why| class(&why)),
        }
    }
    /// What a command says of the candidate's file.
    fn told(&self, command: &str, c: &Candidate) -> Result<Option<String>> {
        let scratch = Scratch::new()?;
        let path = self.case(&scratch, c, &[])?.path.join("model.onnx");
        let mut sh = Command::new("sh");
        // The path is an argument of the shell, so that no name of a folder is read as its language.
        sh.arg("-c").arg(format!("{command} \"$1\"")).arg("sh").arg(&path).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let status = sh.status().map_err(|e| Failure::Tool(format!("error: sh cannot be started: {e}")))?;
        Ok((!status.success()).then(|| format!("{command} exits with another status than 0")))
    }
    /// Takes a candidate through the compiler and, before and after, the reference evaluator.
    fn compiler(&self, c: &Candidate) -> std::result::Result<(), String> {
        suite::guarded(|| {
            let mut graph = c.imported().map_err(|e| format!("refused: {e}"))?;
            let expected = c.evaluated(&graph).map_err(|e| format!("reference evaluator: {e}"))?;
            let mut broken = Ok(());
            let optimized = optimize(&mut graph, Ablation::Nothing, &mut |pass, g| {
                if broken.is_ok() {
                    broken = verify(g).map_err(|e| format!("after {pass}: {e}"));
                }
            });
            optimized.map_err(|e| format!("optimizer: {e}"))?;
            broken?;
            let found = c.evaluated(&graph).map_err(|e| format!("evaluator, optimized: {e}"))?;
            self.same(&found, &expected)?;
            let plan = schedule(graph, Ablation::Nothing, Default::default(), Default::default());
            let names = Names::new("Net", WeightsAt::Given).interface(Interface::Numbered);
            rust(&plan, None, &names).map(|_| ()).map_err(|d| format!("printer: {d}"))
        })
    }
    /// Compiles a candidate and runs it.
    fn code(&self, c: &Candidate) -> std::result::Result<(), String> {
        let mut expected = Vec::new();
        // A candidate without results says nothing of compiled code: it counts as one that does not fail.
        let known = suite::guarded(|| {
            expected = c.evaluated(&c.imported()?)?;
            Ok(())
        });
        if known.is_err() {
            return Ok(());
        }
        let typed = c.clone().typed(expected.first().map_or(&[], |e| e));
        let mut outcome = Ok(Vec::new());
        let mut run = || -> Result<()> {
            let scratch = Scratch::new()?;
            let case = self.case(&scratch, &typed, &expected)?;
            batch::run(&[case], &[], &mut |_, o| outcome = o)
        };
        run().map_err(|e| format!("{e:?}"))?;
        self.same(&outcome?, &expected)
    }
    fn same(&self, found: &[Vec<Value>], expected: &[Vec<Value>]) -> std::result::Result<(), String> {
        for (f, e) in found.iter().zip(expected) {
            for (f, e) in f.iter().zip(e) {
                let d = self.within.between(f, e).map_err(|_| "results differ in type or shape".to_string())?;
                if d.wrong > 0 {
                    return Err("results differ".into());
                }
            }
        }
        Ok(())
    }
    /// Writes a candidate as a case of the suite.
    fn case(&self, scratch: &Scratch, c: &Candidate, outputs: &[Vec<Value>]) -> Result<Case> {
        let path = scratch.0.join("case");
        for (k, inputs) in c.inputs().into_iter().enumerate() {
            let set = path.join(format!("test_data_set_{k}"));
            fs::create_dir_all(&set).at(&set)?;
            let outputs = outputs.get(k).cloned().unwrap_or_default();
            for (kind, values) in [("input", inputs), ("output", outputs)] {
                for (i, v) in values.iter().enumerate() {
                    let file = set.join(format!("{kind}_{i}.pb"));
                    fs::write(&file, write_value("", v)).at(&file)?;
                }
            }
        }
        fs::create_dir_all(&path).at(&path)?;
        let model = path.join("model.onnx");
        fs::write(&model, c.bytes()).at(&model)?;
        let tolerance = suite::Tolerance { relative: 0.0, absolute: 0.0 };
        Ok(Case { group: String::new(), name: "candidate".into(), path, tolerance })
    }
}

/// What messages of one kind have in common: the first line without numbers, names in quotes and lists in brackets.
fn class(why: &str) -> String {
    let first = why.lines().next().unwrap_or_default();
    let first = first.split(" --> ").next().unwrap_or_default();
    let (mut out, mut quoted, mut depth) = (String::new(), false, 0usize);
    for c in first.chars() {
        match c {
            '"' | '`' => quoted = !quoted,
            '[' | '(' => depth += 1,
            ']' | ')' => depth = depth.saturating_sub(1),
            _ if quoted || depth > 0 => {}
            c if c.is_ascii_digit() => {
                if !out.ends_with('#') {
                    out.push('#');
                }
            }
            c => out.push(c),
        }
    }
    out.chars().take(120).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_one_kind_are_equal() {
        let one = class("refused: error: the inputs of Add \"a\" must broadcast, found [1, 2] and [3]\n --> x.onnx");
        assert_eq!(one, class("refused: error: the inputs of Add \"other\" must broadcast, found [4] and [17, 3]"));
        assert_eq!(class("panic at a.rs:12:3: index 4"), "panic at a.rs:#:#: index #");
        assert_ne!(one, class("refused: error: the inputs of Add must have one type"));
    }
}
