//! Recognisers: what exporters spell out in small operators, read back as the one operator it is.
//!
//! Each knows one step and leaves the next to another rule (a normalization first, its scale and bias afterwards), so that every order in
//! which an exporter may write them is covered without a rule for each.

use super::orders;
use crate::eval;
use crate::ir::{NodeId, ValueId, product};
use crate::ops::gather::Lookup;
use crate::ops::movement::Transpose;
use crate::ops::norm::LayerNorm;
use crate::ops::reduce::Reduce;
use crate::ops::shape::Reshape;
use crate::ops::{Op, softmax::Softmax};
use crate::rewrite::{Class, Found, Rewriter, Rule};
use kiln_kernels::dtype::DType;

/// Rules that recognise.
#[rustfmt::skip]
pub const RULES: &[Rule] = &[
    Rule { name: "pow-inverse-root", on: &["Pow"], equation: "x ^ -0.5 => 1 / sqrt(x)  but for the sign at -0", class: Class::Reassociating, apply: inverse_root },
    Rule { name: "sum-mean", on: &["Div", "Mul"], equation: "ReduceSum(x) / n => ReduceMean(x)  where n is the number of terms", class: Class::Reassociating, apply: sum_mean },
    Rule { name: "layer-norm", on: &["Div", "Mul"], equation: "d / sqrt(mean(d * d) + eps) => LayerNorm(x)  where d = x - mean(x);  behind a Transpose, with its inverse after it, where the mean is not over the last axes", class: Class::Reassociating, apply: |rw, n| norm(rw, n, true) },
    Rule { name: "rms-norm", on: &["Div", "Mul"], equation: "x / sqrt(mean(x * x) + eps) => LayerNorm(x; not centred);  behind a Transpose likewise", class: Class::Reassociating, apply: |rw, n| norm(rw, n, false) },
    Rule { name: "norm-scale", on: &["Mul"], equation: "LayerNorm(x; 1) * g => LayerNorm(x; g), perhaps with a Transpose between", class: Class::Reassociating, apply: norm_scale },
    Rule { name: "norm-bias", on: &["Add"], equation: "LayerNorm(x; g) + b => LayerNorm(x; g, b), perhaps with a Transpose between", class: Class::Reassociating, apply: norm_bias },
    Rule { name: "lookup", on: &["Add"], equation: "Gather(a, i) + Gather(b, j) => Lookup(a, i, b, j)  where a, b are tables of one width and nothing else reads the rows", class: Class::Exact, apply: lookup },
    Rule { name: "lookup-add", on: &["Add"], equation: "Lookup(a, i, b, j) + c => Lookup(a, i, b, j, c)  where c has the result's shape", class: Class::Exact, apply: lookup_add },
    Rule { name: "softmax", on: &["Div", "Mul"], equation: "exp(x - max(x)) / sum(exp(x - max(x))) => Softmax(x);  exp(x) / sum(exp(x)) => Softmax(x)", class: Class::Reassociating, apply: softmax },
];

pub(super) fn is_float(rw: &Rewriter<'_>, v: ValueId) -> bool {
    matches!(rw.dtype(v), DType::F32 | DType::F64)
}

/// `x` of a node of that name over it.
pub(super) fn under(rw: &Rewriter<'_>, v: ValueId, name: &str) -> Option<ValueId> {
    rw.input(rw.made_by(v, name)?, 0)
}

/// Numerator and denominator of a quotient, which may be a product with an inverse.
pub(super) fn quotient(rw: &Rewriter<'_>, n: NodeId) -> Vec<(ValueId, ValueId)> {
    let Some(orders) = orders(rw, n) else { return vec![] };
    if rw.node(n).op.name() == "Pointwise" && crate::rewrite::head(&rw.node(n).op) == "Div" {
        return vec![orders[0]];
    }
    let inverse = |v: ValueId| {
        under(rw, v, "Reciprocal").or_else(|| {
            let div = rw.made_by(v, "Div")?;
            rw.uniform(rw.input(div, 0)?).filter(|c| *c == 1.0)?;
            rw.input(div, 1)
        })
    };
    orders.into_iter().filter_map(|(a, b)| Some((a, inverse(b)?))).collect()
}

/// The operand and the axes of a reduction that keeps its axes.
fn reduced(rw: &Rewriter<'_>, v: ValueId, mode: &str) -> Option<(ValueId, Vec<usize>)> {
    let n = rw.made_by(v, "Reduce")?;
    match &rw.node(n).op {
        Op::Reduce(r) if r.mode == mode && r.keep => Some((rw.input(n, 0)?, r.axes.clone())),
        _ => None,
    }
}

fn inverse_root(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let (x, e) = (rw.input(n, 0)?, rw.input(n, 1)?);
    if !is_float(rw, x) || rw.uniform(e)? != -0.5 {
        return None;
    }
    let root = rw.pointwise("Sqrt", &[x])?;
    Some(vec![rw.pointwise("Reciprocal", &[root])?])
}

fn sum_mean(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let (y, c) = (rw.input(n, 0)?, rw.input(n, 1)?);
    let sum = rw.made_by(y, "Reduce")?;
    let Op::Reduce(r) = rw.node(sum).op.clone() else { return None };
    let x = rw.input(sum, 0)?;
    let terms = r.axes.iter().map(|a| rw.shape(x).get(*a)?.as_int()).product::<Option<i64>>()? as f64;
    let c = rw.uniform(c)?;
    let mean = match crate::rewrite::head(&rw.node(n).op) {
        "Div" => c == terms,
        _ => (c * terms - 1.0).abs() < 1e-7,
    };
    if r.mode != "sum" || !mean || terms == 0.0 || !is_float(rw, x) {
        return None;
    }
    Some(vec![rw.add(Reduce { mode: "mean", ..r }, &[x])?])
}

fn norm(rw: &mut Rewriter<'_>, n: NodeId, centred: bool) -> Found {
    for (d, root) in quotient(rw, n) {
        if let Some(y) = normalized(rw, d, root, centred) {
            return Some(vec![y]);
        }
    }
    None
}

fn normalized(rw: &mut Rewriter<'_>, d: ValueId, root: ValueId, centred: bool) -> Option<ValueId> {
    let sum = rw.made_by(under(rw, root, "Sqrt")?, "Add")?;
    let (variance, epsilon) = orders(rw, sum)?.into_iter().find_map(|(v, e)| Some((v, rw.uniform(e)?)))?;
    let (square, axes) = reduced(rw, variance, "mean")?;
    let mul = rw.made_by(square, "Mul")?;
    if orders(rw, mul)? != [(d, d); 2] || !is_float(rw, d) {
        return None;
    }
    let x = match centred {
        true => {
            let minus = rw.made_by(d, "Sub")?;
            let (x, mean) = (rw.input(minus, 0)?, rw.input(minus, 1)?);
            (reduced(rw, mean, "mean")? == (x, axes.clone())).then_some(x)?
        }
        false => d,
    };
    let rank = rw.shape(x).len();
    let axis = rank.checked_sub(axes.len()).filter(|axis| *axis < rank)?;
    let dims: Vec<usize> = axes.iter().map(|a| rw.shape(x)[*a].as_int().and_then(|n| usize::try_from(n).ok())).collect::<Option<_>>()?;
    let perm: Vec<usize> = (0..rank).filter(|a| !axes.contains(a)).chain(axes.iter().copied()).collect();
    let rows = permuted(rw, x, &perm)?;
    let ones = eval::from_f64s(&dims, &vec![1.0; dims.iter().product()], rw.dtype(x));
    let scale = rw.tensor(ones);
    let y = rw.add(LayerNorm { axis, epsilon: (epsilon as f32).into(), centred }, &[rows, scale])?;
    permuted(rw, y, &inverse(&perm))
}

/// A value with its axes in another order: itself where that is none.
pub(super) fn permuted(rw: &mut Rewriter<'_>, x: ValueId, perm: &[usize]) -> Option<ValueId> {
    if perm.is_sorted() { Some(x) } else { rw.add(Transpose { perm: perm.to_vec() }, &[x]) }
}

pub(super) fn inverse(perm: &[usize]) -> Vec<usize> {
    let mut out = vec![0; perm.len()];
    perm.iter().enumerate().for_each(|(i, p)| out[*p] = i);
    out
}

/// A normalization that only its reader reads.
struct Normal {
    node: NodeId,
    op: LayerNorm,
    /// The order in which its axes are read.
    perm: Vec<usize>,
    /// The constant beside it, with its axes in the order of the normalization.
    c: ValueId,
}

fn normal_operand(rw: &mut Rewriter<'_>, n: NodeId) -> Option<Normal> {
    let (y, c) = orders(rw, n)?.into_iter().find(|(y, _)| ["LayerNorm", "Transpose"].iter().any(|name| rw.made_by(*y, name).is_some()))?;
    let (rank, own) = (rw.shape(y).len(), rw.shape(c).to_vec());
    let (normal, perm) = match rw.made_by(y, "Transpose").map(|t| rw.node(t).op.clone()) {
        Some(Op::Transpose(t)) => (under(rw, y, "Transpose")?, t.perm),
        _ => (y, (0..rank).collect()),
    };
    let node = rw.made_by(normal, "LayerNorm")?;
    let Op::LayerNorm(op) = rw.node(node).op.clone() else { return None };
    if !rw.used_once(y) || !rw.used_once(normal) {
        return rw.refuse("others read the normalization too");
    }
    if rw.node(node).outputs.len() != 1 || rw.constant(c).is_none() || own.len() > rank {
        return None;
    }
    let c = match perm.is_sorted() {
        true => c,
        false => {
            let shape = [vec![1.into(); rank - own.len()], own].concat();
            let c = rw.add(Reshape { shape }, &[c])?;
            permuted(rw, c, &inverse(&perm))?
        }
    };
    Some(Normal { node, op, perm, c })
}

/// A factor or summand with one element for each that is normalized together, in their shape.
fn by_element(rw: &mut Rewriter<'_>, c: ValueId, like: ValueId) -> Option<ValueId> {
    let shape = rw.shape(like).to_vec();
    let own = rw.shape(c).to_vec();
    let long = own.iter().position(|d| !d.is(1)).unwrap_or(own.len());
    let short = shape.iter().position(|d| !d.is(1)).unwrap_or(shape.len());
    if own[long..] != shape[short..] || own.len() - long > shape.len() || product(&own) != product(&shape) {
        return None;
    }
    if own == shape { Some(c) } else { rw.add(Reshape { shape }, &[c]) }
}

fn norm_scale(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let Normal { node, op, perm, c } = normal_operand(rw, n)?;
    let (x, scale) = (rw.input(node, 0)?, rw.input(node, 1)?);
    if rw.uniform(scale)? != 1.0 || rw.input(node, 2).is_some() {
        return None;
    }
    let scale = by_element(rw, c, scale)?;
    let y = rw.add(op, &[x, scale])?;
    Some(vec![permuted(rw, y, &perm)?])
}

fn norm_bias(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let Normal { node, op, perm, c } = normal_operand(rw, n)?;
    let (x, scale) = (rw.input(node, 0)?, rw.input(node, 1)?);
    if !op.centred || rw.input(node, 2).is_some() {
        return None;
    }
    let bias = by_element(rw, c, scale)?;
    let y = rw.add(op, &[x, scale, bias])?;
    Some(vec![permuted(rw, y, &perm)?])
}

fn softmax(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    for (e, sum) in quotient(rw, n) {
        let Some((summed, axes)) = reduced(rw, sum, "sum") else { continue };
        let ([axis], Some(x)) = (&axes[..], under(rw, e, "Exp")) else { continue };
        if summed != e || !is_float(rw, e) {
            continue;
        }
        // What is the same along the axis cancels; the greatest element is subtracted by the operator itself.
        let shifted = rw.made_by(x, "Sub").and_then(|s| {
            let (x, top) = (rw.input(s, 0)?, rw.input(s, 1)?);
            (reduced(rw, top, "max")? == (x, axes.clone())).then_some(x)
        });
        return Some(vec![rw.add(Softmax { axis: *axis, mode: "softmax" }, &[shifted.unwrap_or(x)])?]);
    }
    None
}

/// The table and the indices of rows that one node alone reads.
fn rows_of(rw: &Rewriter<'_>, v: ValueId) -> Option<(ValueId, ValueId)> {
    let n = rw.made_by(v, "Gather").filter(|_| rw.used_once(v))?;
    let (table, index) = (rw.input(n, 0)?, rw.input(n, 1)?);
    let first = matches!(&rw.node(n).op, Op::Gather(g) if g.axis == 0);
    (first && rw.shape(table).len() == 2 && is_float(rw, v)).then_some((table, index))
}

fn lookup(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let ((a, i), (b, j)) = (rows_of(rw, rw.input(n, 0)?)?, rows_of(rw, rw.input(n, 1)?)?);
    Some(vec![rw.add(Lookup, &[a, i, b, j])?])
}

fn lookup_add(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let (m, c) = orders(rw, n)?.into_iter().find_map(|(y, c)| Some((rw.made_by(y, "Lookup").filter(|_| rw.used_once(y))?, c)))?;
    let mut inputs = rw.node(m).inputs.clone();
    if inputs.len() != 4 || rw.ty(c) != rw.ty(*rw.node(n).outputs.first()?) {
        return None;
    }
    inputs.push(Some(c));
    rw.add_all(Lookup.into(), inputs, 1)
}

#[cfg(test)]
pub(in crate::rewrite) mod tests {
    use super::*;
    use crate::ops::gather::Gather;
    use crate::rewrite::tests::{Case, Example};
    use kiln_kernels::value::Tensor;

    fn mean(c: &mut Case, x: ValueId, axes: &[usize]) -> ValueId {
        c.op(Reduce { mode: "mean", axes: axes.to_vec(), keep: true }, &[x])
    }
    /// `a / b` in one of the ways exporters write it.
    pub(in crate::rewrite) fn over(c: &mut Case, a: ValueId, b: ValueId) -> ValueId {
        let inverse = match c.rng.below(3) {
            0 => return c.pointwise("Div", &[a, b]),
            1 => c.pointwise("Reciprocal", &[b]),
            _ => {
                let one = c.filled(c.g.dtype(b), &[], 1.0);
                c.pointwise("Div", &[one, b])
            }
        };
        if c.rng.below(2) == 0 { c.pointwise("Mul", &[a, inverse]) } else { c.pointwise("Mul", &[inverse, a]) }
    }
    fn rows(c: &mut Case) -> (ValueId, Vec<usize>) {
        let rank = 1 + c.rng.below(3);
        let axis = c.rng.below(rank);
        let shape: Vec<usize> = (0..rank).map(|_| 1 + c.rng.below(4)).collect();
        (c.input(DType::F32, &shape), (axis..rank).collect())
    }
    fn spelled(c: &mut Case, centred: bool) -> (ValueId, ValueId, Vec<usize>) {
        let (x, mut axes) = rows(c);
        if c.rng.below(2) == 0 {
            axes = vec![c.rng.below(c.g.shape(x).len())];
        }
        let d = match centred {
            true => {
                let m = mean(c, x, &axes);
                c.pointwise("Sub", &[x, m])
            }
            false => x,
        };
        let square = c.pointwise("Mul", &[d, d]);
        let v = mean(c, square, &axes);
        let eps = c.filled(DType::F32, &[], 1e-3);
        let sum = c.pointwise("Add", &[v, eps]);
        let root = c.pointwise("Sqrt", &[sum]);
        (over(c, d, root), x, axes)
    }
    /// A normalization whose scale is one, or not, perhaps with its axes in another order, with the shape of a constant beside it.
    fn whole(c: &mut Case, ones: bool) -> (ValueId, Vec<usize>) {
        let (x, axes) = rows(c);
        let shape: Vec<usize> = axes.iter().map(|a| c.g.shape(x)[*a].as_int().unwrap() as usize).collect();
        let scale = if ones { c.filled(DType::F32, &shape, 1.0) } else { c.factor(DType::F32, &shape) };
        let y = c.op(LayerNorm { axis: axes[0], epsilon: 1e-3.into(), centred: true }, &[x, scale]);
        let rank = c.g.shape(y).len();
        if rank < 2 || c.rng.below(2) == 0 {
            return (y, shape);
        }
        // The first axis goes last: what is normalized together stands before it, behind other axes.
        let perm: Vec<usize> = (1..rank).chain([0]).collect();
        (c.op(Transpose { perm }, &[y]), [&shape[usize::from(axes[0] == 0)..], &[if axes[0] == 0 { shape[0] } else { 1 }]].concat())
    }

    /// Tables and constant indices into them, which no rule takes for a slice.
    fn tables(c: &mut Case) -> [ValueId; 4] {
        let (d, rank, width) = (c.wide(), c.rng.below(3), c.rng.below(4));
        let shape: Vec<usize> = (0..rank).map(|_| 1 + c.rng.below(3)).collect();
        let count = shape.iter().product();
        let mut out = Vec::new();
        for rows in [3usize, 5] {
            out.push(c.input(d, &[rows, width]));
            let at: Vec<i64> = (0..count).map(|_| c.rng.below(2 * rows) as i64 - rows as i64).collect();
            out.push(c.g.add_constant(Tensor::new(&shape, &at), ""));
        }
        [out[0], out[1], out[2], out[3]]
    }

    pub(in crate::rewrite) const EXAMPLES: &[Example] = &[
        ("lookup", |c| {
            let [a, i, b, j] = tables(c);
            let (x, y) = (c.op(Gather { axis: 0 }, &[a, i]), c.op(Gather { axis: 0 }, &[b, j]));
            let z = c.pointwise("Add", &[x, y]);
            c.output(z);
        }),
        ("lookup-add", |c| {
            let x = tables(c);
            let y = c.op(Lookup, &x);
            let shape: Vec<usize> = c.g.shape(y).iter().map(|d| d.as_int().unwrap() as usize).collect();
            let more = c.input(c.g.dtype(y), &shape);
            let z = if c.rng.below(2) == 0 { c.pointwise("Add", &[y, more]) } else { c.pointwise("Add", &[more, y]) };
            c.output(z);
        }),
        ("pow-inverse-root", |c| {
            let (d, shape) = (c.wide(), c.any_shape());
            let x = c.input(d, &shape);
            // Negative zero has infinities of different signs for inverse roots.
            let x = c.pointwise("Exp", &[x]);
            crate::rewrite::rules::algebra::tests::power_of(c, x, -0.5);
        }),
        ("sum-mean", |c| {
            let (x, axes) = rows(c);
            let terms: i64 = axes.iter().map(|a| c.g.shape(x)[*a].as_int().unwrap()).product();
            let keep = c.rng.below(2) == 0;
            let sum = c.op(Reduce { mode: "sum", axes, keep }, &[x]);
            let (name, by) = c.rng.pick(&[("Div", terms as f64), ("Mul", 1.0 / terms as f64)]);
            let by = c.filled(DType::F32, &[], by);
            let y = c.pointwise(name, &[sum, by]);
            c.output(y);
        }),
        ("layer-norm", |c| {
            let (y, ..) = spelled(c, true);
            c.output(y);
        }),
        ("rms-norm", |c| {
            let (y, ..) = spelled(c, false);
            c.output(y);
        }),
        ("norm-scale", |c| {
            let (y, shape) = whole(c, true);
            let g = c.factor(DType::F32, &shape);
            let y = if c.rng.below(2) == 0 { c.pointwise("Mul", &[y, g]) } else { c.pointwise("Mul", &[g, y]) };
            c.output(y);
        }),
        ("norm-bias", |c| {
            let (y, shape) = whole(c, false);
            let b = c.factor(DType::F32, &shape);
            let y = if c.rng.below(2) == 0 { c.pointwise("Add", &[y, b]) } else { c.pointwise("Add", &[b, y]) };
            c.output(y);
        }),
        ("softmax", |c| {
            let shape: Vec<usize> = (0..1 + c.rng.below(3)).map(|_| 1 + c.rng.below(4)).collect();
            let axis = c.rng.below(shape.len());
            let x = c.input(DType::F32, &shape);
            let shifted = match c.rng.below(2) {
                0 => x,
                _ => {
                    let top = c.op(Reduce { mode: "max", axes: vec![axis], keep: true }, &[x]);
                    c.pointwise("Sub", &[x, top])
                }
            };
            let e = c.pointwise("Exp", &[shifted]);
            let sum = c.op(Reduce { mode: "sum", axes: vec![axis], keep: true }, &[e]);
            let y = over(c, e, sum);
            c.output(y);
        }),
    ];
}
