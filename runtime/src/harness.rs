//! The `main` of programs that the command `kiln` builds around compiled models: a job from the arguments, values as bytes in and out.
//!
//! A job is a verb and `key=value` arguments. Inputs are a file with a sequence (see `wire`) that holds, for each port, an optional
//! value; outputs are written to a temporary name and renamed, so that a reader never sees half of them.

use crate::model::Model;
use crate::options::{Device, Options, Weights};
use crate::profile::{Event, Profile, json};
use crate::threads::Threads;
use kiln_kernels::isa::Isa;
use kiln_kernels::value::Value;
use kiln_kernels::wire;
use std::any::Any;
use std::collections::BTreeMap;
use std::hint::black_box;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A case of a batch: its name, and what runs its data sets on one instance.
pub type Case = (&'static str, fn(&Options, &[Value]) -> Result<Vec<Value>, String>);

/// What the arguments ask for.
#[derive(Clone, Debug, Default)]
struct Job {
    verb: String,
    values: Vec<(String, String)>,
}

impl Job {
    fn from_args() -> Job {
        let mut args = std::env::args().skip(1);
        let verb = args.next().unwrap_or_default();
        let values = args.filter_map(|a| a.split_once('=').map(|(k, v)| (k.to_string(), v.to_string()))).collect();
        Job { verb, values }
    }
    fn text(&self, key: &str) -> Option<&str> {
        self.values.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }
    fn path(&self, key: &str) -> Result<PathBuf, String> {
        self.text(key).map(PathBuf::from).ok_or(format!("the job names no {key}"))
    }
    fn number(&self, key: &str) -> Result<Option<u128>, String> {
        self.text(key).map(|v| v.parse().map_err(|_| format!("{key}={v} is no number"))).transpose()
    }
    fn options(&self) -> Result<Options, String> {
        let mut out = Options::default();
        if let Some(n) = self.number("threads")? {
            out = out.threads(Threads::new((n as usize).max(1)));
        }
        match self.text("device") {
            None => {}
            Some("cpu") => out = out.device(Device::Cpu),
            Some("cuda") => out = out.device(Device::Cuda(0)),
            Some(other) => return Err(format!("there is no device {other}")),
        }
        if let Some(path) = self.text("device_weights") {
            out = out.device_weights(Weights::File(path.into()));
        }
        if self.text("overlap").is_some() {
            out = out.overlap(true);
        }
        if let Some(name) = self.text("isa") {
            out = out.isa(Isa::from_name(name).ok_or(format!("there is no instruction set {name}"))?);
        }
        Ok(out)
    }
}

/// Runs the job of the arguments on one model: `run in= out= [runs=]`, `bench in= warmup= iterations= [spawned=]`, or `profile in= warmup= iterations=
/// [variant=] [out=]`.
pub fn main<M: Model>() -> ExitCode {
    let job = Job::from_args();
    let result = match job.verb.as_str() {
        "run" => run::<M>(&job),
        "bench" => bench::<M>(&job),
        "profile" => profile::<M>(&job),
        other => Err(format!("there is no job \"{other}\"; this program is run by the command kiln")),
    };
    finish(result)
}

fn finish(result: Result<(), String>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn run<M: Model>(job: &Job) -> Result<(), String> {
    let given = inputs(&job.path("in")?)?;
    let mut model = M::with(&job.options()?).map_err(|e| e.to_string())?;
    let named = named::<M>(&given);
    for _ in 1..job.number("runs")?.unwrap_or(1) {
        black_box(model.run_dyn(&named).map_err(|e| e.to_string())?);
    }
    let found = model.run_dyn(&named).map_err(|e| e.to_string())?;
    save(&job.path("out")?, &Value::Sequence(found))
}

/// Runs the data sets of a case: each a sequence of optional inputs, each answered by a sequence of outputs.
///
/// # Errors
/// What the runtime answers.
pub fn sets<M: Model>(options: &Options, sets: &[Value]) -> Result<Vec<Value>, String> {
    let mut model = M::with(options).map_err(|e| e.to_string())?;
    let one = |set: &Value| {
        let given = unwrapped(set.clone())?;
        model.run_dyn(&named::<M>(&given)).map(Value::Sequence).map_err(|e| e.to_string())
    };
    sets.iter().map(one).collect()
}

/// Runs many cases one after the other: `batch dir= from=`. Case `i` reads `i.in` (a sequence of data sets) and `i.bin` (its weights), and
/// writes `i.out`. A line is printed before a case, and one after it, so that whoever started this knows which case ended it.
pub fn main_many(cases: &[Case]) -> ExitCode {
    let job = Job::from_args();
    let all = || {
        let dir = job.path("dir")?;
        let from = job.number("from")?.unwrap_or(0) as usize;
        for (name, case) in cases.iter().skip(from) {
            say(&format!("start {name}"));
            let one = || -> Result<(), String> {
                let Value::Sequence(sets) = load(&dir.join(format!("{name}.in")))? else {
                    return Err("the data sets are no sequence".into());
                };
                let options = job.options()?.weights(Weights::File(dir.join(format!("{name}.bin"))));
                save(&dir.join(format!("{name}.out")), &Value::Sequence(case(&options, &sets)?))
            };
            let result = catch_unwind(AssertUnwindSafe(one)).unwrap_or_else(|e| Err(format!("panic: {}", panic_text(&*e))));
            match result {
                Ok(()) => say(&format!("ok {name}")),
                Err(e) => say(&format!("error {name} {}", e.replace('\n', " "))),
            }
        }
        Ok(())
    };
    finish(all())
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // A reader that went away is noticed when it waits for this process.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

fn panic_text(e: &(dyn Any + Send)) -> String {
    match (e.downcast_ref::<&str>(), e.downcast_ref::<String>()) {
        (Some(s), _) => s.to_string(),
        (_, Some(s)) => s.clone(),
        _ => "without a message".into(),
    }
}

fn load(path: &Path) -> Result<Value, String> {
    let bytes = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let mut rest = bytes.as_slice();
    wire::read(&mut rest).filter(|_| rest.is_empty()).ok_or(format!("{} holds no value", path.display()))
}

fn save(path: &Path, value: &Value) -> Result<(), String> {
    let mut bytes = Vec::new();
    wire::write(value, &mut bytes);
    let temporary = path.with_extension("part");
    let at = |e: std::io::Error| format!("{}: {e}", path.display());
    std::fs::write(&temporary, bytes).map_err(at)?;
    std::fs::rename(&temporary, path).map_err(at)
}

fn inputs(path: &Path) -> Result<Vec<Option<Value>>, String> {
    unwrapped(load(path)?)
}

fn unwrapped(set: Value) -> Result<Vec<Option<Value>>, String> {
    let Value::Sequence(items) = set else {
        return Err("the inputs are no sequence".into());
    };
    let one = |v| match v {
        Value::Optional(v) => Ok(v.map(|v| *v)),
        _ => Err("an input is no optional value".to_string()),
    };
    items.into_iter().map(one).collect()
}

fn named<M: Model>(given: &[Option<Value>]) -> Vec<(&'static str, &Value)> {
    M::inputs().iter().zip(given).filter_map(|(p, v)| v.as_ref().map(|v| (p.name, v))).collect()
}

/// Times a model and prints one line of JSON. `iterations=0` repeats for about two seconds, 5 to 1000 times. A state that grows has `past=`
/// rows when a run begins, or as many as leave room for it.
fn bench<M: Model>(job: &Job) -> Result<(), String> {
    let given = inputs(&job.path("in")?)?;
    let options = job.options()?;
    let made = Instant::now();
    let mut model = M::with(&options).map_err(|e| e.to_string())?;
    let new_ms = ms(made.elapsed());
    let named = named::<M>(&given);
    let past = match (job.number("past")?, model.instance().state().capacity()) {
        (Some(n), capacity) if n > capacity as u128 => return Err(format!("a past of {n} rows is more than the capacity, {capacity}")),
        (Some(n), _) => n as usize,
        (None, 0) => 0,
        (None, capacity) => {
            model.run_dyn(&named).map_err(|e| e.to_string())?;
            capacity - model.instance().state().len()
        }
    };
    let mut once = || -> Result<f64, String> {
        model.instance_mut().state_mut().assume(past);
        let start = Instant::now();
        black_box(model.run_dyn(&named).map_err(|e| e.to_string())?);
        Ok(ms(start.elapsed()))
    };
    let mut last = once()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let first_ms = match job.number("spawned")? {
        Some(n) => (now.as_nanos().saturating_sub(n)) as f64 / 1e6,
        None => ms(made.elapsed()),
    };
    let warmup = job.number("warmup")?.unwrap_or(3) as usize;
    for _ in 0..warmup {
        last = once()?;
    }
    let iterations = match job.number("iterations")?.unwrap_or(0) as usize {
        0 => (2000.0 / last.max(1e-3)).clamp(5.0, 1000.0) as usize,
        n => n,
    };
    let mut times = (0..iterations).map(|_| once()).collect::<Result<Vec<f64>, String>>()?;
    let device = device_times::<M>(&mut model, &named, past, warmup, iterations)?;
    times.sort_by(f64::total_cmp);
    let n = times.len() as f64;
    let mean = times.iter().sum::<f64>() / n;
    let std = (times.iter().map(|t| (t - mean).powi(2)).sum::<f64>() / n).sqrt();
    let at = |p: f64| times[((times.len() - 1) as f64 * p).round() as usize];
    println!(
        "{{\"threads\":{},\"isa\":\"{}\",\"warmup\":{warmup},\"iterations\":{iterations},\"min_ms\":{},\"mean_ms\":{mean},\"std_ms\":{std},\
         \"p50_ms\":{},\"p95_ms\":{},\"p99_ms\":{},\"max_ms\":{},\"per_second\":{},\"new_ms\":{new_ms},\"first_ms\":{first_ms},\"rss_bytes\":{}{device}}}",
        model.instance().threads().workers(),
        model.instance().isa().name(),
        times[0],
        at(0.5),
        at(0.95),
        at(0.99),
        times[times.len() - 1],
        1e3 / mean.max(1e-9),
        peak_rss()
    );
    Ok(())
}

/// What runs take by the clock of the GPU, as members of an object of JSON; nothing on the CPU. Only these runs pay for events.
fn device_times<M: Model>(
    model: &mut M,
    given: &[(&'static str, &Value)],
    past: usize,
    warmup: usize,
    iterations: usize,
) -> Result<String, String> {
    if model.instance().gpu().is_none() {
        return Ok(String::new());
    }
    model.instance_mut().time_device(true);
    let (mut runs, mut kernels) = (Vec::new(), Vec::new());
    // The first run of a shape goes by single launches, the second one makes the recording.
    for i in 0..iterations + warmup.max(2) {
        model.instance_mut().state_mut().assume(past);
        black_box(model.run_dyn(given).map_err(|e| e.to_string())?);
        if let (true, Some(t)) = (i >= warmup.max(2), model.instance().device_time()) {
            runs.push(t.run);
            kernels.push(t.kernels);
        }
    }
    model.instance_mut().time_device(false);
    let middle = |times: &mut Vec<f64>| {
        times.sort_by(f64::total_cmp);
        times.get(times.len() / 2).copied().unwrap_or(0.0)
    };
    let (run, kernels) = (middle(&mut runs), middle(&mut kernels));
    let least = runs.first().copied().unwrap_or(0.0);
    Ok(format!(",\"gpu_ms\":{run},\"gpu_min_ms\":{least},\"gpu_kernels_ms\":{kernels}"))
}

/// Records runs step by step and prints a line of JSON, with an object for each step; writes a trace where `out` says so.
fn profile<M: Model>(job: &Job) -> Result<(), String> {
    let given = inputs(&job.path("in")?)?;
    let profile = Profile::new();
    let mut model = M::with(&job.options()?.profile(profile.clone())).map_err(|e| e.to_string())?;
    if let Some(n) = job.number("variant")? {
        model.instance_mut().set_variant(n as usize);
    }
    let named = named::<M>(&given);
    for _ in 0..job.number("warmup")?.unwrap_or(3) {
        black_box(model.run_dyn(&named).map_err(|e| e.to_string())?);
    }
    profile.clear();
    for _ in 0..job.number("iterations")?.unwrap_or(10).max(1) {
        black_box(model.run_dyn(&named).map_err(|e| e.to_string())?);
    }
    let mut steps: BTreeMap<usize, Vec<Event>> = BTreeMap::new();
    profile.events().into_iter().for_each(|e| steps.entry(e.step).or_default().push(e));
    let layers: Vec<String> = steps.values().map(|events| layer(events)).collect();
    let isa = model.instance().isa();
    let gpu = model.instance().gpu().map_or("null".into(), |g| json(&g));
    let workers = model.instance().threads().workers();
    println!("{{\"threads\":{workers},\"isa\":\"{}\",\"gpu\":{gpu},\"layers\":[{}]}}", isa.name(), layers.join(","));
    match job.path("out") {
        Err(_) => Ok(()),
        Ok(path) => {
            let file = std::fs::File::create(&path).map_err(|e| format!("{}: {e}", path.display()))?;
            let mut file = std::io::BufWriter::new(file);
            let done = profile.write_trace(&mut file).and_then(|()| file.flush());
            done.map_err(|e| format!("{}: {e}", path.display()))
        }
    }
}

/// What the events of one step say, as JSON; times of one execution, in microseconds.
fn layer(events: &[Event]) -> String {
    let us = |e: &Event| e.duration.as_nanos() as f64 / 1e3;
    let (e, n) = (&events[0], events.len() as f64);
    let nodes: Vec<String> = e.nodes().map(json).collect();
    format!(
        "{{\"step\":{},\"name\":{},\"kernel\":{},\"algorithm\":{},\"what\":{},\"nodes\":[{}],\"flops\":{},\"bytes_read\":{},\"bytes_written\":{},\
         \"gpu\":{},\"calls\":{},\"min_us\":{},\"mean_us\":{}}}",
        e.step,
        json(&e.name()),
        json(e.kernel()),
        json(e.algorithm),
        json(e.what()),
        nodes.join(","),
        e.work.flops,
        e.work.read,
        e.work.written,
        e.gpu,
        events.len(),
        events.iter().map(us).fold(f64::INFINITY, f64::min),
        events.iter().map(us).sum::<f64>() / n
    )
}

fn ms(d: Duration) -> f64 {
    d.as_secs_f64() * 1e3
}

/// The most memory this process held, where the system tells.
fn peak_rss() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = status.lines().find_map(|l| l.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse::<usize>().ok());
    kib.unwrap_or(0) * 1024
}
