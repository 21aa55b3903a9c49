//! Kernels with a thread for each element on a GPU: pointwise maps, copies, turned rows, and extents.

use super::super::expr::cuda as expr;
use super::super::{Printer, int};
use super::rows::{index, indices};
use super::sheet::Sheet;
use super::windows::THREADS;
use super::{Kernels, Launch};
use crate::ir::{Dim, ValueId, product};
use crate::kernel::{Copy, Kernel, Stride};
use crate::plan::{COPIES, KernelStep};
use kiln_kernels::dtype::DType;
use quote::quote;
use std::fmt::Write;

/// Extents of an iteration over groups of neighbours along the last axis.
fn grouped(dims: &[Dim], by: usize) -> Vec<Dim> {
    let mut out = dims.to_vec();
    if let Some(last) = out.last_mut() {
        *last = last.exact_div(&Dim::int(by as i64)).unwrap_or_else(|| last.clone());
    }
    out
}
/// Steps by element as steps by group.
fn scaled(mut steps: Vec<Stride>, by: usize) -> Vec<Stride> {
    if let (true, Some(Stride::By(d))) = (by > 1, steps.last_mut()) {
        *d = d.clone() * Dim::int(by as i64);
    }
    steps
}

impl Printer<'_> {
    pub(super) fn map_on_gpu(&self, mut s: Sheet<'_>, kernels: &mut Kernels) -> Vec<Launch> {
        let Kernel::Map { expr: e, dims, operands, to, .. } = &s.step.kernel else { return Vec::new() };
        let outputs = s.step.outputs.clone();
        let steps = |to: &[Dim]| to.iter().cloned().map(Stride::By).collect::<Vec<_>>();
        let rank = dims.len();
        // Neighbours along the last axis go together where they lie so in every operand and result. One instruction has 16 bytes of what is
        // narrowest, two have those of what is wider.
        let sizes = || operands.iter().map(|o| o.value).chain(outputs.iter().copied()).map(|v| self.plan.stored(v).size());
        let (least, most) = (sizes().min().unwrap_or(1), sizes().max().unwrap_or(1));
        let by = [16usize, 8, 4, 2].into_iter().find(|v| {
            let even = |value: ValueId, strides: &[Stride]| {
                let last = strides.last();
                last.is_some_and(|s| s.is(0))
                    || (last.is_some_and(|s| s.is(1)) && self.multiples(&strides[..rank - 1], *v) && self.begins_at(value, *v))
            };
            rank > 0
                && least * v <= 16
                && most * v <= 32
                && self.multiple(&dims[rank - 1], *v)
                && operands.iter().all(|o| even(o.value, &o.strides))
                && outputs.iter().zip(to).all(|(o, to)| to.last().is_some_and(|s| s.is(1)) && even(*o, &steps(to)))
        });
        let by = by.unwrap_or(1);
        s.begin();
        let mut body = String::from("KILN_DEVICE void operator()(long long id) const { ");
        let extents = grouped(dims, by);
        body += &indices(&mut s, "id", &extents, ('a', 0));
        let mut loads = Vec::new();
        for (i, o) in operands.iter().enumerate() {
            let (ty, x, at) = (s.stored(o.value), s.reads(o.value), index(&mut s, &scaled(o.strides.clone(), by)));
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
            let (ty, at) = (s.stored(*o), index(&mut s, &scaled(steps(to), by)));
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
        body += &indices(&mut s, "q", dims, ('a', 0));
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

    /// Copied regions, a layer of blocks for each.
    pub(super) fn moves_on_gpu(&self, step: &KernelStep, kernels: &mut Kernels) -> Vec<Launch> {
        let Kernel::Move { copies, .. } = &step.kernel else { return Vec::new() };
        copies.chunks(COPIES).flat_map(|copies| self.regions_on_gpu(step, copies, kernels)).collect()
    }
    fn regions_on_gpu(&self, step: &KernelStep, copies: &[Copy], kernels: &mut Kernels) -> Vec<Launch> {
        let mut s = Sheet::new(self, step);
        let (mut blocks, mut calls) = (Vec::new(), Vec::new());
        for c in copies {
            let Some((functor, all)) = self.region(&mut s, c, calls.len()) else { continue };
            let count = s.extent(&all);
            blocks.push(self.blocks(&all, THREADS));
            calls.push(format!("each({count}, {functor});"));
        }
        let layers = int(calls.len());
        let (widest, body) = match &blocks[..] {
            [] => return Vec::new(),
            [one] => (one.clone(), calls.concat()),
            several => {
                let layer = |(i, call): (usize, &String)| format!("if (blockIdx.y == {i}) {call}");
                let all: Vec<String> = calls.iter().enumerate().map(layer).collect();
                (quote!([#(#several),*].into_iter().fold(0, usize::max)), all.join(" "))
            }
        };
        s.launch(kernels, [widest, quote!(#layers), quote!(1)], THREADS, 0, &body)
    }
    /// The functor of region `i`, and how many groups of neighbours it copies.
    fn region(&self, s: &mut Sheet<'_>, c: &Copy, i: usize) -> Option<(String, Dim)> {
        let (from, to) = (s.step.inputs.get(c.input).copied().flatten()?, *s.step.outputs.get(c.output)?);
        let (source, stored) = (self.plan.stored(from), self.plan.stored(to));
        // Neighbours along the last axis go together where they lie so on both sides.
        let whole = |v: &usize| {
            let lies = |at: &[Dim], start: &Dim, value: ValueId| match at.split_last() {
                Some((last, outer)) => last.is(1) && outer.iter().chain([start]).all(|d| self.multiple(d, *v)) && self.begins_at(value, *v),
                None => false,
            };
            source.size().max(stored.size()) * v <= 32
                && source.size().min(stored.size()) * v <= 16
                && c.dims.last().is_some_and(|d| self.multiple(d, *v))
                && lies(&c.from, &c.from_start, from)
                && lies(&c.to, &c.to_start, to)
        };
        let by = [16usize, 8, 4, 2].into_iter().find(whole).unwrap_or(1);
        s.begin();
        let mut body = String::from("KILN_DEVICE void operator()(long long id) const { ");
        let extents = grouped(&c.dims, by);
        body += &indices(s, "id", &extents, ('a', 0));
        let steps = |d: &[Dim]| scaled(d.iter().cloned().map(Stride::By).collect(), by);
        let (x, from_at, from_start) = (s.reads(from), index(s, &steps(&c.from)), s.extent(&c.from_start));
        let (o, to_at, to_start) = (s.writes(to), index(s, &steps(&c.to)), s.extent(&c.to_start));
        let (read, ty) = (expr::element(source), expr::element(stored));
        let value = if source == stored { "x.at[i]".to_string() } else { expr::store(stored, "widen(x.at[i])") };
        let _ = writeln!(
            body,
            "const Vec<{read}, {by}> x = load<{by}>({x} + ({from_at} + {from_start})); Vec<{ty}, {by}> y; KILN_UNROLL\nfor (int i = 0; i < {by}; i++) y.at[i] = {value}; store<{by}>({o} + ({to_at} + {to_start}), y); }}"
        );
        Some((s.end(&format!("F{i}"), &body), product(&extents)))
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
