//! What becomes of sums: bias, a pointwise tail, and stores, as a functor that kernels hand their results to.

use super::super::Printer;
use super::super::expr::cuda as expr;
use super::sheet::Sheet;
use crate::ir::{Dim, ValueId};
use crate::kernel::{Epilogue, Operand, Packed, Scalar, Stride};
use kiln_kernels::dtype::DType;
use std::fmt::Write;

/// Where results of a kernel go that counts rows and columns.
pub(super) struct Rows {
    /// Elements from row to row.
    pub(super) pitch: Dim,
    /// Where rows are pixels of images that do not follow each other evenly: pixels of an image, and elements from image to image.
    pub(super) images: Option<(Dim, Dim)>,
    /// Columns.
    pub(super) cols: Dim,
    /// Steps of the results along the axes of a batch.
    pub(super) batch: Vec<Stride>,
}

/// What becomes of the sums of a kernel.
#[derive(Clone, Copy)]
pub(super) struct Ends<'k> {
    /// What is added to them first.
    pub(super) first: First<'k>,
    /// The pointwise tail.
    pub(super) epilogue: Option<&'k Epilogue>,
}

/// What is added to sums before anything else.
#[derive(Clone, Copy)]
pub(super) enum First<'k> {
    /// Nothing.
    Nothing,
    /// A number for each column.
    Bias(&'k Packed),
    /// What takes zero points off products of bytes.
    Centre(Centre<'k>),
}

/// How zero points are taken off sums of products of bytes: that of the left side times the sums of columns, and those of the columns times
/// the sums of rows.
#[derive(Clone, Copy)]
pub(super) struct Centre<'k> {
    /// The zero point of the left side.
    pub(super) zero: ValueId,
    /// The packed columns, and where their sums lie behind them.
    pub(super) columns: (&'k Packed, usize),
    /// Zero points of the columns, where one is not 0.
    pub(super) zeros: Option<&'k Packed>,
}

impl<'k> Ends<'k> {
    /// Sums of floats.
    pub(super) fn of(bias: Option<&'k Packed>, epilogue: Option<&'k Epilogue>) -> Ends<'k> {
        Ends { first: bias.map_or(First::Nothing, First::Bias), epilogue }
    }
    /// How zero points are taken off, where that is needed.
    pub(super) fn centre(&self) -> Option<Centre<'k>> {
        if let First::Centre(c) = self.first { Some(c) } else { None }
    }
    /// Whether the functor is handed the sums of rows too.
    pub(super) fn of_rows(&self) -> bool {
        self.centre().is_some_and(|c| c.zeros.is_some())
    }
}

/// A functor in the making: how an operand's element is found.
struct Found {
    /// Statements before the loop over neighbours.
    before: String,
    /// The element `i` of the neighbours, as it is stored.
    element: String,
}

impl Printer<'_> {
    /// What becomes of sums, as files of measured forms name it: what is added first, what is read and written element by element, and how many
    /// neighbours are stored together in which type.
    pub(super) fn told_tail(&self, out: ValueId, ends: Ends<'_>, stored: usize) -> String {
        let first = match ends.first {
            First::Nothing => "none",
            First::Bias(_) => "bias",
            First::Centre(_) => "centre",
        };
        let (mut reads, mut writes, mut map) = (0, 1, "");
        if let Some(e) = ends.epilogue {
            let whole = |o: &&Operand| o.strides.iter().rev().take(2).all(|s| !s.is(0));
            (reads, writes, map) = (e.operands.iter().filter(whole).count(), 1 + e.stored.len(), "+map");
        }
        let to = expr::element(self.plan.stored(out));
        format!("tail={first}{map} reads={reads} writes={writes} to={to}x{stored}")
    }
    /// The functor `E` of a kernel with sums of `sum` (`float` or `int32_t`), for up to `most` neighbours; gives the expression that makes
    /// it, and how many neighbours it can be handed.
    pub(super) fn functor(&self, s: &mut Sheet<'_>, rows: &Rows, ends: Ends<'_>, most: usize) -> (String, usize) {
        self.functor_of_batch(s, rows, ends, most, &|_, _| None, &[])
    }
    /// [`Self::functor`] of a kernel that computes a matrix of a batch, whose indices have these names. `shift` gives how far an operand lies
    /// behind its start, by its steps along the axes of the batch.
    pub(super) fn functor_of_batch(
        &self,
        s: &mut Sheet<'_>,
        rows: &Rows,
        ends: Ends<'_>,
        most: usize,
        shift: &dyn Fn(&mut Sheet<'_>, &[Stride]) -> Option<String>,
        index: &[String],
    ) -> (String, usize) {
        let (out, epilogue) = (s.step.outputs[0], ends.epilogue);
        let results = |e: &Epilogue| e.first.iter().chain(&e.stored).cloned().collect::<Vec<Operand>>();
        // Neighbours go together where everything that is read or written in rows begins at an even place in each.
        let even = |row: &Stride, col: &Stride| match (row, col) {
            (_, c) if c.is(0) => true,
            (Stride::By(r), c) if c.is(1) => self.multiple(r, most),
            _ => false,
        };
        let fits = |o: &Operand| {
            let n = o.strides.len();
            let batch = o.strides[..n - 2].iter().all(|s| matches!(s, Stride::By(d) if self.multiple(d, most)));
            even(&o.strides[n - 2], &o.strides[n - 1]) && batch && (o.strides[n - 1].is(0) || self.begins_at(o.value, most))
        };
        let own = epilogue.is_none_or(|e| e.first.is_none());
        let whole = self.multiple(&rows.pitch, most)
            && self.multiple(&rows.cols, most)
            && rows.images.as_ref().is_none_or(|(_, batch)| self.multiple(batch, most))
            && (!own || self.begins_at(out, most))
            && epilogue.is_none_or(|e| e.operands.iter().chain(&results(e)).all(fits));
        let vec = if whole { most } else { 1 };

        s.begin();
        let (mut before, mut after) = (String::new(), String::new());
        let mut sum = "v[i]".to_string();
        match ends.first {
            First::Nothing => {}
            First::Bias(b) => {
                let w = s.packed(b, "float");
                let _ = writeln!(before, "const Vec<float, V> bias = load<V>({w} + col);");
                sum = "v[i] + bias.at[i]".to_string();
            }
            First::Centre(Centre { zero, columns: (w, behind), zeros }) => {
                let (zero, w) = (self.zero_point(s, zero), s.packed_behind(w, "int32_t", behind));
                if zero != "0" {
                    let _ = writeln!(before, "const Vec<int32_t, V> of_col = load<V>({w} + col);");
                    sum = format!("fused(-{zero}, of_col.at[i], {sum})");
                }
                if let Some(z) = zeros {
                    let z = s.packed(z, "int32_t");
                    let _ = writeln!(before, "const Vec<int32_t, V> zeros = load<V>({z} + col);");
                    sum = format!("fused(-zeros.at[i], of_row, {sum})");
                }
            }
        }
        let store = |s: &mut Sheet<'_>, k: usize, v: ValueId, at: String, before: &mut String, after: &mut String| {
            let ty = s.stored(v);
            let o = s.writes(v);
            let _ = writeln!(before, "Vec<{ty}, V> y{k};");
            let _ = writeln!(after, "store<V>({o} + ({at}), y{k});");
        };
        let mut each = String::new();
        let place = {
            let pitch = s.extent(&rows.pitch);
            let base = match &rows.images {
                Some((pixels, batch)) => {
                    let (pixels, batch) = (s.extent(pixels), s.extent(batch));
                    format!("(long long)row / {pixels} * {batch} + (long long)row % {pixels} * {pitch} + col")
                }
                None => format!("(long long)row * {pitch} + col"),
            };
            match shift(s, &rows.batch) {
                Some(shift) => format!("{base} + {shift}"),
                None => base,
            }
        };
        match epilogue {
            None => {
                store(s, 0, out, place, &mut before, &mut after);
                let _ = write!(each, "y0.at[i] = {};", expr::store(self.plan.stored(out), &format!("({sum})")));
            }
            Some(e) => {
                let sums = e.expr.code.iter().any(|(x, ty)| matches!(x, Scalar::In(0)) && *ty == DType::I32);
                let mut inputs = vec![if sums { sum } else { format!("float({sum})") }];
                for (k, o) in e.operands.iter().enumerate() {
                    let found = self.neighbours(s, k, o, shift);
                    before.push_str(&found.before);
                    inputs.push(expr::load(self.dtype(o.value), &found.element));
                }
                let (code, names) = expr::print(&e.expr, &inputs);
                each.push_str(&code);
                // The first result replaces the sums where it has no place of its own.
                let mut targets: Vec<(ValueId, String)> = if own { vec![(out, place)] } else { Vec::new() };
                for o in results(e) {
                    let at = self.row_place(s, &o, shift);
                    targets.push((o.value, at));
                }
                for (k, ((value, at), result)) in targets.into_iter().zip(names).enumerate() {
                    store(s, k, value, at, &mut before, &mut after);
                    let _ = write!(each, "y{k}.at[i] = {}; ", expr::store(self.plan.stored(value), &result));
                }
            }
        }
        let more = if ends.of_rows() { ", int32_t of_row" } else { "" };
        let body = format!(
            "static constexpr int VEC = {vec};\ntemplate <class S, int V>\nKILN_DEVICE void operator()(int row, int col, S (&v)[V]{more}) const {{\n{before}KILN_UNROLL\nfor (int i = 0; i < V; i++) {{ {each} }}\n{after}}}\n"
        );
        let members: String = index.iter().map(|b| format!("long long {b};\n")).collect();
        let made = s.end("E", &(members + &body));
        let made = match made.strip_suffix('}') {
            Some(open) if !index.is_empty() => format!("{open}{}{}}}", if open.ends_with('{') { "" } else { ", " }, index.join(", ")),
            _ => made,
        };
        (made, vec)
    }

    /// The zero point of bytes as an `int32_t`: a number where it is constant.
    pub(super) fn zero_point(&self, s: &mut Sheet<'_>, v: ValueId) -> String {
        match self.plan.graph[v].constant.as_ref().and_then(|t| t.bytes().first()) {
            Some(zero) => zero.to_string(),
            None => {
                s.reads_first();
                format!("int32_t(*{})", s.reads(v))
            }
        }
    }
    /// Where an operand of rows and columns has the element at `row` and `col`.
    fn row_place(&self, s: &mut Sheet<'_>, o: &Operand, shift: &dyn Fn(&mut Sheet<'_>, &[Stride]) -> Option<String>) -> String {
        let n = o.strides.len();
        let mut terms = Vec::new();
        for (stride, name) in o.strides[n - 2..].iter().zip(["row", "col"]) {
            if !stride.is(0) {
                let by = s.stride(stride);
                terms.push(format!("(long long){name} * {by}"));
            }
        }
        terms.extend(shift(s, &o.strides[..n - 2]));
        if terms.is_empty() { "0".into() } else { terms.join(" + ") }
    }
    fn neighbours(&self, s: &mut Sheet<'_>, k: usize, o: &Operand, shift: &dyn Fn(&mut Sheet<'_>, &[Stride]) -> Option<String>) -> Found {
        let ty = s.stored(o.value);
        let x = s.reads(o.value);
        let at = self.row_place(s, o, shift);
        match o.strides.last() {
            Some(c) if c.is(1) => {
                Found { before: format!("const Vec<{ty}, V> a{k} = load<V>({x} + ({at}));\n"), element: format!("a{k}.at[i]") }
            }
            // One element serves all neighbours; where columns are apart, there are no neighbours.
            _ => Found { before: format!("const {ty} a{k} = {x}[{at}];\n"), element: format!("a{k}") },
        }
    }
}
