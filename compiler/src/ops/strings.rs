//! Operators on strings, and conversions from and to them.

use super::{Reader, broadcast, host};
use crate::diagnostics::Diagnostic;
use crate::ir::{Dim, Type, ValueId};
use kiln_kernels::dtype::DType;
use kiln_kernels::value::Tensor;

type Read = Result<Vec<ValueId>, Diagnostic>;

/// Reads `StringNormalizer`.
pub fn read_normalizer(r: &mut Reader<'_, '_>) -> Read {
    let x = r.input(0)?;
    let mut shape = r.shape(x)?;
    let action = r.word("case_change_action", &["NONE", "LOWER", "UPPER"])?;
    let sensitive = r.int("is_case_sensitive", 0)?;
    let stop = r.strs("stopwords")?.unwrap_or_default();
    match shape.last_mut() {
        Some(last) if !stop.is_empty() => *last = r.b.fresh("words"),
        Some(_) => {}
        None => return Err(Diagnostic::new("StringNormalizer needs a tensor of rank 1 or 2, found a scalar")),
    }
    let mut text = vec![action.to_string()];
    text.extend(stop);
    let op = host::Host { name: "string_normalizer", ints: vec![sensitive], text, results: vec![Type::Tensor(DType::Str, shape)] };
    r.emit_all(op, vec![Some(x)], 1)
}

fn pairwise(r: &mut Reader<'_, '_>, name: &'static str, result: DType) -> Read {
    let (a, b) = (r.input(0)?, r.input(1)?);
    let shape: Vec<Dim> = broadcast(&r.shape(a)?, &r.shape(b)?)?;
    host::call(r, name, &[a, b], vec![], vec![Type::Tensor(result, shape)])
}

/// Reads `StringConcat`.
pub fn read_concat(r: &mut Reader<'_, '_>) -> Read {
    pairwise(r, "string_concat", DType::Str)
}

/// Reads `Equal` of strings.
pub fn read_equal(r: &mut Reader<'_, '_>) -> Read {
    pairwise(r, "string_equal", DType::Bool)
}

/// Reads [StringSplit](https://onnx.ai/onnx/operators/onnx__StringSplit.html).
pub fn read_split(r: &mut Reader<'_, '_>) -> Read {
    let x = r.input(0)?;
    let shape = r.shape(x)?;
    let (delimiter, most) = (r.str("delimiter", "")?, r.int("maxsplit", -1)?);
    let pieces = [shape.clone(), vec![r.b.fresh("pieces")]].concat();
    let results = vec![Type::Tensor(DType::Str, pieces), Type::Tensor(DType::I64, shape)];
    host::call_with(r, "string_split", vec![Some(x)], vec![most], vec![delimiter], results)
}

/// Reads [RegexFullMatch](https://onnx.ai/onnx/operators/onnx__RegexFullMatch.html).
pub fn read_full_match(r: &mut Reader<'_, '_>) -> Read {
    let x = r.input(0)?;
    let (shape, pattern) = (r.shape(x)?, r.str("pattern", "")?);
    host::call_with(r, "regex_full_match", vec![Some(x)], vec![], vec![pattern], vec![Type::Tensor(DType::Bool, shape)])
}

/// Reads [TfIdfVectorizer](https://onnx.ai/onnx/operators/onnx__TfIdfVectorizer.html).
pub fn read_tf_idf(r: &mut Reader<'_, '_>) -> Read {
    let x = r.input(0)?;
    let mut shape = r.shape(x)?;
    let missing = |name: &str| Diagnostic::new(format!("attribute {name} is missing"));
    let (starts, columns) = (r.ints("ngram_counts")?, r.ints("ngram_indexes")?);
    let (starts, columns) = (starts.ok_or_else(|| missing("ngram_counts"))?, columns.ok_or_else(|| missing("ngram_indexes"))?);
    let pool = match (r.ints("pool_int64s")?, r.strs("pool_strings")?) {
        (Some(v), _) => Tensor::new(&[v.len()], &v),
        (None, Some(s)) => Tensor::strings(&[s.len()], s),
        _ => return Err(missing("pool_int64s")),
    };
    let width = columns.iter().max().copied().unwrap_or(-1) + 1;
    if !(0..=1 << 31).contains(&width) || shape.len() > 2 {
        return Err(Diagnostic::new(format!("TfIdfVectorizer of rank {} gives {width} columns", shape.len())));
    }
    let mode = r.word("mode", &["TF", "IDF", "TFIDF"])?;
    let ints = vec![r.int("min_gram_length", 1)?, r.int("max_gram_length", 1)?, r.int("max_skip_count", 0)?];
    if ints.iter().any(|n| !(0..=1 << 20).contains(n)) {
        return Err(Diagnostic::new(format!("TfIdfVectorizer has the lengths and skips {ints:?}")));
    }
    shape.pop();
    shape.push(Dim::int(width));
    let lists = [Tensor::new(&[starts.len()], &starts), Tensor::new(&[columns.len()], &columns), pool];
    let mut inputs = vec![Some(x)];
    inputs.extend(lists.into_iter().map(|t| Some(r.tensor(t))));
    inputs.push(r.floats("weights")?.map(|w| r.tensor(Tensor::new(&[w.len()], &w))));
    host::call_with(r, "tf_idf", inputs, ints, vec![mode.to_string()], vec![Type::Tensor(DType::F32, shape)])
}

/// Reads ONNX Runtime's [Tokenizer](https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.Tokenizer), which
/// exports of text vectorizers hold.
pub fn read_tokenizer(r: &mut Reader<'_, '_>) -> Read {
    let x = r.input(0)?;
    let (mut shape, pattern) = (r.shape(x)?, r.str("tokenexp", "")?);
    let separators = r.strs("separators")?.unwrap_or_default();
    if r.dtype(x) != DType::Str || pattern.is_empty() == separators.is_empty() {
        return Err(Diagnostic::new("Tokenizer needs strings, and either tokenexp or separators"));
    }
    if separators.len() > 1 && separators.iter().any(String::is_empty) {
        return Err(Diagnostic::new("Tokenizer has an empty separator among others"));
    }
    let ints = vec![r.int("mark", 0)?, r.int("mincharnum", 1)?];
    let text = [r.str("pad_value", "")?, pattern].into_iter().chain(separators).collect();
    shape.push(r.b.fresh("tokens"));
    host::call_with(r, "tokenize", vec![Some(x)], ints, text, vec![Type::Tensor(DType::Str, shape)])
}

/// Adds a conversion from or to strings.
pub fn cast(r: &mut Reader<'_, '_>, x: ValueId, to: DType) -> Read {
    let shape = r.shape(x)?;
    host::call(r, "cast", &[x], vec![to.to_onnx() as i64], vec![Type::Tensor(to, shape)])
}
