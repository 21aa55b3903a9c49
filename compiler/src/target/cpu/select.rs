//! The kernel of a cluster on the CPU.

use super::{constant_right, packs, pools, rows, tail_operand};
use crate::eval;
use crate::fusion::{Cluster, Tail};
use crate::ir::{Dim, Graph, Node, NodeId, ValueId, product};
use crate::kernel::{Copy, Epilogue, Kernel, Operand, Packed, Recipe, Stride, Window};
use crate::layout::{self, Layout, Layouts};
use crate::ops::{Affine, Lowering, Op, Part, reduce::around};
use kiln_kernels::dtype::DType;
use kiln_kernels::gemm::PANEL;

/// A kernel, and the operands that must be row-major for it whatever their producer would like.
type Selected = (Kernel, Vec<(ValueId, Layout)>);

/// Chooses the kernel of a cluster. The second part lists the layouts in which it reads operands.
pub fn select(g: &Graph, c: &Cluster, layouts: &Layouts) -> Selected {
    let result = c.outputs.first().map_or(Layout::RowMajor, |v| layout::of(layouts, *v));
    let Some(anchor) = c.anchor else {
        return match &c.tail {
            Some(t) => map(g, t, c.outputs[0], layouts),
            None => (Kernel::Move { copies: vec![], dtype: DType::F32 }, vec![]),
        };
    };
    let node = &g[anchor];
    let epilogue = c.tail.as_ref().map(|t| epilogue(g, anchor, t));
    let mut wants: Vec<(ValueId, Layout)> = Vec::new();
    if let (Some(t), Op::Conv(_)) = (&c.tail, &node.op) {
        // Full operands of a convolution's tail are read pixel by pixel, as the result is written.
        for v in &t.inputs[1..] {
            let same = g.shape(*v) == g.shape(c.outputs[0]);
            wants.push((*v, if same { result } else { Layout::RowMajor }));
        }
    } else if let Some(t) = &c.tail {
        wants.extend(t.inputs[1..].iter().map(|v| (*v, Layout::RowMajor)));
    }
    if let Some((kernel, more)) = vectorised(g, node, epilogue, layouts, result) {
        wants.extend(more);
        return (kernel, wants);
    }
    let facts = eval::facts(g, &node.inputs, &node.outputs);
    match (&node.op, node.op.lower(&facts)) {
        (_, Lowering::Move(parts)) => {
            // Copies read any layout, and write the one chosen for the result.
            let wants = node.inputs.iter().flatten().map(|v| (*v, layout::of(layouts, *v))).collect();
            let copies = parts.iter().map(|p| copy(g, node, p, layouts)).collect();
            (Kernel::Move { copies, dtype: g.dtype(node.outputs[0]) }, wants)
        }
        (Op::Host(h), _) => (Kernel::Host(h.clone()), vec![]),
        (_, Lowering::Dims) => {
            let elements = g[node.outputs[0]].fact.dims.clone().unwrap_or_default();
            (Kernel::Dims { elements, dtype: g.dtype(node.outputs[0]) }, vec![])
        }
        (_, Lowering::Call(call)) => (Kernel::Call(call), node.inputs.iter().flatten().map(|v| (*v, Layout::RowMajor)).collect()),
        // Views and blocks are handled by the schedule before kernels are selected.
        _ => (Kernel::Move { copies: vec![], dtype: DType::F32 }, vec![]),
    }
}

/// The copy that brings a value from one layout to another.
pub fn relayout(g: &Graph, v: ValueId, from: Layout, to: Layout) -> Kernel {
    let shape = g.shape(v).to_vec();
    let copy = Copy {
        input: 0,
        output: 0,
        from: layout::strides(&shape, from),
        to: layout::strides(&shape, to),
        dims: shape,
        from_start: Dim::int(0),
        to_start: Dim::int(0),
    };
    Kernel::Move { copies: vec![copy], dtype: g.dtype(v) }
}

fn copy(g: &Graph, node: &Node, p: &Part, layouts: &Layouts) -> Copy {
    let x = node.inputs[p.input];
    let steps = |v: Option<ValueId>, index: &[Affine]| -> (Vec<Dim>, Dim) {
        let s = v.map_or(vec![], |v| layout::strides(g.shape(v), layout::of(layouts, v)));
        let (mut by, mut start) = (vec![Dim::int(0); p.dims.len()], Dim::int(0));
        for (a, s) in index.iter().zip(s) {
            start = start + a.start.clone() * s.clone();
            if let Some((axis, step)) = a.axis {
                by[axis] = by[axis].clone() + s * Dim::int(step);
            }
        }
        (by, start)
    };
    let (from, from_start) = steps(x, &p.from);
    let (to, to_start) = steps(Some(node.outputs[p.output]), &p.to);
    Copy { input: p.input, output: p.output, dims: p.dims.clone(), from, from_start, to, to_start }
}

fn epilogue(g: &Graph, anchor: NodeId, t: &Tail) -> Epilogue {
    let operands = t.inputs[1..].iter().map(|v| Operand { value: *v, strides: tail_operand(g, anchor, *v).unwrap_or_default() }).collect();
    Epilogue { expr: t.expr.clone(), operands }
}

/// The pointwise kernel of a tail: axes in the order of the result's memory, neighbours merged where every operand allows it.
fn map(g: &Graph, t: &Tail, out: ValueId, layouts: &Layouts) -> Selected {
    let shape = g.shape(out);
    let result = layout::of(layouts, out);
    let order: Vec<usize> = match result {
        Layout::RowMajor => (0..shape.len()).collect(),
        Layout::ChannelsLast => std::iter::once(0).chain(2..shape.len()).chain(std::iter::once(1)).collect(),
    };
    let mut meets = Vec::new();
    let mut operands: Vec<Operand> = Vec::new();
    for v in &t.inputs {
        let own = g.shape(*v);
        let steps = layout::strides(own, layout::of(layouts, *v));
        let skip = shape.len() - own.len();
        let strides = order
            .iter()
            .map(|&axis| {
                if axis < skip || own[axis - skip].is(1) {
                    return Stride::none();
                }
                let (extent, stride) = (own[axis - skip].clone(), steps[axis - skip].clone());
                if extent == shape[axis] {
                    return Stride::By(stride);
                }
                meets.push((extent.clone(), shape[axis].clone()));
                Stride::Unless1 { extent, stride }
            })
            .collect();
        operands.push(Operand { value: *v, strides });
    }
    let mut dims: Vec<Dim> = order.iter().map(|a| shape[*a].clone()).collect();
    for axis in (0..dims.len()).rev() {
        if dims[axis].is(1) {
            dims.remove(axis);
            operands.iter_mut().for_each(|o| {
                o.strides.remove(axis);
            });
        }
    }
    let mut axis = dims.len().saturating_sub(1);
    while axis > 0 {
        let joins = operands.iter().all(|o| match (&o.strides[axis - 1], &o.strides[axis]) {
            (Stride::By(outer), Stride::By(inner)) => *outer == inner.clone() * dims[axis].clone(),
            _ => false,
        });
        if joins {
            dims[axis - 1] = dims[axis - 1].clone() * dims[axis].clone();
            dims.remove(axis);
            operands.iter_mut().for_each(|o| {
                let inner = o.strides.remove(axis);
                o.strides[axis - 1] = inner;
            });
        }
        axis -= 1;
    }
    let wants = t.inputs.iter().map(|v| (*v, layout::of(layouts, *v))).collect();
    (Kernel::Map { expr: t.expr.clone(), dims, operands, meets }, wants)
}

/// Extents and attributes of up to three spatial axes, in the last places of three.
fn three<T: Clone>(v: &[T], fill: T) -> [T; 3] {
    let mut out = [fill.clone(), fill.clone(), fill];
    for (o, x) in out[3 - v.len()..].iter_mut().zip(v) {
        *o = x.clone();
    }
    out
}

fn window(
    g: &Graph,
    x: ValueId,
    out: ValueId,
    kernel: &[i64],
    stride: &[i64],
    pads: &[i64],
    dilation: &[i64],
    layouts: &Layouts,
) -> Window {
    let (shape, result) = (g.shape(x), g.shape(out));
    let u = |v: &[i64], fill: usize| three(&v.iter().map(|x| *x as usize).collect::<Vec<_>>(), fill);
    let s = layout::strides(shape, layout::of(layouts, x));
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
    }
}

/// A kernel of the vector families, where one fits.
fn vectorised(g: &Graph, node: &Node, epilogue: Option<Epilogue>, layouts: &Layouts, result: Layout) -> Option<Selected> {
    let x = node.inputs.first().copied().flatten()?;
    let out = node.outputs[0];
    let own = layout::of(layouts, x);
    let f32 = g.dtype(x) == DType::F32;
    match &node.op {
        Op::Conv(op) if packs(g, node) => {
            let w = node.inputs[1]?;
            let dims = &g[w].constant.as_ref()?.dims;
            let kernel: Vec<i64> = dims[2..].iter().map(|d| *d as i64).collect();
            let (k, groups) = (dims[0], op.groups as usize);
            let c = dims[1] * groups;
            // Channels of a depthwise kernel are read as vectors, so they must be neighbours.
            let depthwise = groups == c && groups == k && own == Layout::ChannelsLast;
            let window = window(g, x, out, &kernel, &op.strides, &op.pads, &op.dilations, layouts);
            let recipe = Recipe::Conv { c, k, kernel: window.kernel, groups, depthwise };
            let bias = node.inputs.get(2).copied().flatten().map(|v| Packed { value: v, recipe: Recipe::Padded(PANEL) });
            // A first layer of few channels reads its input as it comes; others ask for channels last from their producer.
            let kernel = Kernel::Conv { window, k, groups, depthwise, x, weights: Packed { value: w, recipe }, bias, epilogue };
            Some((kernel, vec![(x, own)]))
        }
        Op::MatMul(_) if packs(g, node) => {
            let b = node.inputs[1]?;
            if let Some((k, n)) = constant_right(g, node) {
                let b = Packed { value: b, recipe: Recipe::Gemm { k, n } };
                let (epilogue, bias) = split_bias(g, epilogue, n);
                return Some((Kernel::Gemm { m: rows(g, x), n, k, a: x, b, bias, epilogue }, vec![(x, Layout::RowMajor)]));
            }
            let (a_shape, b_shape, shape) = (g.shape(x), g.shape(b), g.shape(out));
            let rank = shape.len();
            let operand = |v: ValueId, s: &[Dim]| {
                let steps = layout::strides(s, Layout::RowMajor);
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
            let kernel = Kernel::MatMul {
                batch: shape[..rank - 2].to_vec(),
                m: shape[rank - 2].clone(),
                n: shape[rank - 1].clone(),
                k: a_shape[a_shape.len() - 1].clone(),
                a: operand(x, a_shape),
                b: operand(b, b_shape),
                epilogue,
            };
            Some((kernel, vec![(x, Layout::RowMajor), (b, Layout::RowMajor)]))
        }
        Op::Pool(p) if pools(g, node) && own == Layout::ChannelsLast && result == Layout::ChannelsLast => {
            let kind = match p.mode {
                "max" => "Max",
                "average" => "Mean",
                _ => "MeanPadded",
            };
            let window = window(g, x, out, &p.kernel, &p.strides, &p.pads, &p.dilations, layouts);
            Some((Kernel::Pool { window, kind, x }, vec![(x, own)]))
        }
        Op::Reduce(r) if f32 && r.mode == "mean" && own == Layout::ChannelsLast => {
            let shape = g.shape(x);
            (r.axes == (2..shape.len()).collect::<Vec<_>>()).then(|| {
                let kernel = Kernel::GlobalMean { n: shape[0].clone(), pixels: product(&shape[2..]), c: shape[1].clone(), x };
                (kernel, vec![(x, own)])
            })
        }
        Op::Softmax(s) if f32 && s.mode != "hardmax" => {
            let kernel = Kernel::Softmax { dims: around(g.shape(x), s.axis), log: s.mode == "log_softmax", x };
            Some((kernel, vec![(x, Layout::RowMajor)]))
        }
        Op::Attend(op) if f32 => {
            let wants = node.inputs.iter().flatten().map(|v| (*v, Layout::RowMajor)).collect();
            Some((super::attend::kernel(g, node, op)?, wants))
        }
        Op::LayerNorm(l) if f32 && node.outputs.len() == 1 && (l.centred || node.inputs.get(2).copied().flatten().is_none()) => {
            let shape = g.shape(x);
            let (scale, bias) = (node.inputs[1]?, node.inputs.get(2).copied().flatten());
            let kernel = Kernel::LayerNorm {
                rows: product(&shape[..l.axis]),
                n: product(&shape[l.axis..]),
                epsilon: l.epsilon.get(),
                centred: l.centred,
                x,
                scale,
                bias,
            };
            let mut wants = vec![(x, Layout::RowMajor), (scale, Layout::RowMajor)];
            wants.extend(bias.map(|b| (b, Layout::RowMajor)));
            Some((kernel, wants))
        }
        Op::Resize(r) => {
            let parts = r.copies(g.shape(x), g.shape(out))?;
            let copies = parts.iter().map(|p| copy(g, node, p, layouts)).collect();
            Some((Kernel::Move { copies, dtype: g.dtype(out) }, vec![(x, own)]))
        }
        _ => None,
    }
}

/// Takes a constant added first, one for each column, out of the tail: accumulators start from it at no cost.
fn split_bias(g: &Graph, epilogue: Option<Epilogue>, n: usize) -> (Option<Epilogue>, Option<Packed>) {
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
        (users(&e.expr, x) == 1 && users(&e.expr, b) == 1).then_some((k, add, x))
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
    let trivial = e.expr.code.len() == 1 && matches!(e.expr.code[0].0, Scalar::In(0));
    ((!trivial).then_some(e), Some(bias))
}
