//! What a machine can do at the very most, measured: multiply-adds that never leave the registers, and bytes that are only read.
//!
//! Rates are those of threads that all work at once, the best of a few short measurements, so that another program beside them does not
//! show. They are what the speed of kernels is held against; no kernel depends on them.

use crate::isa::Isa;
use std::hint::black_box;
use std::sync::Barrier;
use std::time::Instant;

/// Rounds of a measurement, of which the fastest counts.
const TRIES: usize = 6;

/// Seconds of one call, the least of several.
pub fn least(mut f: impl FnMut()) -> f64 {
    f();
    let time = |_| {
        let start = Instant::now();
        f();
        start.elapsed().as_secs_f64()
    };
    (0..TRIES).map(time).fold(f64::INFINITY, f64::min)
}

/// The sum of a rate over threads that measure it at once.
pub fn together(threads: usize, rate: impl Fn() -> f64 + Sync) -> f64 {
    let start = Barrier::new(threads.max(1));
    let one = || {
        start.wait();
        rate()
    };
    std::thread::scope(|s| {
        let others: Vec<_> = (1..threads).map(|_| s.spawn(one)).collect();
        one() + others.into_iter().map(|t| t.join().unwrap_or(0.0)).sum::<f64>()
    })
}

/// Operations a second of f32 multiply-adds on this thread, two for each; 0 where that has no measurement.
///
/// # Panics
/// The machine does not have `isa`.
pub fn multiply_adds(isa: Isa) -> f64 {
    assert!(isa <= Isa::detect(), "the machine has {}", isa.name());
    chains::multiply_adds(isa)
}

/// Operations a second of products of bytes that are summed in i32, on this thread, by the best instructions that kernels use under `isa`:
/// those of matrix registers where `tiles` allows them. 0 where that has no measurement.
///
/// # Panics
/// The machine does not have `isa`.
pub fn bytes(isa: Isa, tiles: bool) -> f64 {
    assert!(isa <= Isa::detect(), "the machine has {}", isa.name());
    chains::bytes(isa, tiles)
}

/// Byte products that stand for one product of f32 where that is made of digits: the pairs of three digits whose places add up to two at most.
pub const DIGIT_PAIRS: f64 = 6.0;

/// Bytes a second that this thread reads from an array of so many bytes, over and over: from memory, or from the cache that it fits.
pub fn reading(bytes: usize) -> f64 {
    let words = vec![1u64; bytes.next_multiple_of(512) / 8];
    let isa = Isa::detect();
    // Short arrays are read often enough for the clock.
    let rounds = ((4 << 20) / (words.len() * 8)).max(1);
    let time = least(|| {
        for _ in 0..rounds {
            // SAFETY: the machine has the instruction set, and the array is a whole number of blocks.
            black_box(unsafe { sum(isa, black_box(words.as_ptr()), words.len()) });
        }
    });
    (rounds * words.len() * 8) as f64 / time
}

crate::kernel_fn! {
    /// The sum of words, as many as a whole number of blocks has.
    fn sum<A>(words: *const u64, len: usize) -> u64 {
        let mut sums = [0u64; 64];
        for at in (0..len).step_by(64) {
            for (i, s) in sums.iter_mut().enumerate() {
                *s = s.wrapping_add(*words.add(at + i));
            }
        }
        sums.iter().fold(0, |a, b| a.wrapping_add(*b))
    }
}

#[cfg(target_arch = "x86_64")]
mod chains {
    use super::{Isa, black_box, least};
    use crate::tiles::{self, Shapes};
    use core::arch::asm;
    use std::arch::x86_64::*;

    /// Rounds of the chains: some hundred microseconds.
    const ROUNDS: usize = 50_000;

    macro_rules! chains {
        ($name:ident, $features:literal, $splat:ident($one:expr), $op:expr, $count:literal) => {
            #[target_feature(enable = $features)]
            fn $name() {
                // Independent chains hide the latency of the ports.
                let mut acc = [$splat($one); $count];
                let m = $splat(black_box($one));
                for _ in 0..ROUNDS {
                    for v in &mut acc {
                        *v = $op(*v, m);
                    }
                }
                black_box(acc);
            }
        };
    }
    chains!(floats_sse, "sse2", _mm_set1_ps(0.5), |a, m| _mm_add_ps(_mm_mul_ps(a, m), m), 12);
    chains!(floats_avx2, "avx2,fma", _mm256_set1_ps(0.5), |a, m| _mm256_fmadd_ps(a, m, m), 12);
    chains!(floats_avx512, "avx512f", _mm512_set1_ps(0.5), |a, m| _mm512_fmadd_ps(a, m, m), 24);
    // The products depend on the sums, or the compiler would take them out of the loop.
    chains!(bytes_sse, "sse2", _mm_set1_epi16(3), |a, m| _mm_add_epi32(_mm_madd_epi16(a, m), m), 12);
    chains!(bytes_avx2, "avx2", _mm256_set1_epi16(3), |a, m| _mm256_add_epi32(_mm256_madd_epi16(a, m), m), 12);
    chains!(bytes_avx512, "avx512f,avx512bw", _mm512_set1_epi16(3), |a, m| _mm512_add_epi32(_mm512_madd_epi16(a, m), m), 24);
    chains!(fours_avx512, "avx512f,avx512vnni", _mm512_set1_epi8(3), |a, m| _mm512_dpbusd_epi32(a, m, m), 24);

    /// Products of tiles of 16 x 64 bytes by 64 x 16, into four tiles of sums.
    fn tiles_of_bytes() {
        // SAFETY: the caller found the registers available; the loop names no memory.
        unsafe {
            Shapes::new([16; 8], [64; 8]).configure();
            asm!(
                "2:",
                "tdpbusd tmm0, tmm4, tmm6",
                "tdpbusd tmm1, tmm5, tmm6",
                "tdpbusd tmm2, tmm4, tmm7",
                "tdpbusd tmm3, tmm5, tmm7",
                "dec {n}",
                "jnz 2b",
                n = inout(reg) ROUNDS / 4 => _,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _, out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nomem, nostack),
            );
            tiles::release();
        }
    }

    /// Operations a second of a call with so many.
    fn rate(operations: usize, f: unsafe fn()) -> f64 {
        // SAFETY: the caller found that the machine has the instructions.
        operations as f64 / least(|| unsafe { f() })
    }

    pub(super) fn multiply_adds(isa: Isa) -> f64 {
        match isa {
            Isa::Portable => rate(2 * 4 * 12 * ROUNDS, floats_sse),
            Isa::Avx2 => rate(2 * 8 * 12 * ROUNDS, floats_avx2),
            Isa::Avx512 | Isa::Amx => rate(2 * 16 * 24 * ROUNDS, floats_avx512),
        }
    }
    pub(super) fn bytes(isa: Isa, tiles: bool) -> f64 {
        match isa {
            _ if tiles && isa.has_tiles() => rate(2 * 16 * 16 * 64 * ROUNDS, tiles_of_bytes),
            _ if isa.adds_fours() => rate(2 * 64 * 24 * ROUNDS, fours_avx512),
            Isa::Portable => rate(2 * 8 * 12 * ROUNDS, bytes_sse),
            Isa::Avx2 => rate(2 * 16 * 12 * ROUNDS, bytes_avx2),
            Isa::Avx512 | Isa::Amx => rate(2 * 32 * 24 * ROUNDS, bytes_avx512),
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod chains {
    use super::Isa;

    pub(super) fn multiply_adds(_: Isa) -> f64 {
        0.0
    }
    pub(super) fn bytes(_: Isa, _: bool) -> f64 {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_plausible() {
        for isa in Isa::available() {
            let rates = [multiply_adds(isa), bytes(isa, false), bytes(isa, true)];
            for rate in rates {
                assert!(rate == 0.0 && cfg!(not(target_arch = "x86_64")) || (1e8..1e14).contains(&rate), "{}: {rates:?}", isa.name());
            }
        }
        assert!((1e7..1e13).contains(&reading(1 << 16)));
        assert!((1e7..1e13).contains(&reading(1)));
    }

    #[test]
    fn sums_are_over_every_word() {
        let words: Vec<u64> = (0..192).collect();
        for isa in Isa::available() {
            // SAFETY: the machine has the instruction set, and the array three blocks.
            assert_eq!(unsafe { sum(isa, words.as_ptr(), words.len()) }, 191 * 96);
        }
    }

    #[test]
    fn rates_of_threads_add_up() {
        assert_eq!(together(0, || 2.0), 2.0);
        assert_eq!(together(3, || 2.0), 6.0);
    }
}
