//! The register tile that every matrix product and convolution runs, over a small vector trait: of floats, or of bytes by fours.

use crate::simd::Products;

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
    /// What becomes of the sums; of a [`Sweep`](super::Sweep), from the first row and column of the whole output on.
    pub(crate) finish: Finish,
}

/// What becomes of the sums of a product or convolution in registers or the first-level cache: other floats are added, then they are
/// brought between two bounds; NaN stays NaN.
#[derive(Clone, Copy, Debug)]
pub struct Finish {
    /// What is added to the first row and column of the output; null for nothing.
    pub add: *const f32,
    /// Floats from what one row gets to what the next one gets.
    pub add_row: usize,
    /// The least value.
    pub least: f32,
    /// The greatest value, not below the least.
    pub most: f32,
}

// SAFETY: a description of memory; those who read it vouch for it.
unsafe impl Sync for Finish {}
// SAFETY: as for Sync.
unsafe impl Send for Finish {}

impl Finish {
    /// Sums as they are.
    pub const NONE: Finish = Finish { add: core::ptr::null(), add_row: 0, least: f32::NEG_INFINITY, most: f32::INFINITY };

    /// The same from another row and column of the output on.
    pub(crate) fn at(self, row: usize, col: usize) -> Finish {
        Finish { add: if self.add.is_null() { self.add } else { self.add.wrapping_add(row * self.add_row + col) }, ..self }
    }
}

/// A compiled micro-kernel of fixed rows and panels.
pub(crate) type Kernel = unsafe fn(&Tile);

/// Micro-kernels of some number of panels, by rows: `rows[i]` computes `i + 1` rows.
pub(crate) struct Width {
    pub(crate) panels: usize,
    pub(crate) rows: &'static [Kernel],
}

/// Steps of K in one round of the inner loop.
const UNROLL: usize = 4;

/// Floats of B that are asked for in advance.
const AHEAD: usize = 24 * PANEL;

/// The same for one row, which waits for nothing but B.
const NEAR: usize = 8 * PANEL;

/// Asks for the line of the cache at `p`, which need not exist.
#[inline(always)]
pub(super) fn prefetch(p: *const f32) {
    // SAFETY: a prefetch of any address is harmless; SSE is in the baseline of x86-64.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T0 }>(p.cast());
    }
    let _ = p;
}

/// A number that the optimizer cannot take apart again.
#[inline(always)]
fn opaque(mut x: usize) -> usize {
    // SAFETY: no instruction at all.
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    unsafe {
        core::arch::asm!("/* {0} */", inout(reg) x, options(pure, nomem, nostack, preserves_flags));
    }
    // Elsewhere it stays an ordinary number, which costs nothing but speed.
    x = x.wrapping_add(0);
    x
}

/// A pointer that the optimizer cannot relate to another.
#[inline(always)]
fn opaque_ptr(mut p: *const f32) -> *const f32 {
    // SAFETY: no instruction at all.
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    unsafe {
        core::arch::asm!("/* {0} */", inout(reg) p, options(pure, readonly, nostack, preserves_flags));
    }
    p = p.wrapping_add(0);
    p
}

/// One step of K: `u` floats after the rows' pointers.
///
/// # Safety
/// As [`tile`].
#[inline(always)]
unsafe fn step<S: Products, const MR: usize, const NV: usize>(
    acc: &mut [[S::V; NV]; MR],
    base: [*const f32; 3],
    one: usize,
    three: usize,
    u: usize,
    b: *const f32,
    panel: usize,
) {
    let per = PANEL / S::W;
    // SAFETY: the caller vouches for the rows and panels.
    unsafe {
        let mut bv = [S::zero(); NV];
        for (j, v) in bv.iter_mut().enumerate() {
            *v = S::load(b.add((j / per) * panel + (j % per) * S::W));
            let row = MR == 1 && NV == 4 * per;
            if j % per == 0 && (MR >= 6 || row) {
                prefetch(b.wrapping_add((j / per) * panel + if row { NEAR } else { AHEAD }));
            }
        }
        // Spelled out, since LLVM does not unroll a loop over so many rows once their addresses differ in form.
        macro_rules! row {
            ($i:literal: $p:literal + $offset:expr) => {
                if MR > $i {
                    let x = S::repeat(base[$p].byte_add($offset).add(u));
                    for j in 0..NV {
                        acc[$i % MR][j] = S::mul_add(x, bv[j], acc[$i % MR][j]);
                    }
                }
            };
        }
        row!(0: 0 + 0);
        row!(1: 0 + one);
        row!(2: 0 + 2 * one);
        row!(3: 0 + three);
        row!(4: 0 + 4 * one);
        row!(5: 1 + 0);
        row!(6: 0 + 2 * three);
        row!(7: 1 + 2 * one);
        row!(8: 0 + 8 * one);
        row!(9: 1 + 4 * one);
        row!(10: 2 + 0);
        row!(11: 1 + 2 * three);
        row!(12: 0 + 4 * three);
        row!(13: 1 + 8 * one);
    }
}

/// Finishes and writes the first `n` sums of a vector, at most all.
///
/// # Safety
/// There are as many floats at `out`, and at what is added, and the instruction set of `S` is available.
#[inline(always)]
pub(crate) unsafe fn finish_some<S: Products>(v: S::V, n: usize, f: Finish, out: *mut f32) {
    // SAFETY: passed on from the caller.
    unsafe {
        let some = n < S::W;
        let v = match f.add.is_null() {
            true => v,
            false if some => S::plus_some(v, f.add, n),
            false => S::plus(v, f.add),
        };
        let v = S::between(v, f.least, f.most);
        if some { S::store_some(out, v, n) } else { S::store(out, v) }
    }
}

/// Finishes sums of a tile that have been written: with what is added, the tall tiles would not fit the registers.
///
/// # Safety
/// As [`tile`]; the tile has so many rows and whole vectors, and what is added too.
#[inline(always)]
unsafe fn add_finish<S: Products>(t: &Tile, rows: usize, vectors: usize) {
    let f = &t.finish;
    for i in 0..rows {
        for j in 0..vectors {
            // SAFETY: passed on from the caller.
            unsafe {
                let out = t.out.add(i * t.pitch + j * S::W);
                let v = S::plus(S::load(out), f.add.add(i * f.add_row + j * S::W));
                S::store(out, S::between(v, f.least, f.most));
            }
        }
    }
}

/// Finishes and writes sums of a tile's columns, of which the last vector has some.
///
/// # Safety
/// As [`tile`]; `sums` are those of so many rows and vectors.
#[inline(always)]
unsafe fn finish_rows<S: Products>(sums: *const S::V, rows: usize, vectors: usize, t: &Tile) {
    for i in 0..rows {
        for j in 0..t.cols.div_ceil(S::W) {
            let col = j * S::W;
            // SAFETY: passed on from the caller.
            unsafe {
                let (v, left) = (*sums.add(i * vectors + j), (t.cols - col).min(S::W));
                finish_some::<S>(v, left, t.finish.at(i, col), t.out.add(i * t.pitch + col));
            }
        }
    }
}

/// The tile of `MR` rows and `NV` vectors of columns. Every element is its bias plus the products in the order of K, each
/// by one `mul_add`, whatever the tile: results do not depend on how work is cut.
///
/// # Safety
/// The rows, panels and outputs that `t` describes are valid, and the instruction set of `S` is available.
#[inline(always)]
pub(crate) unsafe fn tile<S: Products, const MR: usize, const NV: usize>(t: &Tile) {
    // SAFETY: the caller vouches for the addresses and for the instruction set.
    unsafe {
        let mut acc = [[S::zero(); NV]; MR];
        if !t.bias.is_null() {
            for j in 0..NV {
                let v = S::start(t.bias.add(j * S::W));
                for row in &mut acc {
                    row[j] = v;
                }
            }
        }
        let mut b = t.b;
        let stride = t.a_row * size_of::<f32>();
        for p in 0..t.taps[0] {
            for q in 0..t.taps[1] {
                for r in 0..t.taps[2] {
                    let a = t.a.add(p * t.tap[0] + q * t.tap[1] + r * t.tap[2]);
                    // The addresses of up to fourteen rows, as three pointers and two strides with the scales of x86's
                    // addressing: computing them in the loop costs ports that multiply-adds need.
                    let (mut one, mut three) = (opaque(stride), opaque(3 * stride));
                    let mut base = [a, a.byte_add(opaque(5 * stride)), a.byte_add(opaque(10 * stride))];
                    let mut left = t.run;
                    while left >= UNROLL {
                        // Spelled out: a loop around the tall tiles is above what LLVM unrolls.
                        step::<S, MR, NV>(&mut acc, base, one, three, 0, b, t.panel);
                        step::<S, MR, NV>(&mut acc, base, one, three, 1, b.add(PANEL), t.panel);
                        step::<S, MR, NV>(&mut acc, base, one, three, 2, b.add(2 * PANEL), t.panel);
                        step::<S, MR, NV>(&mut acc, base, one, three, 3, b.add(3 * PANEL), t.panel);
                        // Unknown again in each round, lest fourteen sums are kept on the stack.
                        base = base.map(|p| opaque_ptr(p.add(UNROLL)));
                        (one, three) = (opaque(one), opaque(three));
                        b = b.add(UNROLL * PANEL);
                        left -= UNROLL;
                    }
                    while left > 0 {
                        step::<S, MR, NV>(&mut acc, base, one, three, 0, b, t.panel);
                        base = base.map(|p| p.add(1));
                        b = b.add(PANEL);
                        left -= 1;
                    }
                }
            }
        }
        let f = &t.finish;
        if t.cols >= NV * S::W {
            let (least, most) = if f.add.is_null() { (f.least, f.most) } else { (f32::NEG_INFINITY, f32::INFINITY) };
            for (i, row) in acc.iter().enumerate() {
                for (j, &v) in row.iter().enumerate() {
                    S::store(t.out.add(i * t.pitch + j * S::W), S::between(v, least, most));
                }
            }
            if !f.add.is_null() {
                add_finish::<S>(t, MR, NV);
            }
        } else {
            // From memory: what a loop that is not unrolled reads would not stay in registers above either.
            let sums = acc;
            finish_rows::<S>((&raw const sums).cast(), MR, NV, t);
        }
    }
}
