//! Kernels over rows on a GPU: normalizations, softmax, reductions, with pointwise parts around them.

use super::super::Printer;
use super::super::expr::cuda as expr;
use super::sheet::Sheet;
use super::{Kernels, Launch};
use crate::ir::{Dim, ValueId};
use crate::kernel::{Kernel, Row, Stage, Stride};
use quote::quote;
use std::fmt::Write;

/// Floats that rows share with the operation on them.
const ROOM: usize = 32;

/// Threads of a block for rows of that length.
fn threads(n: &Dim) -> usize {
    let n = n.as_int().unwrap_or(256).max(1) as usize;
    n.div_ceil(4).next_multiple_of(32).clamp(32, 256)
}

impl Printer<'_> {
    /// Statements that find the indices of a stage's axes from `row` and `i`, and the operands' elements.
    fn stage_loads(&self, s: &mut Sheet<'_>, stage: &Stage) -> (String, Vec<String>) {
        let Stage { dims, outer, operands, .. } = stage;
        let mut before = String::from("long long q = row; ");
        for axis in (0..*outer).rev() {
            let d = s.extent(&dims[axis]);
            let _ = write!(before, "const long long a{axis} = q % {d}; q /= {d}; ");
        }
        before.push_str("q = i; ");
        for axis in (*outer..dims.len()).rev() {
            let d = s.extent(&dims[axis]);
            let _ = write!(before, "const long long a{axis} = q % {d}; q /= {d}; ");
        }
        let loads = operands.iter().map(|o| {
            let x = s.reads(o.value);
            let at = index(s, &o.strides);
            expr::load(self.dtype(o.value), &format!("{x}[{at}]"))
        });
        let loads = loads.collect();
        (before, loads)
    }

    pub(super) fn rows_on_gpu(&self, mut s: Sheet<'_>, kernels: &mut Kernels) -> Vec<Launch> {
        let Kernel::Rows { op, rows, n, x, x_row, out_row, head, tail, .. } = &s.step.kernel else { return Vec::new() };
        let (out, kept) = (s.step.outputs[0], s.step.outputs.get(1).copied());
        // The part before: what an element is read from, or made of; where others read it too, it is stored on the way.
        s.begin();
        let mut body = String::from("KILN_DEVICE float operator()(long long row, int i) const { ");
        let value = match (x, head) {
            (_, Some(stage)) => {
                let (before, loads) = self.stage_loads(&mut s, stage);
                let (code, results) = expr::print(&stage.expr, &loads);
                body += &before;
                body += &code;
                results[0].clone()
            }
            (Some(x), None) => {
                let (x, pitch) = (s.reads(*x), s.extent(x_row));
                format!("widen({x}[row * {pitch} + i])")
            }
            (None, None) => "0.0f".to_string(),
        };
        match kept {
            Some(v) => {
                let (o, ty, pitch) = (s.writes(v), s.stored(v), s.extent(x_row));
                let _ = writeln!(body, "{ty} y = Narrow<{ty}>::of({value}); {o}[row * {pitch} + i] = y; return {value}; }}");
            }
            None => {
                let _ = writeln!(body, "return {value}; }}");
            }
        }
        let before = s.end("H", &body);
        let operation = self.operation(&mut s, op);
        // The part behind, and the store.
        s.begin();
        let mut body = String::from("KILN_DEVICE void operator()(long long row, int i, float y) const { ");
        let value = match tail {
            Some(stage) => {
                let (before, mut loads) = self.stage_loads(&mut s, stage);
                loads.insert(0, "y".into());
                let (code, results) = expr::print(&stage.expr, &loads);
                body += &before;
                body += &code;
                results[0].clone()
            }
            None => "y".to_string(),
        };
        let (o, ty, pitch) = (s.writes(out), s.stored(out), s.extent(out_row));
        let _ = writeln!(body, "{o}[row * {pitch} + i] = Narrow<{ty}>::of({value}); }}");
        let behind = s.end("T", &body);
        let length = s.extent(n);
        let shared = (ROOM + n.as_int().unwrap_or(0).max(0) as usize) * size_of::<f32>();
        let grid = [self.dim(rows), quote!(1), quote!(1)];
        s.launch(kernels, grid, threads(n), shared, &format!("rows({before}, {operation}, {behind}, int({length}));"))
    }

    /// The maker of the operation on rows.
    fn operation(&self, s: &mut Sheet<'_>, op: &Row) -> String {
        let vector = |s: &mut Sheet<'_>, name: &str, v: Option<ValueId>, at: &dyn Fn(&mut Sheet<'_>) -> String, none: &str| {
            s.begin();
            let value = match v {
                Some(v) => {
                    let (x, at) = (s.reads(v), at(s));
                    format!("widen({x}[{at}])")
                }
                None => none.to_string(),
            };
            s.end(name, &format!("KILN_DEVICE float operator()(long long row, int i) const {{ (void)row; (void)i; return {value}; }}\n"))
        };
        match op {
            Row::Norm { epsilon, centred, scale, bias } => {
                let at = |_: &mut Sheet<'_>| "i".to_string();
                let (scale, bias) = (vector(s, "S", Some(*scale), &at, "1.0f"), vector(s, "B", *bias, &at, "0.0f"));
                format!("LayerNorm<{centred}, @_::S, @_::B>{{{}, {scale}, {bias}}}", expr::float(*epsilon))
            }
            Row::GroupNorm { epsilon, groups, channels, scale, bias } => {
                let Kernel::Rows { n, .. } = &s.step.kernel else { return String::new() };
                let n = n.clone();
                let at = move |s: &mut Sheet<'_>| {
                    let [groups, channels, n] = [groups, channels, &n].map(|d| s.extent(d));
                    format!("row % {groups} * {channels} + i / ({n} / {channels})")
                };
                let (scale, bias) = (vector(s, "S", Some(*scale), &at, "1.0f"), vector(s, "B", Some(*bias), &at, "0.0f"));
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
        let place = |s: &mut Sheet<'_>| {
            let (n, inner) = (s.extent(&dims[1]), s.extent(&dims[2]));
            format!("row / {inner} * {n} * {inner} + i * {inner} + row % {inner}")
        };
        s.begin();
        let (x, at) = (s.reads(*x), place(&mut s));
        let before = s.end("H", &format!("KILN_DEVICE float operator()(long long row, int i) const {{ return widen({x}[{at}]); }}\n"));
        s.begin();
        let (o, ty, at) = (s.writes(out), s.stored(out), place(&mut s));
        let body = format!("KILN_DEVICE void operator()(long long row, int i, float y) const {{ {o}[{at}] = Narrow<{ty}>::of(y); }}\n");
        let behind = s.end("T", &body);
        let length = s.extent(&dims[1]);
        let shared = (ROOM + dims[1].as_int().unwrap_or(0).max(0) as usize) * size_of::<f32>();
        let grid = [self.dim(&(dims[0].clone() * dims[2].clone())), quote!(1), quote!(1)];
        s.launch(kernels, grid, threads(&dims[1]), shared, &format!("rows({before}, Softmax<{log}>{{}}, {behind}, int({length}));"))
    }
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
