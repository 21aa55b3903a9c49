//! State that an instance keeps between runs: which inputs continue which outputs, and whether they grow or are replaced.

use crate::diagnostics::{Diagnostic, Diagnostics, Origin, Result, shown};
use crate::ir::{Dim, Graph, NodeId, Port, Sym, Type, ValueId};
use crate::layout::{self, Access};
use crate::ops::movement::{Append, Concat};
use crate::ops::{self, Op};
use kiln_kernels::dtype::DType;
use std::collections::{BTreeMap, BTreeSet};

/// What the user says of state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pairing {
    /// Patterns of inputs and of the outputs that continue them; a `*` in both stands for the same text.
    pub patterns: Vec<(String, String)>,
    /// How many rows a state that grows may have.
    pub capacity: Option<usize>,
}

impl Pairing {
    /// Whether the model keeps nothing.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }
    /// Whether an input of that name is kept in the instance, so that no caller gives it.
    pub fn keeps(&self, input: &str) -> bool {
        self.patterns.iter().any(|(from, _)| matched(from, input).is_some())
    }
}

/// The state of a model whose graph has the inputs and outputs of it last, in the order of `pairs`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct States {
    /// What is kept.
    pub pairs: Vec<Pair>,
    /// The most rows of what grows; 0 where nothing does.
    pub capacity: usize,
    /// Symbols that are the number of rows kept.
    pub lengths: Vec<Sym>,
    /// How many rows a run adds.
    pub grows: Dim,
    /// Bytes of all states.
    pub bytes: usize,
}

/// An input and the output that is its next value.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    /// The input's ONNX name.
    pub input: String,
    /// The output's ONNX name.
    pub output: String,
    /// The type of the elements.
    pub dtype: DType,
    /// Extents in the order of memory, with the capacity where it grows.
    pub extents: Vec<usize>,
    /// Where the state begins in the instance's memory, in bytes.
    pub at: usize,
    /// The axis of the input along which it grows, and the one of `extents`; `None` where it is replaced as a whole.
    pub grows: Option<(usize, usize)>,
}

impl Pair {
    /// Bytes at full capacity.
    pub fn bytes(&self) -> usize {
        self.extents.iter().product::<usize>() * self.dtype.size()
    }
    /// Where the elements of the input lie in memory that is `of`'s.
    pub fn access(&self, of: ValueId) -> Access {
        let extents: Vec<Dim> = self.extents.iter().map(|n| Dim::from(*n)).collect();
        let mut strides = layout::strides(&extents, layout::Layout::RowMajor);
        if let Some((axis, at)) = self.grows {
            let step = strides.remove(at);
            strides.insert(axis, step);
        }
        Access { of, start: Dim::int(0), strides }
    }
}

impl States {
    /// Stores rows of f32 that grow as another type.
    pub fn store_rows(&mut self, dtype: DType) {
        self.pairs.iter_mut().filter(|p| p.grows.is_some() && p.dtype == DType::F32).for_each(|p| p.dtype = dtype);
        self.place();
    }
    /// Places the states one behind the other.
    fn place(&mut self) {
        self.bytes = 0;
        for p in &mut self.pairs {
            p.at = self.bytes;
            self.bytes = (self.bytes + p.bytes()).next_multiple_of(ALIGN);
        }
    }
}

/// States begin at multiples of this many bytes, as buffers do.
const ALIGN: usize = 64;

/// What the `*` of a pattern stands for in a name; empty where the pattern has none and is the name.
fn matched<'n>(pattern: &str, name: &'n str) -> Option<&'n str> {
    match pattern.split_once('*') {
        Some((head, tail)) => name.strip_prefix(head)?.strip_suffix(tail),
        None => (pattern == name).then_some(""),
    }
}

/// Pairs the inputs and outputs of a graph, moves them behind the others, and makes an [`Append`] of every Concat that lets a state grow.
///
/// # Errors
/// Patterns that match nothing or leave a port without its other half, and pairs that neither have one closed shape nor are shown to grow.
pub fn pair(g: &mut Graph, asked: &Pairing) -> Result<States> {
    let mut items = Vec::new();
    let found = ports(g, asked, &mut items);
    let mut out = States { capacity: asked.capacity.unwrap_or(0), ..States::default() };
    let hidden = hidden(g);
    let mut appends = Vec::new();
    if items.is_empty() {
        for &(i, o) in &found {
            match one(g, asked, &hidden, (i, o), &mut out) {
                Ok(append) => appends.extend(append),
                Err(d) => items.push(d),
            }
        }
    }
    if items.is_empty() && appends.is_empty() && asked.capacity.is_some() {
        let what = "`capacity` is given, but no state grows: every pair has one shape";
        items.push(Diagnostic::new(what).help("leave it out"));
    }
    if !items.is_empty() {
        return Err(Diagnostics { file: String::new(), items });
    }
    for (n, axis) in appends {
        g[n].op = Append { axis }.into();
    }
    let least = g.range(&out.grows).lo.max(0);
    for s in &out.lengths {
        let range = &mut g.symbols[s.0 as usize].range;
        let most = out.capacity as i64 - least;
        if most < 0 {
            let what = format!("a capacity of {} has no room for the {least} rows of a run", out.capacity);
            return Err(Diagnostic::new(what).help("raise `capacity`").into());
        }
        // An instance begins with no rows, whatever bounds the dimension was given.
        (range.lo, range.hi) = (0, Some(most));
    }
    last(g, &found);
    Ok(out)
}

/// The pairs of input and output by position.
fn ports(g: &Graph, asked: &Pairing, items: &mut Vec<Diagnostic>) -> Vec<(usize, usize)> {
    let names = |ports: &[Port]| ops::list(&ports.iter().map(|p| shown(&p.name)).collect::<Vec<_>>());
    let mut found: Vec<(usize, usize)> = Vec::new();
    for (from, to) in &asked.patterns {
        let shape = format!("{:?} -> {:?}", shown(from), shown(to));
        let stars = [from, to].map(|p| p.matches('*').count());
        if stars[0] != stars[1] || stars[0] > 1 {
            items.push(Diagnostic::new(format!("{shape}: both patterns have one `*`, or neither has")));
            continue;
        }
        let before = items.len();
        let inputs: Vec<_> = g.inputs.iter().enumerate().filter_map(|(i, p)| Some((i, matched(from, &p.name)?))).collect();
        let outputs: Vec<_> = g.outputs.iter().enumerate().filter_map(|(o, p)| Some((o, matched(to, &p.name)?))).collect();
        if inputs.is_empty() {
            items
                .push(Diagnostic::new(format!("no input matches {:?}", shown(from))).help(format!("the inputs are: {}", names(&g.inputs))));
        }
        if outputs.is_empty() {
            items.push(
                Diagnostic::new(format!("no output matches {:?}", shown(to))).help(format!("the outputs are: {}", names(&g.outputs))),
            );
        }
        if items.len() > before {
            continue;
        }
        for (i, text) in &inputs {
            let name = shown(&g.inputs[*i].name);
            match outputs.iter().find(|(_, other)| other == text) {
                _ if found.iter().any(|(k, _)| k == i) => items.push(Diagnostic::new(format!("two patterns match the input {name:?}"))),
                Some((o, _)) if found.iter().any(|(_, k)| k == o) => {
                    items.push(Diagnostic::new(format!("two patterns match the output {:?}", shown(&g.outputs[*o].name))));
                }
                Some((o, _)) => found.push((*i, *o)),
                None => {
                    let what = format!("the input {name:?} has no output {:?} to continue it", shown(&to.replacen('*', text, 1)));
                    items.push(Diagnostic::new(what).help("the `*` of both patterns stands for the same text"));
                }
            }
        }
        for (o, text) in &outputs {
            if !inputs.iter().any(|(_, other)| other == text) {
                let (name, other) = (shown(&g.outputs[*o].name), shown(&from.replacen('*', text, 1)));
                let what = format!("the output {name:?} has no input {other:?} that it continues");
                items.push(Diagnostic::new(what).help("the `*` of both patterns stands for the same text"));
            }
        }
    }
    found
}

/// The values that bodies of control flow read from around them.
fn hidden(g: &Graph) -> BTreeSet<ValueId> {
    let mut out = BTreeSet::new();
    for n in g.live_nodes() {
        g[n].blocks.iter().for_each(|b| layout::captured(g, b, &mut out));
    }
    out
}

/// Adds a pair to the states; the node that becomes an [`Append`] with its axis, where the pair grows.
fn one(
    g: &Graph,
    asked: &Pairing,
    hidden: &BTreeSet<ValueId>,
    (i, o): (usize, usize),
    states: &mut States,
) -> std::result::Result<Option<(NodeId, usize)>, Diagnostic> {
    let (past, present) = (g.body.inputs[i], g.body.outputs[o]);
    let (input, output) = (g.inputs[i].name.clone(), g.outputs[o].name.clone());
    let both = format!("{:?} -> {:?}", shown(&input), shown(&output));
    let (Type::Tensor(dtype, from), Type::Tensor(other, to)) = (g.ty(past), g.ty(present)) else {
        return Err(Diagnostic::new(format!("{both}: state is kept of tensors of known rank, not of {}", g.ty(past))));
    };
    if dtype != other {
        return Err(Diagnostic::new(format!("{both}: the input is {dtype}, the output {other}"))
            .help("the output is the next value of the input, so both have one type"));
    }
    if *dtype == DType::Str || dtype.bits() < 8 {
        return Err(Diagnostic::new(format!("{both}: state of {dtype} is not supported")));
    }
    let closed = |d: &Dim| d.as_int().and_then(|n| usize::try_from(n).ok());
    let mut pair = Pair { input, output, dtype: *dtype, extents: vec![], at: states.bytes, grows: None };
    let mut append = None;
    if let (Some(a), true) = (from.iter().map(closed).collect::<Option<Vec<_>>>(), from == to) {
        pair.extents = a;
    } else {
        let (node, axis) = grown(g, past, present).ok_or_else(|| {
            let d = Diagnostic::new(format!(
                "{both} is no append: the output is not shown to be Concat(input, new rows) along one axis, nor are both of one closed shape"
            ));
            let d = d.note(format!("the input is {}, the output {}", g.ty(past), g.ty(present)));
            let made = g.body.nodes.iter().find(|n| g[**n].outputs.contains(&present)).and_then(|n| g[*n].origins.first());
            let d = made.and_then(|n| g.origins.get(*n)).map_or(d.clone(), |at: &Origin| d.at(at.clone()));
            d.help("a state that is replaced needs closed dimensions (`dims`, --dim); otherwise leave it among inputs and outputs")
        })?;
        let capacity = asked.capacity.ok_or_else(|| {
            Diagnostic::new(format!("{both} grows along axis {axis}, and no capacity is given"))
                .help("say how many rows it may have: `capacity = 1024`, --capacity 1024")
        })?;
        if hidden.contains(&past) || hidden.contains(&present) {
            return Err(Diagnostic::new(format!("{both} is read inside of a Loop or an If, which see no growing state"))
                .help("leave it among inputs and outputs"));
        }
        let length = from[axis].as_sym().filter(|s| g.symbols[s.0 as usize].input.is_some());
        let Some(length) = length else {
            return Err(Diagnostic::new(format!("{both}: axis {axis} of the input is closed at {}, so it cannot grow", from[axis]))
                .help("leave that dimension open; if the file closes it, export the model with a dynamic axis"));
        };
        for (k, d) in from.iter().enumerate() {
            let n = if k == axis { Some(capacity) } else { closed(d) };
            pair.extents.push(n.ok_or_else(|| {
                let name = d.as_sym().map_or(d.to_string(), |s| shown(&g.symbols[s.0 as usize].name));
                Diagnostic::new(format!("{both}: axis {k}, {name:?}, is open, and only the axis of a state that grows may be"))
                    .help(format!("close it: `dims {{ {name:?} = 1 }}`, --dim {name}=1"))
            })?);
        }
        // Rows are written one beside the other, so what comes behind the axis in memory is not empty where that is possible.
        let at = if axis + 1 == from.len() && axis > 0 { axis - 1 } else { axis };
        let rows = pair.extents.remove(axis);
        pair.extents.insert(at, rows);
        pair.grows = Some((axis, at));
        let new = to[axis].clone() - from[axis].clone();
        if !g.known_at_entry(&new) {
            return Err(Diagnostic::new(format!("{both}: how many rows a run adds is known only when it has run")));
        }
        if !states.lengths.is_empty() && new != states.grows {
            let first = states.pairs.iter().find(|p| p.grows.is_some()).map_or("", |p| &p.input);
            return Err(Diagnostic::new(format!("{both} grows by {new} rows, {:?} by {}", shown(first), states.grows))
                .help("all states that grow have one length; leave some among inputs and outputs"));
        }
        states.grows = new;
        if !states.lengths.contains(&length) {
            states.lengths.push(length);
        }
        append = Some((node, axis));
    }
    let bytes = pair.extents.iter().try_fold(dtype.size(), |a, n| a.checked_mul(*n)).filter(|n| *n < 1 << 40);
    let bytes = bytes.ok_or_else(|| Diagnostic::new(format!("{both} would take more than 1 TiB")).help("lower `capacity`"))?;
    states.bytes = (states.bytes + bytes).next_multiple_of(ALIGN);
    states.pairs.push(pair);
    Ok(append)
}

/// The Concat of the body that makes `present` of `past` and new rows, and its axis.
fn grown(g: &Graph, past: ValueId, present: ValueId) -> Option<(NodeId, usize)> {
    let n = *g.body.nodes.iter().find(|n| g[**n].outputs.contains(&present))?;
    let Op::Concat(Concat { axis }) = g[n].op else { return None };
    let (first, new) = g[n].inputs.split_first()?;
    (*first == Some(past) && !new.is_empty() && !new.contains(first)).then_some((n, axis))
}

/// Moves the pairs behind the other inputs and outputs.
fn last(g: &mut Graph, pairs: &[(usize, usize)]) {
    let order =
        |count: usize, state: Vec<usize>| -> Vec<usize> { (0..count).filter(|i| !state.contains(i)).chain(state.clone()).collect() };
    let inputs = order(g.inputs.len(), pairs.iter().map(|p| p.0).collect());
    let outputs = order(g.outputs.len(), pairs.iter().map(|p| p.1).collect());
    g.body.inputs = inputs.iter().map(|i| g.body.inputs[*i]).collect();
    g.inputs = inputs.iter().map(|i| g.inputs[*i].clone()).collect();
    g.body.outputs = outputs.iter().map(|o| g.body.outputs[*o]).collect();
    g.outputs = outputs.iter().map(|o| g.outputs[*o].clone()).collect();
    let at: BTreeMap<usize, usize> = inputs.iter().enumerate().map(|(new, old)| (*old, new)).collect();
    for s in g.symbols.iter_mut().filter_map(|s| s.input.as_mut()) {
        s.0 = at.get(&s.0).copied().unwrap_or(s.0);
    }
}
