//! The matrix registers of x86-64 (AMX): whether the machine and the system have them, and the shapes they are given.

use core::arch::asm;
use std::sync::OnceLock;

/// Whether the machine has tiles of bytes, and the system lets this process use them.
pub(crate) fn available() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| !cfg!(miri) && has_tiles() && ask())
}

/// Whether processor and system know tiles of bytes.
fn has_tiles() -> bool {
    use core::arch::x86_64::{__cpuid, __cpuid_count};
    if __cpuid(0).eax < 7 || __cpuid(1).ecx >> 27 & 1 == 0 {
        return false;
    }
    let low: u32;
    // SAFETY: the bit just tested says that the system has enabled this instruction.
    unsafe { asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") _, options(nomem, nostack)) };
    let states = 0b11 << 17;
    __cpuid_count(7, 0).edx >> 24 & 0b11 == 0b11 && low & states == states
}

/// Asks the system for the state of tiles, for all threads of the process.
#[cfg(target_os = "linux")]
fn ask() -> bool {
    const ARCH_PRCTL: usize = 158;
    const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
    const TILE_DATA: usize = 18;
    let answer: isize;
    // SAFETY: the call touches no memory of this process.
    unsafe {
        asm!(
            "syscall", inlateout("rax") ARCH_PRCTL => answer, in("rdi") ARCH_REQ_XCOMP_PERM, in("rsi") TILE_DATA,
            out("rcx") _, out("r11") _, options(nostack),
        );
    }
    answer == 0
}

#[cfg(not(target_os = "linux"))]
fn ask() -> bool {
    false
}

/// Shapes of the registers, as `ldtilecfg` reads them.
#[repr(C, align(64))]
pub(crate) struct Shapes {
    palette: u8,
    start: u8,
    reserved: [u8; 14],
    bytes: [u16; 16],
    rows: [u8; 16],
}

impl Shapes {
    /// Registers of such rows and bytes of a row.
    pub(crate) fn new(rows: [u8; 8], bytes: [u16; 8]) -> Shapes {
        let mut s = Shapes { palette: 1, start: 0, reserved: [0; 14], bytes: [0; 16], rows: [0; 16] };
        s.bytes[..8].copy_from_slice(&bytes);
        s.rows[..8].copy_from_slice(&rows);
        s
    }
    /// Gives the registers of this thread these shapes; all become zero.
    ///
    /// # Safety
    /// The registers are [`available`].
    pub(crate) unsafe fn configure(&self) {
        // SAFETY: the caller vouches for the registers; this is a configuration as they want it.
        unsafe { asm!("ldtilecfg [{}]", in(reg) self, options(nostack, readonly)) };
    }
}

/// Lets go of the registers: those that are released cost switches of threads nothing.
///
/// # Safety
/// They are [`available`].
pub(crate) unsafe fn release() {
    // SAFETY: no sums are in the registers that anyone waits for.
    unsafe { asm!("tilerelease", options(nomem, nostack)) };
}
