//! Optimizer steps (preview training): Adagrad, Adam and Momentum.

use super::Reader;
use crate::diagnostics::Diagnostic;
use crate::ir::ValueId;
use kiln_kernels::dtype::DType;

type Read = Result<Vec<ValueId>, Diagnostic>;

/// The tensors of one parameter, in groups: parameter, gradient, then states.
fn groups(r: &Reader<'_, '_>, states: usize) -> Result<Vec<Vec<ValueId>>, Diagnostic> {
    let (all, width) = (r.inputs.len().saturating_sub(2), 2 + states);
    if all == 0 || all % width != 0 {
        return Err(Diagnostic::new(format!("{} has {all} tensors, which are no groups of {width}", r.node.op_type)));
    }
    let n = all / width;
    (0..n).map(|i| (0..width).map(|k| r.input(2 + k * n + i)).collect()).collect()
}

/// `g + norm_coefficient · x`.
fn regularized(r: &mut Reader<'_, '_>, x: ValueId, g: ValueId) -> Result<ValueId, Diagnostic> {
    let c = r.float("norm_coefficient", 0.0)?;
    let part = r.times(x, c as f64)?;
    r.add(part, g)
}

/// Results in the order of the operator: all parameters, then each state.
fn in_order(results: Vec<Vec<ValueId>>) -> Vec<ValueId> {
    let width = results.first().map_or(0, Vec::len);
    (0..width).flat_map(|k| results.iter().map(move |v| v[k])).collect()
}

/// Whether the step count is above 0, as a condition.
fn later(r: &mut Reader<'_, '_>) -> Result<ValueId, Diagnostic> {
    let t = r.input(1)?;
    let zero = r.scalar(0.0, r.dtype(t));
    r.pointwise("Greater", &[t, zero])
}

/// Reads [Adagrad](https://onnx.ai/onnx/operators/onnx_aionnxpreviewtraining_Adagrad.html).
pub fn read_adagrad(r: &mut Reader<'_, '_>) -> Read {
    let (rate, t) = (r.input(0)?, r.input(1)?);
    let (decay, epsilon) = (r.float("decay_factor", 0.0)? as f64, r.float("epsilon", 0.0)? as f64);
    let t = r.cast(t, r.dtype(rate))?;
    let slow = r.times(t, decay)?;
    let slow = r.plus(slow, 1.0)?;
    let rate = r.div(rate, slow)?;
    let mut out = Vec::new();
    for g in groups(r, 1)? {
        let (x, h) = (g[0], g[2]);
        let g = regularized(r, x, g[1])?;
        let square = r.mul(g, g)?;
        let h = r.add(h, square)?;
        let root = r.pointwise("Sqrt", &[h])?;
        let root = r.plus(root, epsilon)?;
        let rate = r.cast(rate, r.dtype(x))?;
        let step = r.mul(rate, g)?;
        let step = r.div(step, root)?;
        out.push(vec![r.sub(x, step)?, h]);
    }
    Ok(in_order(out))
}

/// Reads [Adam](https://onnx.ai/onnx/operators/onnx_aionnxpreviewtraining_Adam.html).
pub fn read_adam(r: &mut Reader<'_, '_>) -> Read {
    let (rate, t) = (r.input(0)?, r.input(1)?);
    let (alpha, beta) = (r.float("alpha", 0.9)? as f64, r.float("beta", 0.999)? as f64);
    let (epsilon, after) = (r.float("epsilon", 0.0)? as f64, r.float("norm_coefficient_post", 0.0)? as f64);
    // The rate corrected for the bias of the first steps.
    let steps = r.cast(t, DType::F64)?;
    let rest = |r: &mut Reader<'_, '_>, base: f64| -> Result<ValueId, Diagnostic> {
        let (base, one) = (r.scalar(base, DType::F64), r.scalar(1.0, DType::F64));
        let mut e = crate::kernel::Expr::default();
        let (x, y) = (e.input(0, DType::F64), e.input(1, DType::F64));
        let p = e.bin(crate::kernel::Binary::Pow, x, y);
        e.results.push(p);
        let power = r.emit(super::pointwise::Pointwise { name: "Pow", expr: e }, &[base, steps])?;
        r.sub(one, power)
    };
    let (square, linear) = (rest(r, beta)?, rest(r, alpha)?);
    let root = r.pointwise("Sqrt", &[square])?;
    let factor = r.div(root, linear)?;
    let (on, one) = (later(r)?, r.scalar(1.0, DType::F64));
    let factor = r.pointwise("Where", &[on, factor, one])?;
    let rate = r.cast(rate, DType::F64)?;
    let rate = r.mul(rate, factor)?;
    let mut out = Vec::new();
    for g in groups(r, 2)? {
        let (x, v, h) = (g[0], g[2], g[3]);
        let g = regularized(r, x, g[1])?;
        let (old, new) = (r.times(v, alpha)?, r.times(g, 1.0 - alpha)?);
        let v = r.add(old, new)?;
        let square = r.mul(g, g)?;
        let (old, new) = (r.times(h, beta)?, r.times(square, 1.0 - beta)?);
        let h = r.add(old, new)?;
        let root = r.pointwise("Sqrt", &[h])?;
        let root = r.plus(root, epsilon)?;
        let step = r.div(v, root)?;
        let rate = r.cast(rate, r.dtype(x))?;
        let step = r.mul(rate, step)?;
        let x = r.sub(x, step)?;
        out.push(vec![r.times(x, 1.0 - after)?, v, h]);
    }
    Ok(in_order(out))
}

/// Reads [Momentum](https://onnx.ai/onnx/operators/onnx_aionnxpreviewtraining_Momentum.html).
pub fn read_momentum(r: &mut Reader<'_, '_>) -> Read {
    let rate = r.input(0)?;
    let (alpha, beta) = (r.float("alpha", 0.0)? as f64, r.float("beta", 0.0)? as f64);
    let nesterov = r.word("mode", &["standard", "nesterov"])? == "nesterov";
    let on = later(r)?;
    let mut out = Vec::new();
    for g in groups(r, 1)? {
        let (x, v) = (g[0], g[2]);
        let dtype = r.dtype(x);
        let g = regularized(r, x, g[1])?;
        let (beta, one) = (r.scalar(beta, dtype), r.scalar(1.0, dtype));
        let beta = r.pointwise("Where", &[on, beta, one])?;
        let (old, new) = (r.times(v, alpha)?, r.mul(beta, g)?);
        let v = r.add(old, new)?;
        let mut direction = v;
        if nesterov {
            let ahead = r.times(v, alpha)?;
            direction = r.add(g, ahead)?;
        }
        let rate = r.cast(rate, dtype)?;
        let step = r.mul(rate, direction)?;
        out.push(vec![r.sub(x, step)?, v]);
    }
    Ok(in_order(out))
}
