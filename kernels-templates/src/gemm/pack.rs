//! Packing of the operands of a matrix product.

use super::kernel::PANEL;
use crate::isa::Isa;
use crate::support::copy::transpose;

/// Floats of a packed B of `k` rows and `n` columns.
pub const fn packed_len(k: usize, n: usize) -> usize {
    n.next_multiple_of(PANEL) * k
}

/// Floats from one packed row of A to the next: never a power of two for long rows.
pub(crate) const fn a_pitch(k: usize) -> usize {
    k.next_multiple_of(PANEL) + PANEL
}

/// Packs B, `k` rows of `n` columns at `b` with element strides, into panels `[ceil(n/16)][k][16]`, zero-padded.
///
/// # Safety
/// `b` addresses such a matrix, `out` holds [`packed_len`] floats, and the machine has `isa`.
pub unsafe fn pack_b(isa: Isa, k: usize, n: usize, b: *const f32, b_row: usize, b_col: usize, out: *mut f32) {
    // SAFETY: all addresses are inside of the matrix and of the panels.
    unsafe {
        for first in (0..n).step_by(PANEL) {
            let cols = PANEL.min(n - first);
            let (src, dst) = (b.add(first * b_col), out.add(first * k));
            if cols < PANEL {
                core::ptr::write_bytes(dst, 0, k * PANEL);
            }
            if b_col == 1 {
                for p in 0..k {
                    let (from, to) = (src.add(p * b_row), dst.add(p * PANEL));
                    if cols == PANEL {
                        to.cast::<[f32; PANEL]>().write_unaligned(from.cast::<[f32; PANEL]>().read_unaligned());
                    } else {
                        core::ptr::copy_nonoverlapping(from, to, cols);
                    }
                }
            } else if b_row == 1 {
                transpose(isa, cols, k, src, b_col, dst, PANEL);
            } else {
                for p in 0..k {
                    for j in 0..cols {
                        *dst.add(p * PANEL + j) = *src.add(p * b_row + j * b_col);
                    }
                }
            }
        }
    }
}

/// [`pack_b`] of a row-major matrix, at compile time. Panics when a slice is too short.
pub fn pack_rows(k: usize, n: usize, b: &[f32], out: &mut [f32]) {
    assert!(b.len() >= k * n && out.len() >= packed_len(k, n), "the slices hold the matrix and its panels; this is a bug");
    // SAFETY: the lengths were just checked, and every machine has the portable instruction set.
    unsafe { pack_b(Isa::Portable, k, n, b.as_ptr(), n, 1, out.as_mut_ptr()) }
}

/// Packs `rows` rows of A into rows of unit stride and [`a_pitch`].
///
/// # Safety
/// `a` addresses such a matrix, `out` holds `rows * a_pitch(k)` floats, and the machine has `isa`.
pub(crate) unsafe fn pack_a(isa: Isa, rows: usize, k: usize, a: *const f32, a_row: usize, a_col: usize, out: *mut f32) {
    let pitch = a_pitch(k);
    // SAFETY: all addresses are inside of the matrix and of the packed rows.
    unsafe {
        if a_row == 1 && a_col != 1 {
            transpose(isa, k, rows, a, a_col, out, pitch);
            return;
        }
        for i in 0..rows {
            let (from, to) = (a.add(i * a_row), out.add(i * pitch));
            if a_col == 1 {
                core::ptr::copy_nonoverlapping(from, to, k);
            } else {
                for p in 0..k {
                    *to.add(p) = *from.add(p * a_col);
                }
            }
        }
    }
}
