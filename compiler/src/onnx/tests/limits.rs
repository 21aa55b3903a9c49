//! Each limit at its edge: what just fits is read, one more is refused with the limit's name.

use super::*;
use kiln_kernels::dtype::DType;

fn bytes(n: i64) -> TensorProto {
    let raw_data = Some(vec![0; n as usize].into());
    TensorProto { name: "t".into(), data_type: DType::U8.to_onnx(), dims: vec![n], raw_data, ..Default::default() }
}

/// `depth` graphs, each in an `If` of the one around it.
fn nested(depth: usize) -> ModelProto {
    let mut graph = GraphProto::default();
    for _ in 1..depth {
        let mut n = node("If", &["c"], &["y"]);
        n.attribute.push(graph_attribute("then_branch", graph));
        graph = GraphProto { node: vec![n], ..Default::default() };
    }
    model(graph)
}

#[test]
fn limits_hold_at_their_edge() {
    let small = || Limits {
        max_dense: 100,
        max_nodes: 3,
        max_tensors: 2,
        max_elements: 10,
        max_rank: 2,
        max_depth: 3,
        max_name: 16,
        ..Limits::default()
    };
    let nodes = |n| model(GraphProto { node: (0..n).map(|_| node("Any", &[], &[])).collect(), ..Default::default() });
    let tensors = |n| {
        let initializer = (0..n).map(|i| TensorProto { name: format!("t{i}"), ..bytes(1) }).collect();
        model(GraphProto { initializer, ..Default::default() })
    };
    let sparse = |n: i64| {
        let indices = TensorProto { data_type: DType::I64.to_onnx(), dims: vec![1], int64_data: vec![0], ..Default::default() };
        let one = SparseTensorProto { values: Some(bytes(1)), indices: Some(indices), dims: vec![n] };
        model(GraphProto { sparse_initializer: vec![one], ..Default::default() })
    };
    let ranked = |n: usize| holding(TensorProto { dims: vec![1; n], ..bytes(1) });
    let named = |n: usize| model(GraphProto { node: vec![node(&"x".repeat(n), &[], &[])], ..Default::default() });
    let cases: Vec<(&str, ModelProto, ModelProto, Limits)> = vec![
        ("max_nodes", nodes(3), nodes(4), small()),
        ("max_tensors", tensors(2), tensors(3), small()),
        ("max_elements", holding(bytes(10)), holding(bytes(11)), small()),
        ("max_dense", sparse(100), sparse(101), Limits { max_elements: 1000, ..small() }),
        ("max_rank", ranked(2), ranked(3), small()),
        ("max_depth", nested(3), nested(4), small()),
        ("max_name", named(16), named(17), small()),
        ("max_file", nested(2), nested(3), Limits { max_file: nested(2).encoded_len() as u64, ..Limits::default() }),
    ];
    for (limit, fits, exceeds, limits) in cases {
        if let Err(e) = read(&fits.encode_to_vec(), None, &limits) {
            panic!("{limit}: {e}");
        }
        let why = said(read(&exceeds.encode_to_vec(), None, &limits));
        assert!(why.contains(limit), "{limit}: {why}");
    }
}

#[test]
fn types_have_a_rank_limit_too() {
    let shape = TensorShapeProto { dim: vec![Dimension::default(); 65] };
    let ty = TypeProto { value: Some(TypeValue::TensorType(TensorType { elem_type: 1, shape: Some(shape) })), ..Default::default() };
    let input = vec![ValueInfoProto { name: "x".into(), r#type: Some(ty), ..Default::default() }];
    assert!(refusal(&model(GraphProto { input, ..Default::default() })).contains("max_rank"));
}

#[test]
fn external_data_has_a_limit() {
    let folder = super::files::Folder::new("max_data");
    folder.write("data.bin", &[0; 8]);
    let location = vec![StringStringEntryProto { key: "location".into(), value: "data.bin".into() }];
    let t = TensorProto { raw_data: None, data_location: EXTERNAL, external_data: location, ..bytes(8) };
    let load = |max_data| read(&holding(t.clone()).encode_to_vec(), Some(folder.path()), &Limits { max_data, ..Limits::default() });
    assert!(load(8).is_ok());
    assert!(said(load(7)).contains("max_data"));
}

#[test]
fn thirty_one_nested_graphs_are_read_on_a_small_stack() {
    let bytes = nested(31).encode_to_vec();
    let small = std::thread::Builder::new().stack_size(1 << 20);
    small.spawn(move || assert!(read(&bytes, None, &Limits::default()).is_ok())).unwrap().join().unwrap();
}
