//! Scalar expressions in Rust: one `let` an instruction.

use super::super::{element, ident, names};
use super::{Dialect, is_small_float, walk};
use crate::kernel::{At, Binary, Expr, Literal as L, Unary};
use kiln_kernels::dtype::DType;
use proc_macro2::{Ident, Literal, Span, TokenStream};
use quote::{ToTokens, quote};

/// The Rust type an instruction computes in: 16-bit floats as f32, rounded after every instruction.
pub(crate) fn computed(d: DType) -> TokenStream {
    match d {
        DType::F16 | DType::Bf16 => quote!(f32),
        DType::Bool => quote!(bool),
        d => element(d),
    }
}

/// A stored element as the value computed with.
pub(crate) fn load(d: DType, stored: TokenStream) -> TokenStream {
    let k = names::kernels();
    match d {
        DType::F16 => quote!(#k::dtype::f16(#stored).to_f32()),
        DType::Bf16 => quote!(#k::dtype::bf16(#stored).to_f32()),
        DType::Bool => quote!(#stored != 0),
        _ => stored,
    }
}

/// A computed value as it is stored.
pub(crate) fn store(d: DType, value: TokenStream) -> TokenStream {
    let k = names::kernels();
    match d {
        DType::F16 => quote!(#k::dtype::f16::from_f32(#value).0),
        DType::Bf16 => quote!(#k::dtype::bf16::from_f32(#value).0),
        DType::Bool => quote!(#value as u8),
        _ => value,
    }
}

fn rounded(d: DType, value: TokenStream) -> TokenStream {
    let k = names::kernels();
    match d {
        DType::F16 => quote!(#k::dtype::f16::from_f32(#value).to_f32()),
        DType::Bf16 => quote!(#k::dtype::bf16::from_f32(#value).to_f32()),
        _ => value,
    }
}

/// A literal, floats by their bits where decimal text would not do.
pub(crate) fn literal(x: L, ty: DType) -> TokenStream {
    match ty {
        DType::F32 | DType::F16 | DType::Bf16 => {
            let v = x.as_f64() as f32;
            if v.is_finite() {
                let l = Literal::f32_suffixed(v.abs());
                if v.is_sign_negative() { quote!((-#l)) } else { quote!(#l) }
            } else {
                let bits = Literal::u32_unsuffixed(v.to_bits());
                quote!(f32::from_bits(#bits))
            }
        }
        DType::F64 => {
            let v = x.as_f64();
            if v.is_finite() {
                let l = Literal::f64_suffixed(v.abs());
                if v.is_sign_negative() { quote!((-#l)) } else { quote!(#l) }
            } else {
                let bits = Literal::u64_unsuffixed(v.to_bits());
                quote!(f64::from_bits(#bits))
            }
        }
        DType::Bool => {
            let b = x == L::Bool(true) || x == L::Int(1);
            quote!(#b)
        }
        _ => {
            let v = match x {
                L::Int(i) => i,
                L::Bool(b) => b as i64,
                L::Float(_) => x.as_f64() as i64,
            };
            let t = element(ty);
            if (0..128).contains(&v) {
                let l = Literal::i64_unsuffixed(v);
                quote!((#l as #t))
            } else {
                let l = Literal::i64_suffixed(v);
                quote!((#l as #t))
            }
        }
    }
}

/// Statements that compute the expression from `inputs`, and the names of its results.
pub(crate) fn print(e: &Expr, inputs: &[TokenStream]) -> (TokenStream, Vec<Ident>) {
    let mut code = TokenStream::new();
    for (at, ty, value) in walk::<Rust>(e, inputs) {
        let (t, rust) = (name(at), computed(ty));
        code.extend(quote!(let #t: #rust = #value;));
    }
    (code, e.results.iter().map(|r| name(*r)).collect())
}

fn name(a: At) -> Ident {
    ident("t", a.0 as usize)
}

/// Rust, as tokens.
struct Rust;

impl Dialect for Rust {
    type Text = TokenStream;

    fn literal(x: L, ty: DType) -> TokenStream {
        literal(x, ty)
    }
    fn rounded(ty: DType, value: TokenStream) -> TokenStream {
        rounded(ty, value)
    }
    fn unary(f: Unary, a: At, ty: DType) -> TokenStream {
        unary(f, name(a), ty)
    }
    fn binary(f: Binary, a: At, b: At, ty: DType) -> TokenStream {
        binary(f, name(a), name(b), ty)
    }
    fn clamped(f: Binary, a: At, b: At) -> TokenStream {
        let (a, b) = (name(a), name(b));
        if f == Binary::Min { quote!(if #b < #a { #b } else { #a }) } else { quote!(if #b > #a { #b } else { #a }) }
    }
    fn rectified(a: At) -> TokenStream {
        let a = name(a);
        quote!(if #a < 0.0 { 0.0 } else { #a + 0.0 })
    }
    fn select(c: At, a: At, b: At) -> TokenStream {
        let (c, a, b) = (name(c), name(a), name(b));
        quote!(if #c { #a } else { #b })
    }
    fn quantized(x: At, zero: Option<At>) -> TokenStream {
        let (k, x, zero) = (names::kernels(), name(x), zero.map_or(quote!(0.0), |z| name(z).into_token_stream()));
        quote!(#k::support::scalar::quantized(#x, #zero))
    }
    fn cast(a: At, from: DType, to: DType) -> TokenStream {
        cast(name(a), from, to)
    }
}

fn unary(f: Unary, a: Ident, ty: DType) -> TokenStream {
    let k = names::kernels();
    let function = Ident::new(f.text(), Span::call_site());
    if is_small_float(ty) {
        return match f {
            Unary::Neg => quote!(-#a),
            Unary::Abs => quote!(#a.abs()),
            Unary::Sqrt => quote!(#a.sqrt()),
            Unary::IsNan => quote!(#a.is_nan()),
            Unary::IsInf => quote!(#a.is_infinite()),
            Unary::Sign => quote!(if #a > 0.0 { 1.0 } else if #a < 0.0 { -1.0 } else { #a }),
            Unary::Exp
            | Unary::Log
            | Unary::Tanh
            | Unary::Erf
            | Unary::Sigmoid
            | Unary::Softplus
            | Unary::Sin
            | Unary::Cos
            | Unary::Ceil
            | Unary::Floor
            | Unary::Round
            | Unary::Trunc => {
                quote!(#k::support::math::#function::<A>(#a))
            }
            _ => quote!(#k::support::scalar::#function(#a as f64) as f32),
        };
    }
    if ty == DType::F64 {
        return match f {
            Unary::Neg => quote!(-#a),
            Unary::IsNan => quote!(#a.is_nan()),
            Unary::IsInf => quote!(#a.is_infinite()),
            _ => quote!(#k::support::scalar::#function(#a)),
        };
    }
    if ty == DType::Bool {
        return quote!(!#a);
    }
    let t = element(ty);
    match f {
        Unary::Neg => quote!((0 as #t).wrapping_sub(#a)),
        Unary::Not => quote!(!#a),
        Unary::Abs => quote!(#k::support::scalar::Integer::magnitude(#a)),
        Unary::Sign => quote!(#k::support::scalar::Integer::sign(#a)),
        Unary::Ceil | Unary::Floor | Unary::Round | Unary::Trunc => quote!(#a),
        _ => quote!(#k::support::scalar::#function(#a as f64) as #t),
    }
}

fn binary(f: Binary, a: Ident, b: Ident, ty: DType) -> TokenStream {
    let k = names::kernels();
    match f {
        Binary::Eq => return quote!(#a == #b),
        Binary::Lt if ty == DType::Bool => return quote!(!#a & #b),
        Binary::Lt => return quote!(#a < #b),
        Binary::Le => return quote!(#a <= #b),
        _ => {}
    }
    if ty.is_float() {
        return match f {
            Binary::Add => quote!(#a + #b),
            Binary::Sub => quote!(#a - #b),
            Binary::Mul => quote!(#a * #b),
            Binary::Div => quote!(#a / #b),
            Binary::Rem => quote!(#a % #b),
            Binary::Mod if ty == DType::F64 => quote!(#k::support::scalar::modulo(#a, #b)),
            Binary::Mod => quote!(#k::support::scalar::modulo(#a as f64, #b as f64) as f32),
            Binary::Pow => quote!(#a.powf(#b)),
            // Comparisons in this order keep the first operand's NaN and let the second's through, and are one instruction each.
            Binary::Min => quote!(if #a.is_nan() || #a < #b { #a } else { #b }),
            _ => quote!(if #a.is_nan() || #a > #b { #a } else { #b }),
        };
    }
    if ty == DType::Bool {
        return match f {
            Binary::Or | Binary::Add | Binary::Max => quote!(#a | #b),
            Binary::Xor => quote!(#a ^ #b),
            _ => quote!(#a & #b),
        };
    }
    let method = |m: &str| {
        let m = Ident::new(m, Span::call_site());
        quote!(#k::support::scalar::Integer::#m(#a, #b))
    };
    match f {
        Binary::Add => quote!(#a.wrapping_add(#b)),
        Binary::Sub => quote!(#a.wrapping_sub(#b)),
        Binary::Mul => quote!(#a.wrapping_mul(#b)),
        Binary::Div => method("div"),
        Binary::Rem => method("rem"),
        Binary::Mod => method("modulo"),
        Binary::Pow => method("pow"),
        Binary::Shl => method("shl"),
        Binary::Shr => method("shr"),
        Binary::Min => quote!(#a.min(#b)),
        Binary::Max => quote!(#a.max(#b)),
        Binary::And => quote!(#a & #b),
        Binary::Or => quote!(#a | #b),
        _ => quote!(#a ^ #b),
    }
}

fn cast(a: Ident, from: DType, to: DType) -> TokenStream {
    let t = computed(to);
    let value = match (from, to) {
        (DType::Bool, DType::Bool) => return quote!(#a),
        (DType::Bool, d) if d.is_float() => quote!((#a as u8) as #t),
        (f, DType::Bool) if f.is_float() => return quote!(#a != 0.0),
        (_, DType::Bool) => return quote!(#a != 0),
        (f, DType::U8 | DType::I8 | DType::U16 | DType::I16) if is_small_float(f) => {
            let k = names::kernels();
            let (least, most) = match to {
                DType::U8 => (quote!(0), quote!(255)),
                DType::I8 => (quote!(-128), quote!(127)),
                DType::U16 => (quote!(0), quote!(65535)),
                _ => (quote!(-32768), quote!(32767)),
            };
            quote!(#k::support::scalar::saturate(#a, #least, #most) as #t)
        }
        _ => quote!(#a as #t),
    };
    rounded(to, value)
}
