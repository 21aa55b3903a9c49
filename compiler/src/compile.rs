//! `compile`: a model in, source and weights out; every door (the macro, build.rs, the command) goes through it.

use crate::diagnostics::{Diagnostic, Diagnostics, Result};
use crate::emit::{self, Names};
use crate::import::{self, Dims};
use crate::ir::{Graph, print};
use crate::onnx::{self, Limits};
use crate::pipeline::{self, Ablation};
use crate::plan::{self, Arena, Notes, On, Plan, Settings};
use crate::rewrite::{self, Event, Explored, Miss};
use crate::state::{self, Pairing, States};
use crate::target::{Accuracy, Cuda, Tune, Tuning};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::time::Instant;

/// What to compile, and how.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The model file.
    pub model: PathBuf,
    /// Dimensions closed or bounded by the user.
    pub dims: Dims,
    /// Bounds on what a file may ask for.
    pub limits: Limits,
    /// The pass after which the graph is kept as text in [`Output::dump`]: `import` or a name of [`pipeline::PASSES`].
    pub dump_after: Option<String>,
    /// What is left out.
    pub without: Ablation,
    /// Which algorithms may compute a result.
    pub accuracy: Accuracy,
    /// Where measured methods come from.
    pub tune: Tune,
    /// What an instance keeps between runs.
    pub state: Pairing,
    /// The GPU to compile for, beside the CPU.
    pub cuda: Option<Cuda>,
}

/// A compiled model.
#[derive(Debug)]
pub struct Output {
    /// The plan for the CPU, with the graph it computes.
    pub plan: Plan,
    /// The plan for a GPU, where one was asked for.
    pub device: Option<Plan>,
    /// What was found and decided.
    pub report: Report,
    /// Data files beside the model, the one of measured methods too; a rebuild is due when one changes.
    pub data_files: Vec<PathBuf>,
    /// The graph as text after the pass asked for.
    pub dump: Option<String>,
}

/// Seconds that the stages took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seconds {
    /// Reading and importing.
    pub read: f64,
    /// Rewriting.
    pub rewrite: f64,
    /// Planning.
    pub plan: f64,
}

/// Numbers of a compilation.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Computing steps executed by an inference; a loop's body counts once.
    pub kernels: usize,
    /// Layout copies that are no part of a kernel.
    pub copies: usize,
    /// Bytes of the arena; `None` when dims are open.
    pub arena_bytes: Option<i64>,
    /// The theoretical lower bound of the arena.
    pub arena_bound_bytes: Option<i64>,
    /// Bytes of scratch for each thread; `None` when open dims decide it.
    pub scratch_bytes_per_thread: Option<usize>,
    /// Sum of every node result that depends on an input; open dims count as their upper bound, or 64.
    pub intermediates_bytes: i64,
    /// Bytes of packed weights.
    pub weights_bytes: usize,
    /// Bytes that an instance keeps from run to run.
    pub state_bytes: usize,
    /// How often each rule applied.
    pub rules_applied: BTreeMap<String, usize>,
    /// Applications of rules, in order.
    pub history: Vec<Event>,
    /// Rules that all but matched, and why they did not apply.
    pub misses: BTreeSet<Miss>,
    /// Kinds of regions that equality saturation explored.
    pub explored: Vec<Explored>,
    /// Time by stage.
    pub seconds: Seconds,
}

/// Compiles a model to a plan.
///
/// # Errors
/// Everything wrong with the model that one stage can see, together.
pub fn compile(options: &Options) -> Result<Output> {
    let file = options.model.display().to_string();
    let named = |mut d: Diagnostics| {
        d.file.clone_from(&file);
        d
    };
    let mut report = Report::default();
    let start = Instant::now();
    let model = onnx::read_file(&options.model, &options.limits).map_err(named)?;
    let mut graph = import::import(&model, &options.dims).map_err(named)?;
    let mut data_files = model.data_files.clone();
    drop(model);
    report.seconds.read = start.elapsed().as_secs_f64();
    check("import", &graph).map_err(named)?;
    let states = paired(&mut graph, &options.state).map_err(named)?;
    check("state", &graph).map_err(named)?;
    report.intermediates_bytes = intermediates(&graph);
    let mut dump = None;
    let mut keep = |pass: &str, g: &Graph| {
        if options.dump_after.as_deref() == Some(pass) {
            dump = Some(print(g));
        }
    };
    keep("import", &graph);
    let start = Instant::now();
    let applied = pipeline::optimize(&mut graph, options.without, &mut keep)
        .map_err(|e| named(Diagnostic::new(e).help("please report this with the model").into()))?;
    (report.history, report.misses, report.explored) = (applied.history, applied.misses, applied.explored);
    report.rules_applied = applied.rules.into_iter().map(|(k, v)| (k.to_string(), v)).collect();
    report.seconds.rewrite = start.elapsed().as_secs_f64();
    let start = Instant::now();
    let tuning = options.tune.read(&options.model).map_err(named)?;
    data_files.extend(options.tune.path(&options.model));
    let settings = Settings { without: options.without, accuracy: options.accuracy, tuning, cuda: None };
    let device = match options.cuda {
        Some(cuda) => Some(for_gpu(&graph, &states, &settings, cuda).map_err(named)?),
        None => None,
    };
    if let Some(device) = &device {
        formed(device, options).map_err(named)?;
    }
    let mut plan = plan::schedule_with(graph, states, settings);
    if options.tune.locked {
        locked(&plan).map_err(named)?;
    }
    plan.notes = notes(&report);
    report.seconds.plan = start.elapsed().as_secs_f64();
    report.weights_bytes = plan.weights.bytes;
    report.state_bytes = plan.states.bytes;
    for k in plan.kernels() {
        if k.origins.is_empty() { report.copies += 1 } else { report.kernels += 1 }
    }
    if let Arena::Fixed { bytes, bound, .. } = plan.arena {
        (report.arena_bytes, report.arena_bound_bytes) = (Some(bytes), Some(bound));
    }
    report.scratch_bytes_per_thread = plan.scratch_bytes();
    Ok(Output { plan, device, report, data_files, dump })
}

/// The plan for a GPU of a graph that is also planned for the CPU.
fn for_gpu(g: &Graph, states: &States, settings: &Settings, cuda: Cuda) -> Result<Plan> {
    let plan = plan::schedule_with(g.clone(), states.clone(), Settings { cuda: Some(cuda.precision), ..settings.clone() });
    let items: Vec<Diagnostic> = plan
        .kept_from_cpu()
        .into_iter()
        .map(|(origins, why)| {
            let d = Diagnostic::new(format!("the CPU would compute this ({why}), and reads or writes state that is kept on the GPU"));
            let d = d.help("compile for the CPU alone, or leave `state` out and hand the cache over as inputs and outputs");
            origins.first().map_or(d.clone(), |o| d.at(plan.graph.origins[*o].clone()))
        })
        .collect();
    if !items.is_empty() {
        return Err(Diagnostics { file: String::new(), items });
    }
    if cuda.strict {
        let refused = plan.kernels().into_iter().filter_map(|k| match k.on {
            On::Cpu(why) => Some((k, why)),
            On::Gpu => None,
        });
        let items: Vec<Diagnostic> = refused
            .map(|(k, why)| {
                let d = Diagnostic::new(format!("the GPU does not compute this `{}`: {why}", k.kernel.name()));
                let d = d.help("without `strict` the CPU computes it, with copies to it and back");
                k.origins.first().map_or(d.clone(), |o| d.at(plan.graph.origins[*o].clone()))
            })
            .collect();
        if !items.is_empty() {
            return Err(Diagnostics { file: String::new(), items });
        }
    }
    Ok(plan)
}

/// Refuses measured forms that kernels of a GPU cannot have, and, where they are locked, kernels that none was measured for.
fn formed(device: &Plan, options: &Options) -> Result<()> {
    let Some(path) = options.tune.path(&options.model) else { return Ok(()) };
    let measured = device.device.as_ref().is_some_and(|d| !d.forms.measured.is_empty());
    if !measured && !options.tune.locked {
        return Ok(());
    }
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    let (mut items, mut seen) = (Vec::new(), BTreeSet::new());
    for d in emit::forms(device).into_iter().filter(|d| !d.measured) {
        if !seen.insert(d.spec.clone()) {
            continue;
        }
        let said = match d.refused {
            Some(why) => {
                let line = Tuning::line_of(&text, &d.spec).unwrap_or(0);
                Diagnostic::new(format!("{}: line {line}: `{}` cannot have that form: {why}", path.display(), d.spec))
                    .help("correct the line, take it out, or measure again with `kiln tune --target cuda`")
            }
            None if options.tune.locked => {
                Diagnostic::new(format!("methods are locked, and no form was measured for `{}` on a GPU", d.spec))
                    .help("measure again with `kiln tune --target cuda` and the flags of this compilation, or compile without the lock")
            }
            None => continue,
        };
        items.push(match d.origins.first() {
            Some(o) => said.at(device.graph.origins[*o].clone()),
            None => said,
        });
    }
    if items.is_empty() { Ok(()) } else { Err(Diagnostics { file: String::new(), items }) }
}

/// Refuses kernels whose method was not measured.
fn locked(plan: &Plan) -> Result<()> {
    let missing = plan.choices.iter().filter(|c| !c.measured).map(|c| {
        let d = Diagnostic::new(format!("methods are locked, and none was measured for `{}`", c.spec));
        let d = d.help("measure again with `kiln tune` (which is about the CPU), or compile without the lock");
        match c.origins.first() {
            Some(o) => d.at(plan.graph.origins[*o].clone()),
            None => d,
        }
    });
    let items: Vec<Diagnostic> = missing.collect();
    if items.is_empty() { Ok(()) } else { Err(Diagnostics { file: String::new(), items }) }
}

/// The state of a graph; where its growth is not plain as the exporter wrote it, once the rules have taken away what changes nothing.
fn paired(g: &mut Graph, asked: &Pairing) -> Result<States> {
    if asked.is_empty() {
        return Ok(States::default());
    }
    state::pair(g, asked).or_else(|first| {
        rewrite::merge(g);
        rewrite::simplify(g);
        state::pair(g, asked).map_err(|_| first)
    })
}

fn check(pass: &str, g: &Graph) -> Result<()> {
    if cfg!(debug_assertions) {
        crate::ir::verify(g).map_err(|e| Diagnostic::new(format!("after {pass}: {e}; this is a bug in the compiler")))?;
    }
    Ok(())
}

fn notes(report: &Report) -> Notes {
    let mut notes = Notes::default();
    for e in &report.history {
        e.origins.iter().for_each(|o| {
            notes.rules.entry(*o).or_default().insert(e.rule);
        });
    }
    for m in &report.misses {
        m.origins.iter().for_each(|o| {
            notes.misses.entry(*o).or_default().insert((m.rule, m.why));
        });
    }
    notes
}

fn intermediates(g: &Graph) -> i64 {
    let mut sum = 0i64;
    for n in g.live_nodes() {
        for v in &g[n].outputs {
            let count = g.shape(*v).iter().map(|d| g.range(d).hi.unwrap_or(64)).fold(1i64, i64::saturating_mul);
            sum = sum.saturating_add(count.saturating_mul(g.dtype(*v).size() as i64));
        }
    }
    sum
}

impl Output {
    /// The Rust source.
    ///
    /// # Errors
    /// Ports whose fields would have one name.
    pub fn rust(&self, names: &Names) -> Result<String> {
        emit::rust(&self.plan, self.device.as_ref(), names)
    }
    /// The CUDA source of the plan for a GPU, where there is one.
    pub fn cuda(&self) -> Option<String> {
        self.device.as_ref().map(emit::cuda)
    }
    /// Writes the file of the weights of the plan for a GPU; nothing where there is none.
    ///
    /// # Errors
    /// What the writer reports.
    pub fn write_device_weights(&self, out: &mut dyn io::Write) -> io::Result<()> {
        self.device.as_ref().map_or(Ok(()), |plan| plan.weights.write(&plan.graph, out))
    }
    /// Writes the weights file.
    ///
    /// # Errors
    /// What the writer reports.
    pub fn write_weights(&self, out: &mut dyn io::Write) -> io::Result<()> {
        self.plan.weights.write(&self.plan.graph, out)
    }
}
