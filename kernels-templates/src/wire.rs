//! Run-time values as bytes: how the command and the models it runs exchange inputs and outputs.

use crate::dtype::DType;
use crate::value::{Data, Tensor, Value};
use alloc::{boxed::Box, collections::BTreeMap, string::String, vec::Vec};

/// How deep values may nest.
const MAX_DEPTH: usize = 32;

/// Appends a value.
pub fn write(v: &Value, out: &mut Vec<u8>) {
    let count = |n: usize, out: &mut Vec<u8>| out.extend((n as u64).to_le_bytes());
    match v {
        Value::Tensor(t) => {
            out.push(0);
            out.push(t.dtype.to_onnx() as u8);
            count(t.dims.len(), out);
            t.dims.iter().for_each(|d| count(*d, out));
            match &t.data {
                Data::Bytes(b) => out.extend_from_slice(b),
                Data::Strings(s) => s.iter().for_each(|s| text(s, out)),
            }
        }
        Value::Sequence(s) => {
            out.push(1);
            count(s.len(), out);
            s.iter().for_each(|v| write(v, out));
        }
        Value::Optional(o) => {
            out.push(2);
            out.push(o.is_some() as u8);
            if let Some(v) = o {
                write(v, out);
            }
        }
        Value::IntMap(m) => {
            out.push(3);
            count(m.len(), out);
            for (k, v) in m {
                out.extend(k.to_le_bytes());
                write(v, out);
            }
        }
        Value::StrMap(m) => {
            out.push(4);
            count(m.len(), out);
            for (k, v) in m {
                text(k, out);
                write(v, out);
            }
        }
    }
}

fn text(s: &str, out: &mut Vec<u8>) {
    out.extend((s.len() as u64).to_le_bytes());
    out.extend_from_slice(s.as_bytes());
}

/// Reads a value from the front of `bytes` and moves past it; `None` when they are none.
pub fn read(bytes: &mut &[u8]) -> Option<Value> {
    value(bytes, 0)
}

fn take<'a>(bytes: &mut &'a [u8], n: usize) -> Option<&'a [u8]> {
    let (head, rest) = bytes.split_at_checked(n)?;
    *bytes = rest;
    Some(head)
}

fn number(bytes: &mut &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(take(bytes, 8)?.try_into().ok()?))
}

/// A count of things that take at least a byte each.
fn length(bytes: &mut &[u8]) -> Option<usize> {
    usize::try_from(number(bytes)?).ok().filter(|n| *n <= bytes.len())
}

fn string(bytes: &mut &[u8]) -> Option<String> {
    let n = length(bytes)?;
    String::from_utf8(take(bytes, n)?.to_vec()).ok()
}

fn value(bytes: &mut &[u8], depth: usize) -> Option<Value> {
    if depth > MAX_DEPTH {
        return None;
    }
    Some(match take(bytes, 1)?[0] {
        0 => {
            let dtype = DType::from_onnx(take(bytes, 1)?[0] as i32)?;
            let rank = length(bytes)?;
            let dims: Vec<usize> = (0..rank).map(|_| usize::try_from(number(bytes)?).ok()).collect::<Option<_>>()?;
            let len = dims.iter().try_fold(1usize, |a, d| a.checked_mul(*d))?;
            if dtype == DType::Str {
                if len.checked_mul(8)? > bytes.len() {
                    return None;
                }
                let text = (0..len).map(|_| string(bytes)).collect::<Option<Vec<_>>>()?;
                return Some(Tensor::strings(&dims, text).into());
            }
            let data = take(bytes, dtype.bytes(len)?)?;
            let mut t = Tensor::zeros(dtype, &dims);
            t.bytes_mut().copy_from_slice(data);
            t.into()
        }
        1 => {
            let n = length(bytes)?;
            Value::Sequence((0..n).map(|_| value(bytes, depth + 1)).collect::<Option<_>>()?)
        }
        2 => match take(bytes, 1)?[0] {
            0 => Value::Optional(None),
            _ => Value::Optional(Some(Box::new(value(bytes, depth + 1)?))),
        },
        3 => {
            let n = length(bytes)?;
            let mut m = BTreeMap::new();
            for _ in 0..n {
                m.insert(number(bytes)? as i64, value(bytes, depth + 1)?);
            }
            Value::IntMap(m)
        }
        4 => {
            let n = length(bytes)?;
            let mut m = BTreeMap::new();
            for _ in 0..n {
                m.insert(string(bytes)?, value(bytes, depth + 1)?);
            }
            Value::StrMap(m)
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::{string::ToString, vec};

    #[test]
    fn values_round_trip_and_cut_ones_are_refused() {
        let t = Value::Tensor(Tensor::new(&[2, 1], &[1.5f32, f32::NEG_INFINITY]));
        let s = Value::Tensor(Tensor::strings(&[2], vec!["".to_string(), "äöü".to_string()]));
        let all = Value::Sequence(vec![
            t.clone(),
            s.clone(),
            Value::Optional(Some(Box::new(t.clone()))),
            Value::Optional(None),
            Value::IntMap(BTreeMap::from([(-3, t)])),
            Value::StrMap(BTreeMap::from([("k".to_string(), s)])),
        ]);
        let mut bytes = Vec::new();
        write(&all, &mut bytes);
        assert_eq!(read(&mut bytes.as_slice()), Some(all));
        for n in 0..bytes.len() {
            assert_eq!(read(&mut &bytes[..n]), None, "{n}");
        }
    }
}
