//! Products with weights of few bits as quantizers and exporters write them: what they mean, and compiled, against the reference evaluator.

use super::{Ablation, F32, Growing, ModelBuilder, Tensor, compiled, data, import, kernels, onnx, optimize, samples, schedule};
use kiln::Value;
use kiln_compiler::Accuracy;
use kiln_kernels::dtype::{DType, bf16, f16};
use kiln_tests::models::tensor;
use kiln_tests::samples::Rng;
use prost::Message as _;

/// Random integers below `2^bits`.
fn integers(rng: &mut Rng, n: usize, bits: usize) -> Vec<u8> {
    (0..n).map(|_| rng.below(1 << bits) as u8).collect()
}

/// Integers of `bits` bits, each list packed low bits first into whole bytes.
fn packed<'a>(lists: impl Iterator<Item = &'a [u8]>, bits: usize) -> Vec<u8> {
    let each = 8 / bits;
    lists.flat_map(|l| l.chunks(each).map(|c| c.iter().enumerate().fold(0, |b, (i, x)| b | x << (i * bits))).collect::<Vec<_>>()).collect()
}

/// The parameters of a `MatMulNBits`.
#[derive(Clone, Copy, Debug)]
struct NBits {
    bits: usize,
    block: usize,
    k: usize,
    n: usize,
    zeros: Option<DType>,
    bias: bool,
    dtype: DType,
}

/// Its weights, as integers and numbers: codes and zero points `[n][blocks * block]` and `[n][blocks]`, scales alike.
struct Weights {
    codes: Vec<u8>,
    scales: Vec<f32>,
    zeros: Vec<f32>,
    bias: Vec<f32>,
}

impl NBits {
    fn blocks(&self) -> usize {
        self.k.div_ceil(self.block)
    }
    fn weights(&self, rng: &mut Rng, seed: u64) -> Weights {
        let each = self.n * self.blocks();
        let middle = (1 << (self.bits - 1)) as f32;
        let zeros = match self.zeros {
            None => vec![middle; each],
            Some(DType::U8) => integers(rng, each, self.bits).into_iter().map(f32::from).collect(),
            Some(_) => samples::noise(seed + 2, each).iter().map(|z| middle * (1.0 + (z * 16.0).round() / 16.0)).collect(),
        };
        // Scales and biases that f16 has too.
        let rounded = |x: &f32| f16::from_f32(x / (8 << self.bits) as f32).to_f32();
        Weights {
            codes: integers(rng, each * self.block, self.bits),
            scales: samples::noise(seed, each).iter().map(rounded).collect(),
            zeros,
            bias: samples::noise(seed + 1, self.n).iter().map(rounded).collect(),
        }
    }
    /// The product of a row, by the definition.
    fn of(&self, w: &Weights, x: &[f32], col: usize) -> f64 {
        let start = if self.bias { f64::from(w.bias[col]) } else { 0.0 };
        x.iter().enumerate().fold(start, |sum, (p, x)| {
            let block = col * self.blocks() + p / self.block;
            let code = f64::from(w.codes[col * self.blocks() * self.block + p]);
            sum + f64::from(*x) * (code - f64::from(w.zeros[block])) * f64::from(w.scales[block])
        })
    }
}

impl Growing {
    fn floats(&mut self, dtype: DType, dims: &[usize], x: &[f32]) -> String {
        let t = match dtype {
            DType::F16 => Tensor::new(dims, &x.iter().map(|x| f16::from_f32(*x)).collect::<Vec<_>>()),
            DType::Bf16 => Tensor::new(dims, &x.iter().map(|x| bf16::from_f32(*x)).collect::<Vec<_>>()),
            _ => Tensor::new(dims, x),
        };
        self.w.initializer(t)
    }
    /// `MatMulNBits` of a value.
    fn nbits(&mut self, x: &str, p: &NBits, w: &Weights) -> String {
        let blocks = p.blocks();
        let codes = packed(w.codes.chunks(p.block), p.bits);
        let codes = self.w.initializer(Tensor::new(&[p.n, blocks, p.block * p.bits / 8], &codes));
        let scales = self.floats(p.dtype, &[p.n, blocks], &w.scales);
        let zeros = match p.zeros {
            None => String::new(),
            Some(DType::U8) => {
                let whole: Vec<u8> = w.zeros.iter().map(|z| *z as u8).collect();
                let bytes = packed(whole.chunks(blocks), p.bits);
                self.w.initializer(Tensor::new(&[p.n, bytes.len() / p.n], &bytes))
            }
            Some(_) => self.floats(p.dtype, &[p.n, blocks], &w.zeros),
        };
        let bias = if p.bias { self.floats(p.dtype, &[p.n], &w.bias) } else { String::new() };
        let y = self.w.node("MatMulNBits", &[x, &codes, &scales, &zeros, "", &bias]);
        self.w.change(|b| b.domain("com.microsoft"));
        for (name, value) in [("K", p.k), ("N", p.n), ("bits", p.bits), ("block_size", p.block), ("accuracy_level", 4)] {
            self.w.attr(name, value as i64);
        }
        y
    }
    /// A matrix `[k, n]`, or its transpose, as DequantizeLinear or Cast makes it of what is stored.
    fn stored(&mut self, [k, n]: [usize; 2], turned: bool) -> String {
        let seed = self.rng.below(1000) as u64;
        let dims = if turned { [n, k] } else { [k, n] };
        if self.rng.below(3) == 0 {
            let half = self.rng.pick(&[DType::F16, DType::Bf16]);
            let x = self.floats(half, &dims, &samples::noise(seed, k * n));
            let y = self.w.node("Cast", &[&x]);
            self.w.attr("to", 1);
            return y;
        }
        let dtype = self.rng.pick(&[DType::U4, DType::I4, DType::U8, DType::I8, DType::U2]);
        let mut codes = Tensor::zeros(dtype, &dims);
        codes.bytes_mut().iter_mut().for_each(|b| *b = self.rng.below(256) as u8);
        let axis = usize::from(turned);
        // Blocks along the depth, one scale a column, or one for all.
        let kind = self.rng.below(3);
        let block = self.rng.pick(&[16, 32, 48, 512]);
        let mut each = dims;
        each[axis] = k.div_ceil(block);
        let shape: &[usize] = match kind {
            0 => &each,
            1 => &[n],
            _ => &[],
        };
        let scales: Vec<f32> = samples::noise(seed, shape.iter().product()).iter().map(|s| s / 64.0).collect();
        let scales = self.w.initializer(Tensor::new(shape, &scales));
        let codes = self.w.initializer(codes);
        let mut inputs = vec![codes, scales];
        if self.rng.below(2) == 0 {
            let mut zeros = Tensor::zeros(dtype, shape);
            zeros.bytes_mut().iter_mut().for_each(|b| *b = self.rng.below(256) as u8);
            inputs.push(self.w.initializer(zeros));
        }
        let y = self.w.node("DequantizeLinear", &inputs.iter().map(String::as_str).collect::<Vec<_>>());
        self.w.attr("axis", if kind == 1 { 1 - axis } else { axis } as i64);
        if kind == 0 {
            self.w.attr("block_size", block as i64);
        }
        y
    }
}

fn parameters(rng: &mut Rng, dtype: DType) -> NBits {
    NBits {
        bits: rng.pick(&[2, 4, 4, 8]),
        block: rng.pick(&[16, 32, 64, 128, 256, 512]),
        k: rng.pick(&[16, 33, 96, 300, 600]),
        n: rng.pick(&[1, 16, 31, 130]),
        zeros: rng.pick(&[None, Some(DType::U8), Some(dtype)]),
        bias: rng.below(2) == 0,
        dtype,
    }
}

#[test]
fn products_of_few_bits_have_the_meaning_that_is_written_down() {
    for seed in 0..60 {
        let mut rng = Rng::new(seed);
        let dtype = rng.pick(&[DType::F32, DType::F32, DType::F16]);
        let p = parameters(&mut rng, dtype);
        let (m, w) = (rng.pick(&[1, 3]), p.weights(&mut rng, seed));
        let b = ModelBuilder::new().opset(21).import("com.microsoft", 1).input("x", dtype, [m, p.k]);
        let mut g = Growing::new(b, seed, false);
        let y = g.nbits("x", &p, &w);
        let model = g.w.into_builder().output(&y).build();
        let x: Vec<f32> = samples::noise(seed + 9, m * p.k).iter().map(|x| f16::from_f32(*x).to_f32()).collect();
        let given = match dtype {
            DType::F32 => Tensor::new(&[m, p.k], &x),
            _ => Tensor::new(&[m, p.k], &x.iter().map(|x| f16::from_f32(*x)).collect::<Vec<_>>()),
        };
        let found = compiled::expected(&model, vec![given.into()]);
        let Value::Tensor(found) = &found[0] else { panic!("a tensor") };
        assert_eq!(found.dims, [m, p.n]);
        for (i, y) in found.to_f64s().unwrap().into_iter().enumerate() {
            let want = p.of(&w, &x[i / p.n * p.k..][..p.k], i % p.n);
            let near = if dtype == DType::F32 { 1e-4 } else { 2e-3 };
            assert!((y - want).abs() <= near * (1.0 + want.abs()), "{p:?}: {i} is {y}, not {want}");
        }
    }
}

fn network(seed: u64, open: bool) -> (Vec<u8>, Vec<usize>) {
    let mut g = Growing::new(ModelBuilder::new().opset(25).import("com.microsoft", 1), seed, open);
    g.rng = Rng::new(seed + 7);
    let p = NBits { dtype: F32, ..parameters(&mut g.rng, F32) };
    let m = g.rng.pick(&[1, 2, 8]);
    let x = g.input(&[m, p.k], true);
    let w = p.weights(&mut Rng::new(seed), seed);
    let y = g.nbits(&x, &p, &w);
    let y = g.w.node("Relu", &[&y]);
    let (n, turned) = (g.rng.pick(&[5, 48]), g.rng.below(2) == 0);
    let b = g.stored([p.n, n], turned);
    let z = if turned {
        let bias = g.w.noise(&[n], |v| v);
        let z = g.w.node("Gemm", &[&y, &b, &bias]);
        g.w.attr("transB", 1);
        z
    } else {
        g.w.node("MatMul", &[&y, &b])
    };
    let z = g.w.node("Tanh", &[&z]);
    (g.w.into_builder().output(&y).output(&z).build(), vec![m, p.k])
}

#[test]
fn weights_of_few_bits_are_never_widened_for_few_rows() {
    for seed in 0..40 {
        let (model, shape) = network(seed, false);
        // Nothing else: tails are computed by the kernels.
        let found = kernels(&model);
        assert_eq!(found, ["narrow gemm"; 2], "seed {seed}, {shape:?}");
    }
}

#[test]
fn networks_of_few_bits_equal_their_graphs() {
    let dir = compiled::folder(env!("CARGO_TARGET_TMPDIR"), "narrow");
    for seed in 0..32 {
        let open = seed % 2 == 0;
        let (model, shape) = network(seed, open);
        let rows = if open { vec![shape[0], 0, 60] } else { vec![shape[0]] };
        let sets = rows.into_iter().map(|m| vec![data(seed ^ m as u64, &[m, shape[1]], seed % 5 == 4)]).collect();
        compiled::write(&dir.join(seed.to_string()), &model, sets);
    }
    compiled::check(&dir);
}

#[test]
fn the_fast_level_rounds_weights_to_bf16() {
    let model = |round: bool| {
        let mut g = Growing::new(ModelBuilder::new().opset(21).input("x", F32, [1, 40]), 5, false);
        let w = g.w.noise(&[40, 24], |v| if round { bf16::from_f32(v).to_f32() } else { v });
        let y = g.w.node("MatMul", &["x", &w]);
        g.w.into_builder().output(&y).build()
    };
    let names = |accuracy| {
        let model = onnx::read(&model(false), None, &Default::default()).unwrap();
        let mut g = import::import(&model, &Default::default()).unwrap();
        optimize(&mut g, Ablation::Nothing, &mut |_, _| {}).unwrap();
        let plan = schedule(g, Ablation::Nothing, accuracy, Default::default());
        plan.kernels().iter().map(|s| s.kernel.name()).collect::<Vec<_>>()
    };
    assert_eq!(names(Accuracy::Fast), ["narrow gemm"]);
    assert_eq!([names(Accuracy::Standard), names(Accuracy::Exact)], [["gemm"]; 2]);

    // What is rounded already stays, to all digits of f32; other weights do not.
    let dir = compiled::folder(env!("CARGO_TARGET_TMPDIR"), "fast");
    std::fs::create_dir_all(&dir).unwrap();
    let inputs = vec![data(3, &[1, 40], false)];
    let near = |round: bool, tolerance: &str| {
        let (file, model) = (dir.join(format!("{round}.onnx")), model(round));
        let outputs = compiled::expected(&model, inputs.clone());
        std::fs::write(&file, &model).unwrap();
        for (name, values) in [("in", &inputs), ("out", &outputs)] {
            std::fs::write(dir.join(format!("{name}_0.pb")), tensor("", values[0].as_tensor().unwrap()).encode_to_vec()).unwrap();
        }
        let mut compare = std::process::Command::new(kiln_tests::command());
        compare.arg("compare").arg(&file).arg("--expect").arg(&dir).args(["--accuracy", "fast", "--atol", tolerance, "--rtol", "0"]);
        compare.env("XDG_CACHE_HOME", dir.with_file_name("cache")).status().unwrap().success()
    };
    assert!(near(true, "1e-5") && !near(false, "1e-5") && near(false, "3e-2"));
}

#[test]
fn what_is_not_supported_says_what_to_do() {
    let refused = |bits: i64, order: bool| {
        let p = NBits { bits: 4, block: 32, k: 32, n: 4, zeros: None, bias: false, dtype: F32 };
        let w = p.weights(&mut Rng::new(1), 1);
        let mut g = Growing::new(ModelBuilder::new().opset(21).import("com.microsoft", 1).input("x", F32, [1, 32]), 1, false);
        let codes = g.w.initializer(Tensor::new(&[4, 1, 16], &packed(w.codes.chunks(32), 4)));
        let (scales, index) = (g.floats(F32, &[4, 1], &w.scales), g.w.initializer(Tensor::new(&[32], &[0i32; 32])));
        let y = g.w.node("MatMulNBits", &["x", &codes, &scales, "", if order { &index } else { "" }]);
        g.w.change(|b| b.domain("com.microsoft"));
        for (name, value) in [("K", p.k as i64), ("N", p.n as i64), ("block_size", p.block as i64), ("bits", bits)] {
            g.w.attr(name, value);
        }
        let model = onnx::read(&g.w.into_builder().output(&y).build(), None, &Default::default()).unwrap();
        format!("{:?}", import::import(&model, &Default::default()).expect_err("it is refused"))
    };
    let order = refused(4, true);
    assert!(order.contains("g_idx") && order.contains("act_order"), "{order}");
    let bits = refused(3, false);
    assert!(bits.contains("3 bits") && bits.contains("2, 4 or 8"), "{bits}");
}

#[test]
fn the_standard_level_stores_large_matrices_for_few_rows_as_fixed_point() {
    // A tied embedding, and a factor of its own; `odd` stands in one of the weights.
    let model = |rows: usize, odd: f32| {
        let noise = |seed: u64, dims: &[usize]| Tensor::new(dims, &samples::noise(seed, dims.iter().product()));
        let mut other = noise(4, &[80, 900]);
        other.slice_mut::<f32>()[77] = odd;
        ModelBuilder::new()
            .opset(17)
            .input("ids", DType::I64, [rows as i64])
            .initializer("table", noise(3, &[1030, 80]))
            .initializer("other", other)
            .node("Gather", &["table", "ids"], &["rows"])
            .node("Tanh", &["rows"], &["h"])
            .node("Transpose", &["table"], &["factor"])
            .attr("perm", vec![1i64, 0])
            .node("MatMul", &["h", "factor"], &["scores"])
            .node("Sigmoid", &["rows"], &["s"])
            .node("MatMul", &["s", "other"], &["y"])
            .output("rows")
            .output("scores")
            .output("y")
            .build()
    };
    let planned = |model: &[u8], accuracy| {
        let model = onnx::read(model, None, &Default::default()).unwrap();
        let mut g = import::import(&model, &Default::default()).unwrap();
        optimize(&mut g, Ablation::Nothing, &mut |_, _| {}).unwrap();
        let plan = schedule(g, Ablation::Nothing, accuracy, Default::default());
        let narrow = plan.kernels().iter().filter(|s| s.kernel.name() == "narrow gemm").count();
        (narrow, plan.weights.bytes)
    };
    let panel = |n: usize, bits: usize| n.next_multiple_of(16) * 80 * bits / 8;
    let near = |(narrow, bytes): (usize, usize), (want, most): (usize, usize)| {
        // Steps of columns, and places at multiples of a cache line.
        assert!(narrow == want && bytes <= most + 3000 * 4 * 2, "{narrow} narrow, {bytes} bytes, not {want} and {most}");
    };
    let both = panel(1030, 24) + panel(900, 24);
    near(planned(&model(8, 1.0), Accuracy::Standard), (2, both));
    near(planned(&model(8, 1.0), Accuracy::Exact), (0, both / 3 * 4));
    near(planned(&model(9, 1.0), Accuracy::Standard), (0, both / 3 * 4));
    for odd in [f32::NAN, f32::NEG_INFINITY, 2e30] {
        near(planned(&model(1, odd), Accuracy::Standard), (1, panel(1030, 24) + panel(900, 32)));
    }

    let dir = compiled::folder(env!("CARGO_TARGET_TMPDIR"), "fixed");
    for (rows, odd) in [(1, 1.0), (8, -300.0), (3, f32::INFINITY)] {
        let ids: Vec<i64> = [0, 1029, -1, -1030, 15, 16, 517, 1][..rows].to_vec();
        compiled::write(&dir.join(rows.to_string()), &model(rows, odd), vec![vec![Tensor::new(&[rows], &ids).into()]]);
    }
    compiled::check(&dir);
}
