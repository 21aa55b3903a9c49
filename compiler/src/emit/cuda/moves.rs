//! Kernels with a thread for each element on a GPU: pointwise maps, copies, turned rows, and extents.

use super::super::Printer;
use super::super::expr::cuda as expr;
use super::rows::index;
use super::sheet::Sheet;
use super::windows::THREADS;
use super::{Kernels, Launch};
use crate::ir::{Dim, ValueId, product};
use crate::kernel::{Copy, Kernel, Stride};
use crate::plan::KernelStep;
use kiln_kernels::dtype::DType;
use quote::quote;
use std::fmt::Write;

/// Statements that find the indices `a0`, `a1` .. of the axes from `q`.
pub(super) fn indices(s: &mut Sheet<'_>, dims: &[Dim]) -> String {
    let mut out = String::new();
    for (axis, d) in dims.iter().enumerate().rev() {
        let d = s.extent(d);
        let _ = write!(out, "const long long a{axis} = q % {d}; q /= {d}; ");
    }
    out
}

impl Printer<'_> {
    pub(super) fn map_on_gpu(&self, mut s: Sheet<'_>, kernels: &mut Kernels) -> Vec<Launch> {
        let Kernel::Map { expr: e, dims, operands, to, .. } = &s.step.kernel else { return Vec::new() };
        let outputs = s.step.outputs.clone();
        let steps = |to: &[Dim]| to.iter().cloned().map(Stride::By).collect::<Vec<_>>();
        let rank = dims.len();
        // Neighbours along the last axis go together where they lie so in every operand and result.
        let by = [8usize, 4, 2].into_iter().find(|v| {
            let even = |value: ValueId, strides: &[Stride]| {
                let size = self.plan.stored(value).size();
                let last = strides.last();
                let outer = strides[..rank - 1].iter().all(|s| matches!(s, Stride::By(d) if self.multiple(d, *v)));
                last.is_some_and(|s| s.is(0)) || (last.is_some_and(|s| s.is(1)) && outer && self.begins_at(value, *v) && size * v <= 16)
            };
            rank > 0
                && self.multiple(&dims[rank - 1], *v)
                && operands.iter().all(|o| even(o.value, &o.strides))
                && outputs.iter().zip(to).all(|(o, to)| to.last().is_some_and(|s| s.is(1)) && even(*o, &steps(to)))
        });
        let by = by.unwrap_or(1);
        s.begin();
        let mut body = String::from("KILN_DEVICE void operator()(long long q) const { ");
        let mut extents = dims.clone();
        if by > 1 {
            let last = &mut extents[rank - 1];
            *last = last.exact_div(&Dim::int(by as i64)).unwrap_or_else(|| last.clone());
        }
        body += &indices(&mut s, &extents);
        // From here on the last index counts elements, not groups of neighbours.
        let scaled = |strides: &[Stride]| -> Vec<Stride> {
            let mut out = strides.to_vec();
            if let (true, Some(Stride::By(d))) = (by > 1, out.last_mut()) {
                *d = d.clone() * Dim::int(by as i64);
            }
            out
        };
        let mut loads = Vec::new();
        for (i, o) in operands.iter().enumerate() {
            let (ty, x, at) = (s.stored(o.value), s.reads(o.value), index(&mut s, &scaled(&o.strides)));
            let element = if by > 1 && o.strides.last().is_some_and(|s| s.is(1)) {
                let _ = write!(body, "const Vec<{ty}, {by}> v{i} = load<{by}>({x} + ({at})); ");
                format!("v{i}.at[i]")
            } else {
                let _ = write!(body, "const {ty} v{i} = {x}[{at}]; ");
                format!("v{i}")
            };
            loads.push(expr::load(self.dtype(o.value), &element));
        }
        let mut ends = String::new();
        for (k, (o, to)) in outputs.iter().zip(to).enumerate() {
            let (ty, at) = (s.stored(*o), index(&mut s, &scaled(&steps(to))));
            let o = s.writes(*o);
            let _ = write!(body, "Vec<{ty}, {by}> y{k}; ");
            let _ = write!(ends, "store<{by}>({o} + ({at}), y{k}); ");
        }
        let (code, results) = expr::print(e, &loads);
        let stores: String = results
            .iter()
            .zip(&outputs)
            .enumerate()
            .map(|(k, (t, o))| format!("y{k}.at[i] = {}; ", expr::store(self.plan.stored(*o), t)))
            .collect();
        let _ = writeln!(body, "KILN_UNROLL\nfor (int i = 0; i < {by}; i++) {{ {code}{stores}}} {ends}}}");
        let functor = s.end("F", &body);
        let all = product(&extents);
        let count = s.extent(&all);
        let grid = [self.blocks(&all, THREADS), quote!(1), quote!(1)];
        s.launch(kernels, grid, THREADS, 0, &format!("each({count}, {functor});"))
    }

    /// Rows turned by angles.
    pub(super) fn rotary_on_gpu(&self, mut s: Sheet<'_>, kernels: &mut Kernels) -> Vec<Launch> {
        let Kernel::Rotary { dims, size, width, interleaved, each: [cosines, sines], operands, out } = &s.step.kernel else {
            return Vec::new();
        };
        s.begin();
        let length = s.extent(size);
        let mut body = format!("KILN_DEVICE void operator()(long long q) const {{ const int i = int(q % {length}); q /= {length}; ");
        body += &indices(&mut s, dims);
        let [x, c, n] = operands.each_ref().map(|o| {
            let (x, at) = (s.reads(o.value), index(&mut s, &o.strides));
            format!("{x} + {at}")
        });
        let value = format!("turned<{width}, {interleaved}, {cosines}, {sines}>({x}, {c}, {n}, i)");
        let result = s.step.outputs[0];
        let (o, at) = (s.writes(result), index(&mut s, out));
        let _ = writeln!(body, "{o}[{at} + i] = {}; }}", expr::store(self.plan.stored(result), &value));
        let functor = s.end("F", &body);
        let all = product(dims) * size.clone();
        let count = s.extent(&all);
        let grid = [self.blocks(&all, THREADS), quote!(1), quote!(1)];
        s.launch(kernels, grid, THREADS, 0, &format!("each({count}, {functor});"))
    }

    /// A copied region.
    pub(super) fn move_on_gpu(&self, c: &Copy, step: &KernelStep, kernels: &mut Kernels) -> Option<Launch> {
        let (from, to) = (step.inputs.get(c.input).copied().flatten()?, *step.outputs.get(c.output)?);
        let mut s = Sheet::new(self, step);
        s.begin();
        let mut body = String::from("KILN_DEVICE void operator()(long long q) const { ");
        body += &indices(&mut s, &c.dims);
        let by = |d: &[Dim]| d.iter().cloned().map(Stride::By).collect::<Vec<_>>();
        let (x, from_at, from_start) = (s.reads(from), index(&mut s, &by(&c.from)), s.extent(&c.from_start));
        let (o, to_at, to_start) = (s.writes(to), index(&mut s, &by(&c.to)), s.extent(&c.to_start));
        let (source, stored) = (self.plan.stored(from), self.plan.stored(to));
        let value = format!("{x}[{from_at} + {from_start}]");
        let value = if source == stored { value } else { expr::store(stored, &format!("widen({value})")) };
        let _ = writeln!(body, "{o}[{to_at} + {to_start}] = {value}; }}");
        let functor = s.end("F", &body);
        let all = product(&c.dims);
        let count = s.extent(&all);
        let grid = [self.blocks(&all, THREADS), quote!(1), quote!(1)];
        s.launch(kernels, grid, THREADS, 0, &format!("each({count}, {functor});")).into_iter().next()
    }

    /// Extents written out as integers.
    pub(super) fn dims_on_gpu(&self, mut s: Sheet<'_>, elements: &[Dim], dtype: DType, kernels: &mut Kernels) -> Vec<Launch> {
        let out = s.step.outputs[0];
        let o = s.writes(out);
        let mut body = String::new();
        for (i, d) in elements.iter().enumerate() {
            let d = s.extent(d);
            let _ = write!(body, "{o}[{i}] = {}({d}); ", expr::element(dtype));
        }
        if elements.is_empty() {
            return Vec::new();
        }
        s.launch(kernels, [quote!(1), quote!(1), quote!(1)], 1, 0, &body)
    }
}
