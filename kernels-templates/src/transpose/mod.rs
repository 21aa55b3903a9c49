//! Strided copies of any rank and element size: transpositions, slices, broadcasts, layout changes.

use crate::isa::Isa;
use crate::support::copy::{transpose, transpose_plain};

/// Most axes that a copy can have after neighbouring axes are merged.
pub const MAX_RANK: usize = 12;
/// Most axes that a copy can have before.
const MAX_AXES: usize = 64;

/// A copy `out[i · out_strides] = x[i · x_strides]` over all indices `i` below `dims`, planned once, run by tasks.
///
/// Strides are in elements; those of `x` may be zero (a broadcast) or negative (a reversal). Axes that are neighbours in
/// both tensors are merged, and ordered by the output.
#[derive(Clone, Copy, Debug)]
pub struct Copy {
    rank: usize,
    dims: [usize; MAX_RANK],
    out: [isize; MAX_RANK],
    x: [isize; MAX_RANK],
}

impl Copy {
    /// Plans a copy. `None` when more than [`MAX_RANK`] axes are left after merging.
    pub fn new(dims: &[usize], out_strides: &[isize], x_strides: &[isize]) -> Option<Copy> {
        assert!(dims.len() == out_strides.len() && dims.len() == x_strides.len(), "one stride an axis; this is a bug");
        let mut plan = Copy { rank: 0, dims: [1; MAX_RANK], out: [0; MAX_RANK], x: [0; MAX_RANK] };
        if dims.contains(&0) {
            plan.rank = 1;
            plan.dims[0] = 0;
            return Some(plan);
        }
        let mut order = [0; MAX_AXES];
        let order = order.get_mut(..dims.len())?;
        order.iter_mut().enumerate().for_each(|(i, axis)| *axis = i);
        order.sort_by_key(|&axis| core::cmp::Reverse(out_strides[axis].unsigned_abs()));
        for &mut axis in order {
            let (d, o, x) = (dims[axis], out_strides[axis], x_strides[axis]);
            if d == 1 {
                continue;
            }
            if plan.rank > 0 {
                let last = plan.rank - 1;
                if plan.out[last] == o * d as isize && plan.x[last] == x * d as isize {
                    (plan.dims[last], plan.out[last], plan.x[last]) = (plan.dims[last] * d, o, x);
                    continue;
                }
            }
            if plan.rank == MAX_RANK {
                return None;
            }
            (plan.dims[plan.rank], plan.out[plan.rank], plan.x[plan.rank]) = (d, o, x);
            plan.rank += 1;
        }
        // Where the two unit-stride axes are the last two in either order, the pair is a matrix transposition. An axis
        // with unit stride in `x` that stands before others moves next to the last, so that it is.
        if plan.rank >= 3
            && plan.out[plan.rank - 1] == 1
            && plan.x[plan.rank - 1] != 1
            && let Some(i) = (0..plan.rank - 2).find(|&i| plan.x[i] == 1)
        {
            plan.dims[i..plan.rank - 1].rotate_left(1);
            plan.out[i..plan.rank - 1].rotate_left(1);
            plan.x[i..plan.rank - 1].rotate_left(1);
        }
        Some(plan)
    }
    /// Elements that are copied.
    pub fn len(&self) -> usize {
        self.dims[..self.rank].iter().product()
    }
    /// Whether nothing is copied.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Axes of the block that one step of the loops copies: two where the pair is a transposition, else the last.
    fn inner(&self) -> usize {
        let r = self.rank;
        if r >= 2 && self.x[r - 1] != 1 && self.out[r - 1] == 1 && self.x[r - 2] == 1 { 2 } else { r.min(1) }
    }
    /// Steps of the outer loops.
    fn steps(&self) -> usize {
        self.dims[..self.rank - self.inner()].iter().product()
    }
    /// Parts that one block is cut in: transpositions of one large matrix are shared out by its rows.
    fn parts(&self) -> usize {
        let block: usize = self.dims[self.rank - self.inner()..self.rank].iter().product();
        if self.inner() == 2 && block > 1 << 16 { (block >> 15).min(self.dims[self.rank - 2].div_ceil(64)) } else { 1 }
    }
    /// Number of independent tasks.
    pub fn tasks(&self) -> usize {
        if self.is_empty() {
            return 0;
        }
        let parts = self.parts();
        if parts > 1 { self.steps() * parts } else { self.steps().min(self.len().div_ceil(1 << 14)) }
    }
    /// Runs one task.
    ///
    /// # Safety
    /// The pointers address tensors of the strides given, `out`'s elements are distinct and not among `x`'s, the task's
    /// part of `out` is not accessed elsewhere meanwhile, `task < tasks()`, and the machine has `isa`.
    pub unsafe fn run_task<T: core::marker::Copy>(&self, isa: Isa, task: usize, x: *const T, out: *mut T) {
        let (parts, inner) = (self.parts(), self.inner());
        let (range, part) = if parts > 1 {
            (task / parts..task / parts + 1, task % parts)
        } else {
            let (steps, tasks) = (self.steps(), self.tasks());
            (steps * task / tasks..steps * (task + 1) / tasks, 0)
        };
        let outer = self.rank - inner;
        // The index of the first step, then counted up like an odometer.
        let mut index = [0usize; MAX_RANK];
        let (mut x, mut out) = (x, out);
        let mut rest = range.start;
        // SAFETY: indices stay below the extents.
        unsafe {
            for axis in (0..outer).rev() {
                index[axis] = rest % self.dims[axis];
                rest /= self.dims[axis];
                x = x.offset(index[axis] as isize * self.x[axis]);
                out = out.offset(index[axis] as isize * self.out[axis]);
            }
            for _ in range {
                self.block(isa, inner, part, parts, x, out);
                for axis in (0..outer).rev() {
                    index[axis] += 1;
                    x = x.wrapping_offset(self.x[axis]);
                    out = out.wrapping_offset(self.out[axis]);
                    if index[axis] < self.dims[axis] {
                        break;
                    }
                    index[axis] = 0;
                    x = x.wrapping_offset(-self.x[axis] * self.dims[axis] as isize);
                    out = out.wrapping_offset(-self.out[axis] * self.dims[axis] as isize);
                }
            }
        }
    }

    /// One part of the innermost block.
    ///
    /// # Safety
    /// As `run_task`, with pointers at the block.
    unsafe fn block<T: core::marker::Copy>(&self, isa: Isa, inner: usize, part: usize, parts: usize, x: *const T, out: *mut T) {
        // SAFETY: all addresses are inside of the block.
        unsafe {
            if inner == 0 {
                *out = *x;
                return;
            }
            let last = self.rank - 1;
            let (n, x_step, out_step) = (self.dims[last], self.x[last], self.out[last]);
            if inner == 2 {
                // Rows of the output are `cols` of the source.
                let (cols, x_row, out_row) = (self.dims[last - 1], x_step, self.out[last - 1]);
                let (first, end) = (cols * part / parts, cols * (part + 1) / parts);
                let (x, out) = (x.add(first), out.offset(first as isize * out_row));
                if size_of::<T>() == 4 && x_row > 0 && out_row > 0 {
                    transpose(isa, n, end - first, x.cast(), x_row as usize, out.cast(), out_row as usize);
                } else {
                    transpose_plain(0..n, 0..end - first, x, x_row, out, out_row);
                }
            } else if x_step == 1 && out_step == 1 {
                core::ptr::copy_nonoverlapping(x, out, n);
            } else if x_step == 0 && out_step == 1 {
                let v = *x;
                for i in 0..n {
                    *out.add(i) = v;
                }
            } else {
                for i in 0..n as isize {
                    *out.offset(i * out_step) = *x.offset(i * x_step);
                }
            }
        }
    }
}

/// Copies all elements at once: [`struct@Copy`] with its tasks in turn, for any rank.
///
/// # Safety
/// As [`Copy::run_task`].
pub unsafe fn copy_strided<T: core::marker::Copy>(
    isa: Isa,
    out: *mut T,
    out_strides: &[isize],
    x: *const T,
    x_strides: &[isize],
    dims: &[usize],
) {
    // SAFETY: passed on from the caller; an outer axis that is looped over here stays below its extent.
    unsafe {
        match Copy::new(dims, out_strides, x_strides) {
            Some(plan) => (0..plan.tasks()).for_each(|task| plan.run_task(isa, task, x, out)),
            None => {
                for i in 0..dims[0] as isize {
                    let (x, out) = (x.offset(i * x_strides[0]), out.offset(i * out_strides[0]));
                    copy_strided(isa, out, &out_strides[1..], x, &x_strides[1..], &dims[1..]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::testing::Rng;

    fn row_major(dims: &[usize]) -> Vec<isize> {
        let mut strides = vec![1isize; dims.len()];
        for i in (0..dims.len().saturating_sub(1)).rev() {
            strides[i] = strides[i + 1] * dims[i + 1] as isize;
        }
        strides
    }

    fn check<T: core::marker::Copy + PartialEq + core::fmt::Debug>(rng: &mut Rng, dims: &[usize], value: impl Fn(u64) -> T) {
        let mut order: Vec<usize> = (0..dims.len()).collect();
        for i in (1..order.len()).rev() {
            order.swap(i, rng.int(0, i));
        }
        let source_dims: Vec<usize> = order.iter().map(|&a| dims[a]).collect();
        let source = row_major(&source_dims);
        let mut x_strides = vec![0isize; dims.len()];
        let mut start = 0;
        for (i, &a) in order.iter().enumerate() {
            x_strides[a] = source[i];
            match rng.int(0, 9) {
                0 => x_strides[a] = 0,
                1 if dims[a] > 0 => {
                    start += source[i] * (dims[a] as isize - 1);
                    x_strides[a] = -source[i];
                }
                _ => {}
            }
        }
        let len: usize = dims.iter().product();
        let x: Vec<T> = (0..len).map(|_| value(rng.next())).collect();
        let out_strides = row_major(dims);
        let mut want = vec![value(0); len];
        for (i, w) in want.iter_mut().enumerate() {
            let at: isize = (0..dims.len()).map(|a| (i as isize / out_strides[a] % dims[a] as isize) * x_strides[a]).sum();
            *w = x[(start + at) as usize];
        }
        for isa in Isa::available() {
            let mut got = vec![value(0); len];
            // SAFETY: all indices are inside of the arrays.
            unsafe { copy_strided(isa, got.as_mut_ptr(), &out_strides, x.as_ptr().offset(start), &x_strides, dims) };
            assert_eq!(got, want, "{dims:?} {x_strides:?}");
        }
    }

    #[test]
    fn copies_of_every_size_equal_the_reference() {
        let mut rng = Rng(11);
        for round in 0..200 {
            let dims: Vec<usize> = match round {
                0 => vec![],
                1 => vec![3, 0, 2],
                2 => vec![2; 14],
                3 => vec![300, 500],
                4 => vec![2, 90, 33, 17],
                _ => (0..rng.int(1, 5)).map(|_| rng.pick(&[1, 2, 3, 5, 8, 17, 24])).collect(),
            };
            if dims.iter().product::<usize>() > 200_000 {
                continue;
            }
            match rng.int(0, 4) {
                0 => check(&mut rng, &dims, |v| v as u8),
                1 => check(&mut rng, &dims, |v| v as u16),
                2 => check(&mut rng, &dims, |v| v),
                3 => check(&mut rng, &dims, |v| [v, !v]),
                _ => check(&mut rng, &dims, |v| v as u32),
            }
        }
    }

    #[test]
    fn channels_last_and_back_are_blocked_transpositions() {
        let plan = Copy::new(&[1, 56, 56, 64], &[200704, 3584, 64, 1], &[200704, 56, 1, 3136]).unwrap();
        assert_eq!((plan.rank, plan.inner()), (2, 2));
        assert!(plan.tasks() > 1);
        // BERT's heads: [S][H][64] to [H][S][64].
        let plan = Copy::new(&[12, 128, 64], &[8192, 64, 1], &[64, 768, 1]).unwrap();
        assert_eq!((plan.rank, plan.inner()), (3, 1));
    }
}
