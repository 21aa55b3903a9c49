//! Constants as kernels read them: each packed once by its recipe, equal ones stored once, written out in a stream.

use super::device;
use crate::ir::Graph;
use crate::kernel::{Arrangement, Method, Packed, Recipe};
use crate::ops::few_bits::unpacked;
use kiln_kernels::conv::Conv;
use kiln_kernels::depthwise::Depthwise;
use kiln_kernels::dtype::{DType, bf16};
use kiln_kernels::gemm::narrow::{self, Coding};
use kiln_kernels::igemm::{IntConv, IntDepthwise};
use kiln_kernels::value::Tensor;
use kiln_kernels::winograd::Winograd;
use kiln_kernels::{gemm, igemm, trees};
use std::collections::BTreeMap;
use std::io::{self, Write};

/// Blobs start at multiples of this many bytes.
const ALIGN: usize = 64;

/// One packed constant.
#[derive(Clone, Debug, PartialEq)]
pub struct Blob {
    /// What it is made of, and how: replaying it on new weights gives a new blob.
    pub packed: Packed,
    /// Offset in the file.
    pub offset: usize,
    /// Bytes.
    pub bytes: usize,
    /// A hash of the constant's contents.
    pub hash: u64,
}

/// All blobs of a plan.
#[derive(Clone, Debug, Default)]
pub struct Weights {
    /// Blobs in the order of their offsets.
    pub blobs: Vec<Blob>,
    /// Bytes of the whole file.
    pub bytes: usize,
    index: BTreeMap<(usize, u64, Recipe), Vec<usize>>,
}

/// A hash of contents: equal blobs are found by it and then compared.
fn fingerprint(t: &Tensor) -> u64 {
    let (words, rest) = t.bytes().as_chunks::<8>();
    let mut h = 0xcbf2_9ce4_8422_2325u64 ^ t.bytes().len() as u64;
    for w in words {
        h = (h ^ u64::from_le_bytes(*w)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        h ^= h >> 29;
    }
    for b in rest {
        h = (h ^ *b as u64).wrapping_mul(0x100_0000_01b3);
    }
    h
}

impl Weights {
    /// The blob of a packed constant; made when there is none of the same contents and recipe.
    pub fn intern(&mut self, g: &Graph, p: Packed) -> usize {
        let Some(t) = &g[p.value].constant else { return 0 };
        let hash = fingerprint(t);
        let key = (t.bytes().len(), hash, p.recipe.clone());
        let same = |b: &Blob| {
            let other = g[b.packed.value].constant.as_ref();
            other.is_some_and(|o| o.dtype == t.dtype && o.bytes() == t.bytes())
        };
        if let Some(found) = self.index.get(&key).and_then(|v| v.iter().find(|i| same(&self.blobs[**i]))) {
            return *found;
        }
        let bytes = packed_bytes(t, &p.recipe);
        let offset = self.bytes.next_multiple_of(ALIGN);
        // Kernels may read a whole vector past the end of the last element.
        self.bytes = offset + bytes;
        self.blobs.push(Blob { packed: p, offset, bytes, hash });
        self.index.entry(key).or_default().push(self.blobs.len() - 1);
        self.blobs.len() - 1
    }
    /// Writes the file, one blob in memory at a time.
    ///
    /// # Errors
    /// What the writer reports.
    pub fn write(&self, g: &Graph, out: &mut dyn Write) -> io::Result<()> {
        let mut at = 0;
        for b in &self.blobs {
            out.write_all(&[0; ALIGN][..b.offset - at])?;
            let Some(t) = &g[b.packed.value].constant else { continue };
            match &b.packed.recipe {
                Recipe::Raw => out.write_all(t.bytes())?,
                recipe => out.write_all(&pack(t, recipe))?,
            }
            at = b.offset + b.bytes;
        }
        Ok(())
    }
}

fn bytes_of(x: &[f32]) -> Vec<u8> {
    x.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn geometry(c: usize, k: usize, kernel: [usize; 3], groups: usize) -> Conv {
    Conv {
        n: 1,
        c,
        in_dims: kernel,
        k,
        kernel,
        stride: [1; 3],
        pad: [0; 3],
        dilation: [1; 3],
        out_dims: [1; 3],
        groups,
        x_strides: [0; 5],
        out_pitch: k,
        out_batch: k,
    }
}

fn int_geometry(c: usize, k: usize, kernel: [usize; 3]) -> IntConv {
    let Conv { n, in_dims, stride, pad, dilation, out_dims, x_strides, out_pitch, out_batch, .. } = geometry(c, k, kernel, 1);
    IntConv { n, c, in_dims, k, kernel, stride, pad, dilation, out_dims, x_strides, out_pitch, out_batch, shifted: false }
}

fn packed_bytes(t: &Tensor, recipe: &Recipe) -> usize {
    4 * match recipe {
        Recipe::Raw => return t.bytes().len(),
        Recipe::Padded(to) => t.len().next_multiple_of(*to),
        Recipe::Gemm { k, n } => gemm::packed_len(*k, *n),
        Recipe::Gemms { count, k, n } => count * gemm::packed_len(*k, *n),
        Recipe::IntGemm { k, n } => return igemm::packed_len(*k, *n),
        Recipe::Codes { k, n, arrangement: Arrangement::Columns, .. } => return n * device::codes_pitch(*k, t.dtype.bits()),
        Recipe::Blocks { n, blocks, arrangement: Arrangement::Columns, .. } => return n * blocks * t.dtype.size(),
        Recipe::Codes { k, n, block, .. } => {
            return narrow::packed_len(*k, *n, Coding::Blocks { bits: t.dtype.bits(), block: *block });
        }
        Recipe::Blocks { n, blocks, .. } => return n.next_multiple_of(gemm::PANEL) * blocks * t.dtype.size(),
        Recipe::Halves { k, n, .. } => return narrow::packed_len(*k, *n, Coding::Bf16),
        Recipe::Fixed { k, n } => return narrow::packed_len(*k, *n, Coding::Fixed),
        Recipe::Zeros { n } => n.next_multiple_of(gemm::PANEL),
        Recipe::Trees { bytes, .. } => return *bytes,
        Recipe::Columns { .. } | Recipe::Filters { .. } | Recipe::Taps { .. } => return device::packed_bytes(recipe),
        Recipe::IntConv { c, k, kernel, depthwise } => {
            let conv = int_geometry(*c, *k, *kernel);
            return match *depthwise {
                Some(wide) => IntDepthwise { conv, wide }.packed_len(),
                None => conv.packed_len(),
            };
        }
        Recipe::Conv { c, k, kernel, groups, method } => {
            let conv = geometry(*c, *k, *kernel, *groups);
            match *method {
                Method::Direct => conv.packed_len(),
                Method::Depthwise => Depthwise(conv).packed_len(),
                Method::Winograd(m) => Winograd { conv, m }.packed_len(),
            }
        }
    }
}

/// Where an element of a matrix of `k` rows and `n` columns lies in a constant whose axis `axis` has the rows.
fn at(axis: usize, (k, n): (usize, usize), row: usize, col: usize) -> usize {
    if axis == 0 { row * n + col } else { col * k + row }
}

/// Carries a recipe out on a constant.
fn pack(t: &Tensor, recipe: &Recipe) -> Vec<u8> {
    let unsigned = t.dtype == DType::U8;
    match recipe {
        Recipe::IntGemm { k, n } => {
            let mut out = vec![0; igemm::packed_len(*k, *n)];
            igemm::pack_rows(*k, *n, t.bytes(), unsigned, &mut out);
            out
        }
        Recipe::IntConv { c, k, kernel, depthwise } => {
            let conv = int_geometry(*c, *k, *kernel);
            let mut out = vec![0; packed_bytes(t, recipe)];
            match *depthwise {
                Some(true) => IntDepthwise { conv, wide: true }.pack_weights(t.slice(), &mut out),
                Some(false) => {
                    let w: Vec<i16> = t.slice::<i8>().iter().map(|w| i16::from(*w)).collect();
                    IntDepthwise { conv, wide: false }.pack_weights(&w, &mut out)
                }
                None => conv.pack_weights(t.bytes(), &mut out),
            }
            out
        }
        Recipe::Codes { k, n, axis, block, arrangement } => {
            let (codes, bits) = (unpacked(t), t.dtype.bits());
            // Without the sign bit turned around, the least of signed integers would not be the least.
            let signed = matches!(t.dtype, DType::I8 | DType::I4 | DType::I2);
            let (turn, mask) = (if signed { 1 << (bits - 1) } else { 0 }, ((1u32 << bits) - 1) as u8);
            let mut out = vec![0; packed_bytes(t, recipe)];
            let code = |col: usize, row: usize| (codes[at(*axis, (*k, *n), row, col)] & mask) ^ turn;
            match arrangement {
                Arrangement::Panels => narrow::pack_codes(*k, *n, (bits, *block), code, &mut out),
                Arrangement::Columns => device::pack_codes(*k, bits, code, &mut out),
            }
            out
        }
        Recipe::Blocks { n, axis, blocks, block, given, more, arrangement } => {
            let count = t.dims[*axis];
            let index = |col: usize, b: usize| at(*axis, (count, *n), b * block / given, col);
            let alone = || (0..n * blocks).map(|i| index(i / blocks, i % blocks));
            let byte = |i: usize| t.bytes()[i].wrapping_add(*more);
            match (t.dtype == DType::F32, arrangement) {
                (true, Arrangement::Columns) => alone().flat_map(|i| t.slice::<f32>()[i].to_le_bytes()).collect(),
                (false, Arrangement::Columns) => alone().map(byte).collect(),
                (true, Arrangement::Panels) => {
                    let x: &[f32] = t.slice();
                    let mut out = vec![0f32; n.next_multiple_of(gemm::PANEL) * blocks];
                    narrow::pack_blocks(*n, *blocks, |col, b| x[index(col, b)], &mut out);
                    bytes_of(&out)
                }
                (false, Arrangement::Panels) => {
                    let mut out = vec![0; packed_bytes(t, recipe)];
                    narrow::pack_blocks(*n, *blocks, |col, b| byte(index(col, b)), &mut out);
                    out
                }
            }
        }
        Recipe::Halves { k, n, axis } => {
            let mut out = vec![0u16; n.next_multiple_of(gemm::PANEL) * k];
            let index = |col: usize, row: usize| at(*axis, (*k, *n), row, col);
            match t.dtype {
                DType::F32 => narrow::pack_halves(*k, *n, |col, row| bf16::from_f32(t.slice::<f32>()[index(col, row)]).0, &mut out),
                _ => narrow::pack_halves(*k, *n, |col, row| t.slice::<u16>()[index(col, row)], &mut out),
            }
            out.into_iter().flat_map(u16::to_le_bytes).collect()
        }
        Recipe::Fixed { k, n } => {
            let (w, mut out) = (t.slice::<f32>(), vec![0; packed_bytes(t, recipe)]);
            narrow::pack_fixed(*k, *n, |col, row| w[row * n + col], &mut out);
            out
        }
        Recipe::Trees { double, targets, aggregate, bytes } => {
            // Selection has packed it once to know the bytes.
            let made = trees::pack(t.slice(), *double, *targets, *aggregate).map_or(Vec::new(), |m| m.bytes);
            assert_eq!(made.len(), *bytes, "an ensemble packs to the same bytes again; this is a bug");
            made
        }
        Recipe::Columns { .. } | Recipe::Filters { .. } | Recipe::Taps { .. } => device::pack(t, recipe),
        Recipe::Zeros { n } => igemm::pack_zeros(*n, t.bytes(), unsigned).into_iter().flat_map(i32::to_le_bytes).collect(),
        _ => bytes_of(&pack_floats(t, recipe)),
    }
}

/// Carries a recipe out on a constant of f32.
fn pack_floats(t: &Tensor, recipe: &Recipe) -> Vec<f32> {
    let x: &[f32] = t.slice();
    let mut out = vec![0f32; packed_bytes(t, recipe) / 4];
    match recipe {
        Recipe::Raw
        | Recipe::Padded(_)
        | Recipe::IntGemm { .. }
        | Recipe::IntConv { .. }
        | Recipe::Zeros { .. }
        | Recipe::Trees { .. }
        | Recipe::Codes { .. }
        | Recipe::Blocks { .. }
        | Recipe::Halves { .. }
        | Recipe::Columns { .. }
        | Recipe::Filters { .. }
        | Recipe::Taps { .. }
        | Recipe::Fixed { .. } => out[..x.len()].copy_from_slice(x),
        Recipe::Gemm { k, n } => gemm::pack_rows(*k, *n, x, &mut out),
        Recipe::Gemms { count, k, n } => {
            for (x, out) in x.chunks((k * n).max(1)).zip(out.chunks_mut(gemm::packed_len(*k, *n).max(1))).take(*count) {
                gemm::pack_rows(*k, *n, x, out);
            }
        }
        Recipe::Conv { c, k, kernel, groups, method } => {
            let conv = geometry(*c, *k, *kernel, *groups);
            match *method {
                Method::Direct => conv.pack_weights(x, &mut out),
                Method::Depthwise => Depthwise(conv).pack_weights(x, &mut out),
                Method::Winograd(m) => Winograd { conv, m }.pack_weights(x, &mut out),
            }
        }
    }
    out
}
