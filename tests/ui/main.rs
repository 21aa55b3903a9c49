//! What rustc says when a model, or its use, is wrong.

#[test]
fn errors_are_clear() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("ui/fail/*.rs");
}
