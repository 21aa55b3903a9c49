//! `Machine`: what one instance has on a device, and how a run goes there: uploads, launches, results, recorded once and then replayed.

use super::Rows;
use super::clock::{Clock, DeviceTime};
use super::driver::{Handle, LaunchAttribute, LaunchConfig, Refused, TensorMap};
use super::shared::{Shared, error};
use crate::error::{Error, Fail, Result};
use crate::spec::OutPlace;
use kiln_kernels::fault::Fault;
use std::collections::BTreeMap;
use std::ffi::{c_uint, c_void};
use std::sync::Arc;

/// Words that kernels report a fault in: how many did, the line of the node, the index, and the extent.
const FAULT: usize = 4;
/// Arguments of a launch at most, and maps behind them.
const ARGUMENTS: usize = 128;
const MAPS: usize = 2;
/// Shapes whose recordings are kept.
const RECORDINGS: usize = 8;
/// Work of other threads of the process stays out of a recording, and they are not disturbed by it.
const THREAD_LOCAL: i32 = 1;
/// A stream that does not wait for the default one.
const NON_BLOCKING: c_uint = 1;

/// Memory of the device.
#[derive(Debug, Default)]
struct Memory {
    at: u64,
    bytes: usize,
}
/// Memory of the host that the device copies from and to by itself.
#[derive(Debug)]
struct Pinned {
    at: Handle,
    bytes: usize,
}

/// Where an input is, and its bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Given {
    /// In the program's memory.
    Host(*const u8, usize),
    /// On the device.
    Device(u64, usize),
}

impl Given {
    fn bytes(self) -> usize {
        let (Given::Host(_, bytes) | Given::Device(_, bytes)) = self;
        bytes
    }
}

/// What a run does with the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Everything at once: the first run of a shape, and models whose steps depend on their data.
    Direct,
    /// Everything goes into a recording, which is then launched.
    Record,
    /// Recordings are launched where they ended.
    Replay,
}

/// The device's side of an instance.
#[derive(Debug)]
pub(crate) struct Machine {
    shared: Arc<Shared>,
    stream: Handle,
    arena: Memory,
    scratch: Memory,
    fault: Memory,
    /// What the instance keeps from run to run.
    state: Memory,
    /// The numbers that change from run to run, there and as they are brought.
    words: Memory,
    written: Pinned,
    inputs: Vec<Memory>,
    staged: Vec<Pinned>,
    /// The words of `fault`, as they were brought last.
    found: Pinned,
    mode: Mode,
    capturing: bool,
    /// Whether what the stream was given last is a launch: only such a one can overlap with the next.
    behind_launch: bool,
    /// Recordings by what they were made for (extents, where inputs are and results go), a part for each time the host waits; none yet where the first run was not recorded.
    recordings: BTreeMap<Vec<i64>, Vec<Handle>>,
    key: Vec<i64>,
    /// Whether results stay on the device.
    resident: bool,
    /// The next part of the recording at hand.
    part: usize,
    /// Why the device is of no more use.
    broken: Option<Refused>,
    /// What times runs by events, where somebody asked for that.
    clock: Option<Box<Clock>>,
    /// Which of the forms of a kernel runs, where several are measured.
    variant: usize,
}

// SAFETY: handles of the driver may be used by any thread; every run sets the context first, and holds the machine uniquely.
unsafe impl Send for Machine {}
// SAFETY: a shared machine does nothing.
unsafe impl Sync for Machine {}

impl Machine {
    pub(crate) fn new(shared: Arc<Shared>) -> Result<Machine> {
        let inputs = shared.spec.spec.inputs.len();
        let empty = || Pinned { at: std::ptr::null_mut(), bytes: 0 };
        let mut out = Machine {
            shared,
            stream: std::ptr::null_mut(),
            arena: Memory::default(),
            scratch: Memory::default(),
            fault: Memory::default(),
            state: Memory::default(),
            words: Memory::default(),
            written: empty(),
            inputs: (0..inputs).map(|_| Memory::default()).collect(),
            staged: (0..inputs).map(|_| empty()).collect(),
            found: empty(),
            mode: Mode::Direct,
            capturing: false,
            behind_launch: false,
            recordings: BTreeMap::new(),
            key: Vec::new(),
            resident: false,
            part: 0,
            broken: None,
            clock: None,
            variant: 0,
        };
        out.start().map_err(|e| out.fallen(e))?;
        Ok(out)
    }
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
    fn start(&mut self) -> std::result::Result<(), Refused> {
        let (scratch, state, words) = (self.shared.spec.scratch, self.shared.spec.spec.state.bytes, self.shared.spec.words);
        self.shared.enter()?;
        // SAFETY: the stream is written before it is used; memory is filled as far as it goes.
        unsafe {
            self.shared.driver.create_stream(&mut self.stream, NON_BLOCKING)?;
            grow(&self.shared, &mut self.scratch, scratch)?;
            grow(&self.shared, &mut self.fault, FAULT * size_of::<i64>())?;
            grow(&self.shared, &mut self.state, state)?;
            grow(&self.shared, &mut self.words, words * size_of::<i64>())?;
            for m in [&self.scratch, &self.fault, &self.state].into_iter().filter(|m| m.bytes > 0) {
                self.shared.driver.fill(m.at, 0, m.bytes, self.stream)?;
            }
            self.shared.driver.synchronize(self.stream)?;
        }
        grow_pinned(&self.shared, &mut self.written, words * size_of::<i64>())?;
        grow_pinned(&self.shared, &mut self.found, FAULT * size_of::<i64>())
    }
    /// An error of the driver as that of the runtime. Those that the device does not get over end its use.
    fn fallen(&mut self, e: Refused) -> Error {
        const OUT_OF_MEMORY: i32 = 2;
        if e.code == OUT_OF_MEMORY {
            return Error::Device { message: format!("the device has no memory left: {e}") };
        }
        let out = error(e.clone());
        self.broken = Some(e);
        out
    }
    fn fail(&mut self, e: Refused) -> Fail {
        match self.fallen(e) {
            Error::Device { message } => Fail::Device(message),
            other => Fail::Device(other.to_string()),
        }
    }

    /// Begins a run at these extents, with an arena of as many bytes: brings the inputs that kernels read. Results stay where they are if `resident`.
    pub(crate) fn begin(&mut self, syms: &[i64], arena: usize, inputs: &[Given], resident: bool) -> Result<()> {
        if let Some(e) = &self.broken {
            return Err(Error::Device {
                message: format!("an earlier call failed, and the device's context is lost: {e}; make a new instance"),
            });
        }
        self.resident = resident;
        self.set_up(syms, arena, inputs).map_err(|e| self.fallen(e))
    }
    fn set_up(&mut self, syms: &[i64], arena: usize, inputs: &[Given]) -> std::result::Result<(), Refused> {
        let shared = self.shared.clone();
        shared.enter()?;
        let mut moved = grow(&shared, &mut self.arena, arena)?;
        let read = |i: &usize| shared.spec.uploads[*i];
        for i in (0..inputs.len()).filter(read) {
            moved |= grow(&shared, &mut self.inputs[i], inputs[i].bytes())?;
            if let Given::Host(_, bytes) = inputs[i] {
                grow_pinned(&shared, &mut self.staged[i], bytes)?;
            }
        }
        // Recordings hold addresses.
        if moved {
            self.forget();
        }
        self.part = 0;
        self.behind_launch = false;
        let extents = syms.iter().enumerate().map(|(i, s)| if shared.spec.lengths.contains(&i) { 0 } else { *s });
        let places = inputs.iter().map(|g| i64::from(matches!(g, Given::Device(..)))).chain([i64::from(self.resident)]);
        let key = extents.chain(places);
        if !key.clone().eq(self.key.iter().copied()) {
            self.key = key.collect();
        }
        if let Some(clock) = &mut self.clock {
            clock.restart();
        }
        self.mode = match self.recordings.get(&self.key) {
            // Ranges of a profiler lie around launches, not around what was recorded once.
            _ if !shared.spec.replays || shared.is_watched() => Mode::Direct,
            Some(parts) if !parts.is_empty() => Mode::Replay,
            Some(_) => Mode::Record,
            None => {
                if self.recordings.len() >= RECORDINGS {
                    self.forget();
                }
                self.recordings.insert(self.key.clone(), Vec::new());
                Mode::Direct
            }
        };
        // The caller's addresses are others every time, so these copies come before what is recorded.
        for i in (0..inputs.len()).filter(read) {
            if let Given::Device(from, bytes @ 1..) = inputs[i] {
                // SAFETY: the caller vouches for as many bytes there, and the machine's memory has them.
                unsafe { shared.driver.copy_within_device(self.inputs[i].at, from, bytes, self.stream)? };
            }
        }
        if shared.spec.words > 0 {
            // SAFETY: the staging memory has as many words, and no copy of it is under way: the stream was waited for.
            (shared.spec.live)(syms, unsafe { std::slice::from_raw_parts_mut(self.written.at.cast::<i64>(), shared.spec.words) });
            self.post(|m| {
                // SAFETY: both have as many bytes, and live until the stream has been waited for.
                unsafe { m.shared.driver.copy_to_device(m.words.at, m.written.at, m.words.bytes, m.stream) }
            })?;
        }
        for i in (0..inputs.len()).filter(read) {
            let Given::Host(at, bytes @ 1..) = inputs[i] else { continue };
            // SAFETY: the caller's input has as many bytes, and so has the staging memory, which is nobody else's.
            unsafe { std::ptr::copy_nonoverlapping(at, self.staged[i].at.cast::<u8>(), bytes) };
            self.post(|m| {
                // SAFETY: both have as many bytes, and live until the stream has been waited for.
                unsafe { m.shared.driver.copy_to_device(m.inputs[i].at, m.staged[i].at, bytes, m.stream) }
            })?;
        }
        Ok(())
    }
    /// Gives the stream work, now or as a part of a recording; in a replay it is there already.
    fn post(&mut self, work: impl FnOnce(&Machine) -> std::result::Result<(), Refused>) -> std::result::Result<(), Refused> {
        match self.mode {
            Mode::Replay => return Ok(()),
            Mode::Record if !self.capturing => {
                // SAFETY: the stream is the machine's own.
                unsafe { self.shared.driver.begin_capture(self.stream, THREAD_LOCAL)? };
                self.capturing = true;
                self.behind_launch = false;
            }
            Mode::Record => {}
            Mode::Direct => {
                if let Some(clock) = &mut self.clock {
                    clock.part_begins(self.stream)?;
                }
            }
        }
        let done = work(self);
        self.behind_launch = false;
        done
    }
    fn forget(&mut self) {
        for part in std::mem::take(&mut self.recordings).into_values().flatten() {
            // SAFETY: the recording is not under way: the stream was waited for.
            let _ = unsafe { self.shared.driver.destroy_executable(part) };
        }
    }

    /// Has the stream note an event, now or in every launch of a recording.
    fn note(&mut self, event: Option<Handle>) -> std::result::Result<(), Refused> {
        let Some(event) = event else { return Ok(()) };
        self.post(|m| {
            let external = c_uint::from(m.capturing);
            // SAFETY: the event is that of the clock, which lives as long as recordings do.
            unsafe { m.shared.driver.record_event(event, m.stream, external) }
        })
    }
    /// Times runs by events from here on, and each step where `steps` says so; or no more.
    pub(crate) fn time(&mut self, on: Option<bool>) {
        let _ = self.shared.enter();
        self.forget();
        self.clock = on.map(|steps| Box::new(Clock::new(self.shared.driver, steps)));
    }
    /// What the last run took on the device, where it was timed.
    pub(crate) fn took(&self) -> Option<DeviceTime> {
        self.clock.as_ref().map(|c| c.total())
    }
    /// When a timed step of the last run began, from when the first one did, and what it took, in milliseconds.
    pub(crate) fn step(&self, timed: usize) -> Option<(f64, f64)> {
        self.clock.as_ref()?.step(timed)
    }
    /// A step begins.
    pub(crate) fn step_begins(&mut self) {
        if let Some(clock) = &mut self.clock {
            clock.step_begins();
        }
    }
    /// A step has ended; its number among the timed ones, where the device had it.
    pub(crate) fn step_ends(&mut self) -> Option<usize> {
        let (event, timed) = self.clock.as_mut()?.step_ends()?;
        self.note(Some(event)).ok().map(|()| timed)
    }
    /// Which of the forms of a kernel runs that has `of` of them.
    pub(crate) fn variant(&self, of: usize) -> usize {
        if self.variant < of { self.variant } else { 0 }
    }
    /// Has kernels with several forms run in this one.
    #[cfg(feature = "harness")]
    pub(crate) fn set_variant(&mut self, variant: usize) {
        let _ = self.shared.enter();
        self.forget();
        self.variant = variant;
    }

    pub(crate) fn arena(&self) -> u64 {
        self.arena.at
    }
    pub(crate) fn weights(&self) -> u64 {
        self.shared.weights
    }
    pub(crate) fn input(&self, i: usize) -> u64 {
        self.inputs[i].at
    }
    pub(crate) fn scratch(&self) -> u64 {
        self.scratch.at
    }
    pub(crate) fn fault(&self) -> u64 {
        self.fault.at
    }
    pub(crate) fn state(&self) -> u64 {
        self.state.at
    }
    /// Where kernels read number `i` of those that change from run to run.
    pub(crate) fn word(&self, i: usize) -> u64 {
        self.words.at + (i * size_of::<i64>()) as u64
    }

    /// Symbols with those that change from run to run as great as they can be.
    pub(crate) fn at_most(&self, syms: &[i64]) -> Vec<i64> {
        let mut out = syms.to_vec();
        let spec = self.shared.spec;
        spec.lengths.iter().for_each(|i| out[*i] = spec.spec.symbols[*i].hi.unwrap_or(out[*i]));
        out
    }
    /// Where an output lies on the device behind a run whose arena has these offsets, if it does.
    pub(crate) fn lies(&self, place: OutPlace, offsets: &[usize]) -> Option<u64> {
        match place {
            OutPlace::Arena(o) => Some(self.arena.at + o as u64),
            OutPlace::Buffer(b) => Some(self.arena.at + offsets[b] as u64),
            OutPlace::Weight(o) => Some(self.shared.weights + o as u64),
            OutPlace::Input(i) => self.shared.spec.uploads[i].then(|| self.inputs[i].at),
            OutPlace::Slot(_) => None,
        }
    }

    /// Whether the CPU reads input `i`, or hands it out.
    pub(crate) fn reads_here(&self, i: usize) -> bool {
        self.shared.spec.reads_here.get(i).is_some_and(|r| *r)
    }
    /// Brings bytes of the device.
    ///
    /// # Safety
    /// There are as many at the address.
    pub(crate) unsafe fn read(&self, from: u64, to: &mut [u8]) -> Result<()> {
        if to.is_empty() {
            return Ok(());
        }
        // SAFETY: the caller vouches for the address, and what is written is waited for.
        self.waited(|m| unsafe { m.shared.driver.copy_from_device(to.as_mut_ptr().cast(), from, to.len(), m.stream) })
    }
    /// Does something with memory of the device, and waits for it.
    fn waited(&self, work: impl FnOnce(&Machine) -> std::result::Result<(), Refused>) -> Result<()> {
        // SAFETY: the stream is the machine's own.
        self.shared.enter().and_then(|()| work(self)).and_then(|()| unsafe { self.shared.driver.synchronize(self.stream) }).map_err(error)
    }
    /// Brings bytes of the state.
    pub(crate) fn read_state(&self, at: usize, to: &mut [u8]) -> Result<()> {
        // SAFETY: the caller's range is inside of the state, and what is written is waited for.
        self.waited(|m| unsafe { m.shared.driver.copy_from_device(to.as_mut_ptr().cast(), m.state.at + at as u64, to.len(), m.stream) })
    }
    /// Writes bytes of the state.
    pub(crate) fn write_state(&self, at: usize, from: &[u8]) -> Result<()> {
        // SAFETY: as above.
        self.waited(|m| unsafe { m.shared.driver.copy_to_device(m.state.at + at as u64, from.as_ptr().cast(), from.len(), m.stream) })
    }
    /// Writes zeros.
    pub(crate) fn clear_state(&self, at: usize, bytes: usize) -> Result<()> {
        // SAFETY: as above.
        self.waited(|m| unsafe { m.shared.driver.fill(m.state.at + at as u64, 0, bytes, m.stream) })
    }
    /// Takes over bytes from elsewhere on the device.
    pub(crate) fn keep(&self, at: usize, from: u64, bytes: usize) -> Result<()> {
        // SAFETY: as above; results of a run stay where they are until the next one.
        self.waited(|m| unsafe { m.shared.driver.copy_within_device(m.state.at + at as u64, from, bytes, m.stream) })
    }

    /// Whether kernels are there whose operands the tensor memory accelerator brings.
    pub(crate) fn streams(&self) -> bool {
        self.shared.streams
    }

    /// Launches kernel `i` over a grid of blocks, with words as its arguments and maps of rows behind them; nothing where one of the extents
    /// is 0.
    pub(crate) fn launch(
        &mut self,
        i: usize,
        grid: [usize; 3],
        threads: usize,
        shared: usize,
        args: &[u64],
        maps: &[Rows],
    ) -> std::result::Result<(), Fail> {
        if grid.contains(&0) {
            return Ok(());
        }
        if args.len() > ARGUMENTS || maps.len() > MAPS {
            let text = format!("a launch of {} arguments and {} maps; there is room for {ARGUMENTS} and {MAPS}", args.len(), maps.len());
            return Err(Fail::Device(text));
        }
        if let Some(clock) = &mut self.clock {
            let noted = clock.before_launch().and_then(|events| events.into_iter().try_for_each(|e| self.note(e)));
            noted.map_err(|e| self.fail(e))?;
        }
        let result = self.post(|m| {
            let function = m.shared.function(i, shared)?;
            let mut made: [Option<TensorMap>; MAPS] = [None; MAPS];
            for (to, rows) in made.iter_mut().zip(maps) {
                *to = Some(m.shared.driver.map_of(rows)?);
            }
            let mut words: [*mut c_void; ARGUMENTS + MAPS] = [std::ptr::null_mut(); ARGUMENTS + MAPS];
            let args = args.iter().map(|a| std::ptr::from_ref(a).cast());
            let maps = made.iter().flatten().map(|map| std::ptr::from_ref(map).cast::<c_void>());
            for (w, a) in words.iter_mut().zip(args.chain(maps)) {
                *w = a.cast_mut();
            }
            let overlap = m.shared.overlaps && m.behind_launch;
            let config = LaunchConfig {
                grid: grid.map(|n| n as c_uint),
                block: [threads as c_uint, 1, 1],
                shared: shared as c_uint,
                stream: m.stream,
                attributes: &LaunchAttribute::OVERLAP,
                count: overlap.into(),
            };
            // SAFETY: generated code passes the arguments that the kernel takes, words of 8 bytes each, with addresses from the plan, and maps,
            // which the driver copies with them.
            unsafe { m.shared.driver.launch(&config, function, words.as_mut_ptr(), std::ptr::null_mut()) }
        });
        self.behind_launch = result.is_ok();
        result.map_err(|e| self.fail(e))
    }
    /// Brings ranges of the arena to the host's copy of it, and waits for them and for what was launched before.
    pub(crate) fn fetch(&mut self, host: *mut u8, ranges: &[(usize, usize)]) -> std::result::Result<(), Fail> {
        self.fetched(host, ranges).map_err(|e| self.fail(e))?;
        // SAFETY: the words were made with the machine, and the stream has been waited for.
        let words = unsafe { std::slice::from_raw_parts_mut(self.found.at.cast::<i64>(), FAULT) };
        if words[0] == 0 {
            return Ok(());
        }
        let (line, index, len) = (words[1] as u32, words[2], words[3].max(0) as usize);
        words[0] = 0;
        self.behind_launch = false;
        // SAFETY: the words on the device are as many bytes.
        unsafe { self.shared.driver.fill(self.fault.at, 0, self.fault.bytes, self.stream) }.map_err(|e| self.fail(e))?;
        Err(Fail::Fault(line, Fault::Index { index, len }))
    }
    /// Ends what was launched with bringing results, where they do not stay on the device.
    pub(crate) fn results(&mut self, host: *mut u8, ranges: &[(usize, usize)]) -> std::result::Result<(), Fail> {
        let ranges = if self.resident { &[] } else { ranges };
        self.fetch(host, ranges)
    }
    fn fetched(&mut self, host: *mut u8, ranges: &[(usize, usize)]) -> std::result::Result<(), Refused> {
        if let Some(clock) = &mut self.clock {
            let event = clock.behind_launches()?;
            self.note(event)?;
        }
        for &(at, bytes) in ranges.iter().filter(|(_, bytes)| *bytes > 0) {
            self.post(|m| {
                // SAFETY: the range lies inside of the arena, which the host's copy is as large as.
                unsafe { m.shared.driver.copy_from_device(host.wrapping_add(at).cast(), m.arena.at + at as u64, bytes, m.stream) }
            })?;
        }
        self.post(|m| {
            // SAFETY: both have as many bytes.
            unsafe { m.shared.driver.copy_from_device(m.found.at, m.fault.at, m.fault.bytes, m.stream) }
        })?;
        if self.mode == Mode::Record {
            let part = self.recorded()?;
            self.recordings.entry(self.key.clone()).or_default().push(part);
        }
        // SAFETY: the recording was made ready on this device, and the stream is the machine's own.
        unsafe {
            if self.mode != Mode::Direct {
                let part = self.recordings.get(&self.key).and_then(|parts| parts.get(self.part)).copied();
                self.part += 1;
                if let Some(part) = part {
                    if let Some(clock) = &mut self.clock {
                        clock.part_begins(self.stream)?;
                    }
                    self.shared.driver.launch_graph(part, self.stream)?;
                }
            }
            if let Some(clock) = &mut self.clock {
                clock.part_ends(self.stream)?;
            }
            self.shared.driver.synchronize(self.stream)?;
        }
        self.clock.as_mut().map_or(Ok(()), |clock| clock.part_is_over())
    }
    /// What was recorded, ready to be launched.
    fn recorded(&mut self) -> std::result::Result<Handle, Refused> {
        let (mut graph, mut part) = (std::ptr::null_mut(), std::ptr::null_mut());
        self.capturing = false;
        let driver = self.shared.driver;
        // SAFETY: the stream is being captured; the graph is destroyed once it was made ready.
        unsafe {
            driver.end_capture(self.stream, &mut graph)?;
            let made = driver.instantiate(&mut part, graph, 0);
            let _ = driver.destroy_graph(graph);
            made?;
        }
        Ok(part)
    }
    /// Brings ranges of the host's copy of the arena to the device.
    pub(crate) fn send(&mut self, host: *const u8, ranges: &[(usize, usize)]) -> std::result::Result<(), Fail> {
        for &(at, bytes) in ranges.iter().filter(|(_, bytes)| *bytes > 0) {
            let sent = self.post(|m| {
                // SAFETY: as in `fetched`; the host's copy does not change until the next wait.
                unsafe { m.shared.driver.copy_to_device(m.arena.at + at as u64, host.wrapping_add(at).cast(), bytes, m.stream) }
            });
            sent.map_err(|e| self.fail(e))?;
        }
        Ok(())
    }
    /// Ends a run. One that failed leaves no recording, and nothing under way.
    pub(crate) fn end(&mut self, failed: bool) {
        if self.capturing {
            let mut graph = std::ptr::null_mut();
            self.capturing = false;
            // SAFETY: the stream is being captured.
            unsafe {
                if self.shared.driver.end_capture(self.stream, &mut graph).is_ok() && !graph.is_null() {
                    let _ = self.shared.driver.destroy_graph(graph);
                }
            }
        }
        if failed && self.mode == Mode::Record {
            self.forget();
        }
        if failed {
            // SAFETY: the stream is the machine's own.
            let _ = unsafe { self.shared.driver.synchronize(self.stream) };
        }
    }
}

/// Makes memory of the device at least so large; whether it moved.
fn grow(shared: &Shared, m: &mut Memory, bytes: usize) -> std::result::Result<bool, Refused> {
    if bytes <= m.bytes {
        return Ok(false);
    }
    // SAFETY: nothing is under way that uses the old memory: the stream was waited for.
    unsafe {
        if m.at != 0 {
            let _ = shared.driver.free(m.at);
            *m = Memory::default();
        }
        shared.driver.allocate(&mut m.at, bytes)?;
    }
    m.bytes = bytes;
    Ok(true)
}
fn grow_pinned(shared: &Shared, m: &mut Pinned, bytes: usize) -> std::result::Result<(), Refused> {
    if bytes <= m.bytes {
        return Ok(());
    }
    // SAFETY: as above.
    unsafe {
        if !m.at.is_null() {
            let _ = shared.driver.free_host(m.at);
            (m.at, m.bytes) = (std::ptr::null_mut(), 0);
        }
        shared.driver.allocate_host(&mut m.at, bytes)?;
        std::ptr::write_bytes(m.at.cast::<u8>(), 0, bytes);
    }
    m.bytes = bytes;
    Ok(())
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.shared.enter();
        self.forget();
        self.clock = None;
        let driver = self.shared.driver;
        // SAFETY: no run is under way, and nobody else has these.
        unsafe {
            for m in self.inputs.iter().chain([&self.arena, &self.scratch, &self.fault, &self.state, &self.words]).filter(|m| m.at != 0) {
                let _ = driver.free(m.at);
            }
            for m in self.staged.iter().chain([&self.found, &self.written]).filter(|m| !m.at.is_null()) {
                let _ = driver.free_host(m.at);
            }
            if !self.stream.is_null() {
                let _ = driver.destroy_stream(self.stream);
            }
        }
    }
}
