//! `kiln tune --target cuda`: measures the forms that products and attention could have on a GPU, where they stand in the model.

use super::tune::{PAYS, ROUNDS, TuneArgs};
use crate::failure::{Failure, Result};
use crate::job;
use crate::model::{self, compile_guarded};
use kiln_compiler::Tune;
use kiln_compiler::emit::forms;
use kiln_compiler::target::cuda::{Decision, Form};
use kiln_compiler::target::{Gpu, Tuning};
use serde_json::{Value as Json, json};
use std::collections::{BTreeMap, BTreeSet};

/// Microseconds of each form of a kernel, and how often a run has such a kernel.
#[derive(Debug, Default)]
struct Measured {
    /// The estimate's choice first.
    times: Vec<(Form, f64)>,
    count: usize,
}

/// What was measured.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) gpu: Gpu,
    /// An object a kind of kernel.
    pub(super) lines: Vec<Json>,
    /// Kernels that the model does not have as its inputs close it.
    pub(super) unmeasured: usize,
}

/// Measures the forms of a model's kernels, and notes the fastest.
pub(super) fn tune(args: &TuneArgs, tuning: &mut Tuning) -> Result<Found> {
    let tune = Tune { variants: args.variants.max(1), ..Tune::default() };
    let decisions = |options| -> Result<Vec<Decision>> {
        let output = compile_guarded(&options)?;
        Ok(output.device.as_ref().map(forms).unwrap_or_default())
    };
    // Kernels as the user's own compilation names them, whose dimensions may be open.
    let mut options = args.model.options(args.model.parsed()?)?;
    options.tune = tune.clone();
    let own = decisions(options)?;
    let mut ready = model::ready(&args.model, &args.inputs)?;
    ready.tune = tune;
    let closed = decisions(model::options(&args.model, &ready)?)?;
    if closed.is_empty() {
        return Err(Failure::Fault("error: no kernel of the model has a choice of forms on a GPU: there is nothing to measure".into()));
    }
    let built = model::build(&args.model, &ready)?;
    let spilled: Vec<&str> = built.report["gpu"]["spilled"].as_array().into_iter().flatten().filter_map(Json::as_str).collect();
    let extra = [args.model.job(&args.how)?, vec!["warmup=3".to_string(), format!("iterations={}", args.iterations.max(1))]].concat();
    let most = closed.iter().map(|d| d.forms.len()).max().unwrap_or(1);
    let (mut least, mut gpu, mut failed) = (BTreeMap::<(usize, usize), f64>::new(), None, None);
    for _ in 0..ROUNDS {
        for v in 0..most {
            let profile = match job::profile(&built.binary, &ready.values, &[&extra[..], &[format!("variant={v}")]].concat()) {
                Ok(profile) => profile,
                // A process of its own for each, so that a form that fails takes no other with it.
                Err(e) if v > 0 => {
                    failed = Some(e);
                    continue;
                }
                Err(e) => return Err(e),
            };
            gpu = gpu.or_else(|| profile["gpu"].as_str().and_then(Gpu::parse));
            for layer in profile["layers"].as_array().into_iter().flatten().filter(|l| l["gpu"] == json!(true)) {
                let (Some(step), Some(us)) = (layer["step"].as_u64(), layer["min_us"].as_f64()) else { continue };
                let time = least.entry((step as usize, v)).or_insert(us);
                *time = time.min(us);
            }
        }
    }
    if let Some(Failure::Fault(text)) = failed {
        eprintln!("a form failed, and counts for nothing: {text}");
    }
    let gpu = gpu.ok_or_else(|| Failure::Fault("error: the program does not say which GPU it ran on".into()))?;
    let mut specs = BTreeMap::<&str, Measured>::new();
    let measured = |d: &Decision| closed.iter().find(|c| c.origins == d.origins);
    let unmeasured = own.iter().filter(|d| measured(d).is_none()).count();
    // Also as they are named once inputs have closed the model, as `kiln run` and `kiln bench` do.
    let names: BTreeSet<&str> = own.iter().map(|d| d.spec.as_str()).collect();
    for d in own.iter().chain(closed.iter().filter(|d| !names.contains(d.spec.as_str()))) {
        let Some(c) = measured(d) else { continue };
        let spec = specs.entry(&d.spec).or_default();
        spec.count += 1;
        for (v, form) in c.forms.iter().enumerate() {
            let registers = c.kernels.get(v).is_none_or(|k| !spilled.contains(&format!("k{k}").as_str()));
            let Some(us) = least.get(&(c.step, v)).filter(|_| registers && d.wanted.legal(form).is_ok()) else { continue };
            match spec.times.iter_mut().find(|(f, _)| f == form) {
                Some((_, sum)) => *sum += us,
                None => spec.times.push((*form, *us)),
            }
        }
    }
    let mut lines = Vec::new();
    for (spec, m) in specs {
        let Some(form) = fastest(&m.times) else { continue };
        let us = |form: &Form| m.times.iter().find(|t| t.0 == *form).map_or(0.0, |t| t.1 / m.count as f64);
        let estimate = match m.times[0].0 {
            first if first == form => String::new(),
            first => format!("; the estimate's {first}: {:.1}", us(&first)),
        };
        let note = format!("µs: {:.1}, the least of {}{estimate}", us(&form), m.times.len());
        tuning.insert_form(spec, &gpu, form, &note);
        lines.push(json!({ "spec": spec, "form": form.to_string(), "kernels": m.count, "note": note }));
    }
    Ok(Found { gpu, lines, unmeasured })
}

/// The form that takes least; the estimate's where others gain next to nothing.
fn fastest(times: &[(Form, f64)]) -> Option<Form> {
    let first = times.first()?;
    let best = times.iter().min_by(|a, b| a.1.total_cmp(&b.1)).filter(|t| t.1 < PAYS * first.1);
    Some(best.unwrap_or(first).0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_must_pay() {
        let form = |side: usize| Form::read(&["tile", &format!("{side}x64"), "chunks=8", "warp=32x32", "stages=4", "splits=1"]).unwrap();
        assert_eq!(fastest(&[(form(64), 10.0), (form(32), 9.9)]), Some(form(64)));
        assert_eq!(fastest(&[(form(64), 10.0), (form(32), 9.0), (form(96), 8.0)]), Some(form(96)));
        assert_eq!(fastest(&[]), None);
    }
}
