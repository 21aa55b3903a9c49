//! What generated code says of its model: ports, symbols, memory, weights, tables of nodes and kernels, and the struct.

use super::kernels::Listed;
use super::{Names, Printer, WeightsAt, dtype_path, ident, int, names};
use crate::ir::{Dim, Type, ValueId};
use crate::plan::{Arena, Place};
use proc_macro2::{Ident, Literal, Span, TokenStream};
use quote::quote;

/// Everything before the functions. `device` says whether a plan for a GPU stands beside this one.
pub(super) fn tables(p: &Printer<'_>, n: &Names, kernels: &[Listed], device: bool) -> TokenStream {
    let rt = names::rt();
    let abi = Literal::u32_unsuffixed(ABI);
    let version = env!("CARGO_PKG_VERSION");
    let model = Ident::new(&n.model, Span::call_site());
    let device = if device { quote!(Some(&device::DEVICE)) } else { quote!(None) };
    let spec = spec(p, &n.model, &n.weights, kernels, &device);
    quote! {
        const _: () = #rt::abi(#abi, #version);

        impl #rt::Model for #model {
            const SPEC: &'static #rt::Spec = &SPEC;
            fn from_instance(instance: #rt::Instance) -> Self { #model(instance) }
            fn instance(&self) -> &#rt::Instance { &self.0 }
            fn instance_mut(&mut self) -> &mut #rt::Instance { &mut self.0 }
        }

        #spec
    }
}

/// What a plan says of itself: the static `SPEC`, and the functions in it.
pub(super) fn spec(p: &Printer<'_>, model_name: &str, weights: &WeightsAt, kernels: &[Listed], device: &TokenStream) -> TokenStream {
    let rt = names::rt();
    let g = &p.plan.graph;
    let inputs = p.plan.inputs().map(|(v, port)| p.port(v, &port.name, port.optional));
    let outputs = p.plan.outputs().map(|(v, port)| p.port(v, &port.name, false));
    let places = p.plan.outputs().map(|(v, _)| p.out_place(v));
    let state = p.state_spec();
    let dims = p.plan.outputs().enumerate().map(|(i, (v, _))| {
        let (i, shape) = (int(i), g.shape(v));
        let lets = p.symbol_lets(shape);
        let each = shape.iter().map(|d| p.dim(d));
        quote!(#i => { #lets out.copy_from_slice(&[#(#each),*]); })
    });
    let symbols = g.symbols.iter().map(|s| {
        let (name, lo, entry) = (&s.name, Literal::i64_unsuffixed(s.range.lo), s.input.is_some());
        let hi = match s.range.hi {
            Some(h) => {
                let h = Literal::i64_unsuffixed(h);
                quote!(Some(#h))
            }
            None => quote!(None),
        };
        quote!(#rt::Symbol { name: #name, lo: #lo, hi: #hi, entry: #entry })
    });
    let arena = match &p.plan.arena {
        Arena::Fixed { bytes, .. } => {
            let b = int(*bytes as usize);
            quote!(#rt::ArenaSpec::Fixed(#b))
        }
        Arena::Open => {
            let lives = p.plan.buffers.iter().map(|b| {
                let (from, to) = (Literal::u32_unsuffixed(b.life.from), Literal::u32_unsuffixed(b.life.to));
                quote!(#rt::Life { from: #from, to: #to })
            });
            quote!(#rt::ArenaSpec::Open { sizes, lives: &[#(#lives),*] })
        }
    };
    let sizes = match &p.plan.arena {
        Arena::Fixed { .. } => quote!(),
        Arena::Open => {
            let all: Vec<&Dim> = p.plan.buffers.iter().map(|b| &b.bytes).collect();
            let lets = p.symbol_lets(all);
            let each = p.plan.buffers.iter().enumerate().map(|(i, b)| {
                let (i, d) = (int(i), p.dim(&b.bytes));
                quote!(out[#i] = #d;)
            });
            quote!(fn sizes(syms: &[i64], out: &mut [usize]) { let _ = syms; #lets #(#each)* })
        }
    };
    let mut scratch_dims: Vec<Dim> = Vec::new();
    let mut scratch_terms: Vec<TokenStream> = Vec::new();
    for k in p.plan.kernels() {
        // Steps of sizes that the inputs do not settle ask for their scratch themselves.
        if let Some((d, t)) = p.scratch(k).filter(|(d, _)| p.settled(d)) {
            scratch_dims.extend(d);
            scratch_terms.push(t);
        }
    }
    scratch_terms.sort_by_key(|t| t.to_string());
    scratch_terms.dedup_by_key(|t| t.to_string());
    let scratch_lets = p.symbol_lets(&scratch_dims);
    let nodes = &p.plan.lines;
    let listed = kernels.iter().map(|k| {
        let (name, kind, what) = (&k.name, k.kind, &k.what);
        let algorithm = Ident::new(k.algorithm, Span::call_site());
        let lines = k.nodes.iter().map(|n| Literal::u32_unsuffixed(*n as u32));
        quote!(#rt::Kernel { name: #name, kind: #kind, algorithm: #rt::Algorithm::#algorithm, what: #what, nodes: &[#(#lines),*] })
    });
    let work = p.plan.kernels().into_iter().take(kernels.len()).enumerate().map(|(i, step)| {
        let (i, w) = (int(i), p.plan.work(step));
        let lets = p.symbol_lets([&w.flops, &w.read, &w.written]);
        let [flops, read, written] = [&w.flops, &w.read, &w.written].map(|d| p.count(d));
        quote!(#i => { #lets #rt::Work::new(#flops, #read, #written) })
    });
    let bytes = int(p.plan.weights.bytes);
    let (blob, weights) = match weights {
        WeightsAt::Embedded(path) if p.plan.weights.bytes > 0 => {
            let path: TokenStream = path.parse().unwrap_or_default();
            let symbol = format!("kiln_weights_{}", p.hash());
            (quote!(#rt::embed! { #symbol, #path }), quote!(Some(embedded)))
        }
        WeightsAt::Embedded(_) => (quote!(), quote!(Some(|| core::ptr::NonNull::<u64>::dangling().as_ptr().cast_const().cast()))),
        WeightsAt::Given => (quote!(), quote!(None)),
    };
    let slots = int(p.plan.slots);
    let isa = if p.plan.exact { quote!(#rt::Isa::Avx512) } else { quote!(#rt::Isa::Amx) };
    let digits = p.plan.digits.iter().map(|d| {
        let (at, k, panels) = (int(d.at), int(d.k), int(d.panels));
        quote!(#rt::Digits { at: #at, k: #k, panels: #panels })
    });
    let hash = p.hash();
    quote! {
        #blob

        pub(super) static SPEC: #rt::Spec = #rt::Spec {
            name: #model_name,
            hash: #hash,
            inputs: &[#(#inputs),*],
            outputs: &[#(#outputs),*],
            out_places: &[#(#places),*],
            out_dims,
            symbols: &[#(#symbols),*],
            arena: #arena,
            state: #state,
            slots: #slots,
            scratch,
            isa: #isa,
            weights_bytes: #bytes,
            digits: &[#(#digits),*],
            weights: #weights,
            run,
            work,
            nodes: &[#(#nodes),*],
            kernels: &[#(#listed),*],
            device: #device,
        };

        fn out_dims(i: usize, syms: &[i64], out: &mut [usize]) {
            let _ = syms;
            match i { #(#dims)* _ => {} }
        }

        fn work(step: usize, syms: &[i64]) -> #rt::Work {
            let _ = syms;
            match step { #(#work)* _ => #rt::Work::default() }
        }

        #sizes

        fn scratch(syms: &[i64]) -> usize {
            let _ = syms;
            #scratch_lets
            let mut most = 0usize;
            #(most = most.max(#scratch_terms);)*
            most
        }
    }
}

/// The version of the contract between generated code and the runtime.
const ABI: u32 = 4;

impl Printer<'_> {
    /// Bindings of symbols from the slice `syms`.
    pub(super) fn symbol_lets<'d>(&self, dims: impl IntoIterator<Item = &'d Dim>) -> TokenStream {
        let mut all = Default::default();
        dims.into_iter().for_each(|d| d.symbols(&mut all));
        let lets = all.iter().map(|s| {
            let (name, n) = (ident("s", s.0 as usize), int(s.0 as usize));
            quote!(let #name = syms[#n].max(0) as usize;)
        });
        quote!(#(#lets)*)
    }
    /// A dimension as a `u64` expression.
    fn count(&self, d: &Dim) -> TokenStream {
        match d.as_int() {
            Some(n) => {
                let n = Literal::u64_unsuffixed(n.max(0) as u64);
                quote!(#n)
            }
            None => {
                let d = self.signed(d);
                quote!((#d).max(0) as u64)
            }
        }
    }
    fn port(&self, v: ValueId, name: &str, optional: bool) -> TokenStream {
        let rt = names::rt();
        fn dtype(t: &Type) -> kiln_kernels::dtype::DType {
            match t {
                Type::Tensor(d, _) | Type::AnyTensor(d) => *d,
                Type::Sequence(t) | Type::Optional(t) | Type::Map(_, t) => dtype(t),
            }
        }
        let ty = self.plan.graph.ty(v);
        let kind = match ty {
            Type::Tensor(..) => quote!(Tensor),
            Type::AnyTensor(_) => quote!(AnyTensor),
            _ => quote!(Value),
        };
        let dims = ty.shape().unwrap_or(&[]).iter().map(|d| match (d.as_int(), d.as_sym()) {
            (Some(n), _) => {
                let n = int(n.max(0) as usize);
                quote!(#rt::PortDim::Closed(#n))
            }
            (None, Some(s)) => {
                let s = int(s.0 as usize);
                quote!(#rt::PortDim::Symbol(#s))
            }
            _ => quote!(#rt::PortDim::Computed),
        });
        let d = dtype_path(dtype(ty));
        quote!(#rt::Port { name: #name, kind: #rt::PortKind::#kind, dtype: #d, dims: &[#(#dims),*], optional: #optional })
    }
    fn out_place(&self, v: ValueId) -> TokenStream {
        let rt = names::rt();
        match self.plan.places.get(&v) {
            Some(Place::Buffer(b)) => match &self.plan.arena {
                Arena::Fixed { offsets, .. } => {
                    let o = int(offsets[*b] as usize);
                    quote!(#rt::OutPlace::Arena(#o))
                }
                Arena::Open => {
                    let b = int(*b);
                    quote!(#rt::OutPlace::Buffer(#b))
                }
            },
            Some(Place::Weight(w)) => {
                let o = int(self.plan.weights.blobs[*w].offset);
                quote!(#rt::OutPlace::Weight(#o))
            }
            Some(Place::Input(i)) => {
                let i = int(*i);
                quote!(#rt::OutPlace::Input(#i))
            }
            Some(Place::Slot(k)) => {
                let k = int(*k);
                quote!(#rt::OutPlace::Slot(#k))
            }
            // No output lies in a state: what would is copied.
            Some(Place::State(_)) | None => quote!(#rt::OutPlace::Arena(0)),
        }
    }
    /// What an instance keeps between runs.
    fn state_spec(&self) -> TokenStream {
        let rt = names::rt();
        let states = &self.plan.states;
        if states.pairs.is_empty() {
            return quote!(#rt::StateSpec::NONE);
        }
        let (capacity, bytes) = (int(states.capacity), int(states.bytes));
        let lengths = states.lengths.iter().map(|s| int(s.0 as usize));
        let (lets, grows) = (self.symbol_lets([&states.grows]), self.signed(&states.grows));
        let pairs = states.pairs.iter().zip(self.plan.presents()).map(|(pair, v)| {
            let (input, output, dtype, at) = (&pair.input, &pair.output, dtype_path(pair.dtype), int(pair.at));
            let next = match pair.grows {
                Some((_, axis)) => {
                    let product = |extents: &[usize]| extents.iter().product::<usize>();
                    let (slices, row) = (int(product(&pair.extents[..axis])), int(product(&pair.extents[axis + 1..]) * pair.dtype.size()));
                    quote!(#rt::Next::Appended { slices: #slices, row: #row })
                }
                None => {
                    let (bytes, place) = (int(pair.bytes()), self.out_place(*v));
                    quote!(#rt::Next::Replaced { bytes: #bytes, place: #place })
                }
            };
            quote!(#rt::Pair { input: #input, output: #output, dtype: #dtype, at: #at, next: #next })
        });
        quote! {
            #rt::StateSpec {
                bytes: #bytes,
                capacity: #capacity,
                lengths: &[#(#lengths),*],
                grows: |syms| { let _ = syms; #lets #grows },
                pairs: &[#(#pairs),*],
            }
        }
    }
    /// A hash of the recipes and offsets of the weights: weights of another plan do not fit.
    pub(super) fn hash(&self) -> String {
        let mut h = 0xcbf2_9ce4_8422_2325u64;
        let mut add = |text: &str| {
            for b in text.bytes() {
                h = (h ^ b as u64).wrapping_mul(0x100_0000_01b3);
            }
        };
        for b in &self.plan.weights.blobs {
            add(&format!("{:?} {} {} {:x};", b.packed.recipe, b.offset, b.bytes, b.hash));
        }
        add(&crate::ir::text::outline(&self.plan.graph));
        format!("{h:016x}")
    }
}
