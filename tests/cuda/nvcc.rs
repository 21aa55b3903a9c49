//! Kernels compiled by nvcc, where it is: the instructions they are made of; and where it is not.

use super::{done, folder, templates};
use kiln_compiler::artifact::{self, Request};
use kiln_compiler::target::cuda::toolchain;
use kiln_compiler::{Cuda, Precision};
use kiln_tests::command;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

#[test]
fn without_nvcc_the_error_says_what_to_do() {
    let dir = folder("missing");
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/01-digits/digits.onnx");
    let mut c = Command::new(command());
    c.arg("compile").arg(&model).args(["--target", "cuda", "-o"]).arg(dir.join("out")).env("NVCC", dir.join("nowhere"));
    let out = c.output().unwrap();
    let text = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(3), "{text}");
    assert!(text.contains("NVCC names") && !dir.join("out").exists(), "{text}");
}

/// A stand-in for nvcc that writes a line to the file it is asked for.
#[cfg(unix)]
fn pretended_nvcc(dir: &Path) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let path = dir.join("nvcc");
    fs::write(&path, "#!/bin/sh\nwhile [ $# -gt 0 ]; do [ \"$1\" = -o ] && echo compiled > \"$2\"; shift; done\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[cfg(unix)]
#[test]
fn committed_kernels_stand_in_for_nvcc() {
    let dir = folder("committed");
    let digits = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/01-digits/digits.onnx");
    fs::copy(digits, dir.join("net.onnx")).unwrap();
    let run = |nvcc: &Path, mode: &str, more: &[&str]| {
        let mut c = Command::new(command());
        c.arg("compile").arg(dir.join("net.onnx")).args(["--target", "cuda", "-o"]).arg(dir.join("out")).args(more);
        c.env("NVCC", nvcc).env("KILN_CUDA", mode).env("XDG_CACHE_HOME", dir.join("cache")).output().unwrap()
    };
    let (nvcc, nowhere) = (pretended_nvcc(&dir), dir.join("nowhere"));
    let fatbins = |at: &Path| {
        let names = fs::read_dir(at).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        names.filter(|n| n.ends_with(".fatbin")).collect::<Vec<_>>()
    };
    assert!(run(&nvcc, "", &[]).status.success() && fatbins(&dir).is_empty(), "nothing is committed unless it is asked for");
    // What nvcc made once is not made again.
    assert_eq!(fatbins(&dir.join("cache/kiln/kernels")).len(), 1);
    assert!(run(&nvcc, "commit", &[]).status.success());
    let [committed] = &fatbins(&dir)[..] else { panic!("one file is committed: {:?}", fatbins(&dir)) };
    assert!(committed.starts_with("net-"), "{committed}");
    fs::write(dir.join(committed), "committed\n").unwrap();
    assert!(run(&nowhere, "", &[]).status.success());
    assert_eq!(fs::read_to_string(dir.join("out/kernels/kernels.fatbin")).unwrap(), "committed\n");
    // Kernels of other options are others.
    let out = run(&nowhere, "", &["--precision", "f16"]);
    let text = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(3), "{text}");
    assert!(text.contains("KILN_CUDA=commit") && text.contains(committed.as_str()), "{text}");
}

#[test]
fn checked_code_needs_no_nvcc() {
    let dir = folder("checked");
    let mut request = Request::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/01-digits/digits.onnx"));
    request.options.cuda = Some(Cuda { precision: Precision::F16, strict: true });
    request.checked = true;
    let made = artifact::make(&request, &dir).unwrap();
    assert!(made.weights.is_file() && !made.source.with_file_name("kernels").exists());
    let text = fs::read_to_string(&made.source).unwrap();
    assert!(text.contains("mod device") && !text.contains("kernels.fatbin"));
}

/// The instructions of each kernel of a file for a level of GPUs, or none where there is no nvcc, or no tool that shows them.
fn instructions(source: &Path, level: &str, dir: &Path) -> Option<BTreeMap<String, Vec<String>>> {
    let nvcc = toolchain::nvcc().ok()?;
    let show = nvcc.with_file_name("cuobjdump");
    if !show.is_file() {
        return None;
    }
    templates(dir);
    let image = dir.join(format!("{level}.cubin"));
    let code = format!("arch=compute_{level},code=sm_{level}");
    let mut c = Command::new(nvcc);
    c.args(["-O3", "-std=c++17", "-diag-suppress", "177", "-Xptxas", "--warn-on-spills,--warning-as-error", "-cubin", "-gencode", &code]);
    done(c.arg("-I").arg(dir).arg("-o").arg(&image).arg(source));
    let mut out: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut name = String::new();
    for line in done(Command::new(show).arg("--dump-sass").arg(&image)).lines() {
        // A line is `Function : name`, or an address as a comment with an instruction behind it.
        if let Some(found) = line.trim().strip_prefix("Function : ") {
            name = found.into();
            out.insert(name.clone(), Vec::new());
        } else if let (Some(list), Some((_, text))) = (out.get_mut(&name), line.trim().strip_prefix("/*").and_then(|l| l.split_once("*/")))
        {
            let words = text.split_whitespace().filter(|w| !w.starts_with('@'));
            list.extend(
                words.take(1).filter(|w| w.starts_with(|c: char| c.is_ascii_uppercase())).map(|w| w.trim_end_matches(';').to_string()),
            );
        }
    }
    Some(out)
}

/// Kernels whose names promise matrix units, asynchronous copies or wide loads have them, and none keeps anything in local memory.
#[test]
fn kernels_have_the_instructions_that_their_names_promise() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda/machine.cu");
    for level in ["80", "90a"] {
        let Some(kernels) = instructions(&source, level, &folder(&format!("machine-{level}"))) else {
            eprintln!("skipped: there is no nvcc, or no cuobjdump");
            return;
        };
        assert_eq!(kernels.len(), 35, "{:?}", kernels.keys());
        for (name, list) in kernels {
            let has = |word: &str| list.iter().any(|i| i.starts_with(word));
            // What the accelerator streams is for sm_90a alone: elsewhere another kernel computes the same.
            let stream = name.starts_with("stream");
            if stream && level == "80" {
                assert!(!has("HMMA") && !has("LDG"), "{level} {name} computes something");
                continue;
            }
            assert!(list.len() > 16 && !has("LDL") && !has("STL"), "{level} {name}: {} instructions", list.len());
            // Four warps share their units on sm_90a alone.
            let groups = if level == "90a" { "HGMMA" } else { "HMMA" };
            let promised = [("units", "HMMA"), ("groups", groups), ("async", "LDGSTS"), ("wide", "LDG.E.128")];
            for (_, word) in promised.into_iter().filter(|(promise, _)| name.contains(promise)) {
                assert!(has(word), "{level} {name} has no {word}");
            }
            for word in ["UTMALDG", "SYNCS", "HGMMA", "USETMAXREG"].into_iter().filter(|_| stream) {
                assert!(has(word), "{name} has no {word}");
            }
            // What waits for the launch before, and lets the one behind begin.
            if level == "90a" {
                assert!(has("ACQBULK") && has("PREEXIT"), "{name} does not take part in overlap");
            }
        }
    }
}

/// Where nvcc is, every template compiles for the levels that Kiln has code for, without a spill.
#[test]
fn nvcc_compiles_the_kernels_of_a_model() {
    if toolchain::nvcc().is_err() {
        eprintln!("skipped: there is no nvcc");
        return;
    }
    let dir = folder("nvcc");
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/01-digits/digits.onnx");
    for precision in ["f32", "tf32", "f16", "bf16"] {
        let out = dir.join(precision);
        done(Command::new(command()).arg("compile").arg(&model).args(["--target", "cuda", "--precision", precision, "-o"]).arg(&out));
        assert!(fs::metadata(out.join("kernels/kernels.fatbin")).unwrap().len() > 1000);
    }
}
