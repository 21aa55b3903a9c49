//! Tiles of products: the ones that templates can be instantiated with, and an analytic choice among them.

use super::Element;

/// The part of a product that a block computes, and how it goes about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tile {
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
        match e.by_scalars() {
            true => 256,
            false => self.rows / self.warp[0] * (self.cols / self.warp[1]) * 32,
        }
    }
    /// Bytes of shared memory of a block.
    pub fn shared(&self) -> usize {
        self.stages * (self.rows + self.cols) * self.chunks * 16
    }
    /// Blocks along rows and columns.
    pub fn grid(&self, m: usize, n: usize) -> [usize; 2] {
        [m.div_ceil(self.rows), n.div_ceil(self.cols)]
    }
}

/// The tiles to choose from.
fn candidates(e: Element) -> Vec<Tile> {
    let tile = |rows, cols, chunks, warp, stages| Tile { rows, cols, chunks, warp, stages, splits: 1 };
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

/// The tile of a product of `m` rows, `n` columns and `depth`, by an estimate of its time: waves of blocks, each as long as its share of
/// the depth takes, and what splitting costs. One that `gathers` elements, or stores them, one by one leaves fewer registers for sums.
pub fn rows(e: Element, m: usize, n: usize, depth: usize, split: bool, gathers: bool) -> Tile {
    let steps = |t: &Tile| depth.div_ceil(t.chunks * e.chunk()).max(1);
    let mut best: Option<(f64, Tile)> = None;
    for t in candidates(e).into_iter().filter(|t| !gathers || t.rows * t.cols <= GATHERED) {
        let [x, y] = t.grid(m, n);
        let most = if split { SPLITS.min(steps(&t)) } else { 1 };
        for splits in 1..=most {
            let blocks = x * y * splits;
            let waves = blocks.div_ceil(PROCESSORS) as f64;
            let share = steps(&t).div_ceil(splits) as f64;
            // A step waits for its operands and its products; the tail of a block, and the meeting of splits, are worth some steps.
            let step = (t.rows * t.cols) as f64 / 2048.0 + (t.rows + t.cols) as f64 / 32.0 + 2.0;
            let end = 24.0 + if splits > 1 { 40.0 + 4.0 * splits as f64 } else { 0.0 };
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
        assert_eq!(rows(Precision::F16.into(), 1 << 14, 1 << 12, 1 << 10, true, false).splits, 1);
        assert!(rows(Precision::F16.into(), 49, 512, 4608, true, false).splits > 1);
        assert_eq!(rows(Precision::F16.into(), 49, 512, 4608, false, true).splits, 1);
    }
}
