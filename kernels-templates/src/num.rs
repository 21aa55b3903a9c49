//! Arithmetic over element types: what generic kernels need of a number.

use crate::value::Element;

/// A number: f32, f64 or an integer that wraps.
pub trait Num: Element + PartialOrd {
    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;
    /// The least value (negative infinity).
    const LOWEST: Self;
    /// The greatest value (infinity).
    const HIGHEST: Self;
    /// a + b.
    fn plus(self, b: Self) -> Self;
    /// a - b.
    fn minus(self, b: Self) -> Self;
    /// a · b.
    fn times(self, b: Self) -> Self;
    /// a / b; integers truncate, and division by zero yields zero.
    fn over(self, b: Self) -> Self;
    /// Whether it is no number.
    fn nan(self) -> bool;
    /// |a|.
    fn magnitude(self) -> Self;
    /// As f64, rounded.
    fn to_f64(self) -> f64;
    /// The nearest value; saturating, NaN becomes 0 for integers.
    fn from_f64(x: f64) -> Self;
}

/// f32 or f64 with the functions kernels compute with.
pub trait Float: Num {
    /// e to the x.
    fn exp(self) -> Self;
    /// The natural logarithm.
    fn ln(self) -> Self;
    /// The square root.
    fn sqrt(self) -> Self;
    /// x to the power y.
    fn powf(self, y: Self) -> Self;
}

macro_rules! floats {
    ($($t:ty),*) => {$(
        impl Num for $t {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            const LOWEST: Self = <$t>::NEG_INFINITY;
            const HIGHEST: Self = <$t>::INFINITY;
            #[inline(always)] fn plus(self, b: Self) -> Self { self + b }
            #[inline(always)] fn minus(self, b: Self) -> Self { self - b }
            #[inline(always)] fn times(self, b: Self) -> Self { self * b }
            #[inline(always)] fn over(self, b: Self) -> Self { self / b }
            #[inline(always)] fn nan(self) -> bool { self.is_nan() }
            #[inline(always)] fn magnitude(self) -> Self { self.abs() }
            #[inline(always)] fn to_f64(self) -> f64 { self as f64 }
            #[inline(always)] fn from_f64(x: f64) -> Self { x as $t }
        }
        impl Float for $t {
            #[inline] fn exp(self) -> Self { <$t>::exp(self) }
            #[inline] fn ln(self) -> Self { <$t>::ln(self) }
            #[inline] fn sqrt(self) -> Self { <$t>::sqrt(self) }
            #[inline] fn powf(self, y: Self) -> Self { <$t>::powf(self, y) }
        }
    )*};
}
floats!(f32, f64);

macro_rules! ints {
    ($($t:ty),*) => {$(
        impl Num for $t {
            const ZERO: Self = 0;
            const ONE: Self = 1;
            const LOWEST: Self = <$t>::MIN;
            const HIGHEST: Self = <$t>::MAX;
            #[inline(always)] fn plus(self, b: Self) -> Self { self.wrapping_add(b) }
            #[inline(always)] fn minus(self, b: Self) -> Self { self.wrapping_sub(b) }
            #[inline(always)] fn times(self, b: Self) -> Self { self.wrapping_mul(b) }
            #[inline(always)] fn over(self, b: Self) -> Self { if b == 0 { 0 } else { self.wrapping_div(b) } }
            #[inline(always)] fn nan(self) -> bool { false }
            #[inline(always)] #[allow(unused_comparisons, reason = "one body serves signed and unsigned types")]
            fn magnitude(self) -> Self { if self < 0 { (0 as $t).wrapping_sub(self) } else { self } }
            #[inline(always)] fn to_f64(self) -> f64 { self as f64 }
            #[inline(always)] fn from_f64(x: f64) -> Self { x as $t }
        }
    )*};
}
ints!(i8, i16, i32, i64, u8, u16, u32, u64);

/// An index type.
pub trait Index: Element {
    /// As i64.
    fn at(self) -> i64;
}
impl Index for i32 {
    #[inline(always)]
    fn at(self) -> i64 {
        self as i64
    }
}
impl Index for i64 {
    #[inline(always)]
    fn at(self) -> i64 {
        self
    }
}
