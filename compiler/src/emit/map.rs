//! Pointwise kernels: a loop nest over the iteration, compiled for every instruction set.

use super::{Printer, element, expr, ident, int, names};
use crate::ir::{Dim, ValueId};
use crate::kernel::{Expr, Operand, Stride};
use crate::plan::{KernelStep, Place};
use proc_macro2::TokenStream;
use quote::quote;

/// Elements that a task computes: enough to be worth waking a worker.
const TASK: usize = 1 << 14;

impl Printer<'_> {
    fn stride(&self, s: &Stride) -> TokenStream {
        match s {
            Stride::By(d) => self.dim(d),
            Stride::Unless1 { extent, stride } => {
                let (extent, stride) = (self.dim(extent), self.dim(stride));
                quote!(if #extent == 1 { 0 } else { #stride })
            }
        }
    }
    /// Bindings of every symbol in an iteration.
    pub(super) fn stride_dims<'s>(&self, operands: &'s [Operand]) -> Vec<&'s Dim> {
        operands
            .iter()
            .flat_map(|o| &o.strides)
            .flat_map(|s| match s {
                Stride::By(d) => vec![d],
                Stride::Unless1 { extent, stride } => vec![extent, stride],
            })
            .collect()
    }

    /// The functions of a map step: the body for every instruction set, and the step that spreads it over the threads.
    pub(super) fn map(
        &self,
        n: usize,
        step: &KernelStep,
        e: &Expr,
        dims: &[Dim],
        operands: &[Operand],
        to: &[Dim],
        meets: &[(Dim, Dim)],
    ) -> TokenStream {
        let rt = names::rt();
        let k = names::kernels();
        let (name, body) = (ident("k", n), ident("map", n));
        let out = step.outputs[0];
        let out_ty = element(self.dtype(out));
        // An operand that lies where the result does is read through the result's pointer, so that no two pointers alias.
        let in_place = |v: ValueId| {
            let same = |o: &Operand| o.value == v && o.strides.iter().zip(to).all(|(s, t)| matches!(s, Stride::By(s) if s == t));
            self.plan.places.get(&v) == self.plan.places.get(&out)
                && matches!(self.plan.places.get(&out), Some(Place::Buffer(_)))
                && self.plan.starts.get(&v) == self.plan.starts.get(&out)
                && operands.iter().any(same)
        };
        let rank = dims.len();
        let inner = rank.checked_sub(1);
        let types: Vec<TokenStream> = operands.iter().map(|o| element(self.dtype(o.value))).collect();
        let pointers: Vec<_> = (0..operands.len()).map(|i| ident("x", i)).collect();
        // Constant extents and steps are printed in place; run-time ones are passed.
        let extent = |axis: usize| match dims[axis].as_int() {
            Some(n) => {
                let n = int(n.max(0) as usize);
                quote!(#n)
            }
            None => {
                let d = ident("d", axis);
                quote!(#d)
            }
        };
        let step_of = |i: usize, axis: usize| match &operands[i].strides[axis] {
            Stride::By(d) if d.as_int().is_some() => {
                let n = int(d.as_int().unwrap_or(0).max(0) as usize);
                quote!(#n)
            }
            _ => {
                let s = ident("p", i * rank + axis);
                quote!(#s)
            }
        };
        let mut extra_params: Vec<TokenStream> = Vec::new();
        let mut extra_args: Vec<TokenStream> = Vec::new();
        for (axis, d) in dims.iter().enumerate().filter(|(_, d)| d.as_int().is_none()) {
            let (name, value) = (ident("d", axis), self.dim(d));
            extra_params.push(quote!(#name: usize));
            extra_args.push(value);
        }
        for (i, o) in operands.iter().enumerate() {
            for (axis, s) in o.strides.iter().enumerate() {
                if !matches!(s, Stride::By(d) if d.as_int().is_some()) {
                    let (name, value) = (ident("p", i * rank + axis), self.stride(s));
                    extra_params.push(quote!(#name: usize));
                    extra_args.push(value);
                }
            }
        }
        let mut contiguous = vec![Dim::int(1); rank];
        for axis in (1..rank).rev() {
            contiguous[axis - 1] = contiguous[axis].clone() * dims[axis].clone();
        }
        let side_by_side = contiguous == to;
        let row_of = |axis: usize| match to[axis].as_int() {
            Some(n) => {
                let n = int(n.max(0) as usize);
                quote!(#n)
            }
            None => {
                let s = ident("q", axis);
                quote!(#s)
            }
        };
        if !side_by_side {
            for (axis, d) in to.iter().enumerate().filter(|(_, d)| d.as_int().is_none()) {
                let (name, value) = (ident("q", axis), self.dim(d));
                extra_params.push(quote!(#name: usize));
                extra_args.push(value);
            }
        }
        // The innermost loop runs over `i`; `r` counts the rows around it.
        let loads: Vec<TokenStream> = operands
            .iter()
            .enumerate()
            .map(|(i, o)| {
                let x = &pointers[i];
                // The result may be of another type of that size.
                let own = if self.dtype(o.value) == self.dtype(out) {
                    quote!(o)
                } else {
                    let ty = &types[i];
                    quote!(o.cast::<#ty>())
                };
                let stored = match inner {
                    None if in_place(o.value) => quote!(*#own),
                    None => quote!(*#x),
                    Some(_) if in_place(o.value) => quote!(*#own.add(i)),
                    Some(axis) => match &o.strides[axis] {
                        s if s.is(0) => {
                            let c = ident("c", i);
                            quote!(#c)
                        }
                        s if s.is(1) => quote!(*#x.add(i)),
                        _ => {
                            let s = step_of(i, axis);
                            quote!(*#x.add(i * #s))
                        }
                    },
                };
                expr::load(self.dtype(o.value), stored)
            })
            .collect();
        let (code, results) = expr::print(e, &loads);
        let result = &results[0];
        let stored = expr::store(self.dtype(out), quote!(#result));
        let hoisted: Vec<TokenStream> = operands
            .iter()
            .enumerate()
            .filter(|(_, o)| inner.is_some_and(|a| o.strides[a].is(0)) && !in_place(o.value))
            .map(|(i, _)| {
                let (c, x) = (ident("c", i), &pointers[i]);
                quote!(let #c = *#x;)
            })
            .collect();
        let loops = match inner {
            None => quote!({ let _ = (from, to); #code *o = #stored; }),
            Some(0) => {
                quote! {
                    #(#hoisted)*
                    for i in from..to { #code *o.add(i) = #stored; }
                }
            }
            Some(last) => {
                let width = extent(last);
                // The row number as an index of the outer axes, by division from the inside out.
                let mut split = TokenStream::new();
                let mut offsets: Vec<TokenStream> = vec![TokenStream::new(); operands.len()];
                let mut result_offset = TokenStream::new();
                for axis in (0..last).rev() {
                    let (a, d) = (ident("a", axis), extent(axis));
                    // Nothing is divided where an axis is empty, but rustc looks at the literal.
                    let d = if dims[axis].is(0) { quote!(1) } else { d };
                    let s = row_of(axis);
                    result_offset.extend(quote!(+ #a * #s));
                    split.extend(match axis {
                        0 => quote!(let #a = q;),
                        _ => quote!(let #a = q % #d; let q = q / #d;),
                    });
                    for (i, o) in operands.iter().enumerate() {
                        if !o.strides[axis].is(0) {
                            let s = step_of(i, axis);
                            offsets[i].extend(quote!(+ #a * #s));
                        }
                    }
                }
                let rows = operands.iter().enumerate().filter(|(_, o)| !in_place(o.value)).map(|(i, _)| {
                    let (x, offset) = (&pointers[i], &offsets[i]);
                    quote!(let #x = #x.add(0 #offset);)
                });
                let row = if side_by_side { quote!(r * #width) } else { quote!(0 #result_offset) };
                quote! {
                    for r in from..to {
                        let q = r;
                        #split
                        #(#rows)*
                        #(#hoisted)*
                        let o = o.add(#row);
                        for i in 0..#width { #code *o.add(i) = #stored; }
                    }
                }
            }
        };
        let used: Vec<usize> = (0..operands.len()).filter(|i| !in_place(operands[*i].value)).collect();
        let params = used.iter().map(|i| {
            let (x, t) = (&pointers[*i], &types[*i]);
            quote!(#x: *const #t)
        });
        let outer_dims: Vec<TokenStream> = dims[..inner.unwrap_or(0)].iter().map(|d| self.dim(d)).collect();
        let (total, width) = match inner {
            None => (quote!(1usize), quote!(1usize)),
            Some(0) => (self.dim(&dims[0]), quote!(1usize)),
            Some(last) => {
                let w = self.dim(&dims[last]);
                (quote!(1usize #(* #outer_dims)*), w)
            }
        };
        let all: Vec<&Dim> = dims
            .iter()
            .chain(self.stride_dims(operands))
            .chain(to)
            .chain(meets.iter().flat_map(|(a, b)| [a, b]))
            .chain(self.result_dims(step))
            .collect();
        let bindings = self.bindings(all);
        let line = proc_macro2::Literal::u32_unsuffixed(step.line as u32);
        let checks = meets.iter().map(|(a, b)| {
            let (a, b) = (self.dim(a), self.dim(b));
            quote!(f.meet(#a, #b, #line)?;)
        });
        let result_at = self.result(out, &out_ty);
        let lets = used.iter().map(|i| {
            let (x, p) = (&pointers[*i], self.pointer(operands[*i].value, &types[*i], false));
            quote!(let #x = #rt::Shared(#p);)
        });
        let args: Vec<TokenStream> = used
            .iter()
            .map(|i| {
                let x = &pointers[*i];
                quote!({ let x = #x; x.0 })
            })
            .collect();
        let task = int(TASK);
        let wrapper = quote! {
            #[inline(never)]
            fn #name(f: &mut #rt::Frame<'_>) -> #rt::Done {
                #bindings
                #(#checks)*
                let o = #rt::Shared(#result_at);
                #(#lets)*
                let (total, width): (usize, usize) = (#total, #width);
                let chunk = (#task / width.max(1)).max(1);
                let isa = f.isa;
                f.spread(total.div_ceil(chunk), total * width, &|task, _| {
                    let (from, to) = (task * chunk, ((task + 1) * chunk).min(total));
                    let o = { let o = o; o.0 };
                    // SAFETY: the plan gives every operand its extents, and tasks write disjoint rows of the result.
                    unsafe { #body(isa, o, #(#args,)* #(#extra_args,)* from, to) }
                })
            }
        };
        quote! {
            #wrapper
            #k::kernel_fn! {
                fn #body<A>(o: *mut #out_ty, #(#params,)* #(#extra_params,)* from: usize, to: usize) {
                    #loops
                }
            }
        }
    }
}
