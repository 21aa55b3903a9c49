//! The function that runs the steps, and the control flow between them.

use super::kernels::packed_bytes;
use super::{Printer, ident, int, names};
use crate::ir::{Dim, ValueId, product};
use crate::plan::{Arena, Check, KernelStep, LoopStep, On, Place, Step, Transfer};
use proc_macro2::{Literal, TokenStream};
use quote::quote;
use std::collections::BTreeSet;

/// The `run` function of the model.
pub(super) fn run(p: &Printer<'_>) -> TokenStream {
    let rt = names::rt();
    let mut next = 0;
    let constants = p.string_constants();
    let steps = p.block(&p.plan.steps, &mut next);
    quote! {
        fn run(f: &mut #rt::Frame<'_>) -> #rt::Done {
            #constants
            #steps
            Ok(())
        }
    }
}

impl Printer<'_> {
    /// String constants, which live in slots.
    fn string_constants(&self) -> TokenStream {
        let rt = names::rt();
        let each = self.plan.places.iter().filter_map(|(v, p)| {
            let (Place::Slot(k), Some(t)) = (p, &self.plan.graph[*v].constant) else { return None };
            let (k, dims, text) = (int(*k), t.dims.iter().map(|d| int(*d)), t.as_strings());
            Some(quote!(f.set_slot(#k, #rt::strings(&[#(#dims),*], &[#(#text),*]));))
        });
        quote!(#(#each)*)
    }

    /// The steps of the model's own block. In a plan for a GPU, what the CPU computes is surrounded by copies, and the results are brought
    /// at the end.
    fn block(&self, steps: &[Step], next: &mut usize) -> TokenStream {
        if self.plan.device.is_none() {
            return self.steps(steps, next);
        }
        let each = steps.iter().map(|s| {
            let code = self.steps(std::slice::from_ref(s), next);
            if matches!(s, Step::Kernel(k) if k.on == On::Gpu) {
                return code;
            }
            let (mut read, mut written) = (BTreeSet::new(), BTreeSet::new());
            self.buffers_of(s, &mut read, &mut written);
            // A part of a buffer is written beside others that must stay.
            read.extend(&written);
            let (read, written) = (self.ranges(&read), self.ranges(&written));
            quote!(f.fetch(#read)?; #code f.send(#written)?;)
        });
        let each: Vec<TokenStream> = each.collect();
        let results = self.plan.outputs().filter_map(|(v, _)| self.buffer_of(v)).collect();
        let results = self.ranges(&results);
        quote!(#(#each)* f.results(#results)?;)
    }
    fn buffer_of(&self, v: ValueId) -> Option<usize> {
        match self.plan.places.get(&v) {
            Some(Place::Buffer(b)) => Some(*b),
            _ => None,
        }
    }
    /// The buffers that a step of the CPU reads, and those that it writes.
    fn buffers_of(&self, s: &Step, read: &mut BTreeSet<usize>, written: &mut BTreeSet<usize>) {
        let of = |v: &ValueId| self.buffer_of(*v);
        match s {
            Step::Kernel(k) => {
                read.extend(k.inputs.iter().flatten().chain(&k.kernel.values()).filter_map(of));
                written.extend(k.outputs.iter().filter_map(of));
            }
            Step::If { cond, branches, results, .. } => {
                read.extend(of(cond));
                branches.iter().flatten().for_each(|s| self.buffers_of(s, read, written));
                results.iter().flatten().for_each(|t| {
                    read.extend(of(&t.from));
                    written.extend(of(&t.to));
                });
            }
            Step::Loop(l) => {
                read.extend(l.trips.iter().chain(&l.cond).chain([&l.conds.1]).filter_map(of));
                written.extend([&l.iteration, &l.conds.0].into_iter().filter_map(of));
                l.body.iter().for_each(|s| self.buffers_of(s, read, written));
                l.enter.iter().chain(&l.next).chain(&l.stacks).for_each(|t| {
                    read.extend(of(&t.from));
                    written.extend(of(&t.to));
                });
            }
        }
    }
    /// Where buffers lie, and their bytes.
    fn ranges(&self, buffers: &BTreeSet<usize>) -> TokenStream {
        let dims: Vec<Dim> = buffers.iter().map(|b| self.plan.most(&self.plan.buffers[*b].bytes)).collect();
        let bindings = self.bindings(&dims);
        let each = buffers.iter().zip(&dims).map(|(b, bytes)| {
            let bytes = self.dim(bytes);
            let at = match &self.plan.arena {
                Arena::Fixed { offsets, .. } => {
                    let o = int(offsets[*b] as usize);
                    quote!(#o)
                }
                Arena::Open => {
                    let b = int(*b);
                    quote!(f.offset(#b))
                }
            };
            quote!((#at, #bytes))
        });
        quote!(&{ #bindings [#(#each),*] })
    }
    /// Whether inputs are read by steps of the GPU, one by one.
    pub(super) fn uploads(&self) -> Vec<bool> {
        let mut out = vec![false; self.plan.inputs().count()];
        for k in self.plan.kernels().into_iter().filter(|k| k.on == On::Gpu) {
            for v in k.inputs.iter().flatten().chain(&k.kernel.values()) {
                if let Some(Place::Input(i)) = self.plan.places.get(v) {
                    out[*i] = true;
                }
            }
        }
        out
    }
    /// Whether inputs are read by the CPU's part of a plan for a GPU, or handed out, one by one.
    pub(super) fn reads_here(&self) -> Vec<bool> {
        let mut out = vec![false; self.plan.inputs().count()];
        let outputs = self.plan.outputs().map(|(v, _)| v);
        for v in self.plan.read_by_cpu().into_iter().chain(outputs) {
            if let Some(Place::Input(i)) = self.plan.places.get(&v) {
                out[*i] = true;
            }
        }
        out
    }
    /// Whether every run does the same: no step decides which others run.
    pub(super) fn replays(&self) -> bool {
        self.plan.steps.iter().all(|s| matches!(s, Step::Kernel(_)))
    }

    fn steps(&self, steps: &[Step], next: &mut usize) -> TokenStream {
        let mut out = TokenStream::new();
        for s in steps {
            out.extend(match s {
                Step::Kernel(step) => {
                    let (k, n) = (ident("k", *next), int(*next));
                    *next += 1;
                    let before = self.before(step);
                    quote!(#before f.step(#n, #k)?;)
                }
                Step::If { cond, branches, results, defines, line } => {
                    let cond = self.flag(*cond);
                    let (yes, no) = (self.steps(&branches[0], next), self.steps(&branches[1], next));
                    let (yes_out, no_out) = (self.transfers(&results[0], *line), self.transfers(&results[1], *line));
                    let defines = self.defines(defines, *line);
                    let values: Vec<ValueId> = results[0].iter().map(|t| t.to).collect();
                    let checks = self.checks(&values, *line);
                    quote! {
                        if #cond { #yes #yes_out } else { #no #no_out }
                        #defines
                        #checks
                    }
                }
                Step::Loop(l) => self.repeat(l, next),
            });
        }
        out
    }

    /// What must hold before a step: extents that agree, and scratch for sizes that the inputs do not settle.
    fn before(&self, step: &KernelStep) -> TokenStream {
        let checks = step.requires.iter().map(|(c, line)| {
            let line = Literal::u32_unsuffixed(*line as u32);
            let bindings = self.bindings(c.dims());
            let check = match c {
                Check::Equal(a, b) => {
                    let (a, b) = (self.dim(a), self.dim(b));
                    quote!(f.equal(#a, #b, #line)?;)
                }
                Check::Meet(a, b) => {
                    let (a, b) = (self.dim(a), self.dim(b));
                    quote!(f.meet(#a, #b, #line)?;)
                }
                Check::Within { index, extent, count } => {
                    let (i, n, count) = (self.signed(index), self.dim(extent), self.dim(count));
                    quote!(f.within(#i, #n, #count, #line)?;)
                }
            };
            quote!({ #bindings #check })
        });
        let scratch = self.scratch(step).filter(|(d, _)| !self.settled(d)).map(|(d, bytes)| {
            let bindings = self.bindings(&d);
            quote!({ #bindings let n = #bytes; f.need_scratch(n)?; })
        });
        quote!(#(#checks)* #scratch)
    }
    /// Whether the inputs settle the extents.
    pub(super) fn settled(&self, dims: &[Dim]) -> bool {
        dims.iter().all(|d| self.plan.graph.known_at_entry(d))
    }

    /// The truth of a bool scalar.
    fn flag(&self, v: ValueId) -> TokenStream {
        let at = self.pointer(v, &quote!(u8), false);
        // SAFETY (of the printed block): the plan keeps the scalar where it says.
        quote!(unsafe { *#at } != 0)
    }

    fn transfers(&self, list: &[Transfer], line: usize) -> TokenStream {
        let each = list.iter().map(|t| self.transfer(*t, line));
        quote!(#(#each)*)
    }
    /// Moves a whole value to another place. Values that blocks read or hand out begin where their places do.
    fn transfer(&self, t: Transfer, line: usize) -> TokenStream {
        let rt = names::rt();
        if self.plan.places.get(&t.from) == self.plan.places.get(&t.to) {
            return quote!();
        }
        let line = Literal::u32_unsuffixed(line as u32);
        let shape = self.plan.graph.shape(t.from);
        let bindings = self.bindings(shape.iter().chain(self.plan.graph.shape(t.to)));
        match self.plan.places.get(&t.to) {
            Some(Place::Slot(k)) => {
                let (k, value) = (int(*k), self.value(t.from));
                quote!({ #bindings let v = #value; f.set_slot(#k, v); })
            }
            _ => {
                let bytes = self.bytes(t.to);
                let to = self.pointer(t.to, &quote!(u8), true);
                match self.plan.places.get(&t.from) {
                    Some(Place::Slot(k)) => {
                        let k = int(*k);
                        quote!({ #bindings unsafe { #rt::Frame::store(f.slot(#k), #to, #bytes, #line)?; } })
                    }
                    _ => {
                        let from = self.pointer(t.from, &quote!(u8), false);
                        quote!({
                            #bindings
                            // SAFETY: both have this many bytes, and the plan keeps them apart.
                            unsafe { core::ptr::copy(#from, #to, #bytes) };
                        })
                    }
                }
            }
        }
    }
    fn bytes(&self, v: ValueId) -> TokenStream {
        let dtype = self.dtype(v);
        if (1..8).contains(&dtype.bits()) {
            return packed_bytes(dtype, &self.dim(&product(self.plan.graph.shape(v))));
        }
        let n: Dim = product(self.plan.graph.shape(v)) * Dim::int(dtype.size() as i64);
        self.dim(&n)
    }

    fn repeat(&self, l: &LoopStep, next: &mut usize) -> TokenStream {
        let rt = names::rt();
        let trips = match l.trips {
            Some(v) => {
                let ty = super::element(self.dtype(v));
                let at = self.pointer(v, &ty, false);
                // SAFETY (of the printed block): the plan keeps the scalar where it says.
                quote!(unsafe { *#at } as i64)
            }
            None => quote!(i64::MAX),
        };
        let cond = l.cond.map_or(quote!(true), |v| self.flag(v));
        let enter = self.transfers(&l.enter, l.line);
        let carried = self.defines(&l.carried, l.line);
        let carried_values: Vec<ValueId> = l.enter.iter().map(|t| t.to).collect();
        let carried_checks = self.checks(&carried_values, l.line);
        let body = self.steps(&l.body, next);
        let again = self.flag(l.conds.1);
        let iteration = self.pointer(l.iteration, &quote!(i64), true);
        let inside = self.pointer(l.conds.0, &quote!(u8), true);
        let next_values = if l.staged {
            // Values are read whole before any is written.
            let reads = l.next.iter().enumerate().map(|(i, t)| {
                let (name, value) = (ident("n", i), self.value(t.from));
                let bindings = self.bindings(self.plan.graph.shape(t.from));
                quote!(let #name = { #bindings #value };)
            });
            let line = Literal::u32_unsuffixed(l.line as u32);
            let writes = l.next.iter().enumerate().map(|(i, t)| {
                let name = ident("n", i);
                match self.plan.places.get(&t.to) {
                    Some(Place::Slot(k)) => {
                        let k = int(*k);
                        quote!(f.set_slot(#k, #name);)
                    }
                    _ => {
                        let (to, bytes) = (self.pointer(t.to, &quote!(u8), true), self.bytes(t.to));
                        let bindings = self.bindings(self.plan.graph.shape(t.to));
                        quote!({ #bindings unsafe { #rt::Frame::store(&#name, #to, #bytes, #line)?; } })
                    }
                }
            });
            quote!(#(#reads)* #(#writes)*)
        } else {
            self.transfers(&l.next, l.line)
        };
        let (mut before, mut stacks) = (TokenStream::new(), TokenStream::new());
        for t in &l.stacks {
            let shape = self.plan.graph.shape(t.from);
            let bindings = self.bindings(shape);
            match self.plan.places.get(&t.to) {
                Some(Place::Slot(k)) => {
                    let (k, value) = (int(*k), self.value(t.from));
                    let dtype = super::dtype_path(self.dtype(t.to));
                    // Extents that no iteration has defined yet count as 0.
                    let empty = shape.iter().map(|d| match d.as_int() {
                        Some(n) => {
                            let n = int(n.max(0) as usize);
                            quote!(#n)
                        }
                        None => quote!(0),
                    });
                    before.extend(quote!(f.begin_stack(#k, #dtype, &[#(#empty),*]);));
                    stacks.extend(quote!({ #bindings let v = #value; f.push_stack(#k, v)?; }));
                }
                _ => {
                    let bytes = self.bytes(t.from);
                    let (from, to) = (self.pointer(t.from, &quote!(u8), false), self.pointer(t.to, &quote!(u8), true));
                    stacks.extend(quote!({
                        #bindings
                        let n = #bytes;
                        // SAFETY: the result holds a slice for every trip.
                        unsafe { core::ptr::copy_nonoverlapping(#from, #to.add(trip as usize * n), n) };
                    }));
                }
            }
        }
        let defines = self.defines(&l.defines, l.line);
        quote! {
            {
                let trips: i64 = #trips;
                let mut on = #cond;
                #before
                #enter
                let mut trip = 0i64;
                while trip < trips && on {
                    // SAFETY: the plan keeps the iteration number and the condition where it says.
                    unsafe { *#iteration = trip; *#inside = on as u8; }
                    #carried
                    #carried_checks
                    #body
                    on = #again;
                    #stacks
                    #next_values
                    trip += 1;
                }
            }
            #defines
        }
    }
}
