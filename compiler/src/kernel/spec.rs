//! `Kernel`: a template of the kernel library chosen for a cluster, with its parameters.

use super::Expr;
use crate::ir::{Dim, ValueId};
use crate::ops::{Call, host::Host};
use kiln_kernels::dtype::DType;
use kiln_kernels::gemm::narrow::Coding;

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
    fn values(&self) -> Vec<ValueId> {
        match self {
            Row::Norm { scale, bias, .. } => std::iter::once(*scale).chain(*bias).collect(),
            Row::GroupNorm { scale, bias, .. } => vec![*scale, *bias],
            Row::Softmax { .. } | Row::LpNorm { .. } | Row::Reduce(_) => vec![],
        }
    }
    fn values_mut(&mut self) -> Vec<&mut ValueId> {
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

/// How constant bytes become what a kernel reads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Recipe {
    /// As they are.
    Raw,
    /// f32 padded with zeros to a multiple of this many elements.
    Padded(usize),
    /// A `[k, n]` matrix in panels of 16 columns, from a row-major one (or its transpose).
    Gemm {
        /// Rows.
        k: usize,
        /// Columns.
        n: usize,
    },
    /// Matrices `[k, n]` one behind the other, each in such panels.
    Gemms {
        /// Matrices.
        count: usize,
        /// Rows.
        k: usize,
        /// Columns.
        n: usize,
    },
    /// A `[k, n]` matrix of i8 or u8 as `kiln_kernels::igemm::pack_rows` packs it.
    IntGemm {
        /// Rows.
        k: usize,
        /// Columns.
        n: usize,
    },
    /// Zero points of such a matrix, as `kiln_kernels::igemm::pack_zeros` packs them.
    Zeros {
        /// Columns.
        n: usize,
    },
    /// A matrix of integers of 2, 4 or 8 bits as `kiln_kernels::gemm::narrow::pack_codes` packs it; signed ones lose their sign.
    Codes {
        /// Rows of the product's right side.
        k: usize,
        /// Its columns.
        n: usize,
        /// Which axis of the constant has the rows.
        axis: usize,
        /// Elements of a block.
        block: usize,
    },
    /// Scales or zero points of such a matrix, as `pack_blocks` there packs them.
    Blocks {
        /// Columns.
        n: usize,
        /// Which axis of the constant has the blocks.
        axis: usize,
        /// Blocks of a column.
        blocks: usize,
        /// Elements of a block.
        block: usize,
        /// Elements that an element of the constant is for.
        given: usize,
        /// What is added to zero points.
        more: u8,
    },
    /// A matrix of 16-bit floats, or of f32 rounded to bf16, as `pack_halves` there packs it.
    Halves {
        /// Rows of the product's right side.
        k: usize,
        /// Its columns.
        n: usize,
        /// Which axis of the constant has the rows.
        axis: usize,
    },
    /// An ensemble of trees as `kiln_kernels::trees::pack` packs it.
    Trees {
        /// Whether its numbers are f64.
        double: bool,
        /// Targets.
        targets: usize,
        /// Index into `kiln_kernels::trees::AGGREGATES`.
        aggregate: i64,
        /// Bytes of what is packed.
        bytes: usize,
    },
    /// Convolution weights as `pack_weights` of the method's kernel packs them.
    Conv {
        /// Input channels.
        c: usize,
        /// Output channels.
        k: usize,
        /// Window extents.
        kernel: [usize; 3],
        /// Groups.
        groups: usize,
        /// The kernel that reads them.
        method: Method,
    },
    /// Weights of bytes as `kiln_kernels::igemm::IntConv`, or the depthwise kernel, wants them.
    IntConv {
        /// Input channels.
        c: usize,
        /// Output channels.
        k: usize,
        /// Window extents.
        kernel: [usize; 3],
        /// Packed for the depthwise kernel: whether the weights are wider than bytes.
        depthwise: Option<bool>,
    },
}

/// A constant as a kernel reads it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Packed {
    /// The constant.
    pub value: ValueId,
    /// What is made of it.
    pub recipe: Recipe,
}

/// What is taken off the integers of a matrix.
#[derive(Clone, Debug, PartialEq)]
pub enum ZeroPoints {
    /// The same for all.
    Same(u8),
    /// A byte for each block.
    Each(Packed),
    /// A float for each block.
    Floats(Packed),
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

/// A kernel with its parameters.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "a plan has a few hundred of them, mostly of the large variants")]
pub enum Kernel {
    /// An expression over an iteration.
    Map {
        /// The expression.
        expr: Expr,
        /// Extents, outermost first.
        dims: Vec<Dim>,
        /// Operands.
        operands: Vec<Operand>,
        /// Steps through each result; the first one's last axis has neighbours.
        to: Vec<Vec<Dim>>,
        /// Pairs of extents that must be equal or 1 at run time.
        meets: Vec<(Dim, Dim)>,
    },
    /// A convolution with channels-last result.
    Conv {
        /// Its geometry.
        window: Window,
        /// Output channels.
        k: usize,
        /// Groups.
        groups: usize,
        /// How it is computed; the weights are packed for that.
        method: Method,
        /// The operand.
        x: ValueId,
        /// Packed weights.
        weights: Packed,
        /// Bias padded to panels.
        bias: Option<Packed>,
        /// The pointwise tail.
        epilogue: Option<Epilogue>,
    },
    /// A depthwise convolution with 1x1 convolutions before and behind it, by strips of rows: what lies between is nowhere whole.
    /// All parts are [`Kernel::Conv`]; each reads the result of the one before.
    Strips {
        /// What computes the operand of the depthwise convolution.
        before: Option<Box<Kernel>>,
        /// The depthwise convolution.
        middle: Box<Kernel>,
        /// What reads its result.
        behind: Option<Box<Kernel>>,
    },
    /// A matrix product with packed constant right side.
    Gemm {
        /// Rows.
        m: Dim,
        /// Columns.
        n: usize,
        /// Depth.
        k: usize,
        /// The left side, whose columns are neighbours.
        a: ValueId,
        /// Elements from row to row of the left side.
        a_row: Dim,
        /// Elements from row to row of the result.
        out_row: Dim,
        /// The right side.
        b: Packed,
        /// Bias padded to panels.
        bias: Option<Packed>,
        /// The pointwise tail.
        epilogue: Option<Epilogue>,
    },
    /// A matrix product whose packed constant right side is stored in few bits.
    NarrowGemm {
        /// Rows.
        m: Dim,
        /// Columns.
        n: usize,
        /// Depth.
        k: usize,
        /// The left side, whose columns are neighbours.
        a: ValueId,
        /// Elements from row to row of the left side.
        a_row: Dim,
        /// Elements from row to row of the result.
        out_row: Dim,
        /// How the right side is stored.
        coding: Coding,
        /// Its integers, or 16-bit floats.
        codes: Packed,
        /// Scales of the integers.
        scales: Option<Packed>,
        /// Their zero points.
        zeros: ZeroPoints,
        /// Bias padded to panels.
        bias: Option<Packed>,
        /// The pointwise tail.
        epilogue: Option<Epilogue>,
    },
    /// Products of rows with packed constant matrices that indices pick.
    GroupedGemm {
        /// Extents of the rows of the result, and of the indices.
        rows: [Dim; 3],
        /// Matrices.
        count: usize,
        /// Columns.
        n: usize,
        /// Depth.
        k: usize,
        /// The left side, whose columns are neighbours, with steps along the three axes.
        a: Operand,
        /// The indices.
        indices: ValueId,
        /// Elements from row to row of the result.
        out_row: Dim,
        /// The matrices.
        b: Packed,
        /// The pointwise tail.
        epilogue: Option<Epilogue>,
    },
    /// An integer product of u8 with a packed constant right side of bytes.
    IntGemm {
        /// Rows.
        m: Dim,
        /// Columns.
        n: usize,
        /// Depth.
        k: usize,
        /// The left side, whose columns are neighbours.
        a: ValueId,
        /// Elements from row to row of the left side.
        a_row: Dim,
        /// The zero point of the left side.
        a_zero: ValueId,
        /// Elements from row to row of the result.
        out_row: Dim,
        /// The right side.
        b: Packed,
        /// Zero points of its columns, where one is not zero.
        zeros: Option<Packed>,
        /// The pointwise tail.
        epilogue: Option<Epilogue>,
    },
    /// An integer convolution of channels-last u8 with packed constant weights of i8.
    IntConv {
        /// Its geometry.
        window: Window,
        /// Output channels.
        k: usize,
        /// Whether every channel is convolved alone, and then by weights wider than bytes.
        depthwise: Option<bool>,
        /// The operand.
        x: ValueId,
        /// Its zero point.
        zero: ValueId,
        /// Packed weights.
        weights: Packed,
        /// Their zero points, where these are not all 0.
        zeros: Option<Packed>,
        /// The pointwise tail.
        epilogue: Option<Epilogue>,
    },
    /// The scale and the zero point of values that are quantized by their range.
    Calibrate {
        /// The values.
        x: ValueId,
        /// How many.
        n: Dim,
    },
    /// Matrix products of two computed operands.
    MatMul {
        /// Batch extents.
        batch: Vec<Dim>,
        /// Rows.
        m: Dim,
        /// Columns.
        n: Dim,
        /// Depth.
        k: Dim,
        /// The left side: steps along the batch axes, rows, columns.
        a: Operand,
        /// The right side: steps along the batch axes, rows, columns.
        b: Operand,
        /// Steps through the result along the batch axes and rows; its columns are neighbours.
        to: Vec<Dim>,
        /// The pointwise tail.
        epilogue: Option<Epilogue>,
    },
    /// A max or average pool over channels-last tensors.
    Pool {
        /// Its geometry.
        window: Window,
        /// `Max`, `Mean` or `MeanPadded`.
        kind: &'static str,
        /// The operand.
        x: ValueId,
    },
    /// A local response normalization of a channels-last tensor.
    Response {
        /// Channels in a window.
        size: usize,
        /// What the sum of squares is scaled by, the exponent, and what is added before it.
        parameters: [f32; 3],
        /// Images, pixels, channels.
        sizes: [Dim; 3],
        /// The operand.
        x: ValueId,
        /// Elements from pixel to pixel and from image to image of the operand.
        x_steps: [Dim; 2],
        /// The same of the result.
        out_steps: [Dim; 2],
    },
    /// Images of f32 resized in height and width, by [`kiln_kernels::resize::Images`].
    Resize {
        /// `nearest`, `linear` or `cubic`; the coordinate transformation; how `nearest` rounds.
        words: [&'static str; 3],
        /// The coefficient of `cubic`.
        cubic: f32,
        /// Whether positions outside count as nothing.
        exclude: bool,
        /// Factors of height and width.
        scales: [f32; 2],
        /// Images; height and width of the operand, and of the result; channels that are neighbours.
        sizes: [Dim; 6],
        /// The operand.
        x: ValueId,
        /// Elements from pixel to pixel and from image to image of the operand.
        x_steps: [Dim; 2],
        /// The same of the result.
        out_steps: [Dim; 2],
    },
    /// The mean over the spatial axes of a channels-last tensor.
    GlobalMean {
        /// Images.
        n: Dim,
        /// Pixels.
        pixels: Dim,
        /// Channels.
        c: Dim,
        /// The operand.
        x: ValueId,
        /// Elements from pixel to pixel of the operand.
        x_pitch: Dim,
        /// Elements from image to image of the operand.
        x_batch: Dim,
    },
    /// A softmax along an axis that is not the last: the middle of three.
    Softmax {
        /// Extents before, at and after the axis.
        dims: [Dim; 3],
        /// Whether its logarithm is wanted.
        log: bool,
        /// The operand.
        x: ValueId,
    },
    /// Scaled dot-product attention.
    Attend {
        /// Batch extents.
        batch: Vec<Dim>,
        /// Queries, keys, columns of queries and keys, columns of values.
        sizes: [Dim; 4],
        /// Factor of the scores.
        scale: f32,
        /// How many keys behind its own number a query sees.
        reach: Dim,
        /// Whether rows of the softmax that are NaN count as zeros.
        safe: bool,
        /// The queries: steps along the batch axes, rows, columns.
        q: Operand,
        /// The keys, likewise.
        k: Operand,
        /// The values, likewise.
        v: Operand,
        /// What is added to the scores, likewise.
        mask: Option<Operand>,
        /// Steps through the result, likewise.
        out: Vec<Stride>,
    },
    /// Rows, each read and written once.
    Rows {
        /// What is made of each.
        op: Row,
        /// Rows.
        rows: Dim,
        /// Elements of a row.
        n: Dim,
        /// The operand; none where the pointwise part before the rows makes them.
        x: Option<ValueId>,
        /// Elements from row to row of the operand, or of the second result, where the step has one: what the part before makes.
        x_row: Dim,
        /// Elements from row to row of the result.
        out_row: Dim,
        /// The pointwise part before.
        head: Option<Stage>,
        /// The pointwise part behind.
        tail: Option<Stage>,
        /// Pairs of extents that must be equal or 1 at run time.
        meets: Vec<(Dim, Dim)>,
    },
    /// A normalization of groups of channels that are neighbours in each pixel.
    PixelNorm {
        /// Added to the variance.
        epsilon: f32,
        /// Images, pixels, groups of an image and channels of a group.
        sizes: [Dim; 4],
        /// The operand.
        x: ValueId,
        /// Elements from pixel to pixel and from image to image of the operand.
        x_steps: [Dim; 2],
        /// Elements from pixel to pixel and from image to image of the result.
        out_steps: [Dim; 2],
        /// Factors of the channels.
        scale: ValueId,
        /// Added to the channels.
        bias: ValueId,
        /// The pointwise tail.
        epilogue: Option<Epilogue>,
    },
    /// A rotary embedding of rows, whose elements are neighbours.
    Rotary {
        /// Extents of the axes that count rows.
        dims: Vec<Dim>,
        /// Elements of a row.
        size: Dim,
        /// Those that are turned.
        width: usize,
        /// Whether pairs are neighbours.
        interleaved: bool,
        /// Whether there are cosines, and sines, for each element rather than each pair.
        each: [bool; 2],
        /// The rows, the cosines and the sines: steps along the axes.
        operands: [Operand; 3],
        /// Steps through the result, likewise.
        out: Vec<Stride>,
    },
    /// Rows through the trees of an ensemble.
    Trees {
        /// The rows, one behind the other.
        x: ValueId,
        /// The ensemble.
        forest: Packed,
        /// Number of rows.
        rows: Dim,
        /// Elements of a row.
        features: Dim,
        /// Bytes of scratch of a worker.
        scratch: usize,
        /// Comparisons of a row, roughly.
        steps: usize,
    },
    /// Regions copied.
    Move {
        /// The regions.
        copies: Vec<Copy>,
        /// The type of the elements.
        dtype: DType,
    },
    /// A kernel of the table.
    Call(Call),
    /// Extents written out as integers.
    Dims {
        /// The integers.
        elements: Vec<Dim>,
        /// i64 or i32.
        dtype: DType,
    },
    /// A host function.
    Host(Host),
}

impl Kernel {
    /// A word for reports and comments.
    pub fn name(&self) -> &'static str {
        match self {
            Kernel::Map { .. } => "map",
            Kernel::Conv { method: Method::Depthwise, .. } => "depthwise conv",
            Kernel::Conv { method: Method::Winograd(_), .. } => "winograd conv",
            Kernel::Conv { .. } => "conv",
            Kernel::Strips { .. } => "strips",
            Kernel::Gemm { .. } => "gemm",
            Kernel::NarrowGemm { .. } => "narrow gemm",
            Kernel::GroupedGemm { .. } => "grouped gemm",
            Kernel::IntGemm { .. } => "integer gemm",
            Kernel::IntConv { depthwise: Some(_), .. } => "depthwise integer conv",
            Kernel::IntConv { .. } => "integer conv",
            Kernel::Calibrate { .. } => "range",
            Kernel::MatMul { .. } => "matmul",
            Kernel::Pool { .. } => "pool",
            Kernel::GlobalMean { .. } => "global mean",
            Kernel::Response { .. } => "local response",
            Kernel::Resize { .. } => "resize",
            Kernel::Softmax { .. } => "softmax",
            Kernel::Attend { .. } => "attend",
            Kernel::Rows { op: Row::Norm { .. }, .. } => "layer norm",
            Kernel::Rows { op: Row::GroupNorm { .. }, .. } | Kernel::PixelNorm { .. } => "group norm",
            Kernel::Rows { op: Row::Softmax { .. }, .. } => "softmax",
            Kernel::Rows { op: Row::LpNorm { .. }, .. } => "lp norm",
            Kernel::Rows { op: Row::Reduce(_), .. } => "reduce",
            Kernel::Rotary { .. } => "rotary",
            Kernel::Trees { .. } => "trees",
            Kernel::Move { .. } => "copy",
            Kernel::Call(c) => c.entry,
            Kernel::Dims { .. } => "dims",
            Kernel::Host(h) => h.name,
        }
    }
    /// The packed constants it reads.
    pub fn packed(&self) -> Vec<&Packed> {
        match self {
            Kernel::Conv { weights, bias, .. }
            | Kernel::Gemm { b: weights, bias, .. }
            | Kernel::IntGemm { b: weights, zeros: bias, .. }
            | Kernel::IntConv { weights, zeros: bias, .. } => std::iter::once(weights).chain(bias).collect(),
            Kernel::NarrowGemm { codes, scales, zeros, bias, .. } => {
                let zeros = match zeros {
                    ZeroPoints::Same(_) => None,
                    ZeroPoints::Each(z) | ZeroPoints::Floats(z) => Some(z),
                };
                std::iter::once(codes).chain(scales).chain(zeros).chain(bias).collect()
            }
            Kernel::GroupedGemm { b: weights, .. } | Kernel::Trees { forest: weights, .. } => vec![weights],
            Kernel::Strips { .. } => self.parts().into_iter().flat_map(Kernel::packed).collect(),
            _ => Vec::new(),
        }
    }
    /// The kernels that it computes one behind the other: itself, or the parts it has.
    pub fn parts(&self) -> Vec<&Kernel> {
        match self {
            Kernel::Strips { before, middle, behind } => before.iter().chain([middle]).chain(behind).map(|k| &**k).collect(),
            _ => vec![self],
        }
    }
    /// The pointwise tail.
    pub fn epilogue(&self) -> Option<&Epilogue> {
        match self {
            Kernel::Conv { epilogue, .. }
            | Kernel::Gemm { epilogue, .. }
            | Kernel::GroupedGemm { epilogue, .. }
            | Kernel::NarrowGemm { epilogue, .. }
            | Kernel::IntGemm { epilogue, .. }
            | Kernel::IntConv { epilogue, .. }
            | Kernel::MatMul { epilogue, .. }
            | Kernel::PixelNorm { epilogue, .. } => epilogue.as_ref(),
            Kernel::Strips { middle, behind, .. } => behind.as_ref().unwrap_or(middle).epilogue(),
            _ => None,
        }
    }
}

impl Kernel {
    /// Replaces the values it reads.
    pub fn map_values(&mut self, of: &dyn Fn(ValueId) -> ValueId) {
        let operands = |e: &mut Option<Epilogue>| {
            for o in e.iter_mut().flat_map(|e| &mut e.operands) {
                o.value = of(o.value);
            }
        };
        match self {
            Kernel::Map { operands, .. } => operands.iter_mut().for_each(|o| o.value = of(o.value)),
            Kernel::Rotary { operands, .. } => operands.iter_mut().for_each(|o| o.value = of(o.value)),
            Kernel::Conv { x, epilogue, .. } => {
                *x = of(*x);
                operands(epilogue);
            }
            Kernel::Strips { before, middle, behind } => {
                before.iter_mut().chain([middle]).chain(behind).for_each(|k| k.map_values(of));
            }
            Kernel::Gemm { a, epilogue, .. } | Kernel::NarrowGemm { a, epilogue, .. } => {
                *a = of(*a);
                operands(epilogue);
            }
            Kernel::GroupedGemm { a, indices, epilogue, .. } => {
                (a.value, *indices) = (of(a.value), of(*indices));
                operands(epilogue);
            }
            Kernel::IntGemm { a, a_zero, epilogue, .. } | Kernel::IntConv { x: a, zero: a_zero, epilogue, .. } => {
                (*a, *a_zero) = (of(*a), of(*a_zero));
                operands(epilogue);
            }
            Kernel::PixelNorm { x, scale, bias, epilogue, .. } => {
                (*x, *scale, *bias) = (of(*x), of(*scale), of(*bias));
                operands(epilogue);
            }
            Kernel::MatMul { a, b, epilogue, .. } => {
                a.value = of(a.value);
                b.value = of(b.value);
                operands(epilogue);
            }
            Kernel::Pool { x, .. } | Kernel::GlobalMean { x, .. } | Kernel::Response { x, .. } | Kernel::Resize { x, .. } => *x = of(*x),
            Kernel::Softmax { x, .. } | Kernel::Calibrate { x, .. } | Kernel::Trees { x, .. } => *x = of(*x),
            Kernel::Attend { q, k, v, mask, .. } => {
                [q, k, v].into_iter().chain(mask).for_each(|o| o.value = of(o.value));
            }
            Kernel::Rows { op, x, head, tail, .. } => {
                let stages = head.iter_mut().chain(tail).flat_map(|s| &mut s.operands).map(|o| &mut o.value);
                x.iter_mut().chain(op.values_mut()).chain(stages).for_each(|v| *v = of(*v));
            }
            Kernel::Move { .. } | Kernel::Call(_) | Kernel::Dims { .. } | Kernel::Host(_) => {}
        }
    }
    /// The values it reads by pointer, beside the operands of its step.
    pub fn values(&self) -> Vec<ValueId> {
        let tail = || self.epilogue().into_iter().flat_map(|e| e.operands.iter().map(|o| o.value));
        match self {
            Kernel::Map { operands, .. } => operands.iter().map(|o| o.value).collect(),
            Kernel::Rotary { operands, .. } => operands.iter().map(|o| o.value).collect(),
            Kernel::Conv { x, .. } | Kernel::Gemm { a: x, .. } | Kernel::NarrowGemm { a: x, .. } => {
                std::iter::once(*x).chain(tail()).collect()
            }
            Kernel::Strips { .. } => {
                // The first part's operand, and what is beside the others'.
                let parts = self.parts();
                let of = |(i, k): (usize, &&Kernel)| k.values().into_iter().skip(usize::from(i > 0)).collect::<Vec<_>>();
                parts.iter().enumerate().flat_map(of).collect()
            }
            Kernel::GroupedGemm { a, indices, .. } => [a.value, *indices].into_iter().chain(tail()).collect(),
            Kernel::IntGemm { a, a_zero, .. } | Kernel::IntConv { x: a, zero: a_zero, .. } => {
                [*a, *a_zero].into_iter().chain(tail()).collect()
            }
            Kernel::PixelNorm { x, scale, bias, .. } => [*x, *scale, *bias].into_iter().chain(tail()).collect(),
            Kernel::MatMul { a, b, .. } => [a.value, b.value].into_iter().chain(tail()).collect(),
            Kernel::Pool { x, .. } | Kernel::GlobalMean { x, .. } | Kernel::Response { x, .. } | Kernel::Resize { x, .. } => vec![*x],
            Kernel::Softmax { x, .. } | Kernel::Calibrate { x, .. } | Kernel::Trees { x, .. } => vec![*x],
            Kernel::Attend { q, k, v, mask, .. } => [q, k, v].into_iter().chain(mask).map(|o| o.value).collect(),
            Kernel::Rows { op, x, head, tail, .. } => {
                let stages = head.iter().chain(tail).flat_map(|s| &s.operands).map(|o| o.value);
                x.iter().copied().chain(op.values()).chain(stages).collect()
            }
            Kernel::Move { .. } | Kernel::Call(_) | Kernel::Dims { .. } | Kernel::Host(_) => Vec::new(),
        }
    }
    /// Whether it reads the operands of its step by position, rather than the values it names.
    pub fn by_position(&self) -> bool {
        matches!(self, Kernel::Move { .. } | Kernel::Call(_) | Kernel::Dims { .. } | Kernel::Host(_))
    }
}
