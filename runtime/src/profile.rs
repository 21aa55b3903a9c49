//! `Profile`: what each step of a model's runs took, by the ONNX nodes it computes, for reading in code or in a trace viewer.

use crate::spec::{Algorithm, Kernel, Spec, Work};
use kiln_kernels::isa::Isa;
use std::fmt::Write as _;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A record of runs, shared by its clones and by all instances that were made with it in their [`Options`](crate::Options). An instance
/// made without one records nothing, and pays a comparison for each step.
///
/// ```ignore
/// let profile = kiln::Profile::new();
/// let mut net = Resnet50::with(&kiln::Options::default().profile(profile.clone()))?;
/// net.run(&image)?;
/// for e in profile.events() {
///     println!("{:?} {} {:.1} GFLOP/s", e.duration, e.name(), e.work.flops as f64 / e.duration.as_nanos() as f64);
/// }
/// profile.write_trace(&mut std::fs::File::create("trace.json")?)?; // https://ui.perfetto.dev opens it
/// ```
#[derive(Clone, Debug)]
pub struct Profile(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    start: Instant,
    record: Mutex<Record>,
}

#[derive(Debug, Default)]
struct Record {
    instances: Vec<&'static str>,
    runs: Vec<Run>,
    events: Vec<Event>,
}

/// A run as a whole.
#[derive(Clone, Copy, Debug)]
struct Run {
    instance: usize,
    run: usize,
    start: Duration,
    duration: Duration,
}

/// One step of one run.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Event {
    /// The name of the model's struct.
    pub model: &'static str,
    /// Which instance ran, in the order in which they were made with the profile.
    pub instance: usize,
    /// Which run of that instance, from 0.
    pub run: usize,
    /// Which step of the plan, from 0; a step in a loop has an event for each iteration.
    pub step: usize,
    /// How the step computes its result, on the machine that ran it.
    pub algorithm: &'static str,
    /// Operations and bytes, by the extents of the run.
    pub work: Work,
    /// The instruction set in use.
    pub isa: Isa,
    /// Workers of the instance.
    pub threads: usize,
    /// When the step began, from when the profile was made.
    pub start: Duration,
    /// How long it took.
    pub duration: Duration,
    /// Whether a GPU computed it. Start and duration are by its clock then, from when its first kernel of the run began.
    pub gpu: bool,
    /// What each worker had of it, where the step was spread over the threads.
    pub workers: Vec<Share>,
    kernel: &'static Kernel,
    lines: &'static [&'static str],
}

/// A worker's part of a step: from when its first task began until its last one ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Share {
    /// The worker; 0 is the thread that called `run`.
    pub worker: usize,
    /// Tasks.
    pub tasks: u64,
    /// When its first task began, from when the profile was made.
    pub start: Duration,
    /// From then until its last task ended.
    pub duration: Duration,
}

impl Event {
    /// The kind of kernel, such as `conv`.
    pub fn kernel(&self) -> &'static str {
        self.kernel.kind
    }
    /// What the kernel computes, with the types of its operands.
    pub fn what(&self) -> &'static str {
        self.kernel.what
    }
    /// The ONNX nodes that the step computes, as errors name them; none for a copy between layouts.
    pub fn nodes(&self) -> impl Iterator<Item = &'static str> {
        let lines = self.lines;
        self.kernel.nodes.iter().filter_map(move |n| lines.get(*n as usize).copied())
    }
    /// The names of the ONNX nodes, in brief: the operator where a node has none, the kind of kernel where there is no node.
    pub fn name(&self) -> String {
        const SHOWN: usize = 3;
        let names: Vec<&str> = self.nodes().map(short).collect();
        match names.len() {
            0 => self.kernel.kind.to_string(),
            n if n > SHOWN => format!("{} + {} more", names[..SHOWN].join(" + "), n - SHOWN),
            _ => names.join(" + "),
        }
    }
}

/// The name in a line such as `node 17 "layer1.0/conv" (Conv, opset 13)`, or its operator where the name is empty.
fn short(line: &'static str) -> &'static str {
    let (Some(from), Some(to)) = (line.find('"'), line.rfind("\" (")) else { return line };
    match line.get(from + 1..to) {
        Some(name) if !name.is_empty() => name,
        _ => line[to + 3..].split([',', ')']).next().unwrap_or(line),
    }
}

impl Default for Profile {
    fn default() -> Profile {
        Profile::new()
    }
}

impl Profile {
    /// An empty one; its clock starts.
    pub fn new() -> Profile {
        Profile(Arc::new(Shared { start: Instant::now(), record: Mutex::default() }))
    }
    fn record(&self) -> MutexGuard<'_, Record> {
        self.0.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// Forgets what was recorded so far, as after runs that warmed up.
    pub fn clear(&self) {
        let mut r = self.record();
        r.runs.clear();
        r.events.clear();
    }
    /// The steps of all runs that have ended, each run's in order.
    pub fn events(&self) -> Vec<Event> {
        self.record().events.clone()
    }
    /// Writes what was recorded in the Trace Event Format, as JSON that <https://ui.perfetto.dev> and `chrome://tracing` open: an instance is
    /// a track with its runs and their steps, and one for each of its workers. Times are in microseconds.
    ///
    /// # Errors
    /// What the writer reports.
    pub fn write_trace(&self, out: &mut dyn io::Write) -> io::Result<()> {
        let r = self.record();
        let workers = r.events.iter().map(|e| e.threads).max().unwrap_or(0);
        let track = |instance: usize, worker: Option<usize>| instance * (workers + 1) + worker.map_or(0, |w| w + 1);
        let mut lines = vec!["{\"ph\":\"M\",\"pid\":1,\"name\":\"process_name\",\"args\":{\"name\":\"kiln\"}}".to_string()];
        let mut name = |tid: usize, text: String| {
            let name = json(&text);
            lines.push(format!("{{\"ph\":\"M\",\"pid\":1,\"tid\":{tid},\"name\":\"thread_name\",\"args\":{{\"name\":{name}}}}}"));
            lines
                .push(format!("{{\"ph\":\"M\",\"pid\":1,\"tid\":{tid},\"name\":\"thread_sort_index\",\"args\":{{\"sort_index\":{tid}}}}}"));
        };
        for (i, model) in r.instances.iter().enumerate() {
            name(track(i, None), format!("{model} {i}"));
            let spread = r.events.iter().filter(|e| e.instance == i && e.threads > 1);
            let most = spread.flat_map(|e| &e.workers).map(|s| s.worker).max();
            (0..most.map_or(0, |w| w + 1)).for_each(|w| name(track(i, Some(w)), format!("{model} {i}, worker {w}")));
        }
        for run in &r.runs {
            let args = format!("{{\"run\":{}}}", run.run);
            lines.push(slice(track(run.instance, None), "run", &format!("run {}", run.run), (run.start, run.duration), &args));
        }
        for e in &r.events {
            let (name, args) = (e.name(), e.args());
            lines.push(slice(track(e.instance, None), "step", &name, (e.start, e.duration), &args));
            // One worker has what the step has.
            for s in e.workers.iter().filter(|_| e.threads > 1) {
                let args = format!("{{\"step\":{},\"tasks\":{}}}", e.step, s.tasks);
                lines.push(slice(track(e.instance, Some(s.worker)), "worker", &name, (s.start, s.duration), &args));
            }
        }
        write!(out, "{{\"displayTimeUnit\":\"ns\",\"traceEvents\":[\n{}\n]}}\n", lines.join(",\n"))
    }
}

impl Event {
    /// The event's arguments in a trace.
    fn args(&self) -> String {
        let ns = self.duration.as_nanos().max(1) as f64;
        let (w, nodes) = (self.work, self.nodes().map(json).collect::<Vec<_>>().join(","));
        format!(
            "{{\"run\":{},\"step\":{},\"kernel\":{},\"algorithm\":{},\"what\":{},\"nodes\":[{nodes}],\"flops\":{},\"bytes_read\":{},\
             \"bytes_written\":{},\"gflops_per_second\":{:.3},\"gbytes_per_second\":{:.3},\"isa\":{},\"threads\":{},\"gpu\":{}}}",
            self.run,
            self.step,
            json(self.kernel.kind),
            json(self.algorithm),
            json(self.kernel.what),
            w.flops,
            w.read,
            w.written,
            w.flops as f64 / ns,
            w.read.saturating_add(w.written) as f64 / ns,
            json(self.isa.name()),
            self.threads,
            self.gpu
        )
    }
}

/// A complete event of a trace.
fn slice(tid: usize, category: &str, name: &str, (start, duration): (Duration, Duration), args: &str) -> String {
    let us = |d: Duration| d.as_nanos() as f64 / 1e3;
    let name = json(name);
    format!(
        "{{\"ph\":\"X\",\"pid\":1,\"tid\":{tid},\"cat\":\"{category}\",\"name\":{name},\"ts\":{:.3},\"dur\":{:.3},\"args\":{args}}}",
        us(start),
        us(duration)
    )
}

/// Text as a string of JSON.
pub(crate) fn json(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if (c as u32) < 32 => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

impl Algorithm {
    /// What the machine makes of it under an instruction set.
    pub(crate) fn name(self, isa: Isa) -> &'static str {
        match self {
            Algorithm::Vectors => "vectors",
            Algorithm::MultiplyAdds => "multiply-adds",
            Algorithm::Digits if isa == Isa::Amx => "digits",
            Algorithm::Digits => "multiply-adds",
            Algorithm::FewBits => "few bits",
            Algorithm::Winograd2 => "F(2, 3)",
            Algorithm::Winograd4 => "F(4, 3)",
            Algorithm::Bytes if isa.has_tiles() => "bytes by tiles",
            Algorithm::Bytes | Algorithm::BytesAlone if isa.adds_fours() => "bytes by fours",
            Algorithm::Bytes | Algorithm::BytesAlone => "bytes",
        }
    }
}

/// When a worker's tasks of the current step ran, in nanoseconds; a line of the cache of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Span {
    tasks: AtomicU64,
    first: AtomicU64,
    last: AtomicU64,
}

/// What records the runs of one instance.
#[derive(Debug)]
pub(crate) struct Recorder {
    profile: Profile,
    spec: &'static Spec,
    instance: usize,
    run: usize,
    began: Duration,
    events: Vec<Event>,
    /// Which of the events a GPU timed, and their numbers there.
    timed: Vec<(usize, usize)>,
    spans: Box<[Span]>,
}

impl Recorder {
    /// For a new instance with so many workers.
    pub(crate) fn new(profile: &Profile, spec: &'static Spec, workers: usize) -> Recorder {
        let instance = {
            let mut r = profile.record();
            r.instances.push(spec.name);
            r.instances.len() - 1
        };
        let spans = (0..workers).map(|_| Span::default()).collect();
        Recorder { profile: profile.clone(), spec, instance, run: 0, began: Duration::ZERO, events: Vec::new(), timed: Vec::new(), spans }
    }
    /// The profile it records for.
    pub(crate) fn profile(&self) -> &Profile {
        &self.profile
    }
    fn now(&self) -> Duration {
        self.profile.0.start.elapsed()
    }
    /// A run begins.
    pub(crate) fn begin(&mut self) {
        self.events.clear();
        self.timed.clear();
        self.began = self.now();
    }
    /// Puts the times in by which a GPU computed its steps: when each began, from when its first one did, and what it took, in milliseconds.
    pub(crate) fn settle(&mut self, step: impl Fn(usize) -> Option<(f64, f64)>) {
        let first = self.timed.first().map_or(Duration::ZERO, |(event, _)| self.events[*event].start);
        for (event, timed) in std::mem::take(&mut self.timed) {
            let Some((start, took)) = step(timed) else { continue };
            let after = |ms: f64| Duration::from_secs_f64(ms.max(0.0) / 1e3);
            let e = &mut self.events[event];
            (e.gpu, e.start, e.duration) = (true, first + after(start), after(took));
        }
    }
    /// It has ended: what was recorded is shared.
    pub(crate) fn end(&mut self) {
        let run = Run { instance: self.instance, run: self.run, start: self.began, duration: self.now() - self.began };
        self.run += 1;
        let mut r = self.profile.record();
        r.runs.push(run);
        r.events.append(&mut self.events);
    }
    /// A step begins.
    pub(crate) fn before(&mut self) -> Duration {
        self.spans.iter_mut().for_each(|s| *s = Span::default());
        self.now()
    }
    /// The step has ended; a GPU has it under that number, where it does.
    pub(crate) fn after(&mut self, step: usize, start: Duration, isa: Isa, syms: &[i64], timed: Option<usize>) {
        let (end, spec) = (self.now(), self.spec);
        let Some(kernel) = spec.kernels.get(step) else { return };
        let share = |(worker, s): (usize, &mut Span)| {
            let (tasks, first, last) = (*s.tasks.get_mut(), *s.first.get_mut(), *s.last.get_mut());
            let (start, duration) = (Duration::from_nanos(first), Duration::from_nanos(last.saturating_sub(first)));
            (tasks > 0).then_some(Share { worker, tasks, start, duration })
        };
        let workers: Vec<Share> = self.spans.iter_mut().enumerate().filter_map(share).collect();
        self.timed.extend(timed.map(|timed| (self.events.len(), timed)));
        self.events.push(Event {
            model: spec.name,
            instance: self.instance,
            run: self.run,
            step,
            algorithm: kernel.algorithm.name(isa),
            work: (spec.work)(step, syms),
            isa,
            threads: self.spans.len(),
            start,
            duration: end - start,
            gpu: false,
            workers,
            kernel,
            lines: spec.nodes,
        });
    }
    /// Runs a task of the current step on a worker.
    pub(crate) fn task(&self, worker: usize, f: impl FnOnce()) {
        let Some(span) = self.spans.get(worker) else { return f() };
        let nanos = || self.now().as_nanos() as u64;
        // Only this worker writes its span, and the pool's end of the loop comes before it is read.
        if span.tasks.fetch_add(1, Relaxed) == 0 {
            span.first.store(nanos(), Relaxed);
        }
        f();
        span.last.store(nanos(), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_from_lines() {
        assert_eq!(short("node 17 \"layer1.0/conv\" (Conv, opset 13)"), "layer1.0/conv");
        assert_eq!(short("node 0 \"\" (Gemm, opset 17)"), "Gemm");
        assert_eq!(short("node 0 \"\" (com.example.Gemm, opset 1)"), "com.example.Gemm");
        assert_eq!(short("node 3 \"a\\\" (b\" (Relu, opset 17)"), "a\\\" (b");
        assert_eq!(short("anything else"), "anything else");
    }

    #[test]
    fn text_is_json() {
        assert_eq!(json("a\"b\\c\n\u{1f}é"), "\"a\\\"b\\\\c\\u000a\\u001fé\"");
    }

    #[test]
    fn algorithms_depend_on_the_machine() {
        assert_eq!(Algorithm::Digits.name(Isa::Amx), "digits");
        assert_eq!(Algorithm::Digits.name(Isa::Avx512), "multiply-adds");
        assert_eq!(Algorithm::Bytes.name(Isa::Avx2), "bytes");
        assert_eq!(Algorithm::Winograd4.name(Isa::Portable), "F(4, 3)");
    }
}
