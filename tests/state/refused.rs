//! What the compiler says of state that it cannot keep.

use kiln::DType::{F32, I64};
use kiln::Tensor;
use kiln_compiler::import::{Dims, Extent};
use kiln_compiler::{Pairing, compile};
use kiln_tests::models::ModelBuilder;
use std::path::PathBuf;

/// A cache `k0` of rows of 4 that grows, a fixed `h0`, and what tests add.
fn model(more: impl FnOnce(ModelBuilder) -> ModelBuilder) -> Vec<u8> {
    let m = ModelBuilder::new()
        .opset(17)
        .input("x", F32, ["batch", "rows", "4"])
        .input("k0", F32, ["batch", "past", "4"])
        .input("h0", F32, ["1", "4"])
        .initializer("two", Tensor::scalar(2f32))
        .node("Concat", &["k0", "x"], &["k1"])
        .attr("axis", 1)
        .node("Mul", &["h0", "two"], &["h1"])
        .node("ReduceMax", &["k1"], &["y"])
        .attr("axes", vec![1i64])
        .output("y")
        .output("k1")
        .output("h1");
    more(m).build()
}

fn errors(name: &str, bytes: &[u8], patterns: &[(&str, &str)], capacity: Option<usize>, dims: &[(&str, i64)]) -> String {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("state_{name}.onnx"));
    std::fs::write(&path, bytes).unwrap();
    let by_name = dims.iter().map(|(n, d)| (n.to_string(), Extent::Closed(*d))).collect();
    let patterns = patterns.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect();
    let options = compile::Options {
        model: path,
        dims: Dims { by_name, ..Dims::default() },
        state: Pairing { patterns, capacity },
        ..Default::default()
    };
    match compile::compile(&options) {
        Ok(_) => String::new(),
        Err(d) => d.to_string(),
    }
}

#[track_caller]
fn says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}

#[test]
fn sound_pairs_compile() {
    let batch = [("batch", 1)];
    let plain = model(|m| m);
    for patterns in [&[("k0", "k1"), ("h0", "h1")][..], &[("k0", "k1")]] {
        assert_eq!(errors("sound", &plain, patterns, Some(8), &batch), "");
    }
    assert_eq!(errors("fixed", &plain, &[("h*0", "h*1")], None, &[]), "");
}

#[test]
fn patterns_that_pair_nothing() {
    let plain = model(|m| m);
    let text = errors("none", &plain, &[("past_*", "present_*")], Some(8), &[]);
    says(
        &text,
        &["no input matches \"past_*\"", "the inputs are: x, k0, h0", "no output matches \"present_*\"", "the outputs are: y, k1, h1"],
    );
    let text = errors("star", &plain, &[("k*", "k1")], Some(8), &[]);
    says(&text, &["both patterns have one `*`, or neither has"]);
    let text = errors("twice", &plain, &[("k0", "k1"), ("k0", "h1")], Some(8), &[]);
    says(&text, &["two patterns match the input \"k0\""]);
    let text = errors("twice_out", &plain, &[("k0", "k1"), ("h0", "k1")], Some(8), &[]);
    says(&text, &["two patterns match the output \"k1\""]);
    let more = model(|m| m.input("past_1", F32, ["4"]).input("past_2", F32, ["4"]).node("Neg", &["past_1"], &["next_1"]).output("next_1"));
    let text = errors("unpaired", &more, &[("past_*", "next_*")], None, &[]);
    says(&text, &["the input \"past_2\" has no output \"next_2\" to continue it"]);
    let more = model(|m| {
        m.input("past_1", F32, ["4"])
            .node("Neg", &["past_1"], &["next_1"])
            .node("Abs", &["past_1"], &["next_2"])
            .output("next_1")
            .output("next_2")
    });
    let text = errors("unpaired_out", &more, &[("past_*", "next_*")], None, &[]);
    says(&text, &["the output \"next_2\" has no input \"past_2\" that it continues"]);
}

#[test]
fn pairs_that_cannot_be_kept() {
    let (plain, batch) = (model(|m| m), [("batch", 1)]);
    says(&errors("capacity", &plain, &[("k0", "k1")], None, &batch), &["grows along axis 1, and no capacity is given", "capacity = 1024"]);
    says(&errors("idle", &plain, &[("h0", "h1")], Some(8), &batch), &["`capacity` is given, but no state grows"]);
    says(&errors("open", &plain, &[("k0", "k1")], Some(8), &[]), &["axis 0, \"batch\", is open", "--dim batch=1"]);
    let closed = [("batch", 1), ("past", 6)];
    says(&errors("closed", &plain, &[("k0", "k1")], Some(8), &closed), &["axis 1 of the input is closed at 6", "dynamic axis"]);
    let small = [("batch", 1), ("rows", 9)];
    says(&errors("small", &plain, &[("k0", "k1")], Some(8), &small), &["a capacity of 8 has no room for the 9 rows of a run"]);
    says(&errors("huge", &plain, &[("k0", "k1")], Some(1 << 60), &batch), &["would take more than 1 TiB"]);
    let typed = model(|m| m.input("c0", I64, ["4"]).node("Cast", &["c0"], &["c1"]).attr("to", 1).output("c1"));
    says(&errors("typed", &typed, &[("c0", "c1")], None, &[]), &["the input is i64, the output f32"]);
    // New rows before the old ones, and rows that are not the old ones.
    for (name, a, b) in [("before", "x", "r0"), ("others", "changed", "x")] {
        let wrong = model(|m| {
            let m = m.input("r0", F32, ["batch", "past", "4"]).node("Mul", &["r0", "two"], &["changed"]);
            m.node("Concat", &[a, b], &["r1"]).attr("axis", 1).output("r1")
        });
        says(
            &errors(name, &wrong, &[("r0", "r1")], Some(8), &batch),
            &["\"r0\" -> \"r1\" is no append", "Concat", "leave it among inputs and outputs"],
        );
    }
    let two = model(|m| {
        let m = m.input("x2", F32, ["2", "9", "4"]).input("r0", F32, ["2", "past", "4"]);
        m.node("Concat", &["r0", "x2"], &["r1"]).attr("axis", 1).output("r1")
    });
    says(&errors("apart", &two, &[("*0", "*1")], Some(20), &batch), &["all states that grow have one length"]);
}

/// What changes nothing does not stand between a cache and its Concat.
#[test]
fn idle_nodes_are_seen_through() {
    let idle = model(|m| {
        m.input("r0", F32, ["1", "past", "4"])
            .initializer("shape", Tensor::new(&[3], &[1i64, -1, 4]))
            .node("Reshape", &["r0", "shape"], &["same"])
            .node("Concat", &["same", "x"], &["joined"])
            .attr("axis", 1)
            .node("Identity", &["joined"], &["r1"])
            .output("r1")
    });
    assert_eq!(errors("idle_nodes", &idle, &[("r0", "r1")], Some(8), &[("batch", 1)]), "");
}
