//! Why a command ends without success, and the exit status that says so.

use kiln_compiler::diagnostics::Diagnostics;
use kiln_compiler::target::cuda::toolchain::Failed;
use std::fmt;
use std::io;
use std::path::Path;
use std::process::ExitCode;

/// What a verb answers.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// Why a command failed.
#[derive(Clone, Debug)]
pub(crate) enum Failure {
    /// The model, its inputs or cases are at fault: exit status 1.
    Fault(String),
    /// The command line makes no sense: exit status 2.
    Usage(String),
    /// A tool is missing: exit status 3.
    Tool(String),
}

impl Failure {
    /// A fault with a file's name in front.
    pub(crate) fn at(path: &Path, e: impl fmt::Display) -> Failure {
        Failure::Fault(format!("error: {}: {e}", path.display()))
    }
    /// Shows the message and gives the exit status.
    pub(crate) fn report(self) -> ExitCode {
        let (text, status) = match self {
            Failure::Fault(t) => (t, 1),
            Failure::Usage(t) => (t, 2),
            Failure::Tool(t) => (t, 3),
        };
        if !text.is_empty() {
            let prefix = if text.starts_with("error") { "" } else { "error: " };
            eprintln!("{prefix}{text}");
        }
        ExitCode::from(status)
    }
}

impl From<Diagnostics> for Failure {
    fn from(d: Diagnostics) -> Failure {
        Failure::Fault(d.to_string())
    }
}

impl From<Failed> for Failure {
    fn from(f: Failed) -> Failure {
        match f {
            Failed::Missing(text) => Failure::Tool(text),
            Failed::Refused(text) => Failure::Fault(text),
        }
    }
}

impl From<String> for Failure {
    fn from(text: String) -> Failure {
        Failure::Fault(text)
    }
}

/// Adds the file to what went wrong with it.
pub(crate) trait At<T> {
    /// The result, a fault that names the file.
    fn at(self, path: &Path) -> Result<T>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, path: &Path) -> Result<T> {
        self.map_err(|e| Failure::at(path, e))
    }
}
