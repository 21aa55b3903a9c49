//! The operators that random models are made of: a line each, with the version from which the generator writes it, the element types
//! it is grown for, how often it is chosen, and the function that adds it to a graph where its constraints hold.

use super::{Class, Growing, attr};
use super::{blocks, control, dense, elementwise, indexing, movement, quantized, recurrent, reduction};
use kiln_kernels::dtype::DType::{self, Bool, F16, F32, F64, I8, I32, I64, U8};
use std::f64::consts::FRAC_PI_2;

/// A line of the table.
pub struct Line {
    /// The operator, or the first one of a block.
    pub op: &'static str,
    /// The operator set from which it is written so.
    pub since: i64,
    /// Element types of its operand; a type that is there several times is chosen more often.
    pub types: &'static [DType],
    /// How often it is chosen, beside others.
    pub weight: usize,
    /// Adds it to a graph; `None` where its constraints do not hold.
    pub grow: fn(&mut Growing, &Line) -> Option<()>,
}

/// Floats.
pub const FLOATS: &[DType] = &[F32, F32, F32, F32, F64, F16];
/// Floats but the short one, where ONNX Runtime has no kernel or the sum is long.
pub const WIDE: &[DType] = &[F32, F32, F32, F64];
/// Integers.
pub const INTS: &[DType] = &[I64, I64, I32, U8, I8];
/// What arithmetic is defined on.
pub const NUMBERS: &[DType] = &[F32, F32, F32, F32, F64, F16, I64, I32, U8, I8];
/// Numbers of four bytes and more.
pub const LARGE: &[DType] = &[F32, F32, F32, F64, I64, I32];
/// Anything.
pub const ANY: &[DType] = &[F32, F32, F32, F64, F16, I64, I32, U8, I8, Bool];
/// Truth values.
pub const BOOL: &[DType] = &[Bool];
/// f32 alone: also where the standard has f64 computed by way of f32 (`stash_type`), and Kiln does not.
pub const SINGLE: &[DType] = &[F32];

const ALL: (f64, f64) = (f64::NEG_INFINITY, f64::INFINITY);

macro_rules! table {
    ($($op:literal $since:literal $types:expr, $weight:literal, $grow:expr;)*) => {
        /// Every operator and block.
        pub const TABLE: &[Line] = &[$(Line { op: $op, since: $since, types: $types, weight: $weight, grow: $grow },)*];
    };
}

macro_rules! unary {
    ($domain:expr, $class:ident, $range:expr) => {
        |g, l| elementwise::unary(g, l, $domain, Class::$class, $range)
    };
    ($domain:expr, $class:ident, $range:expr, $($name:literal = $value:expr),*) => {
        |g, l| elementwise::unary_with(g, l, $domain, Class::$class, $range, vec![$(attr($name, $value)),*])
    };
}

table! {
    "Abs" 7 NUMBERS, 4, unary!(ALL, Exact, |a, b| (0.0, a.abs().max(b.abs())));
    "Neg" 7 &[F32, F32, F64, F16, I64, I32, I8], 4, unary!(ALL, Exact, |a, b| (-b, -a));
    "Relu" 14 &[F32, F32, F32, F64, F16, I32], 8, unary!(ALL, Exact, |a, b| (a.max(0.0), b.max(0.0)));
    "Relu" 7 SINGLE, 4, unary!(ALL, Exact, |a, b| (a.max(0.0), b.max(0.0)));
    "Sigmoid" 7 FLOATS, 5, unary!(ALL, Rounds, |_, _| (0.0, 1.0));
    "Tanh" 7 FLOATS, 5, unary!(ALL, Rounds, |_, _| (-1.0, 1.0));
    "Exp" 7 FLOATS, 4, unary!((-8.0, 4.0), Rounds, |a, b| (a.exp(), b.exp()));
    "Log" 7 FLOATS, 3, unary!((0.2, 1e4), Rounds, |a, b| (a.ln(), b.ln()));
    "Sqrt" 7 FLOATS, 4, unary!((0.05, 1e4), Rounds, |a, b| (a.sqrt(), b.sqrt()));
    "Reciprocal" 7 FLOATS, 3, unary!((0.2, 1e3), Rounds, |a, b| (1.0 / b, 1.0 / a));
    "Softplus" 7 FLOATS, 2, unary!((-20.0, 50.0), Rounds, |_, b| (0.0, b.max(0.0) + 1.0));
    "Softsign" 7 FLOATS, 2, unary!(ALL, Rounds, |_, _| (-1.0, 1.0));
    "Erf" 9 WIDE, 3, unary!(ALL, Rounds, |_, _| (-1.0, 1.0));
    "Sin" 7 WIDE, 2, unary!((-50.0, 50.0), Rounds, |_, _| (-1.0, 1.0));
    "Cos" 7 WIDE, 2, unary!((-50.0, 50.0), Rounds, |_, _| (-1.0, 1.0));
    "Tan" 7 WIDE, 1, unary!((-1.2, 1.2), Rounds, |a, b| (a.tan(), b.tan()));
    "Asin" 7 WIDE, 1, unary!((-0.9, 0.9), Rounds, |_, _| (-FRAC_PI_2, FRAC_PI_2));
    "Acos" 7 WIDE, 1, unary!((-0.9, 0.9), Rounds, |_, _| (0.0, 2.0 * FRAC_PI_2));
    "Atan" 7 WIDE, 1, unary!(ALL, Rounds, |_, _| (-FRAC_PI_2, FRAC_PI_2));
    "Sinh" 9 WIDE, 1, unary!((-4.0, 4.0), Rounds, |a, b| (a.sinh(), b.sinh()));
    "Cosh" 9 WIDE, 1, unary!((-4.0, 4.0), Rounds, |_, _| (1.0, 28.0));
    "Asinh" 9 WIDE, 1, unary!(ALL, Rounds, |a, b| (a.asinh(), b.asinh()));
    "Acosh" 9 WIDE, 1, unary!((1.2, 1e3), Rounds, |a, b| (a.acosh(), b.acosh()));
    "Atanh" 9 WIDE, 1, unary!((-0.9, 0.9), Rounds, |a, b| (a.atanh(), b.atanh()));
    "Floor" 7 FLOATS, 2, unary!(ALL, Exact, |a, b| (a.floor(), b.floor()));
    "Ceil" 7 FLOATS, 2, unary!(ALL, Exact, |a, b| (a.ceil(), b.ceil()));
    "Round" 11 FLOATS, 2, unary!(ALL, Exact, |a, b| (a.floor(), b.ceil()));
    "Sign" 9 NUMBERS, 2, unary!(ALL, Exact, |_, _| (-1.0, 1.0));
    "LeakyRelu" 7 FLOATS, 3, unary!(ALL, Rounds, |a, b| (a.min(0.0) * 0.2, b.max(0.0)), "alpha" = 0.2f32);
    "Elu" 7 FLOATS, 2, unary!((-20.0, 1e4), Rounds, |_, b| (-1.0, b.max(0.0)));
    "Selu" 7 FLOATS, 1, unary!((-20.0, 1e3), Rounds, |_, b| (-2.0, 1.1 * b.max(0.0)));
    "Celu" 12 SINGLE, 1, unary!((-20.0, 1e3), Rounds, |_, b| (-2.0, b.max(0.0)), "alpha" = 2.0f32);
    "HardSigmoid" 7 FLOATS, 2, unary!(ALL, Rounds, |_, _| (0.0, 1.0));
    "HardSwish" 14 FLOATS, 2, unary!(ALL, Rounds, |_, b| (-1.0, b.max(0.0)));
    "ThresholdedRelu" 10 FLOATS, 1, unary!(ALL, Exact, |_, b| (0.0, b.max(0.0)), "alpha" = 0.5f32);
    "Gelu" 20 FLOATS, 2, unary!((-30.0, 1e3), Rounds, |_, b| (-1.0, b.max(0.0)));
    "Gelu" 20 FLOATS, 1, unary!((-30.0, 1e3), Rounds, |_, b| (-1.0, b.max(0.0)), "approximate" = "tanh");
    "Mish" 18 FLOATS, 1, unary!((-20.0, 50.0), Rounds, |_, b| (-1.0, b.max(0.0)));
    "Swish" 24 FLOATS, 2, unary!((-30.0, 1e3), Rounds, |_, b| (-1.0, b.max(0.0)));
    "Shrink" 9 SINGLE, 1, unary!(ALL, Rounds, |a, b| (a, b), "lambd" = 0.5f32, "bias" = 0.25f32);
    "Identity" 7 ANY, 2, elementwise::unchanged;
    "Dropout" 7 FLOATS, 1, elementwise::unchanged;
    "Not" 7 BOOL, 2, elementwise::test;
    "IsNaN" 13 FLOATS, 1, elementwise::test;
    "IsInf" 10 &[F32, F64], 1, elementwise::test;
    "BitwiseNot" 18 INTS, 1, |g, l| elementwise::unary(g, l, ALL, Class::Exact, |a, b| (-b - 1.0, 255.0f64.max(-a)));
    "Add" 7 NUMBERS, 14, |g, l| elementwise::binary(g, l, |x, y| x + y);
    "Sub" 7 NUMBERS, 7, |g, l| elementwise::binary(g, l, |x, y| x - y);
    "Mul" 7 NUMBERS, 12, |g, l| elementwise::binary(g, l, |x, y| x * y);
    "Div" 7 NUMBERS, 6, elementwise::divide;
    "Mod" 10 NUMBERS, 2, elementwise::modulo;
    "Pow" 12 WIDE, 3, elementwise::power;
    "PRelu" 9 FLOATS, 2, elementwise::prelu;
    "Max" 13 NUMBERS, 3, |g, l| elementwise::variadic(g, l, true);
    "Min" 13 NUMBERS, 3, |g, l| elementwise::variadic(g, l, true);
    "Sum" 8 FLOATS, 2, |g, l| elementwise::variadic(g, l, false);
    "Mean" 8 FLOATS, 2, |g, l| elementwise::variadic(g, l, false);
    "And" 7 BOOL, 2, elementwise::compare;
    "Or" 7 BOOL, 2, elementwise::compare;
    "Xor" 7 BOOL, 1, elementwise::compare;
    "Equal" 11 NUMBERS, 2, elementwise::compare;
    "Greater" 9 NUMBERS, 3, elementwise::compare;
    "Less" 9 NUMBERS, 3, elementwise::compare;
    "GreaterOrEqual" 12 NUMBERS, 2, elementwise::compare;
    "LessOrEqual" 12 NUMBERS, 2, elementwise::compare;
    "BitwiseAnd" 18 INTS, 1, elementwise::bitwise;
    "BitwiseOr" 18 INTS, 1, elementwise::bitwise;
    "BitwiseXor" 18 INTS, 1, elementwise::bitwise;
    "BitShift" 11 &[U8], 1, elementwise::shift;
    "Where" 9 ANY, 5, elementwise::choose;
    "Clip" 11 &[F32, F32, F32, F64, F16, I64, I32, U8, I8], 5, elementwise::clip;
    "Cast" 9 ANY, 6, elementwise::cast;
    "CastLike" 15 ANY, 1, elementwise::cast;
    "Sigmoid" 14 FLOATS, 5, elementwise::spelled_activation;
    "Mul" 7 INTS, 2, elementwise::index_arithmetic;
    "ReduceSum" 7 LARGE, 5, |g, l| reduction::reduce(g, l, 13);
    "ReduceMean" 7 WIDE, 5, |g, l| reduction::reduce(g, l, 18);
    "ReduceMax" 7 LARGE, 4, |g, l| reduction::reduce(g, l, 18);
    "ReduceMin" 7 LARGE, 2, |g, l| reduction::reduce(g, l, 18);
    "ReduceProd" 7 LARGE, 2, |g, l| reduction::reduce(g, l, 18);
    "ReduceL1" 7 WIDE, 1, |g, l| reduction::reduce(g, l, 18);
    "ReduceL2" 7 WIDE, 2, |g, l| reduction::reduce(g, l, 18);
    "ReduceSumSquare" 7 WIDE, 2, |g, l| reduction::reduce(g, l, 18);
    "ReduceLogSum" 7 WIDE, 1, |g, l| reduction::reduce(g, l, 18);
    "ReduceLogSumExp" 7 WIDE, 2, |g, l| reduction::reduce(g, l, 18);
    "ArgMax" 11 LARGE, 3, reduction::arg;
    "ArgMin" 11 LARGE, 1, reduction::arg;
    "Softmax" 7 FLOATS, 6, reduction::softmax;
    "LogSoftmax" 7 FLOATS, 2, reduction::softmax;
    "Hardmax" 7 SINGLE, 1, reduction::softmax;
    "CumSum" 11 LARGE, 2, reduction::running;
    "TopK" 11 LARGE, 3, reduction::top_k;
    "LpNormalization" 7 WIDE, 1, reduction::lp_norm;
    "ReduceMean" 7 SINGLE, 4, reduction::spelled_norm;
    "Transpose" 7 ANY, 12, movement::transpose;
    "Reshape" 7 ANY, 9, movement::reshape;
    "Reshape" 7 ANY, 3, movement::computed_reshape;
    "Flatten" 9 ANY, 3, movement::flatten;
    "Squeeze" 7 ANY, 4, movement::squeeze;
    "Unsqueeze" 7 ANY, 5, movement::unsqueeze;
    "Slice" 10 ANY, 9, movement::slice;
    "Slice" 10 ANY, 3, movement::shuffle;
    "Concat" 7 ANY, 8, movement::concat;
    "Split" 7 ANY, 5, movement::split;
    "Pad" 11 &[F32, F32, F32, F64, F16, I64, I32], 5, movement::pad;
    "Expand" 8 ANY, 5, movement::expand;
    "Tile" 7 ANY, 3, movement::tile;
    "DepthToSpace" 11 &[F32, F32, F64, F16], 2, movement::blocks;
    "SpaceToDepth" 7 &[F32, F32, F64, F16], 2, movement::blocks;
    "Trilu" 14 &[F32, F32, F64, I64], 2, movement::trilu;
    "Shape" 7 ANY, 2, movement::shape_of;
    "Size" 7 ANY, 1, movement::shape_of;
    "Resize" 11 SINGLE, 4, movement::resize;
    "ConstantOfShape" 9 &[F32, I64, Bool, F16], 1, movement::made;
    "EyeLike" 9 &[F32, F64, I64, I32], 1, movement::made;
    "Range" 11 &[I64], 1, movement::made;
    "Gather" 7 ANY, 6, indexing::gather;
    "GatherElements" 11 ANY, 3, indexing::gather_elements;
    "GatherND" 11 ANY, 2, indexing::gather_nd;
    "ScatterND" 11 &[F32, F32, F64, I64, I32, Bool], 2, indexing::scatter_nd;
    "ScatterElements" 11 &[F32, F32, F64, I64, I32], 2, indexing::scatter_elements;
    "OneHot" 11 &[F32, I64, I32], 1, indexing::one_hot;
    "ReverseSequence" 10 &[F32, I64, F64], 1, indexing::reverse;
    "NonZero" 9 &[F32, I64, Bool, I32], 1, indexing::sized_by_data;
    "Unique" 11 &[I64], 1, indexing::sized_by_data;
    "Compress" 9 &[F32, I64, I32], 1, indexing::sized_by_data;
    "MatMul" 9 &[F32, F32, F32, F32, F64, F16, I32, I64], 12, dense::matmul;
    "Gemm" 11 FLOATS, 6, dense::gemm;
    "Conv" 11 &[F32, F32, F32, F32, F32, F16], 14, dense::conv;
    "ConvTranspose" 11 SINGLE, 4, dense::conv_transpose;
    "MaxPool" 12 &[F32, F32, F32, F64], 4, dense::pool;
    "AveragePool" 11 SINGLE, 4, dense::pool;
    "LpPool" 11 SINGLE, 1, dense::pool;
    "GlobalAveragePool" 7 SINGLE, 3, dense::global;
    "GlobalMaxPool" 7 SINGLE, 1, dense::global;
    "GlobalLpPool" 7 SINGLE, 1, dense::global;
    "BatchNormalization" 15 WIDE, 4, dense::channel_norm;
    "InstanceNormalization" 7 SINGLE, 3, dense::channel_norm;
    "GroupNormalization" 21 SINGLE, 3, dense::channel_norm;
    "LRN" 7 SINGLE, 1, dense::channel_norm;
    "LayerNormalization" 17 SINGLE, 5, dense::row_norm;
    "RMSNormalization" 23 SINGLE, 5, dense::row_norm;
    "MeanVarianceNormalization" 9 SINGLE, 1, dense::mean_variance;
    "Einsum" 12 WIDE, 3, dense::einsum;
    "GridSample" 16 SINGLE, 2, dense::grid_sample;
    "Det" 11 WIDE, 1, dense::det;
    "Softmax" 13 SINGLE, 6, blocks::attention;
    "Attention" 23 SINGLE, 6, blocks::attention_operator;
    "RotaryEmbedding" 23 SINGLE, 3, blocks::rotary;
    "Conv" 15 SINGLE, 6, blocks::residual;
    "Conv" 11 SINGLE, 3, blocks::excitation;
    "MatMul" 9 WIDE, 5, blocks::siblings;
    "Gather" 11 SINGLE, 3, blocks::embedding;
    "LSTM" 7 SINGLE, 2, recurrent::layer;
    "GRU" 7 SINGLE, 2, recurrent::layer;
    "RNN" 7 SINGLE, 1, recurrent::layer;
    "QuantizeLinear" 10 SINGLE, 3, quantized::pair;
    "QuantizeLinear" 10 SINGLE, 6, quantized::qdq;
    "MatMulInteger" 10 &[U8, I8], 2, quantized::integer;
    "ConvInteger" 10 &[U8], 2, quantized::integer;
    "DynamicQuantizeLinear" 11 SINGLE, 2, quantized::dynamic;
    "QLinearConv" 10 SINGLE, 2, quantized::qlinear;
    "QLinearMatMul" 10 SINGLE, 2, quantized::qlinear;
    "If" 11 SINGLE, 2, control::branch;
    "Loop" 11 SINGLE, 2, control::repeat;
    "Scan" 9 SINGLE, 2, control::scan;
    "SplitToSequence" 11 SINGLE, 1, control::sequence;
}
