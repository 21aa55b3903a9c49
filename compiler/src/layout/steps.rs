//! Strides under moves of elements: what a value's access becomes when its axes are permuted, cut, split, merged or repeated.

use super::Access;
use crate::ir::{Dim, Graph, Node, ValueId};
use crate::ops::Op;

/// The one step that leads through some axes as if they were a single one, `unit` where no axis has a step; `None` where there is none.
pub fn collapse(shape: &[Dim], strides: &[Dim], unit: Dim) -> Option<Dim> {
    let mut axes = shape.iter().zip(strides).filter(|(d, _)| !d.is(1)).rev();
    let Some((d, step)) = axes.next() else { return Some(unit) };
    let mut next = step.clone() * d.clone();
    for (d, s) in axes {
        if *s != next {
            return None;
        }
        next = next * d.clone();
    }
    Some(step.clone())
}

/// Strides of the same elements under another shape; `None` where axes would merge that are no neighbours in memory.
pub fn reshape(from: &[Dim], strides: &[Dim], to: &[Dim]) -> Option<Vec<Dim>> {
    if from.iter().chain(to).any(|d| d.is(0)) {
        return Some(super::strides(to, super::Layout::RowMajor));
    }
    let mut out = vec![Dim::int(0); to.len()];
    let old: Vec<usize> = (0..from.len()).filter(|i| !from[*i].is(1)).collect();
    let new: Vec<usize> = (0..to.len()).filter(|i| !to[*i].is(1)).collect();
    let (mut i, mut j) = (old.len(), new.len());
    // From the last axes on, the shortest runs of both shapes that have equally many elements.
    while i > 0 && j > 0 {
        let (old_end, new_end) = (i, j);
        i -= 1;
        j -= 1;
        let (mut a, mut b) = (from[old[i]].clone(), to[new[j]].clone());
        while a != b {
            let wider = match (a.as_int(), b.as_int()) {
                (Some(a), Some(b)) => a > b,
                _ => a.exact_div(&b).is_some(),
            };
            if wider && j > 0 {
                j -= 1;
                b = b * to[new[j]].clone();
            } else if !wider && i > 0 {
                i -= 1;
                a = a * from[old[i]].clone();
            } else {
                return None;
            }
        }
        let run = |s: &[Dim]| old[i..old_end].iter().map(|k| s[*k].clone()).collect::<Vec<_>>();
        let mut step = collapse(&run(from), &run(strides), Dim::int(0))?;
        for k in (j..new_end).rev() {
            out[new[k]] = step.clone();
            step = step * to[new[k]].clone();
        }
    }
    (i == 0 && j == 0).then_some(out)
}

/// Whether the elements of a value in a layout have strides in the shape of another one.
pub fn reshapes(g: &Graph, x: ValueId, to: ValueId, layout: super::Layout) -> bool {
    let from = g.shape(x);
    reshape(from, &super::strides(from, layout), g.shape(to)).is_some()
}

/// Where result `i` of a node that only moves elements lies, given where its operand does; `None` for other nodes, and where strides
/// cannot say it.
pub(super) fn moved(g: &Graph, node: &Node, i: usize, x: &Access) -> Option<Access> {
    let from = g.shape(node.inputs.first().copied().flatten()?);
    let to = g.shape(*node.outputs.get(i)?);
    let Access { of, mut start, strides } = x.clone();
    let strides = match &node.op {
        Op::Transpose(t) => t.perm.iter().map(|&p| strides.get(p).cloned()).collect::<Option<Vec<_>>>()?,
        Op::Reshape(_) => reshape(from, &strides, to)?,
        Op::BitCast(_) if from == to => strides,
        Op::Slice(s) => {
            for (first, step) in s.starts.iter().zip(&strides) {
                start = start + first.clone() * step.clone();
            }
            strides.into_iter().zip(&s.steps).map(|(stride, step)| stride * Dim::int(*step)).collect()
        }
        Op::Split(s) => {
            for size in &s.sizes[..i] {
                start = start + size.clone() * strides[s.axis].clone();
            }
            strides
        }
        Op::Expand(_) => {
            let skip = to.len().checked_sub(from.len())?;
            let own = strides.into_iter().zip(from).map(|(s, d)| if d.is(1) { Dim::int(0) } else { s });
            vec![Dim::int(0); skip].into_iter().chain(own).collect()
        }
        _ => return None,
    };
    Some(Access { of, start, strides })
}
