//! Steps that copy regions, and those that write extents out as integers.

use super::super::{Printer, element, ident, int, names};
use crate::ir::Dim;
use crate::kernel::Copy;
use crate::plan::KernelStep;
use kiln_kernels::dtype::DType;
use proc_macro2::{Literal, TokenStream};
use quote::quote;

impl Printer<'_> {
    pub(super) fn move_strings(&self, n: usize, step: &KernelStep) -> TokenStream {
        // Strings never lie in the arena, so a move of them is a host function; the scheduler makes none.
        let (name, rt) = (ident("k", n), names::rt());
        let line = Literal::u32_unsuffixed(step.line as u32);
        quote!(fn #name(_: &mut #rt::Frame<'_>) -> #rt::Done { Err(#rt::fault(#line, "strings cannot be moved")) })
    }

    pub(super) fn moves(&self, n: usize, step: &KernelStep, copies: &[Copy], ty: &TokenStream) -> TokenStream {
        let name = ident("k", n);
        let rt = names::rt();
        let mut dims: Vec<&Dim> = self.result_dims(step);
        for c in copies {
            dims.extend(c.dims.iter().chain(&c.from).chain(&c.to).chain([&c.from_start, &c.to_start]));
        }
        let bindings = self.bindings(dims);
        let outputs = step.outputs.iter().enumerate().map(|(i, v)| {
            let (o, at) = (ident("o", i), self.result(*v, ty));
            quote!(let #o = #at;)
        });
        // Bits move, whatever they mean: a type per size keeps one copy of the code.
        let runs = copies.iter().map(|c| {
            let o = ident("o", c.output);
            let x = step.inputs[c.input].map_or(quote!(core::ptr::null::<#ty>()), |v| self.pointer(v, ty, false));
            let list = |d: &[Dim]| {
                let d = d.iter().map(|d| self.dim(d));
                quote!([#(#d),*])
            };
            let signed = |d: &[Dim]| {
                let d = d.iter().map(|d| {
                    let d = self.signed(d);
                    quote!(#d as isize)
                });
                quote!([#(#d),*])
            };
            let (extents, from, to) = (list(&c.dims), signed(&c.from), signed(&c.to));
            let (from_start, to_start) = (self.signed(&c.from_start), self.signed(&c.to_start));
            quote! {
                #rt::copy::<#ty>(f, #o.wrapping_offset(#to_start as isize), &#to, #x.wrapping_offset(#from_start as isize), &#from, &#extents)?;
            }
        });
        quote! {
            #[inline(never)]
            fn #name(f: &mut #rt::Frame<'_>) -> #rt::Done {
                #bindings
                #(#outputs)*
                #(#runs)*
                Ok(())
            }
        }
    }
    /// A step whose result is a list of extents.
    pub(super) fn extents(&self, n: usize, step: &KernelStep, elements: &[Dim], dtype: DType) -> TokenStream {
        let name = ident("k", n);
        let ty = element(dtype);
        let rt = names::rt();
        let values: Vec<TokenStream> = elements.iter().map(|d| self.signed(d)).collect();
        let count = int(elements.len());
        let bindings = self.bindings(elements.iter().chain(self.result_dims(step)));
        let o = self.result(step.outputs[0], &ty);
        quote! {
            #[inline(never)]
            fn #name(f: &mut #rt::Frame<'_>) -> #rt::Done {
                #bindings
                let v: [i64; #count] = [#(#values),*];
                let o = #o;
                for (i, x) in v.iter().enumerate() {
                    // SAFETY: the result has as many elements as the list.
                    unsafe { *o.add(i) = *x as #ty };
                }
                Ok(())
            }
        }
    }
}
