//! Host functions on maps: ZipMap, DictVectorizer and CastMap.

use super::{Answer, HostArgs, tensor};
use crate::dtype::DType;
use crate::fault::Fault;
use crate::value::{Tensor, Value};
use alloc::string::{String, ToString};
use alloc::{format, vec, vec::Vec};

/// Operands scores `[N, C]` or `[C]`, and the C keys: a sequence of maps, one for each row:
/// [ZipMap](https://onnx.ai/onnx/operators/onnx_aionnxml_ZipMap.html).
pub(super) fn zip(inputs: &[Option<&Value>], _: HostArgs<'_>) -> Answer {
    let (x, keys) = (tensor(inputs, 0)?, tensor(inputs, 1)?);
    let n = keys.len();
    if x.dtype != DType::F32 || x.dims.last().copied().unwrap_or(1) != n {
        return Err(Fault::Domain(format!("ZipMap of {n} keys and scores of shape {:?}", x.dims)));
    }
    let rows = if x.dims.len() < 2 { 1 } else { x.dims[..x.dims.len() - 1].iter().product() };
    let score = |row: usize, c: usize| Value::from(Tensor::scalar(x.slice::<f32>()[row * n + c]));
    let map = |row: usize| match keys.dtype {
        DType::Str => Value::StrMap(keys.as_strings().iter().enumerate().map(|(c, k)| (k.clone(), score(row, c))).collect()),
        _ => Value::IntMap(keys.slice::<i64>().iter().enumerate().map(|(c, k)| (*k, score(row, c))).collect()),
    };
    Ok(vec![Value::Sequence((0..rows).map(map).collect())])
}

/// The values of a map in the order of its keys, and for keys that are integers the keys.
fn entries<'a>(inputs: &[Option<&'a Value>]) -> Result<(Vec<&'a Tensor>, Vec<i64>), Fault> {
    let none = || Fault::Domain("operand 0 is no map of numbers or strings".to_string());
    let one = |v: &'a Value| v.as_tensor().filter(|t| t.len() == 1).ok_or_else(none);
    match inputs.first().copied().flatten() {
        Some(Value::IntMap(m)) => Ok((m.values().map(one).collect::<Result<_, _>>()?, m.keys().copied().collect())),
        Some(Value::StrMap(m)) => Ok((m.values().map(one).collect::<Result<_, _>>()?, vec![])),
        _ => Err(none()),
    }
}

/// Operands a map and a vocabulary: the values of its words in a row, zeros and empty strings for those that the map lacks; attribute: the
/// type of the values: [DictVectorizer](https://onnx.ai/onnx/operators/onnx_aionnxml_DictVectorizer.html).
pub(super) fn vectorize(inputs: &[Option<&Value>], args: HostArgs<'_>) -> Answer {
    let words = tensor(inputs, 1)?;
    let find = |i: usize| match inputs.first().copied().flatten() {
        Some(Value::StrMap(m)) => m.get(words.as_strings().get(i)?),
        Some(Value::IntMap(m)) if words.dtype == DType::I64 => m.get(&words.slice::<i64>()[i]),
        _ => None,
    };
    let wanted = i32::try_from(args.ints[0]).ok().and_then(DType::from_onnx);
    let mut out = Tensor::zeros(wanted.ok_or_else(|| Fault::Domain("there is no such type".into()))?, &[1, words.len()]);
    let size = out.dtype.size();
    for i in 0..words.len() {
        let Some(v) = find(i) else { continue };
        let v = v.as_tensor().filter(|t| t.dtype == out.dtype && t.len() == 1);
        let v = v.ok_or_else(|| Fault::Domain(format!("the map holds values that are no {}", out.dtype)))?;
        match out.dtype {
            DType::Str => out.strings_mut()[i].clone_from(&v.as_strings()[0]),
            _ => out.bytes_mut()[i * size..][..size].copy_from_slice(v.bytes()),
        }
    }
    Ok(vec![out.into()])
}

/// Operand a map; attributes: the type of the result, and how many elements it has where keys are their places, -1 where values follow one
/// another: [CastMap](https://onnx.ai/onnx/operators/onnx_aionnxml_CastMap.html).
pub(super) fn cast(inputs: &[Option<&Value>], args: HostArgs<'_>) -> Answer {
    let (values, keys) = entries(inputs)?;
    let to = i32::try_from(args.ints[0]).ok().and_then(DType::from_onnx).unwrap_or(DType::F32);
    let places: Vec<usize> = match usize::try_from(args.ints[1]) {
        Err(_) => (0..values.len()).collect(),
        Ok(n) => {
            let place = |k: &i64| usize::try_from(*k).ok().filter(|k| *k < n).ok_or(Fault::Index { index: *k, len: n });
            keys.iter().map(place).collect::<Result<_, _>>()?
        }
    };
    let count = usize::try_from(args.ints[1]).unwrap_or(values.len());
    let mut out = vec![String::from("0"); count];
    for (place, v) in places.into_iter().zip(values) {
        let text = || v.to_f64s().map(|x| x[0].to_string());
        out[place] = v.as_strings().first().cloned().or_else(text).unwrap_or_default();
    }
    let number = |s: &String| s.trim().parse::<f64>().map_err(|_| Fault::Domain(format!("{s:?} is no number")));
    let dims = [1, count];
    Ok(vec![match to {
        DType::Str => Tensor::strings(&dims, out).into(),
        DType::I64 => Tensor::new(&dims, &out.iter().map(|s| number(s).map(|x| x as i64)).collect::<Result<Vec<_>, _>>()?).into(),
        _ => Tensor::new(&dims, &out.iter().map(|s| number(s).map(|x| x as f32)).collect::<Result<Vec<_>, _>>()?).into(),
    }])
}
