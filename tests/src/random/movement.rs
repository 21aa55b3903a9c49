//! Growers of operators that move elements, and of those that only ask for shapes.

use super::reduction::{changed, is_open_axis, some_axes};
use super::table::Line;
use super::{Class, Extent, Growing, NONE, Shape, V, attr, broadcast, closed, each, elements, holds_elements, is_open, small};
use kiln_kernels::dtype::DType;
use kiln_kernels::value::Tensor;

fn moved(g: &mut Growing, op: &str, inputs: &[V], attributes: Vec<kiln_compiler::onnx::proto::AttributeProto>, shape: Shape) -> Option<V> {
    if !small(&shape) {
        return None;
    }
    let (dtype, range) = (g.dtype(inputs[0]), g.range(inputs[0]));
    Some(g.one(op, inputs, attributes, (dtype, shape, range), Class::Exact))
}

/// A random order of `n` things.
pub fn shuffled(g: &mut Growing, n: usize) -> Vec<usize> {
    let mut out: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        let j = g.rng.below(i + 1);
        out.swap(i, j);
    }
    out
}

/// Transpose.
pub fn transpose(g: &mut Growing, line: &Line) -> Option<()> {
    let v = g.operand(line.types, 0, 5);
    let shape = g.shape(v);
    if g.once_in(5) {
        return moved(g, line.op, &[v], vec![], shape.into_iter().rev().collect()).map(|_| ());
    }
    let perm = match (shape.len(), g.rng.below(3)) {
        (4, 0) => vec![0, 2, 3, 1],
        (4, 1) => vec![0, 3, 1, 2],
        (n, _) => shuffled(g, n),
    };
    let out = perm.iter().map(|p| shape[*p]).collect();
    let perm: Vec<i64> = perm.into_iter().map(|p| p as i64).collect();
    moved(g, line.op, &[v], vec![attr("perm", perm)], out).map(|_| ())
}

/// A way to cut extents into others of the same product: neighbours are merged, closed ones are split.
fn regrouped(g: &mut Growing, shape: &[Extent]) -> Shape {
    let mut out = shape.to_vec();
    for _ in 0..g.between(1, 3) {
        let n = out.len();
        match g.rng.below(4) {
            0 | 1 if n >= 2 => {
                let i = g.rng.below(n - 1);
                let merged = [out[i][0] * out[i + 1][0], out[i][1] * out[i + 1][1]];
                out.splice(i..i + 2, [merged]);
            }
            2 if (1..6).contains(&n) => {
                let i = g.rng.below(n);
                let d = g.rng.pick(&[2, 3, 4]);
                if out[i].iter().all(|e| e % d == 0 && *e > 0) && !is_open_axis(out[i]) {
                    let rest = closed(out[i][0] / d);
                    let parts = if g.once_in(2) { [closed(d), rest] } else { [rest, closed(d)] };
                    out.splice(i..i + 1, parts);
                }
            }
            _ if n < 6 => {
                let at = g.rng.below(n + 1);
                out.insert(at, closed(1));
            }
            _ => {}
        }
    }
    out
}

/// Reshape, with 0 and -1 where they say it as well.
pub fn reshape(g: &mut Growing, line: &Line) -> Option<()> {
    let v = g.operand(line.types, 0, 5);
    let shape = g.shape(v);
    let out = regrouped(g, &shape);
    let target = target(g, &shape, &out)?;
    let target = g.list(&target);
    moved(g, line.op, &[v, target], vec![], out).map(|_| ())
}

/// The operand of Reshape that makes one shape of another.
pub fn target(g: &mut Growing, shape: &[Extent], out: &[Extent]) -> Option<Vec<i64>> {
    let opens = out.iter().enumerate().filter(|(i, e)| is_open_axis(**e) && shape.get(*i) != Some(*e)).count();
    if opens > 1 {
        return None;
    }
    // -1 says nothing where there are no elements, and 0 is the extent of the operand there.
    let free = opens == 0 && holds_elements(shape) && g.once_in(2);
    let open_at = out.iter().enumerate().position(|(i, e)| is_open_axis(*e) && shape.get(i) != Some(e));
    if open_at.is_some() && !holds_elements(shape) {
        return None;
    }
    let free = open_at.or(if free && !out.is_empty() { Some(g.rng.below(out.len())) } else { None });
    let mut list = Vec::new();
    for (i, e) in out.iter().enumerate() {
        let same = shape.get(i) == Some(e);
        list.push(match () {
            () if free == Some(i) => -1,
            () if is_open_axis(*e) => 0,
            () if same && g.once_in(3) => 0,
            () if e[0] == 0 && !same => return None,
            () => e[0] as i64,
        });
    }
    Some(list)
}

/// Flatten.
pub fn flatten(g: &mut Growing, line: &Line) -> Option<()> {
    let v = g.operand(line.types, 1, 5);
    let shape = g.shape(v);
    let axis = g.rng.below(shape.len() + 1);
    let out = vec![elements(&shape[..axis]), elements(&shape[axis..])];
    let spelled = if axis == shape.len() { axis as i64 } else { g.spelled(axis, shape.len()) };
    moved(g, line.op, &[v], vec![attr("axis", spelled)], out).map(|_| ())
}

/// Squeeze.
pub fn squeeze(g: &mut Growing, line: &Line) -> Option<()> {
    let v = g.existing(line.types, |g, v| g.shape(v).contains(&closed(1)));
    let v = match v {
        Some(v) => v,
        None => {
            let mut shape = g.new_shape(2);
            let at = g.rng.below(3);
            shape.insert(at, closed(1));
            g.placeholder(DType::F32, shape, (-2.0, 2.0))
        }
    };
    let shape = g.shape(v);
    let ones: Vec<usize> = (0..shape.len()).filter(|i| shape[*i] == closed(1)).collect();
    let all = g.once_in(4) && !is_open(&shape);
    let chosen: Vec<usize> = ones.iter().copied().filter(|_| all || g.once_in(2)).collect();
    if chosen.is_empty() {
        return None;
    }
    let out = shape.iter().enumerate().filter(|(i, _)| !chosen.contains(i)).map(|(_, e)| *e).collect();
    let axes: Vec<i64> = chosen.iter().map(|a| g.spelled(*a, shape.len())).collect();
    let (list, attributes) = if all { (None, vec![]) } else { g.axes(13, &axes) };
    let inputs: Vec<V> = [v].into_iter().chain(list).collect();
    moved(g, line.op, &inputs, attributes, out).map(|_| ())
}

/// Unsqueeze.
pub fn unsqueeze(g: &mut Growing, line: &Line) -> Option<()> {
    let v = g.operand(line.types, 0, 4);
    let mut out = g.shape(v);
    let count = g.between(1, 2);
    let rank = out.len() + count;
    let mut at = shuffled(g, rank);
    at.truncate(count);
    at.sort();
    at.iter().for_each(|i| out.insert(*i, closed(1)));
    let axes: Vec<i64> = at.iter().map(|a| g.spelled(*a, rank)).collect();
    let (list, attributes) = g.axes(13, &axes);
    let inputs: Vec<V> = [v].into_iter().chain(list).collect();
    moved(g, line.op, &inputs, attributes, out).map(|_| ())
}

/// What Slice takes of `n` elements.
fn taken(n: usize, start: i64, end: i64, step: i64) -> usize {
    if n == 0 {
        return 0;
    }
    let n = n as i64;
    let whole = |x: i64| if x < 0 { x.saturating_add(n) } else { x };
    let (start, end) = match step > 0 {
        true => (whole(start).clamp(0, n), whole(end).clamp(0, n)),
        false => (whole(start).clamp(0, n - 1), whole(end).clamp(-1, n - 1)),
    };
    let span = if step > 0 { end - start } else { start - end };
    if span <= 0 { 0 } else { ((span + step.abs() - 1) / step.abs()) as usize }
}

/// Slice, forwards and backwards.
pub fn slice(g: &mut Growing, line: &Line) -> Option<()> {
    let v = g.operand(line.types, 1, 5);
    let shape = g.shape(v);
    let mut axes = some_axes(g, shape.len());
    if axes.is_empty() {
        axes.push(0);
    }
    let mut out = shape.clone();
    let (mut starts, mut ends, mut steps) = (vec![], vec![], vec![]);
    for a in &axes {
        let n = shape[*a][0].min(shape[*a][1]);
        let step = g.rng.pick(&[1, 1, 1, 2, 3, -1, -2]);
        let (mut start, mut end) = (g.rng.below(n.max(1)) as i64 / 2, (n - g.rng.below(n / 3 + 1)) as i64);
        if g.once_in(3) {
            end = i64::from(i32::MAX) + if g.once_in(2) { 0 } else { 1 << 40 };
        }
        if g.once_in(4) && n > 0 {
            start -= n as i64;
        }
        if step < 0 {
            (start, end) = (if g.once_in(2) { -1 } else { n as i64 - 1 }, if g.once_in(2) { i64::MIN + 1 } else { 0 });
        }
        out[*a] = each(shape[*a], |n| Some(taken(n, start, end, step)))?;
        if out[*a].contains(&0) && !shape[*a].contains(&0) && !g.once_in(30) {
            return None;
        }
        starts.push(start);
        ends.push(end);
        steps.push(step);
    }
    let spelled: Vec<i64> = axes.iter().map(|a| g.spelled(*a, shape.len())).collect();
    let mut inputs = vec![v, g.list(&starts), g.list(&ends), g.list(&spelled)];
    if steps.iter().any(|s| *s != 1) || g.once_in(2) {
        inputs.push(g.list(&steps));
    }
    moved(g, line.op, &inputs, vec![], out).map(|_| ())
}

/// Concat of two or three values that differ along one axis.
pub fn concat(g: &mut Growing, line: &Line) -> Option<()> {
    let v = g.operand(line.types, 1, 5);
    let (dtype, shape) = (g.dtype(v), g.shape(v));
    let axis = g.rng.below(shape.len());
    let mut all = vec![v];
    for _ in 0..g.between(1, 2) {
        let s = shape.clone();
        let like = move |g: &Growing, v: V| {
            let t = g.shape(v);
            t.len() == s.len() && (0..s.len()).all(|i| i == axis || s[i] == t[i])
        };
        let other = if g.once_in(3) { None } else { g.existing(&[dtype], like) };
        all.push(match other {
            Some(o) => o,
            None => {
                let mut own = shape.clone();
                own[axis] = closed(g.extent());
                let range = g.bounds(dtype);
                g.placeholder(dtype, own, range)
            }
        });
    }
    let at = g.rng.below(all.len());
    all.swap(0, at);
    let mut out = shape.clone();
    out[axis] = [0, 1].map(|run| all.iter().map(|v| g.shape(*v)[axis][run]).sum());
    if !small(&out) {
        return None;
    }
    let range = all.iter().map(|v| g.range(*v)).reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))?;
    let spelled = g.spelled(axis, shape.len());
    g.one(line.op, &all, vec![attr("axis", spelled)], (dtype, out, range), Class::Exact);
    Some(())
}

/// Split, in equal parts or given ones.
pub fn split(g: &mut Growing, line: &Line) -> Option<()> {
    let v = g.operand(line.types, 1, 5);
    let (dtype, shape, range) = (g.dtype(v), g.shape(v), g.range(v));
    let axis = g.rng.below(shape.len());
    let n = shape[axis][0];
    if is_open_axis(shape[axis]) || n == 0 {
        return None;
    }
    let spelled = g.spelled(axis, shape.len());
    let mut attributes = vec![attr("axis", spelled)];
    let mut inputs = vec![v];
    let parts: Vec<usize> = if g.once_in(2) {
        let count = g.rng.pick(&[2, 3, 4]);
        if g.opset >= 18 && n >= count {
            // Parts are rounded up, and the last one is what is left.
            let part = n.div_ceil(count);
            let last = n.checked_sub(part * (count - 1)).filter(|l| *l > 0)?;
            attributes.push(attr("num_outputs", count as i64));
            (0..count).map(|i| if i + 1 == count { last } else { part }).collect()
        } else if n % count == 0 {
            if g.opset >= 18 {
                return None;
            }
            vec![n / count; count]
        } else {
            return None;
        }
    } else {
        let least = usize::from(!g.once_in(20));
        let first = g.between(least, n);
        let parts = vec![first, n - first];
        let list: Vec<i64> = parts.iter().map(|p| *p as i64).collect();
        if g.opset >= 13 {
            inputs.push(g.list(&list))
        } else {
            attributes.push(attr("split", list))
        }
        parts
    };
    let outs = parts.iter().map(|p| {
        let mut s = shape.clone();
        s[axis] = closed(*p);
        (dtype, s, range)
    });
    let outs = outs.collect();
    g.node(line.op, &inputs, attributes, outs, Class::Exact);
    Some(())
}

/// Pad, also by negative numbers, in every mode.
pub fn pad(g: &mut Growing, line: &Line) -> Option<()> {
    let v = g.operand(line.types, 1, 4);
    let (dtype, shape) = (g.dtype(v), g.shape(v));
    let mode = g.rng.pick(&["constant", "constant", "reflect", "edge", if g.opset >= 19 { "wrap" } else { "edge" }]);
    if mode != "constant" && !holds_elements(&shape) {
        return None;
    }
    let rank = shape.len();
    let mut pads = vec![0i64; 2 * rank];
    for (i, e) in shape.iter().enumerate() {
        let least = e[0].min(e[1]);
        for p in [i, i + rank] {
            let most = if mode == "constant" || mode == "edge" { 3 } else { least.saturating_sub(1).min(3) };
            pads[p] = g.rng.below(most + 1) as i64 * i64::from(g.once_in(2));
            if mode == "constant" && g.once_in(8) && least >= 3 {
                pads[p] = -1;
            }
        }
    }
    let out: Shape = shape
        .iter()
        .enumerate()
        .map(|(i, e)| each(*e, |n| usize::try_from(n as i64 + pads[i] + pads[i + rank]).ok()))
        .collect::<Option<_>>()?;
    let mut inputs = vec![v, g.list(&pads)];
    let value = g.rng.pick(&[0.0, 1.0, 2.0]);
    if mode == "constant" && g.once_in(2) {
        inputs.push(g.scalar(value, dtype));
    }
    let (lo, hi) = g.range(v);
    if !small(&out) {
        return None;
    }
    g.one(line.op, &inputs, vec![attr("mode", mode)], (dtype, out, (lo.min(0.0), hi.max(2.0))), Class::Exact);
    Some(())
}

/// Expand, to a shape that the operand broadcasts into or with.
pub fn expand(g: &mut Growing, line: &Line) -> Option<()> {
    let v = g.operand(line.types, 0, 4);
    let shape = g.shape(v);
    let mut to: Shape = shape.iter().map(|e| if *e == closed(1) { closed(1) } else { *e }).collect();
    for e in &mut to {
        if *e == closed(1) && g.once_in(2) {
            *e = closed(g.extent());
        } else if is_open_axis(*e) || g.once_in(4) {
            *e = closed(1);
        }
    }
    if g.once_in(2) {
        to.insert(0, closed(g.extent()));
    }
    let out = broadcast(&shape, &to)?;
    let list: Vec<i64> = to.iter().map(|e| e[0] as i64).collect();
    let list = g.list(&list);
    moved(g, line.op, &[v, list], vec![], out).map(|_| ())
}

/// Tile.
pub fn tile(g: &mut Growing, line: &Line) -> Option<()> {
    let v = g.operand(line.types, 1, 4);
    let shape = g.shape(v);
    let times: Vec<usize> = shape.iter().map(|_| g.rng.pick(&[1, 1, 1, 2, 3])).collect();
    let out = shape.iter().zip(&times).map(|(e, t)| [e[0] * t, e[1] * t]).collect();
    let list: Vec<i64> = times.iter().map(|t| *t as i64).collect();
    let list = g.list(&list);
    moved(g, line.op, &[v, list], vec![], out).map(|_| ())
}

/// DepthToSpace and SpaceToDepth.
pub fn blocks(g: &mut Growing, line: &Line) -> Option<()> {
    let b = g.rng.pick(&[2, 2, 3]);
    let deep = line.op == "DepthToSpace";
    let fits = move |g: &Growing, v: V| {
        let s = g.shape(v);
        s.len() == 4 && if deep { s[1].iter().all(|c| c % (b * b) == 0) } else { s[2..].iter().flatten().all(|e| e % b == 0) }
    };
    let v = g.existing(line.types, fits);
    let v = match v {
        Some(v) => v,
        None => {
            let (n, c, h, w) = (g.new_shape(1)[0], g.between(1, 3), g.between(1, 4), g.between(1, 4));
            let s = if deep { vec![n, closed(c * b * b), closed(h), closed(w)] } else { vec![n, closed(c), closed(h * b), closed(w * b)] };
            g.placeholder(DType::F32, s, (-2.0, 2.0))
        }
    };
    let s = g.shape(v);
    let out = match deep {
        true => vec![s[0], each(s[1], |c| Some(c / (b * b)))?, each(s[2], |h| Some(h * b))?, each(s[3], |w| Some(w * b))?],
        false => vec![s[0], each(s[1], |c| Some(c * b * b))?, each(s[2], |h| Some(h / b))?, each(s[3], |w| Some(w / b))?],
    };
    let mut attributes = vec![attr("blocksize", b as i64)];
    if deep && g.once_in(2) {
        attributes.push(attr("mode", "CRD"));
    }
    moved(g, line.op, &[v], attributes, out).map(|_| ())
}

/// Trilu.
pub fn trilu(g: &mut Growing, line: &Line) -> Option<()> {
    let v = g.operand(line.types, 2, 4);
    let shape = g.shape(v);
    let k = g.between(0, 4) as i64 - 2;
    let mut inputs = vec![v];
    if g.once_in(2) {
        inputs.push(g.fixed(Tensor::scalar(k)));
    }
    let (dtype, (lo, hi)) = (g.dtype(v), g.range(v));
    let upper = g.once_in(2);
    g.one(line.op, &inputs, vec![attr("upper", upper)], (dtype, shape, (lo.min(0.0), hi.max(0.0))), Class::Exact);
    Some(())
}

/// Shape and Size.
pub fn shape_of(g: &mut Growing, line: &Line) -> Option<()> {
    let v = g.operand(line.types, 0, 5);
    let rank = g.rank(v);
    let dims = if line.op == "Size" { vec![] } else { vec![closed(rank)] };
    g.one(line.op, &[v], vec![], (DType::I64, dims, (0.0, 16384.0)), Class::Exact);
    Some(())
}

/// A Reshape whose operand is computed from the operand's shape, as exporters write it.
pub fn computed_reshape(g: &mut Growing, line: &Line) -> Option<()> {
    let v = g.existing(line.types, |g, v| (2..=4).contains(&g.rank(v)) && holds_elements(&g.shape(v)))?;
    let shape = g.shape(v);
    let rank = shape.len();
    let i64s = |n: usize| (DType::I64, vec![closed(n)], (0.0, 16384.0));
    let s = g.one("Shape", &[v], vec![], i64s(rank), Class::Exact);
    let at = g.rng.below(rank);
    let index = g.fixed(Tensor::scalar(at as i64));
    let n = g.one("Gather", &[s, index], vec![attr("axis", 0i64)], (DType::I64, vec![], (0.0, 16384.0)), Class::Exact);
    let (axes, attributes) = g.axes(13, &[0]);
    let inputs: Vec<V> = [n].into_iter().chain(axes).collect();
    let n = g.one("Unsqueeze", &inputs, attributes, i64s(1), Class::Exact);
    let rest = g.list(&[-1]);
    let to = g.one("Concat", &[n, rest], vec![attr("axis", 0i64)], (DType::I64, vec![closed(2)], (-1.0, 16384.0)), Class::Exact);
    let all = elements(&shape);
    let out = vec![shape[at], [all[0] / shape[at][0], all[1] / shape[at][1]]];
    moved(g, "Reshape", &[v, to], vec![], out).map(|_| ())
}

/// Resize by scales or to sizes.
pub fn resize(g: &mut Growing, line: &Line) -> Option<()> {
    let v = super::dense::image(g, line.types, 2, 1);
    let (dtype, shape, (lo, hi)) = (g.dtype(v), g.shape(v), g.range(v));
    let mode = g.rng.pick(&["nearest", "nearest", "linear", "linear", "cubic"]);
    let coordinates = g.rng.pick(&["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"]);
    let mut attributes = vec![attr("mode", mode), attr("coordinate_transformation_mode", coordinates)];
    if mode == "nearest" {
        let nearest = g.rng.pick(&["round_prefer_floor", "floor", "ceil", "round_prefer_ceil"]);
        attributes.push(attr("nearest_mode", nearest));
    }
    // Scales that are powers of two are exact, and so are their products.
    let by: Vec<f32> = (0..4).map(|i| if i < 2 { 1.0 } else { g.rng.pick(&[2.0, 2.0, 1.0, 0.5, 1.5, 3.0]) }).collect();
    let out: Shape = (0..4).map(|i| each(shape[i], |n| Some((n as f32 * by[i]).floor() as usize))).collect::<Option<_>>()?;
    if !small(&out) || !holds_elements(&out) {
        return None;
    }
    // The standard's reference divides by the extent before it is rounded down, ONNX Runtime by the one behind.
    let whole = (2..4).all(|i| shape[i].iter().all(|n| (*n as f32 * by[i]).fract() == 0.0));
    if coordinates == "align_corners" && !whole {
        return None;
    }
    let none = if g.opset >= 13 { NONE } else { g.fixed(Tensor::new(&[0], &[0f32; 0])) };
    let sizes = !is_open(&shape) && g.once_in(2) && g.opset >= 13;
    let inputs = match sizes {
        true => {
            let list: Vec<i64> = out.iter().map(|e| e[0] as i64).collect();
            vec![v, NONE, NONE, g.list(&list)]
        }
        false => vec![v, none, g.fixed(Tensor::new(&[4], &by))],
    };
    let wide = (hi - lo) * 0.5;
    let range = if mode == "cubic" { (lo - wide, hi + wide) } else { (lo, hi) };
    g.one(line.op, &inputs, attributes, (dtype, out, range), Class::Rounds);
    Some(())
}

/// ConstantOfShape, EyeLike and Range, which nothing but constants decide.
pub fn made(g: &mut Growing, line: &Line) -> Option<()> {
    match line.op {
        "ConstantOfShape" => {
            let rank = g.between(0, 3);
            let shape: Vec<usize> = (0..rank).map(|_| g.extent().min(9)).collect();
            let list: Vec<i64> = shape.iter().map(|d| *d as i64).collect();
            let list = g.list(&list);
            let dtype = g.rng.pick(line.types);
            let value = kiln_compiler::eval::from_f64s(&[1], &[1.0], dtype);
            g.one(line.op, &[list], vec![attr("value", value)], (dtype, shape.into_iter().map(closed).collect(), (1.0, 1.0)), Class::Exact);
        }
        "EyeLike" => {
            let v = g.operand(line.types, 2, 2);
            let (dtype, shape) = (g.dtype(v), g.shape(v));
            let k = g.between(0, 4) as i64 - 2;
            g.one(line.op, &[v], vec![attr("k", k)], (dtype, shape, (0.0, 1.0)), Class::Exact);
        }
        _ => {
            let (start, count, step) = (g.between(0, 9) as i64 - 4, g.between(0, 12) as i64, g.rng.pick(&[1, 2, -1, 3]));
            let a = g.fixed(Tensor::scalar(start));
            let (b, c) = (g.fixed(Tensor::scalar(start + count * step)), g.fixed(Tensor::scalar(step)));
            g.one(line.op, &[a, b, c], vec![], (DType::I64, vec![closed(count as usize)], (-60.0, 60.0)), Class::Exact);
        }
    }
    Some(())
}

/// Slices of a value put together again in another order.
pub fn shuffle(g: &mut Growing, line: &Line) -> Option<()> {
    let v = g.existing(line.types, |g, v| (0..g.rank(v)).any(|i| g.shape(v)[i][0] > 1 && !is_open_axis(g.shape(v)[i])))?;
    let shape = g.shape(v);
    let axis = (0..shape.len()).find(|i| shape[*i][0] > 1 && !is_open_axis(shape[*i]))?;
    let n = shape[axis][0];
    let cut = g.between(1, n - 1);
    let (list, mut parts) = (g.list(&[axis as i64]), vec![]);
    for (from, to) in [(cut, n), (0, cut)] {
        let (a, b) = (g.list(&[from as i64]), g.list(&[to as i64]));
        let out = changed(&shape, axis, |_| Some(to - from))?;
        parts.push(moved(g, "Slice", &[v, a, b, list], vec![], out)?);
    }
    moved(g, "Concat", &parts, vec![attr("axis", axis as i64)], shape).map(|_| ())
}
