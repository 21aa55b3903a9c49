//! Kernels for GPUs without one: templates and planted bugs by the emulator, whole models by the driver that stands in for a GPU's.

use kiln_compiler::target::cuda::toolchain;
use kiln_kernels::cuda::{EMULATOR, TEMPLATES};
use kiln_tests::command;
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

/// Builds a program of `tests/cuda` with the emulator, plain and with every access checked, and runs both.
fn program(name: &str) {
    let dir = folder(name);
    for s in TEMPLATES.iter().chain(EMULATOR) {
        let path = dir.join(s.name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, s.text).unwrap();
    }
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
        let found = outputs(&dir.join(precision), &model, &["--emulate", "--check", "--precision", precision]);
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
