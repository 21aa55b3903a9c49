//! The vector kernels of tiles and columns: convolutions, matrix products, pools, norms of pixels and softmax, with the steps they take
//! through memory.

use super::orders::{by_rows, plain_pool, reads_planes};
use super::reach::{pixel_pitch, row_pitch};
use super::select::{Selected, moves};
use super::{constant_right, norms_pixels, packs, pools, resizes_images, responds, rows, turning, turns};
use crate::ir::{Dim, Graph, Node, ValueId, product};
use crate::kernel::{Epilogue, Kernel, Method, Operand, Packed, Recipe, Stride, Window};
use crate::layout::{self, Layout, Layouts, is_forward};
use crate::ops::{Op, reduce::around};
use kiln_kernels::dtype::DType;
use kiln_kernels::gemm::PANEL;

/// Extents and attributes of up to three spatial axes, in the last places of three.
fn three<T: Clone>(v: &[T], fill: T) -> [T; 3] {
    let mut out = [fill.clone(), fill.clone(), fill];
    for (o, x) in out[3 - v.len()..].iter_mut().zip(v) {
        *o = x.clone();
    }
    out
}

/// The window of a convolution or pool: `attributes` are extents, steps, pads and dilations, `s` the operand's strides, and the last
/// argument the result's pitches.
fn window(
    g: &Graph,
    (x, out): (ValueId, ValueId),
    [kernel, stride, pads, dilation]: [&[i64]; 4],
    s: &[Dim],
    (out_pitch, out_batch): (Dim, Dim),
) -> Window {
    let (shape, result) = (g.shape(x), g.shape(out));
    let u = |v: &[i64], fill: usize| three(&v.iter().map(|x| *x as usize).collect::<Vec<_>>(), fill);
    let spatial = three(&s[2..], Dim::int(0));
    let axes = kernel.len();
    Window {
        n: shape[0].clone(),
        c: shape[1].clone(),
        in_dims: three(&shape[2..], Dim::int(1)),
        out_dims: three(&result[2..], Dim::int(1)),
        kernel: u(kernel, 1),
        stride: u(stride, 1),
        pad: u(&pads[..axes], 0),
        pad_end: u(&pads[axes..], 0),
        dilation: u(dilation, 1),
        x_strides: [s[0].clone(), s[1].clone(), spatial[0].clone(), spatial[1].clone(), spatial[2].clone()],
        out_pitch,
        out_batch,
    }
}

/// Where a kernel that writes pixels puts them, and whether that is where the layouts have them.
fn pixels(g: &Graph, layouts: &Layouts, out: ValueId) -> ((Dim, Dim), bool) {
    let dense = || {
        let channels = g.shape(out)[1].clone();
        (channels.clone(), product(&g.shape(out)[2..]) * channels)
    };
    let found = pixel_pitch(g, layouts, out);
    let places = found.is_some();
    (found.unwrap_or_else(dense), places)
}

/// Whether a pool writes its pixels channels last: where the layouts say so, and where that is no different and worth a copy.
fn writes_pixels(g: &Graph, node: &Node, layouts: &Layouts) -> bool {
    let (Some(x), v) = (node.inputs[0], node.outputs[0]) else { return false };
    match turns(g, v) {
        true => layouts.of(v) == Layout::ChannelsLast,
        false => layouts.of(x) == Layout::ChannelsLast || plain_pool(g, node) > turning(g, x),
    }
}

/// A kernel of the vector families, where one fits. `v` is the cluster's result.
pub(super) fn select(g: &Graph, node: &Node, epilogue: Option<Epilogue>, v: ValueId, layouts: &Layouts) -> Option<Selected> {
    let x = node.inputs.first().copied().flatten()?;
    let out = node.outputs[0];
    let own = layouts.of(x);
    let f32 = g.dtype(x) == DType::F32;
    let selected = |kernel: Kernel, wants: Vec<(ValueId, Layout)>, places: bool| Some(Selected { kernel, wants, places });
    let dense = || layouts.shared(v).is_none() || layouts.is_dense(g, v, layouts.of(v));
    // Rows of an operand, from an axis on: their pitch, and whether the operand must be made dense to have it.
    let rows_of = |v: ValueId, axis: usize| match row_pitch(g, layouts, v, axis) {
        Some(pitch) => (pitch, vec![]),
        None => (product(&g.shape(v)[axis..]), vec![(v, Layout::RowMajor)]),
    };
    match &node.op {
        Op::Conv(op) if packs(g, node) => {
            let w = node.inputs[1]?;
            let dims = &g[w].constant.as_ref()?.dims;
            let kernel: Vec<i64> = dims[2..].iter().map(|d| *d as i64).collect();
            let (k, groups) = (dims[0], op.groups as usize);
            let c = dims[1] * groups;
            let mut strides = layouts.strides(g, x);
            let mut wants = vec![];
            // A first layer of few channels reads its input as it comes; others have channels last from their producer.
            let near = |s: &[Dim]| s[1].is(1) || s.last().is_some_and(|s| s.is(1));
            if layouts.shared(x).is_some() && !(is_forward(g, &strides) && near(&strides)) {
                wants.push((x, own));
                strides = layout::strides(g.shape(x), own);
            }
            if turns(g, x) && !strides[1].is(1) && by_rows(g, node) > turning(g, x) {
                wants = vec![(x, Layout::ChannelsLast)];
                strides = layout::strides(g.shape(x), Layout::ChannelsLast);
            }
            // Channels of a depthwise kernel are read as vectors, so they must be neighbours.
            let neighbours = own == Layout::ChannelsLast || layouts.shared(x).is_some() || !wants.is_empty();
            let method = if groups == c && groups == k && neighbours && strides[1].is(1) { Method::Depthwise } else { Method::Direct };
            let (pitches, places) = pixels(g, layouts, v);
            let window = window(g, (x, out), [&kernel, &op.strides, &op.pads, &op.dilations], &strides, pitches);
            let recipe = Recipe::Conv { c, k, kernel: window.kernel, groups, method };
            let bias = node.inputs.get(2).copied().flatten().map(|v| Packed { value: v, recipe: Recipe::Padded(PANEL) });
            let kernel = Kernel::Conv { window, k, groups, method, x, weights: Packed { value: w, recipe }, bias, epilogue };
            selected(kernel, wants, places)
        }
        Op::ConvInteger(op) if packs(g, node) => {
            let [w, zero] = [node.inputs[1]?, node.inputs[2]?];
            let dims = &g[w].constant.as_ref()?.dims;
            let kernel: Vec<i64> = dims[2..].iter().map(|d| *d as i64).collect();
            let k = dims[0];
            let depthwise = (op.groups > 1).then(|| g.dtype(w) == DType::I16);
            let c = dims[1] * op.groups as usize;
            let mut strides = layouts.strides(g, x);
            let mut wants = vec![(zero, Layout::RowMajor)];
            let near = strides[1].is(1) || c == 1 || (depthwise.is_none() && reads_planes(g, node));
            if !(near && is_forward(g, &strides)) {
                wants.push((x, Layout::ChannelsLast));
                strides = layout::strides(g.shape(x), Layout::ChannelsLast);
            }
            let (pitches, places) = pixels(g, layouts, v);
            let window = window(g, (x, out), [&kernel, &op.strides, &op.pads, &op.dilations], &strides, pitches);
            let recipe = Recipe::IntConv { c, k, kernel: window.kernel, depthwise };
            let weights = Packed { value: w, recipe };
            let zeros = node.inputs.get(3).copied().flatten().map(|v| Packed { value: v, recipe: Recipe::Zeros { n: k } });
            selected(Kernel::IntConv { window, k, depthwise, x, zero, weights, zeros, epilogue }, wants, places)
        }
        Op::MatMulInteger(_) if packs(g, node) => {
            let (k, n) = constant_right(g, node)?;
            let [b, a_zero, b_zero] = [node.inputs[1]?, node.inputs[2]?, node.inputs[3]?];
            let b = Packed { value: b, recipe: Recipe::IntGemm { k, n } };
            // The packed bytes are signed: 128 is what u8 have for zero there.
            let zero = if g.dtype(b_zero) == DType::U8 { 128 } else { 0 };
            let shifted = g[b_zero].constant.as_ref()?.bytes().iter().any(|z| *z != zero);
            let zeros = shifted.then_some(Packed { value: b_zero, recipe: Recipe::Zeros { n } });
            let (a_row, mut wants) = rows_of(x, g.shape(x).len() - 1);
            wants.push((a_zero, Layout::RowMajor));
            let to = row_pitch(g, layouts, v, g.shape(v).len() - 1);
            let places = to.is_some();
            let out_row = to.unwrap_or_else(|| Dim::int(n as i64));
            selected(Kernel::IntGemm { m: rows(g, x), n, k, a: x, a_row, a_zero, out_row, b, zeros, epilogue }, wants, places)
        }
        Op::NarrowMatMul(op) if packs(g, node) => super::narrow::select(g, node, op, epilogue, v, layouts),
        Op::GatherMatMul(_) if packs(g, node) => super::grouped::select(g, node, epilogue, v, layouts),
        Op::MatMul(_) if packs(g, node) => {
            let b = node.inputs[1]?;
            if let Some((k, n)) = constant_right(g, node) {
                let b = Packed { value: b, recipe: Recipe::Gemm { k, n } };
                let (epilogue, bias) = split_bias(g, epilogue, n);
                let (a_row, wants) = rows_of(x, g.shape(x).len() - 1);
                let to = row_pitch(g, layouts, v, g.shape(v).len() - 1);
                let places = to.is_some();
                let out_row = to.unwrap_or_else(|| Dim::int(n as i64));
                return selected(Kernel::Gemm { m: rows(g, x), n, k, a: x, a_row, out_row, b, bias, epilogue }, wants, places);
            }
            let shape = g.shape(out);
            let rank = shape.len();
            let mut wants = vec![];
            let mut operand = |v: ValueId| {
                let s = g.shape(v);
                let mut steps = layouts.strides(g, v);
                // Packing reads along rows or columns.
                let near = s[s.len() - 2..].iter().zip(&steps[s.len() - 2..]).any(|(d, s)| d.is(1) || s.is(1));
                if !(is_forward(g, &steps) && near) {
                    wants.push((v, Layout::RowMajor));
                    steps = layout::strides(s, Layout::RowMajor);
                }
                let mut strides = vec![Stride::none(); rank];
                for (i, d) in s.iter().enumerate() {
                    let axis = rank - s.len() + i;
                    if axis >= rank - 2 || !d.is(1) {
                        strides[axis] = match axis < rank - 2 && *d != shape[axis] {
                            true => Stride::Unless1 { extent: d.clone(), stride: steps[i].clone() },
                            false => Stride::By(steps[i].clone()),
                        };
                    }
                }
                Operand { value: v, strides }
            };
            let (a, right) = (operand(x), operand(b));
            let mut to = layouts.strides(g, v);
            let places = is_forward(g, &to) && to.last().is_some_and(|s| s.is(1) || shape[rank - 1].is(1));
            if !places {
                // Extents that nothing shows to be forward, such as that of a slice between two computed bounds, are so as they are read.
                to = layout::strides(shape, Layout::RowMajor);
            }
            to.pop();
            let kernel = Kernel::MatMul {
                batch: shape[..rank - 2].to_vec(),
                m: shape[rank - 2].clone(),
                n: shape[rank - 1].clone(),
                k: g.shape(x).last()?.clone(),
                a,
                b: right,
                to,
                epilogue,
            };
            selected(kernel, wants, places)
        }
        Op::Pool(p) if pools(g, node) && writes_pixels(g, node, layouts) => {
            let kind = match p.mode {
                "max" => "Max",
                "average" => "Mean",
                _ => "MeanPadded",
            };
            let mut strides = layouts.strides(g, x);
            let mut wants = vec![];
            if !(strides[1].is(1) && is_forward(g, &strides)) {
                wants.push((x, Layout::ChannelsLast));
                strides = layout::strides(g.shape(x), Layout::ChannelsLast);
            }
            let (pitches, places) = pixels(g, layouts, v);
            let window = window(g, (x, out), [&p.kernel, &p.strides, &p.pads, &p.dilations], &strides, pitches);
            selected(Kernel::Pool { window, kind, x }, wants, places)
        }
        Op::Reduce(r) if f32 && r.mode == "mean" && own == Layout::ChannelsLast && r.axes == (2..g.shape(x).len()).collect::<Vec<_>>() => {
            let shape = g.shape(x);
            let pixels = product(&shape[2..]);
            let (pitches, wants) = match pixel_pitch(g, layouts, x) {
                Some(pitches) => (pitches, vec![]),
                None => ((shape[1].clone(), pixels.clone() * shape[1].clone()), vec![(x, own)]),
            };
            let (x_pitch, x_batch) = pitches;
            let kernel = Kernel::GlobalMean { n: shape[0].clone(), pixels, c: shape[1].clone(), x, x_pitch, x_batch };
            selected(kernel, wants, dense())
        }
        Op::InstanceNorm(_) | Op::GroupNorm(_) if norms_pixels(g, node) => {
            let shape = g.shape(x);
            let pixels = product(&shape[2..]);
            let (epsilon, groups, channels) = match &node.op {
                Op::GroupNorm(n) => (n.epsilon.get(), Dim::int(n.groups as i64), n.channels(shape)?),
                Op::InstanceNorm(n) => (n.epsilon.get(), shape[1].clone(), Dim::int(1)),
                _ => return None,
            };
            let (x_steps, mut wants) = match pixel_pitch(g, layouts, x) {
                Some((pitch, batch)) => ([pitch, batch], vec![]),
                None => ([shape[1].clone(), pixels.clone() * shape[1].clone()], vec![(x, Layout::ChannelsLast)]),
            };
            let [scale, bias] = [node.inputs[1]?, node.inputs[2]?];
            wants.extend([scale, bias].map(|v| (v, Layout::RowMajor)));
            let ((pitch, batch), places) = self::pixels(g, layouts, v);
            let sizes = [shape[0].clone(), pixels, groups, channels];
            let kernel = Kernel::PixelNorm { epsilon, sizes, x, x_steps, out_steps: [pitch, batch], scale, bias, epilogue };
            selected(kernel, wants, places)
        }
        Op::Lrn(l) if responds(g, node) && layouts.of(v) == Layout::ChannelsLast => {
            let shape = g.shape(x);
            let (pixels, c) = (product(&shape[2..]), shape[1].clone());
            let ((x_pitch, x_batch), wants) = match pixel_pitch(g, layouts, x) {
                Some(steps) => (steps, vec![]),
                None => ((c.clone(), pixels.clone() * c.clone()), vec![(x, Layout::ChannelsLast)]),
            };
            let ((out_pitch, out_batch), places) = self::pixels(g, layouts, v);
            let kernel = Kernel::Response {
                size: l.size as usize,
                parameters: [(f64::from(l.alpha.get()) / l.size as f64) as f32, l.beta.get(), l.bias.get()],
                sizes: [shape[0].clone(), pixels, c],
                x,
                x_steps: [x_pitch, x_batch],
                out_steps: [out_pitch, out_batch],
            };
            selected(kernel, wants, places)
        }
        Op::Softmax(s) if f32 && s.mode != "hardmax" => {
            let kernel = Kernel::Softmax { dims: around(g.shape(x), s.axis), log: s.mode == "log_softmax", x };
            selected(kernel, vec![(x, Layout::RowMajor)], dense())
        }
        Op::Attend(op) if f32 => super::attend::select(g, node, op, v, layouts),
        Op::TreeEnsemble(op) => super::trees::select(g, node, op, v, layouts),
        Op::Rotary(op) if f32 => super::rotary::select(g, node, op, v, layouts),
        Op::Resize(r) => {
            if let Some(parts) = r.copies(g.shape(x), g.shape(out)) {
                return selected(moves(g, node, &parts, layouts), vec![], true);
            }
            if !resizes_images(g, node, r) {
                return None;
            }
            let (from, to) = (three(&g.shape(x)[2..], Dim::int(1)), three(&g.shape(out)[2..], Dim::int(1)));
            let [n, c] = [0, 1].map(|i| g.shape(x)[i].clone());
            let [_, height, width] = from;
            let [_, to_height, to_width] = to;
            let (pixels, result) = (height.clone() * width.clone(), to_height.clone() * to_width.clone());
            let scales: Vec<f32> = r.scales[2..].iter().map(|s| s.get()).collect();
            let [_, vertical, horizontal] = three(&scales, 1.0);
            let rows = layouts.of(v) != Layout::ChannelsLast;
            let (images, channels) = if rows { (n * c.clone(), Dim::int(1)) } else { (n, c.clone()) };
            let (x_steps, wants) = match (rows, pixel_pitch(g, layouts, x)) {
                (true, _) => ((Dim::int(1), pixels), vec![(x, Layout::RowMajor)]),
                (false, Some(steps)) => (steps, vec![]),
                (false, None) => ((c.clone(), pixels * c), vec![(x, Layout::ChannelsLast)]),
            };
            let (out_steps, places) = if rows { ((Dim::int(1), result), dense()) } else { self::pixels(g, layouts, v) };
            let kernel = Kernel::Resize {
                words: [r.mode, r.coordinates, r.nearest],
                cubic: r.cubic.get(),
                exclude: r.exclude,
                scales: [vertical, horizontal],
                sizes: [images, height, width, to_height, to_width, channels],
                x,
                x_steps: x_steps.into(),
                out_steps: out_steps.into(),
            };
            selected(kernel, wants, places)
        }
        _ => None,
    }
}

/// Takes a constant added first, one for each column, out of the tail: accumulators start from it at no cost.
pub(super) fn split_bias(g: &Graph, epilogue: Option<Epilogue>, n: usize) -> (Option<Epilogue>, Option<Packed>) {
    use crate::kernel::{Binary, Expr, Scalar};
    let Some(mut e) = epilogue else { return (None, None) };
    let users = |e: &Expr, i: u32| e.code.iter().filter(|(s, _)| crate::kernel::operands(*s).iter().any(|a| a.0 == i)).count();
    let found = e.operands.iter().enumerate().find_map(|(k, o)| {
        g[o.value].constant.as_ref().filter(|t| t.dtype == DType::F32 && t.len() == n && o.strides[0].is(0))?;
        let at = |i: u32| e.expr.code.iter().position(|(s, _)| *s == Scalar::In(i)).map(|p| p as u32);
        let (x, b) = (at(0)?, at(k as u32 + 1)?);
        let add = e.expr.code.iter().position(|(s, _)| match s {
            Scalar::Binary(Binary::Add, p, q) => (p.0, q.0) == (x, b) || (p.0, q.0) == (b, x),
            _ => false,
        })?;
        let stored = |i: u32| e.expr.results.iter().any(|r| r.0 == i);
        (users(&e.expr, x) == 1 && users(&e.expr, b) == 1 && !stored(x) && !stored(b)).then_some((k, add, x))
    });
    let Some((k, add, x)) = found else { return (Some(e), None) };
    let bias = Packed { value: e.operands[k].value, recipe: Recipe::Padded(PANEL) };
    // The sum becomes the kernel's result itself.
    let mut expr = Expr::default();
    let mut map: Vec<crate::kernel::At> = Vec::new();
    for (i, &(s, ty)) in e.expr.code.iter().enumerate() {
        let m = |a: crate::kernel::At| map[a.0 as usize];
        let at = if i == add {
            map[x as usize]
        } else {
            let s = match s {
                Scalar::In(j) if j as usize > k + 1 => Scalar::In(j - 1),
                Scalar::In(_) | Scalar::Const(_) => s,
                Scalar::Unary(f, a) => Scalar::Unary(f, m(a)),
                Scalar::Binary(f, a, b) => Scalar::Binary(f, m(a), m(b)),
                Scalar::Select(c, a, b) => Scalar::Select(m(c), m(a), m(b)),
                Scalar::Cast(a) => Scalar::Cast(m(a)),
            };
            if matches!(s, Scalar::In(j) if j as usize == k + 1) && matches!(e.expr.code[i].0, Scalar::In(j) if j as usize == k + 1) {
                // The bias itself is no input any more; nothing but the sum read it.
                crate::kernel::At(0)
            } else {
                expr.push(s, ty)
            }
        };
        map.push(at);
    }
    expr.results = e.expr.results.iter().map(|r| map[r.0 as usize]).collect();
    e.operands.remove(k);
    e.expr = expr.pruned();
    let trivial = e.stored.is_empty() && e.expr.code.len() == 1 && matches!(e.expr.code[0].0, Scalar::In(0));
    ((!trivial).then_some(e), Some(bias))
}
