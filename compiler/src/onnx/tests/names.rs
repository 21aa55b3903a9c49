//! Names, operator sets and types: what is carried over, and what contradicts itself.

use super::*;
use crate::onnx::{DimInfo, TypeInfo};
use kiln_kernels::dtype::DType;

fn value(name: &str) -> ValueInfoProto {
    ValueInfoProto { name: name.into(), ..Default::default() }
}

fn scalar(name: &str) -> TensorProto {
    TensorProto { name: name.into(), data_type: 2, raw_data: Some(vec![1].into()), ..Default::default() }
}

#[test]
fn a_name_is_defined_once() {
    let graph = GraphProto::default;
    let cases = [
        (GraphProto { input: vec![value("x"), value("x")], ..graph() }, "input \"x\" occurs twice"),
        (GraphProto { initializer: vec![scalar("x"), scalar("x")], ..graph() }, "initializer \"x\" occurs twice"),
        (GraphProto { node: vec![node("A", &[], &["x"]), node("B", &[], &["x"])], ..graph() }, "output of a node \"x\" occurs twice"),
        (GraphProto { node: vec![node("A", &[], &["x", "x"])], ..graph() }, "output of a node \"x\" occurs twice"),
        (GraphProto { input: vec![value("x")], node: vec![node("A", &[], &["x"])], ..graph() }, "\"x\" is also the output"),
        (GraphProto { initializer: vec![scalar("x")], node: vec![node("A", &[], &["x"])], ..graph() }, "\"x\" is also the output"),
        (GraphProto { initializer: vec![scalar("")], ..graph() }, "has no name"),
    ];
    for (graph, expected) in cases {
        let why = refusal(&model(graph.clone()));
        assert!(why.contains(expected), "{why}");
        let mut outer = node("If", &["c"], &["y"]);
        outer.attribute.push(graph_attribute("then_branch", graph));
        let why = refusal(&model(GraphProto { node: vec![outer], ..Default::default() }));
        assert!(why.contains(expected) && why.contains("inside attribute \"then_branch\" of node 0"), "{why}");
    }
}

#[test]
fn names_that_may_repeat_do() {
    let mut a = node("A", &[], &["x", "", ""]);
    a.name = "same".into();
    let b = NodeProto { output: vec!["y".into()], ..a.clone() };
    let graph = GraphProto { node: vec![a, b], input: vec![value("w")], initializer: vec![scalar("w")], ..Default::default() };
    assert!(parse(&model(graph)).is_ok(), "node names may repeat, an input may have a default, outputs may be left out");
}

#[test]
fn attributes_and_functions_are_defined_once() {
    let mut n = node("A", &[], &["y"]);
    n.attribute = vec![tensor_attribute("a", scalar("")), tensor_attribute("a", scalar(""))];
    let why = refusal(&model(GraphProto { node: vec![n], ..Default::default() }));
    assert!(why.contains("attribute \"a\" occurs twice") && why.contains("node 0"), "{why}");
    let f = FunctionProto { name: "f".into(), ..Default::default() };
    let twice = ModelProto { functions: vec![f.clone(), f.clone()], ..model(GraphProto::default()) };
    assert!(refusal(&twice).contains("function \"f\" is defined twice"));
    let overload = FunctionProto { overload: "other".into(), ..f.clone() };
    assert!(parse(&ModelProto { functions: vec![f, overload], ..model(GraphProto::default()) }).is_ok());
}

#[test]
fn operator_sets_are_read_by_domain() {
    let import = |domain: &str, version| OperatorSetIdProto { domain: domain.into(), version };
    let with = |ir_version, opset_import| ModelProto { ir_version, opset_import, ..model(GraphProto::default()) };
    let read = parse(&with(8, vec![import("ai.onnx", 17), import("", 17), import("ai.onnx.ml", 3)])).unwrap();
    assert_eq!(read.opsets.into_iter().collect::<Vec<_>>(), [(String::new(), 17), ("ai.onnx.ml".into(), 3)]);
    assert!(refusal(&with(8, vec![import("", 17), import("ai.onnx", 18)])).contains("imported at two versions"));
    assert!(refusal(&with(8, vec![])).contains("imports no operator set"));
    assert_eq!(parse(&with(2, vec![])).unwrap().opsets[""], 1);
    assert!(refusal(&with(0, vec![import("", 17)])).contains("states no IR version"));
    assert!(refusal(&with(15, vec![import("", 17)])).contains("IR version 15"));
}

#[test]
fn types_are_carried_over() {
    let ty = |value| TypeProto { value: Some(value), ..Default::default() };
    let dim = |value| Dimension { value, ..Default::default() };
    let shape = TensorShapeProto {
        dim: vec![
            dim(Some(DimValue::DimValue(0))),
            dim(Some(DimValue::DimParam("N".into()))),
            dim(Some(DimValue::DimValue(-1))),
            dim(Some(DimValue::DimParam(String::new()))),
            dim(None),
        ],
    };
    let tensor = || ty(TypeValue::TensorType(TensorType { elem_type: 10, shape: Some(shape.clone()) }));
    let known = TypeInfo::Tensor {
        dtype: DType::F16,
        shape: Some(vec![DimInfo::Known(0), DimInfo::Named("N".into()), DimInfo::Unknown, DimInfo::Unknown, DimInfo::Unknown]),
    };
    let boxed = |t| Some(Box::new(t));
    let sequence = ty(TypeValue::SequenceType(Box::new(ElementType { elem_type: boxed(tensor()) })));
    let cases = [
        (Some(tensor()), Some(known.clone())),
        (Some(sequence.clone()), Some(TypeInfo::Sequence(Box::new(known.clone())))),
        (
            Some(ty(TypeValue::OptionalType(Box::new(ElementType { elem_type: boxed(sequence) })))),
            Some(TypeInfo::Optional(Box::new(TypeInfo::Sequence(Box::new(known.clone()))))),
        ),
        (
            Some(ty(TypeValue::MapType(Box::new(MapType { key_type: 8, value_type: boxed(tensor()) })))),
            Some(TypeInfo::Map { key: DType::Str, value: Box::new(known) }),
        ),
        (
            Some(ty(TypeValue::SparseTensorType(TensorType { elem_type: 1, shape: None }))),
            Some(TypeInfo::SparseTensor { dtype: DType::F32, shape: None }),
        ),
        (
            Some(ty(TypeValue::OpaqueType(OpaqueType { domain: "d".into(), name: "n".into() }))),
            Some(TypeInfo::Opaque { domain: "d".into(), name: "n".into() }),
        ),
        (Some(TypeProto::default()), None),
        (None, None),
    ];
    for (r#type, expected) in cases {
        let input = vec![ValueInfoProto { name: "x".into(), r#type, ..Default::default() }];
        assert_eq!(parse(&model(GraphProto { input, ..Default::default() })).unwrap().graph.inputs[0].ty, expected);
    }
    let bad = ty(TypeValue::SequenceType(Box::default()));
    let input = vec![ValueInfoProto { name: "x".into(), r#type: Some(bad), ..Default::default() }];
    assert!(refusal(&model(GraphProto { input, ..Default::default() })).contains("the type of \"x\": it is a sequence of nothing stated"));
}

#[test]
fn all_findings_come_together_up_to_a_bound() {
    let bad = |i: usize| TensorProto { name: format!("t{i}"), data_type: 1, dims: vec![1], ..Default::default() };
    let found = |n: usize| parse(&model(GraphProto { initializer: (0..n).map(bad).collect(), ..Default::default() })).unwrap_err().items;
    assert_eq!(found(7).len(), 7);
    assert_eq!(found(700).len(), 51);
}
