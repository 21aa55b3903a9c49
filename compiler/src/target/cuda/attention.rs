//! How attention is computed: by matrix units, by lanes that read keys as they lie where queries are few, or a query a warp.

use super::Precision;
use super::form::{Words, sides};
use super::tile::{COUNTERS, PROCESSORS};
use std::fmt;

/// What the choice depends on. Extents that only run time knows are stated as likely ones.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    /// Matrices of the batch, queries and keys of each.
    pub matrices: usize,
    /// Queries of a matrix.
    pub queries: usize,
    /// Keys of a matrix.
    pub keys: usize,
    /// Columns of queries and keys.
    pub depth: usize,
    /// Columns of values.
    pub width: usize,
    /// Whether matrices and queries are known when the model is compiled; keys may be open.
    pub closed: bool,
    /// Bytes of an element of keys and of values, where their rows are whole chunks of 16 bytes and begin at multiples of them.
    pub chunks: Option<[usize; 2]>,
}

/// The form of an attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attention {
    /// A warp takes a query; for every width.
    Lanes,
    /// Lanes read keys and values as they lie (`attention/few.cuh`).
    Few {
        /// Queries that the kernel has room for.
        queries: usize,
        /// Keys that a group of lanes reads at once.
        ahead: usize,
        /// Groups of lanes in a block.
        groups: usize,
        /// Blocks that share the keys of a matrix at most.
        splits: usize,
    },
    /// Matrix units (`attention/tiles.cuh`).
    Tiles {
        /// Warps along queries, and along the keys of a tile.
        warps: [usize; 2],
        /// Sixteens of queries of a warp.
        sixteens: usize,
        /// Keys of a warp in a tile.
        keys: usize,
        /// Blocks that share the keys of a matrix.
        splits: usize,
    },
}

/// Queries that lanes take at most.
const FEW: usize = 4;
/// Threads of a block of lanes.
pub(super) const THREADS: usize = 128;
/// Keys of a block at least, where blocks share them.
const KEYS: usize = 64;
/// Blocks that share the keys of a matrix at most.
const SPLITS: usize = 2 * PROCESSORS;
/// Shared memory of a block at most, of the 163 KiB that sm_80 has.
const SHARED: usize = 160 << 10;

impl Attention {
    /// Floats of the line in which parts of the keys hand a query on, see `attention/parts.cuh`.
    pub fn line(width: usize) -> usize {
        width + 8
    }
    /// Queries of a block.
    pub fn rows(&self) -> usize {
        match self {
            Attention::Lanes => 8,
            Attention::Few { queries, .. } => *queries,
            Attention::Tiles { warps, sixteens, .. } => warps[0] * sixteens * 16,
        }
    }
    /// Threads of a block.
    pub fn threads(&self) -> usize {
        match self {
            Attention::Tiles { warps: [q, k], .. } => q * k * 32,
            _ => THREADS,
        }
    }
    /// Blocks that share the keys of a matrix at most.
    pub fn splits(&self) -> usize {
        match self {
            Attention::Lanes => 1,
            Attention::Few { splits, .. } | Attention::Tiles { splits, .. } => *splits,
        }
    }
    /// The same with other splits, where it can have some.
    fn with_splits(self, splits: usize) -> Attention {
        match self {
            Attention::Lanes => self,
            Attention::Few { queries, ahead, groups, .. } => Attention::Few { queries, ahead, groups, splits },
            Attention::Tiles { warps, sixteens, keys, .. } => Attention::Tiles { warps, sixteens, keys, splits },
        }
    }
    /// Whether it can compute an attention.
    ///
    /// # Errors
    /// Why not, with the forms that can.
    pub fn legal(&self, p: Precision, h: &Heads) -> Result<(), String> {
        let splits = self.splits();
        let all: Vec<Attention> = few(h).into_iter().chain(tiles(p, h)).chain([Attention::Lanes]).map(|a| a.with_splits(splits)).collect();
        if !all.contains(self) {
            let all: Vec<String> = all.iter().map(Attention::to_string).collect();
            return Err(format!("it can have {}", all.join(", or ")));
        }
        let most = if h.closed { SPLITS.min(h.keys.max(1)) } else { 1 };
        if !(1..=most).contains(&splits) {
            return Err(format!("{splits} splits, where 1 to {most} can be"));
        }
        let blocks = h.matrices * h.queries.div_ceil(self.rows());
        if splits > 1 && blocks > COUNTERS {
            return Err(format!("{blocks} blocks share their keys, {COUNTERS} can"));
        }
        Ok(())
    }
    /// Reads what [`fmt::Display`] writes, less its first word.
    pub(super) fn read(kind: &str, words: &mut Words<'_>) -> Result<Attention, String> {
        match kind {
            "lanes" => Ok(Attention::Lanes),
            "few" => {
                let [queries, ahead, groups] = [words.number("queries")?, words.number("ahead")?, words.number("groups")?];
                Ok(Attention::Few { queries, ahead, groups, splits: words.number("splits")? })
            }
            "tiles" => {
                let warps = sides("warps", words.value("warps")?)?;
                let [sixteens, keys] = [words.number("sixteens")?, words.number("keys")?];
                Ok(Attention::Tiles { warps, sixteens, keys, splits: words.number("splits")? })
            }
            other => Err(format!("{other:?} is no form; there are tile, lanes, few and tiles")),
        }
    }
    /// Bytes of shared memory of a block, for products whose elements have as many bytes.
    pub fn shared(&self, depth: usize, width: usize, bytes: usize) -> usize {
        let floats = size_of::<f32>();
        let line = Attention::line(width);
        match *self {
            Attention::Lanes => (32 * (depth + 1) + 32 * width + THREADS / 32 * 2 * (depth + 32)) * floats,
            Attention::Few { queries, groups, .. } => groups * queries * line * floats,
            Attention::Tiles { warps: [_, parts], keys, .. } => {
                let per = 16 / bytes;
                let pitch = |chunks: usize| (chunks | 1) * 16;
                let (q, v) = (pitch(depth.next_multiple_of(2 * per) / per), pitch(columns(width) / per));
                let tiles = self.rows() * q + 2 * parts * keys * (q + v);
                tiles.max(parts * self.rows() * line * floats)
            }
        }
    }
}

/// Columns of values with what pads them to the tiles that are multiplied together (`columns_together` in `attention/tiles.cuh`).
fn columns(width: usize) -> usize {
    let all = width / 8;
    [2, 4, 6, 8].into_iter().map(|n| all.next_multiple_of(n)).min().unwrap_or(all) * 8
}

/// The form of lanes that read keys as they lie, where few queries meet them.
fn few(h: &Heads) -> Option<Attention> {
    let (Some([k, v]), true, 1..=FEW) = (h.chunks, h.closed, h.queries) else { return None };
    let queries = h.queries.next_power_of_two();
    let widest = (h.depth * k / 16).max(h.width * v / 16);
    let lanes = widest.next_power_of_two().min(32);
    // Two blocks for each processor, as long as each has keys to read.
    let splits = (2 * PROCESSORS).div_ceil(h.matrices.max(1)).min(h.keys.div_ceil(KEYS)).max(1);
    let ahead = (4 / queries).max(1).min(if widest > 32 { 2 } else { 4 });
    Some(Attention::Few { queries, ahead, groups: THREADS / lanes, splits })
}

/// The forms of matrix units, from the largest block to the smallest.
fn tiles(p: Precision, h: &Heads) -> Vec<Attention> {
    if p == Precision::F32 || !h.depth.is_multiple_of(8) || !h.width.is_multiple_of(8) {
        return Vec::new();
    }
    // Sums and scores of a warp lie in registers: the wider the heads, the fewer keys at once.
    let wide = h.depth.max(h.width) * p.bytes() / 2;
    let keys = match wide {
        0..=128 => 64,
        129..=192 => 32,
        _ => 16,
    };
    let tiles = |q: usize, k: usize, sixteens: usize, keys: usize| Attention::Tiles { warps: [q, k], sixteens, keys, splits: 1 };
    let mut out = Vec::new();
    if wide <= 64 {
        out.push(tiles(4, 1, 2, keys));
    }
    out.extend([tiles(4, 1, 1, keys), tiles(2, 2, 1, keys), tiles(1, 4, 1, (keys / 2).max(16)), tiles(1, 1, 1, 16)]);
    out.retain(|t| t.shared(h.depth, h.width, p.bytes()) <= SHARED);
    out
}

/// The form of an attention in a precision.
pub(super) fn choose(p: Precision, h: &Heads) -> Attention {
    if let Some(few) = few(h) {
        return few;
    }
    let candidates = tiles(p, h);
    let blocks = |t: &Attention| h.matrices * h.queries.div_ceil(t.rows());
    // The largest block that leaves no processor without one, and has queries for its rows; else the smallest.
    let fits = |t: &&Attention| blocks(t) >= PROCESSORS && t.rows() < h.queries.next_multiple_of(16) + 16;
    let small = candidates.iter().rev().find(|t| t.threads() > 32).or(candidates.last());
    match candidates.iter().find(fits).or(small) {
        Some(&t) => match t {
            // Few queries of many keys: blocks share them, some tiles each.
            Attention::Tiles { warps, keys, .. } if h.closed => {
                let tiles = h.keys.div_ceil(warps[1] * keys);
                t.with_splits((PROCESSORS / blocks(&t).max(1)).min(tiles / 2).max(1))
            }
            t => t,
        },
        None => Attention::Lanes,
    }
}

/// The forms that are worth measuring, the estimate's first.
pub(super) fn variants(p: Precision, h: &Heads) -> Vec<Attention> {
    let best = choose(p, h);
    let splits = best.splits();
    let kinds: Vec<Attention> = few(h).into_iter().chain(tiles(p, h)).chain([Attention::Lanes]).collect();
    let shared = kinds.iter().map(|k| k.with_splits(splits));
    let mut out = vec![best];
    // Other kinds with as many splits, then fewer and more of them.
    let others = [splits * 2, splits / 2, 1, splits * 4].into_iter().map(|n| best.with_splits(n));
    for form in shared.chain(others).chain(kinds.iter().copied()) {
        if form.legal(p, h).is_ok() && !out.contains(&form) {
            out.push(form);
        }
    }
    out
}

impl fmt::Display for Attention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Attention::Lanes => write!(f, "lanes"),
            Attention::Few { queries, ahead, groups, splits } => {
                write!(f, "few queries={queries} ahead={ahead} groups={groups} splits={splits}")
            }
            Attention::Tiles { warps: [q, k], sixteens, keys, splits } => {
                write!(f, "tiles warps={q}x{k} sixteens={sixteens} keys={keys} splits={splits}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heads(matrices: usize, queries: usize, keys: usize, wide: usize) -> Heads {
        Heads { matrices, queries, keys, depth: wide, width: wide, closed: true, chunks: Some([4, 4]) }
    }

    #[test]
    fn blocks_fit_and_keys_are_shared_where_queries_are_few() {
        let f16 = Precision::F16;
        assert_eq!(choose(f16, &heads(192, 128, 128, 64)), Attention::Tiles { warps: [4, 1], sixteens: 2, keys: 64, splits: 1 });
        assert_eq!(choose(f16, &heads(12, 128, 128, 64)), Attention::Tiles { warps: [1, 4], sixteens: 1, keys: 32, splits: 1 });
        assert_eq!(choose(f16, &heads(12, 1, 1024, 64)), Attention::Few { queries: 1, ahead: 4, groups: 8, splits: 16 });
        assert_eq!(choose(Precision::F32, &heads(12, 1, 1024, 64)).splits(), 16);
        assert_eq!(choose(Precision::F32, &heads(12, 9, 1024, 64)), Attention::Lanes);
        assert_eq!(choose(f16, &heads(12, 9, 1024, 60)), Attention::Lanes);
        assert!(choose(f16, &heads(4, 16, 8192, 64)).splits() > 8);
        assert_eq!(choose(f16, &Heads { closed: false, ..heads(4, 16, 8192, 64) }).splits(), 1);
        for p in [Precision::Tf32, f16, Precision::Bf16] {
            for wide in (8..=256).step_by(8) {
                for (matrices, queries) in [(1, 1), (1, 17), (12, 128), (512, 512)] {
                    let form = choose(p, &Heads { chunks: None, ..heads(matrices, queries, 300, wide) });
                    assert!(matches!(form, Attention::Tiles { .. }), "{p:?} {wide}");
                    assert!(form.shared(wide, wide, p.bytes()) <= SHARED, "{p:?} {form:?}");
                }
            }
        }
    }
}
