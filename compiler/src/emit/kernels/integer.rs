//! Steps of quantized values: integer products with pointwise tails, and the range that values are quantized by.

use super::super::expr::literal;
use super::super::{Printer, element, ident, int, names};
use super::tiled::Tail;
use crate::ir::{Dim, ValueId};
use crate::kernel::{Each, Epilogue, Kernel, Literal, Operand, Requantized, Window};
use crate::plan::KernelStep;
use kiln_kernels::dtype::DType;
use proc_macro2::TokenStream;
use quote::quote;

impl Printer<'_> {
    fn int_gemm_geometry(&self, m: &Dim, n: usize, k: usize, [a_row, out_row]: [&Dim; 2]) -> TokenStream {
        let kernels = names::kernels();
        let (m, n, k, a_row, ldc) = (self.dim(m), int(n), int(k), self.dim(a_row), self.dim(out_row));
        quote!(#kernels::igemm::IntGemm { m: #m, n: #n, k: #k, a_row: #a_row, ldc: #ldc })
    }

    /// Where sums are written: in the place of the result. A tail that makes other elements than those of four bytes stores them itself.
    fn sums(&self, step: &KernelStep, epilogue: Option<&Epilogue>) -> TokenStream {
        if epilogue.is_some_and(|e| e.first.is_some()) {
            return quote!(core::ptr::null_mut::<i32>());
        }
        let o = self.result(step.outputs[0], &element(self.dtype(step.outputs[0])));
        quote!((#o).cast::<i32>())
    }

    /// An integer product with packed constant right side.
    pub(super) fn int_gemm(&self, n: usize, step: &KernelStep) -> TokenStream {
        let Kernel::IntGemm { m, n: columns, k, a, a_row, a_zero, out_row, b, zeros, epilogue } = &step.kernel else {
            return quote!();
        };
        let (name, rt) = (ident("k", n), names::rt());
        let tail_dims = self.tail_dims(epilogue.as_ref());
        let bindings = self.bindings([m, a_row, out_row].into_iter().chain(tail_dims).chain(self.result_dims(step)));
        let g = self.int_gemm_geometry(m, *columns, *k, [a_row, out_row]);
        let Tail { function, lets, closure, arg } = self.int_tail(n, epilogue.as_ref());
        let o = self.sums(step, epilogue.as_ref());
        let (x, zero) = (self.pointer(*a, &quote!(u8), false), self.pointer(*a_zero, &quote!(u8), false));
        let weights = self.packed_as(b, &quote!(u8));
        let zeros = zeros.as_ref().map_or(quote!(core::ptr::null()), |z| self.packed_as(z, &quote!(i32)));
        quote! {
            #[inline(never)]
            fn #name(f: &mut #rt::Frame<'_>) -> #rt::Done {
                #bindings
                let g = #g;
                let o = #rt::Shared(#o);
                let (x, w, zeros) = (#rt::Shared(#x), #rt::Shared(#weights), #rt::Shared(#zeros));
                // SAFETY: the plan gives the zero point one element.
                let zero: u8 = unsafe { *#zero };
                let isa = f.isa;
                let scratch = f.scratch();
                #lets
                #closure
                f.parallel(g.tasks(), &|task, worker| {
                    let (x, w, zeros, o) = ({ let x = x; x.0 }, { let w = w; w.0 }, { let z = zeros; z.0 }, { let o = o; o.0 });
                    let s = { let s = scratch; s.at::<f32>(worker) };
                    // SAFETY: the plan gives every tensor these extents, weights are packed for them, and tasks write disjoint blocks.
                    unsafe { g.run_task(isa, task, x, zero, w, zeros, o, s, #arg) }
                })
            }
            #function
        }
    }
    /// Scratch of an integer product, as `Printer::scratch` gives it.
    pub(super) fn int_gemm_scratch(&self, step: &KernelStep) -> Option<(Vec<Dim>, TokenStream)> {
        let Kernel::IntGemm { m, n, k, a_row, out_row, .. } = &step.kernel else { return None };
        let g = self.int_gemm_geometry(m, *n, *k, [a_row, out_row]);
        Some((vec![m.clone(), a_row.clone(), out_row.clone()], quote!(#g.scratch_floats() * 4)))
    }

    /// The geometry of an integer convolution, and the extents in it.
    fn int_conv_geometry(&self, w: &Window, k: usize, depthwise: Option<bool>, shifted: bool) -> (TokenStream, Vec<Dim>) {
        let kernels = names::kernels();
        let (common, dims) = self.window_tokens(w);
        let strides = w.x_strides.iter().map(|d| self.dim(d));
        let k = int(k);
        let conv = quote!(#kernels::igemm::IntConv { #common, k: #k, x_strides: [#(#strides),*], shifted: #shifted });
        let alone = |wide: bool| quote!(#kernels::igemm::IntDepthwise { conv: #conv, wide: #wide });
        (depthwise.map_or(conv.clone(), alone), dims)
    }
    /// The tail of integer sums: a conversion to bytes by the library, or a function of its own.
    fn int_tail(&self, n: usize, epilogue: Option<&Epilogue>) -> Tail {
        let found = epilogue.and_then(|e| Some((e, e.first.as_ref()?, Requantized::of(e)?)));
        let Some((e, to, q)) = found else { return self.tail(n, epilogue, None) };
        let (rt, k) = (names::rt(), names::kernels());
        let literal = |x: f32| literal(Literal::float(f64::from(x)), DType::F32);
        let each = |x: Each| {
            let (at, step) = match x {
                Each::Operand(i, each) => (self.pointer(e.operands[i].value, &quote!(f32), false), int(usize::from(each))),
                Each::Number(x) => {
                    let x = literal(x);
                    (quote!(const { &[#x] }.as_ptr()), int(0))
                }
            };
            quote!(#k::igemm::Each { at: #at, step: #step })
        };
        let (scale, bias, zero) = (each(q.scale), each(q.bias), q.zero);
        let row = |o: &Operand| self.stride_of(&o.strides[o.strides.len() - 2]);
        let add = q.add.map_or(quote!(None), |a| {
            let o = &e.operands[a.operand];
            let (bytes, pitch) = (self.pointer(o.value, &quote!(u8), false), row(o));
            let (zero, scale, sum_zero) = (a.zero, literal(a.scale), a.sum_zero);
            let (own, own_zero) = (a.own.map(literal).map_or(quote!(None), |s| quote!(Some(#s))), a.own_zero);
            let own = quote!(own: #own, own_zero: #own_zero);
            quote!(Some(#k::igemm::Addend { bytes: #bytes, pitch: #pitch, zero: #zero, scale: #scale, #own, sum_zero: #sum_zero }))
        });
        let table = q.table.map_or(quote!(None), |t| {
            let t = t.iter();
            quote!(Some(const { &[#(#t),*] }))
        });
        let (out, pitch) = (self.result(to.value, &quote!(u8)), row(to));
        Tail {
            function: quote!(),
            lets: quote! {
                let q = #k::igemm::Requantize { scale: #scale, bias: #bias, zero: #zero, table: #table, add: #add };
                let yz = #rt::Shared(#out);
            },
            closure: quote! {
                let tail = move |b: #k::gemm::Block| {
                    let yz = yz;
                    // SAFETY: the block lies inside of the result, and so of the operands.
                    unsafe { #k::igemm::requantize(isa, &b, &q, yz.0, #pitch) }
                };
            },
            arg: quote!(Some(&tail)),
        }
    }
    /// An integer convolution.
    pub(super) fn int_conv(&self, n: usize, step: &KernelStep) -> TokenStream {
        let Kernel::IntConv { window, k, depthwise, x, zero, weights, zeros, epilogue } = &step.kernel else { return quote!() };
        let (name, rt) = (ident("k", n), names::rt());
        let (g, dims) = self.int_conv_geometry(window, *k, *depthwise, zeros.is_some());
        let bindings = self.bindings(dims.iter().chain(self.tail_dims(epilogue.as_ref())).chain(self.result_dims(step)));
        let Tail { function, lets, closure, arg } = self.int_tail(n, epilogue.as_ref());
        let o = self.sums(step, epilogue.as_ref());
        let (x, zero) = (self.pointer(*x, &quote!(u8), false), self.pointer(*zero, &quote!(u8), false));
        let weights = self.packed_as(weights, &quote!(u8));
        // The kernel of channels alone has no zero points of weights.
        let (zeros, zeros_of_task) = match (depthwise, zeros) {
            (Some(_), _) => (quote!(), quote!()),
            (None, z) => {
                let z = z.as_ref().map_or(quote!(core::ptr::null()), |z| self.packed_as(z, &quote!(i32)));
                (
                    quote!(let zeros: #rt::Shared<*const i32> = #rt::Shared(#z);),
                    quote!({
                        let z = zeros;
                        z.0
                    },),
                )
            }
        };
        quote! {
            #[inline(never)]
            fn #name(f: &mut #rt::Frame<'_>) -> #rt::Done {
                #bindings
                let g = #g;
                let o = #rt::Shared(#o);
                let (x, w) = (#rt::Shared(#x), #rt::Shared(#weights));
                #zeros
                // SAFETY: the plan gives the zero point one element.
                let zero: u8 = unsafe { *#zero };
                let isa = f.isa;
                let scratch = f.scratch();
                #lets
                #closure
                f.parallel(g.tasks(), &|task, worker| {
                    let (x, w, o) = ({ let x = x; x.0 }, { let w = w; w.0 }, { let o = o; o.0 });
                    let s = { let s = scratch; s.at::<f32>(worker) };
                    // SAFETY: the plan gives every tensor these extents, weights are packed for them, and tasks write disjoint blocks.
                    unsafe { g.run_task(isa, task, x, zero, w, #zeros_of_task o, s, #arg) }
                })
            }
            #function
        }
    }
    /// Scratch of an integer convolution, as `Printer::scratch` gives it.
    pub(super) fn int_conv_scratch(&self, step: &KernelStep) -> Option<(Vec<Dim>, TokenStream)> {
        let Kernel::IntConv { window, k, depthwise, zeros, .. } = &step.kernel else { return None };
        let (g, dims) = self.int_conv_geometry(window, *k, *depthwise, zeros.is_some());
        Some((dims, quote!(#g.scratch_floats() * 4)))
    }

    /// The scale and the zero point of values.
    pub(super) fn calibrate(&self, n: usize, step: &KernelStep, x: ValueId, elements: &Dim) -> TokenStream {
        let (name, rt, k) = (ident("k", n), names::rt(), names::kernels());
        let bindings = self.bindings([elements].into_iter().chain(self.result_dims(step)));
        let (scale, zero) = (self.result(step.outputs[0], &quote!(f32)), self.result(step.outputs[1], &quote!(u8)));
        let (x, elements) = (self.pointer(x, &quote!(f32), false), self.dim(elements));
        quote! {
            #[inline(never)]
            fn #name(f: &mut #rt::Frame<'_>) -> #rt::Done {
                #bindings
                let n: usize = #elements;
                let scale: *mut f32 = #scale;
                let zero: *mut u8 = #zero;
                let x = #rt::Shared(#x);
                let isa = f.isa;
                let range = #k::quantize::Range::default();
                f.spread(n.div_ceil(#k::quantize::TASK), n, &|task, _| {
                    let from = task * #k::quantize::TASK;
                    let x = { let x = x; x.0 };
                    // SAFETY: the plan gives the operand as many elements.
                    range.add(unsafe { #k::quantize::extremes(isa, x.add(from), (n - from).min(#k::quantize::TASK)) });
                })?;
                // SAFETY: both results have one element of memory of their own.
                unsafe { (*scale, *zero) = range.parameters() };
                Ok(())
            }
        }
    }
}
