//! Parts of what was put together or picked out: slices of concatenations, concatenations of slices, gathers of gathers.

use crate::ir::{Dim, NodeId, ValueId};
use crate::ops::Op;
use crate::ops::gather::Gather;
use crate::ops::movement::{Concat, Slice};
use crate::rewrite::{Class, Found, Rewriter, Rule};
use kiln_kernels::dtype::DType;
use kiln_kernels::value::Tensor;

/// Rules about parts.
#[rustfmt::skip]
pub const RULES: &[Rule] = &[
    Rule { name: "slice-concat", on: &["Slice"], equation: "Slice(Concat(.., x, ..)) => Slice(x)  where the slice lies inside of x; Concat of the parts that it covers, where nothing else reads the whole", class: Class::Exact, apply: slice_concat },
    Rule { name: "concat-slices", on: &["Concat"], equation: "Concat(.., Slice(x, r), Slice(x, s), ..) => Concat(.., Slice(x, r+s), ..)  where s goes on along the axis where r ends, and is as r otherwise; likewise pieces of a Split", class: Class::Exact, apply: concat_slices },
    Rule { name: "gather-gather", on: &["Gather"], equation: "Gather(Gather(x, i), j) => Gather(x, Gather(i, j))  along one axis of known extent, where i has one axis and i, j are constant", class: Class::Exact, apply: gather_gather },
    Rule { name: "slice-gather", on: &["Slice"], equation: "Slice(Gather(x, i)) => Gather(x, Slice(i))  along the gathered axis of known extent, where i is constant, has one axis, and nothing else reads the whole", class: Class::Exact, apply: slice_gather },
    Rule { name: "gather-of-slice", on: &["Gather"], equation: "Gather(Slice(x, r), j) => Gather(x, r[j])  along the one axis that r cuts, where j is constant and r known", class: Class::Exact, apply: gather_of_slice },
];

fn slice(rw: &Rewriter<'_>, n: NodeId) -> Option<Slice> {
    match &rw.node(n).op {
        Op::Slice(s) => Some(s.clone()),
        _ => None,
    }
}

fn slice_concat(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let y = rw.input(n, 0)?;
    let concat = rw.made_by(y, "Concat")?;
    let (Op::Concat(Concat { axis }), Some(s)) = (rw.node(concat).op.clone(), slice(rw, n)) else { return None };
    let parts: Vec<ValueId> = rw.node(concat).inputs.iter().copied().collect::<Option<_>>()?;
    if !s.bounds.is_empty() {
        return rw.refuse("run time checks where the slice begins and ends");
    }
    // Run time compares the other extents of the parts, unless they are known to be equal.
    let whole = rw.shape(y);
    let alike = |v: &ValueId| rw.shape(*v).iter().zip(whole).enumerate().all(|(i, (a, b))| i == axis || a == b);
    if !parts.iter().all(alike) {
        return rw.refuse("the parts may differ in other extents");
    }
    let (start, step, size) = (&s.starts[axis], s.steps[axis], &s.sizes[axis]);
    if size.is(0) {
        return None;
    }
    let last = start.clone() + Dim::int(step) * (size.clone() - Dim::int(1));
    let (first, last) = if step > 0 { (start.clone(), last) } else { (last, start.clone()) };
    let end = last + Dim::int(1);
    let mut at = vec![Dim::int(0)];
    for v in &parts {
        at.push(at[at.len() - 1].clone() + rw.shape(*v)[axis].clone());
    }
    let reaches = |a: &Dim, b: &Dim| rw.graph().range(&(a.clone() - b.clone())).lo >= 0;
    if let Some(i) = (0..parts.len()).find(|i| reaches(&first, &at[*i]) && reaches(&at[i + 1], &end)) {
        let mut s = s.clone();
        s.starts[axis] = s.starts[axis].clone() - at[i].clone();
        return Some(vec![rw.add(s, &[parts[i]])?]);
    }
    let (from, to) = (at.iter().position(|d| *d == first)?, at.iter().rposition(|d| *d == end)?);
    if step != 1 || to <= from || to - from == parts.len() {
        return None;
    }
    if !rw.used_once(y) {
        return rw.refuse("others read the whole too");
    }
    let y = rw.add(Concat { axis }, &parts[from..to])?;
    let mut s = s.clone();
    s.starts[axis] = Dim::int(0);
    Some(vec![rw.add(s, &[y])?])
}

/// What a value is a part of, and which; a piece of a Split along the axis is one too.
fn part(rw: &Rewriter<'_>, v: ValueId, axis: usize) -> Option<(ValueId, Slice)> {
    let n = rw.producer(v)?;
    let x = rw.input(n, 0)?;
    match &rw.node(n).op {
        Op::Slice(s) => Some((x, s.clone())),
        Op::Split(s) if s.axis == axis => {
            let piece = rw.node(n).outputs.iter().position(|o| *o == v)?;
            let mut cut = Slice::whole(rw.shape(v));
            cut.starts[axis] = s.sizes[..piece].iter().fold(Dim::int(0), |a, d| a + d.clone());
            Some((x, cut))
        }
        _ => None,
    }
}

/// Two slices of one tensor as one, when the second goes on where the first ends.
fn joined(a: &Slice, b: &Slice, axis: usize) -> Option<Slice> {
    let other = |i: usize| i == axis || (a.starts[i] == b.starts[i] && a.steps[i] == b.steps[i] && a.sizes[i] == b.sizes[i]);
    if !(0..a.steps.len()).all(other) {
        return None;
    }
    // One element has any step.
    let (one, single) = (a.sizes[axis].is(1), b.sizes[axis].is(1));
    let step = match (one, single) {
        (true, true) => (b.starts[axis].clone() - a.starts[axis].clone()).as_int()?,
        (true, false) => b.steps[axis],
        (false, true) => a.steps[axis],
        (false, false) if a.steps[axis] == b.steps[axis] => a.steps[axis],
        _ => return None,
    };
    if step < 1 || b.starts[axis] != a.starts[axis].clone() + Dim::int(step) * a.sizes[axis].clone() {
        return None;
    }
    let mut out = a.clone();
    out.steps[axis] = step;
    out.sizes[axis] = a.sizes[axis].clone() + b.sizes[axis].clone();
    out.bounds.extend(b.bounds.iter().cloned());
    Some(out)
}

/// Operands of a Concat that go on where the one before ends.
struct Run {
    /// The first of them.
    first: ValueId,
    /// What they are parts of, and the part that they are together.
    part: Option<(ValueId, Slice)>,
    /// Whether there are several.
    many: bool,
}

fn concat_slices(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let Op::Concat(Concat { axis }) = rw.node(n).op else { return None };
    let inputs: Vec<ValueId> = rw.node(n).inputs.iter().copied().collect::<Option<_>>()?;
    let mut runs: Vec<Run> = Vec::new();
    for v in &inputs {
        let own = part(rw, *v, axis);
        if let (Some(Run { part: Some((x, a)), many, .. }), Some((y, b))) = (runs.last_mut(), &own)
            && x == y
            && let Some(both) = joined(a, b, axis)
        {
            (*a, *many) = (both, true);
            continue;
        }
        runs.push(Run { first: *v, part: own, many: false });
    }
    if runs.len() == inputs.len() {
        return None;
    }
    let mut merged = Vec::new();
    for run in runs {
        merged.push(match run.part {
            Some((x, s)) if run.many => rw.add(s, &[x])?,
            _ => run.first,
        });
    }
    Some(vec![if let [one] = merged[..] { one } else { rw.add(Concat { axis }, &merged)? }])
}

/// Constant indices of one axis into an axis of known extent, from a Gather: its operand, its axis and the indices.
fn picked(rw: &Rewriter<'_>, n: NodeId) -> Option<(ValueId, usize, Vec<i64>, DType)> {
    let Op::Gather(Gather { axis }) = rw.node(n).op else { return None };
    let (x, i) = (rw.input(n, 0)?, rw.input(n, 1)?);
    let t = rw.constant(i).filter(|t| t.dims.len() == 1)?;
    if rw.shape(x).get(axis)?.as_int().is_none() {
        return rw.refuse("run time checks the indices, also those that would not be read");
    }
    Some((x, axis, t.to_i64s()?, t.dtype))
}

/// Indices as a constant of that type.
fn indices(rw: &mut Rewriter<'_>, dims: &[usize], at: &[i64], dtype: DType) -> Option<ValueId> {
    let t = match dtype {
        DType::I64 => Tensor::new(dims, at),
        DType::I32 => Tensor::new(dims, &at.iter().map(|i| i32::try_from(*i).ok()).collect::<Option<Vec<i32>>>()?),
        _ => return None,
    };
    Some(rw.tensor(t))
}

/// Element `j` of a list, counted from its end when negative.
fn element(of: &[i64], j: i64) -> Option<i64> {
    let j = if j < 0 { j + i64::try_from(of.len()).ok()? } else { j };
    of.get(usize::try_from(j).ok()?).copied()
}

fn gather_gather(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let Op::Gather(outer) = rw.node(n).op.clone() else { return None };
    let inner = rw.made_by(rw.input(n, 0)?, "Gather")?;
    let t = rw.constant(rw.input(n, 1)?)?;
    let (dims, j) = (t.dims.clone(), t.to_i64s()?);
    let (x, axis, i, dtype) = picked(rw, inner)?;
    if axis != outer.axis {
        return None;
    }
    let at: Vec<i64> = j.into_iter().map(|j| element(&i, j)).collect::<Option<_>>()?;
    let at = indices(rw, &dims, &at, dtype)?;
    Some(vec![rw.add(outer, &[x, at])?])
}

fn slice_gather(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let (y, s) = (rw.input(n, 0)?, slice(rw, n)?);
    let inner = rw.made_by(y, "Gather")?;
    let (x, axis, i, dtype) = picked(rw, inner)?;
    let uncut = |k: usize| s.starts[k].is(0) && s.steps[k] == 1 && s.sizes[k] == rw.shape(y)[k];
    if !s.bounds.is_empty() || (0..s.steps.len()).any(|k| k != axis && !uncut(k)) {
        return None;
    }
    if !rw.used_once(y) {
        return rw.refuse("others read the whole too");
    }
    let (start, size) = (s.starts[axis].as_int()?, s.sizes[axis].as_int()?);
    let at: Vec<i64> = (0..size).map(|k| element(&i, start + k * s.steps[axis])).collect::<Option<_>>()?;
    let at = indices(rw, &[at.len()], &at, dtype)?;
    Some(vec![rw.add(Gather { axis }, &[x, at])?])
}

fn gather_of_slice(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let Op::Gather(Gather { axis }) = rw.node(n).op else { return None };
    let y = rw.input(n, 0)?;
    let cut = rw.made_by(y, "Slice")?;
    let (s, x) = (slice(rw, cut)?, rw.input(cut, 0)?);
    let t = rw.constant(rw.input(n, 1)?)?;
    let (dims, j, dtype) = (t.dims.clone(), t.to_i64s()?, t.dtype);
    let uncut = |k: usize| s.starts[k].is(0) && s.steps[k] == 1 && s.sizes[k] == rw.shape(x)[k];
    if !s.bounds.is_empty() || (0..s.steps.len()).any(|k| k != axis && !uncut(k)) {
        return None;
    }
    let (start, step, size) = (s.starts[axis].as_int()?, s.steps[axis], s.sizes[axis].as_int()?);
    let place = |j: i64| {
        let j = if j < 0 { j + size } else { j };
        (0..size).contains(&j).then(|| start + step * j)
    };
    let at: Vec<i64> = j.into_iter().map(place).collect::<Option<_>>()?;
    let at = indices(rw, &dims, &at, dtype)?;
    Some(vec![rw.add(Gather { axis }, &[x, at])?])
}

#[cfg(test)]
pub(in crate::rewrite) mod tests {
    use super::*;
    use crate::ops::movement::Split;
    use crate::rewrite::tests::{Case, Example, refused};

    const ANY: &[DType] = &[DType::F32, DType::F64, DType::I64, DType::U8, DType::F16];

    /// Tensors to stand side by side along an axis, where each has elements.
    fn beside(c: &mut Case, extents: &[usize]) -> (usize, Vec<ValueId>, Vec<usize>) {
        let rank = 1 + c.rng.below(3);
        let (axis, mut shape, d) = (c.rng.below(rank), c.shape(rank), c.rng.pick(ANY));
        let parts = extents.iter().map(|n| {
            shape[axis] = *n;
            c.input(d, &shape)
        });
        let parts = parts.collect();
        shape[axis] = extents.iter().sum();
        (axis, parts, shape)
    }
    /// A slice of one axis.
    fn along(c: &mut Case, x: ValueId, axis: usize, start: i64, step: i64, size: i64) -> ValueId {
        let mut s = Slice::whole(c.g.shape(x));
        (s.starts[axis], s.steps[axis], s.sizes[axis]) = (start.into(), step, size.into());
        c.op(s, &[x])
    }
    fn chosen(c: &mut Case, dims: &[usize], n: i64) -> ValueId {
        let count: usize = dims.iter().product();
        let at: Vec<i64> = (0..count).map(|_| c.rng.below(2 * n as usize) as i64 - n).collect();
        let t = if c.rng.below(2) == 0 {
            Tensor::new(dims, &at)
        } else {
            Tensor::new(dims, &at.iter().map(|i| *i as i32).collect::<Vec<i32>>())
        };
        c.g.add_constant(t, "")
    }
    fn table(c: &mut Case) -> (ValueId, usize) {
        let rank = 1 + c.rng.below(3);
        let (axis, mut shape, d) = (c.rng.below(rank), c.shape(rank), c.rng.pick(ANY));
        shape[axis] = 5;
        (c.input(d, &shape), axis)
    }

    pub(in crate::rewrite) const EXAMPLES: &[Example] = &[
        ("slice-concat", |c| {
            let (axis, parts, _) = beside(c, &[2, 4, 1, 3]);
            let y = c.op(Concat { axis }, &parts);
            let (start, step, size) =
                c.rng.pick(&[(2, 1, 4), (3, 2, 2), (5, -1, 4), (5, -2, 2), (6, 1, 1), (2, 1, 5), (6, 1, 4), (0, 1, 6), (1, 1, 1)]);
            let z = along(c, y, axis, start, step, size);
            c.output(z);
        }),
        ("slice-concat", |c| {
            // Open extents: the slice begins and ends where the second part does.
            let d = c.rng.pick(ANY);
            let (x, y) = (c.open(d, &[3]), c.open(d, &[2]));
            let z = c.op(Concat { axis: 0 }, &[x, y]);
            let (a, b) = (c.g.shape(x)[0].clone(), c.g.shape(y)[0].clone());
            let z = c.op(Slice { starts: vec![a], steps: vec![1], sizes: vec![b], bounds: vec![] }, &[z]);
            c.output(z);
        }),
        ("concat-slices", |c| {
            let (x, axis) = table(c);
            let cuts: &[&[(i64, i64, i64)]] = &[
                &[(0, 1, 2), (2, 1, 3)],
                &[(1, 1, 2), (3, 1, 1), (0, 1, 1)],
                &[(4, 1, 1), (0, 2, 2), (4, 1, 1)],
                &[(1, 1, 1), (3, 1, 1)],
                &[(2, 1, 1), (3, 1, 2)],
            ];
            let cuts = c.rng.pick(cuts);
            let parts: Vec<ValueId> = cuts.iter().map(|(start, step, size)| along(c, x, axis, *start, *step, *size)).collect();
            let y = c.op(Concat { axis }, &parts);
            c.output(y);
        }),
        ("concat-slices", |c| {
            let (x, axis) = table(c);
            let sizes: Vec<Dim> = [2, 1, 2].map(Dim::int).to_vec();
            let v = c.all(Split { axis, sizes }, &[x], 3);
            let order: &[&[usize]] = &[&[1, 2], &[0, 1, 0], &[2, 0, 1], &[0, 1, 2]];
            let parts: Vec<ValueId> = c.rng.pick(order).iter().map(|i| v[*i]).collect();
            let y = c.op(Concat { axis }, &parts);
            c.output(y);
        }),
        ("gather-gather", |c| {
            let (x, axis) = table(c);
            let i = chosen(c, &[4], 5);
            let y = c.op(Gather { axis }, &[x, i]);
            let dims = c.rng.pick(&[&[][..], &[3], &[2, 2]]);
            let j = chosen(c, dims, 4);
            let z = c.op(Gather { axis }, &[y, j]);
            c.output(z);
        }),
        ("slice-gather", |c| {
            let (x, axis) = table(c);
            let i = chosen(c, &[4], 5);
            let y = c.op(Gather { axis }, &[x, i]);
            let (start, step, size) = c.rng.pick(&[(0, 1, 2), (3, -1, 3), (1, 2, 2)]);
            let z = along(c, y, axis, start, step, size);
            c.output(z);
        }),
        ("gather-of-slice", |c| {
            let (x, axis) = table(c);
            let (start, step, size) = c.rng.pick(&[(1, 1, 3), (4, -1, 4), (0, 2, 3)]);
            let y = along(c, x, axis, start, step, size);
            let j = chosen(c, &[3], size);
            let z = c.op(Gather { axis }, &[y, j]);
            c.output(z);
        }),
    ];

    #[test]
    fn parts_stay_where_something_is_not_known() {
        // Into two parts, although another reads the whole.
        refused("slice-concat", |c| {
            let (axis, parts, _) = beside(c, &[2, 4, 1, 3]);
            let y = c.op(Concat { axis }, &parts);
            let z = along(c, y, axis, 2, 1, 5);
            c.output(z);
            c.output(y);
        });
        // Across the border.
        refused("slice-concat", |c| {
            let (axis, parts, _) = beside(c, &[2, 4]);
            let y = c.op(Concat { axis }, &parts);
            let z = along(c, y, axis, 1, 1, 2);
            c.output(z);
        });
        // An open extent before the slice: it may begin in either part.
        refused("slice-concat", |c| {
            let (x, y) = (c.open(DType::F32, &[3]), c.open(DType::F32, &[2]));
            let z = c.op(Concat { axis: 0 }, &[x, y]);
            let z = along(c, z, 0, 2, 1, 1);
            c.output(z);
        });
        // A gap, and another order.
        refused("concat-slices", |c| {
            let (x, axis) = table(c);
            let (a, b, d) = (along(c, x, axis, 0, 1, 2), along(c, x, axis, 3, 1, 2), along(c, x, axis, 1, 1, 2));
            let y = c.op(Concat { axis }, &[a, b, d]);
            c.output(y);
        });
        // Nobody knows whether the index that goes unread was inside.
        refused("gather-gather", |c| {
            let x = c.open(DType::F32, &[5]);
            let (i, j) = (chosen(c, &[4], 5), chosen(c, &[2], 4));
            let y = c.op(Gather { axis: 0 }, &[x, i]);
            let z = c.op(Gather { axis: 0 }, &[y, j]);
            c.output(z);
        });
    }
}
