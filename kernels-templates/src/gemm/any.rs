//! Matrix products of the rare element types, by plain loops in an order that the cache likes.

/// Numbers with a sum and a product; those of integers wrap around.
pub trait Number: Copy + Send + Sync + 'static {
    /// The neutral element of the sum.
    const ZERO: Self;
    /// `self + a * b`.
    fn add_mul(self, a: Self, b: Self) -> Self;
}

macro_rules! ints {
    ($($t:ty)*) => {$(
        impl Number for $t {
            const ZERO: $t = 0;
            #[inline(always)]
            fn add_mul(self, a: $t, b: $t) -> $t {
                self.wrapping_add(a.wrapping_mul(b))
            }
        }
    )*};
}
ints!(i8 u8 i16 u16 i32 u32 i64 u64);

macro_rules! floats {
    ($($t:ty)*) => {$(
        impl Number for $t {
            const ZERO: $t = 0.0;
            #[inline(always)]
            fn add_mul(self, a: $t, b: $t) -> $t {
                self + a * b
            }
        }
    )*};
}
floats!(f32 f64);

/// Rows `rows` of `C[m][n] = sum over k of A[m][k] B[k][n]`, each matrix with (row, column) element strides; C has rows of
/// unit stride, `ldc` apart.
///
/// # Safety
/// The pointers address such matrices, and those rows of C are not accessed elsewhere meanwhile.
pub unsafe fn matmul_any<T: Number>(
    rows: core::ops::Range<usize>,
    (n, k): (usize, usize),
    a: *const T,
    (a_row, a_col): (usize, usize),
    b: *const T,
    (b_row, b_col): (usize, usize),
    out: *mut T,
    ldc: usize,
) {
    // SAFETY: all addresses are inside of the matrices that the caller vouches for.
    unsafe {
        for i in rows {
            let (a, c) = (a.add(i * a_row), out.add(i * ldc));
            for j in 0..n {
                *c.add(j) = T::ZERO;
            }
            for p in 0..k {
                let (x, b) = (*a.add(p * a_col), b.add(p * b_row));
                if b_col == 1 {
                    for j in 0..n {
                        *c.add(j) = (*c.add(j)).add_mul(x, *b.add(j));
                    }
                } else {
                    for j in 0..n {
                        *c.add(j) = (*c.add(j)).add_mul(x, *b.add(j * b_col));
                    }
                }
            }
        }
    }
}
