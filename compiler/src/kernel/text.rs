//! Scalar expressions as text: calls of functions, where what is used twice has a name.
//!
//! `t0 = sigmoid(x0); mul(x0, t0)` is the expression of one result; several follow each other with semicolons between. Types are left
//! out where they go without saying: an input has the type of its operand, a literal that of the first operand, a function that of its
//! operands. `2:i64` and `x1:u8` say otherwise.

use super::{At, Binary, Expr, Literal, Scalar, Unary, operands};
use crate::ir::text::{Cursor, Parsed};
use kiln_kernels::dtype::DType;
use std::collections::BTreeMap;
use std::fmt::{self, Write};

/// An expression nested deeper gets names in between.
const MOST_NESTED: u32 = 32;

/// The type of a literal that does not say its own.
fn usual(types: &[Option<DType>]) -> DType {
    types.first().copied().flatten().unwrap_or(DType::F32)
}

/// What writes an expression.
struct Writer<'a> {
    e: &'a Expr,
    /// The operands' types; `None` leaves out every type.
    types: Option<&'a [Option<DType>]>,
    names: BTreeMap<At, usize>,
}

impl Writer<'_> {
    fn annotate(&self, f: &mut dyn Write, ty: DType, usual: impl FnOnce(&[Option<DType>]) -> Option<DType>) -> fmt::Result {
        match self.types {
            Some(types) if usual(types) != Some(ty) => write!(f, ":{ty}"),
            _ => Ok(()),
        }
    }
    fn operand(&self, f: &mut dyn Write, a: At) -> fmt::Result {
        match self.names.get(&a) {
            Some(t) => write!(f, "t{t}"),
            None => self.whole(f, a),
        }
    }
    fn whole(&self, f: &mut dyn Write, at: At) -> fmt::Result {
        let (s, ty) = self.e.code[at.0 as usize];
        match s {
            Scalar::In(i) => {
                write!(f, "x{i}")?;
                return self.annotate(f, ty, |t| t.get(i as usize).copied().flatten());
            }
            Scalar::Const(c) => {
                write!(f, "{c:?}")?;
                return self.annotate(f, ty, |t| Some(usual(t)));
            }
            Scalar::Unary(g, _) => f.write_str(g.text())?,
            Scalar::Binary(g, ..) => f.write_str(g.text())?,
            Scalar::Select(..) => f.write_str("select")?,
            Scalar::Cast(_) => write!(f, "{ty}")?,
        }
        self.annotate(f, ty, |_| Some(natural(self.e, s).unwrap_or(ty)))?;
        for (i, a) in operands(s).into_iter().enumerate() {
            f.write_str(if i > 0 { ", " } else { "(" })?;
            self.operand(f, a)?;
        }
        f.write_str(")")
    }
}

/// The type of an instruction's result where nothing else is said.
fn natural(e: &Expr, s: Scalar) -> Option<DType> {
    Some(match s {
        Scalar::Unary(Unary::IsNan | Unary::IsInf, _) => DType::Bool,
        Scalar::Binary(g, ..) if g.compares() => DType::Bool,
        Scalar::Unary(_, a) | Scalar::Binary(_, a, _) | Scalar::Select(_, a, _) => e.ty(a),
        Scalar::In(_) | Scalar::Const(_) | Scalar::Cast(_) => return None,
    })
}

/// Writes an expression over operands of these types; without them no type is shown.
pub(crate) fn write(f: &mut dyn Write, e: &Expr, types: Option<&[Option<DType>]>) -> fmt::Result {
    let e = &e.pruned();
    let mut uses = vec![0; e.code.len()];
    (e.code.iter().flat_map(|(s, _)| operands(*s)).chain(e.results.iter().copied())).for_each(|a| uses[a.0 as usize] += 1);
    let (mut depth, mut w) = (vec![0u32; e.code.len()], Writer { e, types, names: BTreeMap::new() });
    for (i, (s, _)) in e.code.iter().enumerate() {
        let within = operands(*s);
        if within.is_empty() {
            continue;
        }
        depth[i] = 1 + within.into_iter().map(|a| depth[a.0 as usize]).max().unwrap_or(0);
        if uses[i] > 1 || depth[i] >= MOST_NESTED {
            let (at, name) = (At(i as u32), w.names.len());
            write!(f, "t{name} = ")?;
            w.whole(f, at)?;
            f.write_str("; ")?;
            w.names.insert(at, name);
            depth[i] = 0;
        }
    }
    for (i, r) in e.results.iter().enumerate() {
        f.write_str(if i > 0 { "; " } else { "" })?;
        w.operand(f, *r)?;
    }
    Ok(())
}

/// Reads an expression over operands of these types, up to a closing brace.
pub(crate) fn read(p: &mut Cursor<'_>, types: &[Option<DType>]) -> Parsed<Expr> {
    let mut r = Reader { e: Expr::default(), types, names: BTreeMap::new() };
    loop {
        let name = p.peek_word();
        if name.starts_with('t') && p.numbered("t", "").is_ok() {
            if p.eat("=") {
                let at = r.operand(p)?;
                if r.names.insert(name, at).is_some() {
                    return Err(format!("{name} is defined twice"));
                }
                p.expect(";")?;
                continue;
            }
            r.e.results.push(r.named(name)?);
        } else {
            let at = r.operand(p)?;
            r.e.results.push(at);
        }
        if !p.eat(";") {
            return Ok(r.e);
        }
    }
}

struct Reader<'a> {
    e: Expr,
    types: &'a [Option<DType>],
    names: BTreeMap<&'a str, At>,
}

impl<'a> Reader<'a> {
    fn named(&self, name: &str) -> Parsed<At> {
        self.names.get(name).copied().ok_or_else(|| format!("nothing defines {name}"))
    }
    fn annotated(&self, p: &mut Cursor<'_>, usual: Option<DType>, what: &str) -> Parsed<DType> {
        match (p.eat(":"), usual) {
            (true, _) => p.dtype(),
            (false, Some(d)) => Ok(d),
            (false, None) => Err(format!("{what} needs a type: it is no operand")),
        }
    }
    fn operand(&mut self, p: &mut Cursor<'_>) -> Parsed<At> {
        p.nested(|p| self.instruction(p))
    }
    fn instruction(&mut self, p: &mut Cursor<'_>) -> Parsed<At> {
        let word = p.peek_word();
        if word.starts_with('x') && p.numbered("x", "").is_ok() {
            let i: u32 = word[1..].parse().map_err(|_| format!("{word} is no operand"))?;
            let ty = self.annotated(p, self.types.get(i as usize).copied().flatten(), word)?;
            return Ok(self.e.push(Scalar::In(i), ty));
        }
        if word.starts_with('t') && p.numbered("t", "").is_ok() {
            return self.named(word);
        }
        if let Some(literal) = literal(p.peek_number()) {
            let _ = p.number::<String>("a number");
            let ty = self.annotated(p, Some(usual(self.types)), word)?;
            return Ok(self.e.push(Scalar::Const(literal), ty));
        }
        let unary = Unary::ALL.iter().find(|f| f.text() == word);
        let binary = Binary::ALL.iter().find(|f| f.text() == word);
        let cast = DType::from_name(word);
        if unary.is_none() && binary.is_none() && cast.is_none() && word != "select" {
            return p.wrong("a scalar expression");
        }
        p.word("")?;
        let said = if p.eat(":") { Some(p.dtype()?) } else { None };
        let args = p.list("(", ")", |p| self.operand(p))?;
        let s = match (args.as_slice(), unary, binary) {
            (&[a], Some(f), _) => Scalar::Unary(*f, a),
            (&[a, b], _, Some(f)) => Scalar::Binary(*f, a, b),
            (&[a], ..) if cast.is_some() => Scalar::Cast(a),
            (&[c, a, b], None, None) if cast.is_none() => Scalar::Select(c, a, b),
            _ => return Err(format!("{word} does not take {} operands", args.len())),
        };
        let ty = said.or(cast).or_else(|| natural(&self.e, s)).unwrap_or(DType::F32);
        Ok(self.e.push(s, ty))
    }
}

/// The literal that a number is; a point or an exponent make it a float.
fn literal(text: &str) -> Option<Literal> {
    match text {
        "true" => Some(Literal::Bool(true)),
        "false" => Some(Literal::Bool(false)),
        "NaN" | "inf" | "-inf" => text.parse().ok().map(Literal::float),
        _ if !text.trim_start_matches('-').starts_with(|c: char| c.is_ascii_digit()) => None,
        _ => text.parse().map(Literal::Int).ok().or_else(|| text.parse().ok().map(Literal::float)),
    }
}
