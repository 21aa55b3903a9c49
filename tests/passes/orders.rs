//! Orders of axes: a copy stands where it costs less than reading what lies otherwise, and nowhere else.

use super::plan;
use kiln::Tensor;
use kiln_kernels::dtype::DType::F32;
use kiln_tests::models::ModelBuilder;
use kiln_tests::samples::noise;

/// The names of a model's kernels, copies among them.
fn kernels(b: ModelBuilder) -> Vec<&'static str> {
    plan(&b.build()).kernels().iter().map(|s| s.kernel.name()).collect()
}

fn weight(dims: [usize; 4]) -> Tensor {
    Tensor::new(&dims, &noise(1, dims.iter().product()))
}

/// An input of 32 channels, a depthwise and a pointwise convolution's weights, and pads for windows of three.
fn image() -> ModelBuilder {
    let b = ModelBuilder::new().opset(18).input("x", F32, [1, 32, 14, 14]);
    b.initializer("deep", weight([32, 1, 3, 3])).initializer("point", weight([48, 32, 1, 1]))
}

fn pool(b: ModelBuilder, x: &str, y: &str) -> ModelBuilder {
    b.node("MaxPool", &[x], &[y]).attr("kernel_shape", [3i64; 2]).attr("pads", [1i64; 4])
}

#[test]
fn windows_over_rows_are_turned_first() {
    // A convolution reads rows about as well, a pool and a depthwise convolution do not; all write channels last.
    let b = image().node("Conv", &["x", "point"], &["y"]);
    assert_eq!(kernels(b.output("y")), ["conv", "copy"]);
    let b = image().node("Conv", &["x", "deep"], &["y"]).attr("group", 32).attr("pads", [1i64; 4]);
    assert_eq!(kernels(b.output("y")), ["copy", "depthwise conv", "copy"]);
    let b = pool(image(), "x", "p").node("Conv", &["p", "point"], &["y"]);
    assert_eq!(kernels(b.output("y")), ["copy", "pool", "conv", "copy"]);
    // One copy serves all who want it.
    let b = pool(image(), "x", "p").node("Conv", &["x", "deep"], &["c"]).attr("group", 32).attr("pads", [1i64; 4]);
    let b = b.node("Tanh", &["c"], &["t"]).node("GlobalAveragePool", &["t"], &["y"]).node("GlobalAveragePool", &["p"], &["z"]);
    assert_eq!(kernels(b.output("y").output("z")).iter().filter(|k| **k == "copy").count(), 1);
}

#[test]
fn local_responses_lie_as_their_neighbours_do() {
    let b = image().node("Conv", &["x", "point"], &["c"]).node("LRN", &["c"], &["r"]).attr("size", 5);
    let b = pool(b, "r", "p").node("GlobalAveragePool", &["p"], &["y"]);
    assert_eq!(kernels(b.output("y")), ["conv", "local response", "pool", "global mean"]);
}

#[test]
fn norms_over_channels_are_rows_of_pixels() {
    let b = image().initializer("axis", Tensor::new(&[1], &[1i64])).initializer("eps", Tensor::scalar(1e-6f32));
    let b = b.initializer("g", Tensor::new(&[48, 1, 1], &noise(2, 48))).initializer("h", Tensor::new(&[48, 1, 1], &noise(3, 48)));
    let b = b.node("Conv", &["x", "point"], &["c"]).node("ReduceMean", &["c", "axis"], &["m"]).node("Sub", &["c", "m"], &["d"]);
    let b = b.node("Mul", &["d", "d"], &["s"]).node("ReduceMean", &["s", "axis"], &["v"]).node("Add", &["v", "eps"], &["e"]);
    let b = b.node("Sqrt", &["e"], &["r"]).node("Div", &["d", "r"], &["n"]).node("Mul", &["n", "g"], &["t"]);
    let b = b.node("Add", &["t", "h"], &["y"]).initializer("back", weight([32, 48, 1, 1])).node("Conv", &["y", "back"], &["z"]);
    assert_eq!(kernels(b.node("GlobalAveragePool", &["z"], &["out"]).output("out")), ["conv", "layer norm", "conv", "global mean"]);
}

#[test]
fn values_of_exporters_that_have_channels_last_are_never_turned() {
    let b = ModelBuilder::new().opset(18).input("nhwc", F32, [1, 14, 14, 32]).initializer("deep", weight([32, 1, 3, 3]));
    let b = b.initializer("point", weight([48, 32, 1, 1]));
    let b = b.node("Tanh", &["nhwc"], &["t"]).node("Transpose", &["t"], &["x"]).attr("perm", [0i64, 3, 1, 2]);
    let b = pool(b, "x", "p").node("Conv", &["p", "deep"], &["d"]).attr("group", 32).attr("pads", [1i64; 4]);
    let b = b.node("Conv", &["d", "point"], &["y"]).node("Transpose", &["y"], &["out"]).attr("perm", [0i64, 2, 3, 1]);
    assert_eq!(kernels(b.output("out")), ["map", "pool", "depthwise conv", "conv"]);
}

#[test]
fn halves_of_channels_lie_as_the_whole_does() {
    let b = image().initializer("halves", Tensor::new(&[2], &[16i64, 16])).initializer("half", weight([16, 16, 1, 1]));
    let b = b.node("Conv", &["x", "point"], &["c"]).node("Relu", &["c"], &["r"]).initializer("parts", Tensor::new(&[2], &[16i64, 32]));
    let b = b.node("Split", &["r", "parts"], &["a", "b"]).attr("axis", 1);
    let b = pool(b, "a", "p").node("GlobalAveragePool", &["p"], &["y"]).node("Conv", &["a", "half"], &["d"]);
    let b = b.node("GlobalAveragePool", &["d"], &["z"]).node("GlobalAveragePool", &["b"], &["w"]);
    let found = kernels(b.output("y").output("z").output("w"));
    assert!(!found.contains(&"copy"), "{found:?}");
}
