//! Steps of kernels over register tiles: convolutions and matrix products, with pointwise tails on the blocks of their results.

use super::super::{Printer, element, expr, ident, int, names};
use crate::ir::{Dim, ValueId};
use crate::kernel::{Epilogue, Finished, Kernel, Literal, Method, Operand, Packed, Scalar, Stride, Window};
use crate::plan::KernelStep;
use kiln_kernels::dtype::DType;
use proc_macro2::{Ident, Span, TokenStream};
use quote::quote;

/// What tells one kernel with packed weights from another.
pub(super) struct Tiles<'d> {
    /// The extents that the other parts mention.
    pub(super) dims: Vec<&'d Dim>,
    /// The kernel's own description of its work `g`: `tasks`, `run_task`.
    pub(super) geometry: TokenStream,
    /// The operand.
    pub(super) x: TokenStream,
    /// The packed weights.
    pub(super) weights: TokenStream,
    /// What tasks read beside them: the packed bias or null, or the indices that pick weights.
    pub(super) beside: TokenStream,
    /// A statement that checks that in `beside`, or none.
    pub(super) check: TokenStream,
    /// Whether tasks take scratch.
    pub(super) scratch: bool,
    /// Whether sums can be finished in registers.
    pub(super) finishes: bool,
}

/// The parts of a step that computes a pointwise tail; all empty, and `None` for the argument, where there is none.
pub(super) struct Tail {
    /// The function, compiled for every instruction set.
    pub(super) function: TokenStream,
    /// Statements of the step: the operands' addresses.
    pub(super) lets: TokenStream,
    /// The closure `tail` over blocks; it finds the addresses of the operands in `y0`, `y1` ..
    pub(super) closure: TokenStream,
    /// What the kernel takes.
    pub(super) arg: TokenStream,
}

/// A tail as kernels of f32 take it: what they compute in registers, then what is left for their blocks.
pub(super) struct Ending {
    pub(super) tail: Tail,
    /// The address of what is added, `add`, in a statement of the step.
    pub(super) lets: TokenStream,
    /// The finish that the kernel takes.
    pub(super) finish: TokenStream,
}

/// Statements that take the matrix number `q` apart into indices `b0`, `b1` .. of the batch axes.
pub(super) fn split_batch(batch: &[Dim], extents: &[TokenStream]) -> TokenStream {
    // Nothing is divided where an axis is empty, but rustc looks at the literal.
    let one = quote!(1);
    let axes = (0..extents.len()).rev().map(|axis| {
        let (i, d) = (ident("b", axis), if batch[axis].is(0) { &one } else { &extents[axis] });
        match axis {
            0 => quote!(let #i = q;),
            _ => quote!(let #i = q % #d; let q = q / #d;),
        }
    });
    quote!(#(#axes)*)
}

impl Printer<'_> {
    /// How far the matrix at `b0`, `b1` .. lies behind the first.
    pub(super) fn offset(&self, strides: &[Stride]) -> TokenStream {
        let terms = strides.iter().enumerate().filter(|(_, s)| !s.is(0)).map(|(i, s)| {
            let (b, s) = (ident("b", i), self.stride_of(s));
            quote!(+ #b * #s)
        });
        quote!(0 #(#terms)*)
    }
    /// A convolution whatever its method, and the extents in it.
    pub(super) fn plain_conv(&self, w: &Window, (k, groups): (usize, usize)) -> (TokenStream, Vec<Dim>) {
        let kernels = names::kernels();
        let (common, dims) = self.window_tokens(w);
        let strides = w.x_strides.iter().map(|d| self.dim(d));
        let (k, groups) = (int(k), int(groups));
        (quote!(#kernels::conv::Conv { #common, k: #k, groups: #groups, x_strides: [#(#strides),*] }), dims)
    }
    /// The geometry of a convolution under its method, and the extents in it.
    fn conv_geometry(&self, w: &Window, (k, groups, method): (usize, usize, Method)) -> (TokenStream, Vec<Dim>) {
        let kernels = names::kernels();
        let (conv, dims) = self.plain_conv(w, (k, groups));
        let geometry = match method {
            Method::Direct => conv,
            Method::Depthwise => quote!(#kernels::depthwise::Depthwise(#conv)),
            Method::Winograd(m) => {
                let m = int(m);
                quote!(#kernels::winograd::Winograd { conv: #conv, m: #m })
            }
        };
        (geometry, dims)
    }
    pub(super) fn gemm_geometry(&self, m: &Dim, n: usize, k: usize, [a_row, out_row]: [&Dim; 2]) -> TokenStream {
        let kernels = names::kernels();
        let (m, n, k, a_row, ldc) = (self.dim(m), int(n), int(k), self.dim(a_row), self.dim(out_row));
        quote!(#kernels::gemm::Gemm { m: #m, n: #n, k: #k, a_row: #a_row, a_col: 1, ldc: #ldc })
    }

    /// A convolution; `how` is output channels, groups and method, `weights` with the bias.
    pub(super) fn conv(
        &self,
        n: usize,
        step: &KernelStep,
        w: &Window,
        how: (usize, usize, Method),
        x: ValueId,
        (weights, bias): (&Packed, Option<&Packed>),
        epilogue: Option<&Epilogue>,
    ) -> TokenStream {
        let (geometry, dims) = self.conv_geometry(w, how);
        let tiles = Tiles {
            dims: dims.iter().collect(),
            geometry,
            x: self.pointer(x, &quote!(f32), false),
            weights: if how.2 == Method::Direct { self.panels(weights) } else { self.packed(weights) },
            beside: bias.map_or(quote!(core::ptr::null()), |b| self.packed(b)),
            check: quote!(),
            scratch: how.2 != Method::Depthwise,
            finishes: true,
        };
        self.tiled(n, step, tiles, epilogue)
    }

    /// A matrix product of `a`, whose rows have a pitch as those of the result, with packed constant right side `b`, with the bias.
    pub(super) fn gemm(
        &self,
        n: usize,
        step: &KernelStep,
        (m, columns, k): (&Dim, usize, usize),
        (a, a_row, out_row): (ValueId, &Dim, &Dim),
        (b, bias): (&Packed, Option<&Packed>),
        epilogue: Option<&Epilogue>,
    ) -> TokenStream {
        let tiles = Tiles {
            dims: vec![m, a_row, out_row],
            geometry: self.gemm_geometry(m, columns, k, [a_row, out_row]),
            x: self.pointer(a, &quote!(f32), false),
            weights: self.panels(b),
            beside: bias.map_or(quote!(core::ptr::null()), |b| self.packed(b)),
            check: quote!(),
            scratch: true,
            finishes: true,
        };
        self.tiled(n, step, tiles, epilogue)
    }

    /// The function of a pointwise tail on one block, compiled for every instruction set; its operands' pointers follow the block, behind
    /// those of the results that it stores elsewhere. Where its first input is i32, the block has such elements, and f32 replace them.
    fn tail_function(&self, n: usize, e: &Epilogue) -> (TokenStream, Vec<Ident>) {
        let k = names::kernels();
        let name = ident("tail", n);
        let axes = e.operands.first().map_or(0, |o| o.strides.len());
        let (row, column) = (axes.saturating_sub(2), axes.saturating_sub(1));
        let to: Vec<&Operand> = e.first.iter().chain(&e.stored).collect();
        let stored: Vec<(Ident, Ident)> = (0..to.len()).map(|i| (ident("z", i), ident("q", i))).collect();
        let sums = e.expr.code.iter().any(|(s, ty)| matches!(s, Scalar::In(0)) && *ty == DType::I32);
        let mut loads = vec![if sums { quote!(*o.add(c).cast::<i32>()) } else { quote!(*o.add(c)) }];
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
        let (mut stores, mut also) = (Vec::new(), Vec::new());
        let apart = usize::from(e.first.is_none());
        if let (1, result) = (apart, &results[0]) {
            stores.push(quote!(*o.add(c) = #result;));
        }
        for ((z, q), (to, result)) in stored.iter().zip(to.iter().zip(&results[apart..])) {
            let ty = element(self.dtype(to.value));
            also.push(quote!(#z: *mut #ty, #q: usize));
            rows.push(quote!(let #z = #z.add(r * #q);));
            stores.push(quote!(*#z.add(c) = #result;));
        }
        let unused = names_.iter().enumerate().filter(|(i, _)| e.operands[*i].strides[row].is(0)).map(|(i, _)| ident("p", i));
        let function = quote! {
            #k::kernel_fn! {
                fn #name<A>(o: *mut f32, pitch: usize, rows: usize, cols: usize, #(#also,)* #(#params),*) {
                    let _ = (#(#unused),*);
                    for r in 0..rows {
                        let o = o.add(r * pitch);
                        #(#rows)*
                        #(#hoisted)*
                        for c in 0..cols { #code #(#stores)* }
                    }
                }
            }
        };
        (function, names_)
    }

    /// The extents in the steps of a tail.
    pub(super) fn tail_dims<'e>(&self, epilogue: Option<&'e Epilogue>) -> Vec<&'e Dim> {
        epilogue.map_or(vec![], |e| {
            let first = e.first.as_slice();
            [self.stride_dims(&e.operands), self.stride_dims(first), self.stride_dims(&e.stored)].concat()
        })
    }
    /// A step's pointwise tail. `shift` gives how far an operand lies behind its start where the kernel works on one matrix of a batch.
    pub(super) fn tail(&self, n: usize, epilogue: Option<&Epilogue>, shift: Option<&dyn Fn(&Operand) -> TokenStream>) -> Tail {
        let Some(e) = epilogue else {
            return Tail { function: quote!(), lets: quote!(), closure: quote!(), arg: quote!(None) };
        };
        let (rt, k) = (names::rt(), names::kernels());
        let (function, xs) = self.tail_function(n, e);
        let name = ident("tail", n);
        let ys: Vec<Ident> = xs.iter().map(|x| Ident::new(&format!("y{x}"), Span::call_site())).collect();
        let lets = ys.iter().zip(&e.operands).map(|(y, o)| {
            let at = self.pointer(o.value, &element(self.dtype(o.value)), false);
            quote!(let #y = #rt::Shared(#at);)
        });
        let to: Vec<&Operand> = e.first.iter().chain(&e.stored).collect();
        let zs: Vec<Ident> = (0..to.len()).map(|i| ident("yz", i)).collect();
        let results = zs.iter().zip(&to).map(|(z, o)| {
            let at = self.result(o.value, &element(self.dtype(o.value)));
            quote!(let #z = #rt::Shared(#at);)
        });
        let all = || zs.iter().zip(to.iter().copied()).chain(ys.iter().zip(&e.operands));
        let shifted = all().filter_map(|(y, o)| {
            let by = shift?(o);
            Some(quote!(let #y = #rt::Shared({ let y = #y; y.0.wrapping_add(#by) });))
        });
        let args = all().map(|(y, o)| {
            let axes = o.strides.len();
            let (r, c) = (self.stride_of(&o.strides[axes - 2]), self.stride_of(&o.strides[axes - 1]));
            quote!({ let y = #y; y.0.add(b.row * #r + b.col * #c) }, #r)
        });
        let closure = quote! {
            #(#shifted)*
            let tail = move |b: #k::gemm::Block| {
                // SAFETY: the block lies inside of the matrix, and operands and results have its rows and columns.
                unsafe { #name(isa, b.out, b.pitch, b.rows, b.cols, #(#args),*) }
            };
        };
        Tail { function, lets: quote!(#(#results)* #(#lets)*), closure, arg: quote!(Some(&tail)) }
    }

    /// A step's tail in the kernel's registers where it is of that kind, else on its blocks.
    pub(super) fn ending(&self, n: usize, epilogue: Option<&Epilogue>) -> Ending {
        let (rt, k) = (names::rt(), names::kernels());
        let Some((e, f)) = epilogue.and_then(|e| Some((e, Finished::of(e)?))) else {
            return Ending { tail: self.tail(n, epilogue, None), lets: quote!(), finish: quote!(#k::gemm::Finish::NONE) };
        };
        let bound = |x: f32| expr::literal(Literal::Float((x as f64).to_bits()), DType::F32);
        let (least, most) = (bound(f.least), bound(f.most));
        let Some(o) = f.add.map(|i| &e.operands[i]) else {
            let finish = quote!(#k::gemm::Finish { least: #least, most: #most, ..#k::gemm::Finish::NONE });
            return Ending { tail: self.tail(n, None, None), lets: quote!(), finish };
        };
        let (at, row) = (self.pointer(o.value, &quote!(f32), false), self.stride_of(&o.strides[0]));
        Ending {
            tail: self.tail(n, None, None),
            lets: quote!(let add = #rt::Shared(#at);),
            finish: quote!(#k::gemm::Finish { add: { let a = add; a.0 }, add_row: #row, least: #least, most: #most }),
        }
    }

    /// A step of a kernel with packed weights, and a tail on its blocks.
    pub(super) fn tiled(&self, n: usize, step: &KernelStep, tiles: Tiles<'_>, epilogue: Option<&Epilogue>) -> TokenStream {
        let name = ident("k", n);
        let rt = names::rt();
        let Tiles { dims, geometry, x, weights, beside, check, scratch, finishes } = tiles;
        let tail_dims = self.tail_dims(epilogue);
        let bindings = self.bindings(dims.into_iter().chain(tail_dims).chain(self.result_dims(step)));
        let (Tail { function, lets, closure, arg }, finish) = if finishes {
            let Ending { tail, lets, finish } = self.ending(n, epilogue);
            (
                Tail {
                    lets: {
                        let t = tail.lets;
                        quote!(#lets #t)
                    },
                    ..tail
                },
                quote!(#finish,),
            )
        } else {
            (self.tail(n, epilogue, None), quote!())
        };
        let o = self.result(step.outputs[0], &quote!(f32));
        let scratch_arg = scratch.then(|| {
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
                let (x, w, beside) = (#rt::Shared(#x), #rt::Shared(#weights), #rt::Shared(#beside));
                #check
                let isa = f.isa;
                let scratch = f.scratch();
                #lets
                #closure
                f.parallel(g.tasks(), &|task, worker| {
                    let _ = (scratch, worker);
                    let (x, w, beside, o) = ({ let x = x; x.0 }, { let w = w; w.0 }, { let b = beside; b.0 }, { let o = o; o.0 });
                    // SAFETY: the plan gives every tensor these extents, weights are packed for them, and tasks write disjoint blocks.
                    unsafe { g.run_task(isa, task, x, w, beside, o, #scratch_arg #finish #arg) }
                })
            }
            #function
        }
    }
    pub(in crate::emit) fn stride_of(&self, s: &Stride) -> TokenStream {
        match s {
            Stride::By(d) => self.dim(d),
            Stride::Unless1 { extent, stride } => {
                let (extent, stride) = (self.dim(extent), self.dim(stride));
                quote!((if #extent == 1 { 0 } else { #stride }))
            }
        }
    }

    /// Scratch bytes that a step's workers need, as an expression over symbols; `None` for none.
    pub(in crate::emit) fn scratch(&self, step: &KernelStep) -> Option<(Vec<Dim>, TokenStream)> {
        match &step.kernel {
            Kernel::Conv { window, k, groups, method: method @ (Method::Direct | Method::Winograd(_)), .. } => {
                let (g, dims) = self.conv_geometry(window, (*k, *groups, *method));
                Some((dims, quote!(#g.scratch_floats() * 4)))
            }
            Kernel::Gemm { m, n, k, a_row, out_row, .. } => {
                let g = self.gemm_geometry(m, *n, *k, [a_row, out_row]);
                Some((vec![m.clone(), a_row.clone(), out_row.clone()], quote!(#g.scratch_floats() * 4)))
            }
            Kernel::Strips { .. } => self.strips_scratch(step),
            Kernel::GroupedGemm { .. } => self.grouped_gemm_scratch(step),
            Kernel::NarrowGemm { .. } => self.narrow_gemm_scratch(step),
            Kernel::IntGemm { .. } => self.int_gemm_scratch(step),
            Kernel::IntConv { .. } => self.int_conv_scratch(step),
            Kernel::MatMul { m, n, k, a, b, to, .. } => {
                let g = self.matmul_geometry([m, n, k], [a, b], to);
                let mut dims = vec![m.clone(), n.clone(), k.clone()];
                dims.extend(to.last().cloned());
                dims.extend(self.stride_dims(&[a.clone(), b.clone()]).into_iter().cloned());
                Some((dims, quote!(#g.scratch_floats() * 4)))
            }
            Kernel::Attend { .. } => self.attend_scratch(step),
            Kernel::PixelNorm { .. } => self.pixel_norm_scratch(step),
            Kernel::Rows { .. } => self.rows_scratch(step),
            Kernel::Call(c) => self.call_scratch(c),
            Kernel::Trees { scratch, .. } => Some((vec![], {
                let bytes = super::super::int(*scratch);
                quote!(#bytes)
            })),
            _ => None,
        }
    }
    fn matmul_geometry(&self, [m, n, k]: [&Dim; 3], [a, b]: [&Operand; 2], to: &[Dim]) -> TokenStream {
        let kernels = names::kernels();
        let axes = a.strides.len();
        let (m, n, k) = (self.dim(m), self.dim(n), self.dim(k));
        let (ar, ac) = (self.stride_of(&a.strides[axes - 2]), self.stride_of(&a.strides[axes - 1]));
        let (br, bc) = (self.stride_of(&b.strides[axes - 2]), self.stride_of(&b.strides[axes - 1]));
        let ldc = to.last().map_or(quote!(#n), |d| self.dim(d));
        quote!(#kernels::gemm::MatMul { m: #m, n: #n, k: #k, a_row: #ar, a_col: #ac, b_row: #br, b_col: #bc, ldc: #ldc })
    }
    /// Matrix products of two computed operands.
    pub(super) fn matmul(
        &self,
        n: usize,
        step: &KernelStep,
        batch: &[Dim],
        sides: [&Dim; 3],
        [a, b]: [&Operand; 2],
        to: &[Dim],
        epilogue: Option<&Epilogue>,
    ) -> TokenStream {
        let name = ident("k", n);
        let rt = names::rt();
        let geometry = self.matmul_geometry(sides, [a, b], to);
        let both = [a.clone(), b.clone()];
        let tail_dims = self.tail_dims(epilogue);
        let bindings = self
            .bindings(batch.iter().chain(sides).chain(to).chain(self.stride_dims(&both)).chain(tail_dims).chain(self.result_dims(step)));
        let extents: Vec<TokenStream> = batch.iter().map(|d| self.dim(d)).collect();
        let split = split_batch(batch, &extents);
        let offset = |o: &Operand| self.offset(&o.strides[..batch.len()]);
        let to_steps: Vec<Stride> = to.iter().cloned().map(Stride::By).collect();
        let (a_offset, b_offset) = (offset(a), offset(b));
        let o_offset = self.offset(&to_steps[..batch.len()]);
        let (a_at, b_at) = (self.pointer(a.value, &quote!(f32), false), self.pointer(b.value, &quote!(f32), false));
        let o = self.result(step.outputs[0], &quote!(f32));
        let Tail { function, lets, closure, arg } = self.tail(n, epilogue, Some(&offset));
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
                    #split
                    let _ = q;
                    #closure
                    // SAFETY: the plan gives every tensor these extents, and tasks write disjoint blocks.
                    unsafe {
                        g.run_task(
                            isa, part, a.add(#a_offset), w.add(#b_offset), core::ptr::null(), o.add(#o_offset),
                            { let s = scratch; s.at::<f32>(worker) }, #arg,
                        )
                    }
                })
            }
            #function
        }
    }
}
