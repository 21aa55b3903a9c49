//! Matrices of few bits by plain loops: dequantized, and as the right side of products. The references of `gemm/narrow`.

use super::{kind_of, value};
use crate::dtype::{DType, bf16, f16};
use crate::entry::{In, Out};
use crate::fault::Fault;
use crate::num::Num;

/// The integer at a place, of a type of 2, 4 or 8 bits.
fn integer(kind: DType, codes: &[u8], i: usize) -> f32 {
    match kind {
        DType::U8 => f32::from(codes[i]),
        DType::I8 => f32::from(codes[i] as i8),
        _ => {
            let (bits, each) = (kind.bits(), 8 / kind.bits());
            value(kind, codes[i / each] >> (i % each * bits) & ((1 << bits) - 1))
        }
    }
}

/// A matrix of integers with scales and zero points for each block along one of its axes.
struct Blocks<'a, Z> {
    kind: DType,
    codes: &'a [u8],
    scales: &'a [f32],
    zeros: Option<&'a [Z]>,
    cols: usize,
    /// Elements of a block along the rows and along the columns.
    block: [usize; 2],
}

impl<Z: Num> Blocks<'_, Z> {
    /// The number that an element stands for.
    fn at(&self, row: usize, col: usize) -> f32 {
        let at = row / self.block[0] * self.cols.div_ceil(self.block[1]) + col / self.block[1];
        let zero = self.zeros.map_or(0.0, |z| z[at].to_f64() as f32);
        (integer(self.kind, self.codes, row * self.cols + col) - zero) * self.scales[at]
    }
}

fn blocks<'a, Z: Num>(
    (codes, scales, zeros): (In<'a, u8>, In<'a, f32>, Option<In<'a, Z>>),
    kind: &str,
    cols: usize,
    axis: i64,
    block: usize,
) -> Result<Blocks<'a, Z>, Fault> {
    let block = if axis == 0 { [block.max(1), 1] } else { [1, block.max(1)] };
    Ok(Blocks { kind: kind_of(kind)?, codes: codes.0, scales: scales.0, zeros: zeros.map(|z| z.0), cols, block })
}

/// `(codes - zeros) * scales` of a matrix whose scales and zero points are those of blocks along an axis:
/// [DequantizeLinear](https://onnx.ai/onnx/operators/onnx__DequantizeLinear.html). `kind` names the type of the integers.
///
/// # Errors
/// It names none.
pub fn dequantize_blocks<Z: Num>(
    out: Out<'_, f32>,
    codes: In<'_, u8>,
    scales: In<'_, f32>,
    zeros: Option<In<'_, Z>>,
    kind: &str,
    cols: usize,
    axis: i64,
    block: usize,
) -> Result<(), Fault> {
    let matrix = blocks((codes, scales, zeros), kind, cols, axis, block)?;
    for (i, o) in out.0.iter_mut().enumerate() {
        *o = matrix.at(i / cols, i % cols);
    }
    Ok(())
}

/// Rows of `depth` columns times a matrix, whose depth is its axis number `axis` and whose elements are `w(row, column)`.
fn multiply(out: &mut [f32], x: &[f32], (n, depth): (usize, usize), axis: i64, w: impl Fn(usize, usize) -> f32) {
    for (i, o) in out.iter_mut().enumerate() {
        let (row, col) = (i / n, i % n);
        let x = &x[row * depth..][..depth];
        *o = x.iter().enumerate().fold(0.0, |sum, (p, x)| sum + x * if axis == 0 { w(p, col) } else { w(col, p) });
    }
}

/// Rows times a matrix as [`dequantize_blocks`] has it, which is `[k, n]` where `axis` is 0, else `[n, k]`; blocks lie along k.
///
/// # Errors
/// As there.
pub fn matmul_blocks<Z: Num>(
    out: Out<'_, f32>,
    x: In<'_, f32>,
    codes: In<'_, u8>,
    scales: In<'_, f32>,
    zeros: Option<In<'_, Z>>,
    kind: &str,
    n: usize,
    k: usize,
    axis: i64,
    block: usize,
) -> Result<(), Fault> {
    let matrix = blocks((codes, scales, zeros), kind, if axis == 0 { n } else { k }, axis, block)?;
    multiply(out.0, x.0, (n, k), axis, |row, col| matrix.at(row, col));
    Ok(())
}

/// Rows times a matrix of 16-bit floats, which is `[k, n]` where `axis` is 0, else `[n, k]`. `kind` names their type.
pub fn matmul_halves(out: Out<'_, f32>, x: In<'_, f32>, w: In<'_, u16>, kind: &str, n: usize, k: usize, axis: i64) {
    let cols = if axis == 0 { n } else { k };
    let wide = |bits: u16| if kind == DType::Bf16.name() { bf16(bits).to_f32() } else { f16(bits).to_f32() };
    multiply(out.0, x.0, (n, k), axis, |row, col| wide(w.0[row * cols + col]));
}
