//! Permutations behind reductions and concatenations, where there are fewer of them or fewer elements to move, and behind functions
//! that a kernel before them takes in.

use crate::ir::{Dim, NodeId, ValueId};
use crate::ops::Op;
use crate::ops::movement::{Concat, Transpose};
use crate::ops::reduce::Reduce;
use crate::ops::shape::Reshape;
use crate::rewrite::{Class, Found, Rewriter, Rule};
use kiln_kernels::dtype::DType;

/// Rules that move permutations towards results.
#[rustfmt::skip]
pub const RULES: &[Rule] = &[
    Rule { name: "reduce-transpose", on: &["Reduce"], equation: "Reduce(Transpose(x; p); a) => Transpose(Reduce(x; p(a)); p')  where nothing else reads the transposed", class: Class::Reassociating, apply: reduce_transpose },
    Rule { name: "concat-transposes", on: &["Concat"], equation: "Concat(Transpose(x; p), Transpose(y; p), ..; a) => Transpose(Concat(x, y, ..; p(a)); p)  where nothing else reads the transposed", class: Class::Exact, apply: concat_transposes },
    Rule { name: "transpose-units-transpose", on: &["Transpose"], equation: "Transpose(Reshape(Transpose(x; q), s); p) => Reshape(Transpose(x; r))  where s only adds or drops axes of extent 1, and nothing else reads what is between", class: Class::Exact, apply: transpose_units_transpose },
    Rule { name: "function-transpose", on: &["Pointwise"], equation: "f(Transpose(x; p)) => Transpose(f(x); p)  where x comes out of a kernel that f can join, perhaps in another shape, and nothing else reads what is between", class: Class::Exact, apply: function_transpose },
];

/// The operand of a Transpose that one node alone reads, and its permutation.
fn transposed(rw: &Rewriter<'_>, v: ValueId) -> Option<(ValueId, Vec<usize>)> {
    let n = rw.made_by(v, "Transpose")?;
    if !rw.used_once(v) {
        return rw.refuse("others read the transposed too");
    }
    match &rw.node(n).op {
        Op::Transpose(t) => Some((rw.input(n, 0)?, t.perm.clone())),
        _ => None,
    }
}

fn reduce_transpose(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let Op::Reduce(r) = rw.node(n).op.clone() else { return None };
    let (x, p) = transposed(rw, rw.input(n, 0)?)?;
    let mut axes: Vec<usize> = r.axes.iter().map(|a| p.get(*a).copied()).collect::<Option<_>>()?;
    axes.sort();
    let perm: Vec<usize> = match r.keep {
        true => p,
        false => {
            let left: Vec<usize> = p.iter().copied().filter(|a| !axes.contains(a)).collect();
            left.iter().map(|a| left.iter().filter(|b| *b < a).count()).collect()
        }
    };
    let y = rw.add(Reduce { axes, ..r }, &[x])?;
    if perm.is_sorted() {
        return Some(vec![y]);
    }
    Some(vec![rw.add(Transpose { perm }, &[y])?])
}

/// The axes that stay when axes of extent 1 are added or dropped: where those of `to` are in `from`; `None` when it is another reshape.
fn kept(from: &[Dim], to: &[Dim]) -> Option<Vec<Option<usize>>> {
    let mut wide = (0..from.len()).filter(|i| !from[*i].is(1));
    let mut place = Vec::new();
    for d in to {
        place.push(if d.is(1) { None } else { Some(wide.next().filter(|i| from[*i] == *d)?) });
    }
    wide.next().is_none().then_some(place)
}

fn transpose_units_transpose(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let Op::Transpose(outer) = rw.node(n).op.clone() else { return None };
    let y = rw.input(n, 0)?;
    let reshape = rw.made_by(y, "Reshape").filter(|_| rw.used_once(y))?;
    let inner = rw.input(reshape, 0)?;
    let (x, q) = transposed(rw, inner)?;
    let places = kept(rw.shape(inner), rw.shape(y))?;
    // The wide axes of the inner result in the order that the outer permutation gives them; those of extent 1 stay in front.
    let wide: Vec<usize> = outer.perm.iter().filter_map(|p| places[*p]).collect();
    let units = (0..q.len()).filter(|a| !wide.contains(a));
    let perm: Vec<usize> = units.chain(wide.iter().copied()).map(|a| q[a]).collect();
    let shape = rw.shape(*rw.node(n).outputs.first()?).to_vec();
    let y = if perm.is_sorted() { x } else { rw.add(Transpose { perm }, &[x])? };
    Some(vec![rw.add(Reshape { shape }, &[y])?])
}

fn function_transpose(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let ([Some(y)], [out]) = (&rw.node(n).inputs[..], &rw.node(n).outputs[..]) else { return None };
    let (y, out) = (*y, *out);
    // What joins kernels of tiles is f32.
    if rw.dtype(y) != DType::F32 || rw.dtype(out) != DType::F32 {
        return None;
    }
    let (x, perm) = transposed(rw, y)?;
    let mut from = x;
    loop {
        let maker = rw.producer(from).filter(|_| rw.used_once(from))?;
        match rw.node(maker).op {
            Op::Reshape(_) => from = rw.input(maker, 0)?,
            Op::Conv(_) | Op::MatMul(_) | Op::Pointwise(_) => break,
            _ => return None,
        }
    }
    let op = rw.node(n).op.clone();
    let f = rw.add(op, &[x])?;
    Some(vec![rw.add(Transpose { perm }, &[f])?])
}

fn concat_transposes(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let Op::Concat(Concat { axis }) = rw.node(n).op else { return None };
    let mut perm: Option<Vec<usize>> = None;
    let mut parts = Vec::new();
    for v in rw.node(n).inputs.clone() {
        let (x, p) = transposed(rw, v?)?;
        if *perm.get_or_insert_with(|| p.clone()) != p {
            return None;
        }
        parts.push(x);
    }
    let perm = perm.filter(|_| parts.len() > 1)?;
    let y = rw.add(Concat { axis: *perm.get(axis)? }, &parts)?;
    Some(vec![rw.add(Transpose { perm }, &[y])?])
}

#[cfg(test)]
pub(in crate::rewrite) mod tests {
    use super::*;
    use crate::ops::matmul::MatMul;
    use crate::rewrite::tests::{Case, Example, refused};

    fn shuffled(c: &mut Case, rank: usize) -> Vec<usize> {
        let mut perm: Vec<usize> = (0..rank).collect();
        (1..rank).for_each(|i| perm.swap(i, c.rng.below(i + 1)));
        perm
    }
    fn extents(c: &mut Case, rank: usize) -> Vec<usize> {
        (0..rank).map(|_| 1 + c.rng.below(4)).collect()
    }
    /// A reduction of a permuted input, and the permuted.
    fn reduced(c: &mut Case) -> (ValueId, ValueId) {
        let rank = 1 + c.rng.below(4);
        let (shape, perm, d) = (extents(c, rank), shuffled(c, rank), c.wide());
        let x = c.input(d, &shape);
        let t = c.op(Transpose { perm }, &[x]);
        let axes: Vec<usize> = (0..rank).filter(|_| c.rng.below(2) == 0).collect();
        let mode = c.rng.pick(&["sum", "mean", "max", "min", "l1", "sum_square"]);
        let keep = c.rng.below(2) == 0;
        (c.op(Reduce { mode, axes, keep }, &[t]), t)
    }

    /// A function of a permuted result of a product or another function, and the permuted.
    fn behind(c: &mut Case) -> (ValueId, ValueId) {
        let [m, k, n] = [1 + c.rng.below(4), 1 + c.rng.below(3), 2 * (1 + c.rng.below(2))];
        let x = c.input(DType::F32, &[m, k]);
        let w = c.factor(DType::F32, &[k, n]);
        let mut y = c.op(MatMul, &[x, w]);
        if c.rng.below(2) == 0 {
            y = c.pointwise("Neg", &[y]);
        }
        let mut rank = 2;
        if c.rng.below(2) == 0 {
            y = c.op(Reshape { shape: vec![m.into(), 2.into(), (n / 2).into()] }, &[y]);
            rank = 3;
        }
        let perm: Vec<usize> = (0..rank).rev().collect();
        let t = c.op(Transpose { perm }, &[y]);
        let name = c.rng.pick(&["Sigmoid", "Exp", "Relu"]);
        (c.pointwise(name, &[t]), t)
    }

    pub(in crate::rewrite) const EXAMPLES: &[Example] = &[
        ("function-transpose", |c| {
            let (y, _) = behind(c);
            c.output(y);
        }),
        ("transpose-units-transpose", |c| {
            let shape: Vec<usize> = (0..3).map(|_| c.rng.pick(&[1, 2, 3, 5])).collect();
            let d = c.float();
            let x = c.input(d, &shape);
            let q = c.rng.pick(&[[0, 2, 1], [2, 0, 1], [1, 0, 2]]);
            let y = c.op(Transpose { perm: q.to_vec() }, &[x]);
            let mut units: Vec<Dim> = q.iter().map(|a| shape[*a].into()).collect();
            units.insert(c.rng.below(4), Dim::int(1));
            let y = c.op(Reshape { shape: units }, &[y]);
            let p = c.rng.pick(&[[0, 1, 3, 2], [3, 1, 0, 2], [1, 0, 2, 3]]);
            let y = c.op(Transpose { perm: p.to_vec() }, &[y]);
            c.output(y);
        }),
        ("reduce-transpose", |c| {
            let (y, _) = reduced(c);
            c.output(y);
        }),
        ("concat-transposes", |c| {
            let rank = 1 + c.rng.below(4);
            let (mut shape, perm, d) = (c.shape(rank), shuffled(c, rank), c.rng.pick(&[DType::F32, DType::U8, DType::I64]));
            let axis = c.rng.below(rank);
            let mut parts = Vec::new();
            for _ in 0..2 + c.rng.below(2) {
                shape[perm[axis]] = c.rng.below(4);
                let x = c.input(d, &shape);
                parts.push(c.op(Transpose { perm: perm.clone() }, &[x]));
            }
            let y = c.op(Concat { axis }, &parts);
            c.output(y);
        }),
    ];

    #[test]
    fn permutations_that_others_need_stay() {
        refused("reduce-transpose", |c| {
            let (y, t) = reduced(c);
            c.output(y);
            c.output(t);
        });
        refused("function-transpose", |c| {
            let (y, t) = behind(c);
            c.output(y);
            c.output(t);
        });
        refused("concat-transposes", |c| {
            let (x, y) = (c.input(DType::F32, &[2, 3]), c.input(DType::F32, &[3, 2]));
            let t = c.op(Transpose { perm: vec![1, 0] }, &[x]);
            let z = c.op(Concat { axis: 0 }, &[t, y]);
            c.output(z);
        });
    }
}
