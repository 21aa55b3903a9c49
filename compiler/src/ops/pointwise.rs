//! Elementwise operators: each a line in the table of formulas, over operands that broadcast.

use super::formulas::{Formula, TABLE};
use super::moved::moved;
use super::narrow::widen;
use super::{Facts, Infer, Lowering, Operator, Reader, broadcast};
use crate::diagnostics::{Diagnostic, shown};
use crate::ir::{Dim, Fact, Type, ValueId};
use crate::kernel::{Binary as B, Expr};
use kiln_kernels::dtype::DType;
use kiln_kernels::value::Tensor;

/// An elementwise operator. The name keeps its ONNX identity for rules; the expression is its meaning.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pointwise {
    /// The ONNX operator, or `Cast`.
    pub name: &'static str,
    /// The scalar function of one element of each operand.
    pub expr: Expr,
}

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
    pub fn cast(from: DType, to: DType) -> Pointwise {
        let mut e = Expr::default();
        let x = e.input(0, from);
        let y = e.cast(x, to);
        e.results.push(y);
        Pointwise { name: "Cast", expr: e }
    }
}

/// Names of expressions that are made elsewhere than in the table of formulas.
const OTHERS: &[&str] = &["Cast", "Pow", "QuantizeLinear", "DequantizeLinear", "OffsetBinary"];

/// Every name of an elementwise operator.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    TABLE.iter().map(|(n, ..)| *n).chain(OTHERS.iter().copied())
}

/// The name of an elementwise operator, as [`Pointwise::name`] has it.
pub(crate) fn known(name: &str) -> Option<&'static str> {
    names().find(|n| *n == name)
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
                // Extents are not negative, so that rounding towards zero and down agree for positive divisors; numbers may be.
                "Div" => {
                    let (a, d) = (at(0, k)?, at(1, k)?.as_int().filter(|d| *d > 0)?);
                    Some(a.as_int().map_or_else(|| a.floor_div(&Dim::int(d)), |a| Dim::int(a / d)))
                }
                // The remainder has the sign of the divisor: images are padded to whole windows by it.
                "Mod" => {
                    let (a, d) = (at(0, k)?, Dim::int(at(1, k)?.as_int().filter(|d| *d > 0)?));
                    Some(a.clone() - a.floor_div(&d) * d)
                }
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
    known(name).ok_or_else(|| Diagnostic::new(format!("there is no formula for {}; this is a bug in the compiler", shown(name))))
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

/// What a comparison of extents gives, where that is the same for all that they can be.
fn compared(r: &Reader<'_, '_>, name: &str, a: &Dim, b: &Dim) -> Option<bool> {
    let apart = r.b.graph.range(&(a.clone() - b.clone()));
    // Whether it is at least, and at most, that number.
    let (least, most) = (|n: i64| apart.lo >= n, |n: i64| apart.hi.is_some_and(|h| h <= n));
    let decided = |yes: bool, no: bool| (yes || no).then_some(yes);
    match name {
        "Equal" => a.equals(b).or_else(|| (least(1) || most(-1)).then_some(false)),
        "Less" => decided(most(-1), least(0)),
        "LessOrEqual" => decided(most(0), least(1)),
        "Greater" => decided(least(1), most(0)),
        "GreaterOrEqual" => decided(least(0), most(-1)),
        _ => None,
    }
}

/// Reads an operator of two operands.
pub fn read_binary(r: &mut Reader<'_, '_>) -> Read {
    let (name, a, b) = (table_name(r)?, r.input(0)?, r.input(1)?);
    if r.dtype(a) == DType::Str && name == "Equal" {
        return super::strings::read_equal(r);
    }
    let b = legacy_operand(r, a, b)?;
    let y = r.pointwise(name, &[a, b])?;
    // `Equal(shape, -1)` guards an Expand, `Greater(length, 512)` a branch: what is known of extents decides them here.
    if r.dtype(y) == DType::Bool
        && let (Some(x), Some(z)) = (r.dims(a), r.dims(b))
        && let Some(dims) = r.ty(y).closed_dims().filter(|d| d.len() <= 1)
    {
        let n = dims.first().copied().unwrap_or(1);
        let at = |d: &[Dim], k: usize| d.get(if d.len() == 1 { 0 } else { k }).cloned();
        let known: Option<Vec<u8>> = (0..n).map(|k| compared(r, name, &at(x, k)?, &at(z, k)?).map(u8::from)).collect();
        if let Some(known) = known {
            return Ok(vec![r.tensor(Tensor::with_dtype(DType::Bool, &dims, &known))]);
        }
    }
    Ok(vec![y])
}

/// Reads `Pow`, whose exponent may have another type than the base.
pub fn read_pow(r: &mut Reader<'_, '_>) -> Read {
    let (a, b) = (r.input(0)?, r.input(1)?);
    let b = legacy_operand(r, a, b)?;
    Ok(vec![power(r, a, b)?])
}

/// `a` to the power of `b`, in the type of `a`.
pub fn power(r: &mut Reader<'_, '_>, a: ValueId, b: ValueId) -> Result<ValueId, Diagnostic> {
    let mut e = Expr::default();
    let (ta, tb) = (r.dtype(a), r.dtype(b));
    if let Some(t) = [ta, tb].into_iter().find(|t| !computes(*t)) {
        return Err(Diagnostic::new(format!("Pow does not compute on {t}")));
    }
    let (x, y) = (e.input(0, ta), e.input(1, tb));
    // An integer base with a float exponent is raised in floats, and converted back, as is a float with an exponent that it does not hold.
    let wide = match ta.is_float() {
        false if tb.is_float() => DType::F64,
        true if ta.bits() < 32 && tb != ta => DType::F32,
        _ => ta,
    };
    let (x, y) = (e.cast(x, wide), e.cast(y, wide));
    let p = e.bin(B::Pow, x, y);
    let p = e.cast(p, ta);
    e.results.push(p);
    r.emit(Pointwise { name: "Pow", expr: e }, &[a, b])
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
    let x = widen(r, x)?;
    let attrs = [r.int("detect_positive", 1)? as f32, r.int("detect_negative", 1)? as f32];
    let dtype = r.dtype(x);
    Ok(vec![r.emit(Pointwise::of("IsInf", &attrs, &[dtype])?, &[x])?])
}

/// Reads `IsNaN`.
pub fn read_is_nan(r: &mut Reader<'_, '_>) -> Read {
    let x = r.input(0)?;
    let x = widen(r, x)?;
    Ok(vec![r.pointwise("IsNaN", &[x])?])
}

/// Reads `PRelu`, whose slope is given by channel before opset 7, and still in some files of 7 and 8.
pub fn read_prelu(r: &mut Reader<'_, '_>) -> Read {
    let (x, slope) = (r.input(0)?, r.input(1)?);
    let (rank, shape) = (r.rank(x)?, r.shape(slope)?);
    let last = r.shape(x)?.last().is_some_and(|d| shape.first() == Some(d) || shape.first().is_some_and(|s| s.is(1)));
    let slope = if shape.len() == 1 && rank > 2 && (r.version < 7 || (r.version < 9 && !last)) {
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
    Ok(vec![moved(r, &[a, b], computes, |r, x| r.pointwise("Where", &[c, x[0], x[1]]))?])
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
