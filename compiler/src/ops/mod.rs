//! Operators: one file each (one-line ones share `pointwise.rs` and `reduce.rs`), registered in the two tables below.

mod compose;
mod cx;
mod reader;

pub mod attend;
pub mod attention;
pub mod cast;
pub mod constant;
pub mod contrib;
pub mod contrib_attention;
pub mod contrib_packed;
pub mod control;
pub mod conv;
pub mod deform_conv;
pub mod det;
pub mod dropout;
pub mod einsum;
pub mod encode;
pub mod few_bits;
mod formulas;
pub mod gather;
pub mod gradient;
pub mod grid_sample;
pub mod host;
pub mod image;
pub mod interleave;
pub mod inverse;
pub mod loss;
pub mod matmul;
pub mod ml;
pub mod moved;
pub mod movement;
pub mod narrow;
pub mod norm;
pub mod optional;
pub mod pad;
pub mod pointwise;
pub mod pool;
pub mod qlinear;
pub mod quantize;
pub mod random;
pub mod recurrent;
pub mod recurrent_attention;
pub mod reduce;
pub mod resize;
pub mod roi_align;
pub mod roi_pool;
pub mod rotary;
pub mod scatter;
pub mod sequence;
pub mod shape;
pub mod signal;
pub mod softmax;
pub mod sort;
pub mod spatial;
pub mod strings;
pub mod svm;
pub mod training;
pub mod trees;

pub(crate) use cx::list;
pub use cx::{Affine, Call, CallArg, Facts, Infer, Lowering, Operand, Part, Real, broadcast};
pub use reader::{Axes, Reader};

use crate::diagnostics::Diagnostic;
use crate::ir::text::{Cursor, Fields, Parsed};
use crate::ir::{Fact, ValueId};
use kiln_kernels::dtype::DType;

/// A primitive operator: what its results look like, and which kernel computes them.
pub trait Operator {
    /// The facts of the results. Checks everything about the operands that the kernel takes for granted.
    ///
    /// # Errors
    /// What the operator's definition does not allow, found and expected.
    fn infer(&self, cx: &mut Infer<'_>) -> Result<Vec<Fact>, Diagnostic>;
    /// The kernel that computes the results; it is the reference that every faster one is compared with.
    fn lower(&self, cx: &Facts<'_>) -> Lowering;
}

macro_rules! words {
    () => {
        &[]
    };
    ($words:expr) => {
        $words
    };
}

macro_rules! operators {
    ($($name:ident: $module:ident::$kind:ident $({ $($field:ident $(in $words:expr)?),* })?;)*) => {
        /// An operator with its attributes.
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Op { $(#[doc = concat!("See [`", stringify!($module), "::", stringify!($kind), "`].")] $name($module::$kind),)* }
        impl Op {
            /// The operator's name in graph text.
            pub fn name(&self) -> &'static str {
                match self { $(Op::$name(_) => stringify!($name),)* }
            }
            fn operator(&self) -> &dyn Operator {
                match self { $(Op::$name(op) => op,)* }
            }
            /// Appends the attributes as text.
            pub(crate) fn write_attributes(&self, out: &mut String) {
                let mut fields = Fields::default();
                match self {$(
                    Op::$name(_op) => {$( let $module::$kind { $($field),* } = _op; $(fields.write(out, stringify!($field), $field);)* )?}
                )*}
                fields.write_end(out);
            }
            /// Reads the operator of that name, whose attributes come next.
            pub(crate) fn read_attributes(name: &str, p: &mut Cursor<'_>) -> Parsed<Op> {
                let mut fields = Fields::default();
                $($(if name == stringify!($name) {
                    $(let $field = fields.read(p, stringify!($field), words!($($words)?))?;)*
                    fields.read_end(p)?;
                    return Ok(Op::$name($module::$kind { $($field),* }));
                })?)*
                Err(format!("there is no operator {name}"))
            }
            /// A word among the attributes that the table does not list.
            pub(crate) fn unlisted(&self) -> Option<&'static str> {
                match self {$(
                    Op::$name(_op) => {$($($(if !$words.contains(&_op.$field) { return Some(_op.$field); })?)*)?}
                )*}
                None
            }
        }
        $(impl From<$module::$kind> for Op {
            fn from(op: $module::$kind) -> Op { Op::$name(op) }
        })*
    };
}

// The attributes in the order in which graph text shows them; for a word, those that it can be.
operators! {
    Pointwise: pointwise::Pointwise;
    Dims: shape::Dims { elements, scalar, dtype };
    Reshape: shape::Reshape { shape };
    BitCast: shape::BitCast { to };
    Transpose: movement::Transpose { perm };
    Expand: movement::Expand { shape };
    Slice: movement::Slice { starts, steps, sizes, bounds };
    Concat: movement::Concat { axis };
    Append: movement::Append { axis };
    Split: movement::Split { axis, sizes };
    Interleave: interleave::Interleave { block, first, extents };
    Pad: pad::Pad { pads, mode in pad::MODES };
    Tile: pad::Tile { repeats };
    MatMul: matmul::MatMul {};
    MatMulInteger: matmul::MatMulInteger {};
    GatherMatMul: matmul::GatherMatMul {};
    NarrowMatMul: few_bits::NarrowMatMul { axis, block };
    BlockDequantize: few_bits::BlockDequantize { axis, block };
    Conv: conv::Conv { strides, pads, dilations, groups };
    ConvInteger: conv::ConvInteger { strides, pads, dilations, groups };
    ConvTranspose: conv::ConvTranspose { strides, pads, dilations, output_padding, groups };
    Pool: pool::Pool { mode in pool::MODES, kernel, strides, pads, dilations, ceil, column_major };
    Reduce: reduce::Reduce { mode in reduce::MODES, axes, keep };
    Arg: reduce::Arg { axis, keep, largest, last };
    Softmax: softmax::Softmax { axis, mode in &["softmax", "softmax_f16", "softmax_bf16", "log_softmax", "hardmax"] };
    Attend: attend::Attend { scale, causal, safe };
    Rotary: rotary::Rotary { width, interleaved };
    Calibrate: quantize::Calibrate {};
    Widen: narrow::Widen {};
    Narrow: narrow::Narrow { to, saturate, round in &["up", "down", "nearest"] };
    LayerNorm: norm::LayerNorm { axis, epsilon, centred };
    InstanceNorm: norm::InstanceNorm { epsilon };
    GroupNorm: norm::GroupNorm { groups, epsilon };
    LpNorm: norm::LpNorm { axis, p, floor };
    Lrn: norm::Lrn { size, alpha, beta, bias };
    Gather: gather::Gather { axis };
    Lookup: gather::Lookup {};
    GatherElements: gather::GatherElements { axis };
    GatherNd: gather::GatherNd { batch };
    OneHot: gather::OneHot { axis, depth };
    ScatterElements: scatter::ScatterElements { axis, mode in scatter::MODES };
    ScatterNd: scatter::ScatterNd { mode in scatter::MODES };
    TopK: sort::TopK { axis, k, largest };
    Running: sort::Running { kernel in &["scan::cumsum", "scan::cumprod"], axis, exclusive, reverse };
    Resize: resize::Resize {
        shape, scales, roi, mode in resize::MODES, coordinates in resize::COORDINATES, nearest in resize::NEAREST, cubic, extrapolation, exclude
    };
    GridSample: grid_sample::GridSample { mode in &["linear", "nearest", "cubic"], padding in &["zeros", "border", "reflection"], align };
    RoiAlign: roi_align::RoiAlign { size, ratio, scale, maximum, half_pixel };
    RoiPool: roi_pool::RoiPool { size, scale };
    DeformConv: deform_conv::DeformConv { strides, pads, dilations, groups, offset_groups };
    Recurrent: recurrent::Recurrent {
        cell in &["rnn", "gru", "lstm"], hidden, directions, reverse, activations, alpha, beta, flag, clip
    };
    Recurrence: recurrent::Recurrence { cell in &["rnn", "gru", "lstm"], hidden, reverse };
    Det: det::Det {};
    Inverse: inverse::Inverse {};
    TreeEnsemble: trees::TreeEnsemble { targets, aggregate };
    TreeClassify: trees::TreeClassify { binary in &kiln_kernels::trees::BINARY, transform in &kiln_kernels::trees::TRANSFORMS };
    SupportDistances: svm::SupportDistances {};
    SupportVotes: svm::SupportVotes { counts };
    Host: host::Host { name in host::NAMES, ints, text, results };
    If: control::If {};
    Loop: control::Loop { carried, trip };
}

impl Op {
    /// See [`Operator::infer`].
    pub fn infer(&self, cx: &mut Infer<'_>) -> Result<Vec<Fact>, Diagnostic> {
        self.operator().infer(cx)
    }
    /// See [`Operator::lower`].
    pub fn lower(&self, cx: &Facts<'_>) -> Lowering {
        self.operator().lower(cx)
    }
    /// Whether operands of sub-byte types, whose elements are packed, are taken as they are.
    pub fn takes_packed(&self) -> bool {
        matches!(self, Op::Widen(_) | Op::NarrowMatMul(_) | Op::BlockDequantize(_) | Op::Reshape(_) | Op::Host(_) | Op::If(_) | Op::Loop(_))
    }
    /// Whether it makes numbers of a first operand of that type, which is stored in few bits.
    pub fn widens(&self, stored: Option<DType>) -> bool {
        match self {
            Op::BlockDequantize(_) => true,
            Op::Pointwise(p) if p.name == "DequantizeLinear" => matches!(stored, Some(DType::I8 | DType::U8)),
            Op::Pointwise(p) if p.name == "Cast" => matches!(stored, Some(DType::F16 | DType::Bf16)),
            _ => false,
        }
    }
    /// Whether equal operands always give equal results, with no other effect, so that it may be folded, merged and dropped.
    pub fn is_pure(&self) -> bool {
        match self {
            Op::If(_) | Op::Loop(_) => false,
            Op::Host(h) => !random::DRAWING.contains(&h.name),
            _ => true,
        }
    }
}

/// How an ONNX operator is read: into one primitive, or expanded into several.
pub type Read = fn(&mut Reader<'_, '_>) -> Result<Vec<ValueId>, Diagnostic>;

/// An ONNX operator that Kiln knows.
#[derive(Clone, Copy)]
pub struct Schema {
    /// Its domain; empty for `ai.onnx`.
    pub domain: &'static str,
    /// Its `op_type`.
    pub name: &'static str,
    /// The operator-set version that introduced it.
    pub since: i64,
    /// Reads a node.
    pub read: Read,
}

macro_rules! schemas {
    ($($domain:literal { $($name:literal $since:literal $read:expr;)* })*) => {
        /// Every ONNX operator that Kiln knows, by domain.
        pub const SCHEMAS: &[Schema] = &[$($(Schema { domain: $domain, name: $name, since: $since, read: $read },)*)*];
    };
}

schemas! {
    "" {
        "Abs" 1 pointwise::read_unary;
        "Acos" 7 pointwise::read_unary;
        "Acosh" 9 pointwise::read_unary;
        "Add" 1 pointwise::read_binary;
        "AffineGrid" 20 spatial::read_affine_grid;
        "And" 1 pointwise::read_binary;
        "ArgMax" 1 reduce::read_arg;
        "ArgMin" 1 reduce::read_arg;
        "Asin" 7 pointwise::read_unary;
        "Asinh" 9 pointwise::read_unary;
        "Atan" 7 pointwise::read_unary;
        "Atanh" 9 pointwise::read_unary;
        "Attention" 23 attention::read;
        "AveragePool" 1 pool::read_average;
        "BatchNormalization" 1 norm::read_batch;
        "Bernoulli" 15 random::read_bernoulli;
        "BitCast" 26 shape::read_bit_cast;
        "BitShift" 11 pointwise::read_bit_shift;
        "BitwiseAnd" 18 pointwise::read_binary;
        "BitwiseNot" 18 pointwise::read_unary;
        "BitwiseOr" 18 pointwise::read_binary;
        "BitwiseXor" 18 pointwise::read_binary;
        "Cast" 1 cast::read;
        "CastLike" 15 cast::read_like;
        "BlackmanWindow" 17 signal::read_window;
        "CausalConvWithState" 27 recurrent_attention::read_causal_conv;
        "Ceil" 1 pointwise::read_unary;
        "Celu" 12 pointwise::read_activation;
        "CenterCropPad" 18 spatial::read_center_crop_pad;
        "Clip" 1 pointwise::read_clip;
        "Col2Im" 18 spatial::read_col2im;
        "Compress" 9 host::read_compress;
        "Concat" 1 movement::read_concat;
        "ConcatFromSequence" 11 sequence::read_concat;
        "Constant" 1 constant::read_constant;
        "ConstantOfShape" 9 constant::read_constant_of_shape;
        "Conv" 1 conv::read_conv;
        "ConvInteger" 10 conv::read_integer;
        "ConvTranspose" 1 conv::read_transpose;
        "Cos" 7 pointwise::read_unary;
        "Cosh" 9 pointwise::read_unary;
        "CumProd" 26 sort::read_running;
        "CumSum" 11 sort::read_running;
        "DFT" 17 signal::read_dft;
        "DeformConv" 19 deform_conv::read;
        "DepthToSpace" 1 movement::read_depth_to_space;
        "DequantizeLinear" 10 quantize::read_dequantize;
        "Det" 11 det::read;
        "Div" 1 pointwise::read_binary;
        "Dropout" 1 dropout::read;
        "DynamicQuantizeLinear" 11 quantize::read_dynamic;
        "Einsum" 12 einsum::read;
        "Elu" 1 pointwise::read_activation;
        "Equal" 1 pointwise::read_binary;
        "Erf" 9 pointwise::read_unary;
        "Exp" 1 pointwise::read_unary;
        "Expand" 8 movement::read_expand;
        "EyeLike" 9 constant::read_eye_like;
        "Flatten" 1 shape::read_flatten;
        "Floor" 1 pointwise::read_unary;
        "GRU" 1 recurrent::read;
        "Gather" 1 gather::read_gather;
        "GatherElements" 11 gather::read_elements;
        "GatherND" 11 gather::read_nd;
        "Gelu" 20 pointwise::read_activation;
        "Gemm" 1 matmul::read_gemm;
        "GlobalAveragePool" 1 pool::read_global;
        "GlobalLpPool" 1 pool::read_global;
        "GlobalMaxPool" 1 pool::read_global;
        "Greater" 1 pointwise::read_binary;
        "GreaterOrEqual" 12 pointwise::read_binary;
        "GridSample" 16 grid_sample::read;
        "GroupNormalization" 18 norm::read_group;
        "HammingWindow" 17 signal::read_window;
        "HannWindow" 17 signal::read_window;
        "HardSigmoid" 1 pointwise::read_activation;
        "HardSwish" 14 pointwise::read_activation;
        "Hardmax" 1 softmax::read;
        "Identity" 1 pointwise::read_identity;
        "If" 1 control::read_if;
        "ImageDecoder" 20 image::read;
        "InstanceNormalization" 1 norm::read_instance;
        "IsInf" 10 pointwise::read_is_inf;
        "IsNaN" 9 pointwise::read_is_nan;
        "LRN" 1 norm::read_lrn;
        "LSTM" 1 recurrent::read;
        "LayerNormalization" 1 norm::read_layer;
        "LeakyRelu" 1 pointwise::read_activation;
        "Less" 1 pointwise::read_binary;
        "LessOrEqual" 12 pointwise::read_binary;
        "LinearAttention" 27 recurrent_attention::read_linear;
        "Log" 1 pointwise::read_unary;
        "LogSoftmax" 1 softmax::read;
        "Loop" 1 control::read_loop;
        "LpNormalization" 1 norm::read_lp;
        "LpPool" 1 pool::read_lp;
        "MatMul" 1 matmul::read_matmul;
        "MatMulInteger" 10 matmul::read_matmul_integer;
        "Max" 1 pointwise::read_variadic;
        "MaxPool" 1 pool::read_max;
        "MaxRoiPool" 1 roi_pool::read;
        "MaxUnpool" 9 spatial::read_max_unpool;
        "Mean" 1 pointwise::read_variadic;
        "MeanVarianceNormalization" 9 norm::read_mean_variance;
        "MelWeightMatrix" 17 signal::read_mel;
        "Min" 1 pointwise::read_variadic;
        "Mish" 18 pointwise::read_activation;
        "Mod" 10 pointwise::read_mod;
        "Mul" 1 pointwise::read_binary;
        "Multinomial" 7 random::read_multinomial;
        "Neg" 1 pointwise::read_unary;
        "NegativeLogLikelihoodLoss" 12 loss::read_likelihood;
        "NonMaxSuppression" 10 spatial::read_suppression;
        "NonZero" 9 host::read_nonzero;
        "Not" 1 pointwise::read_unary;
        "OneHot" 9 gather::read_one_hot;
        "Optional" 15 optional::read;
        "OptionalGetElement" 15 optional::read_get;
        "OptionalHasElement" 15 optional::read_has;
        "Or" 1 pointwise::read_binary;
        "PRelu" 1 pointwise::read_prelu;
        "Pad" 1 pad::read_pad;
        "Pow" 1 pointwise::read_pow;
        "QLinearConv" 10 qlinear::read_conv;
        "QLinearMatMul" 10 qlinear::read_matmul;
        "QuantizeLinear" 10 quantize::read_quantize;
        "RMSNormalization" 23 norm::read_rms;
        "RNN" 1 recurrent::read;
        "RandomNormal" 1 random::read;
        "RandomNormalLike" 1 random::read_like;
        "RandomUniform" 1 random::read;
        "RandomUniformLike" 1 random::read_like;
        "Range" 11 constant::read_range;
        "Reciprocal" 1 pointwise::read_unary;
        "ReduceL1" 1 reduce::read_reduce;
        "ReduceL2" 1 reduce::read_reduce;
        "ReduceLogSum" 1 reduce::read_reduce;
        "ReduceLogSumExp" 1 reduce::read_reduce;
        "ReduceMax" 1 reduce::read_reduce;
        "ReduceMean" 1 reduce::read_reduce;
        "ReduceMin" 1 reduce::read_reduce;
        "ReduceProd" 1 reduce::read_reduce;
        "ReduceSum" 1 reduce::read_reduce;
        "ReduceSumSquare" 1 reduce::read_reduce;
        "RegexFullMatch" 20 strings::read_full_match;
        "Relu" 1 pointwise::read_unary;
        "Reshape" 1 shape::read_reshape;
        "Resize" 10 resize::read_resize;
        "ReverseSequence" 10 gather::read_reverse;
        "RoiAlign" 10 roi_align::read;
        "RotaryEmbedding" 23 recurrent_attention::read_rotary;
        "Round" 11 pointwise::read_unary;
        "STFT" 17 signal::read_stft;
        "Scan" 8 control::read_scan;
        "Scatter" 9 scatter::read_elements;
        "ScatterElements" 11 scatter::read_elements;
        "ScatterND" 11 scatter::read_nd;
        "Selu" 1 pointwise::read_activation;
        "SequenceAt" 11 sequence::read_at;
        "SequenceConstruct" 11 sequence::read_construct;
        "SequenceEmpty" 11 sequence::read_empty;
        "SequenceErase" 11 sequence::read_erase;
        "SequenceInsert" 11 sequence::read_insert;
        "SequenceLength" 11 sequence::read_length;
        "SequenceMap" 17 sequence::read_map;
        "Shape" 1 shape::read_shape;
        "Shrink" 9 pointwise::read_activation;
        "Sigmoid" 1 pointwise::read_unary;
        "Sign" 9 pointwise::read_unary;
        "SimplifiedLayerNormalization" 1 contrib::read_simplified_norm;
        "Sin" 7 pointwise::read_unary;
        "Sinh" 9 pointwise::read_unary;
        "Size" 1 shape::read_size;
        "Slice" 1 movement::read_slice;
        "Softmax" 1 softmax::read;
        "SoftmaxCrossEntropyLoss" 12 loss::read_cross_entropy;
        "Softplus" 1 pointwise::read_unary;
        "Softsign" 1 pointwise::read_unary;
        "SpaceToDepth" 1 movement::read_space_to_depth;
        "Split" 1 movement::read_split;
        "SplitToSequence" 11 sequence::read_split;
        "Sqrt" 1 pointwise::read_unary;
        "Squeeze" 1 shape::read_squeeze;
        "StringConcat" 20 strings::read_concat;
        "StringNormalizer" 10 strings::read_normalizer;
        "StringSplit" 20 strings::read_split;
        "Sub" 1 pointwise::read_binary;
        "Sum" 1 pointwise::read_variadic;
        "SwiGLU" 27 pointwise::read_swiglu;
        "Swish" 24 pointwise::read_activation;
        "Tan" 7 pointwise::read_unary;
        "Tanh" 1 pointwise::read_unary;
        "TensorScatter" 24 recurrent_attention::read_tensor_scatter;
        "TfIdfVectorizer" 9 strings::read_tf_idf;
        "ThresholdedRelu" 1 pointwise::read_activation;
        "Tile" 1 pad::read_tile;
        "TopK" 1 sort::read_top_k;
        "Transpose" 1 movement::read_transpose;
        "Trilu" 14 constant::read_trilu;
        "Unique" 11 host::read_unique;
        "Unsqueeze" 1 shape::read_unsqueeze;
        "Upsample" 1 resize::read_upsample;
        "Where" 9 pointwise::read_where;
        "Xor" 1 pointwise::read_binary;
    }
    "ai.onnx.ml" {
        "ArrayFeatureExtractor" 1 ml::read_feature_extractor;
        "Binarizer" 1 ml::read_binarizer;
        "CastMap" 1 encode::read_cast_map;
        "CategoryMapper" 1 encode::read_category_mapper;
        "DictVectorizer" 1 encode::read_dict_vectorizer;
        "FeatureVectorizer" 1 ml::read_feature_vectorizer;
        "Imputer" 1 ml::read_imputer;
        "LabelEncoder" 1 encode::read_label_encoder;
        "LinearClassifier" 1 ml::read_linear_classifier;
        "LinearRegressor" 1 ml::read_linear_regressor;
        "Normalizer" 1 ml::read_normalizer;
        "OneHotEncoder" 1 encode::read_one_hot;
        "SVMClassifier" 1 svm::read_classifier;
        "SVMRegressor" 1 svm::read_regressor;
        "Scaler" 1 ml::read_scaler;
        "TreeEnsemble" 5 trees::read;
        "TreeEnsembleClassifier" 1 trees::read_classifier;
        "TreeEnsembleRegressor" 1 trees::read_regressor;
        "ZipMap" 1 encode::read_zip_map;
    }
    "com.microsoft" {
        "Attention" 1 contrib_attention::read;
        "BiasAdd" 1 contrib::read_bias_add;
        "BiasDropout" 1 contrib::read_bias_dropout;
        "BiasGelu" 1 contrib::read_gelu;
        "BiasSoftmax" 1 contrib::read_bias_softmax;
        "BiasSplitGelu" 1 contrib::read_split_gelu;
        "ConvTransposeWithDynamicPads" 1 contrib::read_conv_transpose;
        "DequantizeLinear" 1 quantize::read_dequantize;
        "DynamicQuantizeLSTM" 1 contrib::read_dynamic_lstm;
        "DynamicQuantizeMatMul" 1 qlinear::read_dynamic_matmul;
        "EmbedLayerNormalization" 1 contrib::read_embed_norm;
        "ExpandDims" 1 contrib::read_expand_dims;
        "FastGelu" 1 contrib::read_gelu;
        "FusedConv" 1 contrib::read_conv;
        "FusedGemm" 1 contrib::read_gemm;
        "FusedMatMul" 1 contrib::read_matmul;
        "FusedMatMulActivation" 1 contrib::read_matmul;
        "GatherND" 1 contrib::read_as_13;
        "GemmFastGelu" 1 contrib::read_gemm_gelu;
        "Gelu" 1 contrib::read_gelu;
        "GridSample" 1 contrib::read_grid_sample;
        "GroupNorm" 1 contrib::read_group_norm;
        "GroupQueryAttention" 1 contrib_attention::read_group_query;
        "Inverse" 1 inverse::read;
        "MatMulBnb4" 1 few_bits::read_matmul_of_floats;
        "MatMulIntegerToFloat" 1 qlinear::read_to_float;
        "MatMulNBits" 1 few_bits::read_matmul;
        "MultiHeadAttention" 1 contrib_attention::read_multi_head;
        "NhwcConv" 1 contrib::read_nhwc_conv;
        "NhwcFusedConv" 1 contrib::read_nhwc_conv;
        "PackedAttention" 1 contrib_packed::read_attention;
        "PackedMultiHeadAttention" 1 contrib_packed::read_multi_head;
        "Pad" 1 contrib::read_as_13;
        "QAttention" 1 contrib_attention::read_quantized;
        "QGemm" 1 qlinear::read_gemm;
        "QLinearAdd" 1 qlinear::read_binary;
        "QLinearAveragePool" 1 qlinear::read_average;
        "QLinearConcat" 1 qlinear::read_concat;
        "QLinearConv" 1 qlinear::read_conv;
        "QLinearGlobalAveragePool" 1 qlinear::read_global_average;
        "QLinearLeakyRelu" 1 qlinear::read_leaky_relu;
        "QLinearMul" 1 qlinear::read_binary;
        "QLinearSigmoid" 1 qlinear::read_sigmoid;
        "QLinearSoftmax" 1 qlinear::read_softmax;
        "QLinearWhere" 1 qlinear::read_where;
        "QuantizeLinear" 1 quantize::read_quantize;
        "QuickGelu" 1 contrib::read_gelu;
        "Range" 1 contrib::read_as_13;
        "RemovePadding" 1 contrib_packed::read_remove;
        "RestorePadding" 1 contrib_packed::read_restore;
        "RotaryEmbedding" 1 contrib_attention::read_rotary;
        "SkipGroupNorm" 1 contrib::read_skip_group_norm;
        "SkipLayerNormalization" 1 contrib::read_skip_norm;
        "SkipSimplifiedLayerNormalization" 1 contrib::read_skip_simplified_norm;
        "Tokenizer" 1 strings::read_tokenizer;
        "TransposeMatMul" 1 contrib::read_matmul;
        "Trilu" 1 contrib::read_as_13;
        "Unique" 1 contrib::read_unique;
    }
    "ai.onnx.preview" {
        "FlexAttention" 1 attention::read_flex;
    }
    "ai.onnx.preview.training" {
        "Adagrad" 1 training::read_adagrad;
        "Adam" 1 training::read_adam;
        "Gradient" 1 gradient::read;
        "Momentum" 1 training::read_momentum;
    }
}

/// The schema of an operator.
pub fn find(domain: &str, name: &str) -> Option<&'static Schema> {
    SCHEMAS.iter().find(|s| s.name == name && s.domain == domain)
}
