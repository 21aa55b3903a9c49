//! `Machine`: what one instance has on a device, and how a run goes there: uploads, launches, results, recorded once and then replayed.

use super::clock::{Clock, DeviceTime};
use super::driver::{Handle, LaunchAttribute, LaunchConfig, Refused};
use super::shared::{Shared, error};
use crate::error::{Error, Fail, Result};
use kiln_kernels::fault::Fault;
use std::collections::BTreeMap;
use std::ffi::{c_uint, c_void};
use std::sync::Arc;

/// Words that kernels report a fault in: how many did, the line of the node, the index, and the extent.
const FAULT: usize = 4;
/// Arguments of a launch at most.
const ARGUMENTS: usize = 128;
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
    inputs: Vec<Memory>,
    staged: Vec<Pinned>,
    /// The words of `fault`, as they were brought last.
    found: Pinned,
    mode: Mode,
    capturing: bool,
    /// Whether what the stream was given last is a launch: only such a one can overlap with the next.
    behind_launch: bool,
    /// Recordings by the extents they were made for, a part for each time the host waits; none yet where the first run was not recorded.
    recordings: BTreeMap<Vec<i64>, Vec<Handle>>,
    key: Vec<i64>,
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
            inputs: (0..inputs).map(|_| Memory::default()).collect(),
            staged: (0..inputs).map(|_| empty()).collect(),
            found: empty(),
            mode: Mode::Direct,
            capturing: false,
            behind_launch: false,
            recordings: BTreeMap::new(),
            key: Vec::new(),
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
        let scratch = self.shared.spec.scratch;
        self.shared.enter()?;
        // SAFETY: the stream is written before it is used; memory is filled as far as it goes.
        unsafe {
            self.shared.driver.create_stream(&mut self.stream, NON_BLOCKING)?;
            grow(&self.shared, &mut self.scratch, scratch)?;
            grow(&self.shared, &mut self.fault, FAULT * size_of::<i64>())?;
            self.shared.driver.fill(self.scratch.at, 0, self.scratch.bytes, self.stream)?;
            self.shared.driver.fill(self.fault.at, 0, self.fault.bytes, self.stream)?;
            self.shared.driver.synchronize(self.stream)?;
        }
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

    /// Begins a run at these extents, with an arena of as many bytes: brings the inputs that kernels read.
    pub(crate) fn begin(&mut self, syms: &[i64], arena: usize, inputs: &[(*const u8, usize)]) -> Result<()> {
        if let Some(e) = &self.broken {
            return Err(Error::Device {
                message: format!("an earlier call failed, and the device's context is lost: {e}; make a new instance"),
            });
        }
        self.set_up(syms, arena, inputs).map_err(|e| self.fallen(e))
    }
    fn set_up(&mut self, syms: &[i64], arena: usize, inputs: &[(*const u8, usize)]) -> std::result::Result<(), Refused> {
        let shared = self.shared.clone();
        shared.enter()?;
        let mut moved = grow(&shared, &mut self.arena, arena)?;
        for (i, (_, bytes)) in inputs.iter().enumerate() {
            if shared.spec.uploads[i] {
                moved |= grow(&shared, &mut self.inputs[i], *bytes)?;
                grow_pinned(&shared, &mut self.staged[i], *bytes)?;
            }
        }
        // Recordings hold addresses.
        if moved {
            self.forget();
        }
        self.part = 0;
        self.behind_launch = false;
        if let Some(clock) = &mut self.clock {
            clock.restart();
        }
        self.mode = match self.recordings.get(syms) {
            _ if !shared.spec.replays => Mode::Direct,
            Some(parts) if !parts.is_empty() => Mode::Replay,
            Some(_) => Mode::Record,
            None => {
                if self.recordings.len() >= RECORDINGS {
                    self.forget();
                }
                self.recordings.insert(syms.to_vec(), Vec::new());
                Mode::Direct
            }
        };
        if self.key != syms {
            self.key = syms.to_vec();
        }
        for (i, (at, bytes)) in inputs.iter().enumerate() {
            if !shared.spec.uploads[i] || *bytes == 0 {
                continue;
            }
            // SAFETY: the caller's input has as many bytes, and so has the staging memory, which is nobody else's.
            unsafe { std::ptr::copy_nonoverlapping(*at, self.staged[i].at.cast::<u8>(), *bytes) };
            self.post(|m| {
                // SAFETY: both have as many bytes, and live until the stream has been waited for.
                unsafe { m.shared.driver.copy_to_device(m.inputs[i].at, m.staged[i].at, *bytes, m.stream) }
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

    /// Launches kernel `i` over a grid of blocks; nothing where one of the extents is 0.
    pub(crate) fn launch(
        &mut self,
        i: usize,
        grid: [usize; 3],
        threads: usize,
        shared: usize,
        args: &[u64],
    ) -> std::result::Result<(), Fail> {
        if grid.contains(&0) {
            return Ok(());
        }
        if args.len() > ARGUMENTS {
            return Err(Fail::Device(format!("a launch of {} arguments; there is room for {ARGUMENTS}", args.len())));
        }
        if let Some(clock) = &mut self.clock {
            let noted = clock.before_launch().and_then(|events| events.into_iter().try_for_each(|e| self.note(e)));
            noted.map_err(|e| self.fail(e))?;
        }
        let result = self.post(|m| {
            let function = m.shared.function(i, shared)?;
            let mut words: [*mut c_void; ARGUMENTS] = [std::ptr::null_mut(); ARGUMENTS];
            for (w, a) in words.iter_mut().zip(args) {
                *w = std::ptr::from_ref(a).cast_mut().cast();
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
            // SAFETY: generated code passes the arguments that the kernel takes, words of 8 bytes each, with addresses from the plan.
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
            for m in self.inputs.iter().chain([&self.arena, &self.scratch, &self.fault]).filter(|m| m.at != 0) {
                let _ = driver.free(m.at);
            }
            for m in self.staged.iter().chain([&self.found]).filter(|m| !m.at.is_null()) {
                let _ = driver.free_host(m.at);
            }
            if !self.stream.is_null() {
                let _ = driver.destroy_stream(self.stream);
            }
        }
    }
}
