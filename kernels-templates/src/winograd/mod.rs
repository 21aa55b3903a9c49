//! Convolutions with 3x3 windows by Winograd's minimal filtering, F(2x2, 3x3) and F(4x4, 3x3), over channels-last tensors.
//!
//! `y = At [sum over c of (G g Gt) * (Bt d B)] A` for every tile of `m` x `m` outputs (Lavin and Gray 2015): 16 products for 4 outputs or
//! 36 for 16, where the direct sum takes 36 or 144. Weights are transformed and packed in advance. A task takes a block of tiles, makes
//! `m + 2` squared matrices of them, a row for each tile and a column for each channel, multiplies each by its weights with the register tile of [`gemm`](crate::gemm),
//! and transforms back; all of that stays in the second-level cache.
//!
//! Error, as the largest difference over the root mean square of the result: F(2x2, 3x3) is at or below that of the direct sum,
//! F(4x4, 3x3) is two to three times it (below 2e-5 for 512 channels). An infinity or NaN in the input reaches all of its tile.

mod points;
mod transform;

use crate::conv::Conv;
use crate::gemm::{Block, Epilogue, Finish, PANEL, Sweep, Tile, a_pitch, sweep};
use crate::isa::Isa;

/// Floats of scratch that a block of tiles may take: the second-level cache of most machines, less what passes through it.
const BLOCK_FLOATS: usize = 224 * 1024;

/// Tiles of a block at least, where there are as many: as many rows as the register tile has.
const LEAST_TILES: usize = 14;

/// Output channels of a task at least, where it does not have all.
const LEAST_COLUMNS: usize = 128;

/// Tasks that are worth a cost, so that threads end together.
const TASKS: usize = 8;

/// A convolution with 3x3 windows, steps and dilations of 1, one group, and input channels that are neighbours (`x_strides[1] == 1`), by
/// tiles of `m` x `m` outputs.
#[derive(Clone, Copy, Debug)]
pub struct Winograd {
    /// The geometry.
    pub conv: Conv,
    /// Outputs of a tile along each axis: 2 or 4.
    pub m: usize,
}

/// Tiles and output channels of a task.
struct Part {
    tiles: core::ops::Range<usize>,
    columns: core::ops::Range<usize>,
}

impl Winograd {
    /// Products of a tile.
    const fn products(&self) -> usize {
        (self.m + 2) * (self.m + 2)
    }
    /// Tiles of an image along height and width.
    const fn down_across(&self) -> (usize, usize) {
        (self.conv.out_dims[1].div_ceil(self.m), self.conv.out_dims[2].div_ceil(self.m))
    }
    /// Tiles of all images.
    const fn tiles(&self) -> usize {
        let (down, across) = self.down_across();
        self.conv.n * down * across
    }
    /// Floats from one row of the products' operands and results to the next.
    const fn pitch(&self) -> usize {
        a_pitch(if self.conv.c > self.conv.k { self.conv.c } else { self.conv.k })
    }
    /// Floats from one matrix to the next: stores to the same row of all of them go to different sets of the cache.
    const fn step(&self, tiles: usize) -> usize {
        ((tiles * self.pitch() / PANEL) | 1) * PANEL
    }
    /// Tiles of a block at most.
    const fn most_tiles(&self) -> usize {
        let most = BLOCK_FLOATS / ((self.products() + 1) * self.pitch());
        let most = if most < LEAST_TILES { LEAST_TILES } else { most };
        if most > self.tiles() { self.tiles() } else { most }
    }
    /// Blocks of tiles, and of output channels.
    const fn grid(&self) -> (usize, usize) {
        let most = self.most_tiles();
        let mut blocks = self.tiles().div_ceil(if most == 0 { 1 } else { most });
        // Smaller blocks read the weights more often, which costs nothing where those are still in the cache.
        let enough = if self.tiles() / LEAST_TILES < TASKS { self.tiles() / LEAST_TILES } else { TASKS };
        if self.packed_len() <= BLOCK_FLOATS && blocks < enough {
            blocks = enough;
        }
        // Every block of channels transforms its input again.
        let mut parts = 1;
        while blocks * parts < TASKS && self.conv.k >= parts * 2 * LEAST_COLUMNS {
            parts *= 2;
        }
        (blocks, parts)
    }
    /// Number of independent tasks.
    pub const fn tasks(&self) -> usize {
        if self.conv.k == 0 || self.tiles() == 0 {
            return 0;
        }
        let (blocks, parts) = self.grid();
        blocks * parts
    }
    /// Floats of scratch that a thread needs: zeros that stand for what lies around the input, and the matrices.
    pub const fn scratch_floats(&self) -> usize {
        self.pitch() + (self.products() + 1) * self.step(self.most_tiles())
    }
    /// Floats of the packed weights.
    pub const fn packed_len(&self) -> usize {
        self.products() * self.conv.k.next_multiple_of(PANEL) * self.conv.c
    }
    /// Transforms ONNX weights `[k][c][3][3]` and packs them to `[products][ceil(k / 16)][c][16]`.
    pub fn pack_weights(&self, weights: &[f32], out: &mut [f32]) {
        let (c, k, t) = (self.conv.c, self.conv.k, self.m + 2);
        assert_eq!(weights.len(), k * c * 9, "weights fill their shape; this is a bug");
        assert_eq!(out.len(), self.packed_len(), "packed weights fill their buffer; this is a bug");
        let g = points::taps(self.m);
        let matrix = k.next_multiple_of(PANEL) * c;
        out.fill(0.0);
        for (i, w) in weights.as_chunks::<9>().0.iter().enumerate() {
            let (column, channel) = (i / c, i % c);
            let at = (column / PANEL * c + channel) * PANEL + column % PANEL;
            for (p, along) in g.iter().enumerate() {
                let row: [f64; 3] = core::array::from_fn(|x| (0..3).map(|y| along[y] * w[y * 3 + x] as f64).sum());
                for (q, across) in g.iter().enumerate() {
                    out[(p * t + q) * matrix + at] = (0..3).map(|x| across[x] * row[x]).sum::<f64>() as f32;
                }
            }
        }
    }
    /// The tiles and channels of a task. Tasks of one block of channels are neighbours, and share its weights in the last-level cache.
    fn part(&self, task: usize) -> Part {
        let (blocks, parts) = self.grid();
        let panels = self.conv.k.div_ceil(PANEL);
        let even = |n: usize, of: usize, i: usize| n * i / of..n * (i + 1) / of;
        let columns = even(panels, parts, task / blocks);
        Part { tiles: even(self.tiles(), blocks, task % blocks), columns: columns.start * PANEL..self.conv.k.min(columns.end * PANEL) }
    }
    /// Runs one task. Blocks of the epilogue are stretches of output rows, with rows and columns as [`Conv::run_task`] has them.
    ///
    /// # Safety
    /// As [`Conv::run_task`], with weights of this kernel.
    pub unsafe fn run_task(
        &self,
        isa: Isa,
        task: usize,
        x: *const f32,
        weights: *const f32,
        bias: *const f32,
        out: *mut f32,
        scratch: *mut f32,
        finish: Finish,
        epilogue: Epilogue,
    ) {
        let c = &self.conv;
        let Part { tiles, columns } = self.part(task);
        let (count, pitch) = (tiles.len(), self.pitch());
        let step = self.step(count);
        let col = columns.start;
        let wide = columns.len();
        // SAFETY: tiles and columns are inside of what the caller vouches for, and the scratch holds zeros and the matrices. Each product
        // is written in the place of the operand before it, which is no longer needed; before the first one is room for one.
        unsafe {
            core::ptr::write_bytes(scratch, 0, pitch);
            let results = scratch.add(pitch);
            let operands = results.add(step);
            let work = transform::Work { conv: c, m: self.m, tiles: tiles.clone(), pitch, step };
            transform::input(isa, &work, x, scratch, operands);
            for p in 0..self.products() {
                let tile = Tile {
                    a: operands.add(p * step),
                    a_row: pitch,
                    taps: [1, 1, 1],
                    tap: [0, 0, 0],
                    run: c.c,
                    b: weights.add((p * c.k.next_multiple_of(PANEL) + col) * c.c),
                    panel: 0,
                    out: results.add(p * step),
                    pitch,
                    cols: 0,
                    bias: core::ptr::null(),
                    finish: Finish::NONE,
                };
                let cols = wide.next_multiple_of(PANEL);
                sweep(isa, &Sweep { rows: count, cols, k: c.c, ..Sweep::of(tile) });
            }
            let bias = if bias.is_null() { bias } else { bias.add(col) };
            // Whole rows of tiles, or what the task has of them, while their pixels are in the cache.
            let (down, across) = self.down_across();
            let mut first = tiles.start;
            while first < tiles.end {
                let last = tiles.end.min((first / across + 1) * across);
                let (image, i, j) = (first / across / down, first / across % down * self.m, first % across * self.m);
                let [_, oh, ow] = c.out_dims;
                let at = image * c.out_batch + (i * ow + j) * c.out_pitch + col;
                let (rows, pixels) = (self.m.min(oh - i), ow.min((last - first) * self.m + j) - j);
                let finish = finish.at((image * oh + i) * ow + j, col);
                let to = transform::Pixels { out: out.add(at), rows, pixels, cols: wide, finish };
                transform::output(isa, &work, results.add((first - tiles.start) * pitch), bias, &to);
                if let Some(f) = epilogue {
                    for r in 0..rows {
                        let out = out.add(at + r * ow * c.out_pitch);
                        f(Block { out, pitch: c.out_pitch, row: (image * oh + i + r) * ow + j, rows: pixels, col, cols: wide });
                    }
                }
                first = last;
            }
        }
    }
}

#[cfg(test)]
mod tests;
