//! Reductions over rows of floats in sixteen lanes: the same order of operations on every machine, and vectorizable.

use crate::isa::Arith;

/// Lanes of a reduction; element `i` goes to lane `i % LANES`.
pub(crate) const LANES: usize = 16;
/// Accumulators, which hide the latency of an addition.
const ACC: usize = 4;

/// Folds a row of `n` floats: `step` adds an element to its lane, `join` joins lanes.
///
/// # Safety
/// `x` holds `n` floats.
#[inline(always)]
pub(crate) unsafe fn fold(
    x: *const f32,
    n: usize,
    neutral: f32,
    step: impl Fn(f32, f32) -> f32 + Copy,
    join: impl Fn(f32, f32) -> f32 + Copy,
) -> f32 {
    let mut acc = [[neutral; LANES]; ACC];
    let mut i = 0;
    // SAFETY: `i` stays below `n`.
    unsafe {
        while i + ACC * LANES <= n {
            for (a, lanes) in acc.iter_mut().enumerate() {
                let v = x.add(i + a * LANES).cast::<[f32; LANES]>().read_unaligned();
                for l in 0..LANES {
                    lanes[l] = step(lanes[l], v[l]);
                }
            }
            i += ACC * LANES;
        }
        while i + LANES <= n {
            let v = x.add(i).cast::<[f32; LANES]>().read_unaligned();
            for l in 0..LANES {
                acc[0][l] = step(acc[0][l], v[l]);
            }
            i += LANES;
        }
        while i < n {
            acc[0][i % LANES] = step(acc[0][i % LANES], *x.add(i));
            i += 1;
        }
    }
    let mut lanes = acc[0];
    for a in &acc[1..] {
        for l in 0..LANES {
            lanes[l] = join(lanes[l], a[l]);
        }
    }
    let mut width = LANES / 2;
    while width > 0 {
        for l in 0..width {
            lanes[l] = join(lanes[l], lanes[l + width]);
        }
        width /= 2;
    }
    lanes[0]
}

/// The larger of two; NaN if either is.
#[inline(always)]
pub(crate) fn max(a: f32, b: f32) -> f32 {
    if a >= b || a.is_nan() { a } else { b }
}

/// The sum of a row.
///
/// # Safety
/// `x` holds `n` floats.
#[inline(always)]
pub(crate) unsafe fn sum(x: *const f32, n: usize) -> f32 {
    // SAFETY: passed on from the caller.
    unsafe { fold(x, n, 0.0, |a, v| a + v, |a, b| a + b) }
}

/// The sum of the squares of a row's distances from `mean`.
///
/// # Safety
/// `x` holds `n` floats.
#[inline(always)]
pub(crate) unsafe fn squares<A: Arith>(x: *const f32, n: usize, mean: f32) -> f32 {
    let step = |a: f32, v: f32| {
        let d = v - mean;
        A::mul_add(d, d, a)
    };
    // SAFETY: passed on from the caller.
    unsafe { fold(x, n, 0.0, step, |a, b| a + b) }
}
