//! A plan for a GPU as text: its kernels in CUDA C++, and the Rust functions that launch them.

mod attention;
mod calls;
mod epilogue;
mod images;
mod integer;
mod moves;
mod products;
mod rows;
mod sheet;
mod streams;
mod windows;

use super::{Printer, ident};
use crate::ir::{Dim, Sym};
use crate::kernel::Kernel;
use crate::plan::KernelStep;
use crate::target::cuda::{COUNTERS, Decision, Form, Forms, Wanted};
use proc_macro2::TokenStream;
use quote::quote;
use sheet::Sheet;
use std::collections::BTreeMap;
use std::fmt::Write;

/// The kernels of a plan, equal ones once.
#[derive(Debug, Default)]
pub(super) struct Kernels {
    /// Numbers by text, in which `@` stands for the name.
    numbers: BTreeMap<String, usize>,
    /// Texts in the order of their numbers.
    texts: Vec<String>,
    /// Bytes that splits of products share, behind [`COUNTERS`] counters.
    partial: usize,
    /// Numbers that change from run to run, as expressions of symbols.
    words: Vec<TokenStream>,
    /// The forms that were chosen, in the order of steps.
    pub(super) decisions: Vec<Decision>,
    /// The step whose launches are printed.
    step: usize,
}

/// A launch: the kernel's number, blocks, threads and shared memory, arguments as words, and maps of rows behind them; and what is launched
/// in its place by devices that make no maps.
struct Launch {
    kernel: usize,
    grid: [TokenStream; 3],
    threads: usize,
    shared: usize,
    args: Vec<TokenStream>,
    maps: Vec<TokenStream>,
    otherwise: Option<Box<Launch>>,
    /// Which of how many forms of the step it is, where several are measured.
    variant: Option<[usize; 2]>,
}

impl Launch {
    /// The statement that launches it.
    fn statement(self) -> TokenStream {
        let Launch { kernel, grid: [x, y, z], threads, shared, args, maps, otherwise, variant } = self;
        let (kernel, threads, shared) = (super::int(kernel), super::int(threads), super::int(shared));
        let this = if maps.is_empty() {
            quote!(f.launch(#kernel, [#x, #y, #z], #threads, #shared, &[#(#args),*])?;)
        } else {
            quote!(f.launch_mapped(#kernel, [#x, #y, #z], #threads, #shared, &[#(#args),*], &[#(#maps),*])?;)
        };
        let this = match otherwise.map(|other| other.statement()) {
            Some(other) => quote!(if f.streams() { #this } else { #other }),
            None => this,
        };
        match variant.map(|v| v.map(super::int)) {
            Some([i, of]) => quote!(if f.variant(#of) == #i { #this }),
            None => this,
        }
    }
}

impl Kernels {
    /// The number of a kernel of that text.
    fn number(&mut self, text: String) -> usize {
        let next = self.texts.len();
        *self.numbers.entry(text).or_insert_with_key(|text| {
            self.texts.push(text.clone());
            next
        })
    }
    /// The name of kernel `i`.
    fn name(i: usize) -> String {
        format!("k{i}")
    }
    /// The place of a number that changes from run to run.
    fn word(&mut self, value: TokenStream) -> usize {
        let text = value.to_string();
        self.words.iter().position(|w| w.to_string() == text).unwrap_or_else(|| {
            self.words.push(value);
            self.words.len() - 1
        })
    }
    /// All of them.
    pub(super) fn words(&self) -> &[TokenStream] {
        &self.words
    }
    /// The names in order.
    pub(super) fn names(&self) -> Vec<String> {
        (0..self.texts.len()).map(Kernels::name).collect()
    }
    /// Bytes of device memory that kernels share: counters, then what splits hand over.
    pub(super) fn scratch(&self) -> usize {
        COUNTERS * size_of::<u32>() + self.partial
    }
    /// The source file.
    pub(super) fn source(&self) -> String {
        let mut out = String::from("// The kernels of a model, printed by Kiln.\n");
        for s in kiln_kernels::cuda::TEMPLATES {
            let _ = writeln!(out, "#include \"{}\"", s.name);
        }
        out.push_str("\nusing namespace kiln;\n");
        for (i, text) in self.texts.iter().enumerate() {
            out.push('\n');
            out.push_str(&text.replace('@', &Kernels::name(i)));
        }
        out
    }
}

impl Printer<'_> {
    /// The launches of a kernel that has a choice of forms: in the one that is chosen, or, where forms are measured, in each of them.
    fn in_form(
        &self,
        step: &KernelStep,
        (spec, wanted): (String, &Wanted),
        kernels: &mut Kernels,
        print: impl Fn(&Form, &mut Kernels) -> Vec<Launch>,
    ) -> Vec<Launch> {
        let none = Forms::default();
        let forms = self.plan.device.as_ref().map_or(&none, |d| &d.forms);
        let mut decision = forms.decide(spec, wanted, kernels.step, &step.origins);
        let (mut out, of) = (Vec::new(), decision.forms.len());
        for (i, form) in decision.forms.iter().enumerate() {
            for launch in print(form, kernels) {
                decision.kernels.push(launch.kernel);
                out.push(Launch { variant: (of > 1).then_some([i, of]), ..launch });
            }
        }
        kernels.decisions.push(decision);
        out
    }
    /// The function of a step that the GPU computes.
    pub(super) fn launch(&self, n: usize, step: &KernelStep, kernels: &mut Kernels) -> TokenStream {
        kernels.step = n;
        let sheet = Sheet::new(self, step);
        let launches = match &step.kernel {
            Kernel::Gemm { .. } => self.gemm_on_gpu(sheet, kernels),
            Kernel::MatMul { .. } => self.matmul_on_gpu(sheet, kernels),
            Kernel::Conv { .. } => self.conv_on_gpu(sheet, kernels),
            Kernel::NarrowGemm { .. } => self.narrow_gemm_on_gpu(sheet, kernels),
            Kernel::IntGemm { .. } => self.int_gemm_on_gpu(sheet, kernels),
            Kernel::IntConv { .. } => self.int_conv_on_gpu(sheet, kernels),
            Kernel::Calibrate { .. } => self.calibrate_on_gpu(sheet, kernels),
            Kernel::Pool { .. } => self.pool_on_gpu(sheet, kernels),
            Kernel::GlobalMean { .. } => self.mean_on_gpu(sheet, kernels),
            Kernel::PixelNorm { .. } => self.pixel_norm_on_gpu(sheet, kernels),
            Kernel::Resize { .. } => self.resize_on_gpu(sheet, kernels),
            Kernel::Rotary { .. } => self.rotary_on_gpu(sheet, kernels),
            Kernel::Rows { .. } => self.rows_on_gpu(sheet, kernels),
            Kernel::Softmax { .. } => self.softmax_on_gpu(sheet, kernels),
            Kernel::Attend { .. } => self.attend_on_gpu(sheet, kernels),
            Kernel::Map { .. } => self.map_on_gpu(sheet, kernels),
            Kernel::Move { .. } => self.moves_on_gpu(step, kernels),
            Kernel::Dims { elements, dtype } => self.dims_on_gpu(sheet, elements, *dtype, kernels),
            Kernel::Call(c) => self.call_on_gpu(sheet, c, kernels),
            // Selection leaves the others to the CPU.
            _ => Vec::new(),
        };
        let rt = super::names::rt();
        let name = ident("k", n);
        // A symbol that is bound and not read costs nothing, so all of them are.
        let symbols: Vec<Dim> = (0..self.plan.graph.symbols.len()).map(|i| Dim::sym(Sym(i as u32))).collect();
        let bindings = self.bindings(&symbols);
        let checks = self.meets_of(step);
        let launches = launches.into_iter().map(Launch::statement);
        quote! {
            #[inline(never)]
            fn #name(f: &mut #rt::Frame<'_>) -> #rt::Done {
                #bindings
                #checks
                #(#launches)*
                Ok(())
            }
        }
    }

    /// Checks of extents that must be equal or 1.
    fn meets_of(&self, step: &KernelStep) -> TokenStream {
        let (Kernel::Map { meets, .. } | Kernel::Rows { meets, .. }) = &step.kernel else { return quote!() };
        let line = proc_macro2::Literal::u32_unsuffixed(step.line as u32);
        let each = meets.iter().map(|(a, b)| {
            let (a, b) = (self.dim(a), self.dim(b));
            quote!(f.meet(#a, #b, #line)?;)
        });
        quote!(#(#each)*)
    }
}
