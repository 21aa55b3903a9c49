//! Scaled dot-product attention: `softmax(scale · q kᵀ + mask) v` without ever storing the matrix of scores.
//!
//! A task takes some queries of one matrix of the batch. It packs a block of keys and values once, as `gemm` packs its right side,
//! and passes over its queries in strips of one register tile: scores of the strip against the block, their exponentials, and the
//! weighted values, all while the strip is in the first-level cache. Where keys fill several blocks, each row keeps its maximum and
//! its sum, and what was summed before is rescaled when the maximum grows. Cuts depend on the extents alone, and no sum is split among
//! tasks, so results are the same for any number of threads. The scale is taken into the queries, so a score differs from the exact
//! one by D + 1 roundings of its terms.
//!
//! Fewer than [`FEW`] queries, as in decoding, pack nothing: keys and values are read once where they lie.

mod few;
mod plain;
mod strip;

pub use plain::attend;

use crate::gemm::{B_FLOATS, Finish, PANEL, Sweep, TASK_WORK, Tile, a_pitch, pack_b, sweep};
use crate::isa::Isa;

/// Queries from which on keys and values are packed.
pub const FEW: usize = 4;

/// Keys of one block at most: the strip of scores fits the first-level cache.
const BLOCK: usize = 512;

/// Queries of one task at most, but for a last one that would be short.
const TALL: usize = 1024;

/// Queries of one strip at most: the rows of the tallest register tile.
const STRIP: usize = 14;

/// `out[i] = sum over j of p[i][j] v[j]`, where the rows of `p` are the softmax of `scale · q[i]·k[j] + mask[i][j]` over the keys
/// `j <= i + reach`, for one matrix of a batch. All operands have rows of unit stride; a batch is the caller's loop.
///
/// A row whose scores are all -inf, or that has a NaN, becomes NaN, as the formula has it, or zero where the softmax is a safe one;
/// without keys the result is zero.
#[derive(Clone, Copy, Debug)]
pub struct Attend {
    /// Rows of `q` and `out`.
    pub queries: usize,
    /// Rows of `k` and `v`.
    pub keys: usize,
    /// Columns of `q` and `k`.
    pub depth: usize,
    /// Columns of `v` and `out`.
    pub width: usize,
    /// Floats from one row of `q` to the next.
    pub q_row: usize,
    /// Floats from one row of `k` to the next.
    pub k_row: usize,
    /// Floats from one row of `v` to the next.
    pub v_row: usize,
    /// Floats from one row of `out` to the next.
    pub out_row: usize,
    /// Floats from one row of the mask to the next; 0 where all rows are the same.
    pub mask_row: usize,
    /// Floats from one column of the mask to the next: 0 or 1.
    pub mask_col: usize,
    /// Factor of the scores.
    pub scale: f32,
    /// How many keys behind its own number a query sees; the number of keys where it sees all.
    pub reach: usize,
    /// Whether rows of the softmax that are NaN count as zeros.
    pub safe: bool,
}

/// The parts of a task's scratch, in floats from its start.
struct Parts {
    v: usize,
    rows: usize,
    strip: usize,
    part: usize,
    state: usize,
    end: usize,
}

impl Attend {
    const fn few(&self) -> bool {
        self.queries < FEW
    }
    /// Keys of one block: packed keys and values fit the second-level cache, and blocks are nearly equal.
    const fn block(&self) -> usize {
        let per_key = self.depth + self.width.next_multiple_of(PANEL);
        let most = B_FLOATS / if per_key == 0 { 1 } else { per_key } / PANEL * PANEL;
        let most = if most > BLOCK { BLOCK } else { most };
        let most = if most < 4 * PANEL { 4 * PANEL } else { most };
        let blocks = self.keys.div_ceil(most);
        self.keys.div_ceil(if blocks == 0 { 1 } else { blocks }).next_multiple_of(PANEL)
    }
    /// Queries of one task: enough to pay for packing the keys.
    const fn tall(&self) -> usize {
        let work = self.keys * (self.depth + self.width);
        let paying = TASK_WORK.div_ceil(if work == 0 { 1 } else { work });
        let tall = if paying < 8 * STRIP { 8 * STRIP } else { paying };
        let tall = if tall > TALL { TALL } else { tall };
        // The last task is not much shorter than the others.
        let tasks = self.queries / tall;
        self.queries.div_ceil(if tasks == 0 { 1 } else { tasks })
    }
    /// Number of independent tasks of one matrix of the batch.
    pub const fn tasks(&self) -> usize {
        if self.queries == 0 || self.width == 0 {
            0
        } else if self.few() {
            1
        } else {
            self.queries.div_ceil(self.tall())
        }
    }
    /// Multiply-adds of one matrix of the batch.
    pub const fn work(&self) -> usize {
        self.queries * self.keys * (self.depth + self.width)
    }
    const fn parts(&self, block: usize, tall: usize) -> Parts {
        let wide = self.width.next_multiple_of(PANEL);
        let v = block * self.depth;
        let rows = v + block * wide;
        let strip = rows + STRIP * a_pitch(self.depth);
        let part = strip + STRIP * a_pitch(block);
        let state = part + STRIP * wide;
        Parts { v, rows, strip, part, state, end: state + strip::STATE * tall }
    }
    /// Floats of scratch that a thread needs: no fewer than for any lesser extents, since memory is made for the greatest.
    pub const fn scratch_floats(&self) -> usize {
        let few = a_pitch(self.keys) + strip::STATE;
        if self.few() {
            return few;
        }
        let keys = self.keys.next_multiple_of(PANEL);
        let tall = if self.queries < 2 * TALL { self.queries } else { 2 * TALL };
        let many = self.parts(if keys < BLOCK { keys } else { BLOCK }, tall).end;
        if many > few { many } else { few }
    }
    /// Runs one task of one matrix of the batch.
    ///
    /// # Safety
    /// `q`, `k`, `v` and `out` address matrices of the extents and strides given, `mask` is null or addresses one too, `scratch` holds
    /// [`scratch_floats`](Self::scratch_floats), the task's rows of `out` are not accessed elsewhere meanwhile, `task < tasks()`, and
    /// the machine has `isa`.
    pub unsafe fn run_task(
        &self,
        isa: Isa,
        task: usize,
        q: *const f32,
        k: *const f32,
        v: *const f32,
        mask: *const f32,
        out: *mut f32,
        scratch: *mut f32,
    ) {
        // SAFETY: rows of the matrices that the caller vouches for, and parts of the scratch it gave.
        unsafe {
            if self.few() {
                for i in 0..self.queries {
                    let mask = if mask.is_null() { mask } else { mask.add(i * self.mask_row) };
                    self.one(isa, i, q.add(i * self.q_row), k, v, mask, out.add(i * self.out_row), scratch);
                }
                return;
            }
            let tall = self.tall();
            let first = task * tall;
            let rows = tall.min(self.queries - first);
            let mask = if mask.is_null() { mask } else { mask.add(first * self.mask_row) };
            self.many(isa, first..first + rows, q.add(first * self.q_row), k, v, mask, out.add(first * self.out_row), scratch);
        }
    }
    /// Keys that query `i` sees.
    fn seen(&self, i: usize) -> usize {
        self.keys.min(i.saturating_add(self.reach).saturating_add(1))
    }
    /// One query, against keys and values as they lie; the pointers address its rows.
    unsafe fn one(
        &self,
        isa: Isa,
        i: usize,
        q: *const f32,
        k: *const f32,
        v: *const f32,
        mask: *const f32,
        out: *mut f32,
        scratch: *mut f32,
    ) {
        let keys = self.seen(i);
        // SAFETY: passed on from the caller.
        unsafe {
            let state = scratch.add(a_pitch(self.keys));
            few::dots(isa, q, k, self.k_row, self.depth, keys, self.scale, scratch);
            strip::begin(state, 1);
            strip::weigh(isa, scratch, 0, 1, keys, keys, mask, 0, self.mask_col, state);
            // Without keys the result is zero.
            let sum = *state.add(1);
            let by = if keys == 0 { 0.0 } else { 1.0 / sum };
            let keys = if self.safe && strip::undefined(sum) { 0 } else { keys };
            few::combine(isa, scratch, v, self.v_row, keys, self.width, if keys == 0 { 0.0 } else { by }, out);
        }
    }
    /// The queries `range`, in strips, block by block of the keys; the pointers address the first of them.
    unsafe fn many(
        &self,
        isa: Isa,
        range: core::ops::Range<usize>,
        q: *const f32,
        k: *const f32,
        v: *const f32,
        mask: *const f32,
        out: *mut f32,
        scratch: *mut f32,
    ) {
        let queries = range.len();
        // Strips of nearly equal height, none taller than the register tile.
        let tallest = if isa >= Isa::Avx512 { STRIP } else { 12 };
        let strips = queries.div_ceil(tallest);
        let start = |s: usize| s * queries / strips;
        let (block, wide) = (self.block(), self.width.next_multiple_of(PANEL));
        let at = self.parts(block, queries);
        let keys = self.seen(range.end - 1);
        let (q_pitch, pitch) = (a_pitch(self.depth), a_pitch(block));
        // SAFETY: the parts of the scratch do not overlap, and rows and columns are inside of the matrices the caller vouches for.
        unsafe {
            let (packed_k, packed_v, rows_q) = (scratch, scratch.add(at.v), scratch.add(at.rows));
            let (strip, part, state) = (scratch.add(at.strip), scratch.add(at.part), scratch.add(at.state));
            strip::begin(state, queries);
            for from in (0..keys.max(1)).step_by(block.max(1)) {
                let len = block.min(keys - from);
                pack_b(isa, self.depth, len, k.add(from * self.k_row), 1, self.k_row, packed_k);
                pack_b(isa, len, self.width, v.add(from * self.v_row), self.v_row, 1, packed_v);
                for s in 0..strips {
                    let (row, rows) = (start(s), start(s + 1) - start(s));
                    let all = self.seen(range.start + row + rows - 1);
                    if all <= from && from > 0 {
                        continue;
                    }
                    let cols = len.min(all - from);
                    let (out, state) = (out.add(row * self.out_row), state.add(strip::STATE * row));
                    strip::scaled(isa, q.add(row * self.q_row), self.q_row, rows, self.depth, self.scale, rows_q, q_pitch);
                    let tile = Tile {
                        a: rows_q,
                        a_row: q_pitch,
                        taps: [1, 1, 1],
                        tap: [0, 0, 0],
                        run: self.depth,
                        b: packed_k,
                        panel: 0,
                        out: strip,
                        pitch,
                        cols: 0,
                        bias: core::ptr::null(),
                        finish: Finish::NONE,
                    };
                    sweep(isa, &Sweep { rows, cols, k: self.depth, ..Sweep::of(tile) });
                    let mask = if mask.is_null() { mask } else { mask.add(row * self.mask_row + from * self.mask_col) };
                    let seen = (range.start + row).saturating_add(self.reach).saturating_add(1).saturating_sub(from);
                    strip::weigh(isa, strip, pitch, rows, cols, seen, mask, self.mask_row, self.mask_col, state);
                    let (to, to_pitch) = if from == 0 { (out, self.out_row) } else { (part, wide) };
                    let tile = Tile { a: strip, a_row: pitch, run: cols, b: packed_v, out: to, pitch: to_pitch, ..tile };
                    // The panels are as long as the block, of which the strip may see only the first keys.
                    sweep(isa, &Sweep { rows, cols: self.width, k: len, ..Sweep::of(tile) });
                    if from > 0 {
                        strip::rescale(isa, out, self.out_row, part, wide, rows, self.width, state);
                    }
                    // Without keys the result is zero, as the product left it.
                    if from + len >= all && self.keys > 0 {
                        strip::finish(isa, out, self.out_row, rows, self.width, self.safe, state);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
