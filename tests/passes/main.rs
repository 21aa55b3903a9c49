//! What the optimizer makes of whole networks: one plan whatever the spelling, few kernels, and work that does not grow with depth.

mod less;
mod shapes;

use kiln::{Tensor, Value};
use kiln_compiler::eval::Evaluator;
use kiln_compiler::import::import;
use kiln_compiler::ir::Graph;
use kiln_compiler::kernel::Kernel;
use kiln_compiler::pipeline::{Ablation, optimize};
use kiln_compiler::plan::{Arena, Plan, schedule};
use kiln_compiler::rewrite::Report;
use kiln_compiler::{onnx, rewrite};
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
    schedule(optimized(model).0, Ablation::Nothing)
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
            // The embedding; and behind the layers of a decoder a normalization and the scores.
            let (encoder, decoder) = (plan(&encoder(layers, spelling)), plan(&decoder(layers, spelling)));
            assert_eq!(encoder.kernels().len(), 7 * layers + 1, "{:#?}", outline(&encoder));
            assert_eq!(decoder.kernels().len(), 7 * layers + 4, "{:#?}", outline(&decoder));
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
