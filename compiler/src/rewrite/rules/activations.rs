//! Activations recognised: products that exporters bracket in different ways, read as their factors and put into one form.
//!
//! The constants of the original may differ from the exact ones by 1e-4 of themselves, as those that exporters write do.

use super::orders;
use crate::ir::{NodeId, ValueId};
use crate::kernel::Expr;
use crate::ops::Op;
use crate::ops::pointwise::Pointwise;
use crate::rewrite::{Class, Found, Rewriter, Rule, head};
use kiln_kernels::dtype::DType;

/// Rules about activations.
#[rustfmt::skip]
pub const RULES: &[Rule] = &[
    Rule { name: "gelu", on: &["Mul", "Div"], equation: "x * 0.5 * (1 + erf(x / sqrt(2))) => Gelu(x)  however it is bracketed", class: Class::Reassociating, apply: gelu },
    Rule { name: "gelu-tanh", on: &["Mul", "Div"], equation: "x * 0.5 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3))) => GeluTanh(x)  however it is bracketed", class: Class::Reassociating, apply: gelu_tanh },
    Rule { name: "hard-swish", on: &["Mul", "Div"], equation: "x * Clip(x + 3, 0, 6) / 6 => HardSwish(x);  x * HardSigmoid(x; 1/6, 1/2) => HardSwish(x)", class: Class::Reassociating, apply: hard_swish },
    Rule { name: "swish", on: &["Mul"], equation: "x * Sigmoid(x) => Swish(x);  x * Sigmoid(c * x) => Swish(x; c)  where c is a number of f32", class: Class::Reassociating, apply: swish },
    Rule { name: "softplus", on: &["Log"], equation: "log(1 + exp(x)) => Softplus(x)", class: Class::Reassociating, apply: softplus },
    Rule { name: "mish", on: &["Mul"], equation: "x * tanh(Softplus(x)) => Mish(x)", class: Class::Exact, apply: mish },
];

/// Factors of a product that are looked at.
const MOST: usize = 8;

fn near(x: f64, y: f64) -> bool {
    (x - y).abs() <= 1e-4 * y.abs()
}

/// A product as one number and the factors that are none, in the order in which they occur.
struct Product {
    number: f64,
    factors: Vec<ValueId>,
}

impl Product {
    /// The product that a node is, with the products in it that are read by nothing else.
    fn of(rw: &Rewriter<'_>, n: NodeId) -> Option<Product> {
        let mut p = Product { number: 1.0, factors: vec![] };
        p.take(rw, n).then_some(p)
    }
    /// A value as a product, perhaps of itself alone.
    fn value(rw: &Rewriter<'_>, v: ValueId) -> Product {
        let mut p = Product { number: 1.0, factors: vec![] };
        p.factor(rw, v);
        p
    }
    fn take(&mut self, rw: &Rewriter<'_>, n: NodeId) -> bool {
        let Some([(a, b), _]) = orders(rw, n) else { return false };
        let out = rw.node(n).outputs.first().map(|v| rw.ty(*v));
        // Numbers may have fewer axes than the rest, but never more.
        let plain = |v: ValueId| Some(rw.ty(v)) == out || rw.uniform(v).is_some();
        if !plain(a) || !plain(b) || self.factors.len() > MOST {
            return false;
        }
        match head(&rw.node(n).op) {
            "Mul" => {
                self.factor(rw, a);
                self.factor(rw, b);
                true
            }
            "Div" => rw.uniform(b).filter(|c| *c != 0.0).is_some_and(|c| {
                self.number /= c;
                self.factor(rw, a);
                true
            }),
            _ => false,
        }
    }
    fn factor(&mut self, rw: &Rewriter<'_>, v: ValueId) {
        if let Some(c) = rw.uniform(v) {
            self.number *= c;
            return;
        }
        let product = rw.producer(v).filter(|n| rw.used_once(v) && matches!(head(&rw.node(*n).op), "Mul" | "Div"));
        if !product.is_some_and(|n| self.take(rw, n)) {
            self.factors.push(v);
        }
    }
    /// The other of two factors, of which one is `x`.
    fn beside(&self, x: ValueId) -> Option<ValueId> {
        match self.factors[..] {
            [a, b] if a == x => Some(b),
            [a, b] if b == x => Some(a),
            _ => None,
        }
    }
}

/// The operand of the only reader of a function of that name.
fn inside(rw: &Rewriter<'_>, v: ValueId, name: &str) -> Option<ValueId> {
    rw.input(rw.made_by(v, name).filter(|_| rw.used_once(v))?, 0)
}

/// `v` of `v + c`.
fn plus(rw: &Rewriter<'_>, sum: ValueId, c: f64) -> Option<ValueId> {
    let n = rw.made_by(sum, "Add").filter(|_| rw.used_once(sum))?;
    orders(rw, n)?.into_iter().find_map(|(v, k)| rw.uniform(k).filter(|k| near(*k, c)).map(|_| v))
}

/// The factors `x` and `f` of `number * x * f`, either first.
fn pairs(rw: &Rewriter<'_>, n: NodeId, number: f64) -> Vec<(ValueId, ValueId)> {
    match Product::of(rw, n) {
        Some(p) if near(p.number, number) && p.factors.len() == 2 => vec![(p.factors[0], p.factors[1]), (p.factors[1], p.factors[0])],
        _ => vec![],
    }
}

/// The activation of `x`, when that has the type of the node's result.
fn activation(rw: &mut Rewriter<'_>, n: NodeId, name: &'static str, x: ValueId) -> Found {
    with_attributes(rw, n, name, &[], x)
}

/// The same, of an activation that has attributes.
fn with_attributes(rw: &mut Rewriter<'_>, n: NodeId, name: &'static str, attrs: &[f32], x: ValueId) -> Found {
    if !rw.dtype(x).is_float() || rw.ty(x) != rw.ty(*rw.node(n).outputs.first()?) {
        return None;
    }
    let op = Pointwise::of(name, attrs, &[rw.dtype(x)]).ok()?;
    Some(vec![rw.add(op, &[x])?])
}

fn gelu(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let is = |rw: &Rewriter<'_>, (x, f): (ValueId, ValueId)| {
        let arg = Product::value(rw, inside(rw, plus(rw, f, 1.0)?, "Erf")?);
        (near(arg.number, std::f64::consts::FRAC_1_SQRT_2) && arg.factors == [x]).then_some(x)
    };
    let x = pairs(rw, n, 0.5).into_iter().find_map(|p| is(rw, p))?;
    activation(rw, n, "Gelu", x)
}

fn gelu_tanh(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let is = |rw: &Rewriter<'_>, (x, f): (ValueId, ValueId)| {
        let arg = Product::value(rw, inside(rw, plus(rw, f, 1.0)?, "Tanh")?);
        near(arg.number, (2.0 / std::f64::consts::PI).sqrt()).then_some(())?;
        // x + c x^3, or x (1 + c x^2).
        let (sum, power) = match arg.factors[..] {
            [sum] => (sum, 3),
            _ => (arg.beside(x)?, 2),
        };
        let rest = match power {
            3 => {
                let m = rw.made_by(sum, "Add").filter(|_| rw.used_once(sum))?;
                orders(rw, m)?.into_iter().find(|(a, _)| *a == x)?.1
            }
            _ => plus(rw, sum, 1.0)?,
        };
        let rest = Product::value(rw, rest);
        (near(rest.number, 0.044715) && rest.factors == vec![x; power]).then_some(x)
    };
    let x = pairs(rw, n, 0.5).into_iter().find_map(|p| is(rw, p))?;
    activation(rw, n, "GeluTanh", x)
}

/// The expression of an activation with these attributes, of one operand.
fn formula(name: &'static str, attrs: &[f32], dtype: DType) -> Option<Expr> {
    Pointwise::of(name, attrs, &[dtype]).ok().map(|p| p.expr)
}

fn hard_swish(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let clipped = |rw: &Rewriter<'_>, (x, f): (ValueId, ValueId)| {
        let m = rw.made_by(f, "Clip").filter(|_| rw.used_once(f))?;
        let bound = |i: usize| rw.uniform(rw.input(m, i)?);
        (bound(1)? == 0.0 && bound(2)? == 6.0 && plus(rw, rw.input(m, 0)?, 3.0)? == x).then_some(x)
    };
    let sigmoid = |rw: &Rewriter<'_>, (x, f): (ValueId, ValueId)| {
        let m = rw.made_by(f, "HardSigmoid").filter(|_| rw.used_once(f))?;
        let Op::Pointwise(p) = &rw.node(m).op else { return None };
        (rw.input(m, 0)? == x && Some(&p.expr) == formula("HardSigmoid", &[1.0 / 6.0, 0.5], rw.dtype(x)).as_ref()).then_some(x)
    };
    let x = pairs(rw, n, 1.0 / 6.0).into_iter().find_map(|p| clipped(rw, p));
    let x = x.or_else(|| pairs(rw, n, 1.0).into_iter().find_map(|p| sigmoid(rw, p)))?;
    activation(rw, n, "HardSwish", x)
}

/// One operator, so that exploration sees that it joins the kernel before it: the two of the original both read `x`.
fn swish(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let (x, alpha) = orders(rw, n)?.into_iter().find_map(|(x, f)| {
        let arg = inside(rw, f, "Sigmoid")?;
        if arg == x {
            return Some((x, 1.0));
        }
        let p = Product::value(rw, arg);
        // The attribute is an f32.
        let kept = rw.dtype(x) != DType::F64 || f64::from(p.number as f32) == p.number;
        (p.factors == [x] && kept).then_some((x, p.number as f32))
    })?;
    with_attributes(rw, n, "Swish", &[alpha], x)
}

fn softplus(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let x = inside(rw, plus(rw, rw.input(n, 0)?, 1.0)?, "Exp")?;
    activation(rw, n, "Softplus", x)
}

fn mish(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let x = orders(rw, n)?.into_iter().find(|(x, f)| inside(rw, *f, "Tanh").and_then(|s| inside(rw, s, "Softplus")) == Some(*x))?.0;
    activation(rw, n, "Mish", x)
}

#[cfg(test)]
pub(in crate::rewrite) mod tests {
    use super::*;
    use crate::rewrite::tests::{Case, Example};

    fn x(c: &mut Case) -> ValueId {
        let (d, shape) = (c.wide(), c.any_shape());
        c.input(d, &shape)
    }
    fn both(c: &mut Case, name: &'static str, a: ValueId, b: ValueId) -> ValueId {
        if c.rng.below(2) == 0 { c.pointwise(name, &[a, b]) } else { c.pointwise(name, &[b, a]) }
    }
    /// `v * by`, as a product or a quotient.
    fn times(c: &mut Case, v: ValueId, by: f64) -> ValueId {
        let d = c.g.dtype(v);
        if c.rng.below(2) == 0 {
            let by = c.filled(d, &[], by);
            return both(c, "Mul", v, by);
        }
        let by = c.filled(d, &[], 1.0 / by);
        c.pointwise("Div", &[v, by])
    }
    fn add(c: &mut Case, v: ValueId, by: f64) -> ValueId {
        let by = c.filled(c.g.dtype(v), &[], by);
        both(c, "Add", v, by)
    }
    /// `by * a * b` in one of its bracketings.
    fn bracketed(c: &mut Case, a: ValueId, b: ValueId, by: f64) -> ValueId {
        match c.rng.below(3) {
            0 => {
                let a = times(c, a, by);
                both(c, "Mul", a, b)
            }
            1 => {
                let b = times(c, b, by);
                both(c, "Mul", a, b)
            }
            _ => {
                let ab = both(c, "Mul", a, b);
                times(c, ab, by)
            }
        }
    }

    pub(in crate::rewrite) const EXAMPLES: &[Example] = &[
        ("gelu", |c| {
            let x = x(c);
            let s = times(c, x, std::f64::consts::FRAC_1_SQRT_2);
            let e = c.pointwise("Erf", &[s]);
            let e = add(c, e, 1.0);
            let y = bracketed(c, x, e, 0.5);
            c.output(y);
        }),
        ("gelu-tanh", |c| {
            let x = x(c);
            let square = c.pointwise("Mul", &[x, x]);
            let k = (2.0 / std::f64::consts::PI).sqrt();
            let arg = match c.rng.below(2) {
                0 => {
                    let cube = bracketed(c, square, x, 0.044715);
                    let sum = both(c, "Add", x, cube);
                    times(c, sum, k)
                }
                _ => {
                    let scaled = times(c, square, 0.044715);
                    let sum = add(c, scaled, 1.0);
                    bracketed(c, x, sum, k)
                }
            };
            let t = c.pointwise("Tanh", &[arg]);
            let t = add(c, t, 1.0);
            let y = bracketed(c, x, t, 0.5);
            c.output(y);
        }),
        ("hard-swish", |c| {
            let x = x(c);
            let d = c.g.dtype(x);
            let y = match c.rng.below(2) {
                0 => {
                    let sum = add(c, x, 3.0);
                    let (lo, hi) = (c.filled(d, &[], 0.0), c.filled(d, &[], 6.0));
                    let r = c.pointwise("Clip", &[sum, lo, hi]);
                    bracketed(c, x, r, 1.0 / 6.0)
                }
                _ => {
                    let h = c.op(Pointwise::of("HardSigmoid", &[1.0 / 6.0, 0.5], &[d]).unwrap(), &[x]);
                    both(c, "Mul", x, h)
                }
            };
            c.output(y);
        }),
        ("swish", |c| {
            let x = x(c);
            let by = c.rng.pick(&[1.0, 0.5, if c.g.dtype(x) == DType::F64 { 0.25 } else { 1.702 }]);
            let arg = if by == 1.0 { x } else { times(c, x, by) };
            let s = c.pointwise("Sigmoid", &[arg]);
            let y = both(c, "Mul", x, s);
            c.output(y);
        }),
        ("softplus", |c| {
            let x = x(c);
            let e = c.pointwise("Exp", &[x]);
            let sum = add(c, e, 1.0);
            let y = c.pointwise("Log", &[sum]);
            c.output(y);
        }),
        ("mish", |c| {
            let x = x(c);
            let s = c.pointwise("Softplus", &[x]);
            let t = c.pointwise("Tanh", &[s]);
            let y = both(c, "Mul", x, t);
            c.output(y);
        }),
    ];
}
