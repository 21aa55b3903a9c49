//! What happens to a strip of scores between the two matrix products: mask, maximum, exponentials and sums, row by row.

use crate::kernel_fn;
use crate::support::math;

/// Lanes of a row's maximum and sum: the same order of operations on every instruction set.
const LANES: usize = 16;

/// Floats of a row's state: its maximum, its sum, and the factor that brought earlier sums to that maximum.
pub(super) const STATE: usize = 3;

/// The state of rows that have seen no key.
///
/// # Safety
/// `state` holds [`STATE`] floats a row.
pub(super) unsafe fn begin(state: *mut f32, rows: usize) {
    for r in 0..rows {
        // SAFETY: the caller vouches for the floats of each row.
        unsafe {
            *state.add(STATE * r) = f32::NEG_INFINITY;
            *state.add(STATE * r + 1) = 0.0;
        }
    }
}

/// Whether a row's softmax is NaN, by the sum of its exponentials: the greatest of them is 1, unless all scores are -inf.
pub(super) fn undefined(sum: f32) -> bool {
    sum.is_nan() || sum <= 0.0
}

kernel_fn! {
    /// Copies rows times `by`.
    ///
    /// # Safety
    /// The pointers address such rows, and the machine has `isa`.
    pub(super) fn scaled<A>(x: *const f32, x_row: usize, rows: usize, cols: usize, by: f32, out: *mut f32, pitch: usize) {
        for r in 0..rows {
            let (x, out) = (x.add(r * x_row), out.add(r * pitch));
            for c in 0..cols {
                *out.add(c) = *x.add(c) * by;
            }
        }
    }

    /// Adds weighted values to what rows have summed before: `x = x * ratio + y`, the ratio from each row's state.
    ///
    /// # Safety
    /// `x` and `y` hold such rows of `n` floats and do not overlap, `state` [`STATE`] floats a row, and the machine has `isa`.
    pub(super) fn rescale<A>(x: *mut f32, x_row: usize, y: *const f32, y_row: usize, rows: usize, n: usize, state: *const f32) {
        for r in 0..rows {
            let (x, y, by) = (x.add(r * x_row), y.add(r * y_row), *state.add(STATE * r + 2));
            for c in 0..n {
                *x.add(c) = A::mul_add(*x.add(c), by, *y.add(c));
            }
        }
    }

    /// Divides rows by the sums of their states; after a `safe` softmax, rows without a sum become zeros.
    ///
    /// # Safety
    /// `x` holds such rows of `n` floats, `state` [`STATE`] floats a row, and the machine has `isa`.
    pub(super) fn finish<A>(x: *mut f32, x_row: usize, rows: usize, n: usize, safe: bool, state: *const f32) {
        for r in 0..rows {
            let (x, sum) = (x.add(r * x_row), *state.add(STATE * r + 1));
            if safe && undefined(sum) {
                x.write_bytes(0, n);
                continue;
            }
            let by = 1.0 / sum;
            for c in 0..n {
                *x.add(c) *= by;
            }
        }
    }

    /// Scores become weights, `e^(score + mask - maximum)`, where the maximum is that of all the row has seen so far; its state
    /// follows. Row `r` sees the first `seen + r` of its `cols` scores; others get weight 0.
    ///
    /// # Safety
    /// `x` holds `rows` rows of `cols` floats rounded up to a multiple of sixteen, `pitch` apart; `mask` is null or addresses a matrix
    /// of `cols` columns; `state` holds [`STATE`] floats a row, and the machine has `isa`.
    pub(super) fn weigh<A>(
        x: *mut f32,
        pitch: usize,
        rows: usize,
        cols: usize,
        seen: usize,
        mask: *const f32,
        mask_row: usize,
        mask_col: usize,
        state: *mut f32,
    ) {
        let whole = cols.next_multiple_of(LANES);
        for r in 0..rows {
            let (x, state) = (x.add(r * pitch), state.add(STATE * r));
            let n = cols.min(seen.saturating_add(r));
            for c in n..whole {
                *x.add(c) = f32::NEG_INFINITY;
            }
            if !mask.is_null() {
                let mask = mask.add(r * mask_row);
                if mask_col == 0 {
                    let m = *mask;
                    for c in 0..n {
                        *x.add(c) += m;
                    }
                } else {
                    for c in 0..n {
                        *x.add(c) += *mask.add(c);
                    }
                }
            }
            // The maximum passes over NaN, which reaches all of the row by the sum.
            let mut tops = [f32::NEG_INFINITY; LANES];
            for c in (0..whole).step_by(LANES) {
                let v = x.add(c).cast::<[f32; LANES]>().read_unaligned();
                for l in 0..LANES {
                    tops[l] = if v[l] > tops[l] { v[l] } else { tops[l] };
                }
            }
            let mut width = LANES / 2;
            while width > 0 {
                for l in 0..width {
                    tops[l] = if tops[l + width] > tops[l] { tops[l + width] } else { tops[l] };
                }
                width /= 2;
            }
            let before = *state;
            let top = if tops[0] > before { tops[0] } else { before };
            // Where everything is -inf so far, so are all differences from zero.
            let base = if top == f32::NEG_INFINITY { 0.0 } else { top };
            let mut sums = [0f32; LANES];
            for c in (0..whole).step_by(LANES) {
                let v = x.add(c).cast::<[f32; LANES]>().read_unaligned();
                let mut e = [0f32; LANES];
                for l in 0..LANES {
                    // Subnormal weights say nothing beside one of 1, and slow the products that read them several times.
                    e[l] = math::exp_down::<A>(v[l] - base);
                }
                for l in 0..LANES {
                    sums[l] += e[l];
                }
                x.add(c).cast::<[f32; LANES]>().write_unaligned(e);
            }
            let mut width = LANES / 2;
            while width > 0 {
                for l in 0..width {
                    sums[l] += sums[l + width];
                }
                width /= 2;
            }
            let ratio = if before == f32::NEG_INFINITY { 0.0 } else { math::exp::<A>(before - base) };
            *state = top;
            *state.add(1) = A::mul_add(*state.add(1), ratio, sums[0]);
            *state.add(2) = ratio;
        }
    }
}
