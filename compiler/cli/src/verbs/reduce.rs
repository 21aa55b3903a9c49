//! `kiln reduce`: shrinks a model that fails to the smallest one that fails in the same way.

use crate::difference::Tolerance;
use crate::failure::{At, Failure, Result};
use crate::reduce::candidate::Candidate;
use crate::reduce::predicate::Judge;
use crate::reduce::reduce;
use kiln_compiler::onnx::write_value;
use std::fs;
use std::path::PathBuf;

/// Shrink a model that fails to the smallest one that fails in the same way.
#[derive(clap::Args, Debug)]
pub(crate) struct Reduce {
    /// The ONNX file.
    model: PathBuf,
    /// A folder with `in_0.npy`, `in_1.npy` .. (or `.pb`), or one with `test_data_set_0`; by default seeded random inputs.
    #[arg(long, value_name = "DIR")]
    inputs: Option<PathBuf>,
    /// The file to write; the inputs go into the folder of this name with `.inputs` behind it.
    #[arg(short, value_name = "FILE")]
    output: PathBuf,
    /// A command of the shell that exits with another status than 0 while a model fails; it gets the model's path behind its words.
    /// Without it, Kiln fails on the model: it refuses it, panics, crashes, or computes something else than the reference evaluator.
    #[arg(long, value_name = "COMMAND")]
    check: Option<String>,
    /// How many models to try at most.
    #[arg(long, default_value_t = 2000)]
    tries: usize,
    #[command(flatten)]
    within: Tolerance,
}

impl Reduce {
    /// Does it.
    pub(crate) fn run(self) -> Result<()> {
        let first = Candidate::read(&self.model, self.inputs.as_deref())?;
        let judge = Judge::new(&first, self.check, self.within, self.tries)?;
        eprintln!("fails: {}", judge.signature());
        let nodes = first.graph().node.len();
        let least = reduce(first, &judge);
        let bytes = least.bytes();
        if let Some(parent) = self.output.parent().filter(|p| !p.as_os_str().is_empty()) {
            fs::create_dir_all(parent).at(parent)?;
        }
        fs::write(&self.output, &bytes).at(&self.output)?;
        let mut name = self.output.clone().into_os_string();
        name.push(".inputs");
        let dir = PathBuf::from(name);
        for (k, set) in least.inputs().into_iter().enumerate() {
            let set_dir = if least.sets.len() > 1 { dir.join(format!("test_data_set_{k}")) } else { dir.clone() };
            let kind = if least.sets.len() > 1 { "input" } else { "in" };
            fs::create_dir_all(&set_dir).at(&set_dir)?;
            for (i, v) in set.iter().enumerate() {
                let path = set_dir.join(format!("{kind}_{i}.pb"));
                fs::write(&path, write_value("", v)).at(&path)?;
            }
        }
        let operators: Vec<&str> = least.graph().node.iter().map(|n| n.op_type.as_str()).collect();
        println!("{nodes} nodes became {} ({}), {} models were tried", operators.len(), operators.join(" "), judge.tried());
        if judge.tried() >= self.tries {
            return Err(Failure::Fault(format!("--tries {}: there may be a smaller one", self.tries)));
        }
        Ok(())
    }
}
