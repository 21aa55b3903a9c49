//! The families of kernels with their shapes.

use crate::{Bench, Bound};
use kiln_kernels::conv::Conv;
use kiln_kernels::depthwise::Depthwise;
use kiln_kernels::gemm::narrow::{self, Coded, Coding, Narrow, Zeros};
use kiln_kernels::gemm::{DIGIT_LEAST, Finish, Gemm, MatMul, PANEL, Panels, digits_len, pack_b, pack_digits, packed_len};
use kiln_kernels::igemm::{self, IntConv, IntDepthwise, IntGemm};
use kiln_kernels::isa::Isa;
use kiln_kernels::norm::{Rows, layer_norm};
use kiln_kernels::pool::{Kind, Pool};
use kiln_kernels::softmax::softmax;
use kiln_kernels::transpose::Copy;
use kiln_kernels::winograd::Winograd;

/// Floats that start at a line of the cache, as those of an arena do.
struct Floats(Vec<[f32; 32]>, usize);

impl Floats {
    fn new(value: f32, len: usize) -> Floats {
        Floats(vec![[value; 32]; len / 32 + 2], len)
    }
    /// Room for so many bytes.
    fn bytes(len: usize) -> Floats {
        Floats::new(0.0, len.div_ceil(4))
    }
    fn as_mut_ptr(&mut self) -> *mut f32 {
        let p = self.0.as_mut_ptr().cast::<f32>();
        p.wrapping_add(p.align_offset(64))
    }
}

impl std::ops::Deref for Floats {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        let p = self.0.as_ptr().cast::<f32>();
        // SAFETY: at most 15 floats are skipped of the 32 or more beyond `len`.
        unsafe { std::slice::from_raw_parts(p.add(p.align_offset(64)), self.1) }
    }
}

impl std::ops::DerefMut for Floats {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as in `deref`, and the borrow is unique.
        unsafe { std::slice::from_raw_parts_mut(self.as_mut_ptr(), self.1) }
    }
}

/// The digits of packed floats, where the machine works with them.
fn digits(isa: Isa, k: usize, packed: &Floats) -> Floats {
    if isa < Isa::Amx {
        return Floats::new(0.0, 0);
    }
    let panels = packed.len() / (k * PANEL);
    let mut out = Floats::bytes(panels * digits_len(k));
    for i in 0..panels {
        // SAFETY: both hold as many panels.
        unsafe { pack_digits(k, packed[i * k * PANEL..].as_ptr(), out.as_mut_ptr().cast::<u8>().add(i * digits_len(k))) };
    }
    out
}

/// Packed floats with their digits.
fn panels(packed: &Floats, digits: &Floats) -> Panels {
    Panels { digits: if digits.is_empty() { std::ptr::null() } else { digits.as_ptr().cast() }, ..Panels::of(packed.as_ptr()) }
}

/// What bounds a product of that many rows and columns whose right side has digits where the machine works with them.
fn bound(isa: Isa, rows: usize, columns: usize) -> Bound {
    match isa == Isa::Amx && rows >= DIGIT_LEAST[0] && columns >= DIGIT_LEAST[1] {
        true => Bound::Digits,
        false => Bound::Floats,
    }
}

/// Matrix products of f32: by packed matrices, of two computed operands, and of one row, which reads its matrix from memory.
pub(crate) fn products(bench: &mut Bench) {
    let isa = bench.isa;
    for (m, n, k, pitch) in [
        (3136, 64, 64, 64),
        (784, 128, 512, 512),
        (196, 1024, 256, 256),
        (49, 512, 2048, 2048),
        (128, 768, 768, 768),
        (128, 3072, 768, 768),
        (128, 768, 3072, 3072),
        (128, 768, 3072, 3088),
        (1, 1000, 2048, 2048),
        (1, 50257, 768, 768),
    ] {
        let gemm = Gemm { m, n, k, a_row: pitch, a_col: 1, ldc: n };
        // One row takes every float of the matrix once.
        let matrix = 4 * packed_len(k, n);
        let (bound, family, work) = match m {
            1 if matrix > 4 << 20 => (Bound::Far, "gemv", matrix),
            _ => (bound(isa, m, n), "gemm", 2 * m * n * k),
        };
        bench.measure(bound, family, &format!("{m}x{n}x{k} pitch {pitch}"), work, |b| {
            let a = Floats::new(0.1, m * pitch);
            let right = Floats::new(0.1, k * n);
            let mut packed = Floats::new(0.0, packed_len(k, n));
            let bias = Floats::new(0.1, n.next_multiple_of(PANEL));
            let mut c = Floats::new(0.0, m * n);
            let mut scratch = Floats::new(0.0, gemm.scratch_floats());
            // SAFETY: the arrays have the sizes that the kernel asks for.
            unsafe { pack_b(isa, k, n, right.as_ptr(), n, 1, packed.as_mut_ptr()) };
            let digits = digits(isa, k, &packed);
            let right = panels(&packed, &digits);
            b.iter(|| {
                for task in 0..gemm.tasks() {
                    // SAFETY: as above.
                    unsafe {
                        gemm.run_task(isa, task, a.as_ptr(), right, bias.as_ptr(), c.as_mut_ptr(), scratch.as_mut_ptr(), Finish::NONE, None)
                    };
                }
            });
        });
    }
    for (name, n, k, b_row, b_col) in [("Q K^T", 128, 64, 1, 768), ("P V", 64, 128, 768, 1)] {
        let matmul = MatMul { m: 128, n, k, a_row: if k == 64 { 768 } else { 128 }, a_col: 1, b_row, b_col, ldc: 768 };
        bench.measure(Bound::Floats, "matmul", name, 2 * 128 * n * k, |bencher| {
            let (a, b) = (Floats::new(0.1, 128 * 768), Floats::new(0.1, 128 * 768));
            let mut c = Floats::new(0.0, 128 * 768);
            let mut scratch = Floats::new(0.0, matmul.scratch_floats());
            bencher.iter(|| {
                for task in 0..matmul.tasks() {
                    let (a, b, c, scratch) = (a.as_ptr(), b.as_ptr(), c.as_mut_ptr(), scratch.as_mut_ptr());
                    // SAFETY: the arrays have the sizes that the kernel asks for.
                    unsafe { matmul.run_task(isa, task, a, b, std::ptr::null(), c, scratch, None) };
                }
            });
        });
    }
}

/// Products of few rows by weights of few bits, in the second-level cache and in memory.
pub(crate) fn narrow(bench: &mut Bench) {
    let isa = bench.isa;
    let blocks = |bits: usize| Coding::Blocks { bits, block: 32 };
    for (m, n, k, coding) in [
        (1, 2048, 768, blocks(4)),
        (4, 2048, 768, blocks(4)),
        (8, 2048, 768, blocks(4)),
        (1, 1024, 768, blocks(8)),
        (1, 512, 768, Coding::Bf16),
        (1, 512, 768, Coding::Fixed),
        (1, 50257, 768, blocks(4)),
        (1, 50257, 768, blocks(8)),
        (1, 50257, 768, Coding::Bf16),
        (1, 50257, 768, Coding::Fixed),
        (64, 3072, 768, blocks(4)),
    ] {
        let gemm = Gemm { m, n, k, a_row: k, a_col: 1, ldc: n };
        let narrow = Narrow { gemm, coding, digits: true };
        let scales = if let Coding::Blocks { block, .. } = coding { n.next_multiple_of(PANEL) * narrow::blocks(k, block) } else { 0 };
        let matrix = narrow::packed_len(k, n, coding) + 4 * scales;
        let (bound, work) = match m {
            64 => (Bound::Floats, 2 * m * n * k),
            _ if matrix > 4 << 20 => (Bound::Far, matrix),
            _ => (Bound::Near, matrix),
        };
        bench.measure(bound, "narrow", &format!("{m}x{n}x{k} {coding:?}"), work, |b| {
            let a = Floats::new(0.1, m * k);
            let (codes, scales) = (Floats::bytes(narrow::packed_len(k, n, coding)), Floats::new(0.1, scales));
            let weights = Coded { codes: codes.as_ptr().cast(), scales: scales.as_ptr(), zeros: Zeros::Same(8) };
            let bias = Floats::new(0.1, n.next_multiple_of(PANEL));
            let mut c = Floats::new(0.0, m * n);
            let mut scratch = Floats::new(0.0, narrow.scratch_floats());
            b.iter(|| {
                for task in 0..narrow.tasks() {
                    let (a, bias, c, scratch) = (a.as_ptr(), bias.as_ptr(), c.as_mut_ptr(), scratch.as_mut_ptr());
                    // SAFETY: the arrays have the sizes that the kernel asks for.
                    unsafe { narrow.run_task(isa, task, a, weights, bias, c, scratch, Finish::NONE, None) };
                }
            });
        });
    }
}

/// A square channels-last convolution as ResNet and MobileNet have them.
fn layer(hw: usize, c: usize, k: usize, window: usize, stride: usize, groups: usize, channels_first: bool) -> Conv {
    let out = (hw + 2 * (window / 2) - window) / stride + 1;
    let x_strides = if channels_first { [c * hw * hw, hw * hw, 0, hw, 1] } else { [c * hw * hw, 1, 0, hw * c, c] };
    Conv {
        n: 1,
        c,
        in_dims: [1, hw, hw],
        k,
        kernel: [1, window, window],
        stride: [1, stride, stride],
        pad: [0, window / 2, window / 2],
        dilation: [1; 3],
        out_dims: [1, out, out],
        groups,
        x_strides,
        out_pitch: k,
        out_batch: out * out * k,
    }
}

/// Operations of a convolution by its definition.
fn operations(conv: &Conv) -> usize {
    let taps = conv.kernel[1] * conv.kernel[2];
    2 * conv.k * conv.c / conv.groups * taps * conv.out_dims[1] * conv.out_dims[2]
}

/// Convolutions of f32: direct ones, each channel alone, and by Winograd's filtering.
pub(crate) fn convolutions(bench: &mut Bench) {
    let isa = bench.isa;
    for (name, conv) in [
        ("7x7 s2 224 3-64 planes", layer(224, 3, 64, 7, 2, 1, true)),
        ("3x3 56 64", layer(56, 64, 64, 3, 1, 1, false)),
        ("3x3 28 128", layer(28, 128, 128, 3, 1, 1, false)),
        ("3x3 14 256", layer(14, 256, 256, 3, 1, 1, false)),
        ("3x3 7 512", layer(7, 512, 512, 3, 1, 1, false)),
        ("3x3 s2 56 128", layer(56, 128, 128, 3, 2, 1, false)),
        ("1x1 56 256-64", layer(56, 256, 64, 1, 1, 1, false)),
        ("1x1 14 1024-256", layer(14, 1024, 256, 1, 1, 1, false)),
        ("1x1 s2 14 1024-2048", layer(14, 1024, 2048, 1, 2, 1, false)),
        ("3x3 56 128 groups 32", layer(56, 128, 128, 3, 1, 32, false)),
    ] {
        let bound = bound(isa, conv.out_dims[1] * conv.out_dims[2], conv.k / conv.groups);
        bench.measure(bound, "conv", name, operations(&conv), |b| {
            let x = Floats::new(0.1, conv.c * conv.in_dims[1] * conv.in_dims[2]);
            let taps = conv.kernel[1] * conv.kernel[2];
            let weights = Floats::new(0.1, conv.k * conv.c / conv.groups * taps);
            let bias = Floats::new(0.1, conv.k.next_multiple_of(PANEL));
            let mut out = Floats::new(0.0, conv.out_batch);
            let mut packed = Floats::new(0.0, conv.packed_len());
            conv.pack_weights(&weights, &mut packed);
            let mut scratch = Floats::new(0.0, conv.scratch_floats());
            let digits = digits(isa, taps * conv.c / conv.groups, &packed);
            let w = panels(&packed, &digits);
            b.iter(|| {
                for task in 0..conv.tasks() {
                    let (x, bias) = (x.as_ptr(), bias.as_ptr());
                    // SAFETY: the arrays have the sizes that the kernel asks for.
                    unsafe { conv.run_task(isa, task, x, w, bias, out.as_mut_ptr(), scratch.as_mut_ptr(), Finish::NONE, None) };
                }
            });
        });
    }
    for (name, conv) in [
        ("3x3 112 32", layer(112, 32, 32, 3, 1, 32, false)),
        ("3x3 s2 56 144", layer(56, 144, 144, 3, 2, 144, false)),
        ("3x3 14 384", layer(14, 384, 384, 3, 1, 384, false)),
        ("3x3 7 960", layer(7, 960, 960, 3, 1, 960, false)),
    ] {
        bench.measure(Bound::Floats, "depthwise", name, operations(&conv), |b| {
            let (conv, x) = (Depthwise(conv), Floats::new(0.1, conv.c * conv.in_dims[1] * conv.in_dims[2]));
            let mut packed = Floats::new(0.0, conv.packed_len());
            conv.pack_weights(&Floats::new(0.1, conv.0.k * 9), &mut packed);
            let bias = Floats::new(0.1, conv.0.k.next_multiple_of(PANEL));
            let mut out = Floats::new(0.0, conv.0.out_batch);
            b.iter(|| {
                for task in 0..conv.tasks() {
                    // SAFETY: the arrays have the sizes that the kernel asks for.
                    unsafe { conv.run_task(isa, task, x.as_ptr(), packed.as_ptr(), bias.as_ptr(), out.as_mut_ptr(), Finish::NONE, None) };
                }
            });
        });
    }
    for (hw, c) in [(56, 64), (28, 128), (14, 256), (7, 512)] {
        for m in [2, 4] {
            let conv = layer(hw, c, c, 3, 1, 1, false);
            let winograd = Winograd { conv, m };
            // Operations that are left of the direct sum's: those of the products of tiles.
            let tiles = conv.out_dims[1].div_ceil(m) * conv.out_dims[2].div_ceil(m);
            let left = 2 * tiles * (m + 2) * (m + 2) * c * c;
            bench.measure(Bound::Floats, "winograd", &format!("F({m}, 3) {hw} {c}"), left, |b| {
                let x = Floats::new(0.1, c * hw * hw);
                let mut packed = Floats::new(0.0, winograd.packed_len());
                winograd.pack_weights(&Floats::new(0.1, c * c * 9), &mut packed);
                let bias = Floats::new(0.1, c.next_multiple_of(PANEL));
                let (mut out, mut scratch) = (Floats::new(0.0, conv.out_batch), Floats::new(0.0, winograd.scratch_floats()));
                b.iter(|| {
                    for task in 0..winograd.tasks() {
                        let (x, w, bias) = (x.as_ptr(), packed.as_ptr(), bias.as_ptr());
                        // SAFETY: the arrays have the sizes that the kernel asks for.
                        unsafe { winograd.run_task(isa, task, x, w, bias, out.as_mut_ptr(), scratch.as_mut_ptr(), Finish::NONE, None) };
                    }
                });
            });
        }
    }
}

/// Products and convolutions of bytes.
pub(crate) fn bytes(bench: &mut Bench) {
    let isa = bench.isa;
    for (m, n, k) in [(128, 768, 768), (128, 3072, 768), (3136, 64, 256), (1, 1000, 2048)] {
        let gemm = IntGemm { m, n, k, a_row: k, ldc: n };
        bench.measure(Bound::Bytes, "igemm", &format!("{m}x{n}x{k}"), 2 * m * n * k, |b| {
            let a = Floats::bytes(m * k);
            let mut packed = vec![0u8; igemm::packed_len(k, n)];
            igemm::pack_rows(k, n, &vec![3u8; k * n], false, &mut packed);
            let (mut out, mut scratch) = (Floats::new(0.0, m * n), Floats::new(0.0, gemm.scratch_floats()));
            b.iter(|| {
                for task in 0..gemm.tasks() {
                    let (a, w, out) = (a.as_ptr().cast(), packed.as_ptr(), out.as_mut_ptr().cast());
                    // SAFETY: the arrays have the sizes that the kernel asks for.
                    unsafe { gemm.run_task(isa, task, a, 7, w, std::ptr::null(), out, scratch.as_mut_ptr(), None) };
                }
            });
        });
    }
    for (name, conv) in [
        ("3x3 56 64", layer(56, 64, 64, 3, 1, 1, false)),
        ("3x3 14 256", layer(14, 256, 256, 3, 1, 1, false)),
        ("1x1 14 1024-256", layer(14, 1024, 256, 1, 1, 1, false)),
        ("3x3 56 144 alone", layer(56, 144, 144, 3, 1, 144, false)),
    ] {
        let alone = conv.groups > 1;
        let Conv { n, c, in_dims, k, kernel, stride, pad, dilation, out_dims, x_strides, out_pitch, out_batch, .. } = conv;
        let g = IntConv { n, c, in_dims, k, kernel, stride, pad, dilation, out_dims, x_strides, out_pitch, out_batch, shifted: false };
        let each = IntDepthwise { conv: g, wide: false };
        bench.measure(Bound::Bytes, "iconv", name, operations(&conv), |b| {
            let x = Floats::bytes(c * in_dims[1] * in_dims[2]);
            let count = k * c / conv.groups * kernel[1] * kernel[2];
            let mut out = Floats::new(0.0, out_batch);
            let (len, floats) = match alone {
                true => (each.packed_len(), each.scratch_floats()),
                false => (g.packed_len(), g.scratch_floats()),
            };
            let (mut packed, mut scratch) = (vec![0u8; len], Floats::new(0.0, floats));
            if alone {
                each.pack_weights(&vec![3; count], &mut packed)
            } else {
                g.pack_weights(&vec![3; count], &mut packed)
            }
            b.iter(|| {
                for task in 0..if alone { each.tasks() } else { g.tasks() } {
                    let (x, w, out, scratch) = (x.as_ptr().cast(), packed.as_ptr(), out.as_mut_ptr().cast(), scratch.as_mut_ptr());
                    // SAFETY: the arrays have the sizes that the kernel asks for.
                    unsafe {
                        match alone {
                            true => each.run_task(isa, task, x, 7, w, out, scratch, None),
                            false => g.run_task(isa, task, x, 7, w, std::ptr::null(), out, scratch, None),
                        }
                    }
                }
            });
        });
    }
}

/// Kernels that bytes bound: over rows, copies and pools, whose operands the second-level cache holds.
pub(crate) fn rows(bench: &mut Bench) {
    let isa = bench.isa;
    let mut measure = |family: &str, shape: &str, floats: [usize; 2], f: &dyn Fn(*const f32, *mut f32)| {
        let [read, written] = floats;
        bench.measure(Bound::Near, family, shape, 4 * (read + written), |b| {
            let (x, mut out) = (Floats::new(0.1, read), Floats::new(0.0, written));
            b.iter(|| f(x.as_ptr(), out.as_mut_ptr()));
        });
    };
    measure("softmax", "1536x128", [1536 * 128; 2], &|x, out| {
        // SAFETY: both arrays hold the rows.
        unsafe { softmax(isa, x, 128, out, 128, 1536, 128) }
    });
    let norm = Rows { rows: 128, n: 768, x_pitch: 768, out_pitch: 768, epsilon: 1e-5 };
    measure("norm", "layer 128x768", [128 * 768; 2], &|x, out| {
        // SAFETY: both arrays hold the rows, of which the first stands for scale and bias too.
        unsafe { layer_norm(isa, norm, x, x, x, out, std::ptr::null_mut()) }
    });
    let plan = Copy::new(&[56 * 56, 64], &[64, 1], &[1, 56 * 56]).expect("two axes");
    measure("transpose", "NCHW to NHWC 64x56x56", [56 * 56 * 64; 2], &|x, out| {
        for task in 0..plan.tasks() {
            // SAFETY: both arrays hold the elements.
            unsafe { plan.run_task(isa, task, x, out) };
        }
    });
    let pool = Pool {
        kind: Kind::Max,
        n: 1,
        c: 64,
        in_dims: [1, 56, 56],
        kernel: [1, 3, 3],
        stride: [1, 2, 2],
        pad: [0, 1, 1],
        pad_end: [0, 0, 0],
        dilation: [1; 3],
        out_dims: [1, 28, 28],
        x_strides: [0, 0, 56 * 64, 64],
        out_pitch: 64,
        out_batch: 0,
    };
    measure("pool", "max 3x3 s2 56x56x64", [56 * 56 * 64, 28 * 28 * 64], &|x, out| {
        for task in 0..pool.tasks() {
            // SAFETY: the arrays hold the image and the result.
            unsafe { pool.run_task(isa, task, x, out) };
        }
    });
}
