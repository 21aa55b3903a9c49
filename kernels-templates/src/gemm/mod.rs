//! Matrix products: C = A B (+ bias), f32 by register tiles over packed B, other types by plain loops.
//!
//! B is packed in panels of sixteen columns, `[ceil(N/16)][K][16]`, zero-padded, the same for every instruction set.
//! Work is cut in independent tasks; an element of C is its bias plus its products in the order of K, wherever the
//! cuts are, so results are the same for any number of threads and for every instruction set with fused multiply-add.

mod any;
mod generic;
mod grouped;
mod kernel;
mod matmul;
mod pack;
mod sweep;
#[cfg(target_arch = "x86_64")]
mod x86_avx2;
#[cfg(target_arch = "x86_64")]
mod x86_avx512;

pub use any::{Number, matmul_any};
pub use grouped::{Grouped, Indices};
pub use kernel::PANEL;
pub use matmul::MatMul;
pub use pack::{pack_b, pack_rows, packed_len};

pub(crate) use kernel::{Tile, Width, tile};
pub(crate) use pack::{a_pitch, pack_a};
pub(crate) use sweep::{B_FLOATS, Sweep, sweep, sweep_with};

use crate::isa::Isa;

/// A finished block of output, for an [`Epilogue`].
#[derive(Clone, Copy, Debug)]
pub struct Block {
    /// The block's first element.
    pub out: *mut f32,
    /// Floats from one row of the block to the next.
    pub pitch: usize,
    /// Row of the whole output where the block starts.
    pub row: usize,
    /// Rows of the block.
    pub rows: usize,
    /// Column of the whole output where the block starts.
    pub col: usize,
    /// Columns of the block.
    pub cols: usize,
}

/// What is done with each finished block of output while it is in the cache. Every element is in exactly one block.
pub type Epilogue<'a> = Option<&'a (dyn Fn(Block) + Sync)>;

/// Multiply-adds that make a task worth handing to a thread (some tens of microseconds).
pub(crate) const TASK_WORK: usize = 1 << 20;

/// `C[m][n] = bias[n] + sum over k of A[m][k] B[k][n]`, with B packed in advance.
#[derive(Clone, Copy, Debug)]
pub struct Gemm {
    /// Rows of A and C.
    pub m: usize,
    /// Columns of B and C.
    pub n: usize,
    /// Columns of A, rows of B.
    pub k: usize,
    /// Floats from one row of A to the next.
    pub a_row: usize,
    /// Floats from one column of A to the next.
    pub a_col: usize,
    /// Floats from one row of C to the next.
    pub ldc: usize,
}

impl Gemm {
    /// Whether rows of A are copied first: its columns are apart, or many rows fall into one set of the first-level cache.
    pub(crate) const fn copies_a(&self) -> bool {
        (self.a_col != 1 && self.k > 1) || (self.m > 6 && self.k > 32 && self.a_row.is_multiple_of(512))
    }
    /// Columns and rows of one task.
    pub(crate) const fn cut(&self) -> (usize, usize) {
        let panels = self.n.div_ceil(PANEL);
        let per_panel = if self.k == 0 { 1 } else { self.k } * PANEL;
        // Columns first: a block of B that fits the cache, but no less than what pays for reading A.
        let mut wide = B_FLOATS / per_panel;
        let least = if self.copies_a() { 8 } else { 4 };
        if wide < least {
            wide = least;
        }
        // Few rows are shared out by columns.
        let work = self.m * per_panel;
        let even = panels.div_ceil(8);
        if self.m <= 256 && wide > even {
            let paying = TASK_WORK.div_ceil(if work == 0 { 1 } else { work });
            wide = if even > least { even } else { least };
            if self.m > 8 && wide < paying {
                wide = paying;
            }
        }
        wide = wide.next_multiple_of(4);
        if wide > panels {
            wide = if panels == 0 { 1 } else { panels };
        }
        let row_work = wide * per_panel;
        // A multiple of the tile heights 14 and 6.
        let mut tall = TASK_WORK.div_ceil(row_work).next_multiple_of(42);
        if tall + 42 > self.m {
            tall = if self.m == 0 { 1 } else { self.m };
        }
        (wide * PANEL, tall)
    }
    /// Number of independent tasks.
    pub const fn tasks(&self) -> usize {
        let (wide, tall) = self.cut();
        self.n.div_ceil(wide) * self.m.div_ceil(tall)
    }
    /// Floats of scratch that a thread needs.
    pub const fn scratch_floats(&self) -> usize {
        if self.copies_a() { self.cut().1 * pack::a_pitch(self.k) } else { 0 }
    }
    /// Runs one task.
    ///
    /// # Safety
    /// `a` and `out` address matrices of the strides given, `b` holds [`pack_b`]'s panels, `bias` is null or holds N floats
    /// padded to whole panels, `scratch` holds [`scratch_floats`](Self::scratch_floats), the task's part of `out` is not
    /// accessed elsewhere meanwhile, `task < tasks()`, and the machine has `isa`.
    pub unsafe fn run_task(
        &self,
        isa: Isa,
        task: usize,
        a: *const f32,
        b: *const f32,
        bias: *const f32,
        out: *mut f32,
        scratch: *mut f32,
        epilogue: Epilogue,
    ) {
        let (wide, tall) = self.cut();
        let down = self.m.div_ceil(tall);
        // Tasks of one block of columns are neighbours, and share it in the last-level cache.
        let (col, row) = (task / down * wide, task % down * tall);
        let rows = tall.min(self.m - row);
        // SAFETY: row and col are inside of the matrices that the caller vouches for.
        unsafe {
            let mut rows_a = a.add(row * self.a_row);
            let mut a_row = self.a_row;
            if self.copies_a() {
                pack_a(isa, rows, self.k, rows_a, self.a_row, self.a_col, scratch);
                rows_a = scratch;
                a_row = pack::a_pitch(self.k);
            }
            let tile = Tile {
                a: rows_a,
                a_row,
                taps: [1, 1, 1],
                tap: [0, 0, 0],
                run: self.k,
                b: b.add(col * self.k),
                panel: 0,
                out: out.add(row * self.ldc + col),
                pitch: self.ldc,
                cols: 0,
                bias: if bias.is_null() { bias } else { bias.add(col) },
            };
            sweep(isa, &Sweep { tile, down: self.ldc, rows, cols: wide.min(self.n - col), k: self.k, row, col, epilogue });
        }
    }
}

/// The product by plain loops in f64: what the kernels are tested against.
///
/// `a`, `b` and `out` are addressed by (row, column) strides; `bias` is empty or has N elements.
pub fn reference(
    (m, n, k): (usize, usize, usize),
    a: &[f32],
    a_strides: (usize, usize),
    b: &[f32],
    b_strides: (usize, usize),
    bias: &[f32],
    out: &mut [f32],
    ldc: usize,
) {
    for i in 0..m {
        for j in 0..n {
            let mut sum = bias.get(j).copied().unwrap_or(0.0) as f64;
            for p in 0..k {
                sum += a[i * a_strides.0 + p * a_strides.1] as f64 * b[p * b_strides.0 + j * b_strides.1] as f64;
            }
            out[i * ldc + j] = sum as f32;
        }
    }
}

#[cfg(test)]
mod tests;
