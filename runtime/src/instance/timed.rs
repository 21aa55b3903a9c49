//! Times of an instance's runs by the clock of its GPU, and which forms of kernels run while they are measured.

use super::Instance;
use crate::cuda::{DeviceTime, Machine};

impl Instance {
    /// Has the steps of a profile timed by the GPU that runs them.
    pub(super) fn time_steps(&mut self) {
        if let (Some(m), true) = (&mut self.machine, self.recorder.is_some()) {
            m.time(Some(true));
        }
    }
    /// Times runs by the GPU's own clock from here on, or no more; what was recorded to be launched again is recorded anew. On the CPU nothing
    /// is timed.
    pub fn time_device(&mut self, on: bool) {
        let steps = self.recorder.is_some();
        if let Some(m) = &mut self.machine {
            m.time((on || steps).then_some(steps));
        }
    }
    /// What the last run took on the GPU, where [`Self::time_device`] asked for that.
    pub fn device_time(&self) -> Option<DeviceTime> {
        self.machine.as_ref().and_then(Machine::took)
    }
    /// Has kernels run in another of the forms that they were compiled in to be measured.
    #[cfg(feature = "harness")]
    pub(crate) fn set_variant(&mut self, variant: usize) {
        if let Some(m) = &mut self.machine {
            m.set_variant(variant);
        }
    }
    /// The name and the compute capability of the GPU, as files of measured forms have them.
    #[cfg(feature = "harness")]
    pub(crate) fn gpu(&self) -> Option<String> {
        self.machine.as_ref().map(|m| m.shared().label())
    }
}
