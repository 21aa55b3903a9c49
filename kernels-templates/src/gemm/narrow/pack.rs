//! Panels of weights in few bits: packing at compile time, and widening to f32.
//!
//! Integers lie `[panel][block][unit][16 columns][4 bytes]`: a unit is 64 bytes, the least significant bits of whose bytes are those of
//! four rows, the next ones those of the next four. Scales and zero points lie `[panel][block][16]`, 16-bit floats `[panel][k][16]`.
//!
//! Weights of fixed point begin each panel with the sixteen steps of its columns, as f32. A row behind it has the upper two bytes of all
//! sixteen integers, and then the lowest ones: 48 bytes.

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

/// Blocks of a matrix of `k` rows; none where a panel has all that it needs.
pub(super) const fn blocks_of(k: usize, coding: Coding) -> usize {
    match coding {
        Coding::Blocks { block, .. } => blocks(k, block),
        Coding::F16 | Coding::Bf16 | Coding::Fixed => 0,
    }
}

/// Bytes of a panel before its rows.
pub(super) const fn head_len(coding: Coding) -> usize {
    match coding {
        Coding::Fixed => PANEL * size_of::<f32>(),
        Coding::F16 | Coding::Bf16 | Coding::Blocks { .. } => 0,
    }
}

/// Bytes of a row of a panel; integers of few bits share theirs.
pub(super) const fn row_len(coding: Coding) -> usize {
    match coding {
        Coding::Fixed => PANEL * 3,
        Coding::F16 | Coding::Bf16 => PANEL * 2,
        Coding::Blocks { .. } => 0,
    }
}

/// Bytes of a panel of `k` rows.
pub(super) const fn panel_len(k: usize, coding: Coding) -> usize {
    match coding {
        Coding::Blocks { bits, block } => blocks(k, block) * block * PANEL * bits / 8,
        Coding::F16 | Coding::Bf16 | Coding::Fixed => head_len(coding) + k * row_len(coding),
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

/// The least power of two of which no weight of a column is 2^23 or more: its step as fixed point.
fn step(column: impl Iterator<Item = f32>) -> f32 {
    let most = column.fold(0f32, |most, w| most.max(w.abs()));
    // The exponent of the next power of two, and 23 bits below it.
    let power = (most.to_bits() >> 23) as i32 - 127 + 1 - 23;
    f32::from_bits(((power.max(-126) + 127) as u32) << 23)
}

/// The largest integer of fixed point, which what rounds beyond becomes.
const MOST: f32 = ((1 << 23) - 1) as f32;

/// Packs weights as integers of 24 bits times a power of two for each column, `w(column, row)` of a matrix of `k` rows and `n` columns, each of
/// which is finite and less than 2^100 in size. `out` holds [`packed_len`] bytes.
pub fn pack_fixed(k: usize, n: usize, w: impl Fn(usize, usize) -> f32, out: &mut [u8]) {
    for (p, panel) in out.chunks_mut(panel_len(k, Coding::Fixed)).enumerate() {
        let (head, rows) = panel.split_at_mut(head_len(Coding::Fixed));
        for (c, head) in head.chunks_mut(size_of::<f32>()).enumerate() {
            let col = p * PANEL + c;
            let step = if col < n { step((0..k).map(|row| w(col, row))) } else { 0.0 };
            head.copy_from_slice(&step.to_le_bytes());
            for (row, to) in rows.chunks_mut(row_len(Coding::Fixed)).enumerate() {
                let whole = if col < n { (w(col, row) / step).round_ties_even().clamp(-MOST, MOST) as i32 } else { 0 };
                let [low, middle, high, _] = whole.to_le_bytes();
                (to[2 * c], to[2 * c + 1], to[2 * PANEL + c]) = (middle, high, low);
            }
        }
    }
}

/// A row of the transpose of a matrix of `k` rows that [`pack_fixed`] packed: column `col`, into `out` of `k` elements.
pub fn fixed_column(k: usize, packed: &[u8], col: usize, out: &mut [f32]) {
    let panel = &packed[col / PANEL * panel_len(k, Coding::Fixed)..][..panel_len(k, Coding::Fixed)];
    let (c, (head, rows)) = (col % PANEL, panel.split_at(head_len(Coding::Fixed)));
    let step = f32::from_le_bytes(core::array::from_fn(|i| head[c * size_of::<f32>() + i]));
    for (row, o) in rows.chunks(row_len(Coding::Fixed)).zip(out) {
        *o = (i32::from_le_bytes([0, row[2 * PANEL + c], row[2 * c], row[2 * c + 1]]) >> 8) as f32 * step;
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
    // SAFETY: passed on from the caller.
    unsafe {
        match coding {
            Coding::Blocks { bits, block } => widen_codes(isa, k, bits, block, w, out),
            Coding::F16 | Coding::Bf16 | Coding::Fixed => super::registers::widen(isa, coding, k, w.codes, out),
        }
    }
}
