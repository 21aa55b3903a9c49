//! Reductions of reductions.

use crate::ir::NodeId;
use crate::ops::Op;
use crate::ops::reduce::Reduce;
use crate::rewrite::{Class, Found, Rewriter, Rule};

/// Rules about reductions.
#[rustfmt::skip]
pub const RULES: &[Rule] = &[
    Rule { name: "reduce-reduce", on: &["Reduce"], equation: "Reduce(Reduce(x; a); b) => Reduce(x; a+b)  where both are the sum, the mean, the greatest or the least, both keep axes or neither does, and nothing else reads the first", class: Class::Reassociating, apply: reduce_reduce },
];

fn reduce_reduce(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let Op::Reduce(outer) = rw.node(n).op.clone() else { return None };
    let y = rw.input(n, 0)?;
    let m = rw.made_by(y, "Reduce")?;
    let (Op::Reduce(inner), x) = (rw.node(m).op.clone(), rw.input(m, 0)?) else { return None };
    let fits = inner.mode == outer.mode && inner.keep == outer.keep && ["sum", "mean", "max", "min"].contains(&inner.mode);
    if !fits {
        return None;
    }
    if !rw.used_once(y) {
        return rw.refuse("others read the first reduction too");
    }
    // The axes of the operand that the second one names.
    let left: Vec<usize> = (0..rw.shape(x).len()).filter(|a| inner.keep || !inner.axes.contains(a)).collect();
    let mut axes: Vec<usize> = outer.axes.iter().map(|a| left.get(*a).copied()).collect::<Option<_>>()?;
    axes.extend(&inner.axes);
    axes.sort();
    axes.dedup();
    Some(vec![rw.add(Reduce { axes, ..outer }, &[x])?])
}

#[cfg(test)]
pub(in crate::rewrite) mod tests {
    use super::*;
    use crate::ir::ValueId;
    use crate::rewrite::tests::{Case, Example, refused};

    fn extents(c: &mut Case, rank: usize) -> Vec<usize> {
        (0..rank).map(|_| 1 + c.rng.below(4)).collect()
    }
    fn reduced(c: &mut Case, x: ValueId, mode: &'static str, keep: bool) -> ValueId {
        let rank = c.g.shape(x).len();
        let axes = (0..rank).filter(|_| c.rng.below(2) == 0).collect();
        c.op(Reduce { mode, axes, keep }, &[x])
    }
    pub(in crate::rewrite) const EXAMPLES: &[Example] = &[("reduce-reduce", |c| {
        let (d, rank, keep) = (c.wide(), 1 + c.rng.below(4), c.rng.below(2) == 0);
        let (shape, mode) = (extents(c, rank), c.rng.pick(&["sum", "mean", "max", "min"]));
        let x = c.input(d, &shape);
        let y = reduced(c, x, mode, keep);
        let z = reduced(c, y, mode, keep);
        c.output(z);
    })];

    #[test]
    fn reductions_of_two_kinds_stay() {
        refused("reduce-reduce", |c| {
            let x = c.input(kiln_kernels::dtype::DType::F32, &[2, 3]);
            let y = c.op(Reduce { mode: "max", axes: vec![0], keep: true }, &[x]);
            let z = c.op(Reduce { mode: "sum", axes: vec![1], keep: true }, &[y]);
            c.output(z);
        });
    }
}
