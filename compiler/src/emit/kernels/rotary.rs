//! Steps of rotary embeddings: rows spread over the threads.

use super::super::{Printer, ident, int, names};
use crate::ir::Dim;
use crate::kernel::{Kernel, Operand, Stride};
use crate::plan::KernelStep;
use proc_macro2::TokenStream;
use quote::quote;

impl Printer<'_> {
    /// A rotary embedding.
    pub(super) fn rotary(&self, n: usize, step: &KernelStep) -> TokenStream {
        let Kernel::Rotary { dims, size, width, interleaved, each: [each_cos, each_sin], operands, out } = &step.kernel else {
            return quote!();
        };
        let name = ident("k", n);
        let (rt, k) = (names::rt(), names::kernels());
        let to = [Operand { value: step.outputs[0], strides: out.clone() }];
        let all: Vec<&Dim> = dims.iter().chain([size]).chain(self.stride_dims(operands)).chain(self.stride_dims(&to)).collect();
        let bindings = self.bindings(all.into_iter().chain(self.result_dims(step)));
        let list = |s: &[Stride]| {
            let s = s.iter().map(|s| self.stride_of(s));
            quote!([#(#s),*])
        };
        let [x, c, s] = operands.each_ref().map(|o| self.pointer(o.value, &quote!(f32), false));
        let [x_by, c_by, s_by] = operands.each_ref().map(|o| list(&o.strides));
        let (o, o_by, axes) = (self.result(step.outputs[0], &quote!(f32)), list(out), int(dims.len()));
        let (size, width, extents) = (self.dim(size), int(*width), dims.iter().map(|d| self.dim(d)));
        quote! {
            #[inline(never)]
            fn #name(f: &mut #rt::Frame<'_>) -> #rt::Done {
                #bindings
                let p = #k::rotary::Pairs {
                    width: #width, size: #size, interleaved: #interleaved, each_cos: #each_cos, each_sin: #each_sin
                };
                let dims: [usize; #axes] = [#(#extents),*];
                let (xb, cb, sb, ob): ([usize; #axes], [usize; #axes], [usize; #axes], [usize; #axes]) = (#x_by, #c_by, #s_by, #o_by);
                let o = #rt::Shared(#o);
                let (x, c, s) = (#rt::Shared(#x), #rt::Shared(#c), #rt::Shared(#s));
                let isa = f.isa;
                let rows: usize = dims.iter().product();
                let chunk = (16384 / p.size.max(1)).max(1);
                f.spread(rows.div_ceil(chunk), rows * p.size, &|task, _| {
                    let (x, c, s, o) = ({ let x = x; x.0 }, { let c = c; c.0 }, { let s = s; s.0 }, { let o = o; o.0 });
                    let (from, to) = (task * chunk, ((task + 1) * chunk).min(rows));
                    // SAFETY: the plan gives every tensor these extents, and tasks write disjoint rows.
                    unsafe { #k::rotary::rotate_rows(isa, p, &dims, (x, &xb), (c, &cb), (s, &sb), (o, &ob), from, to) }
                })
            }
        }
    }
}
