//! Methods of kernels as they were measured: a text that users commit beside their model, in place of what the cost model would choose.

use crate::diagnostics::{Diagnostic, Diagnostics, Result};
use crate::kernel::Method;
use kiln_kernels::isa::Isa;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// Where the methods come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tune {
    /// The file of measured methods; by default the one beside the model, if there is one: `net.tune` for `net.onnx`.
    pub file: Option<PathBuf>,
    /// Whether a kernel that the file does not list is an error, rather than chosen by the cost model.
    pub locked: bool,
    /// One method for every kernel that it can compute, to measure it; no file is read then.
    pub always: Option<Method>,
}

impl Tune {
    /// The file to read for a model, if any.
    pub fn path(&self, model: &Path) -> Option<PathBuf> {
        if self.always.is_some() {
            return None;
        }
        self.file.clone().or_else(|| Some(model.with_extension("tune")).filter(|p| p.is_file()))
    }
    /// The methods for a model.
    ///
    /// # Errors
    /// The file cannot be read, or a line of it; there is none, and it must have every kernel.
    pub fn read(&self, model: &Path) -> Result<Tuning> {
        if let Some(method) = self.always {
            return Ok(Tuning { always: Some(method), ..Tuning::default() });
        }
        let Some(path) = self.path(model) else {
            if self.locked {
                let at = model.with_extension("tune").display().to_string();
                let d = Diagnostic::new(format!("methods are locked, but {at} is not there"));
                return Err(d.help("`kiln tune` writes it").into());
            }
            return Ok(Tuning::default());
        };
        let wrong = |what: String| Diagnostics::from(Diagnostic::new(format!("{}: {what}", path.display())));
        let text = std::fs::read_to_string(&path).map_err(|e| wrong(format!("cannot read the measured methods: {e}")))?;
        Tuning::parse(&text).map_err(wrong)
    }
}

/// Measured methods, by what is computed and the instruction set that computed it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tuning {
    chosen: BTreeMap<(String, Isa), (Method, String)>,
    always: Option<Method>,
}

/// The methods that a convolution may have, with their names in files.
pub const METHODS: [(&str, Method); 3] =
    [("direct", Method::Direct), ("winograd2", Method::Winograd(2)), ("winograd4", Method::Winograd(4))];

/// The name of a method in files.
pub fn name(method: Method) -> &'static str {
    METHODS.iter().find(|(_, m)| *m == method).map_or("direct", |m| m.0)
}

const HEAD: &str = "# Methods of convolutions as `kiln tune` measured them. Commit this beside the model: equal lines give equal code.\n";

impl Tuning {
    /// Reads the text that [`fmt::Display`] writes.
    ///
    /// # Errors
    /// The line that is no method of a kernel, and why.
    pub fn parse(text: &str) -> std::result::Result<Tuning, String> {
        let mut out = Tuning::default();
        for (n, line) in text.lines().enumerate() {
            let (line, note) = line.split_once('#').map_or((line, ""), |(line, note)| (line, note.trim()));
            let words: Vec<&str> = line.split_whitespace().collect();
            if words.is_empty() {
                continue;
            }
            let wrong = |what: &str| format!("line {}: {what}; expected `conv .. isa=SET METHOD`", n + 1);
            let [spec @ .., isa, method] = words.as_slice() else { return Err(wrong("it is too short")) };
            let isa = isa.strip_prefix("isa=").and_then(Isa::from_name).ok_or_else(|| wrong(&format!("{isa:?} is no instruction set")))?;
            let known = METHODS.iter().find(|(name, _)| name == method);
            let method = known.ok_or_else(|| wrong(&format!("{method:?} is no method")))?.1;
            if spec.first() != Some(&"conv") {
                return Err(wrong("it is not about a convolution"));
            }
            if out.chosen.insert((spec.join(" "), isa), (method, note.to_string())).is_some() {
                return Err(wrong("the kernel is listed twice"));
            }
        }
        Ok(out)
    }
    /// Notes the method of a kernel, in place of an earlier one, with a remark on why.
    pub fn insert(&mut self, spec: &str, isa: Isa, method: Method, note: &str) {
        self.chosen.insert((spec.to_string(), isa), (method, note.to_string()));
    }
    /// The method of a kernel. Plans are one for all instruction sets: of several lines, that of the most capable one counts.
    pub fn method(&self, spec: &str) -> Option<Method> {
        self.always.or_else(|| Isa::ALL.iter().rev().find_map(|isa| self.chosen.get(&(spec.to_string(), *isa))).map(|c| c.0))
    }
}

impl fmt::Display for Tuning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HEAD)?;
        for ((spec, isa), (method, note)) in &self.chosen {
            write!(f, "{spec} isa={} {}", isa.name(), name(*method))?;
            if !note.is_empty() {
                write!(f, "  # {note}")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// A kernel that several methods could compute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// What it computes, as files of methods name it.
    pub spec: String,
    /// The method it has.
    pub method: Method,
    /// Whether that comes from measurements, rather than from the cost model.
    pub measured: bool,
    /// The ONNX nodes that it computes.
    pub origins: Vec<usize>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_reads_back() {
        let mut t = Tuning::default();
        t.insert("conv c=64 k=64", Isa::Amx, Method::Winograd(4), "µs: direct 3.0, winograd4 1.5");
        t.insert("conv c=64 k=64", Isa::Avx2, Method::Direct, "");
        t.insert("conv c=32 k=64", Isa::Avx2, Method::Winograd(2), "");
        let text = t.to_string();
        assert_eq!(Tuning::parse(&text).unwrap(), t);
        assert_eq!(Tuning::parse(&text).unwrap().to_string(), text);
        // Sorted by what is computed, then from the least capable instruction set to the most capable.
        let sets: Vec<&str> = text.lines().skip(1).filter_map(|l| l.split_once(" isa=")?.1.split(' ').next()).collect();
        assert_eq!(sets, ["avx2", "avx2", "amx"], "{text}");
        assert!(text.lines().skip(1).map(|l| l.split_once(" isa=").unwrap().0).is_sorted(), "{text}");
        assert_eq!(t.method("conv c=64 k=64"), Some(Method::Winograd(4)));
        assert_eq!(t.method("conv c=32 k=64"), Some(Method::Winograd(2)));
        assert_eq!(t.method("conv c=1 k=1"), None);
    }

    #[test]
    fn what_is_wrong_names_its_line() {
        let wrong = |text: &str| Tuning::parse(text).unwrap_err();
        assert!(wrong("# fine\n\nconv c=1 isa=amx fast").starts_with("line 3: \"fast\" is no method"));
        assert!(wrong("conv c=1 isa=mmx direct").starts_with("line 1: \"isa=mmx\" is no instruction set"));
        assert!(wrong("conv").contains("too short"));
        assert!(wrong("gemm m=1 isa=amx direct").contains("convolution"));
        assert!(wrong("conv c=1 isa=amx direct\nconv c=1  isa=amx winograd2").starts_with("line 2: the kernel is listed twice"));
        assert_eq!(Tuning::parse("").unwrap(), Tuning::default());
    }
}
