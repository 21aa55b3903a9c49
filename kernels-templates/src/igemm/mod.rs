//! Matrix products of bytes: `C[m][n] = sum over k of (A[m][k] - a_zero) (B[k][n] - b_zero[n])` in i32, A of u8, B packed.
//!
//! B is packed in panels of sixteen columns and four rows, `[ceil(N/16)][K/4][16][4]`, as i8 (u8 less 128), K padded with zeros to
//! equal steps of at most 64, the same for every instruction set; the sums of its columns follow, by which A's zero point costs
//! nothing: sums start at `-a_zero` times them. Where zero points of B are not zero, the sums of A's rows are taken off with them. All arithmetic is
//! modulo 2^32, as the standard's, so any order gives the same bits; up to 33,025 rows of B nothing wraps around.

#[cfg(target_arch = "x86_64")]
mod amx;
mod conv;
mod depth;
mod depthwise;
mod dots;
#[cfg(target_arch = "x86_64")]
mod quads;
mod requantize;

pub use conv::{IntConv, PLANES, convolve};
pub use depthwise::IntDepthwise;
pub use requantize::{Addend, Each, Requantize, requantize};

use depth::Depth;

use crate::entry::{In, Out};
use crate::gemm::{Block, Epilogue, Finish, Gemm, PANEL, Sweep, Tile, a_pitch, sweep_with};
use crate::isa::Isa;
use crate::kernel_fn;
use crate::num::Num;

/// Bytes of a packed B of `k` rows and `n` columns.
pub const fn packed_len(k: usize, n: usize) -> usize {
    Depth::new([1, 1], k).packed_len(n)
}

/// Packs B, `k` rows of `n` columns, at compile time. `unsigned` tells that its bytes are u8. Panics when a slice is too short.
pub fn pack_rows(k: usize, n: usize, b: &[u8], unsigned: bool, out: &mut [u8]) {
    assert!(b.len() >= k * n && out.len() >= packed_len(k, n), "the slices hold the matrix and its panels; this is a bug");
    let flip = if unsigned { 0x80 } else { 0 };
    Depth::new([1, 1], k).pack(n, &|p, j| (p < k).then(|| b[p * n + j] ^ flip), out);
}

/// B's zero points as the kernel reads them: an i32 for each of `n` columns, padded to panels, for i8 (u8 less 128). `zeros` has
/// one element or N.
pub fn pack_zeros(n: usize, zeros: &[u8], unsigned: bool) -> alloc::vec::Vec<i32> {
    let flip = if unsigned { 0x80 } else { 0 };
    let mut out = alloc::vec![0i32; n.next_multiple_of(PANEL)];
    for (j, z) in out.iter_mut().take(n).enumerate() {
        *z = i32::from((zeros[if zeros.len() == 1 { 0 } else { j }] ^ flip) as i8);
    }
    out
}

/// The product of u8 by packed bytes.
#[derive(Clone, Copy, Debug)]
pub struct IntGemm {
    /// Rows of A and C.
    pub m: usize,
    /// Columns of B and C.
    pub n: usize,
    /// Columns of A, rows of B.
    pub k: usize,
    /// Bytes from one row of A to the next; its columns are neighbours.
    pub a_row: usize,
    /// Elements from one row of C to the next.
    pub ldc: usize,
}

impl IntGemm {
    /// The product of as many words: four bytes are to this kernel what a float is to the other.
    const fn words(&self) -> Gemm {
        Gemm { m: self.m, n: self.n, k: self.depth().total(), a_row: self.a_row / 4, a_col: 1, ldc: self.ldc }
    }
    const fn depth(&self) -> Depth {
        Depth::new([1, 1], self.k)
    }
    /// Whether rows of A are copied first: they are no whole steps, or many fall into one set of the first-level cache.
    const fn copies_a(&self) -> bool {
        !(self.k == self.depth().total() * 4 && self.a_row.is_multiple_of(4)) || self.words().copies_a()
    }
    /// Number of independent tasks.
    pub const fn tasks(&self) -> usize {
        self.words().tasks()
    }
    /// Words of scratch that a thread needs: initial sums, sums of rows, sums, places of steps, rows of A.
    pub const fn scratch_floats(&self) -> usize {
        let (wide, tall) = self.words().cut();
        let copies = if self.copies_a() { tall * a_pitch(self.depth().total()) } else { 0 };
        wide + tall.next_multiple_of(PANEL) + sums_of(wide) + self.depth().table() + copies
    }
    /// Runs one task: writes i32, which the epilogue may replace by other elements of four bytes. Without `out`, blocks lie in scratch, and
    /// the epilogue puts them where they belong.
    ///
    /// # Safety
    /// `a` and `out`, unless it is null, address matrices of the strides given, `b` holds the panels of [`pack_rows`], `zeros` is null where all are
    /// zero or has those of [`pack_zeros`], `scratch` holds [`scratch_floats`](Self::scratch_floats), the task's part of `out` is
    /// not accessed elsewhere meanwhile, `task < tasks()`, and the machine has `isa`.
    pub unsafe fn run_task(
        &self,
        isa: Isa,
        task: usize,
        a: *const u8,
        a_zero: u8,
        b: *const u8,
        zeros: *const i32,
        out: *mut i32,
        scratch: *mut f32,
        epilogue: Epilogue,
    ) {
        // SAFETY: passed on from the caller.
        unsafe { self.run(isa, isa.has_tiles(), task, (a, a_zero), b, zeros, out, scratch, epilogue) }
    }
    /// [`Self::run_task`], with tiles where the machine has them and they are wanted.
    ///
    /// # Safety
    /// As [`Self::run_task`].
    unsafe fn run(
        &self,
        isa: Isa,
        tiles: bool,
        task: usize,
        (a, a_zero): (*const u8, u8),
        b: *const u8,
        zeros: *const i32,
        out: *mut i32,
        scratch: *mut f32,
        epilogue: Epilogue,
    ) {
        let (words, depth) = (self.words(), self.depth());
        let (wide, tall) = words.cut();
        let down = self.m.div_ceil(tall);
        // Tasks of one block of columns are neighbours, and share it in the last-level cache.
        let (col, row) = (task / down * wide, task % down * tall);
        let rows = tall.min(self.m - row);
        let a_zero = i32::from(a_zero);
        // SAFETY: row and col are inside of the matrices that the caller vouches for, and scratch holds all parts.
        unsafe {
            let columns = wide.min(self.n.next_multiple_of(PANEL) - col);
            let start = scratch.cast::<i32>();
            let row_sums = start.add(wide);
            let sums = row_sums.add(tall.next_multiple_of(PANEL));
            let table = sums.add(sums_of(wide));
            let copies = table.add(depth.table()).cast::<u8>();
            initial(start, b.add(depth.sums_at(self.n)).add(4 * col), columns, a_zero);
            let mut grid = Grid { a: a.add(row * self.a_row), pixel: self.a_row, row: 0, wide: rows, rows: 1, tap: [0, 0] };
            if !zeros.is_null() {
                sum_rows(isa, row_sums, rows, grid.a, self.a_row, self.k, a_zero);
            }
            if self.copies_a() {
                let (line, pitch) = (depth.total() * 4, a_pitch(depth.total()) * 4);
                for i in 0..rows {
                    let to = copies.add(i * pitch);
                    core::ptr::copy_nonoverlapping(grid.a.add(i * self.a_row), to, self.k);
                    // These meet zeros of B.
                    core::ptr::write_bytes(to.add(self.k), 0, line - self.k);
                }
                (grid.a, grid.pixel) = (copies, pitch);
            }
            let shift = Shift { isa, sums: row_sums, first: row, zeros };
            let fix = |block: Block| {
                // The block lies inside of the task's part of C, whose rows have their sums.
                shift.take_off(block);
                if let Some(f) = epilogue {
                    f(block);
                }
            };
            let epilogue: Epilogue = if zeros.is_null() { epilogue } else { Some(&fix) };
            let sums = Sums {
                isa,
                tiles,
                grid,
                depth,
                b: b.add(col * depth.total() * 4),
                start,
                out: if out.is_null() { out } else { out.add(row * self.ldc + col) },
                pitch: self.ldc,
                sums,
                table: table.cast(),
                cols: wide.min(self.n - col),
                row,
                col,
                epilogue,
            };
            sums.compute();
        }
    }
}

/// Words of scratch for sums that are handed on, where matrix registers may be used.
#[cfg(target_arch = "x86_64")]
const SUMS: usize = amx::SUMS;
#[cfg(not(target_arch = "x86_64"))]
const SUMS: usize = 0;

/// Words of scratch for sums of `wide` columns that are handed on.
const fn sums_of(wide: usize) -> usize {
    if wide * TALLEST > SUMS { wide * TALLEST } else { SUMS }
}

/// Writes what the sums of columns begin at: `-zero` times those of the packed B.
///
/// # Safety
/// `start` has room for as many columns, whose sums are at `sums`.
unsafe fn initial(start: *mut i32, sums: *const u8, columns: usize, zero: i32) {
    for j in 0..columns {
        // SAFETY: passed on from the caller.
        unsafe { start.add(j).write(sums.cast::<i32>().add(j).read_unaligned().wrapping_mul(-zero)) };
    }
}

/// Rows of A: pixels, in rows of equal steps.
#[derive(Clone, Copy)]
struct Grid {
    /// The first line of the first pixel. Behind a line's bytes lie some that may be read up to its last whole step.
    a: *const u8,
    /// Bytes from pixel to pixel.
    pixel: usize,
    /// Bytes from row to row.
    row: usize,
    /// Pixels of a row.
    wide: usize,
    /// Rows.
    rows: usize,
    /// Bytes from line to line along both axes, words.
    tap: [usize; 2],
}

/// A block of sums by the register tiles of the machine.
struct Sums<'a> {
    isa: Isa,
    /// Whether matrix registers may be used.
    tiles: bool,
    grid: Grid,
    depth: Depth,
    /// Panels of the block's columns.
    b: *const u8,
    /// Initial values of the columns, padded to whole panels.
    start: *const i32,
    /// The output of the first pixel and column, or null where the epilogue puts sums where they belong.
    out: *mut i32,
    /// Elements from pixel to pixel of the output.
    pitch: usize,
    /// Room for the sums of a few pixels: [`SUMS`], and, where there is no output, [`TALLEST`] rows of whole panels.
    sums: *mut i32,
    /// Room for the places of all steps.
    table: *mut usize,
    cols: usize,
    /// Place of the block in the whole output, for the epilogue.
    row: usize,
    col: usize,
    epilogue: Epilogue<'a>,
}

/// Rows of sums that one register tile of vectors writes at most, of any instruction set.
const TALLEST: usize = 16;

impl Sums<'_> {
    /// # Safety
    /// The pointers address such a block and its operands, the output is not aliased, and the machine has `isa` and, where they may
    /// be used, matrix registers.
    unsafe fn compute(&self) {
        let &Sums { isa, grid: g, depth: d, pitch, cols, row, col, epilogue, .. } = self;
        #[cfg(target_arch = "x86_64")]
        if self.tiles && amx::pays(&g, &d) {
            // SAFETY: passed on from the caller.
            return unsafe { amx::sweep(self) };
        }
        for line in 0..g.rows {
            // SAFETY: the row is one of the block's.
            unsafe {
                let (mut out, mut to, mut down) = (self.sums, cols.next_multiple_of(PANEL), 0);
                if !self.out.is_null() {
                    (out, to, down) = (self.out.add(line * g.wide * pitch), pitch, pitch);
                }
                let tile = Tile {
                    a: g.a.add(line * g.row).cast(),
                    a_row: g.pixel / 4,
                    taps: [d.taps[0], d.taps[1], 1],
                    tap: [g.tap[0] / 4, g.tap[1] / 4, 0],
                    run: d.line(),
                    b: self.b.cast(),
                    panel: 0,
                    out: out.cast(),
                    pitch: to,
                    cols: 0,
                    bias: self.start.cast(),
                    finish: Finish::NONE,
                };
                let row = row + line * g.wide;
                sweep_with(dots::widths(isa), &Sweep { down, rows: g.wide, cols, k: d.total(), row, col, epilogue, ..Sweep::of(tile) });
            }
        }
    }
}

/// What is left to take off sums where zero points of B are not zero.
struct Shift {
    isa: Isa,
    /// Sums of rows of `A - a_zero`, from the row `first` on.
    sums: *const i32,
    first: usize,
    zeros: *const i32,
}

// SAFETY: both pointers are only read through.
unsafe impl Sync for Shift {}

impl Shift {
    /// # Safety
    /// The rows of the block have their sums, `zeros` its columns, and nothing else accesses the block meanwhile.
    unsafe fn take_off(&self, b: Block) {
        // SAFETY: passed on from the caller.
        unsafe {
            let (sums, zeros) = (self.sums.add(b.row - self.first), self.zeros.add(b.col));
            take_zeros_off(self.isa, b.out.cast(), b.pitch, b.rows, b.cols, sums, zeros);
        }
    }
}

kernel_fn! {
    /// The sums of rows of `A - a_zero`.
    ///
    /// # Safety
    /// The pointers address as many, and the machine has `isa`.
    fn sum_rows<A>(out: *mut i32, rows: usize, a: *const u8, a_row: usize, k: usize, a_zero: i32) {
        for i in 0..rows {
            let a = a.add(i * a_row);
            let mut sum = 0u32;
            for p in 0..k {
                sum = sum.wrapping_add(u32::from(*a.add(p)));
            }
            *out.add(i) = (sum as i32).wrapping_sub((k as i32).wrapping_mul(a_zero));
        }
    }
    /// Takes `zeros[j]` times the sum of a row off every element of a block.
    ///
    /// # Safety
    /// The pointers address such a block, and the machine has `isa`.
    fn take_zeros_off<A>(out: *mut i32, pitch: usize, rows: usize, cols: usize, sums: *const i32, zeros: *const i32) {
        for i in 0..rows {
            let (sum, out) = (*sums.add(i), out.add(i * pitch));
            for j in 0..cols {
                *out.add(j) = (*out.add(j)).wrapping_sub(sum.wrapping_mul(zeros.add(j).read_unaligned()));
            }
        }
    }
}

/// The product by plain loops, row-major: A `[m, k]` with one zero point, B `[k, n]` of i8 or u8 with one or one a column.
/// [MatMulInteger](https://onnx.ai/onnx/operators/onnx__MatMulInteger.html) with these operands.
pub fn multiply<T: Num>(
    out: Out<'_, i32>,
    a: In<'_, u8>,
    b: In<'_, T>,
    a_zero: In<'_, u8>,
    b_zero: In<'_, T>,
    m: usize,
    n: usize,
    k: usize,
) {
    let whole = |x: T| x.to_f64() as i32;
    let zeros: alloc::vec::Vec<i32> = (0..n).map(|j| whole(b_zero.0[if b_zero.0.len() == 1 { 0 } else { j }])).collect();
    out.0[..m * n].fill(0);
    for i in 0..m {
        let row = &mut out.0[i * n..(i + 1) * n];
        for p in 0..k {
            let x = i32::from(a.0[i * k + p]) - i32::from(a_zero.0[0]);
            for ((o, &w), z) in row.iter_mut().zip(&b.0[p * n..(p + 1) * n]).zip(&zeros) {
                *o = o.wrapping_add(x * (whole(w) - z));
            }
        }
    }
}

#[cfg(test)]
mod conv_tests;
#[cfg(test)]
mod tests;
