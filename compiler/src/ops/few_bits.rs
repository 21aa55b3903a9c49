//! Matrices of few bits: integers with a scale and a zero point for each block, 16-bit floats, and products with them.

use super::{Call, CallArg, Facts, Infer, Lowering, Operator, Reader};
use crate::diagnostics::Diagnostic;
use crate::ir::{Dim, Fact, ValueId};
use kiln_kernels::dtype::DType;
use kiln_kernels::value::Tensor;

/// The types of integers that blocks have.
fn is_code(d: DType) -> bool {
    matches!(d, DType::U8 | DType::I8 | DType::U4 | DType::I4 | DType::U2 | DType::I2)
}

/// Blocks of an extent.
fn count(extent: &Dim, block: i64) -> Dim {
    (extent.clone() + Dim::int(block - 1)).floor_div(&Dim::int(block))
}

/// What is wrong with scales and zero points, operands `first` and the next, of a matrix of `w`.
fn check(cx: &Facts<'_>, w: usize, axis: usize, block: i64) -> Result<(), Diagnostic> {
    let (shape, scales) = (cx.shape(w), cx.shape(w + 1));
    let fits = |s: &[Dim]| {
        let want = |a: usize| if a == axis { count(&shape[a], block) } else { shape[a].clone() };
        s.len() == 2 && (0..2).all(|a| s[a] == want(a))
    };
    let zeros = !cx.has(w + 2) || (fits(cx.shape(w + 2)) && matches!(cx.dtype(w + 2), DType::U8 | DType::I8 | DType::F32));
    if shape.len() != 2 || axis > 1 || block < 1 || !is_code(cx.dtype(w)) || cx.dtype(w + 1) != DType::F32 || !fits(scales) || !zeros {
        return Err(Diagnostic::new(format!(
            "{}[{}] in blocks of {block} along axis {axis} does not fit scales of shape [{}], or its zero points",
            cx.dtype(w),
            super::cx::list(shape),
            super::cx::list(scales)
        )));
    }
    Ok(())
}

/// A matrix of integers as f32: `(codes - zeros) · scales`, where each block of elements along an axis has its own scale and zero point.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockDequantize {
    /// The axis that is cut into blocks.
    pub axis: usize,
    /// Elements of a block; the last one may have fewer.
    pub block: i64,
}

impl Operator for BlockDequantize {
    fn infer(&self, cx: &mut Infer<'_>) -> Result<Vec<Fact>, Diagnostic> {
        check(cx, 0, self.axis, self.block)?;
        Ok(vec![Fact::tensor(DType::F32, cx.shape(0).to_vec())])
    }
    fn lower(&self, cx: &Facts<'_>) -> Lowering {
        let args = [
            CallArg::Out(0),
            CallArg::In(0),
            CallArg::In(1),
            CallArg::OptIn(2),
            CallArg::Text(cx.dtype(0).name()),
            CallArg::Dim(cx.shape(0)[1].clone()),
            CallArg::Int(self.axis as i64),
            CallArg::Dim(Dim::int(self.block)),
        ];
        Lowering::Call(Call { entry: "narrow::dequantize_blocks", types: vec![cx.dtype(2)], args: args.into() })
    }
}

/// Rows times a matrix of few bits: operands x `[.., K]` and w, `[K, N]` where `axis` is 0, else `[N, K]`, and for one of integers scales
/// and perhaps zero points as [`BlockDequantize`] has them; w may be of f16 or bf16 instead. Result `[.., N]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NarrowMatMul {
    /// Which axis of w is that of K.
    pub axis: usize,
    /// Elements of a block of integers along K.
    pub block: i64,
}

impl Operator for NarrowMatMul {
    fn infer(&self, cx: &mut Infer<'_>) -> Result<Vec<Fact>, Diagnostic> {
        let (x, w) = (cx.shape(0), cx.shape(1));
        let halves = matches!(cx.dtype(1), DType::F16 | DType::Bf16) && !cx.has(2);
        if !halves {
            check(cx, 1, self.axis, self.block)?;
        }
        let (Some((k, rows)), [a, b], 0..=1) = (x.split_last(), w, self.axis) else {
            return Err(Diagnostic::new(format!("rows and a matrix are needed, found [{}] and [{}]", super::list(x), super::list(w))));
        };
        let (depth, columns) = if self.axis == 0 { (a, b) } else { (b, a) };
        if cx.dtype(0) != DType::F32 || k != depth {
            let (x, w) = (super::list(x), super::list(w));
            return Err(Diagnostic::new(format!(
                "rows {}[{x}] do not fit a matrix [{w}] whose axis {} is that of K",
                cx.dtype(0),
                self.axis
            )));
        }
        Ok(vec![Fact::tensor(DType::F32, [rows, std::slice::from_ref(columns)].concat())])
    }
    fn lower(&self, cx: &Facts<'_>) -> Lowering {
        let w = cx.shape(1);
        let [n, k] = [w[1 - self.axis].clone(), w[self.axis].clone()].map(CallArg::Dim);
        let (kind, axis) = (CallArg::Text(cx.dtype(1).name()), CallArg::Int(self.axis as i64));
        if !cx.has(2) {
            return Lowering::call("narrow::matmul_halves", [], 2, [kind, n, k, axis]);
        }
        let operands = [CallArg::Out(0), CallArg::In(0), CallArg::In(1), CallArg::In(2), CallArg::OptIn(3)];
        let args = operands.into_iter().chain([kind, n, k, axis, CallArg::Dim(Dim::int(self.block))]).collect();
        Lowering::Call(Call { entry: "narrow::matmul_blocks", types: vec![cx.dtype(3)], args })
    }
}

/// The integers of a constant of 2, 4 or 8 bits, a byte each; signed ones as they are in two's complement.
pub fn unpacked(t: &Tensor) -> Vec<u8> {
    let (bits, bytes) = (t.dtype.bits(), t.bytes());
    let signed = matches!(t.dtype, DType::I4 | DType::I2);
    let (each, unused) = (8 / bits, 8 - bits);
    let one = |i: usize| {
        let high = bytes[i / each] >> (i % each * bits) << unused;
        if signed { ((high as i8) >> unused) as u8 } else { high >> unused }
    };
    (0..t.len()).map(one).collect()
}

/// A constant of integers as bytes, for zero points.
fn as_bytes(t: &Tensor) -> Tensor {
    let dtype = if matches!(t.dtype, DType::I8 | DType::I4 | DType::I2) { DType::I8 } else { DType::U8 };
    Tensor::with_dtype(dtype, &t.dims, &unpacked(t))
}

/// `DequantizeLinear` of a constant matrix whose integers come in blocks or lie closer than bytes, as [`BlockDequantize`]; `None` where it
/// is another one.
///
/// # Errors
/// The scales do not fit the matrix.
pub fn dequantize(r: &mut Reader<'_, '_>) -> Result<Option<ValueId>, Diagnostic> {
    let (x, s) = (r.input(0)?, r.input(1)?);
    let zeros = r.opt(2);
    let constant = |v: ValueId| r.constant(v).is_some();
    let few = r.int("block_size", 0)? > 0 || r.dtype(x).bits() < 8;
    let f32 = r.dtype_attr("output_dtype")?.is_none_or(|d| d == DType::F32) && r.dtype(s) == DType::F32;
    if !(few && f32 && is_code(r.dtype(x)) && constant(x) && constant(s) && zeros.is_none_or(constant)) {
        return Ok(None);
    }
    let [rows, cols] = r.constant(x).map_or(&[][..], |t| &t.dims[..]) else { return Ok(None) };
    let (rows, cols) = (*rows as i64, *cols as i64);
    let shape = r.shape(s)?;
    let (mut axis, mut block) = (r.int("axis", 1)?, r.int("block_size", 0)?);
    axis = r.axis(axis, 2)? as i64;
    // One scale for all, or one a row or column: blocks as long as the other axis.
    let dims = match &shape[..] {
        [_, _] if block > 0 => None,
        [n] if !n.is(1) || (axis == 0 && rows == 1) || (axis == 1 && cols == 1) => {
            axis = 1 - axis;
            block = if axis == 0 { rows } else { cols };
            let n = n.clone();
            Some(if axis == 0 { [Dim::int(1), n] } else { [n, Dim::int(1)] })
        }
        [] | [_] => {
            (axis, block) = (0, rows);
            Some([Dim::int(1), Dim::int(cols)])
        }
        _ => return Ok(None),
    };
    if block < 1 {
        return Ok(None);
    }
    let spread = |r: &mut Reader<'_, '_>, v: ValueId| match &dims {
        None => Ok(v),
        Some(dims) if shape.iter().any(|d| !d.is(1)) || shape.is_empty() && cols == 1 => r.reshape(v, dims.to_vec()),
        Some(dims) => {
            let v = r.reshape(v, vec![Dim::int(1), Dim::int(1)])?;
            r.expand(v, dims.to_vec())
        }
    };
    let scales = spread(r, s)?;
    let mut inputs = vec![Some(x), Some(scales)];
    if let Some(z) = zeros {
        let Some(t) = r.constant(z) else { return Ok(None) };
        let bytes = as_bytes(t);
        let z = r.tensor(bytes);
        inputs.push(Some(spread(r, z)?));
    }
    Ok(Some(r.emit_all(BlockDequantize { axis: axis as usize, block }, inputs, 1)?[0]))
}

/// The zero points of [`read_matmul`], `[N, blocks]`: floats as they are, integers packed by rows as bytes.
fn zero_points(r: &mut Reader<'_, '_>, bits: usize, [n, blocks]: [usize; 2]) -> Result<ValueId, Diagnostic> {
    let Some(z) = r.opt(3) else {
        let middle = vec![1u8 << (bits - 1); n * blocks];
        return Ok(r.tensor(Tensor::new(&[n, blocks], &middle)));
    };
    if r.dtype(z) != DType::U8 {
        let z = r.cast(z, DType::F32)?;
        return r.reshape(z, vec![Dim::int(n as i64), Dim::int(blocks as i64)]);
    }
    let row = (blocks * bits).div_ceil(8);
    let t = r.constant(z).ok_or_else(|| Diagnostic::new("MatMulNBits needs constant zero points"))?;
    if t.len() != n * row {
        return Err(Diagnostic::new(format!("zero points of {n} columns with {blocks} blocks are {} bytes, found {}", n * row, t.len())));
    }
    let (each, mask) = (8 / bits, ((1u32 << bits) - 1) as u8);
    let one = |i: usize| t.bytes()[i / blocks * row + i % blocks / each] >> (i % blocks % each * bits) & mask;
    let bytes: Vec<u8> = (0..n * blocks).map(one).collect();
    Ok(r.tensor(Tensor::new(&[n, blocks], &bytes)))
}

/// A positive integer attribute.
fn positive(r: &Reader<'_, '_>, name: &str) -> Result<usize, Diagnostic> {
    let found = r.int_opt(name)?.ok_or_else(|| Diagnostic::new(format!("MatMulNBits needs the attribute {name}")))?;
    let fits = usize::try_from(found).ok().filter(|n| (1..=1 << 40).contains(n));
    fits.ok_or_else(|| Diagnostic::new(format!("attribute {name} of MatMulNBits must be positive, found {found}")))
}

/// Reads [MatMulNBits](https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.MatMulNBits): a product
/// with the transpose of a matrix `[N, K]` of integers, in blocks along K.
pub fn read_matmul(r: &mut Reader<'_, '_>) -> Result<Vec<ValueId>, Diagnostic> {
    let [k, n, block] = [positive(r, "K")?, positive(r, "N")?, positive(r, "block_size")?];
    let bits = match r.int("bits", 4)? {
        b @ (2 | 4 | 8) => b as usize,
        other => return Err(Diagnostic::new(format!("MatMulNBits of {other} bits is not supported")).help("quantize to 2, 4 or 8 bits")),
    };
    if r.opt(4).is_some() {
        return Err(Diagnostic::new("MatMulNBits with g_idx, an order of its own for the rows of each group, is not supported")
            .help("quantize without reordering: for GPTQ, with act_order (desc_act) off"));
    }
    if r.int("weight_prepacked", 0)? != 0 {
        return Err(Diagnostic::new("the weights of MatMulNBits are packed for another runtime").help("export with weight_prepacked = 0"));
    }
    if block < 16 || !block.is_power_of_two() {
        return Err(Diagnostic::new(format!("block_size of MatMulNBits must be a power of two from 16 on, found {block}")));
    }
    let (x, w, s) = (r.input(0)?, r.input(1)?, r.input(2)?);
    let dtype = r.dtype(x);
    let blocks = k.div_ceil(block);
    let row = blocks.saturating_mul(block / 8 * bits);
    let codes = r.constant(w).ok_or_else(|| Diagnostic::new("MatMulNBits needs constant weights"))?;
    if codes.dtype != DType::U8 || codes.bytes().len() != n.saturating_mul(row) {
        return Err(Diagnostic::new(format!(
            "the weights of MatMulNBits must be u8[{n}, {blocks}, {}], found {}{:?}",
            block / 8 * bits,
            codes.dtype,
            codes.dims
        )));
    }
    let kind = match bits {
        2 => DType::U2,
        4 => DType::U4,
        _ => DType::U8,
    };
    // The bytes are those of a packed tensor; what fills the last blocks up is cut off.
    let whole = Tensor { dtype: kind, dims: vec![n, blocks * block], data: codes.data.clone() };
    let each = 8 / bits;
    let codes = if k == blocks * block {
        whole
    } else {
        let all = unpacked(&whole);
        let mut cut = Tensor::zeros(kind, &[n, k]);
        let bytes = cut.bytes_mut();
        for i in 0..n * k {
            bytes[i / each] |= all[i / k * blocks * block + i % k] << (i % each * bits);
        }
        cut
    };
    let codes = r.tensor(codes);
    let s = r.cast(s, DType::F32)?;
    let scales = r.reshape(s, vec![Dim::int(n as i64), Dim::int(blocks as i64)])?;
    let zeros = zero_points(r, bits, [n, blocks])?;
    let matrix = r.emit(BlockDequantize { axis: 1, block: block as i64 }, &[codes, scales, zeros])?;
    let matrix = r.transpose(matrix, vec![1, 0])?;
    let x = r.cast(x, DType::F32)?;
    let mut y = r.matmul(x, matrix)?;
    if let Some(bias) = r.opt(5) {
        let bias = r.cast(bias, DType::F32)?;
        y = r.add(y, bias)?;
    }
    Ok(vec![r.cast(y, dtype)?])
}

/// The numbers of the codes of four bits that MatMulBnb4 calls FP4 and NF4.
const BNB4: [[f32; 16]; 2] = [
    [
        0.0,
        0.005_208_333_4,
        0.666_666_7,
        1.0,
        0.333_333_34,
        0.5,
        0.166_666_67,
        0.25,
        0.0,
        -0.005_208_333_4,
        -0.666_666_7,
        -1.0,
        -0.333_333_34,
        -0.5,
        -0.166_666_67,
        -0.25,
    ],
    [
        -1.0,
        -0.696_192_8,
        -0.525_073_05,
        -0.394_917_5,
        -0.284_441_38,
        -0.184_773_43,
        -0.091_050_04,
        0.0,
        0.079_580_3,
        0.160_930_2,
        0.246_112_3,
        0.337_915_24,
        0.440_709_83,
        0.562_617,
        0.722_956_84,
        1.0,
    ],
];

/// Reads [MatMulBnb4](https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.MatMulBnb4): a product
/// with the transpose of a matrix `[N, K]` of codes of four bits, the first of a byte on top, in blocks along all of it.
pub fn read_matmul_of_floats(r: &mut Reader<'_, '_>) -> Result<Vec<ValueId>, Diagnostic> {
    let [k, n, block] = [positive(r, "K")?, positive(r, "N")?, positive(r, "block_size")?];
    let table = match r.int("quant_type", 1)? {
        t @ (0 | 1) => &BNB4[t as usize],
        t => return Err(Diagnostic::new(format!("attribute quant_type is {t}, expected 0 or 1"))),
    };
    let (x, w, s) = (r.input(0)?, r.input(1)?, r.input(2)?);
    let dtype = r.dtype(x);
    let (Some(codes), Some(most)) = (r.constant(w), r.constant(s).and_then(Tensor::to_f64s)) else {
        return Err(Diagnostic::new("MatMulBnb4 needs constant weights"));
    };
    let count = n.saturating_mul(k);
    if codes.dtype != DType::U8 || codes.len() != count.div_ceil(2) || most.len() != count.div_ceil(block) {
        return Err(Diagnostic::new(format!(
            "weights of MatMulBnb4 for {count} elements are {} bytes and {} scales",
            codes.len(),
            most.len()
        )));
    }
    let value = |i: usize| table[(codes.bytes()[i / 2] >> (4 * (1 - i % 2)) & 15) as usize] * most[i / block] as f32;
    let matrix: Vec<f32> = (0..count).map(|i| value(i / n + i % n * k)).collect();
    let matrix = r.tensor(Tensor::new(&[k, n], &matrix));
    let x = r.cast(x, DType::F32)?;
    let y = r.matmul(x, matrix)?;
    Ok(vec![r.cast(y, dtype)?])
}
