//! What generated code says of its model: ports, symbols, memory and the function that runs it.

use crate::cuda::DeviceSpec;
use crate::error::Fail;
use crate::frame::Frame;
use crate::memory::Life;
use crate::state::StateSpec;
use kiln_kernels::dtype::DType;
use kiln_kernels::isa::Isa;

/// A matrix among the weights that is packed in panels of [`kiln_kernels::gemm::PANEL`] columns.
#[derive(Clone, Copy, Debug)]
pub struct Digits {
    /// Where it begins, in bytes.
    pub at: usize,
    /// Its rows.
    pub k: usize,
    /// Its panels.
    pub panels: usize,
}

/// An input or output of a model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Port {
    /// The ONNX name.
    pub name: &'static str,
    /// What kind of value it takes or gives.
    pub kind: PortKind,
    /// The element type; of sequences, optionals and maps, that of the tensors inside.
    pub dtype: DType,
    /// The extents of a tensor of known rank; empty for other kinds.
    pub dims: &'static [PortDim],
    /// Whether a caller may leave it out.
    pub optional: bool,
}

/// The kind of a port's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortKind {
    /// A tensor with the extents of [`Port::dims`].
    Tensor,
    /// A tensor of any rank.
    AnyTensor,
    /// A sequence, optional or map.
    Value,
}

/// One extent of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortDim {
    /// Always this.
    Closed(usize),
    /// The symbol of that number.
    Symbol(usize),
    /// Computed from symbols; only of outputs.
    Computed,
}

/// A dimension that the caller chooses, or a count that a step defines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Symbol {
    /// Its name in the model.
    pub name: &'static str,
    /// The least value.
    pub lo: i64,
    /// The greatest value; `None` when it is open.
    pub hi: Option<i64>,
    /// Whether inputs bind it.
    pub entry: bool,
}

/// How the arena is laid out.
#[derive(Clone, Copy, Debug)]
pub enum ArenaSpec {
    /// Every offset is a constant.
    Fixed(usize),
    /// Buffers are placed when the dimensions are known: a function of the symbols gives their sizes.
    Open {
        /// Writes the size of each buffer in bytes.
        sizes: fn(&[i64], &mut [usize]),
        /// When each buffer lives.
        lives: &'static [Life],
    },
}

/// Where an output is found after a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutPlace {
    /// At an offset of the arena, in bytes.
    Arena(usize),
    /// In a buffer of an open arena.
    Buffer(usize),
    /// At an offset of the weights.
    Weight(usize),
    /// The memory of an input.
    Input(usize),
    /// In a slot.
    Slot(usize),
}

/// How a kernel computes: which instructions bound its speed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// One element after the other, by vectors of them.
    Vectors,
    /// Sums of products of f32.
    MultiplyAdds,
    /// Such sums, by products of digits on machines with [`Isa::Amx`].
    Digits,
    /// Such sums with weights of few bits, read as they are stored.
    FewBits,
    /// Winograd's filtering by tiles of 2 x 2 outputs.
    Winograd2,
    /// Winograd's filtering by tiles of 4 x 4 outputs.
    Winograd4,
    /// Sums of products of bytes.
    Bytes,
    /// Such sums for every channel alone.
    BytesAlone,
}

/// What a step takes by the definition of what it computes, whatever algorithm does it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Work {
    /// Operations; a multiplication and the addition behind it are two.
    pub flops: u64,
    /// Bytes of operands and of packed weights, each counted once.
    pub read: u64,
    /// Bytes of results.
    pub written: u64,
}

impl Work {
    /// Of counts.
    pub const fn new(flops: u64, read: u64, written: u64) -> Work {
        Work { flops, read, written }
    }
}

/// A compiled kernel, for reports and profiles.
#[derive(Clone, Copy, Debug)]
pub struct Kernel {
    /// The name of its function.
    pub name: &'static str,
    /// A word for the kind of kernel, such as `conv`.
    pub kind: &'static str,
    /// How it computes.
    pub algorithm: Algorithm,
    /// What it computes.
    pub what: &'static str,
    /// Lines in [`Spec::nodes`] of the ONNX nodes it covers.
    pub nodes: &'static [u32],
}

/// Everything the runtime needs to know of a compiled model.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// The name of the generated struct.
    pub name: &'static str,
    /// A hash of the model's plan and weights.
    pub hash: &'static str,
    /// Inputs in order.
    pub inputs: &'static [Port],
    /// Outputs in order.
    pub outputs: &'static [Port],
    /// Where each output is found.
    pub out_places: &'static [OutPlace],
    /// Writes the extents of output `i`, as many as its port lists.
    pub out_dims: fn(usize, &[i64], &mut [usize]),
    /// Symbols; those that inputs bind come with their port and axis in [`Port::dims`].
    pub symbols: &'static [Symbol],
    /// The arena.
    pub arena: ArenaSpec,
    /// What an instance keeps between runs.
    pub state: StateSpec,
    /// How many slots for values that are not in the arena.
    pub slots: usize,
    /// Bytes of scratch a worker needs.
    pub scratch: fn(&[i64]) -> usize,
    /// The most capable instruction set that kernels may use: [`Isa::Amx`] rounds in another order.
    pub isa: Isa,
    /// Bytes of weights.
    pub weights_bytes: usize,
    /// Packed matrices that machines with [`Isa::Amx`] write in digits when the weights are loaded.
    pub digits: &'static [Digits],
    /// The weights when they are embedded.
    pub weights: Option<fn() -> *const u8>,
    /// Runs the model.
    ///
    /// # Safety
    /// The frame was made for this specification, and its memory is as large as it says.
    pub run: unsafe fn(&mut Frame<'_>) -> Result<(), Fail>,
    /// What a step takes, by its number and the symbols.
    pub work: fn(usize, &[i64]) -> Work,
    /// The ONNX nodes that messages name.
    pub nodes: &'static [&'static str],
    /// The kernels in the order of their steps.
    pub kernels: &'static [Kernel],
    /// The same model for a GPU, where it was compiled for one too.
    pub device: Option<&'static DeviceSpec>,
}
