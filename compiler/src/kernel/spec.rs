//! Kernels: what one step of a plan computes, with its parameters.

use super::{Copy, Epilogue, Expr, Method, Operand, Packed, Row, Stage, Stride, Window, ZeroPoints};
use crate::ir::{Dim, ValueId};
use crate::ops::{Call, host::Host};
use kiln_kernels::dtype::DType;
use kiln_kernels::gemm::narrow::Coding;

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
