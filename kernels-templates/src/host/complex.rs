//! Complex tensors taken apart and put together.

use super::{Answer, HostArgs, tensor};
use crate::dtype::DType;
use crate::fault::Fault;
use crate::value::{Tensor, Value};
use alloc::{format, vec, vec::Vec};

/// The real and the imaginary part of each element; empty for other types.
pub fn pairs(x: &Tensor) -> Vec<(f64, f64)> {
    let bytes = x.bytes();
    match x.dtype {
        DType::C64 => {
            let part = |b: &[u8]| f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
            bytes.chunks_exact(8).map(|c| (part(c), part(&c[4..]))).collect()
        }
        DType::C128 => {
            let part = |b: &[u8]| f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]);
            bytes.chunks_exact(16).map(|c| (part(c), part(&c[8..]))).collect()
        }
        _ => Vec::new(),
    }
}

/// Operand: c64 or c128; results: the real and the imaginary parts, f32 or f64, of its shape.
pub(super) fn parts(inputs: &[Option<&Value>], _: HostArgs<'_>) -> Answer {
    let x = tensor(inputs, 0)?;
    let (re, im): (Vec<f64>, Vec<f64>) = pairs(x).into_iter().unzip();
    let narrow = |v: Vec<f64>| v.into_iter().map(|v| v as f32).collect::<Vec<f32>>();
    Ok(match x.dtype {
        DType::C64 => vec![Tensor::new(&x.dims, &narrow(re)).into(), Tensor::new(&x.dims, &narrow(im)).into()],
        DType::C128 => vec![Tensor::new(&x.dims, &re).into(), Tensor::new(&x.dims, &im).into()],
        other => return Err(Fault::Domain(format!("{other} has no parts"))),
    })
}

/// Operands: real and imaginary parts of one shape, f32 or f64; result: c64 or c128.
pub(super) fn join(inputs: &[Option<&Value>], _: HostArgs<'_>) -> Answer {
    let (re, im) = (tensor(inputs, 0)?, tensor(inputs, 1)?);
    if re.dtype != im.dtype || re.dims != im.dims {
        return Err(Fault::Domain(format!("real parts {:?} and imaginary parts {:?} differ", re.dims, im.dims)));
    }
    let both = || re.to_f64s().into_iter().flatten().zip(im.to_f64s().into_iter().flatten());
    Ok(vec![match re.dtype {
        DType::F32 => {
            let bits = |(a, b): (f64, f64)| u64::from((a as f32).to_bits()) | u64::from((b as f32).to_bits()) << 32;
            Tensor::with_dtype(DType::C64, &re.dims, &both().map(bits).collect::<Vec<u64>>()).into()
        }
        DType::F64 => {
            let bits = |(a, b): (f64, f64)| u128::from(a.to_bits()) | u128::from(b.to_bits()) << 64;
            Tensor::with_dtype(DType::C128, &re.dims, &both().map(bits).collect::<Vec<u128>>()).into()
        }
        other => return Err(Fault::Domain(format!("{other} is no part of a complex number"))),
    }])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_put_together_are_the_numbers() {
        let single: Vec<u64> =
            [(1.5f32, -2.0f32), (f32::NAN, -0.0)].map(|(a, b)| u64::from(a.to_bits()) | u64::from(b.to_bits()) << 32).to_vec();
        let double: Vec<u128> =
            [(1e300f64, -0.0f64), (0.1, f64::INFINITY)].map(|(a, b)| u128::from(a.to_bits()) | u128::from(b.to_bits()) << 64).to_vec();
        for x in [Tensor::with_dtype(DType::C64, &[2, 1], &single), Tensor::with_dtype(DType::C128, &[1, 2], &double)] {
            let bytes = x.bytes().to_vec();
            let dims = x.dims.clone();
            let halves = parts(&[Some(&x.into())], HostArgs::default()).unwrap();
            let back = join(&[Some(&halves[0]), Some(&halves[1])], HostArgs::default()).unwrap();
            let back = back[0].as_tensor().unwrap();
            assert_eq!((back.bytes(), &back.dims), (&bytes[..], &dims));
        }
    }
}
