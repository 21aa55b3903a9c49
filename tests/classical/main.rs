//! Operators of ai.onnx.ml by their definitions in plain loops, through the evaluator and compiled.

use kiln::{Tensor, Value};
use kiln_compiler::onnx::proto::TypeProto;
use kiln_compiler::{import, onnx};
use kiln_kernels::dtype::DType::{self, F32, F64, I32, I64, Str};
use kiln_tests::compiled;
use kiln_tests::models::{IntoAttribute, ModelBuilder, SCALAR, map_type, sequence_type, tensor_type, unranked_type};
use std::collections::BTreeMap;
use std::path::PathBuf;

mod trees;

/// A model of one node of ai.onnx.ml.
struct Node {
    m: ModelBuilder,
    names: Vec<String>,
    inputs: Vec<Value>,
    outputs: usize,
    /// Whether the first extent of the first input is open.
    open: bool,
}

/// The name of an output.
fn out(i: usize) -> String {
    format!("y{i}")
}

/// The type that a model states of a value.
fn type_of(v: &Value) -> TypeProto {
    match v {
        Value::Tensor(t) => unranked_type(t.dtype),
        Value::Sequence(s) => sequence_type(type_of(&s[0])),
        Value::Optional(_) => unreachable!("no operator of ai.onnx.ml gives an optional value"),
        Value::IntMap(m) => map_type(I64, type_of(m.values().next().expect("the map is not empty"))),
        Value::StrMap(m) => map_type(Str, type_of(m.values().next().expect("the map is not empty"))),
    }
}

impl Node {
    fn new() -> Node {
        Node { m: ModelBuilder::new().opset(21).import("ai.onnx.ml", 5), names: vec![], inputs: vec![], outputs: 0, open: true }
    }
    /// An input.
    fn input(mut self, t: Tensor) -> Node {
        let name = format!("x{}", self.names.len());
        let open = self.open && self.names.is_empty();
        let dims = t.dims.iter().enumerate().map(|(i, d)| if open && i == 0 { "n".to_string() } else { d.to_string() });
        self.m = self.m.input(&name, t.dtype, dims.collect::<Vec<_>>().iter().map(String::as_str).collect::<Vec<_>>());
        self.inputs.push(t.into());
        self.names.push(name);
        self
    }
    fn op(mut self, op: &str, outputs: usize) -> Node {
        let outs: Vec<String> = (0..outputs).map(out).collect();
        let names: Vec<&str> = self.names.iter().map(String::as_str).collect();
        self.m = self.m.node(op, &names, &outs.iter().map(String::as_str).collect::<Vec<_>>()).domain("ai.onnx.ml");
        self.outputs = outputs;
        self
    }
    fn attr(mut self, name: &str, value: impl IntoAttribute) -> Node {
        self.m = self.m.attr(name, value);
        self
    }
    /// The model, whose outputs are of any type.
    fn build(&self) -> Vec<u8> {
        (0..self.outputs).fold(self.m.clone(), |m, i| m.output(&out(i))).build()
    }
}

/// Cases that are evaluated at once, and compiled together at the end.
struct Cases {
    dir: PathBuf,
    count: usize,
}

impl Cases {
    fn new(name: &str) -> Cases {
        Cases { dir: compiled::folder(env!("CARGO_TARGET_TMPDIR"), name), count: 0 }
    }
    /// What the evaluator makes of a node, which is kept as a case.
    #[track_caller]
    fn run(&mut self, node: Node) -> Vec<Value> {
        let found = compiled::expected(&node.build(), node.inputs.clone());
        // Files of values are read by the types that the model states.
        let typed = found.iter().enumerate().fold(node.m, |m, (i, v)| m.output_of(&out(i), type_of(v)));
        compiled::write(&self.dir.join(format!("case{}", self.count)), &typed.build(), vec![node.inputs]);
        self.count += 1;
        found
    }
    #[track_caller]
    fn floats(&mut self, node: Node) -> Vec<f32> {
        tensor(&self.run(node)[0]).slice().to_vec()
    }
    #[track_caller]
    fn done(self) {
        assert_eq!(compiled::check(&self.dir), self.count);
    }
}

fn tensor(v: &Value) -> &Tensor {
    v.as_tensor().expect("the value is a tensor")
}

fn f32s(dims: &[usize], x: &[f32]) -> Tensor {
    Tensor::new(dims, x)
}

fn strings(dims: &[usize], x: &[&str]) -> Tensor {
    Tensor::strings(dims, x.iter().map(|s| s.to_string()).collect())
}

#[track_caller]
fn near(found: &[f32], wanted: &[f32]) {
    let same = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-5 * (1.0 + b.abs()) || (a.is_nan() && b.is_nan()) || a == b;
    assert!(found.len() == wanted.len() && found.iter().zip(wanted).all(same), "{found:?} for {wanted:?}");
}

const X: [f32; 6] = [1.0, -2.0, 0.5, f32::NAN, 3.0, -0.0];

#[test]
fn rows_of_numbers() {
    let mut c = Cases::new("classical_rows");
    let node = || Node::new().input(f32s(&[2, 3], &X));
    let scaled = c.floats(node().op("Scaler", 1).attr("offset", [1.0f32, 2.0, 0.0]).attr("scale", [2.0f32]));
    near(&scaled, &[0.0, -8.0, 1.0, f32::NAN, 2.0, 0.0]);
    let whole = Node::new().input(Tensor::new(&[2, 2], &[1i32, 2, 3, 4]));
    near(&c.floats(whole.op("Scaler", 1).attr("offset", [0.5f32]).attr("scale", [1.0f32, 2.0])), &[0.5, 3.0, 2.5, 7.0]);
    let imputed = c.floats(node().op("Imputer", 1).attr("imputed_value_floats", [7.0f32, 8.0, 9.0]).attr("replaced_value_float", f32::NAN));
    near(&imputed, &[1.0, -2.0, 0.5, 7.0, 3.0, -0.0]);
    let zeros = c.floats(node().op("Imputer", 1).attr("imputed_value_floats", [5.0f32]).attr("replaced_value_float", 0.0));
    near(&zeros, &[1.0, -2.0, 0.5, f32::NAN, 3.0, 5.0]);
    let ints = Node::new().input(Tensor::new(&[1, 3], &[4i64, -1, 4]));
    let y = c.run(ints.op("Imputer", 1).attr("imputed_value_int64s", [1i64 << 53, 6, 0]).attr("replaced_value_int64", 4));
    assert_eq!(tensor(&y[0]).slice::<i64>(), [1 << 53, -1, 0]);
    near(&c.floats(node().op("Binarizer", 1).attr("threshold", 0.5)), &[1.0, 0.0, 0.0, 0.0, 1.0, 0.0]);
    let rows = || Node::new().input(f32s(&[3, 2], &[3.0, -4.0, 0.0, 0.0, -1.0, 4.0]));
    near(&c.floats(rows().op("Normalizer", 1).attr("norm", "L2")), &[0.6, -0.8, 0.0, 0.0, -1.0 / 17f32.sqrt(), 4.0 / 17f32.sqrt()]);
    near(&c.floats(rows().op("Normalizer", 1).attr("norm", "L1")), &[3.0 / 7.0, -4.0 / 7.0, 0.0, 0.0, -0.2, 0.8]);
    near(&c.floats(rows().op("Normalizer", 1).attr("norm", "MAX")), &[1.0, -4.0 / 3.0, 0.0, 0.0, -0.25, 1.0]);
    let closed = Node { open: false, ..Node::new() };
    let wide = closed.input(f32s(&[3, 2], &[3.0, -4.0, 0.0, 0.0, -1.0, 4.0])).input(Tensor::new(&[3, 1], &[7i64, 8, 9]));
    near(&c.floats(wide.op("FeatureVectorizer", 1).attr("inputdimensions", [1i64, 2])), &[3.0, 7.0, 0.0, 0.0, 8.0, 0.0, -1.0, 9.0, 0.0]);
    let picked =
        c.run(Node::new().input(strings(&[2, 2], &["a", "b", "c", "d"])).input(Tensor::new(&[1], &[1i64])).op("ArrayFeatureExtractor", 1));
    assert_eq!(tensor(&picked[0]), &strings(&[2, 1], &["b", "d"]));
    c.done();
}

#[test]
fn labels_and_categories() {
    let mut c = Cases::new("classical_labels");
    let words = || Node::new().input(strings(&[4], &["b", "", "a", "zz"]));
    let y = c.run(words().op("LabelEncoder", 1).attr("classes_strings", ["a", "b", "c"]).attr("default_int64", -7));
    assert_eq!(tensor(&y[0]).slice::<i64>(), [1, -7, 0, -7]);
    let numbers = || Node::new().input(Tensor::new(&[3], &[2i64, 0, 9]));
    let y = c.run(numbers().op("LabelEncoder", 1).attr("classes_strings", ["a", "b", "c"]).attr("default_string", "?"));
    assert_eq!(tensor(&y[0]), &strings(&[3], &["c", "a", "?"]));
    // Of equal keys the first one counts; zeros are equal, and so are all NaNs.
    let x = Node::new().input(f32s(&[5], &[-0.0, f32::from_bits(0x7fc0_1234), 2.5, f32::INFINITY, 1.0]));
    let keys = [0.0, f32::NAN, 2.5, 2.5, f32::INFINITY];
    let y =
        c.run(x.op("LabelEncoder", 1).attr("keys_floats", keys).attr("values_int64s", [10i64, 11, 12, 13, 14]).attr("default_int64", 99));
    assert_eq!(tensor(&y[0]).slice::<i64>(), [10, 11, 12, 14, 99]);
    let many: Vec<i64> = (0..1000).map(|i| i * 7919 % 1000).collect();
    let x = Node::new().input(Tensor::new(&[1000], &(0..1000).collect::<Vec<i64>>()));
    let values: Vec<i64> = many.iter().map(|k| -k).collect();
    let y = c.run(x.op("LabelEncoder", 1).attr("keys_int64s", many).attr("values_int64s", values));
    assert!(tensor(&y[0]).slice::<i64>().iter().enumerate().all(|(i, y)| *y == -(i as i64)));
    let y = c.run(words().op("CategoryMapper", 1).attr("cats_strings", ["zz", "b"]).attr("cats_int64s", [5i64, 6]));
    assert_eq!(tensor(&y[0]).slice::<i64>(), [6, -1, -1, 5]);
    let hot = c.run(words().op("OneHotEncoder", 1).attr("cats_strings", ["a", "b"]));
    assert_eq!((&tensor(&hot[0]).dims[..], tensor(&hot[0]).slice::<f32>()), (&[4, 2][..], &[0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0][..]));
    let hot = c.run(Node::new().input(f32s(&[2, 1], &[3.9, -5.0])).op("OneHotEncoder", 1).attr("cats_int64s", [3i64, 4]));
    assert_eq!((&tensor(&hot[0]).dims[..], tensor(&hot[0]).slice::<f32>()), (&[2, 1, 2][..], &[1.0, 0.0, 0.0, 0.0][..]));
    let known = Node::new().input(Tensor::new(&[2], &[4i64, 3])).op("OneHotEncoder", 1).attr("cats_int64s", [3i64, 4]).attr("zeros", 0);
    near(&c.floats(known), &[0.0, 1.0, 1.0, 0.0]);
    c.done();
}

#[test]
fn linear_models() {
    let mut c = Cases::new("classical_linear");
    let node = || Node::new().input(f32s(&[2, 2], &[1.0, 2.0, -3.0, 0.5]));
    let y = c.floats(
        node()
            .op("LinearRegressor", 1)
            .attr("coefficients", [1.0f32, 2.0, 0.5, -1.0])
            .attr("intercepts", [0.25f32, 0.0])
            .attr("targets", 2),
    );
    near(&y, &[5.25, -1.5, -1.75, -2.0]);
    let single = |how: &'static str| node().op("LinearRegressor", 1).attr("coefficients", [1.0f32, 1.0]).attr("post_transform", how);
    near(&c.floats(single("LOGISTIC")), &[3.0, -2.5].map(|x: f32| 1.0 / (1.0 + (-x).exp())));
    let three = |how: &'static str| {
        let node = node().op("LinearClassifier", 2).attr("coefficients", [1.0f32, 0.0, 0.0, 1.0, 0.0, 0.0]).attr("intercepts", [0.0f32; 3]);
        node.attr("classlabels_strings", ["x", "y", "z"]).attr("post_transform", how)
    };
    let y = c.run(three("NONE"));
    assert_eq!(tensor(&y[0]), &strings(&[2], &["y", "y"]));
    near(tensor(&y[1]).slice(), &[1.0, 2.0, 0.0, -3.0, 0.5, 0.0]);
    let soft = |x: [f32; 3]| {
        let sum: f32 = x.iter().map(|x| x.exp()).sum();
        x.map(|x| x.exp() / sum)
    };
    near(tensor(&c.run(three("SOFTMAX"))[1]).slice(), &[soft([1.0, 2.0, 0.0]), soft([-3.0, 0.5, 0.0])].concat());
    // A score of zero stays near zero: it is multiplied by what the greatest one is divided by, and not part of the sum.
    let zero = |a: f32, b: f32, most: f32| {
        let sum = (a - most).exp() + (b - most).exp();
        [(a - most).exp() / sum, (b - most).exp() / sum, 0.0]
    };
    near(tensor(&c.run(three("SOFTMAX_ZERO"))[1]).slice(), &[zero(1.0, 2.0, 2.0), zero(-3.0, 0.5, 0.5)].concat());
    let binary = node()
        .op("LinearClassifier", 2)
        .attr("coefficients", [1.0f32, 1.0])
        .attr("intercepts", [0.0f32])
        .attr("classlabels_ints", [4i64, -4]);
    let y = c.run(binary.attr("post_transform", "LOGISTIC"));
    assert_eq!(tensor(&y[0]).slice::<i64>(), [-4, 4]);
    near(tensor(&y[1]).slice(), &[-3.0, 3.0, 2.5, -2.5].map(|x: f32| 1.0 / (1.0 + (-x).exp())));
    // The quantiles of 0.5, 0.975 and 0.025, as nearly as the approximation has them.
    let probit = Node::new().input(f32s(&[3, 1], &[0.5, 0.975, 0.025])).op("LinearRegressor", 1).attr("coefficients", [1.0f32]);
    let y = c.floats(probit.attr("post_transform", "PROBIT"));
    assert!(y[0].abs() < 1e-3 && (y[1] - 1.96).abs() < 0.01 && (y[2] + 1.96).abs() < 0.01, "{y:?}");
    c.done();
}

#[test]
fn support_vectors() {
    let mut c = Cases::new("classical_svm");
    let x = [1.0f32, 0.0, 0.5, -1.0];
    let vectors = [1.0f32, 1.0, -1.0, 0.0, 0.0, 2.0];
    for kind in ["LINEAR", "POLY", "RBF", "SIGMOID"] {
        let (gamma, coef0, degree) = (0.5f32, 0.25f32, 3i32);
        let kernel = |a: &[f32], b: &[f32]| {
            let dot: f32 = a.iter().zip(b).map(|(a, b)| a * b).sum();
            match kind {
                "POLY" => (gamma * dot + coef0).powi(degree),
                "RBF" => (-gamma * a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f32>()).exp(),
                "SIGMOID" => (gamma * dot + coef0).tanh(),
                _ => dot,
            }
        };
        let coefficients = [0.5f32, -1.0, 2.0];
        let wanted: Vec<f32> =
            x.chunks(2).map(|x| 0.125 + (0..3).map(|v| coefficients[v] * kernel(x, &vectors[2 * v..][..2])).sum::<f32>()).collect();
        let node = |op, outputs| {
            let node = Node::new()
                .input(f32s(&[2, 2], &x))
                .op(op, outputs)
                .attr("kernel_type", kind)
                .attr("kernel_params", [gamma, coef0, degree as f32]);
            node.attr("support_vectors", vectors).attr("coefficients", coefficients)
        };
        near(&c.floats(node("SVMRegressor", 1).attr("n_supports", 3).attr("rho", [0.125f32])), &wanted);
        let class: Vec<f32> = wanted.iter().map(|y| if *y > 0.0 { 1.0 } else { -1.0 }).collect();
        near(&c.floats(node("SVMRegressor", 1).attr("n_supports", 3).attr("rho", [0.125f32]).attr("one_class", 1)), &class);
        let classifier = node("SVMClassifier", 2)
            .attr("rho", [0.125f32])
            .attr("vectors_per_class", [2i64, 1])
            .attr("classlabels_strings", ["no", "yes"]);
        let y = c.run(classifier);
        let labels: Vec<&str> = wanted.iter().map(|y| if *y > 0.0 { "no" } else { "yes" }).collect();
        assert_eq!(tensor(&y[0]), &strings(&[2], &labels));
        near(tensor(&y[1]).slice(), &[-wanted[0], wanted[0], -wanted[1], wanted[1]]);
    }
    let probable =
        Node::new().input(f32s(&[1, 1], &[2.0])).op("SVMClassifier", 2).attr("coefficients", [1.0f32, -1.0]).attr("rho", [0.0f32]);
    let probable =
        probable.attr("support_vectors", [1.0f32, -1.0]).attr("vectors_per_class", [1i64, 1]).attr("classlabels_ints", [0i64, 1]);
    let y = c.run(probable.attr("prob_a", [-1.0f32]).attr("prob_b", [0.0f32]).attr("kernel_type", "LINEAR"));
    let first = 1.0 / (1.0 + (-4.0f32).exp());
    // The method ends where its error is below a thousandth.
    let scores: &[f32] = tensor(&y[1]).slice();
    assert!((scores[0] - first).abs() < 5e-3 && (scores[0] + scores[1] - 1.0).abs() < 1e-6, "{scores:?}");
    let plane = Node::new()
        .input(f32s(&[2, 1], &[2.0, -2.0]))
        .op("SVMClassifier", 2)
        .attr("coefficients", [1.0f32, 0.5, -1.0])
        .attr("rho", [0.25f32]);
    let y = c.run(plane.attr("classlabels_ints", [7i64, 8, 9]));
    assert_eq!(tensor(&y[0]).slice::<i64>(), [7, 9]);
    near(tensor(&y[1]).slice(), &[2.25, 1.25, -1.75, -1.75, -0.75, 2.25]);
    c.done();
}

#[test]
fn maps() {
    let mut c = Cases::new("classical_maps");
    let scores = || Node::new().input(f32s(&[2, 2], &[0.25, 0.75, 1.0, 0.0]));
    let scalar = |x: f32| Value::from(Tensor::scalar(x));
    let y = c.run(scores().op("ZipMap", 1).attr("classlabels_int64s", [5i64, -5]));
    let row = |a: f32, b: f32| Value::IntMap(BTreeMap::from([(5, scalar(a)), (-5, scalar(b))]));
    assert_eq!(y[0], Value::Sequence(vec![row(0.25, 0.75), row(1.0, 0.0)]));
    let y = c.run(scores().op("ZipMap", 1).attr("classlabels_strings", ["b", "a"]));
    let row = |a: f32, b: f32| Value::StrMap(BTreeMap::from([("b".to_string(), scalar(a)), ("a".to_string(), scalar(b))]));
    assert_eq!(y[0], Value::Sequence(vec![row(0.25, 0.75), row(1.0, 0.0)]));
    let map = |key: DType, value: DType, x: Value| {
        let mut node = Node::new();
        node.m = node.m.input_of("x0", map_type(key, tensor_type(value, SCALAR)));
        node.names.push("x0".to_string());
        node.inputs.push(x);
        node
    };
    let words = || Value::StrMap(BTreeMap::from([("b".to_string(), scalar(2.0)), ("q".to_string(), scalar(9.0))]));
    near(&c.floats(map(Str, F32, words()).op("DictVectorizer", 1).attr("string_vocabulary", ["a", "b", "c"])), &[0.0, 2.0, 0.0]);
    let places = || Value::IntMap(BTreeMap::from([(3, scalar(1.5)), (0, scalar(-2.0))]));
    near(&c.floats(map(I64, F32, places()).op("DictVectorizer", 1).attr("int64_vocabulary", [3i64, 4])), &[1.5, 0.0]);
    let cast = |form: &'static str, to: &'static str| {
        map(I64, F32, places()).op("CastMap", 1).attr("map_form", form).attr("cast_to", to).attr("max_map", 5)
    };
    near(&c.floats(cast("SPARSE", "TO_FLOAT")), &[-2.0, 0.0, 0.0, 1.5, 0.0]);
    let y = c.run(cast("DENSE", "TO_INT64"));
    assert_eq!((&tensor(&y[0]).dims[..], tensor(&y[0]).slice::<i64>()), (&[1, 2][..], &[-2i64, 1][..]));
    c.done();
}

#[test]
fn what_does_not_fit_is_refused() {
    let node = || Node::new().input(f32s(&[2, 2], &[1.0, 2.0, 3.0, 4.0]));
    let cases = [
        (node().op("Scaler", 1).attr("offset", [1.0f32; 3]).attr("scale", [1.0f32]), "3 numbers"),
        (node().op("LinearRegressor", 1).attr("coefficients", [1.0f32; 3]), "3 features"),
        (node().op("LinearClassifier", 2).attr("coefficients", [1.0f32; 4]).attr("classlabels_ints", [0i64, 1, 2]), "3 labels"),
        (node().op("ZipMap", 1).attr("classlabels_int64s", [1i64, 2, 3]), "3 labels"),
        (node().op("LabelEncoder", 1).attr("keys_floats", [1.0f32]).attr("values_floats", [1.0f32, 2.0]), "1 keys"),
        (
            node().op("SVMRegressor", 1).attr("n_supports", 3).attr("support_vectors", [1.0f32; 4]).attr("coefficients", [1.0f32; 3]),
            "support vectors",
        ),
        (node().op("Imputer", 1), "neither"),
        (node().op("DictVectorizer", 1).attr("int64_vocabulary", [1i64]), "needs a map"),
    ];
    for (node, wanted) in cases {
        let bytes = node.build();
        let model = onnx::read(&bytes, None, &Default::default()).expect("the file is read");
        let found = import::import(&model, &Default::default()).expect_err(wanted).to_string();
        assert!(found.contains(wanted), "{found}");
    }
    // That an element is no category is known at run time alone.
    let strict = Node::new().input(Tensor::new(&[1], &[5i32])).op("OneHotEncoder", 1).attr("cats_int64s", [3i64, 4]).attr("zeros", 0);
    let model = onnx::read(&strict.build(), None, &Default::default()).expect("the file is read");
    let graph = import::import(&model, &Default::default()).expect("the model is sound");
    let found = kiln_compiler::eval::Evaluator::new(&graph, strict.inputs).expect("inputs fit").run().expect_err("5 is no category");
    assert!(found.to_string().contains("none of the 2 categories"), "{found}");
}

#[test]
fn unused_types_of_rows_are_taken() {
    let mut c = Cases::new("classical_types");
    for x in [Tensor::new(&[1, 2], &[1.0f64, 2.0]), Tensor::new(&[1, 2], &[1i64, 2]), Tensor::new(&[1, 2], &[1i32, 2])] {
        assert!(matches!(x.dtype, F64 | I64 | I32));
        near(&c.floats(Node::new().input(x.clone()).op("Normalizer", 1).attr("norm", "L1")), &[1.0 / 3.0, 2.0 / 3.0]);
        near(
            &c.floats(Node::new().input(x.clone()).op("SVMRegressor", 1).attr("coefficients", [1.0f32, 1.0]).attr("rho", [0.5f32])),
            &[3.5],
        );
        let y = c.run(Node::new().input(x).op("Binarizer", 1).attr("threshold", 1.5));
        assert_eq!(tensor(&y[0]).to_f64s(), Some(vec![0.0, 1.0]));
    }
    c.done();
}
