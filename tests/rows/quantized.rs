//! Networks as quantizers write them, compiled, against the reference evaluator. All scales are powers of two, so that no order of
//! operations rounds differently.

use super::{F32, Growing, ModelBuilder, Tensor, compiled, data, kernels, samples};
use kiln_tests::samples::Rng;

/// Random networks.
const NETWORKS: u64 = 24;

/// A value of bytes while a network grows: its name, channels and side.
#[derive(Clone)]
struct Bytes {
    dequantized: String,
    c: usize,
    side: usize,
}

impl Growing {
    /// A conversion to u8 and back, as quantizers put them behind each operator.
    fn quantized(&mut self, x: &str, exponent: i32) -> String {
        let scale = self.w.initializer(Tensor::scalar(2f32.powi(exponent)));
        let zero = self.rng.pick(&[0u8, 255, 128, 7]);
        let zero = self.w.initializer(Tensor::scalar(zero));
        let q = self.w.node("QuantizeLinear", &[x, &scale, &zero]);
        self.w.node("DequantizeLinear", &[&q, &scale, &zero])
    }
    /// Weights of i8 with a scale for each output, and that scale's exponents.
    fn bytes(&mut self, dims: &[usize]) -> String {
        let seed = 31 + self.rng.below(1000) as u64;
        let w: Vec<i8> = samples::noise(seed, dims.iter().product()).iter().map(|x| (x * 127.0) as i8).collect();
        let scales: Vec<f32> = (0..dims[0]).map(|i| 2f32.powi(-9 - (i % 3) as i32)).collect();
        let (w, s) = (self.w.initializer(Tensor::new(dims, &w)), self.w.initializer(Tensor::new(&[dims[0]], &scales)));
        let zero = self.w.initializer(Tensor::new(&[dims[0]], &vec![0i8; dims[0]]));
        let y = self.w.node("DequantizeLinear", &[&w, &s, &zero]);
        self.w.attr("axis", 0);
        y
    }
    fn layer(&mut self, x: &Bytes) -> Bytes {
        let (k, size, stride, groups) = match self.rng.below(4) {
            0 => (self.rng.pick(&[1, 5, 16, 24, 64]), 1, self.rng.pick(&[1, 1, 2]), 1),
            1 => (x.c, 3, self.rng.pick(&[1, 2]), x.c),
            2 => (x.c, 1, 1, 1),
            _ => (self.rng.pick(&[3, 16, 33]), 3, self.rng.pick(&[1, 2]), 1),
        };
        let w = self.bytes(&[k, x.c / groups, size, size]);
        let bias: Vec<f32> = (0..k).map(|i| i as f32 / 8.0 - 1.0).collect();
        let bias = self.w.initializer(Tensor::new(&[k], &bias));
        let y = self.w.node("Conv", &[&x.dequantized, &w, &bias]);
        self.w.attr("pads", vec![size as i64 / 2; 4]);
        self.w.attr("strides", vec![stride as i64; 2]);
        self.w.attr("group", groups as i64);
        let y = if self.rng.below(3) == 0 { self.w.node("Relu", &[&y]) } else { y };
        Bytes { dequantized: self.quantized(&y, -4), c: k, side: (x.side - 1) / stride + 1 }
    }
}

fn network(seed: u64) -> (Vec<u8>, Vec<kiln::Value>) {
    let mut g = Growing::new(ModelBuilder::new().opset(21), seed, false);
    g.rng = Rng::new(seed + 100);
    let (batch, c) = (g.rng.pick(&[1, 2]), g.rng.pick(&[3, 16]));
    let x = g.input(&[batch, c, 9, 9], true);
    let mut values = vec![Bytes { dequantized: g.quantized(&x, -4), c, side: 9 }];
    for _ in 0..2 + g.rng.below(4) {
        let from = values[values.len() - 1].clone();
        let mut y = g.layer(&from);
        let like = values.iter().find(|v| (v.c, v.side) == (y.c, y.side)).cloned();
        if let Some(v) = like {
            let sum = g.w.node("Add", &[&y.dequantized, &v.dequantized]);
            y.dequantized = g.quantized(&sum, -3);
        } else if y.side > 4 && g.rng.below(3) == 0 {
            let pooled = g.w.node("MaxPool", &[&y.dequantized]);
            g.w.attr("kernel_shape", vec![3i64, 3]);
            g.w.attr("strides", vec![2i64, 2]);
            g.w.attr("pads", vec![1i64; 4]);
            y = Bytes { dequantized: g.quantized(&pooled, -4), side: (y.side - 1) / 2 + 1, ..y };
        }
        values.push(y);
    }
    let last = values[values.len() - 1].clone();
    let flat = g.w.node("Flatten", &[&last.dequantized]);
    let flat = g.quantized(&flat, -4);
    let w = g.bytes(&[10, last.c * last.side * last.side]);
    let y = g.w.node("Gemm", &[&flat, &w]);
    g.w.attr("transB", 1);
    let model = g.w.into_builder().output(&last.dequantized).output(&y);
    (model.build(), vec![data(seed, &[batch, c, 9, 9], false)])
}

#[test]
fn quantized_networks_are_integer_kernels() {
    let dir = compiled::folder(env!("CARGO_TARGET_TMPDIR"), "quantized");
    for seed in 0..NETWORKS {
        let (model, inputs) = network(seed);
        let kernels = kernels(&model);
        assert!(!kernels.iter().any(|k| ["conv", "depthwise conv", "gemm"].contains(k)), "seed {seed}: {kernels:?}");
        compiled::write(&dir.join(seed.to_string()), &model, vec![inputs]);
    }
    compiled::check(&dir);
}

#[test]
fn residual_blocks_of_bytes_are_two_kernels() {
    let model = ModelBuilder::new().opset(21).input("x", F32, [1, 16, 6, 6]);
    let mut g = Growing::new(model, 1, false);
    let x = g.quantized("x", -4);
    let mut y = x.clone();
    for _ in 0..2 {
        let w = g.bytes(&[16, 16, 1, 1]);
        let sums = g.w.node("Conv", &[&y, &w]);
        y = g.quantized(&sums, -4);
    }
    let sum = g.w.node("Add", &[&y, &x]);
    let z = g.quantized(&sum, -3);
    let model = g.w.into_builder().output(&z).build();
    assert_eq!(kernels(&model), ["map", "integer conv", "integer conv", "copy"]);
}
