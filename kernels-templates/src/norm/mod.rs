//! Normalizations by rows: layer norm, RMS norm and Lp norms over the last axes, and norms of groups of channels.

use crate::isa::Isa;
use crate::kernel_fn;
use crate::reduce::{Fold, fold_rows};
use crate::support::lanes;

mod pixels;
mod response;

pub use pixels::Pixels;
pub use response::Response;

/// Rows of `n` floats to be normalized: the arguments that the kernels here share.
#[derive(Clone, Copy, Debug)]
pub struct Rows {
    /// Number of rows.
    pub rows: usize,
    /// Floats of a row.
    pub n: usize,
    /// Floats from one row of the input to the next.
    pub x_pitch: usize,
    /// Floats from one row of the output to the next.
    pub out_pitch: usize,
    /// Added to the variance (or the mean square).
    pub epsilon: f32,
}

/// The mean of a row, and its inverse standard deviation.
///
/// # Safety
/// `x` addresses such a row, and the machine has `isa`.
unsafe fn moments(isa: Isa, s: Rows, x: *const f32) -> [f32; 2] {
    let n = s.n as f32;
    // SAFETY: passed on from the caller.
    unsafe {
        let mean = lanes::sum(isa, x, s.n) / n;
        [mean, 1.0 / (lanes::squares(isa, x, s.n, mean) / n + s.epsilon).sqrt()]
    }
}

/// `(x - mean) / sqrt(variance + epsilon) * scale + bias` of each row; `scale` and `bias` hold `n` floats or are null.
/// `stats`, unless null, receives the mean and the inverse standard deviation of each row. In place where `out` is `x`.
///
/// The variance is that of the distances from the mean (two passes), in sixteen-lane sums: close to f64's for rows of
/// any practical length. Ranges of rows are independent tasks.
///
/// # Safety
/// The pointers address such rows, equal or not overlapping, and the machine has `isa`.
pub unsafe fn layer_norm(isa: Isa, s: Rows, x: *const f32, scale: *const f32, bias: *const f32, out: *mut f32, stats: *mut [f32; 2]) {
    for r in 0..s.rows {
        // SAFETY: a row that the caller vouches for.
        unsafe {
            let (x, out) = (x.add(r * s.x_pitch), out.add(r * s.out_pitch));
            let [mean, inverse] = moments(isa, s, x);
            if !stats.is_null() {
                *stats.add(r) = [mean, inverse];
            }
            normalize(isa, x, s.n, mean, inverse, scale, bias, out);
        }
    }
}

/// `x / sqrt(mean(x²) + epsilon) * scale` of each row; `scale` holds `n` floats or is null. In place where `out` is `x`.
///
/// # Safety
/// As [`layer_norm`].
pub unsafe fn rms_norm(isa: Isa, s: Rows, x: *const f32, scale: *const f32, out: *mut f32) {
    for r in 0..s.rows {
        // SAFETY: a row that the caller vouches for.
        unsafe {
            let (x, out) = (x.add(r * s.x_pitch), out.add(r * s.out_pitch));
            let inverse = 1.0 / (lanes::squares(isa, x, s.n, 0.0) / s.n as f32 + s.epsilon).sqrt();
            normalize(isa, x, s.n, 0.0, inverse, scale, core::ptr::null(), out);
        }
    }
}

/// `(x - mean) / sqrt(variance + epsilon) * scale + bias` of each row, which is `channels` channels of `s.n / channels` floats:
/// a group of an image. `scale` and `bias` hold a float for each channel of the image, which has `groups` groups; the first row
/// is group `first` when they are counted over all images. The mean and the variance are those of [`layer_norm`].
///
/// # Safety
/// As [`layer_norm`]; `scale` and `bias` hold `groups * channels` floats.
pub unsafe fn group_norm(
    isa: Isa,
    s: Rows,
    [groups, channels, first]: [usize; 3],
    x: *const f32,
    scale: *const f32,
    bias: *const f32,
    out: *mut f32,
) {
    let inner = s.n.checked_div(channels).unwrap_or(0);
    for r in 0..s.rows {
        // SAFETY: a row that the caller vouches for, and its channels.
        unsafe {
            let (x, out) = (x.add(r * s.x_pitch), out.add(r * s.out_pitch));
            let [mean, inverse] = moments(isa, s, x);
            let start = (first + r) % groups * channels;
            channels_of(isa, x, channels, inner, mean, inverse, scale.add(start), bias.add(start), out);
        }
    }
}

/// Each row divided by its norm, [`Fold::L1`] or [`Fold::L2`], or by `floor` where that is greater; zeros where both are 0. `x` and `out`
/// have `rows` rows of `n` floats, `x_pitch` and `out_pitch` apart. In place where `out` is `x`. The norm is as exact as the plain kernel's,
/// and a division rounds once.
///
/// # Safety
/// As [`layer_norm`].
pub unsafe fn lp_norm(
    isa: Isa,
    norm: Fold,
    floor: f32,
    x: *const f32,
    x_pitch: usize,
    out: *mut f32,
    out_pitch: usize,
    rows: usize,
    n: usize,
) {
    for r in 0..rows {
        let mut by = 0f32;
        // SAFETY: a row that the caller vouches for.
        unsafe {
            let (x, out) = (x.add(r * x_pitch), out.add(r * out_pitch));
            fold_rows(isa, norm, x, 0, &mut by, 1, 1, n);
            // A NaN is not raised to the floor; a row whose norm is 0 is zeros.
            let by = if by < floor { floor } else { by };
            divide(isa, x, n, if by == 0.0 { 1.0 } else { by }, out);
        }
    }
}

kernel_fn! {
    fn divide<A>(x: *const f32, n: usize, by: f32, out: *mut f32) {
        for i in 0..n {
            *out.add(i) = *x.add(i) / by;
        }
    }

    fn channels_of<A>(
        x: *const f32, channels: usize, inner: usize, mean: f32, inverse: f32, scale: *const f32, bias: *const f32, out: *mut f32,
    ) {
        for c in 0..channels {
            let (x, out) = (x.add(c * inner), out.add(c * inner));
            let (scale, bias) = (*scale.add(c), *bias.add(c));
            for i in 0..inner {
                *out.add(i) = A::mul_add((*x.add(i) - mean) * inverse, scale, bias);
            }
        }
    }

    fn normalize<A>(x: *const f32, n: usize, mean: f32, inverse: f32, scale: *const f32, bias: *const f32, out: *mut f32) {
        if scale.is_null() && bias.is_null() {
            for i in 0..n {
                *out.add(i) = (*x.add(i) - mean) * inverse;
            }
        } else if bias.is_null() {
            for i in 0..n {
                *out.add(i) = (*x.add(i) - mean) * inverse * *scale.add(i);
            }
        } else if scale.is_null() {
            for i in 0..n {
                *out.add(i) = A::mul_add(*x.add(i) - mean, inverse, *bias.add(i));
            }
        } else {
            for i in 0..n {
                *out.add(i) = A::mul_add((*x.add(i) - mean) * inverse, *scale.add(i), *bias.add(i));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::testing::{Rng, assert_close};

    #[test]
    fn lp_norms_equal_the_plain_kernel() {
        let mut rng = Rng(5);
        for round in 0..60 {
            let (rows, n, p) = (rng.int(0, 3), rng.pick(&[1, 2, 15, 32, 64, 131]), rng.pick(&[1, 2]));
            let (pitch, floor) = (n + rng.int(0, 3), rng.pick(&[0.0, 1e-12, 4.0]));
            let mut x: Vec<f32> = rng.floats(rows * pitch + 1);
            // Zeros, numbers whose squares vanish or overflow, and a NaN.
            let factor = [1.0, 0.0, 1e-30, 1e25][round % 4];
            x.iter_mut().for_each(|v| *v *= factor);
            if round % 5 == 0 {
                x[0] = f32::NAN;
            }
            let dense: Vec<f32> = (0..rows).flat_map(|r| x[r * pitch..][..n].to_vec()).collect();
            let mut want = vec![0.0; rows * n];
            crate::rows::lp_normalize(crate::entry::Out(&mut want), crate::entry::In(&dense), rows, n, 1, p as i64, floor);
            for isa in Isa::available() {
                let (mut got, norm) = (vec![0.0; rows * n], if p == 1 { Fold::L1 } else { Fold::L2 });
                // SAFETY: the rows are there.
                unsafe { lp_norm(isa, norm, floor, x.as_ptr(), pitch, got.as_mut_ptr(), n, rows, n) };
                let same = |(a, b): (&f32, &f32)| a.is_nan() && b.is_nan() || (a - b).abs() <= 1e-6 * b.abs().max(1e-30);
                assert!(got.iter().zip(&want).all(same), "{got:?}, not {want:?}");
            }
        }
    }

    #[test]
    fn groups_equal_the_reference() {
        let mut rng = Rng(8);
        for _ in 0..60 {
            let (images, groups) = (rng.int(0, 2), rng.int(1, 4));
            let (channels, inner) = (rng.int(1, 5), rng.pick(&[1, 2, 15, 16, 64, 131]));
            let (c, n) = (groups * channels, channels * inner);
            let offset = rng.pick(&[0.0, 10.0]);
            let x: Vec<f32> = rng.floats(images * c * inner + 1).iter().map(|v| v + offset).collect();
            let (scale, bias) = (rng.floats(c), rng.floats(c));
            let mut want = vec![0.0; images * c * inner];
            for r in 0..images * groups {
                let row: Vec<f64> = x[1 + r * n..][..n].iter().map(|&v| v as f64).collect();
                let mean = row.iter().sum::<f64>() / n as f64;
                let variance = row.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / n as f64;
                for (i, v) in row.iter().enumerate() {
                    let at = r % groups * channels + i / inner;
                    want[r * n + i] = ((v - mean) / (variance + 1e-5).sqrt() * scale[at] as f64 + bias[at] as f64) as f32;
                }
            }
            // In two calls, as two tasks would make them.
            let half = images * groups / 2;
            for isa in Isa::available() {
                let mut got = vec![0.0; want.len()];
                for (from, to) in [(0, half), (half, images * groups)] {
                    let s = Rows { rows: to - from, n, x_pitch: n, out_pitch: n, epsilon: 1e-5 };
                    // SAFETY: the arrays have the sizes that the kernel asks for.
                    unsafe {
                        let (x, out) = (x.as_ptr().add(1 + from * n), got.as_mut_ptr().add(from * n));
                        group_norm(isa, s, [groups, channels, from], x, scale.as_ptr(), bias.as_ptr(), out);
                    }
                }
                assert_close(&got, &want, 3e-4, &format!("{} {images} x {groups} x {channels} x {inner}", isa.name()));
            }
        }
    }

    #[test]
    fn norms_equal_the_reference() {
        let mut rng = Rng(6);
        for _ in 0..60 {
            let n = rng.int(1, 900);
            let s = Rows { rows: rng.int(0, 4), n, x_pitch: n + 3, out_pitch: n + rng.int(0, 4), epsilon: 1e-5 };
            let offset = rng.pick(&[0.0, 100.0]);
            let x: Vec<f32> = rng.floats(s.rows * s.x_pitch + 1).iter().map(|v| v + offset).collect();
            let (scale, bias) = (rng.floats(n), rng.floats(n));
            let (with_scale, with_bias) = (rng.int(0, 1) == 1, rng.int(0, 1) == 1);
            let mut layer = vec![9.0; s.rows * s.out_pitch];
            let mut rms = layer.clone();
            let mut stats = vec![[0f32; 2]; s.rows];
            for r in 0..s.rows {
                let row: Vec<f64> = x[1 + r * s.x_pitch..][..n].iter().map(|&v| v as f64).collect();
                let mean = row.iter().sum::<f64>() / n as f64;
                let variance = row.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / n as f64;
                let square = row.iter().map(|v| v * v).sum::<f64>() / n as f64;
                for i in 0..n {
                    let g = if with_scale { scale[i] as f64 } else { 1.0 };
                    let b = if with_bias { bias[i] as f64 } else { 0.0 };
                    layer[r * s.out_pitch + i] = ((row[i] - mean) / (variance + s.epsilon as f64).sqrt() * g + b) as f32;
                    rms[r * s.out_pitch + i] = (row[i] / (square + s.epsilon as f64).sqrt() * g) as f32;
                }
            }
            let g = if with_scale { scale.as_ptr() } else { core::ptr::null() };
            let b = if with_bias { bias.as_ptr() } else { core::ptr::null() };
            for isa in Isa::available() {
                let mut got = vec![9.0; layer.len()];
                // SAFETY: the arrays have the sizes that the kernels ask for.
                unsafe { layer_norm(isa, s, x.as_ptr().add(1), g, b, got.as_mut_ptr(), stats.as_mut_ptr()) };
                // One f32 step of an input near 100 is 8e-6 of its spread.
                assert_close(&got, &layer, if offset == 0.0 { 3e-5 } else { 1e-3 }, &format!("{} {s:?}", isa.name()));
                let mut got = vec![9.0; rms.len()];
                // SAFETY: the arrays have the sizes that the kernels ask for.
                unsafe { rms_norm(isa, s, x.as_ptr().add(1), g, got.as_mut_ptr()) };
                assert_close(&got, &rms, 3e-6, &format!("rms {} {s:?}", isa.name()));
            }
        }
    }
}
