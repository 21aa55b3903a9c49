//! The table of kernels that are called with plain arguments: one line a kernel gives its printed name, the element types it is
//! compiled for, and the erased form through which the compiler's evaluator and the tests call the very same function.

use crate::dtype::DType;
use crate::fault::Fault;
use crate::value::{Element, Tensor};
use alloc::{string::String, vec::Vec};

/// An argument of an erased call.
#[derive(Debug)]
pub enum Arg<'a> {
    /// A tensor read.
    In(&'a Tensor),
    /// An optional tensor left out.
    Absent,
    /// A tensor written.
    Out(&'a mut Tensor),
    /// Extents or strides.
    Dims(Vec<usize>),
    /// An extent.
    Dim(usize),
    /// Integers, such as pads.
    Ints(Vec<i64>),
    /// An integer.
    Int(i64),
    /// Floats.
    Floats(Vec<f32>),
    /// A float.
    Float(f32),
    /// A flag.
    Bool(bool),
    /// Text, such as a mode.
    Text(String),
}

/// A parameter type that an [`Arg`] converts to.
pub trait FromArg<'a>: Sized {
    /// The argument as this type. Panics on another kind: the table and the lowering disagree, which is a bug.
    fn from_arg(arg: &'a mut Arg<'_>) -> Self;
}

macro_rules! from_arg {
    ($($t:ty: $pattern:pat => $value:expr;)*) => {$(
        impl<'a> FromArg<'a> for $t {
            fn from_arg(arg: &'a mut Arg<'_>) -> Self {
                match arg { $pattern => $value, other => panic!("{other:?} is no {}; this is a bug", stringify!($t)) }
            }
        }
    )*};
}
from_arg! {
    &'a [usize]: Arg::Dims(d) => d;
    usize: Arg::Dim(d) => *d;
    i64: Arg::Int(i) => *i;
    f32: Arg::Float(x) => *x;
    &'a [f32]: Arg::Floats(x) => x;
    bool: Arg::Bool(b) => *b;
    &'a str: Arg::Text(s) => s;
}
// Integer lists share a type with i64 tensors, so they are told apart by a wrapper.
/// A list of integer attributes.
#[derive(Clone, Copy, Debug)]
pub struct Ints<'a>(pub &'a [i64]);
impl<'a> FromArg<'a> for Ints<'a> {
    fn from_arg(arg: &'a mut Arg<'_>) -> Self {
        match arg {
            Arg::Ints(i) => Ints(i),
            other => panic!("{other:?} is no list of integers; this is a bug"),
        }
    }
}
/// A tensor read.
#[derive(Clone, Copy, Debug)]
pub struct In<'a, T>(pub &'a [T]);
/// A tensor written.
#[derive(Debug)]
pub struct Out<'a, T>(pub &'a mut [T]);
impl<'a, T: Element> FromArg<'a> for In<'a, T> {
    fn from_arg(arg: &'a mut Arg<'_>) -> Self {
        match arg {
            Arg::In(t) => In(t.slice()),
            other => panic!("{other:?} is no tensor; this is a bug"),
        }
    }
}
impl<'a, T: Element> FromArg<'a> for Option<In<'a, T>> {
    fn from_arg(arg: &'a mut Arg<'_>) -> Self {
        match arg {
            Arg::In(t) => Some(In(t.slice())),
            _ => None,
        }
    }
}
impl<'a, T: Element> FromArg<'a> for Out<'a, T> {
    fn from_arg(arg: &'a mut Arg<'_>) -> Self {
        match arg {
            Arg::Out(t) => Out(t.slice_mut()),
            other => panic!("{other:?} is no result; this is a bug"),
        }
    }
}
impl<'a, T: Element> FromArg<'a> for Option<Out<'a, T>> {
    fn from_arg(arg: &'a mut Arg<'_>) -> Self {
        match arg {
            Arg::Out(t) => Some(Out(t.slice_mut())),
            _ => None,
        }
    }
}

/// What a kernel answers: nothing, or a fault.
pub trait Answer {
    /// As a result.
    fn answer(self) -> Result<(), Fault>;
}
impl Answer for () {
    fn answer(self) -> Result<(), Fault> {
        Ok(())
    }
}
impl Answer for Result<(), Fault> {
    fn answer(self) -> Result<(), Fault> {
        self
    }
}

/// A set of element types a kernel is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Any type of whole bytes: only moved, never computed with.
    Bits,
    /// f32, f64 and all integers of whole bytes.
    Num,
    /// f32 and f64.
    Float,
    /// i32 and i64.
    Index,
    /// i8 and u8.
    Byte,
}

impl Class {
    /// Whether a kernel of this class takes elements of that type.
    pub fn takes(self, d: DType) -> bool {
        use DType::*;
        match self {
            Class::Bits => d != Str && d.bits() >= 8,
            Class::Num => matches!(d, F32 | F64 | I8 | I16 | I32 | I64 | U8 | U16 | U32 | U64),
            Class::Float => matches!(d, F32 | F64),
            Class::Index => matches!(d, I32 | I64),
            Class::Byte => matches!(d, I8 | U8),
        }
    }
}

/// One kernel of the table.
#[derive(Clone, Copy)]
pub struct Entry {
    /// Its path in this crate, as printed code spells it.
    pub name: &'static str,
    /// The classes of its type parameters, in order.
    pub generics: &'static [Class],
    /// The erased form: element types of the type parameters, then the arguments in order.
    pub run: fn(&[DType], &mut [Arg<'_>]) -> Result<(), Fault>,
}

macro_rules! with_type {
    (Bits, $d:expr, $t:ident => $body:expr) => {
        match $d.size() {
            1 => {
                type $t = u8;
                $body
            }
            2 => {
                type $t = u16;
                $body
            }
            4 => {
                type $t = u32;
                $body
            }
            8 => {
                type $t = u64;
                $body
            }
            _ => {
                type $t = u128;
                $body
            }
        }
    };
    (Num, $d:expr, $t:ident => $body:expr) => {
        match $d {
            DType::F32 => {
                type $t = f32;
                $body
            }
            DType::F64 => {
                type $t = f64;
                $body
            }
            DType::I8 => {
                type $t = i8;
                $body
            }
            DType::I16 => {
                type $t = i16;
                $body
            }
            DType::I32 => {
                type $t = i32;
                $body
            }
            DType::I64 => {
                type $t = i64;
                $body
            }
            DType::U8 => {
                type $t = u8;
                $body
            }
            DType::U16 => {
                type $t = u16;
                $body
            }
            DType::U32 => {
                type $t = u32;
                $body
            }
            DType::U64 => {
                type $t = u64;
                $body
            }
            other => panic!("no such kernel for {other}; this is a bug"),
        }
    };
    (Float, $d:expr, $t:ident => $body:expr) => {
        match $d {
            DType::F32 => {
                type $t = f32;
                $body
            }
            DType::F64 => {
                type $t = f64;
                $body
            }
            other => panic!("no such kernel for {other}; this is a bug"),
        }
    };
    (Byte, $d:expr, $t:ident => $body:expr) => {
        match $d {
            DType::I8 => {
                type $t = i8;
                $body
            }
            DType::U8 => {
                type $t = u8;
                $body
            }
            other => panic!("no such kernel for {other}; this is a bug"),
        }
    };
    (Index, $d:expr, $t:ident => $body:expr) => {
        match $d {
            DType::I32 => {
                type $t = i32;
                $body
            }
            DType::I64 => {
                type $t = i64;
                $body
            }
            other => panic!("no such kernel for {other}; this is a bug"),
        }
    };
}

macro_rules! entries {
    ($($family:ident::$kernel:ident <$($g:ident: $class:ident),*> ($($a:ident),*);)*) => {
        /// Every kernel of the table.
        pub const ENTRIES: &[Entry] = &[$(Entry {
            name: concat!(stringify!($family), "::", stringify!($kernel)),
            generics: &[$(Class::$class),*],
            run: |types, args| {
                let mut types = types.iter();
                entries!(@types types, [$($g: $class),*], $family::$kernel, [$($g),*], args, [$($a),*])
            },
        },)*];
    };
    (@types $types:ident, [], $family:ident::$kernel:ident, [$($all:ident),*], $args:ident, [$($a:ident),*]) => {{
        let _ = &mut $types;
        let mut args = $args.iter_mut();
        crate::$family::$kernel::<$($all),*>($({
            let $a = args.next().expect("the lowering passes every argument; this is a bug");
            FromArg::from_arg($a)
        }),*).answer()
    }};
    (@types $types:ident, [$g:ident: $class:ident $(, $rest:ident: $rc:ident)*], $family:ident::$kernel:ident, $all:tt, $args:ident, $a:tt) => {{
        let dtype = *$types.next().expect("the lowering names every type; this is a bug");
        with_type!($class, dtype, $g => entries!(@types $types, [$($rest: $rc),*], $family::$kernel, $all, $args, $a))
    }};
}

entries! {
    gather::gather<T: Bits, I: Index>(out, x, indices, outer, axis, inner);
    gather::gather_panels<T: Bits, I: Index>(out, panels, indices, rows, cols);
    gather::gather_fixed<I: Index>(out, panels, indices, rows, cols);
    gather::gather_matmul<T: Num, I: Index>(out, x, w, indices, dims, x_rows, count, k, n);
    gather::lookup<T: Float, I: Index>(out, a, i, b, j, more, a_rows, b_rows, cols);
    gather::gather_elements<T: Bits, I: Index>(out, x, indices, x_dims, i_dims, axis);
    gather::gather_nd<T: Bits, I: Index>(out, x, indices, x_dims, i_dims, batch);
    scatter::scatter_elements<T: Num, I: Index>(out, x, indices, updates, x_dims, i_dims, axis, mode);
    scatter::scatter_nd<T: Num, I: Index>(out, x, indices, updates, x_dims, i_dims, mode);
    narrow::decode<>(out, x, kind);
    narrow::encode<>(out, x, kind, saturate, round);
    narrow::dequantize_blocks<Z: Num>(out, codes, scales, zeros, kind, cols, axis, block);
    narrow::matmul_blocks<Z: Num>(out, x, codes, scales, zeros, kind, n, k, axis, block);
    narrow::matmul_halves<>(out, x, w, kind, n, k, axis);
    reduce::reduce<T: Num>(out, x, dims, reduced, mode);
    reduce::arg<T: Num>(out, x, outer, axis, inner, largest, last);
    scan::cumsum<T: Num>(out, x, outer, axis, inner, exclusive, reverse);
    scan::cumprod<T: Num>(out, x, outer, axis, inner, exclusive, reverse);
    attention::attend<T: Float>(out, q, k, v, mask, batch, sizes, k_batch, v_batch, mask_dims, scale, reach, safe);
    rotary::rotate<T: Float>(out, x, cos, sin, x_dims, cos_dims, sin_dims, width, interleaved);
    rows::softmax<T: Float>(out, x, outer, axis, inner, mode);
    rows::layer_norm<T: Float>(out, mean, inverse, x, scale, bias, rows, cols, epsilon, centred);
    rows::instance_norm<T: Float>(out, x, scale, bias, batch, channels, inner, epsilon);
    rows::group_norm<T: Float>(out, x, scale, bias, batch, channels, inner, groups, epsilon);
    rows::lp_normalize<T: Float>(out, x, outer, axis, inner, p, floor);
    rows::lrn<T: Float>(out, x, batch, channels, inner, size, alpha, beta, bias);
    plain::matmul<T: Num>(out, a, b, batch, m, n, k, a_batch, b_batch);
    igemm::multiply<T: Byte>(out, a, b, a_zero, b_zero, m, n, k);
    igemm::convolve<T: Num>(out, x, w, zero, w_zero, x_dims, w_dims, out_dims, strides, pads, dilations, groups);
    quantize::parameters<>(scale, zero, x);
    plain::conv<T: Num>(out, x, w, bias, x_dims, w_dims, out_dims, strides, pads, dilations, groups);
    plain::conv_transpose<T: Float>(out, x, w, bias, x_dims, w_dims, out_dims, strides, pads, dilations, groups);
    plain::pool<T: Num>(out, indices, x, x_dims, out_dims, kernel, strides, pads, dilations, mode, column_major);
    rnn::recurrence<>(y, last, last_cell, gates, r, bias, first, first_cell, dims, cell, reverse, scratch);
    rnn::recurrent<T: Float>(y, last, last_cell, x, w, r, bias, lengths, first, first_cell, peepholes, dims, cell, activations, alpha,
        beta, reverse, flag, clip, scratch);
    sample::grid_sample<T: Float>(out, x, grid, x_dims, out_dims, mode, padding, align);
    sample::roi_align<T: Float, I: Index>(out, x, rois, batch, x_dims, out_dims, ratio, scale, maximum, half_pixel);
    sample::max_roi_pool<T: Float>(out, x, rois, x_dims, out_dims, scale);
    sample::deform_conv<T: Float>(out, x, w, offset, bias, mask, x_dims, w_dims, out_dims, strides, pads, dilations, groups,
        offset_groups);
    linalg::det<T: Float>(out, x, batch, n);
    linalg::inverse<T: Float>(out, x, batch, n, scratch);
    trees::ensemble<T: Float>(out, x, forest, features, targets, aggregate);
    trees::classify<T: Float>(scores, picked, x, base, classes, binary, how);
    svm::distances<>(out, x, vectors, features, count);
    svm::votes<>(scores, picked, kernel, coefficients, rho, prob_a, prob_b, counts);
    resize::resize<T: Float>(out, x, x_dims, out_dims, scales, roi, mode, coordinates, nearest, cubic, extrapolation, exclude);
    sort::top_k<T: Num>(values, indices, x, outer, axis, inner, k, largest);
    copy::pad<T: Bits>(out, x, value, x_dims, pads, mode);
    copy::tile<T: Bits>(out, x, x_dims, out_dims);
    copy::one_hot<T: Bits, I: Index>(out, indices, values, outer, depth, inner);
}

/// The entry of that name.
pub fn find(name: &str) -> Option<&'static Entry> {
    ENTRIES.iter().find(|e| e.name == name)
}
