//! A hash of the compiler's own sources, so that artifacts of another build of it are not taken for its own.

use std::path::{Path, PathBuf};

fn sources(dir: &Path, out: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for path in entries.flatten().map(|e| e.path()) {
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|e| ["rs", "cuh", "h", "cpp"].iter().any(|x| e == *x)) {
            out.push(path);
        }
    }
}

fn main() {
    println!("cargo:rerun-if-changed=src");
    println!("cargo:rerun-if-changed=../kernels-templates/src");
    let mut files = Vec::new();
    sources(Path::new("src"), &mut files);
    sources(Path::new("../kernels-templates/src"), &mut files);
    files.sort();
    let mut h = 0xcbf2_9ce4_8422_2325u64;
    for f in files {
        for b in std::fs::read(f).unwrap_or_default() {
            h = (h ^ b as u64).wrapping_mul(0x100_0000_01b3);
        }
    }
    println!("cargo:rustc-env=KILN_SOURCE_HASH={h:016x}");
}
