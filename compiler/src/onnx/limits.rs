//! How much a file may ask for: bounds that real models stay far below, checked before anything is allocated for what exceeds them.

use super::proto::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto, TypeProto, TypeValue,
};
use crate::diagnostics::{Diagnostic, Result, shown};

/// Bounds on what a model file may ask for. Each violation is a finding of its own that names the limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the model file itself; protobuf ends at 2 GiB, larger models keep their data in other files.
    pub max_file: u64,
    /// Bytes of external data in all.
    pub max_data: u64,
    /// Bytes that sparse tensors may take in all once they are dense.
    pub max_dense: u64,
    /// Nodes in all graphs and functions together.
    pub max_nodes: usize,
    /// Tensors in all graphs and attributes together.
    pub max_tensors: usize,
    /// Elements of one tensor.
    pub max_elements: u64,
    /// Dims of one tensor or type.
    pub max_rank: usize,
    /// Graphs within graphs, the main graph counted. The decoder itself ends at 100 nested messages, which is 33 graphs.
    pub max_depth: usize,
    /// Bytes of one name.
    pub max_name: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_file: 1 << 31,
            max_data: 1 << 38,
            max_dense: 1 << 28,
            max_nodes: 1_000_000,
            max_tensors: 1_000_000,
            max_elements: 1 << 38,
            max_rank: 64,
            max_depth: 32,
            max_name: 1 << 16,
        }
    }
}

/// Checks the length of the model file.
///
/// # Errors
/// The file is longer than `max_file`.
pub(super) fn check_file(len: u64, limits: &Limits) -> Result<()> {
    if len > limits.max_file {
        return Err(Diagnostic::new(format!("the file has {len} bytes, the limit is {} (max_file)", limits.max_file))
            .help("store the weights as external data (onnx.save with save_as_external_data=True)")
            .into());
    }
    Ok(())
}

/// Counts what the decoded messages of a model hold and checks it.
pub(super) fn check_model(model: &ModelProto, limits: &Limits) -> Vec<Diagnostic> {
    let mut count = Count { limits, nodes: 0, tensors: 0, depth: 0, rank: 0, name: String::new() };
    if let Some(graph) = &model.graph {
        count.graph(graph, 1);
    }
    for function in &model.functions {
        count.function(function);
    }
    let mut found = Vec::new();
    let mut check = |what: &str, n: usize, limit: usize, name: &str| {
        if n > limit {
            found.push(Diagnostic::new(format!("{what}: {n}, the limit is {limit} ({name})")));
        }
    };
    check("the model's nodes in all", count.nodes, limits.max_nodes, "max_nodes");
    check("the model's tensors in all", count.tensors, limits.max_tensors, "max_tensors");
    check("graphs nested in graphs", count.depth, limits.max_depth, "max_depth");
    check("the dims of a tensor or type", count.rank, limits.max_rank, "max_rank");
    check(&format!("the bytes of the name \"{}\"", shown(&count.name)), count.name.len(), limits.max_name, "max_name");
    found
}

struct Count<'a> {
    limits: &'a Limits,
    nodes: usize,
    tensors: usize,
    depth: usize,
    rank: usize,
    /// The first name that is too long.
    name: String,
}

impl Count<'_> {
    fn names<'a>(&mut self, names: impl IntoIterator<Item = &'a String>) {
        for name in names {
            if name.len() > self.limits.max_name && self.name.is_empty() {
                self.name.clone_from(name);
            }
        }
    }
    fn graph(&mut self, graph: &GraphProto, depth: usize) {
        self.depth = self.depth.max(depth);
        self.names([&graph.name]);
        graph.initializer.iter().for_each(|t| self.tensor(t));
        graph.sparse_initializer.iter().for_each(|t| self.sparse(t));
        for value in graph.input.iter().chain(&graph.output).chain(&graph.value_info) {
            self.names([&value.name]);
            value.r#type.iter().for_each(|t| self.ty(t));
        }
        graph.node.iter().for_each(|n| self.node(n, depth));
    }
    fn function(&mut self, function: &FunctionProto) {
        self.names([&function.name, &function.domain, &function.overload]);
        self.names(function.input.iter().chain(&function.output).chain(&function.attribute));
        for value in &function.value_info {
            self.names([&value.name]);
            value.r#type.iter().for_each(|t| self.ty(t));
        }
        function.attribute_proto.iter().for_each(|a| self.attribute(a, 1));
        function.node.iter().for_each(|n| self.node(n, 1));
    }
    fn node(&mut self, node: &NodeProto, depth: usize) {
        self.nodes += 1;
        self.names([&node.name, &node.op_type, &node.domain, &node.overload]);
        self.names(node.input.iter().chain(&node.output));
        node.attribute.iter().for_each(|a| self.attribute(a, depth));
    }
    fn attribute(&mut self, attribute: &AttributeProto, depth: usize) {
        self.names([&attribute.name, &attribute.ref_attr_name]);
        attribute.t.iter().for_each(|t| self.tensor(t));
        attribute.tensors.iter().for_each(|t| self.tensor(t));
        attribute.sparse_tensor.iter().for_each(|t| self.sparse(t));
        attribute.sparse_tensors.iter().for_each(|t| self.sparse(t));
        attribute.tp.iter().for_each(|t| self.ty(t));
        attribute.type_protos.iter().for_each(|t| self.ty(t));
        attribute.g.iter().for_each(|g| self.graph(g, depth + 1));
        attribute.graphs.iter().for_each(|g| self.graph(g, depth + 1));
    }
    fn tensor(&mut self, tensor: &TensorProto) {
        self.tensors += 1;
        self.rank = self.rank.max(tensor.dims.len());
        self.names([&tensor.name]);
    }
    fn sparse(&mut self, sparse: &SparseTensorProto) {
        self.rank = self.rank.max(sparse.dims.len());
        sparse.values.iter().chain(&sparse.indices).for_each(|t| self.tensor(t));
    }
    fn ty(&mut self, ty: &TypeProto) {
        match &ty.value {
            Some(TypeValue::TensorType(t) | TypeValue::SparseTensorType(t)) => {
                self.rank = self.rank.max(t.shape.as_ref().map_or(0, |s| s.dim.len()));
            }
            Some(TypeValue::SequenceType(t) | TypeValue::OptionalType(t)) => t.elem_type.iter().for_each(|t| self.ty(t)),
            Some(TypeValue::MapType(t)) => t.value_type.iter().for_each(|t| self.ty(t)),
            Some(TypeValue::OpaqueType(_)) | None => {}
        }
    }
}
