//! Profiles: every step once a run with its nodes and its work, as a public type, as a trace, and as the picture of a roofline.

use kiln::{Options, Profile, Threads};
use kiln_kernels::dtype::DType::F32;
use kiln_kernels::value::Tensor;
use kiln_tests::command;
use kiln_tests::models::ModelBuilder;
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

kiln::model! { struct Mlp = "models/mlp.onnx"; }
kiln::model! { struct Convnet = "models/convnet.onnx"; }
kiln::model! { struct Control = "models/control.onnx"; }

#[test]
fn a_step_is_one_event_a_run() {
    let image: Vec<f32> = (0..3 * 17 * 19).map(|i| (i as f32 * 0.37).sin()).collect();
    for threads in [1, 2] {
        let profile = Profile::new();
        let options = Options::default().threads(Threads::new(threads));
        let mut plain = Convnet::with(&options).unwrap();
        let mut net = Convnet::with(&options.profile(profile.clone())).unwrap();
        net.run(&image).unwrap();
        profile.clear();
        let want = plain.run(&image).unwrap().logits.to_vec();
        for _ in 0..3 {
            assert_eq!(*net.run(&image).unwrap().logits, *want);
        }
        let mut fork = net.fork().unwrap();
        assert_eq!(*fork.run(&image).unwrap().logits, *want);
        assert!(net.run(&image[1..]).is_err(), "an image of another size");
        let events = profile.events();
        let steps: std::collections::BTreeSet<usize> = events.iter().map(|e| e.step).collect();
        assert!(steps.len() > 3 && steps.iter().copied().eq(0..steps.len()), "{steps:?}");
        let mut runs: BTreeMap<(usize, usize), Vec<usize>> = BTreeMap::new();
        events.iter().for_each(|e| runs.entry((e.instance, e.run)).or_default().push(e.step));
        assert_eq!(runs.keys().copied().collect::<Vec<_>>(), [(0, 1), (0, 2), (0, 3), (1, 0)]);
        assert!(runs.values().all(|r| r.iter().copied().eq(0..steps.len())), "{runs:?}");
        for pair in events.windows(2).filter(|p| p[0].run == p[1].run && p[0].instance == p[1].instance) {
            assert!(pair[0].start + pair[0].duration <= pair[1].start, "steps follow one another");
        }
        for e in &events {
            assert_eq!((e.model, e.threads), ("Convnet", threads));
            assert!(e.what().starts_with(e.kernel()), "{} {}", e.what(), e.kernel());
            for w in &e.workers {
                assert!(w.worker < threads && w.tasks > 0 && w.start >= e.start, "{w:?}");
                assert!(w.start + w.duration <= e.start + e.duration, "{w:?}");
            }
        }
        let conv = events.iter().find(|e| e.kernel() == "conv").unwrap();
        assert!(conv.nodes().any(|n| n.contains("(Conv, opset")), "{:?}", conv.nodes().collect::<Vec<_>>());
        assert!(conv.work.flops > conv.work.written);
    }
}

#[test]
fn work_follows_the_extents_of_the_run() {
    let profile = Profile::new();
    let mut net = Mlp::with(&Options::default().profile(profile.clone())).unwrap();
    for batch in [1usize, 3, 0] {
        profile.clear();
        net.run(&vec![0.5f32; batch * 12]).unwrap();
        let first = &profile.events()[0];
        let n = batch as u64;
        // 12 x 20 multiply-adds and a maximum; rows of 12 floats, two panels of 12 x 16, a bias for each of their columns.
        assert_eq!(first.work.flops, n * (2 * 12 * 20 + 20));
        assert_eq!(first.work.read, n * 48 + 12 * 32 * 4 + 32 * 4);
        assert_eq!(first.work.written, n * 80);
        assert_eq!(first.name(), "Gemm + Relu");
    }
}

#[test]
fn steps_in_loops_have_an_event_for_each_iteration() {
    let profile = Profile::new();
    let mut net = Control::with(&Options::default().profile(profile.clone())).unwrap();
    let ports = Control::INPUTS;
    let values: Vec<(&str, kiln::Value)> = ports.iter().map(|p| (p.name, small(p))).collect();
    let given: Vec<(&str, &kiln::Value)> = values.iter().map(|(n, v)| (*n, v)).collect();
    kiln::Model::run_dyn(&mut net, &given).unwrap();
    let events = profile.events();
    assert!(!events.is_empty() && events.iter().all(|e| e.run == 0));
    assert_trace(&profile, events.len());
}

/// A value that fits a port: ones, of extent 2 where it is open.
fn small(port: &kiln::Port) -> kiln::Value {
    let dims: Vec<usize> = port.dims.iter().map(|d| if let kiln::PortDim::Closed(n) = d { *n } else { 2 }).collect();
    let len = dims.iter().product();
    match port.dtype {
        F32 => Tensor::new(&dims, &vec![1f32; len]).into(),
        kiln::DType::I64 => Tensor::new(&dims, &vec![1i64; len]).into(),
        kiln::DType::Bool => Tensor::with_dtype(kiln::DType::Bool, &dims, &vec![1u8; len]).into(),
        kiln::DType::Str => Tensor::strings(&dims, vec!["a".to_string(); len]).into(),
        other => panic!("no value for {other}"),
    }
}

/// A trace is JSON in which so many steps have names, times and arguments.
fn assert_trace(profile: &Profile, steps: usize) {
    let mut bytes = Vec::new();
    profile.write_trace(&mut bytes).unwrap();
    let trace: Json = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(steps_of(&trace).len(), steps);
}

/// The steps of a trace, each checked.
fn steps_of(trace: &Json) -> Vec<&Json> {
    let events = trace["traceEvents"].as_array().unwrap();
    for e in events {
        assert!(e["ph"] == "X" || e["ph"] == "M", "{e}");
        assert!(e["pid"].is_u64() && e["name"].is_string(), "{e}");
        assert!(e["ph"] == "M" || e["ts"].as_f64() >= Some(0.0) && e["dur"].as_f64() >= Some(0.0) && e["tid"].is_u64(), "{e}");
    }
    let steps: Vec<&Json> = events.iter().filter(|e| e["cat"] == "step").collect();
    for s in &steps {
        let a = &s["args"];
        assert!(["step", "run", "flops", "bytes_read", "bytes_written", "threads"].iter().all(|k| a[k].is_u64()), "{s}");
        assert!(["kernel", "algorithm", "what", "isa"].iter().all(|k| a[k].is_string()) && a["nodes"].is_array(), "{s}");
    }
    steps
}

#[test]
fn a_profile_without_runs_is_a_trace() {
    assert_trace(&Profile::default(), 0);
}

/// The tags of a text that is well-formed as far as tags and attributes go, in order.
fn tags(xml: &str) -> Vec<String> {
    let (mut open, mut out) = (Vec::new(), Vec::new());
    for part in xml.split('<').skip(1) {
        let (tag, text) = part.split_once('>').expect("a tag ends");
        assert!(!text.contains('>'), "{text}");
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        let name = tag.trim_matches('/').split([' ', '\n']).next().unwrap().to_string();
        match (tag.starts_with('/'), tag.ends_with('/')) {
            (true, _) => assert_eq!(open.pop().as_ref(), Some(&name), "{tag}"),
            (false, true) => out.push(name),
            (false, false) => {
                open.push(name.clone());
                out.push(name);
            }
        }
    }
    assert!(open.is_empty(), "{open:?} stay open");
    out
}

#[test]
fn the_command_writes_a_trace_and_a_roofline() {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("profile");
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    let model = ModelBuilder::new()
        .opset(17)
        .input("x", F32, ["N", "4"])
        .initializer("w", Tensor::new(&[4, 2], &[1f32, 0., 0., 1., 1., 0., 0., 1.]))
        .node("MatMul", &["x", "w"], &["y"])
        .named("<a \"product\" & more>")
        .node("Softmax", &["y"], &["s"])
        .named("probabilities")
        .node("Transpose", &["s"], &["t"])
        .named("turned")
        .attr("perm", vec![1i64, 0])
        .output("t")
        .output("s");
    std::fs::write(dir.join("m.onnx"), model.build()).unwrap();
    let mut bench = Command::new(command());
    bench.args(["bench", "m.onnx", "--dim", "N=3", "--iterations", "5", "--threads", "2", "--json"]);
    bench.args(["--profile", "trace.json", "--roofline", "roof.svg"]).current_dir(&dir);
    let out = bench.env("XDG_CACHE_HOME", Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache")).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let report: Json = serde_json::from_slice(&out.stdout).unwrap();
    let layers = report["layers"].as_array().unwrap();
    let trace: Json = serde_json::from_slice(&std::fs::read(dir.join("trace.json")).unwrap()).unwrap();
    let steps = steps_of(&trace);
    let mut seen: BTreeMap<(u64, u64), usize> = BTreeMap::new();
    for s in &steps {
        *seen.entry((s["args"]["run"].as_u64().unwrap(), s["args"]["step"].as_u64().unwrap())).or_default() += 1;
    }
    assert!(seen.values().all(|n| *n == 1) && seen.len() == steps.len());
    let runs: std::collections::BTreeSet<u64> = seen.keys().map(|k| k.0).collect();
    assert_eq!(steps.len(), runs.len() * layers.len());
    let nodes =
        |name: &str| layers.iter().filter(|l| l["nodes"].as_array().unwrap().iter().any(|n| n.as_str().unwrap().contains(name))).count();
    assert!(nodes("product") == 1 && nodes("probabilities") == 1 && nodes("turned") == 1, "{layers:?}");
    let product = layers.iter().find(|l| l["kernel"] == "gemm").unwrap();
    assert_eq!((&product["flops"], &product["bytes_written"]), (&(2 * 3 * 4 * 2).into(), &(3 * 2 * 4).into()), "{product}");
    let picture = std::fs::read_to_string(dir.join("roof.svg")).unwrap();
    let points = picture.matches("<circle").count() - picture.matches("\" r=\"5\"").count() - 3;
    assert_eq!(tags(&picture)[0], "svg");
    assert_eq!(points, layers.len(), "{picture}");
    assert!(picture.contains("&lt;a \\&quot;product\\&quot; &amp; more&gt;"), "{picture}");
    assert_eq!(report["roofline"]["layers"].as_array().unwrap().len(), layers.len());
    assert!(report["roofline"]["memory_bytes_per_second"].as_f64().unwrap() > 1e6);
}
