//! Steps of norms of pixels, with pointwise tails on blocks of them.

use super::super::{Printer, expr, ident, names};
use super::tiled::Tail;
use crate::ir::Dim;
use crate::kernel::{Kernel, Literal};
use crate::plan::KernelStep;
use kiln_kernels::dtype::DType;
use proc_macro2::TokenStream;
use quote::quote;

impl Printer<'_> {
    /// The geometry of a norm of pixels, and the extents in it.
    fn pixel_norm_geometry(&self, step: &KernelStep) -> Option<(TokenStream, Vec<Dim>)> {
        let Kernel::PixelNorm { epsilon, sizes, x_steps, out_steps, .. } = &step.kernel else { return None };
        let k = names::kernels();
        let [n, pixels, groups, channels] = sizes.each_ref().map(|d| self.dim(d));
        let [x_pitch, x_batch] = x_steps.each_ref().map(|d| self.dim(d));
        let [out_pitch, out_batch] = out_steps.each_ref().map(|d| self.dim(d));
        let epsilon = expr::literal(Literal::float(f64::from(*epsilon)), DType::F32);
        let geometry = quote! {
            #k::norm::Pixels {
                n: #n, pixels: #pixels, groups: #groups, channels: #channels, x_pitch: #x_pitch, x_batch: #x_batch,
                out_pitch: #out_pitch, out_batch: #out_batch, epsilon: #epsilon
            }
        };
        Some((geometry, sizes.iter().chain(x_steps).chain(out_steps).cloned().collect()))
    }
    /// Scratch of a norm of pixels, as `Printer::scratch` gives it.
    pub(super) fn pixel_norm_scratch(&self, step: &KernelStep) -> Option<(Vec<Dim>, TokenStream)> {
        let (g, dims) = self.pixel_norm_geometry(step)?;
        Some((dims, quote!(#g.scratch_floats() * 4)))
    }

    /// A normalization of groups of channels that are neighbours in each pixel.
    pub(super) fn pixel_norm(&self, n: usize, step: &KernelStep) -> TokenStream {
        let Kernel::PixelNorm { x, scale, bias, epilogue, .. } = &step.kernel else { return quote!() };
        let Some((g, dims)) = self.pixel_norm_geometry(step) else { return quote!() };
        let (name, rt) = (ident("k", n), names::rt());
        let bindings = self.bindings(dims.iter().chain(self.tail_dims(epilogue.as_ref())).chain(self.result_dims(step)));
        let Tail { function, lets, closure, arg } = self.tail(n, epilogue.as_ref(), None);
        let o = self.result(step.outputs[0], &quote!(f32));
        let [x, scale, bias] = [x, scale, bias].map(|v| self.pointer(*v, &quote!(f32), false));
        quote! {
            #[inline(never)]
            fn #name(f: &mut #rt::Frame<'_>) -> #rt::Done {
                #bindings
                let g = #g;
                let o = #rt::Shared(#o);
                let (x, scale, bias) = (#rt::Shared(#x), #rt::Shared(#scale), #rt::Shared(#bias));
                let isa = f.isa;
                let scratch = f.scratch();
                #lets
                #closure
                f.spread(g.tasks(), g.n * g.pixels * g.groups * g.channels * 4, &|task, worker| {
                    let (x, scale, bias, o) = ({ let x = x; x.0 }, { let s = scale; s.0 }, { let b = bias; b.0 }, { let o = o; o.0 });
                    let s = { let s = scratch; s.at::<f32>(worker) };
                    // SAFETY: the plan gives every tensor these extents, and tasks write disjoint channels.
                    unsafe { g.run_task(isa, task, x, scale, bias, o, s, #arg) }
                })
            }
            #function
        }
    }
}
