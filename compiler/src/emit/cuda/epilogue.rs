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

/// A functor in the making: how an operand's element is found.
struct Found {
    /// Statements before the loop over neighbours.
    before: String,
    /// The element `i` of the neighbours, as it is stored.
    element: String,
}

impl Printer<'_> {
    /// The functor `E` of a kernel with sums of `sum` (`float` or `int32_t`), for up to `most` neighbours; gives the expression that makes
    /// it, and how many neighbours it can be handed.
    pub(super) fn functor(
        &self,
        s: &mut Sheet<'_>,
        rows: &Rows,
        (bias, epilogue): (Option<&Packed>, Option<&Epilogue>),
        most: usize,
    ) -> (String, usize) {
        self.functor_of_batch(s, rows, (bias, epilogue), most, &|_, _| None, &[])
    }
    /// [`Self::functor`] of a kernel that computes a matrix of a batch, whose indices have these names. `shift` gives how far an operand lies
    /// behind its start, by its steps along the axes of the batch.
    pub(super) fn functor_of_batch(
        &self,
        s: &mut Sheet<'_>,
        rows: &Rows,
        (bias, epilogue): (Option<&Packed>, Option<&Epilogue>),
        most: usize,
        shift: &dyn Fn(&mut Sheet<'_>, &[Stride]) -> Option<String>,
        index: &[String],
    ) -> (String, usize) {
        let out = s.step.outputs[0];
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
        if let Some(b) = bias {
            let w = s.packed(b, "float");
            let _ = writeln!(before, "const Vec<float, V> bias = load<V>({w} + col);");
            sum = "v[i] + bias.at[i]".to_string();
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
        let body = format!(
            "static constexpr int VEC = {vec};\ntemplate <class S, int V>\nKILN_DEVICE void operator()(int row, int col, S (&v)[V]) const {{\n{before}KILN_UNROLL\nfor (int i = 0; i < V; i++) {{ {each} }}\n{after}}}\n"
        );
        let members: String = index.iter().map(|b| format!("long long {b};\n")).collect();
        let made = s.end("E", &(members + &body));
        let made = match made.strip_suffix('}') {
            Some(open) if !index.is_empty() => format!("{open}{}{}}}", if open.ends_with('{') { "" } else { ", " }, index.join(", ")),
            _ => made,
        };
        (made, vec)
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
