//! Kernels for GPUs without one: templates and planted bugs by the emulator, whole models by the driver that stands in for a GPU's.

use kiln_compiler::artifact::{self, Request};
use kiln_compiler::kernel::Kernel;
use kiln_compiler::plan::{KernelStep, Plan};
use kiln_compiler::target::cuda::toolchain;
use kiln_compiler::{Cuda, Options, Pairing, Precision, compile};
use kiln_kernels::cuda::{EMULATOR, TEMPLATES};
use kiln_kernels::dtype::DType;
use kiln_kernels::value::Tensor;
use kiln_tests::command;
use kiln_tests::models::ModelBuilder;
use kiln_tests::samples;
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
        c.args(["-std=c++17", "-march=native", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-DKILN_EMULATE"]).args(args);
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
fn streams_are_those_of_plain_sums_and_their_bugs_are_caught() {
    program("streams");
}

#[test]
fn products_of_bytes_are_those_of_integers() {
    program("bytes");
}

#[test]
fn products_of_few_bits_are_those_of_plain_sums() {
    program("codes");
}

#[test]
fn images_and_turned_rows_are_those_of_plain_loops() {
    program("images");
}

#[test]
fn sorts_and_scatters_are_those_of_one_after_the_other() {
    program("picks");
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
fn fragments_do_not_depend_on_the_order_of_threads() {
    program("fragments");
}

#[test]
fn planted_bugs_are_caught() {
    program("bugs");
}

/// The outputs of a model by the command, as `.npy` files.
fn files(dir: &Path, model: &Path, args: &[&str]) -> Vec<Vec<u8>> {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache");
    let mut c = Command::new(command());
    c.arg("run").arg(model).args(args).arg("--output-dir").arg(dir).env("XDG_CACHE_HOME", cache);
    done(&mut c);
    let mut out = Vec::new();
    while let Ok(bytes) = fs::read(dir.join(format!("out_{}.npy", out.len()))) {
        out.push(bytes);
    }
    out
}

/// The elements of an `.npy` file of f32.
fn floats(bytes: Vec<u8>) -> Vec<f32> {
    let header = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    bytes[header..].chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// The same as floats.
fn outputs(dir: &Path, model: &Path, args: &[&str]) -> Vec<Vec<f32>> {
    files(dir, model, args).into_iter().map(floats).collect()
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

/// Convolutions between conversions to bytes and back: of few channels in planes, of many with padding, of channels alone with weights of
/// bytes and wider, with a residual, of signed activations, and a pool of bytes.
fn quantized_convolutions() -> Vec<u8> {
    let bytes = |seed: u64, n: usize| samples::noise(seed, n).into_iter().map(|x| (x * 128.0) as i8).collect::<Vec<i8>>();
    let unsigned = |seed: u64, n: usize| bytes(seed, n).into_iter().map(|x| x as u8 ^ 0x80).collect::<Vec<u8>>();
    let mut m = ModelBuilder::new()
        .opset(17)
        .input("x", DType::F32, ["batch", "3", "13", "11"])
        .initializer("scale", Tensor::scalar(0.0201f32))
        .initializer("u", Tensor::scalar(117u8))
        .initializer("i", Tensor::scalar(-9i8))
        .initializer("w_scale", Tensor::scalar(0.0047f32))
        .initializer("none", Tensor::scalar(0i8));
    // Weights with the extents of windows, groups and steps; those of two layers are unsigned.
    let layers: [(&str, &[usize], i64, i64); 5] = [
        ("a", &[16, 3, 3, 3], 1, 2),
        ("b", &[16, 16, 3, 3], 1, 1),
        ("c", &[16, 1, 3, 3], 16, 1),
        ("d", &[16, 1, 5, 5], 16, 1),
        ("e", &[34, 16, 1, 1], 1, 1),
    ];
    for (seed, (name, dims, ..)) in (1..).zip(&layers) {
        let n = dims.iter().product();
        let w = if matches!(*name, "d" | "e") { Tensor::new(dims, &unsigned(seed, n)) } else { Tensor::new(dims, &bytes(seed, n)) };
        let [zero, scales] = ["zero", "scales"].map(|part| format!("{name}_{part}"));
        let zeros = if matches!(*name, "d" | "e") {
            Tensor::new(&[dims[0]], &unsigned(seed + 10, dims[0]))
        } else {
            Tensor::new(&[dims[0]], &vec![0i8; dims[0]])
        };
        let each: Vec<f32> = samples::noise(seed + 20, dims[0]).iter().map(|x| 0.004 + 0.002 * x).collect();
        m = m.initializer(&format!("{name}_codes"), w).initializer(&zero, zeros).initializer(&scales, Tensor::new(&[dims[0]], &each));
        let (codes, weights) = (format!("{name}_codes"), format!("{name}_w"));
        m = m.node("DequantizeLinear", &[&codes, &scales, &zero], &[&weights]).attr("axis", 0i64);
    }
    // A value as bytes of a kind, and back.
    let through = |m: ModelBuilder, v: &str, zero: &str| {
        let (q, out) = (format!("{v}_q"), format!("{v}_d"));
        m.node("QuantizeLinear", &[v, "scale", zero], &[&q]).node("DequantizeLinear", &[&q, "scale", zero], &[&out])
    };
    m = through(m, "x", "u");
    let mut from = "x_d".to_string();
    for (name, dims, groups, step) in layers {
        let pad = (dims[2] / 2) as i64;
        m = m
            .node("Conv", &[&from, &format!("{name}_w")], &[name])
            .attr("group", groups)
            .attr("pads", vec![pad; 4])
            .attr("strides", vec![step; 2]);
        m = through(m, name, if name == "b" { "i" } else { "u" });
        from = format!("{name}_d");
        if name == "c" {
            m = through(m.node("Add", &["c_d", "a_d"], &["sum"]).node("Relu", &["sum"], &["r"]), "r", "u");
            from = "r_d".into();
        }
    }
    m.node("MaxPool", &["e_d"], &["pool"])
        .attr("kernel_shape", vec![2i64; 2])
        .attr("strides", vec![2i64; 2])
        .output("pool")
        .output("e_q")
        .output("r_q")
        .build()
}

#[test]
fn models_of_bytes_have_the_bits_of_the_cpu() {
    let dir = folder("bytes_of_models");
    for (name, model, dims) in [
        ("products", samples::quantized(), &["--dim", "batch=2", "--dim", "s=9"][..]),
        ("few", samples::quantized(), &["--dim", "batch=1", "--dim", "s=3"]),
        ("convolutions", quantized_convolutions(), &["--dim", "batch=2"]),
    ] {
        let path = dir.join(format!("{name}.onnx"));
        fs::write(&path, model).unwrap();
        let run = |to: &str, args: &[&str]| files(&dir.join(name).join(to), &path, &[dims, args].concat());
        let want = run("cpu", &["--accuracy", "exact"]);
        let found = run("gpu", &["--target", "cuda", "--strict", "--emulate", "--check"]);
        assert!(!want.is_empty() && want.len() == found.len());
        for (i, (want, found)) in want.iter().zip(&found).enumerate() {
            assert!(want == found, "{name}, result {i}: other bits");
        }
    }
}

/// A norm of pixels that is resized, rows that are turned, a product with weights of four bits, of which the largest elements are sorted out,
/// and updates scattered into it, some to the same place.
fn moved() -> Vec<u8> {
    let noise = |seed: u64, dims: &[usize]| Tensor::new(dims, &samples::noise(seed, dims.iter().product()));
    let mut rng = samples::Rng::new(7);
    let mut below = |n: usize, most: usize| (0..n).map(|_| rng.below(most)).collect::<Vec<usize>>();
    let codes: Vec<u8> = below(20 * 4 * 8, 256).into_iter().map(|x| x as u8).collect();
    let rows: Vec<i64> = below(5 * 20, 9).into_iter().map(|x| x as i64).collect();
    ModelBuilder::new()
        .opset(23)
        .import("com.microsoft", 1)
        .input("x", DType::F32, ["2", "8", "6", "5"])
        .input("rows", DType::F32, ["9", "64"])
        .input("heads", DType::F32, ["1", "6", "32"])
        .initializer("scale", noise(1, &[8]))
        .initializer("bias", noise(2, &[8]))
        .initializer("factors", Tensor::new(&[4], &[1f32, 1.0, 2.0, 1.5]))
        .initializer("cos", noise(3, &[1, 6, 4]))
        .initializer("sin", noise(4, &[1, 6, 4]))
        .initializer("codes", Tensor::new(&[20, 4, 8], &codes))
        .initializer("steps", noise(5, &[80]))
        .initializer("k", Tensor::new(&[1], &[4i64]))
        .initializer("at", Tensor::new(&[5, 20], &rows))
        .initializer("updates", noise(6, &[5, 20]))
        .node("GroupNormalization", &["x", "scale", "bias"], &["normal"])
        .attr("num_groups", 4i64)
        .node("Resize", &["normal", "", "factors"], &["resized"])
        .attr("mode", "linear")
        .node("RotaryEmbedding", &["heads", "cos", "sin"], &["turned"])
        .attr("num_heads", 4i64)
        .node("MatMulNBits", &["rows", "codes", "steps"], &["product"])
        .domain("com.microsoft")
        .attr("K", 64i64)
        .attr("N", 20i64)
        .attr("bits", 4i64)
        .attr("block_size", 16i64)
        .node("TopK", &["product", "k"], &["largest", "places"])
        .node("ScatterElements", &["product", "at", "updates"], &["scattered"])
        .attr("axis", 0i64)
        .attr("reduction", "add")
        .output("resized")
        .output("turned")
        .output("largest")
        .output("scattered")
        .output("places")
        .build()
}

#[test]
fn what_moves_norms_and_decodes_agrees_with_the_cpu() {
    let dir = folder("moved");
    let path = dir.join("moved.onnx");
    fs::write(&path, moved()).unwrap();
    let run = |to: &str, args: &[&str]| {
        let to = dir.join(to);
        (outputs(&to, &path, args), fs::read(to.join("out_4.npy")).unwrap())
    };
    let (want, places) = run("cpu", &["--accuracy", "exact"]);
    for (precision, limit) in [("f32", 1e-6), ("f16", 2e-3)] {
        let (found, their_places) = run(precision, &["--target", "cuda", "--strict", "--emulate", "--check", "--precision", precision]);
        let distance = distance(&want[..4], &found[..4]);
        assert!(distance <= limit, "{precision}: {distance}");
        // Products of nearly the same size may change places where they are rounded.
        assert!(precision != "f32" || places == their_places, "the largest are elsewhere");
    }
}

/// Two products whose rows are open and two convolutions of single pixels: the second of each reads rows of 16 bits, where values have them,
/// and is deep enough to be streamed.
fn layers() -> Vec<u8> {
    let noise = |seed: u64, dims: &[usize]| {
        let n: usize = dims.iter().product();
        Tensor::new(dims, &samples::noise(seed, n).into_iter().map(|x| x * 0.1).collect::<Vec<f32>>())
    };
    ModelBuilder::new()
        .opset(17)
        .input("x", DType::F32, ["rows", "200"])
        .input("image", DType::F32, ["2", "24", "9", "7"])
        .initializer("a", noise(1, &[200, 1032]))
        .initializer("b", noise(2, &[1032, 74]))
        .initializer("c", noise(3, &[1032, 24, 1, 1]))
        .initializer("d", noise(4, &[40, 1032, 1, 1]))
        .node("MatMul", &["x", "a"], &["xa"])
        .node("Relu", &["xa"], &["h"])
        .node("MatMul", &["h", "b"], &["y"])
        .node("Conv", &["image", "c"], &["ic"])
        .node("Relu", &["ic"], &["g"])
        .node("Conv", &["g", "d"], &["gd"])
        .node("GlobalAveragePool", &["gd"], &["z"])
        .output("y")
        .output("z")
        .build()
}

/// The same products have two kernels; which one is launched depends on the device.
#[test]
fn streamed_products_are_those_of_other_devices() {
    let dir = folder("streamed");
    let path = dir.join("layers.onnx");
    fs::write(&path, layers()).unwrap();
    for rows in ["rows=70", "rows=131"] {
        let dims = ["--dim", rows];
        let want = outputs(&dir.join("cpu"), &path, &[&dims[..], &["--accuracy", "exact"]].concat());
        let mut launched = Vec::new();
        for (level, order) in [("90", "forward"), ("90", "random"), ("80", "forward")] {
            let out = dir.join(level);
            let mut c = Command::new(command());
            c.arg("run").arg(&path).args(dims).arg("--output-dir").arg(&out);
            c.args(["--target", "cuda", "--strict", "--emulate", "--check", "--overlap", "--precision", "f16"]);
            c.env("XDG_CACHE_HOME", Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"));
            c.env("KILN_EMULATE_LEVEL", level).env("KILN_EMULATE_ORDER", order).env("KILN_EMULATE_LOG", "1");
            let log = done(&mut c);
            let kernels = log.lines().filter_map(|l| l.strip_prefix("emulator: ")?.split(' ').next()).map(str::to_string);
            launched.push(kernels.collect::<Vec<String>>());
            let found: Vec<Vec<f32>> = (0..2).map(|i| floats(fs::read(out.join(format!("out_{i}.npy"))).unwrap())).collect();
            let distance = distance(&want, &found);
            assert!(distance <= 2e-3, "{rows}, level {level}, {order}: {distance}");
        }
        // The two streamed ones differ, the others are the same.
        let [streamed, again, staged] = &launched[..] else { unreachable!() };
        assert!(streamed == again && streamed.len() == staged.len(), "{launched:?}");
        assert_eq!(streamed.iter().zip(staged).filter(|(a, b)| a != b).count(), 2, "{launched:?}");
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
        let options = Options { model: path, state: state.clone(), cuda, ..Options::default() };
        compile(&options).unwrap().device.unwrap().device.unwrap().lengths.len()
    };
    assert_eq!([false, true].map(lengths), [1, 2], "the extent of the mask follows from the length of the state");
    // New rows of keys, and of values.
    assert_eq!((copies(&output.plan), copies(output.device.as_ref().unwrap())), (vec![1, 1], vec![2]));
}

/// A program of a user's: what instances on the GPU do with their state.
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
    c.arg("compile").arg(&path).args(["--target", "cuda", "--strict", "--emulate", "--precision", "f16", "--state", "past_*->present_*"]);
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
