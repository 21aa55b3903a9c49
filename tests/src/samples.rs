//! Small models that several tests compile: the files in `tests/models/` are exactly what these functions build.

use crate::models::{ModelBuilder, SCALAR, sequence_type, tensor_type};
use kiln_kernels::dtype::DType::{Bool, F32, I64, Str};
use kiln_kernels::value::Tensor;

/// Numbers that look random and are the same on every machine.
pub struct Rng(u64);

impl Rng {
    /// Numbers that differ with the seed.
    pub fn new(seed: u64) -> Rng {
        Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }
    /// Sixty-four bits, of which the upper ones are the better.
    fn step(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        self.0
    }
    /// A number below `n`, or 0.
    pub fn below(&mut self, n: usize) -> usize {
        (self.step() >> 33) as usize % n.max(1)
    }
    /// One of several.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// Numbers between -1 and 1 that look random and are the same on every machine.
pub fn noise(seed: u64, n: usize) -> Vec<f32> {
    let mut rng = Rng::new(seed);
    (0..n).map(|_| ((rng.step() >> 40) as f32 / (1u64 << 23) as f32) - 1.0).collect()
}

fn weight(seed: u64, dims: &[usize]) -> Tensor {
    Tensor::new(dims, &noise(seed, dims.iter().product()))
}

/// Two layers with an open batch: Gemm, Relu, Gemm, Softmax.
pub fn mlp() -> Vec<u8> {
    ModelBuilder::new()
        .opset(17)
        .input("x", F32, ["batch", "12"])
        .initializer("w1", weight(1, &[12, 20]))
        .initializer("b1", weight(2, &[20]))
        .initializer("w2", weight(3, &[5, 20]))
        .initializer("b2", weight(4, &[5]))
        .node("Gemm", &["x", "w1", "b1"], &["h"])
        .node("Relu", &["h"], &["r"])
        .node("Gemm", &["r", "w2", "b2"], &["s"])
        .attr("transB", 1)
        .node("Softmax", &["s"], &["probabilities"])
        .output("probabilities")
        .build()
}

/// Convolutions of odd channels with a residual, a pool, a depthwise one and a classifier.
pub fn convnet() -> Vec<u8> {
    ModelBuilder::new()
        .opset(17)
        .input("image", F32, [1, 3, 17, 19])
        .initializer("w1", weight(5, &[11, 3, 3, 3]))
        .initializer("b1", weight(6, &[11]))
        .initializer("w2", weight(7, &[11, 11, 3, 3]))
        .initializer("w3", weight(8, &[11, 1, 5, 5]))
        .initializer("scale", weight(9, &[11]))
        .initializer("shift", weight(10, &[11]))
        .initializer("mean", weight(11, &[11]))
        .initializer("var", Tensor::new(&[11], &[0.9f32; 11]))
        .initializer("w4", weight(12, &[11, 7]))
        .node("Conv", &["image", "w1", "b1"], &["c1"])
        .attr("strides", vec![2i64, 2])
        .attr("pads", vec![1i64, 1, 1, 1])
        .node("Relu", &["c1"], &["r1"])
        .node("Conv", &["r1", "w2"], &["c2"])
        .attr("pads", vec![1i64, 1, 1, 1])
        .node("BatchNormalization", &["c2", "scale", "shift", "mean", "var"], &["n2"])
        .node("Add", &["n2", "r1"], &["a2"])
        .node("Sigmoid", &["a2"], &["s2"])
        .node("Mul", &["a2", "s2"], &["m2"])
        .node("MaxPool", &["m2"], &["p2"])
        .attr("kernel_shape", vec![3i64, 3])
        .attr("strides", vec![2i64, 2])
        .attr("pads", vec![1i64, 1, 1, 1])
        .node("Conv", &["p2", "w3"], &["c3"])
        .attr("group", 11)
        .attr("pads", vec![2i64, 2, 2, 2])
        .node("GlobalAveragePool", &["c3"], &["g"])
        .node("Flatten", &["g"], &["f"])
        .node("MatMul", &["f", "w4"], &["logits"])
        .output("logits")
        .build()
}

/// Two blocks of a mobile network behind a stem: 1x1, depthwise and 1x1 convolutions with clamps and a residual, then 1x1 and depthwise with SiLU.
pub fn inverted() -> Vec<u8> {
    ModelBuilder::new()
        .opset(17)
        .input("image", F32, [2, 3, 40, 44])
        .initializer("w0", weight(39, &[8, 3, 3, 3]))
        .initializer("low", Tensor::new(&[], &[0f32]))
        .initializer("high", Tensor::new(&[], &[6f32]))
        .initializer("w1", weight(40, &[96, 8, 1, 1]))
        .initializer("b1", weight(41, &[96]))
        .initializer("w2", weight(42, &[96, 1, 3, 3]))
        .initializer("b2", weight(43, &[96]))
        .initializer("w3", weight(44, &[8, 96, 1, 1]))
        .initializer("w4", weight(45, &[80, 8, 1, 1]))
        .initializer("w5", weight(46, &[80, 1, 5, 5]))
        .node("Conv", &["image", "w0"], &["c0"])
        .attr("pads", vec![1i64, 1, 1, 1])
        .node("Conv", &["c0", "w1", "b1"], &["c1"])
        .node("Clip", &["c1", "low", "high"], &["r1"])
        .node("Conv", &["r1", "w2", "b2"], &["c2"])
        .attr("group", 96)
        .attr("pads", vec![1i64, 1, 1, 1])
        .node("Clip", &["c2", "low", "high"], &["r2"])
        .node("Conv", &["r2", "w3"], &["c3"])
        .node("Add", &["c3", "c0"], &["a3"])
        .node("Conv", &["a3", "w4"], &["c4"])
        .node("Relu", &["c4"], &["r4"])
        .node("Conv", &["r4", "w5"], &["c5"])
        .attr("group", 80)
        .attr("strides", vec![2i64, 2])
        .attr("pads", vec![2i64, 2, 2, 2])
        .node("Sigmoid", &["c5"], &["s5"])
        .node("Mul", &["c5", "s5"], &["m5"])
        .output("a3")
        .output("m5")
        .build()
}

/// What decoders of images are made of: transposed convolutions behind which are a normalization and a Relu, with groups, and cut;
/// linear, cubic and nearest resizing of many channels and of few; and taps that meet nothing but pads.
pub fn decoder() -> Vec<u8> {
    let scales = |h: f32, w: f32| Tensor::new(&[4], &[1.0, 1.0, h, w]);
    ModelBuilder::new()
        .opset(17)
        .input("image", F32, [2, 3, 9, 11])
        .initializer("w0", weight(60, &[32, 3, 3, 3]))
        .initializer("w1", weight(61, &[32, 24, 2, 2]))
        .initializer("scale", weight(62, &[24]))
        .initializer("shift", weight(63, &[24]))
        .initializer("mean", weight(64, &[24]))
        .initializer("var", Tensor::new(&[24], &[0.8f32; 24]))
        .initializer("w2", weight(65, &[24, 10, 3, 5]))
        .initializer("b2", weight(66, &[20]))
        .initializer("w3", weight(67, &[19, 20, 3, 3]))
        .initializer("twice", scales(2.0, 2.0))
        .initializer("more", scales(1.5, 2.3))
        .initializer("whole", scales(4.0, 4.0))
        .node("Conv", &["image", "w0"], &["c0"])
        .attr("pads", vec![12i64, 1, 12, 1])
        .attr("dilations", vec![12i64, 1])
        .node("ConvTranspose", &["c0", "w1"], &["t1"])
        .attr("strides", vec![2i64, 2])
        .node("BatchNormalization", &["t1", "scale", "shift", "mean", "var"], &["n1"])
        .node("Relu", &["n1"], &["r1"])
        .node("ConvTranspose", &["r1", "w2", "b2"], &["t2"])
        .attr("group", 2)
        .attr("strides", vec![1i64, 3])
        .attr("pads", vec![1i64, 2, 0, 1])
        .attr("output_padding", vec![0i64, 2])
        .node("Resize", &["t2", "", "twice"], &["z2"])
        .attr("mode", "linear")
        .attr("coordinate_transformation_mode", "pytorch_half_pixel")
        .node("Conv", &["z2", "w3"], &["c3"])
        .attr("pads", vec![1i64, 1, 1, 1])
        .node("Resize", &["c3", "", "more"], &["y"])
        .attr("mode", "cubic")
        .attr("coordinate_transformation_mode", "align_corners")
        .node("Resize", &["image", "", "more"], &["small"])
        .attr("mode", "linear")
        .attr("coordinate_transformation_mode", "half_pixel")
        .node("Resize", &["image", "", "whole"], &["large"])
        .attr("mode", "nearest")
        .attr("coordinate_transformation_mode", "half_pixel")
        .attr("nearest_mode", "ceil")
        .output("y")
        .output("small")
        .output("large")
        .build()
}

/// Control flow and data-dependent shapes: If, Loop, NonZero into MatMul, a sequence and a string operator.
pub fn control() -> Vec<u8> {
    let yes = ModelBuilder::new().graph_name("yes").node("Relu", &["x"], &["y1"]).output("y1");
    let no = ModelBuilder::new().graph_name("no").node("Neg", &["x"], &["y2"]).output("y2");
    let body = ModelBuilder::new()
        .graph_name("body")
        .input("i", I64, SCALAR)
        .input("go", Bool, SCALAR)
        .input("acc", F32, ["4"])
        .node("Add", &["acc", "x"], &["next"])
        .node("Identity", &["go"], &["on"])
        .node("Identity", &["next"], &["slice"])
        .output("on")
        .output("next")
        .output("slice");
    ModelBuilder::new()
        .opset(17)
        .input("x", F32, ["4"])
        .input("flag", Bool, SCALAR)
        .input("trips", I64, SCALAR)
        .input("words", Str, ["n"])
        .initializer("zero", Tensor::new(&[4], &[0f32; 4]))
        .initializer("one", Tensor::scalar(1i64))
        .node("If", &["flag"], &["branch"])
        .attr("then_branch", yes)
        .attr("else_branch", no)
        .node("Loop", &["trips", "", "zero"], &["sum", "steps"])
        .attr("body", body)
        .node("NonZero", &["branch"], &["where"])
        .node("Cast", &["where"], &["where_f"])
        .attr("to", 1)
        .node("Transpose", &["where_f"], &["column"])
        .attr("perm", vec![1i64, 0])
        .node("MatMul", &["where_f", "column"], &["squares"])
        .node("SequenceConstruct", &["branch", "sum"], &["pair"])
        .node("SequenceAt", &["pair", "one"], &["second"])
        .node("StringNormalizer", &["words"], &["upper"])
        .attr("case_change_action", "UPPER")
        .attr("is_case_sensitive", 1)
        .output("branch")
        .output("sum")
        .output("steps")
        .output("squares")
        .output("second")
        .output("upper")
        .output_of("pair", sequence_type(tensor_type(F32, ["4"])))
        .build()
}

/// Operators side by side, each on extents of its own that only run time can compare. A node is named like its result.
pub fn extents() -> Vec<u8> {
    let pair =
        |m: ModelBuilder, name: &str, a: &[&str], b: &[&str]| m.input(&format!("{name}_a"), F32, a).input(&format!("{name}_b"), F32, b);
    let mut m = ModelBuilder::new().opset(17);
    m = pair(m, "concat", &["c0", "c1"], &["c2", "c3"]);
    m = m.node("Concat", &["concat_a", "concat_b"], &["concat"]).attr("axis", 0).named("concat").output("concat");
    m = pair(m, "reshape", &["r0", "r1"], &["r2", "r3"]).node("Shape", &["reshape_b"], &["reshape_to"]);
    m = m.node("Reshape", &["reshape_a", "reshape_to"], &["reshape"]).named("reshape").output("reshape");
    m = pair(m, "expand", &["e0", "e1"], &["e2", "e3"]).node("Shape", &["expand_b"], &["expand_to"]);
    m = m.node("Expand", &["expand_a", "expand_to"], &["expand"]).named("expand").output("expand");
    m = pair(m, "repeat", &["3"], &["e4"]).node("Shape", &["repeat_b"], &["repeat_to"]);
    m = m.node("Expand", &["repeat_a", "repeat_to"], &["repeat"]).named("repeat").output("repeat");
    m = pair(m, "split", &["p0"], &["p1"]).initializer("two", Tensor::new(&[1], &[2i64])).node("Shape", &["split_b"], &["split_second"]);
    m = m.node("Concat", &["two", "split_second"], &["split_by"]).attr("axis", 0);
    m = m.node("Split", &["split_a", "split_by"], &["split_rest", "split"]).named("split").output("split").output("split_rest");
    m = pair(m, "slice", &["s0"], &["s1"]).node("Shape", &["slice_b"], &["slice_from"]);
    let number = |x: i64| Tensor::new(&[1], &[x]);
    m = m.initializer("before", number(i64::MIN)).initializer("zero", number(0)).initializer("back", number(-1));
    m = m.node("Slice", &["slice_a", "slice_from", "before", "zero", "back"], &["slice"]).named("slice").output("slice");
    m = pair(m, "tail", &["t0"], &["t1"]).node("Shape", &["tail_a"], &["tail_to"]).node("Shape", &["tail_b"], &["tail_less"]);
    m = m.node("Sub", &["tail_to", "tail_less"], &["tail_from"]);
    m = m.node("Slice", &["tail_a", "tail_from", "tail_to", "zero"], &["tail"]).named("tail").output("tail");
    m = pair(m, "head", &["h0"], &["h1"]).node("Shape", &["head_a"], &["head_all"]).node("Shape", &["head_b"], &["head_less"]);
    m = m.node("Sub", &["head_all", "head_less"], &["head_to"]);
    m = m.node("Slice", &["head_a", "zero", "head_to", "zero"], &["head"]).named("head").output("head");
    m = pair(m, "conv", &["1", "v0", "8"], &["2", "3", "3"]);
    m = m.node("Conv", &["conv_a", "conv_b"], &["conv"]).attr("kernel_shape", vec![3i64]).named("conv").output("conv");
    m = pair(m, "add", &["a0", "a1"], &["a2"]).node("Add", &["add_a", "add_b"], &["add"]).named("add").output("add");
    m = pair(m, "sum", &["a3"], &["3"]).node("Add", &["sum_a", "sum_b"], &["sum"]).named("sum").output("sum");
    let eight = Tensor::new(&[8], &[0f32; 8]);
    m = pair(m, "scatter", &["x0"], &["x1"]).initializer("eight", eight).node("Cast", &["scatter_b"], &["scatter_at"]).attr("to", 7i64);
    m = m.node("ScatterElements", &["eight", "scatter_at", "scatter_a"], &["scatter"]).attr("reduction", "add").named("scatter");
    m = pair(m.output("scatter"), "layer", &["2", "l0"], &["l1"]);
    m = m.node("LayerNormalization", &["layer_a", "layer_b"], &["layer"]).named("layer").output("layer");
    m = pair(m, "instance", &["1", "i0", "4"], &["i1"]);
    m = m.node("InstanceNormalization", &["instance_a", "instance_b", "instance_b"], &["instance"]).named("instance").output("instance");
    // Rows by a window of a table, as wide as the rows are many: an extent of a least and a greatest.
    m = pair(m, "window", &["w0", "4"], &["9", "4"]).initializer("five", number(5)).initializer("first", number(0));
    m = m.node("Shape", &["window_a"], &["window_all"]).node("Gather", &["window_all", "first"], &["window_rows"]);
    m = m.node("Sub", &["five", "window_rows"], &["window_from"]).node("Add", &["five", "window_rows"], &["window_to"]);
    m = m.node("Slice", &["window_b", "window_from", "window_to", "zero"], &["window_cut"]);
    m = m.node("Transpose", &["window_cut"], &["window_columns"]).attr("perm", vec![1i64, 0]);
    m = m.node("MatMul", &["window_a", "window_columns"], &["window"]).named("window").output("window");
    m = pair(m, "matmul", &["m", "k"], &["j", "n"]).node("MatMul", &["matmul_a", "matmul_b"], &["matmul"]).named("matmul").output("matmul");
    m.build()
}

/// A product whose inner extents only run time can compare.
pub fn product() -> Vec<u8> {
    ModelBuilder::new()
        .opset(17)
        .input("a", F32, ["m", "k"])
        .input("b", F32, ["j", "n"])
        .node("MatMul", &["a", "b"], &["c"])
        .output("c")
        .build()
}

/// Rows times matrices that an input picks, with a bias that it picks too and a pointwise tail.
pub fn picked() -> Vec<u8> {
    ModelBuilder::new()
        .opset(17)
        .input("x", F32, ["rows", "1", "37"])
        .input("at", I64, ["rows"])
        .initializer("w", Tensor::new(&[5, 37, 83], &noise(60, 5 * 37 * 83)))
        .initializer("b", Tensor::new(&[5, 1, 83], &noise(61, 5 * 83)))
        .node("Gather", &["w", "at"], &["matrices"])
        .node("Gather", &["b", "at"], &["biases"])
        .node("MatMul", &["x", "matrices"], &["product"])
        .node("Add", &["product", "biases"], &["sum"])
        .node("Tanh", &["sum"], &["y"])
        .output("y")
        .build()
}

/// Attention as exporters spell it: heads of keys repeated and a mask added, over open extents; and a triangle selected by a constant.
pub fn attention() -> Vec<u8> {
    let below: Vec<u8> = (0..20 * 20).map(|i| u8::from(i % 20 <= i / 20)).collect();
    let mut m = ModelBuilder::new()
        .opset(17)
        .input("q", F32, ["2", "4", "s", "9"])
        .input("k", F32, ["2", "2", "t", "9"])
        .input("v", F32, ["2", "2", "t", "5"])
        .input("mask", F32, ["s", "t"])
        .input("x", F32, ["1", "3", "20", "8"])
        .initializer("scale", Tensor::scalar(0.25f32))
        .initializer("third", Tensor::new(&[1], &[2i64]))
        .initializer("twice", Tensor::new(&[5], &[1i64, 1, 2, 1, 1]))
        .initializer("below", Tensor::with_dtype(Bool, &[1, 1, 20, 20], &below))
        .initializer("least", Tensor::scalar(-1e4f32));
    for (name, cols) in [("k", 9i64), ("v", 5)] {
        let [apart, wide, all, shape] = ["apart", "wide", "all", "shape"].map(|part| format!("{name}_{part}"));
        m = m
            .initializer(&shape, Tensor::new(&[4], &[2i64, 4, -1, cols]))
            .node("Unsqueeze", &[name, "third"], &[&apart])
            .node("Expand", &[&apart, "twice"], &[&wide])
            .node("Reshape", &[&wide, &shape], &[&all]);
    }
    m.node("Transpose", &["k_all"], &["kt"])
        .attr("perm", vec![0i64, 1, 3, 2])
        .node("MatMul", &["q", "kt"], &["products"])
        .node("Mul", &["products", "scale"], &["scores"])
        .node("Add", &["scores", "mask"], &["masked"])
        .node("Softmax", &["masked"], &["p"])
        .attr("axis", -1)
        .node("MatMul", &["p", "v_all"], &["grouped"])
        .node("Transpose", &["x"], &["xt"])
        .attr("perm", vec![0i64, 1, 3, 2])
        .node("MatMul", &["x", "xt"], &["own"])
        .node("Where", &["below", "own", "least"], &["seen"])
        .node("Softmax", &["seen"], &["px"])
        .attr("axis", -1)
        .node("MatMul", &["px", "x"], &["causal"])
        .output("grouped")
        .output("causal")
        .build()
}

/// A decoder of two layers that gives what it takes: a cache by heads, one whose keys are transposed, one by rows, the ids it has seen, and a
/// mean that each run replaces. The cache of the first layer is an output of its own, too.
pub fn cached() -> Vec<u8> {
    let cache = |name: &str, dims: [&'static str; 4]| (format!("past_{name}"), dims);
    let mut m = ModelBuilder::new().opset(17).input("ids", I64, ["batch", "rows"]).input("past_mean", F32, ["2", "8"]);
    for (name, dims) in [
        cache("a_k", ["batch", "2", "past", "4"]),
        cache("a_v", ["batch", "2", "past", "4"]),
        cache("b_k", ["batch", "2", "4", "past"]),
        cache("b_v", ["batch", "past", "2", "4"]),
    ] {
        m = m.input(&name, F32, dims);
    }
    m = m
        .input("mask", F32, ["batch", "total"])
        .input("past_ids", I64, ["batch", "past"])
        .initializer("table", weight(90, &[11, 8]))
        .initializer("heads", Tensor::new(&[4], &[0i64, 0, 2, 4]))
        .initializer("joined", Tensor::new(&[3], &[0i64, 0, 8]))
        .initializer("inner", Tensor::new(&[2], &[1i64, 2]))
        .initializer("first", Tensor::new(&[1], &[1i64]))
        .initializer("half", Tensor::scalar(0.5f32))
        .initializer("last", Tensor::scalar(-1i64))
        .node("Gather", &["table", "ids"], &["x"]);
    for (name, x, seed) in [("a", "x", 91), ("b", "x_a", 95)] {
        let v = |part: &str| format!("{part}_{name}");
        for (i, part) in (0..).zip(["q", "k", "v"]) {
            let (w, flat, apart) = (v(&format!("w{part}")), v(&format!("flat{part}")), v(&format!("apart{part}")));
            m = m.initializer(&w, weight(seed + i, &[8, 8])).node("MatMul", &[x, &w], &[&flat]).node(
                "Reshape",
                &[&flat, "heads"],
                &[&apart],
            );
        }
        let by_head = vec![0i64, 2, 1, 3];
        m = m.node("Transpose", &[&v("apartq")], &[&v("q")]).attr("perm", by_head.clone());
        let (past_k, past_v, k, values) =
            (format!("past_{name}_k"), format!("past_{name}_v"), format!("present_{name}_k"), format!("present_{name}_v"));
        m = if name == "a" {
            m.node("Transpose", &[&v("apartk")], &[&v("k")])
                .attr("perm", by_head.clone())
                .node("Transpose", &[&v("apartv")], &[&v("v")])
                .attr("perm", by_head.clone())
                .node("Concat", &[&past_k, &v("k")], &[&k])
                .attr("axis", 2)
                .node("Concat", &[&past_v, &v("v")], &[&values])
                .attr("axis", -2)
                .node("Transpose", &[&k], &[&v("kt")])
                .attr("perm", vec![0i64, 1, 3, 2])
                .node("Identity", &[&values], &[&v("values")])
        } else {
            m.node("Transpose", &[&v("apartk")], &[&v("k")])
                .attr("perm", vec![0i64, 2, 3, 1])
                .node("Concat", &[&past_k, &v("k")], &[&k])
                .attr("axis", 3)
                .node("Concat", &[&past_v, &v("apartv")], &[&values])
                .attr("axis", 1)
                .node("Identity", &[&k], &[&v("kt")])
                .node("Transpose", &[&values], &[&v("values")])
                .attr("perm", by_head.clone())
        };
        m = m.node("MatMul", &[&v("q"), &v("kt")], &[&v("products")]).node("Mul", &[&v("products"), "half"], &[&v("scores")]);
        m = if name == "a" {
            m.node("Unsqueeze", &["mask", "inner"], &["wide"]).node("Add", &[&v("scores"), "wide"], &[&v("seen")])
        } else {
            m.node("Identity", &[&v("scores")], &[&v("seen")])
        };
        m = m
            .node("Softmax", &[&v("seen")], &[&v("p")])
            .attr("axis", -1)
            .node("MatMul", &[&v("p"), &v("values")], &[&v("mixed")])
            .node("Transpose", &[&v("mixed")], &[&v("rows")])
            .attr("perm", by_head)
            .node("Reshape", &[&v("rows"), "joined"], &[&v("added")])
            .node("Add", &[x, &v("added")], &[&v("x")]);
    }
    m.node("Unsqueeze", &["past_mean", "first"], &["mean_row"])
        .node("Add", &["x_b", "mean_row"], &["y"])
        .node("Gather", &["x_b", "last"], &["mean_now"])
        .attr("axis", 1)
        .node("Mul", &["past_mean", "half"], &["mean_before"])
        .node("Add", &["mean_before", "mean_now"], &["present_mean"])
        .node("Concat", &["past_ids", "ids"], &["present_ids"])
        .attr("axis", 1)
        .node("Cast", &["present_ids"], &["numbers"])
        .attr("to", 1)
        .node("ReduceSum", &["numbers", "first"], &["sum"])
        .attr("keepdims", 0)
        .node("Identity", &["present_a_k"], &["keys"])
        .output("present_a_k")
        .output("y")
        .output("present_a_v")
        .output("present_b_k")
        .output("sum")
        .output("present_b_v")
        .output("present_ids")
        .output("keys")
        .output("present_mean")
        .build()
}

/// A table of odd extents that is looked up and, transposed, the last factor: a language model's tied embedding.
pub fn tied() -> Vec<u8> {
    ModelBuilder::new()
        .opset(17)
        .input("ids", I64, ["n"])
        .initializer("table", weight(13, &[517, 33]))
        .node("Gather", &["table", "ids"], &["rows"])
        .node("Tanh", &["rows"], &["h"])
        .node("Transpose", &["table"], &["factor"])
        .attr("perm", vec![1i64, 0])
        .node("MatMul", &["h", "factor"], &["scores"])
        .output("rows")
        .output("scores")
        .build()
}

/// Dynamic quantization as quantizers write it: one operand by its range, multiplied with i8 and with u8 that have zero points by
/// column, scaled and biased; beside them sums that stay integers, a product with static scales whose result is bytes, and one of i8. Static scales
/// are powers of two, so that a tie is one whatever is rounded first.
pub fn quantized() -> Vec<u8> {
    let bytes = |seed: u64, n: usize| noise(seed, n).into_iter().map(|x| (x * 128.0) as i8).collect::<Vec<i8>>();
    let unsigned = |seed: u64, n: usize| bytes(seed, n).into_iter().map(|x| x as u8 ^ 0x80).collect::<Vec<u8>>();
    let mut m = ModelBuilder::new()
        .opset(17)
        .input("x", F32, ["batch", "s", "21"])
        .initializer("w", Tensor::new(&[21, 37], &bytes(1, 21 * 37)))
        .initializer("w_zero", Tensor::new(&[], &[0i8]))
        .initializer("w_scale", Tensor::scalar(2f32.powi(-7)))
        .initializer("v", Tensor::new(&[21, 18], &unsigned(2, 21 * 18)))
        .initializer("v_zero", Tensor::new(&[18], &unsigned(3, 18)))
        .initializer("v_scale", Tensor::new(&[18], &noise(4, 18)))
        .initializer("bias", Tensor::new(&[37], &noise(5, 37)))
        .initializer("a_scale", Tensor::scalar(2f32.powi(-6)))
        .initializer("a_zero", Tensor::scalar(117u8))
        .initializer("y_scale", Tensor::scalar(0.5f32))
        .initializer("y_zero", Tensor::scalar(100u8));
    m = m.node("DynamicQuantizeLinear", &["x"], &["q", "scale", "zero"]);
    for side in ["w", "v"] {
        let [sums, wide, scales, scaled] = ["sums", "wide", "scales", "scaled"].map(|part| format!("{side}_{part}"));
        let (zero, scale) = (format!("{side}_zero"), format!("{side}_scale"));
        m = m
            .node("MatMulInteger", &["q", side, "zero", zero.as_str()], &[sums.as_str()])
            .node("Cast", &[sums.as_str()], &[wide.as_str()])
            .attr("to", 1i64)
            .node("Mul", &["scale", scale.as_str()], &[scales.as_str()])
            .node("Mul", &[wide.as_str(), scales.as_str()], &[scaled.as_str()]);
    }
    m.node("Add", &["w_scaled", "bias"], &["w_sum"])
        .node("Relu", &["w_sum"], &["y"])
        .node("MatMulInteger", &["q", "v", "zero"], &["plain"])
        .node("QuantizeLinear", &["x", "a_scale", "w_zero"], &["signed"])
        .node("MatMulInteger", &["signed", "w"], &["signed_sums"])
        .node("Cast", &["signed_sums"], &["signed_wide"])
        .attr("to", 1i64)
        .node("Mul", &["signed_wide", "w_scale"], &["signed_scaled"])
        .node("QuantizeLinear", &["x", "a_scale", "a_zero"], &["a"])
        .node("QLinearMatMul", &["a", "a_scale", "a_zero", "w", "w_scale", "w_zero", "y_scale", "y_zero"], &["z"])
        .output("y")
        .output("v_scaled")
        .output("plain")
        .output("q")
        .output("scale")
        .output("zero")
        .output("z")
        .output("signed_scaled")
        .build()
}

/// Strings moved by every operator that moves numbers: transposed, reversed, joined, repeated, cut, picked.
pub fn strings() -> Vec<u8> {
    let list = |v: &[i64]| Tensor::new(&[v.len()], v);
    let more = ["x", "", "z"].map(String::from).to_vec();
    ModelBuilder::new()
        .opset(17)
        .input("words", Str, ["rows", "3"])
        .input("at", I64, ["n"])
        .initializer("more", Tensor::strings(&[1, 3], more))
        .initializer("last", list(&[-1, -1]))
        .initializer("beyond", list(&[i64::MIN, i64::MIN]))
        .initializer("axes", list(&[0, 1]))
        .initializer("back", list(&[-1, -2]))
        .initializer("shape", list(&[2, 1, 3]))
        .initializer("one_axis", list(&[-1]))
        .initializer("pieces", list(&[1, 2]))
        .initializer("times", list(&[2, 2]))
        .initializer("pads", list(&[1, -1, 0, 2]))
        .initializer("filler", Tensor::strings(&[], vec!["-".to_string()]))
        .initializer("columns", Tensor::new(&[1, 2], &[2i64, -3]))
        .initializer("cells", Tensor::new(&[2, 2], &[0i64, 2, -1, 1]))
        .node("Transpose", &["words"], &["transposed"])
        .attr("perm", vec![1i64, 0])
        .node("Slice", &["words", "last", "beyond", "axes", "back"], &["reversed"])
        .node("Concat", &["words", "more", "words"], &["joined"])
        .attr("axis", 0)
        .node("Expand", &["words", "shape"], &["repeated"])
        .node("Reshape", &["transposed", "one_axis"], &["flat"])
        .node("Split", &["words", "pieces"], &["left", "right"])
        .attr("axis", 1)
        .node("Tile", &["words", "times"], &["tiled"])
        .node("Pad", &["words", "pads", "filler"], &["padded"])
        .node("Gather", &["words", "at"], &["picked"])
        .node("GatherElements", &["words", "columns"], &["columns_picked"])
        .attr("axis", 1)
        .node("GatherND", &["words", "cells"], &["cells_picked"])
        .output("transposed")
        .output("reversed")
        .output("joined")
        .output("repeated")
        .output("flat")
        .output("left")
        .output("right")
        .output("tiled")
        .output("padded")
        .output("picked")
        .output("columns_picked")
        .output("cells_picked")
        .build()
}

/// Recurrent layers over a sequence: one of each cell as a recurrence on vectors, and two that only the plain kernel computes.
pub fn recurrent() -> Vec<u8> {
    let b = ModelBuilder::new().opset(17).input("x", F32, ["steps", "batch", "3"]);
    let weights = |b: ModelBuilder, name: &str, seed: u64, gates: usize, directions: usize| {
        let part = |k: u64, dims: &[usize]| Tensor::new(dims, &noise(seed + k, dims.iter().product()));
        b.initializer(&format!("{name}_w"), part(0, &[directions, gates * 4, 3]))
            .initializer(&format!("{name}_r"), part(1, &[directions, gates * 4, 4]))
            .initializer(&format!("{name}_b"), part(2, &[directions, 2 * gates * 4]))
    };
    let b = weights(weights(weights(b, "lstm", 20, 4, 1), "gru", 30, 3, 2), "rnn", 40, 1, 1);
    b.initializer("holes", Tensor::new(&[1, 12], &noise(50, 12)))
        .node("LSTM", &["x", "lstm_w", "lstm_r", "lstm_b"], &["lstm", "", "lstm_cell"])
        .attr("hidden_size", 4)
        .node("GRU", &["x", "gru_w", "gru_r", "gru_b"], &["gru"])
        .attr("hidden_size", 4)
        .attr("direction", "bidirectional")
        .attr("linear_before_reset", 1)
        .node("RNN", &["x", "rnn_w", "rnn_r", "rnn_b"], &["", "rnn_last"])
        .attr("hidden_size", 4)
        .node("LSTM", &["x", "lstm_w", "lstm_r", "lstm_b", "", "", "", "holes"], &["peeping"])
        .attr("hidden_size", 4)
        .node("GRU", &["x", "gru_w", "gru_r", "gru_b"], &["clipped"])
        .attr("hidden_size", 4)
        .attr("direction", "bidirectional")
        .attr("clip", 0.5)
        .output("lstm")
        .output("lstm_cell")
        .output("gru")
        .output("rnn_last")
        .output("peeping")
        .output("clipped")
        .build()
}

/// A sample: its file name, and what builds it.
pub type Sample = (&'static str, fn() -> Vec<u8>);

/// Every sample.
pub const ALL: [Sample; 14] = [
    ("mlp", mlp),
    ("convnet", convnet),
    ("inverted", inverted),
    ("decoder", decoder),
    ("control", control),
    ("product", product),
    ("picked", picked),
    ("extents", extents),
    ("attention", attention),
    ("tied", tied),
    ("quantized", quantized),
    ("strings", strings),
    ("recurrent", recurrent),
    ("cached", cached),
];

#[cfg(test)]
mod tests {
    use super::ALL;

    // Here, and not beside the models' own tests: those do not compile before the files are written.
    #[test]
    fn the_files_are_what_the_samples_build() {
        for (name, build) in ALL {
            let path = format!("{}/models/{name}.onnx", env!("CARGO_MANIFEST_DIR"));
            if std::env::var_os("BLESS").is_some() {
                std::fs::write(&path, build()).unwrap();
            }
            assert_eq!(std::fs::read(&path).unwrap(), build(), "{name}: run with BLESS=1 to write it");
        }
    }
}
