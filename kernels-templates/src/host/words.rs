//! Host functions that look words up or cut them: LabelEncoder, TfIdfVectorizer, StringSplit and RegexFullMatch.

use super::regex::Regex;
use super::{Answer, HostArgs, ints, pick, tensor};
use crate::dtype::DType;
use crate::fault::Fault;
use crate::value::{Tensor, Value};
use alloc::string::{String, ToString};
use alloc::{format, vec, vec::Vec};

/// Numbers as bits that are the same for equal ones, both zeros and all NaNs among them; nothing for strings.
fn bits(t: &Tensor) -> Vec<u64> {
    let size = t.dtype.size();
    let (infinity, sign) = match t.dtype {
        DType::F16 => (0x7c00, 1 << 15),
        DType::Bf16 => (0x7f80, 1 << 15),
        DType::F32 => (0x7f80_0000, 1 << 31),
        DType::F64 => (0x7ff0_0000_0000_0000, 1 << 63),
        _ => (u64::MAX, 0),
    };
    let one = |x: &[u8]| {
        let mut bytes = [0; 8];
        bytes[..size].copy_from_slice(x);
        let bits = u64::from_le_bytes(bytes);
        let magnitude = bits & !sign;
        if magnitude > infinity {
            u64::MAX
        } else if magnitude == 0 {
            0
        } else {
            bits
        }
    };
    if size == 0 || size > 8 { vec![] } else { t.bytes().chunks_exact(size).map(one).collect() }
}

/// The places of keys in the order in which `encode` searches them, strings by their bytes and numbers by their bits, the first of equal ones
/// alone.
pub fn sorted(keys: &Tensor) -> Vec<usize> {
    let mut places: Vec<usize> = (0..keys.len()).collect();
    if keys.dtype == DType::Str {
        let words = keys.as_strings();
        places.sort_by(|a, b| words[*a].cmp(&words[*b]));
        places.dedup_by(|b, a| words[*a] == words[*b]);
    } else {
        let bits = bits(keys);
        places.retain(|i| *i < bits.len());
        places.sort_by_key(|i| bits[*i]);
        places.dedup_by_key(|i| bits[*i]);
    }
    places
}

/// Elements of a tensor at places, as a list.
pub fn listed(t: &Tensor, places: &[usize]) -> Tensor {
    pick(t, &[places.len()], places)
}

/// Operands x, keys as [`sorted`] has them, their values and a default; attribute: whether an element that is no key is a fault, instead of
/// the default: [LabelEncoder](https://onnx.ai/onnx/operators/onnx_aionnxml_LabelEncoder.html).
pub(super) fn encode(inputs: &[Option<&Value>], args: HostArgs<'_>) -> Answer {
    let (x, keys, values, default) = (tensor(inputs, 0)?, tensor(inputs, 1)?, tensor(inputs, 2)?, tensor(inputs, 3)?);
    if x.dtype != keys.dtype || values.dtype != default.dtype || keys.len() != values.len() || default.len() != 1 {
        return Err(Fault::Domain("the table of LabelEncoder does not fit".into()));
    }
    let strict = args.ints.first() == Some(&1);
    let (size, n) = (values.dtype.size(), keys.len());
    let mut all = values.clone();
    // The default stands behind the values.
    all.dims = vec![n + 1];
    if size == 0 {
        all = Tensor::strings(&[n + 1], [values.as_strings(), default.as_strings()].concat());
    } else {
        all = Tensor { data: crate::value::Data::Bytes(crate::value::Bytes::copy_of(&[values.bytes(), default.bytes()].concat())), ..all };
    }
    let from: Vec<usize> = if x.dtype == DType::Str {
        let words = keys.as_strings();
        x.as_strings().iter().map(|x| words.binary_search(x).unwrap_or(n)).collect()
    } else {
        let (x, keys) = (bits(x), bits(keys));
        let first = keys.first().copied().unwrap_or(0);
        // Integers that follow one another are found by their distance.
        if keys.iter().enumerate().all(|(i, k)| *k == first.wrapping_add(i as u64)) {
            x.iter().map(|x| usize::try_from(x.wrapping_sub(first)).map_or(n, |at| at.min(n))).collect()
        } else {
            x.iter().map(|x| keys.binary_search(x).unwrap_or(n)).collect()
        }
    };
    if let Some(i) = from.iter().position(|at| strict && *at == n) {
        return Err(Fault::Domain(format!("element {i} is none of the {n} categories")));
    }
    Ok(vec![pick(&all, &x.dims, &from).into()])
}

/// The tokens of each string, in a row of its own behind the axes of `x`: attributes whether rows begin and end with a mark, and how many
/// characters a token has at least; text: what fills rows up, a pattern of tokens, and patterns of what separates them. Without a pattern of
/// tokens strings are split by each separator in turn, and where that is a single empty one into characters: ONNX Runtime's
/// [Tokenizer](https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.Tokenizer).
pub(super) fn tokenize(inputs: &[Option<&Value>], args: HostArgs<'_>) -> Answer {
    let x = tensor(inputs, 0)?;
    let (mark, least) = (args.ints[0] != 0, args.ints[1]);
    let (fill, pattern, separators) = (args.text[0], args.text[1], &args.text[2..]);
    let regex = |p: &str| Regex::new(p).map_err(|e| Fault::Domain(format!("the pattern {p}: {e}")));
    let tokens = if pattern.is_empty() { None } else { Some(regex(pattern)?) };
    let by_character = tokens.is_none() && separators == [""];
    let separators: Vec<Regex> =
        if tokens.is_some() || by_character { vec![] } else { separators.iter().map(|s| regex(s)).collect::<Result<_, _>>()? };
    let row = |text: &String| -> Vec<String> {
        let text: Vec<char> = text.chars().collect();
        if by_character {
            return text.iter().map(|c| c.to_string()).collect();
        }
        let mut parts: Vec<&[char]> = vec![&text];
        if let Some(regex) = &tokens {
            (parts, _) = matches(regex, &text);
        }
        for s in &separators {
            parts = parts.into_iter().flat_map(|part| matches(s, part).1).collect();
        }
        let long = |part: &&[char]| !part.is_empty() && part.len() as i64 >= least;
        parts.into_iter().filter(long).map(|part| part.iter().collect()).collect()
    };
    let rows: Vec<Vec<String>> = x.as_strings().iter().map(row).collect();
    let most = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = if most == 0 { 0 } else { most + 2 * usize::from(mark) };
    let mut out = Vec::with_capacity(rows.len() * width);
    for row in rows.into_iter().filter(|_| width > 0) {
        let more = most - row.len();
        out.extend(mark.then(|| "\u{2}".to_string()));
        out.extend(row);
        out.extend((0..more).map(|_| fill.to_string()));
        out.extend(mark.then(|| "\u{3}".to_string()));
    }
    Ok(vec![Tensor::strings(&[&x.dims[..], &[width]].concat(), out).into()])
}

/// What matches in a text, and what lies around.
fn matches<'a>(regex: &Regex, text: &'a [char]) -> (Vec<&'a [char]>, Vec<&'a [char]>) {
    let (mut at, mut inside, mut around) = (0, Vec::new(), Vec::new());
    while let Some((from, to)) = regex.find(text, at) {
        inside.push(&text[from..to]);
        around.push(&text[at..from]);
        at = to;
    }
    around.push(&text[at..]);
    (inside, around)
}

/// Operands x, starts of the grams of each length, columns, pool and optional weights; attributes: least length, greatest length,
/// greatest skip; text: the mode: [TfIdfVectorizer](https://onnx.ai/onnx/operators/onnx__TfIdfVectorizer.html).
pub(super) fn tf_idf(inputs: &[Option<&Value>], args: HostArgs<'_>) -> Answer {
    let (x, pool) = (tensor(inputs, 0)?, tensor(inputs, 3)?);
    let (starts, columns) = (ints(inputs, 1)?.unwrap_or_default(), ints(inputs, 2)?.unwrap_or_default());
    let weights = match inputs.get(4).copied().flatten() {
        Some(_) => tensor(inputs, 4)?.to_f64s(),
        None => None,
    };
    let wrong = || Fault::Domain("the pool of TfIdfVectorizer does not fit its lists".into());
    let width = columns.iter().max().copied().unwrap_or(-1) + 1;
    let width = usize::try_from(width).map_err(|_| wrong())?;
    let (least, most, skip) = (args.ints[0].max(1) as usize, args.ints[1].max(0) as usize, args.ints[2].max(0) as usize);
    let cols = x.dims.last().copied().unwrap_or(1);
    let rows = if x.dims.len() == 2 { x.dims[0] } else { 1 };
    // Integers compare by value, whatever their width.
    let words: Option<(Vec<i64>, Vec<i64>)> = x.to_i64s().zip(pool.to_i64s());
    if words.is_none() && (x.dtype != DType::Str || pool.dtype != DType::Str) {
        return Err(Fault::Domain(format!("TfIdfVectorizer of {} with a pool of {}", x.dtype, pool.dtype)));
    }
    let equal = |i: usize, k: usize| match &words {
        Some((x, pool)) => x[i] == pool[k],
        None => x.as_strings()[i] == pool.as_strings()[k],
    };
    let mut counts = vec![0.0f64; rows * width];
    let mut gram = 0;
    for (n, &start) in starts.iter().enumerate() {
        let size = n + 1;
        let end = starts.get(n + 1).copied().unwrap_or(pool.len() as i64);
        let (start, end) = (usize::try_from(start).map_err(|_| wrong())?, usize::try_from(end).map_err(|_| wrong())?);
        if end > pool.len() || start > end {
            return Err(wrong());
        }
        for at in (start..end).step_by(size).take((end - start) / size) {
            let column = usize::try_from(*columns.get(gram).ok_or_else(wrong)?).map_err(|_| wrong())?;
            gram += 1;
            if size < least || size > most {
                continue;
            }
            for row in 0..rows {
                // Single words do not depend on the distance.
                for distance in 1..=if size == 1 { 1 } else { skip + 1 } {
                    let span = (size - 1) * distance;
                    for first in 0..cols.saturating_sub(span) {
                        if (0..size).all(|k| equal(row * cols + first + k * distance, at + k)) {
                            counts[row * width + column] += 1.0;
                        }
                    }
                }
            }
        }
    }
    let weight = |i: usize| weights.as_ref().and_then(|w| w.get(i % width.max(1)).copied()).unwrap_or(1.0);
    let out: Vec<f32> = counts
        .iter()
        .enumerate()
        .map(|(i, &n)| match args.text[0] {
            "TF" => n,
            "IDF" => {
                if n > 0.0 {
                    weight(i)
                } else {
                    0.0
                }
            }
            _ => n * weight(i),
        } as f32)
        .collect();
    let dims = if x.dims.len() == 2 { vec![rows, width] } else { vec![width] };
    Ok(vec![Tensor::new(&dims, &out).into()])
}

/// Text: the delimiter, empty for white space; attribute: the greatest number of cuts, negative for any:
/// [StringSplit](https://onnx.ai/onnx/operators/onnx__StringSplit.html).
pub(super) fn split(inputs: &[Option<&Value>], args: HostArgs<'_>) -> Answer {
    let x = tensor(inputs, 0)?;
    let delimiter = args.text[0];
    let most = usize::try_from(args.ints[0]).unwrap_or(usize::MAX);
    let cut = |s: &String| -> Vec<String> {
        if !delimiter.is_empty() {
            return s.splitn(most.saturating_add(1), delimiter).map(str::to_string).collect();
        }
        let (mut rest, mut out) = (s.trim(), Vec::new());
        while !rest.is_empty() {
            match rest.find(char::is_whitespace).filter(|_| out.len() < most) {
                Some(at) => {
                    out.push(rest[..at].to_string());
                    rest = rest[at..].trim_start();
                }
                None => {
                    out.push(rest.to_string());
                    break;
                }
            }
        }
        out
    };
    let pieces: Vec<Vec<String>> = x.as_strings().iter().map(cut).collect();
    let widest = pieces.iter().map(Vec::len).max().unwrap_or(0);
    let lengths: Vec<i64> = pieces.iter().map(|p| p.len() as i64).collect();
    let mut all = Vec::new();
    for mut p in pieces {
        p.resize(widest, String::new());
        all.append(&mut p);
    }
    let dims = [&x.dims[..], &[widest]].concat();
    Ok(vec![Tensor::strings(&dims, all).into(), Tensor::new(&x.dims, &lengths).into()])
}

/// Text: the pattern: [RegexFullMatch](https://onnx.ai/onnx/operators/onnx__RegexFullMatch.html).
pub(super) fn full_match(inputs: &[Option<&Value>], args: HostArgs<'_>) -> Answer {
    let x = tensor(inputs, 0)?;
    let regex = Regex::new(args.text[0]).map_err(|e| Fault::Domain(format!("the pattern {}: {e}", args.text[0])))?;
    let out: Vec<u8> = x.as_strings().iter().map(|s| regex.is_full_match(s) as u8).collect();
    Ok(vec![Tensor::with_dtype(DType::Bool, &x.dims, &out).into()])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(x: &[&str]) -> Tensor {
        Tensor::strings(&[x.len()], x.iter().map(|s| s.to_string()).collect())
    }

    #[test]
    fn tokens_fill_rows() {
        let x = Value::from(words(&["ab cd e", "", "x1-y"]));
        let go =
            |ints: &[i64], text: &[&str]| match tokenize(&[Some(&x)], HostArgs { ints, text }).expect("the patterns are sound").remove(0) {
                Value::Tensor(t) => t,
                other => panic!("{other:?}"),
            };
        let y = go(&[0, 1], &["#", "[a-z0-9]+"]);
        assert_eq!((&y.dims[..], y.as_strings()), (&[3, 3][..], words(&["ab", "cd", "e", "#", "#", "#", "x1", "y", "#"]).as_strings()));
        let y = go(&[1, 2], &["#", "", " ", "-"]);
        let (a, b) = ("\u{2}", "\u{3}");
        assert_eq!(y.as_strings(), words(&[a, "ab", "cd", b, a, "#", "#", b, a, "x1", "#", b]).as_strings());
        assert_eq!(go(&[0, 1], &["", "", ""]).dims, [3, 7]);
        assert_eq!(go(&[1, 9], &["#", "", " "]).dims, [3, 0]);
    }

    #[test]
    fn elements_are_found_among_keys() {
        let go = |x: Tensor, keys: Tensor| {
            let order = sorted(&keys);
            let values = Tensor::new(&[keys.len()], &(0..keys.len() as i64).collect::<Vec<_>>());
            let inputs = [x, listed(&keys, &order), listed(&values, &order), Tensor::new(&[1], &[-1i64])].map(Value::from);
            let found = encode(&[0, 1, 2, 3].map(|i| Some(&inputs[i])), HostArgs { ints: &[0], text: &[] }).expect("the table fits");
            found[0].as_tensor().expect("a tensor").slice::<i64>().to_vec()
        };
        let x = Tensor::new(&[5], &[-0.0, f32::from_bits(0x7fc0_1234), 2.5, f32::INFINITY, 1.0]);
        assert_eq!(go(x, Tensor::new(&[5], &[0.0, f32::NAN, 2.5, 2.5, f32::INFINITY])), [0, 1, 2, 4, -1]);
        assert_eq!(go(Tensor::new(&[5], &[-2i64, 3, -1, 0, 9]), Tensor::new(&[4], &[-2i64, -1, 0, 1])), [0, -1, 1, 2, -1]);
        assert_eq!(go(Tensor::new(&[3], &[7i32, 5, 6]), Tensor::new(&[2], &[5i32, 6])), [-1, 0, 1]);
        assert_eq!(go(words(&["b", "z"]), words(&["c", "b", "b"])), [1, -1]);
        assert_eq!(go(Tensor::new(&[1], &[1i64]), Tensor::new::<i64>(&[0], &[])), [-1]);
    }
}
