//! Kernels for GPUs without one: templates and planted bugs by the emulator, whole models by the driver that stands in for a GPU's.

use kiln_compiler::target::cuda::toolchain;
use kiln_kernels::cuda::{EMULATOR, TEMPLATES};
use kiln_tests::command;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn folder(name: &str) -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("cuda").join(name);
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    dir
}

fn done(c: &mut Command) -> String {
    let out = c.output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{c:?}\n{text}");
    text
}

/// Writes the templates and the emulator into a folder.
fn templates(dir: &Path) {
    for s in TEMPLATES.iter().chain(EMULATOR) {
        let path = dir.join(s.name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, s.text).unwrap();
    }
}

/// Builds a program of `tests/cuda` with the emulator, plain and with every access checked, and runs both.
fn program(name: &str) {
    let dir = folder(name);
    templates(&dir);
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda");
    let compile = |args: &[&str], from: &Path, to: &Path| {
        let mut c = Command::new("g++");
        c.args(["-std=c++17", "-march=native", "-Wall", "-Wextra", "-Werror", "-DKILN_EMULATE"]).args(args);
        done(c.arg("-I").arg(&dir).arg("-I").arg(&own).arg("-c").arg(from).arg("-o").arg(to));
    };
    let emulator = dir.join("emulator.o");
    compile(&["-O2"], &dir.join("emulator.cpp"), &emulator);
    for (kind, args) in [("plain", &["-O2"][..]), ("checked", &["-O1", "-fsanitize=thread", "-DKILN_CHECKED"])] {
        let (object, binary) = (dir.join(format!("{kind}.o")), dir.join(kind));
        compile(args, &own.join(format!("{name}.cpp")), &object);
        // Linked without the sanitizer's library: the emulator has the functions that checked code calls.
        done(Command::new("g++").arg(&object).arg(&emulator).arg("-o").arg(&binary));
        let text = done(&mut Command::new(&binary));
        assert!(text.lines().last().is_some_and(|l| l.starts_with("0 failures")), "{kind}: {text}");
    }
}

#[test]
fn products_and_convolutions_are_those_of_plain_sums() {
    program("products");
}

#[test]
fn rows_and_pools_are_those_of_plain_loops() {
    program("rows");
}

#[test]
fn attention_is_that_of_plain_loops() {
    program("attention");
}

#[test]
fn planted_bugs_are_caught() {
    program("bugs");
}

/// The outputs of a model by the command, as bytes of `.npy` files.
fn outputs(dir: &Path, model: &Path, args: &[&str]) -> Vec<Vec<f32>> {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache");
    let mut c = Command::new(command());
    c.arg("run").arg(model).args(args).arg("--output-dir").arg(dir).env("XDG_CACHE_HOME", cache);
    done(&mut c);
    let mut out = Vec::new();
    while let Ok(bytes) = fs::read(dir.join(format!("out_{}.npy", out.len()))) {
        let header = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
        out.push(bytes[header..].chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect());
    }
    out
}

/// The largest difference, over the largest value.
fn distance(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    assert_eq!(a.len(), b.len());
    let all = || a.iter().flatten().zip(b.iter().flatten());
    let most = a.iter().flatten().fold(0f32, |m, x| m.max(x.abs()));
    assert!(all().count() > 0 && all().all(|(x, y)| x.is_finite() && y.is_finite()));
    all().fold(0f32, |m, (x, y)| m.max((x - y).abs())) / most
}

#[test]
fn a_model_runs_by_the_stand_in_driver() {
    let dir = folder("digits");
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/01-digits/digits.onnx");
    let want = outputs(&dir.join("cpu"), &model, &["--accuracy", "exact"]);
    for (precision, limit) in [("f32", 1e-6), ("tf32", 2e-3), ("f16", 2e-3), ("bf16", 2e-2)] {
        let found = outputs(&dir.join(precision), &model, &["--emulate", "--check", "--overlap", "--precision", precision]);
        let distance = distance(&want, &found);
        assert!(distance <= limit, "{precision}: {distance}");
    }
}

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
        assert_eq!(kernels.len(), 30, "{:?}", kernels.keys());
        for (name, list) in kernels {
            let has = |word: &str| list.iter().any(|i| i.starts_with(word));
            assert!(list.len() > 16 && !has("LDL") && !has("STL"), "{level} {name}: {} instructions", list.len());
            // Four warps share their units on sm_90a alone.
            let groups = if level == "90a" { "HGMMA" } else { "HMMA" };
            let promised = [("units", "HMMA"), ("groups", groups), ("async", "LDGSTS"), ("wide", "LDG.E.128")];
            for (_, word) in promised.into_iter().filter(|(promise, _)| name.contains(promise)) {
                assert!(has(word), "{level} {name} has no {word}");
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
