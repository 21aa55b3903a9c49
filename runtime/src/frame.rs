//! `Frame`: what the kernels of one run see of an instance — memory by offset, symbols, slots and threads.

use crate::cuda::{Machine, Rows};
use crate::error::Fail;
use crate::memory::{ALIGN, Region};
use crate::profile::Recorder;
use crate::threads::Threads;
use kiln_kernels::dtype::DType;
use kiln_kernels::fault::Fault;
use kiln_kernels::gemm::Panels;
use kiln_kernels::isa::Isa;
use kiln_kernels::value::{Tensor, Value};

/// The view that generated code has of one run. Offsets come from the plan, which placed every buffer inside of the regions.
#[derive(Debug)]
pub struct Frame<'r> {
    /// The instruction set to use.
    pub isa: Isa,
    pub(crate) threads: &'r Threads,
    pub(crate) arena: *mut u8,
    pub(crate) state: *mut u8,
    pub(crate) weights: *const u8,
    pub(crate) digits: &'r [*const u8],
    pub(crate) inputs: &'r [*const u8],
    pub(crate) values: &'r [Option<Value>],
    pub(crate) offsets: &'r [usize],
    pub(crate) syms: &'r mut [i64],
    pub(crate) slots: &'r mut [Value],
    pub(crate) region: &'r mut Region,
    pub(crate) scratch: *mut u8,
    pub(crate) scratch_stride: usize,
    pub(crate) recorder: Option<&'r mut Recorder>,
    /// Whether a recorder or a profiler sees the steps.
    pub(crate) watched: bool,
    pub(crate) machine: Option<&'r mut Machine>,
}

/// A pointer that workers may share: the plan gives every task its own part of what is written.
#[derive(Clone, Copy, Debug)]
pub struct Shared<T>(pub T);
// SAFETY: generated code passes it only to tasks that write disjoint parts and read what no task writes.
unsafe impl<T> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Shared<T> {}

/// Working memory of the workers, a part for each.
#[derive(Clone, Copy, Debug)]
pub struct Scratch {
    start: Shared<*mut u8>,
    stride: usize,
}

impl Scratch {
    /// The part of a worker.
    #[inline(always)]
    pub fn at<T>(self, worker: usize) -> *mut T {
        self.start.0.wrapping_add(worker * self.stride).cast()
    }
}

impl Frame<'_> {
    /// The arena at an offset in bytes.
    #[inline(always)]
    pub fn arena<T>(&self, offset: usize) -> *mut T {
        self.arena.wrapping_add(offset).cast()
    }
    /// A buffer of an open arena.
    #[inline(always)]
    pub fn buffer<T>(&self, i: usize) -> *mut T {
        self.arena.wrapping_add(self.offsets[i]).cast()
    }
    /// The state at an offset in bytes.
    #[inline(always)]
    pub fn state<T>(&self, offset: usize) -> *mut T {
        self.state.wrapping_add(offset).cast()
    }
    /// The weights at an offset in bytes.
    #[inline(always)]
    pub fn weight<T>(&self, offset: usize) -> *const T {
        self.weights.wrapping_add(offset).cast()
    }
    /// Panels of the weights at an offset in bytes, with their digits where the machine works with them: matrix `i` of [`Spec::digits`](crate::rt::Spec).
    #[inline(always)]
    pub fn panels(&self, offset: usize, i: usize) -> Panels {
        Panels { floats: self.weight(offset), digits: self.digits.get(i).copied().unwrap_or(std::ptr::null()) }
    }
    /// The elements of an input tensor.
    #[inline(always)]
    pub fn input<T>(&self, i: usize) -> *const T {
        self.inputs[i].cast()
    }
    /// Where a buffer of an open arena begins.
    pub fn offset(&self, i: usize) -> usize {
        self.offsets[i]
    }
    /// The arena of the device at an offset in bytes, as its address there.
    pub fn device_arena(&self, offset: usize) -> u64 {
        self.machine.as_ref().map_or(0, |m| m.arena() + offset as u64)
    }
    /// A buffer of an open arena on the device.
    pub fn device_buffer(&self, i: usize) -> u64 {
        self.device_arena(self.offsets[i])
    }
    /// The weights on the device at an offset in bytes.
    pub fn device_weight(&self, offset: usize) -> u64 {
        self.machine.as_ref().map_or(0, |m| m.weights() + offset as u64)
    }
    /// The elements of an input on the device.
    pub fn device_input(&self, i: usize) -> u64 {
        self.machine.as_ref().map_or(0, |m| m.input(i))
    }
    /// Memory that kernels share, at an offset in bytes.
    pub fn device_scratch(&self, offset: usize) -> u64 {
        self.machine.as_ref().map_or(0, |m| m.scratch() + offset as u64)
    }
    /// The state on the device at an offset in bytes.
    pub fn device_state(&self, offset: usize) -> u64 {
        self.machine.as_ref().map_or(0, |m| m.state() + offset as u64)
    }
    /// Where kernels read number `i` of those that change from run to run.
    pub fn device_word(&self, i: usize) -> u64 {
        self.machine.as_ref().map_or(0, |m| m.word(i))
    }
    /// Where kernels report faults.
    pub fn device_fault(&self) -> u64 {
        self.machine.as_ref().map_or(0, |m| m.fault())
    }
    /// Which of `of` forms of a kernel runs on the device: the first, unless they are measured.
    pub fn variant(&self, of: usize) -> usize {
        self.machine.as_ref().map_or(0, |m| m.variant(of))
    }
    /// Launches kernel `i` of the device.
    ///
    /// # Errors
    /// The driver's.
    pub fn launch(&mut self, i: usize, grid: [usize; 3], threads: usize, shared: usize, args: &[u64]) -> Result<(), Fail> {
        self.machine.as_mut().map_or(Ok(()), |m| m.launch(i, grid, threads, shared, args, &[]))
    }
    /// Whether kernels are there whose operands the tensor memory accelerator brings: [`Self::launch_mapped`] launches them.
    pub fn streams(&self) -> bool {
        self.machine.as_ref().is_some_and(|m| m.streams())
    }
    /// Launches kernel `i` of the device, which takes maps of rows behind its other arguments.
    ///
    /// # Errors
    /// The driver's.
    pub fn launch_mapped(
        &mut self,
        i: usize,
        grid: [usize; 3],
        threads: usize,
        shared: usize,
        args: &[u64],
        maps: &[Rows],
    ) -> Result<(), Fail> {
        self.machine.as_mut().map_or(Ok(()), |m| m.launch(i, grid, threads, shared, args, maps))
    }
    /// Brings ranges of the arena from the device, and waits for all that was launched.
    ///
    /// # Errors
    /// The driver's, and faults that kernels reported.
    pub fn fetch(&mut self, ranges: &[(usize, usize)]) -> Result<(), Fail> {
        let host = self.arena;
        self.machine.as_mut().map_or(Ok(()), |m| m.fetch(host, ranges))
    }
    /// Brings the ranges of results from the device, unless they are to stay there, and waits for all that was launched.
    ///
    /// # Errors
    /// As of [`Frame::fetch`].
    pub fn results(&mut self, ranges: &[(usize, usize)]) -> Result<(), Fail> {
        let host = self.arena;
        self.machine.as_mut().map_or(Ok(()), |m| m.results(host, ranges))
    }
    /// Brings ranges of the arena to the device.
    ///
    /// # Errors
    /// The driver's.
    pub fn send(&mut self, ranges: &[(usize, usize)]) -> Result<(), Fail> {
        let host = self.arena;
        self.machine.as_mut().map_or(Ok(()), |m| m.send(host, ranges))
    }
    /// The value of a symbol as an extent.
    #[inline(always)]
    pub fn dim(&self, s: usize) -> usize {
        self.syms[s].max(0) as usize
    }
    /// The value of a symbol.
    #[inline(always)]
    pub fn sym(&self, s: usize) -> i64 {
        self.syms[s]
    }
    /// Sets a symbol.
    pub fn define(&mut self, s: usize, n: usize) {
        self.syms[s] = n as i64;
    }
    /// The scratch of the workers.
    #[inline(always)]
    pub fn scratch(&self) -> Scratch {
        Scratch { start: Shared(self.scratch), stride: self.scratch_stride }
    }
    /// Runs step `i`, which `kernel` computes.
    ///
    /// # Errors
    /// Those of the kernel.
    #[inline(always)]
    pub fn step(&mut self, i: usize, kernel: fn(&mut Frame<'_>) -> Result<(), Fail>) -> Result<(), Fail> {
        if self.watched { self.seen(i, kernel) } else { kernel(self) }
    }
    /// A step that a recorder or a profiler sees.
    #[cold]
    fn seen(&mut self, i: usize, kernel: fn(&mut Frame<'_>) -> Result<(), Fail>) -> Result<(), Fail> {
        let shared = self.machine.as_ref().map(|m| m.shared().clone());
        match shared.as_ref().and_then(|s| s.range(i)) {
            Some((ranges, name)) => ranges.around(name, || self.recorded(i, kernel)),
            None => self.recorded(i, kernel),
        }
    }
    fn recorded(&mut self, i: usize, kernel: fn(&mut Frame<'_>) -> Result<(), Fail>) -> Result<(), Fail> {
        let start = self.recorder.as_mut().map(|r| r.before());
        if let Some(m) = &mut self.machine {
            m.step_begins();
        }
        let result = kernel(self);
        // What the device has of a step takes longer than to ask for it.
        let timed = self.machine.as_mut().and_then(|m| m.step_ends());
        if let (Some(r), Some(start)) = (&mut self.recorder, start) {
            r.after(i, start, self.isa, self.syms, timed);
        }
        result
    }
    /// Runs `tasks` tasks on the threads.
    ///
    /// # Errors
    /// A task panicked.
    pub fn parallel(&self, tasks: usize, f: &(dyn Fn(usize, usize) + Sync)) -> Result<(), Fail> {
        match &self.recorder {
            None => Ok(self.threads.run(tasks, f)?),
            Some(r) => Ok(self.threads.run(tasks, &|task, worker| r.task(worker, || f(task, worker)))?),
        }
    }
    /// Runs tasks on the threads where there is enough work for it, else here one after the other.
    ///
    /// # Errors
    /// A task panicked.
    pub fn spread(&self, tasks: usize, work: usize, f: &(dyn Fn(usize, usize) + Sync)) -> Result<(), Fail> {
        // Waking a worker costs about as much as this many simple operations.
        const WORTH: usize = 1 << 15;
        if work < WORTH {
            (0..tasks).for_each(|t| f(t, 0));
            return Ok(());
        }
        self.parallel(tasks, f)
    }
    /// An input that was given as a whole value.
    ///
    /// # Errors
    /// It was left out.
    pub fn input_value(&self, i: usize) -> Result<Value, Fail> {
        self.values[i].clone().ok_or_else(|| Fail::Fault(0, Fault::Domain(format!("input {i} was left out"))))
    }
    /// Checks the tensor in a slot against the type that later steps take for granted.
    ///
    /// # Errors
    /// It has another type or shape.
    pub fn check_slot(&self, i: usize, dtype: DType, dims: &[usize], line: u32) -> Result<(), Fail> {
        match &self.slots[i] {
            Value::Tensor(t) if t.dtype == dtype && t.dims == dims => Ok(()),
            Value::Tensor(t) => {
                let text = format!("the result is {}{:?}, expected {dtype}{dims:?}", t.dtype, t.dims);
                Err(Fail::Fault(line, Fault::Domain(text)))
            }
            _ => Err(Fail::Fault(line, Fault::Domain("the result is no tensor".into()))),
        }
    }
    /// Starts a stack of slices: no slice yet.
    pub fn begin_stack(&mut self, i: usize, dtype: DType, dims: &[usize]) {
        self.slots[i] = Value::Tensor(Tensor::zeros(dtype, &[&[0], dims].concat()));
    }
    /// Adds a slice to a stack.
    ///
    /// # Errors
    /// It has another shape than the slices before.
    pub fn push_stack(&mut self, i: usize, v: Value) -> Result<(), Fail> {
        let slot = std::mem::replace(&mut self.slots[i], Value::Sequence(Vec::new()));
        let (Value::Tensor(old), Value::Tensor(mut new)) = (slot, v) else {
            return Err(Fail::Fault(0, Fault::Domain("only tensors stack".into())));
        };
        new.dims.insert(0, 1);
        let parts = if old.dims[0] == 0 { vec![Value::Tensor(new)] } else { vec![Value::Tensor(old), Value::Tensor(new)] };
        let args = kiln_kernels::host::HostArgs { ints: &[0, 0], text: &[] };
        let joined = kiln_kernels::host::call("concat_from_sequence", &[Some(&Value::Sequence(parts))], args);
        self.slots[i] = joined.map_err(|e| Fail::Fault(0, e))?.swap_remove(0);
        Ok(())
    }
    /// A slot.
    pub fn slot(&self, i: usize) -> &Value {
        &self.slots[i]
    }
    /// Replaces a slot.
    pub fn set_slot(&mut self, i: usize, v: Value) {
        self.slots[i] = v;
    }
    /// The elements of the tensor in a slot.
    pub fn slot_ptr<T>(&self, i: usize) -> *const T {
        match &self.slots[i] {
            Value::Tensor(t) => t.bytes().as_ptr().cast(),
            _ => std::ptr::null(),
        }
    }
    /// Makes the slot a tensor of these extents, to be written; keeps its memory where the size is the same.
    pub fn shape_slot<T>(&mut self, i: usize, dtype: DType, dims: &[usize]) -> *mut T {
        match &mut self.slots[i] {
            Value::Tensor(t) if t.dtype == dtype && t.dims == dims => {}
            slot => *slot = Value::Tensor(Tensor::zeros(dtype, dims)),
        }
        match &mut self.slots[i] {
            Value::Tensor(t) => t.bytes_mut().as_mut_ptr().cast(),
            _ => std::ptr::null_mut(),
        }
    }
    /// The extents of the tensor in a slot, when it has that rank.
    ///
    /// # Errors
    /// It has another rank.
    pub fn slot_dims<const R: usize>(&self, i: usize, line: u32) -> Result<[usize; R], Fail> {
        let dims = match &self.slots[i] {
            Value::Tensor(t) => t.dims.as_slice(),
            _ => &[],
        };
        dims.try_into().map_err(|_| Fail::Fault(line, Fault::Domain(format!("a tensor of rank {} where rank {R} is needed", dims.len()))))
    }
    /// A copy of memory as a tensor value.
    ///
    /// # Safety
    /// `x` points to that many elements.
    pub unsafe fn tensor(x: *const u8, dtype: DType, dims: &[usize]) -> Value {
        let mut t = Tensor::zeros(dtype, dims);
        let n = t.bytes().len();
        // SAFETY: the caller vouches for `x`, the tensor was just made with `n` bytes, and the two do not overlap.
        unsafe { std::ptr::copy_nonoverlapping(x, t.bytes_mut().as_mut_ptr(), n) };
        Value::Tensor(t)
    }
    /// Writes a tensor value's bytes to memory.
    ///
    /// # Errors
    /// It is no tensor of that many bytes.
    ///
    /// # Safety
    /// `to` points to `bytes` writable bytes.
    pub unsafe fn store(v: &Value, to: *mut u8, bytes: usize, line: u32) -> Result<(), Fail> {
        let x = v.as_tensor().map_or(&[][..], |t| t.bytes());
        if x.len() != bytes {
            return Err(Fail::Fault(line, Fault::Domain(format!("a value of {} bytes where {bytes} are expected", x.len()))));
        }
        // SAFETY: the caller vouches for `to`; the length was compared.
        unsafe { std::ptr::copy_nonoverlapping(x.as_ptr(), to, bytes) };
        Ok(())
    }
    /// Two extents that must be equal at run time.
    ///
    /// # Errors
    /// They differ.
    pub fn equal(&self, a: usize, b: usize, line: u32) -> Result<(), Fail> {
        if a == b { Ok(()) } else { Err(Fail::Fault(line, Fault::Domain(format!("extents {a} and {b} must be equal")))) }
    }
    /// An index that must lie inside of an extent at run time, when `count` elements are read and that is not none.
    ///
    /// # Errors
    /// It lies outside.
    pub fn within(&self, index: i64, extent: usize, count: usize, line: u32) -> Result<(), Fail> {
        if count == 0 || (index >= 0 && (index as u64) < extent as u64) {
            Ok(())
        } else {
            Err(Fail::Fault(line, Fault::Index { index, len: extent }))
        }
    }
    /// Makes sure that each worker has this much scratch: for steps whose extents the inputs do not settle.
    ///
    /// # Errors
    /// The memory cannot be had.
    pub fn need_scratch(&mut self, bytes: usize) -> Result<(), Fail> {
        if bytes > self.scratch_stride {
            let stride = bytes.next_multiple_of(ALIGN);
            let all = stride * self.threads.workers();
            *self.region = Region::new(all).map_err(|_| Fail::Memory(all))?;
            (self.scratch, self.scratch_stride) = (self.region.start(), stride);
        }
        Ok(())
    }
    /// Two extents that broadcast against each other at run time.
    ///
    /// # Errors
    /// They differ and neither is 1.
    pub fn meet(&self, a: usize, b: usize, line: u32) -> Result<(), Fail> {
        if a == b || a == 1 || b == 1 {
            Ok(())
        } else {
            Err(Fail::Fault(line, Fault::Domain(format!("extents {a} and {b} differ and neither is 1"))))
        }
    }
}
