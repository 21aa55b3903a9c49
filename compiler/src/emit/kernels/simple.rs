//! Steps of vector kernels with one tensor operand: pools, means, local responses, and softmax along an axis that is not the last.

use super::super::{Printer, element, expr, ident, int, names};
use crate::ir::{Dim, ValueId, product};
use crate::kernel::{Kernel, Literal, Window};
use crate::plan::KernelStep;
use kiln_kernels::dtype::DType;
use proc_macro2::{Ident, Span, TokenStream};
use quote::quote;

impl Printer<'_> {
    /// A step of one operand `x` and one result `o`, both shared, with `isa` at hand.
    fn simple(&self, n: usize, step: &KernelStep, dims: Vec<&Dim>, x: ValueId, body: TokenStream) -> TokenStream {
        let name = ident("k", n);
        let rt = names::rt();
        let bindings = self.bindings(dims.into_iter().chain(self.result_dims(step)));
        let of = |v: ValueId| element(self.dtype(v));
        let (o, x) = (self.result(step.outputs[0], &of(step.outputs[0])), self.pointer(x, &of(x), false));
        quote! {
            #[inline(never)]
            fn #name(f: &mut #rt::Frame<'_>) -> #rt::Done {
                #bindings
                let o = #rt::Shared(#o);
                let x = #rt::Shared(#x);
                let isa = f.isa;
                #body
            }
        }
    }

    /// A max or average pool.
    pub(super) fn pool(&self, n: usize, step: &KernelStep, w: &Window, kind: &str, x: ValueId) -> TokenStream {
        let k = names::kernels();
        let (common, mut dims) = self.window_tokens(w);
        let kind = Ident::new(kind, Span::call_site());
        let strides = [0, 2, 3, 4].map(|i| self.dim(&w.x_strides[i]));
        let pad_end = w.pad_end.iter().map(|p| int(*p));
        let pixels = product(&w.out_dims);
        dims.push(pixels.clone());
        let run = Ident::new(if self.dtype(x) == DType::U8 { "run_bytes" } else { "run_task" }, Span::call_site());
        let (pixels, c) = (self.dim(&pixels), self.dim(&w.c));
        let taps = int(w.kernel.iter().product());
        let body = quote! {
            let g = #k::pool::Pool {
                kind: #k::pool::Kind::#kind, #common, pad_end: [#(#pad_end),*], x_strides: [#(#strides),*]
            };
            f.spread(g.tasks(), g.n * #pixels * #c * #taps, &|task, _| {
                let (x, o) = ({ let x = x; x.0 }, { let o = o; o.0 });
                // SAFETY: the plan gives both tensors these extents, and tasks write disjoint rows.
                unsafe { g.#run(isa, task, x, o) }
            })
        };
        self.simple(n, step, dims.iter().collect(), x, body)
    }
    /// The mean over the spatial axes.
    pub(super) fn global_mean(&self, n: usize, step: &KernelStep, dims: [&Dim; 5], x: ValueId) -> TokenStream {
        let [images, pixels, c, pitch, batch] = dims.map(|d| self.dim(d));
        let k = names::kernels();
        let body = quote! {
            let (images, pixels, c): (usize, usize, usize) = (#images, #pixels, #c);
            let (pitch, batch): (usize, usize) = (#pitch, #batch);
            f.spread(images, images * pixels * c, &|task, _| {
                let (x, o) = ({ let x = x; x.0 }, { let o = o; o.0 });
                // SAFETY: each task reads one image and writes its channels.
                unsafe { #k::pool::global_mean(isa, x.add(task * batch), pitch, pixels, c, o.add(task * c)) }
            })
        };
        self.simple(n, step, dims.to_vec(), x, body)
    }
    /// A local response normalization.
    pub(super) fn response(&self, n: usize, step: &KernelStep) -> TokenStream {
        let Kernel::Response { size, parameters, sizes, x, x_steps, out_steps } = &step.kernel else { return quote!() };
        let k = names::kernels();
        let [images, pixels, c] = sizes.each_ref().map(|d| self.dim(d));
        let [x_pitch, x_batch] = x_steps.each_ref().map(|d| self.dim(d));
        let [out_pitch, out_batch] = out_steps.each_ref().map(|d| self.dim(d));
        let [scale, beta, bias] = parameters.map(|p| expr::literal(Literal::float(f64::from(p)), DType::F32));
        let size = int(*size);
        let body = quote! {
            let r = #k::norm::Response {
                n: #images, pixels: #pixels, c: #c, x_steps: [#x_pitch, #x_batch], out_steps: [#out_pitch, #out_batch],
                size: #size, scale: #scale, beta: #beta, bias: #bias
            };
            f.spread(r.tasks(), r.n * r.pixels * r.c * r.size, &|task, _| {
                let (x, o) = ({ let x = x; x.0 }, { let o = o; o.0 });
                // SAFETY: the plan gives both tensors these extents, and tasks write disjoint pixels.
                unsafe { r.run_task(isa, task, x, o) }
            })
        };
        self.simple(n, step, sizes.iter().chain(x_steps).chain(out_steps).collect(), *x, body)
    }
    /// Images resized.
    pub(super) fn resize(&self, n: usize, step: &KernelStep) -> TokenStream {
        let Kernel::Resize { words, cubic, exclude, scales, sizes, x, x_steps, out_steps } = &step.kernel else { return quote!() };
        let k = names::kernels();
        let [mode, coordinates, nearest] = words;
        let float = |v: f32| expr::literal(Literal::float(f64::from(v)), DType::F32);
        let (cubic, [vertical, horizontal]) = (float(*cubic), scales.map(float));
        let [images, height, width, to_height, to_width, c] = sizes.each_ref().map(|d| self.dim(d));
        let [x_pitch, x_batch] = x_steps.each_ref().map(|d| self.dim(d));
        let [out_pitch, out_batch] = out_steps.each_ref().map(|d| self.dim(d));
        let body = quote! {
            let rule = #k::resize::Rule {
                mode: #mode, antialias: false, coordinates: #coordinates, nearest: #nearest, cubic: #cubic as f64, exclude: #exclude
            };
            let r = #k::resize::Images {
                rule, n: #images, from: [#height, #width], to: [#to_height, #to_width], scales: [#vertical, #horizontal], c: #c,
                x_steps: [#x_pitch, #x_batch], out_steps: [#out_pitch, #out_batch]
            };
            f.spread(r.tasks(), r.n * r.to[0] * r.to[1] * r.c * 4, &|task, _| {
                let (x, o) = ({ let x = x; x.0 }, { let o = o; o.0 });
                // SAFETY: the plan gives both tensors these extents, and tasks write disjoint rows.
                unsafe { r.run_task(isa, task, x, o) }
            })
        };
        self.simple(n, step, sizes.iter().chain(x_steps).chain(out_steps).collect(), *x, body)
    }
    /// A softmax along the middle of three axes.
    pub(super) fn softmax(&self, n: usize, step: &KernelStep, dims: &[Dim; 3], log: bool, x: ValueId) -> TokenStream {
        let [outer, axis, inner] = [0, 1, 2].map(|i| self.dim(&dims[i]));
        let k = names::kernels();
        let body = quote! {
            let s = #k::softmax::Softmax { outer: #outer, n: #axis, inner: #inner, log: #log };
            f.spread(s.tasks(), s.outer * s.n * s.inner * 8, &|task, _| {
                let (x, o) = ({ let x = x; x.0 }, { let o = o; o.0 });
                // SAFETY: the plan gives both tensors these extents, and tasks write disjoint rows.
                unsafe { s.run_task(isa, task, x, o) }
            })
        };
        self.simple(n, step, dims.iter().collect(), x, body)
    }
}
