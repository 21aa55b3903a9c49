//! Pointwise operators behind a kernel, or alone, whose values others read too: kernels that store more than one, compiled, against the
//! reference evaluator.

use super::{Dim, F32, Growing, ModelBuilder, Rng, Tensor, Value, compiled, data, kernels, samples};

/// Random graphs of each kind.
const GRAPHS: u64 = 48;

impl Growing {
    pub(super) fn weight(&mut self, dims: &[usize]) -> String {
        let scale = 1.0 / (dims[1..].iter().product::<usize>().max(1) as f32).sqrt();
        self.w.noise(dims, |x| x * scale)
    }
    pub(super) fn conv(&mut self, x: &str, [c, k, size, groups]: [usize; 4]) -> String {
        let w = self.weight(&[k, c / groups, size, size]);
        let y = self.w.node("Conv", &[x, &w]);
        self.w.attr("pads", vec![size as i64 / 2; 4]);
        self.w.attr("group", groups as i64);
        y
    }
    /// A kernel that takes a pointwise tail, or none; gives the shape of its result. What is quantized by its range is `finite`, and what
    /// may be convolved by tiles, of which an infinity reaches all.
    fn anchor(&mut self, batch: usize, finite: &mut bool) -> (String, Vec<usize>) {
        let kind = self.rng.below(9);
        let [c, k] = [[1, 3, 16, 17], [1, 5, 16, 24]].map(|from| self.rng.pick(&from));
        let (h, w) = self.rng.pick(&[(1, 1), (5, 7), (12, 13)]);
        match kind {
            0..=3 => {
                let x = self.input(&[batch, c, h, w], true);
                let size = self.rng.pick(&[1, 3]);
                *finite |= size == 3;
                // Every channel alone, or all together.
                let (k, groups) = if kind == 1 { (c, c) } else { (k, 1) };
                let y = self.conv(&x, [c, k, size, groups]);
                if kind < 3 {
                    return (y, vec![batch, k, h, w]);
                }
                let each = self.rng.pick(&[1, k]);
                let (scale, bias) = (self.weight(&[k]), self.weight(&[k]));
                let y = self.w.node(["InstanceNormalization", "GroupNormalization"][usize::from(each > 1)], &[&y, &scale, &bias]);
                self.w.attr("epsilon", 0.5);
                if each > 1 {
                    let groups = self.rng.pick(&[1, k as i64]);
                    self.w.attr("num_groups", groups);
                }
                (y, vec![batch, k, h, w])
            }
            4 | 5 => {
                let x = self.input(&[batch, h, c], true);
                let right = if kind == 4 { self.weight(&[c, k]) } else { self.input(&[batch, c, k], true) };
                (self.w.node("MatMul", &[&x, &right]), vec![batch, h, k])
            }
            // Bytes by constant bytes, and their sums as f32.
            6 => {
                *finite = true;
                let x = self.input(&[batch, h, c], true);
                let [bytes, scale, zero] = ["bytes", "scale", "zero"].map(|name| self.w.name(name));
                let weights: Vec<i8> = samples::noise(7, c * k).iter().map(|x| (x * 100.0) as i8).collect();
                let right = self.w.initializer(Tensor::new(&[c, k], &weights));
                self.w.change(|b| b.node("DynamicQuantizeLinear", &[&x], &[&bytes, &scale, &zero]));
                let sums = self.w.node("MatMulInteger", &[&bytes, &right, &zero]);
                let y = self.w.node("Cast", &[&sums]);
                self.w.attr("to", 1);
                (y, vec![batch, h, k])
            }
            7 => {
                let x = self.input(&[batch, h, c], true);
                let y = self.w.node("Tanh", &[&x]);
                (y, vec![batch, h, c])
            }
            _ => (self.input(&[batch, w, k], true), vec![batch, w, k]),
        }
    }
}

/// A graph, and its inputs for each data set.
fn random(seed: u64, open: bool) -> (Vec<u8>, Vec<Vec<Value>>) {
    let mut rng = Rng::new(seed);
    let batch = if open { 2 } else { rng.pick(&[1, 2, 3]) };
    let mut g = Growing { rng, ..Growing::new(ModelBuilder::new().opset(21), seed, open) };
    let mut finite = seed % 4 < 3;
    let (y, shape) = g.anchor(batch, &mut finite);
    let mut values = vec![y];
    for _ in 0..2 + g.rng.below(6) {
        let (a, b) = (values[g.rng.below(values.len())].clone(), values[values.len() - 1].clone());
        values.push(match g.rng.below(6) {
            0 => g.w.node("Tanh", &[&b]),
            1 => g.w.node("Relu", &[&a]),
            2 => g.w.node("Sub", &[&a, &b]),
            kind => {
                let y = g.operand(&shape);
                g.w.node(["Add", "Mul", "Max"][kind - 3], &[&b, &y])
            }
        });
    }
    let made = values.len() - usize::from(g.inputs.iter().enumerate().any(|(i, _)| values[0] == format!("x{i}")));
    let values = values.split_off(values.len() - made);
    let mut outputs = vec![values[made - 1].clone()];
    for v in &values[..made - 1] {
        match g.rng.below(6) {
            0 => outputs.push(v.clone()),
            1 => {
                let y = g.w.node("Concat", &[&values[made - 1], v]);
                g.w.attr("axis", 1);
                outputs.push(y);
            }
            2 if shape.len() == 4 => {
                let y = g.conv(v, [shape[1], 5, 3, 1]);
                finite = true;
                outputs.push(y);
            }
            _ => {}
        }
    }
    outputs.dedup();
    let model = outputs.iter().fold(g.w.into_builder(), |m, o| m.output(o));
    let batches = if open { vec![2, 1, 5, 0] } else { vec![batch] };
    let sets = batches.into_iter().map(|b| {
        let resized = |(i, (s, open)): (usize, &(Vec<usize>, bool))| {
            let mut s = s.clone();
            if *open {
                s[0] = b;
            }
            data(seed ^ (b + 8 * i) as u64, &s, !finite)
        };
        g.inputs.iter().enumerate().map(resized).collect()
    });
    (model.build(), sets.collect())
}

/// Residual blocks with their activations before the convolutions; the sum is read by the next sum, and activated by the next block.
fn preactivated(blocks: usize) -> Vec<u8> {
    let shape = [Dim::from(1usize), Dim::from(8usize), Dim::from(6usize), Dim::from(6usize)].to_vec();
    let model = ModelBuilder::new().opset(21).input("x0", F32, shape);
    let mut g = Growing::new(model, 1, false);
    let mut sum = g.conv("x0", [8, 8, 3, 1]);
    for _ in 0..blocks {
        let (scale, shift) = (g.weight(&[8, 1, 1]), g.weight(&[8, 1, 1]));
        let scaled = g.w.node("Mul", &[&sum, &scale]);
        let shifted = g.w.node("Add", &[&scaled, &shift]);
        let active = g.w.node("Relu", &[&shifted]);
        let y = g.conv(&active, [8, 8, 3, 1]);
        sum = g.w.node("Add", &[&y, &sum]);
    }
    g.w.into_builder().output(&sum).build()
}

#[test]
fn residual_sums_are_stored_with_what_is_made_of_them() {
    assert_eq!(kernels(&preactivated(3)), ["conv"; 4].iter().copied().chain(["copy"]).collect::<Vec<_>>());
    let alone = ModelBuilder::new().opset(21).input("a", F32, [64, 64]).input("b", F32, [64, 64]).node("Add", &["a", "b"], &["s"]);
    let alone = alone.node("Tanh", &["s"], &["t"]).node("Sub", &["a", "b"], &["d"]).output("s").output("t").output("d");
    assert_eq!(kernels(&alone.build()), ["map", "map"], "a kernel stores two values at most");
}

#[test]
fn norms_between_convolutions_keep_channels_last() {
    let model = ModelBuilder::new().opset(21).input("x", F32, [2, 8, 6, 6]);
    let mut g = Growing::new(model, 1, false);
    let first = g.conv("x", [8, 16, 3, 1]);
    let (scale, bias) = (g.weight(&[16]), g.weight(&[16]));
    let even = g.w.node("GroupNormalization", &[&first, &scale, &bias]);
    g.w.attr("num_groups", 4);
    let gate = g.w.node("Sigmoid", &[&even]);
    let active = g.w.node("Mul", &[&even, &gate]);
    let rows = g.w.node("Transpose", &[&active]);
    g.w.attr("perm", vec![0i64, 2, 3, 1]);
    let even = g.w.node("LayerNormalization", &[&rows, &scale, &bias]);
    let pixels = g.w.node("Transpose", &[&even]);
    g.w.attr("perm", vec![0i64, 3, 1, 2]);
    let last = g.conv(&pixels, [16, 8, 3, 1]);
    assert_eq!(kernels(&g.w.into_builder().output(&last).build()), ["conv", "group norm", "layer norm", "conv", "copy"]);
}

#[test]
fn tails_store_what_others_read() {
    let dir = compiled::folder(env!("CARGO_TARGET_TMPDIR"), "tails");
    let only: Option<u64> = std::env::var("KILN_SEED").ok().and_then(|s| s.parse().ok());
    for seed in (0..GRAPHS).filter(|s| only.is_none_or(|o| o == *s)) {
        for open in [false, true] {
            let (model, sets) = random(seed, open);
            compiled::write(&dir.join(format!("{}_{seed}", if open { "open" } else { "closed" })), &model, sets);
        }
    }
    // An image without its batch, behind a convolution.
    let model = ModelBuilder::new().opset(21).input("x", F32, [1, 3, 5, 7]).input("y", F32, [16, 5, 7]);
    let mut g = Growing::new(model, 1, false);
    let v = g.conv("x", [3, 16, 1, 1]);
    let sum = g.w.node("Add", &[&v, "y"]);
    compiled::write(
        &dir.join("image"),
        &g.w.into_builder().output(&sum).build(),
        vec![vec![data(1, &[1, 3, 5, 7], false), data(2, &[16, 5, 7], false)]],
    );
    compiled::check(&dir);
}
