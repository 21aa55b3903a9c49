//! Element types of ONNX tensors, and the 16-bit floats as Rust types.

use core::fmt;

macro_rules! dtypes {
    ($($variant:ident = $code:literal, $bits:literal, $name:literal, $onnx:literal;)*) => {
        /// An element type, as `TensorProto.DataType` of the [ONNX IR](https://onnx.ai/onnx/repo-docs/IR.html) lists them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum DType { $(#[doc = $onnx] $variant,)* }

        impl DType {
            /// Every element type, in the order of the ONNX enum.
            pub const ALL: &'static [DType] = &[$(DType::$variant,)*];
            /// The type that `TensorProto.data_type` numbers so.
            pub const fn from_onnx(code: i32) -> Option<DType> {
                match code { $($code => Some(DType::$variant),)* _ => None }
            }
            /// The number of `TensorProto.data_type`.
            pub const fn to_onnx(self) -> i32 {
                match self { $(DType::$variant => $code,)* }
            }
            /// Bits of one element as stored (sub-byte elements are packed, low bits first); 0 for strings.
            pub const fn bits(self) -> usize {
                match self { $(DType::$variant => $bits,)* }
            }
            /// The short name that graph text and error messages use, such as `f32`.
            pub const fn name(self) -> &'static str {
                match self { $(DType::$variant => $name,)* }
            }
            /// The type of that short name.
            pub fn from_name(name: &str) -> Option<DType> {
                match name { $($name => Some(DType::$variant),)* _ => None }
            }
        }
    };
}

dtypes! {
    F32 = 1, 32, "f32", "FLOAT";
    U8 = 2, 8, "u8", "UINT8";
    I8 = 3, 8, "i8", "INT8";
    U16 = 4, 16, "u16", "UINT16";
    I16 = 5, 16, "i16", "INT16";
    I32 = 6, 32, "i32", "INT32";
    I64 = 7, 64, "i64", "INT64";
    Str = 8, 0, "str", "STRING";
    Bool = 9, 8, "bool", "BOOL";
    F16 = 10, 16, "f16", "FLOAT16";
    F64 = 11, 64, "f64", "DOUBLE";
    U32 = 12, 32, "u32", "UINT32";
    U64 = 13, 64, "u64", "UINT64";
    C64 = 14, 64, "c64", "COMPLEX64";
    C128 = 15, 128, "c128", "COMPLEX128";
    Bf16 = 16, 16, "bf16", "BFLOAT16";
    F8E4M3FN = 17, 8, "f8e4m3fn", "FLOAT8E4M3FN";
    F8E4M3FNUZ = 18, 8, "f8e4m3fnuz", "FLOAT8E4M3FNUZ";
    F8E5M2 = 19, 8, "f8e5m2", "FLOAT8E5M2";
    F8E5M2FNUZ = 20, 8, "f8e5m2fnuz", "FLOAT8E5M2FNUZ";
    U4 = 21, 4, "u4", "UINT4";
    I4 = 22, 4, "i4", "INT4";
    F4E2M1 = 23, 4, "f4e2m1", "FLOAT4E2M1";
    F8E8M0 = 24, 8, "f8e8m0", "FLOAT8E8M0";
    U2 = 25, 2, "u2", "UINT2";
    I2 = 26, 2, "i2", "INT2";
    F6E2M3 = 27, 6, "f6e2m3", "FLOAT6E2M3";
    F6E3M2 = 28, 6, "f6e3m2", "FLOAT6E3M2";
}

impl DType {
    /// Bytes that `len` elements take when stored packed; 0 for strings. `None` on overflow.
    pub const fn bytes(self, len: usize) -> Option<usize> {
        match len.checked_mul(self.bits()) {
            Some(bits) => Some(bits.div_ceil(8)),
            None => None,
        }
    }
    /// Bytes of one element of a type that is not sub-byte.
    pub const fn size(self) -> usize {
        self.bits().div_ceil(8)
    }
    /// f16, bf16, f32, f64 and the smaller floats.
    pub const fn is_float(self) -> bool {
        use DType::*;
        matches!(self, F32 | F16 | F64 | Bf16 | F8E4M3FN | F8E4M3FNUZ | F8E5M2 | F8E5M2FNUZ | F6E2M3 | F6E3M2 | F4E2M1 | F8E8M0)
    }
    /// Numbers of two parts.
    pub const fn is_complex(self) -> bool {
        matches!(self, DType::C64 | DType::C128)
    }
    /// Signed and unsigned integers of any width; not bool.
    pub const fn is_int(self) -> bool {
        use DType::*;
        matches!(self, U8 | I8 | U16 | I16 | I32 | I64 | U32 | U64 | U4 | I4 | U2 | I2)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// IEEE 754 binary16, as its bits.
#[allow(non_camel_case_types, reason = "named like the primitive floats it stands beside")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct f16(pub u16);

/// bfloat16 (the upper half of an f32), as its bits.
#[allow(non_camel_case_types, reason = "named like the primitive floats it stands beside")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct bf16(pub u16);

impl f16 {
    /// The value as f32; exact.
    #[inline(always)]
    pub fn to_f32(self) -> f32 {
        let sign = ((self.0 & 0x8000) as u32) << 16;
        let rest = (self.0 & 0x7fff) as u32;
        // The exponent is moved by a multiplication, so that subnormals need no loop.
        let magnitude = if rest >= 0x7c00 {
            f32::from_bits((rest << 13) | 0x7f80_0000)
        } else {
            f32::from_bits(rest << 13) * f32::from_bits(0x7780_0000)
        };
        f32::from_bits(magnitude.to_bits() | sign)
    }
    /// The nearest f16, ties to even.
    #[inline(always)]
    pub fn from_f32(x: f32) -> f16 {
        let bits = x.to_bits();
        let sign = ((bits >> 16) & 0x8000) as u16;
        let a = bits & 0x7fff_ffff;
        let r = if a > 0x7f80_0000 {
            0x7e00
        } else if a >= 0x477f_f000 {
            0x7c00
        } else if a < 0x3880_0000 {
            // Adding 0.5 places the rounding position of a subnormal f16 at the last bit of the sum.
            (f32::from_bits(a) + 0.5).to_bits().wrapping_sub(0x3f00_0000) as u16
        } else {
            let odd = (a >> 13) & 1;
            ((a.wrapping_add(0xc800_0fff).wrapping_add(odd)) >> 13) as u16
        };
        f16(r | sign)
    }
}

impl bf16 {
    /// The value as f32; exact.
    #[inline(always)]
    pub fn to_f32(self) -> f32 {
        f32::from_bits((self.0 as u32) << 16)
    }
    /// The nearest bf16, ties to even.
    #[inline(always)]
    pub fn from_f32(x: f32) -> bf16 {
        let bits = x.to_bits();
        if x.is_nan() {
            return bf16(((bits >> 16) as u16) | 0x40);
        }
        bf16(((bits.wrapping_add(0x7fff + ((bits >> 16) & 1))) >> 16) as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f16_round_trips_and_rounds_to_nearest() {
        for bits in 0..=u16::MAX {
            let x = f16(bits).to_f32();
            if !x.is_nan() {
                assert_eq!(f16::from_f32(x).0, bits, "{bits:#x}");
            }
        }
        assert_eq!(f16::from_f32(65519.99).0, 0x7bff);
        assert_eq!(f16::from_f32(65520.0).0, 0x7c00);
        assert_eq!(f16::from_f32(1.0 + 1.0 / 2048.0).0, 0x3c00, "a tie goes to the even neighbour");
        assert_eq!(f16::from_f32(1.0 + 3.0 / 2048.0).0, 0x3c02);
        assert_eq!(f16::from_f32(2f32.powi(-25)).0, 0, "half of the smallest subnormal ties to zero");
        assert_eq!(f16::from_f32(2f32.powi(-24) * 0.75).0, 1);
        assert!(f16::from_f32(f32::NAN).to_f32().is_nan());
    }

    #[test]
    fn bf16_round_trips() {
        for bits in 0..=u16::MAX {
            let x = bf16(bits).to_f32();
            if !x.is_nan() {
                assert_eq!(bf16::from_f32(x).0, bits);
            }
        }
    }
}
