//! What is asked of a machine between runs: the state that it keeps, and where results lie.

use super::Machine;
use crate::cuda::driver::Refused;
use crate::cuda::shared::error;
use crate::error::Result;
use crate::spec::OutPlace;

impl Machine {
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
}
