//! What the cache is worth trusting: bytes that come one by one against a model that reads the whole text anew for each of them.

use tales::{Sampler, Tales, write};

kiln::model! {
    struct Whole = "tales.onnx";
    dims { batch = 1 }
}

/// The scores of every position, from nothing but the text.
fn whole(net: &mut Whole, ids: &[i64]) -> Vec<f32> {
    let none = (&[][..], [1, 6, 0, 16]);
    let inputs = WholeInputs {
        ids: ids.into(),
        past_0_k: none.into(),
        past_0_v: none.into(),
        past_1_k: none.into(),
        past_1_v: none.into(),
        past_2_k: none.into(),
        past_2_v: none.into(),
    };
    net.run(inputs).unwrap().logits.to_owned()
}

fn ids(text: &str) -> Vec<i64> {
    text.bytes().map(i64::from).collect()
}

#[test]
fn greedy_text_is_the_same_without_a_state() {
    let (mut net, mut other) = (Tales::new().unwrap(), Whole::new().unwrap());
    for prompt in ["Once upon a time", "O", "But a hungry wolf had"] {
        let mut found = String::from(prompt);
        write(&mut net, prompt, &mut Sampler::new(0.0, 0), 120, |b| found.push(char::from(b))).unwrap();
        assert!(found.len() > prompt.len() + 20, "{found}");
        let mut text = String::from(prompt);
        while text.len() < found.len() {
            let scores = whole(&mut other, &ids(&text));
            text.push(char::from(Sampler::new(0.0, 0).pick(&scores[scores.len() - 128..])));
        }
        assert_eq!(text, found);
    }
}

#[test]
fn scores_are_the_same_in_any_pieces() {
    let (mut net, mut other) = (Tales::new().unwrap(), Whole::new().unwrap());
    let text = ids("Once upon a time there was a clever fox who lived under a green hill.");
    let want = whole(&mut other, &text);
    for piece in [1, 2, 7, 33, text.len()] {
        net.state_mut().clear();
        let mut found = Vec::new();
        for rows in text.chunks(piece) {
            found.extend_from_slice(&net.run(rows).unwrap().logits);
        }
        assert_eq!(found.len(), want.len());
        for (a, b) in found.iter().zip(&want) {
            assert!((a - b).abs() <= 1e-3 * (1.0 + b.abs()), "{a} and {b} in pieces of {piece}");
        }
    }
}

#[test]
fn a_state_is_cut_back_and_full_at_last() {
    let mut net = Tales::new().unwrap();
    let text = ids("Once upon a time there was a ");
    let first = net.run(&text).unwrap().logits.to_owned();
    net.run(&ids("wrong turn")).unwrap();
    net.state_mut().truncate(text.len() - 1).unwrap();
    let again = net.run(&text[text.len() - 1..]).unwrap().logits.to_owned();
    for (a, b) in again.iter().zip(&first[first.len() - 128..]) {
        assert!((a - b).abs() <= 1e-3 * (1.0 + b.abs()), "{a} and {b}");
    }
    let long = vec![32; 256 - text.len()];
    net.run(&long).unwrap();
    assert!(matches!(net.run(&[32][..]), Err(kiln::Error::StateFull { .. })));
    assert_eq!((net.state().len(), net.state().capacity()), (256, 256));
}

#[test]
fn a_seed_decides_the_text() {
    let mut net = Tales::new().unwrap();
    let mut text = |seed| {
        let mut out = Vec::new();
        write(&mut net, "Once upon a time", &mut Sampler::new(0.8, seed), 150, |b| out.push(b)).unwrap();
        String::from_utf8(out).unwrap()
    };
    let (a, b) = (text(1), text(2));
    assert_eq!((&a, &b), (&text(1), &text(2)));
    assert_ne!(a, b);
    // It has learned how its tales begin.
    assert!(a.starts_with(" there was a ") && b.starts_with(" there was a "), "{a}\n{b}");
}
