//! Bytes of an ONNX file to a `Model`: decoded within limits, nothing interpreted.
//!
//! [`read_file`] and [`read`] are the doors. What comes out holds every tensor decoded, whichever of ONNX's encodings it was written in and whichever
//! file it lies in; names, operators and shapes are as the file states them. `training_info`, documentation, quantization annotations and device
//! configurations are read past, so external data that only they name is never opened.

mod convert;
mod data;
mod external;
mod hints;
pub mod limits;
pub mod proto;
mod source;
mod tensor;
#[cfg(test)]
mod tests;

pub use data::{read_tensor, read_value, write_tensor, write_value};
pub use limits::Limits;

use crate::diagnostics::{Diagnostics, Result};
use kiln_kernels::dtype::DType;
use kiln_kernels::value::Tensor;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// An ONNX file as read.
#[derive(Clone, Debug)]
pub struct Model {
    /// Version of the file format, 1 to 14.
    pub ir_version: i64,
    /// Imported operator sets by domain; `ai.onnx` is spelled "".
    pub opsets: BTreeMap<String, i64>,
    /// The main graph.
    pub graph: Graph,
    /// Operators that the file defines by graphs, no two with the same domain, name and overload.
    pub functions: Vec<Function>,
    /// Files beside the model that tensors were read from: a rebuild is due when one of them changes.
    pub data_files: Vec<PathBuf>,
    /// Name and version of the tool that wrote the file; may be empty.
    pub producer: String,
    /// The file's own key-value pairs; of a repeated key the last holds.
    pub metadata: BTreeMap<String, String>,
}

/// The model's graph, or the body of a control-flow node.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// The graph's name; may be empty.
    pub name: String,
    /// The nodes in the file's order, which need not be topological.
    pub nodes: Vec<Node>,
    /// The inputs in order, no two of one name. Up to IR version 3 every initializer is listed here too.
    pub inputs: Vec<ValueInfo>,
    /// The outputs in order.
    pub outputs: Vec<ValueInfo>,
    /// Types of values in between, as far as the file states them.
    pub value_info: Vec<ValueInfo>,
    /// Constants by name, sparse ones made dense, no two of one name; one that is also an input is that input's default.
    pub initializers: Vec<(String, Tensor)>,
}

/// One node.
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// The operator.
    pub op_type: String,
    /// The operator's domain; `ai.onnx` is spelled "".
    pub domain: String,
    /// Which of several functions of one domain and name; usually empty.
    pub overload: String,
    /// The node's own name; may be empty and need not be unique.
    pub name: String,
    /// Names of the inputs in order; an empty one is an optional input left out.
    pub inputs: Vec<String>,
    /// Names of the outputs in order; an empty one is not wanted.
    pub outputs: Vec<String>,
    /// The attributes in the file's order, no two of one name.
    pub attributes: Vec<(String, Attribute)>,
}

impl Node {
    /// The attribute of that name, if it is present.
    pub fn attribute(&self, name: &str) -> Option<&Attribute> {
        self.attributes.iter().find(|(n, _)| n == name).map(|(_, a)| a)
    }
}

/// The value of an attribute.
#[derive(Clone, Debug)]
pub enum Attribute {
    /// One integer.
    Int(i64),
    /// Integers.
    Ints(Vec<i64>),
    /// One float.
    Float(f32),
    /// Floats.
    Floats(Vec<f32>),
    /// One string. ONNX says UTF-8, custom operators keep binary data here: the bytes are kept, [`Attribute::as_str`] reads them as text.
    String(Vec<u8>),
    /// Strings, as bytes.
    Strings(Vec<Vec<u8>>),
    /// One tensor.
    Tensor(Tensor),
    /// Tensors.
    Tensors(Vec<Tensor>),
    /// One graph.
    Graph(Box<Graph>),
    /// Graphs.
    Graphs(Vec<Graph>),
    /// One sparse tensor, made dense.
    SparseTensor(Tensor),
    /// Sparse tensors, made dense.
    SparseTensors(Vec<Tensor>),
    /// One type.
    Type(TypeInfo),
    /// Types.
    Types(Vec<TypeInfo>),
    /// Inside a function body: the value of the calling node's attribute of this name.
    Ref(String),
}

impl Attribute {
    /// What it holds, in words for a message: `int`, `floats`, `tensor` …
    pub fn kind(&self) -> &'static str {
        match self {
            Attribute::Int(_) => "int",
            Attribute::Ints(_) => "ints",
            Attribute::Float(_) => "float",
            Attribute::Floats(_) => "floats",
            Attribute::String(_) => "string",
            Attribute::Strings(_) => "strings",
            Attribute::Tensor(_) => "tensor",
            Attribute::Tensors(_) => "tensors",
            Attribute::Graph(_) => "graph",
            Attribute::Graphs(_) => "graphs",
            Attribute::SparseTensor(_) => "sparse tensor",
            Attribute::SparseTensors(_) => "sparse tensors",
            Attribute::Type(_) => "type",
            Attribute::Types(_) => "types",
            Attribute::Ref(_) => "reference",
        }
    }
    /// The string, if it is one string of UTF-8.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Attribute::String(s) => std::str::from_utf8(s).ok(),
            _ => None,
        }
    }
    /// The strings, if they are strings of UTF-8.
    pub fn as_strs(&self) -> Option<Vec<&str>> {
        match self {
            Attribute::Strings(s) => s.iter().map(|s| std::str::from_utf8(s).ok()).collect(),
            _ => None,
        }
    }
    /// The graphs it holds, in order.
    pub fn graphs(&self) -> &[Graph] {
        match self {
            Attribute::Graph(g) => std::slice::from_ref(&**g),
            Attribute::Graphs(g) => g,
            _ => &[],
        }
    }
}

/// A value's name, with what the file says of its type.
#[derive(Clone, Debug, PartialEq)]
pub struct ValueInfo {
    /// The value's name.
    pub name: String,
    /// The type; absent where the file states none, which bodies of control-flow nodes may do.
    pub ty: Option<TypeInfo>,
}

/// A type as the file states it.
#[derive(Clone, Debug, PartialEq)]
pub enum TypeInfo {
    /// A dense tensor.
    Tensor {
        /// Element type.
        dtype: DType,
        /// Extents; absent when even the rank is not stated.
        shape: Option<Vec<DimInfo>>,
    },
    /// A sequence of values of one type.
    Sequence(Box<TypeInfo>),
    /// A value that may be absent.
    Optional(Box<TypeInfo>),
    /// A map.
    Map {
        /// Type of the keys: an integer type or strings.
        key: DType,
        /// Type of the values.
        value: Box<TypeInfo>,
    },
    /// A tensor kept by its elements that are not zero.
    SparseTensor {
        /// Element type.
        dtype: DType,
        /// Extents; absent when even the rank is not stated.
        shape: Option<Vec<DimInfo>>,
    },
    /// A type that only a custom domain knows.
    Opaque {
        /// The domain.
        domain: String,
        /// The type's name in that domain.
        name: String,
    },
}

/// One extent as the file states it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DimInfo {
    /// A number, not negative.
    Known(i64),
    /// A name; extents of one name are equal.
    Named(String),
    /// Nothing stated. Negative numbers, which some exporters write for this, are read so too.
    Unknown,
}

/// An operator that the file defines by a graph.
#[derive(Clone, Debug)]
pub struct Function {
    /// The domain nodes call it by.
    pub domain: String,
    /// The `op_type` nodes call it by.
    pub name: String,
    /// Which of several of one domain and name; usually empty.
    pub overload: String,
    /// Names of the inputs in order.
    pub inputs: Vec<String>,
    /// Names of the outputs in order.
    pub outputs: Vec<String>,
    /// Names of the attributes that have no default.
    pub attributes: Vec<String>,
    /// Attributes with their defaults.
    pub defaults: Vec<(String, Attribute)>,
    /// Operator sets that the body's nodes belong to.
    pub opsets: BTreeMap<String, i64>,
    /// The body, in the file's order.
    pub nodes: Vec<Node>,
    /// Types of values inside, as far as the file states them.
    pub value_info: Vec<ValueInfo>,
}

/// Reads a model from memory. `folder` is where its external data lies; without one, a model that has external data is refused.
///
/// # Errors
/// Everything wrong with the file, together: not an ONNX model, a limit exceeded, a tensor that does not match its dims, external data that is
/// missing or leaves the folder, names used twice.
pub fn read(bytes: &[u8], folder: Option<&Path>, limits: &Limits) -> Result<Model> {
    let len = bytes.len() as u64;
    let mut source = source::Source::new(bytes, len);
    limits::check_file(len, limits)?;
    convert::model(&mut source, external::Resolver::new(folder, limits), limits)
}

/// Reads the model at `path` and the external data beside it. The file is decoded as it streams in, so that its bytes are in memory once.
///
/// # Errors
/// As [`read`], and that the file cannot be opened or is not a regular file.
pub fn read_file(path: &Path, limits: &Limits) -> Result<Model> {
    let open = || -> Result<Model> {
        let (file, len) = external::open_model(path)?;
        limits::check_file(len, limits)?;
        let folder = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        convert::model(&mut source::Source::new(file, len), external::Resolver::new(Some(folder), limits), limits)
    };
    open().map_err(|found| Diagnostics { file: path.display().to_string(), ..found })
}
