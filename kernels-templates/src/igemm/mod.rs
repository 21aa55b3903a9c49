//! Matrix products of bytes: `C[m][n] = sum over k of (A[m][k] - a_zero) (B[k][n] - b_zero[n])` in i32, A of u8, B packed.
//!
//! B is packed in panels of sixteen columns and four rows, `[ceil(N/16)][ceil(K/4)][16][4]`, as i8 (u8 less 128), zero-padded,
//! the same for every instruction set; the sums of its columns follow, by which A's zero point costs nothing: sums start at
//! `-a_zero` times them. Where zero points of B are not zero, the sums of A's rows are taken off with them. All arithmetic is
//! modulo 2^32, as the standard's, so any order gives the same bits; up to 33,025 rows of B nothing wraps around.

#[cfg(target_arch = "x86_64")]
mod amx;
mod conv;
mod depthwise;
mod dots;
mod requantize;

#[cfg(target_arch = "x86_64")]
pub(crate) use amx::available as tiles_available;
pub use conv::{IntConv, convolve};
pub use depthwise::IntDepthwise;
pub use requantize::{Addend, Each, Requantize, requantize};

use crate::entry::{In, Out};
use crate::gemm::{Block, Epilogue, Gemm, PANEL, Sweep, Tile, a_pitch, sweep_with};
use crate::isa::Isa;
use crate::kernel_fn;
use crate::num::Num;

/// Bytes of a packed B of `k` rows and `n` columns: panels, and the sums of the columns.
pub const fn packed_len(k: usize, n: usize) -> usize {
    sums_at(k, n) + n.next_multiple_of(PANEL) * size_of::<i32>()
}

/// Where the sums of the columns are in a packed B.
const fn sums_at(k: usize, n: usize) -> usize {
    n.next_multiple_of(PANEL) * k.next_multiple_of(4)
}

/// Packs B, `k` rows of `n` columns, at compile time. `unsigned` tells that its bytes are u8. Panics when a slice is too short.
pub fn pack_rows(k: usize, n: usize, b: &[u8], unsigned: bool, out: &mut [u8]) {
    assert!(b.len() >= k * n && out.len() >= packed_len(k, n), "the slices hold the matrix and its panels; this is a bug");
    let flip = if unsigned { 0x80 } else { 0 };
    let deep = k.next_multiple_of(4);
    out[..packed_len(k, n)].fill(0);
    let (panels, sums) = out.split_at_mut(sums_at(k, n));
    let mut totals = alloc::vec![0i32; n];
    for (p, row) in b.chunks(n.max(1)).take(if n == 0 { 0 } else { k }).enumerate() {
        for (j, &x) in row.iter().enumerate() {
            let x = x ^ flip;
            panels[j / PANEL * PANEL * deep + p / 4 * 4 * PANEL + j % PANEL * 4 + p % 4] = x;
            totals[j] = totals[j].wrapping_add(i32::from(x as i8));
        }
    }
    for (s, t) in sums.chunks_exact_mut(4).zip(totals) {
        s.copy_from_slice(&t.to_le_bytes());
    }
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
        Gemm { m: self.m, n: self.n, k: self.k.div_ceil(4), a_row: self.a_row / 4, a_col: 1, ldc: self.ldc }
    }
    /// Whether rows of A are copied first: they are no whole words, or many fall into one set of the first-level cache.
    const fn copies_a(&self) -> bool {
        !(self.k.is_multiple_of(4) && self.a_row.is_multiple_of(4)) || self.words().copies_a()
    }
    /// Number of independent tasks.
    pub const fn tasks(&self) -> usize {
        self.words().tasks()
    }
    /// Words of scratch that a thread needs.
    pub const fn scratch_floats(&self) -> usize {
        let (wide, tall) = self.words().cut();
        wide + if self.copies_a() { tall * a_pitch(self.k.div_ceil(4)) } else { 0 }
    }
    /// Runs one task: writes i32, which the epilogue may replace by other elements of four bytes.
    ///
    /// # Safety
    /// `a` and `out` address matrices of the strides given, `b` holds the panels of [`pack_rows`], `zeros` is null where all are
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
        let words = self.words();
        let (wide, tall) = words.cut();
        let down = self.m.div_ceil(tall);
        // Tasks of one block of columns are neighbours, and share it in the last-level cache.
        let (col, row) = (task / down * wide, task % down * tall);
        let rows = tall.min(self.m - row);
        let a_zero = i32::from(a_zero);
        let shift = Shift { isa, a, a_row: self.a_row, k: self.k, a_zero, zeros };
        let fix = |block: Block| {
            // SAFETY: the block lies inside of C, and A has its rows, `zeros` its columns.
            unsafe { shift.take_off(block) };
            if let Some(f) = epilogue {
                f(block);
            }
        };
        // SAFETY: row and col are inside of the matrices that the caller vouches for, and scratch holds a row and copies.
        unsafe {
            let sums = b.add(sums_at(self.k, self.n)).cast::<i32>().add(col);
            let start = scratch.cast::<i32>();
            let columns = wide.min(self.n.next_multiple_of(PANEL) - col);
            for j in 0..columns {
                start.add(j).write(sums.add(j).read_unaligned().wrapping_mul(-a_zero));
            }
            let mut rows_a = a.add(row * self.a_row).cast::<f32>();
            let mut a_row = words.a_row;
            if self.copies_a() {
                a_row = a_pitch(words.k);
                rows_a = scratch.add(wide);
                for i in 0..rows {
                    let to = scratch.add(wide + i * a_row);
                    if words.k > 0 {
                        // Bytes behind the last column meet zeros of B.
                        to.add(words.k - 1).write(0.0);
                    }
                    core::ptr::copy_nonoverlapping(a.add((row + i) * self.a_row), to.cast::<u8>(), self.k);
                }
            }
            let epilogue: Epilogue = if zeros.is_null() { epilogue } else { Some(&fix) };
            let sums = Sums {
                isa,
                tiles,
                a: rows_a.cast(),
                a_row: a_row * 4,
                k: self.k,
                b: b.add(col * self.k.next_multiple_of(4)),
                start,
                out: out.add(row * self.ldc + col),
                pitch: self.ldc,
                down: self.ldc,
                rows,
                cols: wide.min(self.n - col),
                row,
                col,
                epilogue,
            };
            sums.compute();
        }
    }
}

/// A block of sums by the register tiles of the machine.
struct Sums<'a> {
    isa: Isa,
    /// Whether matrix registers may be used.
    tiles: bool,
    a: *const u8,
    /// Bytes from row to row of A, whole words; behind a row's `k` bytes lie some that may be read up to the next whole word.
    a_row: usize,
    k: usize,
    /// Panels of the block's columns.
    b: *const u8,
    /// Initial values of the columns, padded to whole panels.
    start: *const i32,
    out: *mut i32,
    pitch: usize,
    /// Elements from the output of one row to that of the next tile's: the pitch, or 0 where tiles follow each other in one place.
    down: usize,
    rows: usize,
    cols: usize,
    /// Place of the block in the whole output, for the epilogue.
    row: usize,
    col: usize,
    epilogue: Epilogue<'a>,
}

impl Sums<'_> {
    /// # Safety
    /// The pointers address such a block and its operands, the output is not aliased, and the machine has `isa` and, where they may
    /// be used, matrix registers.
    unsafe fn compute(&self) {
        let &Sums { isa, tiles, a, a_row, k, b, start, out, pitch, down, rows, cols, row, col, epilogue } = self;
        #[cfg(target_arch = "x86_64")]
        if tiles && amx::pays(rows, k) {
            // SAFETY: passed on from the caller.
            return unsafe { amx::sweep(&amx::Sweep { a, a_row, b, k, start, out, pitch, down, rows, cols, row, col, epilogue }) };
        }
        let _ = tiles;
        let words = k.div_ceil(4);
        let tile = Tile {
            a: a.cast(),
            a_row: a_row / 4,
            taps: [1, 1, 1],
            tap: [0, 0, 0],
            run: words,
            b: b.cast(),
            panel: 0,
            out: out.cast(),
            pitch,
            cols: 0,
            bias: start.cast(),
        };
        // SAFETY: passed on from the caller.
        unsafe { sweep_with(dots::widths(isa), &Sweep { tile, down, rows, cols, k: words, row, col, epilogue }) }
    }
}

/// What is left to take off sums where zero points of B are not zero.
struct Shift {
    isa: Isa,
    a: *const u8,
    a_row: usize,
    k: usize,
    a_zero: i32,
    zeros: *const i32,
}

// SAFETY: both pointers are only read through.
unsafe impl Sync for Shift {}

impl Shift {
    /// # Safety
    /// A has the rows of the block, `zeros` its columns, and nothing else accesses the block meanwhile.
    unsafe fn take_off(&self, b: Block) {
        // SAFETY: passed on from the caller.
        unsafe {
            let (a, zeros) = (self.a.add(b.row * self.a_row), self.zeros.add(b.col));
            take_zeros_off(self.isa, b.out.cast(), b.pitch, b.rows, b.cols, a, self.a_row, self.k, self.a_zero, zeros);
        }
    }
}

kernel_fn! {
    /// Takes `zeros[j]` times the sum of a row of `A - a_zero` off every element of a block, whose rows are those of A.
    ///
    /// # Safety
    /// The pointers address such blocks, and the machine has `isa`.
    fn take_zeros_off<A>(
        out: *mut i32, pitch: usize, rows: usize, cols: usize, a: *const u8, a_row: usize, k: usize, a_zero: i32, zeros: *const i32,
    ) {
        for i in 0..rows {
            let (a, out) = (a.add(i * a_row), out.add(i * pitch));
            let mut sum = 0u32;
            for p in 0..k {
                sum = sum.wrapping_add(u32::from(*a.add(p)));
            }
            let sum = (sum as i32).wrapping_sub((k as i32).wrapping_mul(a_zero));
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
