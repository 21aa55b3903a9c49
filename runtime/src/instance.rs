//! `Instance`: a compiled model with its memory, and how a run goes: inputs checked, symbols bound, memory placed, steps run.

mod outputs;
mod timed;
mod warm;

use crate::cuda::{Given, Machine, Shared, Wanted};
use crate::error::{Error, Fail, Result};
use crate::frame::Frame;
use crate::loaded::Loaded;
use crate::memory::{ALIGN, Region, place};
use crate::options::{Device, Options};
use crate::profile::Recorder;
use crate::spec::{ArenaSpec, OutPlace, Port, PortDim, PortKind, Spec};
use crate::state::{Kept, Left, State, StateMut};
use crate::threads::Threads;
use kiln_kernels::isa::Isa;
use kiln_kernels::value::Value;
use std::sync::Arc;

/// One compiled model: its weights (shared), threads (shared), arena, scratch, slots and state (its own).
#[derive(Debug)]
pub struct Instance {
    pub(crate) spec: &'static Spec,
    weights: Arc<Loaded>,
    threads: Threads,
    isa: Isa,
    arena: Region,
    scratch: Region,
    scratch_stride: usize,
    syms: Vec<i64>,
    sizes: Vec<usize>,
    offsets: Vec<usize>,
    order: Vec<u32>,
    placed: Vec<i64>,
    slots: Vec<Value>,
    inputs: Vec<*const u8>,
    values: Vec<Option<Value>>,
    staged: Vec<Option<Region>>,
    recorder: Option<Box<Recorder>>,
    pub(crate) kept: Kept,
    pub(crate) machine: Option<Machine>,
    why: String,
    poisoned: bool,
}

// SAFETY: the pointers in `inputs` are written and read only inside of a run, which holds the instance uniquely.
unsafe impl Send for Instance {}
// SAFETY: as above; a shared instance reads nothing through them.
unsafe impl Sync for Instance {}

/// What stands for a value that no run has made yet.
static NOTHING: Value = Value::Sequence(Vec::new());

/// What a model runs on, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeviceInfo {
    /// `cpu`, or the name of the GPU.
    pub device: String,
    /// The instruction set in use.
    pub isa: Isa,
    /// Workers.
    pub threads: usize,
    /// Why it is this device.
    pub why: String,
}

/// An input: the elements of a dense tensor with its extents, or any value.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// Elements in row-major order, as many as the extents say.
    Tensor {
        /// The first element; aligned for its type.
        data: *const u8,
        /// The element type.
        dtype: kiln_kernels::dtype::DType,
        /// The extents.
        dims: &'a [usize],
    },
    /// A value of any type.
    Value(&'a Value),
    /// Elements in the memory of the device that the instance runs on.
    Device {
        /// The address of the first one.
        address: u64,
        /// The element type.
        dtype: kiln_kernels::dtype::DType,
        /// The extents.
        dims: &'a [usize],
    },
    /// Left out.
    Absent,
}

impl Instance {
    /// An instance with memory of its own.
    ///
    /// # Errors
    /// Weights that are missing or do not fit, memory that cannot be had.
    pub fn new(spec: &'static Spec, options: &Options) -> Result<Instance> {
        let threads = options.threads.clone().unwrap_or_default();
        let isa = Isa::detect().capped(spec.isa).capped(options.isa.unwrap_or(Isa::Amx));
        let (wanted, must) = match options.device {
            Device::Cpu => (None, false),
            Device::Auto => (spec.device.map(|_| Wanted::Ordinal(0)), false),
            Device::Cuda(i) => (Some(Wanted::Ordinal(i)), true),
            Device::CudaUuid(uuid) => (Some(Wanted::Uuid(uuid)), true),
        };
        let mut why = match options.device {
            Device::Cpu => "it was asked for".to_string(),
            _ => "the model was compiled for the CPU alone".into(),
        };
        if let Some(wanted) = wanted {
            match on_device(spec, wanted, &threads, isa, options) {
                Ok(mut out) => {
                    out.recorder = options.profile.as_ref().map(|p| Box::new(Recorder::new(p, out.spec, out.threads.workers())));
                    out.time_steps();
                    out.why = if must { "it was asked for".into() } else { "it is the first GPU".into() };
                    return Ok(out);
                }
                Err(e) if must => return Err(e),
                Err(e) => why = e.to_string(),
            }
        }
        let weights = Loaded::new(spec, &options.weights, isa, &threads)?;
        let mut out = Instance::with_shared(spec, Arc::new(weights), threads, isa, None)?;
        out.why = why;
        out.recorder = options.profile.as_ref().map(|p| Box::new(Recorder::new(p, spec, out.threads.workers())));
        Ok(out)
    }
    fn with_shared(spec: &'static Spec, weights: Arc<Loaded>, threads: Threads, isa: Isa, device: Option<Arc<Shared>>) -> Result<Instance> {
        let (arena, buffers) = match spec.arena {
            ArenaSpec::Fixed(bytes) => (Region::new(bytes)?, 0),
            ArenaSpec::Open { lives, .. } => (Region::new(0)?, lives.len()),
        };
        let mut out = Instance {
            spec,
            weights,
            threads,
            isa,
            arena,
            scratch: Region::new(0)?,
            scratch_stride: 0,
            syms: spec.symbols.iter().map(|s| s.hi.unwrap_or(s.lo)).collect(),
            sizes: vec![0; buffers],
            offsets: vec![0; buffers],
            order: vec![0; buffers],
            placed: Vec::with_capacity(spec.symbols.len()),
            slots: vec![Value::Sequence(Vec::new()); spec.slots],
            inputs: vec![std::ptr::null(); spec.inputs.len()],
            values: vec![None; spec.inputs.len()],
            staged: Vec::new(),
            recorder: None,
            kept: Kept::new(&spec.state, device.is_none())?,
            machine: device.map(Machine::new).transpose()?,
            why: String::new(),
            poisoned: false,
        };
        // Closed and bounded models get all their memory here; open ones when they see their first extents.
        if spec.symbols.iter().all(|s| s.hi.is_some()) {
            out.fit_scratch()?;
        }
        Ok(out)
    }
    /// Another instance of the same weights and threads, with memory of its own and an empty state.
    ///
    /// # Errors
    /// Memory that cannot be had.
    pub fn fork(&self) -> Result<Instance> {
        let device = self.machine.as_ref().map(|m| m.shared().clone());
        let mut out = Instance::with_shared(self.spec, self.weights.clone(), self.threads.clone(), self.isa, device)?;
        out.recorder = self.recorder.as_ref().map(|r| Box::new(Recorder::new(r.profile(), self.spec, self.threads.workers())));
        out.time_steps();
        out.why.clone_from(&self.why);
        Ok(out)
    }
    /// What the model says of itself.
    pub fn spec(&self) -> &'static Spec {
        self.spec
    }
    /// The threads it runs on.
    pub fn threads(&self) -> &Threads {
        &self.threads
    }
    /// The instruction set it uses.
    pub fn isa(&self) -> Isa {
        self.isa
    }
    /// Bytes of arena at present.
    pub fn arena_bytes(&self) -> usize {
        self.arena.len()
    }
    fn fit_scratch(&mut self) -> Result<()> {
        let stride = (self.spec.scratch)(&self.syms).next_multiple_of(ALIGN);
        if stride > self.scratch_stride {
            self.scratch = Region::new(0)?;
            self.scratch = Region::new(stride * self.threads.workers())?;
            self.scratch_stride = stride;
        }
        Ok(())
    }
    /// Runs the model on inputs in the order of its ports.
    ///
    /// # Errors
    /// Inputs that do not fit the ports, values that an operator does not allow, memory that cannot be had.
    pub fn run(&mut self, inputs: &[Input<'_>]) -> Result<()> {
        self.run_where(inputs, false)
    }
    /// The same, with the outputs left on the device where that is wanted.
    pub(crate) fn run_where(&mut self, inputs: &[Input<'_>], resident: bool) -> Result<()> {
        let rows = self.compute(inputs, resident)?;
        // Only a run that has succeeded moves the state on.
        let (arena, weights) = (self.arena.start(), self.weights.start());
        let (offsets, inputs, slots) = (&self.offsets, &self.inputs, &self.slots);
        let machine = self.machine.as_ref();
        let find = |place| {
            let (here, bytes) = find(place, arena, offsets, weights, inputs, slots);
            Left { here, bytes, there: machine.and_then(|m| m.lies(place, offsets)) }
        };
        self.kept.commit(&self.spec.state, rows, machine, find)
    }
    /// Computes everything, and gives how many rows the state has then.
    fn compute(&mut self, inputs: &[Input<'_>], resident: bool) -> Result<usize> {
        if self.poisoned {
            return Err(Error::Poisoned);
        }
        // A mask over more rows than there can be does not fit its port either.
        self.bind(inputs).map_err(|e| self.kept.full(&self.spec.state).unwrap_or(e))?;
        let rows = self.kept.grown(&self.spec.state, &self.syms)?;
        self.fit()?;
        if let Some(m) = &mut self.machine {
            let inputs: Vec<Given> = inputs.iter().map(given).collect();
            m.begin(&self.syms, self.arena.len(), &inputs, resident)?;
        }
        let active = self.threads.enter();
        if let Some(r) = &mut self.recorder {
            r.begin();
        }
        let mut frame = Frame {
            isa: self.isa,
            threads: &self.threads,
            arena: self.arena.start(),
            state: self.kept.start(),
            weights: self.weights.start(),
            digits: self.weights.digits(),
            inputs: &self.inputs,
            values: &self.values,
            offsets: &self.offsets,
            syms: &mut self.syms,
            slots: &mut self.slots,
            scratch: self.scratch.start(),
            region: &mut self.scratch,
            scratch_stride: self.scratch_stride,
            watched: self.recorder.is_some() || self.machine.as_ref().is_some_and(|m| m.shared().is_watched()),
            recorder: self.recorder.as_deref_mut(),
            machine: self.machine.as_mut(),
        };
        // A panic is a bug of a kernel; the caller gets an error all the same, and the instance is not used again.
        // SAFETY: `spec` made this instance, and `fit` gave it the memory that the specification asks for.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| unsafe { (self.spec.run)(&mut frame) }));
        self.scratch_stride = frame.scratch_stride;
        drop(active);
        if let Some(r) = &mut self.recorder {
            if let Some(m) = &self.machine {
                r.settle(|timed| m.step(timed));
            }
            r.end();
        }
        let result = result.unwrap_or(Err(Fail::Panicked));
        if let Some(m) = &mut self.machine {
            m.end(result.is_err());
        }
        result.map_err(|f| {
            self.poisoned |= matches!(f, Fail::Panicked);
            f.into_error(self.spec.nodes)
        })?;
        Ok(rows)
    }
    /// What it keeps from run to run.
    pub fn state(&self) -> State<'_> {
        State { spec: self.spec, kept: &self.kept, machine: self.machine.as_ref() }
    }
    /// What it keeps from run to run, to be changed.
    pub fn state_mut(&mut self) -> StateMut<'_> {
        StateMut(self)
    }

    /// Checks the inputs, keeps their addresses, and binds the symbols of their extents.
    fn bind(&mut self, inputs: &[Input<'_>]) -> Result<()> {
        let spec = self.spec;
        if inputs.len() != spec.inputs.len() {
            let message = format!("the model takes {} inputs, {} were given", spec.inputs.len(), inputs.len());
            return Err(Error::Port { port: String::new(), message });
        }
        self.syms.iter_mut().zip(spec.symbols).for_each(|(s, d)| *s = if d.entry { -1 } else { 0 });
        self.kept.bind(&spec.state, &mut self.syms);
        for (i, (input, port)) in inputs.iter().zip(spec.inputs).enumerate() {
            self.values[i] = None;
            self.inputs[i] = std::ptr::null();
            match input {
                Input::Tensor { data, dtype, dims } => {
                    self.bind_tensor(port, *dtype, dims)?;
                    self.inputs[i] = *data;
                    if port.kind != PortKind::Tensor || dtype.bits() < 8 {
                        // SAFETY: a tensor input points to as many elements as its extents say.
                        self.values[i] = Some(unsafe { Frame::tensor(*data, *dtype, dims) });
                    }
                }
                Input::Value(v) => {
                    if let Value::Tensor(t) = v {
                        self.bind_tensor(port, t.dtype, &t.dims)?;
                        self.inputs[i] = t.bytes().as_ptr();
                    } else if port.kind == PortKind::Tensor {
                        return Err(Error::Shape { port: port.name.into(), message: "a tensor is expected".into() });
                    }
                    let plain = matches!(v, Value::Tensor(t) if t.dtype.bits() >= 8) && port.kind == PortKind::Tensor;
                    if !plain {
                        self.values[i] = Some((*v).clone());
                    }
                }
                Input::Device { dtype, dims, .. } if self.machine.is_some() && port.kind == PortKind::Tensor => {
                    self.bind_tensor(port, *dtype, dims)?;
                }
                Input::Device { .. } => {
                    let message = "a tensor on a device is expected by instances that run there, for ports of one rank".into();
                    return Err(Error::Port { port: port.name.into(), message });
                }
                Input::Absent if port.optional => {}
                Input::Absent => return Err(Error::Port { port: port.name.into(), message: "the model needs this input".into() }),
            }
        }
        Ok(())
    }
    fn bind_tensor(&mut self, port: &Port, dtype: kiln_kernels::dtype::DType, dims: &[usize]) -> Result<()> {
        let shape = |message: String| Error::Shape { port: port.name.into(), message };
        if dtype != port.dtype {
            return Err(shape(format!("found {dtype}, expected {}", port.dtype)));
        }
        if port.kind != PortKind::Tensor {
            return Ok(());
        }
        if dims.len() != port.dims.len() {
            return Err(shape(format!("found rank {}, expected {}", dims.len(), port.dims.len())));
        }
        for (axis, (&n, d)) in dims.iter().zip(port.dims).enumerate() {
            match *d {
                PortDim::Closed(m) if m != n => return Err(shape(format!("found {dims:?}, expected {m} at axis {axis}"))),
                PortDim::Closed(_) | PortDim::Computed => {}
                PortDim::Symbol(s) => {
                    let sym = &self.spec.symbols[s];
                    let n = n as i64;
                    if n < sym.lo || sym.hi.is_some_and(|h| n > h) {
                        let hi = sym.hi.map_or("any".to_string(), |h| h.to_string());
                        return Err(Error::Dim { name: sym.name.into(), message: format!("found {n}, expected {} to {hi}", sym.lo) });
                    }
                    if self.syms[s] >= 0 && self.syms[s] != n {
                        let message = format!("found {n} in input \"{}\", and {} before", port.name, self.syms[s]);
                        return Err(Error::Dim { name: sym.name.into(), message });
                    }
                    self.syms[s] = n;
                }
            }
        }
        Ok(())
    }

    /// Gives an open model memory for the extents just bound.
    fn fit(&mut self) -> Result<()> {
        if self.placed == self.syms && !self.syms.is_empty() {
            return Ok(());
        }
        if let ArenaSpec::Open { sizes, lives } = self.spec.arena {
            match &self.machine {
                // What is recorded holds addresses, which must not follow what changes from run to run.
                Some(m) => sizes(&m.at_most(&self.syms), &mut self.sizes),
                None => sizes(&self.syms, &mut self.sizes),
            }
            let bytes = place(&self.sizes, lives, &mut self.offsets, &mut self.order);
            if bytes > self.arena.len() {
                self.arena = Region::new(0)?;
                self.arena = Region::new(bytes)?;
            }
        }
        self.fit_scratch()?;
        self.placed.clear();
        self.placed.extend_from_slice(&self.syms);
        Ok(())
    }

    /// What the instance runs on.
    pub fn device(&self) -> DeviceInfo {
        let device = self.machine.as_ref().map_or("cpu".to_string(), |m| m.shared().name.clone());
        DeviceInfo { device, isa: self.isa, threads: self.threads.workers(), why: self.why.clone() }
    }
    /// Memory of the instance for an input of closed extents, to be filled before a run on it.
    ///
    /// # Errors
    /// The port has open extents, or no memory can be had.
    pub fn staging(&mut self, i: usize) -> Result<*mut u8> {
        let port = &self.spec.inputs[i];
        let mut len = port.dtype.size();
        for d in port.dims {
            match d {
                PortDim::Closed(n) => len *= n,
                _ => {
                    let message = "only inputs of closed extents have memory of their own".into();
                    return Err(Error::Shape { port: port.name.into(), message });
                }
            }
        }
        if self.staged.is_empty() {
            self.staged = (0..self.spec.inputs.len()).map(|_| None).collect();
        }
        if self.staged[i].is_none() {
            self.staged[i] = Some(Region::new(len)?);
        }
        Ok(self.staged[i].as_ref().map_or(std::ptr::null_mut(), Region::start))
    }
}

/// An instance on a GPU.
fn on_device(spec: &'static Spec, wanted: Wanted, threads: &Threads, isa: Isa, options: &Options) -> Result<Instance> {
    let device = spec.device.ok_or_else(|| Error::Device { message: "the model was not compiled for a GPU".into() })?;
    let weights = Arc::new(Loaded::new(device.spec, &options.device_weights, isa.capped(Isa::Avx512), threads)?);
    let shared = Shared::new(device, wanted, weights.start(), options.overlap)?;
    Instance::with_shared(device.spec, weights, threads.clone(), isa, Some(Arc::new(shared)))
}

/// Where an input is that a device is to read.
fn given(input: &Input<'_>) -> Given {
    let bytes = |dtype: &kiln_kernels::dtype::DType, dims: &[usize]| (dims.iter().product::<usize>() * dtype.bits()).div_ceil(8);
    match input {
        Input::Tensor { data, dtype, dims } => Given::Host(*data, bytes(dtype, dims)),
        Input::Value(Value::Tensor(t)) => Given::Host(t.bytes().as_ptr(), t.bytes().len()),
        Input::Device { address, dtype, dims } => Given::Device(*address, bytes(dtype, dims)),
        Input::Value(_) | Input::Absent => Given::Host(std::ptr::null(), 0),
    }
}

/// Where a value lies that has this place, and how many bytes it has where its place tells.
fn find(
    place: OutPlace,
    arena: *const u8,
    offsets: &[usize],
    weights: *const u8,
    inputs: &[*const u8],
    slots: &[Value],
) -> (*const u8, Option<usize>) {
    let at = match place {
        OutPlace::Arena(o) => arena.wrapping_add(o),
        OutPlace::Buffer(b) => arena.wrapping_add(offsets[b]),
        OutPlace::Weight(o) => weights.wrapping_add(o),
        OutPlace::Input(k) => inputs[k],
        OutPlace::Slot(k) => {
            return match &slots[k] {
                Value::Tensor(t) => (t.bytes().as_ptr(), Some(t.bytes().len())),
                _ => (std::ptr::null(), Some(0)),
            };
        }
    };
    (at, None)
}
