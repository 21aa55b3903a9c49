//! The fast Fourier transform of any length, by mixed radices: passes of factors 4, 2, 3, 5 and other primes, decimated in frequency.

use alloc::{vec, vec::Vec};
use core::f64::consts::PI;
use core::ops::{Add, Mul, Neg, Sub};

/// A type to transform in.
pub(super) trait Real: Copy + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Neg<Output = Self> {
    /// The nearest number to `x`.
    fn of(x: f64) -> Self;
    /// The number.
    fn wide(self) -> f64;
}

impl Real for f32 {
    fn of(x: f64) -> f32 {
        x as f32
    }
    fn wide(self) -> f64 {
        self as f64
    }
}

impl Real for f64 {
    fn of(x: f64) -> f64 {
        x
    }
    fn wide(self) -> f64 {
        self
    }
}

/// Real and imaginary part.
pub(super) type Complex<T> = (T, T);

fn add<T: Real>(a: Complex<T>, b: Complex<T>) -> Complex<T> {
    (a.0 + b.0, a.1 + b.1)
}

fn sub<T: Real>(a: Complex<T>, b: Complex<T>) -> Complex<T> {
    (a.0 - b.0, a.1 - b.1)
}

fn mul<T: Real>(a: Complex<T>, b: Complex<T>) -> Complex<T> {
    (a.0 * b.0 - a.1 * b.1, a.0 * b.1 + a.1 * b.0)
}

/// What is needed for transforms of one length and direction.
pub(super) struct Plan<T> {
    factors: Vec<usize>,
    /// Powers of the root of unity.
    roots: Vec<Complex<T>>,
    inverse: bool,
}

impl<T: Real> Plan<T> {
    /// A transform of `n` numbers; the inverse divides by `n`.
    pub(super) fn new(n: usize, inverse: bool) -> Plan<T> {
        let (mut factors, mut rest) = (Vec::new(), n.max(1));
        while rest % 4 == 0 {
            factors.push(4);
            rest /= 4;
        }
        if rest % 2 == 0 {
            factors.insert(0, 2);
            rest /= 2;
        }
        let mut p = 3;
        while rest > 1 {
            while rest % p == 0 {
                factors.push(p);
                rest /= p;
            }
            p = if p * p > rest { rest.max(3) } else { p + 2 };
        }
        let sign = if inverse { 1.0 } else { -1.0 };
        let root = |k: usize| (2.0 * PI * k as f64 / n as f64).sin_cos();
        let roots = (0..n).map(root).map(|(s, c)| (T::of(c), T::of(sign * s))).collect();
        Plan { factors, roots, inverse }
    }
    /// The transform of `x`, which has the plan's length.
    pub(super) fn run(&self, mut x: Vec<Complex<T>>) -> Vec<Complex<T>> {
        let n = x.len();
        let mut y = vec![(T::of(0.0), T::of(0.0)); n];
        let mut done = 1;
        for &p in &self.factors {
            let left = n / (done * p);
            for k in 0..done {
                for i in 0..left {
                    self.butterfly(
                        p,
                        |b| x[i + left * (b + p * k)],
                        |c, v| {
                            // Element `c` of a pass is turned by its place in what is left.
                            y[i + left * (k + done * c)] = if i == 0 || c == 0 { v } else { mul(v, self.roots[c * done * i]) };
                        },
                    );
                }
            }
            core::mem::swap(&mut x, &mut y);
            done *= p;
        }
        if self.inverse {
            let f = T::of(1.0 / n as f64);
            x.iter_mut().for_each(|v| *v = (v.0 * f, v.1 * f));
        }
        x
    }
    /// The transform of `p` numbers.
    fn butterfly(&self, p: usize, x: impl Fn(usize) -> Complex<T>, mut put: impl FnMut(usize, Complex<T>)) {
        let n = self.roots.len();
        let turned = |v: Complex<T>| if self.inverse { (-v.1, v.0) } else { (v.1, -v.0) };
        match p {
            2 => {
                put(0, add(x(0), x(1)));
                put(1, sub(x(0), x(1)));
            }
            4 => {
                let (a, b) = (add(x(0), x(2)), sub(x(0), x(2)));
                let (c, d) = (add(x(1), x(3)), turned(sub(x(1), x(3))));
                put(0, add(a, c));
                put(2, sub(a, c));
                put(1, add(b, d));
                put(3, sub(b, d));
            }
            _ => {
                // Pairs of numbers at equal distance from the first: their sums meet cosines, their differences sines.
                let first = x(0);
                let pairs = (1..=p / 2).map(|j| (x(j), x(p - j)));
                let (sums, gaps): (Vec<_>, Vec<_>) = pairs.map(|(a, b)| (add(a, b), sub(a, b))).unzip();
                put(0, sums.iter().fold(first, |a, b| add(a, *b)));
                for c in 1..=p / 2 {
                    let (mut even, mut odd) = (first, (T::of(0.0), T::of(0.0)));
                    for (j, (s, g)) in (1..).zip(sums.iter().zip(&gaps)) {
                        let (cos, sin) = self.roots[c * j % p * (n / p)];
                        even = (even.0 + cos * s.0, even.1 + cos * s.1);
                        odd = (odd.0 + sin * g.0, odd.1 + sin * g.1);
                    }
                    let odd = (-odd.1, odd.0);
                    put(c, add(even, odd));
                    put(p - c, sub(even, odd));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_sum_of_its_definition() {
        let mut state = 7u64;
        let mut next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f64 / (1 << 24) as f64 - 0.5
        };
        for n in (1..=40).chain([49, 64, 77, 120, 128, 169, 400, 512]) {
            let x: Vec<Complex<f64>> = (0..n).map(|_| (next(), next())).collect();
            for inverse in [false, true] {
                let fast = Plan::new(n, inverse).run(x.clone());
                let short = Plan::new(n, inverse).run(x.iter().map(|v| (v.0 as f32, v.1 as f32)).collect());
                let (sign, scale) = if inverse { (1.0, 1.0 / n as f64) } else { (-1.0, 1.0) };
                for f in 0..n {
                    let (mut re, mut im) = (0.0, 0.0);
                    for (t, v) in x.iter().enumerate() {
                        let (s, c) = (sign * 2.0 * PI * (f * t % n) as f64 / n as f64).sin_cos();
                        re += v.0 * c - v.1 * s;
                        im += v.0 * s + v.1 * c;
                    }
                    let (re, im) = (re * scale, im * scale);
                    let far = |a: f64, b: f64| (a - re).abs().max((b - im).abs());
                    assert!(far(fast[f].0, fast[f].1) < 1e-11, "{n} {inverse} {f}");
                    assert!(far(short[f].0.wide(), short[f].1.wide()) < 2e-5, "{n} {inverse} {f}");
                }
            }
        }
    }
}
