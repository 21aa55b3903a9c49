//! Matrix products whose B is not known in advance: each task packs its columns of B first.

use super::kernel::{PANEL, Tile};
use super::pack::{a_pitch, pack_a, pack_b};
use super::{Epilogue, Finish, Sweep, TASK_WORK, sweep};
use crate::isa::Isa;

/// `C[m][n] = bias[n] + sum over k of A[m][k] B[k][n]` for one matrix of a batch, all of them with element strides.
///
/// A batch is the caller's loop: the tasks of all its matrices are independent of each other.
#[derive(Clone, Copy, Debug)]
pub struct MatMul {
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
    /// Floats from one row of B to the next.
    pub b_row: usize,
    /// Floats from one column of B to the next.
    pub b_col: usize,
    /// Floats from one row of C to the next.
    pub ldc: usize,
}

impl MatMul {
    const fn copies_a(&self) -> bool {
        (self.a_col != 1 && self.k > 1) || (self.m > 6 && self.k > 32 && self.a_row.is_multiple_of(512))
    }
    /// Columns of one task.
    const fn wide(&self) -> usize {
        let per_col = if self.k == 0 { 1 } else { self.k };
        let work = per_col * if self.m == 0 { 1 } else { self.m };
        let paying = TASK_WORK.div_ceil(work);
        let fits = super::B_FLOATS / 2 / per_col;
        let wide = if paying < fits { paying } else { fits };
        let wide = (if wide < 64 { 64 } else { wide }).next_multiple_of(4 * PANEL);
        if wide > self.n { self.n.next_multiple_of(PANEL) } else { wide }
    }
    /// Rows of A that are copied at once.
    const fn tall(&self) -> usize {
        if self.m < 84 { self.m } else { 84 }
    }
    /// Number of independent tasks of one matrix of the batch.
    pub const fn tasks(&self) -> usize {
        if self.n == 0 { 0 } else { self.n.div_ceil(self.wide()) }
    }
    /// Floats of scratch that a thread needs.
    pub const fn scratch_floats(&self) -> usize {
        self.wide() * self.k + if self.copies_a() { self.tall() * a_pitch(self.k) } else { 0 }
    }
    /// Runs one task of one matrix of the batch; rows and columns of the epilogue's blocks are those of that matrix.
    ///
    /// # Safety
    /// `a`, `b` and `out` address matrices of the strides given, `bias` is null or holds N floats padded to a multiple of
    /// [`PANEL`], `scratch` holds [`scratch_floats`](Self::scratch_floats), the task's part of `out` is not accessed
    /// elsewhere meanwhile, `task < tasks()`, and the machine has `isa`.
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
        let wide = self.wide();
        let col = task * wide;
        let cols = wide.min(self.n - col);
        // SAFETY: rows and columns are inside of the matrices that the caller vouches for.
        unsafe {
            pack_b(isa, self.k, cols, b.add(col * self.b_col), self.b_row, self.b_col, scratch);
            let rows_a = scratch.add(wide * self.k);
            let step = if self.copies_a() { self.tall().max(1) } else { self.m.max(1) };
            for row in (0..self.m).step_by(step) {
                let rows = step.min(self.m - row);
                let mut tile_a = a.add(row * self.a_row);
                let mut a_row = self.a_row;
                if self.copies_a() {
                    pack_a(isa, rows, self.k, tile_a, self.a_row, self.a_col, rows_a);
                    tile_a = rows_a;
                    a_row = a_pitch(self.k);
                }
                let tile = Tile {
                    a: tile_a,
                    a_row,
                    taps: [1, 1, 1],
                    tap: [0, 0, 0],
                    run: self.k,
                    b: scratch,
                    panel: 0,
                    out: out.add(row * self.ldc + col),
                    pitch: self.ldc,
                    cols: 0,
                    bias: if bias.is_null() { bias } else { bias.add(col) },
                    finish: Finish::NONE,
                };
                sweep(isa, &Sweep { rows, cols, k: self.k, row, col, epilogue, ..Sweep::of(tile) });
            }
        }
    }
}
