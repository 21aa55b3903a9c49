//! Rows of a product as digits: for each block of elements, their three digits of base 256, the sums of these, and what they are worth.

use super::pack::blocks;
use crate::kernel_fn;

/// Digits of an element.
pub(super) const DIGITS: usize = 3;
/// Bytes behind a block's digits: their sums as i32, and the worth of the last one as f32.
const BEHIND: usize = 4 * (DIGITS + 1);

/// Bytes of a block: `[digit][block]` as i8, then sums and worth.
pub(super) const fn step(block: usize) -> usize {
    DIGITS * block + BEHIND
}

/// Bytes of a row of `k` elements: whole lines of the cache.
pub(super) const fn row_bytes(k: usize, block: usize) -> usize {
    (blocks(k, block) * step(block)).next_multiple_of(64)
}

/// The greatest number of three digits is 0x7f7f7f; a little less, so that rounding stays below it.
const MOST: f32 = 0x7f_7f00 as f32;

/// Magnitudes between which the largest elements of blocks lie: below the first they lose digits, from the second on there are none.
const LIMITS: [f32; 2] = [f32::from_bits(27 << 23), f32::from_bits(227 << 23)];

kernel_fn! {
    /// Writes the digits of a row of `k` elements in blocks, the last one filled up with zeros. Gives whether all of them have some:
    /// infinities, NaN and what is beyond 2^100 have none.
    ///
    /// # Safety
    /// `x` holds the elements, `to`, at a multiple of four, [`row_bytes`], and a block has at most 256 elements.
    pub(super) fn write<A>(k: usize, block: usize, x: *const f32, to: *mut u8) -> bool {
        let mut fits = true;
        for b in 0..blocks(k, block) {
            let (start, at) = (b * block, to.add(b * step(block)));
            let mut line = [0f32; 256];
            let mut from = x.add(start);
            if k - start < block {
                core::ptr::copy_nonoverlapping(from, line.as_mut_ptr(), k - start);
                from = line.as_ptr();
            }
            let mut most = 0u32;
            for i in 0..block {
                // Magnitudes as bits: those of NaN are above all.
                most = most.max((*from.add(i)).to_bits() & 0x7fff_ffff);
            }
            if most >= LIMITS[1].to_bits() {
                fits = false;
                continue;
            }
            let most = f32::from_bits(most.max(LIMITS[0].to_bits()));
            let scale = MOST / most;
            let mut sums = [0i32; DIGITS];
            for i in 0..block {
                // Every digit and half a base is a digit without sign, so that adding halves carries where a digit would be negative.
                let whole = A::round_even(*from.add(i) * scale).to_int_unchecked::<i32>() + 0x80_8080;
                let [low, mid, high, _] = (whole ^ 0x80_8080).to_le_bytes().map(|d| d as i8);
                *at.add(i) = high as u8;
                *at.add(block + i) = mid as u8;
                *at.add(2 * block + i) = low as u8;
                sums[0] += i32::from(high);
                sums[1] += i32::from(mid);
                sums[2] += i32::from(low);
            }
            let behind = at.add(DIGITS * block);
            behind.cast::<[i32; DIGITS]>().write_unaligned(sums);
            behind.add(4 * DIGITS).cast::<f32>().write_unaligned(1.0 / scale);
        }
        fits
    }
}
