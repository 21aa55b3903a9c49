//! Kernels of the table that have templates for a GPU: rows picked from tables, sorted rows, scattered updates.

use super::super::Printer;
use super::rows::indices;
use super::sheet::Sheet;
use super::windows::THREADS;
use super::{Kernels, Launch};
use crate::ir::{Dim, ValueId, product};
use crate::ops::{Call, CallArg};
use quote::quote;

/// Elements from one index to the next along each axis of a row-major tensor.
fn strides(dims: &[Dim]) -> Vec<Dim> {
    (0..dims.len()).map(|i| product(&dims[i + 1..])).collect()
}

impl Printer<'_> {
    /// A kernel of the table that has a template.
    pub(super) fn call_on_gpu(&self, mut s: Sheet<'_>, c: &Call, kernels: &mut Kernels) -> Vec<Launch> {
        let input = |i: usize| s.step.inputs.get(i).copied().flatten();
        let out = s.step.outputs[0];
        let dims: Vec<Dim> = c.args.iter().filter_map(|a| if let CallArg::Dim(d) = a { Some(d.clone()) } else { None }).collect();
        let line = Dim::int(s.step.line as i64);
        let all = product(self.plan.graph.shape(out));
        let [a, i, b, k, more] = [0, 1, 2, 3, 4].map(input);
        // Neighbours of a picked row that are copied together.
        let together = |cols: &Dim, values: &[Option<ValueId>]| {
            let size = |v: ValueId| self.plan.stored(v).size();
            let fits = |by: &usize| {
                let lies = |v: ValueId| self.begins_at(v, *by) && size(v) * by <= 32;
                let least = values.iter().flatten().map(|v| size(*v)).min().unwrap_or(1);
                least * by <= 16 && self.multiple(cols, *by) && values.iter().flatten().all(|v| lies(*v))
            };
            [16usize, 8, 4, 2].into_iter().find(fits).unwrap_or(1)
        };
        let by;
        let read = |s: &mut Sheet<'_>, v: Option<ValueId>| v.map_or("(const float*)nullptr".into(), |v| s.reads(v));
        let body = match (c.entry, &dims[..]) {
            ("gather::gather", [outer, axis, inner]) => {
                let count = i.map_or(Dim::int(0), |i| product(self.plan.graph.shape(i)));
                let fields = [("outer", outer.clone()), ("axis", axis.clone()), ("inner", inner.clone()), ("count", count), ("line", line)];
                let g = s.geometry("G", &fields, "");
                let (x, at) = (read(&mut s, a), read(&mut s, i));
                let (o, fault) = (s.writes(out), s.word("long long*", quote!(f.device_fault())));
                by = together(inner, &[a, Some(out)]);
                format!("gather<{by}>({x}, {at}, {o}, {g}, {fault});")
            }
            ("gather::lookup", [a_rows, b_rows, cols]) => {
                let count = i.map_or(Dim::int(0), |i| product(self.plan.graph.shape(i)));
                let fields =
                    [("count", count), ("cols", cols.clone()), ("a_rows", a_rows.clone()), ("b_rows", b_rows.clone()), ("line", line)];
                let g = s.geometry("G", &fields, "");
                by = together(cols, &[a, b, more, Some(out)]);
                let [a, i, b, k, more] = [a, i, b, k, more].map(|v| read(&mut s, v));
                let (o, fault) = (s.writes(out), s.word("long long*", quote!(f.device_fault())));
                format!("lookup<{by}>({a}, {i}, {b}, {k}, {more}, {o}, {g}, {fault});")
            }
            ("sort::top_k", ..) => return self.top_k_on_gpu(s, c, kernels),
            ("scatter::scatter_elements" | "scatter::scatter_nd", ..) => return self.scatter_on_gpu(s, c, kernels),
            // Selection lets no others through.
            _ => return Vec::new(),
        };
        let grid = [self.blocks(&all, THREADS * by), quote!(1), quote!(1)];
        s.launch(kernels, grid, THREADS, 0, &body)
    }
    fn top_k_on_gpu(&self, mut s: Sheet<'_>, c: &Call, kernels: &mut Kernels) -> Vec<Launch> {
        let dims: Vec<Dim> = c.args.iter().filter_map(|a| if let CallArg::Dim(d) = a { Some(d.clone()) } else { None }).collect();
        let [outer, axis, inner, k] = &dims[..] else { return Vec::new() };
        let (Some(length), Some(x)) = (axis.as_int(), s.step.inputs.first().copied().flatten()) else { return Vec::new() };
        let largest = c.args.contains(&CallArg::Bool(true));
        let size = (length.max(2) as usize).next_power_of_two();
        let fields = [("axis", axis.clone()), ("inner", inner.clone()), ("k", k.clone())];
        let (x, g) = (s.reads(x), s.geometry("G", &fields, ""));
        let outputs = s.step.outputs.clone();
        let results: Vec<String> = (0..2)
            .map(|i| match outputs.get(i) {
                Some(v) => s.writes(*v),
                None => format!("({}*)nullptr", ["float", "int64_t"][i]),
            })
            .collect();
        let threads = (size / 2).next_multiple_of(32).clamp(32, 512);
        let body = format!("top_k<{largest}, {size}>({x}, {}, {}, {g});", results[0], results[1]);
        let rows = s.layers('x', &(outer.clone() * inner.clone()));
        s.launch(kernels, [rows, quote!(1), quote!(1)], threads, size * size_of::<u64>(), &body)
    }

    fn scatter_on_gpu(&self, mut s: Sheet<'_>, c: &Call, kernels: &mut Kernels) -> Vec<Launch> {
        let extents: Vec<&[Dim]> = c.args.iter().filter_map(|a| if let CallArg::Dims(d) = a { Some(&d[..]) } else { None }).collect();
        let inputs: Vec<ValueId> = s.step.inputs.iter().flatten().copied().collect();
        let (&[x_dims, i_dims], [x, i, u]) = (&extents[..], &inputs[..]) else { return Vec::new() };
        let mode = c.args.iter().find_map(|a| if let CallArg::Text(t) = a { Some(*t) } else { None });
        let mode = match mode {
            Some("add") => "Add",
            Some("mul") => "Mul",
            Some("max") => "Max",
            Some("min") => "Min",
            _ => "None",
        };
        let (all, line) = (product(x_dims), Dim::int(s.step.line as i64));
        let (x, updates, out) = (s.reads(*x), s.reads(*u), s.writes(s.step.outputs[0]));
        let axis = c.args.iter().find_map(|a| if let CallArg::Dim(d) = a { d.as_int() } else { None });
        let (body, shared) = match axis.filter(|_| c.entry == "scatter::scatter_elements") {
            Some(axis) => {
                let (axis, steps) = (axis as usize, strides(i_dims));
                s.begin();
                let find = indices(&mut s, "q", x_dims, ('a', 0));
                let (mut place, mut inside) = (String::from("0"), String::from("true"));
                for d in (0..x_dims.len()).filter(|d| *d != axis) {
                    place += &format!(" + a{d} * {}", s.extent(&steps[d]));
                    inside += &format!(" && a{d} < {}", s.extent(&i_dims[d]));
                }
                let body = format!(
                    "KILN_DEVICE bool operator()(long long q, long long& at, long long& line) const {{ {find}at = a{axis}; line = {place}; return {inside}; }}\n"
                );
                let lines = s.end("L", &body);
                let fields = [
                    ("all", all.clone()),
                    ("extent", x_dims[axis].clone()),
                    ("count", i_dims[axis].clone()),
                    ("step", steps[axis].clone()),
                    ("line", line),
                ];
                let (g, i) = (s.geometry("G", &fields, ""), s.reads(*i));
                let fault = s.word("long long*", quote!(f.device_fault()));
                (format!("scatter_along<Combine::{mode}>({x}, {i}, {updates}, {out}, {lines}, {g}, {fault});"), 0)
            }
            None => {
                let Some((width, rows)) = i_dims.split_last() else { return Vec::new() };
                let width = width.as_int().unwrap_or(0).max(0) as usize;
                let steps = strides(&x_dims[..width]);
                s.begin();
                let (i, fault) = (s.reads(*i), s.word("long long*", quote!(f.device_fault())));
                let mut place = String::from("0");
                for d in 0..width {
                    let (extent, step) = (s.extent(&x_dims[d]), s.extent(&steps[d]));
                    place += &format!(" + place({i}[r * {width} + {d}], {extent}, {}, {fault}) * {step}", s.step.line);
                }
                let body = format!("KILN_DEVICE long long operator()(long long r) const {{ (void)r; return {place}; }}\n");
                let slices = s.end("P", &body);
                let fields = [("all", all.clone()), ("inner", product(&x_dims[width..])), ("rows", product(rows))];
                let g = s.geometry("G", &fields, "");
                (format!("scatter_slices<Combine::{mode}>({x}, {updates}, {out}, {slices}, {g});"), THREADS * size_of::<u64>())
            }
        };
        let grid = [self.blocks(&all, THREADS), quote!(1), quote!(1)];
        s.launch(kernels, grid, THREADS, shared, &body)
    }
}
