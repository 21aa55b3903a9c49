//! Networks as quantizers write them, compiled, against the reference evaluator. All scales are powers of two, so that no order of
//! operations rounds differently.

use super::{F32, Growing, ModelBuilder, Tensor, compiled, data, kernels, samples};
use kiln_tests::samples::Rng;

/// Random networks.
const NETWORKS: u64 = 36;

/// The domain of operators on quantized tensors.
const DOMAIN: &str = "com.microsoft";

/// How a network is quantized.
#[derive(Clone, Copy)]
struct Style {
    /// Operators take integers and their parameters, instead of conversions that stand around them.
    operators: bool,
    /// Activations are i8, not u8.
    signed: bool,
    /// Weights are u8 with zero points, not i8 without.
    unsigned_weights: bool,
}

/// Numbers as bytes while a network grows: the integers, their scale and zero point, channels and side.
#[derive(Clone)]
struct Bytes {
    q: [String; 3],
    c: usize,
    side: usize,
}

/// Weights with their scales and zero points, and the scales as numbers.
struct Weights {
    q: [String; 3],
    scales: Vec<f32>,
}

impl Growing {
    /// A zero point that quantizers choose: an end of the type or one between.
    fn zero(&mut self, signed: bool) -> String {
        let zero = self.rng.pick(&[0u8, 255, 128, 7]);
        self.w.initializer(if signed { Tensor::scalar((zero ^ 0x80) as i8) } else { Tensor::scalar(zero) })
    }
    fn parameters(&mut self, exponent: i32, s: Style) -> [String; 2] {
        let scale = self.w.initializer(Tensor::scalar(2f32.powi(exponent)));
        [scale, self.zero(s.signed)]
    }
    fn quantize(&mut self, x: &str, exponent: i32, s: Style) -> [String; 3] {
        let [scale, zero] = self.parameters(exponent, s);
        [self.w.node("QuantizeLinear", &[x, &scale, &zero]), scale, zero]
    }
    fn dequantize(&mut self, [q, scale, zero]: &[String; 3]) -> String {
        self.w.node("DequantizeLinear", &[q, scale, zero])
    }
    /// A conversion to bytes and back, as quantizers put them behind each operator.
    fn quantized(&mut self, x: &str, exponent: i32, s: Style) -> String {
        let q = self.quantize(x, exponent, s);
        self.dequantize(&q)
    }
    /// Weights with a scale for each output; zero points of u8 are sometimes one for all.
    fn weights(&mut self, dims: &[usize], s: Style) -> Weights {
        let seed = 31 + self.rng.below(1000) as u64;
        let w: Vec<i8> = samples::noise(seed, dims.iter().product()).iter().map(|x| (x * 127.0) as i8).collect();
        let one = self.rng.below(2) == 0;
        let scales: Vec<f32> = (0..if one { 1 } else { dims[0] }).map(|i| 2f32.powi(-9 - (i % 3) as i32)).collect();
        let of = if one { &[][..] } else { &dims[..1] };
        let (w, zero) = match s.unsigned_weights {
            false => (Tensor::new(dims, &w), Tensor::new(of, &vec![0i8; scales.len()])),
            true => {
                let bytes: Vec<u8> = w.iter().map(|b| *b as u8 ^ 0x80).collect();
                let zeros: Vec<u8> = (0..scales.len()).map(|i| [128, 131, 0, 255][(seed as usize + i) % 4]).collect();
                (Tensor::new(dims, &bytes), Tensor::new(of, &zeros))
            }
        };
        let scale = Tensor::new(of, &scales);
        Weights { q: [w, scale, zero].map(|t| self.w.initializer(t)), scales }
    }
    fn numbers(&mut self, w: &Weights) -> String {
        let y = self.dequantize(&w.q);
        self.w.attr("axis", 0);
        y
    }
    /// A bias of i32 by the scales of a product, of `exponent` on the left.
    fn bias(&mut self, w: &Weights, k: usize, exponent: i32) -> [String; 2] {
        let bias: Vec<f32> = (0..k).map(|i| i as f32 / 8.0 - 1.0).collect();
        let scale = |i: usize| w.scales[i % w.scales.len()] * 2f32.powi(exponent);
        let whole: Vec<i32> = bias.iter().enumerate().map(|(i, b)| (b / scale(i)) as i32).collect();
        [self.w.initializer(Tensor::new(&[k], &bias)), self.w.initializer(Tensor::new(&[k], &whole))]
    }
    /// A node of the domain of operators on quantized tensors.
    fn contrib(&mut self, op: &str, inputs: &[&str]) -> String {
        let y = self.w.node(op, inputs);
        self.w.change(|b| b.domain(DOMAIN));
        y
    }
    fn layer(&mut self, x: &Bytes, exponent: i32, s: Style) -> Bytes {
        let (k, size, stride, groups) = match self.rng.below(4) {
            0 => (self.rng.pick(&[1, 5, 16, 24, 64]), 1, self.rng.pick(&[1, 1, 2]), 1),
            1 => (x.c, 3, self.rng.pick(&[1, 2]), x.c),
            2 => (x.c, 1, 1, 1),
            _ => (self.rng.pick(&[3, 16, 33]), 3, self.rng.pick(&[1, 2]), 1),
        };
        let w = self.weights(&[k, x.c / groups, size, size], s);
        let [bias, whole] = self.bias(&w, k, exponent);
        let q = match s.operators {
            true => {
                let [scale, zero] = self.parameters(-4, s);
                let [a, b, c] = &x.q;
                let y = self.w.node("QLinearConv", &[a, b, c, &w.q[0], &w.q[1], &w.q[2], &scale, &zero, &whole]);
                [y, scale, zero]
            }
            false => {
                let (x, w) = (self.dequantize(&x.q), self.numbers(&w));
                [self.w.node("Conv", &[&x, &w, &bias]), String::new(), String::new()]
            }
        };
        self.w.attr("pads", vec![size as i64 / 2; 4]);
        self.w.attr("strides", vec![stride as i64; 2]);
        self.w.attr("group", groups as i64);
        let q = match s.operators {
            true => q,
            false => {
                let y = if self.rng.below(3) == 0 { self.w.node("Relu", &[&q[0]]) } else { q[0].clone() };
                self.quantize(&y, -4, s)
            }
        };
        Bytes { q, c: k, side: (x.side - 1) / stride + 1 }
    }
    fn sum(&mut self, a: &Bytes, b: &Bytes, s: Style) -> Bytes {
        let q = match s.operators {
            true => {
                let [scale, zero] = self.parameters(-3, s);
                let operands: Vec<&str> = a.q.iter().chain(&b.q).chain([&scale, &zero]).map(String::as_str).collect();
                let y = self.contrib("QLinearAdd", &operands);
                [y, scale, zero]
            }
            false => {
                let (x, y) = (self.dequantize(&a.q), self.dequantize(&b.q));
                let sum = self.w.node("Add", &[&x, &y]);
                self.quantize(&sum, -3, s)
            }
        };
        Bytes { q, ..a.clone() }
    }
    fn pooled(&mut self, x: &Bytes, s: Style) -> Bytes {
        let from = if s.operators { x.q[0].clone() } else { self.dequantize(&x.q) };
        let y = self.w.node("MaxPool", &[&from]);
        self.w.attr("kernel_shape", vec![3i64, 3]);
        self.w.attr("strides", vec![2i64, 2]);
        self.w.attr("pads", vec![1i64; 4]);
        let q = match s.operators {
            true => [y, x.q[1].clone(), x.q[2].clone()],
            false => [self.w.node("QuantizeLinear", &[&y, &x.q[1], &x.q[2]]), x.q[1].clone(), x.q[2].clone()],
        };
        Bytes { q, side: (x.side - 1) / 2 + 1, ..x.clone() }
    }
    /// Bytes times their sigmoid, as operators on bytes.
    fn activated(&mut self, x: &Bytes, s: Style) -> Bytes {
        let [scale, zero] = self.parameters(-8, s);
        let [q, of, at] = &x.q;
        let gate = self.contrib("QLinearSigmoid", &[q, of, at, &scale, &zero]);
        let [result, result_zero] = self.parameters(-4, s);
        let y = self.contrib("QLinearMul", &[q, of, at, &gate, &scale, &zero, &result, &result_zero]);
        Bytes { q: [y, result, result_zero], ..x.clone() }
    }
    /// Ten numbers of all bytes, with `exponent` on the left.
    fn classifier(&mut self, x: &Bytes, exponent: i32, s: Style) -> String {
        let w = self.weights(&[10, x.c * x.side * x.side], s);
        let [bias, whole] = self.bias(&w, 10, exponent);
        let y = match s.operators {
            true => {
                let flat = self.w.node("Flatten", &[&x.q[0]]);
                let [scale, zero] = self.parameters(-2, s);
                let sums = self.contrib("QGemm", &[&flat, &x.q[1], &x.q[2], &w.q[0], &w.q[1], &w.q[2], &whole, &scale, &zero]);
                self.w.attr("transB", 1);
                return self.dequantize(&[sums, scale, zero]);
            }
            false => {
                let x = self.dequantize(&x.q);
                let flat = self.w.node("Flatten", &[&x]);
                let w = self.numbers(&w);
                self.w.node("Gemm", &[&flat, &w, &bias])
            }
        };
        self.w.attr("transB", 1);
        y
    }
}

fn network(seed: u64) -> (Vec<u8>, Vec<kiln::Value>) {
    let model = ModelBuilder::new().opset(21).import(DOMAIN, 1);
    let mut g = Growing::new(model, seed, false);
    g.rng = Rng::new(seed + 100);
    let s = Style { operators: seed % 3 == 1, signed: g.rng.below(2) == 0, unsigned_weights: g.rng.below(3) == 0 };
    let (batch, c) = (g.rng.pick(&[1, 2]), g.rng.pick(&[3, 16]));
    let x = g.input(&[batch, c, 9, 9], true);
    let q = g.quantize(&x, -4, s);
    let mut values = vec![(Bytes { q, c, side: 9 }, -4)];
    for _ in 0..2 + g.rng.below(4) {
        let (from, exponent) = values[values.len() - 1].clone();
        let mut y = (g.layer(&from, exponent, s), -4);
        if s.operators && g.rng.below(2) == 0 {
            y.0 = g.activated(&y.0, s);
        }
        let like = values.iter().find(|(v, _)| (v.c, v.side) == (y.0.c, y.0.side)).cloned();
        if let Some((v, _)) = like {
            y = (g.sum(&y.0, &v, s), -3);
        } else if y.0.side > 4 && g.rng.below(3) == 0 {
            y.0 = g.pooled(&y.0, s);
        }
        values.push(y);
    }
    let (last, exponent) = values[values.len() - 1].clone();
    let y = g.classifier(&last, exponent, s);
    let z = g.dequantize(&last.q);
    let model = g.w.into_builder().output(&z).output(&y);
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
    for signed in [false, true] {
        let s = Style { operators: false, signed, unsigned_weights: false };
        let model = ModelBuilder::new().opset(21).input("x", F32, [1, 16, 6, 6]);
        let mut g = Growing::new(model, 1, false);
        let x = g.quantized("x", -4, s);
        let mut y = x.clone();
        for _ in 0..2 {
            let w = g.weights(&[16, 16, 1, 1], s);
            let w = g.numbers(&w);
            let sums = g.w.node("Conv", &[&y, &w]);
            y = g.quantized(&sums, -4, s);
        }
        let sum = g.w.node("Add", &[&y, &x]);
        let z = g.quantized(&sum, -3, s);
        let model = g.w.into_builder().output(&z).build();
        assert_eq!(kernels(&model), ["map", "integer conv", "integer conv", "copy"]);
    }
}

/// A convolution of numbers that are quantized by their range at run time.
fn at_run_time(seed: u64) -> (Vec<u8>, Vec<kiln::Value>) {
    let mut g = Growing::new(ModelBuilder::new().opset(21), seed, false);
    g.rng = Rng::new(seed + 7);
    let s = Style { operators: false, signed: false, unsigned_weights: seed.is_multiple_of(2) };
    let (c, groups) = g.rng.pick(&[(3, 1), (16, 1), (7, 7), (64, 64)]);
    let k = if groups > 1 { c } else { g.rng.pick(&[1, 5, 33]) };
    let x = g.input(&[2, c, 7, 6], true);
    g.w.change(|b| b.node("DynamicQuantizeLinear", &[&x], &["q", "scale", "zero"]));
    let w = g.weights(&[k, c / groups, 3, 3], s);
    let sums = g.w.node("ConvInteger", &["q", &w.q[0], "zero", &w.q[2]]);
    g.w.attr("pads", vec![1i64, 0, 1, 1]);
    g.w.attr("group", groups as i64);
    let wide = g.w.node("Cast", &[&sums]);
    g.w.attr("to", 1);
    let scales = g.w.initializer(Tensor::new(&[w.scales.len(), 1, 1], &w.scales));
    let scale = g.w.node("Mul", &["scale", &scales]);
    let y = g.w.node("Mul", &[&wide, &scale]);
    let y = g.w.node("Relu", &[&y]);
    (g.w.into_builder().output(&y).build(), vec![data(seed, &[2, c, 7, 6], false)])
}

#[test]
fn convolutions_quantized_at_run_time_are_integer_kernels() {
    let dir = compiled::folder(env!("CARGO_TARGET_TMPDIR"), "at_run_time");
    for seed in 0..12 {
        let (model, inputs) = at_run_time(seed);
        let kernels = kernels(&model);
        assert!(kernels.iter().any(|k| k.ends_with("integer conv")), "seed {seed}: {kernels:?}");
        assert!(!kernels.iter().any(|k| k.starts_with("plain") || k.starts_with("igemm")), "seed {seed}: {kernels:?}");
        compiled::write(&dir.join(seed.to_string()), &model, vec![inputs]);
    }
    compiled::check(&dir);
}
