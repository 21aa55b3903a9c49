//! Arithmetic on shapes, as exporters write it: what is left of it is the extents that it stands for.

use super::{graph, optimized};
use kiln::{Tensor, Value};
use kiln_compiler::eval::Evaluator;
use kiln_compiler::import::{Dims, Extent, import};
use kiln_compiler::ir::Graph;
use kiln_compiler::pipeline::optimize;
use kiln_compiler::rewrite::head;
use kiln_kernels::dtype::DType::{self, F32, I64};
use kiln_tests::models::ModelBuilder;

fn ints(v: &[i64]) -> Tensor {
    Tensor::new(&[v.len()], v)
}
fn one(v: i64) -> Tensor {
    Tensor::new(&[], &[v])
}
fn noise(dims: &[usize]) -> Value {
    Tensor::new(dims, &kiln_tests::samples::noise(7, dims.iter().product())).into()
}
fn heads(g: &Graph) -> Vec<&'static str> {
    g.body.nodes.iter().map(|n| head(&g[*n].op)).collect()
}
fn results(g: &Graph, inputs: &[Value]) -> Vec<Value> {
    Evaluator::new(g, inputs.to_vec()).unwrap().run().unwrap()
}
/// Holds that a model comes down to these operators, and still computes the same.
fn comes_down_to(model: ModelBuilder, inputs: &[Value], expected: &[&str]) -> Graph {
    let bytes = model.build();
    let (after, _) = optimized(&bytes);
    assert_eq!(heads(&after), expected, "{}", kiln_compiler::ir::print(&after));
    assert_eq!(results(&graph(&bytes), inputs), results(&after, inputs));
    after
}
/// A model of one input of those extents.
fn over(dims: &[&str]) -> ModelBuilder {
    ModelBuilder::new().opset(17).input("x", F32, dims)
}
/// `out` is extent `axis` of `of`.
fn extent(b: ModelBuilder, of: &str, axis: i64, out: &str) -> ModelBuilder {
    let (shape, at) = (format!("{out}.shape"), format!("{out}.axis"));
    b.initializer(&at, one(axis)).node("Shape", &[of], &[&shape]).node("Gather", &[&shape, &at], &[out])
}
/// `out` lists single numbers.
fn list(mut b: ModelBuilder, of: &[&str], out: &str) -> ModelBuilder {
    b = b.initializer(&format!("{out}.axes"), ints(&[0]));
    let parts: Vec<String> = of.iter().map(|v| format!("{out}.{v}")).collect();
    for (v, part) in of.iter().zip(&parts) {
        b = b.node("Unsqueeze", &[v, &format!("{out}.axes")], &[part]);
    }
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    b.node("Concat", &parts, &[out]).attr("axis", 0)
}

#[test]
fn a_shape_is_the_list_of_extents() {
    let g = comes_down_to(over(&["N", "4", "S"]).node("Shape", &["x"], &["y"]).output("y"), &[noise(&[2, 4, 3])], &["Dims"]);
    assert!(kiln_compiler::ir::print(&g).contains("4"));
}

#[test]
fn extents_that_are_picked_and_listed_again_fold() {
    // The view of heads: x [N, S, 12] as [N, S, 3, 4], by every operator that lists take.
    let mut b = extent(extent(over(&["N", "S", "12"]), "x", 0, "n"), "x", 1, "s");
    b = b
        .node("Cast", &["n"], &["n32"])
        .attr("to", DType::I32.to_onnx() as i64)
        .node("Cast", &["n32"], &["n64"])
        .attr("to", I64.to_onnx() as i64);
    b = list(b, &["n64", "s"], "rows").initializer("heads", ints(&[3, -1])).node("Concat", &["rows", "heads"], &["to"]).attr("axis", 0);
    let g = comes_down_to(b.node("Reshape", &["x", "to"], &["y"]).output("y"), &[noise(&[2, 5, 12])], &["Reshape"]);
    assert_eq!(g.shape(g.body.outputs[0]).len(), 4);
    assert!(g.shape(g.body.outputs[0])[3].is(4), "what is left is known");
}

#[test]
fn shapes_of_results_are_shapes_of_operands() {
    let b = over(&["N", "S", "6"]).node("Relu", &["x"], &["r"]).node("Transpose", &["r"], &["t"]).attr("perm", [2i64, 0, 1]);
    comes_down_to(b.node("Shape", &["t"], &["y"]).output("y"), &[noise(&[2, 3, 6])], &["Dims"]);
    // Through the arithmetic of a convolution, too.
    let w = Tensor::new(&[4, 6, 3], &[0.5f32; 72]);
    let b = over(&["N", "6", "S"]).initializer("w", w).node("Conv", &["x", "w"], &["c"]).attr("strides", [2i64]).attr("pads", [1i64, 1]);
    comes_down_to(b.node("Shape", &["c"], &["y"]).output("y"), &[noise(&[2, 6, 9])], &["Dims"]);
}

#[test]
fn products_and_quotients_of_extents_cancel() {
    // N*S elements in rows, and back by a division.
    let b = extent(extent(over(&["N", "S", "4"]), "x", 0, "n"), "x", 1, "s");
    let b = b.initializer("two", one(2)).node("Mul", &["n", "two"], &["double"]).node("Div", &["double", "two"], &["half"]);
    let b = b.initializer("other", one(2));
    let b = list(b, &["half", "s", "two", "other"], "to").node("Reshape", &["x", "to"], &["y"]);
    let g = comes_down_to(b.output("y"), &[noise(&[2, 3, 4])], &["Reshape"]);
    assert_eq!(g.shape(g.body.outputs[0])[0], g.shape(g.body.inputs[0])[0]);
}

/// `y` is `x` padded below and at the right to whole windows of `window` pixels, as TorchScript's exporter writes it: remainders of
/// extents, in a list of axes from the last on, which a table of two columns turns around.
fn windowed(b: ModelBuilder, window: i64) -> ModelBuilder {
    let mut b = extent(extent(b, "x", 2, "h"), "x", 3, "w").initializer("window", one(window));
    b = b.initializer("zero", one(0)).initializer("nil", one(0));
    for d in ["h", "w"] {
        let name = |s: &str| format!("{d}.{s}");
        b = b.node("Mod", &[d, "window"], &[&name("rest")]).node("Sub", &["window", &name("rest")], &[&name("lack")]);
        b = b.node("Mod", &[&name("lack"), "window"], &[&name("pad")]);
    }
    b = list(b, &["zero", "w.pad", "nil", "h.pad"], "pads").initializer("none", ints(&[0, 0, 0, 0]));
    b = b.node("Concat", &["pads", "none"], &["all"]).attr("axis", 0).initializer("two", ints(&[-1, 2]));
    b = b.node("Reshape", &["all", "two"], &["table"]).initializer("last", ints(&[-1])).initializer("least", ints(&[i64::MIN]));
    b = b.initializer("rows", ints(&[0])).initializer("step", ints(&[-1]));
    b = b.node("Slice", &["table", "last", "least", "rows", "step"], &["turned"]);
    b = b.node("Transpose", &["turned"], &["columns"]).attr("perm", [1i64, 0]).initializer("flat", ints(&[-1]));
    b.node("Reshape", &["columns", "flat"], &["ends"]).node("Pad", &["x", "ends"], &["y"]).output("y")
}

#[test]
fn pads_to_whole_windows_are_numbers() {
    let g = comes_down_to(windowed(over(&["N", "2", "7", "8"]), 4), &[noise(&[2, 2, 7, 8])], &["Pad"]);
    assert!(g.shape(g.body.outputs[0])[2].is(8) && g.shape(g.body.outputs[0])[3].is(8));
    // Nothing is left of pads of whole windows.
    let b = windowed(over(&["N", "2", "4", "8"]), 4).node("Relu", &["y"], &["z"]).output("z");
    comes_down_to(b, &[noise(&[1, 2, 4, 8])], &["Relu"]);
}

#[test]
fn pads_to_whole_windows_of_open_images_follow_from_their_extents() {
    let bytes = windowed(over(&["N", "2", "H", "W"]), 4).build();
    let (g, _) = optimized(&bytes);
    let shape = g.shape(g.body.outputs[0]);
    for (h, w) in [(7, 8), (4, 1), (5, 6)] {
        let x = [noise(&[1, 2, h, w])];
        let y = results(&g, &x);
        assert_eq!(y, results(&graph(&bytes), &x));
        // By the symbols of the inputs alone.
        let inputs = g.shape(g.body.inputs[0]).to_vec();
        let of = |s| inputs.iter().position(|d| d.as_sym() == Some(s)).map(|i| [1, 2, h as i64, w as i64][i]);
        let said: Vec<usize> = shape.iter().map(|d| d.eval(&of).unwrap() as usize).collect();
        assert_eq!(y[0].as_tensor().unwrap().dims, said);
    }
}

#[test]
fn open_images_are_resized_by_any_scale_and_to_any_size() {
    let close = |bytes: &[u8], h: usize, w: usize| {
        let model = kiln_compiler::onnx::read(bytes, None, &Default::default()).unwrap();
        let mut dims = Dims::default();
        dims.by_name.extend([("H", h), ("W", w)].map(|(n, d)| (n.to_string(), Extent::Closed(d as i64))));
        import(&model, &dims).unwrap()
    };
    for mode in ["nearest", "linear", "cubic"] {
        let scales = Tensor::new(&[4], &[1f32, 1.0, 1.5, 0.7]);
        let b = over(&["1", "2", "H", "W"]).initializer("scales", scales).node("Resize", &["x", "", "scales"], &["y"]).attr("mode", mode);
        let scaled = b.output("y").build();
        // To the size of what a convolution leaves of the image: half of it, rounded up, and back.
        let w = Tensor::new(&[2, 2, 1, 1], &[1f32, 0.5, -0.5, 1.0]);
        let b = over(&["1", "2", "H", "W"]).initializer("w", w).node("Conv", &["x", "w"], &["c"]).attr("strides", vec![2i64, 2]);
        let b = b.node("Shape", &["x"], &["size"]).node("Resize", &["c", "", "", "size"], &["y"]).attr("mode", mode);
        for bytes in [scaled, b.node("Add", &["x", "y"], &["z"]).output("z").build()] {
            let (open, _) = optimized(&bytes);
            for (h, w) in [(4, 10), (7, 5), (1, 3)] {
                let x = [noise(&[1, 2, h, w])];
                assert_eq!(results(&open, &x), results(&close(&bytes, h, w), &x), "{mode} of {h} x {w}");
            }
        }
    }
}

#[test]
fn a_constant_of_a_shape_is_its_number_where_it_broadcasts() {
    let two = Tensor::new(&[1], &[2f32]);
    let b = over(&["N", "S"]).node("Shape", &["x"], &["s"]).node("ConstantOfShape", &["s"], &["c"]).attr("value", &two);
    let b = b.node("Mul", &["x", "c"], &["y"]).output("y");
    comes_down_to(b, &[noise(&[2, 3])], &["Mul"]);
}

#[test]
fn the_guard_of_an_expand_is_decided() {
    // Where(shape == -1, 1, shape), as exporters write it before an Expand.
    let b = extent(over(&["N", "1", "4"]), "x", 0, "n").initializer("minus", one(-1)).initializer("five", one(5));
    let b = list(b, &["n", "five", "minus"], "to").initializer("none", ints(&[-1])).initializer("ones", ints(&[1, 1, 1]));
    let b = b.node("Equal", &["to", "none"], &["open"]).node("Where", &["open", "ones", "to"], &["shape"]);
    let g = comes_down_to(b.node("Expand", &["x", "shape"], &["y"]).output("y"), &[noise(&[2, 1, 4])], &["Expand"]);
    assert!(g.shape(g.body.outputs[0])[1].is(5));
}

#[test]
fn a_range_of_an_extent_is_as_long_as_it() {
    let b = extent(over(&["N", "S"]), "x", 1, "s").initializer("zero", one(0)).initializer("one", one(1));
    let b = b.node("Range", &["zero", "s", "one"], &["r"]).node("Cast", &["r"], &["f"]).attr("to", F32.to_onnx() as i64);
    let bytes = b.node("Add", &["x", "f"], &["y"]).output("y").build();
    let (g, _) = optimized(&bytes);
    // No symbol but the input's own, so that the sum has the input's shape.
    assert_eq!(g.shape(g.body.outputs[0]), g.shape(g.body.inputs[0]));
    let x = [noise(&[2, 3])];
    assert_eq!(results(&graph(&bytes), &x), results(&g, &x));
}

#[test]
fn triangles_of_ranges_are_causal_attention() {
    use kiln_tests::transformers::{Spelling, decoder};
    for spelling in [Spelling::Whole, Spelling::Spelled] {
        let (g, _) = optimized(&decoder(2, spelling));
        let causal = |n: &kiln_compiler::ir::NodeId| matches!(&g[*n].op, kiln_compiler::ops::Op::Attend(a) if a.causal.is_some());
        assert_eq!(g.body.nodes.iter().filter(|n| causal(n)).count(), 2, "{spelling:?}");
    }
}

/// A branch of one node.
fn branch(op: &str) -> ModelBuilder {
    ModelBuilder::new().node(op, &["x"], &["b"]).output("b")
}

#[test]
fn what_extents_decide_is_decided() {
    // If the last extent is 4: it is.
    let b = extent(over(&["N", "4"]), "x", 1, "s").initializer("four", one(4)).node("Equal", &["s", "four"], &["c"]);
    let b = b.node("If", &["c"], &["y"]).attr("then_branch", branch("Relu")).attr("else_branch", branch("Neg"));
    comes_down_to(b.output("y"), &[noise(&[2, 4])], &["Relu"]);
}

#[test]
fn guards_are_decided_by_the_bounds_of_extents() {
    for (op, bound, taken) in
        [("Greater", 16, "Neg"), ("Less", 17, "Relu"), ("LessOrEqual", 16, "Relu"), ("GreaterOrEqual", 2, "Relu"), ("Equal", 17, "Neg")]
    {
        let b = extent(over(&["N", "S"]), "x", 1, "s").initializer("most", one(bound)).node(op, &["s", "most"], &["c"]);
        let b = b.node("If", &["c"], &["y"]).attr("then_branch", branch("Relu")).attr("else_branch", branch("Neg"));
        let model = kiln_compiler::onnx::read(&b.output("y").build(), None, &Default::default()).unwrap();
        let dims = Dims { by_name: [("S".to_string(), Extent::Bounded(2, 16))].into(), ..Dims::default() };
        let mut g = import(&model, &dims).unwrap();
        optimize(&mut g, Default::default(), &mut |_, _| {}).unwrap();
        assert_eq!(heads(&g), [taken], "{op} {bound}");
    }
}

#[test]
fn the_lesser_of_an_extent_and_its_bound_is_the_extent() {
    let b = extent(over(&["N", "S"]), "x", 1, "s").initializer("most", one(16)).node("Min", &["s", "most"], &["end"]);
    let b = list(b, &["end"], "ends").initializer("starts", ints(&[0])).initializer("axes", ints(&[1]));
    let b = b.node("Slice", &["x", "starts", "ends", "axes"], &["z"]).node("Relu", &["z"], &["y"]);
    let model = kiln_compiler::onnx::read(&b.output("y").build(), None, &Default::default()).unwrap();
    let dims = Dims { by_name: [("S".to_string(), Extent::Bounded(2, 16))].into(), ..Dims::default() };
    let mut g = import(&model, &dims).unwrap();
    optimize(&mut g, Default::default(), &mut |_, _| {}).unwrap();
    assert_eq!(heads(&g), ["Relu"], "{}", kiln_compiler::ir::print(&g));
}

#[test]
fn loops_over_constants_and_sizes_fold() {
    comes_down_to(over(&["N", "4"]).node("Size", &["x"], &["y"]).output("y"), &[noise(&[2, 4])], &["Dims"]);
    let b = over(&["N", "4"]).initializer("m", ints(&[0, 3, 0, 5])).node("NonZero", &["m"], &["i"]).initializer("axes", ints(&[0]));
    let b = b.node("Squeeze", &["i", "axes"], &["at"]).node("Gather", &["x", "at"], &["y"]).attr("axis", 1);
    comes_down_to(b.output("y"), &[noise(&[2, 4])], &["Slice"]);
}

#[test]
fn sizes_that_are_multiples_of_extents_are_scales() {
    let b = over(&["N", "3", "H", "W"]).node("Shape", &["x"], &["s"]).initializer("two", one(2));
    let b = b.initializer("zero", ints(&[0])).initializer("mid", ints(&[2])).initializer("end", ints(&[4]));
    let b = b.node("Slice", &["s", "zero", "mid"], &["front"]).node("Slice", &["s", "mid", "end"], &["back"]).node(
        "Mul",
        &["back", "two"],
        &["twice"],
    );
    let b = b.node("Concat", &["front", "twice"], &["sizes"]).attr("axis", 0);
    let b = b.node("Resize", &["x", "", "", "sizes"], &["y"]).attr("coordinate_transformation_mode", "asymmetric").attr("mode", "nearest");
    let g = comes_down_to(b.attr("nearest_mode", "floor").output("y"), &[noise(&[1, 3, 4, 5])], &["Resize"]);
    let kiln_compiler::ops::Op::Resize(r) = &g[g.body.nodes[0]].op else { panic!("a Resize") };
    assert_eq!(r.repeats(g.shape(g.body.inputs[0])), Some(vec![1, 1, 2, 2]));
}

#[test]
fn blocks_that_are_taken_apart_and_put_together_are_what_they_were() {
    for mode in ["DCR", "CRD"] {
        let b = over(&["N", "8", "H", "W"]).node("DepthToSpace", &["x"], &["d"]).attr("blocksize", 2).attr("mode", mode);
        // Blocks of channels come first in a SpaceToDepth.
        let b = b.node("SpaceToDepth", &["d"], &["s"]).attr("blocksize", 2).node("Relu", &["s"], &["y"]).output("y");
        let expected: &[&str] = if mode == "DCR" { &["Relu"] } else { &["Reshape", "Transpose", "Reshape", "Relu"] };
        let (g, _) = optimized(&b.build());
        assert_eq!(heads(&g), expected, "{}", kiln_compiler::ir::print(&g));
    }
}
