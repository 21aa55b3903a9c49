//! The scale and zero point of values that are quantized by their range: [DynamicQuantizeLinear](https://onnx.ai/onnx/operators/onnx__DynamicQuantizeLinear.html).
//!
//! The least and the greatest of the values are found in any order and by any number of threads: both are the same bits then.

pub mod table;

use crate::entry::{In, Out};
use crate::kernel_fn;
use core::sync::atomic::{AtomicU32, Ordering};

/// Values that a task looks at: enough to be worth waking a worker.
pub const TASK: usize = 1 << 15;

/// Lanes of the search; LLVM makes vectors of them.
const LANES: usize = 64;

/// The least and the greatest of the values seen and of 0; both NaN where one is.
#[derive(Debug)]
pub struct Range {
    least: AtomicU32,
    most: AtomicU32,
}

/// Bits that order as floats do; NaN of either sign is at an end.
const fn key(x: f32) -> u32 {
    let b = x.to_bits();
    if b >> 31 == 1 { !b } else { b | 1 << 31 }
}

const fn unkey(k: u32) -> f32 {
    f32::from_bits(if k >> 31 == 1 { k & !(1 << 31) } else { !k })
}

impl Default for Range {
    fn default() -> Range {
        Range { least: AtomicU32::new(key(0.0)), most: AtomicU32::new(key(0.0)) }
    }
}

impl Range {
    /// Adds what a thread has found.
    pub fn add(&self, (least, most): (f32, f32)) {
        let nan = least.is_nan() || most.is_nan();
        self.least.fetch_min(if nan { 0 } else { key(least) }, Ordering::Relaxed);
        self.most.fetch_max(if nan { u32::MAX } else { key(most) }, Ordering::Relaxed);
    }
    /// The scale and the zero point of u8 for these values. Where all of them are 0, the scale is that of a range of 1.
    pub fn parameters(&self) -> (f32, u8) {
        let (least, most) = (unkey(self.least.load(Ordering::Relaxed)), unkey(self.most.load(Ordering::Relaxed)));
        let span = if least == most { 1.0 } else { most - least };
        let scale = span / 255.0;
        let zero = (0.0 - least / scale).clamp(0.0, 255.0);
        (scale, zero.round_ties_even() as u8)
    }
}

kernel_fn! {
    /// The least and the greatest of `n` floats and 0; NaN where one is.
    ///
    /// # Safety
    /// `x` addresses as many, and the machine has `isa`.
    pub fn extremes<A>(x: *const f32, n: usize) -> (f32, f32) {
        let (mut least, mut most) = ([0f32; LANES], [0f32; LANES]);
        // Comparisons pass over NaN; times 0, it stays one, and infinities become one, which the range of the others tells apart.
        let mut odd = [0f32; LANES];
        let mut i = 0;
        while i + LANES <= n {
            for l in 0..LANES {
                let v = *x.add(i + l);
                least[l] = if v < least[l] { v } else { least[l] };
                most[l] = if v > most[l] { v } else { most[l] };
                odd[l] += v * 0.0;
            }
            i += LANES;
        }
        while i < n {
            let v = *x.add(i);
            least[0] = if v < least[0] { v } else { least[0] };
            most[0] = if v > most[0] { v } else { most[0] };
            odd[0] += v * 0.0;
            i += 1;
        }
        for l in 1..LANES {
            least[0] = if least[l] < least[0] { least[l] } else { least[0] };
            most[0] = if most[l] > most[0] { most[l] } else { most[0] };
            odd[0] += odd[l];
        }
        if odd[0].is_nan() {
            for i in 0..n {
                if (*x.add(i)).is_nan() {
                    return (f32::NAN, f32::NAN);
                }
            }
        }
        (least[0], most[0])
    }
}

/// The scale and the zero point of u8 for all values of `x`, by plain comparisons.
pub fn parameters(scale: Out<'_, f32>, zero: Out<'_, u8>, x: In<'_, f32>) {
    let range = Range::default();
    x.0.iter().for_each(|v| range.add((v.min(0.0), v.max(0.0))));
    if x.0.iter().any(|v| v.is_nan()) {
        range.add((f32::NAN, f32::NAN));
    }
    (scale.0[0], zero.0[0]) = range.parameters();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;
    use crate::support::testing::Rng;

    /// As the standard's reference computes them.
    fn reference(x: &[f32]) -> (f32, u8) {
        let (least, most) = x.iter().fold((0f32, 0f32), |(a, b), v| (a.min(*v), b.max(*v)));
        let scale = if least == most { 1.0 } else { most - least } / 255.0;
        let zero = (0.0 - least / scale).clamp(0.0, 255.0).round_ties_even();
        (scale, zero as u8)
    }

    #[test]
    fn ranges_equal_the_reference() {
        let mut rng = Rng(3);
        for n in [0, 1, 5, 63, 64, 65, 127, 128, 1000, 4097] {
            for by in [0.0, 1e-30, 1.0, 7e4] {
                let shift = rng.pick(&[0.0, 0.999, -0.999]);
                let x: alloc::vec::Vec<f32> = rng.floats(n + 1).into_iter().map(|v| (v + shift) * by).collect();
                let want = reference(&x[1..]);
                let (mut scale, mut zero) = ([0f32], [0u8]);
                parameters(Out(&mut scale), Out(&mut zero), In(&x[1..]));
                assert_eq!((scale[0], zero[0]), want, "plain, {n} times {by}");
                for isa in Isa::available() {
                    for step in [n.max(1), 100] {
                        let range = Range::default();
                        for part in x[1..].chunks(step).rev() {
                            // SAFETY: the slice has as many elements.
                            range.add(unsafe { extremes(isa, part.as_ptr(), part.len()) });
                        }
                        assert_eq!(range.parameters(), want, "{} of {n} times {by}", isa.name());
                    }
                }
            }
        }
    }

    #[test]
    fn one_nan_makes_a_nan_and_infinities_none() {
        for isa in Isa::available() {
            for at in [0, 70, 130] {
                let mut x = [1.0f32; 131];
                x[at] = f32::NEG_INFINITY;
                // SAFETY: the array has as many elements.
                assert_eq!(unsafe { extremes(isa, x.as_ptr(), x.len()) }, (f32::NEG_INFINITY, 1.0));
                x[at] = -f32::NAN;
                let range = Range::default();
                range.add((0.0, 1.0));
                // SAFETY: as above.
                range.add(unsafe { extremes(isa, x.as_ptr(), x.len()) });
                assert!(range.parameters().0.is_nan());
            }
        }
    }

    #[test]
    fn keys_order_as_floats_do() {
        let x = [f32::NEG_INFINITY, -2.0, -1e-40, 0.0, 1e-40, 3.0, f32::INFINITY];
        assert!(x.windows(2).all(|w| key(w[0]) < key(w[1])));
        assert!(x.iter().all(|v| unkey(key(*v)).to_bits() == v.to_bits()));
    }
}
