//! The hostile corpus, through every stage that takes a whole file.

use kiln_compiler::onnx::{Limits, read};
use kiln_tests::hostile::{Reads, corpus};
use std::collections::BTreeSet;

#[test]
fn the_reader_answers_every_case_as_foretold() {
    for case in corpus() {
        let result = read(&case.model, None, &Limits::default());
        match (result, case.reads) {
            (Ok(_), Reads::Yes) => {}
            (Err(found), Reads::No(text)) if found.to_string().contains(text) => {}
            (Ok(_), Reads::No(text)) => panic!("{}: it was read, not refused with {text:?}", case.name),
            (Err(found), reads) => panic!("{}: {reads:?} was foretold, {found}", case.name),
        }
    }
}

#[test]
fn cases_have_names_of_their_own_and_small_files() {
    let mut names = BTreeSet::new();
    for case in corpus() {
        assert!(names.insert(case.name.clone()), "{}", case.name);
        assert!(case.model.len() < 1 << 20, "{}", case.name);
    }
}
