//! What an instance keeps on a GPU from run to run, and what else a program does with one there.

use super::{distance, done, folder, outputs};
use kiln_compiler::kernel::Kernel;
use kiln_compiler::plan::{KernelStep, Plan};
use kiln_compiler::{Cuda, Options, Pairing, Precision, compile};
use kiln_kernels::dtype::DType;
use kiln_kernels::value::Tensor;
use kiln_tests::command;
use kiln_tests::models::ModelBuilder;
use kiln_tests::samples;
use std::fs;
use std::path::Path;
use std::process::Command;

/// A decoder of two heads: keys and values that every run adds a row to, and a running mean that it replaces; with a mask over all keys or
/// without one.
fn decoder(masked: bool) -> Vec<u8> {
    let noise = |seed: u64, dims: &[usize]| Tensor::new(dims, &samples::noise(seed, dims.iter().product()));
    let cache = ["1", "2", "past", "8"];
    let mut m = ModelBuilder::new().opset(17).input("x", DType::F32, ["1", "1", "16"]).input("past_mean", DType::F32, ["1", "16"]);
    for name in ["k", "v"] {
        m = m.input(&format!("past_{name}"), DType::F32, cache);
    }
    m = m.initializer("heads", Tensor::new(&[4], &[1i64, -1, 2, 8])).initializer("whole", Tensor::new(&[3], &[1i64, -1, 16]));
    for (seed, name) in (1..).zip(["q", "k", "v"]) {
        let [w, rows, apart, new] = ["w", "rows", "apart", "new"].map(|part| format!("{name}_{part}"));
        m = m.initializer(&w, noise(seed, &[16, 16])).node("MatMul", &["x", &w], &[&rows]).node("Reshape", &[&rows, "heads"], &[&apart]);
        m = m.node("Transpose", &[&apart], &[&new]).attr("perm", vec![0i64, 2, 1, 3]);
    }
    for name in ["k", "v"] {
        let [past, new, all] = [format!("past_{name}"), format!("{name}_new"), format!("present_{name}")];
        m = m.node("Concat", &[&past, &new], &[&all]).attr("axis", 2i64);
    }
    m = m
        .initializer("scale", Tensor::scalar(0.35f32))
        .initializer("decay", Tensor::scalar(0.75f32))
        .initializer("axes", Tensor::new(&[1], &[1i64]))
        .node("Transpose", &["present_k"], &["columns"])
        .attr("perm", vec![0i64, 1, 3, 2])
        .node("MatMul", &["q_new", "columns"], &["scores"])
        .node("Mul", &["scores", "scale"], &["scaled"]);
    m = match masked {
        true => m.input("mask", DType::F32, ["1", "1", "1", "total"]).node("Add", &["scaled", "mask"], &["seen"]),
        false => m.node("Identity", &["scaled"], &["seen"]),
    };
    m.node("Softmax", &["seen"], &["weights"])
        .attr("axis", -1i64)
        .node("MatMul", &["weights", "present_v"], &["heads_out"])
        .node("Transpose", &["heads_out"], &["joined"])
        .attr("perm", vec![0i64, 2, 1, 3])
        .node("Reshape", &["joined", "whole"], &["y"])
        .node("Squeeze", &["y", "axes"], &["row"])
        .node("Mul", &["past_mean", "decay"], &["decayed"])
        .node("Add", &["decayed", "row"], &["present_mean"])
        .node("Exp", &["present_mean"], &["z"])
        .output("y")
        .output("z")
        .output("present_k")
        .output("present_v")
        .output("present_mean")
        .build()
}

#[test]
fn state_is_kept_on_the_gpu() {
    let dir = folder("state");
    let path = dir.join("decoder.onnx");
    fs::write(&path, decoder(false)).unwrap();
    let keeps = ["--state", "past_*->present_*", "--capacity", "9"];
    for runs in ["1", "2", "7"] {
        let run = |to: &str, args: &[&str]| outputs(&dir.join(to), &path, &[&keeps[..], &["--runs", runs], args].concat());
        let want = run("cpu", &["--accuracy", "exact"]);
        assert_eq!(want.len(), 2);
        // Every run rounds the mean once more, and the exponential turns that into a share of its result.
        for (precision, limit) in [("f32", 4e-6), ("f16", 8e-3)] {
            let found = run(precision, &["--target", "cuda", "--strict", "--emulate", "--check", "--precision", precision]);
            let distance = distance(&want, &found);
            assert!(distance <= limit, "{precision}, {runs} runs: {distance}");
        }
    }
}

#[test]
fn neighbouring_copies_are_one_launch() {
    let dir = folder("copies");
    let path = dir.join("decoder.onnx");
    fs::write(&path, decoder(false)).unwrap();
    let state = Pairing { patterns: vec![("past_*".into(), "present_*".into())], capacity: Some(9) };
    let cuda = Some(Cuda { precision: Precision::F32, strict: true });
    let output = compile(&Options { model: path, state: state.clone(), cuda, ..Options::default() }).unwrap();
    let copies = |plan: &Plan| {
        let of = |k: &KernelStep| if let Kernel::Move { copies, .. } = &k.kernel { Some(copies.len()) } else { None };
        plan.kernels().into_iter().filter_map(of).collect::<Vec<usize>>()
    };
    let lengths = |masked: bool| {
        let path = dir.join(format!("masked_{masked}.onnx"));
        fs::write(&path, decoder(masked)).unwrap();
        let cuda = cuda.map(|c| Cuda { strict: false, ..c });
        let options = Options { model: path, state: state.clone(), cuda, ..Options::default() };
        compile(&options).unwrap().device.unwrap().device.unwrap().lengths.len()
    };
    assert_eq!([false, true].map(lengths), [1, 2], "the extent of the mask follows from the length of the state");
    // New rows of keys, and of values.
    assert_eq!((copies(&output.plan), copies(output.device.as_ref().unwrap())), (vec![1, 1], vec![2]));
}

/// A program of a user's: what instances on the GPU do with their state. The mask is open, so the CPU computes the softmax.
const USER: &str = r#"
use decoder_kiln::{Decoder, DecoderInputs, kiln};

fn main() {
    let options = kiln::Options::default().device(kiln::Device::Cuda(0));
    let mut net = Decoder::with(&options).unwrap();
    assert_eq!(net.device().device, "Kiln emulator");
    let token = |i: usize| -> [[[f32; 16]; 1]; 1] { [[std::array::from_fn(|j| ((i * 5 + j * 3) % 7) as f32 * 0.25 - 0.5)]] };
    // Keys further back count less.
    let mask = |n: usize| -> Vec<f32> { (0..n).map(|j| j as f32 * 0.25).collect() };
    let run = |net: &mut Decoder, i: usize| {
        let (x, n) = (token(i), net.state().len() + 1);
        let mask = mask(n);
        net.run(DecoderInputs { x: (&x).into(), mask: (&mask[..], [1, 1, 1, n]).into() }).map(|out| (out.y.to_vec(), out.z.to_vec()))
    };
    let masked = |net: &Decoder| -> kiln::Value {
        let n = net.state().len() + 1;
        kiln::Tensor::new(&[1, 1, 1, n], &mask(n)).into()
    };
    let first: Vec<_> = (0..6).map(|i| run(&mut net, i).unwrap()).collect();
    assert_eq!(net.state().len(), 6);
    let saved = net.state().save().unwrap();
    let seventh = run(&mut net, 6).unwrap();
    let mut other = net.fork().unwrap();
    assert_eq!(other.state().len(), 0);
    other.state_mut().load(&saved).unwrap();
    assert_eq!(run(&mut other, 6).unwrap(), seventh);
    assert!(other.state_mut().load(&saved[1..]).is_err());
    net.state_mut().clear();
    net.warm_up().unwrap();
    assert_eq!(net.state().len(), 0);
    for (i, want) in first.iter().enumerate() {
        assert_eq!(&run(&mut net, i).unwrap(), want, "token {i} after the state was cleared");
    }
    (6..9).for_each(|i| drop(run(&mut net, i).unwrap()));
    assert!(matches!(run(&mut net, 9), Err(kiln::Error::StateFull { .. })));

    // Results that stay on the device are inputs as they are.
    use kiln::{Model, Source, Value};
    let (mut near, mut far) = (net.fork().unwrap(), net.fork().unwrap());
    let first: Value = kiln::Tensor::new(&[1, 1, 16], &token(1).concat().concat()).into();
    let seen = masked(&near);
    let mut y = near.run_dyn(&[("x", &first), ("mask", &seen)]).unwrap().swap_remove(0);
    // SAFETY: the tensors are those of instances on the same device, and complete.
    let mut there = unsafe { far.run_on_device(&[("x", Source::Host(&first)), ("mask", Source::Host(&seen))]) }.unwrap().swap_remove(0);
    for _ in 0..5 {
        let seen = masked(&near);
        y = near.run_dyn(&[("x", &y), ("mask", &seen)]).unwrap().swap_remove(0);
        there = unsafe { far.run_on_device(&[("x", Source::Device(&there)), ("mask", Source::Host(&seen))]) }.unwrap().swap_remove(0);
    }
    assert_eq!(there.dims, [1, 1, 16]);
    assert_eq!(near.state().save().unwrap(), far.state().save().unwrap(), "both have seen the same");
    assert_eq!(run(&mut near, 3).unwrap(), run(&mut far, 3).unwrap());
    let short = kiln::DeviceTensor { dims: vec![1, 2, 8], ..there.clone() };
    let seen = masked(&far);
    assert!(unsafe { far.run_on_device(&[("x", Source::Device(&short)), ("mask", Source::Host(&seen))]) }.is_err());
    let mut here = Decoder::with(&kiln::Options::default().device(kiln::Device::Cpu)).unwrap();
    let refused = unsafe { here.run_on_device(&[("x", Source::Host(&first)), ("mask", Source::Host(&masked(&here)))]) };
    assert!(matches!(refused, Err(kiln::Error::Device { .. })));
    println!("all is well");
}
"#;

#[test]
fn a_user_keeps_saves_and_loads_state_on_the_gpu() {
    let dir = folder("user");
    let path = dir.join("decoder.onnx");
    fs::write(&path, decoder(true)).unwrap();
    let mut c = Command::new(command());
    c.arg("compile").arg(&path).args(["--target", "cuda", "--emulate", "--precision", "f16", "--state", "past_*->present_*"]);
    done(c.args(["--capacity", "9", "-o"]).arg(dir.join("net")));
    let app = dir.join("app");
    fs::create_dir_all(app.join("src")).unwrap();
    fs::write(app.join("src/main.rs"), USER).unwrap();
    let manifest = "[package]\nname = \"user\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n[dependencies]\ndecoder-kiln = { path = \"../net\" }\n\n[workspace]\n";
    fs::write(app.join("Cargo.toml"), manifest).unwrap();
    let mut c = Command::new(env!("CARGO"));
    c.args(["run", "--offline", "--quiet"]).current_dir(&app).env("CARGO_TARGET_DIR", Path::new(env!("CARGO_TARGET_TMPDIR")).join("user"));
    let text = done(c.env("LD_LIBRARY_PATH", dir.join("net")).env("KILN_EMULATE_ORDER", "random"));
    assert!(text.contains("all is well"), "{text}");
}

/// A profiler's library that says on standard error which ranges it is handed.
const TOOL: &str = r#"
#include <cstddef>
#include <cstdint>
#include <cstdio>
typedef void (*Function)();
struct Callbacks {
    size_t size;
    int (*module_table)(int, Function***, unsigned*);
};
static int depth = 0;
static int push(const char* name) {
    std::fprintf(stderr, "range %d: %s\n", depth, name);
    return depth++;
}
static int pop() { return --depth; }
extern "C" int InitializeInjectionNvtx2(const void* (*export_table)(uint32_t)) {
    auto* callbacks = static_cast<const Callbacks*>(export_table(1));
    Function** core = nullptr;
    unsigned size = 0;
    if (!callbacks || callbacks->size < sizeof(Callbacks) || !callbacks->module_table(1, &core, &size) || size != 16) return 0;
    if (core[0] || core[16]) return 0;
    *core[9] = reinterpret_cast<Function>(push);
    *core[11] = reinterpret_cast<Function>(pop);
    return 1;
}
"#;

#[test]
fn profilers_see_ranges_named_by_nodes() {
    let dir = folder("ranges");
    let (source, tool) = (dir.join("tool.cpp"), dir.join("tool.so"));
    fs::write(&source, TOOL).unwrap();
    done(Command::new("g++").args(["-shared", "-fPIC", "-o"]).arg(&tool).arg(&source));
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/01-digits/digits.onnx");
    let mut c = Command::new(command());
    c.arg("run").arg(&model).args(["--emulate", "--target", "cuda", "--runs", "3", "--output-dir"]).arg(&dir);
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache");
    let text = done(c.env("XDG_CACHE_HOME", cache).env("NVTX_INJECTION64_PATH", &tool));
    let ranges: Vec<&str> = text.lines().filter(|l| l.starts_with("range")).collect();
    assert!(ranges.len() >= 9 && ranges.len().is_multiple_of(3), "as many in each run: {text}");
    assert!(ranges.iter().all(|l| l.starts_with("range 0: ")) && ranges.iter().any(|l| l.contains("(Conv")), "{text}");
}
