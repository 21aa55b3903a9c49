//! Prints this machine's multiply-add peak and the speed of the kernels on shapes of ResNet-50 and BERT, one thread; arguments choose by name.

use kiln_kernels::conv::Conv;
use kiln_kernels::depthwise::Depthwise;
use kiln_kernels::gemm::{Finish, Gemm, MatMul, PANEL, Panels, digits_len, pack_b, pack_digits, packed_len};
use kiln_kernels::isa::Isa;
use kiln_kernels::norm::{Rows, layer_norm};
use kiln_kernels::pool::{Kind, Pool};
use kiln_kernels::softmax::softmax;
use kiln_kernels::transpose::Copy;
use std::time::Instant;

/// Floats that start at a line of the cache, as those of an arena do.
struct Floats(Vec<[f32; 32]>, usize);

impl Floats {
    fn new(value: f32, len: usize) -> Floats {
        Floats(vec![[value; 32]; len / 32 + 2], len)
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
    let mut out = Floats::new(0.0, panels * digits_len(k) / 4);
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

/// Whether every argument of the command is part of a measurement's name, which starts with the instruction set's.
fn wanted(isa: Isa, name: &str) -> bool {
    let name = format!("{} {name}", isa.name());
    std::env::args().skip(1).all(|part| name.contains(&part))
}

/// Seconds of one call, the best of several.
fn best(mut f: impl FnMut()) -> f64 {
    f();
    let mut least = f64::INFINITY;
    let start = Instant::now();
    while start.elapsed().as_secs_f64() < 0.15 {
        let t = Instant::now();
        f();
        least = least.min(t.elapsed().as_secs_f64());
    }
    least
}

/// GFLOP/s of multiply-adds that never leave the registers; 0 where that has no measurement.
#[cfg(target_arch = "x86_64")]
fn peak(isa: Isa) -> f64 {
    use std::arch::x86_64::*;
    use std::hint::black_box;
    const ROUNDS: usize = 200_000;
    macro_rules! chains {
        ($name:ident, $features:literal, $splat:ident, $op:expr, $count:literal) => {
            #[target_feature(enable = $features)]
            fn $name() {
                // Independent chains hide the latency of the ports.
                let mut acc = [$splat(1.0); $count];
                let m = $splat(black_box(0.5));
                for _ in 0..ROUNDS {
                    for v in &mut acc {
                        *v = $op(*v, m, m);
                    }
                }
                black_box(acc);
            }
        };
    }
    chains!(chains_sse, "sse2", _mm_set1_ps, |a, b, c| _mm_add_ps(_mm_mul_ps(a, b), c), 12);
    chains!(chains_avx2, "avx2,fma", _mm256_set1_ps, _mm256_fmadd_ps, 12);
    chains!(chains_avx512, "avx512f", _mm512_set1_ps, _mm512_fmadd_ps, 24);
    // SAFETY: the machine has `isa`.
    let t = best(|| unsafe {
        match isa {
            Isa::Portable => chains_sse(),
            Isa::Avx2 => chains_avx2(),
            Isa::Avx512 | Isa::Amx => chains_avx512(),
        }
    });
    let floats = match isa {
        Isa::Portable => 4 * 12,
        Isa::Avx2 => 8 * 12,
        Isa::Avx512 | Isa::Amx => 16 * 24,
    };
    2.0 * (floats * ROUNDS) as f64 / t / 1e9
}

/// GFLOP/s of multiply-adds that never leave the registers; 0 where that has no measurement.
#[cfg(not(target_arch = "x86_64"))]
fn peak(_: Isa) -> f64 {
    0.0
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

fn main() {
    for isa in Isa::available() {
        let top = peak(isa);
        println!("{}: peak {top:.1} GFLOP/s", isa.name());
        let report = |name: String, flops: f64, t: f64| {
            let rate = flops / t / 1e9;
            println!("  {name:34} {rate:7.1} GFLOP/s {:4.0}%  {:9.1} us", rate / top * 100.0, t * 1e6);
        };
        for (m, n, k, pitch) in [
            (3136, 64, 64, 64),
            (3136, 256, 64, 64),
            (3136, 64, 256, 256),
            (784, 128, 512, 512),
            (784, 512, 128, 128),
            (196, 256, 1024, 1024),
            (196, 1024, 256, 256),
            (49, 512, 2048, 2048),
            (49, 2048, 512, 512),
            (1, 1000, 2048, 2048),
            (128, 768, 768, 768),
            (128, 3072, 768, 768),
            (128, 768, 3072, 3072),
            (128, 768, 3072, 3088),
            (196, 256, 1024, 1040),
            (49, 512, 2048, 2064),
        ] {
            if !wanted(isa, &format!("gemm {m}x{n}x{k} pitch {pitch}")) {
                continue;
            }
            let gemm = Gemm { m, n, k, a_row: pitch, a_col: 1, ldc: n };
            let a = Floats::new(0.1, m * pitch);
            let b = Floats::new(0.1, k * n);
            let mut packed = Floats::new(0.0, packed_len(k, n));
            let bias = Floats::new(0.1, n.next_multiple_of(16));
            let mut c = Floats::new(0.0, m * n);
            let mut scratch = Floats::new(0.0, gemm.scratch_floats());
            // SAFETY: the arrays have the sizes that the kernel asks for.
            unsafe { pack_b(isa, k, n, b.as_ptr(), n, 1, packed.as_mut_ptr()) };
            let digits = digits(isa, k, &packed);
            let b = panels(&packed, &digits);
            let t = best(|| {
                for task in 0..gemm.tasks() {
                    // SAFETY: as above.
                    unsafe {
                        gemm.run_task(isa, task, a.as_ptr(), b, bias.as_ptr(), c.as_mut_ptr(), scratch.as_mut_ptr(), Finish::NONE, None)
                    };
                }
            });
            report(format!("gemm {m}x{n}x{k} pitch {pitch} ({} tasks)", gemm.tasks()), 2.0 * (m * n * k) as f64, t);
        }
        for (name, conv) in [
            ("stem 7x7 s2 NCHW", layer(224, 3, 64, 7, 2, 1, true)),
            ("3x3 56 64", layer(56, 64, 64, 3, 1, 1, false)),
            ("3x3 28 128", layer(28, 128, 128, 3, 1, 1, false)),
            ("3x3 14 256", layer(14, 256, 256, 3, 1, 1, false)),
            ("3x3 7 512", layer(7, 512, 512, 3, 1, 1, false)),
            ("3x3 s2 56 128", layer(56, 128, 128, 3, 2, 1, false)),
            ("3x3 s2 14 512", layer(14, 512, 512, 3, 2, 1, false)),
            ("1x1 56 256-64", layer(56, 256, 64, 1, 1, 1, false)),
            ("1x1 14 1024-256", layer(14, 1024, 256, 1, 1, 1, false)),
            ("1x1 s2 56 256-512", layer(56, 256, 512, 1, 2, 1, false)),
            ("1x1 s2 14 1024-2048", layer(14, 1024, 2048, 1, 2, 1, false)),
            ("3x3 56 128 groups 32", layer(56, 128, 128, 3, 1, 32, false)),
            ("depthwise 3x3 112 32", layer(112, 32, 32, 3, 1, 32, false)),
            ("depthwise 3x3 s2 56 144", layer(56, 144, 144, 3, 2, 144, false)),
            ("depthwise 3x3 14 384", layer(14, 384, 384, 3, 1, 384, false)),
            ("depthwise 3x3 7 960", layer(7, 960, 960, 3, 1, 960, false)),
        ] {
            if !wanted(isa, name) {
                continue;
            }
            let x = Floats::new(0.1, conv.c * conv.in_dims[1] * conv.in_dims[2]);
            let taps = conv.kernel[1] * conv.kernel[2];
            let weights = Floats::new(0.1, conv.k * conv.c / conv.groups * taps);
            let bias = Floats::new(0.1, conv.k.next_multiple_of(16));
            let mut out = Floats::new(0.0, conv.out_batch);
            let flops = 2.0 * (weights.len() * conv.out_dims[1] * conv.out_dims[2]) as f64;
            let (t, tasks) = if conv.groups == conv.c {
                let conv = Depthwise(conv);
                let mut packed = Floats::new(0.0, conv.packed_len());
                conv.pack_weights(&weights, &mut packed);
                let t = best(|| {
                    for task in 0..conv.tasks() {
                        // SAFETY: the arrays have the sizes that the kernel asks for.
                        unsafe {
                            conv.run_task(isa, task, x.as_ptr(), packed.as_ptr(), bias.as_ptr(), out.as_mut_ptr(), Finish::NONE, None)
                        };
                    }
                });
                (t, conv.tasks())
            } else {
                let mut packed = Floats::new(0.0, conv.packed_len());
                conv.pack_weights(&weights, &mut packed);
                let mut scratch = Floats::new(0.0, conv.scratch_floats());
                let digits = digits(isa, taps * conv.c / conv.groups, &packed);
                let w = panels(&packed, &digits);
                let t = best(|| {
                    for task in 0..conv.tasks() {
                        let (x, w, b) = (x.as_ptr(), w, bias.as_ptr());
                        // SAFETY: the arrays have the sizes that the kernel asks for.
                        unsafe { conv.run_task(isa, task, x, w, b, out.as_mut_ptr(), scratch.as_mut_ptr(), Finish::NONE, None) };
                    }
                });
                (t, conv.tasks())
            };
            report(format!("{name} ({tasks} tasks)"), flops, t);
        }
        for (name, n, k, b_row, b_col) in [("Q K^T", 128, 64, 1, 768), ("P V", 64, 128, 768, 1)] {
            if !wanted(isa, &format!("attention {name}")) {
                continue;
            }
            let matmul = MatMul { m: 128, n, k, a_row: if k == 64 { 768 } else { 128 }, a_col: 1, b_row, b_col, ldc: 768 };
            let a = Floats::new(0.1, 128 * 768);
            let b = Floats::new(0.1, 128 * 768);
            let mut c = Floats::new(0.0, 128 * 768);
            let mut scratch = Floats::new(0.0, matmul.scratch_floats());
            let t = best(|| {
                for task in 0..matmul.tasks() {
                    // SAFETY: the arrays have the sizes that the kernel asks for.
                    unsafe {
                        matmul.run_task(isa, task, a.as_ptr(), b.as_ptr(), std::ptr::null(), c.as_mut_ptr(), scratch.as_mut_ptr(), None)
                    };
                }
            });
            report(format!("attention {name}"), 2.0 * (128 * n * k) as f64, t);
        }
        let x = Floats::new(0.1, 128 * 3072);
        let mut out = Floats::new(0.0, 128 * 3072);
        let mut bytes = |name: &str, floats: usize, f: &mut dyn FnMut(*const f32, *mut f32)| {
            if !wanted(isa, name) {
                return;
            }
            let t = best(|| f(x.as_ptr(), out.as_mut_ptr()));
            println!("  {name:42} {:7.1} Gelem/s        {:9.1} us", floats as f64 / t / 1e9, t * 1e6);
        };
        // SAFETY: both arrays hold 128 x 3072 floats, and no kernel here takes more.
        unsafe {
            bytes("softmax 1536x128", 1536 * 128, &mut |x, out| softmax(isa, x, 128, out, 128, 1536, 128));
            let rows = Rows { rows: 128, n: 768, x_pitch: 768, out_pitch: 768, epsilon: 1e-5 };
            bytes("layer norm 128x768", 128 * 768, &mut |x, out| layer_norm(isa, rows, x, x, x, out, std::ptr::null_mut()));
            let plan = Copy::new(&[56 * 56, 64], &[64, 1], &[1, 56 * 56]).expect("two axes");
            bytes("NCHW to NHWC 64x56x56", 64 * 56 * 56, &mut |x, out| {
                (0..plan.tasks()).for_each(|task| plan.run_task(isa, task, x, out));
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
            bytes("max pool 3x3 s2 56x56x64, outputs", 28 * 28 * 64, &mut |x, out| {
                (0..pool.tasks()).for_each(|task| pool.run_task(isa, task, x, out));
            });
        }
    }
}
