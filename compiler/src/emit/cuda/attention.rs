//! Attention on a GPU: its operands as pointers to a matrix of the batch, in the form that selection chose.

use super::super::expr::cuda as expr;
use super::super::{Printer, int};
use super::rows::{index, indices};
use super::sheet::Sheet;
use super::{COUNTERS, Kernels, Launch};
use crate::ir::{Dim, ValueId, product};
use crate::kernel::{Kernel, Operand, Stride};
use crate::target::Element;
use crate::target::cuda::{Attention, Form, Heads, Wanted};
use quote::quote;
use std::fmt::Write;

/// Keys of a block at least, where blocks share open ones.
const KEYS: usize = 64;

impl Printer<'_> {
    /// Whether rows of an operand begin at multiples of `by` elements: `steps` along the batch and from row to row.
    fn rows_begin_at(&self, v: ValueId, steps: &[Stride], by: usize) -> bool {
        self.multiples(steps, by) && self.begins_at(v, by)
    }

    pub(super) fn attend_on_gpu(&self, mut s: Sheet<'_>, kernels: &mut Kernels) -> Vec<Launch> {
        let Kernel::Attend { batch, sizes, scale, reach, safe, q, k, v, mask, out, .. } = &s.step.kernel else { return Vec::new() };
        let p = self.precision();
        let axes = batch.len();
        let result = s.step.outputs[0];
        let size = |v: ValueId| self.plan.stored(v).size();
        // Rows of 16-byte chunks are read and written by those.
        let whole = |v: ValueId, steps: &[Stride]| self.rows_begin_at(v, &steps[..=axes], 16 / size(v));
        let [queries, keys, depth, width] = sizes.clone();
        let wide = |d: &Dim| d.as_int().unwrap_or(0) as usize;
        let (deep, across) = (wide(&depth), wide(&width));
        let chunks = |o: &Operand, n: usize| whole(o.value, &o.strides) && (n * size(o.value)).is_multiple_of(16);
        let matrices = product(batch);
        let closed = [&matrices, &queries].into_iter().all(|d| d.as_int().is_some());
        let heads = Heads {
            matrices: self.likely(&matrices),
            queries: self.likely(&queries),
            // A cache that grows is long before long.
            keys: keys.as_int().map_or(self.likely(&keys).max(1024), |n| n.max(0) as usize),
            depth: deep,
            width: across,
            closed,
            chunks: (chunks(k, deep) && chunks(v, across)).then(|| [size(k.value), size(v.value)]),
        };
        let spec = {
            let [m, q, k, d, w, reach] = [&matrices, &queries, &keys, &depth, &width, reach].map(|d| self.told(d));
            let bytes = heads.chunks.map_or("none".to_string(), |[k, v]| format!("{k}x{v}"));
            let masked = if mask.is_some() { " masked" } else { "" };
            format!(
                "attention matrices={m} queries={q} keys={k} depth={d} width={w} of={} reach={reach} chunks={bytes}{masked}",
                p.element()
            )
        };

        let mut body = String::from("const long long matrix = blockIdx.y; ");
        body += &indices(&mut s, "matrix", batch, ('a', 0));
        let [xq, xk, xv] = [q, k, v].map(|o| {
            let (x, at) = (s.reads(o.value), index(&mut s, &o.strides[..axes]));
            format!("{x} + {at}")
        });
        let xm = match mask {
            Some(m) => {
                let (x, at) = (s.reads(m.value), index(&mut s, &m.strides[..axes]));
                format!("{x} + {at}")
            }
            None => "(const float*)nullptr".to_string(),
        };
        let o = {
            let (o, at) = (s.writes(result), index(&mut s, &out[..axes]));
            format!("{o} + {at}")
        };
        // Steps that depend on an extent being 1 are words beside the geometry.
        let mut fields =
            vec![("queries", queries.clone()), ("keys", keys.clone()), ("depth", depth), ("width", width), ("reach", reach.clone())];
        let none = [Stride::none(), Stride::none()];
        let mask_steps = mask.as_ref().map_or(&none[..], |m| &m.strides[axes..]);
        let steps = [&q.strides[axes], &k.strides[axes], &v.strides[axes], &out[axes], &mask_steps[0], &mask_steps[1]];
        let names = ["q_row", "k_row", "v_row", "out_row", "mask_row", "mask_col"];
        let (mut more, mut words) = (String::new(), Vec::new());
        for (name, step) in names.into_iter().zip(steps) {
            match step {
                Stride::By(d) => fields.push((name, d.clone())),
                step => {
                    let _ = write!(more, " long long {name};");
                    words.push(s.stride(step));
                }
            }
        }
        let scale = expr::float(*scale);
        let _ = write!(more, " static constexpr bool safe = {safe}; static constexpr float scale = {scale};");
        let mut geometry = s.geometry("G", &fields, &more);
        if let (false, Some(open)) = (words.is_empty(), geometry.strip_suffix('}')) {
            let comma = if open.ends_with('{') { "" } else { ", " };
            geometry = format!("{open}{comma}{}}}", words.join(", "));
        }

        // Neighbours of the result that are stored together.
        let store = [8, 4, 2]
            .into_iter()
            .find(|n| n * size(result) <= 16 && across.is_multiple_of(*n) && self.rows_begin_at(result, &out[..=axes], *n));
        let store = store.unwrap_or(1);
        let steps = [q, k, v].map(|o| if whole(o.value, &o.strides) { Element::from(p).chunk() } else { 1 });
        let operands = format!("{xq}, {xk}, {xv}, {xm}, {o}, {geometry}");
        let print = |form: &Attention, kernels: &mut Kernels| {
            let mut s = s.clone();
            let (rows, splits, bytes) = (form.rows(), form.splits(), form.shared(deep, across, p.bytes()));
            // Where keys are open, as many blocks share them as have enough to read.
            let (z, split) = if splits > 1 {
                let blocks = wide(&matrices) * wide(&queries).div_ceil(rows);
                kernels.partial = kernels.partial.max(splits * blocks * rows * Attention::line(across) * size_of::<f32>());
                let behind = int(COUNTERS * size_of::<u32>());
                let counters = s.word("unsigned*", quote!(f.device_scratch(0)));
                let partial = s.word("void*", quote!(f.device_scratch(#behind)));
                let most = int(splits);
                let z = match keys.as_int() {
                    Some(_) => quote!(#most),
                    None => {
                        let shares = self.blocks(&keys, KEYS);
                        quote!(usize::clamp(#shares, 1, #most))
                    }
                };
                (z, format!("Split{{int(blockIdx.z), int(gridDim.z), {partial}, {counters}}}"))
            } else {
                (quote!(1), "Split{0, 1, nullptr, nullptr}".to_string())
            };
            let call = match *form {
                Attention::Lanes => format!("attend<2>({operands});"),
                Attention::Few { queries, ahead, .. } => format!("attend_few<{queries}, {ahead}, {store}>({operands}, {split});"),
                Attention::Tiles { warps: [wq, wk], sixteens, keys, .. } => {
                    let (element, masked, [q, k, v]) = (p.element(), mask.is_some(), steps);
                    s.constants(
                        "C",
                        &format!(
                            "using Type = {element}; static constexpr int WQ = {wq}, WK = {wk}, MI = {sixteens}, BN = {keys}, Q_STEP = {q}, K_STEP = {k}, V_STEP = {v}, O_STEP = {store}, SHARED = {bytes}; static constexpr bool MASKED = {masked};"
                        ),
                    );
                    format!("attend_tiles<@_::C>({operands}, {split});")
                }
            };
            let layers = s.layers('y', &matrices);
            let grid = [self.blocks(&queries, rows), layers, z];
            s.launch(kernels, grid, form.threads(), bytes, &(body.clone() + &call))
        };
        self.in_form(s.step, (spec, &Wanted::Attention(p, heads)), kernels, |form, kernels| match form {
            Form::Attention(form) => print(form, kernels),
            Form::Product(_) => Vec::new(),
        })
    }
}
