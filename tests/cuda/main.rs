//! Kernels for GPUs without one: templates and planted bugs by the emulator, whole models by the driver that stands in for a GPU's.

mod nvcc;
mod state;

use kiln_kernels::cuda::{EMULATOR, TEMPLATES};
use kiln_kernels::dtype::DType;
use kiln_kernels::value::Tensor;
use kiln_tests::command;
use kiln_tests::models::ModelBuilder;
use kiln_tests::samples;
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
