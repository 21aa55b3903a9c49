//! The two products of few queries: dot products and weighted sums of rows as they lie, at the speed of memory.

use crate::isa::Isa;
use crate::simd::Simd;

/// Keys whose dot products run side by side.
const KEYS: usize = 4;

#[inline(always)]
unsafe fn dots_of<S: Simd>(q: *const f32, k: *const f32, k_row: usize, depth: usize, keys: usize, scale: f32, out: *mut f32) {
    let whole = depth / S::W * S::W;
    // SAFETY: the caller vouches for the rows, and for the instruction set of `S`.
    unsafe {
        let finish = |row: *const f32, sum: S::V| {
            let mut sum = S::sum(sum);
            for c in whole..depth {
                sum += *q.add(c) * *row.add(c);
            }
            sum * scale
        };
        let mut j = 0;
        while j + KEYS <= keys {
            let row = k.add(j * k_row);
            let mut acc = [S::zero(); KEYS];
            for c in (0..whole).step_by(S::W) {
                let x = S::load(q.add(c));
                for (i, a) in acc.iter_mut().enumerate() {
                    *a = S::mul_add(x, S::load(row.add(i * k_row + c)), *a);
                }
            }
            for (i, a) in acc.iter().enumerate() {
                *out.add(j + i) = finish(row.add(i * k_row), *a);
            }
            j += KEYS;
        }
        while j < keys {
            let row = k.add(j * k_row);
            let mut acc = S::zero();
            for c in (0..whole).step_by(S::W) {
                acc = S::mul_add(S::load(q.add(c)), S::load(row.add(c)), acc);
            }
            *out.add(j) = finish(row, acc);
            j += 1;
        }
    }
}

/// `NV` vectors of columns of the weighted sum of rows.
#[inline(always)]
unsafe fn columns<S: Simd, const NV: usize>(p: *const f32, v: *const f32, v_row: usize, keys: usize, by: f32, out: *mut f32) {
    // SAFETY: the caller vouches for the rows, and for the instruction set of `S`.
    unsafe {
        let mut acc = [S::zero(); NV];
        for j in 0..keys {
            let (x, row) = (S::splat(*p.add(j)), v.add(j * v_row));
            for (i, a) in acc.iter_mut().enumerate() {
                *a = S::mul_add(x, S::load(row.add(i * S::W)), *a);
            }
        }
        for (i, a) in acc.iter().enumerate() {
            S::store(out.add(i * S::W), S::mul_add(*a, S::splat(by), S::zero()));
        }
    }
}

#[inline(always)]
unsafe fn combine_of<S: Simd>(p: *const f32, v: *const f32, v_row: usize, keys: usize, width: usize, by: f32, out: *mut f32) {
    let mut c = 0;
    // SAFETY: the caller vouches for the rows, and for the instruction set of `S`.
    unsafe {
        while c + 8 * S::W <= width {
            columns::<S, 8>(p, v.add(c), v_row, keys, by, out.add(c));
            c += 8 * S::W;
        }
        while c + 4 * S::W <= width {
            columns::<S, 4>(p, v.add(c), v_row, keys, by, out.add(c));
            c += 4 * S::W;
        }
        while c + S::W <= width {
            columns::<S, 1>(p, v.add(c), v_row, keys, by, out.add(c));
            c += S::W;
        }
        while c < width {
            let mut sum = 0.0;
            for j in 0..keys {
                sum += *p.add(j) * *v.add(j * v_row + c);
            }
            *out.add(c) = sum * by;
            c += 1;
        }
    }
}

macro_rules! dispatch {
    ($($(#[$meta:meta])* $name:ident = $body:ident($($arg:ident: $ty:ty),*);)*) => {$(
        $(#[$meta])*
        #[inline]
        pub(super) unsafe fn $name(isa: Isa, $($arg: $ty),*) {
            #[inline(never)]
            unsafe fn portable($($arg: $ty),*) {
                // SAFETY: passed on from the caller.
                unsafe { $body::<crate::simd::Lanes>($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            unsafe fn avx2($($arg: $ty),*) {
                // SAFETY: passed on from the caller.
                unsafe { $body::<crate::simd::Avx2>($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
            unsafe fn avx512($($arg: $ty),*) {
                // SAFETY: passed on from the caller.
                unsafe { $body::<crate::simd::Avx512>($($arg),*) }
            }
            // SAFETY: the caller vouches for the pointers and for the machine having `isa`.
            unsafe {
                match isa {
                    #[cfg(target_arch = "x86_64")]
                    Isa::Avx512 | Isa::Amx => avx512($($arg),*),
                    #[cfg(target_arch = "x86_64")]
                    Isa::Avx2 => avx2($($arg),*),
                    _ => portable($($arg),*),
                }
            }
        }
    )*};
}

dispatch! {
    /// `out[j] = scale · q·k[j]` for `keys` rows of `depth` floats, `k_row` apart.
    ///
    /// # Safety
    /// The pointers address such rows, and the machine has `isa`.
    dots = dots_of(q: *const f32, k: *const f32, k_row: usize, depth: usize, keys: usize, scale: f32, out: *mut f32);
    /// `out = by · sum over j of p[j] v[j]` for `keys` rows of `width` floats, `v_row` apart.
    ///
    /// # Safety
    /// The pointers address such rows, and the machine has `isa`.
    combine = combine_of(p: *const f32, v: *const f32, v_row: usize, keys: usize, width: usize, by: f32, out: *mut f32);
}
