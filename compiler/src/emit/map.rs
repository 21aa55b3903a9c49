//! Pointwise kernels: a loop nest over the iteration, compiled for every instruction set.

use super::{Printer, element, expr, ident, int, names};
use crate::ir::{Dim, ValueId};
use crate::kernel::{Expr, Operand, Stride};
use crate::plan::{KernelStep, Place};
use proc_macro2::{Ident, Span, TokenStream};
use quote::quote;

/// Elements that a task computes: enough to be worth waking a worker.
const TASK: usize = 1 << 14;

/// Extents and steps that only run time knows, as the body of a kernel takes them.
#[derive(Default)]
pub(super) struct Passed {
    pub(super) params: Vec<TokenStream>,
    pub(super) args: Vec<TokenStream>,
}

impl Passed {
    fn push(&mut self, name: &Ident, value: &TokenStream) {
        self.params.push(quote!(#name: usize));
        self.args.push(quote!(#value));
    }
}

impl Printer<'_> {
    /// An extent as the body of a kernel states it: a constant in place, another by its name.
    pub(super) fn stated(&self, d: &Dim, name: Ident) -> TokenStream {
        match d.as_int() {
            Some(n) => {
                let n = int(n.max(0) as usize);
                quote!(#n)
            }
            None => quote!(#name),
        }
    }
    /// A step, likewise.
    pub(super) fn stated_step(&self, s: &Stride, name: Ident) -> TokenStream {
        match s {
            Stride::By(d) => self.stated(d, name),
            Stride::Unless1 { .. } => quote!(#name),
        }
    }
    /// Passes extents that are not constant, under names of that letter.
    pub(super) fn pass(&self, letter: &str, dims: &[Dim], passed: &mut Passed) {
        for (i, d) in dims.iter().enumerate().filter(|(_, d)| d.as_int().is_none()) {
            passed.push(&ident(letter, i), &self.dim(d));
        }
    }
    /// Passes the steps of an operand that are not constant, under names from `p` with the number `first` on.
    pub(super) fn pass_steps(&self, first: usize, steps: &[Stride], passed: &mut Passed) {
        for (axis, s) in steps.iter().enumerate() {
            if !matches!(s, Stride::By(d) if d.as_int().is_some()) {
                passed.push(&ident("p", first + axis), &self.stride_of(s));
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
        to: &[Vec<Dim>],
        meets: &[(Dim, Dim)],
    ) -> TokenStream {
        let rt = names::rt();
        let k = names::kernels();
        let (name, body) = (ident("k", n), ident("map", n));
        // The results' pointers.
        let outs: Vec<Ident> = (0..to.len()).map(|i| if i == 0 { Ident::new("o", Span::call_site()) } else { ident("o", i) }).collect();
        let out_types: Vec<TokenStream> = step.outputs.iter().map(|v| element(self.dtype(*v))).collect();
        // An operand that lies where a result does is read through the result's pointer, so that no two pointers alias.
        let over = |v: ValueId, out: ValueId, to: &[Dim]| {
            let same = |o: &Operand| o.value == v && o.strides.iter().zip(to).all(|(s, t)| matches!(s, Stride::By(s) if s == t));
            self.plan.places.get(&v) == self.plan.places.get(&out)
                && matches!(self.plan.places.get(&out), Some(Place::Buffer(_)))
                && self.plan.starts.get(&v) == self.plan.starts.get(&out)
                && operands.iter().any(same)
        };
        let overwrites = |v: ValueId| (0..to.len()).find(|k| over(v, step.outputs[*k], &to[*k]));
        let in_place = |v: ValueId| overwrites(v).is_some();
        let rank = dims.len();
        let inner = rank.checked_sub(1);
        let types: Vec<TokenStream> = operands.iter().map(|o| element(self.dtype(o.value))).collect();
        let pointers: Vec<_> = (0..operands.len()).map(|i| ident("x", i)).collect();
        // Constant extents and steps are printed in place; run-time ones are passed.
        let extent = |axis: usize| self.stated(&dims[axis], ident("d", axis));
        let step_of = |i: usize, axis: usize| self.stated_step(&operands[i].strides[axis], ident("p", i * rank + axis));
        let mut passed = Passed::default();
        self.pass("d", dims, &mut passed);
        for (i, o) in operands.iter().enumerate() {
            self.pass_steps(i * rank, &o.strides, &mut passed);
        }
        let mut contiguous = vec![Dim::int(1); rank];
        for axis in (1..rank).rev() {
            contiguous[axis - 1] = contiguous[axis].clone() * dims[axis].clone();
        }
        let side_by_side: Vec<bool> = to.iter().map(|to| *to == contiguous).collect();
        // Letters of the results' steps.
        let letters: Vec<String> = (0..to.len()).map(|k| if k == 0 { "q".to_string() } else { format!("q{k}_") }).collect();
        let row_of = |k: usize, axis: usize| self.stated(&to[k][axis], ident(&letters[k], axis));
        for (k, to) in to.iter().enumerate().filter(|(k, _)| !side_by_side[*k]) {
            self.pass(&letters[k], to, &mut passed);
        }
        // The innermost loop runs over `i`; `r` counts the rows around it.
        let loads: Vec<TokenStream> = operands
            .iter()
            .enumerate()
            .map(|(i, o)| {
                let x = &pointers[i];
                // The result may be of another type of that size.
                let own = overwrites(o.value).map(|k| {
                    let (o, ty) = (&outs[k], &types[i]);
                    if self.dtype(operands[i].value) == self.dtype(step.outputs[k]) { quote!(#o) } else { quote!(#o.cast::<#ty>()) }
                });
                let stored = match inner {
                    None => own.map_or(quote!(*#x), |o| quote!(*#o)),
                    Some(_) if own.is_some() => quote!(*#own.add(i)),
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
        let stores: TokenStream = (0..to.len())
            .map(|k| {
                let (o, result) = (&outs[k], &results[k]);
                let stored = expr::store(self.dtype(step.outputs[k]), quote!(#result));
                match inner {
                    None => quote!(*#o = #stored;),
                    // Neighbours of the first result are neighbours of the others, or alone, unless those are placed otherwise.
                    Some(axis) if k > 0 && !to[k][axis].is(1) => {
                        let s = row_of(k, axis);
                        quote!(*#o.add(i * #s) = #stored;)
                    }
                    Some(_) => quote!(*#o.add(i) = #stored;),
                }
            })
            .collect();
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
            None => quote!({ let _ = (from, to); #code #stores }),
            Some(0) => {
                quote! {
                    #(#hoisted)*
                    for i in from..to { #code #stores }
                }
            }
            Some(last) => {
                let width = extent(last);
                // The row number as an index of the outer axes, by division from the inside out.
                let mut split = TokenStream::new();
                let mut offsets: Vec<TokenStream> = vec![TokenStream::new(); operands.len()];
                let mut result_offsets: Vec<TokenStream> = vec![TokenStream::new(); to.len()];
                for axis in (0..last).rev() {
                    let (a, d) = (ident("a", axis), extent(axis));
                    // Nothing is divided where an axis is empty, but rustc looks at the literal.
                    let d = if dims[axis].is(0) { quote!(1) } else { d };
                    for (k, offset) in result_offsets.iter_mut().enumerate() {
                        let s = row_of(k, axis);
                        offset.extend(quote!(+ #a * #s));
                    }
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
                let result_rows = outs.iter().zip(&result_offsets).zip(&side_by_side).map(|((o, offset), side_by_side)| {
                    let row = if *side_by_side { quote!(r * #width) } else { quote!(0 #offset) };
                    quote!(let #o = #o.add(#row);)
                });
                quote! {
                    for r in from..to {
                        let q = r;
                        #split
                        #(#rows)*
                        #(#hoisted)*
                        #(#result_rows)*
                        for i in 0..#width { #code #stores }
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
            .chain(to.iter().flatten())
            .chain(meets.iter().flat_map(|(a, b)| [a, b]))
            .chain(self.result_dims(step))
            .collect();
        let bindings = self.bindings(all);
        let line = proc_macro2::Literal::u32_unsuffixed(step.line as u32);
        let checks = meets.iter().map(|(a, b)| {
            let (a, b) = (self.dim(a), self.dim(b));
            quote!(f.meet(#a, #b, #line)?;)
        });
        let results_at: Vec<TokenStream> = step.outputs.iter().zip(&out_types).map(|(v, ty)| self.result(*v, ty)).collect();
        let Passed { params: extra_params, args: extra_args } = passed;
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
                #(let #outs = #rt::Shared(#results_at);)*
                #(#lets)*
                let (total, width): (usize, usize) = (#total, #width);
                let chunk = (#task / width.max(1)).max(1);
                let isa = f.isa;
                f.spread(total.div_ceil(chunk), total * width, &|task, _| {
                    let (from, to) = (task * chunk, ((task + 1) * chunk).min(total));
                    #(let #outs = { let o = #outs; o.0 };)*
                    // SAFETY: the plan gives every operand its extents, and tasks write disjoint rows of the results.
                    unsafe { #body(isa, #(#outs,)* #(#args,)* #(#extra_args,)* from, to) }
                })
            }
        };
        quote! {
            #wrapper
            #k::kernel_fn! {
                fn #body<A>(#(#outs: *mut #out_types,)* #(#params,)* #(#extra_params,)* from: usize, to: usize) {
                    #loops
                }
            }
        }
    }
}
