//! Functions of bytes as tables of their 256 values.

use crate::isa::Isa;
use crate::kernel_fn;
#[cfg(target_arch = "x86_64")]
use core::arch::x86_64::*;

/// Replaces `n` bytes by what stands at their places in a table.
///
/// # Safety
/// `x` addresses as many bytes, which nothing else accesses meanwhile, and the machine has `isa`.
pub unsafe fn map_bytes(isa: Isa, x: *mut u8, n: usize, table: &[u8; 256]) {
    // SAFETY: passed on from the caller; what the machine has beyond the instruction set is asked for.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        if isa >= Isa::Avx512 && std::arch::is_x86_feature_detected!("avx512vbmi") {
            return permuted(x, n, table);
        }
        plain(isa, x, n, table);
    }
}

kernel_fn! {
    /// Byte by byte.
    ///
    /// # Safety
    /// As [`map_bytes`].
    fn plain<A>(x: *mut u8, n: usize, table: &[u8; 256]) {
        for i in 0..n {
            *x.add(i) = table[usize::from(*x.add(i))];
        }
    }
}

/// Sixty-four at a time: two permutations of half a table each, of which the highest bit picks one.
///
/// # Safety
/// As [`map_bytes`], on a machine with AVX512-VBMI.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
unsafe fn permuted(x: *mut u8, n: usize, table: &[u8; 256]) {
    // SAFETY: the table has four vectors; masked bytes are not accessed, and the others are the caller's.
    unsafe {
        let t = table.as_ptr();
        let [a, b, c, d] = [0, 64, 128, 192].map(|i| t.add(i));
        let (a, b) = (_mm512_loadu_si512(a.cast()), _mm512_loadu_si512(b.cast()));
        let (c, d) = (_mm512_loadu_si512(c.cast()), _mm512_loadu_si512(d.cast()));
        let mut i = 0;
        while i < n {
            let mask = if n - i >= 64 { !0 } else { (1u64 << (n - i)) - 1 };
            let at = x.add(i).cast::<i8>();
            let v = _mm512_maskz_loadu_epi8(mask, at);
            let (low, high) = (_mm512_permutex2var_epi8(a, v, b), _mm512_permutex2var_epi8(c, v, d));
            _mm512_mask_storeu_epi8(at, mask, _mm512_mask_blend_epi8(_mm512_movepi8_mask(v), low, high));
            i += 64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::testing::Rng;
    use alloc::vec::Vec;

    #[test]
    fn bytes_are_those_of_the_table() {
        let mut rng = Rng(21);
        for n in [0, 1, 3, 63, 64, 65, 127, 128, 200, 1000] {
            let table: Vec<u8> = (0..256).map(|_| rng.next() as u8).collect();
            let table: [u8; 256] = table.try_into().expect("256 bytes");
            let x: Vec<u8> = (0..n + 2).map(|_| rng.next() as u8).collect();
            let mut want = x.clone();
            want[1..=n].iter_mut().for_each(|b| *b = table[usize::from(*b)]);
            for isa in Isa::available() {
                let mut got = x.clone();
                // SAFETY: the vector has as many bytes behind its first.
                unsafe { map_bytes(isa, got.as_mut_ptr().add(1), n, &table) };
                assert!(got == want, "{n} bytes, {}", isa.name());
            }
        }
    }
}
