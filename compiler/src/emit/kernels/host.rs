//! Steps that call host functions: whole values from slots and memory, results to slots, and what the steps behind may rely on.

use super::super::{Printer, dtype_path, ident, int, names};
use crate::ir::{Dim, Type, ValueId};
use crate::ops::host::Host;
use crate::plan::{Define, KernelStep, Place};
use proc_macro2::{Literal, TokenStream};
use quote::quote;

impl Printer<'_> {
    /// A value as a run-time `Value`, by reference where it is one already.
    pub(in crate::emit) fn value(&self, v: ValueId) -> TokenStream {
        let rt = names::rt();
        match self.plan.places.get(&v) {
            Some(Place::Slot(k)) => {
                let k = int(*k);
                quote!(f.slot(#k).clone())
            }
            Some(Place::Input(i)) if !matches!(self.plan.graph.ty(v), Type::Tensor(..)) || self.dtype(v).bits() < 8 => {
                let i = int(*i);
                quote!(f.input_value(#i)?)
            }
            _ => {
                let at = self.pointer(v, &quote!(u8), false);
                let dims = self.plan.graph.shape(v).iter().map(|d| self.dim(d));
                let dtype = dtype_path(self.dtype(v));
                // SAFETY (of the printed block): the plan gives the value these extents.
                quote!(unsafe { #rt::Frame::tensor(#at, #dtype, &[#(#dims),*]) })
            }
        }
    }

    /// Statements that define symbols from slots.
    pub(in crate::emit) fn defines(&self, defines: &[Define], line: usize) -> TokenStream {
        let line = Literal::u32_unsuffixed(line as u32);
        let each = defines.iter().map(|d| {
            let (sym, slot, axis, rank) = (int(d.sym.0 as usize), int(d.slot), int(d.axis), int(d.rank));
            quote!(let n = f.slot_dims::<#rank>(#slot, #line)?[#axis]; f.define(#sym, n);)
        });
        quote!(#(#each)*)
    }
    /// Statements that check the types of results in slots against what the plan takes for granted.
    pub(in crate::emit) fn checks(&self, values: &[ValueId], line: usize) -> TokenStream {
        let line = Literal::u32_unsuffixed(line as u32);
        let each = values.iter().filter_map(|v| {
            let (Some(Place::Slot(k)), Type::Tensor(dtype, shape)) = (self.plan.places.get(v), self.plan.graph.ty(*v)) else { return None };
            let (k, dtype) = (int(*k), dtype_path(*dtype));
            let dims = shape.iter().map(|d| self.dim(d));
            let bindings = self.bindings(shape);
            Some(quote!({ #bindings f.check_slot(#k, #dtype, &[#(#dims),*], #line)?; }))
        });
        quote!(#(#each)*)
    }

    pub(super) fn host(&self, n: usize, step: &KernelStep, h: &Host) -> TokenStream {
        let name = ident("k", n);
        let (rt, k) = (names::rt(), names::kernels());
        let dims: Vec<Dim> = step.inputs.iter().flatten().flat_map(|v| self.plan.graph.shape(*v).to_vec()).collect();
        let bindings = self.bindings(dims.iter().chain(self.result_dims(step)));
        let (mut lets, mut refs) = (Vec::new(), Vec::new());
        for (i, v) in step.inputs.iter().enumerate() {
            match v {
                Some(v) => {
                    let (a, value) = (ident("a", i), self.value(*v));
                    lets.push(quote!(let #a = #value;));
                    refs.push(quote!(Some(&#a)));
                }
                None => refs.push(quote!(None)),
            }
        }
        let function = h.name;
        let ints = h.ints.iter().map(|x| Literal::i64_unsuffixed(*x));
        let text = &h.text;
        let line = Literal::u32_unsuffixed(step.line as u32);
        let sets = step.outputs.iter().filter_map(|v| match self.plan.places.get(v) {
            Some(Place::Slot(s)) => {
                let s = int(*s);
                Some(quote!(if let Some(v) = out.next() { f.set_slot(#s, v); }))
            }
            _ => None,
        });
        let defines = self.defines(&step.defines, step.line);
        let checks = self.checks(&step.outputs, step.line);
        quote! {
            #[inline(never)]
            fn #name(f: &mut #rt::Frame<'_>) -> #rt::Done {
                #bindings
                #(#lets)*
                let out = #k::host::call(#function, &[#(#refs),*], #k::host::HostArgs { ints: &[#(#ints),*], text: &[#(#text),*] });
                let mut out = out.map_err(|e| #rt::Fail::Fault(#line, e))?.into_iter();
                #(#sets)*
                #defines
                #checks
                Ok(())
            }
        }
    }
}
