//! Ways to make a candidate smaller, each a list of candidates to try.

use super::candidate::{Candidate, reads, tensor};
use kiln_compiler::onnx::proto::{DimValue, GraphProto, NodeProto, TensorProto, TypeValue};
use kiln_compiler::onnx::read_tensor;
use kiln_kernels::dtype::DType;
use kiln_kernels::value::{Tensor, Value};
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};

fn changed(c: &Candidate, f: impl FnOnce(&mut Candidate)) -> Candidate {
    let mut c = c.clone();
    f(&mut c);
    c
}

/// One set of inputs instead of several.
pub(super) fn fewer_sets(c: &Candidate) -> Vec<Candidate> {
    match c.sets.len() {
        0 | 1 => vec![],
        n => (0..n).map(|k| changed(c, |c| c.sets = vec![c.sets[k].clone()])).collect(),
    }
}

/// One output alone, or one output less.
pub(super) fn fewer_outputs(c: &Candidate) -> Vec<Candidate> {
    let n = c.graph().output.len();
    let keep = |f: &dyn Fn(usize) -> bool| {
        changed(c, |c| {
            let mut i = 0;
            c.graph_mut().output.retain(|_| {
                i += 1;
                f(i - 1)
            });
            c.prune();
        })
    };
    match n {
        0 | 1 => vec![],
        _ => (0..n).map(|k| keep(&|i| i == k)).chain((0..n).map(|k| keep(&|i| i != k))).collect(),
    }
}

/// A node's result replaced by an operand of the same type and shape.
pub(super) fn bypassed(c: &Candidate) -> Vec<Candidate> {
    let values = c.values();
    let held = |name: &str| -> Option<(DType, Vec<usize>)> {
        let of = |t: &Tensor| (t.dtype, t.dims.clone());
        let input = || c.sets.first()?.get(name)?.as_tensor().map(of);
        let constant = || c.graph().initializer.iter().find(|t| t.name == name).and_then(decoded).map(|t| of(&t));
        values.get(name).and_then(|(_, v)| v.first()).map(of).or_else(input).or_else(constant)
    };
    let mut out = Vec::new();
    for (i, n) in c.graph().node.iter().enumerate().rev() {
        let Some(result) = n.output.first().and_then(|o| Some((o, held(o)?))) else { continue };
        // An output has to be made by a node.
        if c.graph().output.iter().any(|o| n.output.contains(&o.name)) {
            continue;
        }
        let others = n.output[1..].iter().any(|o| c.graph().node.iter().any(|m| reads(m).any(|r| r == o)));
        for operand in n.input.iter().filter(|x| !others && !x.is_empty() && held(x).as_ref() == Some(&result.1)) {
            out.push(changed(c, |c| {
                let g = c.graph_mut();
                g.node.remove(i);
                g.node.iter_mut().for_each(|m| rename(m, result.0, operand));
                c.prune();
            }));
        }
    }
    out
}

fn rename(n: &mut NodeProto, from: &str, to: &str) {
    n.input.iter_mut().filter(|x| *x == from).for_each(|x| *x = to.into());
    for g in n.attribute.iter_mut().flat_map(|a| a.g.iter_mut().map(|g| &mut **g).chain(&mut a.graphs)) {
        g.node.iter_mut().for_each(|m| rename(m, from, to));
        g.output.iter_mut().filter(|o| o.name == from).for_each(|o| o.name = to.into());
    }
}

/// An If replaced by one of its branches.
pub(super) fn inlined(c: &Candidate) -> Vec<Candidate> {
    let mut out = Vec::new();
    for (i, n) in c.graph().node.iter().enumerate().filter(|(_, n)| n.op_type == "If") {
        let bodies: Vec<GraphProto> = n.attribute.iter().filter_map(|a| a.g.as_deref().cloned()).collect();
        for body in bodies {
            out.push(changed(c, |c| {
                let g = c.graph_mut();
                let results: Vec<NodeProto> = body.output.iter().zip(&n.output).map(|(from, to)| identity(&from.name, to)).collect();
                g.initializer.extend(body.initializer);
                g.node.splice(i..=i, body.node.into_iter().chain(results));
                c.prune();
            }));
        }
    }
    out
}

fn identity(from: &str, to: &str) -> NodeProto {
    NodeProto { op_type: "Identity".into(), input: vec![from.into()], output: vec![to.into()], ..Default::default() }
}

/// Constant nodes made initializers.
pub(super) fn constants(c: &Candidate) -> Vec<Candidate> {
    let mut out = Vec::new();
    for (i, n) in c.graph().node.iter().enumerate().filter(|(_, n)| n.op_type == "Constant") {
        let Some(t) = n.attribute.iter().find_map(|a| a.t.as_deref()) else { continue };
        let t = TensorProto { name: n.output.first().cloned().unwrap_or_default(), ..t.clone() };
        out.push(changed(c, |c| {
            c.graph_mut().node.remove(i);
            c.graph_mut().initializer.push(t);
        }));
    }
    out
}

/// One attribute or one trailing input less.
pub(super) fn fewer_attributes(c: &Candidate) -> Vec<Candidate> {
    let mut out = Vec::new();
    for (i, n) in c.graph().node.iter().enumerate() {
        for k in 0..n.attribute.len() {
            out.push(changed(c, |c| {
                c.graph_mut().node[i].attribute.remove(k);
                c.prune();
            }));
        }
        if n.input.len() > 1 {
            out.push(changed(c, |c| {
                c.graph_mut().node[i].input.pop();
                c.prune();
            }));
        }
    }
    out
}

fn decoded(t: &TensorProto) -> Option<Tensor> {
    read_tensor(&t.encode_to_vec()).ok()
}

/// The tensors that extents and values are shrunk in: inputs by set, and constants.
fn tensors(c: &Candidate) -> BTreeMap<String, Vec<Tensor>> {
    let mut out: BTreeMap<String, Vec<Tensor>> = BTreeMap::new();
    for t in &c.graph().initializer {
        out.extend(decoded(t).map(|d| (t.name.clone(), vec![d])));
    }
    for i in &c.graph().input {
        let held: Option<Vec<Tensor>> = c.sets.iter().map(|s| s.get(&i.name)?.as_tensor().cloned()).collect();
        if let (Some(held), false) = (held, out.contains_key(&i.name)) {
            out.insert(i.name.clone(), held);
        }
    }
    out
}

/// Puts other tensors in the place of an input or a constant.
fn put(c: &mut Candidate, name: &str, new: Vec<Tensor>) {
    if let Some(t) = c.graph_mut().initializer.iter_mut().find(|t| t.name == name) {
        if let Some(proto) = new.first().and_then(|v| tensor(name, v)) {
            *t = proto;
        }
        return;
    }
    for i in c.graph_mut().input.iter_mut().filter(|i| i.name == name) {
        let Some(TypeValue::TensorType(t)) = i.r#type.as_mut().and_then(|t| t.value.as_mut()) else { continue };
        for (k, d) in t.shape.iter_mut().flat_map(|s| &mut s.dim).enumerate() {
            if let (Some(DimValue::DimValue(n)), Some(v)) = (&mut d.value, new.first()) {
                *n = v.dims[k] as i64;
            }
        }
    }
    for (set, v) in c.sets.iter_mut().zip(new) {
        set.insert(name.into(), Value::Tensor(v));
    }
}

/// The first elements along an axis.
fn cut(t: &Tensor, axis: usize, n: usize) -> Option<Tensor> {
    let bits = t.dtype.bits();
    if bits < 8 {
        return None;
    }
    let mut dims = t.dims.clone();
    let (outer, inner) = (dims[..axis].iter().product::<usize>(), dims[axis + 1..].iter().product::<usize>() * bits / 8);
    let (had, part) = (dims[axis] * inner, n * inner);
    dims[axis] = n;
    let mut out = Tensor::zeros(t.dtype, &dims);
    for i in 0..outer {
        out.bytes_mut()[i * part..(i + 1) * part].copy_from_slice(&t.bytes()[i * had..i * had + part]);
    }
    Some(out)
}

/// Extents cut down: everywhere where they are equal, with numbers in lists of integers that are equal too, or on one axis alone.
pub(super) fn smaller_extents(c: &Candidate) -> Vec<Candidate> {
    let all = tensors(c);
    let extents: BTreeSet<usize> = all.values().flatten().flat_map(|t| t.dims.iter().copied()).filter(|d| *d > 1).collect();
    let steps = |d: usize| BTreeSet::from([1, 2, d / 2, d - 1]).into_iter().filter(move |n| *n < d && *n > 0);
    let shrunk = |name: &str, axis: usize, n: usize| -> Option<Vec<Tensor>> { all.get(name)?.iter().map(|t| cut(t, axis, n)).collect() };
    let mut out = Vec::new();
    for &d in extents.iter().rev() {
        for n in steps(d) {
            for lists in [true, false] {
                out.push(changed(c, |c| {
                    for (name, held) in &all {
                        let mut held = held.clone();
                        for axis in 0..held.first().map_or(0, |t| t.dims.len()) {
                            if held.iter().all(|t| t.dims[axis] == d)
                                && let Some(new) = held.iter().map(|t| cut(t, axis, n)).collect()
                            {
                                held = new;
                            }
                        }
                        if lists {
                            held.iter_mut().filter(|t| t.dtype == DType::I64 && t.dims.len() <= 1).for_each(|t| {
                                t.slice_mut::<i64>().iter_mut().filter(|x| **x == d as i64).for_each(|x| *x = n as i64);
                            });
                        }
                        put(c, name, held);
                    }
                }));
            }
        }
    }
    for (name, held) in &all {
        for axis in 0..held.first().map_or(0, |t| t.dims.len()) {
            let Some(d) = held.first().map(|t| t.dims[axis]).filter(|d| *d > 1 && held.iter().all(|t| t.dims[axis] == *d)) else {
                continue;
            };
            for n in steps(d) {
                out.extend(shrunk(name, axis, n).map(|new| changed(c, |c| put(c, name, new))));
            }
        }
    }
    out
}

/// Floats made zeros, ones, or whole numbers.
pub(super) fn plainer_values(c: &Candidate) -> Vec<Candidate> {
    let mut out = Vec::new();
    for (name, held) in tensors(c) {
        let float = held.first().is_some_and(|t| matches!(t.dtype, DType::F32 | DType::F64 | DType::F16));
        if !float {
            continue;
        }
        let mapped = |f: fn(f64) -> f64| -> Option<Vec<Tensor>> {
            let one = |t: &Tensor| {
                let x: Vec<f64> = t.to_f64s()?.into_iter().map(f).collect();
                Some(kiln_compiler::eval::from_f64s(&t.dims, &x, t.dtype))
            };
            let new: Vec<Tensor> = held.iter().map(one).collect::<Option<_>>()?;
            (new != held).then_some(new)
        };
        // In this order a tensor only gets plainer, so that there is an end.
        let zero = held.iter().flat_map(Tensor::bytes).all(|b| *b == 0);
        let one = held.iter().all(|t| t.to_f64s().is_some_and(|x| x.iter().all(|x| *x == 1.0)));
        let maps: &[fn(f64) -> f64] = if zero {
            &[]
        } else if one {
            &[|_| 0.0]
        } else {
            &[|_| 0.0, |_| 1.0, f64::round]
        };
        for f in maps {
            out.extend(mapped(*f).map(|new| changed(c, |c| put(c, &name, new))));
        }
    }
    out
}
