//! One causal attention over a sequence of open length, in several spellings of its mask.

use crate::models::ModelBuilder;
use kiln_kernels::dtype::DType::{Bool, F32};
use kiln_kernels::value::Tensor;

/// Elements of a token's vector.
pub const WIDTH: usize = 8;
/// The longest sequence that the constant triangle is made for.
const LONGEST: usize = 16;

/// The graph up to the length `s` of the sequence and its scores.
fn scores() -> ModelBuilder {
    let int = |x: i64| Tensor::new(&[1], &[x]);
    ModelBuilder::new()
        .opset(18)
        .input("x", F32, ["batch", "length", "8"])
        .initializer("zero", int(0))
        .initializer("one", int(1))
        .initializer("none", Tensor::scalar(0i64))
        .initializer("unit", Tensor::scalar(1i64))
        .initializer("low", Tensor::scalar(f32::MIN))
        .initializer("last", int(-1))
        .initializer("first", int(0))
        .node("Shape", &["x"], &["shape"])
        .node("Gather", &["shape", "unit"], &["s"])
        .node("Unsqueeze", &["s", "zero"], &["n"])
        .node("Transpose", &["x"], &["k"])
        .attr("perm", vec![0i64, 2, 1])
        .node("MatMul", &["x", "k"], &["scores"])
}

fn values(b: ModelBuilder) -> ModelBuilder {
    b.node("Softmax", &["masked"], &["p"]).node("MatMul", &["p", "x"], &["y"]).output("y")
}

/// Positions compared: `where(j <= i, scores, low)`.
fn compared(b: ModelBuilder) -> ModelBuilder {
    b.node("Range", &["none", "s", "unit"], &["i"])
        .node("Unsqueeze", &["i", "last"], &["rows"])
        .node("LessOrEqual", &["i", "rows"], &["seen"])
        .node("Where", &["seen", "scores", "low"], &["masked"])
}

/// Positions that do not see each other filled in: `where(!(i >= j), low, scores)`.
fn filled(b: ModelBuilder) -> ModelBuilder {
    b.node("Range", &["none", "s", "unit"], &["i"])
        .node("Unsqueeze", &["i", "first"], &["columns"])
        .node("Unsqueeze", &["i", "last"], &["rows"])
        .node("GreaterOrEqual", &["rows", "columns"], &["seen"])
        .node("Not", &["seen"], &["hidden"])
        .node("Where", &["hidden", "low", "scores"], &["masked"])
}

/// The part of a matrix of large negative numbers above its diagonal, added.
fn added(b: ModelBuilder) -> ModelBuilder {
    b.node("Concat", &["n", "n"], &["square"])
        .attr("axis", 0)
        .node("Expand", &["low", "square"], &["lows"])
        .node("Trilu", &["lows", "unit"], &["mask"])
        .attr("upper", 1)
        .node("Add", &["scores", "mask"], &["masked"])
}

/// A corner of a constant triangle.
fn sliced(b: ModelBuilder) -> ModelBuilder {
    let x: Vec<u8> = (0..LONGEST * LONGEST).map(|i| u8::from(i % LONGEST <= i / LONGEST)).collect();
    b.initializer("triangle", Tensor::with_dtype(Bool, &[1, LONGEST, LONGEST], &x))
        .initializer("two", Tensor::new(&[1], &[2i64]))
        .node("Slice", &["triangle", "zero", "n", "one"], &["wide"])
        .node("Slice", &["wide", "zero", "n", "two"], &["seen"])
        .node("Where", &["seen", "scores", "low"], &["masked"])
}

/// Every spelling by name.
pub fn spellings() -> Vec<(&'static str, ModelBuilder)> {
    let spelled = |name, spell: fn(ModelBuilder) -> ModelBuilder| (name, values(spell(scores())));
    vec![
        spelled("compared positions", compared),
        spelled("filled positions", filled),
        spelled("an added triangle", added),
        spelled("a sliced triangle", sliced),
    ]
}
