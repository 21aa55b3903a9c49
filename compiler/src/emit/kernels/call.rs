//! Steps that call a plain kernel of the table, with slices of the plan's memory for its operands.

use super::super::{Printer, element, expr, ident, int, names};
use super::moves::packed_bytes;
use crate::ir::{Dim, ValueId, product};
use crate::ops::{Call, CallArg};
use crate::plan::KernelStep;
use proc_macro2::{Ident, Literal, Span, TokenStream};
use quote::quote;

impl Printer<'_> {
    /// Scratch of a plain kernel, as `Printer::scratch` gives it: it runs on one thread, and has that of the first worker.
    pub(super) fn call_scratch(&self, c: &Call) -> Option<(Vec<Dim>, TokenStream)> {
        let (dtype, n) = c.args.iter().find_map(|a| if let CallArg::Scratch(dtype, n) = a { Some((dtype, n)) } else { None })?;
        let (elements, size) = (self.dim(n), int(dtype.size()));
        Some((vec![n.clone()], quote!(#elements * #size)))
    }
    pub(super) fn call(&self, n: usize, step: &KernelStep, c: &Call) -> TokenStream {
        let name = ident("k", n);
        let (rt, k) = (names::rt(), names::kernels());
        let mut dims: Vec<Dim> = self.result_dims(step).into_iter().cloned().collect();
        for a in &c.args {
            match a {
                CallArg::Dims(d) => dims.extend(d.iter().cloned()),
                CallArg::Dim(d) | CallArg::Scratch(_, d) => dims.push(d.clone()),
                CallArg::In(i) | CallArg::OptIn(i) => {
                    dims.extend(step.inputs.get(*i).copied().flatten().into_iter().flat_map(|v| self.plan.graph.shape(v).to_vec()));
                }
                CallArg::Out(i) | CallArg::OptOut(i) => {
                    dims.extend(step.outputs.get(*i).into_iter().flat_map(|v| self.plan.graph.shape(*v).to_vec()));
                }
                _ => {}
            }
        }
        let bindings = self.bindings(&dims);
        let mut lets = Vec::new();
        let mut args = Vec::new();
        // Elements smaller than a byte are packed: kernels take their bytes.
        let stored = |v: ValueId| {
            let (dtype, len) = (self.dtype(v), self.dim(&product(self.plan.graph.shape(v))));
            match dtype.bits() {
                1..8 => (quote!(u8), packed_bytes(dtype, &len)),
                _ => (element(dtype), len),
            }
        };
        let slice = |v: ValueId| {
            let (ty, len) = stored(v);
            let at = self.pointer(v, &ty, false);
            quote!(#rt::slice::<#ty>(#at, #len))
        };
        let slice_mut = |v: ValueId| {
            let (ty, len) = stored(v);
            let at = self.result(v, &ty);
            quote!(#rt::slice_mut::<#ty>(#at, #len))
        };
        // Slots are shaped before any pointer is taken.
        for (i, a) in c.args.iter().enumerate() {
            if let CallArg::Out(o) | CallArg::OptOut(o) = a
                && let Some(v) = step.outputs.get(*o)
            {
                let (name, value) = (ident("a", i), slice_mut(*v));
                lets.push(quote!(let #name = #value;));
            }
        }
        for (i, a) in c.args.iter().enumerate() {
            let name = ident("a", i);
            let input = |i: usize| step.inputs.get(i).copied().flatten();
            args.push(match a {
                CallArg::In(j) => match input(*j) {
                    Some(v) => {
                        let value = slice(v);
                        quote!(#k::entry::In(#value))
                    }
                    None => quote!(#k::entry::In(&[])),
                },
                CallArg::OptIn(j) => match input(*j) {
                    Some(v) => {
                        let value = slice(v);
                        quote!(Some(#k::entry::In(#value)))
                    }
                    None => quote!(None),
                },
                CallArg::Out(_) => quote!(#k::entry::Out(#name)),
                CallArg::OptOut(o) if step.outputs.get(*o).is_some() => quote!(Some(#k::entry::Out(#name))),
                CallArg::OptOut(_) => quote!(None),
                CallArg::Scratch(dtype, n) => {
                    let (ty, n) = (element(*dtype), self.dim(n));
                    quote!(#k::entry::Out(#rt::slice_mut::<#ty>(f.scratch().at(0), #n)))
                }
                CallArg::Dims(d) => {
                    let d = d.iter().map(|d| self.dim(d));
                    quote!(&[#(#d),*])
                }
                CallArg::Dim(d) => self.dim(d),
                CallArg::Ints(v) => {
                    let v = v.iter().map(|x| Literal::i64_unsuffixed(*x));
                    quote!(#k::entry::Ints(&[#(#v),*]))
                }
                CallArg::Int(v) => {
                    let v = Literal::i64_unsuffixed(*v);
                    quote!(#v)
                }
                CallArg::Floats(v) => {
                    let v = v.iter().map(|x| expr::literal(crate::kernel::Literal::float(*x as f64), kiln_kernels::dtype::DType::F32));
                    quote!(&[#(#v),*])
                }
                CallArg::Float(x) => expr::literal(crate::kernel::Literal::float(*x as f64), kiln_kernels::dtype::DType::F32),
                CallArg::Bool(b) => quote!(#b),
                CallArg::Text(t) => quote!(#t),
            });
        }
        let path: TokenStream = {
            let parts = c.entry.split("::").map(|p| Ident::new(p, Span::call_site()));
            quote!(#(#parts)::*)
        };
        let types = c.types.iter().map(|d| element(*d));
        let line = Literal::u32_unsuffixed(step.line as u32);
        quote! {
            #[inline(never)]
            fn #name(f: &mut #rt::Frame<'_>) -> #rt::Done {
                #bindings
                // SAFETY: the plan gives every tensor the extents its type states, and results a memory of their own.
                unsafe {
                    #(#lets)*
                    #rt::answer(#line, #k::#path::<#(#types),*>(#(#args),*))
                }
            }
        }
    }
}
