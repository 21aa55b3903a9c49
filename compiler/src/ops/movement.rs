//! Operators that move regions of tensors: Transpose, Expand, Slice, Concat, Split, DepthToSpace and SpaceToDepth.

use super::moved::{has_bytes, moved};
use super::{Affine, Facts, Infer, Lowering, Operator, Part, Reader, broadcast};
use crate::diagnostics::Diagnostic;
use crate::ir::{Dim, Fact, Type, ValueId};
use kiln_kernels::dtype::DType;

/// Axes permuted: result axis `i` is operand axis `perm[i]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Transpose {
    /// The permutation.
    pub perm: Vec<usize>,
}

/// The contents of a result that has elements of operand 0, where those are known: along each axis, the operand's axis, the first index
/// of it, the step, and how many.
fn picked(cx: &Infer<'_>, axes: &Option<Vec<(usize, i64, i64, i64)>>) -> Option<Vec<Dim>> {
    let (dims, axes) = (cx.dims(0)?, axes.as_ref()?);
    let shape: Vec<i64> = cx.shape(0).iter().map(Dim::as_int).collect::<Option<_>>()?;
    let mut at = vec![0];
    for &(axis, start, step, size) in axes {
        let pitch: i64 = shape[axis + 1..].iter().product();
        at = at.iter().flat_map(|base| (0..size).map(move |k| base + (start + k * step) * pitch)).collect();
    }
    at.into_iter().map(|i| dims.get(usize::try_from(i).ok()?).cloned()).collect()
}

impl Operator for Transpose {
    fn infer(&self, cx: &mut Infer<'_>) -> Result<Vec<Fact>, Diagnostic> {
        let shape = cx.shape(0);
        let mut fact = Fact::tensor(cx.dtype(0), self.perm.iter().map(|&p| shape[p].clone()).collect());
        fact.dims = picked(cx, &self.perm.iter().map(|&p| Some((p, 0, 1, shape[p].as_int()?))).collect::<Option<Vec<_>>>());
        Ok(vec![fact])
    }
    fn lower(&self, cx: &Facts<'_>) -> Lowering {
        let rank = self.perm.len();
        let mut from = vec![Affine::along(0); rank];
        for (i, &p) in self.perm.iter().enumerate() {
            from[p] = Affine::along(i);
        }
        let to = (0..rank).map(Affine::along).collect();
        Lowering::Move(vec![Part { input: 0, output: 0, dims: cx.out_shape(0).to_vec(), from, to }])
    }
}

/// The operand repeated along axes where its extent is 1.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Expand {
    /// The shape of the result.
    pub shape: Vec<Dim>,
}

impl Expand {
    /// Whether an operand of that shape broadcasts whatever the symbols are, so that nothing is left to check at run time.
    pub fn certain(&self, x: &[Dim]) -> bool {
        x.iter().rev().zip(self.shape.iter().rev()).all(|(d, n)| d == n || d.is(1) || n.is(1))
    }
}

impl Operator for Expand {
    fn infer(&self, cx: &mut Infer<'_>) -> Result<Vec<Fact>, Diagnostic> {
        let shape = broadcast(cx.shape(0), &self.shape)?;
        let mut fact = Fact::tensor(cx.dtype(0), shape.clone());
        if let (Some([x]), [n]) = (cx.dims(0), shape.as_slice())
            && let Some(n @ 0..=64) = n.as_int()
        {
            fact.dims = Some(vec![x.clone(); n as usize]);
        }
        Ok(vec![fact])
    }
    fn lower(&self, cx: &Facts<'_>) -> Lowering {
        let out = cx.out_shape(0).to_vec();
        let skip = out.len() - cx.rank(0);
        let from =
            cx.shape(0).iter().enumerate().map(|(i, d)| if d.is(1) { Affine::at(Dim::int(0)) } else { Affine::along(skip + i) }).collect();
        let to = (0..out.len()).map(Affine::along).collect();
        Lowering::Move(vec![Part { input: 0, output: 0, dims: out, from, to }])
    }
}

/// A strided region of the operand: `starts[i] + steps[i] · k` for `k < sizes[i]` along each axis.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slice {
    /// The first index of each axis.
    pub starts: Vec<Dim>,
    /// The step of each axis; not 0.
    pub steps: Vec<i64>,
    /// The extent of each axis of the result.
    pub sizes: Vec<Dim>,
    /// Bounds that the model computes and that went into the others as they are. None may be negative at run time, where it would
    /// count from the end.
    pub bounds: Vec<Dim>,
}

impl Slice {
    /// The whole of a tensor of that shape.
    pub fn whole(shape: &[Dim]) -> Slice {
        Slice { starts: vec![Dim::int(0); shape.len()], steps: vec![1; shape.len()], sizes: shape.to_vec(), bounds: vec![] }
    }
}

impl Operator for Slice {
    fn infer(&self, cx: &mut Infer<'_>) -> Result<Vec<Fact>, Diagnostic> {
        let mut fact = Fact::tensor(cx.dtype(0), self.sizes.clone());
        let along = |a: usize| Some((a, self.starts[a].as_int()?, self.steps[a], self.sizes[a].as_int()?));
        fact.dims = picked(cx, &(0..self.sizes.len()).map(along).collect::<Option<Vec<_>>>());
        Ok(vec![fact])
    }
    fn lower(&self, _: &Facts<'_>) -> Lowering {
        let rank = self.sizes.len();
        let from = (0..rank).map(|i| Affine { start: self.starts[i].clone(), axis: Some((i, self.steps[i])) }).collect();
        let to = (0..rank).map(Affine::along).collect();
        Lowering::Move(vec![Part { input: 0, output: 0, dims: self.sizes.clone(), from, to }])
    }
}

/// Operands side by side along an axis.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Concat {
    /// The axis.
    pub axis: usize,
}

impl Operator for Concat {
    fn infer(&self, cx: &mut Infer<'_>) -> Result<Vec<Fact>, Diagnostic> {
        let mut shape = cx.shape(0).to_vec();
        for i in 1..cx.inputs.len() {
            let other = cx.shape(i);
            if other.len() != shape.len() || cx.dtype(i) != cx.dtype(0) {
                return Err(Diagnostic::new(format!(
                    "Concat needs tensors of one type and rank, found {}[{}] beside {}[{}]",
                    cx.dtype(i),
                    super::cx::list(other),
                    cx.dtype(0),
                    super::cx::list(&shape)
                )));
            }
            for (k, d) in other.iter().enumerate() {
                if k == self.axis {
                    shape[k] = shape[k].clone() + d.clone();
                } else if let (Some(a), Some(b)) = (shape[k].as_int(), d.as_int())
                    && a != b
                {
                    return Err(Diagnostic::new(format!(
                        "Concat along axis {} needs equal extents elsewhere, found {a} and {b} at axis {k}",
                        self.axis
                    )));
                } else if shape[k].as_int().is_none() {
                    shape[k] = d.clone();
                }
            }
        }
        let mut fact = Fact::tensor(cx.dtype(0), shape.clone());
        if shape.len() == 1 {
            let parts: Option<Vec<&[Dim]>> = (0..cx.inputs.len()).map(|i| cx.dims(i)).collect();
            fact.dims = parts.map(|p| p.concat()).filter(|d| d.len() <= 64);
        }
        Ok(vec![fact])
    }
    fn lower(&self, cx: &Facts<'_>) -> Lowering {
        let rank = cx.rank(0);
        let mut at = Dim::int(0);
        let mut parts = Vec::new();
        for input in 0..cx.inputs.len() {
            let dims = cx.shape(input).to_vec();
            let mut to: Vec<Affine> = (0..rank).map(Affine::along).collect();
            to[self.axis].start = at.clone();
            at = at + dims[self.axis].clone();
            parts.push(Part { input, output: 0, dims, from: (0..rank).map(Affine::along).collect(), to });
        }
        Lowering::Move(parts)
    }
}

/// What a model adds to a state it keeps, behind what is there: a [`Concat`] that no rule takes apart, so that it stays a write of the
/// new rows alone. The first operand is the state as it was.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Append {
    /// The axis along which the state grows.
    pub axis: usize,
}

impl Operator for Append {
    fn infer(&self, cx: &mut Infer<'_>) -> Result<Vec<Fact>, Diagnostic> {
        Concat { axis: self.axis }.infer(cx)
    }
    fn lower(&self, cx: &Facts<'_>) -> Lowering {
        Concat { axis: self.axis }.lower(cx)
    }
}

/// The operand cut into pieces along an axis.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Split {
    /// The axis.
    pub axis: usize,
    /// The extent of each piece.
    pub sizes: Vec<Dim>,
}

impl Operator for Split {
    fn infer(&self, cx: &mut Infer<'_>) -> Result<Vec<Fact>, Diagnostic> {
        let shape = cx.shape(0);
        let total = self.sizes.iter().fold(Dim::int(0), |a, b| a + b.clone());
        if let (Some(a), Some(b)) = (total.as_int(), shape[self.axis].as_int())
            && a != b
        {
            return Err(Diagnostic::new(format!("the pieces of Split add up to {a}, the axis has {b}")));
        }
        let piece = |size: &Dim| {
            let mut s = shape.to_vec();
            s[self.axis] = size.clone();
            Fact::tensor(cx.dtype(0), s)
        };
        let mut facts: Vec<Fact> = self.sizes.iter().map(piece).collect();
        if let (Some(dims), 1) = (cx.dims(0), shape.len()) {
            let mut at = 0;
            for (f, size) in facts.iter_mut().zip(&self.sizes) {
                let Some(n) = size.as_int() else { break };
                f.dims = dims.get(at..at + n as usize).map(<[Dim]>::to_vec);
                at += n as usize;
            }
        }
        Ok(facts)
    }
    fn lower(&self, cx: &Facts<'_>) -> Lowering {
        let rank = cx.rank(0);
        let mut at = Dim::int(0);
        let mut parts = Vec::new();
        for (output, size) in self.sizes.iter().enumerate() {
            let mut from: Vec<Affine> = (0..rank).map(Affine::along).collect();
            from[self.axis].start = at.clone();
            at = at + size.clone();
            parts.push(Part { input: 0, output, dims: cx.out_shape(output).to_vec(), from, to: (0..rank).map(Affine::along).collect() });
        }
        Lowering::Move(parts)
    }
}

type Read = Result<Vec<ValueId>, Diagnostic>;

/// Reads `Transpose`.
pub fn read_transpose(r: &mut Reader<'_, '_>) -> Read {
    let x = r.input(0)?;
    let rank = r.rank(x)?;
    let perm = match r.ints("perm")? {
        Some(p) => r.axes(&p, rank)?,
        None => (0..rank).rev().collect(),
    };
    if perm.len() != rank {
        return Err(Diagnostic::new(format!("perm has {} axes, the tensor has {rank}", perm.len())));
    }
    // Strings are turned as they are.
    Ok(vec![moved(r, &[x], |d| has_bytes(d) || d == DType::Str, |r, x| r.transpose(x[0], perm))?])
}

/// Reads `Expand`.
pub fn read_expand(r: &mut Reader<'_, '_>) -> Read {
    let (x, shape) = (r.input(0)?, r.input(1)?);
    match r.dims(shape).map(<[Dim]>::to_vec) {
        Some(shape) => Ok(vec![r.emit(Expand { shape }, &[x])?]),
        None => super::host::dynamic(r, x, shape),
    }
}

/// Start and extent of a slice of an axis of extent `n`, as ONNX clamps them.
fn clamp_slice(start: &Dim, end: &Dim, step: i64, n: &Dim) -> (Dim, Dim) {
    if let (Some(start), Some(end), Some(n)) = (start.as_int(), end.as_int(), n.as_int()) {
        let from_end = |i: i64| if i < 0 { i.saturating_add(n) } else { i };
        let (start, end) = if step > 0 {
            (from_end(start).clamp(0, n), from_end(end).clamp(0, n))
        } else {
            (from_end(start).clamp(-1, n - 1), from_end(end).clamp(-1, n - 1))
        };
        let span = if step > 0 { end - start } else { start - end };
        let size = if span > 0 { (span - 1) / step.saturating_abs() + 1 } else { 0 };
        return (Dim::int(if size == 0 { 0 } else { start }), Dim::int(size));
    }
    // With open extents, a literal that is negative counts from the end, a huge one is the end; symbolic ones are taken as given.
    let place = |i: &Dim, is_end: bool| match i.as_int() {
        Some(k) if k < 0 && k > -(1 << 31) => n.clone() + Dim::int(k),
        Some(k) if k < 0 => {
            if is_end && step < 0 {
                Dim::int(-1)
            } else {
                Dim::int(0)
            }
        }
        Some(k) if k >= (1 << 31) - 1 => {
            if step > 0 {
                n.clone()
            } else {
                n.clone() - Dim::int(1)
            }
        }
        Some(_) if step > 0 => i.least(n),
        _ => i.clone(),
    };
    let (start, end) = (place(start, false), place(end, true));
    let (start, end) = if step > 0 { (start.most(&Dim::int(0)), end.least(n).most(&Dim::int(0))) } else { (start, end) };
    let span = if step > 0 { end - start.clone() } else { start.clone() - end };
    (start, span.ceil_div(&Dim::int(step.saturating_abs())).most(&Dim::int(0)))
}

/// Reads `Slice`: attributes before opset 10, operands since.
pub fn read_slice(r: &mut Reader<'_, '_>) -> Read {
    let x = r.input(0)?;
    let shape = r.shape(x)?;
    let rank = shape.len();
    let constant = |v: Option<Vec<i64>>| v.map(|v| v.into_iter().map(Dim::int).collect::<Vec<_>>());
    let (starts, ends, axes, steps) = if r.version < 10 {
        let missing = || Diagnostic::new("starts or ends are missing");
        (constant(r.ints("starts")?).ok_or_else(missing)?, constant(r.ints("ends")?).ok_or_else(missing)?, r.ints("axes")?, None)
    } else {
        let (s, e) = (r.input(1)?, r.input(2)?);
        let known = |v: Option<ValueId>| v.is_none_or(|v| r.const_ints(v).is_some());
        if r.dims(s).is_none() || r.dims(e).is_none() || !known(r.opt(3)) || !known(r.opt(4)) {
            return super::host::slice(r, x);
        }
        let ints = |v: Option<ValueId>| v.and_then(|v| r.const_ints(v));
        (r.dims(s).unwrap_or(&[]).to_vec(), r.dims(e).unwrap_or(&[]).to_vec(), ints(r.opt(3)), ints(r.opt(4)))
    };
    let axes = match axes {
        Some(a) => r.axes(&a, rank)?,
        None => (0..starts.len()).collect(),
    };
    let steps = steps.unwrap_or_else(|| vec![1; starts.len()]);
    if starts.len() != ends.len() || axes.len() != starts.len() || steps.len() != starts.len() || axes.iter().any(|a| *a >= rank) {
        return Err(Diagnostic::new("starts, ends, axes and steps must list the same axes"));
    }
    let mut op = Slice::whole(&shape);
    for (k, &a) in axes.iter().enumerate() {
        if steps[k] == 0 {
            return Err(Diagnostic::new(format!("the step of axis {a} is 0")));
        }
        op.steps[a] = steps[k];
        (op.starts[a], op.sizes[a]) = clamp_slice(&starts[k], &ends[k], steps[k], &shape[a]);
        let computed = [&starts[k], &ends[k]].into_iter().filter(|d| d.as_int().is_none() && r.b.graph.range(d).lo < 0);
        op.bounds.extend(computed.cloned());
    }
    if op.sizes == shape && op.steps.iter().all(|s| *s == 1) && op.bounds.is_empty() {
        return Ok(vec![x]);
    }
    Ok(vec![r.emit(op, &[x])?])
}

/// Reads `Concat`.
pub fn read_concat(r: &mut Reader<'_, '_>) -> Read {
    let first = r.input(0)?;
    let rank = r.rank(first)?;
    let axis = match r.int_opt("axis")? {
        Some(a) => r.axis(a, rank)?,
        None if r.version < 4 => 1,
        None => return Err(Diagnostic::new("attribute axis is missing")),
    };
    let inputs: Vec<ValueId> = (0..r.inputs.len()).map(|i| r.input(i)).collect::<Result<_, _>>()?;
    if inputs.len() == 1 {
        return Ok(inputs);
    }
    Ok(vec![r.emit(Concat { axis }, &inputs)?])
}

/// Reads `Split`: pieces by attribute, by operand, by count, or one per output.
pub fn read_split(r: &mut Reader<'_, '_>) -> Read {
    let x = r.input(0)?;
    let shape = r.shape(x)?;
    let axis = r.int("axis", 0)?;
    let axis = r.axis(axis, shape.len())?;
    let n = &shape[axis];
    let listed = if (2..13).contains(&r.version) || (r.version < 2 && r.opt(1).is_none()) {
        r.ints("split")?.map(|s| s.into_iter().map(Dim::int).collect::<Vec<_>>())
    } else if r.version < 2 {
        // The sizes of opset 1 are an operand of the data's own type.
        let sizes = r.opt(1).and_then(|v| r.constant(v)).and_then(|t| t.to_f64s());
        let sizes = sizes.ok_or_else(|| Diagnostic::new("the sizes of Split are computed at run time"))?;
        Some(sizes.into_iter().map(|s| Dim::int(s as i64)).collect())
    } else {
        match r.opt(1) {
            Some(v) => match r.dims(v) {
                Some(d) => Some(d.to_vec()),
                None => return computed_split(r, x, v, axis),
            },
            None => None,
        }
    };
    let sizes = match listed {
        Some(s) => s,
        None => {
            let count = r.int("num_outputs", r.outputs() as i64)?;
            if count < 1 {
                return Err(Diagnostic::new(format!("num_outputs is {count}")));
            }
            let each = n.ceil_div(&Dim::int(count));
            let mut sizes = vec![each.clone(); count as usize - 1];
            sizes.push(n.clone() - each * Dim::int(count - 1));
            sizes
        }
    };
    if sizes.len() != r.outputs() {
        return Err(Diagnostic::new(format!("Split has {} pieces and {} outputs", sizes.len(), r.outputs())));
    }
    if sizes.iter().any(|s| s.as_int().is_some_and(|n| n < 0)) {
        return Err(Diagnostic::new("a piece of Split has a negative extent"));
    }
    let count = sizes.len();
    r.emit_all(Split { axis, sizes }, vec![Some(x)], count)
}

/// A Split whose pieces only run time can tell.
fn computed_split(r: &mut Reader<'_, '_>, x: ValueId, sizes: ValueId, axis: usize) -> Read {
    let (mut shape, dtype, count) = (r.shape(x)?, r.dtype(x), r.outputs());
    let mut results = Vec::new();
    for _ in 0..count {
        shape[axis] = r.b.fresh("piece");
        results.push(Type::Tensor(dtype, shape.clone()));
    }
    super::host::call(r, "split", &[x, sizes], vec![axis as i64, count as i64], results)
}

fn blocks(r: &Reader<'_, '_>) -> Result<(ValueId, [Dim; 4], Dim, i64), Diagnostic> {
    let x = r.input(0)?;
    let b = r.int("blocksize", 0)?;
    let shape: [Dim; 4] =
        r.shape(x)?.try_into().map_err(|s: Vec<Dim>| Diagnostic::new(format!("needs 4 dimensions, found {}", s.len())))?;
    if b < 1 {
        return Err(Diagnostic::new(format!("blocksize is {b}")));
    }
    Ok((x, shape, Dim::int(b), b))
}

/// Reads `DepthToSpace`.
pub fn read_depth_to_space(r: &mut Reader<'_, '_>) -> Read {
    let (x, [n, c, h, w], d, b) = blocks(r)?;
    let depth = c.exact_div(&Dim::int(b * b)).ok_or_else(|| Diagnostic::new(format!("{c} channels do not divide by {b}²")))?;
    let dcr = r.word("mode", &["DCR", "CRD"])? == "DCR";
    let (split, perm) = if dcr {
        (vec![n.clone(), d.clone(), d.clone(), depth.clone(), h.clone(), w.clone()], vec![0, 3, 4, 1, 5, 2])
    } else {
        (vec![n.clone(), depth.clone(), d.clone(), d.clone(), h.clone(), w.clone()], vec![0, 1, 4, 2, 5, 3])
    };
    let y = r.reshape(x, split)?;
    let y = r.transpose(y, perm)?;
    Ok(vec![r.reshape(y, vec![n, depth, h * d.clone(), w * d])?])
}

/// Reads `SpaceToDepth`.
pub fn read_space_to_depth(r: &mut Reader<'_, '_>) -> Read {
    let (x, [n, c, h, w], d, b) = blocks(r)?;
    // Whether an open extent divides is told by the sizes of the Reshape, when it is known.
    let divide = |e: &Dim| match e.as_int() {
        Some(n) if n % b != 0 => Err(Diagnostic::new(format!("extent {e} does not divide by {b}"))),
        _ => Ok(e.floor_div(&Dim::int(b))),
    };
    let (h, w) = (divide(&h)?, divide(&w)?);
    let dcr = r.word("mode", &["DCR", "CRD"])? == "DCR";
    let y = r.reshape(x, vec![n.clone(), c.clone(), h.clone(), d.clone(), w.clone(), d.clone()])?;
    let y = r.transpose(y, if dcr { vec![0, 3, 5, 1, 2, 4] } else { vec![0, 1, 3, 5, 2, 4] })?;
    Ok(vec![r.reshape(y, vec![n, c * Dim::int(b * b), h, w])?])
}
