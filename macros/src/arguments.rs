//! The grammar of `model!`: a path, or a struct with clauses.

use kiln_compiler::import::{Dims, Extent};
use kiln_compiler::{Accuracy, Cuda, Pairing, Precision};
use proc_macro2::Span;
use quote::ToTokens;
use std::collections::BTreeMap;
use syn::ext::IdentExt;
use syn::parse::{Parse, ParseStream};
use syn::{Ident, LitInt, LitStr, Result, Token, Visibility, braced, bracketed, parenthesized};

/// What was written between the parentheses.
pub(crate) struct Arguments {
    /// The model file.
    pub(crate) path: LitStr,
    /// Visibility and name of the struct, in the long form.
    pub(crate) item: Option<(String, String)>,
    /// Dimensions closed or bounded.
    pub(crate) dims: Dims,
    /// Field names by port.
    pub(crate) fields: BTreeMap<String, String>,
    /// Whether the weights go into the binary.
    pub(crate) embed: bool,
    /// Which algorithms may compute a result.
    pub(crate) accuracy: Accuracy,
    /// The file of measured methods, and whether it must list every kernel.
    pub(crate) tune: (Option<LitStr>, bool),
    /// What an instance keeps between runs.
    pub(crate) state: Pairing,
    /// Whether a GPU is compiled for beside the CPU, and whether it must compute everything.
    pub(crate) cuda: Option<bool>,
    /// What a GPU computes products in.
    pub(crate) precision: Option<Precision>,
}

impl Parse for Arguments {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let mut out = Arguments {
            path: LitStr::new("", Span::call_site()),
            item: None,
            dims: Dims::default(),
            fields: BTreeMap::new(),
            embed: true,
            accuracy: Accuracy::default(),
            tune: (None, false),
            state: Pairing::default(),
            cuda: None,
            precision: None,
        };
        if input.peek(LitStr) {
            out.path = input.parse()?;
            let _: Option<Token![,]> = input.parse()?;
            if !input.is_empty() {
                return Err(input.error("the long form opens with a struct: `pub struct Name = \"model.onnx\"; dims { .. }`"));
            }
            return Ok(out);
        }
        let visibility: Visibility = input.parse()?;
        input.parse::<Token![struct]>()?;
        let name: Ident = input.parse()?;
        input.parse::<Token![=]>()?;
        out.path = input.parse()?;
        input.parse::<Token![;]>()?;
        out.item = Some((visibility.to_token_stream().to_string(), name.to_string()));
        while !input.is_empty() {
            let clause: Ident = input.call(Ident::parse_any)?;
            match clause.to_string().as_str() {
                "dims" => out.dims_clause(input)?,
                "inputs" | "outputs" => out.ports_clause(input)?,
                "target" => out.target_clause(input)?,
                "precision" => out.precision = Precision::from_name(word(input, &Precision::NAMES)?),
                "accuracy" => out.accuracy = Accuracy::from_name(word(input, &Accuracy::NAMES)?).unwrap_or_default(),
                "weights" => out.embed = word(input, &["embedded", "file"])? == "embedded",
                "tune" => {
                    out.tune.0 = input.peek(LitStr).then(|| input.parse()).transpose()?;
                    out.tune.1 = out.tune.0.is_none() || input.peek(Ident) && input.fork().parse::<Ident>()? == "locked";
                    if out.tune.1 {
                        word(input, &["locked"])?;
                    }
                }
                "state" => out.state_clause(input)?,
                other => {
                    let text = format!(
                        "unknown clause `{other}`; the clauses are dims, inputs, outputs, state, target, accuracy, precision, tune and weights"
                    );
                    return Err(syn::Error::new(clause.span(), text));
                }
            }
            let _: Option<Token![;]> = input.parse()?;
        }
        Ok(out)
    }
}

/// One of some words.
fn word(input: ParseStream<'_>, words: &[&'static str]) -> Result<&'static str> {
    let w: Ident = input.call(Ident::parse_any)?;
    (words.iter().find(|x| w == **x).copied()).ok_or_else(|| syn::Error::new(w.span(), format!("expected one of {}", words.join(", "))))
}

/// A name as an identifier or a string.
fn name(input: ParseStream<'_>) -> Result<String> {
    if input.peek(LitStr) { Ok(input.parse::<LitStr>()?.value()) } else { Ok(input.call(Ident::parse_any)?.to_string()) }
}

impl Arguments {
    /// `cpu, cuda` or `cpu, cuda(strict)`.
    fn target_clause(&mut self, input: ParseStream<'_>) -> Result<()> {
        let inner;
        braced!(inner in input);
        while !inner.is_empty() {
            let target: Ident = inner.call(Ident::parse_any)?;
            match target.to_string().as_str() {
                "cpu" => {}
                "cuda" => {
                    self.cuda = Some(false);
                    if inner.peek(syn::token::Paren) {
                        let how;
                        parenthesized!(how in inner);
                        word(&how, &["strict"])?;
                        self.cuda = Some(true);
                    }
                }
                other => return Err(syn::Error::new(target.span(), format!("there is no target `{other}`; the targets are cpu and cuda"))),
            }
            if !inner.is_empty() {
                inner.parse::<Token![,]>()?;
            }
        }
        Ok(())
    }
    /// What is compiled for a GPU.
    pub(crate) fn cuda(&self) -> Option<Cuda> {
        let strict = self.cuda?;
        Some(Cuda { precision: self.precision.unwrap_or(Precision::of(self.accuracy)), strict })
    }
    /// `batch = 1, seq in 1..=512`.
    fn dims_clause(&mut self, input: ParseStream<'_>) -> Result<()> {
        let inner;
        braced!(inner in input);
        while !inner.is_empty() {
            let dim = name(&inner)?;
            let extent = if inner.peek(Token![=]) {
                inner.parse::<Token![=]>()?;
                Extent::Closed(inner.parse::<LitInt>()?.base10_parse()?)
            } else {
                inner.parse::<Token![in]>()?;
                let lo: LitInt = inner.parse()?;
                inner.parse::<Token![..=]>()?;
                let hi: LitInt = inner.parse()?;
                let (lo_n, hi_n): (i64, i64) = (lo.base10_parse()?, hi.base10_parse()?);
                if lo_n > hi_n {
                    return Err(syn::Error::new(hi.span(), format!("{lo_n}..={hi_n} is empty")));
                }
                Extent::Bounded(lo_n, hi_n)
            };
            self.dims.by_name.insert(dim, extent);
            if !inner.is_empty() {
                inner.parse::<Token![,]>()?;
            }
        }
        Ok(())
    }
    /// `"past_*" -> "present_*", capacity = 1024`.
    fn state_clause(&mut self, input: ParseStream<'_>) -> Result<()> {
        let inner;
        braced!(inner in input);
        while !inner.is_empty() {
            if inner.peek(LitStr) {
                let from: LitStr = inner.parse()?;
                inner.parse::<Token![->]>()?;
                let to: LitStr = inner.parse()?;
                self.state.patterns.push((from.value(), to.value()));
            } else {
                let word: Ident = inner.call(Ident::parse_any)?;
                if word != "capacity" {
                    let text = format!("expected `\"past_*\" -> \"present_*\"` or `capacity = 1024`, found `{word}`");
                    return Err(syn::Error::new(word.span(), text));
                }
                inner.parse::<Token![=]>()?;
                self.state.capacity = Some(inner.parse::<LitInt>()?.base10_parse()?);
            }
            if !inner.is_empty() {
                inner.parse::<Token![,]>()?;
            }
        }
        Ok(())
    }
    /// `field = "port", field = "port" as [1, 3, 224, 224]`.
    fn ports_clause(&mut self, input: ParseStream<'_>) -> Result<()> {
        let inner;
        braced!(inner in input);
        while !inner.is_empty() {
            let field: Ident = inner.call(Ident::parse_any)?;
            inner.parse::<Token![=]>()?;
            let port: LitStr = inner.parse()?;
            self.fields.insert(port.value(), field.to_string());
            if inner.peek(Token![as]) {
                inner.parse::<Token![as]>()?;
                let list;
                bracketed!(list in inner);
                let shape = list.parse_terminated(|s: ParseStream<'_>| s.parse::<LitInt>(), Token![,])?;
                let shape = shape.iter().map(|n| Ok(Some(Extent::Closed(n.base10_parse()?)))).collect::<Result<Vec<_>>>()?;
                self.dims.by_input.insert(port.value(), shape);
            }
            if !inner.is_empty() {
                inner.parse::<Token![,]>()?;
            }
        }
        Ok(())
    }
}
