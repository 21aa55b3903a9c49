//! Ensembles of trees (ai.onnx.ml): the primitive, and TreeEnsemble, TreeEnsembleRegressor and TreeEnsembleClassifier.

use super::ml::{self, Labels};
use super::{Call, CallArg, Facts, Infer, Lowering, Operator, Reader};
use crate::diagnostics::Diagnostic;
use crate::ir::{Dim, Fact, ValueId};
use crate::onnx::Attribute;
use kiln_kernels::dtype::DType;
use kiln_kernels::trees::{AGGREGATES, BINARY, Forest, MODES, Mode, Next, Node, TRANSFORMS, Words};
use kiln_kernels::value::Tensor;
use std::collections::{BTreeMap, BTreeSet};

type Result<T> = std::result::Result<T, Diagnostic>;

/// What trees give each target: operands x `[N, F]` of f32 or f64, and the words of a [`Forest`]. A target that no tree gives a weight is -0.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TreeEnsemble {
    /// Number of targets.
    pub targets: i64,
    /// Index into [`AGGREGATES`].
    pub aggregate: i64,
}

impl Operator for TreeEnsemble {
    fn infer(&self, cx: &mut Infer<'_>) -> Result<Vec<Fact>> {
        let [n, _] = cx.shape(0) else { return Err(Diagnostic::new("TreeEnsemble needs rows of features")) };
        if !matches!(cx.dtype(0), DType::F32 | DType::F64) || cx.dtype(1) != DType::I64 || cx.rank(1) != 1 {
            return Err(Diagnostic::new(format!("TreeEnsemble needs rows of f32 or f64 and a list of words, found {}", cx.dtype(0))));
        }
        if !(1..=1 << 24).contains(&self.targets) || !(0..AGGREGATES.len() as i64).contains(&self.aggregate) {
            return Err(Diagnostic::new(format!("TreeEnsemble of {} targets and aggregate {}", self.targets, self.aggregate)));
        }
        Ok(vec![Fact::tensor(cx.dtype(0), vec![n.clone(), Dim::int(self.targets)])])
    }
    fn lower(&self, cx: &Facts<'_>) -> Lowering {
        let rest = [CallArg::Dim(cx.shape(0)[1].clone()), CallArg::Dim(Dim::int(self.targets)), CallArg::Int(self.aggregate)];
        Lowering::call("trees::ensemble", [cx.dtype(0)], 2, rest)
    }
}

/// Labels and scores of a classifier from what trees give each class: operands sums `[N, C]` and base values; results scores and picks.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TreeClassify {
    /// One of [`BINARY`].
    pub binary: &'static str,
    /// One of [`TRANSFORMS`].
    pub transform: &'static str,
}

impl Operator for TreeClassify {
    fn infer(&self, cx: &mut Infer<'_>) -> Result<Vec<Fact>> {
        let (shape, dtype) = (cx.shape(0).to_vec(), cx.dtype(0));
        if shape.len() != 2 || !matches!(dtype, DType::F32 | DType::F64) || cx.dtype(1) != dtype || cx.rank(1) != 1 {
            return Err(Diagnostic::new("TreeClassify needs rows of sums, and base values of their type"));
        }
        let rows = shape[0].clone();
        Ok(vec![Fact::tensor(dtype, shape), Fact::tensor(DType::I64, vec![rows])])
    }
    fn lower(&self, cx: &Facts<'_>) -> Lowering {
        Lowering::Call(Call {
            entry: "trees::classify",
            types: vec![cx.dtype(0)],
            args: vec![
                CallArg::Out(0),
                CallArg::Out(1),
                CallArg::In(0),
                CallArg::In(1),
                CallArg::Dim(cx.shape(0)[1].clone()),
                CallArg::Text(self.binary),
                CallArg::Text(self.transform),
            ],
        })
    }
}

fn tensor<'a>(r: &'a Reader<'_, '_>, name: &str) -> Result<Option<&'a Tensor>> {
    match r.node.attribute(name) {
        None => Ok(None),
        Some(Attribute::Tensor(t)) => Ok(Some(t)),
        Some(other) => Err(Diagnostic::new(format!("attribute {name} must be a tensor, found {}", other.kind()))),
    }
}

/// Numbers that an attribute holds, as a list of floats or, under the name with `_as_tensor`, as a tensor; whether they are f64.
fn numbers(r: &Reader<'_, '_>, name: &str) -> Result<(Vec<f64>, bool)> {
    let as_tensor = format!("{name}_as_tensor");
    match (tensor(r, &as_tensor)?, r.floats(name)?) {
        (Some(t), _) if !t.is_empty() => {
            let x = t.to_f64s().ok_or_else(|| Diagnostic::new(format!("attribute {as_tensor} holds {}, which are no numbers", t.dtype)))?;
            Ok((x, t.dtype == DType::F64))
        }
        (_, listed) => Ok((listed.unwrap_or_default().into_iter().map(f64::from).collect(), false)),
    }
}

fn list(r: &Reader<'_, '_>, name: &str) -> Result<Vec<i64>> {
    Ok(r.ints(name)?.unwrap_or_default())
}

fn missing(name: &str) -> Diagnostic {
    Diagnostic::new(format!("attribute {name} is missing"))
}

/// The number of a word among `words`.
fn word(r: &Reader<'_, '_>, name: &str, words: &[&'static str], default: &'static str) -> Result<usize> {
    let found = r.str(name, default)?;
    words.iter().position(|w| *w == found).ok_or_else(|| {
        Diagnostic::new(format!("attribute {name} is \"{}\", which is none of {}", crate::diagnostics::shown(&found), words.join(", ")))
    })
}

/// Adds the trees over rows of `x`, which is computed in f64 where `double`.
fn walk(r: &mut Reader<'_, '_>, words: &Words, (targets, aggregate): (i64, i64), double: bool) -> Result<ValueId> {
    words.check().map_err(Diagnostic::new)?;
    let wide = double || r.dtype(r.input(0)?) == DType::F64;
    let x = ml::rows(r, 0, if wide { DType::F64 } else { DType::F32 })?;
    let features = r.shape(x)?[1].as_int();
    if let (Some(most), Some(n)) = (words.nodes.iter().map(|n| n.feature).max(), features)
        && most as i64 >= n
    {
        return Err(Diagnostic::new(format!("a tree asks for feature {most} of rows of {n}")));
    }
    let encoded = words.encode();
    debug_assert!(Forest::of(&encoded).is_some());
    let forest = r.tensor(Tensor::new(&[encoded.len()], &encoded));
    r.emit(TreeEnsemble { targets, aggregate }, &[x, forest])
}

fn targets_of(n: i64) -> Result<i64> {
    if (1..=1 << 24).contains(&n) { Ok(n) } else { Err(Diagnostic::new(format!("an ensemble of {n} targets"))) }
}

fn index(x: i64, what: &str) -> Result<usize> {
    usize::try_from(x).map_err(|_| Diagnostic::new(format!("a tree names {what} {x}")))
}

/// Reads [TreeEnsemble](https://onnx.ai/onnx/operators/onnx_aionnxml_TreeEnsemble.html).
pub fn read(r: &mut Reader<'_, '_>) -> Result<Vec<ValueId>> {
    let dtype = r.dtype(r.input(0)?);
    let splits = tensor(r, "nodes_splits")?.ok_or_else(|| missing("nodes_splits"))?;
    let weights = tensor(r, "leaf_weights")?.ok_or_else(|| missing("leaf_weights"))?;
    let modes = tensor(r, "nodes_modes")?.and_then(|t| t.to_i64s()).ok_or_else(|| missing("nodes_modes"))?;
    let of = |t: &Tensor| t.to_f64s().ok_or_else(|| Diagnostic::new(format!("TreeEnsemble of {}", t.dtype)));
    if splits.dtype != dtype || weights.dtype != dtype {
        return Err(Diagnostic::new(format!("TreeEnsemble needs splits and weights of the input's type {dtype}")));
    }
    let (splits, weights) = (of(splits)?, of(weights)?);
    let need = |name: &str| r.ints(name)?.ok_or_else(|| missing(name));
    let columns = [
        need("nodes_featureids")?,
        need("nodes_truenodeids")?,
        need("nodes_trueleafs")?,
        need("nodes_falsenodeids")?,
        need("nodes_falseleafs")?,
        modes,
    ];
    let count = splits.len();
    if columns.iter().any(|c| c.len() != count) {
        return Err(Diagnostic::new(format!("the lists of the {count} nodes differ in length")));
    }
    let (targets, aggregate, how) = (r.int("n_targets", 1)?, r.int("aggregate_function", 1)?, r.int("post_transform", 0)?);
    let how = usize::try_from(how).ok().filter(|h| *h < TRANSFORMS.len());
    let how = how.ok_or_else(|| Diagnostic::new("TreeEnsemble has a post_transform that is none of 0 to 4"))?;
    let (leaf_targets, tracks) = (need("leaf_targetids")?, list(r, "nodes_missing_value_tracks_true")?);
    if leaf_targets.len() != weights.len() {
        return Err(Diagnostic::new(format!("{} leaf_targetids for {} leaf_weights", leaf_targets.len(), weights.len())));
    }
    if let Some(t) = leaf_targets.iter().find(|t| !(0..targets).contains(*t)) {
        return Err(Diagnostic::new(format!("a leaf names target {t} of {targets}")));
    }
    let members = match tensor(r, "membership_values")? {
        Some(t) => of(t)?,
        None => Vec::new(),
    };
    let mut sets = std::iter::once(0).chain((0..members.len()).filter(|i| members[*i].is_nan()).map(|i| i + 1));
    let next = |to: i64, leaf: i64| -> Result<Next> {
        let to = index(to, if leaf != 0 { "leaf" } else { "node" })?;
        Ok(if leaf != 0 { Next::Leaf(to) } else { Next::Node(to) })
    };
    let mut words = Words::default();
    for n in 0..count {
        let mode = match columns[5][n] {
            0 => Mode::Leq,
            1 => Mode::Lt,
            2 => Mode::Gte,
            3 => Mode::Gt,
            4 => Mode::Eq,
            5 => Mode::Neq,
            6 => {
                let at = sets.next().filter(|at| members[*at..].iter().any(|m| m.is_nan()));
                Mode::Member(at.ok_or_else(|| Diagnostic::new("membership_values has fewer sets than there are nodes that ask for one"))?)
            }
            other => return Err(Diagnostic::new(format!("a node has mode {other}, which is none of 0 to 6"))),
        };
        words.nodes.push(Node {
            feature: index(columns[0][n], "feature")?,
            mode,
            split: splits[n],
            tracks: tracks.get(n) == Some(&1),
            yes: next(columns[1][n], columns[2][n])?,
            no: next(columns[3][n], columns[4][n])?,
        });
    }
    words.members = members;
    words.leaves = leaf_targets.iter().zip(weights).map(|(t, w)| vec![(*t as usize, w)]).collect();
    for root in need("tree_roots")? {
        // Without any node, trees are leaves.
        words.roots.push(next(root, i64::from(count == 0))?);
    }
    let sums = walk(r, &words, (targets_of(targets)?, aggregate), false)?;
    let y = ml::transform(r, sums, TRANSFORMS[how])?;
    Ok(vec![r.cast(y, dtype)?])
}

/// The nodes of TreeEnsembleRegressor and TreeEnsembleClassifier, with the weights that the lists of `kind` give their leaves; whether a
/// list holds f64.
fn listed(r: &Reader<'_, '_>, kind: &str) -> Result<(Words, bool)> {
    let (values, wide) = numbers(r, "nodes_values")?;
    let (weights, heavy) = numbers(r, &format!("{kind}_weights"))?;
    let modes = r.strs("nodes_modes")?.unwrap_or_default();
    let names = ["nodes_treeids", "nodes_nodeids", "nodes_featureids", "nodes_truenodeids", "nodes_falsenodeids"];
    let columns: Vec<Vec<i64>> = names.iter().map(|n| list(r, n)).collect::<Result<_>>()?;
    let tracks = list(r, "nodes_missing_value_tracks_true")?;
    let count = modes.len();
    if columns.iter().map(Vec::len).chain([values.len()]).any(|n| n != count) {
        return Err(Diagnostic::new(format!("the lists of the {count} nodes differ in length")));
    }
    let [trees, ids, features, yes, no] = &columns[..] else { return Err(missing("nodes_treeids")) };
    let (mut words, mut places, mut inner) = (Words::default(), BTreeMap::new(), 0);
    for n in 0..count {
        let place = if modes[n] == "LEAF" {
            words.leaves.push(Vec::new());
            Next::Leaf(words.leaves.len() - 1)
        } else {
            inner += 1;
            Next::Node(inner - 1)
        };
        if places.insert((trees[n], ids[n]), place).is_some() {
            return Err(Diagnostic::new(format!("tree {} has node {} twice", trees[n], ids[n])));
        }
        if n == 0 || trees[n] != trees[n - 1] {
            words.roots.push(place);
        }
    }
    let place = |tree: i64, id: i64| {
        places.get(&(tree, id)).copied().ok_or_else(|| Diagnostic::new(format!("tree {tree} refers to node {id}, which is not there")))
    };
    for n in (0..count).filter(|n| modes[*n] != "LEAF") {
        let mode = match MODES.iter().position(|m| *m == modes[n]) {
            Some(0) => Mode::Leq,
            Some(1) => Mode::Lt,
            Some(2) => Mode::Gte,
            Some(3) => Mode::Gt,
            Some(4) => Mode::Eq,
            Some(5) => Mode::Neq,
            _ => return Err(Diagnostic::new(format!("a node has mode \"{}\"", crate::diagnostics::shown(&modes[n])))),
        };
        words.nodes.push(Node {
            feature: index(features[n], "feature")?,
            mode,
            split: values[n],
            tracks: tracks.get(n) == Some(&1),
            yes: place(trees[n], yes[n])?,
            no: place(trees[n], no[n])?,
        });
    }
    let of = |what: &str| list(r, &format!("{kind}_{what}"));
    let (leaf_trees, leaf_nodes, targets) = (of("treeids")?, of("nodeids")?, of("ids")?);
    if [leaf_trees.len(), leaf_nodes.len(), targets.len()].iter().any(|n| *n != weights.len()) {
        return Err(Diagnostic::new(format!("the lists of the {} weights differ in length", weights.len())));
    }
    for (i, w) in weights.into_iter().enumerate() {
        // Weights of nodes that are no leaves are never reached.
        if let Next::Leaf(leaf) = place(leaf_trees[i], leaf_nodes[i])? {
            words.leaves[leaf].push((index(targets[i], "target")?, w));
        }
    }
    Ok((words, wide || heavy))
}

fn within(words: &Words, targets: i64) -> Result<()> {
    match words.leaves.iter().flatten().find(|(t, _)| *t as i64 >= targets) {
        Some((t, _)) => Err(Diagnostic::new(format!("a leaf names target {t} of {targets}"))),
        None => Ok(()),
    }
}

/// Reads [TreeEnsembleRegressor](https://onnx.ai/onnx/operators/onnx_aionnxml_TreeEnsembleRegressor.html).
pub fn read_regressor(r: &mut Reader<'_, '_>) -> Result<Vec<ValueId>> {
    let (words, double) = listed(r, "target")?;
    let (base, wide) = numbers(r, "base_values")?;
    let most = words.leaves.iter().flatten().map(|(t, _)| *t as i64 + 1).max().unwrap_or(1);
    let targets = targets_of(r.int("n_targets", most)?)?;
    within(&words, targets)?;
    let (aggregate, how) = (word(r, "aggregate_function", &AGGREGATES, "SUM")?, word(r, "post_transform", &TRANSFORMS, "NONE")?);
    let mut y = walk(r, &words, (targets, aggregate as i64), double || wide)?;
    match base.len() {
        0 => {}
        n if n == 1 || n as i64 == targets => {
            let base = ml::constant(r, &base, r.dtype(y));
            y = r.add(y, base)?;
        }
        n => return Err(Diagnostic::new(format!("{n} base_values for {targets} targets"))),
    }
    let y = ml::transform(r, y, TRANSFORMS[how])?;
    Ok(vec![r.cast(y, DType::F32)?])
}

/// Reads [TreeEnsembleClassifier](https://onnx.ai/onnx/operators/onnx_aionnxml_TreeEnsembleClassifier.html).
pub fn read_classifier(r: &mut Reader<'_, '_>) -> Result<Vec<ValueId>> {
    let (words, double) = listed(r, "class")?;
    let (base, wide) = numbers(r, "base_values")?;
    let labels = Labels::of(r, "classlabels_int64s")?;
    let classes = targets_of(labels.len() as i64)?;
    within(&words, classes)?;
    if base.len() as i64 > classes.max(2) {
        return Err(Diagnostic::new(format!("{} base_values for {classes} classes", base.len())));
    }
    let weights = || words.leaves.iter().flatten();
    let single = classes == 2 && weights().map(|(t, _)| t).collect::<BTreeSet<_>>().len() == 1;
    let binary = match (single, weights().any(|(_, w)| *w < 0.0)) {
        (false, _) => BINARY[0],
        (true, true) => BINARY[1],
        (true, false) => BINARY[2],
    };
    let transform = TRANSFORMS[word(r, "post_transform", &TRANSFORMS, "NONE")?];
    let sums = walk(r, &words, (classes, 1), double || wide)?;
    let base = ml::constant(r, &base, r.dtype(sums));
    let found = r.emit_all(TreeClassify { binary, transform }, vec![Some(sums), Some(base)], 2)?;
    let label = labels.pick(r, found[1])?;
    Ok(vec![label, r.cast(found[0], DType::F32)?])
}
