//! Operators through the evaluator against recorded results: those of `com.microsoft` as ONNX Runtime computes them or defines them, and
//! the standard's in the meaning that old operator sets gave them (`record.py` writes both); random operators, and Scan of opset 8.

use kiln::{Tensor, Value};
use kiln_compiler::eval::Evaluator;
use kiln_compiler::{import, onnx};
use kiln_kernels::dtype::DType;
use kiln_tests::models::ModelBuilder;
use serde_json::Value as Json;

fn list(j: &Json) -> Vec<f64> {
    j.as_array().unwrap().iter().map(|x| x.as_f64().unwrap_or_else(|| x.as_bool().unwrap() as u8 as f64)).collect()
}

fn tensor(j: &Json) -> Tensor {
    let dims: Vec<usize> = list(&j["dims"]).into_iter().map(|d| d as usize).collect();
    let x = list(&j["data"]);
    match j["type"].as_str().unwrap() {
        "f32" => Tensor::new(&dims, &x.iter().map(|x| *x as f32).collect::<Vec<_>>()),
        "i32" => Tensor::new(&dims, &x.iter().map(|x| *x as i32).collect::<Vec<_>>()),
        "i64" => Tensor::new(&dims, &x.iter().map(|x| *x as i64).collect::<Vec<_>>()),
        "u8" => Tensor::new(&dims, &x.iter().map(|x| *x as u8).collect::<Vec<_>>()),
        "i8" => Tensor::new(&dims, &x.iter().map(|x| *x as i8).collect::<Vec<_>>()),
        "bool" => Tensor::with_dtype(DType::Bool, &dims, &x.iter().map(|x| *x as u8).collect::<Vec<_>>()),
        other => panic!("{other}"),
    }
}

fn numbers(t: &Tensor) -> Vec<f64> {
    if t.dtype == DType::Bool { t.bytes().iter().map(|b| *b as f64).collect() } else { t.to_f64s().unwrap() }
}

/// What the evaluator makes of a model.
fn run(model: &[u8], inputs: Vec<Value>) -> Result<Vec<Value>, String> {
    let model = onnx::read(model, None, &Default::default()).map_err(|e| e.to_string())?;
    let graph = import::import(&model, &Default::default()).map_err(|e| e.to_string())?;
    Evaluator::new(&graph, inputs).and_then(|mut e| e.run()).map_err(|e| format!("{e:?}"))
}

/// Runs a case; tells what is wrong.
fn check(case: &Json) -> Result<(), String> {
    let mut m = ModelBuilder::new().opset(case["opset"].as_i64().unwrap()).import("com.microsoft", 1);
    let (mut names, mut given) = (Vec::new(), Vec::new());
    for (i, input) in case["inputs"].as_array().unwrap().iter().enumerate() {
        let name = if input.is_null() { String::new() } else { format!("x{i}") };
        if !input.is_null() {
            let t = tensor(input);
            if input["constant"] == true {
                m = m.initializer(&name, t);
            } else {
                m = m.input(&name, t.dtype, t.dims.iter().map(|d| *d as i64));
                given.push(Value::from(t));
            }
        }
        names.push(name);
    }
    let expected = case["outputs"].as_array().unwrap();
    let outputs: Vec<String> =
        expected.iter().enumerate().map(|(i, o)| if o.is_null() { String::new() } else { format!("y{i}") }).collect();
    let refs = |v: &[String]| v.iter().map(|s| s.to_string()).collect::<Vec<_>>();
    let (inputs, results) = (refs(&names), refs(&outputs));
    let (inputs, results): (Vec<&str>, Vec<&str>) = (inputs.iter().map(|s| &**s).collect(), results.iter().map(|s| &**s).collect());
    m = m.node(case["op"].as_str().unwrap(), &inputs, &results).domain(case["domain"].as_str().unwrap());
    for (name, a) in case["attributes"].as_object().unwrap() {
        m = match a.as_object().unwrap().iter().next().unwrap() {
            (k, v) if k == "i" => m.attr(name, v.as_i64().unwrap()),
            (k, v) if k == "f" => m.attr(name, v.as_f64().unwrap() as f32),
            (k, v) if k == "s" => m.attr(name, v.as_str().unwrap()),
            (k, v) if k == "is" => m.attr(name, list(v).into_iter().map(|x| x as i64).collect::<Vec<i64>>()),
            (_, v) => m.attr(name, list(v).into_iter().map(|x| x as f32).collect::<Vec<f32>>()),
        };
    }
    for o in results.iter().filter(|o| !o.is_empty()) {
        m = m.output(o);
    }
    let found = run(&m.build(), given)?;
    let tolerance = case["tolerance"].as_f64().unwrap();
    if found.len() != results.iter().filter(|o| !o.is_empty()).count() {
        return Err(format!("{} results", found.len()));
    }
    for (f, e) in found.iter().zip(expected.iter().filter(|e| !e.is_null())) {
        let (f, e) = (f.as_tensor().unwrap(), tensor(e));
        if (f.dtype, &f.dims) != (e.dtype, &e.dims) {
            return Err(format!("{}{:?}, expected {}{:?}", f.dtype, f.dims, e.dtype, e.dims));
        }
        let (x, y) = (numbers(f), numbers(&e));
        // Beside an infinity nothing is near but itself.
        let same = |a: f64, b: f64| a == b || (a.is_nan() && b.is_nan()) || (b.is_finite() && (a - b).abs() <= tolerance * (1.0 + b.abs()));
        let far = |(a, b): (&f64, &f64)| !same(*a, *b);
        if let Some(i) = x.iter().zip(&y).position(far) {
            return Err(format!("[{i}]: {}, expected {}", x[i], y[i]));
        }
    }
    Ok(())
}

fn all(lines: &str, least: usize) {
    let cases: Vec<Json> = lines.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert!(cases.len() >= least);
    let bad: Vec<String> = cases.iter().filter_map(|c| check(c).err().map(|e| format!("{}: {e}", c["name"]))).collect();
    assert!(bad.is_empty(), "{} of {}:\n{}", bad.len(), cases.len(), bad.join("\n"));
}

#[test]
fn operators_of_com_microsoft_are_those_of_onnx_runtime() {
    all(include_str!("contrib.jsonl"), 94);
}

#[test]
fn operators_mean_what_their_opset_says() {
    all(include_str!("opsets.jsonl"), 50);
}

/// The results of a node without operands but those given, run twice.
fn twice(op: &str, inputs: &[Tensor], attributes: impl Fn(ModelBuilder) -> ModelBuilder) -> [Tensor; 2] {
    let names: Vec<String> = (0..inputs.len()).map(|i| format!("x{i}")).collect();
    let mut m = ModelBuilder::new().opset(22);
    for (n, t) in names.iter().zip(inputs) {
        m = m.input(n, t.dtype, t.dims.iter().map(|d| *d as i64));
    }
    let refs: Vec<&str> = names.iter().map(|n| &**n).collect();
    let bytes = attributes(m.node(op, &refs, &["y"])).output("y").build();
    [0, 1].map(|_| run(&bytes, inputs.iter().cloned().map(Value::from).collect()).unwrap()[0].as_tensor().unwrap().clone())
}

#[test]
fn seeds_repeat_and_their_absence_does_not() {
    // numpy.random.RandomState(5).rand(3) and .randn(3)
    let cases: [(&str, [f32; 3]); 2] =
        [("RandomUniform", [0.221_993_17, 0.870_732_3, 0.206_719_16]), ("RandomNormal", [0.441_227_5, -0.330_870_15, 2.430_771_4])];
    for (op, expected) in cases {
        let [a, b] = twice(op, &[], |m| m.attr("shape", vec![3i64]).attr("seed", 5.0f32));
        assert_eq!(a, b);
        let far = numbers(&a).iter().zip(expected).any(|(x, e)| (x - e as f64).abs() > 1e-6);
        assert!(!far, "{op}: {:?}", numbers(&a));
        let [a, b] = twice(op, &[], |m| m.attr("shape", vec![3i64]));
        assert_ne!(a, b);
    }
}

#[test]
fn draws_have_the_type_and_the_range_they_should() {
    let like = Tensor::new(&[4, 250], &[0i64; 1000]);
    let [u, _] =
        twice("RandomUniformLike", std::slice::from_ref(&like), |m| m.attr("dtype", 10i64).attr("low", -1.0f32).attr("high", 3.0f32));
    assert_eq!((u.dtype, &u.dims[..]), (DType::F16, &[4, 250][..]));
    assert!(numbers(&u).iter().all(|x| (-1.0..3.0).contains(x)));
    let [n, _] = twice("RandomNormalLike", &[like], |m| m.attr("dtype", 11i64).attr("mean", 10.0f32).attr("scale", 0.5f32));
    let mean = numbers(&n).iter().sum::<f64>() / 1000.0;
    assert!(n.dtype == DType::F64 && (mean - 10.0).abs() < 0.1, "{mean}");
    let p = Tensor::new(&[3], &[0.0f32, 1.0, 0.5]);
    let [b, _] = twice("Bernoulli", &[p], |m| m.attr("dtype", 9i64));
    assert_eq!((b.dtype, numbers(&b)[0], numbers(&b)[1]), (DType::Bool, 0.0, 1.0));
    let logits = Tensor::new(&[2, 3], &[0.0f32, f32::NEG_INFINITY, 0.0, -50.0, 50.0, -50.0]);
    let [c, _] = twice("Multinomial", &[logits], |m| m.attr("sample_size", 100i64).attr("dtype", 7i64));
    let c = (c.dtype, c.dims.clone(), numbers(&c));
    assert_eq!((c.0, c.1), (DType::I64, vec![2, 100]));
    assert!(c.2[..100].iter().all(|x| *x == 0.0 || *x == 2.0) && c.2[..100].contains(&0.0) && c.2[..100].contains(&2.0));
    assert!(c.2[100..].iter().all(|x| *x == 1.0));
}

#[test]
fn two_nodes_without_a_seed_draw_apart() {
    let m = ModelBuilder::new().opset(22).node("RandomUniform", &[], &["a"]).attr("shape", vec![4i64]);
    let m = m.node("RandomUniform", &[], &["b"]).attr("shape", vec![4i64]).node("Sub", &["a", "b"], &["y"]).output("y");
    let model = onnx::read(&m.build(), None, &Default::default()).unwrap();
    let mut graph = import::import(&model, &Default::default()).unwrap();
    kiln_compiler::rewrite::merge(&mut graph);
    let y = Evaluator::new(&graph, vec![]).unwrap().run().unwrap();
    assert!(numbers(y[0].as_tensor().unwrap()).iter().any(|x| *x != 0.0));
}

#[test]
fn scans_of_opset_8_end_at_the_length_of_each_sequence() {
    let body = || {
        let b = ModelBuilder::new().input("s", DType::F32, [1i64]).input("x", DType::F32, [1i64]);
        b.node("Add", &["s", "x"], &["t"]).node("Identity", &["t"], &["o"]).output("t").output("o")
    };
    // Sums of two sequences, of which the first ends after two of three steps; forward and from its end.
    for (direction, states, sums) in
        [(0i64, [3.0f32, 15.0], [1.0f32, 3.0, 0.0, 4.0, 9.0, 15.0]), (1, [3.0, 15.0], [2.0, 3.0, 0.0, 6.0, 11.0, 15.0])]
    {
        let m = ModelBuilder::new().opset(8).input("n", DType::I64, [2i64]).input("s0", DType::F32, [2i64, 1]).input(
            "x",
            DType::F32,
            [2i64, 3, 1],
        );
        let m = m
            .node("Scan", &["n", "s0", "x"], &["s", "o"])
            .attr("num_scan_inputs", 1i64)
            .attr("directions", vec![direction])
            .attr("body", body());
        let inputs: Vec<Value> = vec![
            Tensor::new(&[2], &[2i64, 3]).into(),
            Tensor::new(&[2, 1], &[0f32; 2]).into(),
            Tensor::new(&[2, 3, 1], &[1f32, 2.0, 3.0, 4.0, 5.0, 6.0]).into(),
        ];
        let found = run(&m.output("s").output("o").build(), inputs).unwrap();
        assert_eq!(found[0], Tensor::new(&[2, 1], &states).into());
        assert_eq!(found[1], Tensor::new(&[2, 3, 1], &sums).into());
    }
}
