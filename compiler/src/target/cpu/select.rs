//! The kernel of a cluster on the CPU: a vector kernel where one fits, else the plain lowering.

use super::orders;
use super::reach::tail_steps;
use super::{rowwise, tail_operand, tiled};
use crate::eval;
use crate::fusion::{Cluster, Tail};
use crate::ir::{Dim, Graph, Node, NodeId, ValueId, product};
use crate::kernel::{Copy, Epilogue, Kernel, Operand, Stride};
use crate::layout::{self, Access, Layout, Layouts, is_forward};
use crate::ops::{Affine, Lowering, Op, Part};
use kiln_kernels::dtype::DType;

/// A kernel, and what it asks of memory.
pub struct Selected {
    /// The kernel.
    pub kernel: Kernel,
    /// Operands whose elements must lie side by side in a layout, because the kernel knows no strides for them or none that pay.
    pub wants: Vec<(ValueId, Layout)>,
    /// Whether it writes its results where the layouts have them.
    pub places: bool,
}

impl Selected {
    fn new(kernel: Kernel, wants: Vec<(ValueId, Layout)>, places: bool) -> Selected {
        Selected { kernel, wants, places }
    }
}

/// Views of at most this many elements are read with any strides: starting a copy would take longer.
const SMALL: i64 = 4096;

/// Chooses the kernel of a cluster.
pub fn select(g: &Graph, c: &Cluster, layouts: &Layouts) -> Selected {
    let result = c.outputs.first().map_or(Layout::RowMajor, |v| layouts.of(*v));
    let Some(anchor) = c.anchor else {
        return match &c.tail {
            Some(t) => map(g, t, &c.outputs, layouts),
            None => Selected::new(nothing(), vec![], true),
        };
    };
    let node = &g[anchor];
    let mut wants: Vec<(ValueId, Layout)> = Vec::new();
    if let Some(s) = rowwise::select(g, c, node, layouts) {
        return s;
    }
    let mut places = true;
    let epilogue = c.tail.as_ref().map(|t| epilogue(g, anchor, t, &c.outputs, layouts, (&mut wants, &mut places)));
    if let Some(mut s) = tiled::select(g, node, epilogue, c.outputs[0], layouts) {
        s.wants.extend(wants);
        s.places &= places;
        return s;
    }
    let facts = eval::facts(g, &node.inputs, &node.outputs);
    let dense = || c.outputs.iter().all(|v| layouts.shared(*v).is_none() || layouts.is_dense(g, *v, result));
    let all = || node.inputs.iter().flatten().map(|v| (*v, Layout::RowMajor)).collect();
    match (&node.op, node.op.lower(&facts)) {
        (_, Lowering::Move(parts)) => Selected::new(moves(g, node, &parts, layouts), vec![], true),
        (Op::Host(h), _) => Selected::new(Kernel::Host(h.clone()), all(), false),
        (Op::Calibrate(_), _) => {
            let x = node.inputs[0];
            let kernel = x.map(|x| Kernel::Calibrate { x, n: product(g.shape(x)) });
            Selected::new(kernel.unwrap_or_else(nothing), all(), dense())
        }
        (_, Lowering::Dims) => {
            let elements = g[node.outputs[0]].fact.dims.clone().unwrap_or_default();
            Selected::new(Kernel::Dims { elements, dtype: g.dtype(node.outputs[0]) }, vec![], dense())
        }
        (_, Lowering::View) => {
            let kernel = flat(g, node, layouts);
            let places = kernel.is_some();
            Selected::new(kernel.unwrap_or_else(nothing), vec![], places)
        }
        (_, Lowering::Call(call)) => Selected::new(Kernel::Call(call), all(), dense()),
        // Blocks are handled by the schedule.
        _ => Selected::new(nothing(), vec![], false),
    }
}

/// No copies at all.
fn nothing() -> Kernel {
    Kernel::Move { copies: vec![], dtype: DType::F32 }
}

/// The copy that brings a value to a layout.
pub fn relayout(g: &Graph, v: ValueId, layouts: &Layouts, to: Layout) -> Kernel {
    let shape = g.shape(v).to_vec();
    let copy = Copy {
        input: 0,
        output: 0,
        from: layouts.strides(g, v),
        to: layout::strides(&shape, to),
        dims: shape,
        from_start: Dim::int(0),
        to_start: Dim::int(0),
    };
    Kernel::Move { copies: vec![copy], dtype: g.dtype(v) }
}

/// Copies of regions; they read any layout, and write the one chosen for the result.
pub(super) fn moves(g: &Graph, node: &Node, parts: &[Part], layouts: &Layouts) -> Kernel {
    let copies = parts.iter().filter_map(|p| copy(g, node, p, layouts)).collect();
    Kernel::Move { copies, dtype: g.dtype(node.outputs[0]) }
}

/// A Reshape as a copy: the operand's elements, in the order of its axes, to where they lie in the result.
fn flat(g: &Graph, node: &Node, layouts: &Layouts) -> Option<Kernel> {
    let (x, out) = (node.inputs[0]?, node.outputs[0]);
    let (from, result) = (layouts.access(g, x), layouts.access(g, out));
    let shape = g.shape(x);
    let to = match layouts.is_dense(g, out, Layout::RowMajor) {
        true => layout::strides(shape, Layout::RowMajor),
        false => layout::reshape(g.shape(out), &result.strides, shape)?,
    };
    let (mut dims, mut steps) = (shape.to_vec(), (from.strides.clone(), to));
    if layouts.is_dense(g, x, Layout::RowMajor) && layouts.is_dense(g, out, Layout::RowMajor) {
        (dims, steps) = (vec![product(g.shape(out))], (vec![Dim::int(1)], vec![Dim::int(1)]));
    }
    let zero = Dim::int(0);
    let copy = Copy { input: 0, output: 0, dims, from: steps.0, from_start: zero.clone(), to: steps.1, to_start: zero };
    let copies = if itself(&copy, &from, &result) { vec![] } else { vec![copy] };
    Some(Kernel::Move { copies, dtype: g.dtype(out) })
}

/// Whether a copy reads every element where it writes it.
fn itself(c: &Copy, from: &Access, to: &Access) -> bool {
    let (x, out) = (from.start.clone() + c.from_start.clone(), to.start.clone() + c.to_start.clone());
    from.of == to.of && x == out && c.dims.iter().zip(c.from.iter().zip(&c.to)).all(|(d, (a, b))| d.is(1) || a == b)
}

/// A part as a copy; `None` where the part already is where it belongs.
fn copy(g: &Graph, node: &Node, p: &Part, layouts: &Layouts) -> Option<Copy> {
    let steps = |a: &Access, index: &[Affine]| -> (Vec<Dim>, Dim) {
        let (mut by, mut start) = (vec![Dim::int(0); p.dims.len()], Dim::int(0));
        for (a, s) in index.iter().zip(&a.strides) {
            start = start + a.start.clone() * s.clone();
            if let Some((axis, step)) = a.axis {
                by[axis] = by[axis].clone() + s.clone() * Dim::int(step);
            }
        }
        (by, start)
    };
    let (x, out) = (layouts.access(g, node.inputs[p.input]?), layouts.access(g, node.outputs[p.output]));
    let ((from, from_start), (to, to_start)) = (steps(&x, &p.from), steps(&out, &p.to));
    let copy = Copy { input: p.input, output: p.output, dims: p.dims.clone(), from, from_start, to, to_start };
    (!itself(&copy, &x, &out)).then_some(copy)
}

/// A tail with the steps of its operands and of what it stores beside the kernel's own result. Operands that have none as they lie must be
/// dense; so are, where they have none, the values it stores, and not where the layouts have them.
fn epilogue(
    g: &Graph,
    anchor: NodeId,
    t: &Tail,
    outputs: &[ValueId],
    layouts: &Layouts,
    (wants, places): (&mut Vec<(ValueId, Layout)>, &mut bool),
) -> Epilogue {
    let out = outputs[0];
    let mut operands = Vec::new();
    for &v in &t.inputs[1..] {
        let shared = layouts.shared(v).and_then(|_| tail_steps(g, anchor, v, layouts));
        if shared.is_none() {
            // Full operands of a tail over pixels are read pixel by pixel, as the result is written.
            let pixels = matches!(g[anchor].op, Op::Conv(_) | Op::ConvInteger(_) | Op::InstanceNorm(_) | Op::GroupNorm(_));
            let same = pixels && g.shape(v) == g.shape(out);
            wants.push((v, if same { layouts.of(out) } else { Layout::RowMajor }));
        }
        let strides = shared.or_else(|| tail_operand(g, anchor, v)).unwrap_or_default();
        operands.push(Operand { value: v, strides });
    }
    let mut stored = |&v: &ValueId| {
        let steps = tail_steps(g, anchor, v, layouts);
        *places &= steps.is_some();
        Operand { value: v, strides: steps.or_else(|| tail_operand(g, anchor, v)).unwrap_or_default() }
    };
    // Elements of other sizes than the sums' cannot take their place.
    let first = (g.dtype(out).size() != g.dtype(g[anchor].outputs[0]).size()).then(|| stored(&out));
    Epilogue { expr: t.expr.clone(), first, operands, stored: outputs[1..].iter().map(&mut stored).collect() }
}

/// The axes of a result in the order of its memory.
fn memory_order(shape: &[Dim], layout: Layout, access: Option<&Access>) -> Vec<usize> {
    let mut order = layout::order(shape.len(), layout);
    let steps: Option<Vec<i64>> = access.and_then(|a| a.strides.iter().map(Dim::as_int).collect());
    if let Some(steps) = steps {
        // Axes of one element may have any step.
        order.retain(|i| !shape[*i].is(1));
        order.sort_by_key(|i| std::cmp::Reverse(steps[*i]));
    }
    order
}

/// The operands of an expression over a shape, with a step for each of its axes in an `order`. Adds extents that must meet at run time to
/// `meets`, and those that are better copied first to `wants`: views, and values in another order than the result's, which is `to`.
pub(super) fn operands(
    g: &Graph,
    inputs: &[ValueId],
    (shape, order, to): (&[Dim], &[usize], Layout),
    layouts: &Layouts,
    meets: &mut Vec<(Dim, Dim)>,
    wants: &mut Vec<(ValueId, Layout)>,
) -> Vec<Operand> {
    let inner = order.iter().rev().find(|i| !shape[**i].is(1));
    let mut operands: Vec<Operand> = Vec::new();
    for v in inputs {
        let own = g.shape(*v);
        let skip = shape.len() - own.len();
        let mut steps = layouts.strides(g, *v);
        let few = product(own).as_int().is_some_and(|n| n <= SMALL);
        let near = inner.is_none_or(|i| *i < skip || own[*i - skip].is(1) || steps[*i - skip].is(0) || steps[*i - skip].is(1));
        let reads = is_forward(g, &steps) && (few || near || !layouts.is_view(*v));
        let copied = match layouts.shared(*v) {
            Some(_) => (!reads).then(|| layouts.of(*v)),
            None => (!near && own.len() == shape.len() && orders::apart(g, *v)).then_some(to),
        };
        if let Some(layout) = copied {
            wants.push((*v, layout));
            steps = layout::strides(own, layout);
        }
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
    operands
}

/// Drops axes of one element, and joins neighbours that every operand steps through as if they were one axis; never across `outer`, the
/// number of axes before a border. Gives what that number has become.
pub(super) fn join(dims: &mut Vec<Dim>, operands: &mut [Operand], mut outer: usize) -> usize {
    for axis in (0..dims.len()).rev().filter(|i| dims[*i].is(1)).collect::<Vec<_>>() {
        dims.remove(axis);
        operands.iter_mut().for_each(|o| drop(o.strides.remove(axis)));
        outer -= usize::from(axis < outer);
    }
    for axis in (1..dims.len()).rev() {
        let joins = axis != outer
            && operands.iter().all(|o| match (&o.strides[axis - 1], &o.strides[axis]) {
                (Stride::By(outer), Stride::By(inner)) => *outer == inner.clone() * dims[axis].clone(),
                _ => false,
            });
        if joins {
            dims[axis - 1] = dims[axis - 1].clone() * dims.remove(axis);
            operands.iter_mut().for_each(|o| {
                let inner = o.strides.remove(axis);
                o.strides[axis - 1] = inner;
            });
            outer -= usize::from(axis < outer);
        }
    }
    outer
}

/// The pointwise kernel of a tail: axes in the order of the first result's memory, neighbours merged where every operand and result allows
/// it.
fn map(g: &Graph, t: &Tail, outputs: &[ValueId], layouts: &Layouts) -> Selected {
    let out = outputs[0];
    let shape = g.shape(out);
    let order = memory_order(shape, layouts.of(out), layouts.shared(out));
    let (mut meets, mut wants) = (Vec::new(), Vec::new());
    let mut all = operands(g, &t.inputs, (shape, &order, layouts.of(out)), layouts, &mut meets, &mut wants);
    let count = all.len();
    all.extend(outputs.iter().map(|v| {
        let steps = layouts.strides(g, *v);
        Operand { value: *v, strides: order.iter().map(|a| Stride::By(steps[*a].clone())).collect() }
    }));
    let mut dims: Vec<Dim> = order.iter().map(|a| shape[*a].clone()).collect();
    join(&mut dims, &mut all, 0);
    let steps = |o: Operand| o.strides.into_iter().filter_map(|s| if let Stride::By(d) = s { Some(d) } else { None }).collect();
    let to: Vec<Vec<Dim>> = all.split_off(count).into_iter().map(steps).collect();
    let places = to.iter().all(|to| is_forward(g, to) && to.last().is_none_or(|s| s.is(1)));
    Selected::new(Kernel::Map { expr: t.expr.clone(), dims, operands: all, to, meets }, wants, places)
}
