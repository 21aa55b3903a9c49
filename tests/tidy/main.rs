//! The house in order: file headers, where unsafe may be, which crate may use which, and paths that documents name.

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn sources(dir: &str) -> Vec<(PathBuf, String)> {
    fn walk(dir: &Path, out: &mut Vec<(PathBuf, String)>) {
        let mut entries: Vec<PathBuf> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
        entries.sort();
        for path in entries {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() {
                if name != "target" && name != ".work" && name != "vendor" {
                    walk(&path, out);
                }
            } else if name.ends_with(".rs") {
                out.push((path.clone(), std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    let mut out = Vec::new();
    walk(&root().join(dir), &mut out);
    out
}

const CRATES: [&str; 6] = ["compiler", "macros", "runtime", "kernels-templates", "tests", "examples"];

#[test]
fn every_file_opens_with_a_sentence() {
    for (path, text) in CRATES.iter().flat_map(|c| sources(c)) {
        if path.components().any(|c| c.as_os_str() == "ui") && !path.ends_with("main.rs") {
            continue;
        }
        let first = text.lines().next().unwrap_or_default();
        assert!(first.starts_with("//! "), "{} does not open with a sentence on what lives there", path.display());
    }
}

#[test]
fn no_file_passes_a_thousand_lines() {
    for (path, text) in CRATES.iter().flat_map(|c| sources(c)) {
        let lines = text.lines().count();
        assert!(lines <= 1000, "{} has {lines} lines", path.display());
    }
}

#[test]
fn unsafe_code_lives_in_the_runtime_and_the_kernels() {
    for (path, text) in ["compiler", "macros"].iter().flat_map(|c| sources(c)) {
        // Printed code is inside of quote!, which is text here: only the printers may say it.
        if path.components().any(|c| c.as_os_str() == "emit") {
            continue;
        }
        for (n, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            assert!(!code.contains("unsafe {") && !code.contains("unsafe fn"), "{}:{} is unsafe", path.display(), n + 1);
        }
    }
}

#[test]
fn crates_import_downwards() {
    let forbidden = [
        ("kernels-templates", vec!["kiln_compiler", "kiln_macros", "kiln::"]),
        ("runtime", vec!["kiln_compiler"]),
        ("compiler/src", vec!["kiln_macros", "use kiln::"]),
    ];
    for (dir, names) in forbidden {
        for (path, text) in sources(dir) {
            for name in &names {
                let used = text.lines().filter(|l| !l.trim_start().starts_with("//")).any(|l| l.contains(&format!("use {name}")));
                assert!(!used, "{} uses {name}", path.display());
            }
        }
    }
}

#[test]
fn rewriting_sees_graphs_and_printers_see_plans() {
    for dir in ["compiler/src/rewrite", "compiler/src/fusion", "compiler/src/ops"] {
        for (path, text) in sources(dir) {
            assert!(!text.contains("use crate::plan") && !text.contains("use crate::emit"), "{} looks downstream", path.display());
        }
    }
}

#[test]
fn the_architecture_names_paths_that_exist() {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    for span in text.split('`').skip(1).step_by(2) {
        let path = span.trim_end_matches('/');
        let looks = path.contains('/') && path.chars().all(|c| c.is_ascii_alphanumeric() || "/_-.".contains(c)) && !path.starts_with('/');
        let top = CRATES.iter().any(|c| path.starts_with(&format!("{c}/")));
        if looks && top {
            assert!(root().join(path).exists(), "ARCHITECTURE.md names `{span}`, which does not exist");
        }
    }
}
