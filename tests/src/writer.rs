//! Networks written down node by node, where values get their names as they come.

use crate::models::{IntoAttribute, ModelBuilder};
use crate::samples::noise;
use kiln_kernels::value::Tensor;

/// A network while it is written, in a spelling of it.
pub struct Writer<S = ()> {
    b: ModelBuilder,
    /// How it is written down.
    pub spelling: S,
    seed: u64,
    names: usize,
}

impl<S> Writer<S> {
    /// Begins with the inputs that `b` has; weights differ with the seed.
    pub fn new(b: ModelBuilder, spelling: S, seed: u64) -> Writer<S> {
        Writer { b, spelling, seed, names: 0 }
    }
    /// Changes what is written so far.
    pub fn change(&mut self, f: impl FnOnce(ModelBuilder) -> ModelBuilder) {
        self.b = f(std::mem::take(&mut self.b));
    }
    /// A name that no value has yet.
    pub fn name(&mut self, kind: &str) -> String {
        self.names += 1;
        format!("{kind}{}", self.names)
    }
    /// A node of one result; gives the result's name.
    pub fn node(&mut self, op: &str, inputs: &[&str]) -> String {
        let out = self.name("t");
        self.change(|b| b.node(op, inputs, &[out.as_str()]));
        out
    }
    /// An attribute of the last node.
    pub fn attr(&mut self, name: &str, value: impl IntoAttribute) {
        self.change(|b| b.attr(name, value));
    }
    /// An initializer.
    pub fn initializer(&mut self, t: Tensor) -> String {
        let name = self.name("c");
        self.change(|b| b.initializer(&name, t));
        name
    }
    /// An initializer of integers in a list.
    pub fn list(&mut self, x: &[i64]) -> String {
        self.initializer(Tensor::new(&[x.len()], x))
    }
    /// An initializer of noise from -1 to 1, of which each element goes through `f`.
    pub fn noise(&mut self, dims: &[usize], f: impl Fn(f32) -> f32) -> String {
        self.seed += 1;
        let x: Vec<f32> = noise(self.seed, dims.iter().product()).into_iter().map(f).collect();
        self.initializer(Tensor::new(dims, &x))
    }
    /// What is written.
    pub fn into_builder(self) -> ModelBuilder {
        self.b
    }
}
