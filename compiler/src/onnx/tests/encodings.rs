//! Every way to write a tensor, for every element type.

use super::*;
use crate::onnx::{Attribute, TypeInfo, read_tensor, read_value, write_tensor, write_value};
use kiln_kernels::dtype::DType;
use kiln_kernels::value::{Tensor, Value};
use std::collections::BTreeMap;

fn message(dtype: DType, dims: &[i64]) -> TensorProto {
    TensorProto { name: "t".into(), data_type: dtype.to_onnx(), dims: dims.to_vec(), ..Default::default() }
}

fn raw(dtype: DType, dims: &[i64], bytes: &[u8]) -> TensorProto {
    TensorProto { raw_data: Some(bytes.to_vec().into()), ..message(dtype, dims) }
}

fn decoded(t: TensorProto) -> Tensor {
    let mut model = parse(&holding(t)).expect("the tensor is well formed");
    model.graph.initializers.remove(0).1
}

/// The tensor `t` in its typed field, by the rules of onnx.proto.
fn in_typed_field(t: &Tensor) -> TensorProto {
    let mut p = message(t.dtype, &t.dims.iter().map(|&d| d as i64).collect::<Vec<_>>());
    let bytes = t.bytes();
    let words = || bytes.chunks_exact(4).map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]]));
    let longs = || bytes.chunks_exact(8).map(|c| u64::from_le_bytes([c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7]]));
    match t.dtype {
        DType::F32 | DType::C64 => p.float_data = words().collect(),
        DType::F64 | DType::C128 => p.double_data = longs().map(f64::from_bits).collect(),
        DType::I64 => p.int64_data = longs().map(|x| x as i64).collect(),
        DType::U64 => p.uint64_data = longs().collect(),
        DType::U32 => p.uint64_data = t.slice::<u32>().iter().map(|&x| x as u64).collect(),
        DType::I32 => p.int32_data = t.slice::<i32>().to_vec(),
        DType::I16 => p.int32_data = t.slice::<i16>().iter().map(|&x| x as i32).collect(),
        DType::I8 => p.int32_data = t.slice::<i8>().iter().map(|&x| x as i32).collect(),
        DType::Str => p.string_data = t.as_strings().iter().map(|s| s.clone().into_bytes()).collect(),
        // The one width whose entries are elements, not bytes.
        d if d.bits() == 6 => p.int32_data = (0..t.len()).map(|i| kiln_kernels::narrow::code_at(bytes, 6, i).into()).collect(),
        d if d.bits() == 16 => p.int32_data = bytes.chunks_exact(2).map(|c| u16::from_le_bytes([c[0], c[1]]) as i32).collect(),
        _ => p.int32_data = bytes.iter().map(|&x| x as i32).collect(),
    }
    p
}

/// Five elements with many different bits.
fn sample(dtype: DType) -> Tensor {
    let mut t = Tensor::zeros(dtype, &[5]);
    if dtype == DType::Str {
        return Tensor::strings(&[5], ["", "a", "é", "\0", "long enough to lie on the heap"].map(String::from).to_vec());
    }
    t.bytes_mut().iter_mut().enumerate().for_each(|(i, b)| *b = (i as u8).wrapping_mul(73).wrapping_add(0x91));
    let used = 5 * dtype.bits() % 8;
    match dtype {
        DType::Bool => t.bytes_mut().iter_mut().for_each(|b| *b &= 1),
        _ if used != 0 => t.bytes_mut().iter_mut().last().into_iter().for_each(|b| *b &= (1 << used) - 1),
        _ => {}
    }
    t
}

#[test]
fn every_type_reads_from_raw_and_typed_data() {
    for &dtype in DType::ALL {
        let t = sample(dtype);
        assert_eq!(decoded(in_typed_field(&t)).bytes(), t.bytes(), "{dtype} in its typed field");
        if dtype != DType::Str {
            assert_eq!(decoded(raw(dtype, &[5], t.bytes())).bytes(), t.bytes(), "{dtype} as raw data");
        }
        assert_eq!(read_tensor(&write_tensor("t", &t)).unwrap().as_strings(), t.as_strings(), "{dtype} written and read");
        assert_eq!(read_tensor(&write_tensor("t", &t)).unwrap().bytes(), t.bytes(), "{dtype} written and read");
    }
}

#[test]
fn raw_data_has_exactly_the_bytes_the_dims_take() {
    for &dtype in DType::ALL {
        if dtype == DType::Str {
            continue;
        }
        let bytes = sample(dtype).bytes().to_vec();
        let longer = [&bytes[..], &[0]].concat();
        for wrong in [&bytes[..bytes.len() - 1], &longer] {
            let why = refusal(&holding(raw(dtype, &[5], wrong)));
            let what = if wrong.is_empty() { "has no data" } else { "raw_data has" };
            assert!(why.contains("initializer, tensor \"t\"") && why.contains(what), "{dtype}: {why}");
        }
    }
}

#[test]
fn typed_data_has_exactly_the_entries_the_dims_take() {
    for &dtype in DType::ALL {
        for n in [4, 9] {
            let why = refusal(&holding(TensorProto { dims: vec![n], ..in_typed_field(&sample(dtype)) }));
            assert!(why.contains("_data has") && why.contains("entries"), "{dtype}: {why}");
        }
    }
}

#[test]
fn a_scalar_has_one_element_and_an_empty_tensor_none() {
    assert_eq!(decoded(raw(DType::F32, &[], &1f32.to_le_bytes())), Tensor::scalar(1f32));
    assert_eq!(decoded(message(DType::F32, &[3, 0])).dims, [3, 0]);
    assert_eq!(decoded(raw(DType::F32, &[0, 1 << 40], &[])).len(), 0);
    assert!(refusal(&holding(message(DType::F32, &[]))).contains("has no data"));
}

#[test]
fn what_onnx_leaves_open_is_made_definite() {
    assert_eq!(decoded(raw(DType::Bool, &[3], &[0, 2, 255])).bytes(), [0, 1, 1]);
    assert_eq!(decoded(raw(DType::U4, &[3], &[0x21, 0xf3])).bytes(), [0x21, 0x03]);
    assert_eq!(decoded(raw(DType::I2, &[1], &[0xff])).bytes(), [0x03]);
    let negative = TensorProto { int32_data: vec![-1, 0xffff], ..message(DType::F16, &[2]) };
    assert_eq!(decoded(negative).bytes(), [0xff; 4]);
}

#[test]
fn entries_outside_of_the_type_are_refused() {
    let cases = [
        (DType::U8, vec![256]),
        (DType::I8, vec![-129]),
        (DType::F16, vec![65536]),
        (DType::Bf16, vec![-32769]),
        (DType::U4, vec![256]),
        (DType::I16, vec![i32::MIN]),
    ];
    for (dtype, entries) in cases {
        let why = refusal(&holding(TensorProto { int32_data: entries, ..message(dtype, &[1]) }));
        assert!(why.contains("does not fit"), "{dtype}: {why}");
    }
    let why = refusal(&holding(TensorProto { uint64_data: vec![1 << 32], ..message(DType::U32, &[1]) }));
    assert!(why.contains("no u32"), "{why}");
}

#[test]
fn data_in_the_wrong_place_is_refused() {
    let cases = [
        (TensorProto { float_data: vec![1.0], ..message(DType::I64, &[1]) }, "it has float_data, i64 belongs in int64_data"),
        (TensorProto { float_data: vec![1.0], ..raw(DType::F32, &[1], &[0; 4]) }, "data twice, in raw_data and in float_data"),
        (raw(DType::Str, &[1], &[0; 4]), "it has raw_data, str belongs in string_data"),
        (TensorProto { string_data: vec![vec![b'a', 0xff]], ..message(DType::Str, &[1]) }, "its string 0 is not UTF-8 from byte 1 on"),
        (TensorProto { segment: Some(Segment { begin: 0, end: 1 }), ..raw(DType::F32, &[1], &[0; 4]) }, "one segment of a tensor"),
        (TensorProto { data_location: 7, ..message(DType::F32, &[1]) }, "unknown location 7"),
        (TensorProto { data_type: 0, ..message(DType::F32, &[1]) }, "no element type"),
        (TensorProto { data_type: -5, ..message(DType::F32, &[1]) }, "unknown element type -5"),
    ];
    for (tensor, expected) in cases {
        let why = refusal(&holding(tensor));
        assert!(why.contains(expected), "{why}");
    }
}

fn sparse(dims: &[i64], values: TensorProto, indices: &[i64], index_dims: &[i64]) -> SparseTensorProto {
    let indices = TensorProto { int64_data: indices.to_vec(), ..message(DType::I64, index_dims) };
    SparseTensorProto { values: Some(values), indices: Some(indices), dims: dims.to_vec() }
}

fn dense(s: SparseTensorProto) -> Result<Tensor> {
    let model = model(GraphProto { sparse_initializer: vec![s], ..Default::default() });
    parse(&model).map(|mut m| m.graph.initializers.remove(0).1)
}

#[test]
fn sparse_tensors_become_dense() {
    let values = |n| raw(DType::U8, &[n], &[7, 8, 9][..n as usize]);
    assert_eq!(dense(sparse(&[2, 3], values(2), &[1, 5], &[2])).unwrap().bytes(), [0, 7, 0, 0, 0, 8]);
    assert_eq!(dense(sparse(&[2, 3], values(2), &[0, 1, 1, 2], &[2, 2])).unwrap().bytes(), [0, 7, 0, 0, 0, 8]);
    assert_eq!(dense(sparse(&[3], raw(DType::U4, &[2], &[0x5a]), &[0, 2], &[2])).unwrap().bytes(), [0x0a, 0x05]);
    let text = TensorProto { string_data: vec![b"x".to_vec()], ..message(DType::Str, &[1]) };
    assert_eq!(dense(sparse(&[2], text, &[1], &[1])).unwrap().as_strings(), ["", "x"]);
    assert_eq!(dense(sparse(&[2], message(DType::F32, &[0]), &[], &[0])).unwrap(), Tensor::new(&[2], &[0f32, 0.0]));
}

#[test]
fn malformed_sparse_tensors_are_refused() {
    let values = || raw(DType::U8, &[2], &[7, 8]);
    let cases = [
        (sparse(&[4], values(), &[1, 4], &[2]), "index 1 is outside"),
        (sparse(&[4], values(), &[-1, 0], &[2]), "index 0 is outside"),
        (sparse(&[2, 2], values(), &[0, 2, 1, 0], &[2, 2]), "index 0 is outside"),
        (sparse(&[4], values(), &[1, 1], &[2]), "must rise"),
        (sparse(&[4], values(), &[2, 1], &[2]), "must rise"),
        (sparse(&[4], values(), &[2], &[1]), "its 2 values take"),
        (sparse(&[1 << 35], values(), &[0, 1], &[2]), "max_dense"),
        (sparse(&[1 << 62, 8], values(), &[0, 1], &[2]), "more elements than can be counted"),
        (sparse(&[4], raw(DType::U8, &[1, 2], &[7, 8]), &[0, 1], &[2]), "lists them along one"),
        (SparseTensorProto { values: Some(values()), ..Default::default() }, "without values or indices"),
    ];
    for (s, expected) in cases {
        let why = dense(s).unwrap_err().to_string();
        assert!(why.contains(expected) && why.contains("sparse"), "{why}");
    }
}

#[test]
fn every_kind_of_attribute_is_read() {
    let one = || raw(DType::U8, &[1], &[1]);
    let ty = || TypeProto { value: Some(TypeValue::TensorType(TensorType { elem_type: 1, shape: None })), ..Default::default() };
    let base = |kind| AttributeProto { name: "a".into(), kind, ..Default::default() };
    use attribute_type as k;
    let cases = vec![
        (AttributeProto { f: Some(1.5), ..base(k::FLOAT) }, "Float(1.5)"),
        (base(k::FLOAT), "Float(0.0)"),
        (AttributeProto { f: Some(1.5), ..base(k::UNDEFINED) }, "Float(1.5)"),
        (AttributeProto { i: Some(-3), ..base(k::INT) }, "Int(-3)"),
        (AttributeProto { s: Some(vec![0xff]), ..base(k::STRING) }, "String([255])"),
        (AttributeProto { floats: vec![1.0], ..base(k::FLOATS) }, "Floats([1.0])"),
        (AttributeProto { ints: vec![1, 2], ..base(k::INTS) }, "Ints([1, 2])"),
        (base(k::INTS), "Ints([])"),
        (AttributeProto { strings: vec![b"x".to_vec()], ..base(k::STRINGS) }, "Strings([[120]])"),
        (AttributeProto { t: Some(Box::new(one())), ..base(k::TENSOR) }, "Tensor(Tensor"),
        (AttributeProto { tensors: vec![one()], ..base(k::TENSORS) }, "Tensors([Tensor"),
        (AttributeProto { g: Some(Box::default()), ..base(k::GRAPH) }, "Graph(Graph"),
        (AttributeProto { graphs: vec![GraphProto::default()], ..base(k::GRAPHS) }, "Graphs([Graph"),
        (
            AttributeProto { sparse_tensor: Some(Box::new(sparse(&[1], one(), &[0], &[1]))), ..base(k::SPARSE_TENSOR) },
            "SparseTensor(Tensor",
        ),
        (AttributeProto { sparse_tensors: vec![sparse(&[1], one(), &[0], &[1])], ..base(k::SPARSE_TENSORS) }, "SparseTensors([Tensor"),
        (AttributeProto { tp: Some(Box::new(ty())), ..base(k::TYPE_PROTO) }, "Type(Tensor"),
        (AttributeProto { type_protos: vec![ty()], ..base(k::TYPE_PROTOS) }, "Types([Tensor"),
        (AttributeProto { ref_attr_name: "b".into(), ..base(k::INT) }, "Ref(\"b\")"),
    ];
    for (attribute, expected) in cases {
        let mut n = node("Any", &[], &["y"]);
        n.attribute.push(attribute);
        let read = parse(&model(GraphProto { node: vec![n], ..Default::default() })).unwrap();
        let got: &Attribute = read.graph.nodes[0].attribute("a").unwrap();
        assert!(format!("{got:?}").starts_with(expected), "{got:?} is not {expected}");
    }
    let cases = vec![
        (base(k::TENSOR), "said to be a tensor and holds none"),
        (base(99), "unknown kind 99"),
        (base(k::UNDEFINED), "it has no value"),
        (AttributeProto { i: Some(1), f: Some(1.0), ..base(k::UNDEFINED) }, "several values"),
        (AttributeProto { t: Some(Box::new(raw(DType::F32, &[2], &[0; 4]))), ..base(k::TENSOR) }, "raw_data has 4 bytes, f32[2] takes 8"),
    ];
    for (attribute, expected) in cases {
        let mut n = node("Any", &[], &["y"]);
        n.attribute.push(attribute);
        let why = refusal(&model(GraphProto { node: vec![n], ..Default::default() }));
        assert!(why.contains(expected) && why.contains("attribute \"a\"") && why.contains("node 0 \"\" (Any, opset 21)"), "{why}");
    }
}

#[test]
fn values_of_every_kind_are_written_and_read() {
    let t = || Value::Tensor(Tensor::new(&[2], &[1f32, 2.0]));
    let tensor = || TypeInfo::Tensor { dtype: DType::F32, shape: None };
    let seq = || TypeInfo::Sequence(Box::new(tensor()));
    let opt = |ty| TypeInfo::Optional(Box::new(ty));
    let some = |v| Value::Optional(Some(Box::new(v)));
    let cases = vec![
        (t(), tensor()),
        (Value::Sequence(vec![t(), t()]), seq()),
        (Value::Sequence(vec![]), seq()),
        (Value::Sequence(vec![Value::Sequence(vec![t()])]), TypeInfo::Sequence(Box::new(seq()))),
        (Value::Optional(None), opt(tensor())),
        (Value::Optional(None), opt(seq())),
        (some(t()), opt(tensor())),
        (some(Value::Sequence(vec![t()])), opt(seq())),
        (some(Value::Sequence(vec![])), opt(seq())),
        (Value::IntMap(BTreeMap::from([(-1, t())])), TypeInfo::Map { key: DType::I64, value: Box::new(tensor()) }),
        (Value::StrMap(BTreeMap::from([("k".into(), t())])), TypeInfo::Map { key: DType::Str, value: Box::new(tensor()) }),
    ];
    for (value, ty) in cases {
        assert_eq!(read_value(&write_value("v", &value), &ty).unwrap(), value, "{ty:?}");
        if !matches!(value, Value::Optional(_)) {
            let held = read_value(&write_value("v", &value), &opt(ty.clone())).unwrap();
            assert_eq!(held, some(value), "an optional {ty:?} written bare");
        }
    }
}
