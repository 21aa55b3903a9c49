//! What rustc says when a model, or its use, is wrong.

use std::{fs, path::Path};

/// The files that the cases name.
const MODELS: [&str; 2] = ["models/mlp.onnx", "ui/not_a_model.txt"];

#[test]
fn errors_are_clear() {
    // A path starts at the folder of the crate, which trybuild makes inside of the target folder, wherever that is.
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let beside = target.join("tests/trybuild").join(env!("CARGO_PKG_NAME")).join("ui");
    fs::create_dir_all(&beside).unwrap();
    for file in MODELS {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        fs::copy(&from, beside.join(from.file_name().unwrap())).unwrap();
    }
    let cases = trybuild::TestCases::new();
    cases.compile_fail("ui/fail/*.rs");
}
