//! Measured methods: a file that comes back as it was written, changes plans, and, where it is locked, must have every kernel.

mod gpu;

use kiln_compiler::emit::{Names, WeightsAt};
use kiln_compiler::kernel::{Kernel, Method};
use kiln_compiler::target::{METHODS, Tuning};
use kiln_compiler::{Accuracy, Options, Output, Tune, compile};
use kiln_kernels::dtype::DType::F32;
use kiln_kernels::isa::Isa;
use kiln_kernels::value::Tensor;
use kiln_tests::command;
use kiln_tests::models::ModelBuilder;
use kiln_tests::samples::noise;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn folder(name: &str) -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("m.onnx"), model()).unwrap();
    dir
}

/// A convolution of 16 channels with 1x1 windows, and two with 3x3.
fn model() -> Vec<u8> {
    let w = |name: &str, dims: [usize; 4]| (name.to_string(), Tensor::new(&dims, &noise(7, dims.iter().product())));
    let mut m = ModelBuilder::new().opset(17).input("x", F32, [1, 16, 12, 12]);
    for (name, t) in [w("u", [16, 16, 3, 3]), w("v", [16, 16, 3, 3]), w("s", [16, 16, 1, 1])] {
        m = m.initializer(&name, t);
    }
    m.node("Conv", &["x", "s"], &["a"])
        .named("narrow")
        .node("Relu", &["a"], &["b"])
        .node("Conv", &["b", "u"], &["c"])
        .named("first")
        .attr("pads", vec![1i64, 1, 1, 1])
        .node("Relu", &["c"], &["d"])
        .node("Conv", &["d", "v"], &["y"])
        .named("last")
        .output("y")
        .build()
}

fn options(dir: &Path, tune: Tune) -> Options {
    Options { model: dir.join("m.onnx"), tune, ..Options::default() }
}

fn methods(o: &Output) -> Vec<Method> {
    let of = |k: &Kernel| if let Kernel::Conv { method, .. } = k { Some(*method) } else { None };
    o.plan.kernels().into_iter().filter_map(|s| of(&s.kernel)).collect()
}

#[test]
fn lines_decide_methods() {
    let dir = folder("tune-lines");
    let plain = compile(&options(&dir, Tune::default())).unwrap();
    assert_eq!(plain.plan.choices.len(), 2, "{:?}", plain.plan.choices);
    assert!(plain.plan.choices.iter().all(|c| !c.measured));
    for (_, method) in METHODS {
        let mut tuning = Tuning::default();
        tuning.insert(&plain.plan.choices[0].spec, Isa::Avx512, method, "by hand");
        tuning.insert(&plain.plan.choices[1].spec, Isa::Avx512, Method::Direct, "");
        // Of two lines about a kernel, that of the more capable instruction set counts.
        tuning.insert(&plain.plan.choices[0].spec, Isa::Avx2, Method::Winograd(2), "");
        fs::write(dir.join("methods"), tuning.to_string()).unwrap();
        let tune = Tune { file: Some(dir.join("methods")), locked: true, ..Tune::default() };
        let output = compile(&options(&dir, tune.clone())).unwrap();
        assert_eq!(methods(&output), [Method::Direct, method, Method::Direct]);
        assert!(output.data_files.contains(&dir.join("methods")));
        // Equal lines give equal bytes, wherever the file lies: here beside the model.
        fs::write(dir.join("m.tune"), tuning.to_string()).unwrap();
        let beside = compile(&options(&dir, Tune::default())).unwrap();
        let source = |o: &Output| o.rust(&Names::new("Net", WeightsAt::Given)).unwrap();
        assert_eq!(source(&beside), source(&output));
        let always = compile(&options(&dir, Tune { always: Some(method), ..Tune::default() })).unwrap();
        assert_eq!(methods(&always), [Method::Direct, method, method]);
        fs::remove_file(dir.join("m.tune")).unwrap();
    }
    // Exact sums leave no choice, so nothing can be missing.
    let exact = Options { accuracy: Accuracy::Exact, ..options(&dir, Tune::default()) };
    assert!(compile(&exact).unwrap().plan.choices.is_empty());
}

#[test]
fn a_lock_names_the_node_that_was_not_measured() {
    let dir = folder("tune-locked");
    let choices = compile(&options(&dir, Tune::default())).unwrap().plan.choices;
    let locked = |file: Option<PathBuf>| compile(&options(&dir, Tune { file, locked: true, ..Tune::default() }));
    let text = locked(None).unwrap_err().to_string();
    assert!(text.contains("m.tune is not there") && text.contains("kiln tune"), "{text}");
    let mut tuning = Tuning::default();
    tuning.insert(&choices[0].spec, Isa::Portable, Method::Direct, "");
    fs::write(dir.join("methods"), tuning.to_string()).unwrap();
    let text = locked(Some(dir.join("methods"))).unwrap_err().to_string();
    assert!(text.contains("\"last\" (Conv") && text.contains(&choices[1].spec) && !text.contains("\"first\""), "{text}");
    fs::write(dir.join("methods"), "conv c=1 isa=avx2 quickly").unwrap();
    let text = locked(Some(dir.join("methods"))).unwrap_err().to_string();
    assert!(text.contains("line 1") && text.contains("quickly"), "{text}");
    assert!(locked(Some(dir.join("absent"))).unwrap_err().to_string().contains("cannot read"));
}

#[test]
fn the_command_measures_and_compiles_with_what_it_measured() {
    let dir = folder("tune-command");
    let kiln = |args: &[&str]| {
        let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache");
        Command::new(command()).args(args).current_dir(&dir).env("XDG_CACHE_HOME", cache).output().unwrap()
    };
    let refused = kiln(&["compile", "m.onnx", "--locked"]);
    assert_eq!(refused.status.code(), Some(1), "{}", String::from_utf8_lossy(&refused.stderr));
    assert!(!dir.join("m-kiln").exists());
    let out = kiln(&["tune", "m.onnx", "--threads", "1", "--iterations", "3", "--json"]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let report: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(report["tuned"].as_array().unwrap().len(), 2, "{report}");
    let text = fs::read_to_string(dir.join("m.tune")).unwrap();
    let tuning = Tuning::parse(&text).unwrap();
    assert_eq!(tuning.to_string(), text);
    let output = compile(&options(&dir, Tune { locked: true, ..Tune::default() })).unwrap();
    for c in &output.plan.choices {
        assert!(c.measured && tuning.method(&c.spec) == Some(c.method), "{c:?}");
        assert!(text.contains(&format!("{} isa=", c.spec)) && text.contains("µs: direct "), "{text}");
    }
    let done = kiln(&["compile", "m.onnx", "--locked", "-o", "made"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}
