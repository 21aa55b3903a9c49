//! How attention is computed: by matrix units, by lanes that read keys as they lie where queries are few, or a query a warp.

use super::Precision;
use super::tile::PROCESSORS;

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

/// The form of an attention in a precision.
pub fn choose(p: Precision, h: &Heads) -> Attention {
    if let (Some([k, v]), true, 1..=FEW) = (h.chunks, h.closed, h.queries) {
        let queries = h.queries.next_power_of_two();
        let widest = (h.depth * k / 16).max(h.width * v / 16);
        let lanes = widest.next_power_of_two().min(32);
        // Two blocks for each processor, as long as each has keys to read.
        let splits = (2 * PROCESSORS).div_ceil(h.matrices.max(1)).min(h.keys.div_ceil(KEYS)).max(1);
        return Attention::Few {
            queries,
            ahead: (4 / queries).max(1).min(if widest > 32 { 2 } else { 4 }),
            groups: THREADS / lanes,
            splits,
        };
    }
    if p == Precision::F32 || !h.depth.is_multiple_of(8) || !h.width.is_multiple_of(8) {
        return Attention::Lanes;
    }
    // Sums and scores of a warp lie in registers: the wider the heads, the fewer keys at once.
    let wide = h.depth.max(h.width) * p.bytes() / 2;
    let keys = match wide {
        0..=128 => 64,
        129..=192 => 32,
        _ => 16,
    };
    let tiles = |q: usize, k: usize, sixteens: usize, keys: usize| Attention::Tiles { warps: [q, k], sixteens, keys, splits: 1 };
    let mut candidates = Vec::new();
    if wide <= 64 {
        candidates.push(tiles(4, 1, 2, keys));
    }
    candidates.extend([tiles(4, 1, 1, keys), tiles(2, 2, 1, keys), tiles(1, 4, 1, (keys / 2).max(16)), tiles(1, 1, 1, 16)]);
    candidates.retain(|t| t.shared(h.depth, h.width, p.bytes()) <= SHARED);
    let blocks = |t: &Attention| h.matrices * h.queries.div_ceil(t.rows());
    // The largest block that leaves no processor without one, and has queries for its rows; else the smallest.
    let fits = |t: &&Attention| blocks(t) >= PROCESSORS && t.rows() < h.queries.next_multiple_of(16) + 16;
    let small = candidates.iter().rev().find(|t| t.threads() > 32).or(candidates.last());
    match candidates.iter().find(fits).or(small) {
        Some(&t) => match t {
            // Few queries of many keys: blocks share them, some tiles each.
            Attention::Tiles { warps, sixteens, keys, .. } if h.closed => {
                let tiles = h.keys.div_ceil(warps[1] * keys);
                let splits = (PROCESSORS / blocks(&t).max(1)).min(tiles / 2).max(1);
                Attention::Tiles { warps, sixteens, keys, splits }
            }
            t => t,
        },
        None => Attention::Lanes,
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
