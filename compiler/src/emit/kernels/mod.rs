//! One function a kernel step: pointers from the plan, geometry as constants, tasks spread over the threads.

mod attend;
mod call;
mod grouped;
mod host;
mod integer;
mod moves;
mod narrow;
mod pixels;
mod rotary;
mod rows;
mod simple;
mod strips;
mod tiled;
mod trees;

pub(super) use moves::packed_bytes;

use super::{Printer, dtype_path, element, int};
use crate::ir::{Dim, ValueId};
use crate::kernel::{Kernel, Method, Packed, Stage, Window};
use crate::plan::{KernelStep, Place, Plan};
use kiln_kernels::dtype::DType;
use proc_macro2::TokenStream;
use quote::quote;
use std::collections::BTreeSet;

/// A line of the table of kernels.
pub(super) struct Listed {
    pub(super) name: String,
    pub(super) kind: &'static str,
    pub(super) algorithm: &'static str,
    pub(super) what: String,
    pub(super) nodes: Vec<usize>,
}

/// Which rules made a step's nodes what they are, and which all but did.
fn notes(plan: &Plan, step: &KernelStep) -> Vec<String> {
    let mut out = Vec::new();
    let rules: BTreeSet<&str> = step.origins.iter().filter_map(|o| plan.notes.rules.get(o)).flatten().copied().collect();
    if !rules.is_empty() {
        out.push(format!(" Made by {}.", rules.into_iter().collect::<Vec<_>>().join(", ")));
    }
    let misses: BTreeSet<_> = step.origins.iter().filter_map(|o| plan.notes.misses.get(o)).flatten().collect();
    out.extend(misses.into_iter().map(|(rule, why)| format!(" Not by {rule}: {why}.")));
    out
}

/// The variant of the runtime's `Algorithm` for a step.
fn algorithm(plan: &Plan, step: &KernelStep) -> &'static str {
    let digits = |p: &Packed| plan.blob(p).is_some_and(|b| plan.digits.iter().any(|d| d.at == b.offset));
    match &step.kernel {
        Kernel::Conv { method: Method::Winograd(2), .. } => "Winograd2",
        Kernel::Conv { method: Method::Winograd(_), .. } => "Winograd4",
        Kernel::Conv { weights: b, .. } | Kernel::Gemm { b, .. } if digits(b) => "Digits",
        Kernel::Conv { .. } | Kernel::Gemm { .. } | Kernel::GroupedGemm { .. } | Kernel::MatMul { .. } | Kernel::Attend { .. } => {
            "MultiplyAdds"
        }
        Kernel::NarrowGemm { .. } => "FewBits",
        Kernel::Strips { .. } => "MultiplyAdds",
        Kernel::IntConv { depthwise: Some(_), .. } => "BytesAlone",
        Kernel::IntConv { .. } | Kernel::IntGemm { .. } => "Bytes",
        _ => "Vectors",
    }
}

/// How a step is printed that the CPU does not compute.
type Elsewhere<'a> = &'a mut dyn FnMut(&Printer<'_>, usize, &KernelStep) -> Option<TokenStream>;

/// The functions of all kernel steps, and their lines in the table.
pub(super) fn functions(p: &Printer<'_>) -> (Vec<TokenStream>, Vec<Listed>) {
    functions_with(p, &mut |_, _, _| None)
}

/// The same, where some steps are printed otherwise.
pub(super) fn functions_with(p: &Printer<'_>, elsewhere: Elsewhere<'_>) -> (Vec<TokenStream>, Vec<Listed>) {
    let mut out = Vec::new();
    let mut listed = Vec::new();
    for (n, step) in p.plan.kernels().into_iter().enumerate() {
        let what = p.describe(step);
        let (name, kind, nodes) = (format!("k{n}"), step.kernel.name(), step.origins.clone());
        listed.push(Listed { name, kind, algorithm: algorithm(p.plan, step), what: what.clone(), nodes });
        let f = elsewhere(p, n, step).unwrap_or_else(|| p.function(n, step));
        let notes = notes(p.plan, step).into_iter().map(|line| quote!(#[doc = ""] #[doc = #line]));
        out.push(quote!(#[doc = #what] #(#notes)* #f));
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
            Kernel::Rows { head, tail, .. } => {
                let part = |s: &Option<Stage>, word: &str| s.as_ref().map_or(String::new(), |s| format!(", {word} {}", s.expr));
                part(head, "first") + &part(tail, "then")
            }
            k => k.epilogue().map_or(String::new(), |e| format!(", then {}", e.expr)),
        };
        let mut text = format!("{}: {} -> {}{tail}", step.kernel.name(), inputs.join(", "), outputs.join(", "));
        if text.len() > 400 {
            text.truncate(text.char_indices().take_while(|(i, _)| *i < 400).last().map_or(0, |(i, _)| i));
            text.push('…');
        }
        text
    }

    /// The dims a step needs to shape results that lie in slots, and to find where its values begin.
    pub(super) fn result_dims(&self, step: &KernelStep) -> Vec<&Dim> {
        let in_slot = |v: &&ValueId| matches!(self.plan.places.get(v), Some(Place::Slot(_)));
        let shapes = step.outputs.iter().filter(in_slot).flat_map(|v| self.plan.graph.shape(*v));
        shapes.chain(step.inputs.iter().flatten().chain(&step.outputs).filter_map(|v| self.plan.starts.get(v))).collect()
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
    /// The address of a packed constant.
    fn packed(&self, p: &Packed) -> TokenStream {
        self.packed_as(p, &quote!(f32))
    }
    /// The address of a packed constant, whose elements are of a type.
    fn packed_as(&self, p: &Packed, ty: &TokenStream) -> TokenStream {
        let offset = int(self.plan.blob(p).map_or(0, |b| b.offset));
        quote!(f.weight::<#ty>(#offset))
    }
    /// A packed matrix, with its digits where it has some.
    fn panels(&self, p: &Packed) -> TokenStream {
        let at = self.plan.blob(p).map_or(0, |b| b.offset);
        let offset = int(at);
        match self.plan.digits.iter().position(|d| d.at == at) {
            Some(i) => {
                let i = int(i);
                quote!(f.panels(#offset, #i))
            }
            None => {
                let kernels = super::names::kernels();
                quote!(#kernels::gemm::Panels::of(f.weight::<f32>(#offset)))
            }
        }
    }
    /// The fields that the geometries of convolutions and pools share, and the extents in them.
    fn window_tokens(&self, w: &Window) -> (TokenStream, Vec<Dim>) {
        let mut dims = vec![w.n.clone(), w.c.clone()];
        dims.extend(w.in_dims.iter().chain(&w.out_dims).chain(&w.x_strides).chain([&w.out_pitch, &w.out_batch]).cloned());
        let list = |v: &[usize; 3]| {
            let v = v.iter().map(|x| int(*x));
            quote!([#(#v),*])
        };
        let three = |d: &[Dim; 3]| {
            let d = d.iter().map(|d| self.dim(d));
            quote!([#(#d),*])
        };
        let (n, c) = (self.dim(&w.n), self.dim(&w.c));
        let (i, o) = (three(&w.in_dims), three(&w.out_dims));
        let (kernel, stride, pad, dilation) = (list(&w.kernel), list(&w.stride), list(&w.pad), list(&w.dilation));
        let (pitch, batch) = (self.dim(&w.out_pitch), self.dim(&w.out_batch));
        let common = quote! {
            n: #n, c: #c, in_dims: #i, kernel: #kernel, stride: #stride, pad: #pad, dilation: #dilation, out_dims: #o,
            out_pitch: #pitch, out_batch: #batch
        };
        (common, dims)
    }

    fn function(&self, n: usize, step: &KernelStep) -> TokenStream {
        match &step.kernel {
            Kernel::Map { expr, dims, operands, to, meets } => self.map(n, step, expr, dims, operands, to, meets),
            Kernel::Conv { window, k, groups, method, x, weights, bias, epilogue } => {
                self.conv(n, step, window, (*k, *groups, *method), *x, (weights, bias.as_ref()), epilogue.as_ref())
            }
            Kernel::Gemm { m, n: columns, k, a, a_row, out_row, b, bias, epilogue } => {
                self.gemm(n, step, (m, *columns, *k), (*a, a_row, out_row), (b, bias.as_ref()), epilogue.as_ref())
            }
            Kernel::Strips { .. } => self.strips(n, step),
            Kernel::GroupedGemm { .. } => self.grouped_gemm(n, step),
            Kernel::NarrowGemm { .. } => self.narrow_gemm(n, step),
            Kernel::IntGemm { .. } => self.int_gemm(n, step),
            Kernel::IntConv { .. } => self.int_conv(n, step),
            Kernel::Calibrate { x, n: elements } => self.calibrate(n, step, *x, elements),
            Kernel::MatMul { batch, m, n: columns, k, a, b, to, epilogue } => {
                self.matmul(n, step, batch, [m, columns, k], [a, b], to, epilogue.as_ref())
            }
            Kernel::Pool { window, kind, x } => self.pool(n, step, window, kind, *x),
            Kernel::GlobalMean { n: images, pixels, c, x, x_pitch, x_batch } => {
                self.global_mean(n, step, [images, pixels, c, x_pitch, x_batch], *x)
            }
            Kernel::Response { .. } => self.response(n, step),
            Kernel::Resize { .. } => self.resize(n, step),
            Kernel::Softmax { dims, log, x } => self.softmax(n, step, dims, *log, *x),
            Kernel::Attend { .. } => self.attend(n, step),
            Kernel::Rotary { .. } => self.rotary(n, step),
            Kernel::Trees { .. } => self.trees(n, step),
            Kernel::PixelNorm { .. } => self.pixel_norm(n, step),
            Kernel::Rows { .. } => self.rows(n, step),
            Kernel::Move { copies, dtype: DType::Str } => self.move_strings(n, step, copies),
            Kernel::Move { copies, dtype } => self.moves(n, step, copies, &element(*dtype)),
            Kernel::Call(c) => self.call(n, step, c),
            Kernel::Dims { elements, dtype } => self.extents(n, step, elements, *dtype),
            Kernel::Host(h) => self.host(n, step, h),
        }
    }
}
