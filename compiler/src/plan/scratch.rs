//! How much scratch each worker gets: that of the kernel that takes most, at the greatest extents that the inputs can have.

use super::{KernelStep, Plan};
use crate::ir::{Dim, ValueId};
use crate::kernel::{Kernel, Method, Operand, Stride, Window};
use crate::ops::CallArg;
use crate::target::cpu::rowwise::BLOCK;
use kiln_kernels::conv::Conv;
use kiln_kernels::gemm::narrow::Narrow;
use kiln_kernels::gemm::{Gemm, Grouped, MatMul};
use kiln_kernels::igemm::{IntConv, IntDepthwise, IntGemm};
use kiln_kernels::norm::Pixels;
use kiln_kernels::strips::Strips;
use kiln_kernels::winograd::Winograd;

/// The runtime gives each worker a multiple of this many bytes.
const ALIGN: usize = 64;
/// Floats of a tensor beyond which the arithmetic below might overflow; no machine has them.
const MOST: usize = 1 << 46;

/// Bytes that an instance allocates for each worker; `None` where only run time knows the extents.
pub(super) fn scratch(plan: &Plan) -> Option<usize> {
    let floats: Option<Vec<usize>> = plan.kernels().into_iter().map(|step| floats(plan, step)).collect();
    Some((floats?.into_iter().max().unwrap_or(0) * size_of::<f32>()).next_multiple_of(ALIGN))
}

/// Floats that a worker needs for a step, by the geometry that the printer states.
fn floats(plan: &Plan, step: &KernelStep) -> Option<usize> {
    let g = &plan.graph;
    let size = |d: &Dim| {
        let n = d.eval(&|s| g.symbols.get(s.0 as usize).filter(|s| s.input.is_some())?.range.hi)?;
        usize::try_from(n.max(0)).ok()
    };
    let sizes = |d: &[Dim]| d.iter().map(size).collect::<Option<Vec<_>>>();
    let fits = |v: &ValueId| {
        let n = sizes(g.shape(*v))?.into_iter().try_fold(1usize, |a, b| a.checked_mul(b.max(1)))?;
        (n <= MOST).then_some(())
    };
    if let Kernel::Rows { n, head: Some(_), .. } = &step.kernel
        && step.outputs.len() == 1
    {
        return size(n).filter(|n| *n <= MOST).map(|n| n.max(BLOCK));
    }
    if let Kernel::Trees { scratch, .. } = &step.kernel {
        return Some(scratch.div_ceil(size_of::<f32>()));
    }
    if let Kernel::Call(c) = &step.kernel {
        let bytes = c.args.iter().map(|a| match a {
            CallArg::Scratch(dtype, n) => size(n).filter(|n| *n <= MOST).map(|n| n * dtype.size()),
            _ => Some(0),
        });
        return bytes.sum::<Option<usize>>().map(|bytes| bytes.div_ceil(size_of::<f32>()));
    }
    if !matches!(
        &step.kernel,
        Kernel::Conv { method: Method::Direct | Method::Winograd(_), .. }
            | Kernel::Strips { .. }
            | Kernel::Gemm { .. }
            | Kernel::NarrowGemm { .. }
            | Kernel::GroupedGemm { .. }
            | Kernel::IntGemm { .. }
            | Kernel::IntConv { .. }
            | Kernel::MatMul { .. }
            | Kernel::PixelNorm { .. }
            | Kernel::Attend { .. }
    ) {
        return Some(0);
    }
    step.inputs.iter().flatten().chain(&step.outputs).try_for_each(fits)?;
    let stride = |o: &Operand, from_end: usize| match &o.strides[o.strides.len() - from_end] {
        Stride::By(d) => size(d),
        Stride::Unless1 { extent, stride } => Some(if size(extent)? == 1 { 0 } else { size(stride)? }),
    };
    match &step.kernel {
        Kernel::Conv { window, k, groups, method, .. } => {
            let conv = conv(window, *k, *groups, &size)?;
            Some(match *method {
                Method::Winograd(m) => Winograd { conv, m }.scratch_floats(),
                _ => conv.scratch_floats(),
            })
        }
        Kernel::Strips { before, middle, behind } => {
            let of = |k: &Kernel| match k {
                Kernel::Conv { window, k, groups, .. } => conv(window, *k, *groups, &size),
                _ => None,
            };
            let part = |k: &Option<Box<Kernel>>| match k {
                Some(k) => of(k).map(Some),
                None => Some(None),
            };
            Some(Strips { before: part(before)?, middle: of(middle)?, behind: part(behind)? }.scratch_floats())
        }
        Kernel::IntConv { window, k, depthwise, zeros, .. } => {
            let Conv { n, c, in_dims, kernel, stride, pad, dilation, out_dims, x_strides, out_pitch, out_batch, .. } =
                conv(window, *k, 1, &size)?;
            let shifted = zeros.is_some();
            let g = IntConv { n, c, in_dims, k: *k, kernel, stride, pad, dilation, out_dims, x_strides, out_pitch, out_batch, shifted };
            Some(match depthwise {
                Some(wide) => IntDepthwise { conv: g, wide: *wide }.scratch_floats(),
                None => g.scratch_floats(),
            })
        }
        Kernel::Gemm { m, n, k, a_row, out_row, .. } => {
            Some(Gemm { m: size(m)?, n: *n, k: *k, a_row: size(a_row)?, a_col: 1, ldc: size(out_row)? }.scratch_floats())
        }
        Kernel::NarrowGemm { m, n, k, a_row, out_row, coding, .. } => {
            let gemm = Gemm { m: size(m)?, n: *n, k: *k, a_row: size(a_row)?, a_col: 1, ldc: size(out_row)? };
            Some(Narrow { gemm, coding: *coding, digits: !plan.exact }.scratch_floats())
        }
        Kernel::GroupedGemm { rows: [x, y, z], count, n, k, out_row, .. } => {
            let rows = [size(x)?, size(y)?, size(z)?];
            Some(Grouped { rows, count: *count, n: *n, k: *k, a_steps: [0; 3], ldc: size(out_row)? }.scratch_floats())
        }
        Kernel::PixelNorm { sizes: [n, pixels, groups, channels], .. } => {
            let (n, pixels, groups, channels) = (size(n)?, size(pixels)?, size(groups)?, size(channels)?);
            let norm = Pixels { n, pixels, groups, channels, x_pitch: 0, x_batch: 0, out_pitch: 0, out_batch: 0, epsilon: 0.0 };
            Some(norm.scratch_floats())
        }
        Kernel::IntGemm { m, n, k, a_row, out_row, .. } => {
            Some(IntGemm { m: size(m)?, n: *n, k: *k, a_row: size(a_row)?, ldc: size(out_row)? }.scratch_floats())
        }
        Kernel::MatMul { m, n, k, a, b, .. } => {
            let (m, n, k) = (size(m)?, size(n)?, size(k)?);
            let ([a_row, a_col], [b_row, b_col]) = ([stride(a, 2)?, stride(a, 1)?], [stride(b, 2)?, stride(b, 1)?]);
            Some(MatMul { m, n, k, a_row, a_col, b_row, b_col, ldc: n }.scratch_floats())
        }
        Kernel::Attend { sizes: [queries, keys, depth, width], .. } => {
            let attend = kiln_kernels::attention::Attend {
                queries: size(queries)?,
                keys: size(keys)?,
                depth: size(depth)?,
                width: size(width)?,
                q_row: 0,
                k_row: 0,
                v_row: 0,
                out_row: 0,
                mask_row: 0,
                mask_col: 0,
                scale: 1.0,
                reach: 0,
                safe: false,
            };
            Some(attend.scratch_floats())
        }
        _ => Some(0),
    }
}

fn conv(w: &Window, k: usize, groups: usize, size: &dyn Fn(&Dim) -> Option<usize>) -> Option<Conv> {
    let three = |d: &[Dim; 3]| Some([size(&d[0])?, size(&d[1])?, size(&d[2])?]);
    let out_dims = three(&w.out_dims)?;
    let [n, c, d, h, x] = &w.x_strides;
    Some(Conv {
        n: size(&w.n)?,
        c: size(&w.c)?,
        in_dims: three(&w.in_dims)?,
        k,
        kernel: w.kernel,
        stride: w.stride,
        pad: w.pad,
        dilation: w.dilation,
        out_dims,
        groups,
        x_strides: [size(n)?, size(c)?, size(d)?, size(h)?, size(x)?],
        out_pitch: size(&w.out_pitch)?,
        out_batch: size(&w.out_batch)?,
    })
}
