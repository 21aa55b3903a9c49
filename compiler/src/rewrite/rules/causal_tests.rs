//! Triangles as exporters spell them.

use super::super::attention::tests::{attention, low, plain, seen, sizes};
use super::*;
use crate::eval;
use crate::ops::host::Host;
use crate::ops::movement::{Slice, Transpose};
use crate::rewrite::tests::{Case, Example};
use kiln_kernels::dtype::DType;
use kiln_kernels::value::Tensor;

/// Rows and columns where a query sees a key at most `reach` behind it.
fn lower(dims: [usize; 2], reach: usize, yes: f64, no: f64) -> Vec<f64> {
    (0..dims[0] * dims[1]).map(|i| if i % dims[1] <= i / dims[1] + reach { yes } else { no }).collect()
}

/// The numbers from `start` on, by a step of 1: a constant, or what a Range makes.
fn iota(c: &mut Case, start: i64, n: usize) -> ValueId {
    if c.rng.below(2) == 0 {
        return c.g.add_constant(Tensor::new(&[n], &(start..start + n as i64).collect::<Vec<_>>()), "");
    }
    let ends = [start, start + n as i64, 1].map(|x| c.g.add_constant(Tensor::scalar(x), ""));
    let results = vec![crate::ir::Type::Tensor(DType::I64, vec![n.into()])];
    c.op(Host { name: "range", ints: vec![], text: vec![], results }, &ends)
}

/// A condition that holds for the keys that a query sees, or for the others.
fn spelled(c: &mut Case, [rows, cols]: [usize; 2], reach: usize, seen: bool) -> ValueId {
    match c.rng.below(3) {
        0 => {
            let x = lower([rows, cols], reach, f64::from(u8::from(seen)), f64::from(u8::from(!seen)));
            c.g.add_constant(eval::from_f64s(&[rows, cols], &x, DType::Bool), "")
        }
        // A part of a larger triangle.
        1 => {
            let (down, right) = (c.rng.below(3), c.rng.below(3));
            let own = reach as i64 + right as i64 - down as i64;
            let n = rows.max(cols) + 4;
            let x: Vec<f64> = (0..n * n).map(|i| f64::from(u8::from(((i % n) as i64 <= (i / n) as i64 + own) == seen))).collect();
            let whole = c.g.add_constant(eval::from_f64s(&[n, n], &x, DType::Bool), "");
            let dims = |v: [usize; 2]| v.iter().map(|d| Dim::from(*d)).collect::<Vec<_>>();
            c.op(Slice { starts: dims([down, right]), steps: vec![1, 1], sizes: dims([rows, cols]), bounds: vec![] }, &[whole])
        }
        _ => {
            let start = c.rng.below(5) as i64 - 2;
            let strict = c.rng.below(2) == 1;
            let (i, j) = (iota(c, start + reach as i64 + i64::from(strict), rows), iota(c, start, cols));
            let i = c.op(crate::ops::shape::Reshape { shape: vec![rows.into(), 1.into()] }, &[i]);
            // j <= i, j < i + 1, and the same from the other side; or what says the opposite.
            let (name, from) = match (strict, seen) {
                (false, true) => ("LessOrEqual", "GreaterOrEqual"),
                (true, true) => ("Less", "Greater"),
                (false, false) => ("Greater", "Less"),
                (true, false) => ("GreaterOrEqual", "LessOrEqual"),
            };
            if c.rng.below(2) == 0 { c.pointwise(name, &[j, i]) } else { c.pointwise(from, &[i, j]) }
        }
    }
}

/// Masks whose triangle follows from what indices are: constants of such sizes are weights to exploration, which sees no contents of
/// theirs.
pub(in crate::rewrite) const SMALL: &[Example] = &[("attend-causal", |c| {
    let s = sizes(c);
    let [q, k, v] = s.operands(c);
    let start = c.rng.below(5) as i64 - 2;
    let reach = c.rng.below(4) as i64;
    let (i, j) = (iota(c, start + reach, s.sizes[0]), iota(c, start, s.sizes[1]));
    let i = c.op(crate::ops::shape::Reshape { shape: vec![s.sizes[0].into(), 1.into()] }, &[i]);
    let t = if c.rng.below(2) == 0 { c.pointwise("LessOrEqual", &[j, i]) } else { c.pointwise("GreaterOrEqual", &[i, j]) };
    let (zero, low) = (c.filled(DType::F32, &[], 0.0), low(c));
    let low = c.filled(DType::F32, &[], low);
    let m = c.pointwise("Where", &[t, zero, low]);
    attention(c, plain(), &[q, k, v, m]);
})];

pub(in crate::rewrite) const EXAMPLES: &[Example] = &[("attend-causal", |c| {
    let s = sizes(c);
    let [q, k, v] = s.operands(c);
    let sides = [s.sizes[0], s.sizes[1]];
    let (reach, masked) = (c.rng.below(4), low(c));
    let shape = [&vec![1; c.rng.below(s.batch.len() + 1)][..], &sides].concat();
    let constant = |c: &mut Case, x: &[f64], d: DType| c.g.add_constant(eval::from_f64s(&shape, x, d), "");
    let other = seen(c, &sides[1..], DType::F32, -3.0);
    let m = match c.rng.below(4) {
        0 => constant(c, &lower(sides, reach, 0.0, masked), DType::F32),
        1 => {
            let t = constant(c, &lower(sides, reach, 0.0, masked), DType::F32);
            c.pointwise("Add", &[other, t])
        }
        n => {
            let kept = n == 2;
            let negated = c.rng.below(2) == 1;
            let mut t = spelled(c, sides, reach, kept != negated);
            if negated {
                t = c.pointwise("Not", &[t]);
            }
            // The first key of each row stays visible.
            if c.rng.below(3) == 0 {
                let more = seen(c, &sides, DType::Bool, 0.0);
                let more = if kept { more } else { c.pointwise("Not", &[more]) };
                t = c.pointwise(if kept { "And" } else { "Or" }, &[more, t]);
            }
            let low = c.filled(DType::F32, &[], masked);
            c.pointwise("Where", &if kept { [t, other, low] } else { [t, low, other] })
        }
    };
    let causal = if c.rng.below(3) == 0 { Some(Dim::int(2)) } else { None };
    attention(c, Attend { causal, ..plain() }, &[q, k, v, m]);
})];

/// Rectangles, lines that run the other way and triangles that hide a first query's keys are no causal masks.
#[test]
fn what_is_no_triangle_stays() {
    let apply = |build: fn(&mut Case) -> ValueId| {
        let mut c = Case::new(7, false);
        let [q, k, v] = [[3, 4], [5, 4], [5, 2]].map(|s| c.input(DType::F32, &s));
        let t = build(&mut c);
        let (zero, low) = (c.filled(DType::F32, &[], 0.0), c.filled(DType::F32, &[], -1e9));
        let m = c.pointwise("Where", &[t, zero, low]);
        attention(&mut c, plain(), &[q, k, v, m]);
        crate::rewrite::apply(&mut c.g, &RULES.iter().collect::<Vec<_>>()).rules.len()
    };
    assert_eq!(apply(|c| cut(c, 0)), 1);
    assert_eq!(apply(|c| cut(c, -1)), 0);
    assert_eq!(
        apply(|c| {
            let i = c.g.add_constant(Tensor::new(&[3, 1], &[0i64, 1, 2]), "");
            let j = c.g.add_constant(Tensor::new(&[5], &[0i64, 2, 4, 6, 8]), "");
            c.pointwise("LessOrEqual", &[j, i])
        }),
        0
    );
    assert_eq!(
        apply(|c| {
            let i = c.g.add_constant(Tensor::new(&[3, 1], &[0i64, 1, 2]), "");
            let j = c.g.add_constant(Tensor::new(&[5], &[0i64, 1, 2, 3, 4]), "");
            let t = c.pointwise("GreaterOrEqual", &[j, i]);
            c.op(Transpose { perm: vec![0, 1] }, &[t])
        }),
        0
    );
}

/// A constant triangle on or below a diagonal.
fn cut(c: &mut Case, reach: i64) -> ValueId {
    let x: Vec<u8> = (0..15).map(|n| u8::from(n % 5 <= n / 5 + reach)).collect();
    c.g.add_constant(Tensor::with_dtype(DType::Bool, &[3, 5], &x), "")
}
