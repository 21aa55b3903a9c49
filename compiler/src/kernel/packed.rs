//! How constants become what kernels read: packed panels, scales and zero points.

use super::Method;
use crate::ir::ValueId;
use crate::target::Element;

/// How the columns of a matrix of few bits lie, and what belongs to their blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Arrangement {
    /// In panels of sixteen.
    #[default]
    Panels,
    /// One behind the other, for a GPU: integers least significant bits first, each column filled up to 16 bytes.
    Columns,
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
        /// How columns lie.
        arrangement: Arrangement,
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
        /// How columns lie.
        arrangement: Arrangement,
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
    /// A matrix of f32 as fixed point, as `pack_fixed` there packs it.
    Fixed {
        /// Rows of the product's right side.
        k: usize,
        /// Its columns.
        n: usize,
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
    /// For a GPU, a matrix column by column, each padded with zeros to a multiple of 16 bytes. Behind bytes follow the
    /// sums of the columns as i32.
    Columns {
        /// Rows.
        k: usize,
        /// Columns.
        n: usize,
        /// Which axis of the constant has the rows.
        axis: usize,
        /// The elements.
        element: Element,
    },
    /// For a GPU, filters one behind the other, taps by channels, each padded with zeros to a multiple of 16 bytes. Behind
    /// bytes follow the sums of the filters as i32.
    Filters {
        /// Input channels.
        c: usize,
        /// Filters.
        k: usize,
        /// Taps of a window.
        taps: usize,
        /// The elements.
        element: Element,
    },
    /// For a GPU, filters of several groups: taps, then the channels of a group, then filters, which are neighbours.
    Taps {
        /// Input channels of a group.
        c: usize,
        /// Filters.
        k: usize,
        /// Taps of a window.
        taps: usize,
        /// The elements.
        element: Element,
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
