//! Steps that copy regions, and those that write extents out as integers.

use super::super::{Printer, element, ident, int, names};
use crate::ir::{Dim, product};
use crate::kernel::Copy;
use crate::plan::{KernelStep, Place};
use kiln_kernels::dtype::DType;
use proc_macro2::{Literal, TokenStream};
use quote::quote;

/// The bytes that so many elements of a type of less than a byte take.
pub(in crate::emit) fn packed_bytes(dtype: DType, len: &TokenStream) -> TokenStream {
    let bits = int(dtype.bits());
    quote!(usize::div_ceil(#len * #bits, 8))
}

impl Printer<'_> {
    /// Copies of regions of memory.
    pub(super) fn moves(&self, n: usize, step: &KernelStep, copies: &[Copy], ty: &TokenStream) -> TokenStream {
        let name = ident("k", n);
        let rt = names::rt();
        let bindings = self.bindings(self.copied_dims(step, copies));
        let outputs = step.outputs.iter().enumerate().map(|(i, v)| {
            let (o, at) = (ident("o", i), self.result(*v, ty));
            quote!(let #o = #at;)
        });
        // Bits move, whatever they mean: a type per size keeps one copy of the code.
        let runs = copies.iter().map(|c| {
            let o = ident("o", c.output);
            let x = step.inputs[c.input].map_or(quote!(core::ptr::null::<#ty>()), |v| self.pointer(v, ty, false));
            let dtype = self.dtype(step.outputs[c.output]);
            if (1..8).contains(&dtype.bits()) {
                // Elements that share bytes are moved only as whole tensors: operators on them are read by way of wider types.
                let bytes = packed_bytes(dtype, &self.dim(&product(&c.dims)));
                return quote!(#rt::copy::<u8>(f, #o.cast(), &[1], #x.cast(), &[1], &[#bytes])?;);
            }
            let (extents, from, to) = (self.extent_list(&c.dims), self.steps_list(&c.from), self.steps_list(&c.to));
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
    /// Copies of regions of string tensors: whole values, since strings never lie in the arena.
    pub(super) fn move_strings(&self, n: usize, step: &KernelStep, copies: &[Copy]) -> TokenStream {
        let name = ident("k", n);
        let rt = names::rt();
        let line = Literal::u32_unsuffixed(step.line as u32);
        let operands = step.inputs.iter().flatten().flat_map(|v| self.plan.graph.shape(*v));
        let bindings = self.bindings(self.copied_dims(step, copies).into_iter().chain(operands));
        let inputs = step.inputs.iter().enumerate().filter_map(|(i, v)| {
            let (x, value) = (ident("x", i), self.value((*v)?));
            Some(quote!(let #x = #value;))
        });
        let outputs = step.outputs.iter().enumerate().map(|(i, v)| {
            let (o, dims) = (ident("o", i), self.extent_list(self.plan.graph.shape(*v)));
            quote!(let mut #o = #rt::no_strings(&#dims);)
        });
        let runs = copies.iter().filter(|c| step.inputs[c.input].is_some()).map(|c| {
            let (o, x) = (ident("o", c.output), ident("x", c.input));
            let (extents, from, to) = (self.extent_list(&c.dims), self.steps_list(&c.from), self.steps_list(&c.to));
            let (from_start, to_start) = (self.signed(&c.from_start), self.signed(&c.to_start));
            quote!(#rt::copy_strings(#line, &mut #o, #to_start as isize, &#to, &#x, #from_start as isize, &#from, &#extents)?;)
        });
        let sets = step.outputs.iter().enumerate().filter_map(|(i, v)| match self.plan.places.get(v) {
            Some(Place::Slot(s)) => {
                let (o, s) = (ident("o", i), int(*s));
                Some(quote!(f.set_slot(#s, #o.into());))
            }
            _ => None,
        });
        quote! {
            #[inline(never)]
            fn #name(f: &mut #rt::Frame<'_>) -> #rt::Done {
                #bindings
                #(#inputs)*
                #(#outputs)*
                #(#runs)*
                #(#sets)*
                Ok(())
            }
        }
    }
    fn copied_dims<'d>(&'d self, step: &KernelStep, copies: &'d [Copy]) -> Vec<&'d Dim> {
        let mut dims: Vec<&Dim> = self.result_dims(step);
        for c in copies {
            dims.extend(c.dims.iter().chain(&c.from).chain(&c.to).chain([&c.from_start, &c.to_start]));
        }
        dims
    }
    fn extent_list(&self, d: &[Dim]) -> TokenStream {
        let d = d.iter().map(|d| self.dim(d));
        quote!([#(#d),*])
    }
    fn steps_list(&self, d: &[Dim]) -> TokenStream {
        let d = d.iter().map(|d| {
            let d = self.signed(d);
            quote!(#d as isize)
        });
        quote!([#(#d),*])
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
