//! A grown graph as an ONNX file with data: which placeholders are inputs, what values they have, and the same model with rounding
//! noise in it.

use super::{Class, Extent, Growing, NONE, Range, Source, V, is_open};
use crate::models::{Dim, ModelBuilder, tensor_type, unranked_type};
use crate::samples::Rng;
use kiln_compiler::eval::from_f64s;
use kiln_kernels::dtype::DType;
use kiln_kernels::value::{Tensor, Value};
use std::collections::BTreeSet;

/// A random model with its data.
pub struct Drawn {
    /// The graph.
    pub graph: Growing,
    /// The contents of values that are constants.
    pub constants: Vec<Option<Tensor>>,
    /// The inputs.
    pub inputs: Vec<V>,
    /// The outputs.
    pub outputs: Vec<V>,
    /// Values of the inputs in either run.
    pub runs: [Vec<Value>; 2],
}

/// The relative size of noise of a type: some tens of roundings of a float, two of a half.
fn unit(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => (2.0f64).powi(-44),
        DType::F16 => (2.0f64).powi(-9),
        _ => (2.0f64).powi(-19),
    }
}

fn uniform(rng: &mut Rng) -> f64 {
    rng.below(1 << 30) as f64 / (1u64 << 30) as f64
}

/// Random elements between bounds; some at the edges where that is asked.
fn draw(rng: &mut Rng, dtype: DType, dims: &[usize], range: Range, edges: bool) -> Tensor {
    let n = dims.iter().product();
    let (lo, hi) = range;
    let x: Vec<f64> = (0..n)
        .map(|_| {
            if edges && rng.below(3) == 0 {
                let all = [lo, hi, 0.0, -0.0, 1.0, -1.0, 0.5, 1e-6, lo / 2.0, (lo + hi) / 2.0];
                let x = rng.pick(&all);
                let x = if dtype.is_float() { x } else { x.round() };
                if x >= lo && x <= hi {
                    return x;
                }
            }
            if dtype.is_float() { lo + (hi - lo) * uniform(rng) } else { (lo + ((hi - lo + 1.0) * uniform(rng)).floor()).min(hi) }
        })
        .collect();
    from_f64s(dims, &x, dtype)
}

fn dims(shape: &[Extent], run: usize) -> Vec<usize> {
    shape.iter().map(|e| e[run]).collect()
}

/// Makes a model of a graph; `None` where nothing would be computed.
pub fn finish(mut graph: Growing, seed: u64) -> Option<Drawn> {
    let results: Vec<V> = graph.steps.iter().flat_map(|s| s.outputs.clone()).collect();
    let mut outputs: Vec<V> = results.iter().copied().filter(|v| !graph.values[*v].read).collect();
    for v in results {
        let k = &graph.values[v];
        if k.read && k.shape.is_some() && graph.once_in(12) {
            outputs.push(v);
        }
    }
    if outputs.is_empty() {
        return None;
    }
    let mut rng = Rng::new(seed ^ 0x00c0_ffee);
    let (mut inputs, mut constants) = (Vec::new(), vec![None; graph.values.len()]);
    for (v, k) in graph.values.clone().into_iter().enumerate() {
        match (&k.source, &k.shape) {
            (Source::Fixed(t), _) if k.read && graph.computed && !graph.settled.contains(&v) && t.dims.len() <= 1 && graph.once_in(4) => {
                inputs.push(v);
                constants[v] = Some(t.clone());
            }
            (Source::Fixed(t), _) => constants[v] = Some(t.clone()),
            (Source::Placeholder, Some(shape)) if k.read => {
                if is_open(shape) || graph.rng.below(2) == 0 {
                    inputs.push(v);
                } else {
                    constants[v] = Some(draw(&mut rng, k.dtype, &dims(shape, 0), k.range, graph.edges));
                }
            }
            _ => {}
        }
    }
    let runs = [0, 1].map(|run| {
        let value = |v: &V| {
            let k = &graph.values[*v];
            if let Some(t) = &constants[*v] {
                return t.clone().into();
            }
            let shape = k.shape.as_deref().unwrap_or_default();
            draw(&mut rng, k.dtype, &dims(shape, run), k.range, graph.edges).into()
        };
        inputs.iter().map(value).collect()
    });
    // What is an input has its value there alone.
    inputs.iter().for_each(|v| constants[*v] = None);
    Some(Drawn { graph, constants, inputs, outputs, runs })
}

impl Drawn {
    fn declared(&self, v: V, run: Option<usize>) -> Vec<Dim> {
        let shape = self.graph.values[v].shape.clone().unwrap_or_default();
        let dim = |e: Extent| match run {
            Some(run) => Dim::Known(e[run] as i64),
            None if e[0] == e[1] => Dim::Known(e[0] as i64),
            None => Dim::Named(format!("n{}_{}", e[0], e[1])),
        };
        shape.into_iter().map(dim).collect()
    }
    /// The operators, in order.
    pub fn operators(&self) -> Vec<&str> {
        self.graph.steps.iter().map(|s| s.op.as_str()).collect()
    }
    /// Whether dims are open.
    pub fn is_open(&self) -> bool {
        self.inputs.iter().any(|v| self.graph.values[*v].shape.as_deref().is_some_and(is_open))
    }
    /// The model.
    pub fn model(&self) -> Vec<u8> {
        let g = &self.graph;
        let mut b = self.begin(None);
        for s in &g.steps {
            b = self.step(b, s, &|v| self.name(v), &|v| self.name(v));
        }
        for v in &self.outputs {
            let k = &g.values[*v];
            let open = |d: Dim| if let Dim::Named(_) = d { Dim::Unknown } else { d };
            let ty = match &k.shape {
                Some(_) => tensor_type(k.dtype, self.declared(*v, None).into_iter().map(open)),
                None => unranked_type(k.dtype),
            };
            b = b.output_of(&k.name, ty);
        }
        b.build()
    }
    /// The model at the sizes of a run, with what results may be off by: a random factor near 1 for every result that is rounded and
    /// every operand of a sum.
    pub fn noisy(&self, run: usize, seed: u64) -> Vec<u8> {
        let g = &self.graph;
        let mut rng = Rng::new(seed.wrapping_mul(0x9e37_79b9) + 17);
        let mut b = self.begin(Some(run));
        let mut factor = |v: V| -> Option<Tensor> {
            let k = &g.values[v];
            let shape = k.shape.as_ref().filter(|_| k.dtype.is_float())?;
            let dims = dims(shape, run);
            let x: Vec<f64> = (0..dims.iter().product()).map(|_| 1.0 + unit(k.dtype) * (2.0 * uniform(&mut rng) - 1.0)).collect();
            Some(from_f64s(&dims, &x, k.dtype))
        };
        for (i, s) in g.steps.iter().enumerate() {
            let mut shaken: Vec<(V, String)> = Vec::new();
            if s.class == Class::Sums {
                let operands: BTreeSet<V> = s.inputs.iter().copied().filter(|v| *v != NONE).collect();
                for v in operands {
                    let Some(f) = factor(v) else { continue };
                    let (name, noise) = (format!("{}_at{i}", self.name(v)), format!("{}_noise{i}", self.name(v)));
                    b = b.initializer(&noise, f).node("Mul", &[&self.name(v), &noise], &[&name]);
                    shaken.push((v, name));
                }
            }
            let read = |v: V| shaken.iter().find(|(w, _)| *w == v).map_or_else(|| self.name(v), |(_, n)| n.clone());
            let raw: Vec<(V, Tensor)> = match s.class {
                Class::Exact => vec![],
                _ => s.outputs.iter().filter_map(|v| Some((*v, factor(*v)?))).collect(),
            };
            let made = |v: V| if raw.iter().any(|(w, _)| *w == v) { format!("{}_raw", self.name(v)) } else { self.name(v) };
            b = self.step(b, s, &read, &made);
            for (v, f) in raw {
                let (name, noise) = (self.name(v), format!("{}_noise", self.name(v)));
                b = b.initializer(&noise, f).node("Mul", &[&format!("{name}_raw"), &noise], &[&name]);
            }
        }
        for v in &self.outputs {
            b = b.output_of(&self.name(*v), unranked_type(g.values[*v].dtype));
        }
        b.build()
    }
    fn name(&self, v: V) -> String {
        self.graph.values[v].name.clone()
    }
    /// Inputs and constants.
    fn begin(&self, run: Option<usize>) -> ModelBuilder {
        let g = &self.graph;
        let mut b = ModelBuilder::new().ir_version(8).opset(g.opset);
        for v in &self.inputs {
            b = b.input(&self.name(*v), g.values[*v].dtype, self.declared(*v, run));
        }
        for (v, t) in self.constants.iter().enumerate() {
            let Some(t) = t.as_ref().filter(|_| g.values[v].read) else { continue };
            b = match v % 5 {
                0 => b.node("Constant", &[], &[&self.name(v)]).attr("value", t),
                _ => b.initializer(&self.name(v), t.clone()),
            };
        }
        b
    }
    fn step(&self, b: ModelBuilder, s: &super::Step, read: &dyn Fn(V) -> String, made: &dyn Fn(V) -> String) -> ModelBuilder {
        let inputs: Vec<String> = s.inputs.iter().map(|v| if *v == NONE { String::new() } else { read(*v) }).collect();
        let outputs: Vec<String> = s.outputs.iter().map(|v| made(*v)).collect();
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let outputs: Vec<&str> = outputs.iter().map(String::as_str).collect();
        let b = b.node(&s.op, &inputs, &outputs).domain(s.domain);
        s.attributes.iter().fold(b, |b, a| b.attr(&a.name, a.clone()))
    }
}
