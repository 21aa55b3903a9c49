//! Ensembles of trees by their attributes: random ones, walked in the words of the standard.

use super::{Cases, Node, f32s, near, strings, tensor};
use kiln::Tensor;
use kiln_compiler::{import, onnx};
use kiln_kernels::dtype::DType;
use kiln_tests::samples::Rng;

/// The lists of an ensemble, and those of its weights.
#[derive(Clone, Debug, Default)]
struct Lists {
    trees: Vec<i64>,
    nodes: Vec<i64>,
    features: Vec<i64>,
    modes: Vec<&'static str>,
    values: Vec<f32>,
    yes: Vec<i64>,
    no: Vec<i64>,
    tracks: Vec<i64>,
    /// Tree, node and target of each weight.
    places: Vec<[i64; 3]>,
    weights: Vec<f32>,
}

const MODES: [&str; 6] = ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ"];
const FEATURES: usize = 4;

impl Lists {
    /// Trees whose leaves weigh each of `targets`, or where `one` says so a single one.
    fn random(rng: &mut Rng, trees: i64, targets: usize, one: bool, low: i32) -> Lists {
        let mut l = Lists::default();
        for tree in 0..trees {
            let inner = rng.below(12) as i64;
            // The ids of a tree count from its root; leaves stand behind the nodes.
            let mut free = 1..=2 * inner;
            for id in 0..2 * inner + 1 {
                let leaf = id >= inner;
                l.trees.push(tree);
                l.nodes.push(id);
                l.features.push(if leaf { 0 } else { rng.below(FEATURES) as i64 });
                l.modes.push(if leaf { "LEAF" } else { rng.pick(&MODES) });
                l.values.push((rng.below(9) as f32 - 4.0) / 2.0);
                let (yes, no) = if leaf { (0, 0) } else { (free.next().unwrap_or(0), free.next().unwrap_or(0)) };
                l.yes.push(yes);
                l.no.push(no);
                l.tracks.push(rng.below(2) as i64);
                let own = tree as usize % targets;
                for t in (0..targets).filter(|t| leaf && (!one || *t == own)) {
                    l.places.push([tree, id, t as i64]);
                    l.weights.push((low + rng.below(17) as i32) as f32 / 8.0);
                }
            }
        }
        l
    }
    /// The weights that each tree gives a row.
    fn walk(&self, x: &[f64]) -> Vec<Vec<(usize, f32)>> {
        let trees = self.trees.iter().max().map_or(0, |t| t + 1);
        let at =
            |tree: i64, id: i64| (0..self.trees.len()).find(|n| self.trees[*n] == tree && self.nodes[*n] == id).expect("the node is there");
        let one = |tree: i64| {
            let mut n = at(tree, 0);
            while self.modes[n] != "LEAF" {
                let (v, s) = (x[self.features[n] as usize], f64::from(self.values[n]));
                let holds = match self.modes[n] {
                    "BRANCH_LEQ" => v <= s,
                    "BRANCH_LT" => v < s,
                    "BRANCH_GTE" => v >= s,
                    "BRANCH_GT" => v > s,
                    "BRANCH_EQ" => v == s,
                    _ => v != s,
                };
                n = at(tree, if holds || v.is_nan() && self.tracks[n] == 1 { self.yes[n] } else { self.no[n] });
            }
            let own = (0..self.places.len()).filter(|i| self.places[*i][..2] == [tree, self.nodes[n]]);
            own.map(|i| (self.places[i][2] as usize, self.weights[i])).collect()
        };
        (0..trees).map(one).collect()
    }
    /// The sums for each of `targets`.
    fn sums(&self, x: &[f64], targets: usize, aggregate: &str) -> Vec<f32> {
        let each = self.walk(x);
        let all = |t: usize| each.iter().flatten().filter(move |(to, _)| *to == t).map(|(_, w)| *w);
        (0..targets)
            .map(|t| match aggregate {
                "MIN" => all(t).reduce(f32::min).unwrap_or(0.0),
                "MAX" => all(t).reduce(f32::max).unwrap_or(0.0),
                "AVERAGE" => all(t).sum::<f32>() / each.len() as f32,
                _ => all(t).sum(),
            })
            .collect()
    }
    fn node(&self, x: Tensor, op: &str, kind: &str, outputs: usize) -> Node {
        let column = |i: usize| self.places.iter().map(|p| p[i]).collect::<Vec<_>>();
        let node = Node::new().input(x).op(op, outputs);
        let node = node.attr("nodes_treeids", self.trees.clone()).attr("nodes_nodeids", self.nodes.clone());
        let node = node.attr("nodes_featureids", self.features.clone()).attr("nodes_modes", &self.modes[..]);
        let node = node.attr("nodes_values", self.values.clone()).attr("nodes_truenodeids", self.yes.clone());
        let node = node.attr("nodes_falsenodeids", self.no.clone()).attr("nodes_missing_value_tracks_true", self.tracks.clone());
        let node = node.attr(&format!("{kind}_treeids"), column(0)).attr(&format!("{kind}_nodeids"), column(1));
        node.attr(&format!("{kind}_ids"), column(2)).attr(&format!("{kind}_weights"), self.weights.clone())
    }
}

/// Rows as f64, with numbers that meet the splits, and as a tensor of a type.
fn rows(rng: &mut Rng, n: usize, dtype: DType) -> (Vec<Vec<f64>>, Tensor) {
    let special = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0];
    let number = |rng: &mut Rng| match rng.below(12) {
        k @ 0..4 if dtype.is_float() => special[k],
        k if dtype.is_float() => (k as f64 - 8.0) / 2.0,
        k => k as f64 - 6.0,
    };
    let x: Vec<f64> = (0..n * FEATURES).map(|_| number(rng)).collect();
    let t = kiln_compiler::eval::from_f64s(&[n, FEATURES], &x, dtype);
    (x.chunks(FEATURES).map(<[f64]>::to_vec).collect(), t)
}

fn logistic(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

fn softmax(x: &[f32]) -> Vec<f32> {
    let sum: f32 = x.iter().map(|x| x.exp()).sum();
    x.iter().map(|x| x.exp() / sum).collect()
}

#[test]
fn regressors_add_what_trees_give() {
    let mut rng = Rng::new(3);
    let mut c = Cases::new("classical_regressors");
    for (round, aggregate) in ["SUM", "AVERAGE", "MIN", "MAX"].iter().cycle().take(16).enumerate() {
        let targets = rng.pick(&[1, 2, 3]);
        let trees = 1 + rng.below(9) as i64;
        let one = rng.below(2) == 0;
        let l = Lists::random(&mut rng, trees, targets, one, -8);
        let dtype = [DType::F32, DType::F64, DType::I64, DType::I32][round / 4];
        let count = rng.pick(&[1, 3, 20, 40]);
        let (x, t) = rows(&mut rng, count, dtype);
        let base: Vec<f32> = (0..targets).map(|i| i as f32 / 2.0).collect();
        let how = rng.pick(&["NONE", "LOGISTIC", "SOFTMAX"]);
        let mut wanted = Vec::new();
        for x in &x {
            let y: Vec<f32> = l.sums(x, targets, aggregate).iter().zip(&base).map(|(y, b)| y + b).collect();
            wanted.extend(match how {
                "LOGISTIC" => y.into_iter().map(logistic).collect(),
                "SOFTMAX" => softmax(&y),
                _ => y,
            });
        }
        let node = l.node(t, "TreeEnsembleRegressor", "target", 1).attr("n_targets", targets as i64).attr("base_values", base);
        near(&c.floats(node.attr("aggregate_function", *aggregate).attr("post_transform", how)), &wanted);
    }
    c.done();
}

#[test]
fn classifiers_pick_the_greatest() {
    let mut rng = Rng::new(5);
    let mut c = Cases::new("classical_classifiers");
    for round in 0..8 {
        let classes = 3 + rng.below(3);
        let one = round % 2 == 0;
        let l = Lists::random(&mut rng, 2 * classes as i64, classes, one, -8);
        let (x, t) = rows(&mut rng, 20, if round == 3 { DType::F64 } else { DType::F32 });
        let names: Vec<String> = (0..classes).map(|k| format!("class {k}")).collect();
        let (mut labels, mut wanted) = (Vec::new(), Vec::new());
        for x in &x {
            let y = l.sums(x, classes, "SUM");
            let best = (0..classes).fold(0, |b, k| if y[k] > y[b] { k } else { b });
            labels.push(names[best].as_str());
            wanted.extend(if one { softmax(&y) } else { y });
        }
        let node = l.node(t, "TreeEnsembleClassifier", "class", 2);
        let node = node.attr("classlabels_strings", &names.iter().map(String::as_str).collect::<Vec<_>>()[..]);
        let found = c.run(node.attr("post_transform", if one { "SOFTMAX" } else { "NONE" }));
        assert_eq!(tensor(&found[0]), &strings(&[20], &labels));
        near(tensor(&found[1]).slice(), &wanted);
    }
    c.done();
}

#[test]
fn two_classes_of_one_score() {
    let mut rng = Rng::new(7);
    let mut c = Cases::new("classical_binary");
    for (low, how) in [(0, "NONE"), (-8, "NONE"), (-8, "LOGISTIC")] {
        let l = Lists::random(&mut rng, 1, 1, false, low);
        let (x, t) = rows(&mut rng, 20, DType::F32);
        let (mut labels, mut wanted) = (Vec::new(), Vec::new());
        let positive = l.weights.iter().all(|w| *w >= 0.0);
        for x in &x {
            let y = l.sums(x, 1, "SUM")[0];
            labels.push(if y > if positive { 0.5 } else { 0.0 } { 30i64 } else { 20 });
            wanted.extend(match (positive, how) {
                (_, "LOGISTIC") => [logistic(-y), logistic(y)],
                (true, _) => [1.0 - y, y],
                _ => [-y, y],
            });
        }
        let found =
            c.run(l.node(t, "TreeEnsembleClassifier", "class", 2).attr("classlabels_int64s", [20i64, 30]).attr("post_transform", how));
        assert_eq!(tensor(&found[0]).slice::<i64>(), labels);
        near(tensor(&found[1]).slice(), &wanted);
    }
    c.done();
}

#[test]
fn numbers_as_tensors_are_compared_in_double_precision() {
    // 1 + 2^-40 is 1 in f32.
    let split = 1.0 + 2f64.powi(-40);
    let x = Tensor::new(&[2, 1], &[1.0f64, split + 2f64.powi(-40)]);
    let node = Node::new().input(x).op("TreeEnsembleRegressor", 1).attr("n_targets", 1).attr("nodes_treeids", [0i64; 3]);
    let node =
        node.attr("nodes_nodeids", [0i64, 1, 2]).attr("nodes_featureids", [0i64; 3]).attr("nodes_modes", ["BRANCH_LEQ", "LEAF", "LEAF"]);
    let node = node.attr("nodes_values_as_tensor", Tensor::new(&[3], &[split, 0.0, 0.0])).attr("nodes_truenodeids", [1i64, 0, 0]);
    let node = node.attr("nodes_falsenodeids", [2i64, 0, 0]).attr("target_treeids", [0i64, 0]).attr("target_nodeids", [1i64, 2]);
    let node = node.attr("target_ids", [0i64, 0]).attr("target_weights_as_tensor", Tensor::new(&[2], &[3.0f64, 4.0]));
    let mut c = Cases::new("classical_double");
    near(&c.floats(node.attr("base_values_as_tensor", Tensor::new(&[1], &[0.5f64]))), &[3.5, 4.5]);
    c.done();
}

#[test]
fn unsound_ensembles_are_refused() {
    let mut rng = Rng::new(11);
    let sound = loop {
        let l = Lists::random(&mut rng, 2, 1, false, 0);
        if l.modes[0] != "LEAF" {
            break l;
        }
    };
    let changed = |f: &dyn Fn(&mut Lists)| {
        let mut l = sound.clone();
        f(&mut l);
        l
    };
    let cases = [
        (changed(&|l| l.yes[0] = 0), "in a circle"),
        (changed(&|l| l.no[0] = 77), "not there"),
        (changed(&|l| l.features[0] = 9), "feature 9"),
        (changed(&|l| l.modes[0] = "BRANCH_MAYBE"), "BRANCH_MAYBE"),
        (changed(&|l| l.nodes[1] = 0), "twice"),
        (changed(&|l| l.places[0][2] = 5), "target 5 of 1"),
        (changed(&|l| l.values.truncate(l.values.len() - 1)), "differ in length"),
    ];
    for (l, wanted) in cases {
        let node = l.node(f32s(&[1, FEATURES], &[0.0; FEATURES]), "TreeEnsembleRegressor", "target", 1).attr("n_targets", 1);
        let model = onnx::read(&node.build(), None, &Default::default()).expect("the file is read");
        let found = import::import(&model, &Default::default()).expect_err(wanted).to_string();
        assert!(found.contains(wanted), "{found} for {wanted}");
    }
}
