//! Methods of kernels, and forms of those of GPUs, as they were measured: a text that users commit beside their model, in place of what cost
//! models would choose.

use super::cuda::{Form, Forms};
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
    /// How many forms of each kernel of a GPU are compiled beside each other, to measure them; no file is read then. None, where it is 0.
    pub variants: usize,
}

impl Tune {
    /// The file to read for a model, if any.
    pub fn path(&self, model: &Path) -> Option<PathBuf> {
        if self.always.is_some() || self.variants > 0 {
            return None;
        }
        self.file.clone().or_else(|| Some(model.with_extension("tune")).filter(|p| p.is_file()))
    }
    /// The methods for a model.
    ///
    /// # Errors
    /// The file cannot be read, or a line of it; there is none, and it must have every kernel.
    pub fn read(&self, model: &Path) -> Result<Tuning> {
        if self.always.is_some() || self.variants > 0 {
            return Ok(Tuning { always: self.always, variants: self.variants, ..Tuning::default() });
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

/// Measured methods, by what is computed and the instruction set that computed it, and forms, by what is computed and the GPU.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tuning {
    chosen: BTreeMap<(String, Isa), (Method, String)>,
    formed: BTreeMap<(String, Gpu), (Form, String)>,
    always: Option<Method>,
    variants: usize,
}

/// A GPU as files name it: its compute capability and its name. The emulator, whose times say nothing of any other, comes before them all.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gpu {
    /// Whether it is one, rather than the emulator.
    real: bool,
    level: [u32; 2],
    name: String,
}

impl Gpu {
    /// Reads what [`fmt::Display`] writes, such as `NVIDIA_H200/9.0`.
    pub fn parse(text: &str) -> Option<Gpu> {
        let (name, level) = text.rsplit_once('/')?;
        let (major, minor) = level.split_once('.')?;
        let plain = !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c == '#');
        let level = [major.parse().ok()?, minor.parse().ok()?];
        plain.then(|| Gpu { real: !name.starts_with("Kiln"), level, name: name.to_string() })
    }
}

impl fmt::Display for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}.{}", self.name, self.level[0], self.level[1])
    }
}

/// The methods that a convolution may have, with their names in files.
pub const METHODS: [(&str, Method); 3] =
    [("direct", Method::Direct), ("winograd2", Method::Winograd(2)), ("winograd4", Method::Winograd(4))];

/// The name of a method in files.
pub fn name(method: Method) -> &'static str {
    METHODS.iter().find(|(_, m)| *m == method).map_or("direct", |m| m.0)
}

const HEAD: &str = "# Methods of kernels as `kiln tune` measured them. Commit this beside the model: equal lines give equal code.\n";

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
            if let Some(at) = words.iter().position(|w| w.starts_with("gpu=")) {
                let wrong = |what: String| format!("line {}: {what}; expected `KIND .. gpu=NAME/LEVEL FORM`", n + 1);
                let gpu = Gpu::parse(&words[at]["gpu=".len()..]);
                let gpu = gpu.ok_or_else(|| wrong(format!("{:?} is no GPU such as gpu=NVIDIA_H200/9.0", words[at])))?;
                let form = Form::read(&words[at + 1..]).map_err(wrong)?;
                let fits = matches!((words[0], &form), ("product", Form::Product(_)) | ("attention", Form::Attention(_)));
                if !fits {
                    return Err(wrong(format!("a form of another kind than {:?}", words[0])));
                }
                if out.formed.insert((words[..at].join(" "), gpu), (form, note.to_string())).is_some() {
                    return Err(wrong("the kernel is listed twice".into()));
                }
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
    /// Notes the form of a kernel of a GPU, likewise.
    pub fn insert_form(&mut self, spec: &str, gpu: &Gpu, form: Form, note: &str) {
        self.formed.insert((spec.to_string(), gpu.clone()), (form, note.to_string()));
    }
    /// Where the forms of kernels of a GPU come from. One plan serves all of them: of several lines, that of the highest level counts, and
    /// one of the emulator where there is no other.
    pub fn forms(&self) -> Forms {
        // Lines about a kernel come from the least GPU to the highest.
        let measured = self.formed.iter().map(|((spec, _), (form, _))| (spec.clone(), *form)).collect();
        Forms { measured, variants: self.variants }
    }
    /// The number of the line in its text that decides the form of a kernel.
    pub fn line_of(text: &str, spec: &str) -> Option<usize> {
        let last = Tuning::parse(text).ok()?.formed.into_keys().rfind(|(s, _)| s == spec)?;
        let of = |line: &str| {
            let words: Vec<&str> = line.split('#').next().unwrap_or("").split_whitespace().collect();
            let at = words.iter().position(|w| w.starts_with("gpu="))?;
            Some((words[..at].join(" "), Gpu::parse(&words[at]["gpu=".len()..])?))
        };
        text.lines().position(|line| of(line).as_ref() == Some(&last)).map(|n| n + 1)
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
        for ((spec, gpu), (form, note)) in &self.formed {
            write!(f, "{spec} gpu={gpu} {form}")?;
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
    fn forms_of_several_gpus_stand_in_one_file() {
        let gpu = |text| Gpu::parse(text).unwrap();
        let form = |text: &str| Form::read(&text.split(' ').collect::<Vec<_>>()).unwrap();
        let tile = |side: usize| form(&format!("tile {side}x64 chunks=8 warp=32x32 stages=4 splits=1"));
        let mut t = Tuning::default();
        t.insert("conv c=64 k=64", Isa::Amx, Method::Winograd(4), "");
        t.insert_form("product m=1", &gpu("NVIDIA_H200/9.0"), tile(64), "µs: 3.0");
        t.insert_form("product m=1", &gpu("NVIDIA_A100/8.0"), tile(32), "");
        t.insert_form("product m=1", &gpu("Kiln_emulator/12.0"), tile(128), "");
        t.insert_form("product m=2", &gpu("Kiln_emulator/9.0"), tile(128), "");
        t.insert_form("attention keys=3", &gpu("NVIDIA_A100/8.0"), form("lanes"), "");
        let text = t.to_string();
        assert_eq!(Tuning::parse(&text).unwrap(), t);
        assert_eq!(Tuning::parse(&text).unwrap().to_string(), text);
        let forms = t.forms().measured;
        assert_eq!((forms["product m=1"], forms["product m=2"]), (tile(64), tile(128)));
        assert_eq!(
            text.lines().nth(Tuning::line_of(&text, "product m=1").unwrap() - 1).unwrap().split("gpu=").nth(1).unwrap().split('/').next(),
            Some("NVIDIA_H200")
        );
        let wrong = |text: &str| Tuning::parse(text).unwrap_err();
        assert!(wrong("\nproduct m=1 gpu=H200 lanes").starts_with("line 2: \"gpu=H200\" is no GPU"));
        assert!(wrong("product m=1 gpu=A/8.0 tile 64x64").starts_with("line 1: chunks= is missing"));
        assert!(wrong("product m=1 gpu=A/8.0 lanes").contains("another kind"));
        assert!(wrong("attention gpu=A/8.0 lanes\nattention  gpu=A/8.0 lanes").starts_with("line 2: the kernel is listed twice"));
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
