//! Scalar float functions without branches, so that loops over them vectorize inside [`kernel_fn!`](crate::kernel_fn).
//!
//! Errors are maxima against f64, in units in the last place of the f32 result unless a function says otherwise; the tests
//! hold them on every instruction set. NaN goes in, NaN comes out.

use crate::isa::Arith;

/// 1.5 * 2^23: adding it leaves the nearest integer in the low bits of the sum.
const MAGIC: f32 = 12582912.0;
const LN2_HI: f32 = 0.693_359_4;
const LN2_LO: f32 = -2.121_944_4e-4;

/// `if x < lo { lo } else if x > hi { hi } else { x }`, which keeps NaN.
#[inline(always)]
fn clamp(x: f32, lo: f32, hi: f32) -> f32 {
    let x = if x < lo { lo } else { x };
    if x > hi { hi } else { x }
}

/// 2^n for -126 <= n <= 127.
#[inline(always)]
fn pow2(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32).wrapping_shl(23))
}

/// Splits `x` into `n` and `r` with `x = n ln 2 + r`, |r| <= ln 2 / 2.
#[inline(always)]
fn reduce<A: Arith>(x: f32) -> (i32, f32) {
    let t = A::mul_add(x, core::f32::consts::LOG2_E, MAGIC);
    let n = t - MAGIC;
    let r = A::mul_add(n, -LN2_LO, A::mul_add(n, -LN2_HI, x));
    (t.to_bits().wrapping_sub(MAGIC.to_bits()) as i32, r)
}

/// (e^r - 1 - r) / r² for |r| <= ln 2 / 2 (the polynomial of Cephes' expf).
#[inline(always)]
fn exp_tail<A: Arith>(r: f32) -> f32 {
    let p = A::mul_add(1.987_569_1e-4, r, 1.398_199_9e-3);
    let p = A::mul_add(p, r, 8.333_452e-3);
    let p = A::mul_add(p, r, 4.166_579_6e-2);
    let p = A::mul_add(p, r, 1.666_666_5e-1);
    A::mul_add(p, r, 0.5)
}

/// e^x, within 1.5 ulp (subnormal results within one of their steps).
#[inline(always)]
pub fn exp<A: Arith>(x: f32) -> f32 {
    let x = clamp(x, -104.0, 89.0);
    let (n, r) = reduce::<A>(x);
    let p = A::mul_add(exp_tail::<A>(r), r * r, r) + 1.0;
    // In two factors: the exponent alone may lie outside of a float's.
    let half = n >> 1;
    p * pow2(half) * pow2(n.wrapping_sub(half))
}

/// e^x of an x that is not positive, within 1.5 ulp; zero where that is subnormal.
#[inline(always)]
pub fn exp_down<A: Arith>(x: f32) -> f32 {
    let (n, r) = reduce::<A>(clamp(x, -87.0, 0.0));
    let p = A::mul_add(exp_tail::<A>(r), r * r, r) + 1.0;
    if x < -87.0 { 0.0 } else { p * pow2(n) }
}

/// e^x - 1, within 2.5 ulp, also near zero.
#[inline(always)]
pub fn exp_m1<A: Arith>(x: f32) -> f32 {
    let c = clamp(x, -18.0, 89.0);
    let (n, r) = reduce::<A>(c);
    let q = A::mul_add(exp_tail::<A>(r), r * r, r);
    // Half of 2^n, since 2^128 is no float.
    let s = pow2(n.wrapping_sub(1));
    let y = A::mul_add(s, q, s - 0.5) * 2.0;
    // Keeps -0.0 and subnormals as they are.
    if x.abs() < 1e-8 { x } else { y }
}

/// The natural logarithm, within 1.5 ulp; -inf at zero, NaN below.
#[inline(always)]
pub fn ln<A: Arith>(x: f32) -> f32 {
    let tiny = x < f32::MIN_POSITIVE;
    let y = if tiny { x * 8388608.0 } else { x };
    // The mantissa is taken in [sqrt(1/2), sqrt(2)).
    let i = y.to_bits().wrapping_sub(0x3f35_04f3) as i32;
    let e = i >> 23;
    let f = f32::from_bits(y.to_bits().wrapping_sub((e as u32).wrapping_shl(23))) - 1.0;
    let e = e as f32 - if tiny { 23.0 } else { 0.0 };
    let p = A::mul_add(7.037_683_6e-2, f, -1.151_461e-1);
    let p = A::mul_add(p, f, 1.167_699_9e-1);
    let p = A::mul_add(p, f, -1.242_014_1e-1);
    let p = A::mul_add(p, f, 1.424_932_3e-1);
    let p = A::mul_add(p, f, -1.666_805_7e-1);
    let p = A::mul_add(p, f, 2.000_071_5e-1);
    let p = A::mul_add(p, f, -2.499_999_4e-1);
    let p = A::mul_add(p, f, 3.333_333e-1);
    let z = f * f;
    let t = A::mul_add(e, LN2_LO, p * f * z);
    let t = A::mul_add(-0.5, z, t);
    let r = A::mul_add(e, LN2_HI, f + t);
    let r = if x == f32::INFINITY { x } else { r };
    let r = if x == 0.0 { f32::NEG_INFINITY } else { r };
    if x >= 0.0 { r } else { f32::NAN }
}

/// ln(1 + x), within 3 ulp, also near zero; -inf at -1, NaN below.
#[inline(always)]
pub fn ln_1p<A: Arith>(x: f32) -> f32 {
    let u = 1.0 + x;
    // What the addition lost, to first order.
    let lost = (x - (u - 1.0)) / u;
    let y = ln::<A>(u) + lost;
    let y = if x == f32::INFINITY || x == -1.0 { ln::<A>(u) } else { y };
    if u == 1.0 { x } else { y }
}

/// The hyperbolic tangent, within 2.5 ulp.
#[inline(always)]
pub fn tanh<A: Arith>(x: f32) -> f32 {
    let a = x.abs();
    let e = exp::<A>(-2.0 * a);
    let large = (1.0 - e) / (1.0 + e);
    let z = x * x;
    let p = A::mul_add(-5.704_989e-3, z, 2.063_909e-2);
    let p = A::mul_add(p, z, -5.373_971_6e-2);
    let p = A::mul_add(p, z, 1.333_144_2e-1);
    let p = A::mul_add(p, z, -3.333_328e-1);
    let small = A::mul_add(p * z, a, a);
    (if a < 0.625 { small } else { large }).copysign(x)
}

/// 1 / (1 + e^-x), within 3 ulp (results below 1e-37 within 1e-37).
#[inline(always)]
pub fn sigmoid<A: Arith>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<A>(-x))
}

/// The error function, within 2.5 ulp.
#[inline(always)]
pub fn erf<A: Arith>(x: f32) -> f32 {
    let a = x.abs();
    let s = x * x;
    let r = A::mul_add(-5.967_617e-4, s, 4.991_194_2e-3);
    let r = A::mul_add(r, s, -2.676_813_5e-2);
    let r = A::mul_add(r, s, 1.128_199_2e-1);
    let r = A::mul_add(r, s, -3.761_253_4e-1);
    let r = A::mul_add(r, s, 1.283_791_7e-1);
    let small = A::mul_add(r, a, a);
    // 1 - e^poly; at 4 the result is 1 already.
    let t = if a > 4.0 { 4.0 } else { a };
    let q = t * t;
    let r = A::mul_add(-1.728_534_7e-5, t, 3.831_971_3e-4);
    let u = A::mul_add(-3.883_964_4e-3, t, 2.425_462_2e-2);
    let r = A::mul_add(r, q, u);
    let r = A::mul_add(r, t, -1.067_778_8e-1);
    let r = A::mul_add(r, t, -6.348_467e-1);
    let r = A::mul_add(r, t, -1.287_175_1e-1);
    let large = 1.0 - exp::<A>(A::mul_add(r, t, -t));
    // NaN fails the comparison and `large` is NaN then: `t` is `a`.
    (if a <= 0.927_734_4 { small } else { large }).copysign(x)
}

/// x (1 + erf(x / √2)) / 2, within 2.5e-7 of max(1, |x|).
#[inline(always)]
pub fn gelu<A: Arith>(x: f32) -> f32 {
    let h = 0.5 * x;
    let y = A::mul_add(h, erf::<A>(x * core::f32::consts::FRAC_1_SQRT_2), h);
    if x == f32::NEG_INFINITY { 0.0 } else { y }
}

/// x (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2, within 3e-7 of max(1, |x|).
#[inline(always)]
pub fn gelu_tanh<A: Arith>(x: f32) -> f32 {
    let h = 0.5 * x;
    let inner = 0.797_884_6 * A::mul_add(0.044715 * x * x, x, x);
    let y = A::mul_add(h, tanh::<A>(inner), h);
    if x == f32::NEG_INFINITY { 0.0 } else { y }
}

/// x / (1 + e^-x), within 4 ulp (results below 1e-35 within 1e-35); 0 at -inf.
#[inline(always)]
pub fn silu<A: Arith>(x: f32) -> f32 {
    let y = x / (1.0 + exp::<A>(-x));
    if x == f32::NEG_INFINITY { 0.0 } else { y }
}

/// ln(1 + e^x), within 4 ulp.
#[inline(always)]
pub fn softplus<A: Arith>(x: f32) -> f32 {
    let y = ln_1p::<A>(exp::<A>(-x.abs()));
    // A comparison, since `max` would drop NaN.
    (if x < 0.0 { 0.0 } else { x }) + y
}

/// The sine, as the platform's library has it (correct for arguments of any size; loops over it stay scalar).
#[inline(always)]
pub fn sin<A: Arith>(x: f32) -> f32 {
    x.sin()
}

/// The cosine, as the platform's library has it (correct for arguments of any size; loops over it stay scalar).
#[inline(always)]
pub fn cos<A: Arith>(x: f32) -> f32 {
    x.cos()
}

/// x to the power y, as the platform's library has it.
#[inline(always)]
pub fn pow<A: Arith>(x: f32, y: f32) -> f32 {
    x.powf(y)
}

/// The largest integer that is not above `x`.
#[inline(always)]
pub fn floor<A: Arith>(x: f32) -> f32 {
    A::floor(x)
}

/// The smallest integer that is not below `x`.
#[inline(always)]
pub fn ceil<A: Arith>(x: f32) -> f32 {
    A::ceil(x)
}

/// `x` without its fraction.
#[inline(always)]
pub fn trunc<A: Arith>(x: f32) -> f32 {
    A::trunc(x)
}

/// The nearest integer, ties to even (ONNX Round).
#[inline(always)]
pub fn round<A: Arith>(x: f32) -> f32 {
    A::round_even(x)
}

#[cfg(test)]
#[path = "math_tests.rs"]
mod tests;
