//! Signals: DFT, STFT, MelWeightMatrix, and the Hann, Hamming and Blackman windows.

use super::{Reader, host};
use crate::diagnostics::Diagnostic;
use crate::ir::{Dim, Type, ValueId};
use kiln_kernels::dtype::DType;

type Read = Result<Vec<ValueId>, Diagnostic>;

fn widened(r: &mut Reader<'_, '_>, v: ValueId) -> Result<ValueId, Diagnostic> {
    let wide = if r.dtype(v) == DType::F64 { DType::F64 } else { DType::F32 };
    r.cast(v, wide)
}

fn single(r: &Reader<'_, '_>, v: Option<ValueId>) -> Option<i64> {
    match r.const_ints(v?)?[..] {
        [n] => Some(n),
        _ => None,
    }
}

/// Reads [DFT](https://onnx.ai/onnx/operators/onnx__DFT.html); the axis is an attribute before opset 20.
pub fn read_dft(r: &mut Reader<'_, '_>) -> Read {
    let x = r.input(0)?;
    let (mut shape, dtype) = (r.shape(x)?, r.dtype(x));
    let rank = shape.len();
    let (inverse, onesided) = (r.int("inverse", 0)?, r.int("onesided", 0)?);
    let default = if r.version < 20 { r.int("axis", 1)? } else { -2 };
    let operand = if r.version < 20 { None } else { r.opt(2) };
    let axis = if operand.is_some() { single(r, operand) } else { Some(default) };
    if rank < 2 {
        return Err(Diagnostic::new(format!("DFT needs a signal of rank 2 or more, found {rank}")));
    }
    match axis {
        Some(a) => {
            let a = r.axis(a, rank)?;
            let n = match (r.opt(1), single(r, r.opt(1))) {
                (None, _) if inverse != 0 && onesided != 0 => Some((shape[a].clone() - Dim::int(1)) * Dim::int(2)),
                (None, _) => Some(shape[a].clone()),
                (_, n) => n.map(Dim::int),
            };
            shape[a] = match n {
                Some(n) if onesided != 0 && inverse == 0 => n.floor_div(&Dim::int(2)) + Dim::int(1),
                Some(n) => n,
                None => r.b.fresh("bins"),
            };
        }
        None => shape[..rank - 1].iter_mut().for_each(|d| *d = r.b.fresh("bins")),
    }
    shape[rank - 1] = Dim::int(if onesided != 0 && inverse != 0 { 1 } else { 2 });
    let x = widened(r, x)?;
    let ty = Type::Tensor(r.dtype(x), shape);
    let inputs = vec![Some(x), r.opt(1), operand];
    let y = host::call_with(r, "dft", inputs, vec![default, inverse, onesided], vec![], vec![ty])?[0];
    Ok(vec![r.cast(y, dtype)?])
}

/// Reads [STFT](https://onnx.ai/onnx/operators/onnx__STFT.html).
pub fn read_stft(r: &mut Reader<'_, '_>) -> Read {
    let (x, step) = (r.ranked(0, 3)?, r.input(1)?);
    let (shape, dtype) = (r.shape(x)?, r.dtype(x));
    let onesided = r.int("onesided", 1)?;
    let n = match (r.opt(3), r.opt(2)) {
        (Some(_), _) => single(r, r.opt(3)).map(Dim::int),
        (None, Some(w)) => r.shape(w)?.first().cloned(),
        (None, None) => Some(shape[1].clone()),
    };
    let frames = match (&n, single(r, Some(step))) {
        (Some(n), Some(s @ 1..)) => (shape[1].clone() - n.clone()).floor_div(&Dim::int(s)) + Dim::int(1),
        _ => r.b.fresh("frames"),
    };
    let bins = match n {
        Some(n) if onesided != 0 => n.floor_div(&Dim::int(2)) + Dim::int(1),
        Some(n) => n,
        None => r.b.fresh("bins"),
    };
    let x = widened(r, x)?;
    let window = match r.opt(2) {
        Some(w) => Some(widened(r, w)?),
        None => None,
    };
    let ty = Type::Tensor(r.dtype(x), vec![shape[0].clone(), frames, bins, Dim::int(2)]);
    let y = host::call_with(r, "stft", vec![Some(x), Some(step), window, r.opt(3)], vec![onesided], vec![], vec![ty])?[0];
    Ok(vec![r.cast(y, dtype)?])
}

/// Reads [MelWeightMatrix](https://onnx.ai/onnx/operators/onnx__MelWeightMatrix.html).
pub fn read_mel(r: &mut Reader<'_, '_>) -> Read {
    let inputs: Vec<ValueId> = (0..5).map(|i| r.input(i)).collect::<Result<_, _>>()?;
    let to = r.dtype_attr("output_datatype")?.unwrap_or(DType::F32);
    let wide = if to == DType::F64 { to } else { DType::F32 };
    let rows = match single(r, Some(inputs[1])) {
        Some(n) => Dim::int(n / 2 + 1),
        None => r.b.fresh("bins"),
    };
    let columns = match single(r, Some(inputs[0])) {
        Some(n) => Dim::int(n),
        None => r.b.fresh("bands"),
    };
    let ty = Type::Tensor(wide, vec![rows, columns]);
    let y = host::call(r, "mel_weights", &inputs, vec![wide.to_onnx() as i64], vec![ty])?[0];
    Ok(vec![r.cast(y, to)?])
}

/// Reads [HannWindow](https://onnx.ai/onnx/operators/onnx__HannWindow.html), HammingWindow and BlackmanWindow: sums of cosines.
pub fn read_window(r: &mut Reader<'_, '_>) -> Read {
    let size = r.input(0)?;
    let to = r.dtype_attr("output_datatype")?.unwrap_or(DType::F32);
    let factors: &[f64] = match r.node.op_type.as_str() {
        "HannWindow" => &[0.5, -0.5],
        "HammingWindow" => &[25.0 / 46.0, -21.0 / 46.0],
        _ => &[0.42, -0.5, 0.08],
    };
    let size = r.cast(size, DType::I64)?;
    let size = r.reshape(size, vec![])?;
    let (zero, one) = (r.scalar(0.0, DType::I64), r.scalar(1.0, DType::I64));
    let n = r.dims(size).and_then(|d| d.first().cloned());
    let index = host::range(r, [zero, size, one], DType::I64, n)?[0];
    let mut span = r.cast(size, DType::F64)?;
    if r.int("periodic", 1)? == 0 {
        span = r.plus(span, -1.0)?;
    }
    let index = r.cast(index, DType::F64)?;
    let turn = r.times(index, 2.0 * std::f64::consts::PI)?;
    let turn = r.div(turn, span)?;
    let mut sum = r.scalar(factors[0], DType::F64);
    for (k, f) in factors.iter().enumerate().skip(1) {
        let angle = r.times(turn, k as f64)?;
        let wave = r.pointwise("Cos", &[angle])?;
        let wave = r.times(wave, *f)?;
        sum = r.add(sum, wave)?;
    }
    Ok(vec![r.cast(sum, to)?])
}
