//! Host functions on strings.

use super::{Answer, HostArgs, ints, tensor};
use crate::dtype::{DType, bf16, f16};
use crate::fault::{Fault, position};
use crate::index::{for_each, offset, strides};
use crate::value::{Tensor, Value};
use alloc::string::{String, ToString};
use alloc::{format, vec, vec::Vec};

/// Text attributes: the case change, then stop words; integer attribute: whether stop words match case:
/// [StringNormalizer](https://onnx.ai/onnx/operators/onnx__StringNormalizer.html).
pub(super) fn normalize(inputs: &[Option<&Value>], args: HostArgs<'_>) -> Answer {
    let x = tensor(inputs, 0)?;
    let sensitive = args.ints[0] != 0;
    let stop = &args.text[1..];
    let is_stop = |s: &str| stop.iter().any(|w| if sensitive { *w == s } else { w.to_lowercase() == s.to_lowercase() });
    let mut kept: Vec<String> = x.as_strings().iter().filter(|s| stop.is_empty() || !is_stop(s)).cloned().collect();
    for s in &mut kept {
        *s = match args.text[0] {
            "LOWER" => s.to_lowercase(),
            "UPPER" => s.to_uppercase(),
            _ => core::mem::take(s),
        };
    }
    let mut dims = x.dims.clone();
    if !stop.is_empty() {
        // Where every word is a stop word, one empty string is left.
        if kept.is_empty() {
            kept.push(String::new());
        }
        let rows: usize = dims[..dims.len() - 1].iter().product();
        if rows != 1 {
            return Err(Fault::Domain(format!("stop words of a tensor of shape {dims:?} would leave rows of different length")));
        }
        *dims.last_mut().expect("rank was checked at compile time; this is a bug") = kept.len();
    }
    Ok(vec![Tensor::strings(&dims, kept).into()])
}

fn pairs<T>(inputs: &[Option<&Value>], f: impl Fn(&str, &str) -> T) -> Result<(Vec<usize>, Vec<T>), Fault> {
    let (a, b) = (tensor(inputs, 0)?, tensor(inputs, 1)?);
    let rank = a.dims.len().max(b.dims.len());
    let at = |d: &[usize], i: usize| if i + d.len() >= rank { d[i + d.len() - rank] } else { 1 };
    let mut dims = Vec::new();
    for i in 0..rank {
        let (x, y) = (at(&a.dims, i), at(&b.dims, i));
        if x != y && x != 1 && y != 1 {
            return Err(Fault::Domain(format!("shapes {:?} and {:?} do not broadcast", a.dims, b.dims)));
        }
        dims.push(if x == 1 { y } else { x });
    }
    let step = |t: &Tensor| -> Vec<usize> {
        let s = strides(&t.dims);
        let skip = rank - t.dims.len();
        (0..rank).map(|i| if i < skip || t.dims[i - skip] == 1 { 0 } else { s[i - skip] }).collect()
    };
    let (sa, sb) = (step(a), step(b));
    let mut out = Vec::new();
    for_each(&dims, |i| out.push(f(&a.as_strings()[offset(i, &sa)], &b.as_strings()[offset(i, &sb)])));
    Ok((dims, out))
}

/// The strings at positions in row-major order, in the shape of the positions.
pub(super) fn pick(inputs: &[Option<&Value>], _: HostArgs<'_>) -> Answer {
    let (x, dims) = (tensor(inputs, 0)?.as_strings(), tensor(inputs, 1)?.dims.clone());
    let picked = ints(inputs, 1)?.unwrap_or_default().into_iter().map(|p| Ok(x[position(p, x.len())?].clone()));
    Ok(vec![Tensor::strings(&dims, picked.collect::<Result<_, Fault>>()?).into()])
}

/// [StringConcat](https://onnx.ai/onnx/operators/onnx__StringConcat.html).
pub(super) fn concat(inputs: &[Option<&Value>], _: HostArgs<'_>) -> Answer {
    let (dims, out) = pairs(inputs, |a, b| format!("{a}{b}"))?;
    Ok(vec![Tensor::strings(&dims, out).into()])
}

/// [Equal](https://onnx.ai/onnx/operators/onnx__Equal.html) of strings.
pub(super) fn equal(inputs: &[Option<&Value>], _: HostArgs<'_>) -> Answer {
    let (dims, out) = pairs(inputs, |a, b| (a == b) as u8)?;
    Ok(vec![Tensor::with_dtype(DType::Bool, &dims, &out).into()])
}

/// A float as ONNX prints it: like NumPy, with `INF`-style words in lower case.
fn show(x: f64, short: String) -> String {
    if x.is_nan() {
        "NaN".into()
    } else if x.is_infinite() {
        if x > 0.0 { "INF" } else { "-INF" }.into()
    } else {
        short
    }
}

/// The number a string spells, with the words for infinities and NaN in any case.
fn parse(s: &str) -> Result<f64, Fault> {
    let t = s.trim();
    t.parse::<f64>().map_err(|_| Fault::Domain(format!("\"{}\" spells no number", t.chars().take(40).collect::<String>())))
}

/// Conversions from and to strings; attribute: the ONNX number of the type wanted:
/// [Cast](https://onnx.ai/onnx/operators/onnx__Cast.html).
pub(super) fn cast(inputs: &[Option<&Value>], args: HostArgs<'_>) -> Answer {
    let x = tensor(inputs, 0)?;
    let to = DType::from_onnx(args.ints[0] as i32).ok_or_else(|| Fault::Domain("unknown type".into()))?;
    if to == DType::Str {
        let text: Vec<String> = match x.dtype {
            DType::F32 => x.slice::<f32>().iter().map(|v| show(*v as f64, v.to_string())).collect(),
            DType::Bool => x.slice::<u8>().iter().map(|v| if *v != 0 { "1" } else { "0" }.to_string()).collect(),
            DType::U64 => x.slice::<u64>().iter().map(|v| v.to_string()).collect(),
            d if d.is_float() => x
                .to_f64s()
                .ok_or_else(|| Fault::Domain(format!("Cast from {d} to strings is not supported")))?
                .iter()
                .map(|v| show(*v, v.to_string()))
                .collect(),
            d => x
                .to_i64s()
                .ok_or_else(|| Fault::Domain(format!("Cast from {d} to strings is not supported")))?
                .iter()
                .map(|v| v.to_string())
                .collect(),
        };
        return Ok(vec![Tensor::strings(&x.dims, text).into()]);
    }
    let mut out = Tensor::zeros(to, &x.dims);
    let source = x.as_strings();
    macro_rules! ints {
        ($t:ty) => {
            for (o, s) in out.slice_mut::<$t>().iter_mut().zip(source) {
                *o = s.trim().parse::<$t>().or_else(|_| parse(s).map(|v| v as $t))?;
            }
        };
    }
    match to {
        DType::F32 => {
            for (o, s) in out.slice_mut::<f32>().iter_mut().zip(source) {
                *o = s.trim().parse::<f32>().or_else(|_| parse(s).map(|v| v as f32))?;
            }
        }
        DType::F64 => {
            for (o, s) in out.slice_mut::<f64>().iter_mut().zip(source) {
                *o = parse(s)?;
            }
        }
        DType::F16 => {
            for (o, s) in out.slice_mut::<f16>().iter_mut().zip(source) {
                *o = f16::from_f32(parse(s)? as f32);
            }
        }
        DType::Bf16 => {
            for (o, s) in out.slice_mut::<bf16>().iter_mut().zip(source) {
                *o = bf16::from_f32(parse(s)? as f32);
            }
        }
        DType::I64 => ints!(i64),
        DType::I32 => ints!(i32),
        DType::I16 => ints!(i16),
        DType::I8 => ints!(i8),
        DType::U64 => ints!(u64),
        DType::U32 => ints!(u32),
        DType::U16 => ints!(u16),
        DType::U8 => ints!(u8),
        DType::Bool => {
            for (o, s) in out.slice_mut::<u8>().iter_mut().zip(source) {
                *o = (parse(s)? != 0.0) as u8;
            }
        }
        other => return Err(Fault::Domain(format!("Cast from strings to {other} is not supported"))),
    }
    Ok(vec![out.into()])
}
