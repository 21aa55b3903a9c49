//! Elementwise operators: each a line in the table of formulas, over operands that broadcast.

use super::{Facts, Infer, Lowering, Operator, Reader, broadcast};
use crate::diagnostics::{Diagnostic, shown};
use crate::ir::{Dim, Fact, Type, ValueId};
use crate::kernel::{At, Binary as B, Expr, Unary as U};
use kiln_kernels::dtype::DType;

/// An elementwise operator. The name keeps its ONNX identity for rules; the expression is its meaning.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pointwise {
    /// The ONNX operator, or `Cast`.
    pub name: &'static str,
    /// The scalar function of one element of each operand.
    pub expr: Expr,
}

/// What a formula builds with.
pub struct Formula<'a> {
    e: Expr,
    types: &'a [DType],
    attrs: &'a [f32],
}

impl Formula<'_> {
    fn x(&mut self, i: usize) -> At {
        let ty = self.types[i];
        self.e.input(i, ty)
    }
    fn c(&mut self, v: f64) -> At {
        self.e.constant(v, self.types[0])
    }
    /// Attribute `i` as a literal of the operand's type.
    fn a(&mut self, i: usize) -> At {
        self.c(self.attrs[i] as f64)
    }
    fn un(&mut self, f: U, a: At) -> At {
        self.e.un(f, a)
    }
    fn bin(&mut self, f: B, a: At, b: At) -> At {
        self.e.bin(f, a, b)
    }
    fn select(&mut self, c: At, a: At, b: At) -> At {
        self.e.select(c, a, b)
    }
    fn unary(&mut self, f: U) -> At {
        let x = self.x(0);
        self.un(f, x)
    }
    fn binary(&mut self, f: B) -> At {
        let (a, b) = (self.x(0), self.x(1));
        self.bin(f, a, b)
    }
    /// `f(x) = if x < 0 { below } else { x }` for an expression of x.
    fn below_zero(&mut self, below: impl FnOnce(&mut Self, At) -> At) -> At {
        let (x, zero) = (self.x(0), self.c(0.0));
        let below = below(self, x);
        let negative = self.bin(B::Lt, x, zero);
        self.select(negative, below, x)
    }
    /// `clamp(x, lo, hi)`.
    fn clamp(&mut self, x: At, lo: f64, hi: f64) -> At {
        let (lo, hi) = (self.c(lo), self.c(hi));
        let y = self.bin(B::Max, x, lo);
        self.bin(B::Min, y, hi)
    }
    /// `alpha · (e^x - 1)`.
    fn exp_m1(&mut self, x: At, alpha: At) -> At {
        let (e, one) = (self.un(U::Exp, x), self.c(1.0));
        let d = self.bin(B::Sub, e, one);
        self.bin(B::Mul, alpha, d)
    }
}

type Build = fn(&mut Formula<'_>) -> At;

/// Name, number of operands, formula. Attributes are numbered in the order the reader passes them.
const TABLE: &[(&str, usize, Build)] = &[
    ("Abs", 1, |f| f.unary(U::Abs)),
    ("Acos", 1, |f| f.unary(U::Acos)),
    ("Acosh", 1, |f| f.unary(U::Acosh)),
    ("Asin", 1, |f| f.unary(U::Asin)),
    ("Asinh", 1, |f| f.unary(U::Asinh)),
    ("Atan", 1, |f| f.unary(U::Atan)),
    ("Atanh", 1, |f| f.unary(U::Atanh)),
    ("BitwiseNot", 1, |f| f.unary(U::Not)),
    ("Ceil", 1, |f| f.unary(U::Ceil)),
    ("Cos", 1, |f| f.unary(U::Cos)),
    ("Cosh", 1, |f| f.unary(U::Cosh)),
    ("Erf", 1, |f| f.unary(U::Erf)),
    ("Exp", 1, |f| f.unary(U::Exp)),
    ("Floor", 1, |f| f.unary(U::Floor)),
    ("IsNaN", 1, |f| f.unary(U::IsNan)),
    ("Log", 1, |f| f.unary(U::Log)),
    ("Neg", 1, |f| f.unary(U::Neg)),
    ("Not", 1, |f| f.unary(U::Not)),
    ("Reciprocal", 1, |f| {
        let (one, x) = (f.c(1.0), f.x(0));
        f.bin(B::Div, one, x)
    }),
    ("Relu", 1, |f| {
        let (x, zero) = (f.x(0), f.c(0.0));
        f.bin(B::Max, x, zero)
    }),
    ("Round", 1, |f| f.unary(U::Round)),
    ("Sigmoid", 1, |f| f.unary(U::Sigmoid)),
    ("Sign", 1, |f| f.unary(U::Sign)),
    ("Sin", 1, |f| f.unary(U::Sin)),
    ("Sinh", 1, |f| f.unary(U::Sinh)),
    ("Softplus", 1, |f| f.unary(U::Softplus)),
    ("Softsign", 1, |f| {
        let (x, one) = (f.x(0), f.c(1.0));
        let a = f.un(U::Abs, x);
        let d = f.bin(B::Add, a, one);
        f.bin(B::Div, x, d)
    }),
    ("Sqrt", 1, |f| f.unary(U::Sqrt)),
    ("Tan", 1, |f| f.unary(U::Tan)),
    ("Tanh", 1, |f| f.unary(U::Tanh)),
    ("Add", 2, |f| f.binary(B::Add)),
    ("And", 2, |f| f.binary(B::And)),
    ("BitwiseAnd", 2, |f| f.binary(B::And)),
    ("BitwiseOr", 2, |f| f.binary(B::Or)),
    ("BitwiseXor", 2, |f| f.binary(B::Xor)),
    ("Div", 2, |f| f.binary(B::Div)),
    ("Equal", 2, |f| f.binary(B::Eq)),
    ("Fmod", 2, |f| f.binary(B::Rem)),
    ("Greater", 2, |f| {
        let (a, b) = (f.x(0), f.x(1));
        f.bin(B::Lt, b, a)
    }),
    ("GreaterOrEqual", 2, |f| {
        let (a, b) = (f.x(0), f.x(1));
        f.bin(B::Le, b, a)
    }),
    ("Less", 2, |f| f.binary(B::Lt)),
    ("LessOrEqual", 2, |f| f.binary(B::Le)),
    ("Max", 2, |f| f.binary(B::Max)),
    ("Min", 2, |f| f.binary(B::Min)),
    ("Mod", 2, |f| f.binary(B::Mod)),
    ("Mul", 2, |f| f.binary(B::Mul)),
    ("Or", 2, |f| f.binary(B::Or)),
    ("PRelu", 2, |f| {
        let slope = f.x(1);
        f.below_zero(|f, x| f.bin(B::Mul, x, slope))
    }),
    ("ShiftLeft", 2, |f| f.binary(B::Shl)),
    ("ShiftRight", 2, |f| f.binary(B::Shr)),
    ("Sub", 2, |f| f.binary(B::Sub)),
    ("Xor", 2, |f| f.binary(B::Xor)),
    ("Where", 3, |f| {
        let (c, a, b) = (f.x(0), f.x(1), f.x(2));
        f.select(c, a, b)
    }),
    // Attributes: alpha.
    ("Elu", 1, |f| {
        let alpha = f.a(0);
        f.below_zero(|f, x| f.exp_m1(x, alpha))
    }),
    ("LeakyRelu", 1, |f| {
        let alpha = f.a(0);
        f.below_zero(|f, x| f.bin(B::Mul, x, alpha))
    }),
    ("Celu", 1, |f| {
        let (x, zero, alpha) = (f.x(0), f.c(0.0), f.a(0));
        let q = f.bin(B::Div, x, alpha);
        let e = f.exp_m1(q, alpha);
        let (up, down) = (f.bin(B::Max, x, zero), f.bin(B::Min, e, zero));
        f.bin(B::Add, up, down)
    }),
    ("ThresholdedRelu", 1, |f| {
        let (x, alpha, zero) = (f.x(0), f.a(0), f.c(0.0));
        let above = f.bin(B::Lt, alpha, x);
        f.select(above, x, zero)
    }),
    ("Swish", 1, |f| {
        let (x, alpha) = (f.x(0), f.a(0));
        let ax = f.bin(B::Mul, alpha, x);
        let s = f.un(U::Sigmoid, ax);
        f.bin(B::Mul, x, s)
    }),
    // Attributes: alpha, gamma (beta for HardSigmoid).
    ("Selu", 1, |f| {
        let (x, zero, alpha, gamma) = (f.x(0), f.c(0.0), f.a(0), f.a(1));
        let below = f.exp_m1(x, alpha);
        let positive = f.bin(B::Lt, zero, x);
        let y = f.select(positive, x, below);
        f.bin(B::Mul, gamma, y)
    }),
    ("HardSigmoid", 1, |f| {
        let (x, alpha, beta) = (f.x(0), f.a(0), f.a(1));
        let ax = f.bin(B::Mul, alpha, x);
        let y = f.bin(B::Add, ax, beta);
        f.clamp(y, 0.0, 1.0)
    }),
    ("HardSwish", 1, |f| {
        let (x, sixth, half) = (f.x(0), f.c(1.0 / 6.0), f.c(0.5));
        let ax = f.bin(B::Mul, sixth, x);
        let y = f.bin(B::Add, ax, half);
        let h = f.clamp(y, 0.0, 1.0);
        f.bin(B::Mul, x, h)
    }),
    // Attributes: bias, lambda.
    ("Shrink", 1, |f| {
        let (x, zero, bias, lambda) = (f.x(0), f.c(0.0), f.a(0), f.a(1));
        let minus = f.un(U::Neg, lambda);
        let (up, down) = (f.bin(B::Sub, x, bias), f.bin(B::Add, x, bias));
        let (is_high, is_low) = (f.bin(B::Lt, lambda, x), f.bin(B::Lt, x, minus));
        let high = f.select(is_high, up, zero);
        f.select(is_low, down, high)
    }),
    ("Mish", 1, |f| {
        let x = f.x(0);
        let s = f.un(U::Softplus, x);
        let t = f.un(U::Tanh, s);
        f.bin(B::Mul, x, t)
    }),
    ("Gelu", 1, |f| {
        let (x, r, one, half) = (f.x(0), f.c(std::f64::consts::FRAC_1_SQRT_2), f.c(1.0), f.c(0.5));
        let s = f.bin(B::Mul, x, r);
        let e = f.un(U::Erf, s);
        let y = f.bin(B::Add, e, one);
        let h = f.bin(B::Mul, half, x);
        f.bin(B::Mul, h, y)
    }),
    ("GeluTanh", 1, |f| {
        let (x, k, c, one, half) = (f.x(0), f.c((2.0 / std::f64::consts::PI).sqrt()), f.c(0.044715), f.c(1.0), f.c(0.5));
        let x2 = f.bin(B::Mul, x, x);
        let x3 = f.bin(B::Mul, x2, x);
        let cx3 = f.bin(B::Mul, c, x3);
        let sum = f.bin(B::Add, x, cx3);
        let arg = f.bin(B::Mul, k, sum);
        let t = f.un(U::Tanh, arg);
        let y = f.bin(B::Add, t, one);
        let h = f.bin(B::Mul, half, x);
        f.bin(B::Mul, h, y)
    }),
    // Operands: x, low, high.
    ("Clip", 3, |f| {
        let (x, lo, hi) = (f.x(0), f.x(1), f.x(2));
        let y = f.bin(B::Max, x, lo);
        f.bin(B::Min, y, hi)
    }),
    // Attributes: whether +inf and -inf count.
    ("IsInf", 1, |f| {
        let (x, zero) = (f.x(0), f.c(0.0));
        let is = f.un(U::IsInf, x);
        let (positive, negative) = (f.bin(B::Lt, zero, x), f.bin(B::Lt, x, zero));
        match (f.attrs[0] != 0.0, f.attrs[1] != 0.0) {
            (true, true) => is,
            (true, false) => f.bin(B::And, is, positive),
            (false, true) => f.bin(B::And, is, negative),
            (false, false) => f.bin(B::And, positive, negative),
        }
    }),
];

impl Pointwise {
    /// The formula of that name, for operands of these types.
    ///
    /// # Errors
    /// The operands are strings or of a type that is only stored, or differ where the formula needs one type.
    pub fn of(name: &'static str, attrs: &[f32], types: &[DType]) -> Result<Pointwise, Diagnostic> {
        let (_, arity, build) = TABLE
            .iter()
            .find(|(n, ..)| *n == name)
            .ok_or_else(|| Diagnostic::new(format!("there is no formula for {name}; this is a bug in the compiler")))?;
        if types.len() != *arity {
            return Err(Diagnostic::new(format!("{name} takes {arity} inputs, found {}", types.len())));
        }
        if let Some(t) = types.iter().find(|t| !computes(**t)) {
            return Err(Diagnostic::new(format!("{name} does not compute on {t}")).help("cast the tensor to a wider type first"));
        }
        let same = if name == "Where" { &types[1..] } else { types };
        if same.iter().any(|t| *t != same[0]) {
            let list = super::cx::list(types);
            return Err(Diagnostic::new(format!("the inputs of {name} must have one element type, found {list}")));
        }
        let mut f = Formula { e: Expr::default(), types, attrs };
        let result = build(&mut f);
        let mut e = f.e;
        e.results.push(result);
        Ok(Pointwise { name, expr: e.pruned() })
    }
    /// A conversion from one type to another.
    pub fn cast(from: DType, to: DType, _saturate: bool) -> Pointwise {
        let mut e = Expr::default();
        let x = e.input(0, from);
        let y = e.cast(x, to);
        e.results.push(y);
        Pointwise { name: "Cast", expr: e }
    }
}

/// Whether scalar expressions compute on the type.
pub fn computes(d: DType) -> bool {
    use DType::*;
    matches!(d, F32 | F64 | F16 | Bf16 | I8 | I16 | I32 | I64 | U8 | U16 | U32 | U64 | Bool)
}

impl Operator for Pointwise {
    fn infer(&self, cx: &mut Infer<'_>) -> Result<Vec<Fact>, Diagnostic> {
        let mut shape: Vec<Dim> = Vec::new();
        for i in 0..cx.inputs.len() {
            if !matches!(cx.ty(i), Some(Type::Tensor(..))) {
                return Err(Diagnostic::new(format!("{} needs tensors of known rank", self.name)));
            }
            shape = broadcast(&shape, cx.shape(i))?;
        }
        let mut facts: Vec<Fact> = self.expr.results.iter().map(|r| Fact::tensor(self.expr.ty(*r), shape.clone())).collect();
        facts[0].dims = self.contents(cx, &shape);
        Ok(facts)
    }
    fn lower(&self, _: &Facts<'_>) -> Lowering {
        Lowering::Map(self.expr.clone())
    }
}

impl Pointwise {
    /// The contents of a small integer result in terms of symbols: the shape arithmetic that exporters write.
    fn contents(&self, cx: &Infer<'_>, shape: &[Dim]) -> Option<Vec<Dim>> {
        let len = match shape {
            [] => 1,
            [n] => usize::try_from(n.as_int()?).ok().filter(|n| *n <= 64)?,
            _ => return None,
        };
        let integer = |d: DType| matches!(d, DType::I64 | DType::I32);
        if !integer(self.expr.ty(self.expr.results[0])) {
            return None;
        }
        let at = |i: usize, k: usize| -> Option<Dim> {
            let dims = cx.dims(i)?;
            dims.get(if dims.len() == 1 { 0 } else { k }).cloned()
        };
        (0..len)
            .map(|k| match self.name {
                "Add" => Some(at(0, k)? + at(1, k)?),
                "Sub" => Some(at(0, k)? - at(1, k)?),
                "Mul" => Some(at(0, k)? * at(1, k)?),
                "Max" => Some(at(0, k)?.most(&at(1, k)?)),
                "Min" => Some(at(0, k)?.least(&at(1, k)?)),
                // Extents are not negative, so that rounding towards zero and down agree for positive divisors.
                "Div" => at(1, k)?.as_int().filter(|d| *d > 0).and_then(|d| Some(at(0, k)?.floor_div(&Dim::int(d)))),
                "Cast" if integer(cx.dtype(0)) => at(0, k),
                "Where" => {
                    // `Where(Equal(x, -1), a, b)` on constants: exporters guard Expand so.
                    let c = cx.constant(0)?;
                    let c = c.bytes();
                    at(if c[if c.len() == 1 { 0 } else { k }] != 0 { 1 } else { 2 }, k)
                }
                _ => None,
            })
            .collect()
    }
}

type Read = Result<Vec<ValueId>, Diagnostic>;

fn table_name(r: &Reader<'_, '_>) -> Result<&'static str, Diagnostic> {
    let name = &r.node.op_type;
    TABLE
        .iter()
        .map(|(n, ..)| *n)
        .find(|n| n == name)
        .ok_or_else(|| Diagnostic::new(format!("there is no formula for {}; this is a bug in the compiler", shown(name))))
}

/// Reads an operator of one operand and no attribute.
pub fn read_unary(r: &mut Reader<'_, '_>) -> Read {
    let (name, x) = (table_name(r)?, r.input(0)?);
    Ok(vec![r.pointwise(name, &[x])?])
}

/// The second operand of an old binary operator, whose `broadcast` attribute aligned it at `axis`.
fn legacy_operand(r: &mut Reader<'_, '_>, a: ValueId, b: ValueId) -> Result<ValueId, Diagnostic> {
    if r.version >= 7 || r.int("broadcast", 0)? == 0 {
        return Ok(b);
    }
    let (ra, shape) = (r.rank(a)?, r.shape(b)?);
    let Some(axis) = r.int_opt("axis")? else { return Ok(b) };
    let axis = r.axis(axis, ra)?;
    let mut shape = shape;
    while shape.len() + axis < ra {
        shape.push(Dim::int(1));
    }
    r.reshape(b, shape)
}

/// Reads an operator of two operands.
pub fn read_binary(r: &mut Reader<'_, '_>) -> Read {
    let (name, a, b) = (table_name(r)?, r.input(0)?, r.input(1)?);
    if r.dtype(a) == DType::Str && name == "Equal" {
        return super::strings::read_equal(r);
    }
    let b = legacy_operand(r, a, b)?;
    Ok(vec![r.pointwise(name, &[a, b])?])
}

/// Reads `Pow`, whose exponent may have another type than the base.
pub fn read_pow(r: &mut Reader<'_, '_>) -> Read {
    let (a, b) = (r.input(0)?, r.input(1)?);
    let b = legacy_operand(r, a, b)?;
    let mut e = Expr::default();
    let (ta, tb) = (r.dtype(a), r.dtype(b));
    if let Some(t) = [ta, tb].into_iter().find(|t| !computes(*t)) {
        return Err(Diagnostic::new(format!("Pow does not compute on {t}")));
    }
    let (x, y) = (e.input(0, ta), e.input(1, tb));
    // An integer base with a float exponent is raised in floats, and converted back.
    let wide = if ta.is_float() || !tb.is_float() { ta } else { DType::F64 };
    let (x, y) = (e.cast(x, wide), e.cast(y, wide));
    let p = e.bin(B::Pow, x, y);
    let p = e.cast(p, ta);
    e.results.push(p);
    Ok(vec![r.emit(Pointwise { name: "Pow", expr: e }, &[a, b])?])
}

/// Reads `Mod`, in Python's or C's sense.
pub fn read_mod(r: &mut Reader<'_, '_>) -> Read {
    let (a, b) = (r.input(0)?, r.input(1)?);
    let fmod = r.int("fmod", 0)? != 0;
    Ok(vec![r.pointwise(if fmod { "Fmod" } else { "Mod" }, &[a, b])?])
}

/// Reads `BitShift`.
pub fn read_bit_shift(r: &mut Reader<'_, '_>) -> Read {
    let (a, b) = (r.input(0)?, r.input(1)?);
    let left = r.word("direction", &["LEFT", "RIGHT"])? == "LEFT";
    Ok(vec![r.pointwise(if left { "ShiftLeft" } else { "ShiftRight" }, &[a, b])?])
}

/// Reads `Max`, `Min`, `Sum` and `Mean` of any number of operands.
pub fn read_variadic(r: &mut Reader<'_, '_>) -> Read {
    let name = match r.node.op_type.as_str() {
        "Max" => "Max",
        "Min" => "Min",
        _ => "Add",
    };
    let mut acc = r.input(0)?;
    for i in 1..r.inputs.len() {
        let x = r.input(i)?;
        acc = r.pointwise(name, &[acc, x])?;
    }
    if r.node.op_type == "Mean" && r.inputs.len() > 1 {
        let n = r.scalar(r.inputs.len() as f64, r.dtype(acc));
        acc = r.pointwise("Div", &[acc, n])?;
    }
    Ok(vec![acc])
}

/// Reads an activation with float attributes.
pub fn read_activation(r: &mut Reader<'_, '_>) -> Read {
    let x = r.input(0)?;
    let old = r.version < 6;
    let (name, attrs): (&'static str, Vec<f32>) = match r.node.op_type.as_str() {
        "Elu" => ("Elu", vec![r.float("alpha", 1.0)?]),
        "LeakyRelu" => ("LeakyRelu", vec![r.float("alpha", 0.01)?]),
        "Celu" => ("Celu", vec![r.float("alpha", 1.0)?]),
        "ThresholdedRelu" => ("ThresholdedRelu", vec![r.float("alpha", 1.0)?]),
        "Swish" => ("Swish", vec![r.float("alpha", 1.0)?]),
        "Selu" => {
            let (alpha, gamma) = if old { (1.6732, 1.0507) } else { (1.673_263_2, 1.050_701) };
            ("Selu", vec![r.float("alpha", alpha)?, r.float("gamma", gamma)?])
        }
        "HardSigmoid" => ("HardSigmoid", vec![r.float("alpha", 0.2)?, r.float("beta", 0.5)?]),
        "HardSwish" => ("HardSwish", vec![]),
        "Shrink" => ("Shrink", vec![r.float("bias", 0.0)?, r.float("lambd", 0.5)?]),
        "Mish" => ("Mish", vec![]),
        _ => (if r.word("approximate", &["none", "tanh"])? == "tanh" { "GeluTanh" } else { "Gelu" }, vec![]),
    };
    let dtype = r.dtype(x);
    // Integer operands, which Shrink allows, are computed in f64 and converted back.
    if !dtype.is_float() {
        let wide = r.cast(x, DType::F64)?;
        let y = r.emit(Pointwise::of(name, &attrs, &[DType::F64])?, &[wide])?;
        return Ok(vec![r.cast(y, dtype)?]);
    }
    Ok(vec![r.emit(Pointwise::of(name, &attrs, &[dtype])?, &[x])?])
}

/// Reads `Clip`: bounds as attributes up to opset 10, as operands since.
pub fn read_clip(r: &mut Reader<'_, '_>) -> Read {
    let x = r.input(0)?;
    let dtype = r.dtype(x);
    let (lo, hi) = if r.version < 11 {
        let (lo, hi) = (r.float_opt("min")?, r.float_opt("max")?);
        (lo.map(|v| r.scalar(v as f64, dtype)), hi.map(|v| r.scalar(v as f64, dtype)))
    } else {
        (r.opt(1), r.opt(2))
    };
    Ok(vec![match (lo, hi) {
        (None, None) => x,
        (Some(lo), None) => r.pointwise("Max", &[x, lo])?,
        (None, Some(hi)) => r.pointwise("Min", &[x, hi])?,
        (Some(lo), Some(hi)) => r.pointwise("Clip", &[x, lo, hi])?,
    }])
}

/// Reads `IsInf`.
pub fn read_is_inf(r: &mut Reader<'_, '_>) -> Read {
    let x = r.input(0)?;
    let attrs = [r.int("detect_positive", 1)? as f32, r.int("detect_negative", 1)? as f32];
    let dtype = r.dtype(x);
    Ok(vec![r.emit(Pointwise::of("IsInf", &attrs, &[dtype])?, &[x])?])
}

/// Reads `PRelu`, whose slope of opset 6 is given by channel.
pub fn read_prelu(r: &mut Reader<'_, '_>) -> Read {
    let (x, slope) = (r.input(0)?, r.input(1)?);
    let (rank, shape) = (r.rank(x)?, r.shape(slope)?);
    let slope = if r.version < 9 && shape.len() == 1 && rank > 2 {
        let mut by_channel = shape;
        by_channel.resize(rank - 1, Dim::int(1));
        r.reshape(slope, by_channel)?
    } else {
        slope
    };
    Ok(vec![r.pointwise("PRelu", &[x, slope])?])
}

/// Reads `Where`.
pub fn read_where(r: &mut Reader<'_, '_>) -> Read {
    let (c, a, b) = (r.input(0)?, r.input(1)?, r.input(2)?);
    Ok(vec![r.pointwise("Where", &[c, a, b])?])
}

/// Reads `Cast`; string conversions are host functions.
pub fn read_cast(r: &mut Reader<'_, '_>) -> Read {
    let x = r.input(0)?;
    let to = r.dtype_attr("to")?.ok_or_else(|| Diagnostic::new("attribute to is missing"))?;
    cast(r, x, to)
}

/// Reads `CastLike`.
pub fn read_cast_like(r: &mut Reader<'_, '_>) -> Read {
    let (x, like) = (r.input(0)?, r.input(1)?);
    let to = r.dtype(like);
    cast(r, x, to)
}

fn cast(r: &mut Reader<'_, '_>, x: ValueId, to: DType) -> Read {
    let from = r.dtype(x);
    if from == to {
        return Ok(vec![x]);
    }
    if from == DType::Str || to == DType::Str {
        return super::strings::cast(r, x, to);
    }
    let saturate = r.int("saturate", 1)? != 0;
    let round = r.word("round_mode", &["up", "down", "nearest"])?;
    if super::narrow::is_narrow(to) && (computes(from) || super::narrow::is_narrow(from)) {
        return Ok(vec![super::narrow::narrow(r, x, to, saturate, round)?]);
    }
    let x = super::narrow::widen(r, x)?;
    let from = r.dtype(x);
    if !computes(from) || !computes(to) {
        return Err(Diagnostic::new(format!("Cast from {from} to {to} is not supported yet")));
    }
    if from == to {
        return Ok(vec![x]);
    }
    Ok(vec![r.emit(Pointwise::cast(from, to, true), &[x])?])
}

/// Reads [SwiGLU](https://onnx.ai/onnx/operators/onnx__SwiGLU.html): `a · sigmoid(alpha · a) · b`.
pub fn read_swiglu(r: &mut Reader<'_, '_>) -> Read {
    let (a, b, alpha) = (r.input(0)?, r.input(1)?, r.float("alpha", 1.0)?);
    if r.shape(a)? != r.shape(b)? {
        return Err(Diagnostic::new("SwiGLU needs two tensors of one shape"));
    }
    let gate = r.emit(Pointwise::of("Swish", &[alpha], &[r.dtype(a)])?, &[a])?;
    Ok(vec![r.mul(gate, b)?])
}

/// Reads `Identity`.
pub fn read_identity(r: &mut Reader<'_, '_>) -> Read {
    Ok(vec![r.input(0)?])
}

/// A Dropout whose training flag is set, or known only at run time.
fn training_dropout(r: &mut Reader<'_, '_>, x: ValueId, training: ValueId) -> Read {
    let (shape, dtype, seed) = (r.shape(x)?, r.dtype(x), r.int("seed", 0)?);
    let wide = if dtype == DType::F64 { dtype } else { DType::F32 };
    let inputs = vec![Some(r.cast(x, wide)?), r.opt(1), Some(training)];
    let results = vec![Type::Tensor(wide, shape.clone()), Type::Tensor(DType::Bool, shape)];
    let mut out = super::host::call_with(r, "dropout", inputs, vec![seed], vec![], results)?;
    out[0] = r.cast(out[0], dtype)?;
    Ok(out)
}

/// Reads `Dropout`, which does nothing at inference; its mask is all true.
pub fn read_dropout(r: &mut Reader<'_, '_>) -> Read {
    let x = r.input(0)?;
    if let Some(training) = r.opt(2) {
        let on = match r.constant(training) {
            Some(t) => t.bytes().iter().any(|b| *b != 0),
            None => true,
        };
        let ratio_zero = r.opt(1).and_then(|v| r.constant(v)).and_then(|t| t.to_f64s()).is_some_and(|v| v == [0.0]);
        if on && !ratio_zero {
            return training_dropout(r, x, training);
        }
    }
    let mut out = vec![x];
    if r.outputs() > 1 {
        let mask = if r.version >= 10 { DType::Bool } else { r.dtype(x) };
        let one = r.scalar(1.0, mask);
        let shape = r.shape(x)?;
        out.push(r.emit(super::movement::Expand { shape }, &[one])?);
    }
    Ok(out)
}
