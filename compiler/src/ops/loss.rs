//! NegativeLogLikelihoodLoss and SoftmaxCrossEntropyLoss.

use super::gather::{Gather, GatherElements};
use super::{Reader, softmax::Softmax};
use crate::diagnostics::Diagnostic;
use crate::ir::ValueId;
use kiln_kernels::dtype::DType;

type Read = Result<Vec<ValueId>, Diagnostic>;

/// `-x[n, target[n, ..], ..]`, weighted by class and reduced; targets equal to `ignore_index` count nothing.
fn likelihood(r: &mut Reader<'_, '_>, x: ValueId) -> Result<ValueId, Diagnostic> {
    let (target, dtype) = (r.input(1)?, r.dtype(x));
    let rank = r.rank(x)?;
    if rank < 2 || r.rank(target)? + 1 != rank {
        return Err(Diagnostic::new(format!("a loss of rank {rank} needs targets of rank {}", rank.saturating_sub(1))));
    }
    let mut target = r.cast(target, DType::I64)?;
    let mut ignored = None;
    if let Some(index) = r.int_opt("ignore_index")? {
        let (index, zero) = (r.scalar(index as f64, DType::I64), r.scalar(0.0, DType::I64));
        let is = r.pointwise("Equal", &[target, index])?;
        target = r.pointwise("Where", &[is, zero, target])?;
        ignored = Some(is);
    }
    let column = r.unsqueeze(target, 1)?;
    let picked = r.emit(GatherElements { axis: 1 }, &[x, column])?;
    let shape = r.shape(target)?;
    let picked = r.reshape(picked, shape.clone())?;
    let mut loss = r.pointwise("Neg", &[picked])?;
    let (zero, one) = (r.scalar(0.0, dtype), r.scalar(1.0, dtype));
    let mut weight = match r.opt(2) {
        Some(w) => Some(r.emit(Gather { axis: 0 }, &[w, target])?),
        None => None,
    };
    if let Some(is) = ignored {
        weight = Some(r.pointwise("Where", &[is, zero, weight.unwrap_or(one)])?);
    }
    if let Some(w) = weight {
        loss = r.mul(loss, w)?;
    }
    let all: Vec<usize> = (0..rank - 1).collect();
    match (r.word("reduction", &["mean", "none", "sum"])?, weight) {
        ("none", _) => Ok(loss),
        ("sum", _) => r.reduce(loss, "sum", &all, false),
        (_, None) => r.reduce(loss, "mean", &all, false),
        (_, Some(w)) => {
            let (total, share) = (r.reduce(loss, "sum", &all, false)?, r.reduce(w, "sum", &all, false)?);
            r.div(total, share)
        }
    }
}

/// Widens 16-bit scores; gives the type to return to.
fn scores(r: &mut Reader<'_, '_>) -> Result<(ValueId, DType), Diagnostic> {
    let x = r.input(0)?;
    let dtype = r.dtype(x);
    if matches!(dtype, DType::F16 | DType::Bf16) {
        if let Some(w) = r.opt(2) {
            r.inputs[2] = Some(r.cast(w, DType::F32)?);
        }
        return Ok((r.cast(x, DType::F32)?, dtype));
    }
    Ok((x, dtype))
}

/// Reads [NegativeLogLikelihoodLoss](https://onnx.ai/onnx/operators/onnx__NegativeLogLikelihoodLoss.html).
pub fn read_likelihood(r: &mut Reader<'_, '_>) -> Read {
    let (x, dtype) = scores(r)?;
    let loss = likelihood(r, x)?;
    Ok(vec![r.cast(loss, dtype)?])
}

/// Reads [SoftmaxCrossEntropyLoss](https://onnx.ai/onnx/operators/onnx__SoftmaxCrossEntropyLoss.html).
pub fn read_cross_entropy(r: &mut Reader<'_, '_>) -> Read {
    let (x, dtype) = scores(r)?;
    if r.rank(x)? < 2 {
        return Err(Diagnostic::new("SoftmaxCrossEntropyLoss needs a batch and classes"));
    }
    let log = r.emit(Softmax { axis: 1, mode: "log_softmax" }, &[x])?;
    let loss = likelihood(r, log)?;
    Ok(vec![r.cast(loss, dtype)?, r.cast(log, dtype)?])
}
