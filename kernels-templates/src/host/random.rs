//! Operators that draw at random. With a seed the same numbers come at every run, without one others at each.

use super::twister::Twister;
use super::{Answer, HostArgs, tensor};
use crate::dtype::{DType, bf16, f16};
use crate::fault::Fault;
use crate::value::{Tensor, Value};
use alloc::{format, vec, vec::Vec};

/// Numbers as a tensor of floats of any width from 16 bits on.
fn floats(dims: &[usize], v: &[f64], dtype: DType) -> Result<Tensor, Fault> {
    let narrow = || v.iter().map(|x| *x as f32);
    Ok(match dtype {
        DType::F64 => Tensor::new(dims, v),
        DType::F32 => Tensor::new(dims, &narrow().collect::<Vec<_>>()),
        DType::F16 => Tensor::new(dims, &narrow().map(f16::from_f32).collect::<Vec<_>>()),
        DType::Bf16 => Tensor::new(dims, &narrow().map(bf16::from_f32).collect::<Vec<_>>()),
        other => return Err(Fault::Domain(format!("random numbers of {other}"))),
    })
}

/// The number nearest to `x` that a type has.
fn rounded(x: f64, dtype: DType) -> f64 {
    match dtype {
        DType::F64 => x,
        DType::F16 => f16::from_f32(x as f32).to_f32() as f64,
        DType::Bf16 => bf16::from_f32(x as f32).to_f32() as f64,
        _ => x as f32 as f64,
    }
}

/// Operand: optional tensor whose extents the result takes. Attributes: the ONNX code of the result's type, two numbers by the bits of
/// their f64, the seed behind a flag, extents where there is no operand; text: `uniform` between the numbers, the second excluded, or
/// `normal` with the first as mean and the second as scale: [RandomUniform](https://onnx.ai/onnx/operators/onnx__RandomUniform.html),
/// [RandomNormal](https://onnx.ai/onnx/operators/onnx__RandomNormal.html).
pub(super) fn random(inputs: &[Option<&Value>], args: HostArgs<'_>) -> Answer {
    let [code, a, b, seeded, seed, listed @ ..] = args.ints else { return Err(Fault::Domain("random needs five attributes".into())) };
    let dims = match inputs.first().copied().flatten() {
        Some(_) => tensor(inputs, 0)?.dims.clone(),
        None => super::extents(listed)?,
    };
    let dtype = i32::try_from(*code).ok().and_then(DType::from_onnx).unwrap_or(DType::F32);
    let (a, b) = (f64::from_bits(*a as u64), f64::from_bits(*b as u64));
    let mut t = Twister::of((*seeded != 0).then_some(*seed));
    let count = dims.iter().product();
    let mut out = Vec::with_capacity(count);
    for _ in 0..count {
        out.push(match args.text.first() {
            Some(&"normal") => a + b * t.normal(),
            _ => loop {
                let x = rounded(a + (b - a) * t.uniform(), dtype);
                // Rounding may reach the bound, which is excluded; an empty interval has nothing else.
                if x < b || rounded(a, dtype) >= b {
                    break x;
                }
            },
        });
    }
    Ok(vec![floats(&dims, &out, dtype)?.into()])
}

/// Operand: logits [batch, classes]; attributes: the ONNX code of the result's type (i32 or i64), how many are drawn, the seed behind a
/// flag; result: classes [batch, drawn], each drawn by the softmax of its row: the first whose share of the sum lies beyond a uniform
/// number: [Multinomial](https://onnx.ai/onnx/operators/onnx__Multinomial.html).
pub(super) fn multinomial(inputs: &[Option<&Value>], args: HostArgs<'_>) -> Answer {
    let x = tensor(inputs, 0)?;
    let (&[code, drawn, seeded, seed], &[batch, classes]) = (args.ints, &x.dims[..]) else {
        return Err(Fault::Domain(format!("Multinomial of {:?}", x.dims)));
    };
    let logits = x.to_f64s().ok_or_else(|| Fault::Domain(format!("Multinomial of {}", x.dtype)))?;
    let dims = super::extents(&[batch as i64, drawn])?;
    let mut t = Twister::of((seeded != 0).then_some(seed));
    let mut out = Vec::with_capacity(dims[0] * dims[1]);
    for b in 0..dims[0] {
        let row = &logits[b * classes..][..classes];
        let top = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let mut sum = 0.0;
        let sums: Vec<f64> = row
            .iter()
            .map(|l| {
                sum += (l - top).exp();
                sum
            })
            .collect();
        if dims[1] > 0 && !(sum.is_finite() && sum > 0.0) {
            return Err(Fault::Domain(format!("row {b} of Multinomial has no class that can be drawn")));
        }
        for _ in 0..dims[1] {
            let at = t.uniform() * sum;
            // Classes without a chance have the sum of those before them, and are passed over.
            out.push(sums.partition_point(|s| *s <= at) as i64);
        }
    }
    Ok(vec![
        match i32::try_from(code).ok().and_then(DType::from_onnx) {
            Some(DType::I64) => Tensor::new(&dims, &out),
            _ => Tensor::new(&dims, &out.iter().map(|c| *c as i32).collect::<Vec<_>>()),
        }
        .into(),
    ])
}

/// Operands x (f32 or f64), ratio and training flag; attribute: the seed, if there is one; results: x with elements dropped and the rest
/// scaled up, and which were kept: [Dropout](https://onnx.ai/onnx/operators/onnx__Dropout.html).
pub(super) fn dropout(inputs: &[Option<&Value>], args: HostArgs<'_>) -> Answer {
    let x = tensor(inputs, 0)?;
    let ratio = match inputs.get(1).copied().flatten() {
        Some(_) => tensor(inputs, 1)?.to_f64s().and_then(|v| v.first().copied()).unwrap_or(0.5),
        None => 0.5,
    };
    let training = tensor(inputs, 2)?.bytes().iter().any(|b| *b != 0);
    if !(0.0..1.0).contains(&ratio) {
        return Err(Fault::Domain(format!("the ratio of Dropout is {ratio}, expected 0 or more and below 1")));
    }
    let mut out = x.to_f64s().ok_or_else(|| Fault::Domain(format!("Dropout of {}", x.dtype)))?;
    let mut kept = vec![1u8; out.len()];
    if training && ratio > 0.0 {
        let mut t = Twister::of(args.ints.first().copied());
        for (k, v) in kept.iter_mut().zip(&mut out) {
            *k = (t.uniform() >= ratio) as u8;
            *v *= *k as f64 / (1.0 - ratio);
        }
    }
    Ok(vec![floats(&x.dims, &out, x.dtype)?.into(), Tensor::with_dtype(DType::Bool, &x.dims, &kept).into()])
}
