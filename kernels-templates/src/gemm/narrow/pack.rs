//! Panels of weights in few bits: packing at compile time, and widening to f32.
//!
//! Integers lie `[panel][block][unit][16 columns][4 bytes]`: a unit is 64 bytes, the least significant bits of whose bytes are those of
//! four rows, the next ones those of the next four. Scales and zero points lie `[panel][block][16]`, 16-bit floats `[panel][k][16]`.

use super::{Coded, Coding, Zeros};
use crate::gemm::PANEL;
use crate::kernel_fn;

/// Bytes of a unit: a vector of AVX-512.
pub(super) const UNIT: usize = 64;
/// Rows that share the places of a unit's bytes: those that one instruction sums.
pub(super) const FOUR: usize = UNIT / PANEL;

/// Blocks of `block` rows of a matrix of `k`.
pub const fn blocks(k: usize, block: usize) -> usize {
    k.div_ceil(block)
}

/// Blocks of a matrix of `k` rows; none of 16-bit floats.
pub(super) const fn blocks_of(k: usize, coding: Coding) -> usize {
    match coding {
        Coding::Blocks { block, .. } => blocks(k, block),
        Coding::F16 | Coding::Bf16 => 0,
    }
}

/// Bytes of a panel of `k` rows.
pub(super) const fn panel_len(k: usize, coding: Coding) -> usize {
    match coding {
        Coding::Blocks { bits, block } => blocks(k, block) * block * PANEL * bits / 8,
        Coding::F16 | Coding::Bf16 => k * PANEL * 2,
    }
}

/// Bytes of the panels of `k` rows and `n` columns.
pub const fn packed_len(k: usize, n: usize, coding: Coding) -> usize {
    n.div_ceil(PANEL) * panel_len(k, coding)
}

/// Packs integers of `bits` bits, `code(column, row)` of a matrix of `k` rows and `n` columns. `out` holds [`packed_len`] bytes.
pub fn pack_codes(k: usize, n: usize, (bits, block): (usize, usize), code: impl Fn(usize, usize) -> u8, out: &mut [u8]) {
    let each = 8 / bits;
    let panel = blocks(k, block) * block * PANEL / each;
    let code = |col: usize, row: usize| if row < k { code(col, row) } else { 0 };
    out.fill(0);
    for (p, panel) in out.chunks_mut(panel.max(1)).enumerate() {
        for (u, unit) in panel.chunks_mut(UNIT).enumerate() {
            for (i, byte) in unit.iter_mut().enumerate() {
                let (col, row) = (p * PANEL + i / FOUR, u * FOUR * each + i % FOUR);
                if col < n {
                    *byte = (0..each).fold(0, |byte, part| byte | code(col, row + part * FOUR) << (part * bits));
                }
            }
        }
    }
}

/// Packs scales, or zero points: `x(column, block)` of `n` columns with so many blocks, into as many for `n` rounded up to whole panels.
pub fn pack_blocks<T: Default>(n: usize, blocks: usize, x: impl Fn(usize, usize) -> T, out: &mut [T]) {
    for (i, o) in out.iter_mut().enumerate() {
        let (panel, block) = (i / PANEL / blocks.max(1), i / PANEL % blocks.max(1));
        let col = panel * PANEL + i % PANEL;
        *o = if col < n { x(col, block) } else { T::default() };
    }
}

/// Packs 16-bit floats, `x(column, row)` of a matrix of `k` rows and `n` columns, as bits. `out` holds `k` for each column of whole panels.
pub fn pack_halves(k: usize, n: usize, x: impl Fn(usize, usize) -> u16, out: &mut [u16]) {
    for (i, o) in out.iter_mut().enumerate() {
        let (panel, row, col) = (i / PANEL / k.max(1), i / PANEL % k.max(1), i % PANEL);
        let col = panel * PANEL + col;
        *o = if col < n { x(col, row) } else { 0 };
    }
}

kernel_fn! {
    /// Widens a panel of integers.
    ///
    /// # Safety
    /// `w` is a panel of `k` rows of that coding, and `out` holds as many rows of sixteen floats.
    fn widen_codes<A>(k: usize, bits: usize, block: usize, w: Coded, out: *mut f32) {
        let (each, mask) = (8 / bits, (1u32 << bits) - 1);
        for b in 0..blocks(k, block) {
            let scales = w.scales.add(b * PANEL).cast::<[f32; PANEL]>().read_unaligned();
            let zeros = match w.zeros {
                Zeros::Same(z) => [f32::from(z); PANEL],
                Zeros::Each(z) => z.add(b * PANEL).cast::<[u8; PANEL]>().read_unaligned().map(f32::from),
                Zeros::Floats(z) => z.add(b * PANEL).cast::<[f32; PANEL]>().read_unaligned(),
            };
            let units = block / (FOUR * each);
            for u in 0..units {
                let words = w.codes.add((b * units + u) * UNIT).cast::<[u32; PANEL]>().read_unaligned();
                for part in 0..each {
                    for j in 0..FOUR {
                        let row = b * block + (u * each + part) * FOUR + j;
                        if row < k {
                            let to = out.add(row * PANEL).cast::<[f32; PANEL]>();
                            let shift = (8 * j + part * bits) as u32;
                            let mut line = [0f32; PANEL];
                            for c in 0..PANEL {
                                line[c] = (((words[c] >> shift) & mask) as i32 as f32 - zeros[c]) * scales[c];
                            }
                            to.write_unaligned(line);
                        }
                    }
                }
            }
        }
    }
}

/// Widens a panel of `k` rows.
///
/// # Safety
/// `w` is a panel of that coding, `out` holds `k` rows of sixteen floats, and the machine has `isa`.
pub(super) unsafe fn widen_panel(isa: crate::isa::Isa, k: usize, coding: Coding, w: Coded, out: *mut f32) {
    // SAFETY: passed on from the caller; panels of 16-bit floats start at multiples of two.
    unsafe {
        match coding {
            Coding::Blocks { bits, block } => widen_codes(isa, k, bits, block, w, out),
            Coding::F16 => super::half::widen(isa, false, k, w.codes.cast(), out),
            Coding::Bf16 => super::half::widen(isa, true, k, w.codes.cast(), out),
        }
    }
}
