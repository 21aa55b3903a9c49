//! Graphs as text: what is printed after any pass reads back as the same graph, and computes the same.

use kiln_compiler::eval::Evaluator;
use kiln_compiler::ir::{Constants, Graph, parse, print, verify};
use kiln_compiler::{fusion, import, onnx, pipeline};
use kiln_kernels::dtype::DType;
use kiln_kernels::value::{Tensor, Value};
use kiln_tests::{hostile, models::ModelBuilder, samples};

fn graph(model: &[u8]) -> Graph {
    let model = onnx::read(model, None, &Default::default()).unwrap();
    import::import(&model, &Default::default()).unwrap()
}

/// The graph that its text stands for.
fn round_trip(g: &Graph) -> Graph {
    let text = print(g);
    let back = parse(&text, &Constants::of(g)).unwrap_or_else(|e| panic!("{e}\n{text}"));
    assert_eq!(print(&back), text);
    verify(&back).unwrap();
    back
}

/// The graph after import and after each pass.
fn stages(model: &[u8]) -> Vec<Graph> {
    let mut g = graph(model);
    let mut all = vec![g.clone()];
    pipeline::optimize(&mut g, pipeline::Ablation::Nothing, &mut |_, g| all.push(g.clone())).unwrap();
    all
}

fn inputs(sample: &str) -> Vec<Value> {
    let noise = |seed, dims: &[usize]| Tensor::new(dims, &samples::noise(seed, dims.iter().product())).into();
    match sample {
        "mlp" => vec![noise(1, &[3, 12])],
        "attention" => {
            let shapes: [&[usize]; 5] = [&[2, 4, 3, 9], &[2, 2, 6, 9], &[2, 2, 6, 5], &[3, 6], &[1, 3, 20, 8]];
            shapes.iter().map(|s| noise(6, s)).collect()
        }
        "picked" => vec![noise(9, &[4, 1, 37]), Tensor::new(&[4], &[3i64, -1, 0, 3]).into()],
        "recurrent" => vec![noise(8, &[5, 2, 3])],
        "quantized" => vec![noise(7, &[2, 3, 21])],
        "product" => vec![noise(4, &[2, 3]), noise(5, &[3, 4])],
        "tied" => vec![Tensor::new(&[3], &[0i64, 516, -1]).into()],
        "strings" => {
            let words = ["a", "", "ü", "long word", "e", "f"].map(String::from).to_vec();
            vec![Tensor::strings(&[2, 3], words).into(), Tensor::new(&[2], &[1i64, -2]).into()]
        }
        "convnet" => vec![noise(2, &[1, 3, 17, 19])],
        "cached" => {
            let ids = |dims: &[usize]| Tensor::new(dims, &(0..dims[0] * dims[1]).map(|i| i as i64 % 11).collect::<Vec<_>>()).into();
            let past = [&[2, 8][..], &[2, 2, 5, 4], &[2, 2, 5, 4], &[2, 2, 4, 5], &[2, 5, 2, 4], &[2, 8]];
            let past = past.iter().map(|s| noise(11, s));
            std::iter::once(ids(&[2, 3])).chain(past).chain([ids(&[2, 5])]).collect()
        }
        "inverted" => vec![noise(2, &[2, 3, 40, 44])],
        "decoder" => vec![noise(2, &[2, 3, 9, 11])],
        "control" => vec![
            Tensor::new(&[4], &[1.5f32, -2.0, 0.0, 4.0]).into(),
            Tensor::with_dtype(DType::Bool, &[], &[1u8]).into(),
            Tensor::scalar(3i64).into(),
            Tensor::strings(&[2], vec!["Kiln".into(), "äé".into()]).into(),
        ],
        "extents" => {
            let shapes: [&[usize]; 32] = [
                &[2, 3],
                &[4, 3],
                &[2, 6],
                &[3, 4],
                &[2, 3],
                &[2, 3],
                &[3],
                &[3],
                &[5],
                &[3],
                &[6],
                &[4],
                &[6],
                &[4],
                &[6],
                &[4],
                &[1, 3, 8],
                &[2, 3, 3],
                &[2, 3],
                &[3],
                &[3],
                &[3],
                &[3],
                &[3],
                &[2, 3],
                &[3],
                &[1, 3, 4],
                &[3],
                &[3, 4],
                &[9, 4],
                &[2, 3],
                &[3, 4],
            ];
            shapes.iter().map(|s| noise(3, s)).collect()
        }
        other => panic!("{other} needs inputs here"),
    }
}

#[test]
fn samples_read_back_and_compute_the_same() {
    for (name, build) in samples::ALL {
        for g in stages(&build()) {
            let back = round_trip(&g);
            let want = Evaluator::new(&g, inputs(name)).unwrap().run().unwrap();
            assert_eq!(Evaluator::new(&back, inputs(name)).unwrap().run().unwrap(), want, "{name}");
        }
    }
}

#[test]
fn models_that_mean_harm_read_back() {
    for case in hostile::corpus() {
        let Ok(model) = onnx::read(&case.model, None, &Default::default()) else { continue };
        let Ok(g) = import::import(&model, &Default::default()) else { continue };
        round_trip(&g);
    }
}

/// Which operators share a kernel, and the expression at its end.
fn clusters(g: &Graph) -> Vec<(Vec<&'static str>, String)> {
    let names = |c: &fusion::Cluster| c.nodes.iter().map(|n| g[*n].op.name()).collect();
    let tail = |c: &fusion::Cluster| c.tail.as_ref().map_or(String::new(), |t| t.expr.to_string());
    fusion::cluster(g, &g.body, true).iter().map(|c| (names(c), tail(c))).collect()
}

#[test]
fn text_without_its_model_fuses_alike() {
    for (name, build) in samples::ALL {
        for g in stages(&build()) {
            let alone = parse(&print(&g), &Constants::made_up()).unwrap();
            verify(&alone).unwrap();
            assert_eq!(clusters(&alone), clusters(&g), "{name}");
        }
    }
}

#[test]
fn a_product_takes_what_follows_it_into_its_kernel() {
    let text = r#"
dim s0 "batch" in 1.. from input 0 axis 0
input v0 "x": f32[s0, 64]
v1: f32[s0, 32] = MatMul(v0, f32[64, 32]@01)
v2: f32[s0, 32] = Add(v1, f32(0.5)) {add(x0, x1)}
v3: f32[s0, 32] = Relu(v2) {max(x0, 0.0)}
output v3 "y"
"#;
    let g = parse(text, &Constants::made_up()).unwrap();
    let [(nodes, tail)] = &clusters(&g)[..] else { panic!("one kernel") };
    assert_eq!((&nodes[..], tail.as_str()), (&["MatMul", "Pointwise", "Pointwise"][..], "max(add(x0, 0.5), 0.0)"));
}

#[test]
fn changed_text_is_an_error_or_another_graph() {
    for (_, build) in samples::ALL {
        let g = graph(&build());
        let (text, constants) = (print(&g), Constants::of(&g));
        // Each text is tried at some five hundred places.
        for (i, _) in text.char_indices().step_by(text.len().div_ceil(500)) {
            let rest = text[i..].chars().next().map_or(i, |c| i + c.len_utf8());
            let changed = ["", "9", "(", "v1", "\n"].map(|mark| format!("{}{mark}{}", &text[..i], &text[rest..]));
            for text in changed.iter().map(String::as_str).chain([&text[..i]]) {
                match parse(text, &constants) {
                    Ok(g) => assert_eq!(verify(&g), Ok(())),
                    Err(e) => assert!((1..=text.lines().count().max(1)).contains(&e.line), "{e}"),
                }
            }
        }
    }
}

#[test]
fn names_of_any_kind_read_back() {
    for name in hostile::NAMES {
        let (input, output) = (format!("{name}0"), format!("{name}1"));
        let model = ModelBuilder::new().input(&input, DType::F32, ["n", "3"]).node("Relu", &[&input], &[&output]).named(name);
        let back = round_trip(&graph(&model.output(&output).build()));
        assert_eq!((&back.inputs[0].name, &back.outputs[0].name), (&input, &output));
        assert_eq!(back.origins[0].name, *name);
    }
}
