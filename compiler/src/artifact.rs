//! Compiled models on disk: source and weights under a key of everything that decides them, made once, never half written.

use crate::compile::{Options, Output, compile};
use crate::diagnostics::{Diagnostic, Diagnostics, Result};
use crate::emit::{self, DeviceFiles, Names, WeightsAt};
use crate::import::Extent;
use crate::key::Key;
use crate::target::Cuda;
use crate::target::cuda::image::{self, Places};
use crate::target::cuda::toolchain::{self, Failed};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// What decides an artifact.
#[derive(Clone, Debug)]
pub struct Request {
    /// The model and its dimensions.
    pub options: Options,
    /// Names; the place of the weights is filled in.
    pub names: Names,
    /// Whether the weights go into the binary.
    pub embed: bool,
    /// Whether only the types are wanted, as an editor needs them.
    pub skeleton: bool,
    /// Whether the code is checked and never linked: kernels for a GPU are left out.
    pub checked: bool,
}

/// A compiled model on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artifact {
    /// The Rust source, to be included.
    pub source: PathBuf,
    /// The weights file.
    pub weights: PathBuf,
    /// Data files beside the model.
    pub data_files: Vec<PathBuf>,
}

impl Request {
    /// A request for a model file, under the name of its stem.
    pub fn new(model: impl Into<PathBuf>) -> Request {
        let model = model.into();
        let stem = model.file_stem().map_or(String::new(), |s| s.to_string_lossy().into_owned());
        Request {
            options: Options { model, ..Options::default() },
            names: Names::new(struct_name(&stem), WeightsAt::Given),
            embed: true,
            skeleton: false,
            checked: false,
        }
    }
    /// Closes a dimension.
    pub fn dim(&mut self, name: &str, extent: Extent) {
        self.options.dims.by_name.insert(name.to_string(), extent);
    }
}

/// A file stem as the name of a struct: `bert_base-s128` is `BertBaseS128`.
pub fn struct_name(stem: &str) -> String {
    let mut out = String::new();
    let mut upper = true;
    for c in stem.chars() {
        if c.is_ascii_alphanumeric() {
            out.push(if upper { c.to_ascii_uppercase() } else { c });
            upper = false;
        } else {
            upper = true;
        }
    }
    if out.is_empty() || out == "Self" || out.starts_with(|c: char| c.is_ascii_digit()) {
        out.insert_str(0, "Model");
    }
    out.truncate(64);
    out
}

fn io(what: &str, path: &Path, e: &std::io::Error) -> Diagnostics {
    Diagnostic::new(format!("{what} {}: {e}", path.display())).into()
}

/// A line of the list of data files: a later build compares it with the file as it is then.
fn stamp(path: &Path) -> Option<String> {
    let m = fs::metadata(path).ok()?;
    let at = m.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(format!("{}\t{}\t{}", path.display(), m.len(), at.as_nanos()))
}

/// The environment that decides whether kernels for a GPU are compiled, and by what.
pub const WATCHED: [&str; 4] = ["KILN_CUDA", "NVCC", "CUDA_HOME", "CUDA_PATH"];

/// What is compiled for a GPU after all: `KILN_CUDA=off` leaves it out, `KILN_CUDA=auto` where there are neither nvcc nor committed kernels.
fn wanted(cuda: Option<Cuda>, model: &Path) -> Option<Cuda> {
    match std::env::var("KILN_CUDA").as_deref() {
        Ok("off") => None,
        Ok("auto") => cuda.filter(|_| toolchain::nvcc().is_ok() || !image::committed(model).is_empty()),
        _ => cuda,
    }
}

/// Compiles the kernels of a model for a GPU in a folder; gives where generated code finds them.
fn kernels(output: &Output, model: &Path, folder: &Path, root: &Path) -> Result<Option<DeviceFiles>> {
    let Some(source) = output.cuda() else { return Ok(None) };
    let (compiled, weights) = (folder.join("kernels.fatbin"), folder.join("weights-gpu.bin"));
    let places = Places { model, cache: &root.join("kernels") };
    match image::make(&source, places, &folder.join("kernels"), &compiled) {
        // The GPU's part is there without kernels, and says so to whoever asks for it.
        Err(Failed::Missing(_)) if std::env::var("KILN_CUDA").is_ok_and(|v| v == "auto") => return Ok(None),
        made => made.map_err(|e| {
            let remedies = "KILN_CUDA=off in the environment compiles for the CPU alone, KILN_CUDA=auto does where nvcc is missing";
            Diagnostic::new(e.to_string()).help(remedies)
        })?,
    }
    whole(&weights, &mut |w| output.write_device_weights(w))?;
    let image_bytes = fs::metadata(&compiled).map_err(|e| io("cannot read", &compiled, &e))?.len() as usize;
    let text = |p: &Path| format!("{:?}", p.display().to_string());
    Ok(Some(DeviceFiles { weights: WeightsAt::Embedded(text(&weights)), image: text(&compiled), image_bytes }))
}

/// Makes the artifact in a folder below `root`, or finds it there.
///
/// # Errors
/// Everything wrong with the model, a file that cannot be read or written, or no nvcc where a GPU is compiled for.
pub fn make(request: &Request, root: &Path) -> Result<Artifact> {
    let model = &request.options.model;
    // An editor needs no kernels.
    let cuda = wanted(request.options.cuda, model).filter(|_| !request.skeleton);
    let options = Options { cuda, ..request.options.clone() };
    // Kernels come from nvcc or from files beside the model, if they come at all, and may be wanted there.
    let sources = cuda.map(|_| (request.checked, toolchain::nvcc().is_ok(), image::commits(), image::committed(model)));
    let mut key = Key::new();
    key.add(env!("CARGO_PKG_VERSION").as_bytes());
    key.add(env!("KILN_SOURCE_HASH").as_bytes());
    key.add(
        format!(
            "{:?} {:?} {:?} {:?} {:?} {:?} {:?} {} {} {}",
            request.options.dims,
            request.options.without,
            request.options.accuracy,
            request.options.state,
            cuda,
            sources,
            request.names,
            request.embed,
            request.skeleton,
            request.options.tune.locked
        )
        .as_bytes(),
    );
    key.add_file(model).map_err(|e| io("cannot read", model, &e))?;
    if let Some(tune) = request.options.tune.path(model) {
        key.add_file(&tune).map_err(|e| io("cannot read", &tune, &e))?;
    }
    let folder = root.join(env!("CARGO_PKG_VERSION")).join(key.hex());
    fs::create_dir_all(&folder).map_err(|e| io("cannot make", &folder, &e))?;
    let artifact = |data_files| Artifact { source: folder.join("model.rs"), weights: folder.join("weights.bin"), data_files };
    let lock_path = folder.join("lock");
    let lock = File::create(&lock_path).map_err(|e| io("cannot make", &lock_path, &e))?;
    lock.lock().map_err(|e| io("cannot lock", &lock_path, &e))?;
    // The list of data files is written last, so that it says the rest is whole.
    let list = folder.join("data");
    if let Ok(text) = fs::read_to_string(&list) {
        let files: Vec<PathBuf> = text.lines().filter_map(|l| l.split('\t').next()).map(PathBuf::from).collect();
        if text.lines().zip(&files).all(|(l, f)| stamp(f).as_deref() == Some(l)) {
            return Ok(artifact(files));
        }
        fs::remove_file(&list).map_err(|e| io("cannot remove", &list, &e))?;
    }
    let output = compile(&options)?;
    let mut data_files = output.data_files.clone();
    if cuda.is_some() {
        data_files.extend(image::committed(model));
    }
    let done = artifact(data_files);
    let mut names = request.names.clone();
    if request.embed {
        names.weights = WeightsAt::Embedded(format!("{:?}", done.weights.display().to_string()));
    }
    if !request.checked {
        names.device = kernels(&output, model, &folder, root)?;
    }
    let mut source = if request.skeleton { emit::skeleton(&output.plan, &names)? } else { output.rust(&names)? };
    source.insert_str(0, HEADER);
    if !request.skeleton {
        whole(&done.weights, &mut |w| output.write_weights(w))?;
    }
    whole(&done.source, &mut |w| w.write_all(source.as_bytes()))?;
    let stamps: Vec<String> = done.data_files.iter().filter_map(|f| stamp(f)).collect();
    whole(&list, &mut |w| w.write_all(stamps.join("\n").as_bytes()))?;
    Ok(done)
}

/// The first line of generated source.
pub const HEADER: &str = "// Generated by kiln; do not edit.\n";

/// Writes a file under a temporary name and renames it, so that it is whole or not there.
///
/// # Errors
/// The file cannot be written.
pub fn whole(path: &Path, write: &mut dyn FnMut(&mut dyn Write) -> std::io::Result<()>) -> Result<()> {
    let temporary = path.with_extension(format!("tmp{}", std::process::id()));
    let result = File::create(&temporary).map(BufWriter::new).and_then(|mut w| {
        write(&mut w)?;
        w.flush()
    });
    let result = result.and_then(|()| fs::rename(&temporary, path));
    result.map_err(|e| {
        let _ = fs::remove_file(&temporary);
        io("cannot write", path, &e)
    })
}

/// Where artifacts of a macro go: the build's own folder, else the target folder above the crate, else the user's cache.
pub fn cache_root(manifest_dir: &Path) -> PathBuf {
    let var = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(out) = var("OUT_DIR") {
        return out.join("kiln");
    }
    if let Some(target) = var("CARGO_TARGET_DIR") {
        let target = if target.is_absolute() { target } else { manifest_dir.join(target) };
        return target.join("kiln");
    }
    let tagged = manifest_dir.ancestors().map(|d| d.join("target")).find(|t| t.join("CACHEDIR.TAG").is_file());
    match tagged.or_else(|| var("XDG_CACHE_HOME")).or_else(|| var("HOME").map(|h| h.join(".cache"))) {
        Some(dir) => dir.join("kiln"),
        None => std::env::temp_dir().join("kiln"),
    }
}

#[cfg(test)]
mod tests {
    use super::struct_name;

    #[test]
    fn struct_names_are_upper_camel() {
        for (stem, name) in [
            ("resnet50", "Resnet50"),
            ("bert_base-s128", "BertBaseS128"),
            ("3d", "Model3d"),
            ("", "Model"),
            ("é", "Model"),
            ("self", "ModelSelf"),
        ] {
            assert_eq!(struct_name(stem), name);
        }
    }
}
