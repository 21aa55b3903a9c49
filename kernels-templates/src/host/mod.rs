//! Host functions: operators whose result types depend on data, and operators on strings and sequences, over run-time values.

mod complex;
mod dynamic;
mod fft;
#[cfg(feature = "images")]
mod image;
mod maps;
mod random;
mod regex;
mod resize;
mod select;
mod sequence;
mod signal;
mod spatial;
mod strings;
mod tensor;
mod twister;
mod words;

pub use complex::pairs;
pub use words::{listed, sorted};

use crate::fault::Fault;
use crate::value::{Tensor, Value};
use alloc::{format, vec::Vec};

/// Attributes of a host function, in its own order.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostArgs<'a> {
    /// Integers.
    pub ints: &'a [i64],
    /// Text.
    pub text: &'a [&'a str],
}

/// A host function: operands (`None` for an optional one left out) and attributes to results.
pub type HostFn = fn(&[Option<&Value>], HostArgs<'_>) -> Result<Vec<Value>, Fault>;

type Answer = Result<Vec<Value>, Fault>;

macro_rules! host {
    ($($name:literal => $f:path;)*) => {
        /// Every host function by name.
        pub const HOST: &[(&str, HostFn)] = &[$(($name, $f),)*];
    };
}

host! {
    "affine_grid" => spatial::affine_grid;
    "cast" => strings::cast;
    "cast_map" => maps::cast;
    "center_crop_pad" => spatial::center_crop_pad;
    "col2im" => spatial::col2im;
    "complex_join" => complex::join;
    "complex_parts" => complex::parts;
    "compress" => tensor::compress;
    "concat_from_sequence" => sequence::concat;
    "dict_vectorizer" => maps::vectorize;
    "dft" => signal::dft;
    "dropout" => random::dropout;
    "expand" => tensor::expand;
    "identity" => sequence::identity;
    "image_decoder" => image_decoder;
    "label_encoder" => words::encode;
    "max_unpool" => spatial::max_unpool;
    "mel_weights" => signal::mel_weights;
    "non_max_suppression" => select::suppress;
    "multinomial" => random::multinomial;
    "nonzero" => tensor::nonzero;
    "one_hot" => dynamic::one_hot;
    "optional" => sequence::optional;
    "optional_get_element" => sequence::get_element;
    "optional_has_element" => sequence::has_element;
    "pad" => dynamic::pad;
    "random" => random::random;
    "range" => tensor::range;
    "reduce" => dynamic::reduce;
    "regex_full_match" => words::full_match;
    "reshape" => tensor::reshape;
    "resize" => resize::resize;
    "scan" => dynamic::scan;
    "sequence_at" => sequence::at;
    "sequence_construct" => sequence::construct;
    "sequence_erase" => sequence::erase;
    "sequence_insert" => sequence::insert;
    "sequence_length" => sequence::length;
    "slice" => tensor::slice;
    "split" => dynamic::split;
    "split_to_sequence" => sequence::split;
    "squeeze" => dynamic::squeeze;
    "stft" => signal::stft;
    "string_concat" => strings::concat;
    "string_equal" => strings::equal;
    "string_normalizer" => strings::normalize;
    "string_pick" => strings::pick;
    "string_split" => words::split;
    "tf_idf" => words::tf_idf;
    "tile" => tensor::tile;
    "tokenize" => words::tokenize;
    "top_k" => dynamic::top_k;
    "unique" => select::unique;
    "unsqueeze" => dynamic::unsqueeze;
    "zip_map" => maps::zip;
}

#[cfg(feature = "images")]
use image::decode as image_decoder;

/// Stands in for ImageDecoder where its libraries are left out; compiled models that need it do not build then.
#[cfg(not(feature = "images"))]
fn image_decoder(_: &[Option<&Value>], _: HostArgs<'_>) -> Answer {
    Err(Fault::Domain("kiln is built without its feature images".into()))
}

/// Functions that read with libraries: each with the feature of `kiln` that brings them.
pub const FEATURES: &[(&str, &str)] = &[("image_decoder", "images")];

/// Runs the function of that name.
///
/// # Errors
/// What the function finds wrong with its operands.
pub fn call(name: &str, inputs: &[Option<&Value>], args: HostArgs<'_>) -> Result<Vec<Value>, Fault> {
    match HOST.iter().find(|(n, _)| *n == name) {
        Some((_, f)) => f(inputs, args),
        None => Err(Fault::Domain(format!("there is no host function {name}; this is a bug"))),
    }
}

/// The tensor operand at `i`.
fn tensor<'a>(inputs: &[Option<&'a Value>], i: usize) -> Result<&'a Tensor, Fault> {
    inputs.get(i).copied().flatten().and_then(Value::as_tensor).ok_or_else(|| Fault::Domain(format!("operand {i} is no tensor")))
}

/// The integers of the tensor operand at `i`; `None` when it is left out.
fn ints(inputs: &[Option<&Value>], i: usize) -> Result<Option<Vec<i64>>, Fault> {
    match inputs.get(i).copied().flatten() {
        None => Ok(None),
        Some(Value::Tensor(t)) => {
            t.to_i64s().map(Some).ok_or_else(|| Fault::Domain(format!("operand {i} holds {}, not integers", t.dtype)))
        }
        Some(_) => Err(Fault::Domain(format!("operand {i} is no tensor"))),
    }
}

/// The extents that a shape operand means.
fn extents(shape: &[i64]) -> Result<Vec<usize>, Fault> {
    let dims: Option<Vec<usize>> = shape.iter().map(|d| usize::try_from(*d).ok()).collect();
    match dims {
        Some(d) if d.iter().try_fold(1usize, |a, b| a.checked_mul(*b)).is_some_and(|n| n <= 1 << 40) => Ok(d),
        _ => Err(Fault::Domain(format!("the shape {shape:?} is negative or too large"))),
    }
}

/// A tensor whose element `i` is element `from(i)` of `x`.
fn pick(x: &Tensor, dims: &[usize], from: &[usize]) -> Tensor {
    let mut out = Tensor::zeros(x.dtype, dims);
    let size = x.dtype.size();
    if size == 0 {
        let source = x.as_strings();
        for (o, &f) in out.strings_mut().iter_mut().zip(from) {
            o.clone_from(&source[f]);
        }
    } else {
        let source = x.bytes();
        for (o, &f) in out.bytes_mut().chunks_exact_mut(size).zip(from) {
            o.copy_from_slice(&source[f * size..][..size]);
        }
    }
    out
}
