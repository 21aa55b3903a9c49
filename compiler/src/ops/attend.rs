//! Attend: scaled dot-product attention as one operator, which the rules make of the products around a softmax.

use super::{CallArg, Facts, Infer, Lowering, Operator, Real, cx::list};
use crate::diagnostics::Diagnostic;
use crate::ir::{Dim, Fact, Range};
use kiln_kernels::dtype::DType;

/// `softmax(scale · q kᵀ + mask) v` over the matrices in the last two axes.
///
/// `q` is `[.., H, Q, D]`, `k` `[.., Hk, K, D]`, `v` `[.., Hv, K, Dv]` and the result `[.., H, Q, Dv]`. Along the leading axes `k` and `v`
/// have the extents of `q` or 1; Hk and Hv may be any divisors of H, where groups of neighbouring heads share one. The optional mask
/// broadcasts to `[.., H, Q, K]`. The softmax is that of `Softmax`: a row of -inf alone is NaN, unless it is a safe one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Attend {
    /// Factor of the scores.
    pub scale: Real,
    /// Where given, query `i` sees the keys `j <= i + causal` alone; not negative.
    pub causal: Option<Dim>,
    /// Whether rows of the softmax that are NaN count as zeros, as in PyTorch's `_safe_softmax`.
    pub safe: bool,
}

/// The extents of an operand along the axes of the result, 1 where it has none.
pub fn padded(shape: &[Dim], rank: usize) -> Vec<Dim> {
    let mut out = vec![Dim::int(1); rank.saturating_sub(shape.len())];
    out.extend_from_slice(shape);
    out
}

impl Attend {
    /// How many keys behind its own number a query sees; all of them where it is not causal.
    pub fn reach(&self, keys: &Dim) -> Dim {
        self.causal.clone().unwrap_or_else(|| keys.clone())
    }
}

impl Operator for Attend {
    fn infer(&self, cx: &mut Infer<'_>) -> Result<Vec<Fact>, Diagnostic> {
        let (q, k, v) = (cx.shape(0), cx.shape(1), cx.shape(2));
        let dtype = cx.dtype(0);
        let rank = q.len();
        let shapes = || format!("[{}], [{}] and [{}]", list(q), list(k), list(v));
        if !matches!(dtype, DType::F32 | DType::F64) || (1..4).any(|i| cx.has(i) && cx.dtype(i) != dtype) {
            return Err(Diagnostic::new(format!("Attend needs tensors of one type, f32 or f64, found {dtype} and others")));
        }
        if rank < 2 || [k, v].iter().any(|s| s.len() < 2 || s.len() > rank) {
            return Err(Diagnostic::new(format!("Attend needs queries of the greatest rank, and rank 2 or more, found {}", shapes())));
        }
        let (keys, depth) = (&k[k.len() - 2], &k[k.len() - 1]);
        if *depth != q[rank - 1] || *keys != v[v.len() - 2] {
            return Err(Diagnostic::new(format!("queries, keys and values of shapes {} do not fit", shapes())));
        }
        for own in [k, v] {
            for (i, (d, n)) in padded(own, rank).iter().zip(&q[..rank - 2]).enumerate() {
                let shared = i + 3 == rank && n.exact_div(d).is_some();
                if !d.is(1) && d != n && !shared {
                    return Err(Diagnostic::new(format!("the leading axes of {} do not fit", shapes())));
                }
            }
        }
        if cx.has(3) {
            let scores = [&q[..rank - 1], std::slice::from_ref(keys)].concat();
            let mask = cx.shape(3);
            if mask.len() > rank || padded(mask, rank).iter().zip(&scores).any(|(d, n)| !d.is(1) && !d.meets(n)) {
                let (mask, scores) = (list(mask), list(&scores));
                return Err(Diagnostic::new(format!("a mask [{mask}] does not broadcast to scores [{scores}]")));
            }
        }
        // Symbols are extents, so none is negative.
        if self.causal.as_ref().is_some_and(|c| c.range(&|_| Range { lo: 0, hi: None }).lo < 0) {
            return Err(Diagnostic::new("a causal Attend leaves each query at least one key"));
        }
        let mut shape = q[..rank - 1].to_vec();
        shape.push(v[v.len() - 1].clone());
        Ok(vec![Fact::tensor(dtype, shape)])
    }
    fn lower(&self, cx: &Facts<'_>) -> Lowering {
        let (q, k, v) = (cx.shape(0), cx.shape(1), cx.shape(2));
        let rank = q.len();
        let keys = &k[k.len() - 2];
        let batch = |s: &[Dim]| CallArg::Dims(padded(s, rank)[..rank - 2].to_vec());
        let sizes = [&q[rank - 2], keys, &q[rank - 1], &v[v.len() - 1]].map(Clone::clone).to_vec();
        Lowering::Call(super::Call {
            entry: "attention::attend",
            types: vec![cx.dtype(0)],
            args: vec![
                CallArg::Out(0),
                CallArg::In(0),
                CallArg::In(1),
                CallArg::In(2),
                CallArg::OptIn(3),
                batch(q),
                CallArg::Dims(sizes),
                batch(k),
                batch(v),
                CallArg::Dims(padded(cx.shape(3), rank)),
                CallArg::Float(self.scale.get()),
                CallArg::Dim(self.reach(keys)),
                CallArg::Bool(self.safe),
            ],
        })
    }
}
