//! `Machine`: what one instance has on a device, and how a run goes there: uploads, launches, results, recorded once and then replayed.

mod between;
mod timed;

use super::Rows;
use super::clock::Clock;
use super::driver::{Handle, LaunchAttribute, LaunchConfig, Refused, TensorMap};
use super::memory::{Memory, Pinned};
use super::shared::{Shared, error};
use crate::error::{Error, Fail, Result};
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
        let mut out = Machine {
            shared,
            stream: std::ptr::null_mut(),
            arena: Memory::default(),
            scratch: Memory::default(),
            fault: Memory::default(),
            state: Memory::default(),
            words: Memory::default(),
            written: Pinned::default(),
            inputs: (0..inputs).map(|_| Memory::default()).collect(),
            staged: (0..inputs).map(|_| Pinned::default()).collect(),
            found: Pinned::default(),
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
        let driver = self.shared.driver;
        // SAFETY: the stream is written before it is used; memory is filled as far as it goes, and nothing is under way yet.
        unsafe {
            driver.create_stream(&mut self.stream, NON_BLOCKING)?;
            self.scratch.grow(driver, scratch)?;
            self.fault.grow(driver, FAULT * size_of::<i64>())?;
            self.state.grow(driver, state)?;
            self.words.grow(driver, words * size_of::<i64>())?;
            for m in [&self.scratch, &self.fault, &self.state].into_iter().filter(|m| m.bytes > 0) {
                driver.fill(m.at, 0, m.bytes, self.stream)?;
            }
            driver.synchronize(self.stream)?;
            self.written.grow(driver, words * size_of::<i64>())?;
            self.found.grow(driver, FAULT * size_of::<i64>())?;
        }
        Ok(())
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
        let read = |i: &usize| shared.spec.uploads[*i];
        // SAFETY: nothing is under way: the stream was waited for.
        let mut moved = unsafe { self.arena.grow(shared.driver, arena)? };
        for i in (0..inputs.len()).filter(read) {
            // SAFETY: as above.
            unsafe {
                moved |= self.inputs[i].grow(shared.driver, inputs[i].bytes())?;
                if let Given::Host(_, bytes) = inputs[i] {
                    moved |= self.staged[i].grow(shared.driver, bytes)?;
                }
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

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.shared.enter();
        self.forget();
        self.clock = None;
        let driver = self.shared.driver;
        // SAFETY: no run is under way, and nobody else has these.
        unsafe {
            for m in self.inputs.iter_mut().chain([&mut self.arena, &mut self.scratch, &mut self.fault, &mut self.state, &mut self.words]) {
                m.give_back(driver);
            }
            for m in self.staged.iter_mut().chain([&mut self.found, &mut self.written]) {
                m.give_back(driver);
            }
            if !self.stream.is_null() {
                let _ = driver.destroy_stream(self.stream);
            }
        }
    }
}
