//! Ensembles of decision trees.

use crate::entry::{In, Ints, Out};
use crate::fault::Fault;
use crate::num::Float;
use alloc::{format, vec, vec::Vec};

/// [TreeEnsemble](https://onnx.ai/onnx/operators/onnx_aionnxml_TreeEnsemble.html) over rows of `features`. `nodes` holds six integers a
/// node: feature, mode, true branch, whether that is a leaf, false branch, whether that is a leaf; `tracks` whether a missing value takes
/// the true branch. `members` lists the sets of membership nodes, each ended by NaN. `aggregate` is 0 average, 1 sum, 2 min, 3 max.
pub fn ensemble<T: Float>(
    out: Out<'_, T>,
    x: In<'_, T>,
    splits: In<'_, T>,
    weights: In<'_, T>,
    members: Option<In<'_, T>>,
    features: usize,
    targets: usize,
    nodes: Ints<'_>,
    tracks: Ints<'_>,
    leaf_targets: Ints<'_>,
    roots: Ints<'_>,
    aggregate: i64,
) -> Result<(), Fault> {
    let count = nodes.0.len() / 6;
    let lost = |i: i64| Fault::Domain(format!("a tree refers to node or leaf {i}, which is not there"));
    // Where the set of each membership node starts.
    let mut sets = vec![0; count];
    let mut at = 0;
    for (n, set) in sets.iter_mut().enumerate().filter(|(n, _)| nodes.0[6 * n + 1] == 6) {
        *set = at;
        let list = members.map_or(&[][..], |m| &m.0[at.min(m.0.len())..]);
        at += list.iter().position(|v| v.nan()).ok_or_else(|| lost(n as i64))? + 1;
    }
    for (row, out) in x.0.chunks_exact(features.max(1)).zip(out.0.chunks_exact_mut(targets.max(1))) {
        let mut sums: Vec<Option<f64>> = vec![None; targets];
        for &root in roots.0 {
            let (mut at, mut is_leaf, mut steps) = (root, count == 0, 0);
            while !is_leaf {
                let n = usize::try_from(at).ok().filter(|n| *n < count && steps <= count).ok_or_else(|| lost(at))?;
                let [feature, mode, yes, yes_leaf, no, no_leaf] = nodes.0[6 * n..][..6] else { return Err(lost(at)) };
                let v = *usize::try_from(feature).ok().and_then(|f| row.get(f)).ok_or_else(|| lost(feature))?;
                let split = splits.0[n];
                let holds = match mode {
                    0 => v <= split,
                    1 => v < split,
                    2 => v >= split,
                    3 => v > split,
                    4 => v == split,
                    5 => v != split,
                    _ => members.is_some_and(|m| m.0[sets[n]..].iter().take_while(|s| !s.nan()).any(|s| *s == v)),
                } || (v.nan() && tracks.0.get(n) == Some(&1));
                (at, is_leaf) = if holds { (yes, yes_leaf != 0) } else { (no, no_leaf != 0) };
                steps += 1;
            }
            let leaf = usize::try_from(at).ok().filter(|l| *l < weights.0.len() && *l < leaf_targets.0.len()).ok_or_else(|| lost(at))?;
            let to = usize::try_from(leaf_targets.0[leaf]).ok().filter(|t| *t < targets).ok_or_else(|| lost(leaf_targets.0[leaf]))?;
            let weight = weights.0[leaf].to_f64();
            sums[to] = Some(match (sums[to], aggregate) {
                (None, _) => weight,
                (Some(s), 2) => s.min(weight),
                (Some(s), 3) => s.max(weight),
                (Some(s), _) => s + weight,
            });
        }
        for (o, s) in out.iter_mut().zip(sums) {
            let s = s.unwrap_or(0.0);
            *o = T::from_f64(if aggregate == 0 { s / roots.0.len().max(1) as f64 } else { s });
        }
    }
    Ok(())
}
