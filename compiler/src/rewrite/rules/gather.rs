//! Elements gathered at places that are known: what indices spell out is a region.

use crate::ir::{Dim, NodeId};
use crate::ops::Op;
use crate::ops::movement::Slice;
use crate::ops::shape::Reshape;
use crate::rewrite::affine::Affine;
use crate::rewrite::{Class, Found, Rewriter, Rule};
use kiln_kernels::dtype::DType;
use kiln_kernels::value::Tensor;

/// Rules about gathering.
#[rustfmt::skip]
pub const RULES: &[Rule] = &[
    Rule { name: "gather-nd-slice", on: &["GatherNd"], equation: "GatherND(x, c) => Reshape(Slice(x))  where the constant indices c step along one axis of x for each of theirs, in order", class: Class::Exact, apply: gather_nd_slice },
];

fn gather_nd_slice(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let Op::GatherNd(op) = &rw.node(n).op else { return None };
    let (x, c) = (rw.input(n, 0)?, rw.constant(rw.input(n, 1)?)?);
    let (depth, outer) = (*c.dims.last()?, &c.dims[..c.dims.len() - 1]);
    if op.batch != 0 || c.is_empty() || rw.dtype(x) == DType::Str {
        return None;
    }
    let shape = rw.shape(x).to_vec();
    let rank = shape.len();
    let (mut starts, mut steps, mut sizes) = (vec![Dim::int(0); rank], vec![1; rank], shape.clone());
    let all = c.to_i64s()?;
    // The axes of the indices in order; those of one element are none of the region's.
    let mut left = (0..outer.len()).filter(|a| outer[*a] != 1);
    for axis in 0..depth {
        // Only against a known extent is an index known to be inside.
        let extent = shape[axis].as_int()?;
        let at: Vec<i64> = all[axis..].iter().step_by(depth).map(|i| if *i < 0 { i + extent } else { *i }).collect();
        if at.iter().any(|i| !(0..extent).contains(i)) {
            return None;
        }
        let form = Affine::constant(&Tensor::new(outer, &at))?;
        let mut moving = (0..outer.len()).filter(|a| !form.steps[*a].is(0));
        starts[axis] = form.base.clone();
        match (moving.next(), moving.next()) {
            (None, _) => sizes[axis] = Dim::int(1),
            (Some(a), None) if left.next() == Some(a) => {
                steps[axis] = form.steps[a].as_int()?;
                sizes[axis] = outer[a].into();
            }
            _ => return None,
        }
    }
    if left.next().is_some() {
        return None;
    }
    let shape = rw.shape(*rw.node(n).outputs.first()?).to_vec();
    let y = rw.add(Slice { starts, steps, sizes, bounds: vec![] }, &[x])?;
    Some(vec![rw.add(Reshape { shape }, &[y])?])
}

#[cfg(test)]
pub(in crate::rewrite) mod tests {
    use super::*;
    use crate::ops::gather::GatherNd;
    use crate::rewrite::tests::Example;

    pub(in crate::rewrite) const EXAMPLES: &[Example] = &[("gather-nd-slice", |c| {
        let dtype = c.rng.pick(&[DType::F32, DType::I64, DType::Bool]);
        let rank = 1 + c.rng.below(3);
        let depth = 1 + c.rng.below(rank);
        let shape: Vec<usize> = (0..rank).map(|_| 1 + c.rng.below(6)).collect();
        // For each axis a first index, a step and a count; a count of 1 may have no axis of its own.
        let mut outer = vec![];
        let mut lines: Vec<(Vec<i64>, Option<usize>)> = vec![];
        for &n in &shape[..depth] {
            let first = c.rng.below(n);
            let step = if c.rng.below(2) == 0 { 1 } else { -1i64 };
            let most = if step > 0 { n - first } else { first + 1 };
            let count = 1 + c.rng.below(most);
            let wrapped = if c.rng.below(3) == 0 { n as i64 } else { 0 };
            let line = (0..count as i64).map(|i| first as i64 + i * step - wrapped).collect();
            if c.rng.below(3) == 0 {
                outer.push(1);
            }
            let own = (count > 1 || c.rng.below(2) == 0).then(|| {
                outer.push(count);
                outer.len() - 1
            });
            lines.push((line, own));
        }
        let mut all = vec![];
        let total: usize = outer.iter().product();
        for k in 0..total {
            for (line, own) in &lines {
                let i = own.map_or(0, |a| k / outer[a + 1..].iter().product::<usize>() % outer[a]);
                all.push(line[i]);
            }
        }
        let dims = [&outer[..], &[depth]].concat();
        let (x, at) = (c.input(dtype, &shape), c.g.add_constant(Tensor::new(&dims, &all), ""));
        let y = c.op(GatherNd { batch: 0 }, &[x, at]);
        c.output(y);
    })];
}
