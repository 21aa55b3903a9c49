//! Steps of attention: one matrix of the batch after the other, each in tasks over its queries.

use super::super::{Printer, expr, ident, names};
use super::tiled::split_batch;
use crate::ir::Dim;
use crate::kernel::{Kernel, Literal, Operand, Stride};
use crate::plan::KernelStep;
use kiln_kernels::dtype::DType;
use proc_macro2::TokenStream;
use quote::quote;

impl Printer<'_> {
    /// The kernel's own description of its work, and the extents in it.
    fn attend_geometry(&self, step: &KernelStep) -> Option<(Vec<Dim>, TokenStream)> {
        let Kernel::Attend { sizes, scale, reach, safe, q, k, v, mask, out, .. } = &step.kernel else { return None };
        let kernels = names::kernels();
        let [queries, keys, depth, width] = sizes.each_ref().map(|d| self.dim(d));
        let row = |s: &[Stride]| self.stride_of(&s[s.len() - 2]);
        let (q_row, k_row, v_row, out_row) = (row(&q.strides), row(&k.strides), row(&v.strides), row(out));
        let (mask_row, mask_col) = match mask {
            Some(m) => (row(&m.strides), self.stride_of(&m.strides[m.strides.len() - 1])),
            None => (quote!(0), quote!(0)),
        };
        let scale = expr::literal(Literal::float(f64::from(*scale)), DType::F32);
        let mut dims: Vec<Dim> = sizes.iter().chain([reach]).cloned().collect();
        let operands: Vec<Operand> = [q, k, v].into_iter().chain(mask).cloned().collect();
        dims.extend(self.stride_dims(&operands).into_iter().cloned());
        dims.extend(self.stride_dims(&[Operand { value: q.value, strides: out.clone() }]).into_iter().cloned());
        let reach = self.dim(reach);
        let geometry = quote! {
            #kernels::attention::Attend {
                queries: #queries, keys: #keys, depth: #depth, width: #width, q_row: #q_row, k_row: #k_row, v_row: #v_row,
                out_row: #out_row, mask_row: #mask_row, mask_col: #mask_col, scale: #scale, reach: #reach, safe: #safe
            }
        };
        Some((dims, geometry))
    }
    /// Scratch bytes that a step's workers need.
    pub(super) fn attend_scratch(&self, step: &KernelStep) -> Option<(Vec<Dim>, TokenStream)> {
        let (dims, geometry) = self.attend_geometry(step)?;
        Some((dims, quote!(#geometry.scratch_floats() * 4)))
    }
    /// An attention.
    pub(super) fn attend(&self, n: usize, step: &KernelStep) -> TokenStream {
        let Kernel::Attend { batch, q, k, v, mask, out, .. } = &step.kernel else { return quote!() };
        let Some((dims, geometry)) = self.attend_geometry(step) else { return quote!() };
        let name = ident("k", n);
        let rt = names::rt();
        let bindings = self.bindings(dims.iter().chain(batch).chain(self.result_dims(step)));
        let extents: Vec<TokenStream> = batch.iter().map(|d| self.dim(d)).collect();
        let split = split_batch(batch, &extents);
        let at = |o: &Operand| self.pointer(o.value, &quote!(f32), false);
        let offset = |s: &[Stride]| self.offset(&s[..batch.len()]);
        let (q_at, k_at, v_at) = (at(q), at(k), at(v));
        let (q_by, k_by, v_by, o_by) = (offset(&q.strides), offset(&k.strides), offset(&v.strides), offset(out));
        let (m_at, m_by) = match mask {
            Some(m) => (at(m), offset(&m.strides)),
            None => (quote!(core::ptr::null::<f32>()), quote!(0)),
        };
        let o = self.result(step.outputs[0], &quote!(f32));
        quote! {
            #[inline(never)]
            fn #name(f: &mut #rt::Frame<'_>) -> #rt::Done {
                #bindings
                let g = #geometry;
                let o = #rt::Shared(#o);
                let (xq, xk, xv, xm) = (#rt::Shared(#q_at), #rt::Shared(#k_at), #rt::Shared(#v_at), #rt::Shared(#m_at));
                let isa = f.isa;
                let scratch = f.scratch();
                let per = g.tasks();
                let matrices: usize = 1 #(* #extents)*;
                f.spread(per * matrices, g.work().saturating_mul(matrices) / 8, &|task, worker| {
                    let (xq, xk) = ({ let x = xq; x.0 }, { let x = xk; x.0 });
                    let (xv, xm, o) = ({ let x = xv; x.0 }, { let x = xm; x.0 }, { let o = o; o.0 });
                    let (q, part) = (task / per, task % per);
                    #split
                    let _ = q;
                    // SAFETY: the plan gives every tensor these extents, and tasks write disjoint rows.
                    unsafe {
                        let s = { let s = scratch; s.at::<f32>(worker) };
                        g.run_task(isa, part, xq.add(#q_by), xk.add(#k_by), xv.add(#v_by), xm.wrapping_add(#m_by), o.add(#o_by), s)
                    }
                })
            }
        }
    }
}
