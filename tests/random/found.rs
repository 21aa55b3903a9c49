//! What random models found, each as the smallest model that failed.

use kiln::{Tensor, Value};
use kiln_kernels::dtype::DType::{Bool, F32, I64};
use kiln_tests::compiled::{self, expected};
use kiln_tests::models::{ModelBuilder, SCALAR, tensor_type};
use kiln_tests::samples::noise;

fn random(seed: u64, dims: &[usize]) -> Value {
    Tensor::new(dims, &noise(seed, dims.iter().product())).into()
}

fn dims(v: &Value) -> &[usize] {
    &v.as_tensor().unwrap().dims
}

/// Pools whose windows step over the end of an open axis.
fn pool(op: &str) -> Vec<u8> {
    let m = ModelBuilder::new().input("x", F32, ["1", "1", "h", "2"]).node(op, &["x"], &["y"]).attr("ceil_mode", 1);
    m.attr("kernel_shape", [1i64, 1]).attr("strides", [2i64, 1]).attr("pads", [0i64, 0, 0, 0]).output("y").build()
}

/// SpaceToDepth over open axes.
fn blocks() -> Vec<u8> {
    let m = ModelBuilder::new().input("x", F32, ["1", "3", "h", "w"]).node("SpaceToDepth", &["x"], &["y"]).attr("blocksize", 2);
    m.output("y").build()
}

/// Resize of open axes by a scale, or to a size.
fn resize(to: Option<[i64; 4]>, scale: f32) -> Vec<u8> {
    let m = ModelBuilder::new().input("x", F32, ["1", "2", "h", "w"]);
    let (m, inputs) = match to {
        Some(to) => (m.initializer("to", Tensor::new(&[4], &to)), ["x", "", "", "to"]),
        None => (m.initializer("by", Tensor::new(&[4], &[1.0, 1.0, scale, scale])), ["x", "", "by", ""]),
    };
    m.node("Resize", &inputs, &["y"]).attr("mode", "linear").output("y").build()
}

/// A normalization whose rows are as long as an open axis makes them, and weights that fit at one size.
fn rows() -> Vec<u8> {
    let m = ModelBuilder::new().input("x", F32, ["3", "n"]).initializer("w", Tensor::new(&[4], &[1f32, 2., 3., 4.]));
    m.node("LayerNormalization", &["x", "w"], &["y"]).output("y").build()
}

/// A convolution of what a loop stacks, as often as run time tells.
fn stacked() -> Vec<u8> {
    let body = ModelBuilder::new()
        .graph_name("body")
        .input("i", I64, SCALAR)
        .input("on", Bool, SCALAR)
        .input("s", F32, [2, 3, 5])
        .node("Identity", &["on"], &["go"])
        .node("Tanh", &["s"], &["t"])
        .output_of("go", tensor_type(Bool, SCALAR))
        .output_of("t", tensor_type(F32, [2, 3, 5]))
        .output_of("t", tensor_type(F32, [2, 3, 5]));
    let w = Tensor::new(&[4, 2, 3, 3], &noise(9, 72));
    ModelBuilder::new()
        .input("trips", I64, SCALAR)
        .input("on", Bool, SCALAR)
        .input("x", F32, [2, 3, 5])
        .initializer("w", w)
        .node("Loop", &["trips", "on", "x"], &["last", "all"])
        .attr("body", body)
        .node("Conv", &["all", "w"], &["y"])
        .attr("pads", [1i64, 1, 1, 1])
        .node("Relu", &["y"], &["z"])
        .node("Shape", &["y"], &["shape"])
        .node("Transpose", &["y"], &["turned"])
        .output("y")
        .output("z")
        .output("turned")
        .build()
}

#[test]
fn extents_of_open_axes_are_right() {
    for op in ["MaxPool", "AveragePool"] {
        for (n, windows) in [(1, 1), (2, 1), (3, 2), (6, 3), (7, 4)] {
            assert_eq!(dims(&expected(&pool(op), vec![random(1, &[1, 1, n, 2])])[0]), [1, 1, windows, 2], "{op} of {n}");
        }
    }
    assert_eq!(dims(&expected(&blocks(), vec![random(2, &[1, 3, 4, 6])])[0]), [1, 12, 2, 3]);
    for (by, n, out) in [(1.5, 3, 4), (1.5, 4, 6), (0.75, 5, 3), (0.3, 7, 2)] {
        assert_eq!(dims(&expected(&resize(None, by), vec![random(3, &[1, 2, n, n])])[0]), [1, 2, out, out], "{by} times {n}");
    }
}

#[test]
fn products_of_empty_shapes_are_integers() {
    let m = ModelBuilder::new().input("x", F32, SCALAR).node("Shape", &["x"], &["s"]).node("Mul", &["s", "s"], &["y"]).output("y");
    let y = &expected(&m.build(), vec![Tensor::scalar(1f32).into()])[0];
    assert_eq!((y.as_tensor().unwrap().dtype, dims(y)), (I64, &[0][..]));
}

#[test]
fn what_was_found_is_compiled_right() {
    let dir = compiled::folder(env!("CARGO_TARGET_TMPDIR"), "found");
    let images = |sizes: &[[usize; 2]], c: usize| sizes.iter().map(|[h, w]| vec![random(4, &[1, c, *h, *w])]).collect();
    for op in ["MaxPool", "AveragePool"] {
        compiled::write(&dir.join(op), &pool(op), images(&[[3, 2], [6, 2], [1, 2]], 1));
    }
    compiled::write(&dir.join("blocks"), &blocks(), images(&[[4, 6], [2, 2]], 3));
    compiled::write(&dir.join("ratio"), &resize(None, 1.5), images(&[[3, 5], [8, 2]], 2));
    compiled::write(&dir.join("scale"), &resize(None, 0.3), images(&[[7, 9], [4, 12]], 2));
    compiled::write(&dir.join("size"), &resize(Some([1, 2, 7, 6]), 0.0), images(&[[3, 5], [8, 2]], 2));
    compiled::write(&dir.join("rows"), &rows(), vec![vec![random(5, &[3, 4])]]);
    let loops = |trips: i64| {
        let on = Tensor::with_dtype(Bool, &[], &[1u8]);
        vec![Tensor::scalar(trips).into(), on.into(), random(6, &[2, 3, 5])]
    };
    compiled::write(&dir.join("stacked"), &stacked(), vec![loops(2), loops(5), loops(1)]);
    assert_eq!(compiled::check(&dir), 8);
}
