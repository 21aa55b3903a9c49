//! Snapshots of what the compiler prints for small models: whole for the smallest, the interface for the others.

use kiln_compiler::emit::{self, Names, WeightsAt};
use kiln_compiler::{Options, compile};
use kiln_kernels::dtype::DType::U8;
use kiln_tests::models::ModelBuilder;
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

#[test]
fn models_say_which_features_they_need() {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("decoder.onnx");
    let model = ModelBuilder::new().opset(20).input("file", U8, ["n"]).node("ImageDecoder", &["file"], &["image"]).named("read");
    std::fs::write(&path, model.output("image").build()).unwrap();
    let output = compile(&Options { model: path, ..Options::default() }).unwrap();
    assert_eq!(output.plan.features().into_keys().collect::<Vec<_>>(), ["images"]);
    let source = output.rust(&names("decoder")).unwrap();
    let asked: Vec<&str> = source.split("images!(").skip(1).filter_map(|l| l.split(");").next()).collect();
    assert!(matches!(asked[..], [l] if l.contains("read") && l.contains("features = [")), "{asked:?}");
    assert!(!self::output("mlp").rust(&names("mlp")).unwrap().contains("images!"));
}
