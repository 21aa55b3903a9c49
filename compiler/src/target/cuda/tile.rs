//! Tiles of products: the ones that templates can be instantiated with, and an analytic choice among them.

use super::Element;

/// How operands come to the shared memory of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Form {
    /// All threads bring stages, and multiply them.
    Staged,
    /// The tensor memory accelerator brings them, asked by a warp that does nothing else (sm_90a); other devices take a staged tile.
    Streamed,
}

/// The forms that are chosen from.
const FORMS: &[Form] = &[Form::Staged, Form::Streamed];

/// The part of a product that a block computes, and how it goes about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tile {
    /// How operands come to it.
    pub form: Form,
    /// Rows of a block.
    pub rows: usize,
    /// Columns of a block.
    pub cols: usize,
    /// Chunks of 16 bytes of the depth in a stage.
    pub chunks: usize,
    /// Rows and columns of a warp; the block's where scalars multiply.
    pub warp: [usize; 2],
    /// Stages under way in shared memory.
    pub stages: usize,
    /// Blocks that share the depth of a tile.
    pub splits: usize,
}

/// Multiprocessors that the choice counts on: an H100 or H200 has 132, an A100 108.
pub const PROCESSORS: usize = 132;
/// Sums of a block at most whose loader gathers, or whose results are stored one by one: addresses take registers.
const GATHERED: usize = 64 * 64;
/// Splits of the depth at most.
const SPLITS: usize = 16;

impl Tile {
    /// Threads of a block.
    pub fn threads(&self, e: Element) -> usize {
        let multiply = match e.by_scalars() {
            true => 256,
            false => self.rows / self.warp[0] * (self.cols / self.warp[1]) * 32,
        };
        // Four warps of which one asks for stages.
        multiply + if self.form == Form::Streamed { 128 } else { 0 }
    }
    /// Bytes of shared memory of a block.
    pub fn shared(&self) -> usize {
        // Two barriers of 8 bytes for each stage.
        let barriers = if self.form == Form::Streamed { 16 } else { 0 };
        self.stages * ((self.rows + self.cols) * self.chunks * 16 + barriers)
    }
    /// Blocks along rows and columns.
    pub fn grid(&self, m: usize, n: usize) -> [usize; 2] {
        [m.div_ceil(self.rows), n.div_ceil(self.cols)]
    }
}

/// The tiles to choose from.
fn candidates(e: Element) -> Vec<Tile> {
    let tile = |rows, cols, chunks, warp, stages| Tile { form: Form::Staged, rows, cols, chunks, warp, stages, splits: 1 };
    match e.by_scalars() {
        true => {
            vec![tile(128, 64, 4, [128, 64], 3), tile(64, 64, 4, [64, 64], 3), tile(32, 64, 4, [32, 64], 3), tile(32, 32, 4, [32, 32], 3)]
        }
        false => vec![
            // With four stages the units of four warps (sm_90a) keep one at work while two are on their way.
            tile(128, 128, 8, [64, 32], 4),
            tile(128, 64, 8, [64, 32], 3),
            tile(64, 128, 8, [32, 64], 4),
            tile(64, 64, 8, [32, 32], 4),
            tile(64, 32, 8, [32, 16], 4),
            tile(32, 64, 8, [16, 32], 4),
            tile(32, 32, 8, [16, 16], 4),
        ],
    }
}

/// The streamed ones, of elements of 16 bits.
fn streamed() -> Vec<Tile> {
    let tile = |rows, cols, warp, stages| Tile { form: Form::Streamed, rows, cols, chunks: 8, warp, stages, splits: 1 };
    vec![
        tile(128, 256, [64, 64], 4),
        tile(128, 128, [64, 32], 5),
        tile(128, 64, [64, 32], 4),
        tile(64, 128, [32, 64], 4),
        tile(64, 64, [32, 32], 5),
        tile(64, 32, [32, 16], 6),
    ]
}

/// The tile of a product of `m` rows, `n` columns and `depth`, by an estimate of its time: waves of blocks, each as long as its share of
/// the depth takes, and what splitting costs. One that `gathers` elements, or stores them, one by one leaves fewer registers for sums; one
/// that `streams` may have the form for that.
pub fn rows(e: Element, m: usize, n: usize, depth: usize, split: bool, gathers: bool, streams: bool) -> Tile {
    let steps = |t: &Tile| depth.div_ceil(t.chunks * e.chunk()).max(1);
    let mut best: Option<(f64, Tile)> = None;
    let staged = candidates(e).into_iter().filter(|t| !gathers || t.rows * t.cols <= GATHERED);
    let more = if streams && FORMS.contains(&Form::Streamed) { streamed() } else { Vec::new() };
    for t in staged.chain(more) {
        let [x, y] = t.grid(m, n);
        let most = if split { SPLITS.min(steps(&t)) } else { 1 };
        for splits in 1..=most {
            let blocks = x * y * splits;
            let waves = blocks.div_ceil(PROCESSORS) as f64;
            let share = steps(&t).div_ceil(splits) as f64;
            // A staged step waits for its operands and its products, a streamed one for the later of both; the tail of a block, barriers that
            // it makes, and the meeting of splits, are worth some steps.
            let (products, operands) = ((t.rows * t.cols) as f64 / 2048.0, (t.rows + t.cols) as f64 / 32.0);
            let (step, begin) = match t.form {
                Form::Staged => (products + operands + 2.0, 0.0),
                Form::Streamed => (products.max(operands) + 1.0, 4.0),
            };
            let end = 24.0 + begin + if splits > 1 { 40.0 + 4.0 * splits as f64 } else { 0.0 };
            let cost = waves * (share * step + end);
            if best.is_none_or(|(c, _)| cost < c) {
                best = Some((cost, Tile { splits, ..t }));
            }
        }
    }
    best.map_or(candidates(e)[0], |(_, t)| t)
}

#[cfg(test)]
mod tests {
    use super::super::Precision;
    use super::*;

    #[test]
    fn tiles_fit_a_block_and_small_products_are_split() {
        let floats = [Precision::F32, Precision::Tf32, Precision::F16, Precision::Bf16].map(Element::from);
        for e in floats.into_iter().chain([Element::Byte]) {
            for t in candidates(e) {
                assert!(t.threads(e) <= 1024 && t.threads(e) % 32 == 0 && t.shared() <= 163 << 10, "{t:?}");
                assert!(t.warp[0] % 16 == 0 && t.warp[1] % 16 == 0 || e.by_scalars());
            }
        }
        for t in streamed() {
            // As the template asks for: groups of four warps with 64 rows or twice as many, and registers for three groups.
            let multiply = t.threads(Precision::F16.into()) - 128;
            assert!(t.chunks == 8 && multiply % 128 == 0 && t.rows % (multiply / 2) == 0 && multiply <= 256, "{t:?}");
            assert!([32, 64, 128, 256].contains(&t.cols) && t.stages >= 4 && t.shared() <= 227 << 10, "{t:?}");
        }
        let f16 = Precision::F16.into();
        for streams in [false, true] {
            assert_eq!(rows(f16, 1 << 14, 1 << 12, 1 << 10, true, false, streams).splits, 1);
            assert!(rows(f16, 49, 512, 4608, true, false, streams).splits > 1);
            assert_eq!(rows(f16, 49, 512, 4608, false, true, streams).splits, 1);
        }
        assert_eq!(rows(f16, 1 << 14, 1 << 12, 1 << 10, true, false, false).form, Form::Staged);
        assert_eq!(rows(f16, 1 << 14, 1 << 12, 1 << 10, true, false, true).form, Form::Streamed);
    }
}
