//! Products with weights of few bits: where they stay as they are stored, and their kernel.

use super::cost::RATES;
use super::reach::row_pitch;
use super::rows;
use super::select::Selected;
use super::tiled::split_bias;
use crate::ir::{Dim, Graph, Node, ValueId, product};
use crate::kernel::{Arrangement, Epilogue, Kernel, Packed, Recipe, ZeroPoints};
use crate::layout::{Layout, Layouts};
use crate::ops::few_bits::NarrowMatMul;
use crate::target::Accuracy;
use kiln_kernels::dtype::DType;
use kiln_kernels::gemm::DIGIT_LEAST;
use kiln_kernels::gemm::narrow::{BLOCKS, Coding, FEW};
use kiln_kernels::value::Tensor;

/// Widening a weight into a panel of f32, in picoseconds on one core.
const WIDENED: f64 = 4.0;

/// What a multiply-add of panels of f32 takes, relative to others, on machines that compute it by digits.
const BY_DIGITS: f64 = 0.5;

/// Whether weights of so many bits stay as they are stored in a product of at least so many rows: a row that reads them moves fewer bytes,
/// but many rows meet weights of f32 by digits of both where the machine multiplies bytes faster, and those of few bits do not.
pub fn stays_narrow(rows: i64, bits: usize) -> bool {
    let m = rows.max(1) as f64;
    let bytes = |bits: usize| bits as f64 / 8.0 * RATES.weight;
    let widened = if rows > FEW as i64 { WIDENED } else { 0.0 };
    let digits = if rows >= DIGIT_LEAST[0] as i64 { BY_DIGITS } else { 1.0 };
    bytes(bits) + widened + m * RATES.multiply_add <= bytes(32) + m * RATES.multiply_add * digits
}

/// Elements of a block as the kernel has them, in a matrix of depth `k` with blocks of `block`: whole vectors, whose sums are exact.
pub fn narrow_block(k: usize, block: i64) -> Option<usize> {
    let [least, most] = BLOCKS;
    let block = usize::try_from(block).ok().filter(|b| *b > 0)?;
    if block >= k {
        return Some(k.next_multiple_of(least).clamp(least, most));
    }
    (1..=block.min(most) / least).rev().map(|i| i * least).find(|b| block.is_multiple_of(*b))
}

/// How the kernel of a product reads its weights.
struct Stored {
    k: usize,
    n: usize,
    coding: Coding,
    codes: Packed,
    scales: Option<Packed>,
    zeros: ZeroPoints,
}

/// Recipes for the weights of a product; `None` where they are no constants that the kernel takes.
fn stored(g: &Graph, node: &Node, op: &NarrowMatMul) -> Option<Stored> {
    let operand = |i: usize| node.inputs.get(i).copied().flatten();
    let constant = |i: usize| operand(i).and_then(|v| Some((v, g[v].constant.as_ref()?)));
    let (w, t) = constant(1)?;
    let (axis, (k, n)) = (op.axis, (t.dims[op.axis], t.dims[1 - op.axis]));
    let none = ZeroPoints::Same(0);
    if matches!(t.dtype, DType::F16 | DType::Bf16) {
        let coding = if t.dtype == DType::F16 { Coding::F16 } else { Coding::Bf16 };
        let codes = Packed { value: w, recipe: Recipe::Halves { k, n, axis } };
        return Some(Stored { k, n, coding, codes, scales: None, zeros: none });
    }
    let (bits, block) = (t.dtype.bits(), narrow_block(k, op.block)?);
    let codes = Packed { value: w, recipe: Recipe::Codes { k, n, axis, block, arrangement: Arrangement::Panels } };
    // Packed integers have no sign: what is taken off them is more by as much.
    let signed = matches!(t.dtype, DType::I8 | DType::I4 | DType::I2);
    let more = if signed { 1u8 << (bits - 1) } else { 0 };
    let each = |value: ValueId| Packed {
        value,
        recipe: Recipe::Blocks {
            n,
            axis,
            blocks: k.div_ceil(block),
            block,
            given: op.block as usize,
            more,
            arrangement: Arrangement::Panels,
        },
    };
    let zeros = match operand(3) {
        None => ZeroPoints::Same(more),
        Some(v) => {
            let t = g[v].constant.as_ref()?;
            match t.dtype {
                DType::F32 if !signed => ZeroPoints::Floats(each(v)),
                DType::F32 => return None,
                _ => {
                    let whole = t.to_i64s()?;
                    let first = whole.first().copied().unwrap_or(0);
                    if !whole.iter().all(|z| (0..256).contains(&(z + i64::from(more)))) {
                        return None;
                    }
                    match whole.iter().all(|z| *z == first) {
                        true => ZeroPoints::Same((first + i64::from(more)) as u8),
                        false => ZeroPoints::Each(each(v)),
                    }
                }
            }
        }
    };
    let (s, _) = constant(2)?;
    let scales = Some(Packed { recipe: each(s).recipe, value: s });
    Some(Stored { k, n, coding: Coding::Blocks { bits, block }, codes, scales, zeros })
}

/// Whether there is a kernel for a product.
pub(super) fn fits(g: &Graph, node: &Node, op: &NarrowMatMul) -> bool {
    stored(g, node, op).is_some()
}

/// The kernel. `result` is the cluster's result.
pub(super) fn select(
    g: &Graph,
    node: &Node,
    op: &NarrowMatMul,
    epilogue: Option<Epilogue>,
    result: ValueId,
    layouts: &Layouts,
) -> Option<Selected> {
    let x = node.inputs[0]?;
    let Stored { k, n, coding, codes, scales, zeros } = stored(g, node, op)?;
    let (epilogue, bias) = split_bias(g, epilogue, n);
    let last = g.shape(x).len() - 1;
    let (a_row, wants) = match row_pitch(g, layouts, x, last) {
        Some(pitch) => (pitch, vec![]),
        None => (product(&g.shape(x)[last..]), vec![(x, Layout::RowMajor)]),
    };
    let to = row_pitch(g, layouts, result, g.shape(result).len() - 1);
    let places = to.is_some();
    let out_row = to.unwrap_or_else(|| Dim::int(n as i64));
    let kernel = Kernel::NarrowGemm { m: rows(g, x), n, k, a: x, a_row, out_row, coding, codes, scales, zeros, bias, epilogue };
    Some(Selected { kernel, wants, places })
}

/// Weights from which on a product stores them as fixed point: fewer may stay in the second-level cache, where widening them takes longer
/// than reading them.
const FIXED_LEAST: usize = 1 << 16;

/// Sizes from which on weights are no fixed point.
const FIXED_MOST: f32 = (1u128 << 100) as f32;

/// How a product of `m` rows reads a constant matrix of f32, `k` by `n`, in fewer bits, where the level allows it. Few rows read each weight
/// once, and wait for it: fixed point takes three quarters of the time, bf16 half.
pub fn shortened(t: &Tensor, m: &Dim, (k, n): (usize, usize), accuracy: Accuracy) -> Option<(Coding, Recipe)> {
    if m.as_int().is_none_or(|m| m > FEW as i64) {
        return None;
    }
    match accuracy {
        Accuracy::Exact => None,
        Accuracy::Standard => {
            let fits = k * n >= FIXED_LEAST && t.slice::<f32>().iter().all(|w| w.abs() < FIXED_MOST);
            fits.then_some((Coding::Fixed, Recipe::Fixed { k, n }))
        }
        Accuracy::Fast => Some((Coding::Bf16, Recipe::Halves { k, n, axis: 0 })),
    }
}

/// Has few rows meet constants of f32 in fewer bits, where the level allows it.
pub fn shorten(g: &Graph, kernel: &mut Kernel, accuracy: Accuracy) {
    let Kernel::Gemm { m, n, k, a, a_row, out_row, b, bias, epilogue } = kernel else { return };
    let short = g[b.value].constant.as_ref().and_then(|t| shortened(t, m, (*k, *n), accuracy));
    let Some((coding, recipe)) = short else { return };
    *kernel = Kernel::NarrowGemm {
        m: m.clone(),
        n: *n,
        k: *k,
        a: *a,
        a_row: a_row.clone(),
        out_row: out_row.clone(),
        coding,
        codes: Packed { value: b.value, recipe },
        scales: None,
        zeros: ZeroPoints::Same(0),
        bias: bias.clone(),
        epilogue: epilogue.take(),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_rows_keep_what_is_stored_and_many_do_not() {
        for bits in [2, 4, 8, 16] {
            assert!((0..=FEW as i64).all(|m| stays_narrow(m, bits)) && !stays_narrow(1000, bits), "{bits}");
        }
        assert!(stays_narrow(12, 2) && !stays_narrow(12, 16));
    }

    #[test]
    fn blocks_are_cut_to_whole_vectors() {
        let cases =
            [(100, 32, Some(32)), (100, 48, Some(48)), (4000, 512, Some(256)), (4000, 320, Some(160)), (100, 10, None), (100, 0, None)];
        for (k, block, want) in cases {
            assert_eq!(narrow_block(k, block), want, "{k} by {block}");
        }
        assert_eq!([narrow_block(10, 10), narrow_block(10, 99), narrow_block(5000, 5000)], [Some(16), Some(16), Some(256)]);
    }
}
