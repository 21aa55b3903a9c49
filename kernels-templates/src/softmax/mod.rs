//! Softmax and its logarithm over one axis: outer x axis x inner, fastest where the axis is the last.

use crate::isa::{Isa, Portable};
use crate::kernel_fn;
use crate::support::{lanes, math};

/// Columns of the form with an inner extent that are computed together.
pub const COLUMNS: usize = 16;

/// Elements whose exponentials are kept at once where only their sum is wanted.
const CHUNK: usize = 512;

/// Softmax of `rows` rows of `n` floats, `x_pitch` and `out_pitch` apart; in place where `out` is `x`.
///
/// A row with NaN, or of -inf alone, becomes NaN, as the formula has it.
///
/// # Safety
/// The pointers address such rows, which are equal or do not overlap, and the machine has `isa`.
pub unsafe fn softmax(isa: Isa, x: *const f32, x_pitch: usize, out: *mut f32, out_pitch: usize, rows: usize, n: usize) {
    for r in 0..rows {
        // SAFETY: a row that the caller vouches for.
        unsafe {
            let (x, out) = (x.add(r * x_pitch), out.add(r * out_pitch));
            // The maximum passes over NaN, which reaches all of the row by the sum.
            exp_minus(isa, x, lanes::max(isa, x, n), out, n);
            scale(isa, out, 1.0 / lanes::sum(isa, out, n), n);
        }
    }
}

/// The logarithm of the softmax of `rows` rows of `n` floats; arguments as [`softmax`] has them.
///
/// # Safety
/// As [`softmax`].
pub unsafe fn log_softmax(isa: Isa, x: *const f32, x_pitch: usize, out: *mut f32, out_pitch: usize, rows: usize, n: usize) {
    let mut chunk = [0f32; CHUNK];
    for r in 0..rows {
        // SAFETY: a row that the caller vouches for.
        unsafe {
            let (x, out) = (x.add(r * x_pitch), out.add(r * out_pitch));
            let max = lanes::max(isa, x, n);
            let mut sum = 0.0;
            for i in (0..n).step_by(CHUNK) {
                let len = CHUNK.min(n - i);
                exp_minus(isa, x.add(i), max, chunk.as_mut_ptr(), len);
                sum += lanes::sum(isa, chunk.as_ptr(), len);
            }
            minus(isa, x, max, math::ln::<Portable>(sum), out, n);
        }
    }
}

kernel_fn! {
    fn exp_minus<A>(x: *const f32, max: f32, out: *mut f32, n: usize) {
        for i in 0..n {
            *out.add(i) = math::exp::<A>(*x.add(i) - max);
        }
    }

    fn scale<A>(x: *mut f32, by: f32, n: usize) {
        for i in 0..n {
            *x.add(i) *= by;
        }
    }

    fn minus<A>(x: *const f32, max: f32, log: f32, out: *mut f32, n: usize) {
        for i in 0..n {
            *out.add(i) = (*x.add(i) - max) - log;
        }
    }

    /// Softmax (or its logarithm) along an axis of `n` elements that are `inner` floats apart, for columns `cols` of one
    /// outer index: the task is at most [`COLUMNS`] columns. In place where `out` is `x`.
    ///
    /// # Safety
    /// The pointers address the first element of the first column, both have that form, and the machine has `isa`.
    pub fn softmax_columns<A>(x: *const f32, out: *mut f32, n: usize, inner: usize, cols: usize, log: bool) {
        let mut max = [f32::NEG_INFINITY; COLUMNS];
        let mut sum = [0f32; COLUMNS];
        for i in 0..n {
            for (j, m) in max[..cols].iter_mut().enumerate() {
                let v = *x.add(i * inner + j);
                *m = if v > *m { v } else { *m };
            }
        }
        for i in 0..n {
            for j in 0..cols {
                let d = *x.add(i * inner + j) - max[j];
                let e = math::exp::<A>(d);
                sum[j] += e;
                *out.add(i * inner + j) = if log { d } else { e };
            }
        }
        for s in &mut sum {
            *s = if log { math::ln::<A>(*s) } else { 1.0 / *s };
        }
        for i in 0..n {
            for (j, s) in sum[..cols].iter().enumerate() {
                let p = out.add(i * inner + j);
                *p = if log { *p - s } else { *p * s };
            }
        }
    }
}

/// Softmax, or its logarithm, of a tensor `[outer][n][inner]`, over the middle axis.
#[derive(Clone, Copy, Debug)]
pub struct Softmax {
    /// Product of the extents before the axis.
    pub outer: usize,
    /// Extent of the axis.
    pub n: usize,
    /// Product of the extents after the axis.
    pub inner: usize,
    /// Whether the logarithm is taken.
    pub log: bool,
}

impl Softmax {
    /// Rows of one task where the axis is the last: about 16 Ki elements.
    const fn rows(&self) -> usize {
        let rows = 16384 / if self.n == 0 { 1 } else { self.n };
        if rows == 0 { 1 } else { rows }
    }
    /// Number of independent tasks.
    pub const fn tasks(&self) -> usize {
        if self.outer * self.n * self.inner == 0 {
            0
        } else if self.inner == 1 {
            self.outer.div_ceil(self.rows())
        } else {
            self.outer * self.inner.div_ceil(COLUMNS)
        }
    }
    /// Runs one task.
    ///
    /// # Safety
    /// `x` and `out` hold `outer * n * inner` floats and are equal or do not overlap, the task's part of `out` is not
    /// accessed elsewhere meanwhile, `task < tasks()`, and the machine has `isa`.
    pub unsafe fn run_task(&self, isa: Isa, task: usize, x: *const f32, out: *mut f32) {
        // SAFETY: rows and columns of the tensor that the caller vouches for.
        unsafe {
            if self.inner == 1 {
                let first = task * self.rows();
                let rows = self.rows().min(self.outer - first);
                let (x, out) = (x.add(first * self.n), out.add(first * self.n));
                if self.log {
                    log_softmax(isa, x, self.n, out, self.n, rows, self.n);
                } else {
                    softmax(isa, x, self.n, out, self.n, rows, self.n);
                }
            } else {
                let across = self.inner.div_ceil(COLUMNS);
                let col = task % across * COLUMNS;
                let start = task / across * self.n * self.inner + col;
                softmax_columns(isa, x.add(start), out.add(start), self.n, self.inner, COLUMNS.min(self.inner - col), self.log);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::testing::{Rng, assert_close};

    #[test]
    fn softmax_equals_the_reference() {
        let mut rng = Rng(5);
        for round in 0..60 {
            let s = Softmax { outer: rng.int(0, 5), n: rng.int(1, 300), inner: rng.pick(&[1, 1, 3, 16, 35]), log: rng.int(0, 1) == 1 };
            let mut x: Vec<f32> = rng.floats(s.outer * s.n * s.inner + 1).iter().map(|v| v * 20.0).collect();
            if round % 7 == 0 {
                let i = rng.int(0, x.len() - 1);
                x[i] = rng.pick(&[f32::NAN, f32::NEG_INFINITY, f32::INFINITY]);
            }
            let mut want = vec![0.0; x.len() - 1];
            for o in 0..s.outer {
                for j in 0..s.inner {
                    let at = |i: usize| (o * s.n + i) * s.inner + j;
                    let v: Vec<f64> = (0..s.n).map(|i| x[1 + at(i)] as f64).collect();
                    let max = v.iter().fold(f64::NEG_INFINITY, |a, &b| if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) });
                    let sum: f64 = v.iter().map(|v| (v - max).exp()).sum();
                    for i in 0..s.n {
                        want[at(i)] = if s.log { v[i] - max - sum.ln() } else { (v[i] - max).exp() / sum } as f32;
                    }
                }
            }
            for isa in Isa::available() {
                let mut got = vec![0.0; want.len()];
                let mut placed = x.clone();
                for task in 0..s.tasks() {
                    // SAFETY: the arrays have the sizes that the kernel asks for.
                    unsafe {
                        s.run_task(isa, task, x.as_ptr().add(1), got.as_mut_ptr());
                        let p = placed.as_mut_ptr().add(1);
                        s.run_task(isa, task, p, p);
                    }
                }
                assert_close(&got, &want, 3e-6, &format!("{} {s:?}", isa.name()));
                assert_close(&placed[1..], &want, 3e-6, &format!("in place {} {s:?}", isa.name()));
            }
        }
    }

    #[test]
    fn a_row_of_minus_infinity_is_nan() {
        for isa in Isa::available() {
            let mut row = [f32::NEG_INFINITY; 20];
            let p = row.as_mut_ptr();
            // SAFETY: twenty floats.
            unsafe { softmax(isa, p, 20, p, 20, 1, 20) };
            assert!(row.iter().all(|v| v.is_nan()));
        }
    }
}
