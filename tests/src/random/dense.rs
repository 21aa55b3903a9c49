//! Growers of products, convolutions, pools and normalizations.

use super::table::Line;
use super::{Class, Extent, Growing, Range, Shape, V, attr, broadcast, closed, each, holds_elements, most, small};
use kiln_compiler::onnx::proto::AttributeProto;
use kiln_kernels::dtype::DType;

/// A value of batch, channels and `spatial` axes of at least `least` elements, with elements.
pub fn image(g: &mut Growing, types: &[DType], spatial: usize, least: usize) -> V {
    let ok = move |g: &Growing, v: V| {
        let s = g.shape(v);
        s.len() == spatial + 2 && holds_elements(&s) && s[2..].iter().flatten().all(|e| *e >= least) && s[1][0] == s[1][1]
    };
    if !g.once_in(6)
        && let Some(v) = g.existing(types, ok)
    {
        return v;
    }
    let dtype = g.rng.pick(types);
    let batch = if !g.open.is_empty() && g.once_in(2) { g.rng.pick(&g.open.clone()) } else { closed(g.rng.pick(&[1, 1, 1, 2, 3])) };
    let batch = if batch.contains(&0) { closed(1) } else { batch };
    let channels = g.rng.pick(&[1, 2, 3, 3, 4, 5, 8, 16, 17, 24, 32]);
    let mut shape = vec![batch, closed(channels)];
    for _ in 0..spatial {
        let e = match !g.open.is_empty() && g.once_in(5) {
            true => g.rng.pick(&g.open.clone()).map(|n| n + least),
            false => closed(least + g.rng.pick(&[0, 1, 3, 5, 6, 7, 9, 12, 15])),
        };
        let with: Shape = shape.iter().copied().chain([e]).collect();
        shape.push(if super::fits(&with, 8192) { e } else { closed(least) });
    }
    let range = g.rng.pick(&[(-1.0, 1.0), (-2.0, 2.0), (0.0, 1.0)]);
    g.placeholder(dtype, shape, range)
}

/// A placeholder whose products with `terms` elements of a magnitude stay of size one or so.
pub fn weights(g: &mut Growing, dtype: DType, shape: Shape, terms: usize, magnitude: f64) -> V {
    let top = (4.0 / (terms.max(1) as f64).sqrt() / magnitude.max(0.25)).min(1.0);
    let range: Range = g.rng.pick(&[(-top, top), (-top, top), (0.0, top)]);
    g.placeholder(dtype, shape, range)
}

/// What random sums reach.
fn reach(terms: usize, a: f64, b: f64) -> Range {
    let top = (terms.max(1) as f64).sqrt() * 4.0 * a * b;
    (-top.max(0.1), top.max(0.1))
}

/// MatMul, also of vectors and of stacks that broadcast.
pub fn matmul(g: &mut Growing, line: &Line) -> Option<()> {
    let a = g.operand(line.types, 1, 4);
    let a = g.tame(a, most(g.dtype(a)).sqrt());
    let (dtype, s) = (g.dtype(a), g.shape(a));
    let k = *s.last()?;
    let partner = g.existing(&[dtype], |g, b| {
        let t = g.shape(b);
        t.len() >= 2 && s.len() >= 2 && t[t.len() - 2] == k && broadcast(&s[..s.len() - 2], &t[..t.len() - 2]).is_some()
    });
    let b = match partner.filter(|_| g.rng.below(3) > 0) {
        Some(b) => g.tame(b, most(dtype).sqrt()),
        None => {
            if k[0] != k[1] && !g.once_in(3) {
                return None;
            }
            let mut t = vec![k];
            if !(s.len() == 1 && g.once_in(3)) {
                t.push(closed(g.extent()));
                if s.len() > 2 && g.once_in(3) {
                    let stack = g.narrower(&s[..s.len() - 2]);
                    t = [stack, t].concat();
                }
            }
            let m = g.magnitude(a);
            weights(g, dtype, t, k[0].max(k[1]), m)
        }
    };
    let t = g.shape(b);
    let stack = broadcast(if s.len() > 1 { &s[..s.len() - 2] } else { &[] }, if t.len() > 1 { &t[..t.len() - 2] } else { &[] })?;
    let mut out = stack;
    if s.len() > 1 {
        out.push(s[s.len() - 2]);
    }
    if t.len() > 1 {
        out.push(t[t.len() - 1]);
    }
    if !small(&out) {
        return None;
    }
    let range = reach(k[0].max(k[1]), g.magnitude(a), g.magnitude(b));
    g.one(line.op, &[a, b], vec![], (dtype, out, range), Class::Sums);
    Some(())
}

/// Gemm.
pub fn gemm(g: &mut Growing, line: &Line) -> Option<()> {
    let a = g.operand(line.types, 2, 2);
    let a = g.tame(a, 30.0);
    let (dtype, s) = (g.dtype(a), g.shape(a));
    let trans_a = g.once_in(4);
    let (m, k) = if trans_a { (s[1], s[0]) } else { (s[0], s[1]) };
    // ONNX Runtime leaves `beta` out where there is nothing to sum.
    if k.contains(&0) {
        return None;
    }
    let n = closed(g.extent());
    let trans_b = g.once_in(2);
    let magnitude = g.magnitude(a);
    let b = weights(g, dtype, if trans_b { vec![n, k] } else { vec![k, n] }, k[0].max(k[1]), magnitude);
    let mut inputs = vec![a, b];
    if !g.once_in(3) {
        let shapes: [Shape; 5] = [vec![n], vec![closed(1), n], vec![m, n], vec![m, closed(1)], vec![]];
        let c = shapes[g.rng.pick(&[0, 0, 0, 1, 2, 3, 4])].clone();
        inputs.push(g.placeholder(dtype, c, (-1.0, 1.0)));
    }
    let mut attributes = vec![attr("transA", trans_a), attr("transB", trans_b)];
    if g.once_in(3) {
        attributes.push(attr("alpha", 0.5f32));
        attributes.push(attr("beta", g.rng.pick(&[2.0f32, 0.25, 0.0])));
    }
    let range = reach(k[0].max(k[1]), magnitude, g.magnitude(b));
    g.one(line.op, &inputs, attributes, (dtype, vec![m, n], (range.0 - 2.0, range.1 + 2.0)), Class::Sums);
    Some(())
}

/// How a window moves along the spatial axes.
pub struct Window {
    /// Extents.
    pub kernel: Vec<usize>,
    /// Steps.
    pub strides: Vec<usize>,
    /// Steps within.
    pub dilations: Vec<usize>,
    /// Padding: all fronts, then all backs.
    pub pads: Vec<usize>,
}

impl Window {
    /// A window that fits into the spatial extents.
    pub fn new(g: &mut Growing, spatial: &[Extent], dilates: bool) -> Option<Window> {
        let n = spatial.len();
        let square = g.rng.pick(&[1, 1, 2, 3, 3, 3, 5]);
        let kernel: Vec<usize> = (0..n).map(|_| if g.once_in(5) { g.between(1, 4) } else { square }).collect();
        let stride = g.rng.pick(&[1, 1, 1, 2, 2, 3]);
        let strides: Vec<usize> = (0..n).map(|_| if g.once_in(8) { g.between(1, 2) } else { stride }).collect();
        let dilation = if dilates { g.rng.pick(&[1, 1, 1, 1, 2]) } else { 1 };
        let dilations = vec![dilation; n];
        let same = g.once_in(2);
        let pads: Vec<usize> = (0..2 * n).map(|i| if same { kernel[i % n] / 2 } else { g.rng.below(kernel[i % n].min(3)) }).collect();
        let w = Window { kernel, strides, dilations, pads };
        w.out(spatial, false)?;
        Some(w)
    }
    /// The spatial extents of the results.
    pub fn out(&self, spatial: &[Extent], ceil: bool) -> Option<Shape> {
        let n = spatial.len();
        let one = |i: usize, e: usize| {
            let reach = (self.kernel[i] - 1) * self.dilations[i] + 1;
            let room = (e + self.pads[i] + self.pads[i + n]).checked_sub(reach)?;
            let steps = if ceil { room.div_ceil(self.strides[i]) } else { room / self.strides[i] };
            // A window that begins in the padding behind is left out.
            let last = steps * self.strides[i] >= e + self.pads[i];
            Some(steps + 1 - usize::from(ceil && last))
        };
        (0..n).map(|i| each(spatial[i], |e| one(i, e))).collect()
    }
    /// The attributes.
    pub fn attributes(&self) -> Vec<AttributeProto> {
        let list = |x: &[usize]| x.iter().map(|e| *e as i64).collect::<Vec<_>>();
        let mut out = vec![attr("kernel_shape", list(&self.kernel)), attr("strides", list(&self.strides)), attr("pads", list(&self.pads))];
        if self.dilations.iter().any(|d| *d != 1) {
            out.push(attr("dilations", list(&self.dilations)));
        }
        out
    }
}

/// Conv, of groups and depthwise too.
pub fn conv(g: &mut Growing, line: &Line) -> Option<()> {
    let spatial = g.rng.pick(&[2, 2, 2, 2, 1, 3]);
    let x = image(g, line.types, spatial, 1);
    conv_of(g, x).map(|_| ())
}

/// A convolution of a value; gives its result.
pub fn conv_of(g: &mut Growing, x: V) -> Option<V> {
    let x = g.tame(x, 20.0);
    let (dtype, s) = (g.dtype(x), g.shape(x));
    let w = Window::new(g, &s[2..], true)?;
    let c = s[1][0];
    let groups = match g.rng.below(5) {
        0 => c,
        1 if c % 2 == 0 => 2,
        _ => 1,
    };
    let filters = if groups == 1 { g.rng.pick(&[1, 2, 3, 5, 8, 16, 19, 32]) } else { groups * g.rng.pick(&[1, 1, 2]) };
    let taps = w.kernel.iter().product::<usize>() * (c / groups);
    let mut out = vec![s[0], closed(filters)];
    out.extend(w.out(&s[2..], false)?);
    if !small(&out) || !holds_elements(&out) {
        return None;
    }
    let mut shape = vec![closed(filters), closed(c / groups)];
    shape.extend(w.kernel.iter().map(|k| closed(*k)));
    let magnitude = g.magnitude(x);
    let k = weights(g, dtype, shape, taps, magnitude);
    let mut inputs = vec![x, k];
    if g.once_in(2) {
        inputs.push(g.placeholder(dtype, vec![closed(filters)], (-1.0, 1.0)));
    }
    let mut attributes = w.attributes();
    if groups > 1 || g.once_in(4) {
        attributes.push(attr("group", groups as i64));
    }
    let range = reach(taps, magnitude, g.magnitude(k));
    Some(g.one("Conv", &inputs, attributes, (dtype, out, (range.0 - 1.0, range.1 + 1.0)), Class::Sums))
}

/// ConvTranspose.
pub fn conv_transpose(g: &mut Growing, line: &Line) -> Option<()> {
    let spatial = g.rng.pick(&[2, 2, 2, 1]);
    let x = image(g, line.types, spatial, 1);
    let x = g.tame(x, 20.0);
    let (dtype, s) = (g.dtype(x), g.shape(x));
    let c = s[1][0];
    let kernel: Vec<usize> = (0..spatial).map(|_| g.between(1, 4)).collect();
    let strides: Vec<usize> = (0..spatial).map(|_| g.between(1, 3)).collect();
    let pads: Vec<usize> = (0..2 * spatial).map(|i| g.rng.below(kernel[i % spatial].min(3))).collect();
    let extra: Vec<usize> = strides.iter().map(|st| if g.once_in(3) { g.rng.below(*st) } else { 0 }).collect();
    let groups = if c % 2 == 0 && g.once_in(4) { 2 } else { 1 };
    let filters = g.between(1, 6);
    let mut out = vec![s[0], closed(filters * groups)];
    for i in 0..spatial {
        let e =
            each(s[2 + i], |n| ((n - 1) * strides[i] + kernel[i] + extra[i]).checked_sub(pads[i] + pads[i + spatial]).filter(|n| *n > 0))?;
        out.push(e);
    }
    if !small(&out) {
        return None;
    }
    let mut shape = vec![s[1], closed(filters)];
    shape.extend(kernel.iter().map(|k| closed(*k)));
    let taps = c / groups * kernel.iter().product::<usize>();
    let magnitude = g.magnitude(x);
    let k = weights(g, dtype, shape, taps, magnitude);
    let mut inputs = vec![x, k];
    if g.once_in(2) {
        inputs.push(g.placeholder(dtype, vec![closed(filters * groups)], (-1.0, 1.0)));
    }
    let list = |x: &[usize]| x.iter().map(|e| *e as i64).collect::<Vec<_>>();
    let mut attributes = vec![attr("strides", list(&strides)), attr("pads", list(&pads)), attr("group", groups as i64)];
    if extra.iter().any(|e| *e > 0) {
        attributes.push(attr("output_padding", list(&extra)));
    }
    let range = reach(taps, magnitude, g.magnitude(k));
    g.one(line.op, &inputs, attributes, (dtype, out, (range.0 - 1.0, range.1 + 1.0)), Class::Sums);
    Some(())
}

/// MaxPool, AveragePool and LpPool.
pub fn pool(g: &mut Growing, line: &Line) -> Option<()> {
    let spatial = g.rng.pick(&[2, 2, 2, 1, 3]);
    let x = image(g, line.types, spatial, 2);
    let x = g.tame(x, 50.0);
    let (dtype, s, (lo, hi)) = (g.dtype(x), g.shape(x), g.range(x));
    let average = line.op == "AveragePool";
    let w = Window::new(g, &s[2..], line.op == "MaxPool" || g.opset >= 19 && average)?;
    // A window needs an element of its own: the padding is less than the window.
    if (0..2 * spatial).any(|i| w.pads[i] >= w.kernel[i % spatial]) {
        return None;
    }
    let ceil = line.op != "LpPool" && g.once_in(4) && w.dilations.iter().all(|d| *d == 1);
    let mut out = vec![s[0], s[1]];
    out.extend(w.out(&s[2..], ceil)?);
    if !small(&out) || !holds_elements(&out) {
        return None;
    }
    let mut attributes = w.attributes();
    if ceil {
        attributes.push(attr("ceil_mode", 1i64));
    }
    let taps = w.kernel.iter().product::<usize>() as f64;
    match line.op {
        "AveragePool" => {
            if g.once_in(2) {
                attributes.push(attr("count_include_pad", 1i64));
            }
            g.one(line.op, &[x], attributes, (dtype, out, (lo.min(0.0), hi.max(0.0))), Class::Sums);
        }
        "LpPool" => {
            attributes.push(attr("p", g.between(1, 3) as i64));
            let top = g.magnitude(x) * taps;
            g.one(line.op, &[x], attributes, (dtype, out, (0.0, top)), Class::Sums);
        }
        _ => {
            let mut outs = vec![(dtype, out.clone(), (lo, hi))];
            if g.once_in(6) && w.dilations.iter().all(|d| *d == 1) {
                outs.push((DType::I64, out, (0.0, 16384.0)));
            }
            g.node(line.op, &[x], attributes, outs, Class::Exact);
        }
    }
    Some(())
}

/// GlobalAveragePool and its like.
pub fn global(g: &mut Growing, line: &Line) -> Option<()> {
    let spatial = g.rng.pick(&[2, 2, 1, 3]);
    let x = image(g, line.types, spatial, 1);
    let x = g.tame(x, 50.0);
    let (dtype, s, (lo, hi)) = (g.dtype(x), g.shape(x), g.range(x));
    let mut out = vec![s[0], s[1]];
    out.extend(vec![closed(1); spatial]);
    let (range, class) = match line.op {
        "GlobalMaxPool" => ((lo, hi), Class::Exact),
        "GlobalLpPool" => ((0.0, 50.0 * 100.0), Class::Sums),
        _ => ((lo, hi), Class::Sums),
    };
    g.one(line.op, &[x], vec![], (dtype, out, range), class);
    Some(())
}

/// BatchNormalization, InstanceNormalization, GroupNormalization and LRN.
pub fn channel_norm(g: &mut Growing, line: &Line) -> Option<()> {
    // ONNX Runtime has LRN over two spatial axes alone.
    let spatial = if line.op == "LRN" { 2 } else { g.rng.pick(&[2, 2, 2, 1]) };
    let x = image(g, line.types, spatial, 1);
    let x = g.tame(x, 20.0);
    let (dtype, s) = (g.dtype(x), g.shape(x));
    let c = vec![s[1]];
    let top = g.magnitude(x) * 4.0 + 4.0;
    let out = (dtype, s.clone(), (-top, top));
    match line.op {
        "BatchNormalization" => {
            let ranges = [(0.5, 1.5), (-1.0, 1.0), (-1.0, 1.0), (0.3, 2.0)];
            let inputs: Vec<V> = [x].into_iter().chain(ranges.map(|r| g.placeholder(dtype, c.clone(), r))).collect();
            g.one(line.op, &inputs, vec![attr("epsilon", 0.01f32)], out, Class::Rounds);
        }
        "LRN" => {
            let size = g.rng.pick(&[1, 3, 5]);
            let attributes = vec![attr("size", size as i64), attr("alpha", 0.1f32), attr("beta", 0.75f32), attr("bias", 1.0f32)];
            g.one(line.op, &[x], attributes, out, Class::Sums);
        }
        _ => {
            let groups = if s[1][0] % 2 == 0 { 2 } else { 1 };
            let (scale, shift) = (g.placeholder(dtype, c.clone(), (0.5, 1.5)), g.placeholder(dtype, c, (-1.0, 1.0)));
            let mut attributes = vec![attr("epsilon", 0.05f32)];
            if line.op == "GroupNormalization" {
                attributes.push(attr("num_groups", groups as i64));
            }
            g.one(line.op, &[x, scale, shift], attributes, (dtype, s, (-100.0, 100.0)), Class::Sums);
        }
    }
    Some(())
}

/// LayerNormalization and RMSNormalization.
pub fn row_norm(g: &mut Growing, line: &Line) -> Option<()> {
    let x = g.operand(line.types, 2, 4);
    let x = g.tame(x, 20.0);
    let (dtype, s) = (g.dtype(x), g.shape(x));
    let axis = if g.once_in(3) { g.between(1, s.len() - 1) } else { s.len() - 1 };
    let row: Shape = s[axis..].to_vec();
    if !holds_elements(&s) || super::is_open(&row) {
        return None;
    }
    let mut inputs = vec![x, g.placeholder(dtype, row.clone(), (-1.5, 1.5))];
    if line.op == "LayerNormalization" && g.once_in(2) {
        inputs.push(g.placeholder(dtype, row, (-1.0, 1.0)));
    }
    let attributes = vec![attr("axis", g.spelled(axis, s.len())), attr("epsilon", 0.05f32)];
    g.one(line.op, &inputs, attributes, (dtype, s, (-60.0, 60.0)), Class::Sums);
    Some(())
}

/// MeanVarianceNormalization.
pub fn mean_variance(g: &mut Growing, line: &Line) -> Option<()> {
    let x = image(g, line.types, 2, 3);
    let x = g.tame(x, 20.0);
    let (dtype, s) = (g.dtype(x), g.shape(x));
    g.one(line.op, &[x], vec![], (dtype, s, (-100.0, 100.0)), Class::Sums);
    Some(())
}

/// Einsum of a few equations.
pub fn einsum(g: &mut Growing, line: &Line) -> Option<()> {
    let (i, j, k, b) = (closed(g.extent().min(9)), closed(g.extent().min(9)), closed(g.extent().min(9)), closed(g.between(1, 3)));
    let dtype = g.rng.pick(line.types);
    let all: [(&str, Shape, Shape, Shape); 7] = [
        ("ij,jk->ik", vec![i, j], vec![j, k], vec![i, k]),
        ("bij,bjk->bik", vec![b, i, j], vec![b, j, k], vec![b, i, k]),
        ("bij,kj->bik", vec![b, i, j], vec![k, j], vec![b, i, k]),
        ("bhid,bhjd->bhij", vec![b, i, j, k], vec![b, i, j, k], vec![b, i, j, j]),
        ("ij,ij->i", vec![i, j], vec![i, j], vec![i]),
        ("i,j->ij", vec![i], vec![j], vec![i, j]),
        ("bi,bj->bij", vec![b, i], vec![b, j], vec![b, i, j]),
    ];
    let (equation, x, y, out) = all[g.rng.below(7)].clone();
    if !small(&out) {
        return None;
    }
    let a = g.existing(&[dtype], |g, v| g.shape(v) == x).unwrap_or_else(|| g.placeholder(dtype, x, (-1.0, 1.0)));
    let a = g.tame(a, 20.0);
    let m = g.magnitude(a);
    let c = weights(g, dtype, y, 20, m);
    let range = reach(20, m, 1.0);
    g.one(line.op, &[a, c], vec![attr("equation", equation)], (dtype, out, range), Class::Sums);
    Some(())
}

/// GridSample of an image.
pub fn grid_sample(g: &mut Growing, line: &Line) -> Option<()> {
    let x = image(g, line.types, 2, 2);
    let (dtype, s, (lo, hi)) = (g.dtype(x), g.shape(x), g.range(x));
    let (h, w) = (closed(g.between(1, 6)), closed(g.between(1, 6)));
    let grid = g.placeholder(dtype, vec![s[0], h, w, closed(2)], (-1.2, 1.2));
    let names = if g.opset >= 20 { ["linear", "nearest"] } else { ["bilinear", "nearest"] };
    let mode = g.rng.pick(&names);
    let padding = g.rng.pick(&["zeros", "border", "reflection"]);
    let align = g.once_in(2);
    let attributes = vec![attr("mode", mode), attr("padding_mode", padding), attr("align_corners", align)];
    g.one(line.op, &[x, grid], attributes, (dtype, vec![s[0], s[1], h, w], (lo.min(0.0), hi.max(0.0))), Class::Sums);
    Some(())
}

/// Det of small matrices.
pub fn det(g: &mut Growing, line: &Line) -> Option<()> {
    let n = g.between(1, 4);
    let stack = g.between(0, 1);
    let mut shape = g.new_shape(stack);
    let out = shape.clone();
    shape.extend([closed(n), closed(n)]);
    let dtype = g.rng.pick(line.types);
    let x = g.placeholder(dtype, shape, (-1.0, 1.0));
    g.one(line.op, &[x], vec![], (dtype, out, (-24.0, 24.0)), Class::Sums);
    Some(())
}
