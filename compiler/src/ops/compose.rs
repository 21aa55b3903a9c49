//! Shorthands that composite operators are written with: primitives as methods of [`Reader`].

use super::movement::{Concat, Expand, Slice};
use super::reduce::Reduce;
use super::{Reader, shape::Dims, softmax::Softmax};
use crate::diagnostics::Diagnostic;
use crate::ir::{Dim, ValueId};
use kiln_kernels::dtype::DType;
use kiln_kernels::value::Tensor;

type Result<T> = std::result::Result<T, Diagnostic>;

impl Reader<'_, '_> {
    /// a + b.
    pub fn add(&mut self, a: ValueId, b: ValueId) -> Result<ValueId> {
        self.pointwise("Add", &[a, b])
    }
    /// a - b.
    pub fn sub(&mut self, a: ValueId, b: ValueId) -> Result<ValueId> {
        self.pointwise("Sub", &[a, b])
    }
    /// a · b.
    pub fn mul(&mut self, a: ValueId, b: ValueId) -> Result<ValueId> {
        self.pointwise("Mul", &[a, b])
    }
    /// a / b.
    pub fn div(&mut self, a: ValueId, b: ValueId) -> Result<ValueId> {
        self.pointwise("Div", &[a, b])
    }
    /// a · x, in the type of a.
    pub fn times(&mut self, a: ValueId, x: f64) -> Result<ValueId> {
        let x = self.scalar(x, self.dtype(a));
        self.mul(a, x)
    }
    /// a + x, in the type of a.
    pub fn plus(&mut self, a: ValueId, x: f64) -> Result<ValueId> {
        let x = self.scalar(x, self.dtype(a));
        self.add(a, x)
    }
    /// The product of matrices, by the rules of `MatMul`.
    pub fn matmul(&mut self, a: ValueId, b: ValueId) -> Result<ValueId> {
        super::matmul::product(self, a, b)
    }
    /// A reduction over some axes, as `kiln_kernels::reduce::reduce` names it.
    pub fn reduce(&mut self, x: ValueId, mode: &'static str, axes: &[usize], keep: bool) -> Result<ValueId> {
        super::reduce::emit(self, x, Reduce { mode, axes: axes.to_vec(), keep })
    }
    /// Softmax along an axis.
    pub fn softmax(&mut self, x: ValueId, axis: usize) -> Result<ValueId> {
        let dtype = self.dtype(x);
        let mode = super::softmax::softmax_of(dtype);
        let wide = if dtype == DType::F64 { dtype } else { DType::F32 };
        let y = self.cast(x, wide)?;
        let y = self.emit(Softmax { axis, mode }, &[y])?;
        self.cast(y, dtype)
    }
    /// Tensors side by side along an axis.
    pub fn concat(&mut self, parts: &[ValueId], axis: usize) -> Result<ValueId> {
        if let [one] = parts { Ok(*one) } else { self.emit(Concat { axis }, parts) }
    }
    /// The tensor repeated to a shape.
    pub fn expand(&mut self, x: ValueId, shape: Vec<Dim>) -> Result<ValueId> {
        if self.shape(x)? == shape { Ok(x) } else { self.emit(Expand { shape }, &[x]) }
    }
    /// Every `step`-th of the elements from `start` on along an axis, `size` of them.
    pub fn cut(&mut self, x: ValueId, axis: usize, start: Dim, size: Dim, step: i64) -> Result<ValueId> {
        let shape = self.shape(x)?;
        if axis >= shape.len() {
            return Err(Diagnostic::new(format!("a tensor of rank {} has no axis {axis}", shape.len())));
        }
        let mut op = Slice::whole(&shape);
        (op.starts[axis], op.steps[axis], op.sizes[axis]) = (start, step, size);
        if op.sizes == shape && step == 1 { Ok(x) } else { self.emit(op, &[x]) }
    }
    /// A new axis of extent 1, at the end when `axis` is beyond.
    pub fn unsqueeze(&mut self, x: ValueId, axis: usize) -> Result<ValueId> {
        let mut shape = self.shape(x)?;
        shape.insert(axis.min(shape.len()), Dim::int(1));
        self.reshape(x, shape)
    }
    /// One element of an axis, which goes.
    pub fn pick(&mut self, x: ValueId, axis: usize, at: i64) -> Result<ValueId> {
        let y = self.cut(x, axis, Dim::int(at), Dim::int(1), 1)?;
        let mut shape = self.shape(y)?;
        shape.remove(axis);
        self.reshape(y, shape)
    }
    /// An extent as an i64 scalar.
    pub fn extent(&mut self, d: Dim) -> Result<ValueId> {
        self.emit(Dims { elements: vec![d], scalar: true, dtype: DType::I64 }, &[])
    }
    /// The integers 0, 1, .. below `n` as i64.
    pub fn iota(&mut self, n: Dim) -> Result<ValueId> {
        if let Some(n) = n.as_int().filter(|n| (0..=1 << 24).contains(n)) {
            return Ok(self.tensor(Tensor::new(&[n as usize], &(0..n).collect::<Vec<_>>())));
        }
        let (zero, one, end) = (self.scalar(0.0, DType::I64), self.scalar(1.0, DType::I64), self.extent(n.clone())?);
        Ok(super::host::range(self, [zero, end, one], DType::I64, Some(n))?[0])
    }
    /// A required operand of this rank.
    ///
    /// # Errors
    /// It is missing, or has another rank.
    pub fn ranked(&self, i: usize, rank: usize) -> Result<ValueId> {
        let v = self.input(i)?;
        match self.rank(v)? {
            n if n == rank => Ok(v),
            n => Err(Diagnostic::new(format!("input {i} of {} needs rank {rank}, found {n}", self.node.op_type))),
        }
    }
}
