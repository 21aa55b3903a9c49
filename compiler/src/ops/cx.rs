//! What an operator sees of its operands when its results are inferred and when it is lowered, and the forms it lowers to.

use crate::diagnostics::Diagnostic;
use crate::ir::{Dim, Fact, Range, Type};
use crate::kernel::Expr;
use kiln_kernels::{dtype::DType, value::Tensor};

/// One operand: what is known of it, and its contents when constant.
#[derive(Clone, Copy, Debug)]
pub struct Operand<'a> {
    /// What is known.
    pub fact: &'a Fact,
    /// The contents of a constant.
    pub constant: Option<&'a Tensor>,
}

/// The operands of a node and, when lowering, its results.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// Operands; `None` for an optional one left out.
    pub inputs: Vec<Option<Operand<'a>>>,
    /// Results; empty while they are being inferred.
    pub outputs: Vec<&'a Fact>,
}

impl<'a> Facts<'a> {
    /// Whether operand `i` is there.
    pub fn has(&self, i: usize) -> bool {
        matches!(self.inputs.get(i), Some(Some(_)))
    }
    fn operand(&self, i: usize) -> Option<&Operand<'a>> {
        self.inputs.get(i).and_then(|o| o.as_ref())
    }
    /// The type of operand `i`.
    pub fn ty(&self, i: usize) -> Option<&'a Type> {
        self.operand(i).map(|o| &o.fact.ty)
    }
    /// The shape of operand `i`; empty when it is absent or no tensor.
    pub fn shape(&self, i: usize) -> &'a [Dim] {
        self.operand(i).and_then(|o| o.fact.ty.shape()).unwrap_or(&[])
    }
    /// The element type of operand `i`; f32 when it is absent or no tensor.
    pub fn dtype(&self, i: usize) -> DType {
        self.operand(i).and_then(|o| o.fact.ty.dtype()).unwrap_or(DType::F32)
    }
    /// The rank of operand `i`.
    pub fn rank(&self, i: usize) -> usize {
        self.shape(i).len()
    }
    /// The contents of a constant operand.
    pub fn constant(&self, i: usize) -> Option<&'a Tensor> {
        self.operand(i).and_then(|o| o.constant)
    }
    /// The contents of a small integer operand as expressions.
    pub fn dims(&self, i: usize) -> Option<&'a [Dim]> {
        self.operand(i).and_then(|o| o.fact.dims.as_deref())
    }
    /// The contents of a constant integer operand.
    pub fn ints(&self, i: usize) -> Option<Vec<i64>> {
        self.constant(i).and_then(|t| t.to_i64s())
    }
    /// The shape of operand `i` as an argument of a call.
    pub fn extents(&self, i: usize) -> CallArg {
        CallArg::Dims(self.shape(i).to_vec())
    }
    /// The shape of result `i`.
    pub fn out_shape(&self, i: usize) -> &'a [Dim] {
        self.outputs.get(i).and_then(|f| f.ty.shape()).unwrap_or(&[])
    }
    /// The element type of result `i`.
    pub fn out_dtype(&self, i: usize) -> DType {
        self.outputs.get(i).and_then(|f| f.ty.dtype()).unwrap_or(DType::F32)
    }
}

/// [`Facts`] while results are inferred, with the means to make symbols.
pub struct Infer<'a> {
    /// The operands.
    pub facts: Facts<'a>,
    /// How many results the node has.
    pub results: usize,
    /// The types the bodies of a control-flow node hand out, a list per body.
    pub bodies: Vec<Vec<Type>>,
    pub(crate) fresh: &'a mut dyn FnMut(&str, Range) -> Dim,
}

impl<'a> std::ops::Deref for Infer<'a> {
    type Target = Facts<'a>;
    fn deref(&self) -> &Facts<'a> {
        &self.facts
    }
}

impl Infer<'_> {
    /// A new symbol, not negative, that the node's step will define.
    pub fn fresh(&mut self, what: &str) -> Dim {
        (self.fresh)(what, Range { lo: 0, hi: None })
    }
    /// An axis attribute as an index below `rank`.
    ///
    /// # Errors
    /// The axis is outside `-rank..rank`.
    pub fn axis(&self, axis: i64, rank: usize) -> Result<usize, Diagnostic> {
        normal_axis(axis, rank)
    }
}

/// An axis attribute as an index below `rank`.
pub(crate) fn normal_axis(axis: i64, rank: usize) -> Result<usize, Diagnostic> {
    let n = rank as i64;
    if axis >= -n && axis < n {
        Ok((if axis < 0 { axis + n } else { axis }) as usize)
    } else {
        Err(Diagnostic::new(format!("axis {axis} is outside [-{n}, {}] of a tensor of rank {n}", n - 1)))
    }
}

/// The shape that operands of these shapes broadcast to
/// ([the ONNX rule](https://onnx.ai/onnx/repo-docs/Broadcasting.html)). Two symbols that may differ give their maximum: one of
/// them must be 1 at run time, or both equal.
///
/// # Errors
/// Two extents differ and neither is 1.
pub fn broadcast(a: &[Dim], b: &[Dim]) -> Result<Vec<Dim>, Diagnostic> {
    let rank = a.len().max(b.len());
    let at = |s: &[Dim], i: usize| if i + s.len() >= rank { s[i + s.len() - rank].clone() } else { Dim::int(1) };
    (0..rank)
        .map(|i| {
            let (x, y) = (at(a, i), at(b, i));
            match (x.as_int(), y.as_int()) {
                _ if x == y => Ok(x),
                (Some(1), _) => Ok(y),
                (_, Some(1)) => Ok(x),
                (Some(_), Some(_)) => Err(Diagnostic::new(format!(
                    "shapes [{}] and [{}] do not broadcast: {x} and {y} differ and neither is 1",
                    list(a),
                    list(b)
                ))),
                (Some(_), None) => Ok(x),
                (None, Some(_)) => Ok(y),
                _ if x.meets(&y) => Ok(y),
                _ if y.meets(&x) => Ok(x),
                (None, None) => Ok(x.most(&y)),
            }
        })
        .collect()
}

/// Whether two shapes are one, or may turn out to be at run time, which is left to the checks of the plan.
pub(crate) fn agree(a: &[Dim], b: &[Dim]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.equals(b) != Some(false))
}

/// Items with commas between.
pub(crate) fn list<T: std::fmt::Display>(items: &[T]) -> String {
    items.iter().map(|d| d.to_string()).collect::<Vec<_>>().join(", ")
}

/// An index along one axis of an operand: `start + step · i` of iteration axis `i`, or just `start`.
#[derive(Clone, Debug, PartialEq)]
pub struct Affine {
    /// The first index.
    pub start: Dim,
    /// The iteration axis that moves it, with the step.
    pub axis: Option<(usize, i64)>,
}

impl Affine {
    /// The iteration axis itself.
    pub fn along(axis: usize) -> Affine {
        Affine { start: Dim::int(0), axis: Some((axis, 1)) }
    }
    /// One index.
    pub fn at(start: Dim) -> Affine {
        Affine { start, axis: None }
    }
}

/// A region copied: for every index of `dims`, `to` of the result receives `from` of the operand.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// The operand.
    pub input: usize,
    /// The result.
    pub output: usize,
    /// Extents of the iteration.
    pub dims: Vec<Dim>,
    /// One index per axis of the operand.
    pub from: Vec<Affine>,
    /// One index per axis of the result.
    pub to: Vec<Affine>,
}

/// An argument of a [`Call`].
#[derive(Clone, Debug, PartialEq)]
pub enum CallArg {
    /// The elements of operand `i`.
    In(usize),
    /// The elements of operand `i`, if it is there.
    OptIn(usize),
    /// The elements of result `i`.
    Out(usize),
    /// The elements of result `i`, if it is wanted.
    OptOut(usize),
    /// As many elements of a type to work in, whose contents nobody relies on; one such argument at most.
    Scratch(DType, Dim),
    /// Extents.
    Dims(Vec<Dim>),
    /// An extent.
    Dim(Dim),
    /// Integers.
    Ints(Vec<i64>),
    /// An integer.
    Int(i64),
    /// Floats, as bits.
    Floats(Vec<f32>),
    /// A float.
    Float(f32),
    /// A flag.
    Bool(bool),
    /// A word such as a mode.
    Text(&'static str),
}

/// A kernel of the table in `kiln_kernels::entry`, with its arguments.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// Its name in the table.
    pub entry: &'static str,
    /// Element types of its type parameters.
    pub types: Vec<DType>,
    /// Its arguments in order.
    pub args: Vec<CallArg>,
}

/// What a primitive operator lowers to.
#[derive(Clone, Debug, PartialEq)]
pub enum Lowering {
    /// The expression at every element of the broadcast operands.
    Map(Expr),
    /// The operand's elements under another shape, and perhaps another type of the same width.
    View,
    /// Regions copied.
    Move(Vec<Part>),
    /// The fact's `dims` written out.
    Dims,
    /// A kernel of the table.
    Call(Call),
    /// A host function over run-time values; its results may define symbols.
    Host,
    /// The node's blocks, run by the schedule.
    Control,
}

impl Lowering {
    /// A call of most kernels' shape: the first result, as many operands, and what else the kernel takes.
    pub fn call(
        entry: &'static str,
        types: impl IntoIterator<Item = DType>,
        operands: usize,
        rest: impl IntoIterator<Item = CallArg>,
    ) -> Lowering {
        let tensors = std::iter::once(CallArg::Out(0)).chain((0..operands).map(CallArg::In));
        Lowering::Call(Call { entry, types: types.into_iter().collect(), args: tensors.chain(rest).collect() })
    }
}

/// A float attribute, compared and hashed by its bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Real(u32);

impl Real {
    /// The float.
    pub fn get(self) -> f32 {
        f32::from_bits(self.0)
    }
}

impl From<f32> for Real {
    fn from(x: f32) -> Real {
        Real(x.to_bits())
    }
}
