//! ONNX models in a few lines, for tests.
//!
//! ```
//! use kiln_kernels::dtype::DType::F32;
//! use kiln_kernels::value::Tensor;
//! use kiln_tests::models::ModelBuilder;
//!
//! let bytes = ModelBuilder::new()
//!     .opset(17)
//!     .input("x", F32, ["N", "4"])
//!     .initializer("w", Tensor::new(&[4, 2], &[0f32; 8]))
//!     .node("Gemm", &["x", "w"], &["h"]).attr("alpha", 0.5).attr("transB", 0)
//!     .node("Relu", &["h"], &["y"]).named("last")
//!     .output("y")
//!     .build();
//! # assert!(kiln_compiler::onnx::read(&bytes, None, &Default::default()).is_ok());
//! ```
//!
//! Methods that describe a node (`attr`, `named`, `domain`, `overload`, `attr_ref`) speak of the node added last and panic before the first one.
//! Nothing is checked: a builder makes broken models as willingly as sound ones.

use kiln_compiler::onnx::proto::*;
use kiln_kernels::dtype::DType;
use kiln_kernels::value::Tensor;
use prost::Message;

/// A model, or a graph for an attribute, under construction.
#[derive(Clone, Debug)]
pub struct ModelBuilder {
    model: ModelProto,
    graph: GraphProto,
    function: FunctionProto,
}

/// One extent: a number, a name, or unknown. Numbers convert, and so do strings: digits to a number, "?" to unknown, anything else to a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dim {
    /// A number.
    Known(i64),
    /// A name.
    Named(String),
    /// Neither.
    Unknown,
}

/// The dims of a scalar.
pub const SCALAR: [Dim; 0] = [];

impl From<&str> for Dim {
    fn from(text: &str) -> Dim {
        match (text, text.parse()) {
            ("?", _) => Dim::Unknown,
            (_, Ok(n)) => Dim::Known(n),
            (name, Err(_)) => Dim::Named(name.to_string()),
        }
    }
}

impl From<&&str> for Dim {
    fn from(text: &&str) -> Dim {
        Dim::from(*text)
    }
}

macro_rules! dims_from {
    ($($t:ty),*) => {$(
        impl From<$t> for Dim {
            fn from(n: $t) -> Dim {
                Dim::Known(n as i64)
            }
        }
        impl From<&$t> for Dim {
            fn from(n: &$t) -> Dim {
                Dim::Known(*n as i64)
            }
        }
    )*};
}
dims_from!(i32, i64, usize);

/// What an attribute can be made from: numbers, strings, lists of them, tensors, types, and builders, whose graph is meant.
pub trait IntoAttribute {
    /// The attribute without its name.
    fn into_attribute(self) -> AttributeProto;
}

fn of_kind(kind: i32) -> AttributeProto {
    AttributeProto { kind, ..Default::default() }
}

macro_rules! attributes {
    ($($t:ty, |$x:ident| $kind:ident { $field:ident: $value:expr };)*) => {$(
        impl IntoAttribute for $t {
            fn into_attribute(self) -> AttributeProto {
                let $x = self;
                AttributeProto { $field: $value, ..of_kind(attribute_type::$kind) }
            }
        }
    )*};
}
attributes! {
    i32, |x| INT { i: Some(x as i64) };
    i64, |x| INT { i: Some(x) };
    usize, |x| INT { i: Some(x as i64) };
    bool, |x| INT { i: Some(x as i64) };
    f32, |x| FLOAT { f: Some(x) };
    f64, |x| FLOAT { f: Some(x as f32) };
    &str, |x| STRING { s: Some(x.as_bytes().to_vec()) };
    String, |x| STRING { s: Some(x.into_bytes()) };
    &[i64], |x| INTS { ints: x.to_vec() };
    Vec<i64>, |x| INTS { ints: x };
    &[f32], |x| FLOATS { floats: x.to_vec() };
    Vec<f32>, |x| FLOATS { floats: x };
    &[&str], |x| STRINGS { strings: x.iter().map(|s| s.as_bytes().to_vec()).collect() };
    Tensor, |x| TENSOR { t: Some(Box::new(tensor("", &x))) };
    &Tensor, |x| TENSOR { t: Some(Box::new(tensor("", x))) };
    Vec<Tensor>, |x| TENSORS { tensors: x.iter().map(|t| tensor("", t)).collect() };
    SparseTensorProto, |x| SPARSE_TENSOR { sparse_tensor: Some(Box::new(x)) };
    TypeProto, |x| TYPE_PROTO { tp: Some(Box::new(x)) };
    ModelBuilder, |x| GRAPH { g: Some(Box::new(x.graph)) };
    Vec<ModelBuilder>, |x| GRAPHS { graphs: x.into_iter().map(|b| b.graph).collect() };
}

macro_rules! array_attributes {
    ($($t:ty),*) => {$(
        impl<const N: usize> IntoAttribute for [$t; N] {
            fn into_attribute(self) -> AttributeProto {
                self.as_slice().into_attribute()
            }
        }
        impl<const N: usize> IntoAttribute for &[$t; N] {
            fn into_attribute(self) -> AttributeProto {
                self.as_slice().into_attribute()
            }
        }
    )*};
}
array_attributes!(i64, f32, &str);

impl IntoAttribute for AttributeProto {
    fn into_attribute(self) -> AttributeProto {
        self
    }
}

/// The message of a tensor: strings as such, everything else as raw data.
pub fn tensor(name: &str, tensor: &Tensor) -> TensorProto {
    let strings = tensor.as_strings();
    TensorProto {
        name: name.to_string(),
        data_type: tensor.dtype.to_onnx(),
        dims: tensor.dims.iter().map(|&d| d as i64).collect(),
        string_data: strings.iter().map(|s| s.clone().into_bytes()).collect(),
        raw_data: (tensor.dtype != DType::Str).then(|| tensor.bytes().to_vec().into()),
        ..Default::default()
    }
}

/// The message of a tensor whose elements lie in another file, with the entries as given ("location", "offset", "length" …).
pub fn external(name: &str, dtype: DType, dims: &[i64], entries: &[(&str, &str)]) -> TensorProto {
    let entry = |&(k, v): &(&str, &str)| StringStringEntryProto { key: k.to_string(), value: v.to_string() };
    TensorProto {
        name: name.to_string(),
        data_type: dtype.to_onnx(),
        dims: dims.to_vec(),
        data_location: EXTERNAL,
        external_data: entries.iter().map(entry).collect(),
        ..Default::default()
    }
}

fn of_type(value: TypeValue) -> TypeProto {
    TypeProto { value: Some(value), ..Default::default() }
}

/// The type of a tensor.
pub fn tensor_type(dtype: DType, dims: impl IntoIterator<Item = impl Into<Dim>>) -> TypeProto {
    let value = |dim| match dim {
        Dim::Known(n) => Some(DimValue::DimValue(n)),
        Dim::Named(name) => Some(DimValue::DimParam(name)),
        Dim::Unknown => None,
    };
    let dim = dims.into_iter().map(|d| Dimension { value: value(d.into()), ..Default::default() }).collect();
    of_type(TypeValue::TensorType(TensorType { elem_type: dtype.to_onnx(), shape: Some(TensorShapeProto { dim }) }))
}

/// The type of a tensor of any rank.
pub fn unranked_type(dtype: DType) -> TypeProto {
    of_type(TypeValue::TensorType(TensorType { elem_type: dtype.to_onnx(), shape: None }))
}

/// The type of a sequence.
pub fn sequence_type(element: TypeProto) -> TypeProto {
    of_type(TypeValue::SequenceType(Box::new(ElementType { elem_type: Some(Box::new(element)) })))
}

/// The type of an optional value.
pub fn optional_type(element: TypeProto) -> TypeProto {
    of_type(TypeValue::OptionalType(Box::new(ElementType { elem_type: Some(Box::new(element)) })))
}

/// The type of a map.
pub fn map_type(key: DType, value: TypeProto) -> TypeProto {
    of_type(TypeValue::MapType(Box::new(MapType { key_type: key.to_onnx(), value_type: Some(Box::new(value)) })))
}

fn strings(names: &[&str]) -> Vec<String> {
    names.iter().map(|n| n.to_string()).collect()
}

fn info(name: &str, r#type: Option<TypeProto>) -> ValueInfoProto {
    ValueInfoProto { name: name.to_string(), r#type, ..Default::default() }
}

impl Default for ModelBuilder {
    fn default() -> ModelBuilder {
        ModelBuilder::new()
    }
}

/// The model.
impl ModelBuilder {
    /// An empty model of IR version 10 that imports operator set 21 unless told otherwise.
    pub fn new() -> ModelBuilder {
        let model = ModelProto { ir_version: 10, ..Default::default() };
        let graph = GraphProto { name: "graph".to_string(), ..Default::default() };
        ModelBuilder { model, graph, function: FunctionProto::default() }
    }
    /// Imports this version of `ai.onnx`.
    pub fn opset(self, version: i64) -> Self {
        self.import("", version)
    }
    /// Imports an operator set.
    pub fn import(mut self, domain: &str, version: i64) -> Self {
        self.model.opset_import.push(OperatorSetIdProto { domain: domain.to_string(), version });
        self
    }
    /// Sets the version of the file format.
    pub fn ir_version(mut self, version: i64) -> Self {
        self.model.ir_version = version;
        self
    }
    /// Adds a function, made with [`ModelBuilder::into_function`].
    pub fn function(mut self, function: FunctionProto) -> Self {
        self.model.functions.push(function);
        self
    }
    /// The message, to be changed further.
    pub fn into_proto(mut self) -> ModelProto {
        if !self.model.opset_import.iter().any(|o| o.domain.is_empty()) {
            self = self.opset(21);
        }
        ModelProto { graph: Some(self.graph), ..self.model }
    }
    /// The bytes of the model file.
    pub fn build(self) -> Vec<u8> {
        self.into_proto().encode_to_vec()
    }
    /// The graph alone.
    pub fn into_graph(self) -> GraphProto {
        self.graph
    }
    /// A function of this graph's inputs, outputs and nodes; it imports what the builder imports.
    pub fn into_function(self, domain: &str, name: &str) -> FunctionProto {
        let function = self.function.clone();
        let ModelProto { graph, opset_import, .. } = self.into_proto();
        let GraphProto { node, input, output, value_info, .. } = graph.unwrap_or_default();
        let names = |values: Vec<ValueInfoProto>| values.into_iter().map(|v| v.name).collect();
        let (domain, name) = (domain.to_string(), name.to_string());
        FunctionProto { name, domain, input: names(input), output: names(output), node, opset_import, value_info, ..function }
    }
    /// Declares an attribute of the function, without a default.
    pub fn parameter(mut self, name: &str) -> Self {
        self.function.attribute.push(name.to_string());
        self
    }
    /// Declares an attribute of the function, with its default.
    pub fn parameter_with(mut self, name: &str, default: impl IntoAttribute) -> Self {
        self.function.attribute_proto.push(AttributeProto { name: name.to_string(), ..default.into_attribute() });
        self
    }
}

/// The graph.
impl ModelBuilder {
    /// Names the graph.
    pub fn graph_name(mut self, name: &str) -> Self {
        self.graph.name = name.to_string();
        self
    }
    /// Adds a tensor input. Dims are numbers, or strings as [`Dim`] reads them: `[2, 3]`, `["N", "3", "?"]`, [`SCALAR`].
    pub fn input(self, name: &str, dtype: DType, dims: impl IntoIterator<Item = impl Into<Dim>>) -> Self {
        self.input_of(name, tensor_type(dtype, dims))
    }
    /// Adds an input of any type.
    pub fn input_of(mut self, name: &str, ty: TypeProto) -> Self {
        self.graph.input.push(info(name, Some(ty)));
        self
    }
    /// Adds an input without a type, as bodies of control-flow nodes may have them.
    pub fn input_untyped(mut self, name: &str) -> Self {
        self.graph.input.push(info(name, None));
        self
    }
    /// Adds an output and leaves its type open.
    pub fn output(mut self, name: &str) -> Self {
        self.graph.output.push(info(name, None));
        self
    }
    /// Adds an output of a stated type.
    pub fn output_of(mut self, name: &str, ty: TypeProto) -> Self {
        self.graph.output.push(info(name, Some(ty)));
        self
    }
    /// States the type of a value in between.
    pub fn value(mut self, name: &str, ty: TypeProto) -> Self {
        self.graph.value_info.push(info(name, Some(ty)));
        self
    }
    /// Adds an initializer.
    pub fn initializer(self, name: &str, value: Tensor) -> Self {
        self.initializer_of(tensor(name, &value))
    }
    /// Adds an initializer as a message, such as one of [`external`].
    pub fn initializer_of(mut self, tensor: TensorProto) -> Self {
        self.graph.initializer.push(tensor);
        self
    }
    /// Adds a sparse initializer, named by its values.
    pub fn sparse_initializer(mut self, sparse: SparseTensorProto) -> Self {
        self.graph.sparse_initializer.push(sparse);
        self
    }
    /// Adds a node.
    pub fn node(mut self, op_type: &str, inputs: &[&str], outputs: &[&str]) -> Self {
        let op_type = op_type.to_string();
        self.graph.node.push(NodeProto { op_type, input: strings(inputs), output: strings(outputs), ..Default::default() });
        self
    }
    fn last(&mut self) -> &mut NodeProto {
        self.graph.node.last_mut().expect("a node was added before it is described")
    }
    /// Gives the last node an attribute.
    pub fn attr(mut self, name: &str, value: impl IntoAttribute) -> Self {
        self.last().attribute.push(AttributeProto { name: name.to_string(), ..value.into_attribute() });
        self
    }
    /// Gives the last node an attribute that takes its value from an attribute of the surrounding function.
    pub fn attr_ref(mut self, name: &str, of: &str, kind: i32) -> Self {
        let (name, of) = (name.to_string(), of.to_string());
        self.last().attribute.push(AttributeProto { name, ref_attr_name: of, ..of_kind(kind) });
        self
    }
    /// Names the last node.
    pub fn named(mut self, name: &str) -> Self {
        self.last().name = name.to_string();
        self
    }
    /// Puts the last node's operator into a domain.
    pub fn domain(mut self, domain: &str) -> Self {
        self.last().domain = domain.to_string();
        self
    }
    /// Chooses which overload of a function the last node calls.
    pub fn overload(mut self, overload: &str) -> Self {
        self.last().overload = overload.to_string();
        self
    }
}
