//! The transposition of a matrix of four-byte elements.

use crate::isa::Isa;

/// `out[j * out_row + i] = x[i * x_row + j]` for `rows` rows and `cols` columns of `x`.
///
/// # Safety
/// The pointers address such matrices, which do not overlap, and the machine has `isa`.
#[inline]
pub(crate) unsafe fn transpose(isa: Isa, rows: usize, cols: usize, x: *const f32, x_row: usize, out: *mut f32, out_row: usize) {
    // SAFETY: passed on from the caller.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 | Isa::Avx512 | Isa::Amx => transpose_avx2(rows, cols, x, x_row, out, out_row),
            _ => transpose_plain(0..rows, 0..cols, x, x_row as isize, out, out_row as isize),
        }
    }
}

/// [`transpose`] of any element type and any strides, in squares so that the lines of both sides stay in the cache.
///
/// # Safety
/// The pointers address such matrices, which do not overlap.
#[inline(always)]
pub(crate) unsafe fn transpose_plain<T: Copy>(
    rows: core::ops::Range<usize>,
    cols: core::ops::Range<usize>,
    x: *const T,
    x_row: isize,
    out: *mut T,
    out_row: isize,
) {
    for i0 in rows.clone().step_by(16) {
        for j0 in cols.clone().step_by(16) {
            for i in i0..rows.end.min(i0 + 16) {
                for j in j0..cols.end.min(j0 + 16) {
                    // SAFETY: inside of the matrices that the caller vouches for.
                    unsafe { *out.offset(j as isize * out_row).add(i) = *x.offset(i as isize * x_row).add(j) };
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn transpose_avx2(rows: usize, cols: usize, x: *const f32, x_row: usize, out: *mut f32, out_row: usize) {
    let (whole_rows, whole_cols) = (rows / 8 * 8, cols / 8 * 8);
    // SAFETY: inside of the matrices that the caller vouches for.
    unsafe {
        // Strips of 64 columns: the lines written by one strip of 8 rows are met again by the next.
        for j0 in (0..whole_cols).step_by(64) {
            for i in (0..whole_rows).step_by(8) {
                for j in (j0..whole_cols.min(j0 + 64)).step_by(8) {
                    square_avx2(x.add(i * x_row + j), x_row, out.add(j * out_row + i), out_row);
                }
            }
        }
        transpose_plain(whole_rows..rows, 0..cols, x, x_row as isize, out, out_row as isize);
        transpose_plain(0..whole_rows, whole_cols..cols, x, x_row as isize, out, out_row as isize);
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn square_avx2(x: *const f32, x_row: usize, out: *mut f32, out_row: usize) {
    use core::arch::x86_64::*;
    // SAFETY: the caller vouches for eight rows of eight floats on both sides.
    unsafe {
        let mut r = [_mm256_setzero_ps(); 8];
        // Halves of rows i and i + 4 side by side leave only shuffles inside of 128 bits.
        for i in 0..4 {
            let (p, q) = (x.add(i * x_row), x.add((i + 4) * x_row));
            r[i] = _mm256_insertf128_ps::<1>(_mm256_castps128_ps256(_mm_loadu_ps(p)), _mm_loadu_ps(q));
            r[i + 4] = _mm256_insertf128_ps::<1>(_mm256_castps128_ps256(_mm_loadu_ps(p.add(4))), _mm_loadu_ps(q.add(4)));
        }
        for h in 0..2 {
            let b = h * 4;
            let t0 = _mm256_unpacklo_ps(r[b], r[b + 1]);
            let t1 = _mm256_unpackhi_ps(r[b], r[b + 1]);
            let t2 = _mm256_unpacklo_ps(r[b + 2], r[b + 3]);
            let t3 = _mm256_unpackhi_ps(r[b + 2], r[b + 3]);
            _mm256_storeu_ps(out.add(b * out_row), _mm256_shuffle_ps::<0x44>(t0, t2));
            _mm256_storeu_ps(out.add((b + 1) * out_row), _mm256_shuffle_ps::<0xee>(t0, t2));
            _mm256_storeu_ps(out.add((b + 2) * out_row), _mm256_shuffle_ps::<0x44>(t1, t3));
            _mm256_storeu_ps(out.add((b + 3) * out_row), _mm256_shuffle_ps::<0xee>(t1, t3));
        }
    }
}
