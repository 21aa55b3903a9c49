//! Kernels over rows with pointwise operators before and behind them, compiled, against the reference evaluator.

use kiln::{Tensor, Value};
use kiln_compiler::pipeline::{Ablation, optimize};
use kiln_compiler::plan::schedule;
use kiln_compiler::{import, onnx};
use kiln_kernels::dtype::DType::F32;
use kiln_tests::models::{Dim, ModelBuilder};
use kiln_tests::samples::Rng;
use kiln_tests::writer::Writer;
use kiln_tests::{compiled, samples};

mod experts;
mod narrow;
mod qlinear;
mod quantized;
mod tails;
mod winograd;

/// Random graphs of each kind.
const GRAPHS: u64 = 56;

/// A graph while it grows. Where the first axis is open, operands share its symbol or have one element there.
struct Growing {
    rng: Rng,
    w: Writer,
    open: bool,
    /// Shapes of the inputs, and whether the first axis is open.
    inputs: Vec<(Vec<usize>, bool)>,
}

impl Growing {
    fn new(model: ModelBuilder, seed: u64, open: bool) -> Growing {
        Growing { rng: Rng::new(seed), w: Writer::new(model, (), seed), open, inputs: vec![] }
    }
    fn input(&mut self, shape: &[usize], batch: bool) -> String {
        let name = format!("x{}", self.inputs.len());
        let open = self.open && batch;
        let dim = |(i, d): (usize, &usize)| if open && i == 0 { Dim::from("b") } else { Dim::from(*d) };
        let dims: Vec<Dim> = shape.iter().enumerate().map(dim).collect();
        self.w.change(|b| b.input(&name, F32, dims));
        self.inputs.push((shape.to_vec(), open));
        name
    }
    /// A tensor that broadcasts to a shape: dense, or the transpose or an odd slice of another.
    fn operand(&mut self, shape: &[usize]) -> String {
        let keep = self.rng.below(5);
        let mut own: Vec<usize> = shape.iter().map(|d| if keep == 0 || self.rng.below(3) > 0 { *d } else { 1 }).collect();
        let batch = own.first().is_some_and(|d| *d > 1 && *d == shape[0]);
        if !self.open && keep == 1 && !own.is_empty() {
            own.remove(0);
        }
        let rank = own.len();
        match self.rng.below(5) {
            0 if rank > 1 && !self.open => {
                own.reverse();
                let x = self.input(&own, batch);
                let perm: Vec<i64> = (0..rank as i64).rev().collect();
                let y = self.w.node("Transpose", &[&x]);
                self.w.attr("perm", perm);
                y
            }
            1 if rank > 1 || rank > 0 && !self.open => {
                let last = own[rank - 1] as i64;
                own[rank - 1] += 3;
                let x = self.input(&own, batch);
                let args = [self.w.list(&[1]), self.w.list(&[1 + last]), self.w.list(&[rank as i64 - 1])];
                self.w.node("Slice", &[&x, &args[0], &args[1], &args[2]])
            }
            _ => self.input(&own, batch),
        }
    }
    /// A few pointwise operators behind a value of that shape.
    fn pointwise(&mut self, v: &str, shape: &[usize], most: usize) -> String {
        let mut v = v.to_string();
        for _ in 0..self.rng.below(most + 1) {
            v = match self.rng.below(6) {
                0 => self.w.node("Tanh", &[&v]),
                1 => self.w.node("Mul", &[&v, &v]),
                2 => {
                    let y = self.operand(shape);
                    self.w.node("Sub", &[&y, &v])
                }
                3 => {
                    let y = self.operand(shape);
                    self.w.node("Max", &[&v, &y])
                }
                _ => {
                    let (op, y) = (self.rng.pick(&["Add", "Mul"]), self.operand(shape));
                    self.w.node(op, &[&v, &y])
                }
            };
        }
        v
    }
    /// A kernel over rows; gives the shape of its result.
    fn rows(&mut self, v: &str, shape: &[usize]) -> (String, Vec<usize>) {
        let rank = shape.len();
        let axis = 1 + self.rng.below(rank - 1);
        let row = &shape[axis..];
        match self.rng.below(8) {
            7 => {
                let p = 1 + self.rng.below(2) as i64;
                let y = self.w.node("LpNormalization", &[v]);
                self.w.attr("p", p);
                (y, shape.to_vec())
            }
            6 => {
                let name = self.w.noise(row, |x| x);
                let y = self.w.node("RMSNormalization", &[v, &name]);
                self.w.attr("axis", axis as i64);
                (y, shape.to_vec())
            }
            kind @ (0 | 1) => {
                let mut names = vec![v.to_string()];
                names.extend((0..=kind).map(|_| self.w.noise(row, |x| x)));
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                let y = self.w.node("LayerNormalization", &names);
                self.w.attr("axis", axis as i64);
                self.w.attr("epsilon", 0.25);
                (y, shape.to_vec())
            }
            kind @ (2 | 3) => {
                let y = self.w.node(["Softmax", "LogSoftmax"][kind - 2], &[v]);
                self.w.attr("axis", -1);
                (y, shape.to_vec())
            }
            _ => {
                let modes = ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare"];
                let (mode, keep) = (self.rng.pick(&modes), self.rng.below(2));
                let axes = self.w.list(&(axis as i64..rank as i64).collect::<Vec<_>>());
                let y = self.w.node(mode, &[v, &axes]);
                self.w.attr("keepdims", keep as i64);
                let ones = if keep == 1 { vec![1; rank - axis] } else { vec![] };
                (y, [&shape[..axis], &ones].concat())
            }
        }
    }
}

/// Noise in which some elements are not finite, or zero with a sign.
fn data(seed: u64, shape: &[usize], special: bool) -> Value {
    let mut x = samples::noise(seed, shape.iter().product());
    if special {
        let specials = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, 0.0];
        x.iter_mut().enumerate().filter(|(i, _)| i % 37 == 5).for_each(|(i, v)| *v = specials[i / 37 % 5]);
    }
    Tensor::new(shape, &x).into()
}

/// A graph, and its inputs for each data set.
fn random(seed: u64, open: bool) -> (Vec<u8>, Vec<Vec<Value>>) {
    let mut rng = Rng::new(seed);
    let shapes: [&[usize]; 9] =
        [&[1, 1], &[2, 5, 33], &[3, 16], &[2, 3, 4, 9], &[7, 1, 20], &[40, 600], &[2, 0, 6], &[3, 0], &[2, 2, 3000]];
    // An open extent of 1 could not be told from one that is repeated.
    let shape = rng.pick(if open { &shapes[1..] } else { &shapes }).to_vec();
    let mut g = Growing { rng, ..Growing::new(ModelBuilder::new().opset(23), seed, open) };
    let x = g.input(&shape, true);
    let before = g.pointwise(&x, &shape, 4);
    let (y, result) = g.rows(&before, &shape);
    let behind = g.pointwise(&y, &result, 4);
    let mut outputs = vec![behind.clone()];
    match g.rng.below(4) {
        // The operand of the rows is handed out, or read again.
        0 if before != x => outputs.push(before),
        1 if before != x => outputs.push(g.w.node("Neg", &[&before])),
        2 if result == shape => outputs.push(g.w.node("Add", &[&before, &behind])),
        _ => {}
    }
    let model = outputs.iter().fold(g.w.into_builder(), |m, o| m.output(o));
    let batches = if open { vec![shape[0], 1, 5] } else { vec![shape[0]] };
    let special = seed % 4 == 3;
    let sets = batches.into_iter().map(|b| {
        let resized = |(i, (s, open)): (usize, &(Vec<usize>, bool))| {
            let mut s = s.clone();
            if *open {
                s[0] = b;
            }
            data(seed ^ (b + 8 * i) as u64, &s, special)
        };
        g.inputs.iter().enumerate().map(resized).collect()
    });
    (model.build(), sets.collect())
}

/// A rotary embedding in one of its spellings, of heads as a projection leaves them: `[batch, tokens, heads, width]`, read transposed.
fn rotary(seed: u64) -> (ModelBuilder, Vec<Value>) {
    let mut rng = Rng::new(seed);
    let [interleaved, each, partial] = [0, 1, 2].map(|i| seed >> i & 1 == 1);
    let (batch, tokens, heads, half) = (1 + rng.below(2), rng.pick(&[1, 5, 40]), 1 + rng.below(3), rng.pick(&[1usize, 3, 16, 32]));
    let rest = if partial { 1 + rng.below(6) } else { 0 };
    let angles = [1, 1, tokens, if each { 2 * half } else { half }];
    let sizes = [batch, tokens, heads, 2 * half + rest];
    let cut = |b: ModelBuilder, x: &str, y: &str, [from, to, step]: [usize; 3]| {
        let names = ["from", "to", "axis", "step"].map(|n| format!("{y}_{n}"));
        let values = [from as i64, to as i64, 3, step as i64];
        let b = names.iter().zip(values).fold(b, |b, (n, v)| b.initializer(n, Tensor::new(&[1], &[v])));
        b.node("Slice", &[x, &names[0], &names[1], &names[2], &names[3]], &[y])
    };
    let mut b = ModelBuilder::new().opset(18).input("in", F32, sizes.map(|d| d as i64));
    b = b.input("cos", F32, angles.map(|d| d as i64)).input("sin", F32, angles.map(|d| d as i64));
    b = b.node("Transpose", &["in"], &["heads"]).attr("perm", vec![0i64, 2, 1, 3]);
    let x = if partial { "x" } else { "heads" };
    if partial {
        b = cut(b, "heads", "x", [0, 2 * half, 1]);
        b = cut(b, "heads", "rest", [2 * half, 2 * half + rest, 1]);
    }
    let (first, second) = if interleaved { ([0, 2 * half, 2], [1, 2 * half, 2]) } else { ([0, half, 1], [half, 2 * half, 1]) };
    b = cut(cut(b, x, "x1", first), x, "x2", second);
    let (left, right) = if each {
        b = b.node("Neg", &["x2"], &["minus"]);
        ("minus", "x1")
    } else {
        b = b.node("Mul", &["x1", "cos"], &["p"]).node("Mul", &["sin", "x2"], &["q"]).node("Sub", &["p", "q"], &["real"]);
        b = b.node("Mul", &["x1", "sin"], &["r"]).node("Mul", &["x2", "cos"], &["s"]).node("Add", &["r", "s"], &["imaginary"]);
        ("real", "imaginary")
    };
    b = match interleaved {
        true => b
            .initializer("last", Tensor::new(&[1], &[4i64]))
            .initializer("flat", Tensor::new(&[4], &[0i64, 0, 0, 2 * half as i64]))
            .node("Unsqueeze", &[left, "last"], &["left"])
            .node("Unsqueeze", &[right, "last"], &["right"])
            .node("Concat", &["left", "right"], &["pairs"])
            .attr("axis", 4)
            .node("Reshape", &["pairs", "flat"], &["turned"]),
        false => b.node("Concat", &[left, right], &["turned"]).attr("axis", 3),
    };
    if each {
        b = b.node("Mul", &[x, "cos"], &["kept"]).node("Mul", &["turned", "sin"], &["moved"]).node("Add", &["kept", "moved"], &["y"]);
    }
    let y = if each { "y" } else { "turned" };
    b = match partial {
        true => b.node("Concat", &[y, "rest"], &["out"]).attr("axis", -1).output("out"),
        false => b.output(y),
    };
    (b, vec![data(seed, &sizes, seed % 3 == 2), data(seed + 1, &angles, false), data(seed + 2, &angles, false)])
}

/// A normalization of groups as exporters spell it, with an activation behind it, and perhaps a sum before.
fn groups(seed: u64) -> (ModelBuilder, Vec<Value>) {
    let mut rng = Rng::new(seed);
    let (groups, each) = (1 + rng.below(4), 1 + rng.below(3));
    let sizes = [1 + rng.below(2), groups * each, rng.pick(&[1, 4, 17]), rng.pick(&[1, 5, 16])];
    let by_channel = [1, sizes[1], 1, 1];
    let mut b = ModelBuilder::new().opset(18).input("in", F32, sizes.map(|d| d as i64)).input("shift", F32, by_channel.map(|d| d as i64));
    let shape = |d: &[usize]| Tensor::new(&[d.len()], &d.iter().map(|d| *d as i64).collect::<Vec<_>>());
    for (name, seed) in [("scale", 1), ("bias", 2)] {
        b = b.initializer(name, Tensor::new(&by_channel[1..], &samples::noise(seed, sizes[1])));
    }
    let count = sizes[1..].iter().product::<usize>() / groups;
    b = b.initializer("rows", shape(&[sizes[0], groups, count])).initializer("image", shape(&sizes));
    b = b
        .initializer("ones", Tensor::new(&[groups], &vec![1f32; groups]))
        .initializer("zeros", Tensor::new(&[groups], &vec![0f32; groups]));
    let x = if seed.is_multiple_of(2) { "in" } else { "sum" };
    b = b.node("Add", &["in", "shift"], &["sum"]).node("Reshape", &[x, "rows"], &["flat"]);
    b = b.node("InstanceNormalization", &["flat", "ones", "zeros"], &["even"]).attr("epsilon", 1e-3);
    b = b.node("Reshape", &["even", "image"], &["back"]).node("Mul", &["back", "scale"], &["scaled"]).node(
        "Add",
        &["scaled", "bias"],
        &["y"],
    );
    b = b.node("Sigmoid", &["y"], &["gate"]).node("Mul", &["y", "gate"], &["out"]).output("out");
    (b, vec![data(seed, &sizes, seed % 5 == 4), data(seed + 1, &by_channel, false)])
}

/// Rows of which inputs, or the data itself, decide how long they are.
fn chosen() -> Vec<(&'static str, ModelBuilder, Vec<Vec<Value>>)> {
    let scaled = |b: ModelBuilder, x: &str| b.initializer("c", Tensor::scalar(0.125f32)).node("Mul", &[x, "c"], &["scaled"]);
    let masked = ModelBuilder::new().opset(18).input("x", F32, ["b", "n", "m"]).input("mask", F32, ["n", "m"]);
    let masked = scaled(masked, "x").node("Add", &["scaled", "mask"], &["sum"]).node("Softmax", &["sum"], &["p"]).attr("axis", -1);
    let masked = masked.node("Tanh", &["p"], &["y"]).output("y");
    let sets = [[2, 3, 7], [1, 1, 1], [3, 1, 2500], [2, 0, 4], [1, 5, 0]];
    let masked_sets = sets.iter().map(|s| vec![data(1, s, false), data(2, &s[1..], false)]).collect();
    // How many elements are not zero is known only when they have been counted.
    let counted = ModelBuilder::new().opset(18).input("x", F32, ["n"]).node("NonZero", &["x"], &["at"]);
    let counted = scaled(counted.node("Cast", &["at"], &["float"]).attr("to", 1), "float").node("LogSoftmax", &["scaled"], &["p"]);
    let counted = counted.attr("axis", -1).node("Mul", &["p", "p"], &["y"]).output("y").output("scaled");
    let alone = ModelBuilder::new().opset(18).input("x", F32, ["n"]).node("NonZero", &["x"], &["at"]);
    let alone = scaled(alone.node("Cast", &["at"], &["float"]).attr("to", 1), "float").node("Softmax", &["scaled"], &["p"]);
    let alone = alone.attr("axis", -1).output("p");
    let counts = || [5, 3000, 0].map(|n| vec![data(3, &[n], false)]).to_vec();
    vec![("open rows", masked, masked_sets), ("counted rows", counted, counts()), ("rows in scratch", alone, counts())]
}

/// Kernels that compute a model.
fn kernels(model: &[u8]) -> Vec<&'static str> {
    let model = onnx::read(model, None, &Default::default()).unwrap();
    let mut g = import::import(&model, &Default::default()).unwrap();
    optimize(&mut g, Ablation::Nothing, &mut |_, _| {}).unwrap();
    schedule(g, Ablation::Nothing, Default::default(), Default::default()).kernels().iter().map(|s| s.kernel.name()).collect()
}

#[test]
fn rotary_embeddings_are_one_kernel() {
    let dir = compiled::folder(env!("CARGO_TARGET_TMPDIR"), "rotary");
    for seed in 0..24 {
        let (model, inputs) = rotary(seed);
        let model = model.build();
        assert_eq!(kernels(&model), ["rotary"], "seed {seed}");
        compiled::write(&dir.join(seed.to_string()), &model, vec![inputs]);
    }
    compiled::check(&dir);
}

#[test]
fn normalized_groups_are_one_kernel() {
    let dir = compiled::folder(env!("CARGO_TARGET_TMPDIR"), "groups");
    for seed in 0..12 {
        let (model, inputs) = groups(seed);
        let model = model.build();
        assert_eq!(kernels(&model), ["group norm"], "seed {seed}");
        compiled::write(&dir.join(seed.to_string()), &model, vec![inputs]);
    }
    compiled::check(&dir);
}

#[test]
fn rows_are_read_and_written_once() {
    let dir = compiled::folder(env!("CARGO_TARGET_TMPDIR"), "rows");
    let only: Option<u64> = std::env::var("KILN_SEED").ok().and_then(|s| s.parse().ok());
    for seed in (0..GRAPHS).filter(|s| only.is_none_or(|o| o == *s)) {
        for open in [false, true] {
            let (model, sets) = random(seed, open);
            compiled::write(&dir.join(format!("{}_{seed}", if open { "open" } else { "closed" })), &model, sets);
        }
    }
    for (name, model, sets) in chosen() {
        compiled::write(&dir.join(name.replace(' ', "_")), &model.build(), sets);
    }
    let cases = compiled::check(&dir);
    assert!(only.is_some() || cases as u64 > 2 * GRAPHS);
}
