//! The transforms of Winograd's minimal filtering F(m, 3) in one dimension, at the points that keep the error of f32 low.
//!
//! `m` outputs of three taps `g` over `m + 2` inputs `d` are `At ((G g) * (Bt d))`, with one product for each point (Lavin and Gray 2015).
//! The matrices follow from the points; F(4, 3) takes 0, ±√2/2, ±√2 and infinity, whose error is a fifth of that of the textbook's 0, ±1,
//! ±2 and infinity (Barabasz et al. 2020 on the choice of points; √2 as ncnn has it).

use crate::simd::Simd;
use core::f64::consts::SQRT_2;

/// Inputs of one dimension in the largest transform.
pub(super) const MOST: usize = 6;

/// F(m, 3) in one dimension.
pub(super) trait Points {
    /// Outputs.
    const M: usize;
    /// Inputs, and products.
    const T: usize = Self::M + 2;
    /// `Bt d`: the first `T` elements are read and written.
    unsafe fn input<S: Simd>(d: [S::V; MOST]) -> [S::V; MOST];
    /// `At p`: the first `T` elements are read, the first `M` written.
    unsafe fn output<S: Simd>(p: [S::V; MOST]) -> [S::V; MOST];
}

/// F(2, 3) at 0, 1, -1 and infinity.
pub(super) struct Two;

/// F(4, 3) at 0, √2/2, -√2/2, √2, -√2 and infinity.
pub(super) struct Four;

impl Points for Two {
    const M: usize = 2;
    #[inline(always)]
    unsafe fn input<S: Simd>(d: [S::V; MOST]) -> [S::V; MOST] {
        // SAFETY: the caller runs where `S` is available.
        unsafe {
            let mut r = d;
            r[0] = S::sub(d[0], d[2]);
            r[1] = S::add(d[1], d[2]);
            r[2] = S::sub(d[2], d[1]);
            r[3] = S::sub(d[3], d[1]);
            r
        }
    }
    #[inline(always)]
    unsafe fn output<S: Simd>(p: [S::V; MOST]) -> [S::V; MOST] {
        // SAFETY: the caller runs where `S` is available.
        unsafe {
            let mut r = p;
            r[0] = S::add(S::add(p[0], p[1]), p[2]);
            r[1] = S::add(S::sub(p[1], p[2]), p[3]);
            r
        }
    }
}

impl Points for Four {
    const M: usize = 4;
    #[inline(always)]
    unsafe fn input<S: Simd>(d: [S::V; MOST]) -> [S::V; MOST] {
        // SAFETY: the caller runs where `S` is available.
        unsafe {
            let (half, two, most) = (S::splat(-0.5), S::splat(-2.0), S::splat(-2.5));
            let (up, down) = (S::splat(SQRT_2 as f32), S::splat(-SQRT_2 as f32));
            // Even and odd parts of the polynomials with roots ±√2 and 0, and with ±√2/2 and 0.
            let (even, odd) = (S::mul_add(two, d[2], d[4]), S::mul_add(half, d[3], d[1]));
            let (even2, odd2) = (S::mul_add(half, d[2], d[4]), S::mul_add(half, d[1], d[3]));
            [
                S::add(d[0], S::mul_add(most, d[2], d[4])),
                S::mul_add(down, odd, even),
                S::mul_add(up, odd, even),
                S::mul_add(up, odd2, even2),
                S::mul_add(down, odd2, even2),
                S::add(d[1], S::mul_add(most, d[3], d[5])),
            ]
        }
    }
    #[inline(always)]
    unsafe fn output<S: Simd>(p: [S::V; MOST]) -> [S::V; MOST] {
        // SAFETY: the caller runs where `S` is available.
        unsafe {
            let (sum, sum2) = (S::add(p[1], p[2]), S::add(p[3], p[4]));
            let (odd, odd2) = (S::sub(p[1], p[2]), S::sub(p[3], p[4]));
            let mut r = p;
            r[0] = S::add(S::add(p[0], sum), sum2);
            r[1] = S::mul(S::splat((SQRT_2 / 2.0) as f32), S::mul_add(S::splat(2.0), odd2, odd));
            r[2] = S::mul_add(S::splat(2.0), sum2, S::mul(S::splat(0.5), sum));
            r[3] = S::mul_add(S::splat((SQRT_2 / 4.0) as f32), S::mul_add(S::splat(8.0), odd2, odd), p[5]);
            r
        }
    }
}

/// `G`: `m + 2` rows that take three taps to the points.
pub(super) const fn taps(m: usize) -> &'static [[f64; 3]] {
    const TWO: &[[f64; 3]] = &[[1.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.0, 0.0, 1.0]];
    const FOUR: &[[f64; 3]] = &[
        [1.0, 0.0, 0.0],
        [-2.0 / 3.0, -SQRT_2 / 3.0, -1.0 / 3.0],
        [-2.0 / 3.0, SQRT_2 / 3.0, -1.0 / 3.0],
        [1.0 / 6.0, SQRT_2 / 6.0, 1.0 / 3.0],
        [1.0 / 6.0, -SQRT_2 / 6.0, 1.0 / 3.0],
        [0.0, 0.0, 1.0],
    ];
    if m == 2 { TWO } else { FOUR }
}
