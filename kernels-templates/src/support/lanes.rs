//! Reductions over rows of floats in sixteen lanes: the same order of operations on every instruction set.

use crate::isa::Isa;
use crate::simd::Simd;

/// Lanes of a reduction; element `i` goes to lane `i % LANES`.
const LANES: usize = 16;
/// The largest element, NaN passed over; -inf of none.
const MAX: u8 = 0;
/// The sum.
const SUM: u8 = 1;
/// The sum of the squares of the distances from a mean.
const SQUARES: u8 = 2;

/// Folds a row in `NV` vectors, four to a lane so that they hide the latency of an addition.
#[inline(always)]
unsafe fn fold<S: Simd, const NV: usize, const OP: u8>(x: *const f32, n: usize, mean: f32) -> f32 {
    // SAFETY: the caller vouches for `n` floats at `x`, and for the instruction set of `S`.
    unsafe {
        let group = LANES / S::W;
        let minus = S::splat(-mean);
        let step = |acc: S::V, v: S::V| match OP {
            MAX => S::max(v, acc),
            SUM => S::add(acc, v),
            _ => {
                let d = S::add(v, minus);
                S::mul_add(d, d, acc)
            }
        };
        let mut acc = [S::splat(if OP == MAX { f32::NEG_INFINITY } else { 0.0 }); NV];
        let mut i = 0;
        while i + NV * S::W <= n {
            for (j, a) in acc.iter_mut().enumerate() {
                *a = step(*a, S::load(x.add(i + j * S::W)));
            }
            i += NV * S::W;
        }
        while i + LANES <= n {
            for (j, a) in acc.iter_mut().take(group).enumerate() {
                *a = step(*a, S::load(x.add(i + j * S::W)));
            }
            i += LANES;
        }
        let mut lanes = [0f32; LANES];
        for j in 0..group {
            let mut v = acc[j];
            for k in 1..NV / group {
                let other = acc[j + k * group];
                v = if OP == MAX { S::max(other, v) } else { S::add(v, other) };
            }
            S::store(lanes.as_mut_ptr().add(j * S::W), v);
        }
        for (lane, i) in lanes.iter_mut().zip(i..n) {
            let v = *x.add(i);
            *lane = match OP {
                MAX if v > *lane => v,
                MAX => *lane,
                SUM => *lane + v,
                _ => *lane + (v - mean) * (v - mean),
            };
        }
        let mut width = LANES / 2;
        while width > 0 {
            for l in 0..width {
                let (a, b) = (lanes[l], lanes[l + width]);
                lanes[l] = if OP != MAX {
                    a + b
                } else if b > a {
                    b
                } else {
                    a
                };
            }
            width /= 2;
        }
        lanes[0]
    }
}

#[inline(never)]
unsafe fn portable<const OP: u8>(x: *const f32, n: usize, mean: f32) -> f32 {
    // SAFETY: passed on from the caller.
    unsafe { fold::<crate::simd::Lanes, 8, OP>(x, n, mean) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2<const OP: u8>(x: *const f32, n: usize, mean: f32) -> f32 {
    // SAFETY: passed on from the caller.
    unsafe { fold::<crate::simd::Avx2, 8, OP>(x, n, mean) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn avx512<const OP: u8>(x: *const f32, n: usize, mean: f32) -> f32 {
    // SAFETY: passed on from the caller.
    unsafe { fold::<crate::simd::Avx512, 4, OP>(x, n, mean) }
}

unsafe fn reduce<const OP: u8>(isa: Isa, x: *const f32, n: usize, mean: f32) -> f32 {
    // SAFETY: the caller vouches for the floats and for the machine having `isa`.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Amx => avx512::<OP>(x, n, mean),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::<OP>(x, n, mean),
            _ => portable::<OP>(x, n, mean),
        }
    }
}

/// The largest of `n` floats, NaN passed over; -inf of none.
///
/// # Safety
/// `x` holds `n` floats, and the machine has `isa`.
pub(crate) unsafe fn max(isa: Isa, x: *const f32, n: usize) -> f32 {
    // SAFETY: passed on from the caller.
    unsafe { reduce::<MAX>(isa, x, n, 0.0) }
}

/// The sum of `n` floats.
///
/// # Safety
/// As [`max`].
pub(crate) unsafe fn sum(isa: Isa, x: *const f32, n: usize) -> f32 {
    // SAFETY: passed on from the caller.
    unsafe { reduce::<SUM>(isa, x, n, 0.0) }
}

/// The sum of the squares of the distances of `n` floats from `mean`.
///
/// # Safety
/// As [`max`].
pub(crate) unsafe fn squares(isa: Isa, x: *const f32, n: usize, mean: f32) -> f32 {
    // SAFETY: passed on from the caller.
    unsafe { reduce::<SQUARES>(isa, x, n, mean) }
}
