//! Steps of products with matrices that indices pick.

use super::super::{Printer, int, names};
use super::tiled::Tiles;
use crate::ir::Dim;
use crate::kernel::Kernel;
use crate::plan::KernelStep;
use kiln_kernels::dtype::DType;
use proc_macro2::{Literal, TokenStream};
use quote::quote;

impl Printer<'_> {
    /// The kernel's own description of its work, and the extents in it.
    fn grouped_geometry(&self, step: &KernelStep) -> Option<(Vec<Dim>, TokenStream)> {
        let Kernel::GroupedGemm { rows, count, n, k, a, out_row, .. } = &step.kernel else { return None };
        let kernels = names::kernels();
        let mut dims: Vec<Dim> = rows.iter().chain([out_row]).cloned().collect();
        dims.extend(self.stride_dims(std::slice::from_ref(a)).into_iter().cloned());
        let (rows, steps) = (rows.iter().map(|d| self.dim(d)), a.strides.iter().map(|s| self.stride_of(s)));
        let (count, n, k, ldc) = (int(*count), int(*n), int(*k), self.dim(out_row));
        let g = quote! {
            #kernels::gemm::Grouped { rows: [#(#rows),*], count: #count, n: #n, k: #k, a_steps: [#(#steps),*], ldc: #ldc }
        };
        Some((dims, g))
    }
    /// Scratch bytes that a step's workers need, as `Printer::scratch` gives it.
    pub(super) fn grouped_gemm_scratch(&self, step: &KernelStep) -> Option<(Vec<Dim>, TokenStream)> {
        let (dims, geometry) = self.grouped_geometry(step)?;
        Some((dims, quote!(#geometry.scratch_floats() * 4)))
    }
    /// Products of rows with the matrices that their indices pick.
    pub(super) fn grouped_gemm(&self, n: usize, step: &KernelStep) -> TokenStream {
        let Kernel::GroupedGemm { a, indices, b, epilogue, .. } = &step.kernel else { return quote!() };
        let Some((dims, geometry)) = self.grouped_geometry(step) else { return quote!() };
        let (rt, k) = (names::rt(), names::kernels());
        let (kind, ty) = match self.dtype(*indices) {
            DType::I32 => (quote!(I32), quote!(i32)),
            _ => (quote!(I64), quote!(i64)),
        };
        let indices = self.pointer(*indices, &ty, false);
        let line = Literal::u32_unsuffixed(step.line as u32);
        let tiles = Tiles {
            dims: dims.iter().collect(),
            geometry,
            x: self.pointer(a.value, &quote!(f32), false),
            weights: self.packed(b),
            beside: quote!(#k::gemm::Indices::#kind(#indices)),
            check: quote! {
                // SAFETY: the plan gives every row an index.
                #rt::answer(#line, unsafe { g.check(beside.0) })?;
            },
            scratch: true,
            finishes: false,
        };
        self.tiled(n, step, tiles, epilogue.as_ref())
    }
}
