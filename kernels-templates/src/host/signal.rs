//! Host functions on signals: DFT, STFT and MelWeightMatrix.

use super::fft::{Complex, Plan, Real};
use super::spatial::floats;
use super::{Answer, HostArgs, ints, tensor};
use crate::dtype::DType;
use crate::fault::{Fault, position};
use crate::value::{Tensor, Value};
use alloc::{format, vec, vec::Vec};

/// `bins` frequencies of a signal cut or filled with zeros to the plan's length.
fn transform<T: Real>(plan: &Plan<T>, signal: &[Complex<f64>], n: usize, bins: usize) -> Vec<Complex<f64>> {
    let at = |t: usize| signal.get(t).map_or((T::of(0.0), T::of(0.0)), |v| (T::of(v.0), T::of(v.1)));
    plan.run((0..n).map(at).collect()).into_iter().take(bins).map(|(re, im)| (re.wide(), im.wide())).collect()
}

fn whole(inputs: &[Option<&Value>], i: usize) -> Result<Option<i64>, Fault> {
    Ok(ints(inputs, i)?.and_then(|v| v.first().copied()))
}

fn length(n: i64) -> Result<usize, Fault> {
    usize::try_from(n).ok().filter(|n| (1..=1 << 24).contains(n)).ok_or_else(|| Fault::Domain(format!("a transform of {n} values")))
}

fn numbers(t: &Tensor) -> Result<Vec<f64>, Fault> {
    match t.dtype {
        DType::F32 | DType::F64 => Ok(t.to_f64s().unwrap_or_default()),
        d => Err(Fault::Domain(format!("a transform of {d} is not supported"))),
    }
}

/// Operands x, optional length, optional axis; attributes axis, inverse and onesided:
/// [DFT](https://onnx.ai/onnx/operators/onnx__DFT.html).
pub(super) fn dft(inputs: &[Option<&Value>], args: HostArgs<'_>) -> Answer {
    let x = tensor(inputs, 0)?;
    let rank = x.dims.len();
    let axis = position(whole(inputs, 2)?.unwrap_or(args.ints[0]), rank)?;
    let (inverse, onesided) = (args.ints[1] != 0, args.ints[2] != 0);
    let parts = x.dims[rank - 1];
    if axis + 1 == rank || !(1..=2).contains(&parts) {
        return Err(Fault::Domain(format!("DFT along axis {axis} of a tensor of shape {:?}", x.dims)));
    }
    let have = x.dims[axis];
    let n = match whole(inputs, 1)? {
        Some(n) => length(n)?,
        None if inverse && onesided => length(2 * (have as i64 - 1))?,
        None => length(have as i64)?,
    };
    let bins = if onesided && !inverse { n / 2 + 1 } else { n };
    let results = if onesided && inverse { 1 } else { 2 };
    let (outer, inner) = (x.dims[..axis].iter().product::<usize>(), x.dims[axis + 1..rank - 1].iter().product::<usize>());
    let source = numbers(x)?;
    let mut dims = x.dims.clone();
    (dims[axis], dims[rank - 1]) = (bins, results);
    let mut out = vec![0.0; dims.iter().product()];
    // Complex numbers of f32 are transformed in f32; real signals, and halves of spectra that stand for them, in f64.
    let short = (x.dtype == DType::F32 && parts == 2 && !onesided).then(|| Plan::<f32>::new(n, inverse));
    let plan = Plan::<f64>::new(n, inverse);
    for o in 0..outer {
        for i in 0..inner {
            let mut signal: Vec<Complex<f64>> = (0..have)
                .map(|t| ((o * have + t) * inner + i) * parts)
                .map(|k| (source[k], if parts == 2 { source[k + 1] } else { 0.0 }))
                .collect();
            if onesided && inverse {
                // The other half of the spectrum of a real signal is its mirror image.
                signal.resize(n / 2 + 1, (0.0, 0.0));
                for k in signal.len()..n {
                    let (re, im) = signal[n - k];
                    signal.push((re, -im));
                }
            }
            let spectrum = match &short {
                Some(plan) => transform(plan, &signal, n, bins),
                None => transform(&plan, &signal, n, bins),
            };
            for (b, (re, im)) in spectrum.into_iter().enumerate() {
                let to = ((o * bins + b) * inner + i) * results;
                out[to] = re;
                if results == 2 {
                    out[to + 1] = im;
                }
            }
        }
    }
    Ok(vec![floats(&dims, &out, x.dtype).into()])
}

/// Operands signal, step, optional window, optional length; attribute onesided:
/// [STFT](https://onnx.ai/onnx/operators/onnx__STFT.html).
pub(super) fn stft(inputs: &[Option<&Value>], args: HostArgs<'_>) -> Answer {
    let x = tensor(inputs, 0)?;
    let [batch, len, parts @ 1..=2] = x.dims[..] else {
        return Err(Fault::Domain(format!("STFT needs a signal of shape [batch, length, 1 or 2], found {:?}", x.dims)));
    };
    let window = match inputs.get(2).copied().flatten() {
        Some(_) => Some(numbers(tensor(inputs, 2)?)?),
        None => None,
    };
    let n = length(whole(inputs, 3)?.or(window.as_ref().map(|w| w.len() as i64)).unwrap_or(len as i64))?;
    let step = length(whole(inputs, 1)?.unwrap_or(0))?;
    if window.as_ref().is_some_and(|w| w.len() != n) || n > len {
        return Err(Fault::Domain(format!("STFT of frames of {n} values needs such a window and {n} values or more")));
    }
    let frames = 1 + (len - n) / step;
    let bins = if args.ints[0] != 0 { n / 2 + 1 } else { n };
    let source = numbers(x)?;
    let plan = Plan::<f64>::new(n, false);
    let mut out = Vec::with_capacity(batch * frames * bins * 2);
    for b in 0..batch {
        for f in 0..frames {
            let signal: Vec<Complex<f64>> = (0..n)
                .map(|t| {
                    let k = (b * len + f * step + t) * parts;
                    let w = window.as_ref().map_or(1.0, |w| w[t]);
                    (source[k] * w, if parts == 2 { source[k + 1] * w } else { 0.0 })
                })
                .collect();
            out.extend(transform(&plan, &signal, n, bins).into_iter().flat_map(|(re, im)| [re, im]));
        }
    }
    Ok(vec![floats(&[batch, frames, bins, 2], &out, x.dtype).into()])
}

/// Operands number of bins, transform length, sample rate, lower and upper edge; f32 or f64 by the attribute:
/// [MelWeightMatrix](https://onnx.ai/onnx/operators/onnx__MelWeightMatrix.html).
pub(super) fn mel_weights(inputs: &[Option<&Value>], args: HostArgs<'_>) -> Answer {
    let one = |i: usize| -> Result<f64, Fault> {
        tensor(inputs, i)?.to_f64s().and_then(|v| v.first().copied()).ok_or_else(|| Fault::Domain(format!("operand {i} is no number")))
    };
    let (bins, n) = (length(one(0)? as i64)?, length(one(1)? as i64)?);
    let (rate, lower, upper) = (one(2)?, one(3)?, one(4)?);
    let rows = n / 2 + 1;
    let mel = |hz: f64| 2595.0 * (hz / 700.0).ln_1p() / 10f64.ln();
    let step = (mel(upper) - mel(lower)) / (bins + 2) as f64;
    let points: Vec<i64> = (0..bins + 2)
        .map(|i| 700.0 * ((i as f64 * step + mel(lower)) / 2595.0 * 10f64.ln()).exp_m1())
        .map(|hz| ((n + 1) as f64 * hz / rate).floor() as i64)
        .collect();
    if points.iter().any(|p| !(0..rows as i64).contains(p)) {
        return Err(Fault::Domain(format!("the edges {lower} and {upper} Hz are outside of the spectrum")));
    }
    let mut out = vec![0.0; rows * bins];
    for b in 0..bins {
        let [low, center, high] = points[b..b + 3] else { continue };
        if low == center {
            out[center as usize * bins + b] = 1.0;
        }
        for j in low..=center {
            if center > low {
                out[j as usize * bins + b] = (j - low) as f64 / (center - low) as f64;
            }
        }
        for j in center..high {
            out[j as usize * bins + b] = (high - j) as f64 / (high - center) as f64;
        }
    }
    let dtype = DType::from_onnx(args.ints[0] as i32).unwrap_or(DType::F32);
    Ok(vec![floats(&[rows, bins], &out, dtype).into()])
}
