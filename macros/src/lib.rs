//! The `model!` macro: arguments with spans become compiler options, diagnostics become errors at the path literal.

mod arguments;

use arguments::Arguments;
use kiln_compiler::artifact::{self, Request};
use kiln_compiler::diagnostics::Diagnostic;
use kiln_compiler::emit::Names;
use proc_macro2::{Ident, Span, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use std::path::{Path, PathBuf};

/// The largest model that a macro takes: rustc reads the file for its rebuild marker.
const MAX_MODEL: u64 = 256 << 20;

/// Compiles an ONNX model into a struct. See the crate `kiln` for the whole form.
///
/// ```ignore
/// kiln::model!("models/resnet50.onnx");
/// ```
#[proc_macro]
pub fn model(input: proc_macro::TokenStream) -> proc_macro::TokenStream {
    match syn::parse::<Arguments>(input) {
        Ok(arguments) => expand(&arguments).into(),
        Err(e) => e.to_compile_error().into(),
    }
}

fn expand(a: &Arguments) -> TokenStream {
    let folder = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from).unwrap_or_default();
    let path = folder.join(a.path.value());
    let span = a.path.span();
    let mut request = Request::new(&path);
    if let Some((visibility, name)) = &a.item {
        request.names = Names { visibility: visibility.clone(), ..Names::new(name, request.names.weights) };
    }
    request.options.dims = a.dims.clone();
    request.options.accuracy = a.accuracy;
    request.options.tune.file = a.tune.0.as_ref().map(|file| folder.join(file.value()));
    request.options.tune.locked = a.tune.1;
    request.options.state = a.state.clone();
    request.options.cuda = a.cuda();
    request.names.fields.clone_from(&a.fields);
    request.embed = a.embed;
    // An editor only needs the types; it sets this for the macros it runs.
    request.skeleton = std::env::var_os("RUST_ANALYZER_INTERNALS_DO_NOT_USE").is_some();
    request.checked = checks_only(std::env::args());
    let fail = |text: String| {
        let stand_in = stand_in(&request.names);
        quote_spanned!(span=> ::core::compile_error!(#text); #stand_in)
    };
    let made = match std::fs::metadata(&path) {
        Ok(m) if m.len() > MAX_MODEL => return fail(too_large(a, m.len())),
        Ok(_) => artifact::make(&request, &artifact::cache_root(&folder)),
        Err(e) => Err(Diagnostic::new(format!("cannot read the model: {e}")).help("its path starts at the folder of Cargo.toml").into()),
    };
    match made {
        Ok(made) => {
            let marks = std::iter::once(&path).chain(&made.data_files).map(|f| marker(f));
            let source = made.source.display().to_string();
            // What decides whether and by which tool kernels for a GPU are compiled.
            let watched = artifact::WATCHED.iter().filter(|_| a.cuda.is_some());
            quote! {
                #(#marks)*
                #(const _: ::core::option::Option<&str> = ::core::option_env!(#watched);)*
                ::core::include!(#source);
            }
        }
        Err(mut d) => {
            d.file = a.path.value();
            let text = d.to_string();
            // rustc opens its own line with the word.
            fail(text.strip_prefix("error: ").unwrap_or(&text).to_string())
        }
    }
}

/// Whether rustc, in whose process macros run, was asked for no code: `cargo check`, clippy and rustdoc are.
fn checks_only(mut args: impl Iterator<Item = String>) -> bool {
    let documents = args.next().is_some_and(|tool| tool.ends_with("rustdoc") || tool.ends_with("rustdoc.exe"));
    let mut emits = None;
    while let Some(a) = args.next() {
        match a.strip_prefix("--emit") {
            Some("") => emits = args.next(),
            Some(list) => emits = list.strip_prefix('=').map(String::from).or(emits),
            None => {}
        }
    }
    let codes = ["link", "obj", "asm", "llvm-ir", "llvm-bc"];
    // A kind of output may be followed by the path it goes to.
    documents || emits.is_some_and(|list| !list.split(',').any(|kind| codes.contains(&kind.split('=').next().unwrap_or(kind))))
}

/// Tells cargo that a file decides the expansion; the bytes are dropped at once.
fn marker(file: &Path) -> TokenStream {
    let file = file.display().to_string();
    quote!(
        const _: &[u8] = ::core::include_bytes!(#file);
    )
}

fn too_large(a: &Arguments, len: u64) -> String {
    format!(
        "the model has {} MB; above {} MB compile it from build.rs:\n\n    fn main() {{\n        kiln_compiler::Build::new({:?}).compile().unwrap();\n    }}\n\nand write kiln::include_model!(..) here",
        len >> 20,
        MAX_MODEL >> 20,
        a.path.value()
    )
}

/// Names that stand for the model and its types after an error. Their type is itself unknown to rustc, which has reported the error by then
/// and says nothing about such types, whatever is done with them.
fn stand_in(n: &Names) -> TokenStream {
    let visibility: TokenStream = n.visibility.parse().unwrap_or_default();
    let model = Ident::new(&n.model, Span::call_site());
    let parts = ["Inputs", "Outputs", "InputsMut"].map(|part| format_ident!("{model}{part}"));
    let buffers = format_ident!("{model}Buffers");
    quote! {
        #visibility type #model = ModelThatDidNotCompile;
        #(#[allow(dead_code)] #visibility type #parts<'a> = #model;)*
        #[allow(dead_code)]
        #visibility type #buffers = #model;
    }
}

#[cfg(test)]
mod tests {
    use super::checks_only;

    #[test]
    fn only_what_makes_code_needs_kernels() {
        let of = |line: &str| checks_only(line.split(' ').map(String::from));
        assert!(of("/usr/bin/rustc --crate-name x --emit=dep-info,metadata src/lib.rs"));
        assert!(of("clippy-driver rustc --emit dep-info,metadata src/lib.rs"));
        assert!(of("/usr/bin/rustdoc --crate-type lib src/lib.rs"));
        for line in ["--emit=dep-info,metadata,link", "--emit=dep-info,link=out/x", "--emit asm", "--crate-type bin"] {
            assert!(!of(&format!("rustc --crate-name x {line} src/main.rs")), "{line}");
        }
    }
}
