//! `Clock`: times of runs and of steps by events, the device's own clock, where somebody asks for them.

use super::driver::{Driver, Handle, Refused};
use std::ffi::c_uint;

/// An event in a stream that is being captured becomes a node of the graph, whose launches note the time anew.
const EXTERNAL: c_uint = 1;

/// What the device took for a run, in milliseconds by its own clock.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct DeviceTime {
    /// All of the run that the device had a part in: copies of inputs and results, and kernels. Where steps run on the CPU, the sum of what
    /// is between them.
    pub run: f64,
    /// From the first kernel to the last one, summed likewise.
    pub kernels: f64,
}

/// A stretch of time between two events.
#[derive(Clone, Copy, Debug)]
struct Span {
    from: Handle,
    to: Handle,
}

/// The events of an instance. Each run notes the same ones again, in the same order.
#[derive(Debug)]
pub(super) struct Clock {
    driver: &'static Driver,
    /// Whether each step is timed.
    steps: bool,
    /// Steps in the order in which a run comes to them, and which is next; whether it has launched.
    spans: Vec<Span>,
    next: usize,
    launched: Option<bool>,
    /// What a run gives the stream between two waits, as a whole and from kernel to kernel.
    parts: Vec<[Span; 2]>,
    part: usize,
    begun: bool,
    kernels: bool,
    total: DeviceTime,
}

impl Clock {
    pub(super) fn new(driver: &'static Driver, steps: bool) -> Clock {
        let (spans, parts, total) = (Vec::new(), Vec::new(), DeviceTime::default());
        Clock { driver, steps, spans, next: 0, launched: None, parts, part: 0, begun: false, kernels: false, total }
    }
    /// A run begins.
    pub(super) fn restart(&mut self) {
        (self.next, self.launched, self.part, self.begun, self.kernels) = (0, None, 0, false, false);
        self.total = DeviceTime::default();
    }
    /// What the run took, as far as it has been waited for.
    pub(super) fn total(&self) -> DeviceTime {
        self.total
    }
    fn span(&self) -> Result<Span, Refused> {
        let (mut from, mut to) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: the driver writes a handle to each.
        unsafe {
            self.driver.create_event(&mut from, 0)?;
            self.driver.create_event(&mut to, 0)?;
        }
        Ok(Span { from, to })
    }
    fn part(&mut self) -> Result<[Span; 2], Refused> {
        while self.parts.len() <= self.part {
            let both = [self.span()?, self.span()?];
            self.parts.push(both);
        }
        Ok(self.parts[self.part])
    }
    fn record(&self, event: Handle, stream: Handle, capturing: bool) -> Result<(), Refused> {
        // SAFETY: the event is the clock's own, and the stream that of its instance.
        unsafe { self.driver.record_event(event, stream, if capturing { EXTERNAL } else { 0 }) }
    }
    /// The first of a part's work is about to be given to the stream, outside of a capture.
    pub(super) fn part_begins(&mut self, stream: Handle) -> Result<(), Refused> {
        if self.begun {
            return Ok(());
        }
        self.begun = true;
        let [whole, _] = self.part()?;
        self.record(whole.from, stream, false)
    }
    /// The events that a launch is behind: the first of its part, and the first of its step.
    pub(super) fn before_launch(&mut self) -> Result<[Option<Handle>; 2], Refused> {
        let first = if self.kernels { None } else { Some(self.part()?[1].from) };
        self.kernels = true;
        let step = match self.launched {
            Some(false) => {
                if self.spans.len() <= self.next {
                    let span = self.span()?;
                    self.spans.push(span);
                }
                self.launched = Some(true);
                Some(self.spans[self.next].from)
            }
            _ => None,
        };
        Ok([first, step])
    }
    /// The event behind a part's last launch, where it had one.
    pub(super) fn behind_launches(&mut self) -> Result<Option<Handle>, Refused> {
        if self.kernels { Ok(Some(self.part()?[1].to)) } else { Ok(None) }
    }
    /// All of a part's work is given to the stream.
    pub(super) fn part_ends(&mut self, stream: Handle) -> Result<(), Refused> {
        self.part_begins(stream)?;
        let [whole, _] = self.part()?;
        self.record(whole.to, stream, false)
    }
    /// The stream was waited for: what the part took is added up.
    pub(super) fn part_is_over(&mut self) -> Result<(), Refused> {
        let [whole, kernels] = self.part()?;
        self.total.run += self.elapsed(whole)?;
        if self.kernels {
            self.total.kernels += self.elapsed(kernels)?;
        }
        (self.part, self.begun, self.kernels) = (self.part + 1, false, false);
        Ok(())
    }
    /// A step begins.
    pub(super) fn step_begins(&mut self) {
        self.launched = self.steps.then_some(false);
    }
    /// A step has ended: the event behind its launches and its number among the timed ones, where it had some.
    pub(super) fn step_ends(&mut self) -> Option<(Handle, usize)> {
        let launched = self.launched.take() == Some(true);
        launched.then(|| {
            self.next += 1;
            (self.spans[self.next - 1].to, self.next - 1)
        })
    }
    fn elapsed(&self, span: Span) -> Result<f64, Refused> {
        let mut ms = 0f32;
        // SAFETY: both events were noted, and the stream has been waited for.
        unsafe { self.driver.elapsed(&mut ms, span.from, span.to)? };
        Ok(f64::from(ms))
    }
    /// When timed step `i` of the last run began, from when the first one did, and what it took, in milliseconds.
    pub(super) fn step(&self, i: usize) -> Option<(f64, f64)> {
        let (first, span) = (self.spans.first()?, self.spans.get(i)?);
        let start = self.elapsed(Span { from: first.from, to: span.from });
        Some((start.ok()?, self.elapsed(*span).ok()?))
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        for span in self.spans.iter().chain(self.parts.iter().flatten()) {
            // SAFETY: the events are the clock's own; nothing waits for them any more.
            unsafe {
                let _ = self.driver.destroy_event(span.from);
                let _ = self.driver.destroy_event(span.to);
            }
        }
    }
}
