//! Prints this machine's multiply-add peak and the speed of the kernels on shapes of ResNet-50 and BERT, one thread.

use kiln_kernels::gemm::{Gemm, MatMul, pack_b, packed_len};
use kiln_kernels::isa::Isa;
use std::time::Instant;

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

/// Multiply-adds that never leave the registers: a tile of one row of A that is read again and again.
fn peak(isa: Isa) -> f64 {
    // 14 rows, 32 columns and a depth that stays in the first-level cache.
    let (m, n, k) = (84, 32, 128);
    let gemm = Gemm { m, n, k, a_row: k + 16, a_col: 1, ldc: n };
    let a = vec![1.0f32; m * (k + 16)];
    let b = vec![0.5f32; packed_len(k, n)];
    let mut c = vec![0.0f32; m * n];
    let t = best(|| {
        for _ in 0..20 {
            for task in 0..gemm.tasks() {
                // SAFETY: the arrays have the sizes that the kernel asks for.
                unsafe {
                    gemm.run_task(isa, task, a.as_ptr(), b.as_ptr(), std::ptr::null(), c.as_mut_ptr(), std::ptr::null_mut(), None);
                }
            }
        }
    });
    20.0 * 2.0 * (m * n * k) as f64 / t / 1e9
}

fn main() {
    for isa in Isa::available() {
        let top = peak(isa);
        println!("{}: tile in L1 {top:.1} GFLOP/s", isa.name());
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
        ] {
            let gemm = Gemm { m, n, k, a_row: pitch, a_col: 1, ldc: n };
            let a = vec![0.1f32; m * pitch];
            let b = vec![0.1f32; k * n];
            let mut packed = vec![0f32; packed_len(k, n)];
            let bias = vec![0.1f32; n.next_multiple_of(16)];
            let mut c = vec![0f32; m * n];
            let mut scratch = vec![0f32; gemm.scratch_floats()];
            // SAFETY: the arrays have the sizes that the kernel asks for.
            unsafe { pack_b(isa, k, n, b.as_ptr(), n, 1, packed.as_mut_ptr()) };
            let t = best(|| {
                for task in 0..gemm.tasks() {
                    // SAFETY: as above.
                    unsafe {
                        gemm.run_task(isa, task, a.as_ptr(), packed.as_ptr(), bias.as_ptr(), c.as_mut_ptr(), scratch.as_mut_ptr(), None)
                    };
                }
            });
            report(format!("gemm {m}x{n}x{k} ({} tasks)", gemm.tasks()), 2.0 * (m * n * k) as f64, t);
        }
        for (name, n, k, b_row, b_col) in [("Q K^T", 128, 64, 1, 768), ("P V", 64, 128, 768, 1)] {
            let matmul = MatMul { m: 128, n, k, a_row: if k == 64 { 768 } else { 128 }, a_col: 1, b_row, b_col, ldc: 768 };
            let a = vec![0.1f32; 128 * 768];
            let b = vec![0.1f32; 128 * 768];
            let mut c = vec![0f32; 128 * 768];
            let mut scratch = vec![0f32; matmul.scratch_floats()];
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
    }
}
