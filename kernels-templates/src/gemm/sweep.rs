//! The loops around the register tile: rows outside, columns inside, the epilogue on what is still in the cache.

use super::kernel::{PANEL, Tile, Width};
use super::{Block, Epilogue};
use crate::isa::Isa;

/// Floats of B that one pass over the rows keeps in the second-level cache (512 KiB).
pub(crate) const B_FLOATS: usize = 128 * 1024;

/// Floats of B from which on one row reads them as four streams: fewer may come from the second-level cache (256 KiB).
const STREAMED: usize = 64 * 1024;

/// A block of output and its operands.
#[derive(Clone, Copy)]
pub(crate) struct Sweep<'a> {
    /// Operands of the block's first row and column; `cols` and `panel` are filled in.
    pub(crate) tile: Tile,
    /// Floats from the output of one row to that of the next tile's: the pitch, or 0 where tiles follow each other in one place.
    pub(crate) down: usize,
    /// Rows of A that follow each other at the tile's pitch, and floats from the first row of such a line to that of the next.
    pub(crate) line: (usize, usize),
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    /// Depth: `taps` times `run`.
    pub(crate) k: usize,
    /// Place of the block in the whole output, for the epilogue.
    pub(crate) row: usize,
    pub(crate) col: usize,
    pub(crate) epilogue: Epilogue<'a>,
    /// The digits of the block's first panel, where the machine works with them, and scratch for those of A; null elsewhere.
    pub(crate) digits: *const u8,
    /// What [`digit_floats`](super::digit_floats) asks for.
    pub(crate) scratch: *mut f32,
}

impl Sweep<'_> {
    /// No rows yet, of a tile: a base for others.
    pub(crate) fn of(tile: Tile) -> Sweep<'static> {
        let (rows, cols, k) = (0, 0, 0);
        let (digits, scratch) = (core::ptr::null(), core::ptr::null_mut());
        Sweep { tile, down: tile.pitch, line: (usize::MAX, 0), rows, cols, k, row: 0, col: 0, epilogue: None, digits, scratch }
    }

    /// A row of A.
    ///
    /// # Safety
    /// The block has such a row.
    pub(crate) unsafe fn row(&self, i: usize) -> *const f32 {
        let (line, inside) = (i / self.line.0, i % self.line.0);
        // SAFETY: the caller vouches for the row.
        unsafe { self.tile.a.add(line * self.line.1 + inside * self.tile.a_row) }
    }
    /// One row and some columns of the block, without what follows.
    ///
    /// # Safety
    /// They are inside of the block; `col` is a multiple of [`PANEL`].
    #[cfg(target_arch = "x86_64")]
    pub(crate) unsafe fn part(&self, row: usize, col: usize, cols: usize) -> Sweep<'static> {
        // SAFETY: the caller vouches for the place.
        unsafe {
            let tile = Tile {
                a: self.row(row),
                b: self.tile.b.add(col * self.k),
                out: self.tile.out.add(row * self.down + col),
                bias: if self.tile.bias.is_null() { self.tile.bias } else { self.tile.bias.add(col) },
                ..self.tile
            };
            Sweep { rows: 1, cols, k: self.k, row: self.row + row, col: self.col + col, ..Sweep::of(tile) }
        }
    }
}

/// The micro-kernels of an instruction set, by panels, the widest first.
pub(crate) fn widths(isa: Isa) -> &'static [Width] {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Amx => super::x86_avx512::WIDTHS,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => super::x86_avx2::WIDTHS,
        _ => super::generic::WIDTHS,
    }
}

/// Computes a block.
///
/// # Safety
/// The operands and the output that `s` describes are valid, the output is not aliased, and the machine has `isa`.
pub(crate) unsafe fn sweep(isa: Isa, s: &Sweep) {
    #[cfg(target_arch = "x86_64")]
    if super::by_digits(isa, s.digits, s.rows, s.cols) {
        // SAFETY: passed on from the caller.
        return unsafe { super::amx::sweep(s) };
    }
    if s.line.0 >= s.rows {
        // SAFETY: passed on from the caller.
        return unsafe { sweep_with(widths(isa), s) };
    }
    for first in (0..s.rows).step_by(s.line.0) {
        // SAFETY: a line of the block that the caller vouches for.
        unsafe {
            let tile = Tile { a: s.row(first), out: s.tile.out.add(first * s.down), ..s.tile };
            let rows = s.line.0.min(s.rows - first);
            sweep_with(widths(isa), &Sweep { tile, rows, row: s.row + first, ..*s });
        }
    }
}

/// Computes a block by micro-kernels of which the last width takes any height up to the tallest.
///
/// # Safety
/// As [`sweep`], and the machine has what the micro-kernels are compiled for.
#[inline(never)]
pub(crate) unsafe fn sweep_with(widths: &[Width], s: &Sweep) {
    if s.rows == 0 || s.cols == 0 {
        return;
    }
    let tall = widths.iter().map(|w| w.rows.len()).max().unwrap_or(1).min(s.rows);
    // Tiles of nearly equal height: 49 rows are 13 + 12 + 12 + 12, not 14 + 14 + 14 + 7.
    let tiles = s.rows.div_ceil(tall);
    let (height, taller) = (s.rows / tiles, s.rows % tiles);
    let panel = s.k * PANEL;
    let panels = s.cols.div_ceil(PANEL);
    let block = (B_FLOATS / panel.max(1)).max(4).next_multiple_of(4);
    // One row waits for a matrix that comes from memory: four streams are what processors fetch ahead best.
    let together = if s.rows == 1 && panels * panel >= STREAMED { 4 } else { panels };
    let mut first = 0;
    while first < panels {
        let last = (first + block).min(panels);
        let cols = (s.cols - first * PANEL).min((last - first) * PANEL);
        let mut row = 0;
        for i in 0..tiles {
            let rows = height + (i < taller) as usize;
            let mut p = first;
            while p < last {
                let left = together.min(last - p);
                let (n, kernel) = match widths.iter().find(|w| w.panels <= left && w.rows.len() >= rows) {
                    Some(w) => (w.panels, w.rows[rows - 1]),
                    None => unreachable!("a width of one panel has every height; this is a bug"),
                };
                // SAFETY: the caller vouches for all rows and columns of the block, and these are some of them.
                unsafe {
                    kernel(&Tile {
                        a: s.tile.a.add(row * s.tile.a_row),
                        b: s.tile.b.add(p * panel),
                        panel,
                        out: s.tile.out.add(row * s.down + p * PANEL),
                        cols: (s.cols - p * PANEL).min(n * PANEL),
                        bias: if s.tile.bias.is_null() { s.tile.bias } else { s.tile.bias.add(p * PANEL) },
                        finish: s.tile.finish.at(s.row + row, s.col + p * PANEL),
                        ..s.tile
                    });
                }
                p += n;
            }
            if let Some(f) = s.epilogue {
                // SAFETY: inside of the block, as above.
                let out = unsafe { s.tile.out.add(row * s.down + first * PANEL) };
                f(Block { out, pitch: s.tile.pitch, row: s.row + row, rows, col: s.col + first * PANEL, cols });
            }
            row += rows;
        }
        first = last;
    }
}
