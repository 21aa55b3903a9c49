//! The reference evaluator: every operator computed from its lowering by plain kernels. It folds constants and is the oracle of
//! rules and kernels; compiled models never call it.

use crate::ir::{Block, Dim, Fact, Graph, NodeId, Sym, Type, ValueId};
use crate::kernel::interpret;
use crate::ops::{Affine, Call, CallArg, Facts, Lowering, Op, Operand, Part};
use kiln_kernels::dtype::{DType, bf16, f16};
use kiln_kernels::entry::{self, Arg};
use kiln_kernels::host::{self, HostArgs};
use kiln_kernels::index::strides;
use kiln_kernels::value::{Tensor, Value};
use std::collections::BTreeMap;

/// Why an evaluation has no result.
pub type Failure = String;

/// A tensor of one element.
pub fn scalar(x: f64, dtype: DType) -> Tensor {
    from_f64s(&[], &[x], dtype)
}

/// A tensor of numbers given in f64, rounded to the type.
pub fn from_f64s(dims: &[usize], x: &[f64], dtype: DType) -> Tensor {
    macro_rules! go {
        ($t:ty, $f:expr) => {
            Tensor::with_dtype::<$t>(dtype, dims, &x.iter().map(|v| $f(*v)).collect::<Vec<_>>())
        };
    }
    match dtype {
        DType::F64 => Tensor::new(dims, x),
        DType::F16 => go!(f16, |v| f16::from_f32(v as f32)),
        DType::Bf16 => go!(bf16, |v| bf16::from_f32(v as f32)),
        DType::I8 => go!(i8, |v| v as i8),
        DType::I16 => go!(i16, |v| v as i16),
        DType::I32 => go!(i32, |v| v as i32),
        DType::I64 => go!(i64, |v| v as i64),
        DType::U8 => go!(u8, |v| v as u8),
        DType::U16 => go!(u16, |v| v as u16),
        DType::U32 => go!(u32, |v| v as u32),
        DType::U64 => go!(u64, |v| v as u64),
        DType::Bool => go!(u8, |v| (v != 0.0) as u8),
        DType::F32 => go!(f32, |v| v as f32),
        // Types that are only stored have no literal but zero: operators that compute refuse them.
        other => Tensor::zeros(other, dims),
    }
}

type Syms<'a> = &'a dyn Fn(Sym) -> Option<i64>;

fn closed(dims: &[Dim], syms: Syms<'_>) -> Result<Vec<usize>, Failure> {
    dims.iter().map(|d| one(d, syms)).collect()
}

fn one(d: &Dim, syms: Syms<'_>) -> Result<usize, Failure> {
    match d.eval(&|s| syms(s)) {
        Some(n) => usize::try_from(n).map_err(|_| format!("the extent {d} is {n}")),
        None => Err(format!("the extent {d} is not known")),
    }
}

/// The facts of a node of a graph.
pub fn facts<'a>(g: &'a Graph, inputs: &[Option<ValueId>], outputs: &[ValueId]) -> Facts<'a> {
    Facts {
        inputs: inputs.iter().map(|v| v.map(|v| Operand { fact: &g[v].fact, constant: g[v].constant.as_ref() })).collect(),
        outputs: outputs.iter().map(|v| &g[*v].fact).collect(),
    }
}

/// Computes one operator from operand values; `facts` may hold symbols, which `syms` resolves.
///
/// # Errors
/// An extent that is not known, or a value that the operator does not allow.
pub fn op(op: &Op, facts: &Facts<'_>, inputs: &[Option<&Value>], syms: Syms<'_>) -> Result<Vec<Value>, Failure> {
    if let Op::Host(h) = op {
        let text: Vec<&str> = h.text.iter().map(String::as_str).collect();
        return host::call(h.name, inputs, HostArgs { ints: &h.ints, text: &text }).map_err(|f| f.to_string());
    }
    let tensor = |i: usize| inputs.get(i).copied().flatten().and_then(Value::as_tensor).ok_or(format!("operand {i} is no tensor"));
    match op.lower(facts) {
        Lowering::Map(e) => {
            let dims = closed(facts.out_shape(0), syms)?;
            let operands: Vec<&Tensor> = (0..inputs.len()).map(tensor).collect::<Result<_, _>>()?;
            let steps: Vec<Vec<usize>> = operands
                .iter()
                .map(|t| {
                    let s = strides(&t.dims);
                    let skip = dims.len() - t.dims.len();
                    (0..dims.len()).map(|i| if i < skip || t.dims[i - skip] == 1 { 0 } else { s[i - skip] }).collect()
                })
                .collect();
            Ok(interpret::run(&e, &dims, &operands, &steps).into_iter().map(Value::Tensor).collect())
        }
        Lowering::View => {
            let (dims, dtype) = (closed(facts.out_shape(0), syms)?, facts.out_dtype(0));
            Ok(vec![Tensor { dims, dtype, ..tensor(0)?.clone() }.into()])
        }
        Lowering::Dims => {
            let elements = facts.outputs[0].dims.as_ref().ok_or("the contents are not known")?;
            let v: Option<Vec<i64>> = elements.iter().map(|d| d.eval(&|s| syms(s))).collect();
            let v: Vec<f64> = v.ok_or("an extent is not known")?.into_iter().map(|x| x as f64).collect();
            let dims = closed(facts.out_shape(0), syms)?;
            Ok(vec![from_f64s(&dims, &v, facts.out_dtype(0)).into()])
        }
        Lowering::Move(parts) => {
            let mut out: Vec<Tensor> = Vec::new();
            for (i, f) in facts.outputs.iter().enumerate() {
                out.push(Tensor::zeros(f.ty.dtype().unwrap_or(DType::F32), &closed(facts.out_shape(i), syms)?));
            }
            for p in &parts {
                copy_part(p, tensor(p.input)?, &mut out[p.output], syms)?;
            }
            Ok(out.into_iter().map(Value::Tensor).collect())
        }
        Lowering::Call(c) => call(&c, facts, inputs, syms),
        Lowering::Host | Lowering::Control => Err("control flow is evaluated by block; this is a bug in the compiler".into()),
    }
}

fn copy_part(p: &Part, x: &Tensor, out: &mut Tensor, syms: Syms<'_>) -> Result<(), Failure> {
    let dims = closed(&p.dims, syms)?;
    let resolve = |index: &[Affine], shape: &[usize]| -> Result<(Vec<i64>, i64), Failure> {
        let s = strides(shape);
        let (mut steps, mut start) = (vec![0i64; dims.len()], 0i64);
        for (a, s) in index.iter().zip(s) {
            start += a.start.eval(&|y| syms(y)).ok_or(format!("the index {} is not known", a.start))? * s as i64;
            if let Some((axis, step)) = a.axis {
                steps[axis] += step * s as i64;
            }
        }
        Ok((steps, start))
    };
    let (from, from_start) = resolve(&p.from, &x.dims)?;
    let (to, to_start) = resolve(&p.to, &out.dims)?;
    macro_rules! go {
        ($t:ty) => {
            kiln_kernels::copy::strided(out.slice_mut::<$t>(), &to, to_start, x.slice::<$t>(), &from, from_start, &dims)
        };
    }
    match x.dtype.size() {
        0 => kiln_kernels::copy::strided(out.strings_mut(), &to, to_start, x.as_strings(), &from, from_start, &dims),
        1 => go!(u8),
        2 => go!(u16),
        4 if from.iter().all(|s| *s == 0) && p.to.iter().all(|a| a.start.is(0)) => {
            let v = x.slice::<u32>()[from_start as usize];
            out.slice_mut::<u32>().fill(v);
        }
        4 => go!(u32),
        8 => go!(u64),
        _ => go!(u128),
    }
    Ok(())
}

fn call(c: &Call, facts: &Facts<'_>, inputs: &[Option<&Value>], syms: Syms<'_>) -> Result<Vec<Value>, Failure> {
    let mut out: Vec<Tensor> = Vec::new();
    for (i, f) in facts.outputs.iter().enumerate() {
        out.push(Tensor::zeros(f.ty.dtype().unwrap_or(DType::F32), &closed(facts.out_shape(i), syms)?));
    }
    let mut slots: Vec<Option<&mut Tensor>> = out.iter_mut().map(Some).collect();
    let tensor = |i: usize| inputs.get(i).copied().flatten().and_then(Value::as_tensor);
    let mut scratch = None;
    for a in &c.args {
        if let CallArg::Scratch(dtype, n) = a {
            scratch = Some(Tensor::zeros(*dtype, &[one(n, syms)?]));
        }
    }
    let mut scratch = scratch.as_mut();
    let mut args = Vec::new();
    for a in &c.args {
        args.push(match a {
            CallArg::Scratch(..) => scratch.take().map_or(Arg::Absent, Arg::Out),
            CallArg::In(i) => Arg::In(tensor(*i).ok_or(format!("operand {i} is missing"))?),
            CallArg::OptIn(i) => tensor(*i).map_or(Arg::Absent, Arg::In),
            CallArg::Out(i) | CallArg::OptOut(i) => slots.get_mut(*i).and_then(Option::take).map_or(Arg::Absent, Arg::Out),
            CallArg::Dims(d) => Arg::Dims(closed(d, syms)?),
            CallArg::Dim(d) => Arg::Dim(one(d, syms)?),
            CallArg::Ints(v) => Arg::Ints(v.clone()),
            CallArg::Int(v) => Arg::Int(*v),
            CallArg::Floats(v) => Arg::Floats(v.clone()),
            CallArg::Float(v) => Arg::Float(*v),
            CallArg::Bool(b) => Arg::Bool(*b),
            CallArg::Text(t) => Arg::Text(t.to_string()),
        });
    }
    let entry = entry::find(c.entry).ok_or(format!("there is no kernel {}; this is a bug in the compiler", c.entry))?;
    for (class, t) in entry.generics.iter().zip(&c.types) {
        if !class.takes(*t) {
            return Err(format!("{} does not take {t}", c.entry));
        }
    }
    (entry.run)(&c.types, &mut args).map_err(|f| f.to_string())?;
    Ok(out.into_iter().map(Value::Tensor).collect())
}

/// Runs a whole graph by reference, keeping every value.
#[derive(Debug)]
pub struct Evaluator<'a> {
    graph: &'a Graph,
    /// The values computed so far.
    pub values: BTreeMap<ValueId, Value>,
    syms: BTreeMap<Sym, i64>,
}

impl<'a> Evaluator<'a> {
    /// An evaluator of the graph with these inputs.
    ///
    /// # Errors
    /// An input of the wrong rank or extent.
    pub fn new(graph: &'a Graph, inputs: Vec<Value>) -> Result<Self, Failure> {
        let mut e = Evaluator { graph, values: BTreeMap::new(), syms: BTreeMap::new() };
        for (i, v) in graph.values.iter().enumerate() {
            if let Some(t) = &v.constant {
                e.values.insert(ValueId(i as u32), t.clone().into());
            }
        }
        for (v, x) in graph.body.inputs.iter().zip(inputs) {
            e.define(*v, x)?;
        }
        Ok(e)
    }
    /// Stores a value and binds the symbols of its type.
    fn define(&mut self, v: ValueId, x: Value) -> Result<(), Failure> {
        if let (Type::Tensor(dtype, shape), Value::Tensor(t)) = (self.graph.ty(v), &x) {
            if shape.len() != t.dims.len() || *dtype != t.dtype {
                return Err(format!("{v} is {}{:?}, expected {}", t.dtype, t.dims, self.graph.ty(v)));
            }
            for (d, n) in shape.iter().zip(&t.dims) {
                // A symbol of the inputs is bound once; a body may bind its own anew in every iteration.
                let own = d.as_sym().filter(|s| !self.syms.contains_key(s) || !self.graph.known_at_entry(&Dim::sym(*s)));
                match own {
                    Some(s) => {
                        self.syms.insert(s, *n as i64);
                    }
                    None if d.eval(&|s| self.syms.get(&s).copied()).is_some_and(|want| want != *n as i64) => {
                        return Err(format!("{v} is {}{:?}, expected {}", t.dtype, t.dims, self.graph.ty(v)));
                    }
                    None => {}
                }
            }
        }
        self.values.insert(v, x);
        Ok(())
    }
    /// Runs the model; gives its outputs.
    ///
    /// # Errors
    /// The node that failed, and why.
    pub fn run(&mut self) -> Result<Vec<Value>, Failure> {
        let g = self.graph;
        self.block(&g.body)?;
        Ok(g.body.outputs.iter().map(|v| self.values[v].clone()).collect())
    }
    fn block(&mut self, b: &Block) -> Result<(), Failure> {
        for &n in &b.nodes {
            self.node(n).map_err(|e| match self.graph[n].origins.first().and_then(|o| self.graph.origins.get(*o)) {
                Some(o) => format!("{o}: {e}"),
                None => format!("{n}: {e}"),
            })?;
        }
        Ok(())
    }
    fn node(&mut self, n: NodeId) -> Result<(), Failure> {
        let node = &self.graph[n];
        let results = match &node.op {
            Op::If(_) => {
                let cond = self.flag(node.inputs[0])?;
                let b = &node.blocks[if cond { 0 } else { 1 }];
                self.block(b)?;
                b.outputs.iter().map(|v| self.values[v].clone()).collect()
            }
            Op::Loop(l) => self.repeat(n, l.carried)?,
            op_ => {
                let inputs: Vec<Option<&Value>> = node.inputs.iter().map(|v| v.map(|v| &self.values[&v])).collect();
                op(op_, &facts(self.graph, &node.inputs, &node.outputs), &inputs, &|s| self.syms.get(&s).copied())?
            }
        };
        for (v, x) in node.outputs.clone().into_iter().zip(results) {
            self.define(v, x)?;
        }
        Ok(())
    }
    fn flag(&self, v: Option<ValueId>) -> Result<bool, Failure> {
        let t = v.and_then(|v| self.values[&v].as_tensor()).ok_or("the condition is no tensor")?;
        Ok(t.bytes().first().is_some_and(|b| *b != 0))
    }
    fn repeat(&mut self, n: NodeId, carried: usize) -> Result<Vec<Value>, Failure> {
        let node = &self.graph[n];
        let body = &node.blocks[0];
        let trips = match node.inputs[0] {
            Some(v) => self.values[&v].as_tensor().and_then(|t| t.to_i64s()).and_then(|v| v.first().copied()).ok_or("no trip count")?,
            None => i64::MAX,
        };
        let mut on = node.inputs[1].is_none() || self.flag(node.inputs[1])?;
        let mut state: Vec<Value> = node.inputs[2..].iter().flatten().map(|v| self.values[v].clone()).collect();
        let mut stacked: Vec<Vec<Value>> = vec![Vec::new(); body.outputs.len() - 1 - carried];
        let mut i = 0;
        while i < trips && on {
            self.define(body.inputs[0], Tensor::scalar(i).into())?;
            self.define(body.inputs[1], Tensor::with_dtype(DType::Bool, &[], &[on as u8]).into())?;
            for (v, x) in body.inputs[2..].iter().zip(state) {
                self.define(*v, x)?;
            }
            self.block(body)?;
            on = self.flag(Some(body.outputs[0]))?;
            state = body.outputs[1..=carried].iter().map(|v| self.values[v].clone()).collect();
            for (s, v) in stacked.iter_mut().zip(&body.outputs[1 + carried..]) {
                s.push(self.values[v].clone());
            }
            i += 1;
        }
        for (k, s) in stacked.into_iter().enumerate() {
            state.push(match s.is_empty() {
                false => host::call("concat_from_sequence", &[Some(&Value::Sequence(s))], HostArgs { ints: &[0, 1], text: &[] })
                    .map_err(|f| f.to_string())?
                    .remove(0),
                true => {
                    let fact: &Fact = &self.graph[body.outputs[1 + carried + k]].fact;
                    let mut dims = vec![0];
                    dims.extend(fact.ty.shape().unwrap_or(&[]).iter().map(|d| d.as_int().unwrap_or(0) as usize));
                    Tensor::zeros(fact.ty.dtype().unwrap_or(DType::F32), &dims).into()
                }
            });
        }
        Ok(state)
    }
}
