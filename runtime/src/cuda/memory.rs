//! Memory of a device, and memory of the host that a device copies from and to by itself.

use super::driver::{Driver, Handle, Refused};

/// Memory of the device.
#[derive(Debug, Default)]
pub(super) struct Memory {
    pub(super) at: u64,
    pub(super) bytes: usize,
}

impl Memory {
    /// Makes it at least so large; whether it moved.
    ///
    /// # Safety
    /// The device's context is that of this thread, and nothing is under way that uses the memory.
    pub(super) unsafe fn grow(&mut self, driver: &Driver, bytes: usize) -> Result<bool, Refused> {
        if bytes <= self.bytes {
            return Ok(false);
        }
        // SAFETY: passed on from the caller; the address is written before it is used.
        unsafe {
            self.give_back(driver);
            driver.allocate(&mut self.at, bytes)?;
        }
        self.bytes = bytes;
        Ok(true)
    }
    /// Gives it back.
    ///
    /// # Safety
    /// As of [`Memory::grow`].
    pub(super) unsafe fn give_back(&mut self, driver: &Driver) {
        if self.at != 0 {
            // SAFETY: passed on from the caller.
            let _ = unsafe { driver.free(self.at) };
        }
        *self = Memory::default();
    }
}

/// Memory of the host that the device copies from and to.
#[derive(Debug)]
pub(super) struct Pinned {
    pub(super) at: Handle,
    pub(super) bytes: usize,
}

impl Default for Pinned {
    fn default() -> Pinned {
        Pinned { at: std::ptr::null_mut(), bytes: 0 }
    }
}

impl Pinned {
    /// As [`Memory::grow`]; new memory holds zeros.
    ///
    /// # Safety
    /// As of [`Memory::grow`].
    pub(super) unsafe fn grow(&mut self, driver: &Driver, bytes: usize) -> Result<bool, Refused> {
        if bytes <= self.bytes {
            return Ok(false);
        }
        // SAFETY: passed on from the caller; the driver gives as many bytes.
        unsafe {
            self.give_back(driver);
            driver.allocate_host(&mut self.at, bytes)?;
            std::ptr::write_bytes(self.at.cast::<u8>(), 0, bytes);
        }
        self.bytes = bytes;
        Ok(true)
    }
    /// Gives it back.
    ///
    /// # Safety
    /// As of [`Memory::grow`].
    pub(super) unsafe fn give_back(&mut self, driver: &Driver) {
        if !self.at.is_null() {
            // SAFETY: passed on from the caller.
            let _ = unsafe { driver.free_host(self.at) };
        }
        *self = Pinned::default();
    }
}
