//! `Plan` to text: decides nothing. Rust through quote and prettyplease.

mod api;
mod control;
mod cuda;
mod device;
mod expr;
mod kernels;
mod map;
mod names;
mod tables;

use crate::diagnostics::Result;
use crate::ir::{Atom, Dim, ValueId};
use crate::plan::{Arena, Place, Plan};
use crate::target::cuda::Decision;
use kiln_kernels::dtype::DType;
use proc_macro2::{Ident, Literal, Span, TokenStream};
use quote::quote;
use std::collections::BTreeMap;

/// Where generated code finds the weights.
#[derive(Clone, Debug, PartialEq)]
pub enum WeightsAt {
    /// A file named by an expression that `global_asm!` takes, such as `concat!(env!("CARGO_MANIFEST_DIR"), "/weights.bin")`.
    Embedded(String),
    /// The caller hands them over at run time.
    Given,
}

/// What names generated code uses.
#[derive(Clone, Debug)]
pub struct Names {
    /// The struct.
    pub model: String,
    /// The visibility of the struct, such as `pub`.
    pub visibility: String,
    /// Where the weights are.
    pub weights: WeightsAt,
    /// Where the weights and the kernels of a plan for a GPU are.
    pub device: Option<DeviceFiles>,
    /// Field names that the user chose, by ONNX name of the port.
    pub fields: BTreeMap<String, String>,
    /// What is made of the ports.
    pub interface: Interface,
}

/// What generated code makes of a model's ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interface {
    /// Types with a field a port; two ports that would share a name are an error.
    Typed,
    /// Types with a field a port; ports that would share a name are numbered.
    Numbered,
    /// No types: ports are reached by name through the trait `Model`.
    Dynamic,
}

/// Where generated code finds what a GPU needs, as expressions that `global_asm!` takes.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceFiles {
    /// The packed constants.
    pub weights: WeightsAt,
    /// The compiled kernels.
    pub image: String,
    /// Bytes of the compiled kernels.
    pub image_bytes: usize,
}

impl Names {
    /// Names for a public struct.
    pub fn new(model: impl Into<String>, weights: WeightsAt) -> Names {
        Names { model: model.into(), visibility: "pub".into(), weights, device: None, fields: BTreeMap::new(), interface: Interface::Typed }
    }
    /// The same with another interface.
    pub fn interface(mut self, interface: Interface) -> Names {
        self.interface = interface;
        self
    }
}

/// The Rust source of a plan: a private module, and the model's types named from it. Beside it may stand the plan for a GPU.
///
/// # Errors
/// Two ports whose fields would have one name, with the lines to write to tell them apart.
pub fn rust(plan: &Plan, device: Option<&Plan>, names: &Names) -> Result<String> {
    let p = Printer { plan };
    let (functions, kernels) = kernels::functions(&p);
    let run = control::run(&p);
    let tables = tables::tables(&p, names, &kernels, device.is_some());
    let api = api::api(&p, names)?;
    let features = plan.features().into_iter().map(|(feature, line)| {
        let (rt, wants) = (self::names::rt(), Ident::new(feature, Span::call_site()));
        let why = format!(
            "{} needs the feature `{feature}`: in Cargo.toml write `kiln = {{ version = \"{}\", features = [\"{feature}\"] }}`",
            plan.lines[line],
            env!("CARGO_PKG_VERSION")
        );
        quote!(#rt::#wants!(#why);)
    });
    let device = device.map(|plan| device::module(plan, names));
    Ok(module(
        names,
        &quote! {
            #(#features)*
            #api
            #tables
            #run
            #(#functions)*
            #device
        },
        &api::exported(&p, names),
    ))
}

/// The CUDA source of a plan for a GPU.
pub fn cuda(plan: &Plan) -> String {
    device::launched(plan).source()
}

/// The forms of the kernels of a plan for a GPU, as far as they have a choice.
pub fn forms(plan: &Plan) -> Vec<Decision> {
    device::launched(plan).decisions
}

/// The types that a caller sees, as source without bodies: what `kiln inspect --api` prints.
///
/// # Errors
/// As [`rust`].
pub fn signatures(plan: &Plan, names: &Names) -> Result<String> {
    let file = api::api(&Printer { plan }, names)?;
    let Ok(mut file) = syn::parse2::<syn::File>(file.clone()) else { return Ok(file.to_string()) };
    api::strip_bodies(&mut file);
    Ok(prettyplease::unparse(&file))
}

/// What an editor needs: the types of the model, without kernels or weights.
///
/// # Errors
/// As [`rust`].
pub fn skeleton(plan: &Plan, names: &Names) -> Result<String> {
    let p = Printer { plan };
    let given = Names { weights: WeightsAt::Given, ..names.clone() };
    let tables = tables::tables(&p, &given, &[], false);
    let api = api::api(&p, names)?;
    let rt = self::names::rt();
    let run = quote! {
        fn run(_: &mut #rt::Frame<'_>) -> #rt::Done {
            Err(#rt::fault(0, "this build has only the types of the model"))
        }
    };
    Ok(module(names, &quote!(#api #tables #run), &api::exported(&p, names)))
}

fn module(names: &Names, items: &TokenStream, exported: &TokenStream) -> String {
    let visibility: TokenStream = names.visibility.parse().unwrap_or_default();
    let module = Ident::new(&format!("kiln_{}", names.model.to_lowercase()), Span::call_site());
    // Parentheses and names that only some kernels need are left in, to keep the printer simple.
    let file = quote! {
        #[allow(dead_code, unused_parens, unused_variables, unused_mut, unreachable_pub, missing_docs, clippy::all, clippy::pedantic,
            clippy::undocumented_unsafe_blocks, reason = "printed by a compiler")]
        mod #module { #items }
        #[allow(unused_imports, unreachable_pub, reason = "not every caller names every type")]
        #visibility use #module::{#exported};
    };
    match syn::parse2(file.clone()) {
        Ok(file) => prettyplease::unparse(&file),
        // Only a bug gets here; the text shows it where rustc points at it.
        Err(_) => file.to_string(),
    }
}

/// The printer's view of a plan.
pub(crate) struct Printer<'a> {
    plan: &'a Plan,
}

pub(crate) fn ident(prefix: &str, n: usize) -> Ident {
    Ident::new(&format!("{prefix}{n}"), Span::call_site())
}

pub(crate) fn int(n: usize) -> Literal {
    Literal::usize_unsuffixed(n)
}

impl Printer<'_> {
    /// A dimension as a `usize` expression over symbols `s0`, `s1` ..
    fn dim(&self, d: &Dim) -> TokenStream {
        if let Some(n) = d.as_int() {
            let n = int(n.max(0) as usize);
            return quote!(#n);
        }
        if let Some(s) = d.as_sym() {
            let s = ident("s", s.0 as usize);
            return quote!(#s);
        }
        let e = self.signed(d);
        quote!((#e).max(0) as usize)
    }
    /// A dimension as an `i64` expression.
    fn signed(&self, d: &Dim) -> TokenStream {
        if let Some(n) = d.as_int() {
            let n = Literal::i64_suffixed(n);
            return quote!(#n);
        }
        let terms: Vec<TokenStream> = d
            .terms()
            .map(|(atoms, c)| {
                let mut factors: Vec<TokenStream> = Vec::new();
                if c != 1 || atoms.is_empty() {
                    let c = Literal::i64_suffixed(c);
                    factors.push(quote!(#c));
                }
                for a in atoms {
                    factors.push(match a {
                        Atom::Sym(s) => {
                            let s = ident("s", s.0 as usize);
                            quote!(#s as i64)
                        }
                        Atom::FloorDiv(a, b) => {
                            let (a, b) = (self.signed(a), self.signed(b));
                            quote!((#a).div_euclid((#b).max(1)))
                        }
                        Atom::Min(a, b) => {
                            let (a, b) = (self.signed(a), self.signed(b));
                            quote!((#a).min(#b))
                        }
                        Atom::Max(a, b) => {
                            let (a, b) = (self.signed(a), self.signed(b));
                            quote!((#a).max(#b))
                        }
                    });
                }
                let mut it = factors.into_iter();
                let first = it.next();
                let rest = it.map(|f| quote!(.wrapping_mul(#f)));
                quote!((#first) #(#rest)*)
            })
            .collect();
        let mut it = terms.into_iter();
        let first = it.next();
        let rest = it.map(|t| quote!(.wrapping_add(#t)));
        quote!((#first) #(#rest)*)
    }
    /// Bindings of the symbols that occur in the dims, from the frame `f`.
    fn bindings<'d>(&self, dims: impl IntoIterator<Item = &'d Dim>) -> TokenStream {
        let mut syms = Default::default();
        dims.into_iter().for_each(|d| d.symbols(&mut syms));
        let lets = syms.iter().map(|s| {
            let (name, n) = (ident("s", s.0 as usize), int(s.0 as usize));
            quote!(let #name = f.dim(#n);)
        });
        quote!(#(#lets)*)
    }
    /// The address of a value's elements, as a pointer to `ty`; `mutable` for a result.
    fn pointer(&self, v: ValueId, ty: &TokenStream, mutable: bool) -> TokenStream {
        let mut at = self.address(v, ty);
        if let Some(start) = self.plan.starts.get(&v) {
            let bytes = self.signed(&(start.clone() * Dim::int(self.dtype(v).size() as i64)));
            at = quote!(#at.wrapping_byte_offset(#bytes as isize));
        }
        match (mutable, self.plan.places.get(&v)) {
            (true, _) => at,
            (false, Some(Place::Buffer(_) | Place::State(_))) => quote!(#at.cast_const()),
            _ => at,
        }
    }
    fn address(&self, v: ValueId, ty: &TokenStream) -> TokenStream {
        match self.plan.places.get(&v) {
            Some(Place::Buffer(b)) => match &self.plan.arena {
                Arena::Fixed { offsets, .. } => {
                    let o = int(offsets[*b] as usize);
                    quote!(f.arena::<#ty>(#o))
                }
                Arena::Open => {
                    let b = int(*b);
                    quote!(f.buffer::<#ty>(#b))
                }
            },
            Some(Place::Weight(w)) => {
                let o = int(self.plan.weights.blobs[*w].offset);
                quote!(f.weight::<#ty>(#o))
            }
            Some(Place::Input(i)) => {
                let i = int(*i);
                quote!(f.input::<#ty>(#i))
            }
            Some(Place::State(k)) => {
                let at = int(self.plan.states.pairs[*k].at);
                quote!(f.state::<#ty>(#at))
            }
            Some(Place::Slot(k)) => {
                let k = int(*k);
                quote!(f.slot_ptr::<#ty>(#k))
            }
            None => quote!(core::ptr::null::<#ty>()),
        }
    }
    /// The element type of a value.
    fn dtype(&self, v: ValueId) -> DType {
        self.plan.graph.dtype(v)
    }
}

/// The Rust type that stores elements of a type.
pub(crate) fn element(d: DType) -> TokenStream {
    use DType::*;
    match d {
        F32 => quote!(f32),
        F64 => quote!(f64),
        I8 | I4 | I2 => quote!(i8),
        I16 => quote!(i16),
        I32 => quote!(i32),
        I64 => quote!(i64),
        U16 | F16 | Bf16 => quote!(u16),
        U32 => quote!(u32),
        U64 => quote!(u64),
        C64 => quote!(u64),
        C128 => quote!(u128),
        U8 | Bool | Str | F8E4M3FN | F8E4M3FNUZ | F8E5M2 | F8E5M2FNUZ | F8E8M0 | U4 | U2 | F6E2M3 | F6E3M2 | F4E2M1 => quote!(u8),
    }
}

/// The path of an element type's variant.
pub(crate) fn dtype_path(d: DType) -> TokenStream {
    let rt = names::rt();
    let v = Ident::new(&format!("{d:?}"), Span::call_site());
    quote!(#rt::DType::#v)
}
