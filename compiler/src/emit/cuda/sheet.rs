//! A kernel while it is printed: parameters as they turn out to be needed, structs of geometry, and the launch that belongs to it.

use super::super::{Printer, int};
use super::{Kernels, Launch};
use crate::ir::{Dim, ValueId};
use crate::kernel::{Packed, Stride};
use crate::plan::{Arena, KernelStep, Place};
use crate::target::Element;
use proc_macro2::TokenStream;
use quote::quote;
use std::fmt::Write;

/// A kernel and its launch in the making. Every parameter is a word of 8 bytes: a pointer, or an extent that only run time knows.
#[derive(Clone)]
pub(super) struct Sheet<'p> {
    pub(super) p: &'p Printer<'p>,
    pub(super) step: &'p KernelStep,
    /// Types, names and values.
    params: Vec<(String, String, TokenStream)>,
    /// Structs before the kernel.
    structs: String,
    /// Parameters mentioned since the last struct was begun.
    mentioned: Vec<usize>,
    /// Whether the template waits for the launch before by itself.
    waits: bool,
    /// Whether the kernel reads what a launch writes before its template waits.
    first: bool,
}

impl<'p> Sheet<'p> {
    pub(super) fn new(p: &'p Printer<'p>, step: &'p KernelStep) -> Sheet<'p> {
        Sheet { p, step, params: Vec::new(), structs: String::new(), mentioned: Vec::new(), waits: false, first: false }
    }
    fn param(&mut self, ty: &str, letter: char, value: TokenStream) -> String {
        let text = value.to_string();
        let known = self.params.iter().position(|(t, _, v)| t == ty && v.to_string() == text);
        let i = known.unwrap_or(self.params.len());
        if known.is_none() {
            self.params.push((ty.to_string(), format!("{letter}{i}"), value));
        }
        if !self.mentioned.contains(&i) {
            self.mentioned.push(i);
        }
        self.params[i].1.clone()
    }
    /// The name of a pointer to the elements of a value that is read.
    pub(super) fn reads(&mut self, v: ValueId) -> String {
        let ty = format!("const {}*", self.stored(v));
        let at = self.p.on_device(v);
        self.param(&ty, 'x', at)
    }
    /// The name of a pointer to the elements of a value that is written.
    pub(super) fn writes(&mut self, v: ValueId) -> String {
        let ty = format!("{}*", self.stored(v));
        let at = self.p.on_device(v);
        self.param(&ty, 'o', at)
    }
    /// The name of a pointer to a packed constant.
    pub(super) fn packed(&mut self, p: &Packed, element: &str) -> String {
        self.packed_behind(p, element, 0)
    }
    /// The name of a pointer to what lies as many bytes behind the start of a packed constant.
    pub(super) fn packed_behind(&mut self, p: &Packed, element: &str, bytes: usize) -> String {
        let o = int(self.p.plan.blob(p).map_or(0, |b| b.offset) + bytes);
        self.param(&format!("const {element}*"), 'w', quote!(f.device_weight(#o)))
    }
    /// The name of a pointer of another kind.
    pub(super) fn word(&mut self, ty: &str, value: TokenStream) -> String {
        self.param(ty, 'q', value)
    }
    /// The C++ type that stores elements of a value.
    pub(super) fn stored(&self, v: ValueId) -> &'static str {
        super::super::expr::cuda::element(self.p.plan.stored(v))
    }
    /// An extent: a number, or the name of a parameter.
    pub(super) fn extent(&mut self, d: &Dim) -> String {
        match d.as_int() {
            Some(n) => n.to_string(),
            None => {
                let value = self.p.signed(d);
                self.param("long long", 'd', quote!((#value) as u64))
            }
        }
    }
    /// A step, likewise.
    pub(super) fn stride(&mut self, s: &Stride) -> String {
        match s {
            Stride::By(d) => self.extent(d),
            s => {
                let value = self.p.stride_of(s);
                self.param("long long", 'd', quote!((#value) as u64))
            }
        }
    }

    /// Begins a struct: parameters mentioned from here on are its members.
    pub(super) fn begin(&mut self) {
        self.mentioned.clear();
    }
    /// Ends a struct of that name and body, and gives the expression that makes one.
    pub(super) fn end(&mut self, name: &str, body: &str) -> String {
        let mut mentioned = std::mem::take(&mut self.mentioned);
        mentioned.sort();
        let members: String = mentioned.iter().map(|i| format!(" {} {};", self.params[*i].0, self.params[*i].1)).collect();
        let values: Vec<&str> = mentioned.iter().map(|i| self.params[*i].1.as_str()).collect();
        let _ = writeln!(self.structs, "struct {name} {{{members}\n{body}}};");
        format!("@_::{name}{{{}}}", values.join(", "))
    }
    /// A struct of extents, and the expression that makes one.
    pub(super) fn geometry(&mut self, name: &str, fields: &[(&str, Dim)], more: &str) -> String {
        let (mut constant, mut open, mut values) = (String::new(), String::new(), Vec::new());
        for (field, d) in fields {
            match d.as_int() {
                Some(n) => {
                    let _ = write!(constant, " static constexpr long long {field} = {n};");
                }
                None => {
                    let _ = write!(open, " long long {field};");
                    values.push(self.extent(d));
                }
            }
        }
        let _ = writeln!(self.structs, "struct {name} {{{constant}{open}{more} }};");
        format!("@_::{name}{{{}}}", values.join(", "))
    }
    /// A struct of constants.
    pub(super) fn constants(&mut self, name: &str, body: &str) {
        let _ = writeln!(self.structs, "struct {name} {{ {body} }};");
    }

    /// The template of the kernel waits for the launch before by itself: it reads constants until then.
    pub(super) fn waits_itself(&mut self) {
        self.waits = true;
    }

    /// The kernel reads what a launch writes before its template has waited.
    pub(super) fn reads_first(&mut self) {
        self.first = true;
    }

    /// The kernel with that body, and its launch.
    pub(super) fn launch(self, kernels: &mut Kernels, grid: [TokenStream; 3], threads: usize, shared: usize, body: &str) -> Vec<Launch> {
        let params: Vec<String> = self.params.iter().map(|(t, n, _)| format!("{t} {n}")).collect();
        let mut text = String::new();
        if !self.structs.is_empty() {
            let _ = writeln!(text, "namespace @_ {{\n{}}}", self.structs);
        }
        let wait = if self.waits && !self.first { "" } else { " after_launch_before();" };
        let _ = writeln!(
            text,
            "extern \"C\" __global__ __launch_bounds__({threads}) void @({}) {{\n    let_launch_behind_begin();{wait}\n    {body}\n}}",
            params.join(", ")
        );
        text.push_str("KILN_EXPORT(@)\n");
        let kernel = kernels.number(text);
        vec![Launch { kernel, grid, threads, shared, args: self.params.into_iter().map(|(_, _, v)| v).collect(), variant: None }]
    }
}

impl Printer<'_> {
    /// The address of a value's elements in the memory of the device.
    pub(super) fn on_device(&self, v: ValueId) -> TokenStream {
        let at = match self.plan.places.get(&v) {
            Some(Place::Buffer(b)) => match &self.plan.arena {
                Arena::Fixed { offsets, .. } => {
                    let o = int(offsets[*b] as usize);
                    quote!(f.device_arena(#o))
                }
                Arena::Open => {
                    let b = int(*b);
                    quote!(f.device_buffer(#b))
                }
            },
            Some(Place::Weight(w)) => {
                let o = int(self.plan.weights.blobs[*w].offset);
                quote!(f.device_weight(#o))
            }
            Some(Place::Input(i)) => {
                let i = int(*i);
                quote!(f.device_input(#i))
            }
            // Selection leaves what reads these to the CPU.
            Some(Place::State(_) | Place::Slot(_)) | None => quote!(0u64),
        };
        match self.plan.starts.get(&v) {
            Some(start) => {
                let bytes = self.signed(&(start.clone() * Dim::int(self.plan.stored(v).size() as i64)));
                quote!(#at.wrapping_add((#bytes) as u64))
            }
            None => at,
        }
    }
    /// How many blocks of `each` there are in an extent.
    pub(super) fn blocks(&self, d: &Dim, each: usize) -> TokenStream {
        let (d, each) = (self.dim(d), int(each));
        quote!(usize::div_ceil(#d, #each))
    }
    /// Whether a number of elements is a multiple of `by` for all extents.
    pub(super) fn multiple(&self, d: &Dim, by: usize) -> bool {
        d.exact_div(&Dim::int(by as i64)).is_some()
    }
    /// Whether all steps are multiples of a number of elements.
    pub(super) fn multiples(&self, steps: &[Stride], by: usize) -> bool {
        steps.iter().all(|s| matches!(s, Stride::By(d) if self.multiple(d, by)))
    }
    /// Whether a value lies in memory as the elements that are multiplied.
    pub(super) fn lies_as(&self, v: ValueId, element: Element) -> bool {
        match element {
            Element::Float(p) => self.plan.stored(v) == p.stored(),
            Element::Byte | Element::Short => true,
        }
    }
    /// Whether a value begins at a multiple of `by` elements of its place.
    pub(super) fn begins_at(&self, v: ValueId, by: usize) -> bool {
        self.plan.starts.get(&v).is_none_or(|d| self.multiple(d, by))
    }
}
