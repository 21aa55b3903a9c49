//! The fast walk through packed trees: rows in blocks of columns, several walks at once so that their loads overlap.
//!
//! A step of a walk is `at = child + !(x[column] <= split)`, without a branch; walks that have reached their leaf stay there. Eight rows
//! walk through a tree together, or sixteen in the lanes of AVX-512; what is left of the rows walks through eight trees together. Leaves add
//! their weights in the order of the trees, in the type of the elements, whatever walks together: results are bit-identical to
//! [`ensemble`](super::ensemble).

use super::add;
use super::pack::{COLUMN, Leaves, Packed, Split};
use crate::isa::Isa;

/// Walks at once.
const AT_ONCE: usize = 8;

/// A record of a tree.
pub(super) trait Record: Copy {
    /// What splits are.
    type Split: Split;
    /// What the record compares with, the column it reads, and the place of its first child.
    fn parts(self, shift: u32) -> (Self::Split, usize, u32);
}

/// A split and a link in 8 bytes.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(super) struct Narrow {
    split: f32,
    link: u32,
}
impl Record for Narrow {
    type Split = f32;
    #[inline(always)]
    fn parts(self, shift: u32) -> (f32, usize, u32) {
        (self.split, (self.link & ((1 << shift) - 1)) as usize, self.link >> shift)
    }
}

/// The same in 16 bytes.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Wide<T> {
    split: T,
    column: u32,
    child: u32,
}
#[derive(Clone, Copy)]
#[repr(C, align(16))]
struct Wide32(Wide<f32>);
impl Record for Wide32 {
    type Split = f32;
    #[inline(always)]
    fn parts(self, _: u32) -> (f32, usize, u32) {
        (self.0.split, self.0.column as usize, self.0.child)
    }
}
impl Record for Wide<f64> {
    type Split = f64;
    #[inline(always)]
    fn parts(self, _: u32) -> (f64, usize, u32) {
        (self.split, self.column as usize, self.child)
    }
}

/// Rows `from..to` of a matrix through a packed ensemble: `x` has `features` elements a row, `out` as many as there are targets; `scratch`
/// is room of [`Packed::scratch`] bytes. Elements are f64 where the ensemble was packed for them, else f32.
///
/// # Safety
/// The pointers reach those rows, rows have [`Packed::needs`] features, nobody else writes to the rows of `out` or the scratch, which begin
/// at multiples of the size of an element, and the machine has `isa`.
pub unsafe fn walk(isa: Isa, p: &Packed<'_>, x: *const u8, features: usize, out: *mut u8, (from, to): (usize, usize), scratch: *mut u8) {
    // SAFETY: passed on from the caller; the kind says what records and elements are.
    unsafe {
        match p.kind() {
            0 => rows::<Narrow>(isa, p, x.cast(), features, out.cast(), (from, to), scratch.cast()),
            1 => rows::<Wide32>(isa, p, x.cast(), features, out.cast(), (from, to), scratch.cast()),
            _ => rows::<Wide<f64>>(isa, p, x.cast(), features, out.cast(), (from, to), scratch.cast()),
        }
    }
}

/// Copies the columns of up to [`COLUMN`] rows from `row` on to a block.
unsafe fn fill<T: Split>(p: &Packed<'_>, x: *const T, features: usize, count: usize, block: *mut T) {
    for (c, column) in p.columns().iter().enumerate() {
        let (feature, low) = (*column as usize / 2, column & 1 == 1);
        for r in 0..count {
            // SAFETY: the caller vouches for `count` rows at `x`, with the features that columns name, and for the block.
            unsafe {
                let v = *x.add(r * features + feature);
                *block.add(c * COLUMN + r) = if low && v.nan() { T::LOWEST } else { v };
            }
        }
    }
}

/// One step of several walks; true where one of them has moved. `lane` is where the walk reads in its column.
#[inline(always)]
unsafe fn step<R: Record, const N: usize>(records: *const R, shift: u32, at: &mut [u32; N], block: [*const R::Split; N]) -> bool {
    let mut moved = 0;
    for k in 0..N {
        // SAFETY: places in records and columns of blocks are those of the packed ensemble, and leaves lead to themselves.
        unsafe {
            let (split, column, child) = (*records.add(at[k] as usize)).parts(shift);
            let v = *block[k].add(column);
            #[allow(clippy::neg_cmp_op_on_partial_ord, reason = "NaN goes on to the second branch")]
            let next = child + !(v <= split) as u32;
            moved |= next ^ at[k];
            at[k] = next;
        }
    }
    moved != 0
}

/// The leaves that several walks reach.
#[inline(always)]
unsafe fn reach<R: Record, const N: usize>(
    records: *const R,
    shift: u32,
    [least, most]: [u32; 2],
    mut at: [u32; N],
    block: [*const R::Split; N],
) -> [u32; N] {
    // SAFETY: passed on from the caller.
    unsafe {
        for _ in 0..least {
            step(records, shift, &mut at, block);
        }
        for _ in least..most {
            if !step(records, shift, &mut at, block) {
                break;
            }
        }
        at.map(|at| (*records.add(at as usize)).parts(shift).0.leaf())
    }
}

/// Adds the weights of a leaf of a tree to the sums of a row.
#[inline(always)]
pub(super) unsafe fn collect<T: Split>(leaves: &Leaves<'_, T>, tree: usize, leaf: u32, aggregate: i64, out: *mut T, targets: usize) {
    let leaf = leaf as usize;
    // SAFETY: leaves and targets are those of the packed ensemble, and `out` has as many elements as there are targets.
    unsafe {
        match leaves {
            Leaves::Single { to, weights } => {
                let o = out.add(*to.get_unchecked(tree) as usize);
                *o = add(*o, *weights.get_unchecked(leaf), aggregate);
            }
            Leaves::Dense { table } => {
                let row = table.as_ptr().add(leaf * targets);
                for t in 0..targets {
                    *out.add(t) = (*out.add(t)).plus(*row.add(t));
                }
            }
            Leaves::Listed { starts, to, weights } => {
                for i in *starts.get_unchecked(leaf) as usize..*starts.get_unchecked(leaf + 1) as usize {
                    let o = out.add(*to.get_unchecked(i) as usize);
                    *o = add(*o, *weights.get_unchecked(i), aggregate);
                }
            }
        }
    }
}

unsafe fn rows<R: Record>(
    isa: Isa,
    p: &Packed<'_>,
    x: *const R::Split,
    features: usize,
    out: *mut R::Split,
    (from, to): (usize, usize),
    scratch: *mut R::Split,
) {
    let (targets, columns, together) = (p.targets(), p.column_count(), p.blocks());
    let mut at = from;
    while at < to {
        let count = (to - at).min(together * COLUMN);
        // SAFETY: the caller vouches for the rows, and for scratch of that many blocks.
        unsafe {
            for b in 0..count.div_ceil(COLUMN) {
                let row = at + b * COLUMN;
                fill(p, x.add(row * features), features, (at + count - row).min(COLUMN), scratch.add(b * columns * COLUMN));
            }
            let sums = out.add(at * targets);
            for i in 0..count * targets {
                *sums.add(i) = crate::num::Num::from_f64(-0.0);
            }
            through::<R>(isa, p, scratch, count, sums);
            if p.aggregate() == 0 {
                let trees: R::Split = crate::num::Num::from_f64(p.roots().len().max(1) as f64);
                for i in 0..count * targets {
                    *sums.add(i) = crate::num::Num::over(*sums.add(i), trees);
                }
            }
        }
        at += count;
    }
}

/// `count` rows in blocks through all trees.
unsafe fn through<R: Record>(isa: Isa, p: &Packed<'_>, blocks: *const R::Split, count: usize, sums: *mut R::Split) {
    let (leaves, roots, spans) = (p.leaves::<R::Split>(), p.roots(), p.spans());
    let (records, shift, targets, size) = (p.records::<R>(), p.shift(), p.targets(), p.column_count() * COLUMN);
    let whole = count / AT_ONCE;
    // SAFETY: the caller vouches for the blocks and the sums.
    unsafe {
        let done = wide::<R>(isa, p, blocks, count, sums, &leaves);
        if done / AT_ONCE < whole {
            for (tree, (root, span)) in roots.iter().zip(spans).enumerate() {
                for g in done / AT_ONCE..whole {
                    let block = blocks.add(g * AT_ONCE / COLUMN * size + g * AT_ONCE % COLUMN);
                    let lanes: [*const R::Split; AT_ONCE] = core::array::from_fn(|k| block.add(k));
                    let reached = reach(records, shift, *span, [*root; AT_ONCE], lanes);
                    for (k, leaf) in reached.into_iter().enumerate() {
                        collect(&leaves, tree, leaf, p.aggregate(), sums.add((g * AT_ONCE + k) * targets), targets);
                    }
                }
            }
        }
        for row in (whole * AT_ONCE).max(done)..count {
            let block = blocks.add(row / COLUMN * size + row % COLUMN);
            let sums = sums.add(row * targets);
            for first in (0..roots.len()).step_by(AT_ONCE) {
                // The last trees of a short group are walked once more than needed.
                let of = |k: usize| (first + k).min(roots.len() - 1);
                let at: [u32; AT_ONCE] = core::array::from_fn(|k| *roots.get_unchecked(of(k)));
                let span = (0..AT_ONCE).fold([u32::MAX, 0], |s, k| {
                    let [least, most] = *spans.get_unchecked(of(k));
                    [s[0].min(least), s[1].max(most)]
                });
                let reached = reach(records, shift, span, at, [block; AT_ONCE]);
                for (k, leaf) in reached.into_iter().enumerate().take(roots.len() - first) {
                    collect(&leaves, first + k, leaf, p.aggregate(), sums, targets);
                }
            }
        }
    }
}

/// Rows by the lanes of vectors, as many as are whole; gives how many.
#[inline(always)]
unsafe fn wide<R: Record>(
    isa: Isa,
    p: &Packed<'_>,
    blocks: *const R::Split,
    count: usize,
    sums: *mut R::Split,
    leaves: &Leaves<'_, R::Split>,
) -> usize {
    #[cfg(target_arch = "x86_64")]
    if isa >= Isa::Avx512 && p.kind() == 0 && count >= COLUMN {
        // SAFETY: the kind says that splits are f32 and records narrow, so the casts are to the types they have.
        unsafe {
            let leaves = &*(leaves as *const Leaves<'_, R::Split>).cast::<Leaves<'_, f32>>();
            super::x86_avx512::blocks(p, blocks.cast(), count / COLUMN, sums.cast(), leaves);
        }
        return count / COLUMN * COLUMN;
    }
    let _ = (isa, p, blocks, count, sums, leaves);
    0
}
