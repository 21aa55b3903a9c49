//! Steps of a depthwise convolution with the 1x1 convolutions around it.

use super::super::{Printer, ident, names};
use super::tiled::{Ending, Tail};
use crate::ir::Dim;
use crate::kernel::{Kernel, Method};
use crate::plan::KernelStep;
use proc_macro2::TokenStream;
use quote::quote;

impl Printer<'_> {
    /// The geometry, and the extents in it.
    fn strips_geometry(&self, step: &KernelStep) -> Option<(TokenStream, Vec<Dim>)> {
        let Kernel::Strips { before, middle, behind } = &step.kernel else { return None };
        let kernels = names::kernels();
        let mut dims = Vec::new();
        let mut conv = |k: &Kernel| {
            let Kernel::Conv { window, k, groups, .. } = k else { return None };
            let (conv, more) = self.plain_conv(window, (*k, *groups));
            dims.extend(more);
            Some(conv)
        };
        let mut part = |k: &Option<Box<Kernel>>| match k.as_ref().and_then(|k| conv(k)) {
            Some(c) => quote!(Some(#c)),
            None => quote!(None),
        };
        let (before, behind) = (part(before), part(behind));
        let middle = conv(middle)?;
        Some((quote!(#kernels::strips::Strips { before: #before, middle: #middle, behind: #behind }), dims))
    }
    /// Scratch bytes that a step's workers need, as `Printer::scratch` gives it.
    pub(super) fn strips_scratch(&self, step: &KernelStep) -> Option<(Vec<Dim>, TokenStream)> {
        let (geometry, dims) = self.strips_geometry(step)?;
        Some((dims, quote!(#geometry.scratch_floats() * 4)))
    }
    /// The convolutions by strips of rows.
    pub(super) fn strips(&self, n: usize, step: &KernelStep) -> TokenStream {
        let Kernel::Strips { before, middle, behind } = &step.kernel else { return quote!() };
        let Some((geometry, mut dims)) = self.strips_geometry(step) else { return quote!() };
        let (rt, kernels) = (names::rt(), names::kernels());
        let (mut functions, mut lets, mut parts) = (quote!(), quote!(), Vec::new());
        for (i, part) in [before.as_deref(), Some(&**middle), behind.as_deref()].into_iter().enumerate() {
            let Some(Kernel::Conv { method, weights, bias, epilogue, .. }) = part else {
                parts.push(quote!(#kernels::strips::Part::NONE));
                continue;
            };
            let (w, b, finish, end) = (ident("w", i), ident("b", i), ident("finish", i), ident("end", i));
            let weights = match method {
                Method::Direct => self.panels(weights),
                _ => {
                    let at = self.packed(weights);
                    quote!(#kernels::gemm::Panels::of(#at))
                }
            };
            let bias = bias.as_ref().map_or(quote!(core::ptr::null()), |b| self.packed(b));
            dims.extend(self.tail_dims(epilogue.as_ref()).into_iter().cloned());
            let Ending { tail: Tail { function, lets: tail_lets, closure, arg }, lets: finish_lets, finish: value } =
                self.ending(i, epilogue.as_ref());
            let epilogue = if closure.is_empty() {
                arg
            } else {
                lets.extend(quote!(let #end = { #tail_lets #closure tail };));
                quote!(Some(&#end))
            };
            functions.extend(function);
            lets.extend(quote! {
                let (#w, #b) = (#rt::Shared(#weights), #rt::Shared(#bias));
                let #finish = { #finish_lets #value };
            });
            parts.push(quote! {
                #kernels::strips::Part {
                    weights: { let w = #w; w.0 }, bias: { let b = #b; b.0 }, finish: #finish, epilogue: #epilogue
                }
            });
        }
        let bindings = self.bindings(dims.iter().chain(self.result_dims(step)));
        let name = ident("k", n);
        let x = step.inputs[0].map_or(quote!(core::ptr::null()), |x| self.pointer(x, &quote!(f32), false));
        let o = self.result(step.outputs[0], &quote!(f32));
        quote! {
            #[inline(never)]
            fn #name(f: &mut #rt::Frame<'_>) -> #rt::Done {
                #bindings
                let g = #geometry;
                let (x, o) = (#rt::Shared(#x), #rt::Shared(#o));
                let isa = f.isa;
                let scratch = f.scratch();
                // The tails of three parts are named within the step.
                #functions
                #lets
                f.parallel(g.tasks(), &|task, worker| {
                    let (x, o) = ({ let x = x; x.0 }, { let o = o; o.0 });
                    let s = { let s = scratch; s.at::<f32>(worker) };
                    // SAFETY: the plan gives every tensor these extents, weights are packed for them, and tasks write disjoint rows.
                    unsafe { g.run_task(isa, task, x, &[#(#parts),*], o, s) }
                })
            }
        }
    }
}
