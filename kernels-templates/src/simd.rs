//! Vectors of floats, one type for each instruction set: what hand-tiled kernels are generic over.

use crate::isa::{Arith, Portable};
#[cfg(target_arch = "x86_64")]
use core::arch::x86_64::*;

/// What register tiles ask of vectors of `W` elements of four bytes. Every method must run where the instruction set is available.
pub(crate) trait Products: Copy {
    type V: Copy;
    const W: usize;
    unsafe fn zero() -> Self::V;
    /// Initial values of sums, which are of another type than elements where those are bytes.
    #[inline(always)]
    unsafe fn start(p: *const f32) -> Self::V {
        // SAFETY: passed on from the caller.
        unsafe { Self::load(p) }
    }
    /// Elements of the right side.
    unsafe fn load(p: *const f32) -> Self::V;
    /// The element of the left side at `p`, which may have any alignment, as often as there are elements.
    unsafe fn repeat(p: *const f32) -> Self::V;
    /// `c` with the products of `a`, which is repeated, and `b` added.
    unsafe fn mul_add(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// Writes sums.
    unsafe fn store(p: *mut f32, v: Self::V);
    /// Writes the first `n` sums, fewer than a vector has.
    #[inline(always)]
    unsafe fn store_some(p: *mut f32, v: Self::V, n: usize) {
        let mut line = [0f32; 16];
        // SAFETY: a vector has at most sixteen elements; the caller vouches for `n` at `p`.
        unsafe {
            Self::store(line.as_mut_ptr(), v);
            core::ptr::copy_nonoverlapping(line.as_ptr(), p, n);
        }
    }
    /// What a [`Finish`](crate::gemm::Finish) adds, at `p`. Sums of bytes have none.
    #[inline(always)]
    unsafe fn plus(v: Self::V, _p: *const f32) -> Self::V {
        v
    }
    /// What a [`Finish`](crate::gemm::Finish) adds to the first `n` sums, fewer than a vector has.
    #[inline(always)]
    unsafe fn plus_some(v: Self::V, p: *const f32, n: usize) -> Self::V {
        let mut line = [0f32; 16];
        // SAFETY: a vector has at most sixteen elements; the caller vouches for `n` at `p`.
        unsafe {
            core::ptr::copy_nonoverlapping(p, line.as_mut_ptr(), n);
            Self::plus(v, line.as_ptr())
        }
    }
    /// Sums brought between the bounds of a [`Finish`](crate::gemm::Finish); NaN stays, and where the least is 0 there is no -0.0.
    #[inline(always)]
    unsafe fn between(v: Self::V, _least: f32, _most: f32) -> Self::V {
        v
    }
}

/// `plus` and `between` of floats.
macro_rules! finish {
    () => {
        #[inline(always)]
        unsafe fn plus(v: Self::V, p: *const f32) -> Self::V {
            // SAFETY: the caller vouches for a vector at `p`.
            unsafe { Self::add(v, Self::load(p)) }
        }
        #[inline(always)]
        unsafe fn between(v: Self::V, least: f32, most: f32) -> Self::V {
            // The greater of -0.0 and 0.0 is 0.0: adding that does it, and adding -0.0 changes nothing.
            let zero = if least == 0.0 { 0.0 } else { -0.0 };
            // SAFETY: arithmetic of the instruction set that the caller vouches for.
            unsafe { Self::min(Self::splat(most), Self::add(Self::max(Self::splat(least), v), Self::splat(zero))) }
        }
    };
}

/// Vectors of `W` floats. Every method must run where the instruction set is available.
pub(crate) trait Simd: Products {
    unsafe fn splat(x: f32) -> Self::V;
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    /// `a` where it is above `b`, else `b`: NaN in `a` is passed over.
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// `a` where it is below `b`, else `b`: NaN in `a` is passed over.
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    /// The sum of the elements, halves added to halves.
    unsafe fn sum(a: Self::V) -> f32;
}

/// One float.
#[derive(Copy, Clone)]
pub(crate) struct Scalar<A>(core::marker::PhantomData<A>);

impl<A: Arith> Products for Scalar<A> {
    type V = f32;
    const W: usize = 1;
    #[inline(always)]
    unsafe fn zero() -> f32 {
        0.0
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> f32 {
        // SAFETY: the caller vouches for a float at `p`.
        unsafe { p.read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: f32) {
        // SAFETY: the caller vouches for a float at `p`.
        unsafe { p.write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn mul_add(a: f32, b: f32, c: f32) -> f32 {
        A::mul_add(a, b, c)
    }
    finish!();
    #[inline(always)]
    unsafe fn repeat(p: *const f32) -> Self::V {
        // SAFETY: the caller vouches for a float at `p`.
        unsafe { Self::splat(p.read_unaligned()) }
    }
}

impl<A: Arith> Simd for Scalar<A> {
    #[inline(always)]
    unsafe fn splat(x: f32) -> f32 {
        x
    }
    #[inline(always)]
    unsafe fn add(a: f32, b: f32) -> f32 {
        a + b
    }
    #[inline(always)]
    unsafe fn sub(a: f32, b: f32) -> f32 {
        a - b
    }
    #[inline(always)]
    unsafe fn mul(a: f32, b: f32) -> f32 {
        a * b
    }
    #[inline(always)]
    unsafe fn max(a: f32, b: f32) -> f32 {
        if a > b { a } else { b }
    }
    #[inline(always)]
    unsafe fn min(a: f32, b: f32) -> f32 {
        if a < b { a } else { b }
    }
    #[inline(always)]
    unsafe fn sum(a: f32) -> f32 {
        a
    }
}

/// Eight floats of any machine.
#[derive(Copy, Clone)]
pub(crate) struct Lanes;

impl Products for Lanes {
    type V = [f32; 8];
    const W: usize = 8;
    #[inline(always)]
    unsafe fn zero() -> [f32; 8] {
        [0.0; 8]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> [f32; 8] {
        // SAFETY: the caller vouches for eight floats at `p`.
        unsafe { p.cast::<[f32; 8]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: [f32; 8]) {
        // SAFETY: the caller vouches for eight floats at `p`.
        unsafe { p.cast::<[f32; 8]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn mul_add(a: [f32; 8], b: [f32; 8], c: [f32; 8]) -> [f32; 8] {
        let mut r = c;
        for i in 0..8 {
            r[i] = Portable::mul_add(a[i], b[i], c[i]);
        }
        r
    }
    finish!();
    #[inline(always)]
    unsafe fn repeat(p: *const f32) -> Self::V {
        // SAFETY: the caller vouches for a float at `p`.
        unsafe { Self::splat(p.read_unaligned()) }
    }
}

impl Simd for Lanes {
    #[inline(always)]
    unsafe fn splat(x: f32) -> [f32; 8] {
        [x; 8]
    }
    #[inline(always)]
    unsafe fn add(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        let mut r = a;
        for i in 0..8 {
            r[i] = a[i] + b[i];
        }
        r
    }
    #[inline(always)]
    unsafe fn sub(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        let mut r = a;
        for i in 0..8 {
            r[i] = a[i] - b[i];
        }
        r
    }
    #[inline(always)]
    unsafe fn mul(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        let mut r = a;
        for i in 0..8 {
            r[i] = a[i] * b[i];
        }
        r
    }
    #[inline(always)]
    unsafe fn max(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        let mut r = b;
        for i in 0..8 {
            r[i] = if a[i] > b[i] { a[i] } else { b[i] };
        }
        r
    }
    #[inline(always)]
    unsafe fn min(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        let mut r = b;
        for i in 0..8 {
            r[i] = if a[i] < b[i] { a[i] } else { b[i] };
        }
        r
    }
    #[inline(always)]
    unsafe fn sum(a: [f32; 8]) -> f32 {
        let b = [a[0] + a[4], a[1] + a[5], a[2] + a[6], a[3] + a[7]];
        (b[0] + b[2]) + (b[1] + b[3])
    }
}

#[cfg(target_arch = "x86_64")]
/// A register of the instruction set.
#[derive(Copy, Clone)]
pub(crate) struct Avx2;

#[cfg(target_arch = "x86_64")]
impl Products for Avx2 {
    type V = __m256;
    const W: usize = 8;
    #[inline(always)]
    unsafe fn zero() -> __m256 {
        // SAFETY: used inside of entry points that enable AVX2 and FMA; so below.
        unsafe { _mm256_setzero_ps() }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> __m256 {
        // SAFETY: the caller vouches for eight floats at `p`.
        unsafe { _mm256_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: __m256) {
        // SAFETY: the caller vouches for eight floats at `p`.
        unsafe { _mm256_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn mul_add(a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: as in `zero`.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    finish!();
    #[inline(always)]
    unsafe fn repeat(p: *const f32) -> Self::V {
        // SAFETY: the caller vouches for a float at `p`.
        unsafe { Self::splat(p.read_unaligned()) }
    }
}

#[cfg(target_arch = "x86_64")]
impl Simd for Avx2 {
    #[inline(always)]
    unsafe fn splat(x: f32) -> __m256 {
        // SAFETY: as in `zero`.
        unsafe { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn add(a: __m256, b: __m256) -> __m256 {
        // SAFETY: as in `zero`.
        unsafe { _mm256_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: __m256, b: __m256) -> __m256 {
        // SAFETY: as in `zero`.
        unsafe { _mm256_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: __m256, b: __m256) -> __m256 {
        // SAFETY: as in `zero`.
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn max(a: __m256, b: __m256) -> __m256 {
        // SAFETY: as in `zero`.
        unsafe { _mm256_max_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn min(a: __m256, b: __m256) -> __m256 {
        // SAFETY: as in `zero`.
        unsafe { _mm256_min_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sum(a: __m256) -> f32 {
        // SAFETY: as in `zero`.
        unsafe {
            let b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let c = _mm_add_ps(b, _mm_movehl_ps(b, b));
            _mm_cvtss_f32(_mm_add_ss(c, _mm_shuffle_ps::<1>(c, c)))
        }
    }
}

#[cfg(target_arch = "x86_64")]
/// A register of the instruction set.
#[derive(Copy, Clone)]
pub(crate) struct Avx512;

#[cfg(target_arch = "x86_64")]
impl Products for Avx512 {
    type V = __m512;
    const W: usize = 16;
    #[inline(always)]
    unsafe fn zero() -> __m512 {
        // SAFETY: used inside of entry points that enable AVX-512; so below.
        unsafe { _mm512_setzero_ps() }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> __m512 {
        // SAFETY: the caller vouches for sixteen floats at `p`.
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: __m512) {
        // SAFETY: the caller vouches for sixteen floats at `p`.
        unsafe { _mm512_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn mul_add(a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: as in `zero`.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn store_some(p: *mut f32, v: __m512, n: usize) {
        // SAFETY: the caller vouches for `n` floats at `p`, fewer than sixteen.
        unsafe { _mm512_mask_storeu_ps(p, (1 << n) - 1, v) }
    }
    #[inline(always)]
    unsafe fn plus_some(v: __m512, p: *const f32, n: usize) -> __m512 {
        // SAFETY: the caller vouches for `n` floats at `p`, fewer than sixteen.
        unsafe { _mm512_add_ps(v, _mm512_maskz_loadu_ps((1 << n) - 1, p)) }
    }
    finish!();
    #[inline(always)]
    unsafe fn repeat(p: *const f32) -> Self::V {
        // SAFETY: the caller vouches for a float at `p`.
        unsafe { Self::splat(p.read_unaligned()) }
    }
}

#[cfg(target_arch = "x86_64")]
impl Simd for Avx512 {
    #[inline(always)]
    unsafe fn splat(x: f32) -> __m512 {
        // SAFETY: as in `zero`.
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        // SAFETY: as in `zero`.
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: __m512, b: __m512) -> __m512 {
        // SAFETY: as in `zero`.
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        // SAFETY: as in `zero`.
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn max(a: __m512, b: __m512) -> __m512 {
        // SAFETY: as in `zero`.
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn min(a: __m512, b: __m512) -> __m512 {
        // SAFETY: as in `zero`.
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sum(a: __m512) -> f32 {
        // SAFETY: as in `zero`.
        unsafe { _mm512_reduce_add_ps(a) }
    }
}
