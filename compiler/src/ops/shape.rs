//! Operators that move no element: Shape, Size, Reshape, Flatten, Squeeze, Unsqueeze and BitCast.

use super::{Axes, Facts, Infer, Lowering, Operator, Reader};
use crate::diagnostics::Diagnostic;
use crate::ir::{Dim, Fact, ValueId, product};
use kiln_kernels::dtype::DType;

/// A small integer tensor given by expressions over symbols: what shape arithmetic comes down to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Dims {
    /// The elements.
    pub elements: Vec<Dim>,
    /// Rank 0 (one element) or 1.
    pub scalar: bool,
    /// i64 or i32.
    pub dtype: DType,
}

impl Operator for Dims {
    fn infer(&self, _: &mut Infer<'_>) -> Result<Vec<Fact>, Diagnostic> {
        let shape = if self.scalar { vec![] } else { vec![self.elements.len().into()] };
        let mut fact = Fact::tensor(self.dtype, shape);
        fact.dims = Some(self.elements.clone());
        Ok(vec![fact])
    }
    fn lower(&self, _: &Facts<'_>) -> Lowering {
        Lowering::Dims
    }
}

/// The same elements under another shape.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reshape {
    /// The new shape, with as many elements.
    pub shape: Vec<Dim>,
}

impl Operator for Reshape {
    fn infer(&self, cx: &mut Infer<'_>) -> Result<Vec<Fact>, Diagnostic> {
        let (from, to) = (product(cx.shape(0)), product(&self.shape));
        if let (Some(a), Some(b)) = (from.as_int(), to.as_int())
            && a != b
        {
            return Err(Diagnostic::new(format!(
                "a tensor of shape [{}] has {a} elements and cannot become [{}] with {b}",
                super::cx::list(cx.shape(0)),
                super::cx::list(&self.shape)
            )));
        }
        let mut fact = Fact::tensor(cx.dtype(0), self.shape.clone());
        fact.dims = cx.dims(0).map(<[Dim]>::to_vec);
        Ok(vec![fact])
    }
    fn lower(&self, _: &Facts<'_>) -> Lowering {
        Lowering::View
    }
}

/// The same bits read as another element type of the same width.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BitCast {
    /// The element type of the result.
    pub to: DType,
}

impl Operator for BitCast {
    fn infer(&self, cx: &mut Infer<'_>) -> Result<Vec<Fact>, Diagnostic> {
        let from = cx.dtype(0);
        if from.bits() != self.to.bits() || from == DType::Str {
            return Err(Diagnostic::new(format!("BitCast needs types of one width, found {from} and {}", self.to)));
        }
        Ok(vec![Fact::tensor(self.to, cx.shape(0).to_vec())])
    }
    fn lower(&self, _: &Facts<'_>) -> Lowering {
        Lowering::View
    }
}

type Read = Result<Vec<ValueId>, Diagnostic>;

/// Reads `Shape`, whose `start` and `end` (opset 15) cut the list.
pub fn read_shape(r: &mut Reader<'_, '_>) -> Read {
    let x = r.input(0)?;
    let shape = r.shape(x)?;
    let n = shape.len() as i64;
    let clamp = |i: i64| (if i < 0 { i + n } else { i }).clamp(0, n) as usize;
    let (start, end) = (clamp(r.int("start", 0)?), clamp(r.int("end", n)?));
    let elements = shape.get(start..end.max(start)).unwrap_or(&[]).to_vec();
    Ok(vec![r.emit(Dims { elements, scalar: false, dtype: DType::I64 }, &[])?])
}

/// Reads `BitCast`.
pub fn read_bit_cast(r: &mut Reader<'_, '_>) -> Read {
    let x = r.input(0)?;
    let to = r.dtype_attr("to")?.ok_or_else(|| Diagnostic::new("attribute to is missing"))?;
    Ok(vec![r.bit_cast(x, to)?])
}

/// Reads `Size`.
pub fn read_size(r: &mut Reader<'_, '_>) -> Read {
    let x = r.input(0)?;
    let n = product(&r.shape(x)?);
    Ok(vec![r.emit(Dims { elements: vec![n], scalar: true, dtype: DType::I64 }, &[])?])
}

/// The shape that `Reshape` means by a list with 0 (copy the input's extent) and -1 (whatever is left).
///
/// # Errors
/// More than one -1, a 0 beyond the input's rank, or a number of elements that -1 cannot make up for.
fn resolve(target: &[Dim], from: &[Dim], allow_zero: bool) -> Result<Vec<Dim>, Diagnostic> {
    let mut out = Vec::new();
    let mut open = None;
    for (i, d) in target.iter().enumerate() {
        match d.as_int() {
            Some(0) if !allow_zero => match from.get(i) {
                Some(d) => out.push(d.clone()),
                None => return Err(Diagnostic::new(format!("the shape copies extent {i} of an input of rank {}", from.len()))),
            },
            Some(-1) if open.is_some() => return Err(Diagnostic::new("the shape has more than one -1")),
            Some(-1) => {
                open = Some(i);
                out.push(Dim::int(1));
            }
            Some(n) if n < 0 => return Err(Diagnostic::new(format!("the shape has the extent {n}"))),
            _ => out.push(d.clone()),
        }
    }
    if let Some(i) = open {
        let (all, rest) = (product(from), product(&out));
        out[i] = match (all.as_int(), rest.as_int()) {
            (Some(0), Some(0)) => Dim::int(0),
            (Some(a), Some(b)) if b == 0 || a % b != 0 => {
                return Err(Diagnostic::new(format!(
                    "a tensor of shape [{}] does not divide into [{}] with one extent open",
                    super::cx::list(from),
                    super::cx::list(target)
                )));
            }
            // Extents that occur on both sides cancel even where their product is no single term.
            _ => {
                let (mut left, mut over) = (from.to_vec(), out.clone());
                over.retain(|d| match left.iter().position(|x| x == d) {
                    Some(k) if !d.is(1) => {
                        left.remove(k);
                        false
                    }
                    _ => true,
                });
                product(&left).floor_div(&product(&over))
            }
        };
    }
    Ok(out)
}

/// Reads `Reshape`: the shape is an attribute before opset 5, an operand since.
pub fn read_reshape(r: &mut Reader<'_, '_>) -> Read {
    let x = r.input(0)?;
    let allow_zero = r.int("allowzero", 0)? != 0;
    let target = if r.version < 5 {
        r.ints("shape")?.map(|s| s.into_iter().map(Dim::int).collect::<Vec<_>>())
    } else {
        let shape = r.input(1)?;
        r.dims(shape).map(<[Dim]>::to_vec)
    };
    match target {
        Some(target) => {
            let shape = resolve(&target, &r.shape(x)?, allow_zero)?;
            Ok(vec![r.reshape(x, shape)?])
        }
        None => super::host::reshape(r, x, allow_zero),
    }
}

/// Reads `Flatten`.
pub fn read_flatten(r: &mut Reader<'_, '_>) -> Read {
    let x = r.input(0)?;
    let shape = r.shape(x)?;
    let n = shape.len() as i64;
    let axis = r.int("axis", 1)?;
    if axis < -n || axis > n {
        return Err(Diagnostic::new(format!("axis {axis} is outside [-{n}, {n}]")));
    }
    let axis = (if axis < 0 { axis + n } else { axis }) as usize;
    Ok(vec![r.reshape(x, vec![product(&shape[..axis]), product(&shape[axis..])])?])
}

/// Reads `Squeeze`.
pub fn read_squeeze(r: &mut Reader<'_, '_>) -> Read {
    let x = r.input(0)?;
    let shape = r.shape(x)?;
    let axes = match r.axes_or_input(1, 13)? {
        Axes::Known(axes) => r.axes(&axes, shape.len())?,
        Axes::None => (0..shape.len()).filter(|&i| shape[i].is(1)).collect(),
        Axes::Computed(axes, n) => {
            let rank = n.map(|n| shape.len().saturating_sub(n as usize));
            return super::host::of_rank(r, "squeeze", &[x, axes], rank);
        }
    };
    for &a in &axes {
        if shape[a].as_int().is_some_and(|n| n != 1) {
            return Err(Diagnostic::new(format!("axis {a} has extent {} and cannot be squeezed", shape[a])));
        }
    }
    let kept = (0..shape.len()).filter(|i| !axes.contains(i)).map(|i| shape[i].clone()).collect();
    Ok(vec![r.reshape(x, kept)?])
}

/// Reads `Unsqueeze`.
pub fn read_unsqueeze(r: &mut Reader<'_, '_>) -> Read {
    let x = r.input(0)?;
    let shape = r.shape(x)?;
    let axes = match r.axes_or_input(1, 13)? {
        Axes::Known(axes) => axes,
        Axes::None => return Err(Diagnostic::new("the axes are missing")),
        Axes::Computed(axes, n) => return super::host::of_rank(r, "unsqueeze", &[x, axes], n.map(|n| shape.len() + n as usize)),
    };
    let axes = r.axes(&axes, shape.len() + axes.len())?;
    let mut rest = shape.into_iter();
    let rank = rest.len() + axes.len();
    let out = (0..rank).map(|i| if axes.contains(&i) { Dim::int(1) } else { rest.next().unwrap_or(Dim::int(1)) }).collect();
    Ok(vec![r.reshape(x, out)?])
}
