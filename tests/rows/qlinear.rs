//! Operators on quantized tensors by their definitions in plain loops, through the evaluator and compiled, with zero points of all kinds.

use super::compiled;
use kiln::{Tensor, Value};
use kiln_kernels::dtype::DType::{Bool, F32, I8, U8};
use kiln_tests::models::{IntoAttribute, ModelBuilder, tensor_type};
use kiln_tests::samples::{Rng, noise};

/// Quantized numbers: bytes as whole numbers, whether they are i8, scale and zero point.
#[derive(Clone)]
struct Quantized {
    dims: Vec<usize>,
    q: Vec<i32>,
    signed: bool,
    scale: f32,
    zero: i32,
}

impl Quantized {
    fn new(rng: &mut Rng, dims: &[usize], signed: bool, exponent: i32) -> Quantized {
        let low = if signed { -128 } else { 0 };
        let q = (0..dims.iter().product()).map(|_| low + rng.below(256) as i32).collect();
        let zero = low + rng.pick(&[0, 255, 128, 7, 131]);
        Quantized { dims: dims.to_vec(), q, signed, scale: 2f32.powi(exponent), zero }
    }
    fn bytes(&self, x: &[i32], dims: &[usize]) -> Tensor {
        match self.signed {
            true => Tensor::new(dims, &x.iter().map(|x| *x as i8).collect::<Vec<_>>()),
            false => Tensor::new(dims, &x.iter().map(|x| *x as u8).collect::<Vec<_>>()),
        }
    }
    fn tensor(&self) -> Tensor {
        self.bytes(&self.q, &self.dims)
    }
    fn numbers(&self) -> Vec<f32> {
        self.q.iter().map(|q| (q - self.zero) as f32 * self.scale).collect()
    }
    /// Numbers as these bytes, by the standard's words.
    fn of(&self, dims: &[usize], x: &[f32]) -> Tensor {
        let (low, high) = if self.signed { (-128, 127) } else { (0, 255) };
        let q: Vec<i32> =
            x.iter().map(|x| ((x / self.scale).round_ties_even() as i64 + i64::from(self.zero)).clamp(low, high) as i32).collect();
        self.bytes(&q, dims)
    }
}

/// A model of one node: its operands so far, of which some are inputs.
struct Node {
    m: ModelBuilder,
    names: Vec<String>,
    inputs: Vec<Value>,
}

impl Node {
    fn new() -> Node {
        Node { m: ModelBuilder::new().opset(21).import("com.microsoft", 1), names: vec![], inputs: vec![] }
    }
    fn input(mut self, t: Tensor) -> Node {
        let name = format!("x{}", self.names.len());
        self.m = self.m.input(&name, t.dtype, t.dims.clone());
        self.inputs.push(t.into());
        self.names.push(name);
        self
    }
    fn constant(mut self, t: Tensor) -> Node {
        let name = format!("c{}", self.names.len());
        self.m = self.m.initializer(&name, t);
        self.names.push(name);
        self
    }
    fn absent(mut self) -> Node {
        self.names.push(String::new());
        self
    }
    fn parameters(self, q: &Quantized) -> Node {
        self.constant(Tensor::scalar(q.scale)).constant(q.bytes(&[q.zero], &[]))
    }
    /// A quantized operand with its parameters.
    fn operand(self, q: &Quantized) -> Node {
        self.input(q.tensor()).parameters(q)
    }
    /// Constant bytes with their parameters.
    fn weights(self, q: &Quantized) -> Node {
        self.constant(q.tensor()).parameters(q)
    }
    fn op(mut self, domain: &str, op: &str) -> Node {
        let names: Vec<&str> = self.names.iter().map(String::as_str).collect();
        self.m = self.m.node(op, &names, &["y"]).domain(domain);
        self
    }
    fn contrib(self, op: &str) -> Node {
        self.op("com.microsoft", op)
    }
    fn attr(mut self, name: &str, value: impl IntoAttribute) -> Node {
        self.m = self.m.attr(name, value);
        self
    }
}

/// A case: the node, and the result it must have.
type Case = (&'static str, Node, Tensor);

fn binary(rng: &mut Rng, out: &mut Vec<Case>, signed: bool) {
    let (a, b) = (Quantized::new(rng, &[2, 3, 5], signed, -4), Quantized::new(rng, &[5], signed, -3));
    let y = Quantized::new(rng, &[], signed, -2);
    let (x, z) = (a.numbers(), b.numbers());
    let sums: Vec<f32> = (0..30).map(|i| x[i] + z[i % 5]).collect();
    let products: Vec<f32> = (0..30).map(|i| x[i] * z[i % 5]).collect();
    for (name, numbers) in [("QLinearAdd", sums), ("QLinearMul", products)] {
        out.push((name, Node::new().operand(&a).operand(&b).parameters(&y).contrib(name), y.of(&[2, 3, 5], &numbers)));
    }
    // Zero points may be left out: 0.
    let plain = Quantized { zero: 0, ..a.clone() };
    let node = Node::new().input(a.tensor()).constant(Tensor::scalar(a.scale)).absent();
    let node = node.operand(&b).constant(Tensor::scalar(y.scale));
    let sums: Vec<f32> = plain.numbers().iter().enumerate().map(|(i, x)| x + z[i % 5]).collect();
    out.push(("QLinearAdd without zero points", node.contrib("QLinearAdd"), Quantized { zero: 0, ..y }.of(&[2, 3, 5], &sums)));
}

fn unary(rng: &mut Rng, out: &mut Vec<Case>, signed: bool) {
    let (x, y) = (Quantized::new(rng, &[3, 7], signed, -5), Quantized::new(rng, &[], signed, -7));
    let sigmoid: Vec<f32> = x.numbers().iter().map(|x| 1.0 / (1.0 + (-x).exp())).collect();
    out.push(("QLinearSigmoid", Node::new().operand(&x).parameters(&y).contrib("QLinearSigmoid"), y.of(&[3, 7], &sigmoid)));
    let leaky: Vec<f32> = x.numbers().iter().map(|x| if *x < 0.0 { x * 0.125 } else { *x }).collect();
    let node = Node::new().operand(&x).parameters(&y).contrib("QLinearLeakyRelu").attr("alpha", 0.125f32);
    out.push(("QLinearLeakyRelu", node, y.of(&[3, 7], &leaky)));
    let rows = x.numbers();
    let softmax: Vec<f32> = rows
        .chunks(7)
        .flat_map(|r| {
            let most = r.iter().fold(f32::MIN, |a, b| a.max(*b));
            let e: Vec<f32> = r.iter().map(|x| (x - most).exp()).collect();
            let sum: f32 = e.iter().sum();
            e.into_iter().map(move |e| e / sum)
        })
        .collect();
    let node = Node::new().operand(&x).parameters(&y).contrib("QLinearSoftmax").attr("axis", -1).attr("opset", 13);
    out.push(("QLinearSoftmax", node, y.of(&[3, 7], &softmax)));
}

fn pools(rng: &mut Rng, out: &mut Vec<Case>, signed: bool) {
    let (x, y) = (Quantized::new(rng, &[2, 3, 4, 2], signed, -4), Quantized::new(rng, &[], signed, -4));
    let n = x.numbers();
    let global: Vec<f32> = n.chunks(8).map(|c| c.iter().sum::<f32>() / 8.0).collect();
    let node = || Node::new().operand(&x).parameters(&y);
    out.push(("QLinearGlobalAveragePool", node().contrib("QLinearGlobalAveragePool"), y.of(&[2, 3, 1, 1], &global)));
    // The same numbers with channels last.
    let turned: Vec<i32> = (0..48).map(|i| x.q[i / 24 * 24 + i % 3 * 8 + i / 3 % 8]).collect();
    let last = Quantized { dims: vec![2, 4, 2, 3], q: turned, ..x.clone() };
    let node_last = Node::new().operand(&last).parameters(&y).contrib("QLinearGlobalAveragePool").attr("channels_last", 1);
    out.push(("QLinearGlobalAveragePool, channels last", node_last, y.of(&[2, 1, 1, 3], &global)));
    let pooled: Vec<f32> = n.chunks(4).map(|w| w.iter().sum::<f32>() / 4.0).collect();
    let node = node().contrib("QLinearAveragePool").attr("kernel_shape", vec![2i64, 2]).attr("strides", vec![2i64, 2]);
    out.push(("QLinearAveragePool", node, y.of(&[2, 3, 2, 1], &pooled)));
}

fn moves(rng: &mut Rng, out: &mut Vec<Case>, signed: bool) {
    let (a, b) = (Quantized::new(rng, &[2, 3], signed, -4), Quantized::new(rng, &[2, 1], signed, -3));
    let y = Quantized::new(rng, &[], signed, -3);
    let (x, z) = (a.numbers(), b.numbers());
    let joined = [x[0], x[1], x[2], z[0], x[3], x[4], x[5], z[1]];
    let node = Node::new().parameters(&y).operand(&a).operand(&b).contrib("QLinearConcat").attr("axis", 1);
    out.push(("QLinearConcat", node, y.of(&[2, 4], &joined)));
    let pick = [1, 0, 1, 0, 1, 1];
    let picked: Vec<f32> = (0..6).map(|i| if pick[i] == 1 { x[i] } else { z[i / 3] }).collect();
    let mut condition = Tensor::zeros(Bool, &[2, 3]);
    condition.bytes_mut().copy_from_slice(&pick);
    let node = Node::new().input(condition).operand(&a).operand(&b).parameters(&y).contrib("QLinearWhere");
    out.push(("QLinearWhere", node, y.of(&[2, 3], &picked)));
}

/// The product of matrices `[m, k]` and `[k, n]`.
fn product(a: &[f32], b: &[f32], [m, k, n]: [usize; 3]) -> Vec<f32> {
    (0..m * n).map(|i| (0..k).map(|p| a[i / n * k + p] * b[p * n + i % n]).sum()).collect()
}

fn products(rng: &mut Rng, out: &mut Vec<Case>, signed: bool) {
    let [m, k, n] = [3, 11, 5];
    let of_b = rng.below(2) == 0;
    let (a, b) = (Quantized::new(rng, &[m, k], signed, -4), Quantized::new(rng, &[k, n], of_b, -8));
    let y = Quantized::new(rng, &[], signed, -1);
    let sums = product(&a.numbers(), &b.numbers(), [m, k, n]);
    let node = || Node::new().operand(&a).weights(&b).parameters(&y);
    out.push(("QLinearMatMul", node().op("", "QLinearMatMul"), y.of(&[m, n], &sums)));
    let computed = Node::new().operand(&a).operand(&b).parameters(&y).op("", "QLinearMatMul");
    out.push(("QLinearMatMul of computed operands", computed, y.of(&[m, n], &sums)));
    // Scales of both are 2^-12 together, and alpha 2.
    let bias: Vec<i32> = (0..n as i32).map(|i| (i - 2) * 3000).collect();
    let numbers: Vec<f32> = sums.iter().enumerate().map(|(i, s)| 2.0 * s + bias[i % n] as f32 * 2f32.powi(-11)).collect();
    let gemm = || Node::new().operand(&a).weights(&b).constant(Tensor::new(&[n], &bias));
    let node = gemm().parameters(&y).contrib("QGemm").attr("alpha", 2f32);
    out.push(("QGemm", node, y.of(&[m, n], &numbers)));
    out.push(("QGemm to numbers", gemm().contrib("QGemm").attr("alpha", 2f32), Tensor::new(&[m, n], &numbers)));
    let plain = noise(9, n);
    let biased: Vec<f32> = sums.iter().enumerate().map(|(i, s)| s + plain[i % n]).collect();
    let node = Node::new().input(a.tensor()).constant(b.tensor()).constant(Tensor::scalar(a.scale)).constant(Tensor::scalar(b.scale));
    let node = node.constant(a.bytes(&[a.zero], &[])).constant(b.bytes(&[b.zero], &[])).constant(Tensor::new(&[n], &plain));
    out.push(("MatMulIntegerToFloat", node.contrib("MatMulIntegerToFloat"), Tensor::new(&[m, n], &biased)));
}

fn dynamic(rng: &mut Rng, out: &mut Vec<Case>) {
    // A range of 0 to 255 in steps of one: the scale is 1, and so are the integers.
    let [m, k, n] = [4, 6, 3];
    let mut x: Vec<f32> = (0..m * k).map(|_| rng.below(256) as f32 - 100.0).collect();
    (x[0], x[1]) = (-100.0, 155.0);
    let of_b = rng.below(2) == 0;
    let b = Quantized::new(rng, &[k, n], of_b, -6);
    let sums = product(&x, &b.numbers(), [m, k, n]);
    let node = Node::new().input(Tensor::new(&[m, k], &x)).weights(&b).contrib("DynamicQuantizeMatMul");
    out.push(("DynamicQuantizeMatMul", node, Tensor::new(&[m, n], &sums)));
}

fn convolutions(rng: &mut Rng, out: &mut Vec<Case>, signed: bool) {
    let [batch, c, k, side] = [2, 3, 5, 4];
    let of_w = rng.below(2) == 0;
    let (x, w) = (Quantized::new(rng, &[batch, c, side, side], signed, -4), Quantized::new(rng, &[k, c, 1, 1], of_w, -7));
    let y = Quantized::new(rng, &[], signed, -1);
    let bias: Vec<i32> = (0..k as i32).map(|i| (i - 2) * 500).collect();
    let (n, f) = (x.numbers(), w.numbers());
    let pixels = side * side;
    let at = |i: usize| {
        let (image, channel, p) = (i / pixels / k, i / pixels % k, i % pixels);
        let sum: f32 = (0..c).map(|j| n[(image * c + j) * pixels + p] * f[channel * c + j]).sum();
        sum + bias[channel] as f32 * 2f32.powi(-11)
    };
    let numbers: Vec<f32> = (0..batch * k * pixels).map(at).collect();
    let want = y.of(&[batch, k, side, side], &numbers);
    let bias = Tensor::new(&[k], &bias);
    let node = Node::new().operand(&x).weights(&w).parameters(&y).constant(bias.clone());
    out.push(("QLinearConv", node.op("", "QLinearConv"), want.clone()));
    let node = Node::new().operand(&x).operand(&w).parameters(&y).constant(bias);
    out.push(("QLinearConv by computed weights", node.op("", "QLinearConv"), want));
}

#[test]
fn operators_on_bytes_are_their_definitions() {
    let dir = compiled::folder(env!("CARGO_TARGET_TMPDIR"), "qlinear");
    let mut rng = Rng::new(77);
    let mut cases: Vec<Case> = Vec::new();
    for signed in [false, true, false, true] {
        binary(&mut rng, &mut cases, signed);
        unary(&mut rng, &mut cases, signed);
        pools(&mut rng, &mut cases, signed);
        moves(&mut rng, &mut cases, signed);
        products(&mut rng, &mut cases, signed);
        convolutions(&mut rng, &mut cases, signed);
    }
    dynamic(&mut rng, &mut cases);
    for (i, (name, node, want)) in cases.into_iter().enumerate() {
        let model = node.m.output_of("y", tensor_type(want.dtype, want.dims.clone())).build();
        let got = compiled::expected(&model, node.inputs.clone()).remove(0);
        let got = got.as_tensor().unwrap();
        assert!([F32, U8, I8, Bool].contains(&got.dtype) && got.dims == want.dims, "{name}: {:?}", got.dims);
        if got.dtype == F32 {
            let near = got.slice::<f32>().iter().zip(want.slice::<f32>()).all(|(a, b)| (a - b).abs() <= 1e-5 * b.abs().max(1.0));
            assert!(near, "{name}, case {i}: {got:?} for {want:?}");
        } else {
            assert_eq!(*got, want, "{name}, case {i}");
        }
        compiled::write(&dir.join(i.to_string()), &model, vec![node.inputs]);
    }
    compiled::check(&dir);
}
