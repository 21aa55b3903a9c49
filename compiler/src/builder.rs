//! `Build`: the compiler behind a builder, for build.rs.

use crate::artifact::{self, Request};
use crate::diagnostics::{Diagnostic, Diagnostics, Result};
use crate::emit::{Names, WeightsAt};
use crate::import::Extent;
use crate::target::{Accuracy, Cuda, Precision};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

/// A model to compile from a build script.
///
/// ```no_run
/// kiln_compiler::Build::new("models/resnet50.onnx").dim("batch", 1).compile().unwrap();
/// ```
///
/// The source goes to `OUT_DIR/<stem>.rs`; `kiln::include_model!("<stem>")` includes it.
#[derive(Clone, Debug)]
pub struct Build {
    request: Request,
}

impl Build {
    /// A model file, relative to the crate's folder.
    pub fn new(model: impl AsRef<Path>) -> Build {
        Build { request: Request::new(model.as_ref()) }
    }
    /// Closes a dimension of the model.
    pub fn dim(mut self, name: &str, extent: i64) -> Build {
        self.request.dim(name, Extent::Closed(extent));
        self
    }
    /// Bounds a dimension of the model: memory is planned for the upper bound.
    pub fn dim_in(mut self, name: &str, range: RangeInclusive<i64>) -> Build {
        self.request.dim(name, Extent::Bounded(*range.start(), *range.end()));
        self
    }
    /// Closes every dimension of an input.
    pub fn shape(mut self, input: &str, shape: &[i64]) -> Build {
        let shape = shape.iter().map(|n| Some(Extent::Closed(*n))).collect();
        self.request.options.dims.by_input.insert(input.to_string(), shape);
        self
    }
    /// The name of the struct; by default the file's stem in UpperCamel.
    pub fn name(mut self, name: &str) -> Build {
        self.request.names.model = name.to_string();
        self
    }
    /// The name of the field of a port.
    pub fn field(mut self, field: &str, port: &str) -> Build {
        self.request.names.fields.insert(port.to_string(), field.to_string());
        self
    }
    /// Which algorithms may compute a result.
    pub fn accuracy(mut self, level: Accuracy) -> Build {
        self.request.options.accuracy = level;
        self
    }
    /// Compiles for a GPU beside the CPU, where nvcc is at hand. `KILN_CUDA=off` in the environment leaves that out, `KILN_CUDA=auto` does where
    /// there is no nvcc.
    ///
    /// ```no_run
    /// use kiln_compiler::{Build, Cuda, Precision};
    ///
    /// Build::new("net.onnx").cuda(Cuda { precision: Precision::F16, strict: false }).compile().unwrap();
    /// ```
    pub fn cuda(mut self, cuda: Cuda) -> Build {
        self.request.options.cuda = Some(cuda);
        self
    }
    /// The same by the name of a target: `cuda`, in the precision that the accuracy asks for, or `cpu`.
    ///
    /// # Panics
    /// There is no such target.
    pub fn target(mut self, name: &str) -> Build {
        self.request.options.cuda = match name {
            "cpu" => None,
            "cuda" => Some(Cuda { precision: Precision::of(self.request.options.accuracy), strict: false }),
            other => panic!("there is no target {other:?}; the targets are cpu and cuda"),
        };
        self
    }
    /// Takes methods of kernels from a file that `kiln tune` wrote, relative to the crate's folder; by default from the one beside the model,
    /// if there is one: `net.tune` for `net.onnx`.
    pub fn tune(mut self, file: impl AsRef<Path>) -> Build {
        self.request.options.tune.file = Some(file.as_ref().to_path_buf());
        self
    }
    /// Makes a kernel that the file of methods does not list an error.
    pub fn locked(mut self) -> Build {
        self.request.options.tune.locked = true;
        self
    }
    /// Keeps inputs in the instance that outputs continue: those that match the two patterns, in which a `*` stands for the same text. What
    /// one call adds is beside what others did.
    ///
    /// ```no_run
    /// kiln_compiler::Build::new("gpt2.onnx").state("past_*", "present_*").capacity(1024).compile().unwrap();
    /// ```
    pub fn state(mut self, input: &str, output: &str) -> Build {
        self.request.options.state.patterns.push((input.to_string(), output.to_string()));
        self
    }
    /// How many rows (tokens, mostly) a state may have that grows with every run.
    pub fn capacity(mut self, rows: usize) -> Build {
        self.request.options.state.capacity = Some(rows);
        self
    }
    /// Leaves the weights in a file, which the program hands over in `Options`, rather than in the binary.
    pub fn weights_file(mut self) -> Build {
        self.request.embed = false;
        self
    }
    /// Compiles the model and tells cargo when to do it again. Gives the path of the weights file.
    ///
    /// # Errors
    /// Everything wrong with the model, as text for `unwrap` to print.
    pub fn compile(self) -> Result<PathBuf> {
        let out = std::env::var_os("OUT_DIR")
            .map(PathBuf::from)
            .ok_or_else(|| Diagnostics::from(Diagnostic::new("OUT_DIR is not set").help("call this from a build script")))?;
        let model = self.request.options.model.clone();
        println!("cargo:rerun-if-changed={}", model.display());
        if self.request.options.cuda.is_some() {
            artifact::WATCHED.iter().for_each(|name| println!("cargo:rerun-if-env-changed={name}"));
        }
        let made = artifact::make(&self.request, &out.join("kiln"))?;
        for f in &made.data_files {
            println!("cargo:rerun-if-changed={}", f.display());
        }
        let stem = model.file_stem().map_or("model".into(), |s| s.to_string_lossy().into_owned());
        let line = format!("include!({:?});\n", made.source.display().to_string());
        artifact::whole(&out.join(format!("{stem}.rs")), &mut |w| w.write_all(line.as_bytes()))?;
        Ok(made.weights)
    }
}

/// Names for a command that prints a model's interface.
pub fn names_of(model: &Path) -> Names {
    let stem = model.file_stem().map_or(String::new(), |s| s.to_string_lossy().into_owned());
    Names::new(artifact::struct_name(&stem), WeightsAt::Given)
}
