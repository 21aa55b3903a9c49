//! The types a caller sees: the model's struct, its inputs, outputs and buffers.

use super::{Interface, Names, Printer, int, names};
use crate::diagnostics::{Diagnostic, Diagnostics, Result, shown};
use crate::ir::{Port, Type, ValueId};
use crate::plan::Arena;
use kiln_kernels::dtype::DType;
use proc_macro2::{Ident, Span, TokenStream};
use quote::{format_ident, quote};
use std::collections::BTreeMap;

/// The longest field name made from a port's name.
const MAX_FIELD: usize = 48;

/// The field name of a port: the only identifier that is made from a name in the model. Lower case, each run of other characters one
/// `_`, `p_` before a digit or nothing, `_` behind a keyword, cut to a length.
pub(super) fn field_name(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        let c = c.to_ascii_lowercase();
        if c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' {
            out.push(c);
        } else if !out.ends_with('_') {
            out.push('_');
        }
        if out.len() >= MAX_FIELD {
            break;
        }
    }
    if out.chars().all(|c| c == '_') || out.starts_with(|c: char| c.is_ascii_digit()) {
        out.insert_str(0, "p_");
    }
    if syn::parse_str::<Ident>(&out).is_err() {
        out.push('_');
    }
    out
}

/// The names of the fields of some ports, in order.
fn fields<'p>(ports: impl Iterator<Item = &'p Port>, n: &Names, side: &str) -> Result<Vec<Ident>> {
    let mut seen: BTreeMap<String, &str> = BTreeMap::new();
    let mut out = Vec::new();
    let mut items = Vec::new();
    for p in ports {
        let name = n.fields.get(&p.name).cloned().unwrap_or_else(|| field_name(&p.name));
        let Ok(field) = syn::parse_str::<Ident>(&name) else {
            items.push(Diagnostic::new(format!("\"{}\" cannot be the name of a field", shown(&name))));
            continue;
        };
        if n.interface == Interface::Numbered && seen.contains_key(&name) {
            let numbered = (2..).map(|k| format!("{name}_{k}")).find(|x| !seen.contains_key(x)).unwrap_or_default();
            out.push(Ident::new(&numbered, Span::call_site()));
            seen.insert(numbered, &p.name);
            continue;
        }
        if let Some(first) = seen.insert(name.clone(), &p.name) {
            let lines = format!("{side} {{ {name}_a = {first:?}, {name}_b = {:?} }}", p.name);
            let what = format!("the ports \"{}\" and \"{}\" would both be the field {name}", shown(first), shown(&p.name));
            items.push(Diagnostic::new(what).help(format!("name them: {lines}")));
        }
        out.push(field);
    }
    if items.is_empty() { Ok(out) } else { Err(Diagnostics { file: String::new(), items }) }
}

/// The Rust type of an element at the boundary; `None` for those that have none.
fn scalar(d: DType) -> Option<TokenStream> {
    use DType::*;
    Some(match d {
        F16 => quote!(::kiln::f16),
        Bf16 => quote!(::kiln::bf16),
        Bool => quote!(bool),
        F32 | F64 | I8 | U8 | I16 | U16 | I32 | U32 | I64 | U64 => super::element(d),
        _ => return None,
    })
}

/// The names that a caller may use, for the `use` beside the module.
pub(super) fn exported(p: &Printer<'_>, n: &Names) -> TokenStream {
    let t = Types::of(n);
    let (model, inputs, outputs, buffers) = (&t.model, &t.inputs, &t.outputs, &t.buffers);
    if n.interface == Interface::Dynamic {
        return quote!(#model);
    }
    let mutable = p.all_closed().then(|| {
        let m = &t.inputs_mut;
        quote!(, #m)
    });
    quote!(#model, #inputs, #outputs, #buffers #mutable)
}

struct Types {
    model: Ident,
    inputs: Ident,
    outputs: Ident,
    buffers: Ident,
    inputs_mut: Ident,
}

impl Types {
    fn of(n: &Names) -> Types {
        let model = Ident::new(&n.model, Span::call_site());
        Types {
            inputs: format_ident!("{model}Inputs"),
            outputs: format_ident!("{model}Outputs"),
            buffers: format_ident!("{model}Buffers"),
            inputs_mut: format_ident!("{model}InputsMut"),
            model,
        }
    }
}

/// The types of the model and their methods.
pub(super) fn api(p: &Printer<'_>, n: &Names) -> Result<TokenStream> {
    let rt = names::rt();
    let g = &p.plan.graph;
    let t = Types::of(n);
    let Types { model, inputs, outputs, buffers, inputs_mut } = &t;
    if n.interface == Interface::Dynamic {
        return Ok(quote! {
            /// The model: one instance, with an arena of its own.
            #[derive(Debug)]
            pub struct #model(#rt::Instance);
        });
    }
    let in_fields = fields(p.plan.inputs().map(|(_, port)| port), n, "inputs")?;
    let out_fields = fields(p.plan.outputs().map(|(_, port)| port), n, "outputs")?;
    let (ins, outs): (Vec<ValueId>, Vec<ValueId>) = (p.plan.inputs().map(|(v, _)| v).collect(), p.plan.outputs().map(|(v, _)| v).collect());
    let in_types: Vec<TokenStream> = ins.iter().map(|v| p.input_type(*v)).collect();
    let in_docs: Vec<String> = ins.iter().map(|v| format!("`{}`", g.ty(*v))).collect();
    let out_types: Vec<(TokenStream, TokenStream)> = outs.iter().enumerate().map(|(i, v)| p.output_type(i, *v)).collect();
    let (views, reads): (Vec<_>, Vec<_>) = out_types.into_iter().unzip();
    let out_docs: Vec<String> = outs.iter().map(|v| format!("`{}`", g.ty(*v))).collect();
    let owned: Vec<TokenStream> = outs.iter().map(|v| p.buffer_type(*v)).collect();
    let fills = outs.iter().zip(&out_fields).map(|(v, f)| match p.dense_scalar(*v) {
        Some(_) => quote!(into.#f.clear(); into.#f.extend_from_slice(&out.#f);),
        None => quote!(into.#f.clone_from(out.#f);),
    });
    let arena = match &p.plan.arena {
        Arena::Fixed { bytes, .. } => {
            let b = int(*bytes as usize);
            quote!(Some(#b))
        }
        Arena::Open => quote!(None),
    };
    let hash = p.hash();
    let positions: Vec<_> = (0..in_fields.len()).map(int).collect();
    let rank = ins.iter().map(|v| g.shape(*v).len()).max().unwrap_or(0).max(1);
    let rank = int(rank);
    let single = match (&in_fields[..], ins.first()) {
        ([f], Some(v)) => {
            let (ty, from) = (&in_types[0], p.conversions(*v));
            quote!(#rt::single_input! { #inputs, #f, #ty, #(#from),* })
        }
        _ => quote!(),
    };
    let unit = in_fields
        .is_empty()
        .then(|| quote!(impl From<()> for #inputs<'_> { fn from(_: ()) -> Self { #inputs { inputs: core::marker::PhantomData } } }));
    let no_inputs = in_fields.is_empty().then(|| quote!(#[doc(hidden)] pub inputs: core::marker::PhantomData<&'a ()>));
    let no_outputs = out_fields.is_empty().then(|| quote!(#[doc(hidden)] pub outputs: core::marker::PhantomData<&'m ()>));
    let no_outputs_value = out_fields.is_empty().then(|| quote!(outputs: core::marker::PhantomData));
    let prepared = if p.all_closed() {
        let slices = ins.iter().map(|v| {
            let ty = p.dense_scalar(*v).unwrap_or_default();
            quote!(&'m mut [#ty])
        });
        let makes = ins.iter().enumerate().map(|(i, v)| {
            let ty = p.dense_scalar(*v).unwrap_or_default();
            let len = p.dim(&crate::ir::product(g.shape(*v)));
            let i = int(i);
            // SAFETY (of the printed block): each input has memory of its own, of that many elements, zeroed when it is made.
            quote!(unsafe { core::slice::from_raw_parts_mut(self.0.staging(#i)?.cast::<#ty>(), #len) })
        });
        let tensors = ins.iter().enumerate().map(|(i, v)| {
            let (i, dtype) = (int(i), super::dtype_path(g.dtype(*v)));
            let dims = g.shape(*v).iter().map(|d| p.dim(d));
            quote!(#rt::Input::Tensor { data: self.0.staging(#i)?.cast_const(), dtype: #dtype, dims: &[#(#dims),*] })
        });
        let no_slices = in_fields.is_empty().then(|| quote!(#[doc(hidden)] pub inputs: core::marker::PhantomData<&'m ()>));
        let no_slices_value = in_fields.is_empty().then(|| quote!(inputs: core::marker::PhantomData));
        let method = quote! {
            /// The instance's own memory for the inputs, zeroed at first: fill it, then call `run_prepared`.
            pub fn input_mut(&mut self) -> ::kiln::Result<#inputs_mut<'_>> {
                Ok(#inputs_mut { #(#in_fields: #makes,)* #no_slices_value })
            }
            /// Runs the model on what `input_mut` holds.
            pub fn run_prepared(&mut self) -> ::kiln::Result<#outputs<'_>> {
                let inputs = [#(#tensors),*];
                self.0.run(&inputs)?;
                self.outputs()
            }
        };
        let ty = quote! {
            /// Memory for the inputs.
            #[derive(Debug)]
            pub struct #inputs_mut<'m> { #(#[doc = #in_docs] pub #in_fields: #slices,)* #no_slices }
        };
        (method, ty)
    } else {
        (quote!(), quote!())
    };
    let (prepared_methods, prepared_type) = prepared;
    let fork_doc = match p.plan.states.pairs.is_empty() {
        true => " Another instance of the same weights and threads, with an arena of its own.",
        false => " Another instance of the same weights and threads, with an arena of its own and an empty state.",
    };
    let state = (!p.plan.states.pairs.is_empty()).then(|| {
        quote! {
            /// What the instance keeps from run to run.
            pub fn state(&self) -> ::kiln::State<'_> { self.0.state() }
            /// What the instance keeps from run to run, to be cut, cleared or loaded.
            pub fn state_mut(&mut self) -> ::kiln::StateMut<'_> { self.0.state_mut() }
        }
    });
    Ok(quote! {
        /// The model: one instance, with an arena of its own. Instances made by `fork` share weights and threads.
        #[derive(Debug)]
        pub struct #model(#rt::Instance);

        impl #model {
            /// The inputs in order.
            pub const INPUTS: &'static [::kiln::Port] = SPEC.inputs;
            /// The outputs in order.
            pub const OUTPUTS: &'static [::kiln::Port] = SPEC.outputs;
            /// A hash of the plan and the weights.
            pub const MODEL_HASH: &'static str = #hash;
            /// Bytes of the arena, without the scratch of the threads; `None` when dimensions are open.
            pub const ARENA_BYTES: Option<usize> = #arena;

            /// An instance on the threads of the process.
            pub fn new() -> ::kiln::Result<Self> { Self::with(&::kiln::Options::default()) }
            /// An instance with choices.
            pub fn with(options: &::kiln::Options) -> ::kiln::Result<Self> { Ok(Self(#rt::Instance::new(&SPEC, options)?)) }
            #[doc = #fork_doc]
            pub fn fork(&self) -> ::kiln::Result<Self> { Ok(Self(self.0.fork()?)) }
            /// Runs the model; the outputs are views into the arena, valid until the next run.
            pub fn run<'a>(&mut self, inputs: impl Into<#inputs<'a>>) -> ::kiln::Result<#outputs<'_>> {
                let inputs = inputs.into();
                let mut dims = [[0usize; #rank]; SPEC.inputs.len()];
                let [#(#in_fields),*] = &mut dims;
                let given = [#(#rt::AsInput::as_input(&inputs.#in_fields, &SPEC.inputs[#positions], #in_fields)?),*];
                self.0.run(&given)?;
                self.outputs()
            }
            /// Runs the model and copies the outputs into buffers that keep their memory from run to run.
            pub fn run_into<'a>(&mut self, inputs: impl Into<#inputs<'a>>, into: &mut #buffers) -> ::kiln::Result<()> {
                let out = self.run(inputs)?;
                #(#fills)*
                Ok(())
            }
            fn outputs(&self) -> ::kiln::Result<#outputs<'_>> {
                Ok(#outputs { #(#out_fields: #reads,)* #no_outputs_value })
            }
            /// Touches the memory and starts the threads, so that the first run is like the later ones.
            pub fn warm_up(&mut self) -> ::kiln::Result<()> { self.0.warm_up() }
            /// What the model runs on, and why.
            pub fn device(&self) -> ::kiln::DeviceInfo { self.0.device() }
            #prepared_methods
            #state
        }

        const _: () = {
            const fn shared_between_threads<T: Send + Sync>() {}
            shared_between_threads::<#model>()
        };

        /// The inputs of a run.
        #[derive(Debug)]
        pub struct #inputs<'a> { #(#[doc = #in_docs] pub #in_fields: #in_types,)* #no_inputs }
        #single
        #unit

        /// The outputs of a run: views into the arena.
        #[derive(Debug)]
        pub struct #outputs<'m> { #(#[doc = #out_docs] pub #out_fields: #views,)* #no_outputs }

        /// Outputs that outlive the next run.
        #[derive(Clone, Debug, Default)]
        pub struct #buffers { #(#[doc = #out_docs] pub #out_fields: #owned,)* }

        #prepared_type
    })
}

/// Leaves only signatures, for reading.
pub(super) fn strip_bodies(file: &mut syn::File) {
    file.items.retain(|i| !matches!(i, syn::Item::Macro(_) | syn::Item::Const(_)));
    for item in &mut file.items {
        if let syn::Item::Impl(i) = item {
            i.items.retain(|i| match i {
                syn::ImplItem::Fn(f) => matches!(f.vis, syn::Visibility::Public(_)),
                _ => true,
            });
            for i in &mut i.items {
                if let syn::ImplItem::Fn(f) = i {
                    f.block = syn::parse_quote!({});
                }
            }
        }
    }
}

impl Printer<'_> {
    /// Whether every input is a dense tensor of closed extents.
    pub(super) fn all_closed(&self) -> bool {
        self.plan.inputs().all(|(v, _)| self.dense_scalar(v).is_some() && self.plan.graph.ty(v).closed_dims().is_some())
    }
    /// The boundary type of the elements of a dense tensor of known rank.
    fn dense_scalar(&self, v: ValueId) -> Option<TokenStream> {
        match self.plan.graph.ty(v) {
            Type::Tensor(d, _) => scalar(*d),
            _ => None,
        }
    }
    fn input_type(&self, v: ValueId) -> TokenStream {
        let Some(t) = self.dense_scalar(v) else { return quote!(&'a ::kiln::Value) };
        let g = &self.plan.graph;
        match g.ty(v).closed_dims() {
            Some(dims) => {
                let len = int(dims.iter().product());
                // The shape is named by a nested array type.
                let nested = dims.iter().rev().fold(t.clone(), |inner, n| {
                    let n = int(*n);
                    quote!([#inner; #n])
                });
                quote!(::kiln::Closed<'a, #t, #len, #nested>)
            }
            None => {
                let r = int(g.shape(v).len());
                quote!(::kiln::Open<'a, #t, #r>)
            }
        }
    }
    /// What a model with one input can be run on directly.
    fn conversions(&self, v: ValueId) -> Vec<TokenStream> {
        let Some(t) = self.dense_scalar(v) else { return vec![quote!(&'a ::kiln::Value)] };
        let g = &self.plan.graph;
        let rank = g.shape(v).len();
        let r = int(rank);
        let mut out = vec![quote!(&'a [#t]), quote!(&'a Vec<#t>), quote!(::kiln::View<'a, #t, #r>)];
        match g.ty(v).closed_dims() {
            Some(dims) => {
                let len = int(dims.iter().product());
                out.push(quote!(&'a [#t; #len]));
                if (2..=4).contains(&rank) {
                    let nested = dims.iter().rev().fold(t, |inner, n| {
                        let n = int(*n);
                        quote!([#inner; #n])
                    });
                    out.push(quote!(&'a #nested));
                }
            }
            None => {
                out.push(quote!((&'a [#t], [usize; #r])));
                if (1..=4).contains(&rank) {
                    let extents: Vec<Ident> = (0..rank).map(|i| format_ident!("D{i}")).collect();
                    let nested = extents.iter().rev().fold(t, |inner, n| quote!([#inner; #n]));
                    out.push(quote!(&'a #nested where #(#extents)*));
                }
            }
        }
        out
    }
    /// The type of an output's field, and the expression that reads it.
    fn output_type(&self, i: usize, v: ValueId) -> (TokenStream, TokenStream) {
        let (n, g) = (int(i), &self.plan.graph);
        match self.dense_scalar(v) {
            Some(t) => {
                let r = int(g.shape(v).len());
                (quote!(::kiln::View<'m, #t, #r>), quote!(self.0.view(#n)?))
            }
            None => (quote!(&'m ::kiln::Value), quote!(self.0.value(#n))),
        }
    }
    fn buffer_type(&self, v: ValueId) -> TokenStream {
        match self.dense_scalar(v) {
            Some(t) => quote!(Vec<#t>),
            None => quote!(::kiln::Value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::field_name;

    #[test]
    fn field_names_are_closed_under_any_port_name() {
        for (port, field) in [
            ("input_ids", "input_ids"),
            ("Input:0", "input_0"),
            ("a//b", "a_b"),
            ("0", "p_0"),
            ("", "p_"),
            ("type", "type_"),
            ("é", "p__"),
            ("_", "p__"),
            ("x\n; fn main(){}", "x_fn_main_"),
        ] {
            assert_eq!(field_name(port), field, "{port:?}");
        }
        assert!(field_name(&"a".repeat(500)).len() <= 49);
    }
}
