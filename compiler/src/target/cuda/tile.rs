//! Tiles of products: the ones that templates can be instantiated with, and an analytic choice among them.

use super::Element;
use super::form::{Words, sides};
use std::fmt;

/// How operands come to the shared memory of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Supply {
    /// All threads bring stages, and multiply them.
    Staged,
    /// The tensor memory accelerator brings them, asked by a warp that does nothing else (sm_90a); other devices take a staged tile.
    Streamed,
}

/// The supplies that are chosen from.
const SUPPLIES: &[Supply] = &[Supply::Staged, Supply::Streamed];

/// The part of a product that a block computes, and how it goes about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tile {
    /// How operands come to it.
    pub supply: Supply,
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

impl Supply {
    /// The first word of its tiles in files.
    fn word(self) -> &'static str {
        match self {
            Supply::Staged => "tile",
            Supply::Streamed => "stream",
        }
    }
    /// The supply of that word.
    pub(super) fn of(word: &str) -> Option<Supply> {
        [Supply::Staged, Supply::Streamed].into_iter().find(|s| s.word() == word)
    }
}

/// A product that tiles compute, as far as the choice of one depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Product {
    /// What is multiplied.
    pub element: Element,
    /// Rows of the result; where only run time knows them, a likely number.
    pub m: usize,
    /// Columns, likewise.
    pub n: usize,
    /// Products of a sum, likewise.
    pub depth: usize,
    /// Whether blocks may share the depth.
    pub split: bool,
    /// Whether elements are gathered, or stored, one by one, which leaves fewer registers for sums.
    pub gathers: bool,
    /// Whether its operands can be streamed.
    pub streams: bool,
}

/// Multiprocessors that the choice counts on: an H100 or H200 has 132, an A100 108.
pub const PROCESSORS: usize = 132;
/// Sums of a block at most whose loader gathers, or whose results are stored one by one: addresses take registers.
const GATHERED: usize = 64 * 64;
/// Splits of the depth at most.
const SPLITS: usize = 16;
/// Sums of a thread at most, with what else takes registers: by matrix units, and by multiply-adds.
const SUMS: [usize; 2] = [64, 32];
/// Threads of a block at most, so that each has registers for its sums.
const THREADS: usize = 512;
/// Shared memory of a block at most: what sm_80 has, and for streamed tiles sm_90.
const SHARED: usize = 163 << 10;
const STREAMED: usize = 227 << 10;
/// Stages at most.
const STAGES: usize = 8;
/// Counters of tiles whose depth blocks share.
pub const COUNTERS: usize = 1 << 14;

impl Tile {
    /// Threads of a block.
    pub fn threads(&self, e: Element) -> usize {
        // Four more warps of a streamed tile, one of which asks for stages.
        self.multiplying(e) + if self.supply == Supply::Streamed { 128 } else { 0 }
    }
    /// Threads that multiply.
    fn multiplying(&self, e: Element) -> usize {
        match e.by_scalars() {
            true => 256,
            false => self.rows / self.warp[0] * (self.cols / self.warp[1]) * 32,
        }
    }
    /// Steps of the depth.
    fn steps(&self, p: &Product) -> usize {
        p.depth.div_ceil(self.chunks * p.element.chunk()).max(1)
    }
    /// Whether templates can be instantiated with it for a product, and a GPU can run that.
    ///
    /// # Errors
    /// Why not.
    pub fn legal(&self, p: &Product) -> Result<(), String> {
        let Tile { rows, cols, chunks, warp: [wm, wn], stages, splits, .. } = *self;
        let scalars = p.element.by_scalars();
        let no = |what: String| Err(what);
        if !(1..=1024).contains(&rows) || !(1..=1024).contains(&cols) || rows % 16 != 0 || cols % 16 != 0 {
            return no(format!("a block of {rows}x{cols} is none of multiples of 16, 1024 at most"));
        }
        if chunks != 4 && chunks != 8 {
            return no(format!("a stage has 4 or 8 chunks, not {chunks}"));
        }
        if scalars && self.warp != [rows, cols] {
            return no(format!("where multiply-adds compute f32, `warp` is the block's {rows}x{cols}"));
        }
        if wm == 0 || wn == 0 || wm % 16 != 0 || wn % 16 != 0 || rows % wm != 0 || cols % wn != 0 {
            return no(format!("warps of {wm}x{wn} do not tile a block of {rows}x{cols} by multiples of 16"));
        }
        let streamed = self.supply == Supply::Streamed;
        if streamed {
            self.streamable(p)?;
        }
        let threads = self.multiplying(p.element);
        if threads > THREADS {
            return no(format!("a block has {threads} threads, {THREADS} at most have registers"));
        }
        let (sums, most) = (rows * cols / threads, SUMS[usize::from(scalars)]);
        if sums > most && !streamed {
            return no(format!("a thread has {sums} sums, and registers for {most}"));
        }
        if p.gathers && rows * cols > GATHERED {
            return no(format!("a block of {rows}x{cols} whose elements are found one by one has no registers: {GATHERED} sums at most"));
        }
        if !(2..=STAGES).contains(&stages) {
            return no(format!("{stages} stages, where 2 to {STAGES} can be"));
        }
        let room = if streamed { STREAMED } else { SHARED };
        if self.shared() > room {
            return no(format!("a block takes {} bytes of shared memory, {room} are there", self.shared()));
        }
        let most = if p.split { SPLITS.min(self.steps(p)) } else { 1 };
        if !(1..=most).contains(&splits) {
            return no(format!("{splits} splits, where 1 to {most} can be"));
        }
        let [x, y] = self.grid(p.m, p.n);
        if splits > 1 && x * y > COUNTERS {
            return no(format!("{} blocks share their depths, {COUNTERS} can", x * y));
        }
        Ok(())
    }
    /// Whether a streamed tile is as its template asks for: groups of four warps with 64 rows, or twice as many, to each.
    fn streamable(&self, p: &Product) -> Result<(), String> {
        let multiply = self.multiplying(p.element);
        if !p.streams {
            return Err("operands of this product cannot be streamed: `tile`".into());
        }
        if self.chunks != 8 || self.stages < 4 {
            return Err("a stream has stages of 8 chunks, 4 of them at least".into());
        }
        if !multiply.is_multiple_of(128) || multiply > 256 || !self.rows.is_multiple_of((multiply / 2).max(64)) || self.rows > multiply {
            return Err(format!(
                "{} rows for {multiply} threads that multiply, where a stream has 64 or 128 for as many or twice as many",
                self.rows
            ));
        }
        if ![32, 64, 128, 256].contains(&self.cols) {
            return Err(format!("a stream has 32, 64, 128 or 256 columns, not {}", self.cols));
        }
        Ok(())
    }
    /// Reads what [`fmt::Display`] writes, less its first word.
    pub(super) fn read(supply: Supply, words: &mut Words<'_>) -> Result<Tile, String> {
        let [rows, cols] = sides("block", words.next("the block, such as 64x32")?)?;
        let chunks = words.number("chunks")?;
        let warp = sides("warp", words.value("warp")?)?;
        Ok(Tile { supply, rows, cols, chunks, warp, stages: words.number("stages")?, splits: words.number("splits")? })
    }
    /// Bytes of shared memory of a block.
    pub fn shared(&self) -> usize {
        // Two barriers of 8 bytes for each stage.
        let barriers = if self.supply == Supply::Streamed { 16 } else { 0 };
        self.stages * ((self.rows + self.cols) * self.chunks * 16 + barriers)
    }
    /// Blocks along rows and columns.
    pub fn grid(&self, m: usize, n: usize) -> [usize; 2] {
        [m.div_ceil(self.rows), n.div_ceil(self.cols)]
    }
}

impl fmt::Display for Tile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tile { supply, rows, cols, chunks, warp: [wm, wn], stages, splits } = self;
        write!(f, "{} {rows}x{cols} chunks={chunks} warp={wm}x{wn} stages={stages} splits={splits}", supply.word())
    }
}

/// Chunks of a step of the tiles that multiply the same: those of matrix units, and of multiply-adds.
const fn chunks(scalars: bool) -> usize {
    if scalars { 4 } else { 8 }
}

/// The tiles to choose from.
fn candidates(p: &Product) -> Vec<Tile> {
    let mut out = staged(p.element);
    if p.streams && SUPPLIES.contains(&Supply::Streamed) {
        out.extend(streamed());
    }
    out
}

/// The staged ones.
fn staged(e: Element) -> Vec<Tile> {
    let tile = |rows, cols, chunks, warp, stages| Tile { supply: Supply::Staged, rows, cols, chunks, warp, stages, splits: 1 };
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
    let tile = |rows, cols, warp, stages| Tile { supply: Supply::Streamed, rows, cols, chunks: 8, warp, stages, splits: 1 };
    vec![
        tile(128, 256, [64, 64], 4),
        tile(128, 128, [64, 32], 5),
        tile(128, 64, [64, 32], 4),
        tile(64, 128, [32, 64], 4),
        tile(64, 64, [32, 32], 5),
        tile(64, 32, [32, 16], 6),
    ]
}

/// What a product takes by an estimate: waves of blocks, each as long as its share of the depth takes, and what splitting costs.
fn cost(p: &Product, t: &Tile) -> f64 {
    let [x, y] = t.grid(p.m, p.n);
    let waves = (x * y * t.splits).div_ceil(PROCESSORS) as f64;
    let share = t.steps(p).div_ceil(t.splits) as f64;
    // A staged step waits for its operands and its products, a streamed one for the later of both; the tail of a block, barriers that it makes,
    // and the meeting of splits, are worth some steps.
    let (products, operands) = ((t.rows * t.cols) as f64 / 2048.0, (t.rows + t.cols) as f64 / 32.0);
    let (step, begin) = match t.supply {
        Supply::Staged => (products + operands + 2.0, 0.0),
        Supply::Streamed => (products.max(operands) + 1.0, 4.0),
    };
    let end = 24.0 + begin + if t.splits > 1 { 40.0 + 4.0 * t.splits as f64 } else { 0.0 };
    // Steps of half the depth do half the work.
    waves * (share * step * t.chunks as f64 / chunks(p.element.by_scalars()) as f64 + end)
}

/// The splits of a tile that an estimate finds to take least, with what it takes then.
fn split(p: &Product, t: Tile) -> (f64, Tile) {
    let each = (1..=SPLITS).map(|splits| Tile { splits, ..t }).filter(|t| t.legal(p).is_ok()).map(|t| (cost(p, &t), t));
    each.reduce(|best, x| if x.0 < best.0 { x } else { best }).unwrap_or((f64::INFINITY, t))
}

/// The tile of a product that an estimate finds to take least.
pub(super) fn rows(p: &Product) -> Tile {
    let all = candidates(p).into_iter().map(|t| split(p, t));
    all.reduce(|best, x| if x.0 < best.0 { x } else { best }).map_or(candidates(p)[0], |(_, t)| t)
}

/// The tiles that are worth measuring, the estimate's choice first: each candidate, then with other stages, splits and steps.
pub(super) fn variants(p: &Product) -> Vec<Tile> {
    let mut scored: Vec<(f64, Tile)> = Vec::new();
    for t in candidates(p) {
        let (_, t) = split(p, t);
        let half = Tile { chunks: t.chunks / 2, stages: t.stages + 2, ..t };
        let more = [Tile { stages: t.stages + 1, ..t }, Tile { stages: t.stages - 1, ..t }, half];
        let splits = [Tile { splits: t.splits * 2, ..t }, Tile { splits: t.splits / 2, ..t }];
        for (i, v) in [t].into_iter().chain(more).chain(splits).enumerate().filter(|(_, v)| v.legal(p).is_ok()) {
            // A kind of tile is worth more than another form of one that is there.
            scored.push((cost(p, &v) * (1.0 + 0.15 * i as f64), v));
        }
    }
    scored.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut out = vec![rows(p)];
    scored.into_iter().for_each(|(_, t)| {
        if !out.contains(&t) {
            out.push(t);
        }
    });
    out
}

#[cfg(test)]
mod tests {
    use super::super::Precision;
    use super::*;

    #[test]
    fn tiles_fit_a_block_and_small_products_are_split() {
        let floats = [Precision::F32, Precision::Tf32, Precision::F16, Precision::Bf16].map(Element::from);
        for e in floats.into_iter().chain([Element::Byte]) {
            for t in staged(e) {
                assert!(t.threads(e) <= 1024 && t.threads(e) % 32 == 0 && t.shared() <= 163 << 10, "{t:?}");
                assert!(t.warp[0] % 16 == 0 && t.warp[1] % 16 == 0 || e.by_scalars());
            }
        }
        for streams in [false, true] {
            let of = |m, n, depth, split, gathers| Product { element: Precision::F16.into(), m, n, depth, split, gathers, streams };
            let large = rows(&of(1 << 14, 1 << 12, 1 << 10, true, false));
            assert_eq!((large.splits, large.supply), (1, if streams { Supply::Streamed } else { Supply::Staged }));
            assert!(rows(&of(49, 512, 4608, true, false)).splits > 1);
            assert_eq!(rows(&of(49, 512, 4608, false, true)).splits, 1);
        }
        let p = Product { element: Precision::F16.into(), m: 1000, n: 1000, depth: 1000, split: false, gathers: false, streams: true };
        assert!(streamed().iter().all(|t| t.legal(&p) == Ok(())));
    }

    #[test]
    fn variants_are_legal_and_begin_with_the_estimate() {
        let floats = [Precision::F32, Precision::Tf32, Precision::F16, Precision::Bf16].map(Element::from);
        for element in floats.into_iter().chain([Element::Byte]) {
            for (m, n, depth) in [(1, 8, 3), (49, 512, 4608), (12544, 64, 147), (1 << 14, 1 << 12, 1 << 10)] {
                for (split, gathers) in [(true, false), (false, true)] {
                    let p = Product { element, m, n, depth, split, gathers, streams: element == Precision::F16.into() };
                    let all = variants(&p);
                    assert_eq!(all[0], rows(&p));
                    assert!(all.len() >= 6 && all.iter().all(|t| t.legal(&p).is_ok()), "{p:?} {all:?}");
                }
            }
        }
    }

    #[test]
    fn what_no_block_can_be_is_refused_with_the_reason() {
        let p = Product { element: Precision::F16.into(), m: 100, n: 64, depth: 256, split: true, gathers: false, streams: false };
        let good = Tile { supply: Supply::Staged, rows: 64, cols: 64, chunks: 8, warp: [32, 32], stages: 4, splits: 2 };
        assert_eq!(good.legal(&p), Ok(()));
        let why = |t: Tile, p: &Product| t.legal(p).unwrap_err();
        assert!(why(Tile { rows: 60, ..good }, &p).contains("multiples of 16"));
        assert!(why(Tile { rows: 0, ..good }, &p).contains("multiples of 16"));
        assert!(why(Tile { chunks: 6, ..good }, &p).contains("4 or 8"));
        assert!(why(Tile { warp: [48, 32], ..good }, &p).contains("do not tile"));
        assert!(why(Tile { warp: [64, 64], ..good }, &p).contains("128 sums"));
        assert!(why(Tile { rows: 512, cols: 512, ..good }, &p).contains("threads"));
        assert!(why(Tile { stages: 1, ..good }, &p).contains("stages"));
        assert!(why(Tile { rows: 128, cols: 128, warp: [64, 32], stages: 6, ..good }, &p).contains("shared memory"));
        assert!(why(Tile { splits: 5, ..good }, &p).contains("1 to 4"));
        assert!(why(good, &Product { split: false, ..p }).contains("1 to 1"));
        let gathers = Product { gathers: true, ..p };
        assert!(why(Tile { rows: 128, warp: [64, 32], ..good }, &gathers).contains("one by one"));
        let scalars = Product { element: Precision::F32.into(), ..p };
        assert!(why(good, &scalars).contains("`warp` is the block's"));
        let (stream, streams) = (Tile { supply: Supply::Streamed, ..good }, Product { streams: true, ..p });
        assert_eq!(stream.legal(&streams), Ok(()));
        assert!(why(stream, &p).contains("cannot be streamed"));
        assert!(why(Tile { stages: 3, ..stream }, &streams).contains("4 of them"));
        assert!(why(Tile { rows: 32, ..stream }, &streams).contains("64 or 128"));
        assert!(why(Tile { cols: 16, warp: [16, 16], ..stream }, &streams).contains("columns"));
    }
}
