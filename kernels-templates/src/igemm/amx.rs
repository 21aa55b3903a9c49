//! Integer sums in the tile registers of x86-64 (AMX): 32x32 of them, 64 rows of B a step, read as they are packed.
//!
//! A panel's sixteen groups of four rows are a tile of B, sixteen rows of A one of A; nothing is packed for it in particular.

use crate::gemm::{Block, Epilogue, PANEL};
use core::arch::asm;
use std::sync::OnceLock;

/// Rows of one tile of A and of sums.
const ROWS: usize = 16;
/// Rows of B, or columns of A, that a step takes.
pub(super) const DEPTH: usize = 64;
/// Fewer rows of A than these are not worth a tile.
const LEAST: usize = 8;

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
struct Shapes {
    palette: u8,
    start: u8,
    reserved: [u8; 14],
    bytes: [u16; 16],
    rows: [u8; 16],
}

impl Shapes {
    /// Sums in registers 0 to 3, two of each tile of A; A in 4 and 5, B in 6 and 7.
    fn new(first: usize, second: usize) -> Shapes {
        let (a, b) = (first as u8, second as u8);
        let mut s = Shapes { palette: 1, start: 0, reserved: [0; 14], bytes: [0; 16], rows: [0; 16] };
        s.bytes[..8].fill(64);
        s.rows[..8].copy_from_slice(&[a, a, b, b, a, b, ROWS as u8, ROWS as u8]);
        s
    }
}

/// What [`tile`] reads and writes: addresses, and bytes from row to row.
#[repr(C)]
struct Tiles {
    a: [*const u8; 2],
    b: [*const u8; 2],
    a_row: usize,
    steps: usize,
    start: [*const i32; 2],
    out: [*mut i32; 4],
    out_row: [usize; 2],
}

/// Two tiles of A by two of B, `steps` times.
///
/// # Safety
/// The addresses are those of such tiles, and the registers are configured.
#[inline(never)]
unsafe fn tile(t: &Tiles) {
    // SAFETY: the caller vouches for the addresses; all registers of tiles are free.
    unsafe {
        asm!(
            "xor {d:e}, {d:e}",
            "mov {x}, [{t} + 48]",
            "tileloadd tmm0, [{x} + {d}*1]",
            "tileloadd tmm2, [{x} + {d}*1]",
            "mov {x}, [{t} + 56]",
            "tileloadd tmm1, [{x} + {d}*1]",
            "tileloadd tmm3, [{x} + {d}*1]",
            "mov {x}, [{t}]",
            "mov {y}, [{t} + 8]",
            "mov {v}, [{t} + 16]",
            "mov {w}, [{t} + 24]",
            "mov {r}, [{t} + 32]",
            "mov {n}, [{t} + 40]",
            "mov {d:e}, 64",
            "2:",
            "tileloadd tmm6, [{v} + {d}*1]",
            "tileloadd tmm4, [{x} + {r}*1]",
            "tdpbusd tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{w} + {d}*1]",
            "tdpbusd tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{y} + {r}*1]",
            "tdpbusd tmm2, tmm5, tmm6",
            "tdpbusd tmm3, tmm5, tmm7",
            "add {x}, 64",
            "add {y}, 64",
            "add {v}, 1024",
            "add {w}, 1024",
            "dec {n}",
            "jnz 2b",
            "mov {r}, [{t} + 96]",
            "mov {d}, [{t} + 104]",
            "mov {x}, [{t} + 64]",
            "tilestored [{x} + {r}*1], tmm0",
            "mov {x}, [{t} + 72]",
            "tilestored [{x} + {d}*1], tmm1",
            "mov {x}, [{t} + 80]",
            "tilestored [{x} + {r}*1], tmm2",
            "mov {x}, [{t} + 88]",
            "tilestored [{x} + {d}*1], tmm3",
            t = in(reg) t, x = out(reg) _, y = out(reg) _, v = out(reg) _, w = out(reg) _, r = out(reg) _, d = out(reg) _,
            n = out(reg) _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _, out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

/// A block of sums and its operands.
pub(super) struct Sweep<'a> {
    pub(super) a: *const u8,
    /// Bytes from row to row of A.
    pub(super) a_row: usize,
    /// Panels of the block's columns.
    pub(super) b: *const u8,
    /// A multiple of [`DEPTH`] other than 0.
    pub(super) k: usize,
    /// Initial values of the columns, padded to whole panels.
    pub(super) start: *const i32,
    pub(super) out: *mut i32,
    pub(super) pitch: usize,
    /// Elements from the output of one row to that of the next tiles': the pitch, or 0 where they follow each other in one place.
    pub(super) down: usize,
    pub(super) rows: usize,
    pub(super) cols: usize,
    /// Place of the block in the whole output, for the epilogue.
    pub(super) row: usize,
    pub(super) col: usize,
    pub(super) epilogue: Epilogue<'a>,
}

/// Whether a block is worth tiles.
pub(super) fn pays(rows: usize, k: usize) -> bool {
    rows >= LEAST && k > 0 && k.is_multiple_of(DEPTH)
}

/// Computes a block.
///
/// # Safety
/// The operands and the output that `s` describes are valid, the output is not aliased, [`pays`] says that tiles fit, and they
/// are [`available`].
#[inline(never)]
pub(super) unsafe fn sweep(s: &Sweep) {
    // Sums of panels that are not whole.
    let mut spare = [[0i32; ROWS * PANEL]; 4];
    let spare = spare.each_mut().map(|s| s.as_mut_ptr());
    let panel = s.k * PANEL;
    let mut configured = (0, 0);
    let mut row = 0;
    while row < s.rows {
        let left = s.rows - row;
        let first = left.min(ROWS);
        let second = (left - first).min(ROWS);
        let rows = first + second;
        // A lone tile is computed twice: both have its shape.
        let (two, shape) = (second > 0, (first, if second > 0 { second } else { first }));
        // SAFETY: rows and columns are inside of the block that the caller vouches for, and tiles have these shapes.
        unsafe {
            if shape != configured {
                let shapes = Shapes::new(shape.0, shape.1);
                asm!("ldtilecfg [{}]", in(reg) &shapes, options(nostack, readonly));
                configured = shape;
            }
            let a = s.a.add(row * s.a_row);
            let a = [a, if two { a.add(ROWS * s.a_row) } else { a }];
            let mut col = 0;
            while col < s.cols {
                let pair = col + PANEL < s.cols;
                let b = s.b.add(col / PANEL * panel);
                let b = [b, if pair { b.add(panel) } else { b }];
                let start = s.start.add(col);
                let start = [start, if pair { start.add(PANEL) } else { start }];
                let out = s.out.add(row * s.down + col);
                // Whether each panel's sums can be written where they belong. A lone tile is written there twice.
                let whole = [col + PANEL <= s.cols, col + 2 * PANEL <= s.cols];
                let at = |i: usize| {
                    let (down, side) = (if two { i / 2 } else { 0 }, i % 2);
                    if whole[side] { out.wrapping_add(down * ROWS * s.pitch + side * PANEL) } else { spare[down * 2 + side] }
                };
                let out_row = whole.map(|w| if w { s.pitch } else { PANEL } * size_of::<i32>());
                let tiles = Tiles { a, b, a_row: s.a_row, steps: s.k / DEPTH, start, out: [at(0), at(1), at(2), at(3)], out_row };
                tile(&tiles);
                for (side, whole) in whole.into_iter().enumerate() {
                    let from = col + side * PANEL;
                    if whole || from >= s.cols {
                        continue;
                    }
                    for i in 0..rows {
                        let line = spare[i / ROWS * 2 + side].add(i % ROWS * PANEL);
                        core::ptr::copy_nonoverlapping(line.cast_const(), out.add(i * s.pitch + side * PANEL), s.cols - from);
                    }
                }
                col += 2 * PANEL;
            }
        }
        if let Some(f) = s.epilogue {
            // SAFETY: inside of the block, as above.
            let out = unsafe { s.out.add(row * s.down) };
            f(Block { out: out.cast(), pitch: s.pitch, row: s.row + row, rows, col: s.col, cols: s.cols });
        }
        row += rows;
    }
    // SAFETY: the registers are no longer needed; released ones cost switches of threads nothing.
    unsafe { asm!("tilerelease", options(nomem, nostack)) };
}
