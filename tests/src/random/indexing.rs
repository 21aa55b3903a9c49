//! Growers of operators that pick elements by indices or by what elements are.

use super::reduction::changed;
use super::table::Line;
use super::{Class, Growing, Shape, V, attr, closed, holds_elements, is_open, small};
use kiln_kernels::dtype::DType;
use kiln_kernels::value::Tensor;

/// Indices into `n` elements, also from the back; of a constant, or of an input.
fn indices(g: &mut Growing, shape: Shape, n: usize) -> V {
    let negative = g.once_in(3);
    let range = (if negative { -(n as f64) } else { 0.0 }, n as f64 - 1.0);
    let dtype = g.rng.pick(&[DType::I64, DType::I64, DType::I32]);
    g.placeholder(dtype, shape, range)
}

/// Gather along an axis.
pub fn gather(g: &mut Growing, line: &Line) -> Option<()> {
    let v = g.operand(line.types, 1, 4);
    let (dtype, shape, range) = (g.dtype(v), g.shape(v), g.range(v));
    let axis = g.rng.below(shape.len());
    let n = shape[axis][0].min(shape[axis][1]);
    if n == 0 {
        return None;
    }
    let own = g.rng.pick(&[0, 1, 1, 2]);
    let own = g.new_shape(own);
    let out: Shape = [&shape[..axis], &own, &shape[axis + 1..]].concat();
    if !small(&out) {
        return None;
    }
    let i = indices(g, own, n);
    let spelled = g.spelled(axis, shape.len());
    g.one(line.op, &[v, i], vec![attr("axis", spelled)], (dtype, out, range), Class::Exact);
    Some(())
}

/// GatherElements.
pub fn gather_elements(g: &mut Growing, line: &Line) -> Option<()> {
    let v = g.operand(line.types, 1, 4);
    let (dtype, shape, range) = (g.dtype(v), g.shape(v), g.range(v));
    let axis = g.rng.below(shape.len());
    let n = shape[axis][0].min(shape[axis][1]);
    let count = g.between(1, 5);
    let own = changed(&shape, axis, |_| Some(count))?;
    if n == 0 {
        return None;
    }
    let i = indices(g, own.clone(), n);
    let spelled = g.spelled(axis, shape.len());
    g.one(line.op, &[v, i], vec![attr("axis", spelled)], (dtype, own, range), Class::Exact);
    Some(())
}

/// Places of elements: all combinations of fixed indices, as an operand of GatherND or ScatterND.
fn places(g: &mut Growing, shape: &[[usize; 2]], depth: usize, count: usize) -> V {
    let mut list = Vec::new();
    // Distinct in the first index, so that scattered elements do not overwrite each other.
    let n = shape[0][0].min(shape[0][1]);
    let first = super::movement::shuffled(g, n);
    for i in first.into_iter().take(count) {
        list.push(i as i64);
        for e in &shape[1..depth] {
            list.push(g.rng.below(e[0].min(e[1])) as i64);
        }
    }
    let count = list.len() / depth;
    g.fixed(Tensor::new(&[count, depth], &list))
}

/// GatherND.
pub fn gather_nd(g: &mut Growing, line: &Line) -> Option<()> {
    let v = g.operand(line.types, 1, 4);
    let (dtype, shape, range) = (g.dtype(v), g.shape(v), g.range(v));
    if !holds_elements(&shape) {
        return None;
    }
    let depth = g.between(1, shape.len());
    let count = g.between(1, 4);
    let i = places(g, &shape, depth, count);
    let out: Shape = [&g.shape(i)[..1], &shape[depth..]].concat();
    g.one(line.op, &[v, i], vec![], (dtype, out, range), Class::Exact);
    Some(())
}

/// ScatterND.
pub fn scatter_nd(g: &mut Growing, line: &Line) -> Option<()> {
    let v = g.operand(line.types, 1, 4);
    let (dtype, shape) = (g.dtype(v), g.shape(v));
    if !holds_elements(&shape) {
        return None;
    }
    let depth = g.between(1, shape.len());
    let count = g.between(1, 4);
    let i = places(g, &shape, depth, count);
    let updates: Shape = [&g.shape(i)[..1], &shape[depth..]].concat();
    let range = g.bounds(dtype);
    let u = g.placeholder(dtype, updates, range);
    let mut attributes = vec![];
    if g.opset >= 16 && g.once_in(3) && dtype != DType::Bool {
        attributes.push(attr("reduction", "add"));
    }
    let top = g.magnitude(v) + g.magnitude(u);
    g.one(line.op, &[v, i, u], attributes, (dtype, shape, (-top, top)), Class::Rounds);
    Some(())
}

/// ScatterElements of one row of distinct indices.
pub fn scatter_elements(g: &mut Growing, line: &Line) -> Option<()> {
    let v = g.operand(line.types, 1, 3);
    let (dtype, shape) = (g.dtype(v), g.shape(v));
    if !holds_elements(&shape) || is_open(&shape) {
        return None;
    }
    let axis = g.rng.below(shape.len());
    let n = shape[axis][0];
    let count = g.between(1, n.min(4));
    let mut own = shape.clone();
    own[axis] = closed(count);
    let dims: Vec<usize> = own.iter().map(|e| e[0]).collect();
    let order = super::movement::shuffled(g, n);
    let inner: usize = dims[axis + 1..].iter().product();
    let list: Vec<i64> = (0..dims.iter().product::<usize>()).map(|i| order[(i / inner) % count] as i64).collect();
    let i = g.fixed(Tensor::new(&dims, &list));
    let range = g.bounds(dtype);
    let u = g.placeholder(dtype, own, range);
    let mut attributes = vec![attr("axis", g.spelled(axis, shape.len()))];
    if g.opset >= 16 && g.once_in(3) && dtype != DType::Bool {
        attributes.push(attr("reduction", "add"));
    }
    let top = g.magnitude(v) + g.magnitude(u);
    g.one(line.op, &[v, i, u], attributes, (dtype, shape, (-top, top)), Class::Rounds);
    Some(())
}

/// OneHot.
pub fn one_hot(g: &mut Growing, line: &Line) -> Option<()> {
    let depth = g.between(1, 9);
    let rank = g.between(1, 2);
    let shape = g.new_shape(rank);
    let i = g.placeholder(DType::I64, shape.clone(), (-(depth as f64), depth as f64 - 1.0));
    let dtype = g.rng.pick(line.types);
    let d = g.fixed(Tensor::scalar(depth as i64));
    let values = g.fixed(kiln_compiler::eval::from_f64s(&[2], &[0.0, 1.0], dtype));
    let axis = g.rng.below(rank + 1);
    let mut out = shape;
    out.insert(axis, closed(depth));
    let spelled = g.spelled(axis, rank + 1);
    g.one(line.op, &[i, d, values], vec![attr("axis", spelled)], (dtype, out, (0.0, 1.0)), Class::Exact);
    Some(())
}

/// ReverseSequence.
pub fn reverse(g: &mut Growing, line: &Line) -> Option<()> {
    let v = g.operand(line.types, 2, 4);
    let (dtype, shape, range) = (g.dtype(v), g.shape(v), g.range(v));
    if !holds_elements(&shape) {
        return None;
    }
    let time = g.rng.below(2);
    let n = shape[time][0].min(shape[time][1]);
    let lengths = g.placeholder(DType::I64, vec![shape[1 - time]], (1.0, n as f64));
    let attributes = vec![attr("time_axis", time as i64), attr("batch_axis", 1 - time as i64)];
    g.one(line.op, &[v, lengths], attributes, (dtype, shape, range), Class::Exact);
    Some(())
}

/// NonZero and Compress and Unique: the sizes of results depend on data. What reads them sums them up.
pub fn sized_by_data(g: &mut Growing, line: &Line) -> Option<()> {
    let v = g.operand(line.types, 1, 3);
    let (dtype, shape, range) = (g.dtype(v), g.shape(v), g.range(v));
    let rank = shape.len();
    let x = match line.op {
        "NonZero" => g.node_of(line.op, "", &[v], vec![], vec![(DType::I64, None, (0.0, 1e4))], Class::Exact)[0],
        "Unique" => {
            let out = vec![(dtype, None, range)];
            g.node_of(line.op, "", &[v], vec![attr("sorted", 1i64)], out, Class::Exact)[0]
        }
        _ => {
            let axis = g.rng.below(rank);
            let c = g.placeholder(DType::Bool, vec![shape[axis]], (0.0, 1.0));
            g.node_of(line.op, "", &[v, c], vec![attr("axis", axis as i64)], vec![(dtype, None, range)], Class::Exact)[0]
        }
    };
    if g.once_in(2) {
        let n = g.one("Size", &[x], vec![], (DType::I64, vec![], (0.0, 16384.0)), Class::Exact);
        let _ = n;
    }
    let own = g.dtype(x);
    if line.op != "Unique" && matches!(own, DType::F32 | DType::I64 | DType::I32) {
        // One axis of a known rank is summed; what is left is known where the others are.
        let (list, attributes) = g.axes(13, &[-1]);
        let inputs: Vec<V> = [x].into_iter().chain(list).collect();
        let mut attributes = attributes;
        attributes.push(attr("keepdims", 0i64));
        match line.op {
            "NonZero" => {
                g.one("ReduceSum", &inputs, attributes, (own, vec![closed(rank)], (0.0, 1e8)), Class::Exact);
            }
            _ => {
                g.node_of("ReduceSum", "", &inputs, attributes, vec![(own, None, (-1e6, 1e6))], Class::Sums);
            }
        }
    }
    Some(())
}
