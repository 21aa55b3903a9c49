//! What tests of kernels share: random numbers and comparisons.

use crate::gemm::{Finish, PANEL, Panels, digits_len, pack_digits};
use crate::isa::Isa;

use alloc::vec::Vec;

/// A small random number generator (splitmix64).
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    /// A number of `lo..=hi`.
    pub(crate) fn int(&mut self, lo: usize, hi: usize) -> usize {
        lo + (self.next() % (hi - lo + 1) as u64) as usize
    }
    /// One of `of`.
    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.int(0, of.len() - 1)]
    }
    /// A float of [-1, 1).
    pub(crate) fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
    pub(crate) fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.float()).collect()
    }
}

/// Panics unless the arrays agree within `tolerance`, absolute or relative; NaN agrees with NaN.
#[track_caller]
pub(crate) fn assert_close(got: &[f32], want: &[f32], tolerance: f32, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        let same = g == w || (g.is_nan() && w.is_nan()) || (g - w).abs() <= tolerance * w.abs().max(1.0);
        assert!(same, "{what}: element {i} is {g}, not {w}");
    }
}

/// The digits of packed panels, aligned, where the instruction set works with them.
pub(crate) fn panels(isa: Isa, k: usize, packed: &[f32], digits: &mut Vec<[u64; 8]>) -> Panels {
    let mut out = Panels::of(packed.as_ptr());
    if isa == Isa::Amx && k > 0 {
        let panels = packed.len() / (k * PANEL);
        digits.resize(panels * digits_len(k) / 64, [0; 8]);
        // The allocator aligns for u64 only.
        digits.push([0; 8]);
        let start = digits.as_mut_ptr().cast::<u8>();
        // SAFETY: a line more than the digits take was allocated.
        let start = unsafe { start.add(start.align_offset(64)) };
        for i in 0..panels {
            // SAFETY: both hold as many panels.
            unsafe { pack_digits(k, packed[i * k * PANEL..].as_ptr(), start.add(i * digits_len(k))) };
        }
        out.digits = start;
    }
    out
}

/// A random [`Finish`] of a matrix.
pub(crate) struct Finished {
    added: Vec<f32>,
    pitch: usize,
    bounds: [f32; 2],
}

impl Finished {
    /// One for so many rows and columns; some add nothing, some have no bounds.
    pub(crate) fn random(rng: &mut Rng, rows: usize, cols: usize) -> Finished {
        let pitch = cols + rng.pick(&[0, 3]);
        let added = if rng.int(0, 1) == 0 || rows * cols == 0 { Vec::new() } else { rng.floats(1 + (rows - 1) * pitch + cols) };
        let bounds = rng.pick(&[[f32::NEG_INFINITY, f32::INFINITY], [0.0, f32::INFINITY], [0.0, 0.75], [-0.5, 0.25]]);
        Finished { added, pitch, bounds }
    }
    /// What a kernel takes; one float in, so that nothing is aligned.
    pub(crate) fn finish(&self) -> Finish {
        let add = if self.added.is_empty() { core::ptr::null() } else { self.added[1..].as_ptr() };
        Finish { add, add_row: self.pitch, least: self.bounds[0], most: self.bounds[1] }
    }
    /// What becomes of a sum.
    pub(crate) fn of(&self, row: usize, col: usize, sum: f32) -> f32 {
        let sum = sum + self.added.get(1 + row * self.pitch + col).copied().unwrap_or(-0.0);
        let least = self.bounds[0];
        if sum.is_nan() { sum } else { (if sum > least { sum } else { least }).min(self.bounds[1]) }
    }
}
