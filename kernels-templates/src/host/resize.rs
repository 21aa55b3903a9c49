//! Resize with scales or sizes known only at run time.

use super::dynamic::kernel;
use super::{Answer, HostArgs, extents, tensor};
use crate::entry::Arg;
use crate::fault::{Fault, position};
use crate::value::{Tensor, Value};
use alloc::string::ToString;
use alloc::{format, vec, vec::Vec};

fn numbers(inputs: &[Option<&Value>], i: usize) -> Result<Option<Vec<f64>>, Fault> {
    match inputs.get(i).copied().flatten() {
        None => Ok(None),
        Some(_) => Ok(tensor(inputs, i)?.to_f64s().filter(|v| !v.is_empty())),
    }
}

/// Operands x (f32 or f64), roi, scales, sizes, cubic coefficient and extrapolation value; integers: exclude_outside, then the axes;
/// text: mode, coordinates, nearest, policy: [Resize](https://onnx.ai/onnx/operators/onnx__Resize.html).
pub(super) fn resize(inputs: &[Option<&Value>], args: HostArgs<'_>) -> Answer {
    let x = tensor(inputs, 0)?;
    let rank = x.dims.len();
    let axes: Vec<usize> = args.ints[1..].iter().map(|a| position(*a, rank)).collect::<Result<_, _>>()?;
    let [mode, coordinates, nearest, policy] = args.text else { return Err(Fault::Domain("Resize needs four words".into())) };
    let (roi, scales, sizes) = (numbers(inputs, 1)?, numbers(inputs, 2)?, numbers(inputs, 3)?);
    let count = scales.as_ref().or(sizes.as_ref()).map(Vec::len);
    if count != Some(axes.len()) {
        return Err(Fault::Domain(format!("Resize needs {} scales or sizes, found {}", axes.len(), count.unwrap_or(0))));
    }
    let mut region = Vec::new();
    if let Some(v) = roi.filter(|v| *coordinates == "tf_crop_and_resize" && v.len() == 2 * axes.len()) {
        region = [vec![0.0f32; rank], vec![1.0; rank]].concat();
        for (k, &a) in axes.iter().enumerate() {
            (region[a], region[rank + a]) = (v[k] as f32, v[axes.len() + k] as f32);
        }
    }
    let mut shape: Vec<i64> = x.dims.iter().map(|d| *d as i64).collect();
    let mut factor = vec![1.0f32; rank];
    let ratio = |size: f64, a: usize| size / x.dims[a] as f64;
    if let Some(scales) = &scales {
        for (&a, &s) in axes.iter().zip(scales) {
            if s.is_nan() || s <= 0.0 {
                return Err(Fault::Domain(format!("the scale of axis {a} is {s}")));
            }
            let span = if region.is_empty() { 1.0 } else { (region[rank + a] - region[a]) as f64 };
            factor[a] = s as f32;
            shape[a] = (x.dims[a] as f64 * span * s).floor() as i64;
        }
    } else if let Some(sizes) = &sizes {
        let all = axes.iter().zip(sizes).map(|(&a, &s)| ratio(s, a));
        let shared = match *policy {
            "not_larger" => all.reduce(f64::min),
            "not_smaller" => all.reduce(f64::max),
            _ => None,
        };
        for (&a, &s) in axes.iter().zip(sizes) {
            factor[a] = shared.unwrap_or(ratio(s, a)) as f32;
            shape[a] = shared.map_or(s as i64, |f| (f * x.dims[a] as f64 + 0.5).floor() as i64);
        }
    }
    let dims = extents(&shape)?;
    if x.is_empty() && dims.iter().all(|d| *d > 0) {
        return Err(Fault::Domain("an empty tensor cannot be resized".into()));
    }
    let one = |i: usize| Ok::<f32, Fault>(tensor(inputs, i)?.to_f64s().and_then(|v| v.first().copied()).unwrap_or(0.0) as f32);
    let (cubic, extrapolation) = (one(4)?, one(5)?);
    let mut out = Tensor::zeros(x.dtype, &dims);
    let list = vec![
        Arg::Out(&mut out),
        Arg::In(x),
        Arg::Dims(x.dims.clone()),
        Arg::Dims(dims),
        Arg::Floats(factor),
        Arg::Floats(region),
        Arg::Text(mode.to_string()),
        Arg::Text(coordinates.to_string()),
        Arg::Text(nearest.to_string()),
        Arg::Float(cubic),
        Arg::Float(extrapolation),
        Arg::Bool(args.ints[0] != 0),
    ];
    kernel("resize::resize", &[x.dtype], list)?;
    Ok(vec![out.into()])
}
