//! Control flow: If, Loop, and Scan, which becomes a Loop.

use super::movement::{Slice, Transpose};
use super::{Facts, Infer, Lowering, Operator, Reader, gather::Gather, sequence::join};
use crate::diagnostics::Diagnostic;
use crate::ir::{Block, Dim, Fact, Type, ValueId};
use crate::onnx::Graph;
use kiln_kernels::dtype::DType;
use kiln_kernels::value::Tensor;

/// One of two blocks by a condition (operand 0).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct If;

/// A block repeated. Operands: trip count (optional), condition (optional), carried values. The block takes the iteration number,
/// the condition and the carried values; it gives the condition, the carried values, and slices that stack up.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Loop {
    /// How many values are carried.
    pub carried: usize,
    /// The exact number of iterations, when it is known on entry.
    pub trip: Option<Dim>,
}

/// The type that results of two branches have in common; extents that differ become symbols.
fn merge(cx: &mut Infer<'_>, a: &Type, b: &Type) -> Type {
    match (a.shape(), b.shape()) {
        (Some(x), Some(y)) if x.len() == y.len() => {
            let dims = x.iter().zip(y).map(|(p, q)| if p == q { p.clone() } else { cx.fresh("branch") }).collect();
            Type::Tensor(a.dtype().unwrap_or(DType::F32), dims)
        }
        _ => join(a, b),
    }
}

impl Operator for If {
    fn infer(&self, cx: &mut Infer<'_>) -> Result<Vec<Fact>, Diagnostic> {
        let bodies = cx.bodies.clone();
        let [yes, no] = &bodies[..] else { return Err(Diagnostic::new("If needs two branches")) };
        if yes.len() != no.len() {
            return Err(Diagnostic::new(format!("the branches of If give {} and {} results", yes.len(), no.len())));
        }
        let mut out = Vec::new();
        for (a, b) in yes.iter().zip(no) {
            if a.dtype() != b.dtype() {
                return Err(Diagnostic::new(format!("the branches of If give {a} and {b}")));
            }
            out.push(Fact::from(merge(cx, a, b)));
        }
        Ok(out)
    }
    fn lower(&self, _: &Facts<'_>) -> Lowering {
        Lowering::Control
    }
}

impl Operator for Loop {
    fn infer(&self, cx: &mut Infer<'_>) -> Result<Vec<Fact>, Diagnostic> {
        let body = cx.bodies.first().cloned().unwrap_or_default();
        if body.len() < 1 + self.carried {
            return Err(Diagnostic::new(format!("the body of Loop gives {} results, expected {} or more", body.len(), 1 + self.carried)));
        }
        let mut out: Vec<Fact> = Vec::new();
        for (i, ty) in body[1..=self.carried].iter().enumerate() {
            // The result has the carried type, which holds the initial value too; a result of other extents has its own symbols.
            let initial = cx.ty(2 + i).cloned().unwrap_or_else(|| ty.clone());
            out.push(merge(cx, ty, &initial).into());
        }
        let trip = match &self.trip {
            Some(n) => n.clone(),
            None => cx.fresh("trips"),
        };
        for ty in &body[1 + self.carried..] {
            let (Some(dtype), Some(shape)) = (ty.dtype(), ty.shape()) else {
                return Err(Diagnostic::new(format!("the body of Loop stacks {ty}, which is no tensor of known rank")));
            };
            if (1..8).contains(&dtype.bits()) {
                // A slice may end within a byte.
                return Err(Diagnostic::new(format!("slices of {dtype} do not stack up")).help("cast them to a wider type in the body"));
            }
            out.push(Fact::tensor(dtype, [vec![trip.clone()], shape.to_vec()].concat()));
        }
        Ok(out)
    }
    fn lower(&self, _: &Facts<'_>) -> Lowering {
        Lowering::Control
    }
}

type Read = Result<Vec<ValueId>, Diagnostic>;

/// Reads `If`; a constant condition leaves only the branch taken.
pub fn read_if(r: &mut Reader<'_, '_>) -> Read {
    let cond = r.input(0)?;
    let (yes, no) = (r.graph("then_branch")?, r.graph("else_branch")?);
    if let Some(t) = r.constant(cond) {
        let taken = if t.bytes().iter().any(|b| *b != 0) { yes } else { no };
        return r.b.inline(taken);
    }
    let blocks = vec![r.b.block(yes, &[])?, r.b.block(no, &[])?];
    let results = blocks[0].outputs.len();
    r.b.emit(If.into(), vec![Some(cond)], results, blocks)
}

/// Forgets extents of a carried type that the body changes.
fn widen(r: &mut Reader<'_, '_>, before: &Type, after: &Type) -> Option<Type> {
    match (before.shape(), after.shape()) {
        _ if before == after => None,
        (Some(a), Some(b)) if a.len() == b.len() => {
            let dims: Vec<Dim> = a.iter().zip(b).map(|(x, y)| if x == y { x.clone() } else { r.b.fresh("carried") }).collect();
            // A symbol made for an earlier attempt stays: the body may give it another one every time.
            let made = |d: &Dim| d.as_sym().is_some_and(|s| r.b.graph.symbols[s.0 as usize].name == "carried");
            let dims: Vec<Dim> = dims.into_iter().zip(a).map(|(d, x)| if made(x) { x.clone() } else { d }).collect();
            let ty = Type::Tensor(before.dtype()?, dims);
            (ty != *before).then_some(ty)
        }
        _ => {
            let joined = join(before, after);
            (joined != *before).then_some(joined)
        }
    }
}

/// Builds a body from the facts of its inputs.
type Build<'a, 'm> = dyn FnMut(&mut Reader<'_, 'm>, &[Fact]) -> Result<Block, Diagnostic> + 'a;

/// Builds the body of a loop over carried values of the types that hold in every iteration.
fn fixed_point<'m>(r: &mut Reader<'_, 'm>, mut carried: Vec<Type>, build: &mut Build<'_, 'm>) -> Result<Block, Diagnostic> {
    for _ in 0..8 {
        let mark = r.b.mark();
        let mut facts = vec![Fact::tensor(DType::I64, vec![]), Fact::tensor(DType::Bool, vec![])];
        facts.extend(carried.iter().cloned().map(Fact::from));
        let block = build(r, &facts)?;
        if block.outputs.len() < 1 + carried.len() {
            return Err(Diagnostic::new(format!("the body gives {} results, expected {} or more", block.outputs.len(), 1 + carried.len())));
        }
        let after: Vec<Type> = block.outputs[1..=carried.len()].iter().map(|v| r.ty(*v).clone()).collect();
        let mut changed = false;
        let mut next = carried.clone();
        for (i, (b, a)) in carried.iter().zip(&after).enumerate() {
            if a.dtype() != b.dtype() {
                return Err(Diagnostic::new(format!("value {i} enters the loop as {b} and leaves it as {a}")));
            }
            if let Some(t) = widen(r, b, a) {
                next[i] = t;
                changed = true;
            }
        }
        if !changed {
            return Ok(block);
        }
        // Symbols made for the wider types must survive the rollback.
        r.b.rollback_keeping(mark, &mut next);
        carried = next;
    }
    Err(Diagnostic::new("the types of the values carried by the loop do not settle"))
}

/// Reads `Loop`.
pub fn read_loop(r: &mut Reader<'_, '_>) -> Read {
    let body = r.graph("body")?;
    let (trip, cond) = (r.opt(0), r.opt(1));
    let carried: Vec<ValueId> = (2..r.inputs.len()).map(|i| r.input(i)).collect::<Result<_, _>>()?;
    let types: Vec<Type> = carried.iter().map(|v| r.ty(*v).clone()).collect();
    let one_by_one = |v: ValueId, r: &mut Reader<'_, '_>| r.reshape(v, vec![]);
    let trip = match trip {
        Some(v) => Some(one_by_one(v, r)?),
        None => None,
    };
    let cond = match cond {
        Some(v) => Some(one_by_one(v, r)?),
        None => None,
    };
    let block = fixed_point(r, types, &mut |r, facts| r.b.block(body, facts))?;
    // The number of iterations is known when the condition starts and stays true.
    let always = cond.is_none_or(|c| r.constant(c).is_some_and(|t| t.bytes() == [1]))
        && (block.outputs[0] == block.inputs[1] || r.constant(block.outputs[0]).is_some_and(|t| t.bytes() == [1]));
    let known = trip.and_then(|t| r.dims(t).and_then(|d| d.first().cloned())).filter(|_| always);
    let results = block.outputs.len() - 1;
    let op = Loop { carried: carried.len(), trip: known.map(|d| d.most(&Dim::int(0))) };
    let inputs = [vec![trip, cond], carried.into_iter().map(Some).collect()].concat();
    r.b.emit(op.into(), inputs, results, vec![block])
}

/// Reads `Scan` of opset 8, which has a batch axis in front: element by element. Behind the length of an element its states stay, and
/// its results are 0.
fn read_batched_scan(r: &mut Reader<'_, '_>) -> Read {
    let all: Vec<ValueId> = (1..r.inputs.len()).map(|i| r.input(i)).collect::<Result<_, _>>()?;
    let batch = match all.first() {
        Some(v) => r.shape(*v)?.first().and_then(Dim::as_int),
        None => None,
    };
    let batch = batch.filter(|b| (1..=64).contains(b)).ok_or_else(|| Diagnostic::new("Scan of opset 8 needs a known batch of 1 to 64"))?;
    let mut rows: Vec<Vec<ValueId>> = Vec::new();
    for b in 0..batch {
        let mut row = Vec::new();
        for v in &all {
            row.push(r.pick(*v, 0, b)?);
        }
        let length = match r.opt(0) {
            Some(v) => {
                let v = r.cast(v, DType::I64)?;
                Some(r.pick(v, 0, b)?)
            }
            None => None,
        };
        rows.push(scan(r, row, "directions", length)?);
    }
    let results = rows[0].len();
    (0..results)
        .map(|k| {
            let parts: Vec<ValueId> = rows.iter().map(|row| r.unsqueeze(row[k], 0)).collect::<Result<_, _>>()?;
            r.concat(&parts, 0)
        })
        .collect()
}

/// Reads `Scan` as a loop over the scanned axis.
pub fn read_scan(r: &mut Reader<'_, '_>) -> Read {
    if r.version < 9 {
        return read_batched_scan(r);
    }
    let all: Vec<ValueId> = (0..r.inputs.len()).map(|i| r.input(i)).collect::<Result<_, _>>()?;
    scan(r, all, "scan_input_directions", None)
}

fn scan(r: &mut Reader<'_, '_>, all: Vec<ValueId>, directions: &str, length: Option<ValueId>) -> Read {
    let body: &Graph = r.graph("body")?;
    let scans = r.int("num_scan_inputs", 0)?;
    let total = all.len() as i64;
    if scans < 1 || scans > total {
        return Err(Diagnostic::new(format!("Scan has {total} inputs and num_scan_inputs = {scans}")));
    }
    let states = (total - scans) as usize;
    let list = |r: &Reader<'_, '_>, name: &str, n: usize| -> Result<Vec<i64>, Diagnostic> {
        let v = r.ints(name)?.unwrap_or_else(|| vec![0; n]);
        if v.len() == n { Ok(v) } else { Err(Diagnostic::new(format!("attribute {name} has {} numbers, expected {n}", v.len()))) }
    };
    let outs = body.outputs.len().saturating_sub(states);
    let (in_axes, in_dirs) = (list(r, "scan_input_axes", scans as usize)?, list(r, directions, scans as usize)?);
    let (out_axes, out_dirs) = (list(r, "scan_output_axes", outs)?, list(r, "scan_output_directions", outs)?);
    let mut sources = Vec::new();
    let mut trip = None;
    for (k, &v) in all[states..].iter().enumerate() {
        let shape = r.shape(v)?;
        let axis = r.axis(in_axes[k], shape.len())?;
        trip.get_or_insert(shape[axis].clone());
        // A scan from the end reads the reversed tensor; with a length, the end is there, and steps are counted down from it.
        let counted = in_dirs[k] == 1 && length.is_some();
        let v = if in_dirs[k] == 1 && !counted { reverse(r, v, axis)? } else { v };
        sources.push((v, axis, counted));
    }
    let trip = trip.unwrap_or(Dim::int(0));
    let types: Vec<Type> = all[..states].iter().map(|v| r.ty(*v).clone()).collect();
    let block = fixed_point(r, types, &mut |r, facts| {
        let sources = sources.clone();
        r.block_of(facts, |r, inputs| {
            let mut bound = inputs[2..].to_vec();
            for (v, axis, counted) in &sources {
                let at = match length.filter(|_| *counted) {
                    None => inputs[0],
                    Some(n) => {
                        let left = r.sub(n, inputs[0])?;
                        let (left, zero) = (r.plus(left, -1.0)?, r.scalar(0.0, DType::I64));
                        r.pointwise("Max", &[left, zero])?
                    }
                };
                bound.push(super::gather::gathered(r, Gather { axis: *axis }, *v, at)?);
            }
            let mut out = vec![r.tensor(Tensor::with_dtype(DType::Bool, &[], &[1u8]))];
            let after = r.b.inline_with(body, &bound)?;
            for (k, v) in after.into_iter().enumerate() {
                out.push(match length {
                    None => v,
                    Some(n) => {
                        let runs = r.pointwise("Less", &[inputs[0], n])?;
                        let rest = match k < states {
                            true => bound[k],
                            false => r.scalar(0.0, r.dtype(v)),
                        };
                        r.pointwise("Where", &[runs, v, rest])?
                    }
                });
            }
            Ok(out)
        })
    })?;
    let results = block.outputs.len() - 1;
    let count = r.emit(super::shape::Dims { elements: vec![trip.clone()], scalar: true, dtype: DType::I64 }, &[])?;
    let op = Loop { carried: states, trip: Some(trip) };
    let inputs = [vec![Some(count), None], all[..states].iter().map(|v| Some(*v)).collect()].concat();
    let mut out = r.b.emit(op.into(), inputs, results, vec![block])?;
    for k in 0..outs {
        let v = &mut out[states + k];
        let rank = r.rank(*v)?;
        if out_dirs[k] == 1 {
            *v = reverse(r, *v, 0)?;
        }
        let axis = r.axis(out_axes[k], rank)?;
        let mut perm: Vec<usize> = (1..rank).collect();
        perm.insert(axis, 0);
        if axis != 0 {
            *v = r.emit(Transpose { perm }, &[*v])?;
        }
    }
    Ok(out)
}

fn reverse(r: &mut Reader<'_, '_>, v: ValueId, axis: usize) -> Result<ValueId, Diagnostic> {
    let shape = r.shape(v)?;
    let mut op = Slice::whole(&shape);
    op.steps[axis] = -1;
    op.starts[axis] = shape[axis].clone() - Dim::int(1);
    r.emit(op, &[v])
}
