//! Conversions between f32 and the types that are only stored: 8-, 6- and 4-bit floats, and integers of 4 and 2 bits, which are packed
//! low bits first.

mod blocks;

pub use blocks::{dequantize_blocks, matmul_blocks, matmul_halves};

use crate::dtype::DType;
use crate::entry::{In, Out};
use crate::fault::Fault;
use alloc::format;

/// A float format: exponent bits, mantissa bits, bias, the code of its greatest value, and whether it has only one NaN and no -0.
struct Format {
    mantissa: u32,
    bias: i32,
    greatest: u8,
    unsigned_zero: bool,
    /// The code that stands for infinity, or else for NaN.
    beyond: u8,
    sign: u8,
}

fn format_of(kind: DType) -> Option<Format> {
    Some(match kind {
        DType::F8E4M3FN => Format { mantissa: 3, bias: 7, greatest: 0x7e, unsigned_zero: false, beyond: 0x7f, sign: 0x80 },
        DType::F8E4M3FNUZ => Format { mantissa: 3, bias: 8, greatest: 0x7f, unsigned_zero: true, beyond: 0x80, sign: 0x80 },
        DType::F8E5M2 => Format { mantissa: 2, bias: 15, greatest: 0x7b, unsigned_zero: false, beyond: 0x7c, sign: 0x80 },
        DType::F8E5M2FNUZ => Format { mantissa: 2, bias: 16, greatest: 0x7f, unsigned_zero: true, beyond: 0x80, sign: 0x80 },
        DType::F6E2M3 => Format { mantissa: 3, bias: 1, greatest: 0x1f, unsigned_zero: false, beyond: 0x1f, sign: 0x20 },
        DType::F6E3M2 => Format { mantissa: 2, bias: 3, greatest: 0x1f, unsigned_zero: false, beyond: 0x1f, sign: 0x20 },
        DType::F4E2M1 => Format { mantissa: 1, bias: 1, greatest: 0x7, unsigned_zero: false, beyond: 0x7, sign: 0x8 },
        _ => return None,
    })
}

/// 2 to the power e.
fn exp2(e: i32) -> f64 {
    f64::from_bits(((e + 1023) as u64) << 52)
}

/// The value of a code of that type; integers too.
pub fn value(kind: DType, code: u8) -> f32 {
    match kind {
        DType::U4 => (code & 15) as f32,
        DType::I4 => (((code << 4) as i8) >> 4) as f32,
        DType::U2 => (code & 3) as f32,
        DType::I2 => (((code << 6) as i8) >> 6) as f32,
        DType::F8E8M0 if code == 0xff => f32::NAN,
        DType::F8E8M0 => exp2(code as i32 - 127) as f32,
        _ => {
            let Some(f) = format_of(kind) else { return f32::NAN };
            let size = code & (f.sign - 1);
            let negative = code & f.sign != 0;
            let magnitude = match kind {
                _ if f.unsigned_zero && code == 0x80 => return f32::NAN,
                DType::F8E4M3FN if size == 0x7f => f64::NAN,
                DType::F8E5M2 if size == 0x7c => f64::INFINITY,
                DType::F8E5M2 if size > 0x7c => f64::NAN,
                _ => {
                    let (e, m) = ((size >> f.mantissa) as i32, (size & ((1 << f.mantissa) - 1)) as f64);
                    let unit = exp2(e.max(1) - f.bias - f.mantissa as i32);
                    (if e == 0 { m } else { m + (1u32 << f.mantissa) as f64 }) * unit
                }
            };
            (if negative { -magnitude } else { magnitude }) as f32
        }
    }
}

/// The code of the nearest value, ties to even; what is too large becomes the greatest value, or with `saturate` off infinity or NaN.
fn float_code(kind: DType, x: f32, saturate: bool) -> u8 {
    let Some(f) = format_of(kind) else { return 0 };
    let sign = if x.is_sign_negative() { f.sign } else { 0 };
    if x.is_nan() {
        return match kind {
            _ if f.unsigned_zero => 0x80,
            // These have no NaN: the standard makes it a zero.
            DType::F4E2M1 => 0x8,
            DType::F6E2M3 | DType::F6E3M2 => 0x20,
            _ => sign | 0x7f,
        };
    }
    let beyond = |sign: u8| match kind {
        _ if saturate || matches!(kind, DType::F4E2M1 | DType::F6E2M3 | DType::F6E3M2) => sign | f.greatest,
        _ if f.unsigned_zero => 0x80,
        _ => sign | f.beyond,
    };
    if x.is_infinite() {
        return beyond(sign);
    }
    let size = (x as f64).abs();
    let exponent = ((size.to_bits() >> 52) as i32 - 1023).max(1 - f.bias);
    let steps = (size / exp2(exponent - f.mantissa as i32)).round_ties_even() as i64;
    let code = ((exponent + f.bias - 1) as i64) * (1 << f.mantissa) + steps;
    match code {
        c if c > f.greatest as i64 => beyond(sign),
        0 if f.unsigned_zero => 0,
        c => sign | c as u8,
    }
}

/// The code of a power of two near x: rounded `up`, `down` or to the `nearest`.
fn scale_code(x: f32, saturate: bool, round: &str) -> u8 {
    let bits = x.to_bits();
    let exponent = (bits >> 23) & 0xff;
    if exponent == 0xff {
        return 0xff;
    }
    let up = match round {
        "down" => false,
        "nearest" => bits & 0x40_0000 != 0 && (bits & 0x3f_ffff != 0 || exponent > 0),
        _ => bits & 0x7f_ffff != 0,
    };
    if up && !(saturate && exponent == 0xfe) { (exponent + 1) as u8 } else { exponent as u8 }
}

/// The code of x; integers are truncated and keep their low bits.
pub fn code(kind: DType, x: f32, saturate: bool, round: &str) -> u8 {
    match kind {
        DType::U4 | DType::I4 => (x as i64 & 15) as u8,
        DType::U2 | DType::I2 => (x as i64 & 3) as u8,
        DType::F8E8M0 => scale_code(x, saturate, round),
        _ => float_code(kind, x, saturate),
    }
}

fn kind_of(name: &str) -> Result<DType, Fault> {
    DType::from_name(name).filter(|d| d.bits() <= 8 && d.bits() > 0).ok_or_else(|| Fault::Domain(format!("{name} is no narrow type")))
}

/// Code `i` of a stream of codes of up to 8 bits, low bits first; those of 6 bits lie across bytes.
pub fn code_at(bytes: &[u8], bits: usize, i: usize) -> u8 {
    let (byte, shift) = (i * bits / 8, i * bits % 8);
    let next = if shift + bits > 8 { bytes[byte + 1] } else { 0 };
    (u16::from_le_bytes([bytes[byte], next]) >> shift & ((1 << bits) - 1)) as u8
}

/// Writes code `i` of such a stream, whose bits are 0.
pub fn put_code(bytes: &mut [u8], bits: usize, i: usize, code: u8) {
    let (byte, shift) = (i * bits / 8, i * bits % 8);
    let [low, high] = (u16::from(code) << shift).to_le_bytes();
    bytes[byte] |= low;
    if shift + bits > 8 {
        bytes[byte + 1] |= high;
    }
}

/// The values of a tensor of a narrow type, which `kind` names.
pub fn decode(out: Out<'_, f32>, x: In<'_, u8>, kind: &str) -> Result<(), Fault> {
    let kind = kind_of(kind)?;
    for (i, o) in out.0.iter_mut().enumerate() {
        *o = value(kind, code_at(x.0, kind.bits(), i));
    }
    Ok(())
}

/// f32 as a narrow type, which `kind` names: [Cast](https://onnx.ai/onnx/operators/onnx__Cast.html). `round` is that of f8e8m0.
pub fn encode(out: Out<'_, u8>, x: In<'_, f32>, kind: &str, saturate: bool, round: &str) -> Result<(), Fault> {
    let kind = kind_of(kind)?;
    out.0.fill(0);
    for (i, &x) in x.0.iter().enumerate() {
        put_code(out.0, kind.bits(), i, code(kind, x, saturate, round));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_survive_the_round_trip() {
        use DType::*;
        for kind in [F8E4M3FN, F8E4M3FNUZ, F8E5M2, F8E5M2FNUZ, F6E2M3, F6E3M2, F4E2M1, F8E8M0, U4, I4, U2, I2] {
            for c in 0..=((1u32 << kind.bits()) - 1) as u8 {
                let x = value(kind, c);
                if !x.is_nan() {
                    assert_eq!(code(kind, x, false, "nearest"), c, "{kind} {c:#x} {x}");
                }
            }
        }
    }

    #[test]
    fn greatest_values_are_those_of_the_specification() {
        for (kind, greatest) in [
            (DType::F8E4M3FN, 448.0),
            (DType::F8E4M3FNUZ, 240.0),
            (DType::F8E5M2, 57344.0),
            (DType::F8E5M2FNUZ, 57344.0),
            (DType::F6E2M3, 7.5),
            (DType::F6E3M2, 28.0),
            (DType::F4E2M1, 6.0),
        ] {
            assert_eq!(value(kind, code(kind, 1e9, true, "")), greatest);
            assert_eq!(value(kind, code(kind, f32::NEG_INFINITY, true, "")), -greatest);
        }
        assert_eq!(code(DType::F8E5M2, 1e9, false, ""), 0x7c);
        assert_eq!(code(DType::F8E4M3FN, 1e9, false, ""), 0x7f);
    }
}
