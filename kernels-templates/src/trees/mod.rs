//! Ensembles of decision trees: how graphs hold them, the plain walk, the labels and scores of classifiers, and the packed kernel.

mod classify;
mod forest;
mod pack;
#[cfg(test)]
mod tests;
mod walk;
#[cfg(target_arch = "x86_64")]
mod x86_avx512;

pub use classify::{BINARY, TRANSFORMS, classify};
pub use forest::{Forest, MODES, Mode, Next, Node, Words};
pub use pack::{COLUMN, MOST_BLOCKS, Made, Packed, pack};
pub use walk::walk;

use crate::entry::{In, Out};
use crate::fault::Fault;
use crate::num::{Float, Num};
use alloc::{format, string::ToString};

/// What becomes of the weights that the trees give a target.
pub const AGGREGATES: [&str; 4] = ["AVERAGE", "SUM", "MIN", "MAX"];

/// Whether a sum has met no weight yet: sums begin at -0, which no weight is and no sum of weights becomes.
#[inline(always)]
fn untouched<T: Num>(x: T) -> bool {
    let x = x.to_f64();
    x == 0.0 && x.is_sign_negative()
}

/// What a target's sum becomes by one more weight; `aggregate` is an index into [`AGGREGATES`].
#[inline(always)]
fn add<T: Num>(sum: T, weight: T, aggregate: i64) -> T {
    match aggregate {
        2 if !untouched(sum) && sum < weight => sum,
        3 if !untouched(sum) && sum > weight => sum,
        2 | 3 => weight,
        _ => sum.plus(weight),
    }
}

/// [TreeEnsemble](https://onnx.ai/onnx/operators/onnx_aionnxml_TreeEnsemble.html) over rows of `features`, tree by tree and node by
/// node: `forest` is a [`Forest`], `aggregate` an index into [`AGGREGATES`]. Sums are taken in the order of the trees, in the type of the
/// elements; a target that no tree gives a weight is -0, and no other is.
///
/// # Errors
/// A tree refers to what is not there, runs in circles, or reads a feature that rows do not have.
pub fn ensemble<T: Float>(
    out: Out<'_, T>,
    x: In<'_, T>,
    forest: In<'_, i64>,
    features: usize,
    targets: usize,
    aggregate: i64,
) -> Result<(), Fault> {
    let lost = || Fault::Domain("a tree refers to a node, a leaf or a target that is not there".to_string());
    let forest = Forest::of(forest.0).ok_or_else(lost)?;
    for (r, out) in out.0.chunks_exact_mut(targets.max(1)).enumerate() {
        let row = &x.0[r * features..][..features];
        out.fill(T::from_f64(-0.0));
        for &root in forest.roots {
            let (mut at, mut steps) = (Next::of(root), 0);
            let leaf = loop {
                let n = match at {
                    Next::Leaf(leaf) => break leaf,
                    Next::Node(n) => n,
                };
                let node = forest.node(n).filter(|_| steps <= forest.nodes()).ok_or_else(lost)?;
                let v = *row
                    .get(node.feature)
                    .ok_or_else(|| Fault::Domain(format!("a tree asks for feature {} of rows of {features}", node.feature)))?;
                at = if forest.holds(&node, v).ok_or_else(lost)? { node.yes } else { node.no };
                steps += 1;
            };
            for (target, weight) in forest.leaf(leaf).ok_or_else(lost)? {
                let sum = out.get_mut(target).ok_or_else(lost)?;
                *sum = add(*sum, T::from_f64(weight), aggregate);
            }
        }
        if aggregate == 0 {
            out.iter_mut().for_each(|o| *o = o.over(T::from_f64(forest.roots.len().max(1) as f64)));
        }
    }
    Ok(())
}
