//! Products with constant weights of few bits: read as they are stored for few rows, widened panel by panel for many.
//!
//! Weights are integers of 2, 4 or 8 bits, blocks of them along K with a scale and a zero point of their own, 16-bit floats, or f32 rounded
//! to fixed point: 24 bits under the largest of their column. They lie in panels of sixteen columns as those of f32 do, so a product of few
//! rows, which reads every weight once, moves 2 to 24 bits for each instead of 32.
//!
//! Up to [`FEW`] rows meet 16-bit floats in registers, by the same multiply-adds as panels of f32, and with the same bits. So they meet
//! fixed point, scaled by the steps of its columns, powers of two. Error: a weight is off by at most 2^-23 of the largest of its column, and what
//! fits in 23 bits under that one, as zeros, signs and small integers do, is exact; over a column that is about what f32 loses when it
//! rounds each sum. An infinity times a weight that became zero is a NaN. They meet integers of few bits by digits: the elements of a row that share a block are brought to 24 bits behind the point and written with three signed
//! digits of base 256, whose products with the integers, and with the zero points, AVX512-VNNI or AVX2 sum exactly in i32; f32 comes back
//! once for each block, with the same bits by both. Error: an element of a row is off by at most 2^-23 of the largest one of its block, and each block of a sum is rounded
//! three times, where sums rounded at every step are rounded once for each element. A row with an infinity, a NaN or more than 2^100,
//! other machines, and products whose `digits` are off, take the way of many rows.
//!
//! More rows, and the rest, meet panels of f32: a task widens some panels into scratch that the second-level cache holds, each weight to
//! `(code - zero) * scale` in f32, and runs the tiles of [`Gemm`] over them.

mod digits;
mod pack;
mod registers;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86_avx2;
#[cfg(target_arch = "x86_64")]
mod x86_vnni;

pub use pack::{blocks, fixed_column, pack_blocks, pack_codes, pack_fixed, pack_halves, packed_len};

use super::kernel::{PANEL, Tile};
use super::pack::{a_pitch, pack_a};
use super::{Block, Epilogue, Finish, Gemm, Sweep, sweep};
use crate::isa::Isa;

/// Rows of a product that meet weights as they are stored; more meet widened panels.
pub const FEW: usize = 8;

/// Elements along K that share a scale: a multiple of the first, which fills whole vectors at every width, up to the second, whose sums of
/// digits' products are exact as f32.
pub const BLOCKS: [usize; 2] = [16, 256];

/// Floats of widened panels that a task keeps in the second-level cache.
const WIDENED: usize = 64 * 1024;

/// How weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// 16-bit floats of IEEE 754.
    F16,
    /// The upper halves of f32.
    Bf16,
    /// Integers of 24 bits times a power of two for each column, as [`pack_fixed`] packs them.
    Fixed,
    /// Unsigned integers of 2, 4 or 8 bits, in blocks along K.
    Blocks {
        /// Bits of an integer.
        bits: usize,
        /// Elements of a block, within [`BLOCKS`].
        block: usize,
    },
}

/// What is taken off the integers before they are scaled.
#[derive(Clone, Copy, Debug)]
pub enum Zeros {
    /// The same for all.
    Same(u8),
    /// A byte for each block of a column, as [`pack_blocks`] packs them.
    Each(*const u8),
    /// A float for each block of a column, as [`pack_blocks`] packs them.
    Floats(*const f32),
}

/// Packed weights.
#[derive(Clone, Copy, Debug)]
pub struct Coded {
    /// Panels as [`pack_codes`], [`pack_halves`] or [`pack_fixed`] writes them.
    pub codes: *const u8,
    /// A scale for each block of a column, as [`pack_blocks`] packs them; read for integers of few bits alone.
    pub scales: *const f32,
    /// Zero points; read for integers of few bits alone.
    pub zeros: Zeros,
}

impl Coded {
    /// The weights from a panel on.
    ///
    /// # Safety
    /// There is such a panel of `len` bytes, and of so many blocks.
    unsafe fn from(self, panel: usize, len: usize, blocks: usize) -> Coded {
        let at = panel * blocks * PANEL;
        // SAFETY: passed on from the caller; what is not read may be null.
        unsafe {
            let zeros = match self.zeros {
                Zeros::Same(z) => Zeros::Same(z),
                Zeros::Each(z) => Zeros::Each(z.add(at)),
                Zeros::Floats(z) => Zeros::Floats(z.add(at)),
            };
            Coded { codes: self.codes.add(panel * len), scales: self.scales.wrapping_add(at), zeros }
        }
    }
}

/// A product whose right side is stored in few bits.
#[derive(Clone, Copy, Debug)]
pub struct Narrow {
    /// Its geometry.
    pub gemm: Gemm,
    /// How the right side is stored.
    pub coding: Coding,
    /// Whether few rows may meet integers by digits.
    pub digits: bool,
}

impl Narrow {
    /// Number of independent tasks.
    pub const fn tasks(&self) -> usize {
        self.gemm.tasks()
    }
    /// Whether there are few rows.
    const fn few(&self) -> bool {
        self.gemm.m <= FEW
    }
    /// Bytes of the digits of all rows, where some may be computed by them.
    const fn digit_bytes(&self) -> usize {
        match self.coding {
            Coding::Blocks { block, .. } if self.few() && self.digits => self.gemm.m * digits::row_bytes(self.gemm.k, block),
            _ => 0,
        }
    }
    /// Panels that are widened at once.
    const fn together(&self) -> usize {
        let fit = WIDENED / (self.gemm.k * PANEL + 1);
        match fit {
            0 => 1,
            1..8 => fit,
            _ => 8,
        }
    }
    /// Floats of scratch that a thread needs.
    pub const fn scratch_floats(&self) -> usize {
        let (_, tall) = self.gemm.cut();
        let copied = if self.gemm.copies_a() { tall * a_pitch(self.gemm.k) } else { 0 };
        // Sixteen floats align the digits.
        self.digit_bytes() / 4 + 16 + self.together() * self.gemm.k * PANEL + copied
    }
    /// Runs one task.
    ///
    /// # Safety
    /// As [`Gemm::run_task`], with weights of this coding and geometry for panels of floats.
    pub unsafe fn run_task(
        &self,
        isa: Isa,
        task: usize,
        a: *const f32,
        weights: Coded,
        bias: *const f32,
        out: *mut f32,
        scratch: *mut f32,
        finish: Finish,
        epilogue: Epilogue,
    ) {
        let g = &self.gemm;
        let (wide, tall) = g.cut();
        let down = g.m.div_ceil(tall);
        let (col, row) = (task / down * wide, task % down * tall);
        let (rows, cols) = (tall.min(g.m - row), wide.min(g.n - col));
        // SAFETY: row and col are inside of the matrices that the caller vouches for; the scratch is cut as it was counted.
        unsafe {
            let scratch = scratch.add(scratch.cast::<u8>().align_offset(64) / size_of::<f32>());
            let part = Part {
                a: a.add(row * g.a_row),
                weights: weights.from(col / PANEL, pack::panel_len(g.k, self.coding), pack::blocks_of(g.k, self.coding)),
                bias: if bias.is_null() { bias } else { bias.add(col) },
                out: out.add(row * g.ldc + col),
                rows,
                cols,
                row,
                col,
                finish,
            };
            let widened = scratch.add(self.digit_bytes() / 4);
            match self.coding {
                _ if !self.few() => return self.widen(isa, &part, widened, epilogue),
                Coding::Blocks { bits, block } => self.by_digits(isa, (bits, block), &part, scratch.cast(), widened),
                _ if g.a_col == 1 || g.k <= 1 => registers::multiply(isa, g, self.coding, &part),
                _ => self.widen(isa, &part, widened, None),
            }
            if let Some(f) = epilogue {
                f(Block { out: part.out, pitch: g.ldc, row, rows, col, cols });
            }
        }
    }

    /// Few rows, by digits those that have some; without what follows.
    ///
    /// # Safety
    /// The part is inside of the product, and the scratch holds its digits, at a multiple of 64, and widened panels.
    unsafe fn by_digits(&self, isa: Isa, (bits, block): (usize, usize), part: &Part, to: *mut u8, widened: *mut f32) {
        let g = &self.gemm;
        if !self.digits || isa < Isa::Avx2 || (g.a_col != 1 && g.k > 1) {
            // SAFETY: passed on from the caller.
            return unsafe { self.widen(isa, part, widened, None) };
        }
        #[cfg(target_arch = "x86_64")]
        // SAFETY: rows are inside of the part, and the machine has what the kernels are compiled for.
        unsafe {
            let each = digits::row_bytes(g.k, block);
            let mut fits = [false; FEW];
            for (i, fits) in fits.iter_mut().enumerate().take(part.rows) {
                *fits = digits::write(isa, g.k, block, part.a.add(i * g.a_row), to.add(i * each));
            }
            let mut first = 0;
            while first < part.rows {
                if !fits[first] {
                    self.widen(isa, &part.row(g, first), widened, None);
                    first += 1;
                    continue;
                }
                let digits = to.add(first * each);
                if !isa.adds_fours() {
                    x86_avx2::multiply(g, (bits, block), part, first, digits);
                    first += 1;
                    continue;
                }
                let like = fits[first..part.rows].iter().take_while(|f| **f).count();
                first += x86_vnni::multiply(g, (bits, block), part, (first, like), digits);
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            let _ = (bits, block, to);
        }
    }

    /// The part by the tiles of f32, some panels at a time.
    ///
    /// # Safety
    /// The part is inside of the product, `scratch` holds widened panels and, where rows of A are copied, these.
    unsafe fn widen(&self, isa: Isa, part: &Part, scratch: *mut f32, epilogue: Epilogue) {
        let g = &self.gemm;
        let (len, blocks, panel) = (pack::panel_len(g.k, self.coding), pack::blocks_of(g.k, self.coding), g.k * PANEL);
        let together = self.together();
        // SAFETY: passed on from the caller; panels and columns are inside of the part.
        unsafe {
            let (mut a, mut a_row) = (part.a, g.a_row);
            if g.copies_a() {
                let to = scratch.add(together * panel);
                pack_a(isa, part.rows, g.k, a, g.a_row, g.a_col, to);
                (a, a_row) = (to, a_pitch(g.k));
            }
            for first in (0..part.cols.div_ceil(PANEL)).step_by(together) {
                let col = first * PANEL;
                let cols = (together * PANEL).min(part.cols - col);
                for p in 0..cols.div_ceil(PANEL) {
                    let weights = part.weights.from(first + p, len, blocks);
                    pack::widen_panel(isa, g.k, self.coding, weights, scratch.add(p * panel));
                }
                let tile = Tile {
                    a,
                    a_row,
                    taps: [1; 3],
                    tap: [0; 3],
                    run: g.k,
                    b: scratch,
                    panel: 0,
                    out: part.out.add(col),
                    pitch: g.ldc,
                    cols: 0,
                    bias: if part.bias.is_null() { part.bias } else { part.bias.add(col) },
                    finish: part.finish,
                };
                let (row, col) = (part.row, part.col + col);
                sweep(isa, &Sweep { rows: part.rows, cols, k: g.k, row, col, epilogue, ..Sweep::of(tile) });
            }
        }
    }
}

/// A block of the result with its operands.
#[derive(Clone, Copy)]
struct Part {
    a: *const f32,
    weights: Coded,
    bias: *const f32,
    out: *mut f32,
    rows: usize,
    cols: usize,
    /// Place in the whole result.
    row: usize,
    col: usize,
    finish: Finish,
}

impl Part {
    /// One row of it.
    ///
    /// # Safety
    /// There is such a row.
    unsafe fn row(&self, g: &Gemm, i: usize) -> Part {
        // SAFETY: passed on from the caller.
        unsafe { Part { a: self.a.add(i * g.a_row), out: self.out.add(i * g.ldc), rows: 1, row: self.row + i, ..*self } }
    }
}
