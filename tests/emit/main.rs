//! Snapshots of what the compiler prints for small models: whole for the smallest, the interface for the others.

use kiln_compiler::emit::{self, Names, WeightsAt};
use kiln_compiler::{Options, compile};
use std::path::PathBuf;

fn output(model: &str) -> kiln_compiler::Output {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("models/{model}.onnx"));
    compile(&Options { model: path, dump_after: Some("prune".into()), ..Options::default() }).unwrap()
}

fn names(model: &str) -> Names {
    Names::new(kiln_compiler::artifact::struct_name(model), WeightsAt::Given)
}

#[test]
fn source_of_the_smallest_model() {
    insta::assert_snapshot!("mlp", output("mlp").rust(&names("mlp")).unwrap());
}

#[test]
fn interfaces() {
    for model in ["convnet", "control"] {
        insta::assert_snapshot!(format!("{model}_interface"), emit::signatures(&output(model).plan, &names(model)).unwrap());
    }
}

#[test]
fn graphs_after_the_passes() {
    for model in ["mlp", "convnet", "control"] {
        insta::assert_snapshot!(format!("{model}_graph"), output(model).dump.unwrap());
    }
}
