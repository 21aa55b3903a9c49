//! Models made message by message: every encoding, every carrier, and files that mean harm.

mod encodings;
mod external;
mod files;
mod hostile;
mod limits;
mod names;

use super::proto::*;
use super::{Limits, Model, read};
use crate::diagnostics::Result;
use prost::Message;

/// A model of IR version 10 and operator set 21 around `graph`.
fn model(graph: GraphProto) -> ModelProto {
    ModelProto {
        ir_version: 10,
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: 21 }],
        graph: Some(graph),
        ..Default::default()
    }
}

/// A model that has just this initializer.
fn holding(tensor: TensorProto) -> ModelProto {
    model(GraphProto { initializer: vec![tensor], ..Default::default() })
}

fn node(op_type: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    let names = |names: &[&str]| names.iter().map(|n| n.to_string()).collect();
    NodeProto { op_type: op_type.into(), input: names(inputs), output: names(outputs), ..Default::default() }
}

fn tensor_attribute(name: &str, tensor: TensorProto) -> AttributeProto {
    AttributeProto { name: name.into(), kind: attribute_type::TENSOR, t: Some(Box::new(tensor)), ..Default::default() }
}

fn graph_attribute(name: &str, graph: GraphProto) -> AttributeProto {
    AttributeProto { name: name.into(), kind: attribute_type::GRAPH, g: Some(Box::new(graph)), ..Default::default() }
}

fn parse(model: &ModelProto) -> Result<Model> {
    read(&model.encode_to_vec(), None, &Limits::default())
}

/// What is said of a model that is refused.
fn refusal(model: &ModelProto) -> String {
    said(parse(model))
}

fn said(result: Result<Model>) -> String {
    match result {
        Ok(_) => panic!("the model was accepted"),
        Err(found) => found.to_string(),
    }
}
