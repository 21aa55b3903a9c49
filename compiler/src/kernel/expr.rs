//! `Expr`: the scalar expression of a pointwise kernel, the common tongue of the reference evaluator and of printed code.

use kiln_kernels::dtype::DType;
use std::cmp::Ordering;
use std::collections::BTreeMap;
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
    /// Whether the operands may change places without a change of any bit of the result, but for those of a NaN.
    pub fn commutes(self) -> bool {
        matches!(self, Binary::Add | Binary::Mul | Binary::And | Binary::Or | Binary::Xor | Binary::Eq)
    }
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

impl Scalar {
    /// The same with other operands.
    pub(super) fn with(self, of: impl Fn(At) -> At) -> Scalar {
        match self {
            Scalar::In(_) | Scalar::Const(_) => self,
            Scalar::Unary(f, a) => Scalar::Unary(f, of(a)),
            Scalar::Binary(f, a, b) => Scalar::Binary(f, of(a), of(b)),
            Scalar::Select(c, a, b) => Scalar::Select(of(c), of(a), of(b)),
            Scalar::Cast(a) => Scalar::Cast(of(a)),
        }
    }
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
            // Rounded here, so that equal numbers are equal literals.
            DType::F32 => Literal::float(f64::from(x as f32)),
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
            let at = match s {
                Scalar::In(i) => inputs[i as usize],
                _ => self.push(s.with(|a| map[a.0 as usize]), ty),
            };
            map.push(at);
        }
        other.results.iter().map(|r| map[r.0 as usize]).collect()
    }
    /// The same results by instructions in an order that depends on what they compute alone: operands that may change places are sorted,
    /// and each instruction stands right before its first reader. Instructions that nothing needs are left out.
    pub fn canonical(&self) -> Expr {
        let mut sorted = Expr::default();
        let mut map: Vec<At> = Vec::with_capacity(self.code.len());
        for &(s, ty) in &self.code {
            let s = match s.with(|a| map[a.0 as usize]) {
                Scalar::Binary(f, a, b) if f.commutes() && sorted.order(b, a).is_lt() => Scalar::Binary(f, b, a),
                s => s,
            };
            map.push(sorted.push(s, ty));
        }
        let mut out = Expr::default();
        let mut done: BTreeMap<At, At> = BTreeMap::new();
        let roots: Vec<At> = self.results.iter().map(|r| map[r.0 as usize]).collect();
        let mut stack: Vec<At> = roots.iter().rev().copied().collect();
        while let Some(&a) = stack.last() {
            let (s, ty) = sorted.code[a.0 as usize];
            let missing: Vec<At> = operands(s).into_iter().filter(|o| !done.contains_key(o)).collect();
            if missing.is_empty() {
                stack.pop();
                let s = s.with(|a| done[&a]);
                done.entry(a).or_insert_with(|| out.push(s, ty));
            }
            stack.extend(missing.into_iter().rev());
        }
        out.results = roots.iter().map(|r| done[r]).collect();
        out
    }
    /// An order of instructions by what they compute: inputs first, literals last. Equal instructions are one, so the first difference is
    /// down a single path.
    fn order(&self, a: At, b: At) -> Ordering {
        if a == b {
            return Ordering::Equal;
        }
        let rank = |s: Scalar| match s {
            Scalar::In(_) => 0,
            Scalar::Unary(..) => 1,
            Scalar::Binary(..) => 2,
            Scalar::Select(..) => 3,
            Scalar::Cast(_) => 4,
            Scalar::Const(_) => 5,
        };
        let ((x, x_ty), (y, y_ty)) = (self.code[a.0 as usize], self.code[b.0 as usize]);
        let own = match (x, y) {
            (Scalar::In(i), Scalar::In(j)) => i.cmp(&j),
            (Scalar::Const(c), Scalar::Const(d)) => c.cmp(&d),
            (Scalar::Unary(f, _), Scalar::Unary(g, _)) => f.cmp(&g),
            (Scalar::Binary(f, ..), Scalar::Binary(g, ..)) => f.cmp(&g),
            _ => rank(x).cmp(&rank(y)),
        };
        let inner = || operands(x).into_iter().zip(operands(y)).map(|(p, q)| self.order(p, q)).find(|o| o.is_ne());
        own.then(x_ty.cmp(&y_ty)).then_with(|| inner().unwrap_or(a.cmp(&b)))
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
            map[i] = out.push(s.with(|a| map[a.0 as usize]), ty);
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
