//! Random small graphs of operators that move elements and of everything that reads or writes what they move, compiled, against the
//! reference evaluator.

use kiln::{Tensor, Value};
use kiln_kernels::dtype::DType::{Bool, F32, I64};
use kiln_tests::compiled::{self, write};
use kiln_tests::models::{Dim, ModelBuilder, SCALAR};
use kiln_tests::samples::Rng;
use kiln_tests::writer::Writer;
use kiln_tests::{causal, samples};

mod dense;
mod packed;

/// Random graphs of each kind.
const GRAPHS: u64 = 60;
/// Nodes of one.
const NODES: usize = 14;
/// Values of more elements are not read on.
const MOST: usize = 30_000;

/// A value while a graph grows: its extents with the open one as it is in the first data set, and which one that is.
#[derive(Clone)]
struct V {
    name: String,
    shape: Vec<usize>,
    open: Option<usize>,
}

struct Growing {
    rng: Rng,
    w: Writer,
    values: Vec<V>,
    used: Vec<String>,
}

impl Growing {
    fn floats(&mut self, dims: &[usize]) -> String {
        let scale = 1.0 / (dims.iter().product::<usize>() as f32).sqrt();
        self.w.noise(dims, |x| x * scale)
    }
    fn node(&mut self, op: &str, inputs: &[&str], shape: Vec<usize>, open: Option<usize>) -> &mut Self {
        let name = self.w.node(op, inputs);
        self.used.extend(inputs.iter().map(|s| s.to_string()));
        self.values.push(V { name, shape, open });
        self
    }
    fn attr(&mut self, name: &str, value: impl kiln_tests::models::IntoAttribute) -> &mut Self {
        self.w.attr(name, value);
        self
    }
    fn value(&mut self) -> V {
        // Late values more often, so that chains grow.
        let n = self.values.len();
        let i = self.rng.below(n).max(self.rng.below(n));
        self.values[i].clone()
    }
    fn last(&self) -> V {
        self.values[self.values.len() - 1].clone()
    }
    fn transpose(&mut self, v: &V) {
        let mut perm: Vec<usize> = (0..v.shape.len()).collect();
        for i in (1..perm.len()).rev() {
            let j = self.rng.below(i + 1);
            perm.swap(i, j);
        }
        let open = v.open.and_then(|o| perm.iter().position(|p| *p == o));
        let shape = perm.iter().map(|p| v.shape[*p]).collect();
        self.node("Transpose", &[&v.name], shape, open).attr("perm", perm.iter().map(|p| *p as i64).collect::<Vec<_>>());
    }
    fn slice(&mut self, v: &V) {
        let axis = self.rng.below(v.shape.len());
        let n = v.shape[axis] as i64;
        if v.open == Some(axis) || n == 0 {
            return;
        }
        let step = self.rng.pick(&[1i64, 1, 1, 2, -1, -2]);
        let (a, b) = (self.rng.below(n as usize) as i64, self.rng.below(n as usize) as i64);
        let (low, high) = (a.min(b), a.max(b));
        let (start, end) = if step > 0 { (low, high + 1) } else { (high, low - 1) };
        let size = (high - low) / step.abs() + 1;
        let end = if end < 0 { i64::MIN } else { end };
        let args = [self.w.list(&[start]), self.w.list(&[end]), self.w.list(&[axis as i64]), self.w.list(&[step])];
        let mut shape = v.shape.clone();
        shape[axis] = size as usize;
        self.node("Slice", &[&v.name, &args[0], &args[1], &args[2], &args[3]], shape, v.open);
    }
    fn split(&mut self, v: &V) {
        let axis = self.rng.below(v.shape.len());
        let n = v.shape[axis];
        if v.open == Some(axis) || n < 2 {
            return;
        }
        // A piece may be empty.
        let first = self.rng.below(n + 1);
        let sizes = self.w.list(&[first as i64, (n - first) as i64]);
        let names = [(); 2].map(|_| self.w.name("t"));
        self.w.change(|b| b.node("Split", &[&v.name, &sizes], &[&names[0], &names[1]]).attr("axis", axis as i64));
        self.used.push(v.name.clone());
        for (name, n) in names.into_iter().zip([first, n - first]) {
            let mut shape = v.shape.clone();
            shape[axis] = n;
            self.values.push(V { name, shape, open: v.open });
        }
    }
    fn reshape(&mut self, v: &V) {
        let (mut shape, mut open) = (v.shape.clone(), v.open);
        let axis = self.rng.below(shape.len());
        if open == Some(axis) || shape.contains(&0) {
            return;
        }
        if self.rng.below(2) == 0 && axis + 1 < shape.len() && open != Some(axis + 1) {
            let n = shape.remove(axis + 1);
            shape[axis] *= n;
            open = open.map(|o| if o > axis { o - 1 } else { o });
        } else if shape.len() < 5 {
            let Some(k) = [2, 3, 4, 1].into_iter().find(|k| shape[axis].is_multiple_of(*k)) else { return };
            shape[axis] /= k;
            shape.insert(axis, k);
            open = open.map(|o| if o > axis { o + 1 } else { o });
        }
        let dims: Vec<i64> = shape.iter().enumerate().map(|(i, d)| if open == Some(i) { -1 } else { *d as i64 }).collect();
        let to = self.w.list(&dims);
        self.node("Reshape", &[&v.name, &to], shape, open);
    }
    fn expand(&mut self, v: &V) {
        let axis = self.rng.below(v.shape.len());
        let mut dims = vec![1i64; v.shape.len()];
        let mut shape = v.shape.clone();
        if v.shape[axis] == 1 && v.open != Some(axis) {
            (dims[axis], shape[axis]) = (3, 3);
        }
        let to = self.w.list(&dims);
        self.node("Expand", &[&v.name, &to], shape, v.open);
    }
    fn concat(&mut self, v: &V) {
        let axis = self.rng.below(v.shape.len());
        if v.open == Some(axis) {
            return;
        }
        let fits = |o: &V| {
            o.open == v.open
                && o.shape.len() == v.shape.len()
                && o.shape.iter().zip(&v.shape).enumerate().all(|(i, (a, b))| i == axis || a == b)
        };
        let mut parts = vec![v.clone()];
        let others: Vec<V> = self.values.iter().filter(|o| fits(o)).cloned().collect();
        for _ in 0..1 + self.rng.below(2) {
            let i = self.rng.below(others.len());
            parts.push(others[i].clone());
        }
        let mut shape = v.shape.clone();
        shape[axis] = parts.iter().map(|p| p.shape[axis]).sum();
        let names: Vec<&str> = parts.iter().map(|p| p.name.as_str()).collect();
        self.node("Concat", &names, shape, v.open).attr("axis", axis as i64);
    }
    fn pointwise(&mut self, v: &V) {
        let same: Vec<V> = self.values.iter().filter(|o| o.shape == v.shape && o.open == v.open).cloned().collect();
        match self.rng.below(4) {
            0 => self.node("Relu", &[&v.name], v.shape.clone(), v.open),
            1 => self.node("Tanh", &[&v.name], v.shape.clone(), v.open),
            2 => {
                let i = self.rng.below(same.len());
                self.node("Add", &[&v.name, &same[i].name], v.shape.clone(), v.open)
            }
            _ => {
                let n = *v.shape.last().unwrap_or(&1);
                let w = if v.open == Some(v.shape.len() - 1) { self.floats(&[1]) } else { self.floats(&[n]) };
                self.node("Add", &[&v.name, &w], v.shape.clone(), v.open)
            }
        };
    }
    fn product(&mut self, v: &V) {
        let rank = v.shape.len();
        if rank < 2 {
            return;
        }
        if self.rng.below(2) == 0 && v.open != Some(rank - 1) {
            let n = self.rng.pick(&[1, 5, 16, 24]);
            let w = self.floats(&[v.shape[rank - 1], n]);
            let mut shape = v.shape.clone();
            shape[rank - 1] = n;
            self.node("MatMul", &[&v.name, &w], shape, v.open);
        } else if v.open.is_none_or(|o| o + 2 < rank) {
            let mut perm: Vec<i64> = (0..rank as i64).collect();
            perm.swap(rank - 1, rank - 2);
            let mut shape = v.shape.clone();
            shape.swap(rank - 1, rank - 2);
            self.node("Transpose", &[&v.name], shape, v.open).attr("perm", perm);
            let t = self.last();
            let mut shape = v.shape.clone();
            shape[rank - 1] = shape[rank - 2];
            self.node("MatMul", &[&v.name, &t.name], shape, v.open);
        }
        let wide = self.last();
        self.node("Tanh", &[&wide.name], wide.shape.clone(), wide.open);
    }
    fn rows(&mut self, v: &V) {
        let last = v.shape.len() - 1;
        let n = v.shape[last];
        match self.rng.below(3) {
            0 => {
                let axis = self.rng.below(v.shape.len());
                self.node("Softmax", &[&v.name], v.shape.clone(), v.open).attr("axis", axis as i64);
            }
            1 if v.open != Some(last) && n > 1 => {
                let scale = self.floats(&[n]);
                self.node("LayerNormalization", &[&v.name, &scale], v.shape.clone(), v.open).attr("epsilon", 0.5);
            }
            _ => {
                let (mut shape, axes) = (v.shape.clone(), self.w.list(&[last as i64]));
                if v.open != Some(last) {
                    shape[last] = 1;
                    self.node("ReduceMean", &[&v.name, &axes], shape, v.open);
                }
            }
        }
    }
    /// Convolutions, pools, means and enlargements of images.
    fn window(&mut self, v: &V) {
        if v.shape.len() != 4 || v.open.is_some_and(|o| o > 0) || v.shape.contains(&0) {
            return;
        }
        let mut shape = v.shape.clone();
        let c = shape[1];
        match self.rng.below(7) {
            0 | 1 => {
                let (k, n) = (self.rng.pick(&[1usize, 3]), self.rng.pick(&[3usize, 8, 17]));
                let w = self.floats(&[n, c, k, k]);
                shape[1] = n;
                self.node("Conv", &[&v.name, &w], shape, v.open).attr("pads", vec![k as i64 / 2; 4]);
            }
            2 => {
                let w = self.floats(&[c, 1, 3, 3]);
                self.node("Conv", &[&v.name, &w], shape, v.open).attr("pads", vec![1i64; 4]).attr("group", c as i64);
            }
            3 => {
                self.node("MaxPool", &[&v.name], shape, v.open).attr("kernel_shape", vec![3i64, 3]).attr("pads", vec![1i64; 4]);
            }
            4 => {
                let (size, beta) = self.rng.pick(&[(1i64, 0.75), (3, 0.5), (4, 0.75)]);
                self.node("LRN", &[&v.name], shape, v.open).attr("size", size).attr("beta", beta).attr("alpha", 0.5);
            }
            5 => {
                shape[2..].fill(1);
                self.node("GlobalAveragePool", &[&v.name], shape, v.open);
            }
            _ => {
                let scales = self.w.initializer(Tensor::new(&[4], &[1f32, 1., 2., 2.]));
                shape[2..].iter_mut().for_each(|n| *n *= 2);
                self.node("Resize", &[&v.name, "", &scales], shape, v.open).attr("mode", "nearest");
                self.attr("nearest_mode", "floor").attr("coordinate_transformation_mode", "asymmetric");
            }
        }
    }
    fn grow(&mut self) {
        let v = self.value();
        if v.shape.is_empty() || v.shape.iter().product::<usize>() > MOST {
            return;
        }
        match self.rng.below(17) {
            0 | 1 => self.transpose(&v),
            2 | 3 => self.slice(&v),
            4 => self.split(&v),
            5 | 6 => self.reshape(&v),
            7 => self.expand(&v),
            8..=10 => self.concat(&v),
            11 | 12 => self.pointwise(&v),
            13 => self.product(&v),
            14 => self.rows(&v),
            _ => self.window(&v),
        }
    }
}

/// A graph, and its inputs for each data set.
fn random(seed: u64, open: bool) -> (Vec<u8>, Vec<Vec<Value>>) {
    let mut rng = Rng::new(seed);
    let shapes: [&[usize]; 5] = [&[2, 6, 5, 8], &[3, 12, 16], &[2, 16, 4, 4], &[1, 24, 9, 10], &[4, 30, 24]];
    let shape = rng.pick(&shapes).to_vec();
    let dims: Vec<Dim> = shape.iter().enumerate().map(|(i, d)| if open && i == 0 { Dim::from("b") } else { Dim::from(*d) }).collect();
    let model = ModelBuilder::new().opset(18).input("x", F32, dims);
    let values = vec![V { name: "x".into(), shape: shape.clone(), open: open.then_some(0) }];
    let mut g = Growing { rng, w: Writer::new(model, (), seed), values, used: vec![] };
    // Most graphs start from something computed, so that buffers are shared and not inputs.
    if g.rng.below(4) > 0 {
        g.node("Tanh", &["x"], shape.clone(), open.then_some(0));
    }
    for _ in 0..NODES {
        g.grow();
    }
    let mut model = g.w.into_builder();
    for (i, v) in g.values.iter().enumerate().skip(1) {
        if !g.used.contains(&v.name) || (i % 5 == 0 && v.shape.iter().product::<usize>() < MOST) {
            model = model.output(&v.name);
        }
    }
    let batches = if open { vec![shape[0], 1, 5] } else { vec![shape[0]] };
    let sets = batches.into_iter().map(|b| {
        let mut shape = shape.clone();
        shape[0] = b;
        vec![Tensor::new(&shape, &samples::noise(seed ^ b as u64, shape.iter().product())).into()]
    });
    (model.build(), sets.collect())
}

fn noise(seed: u64, dims: &[usize]) -> Value {
    Tensor::new(dims, &samples::noise(seed, dims.iter().product())).into()
}

/// Attention whose mask is the transpose of another value: its columns are not neighbours.
fn transposed_mask() -> ModelBuilder {
    ModelBuilder::new()
        .opset(18)
        .input("x", F32, [1, 2, 5, 8])
        .input("m", F32, [5, 5])
        .node("Tanh", &["m"], &["t"])
        .node("Transpose", &["t"], &["mask"])
        .node("Transpose", &["x"], &["k"])
        .attr("perm", vec![0i64, 1, 3, 2])
        .node("MatMul", &["x", "k"], &["s"])
        .node("Add", &["s", "mask"], &["masked"])
        .node("Softmax", &["masked"], &["p"])
        .node("MatMul", &["p", "x"], &["y"])
        .output("y")
        .output("t")
}

/// A convolution that reads an input by rows and adds it, pixel by pixel, to its result.
fn own_residual() -> ModelBuilder {
    ModelBuilder::new()
        .opset(18)
        .input("x", F32, [1, 6, 5, 4])
        .initializer("w", weight(4, &[6, 6, 3, 3]))
        .node("Conv", &["x", "w"], &["c"])
        .attr("pads", vec![1i64; 4])
        .node("Add", &["c", "x"], &["y"])
        .output("y")
}

/// Blocks whose convolutions read what a convolution around them made, hand out what they made, and carry it on.
fn inner_convolutions() -> ModelBuilder {
    let graph = |name: &str| ModelBuilder::new().graph_name(name);
    let yes = graph("yes").node("Conv", &["c", "w"], &["a"]).attr("pads", vec![1i64; 4]).output("a");
    let no = graph("no").node("Conv", &["c", "w"], &["b0"]).attr("pads", vec![1i64; 4]).node("Add", &["b0", "c"], &["b"]).output("b");
    let body = graph("body")
        .input("i", I64, SCALAR)
        .input("go", Bool, SCALAR)
        .input("acc", F32, ["1", "6", "5", "4"])
        .node("Conv", &["acc", "w"], &["d"])
        .attr("pads", vec![1i64; 4])
        .node("Tanh", &["d"], &["next"])
        .node("MaxPool", &["d"], &["small"])
        .attr("kernel_shape", vec![2i64, 2])
        .node("Identity", &["go"], &["on"])
        .output("on")
        .output("next")
        .output("small");
    ModelBuilder::new()
        .opset(18)
        .input("x", F32, [1, 6, 5, 4])
        .input("flag", Bool, SCALAR)
        .initializer("w", weight(4, &[6, 6, 3, 3]))
        .initializer("trips", Tensor::scalar(3i64))
        .node("Conv", &["x", "w"], &["c"])
        .attr("pads", vec![1i64; 4])
        .node("If", &["flag"], &["branch"])
        .attr("then_branch", yes)
        .attr("else_branch", no)
        .node("Loop", &["trips", "", "c"], &["last", "all"])
        .attr("body", body)
        .output("branch")
        .output("last")
        .output("all")
}

fn inner_inputs(flag: bool) -> Vec<Value> {
    vec![noise(9, &[1, 6, 5, 4]), Tensor::with_dtype(Bool, &[], &[flag as u8]).into()]
}

/// Graphs that chance would seldom draw.
fn chosen() -> Vec<(&'static str, ModelBuilder, Vec<Vec<Value>>)> {
    let ints = |x: &[i64]| Tensor::new(&[x.len()], x);
    let image = |m: ModelBuilder| m.opset(18).input("x", F32, ["n", "6", "7", "5"]).initializer("w", weight(1, &[8, 6, 1, 1]));
    let images = || vec![vec![noise(1, &[2, 6, 7, 5])], vec![noise(2, &[1, 6, 7, 5])]];
    let both = |m: ModelBuilder| m.node("Conv", &["x", "w"], &["a"]).node("Relu", &["x"], &["r"]).node("Conv", &["r", "w"], &["b"]);
    let heads = ModelBuilder::new().opset(18).input("x", F32, ["n", "s", "48"]).initializer("w", weight(2, &[48, 144]));
    let heads =
        heads.initializer("split", ints(&[0, 0, 3, 4, 12])).initializer("merge", ints(&[0, 0, 48])).initializer("o", weight(3, &[48, 48]));
    let heads = heads.node("MatMul", &["x", "w"], &["qkv"]).node("Reshape", &["qkv", "split"], &["p"]);
    let heads = heads.node("Transpose", &["p"], &["t"]).attr("perm", vec![2i64, 0, 3, 1, 4]).initializer("i", ints(&[0, 1, 2]));
    let mut heads = heads;
    for (k, name) in ["q", "k", "v"].into_iter().enumerate() {
        let (from, to) = (format!("from{k}"), format!("to{k}"));
        heads =
            heads.initializer(&from, ints(&[k as i64])).initializer(&to, ints(&[k as i64 + 1])).initializer(&format!("ax{k}"), ints(&[0]));
        heads = heads.node("Slice", &["t", &from, &to, &format!("ax{k}")], &[&format!("{name}5")]);
        heads = heads.node("Squeeze", &[&format!("{name}5"), &format!("ax{k}")], &[name]);
    }
    let heads = heads.node("Transpose", &["k"], &["kt"]).attr("perm", vec![0i64, 1, 3, 2]).node("MatMul", &["q", "kt"], &["s"]);
    let heads = heads.node("Softmax", &["s"], &["e"]).node("MatMul", &["e", "v"], &["c"]).node("Transpose", &["c"], &["ct"]);
    let heads =
        heads.attr("perm", vec![0i64, 2, 1, 3]).node("Reshape", &["ct", "merge"], &["m"]).node("MatMul", &["m", "o"], &["y"]).output("y");
    let in_place = ModelBuilder::new().opset(18).input("x", F32, ["9", "9"]).node("Tanh", &["x"], &["t"]).node("Transpose", &["t"], &["u"]);
    let in_place =
        in_place.node("Add", &["t", "u"], &["y"]).node("Relu", &["y"], &["z"]).node("Add", &["z", "u"], &["w"]).output("w").output("y");
    let scan = ModelBuilder::new().opset(18).input("x", F32, ["n", "10"]).input("from", I64, ["1"]).initializer("end", ints(&[i64::MAX]));
    let scan =
        scan.initializer("axis", ints(&[1])).node("Tanh", &["x"], &["t"]).initializer("one", ints(&[2])).initializer("six", ints(&[6]));
    let scan = scan.node("Slice", &["t", "from", "end", "axis"], &["rest"]).node("Slice", &["t", "one", "six", "axis"], &["some"]);
    let scan = scan
        .node("Relu", &["rest"], &["a"])
        .node("Softmax", &["some"], &["b"])
        .node("Concat", &["a", "b"], &["y"])
        .attr("axis", 1)
        .output("y");
    vec![
        ("a mask read by columns", transposed_mask(), vec![vec![noise(7, &[1, 2, 5, 8]), noise(8, &[5, 5])]]),
        ("a residual of its own operand", own_residual(), vec![vec![noise(9, &[1, 6, 5, 4])]]),
        ("convolutions in a branch and a loop", inner_convolutions(), vec![inner_inputs(true), inner_inputs(false)]),
        (
            "a part in two concats",
            both(image(ModelBuilder::new()))
                .node("Concat", &["a", "b"], &["y"])
                .attr("axis", 1)
                .node("Concat", &["b", "a", "a"], &["z"])
                .attr("axis", 1)
                .node("Relu", &["y"], &["yy"])
                .output("yy")
                .output("z"),
            images(),
        ),
        (
            "a concat handed out",
            both(image(ModelBuilder::new()))
                .node("Concat", &["a", "b"], &["y"])
                .attr("axis", 1)
                .node("Concat", &["a", "b"], &["z"])
                .attr("axis", 0)
                .node("Transpose", &["y"], &["t"])
                .attr("perm", vec![0i64, 2, 3, 1])
                .output("y")
                .output("z")
                .output("t"),
            images(),
        ),
        (
            "a part handed out",
            both(image(ModelBuilder::new()))
                .node("Concat", &["a", "b"], &["y"])
                .attr("axis", 1)
                .node("Relu", &["y"], &["z"])
                .output("a")
                .output("z"),
            images(),
        ),
        (
            "nested concats",
            both(image(ModelBuilder::new()))
                .node("Concat", &["a", "b"], &["y"])
                .attr("axis", 1)
                .node("Relu", &["a"], &["c"])
                .node("Concat", &["y", "c", "x"], &["z"])
                .attr("axis", 1)
                .node("MaxPool", &["z"], &["p"])
                .attr("kernel_shape", vec![2i64, 2])
                .node("GlobalAveragePool", &["y"], &["g"])
                .output("p")
                .output("g"),
            images(),
        ),
        ("heads", heads, vec![vec![noise(5, &[2, 7, 48])], vec![noise(6, &[1, 1, 48])]]),
        ("in place", in_place, vec![vec![noise(7, &[9, 9])]]),
        ("parts that only run time knows", scan, vec![vec![noise(8, &[3, 10]), Tensor::new(&[1], &[4i64]).into()]]),
    ]
}

fn weight(seed: u64, dims: &[usize]) -> Tensor {
    Tensor::new(dims, &samples::noise(seed, dims.iter().product()))
}

#[test]
fn moved_elements_are_read_and_written_where_they_lie() {
    let dir = compiled::folder(env!("CARGO_TARGET_TMPDIR"), "views");
    let only: Option<u64> = std::env::var("KILN_SEED").ok().and_then(|s| s.parse().ok());
    for seed in (0..GRAPHS).filter(|s| only.is_none_or(|o| o == *s)) {
        for open in [false, true] {
            let (model, sets) = random(seed, open);
            write(&dir.join(format!("{}_{seed}", if open { "open" } else { "closed" })), &model, sets);
        }
    }
    let lengths = || vec![vec![noise(3, &[2, 5, causal::WIDTH])], vec![noise(4, &[1, 1, causal::WIDTH])]];
    let masks = causal::spellings().into_iter().map(|(name, model)| (name, model, lengths()));
    for (name, model, sets) in chosen().into_iter().chain(masks) {
        write(&dir.join(name.replace(' ', "_")), &model.build(), sets);
    }
    let cases = compiled::check(&dir);
    assert!(only.is_some() || cases as u64 > 2 * GRAPHS);
}
