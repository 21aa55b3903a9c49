//! Blocks of channels put side by side as pixels.

use super::{Affine, Facts, Infer, Lowering, Operator, Part};
use crate::diagnostics::Diagnostic;
use crate::ir::{Dim, Fact};

/// The channels of a pixel spread over a block of pixels, and of all that a region: of `[N, P·C, ..]`, where `P` is the product of `block`,
/// channel `p·C + c` of pixel `x` is channel `c` of pixel `x · block + p - first` of the result, where `p` counts the places of a block, the
/// last axis fastest. With `first` 0 and the whole result it is
/// [DepthToSpace](https://onnx.ai/onnx/operators/onnx__DepthToSpace.html) in the mode `DCR`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Interleave {
    /// Extents of a block, of each spatial axis.
    pub block: Vec<i64>,
    /// Pixels left out before the result, along each spatial axis.
    pub first: Vec<i64>,
    /// Extents of the result along spatial axes.
    pub extents: Vec<Dim>,
}

impl Interleave {
    /// Pixels of a block.
    pub fn places(&self) -> i64 {
        self.block.iter().product()
    }
    /// The copies that make the result, one for each place of a block.
    fn parts(&self, from: &[Dim]) -> Vec<Part> {
        let channels = from[1].exact_div(&Dim::int(self.places())).unwrap_or_else(|| from[1].floor_div(&Dim::int(self.places())));
        let block: Vec<usize> = self.block.iter().map(|b| *b as usize).collect();
        let mut parts = Vec::new();
        kiln_kernels::index::for_each(&block, |place| {
            let start = channels.clone() * Dim::int(parts.len() as i64);
            let mut part = Part {
                input: 0,
                output: 0,
                dims: vec![from[0].clone(), channels.clone()],
                from: vec![Affine::along(0), Affine { start, axis: Some((1, 1)) }],
                to: vec![Affine::along(0), Affine::along(1)],
            };
            for (i, place) in place.iter().enumerate() {
                let (block, place, first) = (self.block[i], *place as i64, self.first[i]);
                // The first block whose pixel at this place is not left out.
                let skipped = (first - place + block - 1).max(0) / block;
                let at = skipped * block + place - first;
                part.dims.push((self.extents[i].clone() + Dim::int(block - 1 - at)).floor_div(&Dim::int(block)));
                part.from.push(Affine { start: Dim::int(skipped), axis: Some((2 + i, 1)) });
                part.to.push(Affine { start: Dim::int(at), axis: Some((2 + i, block)) });
            }
            parts.push(part);
        });
        parts
    }
}

impl Operator for Interleave {
    fn infer(&self, cx: &mut Infer<'_>) -> Result<Vec<Fact>, Diagnostic> {
        let x = cx.shape(0);
        let axes = self.block.len();
        let wrong = |what: String| Err(Diagnostic::new(format!("blocks of {:?} pixels need {what}", self.block)));
        if x.len() != 2 + axes || self.first.len() != axes || self.extents.len() != axes || self.block.iter().any(|b| *b < 1) {
            return wrong(format!("as many spatial axes, found {}", x.len().saturating_sub(2)));
        }
        let Some(channels) = x[1].exact_div(&Dim::int(self.places())) else { return wrong(format!("that to divide {} channels", x[1])) };
        for i in 0..axes {
            let missing = self.extents[i].clone() + Dim::int(self.first[i]) - x[2 + i].clone() * Dim::int(self.block[i]);
            if self.first[i] < 0 || missing.as_int().is_some_and(|m| m > 0) {
                return wrong(format!("pixels to fill {} behind {}", self.extents[i], self.first[i]));
            }
        }
        Ok(vec![Fact::tensor(cx.dtype(0), [vec![x[0].clone(), channels], self.extents.clone()].concat())])
    }
    fn lower(&self, cx: &Facts<'_>) -> Lowering {
        Lowering::Move(self.parts(cx.shape(0)))
    }
}
