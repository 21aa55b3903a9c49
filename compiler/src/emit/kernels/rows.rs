//! Steps of kernels over rows: a block of rows at a time goes through the part before, the kernel and the part behind while it is near.

use super::super::map::Passed;
use super::super::{Printer, element, expr, ident, int, names};
use crate::ir::{Dim, ValueId};
use crate::kernel::{Kernel, Literal, Row, Stage};
use crate::plan::KernelStep;
use crate::target::cpu::rowwise::BLOCK;
use kiln_kernels::dtype::DType;
use proc_macro2::{Ident, Span, TokenStream};
use quote::quote;

/// Elements that a task computes.
const TASK: usize = 1 << 14;

/// A pointwise part of a step; all empty where there is none.
#[derive(Default)]
struct Part {
    /// The function, compiled for every instruction set.
    function: TokenStream,
    /// Statements of the step: the operands' addresses.
    lets: TokenStream,
    /// Its call on the rows `from..to`, given where the first of them is.
    call: TokenStream,
}

/// Statements that take `q` apart into indices of axes, the last one first.
fn split(axes: std::ops::Range<usize>, extent: &dyn Fn(usize) -> TokenStream) -> TokenStream {
    let first = axes.start;
    let each = axes.rev().map(|axis| {
        let (a, d) = (ident("a", axis), extent(axis));
        if axis == first { quote!(let #a = q;) } else { quote!(let #a = q % #d; let q = q / #d;) }
    });
    quote!(#(#each)*)
}

impl Printer<'_> {
    /// A pointwise part over rows, given as arguments: where the first one is, and elements from row to row. `behind` the rows, input 0 is what stands there already.
    fn stage(&self, name: &Ident, stage: Option<&Stage>, behind: bool, at: &TokenStream) -> Part {
        let Some(Stage { expr: e, dims, outer, operands }) = stage else { return Part::default() };
        let (rt, k) = (names::rt(), names::kernels());
        let last = dims.len() - 1;
        // Constant extents and steps are printed in place; run-time ones are passed.
        let mut passed = Passed::default();
        self.pass("d", dims, &mut passed);
        let extent = |axis: usize| self.stated(&dims[axis], ident("d", axis));
        // Nothing is divided where an axis is empty, but rustc looks at the literal.
        let divisor = |axis: usize| if dims[axis].is(0) { quote!(1) } else { extent(axis) };
        let by = |i: usize, axis: usize| self.stated_step(&operands[i].strides[axis], ident("p", i * dims.len() + axis));
        let mut loads = if behind { vec![quote!(*o.add(i))] } else { vec![] };
        let (mut lets, mut hoisted) = (TokenStream::new(), TokenStream::new());
        let (mut row_starts, mut line_starts) = (TokenStream::new(), TokenStream::new());
        for (i, o) in operands.iter().enumerate() {
            let (x, shared) = (ident("x", i), Ident::new(&format!("{name}_{i}"), Span::call_site()));
            let ty = element(self.dtype(o.value));
            self.pass_steps(i * dims.len(), &o.strides, &mut passed);
            let address = self.pointer(o.value, &ty, false);
            lets.extend(quote!(let #shared = #rt::Shared(#address);));
            passed.params.push(quote!(#x: *const #ty));
            passed.args.push(quote!({ let x = #shared; x.0 }));
            let start = |axes: std::ops::Range<usize>| {
                let terms: Vec<TokenStream> = axes
                    .filter(|a| !o.strides[*a].is(0))
                    .map(|axis| {
                        let (a, s) = (ident("a", axis), by(i, axis));
                        quote!(+ #a * #s)
                    })
                    .collect();
                if terms.is_empty() { quote!() } else { quote!(let #x = #x.add(0 #(#terms)*);) }
            };
            row_starts.extend(start(0..*outer));
            line_starts.extend(start(*outer..last));
            let stored = match &o.strides[last] {
                s if s.is(0) => {
                    let c = ident("c", i);
                    hoisted.extend(quote!(let #c = *#x;));
                    quote!(#c)
                }
                s if s.is(1) => quote!(*#x.add(i)),
                _ => {
                    let s = by(i, last);
                    quote!(*#x.add(i * #s))
                }
            };
            loads.push(expr::load(self.dtype(o.value), stored));
        }
        let (code, results) = expr::print(e, &loads);
        let (result, width) = (&results[0], extent(last));
        let line = quote! {
            #hoisted
            for i in 0..#width { #code *o.add(i) = #result; }
        };
        // Lines are the parts of a row whose elements every operand steps through evenly.
        let lines = match outer == &last {
            true => line,
            false => {
                let counts = (*outer..last).map(extent);
                let split = split(*outer..last, &divisor);
                quote! {
                    let lines = 1 #(* #counts)*;
                    for m in 0..lines {
                        let q = m;
                        #split
                        let o = o.add(m * #width);
                        #line_starts
                        #line
                    }
                }
            }
        };
        let Passed { params, args } = passed;
        let rows = if *outer == 0 { quote!() } else { split(0..*outer, &divisor) };
        let function = quote! {
            #k::kernel_fn! {
                fn #name<A>(o: *mut f32, pitch: usize, #(#params,)* from: usize, to: usize) {
                    for r in from..to {
                        let q = r;
                        #rows
                        let o = o.add((r - from) * pitch);
                        #row_starts
                        #lines
                    }
                }
            }
        };
        Part { function, lets, call: quote!(#name(isa, #at, #(#args,)* from, to);) }
    }

    /// The call that makes rows of rows, from `x` to `o`.
    fn row_call(&self, op: &Row) -> (TokenStream, TokenStream) {
        let (rt, k) = (names::rt(), names::kernels());
        let float = |x: f32| expr::literal(Literal::float(f64::from(x)), DType::F32);
        let at = |v: ValueId| self.pointer(v, &quote!(f32), false);
        let both = |scale: TokenStream, bias: TokenStream| quote!(let (scale, bias) = (#rt::Shared(#scale), #rt::Shared(#bias)););
        let taken = quote!(let (scale, bias) = ({ let s = scale; s.0 }, { let b = bias; b.0 }););
        let rows = |epsilon: f32| {
            let epsilon = float(epsilon);
            quote!(let s = #k::norm::Rows { rows: to - from, n, x_pitch, out_pitch, epsilon: #epsilon };)
        };
        match op {
            Row::Norm { epsilon, centred, scale, bias } => {
                let bias = bias.map_or(quote!(core::ptr::null::<f32>()), at);
                let s = rows(*epsilon);
                let call = match centred {
                    true => quote!(#k::norm::layer_norm(isa, s, x, scale, bias, o, core::ptr::null_mut());),
                    false => quote!(let _ = bias; #k::norm::rms_norm(isa, s, x, scale, o);),
                };
                (both(at(*scale), bias), quote!(#taken #s #call))
            }
            Row::GroupNorm { epsilon, groups, channels, scale, bias } => {
                let (groups, channels, s) = (self.dim(groups), self.dim(channels), rows(*epsilon));
                (
                    both(at(*scale), at(*bias)),
                    quote!(#taken #s #k::norm::group_norm(isa, s, [#groups, #channels, from], x, scale, bias, o);),
                )
            }
            Row::Softmax { log: false } => (quote!(), quote!(#k::softmax::softmax(isa, x, x_pitch, o, out_pitch, to - from, n);)),
            Row::Softmax { log: true } => (quote!(), quote!(#k::softmax::log_softmax(isa, x, x_pitch, o, out_pitch, to - from, n);)),
            Row::LpNorm { p, floor } => {
                let (fold, floor) = (Ident::new(if *p == 1 { "L1" } else { "L2" }, Span::call_site()), float(*floor));
                (quote!(), quote!(#k::norm::lp_norm(isa, #k::reduce::Fold::#fold, #floor, x, x_pitch, o, out_pitch, to - from, n);))
            }
            Row::Reduce(fold) => {
                let fold = Ident::new(fold, Span::call_site());
                (quote!(), quote!(#k::reduce::fold_rows(isa, #k::reduce::Fold::#fold, x, x_pitch, o, out_pitch, to - from, n);))
            }
        }
    }

    /// Scratch bytes that a step's workers need: a block of rows, where the part before makes them and nothing else reads them.
    pub(super) fn rows_scratch(&self, step: &KernelStep) -> Option<(Vec<Dim>, TokenStream)> {
        let Kernel::Rows { n, head: Some(_), .. } = &step.kernel else { return None };
        let (width, block) = (self.dim(n), int(BLOCK));
        (step.outputs.len() == 1).then(|| (vec![n.clone()], quote!(Ord::max(#width, #block) * 4)))
    }

    /// A kernel over rows.
    pub(super) fn rows(&self, n: usize, step: &KernelStep) -> TokenStream {
        let Kernel::Rows { op, rows, n: width, x, x_row, out_row, head, tail, meets } = &step.kernel else { return quote!() };
        let rt = names::rt();
        let name = ident("k", n);
        let f32 = quote!(f32);
        let kept = step.outputs.get(1);
        let before = self.stage(&ident("head", n), head.as_ref(), false, &quote!(x, x_pitch));
        let behind = self.stage(&ident("tail", n), tail.as_ref(), true, &quote!(o, out_pitch));
        let (row_lets, row_call) = self.row_call(op);
        let mut dims: Vec<&Dim> = vec![rows, width, x_row, out_row];
        for s in head.iter().chain(tail) {
            dims.extend(s.dims.iter().chain(self.stride_dims(&s.operands)));
        }
        if let Row::GroupNorm { groups, channels, .. } = op {
            dims.extend([groups, channels]);
        }
        dims.extend(meets.iter().flat_map(|(a, b)| [a, b]));
        dims.extend(self.result_dims(step));
        let bindings = self.bindings(dims);
        let line = proc_macro2::Literal::u32_unsuffixed(step.line as u32);
        let checks = meets.iter().map(|(a, b)| {
            let (a, b) = (self.dim(a), self.dim(b));
            quote!(f.meet(#a, #b, #line)?;)
        });
        let o = self.result(step.outputs[0], &f32);
        // What the rows are read from: an operand, the second result, or scratch.
        let (from, at) = match (x, kept) {
            (Some(x), _) => (
                self.pointer(*x, &f32, false),
                quote!(
                    {
                        let x = x;
                        x.0
                    }
                    .add(from * x_pitch)
                ),
            ),
            (None, Some(v)) => (
                self.result(*v, &f32),
                quote!(
                    {
                        let x = x;
                        x.0
                    }
                    .add(from * x_pitch)
                ),
            ),
            (None, None) => (
                quote!(()),
                quote!({
                    let s = scratch;
                    s.at::<f32>(worker)
                }),
            ),
        };
        // Operations on an element, about.
        let work = int(if matches!(op, Row::Softmax { .. }) { 8 } else { 4 });
        let alone = head.is_none() && tail.is_none();
        let (task, block) = (int(TASK), int(if alone { TASK } else { BLOCK }));
        let [rows, width, x_row, out_row] = [rows, width, x_row, out_row].map(|d| self.dim(d));
        let (head_lets, head_call, head_function) = (before.lets, before.call, before.function);
        let (tail_lets, tail_call, tail_function) = (behind.lets, behind.call, behind.function);
        quote! {
            #[inline(never)]
            fn #name(f: &mut #rt::Frame<'_>) -> #rt::Done {
                #bindings
                #(#checks)*
                let o = #rt::Shared(#o);
                let x = #rt::Shared(#from);
                #row_lets
                #head_lets
                #tail_lets
                let (rows, n): (usize, usize) = (#rows, #width);
                let (x_pitch, out_pitch): (usize, usize) = (#x_row, #out_row);
                let chunk = (#task / n.max(1)).max(1);
                let block = (#block / n.max(1)).max(1);
                let isa = f.isa;
                let scratch = f.scratch();
                f.spread(rows.div_ceil(chunk), rows * n * #work, &|task, worker| {
                    let o = { let o = o; o.0 };
                    let _ = (scratch, worker);
                    for from in (task * chunk..((task + 1) * chunk).min(rows)).step_by(block) {
                        let to = (from + block).min((task + 1) * chunk).min(rows);
                        // SAFETY: the plan gives the tensors these extents and a worker this scratch, and tasks write disjoint rows.
                        unsafe {
                            let x = #at;
                            let o = o.add(from * out_pitch);
                            #head_call
                            #row_call
                            #tail_call
                        }
                    }
                })
            }
            #head_function
            #tail_function
        }
    }
}
