//! A model with its inputs, while it is reduced.

use crate::data;
use crate::failure::{At, Failure, Result};
use crate::suite;
use kiln_compiler::eval::Evaluator;
use kiln_compiler::import::{Dims, import};
use kiln_compiler::ir::{Graph, Type};
use kiln_compiler::onnx::proto::{
    AttributeProto, DimValue, Dimension, EXTERNAL, GraphProto, ModelProto, NodeProto, TensorProto, TensorShapeProto, TensorType, TypeProto,
    TypeValue, ValueInfoProto,
};
use kiln_compiler::onnx::{self, Limits, write_tensor};
use kiln_kernels::dtype::DType;
use kiln_kernels::value::{Tensor, Value};
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::Range;
use std::path::Path;

/// A model and the values of its inputs, by name.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    model: ModelProto,
    /// Sets of inputs.
    pub(crate) sets: Vec<BTreeMap<String, Value>>,
}

/// What is known of a value inside: its type, and what it is for each set of inputs.
pub(crate) type Known = (TypeProto, Vec<Tensor>);

/// Values by name.
pub(crate) type Values = BTreeMap<String, Known>;

impl Candidate {
    /// Reads a model, its external data too, and inputs from a folder; random ones where none is given.
    pub(crate) fn read(path: &Path, inputs: Option<&Path>) -> Result<Candidate> {
        let read = onnx::read_file(path, &Limits::default())?;
        let bytes = fs::read(path).at(path)?;
        let mut model = ModelProto::decode(bytes.as_slice()).map_err(|e| Failure::at(path, e))?;
        let graph = model.graph.get_or_insert_default();
        for t in graph.initializer.iter_mut().filter(|t| t.data_location == EXTERNAL) {
            let held = read.graph.initializers.iter().find(|(name, _)| *name == t.name);
            let (_, held) = held.ok_or_else(|| Failure::at(path, format!("the initializer \"{}\" has no data", t.name)))?;
            *t = TensorProto::decode(write_tensor(&t.name, held).as_slice()).map_err(|e| Failure::at(path, e))?;
        }
        graph.value_info.clear();
        let ports = data::ports(&read);
        let sets: Vec<Vec<Value>> = match inputs {
            None => {
                let mut dims = Dims::default();
                data::close(&mut dims, &ports, &vec![None; ports.len()]);
                vec![data::random(&ports, &dims)?.into_iter().flatten().collect()]
            }
            Some(dir) if dir.join("test_data_set_0").is_dir() => suite::inputs(dir, &read)?,
            Some(dir) => {
                let types: Vec<_> = ports.iter().map(|p| p.ty.as_ref()).collect();
                let values: Option<Vec<Value>> = data::folder(dir, "in", &types)?.into_iter().collect();
                vec![values.ok_or_else(|| Failure::at(dir, "an input of the model has no file here"))?]
            }
        };
        let named = |set: Vec<Value>| ports.iter().map(|p| p.name.clone()).zip(set).collect();
        Ok(Candidate { model, sets: sets.into_iter().map(named).collect() })
    }
    /// The main graph.
    pub(crate) fn graph(&self) -> &GraphProto {
        static NONE: std::sync::OnceLock<GraphProto> = std::sync::OnceLock::new();
        self.model.graph.as_ref().unwrap_or_else(|| NONE.get_or_init(GraphProto::default))
    }
    /// The main graph, to be changed.
    pub(crate) fn graph_mut(&mut self) -> &mut GraphProto {
        self.model.graph.get_or_insert_default()
    }
    /// The model's file.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.model.encode_to_vec()
    }
    /// The values of the inputs in the graph's order, for each set.
    pub(crate) fn inputs(&self) -> Vec<Vec<Value>> {
        let given: BTreeSet<&str> = self.graph().initializer.iter().map(|t| t.name.as_str()).collect();
        let ports = || self.graph().input.iter().filter(|i| !given.contains(i.name.as_str()));
        self.sets.iter().map(|s| ports().filter_map(|i| s.get(&i.name).cloned()).collect()).collect()
    }
    /// The model as the compiler imports it.
    pub(crate) fn imported(&self) -> std::result::Result<Graph, String> {
        let model = onnx::read(&self.bytes(), None, &Limits::default()).map_err(|d| d.to_string())?;
        import(&model, &Dims::default()).map_err(|d| d.to_string())
    }
    /// What the reference evaluator makes of the inputs.
    pub(crate) fn evaluated(&self, graph: &Graph) -> std::result::Result<Vec<Vec<Value>>, String> {
        self.inputs().into_iter().map(|set| Evaluator::new(graph, set)?.run()).collect()
    }
    /// Tensors that nodes of the main graph make, with their types, as far as they can be evaluated.
    pub(crate) fn values(&self) -> Values {
        let names: Vec<String> = self.graph().node.iter().flat_map(|n| n.output.clone()).filter(|n| !n.is_empty()).collect();
        let all = self.values_of(&names);
        // Where all of them cannot be had, a node refuses: those before it still can.
        all.unwrap_or_else(|| names.iter().filter_map(|n| self.values_of(std::slice::from_ref(n))).flatten().collect())
    }
    fn values_of(&self, names: &[String]) -> Option<Values> {
        let mut c = self.clone();
        c.graph_mut().output = names.iter().map(|n| ValueInfoProto { name: n.clone(), ..Default::default() }).collect();
        c.prune();
        let mut out = None;
        let done = suite::guarded(|| {
            let graph = c.imported()?;
            let sets = c.evaluated(&graph)?;
            let one = |(i, name): (usize, &String)| {
                let ty = declared(&graph, graph.body.outputs[i])?;
                let values: Option<Vec<Tensor>> = sets.iter().map(|s| s.get(i)?.as_tensor().cloned()).collect();
                Some((name.clone(), (ty, values?)))
            };
            out = Some(names.iter().enumerate().filter_map(one).collect());
            Ok(())
        });
        done.ok().and(out)
    }
    /// The candidate without these nodes. What others read of them becomes an input, or a constant; what only they read, an output.
    pub(crate) fn without(&self, range: Range<usize>, values: &Values, constant: bool) -> Option<Candidate> {
        let mut c = self.clone();
        let cut: Vec<NodeProto> = c.graph_mut().node.drain(range).collect();
        let gone: BTreeSet<&str> = cut.iter().flat_map(|n| &n.output).map(String::as_str).filter(|n| !n.is_empty()).collect();
        let kept: Vec<NodeProto> = c.graph().node.clone();
        let read: BTreeSet<&str> = kept.iter().flat_map(reads).collect();
        for name in read.iter().filter(|n| gone.contains(*n)) {
            c.replace(name, values.get(*name)?, constant)?;
        }
        let g = c.graph_mut();
        g.output.retain(|o| !gone.contains(o.name.as_str()));
        let made: BTreeSet<&str> = kept.iter().flat_map(|n| &n.output).map(String::as_str).collect();
        let lost: BTreeSet<&str> = cut.iter().flat_map(reads).filter(|n| made.contains(n) && !read.contains(n)).collect();
        for name in lost {
            if g.output.iter().all(|o| o.name != name) {
                // What cannot be evaluated, an operator that is not known say, has no type to state.
                g.output.push(output(name, &values.get(name).map_or_else(|| of_tensor(DType::F32.to_onnx(), None), |v| v.0.clone())));
            }
        }
        if g.output.is_empty() {
            return None;
        }
        c.prune();
        Some(c)
    }
    /// Gives a name that no node makes any more a value.
    pub(crate) fn replace(&mut self, name: &str, (ty, values): &Known, constant: bool) -> Option<()> {
        if constant {
            let first = values.first()?;
            if values.iter().any(|v| v != first) {
                return None;
            }
            self.graph_mut().initializer.push(tensor(name, first)?);
            return Some(());
        }
        self.graph_mut().input.push(ValueInfoProto { name: name.into(), r#type: Some(ty.clone()), ..Default::default() });
        for (set, v) in self.sets.iter_mut().zip(values) {
            set.insert(name.into(), v.clone().into());
        }
        Some(())
    }
    /// Drops nodes, inputs and constants that no output needs.
    pub(crate) fn prune(&mut self) {
        let g = self.graph_mut();
        let mut needed: BTreeSet<String> = g.output.iter().map(|o| o.name.clone()).collect();
        loop {
            let before = needed.len();
            for n in &g.node {
                if n.output.iter().any(|o| needed.contains(o)) {
                    needed.extend(reads(n).map(String::from));
                }
            }
            if needed.len() == before {
                break;
            }
        }
        g.node.retain(|n| n.output.iter().any(|o| needed.contains(o)));
        g.input.retain(|i| needed.contains(&i.name));
        g.initializer.retain(|t| needed.contains(&t.name));
        g.sparse_initializer.retain(|t| t.values.as_ref().is_some_and(|t| needed.contains(&t.name)));
        for set in &mut self.sets {
            set.retain(|name, _| needed.contains(name));
        }
    }
    /// States the types of outputs as they are, so that files of their values can be read.
    pub(crate) fn typed(mut self, results: &[Value]) -> Candidate {
        for (o, v) in self.graph_mut().output.iter_mut().zip(results) {
            if let Value::Tensor(t) = v {
                o.r#type = Some(of_tensor(t.dtype.to_onnx(), None));
            }
        }
        self
    }
}

/// The message of a tensor under a name.
pub(crate) fn tensor(name: &str, t: &Tensor) -> Option<TensorProto> {
    TensorProto::decode(write_tensor(name, t).as_slice()).ok()
}

/// The type of a tensor; `None` for extents that are not stated.
pub(crate) fn of_tensor(elem_type: i32, dims: Option<Vec<DimValue>>) -> TypeProto {
    let dim = |d| Dimension { value: Some(d), ..Default::default() };
    let shape = dims.map(|dims| TensorShapeProto { dim: dims.into_iter().map(dim).collect() });
    TypeProto { value: Some(TypeValue::TensorType(TensorType { elem_type, shape })), ..Default::default() }
}

/// The type that a value of the imported graph has, equal extents under one name; `None` where it is no tensor.
fn declared(g: &Graph, v: kiln_compiler::ir::ValueId) -> Option<TypeProto> {
    let Type::Tensor(dtype, shape) = g.ty(v) else { return None };
    let dim = |d: &kiln_compiler::ir::Dim| match (d.as_int(), d.as_sym()) {
        (Some(n), _) => DimValue::DimValue(n),
        (None, Some(s)) => DimValue::DimParam(g.symbols.get(s.0 as usize).map_or_else(|| s.0.to_string(), |s| s.name.clone())),
        (None, None) => DimValue::DimParam(d.to_string()),
    };
    Some(of_tensor(dtype.to_onnx(), Some(shape.iter().map(dim).collect())))
}

fn output(name: &str, ty: &TypeProto) -> ValueInfoProto {
    let elem = match &ty.value {
        Some(TypeValue::TensorType(t)) => t.elem_type,
        _ => 0,
    };
    ValueInfoProto { name: name.into(), r#type: Some(of_tensor(elem, None)), ..Default::default() }
}

/// The graphs in an attribute.
fn graphs(a: &AttributeProto) -> impl Iterator<Item = &GraphProto> {
    a.g.iter().map(|g| &**g).chain(&a.graphs)
}

/// The names that a node reads, those that its bodies take from the graph around them too.
pub(crate) fn reads(n: &NodeProto) -> Box<dyn Iterator<Item = &str> + '_> {
    let bodies =
        n.attribute.iter().flat_map(graphs).flat_map(|g| g.node.iter().flat_map(reads).chain(g.output.iter().map(|o| o.name.as_str())));
    Box::new(n.input.iter().map(String::as_str).chain(bodies).filter(|n| !n.is_empty()))
}
