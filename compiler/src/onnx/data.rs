//! Values in `.pb` files, as test data of ONNX keeps them: one message a file, its kind known from the type of the port it belongs to.

use super::external::Resolver;
use super::proto::{MapProto, OptionalProto, SequenceProto, TensorProto, element_kind};
use super::source::Source;
use super::tensor::{self, Decoder};
use super::{Limits, TypeInfo, convert, limits};
use crate::diagnostics::{Diagnostic, Result};
use kiln_kernels::dtype::DType;
use kiln_kernels::value::{Tensor, Value};
use prost::Message;
use std::collections::BTreeMap;

/// Reads a `TensorProto`.
///
/// # Errors
/// The bytes are no such message, or the tensor is not as its dims and type say, or its data lies in another file.
pub fn read_tensor(bytes: &[u8]) -> Result<Tensor> {
    from(bytes, Reader::tensor)
}

/// Reads a value of the type `ty` states: a `TensorProto`, `SequenceProto`, `OptionalProto` or `MapProto`. The bytes do not tell which one they are.
/// An optional value may also be written as the message of what it holds.
///
/// # Errors
/// As [`read_tensor`], and that no value of that type can be written to a file.
pub fn read_value(bytes: &[u8], ty: &TypeInfo) -> Result<Value> {
    let value = match ty {
        TypeInfo::Tensor { .. } => read_tensor(bytes).map(Value::Tensor)?,
        TypeInfo::SparseTensor { .. } => from(bytes, |reader, proto| reader.0.sparse(proto).map(Value::Tensor))?,
        TypeInfo::Sequence(_) => from(bytes, Reader::sequence)?,
        TypeInfo::Map { .. } => from(bytes, Reader::map)?,
        // The messages' fields overlap, so bytes of one may decode as another: the reading whose type fits is meant.
        TypeInfo::Optional(inner) => match from(bytes, Reader::optional) {
            Ok(value) if fits(&value, ty) => value,
            other => match (read_value(bytes, inner), other) {
                (Ok(held), _) => Value::Optional(Some(Box::new(held))),
                (Err(_), Ok(value)) => value,
                (Err(_), Err(found)) => return Err(found),
            },
        },
        TypeInfo::Opaque { .. } => return Err(Diagnostic::new("a value of an opaque type cannot be read from a file").into()),
    };
    if !fits(&value, ty) {
        return Err(Diagnostic::new("the file holds a value of another type").note(format!("expected {ty:?}")).into());
    }
    Ok(value)
}

fn fits(value: &Value, ty: &TypeInfo) -> bool {
    match (value, ty) {
        (Value::Tensor(t), TypeInfo::Tensor { dtype, .. } | TypeInfo::SparseTensor { dtype, .. }) => t.dtype == *dtype,
        (Value::Sequence(items), TypeInfo::Sequence(ty)) => items.iter().all(|v| fits(v, ty)),
        (Value::Optional(held), TypeInfo::Optional(ty)) => held.iter().all(|v| fits(v, ty)),
        (Value::IntMap(map), TypeInfo::Map { key, value }) => key.is_int() && map.values().all(|v| fits(v, value)),
        (Value::StrMap(map), TypeInfo::Map { key: DType::Str, value }) => map.values().all(|v| fits(v, value)),
        _ => false,
    }
}

/// The bytes of a `TensorProto`: strings as such, everything else as raw data.
pub fn write_tensor(name: &str, tensor: &Tensor) -> Vec<u8> {
    tensor::encode(name, tensor).encode_to_vec()
}

/// The bytes of the message that holds `value`; [`read_value`] reads them back, given the type.
pub fn write_value(name: &str, value: &Value) -> Vec<u8> {
    match value {
        Value::Tensor(t) => write_tensor(name, t),
        Value::Sequence(items) => sequence(name, items.iter()).encode_to_vec(),
        Value::Optional(held) => optional(name, held.as_deref()).encode_to_vec(),
        Value::IntMap(_) | Value::StrMap(_) => map(name, value).encode_to_vec(),
    }
}

struct Reader(Decoder);

fn from<M: Message + Default, T>(bytes: &[u8], read: impl FnOnce(&mut Reader, M) -> Read<T>) -> Result<T> {
    let limits = Limits::default();
    limits::check_file(bytes.len() as u64, &limits)?;
    let mut source = Source::new(bytes, bytes.len() as u64);
    let proto = convert::decode(&mut source, "an ONNX value")?;
    let mut reader = Reader(Decoder::new(&limits, Resolver::new(None, &limits), source.take_large()));
    read(&mut reader, proto).map_err(|e| Diagnostic::new(e).into())
}

type Read<T> = std::result::Result<T, String>;

impl Reader {
    fn tensor(&mut self, proto: TensorProto) -> Read<Tensor> {
        let name = tensor::quoted(&proto.name);
        self.0.tensor(proto).map_err(|e| format!("{name}: {e}"))
    }
    fn sequence(&mut self, p: SequenceProto) -> Read<Value> {
        let lists = [
            (element_kind::TENSOR, p.tensor_values.len()),
            (element_kind::SPARSE_TENSOR, p.sparse_tensor_values.len()),
            (element_kind::SEQUENCE, p.sequence_values.len()),
            (element_kind::MAP, p.map_values.len()),
            (element_kind::OPTIONAL, p.optional_values.len()),
        ];
        if let Some((kind, n)) = lists.iter().find(|&&(kind, n)| n > 0 && kind != p.elem_type) {
            return Err(format!("a sequence of elements of kind {} has {n} elements of kind {kind}", p.elem_type));
        }
        let items: Read<Vec<Value>> = match p.elem_type {
            element_kind::TENSOR => p.tensor_values.into_iter().map(|t| self.tensor(t).map(Value::Tensor)).collect(),
            element_kind::SPARSE_TENSOR => p.sparse_tensor_values.into_iter().map(|t| self.0.sparse(t).map(Value::Tensor)).collect(),
            element_kind::SEQUENCE => p.sequence_values.into_iter().map(|s| self.sequence(s)).collect(),
            element_kind::MAP => p.map_values.into_iter().map(|m| self.map(m)).collect(),
            element_kind::OPTIONAL => p.optional_values.into_iter().map(|o| self.optional(o)).collect(),
            element_kind::UNDEFINED => Ok(Vec::new()),
            kind => Err(format!("a sequence of elements of the unknown kind {kind}")),
        };
        Ok(Value::Sequence(items?))
    }
    fn optional(&mut self, p: OptionalProto) -> Read<Value> {
        let held = match p.elem_type {
            element_kind::UNDEFINED => None,
            element_kind::TENSOR => p.tensor_value.map(|t| self.tensor(t).map(Value::Tensor)),
            element_kind::SPARSE_TENSOR => p.sparse_tensor_value.map(|t| self.0.sparse(t).map(Value::Tensor)),
            element_kind::SEQUENCE => p.sequence_value.map(|s| self.sequence(s)),
            element_kind::MAP => p.map_value.map(|m| self.map(*m)),
            element_kind::OPTIONAL => p.optional_value.map(|o| self.optional(*o)),
            kind => return Err(format!("an optional of the unknown kind {kind}")),
        };
        if held.is_none() && p.elem_type != element_kind::UNDEFINED {
            return Err(format!("an optional of kind {} holds no such value", p.elem_type));
        }
        Ok(Value::Optional(held.transpose()?.map(Box::new)))
    }
    fn map(&mut self, p: MapProto) -> Read<Value> {
        let Value::Sequence(values) = self.sequence(p.values.unwrap_or_default())? else { return Err("a map without values".to_string()) };
        let count = p.keys.len() + p.string_keys.len();
        if count != values.len() {
            return Err(format!("a map of {count} keys and {} values", values.len()));
        }
        match tensor::dtype(p.key_type).map_err(|e| format!("of a map's key: {e}"))? {
            DType::Str if p.keys.is_empty() => {
                let keys = p.string_keys.into_iter().map(String::from_utf8).collect::<std::result::Result<Vec<_>, _>>();
                let keys = keys.map_err(|_| "a map has a key that is not UTF-8")?;
                distinct(keys.into_iter().zip(values)).map(Value::StrMap)
            }
            key if key.is_int() && p.string_keys.is_empty() => distinct(p.keys.into_iter().zip(values)).map(Value::IntMap),
            key => Err(format!("a map with keys of type {key} lists other keys")),
        }
    }
}

fn distinct<K: Ord>(entries: impl Iterator<Item = (K, Value)>) -> Read<BTreeMap<K, Value>> {
    let mut map = BTreeMap::new();
    for (key, value) in entries {
        if map.insert(key, value).is_some() {
            return Err("a map has one key twice".to_string());
        }
    }
    Ok(map)
}

fn kind(value: &Value) -> i32 {
    match value {
        Value::Tensor(_) => element_kind::TENSOR,
        Value::Sequence(_) => element_kind::SEQUENCE,
        Value::Optional(_) => element_kind::OPTIONAL,
        Value::IntMap(_) | Value::StrMap(_) => element_kind::MAP,
    }
}

fn sequence<'a>(name: &str, items: impl Iterator<Item = &'a Value>) -> SequenceProto {
    // An empty sequence is written as one of tensors, as ONNX's own helper does; readers that know the type do not mind.
    let mut out = SequenceProto { name: name.to_string(), elem_type: element_kind::TENSOR, ..Default::default() };
    for item in items {
        out.elem_type = kind(item);
        match item {
            Value::Tensor(t) => out.tensor_values.push(tensor::encode("", t)),
            Value::Sequence(s) => out.sequence_values.push(sequence("", s.iter())),
            Value::Optional(o) => out.optional_values.push(optional("", o.as_deref())),
            Value::IntMap(_) | Value::StrMap(_) => out.map_values.push(map("", item)),
        }
    }
    out
}

fn optional(name: &str, held: Option<&Value>) -> OptionalProto {
    let mut out = OptionalProto { name: name.to_string(), elem_type: held.map_or(element_kind::UNDEFINED, kind), ..Default::default() };
    match held {
        None => {}
        Some(Value::Tensor(t)) => out.tensor_value = Some(tensor::encode("", t)),
        Some(Value::Sequence(s)) => out.sequence_value = Some(sequence("", s.iter())),
        Some(Value::Optional(o)) => out.optional_value = Some(Box::new(optional("", o.as_deref()))),
        Some(value @ (Value::IntMap(_) | Value::StrMap(_))) => out.map_value = Some(Box::new(map("", value))),
    }
    out
}

fn map(name: &str, value: &Value) -> MapProto {
    let mut out = MapProto { name: name.to_string(), key_type: DType::I64.to_onnx(), ..Default::default() };
    match value {
        Value::IntMap(m) => {
            out.keys = m.keys().copied().collect();
            out.values = Some(sequence("", m.values()));
        }
        Value::StrMap(m) => {
            out.key_type = DType::Str.to_onnx();
            out.string_keys = m.keys().map(|k| k.clone().into_bytes()).collect();
            out.values = Some(sequence("", m.values()));
        }
        _ => {}
    }
    out
}
