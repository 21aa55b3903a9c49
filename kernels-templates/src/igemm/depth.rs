//! How the bytes of a sum are cut into steps, and B packed for them.

use crate::gemm::PANEL;

/// How deep a sum is: runs of words, a line each, of which each is some equal steps.
///
/// A step is what one tile of a matrix register takes, at most sixteen words. Lines are padded to whole steps with zeros of B.
#[derive(Clone, Copy, Debug)]
pub(super) struct Depth {
    /// Lines, along two axes.
    pub(super) taps: [usize; 2],
    /// Steps of a line.
    pub(super) steps: usize,
    /// Words of a step.
    pub(super) words: usize,
}

impl Depth {
    /// Lines of so many bytes each.
    pub(super) const fn new(taps: [usize; 2], bytes: usize) -> Depth {
        let words = bytes.div_ceil(4);
        let steps = words.div_ceil(16);
        Depth { taps, steps, words: if steps == 0 { 0 } else { words.div_ceil(steps) } }
    }
    pub(super) const fn lines(&self) -> usize {
        self.taps[0] * self.taps[1]
    }
    /// Words of a line.
    pub(super) const fn line(&self) -> usize {
        self.steps * self.words
    }
    /// Words of a sum.
    pub(super) const fn total(&self) -> usize {
        self.lines() * self.line()
    }
    /// Floats of scratch for the places of all steps, in whole lines of the cache.
    pub(super) const fn table(&self) -> usize {
        (self.lines() * self.steps * size_of::<usize>() / 4).next_multiple_of(PANEL)
    }
    /// Bytes of a packed B: panels, and the sums of the columns.
    pub(super) const fn packed_len(&self, n: usize) -> usize {
        self.sums_at(n) + n.next_multiple_of(PANEL) * size_of::<i32>()
    }
    /// Where the sums of the columns are in a packed B.
    pub(super) const fn sums_at(&self, n: usize) -> usize {
        n.next_multiple_of(PANEL) * self.total() * 4
    }
    /// Packs B, of which `at(p, j)` gives the row that byte `p` of a sum meets in column `j`, if there is one.
    pub(super) fn pack(&self, n: usize, at: &dyn Fn(usize, usize) -> Option<u8>, out: &mut [u8]) {
        let deep = self.total() * 4;
        let (panels, sums) = out[..self.packed_len(n)].split_at_mut(self.sums_at(n));
        panels.fill(0);
        sums.fill(0);
        for j in 0..n {
            let mut total = 0i32;
            for p in 0..deep {
                let Some(x) = at(p, j) else { continue };
                panels[j / PANEL * PANEL * deep + p / 4 * 4 * PANEL + j % PANEL * 4 + p % 4] = x;
                total = total.wrapping_add(i32::from(x as i8));
            }
            sums[4 * j..4 * j + 4].copy_from_slice(&total.to_le_bytes());
        }
    }
}
