//! Matrix products: C = A B (+ bias), f32 by register tiles over packed B, other types by plain loops.
//!
//! B is packed in panels of sixteen columns, `[ceil(N/16)][K][16]`, zero-padded, the same for every instruction set.
//! Work is cut in independent tasks; an element of C is its bias plus its products in the order of K, wherever the
//! cuts are, so results are the same for any number of threads and for every instruction set with fused multiply-add.

#[cfg(target_arch = "x86_64")]
mod amx;
mod any;
mod generic;
mod grouped;
mod kernel;
mod matmul;
pub mod narrow;
mod pack;
mod sweep;
#[cfg(target_arch = "x86_64")]
mod x86_avx2;
#[cfg(target_arch = "x86_64")]
mod x86_avx512;

pub use any::{Number, matmul_any};
pub use grouped::{Grouped, Indices};
pub use kernel::{Finish, PANEL};
pub use matmul::MatMul;
pub use pack::{pack_b, pack_rows, packed_len};

pub(crate) use kernel::{Tile, Width, finish_some, tile};
pub(crate) use pack::{a_pitch, pack_a};
pub(crate) use sweep::{B_FLOATS, Sweep, sweep, sweep_with};

use crate::isa::Isa;

/// A packed B.
#[derive(Clone, Copy, Debug)]
pub struct Panels {
    /// Panels of floats, as [`pack_b`] writes them.
    pub floats: *const f32,
    /// Their digits, as [`pack_digits`] writes them, where the machine works with them; null elsewhere.
    pub digits: *const u8,
}

impl Panels {
    /// Panels without digits.
    pub const fn of(floats: *const f32) -> Panels {
        Panels { floats, digits: core::ptr::null() }
    }
    /// The panels from a column on, which starts one.
    ///
    /// # Safety
    /// There is such a column, of depth `k`.
    pub(crate) unsafe fn from(self, col: usize, k: usize) -> Panels {
        // SAFETY: passed on from the caller.
        let floats = unsafe { self.floats.add(col * k) };
        Panels { floats, digits: self.digits.wrapping_add(if self.digits.is_null() { 0 } else { col / PANEL * digits_len(k) }) }
    }
}

/// Bytes of the digits of one panel of such a depth; 0 where no instruction set of the machine works with them.
pub const fn digits_len(k: usize) -> usize {
    #[cfg(target_arch = "x86_64")]
    {
        amx::panel_len(k)
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = k;
        0
    }
}

/// Writes the digits of one panel of depth `k`.
///
/// # Safety
/// `panel` holds the panel, `to`, aligned to 64 bytes, [`digits_len`] bytes, and the machine has [`Isa::Amx`].
pub unsafe fn pack_digits(k: usize, panel: *const f32, to: *mut u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: passed on from the caller.
    unsafe {
        amx::pack_panel(k, panel, to)
    }
    let _ = (k, panel, to);
}

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
pub(crate) const TASK_WORK: usize = 1 << 21;

/// Floats of scratch that blocks of up to so many rows take where factors are written in digits, whether or not this machine does.
pub(crate) const fn digit_floats(rows: usize, k: usize) -> usize {
    #[cfg(target_arch = "x86_64")]
    {
        amx::scratch_floats(rows, k)
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = (rows, k);
        0
    }
}

/// Rows and columns of a product that fill most of a tile: fewer are not computed by digits.
pub const DIGIT_LEAST: [usize; 2] = [8, 12];

/// Whether a block is computed by digits.
pub(crate) fn by_digits(isa: Isa, digits: *const u8, rows: usize, cols: usize) -> bool {
    isa == Isa::Amx && !digits.is_null() && rows >= DIGIT_LEAST[0] && cols >= DIGIT_LEAST[1]
}

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
        let least = 8;
        if wide < least {
            wide = least;
        }
        // Few rows are shared out by columns, enough of them to pay for what a task does to its rows.
        let work = self.m * per_panel;
        if self.m <= 256 {
            let parts = if self.m <= 8 { 8 } else { 4 };
            let parts = if parts < panels / 32 { panels / 32 } else { parts };
            let paying = TASK_WORK.div_ceil(if work == 0 { 1 } else { work });
            wide = panels / parts;
            if wide < least {
                wide = least;
            }
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
        if tall + 42 > self.m || (self.m <= 256 && panels >= 4 * wide) {
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
        let (_, tall) = self.cut();
        digit_floats(tall, self.k) + if self.copies_a() { tall * pack::a_pitch(self.k) } else { 0 }
    }
    /// Runs one task.
    ///
    /// # Safety
    /// `a` and `out` address matrices of the strides given, `b` are panels of [`pack_b`], `bias` is null or holds N floats
    /// padded to whole panels, `scratch` holds [`scratch_floats`](Self::scratch_floats), `finish` adds nothing or a matrix of the size
    /// of C, the task's part of `out` is not accessed elsewhere meanwhile, `task < tasks()`, and the machine has `isa`.
    pub unsafe fn run_task(
        &self,
        isa: Isa,
        task: usize,
        a: *const f32,
        b: Panels,
        bias: *const f32,
        out: *mut f32,
        scratch: *mut f32,
        finish: Finish,
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
            let b = b.from(col, self.k);
            let cols = wide.min(self.n - col);
            let digits = by_digits(isa, b.digits, rows, cols);
            if self.copies_a() && (self.a_col != 1 || !digits) {
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
                b: b.floats,
                panel: 0,
                out: out.add(row * self.ldc + col),
                pitch: self.ldc,
                cols: 0,
                bias: if bias.is_null() { bias } else { bias.add(col) },
                finish,
            };
            let scratch = if self.copies_a() { scratch.add(tall * pack::a_pitch(self.k)) } else { scratch };
            sweep(isa, &Sweep { rows, cols, k: self.k, row, col, epilogue, digits: b.digits, scratch, ..Sweep::of(tile) });
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
