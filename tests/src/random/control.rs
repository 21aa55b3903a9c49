//! Growers of control flow and sequences.

use super::reduction::is_open_axis;
use super::table::Line;
use super::{Class, Growing, attr, closed, holds_elements, small};
use crate::models::ModelBuilder;
use kiln_kernels::dtype::DType;
use kiln_kernels::value::Tensor;

/// If: branches of one shape that capture values of the graph around them.
pub fn branch(g: &mut Growing, line: &Line) -> Option<()> {
    let (a, b) = super::elementwise::pair(g, &[DType::F32])?;
    let (a, b) = (g.tame(a, 50.0), g.tame(b, 50.0));
    let shape = super::broadcast(&g.shape(a), &g.shape(b))?;
    let c = g.existing(super::table::BOOL, |g, v| g.shape(v).is_empty());
    let c = c.unwrap_or_else(|| g.placeholder(DType::Bool, vec![], (0.0, 1.0)));
    let (x, y) = (g.values[a].name.clone(), g.values[b].name.clone());
    let id = g.steps.len();
    let body = |g: &mut Growing, tag: &str| {
        let (m, out) = (format!("m{id}{tag}"), format!("o{id}{tag}"));
        let op = g.rng.pick(&["Add", "Sub", "Mul"]);
        let after = g.rng.pick(&["Relu", "Tanh", "Neg", "Abs"]);
        ModelBuilder::new()
            .graph_name(tag)
            .node(op, &[&x, &y], &[&m])
            .node(after, &[&m], &[&out])
            .output_of(&out, crate::models::unranked_type(DType::F32))
    };
    let attributes = vec![attr("then_branch", body(g, "t")), attr("else_branch", body(g, "e"))];
    // The branches read what the node does not list.
    for v in [a, b] {
        g.values[v].read = true;
    }
    g.one(line.op, &[c], attributes, (DType::F32, shape, (-2500.0, 2500.0)), Class::Sums);
    Some(())
}

/// Loop of a constant number of trips with a carried value and a scanned one.
pub fn repeat(g: &mut Growing, line: &Line) -> Option<()> {
    let v = g.operand(&[DType::F32], 0, 3);
    let v = g.tame(v, 4.0);
    let shape = g.shape(v);
    let trips = g.between(1, 4);
    let m = g.fixed(Tensor::scalar(trips as i64));
    let on = g.fixed(Tensor::with_dtype(DType::Bool, &[], &[1u8]));
    let id = g.steps.len();
    let n = |s: &str| format!("{s}{id}");
    let (mixed, carried, scanned) = (n("mixed"), n("carried"), n("scanned"));
    let scalar: [i64; 0] = [];
    let op = g.rng.pick(&["Tanh", "Sigmoid", "Softsign"]);
    let body = ModelBuilder::new()
        .graph_name("body")
        .input(&n("i"), DType::I64, scalar)
        .input(&n("on"), DType::Bool, scalar)
        .input_of(&n("x"), crate::models::unranked_type(DType::F32))
        .node("Cast", &[&n("i")], &[&n("f")])
        .attr("to", 1i64)
        .node("Add", &[&n("x"), &n("f")], &[&mixed])
        .node(op, &[&mixed], &[&carried])
        .node("Mul", &[&carried, &n("x")], &[&scanned])
        .node("Identity", &[&n("on")], &[&n("go")])
        .output_of(&n("go"), crate::models::unranked_type(DType::Bool))
        .output_of(&carried, crate::models::unranked_type(DType::F32))
        .output_of(&scanned, crate::models::unranked_type(DType::F32));
    let mut stacked = shape.clone();
    stacked.insert(0, closed(trips));
    if !small(&stacked) {
        return None;
    }
    let outs = vec![(DType::F32, shape, (-1.0, 1.0)), (DType::F32, stacked, (-4.0, 4.0))];
    g.node(line.op, &[m, on, v], vec![attr("body", body)], outs, Class::Sums);
    Some(())
}

/// Scan over the first axis, with a sum that is carried.
pub fn scan(g: &mut Growing, line: &Line) -> Option<()> {
    let v = g.operand(&[DType::F32], 2, 3);
    let v = g.tame(v, 20.0);
    let shape = g.shape(v);
    if !holds_elements(&shape) || shape[0][0].max(shape[0][1]) > 16 || super::is_open(&shape[1..]) {
        return None;
    }
    let row = shape[1..].to_vec();
    let start = g.placeholder(DType::F32, row.clone(), (-1.0, 1.0));
    let id = g.steps.len();
    let n = |s: &str| format!("{s}{id}");
    let dims: Vec<i64> = row.iter().map(|e| e[0] as i64).collect();
    let ty = || crate::models::tensor_type(DType::F32, dims.clone());
    let body = ModelBuilder::new()
        .graph_name("body")
        .input_of(&n("s"), ty())
        .input_of(&n("x"), ty())
        .node("Add", &[&n("s"), &n("x")], &[&n("sum")])
        .node("Relu", &[&n("sum")], &[&n("y")])
        .output_of(&n("sum"), ty())
        .output_of(&n("y"), ty());
    let attributes = vec![attr("body", body), attr("num_scan_inputs", 1i64)];
    g.node(line.op, &[start, v], attributes, vec![(DType::F32, row, (-330.0, 330.0)), (DType::F32, shape, (0.0, 330.0))], Class::Sums);
    Some(())
}

/// A split into a sequence, of which elements are taken, or which is put together again.
pub fn sequence(g: &mut Growing, _: &Line) -> Option<()> {
    let v = g.operand(&[DType::F32, DType::I64], 1, 3);
    let (dtype, shape, range) = (g.dtype(v), g.shape(v), g.range(v));
    let axis = (0..shape.len()).find(|i| !is_open_axis(shape[*i]) && shape[*i][0] >= 2)?;
    let n = shape[axis][0];
    let part = g.between(1, n - 1);
    let size = g.fixed(Tensor::scalar(part as i64));
    let s = g.node_of("SplitToSequence", "", &[v, size], vec![attr("axis", axis as i64)], vec![(dtype, None, range)], Class::Exact)[0];
    if g.once_in(2) {
        let at = g.fixed(Tensor::scalar(0i64));
        let mut out = shape;
        out[axis] = closed(part);
        g.one("SequenceAt", &[s, at], vec![], (dtype, out, range), Class::Exact);
    } else {
        g.one("ConcatFromSequence", &[s], vec![attr("axis", axis as i64)], (dtype, shape, range), Class::Exact);
    }
    Some(())
}
