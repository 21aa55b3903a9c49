//! Growers of blocks as networks have them: attention, residual connections, mobile blocks.

use super::dense::{conv_of, image, weights};
use super::table::Line;
use super::{Class, Growing, V, attr, broadcast, closed, holds_elements, is_open, small};
use kiln_kernels::dtype::DType::{self, F32};
use kiln_kernels::value::Tensor;

/// Softmax of products around a softmax, spelled in nodes.
pub fn attention(g: &mut Growing, _: &Line) -> Option<()> {
    let dtype = F32;
    let (heads, depth, value) = (closed(g.between(1, 4)), closed(g.rng.pick(&[3, 4, 8, 16])), closed(g.rng.pick(&[3, 4, 8, 16])));
    let batch = if !g.open.is_empty() && g.once_in(2) { g.rng.pick(&g.open.clone()) } else { closed(g.between(1, 2)) };
    let (from, to) = (closed(g.between(1, 9)), closed(g.between(1, 17)));
    let (s, one) = (Class::Sums, Class::Rounds);
    let q = g.placeholder(dtype, vec![batch, from, heads, depth], (-1.0, 1.0));
    let k = g.placeholder(dtype, vec![batch, to, heads, depth], (-1.0, 1.0));
    let v = g.placeholder(dtype, vec![batch, to, heads, value], (-1.0, 1.0));
    let out = |dims: [super::Extent; 4], top: f64| (dtype, dims.to_vec(), (-top, top));
    let q = g.one("Transpose", &[q], vec![attr("perm", [0i64, 2, 1, 3])], out([batch, heads, from, depth], 1.0), Class::Exact);
    let k = g.one("Transpose", &[k], vec![attr("perm", [0i64, 2, 3, 1])], out([batch, heads, depth, to], 1.0), Class::Exact);
    let v = g.one("Transpose", &[v], vec![attr("perm", [0i64, 2, 1, 3])], out([batch, heads, to, value], 1.0), Class::Exact);
    let mut scores = g.one("MatMul", &[q, k], vec![], out([batch, heads, from, to], 16.0), s);
    let root = g.scalar((depth[0] as f64).sqrt(), dtype);
    let op = if g.once_in(2) { "Div" } else { "Mul" };
    scores = g.one(op, &[scores, root], vec![], out([batch, heads, from, to], 64.0), one);
    match g.rng.below(3) {
        0 => {
            let mask = g.placeholder(dtype, vec![batch, closed(1), closed(1), to], (-3.0, 0.0));
            scores = g.one("Add", &[scores, mask], vec![], out([batch, heads, from, to], 70.0), one);
        }
        1 => {
            let mask = g.placeholder(DType::Bool, vec![closed(1), closed(1), from, to], (0.0, 1.0));
            let low = g.scalar(-1e4, dtype);
            scores = g.one("Where", &[mask, scores, low], vec![], (dtype, vec![batch, heads, from, to], (-1e4, 64.0)), Class::Exact);
        }
        _ => {}
    }
    let p = g.one("Softmax", &[scores], vec![attr("axis", -1i64)], (dtype, vec![batch, heads, from, to], (0.0, 1.0)), s);
    let y = g.one("MatMul", &[p, v], vec![], out([batch, heads, from, value], 1.0), s);
    let y = g.one("Transpose", &[y], vec![attr("perm", [0i64, 2, 1, 3])], out([batch, from, heads, value], 1.0), Class::Exact);
    let merged = closed(heads[0] * value[0]);
    let shape = g.list(&[0, 0, merged[0] as i64]);
    let y = g.one("Reshape", &[y, shape], vec![], (dtype, vec![batch, from, merged], (-1.0, 1.0)), Class::Exact);
    let n = closed(g.extent());
    let w = weights(g, dtype, vec![merged, n], merged[0], 1.0);
    g.one("MatMul", &[y, w], vec![], (dtype, vec![batch, from, n], (-4.0, 4.0)), s);
    Some(())
}

/// Attention as one operator.
pub fn attention_operator(g: &mut Growing, line: &Line) -> Option<()> {
    let dtype = g.rng.pick(line.types);
    let (q_heads, group) = (g.rng.pick(&[1, 2, 4]), g.rng.pick(&[1, 1, 2]));
    if q_heads % group != 0 {
        return None;
    }
    let (batch, from, to) = (closed(g.between(1, 2)), closed(g.between(1, 7)), closed(g.between(1, 9)));
    let (depth, value) = (closed(g.rng.pick(&[2, 4, 8])), closed(g.rng.pick(&[2, 4, 8])));
    let (qh, kh) = (closed(q_heads), closed(q_heads / group));
    let q = g.placeholder(dtype, vec![batch, qh, from, depth], (-1.0, 1.0));
    let k = g.placeholder(dtype, vec![batch, kh, to, depth], (-1.0, 1.0));
    let v = g.placeholder(dtype, vec![batch, kh, to, value], (-1.0, 1.0));
    let mut inputs = vec![q, k, v];
    let mut attributes = vec![];
    if g.once_in(2) {
        inputs.push(g.placeholder(dtype, vec![from, to], (-3.0, 0.0)));
    } else if g.once_in(2) {
        attributes.push(attr("is_causal", 1i64));
    }
    if g.once_in(3) {
        attributes.push(attr("scale", 0.25f32));
    }
    g.one(line.op, &inputs, attributes, (dtype, vec![batch, qh, from, value], (-1.0, 1.0)), Class::Sums);
    Some(())
}

/// RotaryEmbedding as one operator.
pub fn rotary(g: &mut Growing, line: &Line) -> Option<()> {
    let dtype = g.rng.pick(line.types);
    let (b, h, s, d) = (closed(g.between(1, 2)), closed(g.between(1, 3)), closed(g.between(1, 5)), closed(g.rng.pick(&[2, 4, 8])));
    let x = g.placeholder(dtype, vec![b, h, s, d], (-1.0, 1.0));
    let half = closed(d[0] / 2);
    let (cos, sin) = (g.placeholder(dtype, vec![b, s, half], (-1.0, 1.0)), g.placeholder(dtype, vec![b, s, half], (-1.0, 1.0)));
    let attributes = if g.once_in(2) { vec![attr("interleaved", 1i64)] } else { vec![] };
    g.one(line.op, &[x, cos, sin], attributes, (dtype, vec![b, h, s, d], (-2.0, 2.0)), Class::Sums);
    Some(())
}

/// Convolution, normalization, activation, and a sum with what went in.
pub fn residual(g: &mut Growing, _: &Line) -> Option<()> {
    let x = image(g, &[F32], 2, 3);
    let s = g.shape(x);
    let y = conv_of(g, x)?;
    let t = g.shape(y);
    let c = vec![t[1]];
    let ranges = [(0.5, 1.5), (-1.0, 1.0), (-1.0, 1.0), (0.3, 2.0)];
    let top = g.magnitude(y) * 3.0 + 3.0;
    let inputs: Vec<V> = [y].into_iter().chain(ranges.map(|r| g.placeholder(F32, c.clone(), r))).collect();
    let mut y = g.one("BatchNormalization", &inputs, vec![], (F32, t.clone(), (-top, top)), Class::Rounds);
    let late = g.once_in(2);
    if !late {
        y = g.one("Relu", &[y], vec![], (F32, t.clone(), (0.0, top)), Class::Exact);
    }
    let other = if s == t { x } else { g.existing(&[F32], |g, v| v != y && broadcast(&t, &g.shape(v)) == Some(t.clone()))? };
    let other = g.tame(other, 50.0);
    let y = g.one("Add", &[y, other], vec![], (F32, t.clone(), (-top - 50.0, top + 50.0)), Class::Rounds);
    if late {
        g.one("Relu", &[y], vec![], (F32, t, (0.0, top + 50.0)), Class::Exact);
    }
    Some(())
}

/// A pooled image, weighed by channel: squeeze and excitation.
pub fn excitation(g: &mut Growing, _: &Line) -> Option<()> {
    let x = image(g, &[F32], 2, 1);
    let x = g.tame(x, 20.0);
    let s = g.shape(x);
    let (c, narrow) = (s[1], closed((s[1][0] / 2).max(1)));
    let pooled = vec![s[0], c, closed(1), closed(1)];
    let y = g.one("GlobalAveragePool", &[x], vec![], (F32, pooled.clone(), (-20.0, 20.0)), Class::Sums);
    let w = weights(g, F32, vec![narrow, c, closed(1), closed(1)], c[0], 20.0);
    let y = g.one("Conv", &[y, w], vec![], (F32, vec![s[0], narrow, closed(1), closed(1)], (-8.0, 8.0)), Class::Sums);
    let y = g.one("Relu", &[y], vec![], (F32, vec![s[0], narrow, closed(1), closed(1)], (0.0, 8.0)), Class::Exact);
    let w = weights(g, F32, vec![c, narrow, closed(1), closed(1)], narrow[0], 8.0);
    let y = g.one("Conv", &[y, w], vec![], (F32, pooled.clone(), (-8.0, 8.0)), Class::Sums);
    let gate = g.rng.pick(&["Sigmoid", "HardSigmoid"]);
    let y = g.one(gate, &[y], vec![], (F32, pooled, (0.0, 1.0)), Class::Rounds);
    let top = g.magnitude(x);
    g.one("Mul", &[x, y], vec![], (F32, s, (-top, top)), Class::Rounds);
    Some(())
}

/// Several products of one operand, side by side, and what is made of them together.
pub fn siblings(g: &mut Growing, line: &Line) -> Option<()> {
    let x = g.operand(line.types, 2, 3);
    let x = g.tame(x, 20.0);
    let (dtype, s) = (g.dtype(x), g.shape(x));
    let k = *s.last()?;
    if k[0] != k[1] || !holds_elements(&s) {
        return None;
    }
    let n = closed(g.extent());
    let mut out = s.clone();
    *out.last_mut()? = n;
    if !small(&out) {
        return None;
    }
    let m = g.magnitude(x);
    let mut all = vec![];
    for _ in 0..g.between(2, 3) {
        let w = weights(g, dtype, vec![k, n], k[0], m);
        let mut y = g.one("MatMul", &[x, w], vec![], (dtype, out.clone(), (-16.0, 16.0)), Class::Sums);
        if g.once_in(2) {
            let b = g.placeholder(dtype, vec![n], (-1.0, 1.0));
            y = g.one("Add", &[y, b], vec![], (dtype, out.clone(), (-17.0, 17.0)), Class::Rounds);
        }
        all.push(y);
    }
    match g.rng.below(3) {
        0 => {
            let gate = g.one("Sigmoid", &[all[0]], vec![], (dtype, out.clone(), (0.0, 1.0)), Class::Rounds);
            g.one("Mul", &[gate, all[1]], vec![], (dtype, out, (-17.0, 17.0)), Class::Rounds);
        }
        1 => {
            let mut joined = out.clone();
            *joined.last_mut()? = closed(n[0] * all.len());
            if small(&joined) {
                g.one("Concat", &all, vec![attr("axis", -1i64)], (dtype, joined, (-17.0, 17.0)), Class::Exact);
            }
        }
        _ => {}
    }
    Some(())
}

/// A table of rows that are looked up, as embeddings are.
pub fn embedding(g: &mut Growing, _: &Line) -> Option<()> {
    let (rows, width) = (g.between(2, 40), g.extent());
    let rank = g.between(1, 2);
    let ids = g.new_shape(rank);
    let mut out = ids.clone();
    out.push(closed(width));
    if !small(&out) {
        return None;
    }
    let ids = g.placeholder(DType::I64, ids, (0.0, rows as f64 - 1.0));
    let table = g.placeholder(F32, vec![closed(rows), closed(width)], (-1.0, 1.0));
    let y = g.one("Gather", &[table, ids], vec![], (F32, out.clone(), (-1.0, 1.0)), Class::Exact);
    if !is_open(&out) && g.once_in(2) {
        let dims: Vec<usize> = out.iter().map(|e| e[0]).collect();
        let x = crate::samples::noise(dims.len() as u64, dims.iter().product());
        let p = g.fixed(Tensor::new(&dims, &x));
        g.one("Add", &[y, p], vec![], (F32, out, (-2.0, 2.0)), Class::Rounds);
    }
    Some(())
}
