//! Crates on disk: the sources of the runtime, and the crate around a compiled model.

use crate::cache;
use crate::failure::{At, Failure, Result};
use kiln_compiler::Output;
use kiln_compiler::emit::{DeviceFiles, Interface, Names, WeightsAt};
use kiln_compiler::target::cuda::image::{self, Places};
use kiln_compiler::target::cuda::toolchain::{self, Machine};
use std::collections::{BTreeSet, hash_map::DefaultHasher};
use std::fs;
use std::hash::Hasher;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

mod sources {
    //! The table that the build script makes.
    include!(concat!(env!("OUT_DIR"), "/sources.rs"));
}

/// Features of the crate kiln.
pub(crate) type Features = BTreeSet<String>;

/// The features that a model needs.
pub(crate) fn features(output: &Output) -> Features {
    output.plan.features().into_keys().map(String::from).collect()
}

/// The line of a manifest that depends on a runtime in that folder.
pub(crate) fn dependency(runtime: &Path, features: &Features) -> String {
    let features: Vec<&String> = features.iter().collect();
    format!("kiln = {{ path = {}, features = {features:?} }}", toml(runtime.join("kiln").display().to_string()))
}

/// The same for a program of the command, which needs the runtime's `main` too.
pub(crate) fn program_dependency(features: &Features) -> Result<String> {
    let mut all = features.clone();
    all.insert("harness".into());
    Ok(dependency(&cache::runtime(features)?, &all))
}

/// The version of the compiler, which emitted code shares.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");
const EDITION: &str = "2024";
const RUST: &str = env!("CARGO_PKG_RUST_VERSION");

/// Text as a string of TOML: JSON's escapes are TOML's too.
pub(crate) fn toml(text: impl Into<String>) -> String {
    serde_json::Value::String(text.into()).to_string()
}

/// Writes the crates kiln and kiln-kernels into a folder. Without features they need nothing but rustc; a manifest that only names other
/// crates would already need a registry.
pub(crate) fn write_runtime(dir: &Path, features: &Features) -> Result<()> {
    for (name, text) in sources::FILES {
        let path = dir.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).at(parent)?;
        }
        fs::write(&path, text).at(&path)?;
    }
    let lints = "[lints.rust]\nunexpected_cfgs = \"allow\"\n";
    for (name, rest) in [
        (
            "kiln",
            format!(
                "[features]\nharness = []\n{}\n[dependencies]\nkiln-kernels = {{ path = {} }}\n",
                features.iter().map(|f| format!("{f} = [\"kiln-kernels/{f}\"]\n")).collect::<String>(),
                toml("../kiln-kernels")
            ),
        ),
        ("kiln-kernels", if features.is_empty() { String::new() } else { sources::NEEDS.into() }),
    ] {
        let head = format!(
            "[package]\nname = \"{name}\"\nversion = \"{VERSION}\"\nedition = \"{EDITION}\"\nrust-version = \"{RUST}\"\nlicense = \"MIT OR Apache-2.0\"\n"
        );
        let path = dir.join(name).join("Cargo.toml");
        fs::write(&path, format!("{head}\n{rest}\n{lints}")).at(&path)?;
    }
    Ok(())
}

/// A hash of what [`write_runtime`] writes.
pub(crate) fn runtime_hash() -> u64 {
    let mut h = DefaultHasher::new();
    for (name, text) in sources::FILES {
        h.write(name.as_bytes());
        h.write(text.as_bytes());
    }
    h.finish()
}

/// A folder that appears under its name when it is complete, and leaves nothing behind otherwise.
#[derive(Debug)]
pub(crate) struct Draft {
    temporary: PathBuf,
    to: PathBuf,
}

impl Draft {
    /// A new folder that will be `to`.
    pub(crate) fn new(to: &Path) -> Result<Draft> {
        let mut name = std::ffi::OsString::from(".");
        name.push(to.file_name().ok_or_else(|| Failure::at(to, "this names no folder"))?);
        name.push(format!(".{}.part", std::process::id()));
        let temporary = to.with_file_name(name);
        if let Some(parent) = to.parent().filter(|p| !p.as_os_str().is_empty()) {
            fs::create_dir_all(parent).at(parent)?;
        }
        fs::create_dir(&temporary).at(&temporary)?;
        Ok(Draft { temporary, to: to.to_path_buf() })
    }
    /// Where to write.
    pub(crate) fn path(&self) -> &Path {
        &self.temporary
    }
    /// Puts the folder in its place; one that is there is replaced when `replace` says so.
    pub(crate) fn finish(self, replace: bool) -> Result<()> {
        if replace && self.to.exists() {
            let old = self.temporary.with_extension("old");
            fs::rename(&self.to, &old).at(&self.to)?;
            fs::rename(&self.temporary, &self.to).at(&self.to)?;
            return fs::remove_dir_all(&old).at(&old);
        }
        match fs::rename(&self.temporary, &self.to) {
            Err(_) if !replace && self.to.is_dir() => Ok(()),
            other => other.at(&self.to),
        }
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // After a rename there is nothing to remove.
        let _ = fs::remove_dir_all(&self.temporary);
    }
}

/// Writes the weights of a compiled model.
pub(crate) fn write_weights(output: &Output, path: &Path) -> Result<()> {
    let mut file = BufWriter::new(fs::File::create(path).at(path)?);
    output.write_weights(&mut file).and_then(|()| file.flush()).at(path)
}

/// The head of a generated file: what lints it need not pass.
pub(crate) const ALLOW: &str = "#![allow(unused, clippy::all, clippy::undocumented_unsafe_blocks, missing_docs, unreachable_pub)]\n\n";

/// The file of the weights of a plan for a GPU.
pub(crate) const DEVICE_WEIGHTS: &str = "weights-gpu.bin";
/// The folder of kernels for a GPU, and the file of them compiled.
const KERNELS: &str = "kernels";
const IMAGE: &str = "kernels/kernels.fatbin";

/// The kernels of a model for a GPU as they were compiled.
#[derive(Clone, Debug)]
pub(crate) struct Compiled {
    /// Bytes of them.
    pub(crate) bytes: usize,
    /// Those in forms to be measured whose registers do not suffice.
    pub(crate) spilled: Vec<String>,
}

/// Writes and compiles the kernels of a model for a GPU, where it has some, with its weights beside them.
pub(crate) fn write_kernels(output: &Output, model: &Path, dir: &Path, machine: Machine) -> Result<Option<Compiled>> {
    let Some(source) = output.cuda() else { return Ok(None) };
    let (kernels, image) = (dir.join(KERNELS), dir.join(IMAGE));
    let measured = output.device.as_ref().and_then(|p| p.device.as_ref()).is_some_and(|d| d.forms.variants > 0);
    let mut spilled = Vec::new();
    if measured {
        toolchain::write(&source, &kernels)?;
        spilled = toolchain::compile_variants(&kernels, machine, &image)?;
    } else if machine == Machine::Gpu {
        image::make(&source, Places { model, cache: &cache::root()?.join("kernels") }, &kernels, &image)?;
    } else {
        toolchain::write(&source, &kernels)?;
        toolchain::compile(&kernels, machine, &image)?;
    }
    if matches!(machine, Machine::Emulator { .. }) {
        // Programs look for the driver beside them first.
        let library = dir.join("libcuda.so.1");
        fs::copy(cache::emulator()?, &library).at(&library)?;
    }
    let path = dir.join(DEVICE_WEIGHTS);
    let mut file = BufWriter::new(fs::File::create(&path).at(&path)?);
    output.write_device_weights(&mut file).and_then(|()| file.flush()).at(&path)?;
    Ok(Some(Compiled { bytes: fs::metadata(&image).at(&image)?.len() as usize, spilled }))
}

/// The source of a model; `kernels` are the bytes of those for a GPU. Its weights lie beside its crate's manifest, or are given at run time.
pub(crate) fn source(output: &Output, model: &str, kernels: Option<usize>, embed: bool) -> String {
    let beside = |name: &str| format!("concat!(env!(\"CARGO_MANIFEST_DIR\"), \"/{name}\")");
    // The command needs no fields, so ports that would share a name are told apart by numbers.
    let weights = |name: &str| if embed { WeightsAt::Embedded(beside(name)) } else { WeightsAt::Given };
    let mut names = Names::new(model, weights("weights.bin")).interface(Interface::Numbered);
    names.device = kernels.map(|image_bytes| DeviceFiles { weights: weights(DEVICE_WEIGHTS), image: beside(IMAGE), image_bytes });
    output.rust(&names).unwrap_or_else(|d| format!("compile_error!({:?});", d.to_string()))
}

/// A file name as the name of a crate: `Resnet50.v1` is `resnet50-v1`.
pub(crate) fn crate_name(path: &Path) -> String {
    let stem = path.file_stem().map_or_else(String::new, |s| s.to_string_lossy().to_lowercase());
    let words: Vec<&str> = stem.split(|c: char| !c.is_ascii_alphanumeric()).filter(|w| !w.is_empty()).collect();
    let mut out = words.join("-");
    out.truncate(48);
    if out.is_empty() || out.starts_with(|c: char| c.is_ascii_digit()) {
        out.insert_str(0, "m-");
    }
    out + "-kiln"
}
