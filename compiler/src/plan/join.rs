//! Copies that stand one behind the other in a plan for a GPU become one step: a launch takes longer than most of them.

use super::{Buffer, KernelStep, On, Place, Plan, Step};
use crate::ir::ValueId;
use crate::kernel::Kernel;
use std::collections::BTreeMap;

/// Copies of a launch at most: it has room for so many arguments.
pub const COPIES: usize = 8;

impl Plan {
    /// Joins neighbouring copies of the GPU that do not depend on each other; memory is to be placed behind this.
    pub(super) fn join_copies(&mut self) {
        let mut out: Vec<Step> = Vec::with_capacity(self.steps.len());
        for s in std::mem::take(&mut self.steps) {
            match (out.last_mut(), s) {
                (Some(Step::Kernel(before)), Step::Kernel(step)) if joins(&self.places, before, &step) => {
                    live_through(&self.places, &mut self.buffers, [before, &step]);
                    join(before, step);
                }
                (_, s) => out.push(s),
            }
        }
        self.steps = out;
    }
}

fn joins(places: &BTreeMap<ValueId, Place>, a: &KernelStep, b: &KernelStep) -> bool {
    let (Kernel::Move { copies: x, dtype: s }, Kernel::Move { copies: y, dtype: t }) = (&a.kernel, &b.kernel) else { return false };
    // What one writes the other neither reads nor writes.
    let apart = |one: &KernelStep, other: &KernelStep| {
        let written: Vec<_> = other.outputs.iter().map(|v| places.get(v)).collect();
        one.inputs.iter().flatten().chain(&one.outputs).all(|v| !written.contains(&places.get(v)))
    };
    let plain = |k: &KernelStep| k.on == On::Gpu && k.defines.is_empty();
    plain(a) && plain(b) && s == t && x.len() + y.len() <= COPIES && apart(a, b) && apart(b, a)
}

/// What one of two steps reads must not lie where the other writes.
fn live_through(places: &BTreeMap<ValueId, Place>, buffers: &mut [Buffer], steps: [&KernelStep; 2]) {
    let [from, to] = steps.map(|s| s.time);
    for v in steps.iter().flat_map(|s| s.inputs.iter().flatten().chain(&s.outputs)) {
        if let Some(Place::Buffer(b)) = places.get(v) {
            let life = &mut buffers[*b].life;
            (life.from, life.to) = (life.from.min(from), life.to.max(to));
        }
    }
}

fn join(a: &mut KernelStep, b: KernelStep) {
    let (inputs, outputs) = (a.inputs.len(), a.outputs.len());
    if let (Kernel::Move { copies: x, .. }, Kernel::Move { copies: y, .. }) = (&mut a.kernel, b.kernel) {
        x.extend(y.into_iter().map(|mut c| {
            (c.input, c.output) = (c.input + inputs, c.output + outputs);
            c
        }));
    }
    a.inputs.extend(b.inputs);
    a.outputs.extend(b.outputs);
    a.origins.extend(b.origins);
    a.requires.extend(b.requires);
    // A third step follows the second, so what is kept for it is kept through all three.
    a.time = a.time.min(b.time);
}
