//! What the optimizer makes of whole networks: one plan whatever the spelling, few kernels, and work that does not grow with depth.

mod detector;
mod less;
mod orders;
mod shapes;

use kiln::{Tensor, Value};
use kiln_compiler::eval::Evaluator;
use kiln_compiler::import::import;
use kiln_compiler::ir::Graph;
use kiln_compiler::kernel::{Kernel, Stage};
use kiln_compiler::pipeline::{Ablation, optimize};
use kiln_compiler::plan::{Arena, Plan, schedule};
use kiln_compiler::rewrite::Report;
use kiln_compiler::{onnx, rewrite};
use kiln_kernels::dtype::DType::F32;
use kiln_tests::models::ModelBuilder;
use kiln_tests::samples::noise;
use kiln_tests::transformers::{SEQ, Spelling, WIDTH, decoder, encoder, perceptron};

fn graph(model: &[u8]) -> Graph {
    let model = onnx::read(model, None, &Default::default()).unwrap();
    import(&model, &Default::default()).unwrap()
}

fn optimized(model: &[u8]) -> (Graph, Report) {
    let mut g = graph(model);
    let report = optimize(&mut g, Ablation::Nothing, &mut |_, _| {}).unwrap();
    (g, report)
}

fn plan(model: &[u8]) -> Plan {
    schedule(optimized(model).0, Ablation::Nothing, Default::default(), Default::default())
}

/// The kernels of a plan with the types they read and write, in order.
fn outline(p: &Plan) -> Vec<String> {
    let ty = |v: &kiln_compiler::ir::ValueId| p.graph.ty(*v).to_string();
    let line = |s: &&kiln_compiler::plan::KernelStep| {
        let inputs: Vec<String> = s.inputs.iter().flatten().map(ty).collect();
        let outputs: Vec<String> = s.outputs.iter().map(ty).collect();
        format!("{} {} -> {}", s.kernel.name(), inputs.join(", "), outputs.join(", "))
    };
    p.kernels().iter().map(line).collect()
}

fn run(g: &Graph, inputs: &[Value]) -> Vec<f32> {
    let out = Evaluator::new(g, inputs.to_vec()).unwrap().run().unwrap();
    out[0].as_tensor().unwrap().slice::<f32>().to_vec()
}

fn ids() -> Vec<Value> {
    vec![Tensor::new(&[1, SEQ], &[3i64, 14, 15, 9, 26, 5]).into()]
}

#[test]
fn rewriting_keeps_what_networks_compute() {
    let x = Tensor::new(&[SEQ, WIDTH], &kiln_tests::samples::noise(1, SEQ * WIDTH));
    for spelling in [Spelling::Whole, Spelling::Spelled] {
        for (model, inputs) in
            [(encoder(2, spelling), ids()), (decoder(2, spelling), ids()), (perceptron(spelling), vec![x.clone().into()])]
        {
            let (before, after) = (run(&graph(&model), &inputs), run(&optimized(&model).0, &inputs));
            let scale = before.iter().fold(1e-3f32, |m, v| m.max(v.abs()));
            for (a, b) in before.iter().zip(&after) {
                assert!((a - b).abs() <= 1e-5 * scale, "{spelling:?}: {a} became {b}");
            }
        }
    }
}

#[test]
fn spellings_of_one_network_have_one_plan() {
    let builds: [fn(Spelling) -> Vec<u8>; 3] = [perceptron, |s| encoder(2, s), |s| decoder(2, s)];
    for build in builds {
        let [a, b] = [Spelling::Whole, Spelling::Spelled].map(|s| outline(&plan(&build(s))));
        assert_eq!(a, b);
    }
}

#[test]
fn a_layer_of_a_transformer_is_seven_kernels() {
    for spelling in [Spelling::Whole, Spelling::Spelled] {
        for layers in [1, 12] {
            // The embedding, whose sum with the positions a decoder's first normalization takes in; and behind the layers of a decoder a
            // normalization and the scores.
            let (encoder, decoder) = (plan(&encoder(layers, spelling)), plan(&decoder(layers, spelling)));
            assert_eq!(encoder.kernels().len(), 7 * layers + 1, "{:#?}", outline(&encoder));
            assert_eq!(decoder.kernels().len(), 7 * layers + 3, "{:#?}", outline(&decoder));
            for p in [encoder, decoder] {
                let Arena::Fixed { bytes, bound, .. } = p.arena else { panic!("every extent is closed") };
                assert!(bytes as f64 <= 1.02 * bound as f64, "an arena of {bytes} bytes for {bound}");
            }
        }
    }
}

#[test]
fn equal_layers_are_explored_once() {
    let explored = |layers: usize| optimized(&decoder(layers, Spelling::Whole)).1.explored;
    let (few, many) = (explored(6), explored(12));
    let terms = |e: &[rewrite::Explored]| e.iter().map(|e| e.terms).sum::<usize>();
    let count = |e: &[rewrite::Explored]| e.iter().map(|e| e.count).sum::<usize>();
    assert!(count(&many) > count(&few), "deeper networks have more regions");
    assert_eq!((few.len(), terms(&few)), (many.len(), terms(&many)), "but none that differ from those before");
}

#[test]
fn work_grows_no_faster_than_depth() {
    for spelling in [Spelling::Whole, Spelling::Spelled] {
        let [half, whole] = [16, 32].map(|layers| optimized(&decoder(layers, spelling)).1);
        // What stands around the layers is there once, so that twice as many cost less than twice the work.
        assert!(whole.work < 2 * half.work, "{spelling:?}: {} for sixteen layers, {} for thirty-two", half.work, whole.work);
        let terms = |r: &Report| r.explored.iter().map(|e| e.terms).sum::<usize>();
        assert_eq!((half.explored.len(), terms(&half)), (whole.explored.len(), terms(&whole)), "{spelling:?}");
    }
}

/// The kernels of a plan with all that they compute, but for the names of values.
fn computed(p: &Plan) -> Vec<String> {
    let expr = |k: &Kernel| match k {
        Kernel::Map { expr, .. } => expr.to_string(),
        Kernel::Rows { head, tail, .. } => {
            let part = |s: &Option<Stage>| s.as_ref().map_or(String::new(), |s| s.expr.to_string());
            format!("{} ; {}", part(head), part(tail))
        }
        k => k.epilogue().map_or(String::new(), |e| e.expr.to_string()),
    };
    outline(p).into_iter().zip(p.kernels()).map(|(line, s)| format!("{line}: {}", expr(&s.kernel))).collect()
}

/// A model of one input from lines `result = Operator operand operand ..`; a numeral is a constant. An activation stands behind a product.
fn lines(text: &[&str]) -> Vec<u8> {
    let weight = Tensor::new(&[WIDTH, WIDTH], &noise(9, WIDTH * WIDTH));
    let mut b =
        ModelBuilder::new().opset(24).input("in", F32, [3, WIDTH as i64]).initializer("w", weight).node("MatMul", &["in", "w"], &["x"]);
    b = b.initializer("axes", Tensor::new(&[1], &[-1i64]));
    for line in text {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [result, _, op, operands @ ..] = &words[..] else { panic!("{line}") };
        for c in operands.iter().filter(|c| c.parse::<f32>().is_ok()) {
            b = b.initializer(&format!("{result}{c}"), Tensor::scalar(c.parse::<f32>().unwrap()));
        }
        let named = |c: &&str| if c.parse::<f32>().is_ok() { format!("{result}{c}") } else { c.to_string() };
        let (operands, attributes): (Vec<&str>, Vec<&str>) = operands.iter().partition(|o| !o.contains('='));
        let names: Vec<String> = operands.iter().map(named).collect();
        b = b.node(op, &names.iter().map(String::as_str).collect::<Vec<_>>(), &[result]);
        for a in attributes {
            let (name, value) = a.split_once('=').unwrap();
            b = match (value.parse::<i64>(), value.parse::<f32>()) {
                (Ok(x), _) => b.attr(name, x),
                (_, Ok(x)) => b.attr(name, x),
                _ => b.attr(name, value),
            };
        }
    }
    b.output("y").build()
}

/// Spellings of each activation.
const ACTIVATIONS: &[&[&[&str]]] = &[
    // GELU.
    &[
        &["y = Gelu x"],
        &["h = Mul x 0.5", "s = Div x 1.4142135", "e = Erf s", "o = Add e 1", "y = Mul h o"],
        &["s = Div x 1.4142135", "e = Erf s", "o = Add 1 e", "p = Mul x o", "y = Mul 0.5 p"],
        &["s = Mul x 0.70710677", "e = Erf s", "o = Add e 1", "h = Mul o 0.5", "y = Mul h x"],
        &["s = Mul 0.70710677 x", "e = Erf s", "o = Add e 1", "p = Mul o x", "y = Div p 2"],
    ],
    &[
        &["y = Gelu x approximate=tanh"],
        &[
            "c = Pow x 3",
            "k = Mul c 0.044715",
            "s = Add x k",
            "a = Mul s 0.7978846",
            "t = Tanh a",
            "o = Add t 1",
            "h = Mul x 0.5",
            "y = Mul h o",
        ],
        &[
            "q = Mul x x",
            "c = Mul x q",
            "k = Mul 0.044715 c",
            "s = Add k x",
            "a = Mul 0.7978846 s",
            "t = Tanh a",
            "o = Add 1 t",
            "p = Mul x o",
            "y = Mul 0.5 p",
        ],
        &[
            "q = Mul x x",
            "k = Mul q 0.044715",
            "s = Add k 1",
            "m = Mul x 0.7978846",
            "a = Mul m s",
            "t = Tanh a",
            "o = Add t 1",
            "h = Mul o 0.5",
            "y = Mul x h",
        ],
    ],
    // SiLU, and with a factor.
    &[&["y = Swish x"], &["s = Sigmoid x", "y = Mul x s"], &["s = Sigmoid x", "y = Mul s x"]],
    &[
        &["y = Swish x alpha=1.702"],
        &["m = Mul x 1.702", "s = Sigmoid m", "y = Mul x s"],
        &["m = Mul 1.702 x", "s = Sigmoid m", "y = Mul s x"],
    ],
    &[
        &["y = HardSwish x"],
        &["h = HardSigmoid x alpha=0.16666667", "y = Mul x h"],
        &["a = Add x 3", "c = Clip a 0 6", "p = Mul x c", "y = Div p 6"],
        &["a = Add 3 x", "c = Clip a 0 6", "h = Div c 6", "y = Mul h x"],
        &["a = Add x 3", "c = Clip a 0 6", "h = Mul c 0.16666667", "y = Mul x h"],
    ],
    &[
        &["y = Mish x"],
        &["s = Softplus x", "t = Tanh s", "y = Mul x t"],
        &["s = Softplus x", "t = Tanh s", "y = Mul t x"],
        &["e = Exp x", "o = Add e 1", "s = Log o", "t = Tanh s", "y = Mul x t"],
    ],
];

#[test]
fn spellings_of_one_activation_have_one_plan() {
    for spellings in ACTIVATIONS {
        let builds: Vec<Vec<u8>> = spellings.iter().map(|s| lines(s)).collect();
        let first = computed(&plan(&builds[0]));
        assert_eq!(first.len(), 1, "{first:#?}");
        for (model, spelling) in builds.iter().zip(*spellings) {
            assert_eq!(computed(&plan(model)), first, "{spelling:#?}");
        }
    }
}

/// Spellings of rows divided by their norms: one operator, what `F.normalize` is exported as, and by roots.
const NORMS: &[&[&str]] = &[
    &["l = ReduceL2 x axes", "m = Max l 1e-12", "y = Div x m"],
    &["l = ReduceL2 x axes", "m = Clip l 1e-12", "s = Shape x", "e = Expand m s", "y = Div x e"],
    &["l = ReduceL2 x axes", "m = Clip l 1e-12 3.4028235e38", "s = Shape x", "e = Expand m s", "y = Div x e"],
    &["q = Mul x x", "t = ReduceSum q axes", "l = Sqrt t", "m = Clip l 1e-12", "y = Div x m"],
    &["a = Abs x", "q = Pow a 2", "t = ReduceSum q axes", "l = Pow t 0.5", "m = Max l 1e-12", "y = Div x m"],
    &["q = Mul x x", "t = ReduceSum q axes", "m = Max t 1e-24", "l = Sqrt m", "y = Div x l"],
    &["q = Mul x x", "t = ReduceSumSquare x axes", "m = Max t 1e-24", "l = Sqrt m", "i = Reciprocal l", "y = Mul i x"],
    &["t = ReduceSumSquare x axes keepdims=0", "m = Max 1e-24 t", "l = Sqrt m", "u = Unsqueeze l axes", "y = Div x u"],
];

#[test]
fn spellings_of_one_norm_have_one_plan() {
    let builds: Vec<Vec<u8>> = NORMS.iter().map(|s| lines(s)).collect();
    let first = computed(&plan(&builds[0]));
    assert_eq!(first.len(), 2, "a product and the rows behind it: {first:#?}");
    assert!(first[1].starts_with("lp norm"), "{first:#?}");
    for (model, spelling) in builds.iter().zip(NORMS) {
        assert_eq!(computed(&plan(model)), first, "{spelling:#?}");
    }
    // The operator has no floor: it is another kernel of the same kind, with what stands around it inside.
    let whole = computed(&plan(&lines(&["n = LpNormalization x", "s = Mul n 16", "y = Tanh s"])));
    assert!(whole.len() == 2 && whole[1].starts_with("lp norm"), "{whole:#?}");
}

#[test]
fn a_causal_mask_is_no_tensor_however_it_is_spelled() {
    for (name, model) in kiln_tests::causal::spellings() {
        let plan = plan(&model.build());
        let reaches: Vec<Option<i64>> = (plan.kernels().iter())
            .filter_map(|s| match &s.kernel {
                Kernel::Attend { reach, mask: None, .. } => Some(reach.as_int()),
                _ => None,
            })
            .collect();
        assert_eq!((plan.kernels().len(), reaches), (1, vec![Some(0)]), "{name}: {:#?}", outline(&plan));
    }
}
