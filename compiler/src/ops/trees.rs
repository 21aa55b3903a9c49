//! TreeEnsemble (ai.onnx.ml).

use super::{Call, CallArg, Facts, Infer, Lowering, Operator, Reader};
use crate::diagnostics::Diagnostic;
use crate::ir::{Dim, Fact, ValueId};
use crate::onnx::Attribute;
use kiln_kernels::value::Tensor;

/// [TreeEnsemble](https://onnx.ai/onnx/operators/onnx_aionnxml_TreeEnsemble.html): operands x `[N, F]`, splits, leaf weights, optional
/// members of sets; the lists are those of `kiln_kernels::trees::ensemble`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TreeEnsemble {
    /// Six integers a node.
    pub nodes: Vec<i64>,
    /// Whether a missing value takes the true branch, for each node.
    pub tracks: Vec<i64>,
    /// The target of each leaf.
    pub leaf_targets: Vec<i64>,
    /// The root of each tree.
    pub roots: Vec<i64>,
    /// Number of targets.
    pub targets: i64,
    /// 0 average, 1 sum, 2 minimum, 3 maximum.
    pub aggregate: i64,
}

impl Operator for TreeEnsemble {
    fn infer(&self, cx: &mut Infer<'_>) -> Result<Vec<Fact>, Diagnostic> {
        let [n, _] = cx.shape(0) else { return Err(Diagnostic::new("TreeEnsemble needs rows of features")) };
        if (1..4).any(|i| cx.has(i) && cx.dtype(i) != cx.dtype(0)) {
            return Err(Diagnostic::new(format!("TreeEnsemble needs splits and weights of the input's type {}", cx.dtype(0))));
        }
        Ok(vec![Fact::tensor(cx.dtype(0), vec![n.clone(), Dim::int(self.targets)])])
    }
    fn lower(&self, cx: &Facts<'_>) -> Lowering {
        Lowering::Call(Call {
            entry: "trees::ensemble",
            types: vec![cx.dtype(0)],
            args: vec![
                CallArg::Out(0),
                CallArg::In(0),
                CallArg::In(1),
                CallArg::In(2),
                CallArg::OptIn(3),
                CallArg::Dim(cx.shape(0)[1].clone()),
                CallArg::Dim(Dim::int(self.targets)),
                CallArg::Ints(self.nodes.clone()),
                CallArg::Ints(self.tracks.clone()),
                CallArg::Ints(self.leaf_targets.clone()),
                CallArg::Ints(self.roots.clone()),
                CallArg::Int(self.aggregate),
            ],
        })
    }
}

fn tensor(r: &Reader<'_, '_>, name: &str) -> Result<Option<Tensor>, Diagnostic> {
    match r.node.attribute(name) {
        None => Ok(None),
        Some(Attribute::Tensor(t)) => Ok(Some(t.clone())),
        Some(other) => Err(Diagnostic::new(format!("attribute {name} must be a tensor, found {}", other.kind()))),
    }
}

/// Reads `TreeEnsemble`.
pub fn read(r: &mut Reader<'_, '_>) -> Result<Vec<ValueId>, Diagnostic> {
    let x = r.ranked(0, 2)?;
    let missing = |name: &str| Diagnostic::new(format!("attribute {name} is missing"));
    let list = |r: &Reader<'_, '_>, name: &str| r.ints(name)?.ok_or_else(|| missing(name));
    let (splits, weights) = (tensor(r, "nodes_splits")?, tensor(r, "leaf_weights")?);
    let (splits, weights) = (splits.ok_or_else(|| missing("nodes_splits"))?, weights.ok_or_else(|| missing("leaf_weights"))?);
    let modes = tensor(r, "nodes_modes")?.and_then(|t| t.to_i64s()).ok_or_else(|| missing("nodes_modes"))?;
    let columns = [
        list(r, "nodes_featureids")?,
        modes,
        list(r, "nodes_truenodeids")?,
        list(r, "nodes_trueleafs")?,
        list(r, "nodes_falsenodeids")?,
        list(r, "nodes_falseleafs")?,
    ];
    let count = splits.len();
    if columns.iter().any(|c| c.len() != count) {
        return Err(Diagnostic::new(format!("the lists of the {count} nodes differ in length")));
    }
    if r.int("post_transform", 0)? != 0 {
        return Err(Diagnostic::new("TreeEnsemble with a post_transform is not supported yet"));
    }
    let (targets, aggregate) = (r.int("n_targets", 1)?, r.int("aggregate_function", 1)?);
    if !(1..=1 << 24).contains(&targets) || !(0..4).contains(&aggregate) {
        return Err(Diagnostic::new(format!("TreeEnsemble has n_targets = {targets} and aggregate_function = {aggregate}")));
    }
    let op = TreeEnsemble {
        nodes: (0..count).flat_map(|n| columns.iter().map(move |c| c[n])).collect(),
        tracks: r.ints("nodes_missing_value_tracks_true")?.unwrap_or_default(),
        leaf_targets: list(r, "leaf_targetids")?,
        roots: list(r, "tree_roots")?,
        targets,
        aggregate,
    };
    let members = tensor(r, "membership_values")?;
    let inputs = vec![Some(x), Some(r.tensor(splits)), Some(r.tensor(weights)), members.map(|m| r.tensor(m))];
    r.emit_all(op, inputs, 1)
}
