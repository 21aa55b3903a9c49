//! Scalar functions by name that printed expressions and the reference evaluator share: f64, and f32 where no vector form exists.

macro_rules! unary {
    ($($name:ident $text:literal $doc:literal = |$x:ident| $body:expr;)*) => {
        $(#[doc = $doc] #[inline] pub fn $name($x: f64) -> f64 { $body })*
        /// The function of that name.
        pub fn unary(name: &str, x: f64) -> f64 {
            match name {
                $($text => $name(x),)*
                other => panic!("there is no scalar function {other}; this is a bug"),
            }
        }
    };
}

unary! {
    neg "neg" "-x." = |x| -x;
    abs "abs" "|x|." = |x| x.abs();
    sign "sign" "-1, 0 or 1; NaN stays." = |x| if x > 0.0 { 1.0 } else if x < 0.0 { -1.0 } else { x };
    ceil "ceil" "The least integer not below." = |x| x.ceil();
    floor "floor" "The greatest integer not above." = |x| x.floor();
    round "round" "The nearest integer, ties to even." = |x| x.round_ties_even();
    trunc "trunc" "The integer part." = |x| x.trunc();
    sqrt "sqrt" "The square root." = |x| x.sqrt();
    exp "exp" "e to the x." = |x| x.exp();
    ln "ln" "The natural logarithm." = |x| x.ln();
    sin "sin" "Sine." = |x| x.sin();
    cos "cos" "Cosine." = |x| x.cos();
    tan "tan" "Tangent." = |x| x.tan();
    asin "asin" "Arc sine." = |x| x.asin();
    acos "acos" "Arc cosine." = |x| x.acos();
    atan "atan" "Arc tangent." = |x| x.atan();
    sinh "sinh" "Hyperbolic sine." = |x| x.sinh();
    cosh "cosh" "Hyperbolic cosine." = |x| x.cosh();
    tanh "tanh" "Hyperbolic tangent." = |x| x.tanh();
    asinh "asinh" "Inverse hyperbolic sine." = |x| x.asinh();
    acosh "acosh" "Inverse hyperbolic cosine." = |x| x.acosh();
    atanh "atanh" "Inverse hyperbolic tangent." = |x| x.atanh();
    sigmoid "sigmoid" "1 / (1 + e^-x)." = |x| 1.0 / (1.0 + (-x).exp());
    softplus "softplus" "ln(1 + e^x)." = |x| x.max(0.0) + (-x.abs()).exp().ln_1p();
    erf "erf" "The error function, by its series below 3 and a continued fraction above; within 4e-16." = |x| {
        let a = x.abs();
        let y = if a.is_nan() {
            return x;
        } else if a < 3.0 {
            // 2/√π · e^(-x²) · Σ 2^n x^(2n+1) / (2n+1)!!: every term is positive, so nothing cancels.
            let (mut term, mut sum, mut n) = (a, a, 0.0);
            while term > sum * 1e-17 && n < 200.0 {
                n += 1.0;
                term *= 2.0 * a * a / (2.0 * n + 1.0);
                sum += term;
            }
            2.0 / core::f64::consts::PI.sqrt() * (-a * a).exp() * sum
        } else if a > 6.0 {
            1.0
        } else {
            let mut f = 0.0;
            for k in (1..=60).rev() {
                f = k as f64 / 2.0 / (a + f);
            }
            1.0 - (-a * a).exp() / core::f64::consts::PI.sqrt() / (a + f)
        };
        y.copysign(x)
    };
}

/// The remainder with the sign of the divisor.
#[inline]
pub fn modulo(x: f64, y: f64) -> f64 {
    let r = x % y;
    if r != 0.0 && (r < 0.0) != (y < 0.0) { r + y } else { r }
}

/// An integer type as printed expressions compute with it.
pub trait Integer: Copy {
    /// a / b, truncated; 0 when b is 0.
    fn div(self, b: Self) -> Self;
    /// The remainder with the sign of a; 0 when b is 0.
    fn rem(self, b: Self) -> Self;
    /// The remainder with the sign of b; 0 when b is 0.
    fn modulo(self, b: Self) -> Self;
    /// a to the power b, wrapping; 0 for negative exponents unless a is 1 or -1.
    fn pow(self, b: Self) -> Self;
    /// a << b; 0 when b is not below the width.
    fn shl(self, b: Self) -> Self;
    /// a >> b; only copies of the sign when b is not below the width.
    fn shr(self, b: Self) -> Self;
    /// |a|, wrapping.
    fn magnitude(self) -> Self;
    /// -1, 0 or 1.
    fn sign(self) -> Self;
}

macro_rules! integers {
    ($($t:ty),*) => {$(
        #[allow(unused_comparisons, reason = "one body serves signed and unsigned types")]
        impl Integer for $t {
            #[inline(always)] fn div(self, b: Self) -> Self { if b == 0 { 0 } else { self.wrapping_div(b) } }
            #[inline(always)] fn rem(self, b: Self) -> Self { if b == 0 { 0 } else { self.wrapping_rem(b) } }
            #[inline(always)] fn modulo(self, b: Self) -> Self {
                let r = Integer::rem(self, b);
                if r != 0 && (r < 0) != (b < 0) { r.wrapping_add(b) } else { r }
            }
            #[inline] fn pow(self, b: Self) -> Self {
                if b < 0 {
                    return if self == 1 || (self.wrapping_add(1) == 0 && b & 1 == 0) { 1 } else if self.wrapping_add(1) == 0 { self } else { 0 };
                }
                let (mut base, mut e, mut out) = (self, b, 1 as $t);
                while e > 0 {
                    if e & 1 == 1 { out = out.wrapping_mul(base); }
                    base = base.wrapping_mul(base);
                    e >>= 1;
                }
                out
            }
            #[inline(always)] fn shl(self, b: Self) -> Self { if b >= 0 && (b as u64) < <$t>::BITS as u64 { self.wrapping_shl(b as u32) } else { 0 } }
            #[inline(always)] fn shr(self, b: Self) -> Self { if b >= 0 && (b as u64) < <$t>::BITS as u64 { self.wrapping_shr(b as u32) } else if self < 0 { (0 as $t).wrapping_sub(1) } else { 0 } }
            #[inline(always)] fn magnitude(self) -> Self { if self < 0 { (0 as $t).wrapping_sub(self) } else { self } }
            #[inline(always)] fn sign(self) -> Self { if self > 0 { 1 } else if self == 0 { 0 } else { (0 as $t).wrapping_sub(1) } }
        }
    )*};
}
integers!(i8, i16, i32, i64, u8, u16, u32, u64);

/// `x` as an integer of eight or sixteen bits between two: truncated and saturated, NaN to 0. Vectorizes, unlike `as u8`.
#[inline(always)]
pub fn saturate(x: f32, least: i32, most: i32) -> i32 {
    let (least, most) = (least.clamp(-65536, 65536) as f32, most.clamp(-65536, 65536) as f32);
    let x = if x.is_nan() { 0.0 } else { x };
    let x = if x > least { x } else { least };
    let x = if x < most { x } else { most };
    // SAFETY: NaN is gone, and both bounds are far inside of i32.
    unsafe { x.to_int_unchecked() }
}

/// `x` rounded to the nearest integer, ties to even, plus a zero point of u8, saturated; NaN to 0. Vectorizes on every machine.
#[inline(always)]
pub fn quantized(x: f32, zero: f32) -> u8 {
    // Next to this number neighbours are 1 apart, and the last byte is that of the integer that was added.
    const UNIT: f32 = 12_582_912.0;
    let (least, most) = (-zero, 255.0 - zero);
    let x = if x > least { x } else { least };
    let x = if x < most { x } else { most };
    ((x + UNIT).to_bits() as u8).wrapping_add(zero as i32 as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn quantized_is_rounded_and_saturated() {
        let odd = [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30, -1e30, 0.0, -0.0];
        let xs: Vec<f32> = odd.into_iter().chain((-5200..5200).map(|i| i as f32 / 8.0)).collect();
        for zero in [0u8, 1, 127, 128, 254, 255] {
            for &x in &xs {
                let want = (x.round_ties_even() + f32::from(zero)).clamp(0.0, 255.0) as u8;
                assert_eq!(quantized(x, f32::from(zero)), want, "{x} {zero}");
            }
        }
    }

    #[test]
    fn saturation_is_that_of_casts() {
        let mut xs = alloc::vec![0.0, -0.0, f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30, -1e30, 0.99, -0.99, 127.5, 255.5];
        xs.extend((-70_000..70_000).map(|i| i as f32 * 0.97));
        for x in xs {
            assert_eq!(saturate(x, 0, 255), i32::from(x as u8), "{x}");
            assert_eq!(saturate(x, -128, 127), i32::from(x as i8), "{x}");
            assert_eq!(saturate(x, 0, 65535), i32::from(x as u16), "{x}");
            assert_eq!(saturate(x, -32768, 32767), i32::from(x as i16), "{x}");
        }
    }

    #[test]
    fn erf_meets_its_reference_values() {
        // Abramowitz and Stegun, table 7.1, and DLMF 7.23.
        for (x, y) in [(0.5, 0.5204998778130465), (1.0, 0.8427007929497149), (2.0, 0.9953222650189527), (3.5, 0.9999992569016276)] {
            assert!((erf(x) - y).abs() < 1e-15, "{x}");
            assert_eq!(erf(-x), -erf(x));
        }
        assert!(erf(f64::NAN).is_nan());
        assert_eq!(erf(f64::INFINITY), 1.0);
    }

    #[test]
    fn integers_at_their_edges() {
        assert_eq!(Integer::div(i64::MIN, -1), i64::MIN);
        assert_eq!(Integer::rem(i64::MIN, -1), 0);
        assert_eq!(Integer::modulo(-7i32, 3), 2);
        assert_eq!(Integer::pow(-1i32, -3), -1);
        assert_eq!(Integer::pow(2i32, -1), 0);
        assert_eq!(Integer::shl(1u8, 8), 0);
        assert_eq!(Integer::sign(i8::MIN), -1);
    }
}
