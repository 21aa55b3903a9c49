//! Offsets for buffers so that none overlap while both live: several planners, the best kept, beside the theoretical bound.

use super::Buffer;
use crate::ir::{Dim, Range, Symbol};

/// Buffers start at multiples of this many bytes; the runtime aligns the arena to it.
const ALIGN: i64 = 64;

/// The steps during which a buffer is in use, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// The first step.
    pub from: u32,
    /// The last step.
    pub to: u32,
}

/// The arena.
#[derive(Clone, Debug, PartialEq)]
pub enum Arena {
    /// Every buffer has a constant offset; its size is fixed, or bounded by the bounds of the symbols.
    Fixed {
        /// Offsets by buffer.
        offsets: Vec<i64>,
        /// Bytes.
        bytes: i64,
        /// The largest sum of bytes that live at once: no arena can be smaller.
        bound: i64,
    },
    /// Sizes are known only at run time, when the runtime places the buffers.
    Open,
}

/// Places the buffers.
pub(super) fn place(buffers: &[Buffer], symbols: &[Symbol]) -> Arena {
    let range = |d: &Dim| d.range(&|s| symbols.get(s.0 as usize).map_or(Range { lo: 0, hi: None }, |s| s.range));
    let sizes: Option<Vec<i64>> = buffers.iter().map(|b| range(&b.bytes).hi.map(|h| h.max(0) as u64 as i64)).collect();
    let Some(sizes) = sizes else { return Arena::Open };
    let rounded: Vec<i64> = sizes.iter().map(|s| (s + ALIGN - 1) / ALIGN * ALIGN).collect();
    let bound = lower_bound(&rounded, buffers);
    type Key = fn(&Buffer, i64) -> (i64, i64);
    let orders: [Key; 4] = [
        |_, size| (-size, 0),
        |b, size| (-(size.saturating_mul((b.life.to - b.life.from + 1) as i64)), -size),
        |b, size| (b.life.from as i64, -size),
        |b, size| (-((b.life.to - b.life.from) as i64), -size),
    ];
    let best = orders
        .iter()
        .map(|key| {
            let mut order: Vec<usize> = (0..buffers.len()).collect();
            order.sort_by_key(|&i| (key(&buffers[i], rounded[i]), i));
            first_fit(&rounded, buffers, &order)
        })
        .min_by_key(|(_, bytes)| *bytes);
    let (offsets, bytes) = best.unwrap_or((Vec::new(), 0));
    Arena::Fixed { offsets, bytes, bound }
}

/// The largest sum of sizes that live at one time.
fn lower_bound(sizes: &[i64], buffers: &[Buffer]) -> i64 {
    let mut events: Vec<(u32, i64)> = Vec::new();
    for (b, size) in buffers.iter().zip(sizes) {
        events.push((b.life.from, *size));
        events.push((b.life.to + 1, -*size));
    }
    // At equal times, ends come before starts.
    events.sort();
    let (mut now, mut most) = (0, 0);
    for (_, change) in events {
        now += change;
        most = most.max(now);
    }
    most
}

/// Each buffer in turn at the lowest offset that is free during its life.
fn first_fit(sizes: &[i64], buffers: &[Buffer], order: &[usize]) -> (Vec<i64>, i64) {
    let mut offsets = vec![0i64; buffers.len()];
    let mut total = 0;
    let mut placed: Vec<usize> = Vec::new();
    for &i in order {
        let life = buffers[i].life;
        let mut taken: Vec<(i64, i64)> = placed
            .iter()
            .filter(|&&j| buffers[j].life.from <= life.to && life.from <= buffers[j].life.to)
            .map(|&j| (offsets[j], offsets[j] + sizes[j]))
            .collect();
        taken.sort();
        let mut at = 0;
        for (start, end) in taken {
            if start - at >= sizes[i] {
                break;
            }
            at = at.max(end);
        }
        offsets[i] = at;
        total = total.max(at + sizes[i]);
        placed.push(i);
    }
    (offsets, total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_that_live_at_once_stay_apart_and_the_bound_holds() {
        let mut seed = 3u64;
        let mut next = |n: u64| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) % n
        };
        for _ in 0..100 {
            let buffers: Vec<Buffer> = (0..next(40) + 1)
                .map(|_| {
                    let from = next(30) as u32;
                    Buffer { bytes: Dim::int(next(5000) as i64), life: Life { from, to: from + next(9) as u32 } }
                })
                .collect();
            let Arena::Fixed { offsets, bytes, bound } = place(&buffers, &[]) else { panic!("sizes are constants") };
            assert!(bytes >= bound);
            for i in 0..buffers.len() {
                let size = |k: usize| buffers[k].bytes.as_int().unwrap();
                assert!(offsets[i] % ALIGN == 0 && offsets[i] + size(i) <= bytes);
                for j in 0..i {
                    let meet = buffers[i].life.from <= buffers[j].life.to && buffers[j].life.from <= buffers[i].life.to;
                    let apart = offsets[i] + size(i) <= offsets[j] || offsets[j] + size(j) <= offsets[i];
                    assert!(!meet || apart || size(i) == 0 || size(j) == 0);
                }
            }
        }
    }
}
