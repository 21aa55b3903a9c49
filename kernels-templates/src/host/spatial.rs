//! Host functions on images: AffineGrid, Col2Im, CenterCropPad and MaxUnpool.

use super::{Answer, HostArgs, extents, ints, tensor};
use crate::dtype::DType;
use crate::fault::{Fault, position};
use crate::index::{for_each, offset, strides};
use crate::value::{Tensor, Value};
use alloc::{format, vec, vec::Vec};

/// Numbers as a tensor of f32 or f64.
pub(super) fn floats(dims: &[usize], v: &[f64], dtype: DType) -> Tensor {
    match dtype {
        DType::F64 => Tensor::new(dims, v),
        _ => Tensor::new(dims, &v.iter().map(|x| *x as f32).collect::<Vec<_>>()),
    }
}

fn numbers(t: &Tensor) -> Result<Vec<f64>, Fault> {
    t.to_f64s().ok_or_else(|| Fault::Domain(format!("{} holds no numbers", t.dtype)))
}

/// Operands theta and size; attribute align_corners: [AffineGrid](https://onnx.ai/onnx/operators/onnx__AffineGrid.html).
pub(super) fn affine_grid(inputs: &[Option<&Value>], args: HostArgs<'_>) -> Answer {
    let (theta, size) = (tensor(inputs, 0)?, extents(&ints(inputs, 1)?.unwrap_or_default())?);
    let axes = size.len().saturating_sub(2);
    if axes == 0 || theta.dims != [size[0], axes, axes + 1] {
        return Err(Fault::Domain(format!("theta of shape {:?} does not fit the size {size:?}", theta.dims)));
    }
    let t = numbers(theta)?;
    let spatial = &size[2..];
    let place = |i: usize, n: usize| match args.ints[0] != 0 {
        true if n == 1 => -1.0,
        true => -1.0 + 2.0 * i as f64 / (n - 1) as f64,
        false => -1.0 + (2 * i + 1) as f64 / n as f64,
    };
    let mut out = Vec::new();
    for n in 0..size[0] {
        for_each(spatial, |at| {
            for row in 0..axes {
                let m = &t[(n * axes + row) * (axes + 1)..][..axes + 1];
                // Coordinates go from the last axis to the first.
                let sum: f64 = (0..axes).map(|k| m[k] * place(at[axes - 1 - k], spatial[axes - 1 - k])).sum();
                out.push(sum + m[axes]);
            }
        });
    }
    let dims = [&size[..1], spatial, &[axes]].concat();
    Ok(vec![floats(&dims, &out, theta.dtype).into()])
}

/// Operands x, image and block shapes; attributes: dilations, pads and strides of each axis, one list behind the other:
/// [Col2Im](https://onnx.ai/onnx/operators/onnx__Col2Im.html).
pub(super) fn col2im(inputs: &[Option<&Value>], args: HostArgs<'_>) -> Answer {
    let x = tensor(inputs, 0)?;
    let (image, block) = (extents(&ints(inputs, 1)?.unwrap_or_default())?, extents(&ints(inputs, 2)?.unwrap_or_default())?);
    let axes = image.len();
    if args.ints.len() != 4 * axes || block.len() != axes || x.dims.len() != 3 {
        return Err(Fault::Domain(format!("the image {image:?} and block {block:?} do not fit {:?}", x.dims)));
    }
    let (dilations, pads, steps) = (&args.ints[..axes], &args.ints[axes..3 * axes], &args.ints[3 * axes..]);
    let taps: usize = block.iter().product();
    let mut blocks = Vec::new();
    for i in 0..axes {
        let span = image[i] as i64 + pads[i] + pads[axes + i] - (dilations[i] * (block[i] as i64 - 1) + 1);
        blocks.push(if span < 0 { 0 } else { (span / steps[i]) as usize + 1 });
    }
    let columns: usize = blocks.iter().product();
    if taps == 0 || x.dims[1] % taps != 0 || x.dims[2] != columns {
        return Err(Fault::Domain(format!("Col2Im of {columns} blocks of {taps} elements got a tensor of shape {:?}", x.dims)));
    }
    let channels = x.dims[1] / taps;
    let (source, s, plane) = (numbers(x)?, strides(&image), image.iter().product::<usize>());
    let mut out = vec![0.0; x.dims[0] * channels * plane];
    for nc in 0..x.dims[0] * channels {
        let mut k = nc * taps * columns;
        for_each(&block, |tap| {
            for_each(&blocks, |at| {
                let p = (0..axes).map(|i| at[i] as i64 * steps[i] - pads[i] + tap[i] as i64 * dilations[i]);
                let p: Option<usize> =
                    p.enumerate().map(|(i, p)| usize::try_from(p).ok().filter(|p| *p < image[i]).map(|p| p * s[i])).sum();
                if let Some(p) = p {
                    out[nc * plane + p] += source[k];
                }
                k += 1;
            });
        });
    }
    let dims = [&[x.dims[0], channels], &image[..]].concat();
    Ok(vec![floats(&dims, &out, x.dtype).into()])
}

/// Operands x and shape; attributes: the axes it lists: [CenterCropPad](https://onnx.ai/onnx/operators/onnx__CenterCropPad.html).
pub(super) fn center_crop_pad(inputs: &[Option<&Value>], args: HostArgs<'_>) -> Answer {
    let x = tensor(inputs, 0)?;
    let want = extents(&ints(inputs, 1)?.unwrap_or_default())?;
    if want.len() != args.ints.len() || x.dtype.size() == 0 {
        return Err(Fault::Domain(format!("a shape of {} extents for {} axes of {}", want.len(), args.ints.len(), x.dtype)));
    }
    let (mut dims, mut copied) = (x.dims.clone(), x.dims.clone());
    let (mut from, mut to) = (vec![0; dims.len()], vec![0; dims.len()]);
    for (&a, &n) in args.ints.iter().zip(&want) {
        let a = position(a, x.dims.len())?;
        let have = x.dims[a];
        dims[a] = n;
        copied[a] = n.min(have);
        (from[a], to[a]) = (have.saturating_sub(n) / 2, n.saturating_sub(have) / 2);
    }
    let mut out = Tensor::zeros(x.dtype, &dims);
    let (xs, os, size) = (strides(&x.dims), strides(&dims), x.dtype.size());
    let (source, target) = (x.bytes(), out.bytes_mut());
    let (first, start) = (offset(&from, &xs), offset(&to, &os));
    for_each(&copied, |at| {
        let (f, t) = ((first + offset(at, &xs)) * size, (start + offset(at, &os)) * size);
        target[t..t + size].copy_from_slice(&source[f..f + size]);
    });
    Ok(vec![out.into()])
}

/// Operands x, positions, optional shape; attributes: kernel, pads and strides of each axis, one list behind the other:
/// [MaxUnpool](https://onnx.ai/onnx/operators/onnx__MaxUnpool.html).
pub(super) fn max_unpool(inputs: &[Option<&Value>], args: HostArgs<'_>) -> Answer {
    let (x, at) = (tensor(inputs, 0)?, ints(inputs, 1)?.unwrap_or_default());
    let axes = x.dims.len().saturating_sub(2);
    if axes == 0 || args.ints.len() != 4 * axes || at.len() != x.len() || x.dtype.size() == 0 {
        return Err(Fault::Domain(format!("MaxUnpool of {} positions for a tensor of shape {:?}", at.len(), x.dims)));
    }
    let (kernel, pads, steps) = (&args.ints[..axes], &args.ints[axes..3 * axes], &args.ints[3 * axes..]);
    let mut own: Vec<i64> = x.dims.iter().map(|d| *d as i64).collect();
    for i in 0..axes {
        own[2 + i] = (own[2 + i] - 1) * steps[i] - pads[i] - pads[axes + i] + kernel[i];
    }
    let own = extents(&own)?;
    let dims = match ints(inputs, 2)? {
        Some(s) => extents(&s)?,
        None => own.clone(),
    };
    if dims.len() != own.len() || dims.iter().zip(&own).any(|(d, o)| d < o) {
        return Err(Fault::Domain(format!("MaxUnpool fills {own:?}, which {dims:?} does not hold")));
    }
    let mut out = Tensor::zeros(x.dtype, &dims);
    let (os, ds, size) = (strides(&own), strides(&dims), x.dtype.size());
    let total: usize = own.iter().product();
    for (k, &p) in at.iter().enumerate() {
        let p = position(p, total)?;
        let to: usize = (0..own.len()).map(|i| p / os[i] % own[i] * ds[i]).sum();
        out.bytes_mut()[to * size..][..size].copy_from_slice(&x.bytes()[k * size..][..size]);
    }
    Ok(vec![out.into()])
}
