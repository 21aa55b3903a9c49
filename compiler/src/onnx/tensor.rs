//! Tensors from messages: every encoding ONNX has, each checked to hold exactly the elements that the dims ask for.

use super::external::Resolver;
use super::proto::{EXTERNAL, SparseTensorProto, TensorProto};
use super::source::Large;
use super::{Limits, proto};
use crate::diagnostics::shown;
use kiln_kernels::dtype::DType;
use kiln_kernels::narrow::{code_at, put_code};
use kiln_kernels::value::{Bytes, Data, Element, Tensor};
use std::sync::Arc;

/// Turns messages into tensors; all findings are sentences whose subject is the tensor ("it has no data type").
pub(super) struct Decoder {
    limits: Limits,
    pub(super) external: Resolver,
    large: Large,
    dense_left: u64,
}

/// Type, dims and element count of a tensor, checked.
struct Form {
    dtype: DType,
    dims: Vec<usize>,
    len: usize,
    bytes: usize,
}

impl Form {
    fn takes(&self) -> String {
        format!("{}{:?} takes {}", self.dtype, self.dims, self.bytes)
    }
}

impl Decoder {
    pub(super) fn new(limits: &Limits, external: Resolver, large: Large) -> Decoder {
        Decoder { limits: limits.clone(), external, large, dense_left: limits.max_dense }
    }

    /// The tensor of a message.
    ///
    /// # Errors
    /// In words: an unknown type, impossible dims, elements that are missing, too few, too many, out of range or in the wrong field.
    pub(super) fn tensor(&mut self, mut proto: TensorProto) -> Result<Tensor, String> {
        let form = self.form(proto.data_type, &proto.dims)?;
        if proto.segment.is_some() {
            return Err("it is one segment of a tensor, which no reader of ONNX supports".to_string());
        }
        let fields: Vec<(&str, usize)> = fields(&proto).into_iter().filter(|&(_, n)| n > 0).collect();
        if proto.data_location == EXTERNAL {
            if let Some((field, _)) = fields.first() {
                return Err(format!("its data is in another file, yet it also has {field}"));
            }
            if form.dtype == DType::Str {
                return Err("it holds strings, which cannot lie in another file".to_string());
            }
            let bytes = self.external.read(&proto.external_data, form.bytes as u64)?;
            return Ok(finish(form, bytes));
        }
        if proto.data_location != 0 {
            return Err(format!("its data has the unknown location {}", proto.data_location));
        }
        match fields[..] {
            [] if form.len == 0 => return Ok(Tensor::zeros(form.dtype, &form.dims)),
            [] => return Err(format!("it has no data, {}{:?} has {} elements", form.dtype, form.dims, form.len)),
            [(one, _), (other, _), ..] => return Err(format!("it has data twice, in {one} and in {other}")),
            [(field, n)] => {
                let wanted = field_of(form.dtype);
                if field != wanted && (field != "raw_data" || form.dtype == DType::Str) {
                    return Err(format!("it has {field}, {} belongs in {wanted}", form.dtype));
                }
                let holds = if field == "raw_data" { form.bytes } else { entries(&form) };
                if n != holds {
                    let unit = if field == "raw_data" { "bytes" } else { "entries" };
                    let takes = if field == "raw_data" { form.takes() } else { format!("{}{:?} takes {holds}", form.dtype, form.dims) };
                    return Err(format!("its {field} has {n} {unit}, {takes}"));
                }
            }
        }
        if let Some(raw) = proto.raw_data.take()
            && !raw.is_empty()
        {
            return Ok(finish(form, self.large.take(raw)));
        }
        typed(form, proto)
    }

    /// The dense tensor of a sparse message.
    ///
    /// # Errors
    /// As [`Decoder::tensor`], and indices that are malformed, out of range or not in rising order, and sparse tensors that are too large in all.
    pub(super) fn sparse(&mut self, proto: SparseTensorProto) -> Result<Tensor, String> {
        let (Some(values), Some(indices)) = (proto.values, proto.indices) else {
            return Err("it is a sparse tensor without values or indices".to_string());
        };
        let form = self.form(values.data_type, &proto.dims)?;
        let values = self.tensor(values).map_err(|e| format!("of its values: {e}"))?;
        let indices = self.tensor(indices).map_err(|e| format!("of its indices: {e}"))?;
        let count = values.len();
        if values.dims.len() != 1 {
            return Err(format!("its values have dims {:?}, a sparse tensor lists them along one", values.dims));
        }
        if indices.dtype != DType::I64 || (indices.dims != [count] && indices.dims != [count, form.dims.len()]) {
            return Err(format!(
                "its indices are {}{:?}, its {count} values take i64[{count}] or i64[{count}, {}]",
                indices.dtype,
                indices.dims,
                form.dims.len()
            ));
        }
        let cost = if form.dtype == DType::Str { form.len as u64 * 24 } else { form.bytes as u64 };
        self.dense_left = match self.dense_left.checked_sub(cost) {
            Some(left) => left,
            None => {
                return Err(format!(
                    "dense it takes {cost} bytes, and the limit for all sparse tensors is {} (max_dense)",
                    self.limits.max_dense
                ));
            }
        };
        let mut dense = Tensor::zeros(form.dtype, &form.dims);
        let all = indices.slice::<i64>();
        let mut last = None;
        for i in 0..count {
            let at = if indices.dims.len() == 1 {
                usize::try_from(all[i]).ok().filter(|&at| at < form.len)
            } else {
                let row = &all[i * form.dims.len()..(i + 1) * form.dims.len()];
                row.iter().zip(&form.dims).try_fold(0, |at, (&x, &d)| Some(at * d + usize::try_from(x).ok().filter(|&x| x < d)?))
            };
            let Some(at) = at else { return Err(format!("its index {i} is outside of {:?}", form.dims)) };
            if last.is_some_and(|last| at <= last) {
                return Err(format!("its index {i} is not above the one before, and they must rise"));
            }
            last = Some(at);
            put(&mut dense, at, &values, i);
        }
        Ok(dense)
    }

    fn form(&self, code: i32, dims: &[i64]) -> Result<Form, String> {
        let dtype = dtype(code)?;
        if dims.len() > self.limits.max_rank {
            return Err(format!("it has {} dims, the limit is {} (max_rank)", dims.len(), self.limits.max_rank));
        }
        let mut sizes = Vec::with_capacity(dims.len());
        // The product is taken without the zeros, so that no order of multiplication can overflow later.
        let mut product = 1i64;
        for &d in dims {
            match (usize::try_from(d), product.checked_mul(d.max(1))) {
                (Ok(size), Some(p)) => {
                    sizes.push(size);
                    product = p;
                }
                (Err(_), _) => return Err(format!("it has dims {dims:?}, and a dim is not negative")),
                (_, None) => return Err(format!("it has dims {dims:?}, which is more elements than can be counted")),
            }
        }
        let len = sizes.iter().product::<usize>();
        if len as u64 > self.limits.max_elements {
            return Err(format!("it has dims {dims:?}, {len} elements, the limit is {} (max_elements)", self.limits.max_elements));
        }
        let Some(bytes) = dtype.bytes(len) else { return Err(format!("it has dims {dims:?}, which is more bytes than can be counted")) };
        Ok(Form { dtype, dims: sizes, len, bytes })
    }
}

/// The element type of a number in the file.
///
/// # Errors
/// In words: there is none, or none that is supported.
pub(super) fn dtype(code: i32) -> Result<DType, String> {
    match (DType::from_onnx(code), code) {
        (Some(dtype), _) => Ok(dtype),
        (None, 0) => Err("it has no element type".to_string()),
        (None, _) => Err(format!("it has the unknown element type {code}")),
    }
}

/// The fields that may hold elements, with the number of entries each has.
fn fields(p: &TensorProto) -> [(&'static str, usize); 7] {
    [
        ("raw_data", p.raw_data.as_ref().map_or(0, |r| r.len())),
        ("float_data", p.float_data.len()),
        ("int32_data", p.int32_data.len()),
        ("string_data", p.string_data.len()),
        ("int64_data", p.int64_data.len()),
        ("double_data", p.double_data.len()),
        ("uint64_data", p.uint64_data.len()),
    ]
}

/// The typed field that elements of `dtype` belong in.
fn field_of(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 | DType::C64 => "float_data",
        DType::F64 | DType::C128 => "double_data",
        DType::I64 => "int64_data",
        DType::U32 | DType::U64 => "uint64_data",
        DType::Str => "string_data",
        _ => "int32_data",
    }
}

/// How many entries of its typed field a tensor takes.
fn entries(form: &Form) -> usize {
    match form.dtype {
        DType::C64 | DType::C128 => form.len.saturating_mul(2),
        // An entry is a byte of several elements, but of 6 bits one element.
        d if matches!(d.bits(), 2 | 4) => form.bytes,
        _ => form.len,
    }
}

/// A tensor of these bytes, with what ONNX leaves open made definite: a bool is 0 or 1, unused bits are 0.
fn finish(form: Form, mut bytes: Bytes) -> Tensor {
    if form.dtype == DType::Bool && bytes.iter().any(|&b| b > 1) {
        bytes.bytes_mut().iter_mut().for_each(|b| *b = u8::from(*b != 0));
    }
    let used = form.len * form.dtype.bits() % 8;
    if used != 0
        && bytes.last().is_some_and(|b| b >> used != 0)
        && let Some(last) = bytes.bytes_mut().last_mut()
    {
        *last &= (1 << used) - 1;
    }
    Tensor { dtype: form.dtype, dims: form.dims, data: Data::Bytes(bytes) }
}

/// The tensor of a message whose typed field has the right number of entries.
fn typed(form: Form, p: TensorProto) -> Result<Tensor, String> {
    Ok(match form.dtype {
        DType::F32 | DType::C64 => finish(form, stored(&p.float_data)),
        DType::F64 | DType::C128 => finish(form, stored(&p.double_data)),
        DType::I64 => finish(form, stored(&p.int64_data)),
        DType::U64 => finish(form, stored(&p.uint64_data)),
        DType::I32 => finish(form, stored(&p.int32_data)),
        DType::U32 => {
            let narrow = p.uint64_data.iter().map(|&x| u32::try_from(x)).collect::<Result<Vec<_>, _>>();
            finish(form, stored(&narrow.map_err(|_| "its uint64_data has an entry that is no u32")?))
        }
        DType::Str => {
            let text = p.string_data.into_iter().enumerate().map(|(i, s)| {
                String::from_utf8(s).map_err(|e| format!("its string {i} is not UTF-8 from byte {} on", e.utf8_error().valid_up_to()))
            });
            Tensor { dtype: DType::Str, dims: form.dims, data: Data::Strings(Arc::new(text.collect::<Result<_, _>>()?)) }
        }
        DType::Bool => finish(form, stored(&p.int32_data.iter().map(|&x| u8::from(x != 0)).collect::<Vec<_>>())),
        _ => {
            // Floats are written as their bits; some writers extend the sign, so both readings of the bits are accepted.
            let bits = form.dtype.size() * 8;
            let (low, high) = (-(1i32 << (bits - 1)), (1i32 << bits) - 1);
            if let Some(x) = p.int32_data.iter().find(|x| !(low..=high).contains(x)) {
                return Err(format!("its int32_data has the entry {x}, which does not fit {bits} bits"));
            }
            let bytes = match bits {
                _ if form.dtype.bits() == 6 => {
                    let mut bytes = Bytes::zeroed(form.bytes);
                    p.int32_data.iter().enumerate().for_each(|(i, x)| put_code(bytes.bytes_mut(), 6, i, *x as u8 & 0x3f));
                    bytes
                }
                8 => stored(&p.int32_data.iter().map(|&x| x as u8).collect::<Vec<_>>()),
                _ => stored(&p.int32_data.iter().map(|&x| x as u16).collect::<Vec<_>>()),
            };
            finish(form, bytes)
        }
    })
}

fn stored<T: Element>(elements: &[T]) -> Bytes {
    match Tensor::new(&[elements.len()], elements).data {
        Data::Bytes(bytes) => bytes,
        Data::Strings(_) => Bytes::zeroed(0),
    }
}

/// Copies element `from` of `values` to element `to` of `dense`, which has the same type.
fn put(dense: &mut Tensor, to: usize, values: &Tensor, from: usize) {
    match values.dtype.bits() {
        0 => dense.strings_mut()[to].clone_from(&values.as_strings()[from]),
        bits @ 1..8 => {
            put_code(dense.bytes_mut(), bits, to, code_at(values.bytes(), bits, from));
        }
        bits => {
            let size = bits / 8;
            dense.bytes_mut()[to * size..(to + 1) * size].copy_from_slice(&values.bytes()[from * size..(from + 1) * size]);
        }
    }
}

/// The message of a tensor: strings as such, everything else as raw bytes.
pub(super) fn encode(name: &str, tensor: &Tensor) -> TensorProto {
    let mut out = proto::TensorProto {
        name: name.to_string(),
        data_type: tensor.dtype.to_onnx(),
        dims: tensor.dims.iter().map(|&d| d as i64).collect(),
        ..Default::default()
    };
    match &tensor.data {
        Data::Strings(s) => out.string_data = s.iter().map(|s| s.clone().into_bytes()).collect(),
        Data::Bytes(b) => out.raw_data = Some(prost::bytes::Bytes::copy_from_slice(b)),
    }
    out
}

/// The tensor's name as a message shows it.
pub(super) fn quoted(name: &str) -> String {
    if name.is_empty() { "a tensor without a name".to_string() } else { format!("tensor \"{}\"", shown(name)) }
}
