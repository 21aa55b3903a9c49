//! Rotary: rotary position embedding as one operator, which the rules make of its spellings.

use super::attend::padded;
use super::{Call, CallArg, Facts, Infer, Lowering, Operator, cx::list};
use crate::diagnostics::Diagnostic;
use crate::ir::{Dim, Fact};
use kiln_kernels::dtype::DType;

/// `x · cos + turned(x) · sin`, where the pairs `(a, b)` among the first `width` elements along the last axis are turned to `(-b, a)`,
/// and the elements behind them are left.
///
/// `x` is `[.., D]` with `D >= width`; `cos` and `sin` broadcast to its leading axes, and have `width` elements along the last axis, or
/// `width / 2`: one for each pair. The result has the shape of `x`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Rotary {
    /// Elements that are turned; even, at least 2.
    pub width: usize,
    /// Whether the elements of a pair are neighbours; else they are `width / 2` apart.
    pub interleaved: bool,
}

impl Operator for Rotary {
    fn infer(&self, cx: &mut Infer<'_>) -> Result<Vec<Fact>, Diagnostic> {
        let (x, dtype) = (cx.shape(0), cx.dtype(0));
        let fail = |what: String| Err(Diagnostic::new(format!("Rotary of [{}] with width {} {what}", list(x), self.width)));
        if !matches!(dtype, DType::F32 | DType::F64) || (1..3).any(|i| cx.dtype(i) != dtype) {
            return fail(format!("needs tensors of one type, f32 or f64, found {dtype} and others"));
        }
        let fits = x.last().and_then(Dim::as_int).is_some_and(|d| d >= self.width as i64);
        if !fits || self.width < 2 || !self.width.is_multiple_of(2) {
            return fail("has too few elements along the last axis, or an odd number of them".into());
        }
        for i in 1..3 {
            let own = cx.shape(i);
            let last = own.last().and_then(Dim::as_int);
            let angles = [self.width, self.width / 2].iter().any(|n| last == Some(*n as i64));
            let leads = own.len() <= x.len() && padded(own, x.len()).iter().zip(&x[..x.len() - 1]).all(|(d, n)| d.is(1) || d == n);
            if !angles || !leads {
                return fail(format!("takes no angles of shape [{}]", list(own)));
            }
        }
        Ok(vec![Fact::tensor(dtype, x.to_vec())])
    }
    fn lower(&self, cx: &Facts<'_>) -> Lowering {
        let x = cx.shape(0);
        let dims = |i: usize| CallArg::Dims(padded(cx.shape(i), x.len()));
        Lowering::Call(Call {
            entry: "rotary::rotate",
            types: vec![cx.dtype(0)],
            args: vec![
                CallArg::Out(0),
                CallArg::In(0),
                CallArg::In(1),
                CallArg::In(2),
                dims(0),
                dims(1),
                dims(2),
                CallArg::Dim(Dim::int(self.width as i64)),
                CallArg::Bool(self.interleaved),
            ],
        })
    }
}
