//! Compiled kernels for GPUs by what they are made of: those committed beside the model, those made before, or else those that nvcc makes.

use super::toolchain::{self, FLAGS, Failed, LEVELS, Machine};
use crate::key::Key;
use kiln_kernels::cuda::TEMPLATES;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// Where compiled kernels may lie already.
#[derive(Clone, Copy, Debug)]
pub struct Places<'a> {
    /// The model, beside which they may be committed.
    pub model: &'a Path,
    /// A folder for those that nvcc made.
    pub cache: &'a Path,
}

/// What `KILN_CUDA` says for kernels to be put beside the model.
const COMMIT: &str = "commit";
const EXTENSION: &str = "fatbin";

/// What names the kernels: their source, the templates, and how nvcc is called. The version of nvcc is no part of it, so that kernels which one
/// machine committed serve another.
fn key(source: &str) -> String {
    let mut key = Key::new();
    key.add(source.as_bytes());
    for t in TEMPLATES {
        key.add(t.name.as_bytes());
        key.add(t.text.as_bytes());
    }
    FLAGS.iter().chain(&LEVELS).for_each(|f| key.add(f.as_bytes()));
    key.hex()
}

fn stem(model: &Path) -> String {
    model.file_stem().map_or_else(String::new, |s| s.to_string_lossy().into_owned())
}

/// Whether kernels are to be put beside their models.
pub fn commits() -> bool {
    std::env::var("KILN_CUDA").is_ok_and(|v| v == COMMIT)
}

/// The kernels that are committed beside a model, whatever they were made of: `net-KEY.fatbin` for `net.onnx`.
pub fn committed(model: &Path) -> Vec<PathBuf> {
    let start = stem(model) + "-";
    let folder = model.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let is_one = |p: &PathBuf| {
        let named = p.file_stem().and_then(|s| s.to_str()).and_then(|s| s.strip_prefix(&start));
        p.extension().is_some_and(|e| e == EXTENSION) && named.is_some_and(|k| k.len() == 32 && k.bytes().all(|b| b.is_ascii_hexdigit()))
    };
    let mut out: Vec<PathBuf> = fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path()).filter(is_one).collect();
    out.sort();
    out
}

/// Writes the kernels of a model into the folder `sources`, with the templates they are made of, and compiled to the file `image`.
///
/// With `KILN_CUDA=commit` in the environment they are put beside the model too, where builds without nvcc find them.
///
/// # Errors
/// They are nowhere and there is no nvcc, nvcc refuses them, or a file cannot be read or written.
pub fn make(source: &str, places: Places<'_>, sources: &Path, image: &Path) -> Result<(), Failed> {
    toolchain::write(source, sources)?;
    let key = key(source);
    let beside = places.model.with_file_name(format!("{}-{key}.{EXTENSION}", stem(places.model)));
    if beside.is_file() {
        return copy(&beside, image);
    }
    let nvcc = toolchain::nvcc().map_err(|e| missing(e, places.model))?;
    let made = places.cache.join(format!("{key}-{}.{EXTENSION}", stamp(&nvcc)));
    if !made.is_file() {
        fs::create_dir_all(places.cache).map_err(|e| toolchain::refused(places.cache, e))?;
        put(&made, |to| toolchain::compile(sources, Machine::Gpu, to))?;
    }
    if commits() {
        put(&beside, |to| copy(&made, to))?;
    }
    copy(&made, image)
}

/// Makes a file under a temporary name and renames it, so that it is whole or not there.
fn put(path: &Path, make: impl FnOnce(&Path) -> Result<(), Failed>) -> Result<(), Failed> {
    let temporary = path.with_extension(format!("tmp{}", std::process::id()));
    let done = make(&temporary).and_then(|()| fs::rename(&temporary, path).map_err(|e| toolchain::refused(path, e)));
    if done.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    done
}

fn copy(from: &Path, to: &Path) -> Result<(), Failed> {
    fs::copy(from, to).map(drop).map_err(|e| toolchain::refused(to, e))
}

/// What tells one nvcc from another.
fn stamp(nvcc: &Path) -> String {
    let mut key = Key::new();
    key.add(nvcc.as_os_str().as_encoded_bytes());
    if let Ok(m) = fs::metadata(nvcc) {
        key.add(&m.len().to_le_bytes());
        let at = m.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        key.add(&at.map_or(0, |at| at.as_nanos()).to_le_bytes());
    }
    key.hex()[..8].to_string()
}

fn missing(e: Failed, model: &Path) -> Failed {
    let others: Vec<String> = committed(model).iter().map(|p| p.display().to_string()).collect();
    let found = match others.as_slice() {
        [] => String::new(),
        list => {
            format!(
                " ({} made of other kernels: another version of Kiln, of the model, or other options)",
                list.join(", ") + if list.len() == 1 { " is" } else { " are" }
            )
        }
    };
    Failed::Missing(format!(
        "{e}; or take the kernels from a machine that has nvcc: built there with KILN_CUDA={COMMIT} in the environment they are written beside the \
         model, to be committed{found}"
    ))
}
