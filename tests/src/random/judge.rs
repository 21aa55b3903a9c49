//! What is right: results of a model and how far right ones may be from them.
//!
//! Right implementations round differently, and what a rounding does to a result depends on all that is computed behind it. So the
//! tolerance is measured (Monte Carlo arithmetic, Parker 1997): the model is evaluated again with a random factor near 1 on every result
//! that is rounded and every operand of a sum, and what that changes, a few times over, is what results may differ by. Where an integer
//! changes, or a float by a large part of its tensor's deviation, a jump (a rounding, a comparison) was too near: the model says nothing.

use super::write::Drawn;
use kiln_cli::suite::guarded;
use kiln_compiler::emit::{Interface, Names, WeightsAt, rust};
use kiln_compiler::eval::Evaluator;
use kiln_compiler::import;
use kiln_compiler::ir::{Graph, verify};
use kiln_compiler::onnx;
use kiln_compiler::pipeline::{Ablation, optimize};
use kiln_compiler::plan::schedule;
use kiln_kernels::dtype::DType;
use kiln_kernels::value::{Tensor, Value};
use std::sync::Mutex;

/// How often a model is evaluated with noise.
const SAMPLES: u64 = 4;
/// How many times the largest change by noise a result may be off.
const MARGIN: f64 = 6.0;
/// The part of a tensor's deviation beyond which a change by noise is a jump.
const JUMP: f64 = 0.02;

/// What a run should give.
pub struct Expected {
    /// The results of the reference evaluator.
    pub values: Vec<Value>,
    /// For each result the distance that each element may have.
    pub slack: Vec<Vec<f64>>,
}

/// Why a model is not judged, or what is wrong with what it gives.
#[derive(Clone, Debug, PartialEq)]
pub enum Finding {
    /// A jump was too near, or a number is not finite.
    Unstable(String),
    /// It failed: at a stage, for a reason.
    Failed(&'static str, String),
}

/// Imports a model and evaluates it as it is.
///
/// # Errors
/// The stage and the reason.
pub fn reference(model: &[u8], inputs: &[Value]) -> Result<Vec<Value>, Finding> {
    evaluated(&imported(model)?, inputs).map_err(|e| Finding::Failed("reference", e))
}

fn imported(model: &[u8]) -> Result<Graph, Finding> {
    let model = onnx::read(model, None, &Default::default()).map_err(|d| Finding::Failed("read", d.to_string()))?;
    import::import(&model, &Default::default()).map_err(|d| Finding::Failed("import", d.to_string()))
}

fn evaluated(graph: &Graph, inputs: &[Value]) -> Result<Vec<Value>, String> {
    Evaluator::new(graph, inputs.to_vec())?.run()
}

/// Runs a step of the judgement; a panic of it is a failure.
///
/// # Errors
/// What the step answers, or its panic.
pub fn shielded<T: Send>(stage: &'static str, f: impl FnOnce() -> Result<T, Finding> + Send) -> Result<T, Finding> {
    let out = Mutex::new(None);
    let done = guarded(|| {
        let result = f();
        *out.lock().map_err(|e| e.to_string())? = Some(result);
        Ok(())
    });
    let out = out.into_inner().ok().flatten();
    match (done, out) {
        (Ok(()), Some(result)) => result,
        (Err(why), _) => Err(Finding::Failed(stage, why)),
        _ => Err(Finding::Failed(stage, "no result".into())),
    }
}

/// What the runs of a model should give.
///
/// # Errors
/// That the model is not judged, or that it does not even evaluate.
pub fn expected(drawn: &Drawn, model: &[u8]) -> Result<[Expected; 2], Finding> {
    shielded("reference", || {
        let graph = imported(model)?;
        let one = |run: usize| {
            let values = evaluated(&graph, &drawn.runs[run]).map_err(|e| Finding::Failed("reference", e))?;
            stated(drawn, run, &values)?;
            let mut changes: Vec<Vec<f64>> = values.iter().map(|v| vec![0.0; v.as_tensor().map_or(0, Tensor::len)]).collect();
            for sample in 0..SAMPLES {
                // A model whose noise cannot be computed is still evaluated: the failure is told by its stage.
                let noisy = reference(&drawn.noisy(run, sample), &drawn.runs[run]).map_err(|e| match e {
                    Finding::Failed(_, why) => Finding::Failed("noise", why),
                    other => other,
                })?;
                for ((v, n), c) in values.iter().zip(&noisy).zip(&mut changes) {
                    change(v, n, c)?;
                }
            }
            let slack = values.iter().zip(&changes).map(|(v, c)| slack(v, c)).collect::<Result<_, _>>()?;
            Ok(Expected { values, slack })
        };
        Ok([one(0)?, one(1)?])
    })
}

/// Holds types and shapes against what the generator knows of them.
fn stated(drawn: &Drawn, run: usize, values: &[Value]) -> Result<(), Finding> {
    for (v, t) in drawn.outputs.iter().zip(values) {
        let (k, Some(t)) = (&drawn.graph.values[*v], t.as_tensor()) else { continue };
        let dims: Option<Vec<usize>> = k.shape.as_ref().map(|s| s.iter().map(|e| e[run]).collect());
        if t.dtype != k.dtype || dims.as_ref().is_some_and(|d| *d != t.dims) {
            let why = format!("{} is {}{:?}, the generator says {}{:?}", k.name, t.dtype, t.dims, k.dtype, dims.unwrap_or_default());
            return Err(Finding::Failed("shape", why));
        }
    }
    Ok(())
}

/// Notes what noise has changed.
fn change(value: &Value, noisy: &Value, changes: &mut [f64]) -> Result<(), Finding> {
    let unstable = |why: &str| Err(Finding::Unstable(why.into()));
    let (Some(v), Some(n)) = (value.as_tensor(), noisy.as_tensor()) else { return unstable("a result is no tensor") };
    if v.dims != n.dims {
        return unstable("a shape depends on a jump");
    }
    if !v.dtype.is_float() {
        return if v == n { Ok(()) } else { unstable("an integer changes by noise") };
    }
    let (x, y) = (v.to_f64s().unwrap_or_default(), n.to_f64s().unwrap_or_default());
    for ((x, y), c) in x.iter().zip(&y).zip(changes) {
        if !x.is_finite() || !y.is_finite() {
            return unstable("a number is not finite");
        }
        *c = c.max((x - y).abs());
    }
    Ok(())
}

/// How far elements may be off.
fn slack(value: &Value, changes: &[f64]) -> Result<Vec<f64>, Finding> {
    let Some(t) = value.as_tensor().filter(|t| t.dtype.is_float()) else { return Ok(vec![]) };
    let x = t.to_f64s().unwrap_or_default();
    let n = x.len().max(1) as f64;
    let square = |x: &[f64]| (x.iter().map(|x| x * x).sum::<f64>() / n).sqrt();
    let (size, noise) = (square(&x), square(changes));
    let jump = if t.dtype == DType::F16 { 8.0 * JUMP } else { JUMP };
    if changes.iter().any(|c| *c > jump * size.max(1e-6)) {
        return Err(Finding::Unstable("a float jumps by noise".into()));
    }
    let step = match t.dtype {
        DType::F64 => f64::EPSILON,
        DType::F16 => (2.0f64).powi(-10),
        _ => f32::EPSILON as f64,
    };
    // The least normal numbers of a type: below them steps are absolute.
    let least = if t.dtype == DType::F16 { 1e-6 } else { 1e-30 };
    Ok(x.iter().zip(changes).map(|(x, c)| MARGIN * c.max(noise) + 8.0 * step * (x.abs() + 0.01 * size) + least).collect())
}

/// What ONNX Runtime may be off besides: its functions keep absolute errors, where Kiln's keep relative ones.
pub const FOREIGN: f64 = 4e-6;

/// Whether results are those expected; `more` is allowed besides, of what is typical of a tensor.
///
/// # Errors
/// The first difference.
pub fn compare(found: &[Value], expected: &Expected, more: f64) -> Result<(), String> {
    if found.len() != expected.values.len() {
        return Err(format!("{} results, expected {}", found.len(), expected.values.len()));
    }
    for (i, ((f, e), slack)) in found.iter().zip(&expected.values).zip(&expected.slack).enumerate() {
        let (Some(f), Some(e)) = (f.as_tensor(), e.as_tensor()) else { return Err(format!("output {i} is no tensor")) };
        if f.dtype != e.dtype || f.dims != e.dims {
            return Err(format!("output {i}: {}{:?}, expected {}{:?}", f.dtype, f.dims, e.dtype, e.dims));
        }
        let (x, y) = (f.to_f64s().unwrap_or_default(), e.to_f64s().unwrap_or_default());
        let typical = (y.iter().map(|y| y * y).sum::<f64>() / y.len().max(1) as f64).sqrt();
        let more = if e.dtype == DType::F64 { more * 1e-6 } else { more };
        let most = |k: usize| slack[k] + more * (y[k].abs() + typical + 0.03);
        let off = |k: usize| if e.dtype.is_float() { (x[k] - y[k]).abs() > most(k) || x[k].is_nan() } else { x[k] != y[k] };
        let wrong: Vec<usize> = (0..x.len()).filter(|k| off(*k)).collect();
        if let Some(k) = wrong.first() {
            let allowed = slack.get(*k).copied().unwrap_or_default();
            return Err(format!(
                "output {i} ({}): {} of {} elements differ, first [{k}]: {}, expected {} within {allowed:e}",
                e.dtype,
                wrong.len(),
                x.len(),
                x[*k],
                y[*k]
            ));
        }
    }
    Ok(())
}

/// Optimizes a model and evaluates what it has become, then plans and prints it.
///
/// # Errors
/// The stage and the reason.
pub fn evaluate(drawn: &Drawn, model: &[u8], expected: &[Expected; 2]) -> Result<(), Finding> {
    let graph = shielded("optimize", || {
        let mut graph = imported(model)?;
        let mut broken = Ok(());
        optimize(&mut graph, Ablation::Nothing, &mut |pass, g| {
            if broken.is_ok() {
                broken = verify(g).map_err(|e| Finding::Failed("verify", format!("after {pass}: {e}")));
            }
        })
        .map_err(|e| Finding::Failed("optimize", e))?;
        broken.map(|()| graph)
    })?;
    shielded("evaluate", || {
        for (run, e) in expected.iter().enumerate() {
            let found = evaluated(&graph, &drawn.runs[run]).map_err(|e| Finding::Failed("evaluate", e))?;
            compare(&found, e, 0.0).map_err(|why| Finding::Failed("optimized", format!("run {run}: {why}")))?;
        }
        Ok(())
    })?;
    shielded("plan", || {
        let plan = schedule(graph, Ablation::Nothing, Default::default(), Default::default());
        let names = Names::new("Net", WeightsAt::Given).interface(Interface::Dynamic);
        rust(&plan, None, &names).map(|_| ()).map_err(|d| Finding::Failed("emit", d.to_string()))
    })
}
