//! Rotary position embedding: pairs of elements of each row turned by angles, given by their cosines and sines.

use crate::entry::{In, Out};
use crate::index::{for_each, offset, strides};
use crate::kernel_fn;
use crate::num::Float;
use alloc::vec::Vec;

/// Where the pairs of a row are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pairs {
    /// Elements of a row that are turned, the first ones; even.
    pub width: usize,
    /// Elements of a row. Those behind the turned ones are copied.
    pub size: usize,
    /// Whether the elements of a pair are neighbours; else they are `width / 2` apart.
    pub interleaved: bool,
    /// Whether there is a cosine for each element of a row that is turned; else for each pair.
    pub each_cos: bool,
    /// The same of the sines.
    pub each_sin: bool,
}

impl Pairs {
    /// The elements of pair `i`.
    #[inline(always)]
    fn at(&self, i: usize) -> (usize, usize) {
        if self.interleaved { (2 * i, 2 * i + 1) } else { (i, i + self.width / 2) }
    }
}

/// `out = x · cos + turned(x) · sin` for each row of `x`, where a pair `(a, b)` is turned to `(-b, a)`; the plain kernel. `cos_dims` and
/// `sin_dims` have as many axes as `x_dims`; leading extents of 1 are repeated, and the last is `width` or its half:
/// [RotaryEmbedding](https://onnx.ai/onnx/operators/onnx__RotaryEmbedding.html).
pub fn rotate<T: Float>(
    out: Out<'_, T>,
    x: In<'_, T>,
    cos: In<'_, T>,
    sin: In<'_, T>,
    x_dims: &[usize],
    cos_dims: &[usize],
    sin_dims: &[usize],
    width: usize,
    interleaved: bool,
) {
    let Some((&size, outer)) = x_dims.split_last() else { return };
    let steps = |dims: &[usize]| -> Vec<usize> {
        let all = strides(dims);
        dims.iter().zip(all).map(|(d, s)| if *d == 1 { 0 } else { s }).collect()
    };
    let (cos_steps, sin_steps) = (steps(cos_dims), steps(sin_dims));
    let each = |dims: &[usize]| dims.last() == Some(&width);
    let p = Pairs { width, size, interleaved, each_cos: each(cos_dims), each_sin: each(sin_dims) };
    let mut start = 0;
    for_each(outer, |at| {
        let (c, s) = (&cos.0[offset(at, &cos_steps)..], &sin.0[offset(at, &sin_steps)..]);
        let (x, out) = (&x.0[start..][..size], &mut out.0[start..][..size]);
        for i in 0..width / 2 {
            let (a, b) = p.at(i);
            let pick = |t: &[T], each: bool, e: usize| if each { t[e] } else { t[i] };
            out[a] = x[a].times(pick(c, p.each_cos, a)).minus(x[b].times(pick(s, p.each_sin, a)));
            out[b] = x[b].times(pick(c, p.each_cos, b)).plus(x[a].times(pick(s, p.each_sin, b)));
        }
        out[width..].copy_from_slice(&x[width..]);
        start += size;
    });
}

/// Steps of an operand or the result along the axes that count rows.
pub type Steps<'a> = &'a [usize];

kernel_fn! {
    /// [`rotate`] for rows `from..to` of f32, counted along `dims`; the elements of a row are neighbours. Products and sums are rounded
    /// one by one, so the results are those of the plain kernel to the bit. Ranges of rows are independent tasks.
    ///
    /// # Safety
    /// The pointers address the first row of tensors with such rows, of which the result overlaps none, and the machine has `isa`.
    pub fn rotate_rows<A>(
        p: Pairs, dims: &[usize], x: (*const f32, Steps<'_>), cos: (*const f32, Steps<'_>), sin: (*const f32, Steps<'_>),
        out: (*mut f32, Steps<'_>), from: usize, to: usize,
    ) {
        for r in from..to {
            let (mut q, mut at) = (r, [0usize; 4]);
            for (axis, d) in dims.iter().enumerate().rev() {
                let i = q % d;
                q /= d;
                for (a, steps) in at.iter_mut().zip([x.1, cos.1, sin.1, out.1]) {
                    *a += i * steps[axis];
                }
            }
            let (x, c, s, o) = (x.0.add(at[0]), cos.0.add(at[1]), sin.0.add(at[2]), out.0.add(at[3]));
            let half = p.width / 2;
            if p.interleaved {
                for i in 0..half {
                    let (a, b) = (2 * i, 2 * i + 1);
                    let (ca, cb) = if p.each_cos { (*c.add(a), *c.add(b)) } else { (*c.add(i), *c.add(i)) };
                    let (sa, sb) = if p.each_sin { (*s.add(a), *s.add(b)) } else { (*s.add(i), *s.add(i)) };
                    *o.add(a) = *x.add(a) * ca - *x.add(b) * sa;
                    *o.add(b) = *x.add(b) * cb + *x.add(a) * sb;
                }
            } else {
                let c2 = if p.each_cos { c.add(half) } else { c };
                let s2 = if p.each_sin { s.add(half) } else { s };
                let (x2, o2) = (x.add(half), o.add(half));
                for i in 0..half {
                    let (a, b) = (*x.add(i), *x2.add(i));
                    *o.add(i) = a * *c.add(i) - b * *s.add(i);
                    *o2.add(i) = b * *c2.add(i) + a * *s2.add(i);
                }
            }
            core::ptr::copy_nonoverlapping(x.add(p.width), o.add(p.width), p.size - p.width);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;
    use crate::support::testing::Rng;

    #[test]
    fn rows_are_turned_as_the_plain_kernel_does() {
        let mut rng = Rng(21);
        for round in 0..200 {
            let (heads, tokens) = (rng.int(1, 3), rng.pick(&[0, 1, 5]));
            let width = 2 * rng.pick(&[0, 1, 3, 8, 16, 33]);
            let size = width + rng.pick(&[0, 0, 1, 5]);
            let (each_cos, each_sin) = (rng.int(0, 1) == 1, rng.int(0, 1) == 1);
            let interleaved = rng.int(0, 1) == 1;
            let own = |rng: &mut Rng, each: bool| [rng.pick(&[1, heads]), tokens, if each { width } else { width / 2 }];
            let (cos_dims, sin_dims) = (own(&mut rng, each_cos), own(&mut rng, each_sin));
            let floats = |rng: &mut Rng, dims: &[usize]| rng.floats(dims.iter().product::<usize>() + 1);
            let x_dims = [heads, tokens, size];
            let (mut x, cos, sin) = (floats(&mut rng, &x_dims), floats(&mut rng, &cos_dims), floats(&mut rng, &sin_dims));
            if round % 3 == 0 {
                let i = rng.int(0, x.len() - 1);
                x[i] = rng.pick(&[f32::NAN, f32::INFINITY, -0.0]);
            }
            let mut want = vec![0f32; heads * tokens * size];
            rotate(Out(&mut want), In(&x[1..]), In(&cos[1..]), In(&sin[1..]), &x_dims, &cos_dims, &sin_dims, width, interleaved);
            let p = Pairs { width, size, interleaved, each_cos: cos_dims[2] == width, each_sin: sin_dims[2] == width };
            let steps = |d: &[usize; 3]| [if d[0] == 1 { 0 } else { d[1] * d[2] }, d[2]];
            // The result lies transposed: tokens outside of heads.
            let to = [size, heads * size];
            for isa in Isa::available() {
                let mut got = vec![0f32; want.len()];
                let rows = heads * tokens;
                for (from, end) in [(0, rows / 2), (rows / 2, rows)] {
                    // SAFETY: the arrays have the sizes that the kernel asks for.
                    unsafe {
                        let [x, c, s] = [&x, &cos, &sin].map(|v| v.as_ptr().add(1));
                        let (xs, cs, ss) = (steps(&x_dims), steps(&cos_dims), steps(&sin_dims));
                        rotate_rows(isa, p, &[heads, tokens], (x, &xs), (c, &cs), (s, &ss), (got.as_mut_ptr(), &to), from, end);
                    }
                }
                for h in 0..heads {
                    for t in 0..tokens {
                        let (a, b) = (&got[(t * heads + h) * size..][..size], &want[(h * tokens + t) * size..][..size]);
                        let same = a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan());
                        assert!(same, "{} {p:?}: {a:?} is not {b:?}", isa.name());
                    }
                }
            }
        }
    }
}
