//! Operators of ai.onnx.ml on labels, categories and maps: LabelEncoder, CategoryMapper, OneHotEncoder, ZipMap, DictVectorizer and CastMap.

use super::{Reader, host};
use crate::diagnostics::Diagnostic;
use crate::ir::{Dim, Type, ValueId};
use crate::onnx::Attribute;
use kiln_kernels::dtype::DType;
use kiln_kernels::host::{listed, sorted};
use kiln_kernels::value::Tensor;

type Read = Result<Vec<ValueId>, Diagnostic>;

/// Each element of `x` looked up among keys; one that is no key becomes the default, or is a fault where `strict`.
fn look_up(r: &mut Reader<'_, '_>, x: ValueId, keys: &Tensor, values: &Tensor, default: Tensor, strict: bool) -> Read {
    let found = r.dtype(x);
    if keys.len() != values.len() || keys.dtype != found {
        let (op, keys, count) = (&r.node.op_type, keys.len(), values.len());
        return Err(Diagnostic::new(format!("{op} has {keys} keys and {count} values, found elements of {found}")));
    }
    if found.size() > 8 || found.bits() < 8 && found != DType::Str {
        return Err(Diagnostic::new(format!("{} does not look up elements of {found}", r.node.op_type)));
    }
    let order = sorted(keys);
    let ty = Type::Tensor(values.dtype, r.shape(x)?);
    let (keys, values) = (listed(keys, &order), listed(values, &order));
    let inputs = [x, r.tensor(keys), r.tensor(values), r.tensor(default)];
    host::call(r, "label_encoder", &inputs, vec![i64::from(strict)], vec![ty])
}

fn words(x: Vec<String>) -> Tensor {
    Tensor::strings(&[x.len()], x)
}

fn ints(x: &[i64]) -> Tensor {
    Tensor::new(&[x.len()], x)
}

/// The places of a list's elements.
fn places(t: &Tensor) -> Tensor {
    ints(&(0..t.len() as i64).collect::<Vec<_>>())
}

/// The list that one of the attributes `name_tensor`, `name_strings`, `name_int64s` and `name_floats` holds.
fn table(r: &Reader<'_, '_>, name: &str) -> Result<Tensor, Diagnostic> {
    if let Some(Attribute::Tensor(t)) = r.node.attribute(&format!("{name}_tensor")) {
        return Ok(Tensor { dims: vec![t.len()], ..t.clone() });
    }
    if let Some(s) = r.strs(&format!("{name}_strings"))? {
        return Ok(words(s));
    }
    if let Some(v) = r.ints(&format!("{name}_int64s"))? {
        return Ok(ints(&v));
    }
    match r.floats(&format!("{name}_floats"))? {
        Some(v) => Ok(Tensor::new(&[v.len()], &v)),
        None => Err(Diagnostic::new(format!("LabelEncoder has no {name}"))),
    }
}

/// Strings to integers or integers to strings, whichever the operand asks for.
fn both_ways(r: &mut Reader<'_, '_>, strings: Tensor, numbers: Tensor) -> Read {
    let x = r.input(0)?;
    if r.dtype(x) == DType::Str {
        let default = ints(&[r.int("default_int64", -1)?]);
        return look_up(r, x, &strings, &numbers, default, false);
    }
    let default = words(vec![r.str("default_string", "_Unused")?]);
    look_up(r, x, &numbers, &strings, default, false)
}

/// Reads [LabelEncoder](https://onnx.ai/onnx/operators/onnx_aionnxml_LabelEncoder.html): each element looked up in a table.
pub fn read_label_encoder(r: &mut Reader<'_, '_>) -> Read {
    if let Some(classes) = r.strs("classes_strings")? {
        let strings = words(classes);
        let numbers = places(&strings);
        return both_ways(r, strings, numbers);
    }
    let x = r.input(0)?;
    let (keys, values) = (table(r, "keys")?, table(r, "values")?);
    let default = match (r.node.attribute("default_tensor"), values.dtype) {
        (Some(Attribute::Tensor(t)), d) if t.dtype == d && t.len() == 1 => Tensor { dims: vec![1], ..t.clone() },
        (_, DType::Str) => words(vec![r.str("default_string", "_Unused")?]),
        (_, DType::I64) => ints(&[r.int("default_int64", -1)?]),
        (_, DType::F32) => Tensor::new(&[1], &[r.float("default_float", -0.0)?]),
        (_, d) => Tensor::zeros(d, &[1]),
    };
    look_up(r, x, &keys, &values, default, false)
}

/// Reads [CategoryMapper](https://onnx.ai/onnx/operators/onnx_aionnxml_CategoryMapper.html).
pub fn read_category_mapper(r: &mut Reader<'_, '_>) -> Read {
    let (strings, numbers) = (r.strs("cats_strings")?.unwrap_or_default(), r.ints("cats_int64s")?.unwrap_or_default());
    both_ways(r, words(strings), ints(&numbers))
}

/// Reads [OneHotEncoder](https://onnx.ai/onnx/operators/onnx_aionnxml_OneHotEncoder.html): a row with a 1 where the element's category is.
pub fn read_one_hot(r: &mut Reader<'_, '_>) -> Read {
    let mut x = r.input(0)?;
    let strict = r.int("zeros", 1)? == 0;
    let keys = match r.dtype(x) {
        DType::Str => words(r.strs("cats_strings")?.unwrap_or_default()),
        _ => {
            // Numbers are cut to integers.
            x = r.cast(x, DType::I64)?;
            ints(&r.ints("cats_int64s")?.unwrap_or_default())
        }
    };
    let (at, looked) = (places(&keys), strict || keys.dtype == DType::Str);
    let found = if looked { look_up(r, x, &keys, &at, ints(&[-1]), strict)?[0] } else { x };
    let rank = r.rank(found)?;
    let found = r.unsqueeze(found, rank)?;
    let categories = r.tensor(if looked { at } else { keys });
    let same = r.pointwise("Equal", &[found, categories])?;
    Ok(vec![r.cast(same, DType::F32)?])
}

/// Reads [ZipMap](https://onnx.ai/onnx/operators/onnx_aionnxml_ZipMap.html): a sequence of maps from labels to scores.
pub fn read_zip_map(r: &mut Reader<'_, '_>) -> Read {
    let x = r.input(0)?;
    let keys = match (r.strs("classlabels_strings")?.unwrap_or_default(), r.ints("classlabels_int64s")?.unwrap_or_default()) {
        (s, _) if !s.is_empty() => words(s),
        (_, i) if !i.is_empty() => ints(&i),
        _ => return Err(Diagnostic::new("ZipMap has neither classlabels_strings nor classlabels_int64s")),
    };
    let shape = r.shape(x)?;
    if r.dtype(x) != DType::F32 || shape.last().and_then(Dim::as_int).is_some_and(|n| n != keys.len() as i64) {
        return Err(Diagnostic::new(format!("ZipMap of {} labels needs as many scores of f32 in a row", keys.len())));
    }
    let map = Type::Map(keys.dtype, Box::new(Type::Tensor(DType::F32, vec![])));
    let keys = r.tensor(keys);
    host::call(r, "zip_map", &[x, keys], vec![], vec![Type::Sequence(Box::new(map))])
}

/// The types of a map's keys and values.
fn map_of(r: &Reader<'_, '_>, x: ValueId) -> Result<(DType, DType), Diagnostic> {
    if let Type::Map(key, value) = r.ty(x)
        && let Some(value) = value.dtype()
    {
        return Ok((*key, value));
    }
    Err(Diagnostic::new(format!("{} needs a map, found {}", r.node.op_type, r.ty(x))))
}

/// Reads [DictVectorizer](https://onnx.ai/onnx/operators/onnx_aionnxml_DictVectorizer.html).
pub fn read_dict_vectorizer(r: &mut Reader<'_, '_>) -> Read {
    let x = r.input(0)?;
    let (key, value) = map_of(r, x)?;
    let vocabulary = match key {
        DType::Str => words(r.strs("string_vocabulary")?.unwrap_or_default()),
        _ => ints(&r.ints("int64_vocabulary")?.unwrap_or_default()),
    };
    if vocabulary.is_empty() {
        return Err(Diagnostic::new(format!("DictVectorizer has no vocabulary for keys of {key}")));
    }
    let ty = Type::Tensor(value, vec![Dim::int(1), Dim::int(vocabulary.len() as i64)]);
    let vocabulary = r.tensor(vocabulary);
    host::call(r, "dict_vectorizer", &[x, vocabulary], vec![i64::from(value.to_onnx())], vec![ty])
}

/// Reads [CastMap](https://onnx.ai/onnx/operators/onnx_aionnxml_CastMap.html).
pub fn read_cast_map(r: &mut Reader<'_, '_>) -> Read {
    let x = r.input(0)?;
    let (key, _) = map_of(r, x)?;
    let to = match r.word("cast_to", &["TO_FLOAT", "TO_STRING", "TO_INT64"])? {
        "TO_STRING" => DType::Str,
        "TO_INT64" => DType::I64,
        _ => DType::F32,
    };
    let count = match r.word("map_form", &["DENSE", "SPARSE"])? {
        "SPARSE" if key == DType::Str => return Err(Diagnostic::new("CastMap to places needs keys that are integers")),
        "SPARSE" => Some(r.int("max_map", 1)?.clamp(1, 1 << 24)),
        _ => None,
    };
    let n = count.map_or_else(|| r.b.fresh("map"), Dim::int);
    let ty = Type::Tensor(to, vec![Dim::int(1), n]);
    host::call(r, "cast_map", &[x], vec![i64::from(to.to_onnx()), count.unwrap_or(-1)], vec![ty])
}
