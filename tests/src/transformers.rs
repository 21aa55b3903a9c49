//! Transformer blocks as exporters write them: one network, several spellings.

use crate::models::ModelBuilder;
use crate::writer::Writer;
use kiln_kernels::dtype::DType::{F32, I64};
use kiln_kernels::value::Tensor;

/// How a network is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spelling {
    /// One operator where ONNX has one, scale behind the scores, GELU as `x * 0.5 * (1 + erf(x / sqrt 2))`.
    Whole,
    /// Normalizations, softmax and means in small operators, half the scale on queries and on keys, GELU bracketed the other way.
    Spelled,
}

/// Extents of the networks here: sequence, width, heads, vocabulary.
pub const SEQ: usize = 6;
/// Elements of a token's vector.
pub const WIDTH: usize = 24;
/// Heads.
pub const HEADS: usize = 3;
/// Tokens.
pub const VOCABULARY: usize = 50;

impl Writer<Spelling> {
    fn scalar(&mut self, x: f32) -> String {
        self.initializer(Tensor::scalar(x))
    }
    fn weight(&mut self, dims: &[usize]) -> String {
        self.noise(dims, |v| v * 0.3 + 0.01)
    }
    fn mean(&mut self, x: &str) -> String {
        let axes = self.list(&[-1]);
        self.node("ReduceMean", &[x, &axes])
    }
    fn norm(&mut self, x: &str) -> String {
        let (g, b) = (self.weight(&[WIDTH]), self.weight(&[WIDTH]));
        if self.spelling == Spelling::Whole {
            let y = self.node("LayerNormalization", &[x, &g, &b]);
            self.attr("epsilon", 1e-5);
            return y;
        }
        let m = self.mean(x);
        let d = self.node("Sub", &[x, &m]);
        let two = self.scalar(2.0);
        let square = self.node("Pow", &[&d, &two]);
        let v = self.mean(&square);
        let eps = self.scalar(1e-5);
        let v = self.node("Add", &[&v, &eps]);
        let s = self.node("Sqrt", &[&v]);
        let y = self.node("Div", &[&d, &s]);
        let y = self.node("Mul", &[&y, &g]);
        self.node("Add", &[&y, &b])
    }
    fn linear(&mut self, x: &str, from: usize, to: usize) -> String {
        let (w, b) = (self.weight(&[from, to]), self.weight(&[to]));
        let y = self.node("MatMul", &[x, &w]);
        if self.spelling == Spelling::Whole { self.node("Add", &[&b, &y]) } else { self.node("Add", &[&y, &b]) }
    }
    fn gelu(&mut self, x: &str) -> String {
        let (root, one, half) = (self.scalar(std::f32::consts::SQRT_2), self.scalar(1.0), self.scalar(0.5));
        let e = self.node("Div", &[x, &root]);
        let e = self.node("Erf", &[&e]);
        let e = self.node("Add", &[&e, &one]);
        if self.spelling == Spelling::Whole {
            let y = self.node("Mul", &[x, &e]);
            self.node("Mul", &[&y, &half])
        } else {
            let h = self.node("Mul", &[&half, x]);
            self.node("Mul", &[&h, &e])
        }
    }
    fn heads(&mut self, x: &str, perm: [i64; 4]) -> String {
        let shape = self.list(&[1, SEQ as i64, HEADS as i64, (WIDTH / HEADS) as i64]);
        let y = self.node("Reshape", &[x, &shape]);
        let y = self.node("Transpose", &[&y]);
        self.attr("perm", perm.to_vec());
        y
    }
    fn softmax(&mut self, x: &str) -> String {
        if self.spelling == Spelling::Whole {
            let y = self.node("Softmax", &[x]);
            self.attr("axis", -1);
            return y;
        }
        let axes = self.list(&[-1]);
        let top = self.node("ReduceMax", &[x, &axes]);
        let d = self.node("Sub", &[x, &top]);
        let e = self.node("Exp", &[&d]);
        let s = self.node("ReduceSum", &[&e, &axes]);
        self.node("Div", &[&e, &s])
    }
    fn attention(&mut self, x: &str, causal: bool) -> String {
        let [q, k, v] = [(); 3].map(|_| self.linear(x, WIDTH, WIDTH));
        let (mut q, v) = (self.heads(&q, [0, 2, 1, 3]), self.heads(&v, [0, 2, 1, 3]));
        let scale = (1.0 / ((WIDTH / HEADS) as f32)).sqrt();
        let mut k = match self.spelling {
            Spelling::Whole => self.heads(&k, [0, 2, 3, 1]),
            Spelling::Spelled => {
                let k = self.heads(&k, [0, 2, 1, 3]);
                let t = self.node("Transpose", &[&k]);
                self.attr("perm", vec![0, 1, 3, 2]);
                t
            }
        };
        if self.spelling == Spelling::Spelled {
            let root = self.scalar(scale.sqrt());
            (q, k) = (self.node("Mul", &[&q, &root]), self.node("Mul", &[&k, &root]));
        }
        let mut scores = self.node("MatMul", &[&q, &k]);
        if self.spelling == Spelling::Whole {
            let by = self.scalar(1.0 / scale);
            scores = self.node("Div", &[&scores, &by]);
        }
        if causal {
            scores = self.causal(&scores);
        }
        let p = self.softmax(&scores);
        let y = self.node("MatMul", &[&p, &v]);
        let y = self.node("Transpose", &[&y]);
        self.attr("perm", vec![0, 2, 1, 3]);
        let shape = self.list(&[1, SEQ as i64, WIDTH as i64]);
        let y = self.node("Reshape", &[&y, &shape]);
        self.linear(&y, WIDTH, WIDTH)
    }
    fn causal(&mut self, scores: &str) -> String {
        let may = |i: usize, j: usize| j <= i;
        let cells = (0..SEQ).flat_map(|i| (0..SEQ).map(move |j| may(i, j)));
        if self.spelling == Spelling::Whole {
            let mask: Vec<u8> = cells.map(u8::from).collect();
            let mask = self.initializer(Tensor::with_dtype(kiln_kernels::dtype::DType::Bool, &[1, 1, SEQ, SEQ], &mask));
            let least = self.scalar(f32::MIN);
            self.node("Where", &[&mask, scores, &least])
        } else {
            let mask: Vec<f32> = cells.map(|may| if may { 0.0 } else { f32::MIN }).collect();
            let mask = self.initializer(Tensor::new(&[1, 1, SEQ, SEQ], &mask));
            self.node("Add", &[scores, &mask])
        }
    }
    fn feed_forward(&mut self, x: &str) -> String {
        let y = self.linear(x, WIDTH, 2 * WIDTH);
        let y = self.gelu(&y);
        self.linear(&y, 2 * WIDTH, WIDTH)
    }
    fn done(self, output: &str) -> Vec<u8> {
        self.into_builder().output(output).build()
    }
}

fn writer(spelling: Spelling) -> Writer<Spelling> {
    let b = ModelBuilder::new().opset(18).input("ids", I64, [1, SEQ]);
    Writer::new(b, spelling, 100)
}

/// Tokens to vectors through layers of attention and feed-forward networks, each with its normalization behind it (BERT's order).
pub fn encoder(layers: usize, spelling: Spelling) -> Vec<u8> {
    let mut w = writer(spelling);
    let table = w.weight(&[VOCABULARY, WIDTH]);
    let mut x = w.node("Gather", &[&table, "ids"]);
    for _ in 0..layers {
        let y = w.attention(&x, false);
        let y = w.node("Add", &[&y, &x]);
        x = w.norm(&y);
        let y = w.feed_forward(&x);
        let y = w.node("Add", &[&y, &x]);
        x = w.norm(&y);
    }
    w.done(&x)
}

/// Tokens to scores of the next token, each normalization before its layer (GPT-2's order), with a tied embedding.
pub fn decoder(layers: usize, spelling: Spelling) -> Vec<u8> {
    let mut w = writer(spelling);
    let table = w.weight(&[VOCABULARY, WIDTH]);
    let places = w.weight(&[1, SEQ, WIDTH]);
    let x = w.node("Gather", &[&table, "ids"]);
    let mut x = w.node("Add", &[&x, &places]);
    for _ in 0..layers {
        let y = w.norm(&x);
        let y = w.attention(&y, true);
        x = w.node("Add", &[&x, &y]);
        let y = w.norm(&x);
        let y = w.feed_forward(&y);
        x = w.node("Add", &[&x, &y]);
    }
    let x = w.norm(&x);
    let factor = w.node("Transpose", &[&table]);
    w.attr("perm", vec![1, 0]);
    let y = w.node("MatMul", &[&x, &factor]);
    w.done(&y)
}

/// A feed-forward network alone, for what needs no more.
pub fn perceptron(spelling: Spelling) -> Vec<u8> {
    let b = ModelBuilder::new().opset(18).input("x", F32, [SEQ, WIDTH]);
    let mut w = Writer::new(b, spelling, 7);
    let y = w.norm("x");
    let y = w.feed_forward(&y);
    let y = w.softmax(&y);
    w.done(&y)
}
