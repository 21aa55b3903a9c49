//! Dropout in training mode, with the generator that the ONNX suite recorded: the Mersenne Twister MT19937 as NumPy seeds it.

use super::spatial::floats;
use super::{Answer, HostArgs, tensor};
use crate::dtype::DType;
use crate::fault::Fault;
use crate::value::{Tensor, Value};
use alloc::{format, vec, vec::Vec};

const N: usize = 624;

struct Twister {
    state: [u32; N],
    at: usize,
}

impl Twister {
    fn new(seed: u32) -> Twister {
        let mut state = [seed; N];
        for i in 1..N {
            let last = state[i - 1];
            state[i] = 1812433253u32.wrapping_mul(last ^ (last >> 30)).wrapping_add(i as u32);
        }
        Twister { state, at: N }
    }
    fn next(&mut self) -> u32 {
        if self.at == N {
            for i in 0..N {
                let y = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % N] & 0x7fff_ffff);
                self.state[i] = self.state[(i + 397) % N] ^ (y >> 1) ^ if y & 1 == 1 { 0x9908_b0df } else { 0 };
            }
            self.at = 0;
        }
        let mut y = self.state[self.at];
        self.at += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }
    /// A number in [0, 1) of 53 random bits.
    fn uniform(&mut self) -> f64 {
        let (a, b) = ((self.next() >> 5) as f64, (self.next() >> 6) as f64);
        (a * 67108864.0 + b) / 9007199254740992.0
    }
}

/// Operands x (f32 or f64), ratio and training flag; attribute: the seed; results: x with elements dropped and the rest scaled up, and
/// which were kept: [Dropout](https://onnx.ai/onnx/operators/onnx__Dropout.html).
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
    let values = x.to_f64s().ok_or_else(|| Fault::Domain(format!("Dropout of {}", x.dtype)))?;
    let mut kept = vec![1u8; values.len()];
    let mut out = values;
    if training && ratio > 0.0 {
        let mut random = Twister::new(args.ints[0] as u32);
        for (k, v) in kept.iter_mut().zip(&mut out) {
            *k = (random.uniform() >= ratio) as u8;
            *v *= *k as f64 / (1.0 - ratio);
        }
    }
    let kept: Vec<u8> = kept;
    Ok(vec![floats(&x.dims, &out, x.dtype).into(), Tensor::with_dtype(DType::Bool, &x.dims, &kept).into()])
}

#[cfg(test)]
mod tests {
    use super::Twister;

    #[test]
    fn numbers_are_numpys() {
        // numpy.random.RandomState(0).uniform(size=2)
        let mut random = Twister::new(0);
        assert_eq!([random.uniform(), random.uniform()], [0.5488135039273248, 0.7151893663724195]);
    }
}
