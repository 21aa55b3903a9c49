//! What a plan for a GPU has beside one for the CPU: which buffers store 16 bits for f32, and constants packed for its kernels.

use super::{Check, On, Place, Plan, Step, memory};
use crate::ir::{Dim, Sym, ValueId};
use crate::kernel::{Kernel, Recipe};
use crate::target::cuda::Forms;
use crate::target::{Element, Precision};
use kiln_kernels::dtype::{DType, bf16, f16};
use kiln_kernels::value::Tensor;
use std::collections::BTreeSet;

/// The GPU's side of a plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Device {
    /// What products are computed in.
    pub precision: Precision,
    /// Buffers whose values, f32 by the graph, are stored in 16 bits.
    pub halves: BTreeSet<usize>,
    /// Symbols that change from run to run, the lengths of states: kernels read them from memory, so that one recording serves all of them.
    pub lengths: Vec<Sym>,
    /// Where the forms of its kernels come from.
    pub forms: Forms,
}

impl Plan {
    /// The type that stores a value where it lies.
    pub fn stored(&self, v: ValueId) -> DType {
        match (&self.device, self.places.get(&v)) {
            (Some(d), Some(Place::Buffer(b))) if d.halves.contains(b) => d.precision.stored(),
            (Some(_), Some(Place::State(k))) => self.states.pairs[*k].dtype,
            _ => self.graph.dtype(v),
        }
    }

    /// Makes it a plan for a GPU: values that only kernels of the GPU touch are stored in the precision, and memory is placed anew.
    pub(super) fn store_halves(&mut self, precision: Precision, forms: Forms) {
        self.join_copies();
        let lengths = self.lengths();
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
        // Rows that every run adds to are written and read by kernels of the GPU alone; what a run replaces is copied as the output it is.
        self.states.store_rows(precision.stored());
        self.device = Some(Device { precision, halves, lengths, forms });
    }

    /// Symbols that change from run to run: the lengths of states, and extents of inputs that must meet what follows from them, such as those of
    /// a mask over all keys. None where steps define symbols, which are not there when a run begins.
    fn lengths(&mut self) -> Vec<Sym> {
        let mut out = self.states.lengths.clone();
        if out.is_empty() || self.graph.symbols.iter().any(|s| s.input.is_none()) {
            return Vec::new();
        }
        let mut pairs: Vec<(Dim, Dim)> = Vec::new();
        for k in self.kernels() {
            pairs.extend(k.requires.iter().filter_map(|(c, _)| match c {
                Check::Equal(a, b) | Check::Meet(a, b) => Some((a.clone(), b.clone())),
                Check::Within { .. } => None,
            }));
            if let Kernel::Map { meets, .. } | Kernel::Rows { meets, .. } = &k.kernel {
                pairs.extend(meets.iter().cloned());
            }
        }
        let turned: Vec<(Dim, Dim)> = pairs.iter().map(|(a, b)| (b.clone(), a.clone())).collect();
        pairs.extend(turned);
        while let Some((s, n)) = pairs.iter().find_map(|(a, b)| {
            // What the greatest of some must meet, each of them is below, or is 1.
            let s = a.parts_of_most().iter().filter_map(Dim::as_sym).find(|s| !out.contains(s) && self.follows(b, &out))?;
            Some((s, self.bound(b, &out).as_int()?.max(1)))
        }) {
            let range = &mut self.graph.symbols[s.0 as usize].range;
            range.hi = Some(range.hi.map_or(n, |hi| hi.min(n)).max(range.lo));
            out.push(s);
        }
        out
    }
    fn follows(&self, d: &Dim, lengths: &[Sym]) -> bool {
        let mut all = BTreeSet::new();
        d.symbols(&mut all);
        lengths.iter().any(|s| all.contains(s))
    }
    fn bound(&self, d: &Dim, lengths: &[Sym]) -> Dim {
        d.at_most(&|s| {
            let range = lengths.contains(&s).then(|| self.graph.symbols[s.0 as usize].range)?;
            Some([range.lo, range.hi?])
        })
    }

    /// Whether an extent changes from run to run while everything else stays.
    pub fn is_live(&self, d: &Dim) -> bool {
        self.device.as_ref().is_some_and(|device| self.follows(d, &device.lengths))
    }
    /// The most that such an extent can be; others as they are.
    pub fn most(&self, d: &Dim) -> Dim {
        match &self.device {
            Some(device) if self.is_live(d) => self.bound(d, &device.lengths),
            _ => d.clone(),
        }
    }
    /// The values that steps of the CPU touch.
    pub fn read_by_cpu(&self) -> Vec<ValueId> {
        let mut out = Vec::new();
        touched(&self.steps, false, &mut out);
        out
    }
    /// Steps of the CPU that touch a state, which is on the GPU: the lines of their nodes, and why the CPU has them.
    pub fn kept_from_cpu(&self) -> Vec<(Vec<usize>, &'static str)> {
        let mut out = Vec::new();
        for s in &self.steps {
            let mut values = Vec::new();
            touched(std::slice::from_ref(s), false, &mut values);
            if values.iter().any(|v| matches!(self.places.get(v), Some(Place::State(_)))) {
                out.push(match s {
                    Step::Kernel(k) => (k.origins.clone(), if let On::Cpu(why) = k.on { why } else { "" }),
                    Step::If { .. } | Step::Loop(_) => (Vec::new(), "it decides which steps run"),
                });
            }
        }
        out
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
fn padded(depth: usize, element: Element) -> usize {
    depth.next_multiple_of(element.chunk())
}

/// Columns, or filters, with their depth and their elements, of a recipe that has them one behind the other.
fn columns(recipe: &Recipe) -> Option<(usize, usize, Element)> {
    match *recipe {
        Recipe::Columns { k, n, element, .. } => Some((n, k, element)),
        Recipe::Filters { c, k, taps, element } => Some((k, c * taps, element)),
        _ => None,
    }
}

/// Where the sums of columns, or filters, of bytes lie behind what is summed.
pub(crate) fn sums_at(n: usize, depth: usize) -> usize {
    n * padded(depth, Element::Byte)
}

/// Bytes of a constant that a recipe packs for a GPU.
pub(super) fn packed_bytes(recipe: &Recipe) -> usize {
    match (columns(recipe), recipe) {
        (Some((n, depth, Element::Byte)), _) => sums_at(n, depth) + n * size_of::<i32>(),
        (Some((n, depth, element)), _) => n * padded(depth, element) * element.bytes(),
        (_, Recipe::Taps { c, k, taps, element }) => taps * c * k * element.bytes(),
        _ => 0,
    }
}

/// Tells for each element of a constant where it goes.
fn arrange(recipe: &Recipe, len: usize, put: &mut impl FnMut(usize, usize)) {
    match *recipe {
        Recipe::Columns { k, n, axis, element } => {
            let pitch = padded(k, element);
            match axis {
                0 => (0..len).for_each(|i| put(i, i % n * pitch + i / n)),
                _ => (0..len).for_each(|i| put(i, i / k * pitch + i % k)),
            }
        }
        Recipe::Filters { c, taps, element, .. } => {
            let (depth, pitch) = (c * taps, padded(c * taps, element));
            (0..len).for_each(|i| put(i, i / depth * pitch + i % taps * c + i % depth / taps));
        }
        Recipe::Taps { c, k, taps, .. } => (0..len).for_each(|i| put(i, (i % taps * c + i / taps % c) * k + i / taps / c)),
        _ => {}
    }
}

/// Bytes of a column of `k` integers of few bits, with its padding.
pub(crate) fn codes_pitch(k: usize, bits: usize) -> usize {
    (k * bits).div_ceil(8).next_multiple_of(16)
}

/// Packs integers of `bits` bits, `code(column, row)`, as columns one behind the other.
pub(super) fn pack_codes(k: usize, bits: usize, code: impl Fn(usize, usize) -> u8, out: &mut [u8]) {
    for (col, column) in out.chunks_mut(codes_pitch(k, bits).max(1)).enumerate() {
        (0..k).for_each(|row| column[row * bits / 8] |= code(col, row) << (row * bits % 8));
    }
}

/// Packs a constant for a GPU: floats of 32 or 16 bits, i8, u8 (less 128), or i16.
pub(super) fn pack(t: &Tensor, recipe: &Recipe) -> Vec<u8> {
    let mut out = vec![0; packed_bytes(recipe)];
    let element = match recipe {
        Recipe::Columns { element, .. } | Recipe::Filters { element, .. } | Recipe::Taps { element, .. } => *element,
        _ => return out,
    };
    match element {
        Element::Float(p) => {
            let size = p.bytes();
            let mut put = |x: f32, to: usize| p.write(x, &mut out[to * size..][..size]);
            match t.dtype {
                DType::F16 => arrange(recipe, t.len(), &mut |from, to| put(t.slice::<f16>()[from].to_f32(), to)),
                DType::Bf16 => arrange(recipe, t.len(), &mut |from, to| put(t.slice::<bf16>()[from].to_f32(), to)),
                _ => arrange(recipe, t.len(), &mut |from, to| put(t.slice::<f32>()[from], to)),
            }
        }
        Element::Byte => {
            let (x, flip) = (t.bytes(), if t.dtype == DType::U8 { 0x80 } else { 0 });
            arrange(recipe, x.len(), &mut |from, to| out[to] = x[from] ^ flip);
        }
        Element::Short => {
            let x = t.slice::<i16>();
            arrange(recipe, x.len(), &mut |from, to| out[to * 2..][..2].copy_from_slice(&x[from].to_le_bytes()));
        }
    }
    if let Some((n, depth, Element::Byte)) = columns(recipe) {
        let (bytes, sums) = out.split_at_mut(sums_at(n, depth));
        for (column, sum) in bytes.chunks(padded(depth, element).max(1)).zip(sums.chunks_mut(size_of::<i32>())) {
            let of_column = column.iter().fold(0i32, |s, b| s.wrapping_add(i32::from(*b as i8)));
            sum.copy_from_slice(&of_column.to_le_bytes());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_packed_with_their_sums() {
        // Three rows of two columns, of u8: 128 is what they have for zero.
        let t = Tensor::new(&[3, 2], &[129u8, 128, 131, 127, 0, 255]);
        let out = pack(&t, &Recipe::Columns { k: 3, n: 2, axis: 0, element: Element::Byte });
        let columns: Vec<Vec<i8>> = out[..32].chunks(16).map(|c| c[..4].iter().map(|b| *b as i8).collect()).collect();
        assert_eq!(columns, [[1, 3, -128, 0], [0, -1, 127, 0]]);
        let sums: Vec<i32> = out[32..].chunks(4).map(|b| i32::from_le_bytes(b.try_into().unwrap())).collect();
        assert_eq!(sums, [-124, 126]);
    }

    #[test]
    fn integers_of_few_bits_are_packed_column_by_column() {
        let mut out = vec![0; 2 * codes_pitch(5, 4)];
        pack_codes(5, 4, |col, row| (row + 8 * col) as u8, &mut out);
        assert_eq!((&out[..4], &out[16..20]), (&[0x10, 0x32, 0x04, 0][..], &[0x98, 0xba, 0x0c, 0][..]));
        // A matrix whose columns are its rows.
        let halves = Tensor::new(&[2, 3], &[1f32, 2.0, 3.0, 4.0, 5.0, 6.0].map(f16::from_f32));
        let out = pack(&halves, &Recipe::Columns { k: 3, n: 2, axis: 1, element: Precision::F32.into() });
        let found: Vec<f32> = out.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        assert_eq!(found, [1.0, 2.0, 3.0, 0.0, 4.0, 5.0, 6.0, 0.0]);
    }

    #[test]
    fn filters_have_taps_before_channels() {
        // Two filters of two channels and three taps.
        let x: Vec<i8> = (0..12).collect();
        let filters = pack(&Tensor::new(&[2, 2, 3], &x), &Recipe::Filters { c: 2, k: 2, taps: 3, element: Element::Byte });
        assert_eq!((&filters[..6], &filters[16..22]), (&[0, 3, 1, 4, 2, 5][..], &[6, 9, 7, 10, 8, 11][..]));
        let wide: Vec<i16> = x.iter().map(|x| i16::from(*x) - 200).collect();
        let taps = pack(&Tensor::new(&[4, 1, 3], &wide), &Recipe::Taps { c: 1, k: 4, taps: 3, element: Element::Short });
        let found: Vec<i16> = taps.chunks(2).map(|b| i16::from_le_bytes(b.try_into().unwrap()) + 200).collect();
        assert_eq!(found, [0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11]);
    }
}
