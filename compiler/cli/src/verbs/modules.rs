//! `kiln modules`: what `kiln test` runs in children, so that a case that ends the compiler takes no other with it.

use crate::batch;
use crate::failure::{Failure, Result};
use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Compile cases to modules.
#[derive(clap::Args, Debug)]
pub(crate) struct Modules {
    /// The folder of the modules.
    src: PathBuf,
    /// The folder of their weights and inputs.
    work: PathBuf,
    /// For each case its number and its folder.
    cases: Vec<OsString>,
}

impl Modules {
    /// Does it, with a line before and behind each case.
    pub(crate) fn run(self) -> Result<()> {
        let say = |line: String| writeln!(std::io::stdout(), "{line}").map_err(|e| Failure::at(Path::new("standard output"), e));
        for pair in self.cases.chunks(2) {
            let [number, folder] = pair else { return Err(Failure::Usage("a case is a number and a folder".into())) };
            let i = number.to_str().and_then(|n| n.parse().ok()).ok_or_else(|| Failure::Usage("a case has no number".into()))?;
            say(format!("start c{i}"))?;
            match batch::module(&self.src, &self.work, i, Path::new(folder)) {
                Ok(()) => say(format!("ok c{i}"))?,
                Err(why) => say(format!("error c{i} {}", why.replace('\n', " ")))?,
            }
        }
        Ok(())
    }
}
