//! Operators of ai.onnx.ml on rows of numbers: LinearRegressor, LinearClassifier, Scaler, Normalizer, Imputer, Binarizer, FeatureVectorizer and
//! ArrayFeatureExtractor, and what classifiers share.

use super::gather::{Gather, gathered};
use super::reduce::Arg;
use super::{Reader, pointwise};
use crate::diagnostics::Diagnostic;
use crate::ir::{Dim, ValueId};
use kiln_kernels::dtype::DType;
use kiln_kernels::trees::TRANSFORMS;
use kiln_kernels::value::Tensor;

type Result<T> = std::result::Result<T, Diagnostic>;
type Read = Result<Vec<ValueId>>;

/// Operand `i` as rows `[N, F]` of a type; a list is one row.
pub(super) fn rows(r: &mut Reader<'_, '_>, i: usize, dtype: DType) -> Result<ValueId> {
    let x = r.input(i)?;
    let shape = r.shape(x)?;
    let shape = match &shape[..] {
        [n] => vec![Dim::int(1), n.clone()],
        [_, _] => shape,
        _ => return Err(Diagnostic::new(format!("{} needs rows of features, found rank {}", r.node.op_type, shape.len()))),
    };
    let x = r.reshape(x, shape)?;
    r.cast(x, dtype)
}

/// A list of numbers as a constant of f32 or f64.
pub(super) fn constant(r: &mut Reader<'_, '_>, x: &[f64], dtype: DType) -> ValueId {
    let t = crate::eval::from_f64s(&[x.len()], x, dtype);
    r.tensor(t)
}

/// The labels of a classifier.
pub(super) struct Labels(Tensor);

impl Labels {
    /// Those of `classlabels_strings`, else those of `ints`.
    pub(super) fn of(r: &Reader<'_, '_>, ints: &str) -> Result<Labels> {
        let (strings, ints) = (r.strs("classlabels_strings")?.unwrap_or_default(), r.ints(ints)?.unwrap_or_default());
        match (strings.len(), ints.len()) {
            (0, 0) => Err(Diagnostic::new(format!("{} has no labels", r.node.op_type))),
            (0, n) => Ok(Labels(Tensor::new(&[n], &ints))),
            (n, _) => Ok(Labels(Tensor::strings(&[n], strings))),
        }
    }
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
    /// The labels that places pick; a single label stands for place 1, beside 0 or an empty string.
    pub(super) fn pick(&self, r: &mut Reader<'_, '_>, places: ValueId) -> Result<ValueId> {
        let labels = match (self.len(), self.0.dtype) {
            (1, DType::Str) => Tensor::strings(&[2], vec![String::new(), self.0.as_strings()[0].clone()]),
            (1, _) => Tensor::new(&[2], &[0, self.0.slice::<i64>()[0]]),
            _ => self.0.clone(),
        };
        if labels.dtype == DType::I64 && labels.slice::<i64>().iter().enumerate().all(|(i, l)| *l == i as i64) {
            return Ok(places);
        }
        let labels = r.tensor(labels);
        gathered(r, Gather { axis: 0 }, labels, places)
    }
}

/// Rows of scores transformed, by one of [`TRANSFORMS`].
pub(super) fn transform(r: &mut Reader<'_, '_>, x: ValueId, how: &str) -> Result<ValueId> {
    match how {
        "LOGISTIC" => r.pointwise("Sigmoid", &[x]),
        "SOFTMAX" => r.softmax(x, 1),
        "SOFTMAX_ZERO" => {
            let most = r.reduce(x, "max", &[1], true)?;
            let (size, negated) = (r.pointwise("Abs", &[x])?, r.pointwise("Neg", &[most])?);
            let (least, zero) = (r.scalar(1e-7, r.dtype(x)), r.scalar(0.0, r.dtype(x)));
            let counts = r.pointwise("Greater", &[size, least])?;
            let (shifted, unit) = (r.sub(x, most)?, r.pointwise("Exp", &[negated])?);
            let (large, small) = (r.pointwise("Exp", &[shifted])?, r.mul(x, unit)?);
            let summed = r.pointwise("Where", &[counts, large, zero])?;
            let (sum, all) = (r.reduce(summed, "sum", &[1], true)?, r.pointwise("Where", &[counts, large, small])?);
            r.div(all, sum)
        }
        "PROBIT" => probit(r, x),
        _ => Ok(x),
    }
}

/// As `kiln_kernels::trees::classify` has it.
fn probit(r: &mut Reader<'_, '_>, x: ValueId) -> Result<ValueId> {
    let x = r.times(x, 2.0)?;
    let x = r.plus(x, -1.0)?;
    let negative = r.pointwise("Neg", &[x])?;
    let (below, above) = (r.plus(negative, 1.0)?, r.plus(x, 1.0)?);
    let product = r.mul(below, above)?;
    let log = r.pointwise("Log", &[product])?;
    let half = r.times(log, 0.5)?;
    let v = r.plus(half, 2.0 / (std::f64::consts::PI * 0.147))?;
    let (square, rest) = (r.mul(v, v)?, r.times(log, 1.0 / 0.147)?);
    let inner = r.sub(square, rest)?;
    let inner = r.pointwise("Sqrt", &[inner])?;
    let inner = r.sub(inner, v)?;
    let root = r.pointwise("Sqrt", &[inner])?;
    let root = r.times(root, std::f64::consts::SQRT_2)?;
    let (turned, zero) = (r.pointwise("Neg", &[root])?, r.scalar(0.0, r.dtype(x)));
    let low = r.pointwise("Less", &[x, zero])?;
    r.pointwise("Where", &[low, turned, root])
}

/// The class of the greatest score in each row, the first of several.
pub(super) fn greatest(r: &mut Reader<'_, '_>, scores: ValueId) -> Result<ValueId> {
    r.emit(Arg { axis: 1, keep: false, largest: true, last: false }, &[scores])
}

/// Scores and their opposites, as two columns.
pub(super) fn opposites(r: &mut Reader<'_, '_>, scores: ValueId) -> Result<ValueId> {
    let negative = r.pointwise("Neg", &[scores])?;
    r.concat(&[negative, scores], 1)
}

/// Rows times the coefficients of `count` targets, with what is added to them.
fn linear(r: &mut Reader<'_, '_>, x: ValueId, count: Option<usize>) -> Result<(ValueId, usize)> {
    let coefficients = r.floats("coefficients")?.ok_or_else(|| Diagnostic::new("attribute coefficients is missing"))?;
    let intercepts = r.floats("intercepts")?.unwrap_or_default();
    let features = r.shape(x)?[1].as_int().and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0);
    let known = count.or_else(|| Some(intercepts.len()).filter(|n| *n > 0)).or_else(|| Some(coefficients.len() / features?));
    let count = known
        .filter(|n| *n > 0 && coefficients.len().is_multiple_of(*n))
        .ok_or_else(|| Diagnostic::new(format!("{} coefficients are no rows, one for each target", coefficients.len())))?;
    let n = coefficients.len() / count;
    if features.is_some_and(|f| f != n) {
        return Err(Diagnostic::new(format!("coefficients for {n} features, found rows of {}", features.unwrap_or(0))));
    }
    let turned: Vec<f32> = (0..n * count).map(|i| coefficients[i % count * n + i / count]).collect();
    let weights = r.tensor(Tensor::new(&[n, count], &turned));
    let mut y = r.matmul(x, weights)?;
    if !intercepts.is_empty() {
        if intercepts.len() != count && intercepts.len() != 1 {
            return Err(Diagnostic::new(format!("{} intercepts for {count} targets", intercepts.len())));
        }
        let bias = r.tensor(Tensor::new(&[intercepts.len()], &intercepts));
        y = r.add(y, bias)?;
    }
    Ok((y, count))
}

/// Reads [LinearRegressor](https://onnx.ai/onnx/operators/onnx_aionnxml_LinearRegressor.html).
pub fn read_linear_regressor(r: &mut Reader<'_, '_>) -> Read {
    let x = rows(r, 0, DType::F32)?;
    let how = r.word("post_transform", &TRANSFORMS)?;
    let targets = r.int("targets", 1)?;
    let targets = usize::try_from(targets).map_err(|_| Diagnostic::new(format!("LinearRegressor of {targets} targets")))?;
    let (y, _) = linear(r, x, Some(targets))?;
    Ok(vec![transform(r, y, how)?])
}

/// Reads [LinearClassifier](https://onnx.ai/onnx/operators/onnx_aionnxml_LinearClassifier.html). The standard says nothing of one row of
/// coefficients for two labels: here, as in its reference evaluator, the score is the second label's, and its opposite the first one's.
pub fn read_linear_classifier(r: &mut Reader<'_, '_>) -> Read {
    let x = rows(r, 0, DType::F32)?;
    let how = r.word("post_transform", &TRANSFORMS)?;
    let labels = Labels::of(r, "classlabels_ints")?;
    let (mut scores, count) = linear(r, x, None)?;
    let alone = count == 1 && labels.len() < 2;
    if count == 1 && labels.len() == 2 {
        scores = opposites(r, scores)?;
    } else if !alone && count != labels.len() {
        return Err(Diagnostic::new(format!("{count} rows of coefficients for {} labels", labels.len())));
    }
    let places = match alone {
        true => {
            let zero = r.scalar(0.0, DType::F32);
            let positive = r.pointwise("Greater", &[scores, zero])?;
            let places = r.cast(positive, DType::I64)?;
            r.pick(places, 1, 0)?
        }
        false => greatest(r, scores)?,
    };
    let label = labels.pick(r, places)?;
    Ok(vec![label, transform(r, scores, how)?])
}

/// A list that is one element or one for each feature of `x`.
fn by_feature(r: &mut Reader<'_, '_>, x: ValueId, list: Vec<f64>, dtype: DType) -> Result<ValueId> {
    let features = r.shape(x)?.last().and_then(Dim::as_int);
    if list.len() != 1 && features.is_some_and(|n| n != list.len() as i64) {
        return Err(Diagnostic::new(format!("a list of {} numbers for rows of {} features", list.len(), features.unwrap_or(0))));
    }
    Ok(constant(r, &list, dtype))
}

/// Reads [Scaler](https://onnx.ai/onnx/operators/onnx_aionnxml_Scaler.html): the offset taken off, then the scale multiplied.
pub fn read_scaler(r: &mut Reader<'_, '_>) -> Read {
    let x = r.input(0)?;
    let dtype = if r.dtype(x) == DType::F64 { DType::F64 } else { DType::F32 };
    let mut y = r.cast(x, dtype)?;
    for (name, op) in [("offset", "Sub"), ("scale", "Mul")] {
        if let Some(list) = r.floats(name)?.filter(|l| !l.is_empty()) {
            let by = by_feature(r, x, list.into_iter().map(f64::from).collect(), dtype)?;
            y = r.pointwise(op, &[y, by])?;
        }
    }
    Ok(vec![r.cast(y, DType::F32)?])
}

/// Reads [Normalizer](https://onnx.ai/onnx/operators/onnx_aionnxml_Normalizer.html): rows divided by their greatest element, by the sum of
/// absolute values, or by their length; rows for which that is zero stay.
pub fn read_normalizer(r: &mut Reader<'_, '_>) -> Read {
    let norm = r.word("norm", &["MAX", "L1", "L2"])?;
    let x = r.input(0)?;
    let (x, rank) = (r.cast(x, DType::F32)?, r.rank(x)?);
    let axis = rank.checked_sub(1).ok_or_else(|| Diagnostic::new("Normalizer needs rows, found a scalar"))?;
    let mode = match norm {
        "MAX" => "max",
        "L1" => "l1",
        _ => "l2",
    };
    let by = r.reduce(x, mode, &[axis], true)?;
    let (zero, one) = (r.scalar(0.0, DType::F32), r.scalar(1.0, DType::F32));
    let none = r.pointwise("Equal", &[by, zero])?;
    let by = r.pointwise("Where", &[none, one, by])?;
    Ok(vec![r.div(x, by)?])
}

/// Reads [Imputer](https://onnx.ai/onnx/operators/onnx_aionnxml_Imputer.html): elements that equal a number, or are NaN, replaced.
pub fn read_imputer(r: &mut Reader<'_, '_>) -> Read {
    let x = r.input(0)?;
    let dtype = r.dtype(x);
    let (floats, ints) = (r.floats("imputed_value_floats")?.unwrap_or_default(), r.ints("imputed_value_int64s")?.unwrap_or_default());
    let (values, replaced) = match floats.is_empty() {
        false => (floats.into_iter().map(f64::from).collect(), f64::from(r.float("replaced_value_float", 0.0)?)),
        true => (ints.iter().map(|i| *i as f64).collect::<Vec<_>>(), r.int("replaced_value_int64", 0)? as f64),
    };
    if values.is_empty() {
        return Err(Diagnostic::new("Imputer has neither imputed_value_floats nor imputed_value_int64s"));
    }
    let by = by_feature(r, x, values, dtype)?;
    let gone = match replaced.is_nan() {
        true if dtype.is_float() => r.pointwise("IsNaN", &[x])?,
        // No integer is missing.
        true => return Ok(vec![x]),
        false => {
            let replaced = r.scalar(replaced, dtype);
            r.pointwise("Equal", &[x, replaced])?
        }
    };
    Ok(vec![r.pointwise("Where", &[gone, by, x])?])
}

/// Reads [Binarizer](https://onnx.ai/onnx/operators/onnx_aionnxml_Binarizer.html): 1 above the threshold, else 0.
pub fn read_binarizer(r: &mut Reader<'_, '_>) -> Read {
    let x = r.input(0)?;
    let (dtype, threshold) = (r.dtype(x), r.float("threshold", 0.0)?);
    let wide = if dtype.is_float() { dtype } else { DType::F32 };
    let (y, threshold) = (r.cast(x, wide)?, r.scalar(threshold as f64, wide));
    let above = r.pointwise("Greater", &[y, threshold])?;
    Ok(vec![r.cast(above, dtype)?])
}

/// Reads [FeatureVectorizer](https://onnx.ai/onnx/operators/onnx_aionnxml_FeatureVectorizer.html): columns of all operands side by side, cut or
/// filled up with zeros to the numbers that `inputdimensions` gives.
pub fn read_feature_vectorizer(r: &mut Reader<'_, '_>) -> Read {
    let widths = r.ints("inputdimensions")?.unwrap_or_default();
    let mut parts = Vec::new();
    for i in 0..r.inputs.len() {
        let x = rows(r, i, DType::F32)?;
        let shape = r.shape(x)?;
        let Some(width) = widths.get(i).copied() else {
            parts.push(x);
            continue;
        };
        match shape[1].as_int() {
            _ if width < 0 => return Err(Diagnostic::new(format!("inputdimensions has {width}"))),
            Some(n) if n > width => parts.push(r.cut(x, 1, Dim::int(0), Dim::int(width), 1)?),
            Some(n) if n < width => {
                let zero = r.scalar(0.0, DType::F32);
                let more = r.expand(zero, vec![shape[0].clone(), Dim::int(width - n)])?;
                parts.extend([x, more]);
            }
            _ => parts.push(x),
        }
    }
    Ok(vec![r.concat(&parts, 1)?])
}

/// Reads [ArrayFeatureExtractor](https://onnx.ai/onnx/operators/onnx_aionnxml_ArrayFeatureExtractor.html): columns picked.
pub fn read_feature_extractor(r: &mut Reader<'_, '_>) -> Read {
    let (x, index) = (r.input(0)?, r.input(1)?);
    let (mut x, shape) = (x, r.shape(x)?);
    if shape.len() == 1 {
        x = r.reshape(x, vec![Dim::int(1), shape[0].clone()])?;
    }
    let count = crate::ir::product(&r.shape(index)?);
    let index = r.reshape(index, vec![count])?;
    let axis = r.rank(x)?.checked_sub(1).ok_or_else(|| Diagnostic::new("ArrayFeatureExtractor needs rows, found a scalar"))?;
    Ok(vec![gathered(r, Gather { axis }, x, index)?])
}

/// `x` to the power of a number.
pub(super) fn power(r: &mut Reader<'_, '_>, x: ValueId, by: f32) -> Result<ValueId> {
    match by {
        1.0 => Ok(x),
        2.0 => r.mul(x, x),
        3.0 => {
            let square = r.mul(x, x)?;
            r.mul(square, x)
        }
        _ => {
            let by = r.scalar(f64::from(by), r.dtype(x));
            pointwise::power(r, x, by)
        }
    }
}
