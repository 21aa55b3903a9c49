//! Nothing constant is computed: folding, and shape arithmetic as expressions.

use crate::eval;
use crate::ir::NodeId;
use crate::ir::{Dim, ValueId};
use crate::ops::{Op, shape::Dims};
use crate::rewrite::{Class, Found, Rewriter, Rule};
use kiln_kernels::dtype::DType;
use kiln_kernels::value::{Tensor, Value};

/// Rules about constants.
pub const RULES: &[Rule] = &[
    Rule {
        name: "dims",
        on: &["*"],
        equation: "f(x, ..) => Dims(e)  where the contents are known as expressions e",
        class: Class::Exact,
        apply: dims,
    },
    Rule {
        name: "scalar-constant",
        on: &["Pointwise"],
        equation: "f(x, c) => f(x, c')  where c has one element and axes that x has too, and c' none",
        class: Class::Exact,
        apply: scalar_constant,
    },
    Rule { name: "fold", on: &["*"], equation: "f(c1, .., cn) => c", class: Class::Exact, apply: fold },
];

/// Bytes that a folded constant may have beyond four times its operands'.
pub(super) const SMALL: usize = 64 << 10;
/// Bytes by which all folded constants together may outgrow their operands.
const GROWTH: usize = 64 << 20;

fn fold(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let node = rw.node(n);
    if !node.op.is_pure() || super::integer::waits(rw, n) || super::narrow::waits(rw, n) {
        return None;
    }
    let g = rw.graph();
    let mut given = 0usize;
    for v in node.inputs.iter().flatten() {
        given = given.saturating_add(g[*v].constant.as_ref()?.bytes().len());
    }
    if let Op::Dims(d) = &node.op {
        let t = whole_numbers(&d.elements, d.scalar, d.dtype)?;
        return Some(vec![rw.tensor(t)]);
    }
    let mut bytes = 0usize;
    for v in &node.outputs {
        let (d, dims) = (g.ty(*v).dtype()?, g.ty(*v).closed_dims()?);
        bytes = bytes.checked_add(d.bytes(dims.iter().try_fold(1usize, |a, b| a.checked_mul(*b))?)?)?;
    }
    let grown = rw.grown.saturating_add(bytes.saturating_sub(given));
    // Weights of few bits that no kernel reads are better widened once than in every run.
    let widens = node.op.widens(node.inputs.first().copied().flatten().map(|v| g.dtype(v)));
    if !widens && (bytes > given.saturating_mul(4).saturating_add(SMALL) || grown > GROWTH) {
        return None;
    }
    let operands: Vec<Option<Value>> = node.inputs.iter().map(|v| v.and_then(|v| g[v].constant.clone()).map(Value::Tensor)).collect();
    let operands: Vec<Option<&Value>> = operands.iter().map(Option::as_ref).collect();
    let values = eval::op(&node.op, &eval::facts(g, &node.inputs, &node.outputs), &operands, &|_| None).ok()?;
    let tensors: Vec<Tensor> = values.into_iter().map(|v| if let Value::Tensor(t) = v { Some(t) } else { None }).collect::<Option<_>>()?;
    if !widens {
        rw.grown = grown;
    }
    Some(tensors.into_iter().map(|t| rw.tensor(t)).collect())
}

/// Rules that change shapes then need not ask what becomes of such a constant.
fn scalar_constant(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let node = rw.node(n);
    let one = |v: ValueId| rw.constant(v).filter(|t| t.len() == 1 && t.dtype != DType::Str);
    let rank = node.inputs.iter().flatten().filter(|v| one(**v).is_none()).map(|v| rw.shape(*v).len()).max()?;
    let fits = |v: &ValueId| one(*v).is_some_and(|t| (1..=rank).contains(&t.dims.len()));
    if node.outputs.len() != 1 || !node.inputs.iter().flatten().any(fits) {
        return None;
    }
    let (op, inputs) = (node.op.clone(), node.inputs.clone());
    let scalars: Vec<Option<Tensor>> =
        inputs.iter().map(|v| v.filter(fits).and_then(one).map(|t| Tensor { dims: vec![], ..t.clone() })).collect();
    let inputs = inputs.into_iter().zip(scalars).map(|(v, t)| t.map(|t| rw.tensor(t)).or(v)).collect();
    rw.add_all(op, inputs, 1)
}

/// Constant expressions as a tensor.
fn whole_numbers(elements: &[Dim], scalar: bool, dtype: DType) -> Option<Tensor> {
    let v: Vec<i64> = elements.iter().map(Dim::as_int).collect::<Option<_>>()?;
    let dims: &[usize] = if scalar { &[] } else { &[v.len()] };
    match dtype {
        DType::I64 => Some(Tensor::new(dims, &v)),
        DType::I32 => Some(Tensor::new(dims, &v.iter().map(|x| *x as i32).collect::<Vec<_>>())),
        _ => None,
    }
}

fn dims(rw: &mut Rewriter<'_>, n: NodeId) -> Found {
    let node = rw.node(n);
    // A host function may define symbols that others read.
    if matches!(node.op, Op::Dims(_) | Op::Host(_)) || !node.op.is_pure() {
        return None;
    }
    let small = |v: &ValueId| {
        let ty = rw.ty(*v);
        matches!(ty.dtype(), Some(DType::I64 | DType::I32)) && ty.closed_dims().is_some_and(|d| d.len() <= 1 && d.iter().all(|d| *d <= 64))
    };
    if !node.outputs.iter().all(small) {
        return None;
    }
    let known: Option<Vec<Vec<Dim>>> = node.outputs.iter().map(|v| rw.graph()[*v].fact.dims.clone()).collect();
    let known = match known {
        Some(k) => k,
        // Operands may have become known since the node was made.
        None => {
            let (op, inputs, results) = (node.op.clone(), node.inputs.clone(), node.outputs.len());
            rw.infer(&op, &inputs, results)?.into_iter().map(|f| f.dims).collect::<Option<_>>()?
        }
    };
    let outputs = rw.node(n).outputs.clone();
    let mut by = Vec::new();
    for (elements, v) in known.into_iter().zip(outputs) {
        let (scalar, dtype) = (rw.shape(v).is_empty(), rw.dtype(v));
        let op = Dims { elements: elements.clone(), scalar, dtype };
        by.push(match whole_numbers(&elements, scalar, dtype) {
            Some(t) => rw.tensor(t),
            None => rw.add(op, &[])?,
        });
    }
    Some(by)
}

#[cfg(test)]
pub(in crate::rewrite) mod tests {
    use super::*;
    use crate::ops::gather::Gather;
    use crate::ops::movement::{Concat, Transpose};
    use crate::rewrite::tests::Example;

    pub(in crate::rewrite) const EXAMPLES: &[Example] = &[
        ("dims", |c| {
            let x = c.open(DType::F32, &[3, 4]);
            let shape = Dims { elements: c.g.shape(x).to_vec(), scalar: false, dtype: DType::I64 };
            let s = c.op(shape, &[]);
            let k = c.g.add_constant(Tensor::new(&[1], &[c.rng.below(2) as i64]), "");
            let d = c.op(Gather { axis: 0 }, &[s, k]);
            let two = c.g.add_constant(Tensor::scalar(2i64), "");
            let t = c.pointwise("Mul", &[d, two]);
            let y = c.op(Concat { axis: 0 }, &[t, s]);
            c.output(y);
        }),
        ("scalar-constant", |c| {
            let (d, shape) = (c.float(), c.shape(3));
            let rank = 1 + c.rng.below(3);
            let (x, one) = (c.input(d, &shape), c.constant(d, &[1, 1, 1][..rank]));
            let other = c.input(d, &shape[2..]);
            let y = c.pointwise("Mul", &[x, one]);
            let z = c.pointwise("Clip", &[y, one, other]);
            c.output(z);
        }),
        ("fold", |c| {
            let (d, shape) = (c.float(), c.shape(2));
            let (a, b) = (c.constant(d, &shape), c.constant(d, &[]));
            let t = c.op(Transpose { perm: vec![1, 0] }, &[a]);
            let y = c.pointwise("Add", &[t, b]);
            let x = c.input(d, &[]);
            let z = c.pointwise("Mul", &[y, x]);
            c.output(z);
        }),
    ];
}
