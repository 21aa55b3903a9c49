//! Reductions of rows of f32, in lanes of f64: as exact as the plain kernel, whatever the instruction set.

use crate::kernel_fn;

/// Lanes of a reduction; element `i` goes to lane `i % LANES`.
const LANES: usize = 32;

/// What a row is reduced to, as [`super::reduce`] names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fold {
    /// `sum`.
    Sum,
    /// `mean`; NaN of none.
    Mean,
    /// `max`, NaN where there is one; -inf of none.
    Max,
    /// `min`, NaN where there is one; inf of none.
    Min,
    /// `l1`.
    L1,
    /// `l2`.
    L2,
    /// `sum_square`.
    SumSquare,
    /// `log_sum`.
    LogSum,
}

/// The sum of `f` over `n` floats.
#[inline(always)]
unsafe fn total(x: *const f32, n: usize, f: impl Fn(f64) -> f64) -> f64 {
    // SAFETY: the caller vouches for `n` floats at `x`.
    unsafe {
        if n < LANES {
            return (0..n).fold(0.0, |a, i| a + f(f64::from(*x.add(i))));
        }
        let mut lanes = [0f64; LANES];
        let mut i = 0;
        while i + LANES <= n {
            for (l, a) in lanes.iter_mut().enumerate() {
                *a += f(f64::from(*x.add(i + l)));
            }
            i += LANES;
        }
        for (a, i) in lanes.iter_mut().zip(i..n) {
            *a += f(f64::from(*x.add(i)));
        }
        let mut width = LANES / 2;
        while width > 0 {
            for l in 0..width {
                lanes[l] += lanes[l + width];
            }
            width /= 2;
        }
        lanes[0]
    }
}

/// The element that is `better` than all others, or NaN.
#[inline(always)]
unsafe fn extreme(x: *const f32, n: usize, worst: f32, better: impl Fn(f32, f32) -> bool) -> f32 {
    let pick = |a: f32, b: f32| if a.is_nan() || better(a, b) { a } else { b };
    // SAFETY: the caller vouches for `n` floats at `x`.
    unsafe {
        let mut lanes = [worst; LANES];
        let mut i = 0;
        while i + LANES <= n {
            for (l, a) in lanes.iter_mut().enumerate() {
                *a = pick(*a, *x.add(i + l));
            }
            i += LANES;
        }
        for (a, i) in lanes.iter_mut().zip(i..n) {
            *a = pick(*a, *x.add(i));
        }
        lanes.into_iter().fold(worst, pick)
    }
}

kernel_fn! {
    /// Reduces `rows` rows of `n` floats, `x_pitch` apart, to a float each, `out_pitch` apart. Rows are independent.
    ///
    /// # Safety
    /// The pointers address such rows, which do not overlap the results, and the machine has `isa`.
    pub fn fold_rows<A>(fold: Fold, x: *const f32, x_pitch: usize, out: *mut f32, out_pitch: usize, rows: usize, n: usize) {
        for r in 0..rows {
            let x = x.add(r * x_pitch);
            *out.add(r * out_pitch) = match fold {
                Fold::Sum => total(x, n, |v| v) as f32,
                Fold::Mean => (total(x, n, |v| v) / n as f64) as f32,
                Fold::Max => extreme(x, n, f32::NEG_INFINITY, |a, b| a > b),
                Fold::Min => extreme(x, n, f32::INFINITY, |a, b| a < b),
                Fold::L1 => total(x, n, f64::abs) as f32,
                Fold::L2 => total(x, n, |v| v * v).sqrt() as f32,
                Fold::SumSquare => total(x, n, |v| v * v) as f32,
                Fold::LogSum => total(x, n, |v| v).ln() as f32,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{In, Ints, Out};
    use crate::isa::Isa;
    use crate::support::testing::{Rng, assert_close};

    #[test]
    fn rows_are_reduced_as_the_plain_kernel_does() {
        const FOLDS: [(Fold, &str); 8] = [
            (Fold::Sum, "sum"),
            (Fold::Mean, "mean"),
            (Fold::Max, "max"),
            (Fold::Min, "min"),
            (Fold::L1, "l1"),
            (Fold::L2, "l2"),
            (Fold::SumSquare, "sum_square"),
            (Fold::LogSum, "log_sum"),
        ];
        let mut rng = Rng(11);
        for round in 0..200 {
            let (fold, mode) = rng.pick(&FOLDS);
            let (rows, n) = (rng.int(0, 4), rng.pick(&[0, 1, 2, 31, 32, 33, 64, 200, 777]));
            let (x_pitch, out_pitch) = (n + rng.int(0, 3), rng.int(1, 3));
            let mut x = rng.floats(rows * x_pitch + 1);
            if round % 3 == 0 {
                let i = rng.int(0, x.len() - 1);
                x[i] = rng.pick(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, 1e30, -1e30]);
            }
            let dense: Vec<f32> = (0..rows).flat_map(|r| x[1 + r * x_pitch..][..n].to_vec()).collect();
            let mut plain = vec![0f32; rows];
            crate::reduce::reduce(Out(&mut plain), In(&dense), &[rows, n], Ints(&[0, 1]), mode).unwrap();
            let mut want = vec![7.0; rows * out_pitch];
            (0..rows).for_each(|r| want[r * out_pitch] = plain[r]);
            for isa in Isa::available() {
                let mut got = vec![7.0; want.len()];
                // SAFETY: the arrays have the sizes that the kernel asks for.
                unsafe { fold_rows(isa, fold, x.as_ptr().add(1), x_pitch, got.as_mut_ptr(), out_pitch, rows, n) };
                assert_close(&got, &want, 1e-6, &format!("{mode} {} {rows} x {n}", isa.name()));
            }
        }
    }
}
