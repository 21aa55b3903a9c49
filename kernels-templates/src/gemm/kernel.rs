//! The register tile that every matrix product and convolution runs, over a small vector trait.

use crate::simd::Simd;

/// Columns of one panel of packed B; the layout is the same for every instruction set.
pub const PANEL: usize = 16;

/// One tile of output: what a micro-kernel reads and writes.
///
/// Row `i` of A is the concatenation, over `taps[0] x taps[1] x taps[2]` positions, of runs of `run` floats: the run at
/// position `(p, q, r)` starts at `a + i * a_row + p * tap[0] + q * tap[1] + r * tap[2]`. A plain matrix has one tap; the
/// window of a convolution has one for each kernel element, read in place.
#[derive(Clone, Copy)]
pub(crate) struct Tile {
    pub(crate) a: *const f32,
    pub(crate) a_row: usize,
    pub(crate) taps: [usize; 3],
    pub(crate) tap: [usize; 3],
    pub(crate) run: usize,
    /// Packed B: panels of `[k][PANEL]`.
    pub(crate) b: *const f32,
    /// Floats from one panel to the next.
    pub(crate) panel: usize,
    pub(crate) out: *mut f32,
    pub(crate) pitch: usize,
    /// Columns to write; those of a last panel beyond it are only computed.
    pub(crate) cols: usize,
    /// Initial values of the columns, padded to whole panels; zero where null.
    pub(crate) bias: *const f32,
}

/// A compiled micro-kernel of fixed rows and panels.
pub(crate) type Kernel = unsafe fn(&Tile);

/// Micro-kernels of some number of panels, by rows: `rows[i]` computes `i + 1` rows.
pub(crate) struct Width {
    pub(crate) panels: usize,
    pub(crate) rows: &'static [Kernel],
}

/// The tile of `MR` rows and `NV` vectors of columns. Every element is its bias plus the products in the order of K, each
/// by one `mul_add`, whatever the tile: results do not depend on how work is cut.
///
/// # Safety
/// The rows, panels and outputs that `t` describes are valid, and the instruction set of `S` is available.
#[inline(always)]
pub(crate) unsafe fn tile<S: Simd, const MR: usize, const NV: usize>(t: &Tile) {
    // SAFETY: the caller vouches for the addresses and for the instruction set.
    unsafe {
        let per = PANEL / S::W;
        let mut acc = [[S::zero(); NV]; MR];
        if !t.bias.is_null() {
            for j in 0..NV {
                let v = S::load(t.bias.add(j * S::W));
                for row in &mut acc {
                    row[j] = v;
                }
            }
        }
        let mut b = t.b;
        for p in 0..t.taps[0] {
            for q in 0..t.taps[1] {
                for r in 0..t.taps[2] {
                    let mut a = t.a.add(p * t.tap[0] + q * t.tap[1] + r * t.tap[2]);
                    for _ in 0..t.run {
                        let mut bv = [S::zero(); NV];
                        for (j, v) in bv.iter_mut().enumerate() {
                            *v = S::load(b.add((j / per) * t.panel + (j % per) * S::W));
                        }
                        for (i, row) in acc.iter_mut().enumerate() {
                            let x = S::splat(*a.add(i * t.a_row));
                            for j in 0..NV {
                                row[j] = S::mul_add(x, bv[j], row[j]);
                            }
                        }
                        a = a.add(1);
                        b = b.add(PANEL);
                    }
                }
            }
        }
        if t.cols >= NV * S::W {
            for (i, row) in acc.iter().enumerate() {
                for (j, &v) in row.iter().enumerate() {
                    S::store(t.out.add(i * t.pitch + j * S::W), v);
                }
            }
        } else {
            for (i, row) in acc.iter().enumerate() {
                let mut line = [0f32; 8 * PANEL];
                for (j, &v) in row.iter().enumerate() {
                    S::store(line.as_mut_ptr().add(j * S::W), v);
                }
                core::ptr::copy_nonoverlapping(line.as_ptr(), t.out.add(i * t.pitch), t.cols);
            }
        }
    }
}
