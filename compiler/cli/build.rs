//! Makes the table of the sources that compiled models need: the runtime and the kernels, without their tests.

use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

fn sources(dir: &Path, out: &mut Vec<PathBuf>) -> Result<(), Box<dyn Error>> {
    let mut entries = fs::read_dir(dir)?.map(|e| Ok(e?.path())).collect::<Result<Vec<_>, std::io::Error>>()?;
    entries.sort();
    for path in entries {
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if path.is_dir() {
            sources(&path, out)?;
        } else if [".cuh", ".h", ".cpp"].iter().any(|e| name.ends_with(e))
            || name.ends_with(".rs") && name != "tests.rs" && !name.ends_with("_tests.rs")
        {
            out.push(path);
        }
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../..").canonicalize()?;
    let mut table = String::from("pub(crate) static FILES: &[(&str, &str)] = &[\n");
    for (krate, folder) in [("kiln", "runtime/src"), ("kiln-kernels", "kernels-templates/src")] {
        let base = root.join(folder);
        println!("cargo::rerun-if-changed={}", base.display());
        let mut files = Vec::new();
        sources(&base, &mut files)?;
        for f in files {
            let inner = f.strip_prefix(&base)?.display().to_string().replace('\\', "/");
            writeln!(table, "    ({:?}, include_str!({:?})),", format!("{krate}/src/{inner}"), f.display().to_string())?;
        }
    }
    table.push_str("];\n");
    // The part of the kernels' manifest that says which feature brings which crates.
    let manifest = root.join("kernels-templates/Cargo.toml");
    println!("cargo::rerun-if-changed={}", manifest.display());
    let text = fs::read_to_string(&manifest)?;
    let from = text.find("[features]").ok_or("the kernels' manifest has no features")?;
    let to =
        text.find("[dev-dependencies]").filter(|to| from < *to).ok_or("the kernels' manifest has no tests' dependencies at its end")?;
    writeln!(table, "pub(crate) static NEEDS: &str = {:?};", &text[from..to])?;
    fs::write(Path::new(&env::var("OUT_DIR")?).join("sources.rs"), table)?;
    Ok(())
}
