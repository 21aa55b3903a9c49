//! The same model gives the same bytes wherever it lies, and names in a model change nothing but text.

use kiln_compiler::emit::{Interface, Names, WeightsAt};
use kiln_compiler::{Options, compile};
use kiln_tests::detector::{self, detector};
use kiln_tests::transformers::{self, decoder, encoder};
use kiln_tests::{hostile, models::ModelBuilder, samples};
use proc_macro2::{TokenStream, TokenTree};
use std::path::{Path, PathBuf};

fn folder(name: &str) -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

fn compiled(model: &[u8], at: &Path) -> (String, Vec<u8>) {
    std::fs::write(at, model).unwrap();
    let out = compile(&Options { model: at.into(), ..Options::default() }).unwrap();
    let names = Names::new("Net", WeightsAt::Given).interface(Interface::Numbered);
    let mut weights = Vec::new();
    out.write_weights(&mut weights).unwrap();
    (out.rust(&names).unwrap(), weights)
}

#[test]
fn equal_models_give_equal_bytes_in_any_folder() {
    for (name, build) in samples::ALL {
        let a = compiled(&build(), &folder("here").join("a.onnx"));
        let b = compiled(&build(), &folder("elsewhere, with a space").join("b.onnx"));
        assert_eq!(a, b, "{name}");
    }
}

#[test]
fn networks_compile_to_equal_bytes_again() {
    use {detector::Spelling as Detector, transformers::Spelling as Transformer};
    let networks: [(&str, Vec<u8>); 6] = [
        ("encoder", encoder(3, Transformer::Whole)),
        ("encoder, spelled", encoder(3, Transformer::Spelled)),
        ("decoder", decoder(3, Transformer::Whole)),
        ("decoder, spelled", decoder(3, Transformer::Spelled)),
        ("detector, traced", detector(Detector::Traced)),
        ("detector, captured", detector(Detector::Captured)),
    ];
    for (name, model) in networks {
        let a = compiled(&model, &folder("first").join("a.onnx"));
        let b = compiled(&model, &folder("second").join("b.onnx"));
        // What is compared is long: a difference is best looked for with `kiln compile`.
        assert!(a == b, "two compilations of the {name} differ");
    }
}

/// The tokens with every string literal emptied, and without the commas that a printer puts where a line breaks.
fn erased(s: TokenStream) -> String {
    let mut out = String::new();
    for t in s {
        match t {
            TokenTree::Group(g) => {
                let inner = erased(g.stream());
                out.push_str(&format!("{:?}[{}]", g.delimiter(), inner.trim_end_matches(", ")));
            }
            TokenTree::Literal(l) if l.to_string().starts_with(['"', 'r']) => out.push_str("\"\" "),
            other => out.push_str(&format!("{other} ")),
        }
    }
    out
}

fn named(input: &str, inner: &str, node: &str, output: &str) -> Vec<u8> {
    ModelBuilder::new()
        .opset(17)
        .input(input, kiln::DType::F32, [2, 3])
        .node("Exp", &[input], &[inner])
        .named(node)
        .node("Softmax", &[inner], &[output])
        .named(node)
        .output(output)
        .build()
}

#[test]
fn names_change_no_token() {
    let at = folder("names").join("m.onnx");
    let tokens = |model: &[u8]| {
        std::fs::write(&at, model).unwrap();
        let out = compile(&Options { model: at.clone(), ..Options::default() }).unwrap();
        let names = Names::new("Net", WeightsAt::Given).interface(Interface::Dynamic);
        erased(out.rust(&names).unwrap().parse().unwrap())
    };
    let plain = tokens(&named("x", "y", "n", "z"));
    for name in hostile::NAMES {
        // Four different names, or the graph would have cycles.
        let all = [format!("{name}0"), format!("{name}1"), format!("{name}2"), format!("{name}3")];
        assert_eq!(tokens(&named(&all[0], &all[1], &all[2], &all[3])), plain, "{name:?}");
    }
}
