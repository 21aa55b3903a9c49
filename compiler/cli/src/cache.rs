//! The user's cache: one copy of the runtime's sources, one target directory, and compiled models by content.

use crate::failure::{At, Failure, Result};
use crate::model::Ready;
use crate::package::{self, Draft, Features};
use kiln_compiler::target::cuda::toolchain;
use std::collections::hash_map::DefaultHasher;
use std::fs::{self, File};
use std::hash::Hasher;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// The cache's folder.
pub(crate) fn root() -> Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let base = set("XDG_CACHE_HOME").filter(|p| p.is_absolute()).or_else(|| set("HOME").map(|h| h.join(".cache")));
    let base = base.ok_or_else(|| Failure::Fault("neither XDG_CACHE_HOME nor HOME says where the cache is".into()))?;
    let root = base.join("kiln");
    fs::create_dir_all(&root).at(&root)?;
    Ok(root)
}

/// The sources of the runtime, written once for each version of them and each set of features.
pub(crate) fn runtime(features: &Features) -> Result<PathBuf> {
    let name = format!("{}-{:016x}", package::VERSION, package::runtime_hash());
    let dir = root()?.join("runtime").join(features.iter().fold(name, |name, f| format!("{name}-{f}")));
    if !dir.is_dir() {
        let draft = Draft::new(&dir)?;
        package::write_runtime(draft.path(), features)?;
        draft.finish(false)?;
    }
    Ok(dir)
}

/// The driver that stands in for that of a GPU, compiled once for each version of it.
pub(crate) fn emulator() -> Result<PathBuf> {
    let dir = root()?.join("emulator").join(format!("{}-{:016x}", package::VERSION, package::runtime_hash()));
    if !dir.is_dir() {
        let draft = Draft::new(&dir)?;
        toolchain::emulator(draft.path())?;
        draft.finish(false)?;
    }
    Ok(dir.join("libcuda.so.1"))
}

/// Holds a lock until it is dropped: whoever wants the same one waits.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "closing the file releases the lock")] File);

/// Waits for the lock of that name.
pub(crate) fn lock(name: &str) -> Result<Lock> {
    let dir = root()?.join("locks");
    fs::create_dir_all(&dir).at(&dir)?;
    let path = dir.join(name);
    let file = File::create(&path).at(&path)?;
    file.lock().at(&path)?;
    Ok(Lock(file))
}

/// The key of a compiled model: contents of its files, choices, and the compiler itself.
pub(crate) fn key(model: &Path, ready: &Ready) -> Result<String> {
    let mut h = DefaultHasher::new();
    let compiler = std::env::current_exe().map_err(|e| Failure::Fault(format!("error: the compiler's own file: {e}")))?;
    let methods = ready.tune.path(model);
    for path in [&compiler, &model.to_path_buf()].into_iter().chain(&ready.data_files).chain(&methods) {
        hash_file(path, &mut h)?;
    }
    let choices = (&ready.dims, ready.without, ready.accuracy, &ready.tune, &ready.state, ready.gpu);
    h.write(format!("{choices:?}").as_bytes());
    Ok(format!("{:016x}", h.finish()))
}

fn hash_file(path: &Path, h: &mut DefaultHasher) -> Result<()> {
    let mut file = File::open(path).at(path)?;
    let mut buffer = vec![0u8; 1 << 20];
    let mut total = 0;
    loop {
        let n = file.read(&mut buffer).at(path)?;
        if n == 0 {
            break;
        }
        h.write(&buffer[..n]);
        total += n;
    }
    h.write_usize(total);
    Ok(())
}

/// A folder for the files of one job; it goes when this is dropped.
#[derive(Debug)]
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    /// A new empty folder.
    pub(crate) fn new() -> Result<Scratch> {
        let base = std::env::temp_dir();
        for n in 0..1000 {
            let path = base.join(format!("kiln-{}-{n}", std::process::id()));
            if fs::create_dir(&path).is_ok() {
                return Ok(Scratch(path));
            }
        }
        Err(Failure::at(&base, "no temporary folder can be made here"))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is left to the system.
        let _ = fs::remove_dir_all(&self.0);
    }
}
