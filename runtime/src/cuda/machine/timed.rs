//! Times of a machine's runs and steps by events, and which forms of its kernels run while they are measured.

use super::Machine;
use crate::cuda::clock::{Clock, DeviceTime};

impl Machine {
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
}
