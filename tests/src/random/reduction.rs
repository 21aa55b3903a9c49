//! Growers of reductions, softmax and what else works along axes.

use super::table::Line;
use super::{Class, Extent, Growing, Shape, V, attr, closed, each, elements, holds_elements, most, small};
use kiln_kernels::dtype::DType;

/// Some axes of a rank, in order.
pub fn some_axes(g: &mut Growing, rank: usize) -> Vec<usize> {
    let kind = g.rng.below(3);
    (0..rank).filter(|i| if kind == 0 { *i + 1 == rank } else { g.once_in(2) }).collect()
}

/// A shape with axes reduced.
pub fn reduced(shape: &[Extent], axes: &[usize], keep: bool) -> Shape {
    let one = |(i, e): (usize, &Extent)| match (axes.contains(&i), keep) {
        (true, true) => Some(closed(1)),
        (true, false) => None,
        _ => Some(*e),
    };
    shape.iter().enumerate().filter_map(one).collect()
}

/// Reductions; `since` is the version from which axes are an input.
pub fn reduce(g: &mut Growing, line: &Line, since: i64) -> Option<()> {
    let v = g.operand(line.types, 0, 5);
    let (dtype, shape) = (g.dtype(v), g.shape(v));
    // The largest of nothing is infinite, or the least integer, or an error; and ONNX Runtime gives sums of nothing another shape.
    if !holds_elements(&shape) || g.once_in(2) && shape.is_empty() {
        return None;
    }
    let axes = some_axes(g, shape.len());
    let keep = !g.once_in(3);
    let count = elements(&axes.iter().map(|a| shape[*a]).collect::<Vec<_>>());
    let count = if axes.is_empty() { elements(&shape) } else { count };
    let n = count[0].max(count[1]) as f64;
    let limit = most(dtype);
    let v = match line.op {
        "ReduceProd" if n > 40.0 => return None,
        // Products of integers that do not fit are made in other types by other implementations.
        "ReduceProd" if !dtype.is_float() && (n > 12.0 || g.magnitude(v) > 5.0) => return None,
        "ReduceProd" if dtype.is_float() => g.within(v, 0.7, 1.25),
        "ReduceLogSum" => g.within(v, 0.25, 8.0),
        "ReduceLogSumExp" => g.within(v, -6.0, 6.0),
        "ReduceSumSquare" | "ReduceL2" => g.tame(v, (limit / n.max(1.0)).sqrt()),
        _ => g.tame(v, limit / n.max(1.0)),
    };
    let top = g.magnitude(v).max(1.0);
    let (lo, hi) = g.range(v);
    let n = n.max(1.0);
    let range = match line.op {
        "ReduceMax" | "ReduceMin" | "ReduceMean" => (lo, hi),
        "ReduceProd" => (-top.powf(n), top.powf(n)),
        "ReduceSumSquare" => (0.0, n * top * top),
        "ReduceL1" | "ReduceL2" => (0.0, n * top),
        "ReduceLogSum" | "ReduceLogSumExp" => (-10.0, 20.0),
        _ => (-n * top, n * top),
    };
    let (mut inputs, mut attributes) = (vec![v], vec![]);
    let all = axes.is_empty();
    if !all {
        let spelled: Vec<i64> = axes.iter().map(|a| g.spelled(*a, shape.len())).collect();
        let (list, extra) = g.axes(since, &spelled);
        inputs.extend(list);
        attributes.extend(extra);
    }
    attributes.push(attr("keepdims", keep));
    let axes: Vec<usize> = if all { (0..shape.len()).collect() } else { axes };
    let class = if matches!(line.op, "ReduceMax" | "ReduceMin") { Class::Exact } else { Class::Sums };
    g.one(line.op, &inputs, attributes, (dtype, reduced(&shape, &axes, keep), range), class);
    Some(())
}

/// ArgMax and ArgMin.
pub fn arg(g: &mut Growing, line: &Line) -> Option<()> {
    let v = g.operand(line.types, 1, 5);
    let shape = g.shape(v);
    let axis = g.rng.below(shape.len());
    if !holds_elements(&shape) {
        return None;
    }
    let keep = g.once_in(2);
    let spelled = g.spelled(axis, shape.len());
    let mut attributes = vec![attr("axis", spelled), attr("keepdims", keep)];
    if g.opset >= 12 && g.once_in(3) {
        attributes.push(attr("select_last_index", 1i64));
    }
    let top = shape[axis][0].max(shape[axis][1]) as f64 - 1.0;
    g.one(line.op, &[v], attributes, (DType::I64, reduced(&shape, &[axis], keep), (0.0, top)), Class::Exact);
    Some(())
}

/// Softmax, LogSoftmax, Hardmax.
pub fn softmax(g: &mut Growing, line: &Line) -> Option<()> {
    let v = g.operand(line.types, 1, 5);
    let v = g.tame(v, 30.0);
    let (dtype, shape) = (g.dtype(v), g.shape(v));
    if !holds_elements(&shape) {
        return None;
    }
    let axis = if g.once_in(2) { shape.len() - 1 } else { g.rng.below(shape.len()) };
    let spelled = g.spelled(axis, shape.len());
    let range = if line.op == "LogSoftmax" { (-80.0, 0.0) } else { (0.0, 1.0) };
    let class = if line.op == "Hardmax" { Class::Exact } else { Class::Sums };
    g.one(line.op, &[v], vec![attr("axis", spelled)], (dtype, shape, range), class);
    Some(())
}

/// CumSum.
pub fn running(g: &mut Growing, line: &Line) -> Option<()> {
    let v = g.operand(line.types, 1, 4);
    let (dtype, shape) = (g.dtype(v), g.shape(v));
    let axis = g.rng.below(shape.len());
    let n = shape[axis][0].max(shape[axis][1]).max(1) as f64;
    let v = g.tame(v, most(dtype) / n);
    let top = g.magnitude(v) * n;
    let spelled = g.spelled(axis, shape.len());
    let at = if g.once_in(2) {
        g.fixed(kiln_kernels::value::Tensor::scalar(spelled))
    } else {
        g.fixed(kiln_kernels::value::Tensor::scalar(spelled as i32))
    };
    let attributes = vec![attr("exclusive", g.once_in(2)), attr("reverse", g.once_in(2))];
    g.one(line.op, &[v, at], attributes, (dtype, shape, (-top, top)), Class::Sums);
    Some(())
}

/// TopK, sorted.
pub fn top_k(g: &mut Growing, line: &Line) -> Option<()> {
    let v = g.operand(line.types, 1, 4);
    let (dtype, mut shape, range) = (g.dtype(v), g.shape(v), g.range(v));
    let axis = g.rng.below(shape.len());
    let least = shape[axis][0].min(shape[axis][1]);
    let k = g.between(0, least.min(6));
    if k == 0 && !g.once_in(6) {
        return None;
    }
    let spelled = g.spelled(axis, shape.len());
    let count = g.list(&[k as i64]);
    let attributes = vec![attr("axis", spelled), attr("largest", g.once_in(2)), attr("sorted", 1i64)];
    let top = shape[axis][0].max(shape[axis][1]) as f64;
    shape[axis] = closed(k);
    g.node(line.op, &[v, count], attributes, vec![(dtype, shape.clone(), range), (DType::I64, shape, (0.0, top - 1.0))], Class::Exact);
    Some(())
}

/// LpNormalization, along one axis.
pub fn lp_norm(g: &mut Growing, line: &Line) -> Option<()> {
    let v = g.operand(line.types, 1, 4);
    let v = g.tame(v, 20.0);
    let (dtype, shape) = (g.dtype(v), g.shape(v));
    if !holds_elements(&shape) {
        return None;
    }
    let axis = g.rng.below(shape.len());
    let attributes = vec![attr("axis", g.spelled(axis, shape.len())), attr("p", g.between(1, 2) as i64)];
    g.one(line.op, &[v], attributes, (dtype, shape, (-1.0, 1.0)), Class::Sums);
    Some(())
}

/// A layer normalization, spelled in nodes as exporters did before there was an operator.
pub fn spelled_norm(g: &mut Growing, _: &Line) -> Option<()> {
    let v = g.operand(&[DType::F32], 2, 4);
    let v = g.tame(v, 20.0);
    let (dtype, shape) = (g.dtype(v), g.shape(v));
    if !holds_elements(&shape) {
        return None;
    }
    let last = shape.len() - 1;
    let row = reduced(&shape, &[last], true);
    let r = Class::Rounds;
    let mean = |g: &mut Growing, v: V, range| {
        let (list, extra) = g.axes(18, &[-1]);
        let inputs: Vec<V> = [v].into_iter().chain(list).collect();
        g.one("ReduceMean", &inputs, extra, (dtype, row.clone(), range), Class::Sums)
    };
    let m = mean(g, v, (-20.0, 20.0));
    let d = g.one("Sub", &[v, m], vec![], (dtype, shape.clone(), (-40.0, 40.0)), r);
    let square = if g.once_in(2) {
        let two = g.scalar(2.0, dtype);
        g.one("Pow", &[d, two], vec![], (dtype, shape.clone(), (0.0, 1600.0)), r)
    } else {
        g.one("Mul", &[d, d], vec![], (dtype, shape.clone(), (0.0, 1600.0)), r)
    };
    let var = mean(g, square, (0.0, 1600.0));
    let eps = g.scalar(0.05, dtype);
    let var = g.one("Add", &[var, eps], vec![], (dtype, row.clone(), (0.05, 1600.0)), r);
    let root = g.one("Sqrt", &[var], vec![], (dtype, row, (0.2, 40.0)), r);
    let y = g.one("Div", &[d, root], vec![], (dtype, shape.clone(), (-40.0, 40.0)), r);
    if !is_open_axis(shape[last]) {
        let w = g.placeholder(dtype, vec![shape[last]], (-1.0, 1.0));
        let b = g.placeholder(dtype, vec![shape[last]], (-1.0, 1.0));
        let y = g.one("Mul", &[y, w], vec![], (dtype, shape.clone(), (-40.0, 40.0)), r);
        g.one("Add", &[y, b], vec![], (dtype, shape, (-41.0, 41.0)), r);
    }
    Some(())
}

/// Whether an extent is open.
pub fn is_open_axis(e: Extent) -> bool {
    e[0] != e[1]
}

/// Whether a shape stays small with one extent changed.
pub fn changed(shape: &[Extent], axis: usize, f: impl Fn(usize) -> Option<usize>) -> Option<Shape> {
    let mut out = shape.to_vec();
    out[axis] = each(shape[axis], f)?;
    small(&out).then_some(out)
}
