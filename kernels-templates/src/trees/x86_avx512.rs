//! Walks of sixteen rows in the lanes of AVX-512: records and columns are gathered.

use super::pack::{COLUMN, Leaves, Packed};
use super::walk::{Narrow, collect};
use core::arch::x86_64::*;

/// Vectors that walk at once, so that their gathers overlap.
const AT_ONCE: usize = 4;

/// `count` whole blocks of rows through all trees, whose records are narrow.
///
/// # Safety
/// As [`walk`](super::walk::walk), of rows that lie in blocks; the machine has AVX-512 F, BW, DQ and VL.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi1,bmi2")]
pub(super) unsafe fn blocks(p: &Packed<'_>, blocks: *const f32, count: usize, sums: *mut f32, leaves: &Leaves<'_, f32>) {
    let size = p.column_count() * COLUMN;
    // SAFETY: passed on from the caller.
    unsafe {
        let records: *const Narrow = p.records();
        for (tree, (root, span)) in p.roots().iter().zip(p.spans()).enumerate() {
            let mut b = 0;
            while b + AT_ONCE <= count {
                group::<AT_ONCE>(p, records, (tree, *root, *span), blocks.add(b * size), sums.add(b * COLUMN * p.targets()), leaves);
                b += AT_ONCE;
            }
            while b < count {
                group::<1>(p, records, (tree, *root, *span), blocks.add(b * size), sums.add(b * COLUMN * p.targets()), leaves);
                b += 1;
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi1,bmi2")]
unsafe fn group<const N: usize>(
    p: &Packed<'_>,
    records: *const Narrow,
    (tree, root, [least, most]): (usize, u32, [u32; 2]),
    blocks: *const f32,
    sums: *mut f32,
    leaves: &Leaves<'_, f32>,
) {
    let size = p.column_count() * COLUMN;
    let lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    let (mask, by) = (_mm512_set1_epi32((1 << p.shift()) - 1), _mm_cvtsi32_si128(p.shift() as i32));
    let one = _mm512_set1_epi32(1);
    let mut at = [_mm512_set1_epi32(root as i32); N];
    // SAFETY: gathers read records and columns that the packed ensemble names; leaves lead to themselves.
    unsafe {
        let splits_at = |at: __m512i| _mm512_i32gather_ps::<8>(at, records.cast());
        let step = |at: &mut [__m512i; N]| {
            let mut moved = 0;
            for (k, at) in at.iter_mut().enumerate() {
                let splits = splits_at(*at);
                let links = _mm512_i32gather_epi32::<8>(*at, records.cast::<i32>().add(1));
                let places = _mm512_or_si512(_mm512_and_si512(links, mask), lanes);
                let x = _mm512_i32gather_ps::<4>(places, blocks.add(k * size));
                // Not less or equal, or unordered.
                let second = _mm512_cmp_ps_mask::<_CMP_NLE_UQ>(x, splits);
                let child = _mm512_srl_epi32(links, by);
                let next = _mm512_mask_add_epi32(child, second, child, one);
                moved |= _mm512_cmpneq_epi32_mask(next, *at);
                *at = next;
            }
            moved != 0
        };
        for _ in 0..least {
            step(&mut at);
        }
        for _ in least..most {
            if !step(&mut at) {
                break;
            }
        }
        let payload = _mm512_set1_epi32((1 << 22) - 1);
        for (k, at) in at.into_iter().enumerate() {
            let leaf = _mm512_and_si512(_mm512_castps_si512(splits_at(at)), payload);
            let sums = sums.add(k * COLUMN * p.targets());
            match leaves {
                Leaves::Single { weights, .. } if p.targets() == 1 && p.aggregate() < 2 => {
                    let w = _mm512_i32gather_ps::<4>(leaf, weights.as_ptr());
                    _mm512_storeu_ps(sums, _mm512_add_ps(_mm512_loadu_ps(sums), w));
                }
                _ => {
                    let mut reached = [0u32; COLUMN];
                    _mm512_storeu_si512(reached.as_mut_ptr().cast(), leaf);
                    for (r, leaf) in reached.into_iter().enumerate() {
                        collect(leaves, tree, leaf, p.aggregate(), sums.add(r * p.targets()), p.targets());
                    }
                }
            }
        }
    }
}
