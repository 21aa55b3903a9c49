//! Where values lie: buffers and their lifetimes, copies in another layout, results over operands.

use super::{Made, Scheduler};
use crate::ir::{Dim, ValueId, product};
use crate::kernel::{Kernel, Operand, Packed, Recipe, Requantized, Stride};
use crate::layout::{self, Layout};
use crate::plan::memory::Life;
use crate::plan::{Buffer, Place, Step};
use crate::target::cpu;
use kiln_kernels::dtype::DType;

impl Scheduler {
    pub(super) fn new_buffer(&mut self, v: ValueId) -> Place {
        let bytes = product(self.g.shape(v)) * (self.g.dtype(v).size() as i64).into();
        self.buffers.push(Buffer { bytes, life: Life { from: self.time, to: self.time } });
        self.owner.push(self.depth);
        Place::Buffer(self.buffers.len() - 1)
    }
    /// Gives a value its place: in the memory of another where the layouts say so, else one of its own.
    pub(super) fn define(&mut self, v: ValueId) {
        if let Some(access) = self.layouts.shared(v).cloned() {
            self.place_constant(access.of);
            if !self.places.contains_key(&access.of) {
                self.define(access.of);
            }
            self.places.insert(v, self.places[&access.of]);
            if !access.start.is(0) {
                self.starts.insert(v, access.start);
            }
            return self.touch(v, self.time);
        }
        if matches!(self.places.get(&v), Some(Place::Buffer(_))) {
            // A part of it was written before.
            return self.touch(v, self.time);
        }
        let place = if layout::fits(&self.g, v) {
            self.new_buffer(v)
        } else {
            self.slots += 1;
            Place::Slot(self.slots - 1)
        };
        self.places.insert(v, place);
    }
    pub(super) fn define_slot(&mut self, v: ValueId) {
        self.slots += 1;
        self.places.insert(v, Place::Slot(self.slots - 1));
    }
    /// Notes that a value is read at a time.
    pub(super) fn touch(&mut self, v: ValueId, time: u32) {
        if let Some(Place::Buffer(b)) = self.places.get(&v).copied() {
            let life = &mut self.buffers[b].life;
            life.to = life.to.max(time);
            for (start, outside) in &mut self.loops {
                if life.from < *start {
                    outside.insert(b);
                }
            }
        }
    }
    pub(super) fn place_constant(&mut self, v: ValueId) {
        if self.g[v].constant.is_some() && !self.places.contains_key(&v) {
            let place = if self.g.dtype(v) == DType::Str {
                // Strings have no bytes to lie among the weights; the printer makes them.
                self.slots += 1;
                Place::Slot(self.slots - 1)
            } else {
                Place::Weight(self.weights.intern(&self.g, Packed { value: v, recipe: Recipe::Raw }))
            };
            self.places.insert(v, place);
        }
    }
    /// The value in a layout: itself, or a copy, made once.
    pub(super) fn wanted(&mut self, v: ValueId, layout: Layout, steps: &mut Vec<Step>) -> ValueId {
        if self.layouts.is_dense(&self.g, v, layout) {
            return v;
        }
        if let Some(copy) = self.copies.get(&(v, layout)) {
            return *copy;
        }
        let kernel = cpu::relayout(&self.g, v, &self.layouts, layout);
        let (fact, name) = (self.g[v].fact.clone(), self.g[v].name.clone());
        let copy = self.g.add_value(fact, name);
        self.layouts.set(copy, layout);
        self.place_constant(v);
        self.time += 1;
        self.define(copy);
        self.touch(v, self.time);
        self.push(steps, kernel, vec![Some(v)], vec![copy], Made::default());
        if self.depth == 0 {
            self.copies.insert((v, layout), copy);
        }
        copy
    }
    /// An output that is an input or a state handed through, as a copy: outputs are views that outlive the inputs, and no state is written
    /// before a run has succeeded.
    pub(super) fn own_output(&mut self, v: ValueId, steps: &mut Vec<Step>) -> ValueId {
        if !matches!(self.places.get(&v), Some(Place::Input(_) | Place::State(_))) {
            return v;
        }
        let fact = self.g[v].fact.clone();
        let copy = self.g.add_value(fact, "");
        self.time += 1;
        let kernel = if layout::fits(&self.g, v) {
            self.define(copy);
            cpu::relayout(&self.g, v, &self.layouts, Layout::RowMajor)
        } else {
            self.define_slot(copy);
            let op = crate::ops::host::Host { name: "identity", ints: vec![], text: vec![], results: vec![self.g.ty(v).clone()] };
            Kernel::Host(op)
        };
        self.push(steps, kernel, vec![Some(v)], vec![copy], Made::default());
        copy
    }
    /// The buffer of an operand that a kernel may overwrite with its result: read at the same places, and never again.
    pub(super) fn in_place(&self, kernel: &Kernel, out: ValueId) -> Option<usize> {
        if !layout::fits(&self.g, out) || self.layouts.shared(out).is_some() {
            return None;
        }
        match kernel {
            Kernel::Map { dims, operands, to, .. } => self.over_operand(dims, operands, to, out),
            _ => self.over_addend(kernel, out),
        }
    }
    /// [`Self::in_place`] of kernels that add bytes to the bytes that sums become: each is read, and never again, just before its sum is
    /// written. Depthwise kernels are left out: nothing says that they hand each sum on only once.
    fn over_addend(&self, kernel: &Kernel, out: ValueId) -> Option<usize> {
        let (Kernel::IntConv { depthwise: None, epilogue: Some(e), .. } | Kernel::IntGemm { epilogue: Some(e), .. }) = kernel else {
            return None;
        };
        let to = e.first.as_ref().filter(|to| to.value == out && e.stored.is_empty())?;
        let requantized = Requantized::of(e).filter(|r| r.table.is_none())?;
        let added = &e.operands[requantized.add?.operand];
        let Some(&Place::Buffer(b)) = self.places.get(&added.value) else { return None };
        let own = self.owner[b] == self.depth && !self.starts.contains_key(&added.value) && added.strides == to.strides;
        let others = kernel.values().into_iter().filter(|v| self.places.get(v) == Some(&Place::Buffer(b))).count();
        (own && others == 1 && self.g.dtype(out) == DType::U8 && self.idle(b)).then_some(b)
    }
    /// [`Self::in_place`] of pointwise kernels.
    fn over_operand(&self, dims: &[Dim], operands: &[Operand], to: &[Vec<Dim>], out: ValueId) -> Option<usize> {
        let mut contiguous = vec![Stride::none(); dims.len()];
        let mut step = Dim::int(1);
        for (s, d) in contiguous.iter_mut().zip(dims).rev() {
            *s = Stride::By(step.clone());
            step = step * d.clone();
        }
        if to.len() > 1 && to.iter().any(|to| to.iter().zip(&contiguous).any(|(t, s)| *s != Stride::By(t.clone()))) {
            return None;
        }
        let same = |o: &Operand| o.strides == contiguous && !self.starts.contains_key(&o.value);
        operands.iter().find_map(|o| match self.places.get(&o.value) {
            Some(Place::Buffer(b))
                if self.owner[*b] == self.depth
                    && self.g.dtype(o.value).size() == self.g.dtype(out).size()
                    // No other operand may read what the result has overwritten.
                    && operands.iter().all(|o| self.places.get(&o.value) != Some(&Place::Buffer(*b)) || same(o))
                    && self.idle(*b) =>
            {
                Some(*b)
            }
            _ => None,
        })
    }
    /// Whether no value in the buffer is read again.
    fn idle(&self, b: usize) -> bool {
        let held = self.places.iter().filter(|(_, p)| **p == Place::Buffer(b));
        let mut values = held.map(|(v, _)| *v);
        values.all(|v| {
            let copy_source = self.copies.iter().any(|((from, _), to)| *to == v && self.uses.get(from).copied().unwrap_or(0) > 0);
            self.uses.get(&v).copied().unwrap_or(0) == 0 && !copy_source && !self.g.body.outputs.contains(&v)
        })
    }
}
