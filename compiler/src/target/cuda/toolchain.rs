//! The tools that make kernels of their source: nvcc for GPUs, a host compiler for the emulator. The only file that runs one.

use kiln_kernels::cuda::{EMULATOR, Source, TEMPLATES};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The file of the kernels, beside which the templates lie.
pub const SOURCE: &str = "kernels.cu";

/// A kernel whose registers do not suffice is an error.
const STRICT: &str = "-Xptxas=--warning-as-error";
/// How nvcc is called.
pub(super) const FLAGS: [&str; 9] = [
    "-O3",
    "-std=c++17",
    "--compress-mode=size",
    "--threads=2",
    "-diag-suppress=177",
    // Every instruction of an expression is rounded, as on the CPU; sums of products name their fused multiply-adds.
    "-fmad=false",
    "-Xptxas=--warn-on-spills",
    STRICT,
    "-fatbin",
];
/// What it makes code for.
pub(super) const LEVELS: [&str; 3] = ["arch=compute_80,code=sm_80", "arch=compute_90a,code=sm_90a", "arch=compute_80,code=compute_80"];

/// What kernels are made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Machine {
    /// GPUs from sm_80 on: code for sm_80 and sm_90a, and PTX for what comes after.
    Gpu,
    /// This machine's CPU, by the emulator.
    Emulator {
        /// Whether every access to memory is checked, which takes three times as long.
        checked: bool,
    },
}

/// Why there are no kernels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failed {
    /// A tool is not there: what is missing, and what can be done.
    Missing(String),
    /// A tool refused the source, or a file could not be written.
    Refused(String),
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Failed::Missing(text) | Failed::Refused(text)) = self;
        f.write_str(text)
    }
}

pub(super) fn refused(path: &Path, e: io::Error) -> Failed {
    Failed::Refused(format!("{}: {e}", path.display()))
}

/// Writes the kernels of a model into a folder, with the templates they are made of.
///
/// # Errors
/// A file cannot be written.
pub fn write(source: &str, dir: &Path) -> Result<(), Failed> {
    put(dir, TEMPLATES.iter().copied())?;
    let path = dir.join(SOURCE);
    fs::write(&path, source).map_err(|e| refused(&path, e))
}

fn put(dir: &Path, files: impl Iterator<Item = Source>) -> Result<(), Failed> {
    for s in files {
        let path = dir.join(s.name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(|e| refused(parent, e))?;
        }
        fs::write(&path, s.text).map_err(|e| refused(&path, e))?;
    }
    Ok(())
}

/// Compiles the kernels in a folder that [`write()`] filled, to the file `image`.
///
/// # Errors
/// No compiler, or one that refuses the kernels: registers that do not suffice count as that.
pub fn compile(dir: &Path, machine: Machine, image: &Path) -> Result<(), Failed> {
    build(dir, machine, image, false).map(|_| ())
}

/// The same for kernels in forms that are measured: those whose registers do not suffice are named, and count for nothing.
///
/// # Errors
/// As [`compile`], but for registers.
pub fn compile_variants(dir: &Path, machine: Machine, image: &Path) -> Result<Vec<String>, Failed> {
    let said = build(dir, machine, image, true)?;
    let spilled = said.lines().filter(|l| l.contains("spilled")).filter_map(|l| Some(l.split_once("function '")?.1.split_once('\'')?.0));
    let mut names: Vec<String> = spilled.map(String::from).collect();
    names.sort();
    names.dedup();
    Ok(names)
}

fn build(dir: &Path, machine: Machine, image: &Path, variants: bool) -> Result<String, Failed> {
    match machine {
        Machine::Gpu => {
            let nvcc = nvcc()?;
            let mut c = Command::new(&nvcc);
            c.args(FLAGS.iter().filter(|f| !(variants && **f == STRICT)));
            if variants {
                // Many kernels at once: each optimized by whichever processor is free.
                c.args(["--split-compile", "0"]);
            }
            LEVELS.iter().for_each(|code| {
                c.args(["-gencode", code]);
            });
            run(c.arg("-I").arg(dir).arg("-o").arg(image).arg(dir.join(SOURCE)))
        }
        Machine::Emulator { checked } => {
            put(dir, EMULATOR.iter().copied().filter(|s| s.name == "emulator.h"))?;
            let object = image.with_extension("o");
            let mut c = host();
            c.args(["-std=c++17", "-O2", "-march=native", "-ffp-contract=off", "-fPIC", "-DKILN_EMULATE", "-x", "c++"]);
            if checked {
                c.args(["-fsanitize=thread", "-DKILN_CHECKED"]);
            }
            run(c.arg("-I").arg(dir).arg("-c").arg("-o").arg(&object).arg(dir.join(SOURCE)))?;
            // Linked without the sanitizer's library: the emulator has the functions that checked code calls.
            run(host().args(["-shared", "-o"]).arg(image).arg(&object))?;
            fs::remove_file(&object).map_err(|e| refused(&object, e))?;
            Ok(String::new())
        }
    }
}

/// Compiles the driver that stands in for that of a GPU, into a folder, under the name that programs load.
///
/// # Errors
/// As [`compile`].
pub fn emulator(dir: &Path) -> Result<PathBuf, Failed> {
    let sources = dir.join("emulator");
    put(&sources, EMULATOR.iter().copied())?;
    let library = dir.join("libcuda.so.1");
    let mut c = host();
    c.args(["-std=c++17", "-O2", "-fPIC", "-shared", "-o"]).arg(&library);
    run(c.arg(sources.join("driver.cpp")).arg(sources.join("emulator.cpp")).args(["-ldl"]))?;
    Ok(library)
}

/// The host compiler: `$CXX`, or `g++`.
fn host() -> Command {
    Command::new(std::env::var_os("CXX").filter(|v| !v.is_empty()).unwrap_or_else(|| "g++".into()))
}

/// nvcc: `$NVCC`, that of `$CUDA_HOME` or `$CUDA_PATH`, the one on `PATH`, or where its wheels for Python lie.
///
/// # Errors
/// There is none.
pub fn nvcc() -> Result<PathBuf, Failed> {
    let var = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(named) = var("NVCC") {
        return match named.is_file() {
            true => Ok(named),
            false => Err(Failed::Missing(format!("NVCC names {}, which is not there", named.display()))),
        };
    }
    let homes = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(var).map(|d| d.join("bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let wheels = var("VIRTUAL_ENV").into_iter().chain(var("HOME").map(|h| h.join(".local"))).flat_map(|d| wheel_folders(&d.join("lib")));
    let usual = [PathBuf::from("/usr/local/cuda/bin")];
    let found = homes.chain(std::env::split_paths(&path)).chain(wheels).chain(usual).map(|d| d.join("nvcc")).find(|p| p.is_file());
    found.ok_or_else(|| {
        Failed::Missing(
            "kernels for a GPU are compiled by nvcc, which is not here: set NVCC or CUDA_HOME, install CUDA 13 or its wheels for Python \
             (pip install --no-deps nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-cuda-runtime==13.0.96 \
             nvidia-cuda-cccl==13.0.85), or compile for the CPU"
                .into(),
        )
    })
}

/// Where wheels put nvcc below a Python's `lib`.
fn wheel_folders(lib: &Path) -> Vec<PathBuf> {
    let mut out: Vec<PathBuf> =
        fs::read_dir(lib).into_iter().flatten().flatten().map(|e| e.path().join("site-packages/nvidia/cu13/bin")).collect();
    out.sort();
    out
}

/// Runs a tool; gives what it says beside its result.
fn run(c: &mut Command) -> Result<String, Failed> {
    let name = c.get_program().to_string_lossy().into_owned();
    let done = c.output().map_err(|e| Failed::Missing(format!("{name} cannot be run: {e}; CXX names the host compiler")))?;
    let text = String::from_utf8_lossy(&done.stderr);
    if done.status.success() {
        return Ok(text.into_owned());
    }
    let lines: Vec<&str> = text.lines().filter(|l| l.contains("error") || l.contains("warning") || l.contains("spill")).take(20).collect();
    let shown = if lines.is_empty() { text.lines().take(20).collect() } else { lines };
    Err(Failed::Refused(format!("{name} refuses the kernels, which is a bug of Kiln or of {name}:\n{}", shown.join("\n"))))
}
