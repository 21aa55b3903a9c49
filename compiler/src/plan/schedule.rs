//! Clusters to steps: the order of the graph, layouts made to agree, a place for every value, and lifetimes.

use super::memory::{self, Life};
use super::requires::{self, Check};
use super::share::{self, Panels};
use super::strips;
use super::{Buffer, Define, KernelStep, LoopStep, Notes, Place, Plan, Step, Transfer, Weights};
use crate::fusion::{self, Cluster};
use crate::ir::{Block, Dim, Fact, Graph, Node, ValueId, product};
use crate::kernel::{Kernel, Operand, Packed, Recipe, Requantized, Stride};
use crate::layout::{self, Access, Layout, Layouts};
use crate::ops::{Op, control};
use crate::pipeline::Ablation;
use crate::state::States;
use crate::target::cpu::{self, Selected};
use crate::target::{Accuracy, Choice, Tuning};
use kiln_kernels::dtype::DType;
use std::collections::{BTreeMap, BTreeSet};

/// Makes the plan of a graph whose last inputs and outputs are the states, with methods by the cost model.
pub fn schedule(g: Graph, without: Ablation, accuracy: Accuracy, states: States) -> Plan {
    schedule_tuned(g, without, accuracy, states, Tuning::default())
}

/// Makes the plan of a graph whose last inputs and outputs are the states, with methods as they were measured where they were.
pub fn schedule_tuned(mut g: Graph, without: Ablation, accuracy: Accuracy, states: States, tuning: Tuning) -> Plan {
    let tables = share::tables(&mut g, accuracy);
    let fuse = without != Ablation::Fusion;
    let clusters = fusion::cluster(&g, &g.body, fuse);
    let (kept, grown) = kept(&mut g, &states);
    let layouts = match without {
        Ablation::Layouts => layout::forced(&g, &clusters, grown),
        _ => layout::choose(&g, &clusters, grown),
    };
    let lines = g.origins.iter().map(|o| o.to_string()).collect();
    let uses = g.uses();
    let mut s = Scheduler {
        g,
        layouts,
        places: BTreeMap::new(),
        starts: BTreeMap::new(),
        checks: Vec::new(),
        buffers: Vec::new(),
        owner: Vec::new(),
        slots: 0,
        weights: Weights::default(),
        time: 0,
        uses,
        copies: BTreeMap::new(),
        tables,
        loops: Vec::new(),
        depth: 0,
        fuse,
        accuracy,
        tuning,
        choices: Vec::new(),
    };
    for (i, v) in s.g.body.inputs.clone().into_iter().enumerate() {
        s.places.insert(v, Place::Input(i));
    }
    s.places.extend(kept);
    let body = s.g.body.clone();
    let mut steps = Vec::new();
    for c in clusters {
        s.cluster(&c, &mut steps);
    }
    let first = body.outputs.len() - states.pairs.len();
    for (i, v) in body.outputs.iter().enumerate() {
        if i >= first && states.pairs[i - first].grows.is_some() {
            // It lies where the next run looks for it.
            continue;
        }
        let w = s.wanted(*v, Layout::RowMajor, &mut steps);
        s.place_constant(w);
        let w = s.own_output(w, &mut steps);
        s.g.body.outputs[i] = w;
        s.touch(w, u32::MAX - 1);
    }
    // Views that no step follows are checked by the last one: the inputs settle all that they take for granted.
    let last = steps.iter_mut().rev().find_map(|s| if let Step::Kernel(k) = s { Some(k) } else { None });
    if let Some(last) = last {
        last.requires.append(&mut s.checks);
    }
    // Lifetimes of outputs end with the last step.
    let end = s.time;
    s.buffers.iter_mut().for_each(|b| b.life.to = b.life.to.min(end));
    let arena = memory::place(&s.buffers, &s.g.symbols);
    let Scheduler { g: graph, places, starts, buffers, slots, weights, choices, .. } = s;
    let (notes, exact, digits) = (Notes::default(), accuracy == Accuracy::Exact, Vec::new());
    let mut plan = Plan { graph, steps, places, starts, buffers, slots, weights, arena, lines, notes, exact, digits, states, choices };
    plan.choose_digits();
    plan
}

/// Something for each of some values.
type Each<T> = Vec<(ValueId, T)>;

/// The places of states, and where the values lie that share them: what a state is and becomes, in the order of `states`.
fn kept(g: &mut Graph, states: &States) -> (Each<Place>, Each<Access>) {
    let (mut places, mut shared) = (Vec::new(), Vec::new());
    let count = states.pairs.len();
    let (inputs, outputs) = (g.body.inputs.len() - count, g.body.outputs.len() - count);
    for (k, pair) in states.pairs.iter().enumerate() {
        let (past, present) = (g.body.inputs[inputs + k], g.body.outputs[outputs + k]);
        let place = Place::State(k);
        if pair.grows.is_none() {
            places.push((past, place));
            continue;
        }
        let extents = pair.extents.iter().map(|n| Dim::from(*n)).collect();
        let memory = g.add_value(Fact::tensor(pair.dtype, extents), "");
        let made = g.body.nodes.iter().find(|n| g[**n].outputs.contains(&present));
        let appends = made.is_some_and(|n| matches!(g[*n].op, Op::Append(_)) && g[*n].inputs[0] == Some(past));
        assert!(appends, "a rule has taken apart how the state {:?} grows", pair.input);
        places.extend([memory, past].map(|v| (v, place)));
        shared.extend([past, present].map(|v| (v, pair.access(memory))));
    }
    (places, shared)
}

struct Scheduler {
    g: Graph,
    layouts: Layouts,
    places: BTreeMap<ValueId, Place>,
    /// Where values begin that do not begin where their place does.
    starts: BTreeMap<ValueId, Dim>,
    /// What views take for granted, for the next step to check, with the line of the view's node.
    checks: Vec<(Check, usize)>,
    buffers: Vec<Buffer>,
    /// How deep in blocks each buffer was made.
    owner: Vec<usize>,
    slots: usize,
    weights: Weights,
    time: u32,
    /// Reads of each value that are still to come.
    uses: BTreeMap<ValueId, usize>,
    copies: BTreeMap<(ValueId, Layout), ValueId>,
    /// Tables that are read from the panels of a product.
    tables: BTreeMap<ValueId, Panels>,
    /// For each loop around: its first step, and the buffers from outside that it reads.
    loops: Vec<(u32, BTreeSet<usize>)>,
    depth: usize,
    /// Whether nodes share kernels.
    fuse: bool,
    accuracy: Accuracy,
    tuning: Tuning,
    /// Kernels that several methods could compute.
    choices: Vec<Choice>,
}

/// What is told of a kernel step beside its kernel and values.
#[derive(Default)]
struct Made {
    origins: Vec<usize>,
    defines: Vec<Define>,
    requires: Vec<(Check, usize)>,
}

impl Scheduler {
    /// The steps of an inner block. Its outputs become row-major values, as those around it take them to be.
    fn block(&mut self, b: &mut Block) -> Vec<Step> {
        let mut steps = Vec::new();
        self.depth += 1;
        for c in fusion::cluster(&self.g, b, self.fuse) {
            // Layouts are chosen for the model's own block; here only what the kernel cannot write otherwise is noted.
            for v in layout::channels_last_only(&self.g, &c) {
                self.layouts.set(*v, Layout::ChannelsLast);
            }
            self.cluster(&c, &mut steps);
        }
        for v in &mut b.outputs {
            *v = self.wanted(*v, Layout::RowMajor, &mut steps);
        }
        self.depth -= 1;
        steps
    }

    fn new_buffer(&mut self, v: ValueId) -> Place {
        let bytes = product(self.g.shape(v)) * (self.g.dtype(v).size() as i64).into();
        self.buffers.push(Buffer { bytes, life: Life { from: self.time, to: self.time } });
        self.owner.push(self.depth);
        Place::Buffer(self.buffers.len() - 1)
    }
    /// Gives a value its place: in the memory of another where the layouts say so, else one of its own.
    fn define(&mut self, v: ValueId) {
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
    fn define_slot(&mut self, v: ValueId) {
        self.slots += 1;
        self.places.insert(v, Place::Slot(self.slots - 1));
    }
    /// Notes that a value is read at a time.
    fn touch(&mut self, v: ValueId, time: u32) {
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
    fn place_constant(&mut self, v: ValueId) {
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
    fn wanted(&mut self, v: ValueId, layout: Layout, steps: &mut Vec<Step>) -> ValueId {
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
    fn own_output(&mut self, v: ValueId, steps: &mut Vec<Step>) -> ValueId {
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

    fn cluster(&mut self, c: &Cluster, steps: &mut Vec<Step>) {
        let first = c.nodes[0];
        let node = self.g[first].clone();
        // Reads by this cluster are no longer to come.
        for n in &c.nodes {
            for v in self.g[*n].inputs.iter().flatten() {
                if let Some(u) = self.uses.get_mut(v) {
                    *u = u.saturating_sub(1);
                }
            }
        }
        match &node.op {
            Op::If(_) => return self.branch(&node, steps),
            Op::Loop(l) => return self.repeat(&node, l, steps),
            _ if self.layouts.is_view(c.outputs[0]) => return self.look(&node),
            Op::Reshape(_) | Op::BitCast(_) if self.fixed(&node) => return,
            _ => {}
        }
        let (mut kernel, replaced) = self.select(c, steps);
        let choice = cpu::quicken(&self.g, &mut kernel, self.accuracy, &self.tuning);
        cpu::shorten(&self.g, &mut kernel, self.accuracy);
        let of = |v: ValueId| replaced.get(&v).copied().unwrap_or(v);
        kernel.map_values(&of);
        let by_position = kernel.by_position();
        let mut inputs: Vec<Option<ValueId>> =
            if by_position { node.inputs.iter().map(|v| v.map(of)).collect() } else { kernel.values().into_iter().map(Some).collect() };
        let packed: Vec<Packed> = kernel.packed().into_iter().cloned().collect();
        for p in packed {
            self.weights.intern(&self.g, p);
        }
        if let Some(packed) = share::read_panels(&mut kernel, &mut inputs, &self.tables)
            && let Some(panels) = inputs[0]
        {
            let blob = self.weights.intern(&self.g, packed);
            self.places.insert(panels, Place::Weight(blob));
        }
        inputs.iter().flatten().for_each(|v| self.place_constant(*v));
        self.time += 1;
        let time = self.time;
        let mut defines = Vec::new();
        let host = matches!(kernel, Kernel::Host(_));
        for &v in &c.outputs {
            match self.in_place(&kernel, v) {
                Some(b) => {
                    self.places.insert(v, Place::Buffer(b));
                    self.touch(v, time);
                }
                None if host => {
                    self.define_slot(v);
                    defines.extend(self.defines_of(v, v));
                }
                None => self.define(v),
            }
        }
        inputs.iter().flatten().for_each(|v| self.touch(*v, time));
        let mut origins: Vec<usize> = Vec::new();
        for o in c.nodes.iter().flat_map(|n| &self.g[*n].origins) {
            if !origins.contains(o) {
                origins.push(*o);
            }
        }
        self.choices.extend(choice.map(|c| Choice { origins: origins.clone(), ..c }));
        let line = origins.first().copied().unwrap_or(0);
        let mut requires: Vec<_> = c.nodes.iter().flat_map(|n| requires::of(&self.g, &self.g[*n])).map(|c| (c, line)).collect();
        if let Some(before) = self.join(&mut kernel, steps) {
            inputs = kernel.values().into_iter().map(Some).collect();
            before.inputs.iter().flatten().for_each(|v| self.touch(*v, time));
            origins.splice(0..0, before.origins);
            requires.splice(0..0, before.requires);
        }
        if matches!(&kernel, Kernel::Move { copies, .. } if copies.is_empty()) && self.depth == 0 {
            // Everything has been written where it belongs.
            return self.checks.extend(requires);
        }
        self.push(steps, kernel, inputs, c.outputs.clone(), Made { origins, defines, requires });
    }

    /// Takes back the step before where a kernel can do its work on the way, and nobody else reads its result.
    fn join(&mut self, kernel: &mut Kernel, steps: &mut Vec<Step>) -> Option<KernelStep> {
        let Some(Step::Kernel(before)) = steps.last() else { return None };
        let [between] = before.outputs[..] else { return None };
        let Some(&Place::Buffer(buffer)) = self.places.get(&between) else { return None };
        let alone = self.uses.get(&between) == Some(&0) && !self.g.body.outputs.contains(&between);
        let whole = self.layouts.shared(between).is_none() && self.places.values().filter(|p| **p == Place::Buffer(buffer)).count() == 1;
        if !self.fuse || self.depth > 0 || !alone || !whole {
            return None;
        }
        *kernel = strips::join(&self.g, &before.kernel, between, kernel)?;
        self.places.remove(&between);
        // Buffers are known by their numbers, so nobody's stays, and takes no memory.
        self.buffers[buffer].bytes = Dim::int(0);
        let Some(Step::Kernel(before)) = steps.pop() else { return None };
        Some(before)
    }

    /// The kernel of a cluster, and the copies that it reads instead of values.
    fn select(&mut self, c: &Cluster, steps: &mut Vec<Step>) -> (Kernel, BTreeMap<ValueId, ValueId>) {
        let Selected { kernel, wants, .. } = cpu::select(&self.g, c, &self.layouts);
        // Where anchor and tail disagree about a value, the anchor gives way: tails come last.
        let wants: BTreeMap<ValueId, Layout> = wants.into_iter().collect();
        let mut replaced = BTreeMap::new();
        for (&v, &layout) in &wants {
            let w = self.wanted(v, layout, steps);
            if w != v {
                replaced.insert(v, w);
            }
        }
        if replaced.is_empty() {
            return (kernel, replaced);
        }
        // A copy may also be read where the value itself would have done: all steps are those of the copy.
        let before: Vec<_> = replaced.keys().map(|v| (*v, self.layouts.suppose(*v, wants[v]))).collect();
        let Selected { kernel, wants, .. } = cpu::select(&self.g, c, &self.layouts);
        debug_assert!(wants.iter().all(|(v, layout)| self.layouts.is_dense(&self.g, *v, *layout)), "{} wants a value twice", kernel.name());
        before.into_iter().for_each(|(v, known)| self.layouts.restore(v, known));
        (kernel, replaced)
    }

    /// Adds a kernel step. Steps of the model's own block also check what the views before them take for granted.
    fn push(&mut self, steps: &mut Vec<Step>, kernel: Kernel, inputs: Vec<Option<ValueId>>, outputs: Vec<ValueId>, made: Made) {
        let Made { origins, defines, requires } = made;
        let line = origins.first().copied().unwrap_or(0);
        let before = if self.depth == 0 { std::mem::take(&mut self.checks) } else { vec![] };
        let requires = before.into_iter().chain(requires).collect();
        steps.push(Step::Kernel(KernelStep { kernel, inputs, outputs, origins, line, defines, requires, time: self.time }));
    }

    /// Results that are other ways to read memory that is there.
    fn look(&mut self, node: &Node) {
        let line = node.origins.first().copied().unwrap_or(0);
        self.checks.extend(requires::of(&self.g, node).into_iter().map(|c| (c, line)));
        node.outputs.iter().for_each(|v| self.define(*v));
    }

    /// The buffer of an operand that a kernel may overwrite with its result: read at the same places, and never again.
    fn in_place(&self, kernel: &Kernel, out: ValueId) -> Option<usize> {
        if !layout::fits(&self.g, out) || self.layouts.shared(out).is_some() {
            return None;
        }
        match kernel {
            Kernel::Map { dims, operands, to, .. } => self.over_operand(dims, operands, to, out),
            _ => self.over_addend(kernel, out),
        }
    }
    /// [`Self::in_place`] of kernels that add bytes to the bytes that sums become: each is read, and never again, just before its sum is
    /// written.
    fn over_addend(&self, kernel: &Kernel, out: ValueId) -> Option<usize> {
        let (Kernel::IntConv { epilogue: Some(e), .. } | Kernel::IntGemm { epilogue: Some(e), .. }) = kernel else { return None };
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

    /// Symbols that the extents of `v` define, read from the slot of `at`.
    fn defines_of(&self, v: ValueId, at: ValueId) -> Vec<Define> {
        let Some(Place::Slot(slot)) = self.places.get(&at).copied() else { return vec![] };
        let shape = self.g.shape(v);
        (shape.iter().enumerate())
            .filter_map(|(axis, d)| {
                let sym = d.as_sym()?;
                self.g.symbols[sym.0 as usize].input.is_none().then_some(Define { sym, slot, axis, rank: shape.len() })
            })
            .collect()
    }

    /// Has a Reshape inside of a block, or of what one hands out, share its operand's memory where that is row-major and fixed in
    /// size. A slot's shape is part of it, so it is copied.
    fn fixed(&mut self, node: &Node) -> bool {
        let (Some(x), out) = (node.inputs[0], node.outputs[0]) else { return false };
        if !requires::of(&self.g, node).is_empty() || !layout::fits(&self.g, out) || self.layouts.shared(out).is_some() {
            return false;
        }
        self.place_constant(x);
        let place = match self.places.get(&x) {
            Some(Place::Slot(_)) | None => return false,
            Some(place) if self.layouts.is_whole(&self.g, x) => *place,
            Some(_) => return false,
        };
        self.places.insert(out, place);
        true
    }

    /// Makes row-major copies of the values that blocks capture from here, and rewrites the blocks to read them.
    fn captured(&mut self, node: &Node, steps: &mut Vec<Step>) -> Vec<Block> {
        let mut map = BTreeMap::new();
        let outer: Vec<ValueId> = self.layouts.reordered().collect();
        for v in outer {
            let used = node.blocks.iter().any(|b| self.reads(b, v));
            if used {
                let w = self.wanted(v, Layout::RowMajor, steps);
                if w != v {
                    map.insert(v, w);
                }
            }
        }
        let mut blocks = node.blocks.clone();
        if !map.is_empty() {
            blocks.iter_mut().for_each(|b| self.rename(b, &map));
        }
        blocks
    }
    fn reads(&self, b: &Block, v: ValueId) -> bool {
        b.outputs.contains(&v)
            || b.nodes.iter().any(|n| {
                let node = &self.g[*n];
                node.inputs.contains(&Some(v)) || node.blocks.iter().any(|b| self.reads(b, v))
            })
    }
    fn rename(&mut self, b: &mut Block, map: &BTreeMap<ValueId, ValueId>) {
        let of = |v: &mut ValueId| *v = map.get(v).copied().unwrap_or(*v);
        b.outputs.iter_mut().for_each(of);
        for n in b.nodes.clone() {
            let mut inner = std::mem::take(&mut self.g[n].blocks);
            inner.iter_mut().for_each(|b| self.rename(b, map));
            self.g[n].blocks = inner;
            self.g[n].inputs.iter_mut().flatten().for_each(of);
        }
    }

    fn branch(&mut self, node: &Node, steps: &mut Vec<Step>) {
        let Some(cond) = node.inputs[0] else { return };
        let mut blocks = self.captured(node, steps);
        self.place_constant(cond);
        self.time += 1;
        self.touch(cond, self.time);
        let outs = node.outputs.clone();
        outs.iter().for_each(|v| self.define(*v));
        let mut branches = Vec::new();
        let mut results = Vec::new();
        for b in &mut blocks {
            branches.push(self.block(b));
            self.time += 1;
            let mut moved = Vec::new();
            for (from, to) in b.outputs.iter().zip(&outs) {
                self.place_constant(*from);
                self.touch(*from, self.time);
                self.touch(*to, self.time);
                moved.push(Transfer { from: *from, to: *to });
            }
            results.push(moved);
        }
        let defines = outs.iter().flat_map(|v| self.defines_of(*v, *v)).collect();
        let (Some(no), Some(yes)) = (branches.pop(), branches.pop()) else { return };
        let (Some(no_results), Some(yes_results)) = (results.pop(), results.pop()) else { return };
        let line = node.origins.first().copied().unwrap_or(0);
        steps.push(Step::If { cond, branches: [yes, no], results: [yes_results, no_results], defines, line });
    }

    fn repeat(&mut self, node: &Node, l: &control::Loop, steps: &mut Vec<Step>) {
        let blocks = self.captured(node, steps);
        let Some(mut body) = blocks.into_iter().next() else { return };
        let initial: Vec<ValueId> = node.inputs[2..].iter().flatten().map(|v| self.wanted(*v, Layout::RowMajor, steps)).collect();
        node.inputs.iter().flatten().chain(&initial).for_each(|v| self.place_constant(*v));
        self.time += 1;
        let start = self.time;
        node.inputs.iter().flatten().chain(&initial).for_each(|v| self.touch(*v, start));
        body.inputs.iter().for_each(|v| self.define(*v));
        let carried = body.inputs[2..2 + l.carried].to_vec();
        let mut enter = Vec::new();
        for (from, to) in initial.iter().zip(&carried) {
            enter.push(Transfer { from: *from, to: *to });
        }
        // Results that stack up are written while the loop runs.
        let (finals, stacked) = node.outputs.split_at(l.carried);
        stacked.iter().for_each(|v| self.define(*v));
        self.loops.push((start + 1, BTreeSet::new()));
        let inner = self.block(&mut body);
        self.time += 1;
        let end = self.time;
        body.outputs.iter().for_each(|v| {
            self.place_constant(*v);
            self.touch(*v, end);
        });
        body.inputs.iter().for_each(|v| self.touch(*v, end));
        stacked.iter().for_each(|v| self.touch(*v, end));
        node.inputs.iter().flatten().for_each(|v| self.touch(*v, end));
        if let Some((_, outside)) = self.loops.pop() {
            for b in outside {
                self.buffers[b].life.to = self.buffers[b].life.to.max(end);
                for (s, outer) in &mut self.loops {
                    if self.buffers[b].life.from < *s {
                        outer.insert(b);
                    }
                }
            }
        }
        let next: Vec<Transfer> = body.outputs[1..=l.carried].iter().zip(&carried).map(|(f, t)| Transfer { from: *f, to: *t }).collect();
        // A carried value handed on to another place would be overwritten before it is read.
        let staged = next.iter().any(|t| next.iter().any(|o| o.to != t.to && self.places.get(&o.to) == self.places.get(&t.from)));
        let next = next.into_iter().filter(|t| self.places.get(&t.from) != self.places.get(&t.to)).collect();
        let mut defines = Vec::new();
        for (v, p) in finals.iter().zip(&carried) {
            let place = self.places[p];
            self.places.insert(*v, place);
            if let Place::Buffer(b) = place {
                self.owner[b] = self.depth;
            }
            defines.extend(self.defines_of(*v, *p));
        }
        let stacks: Vec<Transfer> = body.outputs[1 + l.carried..].iter().zip(stacked).map(|(f, t)| Transfer { from: *f, to: *t }).collect();
        defines.extend(stacked.iter().flat_map(|v| self.defines_of(*v, *v)));
        let carried_defines = carried.iter().flat_map(|v| self.defines_of(*v, *v)).collect();
        steps.push(Step::Loop(Box::new(LoopStep {
            trips: node.inputs[0],
            cond: node.inputs[1],
            iteration: body.inputs[0],
            conds: (body.inputs[1], body.outputs[0]),
            enter,
            body: inner,
            carried: carried_defines,
            next,
            staged,
            stacks,
            defines,
            line: node.origins.first().copied().unwrap_or(0),
        })));
    }
}
