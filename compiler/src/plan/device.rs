//! What a plan for a GPU has beside one for the CPU: which buffers store 16 bits for f32, and constants packed for its kernels.

use super::{On, Place, Plan, Step, memory};
use crate::ir::{Dim, ValueId};
use crate::kernel::Recipe;
use crate::target::Precision;
use kiln_kernels::dtype::DType;
use std::collections::BTreeSet;

/// The GPU's side of a plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Device {
    /// What products are computed in.
    pub precision: Precision,
    /// Buffers whose values, f32 by the graph, are stored in 16 bits.
    pub halves: BTreeSet<usize>,
}

impl Plan {
    /// The type that stores a value where it lies.
    pub fn stored(&self, v: ValueId) -> DType {
        match (&self.device, self.places.get(&v)) {
            (Some(d), Some(Place::Buffer(b))) if d.halves.contains(b) => d.precision.stored(),
            _ => self.graph.dtype(v),
        }
    }

    /// Makes it a plan for a GPU: values that only kernels of the GPU touch are stored in the precision, and memory is placed anew.
    pub(super) fn store_halves(&mut self, precision: Precision) {
        let mut halves = BTreeSet::new();
        if precision.stored() != DType::F32 {
            halves.extend(0..self.buffers.len());
            // What the CPU reads or writes, what callers see, and what lies with other types keep the type of the graph.
            let mut whole: Vec<ValueId> = self.graph.body.outputs.clone();
            touched(&self.steps, false, &mut whole);
            whole.extend(self.places.keys().copied().filter(|v| self.graph.dtype(*v) != DType::F32));
            for v in whole {
                if let Some(Place::Buffer(b)) = self.places.get(&v) {
                    halves.remove(b);
                }
            }
        }
        for b in &halves {
            let bytes = &mut self.buffers[*b].bytes;
            *bytes = bytes.exact_div(&Dim::int(2)).unwrap_or_else(|| bytes.ceil_div(&Dim::int(2)));
        }
        self.arena = memory::place(&self.buffers, &self.graph.symbols);
        self.device = Some(Device { precision, halves });
    }
}

/// The values that steps of the CPU touch; control flow, with all that is inside of it, is the CPU's.
fn touched(steps: &[Step], inside: bool, out: &mut Vec<ValueId>) {
    for s in steps {
        match s {
            Step::Kernel(k) if inside || k.on != On::Gpu => {
                out.extend(k.inputs.iter().flatten().chain(&k.outputs));
                out.extend(k.kernel.values());
            }
            Step::Kernel(_) => {}
            Step::If { cond, branches, results, .. } => {
                out.push(*cond);
                branches.iter().for_each(|b| touched(b, true, out));
                out.extend(results.iter().flatten().flat_map(|t| [t.from, t.to]));
            }
            Step::Loop(l) => {
                out.extend(l.trips.into_iter().chain(l.cond).chain([l.iteration, l.conds.0, l.conds.1]));
                out.extend(l.enter.iter().chain(&l.next).chain(&l.stacks).flat_map(|t| [t.from, t.to]));
                touched(&l.body, true, out);
            }
        }
    }
}

/// Elements of a column, or of a filter, with its padding.
fn padded(depth: usize, precision: Precision) -> usize {
    depth.next_multiple_of(precision.chunk())
}

/// Bytes of a constant that a recipe packs for a GPU.
pub(super) fn packed_bytes(recipe: &Recipe) -> usize {
    match recipe {
        Recipe::Columns { k, n, precision } => n * padded(*k, *precision) * precision.bytes(),
        Recipe::Filters { c, k, taps, precision } => k * padded(c * taps, *precision) * precision.bytes(),
        Recipe::Taps { c, k, taps, precision } => taps * c * k * precision.bytes(),
        _ => 0,
    }
}

/// Packs a constant for a GPU.
pub(super) fn pack(x: &[f32], recipe: &Recipe) -> Vec<u8> {
    let mut out = vec![0; packed_bytes(recipe)];
    let mut put = |precision: Precision, at: usize, x: f32| {
        let size = precision.bytes();
        precision.write(x, &mut out[at * size..][..size]);
    };
    match *recipe {
        Recipe::Columns { k, n, precision } => {
            let pitch = padded(k, precision);
            for (i, row) in x.chunks_exact(n.max(1)).enumerate() {
                row.iter().enumerate().for_each(|(j, x)| put(precision, j * pitch + i, *x));
            }
        }
        Recipe::Filters { c, taps, precision, .. } => {
            let pitch = padded(c * taps, precision);
            for (filter, x) in x.chunks_exact((c * taps).max(1)).enumerate() {
                x.iter().enumerate().for_each(|(i, x)| put(precision, filter * pitch + i % taps * c + i / taps, *x));
            }
        }
        Recipe::Taps { c, k, taps, precision } => {
            for (filter, x) in x.chunks_exact((c * taps).max(1)).enumerate() {
                x.iter().enumerate().for_each(|(i, x)| put(precision, (i % taps * c + i / taps) * k + filter, *x));
            }
        }
        _ => {}
    }
    out
}
