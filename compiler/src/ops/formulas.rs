//! The table of formulas: what each elementwise operator computes of one element of each operand.

use crate::kernel::{At, Binary as B, Expr, Unary as U};
use kiln_kernels::dtype::DType;

/// What a formula builds with.
pub(super) struct Formula<'a> {
    pub(super) e: Expr,
    pub(super) types: &'a [DType],
    pub(super) attrs: &'a [f32],
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

pub(super) type Build = fn(&mut Formula<'_>) -> At;

/// Name, number of operands, formula. Attributes are numbered in the order the reader passes them.
pub(super) const TABLE: &[(&str, usize, Build)] = &[
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
        let ax = if f.attrs[0] == 1.0 { x } else { f.bin(B::Mul, x, alpha) };
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
