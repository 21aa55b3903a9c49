//! Elementwise algebra: neutral elements, inverses, chains with constants.

use super::{folds, orders, rounded};
use crate::eval;
use crate::ir::{NodeId, ValueId};
use crate::ops::{Op, pointwise::Pointwise};
use crate::rewrite::{Class, Found, Rewriter, Rule, head};
use kiln_kernels::dtype::DType;
use kiln_kernels::index::strides;
use kiln_kernels::value::Tensor;

/// Rules about elementwise operators.
#[rustfmt::skip]
pub const RULES: &[Rule] = &[
    Rule { name: "constant-right", on: &["Add", "Mul", "And", "Or"], equation: "f(c, x) => f(x, c)", class: Class::Exact, apply: constant_right },
    Rule { name: "add-zero", on: &["Add"], equation: "x + 0 => x", class: Class::ExactOnFinite, apply: |rw, n| neutral(rw, n, |c| c == 0.0) },
    Rule { name: "sub-zero", on: &["Sub"], equation: "x - 0 => x  where the zero is not -0", class: Class::Exact, apply: |rw, n| neutral(rw, n, |c| c == 0.0 && c.is_sign_positive()) },
    Rule { name: "mul-one", on: &["Mul"], equation: "x * 1 => x", class: Class::Exact, apply: |rw, n| neutral(rw, n, |c| c == 1.0) },
    Rule { name: "div-one", on: &["Div"], equation: "x / 1 => x", class: Class::Exact, apply: |rw, n| neutral(rw, n, |c| c == 1.0) },
    Rule { name: "and-true", on: &["And"], equation: "x && true => x", class: Class::Exact, apply: |rw, n| neutral(rw, n, |c| c == 1.0) },
    Rule { name: "or-false", on: &["Or"], equation: "x || false => x", class: Class::Exact, apply: |rw, n| neutral(rw, n, |c| c == 0.0) },
    Rule { name: "sub-constant", on: &["Sub"], equation: "x - c => x + (-c)  in floats", class: Class::Exact, apply: sub_constant },
    Rule { name: "div-power-of-two", on: &["Div"], equation: "x / c => x * (1/c)  where every element of c is a power of two", class: Class::Exact, apply: div_power_of_two },
    Rule { name: "add-chain", on: &["Add"], equation: "(x + c1) + c2 => x + (c1 + c2)", class: Class::Reassociating, apply: |rw, n| chain(rw, n, |a, b| a + b) },
    Rule { name: "mul-chain", on: &["Mul"], equation: "(x * c1) * c2 => x * (c1 * c2)", class: Class::Reassociating, apply: |rw, n| chain(rw, n, |a, b| a * b) },
    Rule { name: "involution", on: &["Neg", "Not", "BitwiseNot"], equation: "f(f(x)) => x", class: Class::Exact, apply: involution },
    Rule { name: "idempotent", on: &["Abs", "Relu", "Sign"], equation: "f(f(x)) => f(x)", class: Class::Exact, apply: |rw, n| settled(rw, n, &[head(&rw.node(n).op)]) },
    Rule { name: "rounded-twice", on: &["Floor", "Ceil", "Round"], equation: "f(g(x)) => g(x)  where g gives integers", class: Class::Exact, apply: |rw, n| settled(rw, n, &["Floor", "Ceil", "Round", "Sign"]) },
    Rule { name: "abs-positive", on: &["Abs"], equation: "Abs(f(x)) => f(x)  where f gives no negative number", class: Class::Exact, apply: |rw, n| settled(rw, n, &["Relu", "Exp", "Sigmoid"]) },
    Rule { name: "mul-reciprocal", on: &["Mul"], equation: "y * (1/x) => y / x  where x has the shape of the result, and nothing else reads 1/x", class: Class::Reassociating, apply: mul_reciprocal },
    Rule { name: "clip-chain", on: &["Clip", "Relu", "Max", "Min"], equation: "clip(clip(x, a, b), c, d) => clip(x, clip(a, c, d), clip(b, c, d))  where a <= b and c <= d are constants", class: Class::Exact, apply: clip_chain },
    Rule { name: "pow-one", on: &["Pow"], equation: "x ^ 1 => x", class: Class::Exact, apply: |rw, n| power(rw, n, 1.0, |_, x| Some(x)) },
    Rule { name: "pow-square", on: &["Pow"], equation: "x ^ 2 => x * x", class: Class::Reassociating, apply: |rw, n| power(rw, n, 2.0, |rw, x| rw.pointwise("Mul", &[x, x])) },
    Rule { name: "pow-cube", on: &["Pow"], equation: "x ^ 3 => (x * x) * x", class: Class::Reassociating, apply: |rw, n| power(rw, n, 3.0, |rw, x| { let s = rw.pointwise("Mul", &[x, x])?; rw.pointwise("Mul", &[s, x]) }) },
    Rule { name: "pow-half", on: &["Pow"], equation: "x ^ 0.5 => sqrt(x)", class: Class::Reassociating, apply: |rw, n| power(rw, n, 0.5, |rw, x| rw.pointwise("Sqrt", &[x])) },
    Rule { name: "pow-inverse", on: &["Pow"], equation: "x ^ -1 => 1 / x", class: Class::Reassociating, apply: |rw, n| power(rw, n, -1.0, |rw, x| rw.pointwise("Reciprocal", &[x])) },
    Rule { name: "cast-same", on: &["Cast"], equation: "T(x) => x  where x has type T", class: Class::Exact, apply: cast_same },
    Rule { name: "cast-chain", on: &["Cast"], equation: "T2(T1(x)) => T2(x)  where T1 holds every value of x's type, and no integer narrows through a float", class: Class::Exact, apply: cast_chain },
    Rule { name: "where-constant", on: &["Where"], equation: "where(true, x, y) => x;  where(false, x, y) => y", class: Class::Exact, apply: where_constant },
    Rule { name: "where-same", on: &["Where"], equation: "where(c, x, x) => x", class: Class::Exact, apply: where_same },
    Rule { name: "where-not", on: &["Where"], equation: "where(!c, x, y) => where(c, y, x)", class: Class::Exact, apply: where_not },
];

/// Both operands.
fn pair(rw: &Rewriter<'_>, n: NodeId) -> Option<(ValueId, ValueId)> {
    Some((rw.input(n, 0)?, rw.input(n, 1)?))
}

fn constant_right(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let (a, b) = pair(rw, n)?;
    if rw.constant(a).is_none() || rw.constant(b).is_some() {
        return None;
    }
    let op = rw.node(n).op.clone();
    Some(vec![rw.add(op, &[b, a])?])
}

fn neutral(rw: &mut Rewriter<'_>, n: NodeId, is: fn(f64) -> bool) -> Found {
    let (x, c) = pair(rw, n)?;
    is(rw.uniform(c)?).then_some(vec![x])
}

fn sub_constant(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let (x, c) = pair(rw, n)?;
    let t = rw.constant(c).filter(|t| folds(t.dtype))?;
    let minus: Vec<f64> = t.to_f64s()?.into_iter().map(|v| -v).collect();
    let t = eval::from_f64s(&t.dims.clone(), &minus, t.dtype);
    let c = rw.tensor(t);
    Some(vec![rw.pointwise("Add", &[x, c])?])
}

fn div_power_of_two(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let (x, c) = pair(rw, n)?;
    let t = rw.constant(c).filter(|t| matches!(t.dtype, DType::F32 | DType::F64))?;
    let v = t.to_f64s()?;
    // Both the number and its reciprocal are normal in f32.
    let exact = |x: &f64| x.is_normal() && x.to_bits() << 12 == 0 && (1.0 / 1e37..1e37).contains(&x.abs());
    if v.is_empty() || !v.iter().all(exact) {
        return None;
    }
    let inverse: Vec<f64> = v.into_iter().map(|v| 1.0 / v).collect();
    let t = eval::from_f64s(&t.dims.clone(), &inverse, t.dtype);
    let c = rw.tensor(t);
    Some(vec![rw.pointwise("Mul", &[x, c])?])
}

/// `f` of two constants that broadcast, in f64, rounded once.
fn combined(a: &Tensor, b: &Tensor, f: fn(f64, f64) -> f64) -> Option<Tensor> {
    let rank = a.dims.len().max(b.dims.len());
    let at = |t: &Tensor, i: usize| (i + t.dims.len()).checked_sub(rank).map_or(1, |i| t.dims[i]);
    let mut dims = Vec::new();
    for i in 0..rank {
        let (x, y) = (at(a, i), at(b, i));
        dims.push(match (x, y) {
            (x, y) if x == y => x,
            (1, y) => y,
            (x, 1) => x,
            _ => return None,
        });
    }
    let total = dims.iter().try_fold(1usize, |p, d| p.checked_mul(*d))?;
    // An outer product of two vectors would store more than it saves.
    if total > a.len().max(b.len()) {
        return None;
    }
    let (x, y) = (a.to_f64s()?, b.to_f64s()?);
    let own = strides(&dims);
    let index = |t: &Tensor, k: usize| -> usize {
        let s = strides(&t.dims);
        let skip = rank - t.dims.len();
        (0..t.dims.len()).filter(|i| t.dims[*i] != 1).map(|i| k / own[i + skip] % dims[i + skip] * s[i]).sum()
    };
    let out: Vec<f64> = (0..total).map(|k| f(x[index(a, k)], y[index(b, k)])).collect();
    rounded(&dims, &out, a.dtype)
}

fn chain(rw: &mut Rewriter<'_>, n: NodeId, f: fn(f64, f64) -> f64) -> Found {
    let (y, c2) = pair(rw, n)?;
    let op = rw.node(n).op.clone();
    let inner = rw.made_by(y, head(&op))?;
    let (x, c1) = pair(rw, inner)?;
    let (a, b) = (rw.constant(c1)?, rw.constant(c2)?);
    if rw.constant(x).is_some() || !folds(a.dtype) {
        return None;
    }
    let c = combined(a, b, f)?;
    let c = rw.tensor(c);
    Some(vec![rw.add(op, &[x, c])?])
}

fn involution(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let inner = rw.made_by(rw.input(n, 0)?, head(&rw.node(n).op))?;
    Some(vec![rw.input(inner, 0)?])
}

/// The operand, when one of `makers` made it.
fn settled(rw: &Rewriter<'_>, n: NodeId, makers: &[&str]) -> Found {
    let x = rw.input(n, 0)?;
    let maker = head(&rw.node(rw.producer(x)?).op);
    makers.contains(&maker).then_some(vec![x])
}

fn mul_reciprocal(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let out = rw.ty(*rw.node(n).outputs.first()?).clone();
    for (y, inverse) in orders(rw, n)? {
        let Some(r) = rw.made_by(inverse, "Reciprocal") else { continue };
        let x = rw.input(r, 0)?;
        // The inverse of a smaller x is computed once for many products.
        if *rw.ty(x) == out && rw.used_once(inverse) {
            return Some(vec![rw.pointwise("Div", &[y, x])?]);
        }
    }
    None
}

/// What a node that clamps clamps, and its bounds.
pub(super) fn bounds(rw: &Rewriter<'_>, n: NodeId) -> Option<(ValueId, f64, f64)> {
    let x = rw.input(n, 0)?;
    if !folds(rw.dtype(x)) {
        return None;
    }
    let scalar = |i: usize| {
        let v = rw.input(n, i)?;
        // Negative zero is no bound that other bounds order with.
        if rw.shape(v).is_empty() { rw.uniform(v).filter(|c| !c.is_nan() && c.to_bits() != (-0.0f64).to_bits()) } else { None }
    };
    let (lo, hi) = match head(&rw.node(n).op) {
        "Relu" => (0.0, f64::INFINITY),
        "Max" => (scalar(1)?, f64::INFINITY),
        "Min" => (f64::NEG_INFINITY, scalar(1)?),
        "Clip" => (scalar(1)?, scalar(2)?),
        _ => return None,
    };
    (lo <= hi).then_some((x, lo, hi))
}

fn clip_chain(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let (y, c, d) = bounds(rw, n)?;
    let inner = rw.producer(y)?;
    let (x, a, b) = bounds(rw, inner)?;
    let (lo, hi) = (a.max(c).min(d), b.max(c).min(d));
    if (lo, hi) == (a, b) {
        return Some(vec![y]);
    }
    let dtype = rw.dtype(x);
    let bound = |rw: &mut Rewriter<'_>, v: f64| rw.tensor(eval::scalar(v, dtype));
    Some(vec![if lo == 0.0 && hi == f64::INFINITY {
        rw.pointwise("Relu", &[x])?
    } else {
        let (lo, hi) = (bound(rw, lo), bound(rw, hi));
        rw.pointwise("Clip", &[x, lo, hi])?
    }])
}

fn power(rw: &mut Rewriter<'_>, n: NodeId, exponent: f64, by: fn(&mut Rewriter<'_>, ValueId) -> Option<ValueId>) -> Found {
    let (x, e) = pair(rw, n)?;
    if !folds(rw.dtype(x)) || rw.uniform(e)? != exponent {
        return None;
    }
    Some(vec![by(rw, x)?])
}

fn cast_same(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    Some(vec![rw.input(n, 0)?])
}

/// Whether every value of `from` is a value of `to`.
fn holds(from: DType, to: DType) -> bool {
    use DType::*;
    let signed = |d| matches!(d, I8 | I16 | I32 | I64);
    let unsigned = |d| matches!(d, U8 | U16 | U32 | U64);
    let bits = |d: DType| 8 * d.size();
    // Bits of integers that a float holds without rounding.
    let exact = |d| match d {
        F64 => 53,
        F32 => 24,
        F16 => 11,
        Bf16 => 8,
        _ => 0,
    };
    match (from, to) {
        _ if from == to => true,
        (Bool, t) => signed(t) || unsigned(t) || exact(t) > 0,
        (F16 | Bf16, F32 | F64) | (F32, F64) => true,
        (f, t) if (signed(f) && signed(t)) || (unsigned(f) && unsigned(t)) => bits(f) <= bits(t),
        (f, t) if unsigned(f) && signed(t) => bits(f) < bits(t),
        (f, t) if signed(f) || unsigned(f) => bits(f) <= exact(t),
        _ => false,
    }
}

fn cast_chain(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let y = rw.input(n, 0)?;
    let x = rw.input(rw.made_by(y, "Cast")?, 0)?;
    let (from, middle, to) = (rw.dtype(x), rw.dtype(y), rw.dtype(*rw.node(n).outputs.first()?));
    // Floats saturate where integers wrap.
    if !holds(from, middle) || (from.is_int() && middle.is_float() && to.is_int() && !holds(from, to)) {
        return None;
    }
    if from == to {
        return Some(vec![x]);
    }
    Some(vec![rw.add(Pointwise::cast(from, to), &[x])?])
}

fn where_constant(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let taken = if rw.uniform(rw.input(n, 0)?)? != 0.0 { 1 } else { 2 };
    Some(vec![rw.input(n, taken)?])
}

fn where_same(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let (x, y) = (rw.input(n, 1)?, rw.input(n, 2)?);
    (x == y).then_some(vec![x])
}

fn where_not(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let not = rw.made_by(rw.input(n, 0)?, "Not")?;
    let (c, x, y) = (rw.input(not, 0)?, rw.input(n, 1)?, rw.input(n, 2)?);
    let op: Op = rw.node(n).op.clone();
    // The operands change places, and with them their types if those differ.
    (rw.dtype(x) == rw.dtype(y)).then_some(())?;
    Some(vec![rw.add(op, &[c, y, x])?])
}

#[cfg(test)]
pub(in crate::rewrite) mod tests {
    use super::*;
    use crate::kernel::{Binary, Expr};
    use crate::rewrite::tests::{Case, Example, refused};

    /// `f(x, c)` for a constant of equal elements.
    fn with(c: &mut Case, name: &'static str, dtype: DType, value: f64) {
        let shape = c.any_shape();
        let x = c.input(dtype, &shape);
        let narrow = c.narrower(&shape);
        let k = c.filled(dtype, &narrow, value);
        let y = c.pointwise(name, &[x, k]);
        c.output(y);
    }
    /// `name(.., name(x))` of unary functions, inner first.
    fn nest(c: &mut Case, names: &[&'static str], dtype: DType) {
        let shape = c.any_shape();
        let x = c.input(dtype, &shape);
        let y = names.iter().fold(x, |v, n| c.pointwise(n, &[v]));
        c.output(y);
    }
    fn chained(c: &mut Case, name: &'static str) {
        let (d, shape) = (c.wide(), c.any_shape());
        let x = c.input(d, &shape);
        let wide = c.narrower(&shape);
        let small = c.narrower(&wide);
        let (k, l) = (c.factor(d, &wide), c.factor(d, &small));
        let y = c.pointwise(name, &[x, k]);
        let z = c.pointwise(name, &[y, l]);
        c.output(z);
    }
    fn raised(c: &mut Case, exponent: f64) {
        let (d, shape) = (c.wide(), c.any_shape());
        let x = c.input(d, &shape);
        power_of(c, x, exponent);
    }
    /// `x ^ exponent`, handed out.
    pub(in crate::rewrite) fn power_of(c: &mut Case, x: ValueId, exponent: f64) {
        let (d, of) = (c.g.dtype(x), c.rng.pick(&[DType::F32, DType::F64]));
        let k = c.filled(of, &[], exponent);
        let mut e = Expr::default();
        let (a, b) = (e.input(0, d), e.input(1, of));
        let b = e.cast(b, d);
        let p = e.bin(Binary::Pow, a, b);
        e.results.push(p);
        let y = c.op(Pointwise { name: "Pow", expr: e }, &[x, k]);
        c.output(y);
    }
    fn choice(c: &mut Case) -> [ValueId; 3] {
        let shape = c.any_shape();
        let d = c.rng.pick(&[DType::F32, DType::I64, DType::Bool]);
        [c.input(DType::Bool, &shape), c.input(d, &shape), c.input(d, &shape)]
    }
    fn clamp(c: &mut Case, x: ValueId) -> ValueId {
        let d = c.g.dtype(x);
        let lo = c.rng.pick(&[-2.0, -0.5, 0.0, 0.5]);
        let (a, b) = (c.filled(d, &[], lo), c.filled(d, &[], lo + 1.5));
        match c.rng.below(4) {
            0 => c.pointwise("Relu", &[x]),
            1 => c.pointwise("Max", &[x, a]),
            2 => c.pointwise("Min", &[x, b]),
            _ => c.pointwise("Clip", &[x, a, b]),
        }
    }
    const NUMBERS: &[DType] = &[DType::F32, DType::F64, DType::F16, DType::Bf16, DType::I32, DType::I64, DType::U8];

    #[test]
    fn an_inverse_that_is_used_again_stays() {
        refused("mul-reciprocal", |c| {
            let x = c.input(DType::F32, &[4, 1]);
            let y = c.input(DType::F32, &[4, 3]);
            let r = c.pointwise("Reciprocal", &[x]);
            let z = c.pointwise("Mul", &[y, r]);
            c.output(z);
        });
        refused("abs-positive", |c| nest(c, &["Tanh", "Abs"], DType::F32));
    }

    pub(in crate::rewrite) const EXAMPLES: &[Example] = &[
        ("constant-right", |c| {
            let d = c.rng.pick(NUMBERS);
            let (a, b) = (c.any_shape(), c.float());
            let d = if c.rng.below(2) == 0 { d } else { b };
            let (k, x) = (c.constant(d, &a), c.input(d, &a));
            let name = c.rng.pick(&["Add", "Mul"]);
            let y = c.pointwise(name, &[k, x]);
            c.output(y);
        }),
        ("add-zero", |c| {
            let d = c.rng.pick(NUMBERS);
            let zero = if d.is_float() { c.rng.pick(&[0.0, -0.0]) } else { 0.0 };
            with(c, "Add", d, zero);
        }),
        ("sub-zero", |c| {
            let d = c.rng.pick(NUMBERS);
            with(c, "Sub", d, 0.0);
        }),
        ("mul-one", |c| {
            let d = c.rng.pick(NUMBERS);
            with(c, "Mul", d, 1.0);
        }),
        ("div-one", |c| {
            let d = c.rng.pick(NUMBERS);
            with(c, "Div", d, 1.0);
        }),
        ("and-true", |c| with(c, "And", DType::Bool, 1.0)),
        ("or-false", |c| with(c, "Or", DType::Bool, 0.0)),
        ("sub-constant", |c| {
            let (d, shape) = (c.float(), c.any_shape());
            let x = c.input(d, &shape);
            let narrow = c.narrower(&shape);
            let k = c.constant(d, &narrow);
            let y = c.pointwise("Sub", &[x, k]);
            c.output(y);
        }),
        ("div-power-of-two", |c| {
            let d = c.wide();
            let k = c.rng.pick(&[8.0, -0.25, 2.0, 1024.0, 1.0 / 65536.0]);
            with(c, "Div", d, k);
        }),
        ("add-chain", |c| chained(c, "Add")),
        ("mul-chain", |c| chained(c, "Mul")),
        ("involution", |c| {
            let (name, d) = c.rng.pick(&[("Neg", DType::F32), ("Neg", DType::I64), ("Not", DType::Bool), ("BitwiseNot", DType::U8)]);
            nest(c, &[name, name], d);
        }),
        ("idempotent", |c| {
            let (name, d) = (c.rng.pick(&["Abs", "Relu", "Sign"]), c.float());
            nest(c, &[name, name], d);
        }),
        ("rounded-twice", |c| {
            let (inner, outer) = (c.rng.pick(&["Floor", "Ceil", "Round", "Sign"]), c.rng.pick(&["Floor", "Ceil", "Round"]));
            let d = c.float();
            nest(c, &[inner, outer], d);
        }),
        ("abs-positive", |c| {
            let (inner, d) = (c.rng.pick(&["Relu", "Exp", "Sigmoid"]), c.float());
            nest(c, &[inner, "Abs"], d);
        }),
        ("mul-reciprocal", |c| {
            let (d, shape) = (c.wide(), c.any_shape());
            // Away from zero, where neither overflows.
            let x = c.factor(d, &shape);
            let x = {
                let z = c.input(d, &shape);
                let z = c.pointwise("Sigmoid", &[z]);
                c.pointwise("Add", &[z, x])
            };
            let x = c.pointwise("Exp", &[x]);
            let narrow = c.narrower(&shape);
            let y = c.input(d, &narrow);
            let r = c.pointwise("Reciprocal", &[x]);
            let z = if c.rng.below(2) == 0 { c.pointwise("Mul", &[y, r]) } else { c.pointwise("Mul", &[r, y]) };
            c.output(z);
        }),
        ("clip-chain", |c| {
            let (d, shape) = (c.float(), c.any_shape());
            let x = c.input(d, &shape);
            let y = clamp(c, x);
            let z = clamp(c, y);
            c.output(z);
        }),
        ("pow-one", |c| raised(c, 1.0)),
        ("pow-square", |c| raised(c, 2.0)),
        ("pow-cube", |c| raised(c, 3.0)),
        ("pow-half", |c| raised(c, 0.5)),
        ("pow-inverse", |c| raised(c, -1.0)),
        ("cast-same", |c| {
            let (d, shape) = (c.rng.pick(NUMBERS), c.any_shape());
            let x = c.input(d, &shape);
            let y = c.op(Pointwise::cast(d, d), &[x]);
            c.output(y);
        }),
        ("cast-chain", |c| {
            use DType::*;
            let (from, middle) = c.rng.pick(&[
                (F16, F32),
                (Bf16, F64),
                (F32, F64),
                (I8, F16),
                (U8, Bf16),
                (I32, F64),
                (I32, I64),
                (U8, I16),
                (Bool, F32),
                (Bool, I8),
            ]);
            let narrow = from.is_int() && middle.is_float();
            let to = if narrow { c.rng.pick(&[F32, F16, I64, Bool]) } else { c.rng.pick(&[F32, F16, Bf16, F64, I8, I32, I64, U8, Bool]) };
            let shape = c.any_shape();
            let x = c.input(from, &shape);
            let y = c.op(Pointwise::cast(from, middle), &[x]);
            let z = c.op(Pointwise::cast(middle, to), &[y]);
            c.output(z);
        }),
        ("where-constant", |c| {
            let [_, x, y] = choice(c);
            let on = c.rng.below(2) as f64;
            let k = c.filled(DType::Bool, &[], on);
            let z = c.pointwise("Where", &[k, x, y]);
            c.output(z);
        }),
        ("where-same", |c| {
            let [k, x, _] = choice(c);
            let z = c.pointwise("Where", &[k, x, x]);
            c.output(z);
        }),
        ("where-not", |c| {
            let [k, x, y] = choice(c);
            let not = c.pointwise("Not", &[k]);
            let z = c.pointwise("Where", &[not, x, y]);
            c.output(z);
        }),
    ];
}
