//! Integer sums in the tile registers of x86-64 (AMX): four blocks of up to sixteen pixels by sixteen columns at a time.
//!
//! A step of B is one tile as it is packed, the same bytes of up to sixteen pixels one of A, read where they lie: windows are not
//! gathered. Four blocks share one panel where their pixels stay in the first-level cache, so that B streams by at a quarter
//! of what the sums take, asked for as data of the second-level cache, which leaves the first to A; otherwise two blocks share two panels. Sums go to a small buffer, which the epilogue empties.

use super::{Depth, Grid, Sums};
use crate::gemm::{Block, PANEL};
use crate::tiles::{self, Shapes};
use core::arch::asm;

/// Pixels of a tile at most.
const ROWS: usize = 16;
/// Panels whose sums are handed on together.
const PANELS: usize = 4;
/// Elements from row to row of the buffer of sums.
const PITCH: usize = PANELS * PANEL;
/// Elements of the buffer of sums.
pub(super) const SUMS: usize = 4 * ROWS * PITCH;
/// Fewer rows of A than these are not worth tiles.
const LEAST: usize = 8;
/// Neither are fewer pixels side by side.
const NARROW: usize = 4;
/// Bytes of A that stay in the first-level cache while B streams by.
const NEAR: usize = 36 << 10;
/// Steps that read so little of B that passes over it need not be spared.
const SHALLOW: usize = 2;

/// What the micro-kernels read and write.
#[repr(C)]
struct Tiles {
    /// Pixels.
    a: [*const u8; 4],
    /// Panels.
    b: [*const u8; 4],
    /// Initial values of the columns.
    start: [*const i32; 4],
    /// Sums.
    out: [*mut i32; 4],
    /// How far the bytes of each step lie behind the pixels.
    steps: *const usize,
    /// The end of `steps`.
    end: *const usize,
    /// Bytes from pixel to pixel.
    pixel: usize,
    /// Bytes from step to step of B.
    deep: usize,
}

/// A micro-kernel: four sums, of the operands that its loop says.
macro_rules! kernel {
    ($(#[$doc:meta])* $name:ident: $($line:literal)*) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// The addresses are those of such tiles, there is a step, and the registers are configured.
        #[inline(never)]
        unsafe fn $name(t: &Tiles) {
            // SAFETY: the caller vouches for the addresses; all registers of tiles are free.
            unsafe {
                asm!(
                    "xor {d:e}, {d:e}",
                    "mov {y}, [{t} + 64]",
                    "tileloadd tmm0, [{y} + {d}*1]",
                    "mov {y}, [{t} + 72]",
                    "tileloadd tmm1, [{y} + {d}*1]",
                    "mov {y}, [{t} + 80]",
                    "tileloadd tmm2, [{y} + {d}*1]",
                    "mov {y}, [{t} + 88]",
                    "tileloadd tmm3, [{y} + {d}*1]",
                    "mov {i}, [{t}]",
                    "mov {j}, [{t} + 8]",
                    "mov {k}, [{t} + 16]",
                    "mov {l}, [{t} + 24]",
                    "mov {v}, [{t} + 32]",
                    "mov {w}, [{t} + 40]",
                    "mov {x}, [{t} + 128]",
                    "mov {r}, [{t} + 144]",
                    "mov {d:e}, 64",
                    "2:",
                    "mov {o}, [{x}]",
                    $($line,)*
                    "add {x}, 8",
                    "cmp {x}, [{t} + 136]",
                    "jne 2b",
                    "mov {d:e}, {pitch}",
                    "mov {y}, [{t} + 96]",
                    "tilestored [{y} + {d}*1], tmm0",
                    "mov {y}, [{t} + 104]",
                    "tilestored [{y} + {d}*1], tmm1",
                    "mov {y}, [{t} + 112]",
                    "tilestored [{y} + {d}*1], tmm2",
                    "mov {y}, [{t} + 120]",
                    "tilestored [{y} + {d}*1], tmm3",
                    t = in(reg) t, pitch = const 4 * PITCH,
                    d = out(reg) _, i = out(reg) _, j = out(reg) _, k = out(reg) _, l = out(reg) _, o = out(reg) _, r = out(reg) _,
                    v = out(reg) _, w = out(reg) _, x = out(reg) _, y = out(reg) _,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }
    };
}

kernel! {
    /// Four blocks of pixels by one panel, of which the steps to come are asked for: one stream alone leaves the memory idle.
    tall:
    "tileloaddt1 tmm6, [{v} + {d}*1]"
    "lea {y}, [{i} + {o}]"
    "tileloadd tmm4, [{y} + {r}*1]"
    "prefetcht0 [{v} + 8192]"
    "prefetcht0 [{v} + 8256]"
    "prefetcht0 [{v} + 8320]"
    "prefetcht0 [{v} + 8384]"
    "tdpbusd tmm0, tmm4, tmm6"
    "lea {y}, [{j} + {o}]"
    "tileloadd tmm5, [{y} + {r}*1]"
    "prefetcht0 [{v} + 8448]"
    "prefetcht0 [{v} + 8512]"
    "prefetcht0 [{v} + 8576]"
    "prefetcht0 [{v} + 8640]"
    "tdpbusd tmm1, tmm5, tmm6"
    "lea {y}, [{k} + {o}]"
    "tileloadd tmm4, [{y} + {r}*1]"
    "prefetcht0 [{v} + 8704]"
    "prefetcht0 [{v} + 8768]"
    "prefetcht0 [{v} + 8832]"
    "prefetcht0 [{v} + 8896]"
    "tdpbusd tmm2, tmm4, tmm6"
    "lea {y}, [{l} + {o}]"
    "tileloadd tmm5, [{y} + {r}*1]"
    "prefetcht0 [{v} + 8960]"
    "prefetcht0 [{v} + 9024]"
    "prefetcht0 [{v} + 9088]"
    "prefetcht0 [{v} + 9152]"
    "tdpbusd tmm3, tmm5, tmm6"
    "add {v}, [{t} + 152]"
}

kernel! {
    /// Two blocks of pixels by two panels; the first block's sums are the first and the second.
    square:
    "tileloaddt1 tmm6, [{v} + {d}*1]"
    "lea {y}, [{i} + {o}]"
    "tileloadd tmm4, [{y} + {r}*1]"
    "tdpbusd tmm0, tmm4, tmm6"
    "tileloaddt1 tmm7, [{w} + {d}*1]"
    "tdpbusd tmm1, tmm4, tmm7"
    "lea {y}, [{j} + {o}]"
    "tileloadd tmm5, [{y} + {r}*1]"
    "tdpbusd tmm2, tmm5, tmm6"
    "tdpbusd tmm3, tmm5, tmm7"
    "add {v}, [{t} + 152]"
    "add {w}, [{t} + 152]"
}

kernel! {
    /// One block of pixels by four panels.
    flat:
    "lea {y}, [{i} + {o}]"
    "tileloadd tmm4, [{y} + {r}*1]"
    "tileloaddt1 tmm6, [{v} + {d}*1]"
    "tdpbusd tmm0, tmm4, tmm6"
    "tileloaddt1 tmm7, [{w} + {d}*1]"
    "tdpbusd tmm1, tmm4, tmm7"
    "tileloaddt1 tmm6, [{k} + {d}*1]"
    "tdpbusd tmm2, tmm4, tmm6"
    "tileloaddt1 tmm7, [{l} + {d}*1]"
    "tdpbusd tmm3, tmm4, tmm7"
    "add {v}, [{t} + 152]"
    "add {w}, [{t} + 152]"
    "add {k}, [{t} + 152]"
    "add {l}, [{t} + 152]"
}

/// Whether a block is worth tiles.
pub(super) fn pays(g: &Grid, d: &Depth) -> bool {
    g.wide >= NARROW && g.wide * g.rows >= LEAST && d.total() > 0
}

/// How the pixels of a grid are cut into tiles of equal height, of which the last of a stretch has some of the one before it.
struct Cut {
    /// Pixels that are cut as one stretch, those between rows included.
    stretch: usize,
    /// Bytes from stretch to stretch.
    next: usize,
    /// Pixels from row to row.
    apart: usize,
    /// Tiles of a stretch.
    across: usize,
    /// Pixels of a tile.
    high: usize,
    tiles: usize,
}

impl Cut {
    fn new(g: &Grid) -> Cut {
        let cut = |stretch: usize, stretches: usize, apart: usize| {
            let high = stretch.div_ceil(stretch.div_ceil(ROWS));
            let across = stretch.div_ceil(high);
            Cut { stretch, next: g.row, apart, across, high, tiles: across * stretches }
        };
        let rows = cut(g.wide, g.rows, g.wide);
        // Short rows in one stretch make fewer tiles, though what is between them is computed for nothing.
        if g.rows > 1 && g.row.is_multiple_of(g.pixel) && g.row / g.pixel >= g.wide {
            let apart = g.row / g.pixel;
            let one = cut((g.rows - 1) * apart + g.wide, 1, apart);
            if one.tiles < rows.tiles {
                return one;
            }
        }
        rows
    }
    /// A tile: where its first pixel lies, that pixel's number with those between rows counted, and how many of its pixels the tile
    /// before it has had.
    fn tile(&self, g: &Grid, tile: usize) -> (*const u8, usize, usize) {
        let (row, from) = (tile / self.across, tile % self.across * self.high);
        let at = from.min(self.stretch - self.high);
        (g.a.wrapping_add(row * self.next + at * g.pixel), row * self.apart + at, from - at)
    }
}

/// Computes a block.
///
/// # Safety
/// As [`Sums::compute`]; [`pays`] says that tiles fit, and they are [`available`].
#[inline(never)]
pub(super) unsafe fn sweep(s: &Sums) {
    let (g, d) = (&s.grid, &s.depth);
    let cut = Cut::new(g);
    let (high, tiles) = (cut.high, cut.tiles);
    // SAFETY: the caller gives room for all steps.
    unsafe {
        for i in 0..d.lines() * d.steps {
            let (line, step) = (i / d.steps, i % d.steps);
            let at = line / d.taps[1] * g.tap[0] + line % d.taps[1] * g.tap[1] + step * d.words * 4;
            s.table.add(i).write_unaligned(at);
        }
    }
    // Sums of `high` rows in registers 0 to 3; A in 4 and 5 and B in 6 and 7, `words` deep.
    let (a, b, deep) = (high as u8, d.words as u8, 4 * d.words as u16);
    let shapes = Shapes::new([a, a, a, a, a, a, b, b], [64, 64, 64, 64, deep, deep, 64, 64]);
    // SAFETY: the shapes are those of a valid configuration: at most sixteen rows of at most 64 bytes.
    unsafe { shapes.configure() };
    let rows = (4 * high).div_ceil(g.wide) + (d.taps[1] - 1);
    let spread = if g.rows == 1 { 4 * high * g.pixel } else { rows * g.row };
    let near = tiles <= 4 || spread <= NEAR;
    // Sums of few steps are better turned into bytes while fewer of them fill the first-level cache.
    let deep = d.lines() * d.steps > SHALLOW;
    let mut tile = 0;
    while tile < tiles {
        let count = match tiles - tile {
            // A third is computed twice: two of B's passes are spared.
            n if n >= 3 && near && deep => n.min(4),
            n if n >= 2 => 2,
            _ => 1,
        };
        for col in (0..s.cols).step_by(PITCH) {
            // SAFETY: tiles and columns are inside of the block that the caller vouches for.
            unsafe { block(s, &cut, (tile, count), col) };
        }
        tile += count;
    }
    // SAFETY: the registers are no longer needed; released ones cost switches of threads nothing.
    unsafe { tiles::release() };
}

/// Computes up to four tiles of pixels by up to four panels from `col` on.
///
/// # Safety
/// As [`sweep`]: they are inside of the block, and the registers are configured for it.
unsafe fn block(s: &Sums, cut: &Cut, (tile, count): (usize, usize), col: usize) {
    let (g, d, high) = (&s.grid, &s.depth, cut.high);
    let at: [_; 4] = core::array::from_fn(|i| cut.tile(g, tile + i.min(count - 1)));
    let panel = d.total() * PANEL * 4;
    let panels = (s.cols - col).div_ceil(PANEL).min(PANELS);
    // SAFETY: pixels and panels are inside of the block that the caller vouches for, and the buffer holds all sums of them.
    unsafe {
        let b = |p: usize| s.b.add((col / PANEL + p.min(panels - 1)) * panel);
        let start = |p: usize| s.start.add(col + p.min(panels - 1) * PANEL);
        let out = |i: usize, p: usize| s.sums.add(i * ROWS * PITCH + p.min(panels - 1) * PANEL);
        let of = |a: [usize; 4], p: [usize; 4]| Tiles {
            a: a.map(|i| at[i].0),
            b: p.map(b),
            start: p.map(start),
            out: core::array::from_fn(|i| out(a[i], p[i])),
            steps: s.table,
            end: s.table.add(d.lines() * d.steps),
            pixel: g.pixel,
            deep: d.words * 64,
        };
        match count {
            3 | 4 => (0..panels).for_each(|p| tall(&of([0, 1, 2, count - 1], [p; 4]))),
            2 => {
                for p in (0..panels).step_by(2) {
                    let t = of([0, 0, 1, 1], [p, p + 1, p, p + 1]);
                    square(&Tiles { a: [at[0].0, at[1].0, at[0].0, at[0].0], b: [b(p), b(p + 1), b(p), b(p)], ..t });
                }
            }
            _ => {
                let t = of([0; 4], [0, 1, 2, 3]);
                flat(&Tiles { a: [at[0].0, at[0].0, b(2), b(3)], ..t });
            }
        }
        for (i, &(_, pixel, had)) in at[..count].iter().enumerate() {
            let mut from = had;
            while from < high {
                let (row, w) = ((pixel + from) / cut.apart, (pixel + from) % cut.apart);
                let run = (if w < g.wide { g.wide - w } else { cut.apart - w }).min(high - from);
                if w < g.wide {
                    let sums = s.sums.add((i * ROWS + from) * PITCH);
                    hand_on(s, sums, row * g.wide + w, run, col, (s.cols - col).min(PITCH));
                }
                from += run;
            }
        }
    }
}

/// Hands sums of some pixels and columns to the epilogue, in the place of the output if there is one.
///
/// # Safety
/// As [`sweep`]: the sums are there, and the pixels and columns are some of the block's.
unsafe fn hand_on(s: &Sums, sums: *mut i32, pixel: usize, rows: usize, col: usize, cols: usize) {
    let (mut from, mut pitch) = (sums, PITCH);
    if !s.out.is_null() {
        // SAFETY: passed on from the caller.
        unsafe {
            (from, pitch) = (s.out.add(pixel * s.pitch + col), s.pitch);
            for i in 0..rows {
                core::ptr::copy_nonoverlapping(sums.add(i * PITCH), from.add(i * pitch), cols);
            }
        }
    }
    if let Some(f) = s.epilogue {
        f(Block { out: from.cast(), pitch, row: s.row + pixel, rows, col: s.col + col, cols });
    }
}
