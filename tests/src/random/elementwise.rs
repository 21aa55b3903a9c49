//! Growers of operators that work element by element.

use super::table::{BOOL, FLOATS, INTS, Line};
use super::{Class, Growing, NONE, Range, V, attr, broadcast, limits, most, small};
use kiln_compiler::onnx::proto::AttributeProto;
use kiln_kernels::dtype::DType;

/// An operator of one operand that is defined between bounds, and the bounds of its results.
pub fn unary(g: &mut Growing, line: &Line, domain: Range, class: Class, results: fn(f64, f64) -> Range) -> Option<()> {
    unary_with(g, line, domain, class, results, vec![])
}

/// The same with attributes.
pub fn unary_with(
    g: &mut Growing,
    line: &Line,
    domain: Range,
    class: Class,
    results: fn(f64, f64) -> Range,
    attributes: Vec<AttributeProto>,
) -> Option<()> {
    let v = g.operand(line.types, 0, 5);
    let (least, greatest) =
        if g.dtype(v).is_float() { (domain.0.max(-most(g.dtype(v))), domain.1.min(most(g.dtype(v)))) } else { limits(g.dtype(v)) };
    let v = g.within(v, least, greatest);
    let (lo, hi) = g.range(v);
    let (a, b) = results(lo, hi);
    let out = (g.dtype(v), g.shape(v), (a.min(b), a.max(b)));
    g.one(line.op, &[v], attributes, out, class);
    Some(())
}

/// An operator of one operand whose results are true or false.
pub fn test(g: &mut Growing, line: &Line) -> Option<()> {
    let v = g.operand(line.types, 0, 5);
    let shape = g.shape(v);
    g.one(line.op, &[v], vec![], (DType::Bool, shape, (0.0, 1.0)), Class::Exact);
    Some(())
}

/// Two operands of one type that broadcast together.
pub fn pair(g: &mut Growing, types: &[DType]) -> Option<(V, V)> {
    let a = g.operand(types, 0, 5);
    let (dtype, shape) = (g.dtype(a), g.shape(a));
    let mut b = None;
    if !g.once_in(3) {
        b = g.existing(&[dtype], |g, b| broadcast(&shape, &g.shape(b)).is_some_and(|s| small(&s)));
    }
    let b = match b {
        Some(b) => b,
        None => {
            let (shape, range) = (g.narrower(&shape), g.bounds(dtype));
            g.placeholder(dtype, shape, range)
        }
    };
    broadcast(&shape, &g.shape(b)).filter(|s| small(s))?;
    Some(if g.once_in(2) { (a, b) } else { (b, a) })
}

/// Bounds over the corners of two ranges.
pub fn corners((a, b): Range, (c, d): Range, f: impl Fn(f64, f64) -> f64) -> Range {
    let x = [f(a, c), f(a, d), f(b, c), f(b, d)];
    (x.iter().copied().fold(f64::INFINITY, f64::min), x.iter().copied().fold(f64::NEG_INFINITY, f64::max))
}

/// The types of an operator of arithmetic, which takes integers of a byte from version 14 on.
fn arithmetic(g: &Growing, line: &Line) -> &'static [DType] {
    if g.opset < 14 { super::table::LARGE } else { line.types }
}

/// Add, Sub, Mul and their like.
pub fn binary(g: &mut Growing, line: &Line, f: fn(f64, f64) -> f64) -> Option<()> {
    let (mut a, mut b) = pair(g, arithmetic(g, line))?;
    let dtype = g.dtype(a);
    if dtype.is_float() {
        let bound = if line.op == "Mul" { most(dtype).sqrt() } else { most(dtype) / 2.0 };
        (a, b) = (g.tame(a, bound), g.tame(b, bound));
    }
    let shape = broadcast(&g.shape(a), &g.shape(b))?;
    let range = corners(g.range(a), g.range(b), f);
    g.one(line.op, &[a, b], vec![], (dtype, shape, range), Class::Rounds);
    Some(())
}

/// Div: by what is not near zero.
pub fn divide(g: &mut Growing, line: &Line) -> Option<()> {
    let (a, b) = pair(g, arithmetic(g, line))?;
    let dtype = g.dtype(a);
    let b = positive(g, b)?;
    let a = g.tame(a, most(dtype) / 8.0);
    let shape = broadcast(&g.shape(a), &g.shape(b))?;
    let range = corners(g.range(a), g.range(b), |x, y| x / y);
    g.one(line.op, &[a, b], vec![], (dtype, shape, range), Class::Rounds);
    Some(())
}

/// The value if its elements are well above zero, or what makes them so.
pub fn positive(g: &mut Growing, v: V) -> Option<V> {
    let (lo, hi) = g.range(v);
    let dtype = g.dtype(v);
    if dtype.is_float() {
        return Some(if lo >= 0.25 || hi <= -0.25 { v } else { g.within(v, 0.25, 6.0) });
    }
    if lo >= 1.0 {
        return Some(v);
    }
    // Max of two operands is defined on every integer from version 12 on.
    if g.opset < 12 {
        let shape = g.narrower(&g.shape(v));
        return Some(g.placeholder(dtype, shape, (1.0, 9.0)));
    }
    let one = g.scalar(1.0, dtype);
    let shape = g.shape(v);
    Some(g.one("Max", &[v, one], vec![], (dtype, shape, (1.0, hi.max(1.0))), Class::Exact))
}

/// Mod, of integers or of floats by `fmod`.
pub fn modulo(g: &mut Growing, line: &Line) -> Option<()> {
    let (a, b) = pair(g, line.types)?;
    let b = positive(g, b)?;
    let dtype = g.dtype(a);
    let fmod = dtype.is_float() || g.once_in(3);
    let shape = broadcast(&g.shape(a), &g.shape(b))?;
    let most = g.magnitude(b);
    let attributes = if fmod { vec![attr("fmod", 1i64)] } else { vec![] };
    g.one(line.op, &[a, b], attributes, (dtype, shape, (-most, most)), Class::Rounds);
    Some(())
}

/// Pow of a positive base, or of any by a whole number.
pub fn power(g: &mut Growing, line: &Line) -> Option<()> {
    let a = g.operand(line.types, 0, 5);
    let (dtype, shape) = (g.dtype(a), g.shape(a));
    if g.once_in(2) {
        let a = g.tame(a, 4.0);
        let exponent = g.rng.pick(&[2.0, 2.0, 3.0, 0.0, 1.0, 4.0]);
        let e = g.scalar(exponent, dtype);
        let (lo, hi) = g.range(a);
        let top = lo.abs().max(hi.abs()).powf(exponent).max(1.0);
        g.one(line.op, &[a, e], vec![], (dtype, shape, (-top, top)), Class::Rounds);
    } else {
        let a = g.within(a, 0.25, 4.0);
        let e = match g.once_in(2) {
            true => {
                let x = g.rng.pick(&[0.5, -0.5, -1.0, 1.5, -2.0, 0.33]);
                g.scalar(x, dtype)
            }
            false => {
                let shape = g.narrower(&shape);
                g.placeholder(dtype, shape, (-2.0, 2.0))
            }
        };
        g.one(line.op, &[a, e], vec![], (dtype, shape, (0.0, 256.0)), Class::Rounds);
    }
    Some(())
}

/// Comparisons and logic: two operands, results true or false.
pub fn compare(g: &mut Growing, line: &Line) -> Option<()> {
    let (a, b) = pair(g, line.types)?;
    let shape = broadcast(&g.shape(a), &g.shape(b))?;
    g.one(line.op, &[a, b], vec![], (DType::Bool, shape, (0.0, 1.0)), Class::Exact);
    Some(())
}

/// Bitwise operators of integers.
pub fn bitwise(g: &mut Growing, line: &Line) -> Option<()> {
    let (a, b) = pair(g, line.types)?;
    let shape = broadcast(&g.shape(a), &g.shape(b))?;
    let dtype = g.dtype(a);
    g.one(line.op, &[a, b], vec![], (dtype, shape, limits(dtype)), Class::Exact);
    Some(())
}

/// BitShift by less than the type's bits.
pub fn shift(g: &mut Growing, line: &Line) -> Option<()> {
    let a = g.operand(line.types, 0, 4);
    let (dtype, shape) = (g.dtype(a), g.shape(a));
    let by = g.narrower(&shape);
    let by = g.placeholder(dtype, by, (0.0, 7.0));
    let direction = g.rng.pick(&["LEFT", "RIGHT"]);
    g.one(line.op, &[a, by], vec![attr("direction", direction)], (dtype, shape, limits(dtype)), Class::Exact);
    Some(())
}

/// Sum, Mean, Max and Min of one to four operands.
pub fn variadic(g: &mut Growing, line: &Line, exact: bool) -> Option<()> {
    let (a, b) = pair(g, line.types)?;
    let dtype = g.dtype(a);
    let mut all = vec![g.tame(a, most(dtype) / 4.0), g.tame(b, most(dtype) / 4.0)];
    let mut shape = broadcast(&g.shape(a), &g.shape(b))?;
    for _ in 0..g.rng.pick(&[0, 0, 1, 2]) {
        let s = shape.clone();
        if let Some(c) = g.existing(&[dtype], |g, c| broadcast(&s, &g.shape(c)).is_some_and(|s| small(&s))) {
            all.push(g.tame(c, most(dtype) / 4.0));
            shape = broadcast(&shape, &g.shape(c))?;
        }
    }
    if g.once_in(8) {
        all.truncate(1);
        shape = g.shape(all[0]);
    }
    let top: f64 = all.iter().map(|v| g.magnitude(*v)).sum();
    g.one(line.op, &all, vec![], (dtype, shape, (-top, top)), if exact { Class::Exact } else { Class::Sums });
    Some(())
}

/// Where.
pub fn choose(g: &mut Growing, line: &Line) -> Option<()> {
    let (a, b) = pair(g, line.types)?;
    let shape = broadcast(&g.shape(a), &g.shape(b))?;
    let s = shape.clone();
    let c = g.existing(BOOL, |g, c| broadcast(&s, &g.shape(c)).is_some_and(|s| small(&s)));
    let c = match c {
        Some(c) if !g.once_in(4) => c,
        _ => {
            let shape = g.narrower(&shape);
            g.placeholder(DType::Bool, shape, (0.0, 1.0))
        }
    };
    let shape = broadcast(&shape, &g.shape(c))?;
    let ((a0, a1), (b0, b1)) = (g.range(a), g.range(b));
    let dtype = g.dtype(a);
    g.one(line.op, &[c, a, b], vec![], (dtype, shape, (a0.min(b0), a1.max(b1))), Class::Exact);
    Some(())
}

/// Clip with both bounds, one or none.
pub fn clip(g: &mut Growing, line: &Line) -> Option<()> {
    let types = if g.opset >= 12 { line.types } else { FLOATS };
    let v = g.operand(types, 0, 5);
    let (dtype, shape, (lo, hi)) = (g.dtype(v), g.shape(v), g.range(v));
    let least: f64 = if dtype == DType::U8 { 3.0 } else { g.rng.pick(&[-2.0, -1.0, 0.0, 0.0]) };
    let most = g.rng.pick(&[1.0, 3.0, 6.0, 6.0]) + least.max(0.0);
    let mut operands = vec![v];
    let kind = g.rng.below(4);
    operands.push(if kind == 1 { NONE } else { g.scalar(least, dtype) });
    if kind != 2 {
        operands.push(g.scalar(most, dtype));
    }
    let bottom = if kind == 1 { lo.min(most) } else { lo.clamp(least, most.max(least)) };
    let top = if kind == 2 { hi.max(least) } else { hi.clamp(least.min(hi), most) };
    g.one(line.op, &operands, vec![], (dtype, shape, (bottom.min(top), top.max(bottom))), Class::Exact);
    Some(())
}

/// Cast and CastLike: what it makes of a value is in the new type's range.
pub fn cast(g: &mut Growing, line: &Line) -> Option<()> {
    let v = g.operand(super::table::ANY, 0, 5);
    let to = g.rng.pick(line.types);
    if to == g.dtype(v) && !g.once_in(4) {
        return None;
    }
    let from = g.dtype(v);
    let (least, most) = match to {
        DType::Bool => (f64::NEG_INFINITY, f64::INFINITY),
        DType::F16 => (-super::MOST_F16, super::MOST_F16),
        d if d.is_float() => (f64::NEG_INFINITY, f64::INFINITY),
        DType::U8 | DType::I8 => limits(to),
        _ => (-1e4, 1e4),
    };
    // Integers wrap around; floats that do not fit have no meaning.
    let v = if from.is_float() { g.within(v, least, most) } else { v };
    let (shape, range) = (g.shape(v), g.range(v));
    let range = match to {
        DType::Bool => (0.0, 1.0),
        d if !d.is_float() => (range.0.floor(), range.1.ceil()),
        DType::F16 if range.0.abs().max(range.1.abs()) > 6e4 => return None,
        _ => range,
    };
    if line.op == "CastLike" {
        let like = g.new_value(&[to], 1);
        g.one(line.op, &[v, like], vec![], (to, shape, range), Class::Rounds);
    } else {
        g.one(line.op, &[v], vec![attr("to", to.to_onnx() as i64)], (to, shape, range), Class::Rounds);
    }
    Some(())
}

/// PRelu: the slope broadcasts to the operand, not both to each other.
pub fn prelu(g: &mut Growing, line: &Line) -> Option<()> {
    let v = g.operand(line.types, 1, 5);
    let (dtype, shape) = (g.dtype(v), g.shape(v));
    let slope = g.narrower(&shape);
    let slope = g.placeholder(dtype, slope, (-0.5, 0.5));
    let top = g.magnitude(v);
    g.one(line.op, &[v, slope], vec![], (dtype, shape, (-top, top)), Class::Rounds);
    Some(())
}

/// Dropout and Identity: nothing changes.
pub fn unchanged(g: &mut Growing, line: &Line) -> Option<()> {
    let v = g.operand(line.types, 0, 5);
    let out = (g.dtype(v), g.shape(v), g.range(v));
    let mut inputs = vec![v];
    if line.op == "Dropout" && g.opset >= 12 && g.once_in(2) {
        inputs.push(g.scalar(0.25, DType::F32));
    }
    g.one(line.op, &inputs, vec![], out, Class::Exact);
    Some(())
}

/// SiLU, Swish, GELU and Mish as exporters spell them in several nodes.
pub fn spelled_activation(g: &mut Growing, _: &Line) -> Option<()> {
    let v = g.operand(FLOATS, 1, 4);
    let v = g.tame(v, 30.0);
    let (dtype, shape, top) = (g.dtype(v), g.shape(v), g.magnitude(v));
    let out = |top: f64| (dtype, shape.clone(), (-top, top));
    let r = Class::Rounds;
    match g.rng.below(4) {
        0 => {
            let s = g.one("Sigmoid", &[v], vec![], out(1.0), r);
            g.one("Mul", &[v, s], vec![], out(top), r);
        }
        1 => {
            let root = g.scalar(std::f64::consts::SQRT_2, dtype);
            let (one, half) = (g.scalar(1.0, dtype), g.scalar(0.5, dtype));
            let s = g.one("Div", &[v, root], vec![], out(top), r);
            let e = g.one("Erf", &[s], vec![], out(1.0), r);
            let p = g.one("Add", &[e, one], vec![], out(2.0), r);
            let m = g.one("Mul", &[v, p], vec![], out(2.0 * top), r);
            g.one("Mul", &[m, half], vec![], out(top), r);
        }
        2 => {
            let s = g.one("Softplus", &[v], vec![], out(top + 1.0), r);
            let t = g.one("Tanh", &[s], vec![], out(1.0), r);
            g.one("Mul", &[v, t], vec![], out(top), r);
        }
        _ => {
            let (three, six) = (g.scalar(3.0, dtype), g.scalar(6.0, dtype));
            let zero = g.scalar(0.0, dtype);
            let a = g.one("Add", &[v, three], vec![], out(top + 3.0), r);
            let c = g.one("Clip", &[a, zero, six], vec![], (dtype, shape.clone(), (0.0, 6.0)), Class::Exact);
            let d = g.one("Div", &[c, six], vec![], out(1.0), r);
            g.one("Mul", &[v, d], vec![], out(top), r);
        }
    }
    Some(())
}

/// Integer arithmetic as exporters make of shapes and positions.
pub fn index_arithmetic(g: &mut Growing, _: &Line) -> Option<()> {
    let v = g.operand(INTS, 0, 3);
    let (dtype, shape) = (g.dtype(v), g.shape(v));
    if matches!(dtype, DType::U8 | DType::I8) {
        return None;
    }
    let v = if g.magnitude(v) > 1e6 { g.within(v, -1000.0, 1000.0) } else { v };
    let (by, plus) = (g.between(1, 7) as f64, g.between(0, 9) as f64 - 4.0);
    let (by_, plus_) = (g.scalar(by, dtype), g.scalar(plus, dtype));
    let top = g.magnitude(v) * by + plus.abs();
    let m = g.one("Mul", &[v, by_], vec![], (dtype, shape.clone(), (-top, top)), Class::Exact);
    let a = g.one("Add", &[m, plus_], vec![], (dtype, shape.clone(), (-top, top)), Class::Exact);
    if g.once_in(2) {
        let d = g.between(1, 5) as f64;
        let d = g.scalar(d, dtype);
        g.one("Div", &[a, d], vec![], (dtype, shape, (-top, top)), Class::Exact);
    }
    Some(())
}
