//! A plan for a GPU beside the one for the CPU: a module of its own, with tables, launches, and the steps that the CPU computes.

use super::cuda::Kernels;
use super::{Names, Printer, WeightsAt, control, int, kernels, names, tables};
use crate::ir::{Dim, Sym};
use crate::plan::{On, Plan};
use proc_macro2::TokenStream;
use quote::quote;

/// The functions of all steps, their lines in the table, and the kernels that are launched.
fn functions(p: &Printer<'_>) -> (Vec<TokenStream>, Vec<kernels::Listed>, Kernels) {
    let mut launched = Kernels::default();
    let (out, listed) = kernels::functions_with(p, &mut |p, n, step| (step.on == On::Gpu).then(|| p.launch(n, step, &mut launched)));
    (out, listed, launched)
}

/// What a plan launches.
pub(super) fn launched(plan: &Plan) -> Kernels {
    functions(&Printer { plan }).2
}

/// The module.
pub(super) fn module(plan: &Plan, n: &Names) -> TokenStream {
    let rt = names::rt();
    let p = Printer { plan };
    let (functions, listed, launched) = functions(&p);
    let run = control::run(&p);
    // Without files, as in what an editor sees, there is nothing to embed.
    let (weights, image) = match &n.device {
        Some(f) => {
            let (path, bytes): (TokenStream, _) = (f.image.parse().unwrap_or_default(), int(f.image_bytes));
            let symbol = format!("kiln_image_{}_{}", p.hash(), f.image_bytes);
            (
                f.weights.clone(),
                quote! {
                    mod image {
                        #rt::embed! { #symbol, #path }
                        pub(super) fn image() -> (*const u8, usize) { (embedded(), #bytes) }
                    }
                },
            )
        }
        None => (
            WeightsAt::Given,
            quote!(
                mod image {
                    pub(super) fn image() -> (*const u8, usize) {
                        (core::ptr::null(), 0)
                    }
                }
            ),
        ),
    };
    let spec = tables::spec(&p, &n.model, &weights, &listed, &quote!(None));
    let kernel_names = launched.names();
    let scratch = int(launched.scratch());
    let (uploads, reads_here) = (p.uploads(), p.reads_here());
    let all: Vec<Dim> = (0..plan.graph.symbols.len()).map(|i| Dim::sym(Sym(i as u32))).collect();
    let (lets, words, count) = (p.symbol_lets(&all), launched.words(), int(launched.words().len()));
    let lengths = plan.device.iter().flat_map(|d| &d.lengths).map(|s| int(s.0 as usize));
    let graphs = p.replays();
    quote! {
        mod device {
            #image
            #spec
            #run
            #(#functions)*
            fn live(syms: &[i64], out: &mut [i64]) {
                let _ = syms;
                #lets
                out.copy_from_slice(&[#(#words),*]);
            }
            pub(super) static DEVICE: #rt::DeviceSpec = #rt::DeviceSpec {
                spec: &SPEC,
                image: image::image,
                kernels: &[#(#kernel_names),*],
                scratch: #scratch,
                uploads: &[#(#uploads),*],
                reads_here: &[#(#reads_here),*],
                replays: #graphs,
                lengths: &[#(#lengths),*],
                words: #count,
                live,
            };
        }
    }
}
