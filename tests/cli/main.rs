//! The command `kiln` as its users call it: verbs, exit statuses, files and JSON.

use kiln_compiler::onnx::read_tensor;
use kiln_kernels::dtype::DType::{Bool, F32};
use kiln_kernels::value::Tensor;
use kiln_tests::command;
use kiln_tests::models::{ModelBuilder, SCALAR, tensor};
use prost::Message as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A folder of its own for a test, with a cache inside; empty at the start.
fn folder(name: &str) -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    let model = ModelBuilder::new()
        .opset(17)
        .input("x", F32, ["N", "4"])
        .initializer("w", Tensor::new(&[4, 2], &[1f32, 0., 0., 1., 1., 0., 0., 1.]))
        .node("MatMul", &["x", "w"], &["y"])
        .node("Relu", &["y"], &["z"])
        .output("z");
    fs::write(dir.join("m.onnx"), model.build()).unwrap();
    dir
}

fn run(dir: &Path, args: &[&str]) -> Output {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache");
    Command::new(command()).args(args).current_dir(dir).env("XDG_CACHE_HOME", cache).output().unwrap()
}

fn status(dir: &Path, args: &[&str]) -> (i32, String) {
    let out = run(dir, args);
    (out.status.code().unwrap_or(-1), String::from_utf8_lossy(&out.stderr).into_owned())
}

fn json(dir: &Path, args: &[&str]) -> serde_json::Value {
    let out = run(dir, args);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let json: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(json["schema"], 1);
    json
}

/// An `.npy` file of floats.
fn npy(dims: &str, data: &[f32]) -> Vec<u8> {
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {dims}, }}");
    while (header.len() + 11) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    let mut out = b"\x93NUMPY\x01\x00".to_vec();
    out.extend((header.len() as u16).to_le_bytes());
    out.extend(header.as_bytes());
    out.extend(data.iter().flat_map(|x| x.to_le_bytes()));
    out
}

#[test]
fn what_became_of_a_node_is_explained() {
    let dir = folder("explains");
    let model = ModelBuilder::new()
        .opset(17)
        .input("x", F32, ["N", "4"])
        .initializer("w", Tensor::new(&[4, 2], &[1f32, 0., 0., 1., 1., 0., 0., 1.]))
        .initializer("c", Tensor::scalar(3f32))
        .node("MatMul", &["x", "w"], &["y"])
        .named("<product>")
        .node("Mul", &["y", "c"], &["s"])
        .named("scale")
        .node("Mul", &["s", "c"], &["t"])
        .named("twice")
        .node("Relu", &["s"], &["z"])
        .node("Tanh", &["s"], &["u"])
        .named("third")
        .output("z")
        .output("t")
        .output("u");
    fs::write(dir.join("m.onnx"), model.build()).unwrap();
    let explained = |node: &str| String::from_utf8(run(&dir, &["explain", "m.onnx", node]).stdout).unwrap();
    let (scale, twice) = (explained("scale"), explained("twice"));
    assert!(scale.contains("rule matmul-mul: (x @ w) * c") && scale.contains("kernel k0: gemm"), "{scale}");
    // The product is stored with one of its multiples; what else is made of it is the second kernel.
    assert!(scale.contains("\"third\" reads it in another kernel: others need the value too"), "{scale}");
    assert!(twice.contains("kernel k0: gemm") && !scale.contains("\"twice\" reads it in another kernel"), "{twice}");
    assert!(twice.contains("did not apply: others read the product too"), "{twice}");
    assert_eq!(explained("t").lines().next(), twice.lines().next());
    let (status, message) = status(&dir, &["explain", "m.onnx", "scal"]);
    assert!(status == 1 && message.contains("did you mean scale?"), "{message}");

    assert!(run(&dir, &["report", "m.onnx", "--dim", "N=2", "-o", "page.html"]).status.success());
    let page = fs::read_to_string(dir.join("page.html")).unwrap();
    assert!(page.starts_with("<!doctype html>") && page.contains("<svg") && page.contains("matmul-mul"), "{page}");
    // Names are data: none is markup, and nothing is fetched from elsewhere.
    assert!(
        page.contains("&lt;product&gt;")
            && page.contains("(Relu)")
            && !page.contains("<product>")
            && !page.contains("src=")
            && !page.contains("http"),
        "{page}"
    );
}

#[test]
fn a_model_runs_on_files_and_on_random_inputs() {
    let dir = folder("runs");
    fs::create_dir(dir.join("in")).unwrap();
    fs::write(dir.join("in/in_0.npy"), npy("(2, 4)", &[1., 2., 3., 4., -1., -2., -3., 4.])).unwrap();
    assert_eq!(status(&dir, &["run", "m.onnx", "--inputs", "in", "--output-dir", "out"]), (0, String::new()));
    let expected = npy("(2, 2)", &[4., 6., 0., 2.]);
    assert_eq!(fs::read(dir.join("out/out_0.npy")).unwrap(), expected);
    let names: serde_json::Value = serde_json::from_slice(&fs::read(dir.join("out/outputs.json")).unwrap()).unwrap();
    assert_eq!(names["outputs"][0], "z");
    fs::write(dir.join("in/out_0.npy"), expected).unwrap();
    assert_eq!(status(&dir, &["compare", "m.onnx", "--expect", "in", "--ulp", "0", "--layers"]).0, 0);
    fs::write(dir.join("in/out_0.npy"), npy("(2, 2)", &[4., 6., 0., 3.])).unwrap();
    assert_eq!(status(&dir, &["compare", "m.onnx", "--expect", "in"]).0, 1);
    let (code, text) = status(&dir, &["run", "m.onnx", "--output-dir", "random"]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("dimension \"N\" = 1"), "the choice is printed: {text}");
    assert!(dir.join("random/out_0.npy").is_file());
    let j = json(&dir, &["bench", "m.onnx", "--dim", "N=3", "--iterations", "5", "--json"]);
    for key in
        ["threads", "min_ms", "p99_ms", "new_ms", "first_ms", "rss_bytes", "binary_bytes", "build_seconds", "kernels", "weights_bytes"]
    {
        assert!(j[key].is_number(), "{key} in {j}");
    }
    assert_eq!((&j["iterations"], &j["target"]), (&5.into(), &"cpu".into()));
    // One program takes inputs of two sizes: the report of its build is the same.
    let open = |rows: &str, x: &[f32]| {
        fs::write(dir.join("in/in_0.npy"), npy(rows, x)).unwrap();
        let built = json(&dir, &["bench", "m.onnx", "--open", "--inputs", "in", "--iterations", "5", "--json"])["build_seconds"].clone();
        assert_eq!(status(&dir, &["run", "m.onnx", "--open", "--inputs", "in", "--output-dir", "open"]), (0, String::new()));
        (fs::read(dir.join("open/out_0.npy")).unwrap(), built)
    };
    let (one, two) = (open("(1, 4)", &[1., 2., 3., 4.]), open("(2, 4)", &[1., 2., 3., 4., 0., 0., 1., 0.]));
    assert_eq!((&one.0, &two.0, one.1), (&npy("(1, 2)", &[4., 6.]), &npy("(2, 2)", &[4., 6., 1., 0.]), two.1));
    let rows = json(&dir, &["bench", "m.onnx", "--dim", "N=3", "--iterations", "5", "--ablate", "--json"]);
    let rows = rows["ablation"].as_array().unwrap();
    assert_eq!((rows.len(), &rows[0]["without"]), (5, &"everything".into()));
    assert!(rows.iter().all(|r| r["p50_ms"].is_number() && r["worst_over_sd"].as_f64().is_none_or(|d| d < 1e-5)), "{rows:?}");
    let kernels = |i: usize| rows[i]["kernels"].as_u64().unwrap();
    assert!(kernels(3) > kernels(0), "without fusion there are more kernels: {rows:?}");
}

#[test]
fn failures_have_their_status_and_leave_nothing() {
    let dir = folder("fails");
    fs::write(dir.join("broken.onnx"), b"this is no model").unwrap();
    for (args, code) in [
        (&["compile", "broken.onnx", "-o", "c"][..], 1),
        (&["compile", "missing.onnx", "-o", "c"], 1),
        (&["compile", "m.onnx", "-o", "c", "--dim", "M=3"], 1),
        (&["compile", "m.onnx", "-o", "c", "--dim", "N"], 2),
        (&["compile", "m.onnx", "-o", "c", "--target", "tpu"], 2),
        (&["run", "m.onnx", "--inputs", "nowhere", "--output-dir", "o"], 1),
        (&["run", "m.onnx"], 2),
        (&["dump", "m.onnx", "--after", "nothing"], 2),
        (&["test", "."], 1),
        (&["frobnicate"], 2),
    ] {
        let (found, text) = status(&dir, args);
        assert_eq!(found, code, "{args:?}: {text}");
        assert!(!text.trim().is_empty(), "{args:?} says why");
    }
    let mut left: Vec<String> = fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    left.sort();
    assert_eq!(left, ["broken.onnx", "m.onnx"]);
    let mut without = Command::new(command());
    without.args(["run", "m.onnx", "--output-dir", "o", "--dim", "N=77"]).current_dir(&dir).env("CARGO", "/no/cargo");
    let out = without.env("XDG_CACHE_HOME", dir.join("cache")).output().unwrap();
    assert_eq!(out.status.code(), Some(3), "a missing cargo has a status of its own");
    assert!(String::from_utf8_lossy(&out.stderr).contains("cargo is missing"));
}

#[test]
fn a_compiled_crate_builds_by_itself() {
    let dir = folder("compiles");
    let j = json(&dir, &["compile", "m.onnx", "-o", "m-kiln", "--json"]);
    for key in ["kernels", "kernel_functions", "copies", "intermediates_bytes", "weights_bytes", "peak_rss_bytes"] {
        assert!(j[key].is_number(), "{key} in {j}");
    }
    assert!(j["seconds"]["total"].is_number());
    assert!(j["arena_bytes"].is_null() && j["scratch_bytes_per_thread"].is_null(), "N is open: {j}");
    let closed = json(&dir, &["compile", "m.onnx", "-o", "closed", "--dim", "N=4", "--json"]);
    assert!(closed["arena_bytes"].is_number() && closed["scratch_bytes_per_thread"].is_number(), "{closed}");
    let told = run(&dir, &["compile", "m.onnx", "-o", "closed", "--dim", "N=4"]).stderr;
    let told = String::from_utf8_lossy(&told);
    assert!(told.contains(&format!("scratch of each thread: {} bytes", closed["scratch_bytes_per_thread"])), "{told}");
    for file in ["Cargo.toml", "README.md", "src/lib.rs", "weights.bin", "vendor/kiln/src/lib.rs", "vendor/kiln-kernels/Cargo.toml"] {
        assert!(dir.join("m-kiln").join(file).is_file(), "{file}");
    }
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--offline", "--release"]).current_dir(dir.join("m-kiln"));
    let out = build.env("CARGO_TARGET_DIR", Path::new(env!("CARGO_TARGET_TMPDIR")).join("crates")).output().unwrap();
    let text = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && !text.contains("warning: unused"), "{text}");
    assert_eq!(status(&dir, &["compile", "m.onnx", "-o", "m-kiln"]).0, 0, "a crate of kiln is replaced");
    fs::create_dir(dir.join("mine")).unwrap();
    fs::write(dir.join("mine/file"), "").unwrap();
    assert_eq!(status(&dir, &["compile", "m.onnx", "-o", "mine"]).0, 1, "anything else is not");
    let j = json(&dir, &["inspect", "m.onnx", "--json"]);
    assert_eq!((&j["dims"][0], &j["operators"]["MatMul"]), (&"N".into(), &1.into()));
    let dump = run(&dir, &["dump", "m.onnx", "--after", "import"]);
    assert!(String::from_utf8_lossy(&dump.stdout).contains("MatMul"));
}

/// A case of the ONNX suite in `dir/cases/NAME`: the model of [`folder`] on one input.
fn case(dir: &Path, name: &str) -> PathBuf {
    let case = dir.join("cases").join(name);
    fs::create_dir_all(case.join("test_data_set_0")).unwrap();
    fs::copy(dir.join("m.onnx"), case.join("model.onnx")).unwrap();
    let (x, z) = (Tensor::new(&[1, 4], &[1f32, 2., 3., -1.]), Tensor::new(&[1, 2], &[4f32, 1.]));
    for (file, value) in [("input_0.pb", &x), ("output_0.pb", &z)] {
        fs::write(case.join("test_data_set_0").join(file), tensor("", value).encode_to_vec()).unwrap();
    }
    case
}

#[cfg(unix)]
#[test]
fn a_bad_case_takes_no_other_with_it() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = folder("cases");
    let names = ["a_good", "b_no_model", "c_wrong", "d_deadly", "e_good"];
    let [_, broken, wrong, ..] = names.map(|name| case(&dir, name));
    fs::write(broken.join("model.onnx"), "no model").unwrap();
    fs::write(wrong.join("test_data_set_0/output_0.pb"), tensor("", &Tensor::new(&[1, 2], &[4f32, 2.])).encode_to_vec()).unwrap();
    // A rustc that dies of the fourth case, without a word on which it was.
    let rustc = dir.join("rustc");
    let script = "#!/bin/sh\nfor a; do case \"$a\" in *src/main.rs) grep -q 'mod c3;' \"$a\" && kill -KILL $$;; esac; done\nexec \"$@\"\n";
    fs::write(&rustc, script).unwrap();
    fs::set_permissions(&rustc, fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new(command());
    command.args(["test", "cases", "--json"]).current_dir(&dir).env("RUSTC_WRAPPER", &rustc);
    let out = command.env("XDG_CACHE_HOME", Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache")).output().unwrap();
    assert_eq!(out.status.code(), Some(1), "{}", String::from_utf8_lossy(&out.stderr));
    let json: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!((&json["passed"], &json["failed"]), (&2.into(), &3.into()), "{json}");
    let said = |name: &str| json["cases"][name].as_str().unwrap().to_string();
    assert!(said("a_good") == "ok" && said("e_good") == "ok", "{json}");
    assert!(said("b_no_model").contains("not an ONNX model"), "{json}");
    assert!(said("c_wrong").contains("elements differ"), "{json}");
    assert!(said("d_deadly").contains("rustc stopped with signal: 9"), "{json}");
}

#[test]
fn a_model_is_reduced_to_what_fails() {
    let dir = folder("reduces");
    let part = |m: ModelBuilder, y: &str| m.node("Exp", &["s"], &[y]).output(y);
    let weights = Tensor::new(&[6, 8], &[0.1f32; 48]);
    let model = ModelBuilder::new()
        .opset(17)
        .input("x", F32, ["N", "6"])
        .input("c", Bool, SCALAR)
        .initializer("w", weights)
        .node("Relu", &["x"], &["a"])
        .node("MatMul", &["a", "w"], &["b"])
        .node("Softmax", &["b"], &["p"])
        .attr("axis", -1)
        .node("Add", &["b", "p"], &["s"])
        .node("If", &["c"], &["y"])
        .attr("then_branch", part(ModelBuilder::new(), "t"))
        .attr("else_branch", part(ModelBuilder::new(), "e"))
        .node("Transpose", &["y"], &["z"])
        .node("NoSuchOperator", &["z"], &["q"])
        .node("Tanh", &["q"], &["r"]);
    let sound = model.clone().output("z");
    fs::write(dir.join("long.onnx"), sound.build()).unwrap();
    fs::write(dir.join("unknown.onnx"), model.output("r").output("z").build()).unwrap();
    let operators = |name: &str| -> Vec<String> {
        let model = kiln_compiler::onnx::read_file(&dir.join(name), &Default::default()).unwrap();
        model.graph.nodes.into_iter().map(|n| n.op_type).collect()
    };
    // A command decides.
    for (check, left) in [("! grep -q Softmax", "Softmax"), ("! grep -q Exp", "Exp")] {
        let (code, text) = status(&dir, &["reduce", "long.onnx", "-o", "out/small.onnx", "--check", check]);
        assert_eq!(code, 0, "{text}");
        assert_eq!(operators("out/small.onnx"), [left]);
        let small = kiln_compiler::onnx::read_file(&dir.join("out/small.onnx"), &Default::default()).unwrap();
        let v = read_tensor(&fs::read(dir.join("out/small.onnx.inputs/in_0.pb")).unwrap()).unwrap();
        assert_eq!((small.graph.inputs.len(), v.len()), (1, 1), "one number is left");
    }
    // What the compiler says decides: the operator that it does not know is left.
    let (code, text) = status(&dir, &["reduce", "unknown.onnx", "-o", "least.onnx"]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("fails: refused"), "{text}");
    assert_eq!(operators("least.onnx"), ["NoSuchOperator"]);
    // What does not fail is not reduced.
    let (code, text) = status(&dir, &["reduce", "long.onnx", "-o", "none.onnx", "--check", "true"]);
    assert!(code == 1 && text.contains("does not fail"), "{text}");
    assert!(!dir.join("none.onnx").exists());
}
