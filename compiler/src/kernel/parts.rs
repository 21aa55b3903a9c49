//! What kernels are made of: operands with strides, pointwise tails, rows, windows and regions.

use super::Expr;
use crate::ir::{Dim, ValueId};

/// How an operand is stepped through along one axis of an iteration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stride {
    /// Always this many elements.
    By(Dim),
    /// This many elements, or none where the operand's extent turns out to be 1 at run time.
    Unless1 {
        /// The operand's extent.
        extent: Dim,
        /// The step otherwise.
        stride: Dim,
    },
}

impl Stride {
    /// No step.
    pub fn none() -> Stride {
        Stride::By(Dim::int(0))
    }
    /// Whether it is the constant `n`.
    pub fn is(&self, n: i64) -> bool {
        matches!(self, Stride::By(d) if d.is(n))
    }
}

/// A value read by an expression, with a stride for each axis of the iteration.
#[derive(Clone, Debug, PartialEq)]
pub struct Operand {
    /// The value.
    pub value: ValueId,
    /// The steps.
    pub strides: Vec<Stride>,
}

/// A pointwise tail that runs on blocks of a matrix kernel's result.
#[derive(Clone, Debug, PartialEq)]
pub struct Epilogue {
    /// The expression; input 0 is the matrix kernel's result, which its own first result replaces.
    pub expr: Expr,
    /// Where its first result is stored, with steps as below, if that is not the place of the matrix kernel's result.
    pub first: Option<Operand>,
    /// Operands of the inputs from 1 on: steps along the batch axes, then rows, then columns.
    pub operands: Vec<Operand>,
    /// Where its results from 1 on are stored, with steps likewise; their columns are neighbours.
    pub stored: Vec<Operand>,
}

/// A pointwise part of a kernel over rows: of what it reads, or of what it has written.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    /// The expression. Behind the rows, input 0 is their result.
    pub expr: Expr,
    /// Extents: the first `outer` count rows, the others, at least one, lie inside of a row.
    pub dims: Vec<Dim>,
    /// How many axes count rows.
    pub outer: usize,
    /// Operands, with a step for each axis; behind the rows, of the inputs from 1 on.
    pub operands: Vec<Operand>,
}

/// What a kernel over rows makes of each.
#[derive(Clone, Debug, PartialEq)]
pub enum Row {
    /// A layer normalization.
    Norm {
        /// Added to the variance.
        epsilon: f32,
        /// Whether the mean is taken off.
        centred: bool,
        /// Factors of the elements.
        scale: ValueId,
        /// Added to the elements.
        bias: Option<ValueId>,
    },
    /// A normalization of groups of channels.
    GroupNorm {
        /// Added to the variance.
        epsilon: f32,
        /// Groups of an image.
        groups: Dim,
        /// Channels of a group.
        channels: Dim,
        /// Factors of the channels.
        scale: ValueId,
        /// Added to the channels.
        bias: ValueId,
    },
    /// A softmax, or its logarithm.
    Softmax {
        /// Whether its logarithm is wanted.
        log: bool,
    },
    /// A division by the norm.
    LpNorm {
        /// 1 or 2.
        p: i64,
        /// The least number to divide by.
        floor: f32,
    },
    /// A reduction to one element, by a variant of `kiln_kernels::reduce::Fold`.
    Reduce(&'static str),
}

impl Row {
    /// The values it reads beside the rows.
    pub(super) fn values(&self) -> Vec<ValueId> {
        match self {
            Row::Norm { scale, bias, .. } => std::iter::once(*scale).chain(*bias).collect(),
            Row::GroupNorm { scale, bias, .. } => vec![*scale, *bias],
            Row::Softmax { .. } | Row::LpNorm { .. } | Row::Reduce(_) => vec![],
        }
    }
    pub(super) fn values_mut(&mut self) -> Vec<&mut ValueId> {
        match self {
            Row::Norm { scale, bias, .. } => std::iter::once(scale).chain(bias).collect(),
            Row::GroupNorm { scale, bias, .. } => vec![scale, bias],
            Row::Softmax { .. } | Row::LpNorm { .. } | Row::Reduce(_) => vec![],
        }
    }
}

/// How a convolution is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Method {
    /// The sums of its definition, by register tiles.
    Direct,
    /// Every channel alone, by vectors of channels.
    Depthwise,
    /// Winograd's minimal filtering, by tiles of this many outputs along each axis.
    Winograd(usize),
}

/// Parameters of a convolution or pool over three spatial axes.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    /// Images.
    pub n: Dim,
    /// Input channels.
    pub c: Dim,
    /// Input extents.
    pub in_dims: [Dim; 3],
    /// Output extents.
    pub out_dims: [Dim; 3],
    /// Window extents.
    pub kernel: [usize; 3],
    /// Steps.
    pub stride: [usize; 3],
    /// Leading pads.
    pub pad: [usize; 3],
    /// Trailing pads.
    pub pad_end: [usize; 3],
    /// Distances of taps.
    pub dilation: [usize; 3],
    /// Element strides of the input along image, channel, depth, height, width.
    pub x_strides: [Dim; 5],
    /// Elements from pixel to pixel of the output, whose channels are neighbours.
    pub out_pitch: Dim,
    /// Elements from image to image of the output.
    pub out_batch: Dim,
}

/// A copied region, with element strides.
#[derive(Clone, Debug, PartialEq)]
pub struct Copy {
    /// The operand (position among the step's inputs).
    pub input: usize,
    /// The result (position among the step's outputs).
    pub output: usize,
    /// Extents.
    pub dims: Vec<Dim>,
    /// Steps through the operand.
    pub from: Vec<Dim>,
    /// The operand's first element.
    pub from_start: Dim,
    /// Steps through the result.
    pub to: Vec<Dim>,
    /// The result's first element.
    pub to_start: Dim,
}
