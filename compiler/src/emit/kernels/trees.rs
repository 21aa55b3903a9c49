//! Steps that walk through ensembles of trees: rows spread over the threads.

use super::super::{Printer, ident, names};
use crate::kernel::Kernel;
use crate::plan::KernelStep;
use proc_macro2::{Literal, TokenStream};
use quote::quote;

impl Printer<'_> {
    /// Rows through the trees of an ensemble.
    pub(super) fn trees(&self, n: usize, step: &KernelStep) -> TokenStream {
        let Kernel::Trees { x, forest, rows, features, .. } = &step.kernel else { return quote!() };
        let name = ident("k", n);
        let (rt, k) = (names::rt(), names::kernels());
        let bindings = self.bindings([rows, features].into_iter().chain(self.result_dims(step)));
        let (forest, x, o) =
            (self.packed_as(forest, &quote!(u8)), self.pointer(*x, &quote!(u8), false), self.result(step.outputs[0], &quote!(u8)));
        let (rows, features) = (self.dim(rows), self.dim(features));
        let line = Literal::u32_unsuffixed(step.line as u32);
        quote! {
            #[inline(never)]
            fn #name(f: &mut #rt::Frame<'_>) -> #rt::Done {
                #bindings
                let o = #rt::Shared(#o);
                let x = #rt::Shared(#x);
                // SAFETY: the weights hold a packed ensemble there, and stay as they are.
                let forest = unsafe { #k::trees::Packed::at(#forest) };
                let (rows, features): (usize, usize) = (#rows, #features);
                if rows > 0 && features < forest.needs() {
                    return Err(#rt::fault(#line, "the trees ask for more features than rows have"));
                }
                let each = (rows / 8).next_multiple_of(#k::trees::COLUMN).clamp(#k::trees::COLUMN, forest.rows());
                let (isa, scratch) = (f.isa, f.scratch());
                f.spread(rows.div_ceil(each), rows * forest.steps() * 4, &|task, worker| {
                    let (x, o) = ({ let x = x; x.0 }, { let o = o; o.0 });
                    let (from, to) = (task * each, ((task + 1) * each).min(rows));
                    // SAFETY: the plan gives both tensors these extents, the features were checked, tasks write disjoint rows, and each
                    // worker has scratch of its own.
                    unsafe { #k::trees::walk(isa, &forest, x, features, o, (from, to), scratch.at(worker)) }
                })
            }
        }
    }
}
