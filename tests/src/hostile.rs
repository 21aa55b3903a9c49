//! Models that mean harm, or are merely odd: what every stage of the compiler has to answer in words, quickly and in little memory.

use crate::models::{ModelBuilder, SCALAR, external, tensor_type};
use kiln_kernels::dtype::DType::{self, Bool, F32, I64};
use kiln_kernels::value::Tensor;

/// One model of the corpus.
pub struct Case {
    /// What it does, in words that also name it.
    pub name: String,
    /// The bytes of the file.
    pub model: Vec<u8>,
    /// What the reader makes of it.
    pub reads: Reads,
}

/// What the reader makes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// It is read; what is wrong with it, if anything, later stages find.
    Yes,
    /// It is refused, in a message that holds this text.
    No(&'static str),
}

/// Names that break out of comments, strings, paths and identifiers where these are made without care.
pub const NAMES: &[&str] = &[
    "",
    " ",
    "a b",
    "1",
    "self",
    "fn",
    "r#type",
    "_",
    "x.y/z:0",
    "a/b",
    "a:b",
    "/layer/Constant_17_output_0",
    "*/ compile_error!(\"out\"); /*",
    "// \\",
    "ends in a backslash\\",
    "\"); std::process::abort(); (\"",
    "\"#; panic!(); r#\"",
    "'a",
    "line\nbreak",
    "carriage\rreturn",
    "tab\t",
    "null\0byte",
    "\u{1b}[31mred",
    "\u{202e}reversed",
    "\u{2066}isolated\u{2069}",
    "é",
    "e\u{301}",
    "ﬁ",
    "名前",
    "😀",
    "\u{feff}mark",
    "../../etc/passwd",
    "/etc/passwd",
    "C:\\windows",
    "$(id)",
    "`id`",
    "%s%n",
    "{}",
    "{0}",
    "</script><script>alert(1)</script>",
    "#include \"/etc/passwd\"",
    "??/",
    "v0",
    "k0",
    "w0",
    "main",
    "__internal",
    "\u{200b}",
];

/// Every case.
pub fn corpus() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |name: &str, reads: Reads, model: ModelBuilder| cases.push(Case { name: name.to_string(), model: model.build(), reads });
    graphs(&mut add);
    sizes(&mut add);
    bodies(&mut add);
    data(&mut add);
    for name in NAMES {
        let model = ModelBuilder::new().graph_name(name).input("x", F32, [name, &"4"]).node("Relu", &["x"], &["y"]).named(name);
        add(&format!("the name {name:?} for a graph, a node and a dim"), Reads::Yes, model.output("y"));
        if !name.is_empty() {
            let inner = format!("{name} ");
            let model = ModelBuilder::new().input(name, F32, [4]).node("Relu", &[name], &[&inner]).node("Exp", &[&inner], &["y"]);
            add(&format!("the name {name:?} for values"), Reads::Yes, model.output("y"));
            let model = ModelBuilder::new().import(name, 1).input("x", F32, [4]).node(name, &["x"], &["y"]).domain(name).attr(name, *name);
            add(&format!("the name {name:?} for an operator, a domain and an attribute"), Reads::Yes, model.output("y"));
        }
    }
    cases
}

type Add<'a> = &'a mut dyn FnMut(&str, Reads, ModelBuilder);

fn graphs(add: Add<'_>) {
    let new = || ModelBuilder::new().input("x", F32, [4]);
    add("nothing at all", Reads::Yes, ModelBuilder::new());
    add("an output that is an input", Reads::Yes, new().output("x"));
    add("an output that nothing makes", Reads::Yes, new().output("y"));
    add("a node that reads what nothing makes", Reads::Yes, new().node("Add", &["x", "nowhere"], &["y"]).output("y"));
    add("a node that reads itself", Reads::Yes, new().node("Add", &["x", "y"], &["y"]).output("y"));
    let two = new().node("Add", &["x", "b"], &["a"]).node("Relu", &["a"], &["b"]).output("b");
    add("two nodes that read each other", Reads::Yes, two);
    let backwards = new().node("Exp", &["a"], &["y"]).node("Relu", &["x"], &["a"]).output("y");
    add("nodes in reverse order", Reads::Yes, backwards);
    let chain = |n: usize| (0..n).fold(new(), |m, i| m.node("Relu", &[&name(i)], &[&name(i + 1)])).output(&name(n));
    add("a chain of 10000 nodes", Reads::Yes, chain(10_000));
    let doubling = (0..64).fold(new(), |m, i| m.node("Add", &[&name(i), &name(i)], &[&name(i + 1)])).output(&name(64));
    add("64 values, each the sum of the one before with itself", Reads::Yes, doubling);
    add("an operator nobody knows", Reads::Yes, new().node("NoSuchOperator", &["x"], &["y"]).output("y"));
    add("an operator of a domain not imported", Reads::Yes, new().node("Relu", &["x"], &["y"]).domain("no.such").output("y"));
    add("a node without inputs", Reads::Yes, new().node("Relu", &[], &["y"]).output("y"));
    add("a node with too many inputs", Reads::Yes, new().node("Relu", &["x", "x", "x"], &["y"]).output("y"));
    add("a node without outputs", Reads::Yes, new().node("Relu", &["x"], &[]).output("x"));
    add("an attribute of another kind", Reads::Yes, new().node("Softmax", &["x"], &["y"]).attr("axis", "one").output("y"));
    add("an attribute nobody knows", Reads::Yes, new().node("Relu", &["x"], &["y"]).attr("speed", 11).output("y"));
    add("an axis out of range", Reads::Yes, new().node("Softmax", &["x"], &["y"]).attr("axis", i64::MIN).output("y"));
    add("an output of another shape than stated", Reads::Yes, new().node("Relu", &["x"], &["y"]).output_of("y", tensor_type(F32, [5])));
    add("an output of another type than stated", Reads::Yes, new().node("Relu", &["x"], &["y"]).output_of("y", tensor_type(I64, [4])));
    add("a conditional on floats", Reads::Yes, new().node("If", &["x"], &["y"]).output("y"));
    add("one value made twice", Reads::No("occurs twice"), new().node("Relu", &["x"], &["y"]).node("Exp", &["x"], &["y"]).output("y"));
    add("an input that a node makes", Reads::No("also the output"), new().node("Relu", &["x"], &["x"]).output("x"));
    add("operator set 0", Reads::Yes, new().opset(0).node("Relu", &["x"], &["y"]).output("y"));
    add("operator set 2^63 - 1", Reads::Yes, new().opset(i64::MAX).node("Relu", &["x"], &["y"]).output("y"));
    add("IR version 2^63 - 1", Reads::No("IR version"), new().ir_version(i64::MAX).output("x"));
}

fn name(i: usize) -> String {
    if i == 0 { "x".to_string() } else { format!("v{i}") }
}

fn sizes(add: Add<'_>) {
    let longs = |values: &[i64]| Tensor::new(&[values.len()], values);
    for (what, dims) in [("2^62", &[1i64 << 62][..]), ("2^93", &[1 << 31, 1 << 31, 1 << 31]), ("2^40", &[1 << 20, 1 << 20]), ("-1", &[-1])]
    {
        let model = ModelBuilder::new().initializer("s", longs(dims)).node("ConstantOfShape", &["s"], &["y"]).output("y");
        add(&format!("a constant of {what} elements"), Reads::Yes, model);
        let model = ModelBuilder::new().input("x", F32, [1]).initializer("s", longs(dims)).node("Expand", &["x", "s"], &["y"]).output("y");
        add(&format!("an expansion to {what} elements"), Reads::Yes, model);
        let model =
            ModelBuilder::new().input("x", F32, [1, 1, 1]).initializer("s", longs(dims)).node("Tile", &["x", "s"], &["y"]).output("y");
        add(&format!("a tiling by {what}"), Reads::Yes, model);
    }
    let range = |start: i64, limit: i64, delta: i64| {
        let model = ModelBuilder::new().initializer("a", Tensor::scalar(start)).initializer("b", Tensor::scalar(limit));
        model.initializer("c", Tensor::scalar(delta)).node("Range", &["a", "b", "c"], &["y"]).output("y")
    };
    add("a range of 2^64 - 1 numbers", Reads::Yes, range(i64::MIN, i64::MAX, 1));
    add("a range in steps of 0", Reads::Yes, range(0, 10, 0));
    add("a range that never gets there", Reads::Yes, range(0, 10, -1));
    let pads =
        ModelBuilder::new().input("x", F32, [1]).initializer("p", longs(&[1 << 62, 1 << 62])).node("Pad", &["x", "p"], &["y"]).output("y");
    add("padding by 2^62", Reads::Yes, pads);
    let huge = |dim: i64| ModelBuilder::new().input("x", F32, [dim, dim]).node("Relu", &["x"], &["y"]).output("y");
    add("an input of 2^80 elements", Reads::Yes, huge(1 << 40));
    add("an input of 2^126 elements", Reads::Yes, huge(i64::MAX));
    add("an input of no elements", Reads::Yes, huge(0));
    let doubling = (0..40)
        .fold(ModelBuilder::new().input("x", F32, [1024]), |m, i| m.node("Concat", &[&name(i), &name(i)], &[&name(i + 1)]).attr("axis", 0));
    add("40 values, each twice as long as the one before", Reads::Yes, doubling.output(&name(40)));
    let conv = ModelBuilder::new().input("x", F32, [1, 1, 8, 8]).input("w", F32, [1, 1, 3, 3]).node("Conv", &["x", "w"], &["y"]);
    add("a convolution with strides of 0", Reads::Yes, conv.clone().attr("strides", [0i64, 0]).output("y"));
    add("a convolution in 0 groups", Reads::Yes, conv.clone().attr("group", 0).output("y"));
    add("a convolution padded by 2^62", Reads::Yes, conv.clone().attr("pads", [i64::MAX; 4]).output("y"));
    add("a convolution dilated by 2^62", Reads::Yes, conv.attr("dilations", [1i64 << 62; 2]).output("y"));
}

fn bodies(add: Add<'_>) {
    let nested = |depth: usize| {
        (1..depth).fold(ModelBuilder::new().node("Relu", &["x"], &["y"]).output("y"), |inner, i| {
            let y = format!("y{i}");
            ModelBuilder::new()
                .node("If", &["c"], &[&y])
                .attr("then_branch", inner.clone())
                .attr("else_branch", ModelBuilder::new().node("Exp", &["x"], &["y"]).output("y"))
                .output(&y)
        })
    };
    let outer = |m: ModelBuilder| m.input("x", F32, [4]).input("c", Bool, SCALAR);
    add("25 conditionals in one another", Reads::Yes, outer(nested(25)));
    add("31 conditionals in one another", Reads::Yes, outer(nested(31)));
    add("60 conditionals in one another", Reads::No("nested too deep"), outer(nested(60)));
    let body = ModelBuilder::new().node("If", &["c"], &["y"]).attr("then_branch", ModelBuilder::new()).output("y");
    add("a conditional with one branch, which is empty", Reads::Yes, outer(body));
    let endless =
        ModelBuilder::new().input("i", I64, SCALAR).input("go", Bool, SCALAR).node("Identity", &["go"], &["still"]).output("still");
    let looping = |count: &str| outer(ModelBuilder::new()).node("Loop", &[count, "c"], &["y"]).attr("body", endless.clone()).output("y");
    add("a loop without an end", Reads::Yes, looping(""));
    add("a loop of 2^63 - 1 rounds", Reads::Yes, looping("n").initializer("n", Tensor::scalar(i64::MAX)));
    let call = |name: &str| ModelBuilder::new().import("f", 1).input("x", F32, [4]).node(name, &["x"], &["y"]).domain("f").output("y");
    add("a function that calls itself", Reads::Yes, call("a").function(call("a").into_function("f", "a")));
    let pair = call("a").function(call("b").into_function("f", "a")).function(call("a").into_function("f", "b"));
    add("two functions that call each other", Reads::Yes, pair);
    let relu = || ModelBuilder::new().input("x", F32, [4]).node("Relu", &["x"], &["y"]).output("y");
    let chain = |n: usize| {
        let end = call("f0").function(relu().into_function("f", &format!("f{n}")));
        (0..n).fold(end, |m, i| m.function(call(&format!("f{}", i + 1)).into_function("f", &format!("f{i}"))))
    };
    add("a chain of 101 functions", Reads::Yes, chain(101));
    let twice = |callee: &str| {
        let m = ModelBuilder::new().import("f", 1).input("x", F32, [4]);
        m.node(callee, &["x"], &["m"]).domain("f").node(callee, &["m"], &["y"]).domain("f").output("y")
    };
    let bomb = (0..40).fold(call("f0").function(relu().into_function("f", "f40")), |m, i| {
        m.function(twice(&format!("f{}", i + 1)).into_function("f", &format!("f{i}")))
    });
    add("40 functions, each calling the next one twice", Reads::Yes, bomb);
    add("a function named like an operator", Reads::Yes, relu().function(relu().into_function("", "Relu")));
    add(
        "one function twice",
        Reads::No("defined twice"),
        call("a").function(relu().into_function("f", "a")).function(relu().into_function("f", "a")),
    );
}

fn data(add: Add<'_>) {
    let long = |dims: &[i64]| external("w", F32, dims, &[("location", "w.bin")]);
    let with = |t| ModelBuilder::new().initializer_of(t).output("w");
    add("weights in a file", Reads::No("without a folder"), with(long(&[4])));
    add("weights of 2^80 elements in a file", Reads::No("more elements than can be counted"), with(long(&[1 << 40, 1 << 40])));
    let mut short = crate::models::tensor("w", &Tensor::new(&[4], &[0f32; 4]));
    short.dims = vec![5];
    add("weights that are too short", Reads::No("raw_data has 16 bytes"), with(short.clone()));
    short.dims = vec![3];
    add("weights that are too long", Reads::No("raw_data has 16 bytes"), with(short.clone()));
    short.dims = vec![-4];
    add("weights of a negative size", Reads::No("not negative"), with(short));
    let empty = |dtype: DType| ModelBuilder::new().initializer("w", Tensor::zeros(dtype, &[0])).output("w");
    for &dtype in DType::ALL {
        add(&format!("an empty tensor of {dtype}"), Reads::Yes, empty(dtype));
        let scalar = ModelBuilder::new().initializer("w", Tensor::zeros(dtype, &[])).node("Identity", &["w"], &["y"]);
        add(&format!("a scalar of {dtype}"), Reads::Yes, scalar.output("y"));
    }
    let many = Tensor::strings(&[100_000], vec![String::new(); 100_000]);
    add("a hundred thousand strings", Reads::Yes, ModelBuilder::new().initializer("w", many).output("w"));
}
