//! Clusters to steps: the order of the graph, layouts made to agree, a place for every value, and lifetimes.

mod nested;
mod places;

use super::memory;
use super::requires::{self, Check};
use super::share::{self, Panels};
use super::strips;
use super::{Buffer, Define, KernelStep, Notes, On, Place, Plan, Step, Weights};
use crate::fusion::{self, Cluster};
use crate::ir::{Block, Dim, Fact, Graph, Node, ValueId};
use crate::kernel::{Kernel, Packed};
use crate::layout::{self, Access, Layout, Layouts};
use crate::ops::Op;
use crate::pipeline::Ablation;
use crate::state::States;
use crate::target::cpu::{self, Selected};
use crate::target::{Accuracy, Choice, Precision, Tuning, cuda};
use std::collections::{BTreeMap, BTreeSet};

/// What a plan is made for, beside its graph.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// What is left out.
    pub without: Ablation,
    /// Which algorithms may compute a result.
    pub accuracy: Accuracy,
    /// Methods as they were measured.
    pub tuning: Tuning,
    /// The precision of the GPU it is for; none where it is for the CPU.
    pub cuda: Option<Precision>,
}

/// Makes the plan for the CPU of a graph whose last inputs and outputs are the states, with methods by the cost model.
pub fn schedule(g: Graph, without: Ablation, accuracy: Accuracy, states: States) -> Plan {
    schedule_with(g, states, Settings { without, accuracy, ..Settings::default() })
}

/// Makes the plan of a graph whose last inputs and outputs are the states.
pub fn schedule_with(mut g: Graph, states: States, settings: Settings) -> Plan {
    let Settings { without, accuracy, tuning, cuda } = settings;
    // What follows from the instruction sets of CPUs is left out of a plan for a GPU.
    let forms = cuda.map(|_| tuning.forms()).unwrap_or_default();
    let accuracy = if cuda.is_some() { Accuracy::Exact } else { accuracy };
    let tables = if cuda.is_some() { BTreeMap::new() } else { share::tables(&mut g, accuracy) };
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
        cuda,
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
    let mut plan =
        Plan { graph, steps, places, starts, buffers, slots, weights, arena, lines, notes, exact, digits, states, choices, device: None };
    match cuda {
        Some(precision) => plan.store_halves(precision, forms),
        None => plan.choose_digits(),
    }
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
    /// The precision of the GPU that the plan is for.
    cuda: Option<Precision>,
}

/// What is told of a kernel step beside its kernel and values.
#[derive(Default)]
struct Made {
    origins: Vec<usize>,
    defines: Vec<Define>,
    requires: Vec<(Check, usize)>,
    /// Who computes it, where that was settled before.
    on: Option<On>,
}

impl Scheduler {
    /// Who computes a kernel. Blocks are the CPU's, which follows their conditions.
    fn on(&self, kernel: &Kernel, inputs: &[Option<ValueId>], outputs: &[ValueId]) -> On {
        match self.cuda {
            None => On::Cpu(""),
            Some(_) if self.depth > 0 => On::Cpu("it is inside of a branch or loop"),
            Some(_) => cuda::refusal(&self.g, kernel, inputs, outputs).map_or(On::Gpu, On::Cpu),
        }
    }
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
        let on = self.on(&kernel, &inputs, &c.outputs);
        if let (On::Gpu, Some(precision)) = (on, self.cuda) {
            cuda::pack(&mut kernel, precision);
        }
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
        self.push(steps, kernel, inputs, c.outputs.clone(), Made { origins, defines, requires, on: Some(on) });
    }

    /// Takes back the step before where a kernel can do its work on the way, and nobody else reads its result.
    fn join(&mut self, kernel: &mut Kernel, steps: &mut Vec<Step>) -> Option<KernelStep> {
        let Some(Step::Kernel(before)) = steps.last() else { return None };
        let [between] = before.outputs[..] else { return None };
        let Some(&Place::Buffer(buffer)) = self.places.get(&between) else { return None };
        if self.cuda.is_some() {
            return None;
        }
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
        let Made { origins, defines, requires, on } = made;
        let on = on.unwrap_or_else(|| self.on(&kernel, &inputs, &outputs));
        let line = origins.first().copied().unwrap_or(0);
        let before = if self.depth == 0 { std::mem::take(&mut self.checks) } else { vec![] };
        let requires = before.into_iter().chain(requires).collect();
        steps.push(Step::Kernel(KernelStep { kernel, inputs, outputs, origins, line, defines, requires, time: self.time, on }));
    }

    /// Results that are other ways to read memory that is there.
    fn look(&mut self, node: &Node) {
        let line = node.origins.first().copied().unwrap_or(0);
        self.checks.extend(requires::of(&self.g, node).into_iter().map(|c| (c, line)));
        node.outputs.iter().for_each(|v| self.define(*v));
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
}
