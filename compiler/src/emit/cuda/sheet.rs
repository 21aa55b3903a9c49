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
    params: Vec<Param>,
    /// Maps of rows, by name.
    maps: Vec<(String, TokenStream)>,
    /// Structs before the kernel.
    structs: String,
    /// Parameters mentioned since the last struct was begun.
    mentioned: Vec<usize>,
    /// Whether the template waits for the launch before by itself.
    waits: bool,
    /// Whether the kernel reads what a launch writes before its template waits.
    first: bool,
    /// What the kernel promises of its launches, where that is more than their threads.
    bounds: Option<&'static str>,
    /// Statements that end blocks which are there only because a grid has room for more than there is.
    guards: String,
}

/// A parameter of a kernel.
#[derive(Clone)]
struct Param {
    ty: String,
    name: String,
    value: TokenStream,
    /// Whether the value changes from run to run: then the kernel is told where it lies.
    live: bool,
}

impl<'p> Sheet<'p> {
    pub(super) fn new(p: &'p Printer<'p>, step: &'p KernelStep) -> Sheet<'p> {
        let (params, maps, structs, mentioned, guards) = Default::default();
        Sheet { p, step, params, maps, structs, mentioned, waits: false, first: false, bounds: None, guards }
    }
    /// An empty one for the same step.
    pub(super) fn again(&self) -> Sheet<'p> {
        Sheet::new(self.p, self.step)
    }
    fn param(&mut self, ty: &str, letter: char, value: TokenStream) -> String {
        self.param_of(ty, letter, value, false)
    }
    fn param_of(&mut self, ty: &str, letter: char, value: TokenStream, live: bool) -> String {
        let text = value.to_string();
        let known = self.params.iter().position(|p| p.ty == ty && p.live == live && p.value.to_string() == text);
        let i = known.unwrap_or(self.params.len());
        if known.is_none() {
            self.params.push(Param { ty: ty.to_string(), name: format!("{letter}{i}"), value, live });
        }
        if !self.mentioned.contains(&i) {
            self.mentioned.push(i);
        }
        self.params[i].name.clone()
    }
    /// A pointer to the elements of a value that is read.
    pub(super) fn reads(&mut self, v: ValueId) -> String {
        let ty = format!("const {}*", self.stored(v));
        self.pointer(&ty, 'x', v)
    }
    /// A pointer to the elements of a value that is written.
    pub(super) fn writes(&mut self, v: ValueId) -> String {
        let ty = format!("{}*", self.stored(v));
        self.pointer(&ty, 'o', v)
    }
    fn pointer(&mut self, ty: &str, letter: char, v: ValueId) -> String {
        let p = self.p;
        match p.plan.starts.get(&v).filter(|start| p.plan.is_live(start)) {
            Some(start) => {
                let at = p.place_on_device(v);
                let (x, start) = (self.param(ty, letter, at), self.extent(start));
                format!("({x} + {start})")
            }
            None => self.param(ty, letter, p.on_device(v)),
        }
    }
    /// The name of a pointer to a packed constant.
    pub(super) fn packed(&mut self, p: &Packed, element: &str) -> String {
        self.packed_behind(p, element, 0)
    }
    /// The name of a pointer to what lies as many bytes behind the start of a packed constant.
    pub(super) fn packed_behind(&mut self, p: &Packed, element: &str, bytes: usize) -> String {
        let at = self.p.packed_at(p, bytes);
        self.param(&format!("const {element}*"), 'w', at)
    }
    /// Hands the kernel a map of rows by that name.
    pub(super) fn map(&mut self, name: &str, rows: TokenStream) {
        self.maps.push((name.to_string(), rows));
    }
    /// The kernel's launch bounds, as they are written in CUDA.
    pub(super) fn bounds(&mut self, text: &'static str) {
        self.bounds = Some(text);
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
                self.number(value, self.p.plan.is_live(d))
            }
        }
    }
    fn number(&mut self, value: TokenStream, live: bool) -> String {
        if live { self.param_of("long long", 'd', value, true) } else { self.param("long long", 'd', quote!((#value) as u64)) }
    }
    /// Blocks along an axis of the grid, one for each of `d`.
    pub(super) fn layers(&mut self, axis: char, d: &Dim) -> TokenStream {
        if self.p.plan.is_live(d) {
            let n = self.extent(d);
            let _ = write!(self.guards, "if ((long long)blockIdx.{axis} >= {n}) return; ");
        }
        self.p.dim(&self.p.plan.most(d))
    }
    /// A step, likewise.
    pub(super) fn stride(&mut self, s: &Stride) -> String {
        match s {
            Stride::By(d) => self.extent(d),
            Stride::Unless1 { extent, stride } => {
                let value = self.p.stride_of(s);
                let live = [extent, stride].into_iter().any(|d| self.p.plan.is_live(d));
                self.number(quote!((#value) as i64), live)
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
        let members: String = mentioned.iter().map(|i| format!(" {} {};", self.params[*i].ty, self.params[*i].name)).collect();
        let values: Vec<&str> = mentioned.iter().map(|i| self.params[*i].name.as_str()).collect();
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
        vec![self.made(kernels, grid, threads, shared, body)]
    }
    /// The same, alone.
    pub(super) fn made(self, kernels: &mut Kernels, grid: [TokenStream; 3], threads: usize, shared: usize, body: &str) -> Launch {
        let (mut params, mut args, mut loads) = (Vec::new(), Vec::new(), String::new());
        for Param { ty, name, value, live } in self.params {
            if live {
                // What a run brings first is there before the first kernel begins, and so before any.
                params.push(format!("const {ty}* {name}_at"));
                let _ = write!(loads, " const {ty} {name} = *{name}_at;");
                let i = int(kernels.word(value));
                args.push(quote!(f.device_word(#i)));
            } else {
                params.push(format!("{ty} {name}"));
                args.push(value);
            }
        }
        let (names, maps): (Vec<String>, Vec<TokenStream>) = self.maps.into_iter().unzip();
        params.extend(names.iter().map(|n| format!("const __grid_constant__ TensorMap {n}")));
        let mut text = String::new();
        if !self.structs.is_empty() {
            let _ = writeln!(text, "namespace @_ {{\n{}}}", self.structs);
        }
        let bounds = self.bounds.map_or(threads.to_string(), str::to_string);
        let guards = &self.guards;
        let wait = if self.waits && !self.first && guards.is_empty() { "" } else { " after_launch_before();" };
        // Kernels that take maps are for one level of GPUs; code for others goes without them.
        if !maps.is_empty() {
            text.push_str("#if defined(KILN_GROUPS)\n");
        }
        let _ = writeln!(
            text,
            "extern \"C\" __global__ __launch_bounds__({bounds}) void @({}) {{\n    let_launch_behind_begin();{wait}{loads}\n    {guards}{body}\n}}",
            params.join(", ")
        );
        text.push_str("KILN_EXPORT(@)\n");
        if !maps.is_empty() {
            text.push_str("#endif\n");
        }
        let kernel = kernels.number(text);
        Launch { kernel, grid, threads, shared, args, maps, otherwise: None, variant: None }
    }
}

impl Printer<'_> {
    /// The address of the place that has a value, in the memory of the device.
    fn place_on_device(&self, v: ValueId) -> TokenStream {
        match self.plan.places.get(&v) {
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
            Some(Place::State(k)) => {
                let o = int(self.plan.states.pairs[*k].at);
                quote!(f.device_state(#o))
            }
            // Selection leaves what reads these to the CPU.
            Some(Place::Slot(_)) | None => quote!(0u64),
        }
    }
    /// The address of a value's elements there.
    pub(super) fn on_device(&self, v: ValueId) -> TokenStream {
        let at = self.place_on_device(v);
        match self.plan.starts.get(&v) {
            Some(start) => {
                let bytes = self.signed(&(start.clone() * Dim::int(self.plan.stored(v).size() as i64)));
                quote!(#at.wrapping_add((#bytes) as u64))
            }
            None => at,
        }
    }
    /// The address of what lies as many bytes behind the start of a packed constant.
    pub(super) fn packed_at(&self, p: &Packed, bytes: usize) -> TokenStream {
        let o = int(self.plan.blob(p).map_or(0, |b| b.offset) + bytes);
        quote!(f.device_weight(#o))
    }
    /// How many blocks of `each` there are in an extent, or in the most it can be: kernels leave out what is behind its end.
    pub(super) fn blocks(&self, d: &Dim, each: usize) -> TokenStream {
        let (d, each) = (self.dim(&self.plan.most(d)), int(each));
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
