//! Kernels over rows on a GPU: normalizations, softmax, reductions, with pointwise parts around them.

use super::super::Printer;
use super::super::expr::cuda as expr;
use super::sheet::Sheet;
use super::{Kernels, Launch};
use crate::ir::{Dim, ValueId, product};
use crate::kernel::{Kernel, Row, Stage, Stride};
use crate::plan::KernelStep;
use crate::target::cuda::PROCESSORS;
use quote::quote;
use std::fmt::Write;

/// Floats that rows share with the operation on them.
const ROOM: usize = 32;
/// Elements of a row at most that a warp takes.
const WARP: usize = 1024;
/// Warps of a block at most, with a row each.
const ROWS: usize = 4;
/// Elements of a row that a thread keeps in registers at most, and where blocks are so large that registers are few.
const KEPT: [(usize, usize); 2] = [(256, 32), (1024, 16)];

/// Where the elements of rows lie while a kernel has them.
struct Team {
    /// Neighbours of a row that a thread reads and writes together.
    neighbours: usize,
    /// Threads that share a row: a warp, or a block.
    threads: usize,
    /// Whether their registers hold it.
    kept: bool,
}

impl Team {
    fn new(n: usize, neighbours: usize) -> Team {
        let chunks = n.div_ceil(neighbours);
        let threads = if n <= WARP { 32 } else { chunks.div_ceil(2).next_multiple_of(32).clamp(64, 1024) };
        let each = chunks.div_ceil(threads) * neighbours;
        Team { neighbours, threads, kept: KEPT.iter().any(|(most, floats)| threads <= *most && each <= *floats) }
    }
}

impl Printer<'_> {
    /// Statements that find the indices of a stage's axes from `row` and `i` and read `V` neighbours of each operand, and element `k` of those.
    fn stage_loads(&self, s: &mut Sheet<'_>, stage: &Stage) -> (String, Vec<String>) {
        let Stage { dims, outer, operands, .. } = stage;
        let mut before = String::new();
        for (from, axes) in [("row", 0..*outer), ("i", *outer..dims.len())] {
            before += &indices(s, from, &dims[axes.clone()], ('a', axes.start));
        }
        let mut loads = Vec::new();
        for (n, o) in operands.iter().enumerate() {
            let (ty, x, at) = (s.stored(o.value), s.reads(o.value), index(s, &o.strides));
            let element = if repeats(stage, &o.strides) {
                let _ = write!(before, "const {ty} v{n} = {x}[{at}]; ");
                format!("v{n}")
            } else {
                let _ = write!(before, "const Vec<{ty}, V> v{n} = load<V>({x} + ({at})); ");
                format!("v{n}.at[k]")
            };
            loads.push(expr::load(self.dtype(o.value), &element));
        }
        (before, loads)
    }

    /// Neighbours of rows that go together: they lie so in every operand and result, and keep all lanes of a warp busy. One instruction has 16
    /// bytes of what is narrowest, two have those of what is wider.
    fn row_neighbours(&self, step: &KernelStep) -> usize {
        let Kernel::Rows { op, n, x, x_row, out_row, head, tail, .. } = &step.kernel else { return 1 };
        let n = n.as_int().unwrap_or(0).max(0) as usize;
        let folds = matches!(op, Row::Reduce(_));
        let mut lie: Vec<(ValueId, Vec<Stride>)> = Vec::new();
        let row = |d: &Dim| vec![Stride::By(d.clone()), Stride::By(Dim::int(1))];
        lie.extend(x.iter().filter(|_| head.is_none()).chain(step.outputs.get(1)).map(|v| (*v, row(x_row))));
        lie.extend(step.outputs.first().filter(|_| !folds).map(|v| (*v, row(out_row))));
        let stages = || head.iter().chain(tail.iter().filter(|_| !folds));
        for stage in stages() {
            lie.extend(stage.operands.iter().filter(|o| !repeats(stage, &o.strides)).map(|o| (o.value, o.strides.clone())));
        }
        if let Row::Norm { scale, bias, .. } = op {
            lie.extend([Some(*scale), *bias].into_iter().flatten().map(|v| (v, row(&Dim::int(0)))));
        }
        let size = |v: &ValueId| self.plan.stored(*v).size();
        let least = lie.iter().map(|(v, _)| size(v)).min().unwrap_or(4);
        let fits = |by: &usize| {
            let whole = |(v, steps): &(ValueId, Vec<Stride>)| match steps.split_last() {
                Some((last, outer)) => last.is(1) && self.multiples(outer, *by) && self.begins_at(*v, *by) && size(v) * by <= 32,
                None => false,
            };
            let last = |s: &Stage| s.dims.len() > s.outer && s.dims.last().is_some_and(|d| self.multiple(d, *by));
            n.is_multiple_of(*by) && n / by >= 32 && least * by <= 16 && stages().all(last) && lie.iter().all(whole)
        };
        [8, 4, 2].into_iter().find(fits).unwrap_or(1)
    }

    /// The kernel over `rows` rows of `n` elements, and its launch.
    fn launch_rows(
        &self,
        mut s: Sheet<'_>,
        (rows, n, neighbours): (&Dim, &Dim, usize),
        [head, op, tail]: [String; 3],
        kernels: &mut Kernels,
    ) -> Vec<Launch> {
        let n = n.as_int().unwrap_or(0).max(0) as usize;
        let Team { neighbours, threads, kept } = Team::new(n, neighbours);
        s.constants(
            "C",
            &format!("static constexpr int N = {n}, V = {neighbours}, TEAM = {threads}; static constexpr bool KEPT = {kept};"),
        );
        // A row for each processor before one for each warp.
        let warps = match threads {
            32 => rows.as_int().map_or(ROWS, |r| (r.max(0) as usize / PROCESSORS).clamp(1, ROWS)),
            _ => 1,
        };
        let shared = match (threads, kept) {
            (32, true) => 0,
            (_, true) => ROOM,
            _ => ROOM + n,
        };
        let count = s.extent(rows);
        let grid = [self.blocks(rows, warps), quote!(1), quote!(1)];
        let body = format!("rows<@_::C>({head}, {op}, {tail}, {count});");
        s.launch(kernels, grid, threads * warps, shared * size_of::<f32>(), &body)
    }

    pub(super) fn rows_on_gpu(&self, mut s: Sheet<'_>, kernels: &mut Kernels) -> Vec<Launch> {
        let Kernel::Rows { op, rows, n, x, x_row, out_row, head, tail, .. } = &s.step.kernel else { return Vec::new() };
        let (out, kept) = (s.step.outputs[0], s.step.outputs.get(1).copied());
        let neighbours = self.row_neighbours(s.step);
        // The part before: what elements are read from, or made of; where others read them too, they are stored on the way.
        s.begin();
        let mut body = String::from("template <int V>\nKILN_DEVICE Vec<float, V> of(long long row, int i) const { ");
        let (code, value) = match (x, head) {
            (_, Some(stage)) => {
                let (before, loads) = self.stage_loads(&mut s, stage);
                let (code, results) = expr::print(&stage.expr, &loads);
                body += &before;
                (code, results[0].clone())
            }
            (Some(x), None) => {
                let (ty, x, pitch) = (s.stored(*x), s.reads(*x), s.extent(x_row));
                let _ = write!(body, "const Vec<{ty}, V> v0 = load<V>({x} + (row * {pitch} + i)); ");
                (String::new(), "widen(v0.at[k])".to_string())
            }
            (None, None) => (String::new(), "0.0f".to_string()),
        };
        let (mut store, mut also) = (String::new(), String::new());
        if let Some(v) = kept {
            let (o, ty, pitch) = (s.writes(v), s.stored(v), s.extent(x_row));
            let _ = write!(body, "Vec<{ty}, V> z; ");
            let _ = write!(also, "z.at[k] = Narrow<{ty}>::of(y.at[k]); ");
            let _ = write!(store, "store<V>({o} + (row * {pitch} + i), z); ");
        }
        let _ = writeln!(
            body,
            "Vec<float, V> y; KILN_UNROLL\nfor (int k = 0; k < V; k++) {{ {code}y.at[k] = {value}; {also}}} {store}return y; }}"
        );
        let before = s.end("H", &body);
        let operation = self.operation(&mut s, op);
        // The part behind, and the store.
        s.begin();
        let mut body = String::from("template <int V>\nKILN_DEVICE void operator()(long long row, int i, const Vec<float, V>& y) const { ");
        let (code, value) = match tail {
            Some(stage) => {
                let (before, mut loads) = self.stage_loads(&mut s, stage);
                loads.insert(0, "y.at[k]".into());
                let (code, results) = expr::print(&stage.expr, &loads);
                body += &before;
                (code, results[0].clone())
            }
            None => (String::new(), "y.at[k]".to_string()),
        };
        let (o, ty, pitch) = (s.writes(out), s.stored(out), s.extent(out_row));
        let _ = writeln!(
            body,
            "Vec<{ty}, V> z; KILN_UNROLL\nfor (int k = 0; k < V; k++) {{ {code}z.at[k] = Narrow<{ty}>::of({value}); }} store<V>({o} + (row * {pitch} + i), z); }}"
        );
        let behind = s.end("T", &body);
        self.launch_rows(s, (rows, n, neighbours), [before, operation, behind], kernels)
    }

    /// The maker of the operation on rows.
    fn operation(&self, s: &mut Sheet<'_>, op: &Row) -> String {
        let functor = |s: &mut Sheet<'_>, name: &str, before: &str, value: &str| {
            let body = format!(
                "template <int V>\nKILN_DEVICE Vec<float, V> of(long long row, int i) const {{ (void)row; (void)i; {before}Vec<float, V> y; KILN_UNROLL\nfor (int k = 0; k < V; k++) y.at[k] = {value}; return y; }}\n"
            );
            s.end(name, &body)
        };
        match op {
            Row::Norm { epsilon, centred, scale, bias } => {
                let vector = |s: &mut Sheet<'_>, name: &str, v: Option<ValueId>| {
                    s.begin();
                    match v {
                        Some(v) => {
                            let (ty, x) = (s.stored(v), s.reads(v));
                            functor(s, name, &format!("const Vec<{ty}, V> v0 = load<V>({x} + i); "), "widen(v0.at[k])")
                        }
                        None => functor(s, name, "", "0.0f"),
                    }
                };
                let (scale, bias) = (vector(s, "S", Some(*scale)), vector(s, "B", *bias));
                format!("LayerNorm<{centred}, @_::S, @_::B>{{{}, {scale}, {bias}}}", expr::float(*epsilon))
            }
            Row::GroupNorm { epsilon, groups, channels, scale, bias } => {
                let Kernel::Rows { n, .. } = &s.step.kernel else { return String::new() };
                let n = n.clone();
                let channel = |s: &mut Sheet<'_>, name: &str, v: ValueId| {
                    s.begin();
                    let [groups, channels, n] = [groups, channels, &n].map(|d| s.extent(d));
                    let x = s.reads(v);
                    functor(s, name, "", &format!("widen({x}[row % {groups} * {channels} + (i + k) / ({n} / {channels})])"))
                };
                let (scale, bias) = (channel(s, "S", *scale), channel(s, "B", *bias));
                format!("LayerNorm<true, @_::S, @_::B>{{{}, {scale}, {bias}}}", expr::float(*epsilon))
            }
            Row::Softmax { log } => format!("Softmax<{log}>{{}}"),
            Row::LpNorm { p, floor } => format!("LpNorm<{p}>{{{}}}", expr::float(*floor)),
            Row::Reduce(fold) => format!("Reduce<Fold::{fold}>{{}}"),
        }
    }

    pub(super) fn softmax_on_gpu(&self, mut s: Sheet<'_>, kernels: &mut Kernels) -> Vec<Launch> {
        let Kernel::Softmax { dims, log, x } = &s.step.kernel else { return Vec::new() };
        let out = s.step.outputs[0];
        // Elements of a row are as far apart as the axes behind it are long, so they come one by one.
        let place = |s: &mut Sheet<'_>| {
            let (n, inner) = (s.extent(&dims[1]), s.extent(&dims[2]));
            format!("row / {inner} * {n} * {inner} + i * {inner} + row % {inner}")
        };
        s.begin();
        let (x, at) = (s.reads(*x), place(&mut s));
        let before = s.end(
            "H",
            &format!("template <int V>\nKILN_DEVICE Vec<float, V> of(long long row, int i) const {{ return Vec<float, V>{{{{widen({x}[{at}])}}}}; }}\n"),
        );
        s.begin();
        let (o, ty, at) = (s.writes(out), s.stored(out), place(&mut s));
        let body = format!(
            "template <int V>\nKILN_DEVICE void operator()(long long row, int i, const Vec<float, V>& y) const {{ {o}[{at}] = Narrow<{ty}>::of(y.at[0]); }}\n"
        );
        let behind = s.end("T", &body);
        let rows = dims[0].clone() * dims[2].clone();
        self.launch_rows(s, (&rows, &dims[1], 1), [before, format!("Softmax<{log}>{{}}"), behind], kernels)
    }
}

/// Statements that find the indices of axes, named by a letter and a number from `first` on, from the number `from`. Divisions are those of 32 bits where these
/// suffice.
pub(super) fn indices(s: &mut Sheet<'_>, from: &str, dims: &[Dim], (letter, first): (char, usize)) -> String {
    let small = product(dims).as_int().is_some_and(|n| n < 1 << 31);
    let mut out = format!("{} q_{from} = {from}; ", if small { "unsigned" } else { "long long" });
    for (i, d) in dims.iter().enumerate().rev() {
        let d = s.extent(d);
        let d = if small { format!("{d}u") } else { d };
        let _ = write!(out, "const long long {letter}{} = q_{from} % {d}; q_{from} /= {d}; ", first + i);
    }
    out
}

/// Whether one element of an operand serves all neighbours in a row of a stage.
fn repeats(stage: &Stage, strides: &[Stride]) -> bool {
    stage.dims.len() <= stage.outer || strides.last().is_none_or(|s| s.is(0))
}

/// The place of an element with the indices `a0`, `a1` ..
pub(super) fn index(s: &mut Sheet<'_>, strides: &[Stride]) -> String {
    let mut terms = Vec::new();
    for (axis, by) in strides.iter().enumerate().filter(|(_, by)| !by.is(0)) {
        let by = s.stride(by);
        terms.push(format!("a{axis} * {by}"));
    }
    if terms.is_empty() { "0".into() } else { terms.join(" + ") }
}
