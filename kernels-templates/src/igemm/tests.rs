//! Integer products against the plain ones: the same bits on every instruction set, however tasks are ordered.

use super::*;
use crate::support::testing::Rng;
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

/// What a kernel must leave alone.
const UNTOUCHED: i32 = 0x1234_5678;

/// Bytes of any value, or of extremes only.
fn bytes(rng: &mut Rng, n: usize, extremes: &[u8]) -> Vec<u8> {
    (0..n).map(|_| if extremes.is_empty() { rng.next() as u8 } else { rng.pick(extremes) }).collect()
}

fn compare(rng: &mut Rng, (m, n, k): (usize, usize, usize), extremes: bool) {
    let unsigned = rng.int(0, 1) == 1;
    // The pair of -128, or 0 of u8, with 255 is what saturates 16 bits.
    let ends = if unsigned { [0u8, 255] } else { [0x80, 0x7f] };
    let a_row = k + rng.int(0, 5);
    let ldc = n + rng.int(0, 3);
    let shift = rng.int(0, 3);
    let a = bytes(rng, shift + m * a_row + 8, if extremes { &[0, 255] } else { &[] });
    let b = bytes(rng, k * n, if extremes { &ends } else { &[] });
    let a_zero = rng.pick(&[0, 255, 128, 7]);
    let each = if rng.int(0, 1) == 1 { n } else { 1 };
    let zeros = match rng.int(0, 2) {
        0 => vec![if unsigned { 0x80 } else { 0 }; each],
        _ => bytes(rng, each, &[]),
    };
    let mut want = vec![UNTOUCHED; m * ldc];
    let mut dense = vec![0i32; m * n];
    let rows: Vec<u8> = (0..m).flat_map(|i| a[shift + i * a_row..][..k].iter().copied()).collect();
    if unsigned {
        multiply(Out(&mut dense), In(&rows), In(&b), In(&[a_zero]), In(&zeros), m, n, k);
    } else {
        let signed = |x: &[u8]| x.iter().map(|x| *x as i8).collect::<Vec<_>>();
        multiply(Out(&mut dense), In(&rows), In(&signed(&b)), In(&[a_zero]), In(&signed(&zeros)), m, n, k);
    }
    for i in 0..m {
        want[i * ldc..i * ldc + n].copy_from_slice(&dense[i * n..(i + 1) * n]);
    }
    let mut packed = vec![0xaa; packed_len(k, n) + shift];
    pack_rows(k, n, &b, unsigned, &mut packed[shift..]);
    let zeros = pack_zeros(n, &zeros, unsigned);
    let zeros = if zeros.iter().all(|z| *z == 0) { core::ptr::null() } else { zeros.as_ptr() };
    let gemm = IntGemm { m, n, k, a_row, ldc };
    for (isa, tiles) in Isa::available().map(|isa| (isa, false)).chain([(Isa::detect(), Isa::detect().has_tiles())]) {
        for scattered in [false, true] {
            let mut got = vec![UNTOUCHED; m * ldc];
            let to = got.as_mut_ptr() as usize;
            let scatter = |block: Block| {
                assert!(block.row + block.rows <= m && block.col + block.cols <= n);
                for (i, j) in (0..block.rows).flat_map(|i| (0..block.cols).map(move |j| (i, j))) {
                    let at = (block.row + i) * ldc + block.col + j;
                    // SAFETY: the block lies inside of the output.
                    unsafe { *(to as *mut i32).add(at) = *block.out.add(i * block.pitch + j).cast::<i32>() };
                }
            };
            let mut scratch = vec![f32::NAN; gemm.scratch_floats()];
            for task in (0..gemm.tasks()).rev() {
                let out = if scattered { core::ptr::null_mut() } else { got.as_mut_ptr() };
                let epilogue: Epilogue = if scattered { Some(&scatter) } else { None };
                // SAFETY: the arrays have the sizes that the kernel asks for.
                unsafe {
                    let (a, b) = ((a.as_ptr().add(shift), a_zero), packed.as_ptr().add(shift));
                    gemm.run(isa, tiles, task, a, b, zeros, out, scratch.as_mut_ptr(), epilogue);
                }
            }
            let case = format!("{m}x{n}x{k}, pitch {a_row}, unsigned {unsigned}, extremes {extremes}, scattered {scattered}");
            assert!(got == want, "{case}, {}, tiles {tiles}", isa.name());
        }
    }
}

#[test]
fn products_equal_the_plain_ones() {
    let mut rng = Rng(7);
    let mut shapes = vec![(0, 3, 2), (3, 0, 2), (3, 5, 0), (1, 1, 1), (17, 1, 3), (1, 300, 41), (49, 70, 33), (3, 64, 64), (97, 48, 512)];
    // Rows of whole pages are copied.
    shapes.extend([(20, 40, 2048), (15, 17, 4096)]);
    // What matrix registers take: whole steps, odd rows and columns.
    shapes.extend([(8, 16, 64), (16, 31, 64), (17, 33, 128), (33, 15, 192), (64, 64, 64), (47, 130, 64), (65, 161, 256)]);
    for _ in 0..20 {
        shapes.push((rng.int(1, 80), rng.int(1, 140), 64 * rng.int(1, 5)));
    }
    for _ in 0..60 {
        shapes.push((rng.int(1, 60), rng.int(1, 140), rng.int(1, 90)));
    }
    for shape in shapes {
        compare(&mut rng, shape, false);
        compare(&mut rng, shape, true);
    }
}

#[test]
fn sums_beyond_32_bits_wrap_around() {
    let mut rng = Rng(8);
    for k in [33_025, 33_026, 70_001] {
        compare(&mut rng, (3, 5, k), true);
    }
    let (k, a_zero) = (33_025, 0);
    let b = vec![0u8; k];
    let mut packed = vec![0; packed_len(k, 1)];
    pack_rows(k, 1, &b, true, &mut packed);
    let zeros = pack_zeros(1, &[255], true);
    let gemm = IntGemm { m: 1, n: 1, k, a_row: k, ldc: 1 };
    let (a, mut out, mut scratch) = (vec![255u8; k], [0], vec![0.0; gemm.scratch_floats()]);
    // SAFETY: the arrays have the sizes that the kernel asks for.
    unsafe {
        let (a, b, out) = (a.as_ptr(), packed.as_ptr(), out.as_mut_ptr());
        gemm.run_task(Isa::detect(), 0, a, a_zero, b, zeros.as_ptr(), out, scratch.as_mut_ptr(), None);
    }
    assert_eq!(i64::from(out[0]), -255 * 255 * k as i64, "the largest sum that fits");
}

#[test]
fn epilogues_see_every_element_once() {
    let (m, n, k) = (45, 130, 64);
    let mut rng = Rng(9);
    let (a, b) = (bytes(&mut rng, m * k, &[]), bytes(&mut rng, k * n, &[]));
    let mut packed = vec![0; packed_len(k, n)];
    pack_rows(k, n, &b, true, &mut packed);
    let zeros = pack_zeros(n, &[3], true);
    let mut want = vec![0; m * n];
    multiply(Out(&mut want), In(&a), In(&b), In(&[9]), In(&[3u8]), m, n, k);
    let half = |block: Block| {
        assert!(block.row + block.rows <= m && block.col + block.cols <= n);
        for i in 0..block.rows {
            for j in 0..block.cols {
                // SAFETY: the block is inside of the output.
                unsafe {
                    let p = block.out.add(i * block.pitch + j);
                    *p = *p.cast::<i32>() as f32 * 0.5;
                }
            }
        }
    };
    let gemm = IntGemm { m, n, k, a_row: k, ldc: n };
    for isa in Isa::available() {
        let mut got = vec![0f32; m * n];
        let mut scratch = vec![0.0; gemm.scratch_floats()];
        for task in 0..gemm.tasks() {
            // SAFETY: the arrays have the sizes that the kernel asks for.
            unsafe {
                let (a, b, out) = (a.as_ptr(), packed.as_ptr(), got.as_mut_ptr().cast());
                gemm.run_task(isa, task, a, 9, b, zeros.as_ptr(), out, scratch.as_mut_ptr(), Some(&half));
            }
        }
        assert!(got.iter().zip(&want).all(|(g, w)| *g == *w as f32 * 0.5), "{}", isa.name());
    }
}
