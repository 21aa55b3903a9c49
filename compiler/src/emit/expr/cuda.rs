//! Scalar expressions in CUDA C++: one declaration an instruction, in the words of `scalar.cuh`.

use super::{Dialect, is_small_float, walk};
use crate::kernel::{At, Binary, Expr, Literal as L, Unary};
use kiln_kernels::dtype::DType;

/// The C++ type that stores elements of a type.
pub(crate) fn element(d: DType) -> &'static str {
    use DType::*;
    match d {
        F32 => "float",
        F64 => "double",
        F16 => "half",
        Bf16 => "bf16",
        I8 => "int8_t",
        I16 => "int16_t",
        I32 => "int32_t",
        I64 => "int64_t",
        U16 => "uint16_t",
        U32 => "uint32_t",
        U64 => "uint64_t",
        // Selection lets no others through.
        _ => "uint8_t",
    }
}

/// The C++ type an instruction computes in: 16-bit floats as f32, rounded after every instruction.
pub(crate) fn computed(d: DType) -> &'static str {
    match d {
        DType::F16 | DType::Bf16 => "float",
        DType::Bool => "bool",
        d => element(d),
    }
}

/// A stored element as the value computed with: `stored` is the type in memory, `ty` that of the graph.
pub(crate) fn load(ty: DType, x: &str) -> String {
    match ty {
        DType::Bool => format!("({x} != 0)"),
        _ => format!("widen({x})"),
    }
}

/// A computed value as it is stored.
pub(crate) fn store(stored: DType, x: &str) -> String {
    format!("Narrow<{}>::of({x})", element(stored))
}

/// Statements that compute the expression from `inputs`, and the names of its results.
pub(crate) fn print(e: &Expr, inputs: &[String]) -> (String, Vec<String>) {
    let lines = walk::<Cuda>(e, inputs).into_iter().map(|(at, ty, value)| format!("{} {} = {value}; ", computed(ty), Cuda::name(at)));
    (lines.collect(), e.results.iter().map(|r| Cuda::name(*r)).collect())
}

/// An f32 literal.
pub(crate) fn float(x: f32) -> String {
    Cuda::literal(L::float(f64::from(x)), DType::F32)
}

/// CUDA C++, as text.
struct Cuda;

impl Cuda {
    fn name(a: At) -> String {
        format!("t{}", a.0)
    }
}

impl Dialect for Cuda {
    type Text = String;

    fn literal(x: L, ty: DType) -> String {
        let v = x.as_f64();
        match ty {
            t if is_small_float(t) && !(v as f32).is_finite() => special(v, "float"),
            // Debug prints the shortest text that reads back as the same number, with a point or an exponent.
            t if is_small_float(t) => format!("{:?}f", v as f32),
            DType::F64 if !v.is_finite() => special(v, "double"),
            DType::F64 => format!("{v:?}"),
            DType::Bool => (x == L::Bool(true) || x == L::Int(1)).to_string(),
            t => {
                let n = match x {
                    L::Int(i) => i,
                    L::Bool(b) => i64::from(b),
                    L::Float(_) => v as i64,
                };
                // The least i64 has no literal of its own.
                format!("{}({}ull)", element(t), n as u64)
            }
        }
    }
    fn rounded(ty: DType, value: String) -> String {
        match ty {
            DType::F16 | DType::Bf16 => format!("widen(Narrow<{}>::of({value}))", element(ty)),
            _ => value,
        }
    }
    fn unary(f: Unary, a: At, ty: DType) -> String {
        let a = Cuda::name(a);
        let t = computed(ty);
        if ty == DType::Bool {
            return format!("!{a}");
        }
        if !ty.is_float() {
            return match f {
                Unary::Neg => format!("{t}(0 - (unsigned long long){a})"),
                Unary::Not => format!("{t}(~{a})"),
                Unary::Abs => format!("({a} < {t}(0) ? {t}(0 - (unsigned long long){a}) : {a})"),
                Unary::Sign => format!("sign({a})"),
                Unary::Ceil | Unary::Floor | Unary::Round | Unary::Trunc | Unary::IsNan | Unary::IsInf => a,
                _ => format!("to_integer<{t}>({})", call(f, &format!("double({a})"), true)),
            };
        }
        match f {
            Unary::Neg => format!("-{a}"),
            Unary::Sign => format!("sign({a})"),
            Unary::IsNan => format!("({a} != {a})"),
            Unary::IsInf => format!("({a} == {t}(INFINITY) || {a} == -{t}(INFINITY))"),
            _ => call(f, &a, ty == DType::F64),
        }
    }
    fn binary(f: Binary, a: At, b: At, ty: DType) -> String {
        let (a, b, t) = (Cuda::name(a), Cuda::name(b), computed(ty));
        let sign = |word: &str| format!("{a} {word} {b}");
        let function = |word: &str| format!("{word}({a}, {b})");
        let wraps = |word: &str| format!("{t}((unsigned long long){a} {word} (unsigned long long){b})");
        match f {
            Binary::Eq => return sign("=="),
            Binary::Lt => return sign("<"),
            Binary::Le => return sign("<="),
            _ => {}
        }
        if ty == DType::Bool {
            return match f {
                Binary::Or | Binary::Add | Binary::Max => sign("|"),
                Binary::Xor => sign("^"),
                _ => sign("&"),
            };
        }
        let float = ty.is_float();
        match f {
            Binary::Add if float => sign("+"),
            Binary::Sub if float => sign("-"),
            Binary::Mul if float => sign("*"),
            Binary::Div if float => sign("/"),
            Binary::Pow if float => function("pow"),
            Binary::Add => wraps("+"),
            Binary::Sub => wraps("-"),
            Binary::Mul => wraps("*"),
            Binary::Div => function("divide"),
            Binary::Pow => function("power"),
            Binary::Rem => function("remainder"),
            Binary::Mod => function("modulo"),
            Binary::Shl => function("shift_left"),
            Binary::Shr => function("shift_right"),
            Binary::Min => function("least"),
            Binary::Max => function("greatest"),
            Binary::And => sign("&"),
            Binary::Or => sign("|"),
            _ => sign("^"),
        }
    }
    fn clamped(f: Binary, a: At, b: At) -> String {
        let (a, b) = (Cuda::name(a), Cuda::name(b));
        let word = if f == Binary::Min { "<" } else { ">" };
        format!("{b} {word} {a} ? {b} : {a}")
    }
    fn rectified(a: At) -> String {
        let a = Cuda::name(a);
        format!("{a} < 0 ? 0 : {a} + 0")
    }
    fn select(c: At, a: At, b: At) -> String {
        format!("{} ? {} : {}", Cuda::name(c), Cuda::name(a), Cuda::name(b))
    }
    fn quantized(x: At, zero: Option<At>) -> String {
        format!("quantized({}, {})", Cuda::name(x), zero.map_or("0.0f".into(), Cuda::name))
    }
    fn cast(a: At, from: DType, to: DType) -> String {
        let (a, t) = (Cuda::name(a), computed(to));
        match (from, to) {
            (DType::Bool, DType::Bool) => a,
            (_, DType::Bool) => format!("({a} != 0)"),
            (f, t_) if f.is_float() && !t_.is_float() => format!("to_integer<{t}>({a})"),
            _ => Cuda::rounded(to, format!("{t}({a})")),
        }
    }
}

/// A number that has no literal.
fn special(x: f64, t: &str) -> String {
    match () {
        () if x.is_nan() => format!("{t}(NAN)"),
        () if x < 0.0 => format!("-{t}(INFINITY)"),
        () => format!("{t}(INFINITY)"),
    }
}

/// A function of CUDA's library, whose names for f32 end in `f`, or of `scalar.cuh`.
fn call(f: Unary, a: &str, double: bool) -> String {
    let name = match f {
        Unary::Abs => "fabs",
        Unary::Round => "rint",
        Unary::Log => "log",
        Unary::Sigmoid | Unary::Softplus => return format!("{}({a})", f.text()),
        f => f.text(),
    };
    format!("{name}{}({a})", if double { "" } else { "f" })
}
