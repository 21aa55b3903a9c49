//! What need not be computed is not: rows nobody reads, branches that one kernel holds, pixels taken apart and convolved, copies that a
//! view or nothing stands for.

use super::{graph, optimized, run};
use kiln::{Tensor, Value};
use kiln_compiler::ir::Graph;
use kiln_compiler::ops::Op;
use kiln_compiler::rewrite::head;
use kiln_kernels::dtype::DType::{self, F32};
use kiln_tests::models::ModelBuilder;

fn noise(seed: u64, dims: &[usize]) -> Tensor {
    Tensor::new(dims, &kiln_tests::samples::noise(seed, dims.iter().product()))
}
fn heads(g: &Graph) -> Vec<&'static str> {
    g.body.nodes.iter().map(|n| head(&g[*n].op)).collect()
}
/// The operators that a model comes down to; what they compute is what it computes.
fn left(model: ModelBuilder, inputs: &[Value]) -> Graph {
    let bytes = model.build();
    let (after, _) = optimized(&bytes);
    let (a, b) = (run(&graph(&bytes), inputs), run(&after, inputs));
    let scale = a.iter().fold(1e-3f32, |m, v| m.max(v.abs()));
    assert_eq!(a.len(), b.len());
    for (a, b) in a.iter().zip(&b) {
        assert!((a - b).abs() <= 1e-5 * scale, "{a} became {b}");
    }
    after
}
fn image(dims: &[i64]) -> (ModelBuilder, Vec<Value>) {
    let own: Vec<usize> = dims.iter().map(|d| *d as usize).collect();
    (ModelBuilder::new().opset(17).input("x", F32, dims), vec![noise(1, &own).into()])
}
fn conv(b: ModelBuilder, x: &str, y: &str, w: &[usize], pad: i64) -> ModelBuilder {
    let (name, seed) = (format!("{y}.w"), w.iter().sum::<usize>() as u64);
    b.initializer(&name, noise(seed, w)).node("Conv", &[x, &name], &[y]).attr("pads", [pad; 4])
}

#[test]
fn scores_of_the_last_token_are_a_product_of_one_row() {
    let (b, x) = image(&[1, 64, 48]);
    let b = b.initializer("w", noise(2, &[48, 500])).initializer("b", noise(3, &[500])).initializer("last", Tensor::scalar(-1i64));
    let b = b.node("MatMul", &["x", "w"], &["p"]).node("Add", &["p", "b"], &["s"]);
    let g = left(b.node("Gather", &["s", "last"], &["y"]).attr("axis", 1).output("y"), &x);
    let product = g.body.nodes.iter().find(|n| matches!(g[**n].op, Op::MatMul(_))).unwrap();
    assert!(g.shape(g[*product].outputs[0])[1].is(1), "{}", kiln_compiler::ir::print(&g));
}

#[test]
fn branches_of_one_image_are_one_convolution() {
    let (b, x) = image(&[1, 16, 9, 8]);
    let b = conv(conv(b, "x", "a", &[24, 16, 3, 3], 1), "x", "b", &[24, 16, 1, 1], 0);
    let g = left(b.node("Add", &["a", "b"], &["s"]).node("Relu", &["s"], &["y"]).output("y"), &x);
    assert_eq!(heads(&g), ["Conv", "Relu"]);
}

#[test]
fn a_focus_is_a_convolution_with_steps() {
    let (mut b, x) = image(&[1, 3, 16, 12]);
    b = b.initializer("ends", Tensor::new(&[2], &[i64::MAX; 2])).initializer("axes", Tensor::new(&[2], &[2i64, 3]));
    b = b.initializer("steps", Tensor::new(&[2], &[2i64, 2]));
    for (name, at) in [("p", [0i64, 0]), ("q", [1, 0]), ("r", [0, 1]), ("s", [1, 1])] {
        let from = format!("{name}.from");
        b = b.initializer(&from, Tensor::new(&[2], &at)).node("Slice", &["x", &from, "ends", "axes", "steps"], &[name]);
    }
    b = b.node("Concat", &["p", "q", "r", "s"], &["c"]).attr("axis", 1);
    let g = left(conv(b, "c", "y", &[8, 12, 3, 3], 1).output("y"), &x);
    assert_eq!(heads(&g), ["Conv"]);
    let Op::Conv(c) = &g[g.body.nodes[0]].op else { panic!("a Conv") };
    assert_eq!((c.strides.as_slice(), c.pads.as_slice()), (&[2, 2][..], &[2, 2, 2, 2][..]));
}

#[test]
fn a_convolution_of_points_follows_the_pool_and_precedes_the_resize() {
    let (b, x) = image(&[1, 64, 32, 32]);
    let b = conv(b, "x", "c", &[64, 64, 1, 1], 0)
        .node("AveragePool", &["c"], &["y"])
        .attr("kernel_shape", [2i64, 2])
        .attr("strides", [2i64, 2]);
    assert_eq!(heads(&left(b.output("y"), &x)), ["Pool", "Conv"]);
    let (b, x) = image(&[1, 64, 16, 16]);
    let b = b.initializer("scales", Tensor::new(&[4], &[1f32, 1.0, 2.0, 2.0])).node("Resize", &["x", "", "scales"], &["r"]);
    let b = b.attr("coordinate_transformation_mode", "asymmetric").attr("nearest_mode", "floor");
    assert_eq!(heads(&left(conv(b, "r", "y", &[64, 64, 1, 1], 0).output("y"), &x)), ["Conv", "Resize"]);
}

#[test]
fn what_is_taken_apart_and_put_together_is_what_it_was() {
    let (b, x) = image(&[1, 6, 4, 5]);
    let cut = |b: ModelBuilder, name: &str, from: i64, to: i64| {
        let (start, end) = (format!("{name}.from"), format!("{name}.to"));
        let b = b.initializer(&start, Tensor::new(&[1], &[from])).initializer(&end, Tensor::new(&[1], &[to]));
        b.node("Slice", &["x", &start, &end, "axes"], &[name])
    };
    let b = cut(cut(cut(b.initializer("axes", Tensor::new(&[1], &[1i64])), "p", 0, 2), "q", 2, 5), "r", 5, 6);
    let b = b.node("Concat", &["p", "q", "r"], &["c"]).attr("axis", 1).node("Relu", &["c"], &["y"]);
    assert_eq!(heads(&left(b.output("y"), &x)), ["Relu"]);
}

#[test]
fn quantized_values_are_moved_as_they_are() {
    let b = ModelBuilder::new().opset(17).input("q", DType::U8, [1, 4, 6]).initializer("s", Tensor::scalar(0.25f32));
    let b = b.initializer("z", Tensor::new(&[], &[7u8])).node("DequantizeLinear", &["q", "s", "z"], &["d"]);
    let b = b.node("Transpose", &["d"], &["t"]).attr("perm", [0i64, 2, 1]).node("QuantizeLinear", &["t", "s", "z"], &["r"]);
    let (g, _) = optimized(&b.node("Concat", &["r", "r"], &["y"]).attr("axis", 1).output("y").build());
    assert_eq!(heads(&g), ["Transpose", "Concat"]);
}
