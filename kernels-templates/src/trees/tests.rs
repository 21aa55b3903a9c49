//! Packed ensembles against the plain walk, bit by bit.

use super::*;
use crate::isa::Isa;
use crate::value::Element;
use std::vec;
use std::vec::Vec;

struct Random(u64);
impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    fn below(&mut self, n: usize) -> usize {
        (self.next() >> 11) as usize % n.max(1)
    }
    /// Numbers that meet: few different ones, with the special ones among them.
    fn number(&mut self) -> f64 {
        match self.below(16) {
            0 => 0.0,
            1 => -0.0,
            2 => f64::INFINITY,
            3 => f64::NEG_INFINITY,
            4 => f64::NAN,
            5 => f64::from(f32::MIN_POSITIVE),
            _ => f64::from((self.below(41) as f32 - 20.0) / 8.0),
        }
    }
}

/// How the weights of leaves are.
#[derive(Clone, Copy, PartialEq)]
enum Form {
    Single,
    Dense,
    Any,
}

fn forest(r: &mut Random, trees: usize, most: usize, features: usize, targets: usize, form: Form) -> Words {
    let mut words = Words::default();
    for _ in 0..trees {
        let own = r.below(targets);
        let first = words.nodes.len();
        // Nodes from the last to the first: each leads to later ones, or to leaves, and some lead to the same.
        let count = r.below(most + 1);
        let leaf = |r: &mut Random, words: &mut Words| {
            let weight = |r: &mut Random| f64::from((r.below(2001) as f32 - 1000.0) / 64.0);
            words.leaves.push(match form {
                Form::Single => vec![(own, weight(r))],
                Form::Dense => (0..targets).map(|t| (t, weight(r))).collect(),
                Form::Any => (0..r.below(3)).map(|_| (r.below(targets), weight(r))).collect(),
            });
            Next::Leaf(words.leaves.len() - 1)
        };
        for i in 0..count {
            let branch = |r: &mut Random, words: &mut Words| match 2 * i + 1 {
                c if c < count => Next::Node(first + c + r.below(2).min(count - 1 - c)),
                _ if i + 1 < count && r.below(3) == 0 => Next::Node(first + i + 1),
                _ => leaf(r, words),
            };
            let (yes, no) = (branch(r, &mut words), branch(r, &mut words));
            let mode = match r.below(10) {
                0 => Mode::Lt,
                1 => Mode::Gte,
                2 => Mode::Gt,
                3 => Mode::Eq,
                4 => Mode::Neq,
                5 => {
                    let at = words.members.len();
                    for _ in 0..r.below(5) {
                        let m = r.number();
                        words.members.extend((!m.is_nan()).then_some(m));
                    }
                    words.members.push(f64::NAN);
                    Mode::Member(at)
                }
                _ => Mode::Leq,
            };
            let (feature, split, tracks) = (r.below(features), r.number(), r.below(4) == 0);
            words.nodes.push(Node { feature, mode, split, tracks, yes, no });
        }
        let root = if count == 0 { leaf(r, &mut words) } else { Next::Node(first) };
        words.roots.push(root);
    }
    words
}

fn check<T: Float + Element>(words: &[i64], rows: usize, features: usize, targets: usize, aggregate: i64, r: &mut Random) -> u64 {
    let x: Vec<T> = (0..rows * features).map(|_| T::from_f64(r.number())).collect();
    let mut want = vec![T::ZERO; rows * targets];
    ensemble(Out(&mut want), In(&x), In(words), features, targets, aggregate).expect("the ensemble is sound");
    let bytes = pack(words, size_of::<T>() == 8, targets, aggregate).expect("the ensemble packs").bytes;
    let mut kept = vec![0u8; bytes.len() + 64];
    let skip = kept.as_ptr().align_offset(64);
    kept[skip..][..bytes.len()].copy_from_slice(&bytes);
    // SAFETY: the bytes are there, at a multiple of 64.
    let p = unsafe { Packed::at(kept[skip..].as_ptr()) };
    assert!(p.needs() <= features);
    for isa in Isa::available() {
        for by in [1, 5, 16, 100, 1000] {
            let mut out = vec![T::ONE; rows * targets + 1];
            let mut scratch = vec![0f64; p.scratch() / 8 + 1];
            for from in (0..rows).step_by(by) {
                let to = (from + by).min(rows);
                // SAFETY: the rows are inside of both matrices, and the scratch has the size that is asked for.
                unsafe { walk(isa, &p, x.as_ptr().cast(), features, out.as_mut_ptr().cast(), (from, to), scratch.as_mut_ptr().cast()) }
            }
            let same = out.iter().zip(&want).all(|(a, b)| a.to_f64().to_bits() == b.to_f64().to_bits());
            assert!(same, "{isa:?}, {rows} rows of {features} by {by}, {targets} targets, aggregate {aggregate}: {out:?} for {want:?}");
            assert!(out[rows * targets] == T::ONE);
        }
    }
    p.kind()
}

#[test]
fn packed_trees_are_the_plain_walk() {
    let mut r = Random(0x1234_5678_9abc_def1);
    for round in 0..400 {
        let (trees, most) = (r.below(21), [0, 1, 7, 60][r.below(4)]);
        let (features, targets) = (1 + r.below(9), [1, 1, 2, 3, 17][r.below(5)]);
        let form = [Form::Single, Form::Dense, Form::Any][r.below(3)];
        let words = forest(&mut r, trees, most, features, targets, form).encode();
        let rows = [0, 1, 2, 7, 8, 9, 16, 31, 53][r.below(9)];
        check::<f32>(&words, rows, features, targets, round % 4, &mut r);
        check::<f64>(&words, rows, features, targets, round % 4, &mut r);
    }
}

#[test]
fn many_columns_take_wide_links() {
    let mut r = Random(77);
    let words = forest(&mut r, 500, 4000, 9000, 1, Form::Single).encode();
    assert_eq!(check::<f32>(&words, 19, 9000, 1, 1, &mut r), 1);
    let few = forest(&mut r, 20, 400, 90, 1, Form::Single).encode();
    assert_eq!(check::<f32>(&few, 150, 90, 1, 1, &mut r), 0);
}

#[test]
fn unsound_ensembles_are_faults() {
    let leaf = vec![vec![(0, 1.0)]];
    let node = |yes, no| Node { feature: 0, mode: Mode::Leq, split: 0.5, tracks: false, yes, no };
    let of = |nodes: Vec<Node>, root| Words { roots: vec![root], nodes, leaves: leaf.clone(), members: vec![] }.encode();
    let run = |words: &[i64], targets: usize, x: &[f32]| {
        let mut out = vec![0f32; targets];
        ensemble(Out(&mut out), In(x), In(words), x.len(), targets, 1).map(|()| out)
    };
    let circle = of(vec![node(Next::Node(1), Next::Leaf(0)), node(Next::Node(0), Next::Leaf(0))], Next::Node(0));
    let lost = of(vec![node(Next::Leaf(7), Next::Leaf(0))], Next::Node(0));
    let beyond = of(vec![node(Next::Node(9), Next::Leaf(0))], Next::Node(0));
    for words in [&circle, &lost, &beyond, &vec![1, 2, 3], &vec![]] {
        assert!(run(words, 1, &[0.0]).is_err());
        assert!(pack(words, false, 1, 1).is_none());
    }
    let sound = of(vec![node(Next::Leaf(0), Next::Leaf(0))], Next::Node(0));
    assert_eq!(run(&sound, 1, &[0.0]), Ok(vec![1.0]));
    assert!(run(&sound, 1, &[]).is_err());
    let nowhere = Words { roots: vec![Next::Leaf(0)], leaves: vec![vec![(3, 1.0)]], ..Words::default() }.encode();
    assert!(run(&nowhere, 1, &[0.0]).is_err() && pack(&nowhere, false, 1, 1).is_none());
}

#[test]
fn two_classes_are_told_by_one_score() {
    let go = |x: &[f32], base: &[f32], binary: &str, how: &str| {
        let (mut scores, mut picked) = (vec![0f32; x.len()], vec![0i64; x.len() / 2]);
        classify(Out(&mut scores), Out(&mut picked), In(x), In(base), 2, binary, how);
        (scores, picked)
    };
    assert_eq!(go(&[0.75, -0.0, 0.25, -0.0], &[], "positive", "NONE"), (vec![0.25, 0.75, 0.75, 0.25], vec![1, 0]));
    assert_eq!(go(&[0.0, -0.0], &[], "mixed", "LOGISTIC"), (vec![0.5, 0.5], vec![0]));
    assert_eq!(go(&[1.0, 2.0], &[], "no", "SOFTMAX_ZERO").1, vec![1]);
    let (scores, picked) = go(&[3.0, 3.0], &[], "no", "SOFTMAX");
    assert_eq!((scores, picked), (vec![0.5, 0.5], vec![1]));
}

#[test]
fn the_greatest_score_of_a_scored_class_wins() {
    let x = [-2.0f32, -0.0, -1.0, 4.0, 9.0, 9.0];
    let (mut scores, mut picked) = ([0f32; 6], [0i64; 2]);
    classify(Out(&mut scores), Out(&mut picked), In(&x), In(&[]), 3, "no", "NONE");
    // The second class of the first row has no score, though its 0 is the greatest.
    assert_eq!((scores, picked), ([-2.0, 0.0, -1.0, 4.0, 9.0, 9.0], [2, 1]));
    classify(Out(&mut scores), Out(&mut picked), In(&x), In(&[0.0, 1.0, 0.0]), 3, "no", "NONE");
    assert_eq!(picked, [1, 1]);
}
