//! Measured forms of kernels of a GPU, by the driver that stands in for one: a file that is written, read, edited and locked.

use kiln_compiler::target::cuda::{Attention, Form};
use kiln_compiler::target::{Gpu, Tuning};
use kiln_compiler::{Accuracy, Cuda, Options, Output, Precision, Tune, compile, emit};
use kiln_kernels::dtype::DType::F32;
use kiln_kernels::value::Tensor;
use kiln_tests::command;
use kiln_tests::models::ModelBuilder;
use kiln_tests::samples::noise;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output as Done};

/// A folder with a model of a convolution, four products, of which two are equal, and an attention.
fn folder(name: &str) -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    let w = |seed: u64, dims: &[usize]| Tensor::new(dims, &noise(seed, dims.iter().product()));
    let mut model = ModelBuilder::new()
        .opset(23)
        .input("x", F32, [1, 8, 9, 9])
        .input("rows", F32, [40, 24])
        .input("q", F32, [1, 2, 18, 16])
        .input("k", F32, [1, 2, 33, 16])
        .input("v", F32, [1, 2, 33, 16])
        .initializer("u", w(1, &[16, 8, 3, 3]))
        .initializer("a", w(2, &[24, 24]))
        .node("Conv", &["x", "u"], &["y"])
        .attr("pads", vec![1i64; 4])
        .node("Attention", &["q", "k", "v"], &["z"]);
    // The first reads f32, and the last writes it.
    for (from, sum, to) in [("rows", "s0", "r0"), ("r0", "s1", "r1"), ("r1", "s2", "r2"), ("r2", "s3", "r3")] {
        model = model.node("MatMul", &[from, "a"], &[sum]).node("Relu", &[sum], &[to]);
    }
    let model = model.output("y").output("r3").output("z").build();
    fs::write(dir.join("m.onnx"), model).unwrap();
    dir
}

fn options(dir: &Path, tune: Tune) -> Options {
    // Direct sums leave nothing to choose on the CPU.
    let cuda = Some(Cuda { precision: Precision::F16, strict: true });
    Options { model: dir.join("m.onnx"), tune, cuda, accuracy: Accuracy::Exact, ..Options::default() }
}

fn locked() -> Tune {
    Tune { locked: true, ..Tune::default() }
}

fn source(o: &Output) -> String {
    o.cuda().unwrap()
}

fn kiln(dir: &Path, args: &[&str]) -> Done {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache");
    let how = ["--emulate", "--precision", "f16", "--accuracy", "exact"];
    Command::new(command()).args(args).args(how).current_dir(dir).env("XDG_CACHE_HOME", cache).output().unwrap()
}

/// The forms of kernels by what they compute.
fn forms(o: &Output) -> BTreeMap<String, Form> {
    emit::forms(o.device.as_ref().unwrap()).into_iter().map(|d| (d.spec, d.forms[0])).collect()
}

#[test]
fn the_command_measures_forms_and_compiles_with_them() {
    let dir = folder("tune-gpu");
    let refused = kiln(&dir, &["compile", "m.onnx", "--locked", "-o", "made"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("m.tune is not there"));
    let other = "product m=7 n=7 k=7 of=half gpu=NVIDIA_A100/8.0 tile 64x64 chunks=8 warp=32x32 stages=4 splits=1  # kept\n";
    fs::write(dir.join("m.tune"), other).unwrap();
    let out = kiln(&dir, &["tune", "m.onnx", "--variants", "3", "--iterations", "2", "--json"]);
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && !said.contains("a form failed"), "{said}");
    let report: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(report["gpu"], "Kiln_emulator/9.0");
    // Equal products are one kind.
    let tuned = report["tuned"].as_array().unwrap();
    let mut counts: Vec<u64> = tuned.iter().map(|t| t["kernels"].as_u64().unwrap()).collect();
    counts.sort();
    assert_eq!(counts, [1, 1, 1, 1, 2], "{report}");
    let text = fs::read_to_string(dir.join("m.tune")).unwrap();
    assert!(text.contains(other) && Tuning::parse(&text).unwrap().to_string() == text, "{text}");
    assert!(tuned.iter().all(|t| text.contains(t["spec"].as_str().unwrap()) && t["note"].as_str().unwrap().contains("least of ")));
    let done = kiln(&dir, &["compile", "m.onnx", "--locked", "-o", "made"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let output = compile(&options(&dir, locked())).unwrap();
    assert!(emit::forms(output.device.as_ref().unwrap()).iter().all(|d| d.measured));
    assert_eq!(source(&output), fs::read_to_string(dir.join("made/kernels/kernels.cu")).unwrap());
    // What was measured has the results of what was not.
    let results = |to: &str, args: &[&str]| {
        let done = kiln(&dir, &[&["run", "m.onnx", "--output-dir", to], args].concat());
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let bytes = (0..3).map(|i| fs::read(dir.join(to).join(format!("out_{i}.npy"))).unwrap());
        let at = |b: &[u8]| 10 + usize::from(u16::from_le_bytes([b[8], b[9]]));
        bytes
            .flat_map(|b| b[at(&b)..].chunks_exact(4).map(|x| f32::from_le_bytes(x.try_into().unwrap())).collect::<Vec<_>>())
            .collect::<Vec<f32>>()
    };
    let (tuned, plain) = (results("tuned", &[]), results("plain", &["--tune", "/dev/null"]));
    let most = plain.iter().fold(0f32, |m, x| m.max(x.abs()));
    assert!(tuned.len() == plain.len() && plain.len() == 16 * 81 + 40 * 24 + 2 * 18 * 16 && most > 0.0);
    assert!(tuned.iter().zip(&plain).all(|(a, b)| (a - b).abs() <= 4e-3 * most));
}

#[test]
fn lines_decide_forms() {
    let dir = folder("tune-gpu-lines");
    let plain = compile(&options(&dir, Tune::default())).unwrap();
    let estimated = forms(&plain);
    assert_eq!(estimated.len(), 5, "{estimated:?}");
    let gpu = Gpu::parse("NVIDIA_H200/9.0").unwrap();
    let with = |changed: &str, form: Form, tune: Tune| {
        let mut tuning = Tuning::default();
        for (spec, own) in &estimated {
            tuning.insert_form(spec, &gpu, if spec.starts_with(changed) { form } else { *own }, "");
        }
        fs::write(dir.join("m.tune"), tuning.to_string()).unwrap();
        compile(&options(&dir, tune))
    };
    // The estimate's own forms change nothing; two builds are equal to the byte.
    let same = with("nothing", Form::Attention(Attention::Lanes), locked()).unwrap();
    assert_eq!(source(&same), source(&plain));
    assert!(same.data_files.contains(&dir.join("m.tune")));
    // Every other legal form changes the code, and nothing else does.
    let decisions = emit::forms(compile(&options(&dir, Tune { variants: 6, ..Tune::default() })).unwrap().device.as_ref().unwrap());
    let mut changes = 0;
    for d in &decisions {
        assert_eq!((d.forms[0], d.forms.len()), (estimated[&d.spec], d.kernels.len()));
        for form in &d.forms[1..] {
            let output = with(&d.spec, *form, locked()).unwrap();
            assert_eq!(forms(&output)[&d.spec], *form);
            assert!(source(&output) != source(&plain), "{form}");
            changes += 1;
        }
    }
    assert!(changes > 8, "{decisions:?}");
    // What cannot be names its line.
    let tile = |text: &str| Form::read(&text.split(' ').collect::<Vec<_>>()).unwrap();
    let text = with("product", tile("tile 512x512 chunks=8 warp=64x32 stages=4 splits=1"), Tune::default()).unwrap_err().to_string();
    assert!(text.contains("m.tune: line 3:") && text.contains("m.tune: line 4:") && text.contains("threads"), "{text}");
    let text = with("attention", tile("tiles warps=9x9 sixteens=1 keys=64 splits=1"), Tune::default()).unwrap_err().to_string();
    assert!(text.contains("m.tune: line 2:") && text.contains("it can have "), "{text}");
}

#[test]
fn a_lock_names_what_was_not_measured_on_a_gpu() {
    let dir = folder("tune-gpu-locked");
    let estimated = forms(&compile(&options(&dir, Tune::default())).unwrap());
    let mut tuning = Tuning::default();
    let (first, form) = estimated.first_key_value().unwrap();
    tuning.insert_form(first, &Gpu::parse("NVIDIA_H200/9.0").unwrap(), *form, "");
    fs::write(dir.join("m.tune"), tuning.to_string()).unwrap();
    let text = compile(&options(&dir, locked())).unwrap_err().to_string();
    assert!(!text.contains(first.as_str()) && text.contains("kiln tune --target cuda") && text.contains("(MatMul, opset 23)"), "{text}");
    assert!(estimated.keys().skip(1).all(|spec| text.contains(spec.as_str())), "{text}");
    compile(&options(&dir, Tune::default())).unwrap();
}

#[test]
fn times_are_by_the_clock_of_the_device() {
    let dir = folder("tune-gpu-clock");
    let out = kiln(&dir, &["bench", "m.onnx", "--iterations", "4", "--profile", "trace.json", "--json"]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let report: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let number = |key: &str| report[key].as_f64().unwrap_or_else(|| panic!("{key}: {report}"));
    assert_eq!(report["target"], "cuda");
    assert!(number("gpu_kernels_ms") > 0.0 && number("gpu_ms") >= number("gpu_kernels_ms") && number("gpu_ms") >= number("gpu_min_ms"));
    let layers = report["layers"].as_array().unwrap();
    assert!(layers.len() >= 4 && layers.iter().all(|l| l["gpu"] == true && l["min_us"].as_f64().unwrap() > 0.0), "{layers:?}");
    let trace: serde_json::Value = serde_json::from_slice(&fs::read(dir.join("trace.json")).unwrap()).unwrap();
    let steps: Vec<_> = trace["traceEvents"].as_array().unwrap().iter().filter(|e| e["cat"] == "step").collect();
    assert!(steps.len() == 10 * layers.len() && steps.iter().all(|e| e["args"]["gpu"] == true));
}
