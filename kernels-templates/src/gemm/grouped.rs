//! Products of rows with matrices that indices pick, as mixtures of experts have them: rows of one matrix are computed together, and
//! the matrices are read where they lie.

use super::kernel::{PANEL, Tile};
use super::pack::{a_pitch, pack_a, packed_len};
use super::{Block, Epilogue, Finish, Sweep, TASK_WORK, sweep};
use crate::fault::{Fault, position};
use crate::isa::Isa;

/// Rows of one matrix that are computed at once: a multiple of the tile heights 14 and 6.
const TALL: usize = 42;

/// Where the indices lie.
#[derive(Clone, Copy, Debug)]
pub enum Indices {
    /// As i32.
    I32(*const i32),
    /// As i64.
    I64(*const i64),
}

impl Indices {
    /// Index number `r`.
    ///
    /// # Safety
    /// There are more than `r`.
    unsafe fn at(self, r: usize) -> i64 {
        // SAFETY: passed on from the caller.
        unsafe {
            match self {
                Indices::I32(p) => i64::from(*p.add(r)),
                Indices::I64(p) => *p.add(r),
            }
        }
    }
}

/// `C[r] = A[r] B[i[r]]` for rows `r`, with all of the matrices B packed in advance by [`pack_b`](super::pack_b), one behind the other.
///
/// Tasks are blocks of columns of one matrix. A sum has the order of K, whichever rows are computed beside it.
#[derive(Clone, Copy, Debug)]
pub struct Grouped {
    /// Extents of the rows of C and of the indices; row-major.
    pub rows: [usize; 3],
    /// Matrices.
    pub count: usize,
    /// Columns of B and C.
    pub n: usize,
    /// Columns of A, rows of B.
    pub k: usize,
    /// Floats from row to row of A along the three axes, 0 where a row is repeated; its columns are neighbours.
    pub a_steps: [usize; 3],
    /// Floats from one row of C to the next.
    pub ldc: usize,
}

impl Grouped {
    const fn all(&self) -> usize {
        self.rows[0] * self.rows[1] * self.rows[2]
    }
    /// Tasks of one block of columns: one a matrix or, where there are fewer of them, one a row.
    const fn groups(&self) -> usize {
        if self.all() < self.count { self.all() } else { self.count }
    }
    /// Columns of one task.
    const fn wide(&self) -> usize {
        let panels = self.n.div_ceil(PANEL);
        let per_panel = if self.k == 0 { 1 } else { self.k } * PANEL;
        // A block of B that fits the cache, but columns enough to share out where few matrices are picked, and to pay for a task.
        let fits = super::B_FLOATS / per_panel;
        let even = panels.div_ceil(8);
        let groups = self.groups();
        let height = self.all().div_ceil(if groups == 0 { 1 } else { groups });
        let paying = TASK_WORK / 8 / (per_panel * if height == 0 { 1 } else { height });
        let mut wide = if even > paying { even } else { paying };
        if wide > fits {
            wide = fits;
        }
        wide = (if wide < 4 { 4 } else { wide }).next_multiple_of(4);
        if wide > panels {
            wide = panels;
        }
        wide * PANEL
    }
    /// Rows that a task computes at once, at most.
    const fn tall(&self) -> usize {
        if self.all() < TALL { self.all() } else { TALL }
    }
    /// Floats from row to row of a block's results before they are put where they belong.
    const fn pitch(&self) -> usize {
        // Never a power of two.
        self.wide() + PANEL
    }
    /// Number of independent tasks.
    pub const fn tasks(&self) -> usize {
        if self.n == 0 { 0 } else { self.groups() * self.n.div_ceil(self.wide()) }
    }
    /// Floats of scratch that a thread needs.
    pub const fn scratch_floats(&self) -> usize {
        if self.n == 0 { 0 } else { self.tall() * (a_pitch(self.k) + self.pitch()) }
    }
    /// Whether every index names a matrix; negative ones count from the end.
    ///
    /// # Errors
    /// The first that does not.
    ///
    /// # Safety
    /// There is an index for each row.
    pub unsafe fn check(&self, indices: Indices) -> Result<(), Fault> {
        for r in 0..self.all() {
            // SAFETY: the caller vouches for the indices.
            position(unsafe { indices.at(r) }, self.count)?;
        }
        Ok(())
    }
    /// Floats before row `r` of A.
    const fn row(&self, r: usize) -> usize {
        let ([_, y, z], [a, b, c]) = (self.rows, self.a_steps);
        r / (y * z) * a + r / z % y * b + r % z * c
    }
    /// Runs one task.
    ///
    /// # Safety
    /// `a` and `out` address rows of the steps given, `b` holds the panels of all matrices, there is an index for each row and
    /// [`check`](Self::check) found nothing wrong with them, `scratch` holds [`scratch_floats`](Self::scratch_floats), nobody else
    /// accesses the task's part of `out` meanwhile, `task < tasks()`, and the machine has `isa`.
    pub unsafe fn run_task(
        &self,
        isa: Isa,
        task: usize,
        a: *const f32,
        b: *const f32,
        indices: Indices,
        out: *mut f32,
        scratch: *mut f32,
        epilogue: Epilogue,
    ) {
        let wide = self.wide();
        let blocks = self.n.div_ceil(wide);
        let (group, col) = (task / blocks, task % blocks * wide);
        // SAFETY: the caller vouches for the indices.
        let at = |r: usize| unsafe {
            let i = indices.at(r);
            (if i < 0 { i + self.count as i64 } else { i }) as usize
        };
        let (matrix, first) = match self.all() < self.count {
            // The first row of a matrix computes all of them.
            true if (0..group).any(|r| at(r) == at(group)) => return,
            true => (at(group), group),
            false => (group, 0),
        };
        let panels = Columns { b: b.wrapping_add(matrix * packed_len(self.k, self.n) + col * self.k), col, cols: wide.min(self.n - col) };
        let mut chosen = [0; TALL];
        let mut count = 0;
        for r in (first..self.all()).filter(|r| at(*r) == matrix) {
            chosen[count] = r;
            count += 1;
            if count == TALL {
                // SAFETY: passed on from the caller; the rows are some of those that there are.
                unsafe { self.block(isa, &chosen, panels, (a, out, scratch), epilogue) };
                count = 0;
            }
        }
        if count > 0 {
            // SAFETY: as above.
            unsafe { self.block(isa, &chosen[..count], panels, (a, out, scratch), epilogue) };
        }
    }
    /// Some rows of one matrix, in a block of columns.
    ///
    /// # Safety
    /// As [`run_task`](Self::run_task), for these rows and columns.
    unsafe fn block(
        &self,
        isa: Isa,
        chosen: &[usize],
        Columns { b, col, cols }: Columns,
        (a, out, scratch): (*const f32, *mut f32, *mut f32),
        epilogue: Epilogue,
    ) {
        let (bias, finish) = (core::ptr::null(), Finish::NONE);
        let tile = Tile { a, a_row: 0, taps: [1; 3], tap: [0; 3], run: self.k, b, panel: 0, out, pitch: 0, cols: 0, bias, finish };
        // SAFETY: rows and columns are inside of the matrices that the caller vouches for, and the scratch holds as many.
        unsafe {
            if let [r] = *chosen {
                let tile = Tile { a: a.add(self.row(r)), out: out.add(r * self.ldc + col), pitch: self.ldc, ..tile };
                return sweep(isa, &Sweep { rows: 1, cols, k: self.k, row: r, col, epilogue, ..Sweep::of(tile) });
            }
            let (a_row, pitch) = (a_pitch(self.k), self.pitch());
            let sums = scratch.add(self.tall() * a_row);
            for (i, r) in chosen.iter().enumerate() {
                pack_a(isa, 1, self.k, a.add(self.row(*r)), 0, 1, scratch.add(i * a_row));
            }
            let tile = Tile { a: scratch, a_row, out: sums, pitch, ..tile };
            sweep(isa, &Sweep { rows: chosen.len(), cols, k: self.k, col, ..Sweep::of(tile) });
            for (i, &r) in chosen.iter().enumerate() {
                let out = out.add(r * self.ldc + col);
                core::ptr::copy_nonoverlapping(sums.add(i * pitch), out, cols);
                if let Some(f) = epilogue {
                    f(Block { out, pitch: self.ldc, row: r, rows: 1, col, cols });
                }
            }
        }
    }
}

/// A block of columns of a packed matrix.
#[derive(Clone, Copy)]
struct Columns {
    b: *const f32,
    col: usize,
    cols: usize,
}

#[cfg(test)]
mod tests {
    use super::super::{pack_rows, reference};
    use super::*;
    use crate::support::testing::{Rng, assert_close};

    #[test]
    fn grouped_products_equal_those_of_each_row() {
        let mut rng = Rng(5);
        for round in 0..60 {
            let rows = match round {
                0 => [0, 3, 2],
                1 => [1, 1, 1],
                2 => [2, 90, 1],
                _ => [rng.int(1, 3), rng.int(1, 9), rng.int(1, 3)],
            };
            let (count, n, k) = (rng.pick(&[1, 2, 8, 40]), rng.pick(&[0, 1, 16, 70, 300]), rng.pick(&[0, 1, 7, 64, 130]));
            let all: usize = rows.iter().product();
            let (pad, ldc) = (rng.int(0, 3), n + rng.int(0, 5));
            let (wide, tall) = (k + pad, rows.map(|d| d.max(1)));
            let a_steps = match rng.int(0, 2) {
                0 => [tall[1] * tall[2] * wide, tall[2] * wide, wide],
                1 => [tall[1] * wide, wide, 0],
                _ => [0, 0, wide],
            };
            let a = rng.floats(1 + all.max(1) * wide);
            let b = rng.floats(count * k * n);
            let indices: Vec<i64> = (0..all).map(|_| rng.int(0, 2 * count - 1) as i64 - count as i64).collect();
            let narrow: Vec<i32> = indices.iter().map(|i| *i as i32).collect();
            let mut want = vec![7.0; all * ldc];
            let grouped = Grouped { rows, count, n, k, a_steps, ldc };
            for (r, i) in indices.iter().enumerate() {
                let matrix = i.rem_euclid(count as i64) as usize;
                let (a, b) = (&a[1 + grouped.row(r)..], &b[matrix * k * n..]);
                reference((1, n, k), a, (0, 1), b, (n, 1), &[], &mut want[r * ldc..], ldc);
                want[r * ldc..][..n].iter_mut().enumerate().for_each(|(j, x)| *x += (r * n + j) as f32);
            }
            let mut packed = vec![f32::NAN; count * packed_len(k, n)];
            for e in 0..count {
                pack_rows(k, n, &b[e * k * n..], &mut packed[e * packed_len(k, n)..]);
            }
            let place = |block: Block| {
                for i in 0..block.rows {
                    for j in 0..block.cols {
                        // SAFETY: the block is inside of the output.
                        unsafe { *block.out.add(i * block.pitch + j) += ((block.row + i) * n + block.col + j) as f32 };
                    }
                }
            };
            for isa in Isa::available() {
                let mut got = vec![7.0; all * ldc];
                let mut scratch = vec![f32::NAN; grouped.scratch_floats()];
                let indices = if round % 2 == 0 { Indices::I64(indices.as_ptr()) } else { Indices::I32(narrow.as_ptr()) };
                // SAFETY: the arrays have the sizes that the kernel asks for.
                unsafe {
                    grouped.check(indices).unwrap();
                    for task in (0..grouped.tasks()).rev() {
                        let (a, out) = (a.as_ptr().add(1), got.as_mut_ptr());
                        grouped.run_task(isa, task, a, packed.as_ptr(), indices, out, scratch.as_mut_ptr(), Some(&place));
                    }
                }
                assert_close(&got, &want, 1e-4, &format!("{grouped:?} {}", isa.name()));
            }
        }
    }

    #[test]
    fn indices_beyond_the_matrices_are_found() {
        let grouped = Grouped { rows: [1, 1, 2], count: 3, n: 1, k: 1, a_steps: [0, 0, 1], ldc: 1 };
        for (indices, wrong) in [([2, -3], None), ([0, 3], Some(3)), ([-4, 0], Some(-4))] {
            // SAFETY: there are two indices.
            let found = unsafe { grouped.check(Indices::I64(indices.as_ptr())) };
            assert_eq!(found.err(), wrong.map(|index| Fault::Index { index, len: 3 }));
        }
    }
}
