//! One function a kernel step: pointers from the plan, geometry as constants, tasks spread over the threads.

use super::{Printer, dtype_path, element, expr, ident, int, names};
use crate::ir::{Dim, Type, ValueId, product};
use crate::kernel::{Copy, Epilogue, Kernel, Operand, Packed, Stride, Window};
use crate::ops::{Call, CallArg};
use crate::plan::{Define, KernelStep, Place};
use proc_macro2::{Ident, Literal, Span, TokenStream};
use quote::quote;

/// A line of the table of kernels.
pub(super) struct Listed {
    pub(super) name: String,
    pub(super) what: String,
    pub(super) nodes: Vec<usize>,
}

/// The functions of all kernel steps, and their lines in the table.
pub(super) fn functions(p: &Printer<'_>) -> (Vec<TokenStream>, Vec<Listed>) {
    let mut out = Vec::new();
    let mut listed = Vec::new();
    for (n, step) in p.plan.kernels().into_iter().enumerate() {
        let what = p.describe(step);
        listed.push(Listed { name: format!("k{n}"), what: what.clone(), nodes: step.origins.clone() });
        let f = p.function(n, step);
        out.push(quote!(#[doc = #what] #f));
    }
    (out, listed)
}

impl Printer<'_> {
    /// A sentence on what a kernel does, without any name of the model.
    fn describe(&self, step: &KernelStep) -> String {
        let ty = |v: &ValueId| self.plan.graph.ty(*v).to_string();
        let inputs: Vec<String> = step.inputs.iter().flatten().map(ty).collect();
        let outputs: Vec<String> = step.outputs.iter().map(ty).collect();
        let tail = match &step.kernel {
            Kernel::Map { expr, .. } => format!(": {expr}"),
            k => k.epilogue().map_or(String::new(), |e| format!(", then {}", e.expr)),
        };
        let mut text = format!("{}: {} -> {}{tail}", step.kernel.name(), inputs.join(", "), outputs.join(", "));
        if text.len() > 400 {
            text.truncate(text.char_indices().take_while(|(i, _)| *i < 400).last().map_or(0, |(i, _)| i));
            text.push('…');
        }
        text
    }

    /// The dims a step needs to shape results that lie in slots.
    pub(super) fn result_dims(&self, step: &KernelStep) -> Vec<&Dim> {
        let in_slot = |v: &&ValueId| matches!(self.plan.places.get(v), Some(Place::Slot(_)));
        step.outputs.iter().filter(in_slot).flat_map(|v| self.plan.graph.shape(*v)).collect()
    }
    /// The address of a result, its slot shaped first where it lies in one.
    pub(super) fn result(&self, v: ValueId, ty: &TokenStream) -> TokenStream {
        match self.plan.places.get(&v) {
            Some(Place::Slot(k)) => {
                let k = int(*k);
                let dims = self.plan.graph.shape(v).iter().map(|d| self.dim(d));
                let dtype = dtype_path(self.dtype(v));
                quote!(f.shape_slot::<#ty>(#k, #dtype, &[#(#dims),*]))
            }
            _ => self.pointer(v, ty, true),
        }
    }
    fn packed(&self, p: &Packed) -> TokenStream {
        let same = |b: &&crate::plan::Blob| {
            let constant = |v: ValueId| self.plan.graph[v].constant.as_ref().map(|t| t.bytes());
            b.packed.recipe == p.recipe && (b.packed.value == p.value || constant(b.packed.value) == constant(p.value))
        };
        let offset = int(self.plan.weights.blobs.iter().find(same).map_or(0, |b| b.offset));
        quote!(f.weight::<f32>(#offset))
    }
    fn shared(&self, name: &Ident, at: TokenStream) -> TokenStream {
        let rt = names::rt();
        quote!(let #name = #rt::Shared(#at);)
    }
    fn three(&self, d: &[Dim; 3]) -> TokenStream {
        let d = d.iter().map(|d| self.dim(d));
        quote!([#(#d),*])
    }

    fn function(&self, n: usize, step: &KernelStep) -> TokenStream {
        match &step.kernel {
            Kernel::Map { expr, dims, operands, meets } => self.map(n, step, expr, dims, operands, meets),
            Kernel::Conv { window, k, groups, depthwise, x, weights, bias, epilogue } => {
                self.conv(n, step, window, (*k, *groups, *depthwise), *x, (weights, bias.as_ref()), epilogue.as_ref())
            }
            Kernel::Gemm { m, n: columns, k, a, b, bias, epilogue } => {
                let (columns, k) = (int(*columns), int(*k));
                let m_dim = self.dim(m);
                let kernels = names::kernels();
                let geometry = quote!(#kernels::gemm::Gemm { m: #m_dim, n: #columns, k: #k, a_row: #k, a_col: 1, ldc: #columns });
                let a = self.pointer(*a, &quote!(f32), false);
                let bias = bias.as_ref().map_or(quote!(core::ptr::null()), |b| self.packed(b));
                self.tiled(n, step, vec![m], geometry, a, self.packed(b), bias, epilogue.as_ref(), true)
            }
            Kernel::MatMul { batch, m, n: columns, k, a, b, epilogue } => {
                self.matmul(n, step, batch, [m, columns, k], a, b, epilogue.as_ref())
            }
            Kernel::Pool { window, kind, x } => self.pool(n, step, window, kind, *x),
            Kernel::GlobalMean { n: images, pixels, c, x } => {
                let (images_, pixels_, c_) = (self.dim(images), self.dim(pixels), self.dim(c));
                let k = names::kernels();
                let body = quote! {
                    let (images, pixels, c): (usize, usize, usize) = (#images_, #pixels_, #c_);
                    f.spread(images, images * pixels * c, &|task, _| {
                        let (x, o) = ({ let x = x; x.0 }, { let o = o; o.0 });
                        // SAFETY: each task reads one image and writes its channels.
                        unsafe { #k::pool::global_mean(isa, x.add(task * pixels * c), c, pixels, c, o.add(task * c)) }
                    })
                };
                self.simple(n, step, vec![images, pixels, c], *x, body)
            }
            Kernel::Softmax { dims, log, x } => {
                let [outer, axis, inner] = [0, 1, 2].map(|i| self.dim(&dims[i]));
                let k = names::kernels();
                let body = quote! {
                    let s = #k::softmax::Softmax { outer: #outer, n: #axis, inner: #inner, log: #log };
                    f.spread(s.tasks(), s.outer * s.n * s.inner * 8, &|task, _| {
                        let (x, o) = ({ let x = x; x.0 }, { let o = o; o.0 });
                        // SAFETY: the plan gives both tensors these extents, and tasks write disjoint rows.
                        unsafe { s.run_task(isa, task, x, o) }
                    })
                };
                self.simple(n, step, dims.iter().collect(), *x, body)
            }
            Kernel::LayerNorm { rows, n: width, epsilon, x, scale, bias } => {
                let (rows_, width_) = (self.dim(rows), self.dim(width));
                let k = names::kernels();
                let epsilon = expr::literal(crate::kernel::Literal::float(*epsilon as f64), kiln_kernels::dtype::DType::F32);
                let scale = self.pointer(*scale, &quote!(f32), false);
                let bias = bias.map_or(quote!(core::ptr::null()), |b| self.pointer(b, &quote!(f32), false));
                let rt = names::rt();
                let body = quote! {
                    let (rows, n): (usize, usize) = (#rows_, #width_);
                    let (scale, bias) = (#rt::Shared(#scale), #rt::Shared(#bias));
                    let chunk = (16384 / n.max(1)).max(1);
                    f.spread(rows.div_ceil(chunk), rows * n * 4, &|task, _| {
                        let (x, o) = ({ let x = x; x.0 }, { let o = o; o.0 });
                        let (scale, bias) = ({ let s = scale; s.0 }, { let b = bias; b.0 });
                        let from = task * chunk;
                        let s = #k::norm::Rows { rows: chunk.min(rows - from), n, x_pitch: n, out_pitch: n, epsilon: #epsilon };
                        // SAFETY: the plan gives the tensors these extents, and tasks write disjoint rows.
                        unsafe { #k::norm::layer_norm(isa, s, x.add(from * n), scale, bias, o.add(from * n), core::ptr::null_mut()) }
                    })
                };
                self.simple(n, step, vec![rows, width], *x, body)
            }
            Kernel::Move { copies, dtype } if *dtype == kiln_kernels::dtype::DType::Str => {
                let _ = copies;
                self.move_strings(n, step)
            }
            Kernel::Move { copies, dtype } => self.moves(n, step, copies, &element(*dtype)),
            Kernel::Call(c) => self.call(n, step, c),
            Kernel::Dims { elements, dtype } => {
                let name = ident("k", n);
                let ty = element(*dtype);
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
            Kernel::Host(h) => self.host(n, step, h),
        }
    }

    /// A step of one operand `x` and one result `o`, both shared, with `isa` at hand.
    fn simple(&self, n: usize, step: &KernelStep, dims: Vec<&Dim>, x: ValueId, body: TokenStream) -> TokenStream {
        let name = ident("k", n);
        let rt = names::rt();
        let bindings = self.bindings(dims.into_iter().chain(self.result_dims(step)));
        let (x_name, o_name) = (Ident::new("x", Span::call_site()), Ident::new("o", Span::call_site()));
        let o = self.result(step.outputs[0], &quote!(f32));
        let (lo, lx) = (self.shared(&o_name, o), self.shared(&x_name, self.pointer(x, &quote!(f32), false)));
        quote! {
            #[inline(never)]
            fn #name(f: &mut #rt::Frame<'_>) -> #rt::Done {
                #bindings
                #lo
                #lx
                let isa = f.isa;
                #body
            }
        }
    }

    fn window_tokens(&self, w: &Window) -> (TokenStream, Vec<Dim>) {
        let mut dims = vec![w.n.clone(), w.c.clone()];
        dims.extend(w.in_dims.iter().chain(&w.out_dims).chain(&w.x_strides).cloned());
        let list = |v: &[usize; 3]| {
            let v = v.iter().map(|x| int(*x));
            quote!([#(#v),*])
        };
        let (n, c) = (self.dim(&w.n), self.dim(&w.c));
        let (i, o) = (self.three(&w.in_dims), self.three(&w.out_dims));
        let (kernel, stride, pad, dilation) = (list(&w.kernel), list(&w.stride), list(&w.pad), list(&w.dilation));
        let common = quote! {
            n: #n, c: #c, in_dims: #i, kernel: #kernel, stride: #stride, pad: #pad, dilation: #dilation, out_dims: #o
        };
        (common, dims)
    }

    #[allow(clippy::type_complexity, reason = "the pairs are named at the only call")]
    fn conv(
        &self,
        n: usize,
        step: &KernelStep,
        w: &Window,
        (k, groups, depthwise): (usize, usize, bool),
        x: ValueId,
        (weights, bias): (&Packed, Option<&Packed>),
        epilogue: Option<&Epilogue>,
    ) -> TokenStream {
        let kernels = names::kernels();
        let (common, mut dims) = self.window_tokens(w);
        let pixels = product(&w.out_dims);
        dims.push(pixels.clone());
        let strides = w.x_strides.iter().map(|d| self.dim(d));
        let (pixels, k, groups) = (self.dim(&pixels), int(k), int(groups));
        let conv = quote! {
            #kernels::conv::Conv {
                #common, k: #k, groups: #groups, x_strides: [#(#strides),*], out_pitch: #k, out_batch: #pixels * #k
            }
        };
        let geometry = if depthwise { quote!(#kernels::depthwise::Depthwise(#conv)) } else { conv };
        let bias = bias.map_or(quote!(core::ptr::null()), |b| self.packed(b));
        let x = self.pointer(x, &quote!(f32), false);
        let dims: Vec<&Dim> = dims.iter().collect();
        self.tiled(n, step, dims, geometry, x, self.packed(weights), bias, epilogue, !depthwise)
    }

    /// The function of a pointwise tail on one block, compiled for every instruction set; its operands' pointers follow the block.
    fn tail(&self, n: usize, e: &Epilogue) -> (TokenStream, Vec<Ident>) {
        let k = names::kernels();
        let name = ident("tail", n);
        let axes = e.operands.first().map_or(0, |o| o.strides.len());
        let (row, column) = (axes.saturating_sub(2), axes.saturating_sub(1));
        let mut loads = vec![quote!(*o.add(c))];
        let (mut params, mut rows, mut hoisted) = (Vec::new(), Vec::new(), Vec::new());
        let mut names_ = Vec::new();
        for (i, o) in e.operands.iter().enumerate() {
            let (x, ty) = (ident("x", i), element(self.dtype(o.value)));
            let p = ident("p", i);
            params.push(quote!(#x: *const #ty, #p: usize));
            let stored = match &o.strides[column] {
                s if s.is(0) => {
                    let c = ident("c", i);
                    hoisted.push(quote!(let #c = *#x;));
                    quote!(#c)
                }
                _ => quote!(*#x.add(c)),
            };
            if !o.strides[row].is(0) {
                rows.push(quote!(let #x = #x.add(r * #p);));
            }
            loads.push(expr::load(self.dtype(o.value), stored));
            names_.push(x);
        }
        let (code, results) = expr::print(&e.expr, &loads);
        let result = &results[0];
        let unused = names_.iter().enumerate().filter(|(i, _)| e.operands[*i].strides[row].is(0)).map(|(i, _)| ident("p", i));
        let function = quote! {
            #k::kernel_fn! {
                fn #name<A>(o: *mut f32, pitch: usize, rows: usize, cols: usize, #(#params),*) {
                    let _ = (#(#unused),*);
                    for r in 0..rows {
                        let o = o.add(r * pitch);
                        #(#rows)*
                        #(#hoisted)*
                        for c in 0..cols { #code *o.add(c) = #result; }
                    }
                }
            }
        };
        (function, names_)
    }

    /// A step of a kernel over register tiles: `g` with `tasks` and `run_task`, and a tail on its blocks.
    #[allow(clippy::too_many_arguments, reason = "one place prints convolutions and matrix products alike")]
    fn tiled(
        &self,
        n: usize,
        step: &KernelStep,
        dims: Vec<&Dim>,
        geometry: TokenStream,
        x: TokenStream,
        weights: TokenStream,
        bias: TokenStream,
        epilogue: Option<&Epilogue>,
        has_scratch: bool,
    ) -> TokenStream {
        let name = ident("k", n);
        let rt = names::rt();
        let k = names::kernels();
        let tail_dims = epilogue.map_or(vec![], |e| self.stride_dims(&e.operands));
        let bindings = self.bindings(dims.into_iter().chain(tail_dims).chain(self.result_dims(step)));
        let (functions, before, epilogue_arg) = match epilogue {
            None => (quote!(), quote!(), quote!(None)),
            Some(e) => {
                let (function, operands) = self.tail(n, e);
                let tail = ident("tail", n);
                let lets = operands.iter().zip(&e.operands).map(|(x, o)| {
                    let at = self.pointer(o.value, &element(self.dtype(o.value)), false);
                    let y = Ident::new(&format!("y{x}"), Span::call_site());
                    quote!(let #y = #rt::Shared(#at);)
                });
                let args = operands.iter().zip(&e.operands).map(|(x, o)| {
                    let y = Ident::new(&format!("y{x}"), Span::call_site());
                    let axes = o.strides.len();
                    let (r, c) = (self.stride_of(&o.strides[axes - 2]), self.stride_of(&o.strides[axes - 1]));
                    quote!({ let y = #y; y.0.add(b.row * #r + b.col * #c) }, #r)
                });
                let before = quote! {
                    #(#lets)*
                    let tail = move |b: #k::gemm::Block| {
                        // SAFETY: the block lies inside of the result, and operands have the rows and columns of the result.
                        unsafe { #tail(isa, b.out, b.pitch, b.rows, b.cols, #(#args),*) }
                    };
                };
                (function, before, quote!(Some(&tail)))
            }
        };
        let o = self.result(step.outputs[0], &quote!(f32));
        let scratch_arg = has_scratch.then(|| {
            quote!({
                let s = scratch;
                s.at::<f32>(worker)
            },)
        });
        quote! {
            #[inline(never)]
            fn #name(f: &mut #rt::Frame<'_>) -> #rt::Done {
                #bindings
                let g = #geometry;
                let o = #rt::Shared(#o);
                let (x, w, bias) = (#rt::Shared(#x), #rt::Shared(#weights), #rt::Shared(#bias));
                let isa = f.isa;
                let scratch = f.scratch();
                #before
                f.parallel(g.tasks(), &|task, worker| {
                    let _ = (scratch, worker);
                    let (x, w, bias, o) = ({ let x = x; x.0 }, { let w = w; w.0 }, { let b = bias; b.0 }, { let o = o; o.0 });
                    // SAFETY: the plan gives every tensor these extents, weights are packed for them, and tasks write disjoint blocks.
                    unsafe { g.run_task(isa, task, x, w, bias, o, #scratch_arg #epilogue_arg) }
                })
            }
            #functions
        }
    }
    fn stride_of(&self, s: &Stride) -> TokenStream {
        match s {
            Stride::By(d) => self.dim(d),
            Stride::Unless1 { extent, stride } => {
                let (extent, stride) = (self.dim(extent), self.dim(stride));
                quote!((if #extent == 1 { 0 } else { #stride }))
            }
        }
    }

    /// Scratch bytes that a step's workers need, as an expression over symbols; `None` for none.
    pub(super) fn scratch(&self, step: &KernelStep) -> Option<(Vec<Dim>, TokenStream)> {
        let kernels = names::kernels();
        match &step.kernel {
            Kernel::Conv { window, k, groups, depthwise: false, .. } => {
                let (common, mut dims) = self.window_tokens(window);
                let pixels = product(&window.out_dims);
                dims.push(pixels.clone());
                let strides = window.x_strides.iter().map(|d| self.dim(d));
                let (pixels, k, groups) = (self.dim(&pixels), int(*k), int(*groups));
                let g = quote! {
                    #kernels::conv::Conv {
                        #common, k: #k, groups: #groups, x_strides: [#(#strides),*], out_pitch: #k, out_batch: #pixels * #k
                    }.scratch_floats() * 4
                };
                Some((dims, g))
            }
            Kernel::Gemm { m, n, k, .. } => {
                let (m_, n, k) = (self.dim(m), int(*n), int(*k));
                let g = quote!(#kernels::gemm::Gemm { m: #m_, n: #n, k: #k, a_row: #k, a_col: 1, ldc: #n }.scratch_floats() * 4);
                Some((vec![m.clone()], g))
            }
            Kernel::MatMul { m, n, k, a, b, .. } => {
                let g = self.matmul_geometry([m, n, k], a, b);
                let mut dims = vec![m.clone(), n.clone(), k.clone()];
                dims.extend(self.stride_dims(&[a.clone(), b.clone()]).into_iter().cloned());
                Some((dims, quote!(#g.scratch_floats() * 4)))
            }
            _ => None,
        }
    }
    fn matmul_geometry(&self, [m, n, k]: [&Dim; 3], a: &Operand, b: &Operand) -> TokenStream {
        let kernels = names::kernels();
        let axes = a.strides.len();
        let (m, n, k) = (self.dim(m), self.dim(n), self.dim(k));
        let (ar, ac) = (self.stride_of(&a.strides[axes - 2]), self.stride_of(&a.strides[axes - 1]));
        let (br, bc) = (self.stride_of(&b.strides[axes - 2]), self.stride_of(&b.strides[axes - 1]));
        quote!(#kernels::gemm::MatMul { m: #m, n: #n, k: #k, a_row: #ar, a_col: #ac, b_row: #br, b_col: #bc, ldc: #n })
    }
    fn matmul(
        &self,
        n: usize,
        step: &KernelStep,
        batch: &[Dim],
        sides: [&Dim; 3],
        a: &Operand,
        b: &Operand,
        epilogue: Option<&Epilogue>,
    ) -> TokenStream {
        let name = ident("k", n);
        let rt = names::rt();
        let k = names::kernels();
        let geometry = self.matmul_geometry(sides, a, b);
        let both = [a.clone(), b.clone()];
        let tail_dims = epilogue.map_or(vec![], |e| self.stride_dims(&e.operands));
        let bindings =
            self.bindings(batch.iter().chain(sides).chain(self.stride_dims(&both)).chain(tail_dims).chain(self.result_dims(step)));
        let extents: Vec<TokenStream> = batch.iter().map(|d| self.dim(d)).collect();
        // The matrix number as an index of the batch axes, and each operand's offset by it.
        let mut split = TokenStream::new();
        for axis in (0..batch.len()).rev() {
            let (i, d) = (ident("b", axis), &extents[axis]);
            split.extend(match axis {
                0 => quote!(let #i = q;),
                _ => quote!(let #i = q % #d; let q = q / #d;),
            });
        }
        let offset = |o: &Operand| {
            let terms = (0..batch.len()).filter(|i| !o.strides[*i].is(0)).map(|i| {
                let (b, s) = (ident("b", i), self.stride_of(&o.strides[i]));
                quote!(+ #b * #s)
            });
            quote!(0 #(#terms)*)
        };
        let (a_offset, b_offset) = (offset(a), offset(b));
        let (a_at, b_at) = (self.pointer(a.value, &quote!(f32), false), self.pointer(b.value, &quote!(f32), false));
        let o = self.result(step.outputs[0], &quote!(f32));
        let (functions, lets, tail, arg) = match epilogue {
            None => (quote!(), quote!(), quote!(), quote!(None)),
            Some(e) => {
                let (function, operands) = self.tail(n, e);
                let tail = ident("tail", n);
                let lets = operands.iter().zip(&e.operands).map(|(x, o)| {
                    let at = self.pointer(o.value, &element(self.dtype(o.value)), false);
                    let y = Ident::new(&format!("y{x}"), Span::call_site());
                    quote!(let #y = #rt::Shared(#at);)
                });
                let shifted = operands.iter().zip(&e.operands).map(|(x, o)| {
                    let y = Ident::new(&format!("y{x}"), Span::call_site());
                    let by = offset(o);
                    quote!(let #y = #rt::Shared({ let y = #y; y.0.wrapping_add(#by) });)
                });
                let args = operands.iter().zip(&e.operands).map(|(x, o)| {
                    let y = Ident::new(&format!("y{x}"), Span::call_site());
                    let axes = o.strides.len();
                    let (r, c) = (self.stride_of(&o.strides[axes - 2]), self.stride_of(&o.strides[axes - 1]));
                    quote!({ let y = #y; y.0.add(b.row * #r + b.col * #c) }, #r)
                });
                let closure = quote! {
                    #(#shifted)*
                    let tail = move |b: #k::gemm::Block| {
                        // SAFETY: the block lies inside of the matrix, and operands have its rows and columns.
                        unsafe { #tail(isa, b.out, b.pitch, b.rows, b.cols, #(#args),*) }
                    };
                };
                (function, quote!(#(#lets)*), closure, quote!(Some(&tail)))
            }
        };
        quote! {
            #[inline(never)]
            fn #name(f: &mut #rt::Frame<'_>) -> #rt::Done {
                #bindings
                let g = #geometry;
                let o = #rt::Shared(#o);
                let (a, w) = (#rt::Shared(#a_at), #rt::Shared(#b_at));
                let isa = f.isa;
                let scratch = f.scratch();
                #lets
                let per = g.tasks();
                let matrices: usize = 1 #(* #extents)*;
                f.parallel(per * matrices, &|task, worker| {
                    let (a, w, o) = ({ let a = a; a.0 }, { let w = w; w.0 }, { let o = o; o.0 });
                    let (q, part) = (task / per, task % per);
                    let at = q;
                    #split
                    let _ = q;
                    #tail
                    // SAFETY: the plan gives every tensor these extents, and tasks write disjoint blocks.
                    unsafe {
                        g.run_task(
                            isa, part, a.add(#a_offset), w.add(#b_offset), core::ptr::null(), o.add(at * g.m * g.n),
                            { let s = scratch; s.at::<f32>(worker) }, #arg,
                        )
                    }
                })
            }
            #functions
        }
    }

    fn pool(&self, n: usize, step: &KernelStep, w: &Window, kind: &str, x: ValueId) -> TokenStream {
        let k = names::kernels();
        let (common, mut dims) = self.window_tokens(w);
        let kind = Ident::new(kind, Span::call_site());
        let strides = [0, 2, 3, 4].map(|i| self.dim(&w.x_strides[i]));
        let pad_end = w.pad_end.iter().map(|p| int(*p));
        let pixels = product(&w.out_dims);
        dims.push(pixels.clone());
        let (pixels, c) = (self.dim(&pixels), self.dim(&w.c));
        let taps = int(w.kernel.iter().product());
        let body = quote! {
            let g = #k::pool::Pool {
                kind: #k::pool::Kind::#kind, #common, pad_end: [#(#pad_end),*], x_strides: [#(#strides),*],
                out_pitch: #c, out_batch: #pixels * #c
            };
            f.spread(g.tasks(), g.n * #pixels * #c * #taps, &|task, _| {
                let (x, o) = ({ let x = x; x.0 }, { let o = o; o.0 });
                // SAFETY: the plan gives both tensors these extents, and tasks write disjoint rows.
                unsafe { g.run_task(isa, task, x, o) }
            })
        };
        self.simple(n, step, dims.iter().collect(), x, body)
    }

    fn move_strings(&self, n: usize, step: &KernelStep) -> TokenStream {
        // Strings never lie in the arena, so a move of them is a host function; the scheduler makes none.
        let (name, rt) = (ident("k", n), names::rt());
        let line = Literal::u32_unsuffixed(step.line as u32);
        quote!(fn #name(_: &mut #rt::Frame<'_>) -> #rt::Done { Err(#rt::fault(#line, "strings cannot be moved")) })
    }

    fn moves(&self, n: usize, step: &KernelStep, copies: &[Copy], ty: &TokenStream) -> TokenStream {
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

    fn call(&self, n: usize, step: &KernelStep, c: &Call) -> TokenStream {
        let name = ident("k", n);
        let (rt, k) = (names::rt(), names::kernels());
        let mut dims: Vec<Dim> = self.result_dims(step).into_iter().cloned().collect();
        for a in &c.args {
            match a {
                CallArg::Dims(d) => dims.extend(d.iter().cloned()),
                CallArg::Dim(d) => dims.push(d.clone()),
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
                bits @ 1..8 => {
                    let per_byte = int(8 / bits);
                    (quote!(u8), quote!(usize::div_ceil(#len, #per_byte)))
                }
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

    /// A value as a run-time `Value`, by reference where it is one already.
    pub(super) fn value(&self, v: ValueId) -> TokenStream {
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
    pub(super) fn defines(&self, defines: &[Define], line: usize) -> TokenStream {
        let line = Literal::u32_unsuffixed(line as u32);
        let each = defines.iter().map(|d| {
            let (sym, slot, axis, rank) = (int(d.sym.0 as usize), int(d.slot), int(d.axis), int(d.rank));
            quote!(let n = f.slot_dims::<#rank>(#slot, #line)?[#axis]; f.define(#sym, n);)
        });
        quote!(#(#each)*)
    }
    /// Statements that check the types of results in slots against what the plan takes for granted.
    pub(super) fn checks(&self, values: &[ValueId], line: usize) -> TokenStream {
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

    fn host(&self, n: usize, step: &KernelStep, h: &crate::ops::host::Host) -> TokenStream {
        let name = ident("k", n);
        let (rt, k) = (names::rt(), names::kernels());
        let dims: Vec<Dim> = step.inputs.iter().flatten().flat_map(|v| self.plan.graph.shape(*v).to_vec()).collect();
        let bindings = self.bindings(&dims);
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
