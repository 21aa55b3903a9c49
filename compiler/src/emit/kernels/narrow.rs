//! Steps of products with weights of few bits.

use super::super::{Printer, int, names};
use super::tiled::Tiles;
use crate::ir::Dim;
use crate::kernel::{Kernel, ZeroPoints};
use crate::plan::KernelStep;
use kiln_kernels::gemm::narrow::Coding;
use proc_macro2::{Literal, TokenStream};
use quote::quote;

impl Printer<'_> {
    /// The kernel's own description of its work, and the extents in it.
    fn narrow_geometry(&self, step: &KernelStep) -> Option<(Vec<Dim>, TokenStream)> {
        let Kernel::NarrowGemm { m, n, k, a_row, out_row, coding, .. } = &step.kernel else { return None };
        let kernels = names::kernels();
        let gemm = self.gemm_geometry(m, *n, *k, [a_row, out_row]);
        let coding = match coding {
            Coding::F16 => quote!(F16),
            Coding::Bf16 => quote!(Bf16),
            Coding::Fixed => quote!(Fixed),
            Coding::Blocks { bits, block } => {
                let (bits, block) = (int(*bits), int(*block));
                quote!(Blocks { bits: #bits, block: #block })
            }
        };
        let digits = !self.plan.exact;
        let g = quote!(#kernels::gemm::narrow::Narrow { gemm: #gemm, coding: #kernels::gemm::narrow::Coding::#coding, digits: #digits });
        Some((vec![m.clone(), a_row.clone(), out_row.clone()], g))
    }
    /// Scratch bytes that a step's workers need, as `Printer::scratch` gives it.
    pub(super) fn narrow_gemm_scratch(&self, step: &KernelStep) -> Option<(Vec<Dim>, TokenStream)> {
        let (dims, geometry) = self.narrow_geometry(step)?;
        Some((dims, quote!(#geometry.scratch_floats() * 4)))
    }
    /// A product with weights of few bits.
    pub(super) fn narrow_gemm(&self, n: usize, step: &KernelStep) -> TokenStream {
        let Kernel::NarrowGemm { a, codes, scales, zeros, bias, epilogue, .. } = &step.kernel else { return quote!() };
        let Some((dims, geometry)) = self.narrow_geometry(step) else { return quote!() };
        let k = names::kernels();
        let null = || quote!(core::ptr::null());
        let (codes, scales) = (self.packed_as(codes, &quote!(u8)), scales.as_ref().map_or_else(null, |s| self.packed(s)));
        let zeros = match zeros {
            ZeroPoints::Same(z) => {
                let z = Literal::u8_unsuffixed(*z);
                quote!(Same(#z))
            }
            ZeroPoints::Each(z) => {
                let z = self.packed_as(z, &quote!(u8));
                quote!(Each(#z))
            }
            ZeroPoints::Floats(z) => {
                let z = self.packed(z);
                quote!(Floats(#z))
            }
        };
        let tiles = Tiles {
            dims: dims.iter().collect(),
            geometry,
            x: self.pointer(*a, &quote!(f32), false),
            weights: quote!(#k::gemm::narrow::Coded { codes: #codes, scales: #scales, zeros: #k::gemm::narrow::Zeros::#zeros }),
            beside: bias.as_ref().map_or_else(null, |b| self.packed(b)),
            check: quote!(),
            scratch: true,
            finishes: true,
        };
        self.tiled(n, step, tiles, epilogue.as_ref())
    }
}
