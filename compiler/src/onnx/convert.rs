//! Messages to a `Model`: tensors decoded, attributes by their kind, names used once, everything that is wrong reported together.

use super::external::Resolver;
use super::limits::{self, Limits};
use super::proto::{
    AttributeProto, DimValue, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto,
    TypeProto, TypeValue, ValueInfoProto, attribute_type as kinds,
};
use super::source::Source;
use super::tensor::{self, Decoder, quoted};
use super::{Attribute, DimInfo, Function, Graph, Model, Node, TypeInfo, ValueInfo, hints};
use crate::diagnostics::{Diagnostic, Diagnostics, Origin, Result, shown};
use kiln_kernels::value::Tensor;
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

/// Newest version of the file format that is understood.
const NEWEST_IR: i64 = 14;
/// Findings after which reading stops.
const ENOUGH: usize = 50;

/// Decodes one message from a whole file.
///
/// # Errors
/// The reader failed, or the bytes are not that message: with the position reached and, where it can be told, what the file seems to be.
pub(super) fn decode<M: Message + Default>(source: &mut Source<impl Read>, wanted: &str) -> Result<M> {
    let mut message = M::default();
    let result = message.merge(&mut *source);
    if let Some(e) = source.failure() {
        return Err(Diagnostic::new(format!("reading failed at byte {} of {}: {e}", source.position(), source.len())).into());
    }
    result.map(|()| message).map_err(|e| {
        let text = e.to_string();
        let reason = text.strip_prefix("failed to decode Protobuf message: ").unwrap_or(&text);
        if reason.ends_with("recursion limit reached") {
            let message =
                format!("messages are nested too deep at byte {} of {}: the limit is 100 levels", source.position(), source.len());
            return Diagnostic::new(message).help("graphs may be nested about 30 deep").into();
        }
        // The path of a failure deep inside repeats itself; its ends say enough.
        let path: Vec<&str> = reason.split(": ").collect();
        let reason = match &path[..] {
            [first, .., field, last] if path.len() > 4 => format!("{first} … {field}: {last}"),
            _ => path.join(": "),
        };
        not_onnx(source, wanted, &format!("byte {} of {}: {reason}", source.position(), source.len())).into()
    })
}

fn not_onnx(source: &Source<impl Read>, wanted: &str, why: &str) -> Diagnostic {
    match hints::hint(source.head()) {
        Some((what, help)) => Diagnostic::new(format!("not {wanted}: it looks like {what}")).note(why).help(help),
        None => Diagnostic::new(format!("not {wanted}: {why}")),
    }
}

/// Reads a model.
pub(super) fn model(source: &mut Source<impl Read>, external: Resolver, limits: &Limits) -> Result<Model> {
    let mut proto: ModelProto = decode(source, "an ONNX model")?;
    let Some(graph) = proto.graph.take() else { return Err(not_onnx(source, "an ONNX model", "it holds no graph").into()) };
    proto.graph = Some(graph);
    let found = limits::check_model(&proto, limits);
    if !found.is_empty() {
        return Err(Diagnostics { file: String::new(), items: found });
    }
    let mut reader = Reader {
        tensors: Decoder::new(limits, external, source.take_large()),
        opsets: BTreeMap::new(),
        path: Vec::new(),
        found: Vec::new(),
    };
    match proto.ir_version {
        ..=0 => reader.report(Diagnostic::new("the model states no IR version").note("its field ir_version is missing or not positive")),
        1..=NEWEST_IR => {}
        newer => reader.report(
            Diagnostic::new(format!("the model has IR version {newer}, the newest one understood is {NEWEST_IR}"))
                .help("export it with a version of ONNX up to 1.23"),
        ),
    }
    let mut opsets = reader.opsets(proto.opset_import);
    if opsets.is_empty() {
        match proto.ir_version {
            // Before IR version 3 nothing was imported: operator set 1 was meant.
            ..3 => {
                opsets.insert(String::new(), 1);
            }
            _ => reader.report(Diagnostic::new("the model imports no operator set")),
        }
    }
    reader.opsets.clone_from(&opsets);
    let graph = reader.graph(proto.graph.unwrap_or_default());
    let mut functions = Vec::new();
    let mut ids = BTreeSet::new();
    for function in proto.functions {
        let function = reader.function(function);
        if !ids.insert((function.domain.clone(), function.name.clone(), function.overload.clone())) {
            reader.report(Diagnostic::new(format!("the function \"{}\" is defined twice", shown(&function.name))));
        }
        functions.push(function);
    }
    if !reader.found.is_empty() {
        return Err(Diagnostics { file: String::new(), items: reader.found });
    }
    Ok(Model {
        ir_version: proto.ir_version,
        opsets,
        graph,
        functions,
        data_files: reader.tensors.external.into_files(),
        producer: [proto.producer_name, proto.producer_version].join(" ").trim().to_string(),
        metadata: proto.metadata_props.into_iter().map(|e| (e.key, e.value)).collect(),
    })
}

struct Reader {
    tensors: Decoder,
    /// Operator sets of the graph or function being read, for origins.
    opsets: BTreeMap<String, i64>,
    /// The functions, nodes and attributes around the graph being read.
    path: Vec<String>,
    found: Vec<Diagnostic>,
}

impl Reader {
    fn report(&mut self, mut finding: Diagnostic) {
        if self.found.len() < ENOUGH {
            finding.notes.extend(self.path.iter().rev().map(|place| format!("inside {place}")));
            self.found.push(finding);
        } else if self.found.len() == ENOUGH {
            self.found.push(Diagnostic::new("and more; reading stopped here"));
        }
    }
    fn full(&self) -> bool {
        self.found.len() > ENOUGH
    }
    fn twice<'a>(&mut self, what: &str, names: impl IntoIterator<Item = &'a String>) {
        let mut seen = BTreeSet::new();
        for name in names {
            if !name.is_empty() && !seen.insert(name) {
                self.report(Diagnostic::new(format!("{what} \"{}\" occurs twice", shown(name))));
            }
        }
    }

    fn opsets(&mut self, imports: Vec<OperatorSetIdProto>) -> BTreeMap<String, i64> {
        let mut out = BTreeMap::new();
        for OperatorSetIdProto { domain, version } in imports {
            let domain = plain_domain(domain);
            let other = out.insert(domain.clone(), version);
            if other.is_some_and(|other| other != version) {
                let shown = if domain.is_empty() { "ai.onnx".to_string() } else { shown(&domain) };
                self.report(Diagnostic::new(format!("the domain {shown} is imported at two versions")));
            }
        }
        out
    }

    fn graph(&mut self, proto: GraphProto) -> Graph {
        self.twice("the graph's input", proto.input.iter().map(|v| &v.name));
        let sparse = proto.sparse_initializer.iter().filter_map(|s| s.values.as_ref());
        self.twice("the initializer", proto.initializer.iter().chain(sparse).map(|t| &t.name));
        let made: BTreeSet<&String> = proto.node.iter().flat_map(|n| &n.output).filter(|n| !n.is_empty()).collect();
        let given = proto.input.iter().map(|v| &v.name).chain(proto.initializer.iter().map(|t| &t.name));
        for name in given.filter(|n| made.contains(n)).collect::<BTreeSet<_>>() {
            self.report(Diagnostic::new(format!("the input or initializer \"{}\" is also the output of a node", shown(name))));
        }
        self.twice("the output of a node", proto.node.iter().flat_map(|n| &n.output));
        let mut graph = Graph { name: proto.name, ..Graph::default() };
        for t in proto.initializer {
            let name = t.name.clone();
            if name.is_empty() {
                self.report(Diagnostic::new("an initializer has no name"));
            }
            if let Some(t) = self.tensor(t, "initializer", None) {
                graph.initializers.push((name, t));
            }
        }
        for s in proto.sparse_initializer {
            let name = s.values.as_ref().map(|v| v.name.clone()).unwrap_or_default();
            match self.tensors.sparse(s) {
                Ok(t) => graph.initializers.push((name, t)),
                Err(e) => self.report(Diagnostic::new(format!("sparse initializer, {}: {e}", quoted(&name)))),
            }
        }
        graph.inputs = self.values(proto.input);
        graph.outputs = self.values(proto.output);
        graph.value_info = self.values(proto.value_info);
        graph.nodes = self.nodes(proto.node);
        graph
    }

    fn function(&mut self, proto: FunctionProto) -> Function {
        self.path.push(format!("function \"{}\"", shown(&proto.name)));
        let opsets = self.opsets(proto.opset_import);
        let outer = std::mem::replace(&mut self.opsets, opsets);
        self.twice("the function's input", &proto.input);
        self.twice("the output of a node", proto.node.iter().flat_map(|n| &n.output));
        self.twice("the function's attribute", proto.attribute.iter().chain(proto.attribute_proto.iter().map(|a| &a.name)));
        let defaults = self.attributes(proto.attribute_proto, None);
        let value_info = self.values(proto.value_info);
        let nodes = self.nodes(proto.node);
        self.path.pop();
        Function {
            domain: plain_domain(proto.domain),
            name: proto.name,
            overload: proto.overload,
            inputs: proto.input,
            outputs: proto.output,
            attributes: proto.attribute,
            defaults,
            opsets: std::mem::replace(&mut self.opsets, outer),
            nodes,
            value_info,
        }
    }

    fn nodes(&mut self, protos: Vec<NodeProto>) -> Vec<Node> {
        let mut nodes = Vec::with_capacity(protos.len());
        for (index, proto) in protos.into_iter().enumerate() {
            if self.full() {
                break;
            }
            let domain = plain_domain(proto.domain);
            let origin = Origin {
                node: index,
                name: proto.name.clone(),
                op_type: proto.op_type.clone(),
                opset: self.opsets.get(&domain).copied().unwrap_or(0),
                domain: domain.clone(),
            };
            let mut names = BTreeSet::new();
            for attribute in &proto.attribute {
                if !names.insert(&attribute.name) {
                    let message = format!("the attribute \"{}\" occurs twice", shown(&attribute.name));
                    self.report(Diagnostic::new(message).at(origin.clone()));
                }
            }
            nodes.push(Node {
                attributes: self.attributes(proto.attribute, Some(&origin)),
                op_type: proto.op_type,
                domain,
                overload: proto.overload,
                name: proto.name,
                inputs: proto.input,
                outputs: proto.output,
            });
        }
        nodes
    }

    fn attributes(&mut self, protos: Vec<AttributeProto>, origin: Option<&Origin>) -> Vec<(String, Attribute)> {
        let mut out = Vec::with_capacity(protos.len());
        for proto in protos {
            let name = proto.name.clone();
            match self.attribute(proto, origin) {
                Ok(Some(attribute)) => out.push((name, attribute)),
                Ok(None) => {}
                Err(e) => self.report_at(format!("attribute \"{}\": {e}", shown(&name)), origin),
            }
        }
        out
    }

    /// The attribute; `None` when something inside it was reported.
    fn attribute(&mut self, mut p: AttributeProto, origin: Option<&Origin>) -> std::result::Result<Option<Attribute>, String> {
        if !p.ref_attr_name.is_empty() {
            return Ok(Some(Attribute::Ref(p.ref_attr_name)));
        }
        let place = format!("attribute \"{}\"", shown(&p.name));
        let kind = if p.kind == kinds::UNDEFINED { implied(&p)? } else { p.kind };
        let absent = |what: &str| Err(format!("it is said to be a {what} and holds none"));
        // Writers of proto3 leave a zero out, so a missing number is 0.
        Ok(Some(match kind {
            kinds::FLOAT => Attribute::Float(p.f.unwrap_or(0.0)),
            kinds::INT => Attribute::Int(p.i.unwrap_or(0)),
            kinds::STRING => Attribute::String(p.s.unwrap_or_default()),
            kinds::FLOATS => Attribute::Floats(p.floats),
            kinds::INTS => Attribute::Ints(p.ints),
            kinds::STRINGS => Attribute::Strings(p.strings),
            kinds::TENSOR => match p.t.take() {
                Some(t) => return Ok(self.tensor(*t, &place, origin).map(Attribute::Tensor)),
                None => return absent("tensor"),
            },
            kinds::TENSORS => {
                let tensors: Vec<_> = p.tensors.into_iter().filter_map(|t| self.tensor(t, &place, origin)).collect();
                Attribute::Tensors(tensors)
            }
            kinds::SPARSE_TENSOR => match p.sparse_tensor.take() {
                Some(s) => Attribute::SparseTensor(self.tensors.sparse(*s)?),
                None => return absent("sparse tensor"),
            },
            kinds::SPARSE_TENSORS => Attribute::SparseTensors(
                p.sparse_tensors.into_iter().map(|s| self.tensors.sparse(s)).collect::<std::result::Result<_, _>>()?,
            ),
            kinds::GRAPH => match p.g.take() {
                Some(g) => Attribute::Graph(Box::new(self.inner(*g, &place, origin))),
                None => return absent("graph"),
            },
            kinds::GRAPHS => Attribute::Graphs(p.graphs.into_iter().map(|g| self.inner(g, &place, origin)).collect()),
            kinds::TYPE_PROTO => match p.tp.take() {
                Some(t) => Attribute::Type(type_info(*t)?.ok_or("it is a type that says nothing")?),
                None => return absent("type"),
            },
            kinds::TYPE_PROTOS => {
                let types = p.type_protos.into_iter().map(|t| type_info(t)?.ok_or("one of its types says nothing".to_string()));
                Attribute::Types(types.collect::<std::result::Result<_, _>>()?)
            }
            other => return Err(format!("it is of the unknown kind {other}")),
        }))
    }

    fn inner(&mut self, graph: GraphProto, place: &str, origin: Option<&Origin>) -> Graph {
        let of = origin.map(|o| format!(" of {o}")).unwrap_or_default();
        self.path.push(format!("{place}{of}"));
        let graph = self.graph(graph);
        self.path.pop();
        graph
    }

    fn tensor(&mut self, proto: TensorProto, place: &str, origin: Option<&Origin>) -> Option<Tensor> {
        if self.full() {
            return None;
        }
        let name = quoted(&proto.name);
        self.tensors.tensor(proto).map_err(|e| self.report_at(format!("{place}, {name}: {e}"), origin)).ok()
    }

    fn report_at(&mut self, message: String, origin: Option<&Origin>) {
        let finding = Diagnostic::new(message);
        self.report(match origin {
            Some(origin) => finding.at(origin.clone()),
            None => finding,
        });
    }

    fn values(&mut self, protos: Vec<ValueInfoProto>) -> Vec<ValueInfo> {
        let mut out = Vec::with_capacity(protos.len());
        for ValueInfoProto { name, r#type, .. } in protos {
            match r#type.map(type_info).transpose() {
                Ok(ty) => out.push(ValueInfo { name, ty: ty.flatten() }),
                Err(e) => self.report(Diagnostic::new(format!("the type of \"{}\": {e}", shown(&name)))),
            }
        }
        out
    }
}

/// The kind of an attribute that does not state it, as files of IR version 1 do: the one value it has.
fn implied(p: &AttributeProto) -> std::result::Result<i32, String> {
    let present = [
        (p.f.is_some(), kinds::FLOAT),
        (p.i.is_some(), kinds::INT),
        (p.s.is_some(), kinds::STRING),
        (p.t.is_some(), kinds::TENSOR),
        (p.g.is_some(), kinds::GRAPH),
        (p.sparse_tensor.is_some(), kinds::SPARSE_TENSOR),
        (p.tp.is_some(), kinds::TYPE_PROTO),
        (!p.floats.is_empty(), kinds::FLOATS),
        (!p.ints.is_empty(), kinds::INTS),
        (!p.strings.is_empty(), kinds::STRINGS),
        (!p.tensors.is_empty(), kinds::TENSORS),
        (!p.graphs.is_empty(), kinds::GRAPHS),
        (!p.sparse_tensors.is_empty(), kinds::SPARSE_TENSORS),
        (!p.type_protos.is_empty(), kinds::TYPE_PROTOS),
    ];
    let mut kinds = present.into_iter().filter_map(|(is, kind)| is.then_some(kind));
    match (kinds.next(), kinds.next()) {
        (Some(kind), None) => Ok(kind),
        (None, _) => Err("it has no value".to_string()),
        (Some(_), Some(_)) => Err("it has several values and does not say which one counts".to_string()),
    }
}

fn plain_domain(domain: String) -> String {
    if domain == "ai.onnx" { String::new() } else { domain }
}

/// The type of a message; `None` where the message says nothing.
fn type_info(proto: TypeProto) -> std::result::Result<Option<TypeInfo>, String> {
    let element = |t: Option<Box<TypeProto>>, what: &str| match t.map(|t| type_info(*t)).transpose()?.flatten() {
        Some(ty) => Ok(Box::new(ty)),
        None => Err(format!("it is {what} of nothing stated")),
    };
    Ok(Some(match proto.value {
        None => return Ok(None),
        Some(TypeValue::TensorType(t)) if t.elem_type == 0 => return Ok(None),
        Some(TypeValue::TensorType(t)) => TypeInfo::Tensor { dtype: tensor::dtype(t.elem_type)?, shape: t.shape.map(dims) },
        Some(TypeValue::SparseTensorType(t)) => TypeInfo::SparseTensor { dtype: tensor::dtype(t.elem_type)?, shape: t.shape.map(dims) },
        Some(TypeValue::SequenceType(t)) => TypeInfo::Sequence(element(t.elem_type, "a sequence")?),
        Some(TypeValue::OptionalType(t)) => TypeInfo::Optional(element(t.elem_type, "an optional")?),
        Some(TypeValue::MapType(t)) => TypeInfo::Map { key: tensor::dtype(t.key_type)?, value: element(t.value_type, "a map")? },
        Some(TypeValue::OpaqueType(t)) => TypeInfo::Opaque { domain: t.domain, name: t.name },
    }))
}

fn dims(shape: TensorShapeProto) -> Vec<DimInfo> {
    let dim = |value| match value {
        Some(DimValue::DimValue(n)) if n >= 0 => DimInfo::Known(n),
        Some(DimValue::DimParam(name)) if !name.is_empty() => DimInfo::Named(name),
        _ => DimInfo::Unknown,
    };
    shape.dim.into_iter().map(|d| dim(d.value)).collect()
}
