//! `Expr`: the scalar expression of a pointwise kernel, the common tongue of the reference evaluator and of printed code.

use kiln_kernels::dtype::DType;
use std::fmt;

/// A literal of any element type. Floats are kept as bits, so that NaN, infinities and -0.0 survive exactly.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Literal {
    /// A float of any width, as the bits of its f64 value.
    Float(u64),
    /// An integer of any width up to 64 bits, sign- or zero-extended.
    Int(i64),
    /// A truth value.
    Bool(bool),
}

impl Literal {
    /// A float literal.
    pub fn float(x: f64) -> Literal {
        Literal::Float(x.to_bits())
    }
    /// The value as f64.
    pub fn as_f64(self) -> f64 {
        match self {
            Literal::Float(b) => f64::from_bits(b),
            Literal::Int(i) => i as f64,
            Literal::Bool(b) => b as u8 as f64,
        }
    }
}

impl fmt::Debug for Literal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Literal::Float(b) => write!(f, "{:?}", f64::from_bits(*b)),
            Literal::Int(i) => write!(f, "{i}"),
            Literal::Bool(b) => write!(f, "{b}"),
        }
    }
}

macro_rules! functions {
    ($(#[$doc:meta])* $name:ident { $($variant:ident $text:literal $what:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $(#[doc = $what] $variant,)* }
        impl $name {
            /// Every function.
            pub const ALL: &'static [$name] = &[$($name::$variant,)*];
            /// The name of the function in graph text and in the kernel library.
            pub fn text(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }
        }
    };
}

functions! {
    /// Functions of one operand; the result has the operand's type unless said otherwise.
    Unary {
        Neg "neg" "-x; integers wrap.";
        Not "not" "Logical negation of a bool, bitwise of an integer.";
        Abs "abs" "|x|; integers wrap.";
        Sign "sign" "-1, 0 or 1; NaN stays.";
        Ceil "ceil" "The least integer not below.";
        Floor "floor" "The greatest integer not above.";
        Round "round" "The nearest integer, ties to even.";
        Trunc "trunc" "The integer part.";
        Sqrt "sqrt" "The square root.";
        Exp "exp" "e to the x.";
        Log "ln" "The natural logarithm.";
        Sin "sin" "Sine.";
        Cos "cos" "Cosine.";
        Tan "tan" "Tangent.";
        Asin "asin" "Arc sine.";
        Acos "acos" "Arc cosine.";
        Atan "atan" "Arc tangent.";
        Sinh "sinh" "Hyperbolic sine.";
        Cosh "cosh" "Hyperbolic cosine.";
        Tanh "tanh" "Hyperbolic tangent.";
        Asinh "asinh" "Inverse hyperbolic sine.";
        Acosh "acosh" "Inverse hyperbolic cosine.";
        Atanh "atanh" "Inverse hyperbolic tangent.";
        Erf "erf" "The error function.";
        Sigmoid "sigmoid" "1 / (1 + e^-x).";
        Softplus "softplus" "ln(1 + e^x).";
        IsNan "is_nan" "Whether x is not a number; bool.";
        IsInf "is_inf" "Whether x is infinite; bool.";
    }
}

functions! {
    /// Functions of two operands of one type; comparisons yield bool.
    Binary {
        Add "add" "a + b; integers wrap.";
        Sub "sub" "a - b; integers wrap.";
        Mul "mul" "a * b; integers wrap.";
        Div "div" "a / b; integers truncate and division by zero yields zero.";
        Rem "rem" "The remainder with the sign of a (C's fmod).";
        Mod "modulo" "The remainder with the sign of b (Python's %).";
        Pow "pow" "a to the power b.";
        Min "min" "The lesser; NaN when either is.";
        Max "max" "The greater; NaN when either is.";
        And "and" "Logical or bitwise and.";
        Or "or" "Logical or bitwise or.";
        Xor "xor" "Logical or bitwise exclusive or.";
        Shl "shl" "a shifted left by b; zero when b is not below the width.";
        Shr "shr" "a shifted right by b; only copies of the sign when b is not below the width.";
        Eq "eq" "a = b.";
        Lt "lt" "a < b.";
        Le "le" "a <= b.";
    }
}

impl Binary {
    /// Whether the result is a bool whatever the operands are.
    pub fn compares(self) -> bool {
        matches!(self, Binary::Eq | Binary::Lt | Binary::Le)
    }
}

/// The position of an instruction in its [`Expr`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct At(pub u32);

/// One instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scalar {
    /// The element of an input.
    In(u32),
    /// A literal.
    Const(Literal),
    /// A function of one operand.
    Unary(Unary, At),
    /// A function of two operands.
    Binary(Binary, At, At),
    /// The second operand where the first (a bool) holds, else the third.
    Select(At, At, At),
    /// The operand converted to the instruction's type, as ONNX `Cast` does it (saturating floats to integers as Rust does).
    Cast(At),
}

/// A scalar expression in SSA form: instructions in order, each used by later ones, with one or more results.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Expr {
    /// Instructions with their types.
    pub code: Vec<(Scalar, DType)>,
    /// The results, one per output of the kernel.
    pub results: Vec<At>,
}

impl Expr {
    /// Adds an instruction unless an equal one is there already; folds nothing else.
    pub fn push(&mut self, s: Scalar, ty: DType) -> At {
        match self.code.iter().position(|c| *c == (s, ty)) {
            Some(i) => At(i as u32),
            None => {
                self.code.push((s, ty));
                At(self.code.len() as u32 - 1)
            }
        }
    }
    /// The type of an instruction's result.
    pub fn ty(&self, a: At) -> DType {
        self.code[a.0 as usize].1
    }
    /// Input `i` of type `ty`.
    pub fn input(&mut self, i: usize, ty: DType) -> At {
        self.push(Scalar::In(i as u32), ty)
    }
    /// A float or integer literal of type `ty`.
    pub fn constant(&mut self, x: f64, ty: DType) -> At {
        let literal = match ty {
            DType::Bool => Literal::Bool(x != 0.0),
            t if t.is_float() => Literal::float(x),
            _ => Literal::Int(x as i64),
        };
        self.push(Scalar::Const(literal), ty)
    }
    /// A literal.
    pub fn constant_of(&mut self, x: Literal, ty: DType) -> At {
        self.push(Scalar::Const(x), ty)
    }
    /// A function of one operand.
    pub fn un(&mut self, f: Unary, a: At) -> At {
        let ty = if matches!(f, Unary::IsNan | Unary::IsInf) { DType::Bool } else { self.ty(a) };
        self.push(Scalar::Unary(f, a), ty)
    }
    /// A function of two operands.
    pub fn bin(&mut self, f: Binary, a: At, b: At) -> At {
        let ty = if f.compares() { DType::Bool } else { self.ty(a) };
        self.push(Scalar::Binary(f, a, b), ty)
    }
    /// `if c { a } else { b }`.
    pub fn select(&mut self, c: At, a: At, b: At) -> At {
        let ty = self.ty(a);
        self.push(Scalar::Select(c, a, b), ty)
    }
    /// A conversion.
    pub fn cast(&mut self, a: At, ty: DType) -> At {
        if self.ty(a) == ty { a } else { self.push(Scalar::Cast(a), ty) }
    }
    /// The number of inputs: one more than the greatest that occurs.
    pub fn inputs(&self) -> usize {
        self.code.iter().filter_map(|(s, _)| if let Scalar::In(i) = s { Some(*i as usize + 1) } else { None }).max().unwrap_or(0)
    }
    /// Copies the instructions of `other` here, with its inputs replaced by `inputs`; gives its results.
    pub fn inline(&mut self, other: &Expr, inputs: &[At]) -> Vec<At> {
        let mut map: Vec<At> = Vec::with_capacity(other.code.len());
        for &(s, ty) in &other.code {
            let m = |a: At| map[a.0 as usize];
            let at = match s {
                Scalar::In(i) => inputs[i as usize],
                Scalar::Const(_) => self.push(s, ty),
                Scalar::Unary(f, a) => self.push(Scalar::Unary(f, m(a)), ty),
                Scalar::Binary(f, a, b) => self.push(Scalar::Binary(f, m(a), m(b)), ty),
                Scalar::Select(c, a, b) => self.push(Scalar::Select(m(c), m(a), m(b)), ty),
                Scalar::Cast(a) => self.push(Scalar::Cast(m(a)), ty),
            };
            map.push(at);
        }
        other.results.iter().map(|r| map[r.0 as usize]).collect()
    }
    /// The same results without instructions that none of them needs.
    pub fn pruned(&self) -> Expr {
        let mut live = vec![false; self.code.len()];
        for r in &self.results {
            live[r.0 as usize] = true;
        }
        for i in (0..self.code.len()).rev() {
            if live[i] {
                for a in operands(self.code[i].0) {
                    live[a.0 as usize] = true;
                }
            }
        }
        let mut out = Expr::default();
        let mut map = vec![At(0); self.code.len()];
        for (i, &(s, ty)) in self.code.iter().enumerate().filter(|(i, _)| live[*i]) {
            let m = |a: At| map[a.0 as usize];
            map[i] = match s {
                Scalar::In(_) | Scalar::Const(_) => out.push(s, ty),
                Scalar::Unary(f, a) => out.push(Scalar::Unary(f, m(a)), ty),
                Scalar::Binary(f, a, b) => out.push(Scalar::Binary(f, m(a), m(b)), ty),
                Scalar::Select(c, a, b) => out.push(Scalar::Select(m(c), m(a), m(b)), ty),
                Scalar::Cast(a) => out.push(Scalar::Cast(m(a)), ty),
            };
        }
        out.results = self.results.iter().map(|r| map[r.0 as usize]).collect();
        out
    }
}

/// The operands of an instruction.
pub fn operands(s: Scalar) -> Vec<At> {
    match s {
        Scalar::In(_) | Scalar::Const(_) => vec![],
        Scalar::Unary(_, a) | Scalar::Cast(a) => vec![a],
        Scalar::Binary(_, a, b) => vec![a, b],
        Scalar::Select(a, b, c) => vec![a, b, c],
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        super::text::write(f, self, None)
    }
}
