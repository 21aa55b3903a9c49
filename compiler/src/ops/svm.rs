//! Support vector machines (ai.onnx.ml): SVMClassifier and SVMRegressor.

use super::ml::{self, Labels};
use super::{Call, CallArg, Facts, Infer, Lowering, Operator, Reader};
use crate::diagnostics::Diagnostic;
use crate::ir::{Dim, Fact, ValueId};
use kiln_kernels::dtype::DType;
use kiln_kernels::trees::TRANSFORMS;
use kiln_kernels::value::Tensor;

type Result<T> = std::result::Result<T, Diagnostic>;

/// Squared distances `[N, V]` of rows `[N, F]` to the columns of `[F, V]`, of f32.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SupportDistances {}

impl Operator for SupportDistances {
    fn infer(&self, cx: &mut Infer<'_>) -> Result<Vec<Fact>> {
        let ([n, f], [g, v]) = (cx.shape(0), cx.shape(1)) else { return Err(Diagnostic::new("SupportDistances needs two matrices")) };
        if (0..2).any(|i| cx.dtype(i) != DType::F32) || f != g {
            return Err(Diagnostic::new(format!("SupportDistances of rows of {f} and {g} elements")));
        }
        Ok(vec![Fact::tensor(DType::F32, vec![n.clone(), v.clone()])])
    }
    fn lower(&self, cx: &Facts<'_>) -> Lowering {
        let extents = cx.shape(1).iter().cloned().map(CallArg::Dim);
        Lowering::call("svm::distances", [], 2, extents)
    }
}

/// Scores and picked classes: operands the kernel `[N, V]`, coefficients, rho, and both parameters of probabilities, which may be empty.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SupportVotes {
    /// Support vectors of each class.
    pub counts: Vec<i64>,
}

impl Operator for SupportVotes {
    fn infer(&self, cx: &mut Infer<'_>) -> Result<Vec<Fact>> {
        let wrong = || Diagnostic::new("SupportVotes has lists that do not fit each other");
        let ([n, v], classes) = (cx.shape(0), self.counts.len() as i64) else { return Err(wrong()) };
        let pairs = classes * (classes - 1) / 2;
        let all = self.counts.iter().try_fold(0i64, |a, n| a.checked_add(*n).filter(|_| *n >= 0)).ok_or_else(wrong)?;
        let len = |i: usize| cx.shape(i).first().and_then(Dim::as_int).filter(|_| cx.rank(i) == 1 && cx.dtype(i) == DType::F32);
        let probable = len(3) != Some(0);
        let fits = v.is(all)
            && cx.dtype(0) == DType::F32
            && len(1) >= all.checked_mul(classes - 1)
            && len(2) >= Some(pairs)
            && (!probable || (len(3) >= Some(pairs) && len(4) >= Some(pairs)));
        if !fits || classes < 2 {
            return Err(wrong());
        }
        let scores = vec![n.clone(), Dim::int(if probable { classes } else { pairs })];
        Ok(vec![Fact::tensor(DType::F32, scores), Fact::tensor(DType::I64, vec![n.clone()])])
    }
    fn lower(&self, _: &Facts<'_>) -> Lowering {
        let outs = [CallArg::Out(0), CallArg::Out(1)].into_iter();
        let args = outs.chain((0..5).map(CallArg::In)).chain([CallArg::Ints(self.counts.clone())]);
        Lowering::Call(Call { entry: "svm::votes", types: vec![], args: args.collect() })
    }
}

fn floats(r: &Reader<'_, '_>, name: &str) -> Result<Vec<f32>> {
    Ok(r.floats(name)?.unwrap_or_default())
}

/// `[a, b]` turned around.
fn turned(x: &[f32], b: usize) -> Tensor {
    let a = x.len().checked_div(b).unwrap_or(0);
    let y: Vec<f32> = (0..a * b).map(|i| x[i % a * b + i / a]).collect();
    Tensor::new(&[b, a], &y)
}

/// The kernel of each row with each support vector.
fn kernel(r: &mut Reader<'_, '_>, x: ValueId, vectors: &[f32], count: usize) -> Result<ValueId> {
    let kind = r.word("kernel_type", &["LINEAR", "POLY", "RBF", "SIGMOID"])?;
    let parameters = floats(r, "kernel_params")?;
    let [gamma, coef0, degree] = [0, 1, 2].map(|i| parameters.get(i).copied().unwrap_or(0.0));
    let n = vectors.len() / count;
    if count * n != vectors.len() || r.shape(x)?[1].as_int().is_some_and(|f| f != n as i64) {
        return Err(Diagnostic::new(format!("{} numbers are no {count} support vectors for rows of {}", vectors.len(), r.shape(x)?[1])));
    }
    let vectors = r.tensor(turned(vectors, n));
    if kind == "RBF" {
        let d = r.emit(SupportDistances {}, &[x, vectors])?;
        let d = r.times(d, f64::from(-gamma))?;
        return r.pointwise("Exp", &[d]);
    }
    let mut y = r.matmul(x, vectors)?;
    if kind != "LINEAR" {
        y = r.times(y, f64::from(gamma))?;
        y = r.plus(y, f64::from(coef0))?;
    }
    match kind {
        "POLY" => ml::power(r, y, degree),
        "SIGMOID" => r.pointwise("Tanh", &[y]),
        _ => Ok(y),
    }
}

/// Rows times coefficients, with the first of `rho` added.
fn plane(r: &mut Reader<'_, '_>, x: ValueId, coefficients: &[f32], targets: usize) -> Result<ValueId> {
    let n = coefficients.len() / targets.max(1);
    if n * targets != coefficients.len() || r.shape(x)?[1].as_int().is_some_and(|f| f != n as i64) {
        return Err(Diagnostic::new(format!("{} coefficients for rows of {} and {targets} targets", coefficients.len(), r.shape(x)?[1])));
    }
    let rho = floats(r, "rho")?.first().copied().unwrap_or(0.0);
    let coefficients = r.tensor(turned(coefficients, n));
    let y = r.matmul(x, coefficients)?;
    r.plus(y, f64::from(rho))
}

/// Reads [SVMRegressor](https://onnx.ai/onnx/operators/onnx_aionnxml_SVMRegressor.html).
pub fn read_regressor(r: &mut Reader<'_, '_>) -> Result<Vec<ValueId>> {
    let x = ml::rows(r, 0, DType::F32)?;
    let (coefficients, vectors) = (floats(r, "coefficients")?, floats(r, "support_vectors")?);
    let count = usize::try_from(r.int("n_supports", 0)?).unwrap_or(0);
    let how = r.word("post_transform", &TRANSFORMS)?;
    let x = if count > 0 { kernel(r, x, &vectors, count)? } else { x };
    let mut y = plane(r, x, &coefficients, 1)?;
    if r.int("one_class", 0)? != 0 {
        let zero = r.scalar(0.0, DType::F32);
        let (inside, one, other) = (r.pointwise("Greater", &[y, zero])?, r.scalar(1.0, DType::F32), r.scalar(-1.0, DType::F32));
        y = r.pointwise("Where", &[inside, one, other])?;
    }
    Ok(vec![ml::transform(r, y, how)?])
}

/// Reads [SVMClassifier](https://onnx.ai/onnx/operators/onnx_aionnxml_SVMClassifier.html). Where the standard is silent it is libsvm, as ONNX
/// Runtime has it: the label is that of most votes; without probabilities there is a score for each pair, and for two classes the decision and
/// its opposite, or what is left to 1 where scores are transformed.
pub fn read_classifier(r: &mut Reader<'_, '_>) -> Result<Vec<ValueId>> {
    let x = ml::rows(r, 0, DType::F32)?;
    let (coefficients, vectors) = (floats(r, "coefficients")?, floats(r, "support_vectors")?);
    let counts = r.ints("vectors_per_class")?.unwrap_or_default();
    let how = r.word("post_transform", &TRANSFORMS)?;
    let labels = Labels::of(r, "classlabels_ints")?;
    let classes = labels.len();
    let (prob_a, prob_b, rho) = (floats(r, "prob_a")?, floats(r, "prob_b")?, floats(r, "rho")?);
    let all = counts.iter().try_fold(0usize, |a, n| a.checked_add(usize::try_from(*n).ok()?));
    let all = all.ok_or_else(|| Diagnostic::new("vectors_per_class has a number below zero"))?;
    if all == 0 {
        let scores = plane(r, x, &coefficients, classes)?;
        let mut places = ml::greatest(r, scores)?;
        if classes == 2 && prob_a.is_empty() {
            // The second label where the greatest score says so, else that of the greatest.
            let most = r.reduce(scores, "max", &[1], false)?;
            let positive = coefficients.iter().all(|c| *c >= 0.0);
            let limit = r.scalar(if positive { 0.5 } else { 0.0 }, DType::F32);
            let second = r.pointwise(if positive { "GreaterOrEqual" } else { "Greater" }, &[most, limit])?;
            let one = r.scalar(1.0, DType::I64);
            places = r.pointwise("Where", &[second, one, places])?;
        }
        let label = labels.pick(r, places)?;
        return Ok(vec![label, ml::transform(r, scores, how)?]);
    }
    if counts.len() != classes || classes < 2 {
        return Err(Diagnostic::new(format!("{} vectors_per_class for {classes} labels", counts.len())));
    }
    let k = kernel(r, x, &vectors, all)?;
    let probable = !prob_a.is_empty();
    let lists = [coefficients, rho, prob_a, prob_b].map(|x| r.tensor(Tensor::new(&[x.len()], &x)));
    let inputs = std::iter::once(k).chain(lists).map(Some).collect();
    let found = r.emit_all(SupportVotes { counts }, inputs, 2)?;
    let mut scores = found[0];
    scores = match (classes, probable, how) {
        (2, false, "NONE") => ml::opposites(r, scores)?,
        (2, false, _) => {
            if matches!(how, "LOGISTIC" | "PROBIT") {
                scores = ml::transform(r, scores, how)?;
            }
            let negative = r.pointwise("Neg", &[scores])?;
            let rest = r.plus(negative, 1.0)?;
            r.concat(&[rest, scores], 1)?
        }
        _ => ml::transform(r, scores, how)?,
    };
    let label = labels.pick(r, found[1])?;
    Ok(vec![label, scores])
}
