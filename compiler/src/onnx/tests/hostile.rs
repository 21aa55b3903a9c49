//! Files that are broken or mean harm: an answer in words, never a panic, a crash or memory out of proportion.

use super::*;
use kiln_kernels::dtype::DType;

/// A small model that has something of everything.
fn small() -> ModelProto {
    let tensor = |name: &str| TensorProto {
        name: name.into(),
        data_type: DType::F32.to_onnx(),
        dims: vec![2],
        float_data: vec![1.0, 2.0],
        ..Default::default()
    };
    let shape = TensorShapeProto { dim: vec![Dimension { value: Some(DimValue::DimParam("N".into())), ..Default::default() }] };
    let ty = TypeProto { value: Some(TypeValue::TensorType(TensorType { elem_type: 1, shape: Some(shape) })), ..Default::default() };
    let value = |name: &str| ValueInfoProto { name: name.into(), r#type: Some(ty.clone()), ..Default::default() };
    let mut constant = node("Constant", &[], &["c"]);
    constant.attribute.push(tensor_attribute("value", tensor("inner")));
    let mut branch = node("If", &["x"], &["y"]);
    branch.attribute.push(graph_attribute("then_branch", GraphProto { node: vec![constant.clone()], ..Default::default() }));
    let raw = TensorProto { float_data: vec![], raw_data: Some(vec![0; 8].into()), ..tensor("raw") };
    let function = FunctionProto { name: "f".into(), domain: "d".into(), node: vec![constant.clone()], ..Default::default() };
    ModelProto {
        functions: vec![function],
        producer_name: "test".into(),
        ..model(GraphProto {
            node: vec![constant, branch],
            initializer: vec![tensor("w"), raw],
            input: vec![value("x")],
            output: vec![value("y")],
            ..Default::default()
        })
    }
}

#[test]
fn a_model_cut_at_any_byte_is_refused_or_read() {
    let bytes = small().encode_to_vec();
    assert!(read(&bytes, None, &Limits::default()).is_ok());
    for end in 0..bytes.len() {
        let result = read(&bytes[..end], None, &Limits::default());
        if let Err(found) = result {
            assert!(!found.items.is_empty(), "{end}");
        }
    }
}

#[test]
fn bit_flips_never_panic() {
    let bytes = small().encode_to_vec();
    let mut state = 1u64;
    let mut random = |n: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % n
    };
    let mut accepted = 0;
    for _ in 0..10_000 {
        let mut broken = bytes.clone();
        for _ in 0..=random(3) {
            let at = random(broken.len());
            match random(4) {
                0 => broken[at] = random(256) as u8,
                1 => drop(broken.remove(at)),
                2 => broken.insert(at, random(256) as u8),
                _ => broken[at] ^= 1 << random(8),
            }
        }
        accepted += usize::from(read(&broken, None, &Limits::default()).is_ok());
    }
    assert!(accepted > 0, "flips in names and floats leave a model");
}

/// Field `number` with `payload`, as protobuf writes it.
fn field(number: u64, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    prost::encoding::encode_varint(number << 3 | 2, &mut out);
    prost::encoding::encode_varint(payload.len() as u64, &mut out);
    out.extend_from_slice(payload);
    out
}

/// The bytes of a model with `depth` graphs in one another, written from the inside out in one pass over a buffer filled from its end.
fn nested(depth: usize) -> Vec<u8> {
    let mut reversed: Vec<u8> = Vec::new();
    let mut wrap = |number: u64| {
        let len = reversed.len() as u64;
        let mut head = Vec::new();
        prost::encoding::encode_varint(number << 3 | 2, &mut head);
        prost::encoding::encode_varint(len, &mut head);
        reversed.extend(head.iter().rev());
    };
    for _ in 1..depth {
        wrap(6); // AttributeProto.g
        wrap(5); // NodeProto.attribute
        wrap(1); // GraphProto.node
    }
    wrap(7); // ModelProto.graph
    reversed.reverse();
    [&[0x08, 10][..], &field(8, &[0x10, 21]), &reversed].concat()
}

#[test]
fn deep_nesting_is_refused_in_words() {
    for depth in [1, 2, 30, 31] {
        if let Err(e) = read(&nested(depth), None, &Limits::default()) {
            panic!("{depth}: {e}");
        }
    }
    for depth in [40, 100, 1000, 1_000_000] {
        let why = said(read(&nested(depth), None, &Limits::default()));
        assert!(why.contains("nested too deep"), "{depth}: {why}");
    }
    // The edge: whichever of the two limits speaks first, it is one of them.
    for depth in 32..40 {
        if let Err(e) = read(&nested(depth), None, &Limits::default()) {
            assert!(e.to_string().contains("nested too deep") || e.to_string().contains("max_depth"), "{depth}: {e}");
        }
    }
}

#[test]
fn deep_types_and_values_are_refused_in_words() {
    let mut ty = Vec::new();
    for _ in 0..2000 {
        ty = field(4, &field(1, &ty));
    }
    let bytes = field(7, &field(11, &field(2, &ty)));
    assert!(said(read(&bytes, None, &Limits::default())).contains("nested too deep"));
    let mut sequence = Vec::new();
    for _ in 0..2000 {
        sequence = field(5, &sequence);
    }
    let tensor = crate::onnx::TypeInfo::Tensor { dtype: DType::F32, shape: None };
    let result = crate::onnx::read_value(&sequence, &crate::onnx::TypeInfo::Sequence(Box::new(tensor)));
    assert!(result.unwrap_err().to_string().contains("nested too deep"));
}

#[test]
fn groups_and_strange_wire_types_are_refused_or_skipped() {
    let good = small().encode_to_vec();
    let with = |extra: &[u8]| read(&[&good, extra].concat(), None, &Limits::default());
    assert!(with(&[0xfb, 0x07, 0xfc, 0x07]).is_ok(), "an unknown group is skipped");
    assert!(with(&field(999, b"what")).is_ok(), "an unknown field is skipped");
    let open: Vec<u8> = [0xfb, 0x07].repeat(100_000);
    assert!(said(with(&open)).contains("nested too deep"), "groups within groups");
    let cases: &[(&str, &[u8])] = &[
        ("an end without a start", &[0xfc, 0x07]),
        ("a group that does not end", &[0xfb, 0x07]),
        ("wire type 6", &[0x0e]),
        ("wire type 7", &[0x0f]),
        ("field number 0", &[0x00]),
        ("a varint without end", &[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
        ("a length past the end", &[0x3a, 0xff, 0xff, 0xff, 0xff, 0x07]),
        ("a length of 2^63", &[0x3a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]),
        ("a graph that is a number", &[0x38, 1]),
        ("a version that is bytes", &[0x0a, 1, 1]),
        ("a name that is not UTF-8", &[0x12, 1, 0xff]),
    ];
    for (what, extra) in cases {
        assert!(said(with(extra)).contains("not an ONNX model: byte"), "{what}");
    }
    // Of a singular number the last counts; a singular message is merged.
    assert!(said(with(&[0x08, 99])).contains("IR version 99"));
}

#[test]
fn impossible_dims_are_refused() {
    let cases: &[(&[i64], &str)] = &[
        (&[-1], "not negative"),
        (&[i64::MIN], "not negative"),
        (&[2, -2, -1], "not negative"),
        (&[1 << 62, 1 << 62], "more elements than can be counted"),
        (&[0, 1 << 62, 1 << 62], "more elements than can be counted"),
        (&[i64::MAX, 2], "more elements than can be counted"),
        (&[3037000500, 3037000500], "more elements than can be counted"),
        (&[1 << 62], "max_elements"),
        (&[1 << 20], "raw_data has 4 bytes"),
    ];
    for &(dims, expected) in cases {
        for dtype in [DType::F32, DType::C128, DType::U4] {
            let raw_data = Some(vec![0; 4].into());
            let t = TensorProto { name: "t".into(), data_type: dtype.to_onnx(), dims: dims.to_vec(), raw_data, ..Default::default() };
            let why = refusal(&holding(t));
            assert!(why.contains(expected) && why.contains("tensor \"t\""), "{why}");
        }
    }
    let text = TensorProto { name: "t".into(), data_type: DType::Str.to_onnx(), dims: vec![1 << 37], ..Default::default() };
    assert!(refusal(&holding(text)).contains("has no data"));
}

#[test]
fn other_files_are_recognised() {
    let tar = [&[0; 257][..], b"ustar"].concat();
    let cases: &[(&[u8], &str)] = &[
        (b"", "an empty file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"\n <HTML>", "a web page"),
        (b"<\n  ir_version: 8\n>", "text form"),
        (b"PK\x03\x04rest", "torch.onnx.export"),
        (b"\x80\x02}q\x00", "torch.onnx.export"),
        (b"\x89HDF\r\n\x1a\n", "tf2onnx"),
        (b"\x1c\0\0\0TFL3", "TensorFlow Lite"),
        (b"\x1c\0\0\0ORTM", "ONNX Runtime's own format"),
        (b"GGUF\x03\0\0\0", "GGUF"),
        (b"\x1f\x8b\x08\0", "gzip"),
        (b"\x40\0\0\0\0\0\0\0{\"w\":{}}", "safetensors"),
        (b"{\"a\": 1}", "JSON"),
        (&tar, "tar archive"),
        (b"just text", "not an ONNX model: byte"),
        (b"\x08\x0a", "it holds no graph"),
    ];
    for (bytes, expected) in cases {
        let why = said(read(bytes, None, &Limits::default()));
        assert!(why.contains(expected) && why.contains("not an ONNX model"), "{why}");
    }
}

#[test]
fn names_are_shown_safely() {
    let name = "a\"\n\u{202e}\u{1b}[31m".to_string() + &"x".repeat(1000);
    let why = refusal(&holding(TensorProto { name, data_type: 1, dims: vec![1], ..Default::default() }));
    assert!(!why.contains('\n') && !why.contains('\u{1b}') && !why.contains('\u{202e}') && why.len() < 400, "{why}");
}

#[test]
fn many_tiny_messages_stay_in_proportion() {
    // Half a million empty nodes in 1 MB.
    let graph = [0x0a, 0x00].repeat(500_000);
    let bytes = [&[0x08, 10][..], &field(8, &[0x10, 21]), &field(7, &graph)].concat();
    assert_eq!(read(&bytes, None, &Limits::default()).unwrap().graph.nodes.len(), 500_000);
    let attributes = field(1, &[0x2a, 0x00].repeat(500_000));
    let bytes = [&[0x08, 10][..], &field(8, &[0x10, 21]), &field(7, &attributes)].concat();
    assert!(said(read(&bytes, None, &Limits::default())).contains("occurs twice"));
}
