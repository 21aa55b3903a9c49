//! `Plan`: when and where. A tree of steps over placed buffers; everything is decided here, printers only print.

mod device;
mod digits;
mod join;
mod memory;
mod requires;
mod schedule;
mod scratch;
mod share;
mod strips;
mod weights;
mod work;

pub use device::Device;
pub(crate) use device::{codes_pitch, sums_at};
pub use digits::Digits;
pub use join::COPIES;
pub use memory::{Arena, Life};
pub use requires::Check;
pub use schedule::{Settings, schedule, schedule_with};
pub use weights::{Blob, Weights};
pub use work::Work;

use crate::ir::{Dim, Graph, Port, Sym, ValueId};
use crate::kernel::Kernel;
use crate::state::States;
use crate::target::Choice;
use kiln_kernels::host::FEATURES;
use std::collections::{BTreeMap, BTreeSet};

/// Where a value lies at run time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A blob of the weights.
    Weight(usize),
    /// The memory of input `i`.
    Input(usize),
    /// State `i`, which the instance keeps between runs.
    State(usize),
    /// A buffer of the arena.
    Buffer(usize),
    /// A slot beside the arena: its size depends on data, or it is no dense tensor.
    Slot(usize),
}

/// A buffer of the arena.
#[derive(Clone, Debug, PartialEq)]
pub struct Buffer {
    /// Bytes.
    pub bytes: Dim,
    /// When it is in use.
    pub life: Life,
}

/// One step.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "nearly every step is of the large variant")]
pub enum Step {
    /// A kernel.
    Kernel(KernelStep),
    /// One of two lists of steps, by a condition.
    If {
        /// The condition.
        cond: ValueId,
        /// The steps of the two branches.
        branches: [Vec<Step>; 2],
        /// Results of each branch, and where they go.
        results: [Vec<Transfer>; 2],
        /// Symbols of the results, defined from the slots they land in.
        defines: Vec<Define>,
        /// The line of the node in the table.
        line: usize,
    },
    /// A loop.
    Loop(Box<LoopStep>),
}

/// A kernel run.
#[derive(Clone, Debug)]
pub struct KernelStep {
    /// The kernel.
    pub kernel: Kernel,
    /// Operands by position.
    pub inputs: Vec<Option<ValueId>>,
    /// Results by position.
    pub outputs: Vec<ValueId>,
    /// ONNX nodes it covers.
    pub origins: Vec<usize>,
    /// The line of its first node in the table.
    pub line: usize,
    /// Symbols that a host function's results define.
    pub defines: Vec<Define>,
    /// What must hold of extents before it runs, with the line of the node that takes it for granted.
    pub requires: Vec<(Check, usize)>,
    /// Its position in time.
    pub time: u32,
    /// Who computes it.
    pub on: On,
}

/// Who computes a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    /// The CPU; in a plan for a GPU, because of this.
    Cpu(&'static str),
    /// The GPU.
    Gpu,
}

/// A symbol that becomes the extent of a value in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Define {
    /// The symbol.
    pub sym: Sym,
    /// The slot.
    pub slot: usize,
    /// The axis.
    pub axis: usize,
    /// The rank the slot must have.
    pub rank: usize,
}

/// A value moved as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// From.
    pub from: ValueId,
    /// To.
    pub to: ValueId,
}

/// A loop of steps.
#[derive(Clone, Debug)]
pub struct LoopStep {
    /// The trip count, if there is one.
    pub trips: Option<ValueId>,
    /// The condition on entry, if there is one.
    pub cond: Option<ValueId>,
    /// The iteration number inside.
    pub iteration: ValueId,
    /// The condition inside, and the one the body gives.
    pub conds: (ValueId, ValueId),
    /// Initial values into carried ones.
    pub enter: Vec<Transfer>,
    /// The body.
    pub body: Vec<Step>,
    /// Symbols of carried values, defined anew before each iteration.
    pub carried: Vec<Define>,
    /// Values of an iteration into carried ones; `staged` when one overwrites what another still reads.
    pub next: Vec<Transfer>,
    /// Whether `next` must be read whole before it is written.
    pub staged: bool,
    /// Slices that stack up: the body's value, and the result.
    pub stacks: Vec<Transfer>,
    /// Symbols of the results.
    pub defines: Vec<Define>,
    /// The line of the node in the table.
    pub line: usize,
}

/// What rewriting did, by the line of the ONNX node in the table.
#[derive(Clone, Debug, Default)]
pub struct Notes {
    /// Rules that touched the node.
    pub rules: BTreeMap<usize, BTreeSet<&'static str>>,
    /// Rules that all but matched, and why they did not.
    pub misses: BTreeMap<usize, BTreeSet<(&'static str, &'static str)>>,
}

/// Everything a printer needs.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The graph the plan computes; for types, names and constants.
    pub graph: Graph,
    /// The steps.
    pub steps: Vec<Step>,
    /// Where values lie.
    pub places: BTreeMap<ValueId, Place>,
    /// Elements before the first one of values that lie inside of what others share their place with.
    pub starts: BTreeMap<ValueId, Dim>,
    /// Buffers.
    pub buffers: Vec<Buffer>,
    /// Number of slots.
    pub slots: usize,
    /// Constants as kernels read them.
    pub weights: Weights,
    /// Offsets of the buffers.
    pub arena: Arena,
    /// The ONNX nodes that steps name, as text.
    pub lines: Vec<String>,
    /// What rewriting did with each ONNX node, for those who read the generated code.
    pub notes: Notes,
    /// Whether kernels keep to sums of rounded products, in a documented order.
    pub exact: bool,
    /// Packed matrices that some machines write in digits.
    pub digits: Vec<Digits>,
    /// Kernels that several methods could compute, with the one that each has.
    pub choices: Vec<Choice>,
    /// What an instance keeps between runs.
    pub states: States,
    /// The GPU's side, in a plan for one.
    pub device: Option<Device>,
}

impl Plan {
    /// The inputs that a caller gives, with their ports.
    pub fn inputs(&self) -> impl DoubleEndedIterator<Item = (ValueId, &Port)> {
        let g = &self.graph;
        g.body.inputs.iter().copied().zip(&g.inputs).take(g.inputs.len() - self.states.pairs.len())
    }
    /// The outputs that a caller gets, with their ports.
    pub fn outputs(&self) -> impl DoubleEndedIterator<Item = (ValueId, &Port)> {
        let g = &self.graph;
        g.body.outputs.iter().copied().zip(&g.outputs).take(g.outputs.len() - self.states.pairs.len())
    }
    /// The outputs that are the next values of states, in their order.
    pub fn presents(&self) -> &[ValueId] {
        let all = &self.graph.body.outputs;
        &all[all.len() - self.states.pairs.len()..]
    }
    /// Every kernel step, in order of time.
    pub fn kernels(&self) -> Vec<&KernelStep> {
        fn walk<'a>(steps: &'a [Step], out: &mut Vec<&'a KernelStep>) {
            for s in steps {
                match s {
                    Step::Kernel(k) => out.push(k),
                    Step::If { branches, .. } => branches.iter().for_each(|b| walk(b, out)),
                    Step::Loop(l) => walk(&l.body, out),
                }
            }
        }
        let mut out = Vec::new();
        walk(&self.steps, &mut out);
        out
    }
    /// The features of the crate `kiln` that the model needs, each with the line of the first node that does.
    pub fn features(&self) -> BTreeMap<&'static str, usize> {
        let mut out = BTreeMap::new();
        for k in self.kernels() {
            if let Kernel::Host(h) = &k.kernel
                && let Some((_, feature)) = FEATURES.iter().find(|(name, _)| *name == h.name)
            {
                out.entry(*feature).or_insert(k.line);
            }
        }
        out
    }
    /// Bytes of scratch that an instance allocates for each worker; `None` where open dimensions decide it.
    pub fn scratch_bytes(&self) -> Option<usize> {
        scratch::scratch(self)
    }
}
