//! Tiles of the input to rows of matrices, and rows of products to pixels: channels are the elements of vectors.
#![allow(clippy::needless_range_loop, reason = "indices are rows and columns of tiles, of which several arrays are read")]

use super::points::{Four, MOST, Points, Two};
use crate::conv::Conv;
use crate::gemm::{Finish, finish_some};
use crate::isa::Isa;
#[cfg(target_arch = "x86_64")]
use crate::simd::{Avx2, Avx512};
use crate::simd::{Lanes, Simd};
use core::ops::Range;

/// Floats of the widest vector.
const WIDEST: usize = 16;

/// Tiles of a task, and where their matrices lie.
pub(super) struct Work<'a> {
    pub(super) conv: &'a Conv,
    /// Outputs of a tile along each axis.
    pub(super) m: usize,
    pub(super) tiles: Range<usize>,
    /// Floats from tile to tile of a matrix.
    pub(super) pitch: usize,
    /// Floats from matrix to matrix.
    pub(super) step: usize,
}

/// Where a stretch of a row of tiles goes.
pub(super) struct Pixels {
    /// The first pixel's first channel.
    pub(super) out: *mut f32,
    /// Rows of pixels, at most those of a tile.
    pub(super) rows: usize,
    /// Pixels of a row.
    pub(super) pixels: usize,
    /// Channels of a pixel.
    pub(super) cols: usize,
    /// What becomes of them, from the first pixel's first channel on.
    pub(super) finish: Finish,
}

/// A function compiled for each instruction set and tile.
macro_rules! each {
    ($isa:ident, $m:expr, $body:ident($($arg:ident: $ty:ty),*)) => {{
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
        #[inline(never)]
        unsafe fn avx512<P: Points>($($arg: $ty),*) {
            // SAFETY: passed on from the caller.
            unsafe { $body::<Avx512, P>($($arg),*) }
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma")]
        #[inline(never)]
        unsafe fn avx2<P: Points>($($arg: $ty),*) {
            // SAFETY: passed on from the caller.
            unsafe { $body::<Avx2, P>($($arg),*) }
        }
        #[inline(never)]
        unsafe fn portable<P: Points>($($arg: $ty),*) {
            // SAFETY: passed on from the caller.
            unsafe { $body::<Lanes, P>($($arg),*) }
        }
        // SAFETY: the caller vouches for the pointers and for the machine having `isa`.
        unsafe {
            match ($isa, $m) {
                #[cfg(target_arch = "x86_64")]
                (Isa::Avx512 | Isa::Amx, 2) => avx512::<Two>($($arg),*),
                #[cfg(target_arch = "x86_64")]
                (Isa::Avx512 | Isa::Amx, _) => avx512::<Four>($($arg),*),
                #[cfg(target_arch = "x86_64")]
                (Isa::Avx2, 2) => avx2::<Two>($($arg),*),
                #[cfg(target_arch = "x86_64")]
                (Isa::Avx2, _) => avx2::<Four>($($arg),*),
                (_, 2) => portable::<Two>($($arg),*),
                _ => portable::<Four>($($arg),*),
            }
        }
    }};
}

/// Writes tile `i` of the task to row `i` of every matrix.
///
/// # Safety
/// `x` addresses the input, `zeros` as many zeros as it has channels, `to` holds the matrices with room for whole vectors behind the
/// channels, and the machine has `isa`.
pub(super) unsafe fn input(isa: Isa, work: &Work<'_>, x: *const f32, zeros: *const f32, to: *mut f32) {
    each!(isa, work.m, input_body(work: &Work<'_>, x: *const f32, zeros: *const f32, to: *mut f32))
}

/// Makes pixels of the tiles from the first row of the matrices on, and adds the bias.
///
/// # Safety
/// `from` addresses rows of products with room for whole vectors behind the channels, `bias` is null or holds as many floats, `to`
/// describes pixels of the output, and the machine has `isa`.
pub(super) unsafe fn output(isa: Isa, work: &Work<'_>, from: *const f32, bias: *const f32, to: &Pixels) {
    each!(isa, work.m, output_body(work: &Work<'_>, from: *const f32, bias: *const f32, to: &Pixels))
}

/// # Safety
/// As [`input`].
#[inline(always)]
unsafe fn input_body<S: Simd, P: Points>(work: &Work<'_>, x: *const f32, zeros: *const f32, to: *mut f32) {
    let c = work.conv;
    let [x_n, _, _, x_h, x_w] = c.x_strides;
    let [_, ih, iw] = c.in_dims;
    let (down, across) = (c.out_dims[1].div_ceil(P::M), c.out_dims[2].div_ceil(P::M));
    let whole = c.c / S::W * S::W;
    for (row, tile) in work.tiles.clone().enumerate() {
        let (image, i, j) = (tile / across / down, tile / across % down * P::M, tile % across * P::M);
        // SAFETY: only pixels inside of the input are read, zeros stand for those around it, and rows of the matrices are written.
        unsafe {
            let to = to.add(row * work.pitch);
            let mut from = [[zeros; MOST]; MOST];
            for (r, line) in from.iter_mut().enumerate().take(P::T) {
                let h = (i + r).wrapping_sub(c.pad[1]);
                for (s, p) in line.iter_mut().enumerate().take(P::T) {
                    let w = (j + s).wrapping_sub(c.pad[2]);
                    if h < ih && w < iw {
                        *p = x.add(image * x_n + h * x_h + w * x_w);
                    }
                }
            }
            for channel in (0..whole).step_by(S::W) {
                input_vector::<S, P>(&from, channel, to.add(channel), work.step);
            }
            if whole < c.c {
                let mut last = [[[0f32; WIDEST]; MOST]; MOST];
                for (from, last) in from.iter().flatten().zip(last.iter_mut().flatten()) {
                    core::ptr::copy_nonoverlapping(from.add(whole), last.as_mut_ptr(), c.c - whole);
                }
                let from = core::array::from_fn(|r| core::array::from_fn(|s| last[r][s].as_ptr()));
                input_vector::<S, P>(&from, 0, to.add(whole), work.step);
            }
        }
    }
}

/// `Bt d B` of one vector of channels.
///
/// # Safety
/// As [`input`], of one tile.
#[inline(always)]
unsafe fn input_vector<S: Simd, P: Points>(from: &[[*const f32; MOST]; MOST], channel: usize, to: *mut f32, step: usize) {
    // SAFETY: the caller vouches for vectors at `channel` of every pointer, and at every matrix.
    unsafe {
        let mut half = [[S::zero(); MOST]; MOST];
        for s in 0..P::T {
            let mut d = [S::zero(); MOST];
            for r in 0..P::T {
                d[r] = S::load(from[r][s].add(channel));
            }
            let e = P::input::<S>(d);
            for r in 0..P::T {
                half[r][s] = e[r];
            }
        }
        for r in 0..P::T {
            let e = P::input::<S>(half[r]);
            for s in 0..P::T {
                S::store(to.add((r * P::T + s) * step), e[s]);
            }
        }
    }
}

/// # Safety
/// As [`output`].
#[inline(always)]
unsafe fn output_body<S: Simd, P: Points>(work: &Work<'_>, from: *const f32, bias: *const f32, to: &Pixels) {
    let (ow, pitch) = (work.conv.out_dims[2], work.conv.out_pitch);
    for tile in 0..to.pixels.div_ceil(P::M) {
        let inside = P::M.min(to.pixels - tile * P::M);
        for col in (0..to.cols).step_by(S::W) {
            let left = to.cols - col;
            // SAFETY: only channels and pixels of the output are written; rows of products and the bias hold whole vectors.
            unsafe {
                let from = from.add(tile * work.pitch + col);
                let out = to.out.add(tile * P::M * pitch + col);
                let b = if bias.is_null() { S::zero() } else { S::load(bias.add(col)) };
                let mut half = [[S::zero(); MOST]; MOST];
                for s in 0..P::T {
                    let mut p = [S::zero(); MOST];
                    for r in 0..P::T {
                        p[r] = S::load(from.add((r * P::T + s) * work.step));
                    }
                    let e = P::output::<S>(p);
                    for r in 0..P::M {
                        half[r][s] = e[r];
                    }
                }
                for r in 0..P::M {
                    if r >= to.rows {
                        break;
                    }
                    let e = P::output::<S>(half[r]);
                    for s in 0..P::M {
                        if s >= inside {
                            break;
                        }
                        let (v, at) = (S::add(e[s], b), out.add((r * ow + s) * pitch));
                        finish_some::<S>(v, left.min(S::W), to.finish.at(r * ow + tile * P::M + s, col), at);
                    }
                }
            }
        }
    }
}
