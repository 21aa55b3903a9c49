//! Compiled models against the reference evaluator, through `model!`: every batch from one instance, several threads, control flow.

use kiln::DType::{I64, Str};
use kiln::{Error, Model, Options, Tensor, Threads, Value};
use kiln_compiler::import::{Dims, Extent};
use kiln_compiler::{compile, eval::Evaluator, import, onnx};
use kiln_tests::{models::ModelBuilder, samples};

kiln::model! {
    struct Mlp = "models/mlp.onnx";
    dims { batch in 1..=8 }
}
kiln::model! {
    struct OpenMlp = "models/mlp.onnx";
}
kiln::model! {
    struct Convnet = "models/convnet.onnx";
    outputs { scores = "logits" }
}
kiln::model! {
    struct Inverted = "models/inverted.onnx";
}
kiln::model! {
    struct Decoder = "models/decoder.onnx";
}
kiln::model! {
    struct Control = "models/control.onnx";
}

kiln::model! {
    struct Extents = "models/extents.onnx";
}

kiln::model! {
    struct Attention = "models/attention.onnx";
}

kiln::model! {
    struct BoundedAttention = "models/attention.onnx";
    dims { s in 1..=40, t in 1..=700 }
}

kiln::model! {
    struct Tied = "models/tied.onnx";
    dims { n in 1..=9 }
}
kiln::model! {
    struct Quantized = "models/quantized.onnx";
    dims { batch in 1..=3, s in 0..=50 }
}
kiln::model! {
    struct OpenQuantized = "models/quantized.onnx";
}
kiln::model! {
    struct Picked = "models/picked.onnx";
    dims { rows in 0..=100 }
}
kiln::model! {
    struct Recurrent = "models/recurrent.onnx";
    dims { steps in 0..=5, batch in 0..=3 }
}
kiln::model! {
    struct OpenRecurrent = "models/recurrent.onnx";
}
kiln::model! {
    struct ClosedProduct = "models/product.onnx";
    dims { m in 1..=37, k = 70, j = 70, n = 33 }
}
kiln::model! {
    struct Strings = "models/strings.onnx";
}
kiln::model! {
    struct ClosedStrings = "models/strings.onnx";
    dims { rows = 2, n = 3 }
}

/// What the evaluator gives for a model.
fn reference(model: &[u8], inputs: Vec<Value>) -> Vec<Value> {
    let model = onnx::read(model, None, &Default::default()).unwrap();
    let graph = import::import(&model, &Default::default()).unwrap();
    Evaluator::new(&graph, inputs).unwrap().run().unwrap()
}

fn close(a: &[f32], b: &Value) {
    let b = b.as_tensor().unwrap();
    let b: &[f32] = b.slice();
    assert_eq!(a.len(), b.len());
    for (x, y) in a.iter().zip(b) {
        assert!((x - y).abs() <= 1e-5 * (1.0 + y.abs()), "{x} and {y}");
    }
}

#[test]
fn every_batch_runs_from_one_instance() {
    let (mut bounded, mut open) = (Mlp::new().unwrap(), OpenMlp::new().unwrap());
    assert!(Mlp::ARENA_BYTES.is_some() && OpenMlp::ARENA_BYTES.is_none());
    for batch in [8, 1, 3, 5, 2, 8, 7, 6, 4] {
        let x = samples::noise(batch as u64, batch * 12);
        let want = reference(&samples::mlp(), vec![Tensor::new(&[batch, 12], &x).into()]);
        let out = bounded.run(&x).unwrap();
        assert_eq!(out.probabilities.shape(), [batch, 5]);
        close(&out.probabilities, &want[0]);
        close(&open.run((&x[..], [batch, 12])).unwrap().probabilities, &want[0]);
    }
    let too_many = vec![0f32; 9 * 12];
    assert!(matches!(bounded.run(&too_many), Err(Error::Dim { .. })));
    assert!(matches!(bounded.run(&vec![0f32; 13]), Err(Error::Shape { .. })));
    // After an error the instance goes on.
    assert!(bounded.run(&vec![0f32; 12]).is_ok());
}

#[test]
fn matrices_that_indices_pick_agree_on_any_threads() {
    for rows in [0usize, 1, 3, 100] {
        let x: Value = Tensor::new(&[rows, 1, 37], &samples::noise(30, rows * 37)).into();
        let at: Vec<i64> = (0..rows as i64).map(|r| r * r % 10 - 5).collect();
        let at: Value = Tensor::new(&[rows], &at).into();
        let want = reference(&samples::picked(), vec![x.clone(), at.clone()]);
        for isa in kiln::Isa::available() {
            let mut first: Option<Vec<u32>> = None;
            for threads in [1, 2, 3] {
                let mut net = Picked::with(&Options::default().threads(Threads::new(threads)).isa(isa)).unwrap();
                let got = net.run_dyn(&[("x", &x), ("at", &at)]).unwrap();
                let got: &[f32] = got[0].as_tensor().unwrap().slice();
                close(got, &want[0]);
                let bits: Vec<u32> = got.iter().map(|x| x.to_bits()).collect();
                assert_eq!(*first.get_or_insert_with(|| bits.clone()), bits, "{} with {threads} threads", isa.name());
            }
        }
    }
    let mut net = Picked::new().unwrap();
    let x: Value = Tensor::new(&[2, 1, 37], &samples::noise(31, 74)).into();
    for (at, fits) in [([4i64, -5], true), ([5, 0], false), ([0, -6], false), ([0, 0], true)] {
        let at: Value = Tensor::new(&[2], &at).into();
        let found = net.run_dyn(&[("x", &x), ("at", &at)]);
        assert!(if fits { found.is_ok() } else { matches!(found, Err(Error::Index { .. })) }, "{found:?}");
    }
}

/// Runs a model on every instruction set, with one to three threads: what it gives is near `want`, and the same bits for any number.
fn runs_everywhere<M: Model>(inputs: &[(&str, &Value)], want: &[Value]) {
    for isa in kiln::Isa::available() {
        let mut first: Option<Vec<u32>> = None;
        for threads in [1, 2, 3] {
            let mut net = M::with(&Options::default().threads(Threads::new(threads)).isa(isa)).unwrap();
            let got = net.run_dyn(inputs).unwrap();
            for (a, b) in got.iter().zip(want) {
                let (a, b): (&[f32], &[f32]) = (a.as_tensor().unwrap().slice(), b.as_tensor().unwrap().slice());
                assert_eq!(a.len(), b.len());
                // Sums by filtering and by digits are off by parts of their largest terms, so the bound is one of the whole output.
                let finite = b.iter().filter(|y| y.is_finite()).map(|y| y.abs());
                let mean = finite.clone().sum::<f32>() / finite.count().max(1) as f32;
                for (i, (x, y)) in a.iter().zip(b).enumerate() {
                    let same = x == y || x.is_nan() && y.is_nan() || (x - y).abs() <= 1e-5 * (1.0 + mean + y.abs());
                    assert!(same, "{}: element {i} is {x}, not {y}", isa.name());
                }
            }
            let bits: Vec<u32> = got.iter().flat_map(|v| v.as_tensor().unwrap().slice::<f32>().iter().map(|x| x.to_bits())).collect();
            assert_eq!(*first.get_or_insert_with(|| bits.clone()), bits, "{} with {threads} threads", isa.name());
        }
    }
}

#[test]
fn convolutions_around_depthwise_ones_run_by_strips() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/models/inverted.onnx");
    let plan = compile::compile(&compile::Options { model: path.into(), ..Default::default() }).unwrap().plan;
    let strips = plan.kernels().into_iter().filter(|s| s.kernel.name() == "strips");
    let strips: Vec<usize> = strips.map(|s| s.kernel.parts().len()).collect();
    assert_eq!(strips, [3, 2], "both blocks are one kernel each");
    let mut image = samples::noise(50, 2 * 3 * 40 * 44);
    // What is not finite stays in its place.
    (image[17], image[4000], image[9000]) = (f32::NAN, f32::INFINITY, -0.0);
    let image: Value = Tensor::new(&[2, 3, 40, 44], &image).into();
    let want = reference(&samples::inverted(), vec![image.clone()]);
    runs_everywhere::<Inverted>(&[("image", &image)], &want);
}

#[test]
fn decoders_of_images_run_on_the_kernels_of_images() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/models/decoder.onnx");
    let plan = compile::compile(&compile::Options { model: path.into(), ..Default::default() }).unwrap().plan;
    let names: Vec<&str> = plan.kernels().into_iter().map(|s| s.kernel.name()).collect();
    let count = |name: &str| names.iter().filter(|n| **n == name).count();
    assert_eq!([count("resize"), count("call")], [4, 0], "{names:?}");
    let image: Value = Tensor::new(&[2, 3, 9, 11], &samples::noise(51, 2 * 3 * 9 * 11)).into();
    let want = reference(&samples::decoder(), vec![image.clone()]);
    runs_everywhere::<Decoder>(&[("image", &image)], &want);
}

#[test]
fn recurrent_layers_run_for_every_length_and_batch() {
    let (mut bounded, mut open) = (Recurrent::new().unwrap(), OpenRecurrent::new().unwrap());
    for (steps, batch) in [(5, 2), (1, 1), (0, 2), (3, 0), (2, 3), (5, 3)] {
        let x: Value = Tensor::new(&[steps, batch, 3], &samples::noise(steps as u64, steps * batch * 3)).into();
        let want = reference(&samples::recurrent(), vec![x.clone()]);
        for out in [bounded.run_dyn(&[("x", &x)]).unwrap(), open.run_dyn(&[("x", &x)]).unwrap()] {
            assert_eq!(out.len(), want.len());
            for (a, b) in out.iter().zip(&want) {
                assert_eq!(a.as_tensor().unwrap().dims, b.as_tensor().unwrap().dims);
                close(a.as_tensor().unwrap().slice(), b);
            }
        }
    }
}

/// Shapes of the two operands of each node in `extents.onnx` that fit.
const FITTING: [(&str, [&[usize]; 2]); 16] = [
    ("concat", [&[2, 3], &[4, 3]]),
    ("reshape", [&[2, 6], &[3, 4]]),
    ("expand", [&[2, 3], &[2, 3]]),
    ("repeat", [&[3], &[3]]),
    ("split", [&[5], &[3]]),
    ("slice", [&[6], &[4]]),
    ("tail", [&[6], &[4]]),
    ("head", [&[6], &[4]]),
    ("conv", [&[1, 3, 8], &[2, 3, 3]]),
    ("add", [&[2, 3], &[3]]),
    ("sum", [&[3], &[3]]),
    ("scatter", [&[3], &[3]]),
    ("layer", [&[2, 3], &[3]]),
    ("instance", [&[1, 3, 4], &[3]]),
    ("window", [&[3, 4], &[9, 4]]),
    ("matmul", [&[2, 3], &[3, 4]]),
];

/// Inputs of `extents.onnx`, where one node has operands of other shapes.
fn extents(other: &str, shapes: [&[usize]; 2]) -> Vec<Value> {
    let shapes = FITTING.iter().flat_map(|(name, fit)| if *name == other { shapes } else { *fit });
    shapes.enumerate().map(|(i, s)| Tensor::new(s, &samples::noise(i as u64, s.iter().product())).into()).collect()
}

fn run_extents(net: &mut Extents, inputs: &[Value]) -> Result<Vec<Value>, Error> {
    let names: Vec<String> = FITTING.iter().flat_map(|(name, _)| ["a", "b"].map(|side| format!("{name}_{side}"))).collect();
    let given: Vec<(&str, &Value)> = names.iter().map(String::as_str).zip(inputs).collect();
    net.run_dyn(&given)
}

#[test]
fn extents_that_only_run_time_can_compare_are_compared() {
    let mut net = Extents::new().unwrap();
    let bad: [(&str, [&[usize]; 2]); 27] = [
        ("scatter", [&[3], &[4]]),
        ("scatter", [&[4], &[3]]),
        ("layer", [&[2, 3], &[4]]),
        ("layer", [&[2, 4], &[3]]),
        ("instance", [&[1, 3, 4], &[2]]),
        ("concat", [&[2, 3], &[4, 2]]),
        ("concat", [&[2, 3], &[4, 1]]),
        ("reshape", [&[2, 6], &[3, 5]]),
        ("reshape", [&[2, 6], &[1, 1]]),
        ("expand", [&[2, 3], &[2, 4]]),
        ("expand", [&[5, 3], &[2, 3]]),
        ("repeat", [&[3], &[4]]),
        ("repeat", [&[3], &[2]]),
        ("split", [&[6], &[3]]),
        ("split", [&[1], &[3]]),
        ("slice", [&[3], &[4]]),
        ("slice", [&[4], &[4]]),
        ("tail", [&[3], &[5]]),
        ("head", [&[3], &[5]]),
        ("conv", [&[1, 4, 8], &[2, 3, 3]]),
        ("conv", [&[1, 1, 8], &[2, 3, 3]]),
        ("add", [&[2, 3], &[4]]),
        ("add", [&[2, 4], &[2]]),
        ("sum", [&[4], &[3]]),
        ("sum", [&[0], &[3]]),
        ("matmul", [&[2, 3], &[6, 2]]),
        ("matmul", [&[2, 3], &[1, 2]]),
    ];
    for (name, shapes) in bad {
        let found = run_extents(&mut net, &extents(name, shapes));
        assert!(
            matches!(&found, Err(Error::Domain { node, .. } | Error::Index { node, .. }) if node.contains(&format!("\"{name}\""))),
            "{name} of {shapes:?}: {found:?}"
        );
    }
    let good: [(&str, [&[usize]; 2]); 18] = [
        ("window", [&[4, 4], &[9, 4]]),
        ("all", [&[], &[]]),
        ("scatter", [&[5], &[5]]),
        ("layer", [&[2, 17], &[17]]),
        ("instance", [&[1, 5, 4], &[5]]),
        ("concat", [&[0, 3], &[4, 3]]),
        ("concat", [&[2, 0], &[4, 0]]),
        ("reshape", [&[0, 6], &[3, 0]]),
        ("expand", [&[4, 3], &[1, 3]]),
        ("repeat", [&[3], &[1]]),
        ("split", [&[2], &[0]]),
        ("slice", [&[9], &[0]]),
        ("tail", [&[3], &[3]]),
        ("head", [&[3], &[3]]),
        ("add", [&[2, 5], &[1]]),
        ("add", [&[2, 1], &[6]]),
        ("add", [&[0, 3], &[1]]),
        ("sum", [&[1], &[3]]),
    ];
    for (name, shapes) in good {
        let inputs = extents(name, shapes);
        let want = reference(&samples::extents(), inputs.clone());
        let got = run_extents(&mut net, &inputs).unwrap_or_else(|e| panic!("{name} of {shapes:?}: {e}"));
        for (x, y) in got.iter().zip(&want) {
            let x = x.as_tensor().unwrap();
            assert_eq!(x.dims, y.as_tensor().unwrap().dims, "{name} of {shapes:?}");
            close(x.slice(), y);
        }
    }
}

#[test]
fn attention_runs_as_one_kernel() {
    let (mut open, mut bounded) = (Attention::new().unwrap(), BoundedAttention::new().unwrap());
    for (s, t) in [(1, 1), (7, 33), (40, 700), (1, 700), (3, 5), (33, 16), (2, 300)] {
        let shapes: [&[usize]; 5] = [&[2, 4, s, 9], &[2, 2, t, 9], &[2, 2, t, 5], &[s, t], &[1, 3, 20, 8]];
        let mut x: Vec<Tensor> = (0..).zip(shapes).map(|(i, d)| Tensor::new(d, &samples::noise(30 + i, d.iter().product()))).collect();
        // Every third key is masked, but for the first.
        x[3].slice_mut::<f32>().iter_mut().enumerate().filter(|(i, _)| i % t % 3 == 2).for_each(|(_, m)| *m = f32::NEG_INFINITY);
        let want = reference(&samples::attention(), x.iter().cloned().map(Value::from).collect());
        let values: Vec<Value> = x.into_iter().map(Value::from).collect();
        let given: Vec<(&str, &Value)> = ["q", "k", "v", "mask", "x"].into_iter().zip(&values).collect();
        for got in [open.run_dyn(&given).unwrap(), bounded.run_dyn(&given).unwrap()] {
            for (got, want) in got.iter().zip(&want) {
                close(got.as_tensor().unwrap().slice(), want);
            }
        }
    }
    let options = compile::Options {
        model: concat!(env!("CARGO_MANIFEST_DIR"), "/models/attention.onnx").into(),
        dump_after: Some("prune".into()),
        ..Default::default()
    };
    let graph = compile::compile(&options).unwrap().dump.unwrap();
    assert!(graph.matches(" Attend(").count() == 2 && !graph.contains("= Softmax(") && !graph.contains("= Expand("), "{graph}");
    assert!(graph.contains("causal: 0"), "{graph}");
}

#[test]
fn a_table_that_is_also_a_factor_is_stored_once() {
    let mut net = Tied::new().unwrap();
    let ids = [0i64, 516, -517, -1, 15, 16, 17, 511, 512];
    let want = reference(&samples::tied(), vec![Tensor::new(&[9], &ids).into()]);
    let out = net.run(&ids).unwrap();
    assert_eq!(out.rows[..], want[0].as_tensor().unwrap().slice::<f32>()[..]);
    close(&out.scores, &want[1]);
    for id in [517, -518, i64::MIN, i64::MAX] {
        assert!(matches!(net.run(&[id]), Err(Error::Index { .. })), "{id}");
    }
    let options = compile::Options { model: concat!(env!("CARGO_MANIFEST_DIR"), "/models/tied.onnx").into(), ..Default::default() };
    let compiled = compile::compile(&options).unwrap();
    let panels = 517usize.next_multiple_of(16) * 33 * 4;
    assert!(compiled.report.weights_bytes < panels + 64, "{} bytes of weights for panels of {panels}", compiled.report.weights_bytes);
}

#[test]
fn quantized_products_are_the_evaluators_bits() {
    for isa in kiln::Isa::available() {
        for threads in [1, 3] {
            let options = Options::default().threads(Threads::new(threads)).isa(isa);
            let (mut closed, mut open) = (Quantized::with(&options).unwrap(), OpenQuantized::with(&options).unwrap());
            for (batch, s) in [(1, 1), (3, 50), (2, 17), (1, 0)] {
                let x: Value = Tensor::new(&[batch, s, 21], &samples::noise(s as u64, batch * s * 21)).into();
                let want = reference(&samples::quantized(), vec![x.clone()]);
                for got in [closed.run_dyn(&[("x", &x)]).unwrap(), open.run_dyn(&[("x", &x)]).unwrap()] {
                    assert_eq!(got, want, "{batch} times {s} rows, {} with {threads} threads", isa.name());
                }
            }
        }
    }
    let options = compile::Options { model: concat!(env!("CARGO_MANIFEST_DIR"), "/models/quantized.onnx").into(), ..Default::default() };
    let plan = compile::compile(&options).unwrap().plan;
    let count = |name: &str| plan.kernels().iter().filter(|s| s.kernel.name() == name).count();
    assert_eq!([count("range"), count("integer gemm"), count("igemm::multiply"), count("plain::matmul")], [1, 5, 0, 0]);
    let with_tail = plan.kernels().iter().filter(|s| s.kernel.name() == "integer gemm" && s.kernel.epilogue().is_some()).count();
    assert_eq!(with_tail, 4, "all but the sums that the model hands out are scaled, biased and rounded by the product's kernel");
}

#[test]
fn no_value_of_a_request_is_left_for_the_next() {
    let mut net = Mlp::new().unwrap();
    let secret = vec![1e30f32; 8 * 12];
    let probe = samples::noise(9, 12);
    let clean = net.run(&probe).unwrap().probabilities.to_owned();
    net.run(&secret).unwrap();
    assert_eq!(net.run(&probe).unwrap().probabilities.to_owned(), clean);
}

#[test]
fn every_instruction_set_and_number_of_threads_agrees() {
    let image = samples::noise(20, 3 * 17 * 19);
    let want = reference(&samples::convnet(), vec![Tensor::new(&[1, 3, 17, 19], &image).into()]);
    for isa in kiln::Isa::available() {
        let mut first: Option<Vec<f32>> = None;
        for threads in [1, 2, 3] {
            let options = Options::default().threads(Threads::new(threads)).isa(isa);
            let mut net = Convnet::with(&options).unwrap();
            assert_eq!(net.device().isa, isa);
            let got = net.run(&image).unwrap().scores.to_owned();
            close(&got, &want[0]);
            let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            let first = first.get_or_insert_with(|| got.clone());
            assert_eq!(bits(first), bits(&got), "{} with {threads} threads", isa.name());
        }
    }
}

#[test]
fn inputs_come_in_every_form() {
    let mut net = Convnet::new().unwrap();
    let image = samples::noise(21, 3 * 17 * 19);
    let want = net.run(&image).unwrap().scores.to_owned();
    let array: [f32; 969] = image.clone().try_into().unwrap();
    assert_eq!(net.run(&array).unwrap().scores.to_owned(), want);
    let mut nested = [[[[0f32; 19]; 17]; 3]; 1];
    nested.as_flattened_mut().as_flattened_mut().as_flattened_mut().copy_from_slice(&image);
    assert_eq!(net.run(&nested).unwrap().scores.to_owned(), want);
    // A slice that starts anywhere.
    let mut shifted = vec![0f32; 970];
    shifted[1..].copy_from_slice(&image);
    assert_eq!(net.run(&shifted[1..]).unwrap().scores.to_owned(), want);
    net.input_mut().unwrap().image.copy_from_slice(&image);
    assert_eq!(net.run_prepared().unwrap().scores.to_owned(), want);
    let mut buffers = ConvnetBuffers::default();
    net.run_into(&image, &mut buffers).unwrap();
    assert_eq!(buffers.scores, want);
    let value = Tensor::new(&[1, 3, 17, 19], &image).into();
    let dynamic = net.run_dyn(&[("image", &value)]).unwrap();
    assert_eq!(dynamic[0].as_tensor().unwrap().slice::<f32>(), want);
    assert!(matches!(net.run_dyn(&[("nothing", &value)]), Err(Error::Port { .. })));
}

#[test]
fn instances_run_at_once_on_several_threads() {
    let net = Convnet::new().unwrap();
    std::thread::scope(|s| {
        for seed in 0..4 {
            let mut net = net.fork().unwrap();
            s.spawn(move || {
                let image = samples::noise(30 + seed, 3 * 17 * 19);
                let want = reference(&samples::convnet(), vec![Tensor::new(&[1, 3, 17, 19], &image).into()]);
                for _ in 0..50 {
                    close(&net.run(&image).unwrap().scores, &want[0]);
                }
            });
        }
    });
}

#[test]
fn control_flow_and_counts_found_at_run_time() {
    let mut net = Control::new().unwrap();
    for (flag, trips) in [(true, 3i64), (false, 0), (true, 1), (false, 5)] {
        let x = [1.5f32, -2.0, 0.0, 4.0];
        let words: Value = Tensor::strings(&[2], vec!["Kiln".into(), "äé".into()]).into();
        let inputs: Vec<Value> = vec![
            Tensor::new(&[4], &x).into(),
            Tensor::with_dtype(kiln::DType::Bool, &[], &[flag as u8]).into(),
            Tensor::scalar(trips).into(),
            words.clone(),
        ];
        let want = reference(&samples::control(), inputs.clone());
        let names = ["x", "flag", "trips", "words"];
        let given: Vec<(&str, &Value)> = names.into_iter().zip(&inputs).collect();
        let got = net.run_dyn(&given).unwrap();
        assert_eq!(got, want, "flag {flag}, {trips} trips");
    }
}

#[test]
fn strings_move_as_numbers_do() {
    let (mut open, mut closed) = (Strings::new().unwrap(), ClosedStrings::new().unwrap());
    for (rows, at) in [(2usize, vec![1i64, -2, 0]), (5, vec![4]), (1, vec![]), (2, vec![0, 0, 1])] {
        let text = (0..rows * 3).map(|i| "äb".repeat(i % 4) + &i.to_string()).collect();
        let words: Value = Tensor::strings(&[rows, 3], text).into();
        let at: Value = Tensor::new(&[at.len()], &at).into();
        let inputs = [("words", &words), ("at", &at)];
        let want = reference(&samples::strings(), vec![words.clone(), at.clone()]);
        assert_eq!(open.run_dyn(&inputs).unwrap(), want, "{rows} rows");
        if rows == 2 {
            assert_eq!(closed.run_dyn(&inputs).unwrap(), want);
        }
    }
    let words: Value = Tensor::strings(&[2, 3], vec![String::new(); 6]).into();
    let outside: Value = Tensor::new(&[3], &[0i64, 2, 0]).into();
    let answer = closed.run_dyn(&[("words", &words), ("at", &outside)]);
    assert!(matches!(answer, Err(Error::Index { .. })), "{answer:?}");
}

#[test]
fn strings_are_scattered_and_spread() {
    let text = |words: &[&str]| -> Value { Tensor::strings(&[words.len()], words.iter().map(|w| w.to_string()).collect()).into() };
    let scatter = ModelBuilder::new()
        .opset(17)
        .input("words", Str, ["4"])
        .input("at", I64, ["2"])
        .input("new", Str, ["2"])
        .node("ScatterElements", &["words", "at", "new"], &["y"])
        .output("y");
    let at = |at: [i64; 2]| -> Value { Tensor::new(&[2], &at).into() };
    let found = reference(&scatter.build(), vec![text(&["a", "b", "c", "d"]), at([2, 0]), text(&["x", "y"])]);
    assert_eq!(found, [text(&["y", "b", "x", "d"])]);
    let one_hot = ModelBuilder::new()
        .opset(17)
        .input("at", I64, ["2"])
        .initializer("depth", Tensor::scalar(3i64))
        .input("values", Str, ["2"])
        .node("OneHot", &["at", "depth", "values"], &["y"])
        .output("y");
    let found = reference(&one_hot.build(), vec![at([1, -3]), text(&["", "on"])]);
    let want = Tensor::strings(&[2, 3], ["", "on", "", "on", "", ""].map(String::from).to_vec());
    assert_eq!(found, [want.into()]);
}

#[test]
fn the_scratch_reported_is_what_an_instance_allocates() {
    fn reported(file: &str, dims: &[(&str, Extent)]) -> Option<usize> {
        let model = format!("{}/models/{file}.onnx", env!("CARGO_MANIFEST_DIR")).into();
        let by_name = dims.iter().map(|(name, extent)| (name.to_string(), *extent)).collect();
        let options = kiln_compiler::Options { model, dims: Dims { by_name, ..Dims::default() }, ..Default::default() };
        kiln_compiler::compile(&options).unwrap().report.scratch_bytes_per_thread
    }
    fn allocated<M: Model>() -> usize {
        let most: Vec<i64> = M::SPEC.symbols.iter().map(|s| s.hi.unwrap()).collect();
        (M::SPEC.scratch)(&most).next_multiple_of(64)
    }
    let product = [("m", Extent::Bounded(1, 37)), ("k", Extent::Closed(70)), ("j", Extent::Closed(70)), ("n", Extent::Closed(33))];
    for (found, expected) in [
        (reported("convnet", &[]), allocated::<Convnet>()),
        (reported("mlp", &[("batch", Extent::Bounded(1, 8))]), allocated::<Mlp>()),
        (reported("product", &product), allocated::<ClosedProduct>()),
        (reported("recurrent", &[("steps", Extent::Bounded(0, 5)), ("batch", Extent::Bounded(0, 3))]), allocated::<Recurrent>()),
    ] {
        assert_eq!(found, Some(expected));
    }
    assert!(allocated::<Convnet>() > 0 && allocated::<ClosedProduct>() > 0 && allocated::<Recurrent>() > 0);
    assert_eq!(reported("strings", &[]), Some(0));
    assert_eq!(reported("product", &[]), None);
}
