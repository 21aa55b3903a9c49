//! Operators that draw at random: RandomUniform, RandomNormal, both after another tensor, Bernoulli, Multinomial, and Dropout in training.
//!
//! The generator is the Mersenne Twister as NumPy seeds it (`kernels-templates/src/host/twister.rs`). A node with the attribute `seed`
//! gives the same numbers at every run; one without gives others at each. No drawn number is ever folded into the compiled model.

use super::{Reader, host};
use crate::diagnostics::Diagnostic;
use crate::ir::{Dim, Type, ValueId};
use kiln_kernels::dtype::DType;

type Read = Result<Vec<ValueId>, Diagnostic>;

/// The host functions that draw: equal calls of them are not equal.
pub(super) const DRAWING: &[&str] = &["dropout", "multinomial", "random"];

/// The attribute `seed`, a float: whether it is there, and a whole number that stands for it.
fn seed(r: &Reader<'_, '_>) -> Result<[i64; 2], Diagnostic> {
    Ok(match r.float_opt("seed")?.filter(|s| !s.is_nan()) {
        None => [0, 0],
        Some(s) if s.fract() == 0.0 && s.abs() < 2f32.powi(62) => [1, s as i64],
        Some(s) => [1, s.to_bits() as i64 | 1 << 62],
    })
}

/// Adds the drawing of floats by `law` with two parameters, of the extents listed or those of `like`.
fn draw(
    r: &mut Reader<'_, '_>,
    law: &str,
    parameters: [f32; 2],
    dtype: DType,
    like: Result<ValueId, Vec<i64>>,
) -> Result<ValueId, Diagnostic> {
    if !matches!(dtype, DType::F16 | DType::Bf16 | DType::F32 | DType::F64) {
        return Err(Diagnostic::new(format!("random numbers are floats of 16, 32 or 64 bits, not {dtype}")));
    }
    if parameters.iter().any(|p| !p.is_finite()) {
        return Err(Diagnostic::new(format!("the law {law} has the parameters {parameters:?}, which are not all finite")));
    }
    let [a, b] = parameters.map(|p| (p as f64).to_bits() as i64);
    let [seeded, seed] = seed(r)?;
    let mut ints = vec![dtype.to_onnx() as i64, a, b, seeded, seed];
    let (inputs, ty) = match like {
        Ok(x) => {
            let ty = match r.ty(x) {
                Type::Tensor(_, shape) => Type::Tensor(dtype, shape.clone()),
                _ => Type::AnyTensor(dtype),
            };
            (vec![Some(x)], ty)
        }
        Err(shape) => {
            if shape.iter().any(|d| *d < 0) {
                return Err(Diagnostic::new(format!("attribute shape is {shape:?}, expected no negative extent")));
            }
            let ty = Type::Tensor(dtype, shape.iter().map(|d| Dim::int(*d)).collect());
            ints.extend(shape);
            (vec![], ty)
        }
    };
    Ok(host::call_with(r, "random", inputs, ints, vec![law.into()], vec![ty])?[0])
}

/// The law and its parameters, by the operator's name.
fn law(r: &Reader<'_, '_>) -> Result<(&'static str, [f32; 2]), Diagnostic> {
    Ok(match r.node.op_type.starts_with("RandomNormal") {
        true => ("normal", [r.float("mean", 0.0)?, r.float("scale", 1.0)?]),
        false => ("uniform", [r.float("low", 0.0)?, r.float("high", 1.0)?]),
    })
}

/// Reads [RandomUniform](https://onnx.ai/onnx/operators/onnx__RandomUniform.html) and
/// [RandomNormal](https://onnx.ai/onnx/operators/onnx__RandomNormal.html).
pub fn read(r: &mut Reader<'_, '_>) -> Read {
    let (law, parameters) = law(r)?;
    let dtype = r.dtype_attr("dtype")?.unwrap_or(DType::F32);
    let shape = r.ints("shape")?.ok_or_else(|| Diagnostic::new("attribute shape is missing"))?;
    Ok(vec![draw(r, law, parameters, dtype, Err(shape))?])
}

/// Reads [RandomUniformLike](https://onnx.ai/onnx/operators/onnx__RandomUniformLike.html) and
/// [RandomNormalLike](https://onnx.ai/onnx/operators/onnx__RandomNormalLike.html).
pub fn read_like(r: &mut Reader<'_, '_>) -> Read {
    let (law, parameters) = law(r)?;
    let x = r.input(0)?;
    let dtype = r.dtype_attr("dtype")?.unwrap_or(r.dtype(x));
    Ok(vec![draw(r, law, parameters, dtype, Ok(x))?])
}

/// Reads [Bernoulli](https://onnx.ai/onnx/operators/onnx__Bernoulli.html): 1 where a uniform number is below the probability.
pub fn read_bernoulli(r: &mut Reader<'_, '_>) -> Read {
    let x = r.input(0)?;
    let dtype = r.dtype_attr("dtype")?.unwrap_or(r.dtype(x));
    let u = draw(r, "uniform", [0.0, 1.0], DType::F64, Ok(x))?;
    let p = r.cast(x, DType::F64)?;
    let hit = r.pointwise("Less", &[u, p])?;
    Ok(vec![r.cast(hit, dtype)?])
}

/// Reads [Multinomial](https://onnx.ai/onnx/operators/onnx__Multinomial.html).
pub fn read_multinomial(r: &mut Reader<'_, '_>) -> Read {
    let x = r.ranked(0, 2)?;
    let (batch, drawn) = (r.shape(x)?[0].clone(), r.int("sample_size", 1)?);
    let dtype = r.dtype_attr("dtype")?.unwrap_or(DType::I32);
    if !matches!(dtype, DType::I32 | DType::I64) || drawn < 0 {
        return Err(Diagnostic::new(format!("Multinomial draws {drawn} of {dtype}, expected 0 or more of i32 or i64")));
    }
    let wide = r.cast(x, DType::F64)?;
    let [seeded, seed] = seed(r)?;
    let ty = Type::Tensor(dtype, vec![batch, Dim::int(drawn)]);
    host::call(r, "multinomial", &[wide], vec![dtype.to_onnx() as i64, drawn, seeded, seed], vec![ty])
}

/// A Dropout that drops: operands x, ratio and the training flag; gives the result and which elements were kept, as bools.
pub(super) fn dropout(r: &mut Reader<'_, '_>, x: ValueId, ratio: Option<ValueId>, training: ValueId) -> Read {
    let (shape, dtype) = (r.shape(x)?, r.dtype(x));
    let wide = if dtype == DType::F64 { dtype } else { DType::F32 };
    let inputs = vec![Some(r.cast(x, wide)?), ratio, Some(training)];
    let results = vec![Type::Tensor(wide, shape.clone()), Type::Tensor(DType::Bool, shape)];
    let seed = r.int_opt("seed")?.into_iter().collect();
    let mut out = host::call_with(r, "dropout", inputs, seed, vec![], results)?;
    out[0] = r.cast(out[0], dtype)?;
    Ok(out)
}
